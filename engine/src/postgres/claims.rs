//! Who holds what only one row may have: indexes of a replicated table that refuse a second row, and
//! the statements that find the first one.

use std::borrow::Cow;

use landfall_protocol::schema::{ColumnId, TableDef};
use landfall_protocol::unique::{Loser, SUFFIX_CHARS};
use landfall_protocol::value::Value;

use crate::postgres::access::TableAccess;
use crate::postgres::catalog::{ClaimIndex, LocalTable};
use crate::postgres::sql::{quote_identifier, quote_table};

/// An index that lets only one row of a table have something.
#[derive(Debug, Clone)]
pub struct ClaimAccess {
    /// Its name.
    pub name: String,
    /// Whether an EXCLUDE constraint made it.
    pub excludes: bool,
    /// The columns on which it depends, the key's among them.
    pub columns: Vec<ColumnId>,
    /// Those of them that are no part of the key.
    pub cells: Vec<ColumnId>,
    /// What becomes of a row that has to give way.
    pub remedy: ClaimRemedy,
    table: String,
    needed: Vec<Needed>,
    index: ClaimIndex,
    key_texts: String,
}

/// How a row gives way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimRemedy {
    /// It is put aside.
    Quarantine,
    /// The column's value gets an ending; so many characters it can hold at most.
    Suffix(ColumnId, Option<usize>),
    /// These columns are emptied.
    Null(Vec<ColumnId>),
}

/// A column that the index looks at.
#[derive(Debug, Clone)]
struct Needed {
    name: String,
    cast: String,
    source: NeededSource,
    default: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum NeededSource {
    /// This column of the key.
    Key(usize),
    /// A cell.
    Cell(ColumnId),
}

/// The indexes of a table by which rows clash, as far as it can be found out with whom.
pub fn of_table(def: &TableDef, local: &LocalTable, access: &TableAccess) -> Vec<ClaimAccess> {
    local.claims.iter().filter_map(|index| build(def, local, access, index)).collect()
}

fn build(
    def: &TableDef,
    local: &LocalTable,
    access: &TableAccess,
    index: &ClaimIndex,
) -> Option<ClaimAccess> {
    if index.parts.iter().any(|part| part.operator.is_none()) {
        return None;
    }
    let needed = |name: &String| {
        let id = def.column(name)?;
        let facts = local.columns.get(usize::from(local.def.column(name)?.0))?;
        let source = match def.key.iter().position(|key| *key == id) {
            Some(place) => NeededSource::Key(place),
            None => NeededSource::Cell(id),
        };
        let (cast, default) = (facts.cast.clone(), facts.default.clone());
        Some(Needed { name: quote_identifier(name), cast, source, default })
    };
    let columns = index.columns.iter().map(|name| def.column(name)).collect::<Option<Vec<_>>>()?;
    Some(ClaimAccess {
        name: index.name.clone(),
        excludes: index.excludes,
        remedy: remedy(def, local, index).unwrap_or(ClaimRemedy::Quarantine),
        cells: columns.iter().copied().filter(|column| !def.is_key(*column)).collect(),
        columns,
        table: quote_table(&def.name),
        needed: index.columns.iter().map(needed).collect::<Option<Vec<_>>>()?,
        index: index.clone(),
        key_texts: access.key_texts("t"),
    })
}

/// What the fleet file asks for, by the numbers that columns have in `def`.
///
/// # Errors
/// Why the columns cannot have it.
pub(super) fn remedy(
    def: &TableDef,
    local: &LocalTable,
    index: &ClaimIndex,
) -> Result<ClaimRemedy, &'static str> {
    let cells = index.columns.iter().filter_map(|name| Some((name, def.column(name)?)));
    let mut cells = cells.filter(|(_, column)| !def.is_key(*column));
    match index.loser {
        Loser::Quarantine => Ok(ClaimRemedy::Quarantine),
        Loser::Suffix => {
            let room =
                |(_, column)| Some((column, suffix_room(&def.column_def(column)?.type_name)?));
            match cells.find_map(room) {
                None => Err("none of its columns is text or varchar"),
                Some((_, Some(room))) if room <= SUFFIX_CHARS => {
                    Err("its text has no room for an ending")
                }
                Some((column, room)) => Ok(ClaimRemedy::Suffix(column, room)),
            }
        }
        Loser::Null if index.nulls_are_equal => Err("it takes NULLs for equal"),
        Loser::Null => {
            let may_be_null = |name: &String| {
                let facts = local.def.column(name);
                let facts = facts.and_then(|id| local.columns.get(usize::from(id.0)));
                facts.is_some_and(|facts| !facts.is_not_null)
            };
            let columns = cells.filter(|(name, _)| may_be_null(name));
            let columns: Vec<ColumnId> = columns.map(|(_, column)| column).collect();
            match columns.is_empty() {
                true => Err("none of its columns may be NULL"),
                false => Ok(ClaimRemedy::Null(columns)),
            }
        }
    }
}

/// How many characters a text of this type can have; `None` where it cannot get an ending.
fn suffix_room(type_name: &str) -> Option<Option<usize>> {
    match type_name {
        "text" | "character varying" | "citext" => Some(None),
        limited => {
            let length = limited.strip_prefix("character varying(")?.strip_suffix(')')?;
            length.parse().ok().map(Some)
        }
    }
}

impl ClaimAccess {
    /// What the index needs to know of a row that has this key and these new cells, in the order in
    /// which it needs it; `None` for what is as it was, or gets its default.
    pub(super) fn needed<'v>(
        &self,
        key: &'v [Value],
        cells: &'v [(ColumnId, Cow<'_, Value>)],
    ) -> Vec<Option<&'v Value>> {
        let value = |needed: &Needed| match needed.source {
            NeededSource::Key(place) => key.get(place),
            NeededSource::Cell(id) => {
                let cell = cells.iter().find(|(column, _)| *column == id);
                cell.map(|(_, value)| value.as_ref())
            }
        };
        self.needed.iter().map(value).collect()
    }

    /// Finds and locks the rows of the index that cannot be there beside a row: the parameters are the
    /// row as it was, if `has_base`, and what is `given` of what [`ClaimAccess::needed`] tells.
    pub(super) fn holders_sql(&self, has_base: bool, given: &[bool]) -> String {
        let mut next = usize::from(has_base);
        let values = self.needed.iter().zip(given).map(|(needed, is_given)| {
            let Needed { name, cast, default, .. } = needed;
            let value = match (is_given, has_base) {
                (true, _) => {
                    next += 1;
                    format!("${next}::text::{cast}")
                }
                (false, true) => format!("b.{name}"),
                (false, false) => format!("({})::{cast}", default.as_deref().unwrap_or("NULL")),
            };
            format!("{value} AS {name}")
        });
        let values: Vec<String> = values.collect();
        let base = match has_base {
            true => format!(" FROM (SELECT ($1::text::{}).*) b", self.table),
            false => String::new(),
        };
        let ClaimIndex { parts, predicate, nulls_are_equal, generated, .. } = &self.index;
        let mut row = format!("(SELECT {}{base}) t", values.join(", "));
        if !generated.is_empty() {
            let generated = generated.iter();
            let made = generated.map(|(name, is)| format!("({is}) AS {}", quote_identifier(name)));
            row = format!("(SELECT t.*, {} FROM {row}) t", made.collect::<Vec<_>>().join(", "));
        }
        let told = parts.iter().enumerate();
        let told = told.map(|(at, part)| format!("{} AS landfall_{at}", part.expression));
        let clashes = parts.iter().enumerate().map(|(at, part)| {
            let (ours, operator) = (&part.expression, part.operator.as_deref().unwrap_or("="));
            let same = format!("{ours} {operator} n.landfall_{at}");
            match nulls_are_equal {
                true => format!("({same} OR {ours} IS NULL AND n.landfall_{at} IS NULL)"),
                false => same,
            }
        });
        let predicate = predicate.as_deref().unwrap_or("true");
        format!(
            "WITH n AS MATERIALIZED (SELECT {} FROM {row} WHERE {predicate}) \
             SELECT ARRAY[{}]::text[] FROM {} t, n WHERE {} AND {predicate} FOR UPDATE OF t",
            told.collect::<Vec<_>>().join(", "),
            self.key_texts,
            self.table,
            clashes.collect::<Vec<_>>().join(" AND "),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_get_an_ending() {
        assert_eq!(suffix_room("text"), Some(None));
        assert_eq!(suffix_room("character varying(20)"), Some(Some(20)));
        for other in ["integer", "uuid", "character(9)", "text[]", "character varying(20)[]"] {
            assert_eq!(suffix_room(other), None, "{other}");
        }
    }
}
