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
        conflicts: &[(RowId, Conflict)],
        writes: &BTreeMap<RowId, RowWrite>,
    ) -> Result<Vec<ConflictLine>, ReplicaError> {
        if conflicts.is_empty() {
            return Ok(Vec::new());
        }
        let of = |kind: LostValue| conflicts.iter().filter(move |(_, c)| c.lost == kind);
        let rows: BTreeSet<&RowId> = of(LostValue::Shown).map(|(row, _)| row).collect();
        let shown = self.apply.shown(&rows.into_iter().collect::<Vec<_>>()).await?;
        let logged: BTreeSet<TxnId> = of(LostValue::Logged).map(|(_, c)| c.loser.txn).collect();
        let log = self.logged(logged).await?;
        let mut lines = Vec::new();
        for (row, conflict) in conflicts {
            let value = match (&conflict.lost, conflict.column) {
                (LostValue::Value(value), _) => value.text().map(|text| text.into_owned()),
                (LostValue::Shown, Some(column)) => {
                    shown.get(row).and_then(|cells| cells.get(&column)).cloned().flatten()
                }
                (LostValue::Logged, Some(column)) => log
                    .value(conflict.loser.txn, row, column)
                    .and_then(|value| value.text().map(|text| text.into_owned())),
                _ => None,
            };
            if !same_as_winner(conflict, writes.get(row), value.as_deref()) {
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

fn same_as_winner(conflict: &Conflict, write: Option<&RowWrite>, lost: Option<&str>) -> bool {
    let (Rule::LastWriterWins, Some(column)) = (conflict.rule, conflict.column) else {
        return false;
    };
    let (Some(RowWrite::Update(cells) | RowWrite::Insert(cells)), LostValue::Shown) =
        (write, &conflict.lost)
    else {
        return false;
    };
    let winner = cells.iter().find(|(id, _)| *id == column).map(|(_, value)| value);
    winner.is_some_and(|winner| match (winner, lost) {
        (Value::Bool(yes), Some(lost)) => lost == if *yes { "true" } else { "false" },
        (winner, lost) => winner.text().as_deref() == lost,
    })
}

/// A row's key for humans: its values, separated by commas.
pub(super) fn key_text(row: &RowId) -> String {
    let values = row.key.values().unwrap_or_default();
    let texts: Vec<String> =
        values.iter().map(|v| v.text().map(|t| t.into_owned()).unwrap_or_default()).collect();
    texts.join(",")
}
