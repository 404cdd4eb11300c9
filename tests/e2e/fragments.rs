//! A transaction too large for memory travels in fragments and is still one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use landfall_tests::fleet::{CONVERGE, DB, Fleet, SOON};
use landfall_tests::wait::{wait_for, wait_until};

const SCHEMA: &str = "\
CREATE TABLE item (id int PRIMARY KEY, name text UNIQUE, qty int NOT NULL);
CREATE TABLE line (item int NOT NULL REFERENCES item, n int, note text, PRIMARY KEY (item, n));";
const TABLES: [&str; 2] = ["public.item", "public.line"];
const LONG: &str = "CREATE TABLE image (id int PRIMARY KEY, title text, data text, bits bytea)";
const ROWS: u64 = 6000;

/// Daemons with so little memory that thousands of rows are many.
fn start() -> Fleet {
    Fleet::new(SCHEMA, &TABLES)
        .unsynced()
        .config("[limits]\ntransaction_bytes_max = 65536\n")
        .star("shore", &["ship-a", "ship-b"])
        .start()
}

fn fill() -> String {
    format!(
        "INSERT INTO item SELECT n, 'item ' || n, 0 FROM generate_series(1, {ROWS}) n; \
         INSERT INTO line SELECT n, 1, 'first' FROM generate_series(1, {ROWS}) n"
    )
}

/// Everything at once: updates, deletes, changed keys, and a unique name that another row takes
/// over.
const REWORK: &str = "\
UPDATE item SET qty = qty + 1;
DELETE FROM line WHERE item % 3 = 0;
UPDATE item SET id = id + 100000 WHERE id % 30 = 0;
DELETE FROM item WHERE id % 33 = 0 AND id < 100000;
INSERT INTO item SELECT n + 200000, 'item ' || n, 7 FROM generate_series(1, 6000) n
    WHERE n % 33 = 0 AND n % 30 <> 0;
UPDATE line SET note = note || ' and second';
INSERT INTO line SELECT id, 2, 'new' FROM item WHERE id % 2 = 0";

fn number(fleet: &Fleet, site: &str, sql: &str) -> u64 {
    let value = fleet.member(site).cluster().query_value(DB, sql).expect("a value");
    value.parse().expect("a number")
}

fn own_seq(fleet: &Fleet, site: &str) -> u64 {
    fleet.member(site).status().expect("status")["own_seq"].as_u64().expect("a number")
}

#[test]
fn a_large_transaction_is_seen_whole_or_not_at_all() {
    let fleet = start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !stop.load(Ordering::Acquire) {
                let counts =
                    "SELECT (SELECT count(*) FROM item) || ' ' || (SELECT count(*) FROM line)";
                let counts = fleet.member("ship-b").cluster().query_value(DB, counts);
                let counts = counts.expect("a value");
                let whole = format!("{ROWS} {ROWS}");
                assert!(counts == "0 0" || counts == whole, "a reader saw {counts}");
                looks += 1;
                if counts == whole {
                    break;
                }
            }
            looks
        });
        fleet.sql("ship-a", &fill());
        fleet.converge();
        stop.store(true, Ordering::Release);
        assert!(reader.join().expect("the reader") > 1);
    });
    let fragments = own_seq(&fleet, "ship-a");
    assert!(fragments > 20, "{fragments} entries in the log: nothing was large");

    // Both sides at once, with what they write in common.
    fleet.link("ship-b", "shore").cut();
    fleet.sql("ship-a", REWORK);
    fleet.sql("ship-b", "UPDATE item SET qty = 50 WHERE id % 7 = 0");
    fleet.sql("ship-b", "UPDATE line SET note = 'from b' WHERE item % 5 = 0");
    fleet.link("ship-b", "shore").heal();
    fleet.converge();
    for site in ["ship-a", "ship-b"] {
        assert_eq!(number(&fleet, site, "SELECT count(*) FROM landfall.parked"), 0);
        assert_eq!(number(&fleet, site, "SELECT count(*) FROM item WHERE id > 200000"), 163);
    }
    assert_eq!(fleet.repaired_rows(), 0);
    fleet.assert_quiet(&[]);
}

/// The writer is killed between two fragments, and the reader while it folds what it applied.
#[test]
fn a_large_transaction_survives_kills_in_its_middle() {
    let mut fleet = start();
    let mut seen = Vec::new();
    fleet.sql("ship-a", &fill());
    for _ in 0..3 {
        let before = seen.last().copied().unwrap_or(0);
        let reached = wait_for("fragments to be folded", SOON, || {
            Some(own_seq(&fleet, "ship-a")).filter(|seq| *seq > before + 2)
        });
        fleet.member("ship-a").daemon().kill9();
        if seen.len() == 2 {
            // What was begun in fragments goes on so, though it would fit into memory now.
            let file = fleet.member("ship-a").config_file();
            let config = std::fs::read_to_string(file).expect("the configuration");
            let raised = config.replace("= 65536", "= 67108864");
            assert_ne!(raised, config);
            std::fs::write(file, raised).expect("a new configuration");
        }
        fleet.launch("ship-a").expect("ship-a comes back");
        seen.push(reached);
    }
    wait_until("ship-b to have it", CONVERGE, || {
        let rows = number(&fleet, "ship-b", "SELECT count(*) FROM line");
        if rows == ROWS { Ok(()) } else { Err(format!("{rows} rows")) }
    });
    fleet.member("ship-b").daemon().kill9();
    fleet.launch("ship-b").expect("ship-b comes back");
    fleet.converge();
    let all = own_seq(&fleet, "ship-a");
    assert!(seen[0] < all, "{seen:?} of {all}: it was not killed in the middle");
    assert_eq!(number(&fleet, "ship-b", "SELECT count(*) FROM item"), ROWS);
    // Nothing was logged twice, and nothing folded twice.
    let fates = fleet.member("ship-b").status().expect("status")["fates"].clone();
    assert_eq!(fates["applied"], 2 * ROWS, "{fates}");
    assert_eq!(number(&fleet, "ship-b", "SELECT count(*) FROM landfall.conflict"), 0);
    assert_eq!(fleet.repaired_rows(), 0);
    fleet.assert_quiet(&[]);
}

/// A value far larger than what the daemons may keep is put aside, cut into pieces, and put
/// together again by PostgreSQL.
#[test]
fn a_long_value_travels_in_pieces() {
    let fleet =
        Fleet::new(LONG, &["public.image"]).unsynced().star("shore", &["ship-a", "ship-b"]).start();
    let check = |site: &str, length: u64| {
        let sql = "SELECT sum(length(bits)) + sum(length(data)) FROM image";
        assert_eq!(number(&fleet, site, sql), length);
    };
    // Characters of two bytes: no cut may divide one.
    fleet.sql(
        "ship-a",
        "INSERT INTO image SELECT n, 'one', 'x' || repeat('\u{e4}\u{f6}', 700000 * n), \
         decode(repeat(md5(n::text), 30000 * n), 'hex') FROM generate_series(1, 3) n",
    );
    fleet.converge();
    check("ship-b", 6 * 1_400_000 + 3 + 6 * 480_000);
    // What does not change does not travel again, wherever the row is written.
    let (up, down) = fleet.link("ship-a", "shore").bytes();
    fleet.sql("ship-b", "UPDATE image SET title = 'two'");
    fleet.sql("ship-a", "UPDATE image SET title = 'three' WHERE id = 2");
    fleet.converge();
    let (up_after, down_after) = fleet.link("ship-a", "shore").bytes();
    let travelled = up_after + down_after - up - down;
    assert!(travelled < 50_000, "{travelled} bytes for four short titles");
    // Back and forth, in conflict, and gone.
    fleet.link("ship-b", "shore").cut();
    fleet.sql("ship-a", "UPDATE image SET data = data || 'a' WHERE id = 1");
    fleet.sql("ship-b", "UPDATE image SET data = 'b' || data, bits = NULL WHERE id < 3");
    fleet.sql("ship-b", "UPDATE image SET id = 9 WHERE id = 3");
    fleet.link("ship-b", "shore").heal();
    fleet.converge();
    fleet.sql("ship-a", "DELETE FROM image WHERE id = 9");
    fleet.converge();
    for site in ["ship-a", "ship-b"] {
        assert_eq!(number(&fleet, site, "SELECT count(*) FROM landfall.parked"), 0);
        assert_eq!(number(&fleet, site, "SELECT count(*) FROM landfall.piece"), 0);
    }
    assert_eq!(fleet.repaired_rows(), 0);
    fleet.assert_quiet(&[]);
}

/// A large transaction that waits for a row, or only takes its time, holds up its own origin alone.
#[test]
fn others_do_not_wait_for_a_large_transaction() {
    let fleet = Fleet::new(SCHEMA, &TABLES)
        .unsynced()
        .config("[limits]\ntransaction_bytes_max = 65536\n")
        .star("shore", &["ship-a", "ship-b", "ship-c"])
        .start();
    fleet.sql("ship-a", &fill());
    fleet.converge();
    let keeper = fleet.member("ship-b").cluster().session(DB).expect("a session");
    keeper.batch("BEGIN; SELECT FROM item WHERE id = 3000 FOR UPDATE").expect("a lock");
    // What the other ship writes must not come after the large transaction.
    fleet.link("ship-c", "shore").cut();
    fleet.sql("ship-a", "UPDATE item SET qty = qty + 1");
    wait_until("ship-b to hold the large transaction", SOON, || {
        let status = fleet.member("ship-b").status().expect("status");
        let waits = status["apply"]["cause"].as_str().unwrap_or_default().to_owned();
        if waits.contains("waits") { Ok(()) } else { Err(format!("{status}")) }
    });
    fleet.sql(
        "ship-c",
        "INSERT INTO item SELECT n, 'late ' || n, 9 FROM generate_series(900000, 900009) n",
    );
    fleet.link("ship-c", "shore").heal();
    wait_until("the other ship's rows to arrive", SOON, || {
        let rows = number(&fleet, "ship-b", "SELECT count(*) FROM item WHERE qty = 9");
        if rows == 10 { Ok(()) } else { Err(format!("{rows} rows")) }
    });
    assert_eq!(number(&fleet, "ship-b", "SELECT count(*) FROM item WHERE qty = 1"), 0);
    keeper.batch("ROLLBACK").expect("an end");
    fleet.converge();
    assert_eq!(number(&fleet, "ship-b", "SELECT count(*) FROM item WHERE qty = 1"), ROWS);
    assert_eq!(fleet.repaired_rows(), 0);
    fleet.assert_quiet(&[]);
}
