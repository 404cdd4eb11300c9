//! The rules of a daemon's file, and its defaults.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use landfall_protocol::fleet::{Fleet, IDENTIFIER_BYTES_MAX, Member};
use landfall_protocol::id::SiteId;

use super::{
    ConfigError, DaemonConfig, HistoryConfig, Limits, LinkConfig, LogConfig, LogFormat,
    PostgresConfig, Program, beside, default_slot, raw,
};

/// Linux keeps 108 bytes for a Unix socket's path, with the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

const KEEP_ALIVE_S: RangeInclusive<u64> = 0..=3_600;
const RATE_KBIT: RangeInclusive<u64> = 1..=100_000_000;
const ROUND_TRIP_MS: RangeInclusive<u64> = 1..=60_000;
const RECONNECT_MS: RangeInclusive<u64> = 10..=86_400_000;
const RECONNECT_MIN_MS_DEFAULT: u64 = 500;
const RECONNECT_MAX_MS_DEFAULT: u64 = 60_000;
const UNIT_BYTES: RangeInclusive<u64> = 4_096..=8_388_608;
const UNIT_BYTES_DEFAULT: u64 = 1_048_576;
const COMPACTED_BYTES: RangeInclusive<u64> = 65_536..=8_388_608;
const COMPACTED_BYTES_DEFAULT: u64 = 2_097_152;
const GROUP_CHANGES: RangeInclusive<u64> = 1..=100_000;
/// One group must get its locks within 300 ms; this leaves room on a slow disk.
const GROUP_CHANGES_DEFAULT: u64 = 1_000;
const TRANSACTION_BYTES: RangeInclusive<u64> = 65_536..=1 << 30;
const TRANSACTION_BYTES_DEFAULT: u64 = 2_097_152;
const DRIFT_MS: RangeInclusive<u64> = 1_000..=86_400_000;
const DRIFT_MS_DEFAULT: u64 = 300_000;
const KEEP_DAYS: RangeInclusive<u64> = 0..=36_500;
const KEEP_DAYS_DEFAULT: u64 = 365;
const STORE_BYTES: RangeInclusive<u64> = 16_777_216..=1 << 46;
const SPOOL_BYTES_DEFAULT: u64 = 4 << 30;
const SPOOL_BYTES: RangeInclusive<u64> = 0..=1 << 50;

/// What a daemon's file is checked against.
pub(super) struct Check<'a> {
    pub(super) file: &'a Path,
    pub(super) program: Program,
    pub(super) fleet: &'a Fleet,
    pub(super) fleet_file: &'a Path,
}

impl Check<'_> {
    pub(super) fn daemon(&self, raw: raw::Daemon) -> Result<DaemonConfig, ConfigError> {
        let member = self.member(&raw.name)?;
        let listen = self.address("listen", raw.listen.as_deref(), "0.0.0.0:7400")?;
        let metrics = raw.metrics.listen.as_deref();
        let metrics_listen = self.address("metrics.listen", metrics, "127.0.0.1:7480")?;
        let config = DaemonConfig {
            program: self.program,
            file: self.file.to_owned(),
            site: member.site,
            name: raw.name.clone(),
            data_dir: beside(self.file, self.filled("data_dir", &raw.data_dir)?),
            fleet_file: self.fleet_file.to_owned(),
            key_file: beside(self.file, self.filled("key", &raw.key)?),
            listen,
            postgres: self.postgres(raw.postgres, member)?,
            link: self.link(raw.link, raw.peer, member)?,
            limits: self.limits(&raw.limits)?,
            history: self.history(&raw.history)?,
            metrics_listen,
            log: self.log(&raw.log)?,
        };
        let socket = config.admin_socket();
        let bytes = socket.as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            let path = socket.display();
            let problem = format!(
                "{path} has {bytes} bytes, but a socket's path ends at {SOCKET_PATH_BYTES_MAX}; use a shorter directory"
            );
            return Err(self.wrong("data_dir", problem));
        }
        Ok(config)
    }

    fn member(&self, name: &str) -> Result<&Member, ConfigError> {
        let fleet_file = self.fleet_file.display();
        let Some(member) = self.fleet.member_named(name) else {
            let problem = format!("{name:?} is not a member in {fleet_file}");
            return Err(self.wrong("name", problem));
        };
        let (program, role) = (self.program.binary(), self.program.role());
        if member.role != role {
            let problem = format!(
                "{name:?} has role {:?} in {fleet_file}, but {program} runs members of role {:?}",
                member.role.as_str(),
                role.as_str()
            );
            return Err(self.wrong("name", problem));
        }
        Ok(member)
    }

    fn postgres(
        &self,
        raw: Option<raw::Postgres>,
        member: &Member,
    ) -> Result<Option<PostgresConfig>, ConfigError> {
        let Some(raw) = raw else {
            return match self.program {
                Program::Hub => Ok(None),
                Program::Node => Err(self.wrong("postgres", "section is missing")),
            };
        };
        self.filled("postgres.conninfo", &raw.conninfo)?;
        let slot = raw.slot.unwrap_or_else(|| default_slot(member));
        let publication = raw.publication.unwrap_or_else(|| "landfall".to_owned());
        for (key, name) in [("postgres.slot", &slot), ("postgres.publication", &publication)] {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if name.is_empty() || name.len() > IDENTIFIER_BYTES_MAX || !name.chars().all(plain) {
                let problem = format!(
                    "must have 1 to {IDENTIFIER_BYTES_MAX} lower-case letters, digits or \"_\", found {name:?}"
                );
                return Err(self.wrong(key, problem));
            }
        }
        Ok(Some(PostgresConfig {
            conninfo: raw.conninfo,
            ssl_root_cert: raw.ssl_root_cert.map(|path| beside(self.file, &path)),
            slot,
            publication,
        }))
    }

    fn link(
        &self,
        raw: raw::Link,
        peers: Vec<raw::Peer>,
        me: &Member,
    ) -> Result<LinkConfig, ConfigError> {
        let keep_alive_s = self.number("link.keep_alive_s", raw.keep_alive_s, 0, &KEEP_ALIVE_S)?;
        let told = |key: &str, given: Option<u64>, range: &RangeInclusive<u64>| {
            given.map(|_| self.number(key, given, 0, range)).transpose()
        };
        let rate_kbit = told("link.rate_kbit", raw.rate_kbit, &RATE_KBIT)?;
        let round_trip = told("link.round_trip_ms", raw.round_trip_ms, &ROUND_TRIP_MS)?;
        let min_key = "link.reconnect_min_ms";
        let min =
            self.number(min_key, raw.reconnect_min_ms, RECONNECT_MIN_MS_DEFAULT, &RECONNECT_MS)?;
        let max_key = "link.reconnect_max_ms";
        let max =
            self.number(max_key, raw.reconnect_max_ms, RECONNECT_MAX_MS_DEFAULT, &RECONNECT_MS)?;
        if max < min {
            let problem = format!("must not be below {min_key}, which is {min}, found {max}");
            return Err(self.wrong(max_key, problem));
        }
        let keep_alive = (keep_alive_s > 0).then(|| Duration::from_secs(keep_alive_s));
        Ok(LinkConfig {
            keep_alive,
            rate: rate_kbit.map(|kbit| kbit * 125),
            round_trip: round_trip.map(Duration::from_millis),
            reconnect_min: Duration::from_millis(min),
            reconnect_max: Duration::from_millis(max),
            dial: self.dial(raw.dial, me)?,
            peers: self.peers(peers, me, keep_alive)?,
        })
    }

    /// The member of this name, which must not be the one whose configuration this is.
    pub(super) fn other_member(
        &self,
        key: &str,
        name: &str,
        me: &Member,
    ) -> Result<&Member, ConfigError> {
        let member = self.fleet.member_named(name).ok_or_else(|| {
            let fleet_file = self.fleet_file.display();
            self.wrong(key, format!("{name:?} is not a member in {fleet_file}"))
        })?;
        match member.site == me.site {
            true => Err(self.wrong(key, format!("{name:?} is this member itself"))),
            false => Ok(member),
        }
    }

    fn dial(&self, raw: Option<Vec<String>>, me: &Member) -> Result<Vec<SiteId>, ConfigError> {
        let Some(names) = raw else {
            let others = self.fleet.members().filter(|member| member.site != me.site);
            return Ok(others.filter(|m| !m.addresses.is_empty()).map(|m| m.site).collect());
        };
        let (mut sites, mut seen) = (Vec::with_capacity(names.len()), BTreeSet::new());
        for (position, name) in names.iter().enumerate() {
            let key = format!("link.dial[{position}]");
            let wrong = |problem: String| self.wrong(&key, problem);
            let member = self.other_member(&key, name, me)?;
            if member.addresses.is_empty() {
                let fleet_file = self.fleet_file.display();
                return Err(wrong(format!("{name:?} has no addresses in {fleet_file}")));
            }
            if !seen.insert(member.site) {
                return Err(wrong(format!("{name:?} is named twice")));
            }
            sites.push(member.site);
        }
        Ok(sites)
    }

    fn limits(&self, raw: &raw::Limits) -> Result<Limits, ConfigError> {
        let unit = self.number(
            "limits.unit_bytes_max",
            raw.unit_bytes_max,
            UNIT_BYTES_DEFAULT,
            &UNIT_BYTES,
        )?;
        let compaction = match raw.compacted_bytes_max {
            Some(0) => None,
            given => Some(self.number(
                "limits.compacted_bytes_max",
                given,
                COMPACTED_BYTES_DEFAULT,
                &COMPACTED_BYTES,
            )?),
        };
        let group = self.number(
            "limits.group_changes_max",
            raw.group_changes_max,
            GROUP_CHANGES_DEFAULT,
            &GROUP_CHANGES,
        )?;
        let transaction = self.number(
            "limits.transaction_bytes_max",
            raw.transaction_bytes_max,
            TRANSACTION_BYTES_DEFAULT,
            &TRANSACTION_BYTES,
        )?;
        let drift =
            self.number("limits.drift_ms_max", raw.drift_ms_max, DRIFT_MS_DEFAULT, &DRIFT_MS)?;
        let store = match raw.store_bytes_max {
            None => None,
            given => Some(self.number("limits.store_bytes_max", given, 0, &STORE_BYTES)?),
        };
        let spool = self.number(
            "limits.bundle_spool_bytes_max",
            raw.bundle_spool_bytes_max,
            SPOOL_BYTES_DEFAULT,
            &SPOOL_BYTES,
        )?;
        let fits = "the ranges above fit any machine";
        Ok(Limits {
            unit_bytes_max: usize::try_from(unit).expect(fits),
            compacted_bytes_max: compaction.map(|bytes| usize::try_from(bytes).expect(fits)),
            group_changes_max: usize::try_from(group).expect(fits),
            transaction_bytes_max: usize::try_from(transaction).expect(fits),
            drift_max: Duration::from_millis(drift),
            store_bytes_max: store,
            bundle_spool_bytes_max: spool,
        })
    }

    fn address(
        &self,
        key: &str,
        text: Option<&str>,
        example: &str,
    ) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(text) = text else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            let problem = format!("must be an IP address and port, such as {example:?}");
            self.wrong(key, format!("{problem}, found {text:?}"))
        })
    }

    fn history(&self, raw: &raw::History) -> Result<HistoryConfig, ConfigError> {
        let days =
            self.number("history.keep_days", raw.keep_days, KEEP_DAYS_DEFAULT, &KEEP_DAYS)?;
        let keep = Duration::from_secs(days * 24 * 3600);
        Ok(HistoryConfig { keep: (days > 0).then_some(keep) })
    }

    fn log(&self, raw: &raw::Log) -> Result<LogConfig, ConfigError> {
        let level = match raw.level.as_deref() {
            Some("error") => tracing::Level::ERROR,
            Some("warn") => tracing::Level::WARN,
            None | Some("info") => tracing::Level::INFO,
            Some("debug") => tracing::Level::DEBUG,
            Some("trace") => tracing::Level::TRACE,
            Some(other) => {
                let problem = "must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
                return Err(self.wrong("log.level", format!("{problem}, found {other:?}")));
            }
        };
        let format = match raw.format.as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                let problem = format!("must be \"text\" or \"json\", found {other:?}");
                return Err(self.wrong("log.format", problem));
            }
        };
        Ok(LogConfig { level, format })
    }

    pub(super) fn number(
        &self,
        key: &str,
        given: Option<u64>,
        default: u64,
        range: &RangeInclusive<u64>,
    ) -> Result<u64, ConfigError> {
        match given {
            None => Ok(default),
            Some(number) if range.contains(&number) => Ok(number),
            Some(number) => {
                let (low, high) = (range.start(), range.end());
                Err(self.wrong(key, format!("must be from {low} to {high}, found {number}")))
            }
        }
    }

    pub(super) fn filled<'t>(&self, key: &str, text: &'t str) -> Result<&'t str, ConfigError> {
        if text.trim().is_empty() { Err(self.wrong(key, "must not be empty")) } else { Ok(text) }
    }

    pub(super) fn wrong(&self, key: &str, problem: impl Display) -> ConfigError {
        ConfigError::Invalid {
            file: self.file.to_owned(),
            line: None,
            key: key.to_owned(),
            problem: problem.to_string(),
        }
    }
}
