//! What sites do by themselves in transactions that show others' changes: rows come back, go along,
//! let go, are put aside and return. It stands in their stores as changes of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_protocol::change::{RowChange, RowOp, Transaction};
use landfall_protocol::fold::Marker;
use landfall_protocol::id::{Origin, Seq, TxnId};
use landfall_protocol::schema::{TableDef, TableId};
use landfall_protocol::value::Value;

use super::{Contents, SiteLog, markers};
use crate::sim::oracle::{self, Turn, Write};
use crate::sim::postgres::CommitRecord;
use crate::sim::workload::{self, MERGING};

/// The rows that each transaction names: table and key.
pub(crate) type Named = BTreeMap<TxnId, BTreeSet<(usize, Vec<String>)>>;

/// Tables by the numbers that an origin gives them: their places here, and what they are like.
pub(super) type Described = BTreeMap<TableId, (usize, TableDef)>;

/// The tables that an origin's transactions describe.
pub(super) fn described(transactions: &[Transaction]) -> Described {
    let names: Vec<_> = workload::tables().into_iter().map(|table| table.name).collect();
    let all = transactions.iter().flat_map(|transaction| &transaction.describes);
    let known = all.filter_map(|describe| {
        let place = names.iter().position(|name| *name == describe.def.name)?;
        Some((describe.table, (place, describe.def.clone())))
    });
    known.collect()
}

/// The rows that all transactions name which the stores hold.
pub(crate) fn named(contents: &Contents) -> Named {
    let mut named = Named::new();
    for (origin, held) in contents {
        let described = described(&held.transactions);
        for transaction in &held.transactions {
            let rows = transaction.changes.iter().filter_map(|change| {
                let (table, _) = described.get(&change.table)?;
                Some((*table, oracle::texts(&change.key.values().ok()?)))
            });
            let txn = TxnId { origin: *origin, seq: transaction.seq };
            named.insert(txn, rows.collect());
        }
    }
    named
}

/// Whether a site had something to say of its own in a transaction with a marker: it says so in the
/// marker, or wrote rows that those do not name whose changes it shows.
pub(super) fn speaks(
    log: &SiteLog<'_>,
    record: &CommitRecord,
    applied: Option<(Origin, Seq, Seq)>,
    writes: &[Write],
    named: &Named,
) -> bool {
    let says = |marker: Marker| match marker {
        Marker::Apply { emitted, .. } | Marker::Remedy { emitted } => !emitted.is_empty(),
        Marker::Repair => false,
    };
    if markers(log, record).any(says) {
        return true;
    }
    let Some((origin, first, last)) = applied else { return false };
    let [first, last] = [first, last].map(|seq| TxnId { origin, seq });
    let is_named = |write: &Write| {
        let place = (write.table, write.key.clone());
        named.range(first..=last).any(|(_, rows)| rows.contains(&place))
    };
    !writes.iter().all(is_named)
}

/// What a site did by itself, as its store holds it.
pub(super) fn writes(transaction: &Transaction, described: &Described) -> Vec<Write> {
    let write = |change: &RowChange| {
        let (table, def) = described.get(&change.table)?;
        let key = change.key.values().ok()?;
        let (exists, turn) = match change.op {
            RowOp::Insert => (Some(true), None),
            RowOp::Delete => (Some(false), None),
            RowOp::Update => (None, None),
            RowOp::Revive => (None, Some(Turn::Revived)),
            RowOp::Quarantine => (None, Some(Turn::PutAside)),
            RowOp::Return => (None, Some(Turn::Returned)),
            RowOp::ReviveAside => (None, Some(Turn::RevivedAside)),
        };
        let here = &workload::tables()[*table];
        let cell = |cell: &landfall_protocol::change::Cell| {
            let name = &def.column_def(cell.column)?.name;
            let place = usize::from(here.column(name)?.0);
            Some((place, cell.value.clone()))
        };
        let says = matches!(change.op, RowOp::Insert | RowOp::Update);
        let cells = change.cells.iter().filter(|_| says).filter_map(cell);
        let cells: Vec<(usize, Value)> = cells.collect();
        let (key, key_text) = (oracle::texts(&key), oracle::key_text(&key));
        let (table, added, edits) = (*table, None, Vec::new());
        Some(Write { table, key, key_text, exists, cells, added, edits, turn })
    };
    transaction.changes.iter().filter_map(write).collect()
}

/// Edits that travel as whole values, because the row may not show what it must: a repair of it, or its
/// end, must follow in the log, or be on its way. Nothing else makes an edit a new beginning.
pub(super) fn note_wholes(
    log: &SiteLog<'_>,
    writes: &mut [Write],
    held: &[Transaction],
    described: &Described,
    later: &[Arc<CommitRecord>],
    first_table: usize,
) {
    let is_share = |write: &Write, place: usize| {
        let changes = held.iter().flat_map(|transaction| &transaction.changes);
        let mut cells = changes.filter_map(|change| {
            let (table, def) = described.get(&change.table)?;
            let is_it = *table == write.table
                && change.key.values().is_ok_and(|key| oracle::texts(&key) == write.key);
            let name = &workload::tables()[*table].columns[place].name;
            let cell = change.cells.iter().find(|cell| {
                def.column_def(cell.column).is_some_and(|column| column.name == *name)
            });
            cell.filter(|_| is_it)
        });
        cells.any(|cell| matches!(cell.value, Value::Share(_)))
    };
    for write in writes.iter_mut().filter(|write| !write.edits.is_empty()) {
        let edits = std::mem::take(&mut write.edits);
        let (shares, wholes): (Vec<_>, Vec<_>) =
            edits.into_iter().partition(|(place, ..)| is_share(write, *place));
        write.edits = shares;
        if wholes.is_empty() {
            continue;
        }
        let ends = later.iter().any(|record| {
            let repairs =
                markers(log, record).any(|marker| !matches!(marker, Marker::Apply { .. }));
            let rows = super::events(record, first_table);
            rows.iter().filter(|event| event.table == write.table).any(|event| {
                let key = |row: &Arc<[Value]>| MERGING[write.table].texts(row).0 == write.key;
                event.old.as_ref().is_some_and(key) && (repairs || event.new.is_none())
            })
        });
        match ends {
            true => write.cells.extend(wholes.into_iter().map(|(place, _, after)| (place, after))),
            false => write.edits.extend(wholes),
        }
    }
}
