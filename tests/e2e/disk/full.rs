//! No room.

use landfall_tests::disk::{Kind, may_mount};
use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::wait::wait_until;

use super::{SHIP, SHORE, number, pair, rows, status, text, wait_for_text};
use crate::support::{Edited, OPERATOR, assert_quiet, config, launch, stop};

const DISK_BYTES: u64 = 48 << 20;
const ALARMS: [&str; 3] = ["store is full", "units wait", "is not noted"];
const ADVICE: [&str; 2] = ["store is full", "free space on the disk of data_dir"];

/// Writes at the ship until its store says that it is full; returns the next free number.
fn write_until_full(fleet: &Fleet, mut next: u64) -> u64 {
    loop {
        fleet.sql(SHIP, &rows(next, 500));
        next += 500;
        let now = status(fleet, SHIP);
        if text(&now, "/store/cause").contains("store is full") {
            return next;
        }
        assert!(next < 100_000, "the store is never full: {now:#}");
    }
}

/// The application goes on writing while the store is full, and PostgreSQL keeps the WAL for it.
fn goes_on_while_full(fleet: &Fleet, next: u64) -> u64 {
    let before = wait_for_text(fleet, SHIP, "/capture/cause", &ADVICE);
    assert_eq!(before["state"], "running");
    assert_eq!(before["store"]["state"], "retrying");
    assert_eq!(before["capture"]["state"], "retrying");
    fleet.sql(SHIP, &rows(next, 2000));
    wait_until("PostgreSQL to keep more WAL", SOON, || {
        let now = status(fleet, SHIP);
        let kept = number(&now, "/slot/retained_bytes");
        match kept >= number(&before, "/slot/retained_bytes") + (3 << 20) {
            true => Ok(()),
            false => Err(format!("{before:#} then {now:#}")),
        }
    });
    let parts =
        ["The store is interrupted and tries again: store is full", ADVICE[1], "WAL for our slot"];
    wait_until("status to say so", SOON, || {
        let told = fleet.member(SHIP).command(&["status"]).run(SOON).expect("run").success();
        if parts.iter().all(|part| told.contains(part)) { Ok(()) } else { Err(told) }
    });
    next + 2000
}

fn count(fleet: &Fleet) -> u64 {
    let rows = fleet.rows(SHIP, "SELECT count(*) FROM entry");
    rows[0][0].as_deref().and_then(|count| count.parse().ok()).expect("a number")
}

#[test]
fn a_full_disk_lets_the_application_go_on_and_is_over_when_there_is_room() {
    if !may_mount() {
        return;
    }
    let fleet = pair().small_disk(SHIP, Kind::Memory(DISK_BYTES)).start();
    fleet.sql(SHIP, "INSERT INTO entry VALUES (0, 'before')");
    fleet.converge();
    let disk = fleet.member(SHIP).small_disk();
    disk.fill().expect("fill");
    assert_eq!(status(&fleet, SHIP)["store"]["disk_free_bytes"], 0);
    let next = write_until_full(&fleet, 1);
    let ballast = fleet.member(SHIP).data_dir().join("ballast");
    assert!(!ballast.exists(), "the ballast is for this");
    // What it gave is used up as well.
    disk.fill().expect("fill");
    let next = write_until_full(&fleet, next);
    let next = goes_on_while_full(&fleet, next);
    // What others send waits at them, and they know.
    fleet.sql(SHORE, &rows(1_000_000, 500));
    wait_until("the shore to know that the ship lacks rows", SOON, || {
        let now = status(&fleet, SHORE);
        match number(&now, "/peers/0/unacknowledged_changes") {
            500 => Ok(()),
            _ => Err(format!("{now:#}")),
        }
    });
    disk.resize(4 * DISK_BYTES).expect("resize");
    disk.make_room().expect("make room");
    assert_eq!(fleet.converge() as u64, count(&fleet));
    assert_eq!(count(&fleet), next + 500, "nothing is lost");
    let after = status(&fleet, SHIP);
    assert_eq!(after["store"]["state"], "working", "{after:#}");
    assert_eq!(after["capture"]["state"], "working", "{after:#}");
    assert_quiet(&fleet, &[SHIP, SHORE], &ALARMS);
}

/// The ballast is what a start on a full disk lives on; without it there is nothing to do but wait.
#[test]
fn a_daemon_starts_on_a_full_disk_or_says_why_and_goes_on_later() {
    if !may_mount() {
        return;
    }
    let mut fleet = pair().small_disk(SHIP, Kind::Memory(DISK_BYTES)).start();
    let ballast = fleet.member(SHIP).data_dir().join("ballast");
    stop(&fleet, SHIP);
    fleet.member(SHIP).small_disk().fill().expect("fill");
    assert!(ballast.exists());
    launch(&mut fleet, SHIP);
    fleet.sql(SHIP, "INSERT INTO entry VALUES (0, 'by the ballast')");
    fleet.converge();
    assert!(!ballast.exists());
    fleet.member(SHIP).small_disk().fill().expect("fill");
    let next = write_until_full(&fleet, 1);
    fleet.member(SHIP).daemon().kill9();
    launch(&mut fleet, SHIP);
    wait_for_text(&fleet, SHIP, "/capture/cause", &ADVICE);
    stop(&fleet, SHIP);
    fleet.member(SHIP).small_disk().fill().expect("fill");
    for _ in 0..2 {
        let daemon = fleet.member(SHIP).daemon();
        daemon.start_again();
        assert_eq!(daemon.wait_exit(SOON).code(), Some(OPERATOR), "{}", daemon.log());
        let log = daemon.log();
        let last = log.lines().last().unwrap_or_default();
        assert!(ADVICE.iter().all(|part| last.contains(part)), "{log}");
    }
    fleet.member(SHIP).small_disk().resize(4 * DISK_BYTES).expect("resize");
    launch(&mut fleet, SHIP);
    assert_eq!(fleet.converge() as u64, next, "nothing is lost");
    assert_quiet(&fleet, &[SHIP, SHORE], &ALARMS);
}

#[test]
fn a_store_over_its_budget_goes_on_with_a_larger_one() {
    let limit = "store_bytes_max = 16777216";
    let mut fleet = pair().config(&format!("[limits]\n{limit}\n")).start();
    fleet.link(SHIP, SHORE).cut();
    let next = write_until_full(&fleet, 1);
    assert_eq!(status(&fleet, SHIP)["store"]["bytes_max"], 16_777_216);
    let next = goes_on_while_full(&fleet, next);
    for member in [SHIP, SHORE] {
        stop(&fleet, member);
    }
    let larger = "store_bytes_max = 134217728";
    let _ship = Edited::new(&config(&fleet, SHIP), limit, larger);
    let _shore = Edited::new(&config(&fleet, SHORE), limit, larger);
    for member in [SHIP, SHORE] {
        launch(&mut fleet, member);
    }
    fleet.link(SHIP, SHORE).heal();
    assert_eq!(fleet.converge() as u64, next - 1, "nothing is lost");
    assert_eq!(status(&fleet, SHIP)["store"]["state"], "working");
    assert_quiet(&fleet, &[SHIP, SHORE], &ALARMS);
}

#[test]
fn a_transaction_that_finds_no_room_to_be_put_aside_waits_for_it() {
    if !may_mount() {
        return;
    }
    let fleet = pair()
        .config("[limits]\ntransaction_bytes_max = 65536\n")
        .small_disk(SHIP, Kind::Memory(DISK_BYTES))
        .start();
    let disk = fleet.member(SHIP).small_disk();
    disk.fill().expect("fill");
    fleet.sql(SHIP, &rows(1, 20_000));
    let parts = ["scratch file", "free space on the disk of data_dir"];
    let told = wait_for_text(&fleet, SHIP, "/capture/cause", &parts);
    assert_eq!(
        (&told["capture"]["state"], &told["state"]),
        (&"retrying".into(), &"running".into())
    );
    fleet.sql(SHIP, "INSERT INTO entry VALUES (0, 'the application goes on')");
    disk.resize(8 * DISK_BYTES).expect("resize");
    disk.make_room().expect("make room");
    assert_eq!(fleet.converge(), 20_001);
    assert_quiet(&fleet, &[SHIP, SHORE], &ALARMS);
}

/// The WAL that PostgreSQL keeps for us is watched against what it is allowed to keep.
#[test]
fn status_warns_before_the_slot_is_lost() {
    let fleet = pair()
        .config("[limits]\nstore_bytes_max = 16777216\n")
        .conf("max_slot_wal_keep_size", "128MB")
        .start();
    fleet.link(SHIP, SHORE).cut();
    let before = status(&fleet, SHIP);
    assert_eq!(before["slot"]["retained_bytes_max"], 128 << 20);
    assert!(number(&before, "/slot/left_bytes") > 64 << 20, "{before:#}");
    assert_eq!(before["warnings"].as_array().map(Vec::len), Some(0));
    let mut next = write_until_full(&fleet, 1);
    let warned = wait_until("a warning", SOON * 2, || {
        fleet.sql(SHIP, &rows(next, 2000));
        next += 2000;
        let now = status(&fleet, SHIP);
        let warning = text(&now, "/warnings/0");
        if warning.is_empty() { Err(format!("{now:#}")) } else { Ok((warning, now)) }
    });
    assert!(warned.0.contains("more the slot is lost"), "{}", warned.0);
    let kept = number(&warned.1, "/slot/retained_bytes");
    assert!((64 << 20..96 << 20).contains(&kept), "{:#}", warned.1);
    let told = fleet.member(SHIP).command(&["status"]).run(SOON).expect("run").success();
    assert!(told.contains("Warning: PostgreSQL keeps"), "{told}");
}
