//! How long passes over rows that are not shown leave the time to the other work.

use std::time::Duration;

/// Shortest pause between passes.
const REST_MIN: Duration = Duration::from_secs(1);
/// After a pass there are no others for this many times as long as it took.
const REST_FACTOR: u32 = 20;

/// The pause after a pass that took so long.
pub(super) fn rest_after(took: Duration) -> Duration {
    REST_MIN.max(took * REST_FACTOR)
}
