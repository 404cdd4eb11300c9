//! The capture task: one walsender connection, one fold in flight.
//!
//! While a fold is being made durable, what arrives meanwhile is collected for the next one; so
//! the batch is as large as the disk is slow, and no timer is needed.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use landfall_protocol::fleet::Fleet;
use landfall_protocol::fold::{CapturedTransaction, MarkerKey};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::capture::assemble::{
    AssembleError, Assembled, Assembler, Committed, Content, Part, Scratch, SourceTable,
};
use crate::capture::bond::BondError;
use crate::capture::guard::{Eye, Guard};
use crate::capture::horizon::Horizon;
use crate::capture::large::Large;
#[cfg(feature = "simulation")]
use crate::capture::model::{self, Model, WalStream};
use crate::capture::nap::Nap;
use crate::capture::pgoutput;
use crate::capture::slot::{self, Expected, Server, SlotError};
use crate::capture::visible;
#[cfg(not(feature = "simulation"))]
use crate::capture::walsender::WalStream;
use crate::capture::walsender::{Frame, Reply, StandbyStatus, Walsender, WalsenderError};
use crate::plant;
use crate::postgres::catalog::{self, Catalog, CatalogError, LocalTable};
use crate::postgres::connect::{ConnectError, PgSettings};
use crate::postgres::lsn::Lsn;
use crate::store::{Advance, DatabaseIdentity, Resume, Severity, Store, StoreError};
use crate::tasks::{TaskError, Tasks};
use crate::time;

/// Values one batch may hold before the socket is left unread; PostgreSQL keeps the WAL meanwhile. In
/// memory they take some four times as much, and twice that while one batch is folded and the next
/// collected.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// Transactions one batch may hold.
const BATCH_TRANSACTIONS_MAX: usize = 20_000;
/// How long a fold may take while the server waits for us: it would do so for ever, and when it
/// is about to stop, it could not.
const KEEP_WAITING: Duration = Duration::from_secs(3);
/// How long a fold may take while we read nothing for its sake, and so do not hear what the server
/// wants.
const READ_NOTHING: Duration = Duration::from_secs(30);
/// Pause between two looks at the stream while a fold is on its way. The server sends each message by
/// itself, and to wake up for each would cost more than to decode it; nothing comes of it sooner, as the
/// next fold waits for the one under way. A local socket holds some two hundred messages, which the
/// server makes in a millisecond; it shall not wait for us.
const REST: Duration = Duration::from_micros(250);
/// How long arrived messages are taken before anything else has its turn.
const TAKING: Duration = Duration::from_millis(1);
/// Time from one fold to the next while the application is busy: a fold costs a sync of the disk
/// and some hundred microseconds of both cores, which the application would rather have. Far from
/// busy nothing is gained by waiting.
const PACE: Duration = Duration::from_millis(5);
/// Transactions per fold from which the application counts as busy; with more of them the socket
/// would be full before the pause is over, and the server would wait.
const PACED: Range<usize> = 8..64;
/// How often the server hears from us when nothing else happens, and how long it keeps log at most that
/// has nothing for us.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Pause before a new connection.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// Pause before a large transaction is tried again that did not fit on the disk.
const FULL_RETRY: Duration = Duration::from_secs(5);
/// Pause before something an operator must change is looked at again.
const OPERATOR_RETRY: Duration = Duration::from_secs(10);

/// Why capture stopped.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The replication connection.
    #[error(transparent)]
    Walsender(#[from] WalsenderError),
    /// The SQL connection beside it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Slot, publication or server are not those this store was made for.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// Store and database do not belong together.
    #[error(transparent)]
    Bond(#[from] BondError),
    /// A task of ours ended before its time.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The stream holds what cannot be captured.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store takes too long, and the server must not wait for us.
    #[error("the store does not get done; the connection is given up so that the server can stop")]
    Stalled,
    /// A model says no.
    #[cfg(feature = "simulation")]
    #[error(transparent)]
    Model(#[from] crate::postgres::model::Fault),
    /// The server shuts down.
    #[error("the server ended the stream, it shuts down")]
    Ended,
}

impl CaptureError {
    /// The server looks a publication up as it was when the change was written, so one that is
    /// made anew does not bring the stream past its absence. Slot and publication were verified
    /// before the stream began, so nothing else can be the undefined object.
    fn explained(self, publication: &str) -> Self {
        match self {
            Self::Walsender(error)
                if error.sqlstate() == Some("42704")
                    || matches!(error, WalsenderError::ChangesLeftOut { .. }) =>
            {
                SlotError::PublicationGap(publication.to_owned()).into()
            }
            other => other,
        }
    }

    /// What went wrong, and what to do where the error itself does not say it.
    fn told(&self) -> String {
        match self.store() {
            Some(store) => format!("{store}; {}", store.advice()),
            None if self.lacks_scratch() => {
                format!("{self}; free space on the disk of data_dir; nothing is lost")
            }
            None => self.to_string(),
        }
    }

    /// The store's part in it.
    fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) | Self::Bond(BondError::Store(error)) => Some(error),
            _ => None,
        }
    }

    /// Whether a large transaction does not fit on the disk.
    fn lacks_scratch(&self) -> bool {
        match self {
            Self::Assemble(AssembleError::Scratch(error))
            | Self::Walsender(WalsenderError::Scratch(error)) => error.is_full(),
            _ => false,
        }
    }

    /// Whether waiting alone may help.
    fn is_transient(&self) -> bool {
        match self {
            error if error.lacks_scratch() => true,
            Self::Connect(_) | Self::Catalog(_) | Self::Ended | Self::Stalled | Self::Task(_) => {
                true
            }
            Self::Bond(error) => error.is_transient(),
            #[cfg(feature = "simulation")]
            Self::Model(_) => true,
            Self::Walsender(error) => {
                !matches!(error.sqlstate(), Some("42704" | "55000" | "42501"))
            }
            Self::Slot(error) => error.is_transient(),
            Self::Store(error) => error.severity() == Severity::Retry,
            Self::Assemble(_) => false,
        }
    }
}

/// What capture is doing, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureStatus {
    /// Whether the stream stands.
    pub streaming: bool,
    /// Why not.
    pub cause: Option<String>,
    /// Whether an operator must act.
    pub needs_operator: bool,
    /// The newest position the server told.
    pub server_lsn: Lsn,
    /// The position confirmed to the slot.
    pub confirmed: Lsn,
}

impl CaptureStatus {
    /// Before the first connection stands.
    pub fn starting() -> Self {
        Self { cause: Some("it is starting".to_owned()), ..Self::default() }
    }
}

/// Everything capture needs from the daemon.
#[derive(Debug)]
pub struct CaptureContext {
    /// The local database.
    pub postgres: PgSettings,
    /// The database the store was made for.
    pub database: DatabaseIdentity,
    /// Seals our markers.
    pub marker_key: MarkerKey,
    /// The publication.
    pub publication: String,
    /// Sets and tables.
    pub fleet: Fleet,
    /// How large transactions are kept.
    pub scratch: Scratch,
    /// The store.
    pub store: Store,
    /// Told which transactions are durably folded.
    pub horizon: Horizon,
    /// Grows whenever a table changed its shape.
    pub schema_epoch: watch::Sender<u64>,
    /// Where connections' drivers run.
    pub tasks: Tasks,
    /// Where the status is told.
    pub status: watch::Sender<CaptureStatus>,
    /// Becomes true when the database was looked at, or could not be.
    pub looked: watch::Sender<bool>,
    /// Stands for the local database.
    #[cfg(feature = "simulation")]
    pub model: Option<Arc<dyn Model>>,
}

impl CaptureContext {
    fn nap(&self) -> Nap {
        #[cfg(feature = "simulation")]
        if self.model.is_some() {
            return Nap::modelled();
        }
        Nap::new()
    }
}

/// Captures until told to stop. Lost connections and what an operator can change are waited out.
///
/// # Errors
/// Only what can never get better by waiting: a closed or corrupt store.
pub async fn run(context: CaptureContext, stop: CancellationToken) -> Result<(), CaptureError> {
    loop {
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            outcome = session(&context) => outcome,
        };
        let Err(error) = outcome;
        let error = error.explained(&context.publication);
        if let CaptureError::Slot(slot) = &error
            && slot.speaks_against_store()
        {
            context.store.suspend(Some(slot.to_string())).await?;
        }
        context.looked.send_replace(true);
        if let Some(store) = error.store()
            && store.severity() == Severity::Fatal
        {
            return Err(error);
        }
        let transient = error.is_transient();
        tracing::info!(%error, "capture pauses");
        context.horizon.reset();
        context.status.send_modify(|status| {
            status.streaming = false;
            status.cause = Some(error.told());
            status.needs_operator = !transient;
        });
        let pause = match transient {
            // Everything the disk had room for is read and written once more with each attempt.
            true if error.lacks_scratch() => FULL_RETRY,
            true => RECONNECT_AFTER,
            false => OPERATOR_RETRY,
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

type Endless = Result<std::convert::Infallible, CaptureError>;

async fn session(context: &CaptureContext) -> Endless {
    // Waits for folds that are still on their way, before anybody waits for us.
    let (start, resume) = context.store.position().await?;
    let start = Lsn(start);
    let application = format!("landfall {}", context.database.slot);
    let (source, mut eye, timeline) = Source::open(context, &application, start).await?;
    if !*context.looked.borrow() {
        // Nobody has heard of us yet, so whatever was wrong before is as if it had not been.
        context.store.suspend(None).await?;
        context.looked.send_replace(true);
    }
    let tables = read_tables(context, None).await?;
    let mut stream = source.start(context, start).await?;
    // The slot is ours now, and nothing that follows it has been taken yet.
    eye.renew(&context.store, timeline).await?;
    let alert = Arc::new(Notify::new());
    let guard = Guard {
        eye,
        postgres: context.postgres.clone(),
        tasks: context.tasks.clone(),
        store: context.store.clone(),
        publication: context.publication.clone(),
        fleet: context.fleet.clone(),
        timeline,
        alert: Arc::clone(&alert),
        #[cfg(feature = "simulation")]
        model: context.model.clone(),
    };
    let guard = context.tasks.spawn_child("capture guard", guard.watch());
    tracing::info!(%start, "capturing");
    context.status.send_modify(|status| {
        status.streaming = true;
        status.cause = None;
        status.needs_operator = false;
    });
    let keyed = tables.iter().map(|table| &table.def).filter(|def| !def.key.is_empty());
    context.store.learn(keyed.cloned().collect()).await?;
    let (key, scratch) = (context.marker_key.clone(), context.scratch.clone());
    // What commits from where we start is not known to be in what was read.
    let assembler = Assembler::new(key, tables, start, scratch, resume.as_ref())?;
    stream.put_aside(Arc::clone(assembler.texts()));
    let mut capture = Capture {
        context,
        stream,
        assembler,
        large: None,
        batch: Batch { end: start, ..Batch::default() },
        received: start,
        durable: start,
        flying: start,
        alert,
        nap: context.nap(),
        took_off: Instant::now(),
        asked: None,
    };
    tokio::select! {
        biased;
        outcome = capture.work() => outcome,
        wrong = guard => {
            let Err(error) = wrong?;
            Err(error.into())
        }
    }
}

/// Where the stream will come from, once everything is verified.
#[cfg_attr(
    feature = "simulation",
    expect(clippy::large_enum_variant, reason = "there is one per capture")
)]
enum Source {
    Server(Walsender),
    #[cfg(feature = "simulation")]
    Model(Arc<dyn Model>),
}

impl Source {
    /// Connects and verifies; says on which timeline the server is.
    async fn open(
        context: &CaptureContext,
        application: &str,
        start: Lsn,
    ) -> Result<(Self, Eye, u32), CaptureError> {
        #[cfg(feature = "simulation")]
        if let Some(model) = &context.model {
            let (session, timeline) = model::open(context, &**model, start).await?;
            return Ok((Self::Model(Arc::clone(model)), Eye::Model(session), timeline));
        }
        let mut walsender = Walsender::connect(&context.postgres, application).await?;
        let eye = Eye::open(&context.postgres, &context.tasks).await?;
        let timeline = verify(context, &mut walsender, eye.client(), start).await?;
        Ok((Self::Server(walsender), eye, timeline))
    }

    #[cfg(not(feature = "simulation"))]
    async fn start(self, context: &CaptureContext, start: Lsn) -> Result<WalStream, CaptureError> {
        let Self::Server(walsender) = self;
        let (slot, publication) = (&context.database.slot, &context.publication);
        Ok(walsender.start_replication(slot, start, publication).await?)
    }

    #[cfg(feature = "simulation")]
    async fn start(self, context: &CaptureContext, start: Lsn) -> Result<WalStream, CaptureError> {
        let (slot, publication) = (&context.database.slot, &context.publication);
        Ok(match self {
            Self::Server(walsender) => {
                WalStream::Server(walsender.start_replication(slot, start, publication).await?)
            }
            Self::Model(model) => WalStream::Model(model.start(start).await?, None),
        })
    }
}

/// Says on which timeline the server is, if everything is as the store left it.
async fn verify(
    context: &CaptureContext,
    walsender: &mut Walsender,
    client: &tokio_postgres::Client,
    start: Lsn,
) -> Result<u32, CaptureError> {
    let identity = walsender.identify_system().await?;
    let (now, known) = (identity.timeline, context.store.bond().await?.timeline);
    let history = if known.is_some_and(|known| known != now) {
        walsender.timeline_history(now).await?
    } else {
        Vec::new()
    };
    let expected = Expected {
        database: &context.database,
        publication: &context.publication,
        fleet: &context.fleet,
        start,
        timeline: known,
    };
    slot::verify(client, &context.store, &expected, &Server { identity, history }).await?;
    Ok(now)
}

/// The fleet's tables, as they are once the transaction `xid` is visible.
async fn read_tables(
    context: &CaptureContext,
    xid: Option<u32>,
) -> Result<Vec<SourceTable>, CaptureError> {
    let catalog = read_catalog(context, xid).await?;
    let source = |table: &LocalTable| {
        let generated = table.generated.iter().map(|column| column.name.clone()).collect();
        let partitions = table.partitions.iter().map(|part| part.name.clone()).collect();
        SourceTable { def: table.def.clone(), generated, partitions }
    };
    // Those that lost their key, too: their changes must not be passed over.
    Ok(catalog.tables.iter().map(source).collect())
}

async fn read_catalog(context: &CaptureContext, xid: Option<u32>) -> Result<Catalog, CaptureError> {
    #[cfg(feature = "simulation")]
    if let Some(model) = &context.model {
        if let Some(xid) = xid {
            model.connect().await?.wait_visible(xid).await?;
        }
        return Ok(model.catalog().await?.with_rules(&context.fleet));
    }
    let (mut client, driver) = context.postgres.connect("landfall catalog", &[]).await?;
    let _driver = context.tasks.spawn_child("catalog connection", driver);
    if let Some(xid) = xid {
        visible::wait(&client, xid).await?;
    }
    Ok(catalog::read(&mut client, &context.fleet).await?)
}

/// What is collected for the next fold.
#[derive(Debug, Default)]
struct Batch {
    transactions: Vec<CapturedTransaction>,
    xids: Vec<u32>,
    end: Lsn,
    /// Set when the batch ends inside the transaction behind `end`.
    resume: Option<Resume>,
    bytes: usize,
    /// The server waits for this position to become durable.
    wanted: bool,
}

/// A while in which the stream is left alone.
struct Rest {
    until: Instant,
    /// Whether the next fold waits for its end, too.
    is_paced: bool,
}

impl Rest {
    /// After a fold of so many transactions has begun.
    fn after(transactions: usize) -> Self {
        let is_paced = PACED.contains(&transactions);
        let length = if is_paced { PACE } else { REST };
        Self { until: Instant::now() + length, is_paced }
    }
}

/// A fold on its way to the disk: what becomes durable with it.
type Flight = Pin<Box<dyn Future<Output = Result<(Lsn, Vec<u32>), StoreError>> + Send>>;

struct Capture<'a> {
    context: &'a CaptureContext,
    stream: WalStream,
    assembler: Assembler,
    /// A large transaction on its way into the batches, with what it is when it is through.
    large: Option<(Box<Large>, Lsn, u32)>,
    batch: Batch,
    /// The newest position received.
    received: Lsn,
    /// The newest position durable here.
    durable: Lsn,
    /// What the fold in flight will make durable.
    flying: Lsn,
    /// Makes the guard look at once.
    alert: Arc<Notify>,
    nap: Nap,
    /// Since when the fold in flight is on its way.
    took_off: Instant,
    /// Since when the server wants to hear that this position is durable.
    asked: Option<(Lsn, Instant)>,
}

impl Capture<'_> {
    async fn work(&mut self) -> Endless {
        let mut flight: Option<Flight> = None;
        let mut report = tokio::time::interval(REPORT_EVERY);
        let mut rest: Option<Rest> = None;
        loop {
            self.take_fragments()?;
            let is_paced = rest.as_ref().is_some_and(|rest| rest.is_paced);
            if flight.is_none() && !is_paced {
                let count = self.batch.transactions.len();
                flight = self.take_off();
                rest = flight.is_some().then(|| Rest::after(count));
                if plant::active("confirm-before-sync") {
                    self.report();
                }
                self.take_fragments()?;
            }
            let landing = async {
                match flight.as_mut() {
                    Some(flight) => flight.await,
                    None => std::future::pending().await,
                }
            };
            let resting = async {
                match rest.as_ref() {
                    Some(rest) => self.nap.until(rest.until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                landed = landing => {
                    flight = None;
                    let (durable, xids) = landed?;
                    self.context.horizon.note_folded(xids);
                    self.durable = self.durable.max(durable);
                    self.asked = self.asked.filter(|(position, _)| *position > durable);
                    self.report();
                    if !is_paced {
                        self.take_arrived().await?;
                    }
                }
                frame = self.stream.next(), if rest.is_none() && self.has_room() => {
                    self.take(frame?).await?;
                    let is_dry = self.take_arrived().await?;
                    rest = (is_dry && flight.is_some()).then(|| Rest::after(0));
                }
                () = resting => {
                    let is_dry = self.take_arrived().await?;
                    rest = (is_dry && flight.is_some()).then(|| Rest::after(0));
                }
                _ = report.tick() => {
                    self.batch.wanted = true;
                    self.report();
                    // The stream may not be read for long, and the server must hear of us.
                    self.stream.flush_writes().await?;
                    if flight.is_some() && self.is_stalled() {
                        return Err(CaptureError::Stalled);
                    }
                }
            }
        }
    }

    /// Takes what has arrived, and waits for nothing; says whether that was all. Where more arrives
    /// all the while, what is there already must not wait for it.
    async fn take_arrived(&mut self) -> Result<bool, CaptureError> {
        let until = Instant::now() + TAKING;
        while self.has_room() && Instant::now() < until {
            let Some(frame) = self.stream.next().now_or_never() else { return Ok(true) };
            self.take(frame?).await?;
        }
        Ok(!self.has_room())
    }

    /// Whether more may be taken from the stream.
    fn has_room(&self) -> bool {
        !self.is_full() && self.large.is_none()
    }

    /// Whether the socket is left unread until the batch is on its way; PostgreSQL keeps the WAL.
    fn is_full(&self) -> bool {
        self.batch.bytes > BATCH_BYTES_MAX.min(self.context.scratch.memory_bytes_max)
            || self.batch.transactions.len() >= BATCH_TRANSACTIONS_MAX
    }

    /// Whether the fold in flight keeps the server waiting. Nothing is lost with the connection:
    /// the fold goes on, and the next session begins behind it.
    fn is_stalled(&self) -> bool {
        let waits = self.asked.is_some_and(|(_, since)| since.elapsed() >= KEEP_WAITING);
        let deaf = self.is_full() && self.took_off.elapsed() >= READ_NOTHING;
        waits || deaf
    }

    /// Sends the batch to the store, if there is anything in it.
    fn take_off(&mut self) -> Option<Flight> {
        let position = Lsn(self.context.store.watch().borrow().seen_lsn);
        let has_news = !self.batch.transactions.is_empty() || self.batch.end > position;
        let owed = self.batch.wanted && self.batch.end > self.durable;
        if !has_news && !owed {
            return None;
        }
        let end = self.batch.end;
        let batch = std::mem::replace(&mut self.batch, Batch { end, ..Batch::default() });
        let store = self.context.store.clone();
        self.took_off = Instant::now();
        if batch.resume.is_none() && !batch.transactions.is_empty() {
            self.flying = end;
        }
        if plant::active("early-horizon") {
            self.context.horizon.note_folded(batch.xids.iter().copied());
        }
        Some(Box::pin(async move {
            let durable = if let Some(resume) = batch.resume {
                store.fold_part(batch.transactions, end.0, resume).await?.fold_lsn
            } else if batch.transactions.is_empty() {
                let advance = if batch.wanted { Advance::Now } else { Advance::WhenCheap };
                store.advance_lsn(end.0, advance).await?
            } else {
                plant::hang("stalled-store").await;
                store.fold(batch.transactions, end.0, Vec::new()).await?.fold_lsn
            };
            Ok((Lsn(durable), batch.xids))
        }))
    }

    async fn take(&mut self, frame: Frame) -> Result<(), CaptureError> {
        match frame {
            Frame::XLogData { data, texts, .. } => {
                if plant::active("slow-capture") {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let message = pgoutput::decode_with(&data, texts).map_err(AssembleError::from)?;
                if matches!(message, pgoutput::Message::Relation(_)) {
                    // It comes again after a change to the table or to the publication.
                    self.alert.notify_one();
                }
                if self.assembler.needs_catalog(&message) {
                    self.read_catalog().await?;
                }
                match self.assembler.push(&message)? {
                    None => {}
                    Some(Assembled::Part(Part { transaction, resume, bytes })) => {
                        self.collect(transaction, bytes, Some(resume));
                    }
                    Some(Assembled::Committed(Committed { content, end, xid })) => {
                        match content {
                            Content::Nothing => {}
                            Content::Whole(transaction, bytes) => {
                                self.collect(transaction, bytes, None);
                            }
                            Content::Large(large) => {
                                self.large = Some((large, end, xid));
                                return Ok(());
                            }
                        }
                        self.pass(end, xid)?;
                    }
                }
            }
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                self.context.status.send_modify(|status| status.server_lsn = wal_end);
                if self.assembler.is_idle() && self.large.is_none() {
                    // Everything before this position is received: only unpublished tables, or
                    // nothing at all, lie between. The slot may move, or the server would keep
                    // the log, and could not stop, for our sake.
                    self.received = self.received.max(wal_end);
                    self.batch.end = self.batch.end.max(wal_end);
                    self.batch.wanted |= reply_requested;
                }
                if reply_requested {
                    self.report();
                    if self.asked.is_none() && self.durable < wal_end {
                        self.asked = Some((wal_end, Instant::now()));
                    }
                }
            }
            Frame::Ended => return Err(CaptureError::Ended),
        }
        Ok(())
    }

    /// Puts a transaction, or a part of one, into the batch.
    fn collect(&mut self, transaction: CapturedTransaction, bytes: usize, resume: Option<Resume>) {
        self.batch.bytes += bytes;
        self.batch.transactions.push(transaction);
        self.batch.resume = resume;
    }

    /// The batch holds all of a transaction.
    fn pass(&mut self, end: Lsn, xid: u32) -> Result<(), AssembleError> {
        self.received = self.received.max(end);
        self.batch.end = self.batch.end.max(end);
        self.batch.resume = None;
        self.batch.xids.push(xid);
        Ok(self.assembler.texts().clear()?)
    }

    /// Fills the batch with fragments of the large transaction under way.
    fn take_fragments(&mut self) -> Result<(), AssembleError> {
        while !self.is_full()
            && let Some((large, end, xid)) = &mut self.large
        {
            let (end, xid) = (*end, *xid);
            let bytes_max = self.context.scratch.fragment_bytes();
            let fragment = large.next_fragment(bytes_max)?;
            let last = fragment.is_last();
            self.collect(fragment.transaction, fragment.bytes, fragment.resume);
            if last {
                self.large = None;
                self.pass(end, xid)?;
            }
        }
        Ok(())
    }

    async fn read_catalog(&mut self) -> Result<(), CaptureError> {
        let open = self.assembler.open_transaction();
        let tables = read_tables(self.context, open.map(|(xid, _)| xid)).await?;
        let as_of = open.map_or(self.received, |(_, commit)| Lsn(commit.0.saturating_add(1)));
        if self.assembler.set_catalog(tables, as_of) {
            self.context.schema_epoch.send_modify(|epoch| *epoch += 1);
        }
        Ok(())
    }

    /// Tells the server what is received and what is durable. Flush is only ever what the store
    /// has on disk.
    fn report(&mut self) {
        let early = plant::active("confirm-before-sync");
        let flush = if early { self.flying.max(self.durable) } else { self.durable };
        let status = StandbyStatus {
            write: self.received.max(self.durable),
            flush,
            apply: flush,
            reply: Reply::NotNeeded,
        };
        self.stream
            .queue_status(status, SystemTime::UNIX_EPOCH + Duration::from_millis(time::wall_ms()));
        self.context.status.send_modify(|status| {
            status.confirmed = self.durable;
            status.server_lsn = status.server_lsn.max(self.received);
        });
    }
}
