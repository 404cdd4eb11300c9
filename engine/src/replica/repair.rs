//! Self-healing: rows that did not show what their clocks say are rewritten under lock and
//! barrier, and counted. It happens by design after a delete of a key that was not there raced
//! with a local insert; anything else it finds is a bug it keeps from spreading.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::Marker;
use landfall_protocol::id::Seq;
use landfall_protocol::lattice::RowClock;
use landfall_protocol::plan::{Due, visible};
use landfall_protocol::schema::ColumnId;

use crate::postgres::access::LockStrength;
use crate::postgres::apply::{ApplyError, LockPhase, LockRequest, RowWrite};
use crate::replica::beside::Beside;
use crate::replica::group::Mode;
use crate::replica::references::Tells;
use crate::replica::{Replica, ReplicaError};
use crate::store::Dirt;

/// Rows repaired in one transaction.
const ROWS_MAX: usize = 200;

/// What rewriting came to.
enum Rewritten {
    /// This many rows were written.
    Done(u64),
    /// Somebody is in the way.
    Busy,
    /// PostgreSQL refuses a value.
    Refused,
}

/// Rows in an open transaction that show what their clocks say.
pub(super) struct AsDue {
    /// Which of them PostgreSQL refuses, or wait for their parents, and why.
    pub(super) refused: BTreeMap<RowId, String>,
    /// How many had to be written.
    written: u64,
}

impl Replica {
    /// Repairs some of the rows the fold found wanting; `false` when somebody is in the way and
    /// it must be tried again.
    pub(super) async fn repair(&mut self) -> Result<bool, ReplicaError> {
        let mut dirty = self.store.dirty_rows(ROWS_MAX).await?;
        let rows: BTreeSet<RowId> = dirty.iter().map(|dirty| dirty.row.clone()).collect();
        // A table that is not here any more has nothing to repair.
        let rows: Vec<RowId> =
            rows.into_iter().filter(|row| self.apply.table(row.table).is_ok()).collect();
        let mut busy = BTreeSet::new();
        let repaired = match self.rewrite_or_roll_back(&rows, Mode::SetBased).await? {
            Rewritten::Done(repaired) => repaired,
            // One row must not keep the others from being repaired.
            Rewritten::Busy | Rewritten::Refused => {
                self.repair_one_by_one(&rows, &mut busy).await?
            }
        };
        dirty.retain(|dirty| !busy.contains(&dirty.row));
        let overruled = dirty.iter().filter(|dirty| dirty.why == Dirt::Overruled).count() as u64;
        if overruled > 0 {
            tracing::debug!(rows = overruled, "put back what the rules of columns overrule");
        }
        let repaired = repaired.saturating_sub(overruled);
        if repaired > 0 {
            tracing::warn!(rows = repaired, "rewrote rows that did not show what their clocks say");
        }
        self.counters.repaired += repaired;
        if !dirty.is_empty() {
            // Commits are not on the disk when they return. What a barrier behind them has passed is.
            if !self.barrier.passes().await? {
                return Ok(false);
            }
            self.store.clear_dirty(dirty, repaired).await?;
        }
        Ok(busy.is_empty())
    }

    async fn repair_one_by_one(
        &mut self,
        rows: &[RowId],
        busy: &mut BTreeSet<RowId>,
    ) -> Result<u64, ReplicaError> {
        let mut repaired = 0;
        for row in rows.chunks(1) {
            match self.rewrite_or_roll_back(row, Mode::RowByRow).await? {
                Rewritten::Done(count) => repaired += count,
                Rewritten::Busy => busy.extend(row.iter().cloned()),
                Rewritten::Refused => {
                    let table = row[0].table.0;
                    tracing::error!(table, "a row cannot be rewritten to what its clock says");
                }
            }
        }
        Ok(repaired)
    }

    async fn rewrite_or_roll_back(
        &mut self,
        rows: &[RowId],
        how: Mode,
    ) -> Result<Rewritten, ReplicaError> {
        let outcome = match how {
            Mode::SetBased => self.rewrite_together(rows).await,
            Mode::RowByRow => self.rewrite_alone(&rows.iter().collect()).await,
        };
        let outcome = match outcome {
            Ok(Some(AsDue { refused, written })) if refused.is_empty() => {
                self.apply.commit().await?;
                return Ok(Rewritten::Done(written));
            }
            Ok(Some(AsDue { refused, .. })) => {
                match refused.keys().all(|row| self.waits_for_parent(row)) {
                    true => Rewritten::Busy,
                    false => Rewritten::Refused,
                }
            }
            Ok(None) | Err(ReplicaError::Apply(ApplyError::Busy | ApplyError::Late)) => {
                Rewritten::Busy
            }
            Err(ReplicaError::Apply(ApplyError::Data { .. })) => Rewritten::Refused,
            Err(error) => return Err(error),
        };
        self.apply.rollback().await?;
        Ok(outcome)
    }

    /// Writes rows as their clocks say in a transaction that stays open; `None` when a key appeared or
    /// went away meanwhile.
    async fn rewrite_together(&mut self, rows: &[RowId]) -> Result<Option<AsDue>, ReplicaError> {
        let repair = self.marker_key.seal(&Marker::Repair);
        self.apply.begin_repair(&repair, LockPhase::Patient).await?;
        let requests: Vec<LockRequest<'_>> =
            rows.iter().map(|row| LockRequest { row, strength: LockStrength::Update }).collect();
        let locked = self.apply.lock(None, &requests, &[]).await?;
        let present = rows.iter().zip(locked).filter_map(|(row, xmin)| xmin.map(|_| row)).collect();
        self.begin_orphans(None);
        self.write_due(&rows.iter().collect(), &present, Mode::SetBased, BTreeMap::new()).await
    }

    /// As [`Replica::rewrite_together`], but one by one under savepoints: rows that PostgreSQL refuses
    /// give way to others, or are told of.
    pub(super) async fn rewrite_alone(
        &mut self,
        rows: &BTreeSet<&RowId>,
    ) -> Result<Option<AsDue>, ReplicaError> {
        self.begin_orphans(None);
        loop {
            let known = self.orphaned.len();
            let rewritten = self.try_alone(rows).await?;
            if rewritten.is_some() || self.orphaned.len() == known {
                return Ok(rewritten);
            }
            // Each turn knows of more rows whose parents are not there.
            self.apply.rollback().await?;
        }
    }

    async fn try_alone(&mut self, rows: &BTreeSet<&RowId>) -> Result<Option<AsDue>, ReplicaError> {
        let repair = self.marker_key.seal(&Marker::Repair);
        self.apply.begin_repair(&repair, LockPhase::RowByRow).await?;
        let waiting = rows.iter().filter(|row| self.waits_for_parent(row));
        let reason = |row: &RowId| self.orphaned[row].reason.clone();
        let mut refused: BTreeMap<RowId, String> =
            waiting.map(|row| ((*row).clone(), reason(row))).collect();
        let mut present = BTreeSet::new();
        for row in rows.iter().copied() {
            let request = LockRequest { row, strength: LockStrength::Update };
            match self.apply.lock_alone(request, &[]).await? {
                Ok(Some(_)) => drop(present.insert(row)),
                Ok(None) => {}
                Err(reason) => drop(refused.insert(row.clone(), reason)),
            }
        }
        self.write_due(rows, &present, Mode::RowByRow, refused).await
    }

    /// Writes locked rows as their clocks say, and what references and values ask for besides.
    async fn write_due(
        &mut self,
        rows: &BTreeSet<&RowId>,
        present: &BTreeSet<&RowId>,
        how: Mode,
        mut refused: BTreeMap<RowId, String>,
    ) -> Result<Option<AsDue>, ReplicaError> {
        self.barrier.pass().await?;
        let clocks = self.store.clocks(rows.iter().map(|row| (*row).clone()).collect()).await?;
        if self.tables_changed() {
            return Ok(None);
        }
        let due = rows.iter().copied().zip(clocks);
        let due = due.filter(|(row, _)| !refused.contains_key(*row));
        let due: BTreeMap<&RowId, RowClock> =
            due.filter_map(|(row, clock)| Some((row, clock?))).collect();
        let writes = self.due_writes(&due, present).await?;
        let written = writes.len() as u64;
        let aside = self.list_due(&due).await?;
        let (held, writes) = self.hold_back(writes, &[], &aside);
        if !self.write(&writes, how, &mut refused).await? {
            return Ok(None);
        }
        let clocks = due.iter().map(|(row, clock)| ((*row).clone(), clock.clone())).collect();
        let beside = Beside {
            rows: &BTreeMap::new(),
            tells: Tells::All,
            first: Seq::ZERO,
            wanted: if how == Mode::RowByRow { writes.clone() } else { Vec::new() },
            referencing: self.referencing(&writes),
            held,
            clocks: &clocks,
            revives: Vec::new(),
            aside: &aside,
        };
        let Ok(kept) = self.let_stand(&beside, &writes, &mut refused).await? else {
            return Ok(None);
        };
        if !kept.orphans.is_empty() {
            self.orphaned.extend(kept.orphans);
            return Ok(None);
        }
        if !kept.emitted.is_empty() {
            let marker = Marker::Remedy { emitted: kept.emitted };
            self.apply.mark(&self.marker_key.seal(&marker)).await?;
        }
        self.apply.write_conflicts(&kept.lines).await?;
        Ok(Some(AsDue { refused, written }))
    }

    /// What must be written so that rows show what their clocks say.
    pub(super) async fn due_writes<'a>(
        &self,
        rows: &BTreeMap<&'a RowId, RowClock>,
        present: &BTreeSet<&RowId>,
    ) -> Result<Vec<(&'a RowId, RowWrite<'static>)>, ReplicaError> {
        let mut shown: BTreeMap<&RowId, Option<Vec<(ColumnId, Due)>>> = BTreeMap::new();
        for (row, clock) in rows {
            if let Some(def) = self.dictionary.table(row.table) {
                shown.insert(row, visible(def, clock, present.contains(*row)));
            }
        }
        let txns = shown.values().flatten().flatten().filter_map(|(_, due)| due.txn()).collect();
        let log = self.logged(txns).await?;
        let mut writes = Vec::new();
        for (row, due) in shown {
            let write = match (due, present.contains(row)) {
                (None, false) => continue,
                (None, true) => RowWrite::Delete,
                (Some(cells), is_present) => {
                    let cells: Vec<_> = cells
                        .into_iter()
                        .filter_map(|(column, due)| {
                            Some((column, Cow::Owned(log.due(row, column, due)?)))
                        })
                        .collect();
                    match is_present {
                        true if cells.is_empty() => continue,
                        true => RowWrite::Update(cells),
                        false => RowWrite::Insert(cells),
                    }
                }
            };
            writes.push((row, write));
        }
        Ok(writes)
    }
}
