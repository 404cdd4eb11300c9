//! The row a conflict is about, as this database has it.

use std::collections::BTreeMap;

use landfall_protocol::schema::ColumnId;
use tokio_postgres::Transaction;
use tokio_postgres::types::ToSql;

use super::super::{Entry, HistoryError};
use super::UndoError;
use super::raw::Raw;
use crate::postgres::catalog::{Catalog, LocalTable};
use crate::postgres::sql::{TEXT_SETTINGS, quote_identifier, quote_table};

/// A row by its key.
pub(super) struct Target<'c> {
    local: &'c LocalTable,
    /// `t."id" = $1::bigint AND …`, with the parameters below.
    place: String,
    key: Vec<Raw>,
    /// The key columns, with the casts of their parameters.
    key_columns: Vec<(String, String)>,
}

/// What a cell shows.
pub(super) struct ShownCell {
    /// As text.
    pub(super) text: Option<String>,
    /// Whether that is the first, or the second value it was compared with.
    pub(super) is_winner: bool,
    pub(super) is_loser: bool,
}

impl<'c> Target<'c> {
    /// The row of a line.
    pub(super) async fn find(
        transaction: &Transaction<'_>,
        catalog: &'c Catalog,
        line: &Entry,
    ) -> Result<Self, UndoError> {
        let not_here = || UndoError::NotHere(format!("table {}", line.table));
        let named = |table: &&LocalTable| table.def.name.to_string() == line.table;
        let local = catalog.tables.iter().find(named).ok_or_else(not_here)?;
        let (mut place, mut key_columns, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (at, key) in local.key_columns.iter().enumerate() {
            let cast = cast(local, &key.name).ok_or_else(not_here)?;
            let value = line.key.get(&key.name).ok_or_else(not_here)?;
            let name = quote_identifier(&key.name);
            place.push(format!("t.{name} {} ${}::{cast}", key.equals, at + 1));
            key_columns.push((name, cast.to_owned()));
            values.push((Some(value.as_str()), cast));
        }
        if line.key.len() != key_columns.len() {
            return Err(not_here());
        }
        let key = read_values(transaction, &values).await?;
        Ok(Self { local, place: place.join(" AND "), key, key_columns })
    }

    /// Names of the columns that are not its key.
    pub(super) fn columns(&self) -> impl Iterator<Item = &'c str> {
        let def = &self.local.def;
        def.cell_columns().filter_map(|id| Some(def.column_def(id)?.name.as_str()))
    }

    /// Whether the row is there.
    pub(super) async fn is_there(&self, transaction: &Transaction<'_>) -> Result<bool, UndoError> {
        self.has_row(transaction, "").await
    }

    /// Keeps the row as it is until the transaction ends; says whether it is there.
    pub(super) async fn lock(&self, transaction: &Transaction<'_>) -> Result<bool, UndoError> {
        self.has_row(transaction, " FOR UPDATE").await
    }

    async fn has_row(&self, transaction: &Transaction<'_>, lock: &str) -> Result<bool, UndoError> {
        let table = quote_table(&self.local.def.name);
        let sql = format!("SELECT 1 FROM {table} t WHERE {}{lock}", self.place);
        let found = transaction.query_opt(&sql, &self.params(&[])).await.map_err(UndoError::of)?;
        Ok(found.is_some())
    }

    /// Why the row of this key, as the list of rows that are put aside has it, is there.
    pub(super) async fn why_aside(
        &self,
        transaction: &Transaction<'_>,
        row_key: &str,
    ) -> Result<Option<String>, UndoError> {
        let sql = "SELECT reason FROM landfall.aside \
                   WHERE table_schema = $1 AND table_name = $2 AND row_key = $3 LIMIT 1";
        let name = &self.local.def.name;
        let found = transaction.query_opt(sql, &[&name.schema, &name.name, &row_key]).await;
        let found = found.map_err(HistoryError::of("read landfall.aside"))?;
        Ok(found.map(|row| row.get(0)))
    }

    /// What a cell shows, and which of the two values that is.
    pub(super) async fn shows(
        &self,
        transaction: &Transaction<'_>,
        column: &str,
        sides: [Option<&str>; 2],
    ) -> Result<Option<ShownCell>, UndoError> {
        let cast = self.cast(column)?;
        let (table, name) = (quote_table(&self.local.def.name), quote_identifier(column));
        let side =
            |place| format!("t.{name}::text IS NOT DISTINCT FROM (${place}::text::{cast})::text");
        let first = self.key.len() + 1;
        let sql = format!(
            "SELECT t.{name}::text, {}, {} FROM {table} t WHERE {}",
            side(first),
            side(first + 1),
            self.place
        );
        let before = pin(transaction).await?;
        let [winner, loser] = &sides;
        let found = transaction.query_opt(&sql, &self.params(&[winner, loser])).await;
        let found = found.map_err(UndoError::of)?;
        unpin(transaction, &before).await?;
        Ok(found.map(|row| ShownCell {
            text: row.get(0),
            is_winner: row.get(1),
            is_loser: row.get(2),
        }))
    }

    /// Writes a cell.
    pub(super) async fn update(
        &self,
        transaction: &Transaction<'_>,
        column: &str,
        text: Option<&str>,
    ) -> Result<(), UndoError> {
        let cast = self.cast(column)?;
        let value = read_values(transaction, &[(text, cast)]).await?;
        let (table, name) = (quote_table(&self.local.def.name), quote_identifier(column));
        let place = self.key.len() + 1;
        let sql = format!("UPDATE {table} t SET {name} = ${place}::{cast} WHERE {}", self.place);
        let params = self.params(&[&value[0]]);
        let written = transaction.execute(&sql, &params).await.map_err(UndoError::of)?;
        expect_one(written)
    }

    /// Inserts the row with these cells; the others take their default.
    pub(super) async fn insert(
        &self,
        transaction: &Transaction<'_>,
        cells: &BTreeMap<String, Option<String>>,
    ) -> Result<(), UndoError> {
        let mut values = Vec::with_capacity(cells.len());
        for (name, text) in cells {
            values.push((text.as_deref(), self.cast(name)?));
        }
        let raw = read_values(transaction, &values).await?;
        let quoted = cells.keys().map(|name| quote_identifier(name));
        let columns = quoted.zip(values.iter().map(|(_, cast)| (*cast).to_owned()));
        let all: Vec<(String, String)> = self.key_columns.iter().cloned().chain(columns).collect();
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        let places = all.iter().enumerate();
        let places: Vec<_> = places.map(|(at, (_, cast))| format!("${}::{cast}", at + 1)).collect();
        let sql = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
            quote_table(&self.local.def.name),
            names.join(", "),
            places.join(", ")
        );
        let raw: Vec<&(dyn ToSql + Sync)> = raw.iter().map(|raw| raw as _).collect();
        let written = transaction.execute(&sql, &self.params(&raw)).await.map_err(UndoError::of)?;
        expect_one(written)
    }

    fn cast(&self, column: &str) -> Result<&'c str, UndoError> {
        let not_here = || UndoError::NotHere(format!("column {column} of {}", self.local.def.name));
        cast(self.local, column).ok_or_else(not_here)
    }

    fn params<'p>(&'p self, more: &[&'p (dyn ToSql + Sync)]) -> Vec<&'p (dyn ToSql + Sync)> {
        let key = self.key.iter().map(|raw| raw as &(dyn ToSql + Sync));
        key.chain(more.iter().copied()).collect()
    }
}

fn cast<'c>(local: &'c LocalTable, column: &str) -> Option<&'c str> {
    let ColumnId(place) = local.def.column(column)?;
    Some(&local.columns.get(usize::from(place))?.cast)
}

/// A trigger may keep a row from being written.
fn expect_one(written: u64) -> Result<(), UndoError> {
    match written {
        1 => Ok(()),
        _ => {
            Err(UndoError::Refused("a trigger or rule kept the row from being written".to_owned()))
        }
    }
}

/// What texts mean as values of these types, under the settings with which they were printed.
async fn read_values(
    transaction: &Transaction<'_>,
    values: &[(Option<&str>, &str)],
) -> Result<Vec<Raw>, UndoError> {
    let columns = values.iter().enumerate();
    let columns: Vec<_> =
        columns.map(|(at, (_, cast))| format!("${}::text::{cast}", at + 1)).collect();
    let sql = format!("SELECT {}", columns.join(", "));
    let params: Vec<&(dyn ToSql + Sync)> = values.iter().map(|(text, _)| text as _).collect();
    let before = pin(transaction).await?;
    let row = transaction.query_one(&sql, &params).await.map_err(UndoError::of)?;
    unpin(transaction, &before).await?;
    Ok((0..values.len()).map(|at| row.get(at)).collect())
}

/// Pins every setting that the text of a value depends on; returns what they were.
async fn pin(transaction: &Transaction<'_>) -> Result<Vec<String>, UndoError> {
    let names: Vec<&str> = TEXT_SETTINGS.iter().map(|(name, _)| *name).collect();
    let values: Vec<String> = TEXT_SETTINGS.iter().map(|(_, value)| (*value).to_owned()).collect();
    let sql =
        "SELECT current_setting(n) FROM unnest($1::text[]) WITH ORDINALITY AS x(n, i) ORDER BY i";
    let rows = transaction.query(sql, &[&names]).await.map_err(failed)?;
    let before = rows.iter().map(|row| row.get(0)).collect();
    unpin(transaction, &values).await?;
    Ok(before)
}

/// Sets them for the rest of the transaction.
async fn unpin(transaction: &Transaction<'_>, values: &[String]) -> Result<(), UndoError> {
    let names: Vec<&str> = TEXT_SETTINGS.iter().map(|(name, _)| *name).collect();
    let sql = "SELECT count(set_config(n, v, true)) FROM unnest($1::text[], $2::text[]) AS x(n, v)";
    transaction.query(sql, &[&names, &values]).await.map_err(failed)?;
    Ok(())
}

fn failed(error: tokio_postgres::Error) -> UndoError {
    HistoryError::of("set up the session")(error).into()
}
