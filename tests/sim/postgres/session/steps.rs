//! The way of a statement: to the server, past those in its way, and at the end of a transaction
//! through the steps of a commit, with time between them.

use std::sync::Arc;

use landfall_engine::postgres::lsn::Lsn;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::error::PgError;
use super::super::heap::TxnNo;
use super::super::instance::{Instance, Step};
use super::wait::Wait;
use super::{Ended, Session, SyncCommit, in_failed_transaction};

/// Wakes who waits for a transaction, also when its commit is given up on the way.
struct WakeLater(Arc<Notify>);

impl Drop for WakeLater {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl Session {
    /// Waits until a statement has reached the server.
    pub(super) async fn arrive(&mut self) -> Result<(), PgError> {
        if self.is_busy {
            // Its answer was not waited for; nobody knows what is under way.
            self.abandon();
        }
        if self.is_lost {
            return Err(PgError::Lost);
        }
        self.is_busy = true;
        self.cluster.pause().await;
        let arrived = {
            let mut server = self.cluster.lock();
            self.is_alive(&server) && !server.throw_loss()
        };
        if !arrived {
            self.abandon();
            return Err(PgError::Lost);
        }
        Ok(())
    }

    pub(super) fn is_alive(&self, server: &Instance) -> bool {
        server.serves((self.life, self.cuts))
    }

    /// The connection is gone; the server will notice.
    pub(super) fn abandon(&mut self) {
        self.is_lost = true;
        if let Some(txn) = self.txn.take() {
            self.cluster.orphan(txn, self.life);
        }
    }

    /// Something about the transaction block itself.
    pub(super) async fn in_block<T>(
        &mut self,
        act: impl FnOnce(&mut Instance, TxnNo) -> Result<T, PgError> + Send,
    ) -> Result<T, PgError> {
        self.arrive().await?;
        self.is_busy = false;
        let txn = self.txn.ok_or_else(|| PgError::refused("25P01", "no transaction is open"))?;
        let mut server = self.cluster.lock();
        act(&mut server, txn).inspect_err(|_| server.fail(txn))
    }

    /// Does a statement: `step` is tried until it need not wait for anybody. Outside of a
    /// transaction it is one by itself.
    pub(super) async fn statement<T: Send>(
        &mut self,
        step: impl FnMut(&mut Instance, TxnNo) -> Result<Step<T>, PgError> + Send,
    ) -> Result<T, PgError> {
        self.arrive().await?;
        let is_alone = self.txn.is_none();
        let txn = match self.txn {
            Some(txn) => txn,
            None => {
                self.local = self.settings;
                *self.txn.insert(self.cluster.lock().begin(self.settings.sync, self.tag))
            }
        };
        let done = self.tried(txn, step).await;
        match &done {
            Err(PgError::Lost) => self.abandon(),
            Err(_) => {
                self.cluster.lock().fail(txn);
                if is_alone {
                    self.txn = None;
                    self.cluster.lock().abort(txn);
                }
            }
            Ok(_) if is_alone => {
                self.commit_steps().await?;
            }
            Ok(_) => {}
        }
        self.is_busy = false;
        done
    }

    async fn tried<T>(
        &self,
        txn: TxnNo,
        mut step: impl FnMut(&mut Instance, TxnNo) -> Result<Step<T>, PgError> + Send,
    ) -> Result<T, PgError> {
        let started = Instant::now();
        let mut wait = Wait::new(started);
        loop {
            let (until, woken) = {
                let mut server = self.cluster.lock();
                if !self.is_alive(&server) {
                    return Err(PgError::Lost);
                }
                if server.txn(txn).failed {
                    return Err(in_failed_transaction());
                }
                match step(&mut server, txn)? {
                    Step::Done(done) => {
                        server.txn(txn).waits_for = None;
                        return Ok(done);
                    }
                    Step::Wait(by) => {
                        server.txn(txn).waits_for = Some(by);
                        let until = wait.until(&server, txn, by, started, &self.local)?;
                        (until, Arc::clone(&server.txn(by).wake).notified_owned())
                    }
                }
            };
            match until {
                // Woken or not, it looks again.
                Some(until) => drop(tokio::time::timeout_at(until, woken).await),
                None => woken.await,
            }
            self.cluster.pause().await;
        }
    }

    /// The steps of a commit, with time between them.
    pub(super) async fn commit_steps(&mut self) -> Result<Ended, PgError> {
        let Some(txn) = self.txn else { return Ok(Ended::RolledBack) };
        let logged = {
            let mut server = self.cluster.lock();
            if !self.is_alive(&server) {
                Err(PgError::Lost)
            } else if server.txn(txn).failed {
                server.abort(txn);
                self.txn = None;
                return Ok(Ended::RolledBack);
            } else {
                Ok(self.cluster.log_commit(&mut server, txn))
            }
        };
        let end = match logged {
            Ok(Some(end)) => end,
            Ok(None) => {
                self.txn = None;
                self.cluster.lock().abort(txn);
                return Ok(Ended::Committed);
            }
            Err(error) => {
                self.abandon();
                return Err(error);
            }
        };
        let settled = self.settle(txn, end).await;
        if settled.is_err() {
            self.abandon();
        }
        settled.map(|()| Ended::Committed)
    }

    /// From the commit record to the answer.
    async fn settle(&mut self, txn: TxnNo, end: Lsn) -> Result<(), PgError> {
        if self.settings.sync != SyncCommit::Off {
            self.cluster.pause().await;
            self.with_server(|server| server.flush(end))?;
            self.cluster.standby(self.settings.sync, end, (self.life, self.cuts)).await?;
        }
        self.cluster.pause().await;
        let wake = self.with_server(|server| WakeLater(server.make_visible(txn)))?;
        self.txn = None;
        self.cluster.pause().await;
        drop(wake);
        if self.with_server(Instance::throw_loss)? { Err(PgError::Lost) } else { Ok(()) }
    }

    fn with_server<T>(&self, act: impl FnOnce(&mut Instance) -> T) -> Result<T, PgError> {
        let mut server = self.cluster.lock();
        if self.is_alive(&server) { Ok(act(&mut server)) } else { Err(PgError::Lost) }
    }
}
