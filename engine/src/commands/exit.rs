//! Exit codes: the one table.

use std::fmt;
use std::process::ExitCode;

use crate::admin::AdminError;
use crate::admin::wait::WaitError;
use crate::config::ConfigError;
use crate::daemon::DaemonError;
use crate::identity::IdentityError;
use crate::postgres::catalog::CatalogError;
use crate::postgres::connect::ConnectError;
use crate::postgres::history::{HistoryError, UndoError};
use crate::postgres::setup::SetupError;
use crate::store::StoreError;
use crate::telemetry::TelemetryError;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok,
    /// `check` found errors, `wait` ran out of time, `conflicts undo` did not undo, or a bundle was not
    /// written or read whole.
    Unmet,
    /// The command line or a file is wrong; nothing was started.
    Usage,
    /// Somebody must decide: wrong database, lost slot, restored backup, missing rights.
    Operator,
    /// PostgreSQL or the daemon cannot be reached.
    Unreachable,
    /// A bug in Landfall.
    Internal,
}

impl Exit {
    /// The number the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unmet => 1,
            Self::Usage => 2,
            Self::Operator => 3,
            Self::Unreachable => 4,
            Self::Internal => 70,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table as `--help` shows it.
pub const EXIT_HELP: &str = "\
Exit codes:
  0   all is well
  1   check found errors, wait ran out of time, a conflict was not undone, or a bundle was not
      written or read whole
  2   the command line or a file is wrong; nothing was started
  3   somebody must decide: wrong database, lost slot, restored backup, missing rights
  4   PostgreSQL or the daemon cannot be reached
  70  a bug in Landfall";

/// Why a command failed: one sentence and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the command ends.
    pub exit: Exit,
    /// What went wrong and what to do, lower case, no full stop.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<TelemetryError> for Failure {
    fn from(error: TelemetryError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        use ConnectError::{Incomplete, RootCert, Setting, Syntax, Unsupported};
        let exit = match error {
            Syntax { .. } | Incomplete { .. } | Unsupported { .. } | RootCert(_) => Exit::Usage,
            Setting { .. } => Exit::Internal,
            _ => Exit::Unreachable,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        use SetupError::{
            Busy, Catalog, NeedsAdministrator, NotReady, OtherMember, Query, Slot, StoreGone,
        };
        let exit = match &error {
            Query { source, .. } | Catalog(CatalogError::Query { source, .. }) => refusal(source),
            Catalog(CatalogError::Odd { .. }) => Exit::Internal,
            NotReady(_) | NeedsAdministrator { .. } | Busy(_) => Exit::Operator,
            OtherMember { .. } | StoreGone(_) | Slot { .. } => Exit::Operator,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        let exit = match &error {
            HistoryError::Old => Exit::Operator,
            HistoryError::Query { source, .. } => refusal(source),
            HistoryError::Odd(_) => Exit::Internal,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<UndoError> for Failure {
    fn from(error: UndoError) -> Self {
        match error {
            UndoError::History(error) => error.into(),
            UndoError::NoSuchLine(_) => Self::new(Exit::Usage, error.to_string()),
            error => Self::new(Exit::Unmet, error.to_string()),
        }
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        SetupError::from(error).into()
    }
}

/// Whether the server went away or said no.
fn refusal(error: &tokio_postgres::Error) -> Exit {
    // Class 57 is the server going down or somebody ending our session.
    match error.code() {
        Some(code) if !code.code().starts_with("57") => Exit::Operator,
        _ => Exit::Unreachable,
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let exit = match error {
            AdminError::AlreadyRunning(_) | AdminError::Metrics { .. } => Exit::Usage,
            _ => Exit::Unreachable,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<WaitError> for Failure {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Admin(error) => error.into(),
            WaitError::TimedOut { .. } => Self::new(Exit::Unmet, error.to_string()),
            WaitError::Stopped(_) => Self::new(Exit::Operator, error.to_string()),
        }
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        let exit = match &error {
            DaemonError::Store(StoreError::Missing(_)) => Exit::Usage,
            DaemonError::Store(_)
            | DaemonError::OtherMember { .. }
            | DaemonError::OtherDatabase { .. } => Exit::Operator,
            DaemonError::Transport(_) | DaemonError::Admin(_) => Exit::Usage,
            DaemonError::Task(_) => Exit::Operator,
            DaemonError::Signals(_) | DaemonError::Random(_) => Exit::Internal,
        };
        let advice = match &error {
            DaemonError::Store(error) => format!("; {}", error.advice()),
            _ => String::new(),
        };
        Self::new(exit, format!("{error}{advice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_shows_every_code() {
        use Exit::{Internal, Ok, Operator, Unmet, Unreachable, Usage};
        for exit in [Ok, Unmet, Usage, Operator, Unreachable, Internal] {
            let line = format!("\n  {:<4}", exit.code());
            assert!(EXIT_HELP.contains(&line), "{exit:?}");
        }
    }
}
