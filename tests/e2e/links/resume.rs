//! Units that are cut off go on where they were, over restarts and through others.

use std::thread;
use std::time::Duration;

use landfall_engine::links::PeerState;
use landfall_protocol::id::Seq;
use landfall_tests::relay::{Profile, Relayed, UdpRelay};
use landfall_tests::wait::wait_until;

use super::fleet::{LIMIT, Node, World, origin};

/// Of hexadecimal digits, which pack to half.
const WRITTEN: usize = 120_000;
/// About as much comes of it.
const UNIT_BYTES: u64 = 62_000;
/// What may be sent in vain with a cut: what is not of the unit, and what was lost on the way.
const WASTE_MAX: u64 = 5_000;

fn world(members: u16) -> World {
    let mut world = World::new(members);
    world.settings.idle_timeout = Duration::from_millis(250);
    world.settings.keep_alive = Some(Duration::from_millis(50));
    world.settings.initial_rtt = Duration::from_millis(10);
    world.settings.mtu_discovery = false;
    world
}

/// Writes one unit, of which nothing passes after the first `bytes` of what it takes.
fn cut_after(relay: &UdpRelay, from: &Node, bytes: u64) -> Relayed {
    relay.cut_after_bytes(bytes);
    from.write(1, WRITTEN);
    wait_until("the cut", LIMIT, || relay.relayed().is_cut.then_some(()).ok_or("open"));
    relay.relayed()
}

/// Waits until this link is given up.
#[track_caller]
fn wait_lost(node: &Node, peer: u16) {
    wait_until("silence to be noticed", LIMIT, || match node.peer(peer) {
        found if found.state == PeerState::Ready => Err(format!("{found:?}")),
        _ => Ok(()),
    });
}

/// What happens at each place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The link heals after both have given it up.
    Heals,
    /// The receiver is stopped and started.
    ReceiverStops,
    /// The sender dies and is started.
    SenderDies,
}

/// Bytes that went the way of the units.
fn way(relayed: Relayed, then: Then) -> u64 {
    if then == Then::SenderDies { relayed.bytes_up } else { relayed.bytes_down }
}

/// Site 2 calls site 1 and receives, or sends when it is the sender that is to start anew.
fn check_cuts(then: Then, places: impl Iterator<Item = u64>) {
    let world = world(2);
    let port = world.start(1, &[]);
    let relay = UdpRelay::start(port.addr);
    let mut ship = world.start(2, &[(1, relay.addr())]);
    let is_up = then == Then::SenderDies;
    let mut written = 0;
    for place in places {
        ship.wait_state(1, PeerState::Ready);
        port.wait_state(2, PeerState::Ready);
        let before = way(relay.relayed(), then);
        let read_before = ship.peer(1).bytes_received;
        let resumed = |ship: &Node| if is_up { port.peer(2) } else { ship.peer(1) }.bytes_resumed;
        let mut resumed_before = resumed(&ship);
        let cut = way(cut_after(&relay, if is_up { &ship } else { &port }, place * 1_000), then);
        written += 1;
        // What lies unread in a socket is lost with a process that stops. A sign of life may have come
        // between the two counts.
        wait_until("what passed", LIMIT, || match ship.peer(1).bytes_received - read_before {
            read if is_up || read + 200 >= cut - before => Ok(()),
            read => Err(format!("{read} of {}", cut - before)),
        });
        match then {
            Then::Heals => wait_lost(&ship, 1),
            Then::ReceiverStops | Then::SenderDies => {
                if is_up {
                    ship.crash()
                } else {
                    ship.stop()
                }
                ship = world.start(2, &[(1, relay.addr())]);
                resumed_before = if is_up { resumed_before } else { 0 };
            }
        }
        wait_lost(&port, 2);
        relay.heal();
        let (receiver, of) = if is_up { (&port, 2) } else { (&ship, 1) };
        receiver.wait_held(of, written);
        let (came, resumed) = (cut - before, resumed(&ship) - resumed_before);
        let again = way(relay.relayed(), then) - cut;
        let what = format!("{then:?} at {place} kB: {came} came, {again} later, {resumed} kept");
        assert!((came.saturating_sub(WASTE_MAX)..=came).contains(&resumed), "{what}");
        assert!(came + again < UNIT_BYTES + 2 * WASTE_MAX, "{what}");
    }
    let (receiver, sender, of) = if is_up { (&port, &ship, 2) } else { (&ship, &port, 1) };
    assert_eq!(receiver.log().received_changes, written, "every change came once");
    assert_eq!(world.check_log(receiver, of, written), world.check_log(sender, of, written));
}

#[test]
fn a_unit_goes_on_wherever_it_was_cut_whoever_starts_anew() {
    let places = |first, step| (first..=UNIT_BYTES / 1_000).step_by(step);
    thread::scope(|scope| {
        for first in 1..=2 {
            scope.spawn(move || check_cuts(Then::Heals, places(first, 2)));
        }
        scope.spawn(move || check_cuts(Then::ReceiverStops, places(1, 3)));
        scope.spawn(move || check_cuts(Then::SenderDies, places(2, 3)));
    });
}

/// Where never more than a part of a unit gets through at once.
#[test]
fn a_unit_arrives_in_windows_that_are_too_short_for_it() {
    let world = world(2);
    let port = world.start(1, &[]);
    let relay = UdpRelay::start(port.addr);
    let ship = world.start(2, &[(1, relay.addr())]);
    ship.wait_state(1, PeerState::Ready);
    let window = 16_000;
    cut_after(&relay, &port, window);
    let mut windows = 1;
    while ship.held(1) == 0 {
        for (node, other) in [(&ship, 1), (&port, 2)] {
            wait_lost(node, other);
        }
        relay.heal();
        relay.cut_after_bytes(window);
        windows += 1;
        wait_until("the next cut, or all", LIMIT, || {
            (relay.relayed().is_cut || ship.held(1) == 1).then_some(()).ok_or("open")
        });
    }
    assert!(windows <= 9, "{windows} windows");
    assert!(ship.peer(1).bytes_resumed > UNIT_BYTES / 2);
    assert_eq!(ship.log().received_changes, 1);
}

/// What came of a long unit is kept while it trickles in.
#[test]
fn a_receiver_that_dies_has_most_of_what_came() {
    let world = world(2);
    let port = world.start(1, &[]);
    let relay = UdpRelay::start(port.addr);
    let ship = world.start(2, &[(1, relay.addr())]);
    ship.wait_state(1, PeerState::Ready);
    relay.set_profile(&Profile::default().with_rate(150.0));
    port.write(1, WRITTEN);
    let kept = wait_until("some of it to be kept", LIMIT, || {
        let kept = ship.block_on(ship.store.begun(origin(1), Seq::ZERO)).unwrap();
        kept.map(|begun| begun.bytes as u64).ok_or("nothing")
    });
    ship.crash();
    assert!((4_096..UNIT_BYTES).contains(&kept), "{kept}");
    relay.set_profile(&Profile::default());
    let ship = world.start(2, &[(1, relay.addr())]);
    ship.wait_held(1, 1);
    assert!(ship.peer(1).bytes_resumed >= kept, "{kept}");
}

#[test]
fn a_unit_goes_on_through_another_carrier() {
    let world = world(3);
    let port = world.start(1, &[]);
    let relay = UdpRelay::start(port.addr);
    let hub = world.start(2, &[port.at()]);
    let ship = world.start(3, &[(1, relay.addr()), hub.at()]);
    ship.wait_state(1, PeerState::Ready);
    let cut = cut_after(&relay, &port, 40_000);
    assert!(cut.bytes_down > 30_000, "{cut:?}");
    hub.wait_held(1, 1);
    ship.wait_held(1, 1);
    let resumed = ship.peer(2).bytes_resumed;
    assert!(resumed > 25_000 && ship.peer(1).bytes_resumed == 0, "{resumed}");
    assert_eq!(world.check_log(&ship, 1, 1), world.check_log(&port, 1, 1));
    assert_eq!(ship.block_on(ship.store.begun(origin(1), Seq(1))), Ok(None));
}
