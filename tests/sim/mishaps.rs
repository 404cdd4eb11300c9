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
        let site = &world.sites[dice.below(world.sites.len() as u64) as usize];
        if let Some(cluster) = site.cluster.as_ref().filter(|_| world.options.extras.sync_standby) {
            world.trace(|| format!("{} waits for its standby no more", site.id));
            cluster.cancel_waits_for_standby();
        }
    }
}
