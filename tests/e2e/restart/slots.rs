//! The slot is lost, foreign, taken or moved.

use std::process::{Command, Stdio};

use landfall_tests::fleet::{DB, Fleet, SOON};
use landfall_tests::processes::{self, Signal};
use landfall_tests::wait::wait_until;

use super::{A, B, SCHEMA, TABLES, insert, own_seq, pair, wait_for_why};
use crate::support::{UNMET, assert_quiet, launch, refused, stop, value, wait_for_status};

const DROP: &str = "SELECT pg_drop_replication_slot('landfall_ship_a')";

#[test]
fn a_slot_that_is_not_ours_is_refused_by_what_it_is() {
    let mut fleet = pair();
    insert(&fleet, A, 1);
    fleet.converge();
    stop(&fleet, A);
    fleet.member(A).cluster().create_db("attic");
    let foreign = [
        ("postgres", "SELECT pg_create_physical_replication_slot('landfall_ship_a')", "physical"),
        (
            "attic",
            "SELECT pg_create_logical_replication_slot('landfall_ship_a', 'pgoutput')",
            "belongs to database \"attic\"",
        ),
        // One of our kind, made anew: what was committed since ours was dropped is not in it.
        (
            DB,
            "SELECT pg_create_logical_replication_slot('landfall_ship_a', 'pgoutput')",
            "the slot was confirmed up to",
        ),
    ];
    insert(&fleet, A, 2);
    let mut place = DB;
    for (db, make, told) in foreign {
        fleet.member(A).cluster().sql(place, DROP);
        fleet.member(A).cluster().sql(db, make);
        place = db;
        launch(&mut fleet, A);
        wait_for_status(&fleet, A, "/why", told);
        assert_eq!(own_seq(&fleet, A), 1);
        stop(&fleet, A);
    }
    assert_quiet(&fleet, &[A, B], &["this node is fenced", "fenced"]);
}

#[test]
fn a_slot_in_use_is_waited_for_and_one_that_others_read_is_not_trusted() {
    let mut fleet = pair();
    insert(&fleet, A, 1);
    fleet.converge();
    stop(&fleet, A);
    let cluster = fleet.member(A).cluster();
    let mut reader = Command::new(cluster.bin().program("pg_recvlogical"));
    reader.args(["-d", &cluster.conninfo(DB), "-S", "landfall_ship_a", "--start", "-f", "-"]);
    reader.args(["-o", "proto_version=1", "-o", "publication_names=landfall", "-s", "1"]);
    let mut reader = reader.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start");
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    wait_until("the slot to be taken", SOON, || match value(&fleet, A, active).as_str() {
        "1" => Ok(()),
        other => Err(format!("{other} are active")),
    });
    launch(&mut fleet, A);
    wait_for_status(&fleet, A, "/capture/cause", "is in use by process");
    wait_for_status(&fleet, A, "/capture/state", "retrying");
    fleet.sql(A, "SELECT txid_current()");
    let words = ["wait", "--for", "delivered", "--timeout", "1"];
    refused(&fleet, A, &words, UNMET, &["not reached within 1 s", "is in use by process"]);
    reader.kill().expect("kill");
    reader.wait().expect("wait");
    fleet.converge();

    // Somebody consumed what only we should have.
    stop(&fleet, A);
    insert(&fleet, A, 2);
    fleet.sql(A, "SELECT pg_replication_slot_advance('landfall_ship_a', pg_current_wal_lsn())");
    launch(&mut fleet, A);
    wait_for_why(&fleet, A, "fenced", "or somebody else read from the slot");
    assert_eq!(own_seq(&fleet, A), 1);
    assert_quiet(&fleet, &[A, B], &["this node is fenced", "fenced"]);
}

/// The server gives up a slot that holds back too much, whether we are there or not.
#[test]
fn a_slot_given_up_by_the_server_is_told_from_a_lost_connection() {
    let mut fleet = Fleet::new(SCHEMA, &TABLES)
        .site(A)
        .site(B)
        .link(A, B)
        .conf("max_slot_wal_keep_size", "1MB")
        .unsynced()
        .start();
    insert(&fleet, A, 1);
    fleet.converge();
    let pid = fleet.member(A).daemon().pid().expect("it runs");
    processes::signal(&[pid], Signal::Stop).expect("stop");
    insert(&fleet, A, 2);
    // Connected, but it does not take what comes.
    let status = "SELECT coalesce(wal_status, '') FROM pg_replication_slots";
    wait_until("the slot to be given up", SOON, || {
        fleet.sql(A, "INSERT INTO private VALUES ('x'); SELECT pg_switch_wal()");
        fleet.sql(A, "CHECKPOINT");
        match value(&fleet, A, status).as_str() {
            "lost" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    processes::signal(&[pid], Signal::Continue).expect("continue");
    let told = "\"landfall_ship_a\" was invalidated by the server";
    wait_for_why(&fleet, A, "operator", told);
    stop(&fleet, A);
    launch(&mut fleet, A);
    wait_for_why(&fleet, A, "operator", told);
    fleet.rebuild(A);
    insert(&fleet, A, 3);
    assert_eq!(fleet.converge(), 2);
    assert_quiet(&fleet, &[A, B], &[]);
}
