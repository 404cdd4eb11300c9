//! One total order of numbers, dates and points in time, by their canonical texts.
//!
//! It asks for no type: what travels must compare alike at every site, whatever its columns are. It
//! is PostgreSQL's order for the integer types, `numeric`, `date` and both timestamps. Texts that
//! are equal in it, such as `1.0` and `1.00`, follow by their bytes, and so does what is neither
//! number nor time.

use std::cmp::Ordering;

/// Compares two canonical texts.
pub(super) fn compare(one: &str, two: &str) -> Ordering {
    let by_rank = match (Rank::of(one), Rank::of(two)) {
        (Rank::Number(one), Rank::Number(two)) => one.compare(&two),
        (Rank::Time(one), Rank::Time(two)) => one.cmp(&two),
        (one, two) => one.class().cmp(&two.class()),
    };
    by_rank.then_with(|| one.cmp(two))
}

enum Rank<'t> {
    BeforeAll,
    Number(Number<'t>),
    /// Year and the rest, which compares as text does.
    Time((i64, &'t str)),
    Other,
    AfterAll,
    /// PostgreSQL takes it for greater than infinity.
    NotANumber,
}

impl<'t> Rank<'t> {
    fn of(text: &'t str) -> Self {
        match text {
            "-infinity" | "-Infinity" => Self::BeforeAll,
            "infinity" | "Infinity" => Self::AfterAll,
            "NaN" => Self::NotANumber,
            _ => match (Number::of(text), time(text)) {
                (Some(number), _) => Self::Number(number),
                (None, Some(time)) => Self::Time(time),
                (None, None) => Self::Other,
            },
        }
    }

    fn class(&self) -> u8 {
        match self {
            Self::BeforeAll => 0,
            Self::Number(_) => 1,
            Self::Time(_) => 2,
            Self::Other => 3,
            Self::AfterAll => 4,
            Self::NotANumber => 5,
        }
    }
}

/// A decimal number of any length.
struct Number<'t> {
    is_negative: bool,
    /// Without zeros in front.
    whole: &'t str,
    /// Without zeros at the end.
    behind: &'t str,
}

impl<'t> Number<'t> {
    fn of(text: &'t str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, behind) = digits.split_once('.').unwrap_or((digits, "0"));
        let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (is_number, is_negative) = (are_digits(whole) && are_digits(behind), digits != text);
        let (whole, behind) = (whole.trim_start_matches('0'), behind.trim_end_matches('0'));
        let is_negative = is_negative && !(whole.is_empty() && behind.is_empty());
        is_number.then_some(Self { is_negative, whole, behind })
    }

    fn compare(&self, other: &Self) -> Ordering {
        let size = |number: &Self| (number.whole.len(), number.whole, number.behind);
        let by_size = size(self).cmp(&size(other));
        match (self.is_negative, other.is_negative) {
            (false, false) => by_size,
            (true, true) => by_size.reverse(),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

/// A date or timestamp as ISO prints it, in UTC where it has a zone.
fn time(text: &str) -> Option<(i64, &str)> {
    let (text, is_before_christ) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (year, rest) = text.split_once('-')?;
    let is_year = year.len() >= 4 && year.bytes().all(|byte| byte.is_ascii_digit());
    let year: i64 = year.parse().ok().filter(|_| is_year)?;
    let rest = rest.strip_suffix("+00").unwrap_or(rest);
    let is_rest = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b' ' | b':' | b'.');
    let is_time = rest.len() >= 5 && rest.bytes().all(is_rest);
    // There is no year 0: 1 BC is the year before 1.
    is_time.then_some((if is_before_christ { 1 - year } else { year }, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_follow_as_their_values_do() {
        let ascending: [&[&str]; 3] = [
            &[
                "-Infinity",
                "-10",
                "-9.5",
                "-0.01",
                "0",
                "0.5",
                "0.51",
                "7",
                "12",
                "100",
                "Infinity",
                "NaN",
            ],
            &[
                "-infinity",
                "0044-03-15 BC",
                "0001-01-01",
                "1999-12-31",
                "2024-02-29",
                "12024-01-01",
                "infinity",
            ],
            &[
                "0002-01-01 00:00:00+00 BC",
                "0001-01-01 00:00:00+00 BC",
                "2024-01-01 00:00:00+00",
                "2024-01-01 00:00:00.5+00",
                "2024-01-01 00:00:01+00",
            ],
        ];
        for texts in ascending {
            for (place, text) in texts.iter().enumerate() {
                for (other_place, other) in texts.iter().enumerate() {
                    assert_eq!(compare(text, other), place.cmp(&other_place), "{text} {other}");
                }
            }
        }
        assert_eq!(compare("1.0", "1.00"), Ordering::Less, "equal numbers by their bytes");
    }

    proptest! {
        #[test]
        fn integers_follow_as_numbers(one: i64, two: i64) {
            prop_assert_eq!(compare(&one.to_string(), &two.to_string()), one.cmp(&two));
        }

        #[test]
        fn any_texts_have_one_order(texts in proptest::collection::vec("[-0-9. :a]{0,8}", 3)) {
            let [one, two, three] = [&texts[0], &texts[1], &texts[2]];
            prop_assert_eq!(compare(one, two), compare(two, one).reverse());
            prop_assert_eq!(compare(one, two) == Ordering::Equal, one == two);
            if compare(one, two).is_le() && compare(two, three).is_le() {
                prop_assert!(compare(one, three).is_le());
            }
        }
    }
}
