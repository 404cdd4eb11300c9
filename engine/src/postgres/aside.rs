//! Rows that are put aside, as operators read them: `landfall.aside`.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// How much of the list there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its lines.
    pub rows: u64,
    /// Age of the oldest, in milliseconds.
    pub oldest_ms_ago: Option<u64>,
}

/// A row that is put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `schema.table`.
    pub table: String,
    /// Its key, for humans.
    pub row_key: String,
    /// Why it is not shown.
    pub reason: String,
    /// How long it has been aside, in milliseconds.
    pub aside_ms_ago: u64,
}

const AGE: &str = "greatest(0, extract(epoch FROM clock_timestamp() - aside_at) * 1000)::int8";

/// Counts the rows that are put aside. A database that is not prepared for it has none.
///
/// # Errors
/// The query failed.
pub async fn count(client: &Client) -> Result<Listed, tokio_postgres::Error> {
    let sql = format!("SELECT count(*), max({AGE}) FROM landfall.aside");
    let row = match client.query_one(&sql, &[]).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            return Ok(Listed::default());
        }
        answer => answer?,
    };
    let oldest: Option<i64> = row.get(1);
    let rows = row.get::<_, i64>(0).cast_unsigned();
    Ok(Listed { rows, oldest_ms_ago: oldest.map(i64::cast_unsigned) })
}

/// The rows that are put aside, the oldest first: of one table, or of all; `most` at most.
///
/// # Errors
/// The query failed.
pub async fn list(
    client: &Client,
    table: Option<&str>,
    most: usize,
) -> Result<Vec<Line>, tokio_postgres::Error> {
    let sql = format!(
        "SELECT table_schema || '.' || table_name, row_key, reason, {AGE} FROM landfall.aside \
         WHERE $1::text IS NULL OR table_schema || '.' || table_name = $1 \
         ORDER BY aside_at, 1, key LIMIT $2"
    );
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let found = match client.query(&sql, &[&table, &most]).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Vec::new(),
        answer => answer?,
    };
    let line = |row: &tokio_postgres::Row| Line {
        table: row.get(0),
        row_key: row.get(1),
        reason: row.get(2),
        aside_ms_ago: row.get::<_, i64>(3).cast_unsigned(),
    };
    Ok(found.iter().map(line).collect())
}
