//! One group through the phases of an apply transaction.
//!
//! P1 takes every lock it will ever need, quickly; P2 proves that the fold knows all earlier
//! writers of the locked rows, waiting on no lock; P3 decides, writes the differences, commits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{Emission, Marker, Obstacle, ParkedChange};
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::plan::{Conflict, Group, RowWork, Source, Verdict};
use landfall_protocol::schema::{ColumnId, TableId};
use landfall_protocol::value::Value;

use crate::plant;
use crate::postgres::access::LockStrength;
use crate::postgres::apply::{
    ApplyError, LockPhase, LockRequest, Opening, ParentRequest, RowWrite,
};
use crate::postgres::history::ConflictLine;
use crate::replica::aside::Moves;
use crate::replica::beside::Beside;
use crate::replica::orphans::Orphan;
use crate::replica::references::{Kept, Tells};
use crate::replica::{Replica, ReplicaError};
use crate::store::StoreError;

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
    /// PostgreSQL refuses a value.
    Refused(Refusal),
}

/// Why a transaction is refused as a whole.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What to tell of it.
    pub(super) reason: String,
    /// Whether rows may only be in each other's way, which is settled row by row.
    clashes: bool,
}

impl Refusal {
    fn of(sqlstate: &str, message: &str) -> Self {
        // unique_violation, exclusion_violation
        let clashes = matches!(sqlstate, "23505" | "23P01");
        Self { reason: format!("{message} (SQLSTATE {sqlstate})"), clashes }
    }

    /// Says in the log that a transaction is tried row by row.
    pub(super) fn log(&self, origin: Origin, seq: Seq) {
        if self.clashes {
            tracing::info!(%origin, %seq, "rows of a transaction clash, trying row by row");
        } else {
            tracing::warn!(%origin, %seq, "PostgreSQL refuses a transaction, trying row by row");
        }
    }
}

/// The rows of one attempt, in the order in which they are locked. What is found out about each
/// stands in vectors of the same order.
struct Working<'a> {
    rows: Vec<(&'a RowId, &'a RowWork)>,
    /// Which of them PostgreSQL showed when they were locked.
    present: Vec<bool>,
    /// Rows whose absence, or presence, is known to contradict their clock.
    hidden: &'a BTreeSet<RowId>,
}

impl Working<'_> {
    /// Whether a row is absent. No lock can be held on it: what made it so, or what this site did to it
    /// without showing it, may be on its way to the fold.
    fn lacks_rows(&self) -> bool {
        self.present.contains(&false)
    }
}

/// What is to be written into a row.
pub(super) type Write<'w> = (&'w RowId, RowWrite<'w>);

/// A row that is locked, or whose absence is known.
struct LockedRow<'w> {
    id: &'w RowId,
    work: &'w RowWork,
    /// Who wrote the row last, if there is one.
    xmin: Option<u32>,
}

/// The rows of a group once they are locked.
struct Taken<'w> {
    locked: Vec<LockedRow<'w>>,
    /// In the same order.
    clocks: Vec<Option<RowClock>>,
    /// Whether the fold may not know yet of whoever wrote one of them last.
    unknown: bool,
}

struct Decided<'w> {
    /// In the order of the rows.
    writes: Vec<Write<'w>>,
    conflicts: Vec<(&'w RowId, Conflict)>,
    contradicted: Vec<RowId>,
    /// What is written into rows that are to go, in case that they stay.
    kept: Vec<Write<'w>>,
    /// Rows that stand because this site takes a delete back.
    revives: Vec<&'w RowId>,
    /// Rows that are put aside from here on, with their clocks, and those that are not any more.
    aside: Moves<'w>,
    /// The clocks once the group is joined, of rows that others may reference, and row by row of all.
    clocks: BTreeMap<RowId, RowClock>,
}

impl<'w> Decided<'w> {
    /// The rows that stand because this site takes a delete back, and whether they were there.
    fn revived(&self) -> Vec<(&'w RowId, bool)> {
        let appears = |row: &&RowId| {
            let inserts =
                |(id, write): &Write<'_>| id == row && matches!(write, RowWrite::Insert(_));
            self.writes.iter().any(inserts)
        };
        self.revives.iter().map(|row| (*row, !appears(row))).collect()
    }
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
                Ok(Attempt::Refused(Refusal::of(&sqlstate, &message)))
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
        let opening = self.opening(group, self.lock_phase(mode));
        if let Some(attempt) = self.show(Some(&opening), group, mode, hidden).await? {
            return Ok(attempt);
        }
        self.apply.commit().await?;
        Ok(Attempt::Done)
    }

    /// Makes a group's changes visible within the open transaction, or within the one it begins;
    /// otherwise says what became of the attempt, which must then be rolled back.
    pub(super) async fn show(
        &mut self,
        opening: Option<&Opening>,
        group: &Group,
        mode: Mode,
        hidden: &mut BTreeSet<RowId>,
    ) -> Result<Option<Attempt>, ReplicaError> {
        let mut refused = BTreeMap::new();
        if mode == Mode::RowByRow {
            let waits = |row: &RowId| group.rows.contains_key(row) && self.waits_for_parent(row);
            let waiting = self.orphaned.iter().filter(|(row, _)| waits(row));
            refused.extend(waiting.map(|(row, orphan)| (row.clone(), orphan.reason.clone())));
        }
        let Taken { locked, clocks, unknown } =
            self.take_rows(opening, group, mode, &mut refused).await?;
        let working = Working {
            present: locked.iter().map(|row| row.xmin.is_some()).collect(),
            rows: locked.into_iter().map(|row| (row.id, row.work)).collect(),
            hidden,
        };
        let first = self.decide(&working, clocks, mode).await?;
        let inserts = first.writes.iter().filter(|(_, w)| matches!(w, RowWrite::Insert(_)));
        let speculative: Vec<Write<'_>> = inserts.cloned().collect();
        if !self.write(&speculative, mode, &mut refused).await? {
            return Ok(Some(Attempt::Again("a key appeared while it was being inserted")));
        }
        self.apply.end_lock_phase()?;
        let needed = unknown || working.lacks_rows() || !first.contradicted.is_empty();
        let decided = if needed && !plant::active("no-barrier") {
            self.counters.barriers += 1;
            if !self.barrier.passes().await? {
                return Ok(Some(Attempt::Again("capture is behind")));
            }
            let clocks = self.clocks(&working).await?;
            self.decide(&working, clocks, mode).await?
        } else {
            first
        };
        if self.tables_changed() {
            return Ok(Some(Attempt::Again("a table has got another shape")));
        }
        if !decided.contradicted.is_empty() {
            hidden.extend(decided.contradicted);
            return Ok(Some(Attempt::Again("the table and the clocks disagree for a moment")));
        }
        self.finish(group, mode, decided, &speculative, refused).await
    }

    /// Writes what is decided, and what references ask for besides.
    async fn finish(
        &mut self,
        group: &Group,
        mode: Mode,
        decided: Decided<'_>,
        speculative: &[Write<'_>],
        mut refused: BTreeMap<RowId, String>,
    ) -> Result<Option<Attempt>, ReplicaError> {
        let told = self.conflict_lines(&group.rows, &decided.conflicts, &decided.writes).await?;
        let (mut written, revives) = (self.referencing(&decided.writes), decided.revived());
        let Decided { writes, kept, aside, clocks, .. } = decided;
        let wanted = match mode {
            Mode::RowByRow => writes.clone(),
            Mode::SetBased => Vec::new(),
        };
        let Some(rest) = after_speculation(writes, speculative) else {
            return Ok(Some(Attempt::Again("a key became free while it was decided")));
        };
        self.list_moves(&aside).await?;
        let (held, mut rest) = self.hold_back(rest, speculative, &aside);
        // Who stays shows what was written before the delete, and may reference others by that.
        let kept = kept.into_iter().filter(|(row, _)| held.contains(row));
        let kept: Vec<Write<'_>> = kept.collect();
        written.extend(self.referencing(&kept));
        rest.extend(kept);
        if !self.write(&rest, mode, &mut refused).await? {
            return Ok(Some(Attempt::Again("a locked row went away")));
        }
        if !self.write_late(&wanted, &mut refused).await? {
            return Ok(Some(Attempt::Again("a key appeared while its value became free")));
        }
        let beside = Beside {
            rows: &group.rows,
            tells: Tells::Named,
            first: group.first,
            wanted,
            referencing: written,
            held,
            clocks: &clocks,
            revives,
            aside: &aside,
        };
        let kept = match self.let_stand(&beside, &rest, &mut refused).await? {
            Ok(kept) => kept,
            Err(again) => return Ok(Some(Attempt::Again(again))),
        };
        self.conclude(group, mode, told, kept, &refused).await
    }

    /// Inserts rows that were refused while other rows of the group still had their values; `false` when
    /// somebody else has taken a key.
    async fn write_late(
        &mut self,
        wanted: &[Write<'_>],
        refused: &mut BTreeMap<RowId, String>,
    ) -> Result<bool, ReplicaError> {
        for write in wanted.iter().filter(|(_, write)| matches!(write, RowWrite::Insert(_))) {
            let row = write.0;
            if !refused.contains_key(row) || self.waits_for_parent(row) {
                continue;
            }
            match self.write_alone(write).await? {
                Ok(true) => drop(refused.remove(row)),
                Ok(false) => return Ok(false),
                Err(_) => {}
            }
        }
        Ok(true)
    }

    /// Writes what there is to tell of a group whose rows are written.
    async fn conclude(
        &mut self,
        group: &Group,
        mode: Mode,
        told: Vec<ConflictLine>,
        kept: Kept,
        refused: &BTreeMap<RowId, String>,
    ) -> Result<Option<Attempt>, ReplicaError> {
        if let Some(Orphan { reason, follows }) = kept.orphans.values().next().cloned() {
            self.orphaned.extend(kept.orphans);
            let clashes = follows.is_some();
            return Ok(Some(match mode {
                Mode::SetBased => Attempt::Refused(Refusal { reason, clashes }),
                Mode::RowByRow => Attempt::Again("a parent is not here"),
            }));
        }
        let lines = self.without_taken_back(told, &kept.emitted);
        self.counters.conflicts += (lines.len() + kept.lines.len()) as u64;
        self.apply.write_conflicts(&lines).await?;
        self.apply.write_conflicts(&kept.lines).await?;
        self.park(group, refused, kept.emitted).await?;
        Ok(None)
    }

    /// Divides what is to be written: deletes of rows that others may reference wait until it is
    /// known who does.
    pub(super) fn hold_back<'w>(
        &self,
        writes: Vec<Write<'w>>,
        speculative: &[Write<'_>],
        aside: &Moves<'_>,
    ) -> (Vec<&'w RowId>, Vec<Write<'w>>) {
        let was_there = |row: &RowId| speculative.iter().all(|(other, _)| *other != row);
        let is_held = |(row, write): &Write<'_>| {
            // What is put aside takes its children along, whatever their foreign keys say.
            let is_aside = matches!(aside.get(*row), Some(Some(_)));
            let is_gone = *write == RowWrite::Delete && !is_aside;
            let may_be_held = is_gone && !self.more_follows;
            may_be_held && self.is_referenced(row.table) && was_there(row)
        };
        let (held, rest): (Vec<_>, Vec<_>) = writes.into_iter().partition(is_held);
        (held.into_iter().map(|(row, _)| row).collect(), rest)
    }

    pub(super) fn marker(
        &self,
        group: &Group,
        parked: BTreeMap<ParkedChange, Obstacle>,
        emitted: Vec<Emission>,
    ) -> Vec<u8> {
        let (origin, first, last) = (group.origin, group.first, group.last);
        let parked = parked.into_iter().collect();
        self.marker_key.seal(&Marker::Apply { origin, first, last, parked, emitted })
    }

    fn opening(&self, group: &Group, phase: LockPhase) -> Opening {
        let marker = self.marker(group, unshowable(group), Vec::new());
        Opening { origin: group.origin, first: group.first, last: group.last, marker, phase }
    }

    fn lock_phase(&self, mode: Mode) -> LockPhase {
        match mode {
            Mode::SetBased if !self.patient => LockPhase::Within(LOCK_PHASE_MAX),
            Mode::SetBased => LockPhase::Patient,
            Mode::RowByRow => LockPhase::RowByRow,
        }
    }

    /// Locks a group's rows and finds their clocks. While PostgreSQL locks, the store looks for the
    /// clocks already; what it finds counts only if no clock has moved by the time the locks are
    /// held.
    async fn take_rows<'w>(
        &mut self,
        opening: Option<&Opening>,
        group: &'w Group,
        mode: Mode,
        refused: &mut BTreeMap<RowId, String>,
    ) -> Result<Taken<'w>, ReplicaError> {
        let (store, moves) = (self.store.clone(), self.store.clock_moves());
        let early = async {
            match mode {
                Mode::SetBased => {
                    store.clocks(group.rows.keys().cloned().collect()).await.map(Some)
                }
                Mode::RowByRow => Ok(None),
            }
        };
        let locked = self.lock_rows(opening, group, mode, refused);
        let (locked, early) = tokio::join!(biased; locked, early);
        let (locked, early) = (locked?, early?);
        // Asked before the clocks are read, or known to be the same: a writer folded in between
        // would be taken for known while its clock is not in what was read.
        let mut xmins = locked.iter().filter_map(|row| row.xmin);
        let unknown = xmins.any(|xmin| !self.horizon.covers(xmin));
        let clocks = match early {
            Some(clocks) if store.clock_moves() == moves || plant::active("stale-clocks") => clocks,
            _ => store.clocks(locked.iter().map(|row| row.id.clone()).collect()).await?,
        };
        Ok(Taken { locked, clocks, unknown })
    }

    /// Locks what is there of a group's rows, and leaves out those that cannot be looked for.
    async fn lock_rows<'w>(
        &mut self,
        opening: Option<&Opening>,
        group: &'w Group,
        mode: Mode,
        refused: &mut BTreeMap<RowId, String>,
    ) -> Result<Vec<LockedRow<'w>>, ReplicaError> {
        // One strength per table keeps it at one statement per table, in key order.
        let mut strengths: BTreeMap<TableId, LockStrength> = BTreeMap::new();
        for (row, work) in &group.rows {
            let strength = self.apply.table(row.table)?.strength(work.columns(), work.may_delete());
            let strongest = strengths.entry(row.table).or_insert(strength);
            *strongest = strength.max(*strongest);
        }
        let request = |row| LockRequest { row, strength: strengths[&row.table] };
        if mode == Mode::SetBased {
            let locks: Vec<LockRequest<'_>> = group.rows.keys().map(request).collect();
            let parents = self.parents(group.rows.iter())?;
            let xmins = self.apply.lock(opening, &locks, &parents).await?;
            let locked = group.rows.iter().zip(xmins);
            return Ok(locked.map(|((id, work), xmin)| LockedRow { id, work, xmin }).collect());
        }
        if let Some(opening) = opening {
            self.apply.begin(opening).await?;
        }
        let mut locked = Vec::new();
        for (id, work) in &group.rows {
            let parents = self.parents(std::iter::once((id, work)))?;
            match self.apply.lock_alone(request(id), &parents).await? {
                Ok(xmin) => locked.push(LockedRow { id, work, xmin }),
                Err(reason) => drop(refused.insert(id.clone(), reason)),
            }
        }
        Ok(locked)
    }

    fn parents<'w>(
        &self,
        rows: impl Iterator<Item = (&'w RowId, &'w RowWork)>,
    ) -> Result<Vec<ParentRequest>, ReplicaError> {
        let mut parents = BTreeSet::new();
        for (row, work) in rows.filter(|_| !plant::active("unlocked-parents")) {
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
        self.apply.begin(&self.opening(group, LockPhase::Patient)).await?;
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
        self.park(group, &refused, Vec::new()).await
    }

    async fn clocks(&self, working: &Working<'_>) -> Result<Vec<Option<RowClock>>, StoreError> {
        self.store.clocks(working.rows.iter().map(|(row, _)| (*row).clone()).collect()).await
    }

    async fn decide<'w>(
        &mut self,
        working: &Working<'w>,
        clocks: Vec<Option<RowClock>>,
        mode: Mode,
    ) -> Result<Decided<'w>, ReplicaError> {
        // What is done to a merged column joins what others did to it, not what it shows; still it
        // must be known what that is.
        let merged = working.rows.iter().zip(&working.present);
        let merged = merged.filter(|((_, work), present)| **present && work.merges());
        let merged: Vec<&RowId> = merged.map(|((row, _), _)| *row).collect();
        let shown =
            if merged.is_empty() { BTreeMap::new() } else { self.apply.shown(&merged).await? };
        let mut verdicts = Vec::with_capacity(working.rows.len());
        let (mut conflicts, mut contradicted) = (Vec::new(), Vec::new());
        let (mut revives, mut kept) = (Vec::new(), Vec::new());
        let (mut aside, mut joined) = (BTreeMap::new(), BTreeMap::new());
        let found = working.present.iter().zip(clocks);
        for ((row, work), (present, clock)) in working.rows.iter().copied().zip(found) {
            let def = self.dictionary.table(row.table).ok_or(ApplyError::TableGone(row.table))?;
            let hidden = working.hidden.contains(row);
            let here = (*present, shown.get(row));
            let clock = clock.unwrap_or_default();
            let was_aside = clock.is_aside();
            let decision = work.decide(def, clock, here, hidden);
            conflicts.extend(decision.conflicts.into_iter().map(|conflict| (row, conflict)));
            if decision.revives {
                revives.push(row);
            }
            let is_aside = decision.clock.is_aside();
            if was_aside != is_aside {
                aside.insert(row, is_aside.then(|| decision.clock.clone()));
            }
            let is_referenced = self.is_referenced(row.table);
            if is_referenced || mode == Mode::RowByRow {
                joined.insert(row.clone(), decision.clock);
            }
            if is_referenced {
                kept.push((row, decision.kept));
            }
            match decision.verdict {
                Verdict::Keep => {}
                Verdict::Retry => contradicted.push(row.clone()),
                verdict => verdicts.push((row, verdict)),
            }
        }
        let (writes, kept) = (self.writes(verdicts).await?, self.writes(kept).await?);
        Ok(Decided { writes, kept, conflicts, contradicted, revives, aside, clocks: joined })
    }

    /// What the verdicts write, with the values that only the log has.
    async fn writes<'w>(
        &self,
        verdicts: Vec<(&'w RowId, Verdict<'w>)>,
    ) -> Result<Vec<Write<'w>>, ReplicaError> {
        let cells = verdicts.iter().filter_map(|(_, verdict)| match verdict {
            Verdict::Insert(cells) | Verdict::Update(cells) | Verdict::Replace(cells) => {
                Some(cells)
            }
            _ => None,
        });
        let logged = cells.flatten().filter_map(|(_, source)| match source {
            Source::Logged(txn) | Source::Merged(txn, _) => Some(*txn),
            Source::Value(_) => None,
        });
        let log = self.logged(logged.collect()).await?;
        let writes = verdicts.into_iter().filter_map(|(row, verdict)| {
            let write = match verdict {
                Verdict::Keep | Verdict::Retry => return None,
                Verdict::Delete => RowWrite::Delete,
                Verdict::Update(cells) => RowWrite::Update(log.found(row, cells)),
                Verdict::Insert(cells) => RowWrite::Insert(log.found(row, cells)),
                Verdict::Replace(cells) => RowWrite::Replace(log.found(row, cells)),
            };
            Some((row, write))
        });
        Ok(writes.collect())
    }

    /// Writes rows; says whether all of them were met. Row by row, refused ones are collected.
    pub(super) async fn write(
        &mut self,
        writes: &[Write<'_>],
        mode: Mode,
        refused: &mut BTreeMap<RowId, String>,
    ) -> Result<bool, ReplicaError> {
        if mode == Mode::SetBased {
            return self.write_rows(writes).await;
        }
        for write in writes {
            let row = write.0;
            if refused.contains_key(row) {
                continue;
            }
            match self.write_alone(write).await? {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(reason) => drop(refused.insert(row.clone(), reason)),
            }
        }
        Ok(true)
    }

    /// Sets aside what could not be shown, and says so in the marker, with what was done besides.
    async fn park(
        &mut self,
        group: &Group,
        refused: &BTreeMap<RowId, String>,
        emitted: Vec<Emission>,
    ) -> Result<(), ReplicaError> {
        let lines = self.parked_lines(group, refused);
        if !refused.is_empty() || !emitted.is_empty() {
            let mut parked = unshowable(group);
            for row in refused.keys() {
                let places = group.rows.get(row).into_iter().flat_map(RowWork::places);
                let obstacle = match self.waits_for_parent(row) {
                    true => Obstacle::NoParent,
                    false => Obstacle::Refused,
                };
                parked.extend(places.map(|place| (place, obstacle)));
            }
            let message = self.marker(group, parked, emitted);
            self.apply.mark(&message).await?;
        }
        self.apply.write_parked(&lines).await?;
        self.counters.parked += lines.len() as u64;
        Ok(())
    }
}

/// Changes that have no place in this database, or not for all of their columns.
pub(super) fn unshowable(group: &Group) -> BTreeMap<ParkedChange, Obstacle> {
    let lacking = group.rows.values().flat_map(RowWork::unknown_columns);
    let lacking = lacking.map(|(place, _)| (place, Obstacle::NoColumn));
    lacking.chain(group.parked.iter().map(|(place, why)| (*place, Obstacle::from(why)))).collect()
}

/// The referencing values of a foreign key, when the group writes all of them and none is NULL.
fn parent_values(work: &RowWork, columns: &[ColumnId]) -> Option<Vec<Value>> {
    let values = columns.iter().map(|column| work.last_value(*column).cloned());
    values.collect::<Option<Vec<_>>>().filter(|values| !values.contains(&Value::Null))
}

/// What is left to write once the speculative inserts stand; `None` when a row must be inserted
/// that was not speculated on.
fn after_speculation<'w>(
    decided: Vec<Write<'w>>,
    speculative: &[Write<'w>],
) -> Option<Vec<Write<'w>>> {
    if speculative.is_empty() {
        let inserts = decided.iter().any(|(_, write)| matches!(write, RowWrite::Insert(_)));
        return (!inserts).then_some(decided);
    }
    let mut speculative: BTreeMap<&RowId, &RowWrite<'w>> =
        speculative.iter().map(|(row, write)| (*row, write)).collect();
    let mut rest = Vec::new();
    for (row, write) in decided {
        match (write, speculative.remove(row)) {
            (RowWrite::Insert(_), None) => return None,
            (RowWrite::Insert(mut cells), Some(RowWrite::Insert(stands))) => {
                cells.retain(|cell| !stands.contains(cell));
                if !cells.is_empty() {
                    rest.push((row, RowWrite::Update(cells)));
                }
            }
            (write, _) => rest.push((row, write)),
        }
    }
    rest.extend(speculative.into_keys().map(|row| (row, RowWrite::Delete)));
    rest.sort_unstable_by_key(|(row, _)| *row);
    Some(rest)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use landfall_protocol::schema::TableId;
    use landfall_protocol::value::RowKey;

    fn row(key: i64) -> RowId {
        RowId { table: TableId(1), key: RowKey::new(&[Value::Int(key)]) }
    }

    fn insert(value: i64) -> RowWrite<'static> {
        let cell = |column, value| (ColumnId(column), Cow::Owned(Value::Int(value)));
        RowWrite::Insert(vec![cell(1, value), cell(2, 0)])
    }

    #[test]
    fn a_speculative_insert_is_corrected_or_undone() {
        let rows = [1, 2, 3].map(row);
        let speculative = [(&rows[0], insert(1)), (&rows[1], insert(2)), (&rows[2], insert(3))];
        let decided = vec![(&rows[0], insert(1)), (&rows[1], insert(9))];
        let rest = after_speculation(decided, &speculative).unwrap();
        let update = RowWrite::Update(vec![(ColumnId(1), Cow::Owned(Value::Int(9)))]);
        assert_eq!(rest, [(&rows[1], update), (&rows[2], RowWrite::Delete)]);
    }

    #[test]
    fn an_insert_nobody_speculated_on_is_not_written_late() {
        let rows = [1, 2].map(row);
        assert_eq!(after_speculation(vec![(&rows[0], insert(1))], &[]), None);
        let other = [(&rows[1], insert(1))];
        assert_eq!(after_speculation(vec![(&rows[0], insert(1))], &other), None);
    }
}
