//! The apply plan: what a run of foreign transactions of one origin means for the visible rows.
//!
//! The shell locks the rows of [`Group::rows`], loads their folded clocks, and asks
//! [`RowWork::decide`] for each row. Deciding joins the changes into a copy of the clock; the
//! clock itself is only moved by the fold, when the apply transaction comes back through the WAL.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::change::RowOp;
use crate::clock::Stamp;
use crate::counter::Decimal;
use crate::dictionary::{Dictionary, LocalChange, RowId, Unshowable};
use crate::fold::{ForeignTransaction, ParkedChange};
use crate::id::{Origin, Seq, TxnId};
use crate::lattice::{Counter, RowClock};
use crate::schema::{ColumnDef, ColumnId, TableDef, TableId};
use crate::value::{Value, ValueKind};
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
    /// From the log likewise, and what was added to it since.
    Counted(TxnId, Sum),
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
    /// The column was set as a whole by somebody who did not know of what was added.
    CounterReset,
}

impl Rule {
    /// The name in `landfall.conflict`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastWriterWins => "last_writer_wins",
            Self::DeleteWins => "delete_wins",
            Self::InsertAfterDelete => "insert_after_delete",
            Self::CounterClamped => "counter_clamped",
            Self::CounterReset => "counter_reset",
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

    /// Whether it adds to a counter, so that deciding needs to know what the row shows.
    pub fn adds(&self) -> bool {
        let mut cells = self.steps.iter().flat_map(|step| &step.change.cells);
        cells.any(|cell| matches!(cell.value, Value::Share(_)))
    }

    /// The counters it adds to.
    fn added(&self) -> BTreeSet<ColumnId> {
        let cells = self.steps.iter().flat_map(|step| &step.change.cells);
        let shares = cells.filter(|cell| matches!(cell.value, Value::Share(_)));
        shares.map(|cell| cell.column).collect()
    }

    /// Decides what must become of the row, given its folded clock and whether PostgreSQL shows
    /// it, and which concurrent writes give way. `hidden` says that the row is known to be parked,
    /// so that its absence is no contradiction. `shown` has the cells of a row that
    /// [`RowWork::adds`] to a counter, as text.
    pub fn decide(
        &self,
        def: &TableDef,
        clock: RowClock,
        (present, shown): (bool, Option<&ShownCells>),
        hidden: bool,
    ) -> (Verdict<'_>, Vec<Conflict>) {
        if clock.existence().is_some_and(|existence| existence.live != present) && !hidden {
            return (Verdict::Retry, Vec::new());
        }
        let mut counters = self.added();
        let counts = !counters.is_empty() || clock.counters().next().is_some();
        let first = counts.then(|| clock.clone());
        let mut joined = clock;
        let mut values = Values::default();
        let mut conflicts = Vec::new();
        for step in &self.steps {
            let before = step.may_conflict(&joined).then(|| joined.clone());
            let outcome = joined.join(step.change.op, step.stamp, &step.change.cells);
            if let Some(before) = before {
                step.conflicts(def, &before, &outcome, present, &mut conflicts);
            }
            for cell in &step.change.cells {
                let is_share = matches!(cell.value, Value::Share(_));
                if outcome.won.contains(&cell.column) && !is_share {
                    values.put(cell.column, step.stamp, Cow::Borrowed(&cell.value));
                }
            }
        }
        // A value counts only while nothing later in the group, a delete included, overwrote it.
        values.0.retain(|(column, stamp, _)| joined.cell(*column) == Some(*stamp));
        let clears = present && self.steps.iter().any(|step| step.clears(def, &joined));
        let is_live = joined.is_live(present);
        let appears = is_live && (clears || !present);
        let counts = first.map(|first| {
            let others = joined.counters().map(|counter| counter.column);
            counters.extend(others.filter(|column| appears || values.get(*column).is_some()));
            let counts = Counts { def, before: &first, joined: &joined, shown, appears };
            counts.decide(counters, &mut values, &mut conflicts)
        });
        let counts = counts.unwrap_or_default();
        // What gave way to a delete stands again when the group also brings the row back.
        let stands = |conflict: &Conflict| {
            let cell = conflict.column.and_then(|column| joined.cell(column));
            is_live && cell == Some(conflict.loser)
        };
        conflicts.retain(|conflict| !stands(conflict));
        let verdict = match (present, is_live) {
            (false, false) => Verdict::Keep,
            (true, false) => Verdict::Delete,
            (true, true) if clears => Verdict::Replace(all_cells(def, &joined, values, counts)),
            (true, true) => changed_cells(&joined, values, counts),
            (false, true) => Verdict::Insert(all_cells(def, &joined, values, counts)),
        };
        (verdict, conflicts)
    }
}

/// What a row shows, as text.
pub type ShownCells = BTreeMap<ColumnId, Option<String>>;

/// Counters of a row that a group adds to, or writes.
struct Counts<'a> {
    def: &'a TableDef,
    before: &'a RowClock,
    joined: &'a RowClock,
    shown: Option<&'a ShownCells>,
    /// Whether every cell is to be written, whatever is shown.
    appears: bool,
}

/// What was added to counters of which only the log knows with what they were born.
type Sums = BTreeMap<ColumnId, Sum>;

/// What was added to a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// In all since its birth.
    pub added: Decimal,
    /// What the counter comes to by what is shown, for the case that it was born with a default,
    /// which no log has.
    pub unlogged: Option<Decimal>,
}

impl Counts<'_> {
    /// Puts what the counters must show among the values; gives the others' sums.
    fn decide(
        &self,
        counters: BTreeSet<ColumnId>,
        values: &mut Values<'_>,
        conflicts: &mut Vec<Conflict>,
    ) -> Sums {
        let mut sums = Sums::new();
        for column in counters {
            let shown = self.shown.and_then(|shown| shown.get(&column)?.as_deref());
            let Some(count) = self.count(column, values, shown) else {
                let (added, birth) = (self.joined.added(column), self.joined.cell(column));
                let is_old = !self.appears && self.before.cell(column) == birth;
                let before = shown.filter(|_| is_old).and_then(Decimal::parse);
                let before = before.map(|shown| shown.minus(&self.before.added(column)));
                let unlogged = before.map(|base| base.plus(&added));
                sums.insert(column, Sum { added, unlogged });
                continue;
            };
            let due = self.def.rules.shown(&column, count.clone());
            let stamps = self.joined.counter(column).into_iter().flat_map(Counter::stamps);
            if !due.is_same(&count)
                && let Some(stamp) = stamps.max()
            {
                let (winner, loser) = (stamp, stamp);
                let lost = LostValue::Value(Value::Text(count.to_string().into()));
                let (column, rule) = (Some(column), Rule::CounterClamped);
                conflicts.push(Conflict { column, rule, winner, loser, lost });
            }
            let is_shown = shown.and_then(Decimal::parse).is_some_and(|shown| shown.is_same(&due));
            if is_shown && !self.appears {
                values.drop(column);
                continue;
            }
            let value = shown_count(self.def, column, count);
            if let Some(birth) = self.joined.cell(column).or(self.joined.newest()) {
                values.put(column, birth, Cow::Owned(value));
            }
        }
        sums
    }

    /// The true value of a counter; `None` when the log must be asked what it was born with.
    fn count(&self, column: ColumnId, values: &Values<'_>, shown: Option<&str>) -> Option<Decimal> {
        if let Some(count) = self.joined.count(column) {
            return Some(count);
        }
        let birth = self.joined.cell(column);
        let base = match birth {
            Some(_) if self.before.cell(column) != birth => {
                Decimal::parse(&values.get(column)?.text()?)?
            }
            Some(_) => return None,
            // Nobody logged what stood there before there was a log.
            None => shown.and_then(Decimal::parse)?.minus(&self.before.added(column)),
        };
        Some(base.plus(&self.joined.added(column)))
    }
}

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

fn changed_cells<'w>(joined: &RowClock, values: Values<'w>, sums: Sums) -> Verdict<'w> {
    let counted = sums.into_iter().filter_map(|(column, sum)| {
        let birth = joined.cell(column)?.txn;
        Some((column, Source::Counted(birth, sum)))
    });
    let mut cells: Vec<_> = counted.collect();
    cells.extend(values.0.into_iter().map(|(column, _, value)| (column, Source::Value(value))));
    cells.sort_unstable_by_key(|(column, _)| *column);
    if cells.is_empty() { Verdict::Keep } else { Verdict::Update(cells) }
}

fn all_cells<'w>(
    def: &TableDef,
    joined: &RowClock,
    mut values: Values<'w>,
    mut sums: Sums,
) -> Vec<(ColumnId, Source<'w>)> {
    let cells = def.cell_columns().filter_map(|column| {
        let source = match (values.take(column), sums.remove(&column)) {
            (Some(value), _) => Source::Value(value),
            (None, None) => Source::Logged(joined.cell(column)?.txn),
            (None, Some(sum)) => Source::Counted(joined.cell(column)?.txn, sum),
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
        let deleted = clock.existence().is_some_and(|existence| !existence.live);
        deleted || clock.stamps().any(|stamp| stamp > self.stamp || !self.knew(stamp))
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
        for cell in &self.change.cells {
            let lost_to = outcome.lost.iter().find(|(column, _)| *column == cell.column);
            let known = before.cell(cell.column);
            // In this order: whatever the stamps of the cells say, it is the delete that hides them.
            let (rule, winner, loser, lost) = if let Some(deleted) = outcome.existence_lost
                && !was_live
            {
                (Rule::DeleteWins, deleted, self.stamp, LostValue::Value(cell.value.clone()))
            } else if let (Some((_, winner)), Value::Share(_)) = (lost_to, &cell.value) {
                if self.knew(*winner) {
                    continue;
                }
                (Rule::CounterReset, *winner, self.stamp, LostValue::Value(cell.value.clone()))
            } else if let Value::Share(_) = cell.value {
                continue;
            } else if let Some((_, winner)) = lost_to {
                (Rule::LastWriterWins, *winner, self.stamp, LostValue::Value(cell.value.clone()))
            } else if let Some(loser) = known
                && was_live
                && loser != self.stamp
                && !self.knew(loser)
            {
                (Rule::LastWriterWins, self.stamp, loser, lost_value.clone())
            } else {
                continue;
            };
            conflicts.push(Conflict { column: Some(cell.column), rule, winner, loser, lost });
        }
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
            RowOp::Insert | RowOp::Update => {}
        }
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
    /// In the transaction that wrote it, and what was added since.
    Counted(TxnId, Decimal),
    /// A counter's value.
    Value(Decimal),
}

/// What a row must show by its clock alone, for repairing it: `None` when it must not be there,
/// otherwise where each cell's value is. Cells older than every stamp are absent.
pub fn visible(def: &TableDef, clock: &RowClock, present: bool) -> Option<Vec<(ColumnId, Due)>> {
    let due = |column| {
        let birth = clock.cell(column).map(|stamp| stamp.txn);
        let due = match (clock.counter(column), clock.count(column), birth) {
            (None, _, Some(txn)) => Due::Logged(txn),
            (Some(_), Some(count), _) => Due::Value(count),
            (Some(_), None, Some(txn)) => Due::Counted(txn, clock.added(column)),
            (_, None, None) | (None, Some(_), None) => return None,
        };
        Some((column, due))
    };
    clock.is_live(present).then(|| def.cell_columns().filter_map(due).collect())
}

impl Due {
    /// The transaction whose content is needed.
    pub fn txn(&self) -> Option<TxnId> {
        match self {
            Self::Logged(txn) | Self::Counted(txn, _) => Some(*txn),
            Self::Value(_) => None,
        }
    }
}

/// What a counter shows that was born with `base` and to which `sum` was added since; as it is
/// where the base is no number.
pub fn counted(def: &TableDef, column: ColumnId, base: Value, sum: &Decimal) -> Value {
    match base.text().and_then(|text| Decimal::parse(&text)) {
        Some(base) => shown_count(def, column, base.plus(sum)),
        None => base,
    }
}

/// What a counter of this true value shows.
pub fn shown_count(def: &TableDef, column: ColumnId, count: Decimal) -> Value {
    let kind = def.column_def(column).map_or(ValueKind::Text, ColumnDef::kind);
    Value::from_text(kind, &def.rules.shown(&column, count).to_string())
}
