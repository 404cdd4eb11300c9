//! The walsender client and the SQL connection against a real PostgreSQL.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use landfall_engine::capture::pgoutput::{self, Column, Commit, Message, OldRow, Tuple};
use landfall_engine::capture::walsender::{Frame, Reply, StandbyStatus, WalStream, Walsender};
use landfall_engine::postgres::connect::PgSettings;
use landfall_engine::postgres::lsn::Lsn;
use landfall_tests::account;
use landfall_tests::cluster::{Cluster, Disk, SUPERUSER};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_postgres::Client;

mod login;
mod streaming;

/// Long enough for a loaded machine; nothing here waits for time to pass.
const DEADLINE: Duration = Duration::from_secs(60);

/// Roles that log in by each method; the password is always `right`.
const ROLES: &str = "
    CREATE ROLE new LOGIN REPLICATION PASSWORD 'right';
    SET password_encryption = 'md5';
    CREATE ROLE old LOGIN REPLICATION PASSWORD 'right';
    SET password_encryption = 'scram-sha-256';
    CREATE ROLE clear LOGIN REPLICATION PASSWORD 'right'";

/// The socket is open to everybody, TCP to those who prove who they are.
const HBA: &str = "\
local all all trust
host all postgres 127.0.0.1/32 trust
host all clear 127.0.0.1/32 password
host all old 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
";

/// A server with every way to log in.
struct Server {
    cluster: Cluster,
}

impl Server {
    /// One server for all tests that run at the same time.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    fn start() -> Self {
        let options = Cluster::options("walsender").disk(Disk::Unsynced);
        let options = options.conf("max_wal_senders", "20").conf("max_replication_slots", "20");
        let server = Self { cluster: options.start().expect("start") };
        server.make_certificates();
        let file = |name| server.path(name).display().to_string();
        server.cluster.configure(&[
            ("ssl", "on"),
            ("ssl_cert_file", &file("server.pem")),
            ("ssl_key_file", &file("server.key")),
        ]);
        fs::write(server.path("data/pg_hba.conf"), HBA).expect("write pg_hba.conf");
        server.cluster.sql("postgres", ROLES);
        server.cluster.restart();
        server
    }

    /// Writes an authority, a stranger, and a certificate for 127.0.0.1 by the authority.
    fn make_certificates(&self) {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("a key");
            let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
            fs::write(self.path(&format!("{name}.pem")), authority.pem()).expect("write");
            authority
        };
        let (root, _stranger) = (authority("root"), authority("stranger"));
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        let certificate = params.signed_by(&key, &root).expect("a certificate");
        fs::write(self.path("server.pem"), certificate.pem()).expect("write");
        let file = self.path("server.key");
        fs::write(&file, key.serialize_pem()).expect("write");
        // The server refuses a key that others may read.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("close the key");
        if let Some(account) = account::for_servers().expect("an account") {
            account.own(&file).expect("give the key away");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cluster.dir().join(name)
    }

    /// Settings for the Unix socket, where everybody is trusted.
    fn local(&self, dbname: &str) -> PgSettings {
        self.socket(&format!("user={SUPERUSER} dbname={dbname}"))
    }

    fn socket(&self, rest: &str) -> PgSettings {
        let (dir, port) = (self.cluster.dir().display(), self.cluster.port());
        PgSettings::parse(&format!("host={dir} port={port} {rest}"), None).expect("settings")
    }

    fn tcp(&self, rest: &str, root: Option<&Path>) -> PgSettings {
        let conninfo = format!("host=127.0.0.1 port={} {rest}", self.cluster.port());
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
}

/// Runs a test on the shared server, which is made outside the test's runtime.
fn with_server(test: impl AsyncFnOnce(&Server)) {
    let server = Server::shared();
    run(async { test(&server).await });
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
        Column::Long(_) => panic!("a value put aside"),
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
