//! A thin client of PostgreSQL's walsender.
//!
//! [`Walsender`] speaks commands; [`Walsender::start_replication`] turns it into a [`WalStream`],
//! which only reads frames and reports positions. Memory is bounded: frames borrow from chunks
//! of 256 KiB (a frame that is kept keeps its chunk), a huge message has a buffer of its own
//! that goes away with it, and reports that cannot be written replace each other.
//!
//! The shape of a user:
//! ```no_run
//! # use landfall_engine::capture::walsender::*;
//! # async fn example(walsender: Walsender) -> Result<(), WalsenderError> {
//! # let (stored, news) = (landfall_engine::postgres::lsn::Lsn(1), std::future::pending::<StandbyStatus>());
//! # let mut news = std::pin::pin!(news); let now = std::time::UNIX_EPOCH;
//! let mut stream = walsender.start_replication("landfall", stored, "landfall").await?;
//! loop {
//!     tokio::select! {
//!         frame = stream.next() => match frame? {
//!             Frame::XLogData { data, .. } => { /* decode */ }
//!             Frame::Keepalive { reply_requested, .. } => { /* answer */ }
//!             Frame::Ended => break,
//!         },
//!         status = &mut news => stream.queue_status(status, now), // next() sends it
//!     }
//! }
//! stream.close().await
//! # }
//! ```

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod login;
mod socket;
mod stream;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::str::FromStr;

use crate::capture::scratch::ScratchError;
use crate::postgres::connect::{ConnectError, PgSettings};
use crate::postgres::lsn::Lsn;
use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use thiserror::Error;

use self::socket::WalSocket;
pub use self::stream::{Frame, Reply, StandbyStatus, WalStream};
use self::wire::{Fields, Packet, Wire, WireError};

/// Nothing a server says before the login is long.
const LOGIN_MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Answers to commands are a few short rows.
const COMMAND_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// More rows than any command of ours has.
const COMMAND_ROWS_MAX: usize = 1000;
/// PostgreSQL builds a message in at most 1 GiB; the slack is for headers.
const STREAM_MESSAGE_BYTES_MAX: usize = (1 << 30) + (64 << 10);

/// `NAMEDATALEN - 1`.
const SLOT_NAME_BYTES_MAX: usize = 63;

/// What the server said when it refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message} (SQLSTATE {sqlstate})")]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, never translated.
    pub severity: String,
    /// Five characters, for example 42704 (slot missing) or 55006 (slot in use).
    pub sqlstate: String,
    /// The primary message, perhaps translated. The detail, which may hold values, is left out.
    pub message: String,
    /// The server's advice, if it has any.
    pub hint: Option<String>,
}

/// Why a connection or a stream came to its end.
#[derive(Debug, Error)]
pub enum WalsenderError {
    /// No session. The text says what to do.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A session whose values would not have the text everybody agrees on. Mostly a pooler in
    /// between that drops settings.
    #[error(
        "replication session has {name} = {found:?} instead of {wanted:?}; connect to the server directly, not through a pooler"
    )]
    Session {
        /// The setting.
        name: &'static str,
        /// What it must be.
        wanted: &'static str,
        /// What the server reports, empty if nothing.
        found: String,
    },
    /// PostgreSQL allows slots no such name, and the replication grammar cannot even quote it.
    #[error("slot name {name:?} is not 1 to 63 of a-z, 0-9 and _")]
    SlotName {
        /// The name.
        name: String,
    },
    /// The server refused or ended what we were doing.
    #[error("{activity}: {error}")]
    Server {
        /// What we were doing, with the slot's name.
        activity: String,
        /// Its words and the SQLSTATE.
        error: ServerError,
    },
    /// The server goes on, but without changes that a publication we asked for should have.
    #[error("{activity}: the server leaves changes out: {warning}")]
    ChangesLeftOut {
        /// What we were doing.
        activity: String,
        /// Its words.
        warning: ServerError,
    },
    /// The connection broke without a word of goodbye.
    #[error("{activity}: connection to PostgreSQL lost: {error}")]
    Lost {
        /// What we were doing.
        activity: String,
        /// What the system said.
        error: io::Error,
    },
    /// A long text cannot be put aside.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The server sent what the protocol does not have.
    #[error("{activity}: protocol broken: {what}")]
    Protocol {
        /// What we were doing.
        activity: String,
        /// What is wrong.
        what: String,
    },
    /// An earlier command's future was dropped; its answers may still be under way.
    #[error("{activity}: an earlier command was left unfinished; open a new connection")]
    Unfinished {
        /// What we wanted to do.
        activity: String,
    },
}

impl WalsenderError {
    /// The server's SQLSTATE, where it gave one after the login.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server { error, .. } => Some(&error.sqlstate),
            _ => None,
        }
    }

    fn of_wire(activity: &str, error: WireError) -> Self {
        let activity = activity.to_owned();
        match error {
            WireError::Io(error) => Self::Lost { activity, error },
            WireError::Protocol(what) => Self::Protocol { activity, what },
            WireError::Server(error) => Self::Server { activity, error },
            WireError::Scratch(error) => Self::Scratch(error),
        }
    }
}

/// Who the server is and how far its log has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Chosen by `initdb`; a restored copy of a cluster has the same one.
    pub system_identifier: u64,
    /// Changes when a standby or a restored backup is promoted.
    pub timeline: u32,
    /// The position up to which the log is on disk.
    pub flushed: Lsn,
}

/// The end of a timeline that the server left by a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The timeline left.
    pub timeline: u32,
    /// The position from which on the next one counts.
    pub end: Lsn,
}

/// A row of a simple query.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    values: Vec<Option<String>>,
}

impl Row {
    /// The text of the value in a column, counted from 0; `None` for NULL or no such column.
    #[must_use]
    pub fn get(&self, column: usize) -> Option<&str> {
        self.values.get(column)?.as_deref()
    }

    fn parsed<T: FromStr>(&self, column: usize) -> Option<T> {
        self.get(column)?.parse().ok()
    }
}

// Values stay out of logs.
impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("columns", &self.values.len()).finish_non_exhaustive()
    }
}

/// A replication connection that waits for commands.
#[derive(Debug)]
pub struct Walsender {
    wire: Wire<WalSocket>,
    parameters: BTreeMap<String, String>,
    unfinished: bool,
}

impl Walsender {
    /// Connects and logs in within [`PgSettings::connect_timeout`]. `application_name` is what
    /// `pg_stat_replication` and `synchronous_standby_names` know the connection by.
    ///
    /// # Errors
    /// There is no way in, or the session does not have our settings.
    pub async fn connect(
        settings: &PgSettings,
        application_name: &str,
    ) -> Result<Self, WalsenderError> {
        let login = Box::pin(login::login(settings, application_name));
        let (wire, parameters) = tokio::time::timeout(settings.connect_timeout(), login)
            .await
            .map_err(|_elapsed| settings.timed_out())??;
        let mut this = Self { wire, parameters, unfinished: false };
        this.wire.set_message_bytes_max(COMMAND_MESSAGE_BYTES_MAX);
        this.check_session()?;
        Ok(this)
    }

    // The server reports these four; that it took them shows that it took the others too.
    fn check_session(&self) -> Result<(), WalsenderError> {
        for (name, wanted) in [
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
        ] {
            let found = self.parameter(name).unwrap_or_default();
            // DateStyle also says how ambiguous input is read, which concerns nobody here.
            if found.split(',').next() != Some(wanted) {
                return Err(WalsenderError::Session { name, wanted, found: found.to_owned() });
            }
        }
        Ok(())
    }

    /// A setting the server reported at the login, such as `server_version`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Runs one command and returns its rows, at most 1000. Not for statements with large
    /// results. If the future is dropped, the connection takes no further command.
    ///
    /// # Errors
    /// The server refuses the command (the connection stays usable) or the connection breaks.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<Row>, WalsenderError> {
        self.command("run a query", sql).await
    }

    /// Asks who the server is.
    ///
    /// # Errors
    /// As [`Self::simple_query`].
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, WalsenderError> {
        let activity = "identify the system";
        let rows = self.command(activity, "IDENTIFY_SYSTEM").await?;
        let identity = rows.first().and_then(|row| {
            Some(SystemIdentity {
                system_identifier: row.parsed(0)?,
                timeline: row.parsed(1)?,
                flushed: row.parsed(2)?,
            })
        });
        identity.ok_or_else(|| unexpected_answer(activity))
    }

    /// The timelines that led to `timeline`, oldest first; none for the first timeline.
    ///
    /// # Errors
    /// As [`Self::simple_query`].
    pub async fn timeline_history(
        &mut self,
        timeline: u32,
    ) -> Result<Vec<TimelineSwitch>, WalsenderError> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let activity = format!("read the history of timeline {timeline}");
        let rows = self.command(&activity, &format!("TIMELINE_HISTORY {timeline}")).await?;
        let content = rows.first().and_then(|row| row.get(1));
        let content = content.ok_or_else(|| unexpected_answer(&activity))?;
        Ok(content.lines().filter_map(timeline_switch).collect())
    }

    /// Creates a permanent logical slot with `pgoutput` and returns the position from which it
    /// delivers. Create the publication before the slot. Waits for all transactions that are
    /// writing to end.
    ///
    /// # Errors
    /// As [`Self::simple_query`]; 42710 if there is a slot of that name.
    pub async fn create_logical_slot(&mut self, name: &str) -> Result<Lsn, WalsenderError> {
        let activity = format!("create slot {name:?}");
        let sql = format!(
            "CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'nothing')",
            slot_name(name)?
        );
        let rows = self.command(&activity, &sql).await?;
        rows.first().and_then(|row| row.parsed(1)).ok_or_else(|| unexpected_answer(&activity))
    }

    /// Starts streaming from `start`, the end position of the last transaction that is durable
    /// on our side. The server never goes back behind the slot's own position, and skips
    /// silently up to a `start` beyond it: check both before.
    ///
    /// # Errors
    /// 42704 if the slot is missing, 55006 if it is in use, 55000 if it is lost. A missing
    /// publication shows only later, in the stream, and on PostgreSQL 18 not at all.
    pub async fn start_replication(
        mut self,
        slot: &str,
        start: Lsn,
        publication: &str,
    ) -> Result<WalStream, WalsenderError> {
        let activity = format!("stream from slot {slot:?}");
        let sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {start} \
             (proto_version '1', publication_names {}, messages 'true')",
            slot_name(slot)?,
            literal(&identifier(publication)),
        );
        self.begin(&activity, &sql).await?;
        loop {
            let packet = self.answer(&activity).await?;
            match packet.tag {
                b'W' => break,
                b'E' => {
                    let error = server_error(packet.body);
                    return Err(WalsenderError::of_wire(&activity, error));
                }
                b'N' | b'S' => {}
                tag => return Err(unexpected_packet(&activity, tag)),
            }
        }
        self.wire.set_message_bytes_max(STREAM_MESSAGE_BYTES_MAX);
        Ok(WalStream::new(self.wire, activity))
    }

    async fn command(&mut self, activity: &str, sql: &str) -> Result<Vec<Row>, WalsenderError> {
        self.begin(activity, sql).await?;
        let (mut rows, mut refusal) = (Vec::new(), None);
        loop {
            let packet = self.answer(activity).await?;
            match packet.tag {
                b'D' if rows.len() < COMMAND_ROWS_MAX => {
                    let row = data_row(packet.body);
                    rows.push(row.map_err(|e| WalsenderError::of_wire(activity, e))?);
                }
                b'E' => refusal = Some(server_error(packet.body)),
                b'Z' => break,
                b'C' | b'I' | b'N' | b'S' | b'T' => {}
                tag => return Err(unexpected_packet(activity, tag)),
            }
        }
        self.unfinished = false;
        match refusal {
            Some(error) => Err(WalsenderError::of_wire(activity, error)),
            None => Ok(rows),
        }
    }

    async fn begin(&mut self, activity: &str, sql: &str) -> Result<(), WalsenderError> {
        let lost = |e| WalsenderError::of_wire(activity, e);
        if self.unfinished {
            return Err(WalsenderError::Unfinished { activity: activity.to_owned() });
        }
        // Composed apart, because a text with a zero byte fails in the middle.
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message).map_err(|e| lost(WireError::Protocol(e.to_string())))?;
        self.unfinished = true;
        self.wire.queue(|out| out.unsplit(message));
        self.wire.send().await.map_err(lost)
    }

    async fn answer(&mut self, activity: &str) -> Result<Packet, WalsenderError> {
        match self.wire.packet().await {
            Ok(Some(packet)) => Ok(packet),
            Ok(None) => Err(WalsenderError::of_wire(activity, end_of_file())),
            Err(e) => Err(WalsenderError::of_wire(activity, e)),
        }
    }
}

/// A line of a history file: timeline, position, reason. Other lines are comments.
fn timeline_switch(line: &str) -> Option<TimelineSwitch> {
    let mut words = line.split_ascii_whitespace();
    let (timeline, end) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(TimelineSwitch { timeline, end })
}

fn data_row(body: Bytes) -> Result<Row, WireError> {
    let mut fields = Fields::of("data row", body);
    let mut values = Vec::new();
    for _ in 0..fields.u16()? {
        // A negative length is NULL.
        values.push(match usize::try_from(fields.i32()?) {
            Ok(length) => Some(String::from_utf8_lossy(&fields.bytes(length)?).into_owned()),
            Err(_) => None,
        });
    }
    Ok(Row { values })
}

fn server_error(body: Bytes) -> WireError {
    read_server_error(body).map_or_else(|e| e, WireError::Server)
}

fn read_server_error(body: Bytes) -> Result<ServerError, WireError> {
    let mut fields = Fields::of("error", body);
    let (mut severity, mut sqlstate, mut message) = Default::default();
    let mut hint = None;
    loop {
        let kind = fields.u8()?;
        if kind == 0 {
            return Ok(ServerError { severity, sqlstate, message, hint });
        }
        let text = fields.text()?;
        match kind {
            b'V' => severity = text.unwrap_or_default(),
            b'C' => sqlstate = text.unwrap_or_default(),
            b'M' => message = text.unwrap_or_default(),
            b'H' => hint = text,
            _ => {}
        }
    }
}

fn end_of_file() -> WireError {
    WireError::Io(io::ErrorKind::UnexpectedEof.into())
}

fn unexpected_packet(activity: &str, tag: u8) -> WalsenderError {
    let what = format!("message {:?} is out of place", char::from(tag));
    WalsenderError::Protocol { activity: activity.to_owned(), what }
}

fn unexpected_answer(activity: &str) -> WalsenderError {
    let what = "the answer has other columns than PostgreSQL gives".to_owned();
    WalsenderError::Protocol { activity: activity.to_owned(), what }
}

fn slot_name(name: &str) -> Result<String, WalsenderError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if name.is_empty() || name.len() > SLOT_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(WalsenderError::SlotName { name: name.to_owned() });
    }
    Ok(identifier(name))
}

/// A quoted identifier: keeps its case and cannot end early.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted string of the replication grammar, which knows no backslashes.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert_eq!(identifier(r#"a"b'c"#), r#""a""b'c""#);
        assert_eq!(literal(&identifier(r#"a"b'c\"#)), r#"'"a""b''c\"'"#);
        assert_eq!(slot_name("site_7").expect("valid"), r#""site_7""#);
        for name in ["", "Site", "a\"b", "a b", "a-b", "ä", &"a".repeat(64)] {
            assert!(slot_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_history_file_reads() {
        let file = "1\t0/3000148\tno recovery target specified\n\n# a comment\n2\t1/0\t\n";
        let switch = |timeline, end| TimelineSwitch { timeline, end: Lsn(end) };
        let read: Vec<_> = file.lines().filter_map(timeline_switch).collect();
        assert_eq!(read, [switch(1, 0x300_0148), switch(2, 1 << 32)]);
    }

    #[test]
    fn rows_and_errors_cut_short_are_errors() {
        let row = b"\0\x02\0\0\0\x01a\xff\xff\xff\xff";
        let read = data_row(Bytes::from_static(row)).expect("row");
        assert_eq!((read.get(0), read.get(1), read.get(2)), (Some("a"), None, None));
        for length in 0..row.len() {
            assert!(data_row(Bytes::from_static(&row[..length])).is_err(), "{length}");
        }
        let error = b"SERROR\0VERROR\0C42704\0Mno slot\0\0";
        let read = read_server_error(Bytes::from_static(error)).expect("error");
        assert_eq!((&*read.severity, &*read.sqlstate), ("ERROR", "42704"));
        for length in 0..error.len() {
            assert!(read_server_error(Bytes::from_static(&error[..length])).is_err(), "{length}");
        }
    }
}
