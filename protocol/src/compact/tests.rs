use proptest::prelude::*;

use super::*;
use crate::clock::Hlc;
use crate::decimal::Decimal;
use crate::id::{Incarnation, Origin, Seq, SiteId};
use crate::lattice::RowClock;
use crate::merged::Share;

const TABLE: TableId = TableId(1);
const COUNTER: ColumnId = ColumnId(9);

fn origin(site: u16) -> Origin {
    let site = SiteId::new(site).expect("not zero");
    Origin { site, incarnation: Incarnation::new(7).expect("not zero") }
}

fn key(row: i64) -> RowKey {
    RowKey::new(&[Value::Int(row)])
}

fn cell(column: u16, value: i64) -> Cell {
    Cell { column: ColumnId(column), value: Value::Int(value) }
}

fn share(birth: Option<Stamp>, sum: i64) -> Cell {
    let part = Part::Sum(Decimal::parse(&sum.to_string()).expect("a number"));
    Cell { column: COUNTER, value: Value::Share(Box::new(Share { birth, part })) }
}

fn transaction(seq: u64, hlc: u64, changes: Vec<RowChange>) -> Transaction {
    let (actor, describes, piece) = (None, Vec::new(), None);
    Transaction { seq: Seq(seq), hlc: Hlc::from_ms(hlc), actor, describes, changes, piece }
}

/// A log of one origin: two rows, each with what its changes may name.
fn log() -> impl Strategy<Value = Vec<Transaction>> {
    let columns = proptest::sample::subsequence(vec![1, 2, 3], 0..=3);
    let change = (0i64..2, 0usize..16, columns, any::<bool>());
    proptest::collection::vec(change, 1..30).prop_map(|changes| {
        let mut births: [Option<Stamp>; 2] = [None; 2];
        let mut log = Vec::new();
        for ((row, op, columns, counts), seq) in changes.into_iter().zip(1..) {
            let birth = &mut births[row as usize];
            let stamp = Stamp::new(Hlc::from_ms(seq * 10), origin(1), Seq(seq));
            let op = if op < 10 { RowOp::Update } else { RowOp::ALL[(op - 10) % RowOp::ALL.len()] };
            let mut cells: Vec<Cell> = match op {
                RowOp::Insert => [1, 2, 3].map(|column| cell(column, seq as i64)).to_vec(),
                RowOp::Update => columns.iter().map(|column| cell(*column, seq as i64)).collect(),
                _ => Vec::new(),
            };
            match op {
                RowOp::Insert => {
                    cells.push(cell(COUNTER.0, 0));
                    *birth = Some(stamp);
                }
                RowOp::Update if counts => cells.push(share(*birth, seq as i64)),
                RowOp::Update if columns.len() == 1 => {
                    cells.push(cell(COUNTER.0, 100));
                    *birth = Some(stamp);
                }
                _ => {}
            }
            let change = RowChange { table: TABLE, key: key(row), op, cells };
            log.push(transaction(seq, seq * 10, vec![change]));
        }
        log
    })
}

/// What another origin says of a row, with the clock reading.
type Other = (i64, usize, u64);

fn clock<'t>(
    row: i64,
    log: impl IntoIterator<Item = &'t Transaction>,
    others: &[Other],
    others_first: bool,
) -> RowClock {
    let mut clock = RowClock::default();
    let join_others = |clock: &mut RowClock| {
        for (seq, (of, op, at)) in (1..).zip(others) {
            let op = RowOp::ALL[*op];
            let cells = match op {
                RowOp::Insert => vec![cell(1, 0), cell(2, 0), cell(3, 0), cell(COUNTER.0, 5)],
                RowOp::Update => vec![cell(2, 7), share(None, 3)],
                _ => Vec::new(),
            };
            if *of == row {
                clock.join(op, Stamp::new(Hlc::from_ms(*at), origin(2), Seq(seq)), &cells);
            }
        }
    };
    if others_first {
        join_others(&mut clock);
    }
    for transaction in log {
        for change in transaction.changes.iter().filter(|change| change.key == key(row)) {
            clock.join(change.op, transaction.stamp(origin(1)), &change.cells);
        }
    }
    if !others_first {
        join_others(&mut clock);
    }
    clock
}

proptest! {
    #[test]
    fn what_is_left_joins_to_the_same(
        log in log(),
        others in proptest::collection::vec((0i64..2, 0usize..7, 1u64..320), 0..4),
        others_first: bool,
    ) {
        let left = compact(log.clone(), |_| false);
        prop_assert_eq!(left.first().map(|t| t.seq), log.first().map(|t| t.seq));
        prop_assert_eq!(left.last().map(|t| t.seq), log.last().map(|t| t.seq));
        for row in 0..2 {
            let whole = clock(row, &log, &others, others_first);
            let compacted = clock(row, &left, &others, others_first);
            prop_assert_eq!(&whole, &compacted);
            // Every value that a clock names can be read.
            for column in [1, 2, 3, COUNTER.0].map(ColumnId) {
                let Some(named) = whole.cell(column).filter(|at| at.txn.origin == origin(1)) else {
                    continue;
                };
                let wrote = |log: &[Transaction]| {
                    let found = log.iter().find(|t| t.seq == named.txn.seq)?;
                    let change = found.changes.iter().find(|change| change.key == key(row))?;
                    change.cells.iter().find(|cell| cell.column == column).cloned()
                };
                prop_assert_eq!(wrote(&log), wrote(&left));
            }
        }
    }
}

fn update(seq: u64, row: i64, cells: Vec<Cell>) -> Transaction {
    let change = RowChange { table: TABLE, key: key(row), op: RowOp::Update, cells };
    transaction(seq, seq, vec![change])
}

#[test]
fn a_row_that_is_updated_again_and_again_is_there_once() {
    let log = (1..=10_000).map(|seq| update(seq, 1, vec![cell(1, seq as i64)])).collect();
    let left = compact(log, |_| false);
    let seqs: Vec<u64> = left.iter().map(|transaction| transaction.seq.0).collect();
    assert_eq!(seqs, [1, 10_000]);
    assert_eq!(left.iter().map(|t| t.changes.len()).sum::<usize>(), 1);
}

#[test]
fn columns_keep_the_transactions_that_wrote_them_last() {
    let log = vec![
        update(1, 1, vec![cell(1, 1), cell(2, 1)]),
        update(2, 1, vec![cell(1, 2)]),
        update(3, 2, vec![cell(1, 3)]),
    ];
    let left = compact(log.clone(), |_| false);
    assert_eq!(left[0], update(1, 1, vec![cell(2, 1)]));
    assert_eq!(left[1..], log[1..]);
}

#[test]
fn tables_that_keep_all_keep_all() {
    let log: Vec<Transaction> =
        (1..=9).map(|seq| update(seq, 1, vec![cell(1, seq as i64)])).collect();
    assert_eq!(compact(log.clone(), |table| table == TABLE), log);
}
