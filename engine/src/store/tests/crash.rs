//! `kill -9` again and again: what was acknowledged is there, and nothing is half there.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::store::Sealing;

const ROUNDS: u64 = 40;
/// Bytes of WAL of one captured transaction in these tests.
pub(super) const LSN_STEP: u64 = 100;
/// Every this many captured transactions one shows a foreign transaction.
pub(super) const APPLY_EVERY: u64 = 5;
const FOREIGN: i64 = 400;
/// Set for the process that will be killed.
const CHILD_DIR: &str = "LANDFALL_TEST_STORE_DIR";

/// The `n`th captured transaction, from 0, of a WAL that is the same every time it is read.
pub(super) fn captured(table: &Arc<TableDef>, n: u64) -> CapturedTransaction {
    if n % APPLY_EVERY == APPLY_EVERY - 1 {
        let seq = n / APPLY_EVERY + 1;
        let shown = insert(table, row(-(seq as i64), "foreign", seq as i64));
        return apply(origin(2), seq, seq, vec![shown]);
    }
    let mut rows = vec![insert(table, row(n as i64 + 1, &"n".repeat(n as usize % 700), 0))];
    if n > 0 {
        let id = -(1 + n as i64 / APPLY_EVERY as i64 / 2);
        rows.push(update(table, row(id, "foreign", -id), row(id, "foreign", n as i64)));
    }
    own(n % 11, rows)
}

fn read_units(dir: &Path) -> Vec<Unit> {
    (1..=FOREIGN)
        .map(|n| Unit::from_store(std::fs::read(dir.join(format!("unit-{n}"))).unwrap()).unwrap())
        .collect()
}

/// Runs in the process that is killed: folds on from where the store is, and says on stderr what
/// was acknowledged.
#[tokio::test]
#[ignore = "is the child of what_was_acknowledged_survives_kill_9"]
async fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let dir = Path::new(&dir);
    let units = read_units(dir);
    let (store, opened) = open(dir, 1);
    let t = table("t");
    let mut next = (opened.log.fold_lsn - START_LSN) / LSN_STEP;
    let mut received = opened.log.received.get(origin(2)).0;
    while next < FOREIGN as u64 * APPLY_EVERY {
        let sealing = if next % 14 < 7 { Sealing::Eager } else { Sealing::Lazy };
        let length = 1 + next % 6;
        let end = START_LSN + (next + length) * LSN_STEP;
        let batch = (next..next + length).map(|n| captured(&t, n)).collect();
        let needed = ((next + length) / APPLY_EVERY).max(received) as usize;
        let new = units[received as usize..needed].to_vec();
        let (sealed, appended, folded) = tokio::join!(
            store.set_sealing(sealing),
            store.append_units(new, 7),
            store.fold(batch, end, Vec::new()),
        );
        sealed.unwrap();
        appended.unwrap();
        let folded = folded.unwrap();
        received = needed as u64;
        next += length;
        eprintln!("ack {} {} {received}.", folded.fold_lsn, folded.own_last);
    }
}

/// Starts the child, kills it after `acknowledgements`, and returns the last one it gave.
fn run_and_kill(dir: &Path, acknowledgements: u64) -> Option<[u64; 3]> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["store::tests::crash::child", "--exact", "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let parse = |line: &str| -> Option<[u64; 3]> {
        let numbers = line.strip_prefix("ack ")?.strip_suffix('.')?.split(' ');
        numbers.map(|n| n.parse().unwrap()).collect::<Vec<_>>().try_into().ok()
    };
    let mut acknowledged = lines.filter_map(|line| parse(&line));
    let mut last = acknowledged.by_ref().take(acknowledgements as usize).last();
    child.kill().unwrap();
    // What it said before it died counts as well.
    last = acknowledged.last().or(last);
    child.wait().unwrap();
    last
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), 1);
    let t = table("t");
    let units = foreign_units(2, &t, FOREIGN).await;
    for (n, unit) in (1..).zip(&units) {
        std::fs::write(dir.path().join(format!("unit-{n}")), unit.bytes()).unwrap();
    }
    let mut model = Model::new(1);
    units.iter().for_each(|unit| model.receive(unit));
    let mut folded = 0;
    for round in 0..ROUNDS {
        let acknowledged = run_and_kill(dir.path(), round * 5 % 13);
        let (store, opened) = open(dir.path(), 1);
        let log = opened.log;
        if let Some([lsn, own, received]) = acknowledged {
            assert!(log.fold_lsn >= lsn && log.own.0 >= own);
            assert!(log.received.get(origin(2)).0 >= received);
        }
        let reached = (log.fold_lsn - START_LSN) / LSN_STEP;
        assert_eq!(log.fold_lsn, START_LSN + reached * LSN_STEP, "whole batches only");
        for n in folded..reached {
            model.fold(vec![captured(&t, n)]);
        }
        folded = reached;
        model.check(&store).await;
        let held = log.received.get(origin(2)).0 as usize;
        assert_eq!(all_units(&store, origin(2)).await, units[..held]);
        assert_eq!(log.fates.applied, folded / APPLY_EVERY);
        store.close().await;
    }
    assert!(folded > ROUNDS, "the child got somewhere");
}
