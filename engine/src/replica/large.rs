//! A large transaction: one PostgreSQL transaction that shows fragment after fragment.
//!
//! No two fragments change the same row, so each is decided by itself. Each has its marker, under
//! which its rows come back through the WAL, so that neither side ever holds more than one of them
//! in memory. Rows stay locked from their fragment on until the commit.

use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{FoldError, ForeignTransaction};
use landfall_protocol::id::{Origin, Seq, TxnId};
use landfall_protocol::plan::Group;
use landfall_protocol::schema::{TableDef, TableId};
use landfall_protocol::version::VersionVector;

use crate::postgres::apply::{ApplyError, LockPhase};
use crate::replica::group::{Attempt, LOCKED, Mode, unshowable};
use crate::replica::{
    CAPTURE_BEHIND, Replica, ReplicaContext, ReplicaError, Tried, Turn, pause_before,
};
use crate::store::StoreError;

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

/// How far the origin's tables and vector are, and what was done.
struct Walk {
    tables: BTreeMap<TableId, TableDef>,
    seen: VersionVector,
    changes: usize,
}

impl Replica {
    /// Brings the large transaction that begins with `first` into PostgreSQL, if all of it is here.
    pub(super) async fn apply_large(
        &mut self,
        context: &ReplicaContext,
        origin: Origin,
        first: Seq,
    ) -> Result<Turn, ReplicaError> {
        let Some(last) = self.store.fragments_end(origin, first).await? else {
            return Ok(Turn::Nothing);
        };
        if !self.keep_horizon_fresh().await? {
            return Ok(Turn::Waits(CAPTURE_BEHIND.to_owned()));
        }
        let large = Large { origin, first, last };
        let fragments = last.0 - first.0 + 1;
        tracing::info!(%origin, seq = %first, fragments, "applying a large transaction");
        let walk = match self.try_large(large, Mode::SetBased).await? {
            (Tried::Done, walk) => walk,
            (Tried::Waits(cause), _) => return Ok(Turn::Waits(large.waits(cause))),
            (Tried::Refused(_), _) => {
                // The catalog may have changed since it was read; then it is no refusal.
                self.learn_schema(context).await?;
                tracing::warn!(%origin, seq = %first, "PostgreSQL refuses a transaction, trying row by row");
                match self.try_large(large, Mode::RowByRow).await? {
                    (Tried::Done, walk) => walk,
                    (Tried::Waits(cause), _) => return Ok(Turn::Waits(large.waits(cause))),
                    (Tried::Refused(reason), _) => self.set_large_aside(large, &reason).await?,
                }
            }
        };
        tracing::info!(%origin, seq = %first, changes = walk.changes, "applied a large transaction");
        self.applied.advance(origin, last);
        self.counters.groups += 1;
        self.counters.transactions += 1;
        self.counters.changes += walk.changes as u64;
        if let Some(pending) = self.pending.get_mut(&origin) {
            pending.large_done(last);
            (pending.tables, pending.seen) = (walk.tables, walk.seen);
        }
        Ok(Turn::Worked)
    }

    async fn try_large(&mut self, large: Large, mode: Mode) -> Result<(Tried, Walk), ReplicaError> {
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
        for seq in (large.first.0..=large.last.0).map(Seq) {
            let group = self.begin_fragment(large, seq, phase, walk).await?;
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
        let message = self.marker(&group, &unshowable(&group));
        if seq == large.first {
            self.apply.begin(origin, large.first, large.last, &message, phase).await?;
        } else {
            self.apply.mark(&message).await?;
        }
        Ok(group)
    }

    async fn fragment(
        &self,
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
            match self.show(group, mode, hidden).await {
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
