//! Causal delivery: which foreign transaction may be applied next.
//!
//! An origin's stream says, by vector records, what the origin itself had applied before it went
//! on writing. A transaction waits until everything its origin had seen is visible here too, so
//! that no site ever shows an answer without its question.

use crate::clock::Hlc;
use crate::id::{Origin, Seq, TxnId};
use crate::version::VersionVector;

/// The next transaction of an origin, as the inbox holds it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Whose.
    pub origin: Origin,
    /// Which one.
    pub seq: Seq,
    /// The vector record of its unit.
    pub vector: &'a VersionVector,
    /// Its clock reading.
    pub hlc: Hlc,
}

/// What the clock on the wall says, as far as it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedTime {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// How far ahead of it a reading may be before it is held, in milliseconds.
    pub drift_ms_max: u64,
}

/// Whether a head may be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Now.
    Ready,
    /// It was applied before.
    Done,
    /// After this transaction, which is not applied here yet.
    WaitsFor(TxnId),
    /// It claims to be from the future. It is kept and forwarded, and applied once the clock here
    /// reaches this time (milliseconds since 1970).
    HeldUntil(u64),
}

/// Decides over one head, given what is applied here.
pub fn readiness(
    head: &Head<'_>,
    applied: &VersionVector,
    own: Origin,
    time: TrustedTime,
) -> Readiness {
    let reached = applied.get(head.origin);
    if reached >= head.seq {
        return Readiness::Done;
    }
    if reached.next() != head.seq {
        return Readiness::WaitsFor(TxnId { origin: head.origin, seq: Seq(head.seq.0 - 1) });
    }
    // What the origin applied of our own log is here by nature.
    let missing =
        head.vector.iter().find(|(origin, seq)| *origin != own && applied.get(*origin) < *seq);
    if let Some((origin, seq)) = missing {
        return Readiness::WaitsFor(TxnId { origin, seq });
    }
    if head.hlc.ms() > time.now_ms.saturating_add(time.drift_ms_max) {
        return Readiness::HeldUntil(head.hlc.ms() - time.drift_ms_max);
    }
    Readiness::Ready
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Incarnation, SiteId};

    fn origin(site: u16) -> Origin {
        Origin { site: SiteId::new(site).unwrap(), incarnation: Incarnation::new(1).unwrap() }
    }

    fn check(seq: u64, vector: &[(u16, u64)], applied: &[(u16, u64)], expected: Readiness) {
        let vector_of = |entries: &[(u16, u64)]| -> VersionVector {
            entries.iter().map(|(site, seq)| (origin(*site), Seq(*seq))).collect()
        };
        let vector = vector_of(vector);
        let head =
            Head { origin: origin(2), seq: Seq(seq), vector: &vector, hlc: Hlc::from_ms(1000) };
        let time = TrustedTime { now_ms: 900, drift_ms_max: 100 };
        assert_eq!(readiness(&head, &vector_of(applied), origin(1), time), expected);
    }

    fn waits(site: u16, seq: u64) -> Readiness {
        Readiness::WaitsFor(TxnId { origin: origin(site), seq: Seq(seq) })
    }

    #[test]
    fn a_transaction_waits_for_all_its_origin_had_seen() {
        check(1, &[], &[], Readiness::Ready);
        check(1, &[], &[(2, 1)], Readiness::Done);
        check(3, &[], &[(2, 1)], waits(2, 2));
        check(2, &[(3, 5)], &[(2, 1), (3, 4)], waits(3, 5));
        check(2, &[(3, 5)], &[(2, 1), (3, 5)], Readiness::Ready);
        check(2, &[(1, 9)], &[(2, 1)], Readiness::Ready);
    }

    #[test]
    fn a_reading_from_the_future_is_held() {
        let vector = VersionVector::new();
        let head =
            Head { origin: origin(2), seq: Seq(1), vector: &vector, hlc: Hlc::from_ms(2000) };
        let time = TrustedTime { now_ms: 900, drift_ms_max: 100 };
        assert_eq!(
            readiness(&head, &VersionVector::new(), origin(1), time),
            Readiness::HeldUntil(1900)
        );
    }
}
