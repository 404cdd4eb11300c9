//! Sessions, suppliers and dialers of a whole fleet in one process: whatever links do, every member
//! ends up with every unit, in order, each once.
//!
//! `World` asserts at every step that no stream has a gap, that no number is used twice for
//! different units, and that nothing is acknowledged that is not held.

#[path = "relay/world.rs"]
mod world;

use landfall_protocol::id::Seq;
use landfall_protocol::sync::Refusal;

use self::world::{Counts, World, origin, site};

const HOUR_MS: u64 = 3_600_000;

/// Lets the fleet settle; then everybody holds the same, and all is silent.
#[track_caller]
fn check_settles(world: &mut World, members: &[u16]) {
    world.run(world.now_ms + HOUR_MS);
    let expected = world.disk(members[0]).clone();
    for member in members {
        let disk = world.disk(*member);
        assert_eq!(disk.received, expected.received, "member {member}");
        assert_eq!(disk.log, expected.log, "member {member}");
    }
    for (origin, units) in &expected.log {
        assert!(!units.is_empty() && expected.received.get(*origin) > Seq::ZERO);
    }
    let before = world.counts;
    world.run(world.now_ms + 24 * HOUR_MS);
    assert_eq!(Counts { connections: 0, ..world.counts }, Counts { connections: 0, ..before });
}

/// Writes and breaks things for a while.
fn chaos(world: &mut World, members: u16, rounds: u64) {
    for _ in 0..rounds {
        let member = 1 + world.rng.below(u64::from(members)) as u16;
        match world.rng.below(10) {
            0..=4 => (0..world.rng.below(8)).for_each(|_| world.write(member)),
            5..=6 => {
                let choice = world.rng.next();
                world.cut_any(choice);
            }
            7 => {
                let other = 1 + world.rng.below(u64::from(members)) as u16;
                world.reachable.remove(&(site(member.min(other)), site(member.max(other))));
                world.apply_reach();
            }
            8 if member > 1 => world.reach(member, member - 1),
            _ => {}
        }
        let wait_ms = world.rng.below(1_500);
        world.run(world.now_ms + wait_ms);
    }
}

fn fleet(seed: u64, sites: u16) -> World {
    let mut world = World::new(seed, sites);
    (1..=sites).for_each(|number| world.start(number));
    world
}

#[test]
fn everybody_gets_everything_whatever_links_do() {
    let (mut cuts, mut crossed, mut duplicates) = (0, 0, 0);
    for seed in 0..60 {
        let mut world = fleet(seed, 5);
        world.repeat_one_in = [0, 7][(seed % 2) as usize];
        world.ack_delay_ms = [0, 200][(seed / 2 % 2) as usize];
        world.connect_all();
        chaos(&mut world, 5, 150);
        world.connect_all();
        (1..=5).for_each(|number| world.write(number));
        check_settles(&mut world, &[1, 2, 3, 4, 5]);
        assert_eq!(world.refusals, [], "seed {seed}");
        cuts += world.counts.cuts;
        crossed += world.counts.crossed_calls;
        duplicates += world.counts.duplicates;
    }
    assert!(cuts > 500 && crossed > 50 && duplicates > 50, "{cuts} {crossed} {duplicates}");
}

#[test]
fn the_ends_of_a_chain_learn_of_each_other_without_meeting() {
    for seed in 0..20 {
        let mut world = fleet(seed, 3);
        world.reach(1, 2);
        world.reach(2, 3);
        for _ in 0..30 {
            (1..=3).for_each(|number| world.write(number));
            let wait_ms = world.rng.below(400);
            world.run(world.now_ms + wait_ms);
            if world.rng.below(6) == 0 {
                world.cut_any(seed);
            }
        }
        check_settles(&mut world, &[1, 2, 3]);
        assert_eq!(world.disk(1).log[&origin(3, 1)].len(), 30);
    }
}

#[test]
fn every_unit_travels_once_over_a_chain_that_breaks_only_while_silent() {
    let mut world = fleet(1, 3);
    world.reach(1, 2);
    world.reach(2, 3);
    world.run(HOUR_MS);
    for round in 0..40 {
        (1..=3).for_each(|number| world.write(number));
        let wait_ms = if round % 10 == 9 { HOUR_MS } else { world.rng.below(400) };
        world.run(world.now_ms + wait_ms);
        if round % 10 == 9 {
            world.cut_any(0);
            world.cut_any(0);
            world.run(world.now_ms + HOUR_MS);
        }
    }
    check_settles(&mut world, &[1, 2, 3]);
    // Each to both others, and nothing twice.
    assert_eq!((world.counts.units, world.counts.duplicates), (3 * 40 * 2, 0));
}

#[test]
fn what_a_lost_member_wrote_lives_on() {
    for seed in 0..20 {
        let mut world = fleet(seed, 4);
        world.reach(1, 2);
        world.run(HOUR_MS);
        (0..20).for_each(|_| world.write(1));
        world.run(world.now_ms + HOUR_MS);
        (0..5).for_each(|_| world.write(1));
        // The last units may or may not have come through.
        let wait_ms = world.rng.below(300);
        world.run(world.now_ms + wait_ms);
        world.stop(1);
        world.connect_all();
        check_settles(&mut world, &[2, 3, 4]);
        assert!(world.disk(4).log[&origin(1, 1)].len() >= 20);
    }
}

#[test]
fn a_late_joiner_catches_up() {
    for seed in 0..20 {
        let mut world = World::new(seed, 5);
        (1..=4).for_each(|number| world.start(number));
        world.connect_all();
        chaos(&mut world, 4, 60);
        world.start(5);
        world.connect_all();
        world.write(5);
        chaos(&mut world, 5, 20);
        world.connect_all();
        (1..=5).for_each(|number| world.write(number));
        check_settles(&mut world, &[1, 2, 3, 4, 5]);
    }
}

#[test]
fn a_supplier_that_sends_nothing_is_replaced() {
    let mut world = fleet(3, 4);
    world.connect_all();
    // Nobody gets a unit of 1 from 1 itself, but for 2; and 3 gets nothing from 2.
    world.mute.extend([(site(1), site(3)), (site(1), site(4)), (site(2), site(3))]);
    (0..10).for_each(|_| world.write(1));
    check_settles(&mut world, &[1, 2, 3, 4]);
}

#[test]
fn a_restored_member_is_fenced_and_gets_its_tail_back_in_a_new_life() {
    for (seed, writes) in [(1, 0), (2, 3), (3, 30)] {
        let mut world = fleet(seed, 3);
        world.connect_all();
        (0..5).for_each(|_| world.write(1));
        world.run(HOUR_MS);
        let backup = world.disk(1).clone();
        (0..5).for_each(|_| world.write(1));
        world.run(world.now_ms + HOUR_MS);
        world.stop(1);

        // It comes back as it was, and writes on before it meets anybody.
        world.reachable.clear();
        world.start_from(backup.clone());
        (0..writes).for_each(|_| world.write(1));
        world.connect_all();
        world.run(world.now_ms + 1_000);
        let (_, refusal) = &world.refusals[0];
        assert!(refusal.fences_us(), "{refusal}");
        let forked = matches!(refusal, Refusal::OwnLogForked { .. });
        assert_eq!(forked, writes == 30, "{refusal}");
        assert!(world.refusals.iter().all(|(by, refusal)| *by == site(1) && refusal.fences_us()));

        // A new life; what the old one wrote after the backup is written again by the new one.
        world.stop(1);
        world.refusals.clear();
        world.start_from(world::Disk { origin: origin(1, 2), ..backup });
        (0..4).for_each(|_| world.write(1));
        check_settles(&mut world, &[1, 2, 3]);
        assert_eq!(world.refusals, []);
        assert_eq!(world.disk(1).log[&origin(1, 1)].len(), 10);
        assert_eq!(world.disk(3).log[&origin(1, 2)].len(), 4);
    }
}
