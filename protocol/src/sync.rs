//! The session: what two members tell each other over one connection, and when.
//!
//! [`Session`] is a state machine without I/O. The shell feeds it what happened (`handle_*`, each
//! with the monotonic time in milliseconds) and after **every** `handle_*` calls
//! [`Session::poll_output`] until it returns [`Output::Timeout`] or [`Output::Idle`]; until then
//! outputs pile up. Then it waits for the next thing to happen, or for the timeout. Units do not
//! pass through the session: it says which stream to start, the shell moves the bytes. What the shell has
//! of a unit that was cut off it adds to the [`Message::Follow`] that it is given to send.
//!
//! A connection has three stages: greeting (our hello is out, the peer's is not in), ready, and
//! ended. In the first nothing but the hello is sent; in the last only a hello not yet polled.
//!
//! Beside it stand two decisions that need no connection: [`select`] says which peer supplies which
//! origin, [`dial`] when to call whom.

pub mod dial;
mod refusal;
pub mod select;
mod session;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use self::refusal::{Refusal, Violation};
pub use self::session::Session;

use crate::id::{Origin, Seq, SiteId};
use crate::version::VersionVector;
use crate::wire::{Begun, Held, Message};

/// How long a peer may take to say hello, in milliseconds: a fleet of a thousand sites takes 33 kB
/// for it, which a satellite link of 9600 bit/s carries in 28 s.
pub const HELLO_TIMEOUT_MS: u64 = 60_000;
/// Origins a peer may follow at a time.
pub const FOLLOWS_MAX: usize = 1 << 16;

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFacts {
    /// Our site in its present life.
    pub origin: Origin,
    /// The version of our fleet file.
    pub fleet_version: u64,
    /// What it says of sets, tables and rules, as a hash.
    pub sets_digest: [u8; 32],
    /// The members it names.
    pub members: BTreeSet<SiteId>,
    /// Our software and its version.
    pub software: String,
}

/// What our store and clock said when the connection was made, read in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The site whose key the transport saw.
    pub peer: SiteId,
    /// What we hold durably, our own log included.
    pub received: VersionVector,
    /// What shows in our PostgreSQL.
    pub applied: VersionVector,
    /// How that ends, log by log; what is not here yet is told after the hello.
    pub held: Vec<Held>,
    /// Our clock, milliseconds since 1970.
    pub wall_ms: u64,
}

/// How to behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SessionConfig {
    /// The least time between two `Have` messages, in milliseconds; what moves in between goes
    /// out together. With 0 each goes out as soon as it is polled.
    pub ack_delay_ms: u64,
}

/// What the shell is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write this to the control stream.
    Send(Message),
    /// Open a unit stream and send every unit of this origin whose first transaction is after
    /// `after`, and go on as new ones come.
    StartUnits {
        /// Whose units.
        origin: Origin,
        /// The last transaction the peer holds.
        after: Seq,
        /// What the peer has of the unit that comes next: if that is what we have of it, send only the
        /// rest.
        begun: Option<Begun>,
    },
    /// Finish the unit under way on this origin's stream, then close the stream. Cutting a unit
    /// short would let two slow links swap an origin to and fro for ever.
    StopUnits {
        /// Whose units.
        origin: Origin,
    },
    /// Something the rest of the node wants to know.
    Event(Event),
    /// Nothing until `at_ms`: call [`Session::handle_timeout`] then.
    Timeout {
        /// When, on the clock of the `now_ms` arguments.
        at_ms: u64,
        /// What for, for logs.
        why: &'static str,
    },
    /// Nothing until something happens.
    Idle,
}

/// What a session has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer may be talked to: choose suppliers anew.
    Ready {
        /// The peer's site in its present life.
        peer: Origin,
        /// What the peer holds durably.
        peer_received: VersionVector,
        /// What shows in the peer's PostgreSQL.
        peer_applied: VersionVector,
        /// The version of its fleet file, which may be older or newer than ours.
        fleet_version: u64,
        /// The peer's clock minus ours in milliseconds; too low by the time the hello travelled.
        clock_offset_ms: i64,
    },
    /// The peer holds this durably now; only what moved.
    Acked {
        /// How far, of the origins that moved.
        received: VersionVector,
    },
    /// This shows in the peer's PostgreSQL now; only what moved.
    PeerApplied {
        /// How far, of the origins that moved.
        applied: VersionVector,
    },
    /// The peer holds something we do not: choose suppliers anew.
    NewKnowledge,
    /// The peer says that it holds another history than we do of somebody else's log, or of an earlier
    /// life of our own site. Its word on this origin counts for nothing over this connection, and it
    /// was asked for its last unit: if that is signed and differs from ours, the origin is to be set aside.
    LogForked {
        /// Whose log.
        origin: Origin,
        /// Where the histories are known to differ.
        seq: Seq,
    },
    /// This connection is over: close it. See [`Refusal::fences_us`].
    Refused(Refusal),
}
