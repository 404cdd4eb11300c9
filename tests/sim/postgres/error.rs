//! What a client is told.

use std::fmt;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PgError {
    /// Nobody listens: the server is down.
    Down,
    /// The connection is gone. What was under way may or may not have happened.
    Lost,
    /// The server refuses.
    Refused {
        /// Its SQLSTATE.
        sqlstate: &'static str,
        /// Its words.
        message: String,
    },
}

impl PgError {
    pub(super) fn refused(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { sqlstate, message: message.into() }
    }

    /// The SQLSTATE of a refusal.
    pub(crate) fn sqlstate(&self) -> Option<&'static str> {
        match self {
            Self::Refused { sqlstate, .. } => Some(sqlstate),
            Self::Down | Self::Lost => None,
        }
    }
}

impl fmt::Display for PgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("connection refused"),
            Self::Lost => f.write_str("connection closed"),
            Self::Refused { sqlstate, message } => write!(f, "{message} (SQLSTATE {sqlstate})"),
        }
    }
}

impl std::error::Error for PgError {}
