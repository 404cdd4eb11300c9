//! Waiting for a state, never for a span of time.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

/// How long to rest between two looks. Short enough not to be felt in a test, long enough to leave
/// the processor to the processes that are being waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `look` returns `Some`, and returns what it found.
///
/// # Panics
/// When `timeout` passes first, naming `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    wait_until(what, timeout, || look().ok_or("not there yet"))
}

/// Looks until `look` returns `Ok`; an `Err` describes the state seen meanwhile.
///
/// # Panics
/// When `timeout` passes first, naming `what` and the last state seen.
#[track_caller]
pub fn wait_until<T, S: Display>(
    what: &str,
    timeout: Duration,
    look: impl FnMut() -> Result<T, S>,
) -> T {
    match try_wait_until(what, timeout, look) {
        Ok(found) => found,
        Err(error) => panic!("{error}"),
    }
}

/// As [`wait_until`], but running out of time is an error instead of a panic.
pub fn try_wait_until<T, S: Display>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        // Read the clock before looking, so that the last look happens at or after the deadline.
        let late = Instant::now() >= deadline;
        match look() {
            Ok(found) => return Ok(found),
            Err(state) if late => bail!("waited {timeout:?} for {what}; last seen: {state}"),
            Err(_) => thread::park_timeout(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_the_state_it_waited_for() {
        let mut looks = 0;
        let seen = wait_for("the third look", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen, 3);
    }

    #[test]
    fn running_out_of_time_tells_what_was_awaited_and_what_was_seen() {
        let result: anyhow::Result<()> =
            try_wait_until("ten rows", Duration::from_millis(20), || Err("7 rows"));
        let message = result.expect_err("there are never ten rows").to_string();
        assert!(message.contains("ten rows") && message.contains("7 rows"), "{message}");
    }
}
