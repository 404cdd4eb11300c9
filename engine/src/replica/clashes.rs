//! Rows that cannot stand beside each other: two sites gave one unique value to two rows.
//!
//! PostgreSQL refuses the second one. Then the refused rows of a transaction are looked at closely. First
//! those that stand in each other's way only for as long as their values are exchanged: they are taken
//! out and put back with their new values. What still clashes does so with rows that nobody here knew
//! of: the oldest claim stays (`protocol::unique`), and the other row gives way by the rule of the fleet
//! file, in a change of this site's own that stands in the same transaction.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::clock::Stamp;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{Emission, Remedy};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::plan::{Conflict, LostValue, Rule};
use landfall_protocol::schema::ColumnId;
use landfall_protocol::unique::{Claim, suffixed};
use landfall_protocol::value::Value;

use crate::plant;
use crate::postgres::apply::{ApplyError, AsideLine, RowWrite, Target};
use crate::postgres::claims::{ClaimAccess, ClaimRemedy};
use crate::replica::beside::Sent;
use crate::replica::group::Write;
use crate::replica::references::{Again, Kept};
use crate::replica::{Replica, ReplicaError, key_text};

const MOVED: Again = "a row moved while it was looked at what it clashes with";

/// Refused rows, and what they were to become.
pub(super) struct Clashing<'g> {
    pub(super) writes: Vec<Write<'g>>,
    pub(super) clocks: &'g BTreeMap<RowId, RowClock>,
    /// Rows that this site brings back: they have their remedy, and can only be put aside.
    pub(super) revived: BTreeSet<RowId>,
}

/// What was done so that all rows can stand.
#[derive(Default)]
pub(super) struct Settled {
    /// Rows that were refused and are shown now.
    pub(super) placed: BTreeSet<RowId>,
    /// What this site says of rows.
    pub(super) remedies: BTreeMap<RowId, Remedy>,
    /// What the history is to tell.
    pub(super) conflicts: Vec<(RowId, Conflict)>,
    /// Rows that do not show what their clocks say, because PostgreSQL refuses that.
    pub(super) stuck: BTreeSet<RowId>,
    /// Rows that are put aside.
    pub(super) aside: Vec<AsideLine>,
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

/// How a row gives way.
type NewCells = Vec<(ColumnId, Value)>;

impl Replica {
    /// Lets rows give way until all that clash can stand; goes on from what is settled.
    pub(super) async fn settle_clashes(
        &mut self,
        clashing: &Clashing<'_>,
        mut settled: Settled,
    ) -> Result<Result<Settled, Again>, ReplicaError> {
        self.find_hidden().await?;
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
            // Nobody is put aside for long because of what a row shows that cannot be shown as it is.
            let is_stuck = |row: &RowId| {
                let stuck = settled.stuck.contains(row) || self.hidden.contains(row);
                stuck && !plant::active("claims-of-parked")
            };
            if holders.is_empty() || holders.iter().any(|holder| is_stuck(&holder.row)) {
                settled.stuck.insert(seeker.row.clone());
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

    /// A row that is refused for another reason stays as it was.
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
        if !self.barrier.passes().await? {
            return Ok(Err("capture is behind"));
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
    pub(super) fn extend(&mut self, more: Self) {
        self.emitted.extend(more.emitted);
        self.lines.extend(more.lines);
        self.orphans.extend(more.orphans);
        self.late.extend(more.late);
    }

    /// Adds what is said of rows that had to give way. The WAL tells what new values rows have got that
    /// nobody else wrote.
    pub(super) fn say(
        &mut self,
        remedies: BTreeMap<RowId, Remedy>,
        is_named: impl Fn(&RowId) -> bool,
    ) {
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
                (Remedy::Update(_), None) if !is_named(&row) => {}
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
    pub(super) fn has(&self, row: &RowId) -> bool {
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
    pub(super) fn sent(&self) -> Sent {
        let aside = self.remedies.iter().filter(|(_, remedy)| **remedy == Remedy::Quarantine);
        let aside = aside.filter_map(|(row, _)| {
            // Of several the last one is why.
            let told = self.conflicts.iter().rev().find(|(loser, _)| loser == row);
            told.map(|(_, conflict)| (row.clone(), conflict.winner))
        });
        aside.collect()
    }

    /// Whether nothing was done.
    pub(super) fn is_empty(&self) -> bool {
        self.placed.is_empty() && self.remedies.is_empty()
    }

    /// Notes for the history that a row is put aside with the one that it references.
    pub(super) fn tell_child(
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
