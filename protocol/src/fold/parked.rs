//! Changes that were set aside: what keeps each from being shown, and where it stands in the log.

use crate::change::Transaction;
use crate::codec::{DecodeError, Reader, Writer};
use crate::dictionary::{LocalChange, RowId, Unshowable};
use crate::fold::Fold;
use crate::id::{Origin, TxnId};
use crate::schema::{COLUMNS_MAX, NAME_BYTES_MAX, TableId, TableName};
use crate::value::{RowKey, VALUE_BYTES_MAX};

/// What keeps a change from being shown. It is free when that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// This site has no such replicated table.
    NoTable,
    /// The table's primary key has other columns here.
    OtherKey,
    /// The origin merges the table by other rules than this site.
    OtherRules,
    /// This site lacks columns that the change writes; the rest of it is shown.
    NoColumn,
    /// PostgreSQL refuses the row as it should be.
    Refused,
    /// A row that it references is parked itself.
    NoParent,
    /// The change contradicts its table's description.
    Malformed,
}

impl Obstacle {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::NoTable,
        Self::OtherKey,
        Self::OtherRules,
        Self::NoColumn,
        Self::Refused,
        Self::NoParent,
        Self::Malformed,
    ];

    /// Its name in answers to scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoTable => "no_table",
            Self::OtherKey => "other_key",
            Self::OtherRules => "other_rules",
            Self::NoColumn => "no_column",
            Self::Refused => "refused",
            Self::NoParent => "no_parent",
            Self::Malformed => "malformed",
        }
    }

    /// Whether the row may not be shown at all as it should be, rather than lack some columns.
    pub fn hides_row(self) -> bool {
        self != Self::NoColumn
    }

    pub(super) fn encode(self, out: &mut Writer) {
        out.u8(self as u8 + 1);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = from.u8()?;
        let known = Self::ALL.into_iter().find(|obstacle| *obstacle as u8 + 1 == tag);
        known.ok_or(DecodeError::UnknownTag { what: "obstacle", tag })
    }
}

impl From<&Unshowable> for Obstacle {
    fn from(why: &Unshowable) -> Self {
        match why {
            Unshowable::UnknownTable(_) => Self::NoTable,
            Unshowable::OtherKey(_) => Self::OtherKey,
            Unshowable::OtherRules { .. } => Self::OtherRules,
            Unshowable::Undescribed(_) | Unshowable::Malformed(_) => Self::Malformed,
        }
    }
}

/// Where a foreign change stands in its origin's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeId {
    /// The transaction it is part of.
    pub txn: TxnId,
    /// Its place among that transaction's changes, from 0.
    pub index: u32,
}

/// A change that was set aside. Its values are in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Which change.
    pub id: ChangeId,
    /// Its table, unless its origin never described it.
    pub table: Option<TableName>,
    /// The row whose clock has the change, under this site's numbers; `None` while the row has no
    /// place here.
    pub row: Option<RowId>,
    /// What keeps it.
    pub obstacle: Obstacle,
    /// Columns it writes that this site lacks.
    pub columns: Vec<String>,
    /// When it was set aside, milliseconds since 1970.
    pub since_ms: u64,
}

impl Parked {
    /// Writes what [`Parked::decode`] reads; the change's place is not part of it.
    pub fn encode(&self, out: &mut Writer) {
        let empty = TableName::new("", "");
        let table = self.table.as_ref().unwrap_or(&empty);
        out.text(&table.schema);
        out.text(&table.name);
        out.u8(u8::from(self.row.is_some()));
        if let Some(row) = &self.row {
            out.varint(u64::from(row.table.0));
            out.bytes(row.key.as_bytes());
        }
        self.obstacle.encode(out);
        out.varint(self.columns.len() as u64);
        self.columns.iter().for_each(|column| out.text(column));
        out.varint(self.since_ms);
    }

    /// Reads what is known of the change at this place.
    ///
    /// # Errors
    /// Fails when the content is cut short or not canonical.
    pub fn decode(id: ChangeId, from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (schema, name) = (from.text(NAME_BYTES_MAX)?, from.text(NAME_BYTES_MAX)?);
        let table = (!name.is_empty()).then(|| TableName::new(schema, name));
        let row = match from.u8()? {
            0 => None,
            _ => {
                let table = TableId(from.u32()?);
                Some(RowId { table, key: RowKey::from_bytes(from.bytes(VALUE_BYTES_MAX)?) })
            }
        };
        let obstacle = Obstacle::decode(from)?;
        let columns = (0..from.count(COLUMNS_MAX)?)
            .map(|_| Ok(from.text(NAME_BYTES_MAX)?.to_owned()))
            .collect::<Result<_, DecodeError>>()?;
        Ok(Self { id, table, row, obstacle, columns, since_ms: from.varint()? })
    }
}

impl Fold {
    /// Puts one change of an applied transaction under this site's numbers as they are now.
    ///
    /// # Errors
    /// Says why it has no place here.
    pub fn localize_again(
        &self,
        origin: Origin,
        transaction: &Transaction,
        index: u32,
    ) -> Result<LocalChange, Unshowable> {
        let change = usize::try_from(index).ok().and_then(|at| transaction.changes.get(at));
        let Some(change) = change else { return Err(Unshowable::Undescribed(TableId(0))) };
        let tables = self.foreign_tables.get(&origin);
        let def = tables.and_then(|tables| tables.get(&change.table));
        self.dictionary.localize(def.ok_or(Unshowable::Undescribed(change.table))?, change)
    }
}
