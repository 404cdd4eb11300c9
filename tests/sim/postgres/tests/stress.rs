//! Many sessions, crashes and lost connections at once: what is seen, what is logged and what is
//! streamed tell the same.

use std::collections::BTreeMap;

use landfall_engine::capture::pgoutput::{self, Message};
use landfall_engine::capture::walsender::{Frame, Reply, StandbyStatus};
use landfall_engine::postgres::lsn::Lsn;
use tokio::sync::watch;

use super::*;

const ACCOUNTS_COUNT: i64 = 4;
const TRANSFERS: usize = 12;

/// Transfers between accounts; gives up a transaction at the first error.
async fn transfer(cluster: &Cluster, dice: &mut Dice) -> Result<(), PgError> {
    let mut session = cluster.connect(Settings::APPLICATION).await?;
    session.begin().await?;
    let (from, to) = (dice.below(ACCOUNTS_COUNT as u64), dice.below(ACCOUNTS_COUNT as u64));
    let amount = dice.below(5) as i64;
    add(&mut session, from as i64, -amount).await?;
    if dice.below(4) == 0 {
        session.set_savepoint().await?;
        add(&mut session, to as i64, 1).await?;
        session.undo().await?;
    }
    add(&mut session, to as i64, amount).await?;
    if dice.below(3) == 0 {
        let id = 100 + dice.below(3) as i64;
        session.delete(ACCOUNTS, &[key(id)]).await?;
        session.insert(ACCOUNTS, &[account(id, 0)], OnConflict::DoNothing).await?;
    }
    session.commit().await.map(drop)
}

fn total(cluster: &Cluster) -> i64 {
    cluster.view(|view| view.rows(ACCOUNTS).map(|(_, row)| balance_of(row)).sum())
}

/// Reads the stream over crashes and reconnects; says what it read when told to stop.
async fn follow(cluster: &Cluster, start: Lsn, until: watch::Receiver<Option<Lsn>>) -> Vec<u32> {
    let (mut xids, mut open, mut end) = (Vec::new(), None, start);
    while until.borrow().is_none_or(|last| end < last) {
        let Ok(mut stream) = cluster.start_replication(end).await else {
            sleep_ms(5).await;
            continue;
        };
        while until.borrow().is_none_or(|last| end < last) {
            match tokio::time::timeout(Duration::from_millis(50), stream.next()).await {
                Err(_elapsed) => {}
                Ok(Err(_lost)) => break,
                Ok(Ok(Frame::XLogData { data, .. })) => match pgoutput::decode(&data).unwrap() {
                    Message::Begin(begin) => open = Some(begin.xid.0),
                    Message::Commit(commit) => {
                        xids.push(open.take().unwrap());
                        end = commit.end_lsn;
                    }
                    _ => {}
                },
                Ok(Ok(Frame::Keepalive { wal_end, .. })) => {
                    assert!(open.is_none());
                    end = end.max(wal_end);
                }
                Ok(Ok(Frame::Ended)) => break,
            }
            let reply = Reply::NotNeeded;
            stream.queue_status(StandbyStatus { write: end, flush: end, apply: end, reply });
        }
        open = None;
    }
    xids
}

async fn disturb(cluster: &Cluster, mut dice: Dice) {
    for _ in 0..2 {
        sleep_ms(20 + dice.below(40)).await;
        cluster.cut_connections();
        sleep_ms(dice.below(30)).await;
        cluster.crash();
        sleep_ms(dice.below(20)).await;
        cluster.start();
    }
}

/// Runs it all; gives something that differs when anything does.
async fn run(cluster: &Cluster, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let start = cluster.create_slot();
    let mut session = connect(cluster).await;
    for id in 0..ACCOUNTS_COUNT {
        let row = [account(id, 100)];
        while session.insert(ACCOUNTS, &row, OnConflict::DoNothing).await.is_err() {
            session = connect(cluster).await;
        }
    }
    let (stop, until) = watch::channel(None);
    let clients = async {
        let client = |mut dice: Dice| async move {
            for _ in 0..TRANSFERS {
                let _gone = transfer(cluster, &mut dice).await;
                assert_eq!(total(cluster), ACCOUNTS_COUNT * 100);
                sleep_ms(1 + dice.below(4)).await;
            }
        };
        tokio::join!(
            client(dice.split()),
            client(dice.split()),
            client(dice.split()),
            disturb(cluster, dice.split())
        );
        // Everything that was under way is over, and on disk.
        sleep_ms(3000).await;
        cluster.write_other_log(100);
        stop.send_replace(Some(cluster.log_ends().1));
    };
    let (xids, ()) = tokio::join!(follow(cluster, start, until), clients);
    assert!(cluster.open_transactions().is_empty());
    let history = cluster.history(0);
    assert!(history.iter().map(|record| record.xid as u32).eq(xids.iter().copied()));
    assert_eq!(replayed(&history), seen(cluster));
    assert!(history.is_sorted_by_key(|record| record.lsn));
    format!("{xids:?} {:?} {:?}", seen(cluster), cluster.log_ends())
}

fn replayed(history: &[Arc<CommitRecord>]) -> BTreeMap<RowKey, Vec<Value>> {
    let mut rows = BTreeMap::new();
    for change in history.iter().flat_map(|record| &record.changes) {
        let Change::Row(RowChange { table: ACCOUNTS, old, new, .. }) = change else { continue };
        if let Some(old) = old {
            let before = rows.remove(&RowKey::new(&old[..1]));
            assert_eq!(before.as_deref(), Some(&old[..]));
        }
        if let Some(new) = new {
            assert_eq!(rows.insert(RowKey::new(&new[..1]), new.to_vec()), None);
        }
    }
    rows
}

fn seen(cluster: &Cluster) -> BTreeMap<RowKey, Vec<Value>> {
    cluster.view(|view| view.rows(ACCOUNTS).map(|(key, row)| (key.clone(), row.to_vec())).collect())
}

#[test]
fn what_is_seen_logged_and_streamed_is_the_same() {
    let mut options = options();
    options.lost_per_million = 10_000;
    options.described_again = 10;
    let seeds = std::cell::Cell::new(0);
    check_seeds(options.clone(), 0..100, async |cluster| {
        let seed = seeds.replace(seeds.get() + 1);
        run(&cluster, seed).await;
    });
    let trace = || {
        let told = std::cell::RefCell::new(Vec::new());
        check_seeds(options.clone(), 0..5, async |cluster| {
            let trace = run(&cluster, 1).await;
            told.borrow_mut().push(trace);
        });
        told.into_inner()
    };
    let (one, two) = (trace(), trace());
    assert_eq!(one, two);
    assert_ne!(one[0], one[1]);
}
