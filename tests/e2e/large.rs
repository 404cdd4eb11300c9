//! Large and tiny, many and wide: it all arrives.

use landfall_tests::fleet::{DB, Fleet};

const SCHEMA: &str = "\
CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, qty int, at timestamptz);
CREATE TABLE image (id int PRIMARY KEY, title text, data text, bits bytea);
ALTER TABLE image ALTER data SET STORAGE EXTERNAL;";
const TABLES: [&str; 2] = ["public.item", "public.image"];

fn start() -> Fleet {
    Fleet::new(SCHEMA, &TABLES).unsynced().star("shore", &["ship-a", "ship-b"]).start()
}

fn value(fleet: &Fleet, sql: &str) -> String {
    fleet.member("ship-b").cluster().query_value(DB, sql).unwrap_or_default()
}

#[test]
fn one_transaction_of_fifty_thousand_rows_arrives_whole_and_both_ways() {
    let fleet = start();
    fleet.sql(
        "ship-a",
        "INSERT INTO item SELECT n, 'item ' || n, n % 100, now() FROM generate_series(1, 50000) n",
    );
    assert_eq!(fleet.converge(), 50_000);
    // Some of the same rows again, from the other side.
    fleet.sql("ship-b", "UPDATE item SET qty = qty + 1 WHERE id % 5 = 0");
    assert_eq!(fleet.converge(), 50_000);
    assert_eq!(fleet.repaired_rows(), 0);
    fleet.sql("ship-a", "DELETE FROM item WHERE id % 10 = 0");
    assert_eq!(fleet.converge(), 45_000);
    assert_eq!(value(&fleet, "SELECT count(*) FROM landfall.conflict"), "0");
    fleet.assert_quiet(&[]);
}

#[test]
fn five_thousand_tiny_transactions_arrive() {
    let fleet = start();
    let session = fleet.member("ship-a").cluster().session(DB).expect("a session");
    for chunk in 0..50 {
        let inserts: Vec<String> = (0..100)
            .map(|n| format!("INSERT INTO item VALUES ({}, 'tiny', {n}, NULL)", chunk * 100 + n))
            .collect();
        // Each in a transaction of its own, though they travel in one message.
        session.batch(&inserts.join("; COMMIT; ")).expect("insert");
    }
    assert_eq!(fleet.converge(), 5000);
    let status = fleet.member("ship-a").status().expect("status");
    assert_eq!(status["own_seq"], 5000);
    fleet.assert_quiet(&[]);
}

#[test]
fn a_row_of_five_megabytes_arrives() {
    let fleet = start();
    // Incompressible text and bytes, each its own.
    fleet.sql(
        "ship-a",
        "INSERT INTO image SELECT 1, 'large', string_agg(md5(n::text), ''), \
         decode(string_agg(md5((-n)::text), ''), 'hex') FROM generate_series(1, 105000) n",
    );
    fleet.converge();
    let lengths = "SELECT length(data) || ' ' || length(bits) FROM image";
    assert_eq!(value(&fleet, lengths), "3360000 1680000");
    fleet.sql("ship-b", "UPDATE image SET title = 'renamed'");
    fleet.converge();
    fleet.assert_quiet(&[]);
}

/// PostgreSQL does not log a TOAST value that an update leaves alone.
#[test]
fn an_untouched_toast_value_survives_updates_beside_it() {
    let fleet = start();
    fleet.sql(
        "ship-a",
        "INSERT INTO image SELECT n, 'first', \
         (SELECT string_agg(md5((n * 1000 + k)::text), '') FROM generate_series(1, 250) k), NULL \
         FROM generate_series(1, 20) n",
    );
    fleet.converge();
    let sum = "SELECT md5(string_agg(data, '' ORDER BY id)) || sum(length(data)) FROM image";
    let before = value(&fleet, sum);
    assert!(before.ends_with(&(20 * 8000).to_string()), "{before}");
    for round in 0..5 {
        fleet.sql("ship-a", &format!("UPDATE image SET title = 'round {round}'"));
        fleet.sql("ship-b", "UPDATE image SET bits = '\\x0102' WHERE id % 2 = 0");
    }
    fleet.converge();
    assert_eq!(value(&fleet, sum), before);
    assert_eq!(value(&fleet, "SELECT string_agg(DISTINCT title, ',') FROM image"), "round 4");
    // Nothing but the short columns has travelled: the untouched value was not sent again.
    let (up, down) = fleet.link("ship-a", "shore").bytes();
    fleet.sql("ship-a", "UPDATE image SET title = 'last'");
    fleet.converge();
    let (up_after, down_after) = fleet.link("ship-a", "shore").bytes();
    let travelled = up_after + down_after - up - down;
    assert!(travelled < 50_000, "{travelled} bytes for twenty short titles");
    fleet.assert_quiet(&[]);
}
