//! Months, and times of day, by the clock of the machine, in UTC. Pure: the time is an argument.

use std::fmt;

const DAY_MS: u64 = 86_400_000;
const MINUTE_MS: u64 = 60_000;
const DAY_MINUTES: u64 = 1_440;

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

/// A time in Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Utc(pub u64);

impl fmt::Display for Utc {
    /// `2026-11-21 17:05 UTC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0 / DAY_MS);
        let minutes = self.0 / MINUTE_MS % DAY_MINUTES;
        let (hour, minute) = (minutes / 60, minutes % 60);
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
    }
}

/// A span of every day, UTC, in whole minutes; it may go over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Minutes of the day at which it begins and ends; never equal, and the end is not in it.
    from: u64,
    to: u64,
}

impl Window {
    /// Reads `22:00-06:00`; `24:00` may stand for the end of the day. `None` for anything else, also
    /// for a span without length.
    pub fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once('-')?;
        let (from, to) = (minutes(from)?, minutes(to)?);
        if from == DAY_MINUTES || from == to {
            return None;
        }
        Some(Self { from, to: to % DAY_MINUTES })
    }

    /// Milliseconds until it ends; `None` outside of it.
    pub fn left_ms(self, wall_ms: u64) -> Option<u64> {
        let (into_ms, length_ms) = (self.into_ms(wall_ms), self.length_ms());
        (into_ms < length_ms).then(|| length_ms - into_ms)
    }

    /// Milliseconds until it begins the next time; a day at most.
    pub fn wait_ms(self, wall_ms: u64) -> u64 {
        DAY_MS - self.into_ms(wall_ms)
    }

    /// Milliseconds since it last began.
    fn into_ms(self, wall_ms: u64) -> u64 {
        (wall_ms % DAY_MS + DAY_MS - self.from * MINUTE_MS) % DAY_MS
    }

    /// A whole day when it ends where it begins, which only `00:00-24:00` does.
    fn length_ms(self) -> u64 {
        match (self.to + DAY_MINUTES - self.from) % DAY_MINUTES {
            0 => DAY_MS,
            minutes => minutes * MINUTE_MS,
        }
    }
}

impl fmt::Display for Window {
    /// `22:00-06:00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = if self.to == 0 { DAY_MINUTES } else { self.to };
        let (from_h, from_min) = (self.from / 60, self.from % 60);
        write!(f, "{from_h:02}:{from_min:02}-{:02}:{:02}", to / 60, to % 60)
    }
}

/// Minutes of the day of `06:30`.
fn minutes(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, max: u64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = if digits { text.parse().ok()? } else { return None };
        (number <= max).then_some(number)
    };
    let minutes = number(hours, 24)? * 60 + number(minutes, 59)?;
    (minutes <= DAY_MINUTES).then_some(minutes)
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
    fn times_are_those_of_the_calendar() {
        for (ms, told) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_340_000, "2000-02-28 23:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00 UTC"),
            (1_735_689_599_000, "2024-12-31 23:59 UTC"),
            (1_735_689_600_000, "2025-01-01 00:00 UTC"),
        ] {
            assert_eq!(Utc(ms).to_string(), told);
        }
    }

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

    #[test]
    fn windows_are_read_and_written() {
        for text in ["22:00-06:00", "00:00-24:00", "23:59-00:01", "06:30-24:00", "00:00-00:01"] {
            assert_eq!(Window::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Window::parse("06:30-00:00").unwrap().to_string(), "06:30-24:00");
        for text in [
            "",
            "-",
            "6:00-07:00",
            "06:00",
            "06:00-06:00",
            "24:00-06:00",
            "06:00-24:01",
            "06:60-07:00",
            "25:00-26:00",
            "06:00-07:00 ",
            "+6:00-07:00",
            "06:00–07:00",
            "06-07",
        ] {
            assert_eq!(Window::parse(text), None, "{text}");
        }
    }

    /// Every minute of a day, and every window of whole hours: in it or not as a list of the minutes
    /// says, and what is left or waited for ends exactly where that changes.
    #[test]
    fn windows_open_and_close_on_the_minute() {
        for (from, to) in (0..24).flat_map(|from| (1..=24).map(move |to| (from, to))) {
            let Some(window) = Window::parse(&format!("{from:02}:00-{to:02}:00")) else {
                assert_eq!(from, to);
                continue;
            };
            let contains = |minute: u64| {
                let hour = minute / 60 % 24;
                if from < to { (from..to).contains(&hour) } else { hour >= from || hour < to }
            };
            for minute in (0..DAY_MINUTES).step_by(30) {
                let wall_ms = 20_000 * DAY_MS + minute * MINUTE_MS + 1;
                let left_ms = window.left_ms(wall_ms);
                assert_eq!(left_ms.is_some(), contains(minute), "{window} at minute {minute}");
                let end = |ms: u64| (wall_ms + ms) % DAY_MS / MINUTE_MS;
                if let Some(ms) = left_ms {
                    assert_eq!(end(ms), to * 60 % DAY_MINUTES, "{window} at minute {minute}");
                }
                assert_eq!(end(window.wait_ms(wall_ms)), from * 60);
            }
        }
    }
}
