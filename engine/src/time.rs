//! The only place that reads clocks. Everything else is handed the time it should use, so that
//! tests and the simulator decide what time it is.

pub mod calendar;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[cfg(feature = "simulation")]
use crate::simulation;

/// Wall-clock time in Unix milliseconds. It may jump in both directions; never measure spans with
/// it. A clock set before 1970 reads as 0 (a box whose battery died), which the drift check of the
/// caller then reports.
#[expect(clippy::disallowed_methods, reason = "this file is where clocks are read")]
pub fn wall_ms() -> u64 {
    #[cfg(feature = "simulation")]
    if let Some(ms) = simulation::wall_ms() {
        return ms;
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Time that only goes forward; for spans and deadlines within this process. The runtime's clock, so
/// that it stands still where a test has paused that.
pub fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_is_in_milliseconds() {
        // 2020-01-01 and 2200-01-01: seconds or microseconds would fall outside.
        assert!((1_577_836_800_000..7_258_118_400_000).contains(&wall_ms()));
    }

    #[test]
    fn monotonic_does_not_go_back() {
        let first = monotonic();
        assert!(monotonic() >= first);
    }
}
