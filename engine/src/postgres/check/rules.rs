//! The merge rules of the fleet file against the table as it is here.

use landfall_protocol::fleet::Fleet;
use landfall_protocol::merged::Kind;
use landfall_protocol::schema::ColumnId;
use landfall_protocol::schema::rules::Rules;

use super::Finding;
use crate::postgres::catalog::{LocalTable, bounds_of_check, bounds_of_type};

pub(super) fn judge(table: &LocalTable, fleet: &Fleet) -> Vec<Finding> {
    let Some(rules) = fleet.rules(&table.def.name) else { return Vec::new() };
    let mut findings: Vec<_> = unknown(table, rules).collect();
    for (column, rule) in &rules.columns {
        if let (Some(kind), Some(id)) = (rule.kind(), table.def.column(column)) {
            findings.extend(Merged { table, column, id, kind }.judge());
        }
    }
    findings
}

/// Columns that are named and are not there.
fn unknown<'a>(
    table: &'a LocalTable,
    rules: &'a Rules<String>,
) -> impl Iterator<Item = Finding> + 'a {
    let named = rules.columns.keys().chain(rules.groups.iter().flatten());
    let missing = named.filter(|column| table.def.column(column).is_none());
    missing.map(|column| {
        Finding::error(
            format!(
                "table {} has no column {column}, for which the fleet file has a rule",
                table.def.name
            ),
            "add the column here too, or correct the [[table]] entry in the fleet file",
        )
    })
}

/// A column that is to be merged.
struct Merged<'t> {
    table: &'t LocalTable,
    column: &'t str,
    id: ColumnId,
    kind: Kind,
}

impl Merged<'_> {
    /// Why it cannot be.
    fn judge(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.table.def.is_key(self.id) {
            findings.push(Finding::error(self.what("is part of the primary key"), self.plain()));
        }
        let type_name = self.table.def.column_def(self.id).map_or("", |def| &def.type_name);
        if let Some((why, advice)) = refused_type(self.kind, type_name) {
            let what = self.what(&format!("is of type {type_name}, {why}"));
            findings.push(Finding::error(what, advice));
        }
        findings.extend(self.held());
        findings.extend(self.checks());
        findings
    }

    fn what(&self, problem: &str) -> String {
        format!("{} {} of table {} {problem}", self.kind.name(), self.column, self.table.def.name)
    }

    /// What to do about it in any case.
    fn plain(&self) -> String {
        format!("take the rule {:?} off the column in the fleet file", self.kind.name())
    }

    fn is_among(&self, columns: &[String]) -> bool {
        columns.iter().any(|name| name == self.column)
    }

    /// What holds values apart or together, which merging them asks nothing of.
    fn held(&self) -> impl Iterator<Item = Finding> + '_ {
        let unique = self.table.unique.iter().filter(|index| self.is_among(&index.columns));
        let keys = self.table.foreign_keys.iter().filter(|key| self.is_among(&key.columns));
        let excluded = self.table.exclusions.iter();
        let excluded = excluded.filter(|constraint| self.is_among(&constraint.columns));
        let names = unique.map(|index| &index.name).chain(keys.map(|key| &key.name));
        names.chain(excluded.map(|constraint| &constraint.name)).map(|name| {
            let what = self.what(&format!("stands in {name}, which {} may break", self.comes_to()));
            Finding::error(what, format!("{}, or drop {name}", self.plain()))
        })
    }

    fn comes_to(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "a sum of what several sites add",
            _ => "what is merged of several writes",
        }
    }

    fn checks(&self) -> impl Iterator<Item = Finding> + '_ {
        let checks = self.table.checks.iter().filter(|check| self.is_among(&check.columns));
        let broken = checks.filter(|check| !self.holds(&check.columns, &check.expression));
        broken.map(|check| {
            let (name, column) = (&check.name, self.column);
            let what =
                self.what(&format!("stands in CHECK {name}, which {} may break", self.comes_to()));
            let advice = match self.kind {
                Kind::Counter => format!(
                    "a counter is kept within a CHECK that only asks {column} >= number and \
                     {column} <= number; write {name} so, or drop it"
                ),
                _ => format!("{}, or drop {name}", self.plain()),
            };
            Finding::error(what, advice)
        })
    }

    /// Whether a CHECK holds for whatever the merged column comes to, or is made to.
    fn holds(&self, columns: &[String], expression: &str) -> bool {
        let is_alone = columns == [self.column];
        match self.kind {
            Kind::Counter => is_alone && bounds_of_check(self.column, expression).is_some(),
            // It shows what somebody has written, and who wrote it kept the CHECK.
            Kind::Extreme(_) => is_alone,
            Kind::Set | Kind::Text | Kind::Document => false,
        }
    }
}

/// Why a column of this type cannot be merged so, and what to do about it.
fn refused_type(kind: Kind, type_name: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        Kind::Counter if bounds_of_type(type_name).is_some() => None,
        Kind::Counter => Some((
            match type_name {
                "real" | "double precision" => {
                    "which depends on the order in which numbers are added, so sites would differ"
                }
                "money" => "which is read and printed by a setting of each server",
                _ => "which is not a type of exact numbers",
            },
            "make it smallint, integer, bigint or numeric",
        )),
        Kind::Extreme(_) if is_ordered(type_name) => None,
        Kind::Extreme(_) => Some((
            "which has no order that every site computes alike",
            "make it smallint, integer, bigint, numeric, date, timestamp or timestamptz",
        )),
        Kind::Text if matches!(type_name, "text" | "character varying") => None,
        Kind::Text => Some(("which is no text of any length", "make it text")),
        Kind::Document if type_name == "jsonb" => None,
        Kind::Document => Some(("which keeps no keys and items apart", "make it jsonb")),
        Kind::Set if is_set(type_name) => None,
        Kind::Set => Some((
            "which is no array whose elements have one spelling",
            "make it an array of integers, texts, uuids or dates, such as text[]",
        )),
    }
}

fn is_ordered(type_name: &str) -> bool {
    let times = ["date", "timestamp without time zone", "timestamp with time zone"];
    bounds_of_type(type_name).is_some() || times.contains(&type_name)
}

fn is_set(type_name: &str) -> bool {
    let elements =
        ["smallint", "integer", "bigint", "text", "character varying", "uuid", "date", "boolean"];
    type_name.strip_suffix("[]").is_some_and(|element| elements.contains(&element))
}
