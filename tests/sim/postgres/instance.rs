//! The server's shared memory: every step of every session, each done at once.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::dice::Dice;
use landfall_engine::postgres::lsn::Lsn;
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableName};
use landfall_protocol::value::{RowKey, Value};
use tokio::sync::Notify;

use super::cluster::Chores;
use super::error::PgError;
use super::heap::{Cell, Strength, Table, TableNo, TxnNo, Version};
use super::log::{Change, CommitRecord, Line, Log, RowChange, Slot};
use super::options::{Options, TableSpec};
use super::session::SyncCommit;

/// `landfall.progress`.
pub(crate) const PROGRESS: TableNo = TableNo(0);
/// `landfall.meta`.
pub(crate) const META: TableNo = TableNo(1);
/// `landfall.aside`.
pub(crate) const ASIDE: TableNo = TableNo(2);
/// How many tables stand before the application's.
pub(crate) const OWN_TABLES: usize = 3;

/// Bytes of log that a row, a commit and an abort take, roughly.
const ROW_BYTES: u64 = 120;
const COMMIT_BYTES: u64 = 48;
const ABORT_BYTES: u64 = 34;

/// What trying a step came to.
#[derive(Debug)]
pub(super) enum Step<T> {
    Done(T),
    /// This transaction is in the way.
    Wait(TxnNo),
}

/// How far a commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has not begun.
    Open,
    /// Its record is in the log and ends here.
    Logged(Lsn),
}

/// A savepoint, with what had been done before it.
#[derive(Debug)]
struct Level {
    xid: Option<u64>,
    touched: usize,
    changes: usize,
    lines: usize,
}

/// A transaction that is not over.
#[derive(Debug)]
pub(super) struct Txn {
    xid: Option<u64>,
    levels: Vec<Level>,
    /// Rows it locked or wrote.
    touched: Vec<(TableNo, RowKey)>,
    changes: Vec<Change>,
    lines: Vec<Line>,
    /// Tells those who wait for it.
    pub(super) wake: Arc<Notify>,
    pub(super) waits_for: Option<TxnNo>,
    /// A statement failed; only a rollback is taken.
    pub(super) failed: bool,
    pub(super) stage: Stage,
    /// `COMMIT` is on its way.
    pub(super) commit_sent: bool,
    pub(super) sync: SyncCommit,
    pub(super) tag: Option<u64>,
}

/// The positions the walsender's client reported.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standby {
    pub(super) write: Lsn,
    pub(super) flush: Lsn,
    pub(super) apply: Lsn,
    /// It has been sent everything once; before that its reports release nobody.
    pub(super) caught_up: bool,
}

/// The server.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) options: Arc<Options>,
    pub(super) dice: Dice,
    /// Counts the lives of the process.
    pub(super) life: u64,
    pub(super) is_up: bool,
    /// Counts the times all connections were cut.
    pub(super) cuts: u64,
    /// The life that ended in an orderly way, if the last one did.
    pub(super) ended_orderly: Option<u64>,
    pub(super) tables: Vec<Table>,
    /// Lines of `landfall.conflict` and `landfall.parked`.
    pub(super) lines: Vec<Line>,
    pub(super) txns: BTreeMap<TxnNo, Txn>,
    pub(super) log: Log,
    pub(super) slot: Option<Slot>,
    pub(super) standby: Standby,
    pub(super) timeline: u32,
    /// The timelines before, and where they ended.
    pub(super) switches: Vec<(u32, Lsn)>,
    /// Counts walsenders.
    pub(super) senders: u64,
    /// Tells walsenders of flushed log.
    pub(super) log_wake: Arc<Notify>,
    /// Tells commits of the standby's reports.
    pub(super) standby_wake: Arc<Notify>,
    /// Tells sessions that they are cut off.
    pub(super) cut_wake: Arc<Notify>,
    /// What the background has to do.
    pub(super) chores: Chores,
    /// How often commits that waited for the standby were told not to.
    pub(super) waits_cancelled: u64,
    /// What somebody could have seen that no constraint allows.
    pub(super) broken: Option<String>,
    next_txn: u64,
    next_xid: u64,
    next_chain: u64,
}

impl Instance {
    /// Whether it still serves a connection that was made in this life, after so many cuts.
    pub(super) fn serves(&self, (life, cuts): (u64, u64)) -> bool {
        self.is_up && self.life == life && self.cuts == cuts
    }

    pub(super) fn new(options: Options, mut dice: Dice) -> Self {
        let own = [
            own_table("progress", "origin", ("seq", "bigint")),
            own_table("meta", "key", ("value", "text")),
            own_table("aside", "row", ("line", "text")),
        ];
        let specs = own.into_iter().chain(options.tables.iter().cloned());
        let start = Lsn(0x0150_0000 + dice.below(1 << 20) * 8);
        let next_xid = options.first_xid;
        Self {
            tables: specs.map(Table::new).collect(),
            options: Arc::new(options),
            dice,
            life: 0,
            is_up: true,
            cuts: 0,
            ended_orderly: None,
            lines: Vec::new(),
            txns: BTreeMap::new(),
            log: Log::new(start, next_xid),
            slot: None,
            standby: Standby::default(),
            timeline: 1,
            switches: Vec::new(),
            senders: 0,
            log_wake: Arc::default(),
            standby_wake: Arc::default(),
            cut_wake: Arc::default(),
            chores: Chores::default(),
            waits_cancelled: 0,
            broken: None,
            next_txn: 0,
            next_xid,
            next_chain: 0,
        }
    }

    pub(super) fn table(&self, table: TableNo) -> &Table {
        &self.tables[table.0]
    }

    pub(super) fn number_of(&self, name: &TableName) -> Option<TableNo> {
        self.tables.iter().position(|table| table.spec.def.name == *name).map(TableNo)
    }

    pub(super) fn txn(&mut self, txn: TxnNo) -> &mut Txn {
        self.txns.get_mut(&txn).expect("a session's transaction is known until it ends")
    }

    pub(super) fn begin(&mut self, sync: SyncCommit, tag: Option<u64>) -> TxnNo {
        self.next_txn += 1;
        let txn = TxnNo(self.next_txn);
        let begun = Txn {
            xid: None,
            levels: Vec::new(),
            touched: Vec::new(),
            changes: Vec::new(),
            lines: Vec::new(),
            wake: Arc::default(),
            waits_for: None,
            failed: false,
            stage: Stage::Open,
            commit_sent: false,
            sync,
            tag,
        };
        self.txns.insert(txn, begun);
        txn
    }

    /// The id under which `txn` writes now.
    fn xid_of(&mut self, txn: TxnNo) -> u64 {
        let Self { txns, next_xid, .. } = self;
        let txn = txns.get_mut(&txn).expect("a session's transaction is known until it ends");
        let above = txn.levels.iter_mut().map(|level| &mut level.xid);
        let mut newest = 0;
        for xid in std::iter::once(&mut txn.xid).chain(above) {
            newest = *xid.get_or_insert_with(|| {
                let given = *next_xid;
                // Of each turn of the lower half the server keeps three for itself.
                *next_xid = if (given + 1) as u32 == 0 { given + 4 } else { given + 1 };
                given
            });
        }
        newest
    }

    /// `pg_snapshot_xmin(pg_current_snapshot())`.
    pub(super) fn snapshot_xmin(&self) -> u64 {
        self.txns.values().filter_map(|txn| txn.xid).min().unwrap_or(self.next_xid)
    }

    /// Whether a new snapshot sees what the transaction of this 32-bit id did, if it committed.
    pub(super) fn is_over(&self, xid: u32) -> bool {
        !self.txns.values().any(|txn| txn.xid.is_some_and(|running| running as u32 == xid))
    }

    /// The chain of the row that `txn` sees under a key.
    pub(super) fn chain_seen(&self, txn: TxnNo, table: TableNo, key: &RowKey) -> Option<u64> {
        Some(self.table(table).cells.get(key)?.seen_by(txn)?.chain)
    }

    /// Locks a row of this chain, if it is still there; gives its newest version.
    pub(super) fn lock_row(
        &mut self,
        txn: TxnNo,
        (table, key): (TableNo, &RowKey),
        chain: u64,
        strength: Strength,
    ) -> Step<Option<Version>> {
        let Some(cell) = self.table(table).cells.get(key) else { return Step::Done(None) };
        if let Some(by) = cell.in_the_way(txn, strength) {
            return Step::Wait(by);
        }
        let Some(version) = cell.seen_by(txn).filter(|version| version.chain == chain).cloned()
        else {
            return Step::Done(None);
        };
        self.take_lock(txn, (table, key), strength);
        Step::Done(Some(version))
    }

    fn take_lock(&mut self, txn: TxnNo, (table, key): (TableNo, &RowKey), strength: Strength) {
        self.xid_of(txn);
        let depth = self.txn(txn).levels.len();
        let cell = self.tables[table.0].cells.entry(key.clone()).or_default();
        if cell.lock(txn, depth, strength) {
            self.txn(txn).touched.push((table, key.clone()));
        }
    }

    /// Whether a row stands under a key, once nobody else is about to write it.
    pub(super) fn find_unique(&self, txn: TxnNo, table: TableNo, key: &RowKey) -> Step<bool> {
        let Some(cell) = self.table(table).cells.get(key) else { return Step::Done(false) };
        match cell.writer().filter(|by| *by != txn) {
            Some(by) => Step::Wait(by),
            None => Step::Done(cell.seen_by(txn).is_some()),
        }
    }

    /// Writes a row that is locked, or under a key that is free: `old` is its version, `new` what
    /// it becomes.
    pub(super) fn write(
        &mut self,
        txn: TxnNo,
        table: TableNo,
        old: Option<&Version>,
        new: Option<Arc<[Value]>>,
    ) {
        let xid = self.xid_of(txn);
        let old_key = old.map(|old| self.table(table).key_of(&old.values));
        let new_key = new.as_ref().map(|new| self.table(table).key_of(new));
        if let Some(key) = old_key.as_ref().filter(|key| new_key.as_ref() != Some(key)) {
            self.put(txn, (table, key), None);
        }
        if let (Some(key), Some(values)) = (&new_key, &new) {
            let stays = old.filter(|_| old_key.as_ref() == Some(key));
            let chain = stays.map_or_else(|| self.new_chain(), |old| old.chain);
            let version = Version { chain, xmin: xid, values: Arc::clone(values) };
            self.put(txn, (table, key), Some(version));
        }
        let lsn = self.log.append(ROW_BYTES, self.next_xid);
        let old = old.map(|old| Arc::clone(&old.values));
        self.txn(txn).changes.push(Change::Row(RowChange { table, lsn, xid, old, new }));
    }

    fn put(&mut self, txn: TxnNo, (table, key): (TableNo, &RowKey), version: Option<Version>) {
        let depth = self.txn(txn).levels.len();
        let cell = self.tables[table.0].cells.entry(key.clone()).or_default();
        cell.lock(txn, depth, Strength::NoKeyUpdate);
        cell.write(txn, depth, version);
        self.txn(txn).touched.push((table, key.clone()));
    }

    fn new_chain(&mut self) -> u64 {
        self.next_chain += 1;
        self.next_chain
    }

    /// Writes a transactional logical message; gives its position.
    pub(super) fn emit(&mut self, txn: TxnNo, prefix: &'static str, content: Arc<[u8]>) -> Lsn {
        self.xid_of(txn);
        let lsn = self.log.append(content.len() as u64 + 60, self.next_xid);
        self.txn(txn).changes.push(Change::Message { lsn, prefix, content });
        lsn
    }

    pub(super) fn write_line(&mut self, txn: TxnNo, line: Line) {
        self.xid_of(txn);
        self.log.append(ROW_BYTES, self.next_xid);
        self.txn(txn).lines.push(line);
    }

    pub(super) fn set_savepoint(&mut self, txn: TxnNo) {
        let txn = self.txn(txn);
        let (touched, changes, lines) = (txn.touched.len(), txn.changes.len(), txn.lines.len());
        txn.levels.push(Level { xid: None, touched, changes, lines });
    }

    /// Forgets the innermost savepoint and keeps what was done since.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn release(&mut self, txn: TxnNo) -> Result<(), PgError> {
        let Self { tables, txns, .. } = self;
        let ours = txns.get_mut(&txn).expect("a session's transaction is known until it ends");
        let depth = ours.levels.len();
        let level = ours.levels.pop().ok_or_else(no_savepoint)?;
        for (table, key) in &ours.touched[level.touched..] {
            tables[table.0].edit(key, |cell| cell.keep(txn, depth));
        }
        Ok(())
    }

    /// Undoes what was done since the innermost savepoint, which stays. What failed is forgiven.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn roll_back_to_savepoint(&mut self, txn: TxnNo) -> Result<(), PgError> {
        if self.txn(txn).levels.is_empty() {
            return Err(no_savepoint());
        }
        self.undo_level(txn);
        self.txn(txn).failed = false;
        Ok(())
    }

    /// A statement failed: what it may have kept from others is theirs at once.
    pub(super) fn fail(&mut self, txn: TxnNo) {
        self.undo_level(txn);
        self.txn(txn).failed = true;
    }

    fn undo_level(&mut self, txn: TxnNo) {
        let Self { tables, txns, log, next_xid, .. } = self;
        let ours = txns.get_mut(&txn).expect("a session's transaction is known until it ends");
        let depth = ours.levels.len();
        let (touched, changes, lines, xid) = match ours.levels.last_mut() {
            Some(level) => (level.touched, level.changes, level.lines, level.xid.take()),
            None => (0, 0, 0, ours.xid.take()),
        };
        for (table, key) in ours.touched.drain(touched..).rev() {
            tables[table.0].edit(&key, |cell| cell.undo(txn, depth));
        }
        ours.changes.truncate(changes);
        ours.lines.truncate(lines);
        ours.waits_for = None;
        if xid.is_some() {
            log.append(ABORT_BYTES, *next_xid);
        }
        ours.wake.notify_waiters();
    }

    /// Ends a transaction without a trace.
    pub(super) fn abort(&mut self, txn: TxnNo) {
        self.txn(txn).levels.clear();
        self.undo_level(txn);
        self.txns.remove(&txn);
    }

    /// First step of a commit: its record is in the log. Without one nothing was written.
    pub(super) fn log_commit(&mut self, txn: TxnNo, clock: i64) -> Option<Lsn> {
        let inverted = if self.dice.below(20) == 0 { self.dice.below(50) as i64 } else { 0 };
        let next_xid = self.next_xid;
        let ours = self.txns.get_mut(&txn).filter(|ours| ours.xid.is_some())?;
        let record = CommitRecord {
            xid: ours.xid?,
            lsn: self.log.end,
            end: self.log.append(COMMIT_BYTES, next_xid),
            time: clock - inverted,
            changes: std::mem::take(&mut ours.changes),
            lines: std::mem::take(&mut ours.lines),
            tag: ours.tag,
            visible: OnceLock::new(),
        };
        ours.stage = Stage::Logged(record.end);
        let end = record.end;
        self.log.records.push(Arc::new(record));
        Some(end)
    }

    /// The log is on disk up to here.
    pub(super) fn flush(&mut self, position: Lsn) {
        if self.log.flush(position) {
            self.log_wake.notify_waiters();
        }
    }

    /// Whether the standby has reported what a commit waits for.
    pub(super) fn is_released(&self, sync: SyncCommit, end: Lsn) -> bool {
        let Standby { write, flush, apply, caught_up } = self.standby;
        let reported = match sync {
            SyncCommit::Off | SyncCommit::Local => return true,
            SyncCommit::RemoteWrite => write,
            SyncCommit::On => flush,
            SyncCommit::RemoteApply => apply,
        };
        !self.options.has_sync_standby || caught_up && flush.is_valid() && reported >= end
    }

    /// Third step of a commit: everybody sees it. Those who wait for it are not woken yet.
    pub(super) fn make_visible(&mut self, txn: TxnNo) -> Arc<Notify> {
        let Self { tables, txns, log, lines, .. } = &mut *self;
        let ours = txns.remove(&txn).expect("a session's transaction is known until it ends");
        for (table, key) in &ours.touched {
            tables[table.0].edit(key, |cell| cell.settle(txn));
        }
        if let Stage::Logged(end) = ours.stage
            && let Ok(place) = log.records.binary_search_by_key(&end, |record| record.end)
        {
            lines.extend(log.records[place].lines.iter().cloned());
            log.records[place].visible.get_or_init(|| log.end);
        }
        self.look_for_orphans();
        ours.wake
    }

    /// Whether `txn` waits for itself.
    pub(super) fn is_deadlocked(&self, txn: TxnNo) -> bool {
        let mut at = txn;
        for _ in 0..=self.txns.len() {
            match self.txns.get(&at).and_then(|waiting| waiting.waits_for) {
                Some(next) if next == txn => return true,
                Some(next) => at = next,
                None => return false,
            }
        }
        false
    }

    /// The process is gone, and with it all that is not on disk.
    pub(super) fn stop(&mut self) {
        self.life += 1;
        self.is_up = false;
        for txn in std::mem::take(&mut self.txns).into_values() {
            txn.wake.notify_waiters();
        }
        self.log_wake.notify_waiters();
        self.standby_wake.notify_waiters();
        self.cut_wake.notify_waiters();
        self.standby = Standby::default();
        self.log.lose_unflushed();
        if let Some(slot) = &mut self.slot {
            slot.confirmed = slot.saved;
            slot.held_by = None;
        }
    }

    /// Makes the rows anew out of the log.
    pub(super) fn replay(&mut self) {
        self.tables.iter_mut().for_each(|table| table.cells.clear());
        self.lines.clear();
        self.next_xid = self.log.durable_next_xid;
        for record in &self.log.records {
            for change in &record.changes {
                let Change::Row(RowChange { table, xid, old, new, .. }) = change else { continue };
                let table = &mut self.tables[table.0];
                if let Some(old) = old {
                    table.cells.remove(&table.key_of(old));
                }
                if let Some(values) = new {
                    self.next_chain += 1;
                    let (chain, values) = (self.next_chain, Arc::clone(values));
                    let key = table.key_of(&values);
                    table.cells.insert(key, Cell::of(Version { chain, xmin: *xid, values }));
                }
            }
            self.lines.extend(record.lines.iter().cloned());
        }
        self.look_for_orphans();
    }
}

/// Origin and number of a row of `landfall.progress`.
pub(super) fn progress_row(row: &[Value]) -> Option<(String, i64)> {
    match row {
        [Value::Text(origin), Value::Int(seq)] => Some((origin.to_string(), *seq)),
        _ => None,
    }
}

fn no_savepoint() -> PgError {
    PgError::refused("3B001", "savepoint does not exist")
}

/// A table of ours, of two columns.
fn own_table(name: &str, key: &str, (value, type_name): (&str, &str)) -> TableSpec {
    let column = |name: &str, type_name: &str| ColumnDef {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
    };
    let def = TableDef {
        name: TableName::new("landfall", name),
        set: SetId(1),
        columns: vec![column(key, "text"), column(value, type_name)],
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    };
    TableSpec { is_published: false, ..TableSpec::new(def) }
}
