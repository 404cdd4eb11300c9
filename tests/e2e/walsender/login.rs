//! Getting in: every login method, TLS, and what is said when it fails.

use std::net::TcpListener;
use std::time::UNIX_EPOCH;

use landfall_engine::capture::walsender::{Reply, Walsender, WalsenderError};
use landfall_engine::postgres::connect::{ConnectError, PgSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{capture, run, sql, sql_text, status, transaction, wait_until, walsender, with_server};

#[test]
fn every_login_method_works_and_its_failures_say_what_to_do() {
    with_server(async |server| {
        let base = "sslmode=disable dbname=postgres";
        for user in ["new", "old", "clear"] {
            let right = server.tcp(&format!("{base} user={user} password=right"), None);
            let mut sender = walsender(&right).await;
            let identity = sender.identify_system().await.expect("identity");
            assert!(identity.system_identifier > 0 && identity.flushed.is_valid());
            assert_eq!(identity.timeline, 1);
            let rows = sender.simple_query("SHOW application_name").await.expect("show");
            assert_eq!(rows[0].get(0), Some("landfall test"));

            let wrong = server.tcp(&format!("{base} user={user} password=geheim"), None);
            check_refusal(&wrong, |e| matches!(e, ConnectError::WrongPassword { .. })).await;
            let none = server.tcp(&format!("{base} user={user}"), None);
            check_refusal(&none, |e| matches!(e, ConnectError::PasswordMissing { .. })).await;
        }
        let nowhere = server.local("no_such_database");
        check_refusal(&nowhere, |e| matches!(e, ConnectError::DatabaseMissing { .. })).await;
        let nobody = server.socket("user=no_such_role");
        check_refusal(&nobody, |e| matches!(e, ConnectError::NotAllowed { .. })).await;
        let nothing = format!("host={}/none user=postgres", server.cluster.dir().display());
        let nothing = PgSettings::parse(&nothing, None).expect("settings");
        check_refusal(&nothing, |e| matches!(e, ConnectError::Unreachable { .. })).await;
    });
}

/// Both clients must fail in the same way.
async fn check_refusal(settings: &PgSettings, expected: fn(&ConnectError) -> bool) {
    let sql = settings.connect("test", &[]).await.expect_err("sql refused");
    let wal = Walsender::connect(settings, "test").await.expect_err("walsender refused");
    let WalsenderError::Connect(wal) = wal else { panic!("{wal}") };
    for error in [sql, wal] {
        let text = format!("{error} {error:?}");
        assert!(expected(&error), "{text}");
        assert!(!text.contains("geheim"), "{text}");
    }
}

#[test]
fn tls_is_verified_as_told() {
    with_server(async |server| {
        let login = "user=new password=right dbname=postgres";
        let (root, stranger) = (server.path("root.pem"), server.path("stranger.pem"));
        let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        for (rest, root) in
            [("", None), (" sslmode=require", None), (" sslmode=require", Some(root.as_path()))]
        {
            let settings = server.tcp(&format!("{login}{rest}"), root);
            let client = sql(&settings).await;
            assert_eq!(sql_text(&client, encrypted).await.as_deref(), Some("t"));
            let rows = walsender(&settings).await.simple_query(encrypted).await.expect("query");
            assert_eq!(rows[0].get(0), Some("t"));
        }
        let plain = server.tcp(&format!("{login} sslmode=disable"), None);
        let rows = walsender(&plain).await.simple_query(encrypted).await.expect("query");
        assert_eq!(rows[0].get(0), Some("f"));

        let untrusted = server.tcp(login, Some(&stranger));
        check_refusal(&untrusted, |e| matches!(e, ConnectError::TlsFailed { .. })).await;
        // The certificate names 127.0.0.1 and nothing else.
        let conninfo = format!("host=localhost port={} {login}", server.cluster.port());
        let misnamed = PgSettings::parse(&conninfo, Some(&root)).expect("settings");
        check_refusal(&misnamed, |e| matches!(e, ConnectError::TlsFailed { .. })).await;
    });
}

#[test]
fn stream_over_tls_keeps_order_and_feedback() {
    with_server(async |server| {
        let local = server.database("tls").await;
        let client = sql(&local).await;
        client.batch_execute("CREATE TABLE t (id int)").await.expect("ddl");
        let start = capture(&local, &client, "tls").await;
        let fill = "INSERT INTO t SELECT generate_series(1, 5000)";
        client.batch_execute(fill).await.expect("fill");
        let settings = server.tcp("user=new password=right dbname=tls sslmode=require", None);
        let sender = walsender(&settings).await;
        let mut stream = sender.start_replication("tls", start, "p").await.expect("start");
        let (lines, commit) = transaction(&mut stream).await;
        assert_eq!(lines.len(), 5001);
        stream.queue_status(status(commit.end_lsn, Reply::NotNeeded), UNIX_EPOCH);
        stream.flush_writes().await.expect("flush");
        let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots
                         WHERE slot_name = 'tls'";
        wait_until(&client, confirmed, &commit.end_lsn.to_string()).await;
        stream.close().await.expect("close");
    });
}

/// Answers every request for TLS with `answer`, then hangs up.
async fn answering(answer: &'static [u8]) -> (PgSettings, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let server = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = [0; 8];
            client.read_exact(&mut request).await.expect("request");
            client.write_all(answer).await.expect("answer");
        }
    });
    let conninfo = format!("host=127.0.0.1 port={port} user=a sslmode=require");
    (PgSettings::parse(&conninfo, None).expect("settings"), server)
}

#[test]
fn refused_tls_and_other_servers_are_told_apart() {
    run(async {
        let (settings, server) = answering(b"N").await;
        check_refusal(&settings, |e| matches!(e, ConnectError::TlsRefused { .. })).await;
        server.abort();
        let (settings, server) = answering(b"").await;
        check_refusal(&settings, |e| matches!(e, ConnectError::Unreachable { .. })).await;
        server.abort();
    });
}

#[test]
fn silent_server_is_given_up_after_the_timeout() {
    run(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
        let port = listener.local_addr().expect("address").port();
        let conninfo = format!("host=127.0.0.1 port={port} user=a connect_timeout=1");
        let settings = PgSettings::parse(&conninfo, None).expect("settings");
        check_refusal(&settings, |e| matches!(e, ConnectError::TimedOut { .. })).await;
    });
}
