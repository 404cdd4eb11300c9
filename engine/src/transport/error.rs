//! What goes wrong on links, sorted by what the caller can do about it.

use std::fmt;
use std::net::SocketAddr;

use landfall_protocol::id::PublicKey;
use quinn::{ConnectionError, VarInt};

use crate::transport::tls::ALPN_TEXT;

/// TLS alerts as QUIC error codes (RFC 9001 §4.8): 0x100 + alert.
const ALERT_FIRST: u64 = 0x100;
const ALERT_LAST: u64 = 0x1ff;
const ALERT_ACCESS_DENIED: u64 = 0x100 + 49;
const ALERT_NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
/// QUIC's own code for a server that takes no more connections (RFC 9000 §20.1).
const QUIC_CONNECTION_REFUSED: u64 = 0x2;
/// Longest part of a reason text of the peer that is passed on, in characters.
const REASON_CHARS_MAX: usize = 200;

/// Why a link could not be made, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The local socket cannot be had.
    #[error("bind udp {addr}: {why}")]
    Bind {
        /// The local address asked for.
        addr: SocketAddr,
        /// What the operating system says.
        why: String,
    },
    /// The member's own key cannot be used for TLS.
    #[error("use the member key for tls: {why}")]
    OwnKey {
        /// What rustls says.
        why: String,
    },
    /// Nobody answered. Offline is the normal state: try again later.
    #[error("peer at {addr} is unreachable: {why}")]
    Unreachable {
        /// The peer's address.
        addr: SocketAddr,
        /// How that was noticed.
        why: String,
    },
    /// One side does not accept the other's key. An operator must look.
    #[error("peer at {addr} {fault}")]
    WrongKey {
        /// The peer's address.
        addr: SocketAddr,
        /// Whose key, and what is wrong with it.
        fault: KeyFault,
    },
    /// No version of the protocol in common. One side must be upgraded.
    #[error("peer at {addr} speaks no version of the protocol that we do ({})", ALPN_TEXT)]
    Version {
        /// The peer's address.
        addr: SocketAddr,
    },
    /// The peer is stopping, or it or this endpoint has as many connections as it takes. Try again
    /// later.
    #[error("peer at {addr} takes no connections now: it is stopping, or has too many")]
    Busy {
        /// The peer's address.
        addr: SocketAddr,
    },
    /// The handshake failed for another reason: the other end is no Landfall member.
    #[error("handshake with peer at {addr} failed: {why}")]
    Handshake {
        /// The peer's address.
        addr: SocketAddr,
        /// What the TLS layer says.
        why: String,
    },
    /// The peer closed the connection and said why.
    #[error("{name} at {addr} closed the connection: {code}{}", Suffix(.reason))]
    Closed {
        /// The peer's name.
        name: String,
        /// The peer's address.
        addr: SocketAddr,
        /// Which kind of reason.
        code: CloseCode,
        /// The peer's own words, shortened and without control characters.
        reason: String,
    },
    /// An established connection went silent for longer than the idle time-out, or the peer was
    /// restarted. Dial again.
    #[error("connection to {name} at {addr} is lost: {why}")]
    Lost {
        /// The peer's name.
        name: String,
        /// The peer's address.
        addr: SocketAddr,
        /// How that was noticed.
        why: &'static str,
    },
    /// One side broke the rules of QUIC.
    #[error("connection to {name} at {addr} broke down: {why}")]
    Broken {
        /// The peer's name.
        name: String,
        /// The peer's address.
        addr: SocketAddr,
        /// What the QUIC layer says.
        why: String,
    },
    /// This side closed the connection.
    #[error("connection to {name} at {addr} was closed here")]
    ClosedHere {
        /// The peer's name.
        name: String,
        /// The peer's address.
        addr: SocketAddr,
    },
    /// This endpoint was shut down.
    #[error("the endpoint is shut down")]
    ShutDown,
}

/// What is wrong with whose key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFault {
    /// We dialled `name` and somebody else answered.
    NotTheExpected {
        /// Whom we dialled.
        name: String,
        /// The key that was presented.
        presented: PublicKey,
    },
    /// We were dialled by somebody who is no member, or no longer.
    NotAMember {
        /// The key that was presented.
        presented: PublicKey,
    },
    /// The peer does not know our key, or has it revoked.
    OursRefused,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTheExpected { name, presented } => {
                write!(f, "presented a key that is not the one pinned for {name}: {presented}")
            }
            Self::NotAMember { presented } => {
                write!(f, "presented a key that is pinned for no member: {presented}")
            }
            Self::OursRefused => {
                f.write_str("refused our key: it is not pinned there, or is revoked")
            }
        }
    }
}

/// Why a connection is closed, as the peer is told. Values are part of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u32);

impl CloseCode {
    /// Nothing more to say.
    pub const DONE: Self = Self(0);
    /// The process is stopping.
    pub const SHUTDOWN: Self = Self(1);
    /// A newer connection of the same member took over.
    pub const SUPERSEDED: Self = Self(2);
    /// The peer's key is no longer pinned.
    pub const REVOKED: Self = Self(3);
    /// The peer broke a rule of the protocol.
    pub const PROTOCOL: Self = Self(4);
    /// A limit was reached (disk floor, quota); try later.
    pub const BUSY: Self = Self(5);
    /// An error on our side, not the peer's fault.
    pub const INTERNAL: Self = Self(6);
    /// The hellos do not fit together; the reason says what an operator must change.
    pub const REFUSED: Self = Self(7);
    /// This member must not speak under its present identity.
    pub const FENCED: Self = Self(8);
    /// The operator of the link does not want it at this time: a budget, a time of day. Try later.
    pub const NOT_NOW: Self = Self(9);

    pub(super) fn var_int(self) -> VarInt {
        self.0.into()
    }

    fn from_var_int(code: VarInt) -> Self {
        Self(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DONE => f.write_str("done"),
            Self::SHUTDOWN => f.write_str("shutting down"),
            Self::SUPERSEDED => f.write_str("superseded by a newer connection"),
            Self::REVOKED => f.write_str("key revoked"),
            Self::PROTOCOL => f.write_str("protocol violation"),
            Self::BUSY => f.write_str("busy"),
            Self::INTERNAL => f.write_str("internal error"),
            Self::REFUSED => f.write_str("refused"),
            Self::FENCED => f.write_str("fenced"),
            Self::NOT_NOW => f.write_str("not now"),
            Self(code) => write!(f, "code {code}"),
        }
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloseCode({}: {self})", self.0)
    }
}

/// Why one stream is given up, as the peer is told. Values are part of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamCode(pub u32);

impl StreamCode {
    /// The reader wants no more; also what a dropped [`FrameReader`](super::FrameReader) says.
    pub const NOT_WANTED: Self = Self(0);
    /// The writer went away in the middle; also what a dropped, unfinished
    /// [`FrameWriter`](super::FrameWriter) says.
    pub const ABANDONED: Self = Self(1);

    pub(super) fn var_int(self) -> VarInt {
        self.0.into()
    }

    pub(super) fn from_var_int(code: VarInt) -> Self {
        Self(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
    }
}

/// Why a frame could not be sent or received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame longer than the reader's or writer's limit. Nothing was allocated for it.
    #[error("frame of {bytes} bytes is longer than the {bytes_max} allowed")]
    TooLong {
        /// Declared length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The length prefix is not the shortest form of a length below
    /// [`FRAME_BYTES_LIMIT`](super::FRAME_BYTES_LIMIT).
    #[error("frame has a malformed length prefix")]
    BadLength,
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame, after {bytes} bytes of it")]
    Truncated {
        /// Bytes received of the unfinished frame, its prefix included.
        bytes: usize,
    },
    /// Frames queued before are not written yet; flush first.
    #[error("{bytes} bytes are still queued on the stream")]
    Backlog {
        /// Bytes queued.
        bytes: usize,
    },
    /// The peer's writer gave the stream up.
    #[error("peer reset the stream with code {}", .0.0)]
    Reset(StreamCode),
    /// The peer's reader wants no more of it.
    #[error("peer stopped the stream with code {}", .0.0)]
    Stopped(StreamCode),
    /// The stream was finished or given up on this side.
    #[error("the stream is closed on this side")]
    Finished,
    /// The whole connection ended.
    #[error(transparent)]
    Connection(#[from] TransportError),
}

/// Whom a connection is with, for messages.
#[derive(Debug, Clone)]
pub(super) struct PeerLabel {
    pub(super) name: String,
    pub(super) addr: SocketAddr,
}

impl PeerLabel {
    /// How an established connection ended. Includes what really belongs to the handshake but
    /// reaches a dialler only afterwards: that the peer refuses our key.
    pub(super) fn ended(&self, error: &ConnectionError) -> TransportError {
        let (name, addr) = (self.name.clone(), self.addr);
        match error {
            ConnectionError::ApplicationClosed(close) => TransportError::Closed {
                name,
                addr,
                code: CloseCode::from_var_int(close.error_code),
                reason: printable(&close.reason),
            },
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                refused_by_peer(addr, code).unwrap_or_else(|| TransportError::Broken {
                    name,
                    addr,
                    why: error.to_string(),
                })
            }
            ConnectionError::TimedOut => TransportError::Lost { name, addr, why: "timed out" },
            ConnectionError::Reset => {
                TransportError::Lost { name, addr, why: "the peer was restarted" }
            }
            ConnectionError::LocallyClosed => TransportError::ClosedHere { name, addr },
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::CidsExhausted => {
                TransportError::Broken { name, addr, why: error.to_string() }
            }
        }
    }

    /// How a handshake ended. `fault` is what our own check of the peer's key found, if anything.
    pub(super) fn not_established(
        &self,
        error: &ConnectionError,
        fault: Option<KeyFault>,
    ) -> TransportError {
        let addr = self.addr;
        if let Some(fault) = fault {
            return TransportError::WrongKey { addr, fault };
        }
        match error {
            ConnectionError::VersionMismatch => TransportError::Version { addr },
            ConnectionError::TransportError(local) => match u64::from(local.code) {
                ALERT_NO_APPLICATION_PROTOCOL => TransportError::Version { addr },
                _ => TransportError::Handshake { addr, why: local.to_string() },
            },
            ConnectionError::ConnectionClosed(close) => {
                let why = error.to_string();
                refused_by_peer(addr, u64::from(close.error_code))
                    .unwrap_or(TransportError::Handshake { addr, why })
            }
            ConnectionError::TimedOut => {
                TransportError::Unreachable { addr, why: "no answer".into() }
            }
            ConnectionError::Reset => {
                TransportError::Unreachable { addr, why: "reset during the handshake".into() }
            }
            ConnectionError::LocallyClosed => TransportError::ShutDown,
            ConnectionError::ApplicationClosed(_) | ConnectionError::CidsExhausted => {
                self.ended(error)
            }
        }
    }
}

fn refused_by_peer(addr: SocketAddr, code: u64) -> Option<TransportError> {
    match code {
        ALERT_ACCESS_DENIED => {
            Some(TransportError::WrongKey { addr, fault: KeyFault::OursRefused })
        }
        ALERT_NO_APPLICATION_PROTOCOL => Some(TransportError::Version { addr }),
        QUIC_CONNECTION_REFUSED => Some(TransportError::Busy { addr }),
        ALERT_FIRST..=ALERT_LAST => {
            let why = format!("the peer sent tls alert {}", code - ALERT_FIRST);
            Some(TransportError::Handshake { addr, why })
        }
        _ => None,
    }
}

/// A text of the peer, made harmless for logs.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect()
}

/// `: text`, or nothing if the text is empty.
struct Suffix<'a>(&'a str);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}
