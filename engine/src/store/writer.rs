//! The thread that owns the database: it takes every command that is queued, runs them in one
//! transaction, commits once, and only then answers and tells the news.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use landfall_protocol::schema::{SetId, TableId};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::ballast::Ballast;
use super::clocks::ClockWriter;
use super::compaction::Compaction;
use super::error::StoreError;
use super::layout::Lock;
use super::reader::ReadCommand;
use super::record::{Log, Sealing};
use super::sql::Database;
use super::state::State;
use super::units::UnitCache;
use crate::plant;

/// Commands of one round.
pub(super) const ROUND_COMMANDS_MAX: usize = 64;
/// Content of one round, beyond which no further command joins it.
const ROUND_BYTES_MAX: usize = 16 << 20;

/// A command to the writing thread.
pub(super) enum WriteCommand {
    Work(Work),
    /// End, and say when the files are closed.
    Close(oneshot::Sender<()>),
}

/// A closure over the writer, with what the round must know of it.
pub(super) struct Work {
    /// Content it brings.
    pub(super) bytes: usize,
    /// Set for what moves the WAL position: which attempt of capture sent it.
    pub(super) fold_epoch: Option<u64>,
    pub(super) act: Act,
}

/// Runs a command, or is told why it will not run.
pub(super) struct Act(Box<dyn Action>);

trait Action: for<'w, 'c> FnOnce(Result<&'w mut Writer<'c>, StoreError>) -> Answer + Send {}
impl<F: for<'w, 'c> FnOnce(Result<&'w mut Writer<'c>, StoreError>) -> Answer + Send> Action for F {}

impl Act {
    /// A command with its reply. Its effects are undone when it fails.
    pub(super) fn new<T: Send + 'static>(
        reply: oneshot::Sender<Result<T, StoreError>>,
        run: impl FnOnce(&mut Writer<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Self {
        Self(Box::new(move |writer| {
            let result = writer.and_then(|writer| writer.isolated(run));
            let error = result.as_ref().err().cloned();
            let send = Box::new(move |failure: Option<StoreError>| {
                // Nobody listening any more is no reason to stop.
                drop(reply.send(match failure {
                    Some(error) => result.and(Err(error)),
                    None => result,
                }));
            });
            Answer { error, send }
        }))
    }
}

/// A reply waiting for the commit. An error given to `send` is the round's.
struct Answer {
    error: Option<StoreError>,
    send: Box<dyn FnOnce(Option<StoreError>)>,
}

/// Signs a message with the origin's key.
pub type Signer = Arc<dyn Fn(&[u8]) -> [u8; 64] + Send + Sync>;

/// Counters that anybody may read.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commands: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) sealed: AtomicU64,
    /// Rounds that moved clocks, counted before anybody hears of their end.
    pub(super) clock_moves: AtomicU64,
    /// Rounds that gave own tables another shape, counted before anybody hears of their end.
    pub(super) table_moves: AtomicU64,
    /// Rounds that moved the list of what is parked, counted as the others.
    pub(super) parked_moves: AtomicU64,
    /// Set when there was no room, until changes of rows get in again.
    pub(super) full: AtomicBool,
    /// Tables whose rows moved, told with the news of the round.
    touched: Mutex<BTreeSet<TableId>>,
    /// The first thing that was found damaged.
    pub(super) damage: OnceLock<StoreError>,
}

impl Counters {
    pub(super) fn touched(&self) -> MutexGuard<'_, BTreeSet<TableId>> {
        // A set is whole after every statement under this lock.
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what somebody must act upon, whoever asked: a store with damage works on in part.
    pub(super) fn note(&self, error: &StoreError) {
        let damage = matches!(error, StoreError::Corrupt { .. });
        if damage && self.damage.set(error.clone()).is_ok() {
            tracing::error!(%error, advice = error.advice(), "the store cannot be relied on");
        }
    }
}

/// What the writer needs beside the database.
pub(super) struct Tools {
    pub(super) signer: Signer,
    pub(super) fleet_version: u64,
    pub(super) sealing: Sealing,
    pub(super) unit_bytes_max: usize,
    pub(super) compaction: Option<Compaction>,
    pub(super) full_history: BTreeSet<SetId>,
    pub(super) units: Arc<UnitCache>,
    pub(super) counters: Arc<Counters>,
    pub(super) news: watch::Sender<Log>,
    pub(super) ballast: Ballast,
}

/// What outlives the connection: taken down in this order.
pub(super) struct Companions {
    pub(super) reads: mpsc::Sender<ReadCommand>,
    pub(super) reader: JoinHandle<()>,
    pub(super) lock: Lock,
}

/// The owner of the database.
pub(super) struct Writer<'c> {
    pub(super) db: Database<'c>,
    pub(super) state: State,
    pub(super) tools: Tools,
    pub(super) clocks: ClockWriter,
    /// Tables of which the round moved rows, while something is parked.
    pub(super) touched: BTreeSet<TableId>,
    /// Whether the round gave an own table another shape.
    pub(super) moves_tables: bool,
    /// Whether the round moved the list of what is parked.
    pub(super) moves_parked: bool,
    /// Set when the state could not be read back after a failure.
    broken: Option<StoreError>,
    /// Folds up to this attempt are refused, because one before them failed.
    fold_stopped: Option<u64>,
}

/// The thread's whole life.
pub(super) fn run(
    connection: Connection,
    (state, clocks): (State, ClockWriter),
    tools: Tools,
    companions: Companions,
    mut commands: mpsc::Receiver<WriteCommand>,
) {
    let (news, closing) = serve(&connection, (state, clocks), tools, &mut commands);
    // The reader goes first, so that closing the last connection empties the write-ahead log.
    let Companions { reads, reader, lock } = companions;
    drop(reads.blocking_send(ReadCommand::Stop));
    if reader.join().is_err() {
        tracing::error!("the store's reading thread panicked");
    }
    if let Err((_, error)) = connection.close() {
        tracing::warn!(%error, "store did not close cleanly; the next start recovers it");
    }
    drop(lock);
    drop(news);
    if let Some(closed) = closing {
        // Nobody listening any more is no reason to complain.
        let _ = closed.send(());
    }
}

/// What SQLite says when the disk does not take what it was given.
fn failed_sync() -> StoreError {
    let failed = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
    rusqlite::Error::SqliteFailure(failed, Some("disk I/O error".to_owned())).into()
}

/// Works until told to close or until nobody holds a handle any more.
fn serve(
    connection: &Connection,
    (state, clocks): (State, ClockWriter),
    tools: Tools,
    commands: &mut mpsc::Receiver<WriteCommand>,
) -> (watch::Sender<Log>, Option<oneshot::Sender<()>>) {
    let mut writer = Writer::new(Database::new(connection), state, tools, clocks);
    let mut closing = None;
    while closing.is_none()
        && let Some(first) = commands.blocking_recv()
    {
        let (round, close) = take_queued(first, commands);
        writer.round(round).tell();
        closing = close;
    }
    writer.record_position();
    (writer.tools.news, closing)
}

/// Everything that waits, up to the limits of a round or the command to close.
pub(super) fn take_queued(
    first: WriteCommand,
    commands: &mut mpsc::Receiver<WriteCommand>,
) -> (Vec<Work>, Option<oneshot::Sender<()>>) {
    let mut round = Vec::new();
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(command) = next {
        match command {
            WriteCommand::Work(work) => {
                bytes += work.bytes;
                round.push(work);
            }
            WriteCommand::Close(closed) => return (round, Some(closed)),
        }
        next = if round.len() < ROUND_COMMANDS_MAX && bytes < ROUND_BYTES_MAX {
            commands.try_recv().ok()
        } else {
            None
        };
    }
    (round, None)
}

/// A round that is over, and of which nobody has been told yet.
pub(super) struct Round<'w, 'c> {
    writer: &'w Writer<'c>,
    answers: Vec<Answer>,
    failure: Option<StoreError>,
    moves_clocks: bool,
    touched: BTreeSet<TableId>,
    moves_tables: bool,
    moves_parked: bool,
}

impl Round<'_, '_> {
    /// The last news, with what of the own log is not told yet.
    #[cfg(feature = "simulation")]
    pub(super) fn own_log_at_once(&self) -> Log {
        let (own, now) = (self.writer.state.identity.origin, self.writer.state.log());
        let mut log = self.writer.tools.news.borrow().clone();
        log.received.advance(own, now.received.get(own));
        log
    }

    /// Publishes the news, then answers.
    pub(super) fn tell(self) {
        if self.moves_clocks {
            self.writer.tools.counters.clock_moves.fetch_add(1, Ordering::SeqCst);
        }
        if !self.touched.is_empty() {
            self.writer.tools.counters.touched().extend(self.touched);
        }
        if self.moves_tables {
            self.writer.tools.counters.table_moves.fetch_add(1, Ordering::SeqCst);
        }
        if self.moves_parked {
            self.writer.tools.counters.parked_moves.fetch_add(1, Ordering::SeqCst);
        }
        self.writer.publish();
        for answer in self.answers {
            (answer.send)(self.failure.clone());
        }
    }
}

impl<'c> Writer<'c> {
    pub(super) fn new(db: Database<'c>, state: State, tools: Tools, clocks: ClockWriter) -> Self {
        let touched = BTreeSet::new();
        let (moves_tables, moves_parked) = (false, false);
        Writer {
            db,
            state,
            tools,
            clocks,
            touched,
            moves_tables,
            moves_parked,
            broken: None,
            fold_stopped: None,
        }
    }

    /// Runs commands in one transaction and commits it.
    pub(super) fn round(&mut self, round: Vec<Work>) -> Round<'_, 'c> {
        self.tools.counters.commands.fetch_add(round.len() as u64, Ordering::Relaxed);
        let changes_before = self.db.connection().total_changes();
        let (seen_lsn, own_before) = (self.state.seen_lsn, self.state.fold.last_seq);
        let mut failure = self.broken.clone().or_else(|| self.begin().err());
        let mut answers = Vec::with_capacity(round.len());
        let mut folds = None;
        let mut brings_rows = false;
        for work in round {
            let carries_rows = work.fold_epoch.is_some() || work.bytes > 0;
            let refused = match work.fold_epoch {
                Some(epoch) if self.fold_stopped >= Some(epoch) => Some(StoreError::FoldStopped),
                _ => None,
            };
            let input = match failure.clone().or(refused) {
                Some(error) => Err(error),
                None => Ok(&mut *self),
            };
            let answer = (work.act.0)(input);
            brings_rows |= carries_rows && answer.error.is_none();
            if let Some(error) = &answer.error {
                self.fold_stopped = self.fold_stopped.max(work.fold_epoch);
                // After some errors SQLite has rolled back everything by itself.
                if failure.is_none() && (error.ends_round() || self.db.connection().is_autocommit())
                {
                    failure = Some(error.clone());
                }
            }
            folds = folds.max(work.fold_epoch);
            answers.push(answer);
        }
        let wrote = self.db.connection().total_changes() != changes_before;
        let failure = failure.or_else(|| self.clocks.sweep(&self.db).err());
        let folded = self.state.fold.last_seq > own_before;
        let moves_clocks = self.clocks.mark() > 0;
        let failure = failure.or_else(|| self.commit(folded).err());
        match &failure {
            Some(error) => {
                self.fold_stopped = self.fold_stopped.max(folds);
                self.roll_back(error, seen_lsn);
            }
            None if wrote => {
                self.committed();
                // Small things may fit while rows do not.
                if brings_rows {
                    self.has_room();
                }
            }
            None => {}
        }
        let touched = std::mem::take(&mut self.touched);
        let moves_tables = std::mem::take(&mut self.moves_tables);
        let moves_parked = std::mem::take(&mut self.moves_parked);
        let writer = self;
        Round { writer, answers, failure, moves_clocks, touched, moves_tables, moves_parked }
    }

    fn begin(&self) -> Result<(), StoreError> {
        self.db.execute("BEGIN IMMEDIATE", [])?;
        Ok(())
    }

    fn commit(&self, folded: bool) -> Result<(), StoreError> {
        if folded && plant::active("failed-sync") {
            return Err(failed_sync());
        }
        self.db.execute("COMMIT", [])?;
        if folded && plant::active("doubtful-sync") {
            return Err(failed_sync());
        }
        Ok(())
    }

    fn committed(&mut self) {
        self.clocks.committed();
        self.tools.counters.commits.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.tools.ballast.committed() {
            tracing::warn!(%error, "ballast file cannot be restored");
        }
    }

    fn has_room(&self) {
        if self.tools.counters.full.swap(false, Ordering::Relaxed) {
            tracing::info!("store has room again");
        }
    }

    fn lacks_room(&mut self) {
        if !self.tools.counters.full.swap(true, Ordering::Relaxed) {
            let error = StoreError::Full;
            tracing::warn!(%error, advice = error.advice(), "changes wait outside the store");
        }
        if let Err(error) = self.tools.ballast.release() {
            tracing::warn!(%error, "ballast file cannot be released");
        }
    }

    /// Undoes the round on disk and in memory.
    fn roll_back(&mut self, error: &StoreError, seen_lsn: u64) {
        if *error == StoreError::Full {
            self.lacks_room();
        }
        self.clocks.rolled_back();
        // SQLite may have rolled back by itself.
        let undone = if self.db.connection().is_autocommit() {
            Ok(())
        } else {
            self.db.execute("ROLLBACK", []).map(drop)
        };
        match undone.and_then(|()| State::load(&self.db)) {
            Ok(state) => {
                self.state = State { seen_lsn, ..state };
                // A failed sync leaves open what the disk holds; only a new start knows.
                self.broken =
                    Some(error.clone()).filter(|error| matches!(error, StoreError::Sqlite { .. }));
            }
            Err(error) => self.broken = Some(error),
        }
    }

    /// Runs one command so that its failure undoes only itself.
    fn isolated<T>(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.db.execute("SAVEPOINT command", [])?;
        let (seen_lsn, clocks) = (self.state.seen_lsn, self.clocks.mark());
        let result = run(self);
        match &result {
            Err(error) if !error.ends_round() && !self.db.connection().is_autocommit() => {
                self.db.execute("ROLLBACK TO command", [])?;
                self.db.execute("RELEASE command", [])?;
                self.clocks.undo_to(clocks);
                self.state = State { seen_lsn, ..State::load(&self.db)? };
            }
            Err(_) => {}
            Ok(_) => {
                self.db.execute("RELEASE command", [])?;
            }
        }
        result
    }

    fn publish(&self) {
        if self.broken.is_some() {
            return;
        }
        let log = self.state.log();
        self.tools.news.send_if_modified(|known| {
            let changed = *known != log;
            if changed {
                *known = log;
            }
            changed
        });
    }

    /// Notes the WAL position that was not worth a commit of its own.
    pub(super) fn record_position(&mut self) {
        if self.state.seen_lsn == self.state.progress.fold_lsn || self.broken.is_some() {
            return;
        }
        self.state.progress.fold_lsn = self.state.seen_lsn;
        if let Err(error) = self.state.put_progress(&self.db) {
            tracing::warn!(%error, "last position is not recorded; the next start reads it again");
        }
    }
}
