//! The apply plan: what a run of foreign transactions of one origin means for the visible rows.
//!
//! The shell locks the rows of [`Group::rows`], loads their folded clocks, and asks
//! [`RowWork::decide`] for each row. Deciding joins the changes into a copy of the clock; the
//! clock itself is only moved by the fold, when the apply transaction comes back through the WAL.

mod merged;

pub use merged::{Rest, merged_value, shown_value};

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use merged::{Merges, Rests};

use crate::change::RowOp;
use crate::clock::Stamp;
use crate::dictionary::{Dictionary, LocalChange, RowId, Unshowable};
use crate::fold::{ForeignTransaction, ParkedChange};
use crate::id::{Origin, Seq, TxnId};
use crate::lattice::RowClock;
use crate::merged::{End, Kind, Part, State};
use crate::schema::rules::DeleteRule;
use crate::schema::{ColumnId, TableDef, TableId};
use crate::value::Value;
use crate::version::VersionVector;

/// A run of consecutive transactions of one origin that becomes one PostgreSQL transaction.
#[derive(Clone, Debug)]
pub struct Group {
    /// Whose.
    pub origin: Origin,
    /// The first one.
    pub first: Seq,
    /// The last one.
    pub last: Seq,
    /// Work by row, in the order in which rows are locked.
    pub rows: BTreeMap<RowId, RowWork>,
    /// Changes that cannot be shown here, with the reason.
    pub parked: Vec<(ParkedChange, Unshowable)>,
    /// Changes in all, parked ones included.
    pub changes: usize,
}

/// What the group does to one row, in order.
#[derive(Clone, Debug, Default)]
pub struct RowWork {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    stamp: Stamp,
    /// What the origin had applied when it wrote this.
    seen: std::sync::Arc<VersionVector>,
    place: ParkedChange,
    change: LocalChange,
}

/// A change in words, for what operators read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldChange {
    /// Where it stands.
    pub place: ParkedChange,
    /// What happened.
    pub op: RowOp,
    /// Column numbers and values.
    pub text: String,
}

/// Where an inserted cell's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source<'w> {
    /// From the group.
    Value(Cow<'w, Value>),
    /// From the log: the cell was written by this earlier transaction while the row was hidden.
    Logged(TxnId),
    /// From the log likewise, and what was done to it since.
    Merged(TxnId, Rest),
}

/// What must become of a row. Values stay with the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'w> {
    /// It already shows what it should.
    Keep,
    /// It must appear. Columns that are not named take their default.
    Insert(Vec<(ColumnId, Source<'w>)>),
    /// It must go and appear anew: an insert that does not name all columns came over it. Columns
    /// that are not named take their default.
    Replace(Vec<(ColumnId, Source<'w>)>),
    /// These cells change.
    Update(Vec<(ColumnId, Source<'w>)>),
    /// It must go.
    Delete,
    /// The clock and the table disagree about the row's existence: capture and visibility are
    /// apart for a moment. Nothing may be decided; roll back and try again.
    Retry,
}

/// What a group makes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'w> {
    /// What must become of it.
    pub verdict: Verdict<'w>,
    /// Which concurrent writes give way.
    pub conflicts: Vec<Conflict>,
    /// Whether the row stands only because this site takes a delete back, which it must say in a
    /// change of its own.
    pub revives: bool,
    /// What must become of it should its delete not stand.
    pub kept: Verdict<'w>,
    /// The row's clock once the group is joined.
    pub clock: RowClock,
}

/// One of two concurrent writes that had to give way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The cell; `None` when the existence of the row was at stake.
    pub column: Option<ColumnId>,
    /// Which rule decided.
    pub rule: Rule,
    /// Who stays.
    pub winner: Stamp,
    /// Who gives way.
    pub loser: Stamp,
    /// What gives way.
    pub lost: LostValue,
}

/// Where the losing value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LostValue {
    /// Here.
    Value(Value),
    /// In the row as PostgreSQL shows it before the group.
    Shown,
    /// In the loser's transaction in the log.
    Logged,
    /// There is none: a delete gave way.
    Nothing,
}

/// Why one of two writes gave way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The later of two concurrent writes of one cell stays.
    LastWriterWins,
    /// A delete takes concurrent updates of the row with it.
    DeleteWins,
    /// An insert newer than a concurrent delete keeps the row.
    InsertAfterDelete,
    /// The sum of what all have added is more, or less, than the column can hold.
    CounterClamped,
    /// The merged column was set as a whole by somebody who did not know of what was done to it.
    Reset(Kind),
    /// Of two writes of one place in a document the later stays, and what is removed takes with it what
    /// is in it.
    DocumentKey,
    /// A delete gives way to an update that did not know of it.
    UpdateWins,
    /// A delete was taken back by another site, whose history says why.
    Revived,
    /// A row was put aside by another site, whose history says why.
    Quarantined,
    /// A row is put aside because an older one has a value that only one may have.
    UniqueQuarantine,
    /// A value gets an ending because an older row has it, and only one may.
    UniqueSuffix,
    /// A value is emptied because an older row has it, and only one may.
    UniqueNull,
    /// A row is put aside because an EXCLUDE constraint does not allow it beside an older one.
    ExcludeQuarantine,
    /// A delete gives way to a row that references the deleted one.
    FkRestrict,
    /// A row goes with the row that it references.
    FkCascade,
    /// A row is put aside with the row that it references.
    FkQuarantine,
    /// A column that references a deleted row is emptied.
    FkSetNull,
    /// A column that references a deleted row gets its default.
    FkSetDefault,
}

impl Rule {
    /// The name in `landfall.conflict`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastWriterWins => "last_writer_wins",
            Self::DeleteWins => "delete_wins",
            Self::InsertAfterDelete => "insert_after_delete",
            Self::CounterClamped => "counter_clamped",
            Self::Reset(Kind::Counter) => "counter_reset",
            Self::Reset(Kind::Set) => "set_reset",
            Self::Reset(Kind::Extreme(End::Max)) => "max_reset",
            Self::Reset(Kind::Extreme(End::Min)) => "min_reset",
            Self::Reset(Kind::Text) => "text_reset",
            Self::Reset(Kind::Document) => "document_reset",
            Self::DocumentKey => "document_key",
            Self::UpdateWins => "update_wins",
            Self::Revived => "revived",
            Self::Quarantined => "quarantined",
            Self::UniqueQuarantine => "unique_quarantine",
            Self::UniqueSuffix => "unique_suffix",
            Self::UniqueNull => "unique_null",
            Self::ExcludeQuarantine => "exclude_quarantine",
            Self::FkRestrict => "fk_restrict",
            Self::FkCascade => "fk_cascade",
            Self::FkQuarantine => "fk_quarantine",
            Self::FkSetNull => "fk_set_null",
            Self::FkSetDefault => "fk_set_default",
        }
    }
}

impl Group {
    /// Puts consecutive foreign transactions together. `tables` are the origin's tables up to the
    /// first of them, and `seen` is what the origin had applied by then; both move forward.
    /// Changes in `set_aside` are parked without being tried.
    ///
    /// # Panics
    /// When `transactions` is empty.
    pub fn build(
        origin: Origin,
        transactions: &[ForeignTransaction],
        dictionary: &Dictionary,
        tables: &mut BTreeMap<TableId, TableDef>,
        seen: &mut VersionVector,
    ) -> Self {
        let (Some(first), Some(last)) = (transactions.first(), transactions.last()) else {
            panic!("a group holds at least one transaction");
        };
        let mut group = Self {
            origin,
            first: first.transaction.seq,
            last: last.transaction.seq,
            rows: BTreeMap::new(),
            parked: Vec::new(),
            changes: 0,
        };
        let mut shared = std::sync::Arc::new(seen.clone());
        for foreign in transactions {
            if !foreign.vector.is_empty() {
                seen.join(&foreign.vector);
                shared = std::sync::Arc::new(seen.clone());
            }
            let transaction = &foreign.transaction;
            for describe in &transaction.describes {
                tables.insert(describe.table, describe.def.clone());
            }
            for (index, change) in transaction.changes.iter().enumerate() {
                group.changes += 1;
                let place = ParkedChange { seq: transaction.seq, index: index as u32 };
                let local = match tables.get(&change.table) {
                    Some(def) => dictionary.localize(def, change),
                    None => Err(Unshowable::Undescribed(change.table)),
                };
                match local {
                    Ok(change) => {
                        group.rows.entry(change.row.clone()).or_default().steps.push(Step {
                            stamp: transaction.stamp(origin),
                            seen: std::sync::Arc::clone(&shared),
                            place,
                            change,
                        })
                    }
                    Err(reason) => group.parked.push((place, reason)),
                }
            }
        }
        group
    }
}

impl RowWork {
    /// Whether the row may have to be deleted, which takes the stronger row lock.
    pub fn may_delete(&self) -> bool {
        let may = |change: &LocalChange| change.op == RowOp::Delete || leaves_out(change);
        self.steps.iter().any(|step| may(&step.change))
    }

    /// The columns it may write, each as often as it is named.
    pub fn columns(&self) -> impl Iterator<Item = ColumnId> + '_ {
        self.steps.iter().flat_map(|step| &step.change.cells).map(|cell| cell.column)
    }

    /// The changes it is made of.
    pub fn places(&self) -> impl Iterator<Item = ParkedChange> + '_ {
        self.steps.iter().map(|step| step.place)
    }

    /// The values a column takes along the way, the last one last.
    pub fn last_value(&self, column: ColumnId) -> Option<&Value> {
        let cells = self.steps.iter().rev().flat_map(|step| &step.change.cells);
        cells.filter(|cell| cell.column == column).map(|cell| &cell.value).next()
    }

    /// What one of these transactions wrote into a column, if it did.
    pub fn value_of(&self, txn: TxnId, column: ColumnId) -> Option<&Value> {
        let steps = self.steps.iter().filter(|step| step.stamp.txn == txn);
        let mut cells = steps.flat_map(|step| &step.change.cells);
        cells.find(|cell| cell.column == column).map(|cell| &cell.value)
    }

    /// The stamp of the last change.
    pub fn stamp(&self) -> Option<Stamp> {
        self.steps.last().map(|step| step.stamp)
    }

    /// The changes one by one, told for humans.
    pub fn steps(&self) -> impl Iterator<Item = ToldChange> + '_ {
        self.steps.iter().map(|step| {
            let cells = step.change.cells.iter().map(|cell| {
                format!("{}={}", cell.column.0, cell.value.text().unwrap_or("NULL".into()))
            });
            let text = cells.collect::<Vec<_>>().join(", ");
            ToldChange { place: step.place, op: step.change.op, text }
        })
    }

    /// Columns of these changes that this site does not have.
    pub fn unknown_columns(&self) -> impl Iterator<Item = (ParkedChange, &[String])> {
        let steps = self.steps.iter().filter(|step| !step.change.unknown_columns.is_empty());
        steps.map(|step| (step.place, step.change.unknown_columns.as_slice()))
    }

    /// Whether it does something to a merged column, so that deciding needs to know what the row shows.
    pub fn merges(&self) -> bool {
        self.shares().next().is_some()
    }

    /// The merged columns it does something to, each as often as it does.
    fn shares(&self) -> impl Iterator<Item = ColumnId> + '_ {
        let writes = |op| matches!(op, RowOp::Insert | RowOp::Update);
        let writes = self.steps.iter().filter(move |step| writes(step.change.op));
        let cells = writes.flat_map(|step| &step.change.cells);
        cells.filter(|cell| matches!(cell.value, Value::Share(_))).map(|cell| cell.column)
    }

    /// Decides what must become of the row, given its folded clock and whether PostgreSQL shows
    /// it, and which concurrent writes give way. `hidden` says that the row is known to be parked,
    /// so that its absence is no contradiction. `shown` has the cells of a row that
    /// [`RowWork::merges`], as text.
    pub fn decide(
        &self,
        def: &TableDef,
        clock: RowClock,
        (present, shown): (bool, Option<&ShownCells>),
        hidden: bool,
    ) -> Decision<'_> {
        if clock.shows().is_some_and(|shows| shows != present) && !hidden {
            let (verdict, conflicts) = (Verdict::Retry, Vec::new());
            let kept = Verdict::Keep;
            return Decision { verdict, conflicts, revives: false, kept, clock };
        }
        let mut merged: BTreeSet<ColumnId> = self.shares().collect();
        let merges = !merged.is_empty() || clock.merged_columns().next().is_some();
        let first = merges.then(|| clock.clone());
        let mut joined = clock;
        let mut values = Values::default();
        let mut conflicts = Vec::new();
        let mut revival = None;
        for step in &self.steps {
            let before = step.may_conflict(&joined).then(|| joined.clone());
            let outcome = joined.join(step.change.op, step.stamp, &step.change.cells);
            if let Some(before) = before {
                step.conflicts(def, &before, &outcome, present, &mut conflicts);
                revival = step.revival(&before, &joined, present).or(revival);
            }
            let cells_at = step.change.op.cells_at(step.stamp);
            for cell in &step.change.cells {
                let is_share = matches!(cell.value, Value::Share(_));
                if outcome.won.contains(&cell.column) && !is_share {
                    values.put(cell.column, cells_at, Cow::Borrowed(&cell.value));
                }
            }
        }
        // A value counts only while nothing later in the group, a delete included, overwrote it.
        values.0.retain(|(column, stamp, _)| joined.cell(*column) == Some(*stamp));
        let clears = present && self.steps.iter().any(|step| step.clears(def, &joined));
        let revival = revival.filter(|revival| takes_back(revival, def, &joined));
        let is_live = joined.is_live(present) || revival.is_some();
        let appears = is_live && (clears || !present);
        let rests = first.map(|first| {
            let others = joined.merged_columns().map(|merged| merged.column);
            merged.extend(others.filter(|column| appears || values.get(*column).is_some()));
            let merges = Merges { def, before: &first, joined: &joined, shown, appears };
            merges.decide(merged, &mut values, &mut conflicts)
        });
        let rests = rests.unwrap_or_default();
        // What gave way to a delete stands again when the group also brings the row back.
        let stands = |conflict: &Conflict| {
            let has = |column| joined.has(column, conflict.loser);
            let was_deleted = conflict.rule == Rule::DeleteWins;
            is_live && was_deleted && conflict.column.is_some_and(has)
        };
        conflicts.retain(|conflict| !stands(conflict));
        conflicts.extend(revival.clone());
        let mut kept = Verdict::Keep;
        let verdict = match (present, is_live) {
            (false, false) => Verdict::Keep,
            (true, false) => {
                kept = changed_cells(&joined, values, rests);
                Verdict::Delete
            }
            (true, true) if clears => Verdict::Replace(all_cells(def, &joined, values, rests)),
            (true, true) => changed_cells(&joined, values, rests),
            (false, true) => Verdict::Insert(all_cells(def, &joined, values, rests)),
        };
        Decision { verdict, conflicts, revives: revival.is_some(), kept, clock: joined }
    }
}

/// Whether a revival is what the table's rule asks for, and of the delete that stands in the end.
fn takes_back(revival: &Conflict, def: &TableDef, joined: &RowClock) -> bool {
    let deleted = joined.existence().filter(|existence| !existence.live);
    let stands = deleted.is_some_and(|deleted| deleted.stamp == revival.loser);
    #[cfg(feature = "simulation")]
    if crate::planted::active("no-update-wins") {
        return false;
    }
    stands && def.rules.deletes == DeleteRule::UpdateWins
}

/// What a row shows, as text.
pub type ShownCells = BTreeMap<ColumnId, Option<String>>;

/// An insert without all of the columns that this site has.
fn leaves_out(change: &LocalChange) -> bool {
    change.op == RowOp::Insert && !change.whole
}

/// The newest values of a row's cells, in column order; mostly a handful.
#[derive(Default)]
struct Values<'w>(Vec<(ColumnId, Stamp, Cow<'w, Value>)>);

impl<'w> Values<'w> {
    fn place(&self, column: ColumnId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&column, |(column, ..)| *column)
    }

    fn put(&mut self, column: ColumnId, stamp: Stamp, value: Cow<'w, Value>) {
        match self.place(column) {
            Ok(place) => self.0[place] = (column, stamp, value),
            Err(place) => self.0.insert(place, (column, stamp, value)),
        }
    }

    fn get(&self, column: ColumnId) -> Option<&Value> {
        self.place(column).ok().map(|place| self.0[place].2.as_ref())
    }

    fn take(&mut self, column: ColumnId) -> Option<Cow<'w, Value>> {
        self.place(column).ok().map(|place| self.0.remove(place).2)
    }

    fn drop(&mut self, column: ColumnId) {
        self.0.retain(|(other, ..)| *other != column);
    }
}

fn changed_cells<'w>(joined: &RowClock, values: Values<'w>, rests: Rests) -> Verdict<'w> {
    let merged = rests.into_iter().filter_map(|(column, rest)| {
        let birth = joined.cell(column)?.txn;
        Some((column, Source::Merged(birth, rest)))
    });
    let mut cells: Vec<_> = merged.collect();
    cells.extend(values.0.into_iter().map(|(column, _, value)| (column, Source::Value(value))));
    cells.sort_unstable_by_key(|(column, _)| *column);
    if cells.is_empty() { Verdict::Keep } else { Verdict::Update(cells) }
}

fn all_cells<'w>(
    def: &TableDef,
    joined: &RowClock,
    mut values: Values<'w>,
    mut rests: Rests,
) -> Vec<(ColumnId, Source<'w>)> {
    let cells = def.cell_columns().filter_map(|column| {
        let source = match (values.take(column), rests.remove(&column)) {
            (Some(value), _) => Source::Value(value),
            (None, None) => Source::Logged(joined.cell(column)?.txn),
            (None, Some(rest)) => Source::Merged(joined.cell(column)?.txn, rest),
        };
        Some((column, source))
    });
    cells.collect()
}

impl Step {
    /// The origin of this change had seen that write, or made it itself.
    fn knew(&self, other: Stamp) -> bool {
        other.txn.origin == self.stamp.txn.origin || self.seen.covers(other.txn)
    }

    /// Whether the row shows the default of a column, because this insert does not name it.
    fn clears(&self, def: &TableDef, joined: &RowClock) -> bool {
        let named = |column| self.change.cells.iter().any(|cell| cell.column == column);
        let is_cleared = |column| joined.cell(column) == Some(self.stamp) && !named(column);
        leaves_out(&self.change) && def.cell_columns().any(is_cleared)
    }

    /// Whether joining this to a row can make a conflict. It cannot where the row's origin knew all
    /// that is in the clock, which is how most changes are, and need not be looked at closely.
    fn may_conflict(&self, clock: &RowClock) -> bool {
        clock.shows() == Some(false)
            || clock.stamps().any(|stamp| stamp > self.stamp || !self.knew(stamp))
    }

    /// The delete that this step takes back, or that must not take the row, where updates win: one
    /// that did not know of an update. What the delete of a row knew goes with it.
    fn revival(&self, before: &RowClock, joined: &RowClock, present: bool) -> Option<Conflict> {
        let deleted = joined.existence().filter(|existence| !existence.live)?.stamp;
        let winner = match self.change.op {
            RowOp::Delete if deleted == self.stamp && before.is_live(present) => {
                before.writes().filter(|write| !self.knew(*write)).max()?
            }
            RowOp::Insert | RowOp::Update if !self.knew(deleted) => self.stamp,
            _ => return None,
        };
        let (column, rule, loser) = (None, Rule::UpdateWins, deleted);
        Some(Conflict { column, rule, winner, loser, lost: LostValue::Nothing })
    }

    fn conflicts(
        &self,
        def: &TableDef,
        before: &RowClock,
        outcome: &crate::lattice::JoinOutcome,
        present: bool,
        conflicts: &mut Vec<Conflict>,
    ) {
        let was_live = before.is_live(present);
        let lost_value = if present { LostValue::Shown } else { LostValue::Logged };
        let writes_cells = matches!(self.change.op, RowOp::Insert | RowOp::Update);
        for cell in self.change.cells.iter().filter(|_| writes_cells) {
            let lost_to = outcome.lost.iter().find(|(column, _)| *column == cell.column);
            let known = before.cell(cell.column);
            // In this order: whatever the stamps of the cells say, it is the delete that hides them.
            let (rule, winner, loser, lost) = if let Some(deleted) = outcome.existence_lost
                && before.is_gone()
            {
                (Rule::DeleteWins, deleted, self.stamp, LostValue::Value(cell.value.clone()))
            } else if let (Some((_, winner)), Value::Share(share)) = (lost_to, &cell.value) {
                if self.knew(*winner) {
                    continue;
                }
                let rule = Rule::Reset(share.part.kind());
                (rule, *winner, self.stamp, LostValue::Value(cell.value.clone()))
            } else if let Value::Share(share) = &cell.value
                && (share.birth <= known || self.change.op == RowOp::Update)
            {
                conflicts.extend(self.lost_places(before, cell.column, &share.part));
                continue;
            } else if let (Value::Share(_), Some((kind, loser))) =
                (&cell.value, self.unseen(before, cell.column).filter(|_| was_live))
            {
                (Rule::Reset(kind), self.stamp, loser, lost_value.clone())
            } else if let Some((_, winner)) = lost_to {
                (Rule::LastWriterWins, *winner, self.stamp, LostValue::Value(cell.value.clone()))
            } else if let Some(loser) = known
                && was_live
                && loser != self.stamp
                && !self.knew(loser)
            {
                (Rule::LastWriterWins, self.stamp, loser, lost_value.clone())
            } else if let Some((kind, loser)) =
                self.unseen(before, cell.column).filter(|_| was_live)
            {
                (Rule::Reset(kind), self.stamp, loser, lost_value.clone())
            } else {
                continue;
            };
            conflicts.push(Conflict { column: Some(cell.column), rule, winner, loser, lost });
        }
        self.decided(def, before, outcome, (present, lost_value), conflicts);
    }

    /// What gives way to a change, or makes it give way, that says whether the row is there.
    fn decided(
        &self,
        def: &TableDef,
        before: &RowClock,
        outcome: &crate::lattice::JoinOutcome,
        (present, lost_value): (bool, LostValue),
        conflicts: &mut Vec<Conflict>,
    ) {
        let was_live = before.is_live(present);
        match self.change.op {
            RowOp::Delete if outcome.existence_won && was_live => {
                self.lost_to_this_delete(def, before, &lost_value, conflicts);
            }
            RowOp::Delete => {
                conflicts.extend(outcome.existence_lost.filter(|_| was_live).map(|winner| {
                    let (rule, loser) = (Rule::InsertAfterDelete, self.stamp);
                    Conflict { column: None, rule, winner, loser, lost: LostValue::Nothing }
                }))
            }
            RowOp::Revive | RowOp::ReviveAside
                if outcome.existence_won && before.is_gone() && !present =>
            {
                conflicts.extend(before.existence().map(|deleted| {
                    let (rule, winner, loser) = (Rule::Revived, self.stamp, deleted.stamp);
                    Conflict { column: None, rule, winner, loser, lost: LostValue::Nothing }
                }));
            }
            RowOp::Quarantine | RowOp::ReviveAside if outcome.existence_won && was_live => {
                // Undo wants a value that gave way; the row is kept beside it.
                let (column, rule) = (def.cell_columns().next(), Rule::Quarantined);
                let (winner, loser) = (self.stamp, before.newest().unwrap_or(self.stamp));
                conflicts.push(Conflict { column, rule, winner, loser, lost: lost_value });
            }
            RowOp::Revive | RowOp::Quarantine | RowOp::Return | RowOp::ReviveAside => {}
            RowOp::Insert | RowOp::Update => {}
        }
    }

    /// The last of what was done to a merged column by somebody whom this change, which writes it as a
    /// whole, had not heard of.
    fn unseen(&self, before: &RowClock, column: ColumnId) -> Option<(Kind, Stamp)> {
        let life = before.life(column)?;
        Some((life.kind(), life.stamps().filter(|stamp| !self.knew(*stamp)).max()?))
    }

    /// Places of a document that were written at once by this change and by somebody whom it had not
    /// heard of.
    fn lost_places(&self, before: &RowClock, column: ColumnId, part: &Part) -> Vec<Conflict> {
        let unseen = self.unseen(before, column);
        let base = before.merged(column).and_then(|merged| merged.base.as_deref());
        let (Some((_, newest)), Some(base), Some(life)) = (unseen, base, before.life(column))
        else {
            return Vec::new();
        };
        let lost = life.lost(base, self.stamp, part).into_iter();
        let lost = lost.filter(|(by, _)| *by == self.stamp || !self.knew(*by));
        let told = lost.map(|(loser, text)| Conflict {
            column: Some(column),
            rule: Rule::DocumentKey,
            winner: if loser == self.stamp { newest } else { self.stamp },
            loser,
            lost: LostValue::Value(Value::Text(text.into())),
        });
        told.collect()
    }

    fn lost_to_this_delete(
        &self,
        def: &TableDef,
        before: &RowClock,
        lost: &LostValue,
        conflicts: &mut Vec<Conflict>,
    ) {
        for column in def.cell_columns() {
            if let Some(loser) = before.cell(column).filter(|loser| !self.knew(*loser)) {
                let (rule, winner, lost) = (Rule::DeleteWins, self.stamp, lost.clone());
                conflicts.push(Conflict { column: Some(column), rule, winner, loser, lost });
            }
        }
    }
}

/// Where a cell's due value is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// In the transaction that wrote it.
    Logged(TxnId),
    /// In the transaction that wrote it, and what was done to it since.
    Merged(TxnId, State),
    /// A merged column's value.
    Value(String),
}

/// What a row must show by its clock alone, for repairing it: `None` when it must not be there,
/// otherwise where each cell's value is. Cells older than every stamp are absent.
pub fn visible(def: &TableDef, clock: &RowClock, present: bool) -> Option<Vec<(ColumnId, Due)>> {
    let due = |column| {
        let birth = clock.cell(column).map(|stamp| stamp.txn);
        let due = match (clock.life(column), clock.value(column), birth) {
            // What it was born with may be in no log.
            (Some(_), Some(value), _) | (None, Some(value), None) => Due::Value(value),
            (Some(life), None, Some(txn)) => Due::Merged(txn, life.clone()),
            (None, _, Some(txn)) => Due::Logged(txn),
            (_, _, None) => return None,
        };
        Some((column, due))
    };
    clock.is_live(present).then(|| def.cell_columns().filter_map(due).collect())
}

impl Due {
    /// The transaction whose content is needed.
    pub fn txn(&self) -> Option<TxnId> {
        match self {
            Self::Logged(txn) | Self::Merged(txn, _) => Some(*txn),
            Self::Value(_) => None,
        }
    }
}
