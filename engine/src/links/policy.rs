//! Whether the operator wants a link with a peer just now. Pure: bytes and times are arguments.

use std::fmt;

use crate::config::PeerPolicy;
use crate::time::calendar::Month;

/// How often it is looked at whether a hold begins or ends, in milliseconds, while nothing else says
/// when: the clock may be set.
pub(super) const LOOK_MS_MAX: u64 = 60_000;
/// The same while a link is up that has a budget, and while it moves bytes: what passes meanwhile
/// goes beyond the budget.
pub(super) const LOOK_MS_QUIET: u64 = 1_000;
pub(super) const LOOK_MS_BUSY: u64 = 50;

/// Why there is to be no link with a peer, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// The month's budget of bytes is used up.
    OverBudget { budget: u64, month: Month },
}

impl Hold {
    /// Why there is to be no link now; `None` when nothing speaks against it. `spent` are the bytes of
    /// the present month.
    pub(super) fn of(policy: &PeerPolicy, spent: u64, wall_ms: u64) -> Option<Self> {
        let budget = policy.budget.filter(|budget| spent >= *budget)?;
        Some(Self::OverBudget { budget, month: Month::of(wall_ms) })
    }

    /// When it ends, in Unix milliseconds.
    pub(super) fn until_ms(self) -> u64 {
        match self {
            Self::OverBudget { month, .. } => month.next().start_ms(),
        }
    }

    /// For the peer's operator.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::OverBudget { .. } => "its budget of bytes for this month is used up",
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
}
