//! Indexes by which only one row may have something: unique ones, and those of EXCLUDE constraints.

use std::fmt;

use landfall_protocol::unique::Loser;
use tokio_postgres::Row;

use super::GeneratedColumn;

/// An index that lets only one row have something, other than the primary key's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimIndex {
    /// Its name, which is the constraint's where it has one.
    pub name: String,
    /// Whether an EXCLUDE constraint made it.
    pub excludes: bool,
    /// What it compares, in order.
    pub parts: Vec<ClaimPart>,
    /// Which rows it holds, as an expression; all of them if `None`.
    pub predicate: Option<String>,
    /// Whether two NULLs are one too many (`NULLS NOT DISTINCT`).
    pub nulls_are_equal: bool,
    /// Whether PostgreSQL looks at the end of a transaction only.
    pub is_deferrable: bool,
    /// The columns on which all that depends; of a generated one those that it is made of.
    pub columns: Vec<String>,
    /// The generated columns among what it looks at, with what they are as expressions.
    pub generated: Vec<(String, String)>,
    /// The collations by which it compares texts.
    pub collations: Vec<IndexCollation>,
    /// What becomes of a row whose values another one has.
    pub loser: Loser,
}

/// A collation of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexCollation {
    /// Its name.
    pub name: String,
    /// Whether only equal bytes are equal.
    pub is_deterministic: bool,
    /// Whether it is the database's own.
    pub is_default: bool,
    /// Whose it is: `libc`, `icu` or `builtin`.
    pub provider: String,
    /// What it is made for.
    pub locale: String,
    /// The version with which its indexes were built; `None` for one that has no versions.
    pub recorded: Option<String>,
    /// The version that the server has now.
    pub actual: Option<String>,
}

impl fmt::Display for IndexCollation {
    /// As sites compare it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, locale, actual, .. } = self;
        write!(f, "{provider} {}", actual.as_deref().unwrap_or("without a version"))?;
        write!(f, " for {locale:?}")
    }
}

/// One of the things that an index compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPart {
    /// A column, or an expression over columns, with its collation, as SQL.
    pub expression: String,
    /// The operator that says yes for rows that cannot both be there; `None` if there is no telling.
    pub operator: Option<String>,
}

impl ClaimIndex {
    /// Its collations under which different texts can be equal.
    pub fn loose_collations(&self) -> impl Iterator<Item = &IndexCollation> {
        self.collations.iter().filter(|collation| !collation.is_deterministic)
    }

    /// Puts the columns that generated ones are made of in their place.
    pub(super) fn look_through(&mut self, generated: &[GeneratedColumn]) {
        let mut columns = Vec::new();
        for name in std::mem::take(&mut self.columns) {
            match generated.iter().find(|column| column.name == name) {
                Some(column) => {
                    columns.extend(column.needs.iter().cloned());
                    self.generated.push((name, column.expression.clone()));
                }
                None => columns.push(name),
            }
        }
        for name in columns {
            if !self.columns.contains(&name) {
                self.columns.push(name);
            }
        }
    }
}

/// What is written of an index's columns that are not in the index by themselves stands in
/// `pg_depend`; columns that it only includes do so as well, and make no difference.
pub(super) const CLAIMS: &str = "
SELECT i.indrelid, c.relname::text, i.indisexclusion, i.indnullsnotdistinct, NOT i.indimmediate,
       pg_get_expr(i.indpred, i.indrelid),
       ARRAY(SELECT '(' || pg_get_indexdef(i.indexrelid, k.n, false) || ')' || coalesce(
                 (SELECT format(' COLLATE %I.%I', cn.nspname, co.collname)
                  FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
                  WHERE co.oid = i.indcollation[k.n - 1]), '')
             FROM generate_series(1, i.indnkeyatts::int) AS k(n) ORDER BY k.n),
       ARRAY(SELECT (SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
                     FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace
                     WHERE o.oid = coalesce(x.conexclop[k.n], (
                         SELECT m.amopopr FROM pg_opclass oc
                         JOIN pg_amop m ON m.amopfamily = oc.opcfamily AND m.amopstrategy = 3
                             AND m.amoplefttype = oc.opcintype AND m.amoprighttype = oc.opcintype
                         WHERE oc.oid = i.indclass[k.n - 1] AND c.relam = (
                             SELECT oid FROM pg_am WHERE amname = 'btree'))))
             FROM generate_series(1, i.indnkeyatts::int) AS k(n) ORDER BY k.n),
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = i.indrelid AND a.attnum > 0
               AND (a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])
                    OR NOT a.attnum = ANY(i.indkey::int2[]) AND EXISTS (
                        SELECT FROM pg_depend d
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
                          AND d.refobjsubid = a.attnum))
             ORDER BY a.attnum),
       c.oid
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint x ON x.conindid = i.indexrelid AND x.conrelid = i.indrelid
    AND x.contype = 'x'
WHERE i.indrelid = ANY($1) AND (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary
  AND i.indislive
ORDER BY i.indrelid, c.relname";

/// A database has a collation of its own since version 15, and what a collation is made for stands in another
/// column since 17.
pub(super) const COLLATIONS: &str = "
SELECT i.indexrelid, co.collname::text, co.collisdeterministic, co.collprovider = 'd',
       CASE CASE co.collprovider WHEN 'd' THEN d.datlocprovider ELSE co.collprovider END
           WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' ELSE 'builtin' END,
       left(coalesce(to_jsonb(co) ->> 'colllocale', to_jsonb(co) ->> 'colliculocale',
                     co.collcollate::text, ''), 200)
           || coalesce(' with rules ' || md5(to_jsonb(co) ->> 'collicurules'), ''),
       CASE co.collprovider WHEN 'd' THEN d.datcollversion ELSE co.collversion END,
       CASE co.collprovider WHEN 'd' THEN pg_database_collation_actual_version(d.oid)
           ELSE pg_collation_actual_version(co.oid) END
FROM pg_index i
CROSS JOIN LATERAL (SELECT DISTINCT unnest(i.indcollation::oid[]) AS id) k
JOIN pg_collation co ON co.oid = k.id
JOIN pg_database d ON d.datname = current_database()
WHERE i.indrelid = ANY($1) AND (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary
  AND i.indislive
ORDER BY i.indexrelid, 2";

/// A line of [`COLLATIONS`], with the index that it is about.
pub(super) fn collation(row: &Row) -> (u32, IndexCollation) {
    let collation = IndexCollation {
        name: row.get(1),
        is_deterministic: row.get(2),
        is_default: row.get(3),
        provider: row.get(4),
        locale: row.get(5),
        recorded: row.get(6),
        actual: row.get(7),
    };
    (row.get(0), collation)
}

/// A line of [`CLAIMS`].
pub(super) fn claim(row: &Row) -> ClaimIndex {
    let expressions: Vec<String> = row.get(6);
    let operators: Vec<Option<String>> = row.get(7);
    let parts = expressions.into_iter().zip(operators);
    ClaimIndex {
        name: row.get(1),
        excludes: row.get(2),
        parts: parts.map(|(expression, operator)| ClaimPart { expression, operator }).collect(),
        predicate: row.get(5),
        nulls_are_equal: row.get(3),
        is_deferrable: row.get(4),
        columns: row.get(8),
        generated: Vec::new(),
        collations: Vec::new(),
        loser: Loser::default(),
    }
}
