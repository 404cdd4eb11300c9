//! What the tables must show in the end, found out without any code of the product: every change
//! ever committed, the newest for each cell and for the existence of each row.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::value::Value;

/// When and where something was written: milliseconds and counter as one number, then site, then
/// incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment {
    pub(crate) hlc: u64,
    pub(crate) site: u16,
    pub(crate) incarnation: u64,
}

/// Rows by the text of their key.
pub(crate) type Table = BTreeMap<Vec<String>, Vec<String>>;

/// A row change as it stands in the log.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) table: usize,
    pub(crate) old: Option<Arc<[Value]>>,
    pub(crate) new: Option<Arc<[Value]>>,
}

/// All that was ever written to one row.
#[derive(Clone, Debug, Default)]
struct Row {
    /// Inserted or deleted last.
    existence: Option<(Moment, bool)>,
    cells: BTreeMap<usize, (Moment, String)>,
}

/// All rows of all tables.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    rows: BTreeMap<(usize, Vec<String>), Row>,
}

/// The row before a transaction and after it, and whether it was gone in between.
#[derive(Default)]
struct Net {
    before: Option<Arc<[Value]>>,
    after: Option<Arc<[Value]>>,
    seen: bool,
    was_gone: bool,
}

impl Oracle {
    /// Takes in a transaction of an application. The first `keys[table]` columns are the key.
    pub(crate) fn commit(&mut self, at: Moment, events: &[Event], keys: &[usize]) {
        for write in writes(events, keys) {
            let row = self.rows.entry((write.table, write.key.clone())).or_default();
            row.take(at, &write);
        }
    }

    /// What a row shows.
    pub(crate) fn row(&self, table: usize, key: &[String]) -> Option<Vec<String>> {
        self.rows.get(&(table, key.to_vec()))?.shown()
    }

    /// What a table shows.
    pub(crate) fn table(&self, table: usize) -> Table {
        let rows = self.rows.range((table, Vec::new())..(table + 1, Vec::new()));
        rows.filter_map(|((_, key), row)| Some((key.clone(), row.shown()?))).collect()
    }
}

/// Whether a transaction changes anything.
pub(crate) fn changes_anything(events: &[Event], keys: &[usize]) -> bool {
    !writes(events, keys).is_empty()
}

/// What a transaction did to one row, all in all.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) table: usize,
    /// The key as texts.
    pub(crate) key: Vec<String>,
    /// The key as people read it.
    pub(crate) key_text: String,
    /// Whether it was inserted or deleted.
    pub(crate) exists: Option<bool>,
    /// Values it took, by their places.
    pub(crate) cells: Vec<(usize, Value)>,
}

/// What a transaction did to each row.
pub(crate) fn writes(events: &[Event], keys: &[usize]) -> Vec<Write> {
    let write = |((table, key), net): ((usize, Vec<String>), Net)| {
        let exists = match (&net.before, &net.after) {
            (None, None) => return None,
            (_, None) => Some(false),
            (None, Some(_)) => Some(true),
            // Deleted and inserted again: a new row.
            (Some(_), Some(_)) if net.was_gone => Some(true),
            (Some(_), Some(_)) => None,
        };
        let mut cells = Vec::new();
        for (place, value) in net.after.iter().flat_map(|row| row.iter()).enumerate() {
            let same = net.before.as_ref().is_some_and(|before| before[place] == *value);
            if place >= keys[table] && (exists == Some(true) || !same) {
                cells.push((place, value.clone()));
            }
        }
        if exists.is_none() && cells.is_empty() {
            return None;
        }
        let row = net.after.as_ref().or(net.before.as_ref())?;
        let key_text = key_text(&row[..keys[table]]);
        Some(Write { table, key, key_text, exists, cells })
    };
    nets(events, keys).into_iter().filter_map(write).collect()
}

/// The rows a transaction touches.
fn nets(events: &[Event], keys: &[usize]) -> BTreeMap<(usize, Vec<String>), Net> {
    let mut nets: BTreeMap<(usize, Vec<String>), Net> = BTreeMap::new();
    for event in events {
        let key_of = |row: &Arc<[Value]>| (event.table, texts(&row[..keys[event.table]]));
        let old_key = event.old.as_ref().map(key_of);
        let new_key = event.new.as_ref().map(key_of);
        // Another key is another row.
        if old_key != new_key
            && let Some(key) = old_key
        {
            note(nets.entry(key).or_default(), event.old.clone(), None);
        }
        if let Some(key) = new_key.clone() {
            let is_same = event.old.as_ref().map(key_of) == new_key;
            let old = event.old.clone().filter(|_| is_same);
            note(nets.entry(key).or_default(), old, event.new.clone());
        }
    }
    nets
}

fn note(net: &mut Net, old: Option<Arc<[Value]>>, new: Option<Arc<[Value]>>) {
    if !std::mem::replace(&mut net.seen, true) {
        net.before = old;
    }
    net.was_gone |= new.is_none();
    net.after = new;
}

impl Row {
    fn shown(&self) -> Option<Vec<String>> {
        let (_, true) = self.existence? else { return None };
        Some(self.cells.values().map(|(_, text)| text.clone()).collect())
    }

    fn take(&mut self, at: Moment, write: &Write) {
        if let Some(live) = write.exists {
            self.existence = self.existence.max(Some((at, live)));
        }
        for (place, value) in &write.cells {
            let cell = self.cells.entry(*place).or_default();
            if at >= cell.0 {
                *cell = (at, text(value));
            }
        }
    }
}

/// A value as text; nothing else is NULL.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => "\u{0}null".into(),
        value => format!("{value:?}"),
    }
}

/// A key as people read it.
pub(crate) fn key_text(key: &[Value]) -> String {
    let texts = key.iter().map(|value| value.text().unwrap_or_default());
    texts.collect::<Vec<_>>().join(",")
}

/// A row as texts.
pub(crate) fn texts(row: &[Value]) -> Vec<String> {
    row.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Image = Option<Arc<[Value]>>;

    fn row(values: [i64; 3]) -> Image {
        Some(values.map(Value::Int).into())
    }

    fn at(hlc: u64) -> Moment {
        Moment { hlc, site: 1, incarnation: 1 }
    }

    fn check(commits: &[(u64, Image, Image)], shows: Option<[i64; 2]>) {
        // In any order.
        for turn in 0..commits.len() {
            let mut oracle = Oracle::default();
            for place in 0..commits.len() {
                let (hlc, old, new) = commits[(place + turn) % commits.len()].clone();
                oracle.commit(at(hlc), &[Event { table: 0, old, new }], &[1]);
            }
            let expected = shows.map(|shows| shows.map(|value| text(&Value::Int(value))).to_vec());
            assert_eq!(oracle.table(0).into_values().next(), expected, "{turn}");
        }
    }

    #[test]
    fn the_newest_of_each_cell_shows() {
        check(
            &[
                (1, None, row([1, 0, 0])),
                (2, row([1, 0, 0]), row([1, 5, 0])),
                (3, row([1, 0, 0]), row([1, 0, 7])),
            ],
            Some([5, 7]),
        );
    }

    #[test]
    fn a_delete_wins_over_updates_and_keeps_what_is_newer() {
        let insert = (1, None, row([1, 0, 0]));
        let delete = (3, row([1, 0, 0]), None);
        let update = (5, row([1, 0, 0]), row([1, 9, 0]));
        check(&[insert.clone(), delete.clone(), update.clone()], None);
        check(&[insert, delete, update, (4, None, row([1, 2, 2]))], Some([9, 2]));
    }
}
