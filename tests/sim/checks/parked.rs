//! Rows that a site could not show.

use std::collections::BTreeSet;

use super::SiteLog;
use crate::sim::postgres::Line;
use crate::sim::workload;

/// Rows that stood at some time in a site's `landfall.parked`: table, and key as people read it.
pub(super) fn rows(log: &SiteLog<'_>) -> BTreeSet<(usize, String)> {
    let lines = log.records.iter().flat_map(|record| &record.lines);
    let parked = lines.filter_map(|line| match line {
        Line::Parked(line) => Some(line),
        Line::Conflict(_) | Line::Freed(_) | Line::Explained(_) => None,
    });
    let names: Vec<String> =
        workload::tables().into_iter().map(|table| table.name.to_string()).collect();
    let row = |line: &landfall_engine::postgres::apply::ParkedLine| {
        let table = names.iter().position(|name| *name == line.table)?;
        Some((table, line.row_key.clone()))
    };
    parked.filter_map(row).collect()
}
