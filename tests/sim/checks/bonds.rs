//! Whether what sites did by themselves had to be done: rows that go with others, let go of them, come
//! back, or are put aside.

use std::collections::{BTreeMap, BTreeSet};

use landfall_engine::postgres::catalog::OnDelete;
use landfall_engine::postgres::history::{ConflictLine, Side};
use landfall_protocol::unique::Loser;
use landfall_protocol::value::Value;

use super::conflicts::{self, Rows, Written};
use super::{History, SiteLog};
use crate::sim::oracle::{self, Oracle, Turn};
use crate::sim::realm::{FIRST_KEY, Node, NodeKey, Realm, UNIQUE};
use crate::sim::workload::{self, CHART, MERGING, NODE};

/// What is found out about rows that hang together.
struct Bonds<'h> {
    realm: &'h Realm,
    rows: Rows<'h>,
    due: &'h Oracle,
}

/// Checks all that sites did by themselves, and what became of it.
pub(super) fn check(
    logs: &[SiteLog<'_>],
    history: &History,
    realm: &Realm,
    due: &Oracle,
) -> Result<(), String> {
    let bonds = Bonds { realm, rows: conflicts::rows(history), due };
    for ((table, key), writes) in bonds.rows.iter().filter(|((table, _), _)| *table >= CHART) {
        let told = |why: String| format!("row {key:?} of table {table}: {why}");
        let (table, decided) = (*table, decided(writes));
        if let Some(delete) = decided.filter(|write| write.is_delete()) {
            bonds.stands(table, delete, writes).map_err(told)?;
        }
        for write in writes.iter().filter(|write| write.committed.is_remedy) {
            bonds.is_asked_for(table, write, writes).map_err(told)?;
        }
        if due.is_aside(table, key) {
            bonds.stays_aside(table, writes).map_err(told)?;
        }
    }
    for log in logs.iter().filter(|log| !log.is_over) {
        for line in conflicts::lines(log) {
            bonds.had_it_first(line, history).map_err(|why| format!("{why}: {line:?}"))?;
        }
    }
    Ok(())
}

/// What decides whether a row is there.
fn decided<'w, 'h>(writes: &'w [Written<'h>]) -> Option<&'w Written<'h>> {
    let deciding = writes.iter().filter(|write| {
        write.write.exists.is_some() || write.write.turn.is_some_and(Turn::revives)
    });
    deciding.max_by_key(|write| write.at())
}

/// The newest value of a cell, of what one knew.
fn known<'w>(write: &Written<'_>, place: usize, writes: &'w [Written<'_>]) -> Option<&'w Value> {
    let known = writes.iter().filter(|other| other.txn != write.txn && write.knew(other));
    let cells = known.filter(|other| other.at() < write.at());
    let cells = cells.filter_map(|other| {
        let cell = other.write.cells.iter().find(|(written, _)| *written == place);
        cell.map(|(_, value)| (other.at(), value))
    });
    cells.max_by_key(|(at, _)| *at).map(|(_, value)| value)
}

impl Bonds<'_> {
    fn node(&self, table: usize) -> Option<&Node> {
        self.realm.nodes.get(table.checked_sub(NODE)?)
    }

    fn keys(&self, table: usize) -> impl Iterator<Item = (usize, &NodeKey)> {
        let keys = self.node(table).into_iter().flat_map(|node| node.keys.iter().enumerate());
        keys.map(|(at, key)| (FIRST_KEY + at, key))
    }

    /// Where updates win, no delete stands that did not know of one.
    fn stands(
        &self,
        table: usize,
        delete: &Written<'_>,
        writes: &[Written<'_>],
    ) -> Result<(), String> {
        let wins = match self.node(table) {
            Some(node) => node.update_wins,
            None => self.realm.update_wins,
        };
        if !wins || delete.committed.is_remedy {
            return Ok(());
        }
        let is_newest = |write: &Written<'_>, place: usize| {
            let mut others = writes.iter().filter(|other| other.at() > write.at());
            !others.any(|other| other.write.begins(place))
        };
        let is_unknown = |write: &&Written<'_>| {
            let mut cells = write.write.cells.iter().map(|(place, _)| *place);
            let counts =
                cells.any(|place| !MERGING[table].merges(place) && is_newest(write, place));
            counts && !delete.knew(write) && !write.knew(delete)
        };
        match writes.iter().find(is_unknown) {
            Some(write) => Err(format!("delete {} stands in spite of {}", delete.txn, write.txn)),
            None => Ok(()),
        }
    }

    /// Whether somebody whom `by` knows, or `by` itself, deleted the row or put it aside that the
    /// values lead to.
    fn was_taken(&self, by: &Written<'_>, key: &NodeKey, value: Option<&Value>) -> bool {
        let Some(value) = value.filter(|value| **value != Value::Null) else { return false };
        let parent = (NODE + key.parent, vec![oracle::text(value)]);
        let mut writes = self.rows.get(&parent).into_iter().flatten();
        writes.any(|write| {
            let takes = write.is_delete() || write.write.turn.is_some_and(Turn::puts_aside);
            takes && (write.txn == by.txn || by.knew(write))
        })
    }

    /// Whether what a site did by itself is what a rule asks for.
    fn is_asked_for(
        &self,
        table: usize,
        write: &Written<'_>,
        writes: &[Written<'_>],
    ) -> Result<(), String> {
        let led = |place| known(write, place, writes);
        let asks = |actions: &[OnDelete], place: Option<usize>| {
            self.keys(table).any(|(at, key)| {
                let is_it = place.is_none_or(|place| place == at);
                is_it && actions.contains(&key.on_delete) && self.was_taken(write, key, led(at))
            })
        };
        let txn = write.txn;
        if write.is_delete() && !asks(&[OnDelete::Cascade], None) {
            return Err(format!("{txn} takes it away for nothing"));
        }
        if write.write.exists == Some(true) {
            return Err(format!("{txn} makes it"));
        }
        let node = self.node(table);
        let loser = node.and_then(|node| node.unique);
        for (place, value) in &write.write.cells {
            let is_right = match *place {
                UNIQUE => match value.text() {
                    None => loser == Some(Loser::Null),
                    Some(text) => loser == Some(Loser::Suffix) && text.contains('~'),
                },
                place => {
                    let key = self.keys(table).find(|(at, _)| *at == place);
                    let sets = key.is_some_and(|(_, key)| match value {
                        Value::Null => true,
                        Value::Int(default) => key.default == Some(*default),
                        _ => false,
                    });
                    sets && asks(&[OnDelete::SetNull, OnDelete::SetDefault], Some(place))
                }
            };
            if !is_right {
                return Err(format!("{txn} writes {value:?} into column {place} for nothing"));
            }
        }
        let is_aside = write.write.turn.is_some_and(Turn::puts_aside);
        let follows = || self.keys(table).any(|(at, key)| self.was_taken(write, key, led(at)));
        match is_aside && loser.is_none() && !follows() {
            true => Err(format!("{txn} puts it aside for nothing")),
            false => Ok(()),
        }
    }

    /// Whether a row that is aside in the end has to be.
    fn stays_aside(&self, table: usize, writes: &[Written<'_>]) -> Result<(), String> {
        let cell = |place| {
            let all = writes.iter().filter_map(|write| {
                let cells = &write.write.cells;
                let cell = cells.iter().find(|(written, _)| *written == place);
                cell.map(|(_, value)| (write.at(), value))
            });
            all.max_by_key(|(at, _)| *at).map_or(&Value::Null, |(_, value)| value)
        };
        let is_taken = self.node(table).is_some_and(|node| node.unique.is_some())
            && *cell(UNIQUE) != Value::Null
            && self
                .due
                .table(table)
                .values()
                .any(|row| row[UNIQUE - MERGING[table].key] == oracle::text(cell(UNIQUE)));
        let is_orphan = self.keys(table).any(|(place, key)| {
            let parent = vec![oracle::text(cell(place))];
            *cell(place) != Value::Null && self.due.row(NODE + key.parent, &parent).is_none()
        });
        match is_taken || is_orphan {
            true => Ok(()),
            false => Err("it is aside for nothing".to_owned()),
        }
    }

    /// Whether a line about a value that only one row may have tells of the older claim.
    fn had_it_first(&self, line: &ConflictLine, history: &History) -> Result<(), &'static str> {
        if !line.rule.starts_with("unique_") {
            return Ok(());
        }
        let mut names = workload::tables().into_iter().map(|table| table.name.to_string());
        let table = names.position(|name| name == line.table).ok_or("no such table")?;
        let of_table = || self.rows.iter().filter(|((number, _), _)| *number == table);
        let claims = |side: &Side, writes: &[Written<'_>]| {
            let txn = conflicts::name_of(side.stamp.txn, history);
            let write = writes.iter().find(|write| write.txn == txn)?;
            let cell = write.write.cells.iter().find(|(place, _)| *place == UNIQUE)?;
            Some((write.at(), cell.1.clone()))
        };
        let mut own = of_table().filter(|(_, writes)| writes[0].write.key_text == line.row_key);
        let (key, writes) = own.next().ok_or("no such row")?;
        let loser = claims(&line.loser, writes).ok_or("the loser has claimed nothing")?;
        let winners = of_table().filter(|(other, _)| *other != key);
        let mut winners = winners.filter_map(|(_, writes)| claims(&line.winner, writes));
        let is_older = |(at, value): (oracle::Moment, Value)| at < loser.0 && value == loser.1;
        match winners.any(is_older) {
            true => Ok(()),
            false => Err("nobody claimed it before"),
        }
    }
}

/// The rows that all sites must list as put aside.
pub(super) fn aside(due: &Oracle, history: &History) -> BTreeSet<(String, Vec<String>)> {
    let names: Vec<String> =
        workload::tables().into_iter().map(|table| table.name.to_string()).collect();
    let rows: BTreeMap<_, _> = conflicts::rows(history);
    let aside = rows.into_keys().filter(|(table, key)| due.is_aside(*table, key));
    aside.map(|(table, key)| (names[table].clone(), key)).collect()
}
