//! The tail while nobody is there to take what is in it: what later transactions overwrote is left out of
//! earlier ones, so that a row which changes often waits once.
//!
//! Only what is not sealed is compacted, and what is sealed is all that anybody was ever given: a log that
//! somebody holds in part never changes. What is compacted becomes visible together, so it is one unit, and
//! ends like any other where the vector changes, where the fleet's rules change and before a fragment.

use landfall_protocol::change::{Fragment, Transaction};
use landfall_protocol::compact::{compact, overwritten};
use landfall_protocol::fold::OwnTransaction;
use landfall_protocol::schema::{SetId, TableId};

use super::error::StoreError;
use super::sealing::{Run, runs};
use super::state::TailSize;
use super::tail::{self, Flush};
use super::writer::Writer;

/// Compaction is worth it when it leaves out one change of so many.
const WORTH_ONE_OF: usize = 4;

/// How much is compacted at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Plain bytes below which what waits is sealed as it is.
    pub bytes_min: usize,
    /// Plain bytes above which what is left is sealed. It becomes visible together, and is in memory while
    /// it does.
    pub bytes_max: usize,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { bytes_min: 64 << 10, bytes_max: 2 << 20 }
    }
}

impl Writer<'_> {
    /// Makes room in the tail: what is overwritten is left out, or everything is sealed.
    pub(super) fn make_room(&mut self) -> Result<(), StoreError> {
        let Some(Compaction { bytes_max, .. }) = self.tools.compaction else {
            return self.seal_tail();
        };
        let left = self.compacted_tail()?.into_iter().map(Run::into_flush);
        let left: Vec<(Flush, Vec<u8>)> = left.collect();
        let bytes: usize = left.iter().map(|(_, data)| data.len()).sum();
        let is_compacted = left.iter().any(|(flush, _)| flush.is_compacted);
        tail::clear(&self.db)?;
        self.state.tail = TailSize::default();
        if !is_compacted || bytes > bytes_max {
            return self.seal(runs(left.into_iter().map(|(flush, _)| flush).collect()));
        }
        for (flush, data) in &left {
            let (changes, bytes) = tail::insert(&self.db, flush, data)?;
            self.state.tail.changes += changes;
            self.state.tail.bytes += bytes;
        }
        self.state.tail.settled = self.state.tail.bytes;
        Ok(())
    }

    /// The tail where units must be cut, with what is overwritten left out.
    pub(super) fn compacted_tail(&self) -> Result<Vec<Run>, StoreError> {
        let flushes = tail::load(&self.db, self.state.own_log().received)?;
        Ok(runs(flushes).into_iter().map(|run| self.compacted(run)).collect())
    }

    /// Leaves out of a run what later transactions in it overwrote, if that is worth it.
    fn compacted(&self, mut run: Run) -> Run {
        let Some(Compaction { bytes_min, .. }) = self.tools.compaction else { return run };
        let is_part = run.own.iter().any(|(own, _)| own.fragment.is_part());
        if is_part || run.own.len() < 2 || run.bytes < bytes_min {
            return run;
        }
        let set_of = |table: TableId| run.sets.get(&table).copied().unwrap_or(SetId(1));
        let keeps_all = |table| self.tools.full_history.contains(&set_of(table));
        let transactions = || run.own.iter().map(|(own, _)| &own.transaction);
        let changes: usize = transactions().map(|transaction| transaction.changes.len()).sum();
        let superfluous = overwritten(transactions(), keeps_all);
        if superfluous == 0 || !run.is_compacted && superfluous < changes / WORTH_ONE_OF {
            return run;
        }
        let vector = run.own.first().map(|(own, _)| own.vector.clone()).unwrap_or_default();
        let whole: Vec<Transaction> =
            std::mem::take(&mut run.own).into_iter().map(|(own, _)| own.transaction).collect();
        let left = compact(whole, keeps_all);
        let left = left.into_iter().map(|transaction| OwnTransaction {
            transaction,
            fragment: Fragment::Whole,
            vector: Default::default(),
        });
        run.own = left.map(|own| (own, 0)).collect();
        if let Some((own, _)) = run.own.first_mut() {
            own.vector = vector;
        }
        run.is_compacted = true;
        run
    }
}
