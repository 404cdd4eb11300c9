//! A round: every origin gets a turn, in which one group of its transactions is applied.
//!
//! A group that PostgreSQL refuses is tried transaction by transaction, and a transaction row by row. A
//! turn ends after some attempts: a row that somebody keeps locked must not hold up the other origins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::id::{Origin, Seq, TxnId};
use landfall_protocol::plan::Group;
use landfall_protocol::queue::TrustedTime;
use landfall_protocol::schema::{TableDef, TableId};
use landfall_protocol::version::VersionVector;

use crate::random;
use crate::replica::group::{Attempt, Mode, Refusal};
use crate::replica::log_values::Described;
use crate::replica::pending::{Next, Pending};
use crate::replica::{Replica, ReplicaContext, ReplicaError};
use crate::store::Log;
use crate::time;

/// A fresh horizon saves most barriers; it is renewed when it is older than this.
const HORIZON_FRESH: Duration = Duration::from_secs(1);
/// Attempts of one group before every other one has no limit on the time locks take. One that
/// failed by that limit is followed by one without it at once.
const PATIENT_AFTER: u32 = 8;
/// Attempts of one group before the other origins have their turn.
const ATTEMPTS_PER_TURN: u32 = 8;
/// Longest pause between attempts of one group.
const RETRY_MS_MAX: u64 = 200;
/// What `status` says while barriers come late.
pub(super) const CAPTURE_BEHIND: &str = "waiting for capture, which is behind";

impl Replica {
    /// Gives every origin one group.
    pub(super) async fn round(
        &mut self,
        context: &Arc<ReplicaContext>,
        log: &Log,
    ) -> Result<Wake, ReplicaError> {
        let time = TrustedTime { now_ms: time::wall_ms(), drift_ms_max: context.drift_ms_max };
        let mut wake = Wake::default();
        let own = self.own;
        for (origin, received) in log.received.iter().filter(|(origin, _)| *origin != own) {
            if self.lane.as_ref().is_some_and(|lane| lane.origin() == origin) {
                continue;
            }
            self.meet(origin).await?;
            let Some(pending) = self.pending.get_mut(&origin) else { continue };
            pending.fill(&self.store, received).await?;
            match pending.next(&self.applied, self.own, time, context.group_changes_max) {
                Next::Ready(count) => match self.apply_front(context, origin, count).await? {
                    Turn::Worked => wake.now = true,
                    Turn::Waits(cause) => wake.waits = Some(cause),
                },
                Next::Large(first) => self.enter_lane(context, origin, first).await?,
                Next::HeldUntil(at) => drop(wake.held.insert(origin, at)),
                Next::Nothing => {}
            }
        }
        Ok(wake)
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
    ) -> Result<Turn, ReplicaError> {
        if !self.keep_horizon_fresh().await? {
            return Ok(Turn::Waits(CAPTURE_BEHIND.to_owned()));
        }
        if self.tables_changed() {
            self.learn_schema(context).await?;
        }
        let Some(mut front) = self.front(origin, count) else { return Ok(Turn::Worked) };
        if self.does_not_fit(&front.group) && self.may_refresh() {
            self.learn_schema(context).await?;
            let Some(again) = self.front(origin, count) else { return Ok(Turn::Worked) };
            front = again;
        }
        match self.try_for_a_turn(&front.group, Mode::SetBased).await? {
            Tried::Done => {}
            Tried::Waits(cause) => return Ok(Turn::Waits(waits(&front.group, cause))),
            Tried::Refused(_) if count > 1 && !front.is_together => {
                return Box::pin(self.apply_front(context, origin, 1)).await;
            }
            Tried::Refused(refusal) => {
                // The catalog may have changed since it was read; then it is no refusal.
                self.learn_schema(context).await?;
                let Some(again) = self.front(origin, count) else { return Ok(Turn::Worked) };
                front = again;
                refusal.log(origin, front.group.first);
                match self.try_for_a_turn(&front.group, Mode::RowByRow).await? {
                    Tried::Done => {}
                    Tried::Waits(cause) => return Ok(Turn::Waits(waits(&front.group, cause))),
                    Tried::Refused(refusal) => {
                        self.set_aside(&front.group, &refusal.reason).await?;
                    }
                }
            }
        }
        self.attempts.remove(&origin);
        self.applied.advance(origin, front.group.last);
        self.counters.groups += 1;
        self.counters.transactions += count as u64;
        self.counters.changes += front.group.changes as u64;
        if let Some(pending) = self.pending.get_mut(&origin) {
            pending.done(count);
            (pending.tables, pending.seen) = (front.tables, front.seen);
        }
        Ok(Turn::Worked)
    }

    /// The first `count` transactions of an origin as a group.
    fn front(&mut self, origin: Origin, count: usize) -> Option<Front> {
        let pending = self.pending.get_mut(&origin)?;
        let is_together = pending.together_at_front() == Some(count);
        let (mut tables, mut seen) = (pending.tables.clone(), pending.seen.clone());
        let transactions = pending.front(count);
        self.described = Described::default();
        self.described.add(origin, transactions);
        let group = Group::build(origin, transactions, &self.dictionary, &mut tables, &mut seen);
        Some(Front { group, tables, seen, is_together })
    }

    /// Tries a group until it is committed or refused, or its turn is over: a row that somebody
    /// keeps locked must not hold up the other origins.
    async fn try_for_a_turn(&mut self, group: &Group, mode: Mode) -> Result<Tried, ReplicaError> {
        self.begin_orphans(Some((TxnId { origin: group.origin, seq: group.first }, group.last)));
        let mut hidden = BTreeSet::new();
        let mut waits_for = "its turn";
        let mut late = false;
        let before = self.attempts.get(&group.origin).copied().unwrap_or_default();
        let attempts = if before < 2 * PATIENT_AFTER { ATTEMPTS_PER_TURN } else { 3 };
        for attempt in before..before.saturating_add(attempts) {
            self.attempts.insert(group.origin, attempt.saturating_add(1));
            self.patient = late || (attempt >= PATIENT_AFTER && attempt % 2 == 0);
            let outcome = self.attempt(group, mode, &mut hidden).await?;
            late = matches!(outcome, Attempt::Late);
            waits_for = match outcome {
                Attempt::Done => return Ok(Tried::Done),
                Attempt::Refused(reason) => return Ok(Tried::Refused(reason)),
                Attempt::Again(cause) => cause,
                Attempt::Late => "locking takes too long",
            };
            self.counters.retries += 1;
            if self.tables_changed() {
                break;
            }
            let cause = waits_for;
            tracing::debug!(origin = %group.origin, seq = %group.first, cause, "trying again");
            tokio::time::sleep(pause_before(attempt)).await;
        }
        Ok(Tried::Waits(waits_for))
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

    /// P0: a barrier with no locks held, now and then, so that most groups need none. `false`
    /// when capture is far behind, on a large local transaction mostly.
    pub(super) async fn keep_horizon_fresh(&mut self) -> Result<bool, ReplicaError> {
        let fresh =
            self.horizon_at.is_some_and(|at| time::monotonic().duration_since(at) < HORIZON_FRESH);
        if !fresh || self.horizon.is_crowded() {
            if !self.barrier.passes().await? {
                return Ok(false);
            }
            self.horizon_at = Some(time::monotonic());
        }
        Ok(true)
    }
}

/// The next transactions of an origin, and how far its tables and vector are after them.
struct Front {
    group: Group,
    tables: BTreeMap<TableId, TableDef>,
    seen: VersionVector,
    /// Whether they must become visible together.
    is_together: bool,
}

/// What trying a group for a turn came to.
pub(super) enum Tried {
    Done,
    Refused(Refusal),
    Waits(&'static str),
}

/// What an origin's turn came to.
pub(super) enum Turn {
    Worked,
    /// Somebody is in the way; what `status` says.
    Waits(String),
}

fn waits(group: &Group, cause: &str) -> String {
    format!("transaction {} of {} waits: {cause}", group.first, group.origin)
}

/// When to look again.
#[derive(Default)]
pub(super) struct Wake {
    /// At once: there may be more.
    pub(super) now: bool,
    /// Soon: somebody is in the way.
    pub(super) waits: Option<String>,
    pub(super) held: BTreeMap<Origin, u64>,
}

/// Grows with the attempts and differs between sites, so that two do not keep meeting.
pub(super) fn pause_before(attempt: u32) -> Duration {
    let most = (1u64 << attempt.min(7)).min(RETRY_MS_MAX);
    let jitter = random::u32().unwrap_or(attempt);
    Duration::from_micros(most * 1000 / 2 + u64::from(jitter) % (most * 500 + 1))
}
