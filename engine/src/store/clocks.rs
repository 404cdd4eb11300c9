//! Row clocks on disk.
//!
//! Changes are scattered over a table, and so are their clocks: written in place, a fold of a
//! thousand changes would rewrite nearly as many pages. So a fold appends its clocks to `clock_log`
//! as one blob, and they are kept in memory as well. When those take more than a limit, a sweep in
//! key order moves them into `clock`, a little with every round, many rows per page; behind it the
//! log is cut off.
//!
//! For every row with a clock, the newest one is in memory and in the log, or else in the table.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use landfall_protocol::codec::{DecodeError, Reader, Writer};
use landfall_protocol::dictionary::RowId;
use landfall_protocol::lattice::RowClock;
use landfall_protocol::schema::TableId;
use landfall_protocol::value::{RowKey, VALUE_BYTES_MAX};
use rusqlite::params;

use super::crc::{guard, unguard};
use super::error::StoreError;
use super::sql::{Database, blob, number, stored};
use super::state;

/// Memory a clock takes beside its key and its stored form, maps' slack included.
const CLOCK_BYTES: usize = 100;
/// Rows a sweep moves with a round that folded next to nothing.
const SWEEP_ROWS_MIN: usize = 64;

type Clocks = BTreeMap<RowId, RowClock>;

/// A clock in its stored form, which takes a third of the memory and is what is written.
#[derive(Debug)]
struct Packed(Box<[u8]>);

type PackedClocks = BTreeMap<RowId, Packed>;

impl Packed {
    /// Reads a clock to know that it is one.
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes = from.rest();
        RowClock::decode(from)?;
        let (clock, _) = bytes.split_at(bytes.len() - from.rest().len());
        Ok(Self(clock.into()))
    }

    fn clock(&self) -> RowClock {
        let clock = RowClock::decode(&mut Reader::new(&self.0));
        clock.expect("only what a clock was encoded to, or was read as one, gets in here")
    }
}

/// Clocks of the log that are not swept into the table yet, as committed.
#[derive(Debug, Default)]
pub(super) struct RecentClocks(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    clocks: PackedClocks,
    bytes: usize,
}

fn memory(row: &RowId, clock: &Packed) -> usize {
    row.key.as_bytes().len() + clock.0.len() + CLOCK_BYTES
}

impl Recent {
    fn put(&mut self, row: RowId, clock: Packed) {
        match self.clocks.entry(row) {
            Entry::Vacant(place) => {
                self.bytes += memory(place.key(), &clock);
                place.insert(clock);
            }
            Entry::Occupied(mut place) => {
                self.bytes += clock.0.len();
                self.bytes -= place.insert(clock).0.len();
            }
        }
    }

    fn remove(&mut self, row: &RowId) {
        if let Some(clock) = self.clocks.remove(row) {
            self.bytes -= memory(row, &clock);
        }
    }
}

impl RecentClocks {
    /// Reads the log.
    pub(super) fn load(db: &Database<'_>) -> Result<Self, StoreError> {
        let mut recent = Recent::default();
        let blobs = db.rows("SELECT id, data FROM clock_log ORDER BY id", [], |row| {
            let id = number(row, 0)?;
            state::decode("clock_log", &id.to_string(), blob(row, 1)?, decode)
        })?;
        for (row, clock) in blobs.into_iter().flatten() {
            recent.put(row, clock);
        }
        Ok(Self(Mutex::new(recent)))
    }

    /// The clocks of rows in the order asked, as far as they are here. Whoever goes on to look
    /// into the table must begin its snapshot afterwards: a clock leaves only when the table has
    /// it.
    pub(super) fn find(&self, rows: &[RowId]) -> Vec<Option<RowClock>> {
        let recent = self.lock();
        rows.iter().map(|row| recent.clocks.get(row).map(Packed::clock)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        // The state is whole after every statement under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing side.
pub(super) struct ClockWriter {
    recent: Arc<RecentClocks>,
    /// Memory that recent clocks may take before a sweep begins.
    bytes_max: usize,
    /// What the commands of the round put, in order.
    round: Vec<PackedClocks>,
    /// What the round moved into the table.
    moved: Vec<RowId>,
    sweep: Option<Sweep>,
    /// How the sweep stands once the round is committed.
    next_sweep: Option<Sweep>,
}

/// One pass over the recent clocks in key order.
#[derive(Clone, Debug)]
struct Sweep {
    /// The last row moved.
    after: Option<RowId>,
    /// The log up to here is in the table at the end of the pass.
    log_to: u64,
}

impl ClockWriter {
    pub(super) fn new(recent: Arc<RecentClocks>, bytes_max: usize) -> Self {
        let (round, moved) = (Vec::new(), Vec::new());
        Self { recent, bytes_max, round, moved, sweep: None, next_sweep: None }
    }

    /// The clocks of rows, as the round has left them so far.
    pub(super) fn load(
        &self,
        db: &Database<'_>,
        rows: BTreeSet<RowId>,
    ) -> Result<Clocks, StoreError> {
        let recent = self.recent.lock();
        let mut found = Clocks::new();
        for row in rows {
            let newest = self.round.iter().rev().find_map(|clocks| clocks.get(&row));
            let clock = match newest.or_else(|| recent.clocks.get(&row)) {
                Some(clock) => Some(clock.clock()),
                None => load(db, &row)?,
            };
            found.extend(clock.map(|clock| (row, clock)));
        }
        Ok(found)
    }

    /// Writes clocks to the log.
    pub(super) fn put(&mut self, db: &Database<'_>, clocks: Clocks) -> Result<(), StoreError> {
        if clocks.is_empty() {
            return Ok(());
        }
        let id = log_end(db)? + 1;
        let (data, clocks) = pack(clocks);
        let data = state::encode("clock_log", &id.to_string(), data);
        db.execute("INSERT INTO clock_log(id, data) VALUES (?1, ?2)", params![stored(id), data])?;
        self.round.push(clocks);
        Ok(())
    }

    /// How many times the round has put clocks, for [`ClockWriter::undo_to`].
    pub(super) fn mark(&self) -> usize {
        self.round.len()
    }

    /// Forgets what was put since `mark`, whose rows are rolled back.
    pub(super) fn undo_to(&mut self, mark: usize) {
        self.round.truncate(mark);
    }

    /// The last work of a round before its commit: begins a sweep or takes it further.
    pub(super) fn sweep(&mut self, db: &Database<'_>) -> Result<(), StoreError> {
        self.next_sweep = self.sweep.clone();
        if self.round.is_empty() {
            return Ok(());
        }
        let recent = self.recent.lock();
        let put: usize = self.round.iter().map(PackedClocks::len).sum();
        if self.next_sweep.is_none() {
            let put = self.round.iter().flatten();
            let bytes: usize = put.map(|(row, clock)| memory(row, clock)).sum();
            if recent.bytes + bytes <= self.bytes_max {
                return Ok(());
            }
            self.next_sweep = Some(Sweep { after: None, log_to: log_end(db)? });
        }
        let Some(sweep) = &mut self.next_sweep else { return Ok(()) };
        // Twice what comes in, so that every sweep ends.
        let limit = 2 * put + SWEEP_ROWS_MIN;
        let chunk = next_chunk(&recent.clocks, &self.round, sweep.after.as_ref(), limit);
        for (row, clock) in &chunk {
            put_in_table(db, row, clock)?;
        }
        if chunk.len() < limit {
            db.execute("DELETE FROM clock_log WHERE id <= ?1", [stored(sweep.log_to)])?;
            self.next_sweep = None;
        } else {
            sweep.after = chunk.last().map(|(row, _)| (*row).clone());
        }
        self.moved = chunk.into_iter().map(|(row, _)| row.clone()).collect();
        Ok(())
    }

    /// The round is committed; call it before anybody hears of it.
    pub(super) fn committed(&mut self) {
        let mut recent = self.recent.lock();
        for (row, clock) in self.round.drain(..).flatten() {
            recent.put(row, clock);
        }
        for row in self.moved.drain(..) {
            recent.remove(&row);
        }
        self.sweep = self.next_sweep.take();
    }

    /// The round is rolled back.
    pub(super) fn rolled_back(&mut self) {
        self.round.clear();
        self.moved.clear();
        self.next_sweep = None;
    }
}

/// The next rows in key order with their newest clocks.
fn next_chunk<'c>(
    recent: &'c PackedClocks,
    round: &'c [PackedClocks],
    after: Option<&RowId>,
    limit: usize,
) -> Vec<(&'c RowId, &'c Packed)> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let range = |clocks: &'c PackedClocks| clocks.range((from, Bound::Unbounded)).take(limit);
    let mut chunk: BTreeMap<&RowId, &Packed> = range(recent).collect();
    for clocks in round {
        chunk.extend(range(clocks));
    }
    chunk.into_iter().take(limit).collect()
}

fn log_end(db: &Database<'_>) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(max(id), 0) FROM clock_log";
    Ok(db.row(sql, [], |row| number(row, 0))?.unwrap_or_default())
}

/// What the log keeps of clocks, and each of them.
fn pack(clocks: Clocks) -> (Vec<u8>, PackedClocks) {
    let mut out = Writer::new();
    out.varint(clocks.len() as u64);
    let written = clocks.into_iter().map(|(row, clock)| {
        out.varint(u64::from(row.table.0));
        out.bytes(row.key.as_bytes());
        let begin = out.len();
        clock.encode(&mut out);
        (row, begin..out.len())
    });
    let written: Vec<_> = written.collect();
    let data = out.into_bytes();
    let packed = written.into_iter().map(|(row, place)| (row, Packed(data[place].into())));
    let packed = packed.collect();
    (data, packed)
}

fn decode(from: &mut Reader<'_>) -> Result<Vec<(RowId, Packed)>, DecodeError> {
    let clocks = (0..from.count(usize::MAX)?).map(|_| {
        let table = TableId(from.u32()?);
        let key = RowKey::from_bytes(from.bytes(VALUE_BYTES_MAX)?);
        Ok((RowId { table, key }, Packed::read(from)?))
    });
    clocks.collect()
}

/// The first clocks of a log.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn put_raw(db: &Database<'_>, row: RowId, clock: &RowClock) -> Result<(), StoreError> {
    let (data, _) = pack([(row, clock.clone())].into());
    let data = state::encode("clock_log", "1", data);
    db.execute("INSERT INTO clock_log(id, data) VALUES (1, ?1)", params![data])?;
    Ok(())
}

/// The clock of a row in the table.
pub(super) fn load(db: &Database<'_>, row: &RowId) -> Result<Option<RowClock>, StoreError> {
    db.row(
        "SELECT state FROM clock WHERE table_no = ?1 AND key = ?2",
        params![row.table.0, row.key.as_bytes()],
        |found| {
            let decoded = || {
                let mut from = Reader::new(unguard(&guard_key(row), blob(found, 0).ok()?)?);
                let clock = RowClock::decode(&mut from).ok()?;
                from.finish().ok()?;
                Some(clock)
            };
            // The key is data of the application: only the table is named.
            decoded().ok_or_else(|| StoreError::corrupt("clock", row.table.0))
        },
    )
}

fn put_in_table(db: &Database<'_>, row: &RowId, clock: &Packed) -> Result<(), StoreError> {
    db.execute(
        "INSERT OR REPLACE INTO clock(table_no, key, state) VALUES (?1, ?2, ?3)",
        params![row.table.0, row.key.as_bytes(), guard(&guard_key(row), clock.0.to_vec())],
    )?;
    Ok(())
}

fn guard_key(row: &RowId) -> Vec<u8> {
    [&row.table.0.to_le_bytes(), row.key.as_bytes()].concat()
}
