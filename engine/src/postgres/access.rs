//! How a replicated table is reached by SQL: its statements, built once from the catalog.
//!
//! Values travel as text arrays and are cast on the server to the column's type without its
//! length: a cast to `varchar(10)` would cut a long value off in silence, an assignment refuses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use landfall_protocol::schema::{ColumnId, TableDef};
use landfall_protocol::value::{INLINE_BYTES_MAX, ValueKind};

use crate::postgres::catalog::{ForeignKey, LocalTable};
use crate::postgres::sql::{quote_identifier, quote_table};

/// One column: its quoted name, the cast that gives it its type, and the form of its values.
#[derive(Debug, Clone)]
struct Column {
    name: String,
    cast: String,
    kind: ValueKind,
}

/// A column of the key, and how its values are compared: an extension's type has its own operator,
/// which may not be on the search path.
#[derive(Debug, Clone)]
struct KeyColumn {
    column: Column,
    equals: String,
}

/// A foreign key of the table, for locking the rows it points to.
#[derive(Debug, Clone)]
pub struct ParentLock {
    /// The child's columns, in the order of the statement's parameters.
    pub columns: Vec<ColumnId>,
    /// Locks the parents of the given values `FOR KEY SHARE`.
    pub sql: String,
}

/// The statements of one table.
#[derive(Debug, Clone)]
pub struct TableAccess {
    /// Quoted, qualified name.
    table: String,
    key: Vec<KeyColumn>,
    cells: BTreeMap<ColumnId, Column>,
    unique: BTreeSet<ColumnId>,
    parents: Vec<ParentLock>,
}

/// A column that a statement writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Written {
    /// Which one.
    pub column: ColumnId,
    /// Where its values are.
    pub source: ValueSource,
}

/// Where a statement finds a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueSource {
    /// In its parameter.
    Parameter,
    /// In `landfall.piece`, under the hash in its parameter.
    Pieces,
}

/// How strongly rows are locked before they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockStrength {
    /// Only cells outside every unique key change: readers of the key go on.
    NoKeyUpdate,
    /// The row may go, or a unique key changes.
    Update,
}

impl TableAccess {
    /// The statements of a table under the numbers of `def`. A column that the database does not
    /// have is left out; without a key column there is nothing to be done.
    pub fn build(def: &TableDef, local: &LocalTable) -> Option<Self> {
        let column = |id: ColumnId| {
            let column = def.column_def(id)?;
            let cast = format!("::{}", cast(local, &column.name)?);
            Some(Column { name: quote_identifier(&column.name), cast, kind: column.kind() })
        };
        let key = |id: ColumnId| {
            let name = &def.column_def(id)?.name;
            let local = local.key_columns.iter().find(|key| key.name == *name)?;
            Some(KeyColumn { column: column(id)?, equals: local.equals.clone() })
        };
        let key = def.key.iter().map(|id| key(*id)).collect::<Option<Vec<_>>>()?;
        let cells = def.cell_columns().filter_map(|id| Some((id, column(id)?))).collect();
        let unique = local.unique.iter().flat_map(|index| &index.columns);
        let unique = unique.filter_map(|name| def.column(name)).collect();
        let parents =
            local.foreign_keys.iter().filter_map(|fk| parent_lock(def, local, fk)).collect();
        Some(Self { table: quote_table(&def.name), key, cells, unique, parents })
    }

    /// Foreign keys whose parents must be locked.
    pub fn parents(&self) -> &[ParentLock] {
        &self.parents
    }

    /// Whether the database has this column.
    pub fn has(&self, column: ColumnId) -> bool {
        self.cells.contains_key(&column)
    }

    /// The lock that writing these columns takes.
    pub fn strength(
        &self,
        mut columns: impl Iterator<Item = ColumnId>,
        may_delete: bool,
    ) -> LockStrength {
        if may_delete || columns.any(|column| self.unique.contains(&column)) {
            LockStrength::Update
        } else {
            LockStrength::NoKeyUpdate
        }
    }

    /// Locks rows in the order of the key arrays; returns `(place, xmin)` of those that exist.
    pub fn lock_sql(&self, strength: LockStrength) -> String {
        let lock = match strength {
            LockStrength::NoKeyUpdate => "FOR NO KEY UPDATE",
            LockStrength::Update => "FOR UPDATE",
        };
        format!(
            "SELECT k.n, t.xmin::text::int8 FROM {} JOIN {} t ON {} ORDER BY k.n {lock} OF t",
            unnest(0, self.key.len(), "k", "k"),
            self.table,
            self.key_join("k")
        )
    }

    /// Shows the cells of rows as text, a note in place of long ones, in the order of [`TableAccess::cell_ids`]; returns
    /// `(place, text[])`.
    pub fn show_sql(&self) -> String {
        let mut cells = String::new();
        for column in self.cells.values() {
            let comma = if cells.is_empty() { "" } else { ", " };
            let text = format!("t.{}::text", column.name);
            write!(cells, "{comma}CASE WHEN octet_length({text}) > {INLINE_BYTES_MAX} THEN '(' || octet_length({text}) || ' bytes, not shown)' ELSE {text} END")
                .expect("a String takes all");
        }
        format!(
            "SELECT k.n, ARRAY[{cells}]::text[] FROM {} JOIN {} t ON {}",
            unnest(0, self.key.len(), "k", "k"),
            self.table,
            self.key_join("k")
        )
    }

    /// The cells of the table in number order.
    pub fn cell_ids(&self) -> impl Iterator<Item = ColumnId> + '_ {
        self.cells.keys().copied()
    }

    /// Inserts rows of these cells: key arrays first, then one array per cell.
    pub fn insert_sql(&self, columns: &[Written]) -> String {
        let key = self.key.iter().map(|key| (&key.column, ValueSource::Parameter));
        let all: Vec<(&Column, ValueSource)> = key.chain(self.named(columns)).collect();
        let names: Vec<&str> = all.iter().map(|(column, _)| column.name.as_str()).collect();
        let values = all.iter().enumerate();
        let values: Vec<String> = values
            .map(|(place, (column, source))| value_sql("v", "c", place, column, *source))
            .collect();
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} ORDER BY v.n \
             ON CONFLICT ({}) DO NOTHING",
            self.table,
            names.join(", "),
            values.join(", "),
            unnest(0, all.len(), "v", "c"),
            names[..self.key.len()].join(", ")
        )
    }

    /// Inserts one row that was there before, with these cells new: its key first, then the row as one
    /// text, then one text per cell.
    pub fn place_sql(&self, columns: &[Written]) -> String {
        let key = self.key.iter().map(|key| &key.column);
        let first = self.key.len() + 1;
        let cells = self.cells.iter().map(|(id, column)| {
            let place = columns.iter().position(|written| written.column == *id);
            let value = place
                .map(|at| value_sql("v", "c", first + at, column, columns[at].source))
                .unwrap_or_else(|| format!("b.{}", column.name));
            (column, value)
        });
        let key = key.map(|column| (column, format!("b.{}", column.name)));
        let (names, values): (Vec<&str>, Vec<String>) =
            key.chain(cells).map(|(column, value)| (column.name.as_str(), value)).unzip();
        let params: Vec<String> =
            (0..first + columns.len()).map(|at| format!("${}::text AS c{at}", at + 1)).collect();
        format!(
            "INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM (SELECT {}) v, \
             LATERAL (SELECT (v.c{}::{table}).*) b ON CONFLICT ({}) DO NOTHING",
            names.join(", "),
            values.join(", "),
            params.join(", "),
            self.key.len(),
            names[..self.key.len()].join(", "),
            table = self.table,
        )
    }

    /// Writes these cells: key arrays first, then one array per cell.
    pub fn update_sql(&self, columns: &[Written]) -> String {
        let mut set = String::new();
        for (place, (column, source)) in self.named(columns).enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let value = value_sql("k", "k", place + self.key.len(), column, source);
            write!(set, "{comma}{} = {value}", column.name).expect("a String takes all");
        }
        format!(
            "UPDATE {} t SET {set} FROM {} WHERE {}",
            self.table,
            unnest(0, self.key.len() + columns.len(), "k", "k"),
            self.key_join("k")
        )
    }

    /// Deletes rows by key arrays.
    pub fn delete_sql(&self) -> String {
        format!(
            "DELETE FROM {} t USING {} WHERE {}",
            self.table,
            unnest(0, self.key.len(), "k", "k"),
            self.key_join("k")
        )
    }

    /// Writes rows as they are, by key arrays. A column that is an identity could not be written.
    pub fn touch_sql(&self) -> String {
        let column = self.cells.values().next().unwrap_or(&self.key[0].column);
        let name = &column.name;
        format!(
            "UPDATE {} t SET {name} = t.{name} FROM {} WHERE {}",
            self.table,
            unnest(0, self.key.len(), "k", "k"),
            self.key_join("k")
        )
    }

    /// The form of a cell's values.
    pub fn kind(&self, column: ColumnId) -> ValueKind {
        self.cells.get(&column).map_or(ValueKind::Text, |column| column.kind)
    }

    /// The forms of the key's values.
    pub fn key_kinds(&self) -> Vec<ValueKind> {
        self.key.iter().map(|key| key.column.kind).collect()
    }

    /// Key arrays as `k`, with their places as `k.n`, for the FROM of a statement.
    pub(super) fn keys_sql(&self) -> String {
        unnest(0, self.key.len(), "k", "k")
    }

    /// The rows of key arrays, as `t` with their places as `k.n`, for the FROM of a statement.
    pub(super) fn rows_sql(&self) -> String {
        format!("{} JOIN {} t ON {}", self.keys_sql(), self.table, self.key_join("k"))
    }

    /// The key of the row `alias` as texts.
    pub(super) fn key_texts(&self, alias: &str) -> String {
        let text = |key: &KeyColumn| format!("{alias}.{}::text", key.column.name);
        self.key.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    fn named<'a>(
        &'a self,
        columns: &'a [Written],
    ) -> impl Iterator<Item = (&'a Column, ValueSource)> {
        columns
            .iter()
            .filter_map(|written| Some((self.cells.get(&written.column)?, written.source)))
    }

    fn key_join(&self, alias: &str) -> String {
        let equal = |(place, key): (usize, &KeyColumn)| {
            let Column { name, cast, .. } = &key.column;
            format!("t.{name} {} {alias}.k{place}{cast}", key.equals)
        };
        self.key.iter().enumerate().map(equal).collect::<Vec<_>>().join(" AND ")
    }
}

/// The value of a column in the row `alias`, whose fields are numbered behind `prefix`.
fn value_sql(
    alias: &str,
    prefix: &str,
    place: usize,
    column: &Column,
    source: ValueSource,
) -> String {
    let cast = &column.cast;
    match source {
        ValueSource::Parameter => format!("{alias}.{prefix}{place}{cast}"),
        ValueSource::Pieces => format!(
            "(SELECT string_agg(p.piece, '' ORDER BY p.place) FROM landfall.piece p \
             WHERE p.hash = {alias}.{prefix}{place}){cast}"
        ),
    }
}

/// `unnest($1::text[], …) WITH ORDINALITY AS alias(prefix0, …, n)`.
fn unnest(first: usize, count: usize, alias: &str, prefix: &str) -> String {
    let arrays: Vec<_> = (first + 1..=first + count).map(|n| format!("${n}::text[]")).collect();
    let names: Vec<_> = (0..count).map(|n| format!("{prefix}{n}")).collect();
    format!("unnest({}) WITH ORDINALITY AS {alias}({}, n)", arrays.join(", "), names.join(", "))
}

/// The type of a column as a cast names it.
fn cast<'a>(local: &'a LocalTable, column: &str) -> Option<&'a str> {
    let id = local.def.column(column)?;
    Some(&local.columns.get(usize::from(id.0))?.cast)
}

fn parent_lock(def: &TableDef, local: &LocalTable, fk: &ForeignKey) -> Option<ParentLock> {
    let columns = fk.columns.iter().map(|name| def.column(name)).collect::<Option<Vec<_>>>()?;
    let mut join = Vec::new();
    for (place, (column, referenced)) in fk.columns.iter().zip(&fk.parent_columns).enumerate() {
        let (referenced, cast) = (quote_identifier(referenced), cast(local, column)?);
        let equals = fk.equals.get(place)?;
        join.push(format!("p.{referenced} {equals} k.k{place}::{cast}"));
    }
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM {} JOIN {} p ON {} ORDER BY k.n FOR KEY SHARE OF p) l",
        unnest(0, fk.columns.len(), "k", "k"),
        quote_table(&fk.parent),
        join.join(" AND ")
    );
    Some(ParentLock { columns, sql })
}
