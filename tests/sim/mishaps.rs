//! What goes wrong with the extras, beside the faults of the plain world.

use std::rc::Rc;
use std::time::Duration;

use super::world::World;

/// Lets things happen for as long as the first phase lasts.
pub(crate) async fn direct(world: Rc<World>) {
    let mut dice = world.split();
    loop {
        tokio::time::sleep(Duration::from_millis(1 + dice.below(world.options.phase_ms / 4))).await;
        if world.healing.get() {
            return;
        }
        let extras = &world.options.extras;
        let site = &world.sites[dice.below(world.sites.len() as u64) as usize];
        let Some(cluster) = &site.cluster else { continue };
        if extras.sync_standby {
            world.trace(|| format!("{} waits for its standby no more", site.id));
            cluster.cancel_waits_for_standby();
        }
        if extras.frees_early && dice.below(3) == 0 {
            world.trace(|| format!("{} refuses nothing", site.id));
            cluster.refuse_nothing();
        }
    }
}
