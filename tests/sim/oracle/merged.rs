//! What a column shows that several people write at once, found out by what each of them had seen.
//!
//! Whoever puts something in, an element of a set, a word, an item of a list, puts in what nobody
//! else does but for elements of sets; it is there unless somebody takes it out who had seen it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use landfall_protocol::id::TxnId;
use landfall_protocol::value::Value;
use landfall_protocol::version::VersionVector;

use super::{Moment, text};

/// The key of a document under which a list stands.
const LIST: &str = "l";

/// How a column merges that is no counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// An array of numbers in no order.
    Set,
    /// The greatest number.
    Max,
    /// The least.
    Min,
    /// Words.
    Text,
    /// An object of scalars, and a list of texts.
    Document,
}

/// Who wrote something, and what he had seen.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) at: Moment,
    pub(crate) txn: TxnId,
    pub(crate) seen: Rc<VersionVector>,
}

impl Writer {
    /// Whether he had seen what that one wrote.
    fn knew(&self, other: &Self) -> bool {
        let is_own = self.txn.origin == other.txn.origin && self.at > other.at;
        is_own || self.seen.covers(other.txn)
    }
}

/// A write that goes on with what the column was.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) by: Writer,
    pub(super) before: Value,
    pub(super) after: Value,
}

/// A value in one form, in which what has no order stands sorted.
pub(super) fn normal(merge: Merge, value: &Value) -> String {
    match (merge, value) {
        (_, Value::Null) | (Merge::Max | Merge::Min, _) => text(value),
        _ => told(keys(merge, value), parts(merge, value)),
    }
}

/// What the column shows that was set to `base`, and edited since.
pub(super) fn shown(merge: Merge, base: &Value, edits: &[Edit]) -> String {
    let numbers = || {
        let written = edits.iter().map(|edit| &edit.after).chain([base]);
        written.filter_map(|value| match value {
            Value::Int(number) => Some(*number),
            _ => None,
        })
    };
    match (merge, base) {
        (_, Value::Null) => text(base),
        (Merge::Max, _) => numbers().max().map_or_else(|| text(base), |n| text(&Value::Int(n))),
        (Merge::Min, _) => numbers().min().map_or_else(|| text(base), |n| text(&Value::Int(n))),
        _ => told(newest_keys(merge, base, edits), survivors(merge, base, edits)),
    }
}

fn told(keys: BTreeMap<String, String>, mut parts: Vec<String>) -> String {
    parts.sort_unstable();
    format!("{keys:?} {parts:?}")
}

/// What can be put in and taken out by itself, as often as it stands there.
fn parts(merge: Merge, value: &Value) -> Vec<String> {
    let Some(text) = value.text() else { return Vec::new() };
    match merge {
        Merge::Set => {
            let inside = text.trim_matches(['{', '}']).split(',');
            inside.filter(|element| !element.is_empty()).map(str::to_owned).collect()
        }
        Merge::Text => text.split_whitespace().map(str::to_owned).collect(),
        Merge::Document => match json(&text).remove(LIST) {
            Some(serde_json::Value::Array(items)) => {
                items.iter().map(serde_json::Value::to_string).collect()
            }
            _ => Vec::new(),
        },
        Merge::Max | Merge::Min => Vec::new(),
    }
}

/// The scalars of a document.
fn keys(merge: Merge, value: &Value) -> BTreeMap<String, String> {
    match (merge, value.text()) {
        (Merge::Document, Some(text)) => {
            let keys = json(&text).into_iter().filter(|(key, _)| key != LIST);
            keys.map(|(key, value)| (key, value.to_string())).collect()
        }
        _ => BTreeMap::new(),
    }
}

fn json(text: &str) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(object)) => object,
        _ => serde_json::Map::new(),
    }
}

fn survivors(merge: Merge, base: &Value, edits: &[Edit]) -> Vec<String> {
    let of = |value: &Value| parts(merge, value).into_iter().collect::<BTreeSet<String>>();
    let changes: Vec<_> = edits
        .iter()
        .map(|edit| {
            let (before, after) = (of(&edit.before), of(&edit.after));
            let added: BTreeSet<String> = after.difference(&before).cloned().collect();
            let removed: BTreeSet<String> = before.difference(&after).cloned().collect();
            (&edit.by, added, removed)
        })
        .collect();
    let is_taken = |part: &String, by: Option<&Writer>| {
        let mut removals = changes.iter().filter(|(_, _, removed)| removed.contains(part));
        removals.any(|(remover, ..)| by.is_none_or(|by| remover.knew(by)))
    };
    let born = of(base).into_iter().filter(|part| !is_taken(part, None));
    let mut stay: BTreeSet<String> = born.collect();
    for (by, added, _) in &changes {
        stay.extend(added.iter().filter(|part| !is_taken(part, Some(*by))).cloned());
    }
    stay.into_iter().collect()
}

/// Of each key the newest value, unless somebody who had seen it removed it.
fn newest_keys(merge: Merge, base: &Value, edits: &[Edit]) -> BTreeMap<String, String> {
    type Put<'e> = (Option<&'e Writer>, String);
    let mut puts: BTreeMap<String, Put<'_>> =
        keys(merge, base).into_iter().map(|(key, value)| (key, (None, value))).collect();
    let mut removals: Vec<(String, &Writer)> = Vec::new();
    for edit in edits {
        let (before, after) = (keys(merge, &edit.before), keys(merge, &edit.after));
        removals.extend(
            before
                .keys()
                .filter(|key| !after.contains_key(*key))
                .map(|key| (key.clone(), &edit.by)),
        );
        for (key, value) in after.iter().filter(|(key, value)| before.get(*key) != Some(*value)) {
            let is_newer = |(by, _): &Put<'_>| by.is_none_or(|by| by.at < edit.by.at);
            if puts.get(key).is_none_or(is_newer) {
                puts.insert(key.clone(), (Some(&edit.by), value.clone()));
            }
        }
    }
    let is_there = |key: &String, by: Option<&Writer>| {
        let mut removals = removals.iter().filter(|(removed, _)| removed == key);
        !removals.any(|(_, remover)| by.is_none_or(|by| remover.knew(by)))
    };
    let stay = puts.into_iter().filter(|(key, (by, _))| is_there(key, *by));
    stay.map(|(key, (_, value))| (key, value)).collect()
}
