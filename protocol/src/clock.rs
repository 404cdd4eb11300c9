//! Hybrid logical clocks.
//!
//! Kulkarni et al., "Logical Physical Clocks" (2014), with the physical part taken from the commit
//! timestamp PostgreSQL writes into the WAL and not from the moment of capture: a daemon that was
//! down from ten to one must not stamp half past ten with one o'clock.

use std::fmt;

use crate::id::{Incarnation, Origin, Seq, SiteId, TxnId};

/// A hybrid logical clock reading: 48 bits of milliseconds since 1970 and a 16-bit counter. When
/// the counter overflows it carries into the milliseconds, so that readings only ever grow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Older than every reading a clock gives.
    pub const ZERO: Self = Self(0);

    const MS_MAX: u64 = (1 << 48) - 1;

    /// The first reading within the millisecond `ms` since 1970 (capped at the year 10889).
    pub fn from_ms(ms: u64) -> Self {
        Self(ms.min(Self::MS_MAX) << 16)
    }

    /// Milliseconds since 1970.
    pub fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// Position within the millisecond.
    pub fn counter(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.counter())
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// When a transaction happened, in the one order the whole fleet agrees on: by clock reading, then
/// site, then incarnation. Two transactions never share a stamp, so every tie is broken the same
/// way everywhere; the incarnation is part of it because two branches of a cloned site may have
/// drawn the same reading.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The clock reading.
    pub hlc: Hlc,
    /// The transaction that carries it.
    pub txn: TxnId,
}

impl Stamp {
    /// The stamp of transaction `seq` of `origin`.
    pub fn new(hlc: Hlc, origin: Origin, seq: Seq) -> Self {
        Self { hlc, txn: TxnId { origin, seq } }
    }

    /// Older than every transaction, and newer than what was there [before the
    /// log](Self::before_the_log).
    pub fn least() -> Self {
        let site = SiteId::new(1).expect("1 is a site's number");
        let incarnation = Incarnation::new(1).expect("1 is not 0");
        Self::new(Hlc(1), Origin { site, incarnation }, Seq::ZERO)
    }

    /// A stamp older than everything in any log, by which this transaction is found all the same.
    #[must_use]
    pub fn before_the_log(self) -> Self {
        Self { hlc: Hlc::ZERO, ..self }
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:?}", self.hlc, self.txn)
    }
}

/// A site's clock. It moves only while folding the WAL, so reading the same WAL again after a
/// crash gives the same stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Clock {
    last: Hlc,
}

impl Clock {
    /// Goes on from the last reading that was made durable.
    pub fn resume(last: Hlc) -> Self {
        Self { last }
    }

    /// The last reading given or observed.
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// A reading for a local commit at `commit_ms` (milliseconds since 1970). Commit timestamps
    /// are not monotone in WAL order, and clocks are set back; readings still only grow.
    pub fn tick(&mut self, commit_ms: u64) -> Hlc {
        self.last = Hlc(self.last.0 + 1).max(Hlc::from_ms(commit_ms));
        self.last
    }

    /// Notes a foreign reading that has become visible here: whatever is written from now on may
    /// depend on it and must be stamped later.
    pub fn observe(&mut self, seen: Hlc) {
        self.last = self.last.max(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_counter_carries_into_the_milliseconds() {
        let mut clock = Clock::resume(Hlc((5 << 16) | 0xffff));
        assert_eq!(clock.tick(1), Hlc(6 << 16));
    }

    proptest! {
        #[test]
        fn readings_only_grow(steps in proptest::collection::vec((any::<bool>(), 0u64..1 << 47), 1..100)) {
            let mut clock = Clock::default();
            let mut last = Hlc::ZERO;
            for (local, ms) in steps {
                if local {
                    let reading = clock.tick(ms);
                    prop_assert!(reading > last && reading.ms() >= ms);
                    last = reading;
                } else {
                    clock.observe(Hlc::from_ms(ms));
                    prop_assert!(clock.last() >= last);
                    last = clock.last();
                }
            }
        }
    }
}
