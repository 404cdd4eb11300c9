//! A link that is cut again and again.

use std::time::Duration;

use landfall_engine::links::PeerState;
use landfall_tests::relay::UdpRelay;
use landfall_tests::wait::wait_until;

use super::fleet::{LIMIT, World};

const CUTS: u64 = 24;
const WRITES: u64 = 12;

/// Bytes until the next cut: a fixed sequence, so that a failure can be run again.
struct Lengths(u64);

impl Lengths {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        2_000 + (self.0 >> 33) % 60_000
    }
}

#[test]
fn everything_arrives_once_and_in_order_over_a_link_that_is_cut() {
    let mut world = World::new(2);
    world.settings.idle_timeout = Duration::from_millis(400);
    world.settings.initial_rtt = Duration::from_millis(20);
    let port = world.start(1, &[]);
    let relay = UdpRelay::start(port.addr);
    let ship = world.start(2, &[(1, relay.addr())]);
    let mut lengths = Lengths(7);
    let mut written = 0;
    for cut in 0..CUTS {
        relay.cut_after_bytes(lengths.next());
        // Enough for the cut to fall into it, whatever of the last round is still on its way.
        ship.write(WRITES, 8_000);
        port.write(WRITES, 8_000);
        written += WRITES;
        wait_until("the cut", LIMIT, || relay.relayed().is_cut.then_some(()).ok_or("open"));
        if cut % 2 == 0 {
            ship.wait_state(1, PeerState::Down);
        }
        relay.heal();
    }
    port.wait_held(2, written);
    ship.wait_held(1, written);
    assert_eq!(world.check_log(&port, 2, written), world.check_log(&ship, 2, written));
    assert_eq!(world.check_log(&ship, 1, written), world.check_log(&port, 1, written));
    for node in [&port, &ship] {
        assert_eq!(node.log().received_changes, written, "every change came once");
    }
    port.wait_acked(2, 1, written);
    ship.wait_acked(1, 2, written);
}
