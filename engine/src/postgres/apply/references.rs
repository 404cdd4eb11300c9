//! Who references whom, as the open transaction sees it.

use std::collections::BTreeSet;
use std::sync::Arc;

use landfall_protocol::dictionary::RowId;
use landfall_protocol::schema::{ColumnId, TableId};
use landfall_protocol::value::{RowKey, Value, ValueKind};

use super::{ApplyConnection, ApplyError, Arrays, key_values, runs};
use crate::postgres::foreign_keys::ForeignKeyAccess;

/// A row that references another, and that other's key where the foreign key tells it.
pub type Missing = (RowId, Option<RowId>);

/// The row that the defaults of a foreign key's columns reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultParent {
    /// A default is NULL, which references nobody.
    Nobody,
    /// This row, which is there.
    Row(RowId),
    /// One that is not there.
    Missing,
}

impl ApplyConnection {
    /// The foreign keys between replicated tables.
    pub fn foreign_keys(&self) -> Arc<[ForeignKeyAccess]> {
        Arc::clone(&self.foreign_keys)
    }

    /// The rows that reference these parents by a foreign key, each with its parent. Those that go with
    /// it or are written are locked.
    ///
    /// # Errors
    /// [`ApplyError::Busy`] when somebody holds one of them.
    pub async fn children(
        &mut self,
        key: &ForeignKeyAccess,
        parents: &[&RowId],
    ) -> Result<Vec<(RowId, RowId)>, ApplyError> {
        let statement = self.prepare(&key.children_sql).await?;
        let found = self.client.query(&statement, &arrays(parents)?.params()).await;
        let kinds = self.kinds_of(key.child);
        let child = |row: &tokio_postgres::Row| {
            let parent = parents[row.get::<_, i64>(0) as usize - 1].clone();
            (row_of(key.child, &kinds, &row.get::<_, Vec<Option<String>>>(1)), parent)
        };
        Ok(found.map_err(ApplyError::classify)?.iter().map(child).collect())
    }

    /// Those of the children that reference a parent which is not there. The parents of the others
    /// are locked.
    ///
    /// # Errors
    /// [`ApplyError::Busy`] when somebody holds one of them.
    pub async fn without_parents(
        &mut self,
        key: &ForeignKeyAccess,
        children: &[&RowId],
    ) -> Result<Vec<Missing>, ApplyError> {
        let arrays = arrays(children)?;
        let statement = self.prepare(&key.found_sql).await?;
        let found = self.client.query(&statement, &arrays.params()).await;
        let found = found.map_err(ApplyError::classify)?;
        let found: BTreeSet<i64> = found.iter().map(|row| row.get(0)).collect();
        if found.len() == children.len() {
            return Ok(Vec::new());
        }
        let statement = self.prepare(&key.sought_sql).await?;
        let sought = self.client.query(&statement, &arrays.params()).await;
        let kinds = self.kinds_of(key.parent);
        let missing = |row: &tokio_postgres::Row| {
            let place = row.get::<_, i64>(0);
            if found.contains(&place) {
                return None;
            }
            let named = row.get::<_, Vec<Option<String>>>(1);
            let parent = key.names_key.then(|| row_of(key.parent, &kinds, &named));
            Some((children[place as usize - 1].clone(), parent))
        };
        Ok(sought.map_err(ApplyError::classify)?.iter().filter_map(missing).collect())
    }

    /// What the columns of a foreign key are set to when its parent goes.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn replacement(
        &mut self,
        key: &ForeignKeyAccess,
    ) -> Result<Vec<(ColumnId, Value)>, ApplyError> {
        let texts = key.set.iter().map(|(_, value)| format!("({value})::text"));
        let sql = format!("SELECT {}", texts.collect::<Vec<_>>().join(", "));
        let row = self.client.query_one(&sql, &[]).await.map_err(ApplyError::classify)?;
        let table = self.table(key.child)?;
        let values = key.set.iter().enumerate().map(|(place, (column, _))| {
            let text: Option<String> = row.get(place);
            let kind = table.kind(*column);
            (*column, text.map_or(Value::Null, |text| Value::from_text(kind, &text)))
        });
        Ok(values.collect())
    }

    /// Where the defaults of a foreign key's columns lead; a row that is there is locked.
    ///
    /// # Errors
    /// [`ApplyError::Busy`] when somebody holds it.
    pub async fn default_parent(
        &mut self,
        key: &ForeignKeyAccess,
    ) -> Result<DefaultParent, ApplyError> {
        let Some(sql) = &key.default_sql else { return Ok(DefaultParent::Nobody) };
        let statement = self.prepare(sql).await?;
        let row = self.client.query_one(&statement, &[]).await.map_err(ApplyError::classify)?;
        let found: Option<Vec<Option<String>>> = row.get(1);
        Ok(match (row.get(0), found) {
            (true, _) => DefaultParent::Nobody,
            (false, None) => DefaultParent::Missing,
            (false, Some(texts)) => {
                DefaultParent::Row(row_of(key.parent, &self.kinds_of(key.parent), &texts))
            }
        })
    }

    /// Writes rows as they are, so that the log shows them; says whether all of them were met.
    ///
    /// # Errors
    /// [`ApplyError::Data`] when PostgreSQL refuses that.
    pub async fn touch(&mut self, rows: &[&RowId]) -> Result<bool, ApplyError> {
        let mut met = true;
        for run in runs(rows, |row| row.table) {
            let sql = self.table(run[0].table)?.touch_sql();
            let statement = self.prepare(&sql).await?;
            let written = self.client.execute(&statement, &arrays(run)?.params()).await;
            met &= written.map_err(ApplyError::classify)? == run.len() as u64;
        }
        Ok(met)
    }

    pub(super) fn kinds_of(&self, table: TableId) -> Vec<ValueKind> {
        self.tables.get(&table).map(|table| table.key_kinds()).unwrap_or_default()
    }
}

pub(super) fn arrays(rows: &[&RowId]) -> Result<Arrays, ApplyError> {
    let mut arrays = Arrays::default();
    for row in rows {
        arrays.push(key_values(row)?.iter());
    }
    Ok(arrays)
}

pub(super) fn row_of(table: TableId, kinds: &[ValueKind], texts: &[Option<String>]) -> RowId {
    let value = |(kind, text): (&ValueKind, &Option<String>)| match text {
        Some(text) => Value::from_text(*kind, text),
        None => Value::Null,
    };
    let values: Vec<Value> = kinds.iter().zip(texts).map(value).collect();
    RowId { table, key: RowKey::new(&values) }
}
