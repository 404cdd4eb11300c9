//! The slot never makes PostgreSQL keep its log for our sake, and never keeps it from stopping.

use std::thread;
use std::time::Duration;

use landfall_tests::fleet::{DB, Fleet, SOON};
use landfall_tests::session::Session;
use landfall_tests::wait::wait_until;

const SCHEMA: &str = "\
CREATE TABLE entry (id int PRIMARY KEY, body text);
CREATE TABLE private (id int PRIMARY KEY, body text);";
const TABLES: [&str; 1] = ["public.entry"];
/// What the slot may be behind once the node has had the time to look.
const LAG_BYTES_MAX: u64 = 2 << 20;
/// A fast shutdown writes a checkpoint; waiting for a walsender would take a minute and fail.
const STOP_MAX: Duration = Duration::from_secs(10);

fn start() -> Fleet {
    Fleet::new(SCHEMA, &TABLES)
        .hub_with_database("shore")
        .site("ship")
        .link("ship", "shore")
        .start()
}

fn fill(table: &str, from: u32, rows: u32) -> String {
    let to = from + rows - 1;
    format!(
        "INSERT INTO {table} SELECT n, (SELECT string_agg(md5((n + k)::text), '') \
         FROM generate_series(1, 60) k) FROM generate_series({from}, {to}) n"
    )
}

/// How far the slot is behind: what is not confirmed, and what the server keeps, in bytes.
fn lag(fleet: &Fleet) -> (u64, u64) {
    // The slot's restart position follows the records of running transactions, which a checkpoint
    // writes; without one the server writes them every 15 s.
    let sql = "CHECKPOINT; SELECT pg_current_wal_lsn() - confirmed_flush_lsn, \
               pg_current_wal_lsn() - restart_lsn FROM pg_replication_slots";
    let rows = fleet.rows("ship", sql);
    let number = |place: usize| rows[0][place].as_deref().and_then(|n| n.parse().ok());
    (number(0).expect("a position"), number(1).expect("a position"))
}

fn wait_for_slot(fleet: &Fleet) {
    wait_until("the slot to follow", SOON, || match lag(fleet) {
        (confirmed, kept) if confirmed <= LAG_BYTES_MAX && kept <= LAG_BYTES_MAX => Ok(()),
        (confirmed, kept) => Err(format!("{confirmed} bytes unconfirmed, {kept} bytes kept")),
    });
}

fn written(fleet: &Fleet) -> u64 {
    let sql = "SELECT pg_current_wal_lsn() - '0/0'";
    fleet.member("ship").cluster().query_value(DB, sql).expect("a position").parse().expect("bytes")
}

#[test]
fn the_slot_follows_while_every_peer_is_away() {
    let fleet = start();
    fleet.converge();
    fleet.link("ship", "shore").cut();
    let before = written(&fleet);
    for chunk in 0..8 {
        fleet.sql("ship", &fill("entry", chunk * 1000, 1000));
        wait_for_slot(&fleet);
    }
    let wrote = written(&fleet) - before;
    assert!(wrote > 4 * LAG_BYTES_MAX, "{wrote} bytes of log prove nothing");
    fleet.link("ship", "shore").heal();
    fleet.converge();
    fleet.assert_quiet(&[]);
}

#[test]
fn the_slot_follows_while_only_other_tables_are_written() {
    let fleet = start();
    let before = written(&fleet);
    for chunk in 0..8 {
        fleet.sql("ship", &fill("private", chunk * 1000, 1000));
        wait_for_slot(&fleet);
    }
    let wrote = written(&fleet) - before;
    assert!(wrote > 4 * LAG_BYTES_MAX, "{wrote} bytes of log prove nothing");
    assert_eq!(fleet.member("ship").status().expect("status")["own_seq"], 0);
    fleet.assert_quiet(&[]);
}

#[test]
fn the_server_stops_at_once_and_the_node_goes_on_after_its_restart() {
    let fleet = start();
    fleet.sql("ship", "INSERT INTO entry VALUES (1, 'before')");
    fleet.converge();
    // The three ways there is something left to confirm: nothing, other tables, an absent peer.
    for (round, prepare) in ["", "private", "entry"].into_iter().enumerate() {
        let first = 10_000 * (round as u32 + 1);
        if prepare == "entry" {
            fleet.link("ship", "shore").cut();
        }
        if !prepare.is_empty() {
            fleet.sql("ship", &fill(prepare, first, 200));
        }
        let cluster = fleet.member("ship").cluster();
        let took = cluster.stop_fast();
        assert!(took < STOP_MAX, "stopping took {took:?} with {prepare:?} written");
        println!("a fast stop took {took:?} with {prepare:?} written");
        cluster.restart();
        fleet.sql("ship", &format!("INSERT INTO entry VALUES ({}, 'after')", first + 5000));
        if prepare == "entry" {
            fleet.link("ship", "shore").heal();
        }
        fleet.converge();
    }
    let status = fleet.member("shore").status().expect("status");
    assert_eq!(status["vector"][0]["received"], 5, "{}", status["vector"]);
    fleet.assert_quiet(&[]);
}

#[test]
fn the_server_stops_under_load_and_while_changes_are_applied() {
    let fleet = start();
    let ship = fleet.member("ship").cluster();
    let conninfo = ship.conninfo(DB);
    let applied =
        || fleet.member("ship").status().expect("status")["apply_counters"]["groups"].clone();
    for round in 0..2 {
        let (first, groups) = (100_000 * (round + 1), applied());
        fleet.sql("shore", &fill("entry", first, 3000));
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let session = Session::open(&conninfo).expect("connect");
                for id in first + 50_000..first + 80_000 {
                    if session.batch(&format!("INSERT INTO entry VALUES ({id}, 'x')")).is_err() {
                        break;
                    }
                }
            });
            wait_until("changes to be applied", SOON, || match applied() {
                now if now != groups => Ok(()),
                now => Err(now.to_string()),
            });
            let took = ship.stop_fast();
            println!("a fast stop under load took {took:?}");
            assert!(took < STOP_MAX, "stopping took {took:?}");
            writer.join().expect("the writer ends with its server");
        });
        ship.restart();
    }
    fleet.converge();
    fleet.assert_quiet(&[]);
}

#[test]
fn a_store_that_does_not_get_done_keeps_no_server_from_stopping() {
    let fleet = Fleet::new(SCHEMA, &TABLES)
        .hub_with_database("shore")
        .site("ship")
        .link("ship", "shore")
        .env("LANDFALL_PLANT", "stalled-store")
        .start();
    fleet.sql("ship", "INSERT INTO entry VALUES (1, 'never done')");
    let sent = "SELECT flush_lsn, sent_lsn, pg_current_wal_lsn() FROM pg_stat_replication \
                WHERE flush_lsn < sent_lsn AND sent_lsn = pg_current_wal_lsn()";
    wait_until("the row to be on its way", SOON, || match fleet.rows("ship", sent).len() {
        1 => Ok(()),
        _ => Err(format!("{:?}", fleet.rows("ship", "SELECT * FROM pg_stat_replication"))),
    });
    let took = fleet.member("ship").cluster().stop_fast();
    println!("a fast stop took {took:?}");
    assert!(took < STOP_MAX, "stopping took {took:?}");
    fleet.member("ship").cluster().restart();
    assert_eq!(fleet.member("ship").status().expect("status")["own_seq"], 0);
}

#[test]
fn a_full_store_keeps_no_server_from_stopping() {
    let fleet = Fleet::new(SCHEMA, &TABLES)
        .hub_with_database("shore")
        .site("ship")
        .link("ship", "shore")
        .config("[limits]\nstore_bytes_max = 16777216\n")
        .start();
    fleet.link("ship", "shore").cut();
    let full = "store is full";
    for chunk in 0.. {
        let first = chunk * 1000;
        let last = first + 999;
        fleet.sql(
            "ship",
            &format!(
                "INSERT INTO entry SELECT n, (SELECT string_agg(gen_random_uuid()::text, '') \
                 FROM generate_series(1, 60) WHERE n >= 0) FROM generate_series({first}, {last}) n"
            ),
        );
        let status = fleet.member("ship").status().expect("status");
        if status["capture"]["cause"].as_str().is_some_and(|cause| cause.contains(full)) {
            break;
        }
        assert!(chunk < 40, "{status:#}");
    }
    let took = fleet.member("ship").cluster().stop_fast();
    println!("a fast stop took {took:?}");
    assert!(took < STOP_MAX, "stopping took {took:?}");
    fleet.member("ship").cluster().restart();
}
