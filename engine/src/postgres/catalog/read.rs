//! Reads the catalog: one question for each kind of fact, all in one snapshot.

use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::fleet::Fleet;
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, TableDef, TableName};
use tokio_postgres::{Client, IsolationLevel, Row, Transaction};

use super::{
    Catalog, CatalogError, ColumnConstraint, ColumnSequence, ForeignKey, GeneratedColumn, Identity,
    IndexCollation, KeyColumn, LocalColumn, LocalTable, OnDelete, Partition, RelationKind,
    ReplicaIdentity, Trigger, UniqueIndex, claims,
};

/// Reads everything about the fleet's tables in one snapshot.
///
/// # Errors
/// The connection failed, or the catalog does not look as documented.
pub async fn read(client: &mut Client, fleet: &Fleet) -> Result<Catalog, CatalogError> {
    let snapshot = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .map_err(query("a snapshot"))?;
    // Types print with their schema unless it is on the path, and in quotes where that is switched
    // on: the names must depend on neither.
    let pin = "SET LOCAL search_path = pg_catalog; SET LOCAL quote_all_identifiers = off";
    let pinned = snapshot.batch_execute(pin).await;
    pinned.map_err(query("a snapshot"))?;
    let mut reader = Reader { tables: BTreeMap::new(), names: BTreeMap::new() };
    let missing = reader.relations(&snapshot, fleet).await?;
    reader.partitions(&snapshot).await?;
    reader.columns(&snapshot).await?;
    reader.unfit_types(&snapshot).await?;
    reader.indexes(&snapshot).await?;
    reader.keys(&snapshot).await?;
    reader.claims(&snapshot, fleet).await?;
    reader.foreign_keys(&snapshot).await?;
    reader.constraints(&snapshot).await?;
    reader.triggers(&snapshot).await?;
    snapshot.commit().await.map_err(query("a snapshot"))?;
    let mut tables: Vec<_> = reader.tables.into_values().collect();
    tables.sort_by(|a, b| a.def.name.cmp(&b.def.name));
    Ok(Catalog { tables, missing }.with_rules(fleet))
}

fn query(what: &'static str) -> impl Fn(tokio_postgres::Error) -> CatalogError {
    move |source| CatalogError::Query { what, source }
}

/// Collects facts by table oid.
struct Reader {
    tables: BTreeMap<u32, LocalTable>,
    names: BTreeMap<u32, TableName>,
}

const RELATIONS: &str = "
SELECT t.n, c.oid, c.relkind::text, am.amname::text, c.relpersistence::text, c.relispartition,
       EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid),
       EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid),
       c.relreplident::text, c.relrowsecurity
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t(schema, name, n)
JOIN pg_namespace n ON n.nspname = t.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
LEFT JOIN pg_am am ON am.oid = c.relam
WHERE c.relkind NOT IN ('i', 'I', 'S', 'c', 't')";

const PARTITIONS: &str = "
SELECT root.oid, n.nspname::text, c.relname::text, c.relkind = 'r',
       coalesce(am.amname = 'heap', false), c.relpersistence <> 'p'
FROM unnest($1::oid[]) AS root(oid)
CROSS JOIN LATERAL pg_partition_tree(root.oid) AS p
JOIN pg_class c ON c.oid = p.relid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_am am ON am.oid = c.relam
WHERE p.isleaf AND p.level > 0
ORDER BY root.oid, 2, 3";

const COLUMNS: &str = "
SELECT a.attrelid, a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid,
       a.attnotnull, a.attidentity::text, a.attgenerated::text, s.schema, s.name, s.increment,
       quote_ident(tn.nspname) || '.' || quote_ident(t.typname),
       CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
       coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
       ARRAY(SELECT b.attname::text FROM pg_attribute b
             WHERE b.attrelid = a.attrelid AND b.attnum <> a.attnum AND a.attgenerated <> ''
               AND EXISTS (SELECT FROM pg_depend p
                           WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
                             AND p.refclassid = 'pg_class'::regclass AND p.refobjid = a.attrelid
                             AND p.refobjsubid = b.attnum)
             ORDER BY b.attnum)
FROM pg_attribute a
LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_namespace tn ON tn.oid = t.typnamespace
LEFT JOIN LATERAL (
    SELECT n.nspname::text AS schema, c.relname::text AS name, s.seqincrement AS increment
    FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
    JOIN pg_class c ON c.oid = d.objid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
      AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
    ORDER BY d.objid LIMIT 1) s ON true
WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum";

// Numbers of objects and roles of this database, what only the server itself can read, and "char",
// of which version 15 prints some values as no text at all and others otherwise than its successors.
const UNFIT_TYPES: &str = "
WITH RECURSIVE part(relid, attnum, type) AS (
    SELECT attrelid, attnum, atttypid FROM pg_attribute
    WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    UNION
    SELECT part.relid, part.attnum, inner_part.type
    FROM part JOIN pg_type t ON t.oid = part.type
    CROSS JOIN LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
        UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        UNION ALL SELECT a.atttypid FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS inner_part(type))
SELECT part.relid, part.attnum, format_type(t.oid, NULL)
FROM part JOIN pg_type t ON t.oid = part.type
WHERE t.typnamespace = 'pg_catalog'::regnamespace
  AND (t.typname LIKE 'reg%' OR t.typname IN ('aclitem', 'char', 'gtsvector', 'pg_node_tree',
    'pg_ndistinct', 'pg_dependencies', 'pg_mcv_list', 'pg_brin_bloom_summary',
    'pg_brin_minmax_multi_summary'))";

// indnullsnotdistinct exists since 15, which is the oldest version we take.
const INDEXES: &str = "
SELECT i.indrelid, c.relname::text, i.indisprimary, i.indimmediate, i.indexprs IS NOT NULL,
       i.indpred IS NOT NULL, i.indnullsnotdistinct,
       ARRAY(SELECT a.attname::text
             FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, n)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
             WHERE k.n <= i.indnkeyatts ORDER BY k.n)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY($1) AND i.indisunique AND i.indislive
ORDER BY i.indrelid, c.relname";

// A type is unambiguous if its default order says so: where equal means the same bytes, an index
// may keep equal values once ("equalimage", support function 4). Types made of others have no say
// of their own; numeric with a scale and char with a length pad what they hold.
const KEYS: &str = "
WITH RECURSIVE key AS (
    SELECT i.indrelid, k.place, a.attnum, a.attname, a.atttypid, a.atttypmod, i.indcollation, i.indclass
    FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = ANY($1) AND i.indisprimary AND k.place <= i.indnkeyatts),
part(indrelid, place, type, modifier) AS (
    SELECT indrelid, place, atttypid, atttypmod FROM key
    UNION
    SELECT part.indrelid, part.place, inner_part.type, inner_part.modifier
    FROM part JOIN pg_type t ON t.oid = part.type
    CROSS JOIN LATERAL (
        SELECT t.typbasetype, t.typtypmod WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem, part.modifier WHERE t.typcategory = 'A' AND t.typelem <> 0
        UNION ALL SELECT r.rngsubtype, -1 FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        UNION ALL SELECT a.atttypid, a.atttypmod FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS inner_part(type, modifier)),
ambiguous AS (
    SELECT part.indrelid, part.place, min(format_type(t.oid, part.modifier)) AS type
    FROM part JOIN pg_type t ON t.oid = part.type
    WHERE t.typtype IN ('b', 'e') AND NOT (t.typcategory = 'A' AND t.typelem <> 0)
      AND NOT (t.oid = 'numeric'::regtype AND part.modifier <> -1)
      AND (t.oid = 'bpchar'::regtype AND part.modifier = -1 OR NOT EXISTS (
        SELECT FROM pg_opclass c JOIN pg_amproc p ON p.amprocfamily = c.opcfamily
            AND p.amprocnum = 4 AND p.amproclefttype = c.opcintype AND p.amprocrighttype = c.opcintype
        WHERE c.opcdefault AND c.opcmethod = (SELECT oid FROM pg_am WHERE amname = 'btree')
          AND c.opcintype = CASE WHEN t.typtype = 'e' THEN 'anyenum'::regtype
                                 WHEN t.oid = 'varchar'::regtype THEN 'text'::regtype
                                 WHEN t.oid = 'cidr'::regtype THEN 'inet'::regtype
                                 ELSE t.oid END))
    GROUP BY 1, 2)
SELECT key.indrelid, key.attname::text, format('OPERATOR(%I.%s)', n.nspname, o.oprname), ambiguous.type,
       (SELECT collname::text FROM pg_collation
        WHERE oid = key.indcollation[key.place - 1] AND NOT collisdeterministic)
FROM key
JOIN pg_opclass c ON c.oid = key.indclass[key.place - 1]
JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
    AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
JOIN pg_operator o ON o.oid = m.amopopr
JOIN pg_namespace n ON n.oid = o.oprnamespace
LEFT JOIN ambiguous ON (ambiguous.indrelid, ambiguous.place) = (key.indrelid, key.place)
ORDER BY key.indrelid, key.place";

const FOREIGN_KEYS: &str = "
SELECT f.conrelid, f.confrelid, f.conname::text, f.confdeltype::text,
       child_ns.nspname::text, child.relname::text, parent_ns.nspname::text, parent.relname::text,
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k(number, n)
             JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.number ORDER BY k.n),
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS k(number, n)
             JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.number ORDER BY k.n),
       ARRAY(SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
             FROM unnest(f.conpfeqop) WITH ORDINALITY AS k(operator, place)
             JOIN pg_operator o ON o.oid = k.operator
             JOIN pg_namespace n ON n.oid = o.oprnamespace ORDER BY k.place),
       ARRAY(SELECT a.attname::text
             FROM unnest(coalesce(f.confdelsetcols, f.conkey)) WITH ORDINALITY AS k(number, n)
             JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.number ORDER BY k.n),
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = f.confrelid AND i.indisprimary
               AND i.indnkeyatts = cardinality(f.confkey) AND f.confkey <@ i.indkey::int2[])
FROM pg_constraint f
JOIN pg_class child ON child.oid = f.conrelid
JOIN pg_namespace child_ns ON child_ns.oid = child.relnamespace
JOIN pg_class parent ON parent.oid = f.confrelid
JOIN pg_namespace parent_ns ON parent_ns.oid = parent.relnamespace
WHERE f.contype = 'f' AND (f.conrelid = ANY($1) OR f.confrelid = ANY($1)) AND f.conparentid = 0
ORDER BY f.conrelid, f.conname";

const CONSTRAINTS: &str = "
SELECT k.conrelid, k.contype = 'c', k.conname::text,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey) ORDER BY a.attnum),
       coalesce(pg_get_expr(k.conbin, k.conrelid), '')
FROM pg_constraint k
WHERE k.contype IN ('c', 'x') AND k.conrelid = ANY($1)
ORDER BY k.conrelid, k.conname";

const TRIGGERS: &str = "
SELECT t.tgrelid, t.tgname::text, t.tgenabled IN ('A', 'R'), t.tgisinternal,
       t.tgfoid = 'unique_key_recheck'::regproc
FROM pg_trigger t WHERE t.tgrelid = ANY($1)
ORDER BY t.tgrelid, t.tgname";

impl Reader {
    async fn relations(
        &mut self,
        snapshot: &Transaction<'_>,
        fleet: &Fleet,
    ) -> Result<Vec<TableName>, CatalogError> {
        let wanted: Vec<_> = fleet.tables().collect();
        let schemas: Vec<&str> = wanted.iter().map(|(table, _)| table.schema.as_str()).collect();
        let names: Vec<&str> = wanted.iter().map(|(table, _)| table.name.as_str()).collect();
        let rows = snapshot.query(RELATIONS, &[&schemas, &names]).await;
        for row in rows.map_err(query("tables"))? {
            let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
            let Some((name, set)) = wanted.get(place) else { continue };
            let def = TableDef {
                name: (*name).clone(),
                set: *set,
                columns: Vec::new(),
                key: Vec::new(),
                rules: TableRules::default(),
            };
            let table = relation(def, &row)?;
            self.names.insert(table.oid, (*name).clone());
            self.tables.insert(table.oid, table);
        }
        let found: Vec<_> = self.names.values().collect();
        let missing = wanted.iter().filter(|(name, _)| !found.contains(name));
        Ok(missing.map(|(name, _)| (*name).clone()).collect())
    }

    async fn rows(
        &self,
        snapshot: &Transaction<'_>,
        what: &'static str,
        sql: &str,
    ) -> Result<Vec<Row>, CatalogError> {
        let oids: Vec<u32> = self.tables.keys().copied().collect();
        snapshot.query(sql, &[&oids]).await.map_err(query(what))
    }

    async fn partitions(&mut self, snapshot: &Transaction<'_>) -> Result<(), CatalogError> {
        for row in self.rows(snapshot, "partitions", PARTITIONS).await? {
            let Some(table) = self.tables.get_mut(&row.get(0)) else { continue };
            table.partitions.push(Partition {
                name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
                is_table: row.get(3),
                is_heap: row.get(4),
                is_unlogged: row.get(5),
            });
        }
        Ok(())
    }

    async fn columns(&mut self, snapshot: &Transaction<'_>) -> Result<(), CatalogError> {
        for row in self.rows(snapshot, "columns", COLUMNS).await? {
            let Some(table) = self.tables.get_mut(&row.get(0)) else { continue };
            let name: String = row.get(2);
            match row.get(7) {
                "" => {}
                kind => {
                    let (is_stored, expression) = (kind == "s", row.get(13));
                    let needs = row.get(14);
                    table.generated.push(GeneratedColumn { name, is_stored, expression, needs });
                    continue;
                }
            }
            table.def.columns.push(ColumnDef { name, type_name: row.get(3) });
            table.columns.push(LocalColumn {
                number: row.get(1),
                type_oid: row.get(4),
                cast: row.get(11),
                unfit_type: None,
                is_not_null: row.get(5),
                default: row.get(12),
                identity: match row.get::<_, &str>(6) {
                    "a" => Some(Identity::Always),
                    "d" => Some(Identity::ByDefault),
                    _ => None,
                },
                sequence: row.get::<_, Option<String>>(8).map(|schema| ColumnSequence {
                    name: TableName::new(schema, row.get::<_, String>(9)),
                    increment: row.get(10),
                }),
            });
        }
        Ok(())
    }

    async fn unfit_types(&mut self, snapshot: &Transaction<'_>) -> Result<(), CatalogError> {
        for row in self.rows(snapshot, "types of columns", UNFIT_TYPES).await? {
            let number: i16 = row.get(1);
            let table = self.tables.get_mut(&row.get(0));
            let columns = table.into_iter().flat_map(|table| &mut table.columns);
            if let Some(column) = columns.into_iter().find(|column| column.number == number) {
                column.unfit_type = Some(row.get(2));
            }
        }
        Ok(())
    }

    async fn indexes(&mut self, snapshot: &Transaction<'_>) -> Result<(), CatalogError> {
        for row in self.rows(snapshot, "indexes", INDEXES).await? {
            let Some(table) = self.tables.get_mut(&row.get(0)) else { continue };
            let (is_primary, is_immediate): (bool, bool) = (row.get(2), row.get(3));
            let columns: Vec<String> = row.get(7);
            if is_primary {
                table.key_is_deferrable = !is_immediate;
                let is_generated =
                    |name: &&String| table.generated.iter().any(|g| g.name == **name);
                match columns.iter().find(is_generated) {
                    Some(column) => table.generated_key = Some(column.clone()),
                    None => table.def.key = key_columns(&table.def, &columns)?,
                }
                continue;
            }
            table.unique.push(UniqueIndex {
                name: row.get(1),
                columns,
                has_expressions: row.get(4),
                is_partial: row.get(5),
                is_deferrable: !is_immediate,
                nulls_are_equal: row.get(6),
            });
        }
        Ok(())
    }

    async fn claims(
        &mut self,
        snapshot: &Transaction<'_>,
        fleet: &Fleet,
    ) -> Result<(), CatalogError> {
        let mut collations: BTreeMap<u32, Vec<IndexCollation>> = BTreeMap::new();
        for row in self.rows(snapshot, "collations", claims::COLLATIONS).await? {
            let (index, collation) = claims::collation(&row);
            collations.entry(index).or_default().push(collation);
        }
        for row in self.rows(snapshot, "unique indexes", claims::CLAIMS).await? {
            let Some(table) = self.tables.get_mut(&row.get(0)) else { continue };
            let mut claim = claims::claim(&row);
            claim.look_through(&table.generated);
            claim.collations = collations.remove(&row.get(9)).unwrap_or_default();
            let columns: BTreeSet<String> = claim.columns.iter().cloned().collect();
            let mut rules = fleet.unique(&table.def.name).iter();
            if let Some(rule) = rules.find(|rule| !claim.excludes && rule.columns == columns) {
                claim.loser = rule.loser;
            }
            table.claims.push(claim);
        }
        Ok(())
    }

    async fn keys(&mut self, snapshot: &Transaction<'_>) -> Result<(), CatalogError> {
        for row in self.rows(snapshot, "primary keys", KEYS).await? {
            let Some(table) = self.tables.get_mut(&row.get(0)) else { continue };
            table.key_columns.push(KeyColumn {
                name: row.get(1),
                equals: row.get(2),
                ambiguous: row.get(3),
                nondeterministic: row.get(4),
            });
        }
        Ok(())
    }

    async fn foreign_keys(&mut self, snapshot: &Transaction<'_>) -> Result<(), CatalogError> {
        for row in self.rows(snapshot, "foreign keys", FOREIGN_KEYS).await? {
            let name = |schema, table| {
                TableName::new(row.get::<_, String>(schema), row.get::<_, String>(table))
            };
            let (child, parent) = (name(4, 5), name(6, 7));
            if let Some(table) = self.tables.get_mut(&row.get(1))
                && !table.referenced_by.contains(&child)
            {
                table.referenced_by.push(child);
            }
            if let Some(table) = self.tables.get_mut(&row.get(0)) {
                table.foreign_keys.push(ForeignKey {
                    name: row.get(2),
                    columns: row.get(8),
                    parent,
                    parent_columns: row.get(9),
                    equals: row.get(10),
                    on_delete: on_delete(&table.def.name, row.get(3))?,
                    set_columns: row.get(11),
                    names_primary_key: row.get(12),
                });
            }
        }
        Ok(())
    }

    async fn constraints(&mut self, snapshot: &Transaction<'_>) -> Result<(), CatalogError> {
        for row in self.rows(snapshot, "constraints", CONSTRAINTS).await? {
            let Some(table) = self.tables.get_mut(&row.get(0)) else { continue };
            let (name, columns, expression) = (row.get(2), row.get(3), row.get(4));
            let constraint = ColumnConstraint { name, columns, expression };
            let is_check: bool = row.get(1);
            let list = if is_check { &mut table.checks } else { &mut table.exclusions };
            list.push(constraint);
        }
        Ok(())
    }

    async fn triggers(&mut self, snapshot: &Transaction<'_>) -> Result<(), CatalogError> {
        for row in self.rows(snapshot, "triggers", TRIGGERS).await? {
            let Some(table) = self.tables.get_mut(&row.get(0)) else { continue };
            table.triggers.push(Trigger {
                name: row.get(1),
                fires_in_replica: row.get(2),
                is_internal: row.get(3),
                is_recheck: row.get(4),
            });
        }
        Ok(())
    }
}

fn relation(def: TableDef, row: &Row) -> Result<LocalTable, CatalogError> {
    let (is_partition, inherits): (bool, bool) = (row.get(5), row.get(6));
    let replica_identity = match row.get::<_, &str>(8) {
        "d" => ReplicaIdentity::Default,
        "n" => ReplicaIdentity::Nothing,
        "f" => ReplicaIdentity::Full,
        "i" => ReplicaIdentity::Index,
        other => return Err(odd(&def.name, format!("replica identity {other:?}"))),
    };
    Ok(LocalTable {
        def,
        oid: row.get(1),
        kind: match row.get::<_, &str>(2) {
            "r" => RelationKind::Table,
            "p" => RelationKind::Partitioned,
            _ => RelationKind::Other,
        },
        is_heap: row.get::<_, Option<&str>>(3) == Some("heap"),
        is_unlogged: row.get::<_, &str>(4) != "p",
        is_partition,
        is_child: is_partition || inherits,
        has_children: row.get(7),
        partitions: Vec::new(),
        replica_identity,
        has_row_security: row.get(9),
        key_is_deferrable: false,
        key_columns: Vec::new(),
        columns: Vec::new(),
        generated: Vec::new(),
        generated_key: None,
        foreign_keys: Vec::new(),
        referenced_by: Vec::new(),
        unique: Vec::new(),
        claims: Vec::new(),
        checks: Vec::new(),
        exclusions: Vec::new(),
        triggers: Vec::new(),
    })
}

fn key_columns(def: &TableDef, names: &[String]) -> Result<Vec<ColumnId>, CatalogError> {
    let column = |name: &String| {
        let problem = || format!("key column {name:?} is unknown");
        def.column(name).ok_or_else(|| odd(&def.name, problem()))
    };
    names.iter().map(column).collect()
}

fn on_delete(table: &TableName, action: &str) -> Result<OnDelete, CatalogError> {
    match action {
        "a" => Ok(OnDelete::NoAction),
        "r" => Ok(OnDelete::Restrict),
        "c" => Ok(OnDelete::Cascade),
        "n" => Ok(OnDelete::SetNull),
        "d" => Ok(OnDelete::SetDefault),
        other => Err(odd(table, format!("foreign key action {other:?}"))),
    }
}

fn odd(table: &TableName, problem: String) -> CatalogError {
    CatalogError::Odd { table: table.clone(), problem }
}
