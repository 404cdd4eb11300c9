//! What is next of one origin: its transactions after the applied ones, read from the inbox in
//! bounded portions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use landfall_protocol::change::Fragment;
use landfall_protocol::clock::Hlc;
use landfall_protocol::fold::ForeignTransaction;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::queue::{Head, Readiness, TrustedTime, readiness};
use landfall_protocol::schema::{TableDef, TableId};
use landfall_protocol::unit::UnitHeader;
use landfall_protocol::version::VersionVector;

use crate::plant;
use crate::store::{Store, StoreError};

/// How much of one origin is read from the inbox at a time, in bytes of uncompressed content. The
/// store's cache of decoded units must hold a few portions: what is applied last is folded while
/// the next one is read, and would be decoded once more.
const PORTION_BYTES: usize = 256 << 10;

/// What no origin had seen: stands in for a vector record when a planted bug leaves order out.
static UNORDERED: VersionVector = VersionVector::new();

/// The reading end of one origin's log.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) origin: Origin,
    queue: VecDeque<ForeignTransaction>,
    /// The fragment that follows on `queue`: it is applied by itself, with those after it.
    large: Option<UnitHeader>,
    /// The last transaction in `queue`, or the last one applied.
    read_to: Seq,
    /// The origin's tables as described up to what is applied.
    pub(super) tables: BTreeMap<TableId, TableDef>,
    /// What the origin had seen by the last of its transactions applied here.
    pub(super) seen: VersionVector,
}

/// What can be done with an origin now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This many transactions make a group.
    Ready(usize),
    /// The large transaction that begins here, once all of it is there.
    Large(Seq),
    /// Nothing before this time, milliseconds since 1970.
    HeldUntil(u64),
    /// Nothing until something else happens.
    Nothing,
}

impl Pending {
    pub(super) fn new(
        origin: Origin,
        applied: Seq,
        tables: BTreeMap<TableId, TableDef>,
        seen: VersionVector,
    ) -> Self {
        Self { origin, queue: VecDeque::new(), large: None, read_to: applied, tables, seen }
    }

    /// Reads on when nothing is left in memory.
    pub(super) async fn fill(&mut self, store: &Store, received: Seq) -> Result<(), StoreError> {
        if !self.queue.is_empty() || self.large.is_some() || received <= self.read_to {
            return Ok(());
        }
        for unit in store.inbox(self.origin, self.read_to, PORTION_BYTES).await? {
            if unit.header.fragment != Fragment::Whole {
                self.large = Some(unit.header.clone());
                break;
            }
            for transaction in unit.transactions.iter().filter(|t| t.seq > self.read_to) {
                let first = transaction.seq == unit.header.first;
                let vector = if first { unit.header.vector.clone() } else { VersionVector::new() };
                self.queue
                    .push_back(ForeignTransaction { transaction: Arc::clone(transaction), vector });
            }
            self.read_to = unit.header.last;
        }
        Ok(())
    }

    /// How many transactions from the front may become one group of at most `changes_max` row
    /// changes (a larger transaction is a group by itself).
    pub(super) fn next(
        &self,
        applied: &VersionVector,
        own: Origin,
        time: TrustedTime,
        changes_max: usize,
    ) -> Next {
        let mut applied = applied.clone();
        let mut changes = 0;
        for (count, next) in self.queue.iter().enumerate() {
            let transaction = &next.transaction;
            changes += transaction.changes.len();
            let head = self.head(transaction.seq, &next.vector, transaction.hlc);
            match readiness(&head, &applied, own, time) {
                Readiness::Ready if count == 0 || changes <= changes_max => {
                    applied.advance(self.origin, transaction.seq);
                }
                Readiness::HeldUntil(at) if count == 0 => return Next::HeldUntil(at),
                _ if count == 0 => return Next::Nothing,
                _ => return Next::Ready(count),
            }
        }
        match &self.large {
            Some(header) if self.queue.is_empty() => {
                match readiness(
                    &self.head(header.first, &header.vector, header.hlc_first),
                    &applied,
                    own,
                    time,
                ) {
                    Readiness::Ready => Next::Large(header.first),
                    Readiness::HeldUntil(at) => Next::HeldUntil(at),
                    Readiness::Done | Readiness::WaitsFor(_) => Next::Nothing,
                }
            }
            None if self.queue.is_empty() => Next::Nothing,
            _ => Next::Ready(self.queue.len()),
        }
    }

    fn head<'a>(&self, seq: Seq, vector: &'a VersionVector, hlc: Hlc) -> Head<'a> {
        let vector = if plant::active("no-causal-order") { &UNORDERED } else { vector };
        Head { origin: self.origin, seq, vector, hlc }
    }

    /// The first `count` transactions.
    pub(super) fn front(&mut self, count: usize) -> &[ForeignTransaction] {
        &self.queue.make_contiguous()[..count]
    }

    /// They are applied.
    pub(super) fn done(&mut self, count: usize) {
        self.queue.drain(..count);
    }

    /// The large transaction that ends here is applied.
    pub(super) fn large_done(&mut self, last: Seq) {
        self.large = None;
        self.read_to = last;
    }
}
