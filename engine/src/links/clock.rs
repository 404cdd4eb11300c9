//! The milliseconds that the state machines of the core count in.

use std::time::{Duration, Instant};

use crate::{random, time};

/// Monotonic milliseconds since the links were started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: time::monotonic() }
    }

    pub(super) fn now_ms(&self) -> u64 {
        let passed = time::monotonic().saturating_duration_since(self.start);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until that time; for ever when there is none. Cancel-safe.
    pub(super) async fn until(&self, at_ms: Option<u64>) {
        let when = at_ms.and_then(|ms| self.start.checked_add(Duration::from_millis(ms)));
        match when {
            Some(when) => tokio::time::sleep_until(when.into()).await,
            None => std::future::pending().await,
        }
    }
}

/// A number to spread attempts with.
pub(super) fn random() -> u64 {
    random::u64().expect("the system gave randomness for the links' keys before")
}
