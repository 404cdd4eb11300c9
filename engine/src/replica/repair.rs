//! Self-healing: rows that did not show what their clocks say are rewritten under lock and
//! barrier, and counted. It happens by design after a delete of a key that was not there raced
//! with a local insert; anything else it finds is a bug it keeps from spreading.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::Marker;
use landfall_protocol::lattice::RowClock;
use landfall_protocol::plan::{Due, visible};
use landfall_protocol::schema::ColumnId;

use crate::postgres::access::LockStrength;
use crate::postgres::apply::{ApplyError, LockPhase, LockRequest, RowWrite};
use crate::replica::barrier::BarrierError;
use crate::replica::group::Write;
use crate::replica::references::{Again, Changed, Kept};
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
        let repaired = match self.rewrite_or_roll_back(&rows, LockPhase::Patient).await? {
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
            match self.barrier.pass().await {
                Err(BarrierError::Late) => return Ok(false),
                passed => passed?,
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
            match self.rewrite_or_roll_back(row, LockPhase::RowByRow).await? {
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
        phase: LockPhase,
    ) -> Result<Rewritten, ReplicaError> {
        let outcome = match self.rewrite(rows, phase).await {
            Ok(Some(repaired)) => return Ok(Rewritten::Done(repaired)),
            Ok(None) | Err(ReplicaError::Apply(ApplyError::Busy | ApplyError::Late)) => {
                Rewritten::Busy
            }
            Err(ReplicaError::Apply(ApplyError::Data { .. })) => Rewritten::Refused,
            Err(error) => return Err(error),
        };
        self.apply.rollback().await?;
        Ok(outcome)
    }

    /// The rows rewritten; `None` when a key appeared or went away meanwhile.
    async fn rewrite(
        &mut self,
        rows: &[RowId],
        phase: LockPhase,
    ) -> Result<Option<u64>, ReplicaError> {
        self.apply.begin_repair(&self.marker_key.seal(&Marker::Repair), phase).await?;
        let requests: Vec<LockRequest<'_>> =
            rows.iter().map(|row| LockRequest { row, strength: LockStrength::Update }).collect();
        let locked = self.apply.lock(None, &requests, &[]).await?;
        let present = rows.iter().zip(locked).filter_map(|(row, xmin)| xmin.map(|_| row)).collect();
        self.barrier.pass().await?;
        let clocks = self.store.clocks(rows.to_vec()).await?;
        let due: BTreeMap<&RowId, RowClock> =
            rows.iter().zip(clocks).filter_map(|(row, clock)| Some((row, clock?))).collect();
        let writes = self.due_writes(&due, &present).await?;
        let repaired = writes.len() as u64;
        self.list_due(&due).await?;
        let (held, rest) = self.hold_back(writes, &[], &BTreeMap::new());
        if !self.write_rows(&rest).await? {
            return Ok(None);
        }
        match self.keep_repaired(held, &rest, &due).await? {
            Ok(kept) if kept.orphans.is_empty() => {}
            _ => return Ok(None),
        }
        self.apply.commit().await?;
        Ok(Some(repaired))
    }

    /// As [`Replica::keep_references`], for rows that were written as their clocks say.
    pub(super) async fn keep_repaired(
        &mut self,
        deletes: Vec<&RowId>,
        writes: &[Write<'_>],
        due: &BTreeMap<&RowId, RowClock>,
    ) -> Result<Result<Kept, Again>, ReplicaError> {
        let is_parent = |row: &RowId| self.is_referenced(row.table);
        let clocks = due.iter().filter(|(row, _)| is_parent(row));
        let clocks = clocks.map(|(row, clock)| ((*row).clone(), clock.clone())).collect();
        let written = self.referencing(writes);
        let changed = Changed { written, deletes, clocks: &clocks, ..Changed::without_group() };
        let kept = self.keep_references(&changed).await?;
        if let Ok(Kept { emitted, lines, .. }) = &kept
            && !emitted.is_empty()
        {
            let marker = Marker::Remedy { emitted: emitted.clone() };
            self.apply.mark(&self.marker_key.seal(&marker)).await?;
            self.apply.write_conflicts(lines).await?;
        }
        Ok(kept)
    }

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
