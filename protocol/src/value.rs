//! PostgreSQL values, typed where that makes them smaller.
//!
//! Capture sees canonical text (the session pins DateStyle, TimeZone and the like). A value takes
//! a typed form only when that form prints exactly the text it came from; whatever does not, stays
//! text. So no value is ever changed by travelling, whatever type it has.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::codec::{DecodeError, Reader, Writer, is_signed};

/// Longest single value: what PostgreSQL allows.
pub const VALUE_BYTES_MAX: usize = 1 << 30;

/// Which typed form a column's text may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueKind {
    /// Everything without a typed form of its own.
    Text,
    /// `boolean`.
    Bool,
    /// `smallint`, `integer`, `bigint`.
    Int,
    /// `uuid`.
    Uuid,
    /// `bytea`.
    Bytes,
    /// `timestamp without time zone`.
    Timestamp,
    /// `timestamp with time zone`.
    TimestampTz,
}

impl ValueKind {
    /// The kind of a column by the name PostgreSQL's `format_type` gives its type.
    pub fn of_type(type_name: &str) -> Self {
        match type_name {
            "boolean" => Self::Bool,
            "smallint" | "integer" | "bigint" => Self::Int,
            "uuid" => Self::Uuid,
            "bytea" => Self::Bytes,
            "timestamp without time zone" => Self::Timestamp,
            "timestamp with time zone" => Self::TimestampTz,
            _ => Self::Text,
        }
    }
}

/// One column's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// The canonical text.
    Text(Box<str>),
    /// `t` or `f`.
    Bool(bool),
    /// A decimal integer.
    Int(i64),
    /// A UUID in the usual form.
    Uuid([u8; 16]),
    /// `\x…`.
    Bytes(Box<[u8]>),
    /// Microseconds since 1970, printed without a zone.
    Timestamp(i64),
    /// Microseconds since 1970, printed in UTC with `+00`.
    TimestampTz(i64),
}

impl Value {
    /// The value of canonical `text` in a column of `kind`.
    pub fn from_text(kind: ValueKind, text: &str) -> Self {
        let typed = match kind {
            ValueKind::Text => None,
            ValueKind::Bool => match text {
                "t" => Some(Self::Bool(true)),
                "f" => Some(Self::Bool(false)),
                _ => None,
            },
            ValueKind::Int => text.parse().ok().map(Self::Int),
            ValueKind::Uuid => parse_uuid(text).map(Self::Uuid),
            ValueKind::Bytes => text.strip_prefix("\\x").and_then(parse_hex).map(Self::Bytes),
            ValueKind::Timestamp => parse_timestamp(text).map(Self::Timestamp),
            ValueKind::TimestampTz => {
                text.strip_suffix("+00").and_then(parse_timestamp).map(Self::TimestampTz)
            }
        };
        match typed {
            Some(value) if value.text().is_some_and(|back| back == text) => value,
            _ => Self::Text(text.into()),
        }
    }

    /// The canonical text; `None` for NULL.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Null => return None,
            Self::Text(text) => Cow::Borrowed(text),
            Self::Bool(yes) => Cow::Borrowed(if *yes { "t" } else { "f" }),
            Self::Int(number) => Cow::Owned(number.to_string()),
            Self::Uuid(bytes) => Cow::Owned(print_uuid(bytes)),
            Self::Bytes(bytes) => {
                let mut text = String::with_capacity(2 + bytes.len() * 2);
                text.push_str("\\x");
                push_hex(&mut text, bytes);
                Cow::Owned(text)
            }
            Self::Timestamp(micros) => Cow::Owned(print_timestamp(*micros)),
            Self::TimestampTz(micros) => Cow::Owned(print_timestamp(*micros) + "+00"),
        })
    }

    /// Bytes this value takes in memory beyond itself, for budgets.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
    }

    /// Writes tag and content.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Self::Null => out.u8(0),
            Self::Text(text) => {
                out.u8(1);
                out.text(text);
            }
            Self::Bool(false) => out.u8(2),
            Self::Bool(true) => out.u8(3),
            // The number's first byte is its own tag. So integers in a key compare as numbers do,
            // and rows that follow on each other stand together wherever keys are sorted.
            Self::Int(number) => out.signed(*number),
            Self::Uuid(bytes) => {
                out.u8(5);
                out.raw(bytes);
            }
            Self::Bytes(bytes) => {
                out.u8(6);
                out.bytes(bytes);
            }
            Self::Timestamp(micros) => {
                out.u8(7);
                out.signed(*micros);
            }
            Self::TimestampTz(micros) => {
                out.u8(8);
                out.signed(*micros);
            }
        }
    }

    /// Reads tag and content.
    ///
    /// # Errors
    /// Fails when cut short, over [`VALUE_BYTES_MAX`], not UTF-8 or of an unknown tag.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8()? {
            0 => Self::Null,
            1 => Self::Text(from.text(VALUE_BYTES_MAX)?.into()),
            2 => Self::Bool(false),
            3 => Self::Bool(true),
            5 => Self::Uuid(from.array()?),
            6 => Self::Bytes(from.bytes(VALUE_BYTES_MAX)?.into()),
            7 => Self::Timestamp(from.signed()?),
            8 => Self::TimestampTz(from.signed()?),
            tag if is_signed(tag) => Self::Int(from.signed_after(tag)?),
            tag => return Err(DecodeError::UnknownTag { what: "value", tag }),
        })
    }
}

/// A row's identity in its table: the primary key's values in key order, in canonical bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey(Box<[u8]>);

impl RowKey {
    /// The key made of these values, in the key's column order.
    pub fn new(values: &[Value]) -> Self {
        let mut out = Writer::new();
        for value in values {
            value.encode(&mut out);
        }
        Self(out.into_bytes().into())
    }

    /// A key from stored bytes, which [`RowKey::values`] will check.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The values.
    ///
    /// # Errors
    /// Fails when the bytes are not a sequence of values.
    pub fn values(&self) -> Result<Vec<Value>, DecodeError> {
        let mut from = Reader::new(&self.0);
        let mut values = Vec::new();
        while !from.rest().is_empty() {
            values.push(Value::decode(&mut from)?);
        }
        Ok(values)
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

fn parse_hex(text: &str) -> Option<Box<[u8]>> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    parse_hex(&text.replace('-', ""))?.as_ref().try_into().ok()
}

fn print_uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        push_hex(&mut text, &[*byte]);
    }
    text
}

const DAY_MICROS: i64 = 86_400_000_000;

/// Days since 1970 of a proleptic Gregorian date (Hinnant, "chrono-compatible date algorithms").
fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn date_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

fn parse_timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(' ')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let micros = if fraction.is_empty() {
        0
    } else if fraction.len() <= 6 && fraction.bytes().all(|c| c.is_ascii_digit()) {
        fraction.parse::<i64>().ok()? * 10_i64.pow(6 - fraction.len() as u32)
    } else {
        return None;
    };
    let seconds = (hour * 60 + minute) * 60 + second;
    Some(days_from_date(year, month, day) * DAY_MICROS + seconds * 1_000_000 + micros)
}

fn print_timestamp(micros: i64) -> String {
    let (year, month, day) = date_from_days(micros.div_euclid(DAY_MICROS));
    let within = micros.rem_euclid(DAY_MICROS);
    let (seconds, fraction) = (within / 1_000_000, within % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
    if fraction != 0 {
        write!(text, ".{fraction:06}").expect("writing to a String cannot fail");
        text.truncate(text.trim_end_matches('0').len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [ValueKind; 7] = [
        ValueKind::Text,
        ValueKind::Bool,
        ValueKind::Int,
        ValueKind::Uuid,
        ValueKind::Bytes,
        ValueKind::Timestamp,
        ValueKind::TimestampTz,
    ];

    fn check(kind: ValueKind, text: &str, typed: bool) {
        let value = Value::from_text(kind, text);
        assert_eq!(value.text().as_deref(), Some(text));
        assert_eq!(!matches!(value, Value::Text(_)), typed, "{text} became {value:?}");
    }

    #[test]
    fn canonical_texts_take_their_typed_form() {
        check(ValueKind::Bool, "t", true);
        check(ValueKind::Int, "-9223372036854775808", true);
        check(ValueKind::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", true);
        check(ValueKind::Bytes, "\\x00ff", true);
        check(ValueKind::Bytes, "\\x", true);
        check(ValueKind::Timestamp, "2024-02-29 23:59:59.5", true);
        check(ValueKind::TimestampTz, "0001-01-01 00:00:00+00", true);
        check(ValueKind::TimestampTz, "9999-12-31 23:59:59.999999+00", true);
    }

    #[test]
    fn what_would_print_otherwise_stays_text() {
        check(ValueKind::Bool, "true", false);
        check(ValueKind::Int, "+1", false);
        check(ValueKind::Int, "007", false);
        check(ValueKind::Uuid, "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", false);
        check(ValueKind::Bytes, "\\xFF", false);
        check(ValueKind::Bytes, "abc\\\\", false);
        check(ValueKind::Timestamp, "infinity", false);
        check(ValueKind::Timestamp, "2024-02-30 00:00:00", false);
        check(ValueKind::Timestamp, "0044-03-15 12:00:00 BC", false);
        check(ValueKind::Timestamp, "10000-01-01 00:00:00", false);
        check(ValueKind::TimestampTz, "2024-01-01 00:00:00+02", false);
        check(ValueKind::Timestamp, "2024-01-01 24:00:00", false);
    }

    proptest! {
        #[test]
        fn keys_of_numbers_compare_as_the_numbers(a: i64, b: i64, near in -300i64..300) {
            let key = |number| RowKey::new(&[Value::Int(number), Value::Bool(true)]);
            for (a, b) in [(a, b), (near, near + 1), (a, a.saturating_add(near))] {
                prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
                prop_assert_eq!(key(a).values(), Ok(vec![Value::Int(a), Value::Bool(true)]));
            }
        }

        #[test]
        fn no_text_is_changed_by_travelling(kind in 0..KINDS.len(), text in ".{0,40}|[-0-9:. +tfx\\\\a-f]{0,40}") {
            let value = Value::from_text(KINDS[kind], &text);
            let mut out = Writer::new();
            value.encode(&mut out);
            let bytes = out.into_bytes();
            let back = Value::decode(&mut Reader::new(&bytes)).unwrap();
            let printed = back.text().unwrap().into_owned();
            prop_assert_eq!(printed, text);
        }

        #[test]
        fn every_timestamp_of_four_digit_years_is_typed(micros in -62_135_596_800_000_000i64..253_402_300_800_000_000) {
            let text = print_timestamp(micros);
            prop_assert_eq!(Value::from_text(ValueKind::Timestamp, &text), Value::Timestamp(micros));
        }

        #[test]
        fn keys_read_back(numbers in proptest::collection::vec(any::<i64>(), 1..4)) {
            let values: Vec<_> = numbers.into_iter().map(Value::Int).collect();
            prop_assert_eq!(RowKey::new(&values).values().unwrap(), values);
        }
    }
}
