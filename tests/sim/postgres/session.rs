//! A session: statements, each of which is on its way for a while, waits for locks and may fail.

mod steps;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use landfall_engine::postgres::lsn::Lsn;
use landfall_protocol::value::{RowKey, Value};

use super::cluster::Cluster;
use super::error::PgError;
use super::heap::{Strength, TableNo, TxnNo, Version};
use super::instance::{Instance, PROGRESS, Step, progress_row};
use super::log::Line;

/// `synchronous_commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncCommit {
    /// The commit is visible before it is on disk.
    Off,
    /// It waits for the disk.
    Local,
    /// And for the standby to have it.
    RemoteWrite,
    /// And for the standby's disk.
    On,
    /// And for the standby to have applied it.
    RemoteApply,
}

/// What a session is opened with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// `synchronous_commit`.
    pub(crate) sync: SyncCommit,
    /// `session_replication_role = replica`: foreign keys are not looked at.
    pub(crate) is_replica: bool,
    /// `lock_timeout`; zero is none.
    pub(crate) lock_timeout: Duration,
    /// `statement_timeout`; zero is none.
    pub(crate) statement_timeout: Duration,
}

impl Settings {
    /// A session of the application.
    pub(crate) const APPLICATION: Self = Self {
        sync: SyncCommit::Local,
        is_replica: false,
        lock_timeout: Duration::ZERO,
        statement_timeout: Duration::ZERO,
    };
}

/// What an insert does about a key that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnConflict {
    /// It fails (SQLSTATE 23505).
    Fail,
    /// It passes the row over.
    DoNothing,
}

/// How a transaction ended that nothing went wrong with on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is visible.
    Committed,
    /// A statement had failed: it left no trace.
    RolledBack,
}

/// One connection. Dropped, the server ends what was open some time later; a commit that was on
/// its way may still be done.
#[derive(Debug)]
pub(crate) struct Session {
    cluster: Cluster,
    life: u64,
    /// How often connections had been cut when it was made.
    cuts: u64,
    settings: Settings,
    /// The settings of the open transaction.
    local: Settings,
    txn: Option<TxnNo>,
    tag: Option<u64>,
    /// A statement is under way, or its future was dropped.
    is_busy: bool,
    is_lost: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Session {
    pub(super) fn new(cluster: Cluster, (life, cuts): (u64, u64), settings: Settings) -> Self {
        Self {
            cluster,
            life,
            cuts,
            settings,
            local: settings,
            txn: None,
            tag: None,
            is_busy: false,
            is_lost: false,
        }
    }

    /// Whether the connection is known to be gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Ends when the server is gone or has cut its connections, also while nothing is asked of it.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let (cluster, place) = (self.cluster.clone(), (self.life, self.cuts));
        async move {
            loop {
                let cut = {
                    let server = cluster.lock();
                    if !server.serves(place) {
                        return;
                    }
                    Arc::clone(&server.cut_wake).notified_owned()
                };
                cut.await;
            }
        }
    }

    /// What the workload calls the transactions that begin from now on.
    pub(crate) fn set_tag(&mut self, tag: Option<u64>) {
        self.tag = tag;
    }

    /// `BEGIN`.
    pub(crate) async fn begin(&mut self) -> Result<(), PgError> {
        self.arrive().await?;
        self.local = self.settings;
        if self.txn.is_none() {
            self.txn = Some(self.cluster.lock().begin(self.settings.sync, self.tag));
        }
        self.is_busy = false;
        Ok(())
    }

    /// `SET LOCAL lock_timeout`, `SET LOCAL statement_timeout`; zero is none. Goes with the
    /// statement that follows.
    pub(crate) fn set_local(&mut self, lock_timeout: Duration, statement_timeout: Duration) {
        (self.local.lock_timeout, self.local.statement_timeout) = (lock_timeout, statement_timeout);
    }

    /// `SELECT … FOR …`: locks those of the rows that are there, in the given order. Gives their
    /// places and `xmin`.
    pub(crate) async fn lock(
        &mut self,
        table: TableNo,
        keys: &[RowKey],
        strength: Strength,
    ) -> Result<Vec<(usize, u32)>, PgError> {
        let (mut seen, mut place, mut found) = (None, 0, Vec::new());
        self.statement(|server, txn| {
            let seen = seen.get_or_insert_with(|| chains(server, txn, table, keys));
            while place < keys.len() {
                if let Some(chain) = seen[place] {
                    match server.lock_row(txn, (table, &keys[place]), chain, strength) {
                        Step::Wait(by) => return Ok(Step::Wait(by)),
                        Step::Done(version) => {
                            found.extend(version.map(|version| (place, version.xmin as u32)));
                        }
                    }
                }
                place += 1;
            }
            Ok(Step::Done(std::mem::take(&mut found)))
        })
        .await
    }

    /// `INSERT` of whole rows, in the given order; gives how many were inserted.
    pub(crate) async fn insert(
        &mut self,
        table: TableNo,
        rows: &[Arc<[Value]>],
        on_conflict: OnConflict,
    ) -> Result<u64, PgError> {
        let is_replica = self.settings.is_replica;
        let (mut place, mut count) = (0, 0);
        self.statement(|server, txn| {
            while let Some(row) = rows.get(place) {
                let inserted = if is_replica {
                    server.insert_row(txn, table, row, on_conflict)?
                } else {
                    server.insert_checked(txn, table, row, on_conflict)?
                };
                match inserted {
                    Step::Wait(by) => return Ok(Step::Wait(by)),
                    Step::Done(inserted) => count += u64::from(inserted),
                }
                place += 1;
            }
            Ok(Step::Done(count))
        })
        .await
    }

    /// `UPDATE` of rows by their keys: `change` makes the new row out of the place and the newest
    /// old one, or nothing when it is not one to be updated. Gives how many there were.
    pub(crate) async fn update(
        &mut self,
        table: TableNo,
        keys: &[RowKey],
        mut change: impl FnMut(usize, &[Value]) -> Option<Vec<Value>> + Send,
    ) -> Result<u64, PgError> {
        let is_replica = self.settings.is_replica;
        let (mut seen, mut place, mut count) = (None, 0, 0);
        self.statement(|server, txn| {
            let seen = seen.get_or_insert_with(|| chains(server, txn, table, keys));
            while place < keys.len() {
                if let Some(chain) = seen[place] {
                    let row = (table, &keys[place], chain);
                    let mut change = |old: &[Value]| change(place, old);
                    match server.update_row(txn, row, &mut change, !is_replica)? {
                        Step::Wait(by) => return Ok(Step::Wait(by)),
                        Step::Done(updated) => count += u64::from(updated),
                    }
                }
                place += 1;
            }
            Ok(Step::Done(count))
        })
        .await
    }

    /// `DELETE` of rows by their keys; gives how many there were.
    pub(crate) async fn delete(&mut self, table: TableNo, keys: &[RowKey]) -> Result<u64, PgError> {
        let is_replica = self.settings.is_replica;
        let (mut seen, mut place, mut count) = (None, 0, 0);
        self.statement(|server, txn| {
            let seen = seen.get_or_insert_with(|| chains(server, txn, table, keys));
            while place < keys.len() {
                if let Some(chain) = seen[place] {
                    let row = (table, &keys[place], chain);
                    match server.delete_row(txn, row, !is_replica)? {
                        Step::Wait(by) => return Ok(Step::Wait(by)),
                        Step::Done(deleted) => count += u64::from(deleted),
                    }
                }
                place += 1;
            }
            Ok(Step::Done(count))
        })
        .await
    }

    /// `SELECT` of rows by their keys, at one moment.
    pub(crate) async fn select(
        &mut self,
        table: TableNo,
        keys: &[RowKey],
    ) -> Result<Vec<Option<Arc<[Value]>>>, PgError> {
        self.statement(|server, txn| {
            let cells = &server.table(table).cells;
            let row = |key| Some(Arc::clone(&cells.get(key)?.seen_by(txn)?.values));
            Ok(Step::Done(keys.iter().map(row).collect()))
        })
        .await
    }

    /// `SELECT … WHERE …`, with a lock on each row if one is asked for; the rows as they are then.
    pub(crate) async fn search(
        &mut self,
        table: TableNo,
        fits: impl Fn(&[Value]) -> bool + Send + Sync,
        strength: Option<Strength>,
    ) -> Result<Vec<Arc<[Value]>>, PgError> {
        let (mut seen, mut place, mut found) = (None, 0, Vec::new());
        self.statement(|server, txn| {
            let seen = seen.get_or_insert_with(|| fitting(server, txn, table, &fits));
            while let Some((key, version)) = seen.get(place) {
                let now = match strength {
                    None => Some(version.clone()),
                    Some(strength) => {
                        match server.lock_row(txn, (table, key), version.chain, strength) {
                            Step::Wait(by) => return Ok(Step::Wait(by)),
                            Step::Done(now) => now.filter(|now| fits(&now.values)),
                        }
                    }
                };
                found.extend(now.map(|now| now.values));
                place += 1;
            }
            Ok(Step::Done(std::mem::take(&mut found)))
        })
        .await
    }

    /// `SELECT * FROM landfall.progress`, with the whole of a table, at one moment.
    pub(crate) async fn select_all(
        &mut self,
        table: TableNo,
    ) -> Result<(Vec<Arc<[Value]>>, Vec<(String, i64)>), PgError> {
        self.statement(|server, txn| {
            Ok(Step::Done((server.rows_seen(txn, table), progress_seen(server, txn))))
        })
        .await
    }

    /// How far every origin is applied.
    pub(crate) async fn progress(&mut self) -> Result<Vec<(String, i64)>, PgError> {
        self.statement(|server, txn| Ok(Step::Done(progress_seen(server, txn)))).await
    }

    /// `SELECT pg_snapshot_xmin(pg_current_snapshot()), pg_logical_emit_message(true, …)`.
    pub(crate) async fn emit(
        &mut self,
        prefix: &'static str,
        content: &[u8],
    ) -> Result<(u64, Lsn), PgError> {
        self.statement(|server, txn| {
            let xmin = server.snapshot_xmin();
            Ok(Step::Done((xmin, server.emit(txn, prefix, content.into()))))
        })
        .await
    }

    /// Writes lines into `landfall.conflict` and `landfall.parked`.
    pub(crate) async fn write_lines(&mut self, lines: Vec<Line>) -> Result<(), PgError> {
        let mut lines = Some(lines);
        self.statement(|server, txn| {
            lines.take().into_iter().flatten().for_each(|line| server.write_line(txn, line));
            Ok(Step::Done(()))
        })
        .await
    }

    /// Whether a new snapshot sees the committed transaction of this id.
    pub(crate) async fn is_visible(&mut self, xid: u32) -> Result<bool, PgError> {
        self.statement(|server, _| Ok(Step::Done(server.is_over(xid)))).await
    }

    /// `SAVEPOINT`.
    pub(crate) async fn set_savepoint(&mut self) -> Result<(), PgError> {
        self.in_block(|server, txn| {
            if server.txn(txn).failed {
                return Err(in_failed_transaction());
            }
            server.set_savepoint(txn);
            Ok(())
        })
        .await
    }

    /// `RELEASE SAVEPOINT` of the innermost one.
    pub(crate) async fn release(&mut self) -> Result<(), PgError> {
        self.in_block(|server, txn| {
            if server.txn(txn).failed {
                return Err(in_failed_transaction());
            }
            server.release(txn)
        })
        .await
    }

    /// `ROLLBACK TO SAVEPOINT; RELEASE SAVEPOINT` of the innermost one.
    pub(crate) async fn undo(&mut self) -> Result<(), PgError> {
        self.in_block(|server, txn| {
            server.roll_back_to_savepoint(txn)?;
            server.release(txn)
        })
        .await
    }

    /// `COMMIT`.
    ///
    /// # Errors
    /// [`PgError::Lost`] leaves the outcome open.
    pub(crate) async fn commit(&mut self) -> Result<Ended, PgError> {
        if let Some(txn) = self.txn.filter(|_| !self.is_busy) {
            self.cluster.commit_is_sent(txn, self.life);
        }
        self.arrive().await?;
        let ended = self.commit_steps().await?;
        self.is_busy = false;
        Ok(ended)
    }

    /// `ROLLBACK`.
    pub(crate) async fn rollback(&mut self) -> Result<(), PgError> {
        self.arrive().await?;
        if let Some(txn) = self.txn.take() {
            self.cluster.lock().abort(txn);
        }
        self.is_busy = false;
        Ok(())
    }
}

fn in_failed_transaction() -> PgError {
    PgError::refused("25P02", "current transaction is aborted")
}

fn chains(server: &Instance, txn: TxnNo, table: TableNo, keys: &[RowKey]) -> Vec<Option<u64>> {
    keys.iter().map(|key| server.chain_seen(txn, table, key)).collect()
}

fn fitting(
    server: &Instance,
    txn: TxnNo,
    table: TableNo,
    fits: &impl Fn(&[Value]) -> bool,
) -> Vec<(RowKey, Version)> {
    let seen = server.table(table).cells.iter();
    let seen = seen.filter_map(|(key, cell)| Some((key.clone(), cell.seen_by(txn)?.clone())));
    seen.filter(|(_, version)| fits(&version.values)).collect()
}

fn progress_seen(server: &Instance, txn: TxnNo) -> Vec<(String, i64)> {
    let rows = server.rows_seen(txn, PROGRESS);
    rows.iter().filter_map(|row| progress_row(row)).collect()
}
