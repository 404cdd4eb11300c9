//! Exactly what may be written in the files, before any rule is looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ConfigError, FILE_BYTES_MAX};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Daemon {
    pub(super) name: String,
    pub(super) data_dir: String,
    pub(super) fleet: String,
    pub(super) key: String,
    pub(super) listen: Option<String>,
    pub(super) postgres: Option<Postgres>,
    #[serde(default)]
    pub(super) link: Link,
    #[serde(default)]
    pub(super) peer: Vec<Peer>,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) history: History,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) log: Log,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Postgres {
    pub(super) conninfo: String,
    pub(super) ssl_root_cert: Option<String>,
    pub(super) slot: Option<String>,
    pub(super) publication: Option<String>,
}

impl std::fmt::Debug for Postgres {
    // Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    pub(super) keep_alive_s: Option<u64>,
    pub(super) rate_kbit: Option<u64>,
    pub(super) round_trip_ms: Option<u64>,
    pub(super) reconnect_min_ms: Option<u64>,
    pub(super) reconnect_max_ms: Option<u64>,
    pub(super) dial: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) budget_bytes_per_month: Option<u64>,
    pub(super) price_per_mb: Option<f64>,
    pub(super) currency: Option<String>,
    pub(super) windows_utc: Option<Vec<String>>,
    pub(super) hang_up_when_drained: Option<bool>,
    pub(super) call_every_s: Option<u64>,
    pub(super) call_for_news: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) unit_bytes_max: Option<u64>,
    pub(super) compacted_bytes_max: Option<u64>,
    pub(super) group_changes_max: Option<u64>,
    pub(super) transaction_bytes_max: Option<u64>,
    pub(super) drift_ms_max: Option<u64>,
    pub(super) store_bytes_max: Option<u64>,
    pub(super) bundle_spool_bytes_max: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    pub(super) keep_days: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) level: Option<String>,
    pub(super) format: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fleet {
    pub(super) version: u64,
    #[serde(default)]
    pub(super) set: Vec<Set>,
    #[serde(default)]
    pub(super) member: Vec<Member>,
    #[serde(default)]
    pub(super) table: Vec<Table>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub(super) name: String,
    #[serde(default)]
    pub(super) columns: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) groups: Vec<Vec<String>>,
    pub(super) deletes: Option<String>,
    #[serde(default)]
    pub(super) unique: Vec<Unique>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unique {
    pub(super) columns: Vec<String>,
    pub(super) loser: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Set {
    pub(super) id: u16,
    pub(super) name: String,
    pub(super) tables: Vec<String>,
    #[serde(default)]
    pub(super) full_history: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    pub(super) id: u16,
    pub(super) name: String,
    pub(super) key: String,
    #[serde(default)]
    pub(super) addresses: Vec<String>,
    pub(super) role: Option<String>,
}

/// Reads a TOML file into its raw form.
pub(super) fn read<T: DeserializeOwned>(file: &Path) -> Result<T, ConfigError> {
    let failed = |source| ConfigError::Read { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(failed)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    decode(file, bytes)
}

/// The raw form of a file's content.
pub(super) fn decode<T: DeserializeOwned>(file: &Path, bytes: Vec<u8>) -> Result<T, ConfigError> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge(file.to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = count_lines(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        invalid(file, Some(line), "", "text is not UTF-8".into())
    })?;
    parse(file, &text)
}

fn parse<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, ConfigError> {
    let wrong = |key: &str, error: &toml::de::Error| {
        let line = error.span().map(|span| count_lines(&text.as_bytes()[..span.start]));
        // TOML's messages may have several lines; ours have one.
        let problem = error.message().lines().collect::<Vec<_>>().join(", ");
        invalid(file, line, key, problem)
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| wrong("", &error))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let key = error.path().to_string();
        wrong(if key == "." { "" } else { &key }, error.inner())
    })
}

fn invalid(file: &Path, line: Option<usize>, key: &str, problem: String) -> ConfigError {
    ConfigError::Invalid { file: file.to_owned(), line, key: key.to_owned(), problem }
}

/// The number of the line that follows these bytes.
fn count_lines(before: &[u8]) -> usize {
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
