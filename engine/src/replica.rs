//! Apply: from the inbox into PostgreSQL.
//!
//! One task owns two connections, one that writes and one that passes barriers. It takes the next
//! ready run of transactions of each origin in turn and brings it through one PostgreSQL
//! transaction ([`group`]). Nothing it decides is stored by it: the fold sees the transaction come
//! back through the WAL and moves clocks and vectors.

mod barrier;
mod group;
mod lines;
mod log_values;
mod pending;
mod repair;

pub use barrier::{BARRIER_SETTINGS, BarrierError};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_protocol::dictionary::Dictionary;
use landfall_protocol::fold::ForeignTransaction;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::plan::Group;
use landfall_protocol::queue::TrustedTime;
use landfall_protocol::version::VersionVector;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::capture::horizon::Horizon;
use crate::plant;
use crate::postgres::apply::{APPLY_SETTINGS, ApplyConnection, ApplyError};
use crate::postgres::catalog::{self, CatalogError};
use crate::postgres::connect::{ConnectError, PgSettings};
use crate::replica::barrier::Barrier;
use crate::replica::group::{Attempt, Mode};
use crate::replica::pending::{Next, Pending};
use crate::store::{Log, Severity, Store, StoreError};
use crate::tasks::Tasks;
use crate::time;
use landfall_protocol::fleet::Fleet;

/// A fresh horizon saves most barriers; it is renewed when it is older than this.
const HORIZON_FRESH: Duration = Duration::from_secs(1);
/// Attempts of one group before it is tried without the limit on the time locks take.
const PATIENT_AFTER: u32 = 8;
/// Longest pause between attempts of one group.
const RETRY_MS_MAX: u64 = 200;
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
    /// The fold did not come by.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// Whether waiting alone may help.
    fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::Catalog(_)
            | Self::Barrier(BarrierError::Late | BarrierError::Connection(_)) => true,
            Self::Apply(error) => matches!(error, ApplyError::Connection(_) | ApplyError::Busy),
            Self::Store(error) => error.severity() == Severity::Retry,
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
    /// Rows rewritten because they did not show what their clocks say.
    pub repaired: u64,
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
    /// The store.
    pub store: Store,
    /// What capture has folded.
    pub horizon: Horizon,
    /// Grows whenever capture saw a table change its shape.
    pub schema_epoch: watch::Receiver<u64>,
    /// Row changes one group may have.
    pub group_changes_max: usize,
    /// How far ahead of the local clock a foreign reading may be, in milliseconds.
    pub drift_ms_max: u64,
    /// Where connections' drivers run.
    pub tasks: Tasks,
    /// Where the status is told.
    pub status: watch::Sender<ReplicaStatus>,
}

/// Applies until told to stop. Lost connections and what an operator can change are waited out.
///
/// # Errors
/// Only what can never get better by waiting: a closed or corrupt store.
pub async fn run(context: ReplicaContext, stop: CancellationToken) -> Result<(), ReplicaError> {
    let mut counters = Counters::default();
    loop {
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            outcome = session(&context, &mut counters) => outcome,
        };
        let Err(error) = outcome;
        let pause = match &error {
            ReplicaError::Store(store) if store.severity() == Severity::Fatal => return Err(error),
            error if error.is_transient() => RECONNECT_AFTER,
            _ => OPERATOR_RETRY,
        };
        tracing::info!(%error, "applying pauses");
        context.status.send_modify(|status| {
            status.running = false;
            status.needs_operator = !error.is_transient();
            status.cause = Some(error.to_string());
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The error of a loop that only ends by one.
type Endless = Result<std::convert::Infallible, ReplicaError>;

async fn session(context: &ReplicaContext, counters: &mut Counters) -> Endless {
    let (client, driver) = context.postgres.connect("landfall apply", APPLY_SETTINGS).await?;
    let _apply_driver = context.tasks.spawn_child("apply connection", driver);
    let (barrier, driver) = context.postgres.connect("landfall barrier", BARRIER_SETTINGS).await?;
    let _barrier_driver = context.tasks.spawn_child("barrier connection", driver);
    let log = context.store.watch();
    let mut replica = Replica {
        own: context.own,
        store: context.store.clone(),
        apply: ApplyConnection::new(client),
        barrier: Barrier::new(barrier, context.horizon.clone(), log.clone()),
        horizon: context.horizon.clone(),
        horizon_at: None,
        dictionary: Dictionary::default(),
        pending: BTreeMap::new(),
        applied: VersionVector::new(),
        counters: *counters,
        patient: false,
        refreshed: None,
    };
    let outcome = replica.work(context, log).await;
    *counters = replica.counters;
    outcome
}

/// One session of applying.
pub(crate) struct Replica {
    own: Origin,
    store: Store,
    apply: ApplyConnection,
    barrier: Barrier,
    horizon: Horizon,
    /// When the horizon was last raised with no locks held.
    horizon_at: Option<std::time::Instant>,
    dictionary: Dictionary,
    pending: BTreeMap<Origin, Pending>,
    /// What is committed in PostgreSQL, folded or not.
    applied: VersionVector,
    counters: Counters,
    /// The group at hand may take its time locking.
    patient: bool,
    /// When the catalog was last read because of a change that did not fit.
    refreshed: Option<std::time::Instant>,
}

impl Replica {
    async fn work(&mut self, context: &ReplicaContext, mut log: watch::Receiver<Log>) -> Endless {
        let mut schema_epoch = context.schema_epoch.clone();
        self.catch_up(context).await?;
        loop {
            context.status.send_modify(|status| {
                status.running = true;
                status.needs_operator = false;
                status.cause = None;
                status.counters = self.counters;
                status.held.clear();
            });
            if schema_epoch.has_changed().unwrap_or(false) {
                schema_epoch.mark_unchanged();
                self.learn_schema(context).await?;
            }
            let known = log.borrow_and_update().clone();
            if known.dirty > 0 && !plant::active("no-repair") {
                self.repair().await?;
            }
            let wake = self.round(context, &known).await?;
            if let Wake::Now = wake {
                continue;
            }
            let held = wake.held();
            context.status.send_modify(|status| status.held.clone_from(&held));
            tokio::select! {
                changed = log.changed() => changed.map_err(|_| StoreError::Closed)?,
                _ = schema_epoch.changed() => {}
                () = sleep_until_wall(held.values().min().copied()) => {}
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
        self.applied = fold.applied.clone();
        for (origin, applied) in fold.applied.iter() {
            let tables = fold.foreign_tables.get(&origin).cloned().unwrap_or_default();
            let seen = fold.origin_vectors.get(&origin).cloned().unwrap_or_default();
            self.pending.insert(origin, Pending::new(origin, applied, tables, seen));
        }
        self.learn_schema(context).await
    }

    /// Reads the catalog and makes its tables known to the fold and to the apply connection.
    async fn learn_schema(&mut self, context: &ReplicaContext) -> Result<(), ReplicaError> {
        let (mut client, driver) = context.postgres.connect("landfall catalog", &[]).await?;
        let _driver = context.tasks.spawn_child("catalog connection", driver);
        let catalog = catalog::read(&mut client, &context.fleet).await?;
        let defs =
            catalog.tables.into_iter().map(|table| table.def).filter(|def| !def.key.is_empty());
        self.store.learn(defs.collect()).await?;
        self.dictionary = self.store.fold_state().await?.dictionary;
        let tables: Vec<_> = self.dictionary.tables().collect();
        self.apply.learn(tables).await?;
        let gone = self.dictionary.tables().map(|(id, _)| id);
        let gone: Vec<_> = gone.filter(|id| self.apply.table(*id).is_err()).collect();
        for table in gone {
            self.dictionary.hide(table);
        }
        Ok(())
    }

    /// Gives every origin one group.
    async fn round(&mut self, context: &ReplicaContext, log: &Log) -> Result<Wake, ReplicaError> {
        let time = TrustedTime { now_ms: time::wall_ms(), drift_ms_max: context.drift_ms_max };
        let mut held = BTreeMap::new();
        let mut worked = false;
        let own = self.own;
        for (origin, received) in log.received.iter().filter(|(origin, _)| *origin != own) {
            self.meet(origin).await?;
            let Some(pending) = self.pending.get_mut(&origin) else { continue };
            pending.fill(&self.store, received).await?;
            match pending.next(&self.applied, self.own, time, context.group_changes_max) {
                Next::Ready(count) => {
                    self.apply_front(context, origin, count).await?;
                    worked = true;
                }
                Next::HeldUntil(at) => drop(held.insert(origin, at)),
                Next::Nothing => {}
            }
        }
        Ok(if worked { Wake::Now } else { Wake::Later(held) })
    }

    async fn meet(&mut self, origin: Origin) -> Result<(), ReplicaError> {
        if !self.pending.contains_key(&origin) {
            self.apply.start_origin(origin).await?;
            let pending = Pending::new(origin, Seq::ZERO, BTreeMap::new(), VersionVector::new());
            self.pending.insert(origin, pending);
        }
        Ok(())
    }

    /// Brings the first `count` transactions of an origin into PostgreSQL. A group whose values
    /// are refused is tried transaction by transaction, and a transaction row by row.
    async fn apply_front(
        &mut self,
        context: &ReplicaContext,
        origin: Origin,
        count: usize,
    ) -> Result<(), ReplicaError> {
        self.keep_horizon_fresh().await?;
        let Some(pending) = self.pending.get_mut(&origin) else { return Ok(()) };
        let transactions: Vec<ForeignTransaction> = pending.front(count).to_vec();
        let (mut tables, mut seen) = (pending.tables.clone(), pending.seen.clone());
        let mut group =
            Group::build(origin, &transactions, &self.dictionary, &mut tables, &mut seen);
        if self.does_not_fit(&group) && self.may_refresh() {
            self.learn_schema(context).await?;
            let Some(pending) = self.pending.get(&origin) else { return Ok(()) };
            (tables, seen) = (pending.tables.clone(), pending.seen.clone());
            group = Group::build(origin, &transactions, &self.dictionary, &mut tables, &mut seen);
        }
        let done = match self.try_until_done(&group, Mode::SetBased).await? {
            None => count,
            Some(_) if count > 1 => return Box::pin(self.apply_front(context, origin, 1)).await,
            Some(reason) => {
                tracing::warn!(%origin, seq = %group.first, "PostgreSQL refuses a transaction, trying row by row");
                if let Some(reason) = self.try_until_done(&group, Mode::RowByRow).await? {
                    return Err(
                        ApplyError::Data { sqlstate: "XX000".to_owned(), message: reason }.into()
                    );
                }
                drop(reason);
                count
            }
        };
        self.applied.advance(origin, group.last);
        self.counters.groups += 1;
        self.counters.transactions += done as u64;
        self.counters.changes += group.changes as u64;
        if let Some(pending) = self.pending.get_mut(&origin) {
            pending.done(done);
            (pending.tables, pending.seen) = (tables, seen);
        }
        Ok(())
    }

    /// Tries a group until it is committed (`None`) or refused (the reason).
    async fn try_until_done(
        &mut self,
        group: &Group,
        mode: Mode,
    ) -> Result<Option<String>, ReplicaError> {
        let mut hidden = BTreeSet::new();
        for attempt in 0.. {
            self.patient = attempt >= PATIENT_AFTER;
            match self.attempt(group, mode, &mut hidden).await? {
                Attempt::Done => return Ok(None),
                Attempt::Refused(reason) => return Ok(Some(reason)),
                Attempt::Again(cause) => {
                    self.counters.retries += 1;
                    tracing::debug!(origin = %group.origin, seq = %group.first, cause, "trying again");
                    tokio::time::sleep(pause_before(attempt)).await;
                }
            }
        }
        Ok(None)
    }

    fn does_not_fit(&self, group: &Group) -> bool {
        !group.parked.is_empty()
            || group.rows.values().any(|work| work.unknown_columns().next().is_some())
    }

    fn may_refresh(&mut self) -> bool {
        let now = time::monotonic();
        let may = self.refreshed.is_none_or(|at| now.duration_since(at) > Duration::from_secs(10));
        if may {
            self.refreshed = Some(now);
        }
        may
    }

    /// P0: a barrier with no locks held, now and then, so that most groups need none.
    async fn keep_horizon_fresh(&mut self) -> Result<(), ReplicaError> {
        let fresh = self.horizon_at.is_some_and(|at| at.elapsed() < HORIZON_FRESH);
        if !fresh || self.horizon.is_crowded() {
            self.barrier.pass().await?;
            self.horizon_at = Some(time::monotonic());
        }
        Ok(())
    }
}

enum Wake {
    Now,
    Later(BTreeMap<Origin, u64>),
}

impl Wake {
    fn held(self) -> BTreeMap<Origin, u64> {
        match self {
            Self::Now => BTreeMap::new(),
            Self::Later(held) => held,
        }
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

/// Grows with the attempts and differs between sites, so that two do not keep meeting.
fn pause_before(attempt: u32) -> Duration {
    let most = (1u64 << attempt.min(7)).min(RETRY_MS_MAX);
    let jitter = getrandom::u32().unwrap_or(attempt);
    Duration::from_micros(most * 1000 / 2 + u64::from(jitter) % (most * 500 + 1))
}
