//! What a row's clock keeps of a counter.

use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, Writer};
use crate::counter::{Decimal, Share};
use crate::id::Origin;
use crate::schema::ColumnId;

/// A counter of a row, as far as others have added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its column.
    pub column: ColumnId,
    /// What it was born with, once that is known.
    pub base: Option<Decimal>,
    /// The newest share of each origin, in the order of the origins.
    shares: Vec<(Stamp, Share)>,
}

/// Origins that may add to one counter; as many as a vector may have is more than enough.
const SHARES_MAX: usize = 65_536;

impl Counter {
    /// Nobody has added to it.
    pub fn new(column: ColumnId) -> Self {
        Self { column, base: None, shares: Vec::new() }
    }

    fn place(&self, origin: Origin) -> Result<usize, usize> {
        self.shares.binary_search_by_key(&origin, |(stamp, _)| stamp.txn.origin)
    }

    /// The share of an origin in this life of the counter.
    pub fn share(&self, origin: Origin, birth: Option<Stamp>) -> Option<&Decimal> {
        let (_, share) = &self.shares[self.place(origin).ok()?];
        (share.birth == birth).then_some(&share.sum)
    }

    /// Takes a share; gives the stamp of a newer one of the same origin, if there is one.
    pub fn join(&mut self, stamp: Stamp, share: &Share) -> Result<(), Stamp> {
        match self.place(stamp.txn.origin) {
            Ok(place) => {
                let known = &mut self.shares[place];
                if known.0 > stamp {
                    return Err(known.0);
                }
                *known = (stamp, share.clone());
            }
            Err(place) => self.shares.insert(place, (stamp, share.clone())),
        }
        Ok(())
    }

    /// Begins anew with the write of this stamp; shares that belong to it, or to a later one, stay.
    pub fn rebirth(&mut self, birth: Option<Stamp>, base: Option<Decimal>) {
        self.shares.retain(|(_, share)| share.birth >= birth);
        self.base = base;
    }

    /// Everything added since `birth`.
    pub fn sum(&self, birth: Option<Stamp>) -> Decimal {
        let counted = self.shares.iter().filter(|(_, share)| share.birth == birth);
        counted.fold(Decimal::zero(), |sum, (_, share)| sum.plus(&share.sum))
    }

    /// Its value since `birth`, if it is known what it was born with.
    pub fn value(&self, birth: Option<Stamp>) -> Option<Decimal> {
        self.base.as_ref().map(|base| base.plus(&self.sum(birth)))
    }

    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// The stamps of its shares.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.shares.iter().map(|(stamp, _)| *stamp)
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        out.varint(u64::from(self.column.0));
        out.u8(u8::from(self.base.is_some()));
        if let Some(base) = &self.base {
            base.encode(out);
        }
        out.varint(self.shares.len() as u64);
        for (stamp, share) in &self.shares {
            out.stamp(*stamp);
            share.encode(out);
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// As [`Share::decode`], or when shares are missing or out of order.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut counter = Self::new(ColumnId(from.u16()?));
        counter.base = match from.u8()? {
            0 => None,
            1 => Some(Decimal::decode(from)?),
            tag => return Err(DecodeError::UnknownTag { what: "counter's base", tag }),
        };
        for _ in 0..from.count(SHARES_MAX)? {
            let stamp = from.stamp()?;
            let last = counter.shares.last().map(|(last, _)| last.txn.origin);
            if last.is_some_and(|last| last >= stamp.txn.origin) {
                return Err(DecodeError::NotCanonical("shares of a counter"));
            }
            counter.shares.push((stamp, Share::decode(from)?));
        }
        if counter.is_empty() {
            return Err(DecodeError::NotCanonical("counter without shares"));
        }
        Ok(counter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Hlc;
    use crate::id::{Incarnation, Seq, SiteId};

    fn stamp(site: u16, time: u64) -> Stamp {
        let site = SiteId::new(site + 1).expect("not zero");
        let origin = Origin { site, incarnation: Incarnation::new(7).expect("not zero") };
        Stamp::new(Hlc::from_ms(time), origin, Seq(time))
    }

    proptest! {
        /// Whatever comes twice or late, the newest share of each origin counts, and only that.
        #[test]
        fn shares_may_come_in_any_order_and_again(
            shares in proptest::collection::vec((0u16..3, 1u64..9, -50i64..50), 1..12),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let birth = Some(stamp(0, 0));
            let mut newest = std::collections::BTreeMap::new();
            let mut join = |counter: &mut Counter, (site, time, sum): (u16, u64, i64)| {
                // An origin adds once at a time.
                let sum = *newest.entry((site, time)).or_insert(sum);
                let sum = Decimal::parse(&sum.to_string()).expect("a number");
                let newer = counter.join(stamp(site, time), &Share { birth, sum });
                prop_assert!(newer.is_ok() || newer > Err(stamp(site, time)));
                Ok(())
            };
            let mut counter = Counter::new(ColumnId(1));
            for index in order {
                join(&mut counter, *index.get(&shares))?;
            }
            for share in shares {
                join(&mut counter, share)?;
            }
            let due: i64 = (0..3).filter_map(|site| {
                newest.range((site, 0)..(site + 1, 0)).next_back().map(|(_, sum)| *sum)
            }).sum();
            prop_assert_eq!(counter.sum(birth).to_string(), due.to_string());
            prop_assert_eq!(counter.sum(None), Decimal::zero());
            let mut out = Writer::new();
            counter.encode(&mut out);
            prop_assert_eq!(Counter::decode(&mut Reader::new(&out.into_bytes())), Ok(counter));
        }
    }
}
