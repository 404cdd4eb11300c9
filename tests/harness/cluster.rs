//! Throw-away PostgreSQL clusters: real servers on loopback, gone when the value is dropped.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use anyhow::{Context, anyhow, bail, ensure};

use crate::account::{self, Account};
use crate::ports;
use crate::postgres_bin::PgBin;
use crate::processes::{self, Signal};
use crate::relay::End;
use crate::scratch;
use crate::session::{Row, Session};
use crate::wait::try_wait_until;

mod backup;
mod template;

pub use backup::Backup;

/// The superuser of every cluster.
pub const SUPERUSER: &str = "postgres";

/// The superuser's password in clusters with [`Auth::Scram`]; they listen on loopback only.
pub const PASSWORD: &str = "landfall-tests";

/// Crash recovery after a kill under load is included.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Auth {
    /// Everybody on loopback may be anybody.
    Trust,
    /// A password, by SCRAM-SHA-256.
    Scram,
}

/// Whether the server waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// `fsync = on`, as in the field.
    Synced,
    /// `fsync = off`: faster, and as good for whatever only kills processes.
    Unsynced,
}

/// What a cluster is to be like; see [`Cluster::options`].
#[derive(Debug, Clone)]
pub struct Options {
    name: String,
    version: Option<u32>,
    auth: Auth,
    disk: Disk,
    conf: Vec<(String, String)>,
    inside: Option<End>,
}

impl Options {
    /// Asks for a major version instead of the preferred one.
    #[must_use]
    pub fn version(mut self, major: u32) -> Self {
        self.version = Some(major);
        self
    }

    /// How clients prove who they are; [`Auth::Trust`] unless told.
    #[must_use]
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Whether the server waits for the disk; [`Disk::Synced`] unless told.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disk = disk;
        self
    }

    /// Adds a line to `postgresql.conf`; the value needs no quotes.
    #[must_use]
    pub fn conf(mut self, key: &str, value: &str) -> Self {
        self.conf.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Runs it at this end of a line, where only the other end reaches it over TCP; we are left with
    /// the Unix socket.
    #[must_use]
    pub fn inside(mut self, end: &End) -> Self {
        self.inside = Some(end.clone());
        self
    }

    /// Makes the cluster and starts it.
    pub fn start(self) -> anyhow::Result<Cluster> {
        let name = self.name.clone();
        Cluster::create(self).with_context(|| format!("start PostgreSQL cluster {name}"))
    }
}

#[derive(Debug)]
struct Server {
    /// The postmaster, as long as we have not seen it end.
    postmaster: Option<Child>,
}

impl Server {
    /// The postmaster if it still runs. One that ended by itself is forgotten here, so that its
    /// number is never signalled after the system has given it to somebody else.
    fn running(&mut self) -> Option<&mut Child> {
        let child = self.postmaster.as_mut()?;
        if matches!(child.try_wait(), Ok(Some(_))) {
            scratch::release(child.id());
            self.postmaster = None;
        }
        self.postmaster.as_mut()
    }
}

/// A PostgreSQL server of our own. Dropping it kills the server and removes its files; when that
/// happens in a panic, the end of the server's log is printed.
///
/// All methods take `&self`, so that one thread may write while another kills the server.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    dir: PathBuf,
    bin: PgBin,
    account: Option<Account>,
    auth: Auth,
    port: u16,
    inside: Option<End>,
    server: Mutex<Server>,
}

impl Cluster {
    /// Starts a cluster with `wal_level = logical` and the given additions to `postgresql.conf`.
    ///
    /// # Panics
    /// When there is no PostgreSQL or it does not start; the message says why.
    #[track_caller]
    pub fn start(name: &str, extra_conf: &[(&str, &str)]) -> Self {
        let options = extra_conf.iter().fold(Self::options(name), |o, (k, v)| o.conf(k, v));
        or_panic(options.start())
    }

    /// A cluster that differs from the usual one; ends with [`Options::start`].
    pub fn options(name: &str) -> Options {
        Options {
            name: name.to_owned(),
            version: None,
            auth: Auth::Trust,
            disk: Disk::Synced,
            conf: Vec::new(),
            inside: None,
        }
    }

    fn create(options: Options) -> anyhow::Result<Self> {
        let account = account::for_servers()?;
        let bin = PgBin::find(options.version)?.within_reach_of(account)?;
        let dir = scratch::fresh_dir(&options.name)?;
        if let Some(account) = account {
            account.own(&dir).with_context(|| format!("give away {}", dir.display()))?;
        }
        template::instantiate(&bin, account, options.auth, &dir)?;
        let mut cluster = Self {
            name: options.name,
            dir,
            bin,
            account,
            auth: options.auth,
            port: 0,
            inside: options.inside,
            server: Mutex::new(Server { postmaster: None }),
        };
        cluster.write_first_conf(options.disk, &options.conf)?;
        cluster.start_on_a_free_port()?;
        Ok(cluster)
    }

    fn write_first_conf(&self, disk: Disk, extra: &[(String, String)]) -> anyhow::Result<()> {
        let sockets = self.dir.display().to_string();
        let listen = self.tcp_host();
        let mut conf: Vec<(&str, &str)> = vec![
            ("listen_addresses", &listen),
            ("unix_socket_directories", &sockets),
            ("cluster_name", &self.name),
            ("wal_level", "logical"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("shared_buffers", "32MB"),
            ("max_wal_size", "256MB"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
            ("log_line_prefix", "%m [%p] %q%a@%d "),
        ];
        if disk == Disk::Unsynced {
            conf.push(("fsync", "off"));
        }
        if self.inside.is_some() {
            let path = self.data_dir().join("pg_hba.conf");
            let lines = "host all all samenet trust\nhost replication all samenet trust\n";
            let written = OpenOptions::new().append(true).open(&path);
            let written =
                written.and_then(|mut file| io::Write::write_all(&mut file, lines.as_bytes()));
            written.with_context(|| format!("append to {}", path.display()))?;
        }
        conf.extend(extra.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        self.try_configure(&conf)
    }

    /// Another process may take the port between our look and the server's: then draw again.
    fn start_on_a_free_port(&mut self) -> anyhow::Result<()> {
        for _ in 0..20 {
            self.port = ports::draw()?;
            self.try_configure(&[("port", &self.port.to_string())])?;
            match self.launch()? {
                Launch::Ready => return Ok(()),
                Launch::PortTaken => {}
            }
        }
        bail!("twenty ports that were free were all taken by somebody else");
    }

    // --- where it is -------------------------------------------------------------------------

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The TCP port on 127.0.0.1; stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket, also the place for files that belong to this site.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The binaries it runs.
    pub fn bin(&self) -> &PgBin {
        &self.bin
    }

    /// Key-value connection string for the superuser over TCP.
    pub fn conninfo(&self, db: &str) -> String {
        self.conninfo_via(&self.tcp_host(), db)
    }

    fn tcp_host(&self) -> String {
        self.inside.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |end| end.address.to_string())
    }

    /// The way we take ourselves.
    fn own_conninfo(&self, db: &str) -> String {
        if self.inside.is_some() { self.socket_conninfo(db) } else { self.conninfo(db) }
    }

    /// Key-value connection string for the superuser over the Unix socket.
    pub fn socket_conninfo(&self, db: &str) -> String {
        self.conninfo_via(&self.dir.display().to_string(), db)
    }

    fn conninfo_via(&self, host: &str, db: &str) -> String {
        let port = self.port;
        let password = match self.auth {
            Auth::Trust => String::new(),
            Auth::Scram => format!(" password={PASSWORD}"),
        };
        format!("host={host} port={port} user={SUPERUSER} dbname={db}{password}")
    }

    // --- talking to it -----------------------------------------------------------------------

    /// Opens a session that stays open.
    pub fn session(&self, db: &str) -> anyhow::Result<Session> {
        let session = Session::open(&self.own_conninfo(db));
        session.with_context(|| format!("connect to database {db} of cluster {}", self.name))
    }

    /// Runs statements in a session of their own.
    ///
    /// # Panics
    /// When the server refuses; [`Cluster::try_sql`] returns the error instead.
    #[track_caller]
    pub fn sql(&self, db: &str, sql: &str) {
        or_panic(self.try_sql(db, sql));
    }

    /// Runs statements in a session of their own.
    pub fn try_sql(&self, db: &str, sql: &str) -> anyhow::Result<()> {
        let done = self.session(db)?.batch(sql);
        done.with_context(|| format!("in database {db} of cluster {}", self.name))
    }

    /// Runs statements and returns their rows as text.
    ///
    /// # Panics
    /// When the server refuses; [`Cluster::try_query_rows`] returns the error instead.
    #[track_caller]
    pub fn query_rows(&self, db: &str, sql: &str) -> Vec<Row> {
        or_panic(self.try_query_rows(db, sql))
    }

    /// Runs statements and returns their rows as text.
    pub fn try_query_rows(&self, db: &str, sql: &str) -> anyhow::Result<Vec<Row>> {
        let rows = self.session(db)?.rows(sql);
        rows.with_context(|| format!("in database {db} of cluster {}", self.name))
    }

    /// The single value a query returns, as text; `None` is NULL.
    ///
    /// # Panics
    /// When the server refuses or the answer is not one row of one column.
    #[track_caller]
    pub fn query_value(&self, db: &str, sql: &str) -> Option<String> {
        let rows = self.query_rows(db, sql);
        match <[Row; 1]>::try_from(rows).map(|[row]| <[Option<String>; 1]>::try_from(row)) {
            Ok(Ok([value])) => value,
            _ => panic!("{sql} did not return one value in cluster {}", self.name),
        }
    }

    /// Makes an empty database.
    ///
    /// # Panics
    /// When the server refuses.
    #[track_caller]
    pub fn create_db(&self, db: &str) {
        or_panic(self.try_create_db(db));
    }

    /// Makes an empty database.
    pub fn try_create_db(&self, db: &str) -> anyhow::Result<()> {
        self.try_sql("postgres", &format!("CREATE DATABASE \"{}\"", db.replace('"', "\"\"")))
    }

    /// The server's log since the first start.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    // --- stopping and starting ---------------------------------------------------------------

    /// Adds lines to `postgresql.conf`, where the last one counts; in force after a restart.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[track_caller]
    pub fn configure(&self, conf: &[(&str, &str)]) {
        or_panic(self.try_configure(conf));
    }

    fn try_configure(&self, conf: &[(&str, &str)]) -> anyhow::Result<()> {
        let path = self.data_dir().join("postgresql.conf");
        let mut text = String::new();
        for (key, value) in conf {
            writeln!(text, "{key} = '{}'", value.replace('\'', "''"))?;
        }
        let mut file = OpenOptions::new().append(true).open(&path);
        let written = file.as_mut().map_err(|e| anyhow!("{e}")).and_then(|file| {
            io::Write::write_all(file, text.as_bytes()).map_err(|e| anyhow!("{e}"))
        });
        written.with_context(|| format!("append to {}", path.display()))
    }

    /// Shuts down as `pg_ctl stop -m fast` does: clients are cut off, walsenders are drained, a
    /// checkpoint is written. Returns how long it took.
    ///
    /// # Panics
    /// When the server has not ended after a minute; a walsender whose receiver does not confirm
    /// does that.
    #[track_caller]
    pub fn stop_fast(&self) -> Duration {
        or_panic(self.try_stop_fast(STOP_TIMEOUT))
    }

    /// As [`Cluster::stop_fast`] with another limit; on error the server may still be running.
    pub fn try_stop_fast(&self, timeout: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.stop_by(Signal::Interrupt, timeout)?;
        Ok(began.elapsed())
    }

    /// Kills the postmaster and all its children with SIGKILL at one moment, as a loss of power to
    /// the server would; returns when all are gone. Does nothing when the server is down.
    ///
    /// # Panics
    /// When processes survive, which the system does not allow.
    #[track_caller]
    pub fn kill9(&self) {
        or_panic(self.try_kill9());
    }

    fn try_kill9(&self) -> anyhow::Result<()> {
        let mut server = self.server();
        let Some(postmaster) = server.running() else { return Ok(()) };
        let pid = postmaster.id();
        // Frozen, the postmaster makes no further children while we read the process table; dead,
        // it would no longer be on record as their parent.
        processes::signal(&[pid], Signal::Stop)?;
        let mut family = processes::children_of(pid)?;
        family.push(pid);
        processes::signal(&family, Signal::Kill)?;
        postmaster.wait().context("wait for the killed postmaster")?;
        scratch::release(pid);
        server.postmaster = None;
        // A survivor would hold the shared memory and keep the next start from working.
        try_wait_until("the backends to be gone", STOP_TIMEOUT, || {
            match processes::running(&family) {
                Ok(left) if left.is_empty() => Ok(()),
                Ok(left) => Err(format!("processes {left:?}")),
                Err(error) => Err(format!("{error:#}")),
            }
        })
    }

    /// Freezes the postmaster and all its children until [`Cluster::thaw`]. Does nothing when the
    /// server is down.
    ///
    /// # Panics
    /// When the system does not let us.
    #[track_caller]
    pub fn freeze(&self) {
        or_panic(self.signal_family(Signal::Stop));
    }

    /// Undoes [`Cluster::freeze`].
    ///
    /// # Panics
    /// When the system does not let us.
    #[track_caller]
    pub fn thaw(&self) {
        or_panic(self.signal_family(Signal::Continue));
    }

    fn signal_family(&self, signal: Signal) -> anyhow::Result<()> {
        let mut server = self.server();
        let Some(postmaster) = server.running() else { return Ok(()) };
        let pid = postmaster.id();
        // Frozen first, it makes no further children.
        processes::signal(&[pid], signal)?;
        processes::signal(&processes::children_of(pid)?, signal)
    }

    /// Starts the server again on the same port, after a fast stop if it is still up.
    ///
    /// # Panics
    /// When it does not stop or start.
    #[track_caller]
    pub fn restart(&self) {
        or_panic(self.try_restart());
    }

    /// As [`Cluster::restart`], with an error instead of a panic.
    pub fn try_restart(&self) -> anyhow::Result<()> {
        self.try_stop_fast(STOP_TIMEOUT)?;
        try_wait_until("the port to be ours again", START_TIMEOUT, || match self.launch() {
            Ok(Launch::Ready) => Ok(Ok(())),
            Ok(Launch::PortTaken) => Err(format!("port {} is taken", self.port)),
            Err(error) => Ok(Err(error)),
        })?
        .with_context(|| format!("restart PostgreSQL cluster {}", self.name))
    }

    /// Whether the server process is there.
    pub fn is_running(&self) -> bool {
        self.server().running().is_some()
    }

    fn stop_by(&self, signal: Signal, timeout: Duration) -> anyhow::Result<()> {
        let mut server = self.server();
        let Some(postmaster) = server.running() else { return Ok(()) };
        let pid = postmaster.id();
        processes::signal(&[pid], signal)?;
        try_wait_until(&format!("cluster {} to stop", self.name), timeout, || {
            match postmaster.try_wait() {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("still running".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })?;
        scratch::release(pid);
        server.postmaster = None;
        Ok(())
    }

    fn launch(&self) -> anyhow::Result<Launch> {
        let mut server = self.server();
        ensure!(server.running().is_none(), "it is running already");
        let log_path = self.log_path();
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("open {}", log_path.display()))?;
        let log_start = log.metadata().context("look at the log")?.len();
        let mut postmaster = self.spawn(log)?;
        scratch::guard(postmaster.id(), Signal::Quit)?;
        let conninfo = self.own_conninfo("postgres");
        let ready = try_wait_until("the first answer", START_TIMEOUT, || {
            if let Ok(Some(status)) = postmaster.try_wait() {
                return Ok(Err(status));
            }
            match Session::open(&conninfo) {
                Ok(_) => Ok(Ok(())),
                Err(error) => Err(format!("{error:#}")),
            }
        });
        let pid = postmaster.id();
        // Kept even if it never answered, so that drop ends it.
        server.postmaster = Some(postmaster);
        let Err(status) = ready? else { return Ok(Launch::Ready) };
        scratch::release(pid);
        server.postmaster = None;
        let log = self.log();
        let news = log.get(usize::try_from(log_start)?..).unwrap_or(&log);
        if news.contains("Address already in use") {
            return Ok(Launch::PortTaken);
        }
        bail!("the server ended at once with {status}; its log says:\n{}", tail(news, 15));
    }

    fn spawn(&self, log: File) -> anyhow::Result<Child> {
        let mut command = match &self.inside {
            None => server_command(&self.bin, "postgres", self.account, &self.dir),
            Some(end) => end.enter(&self.bin.program("postgres"), self.account, &self.dir),
        };
        forget_environment(&mut command);
        command.arg("-D").arg(self.data_dir());
        command.stderr(log.try_clone().context("share the log")?).stdout(log);
        // Its own group: Ctrl-C is for us, and we stop the server ourselves.
        command.process_group(0);
        command.spawn().context("start postgres")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of cluster {}\n{}", self.name, tail(&self.log(), 30));
        }
        // An immediate shutdown lets the server give its shared memory back.
        if self.stop_by(Signal::Quit, Duration::from_secs(10)).is_err()
            && let Err(error) = self.try_kill9()
        {
            eprintln!("cluster {} could not be killed: {error:#}", self.name);
        }
        forget_shared_memory(&self.data_dir());
        if !scratch::keep()
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            eprintln!("{} could not be removed: {error}", self.dir.display());
        }
    }
}

enum Launch {
    Ready,
    PortTaken,
}

/// A server program under the right account, with nothing of our environment that would steer it.
fn server_command(bin: &PgBin, name: &str, account: Option<Account>, dir: &Path) -> Command {
    let mut command = Command::new(bin.program(name));
    forget_environment(&mut command);
    // Our own directory may be closed to the other account.
    command.current_dir(dir).stdin(Stdio::null());
    if let Some(account) = account {
        account.apply(&mut command);
    }
    command
}

fn forget_environment(command: &mut Command) {
    for (key, _) in env::vars_os() {
        if key.to_string_lossy().starts_with("PG") {
            command.env_remove(key);
        }
    }
}

/// A killed server leaves a small System V segment, which PostgreSQL takes back at the next start.
/// When there is no next start it stays for ever, and a system has only some thousand of them.
fn forget_shared_memory(data_dir: &Path) {
    // The file is there only if the server did not end by itself; line 7 is "key id".
    let Ok(text) = fs::read_to_string(data_dir.join("postmaster.pid")) else { return };
    if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
        let mut command = Command::new("ipcrm");
        command.args(["-m", id]).stdout(Stdio::null()).stderr(Stdio::null());
        // Only tidiness is lost where there is no such program.
        drop(command.status());
    }
}

pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[track_caller]
fn or_panic<T>(result: anyhow::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}
