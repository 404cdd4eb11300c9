//! What the applications do in a round, and what must be everywhere afterwards.

use landfall_tests::fleet::{DB, Fleet};

use super::{CLINIC, SHIP};
use crate::support::value;

/// `landed` counts what is written to `entry` at this site, by the application and by replication
/// alike; it is not replicated itself.
pub(super) const SCHEMA: &str = "\
CREATE TABLE entry (id text PRIMARY KEY, round int NOT NULL, note text, scan text);
CREATE TABLE hot (id text PRIMARY KEY, a text, b text);
CREATE TABLE landed (id text);
CREATE FUNCTION land() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.landed VALUES (new.id); RETURN NULL; END $$;
CREATE TRIGGER land AFTER INSERT ON entry FOR EACH ROW EXECUTE FUNCTION land();
ALTER TABLE entry ENABLE ALWAYS TRIGGER land;";
pub(super) const TABLES: [&str; 2] = ["public.entry", "public.hot"];

const SITES: [&str; 2] = [SHIP, CLINIC];
/// So many rows of this length do not fit into memory at once.
const BULK_ROWS: u64 = 100;
const BULK_BYTES: u64 = 32 * 30;
/// Rows of both sites that stay: few, many, and one that is long.
const ROWS: u64 = 2 * (3 + BULK_ROWS + 1);
/// More than travels within a row.
const LONG_BYTES: u64 = 32 * 9000;

/// Every round has rows of its own, and works on some of the one before.
#[derive(Debug)]
pub(super) struct Round(u64);

impl Round {
    pub(super) fn new(number: u64) -> Self {
        Self(number)
    }

    /// Small transactions at both sites.
    pub(super) fn begin(&self, fleet: &Fleet) {
        let (now, before) = (self.0, self.0 - 1);
        for (site, other) in [(SHIP, "b"), (CLINIC, "a")] {
            let shared = match site {
                SHIP => format!(
                    "INSERT INTO hot SELECT '{now} ' || n FROM generate_series(0, 2) n; \
                     DELETE FROM hot WHERE id = '{before} 2'"
                ),
                _ => format!("UPDATE hot SET b = 'late' WHERE id = '{before} 2'"),
            };
            let sql = format!(
                "BEGIN; INSERT INTO entry SELECT '{site} {now} ' || n, {now}, 'new' \
                 FROM generate_series(1, 3) n; \
                 UPDATE hot SET a = '{site} {now}' WHERE id = '{before} 0'; \
                 UPDATE hot SET {other} = '{site} {now}' WHERE id = '{before} 1'; COMMIT; \
                 BEGIN; {shared}; INSERT INTO hot VALUES ('{now} both', '{site}'); COMMIT; \
                 BEGIN; UPDATE entry SET note = 'changed' WHERE id = '{site} {now} 1'; \
                 DELETE FROM entry WHERE id = '{site} {now} 2'; \
                 INSERT INTO entry VALUES ('{site} {now} 4', {now}, 'new'); COMMIT"
            );
            run(fleet, site, &sql);
        }
    }

    /// Large ones, and a long value.
    pub(super) fn go_on(&self, fleet: &Fleet) {
        let now = self.0;
        let gone = now.saturating_sub(2);
        for site in SITES {
            let bulk = BULK_BYTES / 32;
            let long = LONG_BYTES / 32;
            let sql = format!(
                "BEGIN; INSERT INTO entry SELECT '{site} {now} bulk ' || n, {now}, \
                 repeat(md5('{site} {now}' || n), {bulk}) FROM generate_series(1, {BULK_ROWS}) n; \
                 COMMIT; BEGIN; INSERT INTO entry VALUES ('{site} {now} long', {now}, 'long', \
                 repeat(md5('{site} {now}'), {long})); COMMIT; \
                 BEGIN; DELETE FROM entry WHERE id LIKE '{site} {gone} %'; COMMIT"
            );
            run(fleet, site, &sql);
        }
    }

    /// Whether the last transaction of each site seems to have come to the other. Asks no daemon,
    /// and says no while a server is away.
    pub(super) fn is_shown(&self, fleet: &Fleet) -> bool {
        let (now, gone) = (self.0, self.0.saturating_sub(2));
        let sql = format!(
            "SELECT count(*) FILTER (WHERE round = {now}) = {ROWS} \
             AND count(*) FILTER (WHERE round = {gone}) = 0 FROM entry"
        );
        SITES.iter().all(|site| {
            let shown = fleet.member(site).cluster().try_query_rows(DB, &sql);
            shown.is_ok_and(|rows| rows[0][0].as_deref() == Some("t"))
        })
    }

    /// Every site shows what was acknowledged, as often as it was written. That all show the same
    /// is known already.
    pub(super) fn check(&self, fleet: &Fleet) {
        let (now, before) = (self.0, self.0 - 1);
        for site in SITES {
            let sql = format!(
                "SELECT concat_ws(' ', count(*) FILTER (WHERE note = 'changed'), \
                 count(*) FILTER (WHERE note = 'new'), \
                 count(*) FILTER (WHERE id LIKE '% bulk %' AND length(note) = {BULK_BYTES}), \
                 count(*) FILTER (WHERE length(scan) = {LONG_BYTES}), count(*)) \
                 FROM entry WHERE round = {now}"
            );
            let bulk = BULK_ROWS * 2;
            assert_eq!(value(fleet, site, &sql), format!("2 4 {bulk} 2 {ROWS}"), "{site}");
            let old = format!("SELECT count(*) FROM entry WHERE round < {before}");
            assert_eq!(value(fleet, site, &old), "0", "{site}");
            let landed = "WITH seen AS (DELETE FROM landed RETURNING id) \
                 SELECT concat_ws(' ', count(*) - count(DISTINCT id), count(*)) FROM seen";
            // Some rows were deleted again, perhaps before the other site heard of them.
            let landed = value(fleet, site, landed);
            assert!(landed.starts_with("0 "), "rows were written twice at {site}: {landed}");
            if before == 0 {
                continue;
            }
            let shared = format!(
                "SELECT string_agg(concat_ws(',', id, a, b), ';' ORDER BY length(id), id) FROM hot \
                 WHERE id IN ('{before} 0', '{before} 1', '{now} both')"
            );
            let shared =
                value(fleet, site, &shared).replace(&format!(",{CLINIC}"), &format!(",{SHIP}"));
            let expected =
                format!("{before} 0,ship {now};{before} 1,ship {now},ship {now};{now} both,ship");
            assert_eq!(shared, expected, "{site}");
        }
    }
}

fn run(fleet: &Fleet, site: &str, sql: &str) {
    let done = fleet.member(site).cluster().try_sql(DB, sql);
    done.unwrap_or_else(|error| panic!("{site}: {error:#}"));
}
