//! What operators read afterwards: conflict and parked lines.

use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::change::RowOp;
use landfall_protocol::dictionary::{RowId, Unshowable};
use landfall_protocol::id::TxnId;
use landfall_protocol::plan::{Conflict, Group, LostValue, Rule};
use landfall_protocol::value::Value;

use crate::postgres::apply::{ConflictLine, ParkedLine, RowWrite};
use crate::replica::{Replica, ReplicaError};

impl Replica {
    /// The lines for concurrent writes that gave way. Equal values are no conflict.
    pub(super) async fn conflict_lines(
        &mut self,
        conflicts: &[(&RowId, Conflict)],
        writes: &[(&RowId, RowWrite<'_>)],
    ) -> Result<Vec<ConflictLine>, ReplicaError> {
        if conflicts.is_empty() {
            return Ok(Vec::new());
        }
        // Also where the loser's value came with the group: the winner's may be what is shown.
        let compares = |c: &Conflict| matches!(c.lost, LostValue::Shown | LostValue::Value(_));
        let rows = conflicts.iter().filter(|(_, c)| compares(c)).map(|(row, _)| *row);
        let rows: BTreeSet<&RowId> = rows.collect();
        let shown = self.apply.shown(&rows.into_iter().collect::<Vec<_>>()).await?;
        let logged = conflicts.iter().filter(|(_, c)| c.lost == LostValue::Logged);
        let logged: BTreeSet<TxnId> = logged.map(|(_, c)| c.loser.txn).collect();
        let log = self.logged(logged).await?;
        let mut lines = Vec::new();
        for (row, conflict) in conflicts {
            let cell = conflict.column.and_then(|column| shown.get(*row)?.get(&column)).cloned();
            let value = match (&conflict.lost, conflict.column) {
                (LostValue::Value(value), _) => value.text().map(|text| text.into_owned()),
                (LostValue::Shown, Some(_)) => cell.clone().flatten(),
                (LostValue::Logged, Some(column)) => log
                    .value(conflict.loser.txn, row, column)
                    .and_then(|value| value.text().map(|text| text.into_owned())),
                _ => None,
            };
            let write = writes.binary_search_by_key(row, |(row, _)| *row).ok();
            if !same_as_winner(conflict, write.map(|place| &writes[place].1), cell) {
                lines.push(self.conflict_line(row, conflict, value));
            }
        }
        Ok(lines)
    }

    fn conflict_line(
        &self,
        row: &RowId,
        conflict: &Conflict,
        value: Option<String>,
    ) -> ConflictLine {
        let def = self.dictionary.table(row.table);
        let column = conflict.column.and_then(|id| def?.column_def(id)).map(|c| c.name.clone());
        let side = |stamp: landfall_protocol::clock::Stamp| {
            (stamp.txn.origin, stamp.txn.seq, stamp.hlc.ms())
        };
        ConflictLine {
            table: def.map(|def| def.name.to_string()).unwrap_or_default(),
            row_key: key_text(row),
            column,
            rule: conflict.rule.name(),
            winner: side(conflict.winner),
            loser: side(conflict.loser),
            value,
        }
    }

    /// The lines for changes that cannot be shown here.
    pub(super) fn parked_lines(
        &self,
        group: &Group,
        refused: &BTreeMap<RowId, String>,
    ) -> Vec<ParkedLine> {
        let mut lines = Vec::new();
        for (place, reason) in &group.parked {
            let (table, advice) = match reason {
                Unshowable::UnknownTable(name) | Unshowable::OtherKey(name) => (
                    name.to_string(),
                    "give this site the same table as the origin, then run landfall-node init",
                ),
                Unshowable::OtherRules { table, .. } => (
                    table.to_string(),
                    "give both sites the same [[table]] entry in the fleet file and restart them",
                ),
                Unshowable::Malformed(name) => (name.to_string(), "report this as a bug"),
                Unshowable::Undescribed(_) => (String::new(), "report this as a bug"),
            };
            lines.push(ParkedLine {
                origin: group.origin,
                seq: place.seq,
                table,
                row_key: String::new(),
                op: "change",
                change: format!("change {} of transaction {}", place.index, place.seq),
                reason: reason.to_string(),
                advice: advice.to_owned(),
            });
        }
        for (row, work) in &group.rows {
            if !refused.contains_key(row) && work.unknown_columns().next().is_none() {
                continue;
            }
            let table = self.dictionary.table(row.table);
            let table = table.map(|def| def.name.to_string()).unwrap_or_default();
            let line = |seq, op, change: String, reason: String, advice: &str| ParkedLine {
                origin: group.origin,
                seq,
                table: table.clone(),
                row_key: key_text(row),
                op,
                change,
                reason,
                advice: advice.to_owned(),
            };
            for (place, columns) in work.unknown_columns() {
                let names = columns.join(", ");
                let reason = format!("this site has no column {names}");
                lines.push(line(place.seq, "cells", names, reason, "add the column here too"));
            }
            if let Some(reason) = refused.get(row) {
                let advice =
                    "remove what stands in the way; the row is tried again with its next change";
                for step in work.steps() {
                    lines.push(line(step.seq, op_name(step.op), step.text, reason.clone(), advice));
                }
            }
        }
        lines
    }
}

/// A change as a parked line tells it.
pub(super) fn op_name(op: RowOp) -> &'static str {
    match op {
        RowOp::Insert => "insert",
        RowOp::Update => "update",
        RowOp::Delete => "delete",
    }
}

/// Whether the row shows afterwards what the loser wrote too. `shown` is the cell before the group.
fn same_as_winner(
    conflict: &Conflict,
    write: Option<&RowWrite<'_>>,
    shown: Option<Option<String>>,
) -> bool {
    let (Rule::LastWriterWins, Some(column)) = (conflict.rule, conflict.column) else {
        return false;
    };
    let written = match write {
        Some(RowWrite::Update(cells) | RowWrite::Insert(cells)) => {
            cells.iter().find(|(id, _)| *id == column).map(|(_, value)| value.as_ref())
        }
        Some(RowWrite::Delete) => return false,
        None => None,
    };
    match (&conflict.lost, written, shown) {
        (LostValue::Value(lost), Some(winner), _) => lost == winner,
        (LostValue::Value(lost), None, Some(winner)) => shows(lost, winner.as_deref()),
        (LostValue::Shown, Some(winner), Some(lost)) => shows(winner, lost.as_deref()),
        _ => false,
    }
}

/// Whether PostgreSQL shows this value as this text.
fn shows(value: &Value, text: Option<&str>) -> bool {
    match (value, text) {
        (Value::Bool(yes), Some(text)) => text == if *yes { "true" } else { "false" },
        (value, text) => value.text().as_deref() == text,
    }
}

/// A row's key for humans: its values, separated by commas.
pub(super) fn key_text(row: &RowId) -> String {
    let values = row.key.values().unwrap_or_default();
    let texts: Vec<String> =
        values.iter().map(|v| v.text().map(|t| t.into_owned()).unwrap_or_default()).collect();
    texts.join(",")
}
