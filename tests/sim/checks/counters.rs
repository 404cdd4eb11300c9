//! What is special about numbers to which everybody adds.

use std::collections::{BTreeMap, BTreeSet};

use landfall_engine::postgres::history::{ConflictLine, Wrote};
use landfall_protocol::id::TxnId;

use super::History;
use super::conflicts::{self, Written};
use crate::sim::oracle::{self, Births, Counter, Merge, Moment};
use crate::sim::workload::MERGING;

/// Merged columns of rows: table, key, column.
pub(super) type Counted = BTreeSet<(usize, Vec<String>, usize)>;

/// What those who did something to merged columns took for their births: the newest write of the
/// whole that they knew of.
pub(super) fn births(history: &History) -> BTreeMap<TxnId, Births> {
    let mut found: BTreeMap<TxnId, Births> = BTreeMap::new();
    for ((table, key), writes) in conflicts::rows(history) {
        let merging = &MERGING[table];
        for place in merging.merged_places() {
            for write in writes.iter().filter(|write| write.write.edits(place, merging)) {
                let known = writes.iter().filter(|other| {
                    other.write.begins(place) && write.knew(other) && other.at() < write.at()
                });
                let birth = known.map(Written::at).max().unwrap_or_default();
                found.entry(write.txn).or_default().insert((table, key.clone(), place), birth);
            }
        }
    }
    found
}

/// Merged columns of which a transaction says something.
pub(super) fn counted(
    writes: &[oracle::Write],
) -> impl Iterator<Item = (usize, Vec<String>, usize)> {
    writes.iter().flat_map(|write| {
        let merging = &MERGING[write.table];
        let says = |place: &usize| write.sets(*place) || write.edits(*place, merging);
        let places = merging.merged_places().filter(says);
        places.map(|place| (write.table, write.key.clone(), place))
    })
}

/// Whether a row shows what it must. A merged column that its site itself has changed may wait for its
/// repair if nothing is said of it just now.
pub(super) fn agree(
    table: usize,
    shows: &[String],
    due: &[String],
    key: &[String],
    counted: &Counted,
) -> bool {
    let merging = &MERGING[table];
    let waits = |cell: usize| {
        let place = merging.key + cell;
        // What is less than the furthest waits for its repair even if somebody says something older.
        let is_extreme = matches!(merging.merge(place), Some(Merge::Max | Merge::Min));
        let is_counted = counted.contains(&(table, key.to_vec(), place));
        merging.merges(place) && (is_extreme || !is_counted)
    };
    let mut cells = shows.iter().zip(due).enumerate();
    shows.len() == due.len() && cells.all(|(cell, (shows, due))| shows == due || waits(cell))
}

/// When the counter was set to which this adds.
fn birth(write: &Written<'_>, counter: Counter) -> Moment {
    let place = (write.write.table, write.write.key.clone(), counter.place);
    write.committed.births.get(&place).copied().unwrap_or_default()
}

/// Whether it added in vain because of that write, of which it did not know.
fn is_reset(lost: &Written<'_>, by: &Written<'_>, counter: Counter) -> bool {
    by.write.sets(counter.place) && by.at() > birth(lost, counter) && !lost.knew(by)
}

/// Whether this site wrote the whole that made an addition vain, and must say so.
pub(super) fn is_lost_to(
    site: landfall_protocol::id::Origin,
    lost: &Written<'_>,
    writes: &[Written<'_>],
) -> bool {
    let Some(counter) = MERGING[lost.write.table].counter else { return false };
    let mut by = writes.iter().filter(|by| by.txn.origin == site && !by.knew(lost));
    lost.write.added.is_some() && by.any(|by| is_reset(lost, by, counter))
}

/// Whether the same site added more later, or set the whole anew.
pub(super) fn goes_on(write: &Written<'_>, writes: &[Written<'_>]) -> bool {
    let Some(counter) = MERGING[write.write.table].counter else { return false };
    let mut later = writes
        .iter()
        .filter(|later| later.txn.origin == write.txn.origin && later.txn.seq > write.txn.seq);
    later.any(|later| later.write.added.is_some() || later.write.begins(counter.place))
}

/// Whether a line about a counter tells what happened.
pub(super) fn is_true(
    line: &ConflictLine,
    counter: Counter,
    loser: &Written<'_>,
    winner: &Written<'_>,
) -> Result<(), &'static str> {
    let is_fit = match line.rule {
        "counter_clamped" => {
            let told = match &line.loser.wrote {
                Wrote::Value(Some(text)) => text.parse::<i64>().ok(),
                _ => None,
            };
            let is_beyond =
                told.is_some_and(|told| !(counter.least..=counter.most).contains(&told));
            is_beyond && winner.txn == loser.txn && loser.write.added.is_some()
        }
        "counter_reset" => loser.write.added.is_some() && is_reset(loser, winner, counter),
        "delete_wins" => {
            let wrote = loser.write.added.is_some() || loser.cell(counter.place).is_some();
            wrote && winner.is_delete() && !winner.knew(loser)
        }
        "last_writer_wins" => {
            let is_newer = winner.at() > loser.at() && !winner.knew(loser) && !loser.knew(winner);
            is_newer && loser.write.sets(counter.place) && winner.write.sets(counter.place)
        }
        _ => false,
    };
    if is_fit { Ok(()) } else { Err("nothing of this counter gave way so") }
}
