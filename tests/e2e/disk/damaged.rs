//! A disk that gives back something else than it was given.

use std::fs;
use std::path::Path;

use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::wait::wait_until;

use super::{SCHEMA, SHIP, SHORE, TABLES, pair, rows, status, text, wait_for_text};
use crate::support::{OPERATOR, assert_quiet, launch, stop, value};

/// Flips a bit wherever `wanted` stands in the store, `behind` bytes after it.
fn flip(fleet: &Fleet, wanted: &[u8], behind: usize) {
    let path = fleet.member(SHIP).data_dir().join("landfall.db");
    let mut file = fs::read(&path).expect("read");
    let places: Vec<usize> =
        (0..file.len() - wanted.len()).filter(|at| file[*at..].starts_with(wanted)).collect();
    assert!(!places.is_empty(), "{} is not in the store", String::from_utf8_lossy(wanted));
    for place in places {
        file[place + behind] ^= 1;
    }
    fs::write(Path::new(&path), file).expect("write");
}

#[track_caller]
fn refuses_to_start(fleet: &Fleet, why: &str) {
    let daemon = fleet.member(SHIP).daemon();
    daemon.start_again();
    let ended = daemon.wait_exit(SOON);
    let log = daemon.log();
    assert_eq!(ended.code(), Some(OPERATOR), "{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains(why) && last.contains("check the disk"), "{log}");
}

#[test]
fn damaged_changes_are_never_sent() {
    let mut fleet = pair().start();
    fleet.sql(SHIP, "INSERT INTO entry VALUES (1, 'sent before')");
    fleet.converge();
    stop(&fleet, SHORE);
    fleet.sql(SHIP, "INSERT INTO entry VALUES (2, 'damaged on the disk')");
    wait_until("the change to be kept", SOON, || match status(&fleet, SHIP) {
        now if now["own_seq"] == 2 => Ok(()),
        now => Err(format!("{now:#}")),
    });
    stop(&fleet, SHIP);
    flip(&fleet, b"damaged on the disk", 0);
    launch(&mut fleet, SHIP);
    launch(&mut fleet, SHORE);
    let parts = ["store is damaged: table tail", "check the disk"];
    let told = wait_for_text(&fleet, SHIP, "/why", &parts);
    assert_eq!(
        (text(&told, "/state"), text(&told, "/store/state")),
        ("operator".into(), "operator".into())
    );
    fleet.sql(SHIP, "INSERT INTO entry VALUES (3, 'the application goes on')");
    wait_until("the change after it to be kept", SOON, || match status(&fleet, SHIP) {
        now if now["own_seq"] == 3 => Ok(()),
        now => Err(format!("{now:#}")),
    });
    assert_eq!(value(&fleet, SHORE, "SELECT string_agg(body, ',') FROM entry"), "sent before");
    assert_quiet(&fleet, &[SHORE], &[]);
}

#[test]
fn a_damaged_unit_is_never_passed_on() {
    const LATE: &str = "late";
    let mut fleet = Fleet::new(SCHEMA, &TABLES)
        .hub_with_database(SHORE)
        .hub(SHIP)
        .site(LATE)
        .link(SHORE, SHIP)
        .link(LATE, SHIP)
        .later(LATE)
        .start();
    for entry in ["(1, 'sound')", "(2, 'damaged in a unit')", "(3, 'behind it')"] {
        fleet.sql(SHORE, &format!("INSERT INTO entry VALUES {entry}"));
        fleet.converge();
    }
    stop(&fleet, SHORE);
    stop(&fleet, SHIP);
    flip(&fleet, b"damaged in a unit", 0);
    launch(&mut fleet, SHIP);
    fleet.join(LATE);
    let told = wait_for_text(&fleet, SHIP, "/why", &["store is damaged: table unit"]);
    assert_eq!(text(&told, "/state"), "operator");
    wait_until("what is sound to arrive", SOON, || {
        match value(&fleet, LATE, "SELECT string_agg(body, ',') FROM entry") {
            found if found == "sound" => Ok(()),
            found => Err(found),
        }
    });
}

#[test]
fn a_store_whose_state_is_damaged_is_not_opened() {
    let fleet = pair().start();
    fleet.sql(SHIP, &rows(1, 10));
    fleet.converge();
    stop(&fleet, SHIP);
    flip(&fleet, b"progress", 12);
    refuses_to_start(&fleet, "store is damaged: table meta");
    // The rest of the fleet does not care.
    assert_eq!(status(&fleet, SHORE)["state"], "running");
}

#[test]
fn a_store_whose_clocks_are_damaged_is_not_opened() {
    let schema = "CREATE TABLE entry (id text PRIMARY KEY, body text);";
    let fleet = Fleet::new(schema, &TABLES).site(SHIP).start();
    fleet.sql(SHIP, "INSERT INTO entry VALUES ('a row whose clock is damaged', 'x')");
    fleet.converge();
    stop(&fleet, SHIP);
    flip(&fleet, b"a row whose clock is damaged", 0);
    refuses_to_start(&fleet, "store is damaged: table clock");
    fleet.sql(SHIP, "INSERT INTO entry VALUES ('the application goes on', 'x')");
}
