//! What once stopped applying for everybody, or wrote a value where it does not belong.

use std::time::Duration;

use landfall_tests::fleet::{Builder, DB, Fleet};
use landfall_tests::wait::wait_for;

const SOON: Duration = Duration::from_secs(60);

fn pair(schema: &str, tables: &[&str]) -> Builder {
    Fleet::new(schema, tables).site("a").site("b").link("a", "b").unsynced()
}

/// One line per row, columns separated by commas.
fn told(fleet: &Fleet, site: &str, sql: &str) -> String {
    let rows = fleet.rows(site, sql).into_iter();
    let cells = rows.map(|row| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>());
    cells.map(|row| row.join(",")).collect::<Vec<_>>().join("\n")
}

fn wait_told(fleet: &Fleet, site: &str, sql: &str, expected: &str) {
    wait_for(&format!("{site} to show {expected:?}"), SOON, || {
        (told(fleet, site, sql) == expected).then_some(())
    });
}

#[test]
fn a_value_of_a_dropped_column_slides_into_no_other() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, x text, y text, z text)";
    let fleet = pair(schema, &["public.t"]).start();
    fleet.sql("a", "INSERT INTO t VALUES (1, 'x', 'y', 'z')");
    wait_told(&fleet, "b", "SELECT x, y, z FROM t", "x,y,z");
    fleet.sql("b", "ALTER TABLE t DROP COLUMN y");
    fleet.sql("a", "UPDATE t SET x = 'x2', y = 'y2', z = 'z2'");
    wait_told(&fleet, "b", "SELECT x, z FROM t", "x2,z2");
    fleet.sql("a", "INSERT INTO t VALUES (2, 'p', 'q', 'r')");
    wait_told(&fleet, "b", "SELECT x, z FROM t WHERE id = 2", "p,r");
    wait_told(&fleet, "b", "SELECT DISTINCT change FROM landfall.parked", "y");
}

#[test]
fn a_key_that_does_not_fit_here_is_parked_and_blocks_nobody() {
    let schema = "CREATE TABLE t (id bigint PRIMARY KEY, x text)";
    let fleet = pair(schema, &["public.t"]).start();
    fleet.sql("b", "ALTER TABLE t ALTER id TYPE int");
    fleet.sql("a", "INSERT INTO t VALUES (3000000000, 'large'), (1, 'beside it')");
    fleet.sql("a", "INSERT INTO t VALUES (2, 'after it')");
    wait_told(&fleet, "b", "SELECT id FROM t ORDER BY id", "1\n2");
    wait_told(&fleet, "b", "SELECT row_key FROM landfall.parked", "3000000000");
}

#[test]
fn a_deferred_constraint_refused_at_commit_stops_nothing() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, name text,
        CONSTRAINT names UNIQUE (name) DEFERRABLE INITIALLY DEFERRED)";
    let fleet = pair(schema, &["public.t"]).start();
    fleet.link("a", "b").cut();
    fleet.sql("a", "INSERT INTO t VALUES (1, 'Ada')");
    fleet.sql("b", "INSERT INTO t VALUES (2, 'Ada')");
    fleet.link("a", "b").heal();
    fleet.sql("a", "INSERT INTO t VALUES (3, 'Bob')");
    fleet.sql("b", "INSERT INTO t VALUES (4, 'Cy')");
    for site in ["a", "b"] {
        wait_told(&fleet, site, "SELECT id FROM t ORDER BY id", "1\n3\n4");
        wait_told(&fleet, site, "SELECT row_key FROM landfall.aside", "2");
    }
}

#[test]
fn a_table_dropped_at_one_site_stops_no_other_table_there() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE gone (id int PRIMARY KEY)";
    let fleet = pair(schema, &["public.t", "public.gone"]).start();
    fleet.sql("a", "INSERT INTO gone VALUES (1)");
    wait_told(&fleet, "b", "SELECT id FROM gone", "1");
    fleet.sql("b", "DROP TABLE gone");
    fleet.sql("a", "UPDATE gone SET id = 2; INSERT INTO gone VALUES (3)");
    fleet.sql("a", "INSERT INTO t VALUES (1)");
    wait_told(&fleet, "b", "SELECT id FROM t", "1");
}

#[test]
fn a_row_somebody_keeps_locked_holds_up_no_other_origin() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, x text)";
    let fleet = pair(schema, &["public.t"]).site("c").link("c", "b").start();
    fleet.sql("a", "INSERT INTO t VALUES (1, 'free')");
    wait_told(&fleet, "b", "SELECT x FROM t", "free");
    let keeper = fleet.member("b").cluster().session(DB).expect("connect");
    keeper.batch("BEGIN; SELECT * FROM t FOR UPDATE").expect("lock");
    // Without having seen what a writes next: what depends on that must wait for it.
    fleet.link("c", "b").cut();
    fleet.sql("c", "INSERT INTO t VALUES (2, 'from c')");
    fleet.sql("a", "UPDATE t SET x = 'from a'");
    wait_for("b to wait for the lock", SOON, || {
        let status = fleet.member("b").status().expect("status");
        status["apply"]["cause"].as_str().filter(|cause| cause.contains("locked")).map(drop)
    });
    fleet.link("c", "b").heal();
    wait_told(&fleet, "b", "SELECT x FROM t WHERE id = 2", "from c");
    keeper.batch("ROLLBACK").expect("let go");
    wait_told(&fleet, "b", "SELECT x FROM t WHERE id = 1", "from a");
    fleet.converge();
}

#[test]
fn a_forged_marker_hides_no_change() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, x text)";
    let fleet = pair(schema, &["public.t"]).start();
    for (id, forged) in [(1, "\\x02"), (2, "\\xff"), (3, "")] {
        fleet.sql(
            "a",
            &format!(
                "SELECT pg_logical_emit_message(true, 'landfall.apply', '{forged}'::bytea);
                 INSERT INTO t VALUES ({id}, 'mine')"
            ),
        );
    }
    wait_told(&fleet, "b", "SELECT id FROM t ORDER BY id", "1\n2\n3");
    fleet.converge();
}
