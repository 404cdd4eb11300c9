//! Whether the operator wants a link with a peer just now. Pure: bytes and times are arguments.

use std::fmt;

use crate::config::PeerPolicy;
use crate::time::calendar::{Month, Window};

/// How often it is looked at whether a hold begins or ends, in milliseconds, while nothing else says
/// when: the clock may be set.
pub(super) const LOOK_MS_MAX: u64 = 60_000;
/// The same while a link is up that has a budget, and while it moves bytes: what passes meanwhile
/// goes beyond the budget.
pub(super) const LOOK_MS_QUIET: u64 = 1_000;
pub(super) const LOOK_MS_BUSY: u64 = 50;

/// The same while a link is up that is to be hung up when it is quiet.
pub(super) const LOOK_MS_DRAIN: u64 = 500;
/// How long a link with nothing left to say must be quiet, at least, and four round trips: an
/// acknowledgement, or an answer, may be on its way.
const QUIET_MS: u64 = 3_000;
/// The same where something seems to be left: one side may not take what the other has.
const QUIET_OWED_MS: u64 = 60_000;

/// Since when a link has not moved a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quiet {
    bytes: u64,
    since_ms: u64,
}

impl Quiet {
    /// Of a link that moved so many bytes by now.
    pub(super) fn new(bytes: u64, now_ms: u64) -> Self {
        Self { bytes, since_ms: now_ms }
    }

    /// Takes note of the bytes moved by now; says whether the link has been quiet for so long that it
    /// may be hung up.
    pub(super) fn note(&mut self, bytes: u64, now_ms: u64, rtt_ms: u64, left: Left) -> bool {
        if bytes != self.bytes {
            *self = Self::new(bytes, now_ms);
        }
        let enough_ms = match left {
            Left::Nothing => QUIET_MS.max(rtt_ms.saturating_mul(4)),
            Left::Something => QUIET_OWED_MS,
        };
        now_ms.saturating_sub(self.since_ms) >= enough_ms
    }
}

/// Whether one side holds what the other lacks, as far as we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    Something,
}

/// Why there is to be no link with a peer, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// The month's budget of bytes is used up.
    OverBudget { budget: u64, month: Month },
    /// It is none of the times of day for it; the next one begins then, in Unix milliseconds.
    OutsideWindows { next: Window, at_ms: u64 },
}

impl Hold {
    /// Why there is to be no link now; `None` when nothing speaks against it. `spent` are the bytes of
    /// the present month.
    pub(super) fn of(policy: &PeerPolicy, spent: u64, wall_ms: u64) -> Option<Self> {
        if let Some(budget) = policy.budget.filter(|budget| spent >= *budget) {
            return Some(Self::OverBudget { budget, month: Month::of(wall_ms) });
        }
        if policy.windows.iter().any(|window| window.left_ms(wall_ms).is_some()) {
            return None;
        }
        let next = policy.windows.iter().copied().min_by_key(|window| window.wait_ms(wall_ms))?;
        Some(Self::OutsideWindows { next, at_ms: wall_ms.saturating_add(next.wait_ms(wall_ms)) })
    }

    /// In how many milliseconds there may be a hold because of the time of day; `None` when never.
    pub(super) fn begins_ms(policy: &PeerPolicy, wall_ms: u64) -> Option<u64> {
        policy.windows.iter().filter_map(|window| window.left_ms(wall_ms)).max()
    }

    /// When it ends, in Unix milliseconds.
    pub(super) fn until_ms(self) -> u64 {
        match self {
            Self::OverBudget { month, .. } => month.next().start_ms(),
            Self::OutsideWindows { at_ms, .. } => at_ms,
        }
    }

    /// For the peer's operator.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::OverBudget { .. } => "its budget of bytes for this month is used up",
            Self::OutsideWindows { .. } => "it is outside of the times of day for this link",
        }
    }
}

impl fmt::Display for Hold {
    /// For our operator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OverBudget { budget, month } => write!(
                f,
                "the budget of {budget} bytes for {month} is used up; raise budget_bytes_per_month of this peer and restart, or wait for {}",
                month.next()
            ),
            Self::OutsideWindows { next, .. } => {
                write!(f, "outside of windows_utc, of which {next} (UTC) is the next one")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_holds_until_the_month_is_over() {
        let policy = PeerPolicy { budget: Some(100), ..PeerPolicy::default() };
        let november_ms = 1_796_083_199_000;
        assert_eq!(Hold::of(&policy, 99, november_ms), None);
        assert_eq!(Hold::of(&PeerPolicy::default(), u64::MAX, november_ms), None);
        let hold = Hold::of(&policy, 100, november_ms).unwrap();
        assert_eq!(hold.until_ms(), november_ms + 1_000);
        let said = hold.to_string();
        assert!(said.contains("100 bytes for 2026-11") && said.ends_with("2026-12"), "{said}");
    }

    #[test]
    fn windows_hold_until_the_next_one_begins() {
        let windows = ["22:00-06:00", "12:00-12:30"].map(|text| Window::parse(text).unwrap());
        let policy = PeerPolicy { windows: windows.to_vec(), ..PeerPolicy::default() };
        let at = |h: u64, min: u64| (20_000 * 24 * 60 + h * 60 + min) * 60_000;
        for (now_ms, next_ms) in [
            (at(5, 59), None),
            (at(6, 0), Some(at(12, 0))),
            (at(12, 29), None),
            (at(12, 30), Some(at(22, 0))),
            (at(21, 59), Some(at(22, 0))),
            (at(22, 0), None),
            (at(23, 59), None),
        ] {
            let hold = Hold::of(&policy, 0, now_ms);
            assert_eq!(hold.map(Hold::until_ms), next_ms, "{now_ms}");
            assert_eq!(Hold::begins_ms(&policy, now_ms).is_some(), next_ms.is_none());
        }
        assert_eq!(Hold::begins_ms(&policy, at(23, 0)), Some(7 * 3_600_000));
        let said = Hold::of(&policy, 0, at(7, 0)).unwrap().to_string();
        assert!(said.contains("12:00-12:30 (UTC) is the next"), "{said}");
        // The budget counts within the windows, too.
        let policy = PeerPolicy { budget: Some(1), ..policy };
        assert!(matches!(Hold::of(&policy, 1, at(7, 0)), Some(Hold::OverBudget { .. })));
    }

    #[test]
    fn a_link_is_drained_after_silence() {
        let mut quiet = Quiet::new(500, 1_000);
        for (bytes, now_ms, rtt_ms, left, enough) in [
            (500, 3_999, 10, Left::Nothing, false),
            (501, 4_000, 10, Left::Nothing, false),
            (501, 7_000, 1_000, Left::Nothing, false),
            (501, 7_000, 10, Left::Something, false),
            (501, 7_000, 10, Left::Nothing, true),
            (501, 8_000, 1_000, Left::Nothing, true),
            (501, 63_999, 10, Left::Something, false),
            (501, 64_000, 10, Left::Something, true),
        ] {
            assert_eq!(quiet.note(bytes, now_ms, rtt_ms, left), enough, "{bytes} at {now_ms}");
        }
    }
}
