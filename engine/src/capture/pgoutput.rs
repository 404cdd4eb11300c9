//! Decoder of `pgoutput`, protocol version 1: one message in, one borrowing [`Message`] out.
//!
//! Pure and without allocation. Every read is checked, so whatever the bytes are, the answer is
//! a message or a [`DecodeError`]; what a message hands out lazily was walked through once while
//! decoding.

mod reader;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::long::{LONG_COLUMN, LONG_TEXT_BYTES, LongText};
use crate::postgres::lsn::Lsn;

use self::reader::Reader;
pub use self::reader::{DecodeError, Fault};

/// A transaction id as the server shows it, without epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Xid(pub u32);

/// The object id of a table. Local to one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationId(pub u32);

/// The object id of a type. Below 16384 the same everywhere, above local to one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

/// A point in time as PostgreSQL sends it: microseconds since 2000-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PgTime(pub i64);

/// Microseconds from 1970-01-01 to 2000-01-01.
const PG_EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;

impl PgTime {
    /// Microseconds since 1970-01-01 00:00 UTC, at the ends of `i64` the nearest that fits.
    #[must_use]
    pub const fn unix_micros(self) -> i64 {
        self.0.saturating_add(PG_EPOCH_UNIX_MICROS)
    }
}

impl From<SystemTime> for PgTime {
    fn from(time: SystemTime) -> Self {
        let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        let unix = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        };
        Self(unix.saturating_sub(PG_EPOCH_UNIX_MICROS))
    }
}

/// One decoded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction starts.
    Begin(Begin),
    /// The transaction's end; what came since `Begin` is committed.
    Commit(Commit),
    /// The transaction was replicated from elsewhere. Comes right after `Begin`.
    Origin(Origin<'a>),
    /// What a table looks like from here on.
    Relation(Relation<'a>),
    /// The name of a type that is not built in.
    Type(Type<'a>),
    /// A row was inserted.
    Insert(Insert<'a>),
    /// A row was updated.
    Update(Update<'a>),
    /// A row was deleted.
    Delete(Delete<'a>),
    /// Tables were emptied.
    Truncate(Truncate<'a>),
    /// A logical message (`pg_logical_emit_message`).
    Logical(Logical<'a>),
}

/// A transaction starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where the commit record starts.
    pub final_lsn: Lsn,
    /// When it was committed, by the server's clock.
    pub commit_time: PgTime,
    /// Its id.
    pub xid: Xid,
}

/// A transaction is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit record starts.
    pub commit_lsn: Lsn,
    /// Where it ends: the only position of a transaction that may be stored and confirmed.
    pub end_lsn: Lsn,
    /// When it was committed, by the server's clock.
    pub commit_time: PgTime,
}

/// The replication origin of the running transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The commit's position on the origin, as the applying session set it.
    pub commit_lsn: Lsn,
    /// The origin's name.
    pub name: &'a str,
}

/// Which part of an old row an update or delete carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of a chosen index.
    Index,
}

/// What a table looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The table.
    pub id: RelationId,
    /// Its schema; the server sends nothing for `pg_catalog`.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What its old rows contain.
    pub identity: ReplicaIdentity,
    columns: Items<'a>,
}

impl<'a> Relation<'a> {
    /// The published columns in the order of every tuple that follows.
    pub fn columns(&self) -> impl Iterator<Item = RelationColumn<'a>> + use<'a> {
        self.columns.walk(read_relation_column)
    }

    /// How many columns are published.
    #[must_use]
    pub fn column_count(&self) -> u16 {
        self.columns.count
    }
}

/// A column of a [`Relation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity; true for every column under `FULL`.
    pub identity: bool,
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub type_id: TypeId,
    /// The type's modifier (length, precision), -1 for none.
    pub type_modifier: i32,
}

/// The name of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type<'a> {
    /// The type.
    pub id: TypeId,
    /// Its schema; empty for `pg_catalog`.
    pub schema: &'a str,
    /// Its name, for a domain that of its base type.
    pub name: &'a str,
}

/// A row was inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insert<'a> {
    /// The table.
    pub relation: RelationId,
    /// The row.
    pub new: Tuple<'a>,
}

/// A row was updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// The table.
    pub relation: RelationId,
    /// The row before; absent when the identity is a key and the key did not change.
    pub old: Option<OldRow<'a>>,
    /// The row after.
    pub new: Tuple<'a>,
}

/// A row was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The table.
    pub relation: RelationId,
    /// The row before.
    pub old: OldRow<'a>,
}

/// What is told about a row as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldRow<'a> {
    /// Only the columns of the identity; the others are `Null` whatever they were.
    Key(Tuple<'a>),
    /// Every column (`REPLICA IDENTITY FULL`).
    Full(Tuple<'a>),
}

/// Tables were emptied by one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// `CASCADE` was given. The tables it reached are listed like the named ones.
    pub cascade: bool,
    /// `RESTART IDENTITY` was given.
    pub restart_identity: bool,
    relations: &'a [[u8; 4]],
}

impl<'a> Truncate<'a> {
    /// The emptied tables.
    pub fn relations(&self) -> impl ExactSizeIterator<Item = RelationId> + use<'a> {
        self.relations.iter().map(|id| RelationId(u32::from_be_bytes(*id)))
    }
}

/// A logical message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Logical<'a> {
    /// Belongs to the running transaction; else it stands alone between transactions.
    pub transactional: bool,
    /// Where its record is in the log.
    pub lsn: Lsn,
    /// Who it is for.
    pub prefix: &'a str,
    /// Its bytes.
    pub content: &'a [u8],
}

// The content is the application's business, as a row's values are.
impl fmt::Debug for Logical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logical")
            .field("transactional", &self.transactional)
            .field("lsn", &self.lsn)
            .field("prefix", &self.prefix)
            .field("content_bytes", &self.content.len())
            .finish()
    }
}

/// The values of one row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: Items<'a>,
}

impl<'a> Tuple<'a> {
    /// The values in the order of the relation's columns.
    pub fn columns(&self) -> impl Iterator<Item = Column<'a>> + use<'a> {
        self.columns.walk(read_column)
    }

    /// How many values there are.
    #[must_use]
    pub fn column_count(&self) -> u16 {
        self.columns.count
    }
}

// Row values never get into logs, so they do not get into `Debug` either.
impl fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tuple").field("columns", &self.columns.count).finish_non_exhaustive()
    }
}

/// One value. Deliberately without a `Debug` that shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// NULL, or not part of the identity in an [`OldRow::Key`].
    Null,
    /// A large value stored out of line that the update did not touch; the old row has it.
    Unchanged,
    /// The type's text output, UTF-8 in a session of ours.
    Text(&'a [u8]),
    /// The type's binary output; never sent unless asked for.
    Binary(&'a [u8]),
    /// A text output that was put aside while it was received.
    Long(LongText),
}

impl fmt::Debug for Column<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Unchanged => f.write_str("Unchanged"),
            Self::Text(value) => write!(f, "Text({} bytes)", value.len()),
            Self::Binary(value) => write!(f, "Binary({} bytes)", value.len()),
            Self::Long(text) => write!(f, "Long({} bytes)", text.value.bytes),
        }
    }
}

/// Whether texts of a message may have been put aside, with notes in their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// The message is as the server sent it. A note in it would be the server's, who knows nothing
    /// of what is put aside where.
    Whole,
    /// It was rewritten while it was received.
    PutAside,
}

/// Decodes one message, the `data` of one `XLogData` frame whose texts are all there.
///
/// # Errors
/// The message is cut short, longer than it should be, of a kind that protocol version 1 without
/// streaming and two-phase does not have, or has a field with no meaning.
pub fn decode(data: &[u8]) -> Result<Message<'_>, DecodeError> {
    decode_with(data, Texts::Whole)
}

/// As [`decode`], of any `XLogData` frame.
///
/// # Errors
/// As [`decode`].
pub fn decode_with(data: &[u8], texts: Texts) -> Result<Message<'_>, DecodeError> {
    let mut r = Reader::of_message(data, texts);
    let kind = r.u8("message kind")?;
    let name = match kind {
        b'B' => "begin",
        b'C' => "commit",
        b'O' => "origin",
        b'R' => "relation",
        b'Y' => "type",
        b'I' => "insert",
        b'U' => "update",
        b'D' => "delete",
        b'T' => "truncate",
        b'M' => "logical",
        _ => return Err(r.fault_at(0, Fault::UnknownKind { kind })),
    };
    r.in_message(name);
    let message = match kind {
        b'B' => Message::Begin(read_begin(&mut r)?),
        b'C' => Message::Commit(read_commit(&mut r)?),
        b'O' => Message::Origin(Origin {
            commit_lsn: r.lsn("origin commit position")?,
            name: r.text("origin name")?,
        }),
        b'R' => Message::Relation(read_relation(&mut r)?),
        b'Y' => Message::Type(Type {
            id: TypeId(r.u32("type id")?),
            schema: r.text("schema name")?,
            name: r.text("type name")?,
        }),
        b'I' => Message::Insert(read_insert(&mut r)?),
        b'U' => Message::Update(read_update(&mut r)?),
        b'D' => Message::Delete(read_delete(&mut r)?),
        b'T' => Message::Truncate(read_truncate(&mut r)?),
        _ => Message::Logical(read_logical(&mut r)?),
    };
    r.finish()?;
    Ok(message)
}

fn read_begin(r: &mut Reader<'_>) -> Result<Begin, DecodeError> {
    Ok(Begin {
        final_lsn: r.lsn("commit position")?,
        commit_time: PgTime(r.i64("commit time")?),
        xid: Xid(r.u32("transaction id")?),
    })
}

fn read_commit(r: &mut Reader<'_>) -> Result<Commit, DecodeError> {
    r.one_of("flags", &[0])?;
    Ok(Commit {
        commit_lsn: r.lsn("commit position")?,
        end_lsn: r.lsn("end position")?,
        commit_time: PgTime(r.i64("commit time")?),
    })
}

fn read_relation<'a>(r: &mut Reader<'a>) -> Result<Relation<'a>, DecodeError> {
    let id = RelationId(r.u32("relation id")?);
    let schema = r.text("schema name")?;
    let name = r.text("relation name")?;
    let identity = match r.one_of("replica identity", b"dnfi")? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        _ => ReplicaIdentity::Index,
    };
    Ok(Relation { id, schema, name, identity, columns: Items::read(r, read_relation_column)? })
}

fn read_relation_column<'a>(r: &mut Reader<'a>) -> Result<RelationColumn<'a>, DecodeError> {
    Ok(RelationColumn {
        identity: r.one_of("column flags", &[0, 1])? == 1,
        name: r.text("column name")?,
        type_id: TypeId(r.u32("column type")?),
        type_modifier: r.i32("type modifier")?,
    })
}

fn read_insert<'a>(r: &mut Reader<'a>) -> Result<Insert<'a>, DecodeError> {
    let relation = RelationId(r.u32("relation id")?);
    r.one_of("tuple kind", b"N")?;
    Ok(Insert { relation, new: read_tuple(r)? })
}

fn read_update<'a>(r: &mut Reader<'a>) -> Result<Update<'a>, DecodeError> {
    let relation = RelationId(r.u32("relation id")?);
    let old = match r.one_of("tuple kind", b"NKO")? {
        b'N' => None,
        kind => {
            let old = read_old_row(r, kind)?;
            r.one_of("new tuple kind", b"N")?;
            Some(old)
        }
    };
    Ok(Update { relation, old, new: read_tuple(r)? })
}

fn read_delete<'a>(r: &mut Reader<'a>) -> Result<Delete<'a>, DecodeError> {
    let relation = RelationId(r.u32("relation id")?);
    let kind = r.one_of("tuple kind", b"KO")?;
    Ok(Delete { relation, old: read_old_row(r, kind)? })
}

fn read_old_row<'a>(r: &mut Reader<'a>, kind: u8) -> Result<OldRow<'a>, DecodeError> {
    let tuple = read_tuple(r)?;
    Ok(if kind == b'K' { OldRow::Key(tuple) } else { OldRow::Full(tuple) })
}

fn read_truncate<'a>(r: &mut Reader<'a>) -> Result<Truncate<'a>, DecodeError> {
    let count = r.u32("relation count")?;
    let flags = r.one_of("flags", &[0, 1, 2, 3])?;
    let bytes = r.bytes("relation ids", u64::from(count) * 4)?;
    let (relations, _) = bytes.as_chunks::<4>();
    Ok(Truncate { cascade: flags & 1 != 0, restart_identity: flags & 2 != 0, relations })
}

fn read_logical<'a>(r: &mut Reader<'a>) -> Result<Logical<'a>, DecodeError> {
    let transactional = r.one_of("flags", &[0, 1])? == 1;
    let lsn = r.lsn("message position")?;
    let prefix = r.text("prefix")?;
    let length = r.u32("content length")?;
    let content = r.bytes("content", u64::from(length))?;
    Ok(Logical { transactional, lsn, prefix, content })
}

fn read_tuple<'a>(r: &mut Reader<'a>) -> Result<Tuple<'a>, DecodeError> {
    Ok(Tuple { columns: Items::read(r, read_column)? })
}

fn read_column<'a>(r: &mut Reader<'a>) -> Result<Column<'a>, DecodeError> {
    let kinds = [b'n', b'u', b't', b'b', LONG_COLUMN];
    let kinds = if r.texts() == Texts::PutAside { &kinds[..] } else { &kinds[..4] };
    let kind = r.one_of("column kind", kinds)?;
    if kind == LONG_COLUMN {
        let note = r.bytes("note on a long text", LONG_TEXT_BYTES as u64)?;
        let note = note.first_chunk().expect("read as many bytes");
        return Ok(Column::Long(LongText::decode(*note)));
    }
    if kind == b'n' {
        return Ok(Column::Null);
    }
    if kind == b'u' {
        return Ok(Column::Unchanged);
    }
    // A negative length is huge as an unsigned one and so is refused as cut short.
    let length = r.u32("value length")?;
    let value = r.bytes("value", u64::from(length))?;
    Ok(if kind == b't' { Column::Text(value) } else { Column::Binary(value) })
}

/// A counted list whose every item was read once without fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Items<'a> {
    count: u16,
    bytes: &'a [u8],
    texts: Texts,
}

impl<'a> Items<'a> {
    fn read<T>(
        r: &mut Reader<'a>,
        item: fn(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<Self, DecodeError> {
        let count = r.u16("column count")?;
        let start = r.rest();
        for _ in 0..count {
            item(r)?;
        }
        let bytes = &start[..start.len() - r.rest().len()];
        Ok(Self { count, bytes, texts: r.texts() })
    }

    fn walk<T>(
        self,
        item: fn(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> impl Iterator<Item = T> + use<'a, T> {
        let mut r = Reader::of_message(self.bytes, self.texts);
        // Reading again cannot fail: the same bytes were read by the same function before.
        (0..self.count).map_while(move |_| item(&mut r).ok())
    }
}

#[cfg(test)]
mod tests;
