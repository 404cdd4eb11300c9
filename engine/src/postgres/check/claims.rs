//! Values that only one row may have: the rules of the fleet file against the indexes as they are here.

use std::collections::BTreeSet;

use landfall_protocol::fleet::Fleet;
use landfall_protocol::unique::UniqueRule;

use super::Finding;
use crate::postgres::catalog::{ClaimIndex, IndexCollation, LocalTable};
use crate::postgres::claims::remedy;
use crate::postgres::sql::quote_identifier;

pub(super) fn judge(table: &LocalTable, fleet: &Fleet) -> Vec<Finding> {
    let rules = fleet.unique(&table.def.name);
    let mut findings: Vec<_> =
        rules.iter().filter_map(|rule| rule_of_nothing(table, rule)).collect();
    for index in &table.claims {
        findings.extend(not_found_out(table, index));
        findings.extend(nondeterministic(table, index));
        findings.extend(outdated(table, index));
        findings.extend(unfit(table, index));
    }
    findings
}

fn columns_of(index: &ClaimIndex) -> BTreeSet<&String> {
    index.columns.iter().collect()
}

fn rule_of_nothing(table: &LocalTable, rule: &UniqueRule) -> Option<Finding> {
    let columns: BTreeSet<&String> = rule.columns.iter().collect();
    let is_about = |index: &&ClaimIndex| !index.excludes && columns_of(index) == columns;
    if table.claims.iter().any(|index| is_about(&index)) {
        return None;
    }
    let names: Vec<&str> = rule.columns.iter().map(String::as_str).collect();
    Some(Finding::error(
        format!(
            "table {} has no unique index of {}, for which the fleet file has a rule",
            table.def.name,
            names.join(", ")
        ),
        "make the index here too, or name all the columns that it depends on, those of its \
         expressions and of its WHERE as well",
    ))
}

/// Whoever clashes by such an index is parked.
fn not_found_out(table: &LocalTable, index: &ClaimIndex) -> Option<Finding> {
    let is_here = |column: &String| table.def.column(column).is_some();
    let is_known = index.parts.iter().all(|part| part.operator.is_some());
    if is_known && index.columns.iter().all(is_here) {
        return None;
    }
    Some(Finding::warning(
        format!(
            "unique index {} of table {} compares what replication does not know, so a row that \
             clashes with one of another site is parked where it comes second",
            index.name, table.def.name
        ),
        "let it compare ordinary columns, or expressions over them",
    ))
}

fn nondeterministic(table: &LocalTable, index: &ClaimIndex) -> Option<Finding> {
    let collation = index.loose_collations().next()?;
    Some(Finding::warning(
        format!(
            "unique index {} of table {} has the nondeterministic collation {:?} ({collation}): sites with \
             another version of it do not exchange the table, as they may not agree which values are \
             the same",
            index.name, table.def.name, collation.name,
        ),
        "give all servers the same version of that library, or use a deterministic collation",
    ))
}

/// An index that was built in another order finds neither what is there nor what is twice.
fn outdated(table: &LocalTable, index: &ClaimIndex) -> Option<Finding> {
    let is_old = |collation: &&IndexCollation| {
        collation.recorded.is_some() && collation.recorded != collation.actual
    };
    let collation = index.collations.iter().find(is_old)?;
    let IndexCollation { name, is_default, recorded, actual, .. } = collation;
    let version = |version: &Option<String>| version.clone().unwrap_or("none".to_owned());
    let refresh = match is_default {
        true => "ALTER DATABASE … REFRESH COLLATION VERSION".to_owned(),
        false => format!("ALTER COLLATION {} REFRESH VERSION", quote_identifier(name)),
    };
    Some(Finding::warning(
        format!(
            "unique index {} of table {} was built with version {} of collation {name:?}, and the server \
             has {}: it may let in what is there already",
            index.name,
            table.def.name,
            version(recorded),
            version(actual),
        ),
        format!("run REINDEX on all that uses the collation, then {refresh}"),
    ))
}

/// Why rows cannot give way as the fleet file says.
fn unfit(table: &LocalTable, index: &ClaimIndex) -> Option<Finding> {
    let problem = remedy(&table.def, table, index).err()?;
    Some(Finding::error(
        format!(
            "unique index {} of table {} cannot have the rule {:?}: {problem}",
            index.name,
            table.def.name,
            index.loser.name()
        ),
        "give it another rule in the fleet file; \"quarantine\" is always possible",
    ))
}
