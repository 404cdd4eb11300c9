//! Parked changes on the list, into the clocks, and off the list.

use landfall_protocol::fold::{ChangeId, Fates, Obstacle};

use super::super::ParkedPlace;
use super::*;

/// The table before it had its last column.
fn narrow() -> Arc<TableDef> {
    let mut def = TableDef::clone(&table("a"));
    def.columns.pop();
    Arc::new(def)
}

#[tokio::test]
async fn a_parked_change_keeps_its_place_until_it_is_free() {
    let wide = table("a");
    let units = foreign_units(2, &wide, 3).await;
    let (dir, store) = fresh(1);
    store.append_units(units, 7).await.unwrap();
    store.learn(vec![TableDef::clone(&narrow())]).await.unwrap();
    let shown =
        (1..=3).map(|id| insert(&narrow(), vec![Value::Int(-id), Value::Text("foreign".into())]));
    let batch = vec![apply(origin(2), 1, 3, shown.collect())];
    store.fold(batch, START_LSN + 100, Vec::new()).await.unwrap();
    let first = ParkedPlace::default();
    let page = store.parked(first, 2).await.unwrap();
    assert_eq!((page.entries.len(), page.next.is_some()), (2, true));
    let rest = store.parked(page.next.unwrap(), 2).await.unwrap();
    assert_eq!((rest.entries.len(), rest.next), (1, None));
    assert!(page.entries.iter().all(|e| e.obstacle == Obstacle::NoColumn && e.columns == ["n"]));
    let fates = || store.watch().borrow().fates;
    assert_eq!(fates(), Fates { parked: 3, ..Fates::default() });

    // Without the column nothing is to be joined.
    let ids: Vec<ChangeId> = [page.entries, rest.entries].concat().iter().map(|e| e.id).collect();
    assert!(store.rejoin_parked(ids.clone()).await.unwrap().moved.is_empty());
    store.learn(vec![TableDef::clone(&wide)]).await.unwrap();
    let rejoined = store.rejoin_parked(ids.clone()).await.unwrap();
    assert!(rejoined.entries.iter().all(|entry| entry.columns.is_empty()));
    assert_eq!(fates().parked, 3);
    store.keep_parked(vec![ids[2]], Obstacle::Refused).await.unwrap();
    assert_eq!(store.free_parked(ids[..2].to_vec()).await, Ok(2));
    assert_eq!(store.free_parked(ids[..2].to_vec()).await, Ok(0));
    assert_eq!(fates(), Fates { applied: 2, parked: 1, ..Fates::default() });
    store.close().await;

    let (store, opened) = open(dir.path(), 1);
    assert_eq!(opened.log.fates, Fates { applied: 2, parked: 1, ..Fates::default() });
    let left = store.parked(first, 9).await.unwrap().entries;
    assert_eq!(
        left.iter().map(|e| (e.id, e.obstacle)).collect::<Vec<_>>(),
        [(ids[2], Obstacle::Refused)]
    );
    // Something newer came over it meanwhile.
    let newer = update(&wide, row(-3, "foreign", 3), row(-3, "own", 4));
    store.fold(vec![own(900, vec![newer])], START_LSN + 200, Vec::new()).await.unwrap();
    assert_eq!(store.free_parked(vec![ids[2]]).await, Ok(1));
    assert_eq!(store.watch().borrow().fates, Fates { applied: 2, merged: 1, ..Fates::default() });
    store.close().await;
}
