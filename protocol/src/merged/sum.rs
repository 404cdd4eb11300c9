//! Counters: numbers to which every site adds, and whose value is the sum of what all have added.
//!
//! What travels is not a difference but a site's share: everything it has added since the column's
//! birth. A share that comes twice, or after a newer one, changes nothing, and of many the last says
//! all.

use std::collections::BTreeMap;

use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, Writer};
use crate::decimal::Decimal;
use crate::id::Origin;

/// Origins that may add to one counter; as many as a vector may have is more than enough.
const SHARES_MAX: usize = 65_536;
/// Longest sum of one site as it is encoded. The largest difference of two numbers takes 835 bytes,
/// and adding it up for ever takes eight more.
const SHARE_BYTES_MAX: usize = 860;

/// The newest share of each origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum(BTreeMap<Origin, (Stamp, Decimal)>);

impl Sum {
    /// Takes a share; gives the stamp of a newer one of the same origin, if there is one.
    pub fn join(&mut self, stamp: Stamp, share: &Decimal) -> Result<(), Stamp> {
        match self.0.get(&stamp.txn.origin) {
            Some((newer, _)) if *newer > stamp => Err(*newer),
            _ => {
                self.0.insert(stamp.txn.origin, (stamp, share.clone()));
                Ok(())
            }
        }
    }

    /// Whether nobody has added anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What an origin will have added in all with a change from one number to another.
    pub fn share(&self, own: Origin, before: &str, after: &str) -> Option<Decimal> {
        let by = Decimal::parse(after)?.minus(&Decimal::parse(before)?);
        let known = self.0.get(&own);
        #[cfg(feature = "simulation")]
        let known = known.filter(|_| !crate::planted::active("naked-deltas"));
        Some(known.map_or_else(|| by.clone(), |(_, sum)| sum.plus(&by)))
    }

    /// Everything that was added.
    pub fn total(&self) -> Decimal {
        self.0.values().fold(Decimal::zero(), |sum, (_, share)| sum.plus(share))
    }

    /// The stamps of the shares.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.0.values().map(|(stamp, _)| *stamp)
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        out.varint(self.0.len() as u64);
        for (stamp, share) in self.0.values() {
            out.stamp(*stamp);
            share.encode(out);
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// As [`share`], or when shares are out of order.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut sum = Self::default();
        for _ in 0..from.count(SHARES_MAX)? {
            let stamp = from.stamp()?;
            if sum.0.last_key_value().is_some_and(|(last, _)| *last >= stamp.txn.origin) {
                return Err(DecodeError::NotCanonical("shares of a counter"));
            }
            sum.0.insert(stamp.txn.origin, (stamp, share(from)?));
        }
        Ok(sum)
    }
}

/// Reads a share.
///
/// # Errors
/// As [`Decimal::decode`], or when no site can have added as much.
pub(super) fn share(from: &mut Reader<'_>) -> Result<Decimal, DecodeError> {
    let before = from.rest().len();
    let sum = Decimal::decode(from)?;
    match before - from.rest().len() > SHARE_BYTES_MAX {
        true => Err(DecodeError::BadNumber),
        false => Ok(sum),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::merged::tests::stamp;

    #[test]
    fn what_is_added_up_is_never_too_long_to_be_read() {
        let widest = format!("{0}.{0}", "9".repeat(1000));
        assert_eq!(Decimal::parse(&format!("9{widest}")), None);
        assert_eq!(Decimal::parse(&format!("{widest}9")), None);
        let (widest, least) = (Decimal::parse(&widest), Decimal::parse(&format!("-{widest}")));
        let mut sum = widest.unwrap().minus(&least.unwrap());
        let encoded = |sum: &Decimal| {
            let mut out = Writer::new();
            sum.encode(&mut out);
            out.into_bytes()
        };
        let reads = |sum: &Decimal| share(&mut Reader::new(&encoded(sum))).as_ref() == Ok(sum);
        // Doubled as often as sixty-four bits can count.
        for _ in 0..64 {
            assert!(reads(&sum));
            sum = sum.plus(&sum);
        }
        while reads(&sum) {
            sum = sum.plus(&sum);
        }
        // As many as there may be sites.
        let all = (0..16).fold(sum, |sum, _| sum.plus(&sum));
        let bytes = encoded(&all);
        assert_eq!(Decimal::decode(&mut Reader::new(&bytes)), Ok(all), "a clock is read again");
    }

    proptest! {
        /// Whatever comes twice or late, the newest share of each origin counts, and only that.
        #[test]
        fn shares_may_come_in_any_order_and_again(
            shares in proptest::collection::vec((0u16..3, 1u64..9, -50i64..50), 1..12),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let mut newest = BTreeMap::new();
            let mut join = |counter: &mut Sum, (site, time, sum): (u16, u64, i64)| {
                // An origin adds once at a time.
                let sum = *newest.entry((site, time)).or_insert(sum);
                let sum = Decimal::parse(&sum.to_string()).expect("a number");
                let newer = counter.join(stamp(site, time), &sum);
                prop_assert!(newer.is_ok() || newer > Err(stamp(site, time)));
                Ok(())
            };
            let mut counter = Sum::default();
            for index in order {
                join(&mut counter, *index.get(&shares))?;
            }
            for share in shares {
                join(&mut counter, share)?;
            }
            let due: i64 = (0..3).filter_map(|site| {
                newest.range((site, 0)..(site + 1, 0)).next_back().map(|(_, sum)| *sum)
            }).sum();
            prop_assert_eq!(counter.total().to_string(), due.to_string());
            let mut out = Writer::new();
            counter.encode(&mut out);
            let bytes = out.into_bytes();
            prop_assert_eq!(Sum::decode(&mut Reader::new(&bytes)), Ok(counter));
        }
    }
}
