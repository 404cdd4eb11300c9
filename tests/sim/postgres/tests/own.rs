//! Tables of ours: progress, and lines for humans.

use landfall_engine::postgres::apply::ParkedLine;
use landfall_engine::postgres::history::{ConflictLine, Side, Wrote};
use landfall_protocol::clock::{Hlc, Stamp};
use landfall_protocol::id::Origin;
use landfall_protocol::id::Seq;

use super::super::instance::{META, PROGRESS};
use super::*;

const ORIGIN: &str = "2.7";

fn origin() -> Origin {
    ORIGIN.parse().unwrap()
}

fn progress_row(seq: i64) -> Arc<[Value]> {
    [Value::Text(ORIGIN.into()), Value::Int(seq)].into()
}

fn conflict() -> Line {
    let side = |seq| Side {
        stamp: Stamp::new(Hlc::from_ms(seq), origin(), Seq(seq)),
        name: "ship".to_owned(),
        actor: None,
        wrote: Wrote::Unknown,
    };
    Line::Conflict(ConflictLine {
        table: "public.accounts".to_owned(),
        row_key: "1".to_owned(),
        column: None,
        rule: "last_writer_wins",
        key: Vec::new(),
        winner: side(2),
        loser: side(1),
        row: None,
    })
}

fn parked() -> Line {
    Line::Parked(ParkedLine {
        origin: origin(),
        seq: Seq(1),
        index: 0,
        table: "public.accounts".to_owned(),
        row_key: "1".to_owned(),
        op: "insert",
        change: String::new(),
        reason: String::new(),
        advice: String::new(),
    })
}

#[test]
fn progress_and_lines_are_part_of_their_transaction() {
    check(options(), async |cluster| {
        assert_eq!(cluster.table(&TableName::new("public", "accounts")), Some(ACCOUNTS));
        assert_eq!(cluster.view(|view| view.tables().count()), 2);
        let mut apply = connect(&cluster).await;
        let rows = [progress_row(0)];
        apply.insert(PROGRESS, &rows, OnConflict::DoNothing).await.unwrap();
        apply.set_tag(Some(77));
        for commits in [false, true] {
            apply.begin().await.unwrap();
            let origin = [RowKey::new(&progress_row(0)[..1])];
            apply.update(PROGRESS, &origin, |_, _| Some(progress_row(3).to_vec())).await.unwrap();
            apply.set_savepoint().await.unwrap();
            apply.write_lines(vec![conflict()]).await.unwrap();
            apply.undo().await.unwrap();
            insert(&mut apply, 1, 10).await.unwrap();
            apply.write_lines(vec![parked(), conflict()]).await.unwrap();
            match commits {
                true => drop(apply.commit().await.unwrap()),
                false => apply.rollback().await.unwrap(),
            }
            let (rows, progress) = apply.select_all(ACCOUNTS).await.unwrap();
            let seq = if commits { 3 } else { 0 };
            assert_eq!(progress, [(ORIGIN.to_owned(), seq)]);
            assert_eq!(progress, apply.progress().await.unwrap());
            assert!(cluster.view(|view| view.progress().eq(progress)));
            assert_eq!(rows.len(), usize::from(commits));
            assert_eq!(cluster.view(|view| view.lines().len()), 2 * usize::from(commits));
        }
        let record: Arc<CommitRecord> = cluster.history(0).pop().unwrap();
        let [Line::Parked(parked), Line::Conflict(conflict)] = &record.lines[..] else {
            panic!("{:?}", record.lines);
        };
        assert_eq!((parked.origin, conflict.winner.stamp.txn.origin), (origin(), origin()));
        let rows = record.changes.iter().filter_map(|change| match change {
            Change::Row(RowChange { table, old, .. }) => Some((*table, old.is_some())),
            Change::Message { .. } => None,
        });
        assert!(rows.eq([(PROGRESS, true), (ACCOUNTS, false)]));
        assert_eq!(record.tag, Some(77));
        assert!(!apply.is_lost());
        cluster.shut_down();
        cluster.start();
        assert_eq!(cluster.view(|view| view.lines().len()), 2);
        assert!(matches!(apply.progress().await, Err(PgError::Lost)) && apply.is_lost());
    });
}

#[test]
fn the_token_of_the_database_can_be_kept_by_whoever_locks_it() {
    check(options(), async |cluster| {
        let token = |text: &str| -> Arc<[Value]> {
            [Value::Text("token".into()), Value::Text(text.into())].into()
        };
        let place = [RowKey::new(&token("")[..1])];
        let mut one = begun(&cluster).await;
        assert_eq!(one.insert(META, &[token("")], OnConflict::DoNothing).await, Ok(1));
        assert_eq!(one.lock(META, &place, Strength::Update).await.unwrap().len(), 1);
        one.update(META, &place, |_, _| Some(token("1.a").to_vec())).await.unwrap();
        assert_eq!(one.select(META, &place).await, Ok(vec![Some(token("1.a"))]));
        let mut other = connect(&cluster).await;
        assert_eq!(other.select(META, &place).await, Ok(vec![None]));
        one.commit().await.unwrap();
        assert_eq!(other.insert(META, &[token("")], OnConflict::DoNothing).await, Ok(0));
    });
}
