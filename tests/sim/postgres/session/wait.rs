//! Waiting for another transaction, within limits.

use std::time::Duration;

use tokio::time::Instant;

use super::super::error::PgError;
use super::super::heap::TxnNo;
use super::super::instance::Instance;
use super::Settings;

/// `deadlock_timeout`.
const DEADLOCK_AFTER: Duration = Duration::from_secs(1);

/// A statement's wait for one transaction.
pub(super) struct Wait {
    by: Option<TxnNo>,
    since: Instant,
    /// The one check for deadlocks is done.
    is_checked: bool,
}

impl Wait {
    /// Nobody is waited for yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { by: None, since: now, is_checked: false }
    }

    /// How long it goes on.
    pub(super) fn until(
        &mut self,
        server: &Instance,
        txn: TxnNo,
        by: TxnNo,
        started: Instant,
        limits: &Settings,
    ) -> Result<Option<Instant>, PgError> {
        let now = Instant::now();
        if self.by != Some(by) {
            *self = Self { by: Some(by), since: now, is_checked: false };
        }
        let limit = |from: Instant, limit: Duration| (!limit.is_zero()).then(|| from + limit);
        let lock = limit(self.since, limits.lock_timeout);
        let statement = limit(started, limits.statement_timeout);
        let check = self.since + DEADLOCK_AFTER;
        if lock.is_some_and(|lock| lock <= now) {
            return Err(PgError::refused("55P03", "canceling statement due to lock timeout"));
        }
        if statement.is_some_and(|statement| statement <= now) {
            return Err(PgError::refused("57014", "canceling statement due to statement timeout"));
        }
        if check <= now && !self.is_checked {
            self.is_checked = true;
            if server.is_deadlocked(txn) {
                return Err(PgError::refused("40P01", "deadlock detected"));
            }
        }
        let check = Some(check).filter(|_| !self.is_checked);
        Ok([lock, statement, check].into_iter().flatten().min())
    }
}
