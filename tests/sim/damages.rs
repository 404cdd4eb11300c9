//! A disk that goes bad: a bit of what a store holds flips. What is damaged must not be believed, sent
//! or applied, and speaks against nobody else; the operator rebuilds the site.

use std::rc::Rc;
use std::time::Duration;

use super::restores;
use super::site::Site;
use super::world::World;
use crate::dice::Dice;

/// Flips a bit, and sees to what becomes of it.
pub(crate) async fn strike(world: &Rc<World>, site: &Rc<Site>, dice: &mut Dice) {
    // In half of the runs the next start is the first to meet it.
    if dice.below(2) == 0 {
        site.crash(world);
    }
    match site.disk.borrow().flip(|limit| dice.below(limit)) {
        Ok(table) => world.trace(|| format!("a bit of {} flips, in {table:?}", site.id)),
        Err(error) => return world.fail(format!("{} has no bit to flip: {error}", site.id)),
    }
    site.is_damaged.set(true);
    world.start_later(site, dice.below(world.options.phase_ms / 4 + 1));
    attend(world, site, dice).await;
}

/// The operator rebuilds the site when it stands still or does not start; when nothing was noticed
/// by the time everything heals, because the disk is exchanged.
async fn attend(world: &Rc<World>, site: &Rc<Site>, dice: &mut Dice) {
    loop {
        tokio::time::sleep(Duration::from_millis(500 + dice.below(5_000))).await;
        let standstill = match &*site.process.borrow() {
            Some(process) => process.standstill(),
            None => Some("does not run".to_owned()),
        };
        if let Some(why) = &standstill
            && why.starts_with("is fenced")
        {
            return world.fail(format!("{} with a flipped bit {why}", site.id));
        }
        if standstill.is_none() && !world.healing.get() {
            continue;
        }
        world.trace(|| format!("{} {}", site.id, standstill.as_deref().unwrap_or("is well")));
        restores::rebuild(world, site, dice);
        return world.start_later(site, dice.below(1_000));
    }
}
