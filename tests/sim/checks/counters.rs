//! What is special about numbers to which everybody adds.

use std::collections::{BTreeMap, BTreeSet};

use landfall_engine::postgres::history::{ConflictLine, Wrote};
use landfall_protocol::id::TxnId;

use super::History;
use super::conflicts::{self, Written};
use crate::sim::oracle::{self, Births, Counter, Event, Moment};
use crate::sim::workload::MERGING;

/// What those who added to counters took for their births: the newest write of the whole that they
/// knew of.
pub(super) fn births(history: &History) -> BTreeMap<TxnId, Births> {
    let mut found: BTreeMap<TxnId, Births> = BTreeMap::new();
    for ((table, key), writes) in conflicts::rows(history) {
        let Some(counter) = MERGING[table].counter else { continue };
        for write in writes.iter().filter(|write| write.write.added.is_some()) {
            let known = writes.iter().filter(|other| {
                other.write.sets(counter) && write.knew(other) && other.at() < write.at()
            });
            let birth = known.map(Written::at).max().unwrap_or_default();
            found.entry(write.txn).or_default().insert((table, key.clone()), birth);
        }
    }
    found
}

/// Rows of whose counters a transaction says something.
pub(super) fn counted(events: &[Event]) -> BTreeSet<(usize, Vec<String>)> {
    let says = |write: &oracle::Write| {
        let counter = MERGING[write.table].counter;
        counter.is_some_and(|counter| write.added.is_some() || write.sets(counter))
    };
    let writes = oracle::writes(events, &MERGING).into_iter().filter(says);
    writes.map(|write| (write.table, write.key)).collect()
}

/// Whether a row shows what it must. A counter that its site itself has changed may wait for its
/// repair if nothing is said of it just now.
pub(super) fn agree(table: usize, shows: &[String], due: &[String], is_counted: bool) -> bool {
    let merging = &MERGING[table];
    let waits = |cell: usize| {
        !is_counted && merging.counter.is_some_and(|counter| counter.place == merging.key + cell)
    };
    let mut cells = shows.iter().zip(due).enumerate();
    shows.len() == due.len() && cells.all(|(cell, (shows, due))| shows == due || waits(cell))
}

/// When the counter was set to which this adds.
fn birth(write: &Written<'_>) -> Moment {
    let place = (write.write.table, write.write.key.clone());
    write.committed.births.get(&place).copied().unwrap_or_default()
}

/// Whether it added in vain because of that write, of which it did not know.
fn is_reset(lost: &Written<'_>, by: &Written<'_>, counter: Counter) -> bool {
    by.write.sets(counter) && by.at() > birth(lost) && !lost.knew(by)
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
            is_newer && loser.write.sets(counter) && winner.write.sets(counter)
        }
        _ => false,
    };
    if is_fit { Ok(()) } else { Err("nothing of this counter gave way so") }
}
