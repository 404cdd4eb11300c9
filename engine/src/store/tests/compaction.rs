//! What is left out of what nobody was given, on real files.

use std::collections::BTreeSet;

use landfall_protocol::change::{Fragment, Transaction};
use landfall_protocol::id::TxnId;
use rusqlite::Connection;

use super::super::{Compaction, Sealing};
use super::*;

fn compacting(bytes_max: usize) -> Settings {
    Settings {
        unit_bytes_max: 4_096,
        compaction: Some(Compaction { bytes_min: 1_000, bytes_max }),
        ..settings()
    }
}

fn open_with(dir: &Path, settings: &Settings) -> Store {
    Store::open(dir, settings, signer(1), 1).unwrap().0
}

/// Moves the number of one of `rows` rows up by one, in transaction `n` of the log.
async fn count_up(store: &Store, table: &Arc<TableDef>, rows: i64, n: u64) {
    let (id, count) = (n as i64 % rows, n as i64);
    let rows = vec![update(table, row(id, "bed", count - 1), row(id, "bed", count))];
    store.fold(vec![own(n, rows)], START_LSN + n, Vec::new()).await.unwrap();
}

/// The last number of each row, with the transaction that wrote it.
fn counts(transactions: &[Transaction]) -> BTreeMap<Vec<u8>, (Seq, Value)> {
    let changes = transactions.iter().flat_map(|t| t.changes.iter().map(move |c| (t.seq, c)));
    let cells = changes.filter_map(|(seq, change)| {
        let cell = change.cells.iter().find(|cell| cell.column == ColumnId(2))?;
        Some((change.key.as_bytes().to_vec(), (seq, cell.value.clone())))
    });
    cells.collect()
}

#[tokio::test]
async fn a_row_that_changes_often_waits_once() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), 1);
    let mut store = open_with(dir.path(), &compacting(64 << 10));
    let t = table("t");
    for n in 1..=3_000 {
        count_up(&store, &t, 3, n).await;
        if n == 1_700 {
            // What is left survives the process.
            store.close().await;
            store = open_with(dir.path(), &compacting(64 << 10));
        }
    }
    let sizes = store.sizes().await.unwrap();
    assert_eq!(sizes.units, 0, "nobody is there to take one");
    assert!(sizes.tail_changes < 1_000, "{} changes wait", sizes.tail_changes);
    let newest = TxnId { origin: origin(1), seq: Seq(3_000) };
    let early = TxnId { origin: origin(1), seq: Seq(4) };
    let found = store.transactions(vec![newest, early]).await.unwrap();
    assert!(found.contains_key(&newest) && !found.contains_key(&early));
    store.set_sealing(Sealing::Eager).await.unwrap();
    let units = all_units(&store, origin(1)).await;
    assert_chain(&units);
    let [unit] = &units[..] else { panic!("{} units", units.len()) };
    let header = unit.header();
    assert_eq!((header.first, header.last), (Seq(1), Seq(3_000)));
    assert_eq!(header.fragment, Fragment::Compacted);
    let left = unit.transactions().unwrap();
    let seqs: Vec<u64> = left.iter().map(|transaction| transaction.seq.0).collect();
    assert_eq!(seqs, [1, 2_998, 2_999, 3_000], "the first has the description");
    let counted: Vec<_> = counts(&left).into_values().collect();
    let due = [3_000, 2_998, 2_999].map(|n| (Seq(n), Value::Int(n as i64)));
    assert_eq!(counted, due);
    // While somebody is there everything travels.
    for n in 3_001..=3_003 {
        count_up(&store, &t, 1, n).await;
    }
    let later = all_units(&store, origin(1)).await;
    assert_eq!(later[..1], units, "what is sealed stays as it is");
    assert_eq!(later.len(), 4);
    store.close().await;
}

#[tokio::test]
async fn what_is_left_is_sealed_when_it_is_too_much() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), 1);
    let store = open_with(dir.path(), &compacting(8_192));
    let t = table("t");
    let count = 4_000;
    for n in 1..=count {
        count_up(&store, &t, 1_000, n).await;
    }
    store.set_sealing(Sealing::Eager).await.unwrap();
    let units = all_units(&store, origin(1)).await;
    assert_chain(&units);
    assert!(units.len() > 2, "{} units", units.len());
    let left: Vec<Transaction> =
        units.iter().flat_map(|unit| unit.transactions().unwrap()).collect();
    let due: BTreeSet<u64> = (count - 999..=count).collect();
    let found: BTreeSet<u64> = counts(&left).into_values().map(|(seq, _)| seq.0).collect();
    assert_eq!(found, due);
    store.close().await;
}

#[tokio::test]
async fn sets_with_full_history_and_stores_that_do_not_compact_keep_all() {
    let all = Settings { full_history: BTreeSet::from([SetId(1)]), ..compacting(64 << 10) };
    for settings in [all, Settings { compaction: None, ..compacting(64 << 10) }] {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), 1);
        let store = open_with(dir.path(), &settings);
        let t = table("t");
        for n in 1..=1_000 {
            count_up(&store, &t, 1, n).await;
        }
        store.set_sealing(Sealing::Eager).await.unwrap();
        let units = all_units(&store, origin(1)).await;
        assert_chain(&units);
        let changes: u64 = units.iter().map(|unit| unit.header().changes()).sum();
        assert_eq!(changes, 1_000);
        assert!(units.iter().all(|unit| unit.header().fragment == Fragment::Whole));
        store.close().await;
    }
}

#[tokio::test]
async fn nothing_is_compacted_across_what_the_site_heard() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), 1);
    let store = open_with(dir.path(), &compacting(64 << 10));
    let t = table("t");
    store.append_units(foreign_units(2, &t, 1).await, 1).await.unwrap();
    for n in 1..=500 {
        count_up(&store, &t, 1, n).await;
    }
    let heard = apply(origin(2), 1, 1, vec![insert(&t, row(-1, "foreign", 1))]);
    store.fold(vec![heard], START_LSN + 500, Vec::new()).await.unwrap();
    for n in 501..=1_000 {
        count_up(&store, &t, 1, n).await;
    }
    store.set_sealing(Sealing::Eager).await.unwrap();
    let units = all_units(&store, origin(1)).await;
    assert_chain(&units);
    let ranges: Vec<_> =
        units.iter().map(|unit| (unit.header().first.0, unit.header().last.0)).collect();
    assert_eq!(ranges, [(1, 500), (501, 1_000)]);
    assert_eq!(units[1].header().vector.get(origin(2)), Seq(1));
    store.close().await;
}

#[tokio::test]
async fn a_tail_from_before_there_was_compaction_is_read() {
    let (dir, store) = fresh(1);
    let t = table("t");
    count_up(&store, &t, 1, 1).await;
    store.close().await;
    let connection = Connection::open(dir.path().join("landfall.db")).unwrap();
    let before =
        "DROP TABLE begun; ALTER TABLE tail DROP COLUMN compacted; PRAGMA user_version = 6";
    connection.execute_batch(before).unwrap();
    drop(connection);
    let store = open(dir.path(), 1).0;
    count_up(&store, &t, 1, 2).await;
    store.set_sealing(Sealing::Eager).await.unwrap();
    let units = all_units(&store, origin(1)).await;
    assert_eq!(units.iter().map(|unit| unit.header().changes()).sum::<u64>(), 2);
    store.close().await;
}
