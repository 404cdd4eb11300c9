//! From row events to the net effect of a transaction: one image per row, before and after.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::change::{Cell, RowChange, RowOp};
use crate::dictionary::{Dictionary, RowId};
use crate::schema::{ColumnId, TableDef, TableId};
use crate::value::{RowKey, Value};

/// A table as the stream describes it at this moment: columns in stream order.
pub type Relation = TableDef;

/// One row event of the WAL with full images, values in the relation's column order.
#[derive(Clone, Debug)]
pub struct RowEvent {
    /// The table. Events of one description share one allocation.
    pub relation: Arc<Relation>,
    /// The row before; `None` for an insert.
    pub old: Option<Vec<Value>>,
    /// The row after; `None` for a delete.
    pub new: Option<Vec<Value>>,
}

/// A row's values by column; its key is not among them.
#[derive(Clone, Debug)]
pub struct Columns {
    /// In the order of the stream, the key included.
    row: Vec<Value>,
    places: Arc<Places>,
}

/// Where a relation's columns stand in its rows, in column order, those of the key left out.
type Places = Vec<(ColumnId, usize)>;

fn places(relation: &Relation, columns: &[ColumnId]) -> Places {
    let numbered = columns.iter().copied().take(relation.columns.len()).enumerate();
    let cells = numbered.filter(|(place, _)| !relation.is_key(ColumnId(*place as u16)));
    let mut places: Places = cells.map(|(place, column)| (column, place)).collect();
    places.sort_unstable();
    places
}

impl Columns {
    /// The value of a column.
    pub fn get(&self, column: ColumnId) -> Option<&Value> {
        let found = self.places.binary_search_by_key(&column, |(column, _)| *column).ok()?;
        self.row.get(self.places[found].1)
    }

    /// All of them, in column order.
    pub fn iter(&self) -> impl Iterator<Item = (ColumnId, &Value)> {
        self.places.iter().filter_map(|(column, place)| Some((*column, self.row.get(*place)?)))
    }

    /// Those that are to be kept, as cells.
    fn into_cells(mut self, keep: impl Fn(ColumnId, &Value) -> bool) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (column, place) in self.places.iter() {
            if let Some(value) = self.row.get_mut(*place)
                && keep(*column, value)
            {
                let value = std::mem::replace(value, Value::Null);
                cells.push(Cell { column: *column, value });
            }
        }
        cells
    }
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
    /// The net change; `None` when nothing changed.
    pub(super) fn into_change(self, row: RowId) -> Option<RowChange> {
        let (op, cells) = match (self.before, self.after) {
            (None, None) => return None,
            (Some(_), None) => (RowOp::Delete, Vec::new()),
            (Some(before), Some(after)) if !self.replaced => {
                let cells = after.into_cells(|column, value| before.get(column) != Some(value));
                if cells.is_empty() {
                    return None;
                }
                (RowOp::Update, cells)
            }
            (_, Some(after)) => (RowOp::Insert, after.into_cells(|_, _| true)),
        };
        Some(RowChange { table: row.table, key: row.key, op, cells })
    }
}

/// The numbers of the relations of a batch, by their allocation: a batch has many transactions and
/// few relations, and learning one takes longer than netting a row.
#[derive(Default)]
pub(super) struct Numbering(Vec<(Arc<Relation>, TableId, Arc<Places>)>);

impl Numbering {
    fn of(&mut self, dictionary: &mut Dictionary, seen: &Arc<Relation>) -> (TableId, &Arc<Places>) {
        let known = self.0.iter().position(|(relation, ..)| Arc::ptr_eq(relation, seen));
        let at = known.unwrap_or_else(|| {
            let (table, columns) = dictionary.learn(seen);
            // An older description of the table must be learned again to count again.
            self.0.retain(|(relation, ..)| relation.name != seen.name);
            let places = Arc::new(places(seen, &columns));
            self.0.push((Arc::clone(seen), table, places));
            self.0.len() - 1
        });
        let (_, table, places) = &self.0[at];
        (*table, places)
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
        let (table, places) = numbering.of(dictionary, relation);
        let row_of = |values: &[Value]| row_id(relation, table, values);
        let columns_of = |row| Columns { row, places: Arc::clone(places) };
        let before = |values| Image { before: Some(columns_of(values)), ..Image::default() };
        match (event.old, event.new) {
            (Some(old), Some(new)) if has_same_key(relation, &old, &new) => {
                let image = images.entry(row_of(&new)).or_insert_with(|| before(old));
                image.after = Some(columns_of(new));
            }
            (old, new) => {
                if let Some(values) = old {
                    let image = images.entry(row_of(&values)).or_insert_with(|| before(values));
                    image.after = None;
                }
                if let Some(values) = new {
                    let image = images.entry(row_of(&values)).or_default();
                    image.replaced |= image.before.is_some();
                    image.after = Some(columns_of(values));
                }
            }
        }
    }
    images
}

fn has_same_key(relation: &Relation, old: &[Value], new: &[Value]) -> bool {
    relation.key.iter().map(|id| usize::from(id.0)).all(|place| old.get(place) == new.get(place))
}

fn row_id(relation: &Relation, table: TableId, row: &[Value]) -> RowId {
    let key = relation.key.iter().map(|id| row.get(usize::from(id.0)).unwrap_or(&Value::Null));
    RowId { table, key: RowKey::of(key) }
}
