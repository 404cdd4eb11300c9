//! Others' units, and what is known of peers.

use std::collections::BTreeMap;

use landfall_protocol::codec::Writer;
use landfall_protocol::unit::{UNIT_FORMAT, UnitHash};

use super::*;
use crate::store::{Appended, Backlog, Held, PeerRecord, Sealing};
use crate::time::calendar::Month;

/// A whole unit sealed by a clone of site 2 that went another way after `common` transactions.
async fn forked_units(table: &Arc<TableDef>, common: i64) -> Vec<Unit> {
    let (_dir, store) = fresh(2);
    store.set_sealing(Sealing::Eager).await.unwrap();
    for id in 1..=common + 2 {
        let n = if id <= common { id } else { id + 1000 };
        let batch = vec![own(50 + id as u64, vec![insert(table, row(-id, "foreign", n))])];
        store.fold(batch, START_LSN + id as u64, Vec::new()).await.unwrap();
    }
    all_units(&store, origin(2)).await
}

#[tokio::test]
async fn only_units_that_go_on_with_the_chain_are_stored() {
    let (dir, store) = fresh(1);
    let t = table("t");
    let units = foreign_units(2, &t, 4).await;
    let forked = forked_units(&t, 1).await;
    assert_eq!(forked[0], units[0]);
    let append = async |unit: &Unit| store.append_units(vec![unit.clone()], 7).await.unwrap()[0];
    assert_eq!(append(&units[1]).await, Appended::Gap { held: Seq::ZERO });
    assert_eq!(store.statistics().commits, 0);
    let both = store.append_units(vec![units[0].clone(), units[1].clone()], 7).await.unwrap();
    assert_eq!(both, [Appended::Stored, Appended::Stored]);
    assert_eq!(append(&units[3]).await, Appended::Gap { held: Seq(2) });
    assert_eq!(append(&units[1]).await, Appended::Duplicate);
    assert_eq!(append(&forked[1]).await, Appended::Forked { seq: Seq(2) });
    assert_eq!(append(&forked[2]).await, Appended::Forked { seq: Seq(3) });
    assert_eq!(append(&units[2]).await, Appended::Stored);
    let log = store.watch().borrow().clone();
    assert_eq!((log.received.get(origin(2)), log.received_changes), (Seq(3), 3));
    assert_eq!(all_units(&store, origin(2)).await, units[..3], "relays pass on the same bytes");
    let held = Held { origin: origin(2), seq: Seq(3), hash: units[2].hash() };
    assert_eq!(store.held().await.unwrap(), [held]);
    for (end, hash) in [(2, Some(units[1].hash())), (3, Some(units[2].hash())), (4, None)] {
        let found = store.unit_hashes(vec![(origin(2), Seq(end)), (origin(3), Seq(1))]).await;
        assert_eq!(found.unwrap(), hash.map(|hash| (origin(2), hash)).into_iter().collect());
    }
    store.quarantine(origin(2), "forked at 2".into()).await.unwrap();
    store.close().await;
    let (store, opened) = open(dir.path(), 1);
    assert_eq!(opened.log.quarantined[&origin(2)], "forked at 2");
    assert_eq!(store.append_units(vec![units[3].clone()], 8).await.unwrap(), [Appended::Stored]);
}

#[tokio::test]
async fn own_units_from_outside_are_known_or_a_fork() {
    let (_dir, store) = fresh(2);
    let t = table("t");
    let units = foreign_units(2, &t, 2).await;
    let append = async |unit: &Unit| store.append_units(vec![unit.clone()], 7).await.unwrap()[0];
    assert_eq!(append(&units[0]).await, Appended::Forked { seq: Seq(1) }, "a lost life's unit");
    store.set_sealing(Sealing::Eager).await.unwrap();
    let batch = vec![own(51, vec![insert(&t, row(-1, "foreign", 1))])];
    store.fold(batch, 2000, Vec::new()).await.unwrap();
    assert_eq!(append(&units[0]).await, Appended::Duplicate);
    assert_eq!(append(&units[1]).await, Appended::Forked { seq: Seq(2) });
}

/// A unit of so many transactions after the first; of each part its number, its count, and how much
/// it holds.
fn boasting(after_first: u64, parts: &[(u64, u64, u8)]) -> Unit {
    let mut header = Writer::new();
    header.varint(1);
    header.origin(origin(2));
    header.varint(1);
    header.varint(after_first);
    header.u8(0);
    header.raw(&UnitHash::GENESIS.0);
    for number in [5, 0, 0, parts.len() as u64] {
        header.varint(number);
    }
    for (number, count, bytes) in parts {
        for number in [*number, *count, (*bytes).into()] {
            header.varint(number);
        }
        header.raw(&[0; 32]);
    }
    let mut bytes = Writer::new();
    bytes.u8(UNIT_FORMAT);
    bytes.bytes(&header.into_bytes());
    bytes.raw(&[0; 64]);
    for (.., length) in parts {
        bytes.u8(0);
        bytes.bytes(&vec![0; (*length).into()]);
    }
    Unit::from_store(bytes.into_bytes()).unwrap()
}

#[tokio::test]
async fn a_header_that_counts_more_than_its_content_holds_is_not_stored() {
    let (_dir, store) = fresh(1);
    let most = u64::MAX;
    for unit in [
        boasting(most >> 2, &[(0, (most >> 2) + 1, 2)]),
        boasting(0, &[(0, 2, 4)]),
        boasting(0, &[(0, 1, 2), (1, 3, 11)]),
        boasting(0, &[(0, 1, 2), (1, most, 8), (2, most, 8)]),
    ] {
        assert_eq!(store.append_units(vec![unit], 7).await.unwrap(), [Appended::Malformed]);
        assert_eq!(store.sizes().await.unwrap().units, 0);
    }
    let unit = boasting(0, &[(0, 1, 2), (1, 2, 8)]);
    assert_eq!(store.append_units(vec![unit], 7).await.unwrap(), [Appended::Stored]);
}

#[tokio::test]
async fn the_inbox_starts_in_the_middle_of_a_unit_and_ends_at_its_limit() {
    let (_far, far) = fresh(2);
    let t = table("t");
    for n in 0..4i64 {
        let batch =
            (1..=5).map(|part| own(5, vec![insert(&t, row(n * 5 + part, "foreign", 0))])).collect();
        far.fold(batch, 2000 + n as u64, Vec::new()).await.unwrap();
        far.set_sealing(Sealing::Eager).await.unwrap();
        far.set_sealing(Sealing::Lazy).await.unwrap();
    }
    let units = all_units(&far, origin(2)).await;
    let (_dir, store) = fresh(1);
    store.append_units(units.clone(), 7).await.unwrap();
    let firsts = async |after: u64, bytes: usize| -> Vec<u64> {
        let inbox = store.inbox(origin(2), Seq(after), bytes).await.unwrap();
        let raw = store.units_after(origin(2), Seq(after), bytes).await.unwrap();
        assert!(inbox.iter().all(|open| {
            open.transactions.first().unwrap().seq == open.header.first
                && open.transactions.last().unwrap().seq == open.header.last
        }));
        assert_eq!(inbox.first().map(|open| open.hash), raw.first().map(Unit::hash));
        inbox.iter().map(|open| open.header.first.0).collect()
    };
    assert_eq!(firsts(0, usize::MAX).await, [1, 6, 11, 16]);
    assert_eq!(firsts(7, usize::MAX).await, [6, 11, 16]);
    assert_eq!(firsts(5, 1).await, [6], "one at least");
    assert_eq!(firsts(20, usize::MAX).await, [] as [u64; 0]);
    let plain = |unit: &Unit| unit.header().parts.iter().map(|part| part.plain_bytes).sum::<u64>();
    let two = (plain(&units[0]) + plain(&units[1])) as usize;
    assert_eq!(firsts(0, two).await, [1, 6]);
}

#[tokio::test]
async fn the_backlog_counts_what_a_peer_lacks() {
    let (_dir, store) = fresh(1);
    let t = table("t");
    let units = foreign_units(2, &t, 3).await;
    let length = |unit: &Unit| unit.bytes().len() as u64;
    store.append_units(units.clone(), 7).await.unwrap();
    let backlog = async |seqs: &[(u16, u64)]| {
        let vector = seqs.iter().map(|(site, seq)| (origin(*site), Seq(*seq))).collect();
        store.backlog(vector).await.unwrap()
    };
    let last_two = Backlog { changes: 2, bytes: length(&units[1]) + length(&units[2]) };
    assert_eq!(backlog(&[]).await.changes, 3);
    assert_eq!(backlog(&[(2, 1)]).await, last_two);
    assert_eq!(backlog(&[(2, 3)]).await, Backlog::default());
    assert_eq!(backlog(&[(2, 99)]).await, Backlog::default());
    let batch = vec![own(5, vec![insert(&t, row(1, "a", 0)), insert(&t, row(2, "b", 0))])];
    store.fold(batch, 2000, Vec::new()).await.unwrap();
    let sizes = store.sizes().await.unwrap();
    assert_eq!((sizes.tail_changes, sizes.units), (2, 3));
    let tail = Backlog { changes: 2, bytes: sizes.tail_bytes };
    assert_eq!(backlog(&[(2, 3)]).await, tail, "what is not sealed counts too");
    store.set_sealing(Sealing::Eager).await.unwrap();
    assert_eq!(backlog(&[(2, 3)]).await.changes, 2);
    assert_eq!(backlog(&[(2, 3), (1, 1)]).await, Backlog::default());
    assert_eq!(store.sizes().await.unwrap().pending[&origin(2)], 3);
    let shown = (1..=2).map(|n| insert(&t, row(-n, "foreign", n))).collect();
    store.fold(vec![apply(origin(2), 1, 2, shown)], 2001, Vec::new()).await.unwrap();
    assert_eq!(store.sizes().await.unwrap().pending[&origin(2)], 1);
}

#[tokio::test]
async fn peers_are_kept_as_last_noted() {
    let (dir, store) = fresh(1);
    let mut peer = PeerRecord {
        site: origin(2).site,
        received: [(origin(1), Seq(4))].into_iter().collect(),
        applied: VersionVector::new(),
        contact_ms: 99,
        bytes_in: 1,
        bytes_out: u64::MAX,
        life: None,
        months: BTreeMap::new(),
    };
    store.record_peer(peer.clone()).await.unwrap();
    peer.contact_ms = 100;
    let life = Some(origin(3).incarnation);
    let months = [(Month::new(682), 7), (Month::new(683), u64::MAX)].into();
    let other = PeerRecord { site: origin(3).site, life, months, ..peer.clone() };
    store.record_peer(peer.clone()).await.unwrap();
    store.record_peer(other.clone()).await.unwrap();
    store.close().await;
    assert_eq!(open(dir.path(), 1).0.peers().await.unwrap(), [peer, other]);
}
