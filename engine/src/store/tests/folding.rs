//! Folds, seals and what survives.

use landfall_protocol::unit::UNIT_PLAIN_BYTES_TARGET;

use super::*;
use crate::store::{Advance, Resume, Sealing, StoreError};

/// Transaction `n` of a busy site: a new row, and the one before changed.
fn busy(table: &Arc<TableDef>, n: i64) -> CapturedTransaction {
    let mut rows = vec![insert(table, row(n, "new", 0))];
    if n > 1 {
        rows.push(update(table, row(n - 1, "new", 0), row(n - 1, "changed", n)));
    }
    own(100 + n as u64 % 7, rows)
}

/// The files as a power cut would leave them now, opened.
fn copy_of(dir: &Path, site: u16) -> (tempfile::TempDir, Store, Opened) {
    let copy = tempfile::tempdir().unwrap();
    for name in ["landfall.db", "landfall.db-wal"] {
        std::fs::copy(dir.join(name), copy.path().join(name)).unwrap();
    }
    let (store, opened) = open(copy.path(), site);
    (copy, store, opened)
}

#[tokio::test]
async fn every_reply_is_durable_and_says_what_the_model_says() {
    let (dir, store) = fresh(1);
    let (one, two) = (table("one"), table("two"));
    let units = foreign_units(2, &one, 6).await;
    let mut model = Model::new(1);
    let mut lsn = START_LSN;
    for step in 0..24i64 {
        let sealing = if step / 5 % 2 == 0 { Sealing::Lazy } else { Sealing::Eager };
        store.set_sealing(sealing).await.unwrap();
        let mut batch: Vec<_> = (0..step % 4)
            .map(|part| busy(if part % 2 == 0 { &one } else { &two }, step * 4 + part + 1))
            .collect();
        if step % 4 == 3 {
            let n = step / 4 + 1;
            let unit = units[n as usize - 1].clone();
            model.receive(&unit);
            store.append_units(vec![unit], 7).await.unwrap();
            let shown = vec![insert(&one, row(-n, "foreign", n))];
            batch.insert(1, apply(origin(2), n as u64, n as u64, shown));
        }
        lsn += 10;
        let folded = store.fold(batch.clone(), lsn, Vec::new()).await.unwrap();
        model.fold(batch);
        assert_eq!((folded.fold_lsn, folded.own_last), (lsn, model.fold.last_seq));
        let log = store.watch().borrow().clone();
        assert_eq!((log.fold_lsn, log.own), (lsn, model.fold.last_seq));
        let (_copy, after_crash, opened) = copy_of(dir.path(), 1);
        assert_eq!(opened.log, log);
        model.check(&after_crash).await;
        after_crash.close().await;
    }
    model.check(&store).await;
    let log = store.watch().borrow().clone();
    assert_eq!((log.received_changes, log.fates.applied, log.dirty), (6, 6, 0));
    let mut applied = model.fold.applied.clone();
    applied.advance(origin(1), model.fold.last_seq);
    assert_eq!(log.applied, applied);
    assert_eq!(log.received.get(origin(2)), Seq(6));
    store.close().await;
    let (store, opened) = open(dir.path(), 1);
    assert_eq!(opened.log, log);
    model.check(&store).await;
}

#[tokio::test]
async fn what_the_news_say_can_be_read_at_once() {
    let (_dir, store) = fresh(1);
    let t = table("t");
    let mut news = store.watch();
    let last = 300;
    let write = async {
        for n in 1..=last {
            store.fold(vec![busy(&t, n)], START_LSN + n as u64, Vec::new()).await.unwrap();
        }
    };
    let read = async {
        let mut own = Seq::ZERO;
        while own.0 < last as u64 {
            news.changed().await.unwrap();
            own = news.borrow_and_update().own;
            let found = store.transactions(vec![TxnId { origin: origin(1), seq: own }]).await;
            assert_eq!(found.unwrap().len(), 1, "{own}");
        }
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_store() {
    let (dir, store) = fresh(1);
    let mut news = store.watch();
    let second = store.clone();
    store.fold(vec![busy(&table("t"), 1)], 2000, Vec::new()).await.unwrap();
    drop(store);
    assert_eq!(second.position().await, Ok((2000, None)));
    let locked = Store::open(dir.path(), &settings(), signer(1), 1).unwrap_err();
    assert!(matches!(locked, StoreError::Locked(_)));
    drop(second);
    while news.changed().await.is_ok() {}
    assert!(!dir.path().join("landfall.db-wal").exists(), "closing empties the log");
    let (store, opened) = open(dir.path(), 1);
    assert_eq!((opened.log.own, opened.identity.origin), (Seq(1), origin(1)));
    let other = store.clone();
    store.close().await;
    assert_eq!(other.position().await, Err(StoreError::Closed));
    assert_eq!(other.peers().await, Err(StoreError::Closed));
}

#[tokio::test]
async fn units_are_cut_before_a_changed_vector() {
    let (_dir, store) = fresh(1);
    let t = table("t");
    let units = foreign_units(2, &t, 2).await;
    store.append_units(units, 7).await.unwrap();
    for sealing in [Sealing::Eager, Sealing::Lazy] {
        store.set_sealing(sealing).await.unwrap();
        let applied = store.watch().borrow().applied.get(origin(2)).0;
        let id = applied as i64 * 10 + 1;
        let shown = vec![insert(&t, row(-(applied as i64) - 1, "foreign", applied as i64 + 1))];
        let batch = vec![
            busy(&t, id),
            busy(&t, id + 1),
            apply(origin(2), applied + 1, applied + 1, shown),
            busy(&t, id + 2),
            busy(&t, id + 3),
        ];
        let end = store.position().await.unwrap().0 + 10;
        store.fold(batch, end, Vec::new()).await.unwrap();
    }
    assert_eq!(store.watch().borrow().received.get(origin(1)), Seq(4));
    store.set_sealing(Sealing::Eager).await.unwrap();
    let units = all_units(&store, origin(1)).await;
    assert_chain(&units);
    let ranges: Vec<_> = units
        .iter()
        .map(|unit| (unit.header().first.0, unit.header().last.0, unit.header().vector.len()))
        .collect();
    assert_eq!(ranges, [(1, 2, 0), (3, 4, 1), (5, 6, 0), (7, 8, 1)]);
    assert_eq!(store.sizes().await.unwrap().tail_changes, 0);
}

#[tokio::test]
async fn a_lazy_tail_becomes_full_units_and_an_eager_one_is_sealed_at_once() {
    let (_dir, store) = fresh(1);
    let t = table("t");
    let note = "x".repeat(100_000);
    for n in 1..=25 {
        let batch = vec![own(n as u64, vec![insert(&t, row(n, &note, 0))])];
        store.fold(batch, START_LSN + n as u64, Vec::new()).await.unwrap();
    }
    let units = all_units(&store, origin(1)).await;
    assert_eq!(units.len(), 2);
    for unit in &units {
        let plain: u64 = unit.header().parts.iter().map(|part| part.plain_bytes).sum();
        let target = UNIT_PLAIN_BYTES_TARGET as u64;
        assert!((target - 110_000..=target).contains(&plain), "{plain}");
    }
    let sizes = store.sizes().await.unwrap();
    assert_eq!((sizes.units, sizes.tail_changes), (2, 5));
    store.set_sealing(Sealing::Eager).await.unwrap();
    assert_eq!(store.watch().borrow().received.get(origin(1)), Seq(25));
    let kept = all_units(&store, origin(1)).await;
    assert_eq!(kept[..2], units, "what is sealed stays as it is");
    assert_eq!(kept.len(), 3);
    assert_eq!(store.statistics().sealed, 3);
}

#[tokio::test]
async fn units_are_as_small_as_the_settings_say() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), 1);
    let settings = Settings { unit_bytes_max: 4_096, ..settings() };
    let (store, _) = Store::open(dir.path(), &settings, signer(1), 1).unwrap();
    let t = table("t");
    let note = "x".repeat(1_000);
    for n in 1..=10 {
        let batch = vec![own(n as u64, vec![insert(&t, row(n, &note, 0))])];
        store.fold(batch, START_LSN + n as u64, Vec::new()).await.unwrap();
    }
    store.set_sealing(Sealing::Eager).await.unwrap();
    let units = all_units(&store, origin(1)).await;
    assert_chain(&units);
    assert_eq!(units.len(), 3);
    for unit in &units {
        let plain: u64 = unit.header().parts.iter().map(|part| part.plain_bytes).sum();
        assert!(plain <= 4_096, "{plain}");
    }
}

#[tokio::test]
async fn units_are_cut_where_the_fleet_version_or_a_set_changes() {
    let (dir, store) = fresh(1);
    let t = table("t");
    let moved = Arc::new(TableDef { set: SetId(2), ..(*t).clone() });
    store.fold(vec![busy(&t, 1)], 2001, Vec::new()).await.unwrap();
    store.fold(vec![busy(&t, 2)], 2002, Vec::new()).await.unwrap();
    store.fold(vec![busy(&moved, 3)], 2003, Vec::new()).await.unwrap();
    store.close().await;
    let (store, _) = Store::open(dir.path(), &settings(), signer(1), 2).unwrap();
    store.fold(vec![busy(&moved, 4)], 2004, Vec::new()).await.unwrap();
    store.set_fleet_version(3).await.unwrap();
    store.fold(vec![busy(&moved, 5)], 2005, Vec::new()).await.unwrap();
    store.set_sealing(Sealing::Eager).await.unwrap();
    let units = all_units(&store, origin(1)).await;
    assert_chain(&units);
    let cuts: Vec<_> = units
        .iter()
        .map(|unit| (unit.header().last.0, unit.header().fleet_version, unit.header().parts[1].id))
        .collect();
    let set = |number| landfall_protocol::unit::PartId::Set(SetId(number));
    assert_eq!(cuts, [(2, 1, set(1)), (3, 1, set(2)), (4, 2, set(2)), (5, 3, set(2))]);
}

#[tokio::test]
async fn tables_that_were_learned_are_there_after_a_restart() {
    let (dir, store) = fresh(1);
    let grown = |columns: usize| {
        let mut def = (*table("t")).clone();
        def.columns.truncate(columns);
        def
    };
    let mut model = Model::new(1);
    store.learn(vec![grown(2)]).await.unwrap();
    model.fold.dictionary.learn(&grown(2));
    let t = Arc::new(grown(3));
    let batch = vec![own(5, vec![insert(&t, row(1, "a", 2))])];
    store.fold(batch.clone(), 2000, vec![(*table("u")).clone()]).await.unwrap();
    model.fold.dictionary.learn(&table("u"));
    model.fold(batch);
    store.close().await;
    let (store, _) = open(dir.path(), 1);
    model.check(&store).await;
    store.learn(vec![grown(3)]).await.unwrap();
    assert_eq!(store.statistics().commits, 0, "nothing new is nothing to write");
}

#[tokio::test]
async fn a_position_without_content_is_recorded_when_asked_or_far() {
    let (dir, store) = fresh(1);
    let lsn = START_LSN;
    assert_eq!(store.advance_lsn(lsn + 5000, Advance::WhenCheap).await, Ok(lsn));
    let log = store.watch().borrow().clone();
    assert_eq!((log.fold_lsn, log.seen_lsn), (lsn, lsn + 5000));
    assert_eq!(store.statistics().commits, 0);
    assert_eq!(store.advance_lsn(lsn + 5001, Advance::Now).await, Ok(lsn + 5001));
    let far = lsn + 5001 + (1 << 20);
    assert_eq!(store.advance_lsn(far, Advance::WhenCheap).await, Ok(far));
    assert_eq!(store.statistics().commits, 2);
    store.advance_lsn(far + 9, Advance::WhenCheap).await.unwrap();
    // As a new session of capture says it.
    assert_eq!(store.advance_lsn(far + 5, Advance::Now).await, Ok(far + 9));
    store.advance_lsn(far + 19, Advance::WhenCheap).await.unwrap();
    let behind = store.fold(Vec::new(), far, Vec::new()).await;
    assert_eq!(behind, Err(StoreError::FoldBehind { end_lsn: far, position: far + 19 }));
    store.close().await;
    let (_store, opened) = open(dir.path(), 1);
    assert_eq!(opened.log.fold_lsn, far + 19, "closing records it");
}

#[tokio::test]
async fn a_part_may_be_met_before_what_was_passed_over() {
    let (_dir, store) = fresh(1);
    let t = table("t");
    let (commit, token) = (START_LSN + 5000, vec![1]);
    store.advance_lsn(commit, Advance::WhenCheap).await.unwrap();
    // A new session begins where the store is by its disk, and has passed less than the last one.
    let part = |n| CapturedTransaction { fragment: Fragment::More, ..busy(&t, n) };
    let resume = Resume { commit_lsn: commit, token };
    let folded = store.fold_part(vec![part(1)], START_LSN + 40, resume.clone()).await.unwrap();
    assert_eq!(folded.fold_lsn, commit);
    assert_eq!(store.position().await, Ok((commit, Some(resume.clone()))));
    let last = CapturedTransaction { fragment: Fragment::Last, ..busy(&t, 2) };
    store.fold(vec![last], commit + 48, Vec::new()).await.unwrap();
    let again = store.fold_part(vec![part(3)], START_LSN + 40, resume).await;
    let behind = StoreError::FoldBehind { end_lsn: commit, position: commit + 48 };
    assert_eq!(again, Err(behind), "the transaction is folded already");
}

#[tokio::test]
async fn dirty_rows_stay_until_cleared_after_their_last_mark() {
    let (dir, store) = fresh(1);
    let t = table("t");
    store.learn(vec![(*t).clone()]).await.unwrap();
    let (theirs, others) = (foreign_units(2, &t, 1).await, foreign_units(3, &t, 1).await);
    store.append_units([theirs, others].concat(), 7).await.unwrap();
    // The apply transactions claim to have shown the row, but their images lack it.
    store.fold(vec![apply(origin(2), 1, 1, Vec::new())], 2000, Vec::new()).await.unwrap();
    let first = store.dirty_rows(10).await.unwrap();
    assert_eq!((first.len(), store.watch().borrow().dirty), (1, 1));
    store.fold(vec![apply(origin(3), 1, 1, Vec::new())], 2001, Vec::new()).await.unwrap();
    assert_eq!(store.watch().borrow().dirty, 1);
    store.clear_dirty(first.clone(), 0).await.unwrap();
    let again = store.dirty_rows(10).await.unwrap();
    assert_eq!(again.len(), 1, "it was marked again meanwhile");
    assert!(again[0].row == first[0].row && again[0].mark > first[0].mark);
    store.clear_dirty(again, 1).await.unwrap();
    let log = store.watch().borrow().clone();
    assert_eq!((log.dirty, log.repaired), (0, 1));
    store.close().await;
    assert_eq!(open(dir.path(), 1).1.log, log);
}
