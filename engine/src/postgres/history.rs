//! The history of conflicts, `landfall.conflict`: how its lines are written, read, undone and
//! thinned out. It is in our own schema, so nothing of it replicates.

mod expire;
mod line;
mod read;
mod undo;

pub use expire::{EXPIRED_AT_ONCE, expire};
pub use line::{ConflictLine, Side, Wrote};
pub(super) use line::{INSERT, rows_json};
pub use read::{Entry, EntrySide, Filter, Undone, find, list};
pub use undo::{Now, UndoError, UndoRequest, Written, now, undo};

use super::sql;

/// Why the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It is one that an older version made, or is not there.
    #[error("landfall.conflict is not as this version needs it; run init")]
    Old,
    /// A query failed.
    #[error("{what}: {}", sql::describe(source))]
    Query {
        /// What was being done.
        what: &'static str,
        /// PostgreSQL's answer.
        source: tokio_postgres::Error,
    },
    /// A line does not read.
    #[error("conflict {0} does not read: its row is no JSON object of texts")]
    Odd(i64),
}

impl HistoryError {
    pub(crate) fn of(what: &'static str) -> impl Fn(tokio_postgres::Error) -> Self {
        use tokio_postgres::error::SqlState;
        move |source| match source.code() {
            Some(&(SqlState::UNDEFINED_COLUMN | SqlState::UNDEFINED_TABLE)) => Self::Old,
            _ => Self::Query { what, source },
        }
    }
}
