//! Self-healing: rows that did not show what their clocks say are rewritten under lock and
//! barrier, and counted. It happens by design after a delete of a key that was not there raced
//! with a local insert; anything else it finds is a bug it keeps from spreading.

use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::Marker;
use landfall_protocol::id::TxnId;
use landfall_protocol::lattice::RowClock;
use landfall_protocol::plan::visible;
use landfall_protocol::schema::ColumnId;

use crate::postgres::access::LockStrength;
use crate::postgres::apply::{ApplyError, LockRequest, RowWrite};
use crate::replica::{Replica, ReplicaError};

/// Rows repaired in one transaction.
const ROWS_MAX: usize = 200;

impl Replica {
    /// Repairs some of the rows the fold found wanting.
    pub(super) async fn repair(&mut self) -> Result<(), ReplicaError> {
        let dirty = self.store.dirty_rows(ROWS_MAX).await?;
        let rows: BTreeSet<RowId> = dirty.iter().map(|dirty| dirty.row.clone()).collect();
        let rows: Vec<RowId> = rows.into_iter().collect();
        match self.rewrite(&rows).await {
            Ok(repaired) => {
                tracing::warn!(
                    rows = repaired,
                    "rewrote rows that did not show what their clocks say"
                );
                self.counters.repaired += repaired;
                Ok(self.store.clear_dirty(dirty, repaired).await?)
            }
            Err(ReplicaError::Apply(ApplyError::Busy)) => Ok(self.apply.rollback().await?),
            Err(ReplicaError::Apply(ApplyError::Data { sqlstate, .. })) => {
                self.apply.rollback().await?;
                tracing::error!(%sqlstate, "rows cannot be rewritten to what their clocks say");
                Ok(self.store.clear_dirty(dirty, 0).await?)
            }
            Err(error) => Err(error),
        }
    }

    async fn rewrite(&mut self, rows: &[RowId]) -> Result<u64, ReplicaError> {
        self.apply.begin_repair(&Marker::Repair.encode()).await?;
        let requests: Vec<LockRequest<'_>> =
            rows.iter().map(|row| LockRequest { row, strength: LockStrength::Update }).collect();
        let present: BTreeSet<RowId> = self.apply.lock(&requests, &[]).await?.into_keys().collect();
        self.barrier.pass().await?;
        let clocks = self.store.clocks(rows.to_vec()).await?;
        let due: BTreeMap<&RowId, RowClock> =
            rows.iter().zip(clocks).filter_map(|(row, clock)| Some((row, clock?))).collect();
        let writes = self.due_writes(&due, &present).await?;
        let repaired = writes.len() as u64;
        let writes: Vec<(&RowId, &RowWrite)> =
            writes.iter().map(|(row, write)| (*row, write)).collect();
        self.apply.write(&writes).await?;
        self.apply.commit().await?;
        Ok(repaired)
    }

    async fn due_writes<'a>(
        &self,
        rows: &BTreeMap<&'a RowId, RowClock>,
        present: &BTreeSet<RowId>,
    ) -> Result<BTreeMap<&'a RowId, RowWrite>, ReplicaError> {
        let mut shown: BTreeMap<&RowId, Option<Vec<(ColumnId, TxnId)>>> = BTreeMap::new();
        for (row, clock) in rows {
            if let Some(def) = self.dictionary.table(row.table) {
                shown.insert(row, visible(def, clock, present.contains(*row)));
            }
        }
        let txns = shown.values().flatten().flatten().map(|(_, txn)| *txn).collect();
        let log = self.logged(txns).await?;
        let mut writes = BTreeMap::new();
        for (row, due) in shown {
            let write = match (due, present.contains(row)) {
                (None, false) => continue,
                (None, true) => RowWrite::Delete,
                (Some(cells), is_present) => {
                    let cells: Vec<_> = cells
                        .into_iter()
                        .filter_map(|(column, txn)| Some((column, log.value(txn, row, column)?)))
                        .collect();
                    match is_present {
                        true if cells.is_empty() => continue,
                        true => RowWrite::Update(cells),
                        false => RowWrite::Insert(cells),
                    }
                }
            };
            writes.insert(row, write);
        }
        Ok(writes)
    }
}
