//! Lets the world strike at one step of the process's life.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

use super::{Blow, Place};

/// What is to happen, where, and at which step.
#[derive(Debug)]
struct Strike {
    deed: Deed,
    place: Place,
    at: u64,
    steps: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Die,
    Stop,
    Return(Blow),
}

impl Strike {
    fn parse(rule: &str) -> Option<Self> {
        let mut words = rule.split(':');
        let deed = match words.next()? {
            "die" => Deed::Die,
            "stop" => Deed::Stop,
            "fail" => Deed::Return(Blow::Fail),
            "full" => Deed::Return(Blow::Full),
            _ => return None,
        };
        let place = match words.next()? {
            "postgres" => Place::Postgres,
            "sqlite" => Place::Sqlite,
            "sqlite-write" => Place::SqliteWrite,
            "quic" => Place::Quic,
            "stream" => Place::Stream,
            _ => return None,
        };
        let at = words.next()?.parse().ok()?;
        Some(Self { deed, place, at, steps: AtomicU64::new(0) })
    }

    /// Says how this step fails, if it does.
    fn step(&self) -> Option<Blow> {
        if self.steps.fetch_add(1, Ordering::Relaxed) + 1 != self.at {
            return None;
        }
        // Tests look for this line.
        tracing::info!(deed = ?self.deed, place = ?self.place, at = self.at, "planted strike");
        match self.deed {
            Deed::Die => die(),
            Deed::Stop => {
                send_to_ourselves(Signal::STOP);
                None
            }
            Deed::Return(blow) => Some(blow),
        }
    }
}

/// Counts a step and says whether it is to fail; or kills or freezes the process.
pub(crate) fn step(place: Place) -> Option<Blow> {
    planned().filter(|strike| strike.place == place).and_then(Strike::step)
}

/// Whether anything is to happen at this place.
pub(crate) fn is_planned(place: Place) -> bool {
    planned().is_some_and(|strike| strike.place == place)
}

fn planned() -> Option<&'static Strike> {
    static PLANNED: OnceLock<Option<Strike>> = OnceLock::new();
    let rules = || std::env::var("LANDFALL_PLANT").unwrap_or_default();
    PLANNED.get_or_init(|| rules().split(',').find_map(Strike::parse)).as_ref()
}

fn die() -> ! {
    send_to_ourselves(Signal::KILL);
    // Other threads may live a moment longer; this one does nothing any more.
    loop {
        std::thread::park();
    }
}

fn send_to_ourselves(signal: Signal) {
    kill_process(getpid(), signal).expect("a process may signal itself");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_step_that_was_named_is_struck() {
        let strike = Strike::parse("full:sqlite-write:3").expect("a rule");
        assert_eq!(strike.place, Place::SqliteWrite);
        let blows: Vec<_> = (0..4).map(|_| strike.step()).collect();
        assert_eq!(blows, [None, None, Some(Blow::Full), None]);
        for other in ["", "no-barrier", "die", "die:sqlite", "die:nowhere:1", "die:sqlite:x"] {
            assert!(Strike::parse(other).is_none(), "{other}");
        }
    }
}
