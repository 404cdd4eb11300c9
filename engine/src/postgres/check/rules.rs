//! The merge rules of the fleet file against the table as it is here.

use landfall_protocol::fleet::Fleet;
use landfall_protocol::schema::rules::{ColumnRule, Rules};

use super::Finding;
use crate::postgres::catalog::{LocalTable, bounds_of_check, bounds_of_type};

pub(super) fn judge(table: &LocalTable, fleet: &Fleet) -> Vec<Finding> {
    let Some(rules) = fleet.rules(&table.def.name) else { return Vec::new() };
    let mut findings: Vec<_> = unknown(table, rules).collect();
    let counters = rules.columns.iter().filter(|(_, rule)| **rule == ColumnRule::Counter);
    for (column, _) in counters {
        findings.extend(counter(table, column));
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

/// Why a column cannot be a counter.
fn counter(table: &LocalTable, column: &str) -> Vec<Finding> {
    let Some(id) = table.def.column(column) else { return Vec::new() };
    let what = |problem: &str| format!("counter {column} of table {} {problem}", table.def.name);
    let plain = "take the rule \"counter\" off the column in the fleet file";
    let mut findings = Vec::new();
    if table.def.is_key(id) {
        findings.push(Finding::error(what("is part of the primary key"), plain));
    }
    let type_name = table.def.column_def(id).map_or("", |def| def.type_name.as_str());
    if bounds_of_type(type_name).is_none() {
        let why = match type_name {
            "real" | "double precision" => {
                "which depends on the order in which numbers are added, so sites would differ"
            }
            "money" => "which is read and printed by a setting of each server",
            _ => "which is not a type of exact numbers",
        };
        findings.push(Finding::error(
            what(&format!("is of type {type_name}, {why}")),
            "make it smallint, integer, bigint or numeric",
        ));
    }
    let names = |columns: &[String]| columns.iter().any(|name| name == column);
    let unique = table.unique.iter().filter(|index| names(&index.columns));
    let keys = table.foreign_keys.iter().filter(|key| names(&key.columns));
    let excluded = table.exclusions.iter().filter(|constraint| names(&constraint.columns));
    let held = unique.map(|index| &index.name).chain(keys.map(|key| &key.name));
    for name in held.chain(excluded.map(|constraint| &constraint.name)) {
        findings.push(Finding::error(
            what(&format!("stands in {name}, which a sum of what several sites add may break")),
            format!("{plain}, or drop {name}"),
        ));
    }
    let checks = table.checks.iter().filter(|check| names(&check.columns));
    let understood = |columns: &[String], expression: &str| {
        columns == [column] && bounds_of_check(column, expression).is_some()
    };
    for check in checks.filter(|check| !understood(&check.columns, &check.expression)) {
        findings.push(Finding::error(
            what(&format!(
                "stands in CHECK {}, which a sum of what several sites add may break",
                check.name
            )),
            format!(
                "a counter is kept within a CHECK that only asks {column} >= number and \
                 {column} <= number; write {} so, or drop it",
                check.name
            ),
        ));
    }
    findings
}
