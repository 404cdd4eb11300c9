//! Corners of the fold that no race-free world reaches: rows written by the way, and what the
//! conflict lines call them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_protocol::change::{Cell, Describe, Fragment, RowChange, RowOp, Transaction};
use landfall_protocol::clock::{Hlc, Stamp};
use landfall_protocol::dictionary::Dictionary;
use landfall_protocol::fold::{
    CapturedTransaction, Fold, FoldOutput, ForeignTransaction, ForeignTransactions, Marker, Row,
    RowEvent,
};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId, TxnId};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::plan::{Group, Rule};
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableId, TableName};
use landfall_protocol::value::{RowKey, Value};
use landfall_protocol::version::VersionVector;

fn origin(site: u16) -> Origin {
    Origin { site: SiteId::new(site).unwrap(), incarnation: Incarnation::new(7).unwrap() }
}

fn table() -> TableDef {
    let column = |name: &str| ColumnDef { name: name.into(), type_name: "bigint".into() };
    TableDef {
        name: TableName::new("public", "t"),
        set: SetId(1),
        columns: vec![column("id"), column("a")],
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    }
}

fn change(op: RowOp, key: i64, value: Option<i64>) -> RowChange {
    let cells = value.map(|value| Cell { column: ColumnId(1), value: Value::Int(value) });
    RowChange {
        table: TableId(1),
        key: RowKey::new(&[Value::Int(key)]),
        op,
        cells: cells.into_iter().collect(),
    }
}

fn foreign(seq: u64, hlc: u64, changes: Vec<RowChange>) -> (TxnId, ForeignTransaction) {
    let describes = vec![Describe { table: TableId(1), def: table() }];
    let transaction = Transaction {
        seq: Seq(seq),
        hlc: Hlc::from_ms(hlc),
        actor: None,
        describes,
        changes,
        piece: None,
    };
    let txn = TxnId { origin: origin(2), seq: Seq(seq) };
    let transaction = Arc::new(transaction);
    (txn, ForeignTransaction { transaction, vector: VersionVector::new() })
}

fn insert_event(key: i64, value: i64) -> RowEvent {
    let new = Some(Row::whole([Value::Int(key), Value::Int(value)]));
    RowEvent { relation: Arc::new(table()), old: None, new }
}

fn fold_apply(rows: Vec<RowEvent>) -> (Fold, FoldOutput) {
    let mut fold = Fold::new(origin(1));
    fold.dictionary.learn(&table());
    let (txn, transaction) = foreign(1, 500, vec![change(RowOp::Insert, 1, Some(10))]);
    let marker = Marker::Apply {
        origin: txn.origin,
        first: Seq(1),
        last: Seq(1),
        parked: Vec::new(),
        emitted: Vec::new(),
    };
    let batch = vec![CapturedTransaction {
        commit_ms: 100,
        actor: None,
        rows,
        marker: Some(marker),
        fragment: Fragment::Whole,
        piece: None,
    }];
    let localized = fold.localize(batch, &ForeignTransactions::from([(txn, transaction)])).unwrap();
    let output = fold.fold(localized, BTreeMap::new(), BTreeSet::new());
    (fold, output)
}

#[test]
fn rows_a_trigger_writes_while_applying_are_own_changes() {
    let (fold, output) = fold_apply(vec![insert_event(1, 10), insert_event(99, 5)]);
    assert_eq!((output.fates.total(), output.dirty.len()), (1, 0));
    let [own] = output.own.as_slice() else { panic!("one own transaction: {:?}", output.own) };
    assert_eq!(own.transaction.changes, vec![change(RowOp::Insert, 99, Some(5))]);
    assert!(own.transaction.hlc > Hlc::from_ms(500), "it was written with the foreign row in view");
    assert_eq!(own.vector.get(origin(2)), Seq(1));
    assert_eq!(fold.applied.get(origin(2)), Seq(1));
}

#[test]
fn an_apply_transaction_that_only_applies_sends_nothing() {
    let (fold, output) = fold_apply(vec![insert_event(1, 10)]);
    assert_eq!((output.own.len(), fold.last_seq), (0, Seq::ZERO));
}

#[test]
fn an_update_older_than_the_delete_lost_to_the_delete() {
    let mut dictionary = Dictionary::default();
    dictionary.learn(&table());
    let (_, transaction) = foreign(1, 500, vec![change(RowOp::Update, 1, Some(10))]);
    let (mut tables, mut seen) = (BTreeMap::new(), VersionVector::new());
    let group = Group::build(origin(2), &[transaction], &dictionary, &mut tables, &mut seen);
    let deleted = Stamp::new(Hlc::from_ms(900), origin(1), Seq(3));
    let mut clock = RowClock::default();
    clock.join(RowOp::Delete, deleted, &[]);
    let work = group.rows.values().next().unwrap();
    let conflicts = work.decide(&table(), clock, (false, None), false).conflicts;
    let told: Vec<_> = conflicts.iter().map(|c| (c.rule, c.winner, c.column)).collect();
    assert_eq!(told, vec![(Rule::DeleteWins, deleted, Some(ColumnId(1)))]);
}
