//! What a walsender sends, and what its client's reports do.

use futures_util::FutureExt as _;
use landfall_engine::capture::pgoutput::{self, Column, Message, OldRow};
use landfall_engine::capture::walsender::{Frame, Reply, StandbyStatus};
use landfall_engine::postgres::lsn::Lsn;

use super::*;

/// Short words for what the stream has of the next commits.
async fn read(stream: &mut WalStream, commits: usize) -> (Vec<String>, Lsn) {
    let (mut words, mut end, mut seen) = (Vec::new(), Lsn::ZERO, 0);
    while seen < commits {
        let Frame::XLogData { data, .. } = stream.next().await.unwrap() else { continue };
        let message = pgoutput::decode(&data).unwrap();
        words.push(word(&message));
        if let Message::Commit(commit) = message {
            assert!(commit.end_lsn > commit.commit_lsn && commit.commit_lsn >= end);
            (end, seen) = (commit.end_lsn, seen + 1);
        }
    }
    (words, end)
}

fn word(message: &Message<'_>) -> String {
    let row = |tuple: &pgoutput::Tuple<'_>| -> String {
        let text = |column| match column {
            Column::Text(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        };
        tuple.columns().map(text).collect::<Vec<_>>().join(",")
    };
    match message {
        Message::Begin(begin) => format!("begin {}", begin.xid.0),
        Message::Commit(_) => "commit".to_owned(),
        Message::Relation(relation) => format!("{}.{}", relation.schema, relation.name),
        Message::Insert(insert) => format!("+{}", row(&insert.new)),
        Message::Update(update) => match &update.old {
            Some(OldRow::Full(old)) => format!("{}>{}", row(old), row(&update.new)),
            _ => "update without old row".to_owned(),
        },
        Message::Delete(delete) => match &delete.old {
            OldRow::Full(old) => format!("-{}", row(old)),
            OldRow::Key(_) => "delete by key".to_owned(),
        },
        Message::Logical(logical) => {
            format!("{}:{}", logical.prefix, String::from_utf8_lossy(logical.content))
        }
        other => format!("{other:?}"),
    }
}

fn status(position: Lsn) -> StandbyStatus {
    StandbyStatus { write: position, flush: position, apply: position, reply: Reply::NotNeeded }
}

#[test]
fn commits_come_in_their_order_as_pgoutput_writes_them() {
    check(options(), async |cluster| {
        let start = cluster.create_slot();
        let (mut one, mut other) = (begun(&cluster).await, begun(&cluster).await);
        insert(&mut one, 1, 10).await.unwrap();
        insert(&mut other, 2, 20).await.unwrap();
        other.emit("test", b"hello").await.unwrap();
        other.commit().await.unwrap();
        add(&mut one, 2, 1).await.unwrap();
        one.delete(ACCOUNTS, &[key(1)]).await.unwrap();
        one.commit().await.unwrap();
        let mut stream = cluster.start_replication(start).await.unwrap();
        let (words, _) = read(&mut stream, 2).await;
        let expected = [
            "begin 701",
            "public.accounts",
            "+2,20,note",
            "test:hello",
            "commit",
            "begin 700",
            "+1,10,note",
            "2,20,note>2,21,note",
            "-1,10,note",
            "commit",
        ];
        assert_eq!(words, expected);
    });
}

#[test]
fn only_what_is_on_disk_is_sent_and_before_it_is_visible() {
    let mut options = options();
    options.pauses = Pauses { yields: 0, sleeps: 100, sleep_ms_max: 20 };
    let early = std::cell::Cell::new(0);
    check(options, async |cluster| {
        let start = cluster.create_slot();
        let mut stream = cluster.start_replication(start).await.unwrap();
        let mut session = connect(&cluster).await;
        let watch = async {
            let (_, end) = read(&mut stream, 1).await;
            early.set(early.get() + usize::from(shown(&cluster, 1).is_none()));
            assert!(end <= cluster.log_ends().1);
        };
        let (inserted, ()) = tokio::join!(insert(&mut session, 1, 10), watch);
        assert_eq!(inserted, Ok(1));
    });
    assert!(early.get() > 5, "{}", early.get());
}

#[test]
fn a_new_stream_begins_where_it_is_told_but_not_before_what_is_confirmed() {
    check(options(), async |cluster| {
        let start = cluster.create_slot();
        let mut session = connect(&cluster).await;
        for id in 1..=3 {
            insert(&mut session, id, id).await.unwrap();
        }
        let mut stream = cluster.start_replication(start).await.unwrap();
        let (_, first) = read(&mut stream, 1).await;
        assert_eq!(refused(cluster.start_replication(start).await), "55006");
        drop(stream);
        sleep_ms(30).await;
        let mut stream = cluster.start_replication(first).await.unwrap();
        let (words, second) = read(&mut stream, 1).await;
        assert_eq!(words[0], "begin 701");
        stream.queue_status(status(second));
        stream.flush_writes().unwrap();
        assert_eq!(cluster.confirmed(), Some(second));
        drop(stream);
        sleep_ms(30).await;
        let mut stream = cluster.start_replication(start).await.unwrap();
        assert_eq!(read(&mut stream, 1).await.0[0], "begin 702");
    });
}

#[test]
fn what_is_confirmed_may_go_back_in_a_crash_unless_a_checkpoint_kept_it() {
    check(options(), async |cluster| {
        let start = cluster.create_slot();
        let mut session = connect(&cluster).await;
        insert(&mut session, 1, 1).await.unwrap();
        let mut stream = cluster.start_replication(start).await.unwrap();
        let (_, end) = read(&mut stream, 1).await;
        stream.queue_status(status(end));
        stream.flush_writes().unwrap();
        cluster.crash();
        assert_eq!(stream.next().await.unwrap_err(), PgError::Lost);
        cluster.start();
        assert_eq!(cluster.confirmed(), Some(start));
        let mut stream = cluster.start_replication(start).await.unwrap();
        read(&mut stream, 1).await;
        stream.queue_status(status(end));
        stream.flush_writes().unwrap();
        sleep_ms(11_000).await;
        cluster.crash();
        cluster.start();
        assert_eq!(cluster.confirmed(), Some(end));
    });
}

#[test]
fn a_client_that_has_all_is_told_how_far_the_log_is() {
    check(options(), async |cluster| {
        let start = cluster.create_slot();
        let mut stream = cluster.start_replication(start).await.unwrap();
        stream.queue_status(status(start));
        cluster.write_other_log(10_000);
        let (end, _) = cluster.log_ends();
        let Frame::Keepalive { wal_end, .. } = stream.next().await.unwrap() else {
            panic!("nothing was committed");
        };
        assert_eq!(wal_end, end);
        assert!(cluster.retained() >= 10_000);
        stream.queue_status(status(wal_end));
        stream.flush_writes().unwrap();
        assert_eq!(cluster.retained(), 0);
    });
}

#[test]
fn a_silent_client_is_asked_and_then_dropped() {
    check(options(), async |cluster| {
        let start = cluster.create_slot();
        let mut stream = cluster.start_replication(start).await.unwrap();
        stream.queue_status(status(start));
        assert!(stream.next().now_or_never().is_none());
        let started = Instant::now();
        let frame = stream.next().await.unwrap();
        assert!(matches!(frame, Frame::Keepalive { reply_requested: true, .. }), "{frame:?}");
        assert_eq!(started.elapsed().as_secs(), 30);
        assert_eq!(stream.next().await.unwrap_err(), PgError::Lost);
        assert_eq!(started.elapsed().as_secs(), 60);
    });
}

#[test]
fn commits_are_released_by_reports_once_the_client_has_caught_up() {
    let mut options = options();
    options.has_sync_standby = true;
    check(options, async |cluster| {
        let start = cluster.create_slot();
        let mut stream = cluster.start_replication(start).await.unwrap();
        // It counts from its first report on.
        stream.queue_status(status(start));
        for (id, sync) in [SyncCommit::RemoteWrite, SyncCommit::On, SyncCommit::RemoteApply]
            .into_iter()
            .enumerate()
        {
            let mut session =
                cluster.connect(Settings { sync, ..Settings::APPLICATION }).await.unwrap();
            let follow = async {
                let (_, end) = read(&mut stream, 1).await;
                let before = Lsn(end.0 - 1);
                let (write, flush, apply) = match sync {
                    SyncCommit::RemoteWrite => (end, before, before),
                    SyncCommit::On => (end, end, before),
                    _ => (end, end, end),
                };
                sleep_ms(100).await;
                assert_eq!(shown(&cluster, id as i64), None);
                stream.queue_status(StandbyStatus { write, flush, apply, ..status(end) });
                // Reading on is what brings it to the end of the log.
                drop(tokio::time::timeout(Duration::from_millis(50), stream.next()).await);
            };
            let (inserted, ()) = tokio::join!(insert(&mut session, id as i64, 1), follow);
            assert_eq!(inserted, Ok(1));
        }
    });
}

#[test]
fn an_orderly_end_says_goodbye() {
    check(options(), async |cluster| {
        let start = cluster.create_slot();
        let mut stream = cluster.start_replication(start).await.unwrap();
        stream.queue_status(status(start));
        stream.flush_writes().unwrap();
        cluster.shut_down();
        assert!(matches!(stream.next().await, Ok(Frame::Ended)));
        cluster.start();
        assert!(cluster.is_up());
    });
}
