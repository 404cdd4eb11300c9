//! What a site does by itself in the transaction that shows somebody else's changes.
//!
//! A foreign key or a rule of the table may ask for more than the foreign changes say: a parent that
//! is deleted stays because a child needs it. Whoever applies them then writes the remedy in the same
//! transaction, and it is a change of its own: stamped, logged, sent to the others. Rows that nobody
//! else wrote speak for themselves. For the others, and for rows that come back, the marker says what
//! was done.

use crate::change::RowOp;
use crate::codec::{DecodeError, Reader, Writer};
use crate::dictionary::RowId;
use crate::schema::{COLUMNS_MAX, ColumnId, TableId};
use crate::value::{RowKey, VALUE_BYTES_MAX};

/// One apply transaction does this to at most so many rows.
const EMISSIONS_MAX: usize = 1 << 24;

/// What this site does to a row. The transaction has written the row, so that the WAL shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Emission {
    /// The row, under this site's numbers.
    pub row: RowId,
    /// What is done to it.
    pub remedy: Remedy,
}

/// What is done to a row so that others' changes may stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// It stays, or comes back, as it was.
    Revive,
    /// It goes.
    Delete,
    /// It is kept, but shown nowhere: another row has a value that only one may have.
    Quarantine,
    /// It was put aside and is shown again.
    Return,
    /// It is not deleted after all, but put aside.
    ReviveAside,
    /// These columns get the values that the row shows, in column order.
    Update(Vec<ColumnId>),
}

impl Remedy {
    /// The change that it is.
    pub fn op(&self) -> RowOp {
        match self {
            Self::Revive => RowOp::Revive,
            Self::Delete => RowOp::Delete,
            Self::Quarantine => RowOp::Quarantine,
            Self::Return => RowOp::Return,
            Self::ReviveAside => RowOp::ReviveAside,
            Self::Update(_) => RowOp::Update,
        }
    }
}

pub(super) fn encode(emitted: &[Emission], out: &mut Writer) {
    out.varint(emitted.len() as u64);
    for Emission { row, remedy } in emitted {
        out.varint(u64::from(row.table.0));
        out.bytes(row.key.as_bytes());
        match remedy {
            Remedy::Revive => out.u8(0),
            Remedy::Delete => out.u8(1),
            Remedy::Quarantine => out.u8(3),
            Remedy::Return => out.u8(4),
            Remedy::ReviveAside => out.u8(5),
            Remedy::Update(columns) => {
                out.u8(2);
                out.varint(columns.len() as u64);
                columns.iter().for_each(|column| out.varint(u64::from(column.0)));
            }
        }
    }
}

pub(super) fn decode(from: &mut Reader<'_>) -> Result<Vec<Emission>, DecodeError> {
    let emission = |from: &mut Reader<'_>| {
        let table = TableId(from.u32()?);
        let row = RowId { table, key: RowKey::from_bytes(from.bytes(VALUE_BYTES_MAX)?) };
        let remedy = match from.u8()? {
            0 => Remedy::Revive,
            1 => Remedy::Delete,
            3 => Remedy::Quarantine,
            4 => Remedy::Return,
            5 => Remedy::ReviveAside,
            2 => {
                let count = from.count(COLUMNS_MAX)?;
                Remedy::Update(
                    (0..count).map(|_| from.u16().map(ColumnId)).collect::<Result<_, _>>()?,
                )
            }
            tag => return Err(DecodeError::UnknownTag { what: "emission", tag }),
        };
        Ok(Emission { row, remedy })
    };
    (0..from.count(EMISSIONS_MAX)?).map(|_| emission(from)).collect()
}
