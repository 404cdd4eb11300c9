//! The store: everything a daemon must not forget, in one SQLite file.
//!
//! One ordinary thread owns the writing connection. It takes every command that is queued, runs
//! them in one transaction, commits it with a sync of the disk, and only then answers and
//! publishes the [`Log`]. The next round begins when that sync has returned: under load many
//! commands share one sync, alone none waits for others. A second thread answers questions from a
//! read-only connection.
//!
//! ```text
//! let (store, opened) = Store::open(dir, &Settings::default(), signer, fleet_version)?;
//! let start = store.position().await?;                       // read the WAL from here
//! store.learn(tables).await?;
//! let folded = store.fold(batch, end_lsn, Vec::new()).await?; // durable: confirm folded.fold_lsn
//! ```
//!
//! A fold that fails changes nothing. Whoever reads the WAL must then begin again at
//! [`Store::position`]; folds that were already on their way are refused.

mod ballast;
mod begun;
mod bond;
mod clocks;
mod compaction;
mod crc;
mod error;
mod folding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod layout;
mod parked;
mod reader;
mod record;
mod register;
mod sealing;
#[cfg(feature = "simulation")]
mod simulated;
mod sql;
mod state;
mod tail;
#[cfg(test)]
mod tests;
mod units;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use landfall_protocol::change::Transaction;
use landfall_protocol::clock::Hlc;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{CapturedTransaction, ChangeId, Fold, MarkerKey, Obstacle};
use landfall_protocol::id::{Origin, Seq, TxnId};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::schema::{TableDef, TableId};
use landfall_protocol::unit::{Unit, UnitHash};
use landfall_protocol::version::VersionVector;
use landfall_protocol::wire::Begun;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

pub use begun::{BEGUN_UNIT_BYTES_MAX, BegunFate, MoreBegun};
pub use bond::{Bond, Token};
pub use compaction::Compaction;
pub use error::{Severity, StoreError};
pub use parked::{ParkedPage, ParkedPlace, Rejoined};
pub use record::{
    Advance, Appended, Backlog, DatabaseIdentity, Dirt, DirtyRow, Folded, Held, Identity, Log,
    OpenUnit, Opened, PeerRecord, Resume, Sealing, Settings, Sizes, Statistics,
};
pub use register::{PartFate, PartRecord};
#[cfg(feature = "simulation")]
pub use simulated::{MemoryDisk, Moment, Pace};
pub use writer::Signer;

use crate::random;
use ballast::Ballast;
use clocks::{ClockWriter, RecentClocks};
use layout::Paths;
use reader::{Read, ReadCommand, Reader};
use sql::Database;
use state::State;
use units::UnitCache;
use writer::{Act, Companions, Counters, ROUND_COMMANDS_MAX, Tools, Work, WriteCommand, Writer};

/// Commands waiting for the writing thread; more of them wait in their senders.
const WRITE_QUEUE: usize = ROUND_COMMANDS_MAX;
/// Questions waiting for the reading thread.
const READ_QUEUE: usize = 64;

/// A handle to an open store; clones share it. When the last is dropped the store closes by
/// itself, which the end of [`Store::watch`] tells.
#[derive(Clone)]
pub struct Store {
    writes: mpsc::Sender<WriteCommand>,
    reads: mpsc::Sender<ReadCommand>,
    news: watch::Receiver<Log>,
    counters: Arc<Counters>,
    fold_epoch: Arc<AtomicU64>,
    /// What links are told where they are told too early.
    #[cfg(feature = "simulation")]
    early: Option<watch::Receiver<Log>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Makes a store in `dir`, whose fold will begin at `start_lsn`.
    ///
    /// # Errors
    /// Fails when there is one already or the files cannot be written.
    pub fn create(dir: &Path, identity: &Identity, start_lsn: u64) -> Result<(), StoreError> {
        // It will hold copies of rows: nobody else is to read them.
        let mut private = std::fs::DirBuilder::new();
        let made = private.recursive(true).mode(0o700).create(dir);
        made.map_err(|error| StoreError::file("create", dir, &error))?;
        let paths = Paths::new(dir);
        let _lock = paths.lock()?;
        let mut secret = [0; 32];
        random::fill(&mut secret).map_err(|error| {
            StoreError::file("draw a secret for", dir, &std::io::Error::other(error.to_string()))
        })?;
        let marker_key = MarkerKey::new(secret);
        paths.create(|connection| {
            let mut state = State::new(identity.clone(), marker_key, start_lsn);
            state.create(&Database::new(connection))
        })
    }

    /// Opens the store in `dir` and starts its threads. Blocks while SQLite recovers. `signer`
    /// signs own units, which cite `fleet_version`.
    ///
    /// # Errors
    /// Fails when another process has it open, when there is none, or when it is damaged.
    pub fn open(
        dir: &Path,
        settings: &Settings,
        signer: Signer,
        fleet_version: u64,
    ) -> Result<(Self, Opened), StoreError> {
        let paths = Paths::new(dir);
        if !paths.database.exists() {
            return Err(StoreError::Missing(paths.database));
        }
        let lock = paths.lock()?;
        let (writing, state, recent) = match open_database(&paths, settings) {
            Err(StoreError::Full) => {
                // SQLite needs a little room even to read.
                layout::remove(&paths.ballast)?;
                open_database(&paths, settings)?
            }
            opened => opened?,
        };
        let reading = paths.open_reader()?;
        let ballast = Ballast::open(paths.ballast.clone(), settings.ballast_bytes)?;
        let Parts { store, opened, tools, write_commands, read_commands } =
            Parts::new(settings, &state, signer, fleet_version, ballast);
        let clocks = ClockWriter::new(Arc::clone(&recent), settings.recent_clocks_bytes);
        let caches = (Arc::clone(&tools.units), recent);
        let own = opened.identity.origin;
        let failed = |error| StoreError::file("start a thread for", dir, &error);
        let reader = thread::Builder::new()
            .name("store-reader".into())
            .spawn(move || reader::run(&reading, paths, own, caches, read_commands))
            .map_err(failed)?;
        let companions = Companions { reads: store.reads.clone(), reader, lock };
        thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer::run(writing, (state, clocks), tools, companions, write_commands))
            .map_err(failed)?;
        Ok((store, opened))
    }

    /// Ends both threads after what is queued before, empties SQLite's log into the database and
    /// frees the lock. Other handles get [`StoreError::Closed`] from then on.
    pub async fn close(self) {
        let (reply, closed) = oneshot::channel();
        if self.writes.send(WriteCommand::Close(reply)).await.is_ok() {
            // An error here means that the thread is gone already.
            drop(closed.await);
        }
    }

    /// How far the store is. Changes are published after the commit that makes them durable and
    /// before the replies to its commands. The channel closes when the store has.
    pub fn watch(&self) -> watch::Receiver<Log> {
        self.news.clone()
    }

    /// The same for those who send: units are in it before they are durable when that is planted.
    pub(crate) fn watch_for_links(&self) -> watch::Receiver<Log> {
        #[cfg(feature = "simulation")]
        if let Some(early) = &self.early {
            return early.clone();
        }
        self.watch()
    }

    /// Whether changes found no room the last time some were to be written.
    pub fn is_full(&self) -> bool {
        self.counters.full.load(Ordering::Relaxed)
    }

    /// What was found damaged first since the store was opened.
    pub fn damage(&self) -> Option<StoreError> {
        self.counters.damage.get().cloned()
    }

    /// Counts since the store was opened.
    pub fn statistics(&self) -> Statistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            commands: read(&self.counters.commands),
            commits: read(&self.counters.commits),
            sealed: read(&self.counters.sealed),
        }
    }
}

/// The writing connection, and what is kept in memory.
/// A store about to open: its handle, what the writer works with, and the far ends of the queues.
struct Parts {
    store: Store,
    opened: Opened,
    tools: Tools,
    write_commands: mpsc::Receiver<WriteCommand>,
    read_commands: mpsc::Receiver<ReadCommand>,
}

impl Parts {
    fn new(
        settings: &Settings,
        state: &State,
        signer: Signer,
        fleet_version: u64,
        ballast: Ballast,
    ) -> Self {
        let opened = Opened {
            identity: state.identity.clone(),
            marker_key: state.marker_key.clone(),
            log: state.log(),
        };
        let counters = Arc::new(Counters::default());
        let (writes, write_commands) = mpsc::channel(WRITE_QUEUE);
        let (reads, read_commands) = mpsc::channel(READ_QUEUE);
        let (news, watched) = watch::channel(opened.log.clone());
        let tools = Tools {
            signer,
            fleet_version,
            sealing: Sealing::default(),
            unit_bytes_max: settings.unit_bytes_max,
            compaction: settings.compaction,
            full_history: settings.full_history.clone(),
            units: Arc::new(UnitCache::new(settings.unit_cache_bytes)),
            counters: Arc::clone(&counters),
            news,
            ballast,
        };
        let fold_epoch = Arc::new(AtomicU64::new(0));
        let store = Store {
            writes,
            reads,
            news: watched,
            counters,
            fold_epoch,
            #[cfg(feature = "simulation")]
            early: None,
        };
        Self { store, opened, tools, write_commands, read_commands }
    }
}

fn open_database(
    paths: &Paths,
    settings: &Settings,
) -> Result<(Connection, State, Arc<RecentClocks>), StoreError> {
    let writing = paths.open_writer(settings)?;
    layout::write_back(&writing)?;
    let db = Database::new(&writing);
    let (state, recent) = (State::load(&db)?, Arc::new(RecentClocks::load(&db)?));
    drop(db);
    Ok((writing, state, recent))
}

/// What changes the store. Every method returns when its effect is durable; when it fails, or its
/// future is dropped and the store's thread ends, nothing of it is kept.
impl Store {
    /// Folds captured transactions in WAL order, after learning the tables in `learn`. `end_lsn`
    /// is the position after the last of them.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Fenced`], [`StoreError::FoldBehind`] when the store is
    /// past `end_lsn`, [`StoreError::Fold`] when a marker contradicts the inbox,
    /// [`StoreError::TransactionTooLarge`], [`StoreError::BadUnit`] when a unit a marker names does
    /// not decode, [`StoreError::FoldStopped`] when an earlier fold failed.
    pub async fn fold(
        &self,
        batch: Vec<CapturedTransaction>,
        end_lsn: u64,
        learn: Vec<TableDef>,
    ) -> Result<Folded, StoreError> {
        self.move_position(move |writer| writer.fold(batch, end_lsn, &learn, None)).await
    }

    /// Folds a batch that ends inside a transaction. The position stays before that transaction,
    /// at `end_lsn`; `resume` says how much of it is folded.
    ///
    /// # Errors
    /// As [`Store::fold`].
    pub async fn fold_part(
        &self,
        batch: Vec<CapturedTransaction>,
        end_lsn: u64,
        resume: Resume,
    ) -> Result<Folded, StoreError> {
        self.move_position(move |writer| writer.fold(batch, end_lsn, &[], Some(resume))).await
    }

    /// Moves the position over WAL that holds nothing to fold; returns the position recorded,
    /// which is the one that may be confirmed.
    ///
    /// # Errors
    /// As [`Store::fold`].
    pub async fn advance_lsn(&self, end_lsn: u64, advance: Advance) -> Result<u64, StoreError> {
        self.move_position(move |writer| writer.advance(end_lsn, advance)).await
    }

    /// The WAL position from which to read on, after everything that was sent before, and how
    /// much of the transaction that commits next is folded already.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn position(&self) -> Result<(u64, Option<Resume>), StoreError> {
        self.write(0, |writer| {
            let progress = &writer.state.progress;
            Ok((progress.fold_lsn, progress.resume.clone()))
        })
        .await
    }

    /// Learns tables as the database describes them now, so that foreign changes find tables that
    /// were never captured.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn learn(&self, defs: Vec<TableDef>) -> Result<(), StoreError> {
        self.write(0, move |writer| writer.learn(&defs)).await
    }

    /// The fold's state as it is after everything that was sent before.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn fold_state(&self) -> Result<Fold, StoreError> {
        self.write(0, |writer| Ok(writer.state.fold.clone())).await
    }

    /// Says whether own transactions are sealed with every fold; begins as [`Sealing::Lazy`].
    ///
    /// # Errors
    /// [`StoreError::Full`]; [`StoreError::Corrupt`] when what waits to be sealed is damaged.
    pub async fn set_sealing(&self, sealing: Sealing) -> Result<(), StoreError> {
        self.write(0, move |writer| writer.set_sealing(sealing)).await
    }

    /// Says which version of the fleet file transactions folded from now on cite.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn set_fleet_version(&self, version: u64) -> Result<(), StoreError> {
        self.write(0, move |writer| {
            writer.tools.fleet_version = version;
            Ok(())
        })
        .await
    }

    /// Stores units of others whose signature and content were checked; says for each what became
    /// of it. `now_ms` is noted as the time of receipt, milliseconds since 1970.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn append_units(
        &self,
        units: Vec<Unit>,
        now_ms: u64,
    ) -> Result<Vec<Appended>, StoreError> {
        let bytes = units.iter().map(|unit| unit.bytes().len()).sum();
        self.write(bytes, move |writer| writer.append(&units, now_ms)).await
    }

    /// Keeps more of a unit of which the rest may be long in coming. Of no use are units that do not
    /// follow on what is held of `origin`, and origins that are set aside.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn keep_begun(
        &self,
        origin: Origin,
        more: MoreBegun,
    ) -> Result<BegunFate, StoreError> {
        self.write(0, move |writer| writer.keep_begun(origin, more)).await
    }

    /// Forgets what is kept of a unit of this origin that did not arrive whole.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn forget_begun(&self, origin: Origin) -> Result<(), StoreError> {
        self.write(0, move |writer| writer.forget_begun(origin)).await
    }

    /// Notes what is known of a peer, in place of what was known before.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn record_peer(&self, peer: PeerRecord) -> Result<(), StoreError> {
        self.write(0, move |writer| reader::put_peer(&writer.db, &peer)).await
    }

    /// Writes a line of the register of bundles, in place of what it said of the same part.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn record_part(&self, part: PartRecord) -> Result<(), StoreError> {
        self.write(0, move |writer| register::put(&writer.db, &part)).await
    }

    /// Makes units of all own transactions that wait to be sealed.
    ///
    /// # Errors
    /// [`StoreError::Full`]; [`StoreError::Corrupt`] when what waits is damaged.
    pub async fn seal(&self) -> Result<(), StoreError> {
        self.write(0, |writer| writer.seal_tail()).await
    }

    /// Forgets that rows were dirty, unless they were marked again since they were read, and
    /// counts `repaired` rows as rewritten.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn clear_dirty(&self, rows: Vec<DirtyRow>, repaired: u64) -> Result<(), StoreError> {
        let marks: Vec<u64> = rows.iter().map(|row| row.mark).collect();
        self.write(0, move |writer| writer.clear_dirty(&marks, repaired)).await
    }

    /// Joins parked changes into the row clocks as far as they have a place here by now. They stay
    /// parked.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Corrupt`].
    pub async fn rejoin_parked(&self, ids: Vec<ChangeId>) -> Result<Rejoined, StoreError> {
        self.write(0, move |writer| writer.rejoin_parked(&ids)).await
    }

    /// Notes what keeps parked changes from being shown now.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn keep_parked(
        &self,
        ids: Vec<ChangeId>,
        obstacle: Obstacle,
    ) -> Result<(), StoreError> {
        self.write(0, move |writer| writer.keep_parked(&ids, obstacle)).await
    }

    /// Says that parked changes are shown, which gives each another fate; returns how many there
    /// were.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Corrupt`].
    pub async fn free_parked(&self, ids: Vec<ChangeId>) -> Result<u64, StoreError> {
        self.write(0, move |writer| writer.free_parked(&ids)).await
    }

    /// Refuses every fold from now on. The first reason stays.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn fence(&self, reason: String) -> Result<(), StoreError> {
        self.write(0, move |writer| writer.fence(reason)).await
    }

    /// As [`Store::fence`] with a reason that may go away: the store was found to be older than its
    /// database. `None` lifts it. A fence stays.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn suspend(&self, reason: Option<String>) -> Result<(), StoreError> {
        self.write(0, move |writer| writer.suspend(reason)).await
    }

    /// What ties the store to its database, as it is after everything that was sent before.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn bond(&self) -> Result<Bond, StoreError> {
        self.write(0, |writer| Ok(writer.state.bond)).await
    }

    /// Replaces what ties the store to its database.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn set_bond(&self, bond: Bond) -> Result<(), StoreError> {
        self.write(0, move |writer| writer.set_bond(bond)).await
    }

    /// Notes that an origin is set aside. What that means is the caller's business: its units are
    /// still stored when they fit.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn quarantine(&self, origin: Origin, reason: String) -> Result<(), StoreError> {
        self.write(0, move |writer| writer.quarantine(origin, reason)).await
    }

    async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        run: impl FnOnce(&mut Writer<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.send(bytes, None, run).await
    }

    async fn move_position<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Writer<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut attempt = Attempt { epoch: &self.fold_epoch, done: false };
        let epoch = self.fold_epoch.load(Ordering::SeqCst);
        let result = self.send(0, Some(epoch), run).await;
        attempt.done = result.is_ok();
        result
    }

    async fn send<T: Send + 'static>(
        &self,
        bytes: usize,
        fold_epoch: Option<u64>,
        run: impl FnOnce(&mut Writer<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let work = Work { bytes, fold_epoch, act: Act::new(reply, run) };
        let sent = self.writes.send(WriteCommand::Work(work)).await;
        sent.map_err(|_| StoreError::Closed)?;
        let answer = answer.await.map_err(|_| StoreError::Closed)?;
        answer.inspect_err(|error| self.counters.note(error))
    }
}

/// One attempt to move the WAL position. When it does not end well, its caller knows from here on
/// that it must read the WAL again, and what it sends next belongs to a new attempt.
struct Attempt<'a> {
    epoch: &'a AtomicU64,
    done: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// What only reads. Each answer is one consistent committed state, at least as new as the last
/// published [`Log`].
impl Store {
    /// The clocks of rows in the order asked; `None` when nothing was ever stamped in a row.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], as every read.
    pub async fn clocks(&self, rows: Vec<RowId>) -> Result<Vec<Option<RowClock>>, StoreError> {
        self.read(move |reader| reader.clocks(&rows)).await
    }

    /// How often the fold has moved clocks. Whoever asked for clocks after one number, and finds the
    /// same number later, has what he would get then: a fold that somebody knows to be over was
    /// counted before.
    #[must_use]
    pub fn clock_moves(&self) -> u64 {
        self.counters.clock_moves.load(Ordering::SeqCst)
    }

    /// How often own tables have got another shape. Whoever reads clocks, and then finds the number
    /// that it found before it asked for the tables, knows every column that is in these clocks.
    #[must_use]
    pub fn table_moves(&self) -> u64 {
        self.counters.table_moves.load(Ordering::SeqCst)
    }

    /// Units of an origin from the one that holds `after` + 1 on, about `bytes_max` of them but at
    /// least one if there is any.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn units_after(
        &self,
        origin: Origin,
        after: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Unit>, StoreError> {
        self.read(move |reader| reader.units_after(origin, after, bytes_max)).await
    }

    /// A unit with its parts packed at a zstd `level`, 1 to 19. It takes up to a second for each MiB, on the
    /// reading thread.
    ///
    /// # Errors
    /// [`StoreError::BadUnit`] when it does not unpack.
    pub async fn packed(&self, unit: Unit, level: i32) -> Result<Unit, StoreError> {
        let (origin, first) = (unit.header().origin, unit.header().first);
        let failed = move |error| StoreError::BadUnit { origin, first, error };
        self.read(move |_| unit.packed_at(level).map_err(failed)).await
    }

    /// The lowest clock reading in the unit that holds `after` + 1; `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn unit_begins_at(
        &self,
        origin: Origin,
        after: Seq,
    ) -> Result<Option<Hlc>, StoreError> {
        self.read(move |reader| reader.unit_begins_at(origin, after)).await
    }

    /// The same decoded; `bytes_max` counts uncompressed content.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`]; [`StoreError::BadUnit`] when a unit's content does not decode.
    pub async fn inbox(
        &self,
        origin: Origin,
        after: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Arc<OpenUnit>>, StoreError> {
        self.read(move |reader| reader.inbox(origin, after, bytes_max)).await
    }

    /// The last entry of the large transaction that the fragment `first` is part of; `None` until
    /// all of it is held.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn fragments_end(
        &self,
        origin: Origin,
        first: Seq,
    ) -> Result<Option<Seq>, StoreError> {
        self.read(move |reader| reader.fragments_end(origin, first)).await
    }

    /// Transactions by name, own ones included whether sealed or not; those not held are absent.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`]; [`StoreError::BadUnit`].
    pub async fn transactions(
        &self,
        wanted: Vec<TxnId>,
    ) -> Result<BTreeMap<TxnId, Arc<Transaction>>, StoreError> {
        self.read(move |reader| reader.transactions(wanted)).await
    }

    /// One piece of a long value, counted from 0; `None` behind the last one, and of a value that
    /// is not held.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`]; [`StoreError::BadUnit`].
    pub async fn piece(&self, hash: [u8; 32], index: u32) -> Result<Option<String>, StoreError> {
        self.read(move |reader| reader.piece(hash, index)).await
    }

    /// What is held of each origin.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn held(&self) -> Result<Vec<Held>, StoreError> {
        self.read(|reader| reader.held()).await
    }

    /// The hashes of units by where they end; those that end nowhere here are left out.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn unit_hashes(
        &self,
        ends: Vec<(Origin, Seq)>,
    ) -> Result<BTreeMap<Origin, UnitHash>, StoreError> {
        self.read(move |reader| reader.unit_hashes(&ends)).await
    }

    /// What is kept of the unit of this origin that follows on `after`.
    ///
    /// # Errors
    /// None of its own: what is damaged is not there.
    pub async fn begun(&self, origin: Origin, after: Seq) -> Result<Option<Begun>, StoreError> {
        self.read(move |reader| reader.begun(origin, after)).await
    }

    /// As many bytes of that as were told; `None` when they are not, or no longer, kept.
    ///
    /// # Errors
    /// As [`Store::begun`].
    pub async fn begun_bytes(
        &self,
        origin: Origin,
        after: Seq,
        told: Begun,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |reader| reader.begun_bytes(origin, after, &told)).await
    }

    /// Every peer noted.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn peers(&self) -> Result<Vec<PeerRecord>, StoreError> {
        self.read(|reader| reader.peers()).await
    }

    /// The register of bundles, older ones first.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn parts(&self) -> Result<Vec<PartRecord>, StoreError> {
        self.read(|reader| register::load(&reader.db)).await
    }

    /// Rows that PostgreSQL does not show right, the ones marked first first.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn dirty_rows(&self, limit: usize) -> Result<Vec<DirtyRow>, StoreError> {
        self.read(move |reader| reader.dirty_rows(limit)).await
    }

    /// Parked changes from a place on, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn parked(&self, from: ParkedPlace, limit: usize) -> Result<ParkedPage, StoreError> {
        self.read(move |reader| reader.parked(from, limit)).await
    }

    /// How often the list of what is parked has moved.
    #[must_use]
    pub fn parked_moves(&self) -> u64 {
        self.counters.parked_moves.load(Ordering::SeqCst)
    }

    /// Tables whose rows the fold moved clocks of since this was asked last.
    #[must_use]
    pub fn take_touched(&self) -> BTreeSet<TableId> {
        std::mem::take(&mut *self.counters.touched())
    }

    /// How much there is.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn sizes(&self) -> Result<Sizes, StoreError> {
        self.read(|reader| reader.sizes()).await
    }

    /// What somebody who holds `peer` has not got yet. A unit held in part counts whole.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub async fn backlog(&self, peer: VersionVector) -> Result<Backlog, StoreError> {
        self.read(move |reader| reader.backlog(&peer)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Reader<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.reads.send(ReadCommand::Read(Read::new(reply, run))).await;
        sent.map_err(|_| StoreError::Closed)?;
        let answer = answer.await.map_err(|_| StoreError::Closed)?;
        answer.inspect_err(|error| self.counters.note(error))
    }
}
