//! Who may speak, and who must stop.

use std::sync::Arc;

use landfall_engine::identity::MemberKey;
use landfall_engine::links::PeerState;
use landfall_engine::store::Sealing;
use landfall_tests::wait::wait_until;

use super::fleet::{LIMIT, Node, World, origin};

#[track_caller]
fn wait_fenced(node: &Node) -> String {
    wait_until("the fence", LIMIT, || node.log().fenced.ok_or("not fenced"))
}

#[test]
fn a_member_with_another_key_is_refused_in_one_sentence() {
    let mut world = World::new(2);
    let port = world.start(1, &[]);
    let right = world.set_key(1, Arc::new(MemberKey::generate().unwrap()));
    let ship = world.start(2, &[port.at()]);
    let peer = ship.wait_state(1, PeerState::Refused);
    let cause = peer.cause.unwrap();
    let expected = format!(
        "peer at {} presented a key that is not the one pinned for site-1: {}",
        port.addr,
        right.public()
    );
    assert_eq!(cause, expected);
    assert!(peer.next_attempt_in_ms.is_some());
}

#[test]
fn a_stranger_learns_that_it_is_refused() {
    let mut world = World::new(2);
    let right = world.set_key(2, Arc::new(MemberKey::generate().unwrap()));
    let port = world.start(1, &[]);
    world.set_key(2, right);
    let ship = world.start(2, &[port.at()]);
    let cause = ship.wait_state(1, PeerState::Refused).cause.unwrap();
    assert!(cause.ends_with("refused our key: it is not pinned there, or is revoked"), "{cause}");
    assert_eq!(port.peer(2).state, PeerState::Down);
}

#[test]
fn fleets_with_different_sets_do_not_mix() {
    let mut world = World::new(2);
    let port = world.start(1, &[]);
    port.write(3, 100);
    world.set_table("ward");
    let ship = world.start(2, &[port.at()]);
    for (node, peer) in [(&ship, 1), (&port, 2)] {
        let cause = node.wait_state(peer, PeerState::Refused).cause.unwrap();
        assert!(cause.contains("fleet files differ in sets or tables"), "{cause}");
    }
    assert_eq!(ship.held(1), 0);
}

#[test]
fn a_restored_member_is_fenced_and_says_nothing_more() {
    let world = World::new(3);
    let port = world.start(1, &[]);
    let ship = world.start(2, &[port.at()]);
    ship.write(3, 100);
    port.wait_held(2, 3);
    ship.stop();
    let backup = world.copy_store(2);
    let ship = world.start(2, &[port.at()]);
    ship.write(2, 100);
    port.wait_held(2, 5);
    ship.stop();
    let store = world.start(3, &[]);
    let restored = world.start_in(backup.path(), 2, &[port.at()]);
    let reason = wait_fenced(&restored);
    assert!(reason.contains("the peer holds our log"), "{reason}");
    let peer = restored.wait_state(1, PeerState::Fenced);
    assert_eq!((peer.cause, peer.next_attempt_in_ms), (Some(reason.clone()), None));
    let cause = port.wait_state(2, PeerState::Refused).cause.unwrap();
    assert!(cause.contains("fenced: the peer holds our log"), "{cause}");
    // Neither does it speak to others, nor after a restart.
    restored.stop();
    let restored = world.start_in(backup.path(), 2, &[store.at()]);
    assert_eq!(restored.wait_state(3, PeerState::Fenced).cause, Some(reason));
    assert_eq!((store.held(2), port.held(2)), (0, 5));
}

/// The peer closes, but not before its hello has arrived.
#[test]
fn a_restored_member_is_fenced_by_a_peer_that_refuses_it_for_another_reason() {
    let mut world = World::new(2);
    let port = world.start(1, &[]);
    let ship = world.start(2, &[port.at()]);
    ship.write(1, 100);
    port.wait_held(2, 1);
    ship.stop();
    let backup = world.copy_store(2);
    let ship = world.start(2, &[port.at()]);
    ship.write(1, 100);
    port.wait_held(2, 2);
    ship.stop();
    world.set_table("ward");
    let restored = world.start_in(backup.path(), 2, &[port.at()]);
    let reason = wait_fenced(&restored);
    assert!(reason.contains("up to 2, we have it up to 1 only"), "{reason}");
}

/// One box went on after the copy was made, and so did the copy.
#[test]
fn two_boxes_with_one_identity_are_found_by_whoever_meets_both() {
    let world = World::new(2);
    let port = world.start(1, &[]);
    let ship = world.start(2, &[port.at()]);
    ship.write(3, 100);
    port.wait_held(2, 3);
    ship.stop();
    let copy = world.copy_store(2);
    let ship = world.start(2, &[port.at()]);
    ship.write(2, 100);
    port.wait_held(2, 5);
    ship.stop();
    let clone = world.start_in(copy.path(), 2, &[]);
    clone.block_on(clone.store.set_sealing(Sealing::Eager)).unwrap();
    clone.write(4, 100);
    clone.stop();
    let clone = world.start_in(copy.path(), 2, &[port.at()]);
    let reason = wait_fenced(&clone);
    assert!(reason.contains("two boxes wrote under one identity"), "{reason}");
    assert_eq!(port.held(2), 5);
    assert_eq!(port.log().quarantined.len(), 0);
}

#[test]
fn two_histories_of_an_origin_set_it_aside_and_nothing_else() {
    check_two_histories(2);
}

#[test]
fn two_histories_of_one_length_are_noticed_at_the_greeting() {
    check_two_histories(1);
}

/// Each box met another member, and those two meet. One box wrote once, the other as often as told.
fn check_two_histories(writes: u64) {
    let world = World::new(4);
    let (port, store) = (world.start(1, &[]), world.start(3, &[]));
    let ship = world.start(2, &[port.at(), store.at()]);
    ship.write(3, 100);
    port.wait_held(2, 3);
    store.wait_held(2, 3);
    ship.stop();
    let copy = world.copy_store(2);
    let ship = world.start(2, &[port.at()]);
    ship.write(1, 100);
    port.wait_held(2, 4);
    ship.stop();
    let clone = world.start_in(copy.path(), 2, &[store.at()]);
    clone.write(writes, 100);
    store.wait_held(2, 3 + writes);
    clone.stop();
    // Members 1 and 3 have both met a member 2.
    let store_addr = store.at();
    port.write(1, 100);
    port.stop();
    let port = world.start(1, &[store_addr]);
    store.write(1, 100);
    port.wait_held(3, 1);
    store.wait_held(1, 1);
    for (node, held) in [(&port, 4), (&store, 3 + writes)] {
        let reason = wait_until("the quarantine", LIMIT, || {
            node.log().quarantined.get(&origin(2)).cloned().ok_or("none")
        });
        assert!(reason.contains("has two histories: they differ at "), "{reason}");
        assert_eq!((node.log().quarantined.len(), node.held(2)), (1, held));
    }
    // Everything else goes on over the same link.
    store.write(2, 100);
    port.wait_held(3, 3);
    assert_eq!(port.peer(3).state, PeerState::Ready);
}
