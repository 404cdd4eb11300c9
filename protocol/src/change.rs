//! What a transaction did, row by row.

use crate::clock::{Hlc, Stamp};
use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Origin, Seq};
use crate::merged::Part;
use crate::schema::{COLUMNS_MAX, ColumnId, TableDef, TableId};
use crate::value::{RowKey, VALUE_BYTES_MAX, Value};

pub use crate::limits::PIECE_BYTES_MAX;
/// Tables one transaction may describe.
const DESCRIBES_MAX: u64 = 1 << 16;
/// Longest name of an [`Actor`], in bytes.
pub const ACTOR_BYTES_MAX: usize = 200;

/// What happened to a row. A transaction holds at most one change per row: its net effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOp {
    /// The row exists from here on; the cells are all its columns.
    Insert,
    /// Some columns got new values; the cells are only those.
    Update,
    /// The row is gone. The cells are those of its columns that were older than the log, and in no
    /// other transaction, if the row may have to come back.
    Delete,
    /// The row is there, as it was: somebody took note of a delete that must not stand. The cells
    /// are as with a delete.
    Revive,
    /// The row is kept but shown nowhere, because another one has a value that only one may have; it
    /// comes back with a return, unless it is deleted meanwhile. The cells are as with a delete.
    Quarantine,
    /// The row that was put aside is shown again. The cells are as with a delete.
    Return,
    /// Somebody took note of a delete that must not stand, and the row has to be put aside all the same.
    /// The cells are as with a delete.
    ReviveAside,
}

impl RowOp {
    /// All of them, in the order of the numbers they are written as.
    pub const ALL: [Self; 7] = [
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Revive,
        Self::Quarantine,
        Self::Return,
        Self::ReviveAside,
    ];

    /// The stamp of a change's cells, given that of its transaction. What a row had before there
    /// was a log is older than all that is in it.
    pub fn cells_at(self, stamp: Stamp) -> Stamp {
        match self {
            Self::Insert | Self::Update => stamp,
            Self::Delete | Self::Revive | Self::Quarantine | Self::Return | Self::ReviveAside => {
                stamp.before_the_log()
            }
        }
    }
}

/// One column's new value. Key columns are never cells: the key does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Which column.
    pub column: ColumnId,
    /// Its new value.
    pub value: Value,
}

/// One row's net change in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// Which table.
    pub table: TableId,
    /// Which row.
    pub key: RowKey,
    /// What happened.
    pub op: RowOp,
    /// New values in column order.
    pub cells: Vec<Cell>,
}

impl RowChange {
    /// Roughly the bytes it takes, for limits.
    pub fn size_bytes(&self) -> usize {
        let cells: usize = self.cells.iter().map(|cell| 4 + cell.value.heap_bytes()).sum();
        8 + self.key.as_bytes().len() + cells
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        out.varint(u64::from(self.table.0));
        let tag = RowOp::ALL.iter().position(|op| *op == self.op);
        out.u8(tag.unwrap_or_default() as u8);
        out.bytes(self.key.as_bytes());
        out.varint(self.cells.len() as u64);
        let mut last = 0;
        for cell in &self.cells {
            out.varint(u64::from(cell.column.0 - last));
            last = cell.column.0;
            cell.value.encode(out);
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or when cells are out of order.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let table = TableId(from.u32()?);
        let tag = from.u8()?;
        let op = *RowOp::ALL
            .get(usize::from(tag))
            .ok_or(DecodeError::UnknownTag { what: "row change", tag })?;
        let key = RowKey::from_bytes(from.bytes(VALUE_BYTES_MAX)?);
        key.values()?;
        let count = from.count(COLUMNS_MAX)?;
        let mut cells = Vec::with_capacity(count);
        let mut last: Option<u16> = None;
        for _ in 0..count {
            let step = from.u16()?;
            let column = match last {
                None => step,
                Some(_) if step == 0 => return Err(DecodeError::NotCanonical("cells")),
                Some(last) => last.checked_add(step).ok_or(DecodeError::BadNumber)?,
            };
            last = Some(column);
            let value = Value::decode(from)?;
            if !may_have(op, &value) {
                return Err(DecodeError::NotCanonical("merged column of another change"));
            }
            cells.push(Cell { column: ColumnId(column), value });
        }
        Ok(Self { table, key, op, cells })
    }
}

/// What was done to a merged column is an update, or an insert that adds up with others. With what it
/// was born tells who says that a row is there or shown, or is not.
fn may_have(op: RowOp, value: &Value) -> bool {
    match value {
        Value::Share(share) => match op {
            RowOp::Insert => share.birth.is_some() && matches!(share.part, Part::Sum(_)),
            op => op == RowOp::Update,
        },
        Value::Base(_) => !matches!(op, RowOp::Insert | RowOp::Update),
        _ => true,
    }
}

/// Part of the content of a [`LongValue`](crate::value::LongValue). It stands alone in a fragment, before the fragment whose
/// change needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The table of the row, which decides the replication set.
    pub table: TableId,
    /// The hash of the whole value.
    pub hash: [u8; 32],
    /// Its place among the value's pieces, from 0.
    pub index: u32,
    /// The text, cut between characters.
    pub text: Box<str>,
}

impl Piece {
    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        out.varint(u64::from(self.table.0));
        out.raw(&self.hash);
        out.varint(u64::from(self.index));
        out.text(&self.text);
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over [`PIECE_BYTES_MAX`] or not UTF-8.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (table, hash, index) = (TableId(from.u32()?), from.array()?, from.u32()?);
        Ok(Self { table, hash, index, text: from.text(PIECE_BYTES_MAX)?.into() })
    }
}

/// A table's description as it enters an origin's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Describe {
    /// The number later changes use.
    pub table: TableId,
    /// What it stands for from here on.
    pub def: TableDef,
}

/// Whether a log entry is a whole transaction of the application. A transaction too large for the
/// memory of those who carry it is logged as several entries that follow on each other. They share
/// one clock reading, no two of them change the same row, and they become visible together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// It is one by itself.
    #[default]
    Whole,
    /// The entry after it belongs to the same transaction.
    More,
    /// It ends a transaction that earlier entries began.
    Last,
    /// The entries of its unit become visible together: what later ones overwrote is left out of earlier
    /// ones, see [`crate::compact`].
    Compacted,
}

impl Fragment {
    /// The number it has in stored and travelling forms.
    pub fn number(self) -> u8 {
        match self {
            Self::Whole => 0,
            Self::More => 1,
            Self::Last => 2,
            Self::Compacted => 3,
        }
    }

    /// Whether it is a part of a transaction, and a unit by itself.
    pub fn is_part(self) -> bool {
        matches!(self, Self::More | Self::Last)
    }

    /// The fragment of a number.
    ///
    /// # Errors
    /// Fails when the number has no meaning.
    pub fn from_number(number: u8) -> Result<Self, DecodeError> {
        match number {
            0 => Ok(Self::Whole),
            1 => Ok(Self::More),
            2 => Ok(Self::Last),
            3 => Ok(Self::Compacted),
            tag => Err(DecodeError::UnknownTag { what: "fragment", tag }),
        }
    }
}

/// On whose behalf a transaction was made, as the application named it: 1 to [`ACTOR_BYTES_MAX`]
/// bytes without control characters. Nobody proves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Actor(Box<str>);

impl Actor {
    /// The actor of this name; `None` if nobody may have it.
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=ACTOR_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control);
        fits.then(|| Self(name.into()))
    }

    /// The actor that a text means which nobody looked at: without its control characters, and cut
    /// where it is too long. `None` if nothing is left.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut name = String::new();
        for c in text.chars().filter(|c| !c.is_control()) {
            if name.len() + c.len_utf8() > ACTOR_BYTES_MAX {
                break;
            }
            name.push(c);
        }
        Self::new(&name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Writes what stands before a transaction's changes, wherever it is kept: descriptions and actor.
/// Their count is doubled, and odd where an actor follows, so that none costs nothing.
pub fn encode_head(describes: &[Describe], actor: Option<&Actor>, out: &mut Writer) {
    out.varint((describes.len() as u64) << 1 | u64::from(actor.is_some()));
    for describe in describes {
        out.varint(u64::from(describe.table.0));
        describe.def.encode(out);
    }
    if let Some(actor) = actor {
        out.text(actor.as_str());
    }
}

/// Reads what [`encode_head`] wrote.
///
/// # Errors
/// Fails when cut short, over a limit, or when nobody may have the actor's name.
pub fn decode_head(from: &mut Reader<'_>) -> Result<(Vec<Describe>, Option<Actor>), DecodeError> {
    let head = from.varint()?;
    let limit = DESCRIBES_MAX.min(from.rest().len() as u64);
    if head >> 1 > limit {
        return Err(DecodeError::TooLong { found: head >> 1, limit });
    }
    let describes = (0..head >> 1)
        .map(|_| Ok(Describe { table: TableId(from.u32()?), def: TableDef::decode(from)? }))
        .collect::<Result<_, DecodeError>>()?;
    let actor = match head & 1 {
        0 => None,
        _ => {
            let actor = Actor::new(from.text(ACTOR_BYTES_MAX)?);
            Some(actor.ok_or(DecodeError::NotCanonical("actor"))?)
        }
    };
    Ok((describes, actor))
}

/// One committed transaction of one origin, or a fragment of a large one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its place in the origin's log.
    pub seq: Seq,
    /// Its clock reading.
    pub hlc: Hlc,
    /// On whose behalf, if the application said so.
    pub actor: Option<Actor>,
    /// Tables described for the first time, or anew, before the changes.
    pub describes: Vec<Describe>,
    /// Net changes, at most one per row.
    pub changes: Vec<RowChange>,
    /// Content of a long value, instead of changes.
    pub piece: Option<Box<Piece>>,
}

impl Transaction {
    /// Its stamp as a transaction of `origin`.
    pub fn stamp(&self, origin: Origin) -> Stamp {
        Stamp::new(self.hlc, origin, self.seq)
    }

    /// Roughly the bytes it takes, for limits.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + self.describes.len() * 200
            + self.actor.as_ref().map_or(0, |actor| actor.as_str().len())
            + self.piece.as_ref().map_or(0, |piece| piece.text.len())
            + self.changes.iter().map(RowChange::size_bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decimal::Decimal;
    use crate::golden;
    use crate::merged::{End, Share};

    fn change(op: RowOp, cells: Vec<(u16, Value)>) -> RowChange {
        let cell = |(column, value)| Cell { column: ColumnId(column), value };
        let cells = cells.into_iter().map(cell).collect();
        RowChange { table: TableId(3), key: RowKey::new(&[Value::Int(-4)]), op, cells }
    }

    fn share(birth: Option<Stamp>) -> Value {
        let part = Part::Sum(Decimal::parse("10").expect("a number"));
        Value::Share(Box::new(Share { birth, part }))
    }

    fn bytes(change: &RowChange) -> Vec<u8> {
        let mut out = Writer::new();
        change.encode(&mut out);
        out.into_bytes()
    }

    #[test]
    fn a_row_that_comes_back_is_as_recorded() {
        let old = || vec![(1, Value::Text("north".into())), (4, Value::Base("10".into()))];
        let changes = [
            change(RowOp::Revive, Vec::new()),
            change(RowOp::Revive, old()),
            change(RowOp::Delete, old()),
        ];
        let all: Vec<u8> = changes.iter().flat_map(bytes).collect();
        golden::check("row-revive-v1", &all);
        let mut from = Reader::new(&all);
        for change in changes {
            assert_eq!(RowChange::decode(&mut from), Ok(change));
        }
    }

    #[test]
    fn a_row_that_is_put_aside_is_as_recorded() {
        let old = vec![(1, Value::Text("north".into())), (4, Value::Base("10".into()))];
        let changes = [
            change(RowOp::Quarantine, Vec::new()),
            change(RowOp::Quarantine, old.clone()),
            change(RowOp::Return, Vec::new()),
            change(RowOp::Return, old),
        ];
        let all: Vec<u8> = changes.iter().flat_map(bytes).collect();
        golden::check("row-quarantine-v1", &all);
        let mut from = Reader::new(&all);
        for change in changes {
            assert_eq!(RowChange::decode(&mut from), Ok(change));
        }
    }

    #[test]
    fn an_insert_that_adds_up_is_as_recorded() {
        let cells = vec![(1, Value::Text("north".into())), (4, share(Some(Stamp::least())))];
        let change = change(RowOp::Insert, cells);
        let all = bytes(&change);
        golden::check("row-tally-v1", &all);
        assert_eq!(RowChange::decode(&mut Reader::new(&all)), Ok(change));
    }

    #[test]
    fn merged_columns_travel_as_what_they_are() {
        let reads = |op, value: &Value| {
            let bytes = bytes(&change(op, vec![(1, value.clone())]));
            RowChange::decode(&mut Reader::new(&bytes)).is_ok()
        };
        let all = RowOp::ALL;
        let known = share(None);
        assert_eq!(
            all.map(|op| reads(op, &known)),
            [false, true, false, false, false, false, false]
        );
        let begun = share(Some(Stamp::least()));
        assert_eq!(
            all.map(|op| reads(op, &begun)),
            [true, true, false, false, false, false, false]
        );
        let part = Part::Extreme(End::Max, "10".into());
        let other = Value::Share(Box::new(Share { birth: Some(Stamp::least()), part }));
        assert_eq!(
            all.map(|op| reads(op, &other)),
            [false, true, false, false, false, false, false]
        );
        let base = Value::Base("10".into());
        assert_eq!(all.map(|op| reads(op, &base)), [false, false, true, true, true, true, true]);
    }
}
