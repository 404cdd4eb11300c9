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
    /// The last transaction of each compacted unit in `queue`, by the first: they are applied together.
    together: BTreeMap<Seq, Seq>,
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
        let (queue, together) = (VecDeque::new(), BTreeMap::new());
        Self { origin, queue, together, large: None, read_to: applied, tables, seen }
    }

    /// Reads on when nothing is left in memory.
    pub(super) async fn fill(&mut self, store: &Store, received: Seq) -> Result<(), StoreError> {
        if !self.queue.is_empty() || self.large.is_some() || received <= self.read_to {
            return Ok(());
        }
        for unit in store.inbox(self.origin, self.read_to, PORTION_BYTES).await? {
            if unit.header.fragment.is_part() {
                self.large = Some(unit.header.clone());
                break;
            }
            if unit.header.fragment == Fragment::Compacted && !plant::active("split-compacted") {
                self.together.insert(unit.header.first, unit.header.last);
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
    /// changes. A larger transaction is a group by itself, and so is a compacted unit.
    pub(super) fn next(
        &self,
        applied: &VersionVector,
        own: Origin,
        time: TrustedTime,
        changes_max: usize,
    ) -> Next {
        let mut applied = applied.clone();
        let mut changes = 0;
        let together = self.together_at_front();
        for (count, next) in self.queue.iter().enumerate() {
            let transaction = &next.transaction;
            match together {
                Some(all) if count == all => return Next::Ready(all),
                None if self.together.contains_key(&transaction.seq) => return Next::Ready(count),
                _ => {}
            }
            changes += transaction.changes.len();
            let mut head = self.head(transaction.seq, &next.vector, transaction.hlc);
            if let (Some(all), 0) = (together, count) {
                // What is applied at once waits for the latest of it.
                head.hlc = self.queue[all - 1].transaction.hlc;
            }
            match readiness(&head, &applied, own, time) {
                Readiness::Ready if count == 0 || together.is_some() || changes <= changes_max => {
                    applied.advance(self.origin, self.before(count + 1));
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

    /// How many transactions at the front are one compacted unit.
    pub(super) fn together_at_front(&self) -> Option<usize> {
        let first = self.queue.front()?.transaction.seq;
        let last = *self.together.get(&first)?;
        Some(self.queue.iter().take_while(|next| next.transaction.seq <= last).count())
    }

    /// The number before the transaction at this place: those between were left out.
    fn before(&self, place: usize) -> Seq {
        let next = self.queue.get(place).map(|next| Seq(next.transaction.seq.0 - 1));
        next.unwrap_or(self.read_to)
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
        let next = self.queue.front().map_or(self.read_to.next(), |next| next.transaction.seq);
        self.together = self.together.split_off(&next);
    }

    /// The large transaction that ends here is applied.
    pub(super) fn large_done(&mut self, last: Seq) {
        self.large = None;
        self.read_to = last;
    }
}
