//! Processes that stand still for longer than anybody waits for them, and then go on as if nothing
//! had been: a suspended machine, a debugger, a disk that hangs.

use landfall_tests::fleet::{DB, Fleet, SOON};
use landfall_tests::processes::Signal;
use landfall_tests::wait::wait_until;

use crate::support::value;

const SCHEMA: &str = "\
CREATE TABLE entry (site text, n int, note text, PRIMARY KEY (site, n));
CREATE TABLE hot (id int PRIMARY KEY, last text);";
const SITES: [&str; 2] = ["ship-a", "ship-b"];
const HUB: &str = "shore";

/// Neighbours and servers that give somebody silent up within seconds.
fn start() -> Fleet {
    let fleet = Fleet::new(SCHEMA, &["public.entry", "public.hot"])
        .star(HUB, &SITES)
        .unsynced()
        .env("LANDFALL_PLANT", "impatient-link")
        .conf("wal_sender_timeout", "2s")
        .start();
    fleet.sql(SITES[0], "INSERT INTO hot SELECT n FROM generate_series(1, 8) n");
    fleet.converge();
    fleet
}

/// Some transactions at a site, beginning with number `first`.
fn write(fleet: &Fleet, site: &str, first: u64) {
    let session = fleet.member(site).cluster().session(DB).expect("connect");
    for n in first..first + 10 {
        let batch = format!(
            "INSERT INTO entry VALUES ('{site}', {n}, repeat('x', {n})); \
             UPDATE hot SET last = '{site} {n}' WHERE id = {n} % 8 + 1"
        );
        session.batch(&batch).expect("write");
    }
}

/// Waits until `member` says that it has no link with `peer`.
fn wait_for_link_down(fleet: &Fleet, member: &str, peer: &str) {
    wait_until(&format!("{member} to give {peer} up"), SOON, || {
        let status = fleet.member(member).status().map_err(|error| format!("{error:#}"))?;
        let mut peers = status["peers"].as_array().into_iter().flatten();
        match peers.find(|found| found["name"] == peer) {
            Some(found) if found["state"] == "waiting" => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
}

fn assert_all_there(fleet: &Fleet, of_each: u64) {
    for site in SITES {
        let count = value(fleet, site, "SELECT count(*) FROM entry");
        assert_eq!(count, (2 * of_each).to_string(), "{site}");
    }
}

#[test]
fn a_member_that_stood_still_is_taken_back() {
    let fleet = start();
    let mut first = 1;
    for (frozen, neighbours) in [(SITES[0], &[HUB][..]), (HUB, &SITES)] {
        let daemon = fleet.member(frozen).daemon();
        // Under way when it happens, and more behind it.
        SITES.iter().for_each(|site| write(&fleet, site, first));
        daemon.signal(Signal::Stop);
        SITES.iter().for_each(|site| write(&fleet, site, first + 10));
        for neighbour in neighbours {
            wait_for_link_down(&fleet, neighbour, frozen);
        }
        if frozen != HUB {
            wait_until("PostgreSQL to give the node up", SOON, || {
                match value(&fleet, frozen, "SELECT active FROM pg_replication_slots") {
                    active if active == "f" => Ok(()),
                    active => Err(active),
                }
            });
        }
        SITES.iter().for_each(|site| write(&fleet, site, first + 20));
        daemon.signal(Signal::Continue);
        first += 30;
        fleet.converge();
        assert_all_there(&fleet, first - 1);
    }
    fleet.assert_quiet(&[]);
}

#[test]
fn a_server_that_stood_still_holds_nobody_else_up() {
    let fleet = start();
    let [frozen, other] = SITES;
    SITES.iter().for_each(|site| write(&fleet, site, 1));
    let server = fleet.member(frozen).cluster();
    server.freeze();
    write(&fleet, other, 11);
    wait_until("the node to receive what it cannot apply", SOON, || {
        let status = fleet.member(frozen).status().map_err(|error| format!("{error:#}"))?;
        let mut origins = status["vector"].as_array().into_iter().flatten();
        match origins.find(|origin| origin["name"] == other) {
            Some(origin) if origin["received"] == 20 => Ok(()),
            origin => Err(format!("{origin:?}")),
        }
    });
    // Each waits some time for the server: together longer than the server waits for anybody.
    for _ in 0..3 {
        let status = fleet.member(frozen).status().expect("status");
        assert_eq!(status["state"], "running", "{status:#}");
        assert!(status["slot"].is_null(), "the server was asked in vain: {status:#}");
    }
    server.thaw();
    write(&fleet, frozen, 11);
    fleet.converge();
    assert_all_there(&fleet, 20);
    fleet.assert_quiet(&[]);
}
