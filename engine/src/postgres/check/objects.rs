//! What is in the database beside the fleet's tables, and stays where it is.

use landfall_protocol::fleet::{Fleet, OWN_SCHEMA};
use landfall_protocol::schema::TableName;
use tokio_postgres::Client;

use super::Finding;
use crate::postgres::setup::SetupError;

/// Names shown of one kind of object; there may be thousands.
const NAMES_SHOWN: usize = 5;

/// What there is, by what has to be said about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Objects {
    tables: Vec<TableName>,
    unlogged: Vec<TableName>,
    sequences: Vec<TableName>,
    materialized: Vec<TableName>,
    foreign: Vec<TableName>,
    large_objects: i64,
}

// Partitions are part of their table; a temporary table is nobody's business.
const RELATIONS: &str = "
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'u'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'S', 'm', 'f') AND c.relpersistence <> 't' AND NOT c.relispartition
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', $1)
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                  AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2";

const LARGE_OBJECTS: &str = "SELECT count(*) FROM pg_largeobject_metadata";

pub(super) async fn gather(client: &Client, fleet: &Fleet) -> Result<Objects, SetupError> {
    let query = |what: &'static str| {
        move |source| SetupError::Query { what: format!("read {what}"), source }
    };
    let rows = client.query(RELATIONS, &[&OWN_SCHEMA]).await.map_err(query("all relations"))?;
    let mut objects = Objects::default();
    for row in rows {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        if fleet.set_of(&name).is_some() {
            continue;
        }
        let list = match (row.get(2), row.get(3)) {
            ("S", _) => &mut objects.sequences,
            ("m", _) => &mut objects.materialized,
            ("f", _) => &mut objects.foreign,
            (_, true) => &mut objects.unlogged,
            _ => &mut objects.tables,
        };
        list.push(name);
    }
    let row = client.query_one(LARGE_OBJECTS, &[]).await.map_err(query("large objects"))?;
    objects.large_objects = row.get(0);
    Ok(objects)
}

pub(super) fn judge(objects: &Objects) -> Vec<Finding> {
    let kinds = [
        (
            &objects.tables,
            "tables are not in the fleet file and not replicated",
            "put those into the fleet file that all sites shall have",
        ),
        (
            &objects.unlogged,
            "unlogged tables are not replicated",
            "run ALTER TABLE ... SET LOGGED before putting one into the fleet file",
        ),
        (
            &objects.sequences,
            "sequences are not replicated, each site counts by itself",
            "let no two sites give the same number: use uuid, or INCREMENT BY with a START of its \
             own per site",
        ),
        (
            &objects.materialized,
            "materialized views are not replicated",
            "run REFRESH MATERIALIZED VIEW at each site",
        ),
        (
            &objects.foreign,
            "foreign tables are not replicated",
            "replicate them where they are stored",
        ),
    ];
    let there = kinds.into_iter().filter(|(names, ..)| !names.is_empty());
    let mut findings: Vec<Finding> =
        there.map(|(names, what, advice)| Finding::hint(counted(names, what), advice)).collect();
    if objects.large_objects > 0 {
        findings.push(Finding::warning(
            format!(
                "large objects are not replicated ({}), and a column with their numbers means \
                 nothing at other sites",
                objects.large_objects
            ),
            "keep such contents in a column of type bytea",
        ));
    }
    findings
}

fn counted(names: &[TableName], what: &str) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(ToString::to_string).collect();
    let more = if names.len() > NAMES_SHOWN { ", ..." } else { "" };
    format!("{what} ({}): {}{more}", names.len(), shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_names_are_shown() {
        let names: Vec<_> = (0..7).map(|n| TableName::new("public", format!("t{n}"))).collect();
        assert_eq!(counted(&names[..1], "are here"), "are here (1): public.t0");
        let all = "are here (7): public.t0, public.t1, public.t2, public.t3, public.t4, ...";
        assert_eq!(counted(&names, "are here"), all);
        assert!(judge(&Objects::default()).is_empty());
    }
}
