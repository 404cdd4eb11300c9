//! What goes wrong, and when.

use std::rc::Rc;
use std::time::Duration;

use super::network::address;
use super::site::Site;
use super::world::World;
use crate::dice::Dice;

/// Lets things go wrong for as long as the first phase lasts.
pub(crate) async fn direct(world: &Rc<World>) {
    let mut dice = world.split();
    let length = world.options.phase_ms;
    if world.options.compaction.is_some() {
        come_and_go(world, &mut dice);
    }
    let mut times: Vec<u64> = (0..world.options.faults).map(|_| dice.below(length)).collect();
    times.sort_unstable();
    let mut now = 0;
    for at in times {
        tokio::time::sleep(Duration::from_millis(at - now)).await;
        now = at;
        strike(world, &mut dice);
    }
    tokio::time::sleep(Duration::from_millis(length - now)).await;
}

/// Lets no link be up for long.
fn come_and_go(world: &Rc<World>, dice: &mut Dice) {
    let length = world.options.phase_ms;
    let sites = world.sites.iter().map(|site| site.id);
    let ways: Vec<_> =
        sites.clone().flat_map(|from| sites.clone().map(move |to| (from, to))).collect();
    let mut from = 0;
    while from < length {
        let until = from + 1 + dice.below(length / 2);
        let (down, up) = (ways.clone(), ways.clone());
        later(world, from, move |world| {
            world.trace(|| "all links go down".to_owned());
            down.iter().for_each(|(from, to)| world.sky.cut(*from, *to));
            world.network.changed();
        });
        later(world, until, move |world| {
            world.trace(|| "all links come up".to_owned());
            up.iter().for_each(|(from, to)| world.sky.mend(*from, *to));
            world.network.changed();
        });
        from = until + 1 + dice.below(length / 4);
    }
}

fn strike(world: &Rc<World>, dice: &mut Dice) {
    let length = world.options.phase_ms;
    let site = &world.sites[dice.below(world.sites.len() as u64) as usize];
    match dice.below(15) {
        0..=2 => crash(world, site, dice.below(length / 4 + 1)),
        3..=5 => cut(world, dice),
        6 => lose(world, dice),
        7 => fill(world, site, dice.below(length / 4 + 1)),
        8 => jump(world, site, dice),
        9 | 10 => crash_database(world, site, dice.below(length / 4 + 1)),
        11 => {
            // The power.
            crash_database(world, site, dice.below(length / 4 + 1));
            crash(world, site, dice.below(length / 4 + 1));
        }
        12 => restart_database(world, site, dice.below(length / 4 + 1)),
        13 => {
            if let Some(cluster) = &site.cluster {
                world.trace(|| format!("the connections to the database of {} are cut", site.id));
                cluster.cut_connections();
            }
        }
        _ => {
            // Twice in short order: the second during the start.
            crash(world, site, dice.below(20));
            let again = Rc::clone(site);
            let mine = Rc::clone(world);
            later(world, dice.below(60), move |_| crash(&mine, &again, 10));
        }
    }
}

fn crash(world: &Rc<World>, site: &Rc<Site>, down_ms: u64) {
    site.crash(world);
    world.start_later(site, down_ms);
}

fn crash_database(world: &Rc<World>, site: &Rc<Site>, down_ms: u64) {
    let Some(cluster) = site.cluster.clone() else { return };
    world.trace(|| format!("the database of {} crashes", site.id));
    cluster.crash();
    later(world, down_ms, move |_| cluster.start());
}

fn restart_database(world: &Rc<World>, site: &Rc<Site>, down_ms: u64) {
    let Some(cluster) = site.cluster.clone() else { return };
    world.trace(|| format!("the database of {} shuts down", site.id));
    cluster.shut_down();
    later(world, down_ms, move |_| cluster.start());
}

fn later(world: &Rc<World>, after_ms: u64, act: impl FnOnce(&World) + 'static) {
    let mine = Rc::clone(world);
    world.lives.spawn(world.life, async move {
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        if !mine.healing.get() {
            act(&mine);
        }
    });
}

/// Two different ones, if there are two.
fn pair<'w>(world: &'w World, dice: &mut Dice) -> Option<(&'w Rc<Site>, &'w Rc<Site>)> {
    let [one, other] = dice.distinct(2, world.sites.len() as u64)[..] else { return None };
    Some((&world.sites[one as usize], &world.sites[other as usize]))
}

fn cut(world: &Rc<World>, dice: &mut Dice) {
    let Some((one, other)) = pair(world, dice) else { return };
    let ways = match dice.below(4) {
        0 => vec![(one.id, other.id)],
        1 => vec![(other.id, one.id)],
        _ => vec![(one.id, other.id), (other.id, one.id)],
    };
    world.trace(|| format!("cut {ways:?}"));
    for (from, to) in &ways {
        world.sky.cut(*from, *to);
    }
    world.network.changed();
    later(world, dice.below(world.options.phase_ms), move |world| {
        world.trace(|| format!("mend {ways:?}"));
        for (from, to) in ways {
            world.sky.mend(from, to);
        }
        world.network.changed();
    });
}

fn lose(world: &Rc<World>, dice: &mut Dice) {
    let Some((one, other)) = pair(world, dice) else { return };
    world.trace(|| format!("connections between {} and {} are lost", one.id, other.id));
    world.network.lose(address(one.id), address(other.id));
}

fn fill(world: &Rc<World>, site: &Rc<Site>, full_ms: u64) {
    world.trace(|| format!("the disk of {} is full", site.id));
    site.has_room.set(false);
    let site = Rc::clone(site);
    later(world, full_ms, move |_| site.has_room.set(true));
}

fn jump(world: &Rc<World>, site: &Rc<Site>, dice: &mut Dice) {
    let ahead = dice.pick(&[1_000, 240_000, 400_000]);
    let behind = dice.pick(&[1_000, 3_600_000, 315_360_000_000]);
    let goes_back = dice.below(2) == 0;
    let by = if goes_back { -(dice.below(behind) as i64) } else { dice.below(ahead) as i64 };
    world.trace(|| format!("the clock of {} jumps by {by} ms", site.id));
    site.clock.jump(by);
}
