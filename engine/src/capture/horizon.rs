//! Which local transactions are durably folded, by their transaction ids: the cheap half of the
//! question whether a row's newest writer is known to the fold.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// More ids than this and the owner should pass a barrier, which replaces them by a horizon.
pub const FOLDED_XIDS_MAX: usize = 1 << 16;

/// Shared between capture, which adds, and apply, which asks.
#[derive(Debug, Clone, Default)]
pub struct Horizon(Arc<Mutex<Folded>>);

#[derive(Debug, Default)]
struct Folded {
    /// Every transaction below this full transaction id is over and, if it committed, folded.
    below: Option<u64>,
    xids: BTreeSet<u32>,
}

impl Horizon {
    /// These transactions are durably folded.
    pub fn note_folded(&self, xids: impl IntoIterator<Item = u32>) {
        self.lock().xids.extend(xids);
    }

    /// Everything below `xid` was over before a barrier that is folded now. `xid` is a full
    /// transaction id, as `pg_snapshot_xmin` gives it.
    pub fn raise(&self, xid: u64) {
        let mut folded = self.lock();
        if folded.below.is_none_or(|below| below < xid) {
            folded.below = Some(xid);
            folded.xids.retain(|known| !precedes(*known, xid));
        }
    }

    /// Forgets everything: after a lost connection the server may be another one.
    pub fn reset(&self) {
        *self.lock() = Folded::default();
    }

    /// Whether so many ids are kept that a barrier should replace them.
    pub fn is_crowded(&self) -> bool {
        self.lock().xids.len() > FOLDED_XIDS_MAX
    }

    /// Whether the transaction that wrote a row version is certainly folded. `xmin` is the row's
    /// system column; a wrong "no" only costs a barrier.
    pub fn covers(&self, xmin: u32) -> bool {
        let folded = self.lock();
        folded.below.is_some_and(|below| precedes(xmin, below)) || folded.xids.contains(&xmin)
    }

    fn lock(&self) -> MutexGuard<'_, Folded> {
        // The state is whole after every statement under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether 32-bit `xid` is older than the full id `limit`, in PostgreSQL's circular order. Ids
/// below 3 are PostgreSQL's own and older than all.
fn precedes(xid: u32, limit: u64) -> bool {
    xid < 3 || ((limit as u32).wrapping_sub(xid) as i32) > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_below_the_horizon_or_folded_are_covered() {
        let horizon = Horizon::default();
        assert!(!horizon.covers(100));
        horizon.note_folded([100, 205]);
        assert!(horizon.covers(100) && !horizon.covers(101));
        horizon.raise(200);
        assert!(horizon.covers(199) && horizon.covers(205) && !horizon.covers(200));
        assert!(horizon.covers(2));
    }

    #[test]
    fn the_order_is_circular() {
        let horizon = Horizon::default();
        horizon.raise((1 << 32) + 10);
        assert!(horizon.covers(u32::MAX - 5) && horizon.covers(9) && !horizon.covers(11));
    }
}
