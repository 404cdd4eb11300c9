//! Why a step of an apply transaction fails, and what PostgreSQL's refusals mean for it.

use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::schema::TableId;

#[cfg(feature = "simulation")]
use crate::postgres::model::Fault;
use crate::postgres::sql;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else holds a lock, or PostgreSQL broke a deadlock: roll back and try again.
    #[error("a row is locked by somebody else")]
    Busy,
    /// Taking all the locks takes longer than it may: roll back and try patiently.
    #[error("taking the locks took too long")]
    Late,
    /// The values cannot be stored as they are.
    #[error("PostgreSQL refuses the values ({sqlstate}): {message}")]
    Data {
        /// The server's SQLSTATE.
        sqlstate: String,
        /// The server's message. It may name a key, so it belongs into the database, not the log.
        message: String,
    },
    /// Our role may not do what it must: an operator has to grant it, and nothing is set aside.
    #[error("PostgreSQL denies ({sqlstate}): {message}; run landfall-node check")]
    Denied {
        /// The server's SQLSTATE.
        sqlstate: String,
        /// The server's message.
        message: String,
    },
    /// The progress row is not where we left it: another daemon applies to this database.
    #[error(
        "progress row of origin {origin} is not at {expected}; does another landfall daemon apply to this database?"
    )]
    Progress {
        /// Whose transactions were being applied.
        origin: Origin,
        /// Where it should have been.
        expected: Seq,
    },
    /// The database lacks what a statement needs.
    #[error("table number {0:?} is not in the database any more")]
    TableGone(TableId),
    /// The history is one that an older version made: nothing that is applied is to blame.
    #[error(
        "landfall.conflict lacks what this version writes into it ({0}); run landfall-node init"
    )]
    OldHistory(String),
    /// Anything else, a lost connection first of all.
    #[error("apply connection: {}", sql::describe(.0))]
    Connection(#[from] tokio_postgres::Error),
    /// As [`ApplyError::Connection`], of a model.
    #[cfg(feature = "simulation")]
    #[error(transparent)]
    Model(Fault),
}

#[cfg(feature = "simulation")]
impl From<Fault> for ApplyError {
    fn from(fault: Fault) -> Self {
        let Fault::Refused { sqlstate, message } = &fault else { return Self::Model(fault) };
        Self::of_refusal(sqlstate, message).unwrap_or(Self::Model(fault))
    }
}

impl ApplyError {
    pub(super) fn classify(error: tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else {
            return Self::Connection(error);
        };
        let found = Self::of_refusal(refusal.code().code(), refusal.message());
        found.unwrap_or(Self::Connection(error))
    }

    /// What it means that the statement for the history cannot be prepared.
    pub(super) fn of_history(self) -> Self {
        match self {
            Self::Data { sqlstate, .. } if sqlstate.starts_with("42") => Self::OldHistory(sqlstate),
            error => error,
        }
    }

    /// What a refusal by the server means; `None`: the connection is made anew.
    fn of_refusal(sqlstate: &str, message: &str) -> Option<Self> {
        let told = || (sqlstate.to_owned(), message.to_owned());
        Some(match sqlstate {
            "55P03" | "40P01" | "40001" => Self::Busy,
            // The statement took longer than the lock phase may.
            "57014" => Self::Late,
            "42501" => {
                let (sqlstate, message) = told();
                Self::Denied { sqlstate, message }
            }
            // A prepared plan outlived a change of its table.
            "0A000" | "26000" => return None,
            // Refusals of the values, by types and constraints or by the application's own code in
            // triggers, domains and CHECKs.
            _ if matches!(
                &sqlstate[..2],
                "09" | "21" | "22" | "23" | "27" | "2F" | "38" | "39" | "42" | "44" | "54" | "P0"
            ) =>
            {
                let (sqlstate, message) = told();
                Self::Data { sqlstate, message }
            }
            _ => return None,
        })
    }
}
