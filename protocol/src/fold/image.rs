//! From row events to the net effect of a transaction: one image per row, before and after.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;

use crate::change::{Cell, RowChange, RowOp};
use crate::dictionary::{Dictionary, RowId};
use crate::fold::emission::{Emission, Remedy};
use crate::merged::Kind;
use crate::schema::rules::TableRules;
use crate::schema::{ColumnId, TableDef, TableId};
use crate::value::{RowKey, Value};

/// A table as the stream describes it at this moment: columns in stream order.
pub type Relation = TableDef;

/// One row event of the WAL.
#[derive(Clone, Debug)]
pub struct RowEvent {
    /// The table. Events of one description share one allocation.
    pub relation: Arc<Relation>,
    /// The row before; `None` for an insert.
    pub old: Option<Row>,
    /// The row after; `None` for a delete.
    pub new: Option<Row>,
}

/// Values of a row, by their place in the relation's columns. The key is always among them. What a
/// delete took away, and what an update left as it was, may be missing: the latter before and after
/// alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row(Columns);

impl Row {
    /// A row of which every value is known, in the order of the relation's columns.
    pub fn whole(values: impl IntoIterator<Item = Value>) -> Self {
        let places = (0..=u16::MAX).map(ColumnId);
        Self(Columns(places.zip(values).collect()))
    }

    /// A row of which these values are known, in the order of their places.
    pub fn of(values: Vec<(ColumnId, Value)>) -> Self {
        Self(Columns(values))
    }

    /// The value in this place, if it is known.
    pub fn get(&self, place: ColumnId) -> Option<&Value> {
        self.0.get(place)
    }

    /// What is known, in the order of the places.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ColumnId, &Value)> {
        self.0.iter()
    }

    /// Becomes the row as it is after a later update, which says `newer` of it.
    pub fn update(&mut self, newer: Self) {
        self.0.update(newer.0);
    }

    /// Learns from the `old` row of a later update what the earlier ones did not touch.
    pub fn recall(&mut self, old: Self) {
        self.0.recall(old.0);
    }
}

/// Values by column, in column order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns(Vec<(ColumnId, Value)>);

impl Columns {
    /// Of a row; its key is not among them.
    fn of(row: Row, numbers: &Numbers) -> Self {
        let Self(mut values) = row.0;
        values.retain_mut(|(column, _)| match numbers.get(usize::from(column.0)) {
            Some(Some(number)) => {
                *column = *number;
                true
            }
            _ => false,
        });
        // The database may have the columns in another order than they became known in.
        if !values.is_sorted_by_key(|(column, _)| *column) {
            values.sort_unstable_by_key(|(column, _)| *column);
        }
        Self(values)
    }

    fn place(&self, column: ColumnId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&column, |(column, _)| *column)
    }

    /// The value of a column.
    pub fn get(&self, column: ColumnId) -> Option<&Value> {
        self.place(column).ok().map(|place| &self.0[place].1)
    }

    /// All of them, in column order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ColumnId, &Value)> {
        self.0.iter().map(|(column, value)| (*column, value))
    }

    fn update(&mut self, newer: Self) {
        for (column, value) in newer.0 {
            match self.place(column) {
                Ok(place) => self.0[place].1 = value,
                Err(place) => self.0.insert(place, (column, value)),
            }
        }
    }

    fn recall(&mut self, old: Self) {
        for (column, value) in old.0 {
            if let Err(place) = self.place(column) {
                self.0.insert(place, (column, value));
            }
        }
    }

    /// Those that are to be kept, as cells.
    fn into_cells(self, keep: impl Fn(ColumnId, &Value) -> bool) -> Vec<Cell> {
        let kept = self.0.into_iter().filter(|(column, value)| keep(*column, value));
        kept.map(|(column, value)| Cell { column, value }).collect()
    }
}

/// The numbers of a relation's columns, by place; those of the key have none.
type Numbers = Vec<Option<ColumnId>>;

fn numbers(relation: &Relation, columns: &[ColumnId]) -> Numbers {
    let numbered = columns.iter().take(relation.columns.len()).enumerate();
    let is_cell = |place| !relation.is_key(ColumnId(place as u16));
    numbered.map(|(place, column)| is_cell(place).then_some(*column)).collect()
}

/// A row before and after a transaction, without its key columns.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// `None` when the row did not exist.
    pub before: Option<Columns>,
    /// `None` when it does not exist any more.
    pub after: Option<Columns>,
    /// It was deleted and inserted again on the way.
    pub replaced: bool,
}

impl Image {
    /// Takes a further update of the row.
    fn update(&mut self, old: Columns, new: Columns) {
        match &mut self.before {
            Some(before) if !self.replaced => before.recall(old),
            _ => {}
        }
        match &mut self.after {
            Some(after) => after.update(new),
            None => self.after = Some(new),
        }
    }

    /// Takes the row away.
    fn delete(&mut self, old: Columns) {
        if let Some(before) = self.before.as_mut().filter(|_| !self.replaced) {
            before.recall(old);
        }
        self.after = None;
    }

    /// The net change; `None` when nothing changed. Of columns that are written together all count
    /// as changed when one is.
    pub(super) fn into_change(self, row: RowId, rules: Option<&TableRules>) -> Option<OwnChange> {
        let mut merged = Vec::new();
        let (op, cells) = match (self.before, self.after) {
            (None, None) => return None,
            (Some(before), None) => {
                let keeps = rules.is_some_and(TableRules::keeps_deleted);
                (RowOp::Delete, before.into_cells(|_, _| keeps))
            }
            (Some(before), Some(after)) if !self.replaced => {
                let is_new = |column, value: &Value| before.get(column) != Some(value);
                let written = rules.map(|rules| rewritten(rules, &after, is_new));
                let written = written.unwrap_or_default();
                let cells = after
                    .into_cells(|column, value| is_new(column, value) || written.contains(&column));
                if cells.is_empty() {
                    return None;
                }
                merged.extend(rules.into_iter().flat_map(|rules| changes(rules, &before, &cells)));
                (RowOp::Update, cells)
            }
            (_, Some(after)) => (RowOp::Insert, after.into_cells(|_, _| true)),
        };
        let is_tally = |cell: &Cell| rules.is_some_and(|rules| rules.is_tally(cell.column));
        let adds_up = op == RowOp::Insert && cells.iter().any(is_tally);
        let change = RowChange { table: row.table, key: row.key, op, cells };
        Some(OwnChange { change, merged, adds_up })
    }

    /// What this site says of a row of which the transaction shows what others said.
    pub(super) fn into_remedy(self, emission: Emission, rules: Option<&TableRules>) -> OwnChange {
        let Emission { row, remedy } = emission;
        let op = remedy.op();
        let cells = match remedy {
            Remedy::Revive | Remedy::Return => {
                let shown = self.after.or(self.before).unwrap_or_default();
                shown.into_cells(|_, _| true)
            }
            Remedy::ReviveAside | Remedy::Quarantine => {
                self.before.unwrap_or_default().into_cells(|_, _| true)
            }
            Remedy::Delete => {
                let keeps = rules.is_some_and(TableRules::keeps_deleted);
                self.before.unwrap_or_default().into_cells(|_, _| keeps)
            }
            Remedy::Update(columns) => {
                let after = self.after.unwrap_or_default();
                let is_new = |column, _: &Value| columns.contains(&column);
                let written = rules.map(|rules| rewritten(rules, &after, is_new));
                let written = written.unwrap_or_default();
                after.into_cells(|column, value| is_new(column, value) || written.contains(&column))
            }
        };
        let change = RowChange { table: row.table, key: row.key, op, cells };
        OwnChange { change, merged: Vec::new(), adds_up: false }
    }
}

/// An own change that is not stamped yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnChange {
    /// Merged columns have their new values here, and a row that goes or stays all that it had.
    pub(super) change: RowChange,
    /// The merged columns among its cells.
    pub(super) merged: Vec<MergedChange>,
    /// Whether it is an insert that may add up with others of its row.
    pub(super) adds_up: bool,
}

/// A change of a merged column from one value to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MergedChange {
    pub(super) column: ColumnId,
    pub(super) kind: Kind,
    pub(super) before: Box<str>,
    pub(super) after: Box<str>,
}

/// The changes of merged columns. What was or became NULL, or too long to be here, is a value like any
/// other, with which a new life begins.
fn changes<'a>(
    rules: &'a TableRules,
    before: &'a Columns,
    cells: &'a [Cell],
) -> impl Iterator<Item = MergedChange> + 'a {
    cells.iter().filter_map(|Cell { column, value }| {
        let kind = rules.column(column).kind()?;
        let before = before.get(*column)?.whole_text()?.into();
        Some(MergedChange { column: *column, kind, before, after: value.whole_text()?.into() })
    })
}

/// The columns of all groups of which one is new.
fn rewritten(
    rules: &TableRules,
    after: &Columns,
    is_new: impl Fn(ColumnId, &Value) -> bool,
) -> BTreeSet<ColumnId> {
    let touched = |group: &&BTreeSet<ColumnId>| {
        let mut values = group.iter().filter_map(|column| Some((*column, after.get(*column)?)));
        values.any(|(column, value)| is_new(column, value))
    };
    #[cfg(feature = "simulation")]
    if crate::planted::active("loose-groups") {
        return BTreeSet::new();
    }
    rules.groups.iter().filter(touched).flatten().copied().collect()
}

/// The numbers of the relations of a batch, by their allocation: a batch has many transactions and
/// few relations, and learning one takes longer than netting a row.
#[derive(Default)]
pub(super) struct Numbering(Vec<(Arc<Relation>, TableId, Numbers)>);

impl Numbering {
    fn of(&mut self, dictionary: &mut Dictionary, seen: &Arc<Relation>) -> (TableId, &Numbers) {
        let known = self.0.iter().position(|(relation, ..)| Arc::ptr_eq(relation, seen));
        let at = known.unwrap_or_else(|| {
            let (table, columns) = dictionary.learn(seen);
            // An older description of the table must be learned again to count again.
            self.0.retain(|(relation, ..)| relation.name != seen.name);
            self.0.push((Arc::clone(seen), table, numbers(seen, &columns)));
            self.0.len() - 1
        });
        let (_, table, numbers) = &self.0[at];
        (*table, numbers)
    }
}

/// Nets a transaction's events. A changed key is a delete and an insert.
pub(super) fn net(
    dictionary: &mut Dictionary,
    numbering: &mut Numbering,
    events: Vec<RowEvent>,
) -> BTreeMap<RowId, Image> {
    let mut images: BTreeMap<RowId, Image> = BTreeMap::new();
    for event in events {
        let relation = &event.relation;
        let (table, numbers) = numbering.of(dictionary, relation);
        let row_of = |row: &Row| row_id(relation, table, row);
        let columns_of = |row| Some(Columns::of(row, numbers));
        match (event.old, event.new) {
            (Some(old), Some(new)) if has_same_key(relation, &old, &new) => {
                match images.entry(row_of(&new)) {
                    Entry::Vacant(place) => {
                        let (before, after) = (columns_of(old), columns_of(new));
                        place.insert(Image { before, after, replaced: false });
                    }
                    Entry::Occupied(place) => {
                        place
                            .into_mut()
                            .update(Columns::of(old, numbers), Columns::of(new, numbers));
                    }
                }
            }
            (old, new) => {
                if let Some(row) = old {
                    match images.entry(row_of(&row)) {
                        Entry::Vacant(place) => {
                            place.insert(Image { before: columns_of(row), ..Image::default() });
                        }
                        Entry::Occupied(place) => {
                            place.into_mut().delete(Columns::of(row, numbers))
                        }
                    }
                }
                if let Some(row) = new {
                    let image = images.entry(row_of(&row)).or_default();
                    image.replaced |= image.before.is_some();
                    image.after = columns_of(row);
                }
            }
        }
    }
    images
}

fn has_same_key(relation: &Relation, old: &Row, new: &Row) -> bool {
    relation.key.iter().all(|place| old.get(*place) == new.get(*place))
}

fn row_id(relation: &Relation, table: TableId, row: &Row) -> RowId {
    let key = relation.key.iter().map(|place| row.get(*place).unwrap_or(&Value::Null));
    RowId { table, key: RowKey::of(key) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::change::Cell;
    use crate::schema::{ColumnDef, SetId, TableName};

    fn relation() -> Arc<Relation> {
        // Known in another order than they stand in the stream.
        let column = |name: &str| ColumnDef { name: name.into(), type_name: "bigint".into() };
        Arc::new(Relation {
            name: TableName::new("public", "t"),
            set: SetId(1),
            columns: ["b", "id", "a", "c"].map(column).to_vec(),
            key: vec![ColumnId(1)],
            rules: TableRules::default(),
        })
    }

    fn row([a, b, c]: [i64; 3]) -> Row {
        Row::whole([b, 7, a, c].map(Value::Int))
    }

    fn dictionary() -> Dictionary {
        let mut dictionary = Dictionary::default();
        let mut def = Relation::clone(&relation());
        def.columns = ["id", "a", "b", "c"]
            .iter()
            .map(|name| ColumnDef { name: (*name).into(), type_name: "bigint".into() })
            .collect();
        def.key = vec![ColumnId(0)];
        dictionary.learn(&def);
        dictionary
    }

    /// Leaves out what an update did not change, and what a delete took away.
    fn sparse(mut old: Option<Row>, mut new: Option<Row>) -> (Option<Row>, Option<Row>) {
        if let (Some(Row(old)), new) = (&mut old, &mut new) {
            let before = old.clone();
            let after = new.clone().map_or_else(|| Columns(Vec::new()), |Row(after)| after);
            let is_key = |column| column == ColumnId(1);
            old.0.retain(|(column, value)| {
                is_key(*column) || after.get(*column).is_some_and(|after| after != value)
            });
            if let Some(Row(new)) = new {
                new.0.retain(|(column, value)| {
                    is_key(*column) || before.get(*column) != Some(value)
                });
            }
        }
        (old, new)
    }

    #[test]
    fn who_writes_one_column_of_a_group_writes_all() {
        let rules = TableRules {
            groups: [[ColumnId(1), ColumnId(3)].into()].into(),
            ..TableRules::default()
        };
        let cells = |before, after| {
            let (before, after) = (row(before), row(after));
            let events =
                vec![RowEvent { relation: relation(), old: Some(before), new: Some(after) }];
            let images = net(&mut dictionary(), &mut Numbering::default(), events);
            let change =
                images.into_iter().find_map(|(row, image)| image.into_change(row, Some(&rules)));
            change.map(|own| own.change.cells.iter().map(|cell| cell.column.0).collect::<Vec<_>>())
        };
        assert_eq!(cells([1, 2, 3], [9, 2, 3]), Some(vec![1, 3]));
        assert_eq!(cells([1, 2, 3], [1, 9, 3]), Some(vec![2]));
        assert_eq!(cells([1, 2, 3], [1, 9, 9]), Some(vec![1, 2, 3]));
        assert_eq!(cells([1, 2, 3], [1, 2, 3]), None);
    }

    proptest! {
        /// What events leave out makes no difference to the net change, which says what is
        /// different in the end.
        #[test]
        fn events_that_leave_out_the_unchanged_net_to_the_same(
            first in any::<Option<[bool; 3]>>(),
            steps in proptest::collection::vec(any::<Option<[bool; 3]>>(), 1..8),
        ) {
            let shown = |step: &Option<[bool; 3]>| step.map(|row| row.map(i64::from));
            let (mut whole, mut part) = (Vec::new(), Vec::new());
            let mut before = shown(&first);
            let mut replaced = false;
            for after in steps.iter().map(shown) {
                if before.is_none() && after.is_none() {
                    continue;
                }
                replaced |= first.is_some() && before.is_none();
                let relation = relation();
                let (old, new) = (before.map(row), after.map(row));
                whole.push(RowEvent { relation: Arc::clone(&relation), old: old.clone(), new: new.clone() });
                let (old, new) = sparse(old, new);
                part.push(RowEvent { relation, old, new });
                before = after;
            }
            let net_of = |events| {
                let images = net(&mut dictionary(), &mut Numbering::default(), events);
                images.into_iter().find_map(|(row, image)| image.into_change(row, None))
            };
            let (whole, part) = (net_of(whole), net_of(part));
            prop_assert_eq!(&whole, &part);
            let cells = |keep: &dyn Fn(usize) -> bool| {
                let cells = before.into_iter().flatten().enumerate().filter(|(at, _)| keep(*at));
                cells.map(|(at, value)| Cell { column: ColumnId(at as u16 + 1), value: Value::Int(value) }).collect()
            };
            let expected: Option<(RowOp, Vec<Cell>)> = match (shown(&first), before) {
                (None, None) => None,
                (Some(_), None) => Some((RowOp::Delete, Vec::new())),
                (Some(old), Some(new)) if !replaced => {
                    Some((RowOp::Update, cells(&|at| old[at] != new[at]))).filter(|_| old != new)
                }
                (_, Some(_)) => Some((RowOp::Insert, cells(&|_| true))),
            };
            prop_assert_eq!(part.map(|own| (own.change.op, own.change.cells)), expected);
        }
    }
}
