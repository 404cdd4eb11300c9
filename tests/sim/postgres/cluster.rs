//! The cluster as the world holds it: sessions, crashes, backups, and what runs in the background.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use crate::dice::Dice;
use landfall_engine::postgres::lsn::Lsn;
use landfall_protocol::schema::TableName;
use landfall_protocol::value::{RowKey, Value};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::apply::aside_row;
use super::error::PgError;
use super::heap::{TableNo, TxnNo};
use super::instance::{ASIDE, Instance, META, OWN_TABLES, PROGRESS, progress_row};
use super::log::{Change, CommitRecord, Line, Log, Slot};
use super::options::Options;
use super::orphans::{OrphanStep, finish_orphan};
use super::session::{Session, Settings, SyncCommit};

/// The site's clock: microseconds since 1970.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// One cluster; clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Shared>);

struct Shared {
    server: Mutex<Instance>,
    clock: Clock,
    /// Who is told which rows replication has found that others reference.
    stalker: Mutex<Option<Stalker>>,
}

/// Takes the parents that replication has found.
type Stalker = mpsc::UnboundedSender<(TableNo, RowKey)>;

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

/// What the background has to do, and when.
#[derive(Debug, Default)]
pub(super) struct Chores {
    flush: Option<Instant>,
    checkpoint: Option<Instant>,
    orphans: Vec<Orphan>,
    /// Walsenders whose client is gone.
    dead_senders: Vec<(Instant, u64)>,
    wake: Arc<Notify>,
}

/// A transaction whose client is gone.
#[derive(Debug)]
struct Orphan {
    txn: TxnNo,
    /// When the server sees to it; nothing while it waits for the standby.
    due: Option<Instant>,
}

impl Chores {
    fn next(&self) -> Option<Instant> {
        let orphans = self.orphans.iter().filter_map(|orphan| orphan.due);
        let senders = self.dead_senders.iter().map(|(due, _)| *due);
        orphans.chain(senders).chain(self.flush).chain(self.checkpoint).min()
    }

    /// The standby reported: commits may be released.
    pub(super) fn retry_orphans(&mut self, now: Instant) {
        for orphan in &mut self.orphans {
            orphan.due.get_or_insert(now);
            self.wake.notify_waiters();
        }
    }

    pub(super) fn bury_sender(&mut self, sender: u64, due: Instant) {
        self.dead_senders.push((due, sender));
        self.wake.notify_waiters();
    }
}

/// All of a cluster at a moment, as a copy of its disk has it.
#[derive(Debug, Clone)]
pub(crate) struct Backup {
    log: Log,
    slot: Option<Slot>,
    timeline: u32,
    switches: Vec<(u32, Lsn)>,
}

impl Backup {
    /// The token that ties it to its store.
    pub(crate) fn token(&self) -> Option<Value> {
        let changes = self.log.records.iter().rev().flat_map(|record| record.changes.iter().rev());
        let token = |change: &Change| match change {
            Change::Row(row) if row.table == META => Some(row.new.as_ref()?[1].clone()),
            _ => None,
        };
        changes.filter_map(token).next()
    }
}

/// How a backup comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restore {
    /// As a copy of the disk: the slot is there.
    Disk,
    /// As a base backup: slots are not part of it.
    WithoutSlots,
    /// As a base backup that was promoted: a new timeline begins.
    Promoted,
}

/// What everybody sees at a moment, for those who check.
#[derive(Debug)]
pub(crate) struct View<'a>(&'a Instance);

impl Cluster {
    /// A running, empty cluster.
    pub(crate) fn new(
        options: Options,
        dice: Dice,
        clock: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Self {
        let server = Mutex::new(Instance::new(options, dice));
        Self(Arc::new(Shared { server, clock: Arc::new(clock), stalker: Mutex::default() }))
    }

    /// Does what the server does by itself. Must be polled for as long as the cluster is used.
    pub(crate) async fn run(&self) -> Infallible {
        loop {
            let (due, woken) = {
                let mut server = self.lock();
                self.do_chores(&mut server);
                (server.chores.next(), Arc::clone(&server.chores.wake).notified_owned())
            };
            match due {
                // Woken or not, it looks again.
                Some(due) => drop(tokio::time::timeout_at(due, woken).await),
                None => woken.await,
            }
        }
    }

    /// Opens a session.
    ///
    /// # Errors
    /// The server is down.
    pub(crate) async fn connect(&self, settings: Settings) -> Result<Session, PgError> {
        self.pause().await;
        let now = {
            let server = self.lock();
            if !server.is_up {
                return Err(PgError::Down);
            }
            (server.life, server.cuts)
        };
        Ok(Session::new(self.clone(), now, settings))
    }

    /// The place of an application's table.
    pub(crate) fn table(&self, name: &TableName) -> Option<TableNo> {
        self.lock().number_of(name)
    }

    /// Makes the replication slot at the end of the log.
    pub(crate) fn create_slot(&self) -> Lsn {
        let mut server = self.lock();
        let end = server.log.end;
        server.flush(end);
        server.slot = Some(Slot { confirmed: end, saved: end, held_by: None });
        end
    }

    /// The process is gone: every session ends, and what is not on disk is lost. What was written
    /// to the system but not synced may be there or not.
    pub(crate) fn crash(&self) {
        let mut server = self.lock();
        if !server.is_up {
            return;
        }
        let ends: Vec<Lsn> = server.log.unflushed_ends().collect();
        let kept = server.dice.below(ends.len() as u64 + 1) as usize;
        if let Some(last) = kept.checked_sub(1) {
            server.log.flush(ends[last]);
        }
        server.stop();
        self.forget_chores(&mut server);
    }

    /// Ends in an orderly way: all of the log is on disk, and what slots have confirmed, too.
    pub(crate) fn shut_down(&self) {
        let mut server = self.lock();
        let end = server.log.end;
        server.log.flush(end);
        if let Some(slot) = &mut server.slot {
            slot.saved = slot.confirmed;
        }
        server.ended_orderly = Some(server.life);
        server.stop();
        self.forget_chores(&mut server);
    }

    /// Starts after a crash, out of what is on disk.
    pub(crate) fn start(&self) {
        let mut server = self.lock();
        if !server.is_up {
            server.replay();
            server.is_up = true;
        }
    }

    /// Cuts all connections, sessions and streams alike; the server goes on.
    pub(crate) fn cut_connections(&self) {
        let mut server = self.lock();
        server.cuts += 1;
        let (now, open) = (Instant::now(), server.txns.keys().copied().collect::<Vec<_>>());
        for txn in open {
            let due = Some(now + server.throw_within(Duration::from_millis(20)));
            server.chores.orphans.push(Orphan { txn, due });
            server.txn(txn).wake.notify_waiters();
        }
        server.chores.wake.notify_waiters();
        server.log_wake.notify_waiters();
        server.standby_wake.notify_waiters();
        server.cut_wake.notify_waiters();
    }

    /// From now on no connection is lost by chance.
    pub(crate) fn lose_no_more(&self) {
        Arc::make_mut(&mut self.lock().options).lost_per_million = 0;
    }

    /// Takes the tables' constraints on numbers away.
    pub(crate) fn refuse_nothing(&self) {
        self.lock().tables.iter_mut().for_each(|table| table.spec.refused_above.clear());
    }

    /// What somebody could have seen that no constraint allows.
    pub(crate) fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    /// Whether sessions can be opened.
    pub(crate) fn is_up(&self) -> bool {
        self.lock().is_up
    }

    /// A copy of the disk as it is now.
    pub(crate) fn backup(&self) -> Backup {
        let server = self.lock();
        let mut log = server.log.clone();
        log.lose_unflushed();
        let slot =
            server.slot.clone().map(|slot| Slot { confirmed: slot.saved, held_by: None, ..slot });
        Backup { log, slot, timeline: server.timeline, switches: server.switches.clone() }
    }

    /// Puts a backup in the cluster's place, and starts it.
    pub(crate) fn restore(&self, backup: &Backup, how: Restore) {
        self.crash();
        {
            let mut server = self.lock();
            server.log = backup.log.clone();
            server.slot = backup.slot.clone().filter(|_| how == Restore::Disk);
            (server.timeline, server.switches) = (backup.timeline, backup.switches.clone());
            if how == Restore::Promoted {
                let end = server.log.end;
                server.switches.push((backup.timeline, end));
                server.timeline += 1;
            }
        }
        self.start();
    }

    /// Another server of the same kind, with a copy of this disk.
    pub(crate) fn twin(&self, dice: Dice) -> Self {
        let server = Mutex::new(Instance::new(Options::clone(&self.lock().options), dice));
        let clock = Arc::clone(&self.0.clock);
        let twin = Self(Arc::new(Shared { server, clock, stalker: Mutex::default() }));
        twin.restore(&self.backup(), Restore::Disk);
        twin
    }

    /// From now on, the rows that replication finds when it looks whether those are there that others
    /// reference.
    pub(crate) fn stalk(&self) -> mpsc::UnboundedReceiver<(TableNo, RowKey)> {
        let (stalker, found) = mpsc::unbounded_channel();
        *self.stalker() = Some(stalker);
        found
    }

    /// Tells whoever stalks which rows were found.
    pub(super) fn tell_parents<'k>(&self, table: TableNo, keys: impl Iterator<Item = &'k RowKey>) {
        if let Some(stalker) = &*self.stalker() {
            // Nobody is there any more who would care.
            keys.for_each(|key| drop(stalker.send((table, key.clone()))));
        }
    }

    fn stalker(&self) -> MutexGuard<'_, Option<Stalker>> {
        self.0.stalker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what everybody sees now.
    pub(crate) fn view<T>(&self, look: impl FnOnce(View<'_>) -> T) -> T {
        look(View(&self.lock()))
    }

    /// Committed transactions in the order of their commit records, from the place `from` on;
    /// those not on disk, or not visible yet, included.
    pub(crate) fn history(&self, from: usize) -> Vec<Arc<CommitRecord>> {
        self.lock().log.records.get(from..).unwrap_or_default().to_vec()
    }

    /// Where the last commit record ends; the beginning of the log when there is none.
    pub(crate) fn last_commit(&self) -> Lsn {
        self.lock().log.records.last().map_or(Lsn(0), |record| record.end)
    }

    /// Ends of the log, and of what of it is on disk.
    pub(crate) fn log_ends(&self) -> (Lsn, Lsn) {
        let server = self.lock();
        (server.log.end, server.log.flushed)
    }

    /// What the slot has confirmed; nothing when there is no slot.
    pub(crate) fn confirmed(&self) -> Option<Lsn> {
        self.lock().slot.as_ref().map(|slot| slot.confirmed)
    }

    /// Bytes of log the slot holds back.
    pub(crate) fn retained(&self) -> u64 {
        let server = self.lock();
        server.slot.as_ref().map_or(0, |slot| server.log.end.0.saturating_sub(slot.confirmed.0))
    }

    /// Writes log that is no transaction, as a checkpoint or another database does.
    pub(crate) fn write_other_log(&self, bytes: u64) {
        let mut server = self.lock();
        let next_xid = server.snapshot_xmin();
        let end = server.log.append(bytes, next_xid);
        server.flush(end);
    }

    /// `pg_cancel_backend` of all commits that wait for the standby.
    pub(crate) fn cancel_waits_for_standby(&self) {
        let mut server = self.lock();
        server.waits_cancelled += 1;
        server.standby_wake.notify_waiters();
    }

    /// Transactions that are not over, with whom they wait for.
    pub(crate) fn open_transactions(&self) -> Vec<String> {
        let server = self.lock();
        let line = |(no, txn): (&TxnNo, &super::instance::Txn)| {
            let waits = txn.waits_for.map(|by| format!(", waits for {}", by.0));
            format!("transaction {} ({:?}){}", no.0, txn.stage, waits.unwrap_or_default())
        };
        server.txns.iter().map(line).collect()
    }

    /// What the site's clock says.
    pub(super) fn now(&self) -> i64 {
        (self.0.clock)()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Instance> {
        // A step that panics ends the run.
        self.0.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets others go first, or time pass, as chance wants.
    pub(super) async fn pause(&self) {
        let (yields, sleep_ms) = self.lock().throw_pause();
        if yields {
            let mut is_second = false;
            poll_fn(|cx| {
                if std::mem::replace(&mut is_second, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        }
        if sleep_ms > 0 {
            tokio::time::sleep(Duration::from_millis(sleep_ms)).await;
        }
    }

    /// First step of a commit; an asynchronous one is on disk some time later.
    pub(super) fn log_commit(&self, server: &mut Instance, txn: TxnNo) -> Option<Lsn> {
        let end = server.log_commit(txn, self.now())?;
        if server.chores.flush.is_none() {
            let delay = server.throw_within(server.options.writer_delay);
            server.chores.flush = Some(Instant::now() + delay);
            server.chores.wake.notify_waiters();
        }
        Some(end)
    }

    /// Waits until the standby has reported what a commit of this kind waits for.
    pub(super) async fn standby(
        &self,
        sync: SyncCommit,
        end: Lsn,
        (life, cuts): (u64, u64),
    ) -> Result<(), PgError> {
        let mut cancelled = None;
        loop {
            let woken = {
                let server = self.lock();
                if (server.life, server.cuts) != (life, cuts) {
                    return Err(PgError::Lost);
                }
                let before = *cancelled.get_or_insert(server.waits_cancelled);
                if server.is_released(sync, end) || server.waits_cancelled > before {
                    return Ok(());
                }
                Arc::clone(&server.standby_wake).notified_owned()
            };
            woken.await;
        }
    }

    pub(super) fn commit_is_sent(&self, txn: TxnNo, life: u64) {
        let mut server = self.lock();
        if server.life == life
            && let Some(txn) = server.txns.get_mut(&txn)
        {
            txn.commit_sent = true;
        }
    }

    /// A transaction's client is gone; the server notices some time later.
    pub(super) fn orphan(&self, txn: TxnNo, life: u64) {
        let mut server = self.lock();
        if server.life == life && server.txns.contains_key(&txn) {
            let due = Some(Instant::now() + server.throw_within(Duration::from_millis(20)));
            server.chores.orphans.push(Orphan { txn, due });
            server.chores.wake.notify_waiters();
        }
    }

    fn forget_chores(&self, server: &mut Instance) {
        let wake = Arc::clone(&server.chores.wake);
        wake.notify_waiters();
        server.chores = Chores { wake, ..Chores::default() };
    }

    fn do_chores(&self, server: &mut Instance) {
        let now = Instant::now();
        let is_due = |due: &mut Instant| *due <= now;
        if server.chores.flush.take_if(is_due).is_some() {
            let end = server.log.end;
            server.flush(end);
        }
        if server.chores.checkpoint.take_if(is_due).is_some()
            && let Some(slot) = &mut server.slot
        {
            slot.saved = slot.confirmed;
        }
        for mut orphan in std::mem::take(&mut server.chores.orphans) {
            if orphan.due.is_some_and(|due| due <= now) {
                match finish_orphan(server, orphan.txn, self.now()) {
                    OrphanStep::Over => continue,
                    OrphanStep::Again => {
                        orphan.due = Some(now + server.throw_within(Duration::from_millis(5)));
                    }
                    OrphanStep::WaitsForStandby => orphan.due = None,
                }
            }
            server.chores.orphans.push(orphan);
        }
        let mut senders = std::mem::take(&mut server.chores.dead_senders);
        for (_, sender) in senders.extract_if(.., |(due, _)| *due <= now) {
            server.end_sender(sender);
        }
        server.chores.dead_senders = senders;
    }
}

impl Instance {
    /// Whether to let others go first, and for how many milliseconds.
    fn throw_pause(&mut self) -> (bool, u64) {
        let pauses = &self.options.pauses;
        let (yields, sleeps, most) = (pauses.yields, pauses.sleeps, pauses.sleep_ms_max);
        let thrown = self.dice.below(100 * 100);
        let sleep_ms = if thrown / 100 < sleeps { 1 + self.dice.below(most) } else { 0 };
        (thrown % 100 < yields, sleep_ms)
    }

    /// Whether a connection is lost now.
    pub(super) fn throw_loss(&mut self) -> bool {
        let chance = self.options.lost_per_million;
        chance > 0 && self.dice.below(1_000_000) < chance
    }

    /// The next checkpoint keeps what the slot has confirmed.
    pub(super) fn keep_slot_later(&mut self, now: Instant) {
        if self.chores.checkpoint.is_none() {
            let delay = self.throw_within(self.options.checkpoint_every);
            self.chores.checkpoint = Some(now + delay);
            self.chores.wake.notify_waiters();
        }
    }

    /// A duration of at least a millisecond and at most `most`.
    pub(super) fn throw_within(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(1 + self.dice.below(most))
    }
}

impl View<'_> {
    /// The rows of a table, by key.
    pub(crate) fn rows(&self, table: TableNo) -> impl Iterator<Item = (&RowKey, &Arc<[Value]>)> {
        let cells = self.0.table(table).cells.iter();
        cells.filter_map(|(key, cell)| Some((key, &cell.committed()?.values)))
    }

    /// The application's tables.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (TableNo, &TableName)> {
        let own = |(place, table): (usize, _)| (TableNo(place), table);
        let named = self.0.tables.iter().map(|table| &table.spec.def.name).enumerate().map(own);
        named.skip(OWN_TABLES)
    }

    /// The rows that `landfall.aside` lists, by table and key.
    pub(crate) fn aside(&self) -> BTreeSet<(String, RowKey)> {
        let listed = self.rows(ASIDE).filter_map(|(_, row)| aside_row(&row[0]));
        listed.map(|(table, key)| (table.to_string(), key)).collect()
    }

    /// How far every origin is applied.
    pub(crate) fn progress(&self) -> impl Iterator<Item = (String, i64)> {
        self.rows(PROGRESS).filter_map(|(_, row)| progress_row(row))
    }

    /// Lines of `landfall.conflict` and `landfall.parked`, in the order of their commits.
    pub(crate) fn lines(&self) -> &[Line] {
        &self.0.lines
    }
}
