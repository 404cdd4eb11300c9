//! Months by the clock of the machine, in UTC. Pure: the time is an argument.

use std::fmt;

const DAY_MS: u64 = 86_400_000;

/// A month of the Gregorian calendar, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(u32);

impl Month {
    /// The month of a time in Unix milliseconds.
    pub fn of(wall_ms: u64) -> Self {
        let (year, month, _) = civil(wall_ms / DAY_MS);
        let months = (year - 1970) * 12 + (month - 1);
        Self(u32::try_from(months).unwrap_or(u32::MAX - 1))
    }

    /// By its number: 0 is January 1970.
    pub fn new(number: u32) -> Self {
        Self(number)
    }

    /// Months since January 1970.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The one that follows.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// When it begins, in Unix milliseconds.
    pub fn start_ms(self) -> u64 {
        let (year, month) = self.parts();
        days_before(year, month).saturating_mul(DAY_MS)
    }

    fn parts(self) -> (u64, u64) {
        (1970 + u64::from(self.0) / 12, u64::from(self.0) % 12 + 1)
    }
}

impl fmt::Display for Month {
    /// `2026-11`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month) = self.parts();
        write!(f, "{year:04}-{month:02}")
    }
}

/// Year, month and day of a day since 1970-01-01. In eras of 400 years that begin in March, so that the
/// day that some years have more is the last one.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to the first of a month.
fn days_before(year: u64, month: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let from_march = (month + 9) % 12;
    let year_of_era = year % 400;
    let day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * from_march + 2) / 5;
    year / 400 * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (s, month) in [
            (0, "1970-01"),
            (2_678_399, "1970-01"),
            (2_678_400, "1970-02"),
            (951_782_400, "2000-02"), // the 29th
            (951_868_800, "2000-03"),
            (1_709_164_800, "2024-02"), // the 29th
            (1_796_083_199, "2026-11"),
            (1_796_083_200, "2026-12"),
            (4_107_542_400, "2100-03"), // no 29th before
        ] {
            assert_eq!(Month::of(s * 1_000).to_string(), month, "{s}");
        }
        assert_eq!(Month::of(1_796_083_199_999).next().start_ms(), 1_796_083_200_000);
    }

    #[test]
    fn every_month_begins_where_the_one_before_ends() {
        for number in 0..12 * 500 {
            let month = Month::new(number);
            let start_ms = month.start_ms();
            assert_eq!(Month::of(start_ms), month);
            assert_eq!(Month::of(month.next().start_ms() - 1), month);
            let days = (month.next().start_ms() - start_ms) / DAY_MS;
            assert!((28..=31).contains(&days), "{month} has {days} days");
        }
        // The farthest clock does not panic.
        assert!(Month::of(u64::MAX).next().start_ms() > 0);
    }
}
