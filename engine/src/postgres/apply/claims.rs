//! Rows that cannot stand beside each other, as the open transaction sees them.

use std::borrow::Cow;
use std::sync::Arc;

use landfall_protocol::dictionary::RowId;
use landfall_protocol::schema::{ColumnId, TableId};
use landfall_protocol::value::Value;
use tokio_postgres::types::ToSql;

use super::references::{arrays, row_of};
use super::{ApplyConnection, ApplyError, hash_text, key_values};
use crate::postgres::access::Written;
use crate::postgres::claims::ClaimAccess;

/// A row as it is to be.
#[derive(Debug, Clone)]
pub struct Target<'w> {
    /// The row as it was, as one text; `None` for one that is new.
    pub base: Option<String>,
    /// Cells that are new. Of a row without a base the others get their defaults.
    pub cells: Vec<(ColumnId, Cow<'w, Value>)>,
}

impl ApplyConnection {
    /// The indexes by which rows of a table clash.
    pub fn claims(&self, table: TableId) -> Arc<[ClaimAccess]> {
        self.claims.get(&table).map(Arc::clone).unwrap_or_default()
    }

    /// The other rows that hold what a row is to have by this index; they are locked.
    ///
    /// # Errors
    /// [`ApplyError::Busy`] when somebody holds one of them.
    pub async fn holders(
        &mut self,
        claim: &ClaimAccess,
        row: &RowId,
        target: &Target<'_>,
    ) -> Result<Vec<RowId>, ApplyError> {
        let key = key_values(row)?;
        let needed = claim.needed(&key, &target.cells);
        let given: Vec<bool> = needed.iter().map(Option::is_some).collect();
        let sql = claim.holders_sql(target.base.is_some(), &given);
        let statement = self.prepare(&sql).await?;
        let texts = texts(std::iter::empty(), target.base.as_deref(), needed.into_iter().flatten());
        let found = self.client.query(&statement, &params(&texts)).await;
        let kinds = self.kinds_of(row.table);
        let found = found.map_err(ApplyError::classify)?;
        let found = found.iter().map(|found| row_of(row.table, &kinds, &found.get::<_, Vec<_>>(0)));
        Ok(found.filter(|holder| holder != row).collect())
    }

    /// A row as one text, by which [`ApplyConnection::place`] can put it back; `None` if it is not
    /// there.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn row_text(&mut self, row: &RowId) -> Result<Option<String>, ApplyError> {
        let sql = format!("SELECT (t.*)::text FROM {}", self.table(row.table)?.rows_sql());
        let statement = self.prepare(&sql).await?;
        let found = self.client.query_opt(&statement, &arrays(&[row])?.params()).await;
        Ok(found.map_err(ApplyError::classify)?.map(|row| row.get(0)))
    }

    /// Inserts a row that was there before, with new cells; says whether its key was free.
    ///
    /// # Errors
    /// [`ApplyError::Data`] when PostgreSQL refuses it.
    pub async fn place(
        &mut self,
        row: &RowId,
        base: &str,
        cells: &[(ColumnId, Cow<'_, Value>)],
    ) -> Result<bool, ApplyError> {
        let table = self.table(row.table)?;
        let here: Vec<_> = cells.iter().filter(|(column, _)| table.has(*column)).collect();
        let written: Vec<Written> = here.iter().map(|cell| super::written(cell)).collect();
        let statement = self.prepare(&table.place_sql(&written)).await?;
        let values = here.iter().map(|(_, value)| value.as_ref());
        let texts = texts(key_values(row)?.iter(), Some(base), values);
        let placed = self.client.execute(&statement, &params(&texts)).await;
        Ok(placed.map_err(ApplyError::classify)? == 1)
    }
}

fn texts<'v>(
    key: impl Iterator<Item = &'v Value>,
    base: Option<&str>,
    cells: impl Iterator<Item = &'v Value>,
) -> Vec<Option<String>> {
    let text = |value: &Value| match value {
        Value::Long(long) => Some(hash_text(long)),
        value => value.text().map(Cow::into_owned),
    };
    let base = base.map(|base| Some(base.to_owned()));
    key.map(text).chain(base).chain(cells.map(text)).collect()
}

fn params(texts: &[Option<String>]) -> Vec<&(dyn ToSql + Sync)> {
    texts.iter().map(|text| text as &(dyn ToSql + Sync)).collect()
}
