//! The fleet's tables.

use landfall_protocol::fleet::Fleet;
use landfall_protocol::schema::TableName;

use super::{Finding, claims, columns, rules};
use crate::postgres::catalog::{Catalog, ForeignKey, LocalTable, Partition, RelationKind};
use crate::postgres::sql::{quote_identifier, quote_literal, quote_table};

pub(super) fn judge(catalog: &Catalog, fleet: &Fleet, bypasses_rls: bool) -> Vec<Finding> {
    let missing = catalog.missing.iter().map(|table| {
        Finding::error(
            format!("table {table} of the fleet file is not in this database"),
            "create it as the other members have it, or take it out of the fleet file",
        )
    });
    let mut findings: Vec<_> = missing.collect();
    for table in &catalog.tables {
        match unfit(table) {
            Some(finding) => findings.push(finding),
            None => findings.extend(details(table, fleet, bypasses_rls)),
        }
    }
    findings
}

/// Why a relation cannot be replicated at all.
fn unfit(table: &LocalTable) -> Option<Finding> {
    let (name, quoted) = (&table.def.name, quote_table(&table.def.name));
    let plain = "replicate an ordinary table instead";
    let is_partitioned = table.kind == RelationKind::Partitioned;
    match table {
        LocalTable { kind: RelationKind::Other, .. } => {
            Some(Finding::error(format!("{name} is not a table"), plain))
        }
        LocalTable { is_partition: true, .. } => Some(Finding::error(
            format!("table {name} is a partition"),
            "put the partitioned table into the fleet file instead",
        )),
        LocalTable { is_child: true, .. } => Some(Finding::error(
            format!("table {name} inherits from another table"),
            format!("run ALTER TABLE {quoted} NO INHERIT, or use partitions instead"),
        )),
        LocalTable { has_children: true, .. } if !is_partitioned => Some(Finding::error(
            format!("other tables inherit from table {name}"),
            "use partitions instead, or end the inheritance with ALTER TABLE ... NO INHERIT",
        )),
        LocalTable { is_unlogged: true, .. } => Some(Finding::error(
            format!("table {name} is unlogged, so its changes cannot be captured"),
            format!("run ALTER TABLE {quoted} SET LOGGED"),
        )),
        LocalTable { is_heap: false, .. } if !is_partitioned => Some(Finding::error(
            format!("table {name} is not stored as heap"),
            format!("run ALTER TABLE {quoted} SET ACCESS METHOD heap"),
        )),
        _ => table.partitions.iter().find_map(|partition| unfit_partition(name, partition)),
    }
}

fn unfit_partition(whole: &TableName, partition: &Partition) -> Option<Finding> {
    let (name, quoted) = (&partition.name, quote_table(&partition.name));
    let (problem, advice) = match partition {
        Partition { is_table: false, .. } => (
            "is a foreign table, whose changes cannot be captured",
            format!("run ALTER TABLE {} DETACH PARTITION {quoted}", quote_table(whole)),
        ),
        Partition { is_unlogged: true, .. } => (
            "is unlogged, so its changes cannot be captured",
            format!("run ALTER TABLE {quoted} SET LOGGED"),
        ),
        Partition { is_heap: false, .. } => {
            ("is not stored as heap", format!("run ALTER TABLE {quoted} SET ACCESS METHOD heap"))
        }
        _ => return None,
    };
    Some(Finding::error(format!("partition {name} of table {whole} {problem}"), advice))
}

fn details(table: &LocalTable, fleet: &Fleet, bypasses_rls: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(key(table));
    findings.extend(columns::judge(table));
    findings.extend(rules::judge(table, fleet));
    findings.extend(claims::judge(table, fleet));
    findings.extend(sequence(table));
    if table.has_row_security && !bypasses_rls {
        findings.push(Finding::error(
            format!("row security of table {} hides rows from our role", table.def.name),
            "run ALTER ROLE ... BYPASSRLS for the role in conninfo",
        ));
    }
    findings.extend(relations(table, fleet));
    findings.extend(triggers(table));
    findings
}

fn key(table: &LocalTable) -> Option<Finding> {
    let (name, quoted) = (&table.def.name, quote_table(&table.def.name));
    if table.key_is_deferrable {
        return Some(Finding::error(
            format!("primary key of table {name} is deferrable"),
            "make it anew without DEFERRABLE",
        ));
    }
    if let Some(column) = &table.generated_key {
        return Some(Finding::error(
            format!(
                "primary key column {column} of table {name} is generated, so it cannot be written"
            ),
            "make the key of ordinary columns",
        ));
    }
    if !table.def.key.is_empty() {
        return ambiguous_key(table);
    }

    let is_not_null = |column: &String| {
        let index = table.def.columns.iter().position(|def| def.name == *column);
        index.is_some_and(|index| table.columns[index].is_not_null)
    };
    let candidate = table.unique.iter().find(|index| {
        let plain = !index.has_expressions && !index.is_partial && !index.is_deferrable;
        plain && index.columns.iter().all(is_not_null)
    });
    let statement = match candidate {
        Some(index) => {
            let columns: Vec<_> = index.columns.iter().map(|c| quote_identifier(c)).collect();
            format!("ALTER TABLE {quoted} ADD PRIMARY KEY ({})", columns.join(", "))
        }
        None => format!(
            "ALTER TABLE {quoted} ADD COLUMN landfall_id uuid PRIMARY KEY DEFAULT gen_random_uuid()"
        ),
    };
    Some(Finding::error(
        format!("table {name} has no primary key, so its rows cannot be told apart"),
        format!("run {statement} at one site, and carry the same keys over to the others"),
    ))
}

/// Rows are told apart by the text of their keys: `1.0` and `1.00` would be one row to PostgreSQL
/// and two rows to everybody else.
fn ambiguous_key(table: &LocalTable) -> Option<Finding> {
    let name = &table.def.name;
    table.key_columns.iter().find_map(|column| {
        let (key, problem, advice) = (&column.name, column.ambiguous.as_ref(), ADVICE_ON_KEYS);
        let (why, advice) = match (problem, &column.nondeterministic) {
            (Some(kind), _) => {
                (format!("is of type {kind}, in which equal values can be written differently"), advice)
            }
            (None, Some(collation)) => (
                format!("has the nondeterministic collation {collation:?}, under which different texts are equal"),
                "give the key a deterministic collation",
            ),
            (None, None) => return None,
        };
        Some(Finding::error(format!("primary key column {key} of table {name} {why}"), advice))
    })
}

const ADVICE_ON_KEYS: &str =
    "make the key of integers, text, uuid or numeric with a scale, such as numeric(20,0)";

/// Two sites that count by themselves give the same number to different rows.
fn sequence(table: &LocalTable) -> Option<Finding> {
    let [key] = table.def.key.as_slice() else { return None };
    let sequence = table.columns.get(usize::from(key.0))?.sequence.as_ref()?;
    if sequence.increment.unsigned_abs() > 1 {
        return None;
    }
    let quoted = quote_table(&sequence.name);
    Some(Finding::warning(
        format!(
            "keys of table {} come from sequence {}, which counts the same at every site, so two \
             sites will give one key to different rows, which are then merged into one",
            table.def.name, sequence.name
        ),
        format!(
            "run SELECT landfall.use_next_id({table}, {column}) at every site, use uuid keys, or \
             give each site numbers of its own, such as ALTER SEQUENCE {quoted} INCREMENT BY 100 \
             RESTART WITH <a number that ends in the site's>",
            table = quote_literal(&quote_table(&table.def.name)),
            column = quote_literal(table.def.column_def(*key).map_or("", |column| &column.name)),
        ),
    ))
}

fn relations(table: &LocalTable, fleet: &Fleet) -> Vec<Finding> {
    let name = &table.def.name;
    let is_outside = |other: &TableName| fleet.set_of(other).is_none();
    let parents = table.foreign_keys.iter().filter(|key| is_outside(&key.parent)).map(|key| {
        Finding::warning(
            format!(
                "foreign key {:?} of table {name} leads to table {}, which is not replicated",
                key.name, key.parent
            ),
            "add that table to the fleet file, or make sure that all sites have the same rows in it",
        )
    });
    let children = table.referenced_by.iter().filter(|child| is_outside(child)).map(|child| {
        Finding::warning(
            format!("table {child}, which is not replicated, has a foreign key to table {name}"),
            "add it to the fleet file: rows deleted at another site would leave orphans in it",
        )
    });
    parents.chain(children).chain(references(table, fleet)).collect()
}

/// Foreign keys between replicated tables are kept, but for these.
fn references(table: &LocalTable, fleet: &Fleet) -> Vec<Finding> {
    let name = &table.def.name;
    let is_inside = |key: &&ForeignKey| fleet.set_of(&key.parent).is_some();
    let mut findings = Vec::new();
    for key in table.foreign_keys.iter().filter(is_inside) {
        if fleet.set_of(&key.parent) != fleet.set_of(name) {
            findings.push(Finding::warning(
                format!(
                    "foreign key {:?} leads from table {name} to table {}, which is in another \
                     replication set",
                    key.name, key.parent
                ),
                "put both into one set: a member may have one set without the other some day",
            ));
        }
        if !key.names_primary_key {
            findings.push(Finding::warning(
                format!(
                    "foreign key {:?} of table {name} names rows of table {} by something else \
                     than the primary key, so a site that changes that while another references \
                     it leaves orphans, and children of rows that are gone wait, parked",
                    key.name, key.parent
                ),
                "let it name the primary key, or do not change what it names",
            ));
        }
    }
    findings
}

fn triggers(table: &LocalTable) -> impl Iterator<Item = Finding> {
    let ours = |name: &str| name.starts_with("landfall_");
    let fires = table.triggers.iter();
    let fires = fires.filter(move |t| t.fires_in_replica && !t.is_internal && !ours(&t.name));
    fires.map(|trigger| {
        Finding::warning(
            format!(
                "trigger {:?} of table {} also fires for changes that replication writes, with \
                 nothing but pg_catalog on the search path",
                trigger.name, table.def.name
            ),
            "run ALTER TABLE ... ENABLE TRIGGER unless that is intended; if it is, give its \
             function a search_path of its own, and mind that what it writes is replicated once \
             more",
        )
    })
}
