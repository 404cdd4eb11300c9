//! Apply: from the inbox into PostgreSQL.
//!
//! One task owns two connections, one that writes and one that passes barriers. It takes the next
//! ready run of transactions of each origin in turn and brings it through one PostgreSQL
//! transaction (`group`). A large transaction has a task and two connections of its own (`large`), so
//! that the other origins do not wait for it. Nothing it decides is stored by it: the fold sees the transaction come
//! back through the WAL and moves clocks and vectors.

mod aside;
mod barrier;
mod beside;
mod clashes;
mod group;
mod large;
mod lines;
mod log_values;
mod orphans;
mod parked;
mod pending;
mod references;
mod repair;
mod rest;
mod round;
mod stage;

pub use barrier::{BARRIER_SETTINGS, BarrierError};
pub(crate) use lines::key_text;
pub use parked::RetryOrders;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::select_all;

use landfall_protocol::dictionary::{Dictionary, RowId};
use landfall_protocol::fold::{Fold, MarkerKey};
use landfall_protocol::id::{Origin, Seq, TxnId};
use landfall_protocol::version::VersionVector;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::capture::bond::{self, BondError};
use crate::capture::horizon::Horizon;
use crate::plant;
#[cfg(not(feature = "simulation"))]
use crate::postgres::apply::ApplyConnection;
use crate::postgres::apply::{ApplyError, session_settings};
use crate::postgres::catalog::{self, Catalog, CatalogError};
use crate::postgres::connect::{ConnectError, PgSettings};
#[cfg(feature = "simulation")]
use crate::postgres::model::{ApplyConnection, Fault, Model};
use crate::replica::aside::Returning;
use crate::replica::barrier::Barrier;
use crate::replica::large::Lane;
use crate::replica::log_values::Described;
use crate::replica::orphans::{HiddenRows, Orphan};
use crate::replica::parked::Parking;
use crate::replica::pending::Pending;
use crate::replica::references::Earlier;
use crate::store::{Log, Severity, Store, StoreError};
use crate::tasks::{Child, TaskError, Tasks};
use crate::time;
use landfall_protocol::fleet::Fleet;

/// Pause before a group that somebody stands in the way of has its next turn.
const NEXT_TURN_AFTER: Duration = Duration::from_millis(100);
/// Pause before the connections are made anew.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// Pause before something an operator must change is looked at again.
const OPERATOR_RETRY: Duration = Duration::from_secs(10);

/// Why applying stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// PostgreSQL cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A model cannot be reached.
    #[cfg(feature = "simulation")]
    #[error(transparent)]
    Model(#[from] Fault),
    /// The fold did not come by.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Store and database do not belong together.
    #[error(transparent)]
    Bond(#[from] BondError),
    /// The task of a large transaction ended before its work did.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A connection ended without an error.
    #[error("the server closed a connection")]
    Lost,
    /// The database is older than the store.
    #[error(
        "the database shows transactions of origin {origin} up to {database}, this store up to {store}: \
         one of the two was restored from a backup; see docs/operations.md, \"a restored database\""
    )]
    ProgressDiffers {
        /// Whose transactions.
        origin: Origin,
        /// By the database's progress row.
        database: Seq,
        /// By the store.
        store: Seq,
    },
}

impl ReplicaError {
    /// What went wrong, and what to do where the error itself does not say it.
    fn told(&self) -> String {
        match self.store() {
            Some(store) => format!("{store}; {}", store.advice()),
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

    /// Whether waiting alone may help.
    fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::Catalog(_)
            | Self::Task(_)
            | Self::Lost
            | Self::Barrier(BarrierError::Late | BarrierError::Connection(_)) => true,
            Self::Apply(error) => {
                #[cfg(feature = "simulation")]
                if matches!(error, ApplyError::Model(_)) {
                    return true;
                }
                matches!(error, ApplyError::Connection(_) | ApplyError::Busy | ApplyError::Late)
            }
            #[cfg(feature = "simulation")]
            Self::Model(_) | Self::Barrier(BarrierError::Model(_)) => true,
            Self::Store(error) => error.severity() == Severity::Retry,
            Self::Bond(error) => error.is_transient(),
            Self::Barrier(_) | Self::ProgressDiffers { .. } => false,
        }
    }
}

/// What apply is doing, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Whether both connections stand and the inbox is being worked on.
    pub running: bool,
    /// Why not, or what it waits for.
    pub cause: Option<String>,
    /// Whether an operator must act.
    pub needs_operator: bool,
    /// Counts since the process started.
    pub counters: Counters,
    /// Origins held because their clocks run ahead, with the time (ms since 1970) they are due.
    pub held: BTreeMap<Origin, u64>,
}

impl ReplicaStatus {
    /// Before the first connections stand.
    pub fn starting() -> Self {
        Self { cause: Some("it is starting".to_owned()), ..Self::default() }
    }
}

/// Counts since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// PostgreSQL transactions committed.
    pub groups: u64,
    /// Origin transactions in them.
    pub transactions: u64,
    /// Row changes in them.
    pub changes: u64,
    /// Barriers passed while locks were held.
    pub barriers: u64,
    /// Attempts that were rolled back.
    pub retries: u64,
    /// Lines written to `landfall.conflict`.
    pub conflicts: u64,
    /// Lines written to `landfall.parked`.
    pub parked: u64,
    /// Parked changes whose rows are shown by now.
    pub freed: u64,
    /// Rows rewritten because they did not show what their clocks say.
    pub repaired: u64,
}

impl Counters {
    fn add(&mut self, other: Self) {
        self.groups += other.groups;
        self.transactions += other.transactions;
        self.changes += other.changes;
        self.barriers += other.barriers;
        self.retries += other.retries;
        self.conflicts += other.conflicts;
        self.parked += other.parked;
        self.freed += other.freed;
        self.repaired += other.repaired;
    }
}

/// Everything apply needs from the daemon.
#[derive(Debug)]
pub struct ReplicaContext {
    /// The local database.
    pub postgres: PgSettings,
    /// Sets and tables.
    pub fleet: Fleet,
    /// This site in this life.
    pub own: Origin,
    /// Seals our markers.
    pub marker_key: MarkerKey,
    /// The store.
    pub store: Store,
    /// What capture has folded.
    pub horizon: Horizon,
    /// Grows whenever capture saw a table change its shape.
    pub schema_epoch: watch::Receiver<u64>,
    /// What operators ask to be tried again.
    pub retry: RetryOrders,
    /// Row changes one group may have.
    pub group_changes_max: usize,
    /// How far ahead of the local clock a foreign reading may be, in milliseconds.
    pub drift_ms_max: u64,
    /// Where connections' drivers run.
    pub tasks: Tasks,
    /// Where the status is told.
    pub status: watch::Sender<ReplicaStatus>,
    /// Stands for the local database.
    #[cfg(feature = "simulation")]
    pub model: Option<Arc<dyn Model>>,
}

impl ReplicaContext {
    async fn read_catalog(&self) -> Result<Catalog, ReplicaError> {
        #[cfg(feature = "simulation")]
        if let Some(model) = &self.model {
            return Ok(model.catalog().await?.with_rules(&self.fleet));
        }
        let (mut client, driver) = self.postgres.connect("landfall catalog", &[]).await?;
        let _driver = self.tasks.spawn_child("catalog connection", driver);
        Ok(catalog::read(&mut client, &self.fleet).await?)
    }
}

/// Applies until told to stop. Lost connections and what an operator can change are waited out.
///
/// # Errors
/// Only what can never get better by waiting: a closed or corrupt store.
pub async fn run(context: ReplicaContext, stop: CancellationToken) -> Result<(), ReplicaError> {
    let mut counters = Counters::default();
    let mut parking = Parking::default();
    let context = Arc::new(context);
    loop {
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            outcome = session(&context, &mut counters, &mut parking) => outcome,
        };
        let Err(error) = outcome;
        if error.store().is_some_and(|store| store.severity() == Severity::Fatal) {
            return Err(error);
        }
        let pause = if error.is_transient() { RECONNECT_AFTER } else { OPERATOR_RETRY };
        tracing::info!(%error, "applying pauses");
        context.status.send_modify(|status| {
            status.running = false;
            status.needs_operator = !error.is_transient();
            status.cause = Some(error.told());
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What drives a connection.
type Driver = Child<Result<(), tokio_postgres::Error>>;

/// The error of a loop that only ends by one.
type Endless = Result<std::convert::Infallible, ReplicaError>;

async fn session(
    context: &Arc<ReplicaContext>,
    counters: &mut Counters,
    parking: &mut Parking,
) -> Endless {
    let mut replica = Replica::connect(context).await?;
    replica.counters = *counters;
    replica.parking = std::mem::take(parking);
    let outcome = replica.work(context, context.store.watch()).await;
    *counters = replica.counters;
    *parking = replica.parking.next_session();
    outcome
}

/// One session of applying.
pub(crate) struct Replica {
    own: Origin,
    fleet: Fleet,
    marker_key: MarkerKey,
    store: Store,
    apply: ApplyConnection,
    barrier: Barrier,
    horizon: Horizon,
    /// When the horizon was last raised with no locks held.
    horizon_at: Option<std::time::Instant>,
    dictionary: Dictionary,
    /// What the store counted before it gave us the dictionary.
    tables_known: u64,
    /// Tables that the group under way describes.
    described: Described,
    pending: BTreeMap<Origin, Pending>,
    /// What is committed in PostgreSQL, folded or not.
    applied: VersionVector,
    counters: Counters,
    /// The group at hand may take its time locking.
    patient: bool,
    /// How often the group at hand of each origin was tried.
    attempts: BTreeMap<Origin, u32>,
    /// When the catalog was last read because of a change that did not fit.
    refreshed: Option<std::time::Instant>,
    /// Rows without parents that were found when the work at hand was tried before.
    orphaned: BTreeMap<RowId, Orphan>,
    /// The transactions for which, if it is some.
    orphaned_of: Option<(TxnId, Seq)>,
    /// Whether further fragments of the transaction at hand are to come.
    more_follows: bool,
    /// What the fragments before did to rows that reference each other.
    earlier: BTreeMap<Seq, Earlier>,
    /// Rows whose children must wait.
    hidden: HiddenRows,
    /// When what is parked is tried again.
    parking: Parking,
    /// When rows that are put aside are.
    returning: Returning,
    /// The large transaction that is applied beside us.
    lane: Option<Lane>,
    /// What it waited for when it last gave up.
    lane_waits: Option<String>,
    /// What drives the connections.
    drivers: Vec<Driver>,
}

impl Replica {
    async fn connect(context: &ReplicaContext) -> Result<Self, ReplicaError> {
        #[cfg(feature = "simulation")]
        if let Some(model) = &context.model {
            let mut session = model.connect().await?;
            let apply = model.connect_apply().await?;
            let closed = apply.closed().map(|()| Ok(()));
            let driver = context.tasks.spawn_child("apply connection", closed);
            let apply = ApplyConnection::modelled(apply);
            bond::verify_modelled(&mut *session, &context.store).await?;
            let barrier =
                Barrier::modelled(session, context.horizon.clone(), context.store.watch());
            return Ok(Self::new(context, apply, barrier, vec![driver]));
        }
        let (client, driver) =
            context.postgres.connect("landfall apply", &session_settings()).await?;
        let apply_driver = context.tasks.spawn_child("apply connection", driver);
        // Positions prove nothing in a database that was set back.
        bond::verify(&client, &context.store).await?;
        let (barrier, driver) =
            context.postgres.connect("landfall barrier", BARRIER_SETTINGS).await?;
        let barrier_driver = context.tasks.spawn_child("barrier connection", driver);
        let barrier = Barrier::new(barrier, context.horizon.clone(), context.store.watch());
        let apply = ApplyConnection::new(client);
        Ok(Self::new(context, apply, barrier, vec![apply_driver, barrier_driver]))
    }

    fn new(
        context: &ReplicaContext,
        apply: ApplyConnection,
        barrier: Barrier,
        drivers: Vec<Driver>,
    ) -> Self {
        Self {
            own: context.own,
            fleet: context.fleet.clone(),
            marker_key: context.marker_key.clone(),
            store: context.store.clone(),
            apply,
            barrier,
            horizon: context.horizon.clone(),
            horizon_at: None,
            dictionary: Dictionary::default(),
            tables_known: 0,
            described: Described::default(),
            pending: BTreeMap::new(),
            applied: VersionVector::new(),
            counters: Counters::default(),
            patient: false,
            attempts: BTreeMap::new(),
            refreshed: None,
            orphaned: BTreeMap::new(),
            orphaned_of: None,
            more_follows: false,
            earlier: BTreeMap::new(),
            hidden: HiddenRows::default(),
            parking: Parking::default(),
            returning: Returning::default(),
            lane: None,
            lane_waits: None,
            drivers,
        }
    }

    async fn work(
        &mut self,
        context: &Arc<ReplicaContext>,
        mut log: watch::Receiver<Log>,
    ) -> Endless {
        let mut schema_epoch = context.schema_epoch.clone();
        self.catch_up(context).await?;
        loop {
            context.status.send_modify(|status| {
                status.running = true;
                status.needs_operator = false;
                status.counters = self.counters;
            });
            if schema_epoch.has_changed().unwrap_or(false) {
                schema_epoch.mark_unchanged();
                self.learn_schema(context).await?;
            }
            let known = log.borrow_and_update().clone();
            let due = known.dirty > 0 && !plant::active("no-repair");
            let repair_waits = due && !self.repair().await?;
            let repair_waits = repair_waits.then(|| "rows to be repaired are locked".to_owned());
            self.note_touched(&known);
            let parked_at = self.tend_parked(context, &known).await?;
            let aside_at = self.tend_aside().await?;
            // Rounds may follow on each other for long.
            if let Some(ended) = large::end_of(&mut self.lane).now_or_never() {
                self.leave_lane(ended??);
            }
            let round = self.round(context, &known).await?;
            let held = round.held;
            let waits = round.waits.or(repair_waits).or_else(|| self.lane_waits.clone());
            context.status.send_modify(|status| {
                status.held.clone_from(&held);
                status.cause.clone_from(&waits);
            });
            if round.now {
                continue;
            }
            let next_turn = async {
                match waits {
                    Some(_) => tokio::time::sleep(NEXT_TURN_AFTER).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = log.changed() => changed.map_err(|_| StoreError::Closed)?,
                () = schema_change(&mut schema_epoch) => {}
                () = sleep_until_wall(held.values().min().copied()) => {}
                () = next_turn => {}
                () = sleep_until(parked_at) => {}
                () = sleep_until(aside_at) => {}
                () = context.retry.rung() => {}
                ended = large::end_of(&mut self.lane) => self.leave_lane(ended??),
                error = loss(&mut self.drivers) => return Err(error),
            }
        }
    }

    /// After a start the fold must reach the present before anything is applied: old local
    /// commits keep old stamps. Then database and store must tell the same progress.
    async fn catch_up(&mut self, context: &ReplicaContext) -> Result<(), ReplicaError> {
        loop {
            match self.barrier.pass().await {
                Ok(()) => break,
                Err(BarrierError::Late) => context.status.send_modify(|status| {
                    status.cause = Some("waiting for capture to reach the present".to_owned());
                }),
                Err(error) => return Err(error.into()),
            }
        }
        self.horizon_at = Some(time::monotonic());
        let fold = self.store.fold_state().await?;
        for (origin, seq) in self.apply.progress().await? {
            let Ok(origin) = origin.parse::<Origin>() else { continue };
            let (database, store) = (Seq(seq.unsigned_abs()), fold.applied.get(origin));
            if database != store {
                return Err(ReplicaError::ProgressDiffers { origin, database, store });
            }
        }
        self.take_over(&fold);
        self.learn_schema(context).await
    }

    /// Begins where the fold is.
    fn take_over(&mut self, fold: &Fold) {
        self.applied = fold.applied.clone();
        for (origin, applied) in fold.applied.iter() {
            let tables = fold.foreign_tables.get(&origin).cloned().unwrap_or_default();
            let seen = fold.origin_vectors.get(&origin).cloned().unwrap_or_default();
            self.pending.insert(origin, Pending::new(origin, applied, tables, seen));
        }
    }

    /// Reads the catalog and makes its tables known to the fold and to the apply connection.
    async fn learn_schema(&mut self, context: &ReplicaContext) -> Result<(), ReplicaError> {
        let catalog = context.read_catalog().await?;
        self.store.learn(catalog.replicable().cloned().collect()).await?;
        self.tables_known = self.store.table_moves();
        self.dictionary = self.store.fold_state().await?.dictionary;
        self.apply.learn(self.dictionary.tables(), &catalog);
        let gone = self.dictionary.tables().map(|(id, _)| id);
        let gone: Vec<_> = gone.filter(|id| self.apply.table(*id).is_err()).collect();
        for table in gone {
            self.dictionary.hide(table);
        }
        if self.parking.learned(catalog) {
            self.returning.begin_anew();
        }
        Ok(())
    }

    /// What is parked or put aside may be free when a table is written.
    fn note_touched(&mut self, log: &Log) {
        let touched = self.store.take_touched();
        let tables = || touched.iter().filter_map(|id| self.dictionary.table(*id));
        if log.fates.parked > 0 {
            self.parking.touched(tables());
        }
        self.returning.touched(tables(), self.parking.catalog());
    }

    /// Whether the fold knows tables that we do not: what was decided without them may be wrong.
    fn tables_changed(&self) -> bool {
        self.store.table_moves() != self.tables_known
    }
}

/// Waits until a connection is gone, which nobody would notice who asks nothing of it. A server that
/// crashed has forgotten commits that were not on its disk, and what they showed must be shown again.
async fn loss(drivers: &mut [Driver]) -> ReplicaError {
    let (ended, ..) = select_all(drivers.iter_mut()).await;
    match ended {
        Ok(Ok(())) => ReplicaError::Lost,
        Ok(Err(error)) => ApplyError::Connection(error).into(),
        Err(error) => error.into(),
    }
}

/// Waits until capture saw a table change its shape. Where capture has ended nothing is to be waited
/// for, and everything else ends soon.
async fn schema_change(epoch: &mut watch::Receiver<u64>) {
    if epoch.changed().await.is_err() {
        std::future::pending().await
    }
}

async fn sleep_until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep(at.saturating_duration_since(time::monotonic())).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until_wall(at_ms: Option<u64>) {
    match at_ms {
        // Looked at again at least each minute: the clock on the wall may be set.
        Some(at) => {
            let wait = at.saturating_sub(time::wall_ms()).clamp(1, 60_000);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        None => std::future::pending().await,
    }
}
