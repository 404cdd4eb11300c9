//! What an apply transaction is asked to do.

use std::borrow::Cow;
use std::time::Duration;

use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::ChangeId;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::schema::{ColumnId, TableId};
use landfall_protocol::value::Value;

use crate::postgres::access::LockStrength;

/// A row's write, ready to be sent. Its values mostly stand in the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowWrite<'w> {
    /// Insert a row of these cells.
    Insert(Vec<(ColumnId, Cow<'w, Value>)>),
    /// Overwrite these cells.
    Update(Vec<(ColumnId, Cow<'w, Value>)>),
    /// Delete the row and insert one of these cells.
    Replace(Vec<(ColumnId, Cow<'w, Value>)>),
    /// Delete the row.
    Delete,
}

impl<'w> RowWrite<'w> {
    /// The cells it writes.
    #[must_use]
    pub fn cells(&self) -> &[(ColumnId, Cow<'w, Value>)] {
        match self {
            Self::Insert(cells) | Self::Update(cells) | Self::Replace(cells) => cells,
            Self::Delete => &[],
        }
    }
}

/// How long a transaction may take for its locks. What PostgreSQL waits for while it holds locks
/// itself must be over before the application's sessions look for deadlocks (after 1 s).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockPhase {
    /// All locks within this time, from the first statement on.
    Within(Duration),
    /// As long as it takes, but hardly ever waiting for anybody.
    Patient,
    /// As patient, and deferred constraints hold at once, so that each row answers for itself.
    RowByRow,
}

impl LockPhase {
    pub(super) fn begin_sql(self) -> String {
        match self {
            Self::Within(limit) => {
                // The limit on one lock is the shorter one: it tells one row that somebody keeps
                // from a statement that takes long.
                let (all, one) = (limit.as_millis(), limit.as_millis() * 5 / 6);
                format!(
                    "BEGIN; SET LOCAL statement_timeout = {all}; SET LOCAL lock_timeout = {one}"
                )
            }
            Self::Patient => "BEGIN; SET LOCAL lock_timeout = 10".to_owned(),
            Self::RowByRow => {
                "BEGIN; SET LOCAL lock_timeout = 10; SET CONSTRAINTS ALL IMMEDIATE".to_owned()
            }
        }
    }
}

/// What an apply transaction begins with.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Whose transactions it applies.
    pub origin: Origin,
    /// The first one.
    pub first: Seq,
    /// The last one.
    pub last: Seq,
    /// What tells the fold about it.
    pub marker: Vec<u8>,
    /// How it takes its locks.
    pub phase: LockPhase,
}

/// A row to lock.
#[derive(Debug, Clone, Copy)]
pub struct LockRequest<'a> {
    /// Which row.
    pub row: &'a RowId,
    /// How strongly.
    pub strength: LockStrength,
}

/// A parent that must not go while its child is written.
#[derive(Debug, Clone)]
pub struct ParentRequest {
    /// The child's table.
    pub table: TableId,
    /// Which of its foreign keys.
    pub key: usize,
    /// The referencing values.
    pub values: Vec<Value>,
}

/// A line for `landfall.parked`.
#[derive(Debug, Clone)]
pub struct ParkedLine {
    /// Whose change.
    pub origin: Origin,
    /// Which transaction.
    pub seq: Seq,
    /// Its place among that transaction's changes.
    pub index: u32,
    /// `schema.table`.
    pub table: String,
    /// Key values for humans.
    pub row_key: String,
    /// insert, update or delete.
    pub op: &'static str,
    /// The change, for humans.
    pub change: String,
    /// Why it cannot be shown.
    pub reason: String,
    /// What would free it.
    pub advice: String,
}

/// What `landfall.parked` is to say of a change from now on.
#[derive(Debug, Clone)]
pub struct ParkedNote {
    /// Which change.
    pub id: ChangeId,
    /// Why it cannot be shown.
    pub reason: String,
    /// What would free it.
    pub advice: String,
}
