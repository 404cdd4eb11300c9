//! The net effect of a transaction on one row, as row events.

use landfall_protocol::fold::{Row, RowEvent};
use landfall_protocol::schema::ColumnId;
use landfall_protocol::value::{RowKey, Value};
use std::sync::Arc;

/// What happened to one row: mostly one event, two when it was deleted and inserted again.
#[derive(Debug, Clone, Default)]
pub(super) struct Net(Vec<RowEvent>);

impl Net {
    /// Takes the next event of the row. What is left are events that have the same net effect.
    pub(super) fn push(&mut self, next: RowEvent) {
        let Some(last) = self.0.last_mut() else {
            self.0.push(next);
            return;
        };
        let goes_on = last.new.is_some() && next.old.is_some();
        if !goes_on || !Arc::ptr_eq(&last.relation, &next.relation) {
            self.0.push(next);
            return;
        }
        if let (Some(before), Some(old)) = (&mut last.old, next.old) {
            before.recall(old);
        }
        match (&mut last.new, next.new) {
            (Some(after), Some(new)) => after.update(new),
            (after, new) => *after = new,
        }
        if last.old.is_none() && last.new.is_none() {
            self.0.pop();
        }
    }

    pub(super) fn events(&self) -> &[RowEvent] {
        &self.0
    }

    pub(super) fn into_events(self) -> Vec<RowEvent> {
        self.0
    }

    /// Whether the row is not there in the end.
    pub(super) fn is_gone(&self) -> bool {
        self.0.last().is_none_or(|last| last.new.is_none())
    }

    /// Roughly the memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(event_bytes).sum()
    }
}

/// What a value takes in its row, beside what it has on the heap.
const VALUE_BYTES: usize = size_of::<(ColumnId, Value)>();

/// Roughly the memory a row event takes.
pub(crate) fn event_bytes(event: &RowEvent) -> usize {
    let rows = event.old.iter().chain(&event.new);
    let values = rows.flat_map(Row::iter).map(|(_, value)| VALUE_BYTES + value.heap_bytes());
    size_of::<RowEvent>() + values.sum::<usize>()
}

/// A changed key is a delete and an insert.
pub(super) fn split(event: RowEvent) -> impl Iterator<Item = RowEvent> {
    let moved = match (&event.old, &event.new) {
        (Some(old), Some(new)) => {
            event.relation.key.iter().any(|column| value(old, *column) != value(new, *column))
        }
        _ => false,
    };
    if !moved {
        return [Some(event), None].into_iter().flatten();
    }
    let RowEvent { relation, old, new } = event;
    let gone = RowEvent { relation: Arc::clone(&relation), old, new: None };
    [Some(gone), Some(RowEvent { relation, old: None, new })].into_iter().flatten()
}

/// The key of the row; old and new row have the same.
pub(super) fn key_of(event: &RowEvent) -> RowKey {
    let row = event.new.as_ref().or(event.old.as_ref());
    let key = event.relation.key.iter();
    RowKey::of(key.map(|column| row.map_or(&Value::Null, |row| value(row, *column))))
}

fn value(row: &Row, column: ColumnId) -> &Value {
    row.get(column).unwrap_or(&Value::Null)
}
