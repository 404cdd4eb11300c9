//! What every model of a site does with its fold.

use landfall_protocol::change::Fragment;
use landfall_protocol::fold::{
    CapturedTransaction, Fold, ForeignTransaction, ForeignTransactions, Marker, RowEvent,
};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId, TxnId};
use landfall_protocol::plan::Group;
use landfall_protocol::queue::{Head, Readiness, TrustedTime, readiness};

/// The site of this number, from 0.
pub(crate) fn origin(site: usize) -> Origin {
    let site = SiteId::new(site as u16 + 1).expect("not zero");
    Origin { site, incarnation: Incarnation::new(9).expect("not zero") }
}

/// A whole transaction.
pub(crate) fn captured(
    commit_ms: u64,
    rows: Vec<RowEvent>,
    marker: Option<Marker>,
) -> CapturedTransaction {
    let fragment = Fragment::Whole;
    CapturedTransaction { commit_ms, actor: None, rows, marker, fragment, piece: None }
}

/// The transactions that a marker names.
pub(crate) fn named<'l>(
    marker: Option<&Marker>,
    find: impl Fn(TxnId) -> &'l ForeignTransaction,
) -> ForeignTransactions {
    match marker {
        Some(Marker::Apply { origin, first, last, .. }) => (first.0..=last.0)
            .map(|seq| TxnId { origin: *origin, seq: Seq(seq) })
            .map(|txn| (txn, find(txn).clone()))
            .collect(),
        _ => ForeignTransactions::new(),
    }
}

/// Up to `most` transactions of an origin that may be applied now.
pub(crate) fn ready<'l>(
    fold: &Fold,
    from: Origin,
    most: usize,
    find: impl Fn(TxnId) -> Option<&'l ForeignTransaction>,
) -> Vec<ForeignTransaction> {
    let mut applied = fold.applied.clone();
    let mut group = Vec::new();
    let time = TrustedTime { now_ms: u64::MAX >> 20, drift_ms_max: 0 };
    while group.len() < most {
        let seq = applied.get(from).next();
        let Some(next) = find(TxnId { origin: from, seq }) else { break };
        let head = Head { origin: from, seq, vector: &next.vector, hlc: next.transaction.hlc };
        if readiness(&head, &applied, fold.origin, time) != Readiness::Ready {
            break;
        }
        applied.advance(from, seq);
        group.push(next.clone());
    }
    group
}

/// What transactions that are ready mean for the rows.
pub(crate) fn group(fold: &Fold, from: Origin, ready: &[ForeignTransaction]) -> Group {
    let mut tables = fold.foreign_tables.get(&from).cloned().unwrap_or_default();
    let mut seen = fold.origin_vectors.get(&from).cloned().unwrap_or_default();
    Group::build(from, ready, &fold.dictionary, &mut tables, &mut seen)
}
