//! The files an operator writes: `node.toml` or `hub.toml`, and the `fleet.toml` all members share.
//!
//! What is written (`raw`) is checked in full before anything starts; a [`DaemonConfig`] and its
//! [`Fleet`] are what came out of that, with every default filled in. The commented reference files
//! are in `packaging/config`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_protocol::fleet::{Fleet, Member, Role};
use landfall_protocol::id::SiteId;

mod check;
mod fleet;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod peers;
mod raw;

pub use fleet::load_fleet;
pub use peers::{HangUp, News, PeerPolicy, Price};

/// Largest configuration file read, in bytes.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {}: {source}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is over [`FILE_BYTES_MAX`].
    #[error("read {}: file is larger than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLarge(PathBuf),
    /// The file is readable and wrong.
    #[error("{}{}: {}{problem}", file.display(), Line(*line), Prefix(key))]
    Invalid {
        /// Which file.
        file: PathBuf,
        /// Where in it, from 1, if one line is to blame.
        line: Option<usize>,
        /// The key, for example `member[2].addresses[0]`; empty when the file as a whole is wrong.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

/// Which daemon a file is for; the same keys mean the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `landfall-node`: `[postgres]` must be there, and the member's role is `site`.
    Node,
    /// `landfall-hub`: `[postgres]` may be absent, and the member's role is `hub`.
    Hub,
}

impl Program {
    /// The name of the binary.
    pub fn binary(self) -> &'static str {
        match self {
            Self::Node => "landfall-node",
            Self::Hub => "landfall-hub",
        }
    }

    /// The configuration file it looks for when it is not told.
    pub fn config_file(self) -> &'static str {
        match self {
            Self::Node => "node.toml",
            Self::Hub => "hub.toml",
        }
    }

    /// The role its members have in the fleet file.
    pub fn role(self) -> Role {
        match self {
            Self::Node => Role::Site,
            Self::Hub => Role::Hub,
        }
    }
}

/// Everything one daemon was told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Which daemon it is for.
    pub program: Program,
    /// The file this came from.
    pub file: PathBuf,
    /// Our number in the fleet file.
    pub site: SiteId,
    /// Our name in the fleet file.
    pub name: String,
    /// Where the store and the admin socket are.
    pub data_dir: PathBuf,
    /// The fleet file.
    pub fleet_file: PathBuf,
    /// The file of our secret key.
    pub key_file: PathBuf,
    /// Where to accept links; `None` for a member that only dials out.
    pub listen: Option<SocketAddr>,
    /// Our database; `None` only for a hub that merely relays.
    pub postgres: Option<PostgresConfig>,
    /// How links are made and kept.
    pub link: LinkConfig,
    /// How much of everything.
    pub limits: Limits,
    /// How long the history of conflicts is kept.
    pub history: HistoryConfig,
    /// Where metrics are served; `None` = nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// What is logged.
    pub log: LogConfig,
}

impl DaemonConfig {
    /// Where status is asked for.
    pub fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    /// The SQLite file that holds everything durable.
    pub fn store_file(&self) -> PathBuf {
        self.data_dir.join("landfall.db")
    }
}

/// The `[postgres]` section.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// Connection string; may hold a password.
    pub conninfo: String,
    /// Certificate authorities for TLS, PEM.
    pub ssl_root_cert: Option<PathBuf>,
    /// Our replication slot.
    pub slot: String,
    /// The publication with the fleet's tables.
    pub publication: String,
}

impl fmt::Debug for PostgresConfig {
    // Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("slot", &self.slot)
            .field("publication", &self.publication)
            .finish_non_exhaustive()
    }
}

/// The `[link]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// How often an idle link says that it is there; `None` = never.
    pub keep_alive: Option<Duration>,
    /// What the thinnest of our lines carries, in bytes per second; `None` = not told.
    pub rate: Option<u64>,
    /// The round trip of the longest of our lines; `None` = not told.
    pub round_trip: Option<Duration>,
    /// Shortest wait before a new attempt.
    pub reconnect_min: Duration,
    /// Longest wait before a new attempt.
    pub reconnect_max: Duration,
    /// Members to keep a link to; all have addresses.
    pub dial: Vec<SiteId>,
    /// What the operator wants of the links with some of the others: the `[[peer]]` sections.
    pub peers: BTreeMap<SiteId, PeerPolicy>,
}

/// The `[limits]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Plain bytes after which a unit is sealed.
    pub unit_bytes_max: usize,
    /// Plain bytes that may be left of what is compacted while no peer is linked; `None` compacts nothing.
    pub compacted_bytes_max: Option<usize>,
    /// Changes that may share one PostgreSQL transaction when applied.
    pub group_changes_max: usize,
    /// Memory that the rows of one local transaction may take. A larger one goes through a scratch
    /// file in the data directory and travels in fragments.
    pub transaction_bytes_max: usize,
    /// How far ahead of our clock a foreign unit may be before it is held.
    pub drift_max: Duration,
    /// Size the store may grow to; `None` = as the disk allows.
    pub store_bytes_max: Option<u64>,
    /// Bytes of parts of bundles that may be kept until what comes before them is held.
    pub bundle_spool_bytes_max: u64,
}

/// The `[history]` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    /// Age, in whole days, from which lines of `landfall.conflict` are removed; `None` = never.
    pub keep: Option<Duration>,
}

/// The `[log]` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important level that is written.
    pub level: tracing::Level,
    /// For people or for machines.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Reads and checks a daemon's file and the fleet file it names.
///
/// # Errors
/// The first thing wrong, with its file and key.
pub fn load(file: &Path, program: Program) -> Result<(DaemonConfig, Fleet), ConfigError> {
    let raw: raw::Daemon = raw::read(file)?;
    let fleet_file = beside(file, &raw.fleet);
    let fleet = load_fleet(&fleet_file)?;
    let config = check::Check { file, program, fleet: &fleet, fleet_file: &fleet_file };
    Ok((config.daemon(raw)?, fleet))
}

/// Name and key file in a daemon's file, without looking at the fleet file: a member's key is drawn
/// before the fleet knows it.
///
/// # Errors
/// As [`load`], as far as the file itself goes.
pub fn load_identity(file: &Path) -> Result<Identity, ConfigError> {
    let raw: raw::Daemon = raw::read(file)?;
    Ok(Identity {
        key_file: beside(file, &raw.key),
        fleet_file: beside(file, &raw.fleet),
        name: raw.name,
    })
}

/// What `keygen` needs of a daemon's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The member's name.
    pub name: String,
    /// Where its secret key belongs.
    pub key_file: PathBuf,
    /// The fleet file, which may not be there yet.
    pub fleet_file: PathBuf,
}

/// A path in a file is relative to the file, not to where the command happens to run.
fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// The name of the slot of a member that was not told another: PostgreSQL allows lower-case
/// letters, digits and `_`.
fn default_slot(member: &Member) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    format!("landfall_{}", member.name.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests;
