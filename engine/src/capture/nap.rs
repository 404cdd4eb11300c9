//! Pauses of less than a millisecond, which is the runtime's shortest.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// How much longer a pause is where the runtime's clock is a model's: it goes by milliseconds, and a fold
/// that takes many of them shall not be many pauses.
#[cfg(feature = "simulation")]
const MODELLED: Duration = Duration::from_millis(10);

/// A timer of the system's; where there is none, the runtime's.
#[derive(Debug)]
pub(super) struct Nap {
    timer: Option<AsyncFd<OwnedFd>>,
    longer: Duration,
}

impl Nap {
    /// A timer that is not set.
    #[expect(deprecated, reason = "sound for a descriptor of ours; what follows it is unsafe")]
    pub(super) fn new() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(io::Error::from);
        Self { timer: timer.and_then(AsyncFd::new).ok(), longer: Duration::ZERO }
    }

    /// Goes by the runtime's clock, which a model may hold still.
    #[cfg(feature = "simulation")]
    pub(super) fn modelled() -> Self {
        Self { timer: None, longer: MODELLED }
    }

    /// Waits until then. May be dropped and called anew.
    pub(super) async fn until(&self, at: Instant) {
        if let Some(timer) = &self.timer
            && wait(timer, at).await.is_ok()
        {
            return;
        }
        sleep_until(at + self.longer).await;
    }
}

async fn wait(timer: &AsyncFd<OwnedFd>, at: Instant) -> io::Result<()> {
    loop {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let it_value = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval, it_value };
        timerfd_settime(timer.get_ref(), TimerfdTimerFlags::empty(), &setting)?;
        // Setting it anew also takes back that it ran out before.
        timer.readable().await?.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_over_when_it_is_over_and_not_before() {
        let nap = Nap::new();
        assert!(nap.timer.is_some(), "the system has timers");
        for _ in 0..3 {
            let at = Instant::now() + Duration::from_micros(300);
            // Dropped once, as a select does.
            let dropped = tokio::time::timeout(Duration::ZERO, nap.until(at)).await;
            assert!(dropped.is_err() || Instant::now() >= at);
            nap.until(at).await;
            assert!(Instant::now() >= at);
        }
    }
}
