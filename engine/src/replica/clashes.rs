//! Rows that cannot stand beside each other: two sites gave one unique value to two rows.
//!
//! PostgreSQL refuses the second one. Then the refused rows of a transaction are looked at closely. First
//! those that stand in each other's way only for as long as their values are exchanged: they are taken
//! out and put back with their new values. What still clashes does so with rows that nobody here knew
//! of: the oldest claim stays (`protocol::unique`), and the other row gives way by the rule of the fleet
//! file, in a change of this site's own that stands in the same transaction.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::clock::{Hlc, Stamp};
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{Emission, Remedy};
use landfall_protocol::id::Seq;
use landfall_protocol::lattice::RowClock;
use landfall_protocol::plan::{Conflict, Group, LostValue, RowWork, Rule};
use landfall_protocol::schema::ColumnId;
use landfall_protocol::unique::{Claim, suffixed};
use landfall_protocol::value::Value;

use crate::plant;
use crate::postgres::apply::{ApplyError, AsideLine, FoundBy, RowWrite, Target};
use crate::postgres::claims::{ClaimAccess, ClaimRemedy};
use crate::replica::aside::Moves;
use crate::replica::barrier::BarrierError;
use crate::replica::group::Write;
use crate::replica::references::{Again, Changed, Kept, Tells};
use crate::replica::{Replica, ReplicaError, key_text};

const MOVED: Again = "a row moved while it was looked at what it clashes with";

/// A group whose rows are written, as far as PostgreSQL takes them.
pub(super) struct Beside<'g> {
    pub(super) group: &'g Group,
    /// What its rows were to become, where they are written one by one.
    pub(super) wanted: Vec<Write<'g>>,
    /// Their clocks once the group is joined.
    pub(super) clocks: &'g BTreeMap<RowId, RowClock>,
    /// Rows that stand because this site takes a delete back, and whether they were there before.
    pub(super) revives: &'g [(&'g RowId, bool)],
    /// Rows that the group puts aside.
    pub(super) aside: &'g Moves<'g>,
}

/// Refused rows, and what they were to become.
struct Clashing<'g> {
    writes: Vec<Write<'g>>,
    clocks: &'g BTreeMap<RowId, RowClock>,
    /// Rows that this site brings back: they have their remedy, and can only be put aside.
    revived: BTreeSet<RowId>,
}

/// What was done so that all rows can stand.
#[derive(Default)]
struct Settled {
    /// Rows that were refused and are shown now.
    placed: BTreeSet<RowId>,
    /// What this site says of rows.
    remedies: BTreeMap<RowId, Remedy>,
    /// What the history is to tell.
    conflicts: Vec<(RowId, Conflict)>,
    /// Rows that are put aside.
    aside: Vec<AsideLine>,
}

/// A row that has to find its place.
struct Seeker<'g> {
    row: &'g RowId,
    target: Target<'g>,
    /// What it shows, if it was there before.
    shown: BTreeMap<ColumnId, Option<String>>,
    was_there: bool,
    /// Columns that got other values than the group says.
    rewritten: BTreeSet<ColumnId>,
}

/// Who has what a row wants.
struct Holder {
    claim: ClaimAccess,
    row: RowId,
}

/// Rows that are put aside, and who has what they wanted.
type Sent = BTreeMap<RowId, Stamp>;

/// How a row gives way.
type NewCells = Vec<(ColumnId, Value)>;

impl Replica {
    /// Lets rows that cannot stand beside others give way, with what belongs to them, and shows refused
    /// rows that can stand then. What is refused for another reason stays refused.
    pub(super) async fn make_room(
        &mut self,
        beside: &Beside<'_>,
        kept: &mut Kept,
        refused: &mut BTreeMap<RowId, String>,
    ) -> Result<Result<(), Again>, ReplicaError> {
        let Beside { group, clocks, revives, aside, .. } = *beside;
        let may_stand = |row: &RowId| refused.contains_key(row) && !self.orphaned.contains_key(row);
        let wanted = beside.wanted.iter().filter(|(_, write)| *write != RowWrite::Delete);
        let wanted: Vec<_> = wanted.filter(|(row, _)| may_stand(row)).cloned().collect();
        let sent = aside.iter().filter(|(row, _)| self.is_referenced(row.table));
        let sent = sent.filter_map(|(row, clock)| {
            Some(((*row).clone(), clock.as_ref()?.decided().unwrap_or(self.unlogged())))
        });
        let mut goes: Sent = sent.collect();
        if wanted.is_empty() && goes.is_empty() {
            return Ok(Ok(()));
        }
        let told = kept.emitted.iter().filter(|emission| emission.remedy == Remedy::Revive);
        let told = told.map(|emission| emission.row.clone());
        let revived = revives.iter().map(|(row, _)| (*row).clone()).chain(told).collect();
        let clashing = Clashing { writes: wanted, clocks, revived };
        let mut settled = match self.settle_clashes(&clashing).await? {
            Ok(settled) => settled,
            Err(again) => return Ok(Err(again)),
        };
        goes.extend(settled.sent());
        self.follow_aside(goes, clocks, &mut settled).await?;
        refused.retain(|row, _| !settled.has(row));
        let conflicts: Vec<(&RowId, Conflict)> =
            settled.conflicts.iter().map(|(row, conflict)| (row, conflict.clone())).collect();
        kept.lines.extend(self.conflict_lines(&group.rows, &conflicts, &[]).await?);
        self.list(&settled.aside, FoundBy::Us).await?;
        let again = self.keep_parents(beside, &settled, refused);
        match again.await? {
            Ok(more) => kept.extend(more),
            Err(again) => return Ok(Err(again)),
        }
        kept.say(settled.remedies, &group.rows);
        Ok(Ok(()))
    }

    /// Looks whether rows that found their place late have their parents.
    async fn keep_parents(
        &mut self,
        beside: &Beside<'_>,
        settled: &Settled,
        refused: &BTreeMap<RowId, String>,
    ) -> Result<Result<Kept, Again>, ReplicaError> {
        let Beside { group, clocks, revives, .. } = beside;
        let placed = &settled.placed;
        let aside: BTreeSet<RowId> = settled.sent().map(|(row, _)| row).collect();
        let revives = revives.iter().filter(|(row, _)| placed.contains(*row));
        let mut changed = Changed {
            rows: &group.rows,
            tells: Tells::Named,
            written: placed.iter().collect(),
            revives: revives.copied().collect(),
            clocks,
            refused,
            aside: &aside,
            ..Changed::without_group()
        };
        if self.more_follows {
            self.look_later_at(group.first, placed, &aside);
            changed.written.clear();
        }
        self.keep_references(&changed).await
    }

    async fn settle_clashes(
        &mut self,
        clashing: &Clashing<'_>,
    ) -> Result<Result<Settled, Again>, ReplicaError> {
        let mut settled = Settled::default();
        let mut seekers = Vec::new();
        for (row, write) in &clashing.writes {
            if self.apply.claims(row.table).is_empty() {
                continue;
            }
            let Some(seeker) = self.seeker(row, write).await? else { return Ok(Err(MOVED)) };
            let in_the_way = self.holders(&seeker).await?;
            if seeker.was_there && in_the_way.is_empty() {
                if self.write_alone(&(*row, write.clone())).await? == Ok(true) {
                    settled.placed.insert((*row).clone());
                }
                continue;
            }
            // Out of the way of those that take over its value.
            let lift = (*row, RowWrite::Delete);
            if seeker.was_there && !self.write_rows(&[lift]).await? {
                return Ok(Err(MOVED));
            }
            seekers.push(seeker);
        }
        seekers.sort_by_cached_key(|seeker| self.oldest_claim(seeker.row, clashing.clocks));
        for seeker in seekers {
            if let Err(again) = self.find_place(clashing, &mut settled, seeker).await? {
                return Ok(Err(again));
            }
        }
        Ok(Ok(settled))
    }

    /// A refused row with what it is to become; `None` if it is not there any more.
    async fn seeker<'g>(
        &mut self,
        row: &'g RowId,
        write: &RowWrite<'g>,
    ) -> Result<Option<Seeker<'g>>, ReplicaError> {
        let was_there = !matches!(write, RowWrite::Insert(_));
        let base = match was_there {
            true => self.apply.row_text(row).await?,
            false => None,
        };
        if was_there && base.is_none() {
            return Ok(None);
        }
        let shown = self.apply.shown(&[row]).await?.remove(row).unwrap_or_default();
        let base = base.filter(|_| matches!(write, RowWrite::Update(_)));
        let target = Target { base, cells: write.cells().to_vec() };
        Ok(Some(Seeker { row, target, shown, was_there, rewritten: BTreeSet::new() }))
    }

    /// Since when the row has all that only one may have, roughly: the order in which rows of one group
    /// find their places.
    fn oldest_claim(&self, row: &RowId, clocks: &BTreeMap<RowId, RowClock>) -> Claim {
        let claims = self.apply.claims(row.table);
        let columns: Vec<ColumnId> =
            claims.iter().flat_map(|claim| &claim.columns).copied().collect();
        Claim::of(row, clocks.get(row).unwrap_or(&RowClock::default()), &columns)
    }

    /// Shows one row, and lets it or those in its way give way.
    async fn find_place(
        &mut self,
        clashing: &Clashing<'_>,
        settled: &mut Settled,
        mut seeker: Seeker<'_>,
    ) -> Result<Result<(), Again>, ReplicaError> {
        // Each turn takes one row out of the way, or leaves one index satisfied.
        loop {
            let reason = match self.place(&seeker).await? {
                Ok(true) => {
                    seeker.is_placed(settled);
                    return Ok(Ok(()));
                }
                Ok(false) => return Ok(Err(MOVED)),
                Err(reason) => reason,
            };
            let holders = self.holders(&seeker).await?;
            if holders.is_empty() {
                return self.put_back(&seeker, reason).await;
            }
            let clocks = match self.clocks_of(clashing, &holders).await? {
                Ok(clocks) => clocks,
                Err(again) => return Ok(Err(again)),
            };
            let stamps = |holder: &Holder| {
                let columns = &holder.claim.columns;
                let claim = |row| Claim::of(row, clocks.get(row).unwrap_or(&NO_CLOCK), columns);
                (claim(seeker.row), claim(&holder.row))
            };
            let older = holders.iter().find(|holder| {
                let (ours, theirs) = stamps(holder);
                (theirs < ours) != plant::active("youngest-claim")
            });
            if let Some(holder) = older {
                let (ours, theirs) = stamps(holder);
                let sides = (theirs.stamp(self.own), ours.stamp(self.own));
                if self.give_way(clashing, settled, &mut seeker, holder, sides) {
                    return Ok(Ok(()));
                }
                continue;
            }
            for holder in &holders {
                let (ours, theirs) = stamps(holder);
                let sides = (ours.stamp(self.own), theirs.stamp(self.own));
                if !self.send_away(clashing, settled, seeker.row, holder, sides).await? {
                    return Ok(Err(MOVED));
                }
            }
        }
    }

    async fn place(&mut self, seeker: &Seeker<'_>) -> Result<Result<bool, String>, ReplicaError> {
        let Target { base, cells } = &seeker.target;
        match base {
            None => self.write_alone(&(seeker.row, RowWrite::Insert(cells.clone()))).await,
            Some(base) => self.place_alone(seeker.row, base, cells).await,
        }
    }

    /// A row that clashes with nobody is refused for another reason, and stays as it was.
    async fn put_back(
        &mut self,
        seeker: &Seeker<'_>,
        reason: String,
    ) -> Result<Result<(), Again>, ReplicaError> {
        let back = match &seeker.target.base {
            Some(base) => self.place_alone(seeker.row, base, &[]).await?,
            None if seeker.was_there => Err(reason),
            None => Ok(true),
        };
        match back {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(Err(MOVED)),
            Err(message) => Err(ApplyError::Data { sqlstate: "23000".to_owned(), message }.into()),
        }
    }

    /// The rows that have what a row is to have, by index; they are locked.
    async fn holders(&mut self, seeker: &Seeker<'_>) -> Result<Vec<Holder>, ReplicaError> {
        let mut found = Vec::new();
        for claim in self.apply.claims(seeker.row.table).iter() {
            self.apply.set_savepoint().await?;
            match self.apply.holders(claim, seeker.row, &seeker.target).await {
                Ok(rows) => {
                    self.apply.keep().await?;
                    let holder = |row| Holder { claim: claim.clone(), row };
                    found.extend(rows.into_iter().map(holder));
                }
                // A value that cannot be read is not what the index refuses.
                Err(ApplyError::Data { .. }) => self.apply.undo().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// The clocks of a seeker's group and of the holders, which are locked, up to their last writers.
    async fn clocks_of(
        &mut self,
        clashing: &Clashing<'_>,
        holders: &[Holder],
    ) -> Result<Result<BTreeMap<RowId, RowClock>, Again>, ReplicaError> {
        match self.barrier.pass().await {
            Err(BarrierError::Late) => return Ok(Err("capture is behind")),
            passed => passed?,
        }
        let outside = holders.iter().map(|holder| &holder.row);
        let outside = outside.filter(|row| !clashing.clocks.contains_key(*row)).cloned();
        let outside: Vec<RowId> = outside.collect();
        let found = self.store.clocks(outside.clone()).await?;
        let found = outside.into_iter().zip(found);
        let mut clocks = clashing.clocks.clone();
        clocks.extend(found.filter_map(|(row, clock)| Some((row, clock?))));
        Ok(Ok(clocks))
    }

    /// The seeker gives way to an older row; says whether that is the end of it.
    fn give_way(
        &self,
        clashing: &Clashing<'_>,
        settled: &mut Settled,
        seeker: &mut Seeker<'_>,
        holder: &Holder,
        (winner, loser): (Stamp, Stamp),
    ) -> bool {
        let claim = &holder.claim;
        let is_new = |cells: &NewCells| {
            cells.iter().all(|(column, _)| !seeker.rewritten.contains(column))
                && !clashing.revived.contains(seeker.row)
        };
        let cells = new_cells(claim, seeker.row, |column| seeker.text(column)).filter(is_new);
        settled.tell(claim, seeker.row, cells.as_ref(), |c| seeker.text(c), (winner, loser));
        let Some(cells) = cells else {
            let line = self.aside_line(seeker.row, holder.reason(), |c| seeker.text(c));
            settled.aside.extend(line);
            settled.remedies.insert(seeker.row.clone(), Remedy::Quarantine);
            return true;
        };
        seeker.rewrite(cells);
        false
    }

    /// A younger row makes room; `false` when it is not there any more.
    async fn send_away(
        &mut self,
        clashing: &Clashing<'_>,
        settled: &mut Settled,
        seeker: &RowId,
        holder: &Holder,
        sides: (Stamp, Stamp),
    ) -> Result<bool, ReplicaError> {
        let (row, claim) = (&holder.row, &holder.claim);
        if settled.remedies.get(row) == Some(&Remedy::Quarantine) {
            return Ok(true);
        }
        let shown = self.apply.shown(&[row]).await?.remove(row).unwrap_or_default();
        let text = |column: ColumnId| shown.get(&column).cloned().flatten();
        let may_stay =
            |cells: &NewCells| settled.may_rewrite(row, cells) && !clashing.revived.contains(row);
        let cells = new_cells(claim, row, text).filter(may_stay);
        if let Some(cells) = cells {
            let values = cells.iter().map(|(id, value)| (*id, Cow::Owned(value.clone())));
            let write = (row, RowWrite::Update(values.collect()));
            if self.write_alone(&write).await? == Ok(true) {
                settled.tell(claim, row, Some(&cells), text, sides);
                settled.rewrite(row, cells.iter().map(|(column, _)| *column));
                return Ok(true);
            }
        }
        settled.placed.remove(row);
        settled.tell(claim, row, None, text, sides);
        let by = Holder { claim: claim.clone(), row: seeker.clone() };
        settled.aside.extend(self.aside_line(row, by.reason(), text));
        settled.remedies.insert(row.clone(), Remedy::Quarantine);
        self.write_rows(&[(row, RowWrite::Delete)]).await
    }

    /// Rows that reference what is put aside are put aside with it.
    async fn follow_aside(
        &mut self,
        sent: Sent,
        clocks: &BTreeMap<RowId, RowClock>,
        settled: &mut Settled,
    ) -> Result<(), ReplicaError> {
        let mut frontier = sent;
        while !frontier.is_empty() {
            frontier = self.children_aside(&frontier, clocks, settled).await?;
        }
        Ok(())
    }

    /// Puts the children of rows that are not there any more aside.
    async fn children_aside(
        &mut self,
        sent: &Sent,
        clocks: &BTreeMap<RowId, RowClock>,
        settled: &mut Settled,
    ) -> Result<Sent, ReplicaError> {
        let mut next = Sent::new();
        for key in self.apply.foreign_keys().iter() {
            let parents: Vec<&RowId> = sent.keys().filter(|row| row.table == key.parent).collect();
            if parents.is_empty() || !key.names_key {
                continue;
            }
            for (child, parent) in self.apply.children(key, &parents).await? {
                let shown = self.apply.shown(&[&child]).await?.remove(&child).unwrap_or_default();
                let text = |column: ColumnId| shown.get(&column).cloned().flatten();
                if self.write_rows(&[(&child, RowWrite::Delete)]).await? {
                    let winner = sent.get(&parent).copied().unwrap_or(self.unlogged());
                    let loser = self.newest(&child, clocks).await?;
                    let column = self.dictionary.table(child.table).and_then(|def| {
                        let named = |column: &ColumnId| key.columns.contains(column);
                        def.cell_columns().find(named).or(def.cell_columns().next())
                    });
                    settled.tell_child(&child, column, text, (winner, loser));
                    let reason = self.why_orphaned(&parent);
                    settled.aside.extend(self.aside_line(&child, reason, text));
                    settled.remedies.insert(child.clone(), Remedy::Quarantine);
                    settled.placed.remove(&child);
                    next.insert(child, winner);
                }
            }
        }
        Ok(next)
    }

    /// Who wrote a row last; what nobody wrote since there is a log was there before.
    async fn newest(
        &self,
        row: &RowId,
        clocks: &BTreeMap<RowId, RowClock>,
    ) -> Result<Stamp, ReplicaError> {
        let clock = match clocks.get(row) {
            Some(clock) => Some(clock.clone()),
            None => self.store.clocks(vec![row.clone()]).await?.pop().flatten(),
        };
        Ok(clock.and_then(|clock| clock.newest()).unwrap_or(self.unlogged()))
    }

    /// The stamp of what was there before there was a log.
    fn unlogged(&self) -> Stamp {
        Stamp::new(Hlc::ZERO, self.own, Seq::ZERO)
    }
}

impl Holder {
    /// Why somebody is put aside whom it leaves no room.
    fn reason(&self) -> String {
        let Self { claim, row } = self;
        format!(
            "row {} has what {} lets only one row have, and had it first",
            key_text(row),
            claim.name
        )
    }
}

static NO_CLOCK: std::sync::LazyLock<RowClock> = std::sync::LazyLock::new(RowClock::default);

impl Kept {
    fn extend(&mut self, more: Self) {
        self.emitted.extend(more.emitted);
        self.lines.extend(more.lines);
        self.orphans.extend(more.orphans);
    }

    /// Adds what is said of rows that had to give way. The WAL tells what new values rows have got that
    /// nobody else wrote.
    fn say(&mut self, remedies: BTreeMap<RowId, Remedy>, named: &BTreeMap<RowId, RowWork>) {
        let said = std::mem::take(&mut self.emitted).into_iter();
        let mut all: BTreeMap<RowId, Remedy> =
            said.map(|Emission { row, remedy }| (row, remedy)).collect();
        for (row, remedy) in remedies {
            match (remedy, all.get_mut(&row)) {
                (Remedy::Update(more), Some(Remedy::Update(columns))) => {
                    columns.extend(more);
                    columns.sort_unstable();
                    columns.dedup();
                }
                (Remedy::Update(_), Some(_)) => {}
                (Remedy::Update(_), None) if !named.contains_key(&row) => {}
                (remedy, _) => drop(all.insert(row, remedy)),
            }
        }
        self.emitted = all.into_iter().map(|(row, remedy)| Emission { row, remedy }).collect();
    }
}

/// The values with which a row gives way and still stands; `None` if it has to be put aside.
fn new_cells(
    claim: &ClaimAccess,
    row: &RowId,
    text: impl Fn(ColumnId) -> Option<String>,
) -> Option<NewCells> {
    match &claim.remedy {
        ClaimRemedy::Quarantine => None,
        ClaimRemedy::Suffix(column, room) => {
            let value = suffixed(&text(*column)?, &row.key, *room)?;
            Some(vec![(*column, Value::Text(value.into()))])
        }
        ClaimRemedy::Null(columns) => {
            Some(columns.iter().map(|column| (*column, Value::Null)).collect())
        }
    }
}

impl Seeker<'_> {
    /// What a column is to show.
    fn text(&self, column: ColumnId) -> Option<String> {
        let cell = self.target.cells.iter().find(|(id, _)| *id == column);
        match cell {
            Some((_, value)) => value.text().map(Cow::into_owned),
            None => self.shown.get(&column).cloned().flatten(),
        }
    }

    fn rewrite(&mut self, cells: NewCells) {
        for (column, value) in cells {
            self.rewritten.insert(column);
            self.target.cells.retain(|(id, _)| *id != column);
            self.target.cells.push((column, Cow::Owned(value)));
        }
        self.target.cells.sort_by_key(|(column, _)| *column);
    }

    fn is_placed(&self, settled: &mut Settled) {
        settled.placed.insert(self.row.clone());
        if !self.rewritten.is_empty() {
            settled.rewrite(self.row, self.rewritten.iter().copied());
        }
    }
}

impl Settled {
    /// Whether a row is refused no more.
    fn has(&self, row: &RowId) -> bool {
        self.placed.contains(row) || self.remedies.contains_key(row)
    }

    /// Whether these columns of a row may still get other values: it gives way to each index once.
    fn may_rewrite(&self, row: &RowId, cells: &NewCells) -> bool {
        match self.remedies.get(row) {
            None => true,
            Some(Remedy::Update(columns)) => cells.iter().all(|(new, _)| !columns.contains(new)),
            Some(_) => false,
        }
    }

    /// Notes that columns of a row got other values.
    fn rewrite(&mut self, row: &RowId, columns: impl Iterator<Item = ColumnId>) {
        let mut all: BTreeSet<ColumnId> = columns.collect();
        if let Some(Remedy::Update(earlier)) = self.remedies.get(row) {
            all.extend(earlier);
        }
        self.remedies.insert(row.clone(), Remedy::Update(all.into_iter().collect()));
    }

    /// The rows that are put aside, with those to whom they gave way.
    fn sent(&self) -> impl Iterator<Item = (RowId, Stamp)> {
        let aside = self.remedies.iter().filter(|(_, remedy)| **remedy == Remedy::Quarantine);
        aside.filter_map(|(row, _)| {
            // Of several the last one is why.
            let told = self.conflicts.iter().rev().find(|(loser, _)| loser == row);
            told.map(|(_, conflict)| (row.clone(), conflict.winner))
        })
    }

    /// Notes for the history that a row is put aside with the one that it references.
    fn tell_child(
        &mut self,
        child: &RowId,
        column: Option<ColumnId>,
        text: impl Fn(ColumnId) -> Option<String>,
        (winner, loser): (Stamp, Stamp),
    ) {
        let lost = column.and_then(text).map_or(Value::Null, |text| Value::Text(text.into()));
        let (rule, lost) = (Rule::FkQuarantine, LostValue::Value(lost));
        self.conflicts.push((child.clone(), Conflict { column, rule, winner, loser, lost }));
    }

    /// Notes for the history who gave way to whom.
    fn tell(
        &mut self,
        claim: &ClaimAccess,
        row: &RowId,
        cells: Option<&NewCells>,
        text: impl Fn(ColumnId) -> Option<String>,
        (winner, loser): (Stamp, Stamp),
    ) {
        let rule = match (&claim.remedy, cells) {
            (ClaimRemedy::Suffix(..), Some(_)) => Rule::UniqueSuffix,
            (ClaimRemedy::Null(_), Some(_)) => Rule::UniqueNull,
            _ if claim.excludes => Rule::ExcludeQuarantine,
            _ => Rule::UniqueQuarantine,
        };
        let changed = cells.into_iter().flatten().map(|(column, _)| *column);
        let changed: Vec<ColumnId> = changed.collect();
        let columns = match cells {
            Some(_) => changed,
            None => claim.cells.iter().copied().take(1).collect(),
        };
        for column in columns {
            let lost = text(column).map_or(Value::Null, |text| Value::Text(text.into()));
            let (column, lost) = (Some(column), LostValue::Value(lost));
            self.conflicts.push((row.clone(), Conflict { column, rule, winner, loser, lost }));
        }
    }
}
