//! The walsender client and the SQL connection against a real PostgreSQL.
#![expect(clippy::disallowed_methods, reason = "a test drives its own SQL connections")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, UNIX_EPOCH};

use landfall_engine::capture::pgoutput::{self, Column, Commit, Message, OldRow, Tuple};
use landfall_engine::capture::walsender::{
    Frame, Reply, StandbyStatus, WalStream, Walsender, WalsenderError,
};
use landfall_engine::postgres::connect::{ConnectError, PgSettings};
use landfall_engine::postgres::lsn::Lsn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Client;

/// Long enough for a loaded machine; nothing here waits for time to pass.
const DEADLINE: Duration = Duration::from_secs(60);

/// A throw-away cluster: socket in its own directory, a free loopback port, every way to log in.
struct Cluster {
    dir: tempfile::TempDir,
    port: u16,
    tls: bool,
    server: Option<Child>,
}

impl Cluster {
    /// One cluster for all tests that run at the same time.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start());
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    fn start() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        if let Some((user, group)) = server_account() {
            chown(dir.path(), Some(user), Some(group)).expect("chown");
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("address").port();
        drop(listener);
        let tls = make_certificates(dir.path());
        let mut this = Self { dir, port, tls, server: None };
        this.run("initdb", &["-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]);
        this.configure();
        let mut server = this.command("postgres").stderr(Stdio::piped()).spawn().expect("start");
        let log = server.stderr.take().expect("piped");
        this.server = Some(server);
        let mut log = BufReader::new(log).lines().map_while(Result::ok);
        let mut said = Vec::new();
        while !said
            .last()
            .is_some_and(|line: &String| line.ends_with("ready to accept connections"))
        {
            match log.next() {
                Some(line) => said.push(line),
                None => panic!("server did not start:\n{}", said.join("\n")),
            }
        }
        // Somebody has to read on, or the server blocks; the thread ends with the server.
        std::thread::spawn(move || log.for_each(drop));
        this
    }

    fn configure(&self) {
        let mut conf = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             wal_level = logical\nmax_wal_senders = 20\nmax_replication_slots = 20\nfsync = off\n",
            self.port,
            self.dir.path().display()
        );
        if self.tls {
            let file = |name| self.path(name).display().to_string();
            conf += &format!(
                "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
                file("server.pem"),
                file("server.key")
            );
        }
        let hba = "local all all trust\nhost all clear 127.0.0.1/32 password\n\
                   host all old 127.0.0.1/32 md5\nhost all all 127.0.0.1/32 scram-sha-256\n";
        let path = self.path("data/postgresql.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("open");
        file.write_all(conf.as_bytes()).expect("write");
        std::fs::write(self.path("data/pg_hba.conf"), hba).expect("write");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = as_server_account(&server_program(program));
        command.arg("-D").arg(self.path("data")).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn run(&self, program: &str, args: &[&str]) {
        let status = self.command(program).args(args).status().expect("start");
        assert!(status.success(), "{program}: {status}");
    }

    /// Settings for the Unix socket, where everybody is trusted.
    fn local(&self, dbname: &str) -> PgSettings {
        let conninfo = format!(
            "host={} port={} user=postgres dbname={dbname}",
            self.dir.path().display(),
            self.port
        );
        PgSettings::parse(&conninfo, None).expect("settings")
    }

    fn tcp(&self, rest: &str, root: Option<&Path>) -> PgSettings {
        let conninfo = format!("host=127.0.0.1 port={} {rest}", self.port);
        PgSettings::parse(&conninfo, root).expect("settings")
    }

    /// A fresh database with the text styles turned around, to see that ours win.
    async fn database(&self, name: &str) -> PgSettings {
        let client = sql(&self.local("postgres")).await;
        for statement in [
            format!("CREATE DATABASE {name}"),
            format!("ALTER DATABASE {name} SET datestyle = 'German'"),
            format!("ALTER DATABASE {name} SET intervalstyle = 'iso_8601'"),
            format!("ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'"),
            format!("ALTER DATABASE {name} SET bytea_output = 'escape'"),
            format!("ALTER DATABASE {name} SET extra_float_digits = 0"),
        ] {
            client.batch_execute(&statement).await.expect("database");
        }
        self.local(name)
    }

    /// Roles that log in by each method; the password is always `right`.
    async fn roles(&self) {
        let client = sql(&self.local("postgres")).await;
        let sql = "SELECT pg_advisory_xact_lock(1);
            DO $$ DECLARE r text; BEGIN
              FOREACH r IN ARRAY ARRAY['new', 'old', 'clear'] LOOP
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
                  PERFORM set_config('password_encryption',
                    CASE r WHEN 'old' THEN 'md5' ELSE 'scram-sha-256' END, true);
                  EXECUTE format('CREATE ROLE %I LOGIN REPLICATION PASSWORD ''right''', r);
                END IF;
              END LOOP;
            END $$";
        client.batch_execute(sql).await.expect("roles");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may be stopped already; if it cannot be stopped there is nobody left to tell.
        let _ = self
            .command("pg_ctl")
            .args(["stop", "-m", "immediate", "-s"])
            .stderr(Stdio::null())
            .status();
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// From PATH, else the oldest version where Debian installs PostgreSQL.
fn server_program(program: &str) -> PathBuf {
    let debian = || {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        let programs = versions.filter_map(|v| Some(v.ok()?.path().join("bin").join(program)));
        programs.filter(|file| file.is_file()).min()
    };
    on_path(program).or_else(debian).unwrap_or_else(|| panic!("{program} is not installed"))
}

fn id(args: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(args).stderr(Stdio::null()).output().expect("run id");
    output.status.success().then_some(())?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// PostgreSQL refuses to run as root, so root lends it the account it was installed with.
fn server_account() -> Option<(u32, u32)> {
    if id(&["-u"]) != Some(0) {
        return None;
    }
    let account = |flag| id(&[flag, "postgres"]).expect("root needs an account named postgres");
    Some((account("-u"), account("-g")))
}

fn as_server_account(program: &Path) -> Command {
    match server_account() {
        None => Command::new(program),
        Some((user, group)) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={user}"), format!("--regid={group}")]);
            command.arg("--clear-groups").arg(program);
            command
        }
    }
}

/// An authority and a server certificate for 127.0.0.1, if `openssl` is installed.
fn make_certificates(dir: &Path) -> bool {
    if on_path("openssl").is_none() {
        return false;
    }
    let openssl = |args: &str| {
        let status = as_server_account(Path::new("openssl"))
            .args(args.split_whitespace())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("run openssl");
        assert!(status.success(), "openssl {args}");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for root in ["root", "stranger"] {
        openssl(&format!(
            "req -x509 {key} -keyout {root}.key -out {root}.pem -days 2 -subj /CN={root}"
        ));
    }
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=server"));
    std::fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").expect("write");
    openssl(
        "x509 -req -in server.csr -CA root.pem -CAkey root.key -CAcreateserial \
         -out server.pem -days 2 -extfile san",
    );
    true
}

fn run<F: Future<Output = ()>>(test: F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        tokio::time::timeout(DEADLINE, Box::pin(test)).await.expect("test took too long");
    });
}

async fn sql(settings: &PgSettings) -> Client {
    let (client, driver) = settings.connect("walsender test", &[]).await.expect("sql session");
    tokio::spawn(driver);
    client
}

async fn sql_text(client: &Client, query: &str) -> Option<String> {
    let rows = client.simple_query(query).await.expect(query);
    rows.into_iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// Asks until the answer is `expected`; the test's deadline bounds it.
async fn wait_until(client: &Client, query: &str, expected: &str) {
    while sql_text(client, query).await.as_deref() != Some(expected) {}
}

async fn walsender(settings: &PgSettings) -> Walsender {
    Walsender::connect(settings, "landfall test").await.expect("walsender")
}

/// Publication `p` for all tables and slot `slot`; returns where the slot starts.
async fn capture(settings: &PgSettings, client: &Client, slot: &str) -> Lsn {
    client.batch_execute("CREATE PUBLICATION p FOR ALL TABLES").await.expect("publication");
    walsender(settings).await.create_logical_slot(slot).await.expect("slot")
}

/// A transaction as text, one line per message, and its commit. Without the descriptions of
/// relations, which the server repeats whenever something made its caches invalid.
async fn transaction(stream: &mut WalStream) -> (Vec<String>, Commit) {
    let mut lines = Vec::new();
    loop {
        match stream.next().await.expect("frame") {
            Frame::XLogData { data, .. } => match pgoutput::decode(&data).expect("decode") {
                Message::Commit(commit) => return (lines, commit),
                Message::Relation(_) => {}
                message => lines.push(describe(&message)),
            },
            Frame::Keepalive { .. } => {}
            Frame::Ended => panic!("stream ended"),
        }
    }
}

fn describe(message: &Message<'_>) -> String {
    match message {
        Message::Begin(_) => "begin".into(),
        Message::Insert(insert) => format!("insert {}", row(insert.new)),
        Message::Update(update) => match update.old {
            Some(OldRow::Full(old)) => format!("update {} -> {}", row(old), row(update.new)),
            _ => panic!("no full old row"),
        },
        Message::Delete(delete) => match delete.old {
            OldRow::Full(old) => format!("delete {}", row(old)),
            OldRow::Key(_) => panic!("no full old row"),
        },
        Message::Logical(m) => {
            let content = String::from_utf8_lossy(m.content);
            format!("message {} {} {content}", m.transactional, m.prefix)
        }
        other => panic!("unexpected {other:?}"),
    }
}

fn row(tuple: Tuple<'_>) -> String {
    let values = tuple.columns().map(|column| match column {
        Column::Null => "NULL".into(),
        Column::Unchanged => "unchanged".into(),
        Column::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Column::Binary(_) => panic!("binary value"),
    });
    values.collect::<Vec<String>>().join(" | ")
}

fn status(flush: Lsn, reply: Reply) -> StandbyStatus {
    StandbyStatus { write: flush, flush, apply: flush, reply }
}

async fn keepalive(stream: &mut WalStream) -> Lsn {
    loop {
        match stream.next().await.expect("frame") {
            Frame::Keepalive { wal_end, .. } => return wal_end,
            Frame::XLogData { .. } => {}
            Frame::Ended => panic!("stream ended"),
        }
    }
}

#[test]
fn changes_arrive_with_whole_old_rows_and_canonical_text() {
    run(async {
        let cluster = Cluster::shared();
        let settings = cluster.database("changes").await;
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
        while let Some(frame) = stream.try_next().expect("nothing wrong") {
            assert!(matches!(frame, Frame::Keepalive { .. }), "nothing more was committed");
        }
        stream.close().await.expect("close");
    });
}

#[test]
fn slot_moves_with_flush_and_a_stream_restarts_where_we_say() {
    run(async {
        let cluster = Cluster::shared();
        let settings = cluster.database("restart").await;
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
    run(async {
        let cluster = Cluster::shared();
        let settings = cluster.database("backlog").await;
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
fn every_login_method_works_and_its_failures_say_what_to_do() {
    run(async {
        let cluster = Cluster::shared();
        cluster.roles().await;
        let base = "sslmode=disable dbname=postgres";
        for user in ["new", "old", "clear"] {
            let right = cluster.tcp(&format!("{base} user={user} password=right"), None);
            let mut sender = walsender(&right).await;
            let identity = sender.identify_system().await.expect("identity");
            assert!(identity.system_identifier > 0 && identity.flushed.is_valid());
            assert_eq!(identity.timeline, 1);
            let rows = sender.simple_query("SHOW application_name").await.expect("show");
            assert_eq!(rows[0].get(0), Some("landfall test"));

            let wrong = cluster.tcp(&format!("{base} user={user} password=geheim"), None);
            check_refusal(&wrong, |e| matches!(e, ConnectError::WrongPassword { .. })).await;
            let none = cluster.tcp(&format!("{base} user={user}"), None);
            check_refusal(&none, |e| matches!(e, ConnectError::PasswordMissing { .. })).await;
        }
        let nowhere = cluster.local("no_such_database");
        check_refusal(&nowhere, |e| matches!(e, ConnectError::DatabaseMissing { .. })).await;
        let directory = cluster.dir.path().display();
        let nobody = format!("host={directory} port={} user=no_such_role", cluster.port);
        let nobody = PgSettings::parse(&nobody, None).expect("settings");
        check_refusal(&nobody, |e| matches!(e, ConnectError::NotAllowed { .. })).await;
        let nothing = format!("host={directory}/none user=postgres");
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
fn missing_and_busy_slots_have_their_sqlstates() {
    run(async {
        let cluster = Cluster::shared();
        let settings = cluster.database("slots").await;
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
    run(async {
        let cluster = Cluster::shared();
        let settings = cluster.database("publications").await;
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
        assert_eq!(missing.sqlstate(), Some("42704"), "{missing}");
    });
}

#[test]
fn unfinished_command_blocks_the_next() {
    run(async {
        let cluster = Cluster::shared();
        let settings = cluster.local("postgres");
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
    let cluster = Arc::new(Cluster::start());
    let stopping = Arc::clone(&cluster);
    run(async move {
        let settings = cluster.local("postgres");
        let client = sql(&settings).await;
        let start = capture(&settings, &client, "shutdown").await;
        let sender = walsender(&settings).await;
        let mut stream = sender.start_replication("shutdown", start, "p").await.expect("start");
        drop(client);
        let stop =
            std::thread::spawn(move || stopping.run("pg_ctl", &["stop", "-m", "fast", "-s"]));
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

#[test]
fn tls_is_verified_as_told() {
    run(async {
        let cluster = Cluster::shared();
        if !cluster.tls {
            return; // no tool here to make certificates
        }
        cluster.roles().await;
        let login = "user=new password=right dbname=postgres";
        let (root, stranger) = (cluster.path("root.pem"), cluster.path("stranger.pem"));
        let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        for (rest, root) in
            [("", None), (" sslmode=require", None), (" sslmode=require", Some(root.as_path()))]
        {
            let settings = cluster.tcp(&format!("{login}{rest}"), root);
            let client = sql(&settings).await;
            assert_eq!(sql_text(&client, encrypted).await.as_deref(), Some("t"));
            let rows = walsender(&settings).await.simple_query(encrypted).await.expect("query");
            assert_eq!(rows[0].get(0), Some("t"));
        }
        let plain = cluster.tcp(&format!("{login} sslmode=disable"), None);
        let rows = walsender(&plain).await.simple_query(encrypted).await.expect("query");
        assert_eq!(rows[0].get(0), Some("f"));

        let untrusted = cluster.tcp(login, Some(&stranger));
        check_refusal(&untrusted, |e| matches!(e, ConnectError::TlsFailed { .. })).await;
        // The certificate names 127.0.0.1 and nothing else.
        let conninfo = format!("host=localhost port={} {login}", cluster.port);
        let misnamed = PgSettings::parse(&conninfo, Some(&root)).expect("settings");
        check_refusal(&misnamed, |e| matches!(e, ConnectError::TlsFailed { .. })).await;
    });
}

#[test]
fn stream_over_tls_keeps_order_and_feedback() {
    run(async {
        let cluster = Cluster::shared();
        if !cluster.tls {
            return; // no tool here to make certificates
        }
        cluster.roles().await;
        let local = cluster.database("tls").await;
        let client = sql(&local).await;
        client.batch_execute("CREATE TABLE t (id int)").await.expect("ddl");
        let start = capture(&local, &client, "tls").await;
        let fill = "INSERT INTO t SELECT generate_series(1, 5000)";
        client.batch_execute(fill).await.expect("fill");
        let settings = cluster.tcp("user=new password=right dbname=tls sslmode=require", None);
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

/// Records `testdata/pgoutput15.hex`, one message per line: set `LANDFALL_RECORD` to the file
/// and run this test alone. The decoder's own tests compare what they read with
/// `pgoutput15.txt`.
#[test]
#[ignore = "writes the golden file"]
fn record_golden_stream() {
    let Some(file) = std::env::var_os("LANDFALL_RECORD") else { return };
    run(async {
        let cluster = Cluster::shared();
        let settings = cluster.database("golden").await;
        let client = sql(&settings).await;
        let ddl = include_str!("../testdata/pgoutput15_tables.sql");
        client.batch_execute(ddl).await.expect("ddl");
        let start = capture(&settings, &client, "golden").await;
        let work = include_str!("../testdata/pgoutput15_work.sql");
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
