//! Crashes at the worst moment: a site is gone when something it sent has just become durable
//! elsewhere.

use std::rc::Rc;

use landfall_engine::store::Log;

use super::site::Site;
use super::world::World;

/// Called when `site` has told its news; `before` is what it told last.
pub(crate) fn strike(world: &Rc<World>, site: &Site, before: &Log) {
    if world.ambushes.get() == 0 || world.healing.get() {
        return;
    }
    let received = site.told.borrow().received.clone();
    for (origin, seq) in received.iter() {
        let victim = world.sites.iter().find(|other| other.origin.get() == origin);
        let Some(victim) = victim.filter(|victim| victim.id != site.id) else { continue };
        if seq > before.received.get(origin) && world.split().below(2) == 0 {
            world.ambushes.set(world.ambushes.get().saturating_sub(1));
            world.trace(|| format!("{} has received {origin}/{seq}", site.id));
            victim.crash(world);
            world.start_later(victim, world.split().below(1_000));
        }
    }
}
