//! What a link moved by calendar month, and how fast. Pure: totals and times are arguments.

use std::collections::BTreeMap;

use crate::time::calendar::Month;

/// Months remembered for one peer; the earliest is forgotten.
const MONTHS_MAX: usize = 13;
/// What is measured over less says nothing.
const MEASURE_MS_MIN: u64 = 1_000;
/// Over more, there were pauses in it.
const MEASURE_MS_MAX: u64 = 5_000;

/// Bytes in both directions by month. Every byte counts for the month that the clock shows when it is
/// noticed, so that a clock that jumps there and back loses nothing of the right month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    months: BTreeMap<Month, u64>,
    /// The sum of all bytes when it was last looked at.
    counted: u64,
}

impl Ledger {
    /// As kept, together with the sum of all bytes then.
    pub(super) fn restored(months: BTreeMap<Month, u64>, counted: u64) -> Self {
        Self { months, counted }
    }

    /// Counts what moved since the last time.
    pub(super) fn count(&mut self, total: u64, wall_ms: u64) {
        let more = total.saturating_sub(self.counted);
        if more == 0 {
            return;
        }
        self.counted = total;
        let now = Month::of(wall_ms);
        let bytes = self.months.entry(now).or_default();
        *bytes = bytes.saturating_add(more);
        while self.months.len() > MONTHS_MAX {
            let earliest = self.months.keys().copied().find(|month| *month != now);
            self.months.remove(&earliest.unwrap_or(now));
        }
    }

    pub(super) fn spent(&self, month: Month) -> u64 {
        self.months.get(&month).copied().unwrap_or(0)
    }

    pub(super) fn months(&self) -> &BTreeMap<Month, u64> {
        &self.months
    }
}

/// The rate at which a peer took bytes lately, while there was much to send.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    since: Option<(u64, u64)>,
    rate: Option<u64>,
}

impl Pace {
    /// Takes note of the bytes ever sent at this time, in milliseconds.
    pub(super) fn note(&mut self, sent: u64, now_ms: u64) {
        let Some((then_ms, before)) = self.since else { return self.since = Some((now_ms, sent)) };
        let passed_ms = now_ms.saturating_sub(then_ms);
        if passed_ms < MEASURE_MS_MIN {
            return;
        }
        self.since = Some((now_ms, sent));
        let more = sent.saturating_sub(before);
        if passed_ms > MEASURE_MS_MAX || more == 0 {
            return;
        }
        // The highest counts, since with little to send the rate is ours; and it wears off.
        let known = self.rate.unwrap_or(0);
        self.rate = Some((more.saturating_mul(1_000) / passed_ms).max(known - known / 16));
    }

    /// Bytes per second; `None` when nothing was measured.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate.filter(|rate| *rate > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-30 23:59:59.
    const NOVEMBER_MS: u64 = 1_796_083_199_000;
    const DECEMBER_MS: u64 = NOVEMBER_MS + 1_000;

    #[test]
    fn a_month_counts_what_moved_in_it() {
        let mut ledger = Ledger::restored(BTreeMap::new(), 1_000);
        ledger.count(1_000, NOVEMBER_MS);
        assert!(ledger.months().is_empty());
        ledger.count(1_300, NOVEMBER_MS);
        ledger.count(1_350, DECEMBER_MS);
        // The battery died, and NTP put it right.
        ledger.count(1_360, 0);
        ledger.count(1_400, DECEMBER_MS);
        let spent = [NOVEMBER_MS, DECEMBER_MS, 0].map(|ms| ledger.spent(Month::of(ms)));
        assert_eq!(spent, [300, 90, 10]);
        // Whatever was counted stays counted over a restart.
        let mut again = Ledger::restored(ledger.months().clone(), 1_400);
        again.count(1_401, DECEMBER_MS);
        assert_eq!(again.spent(Month::of(DECEMBER_MS)), 91);
    }

    #[test]
    fn the_present_month_is_never_forgotten() {
        let mut ledger = Ledger::default();
        for n in 1..=40 {
            ledger.count(n, Month::new(700 + n as u32).start_ms());
        }
        // A clock that is years behind.
        ledger.count(50, 0);
        assert_eq!((ledger.months().len(), ledger.spent(Month::of(0))), (MONTHS_MAX, 10));
        assert_eq!(ledger.spent(Month::new(740)), 1);
    }

    #[test]
    fn the_pace_is_that_of_busy_seconds() {
        let mut pace = Pace::default();
        for (sent, now_ms, rate) in [
            (500, 0, None),
            (900, 999, None),
            (2_500, 1_000, Some(2_000)),
            (2_600, 100_000, Some(2_000)), // a pause
            (2_700, 101_000, Some(1_875)), // little to send
            (22_700, 103_000, Some(10_000)),
        ] {
            pace.note(sent, now_ms);
            assert_eq!(pace.rate(), rate, "{now_ms}");
        }
    }
}
