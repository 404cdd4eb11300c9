//! Figures for the record: `cargo test -p landfall-engine measure -- --ignored --nocapture`.

use super::*;
use crate::store::Sealing;

const ROWS: i64 = 100_000;
const TRANSACTIONS: i64 = 20_000;

fn read(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "measures, asserts nothing"]
async fn measure_folds_of_ten_row_updates() {
    for (per_fold, sealing) in
        [(1, Sealing::Lazy), (1, Sealing::Eager), (50, Sealing::Lazy), (50, Sealing::Eager)]
    {
        let (_dir, store) = fresh(1);
        let t = table("t");
        let mut lsn = START_LSN;
        for ids in (0..ROWS).collect::<Vec<_>>().chunks(1000) {
            let rows = ids.iter().map(|id| insert(&t, row(*id, "some text", 0))).collect();
            lsn += 1;
            store.fold(vec![own(5, rows)], lsn, Vec::new()).await.unwrap();
        }
        store.set_sealing(Sealing::Eager).await.unwrap();
        store.set_sealing(sealing).await.unwrap();
        let (before, units_before) = (read("write_bytes"), store.sizes().await.unwrap());
        let count = if per_fold == 1 { TRANSACTIONS / 10 } else { TRANSACTIONS };
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as i64 % ROWS
        };
        #[expect(clippy::disallowed_methods, reason = "measures wall time")]
        let start = std::time::Instant::now();
        for n in 0..count / per_fold {
            let batch = (0..per_fold)
                .map(|_| {
                    let ids: BTreeSet<i64> = (0..10).map(|_| random()).collect();
                    let change = |id| update(&t, row(id, "some text", 0), row(id, "some text", n));
                    own(n as u64, ids.into_iter().map(change).collect())
                })
                .collect();
            lsn += 1;
            store.fold(batch, lsn, Vec::new()).await.unwrap();
        }
        let seconds = start.elapsed().as_secs_f64();
        let (written, sizes) = (read("write_bytes") - before, store.sizes().await.unwrap());
        let changes = (count * 10) as f64;
        println!(
            "{per_fold} per fold, {sealing:?}: {:.0} transactions/s, {:.0} changes/s, {:.0} B \
             written and {:.1} B of units and tail per change",
            count as f64 / seconds,
            changes / seconds,
            written as f64 / changes,
            (sizes.unit_bytes - units_before.unit_bytes + sizes.tail_bytes) as f64 / changes,
        );
    }
}
