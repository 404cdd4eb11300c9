//! What the tables must show in the end, found out without any code of the product: every change
//! ever committed, the newest for each cell and for the existence of each row.

mod merged;

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::value::Value;

use self::merged::{Edit, normal};
pub(crate) use self::merged::{Merge, Writer};

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
    /// Columns of other kinds that several people write at once, by their places.
    pub(crate) merged: &'static [(usize, Merge)],
    /// Whether each line of the history about it is looked at, and missed.
    pub(crate) is_told: bool,
}

impl Merging {
    /// All cells by the newest write.
    pub(crate) const PLAIN: Self =
        Self { key: 1, counter: None, group: &[], merged: &[], is_told: true };

    fn counts(&self, place: usize) -> bool {
        self.counter.is_some_and(|counter| counter.place == place)
    }

    /// How a column merges that is no counter.
    pub(crate) fn merge(&self, place: usize) -> Option<Merge> {
        self.merged.iter().find(|(merged, _)| *merged == place).map(|(_, merge)| *merge)
    }

    /// The places of columns in which not one write stays.
    pub(crate) fn merged_places(&self) -> impl Iterator<Item = usize> + '_ {
        let counter = self.counter.iter().map(|counter| counter.place);
        counter.chain(self.merged.iter().map(|(place, _)| *place))
    }

    /// Whether in this column not one write stays.
    pub(crate) fn merges(&self, place: usize) -> bool {
        self.merged_places().any(|merged| merged == place)
    }

    /// A row as texts, where the order does not matter in one order: its key and its cells.
    pub(crate) fn texts(&self, row: &[Value]) -> (Vec<String>, Vec<String>) {
        let cells = row.iter().enumerate().skip(self.key);
        let cells = cells.map(|(place, value)| match self.merge(place) {
            Some(merge) => normal(merge, value),
            None => text(value),
        });
        (texts(&row[..self.key]), cells.collect())
    }
}

/// When merged columns were set as a whole for the last time, by what somebody knew who did something
/// to them: table, key, column. Never is the first moment of all.
pub(crate) type Births = BTreeMap<(usize, Vec<String>, usize), Moment>;

/// All that was ever written to one row.
#[derive(Clone, Debug, Default)]
struct Row {
    /// Inserted, deleted or brought back last.
    existence: Option<(Moment, bool)>,
    /// Put aside or returned last.
    aside: Option<(Moment, bool)>,
    cells: BTreeMap<usize, (Moment, Value)>,
    /// To the counter, by when it had been set.
    added: BTreeMap<Moment, i64>,
    /// Of other merged columns, by when they had been set.
    edits: BTreeMap<(usize, Moment), Vec<Edit>>,
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
    pub(crate) fn commit(&mut self, by: &Writer, writes: &[Write], births: &Births) {
        for write in writes {
            let birth = |place: usize| {
                let place = (write.table, write.key.clone(), place);
                births.get(&place).copied().unwrap_or_default()
            };
            let row = self.rows.entry((write.table, write.key.clone())).or_default();
            row.take(by, write, self.tables[write.table].counter, birth);
        }
    }

    /// What a row shows.
    pub(crate) fn row(&self, table: usize, key: &[String]) -> Option<Vec<String>> {
        self.rows.get(&(table, key.to_vec()))?.shown(&self.tables[table])
    }

    /// Whether a row is kept and shown nowhere.
    pub(crate) fn is_aside(&self, table: usize, key: &[String]) -> bool {
        let row = self.rows.get(&(table, key.to_vec()));
        row.is_some_and(|row| row.existence.is_some_and(|(_, live)| live) && row.is_aside())
    }

    /// What a table shows.
    pub(crate) fn table(&self, table: usize) -> Table {
        let merging = &self.tables[table];
        let rows = self.rows.range((table, Vec::new())..(table + 1, Vec::new()));
        rows.filter_map(|((_, key), row)| Some((key.clone(), row.shown(merging)?))).collect()
    }
}

/// What becomes of a row that nobody inserts or deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Its delete is taken back.
    Revived,
    /// It is kept and shown nowhere.
    PutAside,
    /// It is shown again.
    Returned,
    /// Its delete is taken back, and it is shown nowhere.
    RevivedAside,
}

impl Turn {
    /// Whether a delete is taken back.
    pub(crate) fn revives(self) -> bool {
        matches!(self, Self::Revived | Self::RevivedAside)
    }

    /// Whether it is shown nowhere from then on.
    pub(crate) fn puts_aside(self) -> bool {
        matches!(self, Self::PutAside | Self::RevivedAside)
    }
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
    /// Other merged columns before and after, by their places.
    pub(crate) edits: Vec<(usize, Value, Value)>,
    /// What a site did by itself.
    pub(crate) turn: Option<Turn>,
}

impl Write {
    /// Whether it set a merged column as a whole, or took it away.
    pub(crate) fn sets(&self, place: usize) -> bool {
        self.exists.is_some() || self.begins(place)
    }

    /// Whether it set a merged column as a whole.
    pub(crate) fn begins(&self, place: usize) -> bool {
        self.cells.iter().any(|(written, _)| *written == place)
    }

    /// Whether it did something to a merged column.
    pub(crate) fn edits(&self, place: usize, merging: &Merging) -> bool {
        let counts = self.added.is_some() && merging.counts(place);
        counts || self.edits.iter().any(|(edited, ..)| *edited == place)
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
        let (mut cells, mut added, mut edits) = (Vec::new(), None, Vec::new());
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
                (Some(before), value)
                    if exists.is_none()
                        && merging.merge(place).is_some()
                        && before[place] != Value::Null
                        && *value != Value::Null =>
                {
                    edits.push((place, before[place].clone(), value.clone()));
                }
                _ => cells.push((place, value.clone())),
            }
        }
        if exists.is_none() && cells.is_empty() && added.is_none() && edits.is_empty() {
            return None;
        }
        let row = net.after.as_ref().or(net.before.as_ref())?;
        let key_text = key_text(&row[..merging.key]);
        Some(Write { table, key, key_text, exists, cells, added, edits, turn: None })
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
        if self.is_aside() {
            return None;
        }
        let cell = |(place, (set, value)): (&usize, &(Moment, Value))| {
            let counter = merging.counter.filter(|counter| counter.place == *place);
            if let Some(merge) = merging.merge(*place) {
                let edits = self.edits.get(&(*place, *set));
                return merged::shown(merge, value, edits.map_or(&[], Vec::as_slice));
            }
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

    /// Whether it was put aside since somebody said last whether it is there.
    fn is_aside(&self) -> bool {
        let since = self.existence.map(|(at, _)| at).unwrap_or_default();
        self.aside.is_some_and(|(at, is_aside)| is_aside && at >= since)
    }

    fn take(
        &mut self,
        by: &Writer,
        write: &Write,
        counter: Option<Counter>,
        birth: impl Fn(usize) -> Moment,
    ) {
        let at = by.at;
        let revives = write.turn.is_some_and(Turn::revives);
        if let Some(live) = write.exists.or(revives.then_some(true)) {
            self.existence = self.existence.max(Some((at, live)));
        }
        if let Some(turn) = write.turn.filter(|turn| *turn != Turn::Revived) {
            self.aside = self.aside.max(Some((at, turn.puts_aside())));
        }
        for (place, value) in &write.cells {
            let cell = self.cells.entry(*place).or_insert((Moment::default(), Value::Null));
            if at >= cell.0 {
                *cell = (at, value.clone());
            }
        }
        if let (Some(added), Some(counter)) = (write.added, counter) {
            *self.added.entry(birth(counter.place)).or_default() += added;
        }
        for (place, before, after) in &write.edits {
            let edit = Edit { by: by.clone(), before: before.clone(), after: after.clone() };
            self.edits.entry((*place, birth(*place))).or_default().push(edit);
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
    use std::rc::Rc;

    use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId, TxnId};

    use super::*;

    type Image = Option<Arc<[Value]>>;

    fn row(values: [i64; 3]) -> Image {
        Some(values.map(Value::Int).into())
    }

    fn at(hlc: u64) -> Moment {
        Moment { hlc, site: 1, incarnation: 1 }
    }

    fn by(hlc: u64) -> Writer {
        let site = SiteId::new(1).expect("it is not zero");
        let incarnation = Incarnation::new(1).expect("it is not zero");
        let txn = TxnId { origin: Origin { site, incarnation }, seq: Seq(hlc) };
        Writer { at: at(hlc), txn, seen: Rc::default() }
    }

    /// The first column is the key, the third counts up to ten.
    static TABLE: [Merging; 1] =
        [Merging { counter: Some(Counter { place: 2, least: 0, most: 10 }), ..Merging::PLAIN }];

    fn check(commits: &[(u64, Image, Image)], shows: Option<[i64; 2]>) {
        // All know of the first write, and of no other.
        let births = Births::from([((0, vec![text(&Value::Int(1))], 2), at(1))]);
        // In any order.
        for turn in 0..commits.len() {
            let mut oracle = Oracle::new(&TABLE);
            for place in 0..commits.len() {
                let (hlc, old, new) = commits[(place + turn) % commits.len()].clone();
                let writes = writes(&[Event { table: 0, old, new }], &TABLE);
                oracle.commit(&by(hlc), &writes, &births);
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
