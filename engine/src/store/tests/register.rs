//! The register of bundles, and stores from before there was one.

use landfall_protocol::bundle::BundleId;
use rusqlite::Connection;

use super::*;
use crate::store::{PartFate, PartRecord};

fn part(number: u32, fate: PartFate) -> PartRecord {
    PartRecord {
        bundle: BundleId::new(u64::from(number), [4; 16]),
        part: number,
        fate,
        is_last: number == 2,
        writer: origin(2),
        recipients: vec![origin(1).site, origin(3).site],
        made_ms: 7,
        made_by: "mate (uid 1000)".into(),
        at_ms: 9,
        done_by: String::new(),
        bytes: 1 << 33,
        units: 12,
        needs: [(origin(2), Seq(4))].into_iter().collect(),
        reaches: VersionVector::new(),
    }
}

#[tokio::test]
async fn parts_are_kept_as_last_noted() {
    let (dir, store) = fresh(1);
    let (first, second) = (part(1, PartFate::Waits), part(2, PartFate::Written));
    for part in [&second, &first] {
        store.record_part(part.clone()).await.unwrap();
    }
    assert_eq!(store.parts().await.unwrap(), [first.clone(), second.clone()]);
    // It was read at last; and what we wrote ourselves is read here, too.
    let (first, read) = (part(1, PartFate::Read), part(2, PartFate::Read));
    store.record_part(first.clone()).await.unwrap();
    store.record_part(read.clone()).await.unwrap();
    store.close().await;
    let store = open(dir.path(), 1).0;
    assert_eq!(store.parts().await.unwrap(), [first, second, read]);
    store.close().await;
}

#[tokio::test]
async fn a_store_of_the_format_before_is_brought_up_to_date() {
    let (dir, store) = fresh(1);
    store.close().await;
    let file = dir.path().join("landfall.db");
    let connection = Connection::open(&file).unwrap();
    let before = "DROP TABLE bundle; DROP TABLE begun; ALTER TABLE tail DROP COLUMN compacted; PRAGMA user_version = 5";
    connection.execute_batch(before).unwrap();
    drop(connection);
    let store = open(dir.path(), 1).0;
    assert_eq!(store.parts().await.unwrap(), []);
    store.record_part(part(1, PartFate::Read)).await.unwrap();
    store.close().await;
    let connection = Connection::open(&file).unwrap();
    connection.pragma_update(None, "user_version", 4).unwrap();
    drop(connection);
    assert!(Store::open(dir.path(), &settings(), signer(1), 1).is_err());
}
