//! Streaming: frames, positions, feedback, and how a stream ends.

use futures_util::FutureExt as _;
use std::thread;
use std::time::UNIX_EPOCH;

use landfall_engine::capture::pgoutput::{self, Column, Message};
use landfall_engine::capture::walsender::{Frame, Reply, WalsenderError};

use super::{
    Server, capture, keepalive, run, sql, sql_text, status, transaction, wait_until, walsender,
    with_server,
};

#[test]
fn changes_arrive_with_whole_old_rows_and_canonical_text() {
    with_server(async |server| {
        let settings = server.database("changes").await;
        let client = sql(&settings).await;
        let ddl = "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, span interval, f float8,
                                   raw bytea, big text);
                   ALTER TABLE t ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL";
        client.batch_execute(ddl).await.expect("ddl");
        let start = capture(&settings, &client, "changes").await;
        let sender = walsender(&settings).await;
        assert!(sender.parameter("server_version").is_some());
        let mut stream = sender.start_replication("changes", start, "p").await.expect("start");
        let name = "SELECT application_name FROM pg_stat_replication r JOIN pg_replication_slots s
                    ON r.pid = s.active_pid WHERE slot_name = 'changes'";
        assert_eq!(sql_text(&client, name).await.as_deref(), Some("landfall test"));

        let big = "x".repeat(5000);
        let work = format!(
            "BEGIN; INSERT INTO t VALUES (1, '2026-01-02 03:04:05+00', '1 day 2 hours', 0.1::float8
                 + 0.2, '\\x00ff', '{big}');
             SELECT pg_logical_emit_message(true, 'landfall.test', 'inside');
             UPDATE t SET id = 2, raw = NULL; DELETE FROM t; COMMIT"
        );
        client.batch_execute(&work.replace('\n', " ")).await.expect("work");
        let (lines, commit) = transaction(&mut stream).await;
        let rest = "2026-01-02 03:04:05+00 | 1 day 02:00:00 | 0.30000000000000004";
        assert_eq!(
            lines,
            [
                "begin".to_owned(),
                format!("insert 1 | {rest} | \\x00ff | {big}"),
                "message true landfall.test inside".to_owned(),
                format!("update 1 | {rest} | \\x00ff | {big} -> 2 | {rest} | NULL | unchanged"),
                format!("delete 2 | {rest} | NULL | {big}"),
            ]
        );
        assert!(start < commit.commit_lsn && commit.commit_lsn < commit.end_lsn);
        while let Some(frame) = stream.next().now_or_never() {
            let frame = frame.expect("nothing wrong");
            assert!(matches!(frame, Frame::Keepalive { .. }), "nothing more was committed");
        }
        stream.close().await.expect("close");
    });
}

#[test]
fn slot_moves_with_flush_and_a_stream_restarts_where_we_say() {
    with_server(async |server| {
        let settings = server.database("restart").await;
        let client = sql(&settings).await;
        client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.expect("ddl");
        client.batch_execute("ALTER TABLE t REPLICA IDENTITY FULL").await.expect("ddl");
        let start = capture(&settings, &client, "restart").await;
        for id in 1..=3 {
            client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await.expect("insert");
        }
        let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots
                         WHERE slot_name = 'restart'";

        let sender = walsender(&settings).await;
        let mut stream = sender.start_replication("restart", start, "p").await.expect("start");
        let (_, first) = transaction(&mut stream).await;
        let (lines, _) = transaction(&mut stream).await;
        assert_eq!(lines[1..], ["insert 2"]);
        stream.close().await.expect("close");
        assert_eq!(sql_text(&client, confirmed).await, Some(start.to_string()));

        // The slot was free as soon as close() returned, and starts at our position, not its own.
        let sender = walsender(&settings).await;
        let mut stream =
            sender.start_replication("restart", first.end_lsn, "p").await.expect("start");
        let (lines, second) = transaction(&mut stream).await;
        assert_eq!(lines.last().map(String::as_str), Some("insert 2"));
        // Of reports that could not be written yet only the newest remains, its wish for an
        // answer included.
        stream.queue_status(status(first.end_lsn, Reply::Requested), UNIX_EPOCH);
        stream.queue_status(status(second.end_lsn, Reply::NotNeeded), UNIX_EPOCH);
        stream.flush_writes().await.expect("flush");
        assert!(keepalive(&mut stream).await >= second.end_lsn);
        wait_until(&client, confirmed, &second.end_lsn.to_string()).await;

        // Writing happens while waiting for a frame, too.
        stream.queue_status(status(second.end_lsn, Reply::Requested), UNIX_EPOCH);
        keepalive(&mut stream).await;
        stream.close().await.expect("close");
    });
}

#[test]
fn backlog_survives_reads_dropped_at_any_point() {
    with_server(async |server| {
        let settings = server.database("backlog").await;
        let client = sql(&settings).await;
        client.batch_execute("CREATE TABLE t (id int, v text)").await.expect("ddl");
        let start = capture(&settings, &client, "backlog").await;
        let fill = "INSERT INTO t SELECT i, repeat('v', i % 2000) FROM generate_series(1, 20000) i";
        client.batch_execute(fill).await.expect("fill");
        // One row that is larger than any chunk of the buffer.
        let huge = "INSERT INTO t VALUES (20001, repeat('v', 10000000))";
        client.batch_execute(huge).await.expect("huge");

        let sender = walsender(&settings).await;
        let mut stream = sender.start_replication("backlog", start, "p").await.expect("start");
        let (mut expected, mut dropped) = (1, 0);
        while expected <= 20_001 {
            let frame = tokio::select! {
                biased;
                frame = stream.next() => frame.expect("frame"),
                () = tokio::task::yield_now() => {
                    dropped += 1;
                    stream.queue_status(status(start, Reply::Requested), UNIX_EPOCH);
                    continue;
                }
            };
            let Frame::XLogData { data, .. } = frame else { continue };
            let Message::Insert(insert) = pgoutput::decode(&data).expect("decode") else {
                continue;
            };
            let id = expected.to_string();
            let length = if expected > 20_000 { 10_000_000 } else { expected % 2000 };
            let values: Vec<_> = insert.new.columns().collect();
            assert!(matches!(values[0], Column::Text(text) if text == id.as_bytes()));
            assert!(matches!(values[1], Column::Text(text) if text.len() == length), "row {id}");
            expected += 1;
        }
        assert!(dropped > 0);
        stream.close().await.expect("close");
    });
}

#[test]
fn missing_and_busy_slots_have_their_sqlstates() {
    with_server(async |server| {
        let settings = server.database("slots").await;
        let client = sql(&settings).await;
        let start = capture(&settings, &client, "slots").await;
        let refused = async |slot: &str| {
            let sender = walsender(&settings).await;
            sender.start_replication(slot, start, "p").await.expect_err("refused")
        };
        let missing = refused("no_such_slot").await;
        assert_eq!(missing.sqlstate(), Some("42704"), "{missing}");
        assert!(missing.to_string().starts_with("stream from slot \"no_such_slot\": "));

        let sender = walsender(&settings).await;
        let mut stream = sender.start_replication("slots", start, "p").await.expect("start");
        assert_eq!(refused("slots").await.sqlstate(), Some("55006"));

        let mut sender = walsender(&settings).await;
        let again = sender.create_logical_slot("slots").await.expect_err("exists");
        assert_eq!(again.sqlstate(), Some("42710"));
        let works = sender.simple_query("SELECT 1, NULL").await.expect("still usable");
        assert_eq!((works[0].get(0), works[0].get(1)), (Some("1"), None));

        // A killed walsender says so; that is an error and no orderly end.
        let kill = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
                    WHERE slot_name = 'slots'";
        client.batch_execute(kill).await.expect("kill");
        let killed = loop {
            match stream.next().await {
                Ok(Frame::Ended) => panic!("not an orderly end"),
                Ok(_) => {}
                Err(e) => break e,
            }
        };
        assert_eq!(killed.sqlstate(), Some("57P01"), "{killed}");
    });
}

#[test]
fn publications_of_any_name_work_and_a_missing_one_ends_the_stream() {
    with_server(async |server| {
        let settings = server.database("publications").await;
        let client = sql(&settings).await;
        client.batch_execute("CREATE TABLE t (id int)").await.expect("ddl");
        let odd = "Odd, \"one's\\";
        let ddl = format!("CREATE PUBLICATION \"{}\" FOR TABLE t", odd.replace('"', "\"\""));
        client.batch_execute(&ddl).await.expect("publication");
        let mut sender = walsender(&settings).await;
        let start = sender.create_logical_slot("publications").await.expect("slot");
        client.batch_execute("INSERT INTO t VALUES (1)").await.expect("insert");
        let mut stream = sender.start_replication("publications", start, odd).await.expect("start");
        let (lines, _) = transaction(&mut stream).await;
        assert_eq!(lines, ["begin", "insert 1"]);
        stream.close().await.expect("close");

        let sender = walsender(&settings).await;
        let mut stream = sender.start_replication("publications", start, "p").await.expect("start");
        let missing = loop {
            match stream.next().await {
                Ok(_) => {}
                Err(e) => break e,
            }
        };
        // Since version 18 the server only warns, and goes on without the changes.
        let left_out = matches!(missing, WalsenderError::ChangesLeftOut { .. });
        assert_eq!(left_out, server.cluster.bin().major >= 18, "{missing}");
        assert!(left_out || missing.sqlstate() == Some("42704"), "{missing}");
    });
}

#[test]
fn unfinished_command_blocks_the_next() {
    with_server(async |server| {
        let settings = server.local("postgres");
        let mut sender = walsender(&settings).await;
        tokio::select! {
            biased;
            _ = sender.simple_query("SELECT pg_sleep(60)") => panic!("does not end"),
            () = std::future::ready(()) => {}
        }
        let error = sender.identify_system().await.expect_err("refused");
        assert!(matches!(error, WalsenderError::Unfinished { .. }), "{error}");
        let error = walsender(&settings).await.simple_query("a\0b").await.expect_err("refused");
        assert!(matches!(error, WalsenderError::Protocol { .. }), "{error}");
    });
}

#[test]
fn fast_shutdown_is_an_orderly_end() {
    let server = Server::start();
    run(async {
        let settings = server.local("postgres");
        let client = sql(&settings).await;
        let start = capture(&settings, &client, "shutdown").await;
        let sender = walsender(&settings).await;
        let mut stream = sender.start_replication("shutdown", start, "p").await.expect("start");
        drop(client);
        // Between its answer to our command and the first look at the log the server's process would
        // end as any other, with an error.
        stream.queue_status(status(start, Reply::Requested), UNIX_EPOCH);
        assert!(matches!(stream.next().await, Ok(Frame::Keepalive { .. })));
        // Handed over, as the server is stopped in a thread that may outlive a failed test.
        let stop = thread::spawn(move || server.cluster.stop_fast());
        loop {
            match stream.next().await.expect("frame") {
                Frame::Keepalive { wal_end, .. } => {
                    stream.queue_status(status(wal_end, Reply::NotNeeded), UNIX_EPOCH);
                }
                Frame::XLogData { .. } => {}
                Frame::Ended => break,
            }
        }
        assert!(matches!(stream.next().await, Ok(Frame::Ended)));
        stream.close().await.expect("close");
        stop.join().expect("server stopped");
    });
}

/// Records `testdata/pgoutput15.hex`, one message per line: set `LANDFALL_RECORD` to the file
/// and run this test alone. The decoder's own tests compare what they read with
/// `pgoutput15.txt`.
#[test]
#[ignore = "writes the golden file"]
fn record_golden_stream() {
    let file = std::env::var_os("LANDFALL_RECORD").expect("LANDFALL_RECORD names the file");
    with_server(async |server| {
        let settings = server.database("golden").await;
        let client = sql(&settings).await;
        let ddl = include_str!("../../../engine/testdata/pgoutput15_tables.sql");
        client.batch_execute(ddl).await.expect("ddl");
        let start = capture(&settings, &client, "golden").await;
        let work = include_str!("../../../engine/testdata/pgoutput15_work.sql");
        client.batch_execute(work).await.expect("work");
        let sender = walsender(&settings).await;
        let mut stream = sender.start_replication("golden", start, "p").await.expect("start");
        let mut lines = String::new();
        loop {
            let Frame::XLogData { data, .. } = stream.next().await.expect("frame") else {
                continue;
            };
            lines.extend(data.iter().map(|byte| format!("{byte:02x}")));
            lines.push('\n');
            match pgoutput::decode(&data).expect("decode") {
                Message::Logical(message) if message.prefix == "end" => break,
                _ => {}
            }
        }
        std::fs::write(&file, lines).expect("write");
        stream.close().await.expect("close");
    });
}
