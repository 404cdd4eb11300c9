//! Units get to everybody, over whoever has them.

use std::time::Duration;

use landfall_engine::links::PeerState;
use landfall_tests::relay::UdpRelay;
use landfall_tests::wait::wait_until;

use super::fleet::{LIMIT, World};

#[test]
fn two_members_exchange_both_ways() {
    let world = World::new(2);
    let port = world.start(1, &[]);
    port.write(5, 100);
    let ship = world.start(2, &[port.at()]);
    ship.write(7, 100);
    port.wait_held(2, 7);
    ship.wait_held(1, 5);
    // And while they are connected.
    port.write(20, 3000);
    ship.write(30, 3000);
    port.wait_held(2, 37);
    ship.wait_held(1, 25);
    port.wait_acked(2, 1, 25);
    ship.wait_acked(1, 2, 37);
    for (holder, of, seq) in [(&port, 2, 37), (&ship, 1, 25)] {
        let origin = if of == 1 { &port } else { &ship };
        assert_eq!(world.check_log(holder, of, seq), world.check_log(origin, of, seq));
        assert_eq!(holder.log().received_changes, seq, "every change came once");
    }
    let peer = port.wait_state(2, PeerState::Ready);
    assert!(peer.bytes_received > 40_000 && peer.bytes_sent > 30_000, "{peer:?}");
    assert!(peer.rtt.is_some() && peer.cause.is_none(), "{peer:?}");
    assert_eq!(peer.received, port.log().received, "what it sent it holds");
    assert!(peer.last_contact_ms_ago.is_some() && peer.next_attempt_in_ms.is_none(), "{peer:?}");
    assert_eq!(peer.name, "site-2");
}

#[test]
fn a_member_that_stops_says_so() {
    let world = World::new(2);
    let port = world.start(1, &[]);
    let ship = world.start(2, &[port.at()]);
    ship.wait_state(1, PeerState::Ready);
    port.wait_state(2, PeerState::Ready);
    ship.stop();
    let peer = port.wait_state(2, PeerState::Down);
    assert!(peer.cause.as_ref().unwrap().ends_with("shutting down: stopping"), "{peer:?}");
    assert_eq!(peer.next_attempt_in_ms, None, "who only calls is not called");
}

#[test]
fn units_go_on_to_members_that_never_meet() {
    let world = World::new(3);
    let middle = world.start(2, &[]);
    let (left, right) = (world.start(1, &[middle.at()]), world.start(3, &[middle.at()]));
    left.write(10, 500);
    right.write(10, 500);
    left.wait_held(3, 10);
    right.wait_held(1, 10);
    middle.write(1, 100);
    left.wait_held(2, 1);
    right.wait_held(2, 1);
    assert_eq!(world.check_log(&right, 1, 10), world.check_log(&left, 1, 10));
    assert_eq!(left.peer(3).state, PeerState::Down);
}

#[test]
fn a_late_joiner_gets_what_an_origin_left_behind() {
    let world = World::new(3);
    let hub = world.start(1, &[]);
    let ship = world.start(2, &[hub.at()]);
    ship.write(50, 2000);
    hub.wait_held(2, 50);
    let sealed = world.check_log(&ship, 2, 50);
    ship.stop();
    let store = world.start(3, &[hub.at()]);
    store.wait_held(2, 50);
    assert_eq!(world.check_log(&store, 2, 50), sealed);
}

#[test]
fn members_that_call_each_other_keep_one_connection() {
    let world = World::new(2);
    let [port, ship] = world.start_crosswise(1, 2);
    ship.write(3, 100);
    port.write(4, 100);
    port.wait_held(2, 3);
    ship.wait_held(1, 4);
    port.wait_acked(2, 1, 4);
    ship.wait_acked(1, 2, 3);
    port.wait_state(2, PeerState::Ready);
    ship.wait_state(1, PeerState::Ready);
}

#[test]
fn more_origins_than_streams_get_through() {
    let members = 90;
    let world = World::new(members);
    let hub = world.start(1, &[]);
    for number in 3..=members {
        world.seal_into(&hub, number, 4);
    }
    let ship = world.start(2, &[hub.at()]);
    for number in 3..=members {
        ship.wait_held(number, 4);
    }
    for round in 2..5 {
        for number in 3..=members {
            world.seal_into(&hub, number, 4);
        }
        for number in 3..=members {
            ship.wait_held(number, round * 4);
        }
    }
    world.check_log(&ship, members, 16);
}

#[test]
fn an_idle_link_is_silent() {
    let world = World::new(2);
    let port = world.start(1, &[]);
    let relay = UdpRelay::start(port.addr);
    let ship = world.start(2, &[(1, relay.addr())]);
    ship.write(5, 100);
    port.wait_held(2, 5);
    ship.wait_acked(1, 2, 5);
    wait_until("silence", LIMIT, || {
        let last = relay.relayed().last.expect("there was a link");
        let silent = last.elapsed() > Duration::from_secs(2);
        if silent { Ok(()) } else { Err(format!("{} datagrams", relay.relayed().datagrams())) }
    });
    assert_eq!(port.peer(2).state, PeerState::Ready);
    // And it is not dead.
    ship.write(1, 100);
    port.wait_held(2, 6);
}

#[test]
fn members_find_each_other_again_after_both_restart() {
    let world = World::new(2);
    let port = world.start(1, &[]);
    let ship = world.start(2, &[port.at()]);
    ship.write(3, 100);
    port.wait_held(2, 3);
    ship.wait_acked(1, 2, 3);
    ship.stop();
    port.crash();
    let port = world.start(1, &[]);
    let ship = world.start(2, &[port.at()]);
    // What was acknowledged before is known before anybody is heard.
    assert_eq!(port.held(2), 3);
    ship.write(2, 100);
    port.write(1, 100);
    port.wait_held(2, 5);
    ship.wait_held(1, 1);
    world.check_log(&port, 2, 5);
}

/// The higher site id loses the choice between two connections, but the first one is dead here.
#[test]
fn a_crashed_member_gets_back_in_over_the_connection_that_it_forgot() {
    let world = World::new(2);
    let ship = world.start(2, &[]);
    let port = world.start(1, &[ship.at()]);
    port.write(3, 100);
    ship.wait_held(1, 3);
    port.wait_state(2, PeerState::Ready);
    ship.crash();
    assert_eq!(port.peer(2).state, PeerState::Ready, "nobody told it");
    let ship = world.start(2, &[port.at()]);
    port.write(2, 100);
    ship.wait_held(1, 5);
    world.check_log(&ship, 1, 5);
}
