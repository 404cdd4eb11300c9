//! The store is set back or copied; and what only looks like that.

use std::fs;
use std::path::Path;

use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::wait::{wait_for, wait_until};

use super::{A, B, SCHEMA, TABLES, beds, insert, own_seq, pair, token, wait_for_why};
use crate::support::{
    Edited, OPERATOR, assert_quiet, config, launch, refused, stop, value, wait_for_status,
};

fn copy_store(from: &Path, to: &Path) {
    fs::create_dir(to).expect("make a directory");
    for entry in fs::read_dir(from).expect("list the store") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copy");
    }
}

#[test]
fn a_restored_store_is_fenced_and_the_right_one_goes_on() {
    let mut fleet = pair();
    insert(&fleet, A, 1);
    fleet.converge();
    stop(&fleet, A);
    let data = fleet.member(A).data_dir();
    let (copy, right) = (data.with_file_name("copy"), data.with_file_name("right"));
    copy_store(&data, &copy);
    launch(&mut fleet, A);
    insert(&fleet, A, 2);
    fleet.converge();
    stop(&fleet, A);
    // Nobody else is there to say so.
    stop(&fleet, B);

    fs::rename(&data, &right).expect("rename");
    fs::rename(&copy, &data).expect("rename");
    launch(&mut fleet, A);
    let restored = "the store was restored from a backup";
    wait_for_why(&fleet, A, "fenced", restored);
    insert(&fleet, A, 3);
    let words = ["wait", "--for", "delivered", "--timeout", "30"];
    refused(&fleet, A, &words, OPERATOR, &["stands still", restored]);
    assert_eq!(own_seq(&fleet, A), 1);
    launch(&mut fleet, B);
    insert(&fleet, B, 4);
    let status = fleet.member(A).status().expect("status");
    assert_eq!(status["peers"][0]["state"], "refused", "{status:#}");

    stop(&fleet, A);
    fs::rename(&data, &copy).expect("rename");
    fs::rename(&right, &data).expect("rename");
    launch(&mut fleet, A);
    assert_eq!(fleet.converge(), 4);

    // The old one for good: the site is rebuilt.
    stop(&fleet, A);
    fs::rename(&data, &right).expect("rename");
    fs::rename(&copy, &data).expect("rename");
    launch(&mut fleet, A);
    wait_for_why(&fleet, A, "fenced", restored);
    fleet.rebuild(A);
    assert_eq!(fleet.converge(), 4);
    assert_quiet(&fleet, &[A, B], &["this node is fenced", "refused", "FENCED", "fenced"]);
}

#[test]
fn a_copied_store_is_fenced_beside_the_one_that_runs() {
    let mut fleet = pair();
    insert(&fleet, A, 1);
    fleet.converge();
    stop(&fleet, A);
    let data = fleet.member(A).data_dir();
    copy_store(&data, &data.with_file_name("copy"));
    launch(&mut fleet, A);
    // Whoever has the slot first is the right one.
    wait_for_status(&fleet, A, "/capture/state", "working");

    let listen = fs::read_to_string(config(&fleet, A)).expect("read");
    let listen = listen.lines().find(|line| line.starts_with("listen")).expect("a line");
    let _listen = Edited::new(&config(&fleet, A), listen, "");
    let _data = Edited::new(&config(&fleet, A), "data_dir = \"data\"", "data_dir = \"copy\"");
    let twin = fleet.member(A).command(&["run"]).named("twin").start();
    wait_until("the twin to be fenced", SOON, || match twin.log() {
        log if log.contains("this node is fenced") && log.contains("or is a copy") => Ok(()),
        log => Err(log),
    });
    drop(twin);
    insert(&fleet, A, 2);
    assert_eq!(fleet.converge(), 2);
    assert_quiet(&fleet, &[A, B], &[]);
}

/// Between the two writes of a token stands nothing that a crash could not fall into.
#[test]
fn a_crash_while_the_token_is_renewed_is_no_restore() {
    let mut fleet = pair();
    for (round, plant) in (1..).zip(["unconfirmed-token", "unwritten-token"].repeat(2)) {
        insert(&fleet, A, round);
        stop(&fleet, A);
        let before = token(&fleet, A);
        let run = fleet.member(A).command(&["run"]).named(plant).env("LANDFALL_PLANT", plant);
        let hanging = run.start();
        // The row is locked until the database has the new token for good.
        let free = "SELECT count(*) FROM (SELECT FROM landfall.meta WHERE key = 'token' \
                    FOR UPDATE SKIP LOCKED) AS token";
        wait_for("a token half renewed", SOON, || match plant {
            "unconfirmed-token" => (token(&fleet, A) != before).then_some(()),
            _ => (value(&fleet, A, free) == "0").then_some(()),
        });
        hanging.kill9();
        launch(&mut fleet, A);
        wait_for_status(&fleet, A, "/capture/state", "working");
    }
    assert_eq!(fleet.converge(), 4);
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn a_crash_at_any_moment_is_no_restore() {
    let mut fleet = Fleet::new(SCHEMA, &TABLES)
        .site(A)
        .hub_with_database(B)
        .link(A, B)
        .conf("synchronous_commit", "off")
        .start();
    for (round, site) in [B, A, A, B].into_iter().enumerate() {
        insert(&fleet, A, round as u32);
        fleet.member(site).daemon().kill9();
        let before = token(&fleet, site);
        fleet.member(site).daemon().start_again();
        wait_for("a new token", SOON, || (token(&fleet, site) != before).then_some(()));
        fleet.member(site).daemon().kill9();
        if round >= 2 {
            fleet.member(site).cluster().kill9();
            fleet.member(site).cluster().restart();
        }
        launch(&mut fleet, site);
    }
    assert_eq!(fleet.converge(), 4);
    assert_eq!(beds(&fleet, B), "0,1,2,3");
    assert_quiet(&fleet, &[A, B], &[]);
}
