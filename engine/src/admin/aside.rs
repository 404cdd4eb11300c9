//! Rows that are put aside, as the admin socket tells them. Field names are an interface.

use serde::{Deserialize, Serialize};

/// How many rows are put aside, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsideStatus {
    /// Rows that are shown at no site because an older one has what only one may have.
    pub rows: u64,
    /// How long the oldest of them has been, in milliseconds; `None` = there is none.
    pub oldest_ms_ago: Option<u64>,
}

impl AsideStatus {
    /// What to say while there are such rows.
    pub fn warning(&self) -> Option<String> {
        let oldest = self.oldest_ms_ago?;
        Some(format!(
            "{} rows are put aside because older ones have what only one row may have, the oldest for \
             {} s; landfall-node parked list names them",
            self.rows,
            oldest / 1_000
        ))
    }
}

/// One row that is put aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsideEntry {
    /// Its table.
    pub table: String,
    /// Its key.
    pub row_key: String,
    /// What stands in its way.
    pub reason: String,
    /// How long it has been aside, in milliseconds.
    pub aside_ms_ago: u64,
}

impl AsideEntry {
    /// One line.
    pub fn explained(&self) -> String {
        let Self { table, row_key, reason, aside_ms_ago } = self;
        format!(
            "{table} row {row_key}: put aside for {} s, {reason}; it comes back when that row is changed, \
             deleted or shown again, at any site\n",
            aside_ms_ago / 1_000
        )
    }
}
