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

/// A row before and after a transaction, without its key columns.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Image {
    /// `None` when the row did not exist.
    pub before: Option<BTreeMap<ColumnId, Value>>,
    /// `None` when it does not exist any more.
    pub after: Option<BTreeMap<ColumnId, Value>>,
    /// It was deleted and inserted again on the way.
    pub replaced: bool,
}

impl Image {
    /// The net change; `None` when nothing changed.
    pub(super) fn into_change(self, row: RowId) -> Option<RowChange> {
        let cells = |after: BTreeMap<ColumnId, Value>, keep: &dyn Fn(&ColumnId, &Value) -> bool| {
            after
                .into_iter()
                .filter(|(column, value)| keep(column, value))
                .map(|(column, value)| Cell { column, value })
                .collect::<Vec<_>>()
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
        let split = |row: Vec<Value>| split_row(relation, *table, columns, row);
        let (old, new) = (event.old.map(split), event.new.map(split));
        match (old, new) {
            (Some((old_row, old)), Some((new_row, new))) if old_row == new_row => {
                let image = images
                    .entry(new_row)
                    .or_insert_with(|| Image { before: Some(old), ..Image::default() });
                image.after = Some(new);
            }
            (old, new) => {
                if let Some((row, values)) = old {
                    let image = images
                        .entry(row)
                        .or_insert_with(|| Image { before: Some(values), ..Image::default() });
                    image.after = None;
                }
                if let Some((row, values)) = new {
                    let image = images.entry(row).or_default();
                    image.replaced |= image.before.is_some();
                    image.after = Some(values);
                }
            }
        }
    }
    images
}

fn split_row(
    relation: &Relation,
    table: TableId,
    columns: &[ColumnId],
    row: Vec<Value>,
) -> (RowId, BTreeMap<ColumnId, Value>) {
    let key: Vec<Value> = relation
        .key
        .iter()
        .map(|place| row.get(usize::from(place.0)).cloned().unwrap_or(Value::Null))
        .collect();
    let cells = row
        .into_iter()
        .enumerate()
        .filter(|(place, _)| !relation.is_key(ColumnId(*place as u16)))
        .filter_map(|(place, value)| Some((*columns.get(place)?, value)))
        .collect();
    (RowId { table, key: RowKey::new(&key) }, cells)
}
