//! Positions in PostgreSQL's write-ahead log.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A log sequence number: a byte position in one server's write-ahead log.
///
/// Only comparable between positions of the same server and timeline. `Lsn::ZERO` is what
/// PostgreSQL calls "invalid": no position at all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position PostgreSQL treats as "none".
    pub const ZERO: Self = Self(0);

    /// The position as a plain number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// True for a real position, false for [`Lsn::ZERO`].
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

// A position reads the same in a failed assertion as in pg_replication_slots.
impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

/// The text is not a position of the form `X/Y` with one to eight hexadecimal digits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a log position of the form 16/B374D848")]
pub struct LsnSyntaxError;

impl FromStr for Lsn {
    type Err = LsnSyntaxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('/').ok_or(LsnSyntaxError)?;
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

// `from_str_radix` alone would accept a sign and any number of leading zeros.
fn half(digits: &str) -> Result<u32, LsnSyntaxError> {
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !plain {
        return Err(LsnSyntaxError);
    }
    u32::from_str_radix(digits, 16).map_err(|_| LsnSyntaxError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree() {
        for (text, number) in [
            ("0/0", 0),
            ("0/16B3748", 0x16B_3748),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Lsn(number)));
            assert_eq!(Lsn(number).to_string(), text);
        }
        assert_eq!("00000001/0a".parse(), Ok(Lsn(0x1_0000_000A)));
    }

    #[test]
    fn other_text_is_refused() {
        for text in
            ["", "/", "0/", "/0", "0", "+1/0", "0/-1", "0/0/0", "123456789/0", "g/0", " 0/0"]
        {
            assert_eq!(text.parse::<Lsn>(), Err(LsnSyntaxError), "{text:?}");
        }
    }
}
