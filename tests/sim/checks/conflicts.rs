//! Whether each site's `landfall.conflict` says what had to give way, and nothing else.
//!
//! A write gave way when a newer one of the same cell, or a delete of its row, came from somebody who
//! had not seen it, and nobody who had seen it wrote the cell later. The two met at every site, and
//! each must have a line. Of a delete that a newer insert outlived, the site of the insert must have
//! one, unless the two met at the very moment: nothing can be locked of a row that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_engine::postgres::history::{ConflictLine, Side, Wrote};
use landfall_engine::postgres::lsn::Lsn;
use landfall_protocol::id::TxnId;
use landfall_protocol::limits::inline_bytes_max;
use landfall_protocol::value::Value;

use super::{Committed, History, SiteLog, apply_marker, counters, parked};
use crate::sim::oracle::{Moment, Write};
use crate::sim::postgres::{self, Change, CommitRecord, Line};
use crate::sim::workload;

/// One write of a row.
pub(super) struct Written<'h> {
    pub(super) txn: TxnId,
    pub(super) committed: &'h Committed,
    pub(super) write: &'h Write,
}

impl Written<'_> {
    pub(super) fn at(&self) -> Moment {
        self.committed.by.at
    }

    /// Whether its writer had seen that one.
    pub(super) fn knew(&self, other: &Self) -> bool {
        self.txn.origin == other.txn.origin || self.committed.by.seen.covers(other.txn)
    }

    pub(super) fn is_delete(&self) -> bool {
        self.write.exists == Some(false)
    }

    /// What it says of a cell; a delete takes all of them away.
    pub(super) fn cell(&self, column: usize) -> Option<Option<&Value>> {
        if self.is_delete() {
            return Some(None);
        }
        let cell = self.write.cells.iter().find(|(place, _)| *place == column);
        cell.map(|(_, value)| Some(value))
    }
}

/// Who gave way where: table, key, column.
type Place = (TxnId, String, String, Option<String>);

/// All writes, by table and key.
pub(super) type Rows<'h> = BTreeMap<(usize, Vec<String>), Vec<Written<'h>>>;

/// Names as `landfall.conflict` has them.
struct Names {
    tables: Vec<(String, Vec<String>)>,
}

impl Names {
    fn of_the_workload() -> Self {
        let tables = workload::tables().into_iter().map(|table| {
            let columns = table.columns.iter().map(|column| column.name.clone());
            (table.name.to_string(), columns.collect())
        });
        Self { tables: tables.collect() }
    }

    fn place(&self, loser: TxnId, (table, key): (usize, &str), column: Option<usize>) -> Place {
        let (name, columns) = &self.tables[table];
        (loser, name.clone(), key.to_owned(), column.map(|column| columns[column].clone()))
    }
}

/// Checks the lines of all sites in their present lives. Where sites compact what nobody has taken yet, of
/// what one added to a counter the last says all.
pub(super) fn check(logs: &[SiteLog<'_>], history: &History, compacts: bool) -> Result<(), String> {
    let rows = rows(history);
    let names = Names::of_the_workload();
    for log in logs.iter().filter(|log| !log.is_over) {
        let lines: Vec<&ConflictLine> = lines(log).collect();
        let told: BTreeSet<Place> = lines.iter().map(|line| place_of(line, history)).collect();
        // Of what was never shown here nothing can be said.
        let parked = parked::rows(log);
        for ((table, _), writes) in &rows {
            if !workload::MERGING[*table].is_told {
                continue;
            }
            if parked.contains(&(*table, writes[0].write.key_text.clone())) {
                continue;
            }
            for lost in writes {
                let key = lost.write.key_text.as_str();
                for column in due_cells(lost, writes) {
                    let place = names.place(lost.txn, (*table, key), Some(column));
                    if !told.contains(&place) {
                        return Err(format!("{} has no conflict line for {place:?}", log.origin));
                    }
                }
                let is_said = !compacts || !counters::goes_on(lost, writes);
                if is_said && counters::is_lost_to(log.origin, lost, writes) {
                    let counter = workload::MERGING[*table].counter.map(|counter| counter.place);
                    let place = names.place(lost.txn, (*table, key), counter);
                    if !told.contains(&place) {
                        return Err(format!("{} has no conflict line for {place:?}", log.origin));
                    }
                }
                let outlived = outlived_by(lost, writes).filter(|by| {
                    let begun = |begun| by.committed.visible.is_some_and(|seen| seen < begun);
                    by.txn.origin == log.origin && begun_to_apply(log, lost.txn).is_some_and(begun)
                });
                let place = names.place(lost.txn, (*table, key), None);
                if outlived.is_some() && !told.contains(&place) {
                    return Err(format!("{} has no conflict line for {place:?}", log.origin));
                }
            }
        }
        for line in lines {
            let is_parked = |(table, key): &(usize, String)| {
                *key == line.row_key && names.tables[*table].0 == line.table
            };
            if parked.iter().any(is_parked) {
                continue;
            }
            let is_true = is_true(line, &rows, history, &names);
            is_true.map_err(|why| format!("{}: {why}: {line:?}", log.origin))?;
        }
    }
    Ok(())
}

pub(super) fn lines<'l>(log: &'l SiteLog<'_>) -> impl Iterator<Item = &'l ConflictLine> {
    log.records.iter().flat_map(|record| &record.lines).filter_map(|line| match line {
        Line::Conflict(line) => Some(line),
        Line::Parked(_) | Line::Freed(_) | Line::Explained(_) => None,
    })
}

/// The name of a transaction by one of its numbers.
pub(super) fn name_of(txn: TxnId, history: &History) -> TxnId {
    let before = history.range(..=txn).next_back().map(|(before, _)| *before);
    before.filter(|before| before.origin == txn.origin).unwrap_or(txn)
}

fn place_of(line: &ConflictLine, history: &History) -> Place {
    (
        name_of(line.loser.stamp.txn, history),
        line.table.clone(),
        line.row_key.clone(),
        line.column.clone(),
    )
}

pub(super) fn rows(history: &History) -> Rows<'_> {
    let mut rows = Rows::new();
    for (txn, committed) in history {
        for write in &committed.writes {
            let row = rows.entry((write.table, write.key.clone())).or_default();
            row.push(Written { txn: *txn, committed, write });
        }
    }
    rows
}

/// Where a site's log is when it begins to apply this transaction.
fn begun_to_apply(log: &SiteLog<'_>, txn: TxnId) -> Option<Lsn> {
    let applies = |record: &&Arc<CommitRecord>| {
        let marker = apply_marker(log, record).flatten();
        marker.is_some_and(|(origin, first, last)| {
            origin == txn.origin && (first..=last).contains(&txn.seq)
        })
    };
    let record = log.records.iter().find(applies)?;
    record.changes.iter().find_map(|change| match change {
        Change::Message { lsn, .. } => Some(*lsn),
        Change::Row(_) => None,
    })
}

/// The cells in which a write gave way at every site.
fn due_cells<'w>(
    lost: &'w Written<'_>,
    writes: &'w [Written<'_>],
) -> impl Iterator<Item = usize> + 'w {
    // What a counter showed is not what one of those wrote who made it.
    let counter = workload::MERGING[lost.write.table].counter;
    let counts = move |place| counter.is_some_and(|counter| counter.place == place);
    let cells =
        lost.write.cells.iter().filter(move |(place, _)| !lost.is_delete() && !counts(*place));
    cells.filter_map(move |(column, value)| {
        let newer = || {
            let newer = writes.iter().filter(|write| write.at() > lost.at());
            newer.filter_map(|write| Some((write, write.cell(*column)?)))
        };
        let is_overwritten = newer().any(|(write, _)| write.knew(lost));
        // Who wrote the same took nothing away.
        let is_same = newer().any(|(_, cell)| cell == Some(value));
        (newer().next().is_some() && !is_overwritten && !is_same).then_some(*column)
    })
}

/// The insert that made the row stay in spite of this delete.
fn outlived_by<'w, 'h>(lost: &Written<'_>, writes: &'w [Written<'h>]) -> Option<&'w Written<'h>> {
    let by = writes.iter().filter(|write| write.write.exists.is_some());
    let by = by.max_by_key(|write| write.at())?;
    let newer = || writes.iter().filter(|write| write.at() > lost.at());
    let exists = || newer().filter(|write| write.write.exists.is_some());
    let stays = lost.is_delete() && !by.is_delete() && !exists().any(|write| write.knew(lost));
    (stays && by.at() > lost.at()).then_some(by)
}

/// Whether a line tells what happened.
fn is_true(
    line: &ConflictLine,
    rows: &Rows<'_>,
    history: &History,
    names: &Names,
) -> Result<(), &'static str> {
    let table = names.tables.iter().position(|(name, _)| *name == line.table);
    let table = table.ok_or("no such table")?;
    if !workload::MERGING[table].is_told {
        return Ok(());
    }
    let of_table = rows.iter().filter(|((number, _), _)| *number == table).map(|(_, row)| row);
    let mut row = of_table.filter(|row| row[0].write.key_text == line.row_key);
    let writes = row.next().ok_or("no such row")?;
    let find = |side: &Side| {
        let txn = name_of(side.stamp.txn, history);
        writes.iter().find(|write| write.txn == txn)
    };
    let (loser, winner) = (find(&line.loser), find(&line.winner));
    let loser = loser.ok_or("the loser did not write the row")?;
    let winner = winner.ok_or("the winner did not write the row")?;
    let column = line.column.as_ref().map(|column| {
        let column = names.tables[table].1.iter().position(|name| name == column);
        column.ok_or("no such column")
    });
    let column = column.transpose()?;
    let counter = workload::MERGING[table].counter;
    if let Some(counter) = counter.filter(|counter| column == Some(counter.place)) {
        return counters::is_true(line, counter, loser, winner);
    }
    // A row that appeared while its delete was applied stays until it is repaired, and what is
    // written into it by then is lost like anything else.
    let is_too_late = line.rule == "delete_wins" && loser.write.exists.is_none();
    if winner.knew(loser) || loser.knew(winner) && !is_too_late {
        return Err("one of the two knew the other");
    }
    let is_newer = winner.at() > loser.at();
    let Some(column) = column else {
        let is_outlived = loser.is_delete() && winner.write.exists == Some(true) && is_newer;
        return if is_outlived { Ok(()) } else { Err("no delete was outlived") };
    };
    let Some(Some(lost)) = loser.cell(column) else { return Err("the loser wrote no such cell") };
    let gives_way = match line.rule {
        "last_writer_wins" => is_newer && winner.cell(column).is_some(),
        // An update of a row that is deleted shows nowhere, even if it is newer.
        "delete_wins" => winner.is_delete(),
        _ => false,
    };
    if !gives_way {
        return Err("the loser need not have given way");
    }
    let is_told = |side: &Side, value: &Value| match value {
        Value::Text(text) if text.len() > inline_bytes_max() => {
            side.wrote == Wrote::Long(postgres::note(text))
        }
        value => side.wrote == Wrote::value(value),
    };
    if !is_told(&line.loser, lost) {
        return Err("that is not what the loser wrote");
    }
    match winner.cell(column).flatten() {
        Some(won) if line.rule == "last_writer_wins" && !is_told(&line.winner, won) => {
            Err("that is not what the winner wrote")
        }
        _ => Ok(()),
    }
}
