//! Who wrote something, and when in their own order.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU64};
use std::str::FromStr;

/// A member of the fleet: a number from 1 to 65535 that the fleet file gives it for life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(NonZeroU16);

impl SiteId {
    /// `None` for 0, which no site has.
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number in the fleet file.
    pub fn number(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// One life of a site's log: a random number drawn when the log was made. A restored or cloned
/// site must draw a new one, or two different histories would carry the same numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(NonZeroU64);

impl Incarnation {
    /// `None` for 0, which is never drawn.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number as drawn.
    pub fn number(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0.get() >> 32)
    }
}

/// Who first wrote a transaction: a site in one of its lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The member.
    pub site: SiteId,
    /// Which life of its log.
    pub incarnation: Incarnation,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.site, self.incarnation)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{:?}", self.site, self.incarnation)
    }
}

/// An origin was written in another form than `site.incarnation`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("origin {0:?} is not of the form SITE.INCARNATION")]
pub struct ParseOriginError(String);

impl FromStr for Origin {
    type Err = ParseOriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (site, incarnation) = text.split_once('.')?;
            Some(Self {
                site: SiteId::new(site.parse().ok()?)?,
                incarnation: Incarnation::new(u64::from_str_radix(incarnation, 16).ok()?)?,
            })
        };
        parse().ok_or_else(|| ParseOriginError(text.to_owned()))
    }
}

/// A transaction's place in its origin's log: 1, 2, 3 … without gaps. 0 stands before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first transaction.
    pub const ZERO: Self = Self(0);

    /// The place after this one. After the last number there is none: no log gets there, but
    /// whoever asks for one may say that it did.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Names one transaction in the whole fleet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnId {
    /// Who wrote it.
    pub origin: Origin,
    /// Its place in that origin's log.
    pub seq: Seq,
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.origin, self.seq)
    }
}

impl fmt::Debug for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.origin, self.seq)
    }
}

/// A member's ed25519 public key: it signs the member's units and is its TLS identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A public key was not written as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("public key must be 64 hexadecimal digits, found {0:?}")]
pub struct ParsePublicKeyError(String);

impl FromStr for PublicKey {
    type Err = ParsePublicKeyError;

    /// Takes one spelling per key, so that texts can be compared. Says nothing about whether the
    /// bytes are a point of the curve.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let digit = |byte: u8| b"0123456789abcdef".iter().position(|digit| *digit == byte);
            let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
            let mut key = [0; 32];
            if pairs.len() != key.len() {
                return None;
            }
            for (byte, [high, low]) in key.iter_mut().zip(pairs) {
                *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
            }
            Some(Self(key))
        };
        parse().ok_or_else(|| ParsePublicKeyError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_reads_back_as_it_was_written() {
        let origin =
            Origin { site: SiteId::new(7).unwrap(), incarnation: Incarnation::new(0xab).unwrap() };
        assert_eq!(origin.to_string(), "7.00000000000000ab");
        assert_eq!(origin.to_string().parse(), Ok(origin));
        for bad in ["", "7", "0.1", "7.0", "7.x", "70000.1"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_public_key_has_one_spelling() {
        let key = PublicKey([0xa7; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        let bad = ["A7".repeat(32), "a7".repeat(31), "a7".repeat(33), "+7".repeat(32)];
        for bad in bad.into_iter().chain(["zz".repeat(32), String::new()]) {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }
}
