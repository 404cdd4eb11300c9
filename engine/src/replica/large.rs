//! A large transaction: one PostgreSQL transaction that shows fragment after fragment, beside the
//! groups of the other origins.
//!
//! No two fragments change the same row, so each is decided by itself. Each has its marker, under
//! which its rows come back through the WAL, so that neither side ever holds more than one of them
//! in memory. Rows stay locked from their fragment on until the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{FoldError, ForeignTransaction};
use landfall_protocol::id::{Origin, Seq, TxnId};
use landfall_protocol::plan::Group;
use landfall_protocol::schema::{TableDef, TableId};
use landfall_protocol::version::VersionVector;

use crate::postgres::apply::{ApplyError, LockPhase, Opening};
use crate::replica::group::{Attempt, LOCKED, Mode, unshowable};
use crate::replica::pending::Pending;
use crate::replica::round::{CAPTURE_BEHIND, Tried, Turn, pause_before};
use crate::replica::{Counters, Replica, ReplicaContext, ReplicaError};
use crate::store::StoreError;
use crate::tasks::{Child, TaskError};

/// Attempts of one fragment before everything is given up and its rows are unlocked.
const FRAGMENT_ATTEMPTS: u32 = 24;
/// Attempts of the whole before the other origins have their turn.
const ATTEMPTS_PER_TURN: u32 = 2;

/// A transaction that its origin logged in fragments, all of which are here.
#[derive(Clone, Copy)]
struct Large {
    origin: Origin,
    first: Seq,
    last: Seq,
}

impl ReplicaContext {
    /// Applies a large transaction, whose origin has these tables and this vector before it.
    async fn apply_beside(
        self: Arc<Self>,
        large: Large,
        tables: BTreeMap<TableId, TableDef>,
        seen: VersionVector,
    ) -> Result<Ended, ReplicaError> {
        let mut replica = Replica::connect(&self).await?;
        replica.take_over(&self.store.fold_state().await?);
        replica.learn_schema(&self).await?;
        let before = Seq(large.first.0 - 1);
        let pending = Pending::new(large.origin, before, tables, seen);
        replica.pending.insert(large.origin, pending);
        let turn = replica.apply_large(&self, large).await?;
        let counters = replica.counters;
        let Walk { tables, seen, .. } = replica.walk(large.origin);
        Ok(Ended { large, turn, tables, seen, counters })
    }
}

/// How far the origin's tables and vector are, and what was done.
struct Walk {
    tables: BTreeMap<TableId, TableDef>,
    seen: VersionVector,
    changes: usize,
}

/// The task that applies a large transaction on connections of its own. To the other origins' groups
/// it is like any local writer: they meet at row locks and barriers.
pub(super) struct Lane {
    large: Large,
    task: Child<Result<Ended, ReplicaError>>,
}

/// What a lane came to.
pub(super) struct Ended {
    large: Large,
    turn: Turn,
    /// The origin's tables and vector after it.
    tables: BTreeMap<TableId, TableDef>,
    seen: VersionVector,
    counters: Counters,
}

impl Lane {
    pub(super) fn origin(&self) -> Origin {
        self.large.origin
    }
}

impl Future for Lane {
    type Output = Result<Result<Ended, ReplicaError>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.task).poll(cx)
    }
}

/// The end of the lane, if there is one.
pub(super) async fn end_of(
    lane: &mut Option<Lane>,
) -> Result<Result<Ended, ReplicaError>, TaskError> {
    match lane {
        Some(lane) => lane.await,
        None => std::future::pending().await,
    }
}

impl Replica {
    /// Starts to apply the large transaction that begins with `first`, once all of it is here and no
    /// other one is under way.
    pub(super) async fn enter_lane(
        &mut self,
        context: &Arc<ReplicaContext>,
        origin: Origin,
        first: Seq,
    ) -> Result<(), ReplicaError> {
        if self.lane.is_some() {
            return Ok(());
        }
        let Some(last) = self.store.fragments_end(origin, first).await? else { return Ok(()) };
        let Some(pending) = self.pending.get(&origin) else { return Ok(()) };
        let (tables, seen) = (pending.tables.clone(), pending.seen.clone());
        let large = Large { origin, first, last };
        let work = Arc::clone(context).apply_beside(large, tables, seen);
        self.lane =
            Some(Lane { large, task: context.tasks.spawn_child("large transaction", work) });
        Ok(())
    }

    /// Takes over what a lane did. One that somebody was in the way of is entered again in the next
    /// round.
    pub(super) fn leave_lane(&mut self, ended: Ended) {
        self.lane = None;
        // What it put aside, only the database knows.
        self.returning.begin_anew();
        self.lane_waits = None;
        let Ended { large: Large { origin, last, .. }, turn, tables, seen, counters } = ended;
        self.counters.add(counters);
        if let Turn::Waits(cause) = turn {
            self.lane_waits = Some(cause);
            return;
        }
        self.applied.advance(origin, last);
        if let Some(pending) = self.pending.get_mut(&origin) {
            pending.large_done(last);
            (pending.tables, pending.seen) = (tables, seen);
        }
    }

    /// Brings a large transaction into PostgreSQL.
    async fn apply_large(
        &mut self,
        context: &ReplicaContext,
        large: Large,
    ) -> Result<Turn, ReplicaError> {
        let Large { origin, first, last } = large;
        if !self.keep_horizon_fresh().await? {
            return Ok(Turn::Waits(CAPTURE_BEHIND.to_owned()));
        }
        let fragments = last.0 - first.0 + 1;
        tracing::info!(%origin, seq = %first, fragments, "applying a large transaction");
        let walk = match self.try_large(large, Mode::SetBased).await? {
            (Tried::Done, walk) => walk,
            (Tried::Waits(cause), _) => return Ok(Turn::Waits(large.waits(cause))),
            (Tried::Refused(refusal), _) => {
                // The catalog may have changed since it was read; then it is no refusal.
                self.learn_schema(context).await?;
                refusal.log(origin, first);
                match self.try_large(large, Mode::RowByRow).await? {
                    (Tried::Done, walk) => walk,
                    (Tried::Waits(cause), _) => return Ok(Turn::Waits(large.waits(cause))),
                    (Tried::Refused(refusal), _) => {
                        self.set_large_aside(large, &refusal.reason).await?
                    }
                }
            }
        };
        tracing::info!(%origin, seq = %first, changes = walk.changes, "applied a large transaction");
        self.counters.groups += 1;
        self.counters.transactions += 1;
        self.counters.changes += walk.changes as u64;
        if let Some(pending) = self.pending.get_mut(&origin) {
            (pending.tables, pending.seen) = (walk.tables, walk.seen);
        }
        Ok(Turn::Worked)
    }

    async fn try_large(&mut self, large: Large, mode: Mode) -> Result<(Tried, Walk), ReplicaError> {
        self.begin_orphans(Some((TxnId { origin: large.origin, seq: large.first }, large.last)));
        let mut hidden = BTreeSet::new();
        let mut cause = "its turn";
        for attempt in 0..ATTEMPTS_PER_TURN {
            let mut walk = self.walk(large.origin);
            let outcome = self.show_large(large, mode, &mut hidden, &mut walk).await;
            cause = match self.settle(outcome).await? {
                Attempt::Done => return Ok((Tried::Done, walk)),
                Attempt::Refused(reason) => return Ok((Tried::Refused(reason), walk)),
                Attempt::Again(cause) => cause,
                Attempt::Late => LOCKED,
            };
            self.counters.retries += 1;
            tracing::debug!(origin = %large.origin, seq = %large.first, cause, "trying again");
            tokio::time::sleep(pause_before(attempt)).await;
        }
        Ok((Tried::Waits(cause), self.walk(large.origin)))
    }

    fn walk(&self, origin: Origin) -> Walk {
        let (tables, seen) = match self.pending.get(&origin) {
            Some(pending) => (pending.tables.clone(), pending.seen.clone()),
            None => (BTreeMap::new(), VersionVector::new()),
        };
        Walk { tables, seen, changes: 0 }
    }

    async fn show_large(
        &mut self,
        large: Large,
        mode: Mode,
        hidden: &mut BTreeSet<RowId>,
        walk: &mut Walk,
    ) -> Result<Attempt, ReplicaError> {
        let phase = match mode {
            Mode::SetBased => LockPhase::Patient,
            Mode::RowByRow => LockPhase::RowByRow,
        };
        self.earlier.clear();
        for seq in (large.first.0..=large.last.0).map(Seq) {
            let group = self.begin_fragment(large, seq, phase, walk).await?;
            self.more_follows = seq < large.last;
            if let Some(attempt) = self.show_fragment(&group, mode, hidden).await? {
                return Ok(attempt);
            }
        }
        self.apply.commit().await?;
        Ok(Attempt::Done)
    }

    /// Reads a fragment and writes its marker; the first one begins the transaction.
    async fn begin_fragment(
        &mut self,
        large: Large,
        seq: Seq,
        phase: LockPhase,
        walk: &mut Walk,
    ) -> Result<Group, ReplicaError> {
        let origin = large.origin;
        let group = self.fragment(origin, seq, walk).await?;
        walk.changes += group.changes;
        let marker = self.marker(&group, unshowable(&group), Vec::new());
        if seq == large.first {
            let Large { origin, first, last } = large;
            self.apply.begin(&Opening { origin, first, last, marker, phase }).await?;
        } else {
            self.apply.mark(&marker).await?;
        }
        Ok(group)
    }

    async fn fragment(
        &mut self,
        origin: Origin,
        seq: Seq,
        walk: &mut Walk,
    ) -> Result<Group, ReplicaError> {
        let unit = self.store.inbox(origin, Seq(seq.0 - 1), 1).await?.into_iter().next();
        let found = unit.as_ref().and_then(|unit| Some((unit, unit.transactions.first()?)));
        let Some((unit, transaction)) = found else {
            let missing = FoldError::MissingTransaction(TxnId { origin, seq });
            return Err(StoreError::from(missing).into());
        };
        let vector = unit.header.vector.clone();
        let foreign = [ForeignTransaction { transaction: transaction.clone(), vector }];
        self.described.add(origin, &foreign);
        let Walk { tables, seen, .. } = walk;
        Ok(Group::build(origin, &foreign, &self.dictionary, tables, seen))
    }

    /// Shows a fragment within the open transaction. Somebody in its way is waited for before all
    /// that was done is given up; what PostgreSQL refuses is tried row by row.
    async fn show_fragment(
        &mut self,
        group: &Group,
        mode: Mode,
        hidden: &mut BTreeSet<RowId>,
    ) -> Result<Option<Attempt>, ReplicaError> {
        let mut mode = mode;
        let mut cause = LOCKED;
        for attempt in 0..FRAGMENT_ATTEMPTS {
            self.apply.set_savepoint().await?;
            match self.show(None, group, mode, hidden).await {
                Ok(None) => {
                    self.apply.keep().await?;
                    return Ok(None);
                }
                Ok(Some(Attempt::Again(why))) => cause = why,
                Ok(Some(other)) => return Ok(Some(other)),
                Err(ReplicaError::Apply(ApplyError::Busy)) => cause = LOCKED,
                Err(ReplicaError::Apply(ApplyError::Data { .. })) if mode == Mode::SetBased => {
                    mode = Mode::RowByRow;
                }
                Err(error) => return Err(error),
            }
            self.apply.undo().await?;
            tokio::time::sleep(pause_before(attempt)).await;
        }
        Ok(Some(Attempt::Again(cause)))
    }

    /// Moves past a large transaction that cannot be shown at all, with everything in it parked.
    async fn set_large_aside(&mut self, large: Large, reason: &str) -> Result<Walk, ReplicaError> {
        let mut walk = self.walk(large.origin);
        for seq in (large.first.0..=large.last.0).map(Seq) {
            let group = self.begin_fragment(large, seq, LockPhase::Patient, &mut walk).await?;
            self.park_all(&group, reason).await?;
        }
        self.apply.commit().await?;
        Ok(walk)
    }
}

impl Large {
    fn waits(&self, cause: &str) -> String {
        format!("transaction {} of {} waits: {cause}", self.first, self.origin)
    }
}
