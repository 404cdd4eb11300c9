//! However much is written at once, the daemons stay small.

use std::fmt::Write as _;
use std::time::Duration;

use landfall_tests::fleet::{DB, Fleet};

/// What a daemon may have had in memory at most.
const PEAK_BYTES_MAX: u64 = 128 << 20;
/// A million rows through development builds on a busy machine.
const LONG: Duration = Duration::from_secs(420);
const TABLES: usize = 300;

/// Three hundred tables, as a database has that nobody designed for us.
fn start() -> Fleet {
    let mut schema = String::from(
        "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, qty int NOT NULL);\n\
         CREATE TABLE scan (id int PRIMARY KEY, title text, data text, bits bytea);\n",
    );
    let mut tables = vec!["public.item".to_owned(), "public.scan".to_owned()];
    for n in 0..TABLES {
        writeln!(schema, "CREATE TABLE t{n} (id int PRIMARY KEY, a text, b int, c timestamptz);")
            .expect("a String takes all");
        tables.push(format!("public.t{n}"));
    }
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    Fleet::new(&schema, &tables).unsynced().star("shore", &["ship-a", "ship-b"]).start()
}

fn assert_small(fleet: &Fleet, after: &str) {
    for name in ["ship-a", "ship-b", "shore"] {
        let peak = fleet.member(name).daemon().peak_memory_bytes();
        println!("{name} after {after}: {} MiB at most", peak >> 20);
        assert!(peak <= PEAK_BYTES_MAX, "{name} took {} MiB for {after}", peak >> 20);
    }
}

fn write(fleet: &Fleet, site: &str, what: &str, sql: &str) {
    fleet.sql(site, sql);
    fleet.converge_within(LONG);
    assert_small(fleet, what);
}

#[test]
fn a_million_rows_at_once_a_huge_row_and_many_tables_take_little_memory() {
    let fleet = start();
    assert_small(&fleet, "the start");
    let mut all = String::new();
    for n in 0..TABLES {
        write!(
            all,
            "INSERT INTO t{n} SELECT i, 'row ' || i, i, now() FROM generate_series(1, 20) i;"
        )
        .expect("a String takes all");
    }
    write(&fleet, "ship-a", "rows in 300 tables", &all);
    let tiny = "CREATE PROCEDURE tiny() LANGUAGE plpgsql AS $$ BEGIN \
         FOR n IN 1..100000 LOOP INSERT INTO t0 VALUES (1000 + n, 'tiny', n); COMMIT; END LOOP; END $$";
    fleet.sql("ship-a", tiny);
    let session = fleet.member("ship-a").cluster().session(DB).expect("a session");
    session.batch("SET synchronous_commit = off").expect("a setting");
    session.batch("CALL tiny()").expect("100,000 transactions");
    fleet.converge_within(LONG);
    assert_small(&fleet, "100,000 tiny transactions");
    write(
        &fleet,
        "ship-b",
        "a row of 100 MB",
        "INSERT INTO scan VALUES (1, 'large', repeat('0123456789abcdef', 3276800), \
         decode(repeat('0123456789abcdef', 3276800), 'hex'))",
    );
    write(&fleet, "ship-a", "its update", "UPDATE scan SET title = 'renamed', data = data || '.'");
    write(
        &fleet,
        "ship-a",
        "a million rows",
        "INSERT INTO item SELECT n, 'item ' || n, 0 FROM generate_series(1, 1000000) n",
    );
    fleet.assert_quiet(&[]);
}
