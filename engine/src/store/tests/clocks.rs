//! Row clocks on their way from the log into the table.

use super::*;
use crate::store::StoreError;

async fn count(store: &Store, sql: &'static str) -> i64 {
    let read = move |writer: &mut crate::store::Writer<'_>| {
        let counted = writer.db.row(sql, [], |row| Ok(row.get::<_, i64>(0)?))?;
        Ok(counted.unwrap_or_default())
    };
    store.write(0, read).await.unwrap()
}

#[tokio::test]
async fn clocks_survive_sweeps_and_new_starts() {
    let (dir, mut store) = fresh(1);
    let t = table("t");
    let mut model = Model::new(1);
    let (mut seed, mut lsn, mut swept, mut logged) = (1u64, START_LSN, 0, 0);
    for step in 0..150 {
        let mut rows = Vec::new();
        for _ in 0..1 + step % 9 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let id = (seed >> 33) as i64 % 60;
            rows.push(update(&t, row(id, "text", -1), row(id, "text", step)));
        }
        let batch = vec![own(5, rows)];
        lsn += 1;
        store.fold(batch.clone(), lsn, Vec::new()).await.unwrap();
        model.fold(batch);
        model.check(&store).await;
        if step % 20 == 19 {
            store.close().await;
            store = open(dir.path(), 1).0;
        }
        swept = swept.max(count(&store, "SELECT count(*) FROM clock").await);
        logged = logged.max(count(&store, "SELECT count(*) FROM clock_log").await);
    }
    model.check(&store).await;
    assert!(swept > 30 && logged > 1, "{swept} in the table, {logged} in the log");
    assert!(logged < 30, "the log is cut off behind a sweep, not {logged} long");
}

#[tokio::test]
async fn a_sweep_takes_many_rounds_and_keeps_what_is_written_behind_it() {
    let (dir, store) = fresh(1);
    let t = table("t");
    let mut model = Model::new(1);
    let all: Vec<_> = (0..500).map(|id| insert(&t, row(id, "text", 0))).collect();
    let batch: Vec<_> = all.chunks(5).map(|rows| own(5, rows.to_vec())).collect();
    for (n, captured) in batch.into_iter().enumerate() {
        store.fold(vec![captured.clone()], START_LSN + n as u64, Vec::new()).await.unwrap();
        model.fold(vec![captured]);
        let again = own(5, vec![update(&t, row(0, "text", -1), row(0, "text", n as i64))]);
        store.fold(vec![again.clone()], START_LSN + n as u64, Vec::new()).await.unwrap();
        model.fold(vec![again]);
    }
    model.check(&store).await;
    store.close().await;
    model.check(&open(dir.path(), 1).0).await;
}

#[tokio::test]
async fn flipped_bits_in_the_clock_log_are_noticed_at_the_start() {
    let (dir, store) = fresh(1);
    let t = table("t");
    store.fold(vec![own(5, vec![insert(&t, row(1, "a", 0))])], 2000, Vec::new()).await.unwrap();
    assert_eq!(count(&store, "SELECT count(*) FROM clock_log").await, 1);
    let data = store
        .write(0, |writer| {
            let sql = "SELECT data FROM clock_log";
            Ok(writer.db.row(sql, [], |row| Ok(row.get::<_, Vec<u8>>(0)?))?.unwrap_or_default())
        })
        .await
        .unwrap();
    store.close().await;
    let path = dir.path().join("landfall.db");
    let sound = std::fs::read(&path).unwrap();
    let at = sound.windows(data.len()).rposition(|window| window == data).unwrap();
    for place in at..at + data.len() {
        let mut damaged = sound.clone();
        damaged[place] ^= 1 << (place % 8);
        std::fs::write(&path, &damaged).unwrap();
        let refused = Store::open(dir.path(), &settings(), signer(1), 1).map(drop).unwrap_err();
        assert_eq!(refused, StoreError::corrupt("clock_log", 1));
    }
}
