//! A store for the simulator: the same commands, SQL and state, on a database in memory and without
//! threads. What the threads do is done by a future, which waits where the simulator wants other
//! things to happen, or a crash.
//!
//! A crash is to drop the future: what was committed is on the [`MemoryDisk`], the rest is gone.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::{LocalBoxFuture, join};
use landfall_protocol::fold::MarkerKey;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use tokio::sync::{mpsc, watch};

use super::ballast::Ballast;
use super::clocks::{ClockWriter, RecentClocks};
use super::layout::{self, Paths};
use super::reader::{ReadCommand, Reader};
use super::record::{Identity, Log, Opened, Settings};
use super::sql::Database;
use super::state::State;
use super::writer::{Signer, WriteCommand, Writer, take_queued};
use super::{Parts, Store, StoreError};
use crate::plant;

/// Small pages, because disks are copied.
const PAGE_BYTES: i64 = 1024;
/// More pages than any simulation fills.
const PAGES_MAX: u32 = 1 << 24;

/// What stands behind checksums, by table and column.
const GUARDED: [(&str, &str); 13] = [
    ("meta", "value"),
    ("tail", "data"),
    ("unit", "bytes"),
    ("unit", "hash"),
    ("origin", "state"),
    ("own_table", "def"),
    ("foreign_table", "def"),
    ("clock", "state"),
    ("clock_log", "data"),
    ("parked", "state"),
    ("peer", "state"),
    ("bundle", "state"),
    ("begun", "data"),
];

/// Where a store waits for the simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Commands are there, and nothing is done yet.
    BeforeCommit,
    /// Everything is durable, and nobody has been told.
    AfterCommit,
    /// A question is there.
    BeforeRead,
}

/// How fast a store is, and what its disk takes.
pub trait Pace {
    /// Waits as long as the simulator likes.
    fn pause(&self, moment: Moment) -> LocalBoxFuture<'static, ()>;
    /// Whether the database may grow.
    fn has_room(&self) -> bool;
    /// A round was committed to this disk.
    fn committed(&self, disk: &MemoryDisk);
}

/// A database that outlives the stores over it, as a disk outlives processes.
#[derive(Debug)]
pub struct MemoryDisk {
    connection: Connection,
    is_limited: Cell<bool>,
}

impl MemoryDisk {
    /// A new store's disk; see [`Store::create`].
    ///
    /// # Errors
    /// SQLite's.
    pub fn new(
        identity: Identity,
        marker_secret: [u8; 32],
        start_lsn: u64,
    ) -> Result<Self, StoreError> {
        thread_local! {
            // Making the tables takes longer than everything else.
            static EMPTY: Result<MemoryDisk, StoreError> = MemoryDisk::empty();
        }
        let disk = EMPTY.with(|empty| empty.as_ref().map_err(Clone::clone)?.copy())?;
        let mut state = State::new(identity, MarkerKey::new(marker_secret), start_lsn);
        disk.connection.execute_batch("BEGIN")?;
        state.create(&Database::new(&disk.connection))?;
        disk.connection.execute_batch("COMMIT")?;
        Ok(disk)
    }

    fn empty() -> Result<Self, StoreError> {
        let connection = Connection::open_in_memory()?;
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        layout::make_tables(&connection)?;
        Ok(Self { connection, is_limited: Cell::new(false) })
    }

    /// A disk with the same content, as far as it is committed.
    ///
    /// # Errors
    /// SQLite's.
    pub fn copy(&self) -> Result<Self, StoreError> {
        let mut connection = Connection::open_in_memory()?;
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        let step = Backup::new(&self.connection, &mut connection)?.step(-1)?;
        if step != StepResult::Done {
            return Err(StoreError::corrupt("copy", format!("{step:?}")));
        }
        connection.pragma_update(None, "foreign_keys", false)?;
        layout::keep_plans(&connection)?;
        Ok(Self { connection, is_limited: Cell::new(false) })
    }

    /// How far the store on it is, by what is committed.
    ///
    /// # Errors
    /// As every read.
    pub fn log(&self) -> Result<Log, StoreError> {
        Ok(State::load(&Database::new(&self.connection))?.log())
    }

    /// Flips one bit of what is stored, as a disk does that goes bad; says in which table, if there is
    /// anything. `pick` draws a number below its argument.
    ///
    /// # Errors
    /// SQLite's.
    pub fn flip(
        &self,
        mut pick: impl FnMut(u64) -> u64,
    ) -> Result<Option<&'static str>, StoreError> {
        let count = |(table, _): &(&str, &str)| {
            let sql = format!("SELECT count(*) FROM {table}");
            self.connection.query_row(&sql, [], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
        };
        let counts = GUARDED.iter().map(count).collect::<Result<Vec<u64>, _>>()?;
        let full: Vec<usize> = (0..counts.len()).filter(|place| counts[*place] > 0).collect();
        if full.is_empty() {
            return Ok(None);
        }
        let place = full[pick(full.len() as u64) as usize];
        let (table, column) = GUARDED[place];
        let sql = format!("SELECT {column} FROM {table} LIMIT 1 OFFSET {}", pick(counts[place]));
        let before: Vec<u8> = self.connection.query_row(&sql, [], |row| row.get(0))?;
        let mut after = before.clone();
        let bit = pick(after.len() as u64 * 8) as usize;
        if let Some(byte) = after.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        let sql = format!("UPDATE {table} SET {column} = ?1 WHERE {column} = ?2");
        self.connection.execute(&sql, [after, before])?;
        Ok(Some(table))
    }

    /// Undoes what the last process left half done.
    fn recover(&self) -> Result<(), StoreError> {
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        Ok(())
    }

    fn limit(&self, has_room: bool) -> Result<(), StoreError> {
        if self.is_limited.replace(!has_room) == has_room {
            // SQLite takes the present size when the limit is below.
            let pages = if has_room { PAGES_MAX } else { 1 };
            self.connection.pragma_update(None, "max_page_count", pages)?;
        }
        Ok(())
    }
}

impl Store {
    /// Opens the store on `disk`. It works while the future is polled.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn simulated(
        disk: Rc<MemoryDisk>,
        settings: &Settings,
        signer: Signer,
        fleet_version: u64,
        pace: Rc<dyn Pace>,
    ) -> Result<(Self, Opened, LocalBoxFuture<'static, ()>), StoreError> {
        disk.recover()?;
        let db = Database::new(&disk.connection);
        let (state, recent) = (State::load(&db)?, Arc::new(RecentClocks::load(&db)?));
        drop(db);
        let paths = Paths::new("simulated".as_ref());
        let ballast = Ballast::open(paths.ballast.clone(), 0)?;
        let Parts { store, opened, tools, mut write_commands, mut read_commands } =
            Parts::new(settings, &state, signer, fleet_version, ballast);
        let clocks = ClockWriter::new(Arc::clone(&recent), settings.recent_clocks_bytes);
        let (soon, early) = watch::channel(opened.log.clone());
        let early = plant::active("send-before-sync").then_some(early);
        let soon = early.is_some().then_some(soon);
        let store = Self { early, ..store };
        let caches = (Arc::clone(&tools.units), recent);
        let own = opened.identity.origin;
        let work = async move {
            let database = || Database::new(&disk.connection);
            let mut writer = Writer::new(database(), state, tools, clocks);
            let reader = Reader::new(&disk.connection, paths, own, caches);
            let writing = write(&mut writer, &disk, &mut write_commands, (&*pace, soon));
            let reading = read(&reader, &mut read_commands, &*pace);
            join(writing, reading).await;
        };
        Ok((store, opened, Box::pin(work)))
    }
}

async fn write(
    writer: &mut Writer<'_>,
    disk: &MemoryDisk,
    commands: &mut mpsc::Receiver<WriteCommand>,
    (pace, soon): (&dyn Pace, Option<watch::Sender<Log>>),
) {
    while let Some(first) = commands.recv().await {
        pace.pause(Moment::BeforeCommit).await;
        if let Err(error) = disk.limit(pace.has_room()) {
            tracing::error!(%error, "the simulated disk cannot be limited");
        }
        let (round, close) = take_queued(first, commands);
        let round = writer.round(round);
        if let Some(soon) = &soon {
            tell(soon, round.own_log_at_once());
            pace.pause(Moment::BeforeCommit).await;
        }
        pace.committed(disk);
        pace.pause(Moment::AfterCommit).await;
        round.tell();
        if let Some(soon) = &soon {
            tell(soon, writer.tools.news.borrow().clone());
        }
        if let Some(closed) = close {
            writer.record_position();
            // Nobody listening any more is no reason to complain.
            let _ = closed.send(());
            return;
        }
    }
}

/// Tells what is news; what was tried in vain is none.
fn tell(soon: &watch::Sender<Log>, log: Log) {
    soon.send_if_modified(|told| {
        let is_news = *told != log;
        *told = log;
        is_news
    });
}

async fn read(reader: &Reader<'_>, commands: &mut mpsc::Receiver<ReadCommand>, pace: &dyn Pace) {
    while let Some(ReadCommand::Read(read)) = commands.recv().await {
        pace.pause(Moment::BeforeRead).await;
        reader.answer(read);
    }
}
