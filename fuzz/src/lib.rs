//! One input against one target, with its memory measured. What the targets promise is in
//! `landfall_engine::fuzz`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use landfall_engine::fuzz::{Target, find};

/// Longest time that an input may take here; the slowest that are right take a twentieth of it.
pub const TIME_MAX: Duration = Duration::from_secs(2);

/// Runs an input and panics when a promise is broken; for libFuzzer, which reports panics and
/// watches the time.
///
/// # Panics
/// When there is no such target, when its check fails or takes too much memory.
pub fn run(target: &str, input: &[u8]) {
    let target = find(target).expect("a target of engine::fuzz");
    let used = allocation_counter::measure(|| (target.check)(input));
    if let Err(what) = judge(target, input, used.bytes_max) {
        panic!("{what}");
    }
}

/// What an input made of a target.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// How often memory was allocated and how much in all: inputs that differ here took other ways.
    pub shape: (u64, u64),
    /// How long it took.
    pub took: Duration,
}

/// Runs an input; says what is wrong with what it does.
///
/// # Errors
/// The check panicked, or took too much memory or time.
pub fn try_run(target: &Target, input: &[u8]) -> Result<Ran, String> {
    let began = now();
    let mut outcome = Ok(());
    let used = allocation_counter::measure(|| {
        outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    });
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        return Err(format!("panicked: {}", text.unwrap_or("with no text")));
    }
    judge(target, input, used.bytes_max)?;
    let took = began.elapsed();
    if took > TIME_MAX {
        return Err(format!("took {took:?}"));
    }
    Ok(Ran { shape: (used.count_total, used.bytes_total), took })
}

/// The time, to see how long inputs take.
#[expect(clippy::disallowed_methods, reason = "nothing that is measured here depends on the time")]
pub fn now() -> Instant {
    Instant::now()
}

fn judge(target: &Target, input: &[u8], used: u64) -> Result<(), String> {
    let most = target.heap_bytes_max(input.len()) as u64;
    if used <= most {
        return Ok(());
    }
    Err(format!("{} bytes took {used} bytes of memory, allowed are {most}", input.len()))
}
