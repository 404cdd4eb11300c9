//! Compaction: what is left of transactions that nobody has been given yet, once what later ones of them
//! overwrote is left out.
//!
//! Every change that stays keeps its own stamp, so whoever joins what is left comes to the same clocks and
//! values as whoever joins all of it. What lies between is in nobody's table any more: who shows one of
//! these transactions must show all of them at once.
//!
//! A cell of an update gives way to a later one of the same row: whatever is said of the row between them, of
//! two cells the newer one counts. So does what was done to a merged column before it was set as a whole, and of
//! the shares of a counter the last says all; other shares stay, and so do inserts, deletes and the like.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::change::{Cell, RowChange, RowOp, Transaction};
use crate::clock::Stamp;
use crate::merged::Part;
use crate::schema::{ColumnId, TableId};
use crate::value::{RowKey, Value};

/// What later updates write into a row.
#[derive(Default)]
struct Later {
    /// Columns that are written as a whole.
    whole: BTreeSet<ColumnId>,
    /// Counters of which a later share is there, each with its birth.
    sums: BTreeSet<(ColumnId, Option<Stamp>)>,
}

/// By row.
type Laters = BTreeMap<(TableId, RowKey), Later>;

impl Later {
    /// Notes a cell; says whether a later one says all that it does.
    fn overwrites(&mut self, cell: &Cell) -> bool {
        let Value::Share(share) = &cell.value else { return !self.whole.insert(cell.column) };
        let sums = matches!(share.part, Part::Sum(_));
        self.whole.contains(&cell.column) || sums && !self.sums.insert((cell.column, share.birth))
    }
}

/// How many changes of these transactions, which follow on each other, say nothing that later ones do not
/// say: [`compact`] leaves nothing of them.
pub fn overwritten<'t>(
    transactions: impl DoubleEndedIterator<Item = &'t Transaction>,
    keeps_all: impl Fn(TableId) -> bool,
) -> usize {
    let mut laters = Laters::new();
    let changes = transactions.rev().flat_map(|transaction| &transaction.changes);
    let is_gone = |change: &&RowChange| {
        let Some(later) = later_of(change, &mut laters, &keeps_all) else { return false };
        // Every cell is noted.
        let left = change.cells.iter().filter(|cell| !later.overwrites(cell)).count();
        left == 0 && !change.cells.is_empty()
    };
    changes.filter(is_gone).count()
}

/// Leaves out what later ones of these transactions overwrote, and transactions of which nothing is left;
/// the first and the last stay in any case. `keeps_all` names tables of which nothing is left out. The
/// transactions follow on each other, and are of one origin.
pub fn compact(
    mut transactions: Vec<Transaction>,
    keeps_all: impl Fn(TableId) -> bool,
) -> Vec<Transaction> {
    let mut laters = Laters::new();
    for transaction in transactions.iter_mut().rev() {
        transaction.changes.retain_mut(|change| {
            let Some(later) = later_of(change, &mut laters, &keeps_all) else { return true };
            let cells = change.cells.len();
            change.cells.retain(|cell| !later.overwrites(cell));
            change.cells.len() == cells || !change.cells.is_empty()
        });
    }
    let ends = transactions.first().map(|t| t.seq).zip(transactions.last().map(|t| t.seq));
    transactions.retain(|transaction| {
        let is_end = ends.is_some_and(|(first, last)| [first, last].contains(&transaction.seq));
        is_end || !transaction.changes.is_empty() || !transaction.describes.is_empty()
    });
    transactions.iter_mut().for_each(|transaction| transaction.changes.shrink_to_fit());
    transactions
}

/// What is written later into the row of an update. Any other change says more than its cells do.
fn later_of<'l>(
    change: &RowChange,
    laters: &'l mut Laters,
    keeps_all: impl Fn(TableId) -> bool,
) -> Option<&'l mut Later> {
    let is_open = change.op == RowOp::Update && !keeps_all(change.table);
    is_open.then(|| laters.entry((change.table, change.key.clone())).or_default())
}
