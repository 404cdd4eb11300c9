//! What `init` makes for keys that no two sites draw: numbers of time, site and a counter.

use landfall_protocol::fleet::OWN_SCHEMA;

use super::Plan;
use super::steps::{Step, is_as_made};

/// Bits of the counter within a millisecond, and of the site's number above it. The time has the
/// other 41 of 63 bits, which lasts from 2025 for 69 years.
const COUNTER_BITS: u32 = 6;
const SITE_BITS: u32 = 16;
/// 2025-01-01, milliseconds since 1970.
const EPOCH_MS: i64 = 1_735_689_600_000;
/// How far the sequence may lag behind the clock, in its own steps: a second.
const LAG_MAX: u32 = 1000 << COUNTER_BITS;

/// The step, behind those that make our tables.
pub(super) fn step(plan: &Plan<'_>) -> Step {
    let site = plan.fleet.member_named(plan.member).map_or(0, |member| member.site.number());
    let functions = [
        ("landfall.next_id()", next_id(site)),
        ("landfall.id_parts(bigint)", id_parts()),
        ("landfall.use_next_id(regclass, name)", use_next_id()),
    ];
    let made = functions.each_ref().map(|(_, sql)| sql.as_str()).join("\n");
    let are_made = functions.each_ref().map(|(name, sql)| is_as_made(name, sql)).join("\n    AND ");
    let sql = format!(
        "CREATE SEQUENCE IF NOT EXISTS {OWN_SCHEMA}.id_clock MINVALUE 0;
SELECT setval('{OWN_SCHEMA}.id_clock', {}) FROM {OWN_SCHEMA}.id_clock WHERE NOT is_called;
{made}
GRANT USAGE ON SCHEMA {OWN_SCHEMA} TO PUBLIC;
GRANT EXECUTE ON FUNCTION landfall.next_id() TO PUBLIC;
GRANT EXECUTE ON FUNCTION landfall.id_parts(bigint) TO PUBLIC;",
        present(),
    );
    let probe = format!(
        "SELECT {are_made}
    AND coalesce(has_schema_privilege('public', to_regnamespace('{OWN_SCHEMA}')::oid, 'USAGE'), false)"
    );
    Step::new("everybody may draw keys that no other site draws (landfall.next_id)", sql, probe)
}

/// The sequence holds time and counter, and gives each number once, whatever the clock does. When it
/// lags it is moved to the present, by one session while no other may draw: who draws holds a shared
/// lock, for as long as that takes and not to the end of its transaction, which would keep movers out.
/// Where they are kept out all the same the number is older than it could be, and as good.
fn next_id(site: u16) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION landfall.next_id() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $function$
DECLARE
    present bigint := {present};
    tick bigint;
BEGIN
    IF (SELECT present - last_value > {LAG_MAX} FROM landfall.id_clock)
        AND pg_try_advisory_lock({lock})
    THEN
        BEGIN
            PERFORM setval('landfall.id_clock', present) FROM landfall.id_clock
                WHERE present - last_value > {LAG_MAX};
            PERFORM pg_advisory_unlock({lock});
        EXCEPTION WHEN query_canceled OR OTHERS THEN
            PERFORM pg_advisory_unlock({lock});
            RAISE;
        END;
    END IF;
    PERFORM pg_advisory_lock_shared({lock});
    BEGIN
        tick := nextval('landfall.id_clock');
        PERFORM pg_advisory_unlock_shared({lock});
    EXCEPTION WHEN query_canceled OR OTHERS THEN
        PERFORM pg_advisory_unlock_shared({lock});
        RAISE;
    END;
    RETURN (tick >> {COUNTER_BITS} << {low})
        | ({site}::bigint << {COUNTER_BITS})
        | (tick & {counter_mask});
END $function$;",
        lock = "hashtext('landfall.id_clock')",
        present = present(),
        low = COUNTER_BITS + SITE_BITS,
        counter_mask = (1 << COUNTER_BITS) - 1,
    )
}

/// The step of the sequence that is now.
fn present() -> String {
    format!(
        "((extract(epoch FROM clock_timestamp()) * 1000)::bigint - {EPOCH_MS}) << {COUNTER_BITS}"
    )
}

fn id_parts() -> String {
    format!(
        "CREATE OR REPLACE FUNCTION landfall.id_parts(id bigint,
    OUT site int, OUT made_at timestamptz, OUT counter int)
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog AS $function$
    SELECT (id >> {COUNTER_BITS} & {site_mask})::int,
        to_timestamp(((id >> {low}) + {EPOCH_MS}) / 1000.0),
        (id & {counter_mask})::int
$function$;",
        low = COUNTER_BITS + SITE_BITS,
        site_mask = (1u32 << SITE_BITS) - 1,
        counter_mask = (1 << COUNTER_BITS) - 1,
    )
}

/// Runs with the rights of its caller, who must own the table.
fn use_next_id() -> String {
    "CREATE OR REPLACE FUNCTION landfall.use_next_id(relation regclass, col name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $function$
DECLARE
    kind regtype := (SELECT atttypid FROM pg_attribute
        WHERE attrelid = relation AND attname = col AND attnum > 0 AND NOT attisdropped);
    owned text := pg_get_serial_sequence(relation::text, col);
    is_identity bool := (SELECT attidentity <> '' FROM pg_attribute
        WHERE attrelid = relation AND attname = col);
BEGIN
    IF kind IS NULL THEN
        RAISE EXCEPTION 'table % has no column %', relation, col
            USING ERRCODE = 'undefined_column';
    ELSIF kind <> 'bigint'::regtype THEN
        RAISE EXCEPTION 'column % of table % is % and too small for these numbers', col, relation, kind
            USING ERRCODE = 'datatype_mismatch',
            HINT = format('At every site: ALTER TABLE %s ALTER COLUMN %I TYPE bigint;', relation, col);
    END IF;
    IF is_identity THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP IDENTITY', relation, col);
    ELSIF owned IS NOT NULL THEN
        EXECUTE format('ALTER SEQUENCE %s OWNED BY NONE', owned);
    END IF;
    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT landfall.next_id()', relation, col);
END $function$;"
        .to_owned()
}
