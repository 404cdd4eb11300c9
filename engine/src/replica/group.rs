//! One group through the phases of an apply transaction.
//!
//! P1 takes every lock it will ever need, quickly; P2 proves that the fold knows all earlier
//! writers of the locked rows, waiting on no lock; P3 decides, writes the differences, commits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{Marker, ParkedChange};
use landfall_protocol::id::TxnId;
use landfall_protocol::lattice::RowClock;
use landfall_protocol::plan::{Conflict, Group, RowWork, Source, Verdict};
use landfall_protocol::schema::{ColumnId, TableId};
use landfall_protocol::value::Value;

use crate::plant;
use crate::postgres::access::LockStrength;
use crate::postgres::apply::{ApplyError, LockPhase, LockRequest, ParentRequest, RowWrite};
use crate::replica::barrier::BarrierError;
use crate::replica::{Replica, ReplicaError};

/// All of P1 must be over within this, or apply might hold locks longer than PostgreSQL waits
/// before it looks for deadlocks (1 s) while itself waiting for up to 300 ms.
const LOCK_PHASE_MAX: Duration = Duration::from_millis(300);

/// Why an attempt most often fails.
pub(super) const LOCKED: &str = "a row is locked by somebody else";

/// How a group is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Set-based statements; a refused value fails the whole group.
    SetBased,
    /// Row by row under savepoints; a refused row is parked.
    RowByRow,
}

/// What one attempt did.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It is committed.
    Done,
    /// Somebody was in the way, or nothing could be decided; try again.
    Again(&'static str),
    /// Taking the locks took too long, for many rows or large values; try again, patiently.
    Late,
    /// PostgreSQL refuses a value; the reason.
    Refused(String),
}

/// The tables of one attempt.
struct Working<'a> {
    group: &'a Group,
    rows: Vec<RowId>,
    /// Rows PostgreSQL showed when they were locked.
    present: BTreeSet<RowId>,
    /// Rows whose absence, or presence, is known to contradict their clock.
    hidden: &'a BTreeSet<RowId>,
}

impl Working<'_> {
    /// Whether a row is absent though no delete of it is folded. It may never have been here, or
    /// a local delete is on its way to the fold, and must be heard for the conflict lines.
    fn has_unheard(&self, clocks: &BTreeMap<RowId, RowClock>) -> bool {
        let absent = self.rows.iter().filter(|row| !self.present.contains(*row));
        absent.map(|row| clocks.get(row)).any(|clock| clock.is_none_or(|c| c.existence().is_none()))
    }
}

struct Decided {
    writes: BTreeMap<RowId, RowWrite>,
    conflicts: Vec<(RowId, Conflict)>,
    contradicted: BTreeSet<RowId>,
}

impl Replica {
    /// Tries a group once. Whatever happens, no transaction is left open.
    pub(super) async fn attempt(
        &mut self,
        group: &Group,
        mode: Mode,
        hidden: &mut BTreeSet<RowId>,
    ) -> Result<Attempt, ReplicaError> {
        let outcome = self.phases(group, mode, hidden).await;
        self.settle(outcome).await
    }

    /// Makes an attempt's end plain; whatever is not committed is rolled back.
    pub(super) async fn settle(
        &mut self,
        outcome: Result<Attempt, ReplicaError>,
    ) -> Result<Attempt, ReplicaError> {
        match outcome {
            Ok(Attempt::Done) => Ok(Attempt::Done),
            Ok(other) => {
                self.apply.rollback().await?;
                Ok(other)
            }
            Err(ReplicaError::Apply(ApplyError::Busy)) => {
                self.apply.rollback().await?;
                Ok(Attempt::Again(LOCKED))
            }
            Err(ReplicaError::Apply(ApplyError::Late)) => {
                self.apply.rollback().await?;
                Ok(Attempt::Late)
            }
            Err(ReplicaError::Apply(ApplyError::Data { sqlstate, message })) => {
                self.apply.rollback().await?;
                Ok(Attempt::Refused(format!("{message} (SQLSTATE {sqlstate})")))
            }
            Err(error) => Err(error),
        }
    }

    async fn phases(
        &mut self,
        group: &Group,
        mode: Mode,
        hidden: &mut BTreeSet<RowId>,
    ) -> Result<Attempt, ReplicaError> {
        let message = self.marker(group, &unshowable(group));
        let phase = self.lock_phase(mode);
        self.apply.begin(group.origin, group.first, group.last, &message, phase).await?;
        if let Some(attempt) = self.show(group, mode, hidden).await? {
            return Ok(attempt);
        }
        self.apply.commit().await?;
        Ok(Attempt::Done)
    }

    /// Makes a group's changes visible within the open transaction; otherwise says what became of
    /// the attempt, which must then be rolled back.
    pub(super) async fn show(
        &mut self,
        group: &Group,
        mode: Mode,
        hidden: &mut BTreeSet<RowId>,
    ) -> Result<Option<Attempt>, ReplicaError> {
        let mut refused = BTreeMap::new();
        let xmins = self.lock_rows(group, mode, &mut refused).await?;
        // Asked before the clocks are read: a writer folded in between would be taken for known
        // while its clock is not in what was read.
        let unknown = xmins.values().any(|xmin| !self.horizon.covers(*xmin));
        let working = Working {
            group,
            rows: group.rows.keys().filter(|row| !refused.contains_key(*row)).cloned().collect(),
            present: xmins.keys().cloned().collect(),
            hidden,
        };
        let clocks = self.clocks(&working.rows).await?;
        let unheard = working.has_unheard(&clocks);
        let first = self.decide(&working, &clocks).await?;
        let speculative: BTreeMap<RowId, RowWrite> = first
            .writes
            .iter()
            .filter(|(_, w)| matches!(w, RowWrite::Insert(_)))
            .map(owned)
            .collect();
        if !self.write(&speculative, mode, &mut refused).await? {
            return Ok(Some(Attempt::Again("a key appeared while it was being inserted")));
        }
        self.apply.end_lock_phase().await?;
        let needed =
            unknown || unheard || !speculative.is_empty() || !first.contradicted.is_empty();
        let decided = if needed && !plant::active("no-barrier") {
            self.counters.barriers += 1;
            match self.barrier.pass().await {
                Err(BarrierError::Late) => return Ok(Some(Attempt::Again("capture is behind"))),
                passed => passed?,
            }
            let clocks = self.clocks(&working.rows).await?;
            self.decide(&working, &clocks).await?
        } else {
            first
        };
        if !decided.contradicted.is_empty() {
            hidden.extend(decided.contradicted);
            return Ok(Some(Attempt::Again("the table and the clocks disagree for a moment")));
        }
        let lines = self.conflict_lines(&decided.conflicts, &decided.writes).await?;
        let Some(rest) = after_speculation(decided.writes, &speculative) else {
            return Ok(Some(Attempt::Again("a key became free while it was decided")));
        };
        if !self.write(&rest, mode, &mut refused).await? {
            return Ok(Some(Attempt::Again("a locked row went away")));
        }
        self.apply.write_conflicts(&lines).await?;
        self.park(group, &refused).await?;
        self.counters.conflicts += lines.len() as u64;
        Ok(None)
    }

    pub(super) fn marker(&self, group: &Group, parked: &[ParkedChange]) -> Vec<u8> {
        let (origin, first, last) = (group.origin, group.first, group.last);
        self.marker_key.seal(&Marker::Apply { origin, first, last, parked: parked.to_vec() })
    }

    fn lock_phase(&self, mode: Mode) -> LockPhase {
        match mode {
            Mode::SetBased if !self.patient => LockPhase::Within(LOCK_PHASE_MAX),
            Mode::SetBased => LockPhase::Patient,
            Mode::RowByRow => LockPhase::RowByRow,
        }
    }

    async fn lock_rows(
        &mut self,
        group: &Group,
        mode: Mode,
        refused: &mut BTreeMap<RowId, String>,
    ) -> Result<BTreeMap<RowId, u32>, ReplicaError> {
        // One strength per table keeps it at one statement per table, in key order.
        let mut strengths: BTreeMap<TableId, LockStrength> = BTreeMap::new();
        for (row, work) in &group.rows {
            let strength =
                self.apply.table(row.table)?.strength(&work.columns(), work.may_delete());
            let strongest = strengths.entry(row.table).or_insert(strength);
            *strongest = strength.max(*strongest);
        }
        let request = |row| LockRequest { row, strength: strengths[&row.table] };
        let mut found = BTreeMap::new();
        match mode {
            Mode::SetBased => {
                let locks: Vec<LockRequest<'_>> = group.rows.keys().map(request).collect();
                let parents = self.parents(group.rows.iter())?;
                found = self.apply.lock(&locks, &parents).await?;
            }
            Mode::RowByRow => {
                for (row, work) in &group.rows {
                    let parents = self.parents(std::iter::once((row, work)))?;
                    match self.apply.lock_alone(request(row), &parents).await? {
                        Ok(xmin) => found.extend(xmin.map(|xmin| (row.clone(), xmin))),
                        Err(reason) => drop(refused.insert(row.clone(), reason)),
                    }
                }
            }
        }
        Ok(found)
    }

    fn parents<'w>(
        &self,
        rows: impl Iterator<Item = (&'w RowId, &'w RowWork)>,
    ) -> Result<Vec<ParentRequest>, ReplicaError> {
        let mut parents = BTreeSet::new();
        for (row, work) in rows {
            for (key, parent) in self.apply.table(row.table)?.parents().iter().enumerate() {
                parents.extend(parent_values(work, &parent.columns).map(|v| (row.table, key, v)));
            }
        }
        let request = |(table, key, values)| ParentRequest { table, key, values };
        Ok(parents.into_iter().map(request).collect())
    }

    /// Moves past a transaction that cannot be shown at all, with everything in it parked.
    pub(super) async fn set_aside(
        &mut self,
        group: &Group,
        reason: &str,
    ) -> Result<(), ReplicaError> {
        let message = self.marker(group, &unshowable(group));
        let phase = LockPhase::Patient;
        self.apply.begin(group.origin, group.first, group.last, &message, phase).await?;
        self.park_all(group, reason).await?;
        self.apply.commit().await?;
        Ok(())
    }

    /// Parks everything in a group, within the open transaction.
    pub(super) async fn park_all(
        &mut self,
        group: &Group,
        reason: &str,
    ) -> Result<(), ReplicaError> {
        let refused = group.rows.keys().map(|row| (row.clone(), reason.to_owned())).collect();
        self.park(group, &refused).await
    }

    async fn clocks(&self, rows: &[RowId]) -> Result<BTreeMap<RowId, RowClock>, ReplicaError> {
        let clocks = self.store.clocks(rows.to_vec()).await?;
        Ok(rows.iter().cloned().zip(clocks).filter_map(|(row, c)| Some((row, c?))).collect())
    }

    async fn decide(
        &self,
        working: &Working<'_>,
        clocks: &BTreeMap<RowId, RowClock>,
    ) -> Result<Decided, ReplicaError> {
        let mut decided = Decided {
            writes: BTreeMap::new(),
            conflicts: Vec::new(),
            contradicted: BTreeSet::new(),
        };
        let mut logged: BTreeMap<RowId, Vec<(ColumnId, Source)>> = BTreeMap::new();
        for row in &working.rows {
            let work = &working.group.rows[row];
            let def = self.dictionary.table(row.table).ok_or(ApplyError::TableGone(row.table))?;
            let clock = clocks.get(row).cloned().unwrap_or_default();
            let present = working.present.contains(row);
            let (verdict, conflicts) =
                work.decide(def, &clock, present, working.hidden.contains(row));
            decided.conflicts.extend(conflicts.into_iter().map(|conflict| (row.clone(), conflict)));
            match verdict {
                Verdict::Keep => {}
                Verdict::Retry => {
                    decided.contradicted.insert(row.clone());
                }
                Verdict::Delete => {
                    decided.writes.insert(row.clone(), RowWrite::Delete);
                }
                Verdict::Update(cells) => {
                    let cells = cells.into_iter().map(|cell| (cell.column, cell.value)).collect();
                    decided.writes.insert(row.clone(), RowWrite::Update(cells));
                }
                Verdict::Insert(cells) => {
                    logged.insert(row.clone(), cells);
                }
            }
        }
        decided.writes.extend(self.resolve(logged).await?);
        Ok(decided)
    }

    /// Finds the values that only the log has.
    async fn resolve(
        &self,
        rows: BTreeMap<RowId, Vec<(ColumnId, Source)>>,
    ) -> Result<BTreeMap<RowId, RowWrite>, ReplicaError> {
        let txns: BTreeSet<TxnId> = rows
            .values()
            .flatten()
            .filter_map(|(_, source)| match source {
                Source::Logged(txn) => Some(*txn),
                Source::Value(_) => None,
            })
            .collect();
        let log = self.logged(txns).await?;
        let mut writes = BTreeMap::new();
        for (row, cells) in rows {
            let cells = cells.into_iter().filter_map(|(column, source)| {
                let value = match source {
                    Source::Value(value) => value,
                    Source::Logged(txn) => log.value(txn, &row, column)?,
                };
                Some((column, value))
            });
            let cells: Vec<(ColumnId, Value)> = cells.collect();
            writes.insert(row, RowWrite::Insert(cells));
        }
        Ok(writes)
    }

    /// Writes rows; says whether all of them were met. Row by row, refused ones are collected.
    async fn write(
        &mut self,
        writes: &BTreeMap<RowId, RowWrite>,
        mode: Mode,
        refused: &mut BTreeMap<RowId, String>,
    ) -> Result<bool, ReplicaError> {
        match mode {
            Mode::SetBased => {
                let writes: Vec<(&RowId, &RowWrite)> = writes.iter().collect();
                self.write_rows(&writes).await
            }
            Mode::RowByRow => {
                for (row, write) in writes
                    .iter()
                    .filter(|(row, _)| !refused.contains_key(*row))
                    .map(owned)
                    .collect::<Vec<_>>()
                {
                    match self.write_alone(&row, &write).await? {
                        Ok(true) => {}
                        Ok(false) => return Ok(false),
                        Err(reason) => {
                            refused.insert(row, reason);
                        }
                    }
                }
                Ok(true)
            }
        }
    }

    /// Sets aside what could not be shown, and says so in the marker.
    async fn park(
        &mut self,
        group: &Group,
        refused: &BTreeMap<RowId, String>,
    ) -> Result<(), ReplicaError> {
        let lines = self.parked_lines(group, refused);
        if !refused.is_empty() {
            let mut parked = unshowable(group);
            for row in refused.keys() {
                parked.extend(group.rows.get(row).into_iter().flat_map(RowWork::places));
            }
            parked.sort_unstable();
            parked.dedup();
            let message = self.marker(group, &parked);
            self.apply.mark(&message).await?;
        }
        self.apply.write_parked(&lines).await?;
        self.counters.parked += lines.len() as u64;
        Ok(())
    }
}

/// Changes that have no place in this database.
pub(super) fn unshowable(group: &Group) -> Vec<ParkedChange> {
    group.parked.iter().map(|(place, _)| *place).collect()
}

fn owned((row, write): (&RowId, &RowWrite)) -> (RowId, RowWrite) {
    (row.clone(), write.clone())
}

/// The referencing values of a foreign key, when the group writes all of them and none is NULL.
fn parent_values(work: &RowWork, columns: &[ColumnId]) -> Option<Vec<Value>> {
    let values = columns.iter().map(|column| work.last_value(*column).cloned());
    values.collect::<Option<Vec<_>>>().filter(|values| !values.contains(&Value::Null))
}

/// What is left to write once the speculative inserts stand; `None` when a row must be inserted
/// that was not speculated on.
fn after_speculation(
    decided: BTreeMap<RowId, RowWrite>,
    speculative: &BTreeMap<RowId, RowWrite>,
) -> Option<BTreeMap<RowId, RowWrite>> {
    let undone = speculative.keys().filter(|row| !decided.contains_key(*row));
    let mut rest: BTreeMap<RowId, RowWrite> =
        undone.map(|row| (row.clone(), RowWrite::Delete)).collect();
    for (row, write) in decided {
        match (write, speculative.get(&row)) {
            (RowWrite::Insert(_), None) => return None,
            (RowWrite::Insert(mut cells), Some(RowWrite::Insert(stands))) => {
                cells.retain(|cell| !stands.contains(cell));
                if !cells.is_empty() {
                    rest.insert(row, RowWrite::Update(cells));
                }
            }
            (write, _) => {
                rest.insert(row, write);
            }
        }
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_protocol::schema::TableId;
    use landfall_protocol::value::RowKey;

    fn row(key: i64) -> RowId {
        RowId { table: TableId(1), key: RowKey::new(&[Value::Int(key)]) }
    }

    fn insert(value: i64) -> RowWrite {
        RowWrite::Insert(vec![(ColumnId(1), Value::Int(value)), (ColumnId(2), Value::Int(0))])
    }

    #[test]
    fn a_speculative_insert_is_corrected_or_undone() {
        let speculative =
            BTreeMap::from([(row(1), insert(1)), (row(2), insert(2)), (row(3), insert(3))]);
        let decided = BTreeMap::from([(row(1), insert(1)), (row(2), insert(9))]);
        let rest = after_speculation(decided, &speculative).unwrap();
        let update = RowWrite::Update(vec![(ColumnId(1), Value::Int(9))]);
        assert_eq!(rest, BTreeMap::from([(row(2), update), (row(3), RowWrite::Delete)]));
    }

    #[test]
    fn an_insert_nobody_speculated_on_is_not_written_late() {
        assert_eq!(
            after_speculation(BTreeMap::from([(row(1), insert(1))]), &BTreeMap::new()),
            None
        );
    }
}
