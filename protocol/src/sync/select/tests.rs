use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::id::Incarnation;

fn site(number: u16) -> SiteId {
    SiteId::new(number).unwrap()
}

fn origin(number: u16, life: u64) -> Origin {
    Origin { site: site(number), incarnation: Incarnation::new(life).unwrap() }
}

fn vector(entries: &[(u16, u64)]) -> VersionVector {
    entries.iter().map(|(number, seq)| (origin(*number, 1), Seq(*seq))).collect()
}

/// Site 1 of a fleet of nine, and what it sees.
#[derive(Default)]
struct World {
    peers: BTreeMap<SiteId, PeerView>,
    ours: VersionVector,
    suppliers: Suppliers,
}

impl World {
    fn peer(&mut self, number: u16, entries: &[(u16, u64)]) -> &mut Self {
        let view = PeerView { received: vector(entries), ready: true };
        self.peers.insert(site(number), view);
        self
    }

    fn choose(&mut self, now_ms: u64) -> &mut Self {
        let members = (1..=9).map(site).collect();
        self.suppliers =
            choose(&self.peers, &self.ours, origin(1, 1), &members, &self.suppliers, now_ms);
        assert!(self.suppliers.check_ms().is_none_or(|at_ms| at_ms > now_ms));
        self
    }

    #[track_caller]
    fn supplies(&mut self, number: u16, peer: Option<u16>) -> &mut Self {
        assert_eq!(self.suppliers.of(origin(number, 1)), peer.map(site));
        self
    }
}

#[test]
fn who_holds_most_supplies_and_of_equals_the_lowest() {
    let mut world = World::default();
    world.peer(4, &[(9, 7)]).peer(3, &[(9, 7)]).peer(2, &[(9, 6)]);
    world.choose(0).supplies(9, Some(3));
}

#[test]
fn the_origin_itself_comes_first_even_in_the_middle() {
    let mut world = World::default();
    world.peer(2, &[(9, 9)]).choose(0).supplies(9, Some(2));
    world.peer(9, &[(9, 5)]).choose(1).supplies(9, Some(9));
}

#[test]
fn the_origin_itself_is_followed_before_it_has_news() {
    let mut world = World { ours: vector(&[(9, 5), (8, 5)]), ..World::default() };
    world.peer(9, &[(9, 5), (8, 5)]).choose(0).supplies(9, Some(9)).supplies(8, None);
}

#[test]
fn a_supplier_stays_while_another_holds_more() {
    let mut world = World::default();
    world.peer(3, &[(9, 5)]).choose(0);
    world.peer(2, &[(9, 50)]).choose(1).supplies(9, Some(3));
}

#[test]
fn a_supplier_that_knows_no_more_gives_way_after_a_moment() {
    let mut world = World { ours: vector(&[(9, 4)]), ..World::default() };
    world.peer(3, &[(9, 5)]).choose(0);
    world.ours = vector(&[(9, 5)]);
    world.choose(1).supplies(9, Some(3));
    assert_eq!(world.suppliers.check_ms(), None);
    world.peer(2, &[(9, 6)]).choose(10).supplies(9, Some(3));
    assert_eq!(world.suppliers.check_ms(), Some(10 + LAG_MS));
    world.choose(9 + LAG_MS).supplies(9, Some(3));
    world.choose(10 + LAG_MS).supplies(9, Some(2));
}

#[test]
fn a_stalled_supplier_loses_to_who_holds_more_and_only_then() {
    let mut world = World::default();
    world.peer(3, &[(9, 5)]).choose(0).choose(10 * STALL_MS).supplies(9, Some(3));
    assert_eq!(world.suppliers.check_ms(), None);
    world.ours = vector(&[(9, 2)]);
    world.peer(2, &[(9, 3)]).choose(10 * STALL_MS).supplies(9, Some(3));
    let stalled = 11 * STALL_MS;
    assert_eq!(world.suppliers.check_ms(), Some(stalled));
    world.choose(stalled - 1).supplies(9, Some(3)).choose(stalled).supplies(9, Some(2));
    // Twice the patience with the next one, and back, until something comes.
    world.choose(stalled + 2 * STALL_MS - 1).supplies(9, Some(2));
    world.choose(stalled + 2 * STALL_MS).supplies(9, Some(3));
    world.choose(stalled + 6 * STALL_MS - 1).supplies(9, Some(3));
    world.choose(stalled + 6 * STALL_MS).supplies(9, Some(2));
}

#[test]
fn an_origin_that_stalls_gets_itself_back_after_a_while() {
    let mut world = World::default();
    world.peer(9, &[(9, 5)]).peer(2, &[(9, 5)]).choose(0).supplies(9, Some(9));
    world.choose(STALL_MS).supplies(9, Some(2));
    world.ours = vector(&[(9, 5)]);
    world.choose(STALL_MS + 1).supplies(9, Some(2));
    assert_eq!(world.suppliers.check_ms(), Some(STALL_MS + AVOID_MS));
    world.choose(STALL_MS + AVOID_MS).supplies(9, Some(9));
}

#[test]
fn another_supplier_takes_over_when_one_is_gone() {
    let mut world = World::default();
    world.peer(3, &[(9, 5)]).peer(2, &[(9, 4)]).choose(0).supplies(9, Some(3));
    world.peers.get_mut(&site(3)).unwrap().ready = false;
    world.choose(1).supplies(9, Some(2));
    world.peers.remove(&site(2));
    world.choose(2).supplies(9, None);
}

#[test]
fn our_own_present_log_and_strangers_are_never_followed() {
    let mut world = World::default();
    world.peer(2, &[(1, 50), (77, 3)]).choose(0).supplies(1, None).supplies(77, None);
    let before = PeerView { received: [(origin(1, 5), Seq(3))].into_iter().collect(), ready: true };
    world.peers.insert(site(3), before);
    world.choose(0);
    assert_eq!(world.suppliers.iter().collect::<Vec<_>>(), [(origin(1, 5), site(3))]);
    assert_eq!(world.suppliers.by(site(3)), BTreeSet::from([origin(1, 5)]));
}

fn any_vector() -> impl Strategy<Value = VersionVector> {
    btree_map((1u16..7, 1u64..3), 1u64..5, 0..8).prop_map(|entries| {
        entries.into_iter().map(|((number, life), seq)| (origin(number, life), Seq(seq))).collect()
    })
}

type Step = (BTreeMap<SiteId, PeerView>, VersionVector, u64);

fn any_step() -> impl Strategy<Value = Step> {
    let view =
        (any_vector(), any::<bool>()).prop_map(|(received, ready)| PeerView { received, ready });
    (btree_map((2u16..7).prop_map(site), view, 0..5), any_vector(), 0u64..STALL_MS * 2)
}

proptest! {
    #[test]
    fn whatever_is_to_be_had_has_one_ready_supplier(
        steps in vec(any_step(), 1..8),
        members in btree_set((1u16..7).prop_map(site), 0..7),
    ) {
        let own = origin(1, 1);
        let mut suppliers = Suppliers::default();
        let mut now_ms = 0;
        let mut ours = VersionVector::new();
        for (peers, step, wait_ms) in steps {
            now_ms += wait_ms;
            ours.join(&step);
            suppliers = choose(&peers, &ours, own, &members, &suppliers, now_ms);
            let again = choose(&peers, &ours, own, &members, &suppliers, now_ms);
            prop_assert_eq!(&again, &suppliers, "nothing changed");
            if let Some(check_ms) = suppliers.check_ms() {
                prop_assert!(check_ms > now_ms);
                let again = choose(&peers, &ours, own, &members, &suppliers, check_ms - 1);
                prop_assert!(again.iter().eq(suppliers.iter()), "changed before the time given");
            } else {
                let again = choose(&peers, &ours, own, &members, &suppliers, u64::MAX);
                prop_assert!(again.iter().eq(suppliers.iter()), "changed though no time was given");
            }
            for (origin, supplier) in suppliers.iter() {
                prop_assert!(peers[&supplier].ready && members.contains(&origin.site) && origin != own);
            }
            for view in peers.values().filter(|view| view.ready) {
                for (origin, seq) in view.received.iter() {
                    if seq > ours.get(origin) && origin != own && members.contains(&origin.site) {
                        prop_assert!(suppliers.of(origin).is_some(), "{:?} has no supplier", origin);
                    }
                }
            }
        }
    }

    /// Whatever is chosen in whichever order, if one honest peer has it then it is asked in the end.
    #[test]
    fn everybody_who_has_it_is_asked_sooner_or_later(silent in btree_set(2u16..7, 0..5), honest in 2u16..7) {
        let all = || (2..7).map(|number| (number, 5));
        let mut world = World::default();
        for (number, seq) in all() {
            world.peer(number, &[(9, seq), (number, seq)]);
        }
        let mut now_ms = 0;
        for _ in 0..20 {
            world.choose(now_ms);
            let supplier = world.suppliers.of(origin(9, 1)).unwrap();
            if supplier == site(honest) || !silent.contains(&supplier.number()) {
                return Ok(());
            }
            now_ms = world.suppliers.check_ms().unwrap();
        }
        prop_assert!(false, "asked the same ones again and again");
    }
}
