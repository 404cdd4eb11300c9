//! Sites that give values away that only one row may have, in any order of delivery: nobody ever shows
//! one twice, remedies come to an end, everybody shows the same, and no row and no write is lost.

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
use landfall_protocol::plan::{Due, Source, Verdict, visible};
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableId, TableName};
use landfall_protocol::unique::{Claim, Loser};
use landfall_protocol::value::{RowKey, Value};
use landfall_protocol::version::VersionVector;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use sites::origin;

const SITES: usize = 3;
const UNIQUE: ColumnId = ColumnId(1);
const CELLS: [ColumnId; 2] = [UNIQUE, ColumnId(2)];

/// The unique value, last word.
type Cells = [Option<i64>; 2];
type Rows = BTreeMap<i64, Cells>;

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    Nothing,
    /// What is put aside is deleted.
    AsideIsGone,
    /// Nobody brings rows back.
    NoReturn,
    /// Who comes first stays, however young.
    FirstStays,
}

struct Site {
    loser: Loser,
    plant: Plant,
    fold: Fold,
    rows: Rows,
    clocks: BTreeMap<RowId, RowClock>,
    now_ms: u64,
}

/// Transactions, and whether an application made them.
type Log = BTreeMap<TxnId, (ForeignTransaction, bool)>;

fn def() -> TableDef {
    let column = |name: &str| ColumnDef { name: name.into(), type_name: "bigint".into() };
    TableDef {
        name: TableName::new("public", "t"),
        set: SetId(1),
        columns: ["id", "only", "said"].map(column).to_vec(),
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    }
}

fn id(key: i64) -> RowId {
    RowId { table: TableId(1), key: RowKey::new(&[Value::Int(key)]) }
}

fn key(row: &RowKey) -> i64 {
    let Value::Int(key) = row.values().unwrap()[0] else { panic!("keys are integers") };
    key
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

fn genesis() -> Rows {
    [(0, [Some(0), Some(7)]), (1, [Some(1), Some(7)])].into()
}

/// Who else has the unique value.
fn holder(rows: &Rows, row: i64, cells: Cells) -> Option<i64> {
    let only = cells[0]?;
    let mut others = rows.iter().filter(|(other, _)| **other != row);
    others.find(|(_, cells)| cells[0] == Some(only)).map(|(other, _)| *other)
}

fn twins(rows: &Rows) -> usize {
    rows.iter().filter(|(row, cells)| holder(rows, **row, **cells).is_some()).count()
}

impl Site {
    fn new(site: usize, loser: Loser, plant: Plant) -> Self {
        let mut fold = Fold::new(origin(site));
        fold.dictionary.learn(&def());
        Self { loser, plant, fold, rows: genesis(), clocks: BTreeMap::new(), now_ms: 5_000 }
    }

    /// Makes the rows what they are to be, and commits that. Some are `written` as they are.
    fn write(
        &mut self,
        new: Rows,
        written: &BTreeSet<i64>,
        marker: Option<Marker>,
        log: &mut Log,
    ) -> usize {
        let relation = Arc::new(def());
        let keys: BTreeSet<i64> = self.rows.keys().chain(new.keys()).copied().collect();
        let rows = keys.into_iter().filter_map(|row| {
            let values = |cells: &Cells| {
                RowValues::whole(std::iter::once(Value::Int(row)).chain(cells.map(value)))
            };
            let (old, new) = (self.rows.get(&row), new.get(&row));
            let is_written = old != new || written.contains(&row) && new.is_some();
            let (old, new) = (old.map(values), new.map(values));
            is_written.then(|| RowEvent { relation: Arc::clone(&relation), old, new })
        });
        let rows = rows.collect();
        self.rows = new;
        self.commit(rows, marker, log)
    }

    fn commit(&mut self, rows: Vec<RowEvent>, marker: Option<Marker>, log: &mut Log) -> usize {
        let foreign = sites::named(marker.as_ref(), |txn| &log[&txn].0);
        let by_user = marker.is_none();
        let captured = sites::captured(self.now_ms, rows, marker);
        let localized = self.fold.localize(vec![captured], &foreign).unwrap();
        let touched = localized.touched().into_iter();
        let clocks = touched.filter_map(|row| Some((row.clone(), self.clocks.get(&row)?.clone())));
        let output = self.fold.fold(localized, clocks.collect(), BTreeSet::new());
        self.clocks.extend(output.clocks);
        for own in output.own {
            let txn = TxnId { origin: self.fold.origin, seq: own.transaction.seq };
            let (transaction, vector) = (Arc::new(own.transaction), own.vector);
            log.insert(txn, (ForeignTransaction { transaction, vector }, by_user));
        }
        // A row older than the log that was deleted and made again elsewhere, and stands here as it was,
        // is looked at once more without need.
        output.dirty.iter().filter(|row| !self.is_right(row, log)).count()
    }

    fn is_right(&self, row: &RowId, log: &Log) -> bool {
        let shown = self.rows.get(&key(&row.key));
        let due = visible(&def(), &self.clocks[row], shown.is_some());
        let cells = due.iter().flatten().all(|(column, due)| match due {
            Due::Logged(txn) => {
                shown.is_some_and(|s| value(s[place(*column)]) == logged(log, *txn, row, *column))
            }
            _ => false,
        });
        due.is_some() == shown.is_some() && cells
    }

    /// What an application does, as far as the database lets it.
    fn local(&mut self, edit: &Edit, log: &mut Log) {
        let mut new = self.rows.clone();
        let cells = match (edit.kind, new.get(&edit.key).copied()) {
            (Kind::Delete, _) => None,
            (Kind::Say, Some([only, _])) => Some([only, Some(edit.said)]),
            (_, Some([_, said])) => Some([edit.only, said]),
            (_, None) => Some([edit.only, Some(edit.said)]),
        };
        match cells {
            Some(cells) if holder(&new, edit.key, cells).is_some() => return,
            Some(cells) => drop(new.insert(edit.key, cells)),
            None => drop(new.remove(&edit.key)),
        }
        let dirty = self.write(new, &BTreeSet::new(), None, log);
        assert_eq!(dirty, 0, "own changes are right by definition");
    }

    fn apply(&mut self, from: Origin, most: usize, log: &mut Log) -> bool {
        let group =
            sites::ready(&self.fold, from, most, |txn| log.get(&txn).map(|(found, _)| found));
        if group.is_empty() {
            return false;
        }
        let group = sites::group(&self.fold, from, &group);
        let mut clocks = self.clocks.clone();
        let (mut new, mut seekers) = (self.rows.clone(), Vec::new());
        for (row, work) in &group.rows {
            let def = self.fold.dictionary.table(row.table).unwrap();
            let clock = self.clocks.get(row).cloned().unwrap_or_default();
            let here = self.rows.get(&key(&row.key)).copied();
            let decision = work.decide(def, clock, (here.is_some(), None), false);
            clocks.insert(row.clone(), decision.clock);
            let cells = match decision.verdict {
                Verdict::Retry => panic!("nothing is in flight"),
                Verdict::Keep => continue,
                Verdict::Delete => {
                    new.remove(&key(&row.key));
                    continue;
                }
                Verdict::Insert(cells) | Verdict::Update(cells) | Verdict::Replace(cells) => cells,
            };
            let mut wanted = here.unwrap_or_default();
            for (column, source) in cells {
                wanted[place(column)] = cell(&match source {
                    Source::Value(value) => value.into_owned(),
                    Source::Logged(txn) | Source::Merged(txn, _) => logged(log, txn, row, column),
                });
            }
            new.remove(&key(&row.key));
            seekers.push((key(&row.key), wanted));
        }
        let written = seekers.iter().map(|(row, _)| *row).collect();
        let remedies = self.settle(seekers, &mut new, &clocks);
        let is_named = |row: &i64| group.rows.contains_key(&id(*row));
        let told = |(row, remedy): &(i64, Remedy)| *remedy == Remedy::Quarantine || is_named(row);
        let emitted = remedies.into_iter().filter(told);
        let emitted = emitted.map(|(row, remedy)| Emission { row: id(row), remedy }).collect();
        let (first, last, parked) = (group.first, group.last, Vec::new());
        let marker = Marker::Apply { origin: from, first, last, parked, emitted };
        let dirty = self.write(new, &written, Some(marker), log);
        assert_eq!(dirty, 0, "rows show what their clocks say");
        true
    }

    /// As the engine does it, but that the database is at hand.
    fn settle(
        &self,
        mut seekers: Vec<(i64, Cells)>,
        rows: &mut Rows,
        clocks: &BTreeMap<RowId, RowClock>,
    ) -> BTreeMap<i64, Remedy> {
        let nothing = RowClock::default();
        let claim =
            |row: i64| Claim::of(&id(row), clocks.get(&id(row)).unwrap_or(&nothing), &[UNIQUE]);
        seekers.sort_by_key(|(row, _)| claim(*row));
        let mut remedies = BTreeMap::new();
        for (row, mut cells) in seekers {
            while let Some(other) = holder(rows, row, cells) {
                let gives_way = self.plant == Plant::FirstStays || claim(other) < claim(row);
                let loser = if gives_way { row } else { other };
                match self.loser {
                    Loser::Null if gives_way => cells[0] = None,
                    Loser::Null => rows.get_mut(&other).unwrap()[0] = None,
                    _ => drop(
                        rows.remove(&other)
                            .filter(|_| gives_way)
                            .map(|had| rows.insert(other, had)),
                    ),
                }
                let remedy = match self.loser {
                    Loser::Null => Remedy::Update(vec![UNIQUE]),
                    _ if self.plant == Plant::AsideIsGone => Remedy::Delete,
                    _ => Remedy::Quarantine,
                };
                remedies.insert(loser, remedy);
                if gives_way && self.loser != Loser::Null {
                    break;
                }
            }
            if remedies.get(&row) != Some(&Remedy::Quarantine) && holder(rows, row, cells).is_none()
            {
                rows.insert(row, cells);
            }
        }
        remedies
    }

    fn cells_of(&self, row: &RowId, clock: &RowClock, log: &Log) -> Cells {
        let mut cells = Cells::default();
        for (column, due) in visible(&def(), clock, false).unwrap() {
            let Due::Logged(txn) = due else { panic!("there are no counters") };
            cells[place(column)] = cell(&logged(log, txn, row, column));
        }
        cells
    }

    /// Brings a row back whose value is free.
    fn bring_back(&mut self, log: &mut Log) -> bool {
        if self.plant == Plant::NoReturn {
            return false;
        }
        let aside = self.clocks.iter().filter(|(_, clock)| clock.is_aside());
        let aside: Vec<RowId> = aside.map(|(row, _)| row.clone()).collect();
        for row in aside {
            let cells = self.cells_of(&row, &self.clocks[&row].clone().returned(), log);
            if holder(&self.rows, key(&row.key), cells).is_none() {
                let mut new = self.rows.clone();
                new.insert(key(&row.key), cells);
                let emitted = vec![Emission { row, remedy: Remedy::Return }];
                let dirty =
                    self.write(new, &BTreeSet::new(), Some(Marker::Remedy { emitted }), log);
                assert_eq!(dirty, 0, "a row that is back shows what its clock says");
                return true;
            }
        }
        false
    }
}

fn logged(log: &Log, txn: TxnId, row: &RowId, column: ColumnId) -> Value {
    let changes = &log[&txn].0.transaction.changes;
    let change = changes.iter().find(|change| change.key == row.key).unwrap();
    change.cells.iter().find(|cell| cell.column == column).unwrap().value.clone()
}

/// What a row has by all that was ever written of it, whether it is shown or aside; `None` if it is
/// deleted.
fn due(log: &Log, row: i64) -> Option<Cells> {
    let mut newest: [(Option<Stamp>, Option<i64>); 2] =
        genesis().get(&row).copied().unwrap_or_default().map(|cell| (None, cell));
    let mut exists: (Option<Stamp>, bool) = (None, genesis().contains_key(&row));
    for (txn, (foreign, by_user)) in log {
        let stamp = Some(foreign.transaction.stamp(txn.origin));
        let changes = foreign.transaction.changes.iter().filter(|change| key(&change.key) == row);
        for change in changes {
            let lives = matches!(change.op, RowOp::Insert | RowOp::Revive);
            let decides = *by_user && (lives || change.op == RowOp::Delete);
            if decides && exists.0 < stamp {
                exists = (stamp, lives);
            }
            let cells = change.cells.iter();
            for found in cells.filter(|_| matches!(change.op, RowOp::Insert | RowOp::Update)) {
                let known = &mut newest[place(found.column)];
                if known.0 < stamp {
                    *known = (stamp, cell(&found.value));
                }
            }
        }
    }
    exists.1.then(|| newest.map(|(_, cell)| cell))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Delete,
    Say,
    Take,
}

#[derive(Clone, Debug)]
struct Edit {
    kind: Kind,
    key: i64,
    only: Option<i64>,
    said: i64,
}

#[derive(Clone, Debug)]
enum Step {
    Local { site: usize, edit: Edit },
    Apply { site: usize, from: usize, most: usize },
    BringBack { site: usize },
    Clock { site: usize, ms: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![2 => Just(Kind::Delete), 1 => Just(Kind::Say), 5 => Just(Kind::Take)];
    let only = proptest::option::weighted(0.9, 0i64..3);
    let edit = (kind, 0i64..5, only, 1i64..1000).prop_map(|(kind, key, only, said)| Edit {
        kind,
        key,
        only,
        said,
    });
    let local = (0..SITES, edit).prop_map(|(site, edit)| Step::Local { site, edit });
    let apply = (0..SITES, 0..SITES, 1usize..4).prop_map(|(site, from, most)| Step::Apply {
        site,
        from,
        most,
    });
    let back = (0..SITES).prop_map(|site| Step::BringBack { site });
    let clock = (0..SITES, 0u64..10_000).prop_map(|(site, ms)| Step::Clock { site, ms });
    proptest::collection::vec(prop_oneof![6 => local, 4 => apply, 2 => back, 1 => clock], 1..60)
}

fn losers() -> impl Strategy<Value = Loser> {
    prop_oneof![3 => Just(Loser::Quarantine), 1 => Just(Loser::Null)]
}

fn run(loser: Loser, steps: Vec<Step>, plant: Plant) -> Result<(), TestCaseError> {
    let mut log = Log::new();
    let mut world: Vec<Site> = (0..SITES).map(|site| Site::new(site, loser, plant)).collect();
    let mut edits = 0;
    for step in steps {
        match step {
            Step::Local { site, edit } => {
                edits += 1;
                world[site].local(&edit, &mut log);
            }
            Step::Apply { site, from, most } if site != from => {
                world[site].apply(origin(from), most, &mut log);
                prop_assert_eq!(twins(&world[site].rows), 0);
            }
            Step::Apply { .. } => {}
            Step::BringBack { site } => drop(world[site].bring_back(&mut log)),
            Step::Clock { site, ms } => world[site].now_ms = ms,
        }
    }
    let mut rounds = 0;
    while (0..SITES * SITES).any(|pair| {
        let (site, from) = (pair / SITES, pair % SITES);
        site != from && world[site].apply(origin(from), 3, &mut log)
    }) || (0..SITES).any(|site| world[site].bring_back(&mut log))
    {
        rounds += 1;
        prop_assert!(world.iter().all(|site| twins(&site.rows) == 0));
        prop_assert!(rounds < 2_000 + edits * 50, "remedies come to an end");
    }
    let everything: VersionVector = log.keys().map(|txn| (txn.origin, txn.seq)).collect();
    for site in &world {
        let mut known = site.fold.applied.clone();
        known.advance(site.fold.origin, site.fold.last_seq);
        prop_assert_eq!(known, everything.clone());
        prop_assert_eq!(&site.rows, &world[0].rows);
        for row in 0..5 {
            match (due(&log, row), site.rows.get(&row)) {
                (due, Some(shown)) => prop_assert_eq!(due.as_ref(), Some(shown)),
                (None, None) => {}
                (Some(due), None) => {
                    let is_aside = site.clocks.get(&id(row)).is_some_and(RowClock::is_aside);
                    prop_assert!(is_aside, "row {} is lost", row);
                    prop_assert!(holder(&site.rows, row, due).is_some(), "{}'s value is free", row);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn nobody_ever_shows_a_value_twice_and_no_row_is_lost(loser in losers(), steps in steps()) {
        run(loser, steps, Plant::Nothing)?;
    }
}

/// The oldest claim decides between those who meet for the first time.
#[test]
fn the_older_row_stays_wherever_both_meet() {
    let take = |site, key, ms| {
        let edit = Edit { kind: Kind::Take, key, only: Some(2), said: key };
        [Step::Clock { site, ms }, Step::Local { site, edit }]
    };
    let kept = |plant| {
        let mut log = Log::new();
        let mut world: Vec<Site> =
            (0..SITES).map(|site| Site::new(site, Loser::Quarantine, plant)).collect();
        for step in take(0, 3, 9_000).into_iter().chain(take(1, 4, 6_000)) {
            match step {
                Step::Clock { site, ms } => world[site].now_ms = ms,
                Step::Local { site, edit } => world[site].local(&edit, &mut log),
                _ => {}
            }
        }
        [(0, 1), (1, 0)].map(|(site, from)| {
            world[site].apply(origin(from), 1, &mut log);
            world[site].rows.keys().copied().max().unwrap()
        })
    };
    assert_eq!(kept(Plant::Nothing), [4, 4]);
    assert_eq!(kept(Plant::FirstStays), [3, 4]);
}

#[test]
fn what_is_wrong_on_purpose_is_found() {
    for plant in [Plant::AsideIsGone, Plant::NoReturn] {
        let config = Config { cases: 5_000, failure_persistence: None, ..Config::default() };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let outcome = runner.run(&(losers(), steps()), |(loser, steps)| run(loser, steps, plant));
        assert!(outcome.is_err(), "{plant:?} makes no difference");
    }
}
