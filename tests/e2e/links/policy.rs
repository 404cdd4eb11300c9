//! What the operator wants of a link.

use std::time::Duration;

use landfall_engine::config::{HangUp, News, PeerPolicy};
use landfall_engine::links::PeerState;
use landfall_engine::time::{calendar::Window, wall_ms};
use landfall_tests::relay::UdpRelay;

use super::fleet::{World, site};

/// A hello and a few words, but far from what is written here.
const BUDGET: u64 = 300_000;
/// What a busy loopback carries until the budget is looked at, and the farewell.
const BEYOND: u64 = 8_000_000;
const WRITES: u64 = 400;
const WRITE_BYTES: usize = 100_000;

fn within(budget: u64) -> PeerPolicy {
    PeerPolicy { budget: Some(budget), ..PeerPolicy::default() }
}

#[test]
fn a_link_over_its_budget_is_hung_up_until_the_budget_is_raised() {
    let mut world = World::new(2);
    world.set_policy(2, 1, within(BUDGET));
    let port = world.start(1, &[]);
    let relay = UdpRelay::start(port.addr);
    let ship = world.start(2, &[(1, relay.addr())]);
    ship.wait_state(1, PeerState::Ready);
    ship.write(WRITES, WRITE_BYTES);
    let peer = ship.wait_cause(1, "the budget of 300000 bytes");
    assert_eq!(peer.state, PeerState::Down);
    assert!(peer.next_attempt_in_ms.is_some() && peer.month_bytes >= BUDGET, "{peer:?}");
    // The other side is told, and does not have it all.
    port.wait_cause(2, "its budget of bytes for this month is used up");
    assert!(port.held(2) < WRITES, "{} transactions within the budget", port.held(2));
    let (there, back) = relay.bytes();
    assert!(there + back < BUDGET + BEYOND, "{there} and {back} bytes");
    assert!(peer.month_bytes <= there + back, "{peer:?} of {there} and {back} bytes");
    ship.stop();

    // It remembers, and calls nobody.
    let ship = world.start(2, &[(1, relay.addr())]);
    assert!(ship.wait_cause(1, "the budget of 300000 bytes").month_bytes >= peer.month_bytes);
    assert_eq!(relay.bytes(), (there, back), "bytes beyond the budget");
    ship.stop();

    // With a larger budget it goes on.
    world.set_policy(2, 1, within(1 << 40));
    let ship = world.start(2, &[(1, relay.addr())]);
    port.wait_held(2, WRITES);
    let peer = ship.peer(1);
    assert!(peer.site == site(1) && peer.month_bytes > BUDGET, "{peer:?}");
}

#[test]
fn calls_of_a_peer_over_its_budget_are_refused_and_count() {
    let mut world = World::new(2);
    world.set_policy(1, 2, within(1));
    let port = world.start(1, &[]);
    let ship = world.start(2, &[port.at()]);
    ship.wait_cause(1, "its budget of bytes for this month is used up");
    let peer = port.wait_cause(2, "the budget of 1 bytes");
    assert!(peer.month_bytes > 0 && peer.next_attempt_in_ms.is_none(), "{peer:?}");
    assert_eq!(port.held(2), 0);
}

/// A window of an hour that begins in so many hours.
fn in_hours(hours: u64) -> PeerPolicy {
    let begins = wall_ms() / 3_600_000 + hours;
    let text = format!("{:02}:00-{:02}:00", begins % 24, begins % 24 + 1);
    PeerPolicy { windows: vec![Window::parse(&text).unwrap()], ..PeerPolicy::default() }
}

#[test]
fn there_is_no_link_outside_of_its_windows() {
    let mut world = World::new(2);
    world.set_policy(2, 1, in_hours(3));
    let port = world.start(1, &[]);
    let relay = UdpRelay::start(port.addr);
    let ship = world.start(2, &[(1, relay.addr())]);
    ship.write(3, 100);
    let peer = ship.wait_cause(1, "outside of windows_utc");
    let next_ms = peer.next_attempt_in_ms.unwrap();
    assert!((7_000_000..=10_800_000).contains(&next_ms), "{peer:?}");
    assert_eq!((peer.month_bytes, relay.bytes()), (0, (0, 0)));
    port.stop();

    // Nor when the other side calls, which is told why.
    let port = world.start(1, &[ship.at()]);
    port.wait_cause(2, "it is outside of the times of day for this link");
    assert_eq!(port.held(2), 0);
    ship.stop();
    port.stop();

    // Within one there is; the second is for a test that runs over the full hour.
    let mut policy = in_hours(0);
    policy.windows.extend(in_hours(1).windows);
    world.set_policy(2, 1, policy);
    let port = world.start(1, &[]);
    let ship = world.start(2, &[port.at()]);
    ship.wait_state(1, PeerState::Ready);
    port.wait_held(2, 3);
}

fn hanging_up(call_every: Duration, news: News) -> PeerPolicy {
    let hang_up = Some(HangUp { call_every, news });
    PeerPolicy { hang_up, ..PeerPolicy::default() }
}

#[test]
fn a_drained_link_is_hung_up_until_there_is_news() {
    let mut world = World::new(2);
    world.set_policy(2, 1, hanging_up(Duration::from_secs(3_600), News::Calls));
    let port = world.start(1, &[]);
    let relay = UdpRelay::start(port.addr);
    let ship = world.start(2, &[(1, relay.addr())]);
    port.write(5, 1_000);
    ship.write(5, 1_000);
    port.wait_held(2, 5);
    ship.wait_acked(1, 2, 5);
    ship.wait_held(1, 5);
    let mut before = 0;
    for round in 1..=3 {
        let peer = ship.wait_cause(1, "hung up, nothing was left to say");
        assert!(peer.next_attempt_in_ms.is_some_and(|ms| ms > 3_000_000), "{peer:?}");
        port.wait_cause(2, "nothing is left to say");
        // All was said, and nothing after the farewell.
        let written = 4 + round;
        assert_eq!((port.held(2), ship.held(1)), (written, 5));
        assert_eq!(ship.peer(1).received, port.log().received);
        let (there, back) = relay.bytes();
        assert!(there + back > before, "round {round}");
        before = there + back;
        ship.write(1, 1_000);
        // Once this is known there, the cause is not that of before.
        ship.wait_acked(1, 2, written + 1);
    }
}

#[test]
fn a_drained_link_is_called_again_in_time() {
    let mut world = World::new(2);
    world.set_policy(2, 1, hanging_up(Duration::from_secs(2), News::Waits));
    let port = world.start(1, &[]);
    let ship = world.start(2, &[port.at()]);
    ship.wait_cause(1, "hung up, nothing was left to say; it is called in time");
    port.write(1, 100);
    ship.wait_held(1, 1);
    ship.wait_cause(1, "hung up, nothing was left to say; it is called in time");
    ship.write(1, 100);
    port.wait_held(2, 1);
}
