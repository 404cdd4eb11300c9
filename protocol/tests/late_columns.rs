//! A site that learns of a column late joins what was parked for it late. Its row clocks are then
//! those of a site that had the column from the start, and both show the same values.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::change::{Cell, Describe, RowChange, RowOp, Transaction};
use landfall_protocol::clock::{Hlc, Stamp};
use landfall_protocol::decimal::Decimal;
use landfall_protocol::dictionary::{Dictionary, LocalChange};
use landfall_protocol::fold::ForeignTransaction;
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::merged::{Kind, Part, Share};
use landfall_protocol::plan::{Group, Source, Verdict};
use landfall_protocol::schema::rules::{ColumnRule, TableRules};
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableId, TableName};
use landfall_protocol::value::{RowKey, Value};
use landfall_protocol::version::VersionVector;
use proptest::prelude::*;

const OLD: [&str; 3] = ["id", "a", "b"];
const NEW: [&str; 4] = ["id", "a", "b", "late"];

fn table(columns: &[&str]) -> TableDef {
    let column = |name: &&str| ColumnDef { name: (*name).into(), type_name: "bigint".into() };
    TableDef {
        name: TableName::new("public", "t"),
        set: SetId(1),
        columns: columns.iter().map(column).collect(),
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    }
}

/// The same table where the late column is a counter.
fn counting(mut def: TableDef) -> TableDef {
    let late = def.column("late");
    def.rules.columns.extend(late.map(|late| (late, ColumnRule::Merged(Kind::Counter))));
    def
}

/// A change of the one row.
#[derive(Clone, Debug)]
struct Written {
    stamp: Stamp,
    /// By the site that learns late, before it does.
    own: bool,
    def: TableDef,
    change: RowChange,
}

#[derive(Clone, Debug)]
struct Step {
    op: RowOp,
    own: bool,
    knows: bool,
    time: u64,
    columns: [bool; 3],
    /// Whether an update of the late column adds to it.
    adds: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![
        Just(RowOp::Insert),
        Just(RowOp::Update),
        Just(RowOp::Delete),
        Just(RowOp::Revive),
        Just(RowOp::Quarantine),
        Just(RowOp::Return)
    ];
    let parts = (op, any::<[bool; 3]>(), 1..12u64, any::<[bool; 3]>());
    parts.prop_map(|(op, flags, time, columns)| {
        let [own, knows, adds] = flags;
        Step { op, own, knows, time, columns, adds }
    })
}

/// The changes in the order in which the late site folds them. Its own are newer than all before.
fn written(steps: &[Step]) -> Vec<Written> {
    let mut newest = 0;
    let made = steps.iter().enumerate().map(|(at, step)| {
        let time = if step.own { newest + 1 } else { step.time };
        newest = newest.max(time);
        let (site, incarnation) = (SiteId::new(1 + u16::from(!step.own)), Incarnation::new(7));
        let origin = Origin { site: site.unwrap(), incarnation: incarnation.unwrap() };
        let def = if step.knows && !step.own { table(&NEW) } else { table(&OLD) };
        let named = def.cell_columns().filter(|column| match step.op {
            RowOp::Insert => true,
            RowOp::Update => step.columns[usize::from(column.0) - 1],
            _ => false,
        });
        let value = |column: ColumnId| Value::Int(at as i64 * 10 + i64::from(column.0));
        let cells = named.map(|column| Cell { column, value: value(column) }).collect();
        let key = RowKey::new(&[Value::Int(1)]);
        let change = RowChange { table: TableId(1), key, op: step.op, cells };
        let stamp = Stamp::new(Hlc::from_ms(time), origin, Seq(at as u64 + 1));
        Written { stamp, own: step.own, def, change }
    });
    made.collect()
}

/// The same changes where updates of the late column add to it, with what their origin has added
/// in all since the last write that it knows, which is all before.
fn adding(steps: &[Step], changes: &mut [Written]) {
    let late = table(&NEW).column("late").unwrap();
    let adds = |at: usize| steps[at].op == RowOp::Update && steps[at].adds;
    let mut order: Vec<usize> = (0..changes.len()).collect();
    order.sort_unstable_by_key(|at| changes[*at].stamp);
    let (mut birth, mut sum) = (None, Decimal::zero());
    for at in order {
        let Written { stamp, def, change, .. } = &mut changes[at];
        *def = counting(def.clone());
        let mut late = change.cells.iter_mut().filter(|cell| cell.column == late);
        match (late.next(), change.op) {
            (Some(cell), RowOp::Update) if adds(at) => {
                sum = sum.plus(&Decimal::parse("3").unwrap());
                cell.value = Value::Share(Box::new(Share { birth, part: Part::Sum(sum.clone()) }));
            }
            (
                None,
                RowOp::Update | RowOp::Delete | RowOp::Revive | RowOp::Quarantine | RowOp::Return,
            ) => {}
            _ => (birth, sum) = (Some(*stamp), Decimal::zero()),
        }
    }
}

fn join(clock: &mut RowClock, stamp: Stamp, local: &LocalChange) {
    clock.join(local.op, stamp, &local.cells);
    let fate = clock.fate(local.op, stamp, &local.cells);
    let mut again = clock.clone();
    again.join(local.op, stamp, &local.cells);
    assert_eq!(&again, clock, "to join again changes nothing");
    assert_eq!(clock.fate(local.op, stamp, &local.cells), fate, "to ask changes nothing");
}

/// All that counts in a clock: with what a counter was born is learned along the way, or not.
fn registers(clock: &RowClock) -> impl PartialEq + std::fmt::Debug + use<> {
    let cells = table(&NEW).cell_columns().map(|column| clock.cell(column)).collect::<Vec<_>>();
    let mut stamps: Vec<Stamp> = clock.stamps().collect();
    stamps.sort_unstable();
    (clock.existence(), cells, stamps, clock.life(ColumnId(3)).cloned())
}

/// What a site shows that applies the changes one by one in this order; `None` for what has its
/// default.
fn shown(dictionary: &Dictionary, changes: &[Written]) -> Option<BTreeMap<ColumnId, Value>> {
    let mut clock = RowClock::default();
    let mut row: Option<BTreeMap<ColumnId, Value>> = None;
    let by_txn: BTreeMap<_, _> = changes.iter().map(|c| (c.stamp.txn, c)).collect();
    for written in changes {
        let Written { stamp, def, change, .. } = written;
        let transaction = Transaction {
            seq: stamp.txn.seq,
            hlc: stamp.hlc,
            describes: vec![Describe { table: TableId(1), def: def.clone() }],
            actor: None,
            changes: vec![change.clone()],
            piece: None,
        };
        let foreign =
            ForeignTransaction { transaction: Arc::new(transaction), vector: VersionVector::new() };
        let (mut tables, mut seen) = (BTreeMap::new(), VersionVector::new());
        let origin = stamp.txn.origin;
        let group = Group::build(origin, &[foreign], dictionary, &mut tables, &mut seen);
        let (id, work) = group.rows.iter().next().unwrap();
        let def = dictionary.table(id.table).unwrap();
        let value = |column: ColumnId, source: Source<'_>| match source {
            Source::Value(value) => Some(value.into_owned()),
            Source::Merged(..) => panic!("nobody adds"),
            Source::Logged(txn) => {
                let cells = &by_txn[&txn].change.cells;
                cells.iter().find(|cell| cell.column == column).map(|cell| cell.value.clone())
            }
        };
        match work.decide(def, clock.clone(), (row.is_some(), None), false).verdict {
            Verdict::Keep => {}
            Verdict::Retry => panic!("clock and table agree"),
            Verdict::Delete => row = None,
            Verdict::Update(cells) => row
                .as_mut()
                .unwrap()
                .extend(cells.into_iter().filter_map(|(c, from)| Some((c, value(c, from)?)))),
            Verdict::Insert(cells) | Verdict::Replace(cells) => {
                let cells = cells.into_iter();
                row = Some(cells.filter_map(|(c, from)| Some((c, value(c, from)?))).collect());
            }
        }
        join(&mut clock, *stamp, &dictionary.localize(&written.def, change).unwrap());
    }
    row
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_late_column_is_as_one_known_from_the_start(
        steps in proptest::collection::vec(step(), 1..10),
        learned in 0..10usize,
        backwards in any::<bool>(),
    ) {
        let mut changes = written(&steps);
        adding(&steps, &mut changes);
        let mut early = Dictionary::default();
        early.learn(&counting(table(&NEW)));
        let mut expected = RowClock::default();
        for written in changes.iter().rev() {
            let local = early.localize(&written.def, &written.change).unwrap();
            prop_assert!(local.unknown_columns.is_empty());
            join(&mut expected, written.stamp, &local);
        }

        let mut late = Dictionary::default();
        late.learn(&table(&OLD));
        let (mut clock, mut parked) = (RowClock::default(), Vec::new());
        for (at, written) in changes.iter().enumerate() {
            if at == learned {
                late.learn(&counting(table(&NEW)));
            }
            let local = late.localize(&written.def, &written.change).unwrap();
            if written.own && written.change.op == RowOp::Insert {
                // As the fold does with own inserts.
                clock = RowClock::default();
            }
            join(&mut clock, written.stamp, &local);
            if !local.unknown_columns.is_empty() {
                parked.push(written);
            }
        }
        late.learn(&counting(table(&NEW)));
        if backwards {
            parked.reverse();
        }
        for written in parked {
            let local = late.localize(&written.def, &written.change).unwrap();
            join(&mut clock, written.stamp, &local);
        }
        prop_assert_eq!(registers(&clock), registers(&expected));
    }

    #[test]
    fn a_row_shows_the_same_in_whichever_order_its_changes_come(
        steps in proptest::collection::vec(step(), 1..10),
    ) {
        // A row begins with an insert here: one that was there before has values of its own.
        let mut changes = written(&steps);
        let first = changes.iter().position(|written| written.change.op == RowOp::Insert);
        let Some(first) = first else { return Ok(()) };
        let first = changes.remove(first);
        changes.insert(0, first);
        let mut dictionary = Dictionary::default();
        dictionary.learn(&table(&NEW));
        let forwards = shown(&dictionary, &changes);
        changes[1..].reverse();
        prop_assert_eq!(shown(&dictionary, &changes), forwards);
    }
}
