//! The list of steps.

use std::fmt::Write as _;

use landfall_protocol::fleet::OWN_SCHEMA;
use landfall_protocol::schema::TableName;

use super::{LOCK_TIMEOUT, Plan, history, ids};
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
    pub(super) fn new(
        what: impl Into<String>,
        sql: impl Into<String>,
        probe: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), sql: sql.into(), probe: probe.into(), table: None }
    }
}

/// Asks whether a function is there as this version makes it; its body stands in `sql` between two
/// `$function$`.
pub(super) fn is_as_made(signature: &str, sql: &str) -> String {
    let body = sql.split("$function$").nth(1).unwrap_or_default();
    format!(
        "coalesce((SELECT prosrc = {} FROM pg_proc WHERE oid = to_regprocedure({})), false)",
        quote_literal(body),
        quote_literal(signature)
    )
}

/// Pieces of long values on their way into a row. Nothing stays in it, so it needs no log.
const PIECE: &str = "piece";
/// What could not be shown here.
const PARKED: &str = "parked";

/// Our own tables in schema `landfall`, with the columns each is made of.
pub const OWN_TABLES: [(&str, &str); 6] = [
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
        PARKED,
        "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    origin text NOT NULL, seq bigint NOT NULL, place bigint NOT NULL DEFAULT 0,
    table_name text NOT NULL, row_key text NOT NULL, op text NOT NULL, change text NOT NULL, reason text NOT NULL, advice text NOT NULL",
    ),
    (
        "aside",
        "table_schema text NOT NULL, table_name text NOT NULL, key bytea NOT NULL,
    aside_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    row_key text NOT NULL, reason text NOT NULL, cells jsonb,
    PRIMARY KEY (table_schema, table_name, key)",
    ),
    (
        PIECE,
        "hash text NOT NULL, place int NOT NULL, piece text NOT NULL, PRIMARY KEY (hash, place)",
    ),
];

/// Lines are found by their change. Earlier versions made the table without the column.
const FIND_PARKED: &str = "
ALTER TABLE landfall.parked ADD COLUMN IF NOT EXISTS place bigint NOT NULL DEFAULT 0;
CREATE INDEX IF NOT EXISTS parked_change ON landfall.parked (origin, seq, place);";

const REFUSE_TRUNCATE: &str = "CREATE OR REPLACE FUNCTION landfall.refuse_truncate() \
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table %.% is replicated by Landfall and cannot be truncated',
        TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'feature_not_supported', HINT = 'Use DELETE instead.';
END $$;";

/// What the step that makes our schema is for; while it is not done, hardly anything is.
pub const SCHEMA_IS_THERE: &str = "schema landfall is there";

/// Everything but the slot, in the order it must be done.
#[must_use]
pub fn steps(plan: &Plan<'_>) -> Vec<Step> {
    let mut steps = role_steps(plan.role).to_vec();
    steps.extend(own_steps(plan.role));
    steps.push(ids::step(plan));
    for (table, _) in plan.fleet.tables() {
        let about = |step| Step { table: Some(table.clone()), ..step };
        steps.extend(table_steps(plan.role, table).map(about));
    }
    steps.push(publication_step(plan));
    steps.push(partitions_step(plan));
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
                let more = if *name == PARKED { FIND_PARKED } else { "" };
                format!("CREATE TABLE IF NOT EXISTS {OWN_SCHEMA}.{name} (\n    {columns}\n);{more}")
            },
            if *name == PARKED {
                "SELECT to_regclass('landfall.parked_change') IS NOT NULL".to_owned()
            } else {
                format!("SELECT to_regclass('{OWN_SCHEMA}.{name}') IS NOT NULL")
            },
        )
    };
    steps.extend(OWN_TABLES.iter().map(table_is_there));
    steps.extend(history::steps());
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
    let itself = std::slice::from_ref(table);
    // A partitioned table is nothing without its partitions: what holds for it must hold for them.
    let all = format!(
        "(SELECT to_regclass({0})::oid UNION SELECT relid FROM pg_partition_tree(to_regclass({0})))",
        quote_literal(&name)
    );
    let prepare = |condition: &str, statements: &str| {
        format!(
            "DO $landfall$ DECLARE part regclass; recheck name; BEGIN
    FOR part IN SELECT oid FROM pg_class c WHERE oid IN {all} AND {condition}
    LOOP
{statements}
    END LOOP;
END $landfall$;"
        )
    };
    let is_prepared = |condition: &str| {
        format!("SELECT bool_and(NOT {condition}) FROM pg_class c WHERE oid IN {all}")
    };
    [
        Step::new(
            format!("role {role:?} may write to table {table}"),
            grant(role, &table.schema, itself),
            is_granted(role, &table.schema, itself),
        ),
        Step::new(
            format!("the WAL keeps whole old rows of table {table}"),
            prepare(LACKS_IDENTITY, SET_IDENTITY),
            is_prepared(LACKS_IDENTITY),
        ),
        Step::new(
            format!("table {table} cannot be truncated"),
            prepare(LACKS_TRIGGER, SET_TRIGGER),
            is_prepared(LACKS_TRIGGER),
        ),
        Step::new(
            format!("deferrable constraints of table {table} also hold for replicated changes"),
            prepare(LACKS_RECHECK, SET_RECHECK),
            is_prepared(LACKS_RECHECK),
        ),
    ]
}

const LACKS_IDENTITY: &str = "(c.relreplident <> 'f')";
const SET_IDENTITY: &str = "        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', part);";

const LACKS_TRIGGER: &str = "(NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid
        AND tgname = 'landfall_refuse_truncate' AND tgenabled = 'A'
        AND tgfoid = to_regprocedure('landfall.refuse_truncate()')))";
// Always: also for sessions that have switched ordinary triggers off.
const SET_TRIGGER: &str =
    "        EXECUTE format('CREATE OR REPLACE TRIGGER landfall_refuse_truncate
            BEFORE TRUNCATE ON %s
            FOR EACH STATEMENT EXECUTE FUNCTION landfall.refuse_truncate()', part);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER landfall_refuse_truncate', part);";

// Replication applies with ordinary triggers off, and these are triggers underneath.
const LACKS_RECHECK: &str = "(EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid
        AND tgfoid = 'pg_catalog.unique_key_recheck'::regproc AND tgenabled <> 'A'))";
const SET_RECHECK: &str =
    "        FOR recheck IN SELECT tgname FROM pg_trigger WHERE tgrelid = part
            AND tgfoid = 'pg_catalog.unique_key_recheck'::regproc AND tgenabled <> 'A'
        LOOP
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', part, recheck);
        END LOOP;";

/// A partition that is made or attached later gets what its table got here, at once: the WAL of its
/// first change must have the whole old row already. Nobody needs it without partitioned tables.
fn partitions_step(plan: &Plan<'_>) -> Step {
    let tables: Vec<_> = plan.fleet.tables().map(|(table, _)| table.clone()).collect();
    let partitioned = format!(
        "EXISTS (SELECT FROM unnest({}) AS t JOIN pg_class c ON c.oid = to_regclass(t)
        AND c.relkind = 'p')",
        text_array(&tables)
    );
    let sql = format!(
        "CREATE OR REPLACE FUNCTION landfall.prepare_partitions() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $function$
DECLARE part regclass; recheck name;
BEGIN
    -- What it does fires it again.
    IF current_setting('landfall.preparing', true) = 'on' THEN
        RETURN;
    END IF;
    PERFORM set_config('landfall.preparing', 'on', true);
    FOR part IN SELECT c.oid FROM pg_class c
        JOIN pg_inherits i ON i.inhrelid = c.oid
        JOIN pg_publication_rel r ON r.prrelid = pg_partition_root(c.oid)
        JOIN pg_publication p ON p.oid = r.prpubid AND p.pubname = {publication}
        WHERE c.relispartition AND ({LACKS_IDENTITY} OR {LACKS_TRIGGER} OR {LACKS_RECHECK})
    LOOP
{SET_IDENTITY}
{SET_TRIGGER}
{SET_RECHECK}
    END LOOP;
    PERFORM set_config('landfall.preparing', 'off', true);
END $function$;
DO $landfall$ BEGIN
    IF {partitioned} THEN
        DROP EVENT TRIGGER IF EXISTS landfall_partitions;
        CREATE EVENT TRIGGER landfall_partitions ON ddl_command_end
            WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE')
            EXECUTE FUNCTION landfall.prepare_partitions();
        ALTER EVENT TRIGGER landfall_partitions ENABLE ALWAYS;
    END IF;
END $landfall$;",
        publication = quote_literal(plan.publication)
    );
    let probe = format!(
        "SELECT NOT {partitioned} OR EXISTS (SELECT FROM pg_event_trigger
    WHERE evtname = 'landfall_partitions' AND evtenabled = 'A'
    AND evtfoid = to_regprocedure('landfall.prepare_partitions()'))
    AND {}",
        is_as_made("landfall.prepare_partitions()", &sql)
    );
    Step::new("partitions that are made later are prepared as well", sql, probe)
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
            publish_via_partition_root = true);
    ELSE
        CREATE PUBLICATION {name} FOR TABLE
            {list}
            WITH (publish = 'insert, update, delete', publish_via_partition_root = true);
    END IF;
    -- Else this version refuses updates of tables with generated columns.
    IF current_setting('server_version_num')::int >= 180000 THEN
        ALTER PUBLICATION {name} SET (publish_generated_columns = stored);
    END IF;
END $landfall$;"
    );
    let probe = format!(
        "SELECT NOT p.puballtables AND p.pubinsert AND p.pubupdate AND p.pubdelete
    AND NOT p.pubtruncate AND p.pubviaroot
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
