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

/// A row's values by column, in column order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Columns(Vec<(ColumnId, Value)>);

impl Columns {
    /// What of a row in the relation's order is not its key, under the numbers in `columns`.
    fn split(relation: &Relation, columns: &[ColumnId], row: Vec<Value>) -> Self {
        let mut values = Vec::with_capacity(row.len());
        for (place, (value, column)) in row.into_iter().zip(columns).enumerate() {
            if !relation.is_key(ColumnId(place as u16)) {
                values.push((*column, value));
            }
        }
        if !values.is_sorted_by_key(|(column, _)| *column) {
            values.sort_by_key(|(column, _)| *column);
        }
        Self(values)
    }

    /// The value of a column.
    pub fn get(&self, column: ColumnId) -> Option<&Value> {
        let place = self.0.binary_search_by_key(&column, |(column, _)| *column).ok()?;
        Some(&self.0[place].1)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (ColumnId, &Value)> {
        self.0.iter().map(|(column, value)| (*column, value))
    }
}

/// A row before and after a transaction, without its key columns.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
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
        let cells = |after: Columns, keep: &dyn Fn(ColumnId, &Value) -> bool| {
            let kept = after.0.into_iter().filter(|(column, value)| keep(*column, value));
            kept.map(|(column, value)| Cell { column, value }).collect::<Vec<_>>()
        };
        let (op, cells) = match (self.before, self.after) {
            (None, None) => return None,
            (Some(_), None) => (RowOp::Delete, Vec::new()),
            (Some(before), Some(after)) if !self.replaced => {
                let cells = cells(after, &|column, value| before.get(column) != Some(value));
                if cells.is_empty() {
                    return None;
                }
                (RowOp::Update, cells)
            }
            (_, Some(after)) => (RowOp::Insert, cells(after, &|_, _| true)),
        };
        Some(RowChange { table: row.table, key: row.key, op, cells })
    }
}

/// Nets a transaction's events. A changed key is a delete and an insert.
pub(super) fn net(dictionary: &mut Dictionary, events: Vec<RowEvent>) -> BTreeMap<RowId, Image> {
    let mut images: BTreeMap<RowId, Image> = BTreeMap::new();
    let mut numbering: Option<(Arc<Relation>, TableId, Vec<ColumnId>)> = None;
    for event in events {
        let known =
            numbering.as_ref().is_some_and(|(relation, ..)| Arc::ptr_eq(relation, &event.relation));
        if !known {
            let (table, columns) = dictionary.learn(&event.relation);
            numbering = Some((Arc::clone(&event.relation), table, columns));
        }
        let Some((relation, table, columns)) = &numbering else { continue };
        let row_of = |values: &[Value]| row_id(relation, *table, values);
        let columns_of = |values| Columns::split(relation, columns, values);
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
