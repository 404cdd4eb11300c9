//! What `init` makes for the history of conflicts: the columns that `landfall.conflict` got after
//! its first version, and the function by which the application names its user.

use landfall_protocol::change::ACTOR_BYTES_MAX;
use landfall_protocol::fleet::OWN_SCHEMA;

use super::steps::{Step, is_as_made};
use crate::postgres::sql::quote_literal;

/// Columns of `landfall.conflict` with their types, besides those it was first made with. Lines
/// from before have NULL in all of them.
pub(super) const COLUMNS: [(&str, &str); 17] = [
    ("key_columns", "text[]"),
    ("key_values", "text[]"),
    ("winner_site", "int"),
    ("winner_name", "text"),
    ("winner_hlc", "bigint"),
    ("winner_actor", "text"),
    ("winner_is", "text"),
    ("winner_value", "text"),
    ("loser_site", "int"),
    ("loser_name", "text"),
    ("loser_hlc", "bigint"),
    ("loser_actor", "text"),
    ("loser_is", "text"),
    ("loser_row", "jsonb"),
    ("undone_at", "timestamptz"),
    ("undone_by", "text"),
    ("undone_xid", "xid8"),
];

/// The steps, behind those that make our tables.
pub(super) fn steps() -> [Step; 2] {
    [columns_step(), act_as_step()]
}

fn columns_step() -> Step {
    let table = format!("{OWN_SCHEMA}.conflict");
    let add: Vec<String> = COLUMNS
        .iter()
        .map(|(name, kind)| format!("    ADD COLUMN IF NOT EXISTS {name} {kind}"))
        .collect();
    let names: Vec<String> = COLUMNS.iter().map(|(name, _)| quote_literal(name)).collect();
    Step::new(
        "the history of conflicts has all its columns",
        format!("ALTER TABLE {table}\n{};", add.join(",\n")),
        format!(
            "SELECT count(*) = {} FROM pg_attribute WHERE attrelid = to_regclass('{table}')
    AND NOT attisdropped AND attname IN ({})",
            COLUMNS.len(),
            names.join(", ")
        ),
    )
}

/// Whoever may write may say for whom: the message itself is free to everybody in PostgreSQL.
fn act_as_step() -> Step {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION landfall.act_as(actor text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $function$
BEGIN
    IF octet_length(actor) > {ACTOR_BYTES_MAX} OR actor ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION 'the name of an actor has at most {ACTOR_BYTES_MAX} bytes and no control characters'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_logical_emit_message(true, 'landfall.actor', coalesce(actor, ''));
END $function$;
GRANT USAGE ON SCHEMA {OWN_SCHEMA} TO PUBLIC;
GRANT EXECUTE ON FUNCTION landfall.act_as(text) TO PUBLIC;"
    );
    let probe = format!(
        "SELECT {}
    AND coalesce(has_schema_privilege('public', to_regnamespace('{OWN_SCHEMA}')::oid, 'USAGE'), false)
    AND coalesce(has_function_privilege('public', to_regprocedure('landfall.act_as(text)')::oid,
        'EXECUTE'), false)",
        is_as_made("landfall.act_as(text)", &sql)
    );
    let what = "everybody may name on whose behalf a transaction is made (landfall.act_as)";
    Step::new(what, sql, probe)
}
