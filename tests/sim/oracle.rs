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

/// A number to which everybody adds. It shows nothing less and nothing more than these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter {
    pub(crate) place: usize,
    pub(crate) least: i64,
    pub(crate) most: i64,
}

/// How the columns of a table merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merging {
    /// The first so many are the key.
    pub(crate) key: usize,
    pub(crate) counter: Option<Counter>,
    /// Who writes one of these writes all.
    pub(crate) group: &'static [usize],
}

impl Merging {
    /// All cells by the newest write.
    pub(crate) const PLAIN: Self = Self { key: 1, counter: None, group: &[] };

    fn counts(&self, place: usize) -> bool {
        self.counter.is_some_and(|counter| counter.place == place)
    }
}

/// When the counter of each row was set as a whole for the last time, by what somebody knew who added
/// to it. Never is the first moment of all.
pub(crate) type Births = BTreeMap<(usize, Vec<String>), Moment>;

/// All that was ever written to one row.
#[derive(Clone, Debug, Default)]
struct Row {
    /// Inserted or deleted last.
    existence: Option<(Moment, bool)>,
    cells: BTreeMap<usize, (Moment, Value)>,
    /// To the counter, by when it had been set.
    added: BTreeMap<Moment, i64>,
}

/// All rows of all tables.
#[derive(Debug)]
pub(crate) struct Oracle {
    tables: &'static [Merging],
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
    /// Nothing was written yet.
    pub(crate) fn new(tables: &'static [Merging]) -> Self {
        Self { tables, rows: BTreeMap::new() }
    }

    /// Takes in a transaction of an application.
    pub(crate) fn commit(&mut self, at: Moment, events: &[Event], births: &Births) {
        for write in writes(events, self.tables) {
            let place = (write.table, write.key.clone());
            let birth = births.get(&place).copied().unwrap_or_default();
            self.rows.entry(place).or_default().take(at, &write, birth);
        }
    }

    /// What a row shows.
    pub(crate) fn row(&self, table: usize, key: &[String]) -> Option<Vec<String>> {
        self.rows.get(&(table, key.to_vec()))?.shown(&self.tables[table])
    }

    /// What a table shows.
    pub(crate) fn table(&self, table: usize) -> Table {
        let merging = &self.tables[table];
        let rows = self.rows.range((table, Vec::new())..(table + 1, Vec::new()));
        rows.filter_map(|((_, key), row)| Some((key.clone(), row.shown(merging)?))).collect()
    }
}

/// Whether a transaction changes anything.
pub(crate) fn changes_anything(events: &[Event], tables: &[Merging]) -> bool {
    !writes(events, tables).is_empty()
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
    /// What was added to its counter.
    pub(crate) added: Option<i64>,
}

impl Write {
    /// Whether it set the counter as a whole, or took it away.
    pub(crate) fn sets(&self, counter: Counter) -> bool {
        self.exists.is_some() || self.cells.iter().any(|(place, _)| *place == counter.place)
    }
}

/// What a transaction did to each row.
pub(crate) fn writes(events: &[Event], tables: &[Merging]) -> Vec<Write> {
    let write = |((table, key), net): ((usize, Vec<String>), Net)| {
        let merging = &tables[table];
        let exists = match (&net.before, &net.after) {
            (None, None) => return None,
            (_, None) => Some(false),
            (None, Some(_)) => Some(true),
            // Deleted and inserted again: a new row.
            (Some(_), Some(_)) if net.was_gone => Some(true),
            (Some(_), Some(_)) => None,
        };
        let (mut cells, mut added) = (Vec::new(), None);
        let is_new = |place: usize, value: &Value| {
            net.before.as_ref().is_none_or(|before| before[place] != *value)
        };
        let after = net.after.as_deref().unwrap_or_default();
        let group_is_new = merging
            .group
            .iter()
            .any(|place| after.get(*place).is_some_and(|value| is_new(*place, value)));
        for (place, value) in after.iter().enumerate().skip(merging.key) {
            let is_written = is_new(place, value) || group_is_new && merging.group.contains(&place);
            if exists != Some(true) && !is_written {
                continue;
            }
            match (&net.before, value) {
                (Some(before), Value::Int(value))
                    if exists.is_none()
                        && merging.counts(place)
                        && let Value::Int(before) = before[place] =>
                {
                    added = Some(value - before);
                }
                _ => cells.push((place, value.clone())),
            }
        }
        if exists.is_none() && cells.is_empty() && added.is_none() {
            return None;
        }
        let row = net.after.as_ref().or(net.before.as_ref())?;
        let key_text = key_text(&row[..merging.key]);
        Some(Write { table, key, key_text, exists, cells, added })
    };
    nets(events, tables).into_iter().filter_map(write).collect()
}

/// The rows a transaction touches.
fn nets(events: &[Event], tables: &[Merging]) -> BTreeMap<(usize, Vec<String>), Net> {
    let mut nets: BTreeMap<(usize, Vec<String>), Net> = BTreeMap::new();
    for event in events {
        let key_of = |row: &Arc<[Value]>| (event.table, texts(&row[..tables[event.table].key]));
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
    fn shown(&self, merging: &Merging) -> Option<Vec<String>> {
        let (_, true) = self.existence? else { return None };
        let cell = |(place, (set, value)): (&usize, &(Moment, Value))| {
            let counter = merging.counter.filter(|counter| counter.place == *place);
            match (counter, value) {
                (Some(counter), Value::Int(value)) => {
                    let count = value + self.added.get(set).copied().unwrap_or_default();
                    text(&Value::Int(count.clamp(counter.least, counter.most)))
                }
                (_, value) => text(value),
            }
        };
        Some(self.cells.iter().map(cell).collect())
    }

    fn take(&mut self, at: Moment, write: &Write, birth: Moment) {
        if let Some(live) = write.exists {
            self.existence = self.existence.max(Some((at, live)));
        }
        for (place, value) in &write.cells {
            let cell = self.cells.entry(*place).or_insert((Moment::default(), Value::Null));
            if at >= cell.0 {
                *cell = (at, value.clone());
            }
        }
        if let Some(added) = write.added {
            *self.added.entry(birth).or_default() += added;
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

    /// The first column is the key, the third counts up to ten.
    static TABLE: [Merging; 1] =
        [Merging { counter: Some(Counter { place: 2, least: 0, most: 10 }), ..Merging::PLAIN }];

    fn check(commits: &[(u64, Image, Image)], shows: Option<[i64; 2]>) {
        // All know of the first write, and of no other.
        let births = Births::from([((0, vec![text(&Value::Int(1))]), at(1))]);
        // In any order.
        for turn in 0..commits.len() {
            let mut oracle = Oracle::new(&TABLE);
            for place in 0..commits.len() {
                let (hlc, old, new) = commits[(place + turn) % commits.len()].clone();
                oracle.commit(at(hlc), &[Event { table: 0, old, new }], &births);
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
                (3, row([1, 0, 0]), row([1, 7, 0])),
            ],
            Some([7, 0]),
        );
    }

    #[test]
    fn what_is_added_adds_up() {
        let insert = (1, None, row([1, 0, 4]));
        let [more, less] = [(2, 9), (3, 1)].map(|(at, to)| (at, row([1, 0, 4]), row([1, 0, to])));
        check(&[insert.clone(), more.clone(), less.clone()], Some([0, 6]));
        check(&[insert.clone(), more.clone(), (4, more.1.clone(), row([1, 0, 9]))], Some([0, 10]));
        // What was added to the row before counts no more.
        check(&[insert, more, less, (5, None, row([1, 0, 2]))], Some([0, 2]));
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
