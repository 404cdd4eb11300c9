//! Where PostgreSQL is and how to get in: settings from a connection string, and SQL sessions.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use landfall_engine::postgres::connect::PgSettings;
//! let settings = PgSettings::parse("host=/run/postgresql user=landfall dbname=shop", None)?;
//! let (client, driver) = settings.connect("landfall apply", &[("lock_timeout", "300ms")]).await?;
//! // The caller spawns `driver`; `client` works only while it runs.
//! # drop((client, driver)); Ok(()) }
//! ```

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use thiserror::Error;
use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::{self, RootCertError, TlsMode};

#[cfg(feature = "planted-bugs")]
mod line;

/// How long a connection may take from the first packet to the end of the login, unless the
/// connection string says `connect_timeout` (seconds).
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

const PORT_DEFAULT: u16 = 5432;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PgHost {
    /// A host name or an address.
    Tcp(String),
    /// The directory of a Unix socket; the socket's name follows from the port.
    Unix(PathBuf),
}

/// Host and port, as people write them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgAddress {
    /// The host or the socket's directory.
    pub host: PgHost,
    /// The port; on a Unix socket it is part of the socket's name.
    pub port: u16,
}

impl PgAddress {
    /// The path of the Unix socket, if that is what the address is.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.host {
            PgHost::Unix(dir) => Some(dir.join(format!(".s.PGSQL.{}", self.port))),
            PgHost::Tcp(_) => None,
        }
    }
}

impl fmt::Display for PgAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.socket_path()) {
            (PgHost::Tcp(host), _) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            (PgHost::Tcp(host), _) => write!(f, "{host}:{}", self.port),
            (PgHost::Unix(dir), path) => write!(f, "{}", path.as_ref().unwrap_or(dir).display()),
        }
    }
}

/// Everything needed to open sessions on one database of one server.
#[derive(Clone)]
pub struct PgSettings {
    address: PgAddress,
    user: String,
    dbname: String,
    config: Config,
    tls_mode: TlsMode,
    tls: Arc<rustls::ClientConfig>,
    timeout: Duration,
}

/// Settings of all our sessions. Our questions about the catalog look dear to the planner and take
/// milliseconds; compiled to machine code first they take seconds.
const OURS: [(&str, &str); 1] = [("jit", "off")];

impl PgSettings {
    /// Reads a libpq-like connection string (`host=… user=…`) or URL (`postgresql://…`).
    ///
    /// With `ssl_root_cert`, a PEM file, the server's certificate is verified in full; the file
    /// is read once, here. Unlike libpq there is no default for host and user and no reading of
    /// the environment: a daemon's connection must be told whole.
    ///
    /// # Errors
    /// The string is malformed, incomplete, or asks for what we do not do; the file is unusable.
    pub fn parse(conninfo: &str, ssl_root_cert: Option<&Path>) -> Result<Self, ConnectError> {
        let mut config: Config = conninfo.parse().map_err(|e| syntax_error(&e))?;
        refuse_unsupported(&config)?;
        let address = single_address(&config)?;
        let tls_mode = tls_mode(&config, &address.host, ssl_root_cert)?;
        let user = config.get_user().filter(|u| !u.is_empty());
        let user = user.ok_or(ConnectError::Incomplete { option: "user" })?.to_owned();
        let dbname = config.get_dbname().unwrap_or(&user).to_owned();
        let timeout = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT_DEFAULT);
        config.dbname(&dbname).connect_timeout(timeout).ssl_mode(match tls_mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyFull => SslMode::Require,
        });
        let tls = Arc::new(tls::client_config(ssl_root_cert)?);
        Ok(Self { address, user, dbname, config, tls_mode, tls, timeout })
    }

    /// Host and port together.
    #[must_use]
    pub fn address(&self) -> &PgAddress {
        &self.address
    }

    /// The host name or the socket's directory.
    #[must_use]
    pub fn host(&self) -> &PgHost {
        &self.address.host
    }

    /// The port, 5432 unless said otherwise.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port
    }

    /// The role to log in as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password, if there is one. Never log it.
    #[must_use]
    pub fn password(&self) -> Option<&[u8]> {
        self.config.get_password()
    }

    /// The database, by default named like the role.
    #[must_use]
    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// How the connection is protected.
    #[must_use]
    pub fn tls_mode(&self) -> TlsMode {
        self.tls_mode
    }

    /// The TLS configuration that goes with [`Self::tls_mode`]; unused when that is `Disable`.
    #[must_use]
    pub fn tls_config(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.tls)
    }

    /// How long connecting and logging in may take.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.timeout
    }

    /// The value of the startup packet's `options`: those of the connection string, then ours,
    /// which win.
    ///
    /// # Errors
    /// A setting's name is not made of letters, digits, `_` and `.`.
    pub fn startup_options(&self, settings: &[(&str, &str)]) -> Result<String, ConnectError> {
        let mut options = self.config.get_options().unwrap_or_default().to_owned();
        for (name, value) in settings {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
            if name.is_empty() || !name.bytes().all(plain) || value.contains('\0') {
                return Err(ConnectError::Setting { name: (*name).to_owned() });
            }
            if !options.is_empty() {
                options.push(' ');
            }
            options.push_str("-c ");
            options.push_str(name);
            options.push('=');
            // The server splits at white space; a backslash takes the next character as it is.
            for c in value.chars() {
                if c == '\\' || c.is_ascii_whitespace() || c == '\x0B' {
                    options.push('\\');
                }
                options.push(c);
            }
        }
        Ok(options)
    }

    /// Opens an SQL session. The caller spawns the [`PgDriver`]; the client works while it runs
    /// and the driver ends when the client is dropped.
    ///
    /// `settings` are session settings such as `("lock_timeout", "300ms")`; they travel in the
    /// startup packet, so no statement ever runs without them. Dropping the future closes the
    /// half-open connection.
    ///
    /// # Errors
    /// One sentence that says what is wrong and what to do.
    pub async fn connect(
        &self,
        application_name: &str,
        settings: &[(&str, &str)],
    ) -> Result<(Client, PgDriver), ConnectError> {
        let settings: Vec<_> = OURS.iter().chain(settings).copied().collect();
        let mut config = self.config.clone();
        config.application_name(application_name).options(self.startup_options(&settings)?);
        // Boxed: the login is a large state machine and would make every caller's future large.
        match tokio::time::timeout(self.timeout, Box::pin(self.open(&config))).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(self.timed_out()),
        }
    }

    async fn open(&self, config: &Config) -> Result<(Client, PgDriver), ConnectError> {
        #[cfg(feature = "planted-bugs")]
        if let Some(path) = self.address.socket_path().filter(|_| line::is_to_be_struck(config)) {
            let line = line::Line::open(&path).await.map_err(|e| self.unreachable(&e))?;
            let opened = config.connect_raw(line, tokio_postgres::NoTls).await;
            let (client, connection) = opened.map_err(|e| self.connect_error(&e))?;
            return Ok((client, PgDriver { connection: Box::pin(connection) }));
        }
        let tls = MakeRustlsConnect::new((*self.tls).clone());
        let (client, connection) = config.connect(tls).await.map_err(|e| self.connect_error(&e))?;
        Ok((client, PgDriver { connection: Box::pin(connection) }))
    }

    /// The error for a login that took longer than [`Self::connect_timeout`].
    #[must_use]
    pub fn timed_out(&self) -> ConnectError {
        ConnectError::TimedOut { address: self.address.clone(), seconds: self.timeout.as_secs() }
    }

    /// The error for a login the server refused with this SQLSTATE and message.
    #[must_use]
    pub fn refused(&self, sqlstate: &str, message: &str) -> ConnectError {
        let address = self.address.clone();
        match sqlstate {
            "28P01" => ConnectError::WrongPassword { address, user: self.user.clone() },
            "28000" => ConnectError::NotAllowed { address, message: message.to_owned() },
            "3D000" => ConnectError::DatabaseMissing { address, dbname: self.dbname.clone() },
            _ => ConnectError::Refused {
                address,
                sqlstate: sqlstate.to_owned(),
                message: message.to_owned(),
            },
        }
    }

    /// The error for a connection that could not be made or broke during the login.
    #[must_use]
    pub fn unreachable(&self, error: &io::Error) -> ConnectError {
        let address = self.address.clone();
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(tls) => ConnectError::TlsFailed { address, reason: tls.to_string() },
            None => ConnectError::Unreachable { address, reason: error.to_string() },
        }
    }

    fn connect_error(&self, error: &tokio_postgres::Error) -> ConnectError {
        if let Some(refusal) = error.as_db_error() {
            return self.refused(refusal.code().code(), refusal.message());
        }
        let Some(cause) = error.source() else {
            return self.failed(&error.to_string());
        };
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return self.unreachable(io);
        }
        let address = self.address.clone();
        // tokio-postgres tells these two apart by text only.
        match cause.to_string().as_str() {
            "server does not support TLS" => ConnectError::TlsRefused { address },
            "password missing" => {
                ConnectError::PasswordMissing { address, user: self.user.clone() }
            }
            reason => self.failed(reason),
        }
    }

    /// The error for a login that went wrong in a way the other kinds do not name.
    #[must_use]
    pub fn failed(&self, reason: &str) -> ConnectError {
        ConnectError::Failed { address: self.address.clone(), reason: reason.to_owned() }
    }
}

impl fmt::Debug for PgSettings {
    // Without the password, and without `options`, where people hide things too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgSettings")
            .field("address", &self.address)
            .field("user", &self.user)
            .field("dbname", &self.dbname)
            .field("tls_mode", &self.tls_mode)
            .finish_non_exhaustive()
    }
}

/// Moves the bytes of one session; resolves when the session ends.
#[must_use = "the client works only while its driver is polled"]
pub struct PgDriver {
    connection: Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>,
}

impl Future for PgDriver {
    type Output = Result<(), tokio_postgres::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.connection.as_mut().poll(cx)
    }
}

impl fmt::Debug for PgDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgDriver").finish_non_exhaustive()
    }
}

/// Why there is no session.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The connection string is malformed.
    #[error("connection string is malformed: {reason}")]
    Syntax {
        /// What is wrong with it; never repeats a value.
        reason: String,
    },
    /// The connection string lacks something we have no default for.
    #[error("connection string has no {option}; add {option}=… to it")]
    Incomplete {
        /// The missing option.
        option: &'static str,
    },
    /// The connection string asks for something we do not do.
    #[error("connection string: {option} is not supported; {advice}")]
    Unsupported {
        /// The option.
        option: &'static str,
        /// What to write instead.
        advice: &'static str,
    },
    /// The root certificate cannot be used.
    #[error("root certificate for PostgreSQL: {0}")]
    RootCert(#[from] RootCertError),
    /// A session setting's name or value cannot be sent.
    #[error("session setting {name:?} cannot be passed to PostgreSQL")]
    Setting {
        /// The setting's name.
        name: String,
    },
    /// No connection to the server, or it broke during the login.
    #[error("cannot reach PostgreSQL at {address}: {reason}; check that it runs and listens there")]
    Unreachable {
        /// Where we tried.
        address: PgAddress,
        /// What the system said.
        reason: String,
    },
    /// The server did not answer in time.
    #[error(
        "no session on PostgreSQL at {address} within {seconds} s; check the network and the server's load"
    )]
    TimedOut {
        /// Where we tried.
        address: PgAddress,
        /// How long we waited.
        seconds: u64,
    },
    /// The password is wrong (or the role does not exist, which the server does not tell apart).
    #[error(
        "PostgreSQL at {address} refused the password of role {user:?}; check the password and the role"
    )]
    WrongPassword {
        /// Where.
        address: PgAddress,
        /// The role.
        user: String,
    },
    /// The server asks for a password and there is none.
    #[error(
        "PostgreSQL at {address} asks for a password of role {user:?}; add one to the connection string"
    )]
    PasswordMissing {
        /// Where.
        address: PgAddress,
        /// The role.
        user: String,
    },
    /// The role may not log in here: no such role, no LOGIN, or no entry in `pg_hba.conf`.
    #[error(
        "PostgreSQL at {address} does not let us in: {message}; check the role and pg_hba.conf"
    )]
    NotAllowed {
        /// Where.
        address: PgAddress,
        /// The server's words.
        message: String,
    },
    /// The database does not exist.
    #[error("PostgreSQL at {address} has no database {dbname:?}; create it or correct dbname")]
    DatabaseMissing {
        /// Where.
        address: PgAddress,
        /// The database.
        dbname: String,
    },
    /// The server has no TLS and we insist on it.
    #[error(
        "PostgreSQL at {address} refused TLS; set ssl = on there, or use sslmode=disable on a trusted network"
    )]
    TlsRefused {
        /// Where.
        address: PgAddress,
    },
    /// The TLS handshake failed, mostly because the certificate is not what we trust.
    #[error(
        "TLS with PostgreSQL at {address} failed: {reason}; check the server's certificate, its names and our root certificate"
    )]
    TlsFailed {
        /// Where.
        address: PgAddress,
        /// What rustls said.
        reason: String,
    },
    /// The server refused for another reason (starting up, too many connections, …).
    #[error("PostgreSQL at {address} refused the session: {message} (SQLSTATE {sqlstate})")]
    Refused {
        /// Where.
        address: PgAddress,
        /// Five characters.
        sqlstate: String,
        /// The server's words.
        message: String,
    },
    /// The login did not go as the protocol has it.
    #[error(
        "login on PostgreSQL at {address} failed: {reason}; check that a PostgreSQL server listens there"
    )]
    Failed {
        /// Where.
        address: PgAddress,
        /// What was unexpected.
        reason: String,
    },
}

/// Options of libpq that a correct connection string may have and that we can name in an error.
/// Any other unknown word could be the tail of a password with a blank in it.
const LIBPQ_OPTIONS: [&str; 19] = [
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcompression",
    "sslcrl",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslsni",
];

fn syntax_error(error: &tokio_postgres::Error) -> ConnectError {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    let quoted = cause.split('`').nth(1).unwrap_or_default();
    let reason = if cause.starts_with("invalid value for option `sslmode`") {
        "sslmode must be disable, prefer or require; a root certificate makes it verify-full"
            .to_owned()
    } else if cause.starts_with("invalid value for option") {
        cause
    } else if let Some(known) = LIBPQ_OPTIONS.iter().find(|o| **o == quoted) {
        format!("option {known} is not supported")
    } else {
        "write it as key=value pairs or as a postgresql:// URL, values with blanks in single quotes"
            .to_owned()
    };
    ConnectError::Syntax { reason }
}

fn refuse_unsupported(config: &Config) -> Result<(), ConnectError> {
    let refuse = |option, advice| Err(ConnectError::Unsupported { option, advice });
    if config.get_hosts().len() > 1 || config.get_ports().len() > 1 {
        // A slot and its positions belong to one server.
        return refuse("more than one host", "name the one server of this site");
    }
    if !config.get_hostaddrs().is_empty() {
        return refuse("hostaddr", "write the address as host");
    }
    if config.get_ssl_negotiation() != SslNegotiation::Postgres {
        return refuse("sslnegotiation=direct", "leave it out");
    }
    if config.get_channel_binding() == ChannelBinding::Require {
        return refuse("channel_binding=require", "use a root certificate instead");
    }
    Ok(())
}

fn single_address(config: &Config) -> Result<PgAddress, ConnectError> {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) if !host.is_empty() => PgHost::Tcp(host.clone()),
        Some(Host::Unix(dir)) => PgHost::Unix(dir.clone()),
        _ => return Err(ConnectError::Incomplete { option: "host" }),
    };
    let port = config.get_ports().first().copied().unwrap_or(PORT_DEFAULT);
    Ok(PgAddress { host, port })
}

fn tls_mode(
    config: &Config,
    host: &PgHost,
    root_cert: Option<&Path>,
) -> Result<TlsMode, ConnectError> {
    match (host, config.get_ssl_mode(), root_cert) {
        (PgHost::Tcp(_), SslMode::Disable, Some(_)) => Err(ConnectError::Unsupported {
            option: "sslmode=disable with a root certificate",
            advice: "drop one of the two",
        }),
        (PgHost::Unix(_), ..) | (_, SslMode::Disable, None) => Ok(TlsMode::Disable),
        (_, _, Some(_)) => Ok(TlsMode::VerifyFull),
        (_, SslMode::Prefer, None) => Ok(TlsMode::Prefer),
        // SslMode is non-exhaustive; what is stronger than require needs at least TLS.
        (_, _, None) => Ok(TlsMode::Require),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(conninfo: &str) -> Result<PgSettings, ConnectError> {
        PgSettings::parse(conninfo, None)
    }

    #[test]
    fn string_and_url_mean_the_same() {
        for conninfo in [
            "host=db.example port=5433 user=ship password='a b' dbname=log sslmode=require",
            "postgresql://ship:a%20b@db.example:5433/log?sslmode=require",
        ] {
            let settings = parse(conninfo).expect("valid");
            assert_eq!(settings.host(), &PgHost::Tcp("db.example".into()));
            assert_eq!(
                (settings.port(), settings.user(), settings.dbname()),
                (5433, "ship", "log")
            );
            assert_eq!(settings.password(), Some(&b"a b"[..]));
            assert_eq!(settings.tls_mode(), TlsMode::Require);
            assert_eq!(settings.address().to_string(), "db.example:5433");
        }
    }

    #[test]
    fn socket_directory_never_uses_tls() {
        for conninfo in ["host=/run/pg user=ship sslmode=require", "postgresql://ship@%2Frun%2Fpg"]
        {
            let settings = parse(conninfo).expect("valid");
            assert_eq!(settings.host(), &PgHost::Unix("/run/pg".into()));
            assert_eq!(settings.tls_mode(), TlsMode::Disable);
            assert_eq!(settings.dbname(), "ship");
            assert_eq!(settings.address().to_string(), "/run/pg/.s.PGSQL.5432");
        }
    }

    #[test]
    fn what_we_cannot_honour_is_refused() {
        for (conninfo, expected) in [
            ("user=a", "connection string has no host; add host=… to it"),
            ("host=h", "connection string has no user; add user=… to it"),
            ("host=h,i user=a", "more than one host"),
            ("host=h user=a hostaddr=127.0.0.1", "hostaddr"),
            ("host=h user=a channel_binding=require", "root certificate"),
            ("host=h user=a sslmode=verify-full", "root certificate makes it verify-full"),
            ("host=h user=a sslrootcert=/x", "option sslrootcert is not supported"),
            ("host=h user=a port=many", "`port`"),
        ] {
            let text = parse(conninfo).expect_err(conninfo).to_string();
            assert!(text.contains(expected), "{conninfo}: {text}");
        }
    }

    #[test]
    fn password_is_never_shown() {
        let settings =
            parse("host=h user=a password=geheim options='-c x.y=geheim'").expect("valid");
        assert!(!format!("{settings:?}").contains("geheim"));
        for conninfo in
            ["host=h user=a password=my geheim=x", "host=h user=a password='geheim", "geheim"]
        {
            let error = parse(conninfo).expect_err(conninfo);
            assert!(!format!("{error} {error:?}").contains("geheim"), "{error:?}");
        }
    }

    #[test]
    fn session_settings_are_quoted_for_the_server() {
        let settings = parse("host=h user=a options='-c a=1'").expect("valid");
        let options = settings.startup_options(&[("search_path", "a, b\\c"), ("x.y", "")]);
        assert_eq!(options.expect("valid"), "-c a=1 -c search_path=a,\\ b\\\\c -c x.y=");
        for name in ["", "a b", "a=b", "-c"] {
            assert!(settings.startup_options(&[(name, "1")]).is_err(), "{name:?}");
        }
    }
}
