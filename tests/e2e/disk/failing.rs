//! A disk that does not take what it is given.

use landfall_tests::disk::{Kind, may_mount};
use landfall_tests::fleet::SOON;

use super::{SHIP, SHORE, pair};
use crate::support::{OPERATOR, assert_quiet, launch};

const DISK_BYTES: u64 = 96 << 20;

#[test]
fn a_disk_that_only_reads_ends_the_daemon_and_the_next_start_goes_on() {
    if !may_mount() {
        return;
    }
    let mut fleet = pair().small_disk(SHIP, Kind::Ext4(DISK_BYTES)).start();
    fleet.sql(SHIP, "INSERT INTO entry VALUES (1, 'before')");
    fleet.converge();
    fleet.member(SHIP).small_disk().break_down().expect("break");
    fleet.sql(SHIP, "INSERT INTO entry VALUES (2, 'the application goes on')");
    let ended = fleet.member(SHIP).daemon().wait_exit(SOON);
    assert_eq!(ended.code(), Some(OPERATOR), "{}", fleet.member(SHIP).daemon().log());
    // What a supervisor does meanwhile.
    for _ in 0..2 {
        fleet.member(SHIP).daemon().start_again();
        let ended = fleet.member(SHIP).daemon().wait_exit(SOON);
        assert_eq!(ended.code(), Some(OPERATOR));
        let log = fleet.member(SHIP).daemon().log();
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("check the disk"), "{log}");
    }
    fleet.member(SHIP).small_disk().repair().expect("repair");
    launch(&mut fleet, SHIP);
    assert_eq!(fleet.converge(), 2);
    assert_quiet(&fleet, &[SHORE], &[]);
}

/// After a failed sync nobody knows what the disk holds, and asking it again does not tell.
#[test]
fn a_failed_sync_ends_the_daemon_and_the_next_start_goes_on() {
    for plant in ["failed-sync", "doubtful-sync"] {
        let mut fleet = pair().later(SHIP).start();
        fleet.member(SHIP).init().expect("init");
        let run = fleet.member(SHIP).command(&["run"]).named(plant).env("LANDFALL_PLANT", plant);
        let failing = run.start();
        fleet.sql(SHIP, "INSERT INTO entry VALUES (1, 'in doubt')");
        let ended = failing.wait_exit(SOON);
        assert_eq!(ended.code(), Some(OPERATOR), "{}", failing.log());
        assert!(failing.log().contains("disk I/O error"), "{}", failing.log());
        fleet.sql(SHIP, "INSERT INTO entry VALUES (2, 'the application goes on')");
        launch(&mut fleet, SHIP);
        assert_eq!(fleet.converge(), 2, "after {plant}");
        assert_quiet(&fleet, &[SHIP, SHORE], &[]);
    }
}
