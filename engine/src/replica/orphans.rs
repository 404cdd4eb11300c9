//! A row whose parent is parked waits with it: replication writes without checking foreign keys, and
//! would show a child that points nowhere.
//!
//! Only parents that are named by their primary key are found, and only while they are not here at
//! all; other orphans are a matter of rules for foreign keys.

use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::dictionary::RowId;
use landfall_protocol::schema::TableDef;
use landfall_protocol::value::{RowKey, Value};

use crate::postgres::apply::RowWrite;
use crate::postgres::catalog::ForeignKey;
use crate::replica::{Replica, ReplicaError, key_text};
use crate::store::ParkedPlace;

/// Entries read at a time.
const PAGE: usize = 1_000;

/// Rows that are parked and may not be here, as of a count of the store.
#[derive(Debug, Default)]
pub(super) struct HiddenRows {
    as_of: Option<u64>,
    rows: BTreeSet<RowId>,
}

impl Replica {
    /// Those of the rows, as they were written in the open transaction, that reference a row that
    /// is parked or `refused` and is not here, each with the reason.
    pub(super) async fn orphans(
        &mut self,
        writes: &[(&RowId, RowWrite<'_>)],
        refused: &BTreeMap<RowId, String>,
    ) -> Result<BTreeMap<RowId, String>, ReplicaError> {
        if !self.find_hidden().await? && refused.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut children: BTreeMap<RowId, Vec<&RowId>> = BTreeMap::new();
        for (row, write) in writes.iter().filter(|(row, _)| !refused.contains_key(*row)) {
            for parent in self.parents_of(row, write) {
                if self.hidden.rows.contains(&parent) || refused.contains_key(&parent) {
                    children.entry(parent).or_default().push(row);
                }
            }
        }
        if children.is_empty() {
            return Ok(BTreeMap::new());
        }
        let shown = self.apply.shown(&children.keys().collect::<Vec<_>>()).await?;
        let mut orphans = BTreeMap::new();
        for (parent, rows) in children.iter().filter(|(parent, _)| !shown.contains_key(*parent)) {
            let table = self.dictionary.table(parent.table).map(|def| def.name.to_string());
            let table = table.unwrap_or_default();
            let reason = format!("its parent {} of table {table} is parked", key_text(parent));
            orphans.extend(rows.iter().map(|row| ((*row).clone(), reason.clone())));
        }
        Ok(orphans)
    }

    /// Whether there is any parked row that may not be here.
    pub(super) async fn find_hidden(&mut self) -> Result<bool, ReplicaError> {
        // Counted before it is read: what moves meanwhile is read again.
        let now = self.store.parked_moves();
        if self.hidden.as_of == Some(now) {
            return Ok(!self.hidden.rows.is_empty());
        }
        let mut rows = BTreeSet::new();
        let parked = self.store.watch().borrow().fates.parked;
        let mut from = (parked > 0).then(ParkedPlace::default);
        while let Some(place) = from {
            let page = self.store.parked(place, PAGE).await?;
            let hides = page.entries.into_iter().filter(|entry| entry.obstacle.hides_row());
            rows.extend(hides.filter_map(|entry| entry.row));
            from = page.next;
        }
        self.hidden = HiddenRows { as_of: Some(now), rows };
        Ok(!self.hidden.rows.is_empty())
    }

    /// The rows that this one references once it is written, by their primary keys.
    fn parents_of(&self, row: &RowId, write: &RowWrite<'_>) -> Vec<RowId> {
        let Some(def) = self.dictionary.table(row.table) else { return Vec::new() };
        let local = self.parking.catalog().and_then(|catalog| catalog.table(&def.name));
        let keys = local.map(|local| local.foreign_keys.as_slice()).unwrap_or_default();
        keys.iter().filter_map(|key| self.parent_of(def, row, write, key)).collect()
    }

    fn parent_of(
        &self,
        def: &TableDef,
        row: &RowId,
        write: &RowWrite<'_>,
        key: &ForeignKey,
    ) -> Option<RowId> {
        let table = self.dictionary.id_of(&key.parent)?;
        let parent = self.dictionary.table(table)?;
        if parent.key.len() != key.parent_columns.len() {
            return None;
        }
        let own_key = row.key.values().ok()?;
        let value = |name: &str| -> Option<Value> {
            let column = def.column(name)?;
            if let Some(place) = def.key.iter().position(|key| *key == column) {
                return own_key.get(place).cloned();
            }
            let cells = write.cells().iter();
            cells.filter(|(id, _)| *id == column).map(|(_, value)| value.as_ref().clone()).next()
        };
        let values = parent.key.iter().map(|column| {
            let name = &parent.column_def(*column)?.name;
            let place = key.parent_columns.iter().position(|named| named == name)?;
            value(&key.columns[place]).filter(|value| *value != Value::Null)
        });
        Some(RowId { table, key: RowKey::new(&values.collect::<Option<Vec<_>>>()?) })
    }
}
