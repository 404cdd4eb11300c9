//! Foreign keys between replicated tables are kept in every snapshot. Replication writes without
//! checking them; so before a group commits, whoever applies it looks which rows lost their parents,
//! and writes the remedy that the foreign key asks for into the same transaction, as a change of
//! this site's own (`protocol::fold`, emissions).
//!
//! Deletes of rows that others may reference are held back until it is known who does. Their row
//! locks stand since P1: an application's child that was under way is visible by now, and no other
//! can come. A child whose parent is gone already brings it back, goes too, or lets go, as the parent
//! going would have done; if nobody here knows the parent, the child waits, parked.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::clock::Stamp;
use landfall_protocol::dictionary::{Dictionary, RowId};
use landfall_protocol::fold::{Emission, Remedy};
use landfall_protocol::id::Seq;
use landfall_protocol::lattice::RowClock;
use landfall_protocol::plan::{Conflict, LostValue, RowWork, Rule};
use landfall_protocol::references::{Doomed, Reference, Settled};
use landfall_protocol::schema::{ColumnId, TableId};
use landfall_protocol::value::Value;

use crate::plant;
use crate::postgres::apply::{DefaultParent, RowWrite};
use crate::postgres::foreign_keys::ForeignKeyAccess;
use crate::postgres::history::ConflictLine;
use crate::replica::beside::Sent;
use crate::replica::group::Write;
use crate::replica::orphans::{Follows, Orphan};
use crate::replica::{Replica, ReplicaError};

/// What a group means for rows that reference each other.
pub(super) struct Changed<'g> {
    /// The rows that others' changes name; none where rows are written as their clocks say.
    pub(super) rows: &'g BTreeMap<RowId, RowWork>,
    /// Which remedies the marker must tell.
    pub(super) tells: Tells,
    /// Rows that reference others by what was written into them.
    pub(super) written: BTreeSet<&'g RowId>,
    /// Rows that are to be deleted, and still there.
    pub(super) deletes: Vec<&'g RowId>,
    /// Rows that stand because this site takes a delete back, and whether they were there before.
    pub(super) revives: Vec<(&'g RowId, bool)>,
    /// A row that was put aside and is shown again.
    pub(super) returns: Option<&'g RowId>,
    /// The clocks of the group's rows once it is joined, as far as others may reference them.
    pub(super) clocks: &'g BTreeMap<RowId, RowClock>,
    /// Rows that PostgreSQL refuses.
    pub(super) refused: &'g BTreeMap<RowId, String>,
    /// Those of them that may find their place yet: what they show is not what they are to reference.
    pub(super) seeks: &'g BTreeSet<RowId>,
    /// Rows that this site has put aside in the same transaction, which their clocks do not say yet.
    pub(super) aside: &'g Sent,
    /// What earlier fragments of the same transaction did.
    pub(super) earlier: &'g BTreeMap<Seq, Earlier>,
}

/// Which remedies a marker must tell the fold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tells {
    /// Those of rows that others' changes name, and rows that come back. The WAL says what was done
    /// to the others, which nobody else wrote.
    Named,
    /// All: what it does not tell is no news.
    All,
}

/// What a fragment of a large transaction did, until the last one shows what came of it: a later
/// fragment may take the children away whose parents this one deleted.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// Rows that reference others by what was written into them.
    written: BTreeSet<RowId>,
    /// Rows it deleted that others may reference, with their clocks since.
    gone: BTreeMap<RowId, RowClock>,
    /// Rows that this site put aside so that its rows can stand.
    aside: Sent,
}

/// What was done so that every row has its parents.
#[derive(Default)]
pub(super) struct Kept {
    /// What this site says besides of rows the group names, and of rows that come back.
    pub(super) emitted: Vec<Emission>,
    /// What to tell of it.
    pub(super) lines: Vec<ConflictLine>,
    /// Rows that cannot stand, because their parents are not there.
    pub(super) orphans: BTreeMap<RowId, Orphan>,
    /// Rows whose parents may find their place yet.
    pub(super) late: BTreeSet<RowId>,
}

/// What is found out about a group's references.
struct Pass<'g> {
    changed: &'g Changed<'g>,
    doomed: Doomed,
    /// Parents that are not there, with their clocks.
    gone: BTreeMap<RowId, RowClock>,
    /// Those of them that were brought back.
    back: BTreeSet<RowId>,
    orphans: BTreeMap<RowId, Orphan>,
    /// Rows whose parents may find their place yet.
    late: BTreeSet<RowId>,
    /// Rows that PostgreSQL refuses to move to other parents: what they show goes with the old ones.
    left: BTreeSet<RowId>,
    remedies: BTreeMap<RowId, Remedy>,
    conflicts: Vec<(RowId, Conflict)>,
}

/// Why a group must be tried again.
pub(super) type Again = &'static str;

const IN_FLIGHT: Again = "a delete of a parent is on its way to the fold";
const MOVED: Again = "a row moved while its references were looked at";

impl Replica {
    /// Whether a delete of this table's rows waits until it is known who references them.
    pub(super) fn is_referenced(&self, table: TableId) -> bool {
        let keys = self.apply.foreign_keys();
        !plant::active("no-remedies") && keys.iter().any(|key| key.parent == table)
    }

    /// The rows that reference others by what is written into them.
    pub(super) fn referencing<'w>(&self, writes: &[Write<'w>]) -> BTreeSet<&'w RowId> {
        let all = self.apply.foreign_keys();
        let writes = writes.iter().filter(|(row, write)| {
            let mut keys = all.iter().filter(|key| key.child == row.table);
            match write {
                RowWrite::Delete => false,
                RowWrite::Insert(_) | RowWrite::Replace(_) => keys.next().is_some(),
                RowWrite::Update(cells) => {
                    let mut columns = keys.flat_map(|key| &key.columns);
                    columns.any(|column| cells.iter().any(|(written, _)| written == column))
                }
            }
        });
        writes.map(|(row, _)| *row).collect()
    }

    /// Leaves it to the last fragment to look for lost parents.
    pub(super) async fn look_later(
        &mut self,
        fragment: Seq,
        changed: &Changed<'_>,
        writes: &[Write<'_>],
    ) -> Result<Result<Kept, Again>, ReplicaError> {
        let written = changed.written.iter().map(|row| (*row).clone());
        let deleted = writes.iter().filter(|(_, write)| *write == RowWrite::Delete);
        let gone = deleted.filter_map(|(row, _)| changed.clocks.get_key_value(*row));
        let gone = gone.map(|(row, clock)| (row.clone(), clock.clone()));
        let (written, gone) = (written.collect(), gone.collect());
        let earlier = Earlier { written, gone, aside: changed.aside.clone() };
        self.earlier.insert(fragment, earlier);
        let (written, deletes, revives) = (BTreeSet::new(), Vec::new(), changed.revives.clone());
        let earlier = &NOTHING_EARLIER;
        let changed = Changed { written, deletes, revives, earlier, ..*changed };
        self.keep_references(&changed).await
    }

    /// Leaves it to the last fragment to look for the parents of these rows too, of which some were put
    /// aside.
    pub(super) fn look_later_at(&mut self, fragment: Seq, rows: &BTreeSet<RowId>, aside: &Sent) {
        let earlier = self.earlier.entry(fragment).or_default();
        earlier.written.extend(rows.iter().cloned());
        earlier.aside.extend(aside.clone());
    }

    /// Executes the deletes that were held back, as far as they may be, and writes all remedies.
    pub(super) async fn keep_references(
        &mut self,
        changed: &Changed<'_>,
    ) -> Result<Result<Kept, Again>, ReplicaError> {
        let has_keys = !self.apply.foreign_keys().is_empty() && !plant::active("no-remedies");
        if changed.is_empty() || !has_keys && changed.revives.is_empty() {
            return Ok(Ok(Kept::default()));
        }
        let mut pass = Pass::new(changed);
        let earlier = changed.earlier.values().flat_map(|earlier| &earlier.written);
        let written = changed.written.iter().copied().chain(earlier).collect();
        if let Err(again) = self.find_parents(&mut pass, &written).await? {
            return Ok(Err(again));
        }
        self.find_children(&mut pass).await?;
        self.find_defaults(&mut pass).await?;
        if !pass.orphans.is_empty() {
            // They are set aside first, and what is left is looked at again.
            return Ok(Ok(Kept { orphans: pass.orphans, ..Kept::default() }));
        }
        if let Err(again) = self.bring_back(&mut pass).await? {
            return Ok(Err(again));
        }
        if !pass.orphans.is_empty() {
            return Ok(Ok(Kept { orphans: pass.orphans, ..Kept::default() }));
        }
        self.carry_out(pass).await
    }

    /// Finds rows whose parents are not there.
    async fn find_parents(
        &mut self,
        pass: &mut Pass<'_>,
        rows: &BTreeSet<&RowId>,
    ) -> Result<Result<(), Again>, ReplicaError> {
        let keys = self.apply.foreign_keys();
        for (index, key) in keys.iter().enumerate() {
            let children: Vec<&RowId> =
                rows.iter().copied().filter(|row| row.table == key.child).collect();
            if children.is_empty() {
                continue;
            }
            for (child, parent) in self.apply.without_parents(key, &children).await? {
                if let Err(again) = self.miss(pass, (index, key), child, parent).await? {
                    return Ok(Err(again));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Notes a child whose parent is not there.
    async fn miss(
        &mut self,
        pass: &mut Pass<'_>,
        (index, key): (usize, &ForeignKeyAccess),
        child: RowId,
        parent: Option<RowId>,
    ) -> Result<Result<(), Again>, ReplicaError> {
        self.find_hidden().await?;
        let seeks = |parent: &RowId| pass.changed.seeks.contains(parent);
        if pass.changed.written.contains(&child) && parent.as_ref().is_some_and(seeks) {
            pass.late.insert(child);
            return Ok(Ok(()));
        }
        let waits = |parent: &RowId| {
            pass.changed.refused.contains_key(parent) || self.hidden.contains(parent)
        };
        let reason = self.orphan_reason(key.parent, parent.as_ref());
        let Some(parent) = parent.filter(|parent| !waits(parent)) else {
            pass.orphans.insert(child, Orphan { reason, follows: None });
            return Ok(Ok(()));
        };
        if let Some(winner) = pass.changed.sent(&parent) {
            let orphan = self.follower(index, &parent, winner);
            pass.orphans.insert(child, orphan);
            return Ok(Ok(()));
        }
        if !pass.gone.contains_key(&parent) {
            let clock = match pass.changed.clocks.get(&parent) {
                Some(clock) => Some(clock.clone()),
                None => self.store.clocks(vec![parent.clone()]).await?.pop().flatten(),
            };
            match clock.and_then(|clock| Some((clock.shows()?, clock))) {
                Some((true, _)) => return Ok(Err(IN_FLIGHT)),
                Some((false, clock)) if clock.is_gone() => {
                    pass.doomed.delete(parent.clone());
                    pass.gone.insert(parent.clone(), clock);
                }
                // A row that is put aside takes its children along until it comes back.
                Some((_, clock)) => {
                    let winner = clock.decided().unwrap_or(self.unlogged());
                    let orphan = self.follower(index, &parent, winner);
                    pass.orphans.insert(child, orphan);
                    return Ok(Ok(()));
                }
                None => {
                    pass.orphans.insert(child, Orphan { reason, follows: None });
                    return Ok(Ok(()));
                }
            }
        }
        pass.doomed.refer(Reference { child, key: index, parent, action: key.action });
        Ok(Ok(()))
    }

    /// A row that goes aside with its parent.
    fn follower(&self, key: usize, parent: &RowId, winner: Stamp) -> Orphan {
        let reason = self.why_orphaned(parent);
        let follows = (!plant::active("parked-followers")).then_some(Follows { key, winner });
        Orphan { reason, follows }
    }

    /// Finds all that references what is to go, and what goes with it.
    async fn find_children(&mut self, pass: &mut Pass<'_>) -> Result<(), ReplicaError> {
        let keys = self.apply.foreign_keys();
        let mut frontier: BTreeSet<RowId> = pass.doomed.rows().cloned().collect();
        while !frontier.is_empty() {
            let mut next = BTreeSet::new();
            for (index, key) in keys.iter().enumerate() {
                let parents: Vec<&RowId> =
                    frontier.iter().filter(|row| row.table == key.parent).collect();
                if parents.is_empty() {
                    continue;
                }
                let action = key.action;
                for (child, parent) in self.apply.children(key, &parents).await? {
                    if pass.changed.seeks.contains(&child) {
                        continue;
                    }
                    if self.is_led_elsewhere(pass.changed, &child, key).await? {
                        self.leave(pass, index, child, &parent);
                        continue;
                    }
                    let reference = Reference { child: child.clone(), key: index, parent, action };
                    if pass.doomed.refer(reference) {
                        next.insert(child);
                    }
                }
            }
            frontier = next;
        }
        Ok(())
    }

    /// Whether a row that cannot be shown as it is due references somebody else by that.
    async fn is_led_elsewhere(
        &mut self,
        changed: &Changed<'_>,
        child: &RowId,
        key: &ForeignKeyAccess,
    ) -> Result<bool, ReplicaError> {
        self.find_hidden().await?;
        if !changed.refused.contains_key(child) && !self.hidden.contains(child) {
            return Ok(false);
        }
        let clock = match changed.clocks.get(child) {
            Some(clock) => Some(clock.clone()),
            None => self.store.clocks(vec![child.clone()]).await?.pop().flatten(),
        };
        let Some(clock) = clock else { return Ok(false) };
        let shown = self.apply.shown(&[child]).await?.remove(child).unwrap_or_default();
        let (due, present) = (BTreeMap::from([(child, clock)]), BTreeSet::from([child]));
        let writes = self.due_writes(&due, &present).await?;
        let differs = |(column, value): &(ColumnId, Cow<'_, Value>)| {
            let shown = shown.get(column).cloned().flatten();
            key.columns.contains(column) && value.text().map(Cow::into_owned) != shown
        };
        Ok(writes.iter().any(|(_, write)| write.cells().iter().any(differs)))
    }

    /// Takes a row along with the parent that it would have left: one that the group parks is not shown
    /// until it has its place; one that was parked before goes aside.
    fn leave(&self, pass: &mut Pass<'_>, key: usize, child: RowId, parent: &RowId) {
        if pass.changed.rows.contains_key(&child) && !self.is_referenced(child.table) {
            pass.left.insert(child);
            return;
        }
        let winner = pass.changed.clocks.get(parent).and_then(RowClock::decided);
        let follows = Some(Follows { key, winner: winner.unwrap_or(self.unlogged()) });
        pass.orphans.insert(child, Orphan { reason: self.why_orphaned(parent), follows });
    }

    /// A default that leads to a row that goes, or to none, is as bad as what it replaces.
    async fn find_defaults(&mut self, pass: &mut Pass<'_>) -> Result<(), ReplicaError> {
        let keys = self.apply.foreign_keys();
        let defaults = keys.iter().enumerate().filter(|(_, key)| key.default_sql.is_some());
        for (index, key) in defaults {
            if !pass.doomed.has_key(index) {
                continue;
            }
            let stays = match self.apply.default_parent(key).await? {
                DefaultParent::Nobody => true,
                DefaultParent::Row(parent) => !pass.doomed.contains(&parent),
                DefaultParent::Missing => false,
            };
            if !stays {
                pass.doomed.keep_parents(index);
            }
        }
        Ok(())
    }

    /// Brings parents back that are gone and must be there, with their own parents.
    async fn bring_back(&mut self, pass: &mut Pass<'_>) -> Result<Result<(), Again>, ReplicaError> {
        loop {
            let settled = pass.doomed.settle();
            let gone = settled.revived().filter(|row| pass.gone.contains_key(*row));
            let rows: BTreeSet<RowId> =
                gone.filter(|row| !pass.back.contains(*row)).cloned().collect();
            if rows.is_empty() {
                return Ok(Ok(()));
            }
            if !self.insert_again(pass, &rows).await? {
                return Ok(Err(MOVED));
            }
            pass.back.extend(rows.iter().cloned());
            if let Err(again) = self.find_parents(pass, &rows.iter().collect()).await? {
                return Ok(Err(again));
            }
            if !pass.orphans.is_empty() {
                return Ok(pass.give_up());
            }
        }
    }

    /// Inserts rows as their clocks have them; `false` when a clock or a row moved meanwhile.
    async fn insert_again(
        &mut self,
        pass: &Pass<'_>,
        rows: &BTreeSet<RowId>,
    ) -> Result<bool, ReplicaError> {
        let due: BTreeMap<&RowId, RowClock> =
            rows.iter().map(|row| (row, pass.gone[row].clone().revived())).collect();
        let writes = self.due_writes(&due, &BTreeSet::new()).await?;
        if writes.len() < rows.len() || !self.write_rows(&writes).await? {
            return Ok(false);
        }
        // As with any row that was not there to be locked: whoever wrote it last may be unheard of.
        if !self.barrier.passes().await? {
            return Ok(false);
        }
        let is_folded = |row: &&RowId| !pass.changed.has_clock(row);
        let folded: Vec<RowId> = rows.iter().filter(is_folded).cloned().collect();
        let now = self.store.clocks(folded.clone()).await?;
        let same = |(row, clock): (&RowId, &Option<RowClock>)| clock.as_ref() == pass.gone.get(row);
        Ok(folded.iter().zip(&now).all(same))
    }

    /// Deletes what goes, rewrites what lets go, and keeps what stays.
    async fn carry_out(&mut self, mut pass: Pass<'_>) -> Result<Result<Kept, Again>, ReplicaError> {
        let doomed = std::mem::take(&mut pass.doomed);
        let settled = doomed.settle();
        let stamps = self.stamps_of(&pass, &doomed).await?;
        pass.tell(&settled, &stamps, &self.apply.foreign_keys(), &self.dictionary);
        let conflicts: Vec<(&RowId, Conflict)> =
            pass.conflicts.iter().map(|(row, conflict)| (row, conflict.clone())).collect();
        let lines = self.conflict_lines(pass.changed.rows, &conflicts, &[]).await?;
        let mut writes = self.rewrites(&mut pass.remedies, &settled).await?;
        let going = settled.going().filter(|(row, _)| !pass.gone.contains_key(*row));
        for (row, deleted) in going {
            if !deleted && plant::active("no-cascade") {
                continue;
            }
            writes.push((row, RowWrite::Delete));
            if !deleted {
                pass.remedies.insert(row.clone(), Remedy::Delete);
            }
        }
        let left = std::mem::take(&mut pass.left);
        writes.extend(
            left.iter().filter(|row| !settled.goes(row)).map(|row| (row, RowWrite::Delete)),
        );
        writes.sort_unstable_by_key(|(row, _)| *row);
        let mut stay: BTreeSet<&RowId> = settled.revived().collect();
        let revives = pass.changed.revives.iter().filter(|(row, _)| !settled.goes(row));
        stay.extend(revives.clone().map(|(row, _)| *row));
        pass.remedies.extend(stay.iter().map(|row| ((*row).clone(), Remedy::Revive)));
        let appeared = revives.filter(|(_, was_there)| !was_there).map(|(row, _)| *row);
        let appeared: BTreeSet<&RowId> = appeared.collect();
        let is_there = |row: &&&RowId| !pass.back.contains(**row) && !appeared.contains(**row);
        let touched: Vec<&RowId> = stay.iter().filter(is_there).copied().collect();
        if !self.write_rows(&writes).await? || !self.apply.touch(&touched).await? {
            return Ok(Err(MOVED));
        }
        let Changed { rows, tells, .. } = *pass.changed;
        let is_told = |(row, remedy): &(RowId, Remedy)| {
            tells == Tells::All || *remedy == Remedy::Revive || rows.contains_key(row)
        };
        let told = pass.remedies.into_iter().filter(is_told);
        let emitted = told.map(|(row, remedy)| Emission { row, remedy }).collect();
        Ok(Ok(Kept { emitted, lines, orphans: BTreeMap::new(), late: pass.late }))
    }

    /// The writes that make children let go of parents that go.
    async fn rewrites<'d>(
        &mut self,
        remedies: &mut BTreeMap<RowId, Remedy>,
        settled: &Settled<'d>,
    ) -> Result<Vec<Write<'d>>, ReplicaError> {
        let keys = self.apply.foreign_keys();
        let mut cells: BTreeMap<&RowId, BTreeMap<ColumnId, Value>> = BTreeMap::new();
        let mut values: BTreeMap<usize, Vec<(ColumnId, Value)>> = BTreeMap::new();
        for Reference { child, key, .. } in settled.rewritten() {
            if plant::active("no-set-null") {
                continue;
            }
            if !values.contains_key(key) {
                values.insert(*key, self.apply.replacement(&keys[*key]).await?);
            }
            cells.entry(child).or_default().extend(values[key].iter().cloned());
        }
        let write = |(row, cells): (&'d RowId, BTreeMap<ColumnId, Value>)| {
            remedies.insert(row.clone(), Remedy::Update(cells.keys().copied().collect()));
            let cells = cells.into_iter().map(|(column, value)| (column, Cow::Owned(value)));
            (row, RowWrite::Update(cells.collect()))
        };
        Ok(cells.into_iter().map(write).collect())
    }

    /// Who wrote last what is to go, and what references it, for the history.
    async fn stamps_of(
        &self,
        pass: &Pass<'_>,
        doomed: &Doomed,
    ) -> Result<BTreeMap<RowId, Stamp>, ReplicaError> {
        let mut stamps: BTreeMap<RowId, Stamp> = BTreeMap::new();
        let mut others = Vec::new();
        for row in doomed.named() {
            let work = pass.changed.rows.get(row).and_then(RowWork::stamp);
            let gone = pass.gone.get(row).and_then(RowClock::existence);
            match work.or(gone.map(|existence| existence.stamp)) {
                Some(stamp) => drop(stamps.insert(row.clone(), stamp)),
                None => others.push(row.clone()),
            }
        }
        let clocks = self.store.clocks(others.clone()).await?;
        let found = clocks.into_iter().map(|clock| self.newest_in(clock.as_ref()));
        stamps.extend(others.into_iter().zip(found));
        Ok(stamps)
    }
}

static NO_WORKS: BTreeMap<RowId, RowWork> = BTreeMap::new();
static NO_CLOCKS: BTreeMap<RowId, RowClock> = BTreeMap::new();
static NO_REASONS: BTreeMap<RowId, String> = BTreeMap::new();
static NOBODY: Sent = Sent::new();
static NO_ROWS: BTreeSet<RowId> = BTreeSet::new();
static NOTHING_EARLIER: BTreeMap<Seq, Earlier> = BTreeMap::new();

impl Changed<'_> {
    /// Nothing yet, of rows that no group names.
    pub(super) fn without_group() -> Self {
        Self {
            rows: &NO_WORKS,
            tells: Tells::All,
            written: BTreeSet::new(),
            deletes: Vec::new(),
            revives: Vec::new(),
            returns: None,
            clocks: &NO_CLOCKS,
            refused: &NO_REASONS,
            seeks: &NO_ROWS,
            aside: &NOBODY,
            earlier: &NOTHING_EARLIER,
        }
    }

    fn is_empty(&self) -> bool {
        let nothing = self.written.is_empty() && self.deletes.is_empty();
        nothing && self.revives.is_empty() && self.earlier.is_empty()
    }

    /// Who is the cause that this transaction put a row aside; its clock does not say so yet.
    fn sent(&self, row: &RowId) -> Option<Stamp> {
        let mut earlier = self.earlier.values();
        let earlier = || earlier.find_map(|earlier| earlier.aside.get(row));
        self.aside.get(row).or_else(earlier).copied()
    }

    /// Whether the transaction itself says something of the row.
    fn has_clock(&self, row: &RowId) -> bool {
        let mut earlier = self.earlier.values();
        self.clocks.contains_key(row) || earlier.any(|earlier| earlier.gone.contains_key(row))
    }
}

impl<'g> Pass<'g> {
    fn new(changed: &'g Changed<'g>) -> Self {
        let mut doomed = Doomed::default();
        changed.deletes.iter().for_each(|row| doomed.delete((*row).clone()));
        changed.revives.iter().for_each(|(row, _)| doomed.bring_back((*row).clone()));
        changed.returns.iter().for_each(|row| doomed.bring_back((*row).clone()));
        let earlier = changed.earlier.values().flat_map(|earlier| &earlier.gone);
        let gone: BTreeMap<RowId, RowClock> =
            earlier.map(|(row, clock)| (row.clone(), clock.clone())).collect();
        gone.keys().for_each(|row| doomed.delete(row.clone()));
        Self {
            changed,
            doomed,
            gone,
            back: BTreeSet::new(),
            orphans: BTreeMap::new(),
            late: BTreeSet::new(),
            left: BTreeSet::new(),
            remedies: BTreeMap::new(),
            conflicts: Vec::new(),
        }
    }

    /// A parent that cannot come back, because its own parents are not here, is given up: the rows for
    /// which it was to come back wait instead of it.
    fn give_up(&mut self) -> Result<(), Again> {
        let settled = self.doomed.settle();
        let mut waiting = BTreeMap::new();
        for (row, orphan) in &self.orphans {
            let (mut at, mut seen, mut orphan) = (row, BTreeSet::new(), orphan.clone());
            while self.back.contains(at) && seen.insert(at) {
                let Some(found) = settled.keeper(at) else { continue };
                at = &found.child;
                orphan.follows = orphan.follows.map(|by| Follows { key: found.key, ..by });
            }
            if self.back.contains(at) {
                return Err("a parent's parent is parked");
            }
            waiting.insert(at.clone(), orphan);
        }
        self.orphans = waiting;
        Ok(())
    }

    /// Notes for the history who gave way to whom.
    fn tell(
        &mut self,
        settled: &Settled<'_>,
        stamps: &BTreeMap<RowId, Stamp>,
        keys: &[ForeignKeyAccess],
        dictionary: &Dictionary,
    ) {
        for row in settled.revived() {
            if let Some(found) = settled.keeper(row) {
                let (winner, loser) = (stamps[&found.child], stamps[row]);
                let (column, rule, lost) = (None, Rule::FkRestrict, LostValue::Nothing);
                let conflict = Conflict { column, rule, winner, loser, lost };
                self.conflicts.push((row.clone(), conflict));
            }
        }
        for found in settled.following() {
            let (winner, loser) = (stamps[&found.parent], stamps[&found.child]);
            let def = dictionary.table(found.child.table);
            let column = def.and_then(|def| keys[found.key].told_column(def));
            let (rule, lost) = (Rule::FkCascade, LostValue::Shown);
            let conflict = Conflict { column, rule, winner, loser, lost };
            self.conflicts.push((found.child.clone(), conflict));
        }
        for found in settled.rewritten() {
            let (winner, loser) = (stamps[&found.parent], stamps[&found.child]);
            let key = &keys[found.key];
            let rule = if key.sets_defaults { Rule::FkSetDefault } else { Rule::FkSetNull };
            for (column, _) in &key.set {
                let (column, lost) = (Some(*column), LostValue::Shown);
                let conflict = Conflict { column, rule, winner, loser, lost };
                self.conflicts.push((found.child.clone(), conflict));
            }
        }
        self.conflicts.sort_by(|(one, _), (two, _)| one.cmp(two));
    }
}
