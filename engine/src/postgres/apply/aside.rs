//! Rows that are put aside, as `landfall.aside` lists them.

use landfall_protocol::schema::TableName;
use landfall_protocol::value::RowKey;
use tokio_postgres::types::ToSql;

use super::{ApplyConnection, ApplyError};

/// A line of `landfall.aside`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsideLine {
    /// The table.
    pub table: TableName,
    /// The row.
    pub key: RowKey,
    /// Its key, for humans.
    pub row_key: String,
    /// Why it is not shown.
    pub reason: String,
    /// Its cells by their names, where they are at hand.
    pub cells: Option<Vec<(String, Option<String>)>>,
}

/// Who found out that a row cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// This site, which knows what stands in its way.
    Us,
    /// Another one; what we have found out ourselves says more.
    Another,
}

const WRITE: &str = "\
INSERT INTO landfall.aside (table_schema, table_name, key, row_key, reason, cells) \
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb) \
ON CONFLICT (table_schema, table_name, key) DO UPDATE \
SET reason = CASE WHEN $7 THEN excluded.reason ELSE aside.reason END, \
cells = coalesce(excluded.cells, aside.cells)";

const FREE: &str = "\
DELETE FROM landfall.aside WHERE table_schema = $1 AND table_name = $2 AND key = $3";

const LIST: &str = "\
SELECT table_schema, table_name, key FROM landfall.aside \
WHERE (table_schema, table_name, key) > ($1, $2, $3) ORDER BY 1, 2, 3 LIMIT $4";

impl ApplyConnection {
    /// Lists rows that are put aside, or says something else of them.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn write_aside(
        &mut self,
        lines: &[AsideLine],
        found_by: FoundBy,
    ) -> Result<(), ApplyError> {
        for line in lines {
            let statement = self.prepare(WRITE).await.map_err(ApplyError::of_history)?;
            let AsideLine { table, key, row_key, reason, cells } = line;
            let cells = cells.as_ref().map(|cells| {
                let cells = cells.iter().map(|(name, text)| (name.clone(), text.clone().into()));
                serde_json::Value::Object(cells.collect()).to_string()
            });
            let says_more = found_by == FoundBy::Us;
            let params: [&(dyn ToSql + Sync); 7] =
                [&table.schema, &table.name, &key.as_bytes(), row_key, reason, &cells, &says_more];
            self.client.execute(&statement, &params).await.map_err(ApplyError::classify)?;
        }
        Ok(())
    }

    /// Takes rows off the list.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn free_aside(&mut self, rows: &[(TableName, RowKey)]) -> Result<(), ApplyError> {
        for (table, key) in rows {
            let statement = self.prepare(FREE).await.map_err(ApplyError::of_history)?;
            let params: [&(dyn ToSql + Sync); 3] = [&table.schema, &table.name, &key.as_bytes()];
            self.client.execute(&statement, &params).await.map_err(ApplyError::classify)?;
        }
        Ok(())
    }

    /// The list from behind a place on, in its order.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn list_aside(
        &mut self,
        behind: &(TableName, RowKey),
        most: usize,
    ) -> Result<Vec<(TableName, RowKey)>, ApplyError> {
        let statement = self.prepare(LIST).await.map_err(ApplyError::of_history)?;
        let (table, key) = behind;
        let most = most as i64;
        let params: [&(dyn ToSql + Sync); 4] = [&table.schema, &table.name, &key.as_bytes(), &most];
        let found = self.client.query(&statement, &params).await.map_err(ApplyError::classify)?;
        let line = |row: &tokio_postgres::Row| {
            let name = |at| row.get::<_, String>(at);
            (TableName::new(name(0), name(1)), RowKey::from_bytes(row.get::<_, &[u8]>(2)))
        };
        Ok(found.iter().map(line).collect())
    }
}
