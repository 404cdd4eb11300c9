//! Columns of bytes: texts and everything else that is no number.
//!
//! Few different ones are listed once and then numbered; decimal numbers with equally many digits
//! behind the point are numbers; everything else stands one behind the other.

use crate::codec::{DecodeError, Reader, Writer};
use crate::columnar::BAD;
use crate::columnar::numbers::Numbers;
use crate::columnar::predict::hashed;

/// Longer texts are left to zstd.
const LISTED_BYTES_MAX: usize = 64;
/// Shorter columns have no list.
const LISTED_FROM: usize = 8;
/// After so many texts it shows whether a list is worth it.
const TRIED: usize = 128;
/// Most digits of a decimal number; any so many fit into an `i64`.
const DIGITS_MAX: usize = 18;
/// Longest list: what texts somebody chose may make looking them up slow, and this bounds it.
const LIST_MAX: usize = 4096;

/// The texts of a list and which of them stands where.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) lengths: Vec<u64>,
    pub(super) bytes: Vec<u8>,
    pub(super) numbers: Vec<u64>,
}

/// Lists `texts`, `count` of them, if that is shorter.
pub(super) fn list<'t>(texts: impl Iterator<Item = &'t [u8]>, count: usize) -> Option<Listed> {
    if count < LISTED_FROM {
        return None;
    }
    let mut listed = Listed::default();
    let mut ends: Vec<usize> = Vec::new();
    let mut known = Known::default();
    for text in texts {
        if text.len() > LISTED_BYTES_MAX {
            return None;
        }
        let at = |number: usize| {
            let start = number.checked_sub(1).map_or(0, |before| ends[before]);
            &listed.bytes[start..ends[number]]
        };
        let hash = hashed(0, text);
        let number = match known.find(hash, |number| at(number) == text) {
            Some(number) => number,
            None => {
                let number = known.add(hash);
                listed.lengths.push(text.len() as u64);
                listed.bytes.extend_from_slice(text);
                ends.push(listed.bytes.len());
                number
            }
        };
        listed.numbers.push(number as u64);
        let seen = listed.numbers.len();
        if ends.len() > LIST_MAX || seen >= TRIED && ends.len() > seen - seen / 4 {
            return None;
        }
    }
    (ends.len() <= count - count / 4).then_some(listed)
}

/// Which things are known, by hash: numbered from 0 in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Hash and number plus one; 0 is nothing. As many as a power of two, half of them free.
    places: Vec<(u64, u32)>,
    count: usize,
}

impl Known {
    /// The number of a thing with this hash for which `is` holds.
    pub(super) fn find(&self, hash: u64, is: impl Fn(usize) -> bool) -> Option<usize> {
        let mut place = hash as usize;
        loop {
            place &= self.places.len().checked_sub(1)?;
            let (known, number) = self.places[place];
            let number = (number as usize).checked_sub(1)?;
            if known == hash && is(number) {
                return Some(number);
            }
            place += 1;
        }
    }

    /// Adds one that is not known, and gives its number.
    pub(super) fn add(&mut self, hash: u64) -> usize {
        if (self.count + 1) * 2 > self.places.len() {
            let longer = vec![(0, 0); (self.places.len() * 2).max(64)];
            for (hash, number) in std::mem::replace(&mut self.places, longer) {
                if number > 0 {
                    self.put(hash, number);
                }
            }
        }
        self.count += 1;
        self.put(hash, self.count as u32);
        self.count - 1
    }

    fn put(&mut self, hash: u64, number: u32) {
        let mask = self.places.len() - 1;
        let mut place = hash as usize & mask;
        while self.places[place].1 != 0 {
            place = (place + 1) & mask;
        }
        self.places[place] = (hash, number);
    }
}

/// A decimal number that prints as the text it was read from: all its digits as an integer, and how
/// many of them stand behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) digits: i64,
    pub(super) scale: u8,
}

impl Decimal {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let unsigned = text.strip_prefix(b"-").unwrap_or(text);
        let point = unsigned.iter().position(|byte| *byte == b'.');
        let scale = point.map_or(0, |point| unsigned.len() - point - 1);
        let whole = point.unwrap_or(unsigned.len());
        let is_shortest = whole == 1 || whole > 1 && unsigned[0] != b'0';
        let count = unsigned.len() - usize::from(point.is_some());
        if !is_shortest || count > DIGITS_MAX || point.is_some() && scale == 0 {
            return None;
        }
        let mut digits = 0i64;
        for (place, byte) in unsigned.iter().enumerate() {
            match byte {
                b'0'..=b'9' => digits = digits * 10 + i64::from(byte - b'0'),
                _ if Some(place) == point => {}
                _ => return None,
            }
        }
        let is_negative = unsigned.len() < text.len();
        if is_negative && digits == 0 {
            return None;
        }
        Some(Self { digits: if is_negative { -digits } else { digits }, scale: scale as u8 })
    }

    /// Writes the text and its length.
    pub(super) fn put(self, out: &mut Writer) {
        let mut place = DECIMAL_BYTES;
        let mut text = [b'0'; DECIMAL_BYTES];
        let mut rest = self.digits.unsigned_abs();
        let mut printed = 0;
        while rest > 0 || printed <= self.scale {
            if printed == self.scale && printed > 0 {
                place -= 1;
                text[place] = b'.';
            }
            place -= 1;
            text[place] = b'0' + (rest % 10) as u8;
            rest /= 10;
            printed += 1;
        }
        if self.digits < 0 {
            place -= 1;
            text[place] = b'-';
        }
        out.bytes(&text[place..]);
    }
}

/// The longest text of a decimal number: twenty digits, a point, a sign.
const DECIMAL_BYTES: usize = 24;

/// What all texts are as decimal numbers: with equally many digits behind the point.
pub(super) fn scale<'t>(mut texts: impl Iterator<Item = &'t [u8]>) -> Option<u8> {
    let scale = Decimal::parse(texts.next()?)?.scale;
    texts.all(|text| Decimal::parse(text).is_some_and(|one| one.scale == scale)).then_some(scale)
}

/// Reads a scale.
pub(super) fn take_scale(from: &mut Reader<'_>) -> Result<u8, DecodeError> {
    Some(from.u8()?).filter(|scale| usize::from(*scale) <= DIGITS_MAX).ok_or(BAD)
}

/// Texts that are being read.
#[derive(Debug)]
pub(super) enum Texts<'a> {
    /// One behind the other.
    Each { lengths: Numbers<'a>, bytes: &'a [u8] },
    /// By their numbers in a list.
    Listed { numbers: Numbers<'a>, list: Vec<&'a [u8]> },
}

impl<'a> Texts<'a> {
    /// The texts of these lengths, which come next.
    pub(super) fn take(from: &mut Reader<'a>, lengths: Numbers<'a>) -> Result<Self, DecodeError> {
        let bytes = from.raw(lengths.sum(from.rest().len())?)?;
        Ok(Self::Each { lengths, bytes })
    }

    /// The list of `count` texts of these lengths, which comes next.
    pub(super) fn take_listed(
        from: &mut Reader<'a>,
        (count, mut lengths): (usize, Numbers<'a>),
        numbers: Numbers<'a>,
    ) -> Result<Self, DecodeError> {
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(from.raw(lengths.next_length()?)?);
        }
        Ok(Self::Listed { numbers, list })
    }

    /// The next text.
    pub(super) fn next(&mut self) -> Result<&'a [u8], DecodeError> {
        match self {
            Self::Each { lengths, bytes } => {
                let (text, rest) = bytes.split_at_checked(lengths.next_length()?).ok_or(BAD)?;
                *bytes = rest;
                Ok(text)
            }
            Self::Listed { numbers, list } => list.get(numbers.next_length()?).copied().ok_or(BAD),
        }
    }
}
