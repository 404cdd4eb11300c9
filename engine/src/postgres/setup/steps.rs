//! The list of steps.

use std::fmt::Write as _;

use landfall_protocol::fleet::OWN_SCHEMA;
use landfall_protocol::schema::TableName;

use super::{LOCK_TIMEOUT, Plan};
use crate::postgres::sql::{quote_identifier, quote_literal, quote_table};

/// One thing the database needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What holds once it is done, for example `table public.bed cannot be truncated`.
    pub what: String,
    /// Makes it so; may run any number of times.
    pub sql: String,
    /// A query whose single value is true once it is so.
    pub probe: String,
    /// The replicated table it is about, if it is about one.
    pub table: Option<TableName>,
}

impl Step {
    fn new(what: impl Into<String>, sql: impl Into<String>, probe: impl Into<String>) -> Self {
        Self { what: what.into(), sql: sql.into(), probe: probe.into(), table: None }
    }
}

/// Pieces of long values on their way into a row. Nothing stays in it, so it needs no log.
const PIECE: &str = "piece";

/// Our own tables in schema `landfall`, with the columns each is made of.
pub const OWN_TABLES: [(&str, &str); 5] = [
    ("meta", "key text PRIMARY KEY, value text NOT NULL"),
    (
        "progress",
        "origin text PRIMARY KEY, seq bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()",
    ),
    (
        "conflict",
        "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    table_name text NOT NULL, row_key text NOT NULL, column_name text, rule text NOT NULL,
    winner_origin text NOT NULL, winner_seq bigint NOT NULL, winner_at timestamptz NOT NULL,
    loser_origin text NOT NULL, loser_seq bigint NOT NULL, loser_at timestamptz NOT NULL,
    loser_value text",
    ),
    (
        "parked",
        "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    origin text NOT NULL, seq bigint NOT NULL, table_name text NOT NULL, row_key text NOT NULL,
    op text NOT NULL, change text NOT NULL, reason text NOT NULL, advice text NOT NULL",
    ),
    (
        PIECE,
        "hash text NOT NULL, place int NOT NULL, piece text NOT NULL, PRIMARY KEY (hash, place)",
    ),
];

const REFUSE_TRUNCATE: &str = "CREATE OR REPLACE FUNCTION landfall.refuse_truncate() \
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table %.% is replicated by Landfall and cannot be truncated',
        TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'feature_not_supported', HINT = 'Use DELETE instead.';
END $$;";

/// What the step that makes our schema is for; while it is not done, hardly anything is.
pub const SCHEMA_IS_THERE: &str = "schema landfall is there";

const TRUNCATE_TRIGGER: &str = "landfall_refuse_truncate";

/// Everything but the slot, in the order it must be done.
#[must_use]
pub fn steps(plan: &Plan<'_>) -> Vec<Step> {
    let mut steps = role_steps(plan.role).to_vec();
    steps.extend(own_steps(plan.role));
    for (table, _) in plan.fleet.tables() {
        let about = |step| Step { table: Some(table.clone()), ..step };
        steps.extend(table_steps(plan.role, table).map(about));
    }
    steps.push(publication_step(plan));
    steps
}

/// The steps as a script for `psql`, with what must be done before and after.
#[must_use]
pub fn print_sql(plan: &Plan<'_>, program: &str) -> String {
    // A name in a comment must not end the comment.
    let in_comment = |text: &str| text.replace(['\n', '\r'], " ");
    let (member, role) = (plan.member, in_comment(&quote_identifier(plan.role)));
    let mut text = format!(
        "-- Landfall: prepares this database for member {member:?}.
-- Run it as a superuser, connected to this database; running it again changes nothing.
--
-- Before: the server must run with wal_level = logical (a change needs a restart):
--     ALTER SYSTEM SET wal_level = 'logical';
-- and the role must exist:
--     CREATE ROLE {role} LOGIN PASSWORD '...';
-- After: run {program} init, which then only checks and creates the replication slot.

SET lock_timeout = '{LOCK_TIMEOUT}';
SET client_min_messages = 'warning';
"
    );
    for step in steps(plan) {
        let what = in_comment(&step.what);
        write!(text, "\n-- {what}\n{}\n", step.sql).expect("writing to a String cannot fail");
    }
    text
}

fn role_steps(role: &str) -> [Step; 2] {
    let (name, text) = (quote_identifier(role), quote_literal(role));
    [
        Step::new(
            format!("role {role:?} may replicate"),
            format!("ALTER ROLE {name} REPLICATION;"),
            format!("SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = {text}"),
        ),
        Step::new(
            format!("role {role:?} may apply changes without firing the application's triggers"),
            format!("GRANT SET ON PARAMETER session_replication_role TO {name};"),
            format!("SELECT has_parameter_privilege({text}, 'session_replication_role', 'SET')"),
        ),
    ]
}

fn own_steps(role: &str) -> Vec<Step> {
    let mut steps = vec![Step::new(
        SCHEMA_IS_THERE,
        format!("CREATE SCHEMA IF NOT EXISTS {OWN_SCHEMA};"),
        format!("SELECT to_regnamespace('{OWN_SCHEMA}') IS NOT NULL"),
    )];
    let table_is_there = |(name, columns): &(&str, &str)| {
        Step::new(
            format!("table landfall.{name} is there"),
            if *name == PIECE {
                format!(
                    "CREATE UNLOGGED TABLE IF NOT EXISTS {OWN_SCHEMA}.{name} (\n    {columns}\n);
ALTER TABLE {OWN_SCHEMA}.{name} ALTER piece SET STORAGE EXTERNAL;"
                )
            } else {
                format!("CREATE TABLE IF NOT EXISTS {OWN_SCHEMA}.{name} (\n    {columns}\n);")
            },
            format!("SELECT to_regclass('{OWN_SCHEMA}.{name}') IS NOT NULL"),
        )
    };
    steps.extend(OWN_TABLES.iter().map(table_is_there));
    let own: Vec<_> =
        OWN_TABLES.iter().map(|(name, _)| TableName::new(OWN_SCHEMA, *name)).collect();
    steps.push(Step::new(
        format!("role {role:?} may write to the tables of schema landfall"),
        grant(role, OWN_SCHEMA, &own),
        is_granted(role, OWN_SCHEMA, &own),
    ));
    steps.push(Step::new(
        "the function that refuses TRUNCATE is there",
        REFUSE_TRUNCATE,
        "SELECT to_regprocedure('landfall.refuse_truncate()') IS NOT NULL",
    ));
    steps
}

fn table_steps(role: &str, table: &TableName) -> [Step; 4] {
    let name = quote_table(table);
    let oid = format!("to_regclass({})", quote_literal(&name));
    let itself = std::slice::from_ref(table);
    [
        Step::new(
            format!("role {role:?} may write to table {table}"),
            grant(role, &table.schema, itself),
            is_granted(role, &table.schema, itself),
        ),
        Step::new(
            format!("the WAL keeps whole old rows of table {table}"),
            format!("ALTER TABLE {name} REPLICA IDENTITY FULL;"),
            format!("SELECT relreplident = 'f' FROM pg_class WHERE oid = {oid}"),
        ),
        // Always: also for sessions that have switched ordinary triggers off.
        Step::new(
            format!("table {table} cannot be truncated"),
            format!(
                "CREATE OR REPLACE TRIGGER {TRUNCATE_TRIGGER} BEFORE TRUNCATE ON {name}
    FOR EACH STATEMENT EXECUTE FUNCTION landfall.refuse_truncate();
ALTER TABLE {name} ENABLE ALWAYS TRIGGER {TRUNCATE_TRIGGER};"
            ),
            format!(
                "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = {oid}
    AND tgname = '{TRUNCATE_TRIGGER}' AND tgenabled = 'A'
    AND tgfoid = to_regprocedure('landfall.refuse_truncate()'))"
            ),
        ),
        // Replication applies with ordinary triggers off, and these are triggers underneath.
        Step::new(
            format!("deferrable constraints of table {table} also hold for replicated changes"),
            format!(
                "DO $landfall$ DECLARE recheck name; BEGIN
    FOR recheck IN SELECT tgname FROM pg_trigger WHERE tgrelid = {oid}
        AND tgfoid = 'unique_key_recheck'::regproc AND tgenabled <> 'A'
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', {oid}, recheck);
    END LOOP;
END $landfall$;"
            ),
            format!(
                "SELECT NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = {oid}
    AND tgfoid = 'unique_key_recheck'::regproc AND tgenabled <> 'A')"
            ),
        ),
    ]
}

const RIGHTS: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

fn grant(role: &str, schema: &str, tables: &[TableName]) -> String {
    let role = quote_identifier(role);
    let names: Vec<_> = tables.iter().map(quote_table).collect();
    format!(
        "GRANT USAGE ON SCHEMA {} TO {role};\nGRANT {} ON {} TO {role};",
        quote_identifier(schema),
        RIGHTS.join(", "),
        names.join(", ")
    )
}

fn is_granted(role: &str, schema: &str, tables: &[TableName]) -> String {
    let role = quote_literal(role);
    let schema = quote_literal(&quote_identifier(schema));
    // Asked by oid: for a name that is not there these functions raise an error.
    format!(
        "SELECT coalesce(has_schema_privilege({role}, to_regnamespace({schema})::oid, 'USAGE'), false)
    AND (SELECT bool_and(coalesce(
        has_table_privilege({role}, to_regclass(name)::oid, privilege), false))
    FROM unnest({}) AS name, unnest(ARRAY['{}']) AS privilege)",
        text_array(tables),
        RIGHTS.join("', '")
    )
}

fn text_array(tables: &[TableName]) -> String {
    let names: Vec<_> = tables.iter().map(|table| quote_literal(&quote_table(table))).collect();
    format!("ARRAY[{}]::text[]", names.join(", "))
}

fn publication_step(plan: &Plan<'_>) -> Step {
    let (name, text) = (quote_identifier(plan.publication), quote_literal(plan.publication));
    let tables: Vec<_> = plan.fleet.tables().map(|(table, _)| table.clone()).collect();
    let list: Vec<_> = tables.iter().map(quote_table).collect();
    let list = list.join(",\n            ");
    // Never dropped: a slot behind the drop could not be decoded any more.
    let sql = format!(
        "DO $landfall$ BEGIN
    IF EXISTS (SELECT FROM pg_publication WHERE pubname = {text}) THEN
        ALTER PUBLICATION {name} SET TABLE
            {list};
        ALTER PUBLICATION {name} SET (publish = 'insert, update, delete',
            publish_via_partition_root = false);
    ELSE
        CREATE PUBLICATION {name} FOR TABLE
            {list}
            WITH (publish = 'insert, update, delete');
    END IF;
    -- Else this version refuses updates of tables with generated columns.
    IF current_setting('server_version_num')::int >= 180000 THEN
        ALTER PUBLICATION {name} SET (publish_generated_columns = stored);
    END IF;
END $landfall$;"
    );
    let probe = format!(
        "SELECT NOT p.puballtables AND p.pubinsert AND p.pubupdate AND p.pubdelete
    AND NOT p.pubtruncate AND NOT p.pubviaroot
    AND coalesce(to_jsonb(p) ->> 'pubgencols', 's') = 's'
    AND NOT EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = p.oid)
    AND NOT EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = p.oid
        AND (prqual IS NOT NULL OR prattrs IS NOT NULL))
    AND ARRAY(SELECT prrelid FROM pg_publication_rel WHERE prpubid = p.oid ORDER BY 1)
        = ARRAY(SELECT to_regclass(t)::oid FROM unnest({}) AS t ORDER BY 1)
FROM pg_publication p WHERE p.pubname = {text}",
        text_array(&tables)
    );
    Step::new(
        format!("publication {:?} has exactly the tables of the fleet", plan.publication),
        sql,
        probe,
    )
}
