//! Beginnings of units, and stores from before they were kept.

use landfall_protocol::wire::{Begun, BegunMark};
use rusqlite::Connection;

use super::*;
use crate::store::{BEGUN_UNIT_BYTES_MAX, BegunFate, MoreBegun};

const LENGTH: usize = 20 << 20;

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|n| ((n * n) >> 3) as u8).collect()
}

/// What came of a unit between two places.
fn more(unit: &[u8], from: usize, to: usize) -> MoreBegun {
    MoreBegun {
        after: Seq::ZERO,
        length: LENGTH,
        behind: (from > 0).then(|| (from, BegunMark::of(&unit[..from]))),
        bytes: unit[from..to].to_vec(),
        mark: BegunMark::of(&unit[..to]),
    }
}

async fn keep(store: &Store, site: u16, more: MoreBegun) -> BegunFate {
    store.keep_begun(origin(site), more).await.unwrap()
}

/// So much of the first unit of this site is kept, and reads back.
async fn check(store: &Store, site: u16, expected: &[u8]) {
    let begun = store.begun(origin(site), Seq::ZERO).await.unwrap();
    assert_eq!(begun, Begun::of(expected, LENGTH));
    let Some(begun) = begun else { return };
    let bytes = store.begun_bytes(origin(site), Seq::ZERO, begun).await.unwrap();
    assert!(bytes.as_deref() == Some(expected), "other bytes");
}

#[tokio::test]
async fn a_beginning_grows_and_survives_a_restart() {
    let (dir, store) = fresh(1);
    let unit = noise(9_000);
    assert_eq!(keep(&store, 2, more(&unit, 100, 200)).await, BegunFate::Detached);
    assert_eq!(keep(&store, 2, more(&unit, 0, 1_000)).await, BegunFate::Settled);
    assert_eq!(keep(&store, 2, more(&unit, 1_000, 5_000)).await, BegunFate::Settled);
    check(&store, 2, &unit[..5_000]).await;
    store.close().await;
    let store = open(dir.path(), 1).0;
    assert_eq!(keep(&store, 2, more(&unit, 5_000, 6_000)).await, BegunFate::Settled);
    check(&store, 2, &unit[..6_000]).await;
    // Another carrier is behind, then further, then goes on behind what it never said.
    assert_eq!(keep(&store, 2, more(&unit, 0, 3_000)).await, BegunFate::Settled);
    check(&store, 2, &unit[..6_000]).await;
    assert_eq!(keep(&store, 2, more(&unit, 3_000, 7_000)).await, BegunFate::Detached);
    assert_eq!(keep(&store, 2, more(&unit, 0, 7_000)).await, BegunFate::Settled);
    check(&store, 2, &unit[..7_000]).await;
    // A beginning of it was told before it grew; one of other bytes never.
    let told = Begun::of(&unit[..6_500], LENGTH).unwrap();
    let bytes = store.begun_bytes(origin(2), Seq::ZERO, told).await.unwrap();
    assert!(bytes.as_deref() == Some(&unit[..6_500]));
    let other = Begun { mark: BegunMark::of(b"other"), ..told };
    assert_eq!(store.begun_bytes(origin(2), Seq::ZERO, other).await.unwrap(), None);
    assert_eq!(store.begun(origin(2), Seq(3)).await.unwrap(), None);
    store.close().await;
}

#[tokio::test]
async fn a_beginning_goes_when_its_unit_is_stored_or_its_origin_set_aside() {
    let (_dir, store) = fresh(1);
    let unit = noise(3_000);
    for site in [2, 3] {
        keep(&store, site, more(&unit, 0, 3_000)).await;
    }
    let whole = foreign_units(2, &table("t"), 1).await;
    store.append_units(whole, 1).await.unwrap();
    store.quarantine(origin(3), "test".into()).await.unwrap();
    for site in [2, 3] {
        check(&store, site, &[]).await;
        // What still comes on another stream is of no use.
        assert_eq!(keep(&store, site, more(&unit, 0, 1_000)).await, BegunFate::Settled);
        check(&store, site, &[]).await;
    }
    assert_eq!(keep(&store, 1, more(&unit, 0, 1_000)).await, BegunFate::Settled);
    check(&store, 1, &[]).await;
    store.close().await;
}

#[tokio::test]
async fn the_oldest_goes_when_there_is_too_much() {
    let (_dir, store) = fresh(1);
    let unit = noise(BEGUN_UNIT_BYTES_MAX - 1_000);
    for site in [2, 3] {
        keep(&store, site, more(&unit, 0, unit.len() - 2_000)).await;
    }
    keep(&store, 2, more(&unit, unit.len() - 2_000, unit.len())).await;
    keep(&store, 4, more(&unit, 0, 9_000)).await;
    check(&store, 2, &unit).await;
    check(&store, 3, &[]).await;
    check(&store, 4, &unit[..9_000]).await;
    store.close().await;
}

#[tokio::test]
async fn what_is_damaged_is_asked_for_again() {
    let (dir, store) = fresh(1);
    let unit = noise(9_000);
    keep(&store, 2, more(&unit, 0, 5_000)).await;
    keep(&store, 2, more(&unit, 5_000, 9_000)).await;
    let told = store.begun(origin(2), Seq::ZERO).await.unwrap().unwrap();
    store.close().await;
    let connection = Connection::open(dir.path().join("landfall.db")).unwrap();
    for (at, is_told) in [(0, true), (5_000, false)] {
        let select = "SELECT data FROM begun WHERE at = ?1";
        let mut data: Vec<u8> = connection.query_row(select, [at], |row| row.get(0)).unwrap();
        data[50] ^= 4;
        connection.execute("UPDATE begun SET data = ?1 WHERE at = ?2", (data, at)).unwrap();
        let store = open(dir.path(), 1).0;
        assert_eq!(store.begun(origin(2), Seq::ZERO).await.unwrap(), is_told.then_some(told));
        assert_eq!(store.begun_bytes(origin(2), Seq::ZERO, told).await.unwrap(), None);
        assert!(store.damage().is_none(), "nothing depends on it");
        store.close().await;
    }
    let store = open(dir.path(), 1).0;
    assert_eq!(keep(&store, 2, more(&unit, 0, 1_000)).await, BegunFate::Settled);
    check(&store, 2, &unit[..1_000]).await;
    store.close().await;
}

#[tokio::test]
async fn a_store_from_before_they_were_kept_is_brought_up_to_date() {
    let (dir, store) = fresh(1);
    store.close().await;
    let connection = Connection::open(dir.path().join("landfall.db")).unwrap();
    connection.execute_batch("DROP TABLE begun; PRAGMA user_version = 7").unwrap();
    drop(connection);
    let store = open(dir.path(), 1).0;
    keep(&store, 2, more(&noise(10), 0, 10)).await;
    check(&store, 2, &noise(10)).await;
    store.close().await;
}
