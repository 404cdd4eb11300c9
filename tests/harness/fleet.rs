//! A whole fleet of real daemons on throw-away PostgreSQL clusters, with every link through a UDP
//! relay of its own that can be cut.
//!
//! ```no_run
//! use landfall_tests::fleet::Fleet;
//! let fleet = Fleet::new("CREATE TABLE bed (id int PRIMARY KEY, patient text)", &["public.bed"])
//!     .star("shore", &["ship-a", "ship-b"])
//!     .start();
//! fleet.sql("ship-a", "INSERT INTO bed VALUES (1, 'Ada')");
//! fleet.converge();
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value as Json;

use crate::cluster::{Cluster, Disk};
use crate::compare::{self, Comparison};
use crate::disk::{self, SmallDisk};
use crate::ports;
use crate::process::{Daemon, Program};
use crate::relay::UdpRelay;
use crate::scratch;
use crate::session::Row;
use crate::wait;

mod rebuild;

/// The database every site has.
pub const DB: &str = "ward";
/// How long anything but converging may take.
pub const SOON: Duration = Duration::from_secs(30);
/// How long converging may take.
pub const CONVERGE: Duration = Duration::from_secs(120);

/// Links that are made anew at once and found dead soon.
const LINK_SETTINGS: &str = "reconnect_min_ms = 50\nreconnect_max_ms = 500\nkeep_alive_s = 1";

/// What a member is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Site,
    Relay,
    HubWithDatabase,
}

impl Kind {
    fn binary(self) -> &'static str {
        match self {
            Self::Site => "landfall-node",
            Self::Relay | Self::HubWithDatabase => "landfall-hub",
        }
    }

    fn has_database(self) -> bool {
        self != Self::Relay
    }
}

/// A fleet in the making.
#[derive(Debug)]
pub struct Builder {
    schema: String,
    tables: Vec<String>,
    members: Vec<(String, Kind)>,
    links: Vec<(String, String)>,
    absent: Vec<String>,
    env: Vec<(String, String)>,
    conf: Vec<(String, String)>,
    link_settings: String,
    extra: String,
    rules: String,
    other_rules: BTreeMap<String, String>,
    disk: Disk,
    versions: BTreeMap<String, u32>,
    schemas: BTreeMap<String, String>,
    preparations: BTreeMap<String, String>,
    disks: BTreeMap<String, disk::Kind>,
}

impl Builder {
    /// A site: a database and a `landfall-node`.
    #[must_use]
    pub fn site(mut self, name: &str) -> Self {
        self.members.push((name.to_owned(), Kind::Site));
        self
    }

    /// A hub that only relays.
    #[must_use]
    pub fn hub(mut self, name: &str) -> Self {
        self.members.push((name.to_owned(), Kind::Relay));
        self
    }

    /// A hub with a database of its own.
    #[must_use]
    pub fn hub_with_database(mut self, name: &str) -> Self {
        self.members.push((name.to_owned(), Kind::HubWithDatabase));
        self
    }

    /// A hub that only relays, and sites that dial it.
    #[must_use]
    pub fn star(self, hub: &str, sites: &[&str]) -> Self {
        let fleet = self.hub(hub);
        sites.iter().fold(fleet, |fleet, site| fleet.site(site).link(site, hub))
    }

    /// The first member dials the second, through a relay.
    #[must_use]
    pub fn link(mut self, from: &str, to: &str) -> Self {
        self.links.push((from.to_owned(), to.to_owned()));
        self
    }

    /// A member that is in the fleet file but is only started by [`Fleet::join`].
    #[must_use]
    pub fn later(mut self, name: &str) -> Self {
        self.absent.push(name.to_owned());
        self
    }

    /// Nobody is started but by [`Fleet::join`].
    #[must_use]
    pub fn all_later(mut self) -> Self {
        self.absent = self.members.iter().map(|(name, _)| name.clone()).collect();
        self
    }

    /// The major version of a member's PostgreSQL, instead of the preferred one.
    #[must_use]
    pub fn postgres(mut self, name: &str, major: u32) -> Self {
        self.versions.insert(name.to_owned(), major);
        self
    }

    /// A schema of its own for one member, instead of everybody's.
    #[must_use]
    pub fn schema_of(mut self, name: &str, schema: &str) -> Self {
        self.schemas.insert(name.to_owned(), schema.to_owned());
        self
    }

    /// SQL for the database of one member, run after the schema.
    #[must_use]
    pub fn prepare(mut self, name: &str, sql: &str) -> Self {
        self.preparations.insert(name.to_owned(), sql.to_owned());
        self
    }

    /// A small file system of its own as data directory of one member; [`disk::may_mount`] first.
    #[must_use]
    pub fn small_disk(mut self, name: &str, kind: disk::Kind) -> Self {
        self.disks.insert(name.to_owned(), kind);
        self
    }

    /// An environment variable of every daemon.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A PostgreSQL setting of every cluster.
    #[must_use]
    pub fn conf(mut self, key: &str, value: &str) -> Self {
        self.conf.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Other lines for the section `[link]` of every daemon than those that make tests quick.
    #[must_use]
    pub fn link_settings(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.link_settings);
        self
    }

    /// More lines for every daemon's configuration file.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.extra.push_str(lines);
        self
    }

    /// Further lines for everybody's fleet file: merge rules of tables.
    #[must_use]
    pub fn rules(mut self, lines: &str) -> Self {
        self.rules.push_str(lines);
        self
    }

    /// Other lines for the fleet file of one member.
    #[must_use]
    pub fn rules_of(mut self, name: &str, lines: &str) -> Self {
        self.other_rules.insert(name.to_owned(), lines.to_owned());
        self
    }

    /// PostgreSQL without fsync: faster, for tests that never kill a server.
    #[must_use]
    pub fn unsynced(mut self) -> Self {
        self.disk = Disk::Unsynced;
        self
    }

    /// Makes clusters, keys and files, runs `init`, starts everybody who is not [`Builder::later`].
    ///
    /// # Panics
    /// When anything fails; the daemons' logs are printed.
    pub fn start(self) -> Fleet {
        self.try_start().unwrap_or_else(|error| panic!("cannot start the fleet: {error:#}"))
    }

    /// As [`Builder::start`].
    ///
    /// # Errors
    /// Says what failed.
    pub fn try_start(self) -> anyhow::Result<Fleet> {
        let dir = scratch::fresh_dir("fleet")?;
        let ports: BTreeMap<String, SocketAddr> = self
            .members
            .iter()
            .map(|(name, _)| Ok((name.clone(), SocketAddr::from(([127, 0, 0, 1], ports::draw()?)))))
            .collect::<anyhow::Result<_>>()?;
        let mut relays = BTreeMap::new();
        for (from, to) in &self.links {
            let target = *ports.get(to).with_context(|| format!("no member {to}"))?;
            relays.insert((from.clone(), to.clone()), UdpRelay::start(target));
        }
        let mut fleet = Fleet { members: BTreeMap::new(), relays, tables: self.tables.clone() };
        let keys = self.make_keys(&dir)?;
        for (name, kind) in &self.members {
            let member = self.make_member(&dir, name, *kind, &keys, &ports, &fleet.relays)?;
            fleet.members.insert(name.clone(), member);
        }
        for (name, _) in self.members.iter().filter(|(name, _)| !self.absent.contains(name)) {
            fleet.members[name].init()?;
        }
        for (name, _) in self.members.iter().filter(|(name, _)| !self.absent.contains(name)) {
            fleet.launch(name)?;
        }
        Ok(fleet)
    }

    fn make_keys(&self, dir: &Path) -> anyhow::Result<BTreeMap<String, String>> {
        let mut keys = BTreeMap::new();
        for (name, kind) in &self.members {
            std::fs::create_dir_all(dir.join(name))?;
            let file = dir.join(name).join("member.key");
            let made = Program::landfall(kind.binary())
                .args(["keygen", "--json", "--out"])
                .arg(&file)
                .run(SOON)?
                .success();
            let made: Json = serde_json::from_str(&made).context("keygen prints JSON")?;
            let key = made["public_key"].as_str();
            keys.insert(name.clone(), key.context("keygen prints the public key")?.to_owned());
        }
        Ok(keys)
    }

    fn make_member(
        &self,
        dir: &Path,
        name: &str,
        kind: Kind,
        keys: &BTreeMap<String, String>,
        ports: &BTreeMap<String, SocketAddr>,
        relays: &BTreeMap<(String, String), UdpRelay>,
    ) -> anyhow::Result<Member> {
        let home = dir.join(name);
        let cluster = kind.has_database().then(|| self.make_cluster(name)).transpose()?;
        let mut fleet =
            format!("version = 1\n[[set]]\nid = 1\nname = \"all\"\ntables = {:?}\n", self.tables);
        for (number, (other, other_kind)) in self.members.iter().enumerate() {
            let relay = relays.get(&(name.to_owned(), other.clone()));
            let addresses: Vec<String> = relay.iter().map(|r| r.addr().to_string()).collect();
            let role = if *other_kind == Kind::Site { "site" } else { "hub" };
            writeln!(
                fleet,
                "[[member]]\nid = {}\nname = {other:?}\nkey = {:?}\naddresses = {addresses:?}\nrole = {role:?}",
                number + 1,
                keys[other]
            )?;
        }
        fleet.push_str(self.other_rules.get(name).unwrap_or(&self.rules));
        std::fs::write(home.join("fleet.toml"), fleet)?;
        let mut config = format!(
            "name = {name:?}\ndata_dir = \"data\"\nfleet = \"fleet.toml\"\nkey = \"member.key\"\nlisten = \"{}\"\n",
            ports[name]
        );
        if let Some(cluster) = &cluster {
            writeln!(config, "[postgres]\nconninfo = {:?}", cluster.socket_conninfo(DB))?;
        }
        let dial: Vec<&String> =
            self.links.iter().filter(|(from, _)| from == name).map(|(_, to)| to).collect();
        writeln!(config, "[link]\ndial = {dial:?}\n{}", self.link_settings)?;
        config.push_str(&self.extra);
        let file = home.join("config.toml");
        std::fs::write(&file, config)?;
        let small_disk = self.disks.get(name);
        let small_disk =
            small_disk.map(|kind| SmallDisk::mount(&home.join("data"), *kind)).transpose()?;
        Ok(Member {
            kind,
            name: name.to_owned(),
            file,
            cluster,
            daemon: None,
            env: self.env.clone(),
            small_disk,
        })
    }

    fn make_cluster(&self, name: &str) -> anyhow::Result<Cluster> {
        let mut options = Cluster::options(name).disk(self.disk);
        for (key, value) in &self.conf {
            options = options.conf(key, value);
        }
        if let Some(major) = self.versions.get(name) {
            options = options.version(*major);
        }
        let cluster = options.start()?;
        cluster.try_create_db(DB)?;
        cluster.try_sql(DB, self.schemas.get(name).unwrap_or(&self.schema))?;
        if let Some(sql) = self.preparations.get(name) {
            cluster.try_sql(DB, sql)?;
        }
        Ok(cluster)
    }
}

/// One member: its files, its database if it has one, its daemon while it runs.
#[derive(Debug)]
pub struct Member {
    kind: Kind,
    name: String,
    file: PathBuf,
    cluster: Option<Cluster>,
    daemon: Option<Daemon>,
    env: Vec<(String, String)>,
    // Behind the daemon, which has files open in it.
    small_disk: Option<SmallDisk>,
}

impl Member {
    /// A command of this member's program with its configuration file.
    pub fn command(&self, words: &[&str]) -> Program {
        let program =
            Program::landfall(self.kind.binary()).args(words).arg("--config").arg(&self.file);
        self.env.iter().fold(program, |program, (key, value)| program.env(key, value))
    }

    /// Runs `init`.
    ///
    /// # Errors
    /// Says what it printed.
    pub fn init(&self) -> anyhow::Result<()> {
        let done = self.command(&["init"]).run(SOON)?;
        anyhow::ensure!(
            done.status.success(),
            "{} init: {}{}",
            self.name,
            done.stdout,
            done.stderr
        );
        Ok(())
    }

    /// What `status --json` prints, asked at the admin socket: tests ask many times per second, and
    /// a process for each would take the processor from those that are being waited for.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn status(&self) -> anyhow::Result<Json> {
        self.ask_status().with_context(|| format!("{} status", self.name))
    }

    fn ask_status(&self) -> anyhow::Result<Json> {
        let mut socket = UnixStream::connect(self.data_dir().join("admin.sock"))?;
        socket.set_read_timeout(Some(SOON))?;
        socket.write_all(b"{\"request\":\"status\"}\n")?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line)?;
        let mut answer: Json = serde_json::from_str(&line).context("an answer in JSON")?;
        let status = answer["ok"].take();
        anyhow::ensure!(!status.is_null(), "{line}");
        Ok(status)
    }

    /// The configuration file.
    pub fn config_file(&self) -> &Path {
        &self.file
    }

    /// Where the store is.
    pub fn data_dir(&self) -> PathBuf {
        self.file.with_file_name("data")
    }

    /// The file system of the data directory.
    ///
    /// # Panics
    /// When it has none of its own.
    pub fn small_disk(&self) -> &SmallDisk {
        self.small_disk.as_ref().unwrap_or_else(|| panic!("{} has no disk of its own", self.name))
    }

    /// The database.
    ///
    /// # Panics
    /// When this member has none.
    pub fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().unwrap_or_else(|| panic!("{} has no database", self.name))
    }

    /// The running daemon.
    ///
    /// # Panics
    /// When it was never started.
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap_or_else(|| panic!("{} was never started", self.name))
    }
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    members: BTreeMap<String, Member>,
    relays: BTreeMap<(String, String), UdpRelay>,
    tables: Vec<String>,
}

impl Fleet {
    /// A fleet whose databases are made by `schema` and replicate `tables`.
    #[expect(clippy::new_ret_no_self, reason = "a fleet is only had by building it")]
    pub fn new(schema: &str, tables: &[&str]) -> Builder {
        Builder {
            schema: schema.to_owned(),
            tables: tables.iter().map(|table| (*table).to_owned()).collect(),
            members: Vec::new(),
            links: Vec::new(),
            absent: Vec::new(),
            env: Vec::new(),
            conf: Vec::new(),
            link_settings: LINK_SETTINGS.to_owned(),
            extra: String::new(),
            rules: String::new(),
            other_rules: BTreeMap::new(),
            disk: Disk::Synced,
            versions: BTreeMap::new(),
            schemas: BTreeMap::new(),
            preparations: BTreeMap::new(),
            disks: BTreeMap::new(),
        }
    }

    /// A member by name.
    ///
    /// # Panics
    /// When there is none.
    pub fn member(&self, name: &str) -> &Member {
        self.members.get(name).unwrap_or_else(|| panic!("no member {name}"))
    }

    /// The names of the members that have a database.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let sites = self.members.iter().filter(|(_, member)| member.cluster.is_some());
        sites.map(|(name, _)| name.as_str())
    }

    /// The relay by which `from` dials `to`.
    ///
    /// # Panics
    /// When there is none.
    pub fn link(&self, from: &str, to: &str) -> &UdpRelay {
        let key = (from.to_owned(), to.to_owned());
        self.relays.get(&key).unwrap_or_else(|| panic!("no link from {from} to {to}"))
    }

    /// Every relay.
    pub fn links(&self) -> impl Iterator<Item = &UdpRelay> {
        self.relays.values()
    }

    /// Runs SQL at a site.
    pub fn sql(&self, name: &str, sql: &str) {
        self.member(name).cluster().sql(DB, sql);
    }

    /// Asks a site.
    pub fn rows(&self, name: &str, sql: &str) -> Vec<Row> {
        self.member(name).cluster().query_rows(DB, sql)
    }

    /// Runs `init` and starts a member that was declared [`Builder::later`].
    ///
    /// # Panics
    /// When it does not come up.
    pub fn join(&mut self, name: &str) {
        self.member(name).init().unwrap_or_else(|error| panic!("{error:#}"));
        self.launch(name).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Starts a member's daemon, or starts it again.
    ///
    /// # Errors
    /// It does not come up.
    pub fn launch(&mut self, name: &str) -> anyhow::Result<()> {
        let member = self.members.get_mut(name).with_context(|| format!("no member {name}"))?;
        match &member.daemon {
            Some(daemon) => daemon.try_start_again()?,
            None => member.daemon = Some(member.command(&["run"]).named(name).try_start()?),
        }
        self.wait_until_up(name)
    }

    /// Starts a member's daemon under these rules of `LANDFALL_PLANT`, in place of the one before,
    /// which is killed and its log forgotten. Does not wait for it, for it may not live long.
    ///
    /// # Errors
    /// There is no such member or no such program.
    pub fn replace_daemon(&mut self, name: &str, plant: &str) -> anyhow::Result<()> {
        let member = self.members.get_mut(name).with_context(|| format!("no member {name}"))?;
        drop(member.daemon.take());
        let program = member.command(&["run"]).named(name).env("LANDFALL_PLANT", plant);
        member.daemon = Some(program.try_start()?);
        Ok(())
    }

    fn wait_until_up(&self, name: &str) -> anyhow::Result<()> {
        let member = self.member(name);
        wait::try_wait_until(&format!("{name} to answer"), SOON, || {
            if let Ok(Some(status)) = member.daemon().exited() {
                return Err(format!("it exited with {status}"));
            }
            member.status().map(drop).map_err(|error| format!("{error:#}"))
        })
    }

    /// Waits until everybody knows the same, then compares: progress vectors, tables by SQL, and
    /// that every received change has one fate. Returns the rows compared per site, of a single
    /// running database its rows.
    ///
    /// # Panics
    /// When that is not so in time.
    pub fn converge(&self) -> usize {
        self.converge_within(CONVERGE)
    }

    /// As [`Fleet::converge`], with a limit.
    pub fn converge_within(&self, limit: Duration) -> usize {
        self.try_converge(limit).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// As [`Fleet::converge_within`], with an error instead of a panic.
    ///
    /// # Errors
    /// Who waits for what when time is over; the rows that differ.
    pub fn try_converge(&self, limit: Duration) -> anyhow::Result<usize> {
        self.settle_within(limit, Dirt::Repaired)?;
        let (sites, tables) = self.shown();
        let Comparison { differences, rows, .. } = compare::compare(&sites, &tables)?;
        anyhow::ensure!(differences.is_empty(), "the sites differ\n{differences}");
        Ok(rows)
    }

    /// Waits until everybody knows the same, as [`Fleet::try_converge`] does, or until `early`
    /// returns something.
    ///
    /// # Errors
    /// Neither came about.
    pub fn settle_unless<T>(
        &self,
        limit: Duration,
        mut early: impl FnMut() -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let running = self.running();
        wait::try_wait_until("the fleet to converge", limit, || match early() {
            Some(found) => Ok(Some(found)),
            None => converged(&running, Dirt::Repaired).map(|_| None),
        })
    }

    /// As [`Fleet::converge`], for daemons with planted bugs: rows may differ, and how many do is
    /// returned.
    ///
    /// # Panics
    /// When not everybody knows the same in time, or a site cannot be read.
    pub fn converge_planted(&self) -> Comparison {
        self.settle_within(CONVERGE, Dirt::Stays).unwrap_or_else(|error| panic!("{error:#}"));
        let (sites, tables) = self.shown();
        compare::compare(&sites, &tables).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Rows put right by self-healing, at all members.
    ///
    /// # Panics
    /// When a member does not answer.
    pub fn repaired_rows(&self) -> u64 {
        let status = |member: &&Member| member.status().unwrap_or_else(|e| panic!("{e:#}"));
        let count = |status: Json| status["repaired_rows"].as_u64().unwrap_or(0);
        self.running().iter().map(status).map(count).sum()
    }

    /// Fails when a daemon logged WARN or ERROR in a line that holds none of the `expected` texts.
    ///
    /// # Panics
    /// When that is so, with the lines.
    #[track_caller]
    pub fn assert_quiet(&self, expected: &[&str]) {
        let daemons = self.members.values().filter_map(|member| member.daemon.as_ref());
        let alarms: Vec<String> = daemons
            .flat_map(|daemon| {
                daemon.alarms(expected).into_iter().map(|line| format!("{}: {line}", daemon.name()))
            })
            .collect();
        assert!(alarms.is_empty(), "unexpected alarms:\n{}", alarms.join("\n"));
    }

    fn running(&self) -> Vec<&Member> {
        let runs = |member: &&Member| member.daemon.as_ref().is_some_and(|d| d.pid().is_some());
        self.members.values().filter(runs).collect()
    }

    /// Databases and tables to compare.
    fn shown(&self) -> (Vec<compare::Site<'_>>, Vec<&str>) {
        let sites = self.running().into_iter().filter_map(|m| Some((m.cluster.as_ref()?, DB)));
        let mut sites: Vec<_> = sites.collect();
        if let [alone] = sites[..] {
            sites.push(alone);
        }
        (sites, self.tables.iter().map(String::as_str).collect())
    }

    fn settle_within(&self, limit: Duration, dirt: Dirt) -> anyhow::Result<()> {
        let running = self.running();
        let statuses =
            wait::try_wait_until("the fleet to converge", limit, || converged(&running, dirt))?;
        for status in statuses {
            let fates = &status["fates"];
            let count = |name: &str| fates[name].as_u64().unwrap_or(0);
            let fate = count("applied") + count("merged") + count("superseded") + count("parked");
            let told = status["apply"].is_null() || count("received") == fate;
            anyhow::ensure!(told, "a change has no fate, or two: {fates}");
        }
        Ok(())
    }
}

/// What converging means for rows that do not show what their clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dirt {
    /// They are put right first.
    Repaired,
    /// Nobody puts them right: that is planted.
    Stays,
}

/// Every site's knowledge, in one form; the statuses once all are equal and nothing is under way.
fn converged(members: &[&Member], dirt: Dirt) -> Result<Vec<Json>, String> {
    let mut statuses = Vec::new();
    let mut seen: Option<(String, BTreeMap<String, u64>)> = None;
    for member in members {
        if let Some(cluster) = &member.cluster {
            settled(member, cluster)?;
        }
        let status = member.status().map_err(|error| format!("{error:#}"))?;
        let wait_for_repair = dirt == Dirt::Repaired && status["rows_to_repair"] != 0;
        if wait_for_repair {
            return Err(format!("{} has rows to repair", member.name));
        }
        let field = if member.kind.has_database() { "applied" } else { "received" };
        let knows = vector(&status["vector"], field);
        if let Some((other, theirs)) = &seen
            && *theirs != knows
        {
            return Err(format!("{other} knows {theirs:?}, {} knows {knows:?}", member.name));
        }
        seen = Some((member.name.clone(), knows));
        statuses.push(status);
    }
    Ok(statuses)
}

/// Whether the fold has reached what is committed in the database now.
fn settled(member: &Member, cluster: &Cluster) -> Result<(), String> {
    let status = member.status().map_err(|error| format!("{error:#}"))?;
    let fold = status["fold_lsn"].as_str().unwrap_or("0/0").to_owned();
    let sql = format!("SELECT pg_current_wal_flush_lsn() <= '{fold}'::pg_lsn");
    let value = cluster.try_query_rows(DB, &sql).map_err(|error| format!("{error:#}"))?;
    match value.first().and_then(|row| row.first()) {
        Some(Some(yes)) if yes == "t" => Ok(()),
        _ => Err(format!("{} has folded up to {fold} only", member.name)),
    }
}

fn vector(json: &Json, field: &str) -> BTreeMap<String, u64> {
    let entries = json.as_array().into_iter().flatten().map(|entry| {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        (text("name") + "." + &text("incarnation"), entry[field].as_u64().unwrap_or(0))
    });
    entries.filter(|(_, seq)| *seq > 0).collect()
}
