//! What is parked, as the admin socket tells it. Field names are an interface.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::aside::AsideEntry;

/// How much is parked, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedStatus {
    /// Changes that are set aside; the same number as in the fates.
    pub changes: u64,
    /// Rows they are about, as far as that is known here.
    pub rows: u64,
    /// How long the oldest has been, in milliseconds; `None` = nothing is parked.
    pub oldest_ms_ago: Option<u64>,
    /// How many there are for each obstacle: `no_table`, `other_key`, `other_rules`, `no_column`, `refused`,
    /// `no_parent`, `malformed`.
    pub reasons: BTreeMap<String, u64>,
}

impl ParkedStatus {
    /// What to say while something is parked.
    pub fn warning(&self) -> Option<String> {
        let oldest = self.oldest_ms_ago?;
        let reasons = self.reasons.iter().map(|(name, count)| format!("{count} {}", told(name)));
        let reasons: Vec<String> = reasons.collect();
        Some(format!(
            "{} changes from others are parked, the oldest for {} s: {}; landfall-node parked list names them",
            self.changes,
            oldest / 1_000,
            reasons.join(", ")
        ))
    }
}

/// An obstacle in words.
fn told(name: &str) -> &str {
    match name {
        "no_table" => "without a table here",
        "other_key" => "of tables with another key here",
        "other_rules" => "of tables that are merged by other rules here",
        "no_column" => "with columns that are not here",
        "refused" => "refused by PostgreSQL",
        "no_parent" => "whose parent is parked",
        _ => "that contradict themselves",
    }
}

/// What would free a change with this obstacle.
fn frees(entry: &ParkedEntry) -> String {
    let table = entry.table.as_deref().unwrap_or("the table");
    match entry.obstacle.as_str() {
        "no_table" => format!("create {table} here, then run init"),
        "other_key" => format!("give {table} the primary key it has at the origin"),
        "other_rules" => format!("give both members the same rules for {table}"),
        "no_column" => format!("add {} to {table}", entry.columns.join(", ")),
        "refused" => "remove what landfall.parked gives as reason".to_owned(),
        "no_parent" => "free the parent".to_owned(),
        _ => "report this as a bug".to_owned(),
    }
}

/// One parked change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedEntry {
    /// The member that made it, or `site N`.
    pub name: String,
    /// Its origin, as `landfall.parked` has it.
    pub origin: String,
    /// The transaction it is part of.
    pub seq: u64,
    /// Its place in that transaction.
    pub place: u32,
    /// Its table; `None` when that was never described.
    pub table: Option<String>,
    /// The row's key, if the row has a place here.
    pub row_key: Option<String>,
    /// What keeps it.
    pub obstacle: String,
    /// Columns that are missing here.
    pub columns: Vec<String>,
    /// How long it has been parked, in milliseconds.
    pub parked_ms_ago: u64,
}

/// What `parked list` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedList {
    /// The first ones, oldest of each origin first.
    pub entries: Vec<ParkedEntry>,
    /// Rows that are put aside, oldest first.
    #[serde(default)]
    pub aside: Vec<AsideEntry>,
    /// Whether there are more of either.
    pub truncated: bool,
}

impl ParkedList {
    /// One line for each.
    pub fn explained(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            let table = entry.table.as_deref().unwrap_or("unknown table");
            let key = entry.row_key.as_deref().map(|key| format!(" row {key}"));
            text += &format!(
                "{table}{}: change {} of transaction {} of {}, for {} s, {}; to free it, {}\n",
                key.unwrap_or_default(),
                entry.place,
                entry.seq,
                entry.name,
                entry.parked_ms_ago / 1_000,
                told(&entry.obstacle),
                frees(entry)
            );
        }
        text.extend(self.aside.iter().map(AsideEntry::explained));
        if self.truncated {
            text += "There are more.\n";
        } else if text.is_empty() {
            text += "Nothing is parked, and no row is put aside.\n";
        }
        text
    }
}

/// What `parked retry` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryAnswer {
    /// Changes that are tried again now.
    pub changes: u64,
}
