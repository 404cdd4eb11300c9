//! Lines as operators read them.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_postgres::{GenericClient, Row};

use super::HistoryError;

/// Which lines are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Of this table, with its schema or without.
    pub table: Option<String>,
    /// Recorded at or after this time, as PostgreSQL reads it.
    pub since: Option<String>,
    /// With this site on either side.
    pub site: Option<u16>,
    /// Undone or not.
    pub undone: Option<bool>,
    /// The newest so many.
    pub limit: u32,
}

/// A line. Field names are an interface: scripts read `conflicts list --json`. Times are UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number at this site.
    pub id: i64,
    /// When this site wrote it.
    pub recorded_at: String,
    /// `schema.table`.
    pub table: String,
    /// Key values for humans.
    pub row_key: String,
    /// Key columns with their values; empty in lines of older versions.
    pub key: BTreeMap<String, String>,
    /// The column, if one cell was at stake.
    pub column: Option<String>,
    /// The rule that decided.
    pub rule: String,
    /// Who stays.
    pub winner: EntrySide,
    /// Who gave way.
    pub loser: EntrySide,
    /// The row without its key as it stood before it gave way to a delete, if it is known.
    pub loser_row: Option<BTreeMap<String, Option<String>>>,
    /// Who undid it, if somebody did.
    pub undone: Option<Undone>,
}

/// One side of a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntrySide {
    /// The site's number.
    pub site: i32,
    /// Its name when the line was written.
    pub name: String,
    /// The site in its life.
    pub origin: String,
    /// The transaction in that site's log.
    pub seq: i64,
    /// Its clock reading, `milliseconds.counter`; unknown in lines of older versions.
    pub hlc: Option<String>,
    /// The time of that reading.
    pub at: String,
    /// On whose behalf, if the application said so.
    pub actor: Option<String>,
    /// `value`, `long`, `insert`, `delete` or `unknown`; absent in lines of older versions.
    pub is: Option<String>,
    /// The value it wrote, if it wrote one; `None` is NULL.
    pub value: Option<String>,
}

/// That a line was undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Undone {
    /// When.
    pub at: String,
    /// By whom.
    pub by: String,
    /// By which transaction of this database (`pg_current_xact_id`).
    pub xid: String,
}

const SELECT: &str = r#"
SELECT id, to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    table_name, row_key, key_columns, key_values, column_name, rule, loser_row::text,
    to_char(undone_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), undone_by,
    undone_xid::text,
    coalesce(winner_site, split_part(winner_origin, '.', 1)::int4),
    coalesce(winner_name, 'site ' || split_part(winner_origin, '.', 1)),
    winner_origin, winner_seq, (winner_hlc >> 16)::text || '.' || (winner_hlc & 65535)::text,
    to_char(winner_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    winner_actor, winner_is, winner_value,
    coalesce(loser_site, split_part(loser_origin, '.', 1)::int4),
    coalesce(loser_name, 'site ' || split_part(loser_origin, '.', 1)),
    loser_origin, loser_seq, (loser_hlc >> 16)::text || '.' || (loser_hlc & 65535)::text,
    to_char(loser_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    loser_actor, loser_is, loser_value
FROM landfall.conflict"#;

/// Where the winner's and the loser's columns begin in [`SELECT`].
const WINNER: usize = 12;
const LOSER: usize = 21;

/// The newest lines that fit, newest first.
///
/// # Errors
/// The query failed; `since` is no time.
pub async fn list(
    client: &impl GenericClient,
    filter: &Filter,
) -> Result<Vec<Entry>, HistoryError> {
    let sql = format!(
        "{SELECT} WHERE ($1::text IS NULL OR table_name = $1
        OR right(table_name, length($1) + 1) = '.' || $1)
    AND ($2::text IS NULL OR recorded_at >= $2::text::timestamptz)
    AND ($3::int4 IS NULL OR split_part(winner_origin, '.', 1) = $3::text
        OR split_part(loser_origin, '.', 1) = $3::text)
    AND ($4::bool IS NULL OR (undone_at IS NOT NULL) = $4)
ORDER BY id DESC LIMIT $5"
    );
    let (site, limit) = (filter.site.map(i32::from), i64::from(filter.limit));
    let Filter { table, since, undone, .. } = filter;
    let rows = client.query(&sql, &[table, since, &site, undone, &limit]).await;
    let rows = rows.map_err(HistoryError::of("read landfall.conflict"))?;
    rows.iter().map(entry).collect()
}

/// One line.
///
/// # Errors
/// The query failed.
pub async fn find(client: &impl GenericClient, id: i64) -> Result<Option<Entry>, HistoryError> {
    let sql = format!("{SELECT} WHERE id = $1");
    let row = client.query_opt(&sql, &[&id]).await;
    row.map_err(HistoryError::of("read landfall.conflict"))?.as_ref().map(entry).transpose()
}

/// The lines that can only be undone together with this one, itself among them, locked until the
/// transaction ends: of a delete all that gave way to it in the same row.
pub(super) async fn lock_together(
    client: &impl GenericClient,
    id: i64,
) -> Result<Vec<Entry>, HistoryError> {
    let sql = format!(
        "{SELECT} WHERE id = $1 OR id IN (SELECT o.id FROM landfall.conflict o
    JOIN landfall.conflict l ON l.id = $1 AND l.winner_is = 'delete' AND o.winner_is = 'delete'
        AND o.table_name = l.table_name AND o.key_values = l.key_values
        AND o.winner_origin = l.winner_origin AND o.winner_seq = l.winner_seq
        AND o.undone_at IS NULL)
ORDER BY landfall.conflict.id FOR UPDATE"
    );
    let rows = client.query(&sql, &[&id]).await;
    rows.map_err(HistoryError::of("lock the conflict"))?.iter().map(entry).collect()
}

fn entry(row: &Row) -> Result<Entry, HistoryError> {
    let id = row.get(0);
    let names: Option<Vec<String>> = row.get(4);
    let values: Option<Vec<String>> = row.get(5);
    let loser_row: Option<String> = row.get(8);
    let loser_row = loser_row.map(|text| serde_json::from_str(&text)).transpose();
    let undone_at: Option<String> = row.get(9);
    let undone = undone_at.map(|at| Undone {
        at,
        by: row.get::<_, Option<String>>(10).unwrap_or_default(),
        xid: row.get::<_, Option<String>>(11).unwrap_or_default(),
    });
    Ok(Entry {
        id,
        recorded_at: row.get(1),
        table: row.get(2),
        row_key: row.get(3),
        key: names.unwrap_or_default().into_iter().zip(values.unwrap_or_default()).collect(),
        column: row.get(6),
        rule: row.get(7),
        winner: side(row, WINNER),
        loser: side(row, LOSER),
        loser_row: loser_row.map_err(|_| HistoryError::Odd(id))?,
        undone,
    })
}

fn side(row: &Row, first: usize) -> EntrySide {
    EntrySide {
        site: row.get(first),
        name: row.get(first + 1),
        origin: row.get(first + 2),
        seq: row.get(first + 3),
        hlc: row.get(first + 4),
        at: row.get(first + 5),
        actor: row.get(first + 6),
        is: row.get(first + 7),
        value: row.get(first + 8),
    }
}
