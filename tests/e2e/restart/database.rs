//! The database is set back, replaced or promoted.

use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::{DB, Fleet};

use super::{A, B, beds, insert, overtake, own_seq, pair, token, wait_for_why};
use crate::support::{
    Edited, OPERATOR, assert_quiet, config, launch, refused, stop, value, wait, wait_for_status,
};

const WAIT: [&str; 5] = ["wait", "--for", "delivered", "--timeout", "30"];

/// Nothing of what is written at A from now on leaves it, and nothing comes in.
fn assert_stands_still(fleet: &Fleet, told: &str, id: u32) {
    let (own, at_a, at_b) = (own_seq(fleet, A), beds(fleet, A), beds(fleet, B));
    insert(fleet, A, id);
    insert(fleet, B, id + 1);
    // The links go on: what the store holds is true, and the others may need it.
    wait(fleet, B, "delivered");
    refused(fleet, A, &WAIT, OPERATOR, &["stands still", told]);
    // Applying would have begun by now: it waits for no more than a look at its own token.
    wait_for_status(fleet, A, "/apply/state", "operator");
    assert_eq!(own_seq(fleet, A), own);
    assert_eq!(beds(fleet, A), format!("{at_a},{id}"));
    assert_eq!(beds(fleet, B), format!("{at_b},{}", id + 1));
    fleet.sql(A, &format!("DELETE FROM bed WHERE id = {id}"));
}

#[test]
fn a_restored_database_stops_its_site_until_it_is_rebuilt() {
    let mut fleet = pair();
    insert(&fleet, A, 1);
    fleet.converge();
    stop(&fleet, A);
    let backup = fleet.member(A).cluster().back_up("backup");
    launch(&mut fleet, A);
    insert(&fleet, A, 2);
    fleet.converge();

    // Restored while the daemon is down, and found at its start.
    stop(&fleet, A);
    fleet.member(A).cluster().restore(&backup);
    launch(&mut fleet, A);
    let restored = "the database was restored from a backup";
    wait_for_why(&fleet, A, "operator", restored);
    assert_stands_still(&fleet, restored, 100);
    // The log grows past what the store knows: that is no reason to go on.
    overtake(&fleet, A);
    stop(&fleet, A);
    launch(&mut fleet, A);
    wait_for_why(&fleet, A, "operator", "the database carries token");
    assert_stands_still(&fleet, restored, 200);
    fleet.rebuild(A);
    assert_eq!(fleet.converge(), 4);
    assert_eq!(beds(&fleet, A), "1,2,101,201");

    // Restored while the daemon runs.
    let backup = fleet.member(A).cluster().back_up("later");
    insert(&fleet, A, 3);
    fleet.converge();
    fleet.member(A).cluster().restore(&backup);
    overtake(&fleet, A);
    wait_for_why(&fleet, A, "operator", restored);
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn a_standby_that_lagged_is_not_taken_for_its_primary() {
    let mut fleet = pair();
    insert(&fleet, A, 1);
    fleet.converge();
    let primary = fleet.member(A).cluster();
    let standby = primary.standby("standby");
    standby.stop_fast();
    // The daemon has nothing to renew its token for, so only positions and timelines can tell.
    let before = token(&fleet, A);
    fleet.sql(A, "INSERT INTO private VALUES ('never seen by the standby')");
    wait(&fleet, A, "delivered");
    assert_eq!(token(&fleet, A), before);
    stop(&fleet, A);
    primary.stop_fast();
    standby.restart();
    standby.promote();
    standby.sql(DB, "INSERT INTO private SELECT repeat('x', 1000) FROM generate_series(1, 3000)");
    let slot = "SELECT pg_create_logical_replication_slot('landfall_ship_a', 'pgoutput')";
    standby.sql(DB, slot);

    let conninfo = primary.socket_conninfo(DB);
    let _edited = Edited::new(&config(&fleet, A), &conninfo, &standby.socket_conninfo(DB));
    launch(&mut fleet, A);
    wait_for_why(&fleet, A, "operator", "the server is on timeline 2 now");
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn a_standby_that_had_everything_lacks_only_the_slot() {
    let mut fleet = pair();
    insert(&fleet, A, 1);
    fleet.converge();
    let standby = fleet.member(A).cluster().standby("standby");
    insert(&fleet, A, 2);
    fleet.converge();
    stop(&fleet, A);
    // A switch-over: a primary that shuts down sends everything to its standby first.
    fleet.member(A).cluster().stop_fast();
    let conninfo = fleet.member(A).cluster().socket_conninfo(DB);
    let _edited = Edited::new(&config(&fleet, A), &conninfo, &standby.socket_conninfo(DB));
    launch(&mut fleet, A);
    // It is no primary yet; that may change without us.
    wait_for_status(&fleet, A, "/capture/cause", "the server is a standby");
    wait_for_status(&fleet, A, "/capture/state", "retrying");
    standby.promote();
    wait_for_why(&fleet, A, "operator", "replication slot \"landfall_ship_a\" is missing");
    fleet.take_apart(A, &standby);
    fleet.join(A);
    standby.sql(DB, "INSERT INTO bed VALUES (3, 'at the new primary')");
    wait(&fleet, A, "converged");
    wait(&fleet, B, "converged");
    assert_eq!(beds(&fleet, B), "1,2,3");
    assert_eq!(standby.query_value(DB, "SELECT count(*) FROM bed").as_deref(), Some("3"));
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn a_cluster_loaded_from_a_dump_is_another_database() {
    let mut fleet = pair();
    insert(&fleet, A, 1);
    fleet.converge();
    stop(&fleet, A);
    // As after pg_upgrade, which gives the new cluster an identity of its own as well.
    let upgraded = Cluster::start("upgraded", &[]);
    upgraded.create_db(DB);
    upgraded.load_dump_of(fleet.member(A).cluster(), DB);
    let slot = "SELECT pg_create_logical_replication_slot('landfall_ship_a', 'pgoutput')";
    upgraded.sql(DB, slot);
    let conninfo = fleet.member(A).cluster().socket_conninfo(DB);
    let _edited = Edited::new(&config(&fleet, A), &conninfo, &upgraded.socket_conninfo(DB));
    launch(&mut fleet, A);
    wait_for_why(&fleet, A, "operator", "this store was made for database");
    assert_eq!(own_seq(&fleet, A), 1);
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn a_database_that_lost_our_schema_is_not_taken_for_a_new_one() {
    let mut fleet = pair();
    insert(&fleet, A, 1);
    fleet.converge();
    stop(&fleet, A);
    fleet.sql(A, "DROP SCHEMA landfall CASCADE");
    launch(&mut fleet, A);
    wait_for_why(&fleet, A, "operator", "table landfall.meta is missing");
    stop(&fleet, A);
    fleet.member(A).init().expect("init makes the schema anew");
    launch(&mut fleet, A);
    wait_for_why(&fleet, A, "operator", "the database carries token none");
    fleet.rebuild(A);
    insert(&fleet, A, 2);
    assert_eq!(fleet.converge(), 2);
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn links_do_not_wait_for_a_database_that_is_down() {
    let mut fleet = pair();
    insert(&fleet, A, 1);
    fleet.converge();
    stop(&fleet, A);
    fleet.member(A).cluster().stop_fast();
    insert(&fleet, B, 2);
    launch(&mut fleet, A);
    wait_for_status(&fleet, A, "/capture/cause", "cannot reach PostgreSQL");
    // Received and kept, to be shown later.
    wait(&fleet, B, "delivered");
    fleet.member(A).cluster().restart();
    assert_eq!(fleet.converge(), 2);
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'landfall status'";
    assert_eq!(value(&fleet, A, sessions), "1", "status keeps one session");
    assert_quiet(&fleet, &[A, B], &[]);
}
