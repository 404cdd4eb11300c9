//! Sites that delete, insert and update rows which reference each other, in any order of delivery:
//! nobody ever shows a row without its parent, remedies come to an end, everybody shows the same, and no
//! write is lost but to a later one.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "shared/sites.rs"]
mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_protocol::change::RowOp;
use landfall_protocol::clock::Stamp;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{
    Emission, Fold, ForeignTransaction, Marker, Remedy, Row as RowValues, RowEvent,
};
use landfall_protocol::id::{Origin, TxnId};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::merged;
use landfall_protocol::plan::{
    Due, Group, ShownCells, Source, Verdict, merged_value, shown_value, visible,
};
use landfall_protocol::references::{Action, Doomed, Reference};
use landfall_protocol::schema::rules::{ColumnRule, DeleteRule, TableRules};
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableId, TableName};
use landfall_protocol::value::{RowKey, Value};
use landfall_protocol::version::VersionVector;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use sites::origin;

const SITES: usize = 3;
const TABLES: usize = 3;
const UP: ColumnId = ColumnId(1);
const SAID: ColumnId = ColumnId(2);
const COUNT: ColumnId = ColumnId(3);
const CELLS: [ColumnId; 3] = [UP, SAID, COUNT];

/// Parent, last word, counter.
type Cells = [Option<i64>; 3];
/// Table and key.
type At = (usize, i64);

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    Nothing,
    /// Nobody writes remedies.
    NoRemedies,
    /// What brings a row back counts as writing all of it.
    RevivalWrites,
    /// A tombstone forgets what the row had.
    TombstoneForgets,
}

/// Per table which table its rows reference, what becomes of them when that row goes, and how
/// deletes merge.
type Schema = [(usize, Action, DeleteRule); TABLES];

struct Site {
    schema: Schema,
    plant: Plant,
    fold: Fold,
    rows: BTreeMap<At, Cells>,
    clocks: BTreeMap<RowId, RowClock>,
    now_ms: u64,
}

#[derive(Default)]
struct Log {
    transactions: BTreeMap<TxnId, ForeignTransaction>,
    /// Those that an application made.
    by_users: BTreeSet<TxnId>,
    /// The row, the counter's birth, the difference.
    added: Vec<(At, Option<Stamp>, i64)>,
}

fn def(table: usize, schema: &Schema) -> TableDef {
    let column = |name: &str| ColumnDef { name: name.into(), type_name: "bigint".into() };
    TableDef {
        name: TableName::new("public", ["a", "b", "c"][table]),
        set: SetId(1),
        columns: ["id", "up", "said", "count"].map(column).to_vec(),
        key: vec![ColumnId(0)],
        rules: TableRules {
            columns: [(COUNT, ColumnRule::Merged(merged::Kind::Counter))].into(),
            is_parent: schema.iter().any(|(parent, ..)| *parent == table),
            deletes: schema[table].2,
            ..TableRules::default()
        },
    }
}

fn id((table, key): At) -> RowId {
    RowId { table: TableId(table as u32 + 1), key: RowKey::new(&[Value::Int(key)]) }
}

fn at(row: &RowId) -> At {
    let Value::Int(key) = row.key.values().unwrap()[0] else { panic!("keys are integers") };
    (row.table.0 as usize - 1, key)
}

fn value(cell: Option<i64>) -> Value {
    cell.map_or(Value::Null, Value::Int)
}

fn cell(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

fn place(column: ColumnId) -> usize {
    CELLS.iter().position(|other| *other == column).unwrap()
}

impl Site {
    fn new(site: usize, schema: Schema, plant: Plant, genesis: &BTreeMap<At, Cells>) -> Self {
        let mut fold = Fold::new(origin(site));
        (0..TABLES).for_each(|table| drop(fold.dictionary.learn(&def(table, &schema))));
        let (rows, clocks) = (genesis.clone(), BTreeMap::new());
        Self { schema, plant, fold, rows, clocks, now_ms: 5_000 }
    }

    fn write(&mut self, row: At, new: Option<Cells>) -> Option<RowEvent> {
        let old = match new {
            Some(cells) => self.rows.insert(row, cells),
            None => Some(self.rows.remove(&row)?),
        };
        let values = |cells: Cells| {
            RowValues::whole(std::iter::once(Value::Int(row.1)).chain(cells.map(value)))
        };
        let relation = Arc::new(def(row.0, &self.schema));
        Some(RowEvent { relation, old: old.map(values), new: new.map(values) })
    }

    fn parent(&self, row: At) -> Option<At> {
        Some((self.schema[row.0].0, self.rows.get(&row)?[0]?))
    }

    fn orphans(&self) -> Vec<At> {
        let lost = |row: &At| self.parent(*row).is_some_and(|up| !self.rows.contains_key(&up));
        self.rows.keys().copied().filter(lost).collect()
    }

    fn reference(&self, child: At, parent: At) -> Reference {
        let (child, key, parent) = (id(child), child.0, id(parent));
        Reference { action: self.schema[key].1, child, key, parent }
    }

    /// Finds all that references what is to go.
    fn find_children(&self, doomed: &mut Doomed) {
        loop {
            let rows = self.rows.keys().filter_map(|row| Some((*row, self.parent(*row)?)));
            let mut found = rows.filter(|(_, parent)| doomed.contains(&id(*parent)));
            let found: Vec<(At, At)> = found.by_ref().collect();
            let news = found.into_iter().map(|(child, up)| doomed.refer(self.reference(child, up)));
            if !news.fold(false, |any, news| any | news) {
                return;
            }
        }
    }

    fn commit(&mut self, rows: Vec<RowEvent>, marker: Option<Marker>, log: &mut Log) -> usize {
        let foreign = sites::named(marker.as_ref(), |txn| &log.transactions[&txn]);
        let by_user = marker.is_none();
        let captured = sites::captured(self.now_ms, rows, marker);
        let localized = self.fold.localize(vec![captured], &foreign).unwrap();
        let touched = localized.touched().into_iter();
        let clocks = touched.filter_map(|row| Some((row.clone(), self.clocks.get(&row)?.clone())));
        let output = self.fold.fold(localized, clocks.collect(), BTreeSet::new());
        for (row, mut clock) in output.clocks {
            let deleted = clock.existence().filter(|existence| !existence.live);
            if let (Plant::TombstoneForgets, Some(deleted)) = (self.plant, deleted) {
                clock = RowClock::default();
                clock.join(RowOp::Delete, deleted.stamp, &[]);
            }
            self.clocks.insert(row, clock);
        }
        for own in output.own {
            let txn = TxnId { origin: self.fold.origin, seq: own.transaction.seq };
            log.by_users.extend(by_user.then_some(txn));
            let (transaction, vector) = (Arc::new(own.transaction), own.vector);
            log.transactions.insert(txn, ForeignTransaction { transaction, vector });
        }
        output.dirty.len()
    }

    /// What an application does, as far as the database lets it.
    fn local(&mut self, edit: &Edit, log: &mut Log) {
        let Edit { table, key, .. } = *edit;
        let row = (table, key);
        let up = edit.up.map(|up| (self.schema[table].0, up));
        if up.is_some_and(|up| !self.rows.contains_key(&up) && up != row) {
            return;
        }
        let mut events = Vec::new();
        match (edit.kind, self.rows.get(&row).copied()) {
            (Kind::Delete, None) => {}
            (Kind::Delete, Some(_)) => {
                let mut doomed = Doomed::default();
                doomed.delete(id(row));
                self.find_children(&mut doomed);
                let settled = doomed.settle();
                if settled.revived().next().is_some() {
                    return;
                }
                for found in settled.rewritten() {
                    let child = at(&found.child);
                    let mut cells = self.rows[&child];
                    cells[0] = None;
                    events.extend(self.write(child, Some(cells)));
                }
                for (gone, _) in settled.going() {
                    events.extend(self.write(at(gone), None));
                }
            }
            (_, None) => {
                let cells = [edit.up, Some(edit.value), Some(0)];
                events.extend(self.write(row, Some(cells)));
            }
            (kind, Some(mut cells)) => {
                match kind {
                    Kind::Move => cells[0] = edit.up,
                    Kind::Say => cells[1] = Some(edit.value),
                    _ => {
                        cells[2] = cells[2].map(|count| count + edit.value);
                        let birth = self.clocks.get(&id(row)).and_then(|c| c.cell(COUNT));
                        log.added.push((row, birth, edit.value));
                    }
                }
                events.extend(self.write(row, Some(cells)));
            }
        }
        assert_eq!(self.orphans(), [], "a database keeps its own");
        let dirty = self.commit(events, None, log);
        assert_eq!(dirty, 0, "own changes are right by definition");
    }

    fn apply(&mut self, from: Origin, most: usize, log: &mut Log) -> bool {
        let group = sites::ready(&self.fold, from, most, |txn| log.transactions.get(&txn));
        if group.is_empty() {
            return false;
        }
        let group = sites::group(&self.fold, from, &group);
        let mut pass = Pass::default();
        let mut events = Vec::new();
        for (row, work) in &group.rows {
            let def = self.fold.dictionary.table(row.table).unwrap();
            let clock = self.clocks.get(row).cloned().unwrap_or_default();
            let here = self.rows.get(&at(row)).copied();
            let text =
                |column: ColumnId| value(here.unwrap()[place(column)]).text().map(Into::into);
            let shown = here.map(|_| CELLS.map(|column| (column, text(column))).into());
            let shown: Option<&ShownCells> = shown.as_ref().filter(|_| work.merges());
            let decision = work.decide(def, clock, (here.is_some(), shown), false);
            if decision.revives {
                pass.doomed.bring_back(row.clone());
                pass.revives.insert(row.clone());
            }
            pass.clocks.insert(row.clone(), decision.clock);
            let mut verdict = decision.verdict;
            if verdict == Verdict::Delete {
                pass.doomed.delete(row.clone());
                verdict = decision.kept;
            }
            let cells = match verdict {
                Verdict::Retry => panic!("nothing is in flight"),
                Verdict::Keep | Verdict::Delete => continue,
                Verdict::Insert(cells) | Verdict::Update(cells) | Verdict::Replace(cells) => cells,
            };
            let mut new = here.unwrap_or_default();
            for (column, source) in cells {
                new[place(column)] = cell(&match source {
                    Source::Value(value) => value.into_owned(),
                    Source::Logged(txn) => logged(log, txn, row, column).unwrap(),
                    Source::Merged(txn, rest) => {
                        let base = logged(log, txn, row, column).unwrap();
                        merged_value(def, column, base, &rest.state)
                    }
                });
            }
            events.extend(self.write(at(row), Some(new)));
        }
        let emitted = match self.plant {
            Plant::NoRemedies => {
                let deletes: Vec<At> = pass.doomed.rows().map(at).collect();
                events.extend(deletes.into_iter().filter_map(|row| self.write(row, None)));
                Vec::new()
            }
            _ => self.keep_references(pass, &group, &mut events, log),
        };
        let (first, last, parked) = (group.first, group.last, Vec::new());
        let marker = Marker::Apply { origin: from, first, last, parked, emitted };
        let dirty = self.commit(events, Some(marker), log);
        assert!(dirty == 0 || self.plant != Plant::Nothing, "rows show what their clocks say");
        true
    }

    /// As the engine does it, but that the database is at hand.
    fn keep_references(
        &mut self,
        mut pass: Pass,
        group: &Group,
        events: &mut Vec<RowEvent>,
        log: &Log,
    ) -> Vec<Emission> {
        let mut back = BTreeSet::new();
        loop {
            for child in self.orphans() {
                let parent = self.parent(child).unwrap();
                pass.doomed.delete(id(parent));
                pass.doomed.refer(self.reference(child, parent));
            }
            self.find_children(&mut pass.doomed);
            let settled = pass.doomed.settle();
            let gone = settled.revived().filter(|row| !self.rows.contains_key(&at(row)));
            let gone: Vec<RowId> = gone.cloned().collect();
            if gone.is_empty() {
                break;
            }
            for row in gone {
                let clock = pass.clocks.get(&row).or(self.clocks.get(&row)).unwrap();
                let cells = self.cells_of(&row, &clock.clone().revived(), log);
                events.extend(self.write(at(&row), Some(cells)));
                back.insert(row);
            }
        }
        let settled = pass.doomed.settle();
        let mut remedies: BTreeMap<RowId, Remedy> = BTreeMap::new();
        for found in settled.rewritten() {
            let mut cells = self.rows[&at(&found.child)];
            cells[0] = None;
            events.extend(self.write(at(&found.child), Some(cells)));
            remedies.insert(found.child.clone(), Remedy::Update(vec![UP]));
        }
        for (row, deleted) in settled.going() {
            events.extend(self.write(at(row), None));
            if !deleted {
                remedies.insert(row.clone(), Remedy::Delete);
            }
        }
        let revives = pass.revives.iter().filter(|row| !settled.goes(row));
        for row in settled.revived().chain(revives) {
            if !back.contains(row) {
                let cells = self.rows[&at(row)];
                events.extend(self.write(at(row), Some(cells)));
            }
            remedies.insert(row.clone(), Remedy::Revive);
        }
        let told = |(row, remedy): &(RowId, Remedy)| match remedy {
            Remedy::Revive => self.plant != Plant::RevivalWrites || group.rows.contains_key(row),
            _ => group.rows.contains_key(row),
        };
        let told = remedies.into_iter().filter(told);
        told.map(|(row, remedy)| Emission { row, remedy }).collect()
    }

    fn cells_of(&self, row: &RowId, clock: &RowClock, log: &Log) -> Cells {
        let def = self.fold.dictionary.table(row.table).unwrap();
        let mut cells = Cells::default();
        for (column, due) in visible(def, clock, false).unwrap() {
            let logged = |txn| logged(log, txn, row, column).unwrap_or(Value::Null);
            cells[place(column)] = cell(&match due {
                Due::Logged(txn) => logged(txn),
                Due::Merged(txn, state) => merged_value(def, column, logged(txn), &state),
                Due::Value(value) => shown_value(def, column, value),
            });
        }
        cells
    }
}

/// What is found out about a group's references.
#[derive(Default)]
struct Pass {
    doomed: Doomed,
    revives: BTreeSet<RowId>,
    clocks: BTreeMap<RowId, RowClock>,
}

fn logged(log: &Log, txn: TxnId, row: &RowId, column: ColumnId) -> Option<Value> {
    let changes = &log.transactions[&txn].transaction.changes;
    let change =
        changes.iter().find(|change| change.table == row.table && change.key == row.key)?;
    let cell = change.cells.iter().find(|cell| cell.column == column)?;
    Some(cell.value.clone())
}

/// Whether a row shows the newest word of each column, and all that was added.
fn shows_all(log: &Log, genesis: &BTreeMap<At, Cells>, row: At, shown: Cells) -> bool {
    let mut newest: [(Option<Stamp>, Option<i64>); 3] =
        genesis.get(&row).copied().unwrap_or_default().map(|cell| (None, cell));
    for (txn, foreign) in &log.transactions {
        let stamp = Some(foreign.transaction.stamp(txn.origin));
        let changes = foreign.transaction.changes.iter();
        // What a site does by itself may let go of a parent, and writes nothing else.
        let by_user = log.by_users.contains(txn);
        let writes = |op| op == RowOp::Update || by_user && op == RowOp::Insert;
        for change in changes.filter(|change| writes(change.op) && at_change(change) == row) {
            for found in &change.cells {
                let known = &mut newest[place(found.column)];
                if !matches!(found.value, Value::Share(_)) && known.0 < stamp {
                    *known = (stamp, cell(&found.value));
                }
            }
        }
    }
    let birth = newest[2].0;
    let added = log.added.iter().filter(|(other, of, _)| *other == row && *of == birth);
    let added: i64 = added.map(|(.., by)| by).sum();
    let due = [newest[0].1, newest[1].1, newest[2].1.map(|base| base + added)];
    due == shown
}

fn at_change(change: &landfall_protocol::change::RowChange) -> At {
    at(&RowId { table: change.table, key: change.key.clone() })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Delete,
    Say,
    Move,
    Count,
}

#[derive(Clone, Debug)]
struct Edit {
    kind: Kind,
    table: usize,
    key: i64,
    up: Option<i64>,
    value: i64,
}

#[derive(Clone, Debug)]
enum Step {
    Local { site: usize, edit: Edit },
    Apply { site: usize, from: usize, most: usize },
    Clock { site: usize, ms: u64 },
}

fn schema() -> impl Strategy<Value = Schema> {
    let action = prop_oneof![Just(Action::Keep), Just(Action::Cascade), Just(Action::Rewrite)];
    let deletes = prop_oneof![3 => Just(DeleteRule::DeleteWins), 1 => Just(DeleteRule::UpdateWins)];
    let table = (0..TABLES, action, deletes);
    [table.clone(), table.clone(), table]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        3 => Just(Kind::Delete),
        2 => Just(Kind::Say),
        3 => Just(Kind::Move),
        1 => Just(Kind::Count)
    ];
    let up = proptest::option::weighted(0.8, 0i64..3);
    let edit = (kind, 0..TABLES, 0i64..3, up, 1i64..1000)
        .prop_map(|(kind, table, key, up, value)| Edit { kind, table, key, up, value });
    let local = (0..SITES, edit).prop_map(|(site, edit)| Step::Local { site, edit });
    let apply = (0..SITES, 0..SITES, 1usize..4).prop_map(|(site, from, most)| Step::Apply {
        site,
        from,
        most,
    });
    let clock = (0..SITES, 0u64..10_000).prop_map(|(site, ms)| Step::Clock { site, ms });
    proptest::collection::vec(prop_oneof![6 => local, 4 => apply, 1 => clock], 1..60)
}

/// Rows that were there before there was a log.
fn genesis(schema: &Schema) -> BTreeMap<At, Cells> {
    let rows = (0..TABLES).flat_map(|table| (0..2).map(move |key| (table, key)));
    let up = |(table, key): At| Some(key).filter(|_| schema[table].0 != table);
    rows.map(|row| (row, [up(row), Some(7), Some(10)])).collect()
}

fn run(schema: Schema, steps: Vec<Step>, plant: Plant) -> Result<(), TestCaseError> {
    let genesis = genesis(&schema);
    let mut log = Log::default();
    let mut world: Vec<Site> =
        (0..SITES).map(|site| Site::new(site, schema, plant, &genesis)).collect();
    let mut edits = 0;
    for step in steps {
        match step {
            Step::Local { site, edit } => {
                edits += 1;
                world[site].local(&edit, &mut log);
            }
            Step::Apply { site, from, most } if site != from => {
                world[site].apply(origin(from), most, &mut log);
                prop_assert_eq!(world[site].orphans(), []);
            }
            Step::Apply { .. } => {}
            Step::Clock { site, ms } => world[site].now_ms = ms,
        }
    }
    let mut rounds = 0;
    while (0..SITES * SITES).any(|pair| {
        let (site, from) = (pair / SITES, pair % SITES);
        site != from && world[site].apply(origin(from), 3, &mut log)
    }) {
        rounds += 1;
        prop_assert!(world.iter().all(|site| site.orphans().is_empty()));
        prop_assert!(rounds < 2_000 + edits * 50, "remedies come to an end");
    }
    let everything: VersionVector =
        log.transactions.keys().map(|txn| (txn.origin, txn.seq)).collect();
    for site in &world {
        let mut known = site.fold.applied.clone();
        known.advance(site.fold.origin, site.fold.last_seq);
        prop_assert_eq!(known, everything.clone());
        prop_assert_eq!(&site.rows, &world[0].rows);
        for (row, shown) in &site.rows {
            let shows = shows_all(&log, &genesis, *row, *shown);
            prop_assert!(shows, "{:?} shows {:?}", row, shown);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_row_is_ever_without_its_parent(schema in schema(), steps in steps()) {
        run(schema, steps, Plant::Nothing)?;
    }
}

#[test]
fn what_is_wrong_on_purpose_is_found() {
    for plant in [Plant::NoRemedies, Plant::RevivalWrites, Plant::TombstoneForgets] {
        let config = Config { cases: 5_000, failure_persistence: None, ..Config::default() };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let outcome = runner.run(&(schema(), steps()), |(schema, steps)| run(schema, steps, plant));
        assert!(outcome.is_err(), "{plant:?} makes no difference");
    }
}
