//! What can go wrong in the store, and how bad it is.

use std::path::PathBuf;

use landfall_protocol::fold::FoldError;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::unit::UnitError;
use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

/// What whoever meets an error should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Try again, with growing pauses.
    Retry,
    /// Pause this part and show the advice until somebody acted.
    Operator,
    /// End the process; starting anew is the way back to a known state.
    Fatal,
}

/// Why the store did not do what was asked. Nothing of a failed command is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room on the disk or in the budget; the store goes on as soon as there is.
    #[error("store is full: no room on its disk or in its budget")]
    Full,
    /// A row is not what was written.
    #[error("store is damaged: table {table}, row {row}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The row's key, or what SQLite said.
        row: String,
    },
    /// Another process has it open.
    #[error("store {0} is in use by another process")]
    Locked(PathBuf),
    /// There is one already.
    #[error("store {0} exists already")]
    Exists(PathBuf),
    /// There is none.
    #[error("store {0} does not exist")]
    Missing(PathBuf),
    /// It is not the store that was expected.
    #[error("store {path} has another {what}: {found}, expected {expected}")]
    WrongStore {
        /// The database file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What stands in the file.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The site must not write under this identity any more.
    #[error("store is fenced: {0}")]
    Fenced(String),
    /// The fold's inputs contradict the store.
    #[error("fold: {0}")]
    Fold(#[from] FoldError),
    /// An earlier fold failed, and this one was on its way before its caller knew.
    #[error("a fold before this one failed; read the WAL again from the store's position")]
    FoldStopped,
    /// The WAL before the store's position was folded already.
    #[error("fold to {end_lsn:#x} lies before the position {position:#x} reached already")]
    FoldBehind {
        /// Where the batch ends.
        end_lsn: u64,
        /// Where the store is.
        position: u64,
    },
    /// A transaction does not fit into one unit.
    #[error("transaction {seq} takes {bytes} bytes, a unit holds at most {limit}")]
    TransactionTooLarge {
        /// Which own transaction.
        seq: Seq,
        /// Its encoded length.
        bytes: u64,
        /// The most there may be.
        limit: u64,
    },
    /// A unit is stored as it was sealed, but does not decode.
    #[error("unit {first} of origin {origin}: {error}")]
    BadUnit {
        /// Whose.
        origin: Origin,
        /// Its first transaction.
        first: Seq,
        /// Why not.
        error: UnitError,
    },
    /// The file system refused.
    #[error("{action} {path}: {message}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// SQLite refused for another reason.
    #[error("sqlite error {code}: {message}")]
    Sqlite {
        /// Extended result code.
        code: i32,
        /// What it said.
        message: String,
    },
    /// The store's thread has ended.
    #[error("store is closed")]
    Closed,
}

impl StoreError {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Full | Self::FoldStopped => Severity::Retry,
            Self::Corrupt { .. }
            | Self::Fenced(_)
            | Self::Fold(_)
            | Self::TransactionTooLarge { .. }
            | Self::BadUnit { .. } => Severity::Operator,
            Self::Locked(_)
            | Self::Exists(_)
            | Self::Missing(_)
            | Self::WrongStore { .. }
            | Self::FoldBehind { .. }
            | Self::File { .. }
            | Self::Sqlite { .. }
            | Self::Closed => Severity::Fatal,
        }
    }

    /// What to do about it, in one sentence.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Full => {
                "free space on the disk of data_dir, or raise limits.store_bytes_max and restart; nothing is lost"
            }
            Self::Corrupt { .. } => {
                "check the disk, then replace the damaged store from a peer under a new identity"
            }
            Self::Locked(_) => "stop the other process that uses this data directory",
            Self::Exists(_) => "choose an empty data directory or remove the old store",
            Self::Missing(_) => "check data_dir, or run init first",
            Self::WrongStore { .. } => "check that the data directory belongs to this site",
            Self::Fenced(_) => "give the site a new incarnation; it was restored or cloned",
            Self::Fold(_) | Self::FoldBehind { .. } => {
                "store and database do not belong together; check which of them was restored"
            }
            Self::FoldStopped => "the earlier error says why; capture starts over by itself",
            Self::TransactionTooLarge { .. } => {
                "split the application's transaction; until then this site's changes wait"
            }
            Self::BadUnit { .. } => "the origin must be upgraded or repaired; its log waits here",
            Self::File { .. } | Self::Sqlite { .. } => "check the disk and its permissions",
            Self::Closed => "restart the daemon; the log says why the store ended",
        }
    }

    /// Whether SQLite's transaction is lost, and with it everything else of the round.
    pub(super) fn ends_round(&self) -> bool {
        matches!(self, Self::Full | Self::Sqlite { .. } | Self::File { .. } | Self::Closed)
    }

    pub(super) fn corrupt(table: &'static str, row: impl ToString) -> Self {
        Self::Corrupt { table, row: row.to_string() }
    }

    pub(super) fn file(
        action: &'static str,
        path: &std::path::Path,
        error: &std::io::Error,
    ) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full;
        }
        Self::File { action, path: path.to_owned(), message: error.to_string() }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error().map_or(0, |error| error.extended_code);
        match error.sqlite_error_code() {
            // The index of the write-ahead log lies in a file that grows with it.
            _ if code == SQLITE_IOERR_SHMSIZE => Self::Full,
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::corrupt("database", error)
            }
            _ => Self::Sqlite { code, message: error.to_string() },
        }
    }
}
