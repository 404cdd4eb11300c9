//! What operators read afterwards: conflict and parked lines.

use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::change::RowOp;
use landfall_protocol::clock::Stamp;
use landfall_protocol::dictionary::{RowId, Unshowable};
use landfall_protocol::fold::{Emission, ParkedChange, Remedy};
use landfall_protocol::plan::{Conflict, Group, LostValue, RowWork, Rule};
use landfall_protocol::schema::{ColumnId, TableDef};
use landfall_protocol::value::Value;

use crate::plant;
use crate::postgres::apply::{ParkedLine, RowWrite};
use crate::postgres::history::{ConflictLine, Side, Wrote};
use crate::replica::log_values::LogValues;
use crate::replica::{Replica, ReplicaError};

/// What to do about a row that PostgreSQL refuses.
pub(super) const REFUSED_ADVICE: &str =
    "remove what stands in the way; the row is tried again by itself";
/// Conflicts told at a time: the transactions of both their sides are in memory together.
const TOLD_AT_ONCE: usize = 64;
/// Most bytes of a row that are kept with the line of its delete.
const ROW_BYTES_MAX: usize = 1 << 20;

/// A row's cells as PostgreSQL showed them before the group.
type Shown = BTreeMap<RowId, BTreeMap<ColumnId, Option<String>>>;

/// A conflict with what it is told from.
struct Told<'c> {
    row: &'c RowId,
    conflict: &'c Conflict,
    work: Option<&'c RowWork>,
    shown: Option<&'c BTreeMap<ColumnId, Option<String>>>,
}

/// What to do about a row whose parent is parked.
pub(super) const ORPHAN_ADVICE: &str = "free its parent; the row comes with it";

impl Replica {
    /// The lines for concurrent writes that gave way. Equal values are no conflict.
    pub(super) async fn conflict_lines(
        &mut self,
        works: &BTreeMap<RowId, RowWork>,
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
        let shown: Shown = self.apply.shown(&rows.into_iter().collect::<Vec<_>>()).await?;
        let mut told = Vec::new();
        for (row, conflict) in conflicts {
            let shown = shown.get(*row);
            let cell = conflict.column.and_then(|column| shown?.get(&column)).cloned();
            let write = writes.binary_search_by_key(row, |(row, _)| *row).ok();
            if !same_as_winner(conflict, write.map(|place| &writes[place].1), cell) {
                told.push(Told { row, conflict, work: works.get(*row), shown });
            }
        }
        let mut lines = Vec::with_capacity(told.len());
        let mut before: Option<&RowId> = None;
        for told in told.chunks(TOLD_AT_ONCE) {
            let sides = told.iter().flat_map(|t| [t.conflict.winner.txn, t.conflict.loser.txn]);
            let log = self.logged(sides.collect()).await?;
            for told in told {
                // Lines of one row follow on each other; the first one has the row.
                let is_first = before != Some(told.row);
                before = Some(told.row);
                lines.push(self.conflict_line(told, &log, is_first));
            }
        }
        if plant::active("lost-conflict") {
            lines.pop();
        }
        Ok(lines)
    }

    /// The lines without those of updates that gave way to a delete which is taken back.
    pub(super) fn without_taken_back(
        &self,
        mut lines: Vec<ConflictLine>,
        emitted: &[Emission],
    ) -> Vec<ConflictLine> {
        let revives = |remedy: &Remedy| matches!(remedy, Remedy::Revive | Remedy::ReviveAside);
        let revived = emitted.iter().filter(|emission| revives(&emission.remedy));
        let named = revived.filter_map(|Emission { row, .. }| {
            Some((self.dictionary.table(row.table)?.name.to_string(), key_text(row)))
        });
        let named: Vec<(String, String)> = named.collect();
        let stands = |line: &ConflictLine| {
            named.iter().any(|(table, key)| line.table == *table && line.row_key == *key)
        };
        lines.retain(|line| line.rule != Rule::DeleteWins.name() || !stands(line));
        lines
    }

    fn conflict_line(&self, told: &Told<'_>, log: &LogValues<'_>, is_first: bool) -> ConflictLine {
        let Told { row, conflict, .. } = told;
        let def = self.dictionary.table(row.table);
        let column = conflict.column.and_then(|id| def?.column_def(id)).map(|c| c.name.clone());
        let side = |stamp: Stamp, wrote| Side {
            stamp,
            name: self.fleet.name_of(stamp.txn.origin.site),
            actor: log.actor(stamp.txn).map(|actor| actor.as_str().to_owned()),
            wrote,
        };
        let goes = matches!(conflict.rule, Rule::DeleteWins | Rule::FkCascade | Rule::Quarantined);
        let is_whole = is_first && goes;
        let row_before = told.shown.filter(|_| is_whole && conflict.lost == LostValue::Shown);
        ConflictLine {
            table: def.map(|def| def.name.to_string()).unwrap_or_default(),
            row_key: key_text(row),
            key: def.map(|def| named_key(def, row)).unwrap_or_default(),
            column,
            rule: conflict.rule.name(),
            winner: side(conflict.winner, told.winner(log)),
            loser: side(conflict.loser, told.loser(log)),
            row: row_before.and_then(|cells| whole_row(def?, cells)),
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
                    "give both sites the same [[table]] entry in the fleet file, and of a collation \
                     the same version, and restart them",
                ),
                Unshowable::Malformed(name) => (name.to_string(), "report this as a bug"),
                Unshowable::Undescribed(_) => (String::new(), "report this as a bug"),
            };
            lines.push(ParkedLine {
                origin: group.origin,
                seq: place.seq,
                index: place.index,
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
            let line = |place: ParkedChange, op, change: String, reason: String, advice: &str| {
                ParkedLine {
                    origin: group.origin,
                    seq: place.seq,
                    index: place.index,
                    table: table.clone(),
                    row_key: key_text(row),
                    op,
                    change,
                    reason,
                    advice: advice.to_owned(),
                }
            };
            for (place, columns) in work.unknown_columns() {
                let names = columns.join(", ");
                let reason = format!("this site has no column {names}");
                lines.push(line(place, "cells", names, reason, "add the column here too"));
            }
            if let Some(reason) = refused.get(row) {
                let advice = match self.waits_for_parent(row) {
                    true => ORPHAN_ADVICE,
                    false => REFUSED_ADVICE,
                };
                for step in work.steps() {
                    let (op, reason) = (op_name(step.op), reason.clone());
                    lines.push(line(step.place, op, step.text, reason, advice));
                }
            }
        }
        lines
    }
}

impl Told<'_> {
    fn loser(&self, log: &LogValues<'_>) -> Wrote {
        match &self.conflict.lost {
            LostValue::Value(value) => Wrote::value(value),
            LostValue::Shown => self.cell(),
            LostValue::Logged => self.logged(self.conflict.loser, log),
            LostValue::Nothing => Wrote::Delete,
        }
    }

    /// What won is the group's, or in the log, or what the row showed before there was one. What the
    /// row shows now may be what the group has inserted on approval.
    fn winner(&self, log: &LogValues<'_>) -> Wrote {
        let winner = self.conflict.winner;
        match self.conflict.rule {
            Rule::DeleteWins | Rule::FkCascade => Wrote::Delete,
            Rule::InsertAfterDelete => Wrote::Insert,
            // Both wrote the same value, but for what EXCLUDE compares.
            Rule::UniqueQuarantine | Rule::UniqueSuffix | Rule::UniqueNull => self.loser(log),
            Rule::FkSetNull => Wrote::Value(None),
            // Nobody wrote the end of the range, and what keeps a row is not one value of it.
            Rule::CounterClamped
            | Rule::FkSetDefault
            | Rule::FkRestrict
            | Rule::UpdateWins
            | Rule::Revived
            | Rule::Quarantined
            | Rule::FkQuarantine
            | Rule::ExcludeQuarantine => Wrote::Unknown,
            Rule::LastWriterWins | Rule::Reset(_) | Rule::DocumentKey => {
                let column = self.conflict.column;
                let own = column.and_then(|column| self.work?.value_of(winner.txn, column));
                match own {
                    Some(value) => Wrote::value(value),
                    None => match self.logged(winner, log) {
                        Wrote::Unknown => self.cell(),
                        logged => logged,
                    },
                }
            }
        }
    }

    /// The cell as PostgreSQL showed it.
    fn cell(&self) -> Wrote {
        let cell = self.conflict.column.and_then(|column| self.shown?.get(&column));
        cell.map_or(Wrote::Unknown, |text| Wrote::shown(text.as_deref()))
    }

    fn logged(&self, stamp: Stamp, log: &LogValues<'_>) -> Wrote {
        let value = self.conflict.column.and_then(|column| log.value(stamp.txn, self.row, column));
        value.map_or(Wrote::Unknown, |value| Wrote::value(&value))
    }
}

fn named_key(def: &TableDef, row: &RowId) -> Vec<(String, String)> {
    let values = row.key.values().unwrap_or_default();
    let text = |value: &Value| match Wrote::value(value) {
        Wrote::Value(text) => text.unwrap_or_default(),
        _ => String::new(),
    };
    let names = def.key.iter().filter_map(|id| Some(def.column_def(*id)?.name.clone()));
    names.zip(values.iter().map(text)).collect()
}

/// The cells by their names, unless they take too much room.
fn whole_row(
    def: &TableDef,
    cells: &BTreeMap<ColumnId, Option<String>>,
) -> Option<Vec<(String, Option<String>)>> {
    let bytes: usize = cells.values().flatten().map(String::len).sum();
    let named = cells.iter().filter_map(|(id, text)| {
        let name = &def.column_def(*id)?.name;
        Some((name.clone(), text.clone()))
    });
    (bytes <= ROW_BYTES_MAX).then(|| named.collect())
}

/// A change as a parked line tells it.
pub(super) fn op_name(op: RowOp) -> &'static str {
    match op {
        RowOp::Insert => "insert",
        RowOp::Update => "update",
        RowOp::Delete => "delete",
        RowOp::Revive => "revive",
        RowOp::Quarantine => "quarantine",
        RowOp::Return => "return",
        RowOp::ReviveAside => "revive aside",
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
        Some(RowWrite::Update(cells) | RowWrite::Insert(cells) | RowWrite::Replace(cells)) => {
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

/// Whether PostgreSQL shows this value as this text. Of long ones only the length is shown, and
/// others may be as long.
fn shows(value: &Value, text: Option<&str>) -> bool {
    match (value, text) {
        (Value::Long(_), _) if !plant::active("equal-lengths") => false,
        (Value::Bool(yes), Some(text)) => text == if *yes { "true" } else { "false" },
        (value, text) => value.text().as_deref() == text,
    }
}

/// A row's key for humans: its values, separated by commas.
pub(crate) fn key_text(row: &RowId) -> String {
    let values = row.key.values().unwrap_or_default();
    let texts: Vec<String> =
        values.iter().map(|v| v.text().map(|t| t.into_owned()).unwrap_or_default()).collect();
    texts.join(",")
}
