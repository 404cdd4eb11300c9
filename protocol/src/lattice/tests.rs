//! Properties of the join.

use proptest::prelude::*;

use super::*;
use crate::clock::Hlc;
use crate::decimal::Decimal;
use crate::id::{Incarnation, Origin, Seq, SiteId};
use crate::merged::Part;

fn stamp(site: u16, time: u64) -> Stamp {
    let site = SiteId::new(site + 1).expect("not zero");
    let origin = Origin { site, incarnation: Incarnation::new(7).expect("not zero") };
    Stamp::new(Hlc::from_ms(time), origin, Seq(time))
}

fn cells(columns: &[u16]) -> Vec<Cell> {
    columns.iter().map(|column| Cell { column: ColumnId(*column), value: Value::Int(1) }).collect()
}

/// A counter's column, with a number or a share of it.
const COUNT: ColumnId = ColumnId(9);

/// What was there before the log, as a delete or a revival says it.
fn old(columns: &[u16]) -> Vec<Cell> {
    let value = Value::Base("10".into());
    cells(columns).into_iter().chain([Cell { column: COUNT, value }]).collect()
}

#[derive(Clone, Debug)]
struct Change {
    op: RowOp,
    stamp: Stamp,
    cells: Vec<Cell>,
}

/// Changes with a stamp each.
fn changes() -> impl Strategy<Value = Vec<Change>> {
    let columns = proptest::sample::subsequence(vec![1, 2, 3], 0..=3);
    let change = (0usize..6, 0u16..3, columns, 1i64..9);
    proptest::collection::vec(change, 1..12).prop_map(move |changes| {
        let made = changes.into_iter().zip(1..).map(|((op, site, columns, by), time)| {
            let (op, stamp) = (RowOp::ALL[op], stamp(site, time));
            let cells = match op {
                RowOp::Insert => cells(&[1, 2, 3, 9]),
                RowOp::Update => {
                    let part = Part::Sum(Decimal::parse(&by.to_string()).expect("a number"));
                    let value = Value::Share(Box::new(Share { birth: None, part }));
                    let share = Cell { column: COUNT, value };
                    cells(&columns).into_iter().chain([share]).collect()
                }
                RowOp::Delete
                | RowOp::Revive
                | RowOp::Quarantine
                | RowOp::Return
                | RowOp::ReviveAside => old(&columns),
            };
            Change { op, stamp, cells }
        });
        made.collect()
    })
}

/// A tally's column, which inserts set, add to, or do not name.
const TALLY: ColumnId = ColumnId(8);

/// Changes of a row with a tally. Nobody inserts at the deletes that they come after.
fn tallied() -> impl Strategy<Value = Vec<Change>> {
    let births = [Stamp::least(), stamp(5, 3), stamp(5, 7)];
    let change = (0usize..5, 0u16..3, 0usize..3, 1i64..9);
    proptest::collection::vec(change, 1..12).prop_map(move |changes| {
        let made = changes.into_iter().zip(1..).map(|((op, site, birth, by), time)| {
            let part = Part::Sum(Decimal::parse(&by.to_string()).expect("a number"));
            let birth = Some(births[birth]);
            let share = Value::Share(Box::new(Share { birth, part }));
            let tally = |value| Cell { column: TALLY, value };
            let (op, more) = match op {
                0 => (RowOp::Insert, Some(tally(share))),
                1 => (RowOp::Insert, Some(tally(Value::Int(by)))),
                2 => (RowOp::Insert, None),
                3 => (RowOp::Update, Some(tally(share))),
                _ => (RowOp::Delete, None),
            };
            let named = if op == RowOp::Delete { Vec::new() } else { cells(&[1]) };
            Change { op, stamp: stamp(site, time), cells: named.into_iter().chain(more).collect() }
        });
        made.collect()
    })
}

#[test]
fn inserts_after_one_delete_add_up() {
    let insert = |birth, by: i64| {
        let part = Part::Sum(Decimal::parse(&by.to_string()).expect("a number"));
        let value = Value::Share(Box::new(Share { birth, part }));
        [Cell { column: TALLY, value }]
    };
    let mut clock = RowClock::default();
    assert_eq!(clock.birthplace(), Some(Stamp::least()));
    clock.join(RowOp::Insert, stamp(0, 1), &insert(clock.birthplace(), 10));
    assert_eq!(clock.birthplace(), None);
    clock.join(RowOp::Insert, stamp(1, 2), &insert(Some(Stamp::least()), 5));
    assert_eq!(clock.value(TALLY).as_deref(), Some("15"));
    clock.join(RowOp::Delete, stamp(2, 4), &[]);
    let after = clock.birthplace();
    assert_eq!(after, Some(stamp(2, 4)));
    clock.join(RowOp::Insert, stamp(1, 5), &insert(after, 3));
    // Who had not heard of the delete.
    let late = clock.join(RowOp::Insert, stamp(0, 3), &insert(Some(Stamp::least()), 100));
    assert_eq!(late.lost.first(), Some(&(TALLY, stamp(2, 4))));
    clock.join(RowOp::Insert, stamp(0, 6), &insert(after, 4));
    assert_eq!(clock.value(TALLY).as_deref(), Some("7"));
}

fn joined<'c>(changes: impl Iterator<Item = &'c Change>) -> RowClock {
    let mut clock = RowClock::default();
    for Change { op, stamp, cells } in changes {
        clock.join(*op, *stamp, cells);
    }
    clock
}

#[test]
fn a_revival_shows_what_a_delete_hid() {
    let mut clock = RowClock::default();
    clock.join(RowOp::Insert, stamp(0, 1), &cells(&[1, 2]));
    clock.join(RowOp::Update, stamp(1, 3), &cells(&[2]));
    let before = clock.clone();
    clock.join(RowOp::Delete, stamp(0, 5), &[]);
    assert!(!clock.is_live(true));
    // Concurrent with both, older than the delete, and known to nobody who revived.
    assert_eq!(clock.join(RowOp::Update, stamp(2, 4), &cells(&[1])).fate(), Fate::Superseded);
    assert_eq!(clock.join(RowOp::Revive, stamp(1, 6), &[]).fate(), Fate::Applied);
    assert!(clock.is_live(false));
    assert_eq!(clock.cell(ColumnId(1)), Some(stamp(2, 4)));
    assert_eq!(clock.cell(ColumnId(2)), before.cell(ColumnId(2)));
    assert_eq!(clock.join(RowOp::Delete, stamp(0, 5), &[]).fate(), Fate::Superseded);
}

#[test]
fn a_row_that_is_aside_loses_nothing() {
    let mut clock = RowClock::default();
    clock.join(RowOp::Insert, stamp(0, 1), &cells(&[1, 2]));
    assert_eq!(clock.join(RowOp::Quarantine, stamp(1, 5), &[]).fate(), Fate::Applied);
    assert!(clock.is_aside() && !clock.is_live(true));
    for (time, column) in [(4, 1), (6, 2)] {
        let update = (stamp(2, time), cells(&[column]));
        assert_eq!(clock.join(RowOp::Update, update.0, &update.1).fate(), Fate::Applied);
        assert_eq!(clock.cell(ColumnId(column)), Some(update.0));
    }
    assert!(clock.clone().returned().is_live(false));
    // However old, a delete of it is one.
    let mut deleted = clock.clone();
    deleted.join(RowOp::Delete, stamp(2, 2), &[]);
    deleted.join(RowOp::Return, stamp(1, 7), &[]);
    assert!(deleted.is_gone() && !deleted.is_aside() && !deleted.is_live(true));
    // Whoever inserts it anew did not see it, and it is there.
    let mut anew = clock.clone();
    anew.join(RowOp::Insert, stamp(2, 6), &cells(&[1, 2]));
    assert!(anew.is_live(false));
    clock.join(RowOp::Return, stamp(1, 7), &[]);
    assert!(clock.is_live(false));
    assert_eq!(clock.join(RowOp::Quarantine, stamp(1, 5), &[]).fate(), Fate::Superseded);
    assert!(clock.is_live(false));
}

#[test]
fn a_delete_that_must_not_stand_can_leave_the_row_aside() {
    let (delete, revive) = ((RowOp::Delete, stamp(0, 5)), (RowOp::ReviveAside, stamp(1, 6)));
    let back = (RowOp::Return, stamp(2, 7));
    for order in [[delete, revive, back], [back, delete, revive], [revive, back, delete]] {
        let mut clock = RowClock::default();
        clock.join(RowOp::Insert, stamp(0, 1), &cells(&[1, 2]));
        for (op, stamp) in order.into_iter().filter(|change| *change != back) {
            clock.join(op, stamp, &[]);
        }
        assert!(clock.is_aside() && !clock.is_gone() && !clock.is_live(true));
        clock.join(back.0, back.1, &[]);
        let mut again = RowClock::default();
        again.join(RowOp::Insert, stamp(0, 1), &cells(&[1, 2]));
        order.iter().for_each(|(op, stamp)| drop(again.join(*op, *stamp, &[])));
        assert!(again.is_live(false));
        assert_eq!(again, clock);
    }
}

#[test]
fn a_row_that_is_older_than_the_log_goes_aside_and_returns() {
    let mut clock = RowClock::default();
    clock.join(RowOp::Quarantine, stamp(1, 5), &old(&[1, 2]));
    assert_eq!(clock.shows(), Some(false));
    clock.join(RowOp::Return, stamp(1, 7), &[]);
    assert_eq!(clock.shows(), Some(true));
    clock.join(RowOp::Delete, stamp(1, 3), &[]);
    assert_eq!(clock.shows(), Some(false));
}

#[test]
fn what_was_there_before_the_log_is_older_than_all_in_it() {
    let mut clock = RowClock::default();
    clock.join(RowOp::Delete, stamp(0, 5), &old(&[1, 2]));
    let found = clock.cell(ColumnId(1)).expect("it is in the log now");
    assert_eq!((found.hlc, found.txn), (Hlc::ZERO, stamp(0, 5).txn));
    assert_eq!(clock.value(COUNT).as_deref(), Some("10"));
    clock.join(RowOp::Update, stamp(1, 2), &cells(&[1]));
    clock.join(RowOp::Revive, stamp(2, 6), &old(&[1, 2]));
    assert_eq!(clock.cell(ColumnId(1)), Some(stamp(1, 2)));
    assert_eq!(clock.cell(ColumnId(2)), Some(stamp(2, 6).before_the_log()));
    assert_eq!(clock.value(COUNT).as_deref(), Some("10"));
    clock.join(RowOp::Insert, stamp(0, 7), &cells(&[1, 2, 9]));
    assert_eq!(clock.cell(ColumnId(2)), Some(stamp(0, 7)));
    assert!(clock.merged_columns().next().is_none());
}

proptest! {
    #[test]
    fn any_order_and_any_repetition_gives_the_same_clock(
        changes in changes(),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let straight = joined(changes.iter());
        let mixed: Vec<&Change> = order.iter().map(|index| index.get(&changes)).collect();
        let mut other = joined(mixed.into_iter().chain(changes.iter().rev()));
        prop_assert_eq!(&other.cells, &straight.cells);
        prop_assert_eq!((other.existence, other.aside, other.base), (straight.existence, straight.aside, straight.base));
        prop_assert_eq!(other.life(COUNT), straight.life(COUNT));
        let again = other.clone();
        for Change { op, stamp, cells } in &changes {
            other.join(*op, *stamp, cells);
        }
        prop_assert_eq!(&other, &again);
        let mut out = Writer::new();
        other.encode(&mut out);
        prop_assert_eq!(RowClock::decode(&mut Reader::new(&out.into_bytes())), Ok(other));
    }

    #[test]
    fn tallies_do_not_ask_for_order_either(
        changes in tallied(),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let straight = joined(changes.iter());
        let mixed: Vec<&Change> = order.iter().map(|index| index.get(&changes)).collect();
        let other = joined(mixed.into_iter().chain(changes.iter().rev()));
        prop_assert_eq!(other.cell(TALLY), straight.cell(TALLY));
        prop_assert_eq!(other.cell(ColumnId(1)), straight.cell(ColumnId(1)));
        prop_assert_eq!(&other.cells, &straight.cells);
        prop_assert_eq!(other.life(TALLY), straight.life(TALLY));
        let mut out = Writer::new();
        other.encode(&mut out);
        prop_assert_eq!(RowClock::decode(&mut Reader::new(&out.into_bytes())), Ok(other));
    }

    /// What a change came to is the same when it is asked for later.
    #[test]
    fn a_fate_can_be_asked_for_again(changes in changes()) {
        let mut clock = RowClock::default();
        for Change { op, stamp, cells } in &changes {
            let fate = clock.join(*op, *stamp, cells).fate();
            prop_assert_eq!(clock.fate(*op, *stamp, cells), fate);
        }
    }
}
