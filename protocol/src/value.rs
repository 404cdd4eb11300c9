//! PostgreSQL values, typed where that makes them smaller.
//!
//! Capture sees canonical text (the session pins DateStyle, TimeZone and the like). A value takes
//! a typed form only when that form prints exactly the text it came from; whatever does not, stays
//! text. So no value is ever changed by travelling, whatever type it has.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write as _};

use crate::codec::{DecodeError, Reader, Writer, is_signed};
use crate::limits::inline_bytes_max;
use crate::merged::{Kind, Share};

/// Longest single value: what PostgreSQL allows.
pub const VALUE_BYTES_MAX: usize = 1 << 30;

pub use crate::limits::INLINE_BYTES_MAX;

/// What was done to a merged column has this tag, or one of those that follow, by its kind.
const SHARE_TAG: u8 = 10;

/// Columns a key may have; PostgreSQL's own limit is 32.
pub const KEY_VALUES_MAX: usize = 256;

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
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Text,
        Self::Bool,
        Self::Int,
        Self::Uuid,
        Self::Bytes,
        Self::Timestamp,
        Self::TimestampTz,
    ];

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
    /// A text of more than [`INLINE_BYTES_MAX`], whatever its type: it is not here.
    Long(Box<LongValue>),
    /// What a site did to a merged column. It is never what a column shows.
    Share(Box<Share>),
    /// With what a merged column was born before there was a log, as text. It is no write.
    Base(Box<str>),
}

/// Names a text that is too long to be carried about. Its content travels in pieces of its own,
/// which [`LongValue::hash`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LongValue {
    /// BLAKE3 of the canonical text.
    pub hash: [u8; 32],
    /// The text's length in bytes.
    pub bytes: u64,
}

impl Value {
    /// The value of canonical `text` in a column of `kind`.
    pub fn from_text(kind: ValueKind, text: &str) -> Self {
        // Each of these takes canonical text only, so that what is printed is what was read.
        let typed = match kind {
            ValueKind::Text => None,
            ValueKind::Bool => match text {
                "t" => Some(Self::Bool(true)),
                "f" => Some(Self::Bool(false)),
                _ => None,
            },
            ValueKind::Int => parse_int(text).map(Self::Int),
            ValueKind::Uuid => parse_uuid(text).map(Self::Uuid),
            ValueKind::Bytes => text.strip_prefix("\\x").and_then(parse_hex).map(Self::Bytes),
            ValueKind::Timestamp => parse_timestamp(text).map(Self::Timestamp),
            ValueKind::TimestampTz => {
                text.strip_suffix("+00").and_then(parse_timestamp).map(Self::TimestampTz)
            }
        };
        typed.unwrap_or_else(|| Self::Text(text.into()))
    }

    /// The canonical text; `None` for NULL. Of a long value, which is not here, and of a share,
    /// which is no value of the column, a note for humans.
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
            Self::Long(long) => Cow::Owned(format!("({} bytes, not shown)", long.bytes)),
            Self::Share(share) => Cow::Owned(share.part.told()),
            Self::Base(text) => Cow::Borrowed(text),
        })
    }

    /// The canonical text of a value that is here as a whole; `None` for NULL, long values and what
    /// was done to a merged column.
    pub fn whole_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Long(_) | Self::Share(_) | Self::Base(_) => None,
            value => value.text(),
        }
    }

    /// Bytes this value takes in memory beyond itself, for budgets.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Text(text) | Self::Base(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Share(share) => share.bytes(),
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
            Self::Base(text) => {
                out.u8(4);
                out.text(text);
            }
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
            Self::Long(long) => {
                out.u8(9);
                out.raw(&long.hash);
                out.varint(long.bytes);
            }
            Self::Share(share) => {
                out.u8(SHARE_TAG + share.part.kind().tag());
                share.encode(out);
            }
        }
    }

    /// Reads tag and content.
    ///
    /// # Errors
    /// Fails when cut short, over [`VALUE_BYTES_MAX`], not UTF-8, of an unknown tag, or long in name
    /// only.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8()? {
            0 => Self::Null,
            1 => Self::Text(from.text(VALUE_BYTES_MAX)?.into()),
            2 => Self::Bool(false),
            3 => Self::Bool(true),
            4 => Self::Base(from.text(VALUE_BYTES_MAX)?.into()),
            5 => Self::Uuid(from.array()?),
            6 => Self::Bytes(from.bytes(VALUE_BYTES_MAX)?.into()),
            7 => Self::Timestamp(from.signed()?),
            8 => Self::TimestampTz(from.signed()?),
            9 => {
                let long = LongValue { hash: from.array()?, bytes: from.varint()? };
                if long.bytes <= inline_bytes_max() as u64 {
                    return Err(DecodeError::NotCanonical("long value"));
                }
                Self::Long(Box::new(long))
            }
            tag if is_signed(tag) => Self::Int(from.signed_after(tag)?),
            tag => match tag.checked_sub(SHARE_TAG).and_then(Kind::tagged) {
                Some(kind) => Self::Share(Box::new(Share::decode(kind, from)?)),
                None => return Err(DecodeError::UnknownTag { what: "value", tag }),
            },
        })
    }
}

/// A row's identity in its table: the primary key's values in key order, in canonical bytes.
///
/// Keys are compared, copied and looked up more than anything else, and are mostly short: those
/// stand in the value itself.
#[derive(Clone)]
pub struct RowKey(KeyBytes);

/// Longest key that stands in place: a UUID takes 17 bytes, an integer 2 to 11.
const SHORT_KEY_BYTES: usize = 22;

#[derive(Clone)]
enum KeyBytes {
    Short { length: u8, bytes: [u8; SHORT_KEY_BYTES] },
    Long(Box<[u8]>),
}

impl RowKey {
    /// The key made of these values, in the key's column order.
    pub fn new(values: &[Value]) -> Self {
        Self::of(values.iter())
    }

    /// As [`RowKey::new`], of values that stand apart.
    pub fn of<'v>(values: impl Iterator<Item = &'v Value>) -> Self {
        let mut out = Writer::new();
        for value in values {
            value.encode(&mut out);
        }
        Self::from_bytes(&out.into_bytes())
    }

    /// A key from stored bytes, which [`RowKey::values`] will check.
    pub fn from_bytes(key: &[u8]) -> Self {
        let mut bytes = [0; SHORT_KEY_BYTES];
        match bytes.get_mut(..key.len()) {
            Some(place) => {
                place.copy_from_slice(key);
                Self(KeyBytes::Short { length: key.len() as u8, bytes })
            }
            None => Self(KeyBytes::Long(key.into())),
        }
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            KeyBytes::Short { length, bytes } => &bytes[..usize::from(*length)],
            KeyBytes::Long(bytes) => bytes,
        }
    }

    /// The values.
    ///
    /// # Errors
    /// Fails when the bytes are not a sequence of values, or of more than [`KEY_VALUES_MAX`].
    pub fn values(&self) -> Result<Vec<Value>, DecodeError> {
        let mut from = Reader::new(self.as_bytes());
        let mut values = Vec::new();
        while !from.rest().is_empty() {
            if values.len() == KEY_VALUES_MAX {
                let limit = KEY_VALUES_MAX as u64;
                return Err(DecodeError::TooLong { found: limit + 1, limit });
            }
            match Value::decode(&mut from)? {
                Value::Share(_) | Value::Base(_) => {
                    return Err(DecodeError::NotCanonical("merged column in a key"));
                }
                value => values.push(value),
            }
        }
        Ok(values)
    }
}

impl PartialEq for RowKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for RowKey {}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RowKey").field(&self.as_bytes()).finish()
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

/// Without sign, zeros in front or anything else that printing would leave out.
fn parse_int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    match digits.as_bytes() {
        [b'0'] if digits.len() == text.len() => Some(0),
        [b'1'..=b'9', ..] => text.parse().ok(),
        _ => None,
    }
}

/// Lower-case digits only.
fn parse_hex(text: &str) -> Option<Box<[u8]>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(hex_digit(*high)? << 4 | hex_digit(*low)?)).collect()
}

fn hex_digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    if text.len() != 36 {
        return None;
    }
    let mut bytes = [0; 16];
    let mut at = 0;
    for (index, byte) in bytes.iter_mut().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            if text[at] != b'-' {
                return None;
            }
            at += 1;
        }
        *byte = hex_digit(text[at])? << 4 | hex_digit(text[at + 1])?;
        at += 2;
    }
    Some(bytes)
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

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Exactly as [`print_timestamp`] prints it.
fn parse_timestamp(text: &str) -> Option<i64> {
    let (head, fraction) = text.as_bytes().split_first_chunk::<19>()?;
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0, |sum, digit| {
            digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0'))
        })
    };
    let separators = [head[4], head[7], head[10], head[13], head[16]];
    if separators != *b"-- ::" {
        return None;
    }
    let (year, month, day) = (number(&head[..4])?, number(&head[5..7])?, number(&head[8..10])?);
    let (hour, minute) = (number(&head[11..13])?, number(&head[14..16])?);
    let second = number(&head[17..])?;
    if year < 1 || !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match fraction {
        [] => 0,
        [b'.', digits @ ..] if digits.len() <= 6 && digits.last().is_some_and(|d| *d != b'0') => {
            number(digits)? * 10_i64.pow(6 - digits.len() as u32)
        }
        _ => return None,
    };
    let seconds = (hour * 60 + minute) * 60 + second;
    Some(days_from_date(year, month, day) * DAY_MICROS + seconds * 1_000_000 + micros)
}

fn print_timestamp(micros: i64) -> String {
    let (year, month, day) = date_from_days(micros.div_euclid(DAY_MICROS));
    let within = micros.rem_euclid(DAY_MICROS);
    let (seconds, fraction) = (within / 1_000_000, within % 1_000_000);
    let mut text = String::with_capacity(32);
    if (0..=9999).contains(&year) {
        push_digits(&mut text, year, 4);
    } else {
        write!(text, "{year:04}").expect("writing to a String cannot fail");
    }
    let rest = [month, day, seconds / 3600, seconds / 60 % 60, seconds % 60];
    for (separator, number) in "-- ::".chars().zip(rest) {
        text.push(separator);
        push_digits(&mut text, number, 2);
    }
    if fraction != 0 {
        text.push('.');
        push_digits(&mut text, fraction, 6);
        text.truncate(text.trim_end_matches('0').len());
    }
    text
}

/// A number that is not negative, with zeros in front.
fn push_digits(text: &mut String, number: i64, count: u32) {
    for place in (0..count).rev() {
        let digit = number / 10_i64.pow(place) % 10;
        text.push(char::from(b'0' + digit as u8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn a_long_value_is_long() {
        let decoded = |bytes| {
            let mut out = Writer::new();
            Value::Long(Box::new(LongValue { hash: [7; 32], bytes })).encode(&mut out);
            Value::decode(&mut Reader::new(&out.into_bytes()))
        };
        let most = INLINE_BYTES_MAX as u64;
        assert_eq!(decoded(most), Err(DecodeError::NotCanonical("long value")));
        assert!(matches!(decoded(most + 1), Ok(Value::Long(_))));
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
        fn no_text_is_changed_by_travelling(kind in 0..ValueKind::ALL.len(), text in ".{0,40}|[-0-9:. +tfx\\\\a-f]{0,40}") {
            let value = Value::from_text(ValueKind::ALL[kind], &text);
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
        fn a_timestamp_with_another_character_is_not_changed(
            micros in -62_135_596_800_000_000i64..253_402_300_800_000_000,
            whole_second: bool,
            at in 0usize..26,
            with in "[-0-9:. +]",
        ) {
            let micros = if whole_second { micros.div_euclid(1_000_000) * 1_000_000 } else { micros };
            let mut text = print_timestamp(micros);
            if at < text.len() {
                text.replace_range(at..=at, &with);
            }
            let value = Value::from_text(ValueKind::Timestamp, &text);
            prop_assert_eq!(value.text().unwrap(), text.as_str());
        }

        #[test]
        fn every_number_is_typed(number: i64) {
            let text = number.to_string();
            prop_assert_eq!(Value::from_text(ValueKind::Int, &text), Value::Int(number));
        }

        #[test]
        fn keys_read_back(numbers in proptest::collection::vec(any::<i64>(), 1..4)) {
            let values: Vec<_> = numbers.into_iter().map(Value::Int).collect();
            prop_assert_eq!(RowKey::new(&values).values().unwrap(), values);
        }

        #[test]
        fn a_key_has_few_columns(columns in 0..2 * KEY_VALUES_MAX) {
            let key = RowKey::new(&vec![Value::Null; columns]);
            prop_assert_eq!(key.values().is_ok(), columns <= KEY_VALUES_MAX);
        }

        #[test]
        fn keys_are_ordered_by_their_bytes(one in ".{0,40}", two in ".{0,40}") {
            let (one, two) = (one.as_bytes(), two.as_bytes());
            let keys = [RowKey::from_bytes(one), RowKey::from_bytes(two)];
            prop_assert_eq!(keys[0].as_bytes(), one);
            prop_assert_eq!(keys[0].cmp(&keys[1]), one.cmp(two));
            prop_assert_eq!(keys[0] == keys[1], one == two);
        }
    }
}
