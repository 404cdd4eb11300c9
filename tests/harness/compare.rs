//! Comparing what several sites show, by plain SQL and nothing of Landfall's own code: whatever is
//! wrong in the product must not be able to hide here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, ensure};

use crate::cluster::Cluster;
use crate::session::{Row, Session};

/// How many differing rows are shown per table.
const DIFFERENCES_SHOWN: usize = 10;

/// Text output must depend on the value only, not on how a server is configured.
const PINNED: &str = "SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; \
     SET timezone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = 'hex'; \
     SET client_encoding = 'UTF8'; SET lc_monetary = 'C'; SET search_path = 'public'; \
     SET quote_all_identifiers = off; \
     BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A database at a site.
pub type Site<'a> = (&'a Cluster, &'a str);

/// Fails unless all `tables` (`schema.table`) hold the same rows at all `sites`. Returns how many
/// rows a site holds, so that a test can also insist on having compared something.
///
/// # Panics
/// On a difference, with the first differing rows of each table, and when a site cannot be read.
#[track_caller]
pub fn assert_equal(sites: &[Site<'_>], tables: &[&str]) -> usize {
    match compare(sites, tables) {
        Ok(Comparison { differences, rows, .. }) if differences.is_empty() => rows,
        Ok(comparison) => panic!("the sites differ\n{}", comparison.differences),
        Err(error) => panic!("{error:#}"),
    }
}

/// What [`compare`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Readable differences, a paragraph per table; empty when the sites are equal.
    pub differences: String,
    /// Rows that are not the same at all sites.
    pub differing: usize,
    /// Rows the first site holds in all tables together.
    pub rows: usize,
}

/// Compares all `tables` at all `sites`. At each site one snapshot serves all tables. Rows are
/// paired by primary key and compared as text, column by column, by the names of the columns.
pub fn compare(sites: &[Site<'_>], tables: &[&str]) -> anyhow::Result<Comparison> {
    ensure!(sites.len() > 1 && !tables.is_empty(), "a comparison needs two sites and a table");
    let mut dumps = Vec::with_capacity(sites.len());
    for (cluster, db) in sites {
        dumps.push(dump_site(cluster, db, tables)?);
    }
    let names: Vec<String> = sites.iter().map(|(c, db)| format!("{}/{db}", c.name())).collect();
    let rows = dumps[0].iter().map(|table| table.rows.len()).sum();
    let (mut differences, mut differing) = (String::new(), 0);
    for (index, table) in tables.iter().enumerate() {
        let versions: Vec<&Table> = dumps.iter().map(|dump| &dump[index]).collect();
        differences.push_str(&difference(table, &names, &versions)?);
        differing += differing_keys(&versions).len();
    }
    Ok(Comparison { differences, differing, rows })
}

/// The rows of one table as a boxed text table for people, ordered by primary key.
pub fn rows(cluster: &Cluster, db: &str, table: &str) -> anyhow::Result<String> {
    let dump = dump_site(cluster, db, &[table])?;
    Ok(boxed(&dump[0].columns, dump[0].rows.values()))
}

#[derive(Debug)]
struct Table {
    columns: Vec<String>,
    /// By primary key, or by the whole row and a running number where there is none.
    rows: BTreeMap<Row, Row>,
}

fn dump_site(cluster: &Cluster, db: &str, tables: &[&str]) -> anyhow::Result<Vec<Table>> {
    let session = cluster.session(db)?;
    session.batch(PINNED)?;
    let mut dumped = Vec::with_capacity(tables.len());
    for table in tables {
        let dump = dump_table(&session, table);
        dumped.push(dump.with_context(|| format!("read {table} at {}/{db}", cluster.name()))?);
    }
    Ok(dumped)
}

fn dump_table(session: &Session, table: &str) -> anyhow::Result<Table> {
    let oid = format!("'{}'::regclass", table.replace('\'', "''"));
    // By name, because sites may have got their columns in another order.
    let columns = names(session.rows(&format!(
        "SELECT quote_ident(attname) FROM pg_attribute \
         WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped ORDER BY attname"
    ))?);
    let key = names(session.rows(&format!(
        "SELECT quote_ident(a.attname) FROM pg_index i \
         CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE i.indrelid = {oid} AND i.indisprimary ORDER BY k.place"
    ))?);
    ensure!(!columns.is_empty(), "the table has no columns");
    let order = if key.is_empty() { &columns } else { &key };
    let list = columns.iter().map(|column| format!("{column}::text")).collect::<Vec<_>>();
    let rows = session.rows(&format!(
        "SELECT {} FROM {table} AS t ORDER BY {}",
        list.join(", "),
        order.iter().map(|column| format!("t.{column}")).collect::<Vec<_>>().join(", ")
    ))?;
    let places: Vec<usize> =
        order.iter().filter_map(|name| columns.iter().position(|column| column == name)).collect();
    Ok(Table { columns, rows: keyed(rows, &places, key.is_empty()) })
}

/// Without a primary key equal rows may occur several times: each gets a running number.
fn keyed(rows: Vec<Row>, places: &[usize], numbered: bool) -> BTreeMap<Row, Row> {
    let mut by_key = BTreeMap::new();
    for row in rows {
        let mut key: Row = places.iter().map(|&place| row[place].clone()).collect();
        if numbered {
            let twins = (1_u32..).find(|n| {
                let mut numbered = key.clone();
                numbered.push(Some(n.to_string()));
                !by_key.contains_key(&numbered)
            });
            key.push(twins.map(|n| n.to_string()));
        }
        by_key.insert(key, row);
    }
    by_key
}

fn names(rows: Vec<Row>) -> Vec<String> {
    rows.into_iter().flatten().flatten().collect()
}

fn difference(table: &str, names: &[String], versions: &[&Table]) -> anyhow::Result<String> {
    let mut text = String::new();
    let columns = &versions[0].columns;
    for (name, version) in names.iter().zip(versions) {
        if version.columns != *columns {
            let (here, there) = (version.columns.join(", "), columns.join(", "));
            writeln!(text, "{table}: {name} has columns {here}; {} has {there}", names[0])?;
        }
    }
    if !text.is_empty() {
        return Ok(text);
    }
    let differing = differing_keys(versions);
    if differing.is_empty() {
        return Ok(text);
    }
    writeln!(text, "{table}: {} rows differ", differing.len())?;
    for key in differing.iter().take(DIFFERENCES_SHOWN) {
        writeln!(text, "  key ({})", key.iter().map(show).collect::<Vec<_>>().join(", "))?;
        for (name, version) in names.iter().zip(versions) {
            writeln!(text, "    {name}: {}", describe(columns, version.rows.get(*key)))?;
        }
    }
    if differing.len() > DIFFERENCES_SHOWN {
        writeln!(text, "  … and {} more", differing.len() - DIFFERENCES_SHOWN)?;
    }
    Ok(text)
}

fn differing_keys<'a>(versions: &[&'a Table]) -> Vec<&'a Row> {
    let keys: BTreeSet<&Row> = versions.iter().flat_map(|version| version.rows.keys()).collect();
    let differs =
        |key: &&Row| versions.iter().any(|v| v.rows.get(*key) != versions[0].rows.get(*key));
    keys.into_iter().filter(differs).collect()
}

fn describe(columns: &[String], row: Option<&Row>) -> String {
    let Some(row) = row else { return "(no such row)".to_owned() };
    let cells = columns.iter().zip(row).map(|(column, value)| format!("{column}={}", show(value)));
    cells.collect::<Vec<_>>().join(" ")
}

fn show(value: &Option<String>) -> String {
    value.as_ref().map_or_else(|| "NULL".to_owned(), |value| format!("'{value}'"))
}

/// A text table with a line above, below and under the heading.
pub fn boxed<'a>(columns: &[String], rows: impl Iterator<Item = &'a Row>) -> String {
    let mut cells: Vec<Vec<String>> = vec![columns.to_vec()];
    for row in rows {
        let shown = row.iter().map(|value| value.clone().unwrap_or_else(|| "·".to_owned()));
        cells.push(shown.map(|value| value.replace('\n', "⏎")).collect());
    }
    let width = |place: usize| {
        cells.iter().filter_map(|row| row.get(place)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns.len()).map(|place| width(place).unwrap_or(0)).collect();
    let rule = |left: char, middle: &str, right: char| {
        let parts: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", parts.join(middle))
    };
    let mut text = rule('┌', "┬", '┐');
    for (number, row) in cells.iter().enumerate() {
        let padded = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell}{} ", " ".repeat(width - cell.chars().count())));
        text.push_str(&format!("│{}│\n", padded.collect::<Vec<_>>().join("│")));
        if number == 0 {
            text.push_str(&rule('├', "┼", '┤'));
        }
    }
    text.push_str(&rule('└', "┴", '┘'));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Row {
        values.iter().map(|value| Some((*value).to_owned())).collect()
    }

    fn table(rows: &[&[&str]]) -> Table {
        let rows = rows.iter().map(|values| row(values)).collect();
        Table { columns: vec!["id".into(), "name".into()], rows: keyed(rows, &[0], false) }
    }

    #[test]
    fn equal_tables_have_no_difference() {
        let (a, b) = (table(&[&["1", "x"]]), table(&[&["1", "x"]]));
        let text = difference("t", &["a".into(), "b".into()], &[&a, &b]).expect("text");
        assert_eq!(text, "");
    }

    #[test]
    fn changed_and_missing_rows_are_both_shown() {
        let (a, b) = (table(&[&["1", "x"], &["2", "y"]]), table(&[&["1", "z"]]));
        let text = difference("t", &["a".into(), "b".into()], &[&a, &b]).expect("text");
        let expected = "t: 2 rows differ\n  key ('1')\n    a: id='1' name='x'\n    b: id='1' \
             name='z'\n  key ('2')\n    a: id='2' name='y'\n    b: (no such row)\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn equal_rows_without_a_key_are_counted() {
        let twice = keyed(vec![row(&["x"]), row(&["x"])], &[0], true);
        let once = keyed(vec![row(&["x"])], &[0], true);
        assert_eq!(twice.len(), 2);
        assert_ne!(twice, once);
    }

    #[test]
    fn boxes_are_as_wide_as_their_widest_cell() {
        let rows = [row(&["1", "Ärztin"]), vec![Some("2".into()), None]];
        let text = boxed(&["id".into(), "name".into()], rows.iter());
        let expected = "┌────┬────────┐\n│ id │ name   │\n├────┼────────┤\n\
             │ 1  │ Ärztin │\n│ 2  │ ·      │\n└────┴────────┘\n";
        assert_eq!(text, expected);
    }
}
