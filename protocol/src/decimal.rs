//! Exact decimal numbers: what counters add up.

use std::fmt;

use num_bigint::BigInt;

use crate::codec::{DecodeError, Reader, Writer};

/// Most digits before the point, and most behind it, of a number that counts; PostgreSQL declares as
/// many in all.
const DIGITS_MAX: usize = 1000;
/// Longest number that is kept: a sum of what all sites have added, with every digit behind the
/// point, is shorter.
const DECIMAL_BYTES_MAX: usize = 2048;

/// An exact decimal number with the count of digits behind the point that it is printed with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal {
    digits: BigInt,
    scale: u16,
}

impl Decimal {
    /// The number of a canonical text of an integer or `numeric` type; `None` for what is no
    /// number, infinite, or longer than a counter may be.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, behind) = text.split_once('.').unwrap_or((text, ""));
        let digits = whole.strip_prefix('-').unwrap_or(whole);
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let is_number = !digits.is_empty() && all_digits(digits) && all_digits(behind);
        let is_short = digits.len() <= DIGITS_MAX && behind.len() <= DIGITS_MAX;
        if !is_number || !is_short || text.ends_with('.') {
            return None;
        }
        let digits = format!("{whole}{behind}").parse().ok()?;
        Some(Self { digits, scale: behind.len() as u16 })
    }

    /// Nothing, as an integer.
    pub fn zero() -> Self {
        Self { digits: BigInt::ZERO, scale: 0 }
    }

    /// The digits of a number with `scale` of them behind the point, which may be more than it has.
    fn digits_at(&self, scale: u16) -> BigInt {
        let more = u32::from(scale.saturating_sub(self.scale));
        &self.digits * BigInt::from(10).pow(more)
    }

    fn aligned(&self, other: &Self) -> (BigInt, BigInt, u16) {
        let scale = self.scale.max(other.scale);
        (self.digits_at(scale), other.digits_at(scale), scale)
    }

    /// The sum, printed with as many digits behind the point as either has.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let (one, two, scale) = self.aligned(other);
        Self { digits: one + two, scale }
    }

    /// The difference, printed likewise.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let (one, two, scale) = self.aligned(other);
        Self { digits: one - two, scale }
    }

    /// Whether it is the same number, however it is printed.
    pub fn is_same(&self, other: &Self) -> bool {
        let (one, two, _) = self.aligned(other);
        one == two
    }

    /// Whether it is the same number or a smaller one.
    pub fn is_at_most(&self, other: &Self) -> bool {
        let (one, two, _) = self.aligned(other);
        one <= two
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        out.varint(u64::from(self.scale));
        out.bytes(&self.digits.to_signed_bytes_be());
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or longer than it need be.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let scale = from.u16()?;
        if usize::from(scale) > DIGITS_MAX {
            return Err(DecodeError::BadNumber);
        }
        let bytes = from.bytes(DECIMAL_BYTES_MAX)?;
        let digits = BigInt::from_signed_bytes_be(bytes);
        if digits.to_signed_bytes_be() != bytes {
            return Err(DecodeError::NotCanonical("decimal number"));
        }
        Ok(Self { digits, scale })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.digits < BigInt::ZERO { "-" } else { "" };
        let digits = self.digits.magnitude().to_string();
        let scale = usize::from(self.scale);
        let digits = format!("{digits:0>least$}", least = scale + 1);
        let (whole, behind) = digits.split_at(digits.len() - scale);
        let point = if scale == 0 { "" } else { "." };
        write!(f, "{sign}{whole}{point}{behind}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_print_as_they_were_written() {
        for text in ["0", "-7", "0.00", "-0.05", "12.50", "9223372036854775808", "-1.000"] {
            assert_eq!(
                Decimal::parse(text).map(|number| number.to_string()).as_deref(),
                Some(text)
            );
        }
        for text in ["", "-", ".", "1.", ".5", "NaN", "Infinity", "1e5", "+1", "1.-2", "--1", "1 "]
        {
            assert_eq!(Decimal::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_sum_has_the_digits_of_the_longer_number() {
        let number = |text| Decimal::parse(text).unwrap();
        assert_eq!(number("1.5").plus(&number("2")).to_string(), "3.5");
        assert_eq!(number("0.05").minus(&number("0.1")).to_string(), "-0.05");
        assert!(number("1.0").is_at_most(&number("1")) && !number("1.01").is_at_most(&number("1")));
    }

    proptest! {
        #[test]
        fn numbers_add_up(one: i64, two: i64, scale in 0usize..6) {
            let point = |number: i64| {
                let digits = number.unsigned_abs().to_string();
                let digits = format!("{digits:0>least$}", least = scale + 1);
                let (whole, behind) = digits.split_at(digits.len() - scale);
                let sign = if number < 0 { "-" } else { "" };
                if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{behind}") }
            };
            let (a, b) = (Decimal::parse(&point(one)).unwrap(), Decimal::parse(&point(two)).unwrap());
            let sum = i128::from(one) + i128::from(two);
            prop_assert_eq!(a.plus(&b).digits, BigInt::from(sum));
            prop_assert_eq!(a.plus(&b).minus(&b), a.clone());
            prop_assert_eq!(a.is_at_most(&b), one <= two);
            prop_assert_eq!(a.to_string(), point(one));
            let mut out = Writer::new();
            a.encode(&mut out);
            prop_assert_eq!(Decimal::decode(&mut Reader::new(&out.into_bytes())), Ok(a));
        }

        #[test]
        fn what_reads_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut from = Reader::new(&bytes);
            if let Ok(number) = Decimal::decode(&mut from) {
                let mut out = Writer::new();
                number.encode(&mut out);
                prop_assert_eq!(out.into_bytes(), &bytes[..bytes.len() - from.rest().len()]);
            }
        }
    }
}
