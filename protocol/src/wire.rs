//! What two members say to each other.
//!
//! One control stream per connection carries [`Message`]s, each in a frame whose length the
//! transport writes. Units travel on streams of their own, one per followed origin, which begin
//! with a [`UnitStreamHead`] and go on with one unit per frame. The byte-level description is in
//! `docs/wire.md`; how the bytes are laid out is known to [`v1`] only.

pub mod v1;

#[cfg(test)]
mod tests;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Origin, Seq};
use crate::unit::{UNIT_BYTES_MAX, UnitHash};
use crate::version::VersionVector;

/// Oldest protocol this version speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// Newest protocol this version speaks.
pub const PROTOCOL_MAX: u16 = 1;
/// Longest control frame in bytes: a [`Hello`] with two full vectors takes 6.1 MB.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// Longest first frame of a unit stream in bytes.
pub const HEAD_BYTES_MAX: usize = 64;
/// Lives of one site's log that a [`Hello`] may name.
pub const HELD_MAX: usize = 4096;
/// Longest name of the sender's software in bytes.
pub const SOFTWARE_BYTES_MAX: usize = 128;

/// How far the sender holds a log of the receiver's site, and which log that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The receiver's site in one of its lives.
    pub origin: Origin,
    /// The last transaction of the last unit held; never 0.
    pub seq: Seq,
    /// The hash of that unit.
    pub hash: UnitHash,
}

impl Held {
    pub(crate) fn encode_all(all: &[Self], out: &mut Writer) {
        out.varint(all.len() as u64);
        for held in all {
            out.origin(held.origin);
            out.varint(held.seq.0);
            out.raw(&held.hash.0);
        }
    }

    /// Reads at most `most`, which must be in the order of their origins.
    pub(crate) fn decode_all(from: &mut Reader<'_>, most: usize) -> Result<Vec<Self>, DecodeError> {
        let mut all: Vec<Self> = Vec::new();
        for _ in 0..from.count(most)? {
            let (origin, seq) = (from.origin()?, Seq(from.varint()?));
            let hash = UnitHash(from.array()?);
            if seq == Seq::ZERO || all.last().is_some_and(|last| last.origin >= origin) {
                return Err(DecodeError::NotCanonical("list of logs held"));
            }
            all.push(Self { origin, seq, hash });
        }
        Ok(all)
    }
}

/// Tells histories of one log apart: the first bytes of the chain hash of a unit. Two that came about
/// by accident agree in them once in 2^64 times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitMark(pub [u8; 8]);

impl UnitMark {
    /// The mark of a unit with this hash.
    pub fn of(hash: UnitHash) -> Self {
        Self(*hash.0.first_chunk().expect("a hash has 32 bytes"))
    }
}

/// Tells the first bytes of units apart: the first half of their BLAKE3 hash. It guards against accidents
/// only, and of two beginnings that differ it takes one in 2^128 for the other. Who would make two that
/// agree gains nothing: what is put together is checked as every unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BegunMark(pub [u8; 16]);

impl BegunMark {
    /// The mark of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_both(bytes, &[])
    }

    /// The mark of the first bytes and the others behind them.
    pub fn of_both(first: &[u8], others: &[u8]) -> Self {
        let hash = blake3::Hasher::new().update(first).update(others).finalize();
        Self(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }
}

/// What somebody has of a unit that has not arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// So many bytes from its beginning; not 0, and less than `length`.
    pub bytes: usize,
    /// The whole unit's, at most [`UNIT_BYTES_MAX`].
    pub length: usize,
    /// The mark of the bytes.
    pub mark: BegunMark,
}

impl Begun {
    /// What there is of a unit of this length; `None` when that is nothing, or all.
    pub fn of(bytes: &[u8], length: usize) -> Option<Self> {
        let begun = Self { bytes: bytes.len(), length, mark: BegunMark::of(bytes) };
        begun.is_possible().then_some(begun)
    }

    /// Whether it is the beginning of this unit. Units are packed by whoever sends them, so the same unit
    /// of two carriers need not be the same bytes.
    pub fn begins(&self, unit: &[u8]) -> bool {
        let first = unit.get(..self.bytes).filter(|_| unit.len() == self.length);
        first.is_some_and(|first| BegunMark::of(first) == self.mark)
    }

    pub(crate) fn is_possible(&self) -> bool {
        self.bytes > 0 && self.bytes < self.length && self.length <= UNIT_BYTES_MAX
    }
}

/// The first message on every control stream, from both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol the sender speaks.
    pub protocol_min: u16,
    /// Newest protocol the sender speaks.
    pub protocol_max: u16,
    /// Every log of the receiver's site that the sender holds something of, in origin order. It
    /// comes first because it decides whether the receiver may speak at all.
    pub holds_of_you: Vec<Held>,
    /// Who the sender is, and in which life.
    pub origin: Origin,
    /// The sender's fleet file.
    pub fleet_version: u64,
    /// What the sender's fleet file says of sets, tables and rules, as a hash.
    pub sets_digest: [u8; 32],
    /// What the sender holds durably, its own log included.
    pub received: VersionVector,
    /// Of the last unit of each log that `received` names, in its order.
    pub marks: Vec<UnitMark>,
    /// What shows in the sender's PostgreSQL.
    pub applied: VersionVector,
    /// The sender's clock, milliseconds since 1970.
    pub wall_ms: u64,
    /// The sender's software and its version, for operators; at most [`SOFTWARE_BYTES_MAX`].
    pub software: String,
}

/// What moved since the sender last spoke of it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Have {
    /// Held durably: the acknowledgement that lets the receiver forget what it kept for the sender.
    pub received: VersionVector,
    /// Showing in the sender's PostgreSQL.
    pub applied: VersionVector,
}

/// A message on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who I am and what I hold; first, and once.
    Hello(Box<Hello>),
    /// What I hold now.
    Have(Have),
    /// Send me every unit of this origin after that one, and go on as new ones come.
    Follow {
        /// Whose units.
        origin: Origin,
        /// The last transaction I hold.
        after: Seq,
        /// What I have of the unit that comes next.
        begun: Option<Begun>,
    },
    /// Finish the unit you are sending, then send no more of this origin.
    Unfollow {
        /// Whose units.
        origin: Origin,
    },
}

impl Message {
    /// The frame's content.
    pub fn encode(&self) -> Vec<u8> {
        v1::encode(self)
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// Fails at the first rule the bytes break, naming the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        v1::decode(bytes)
    }

    /// What the message is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Have(_) => "have",
            Self::Follow { .. } => "follow",
            Self::Unfollow { .. } => "unfollow",
        }
    }
}

/// The first frame of a unit stream; every further frame is one unit, but the first may be the rest of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitStreamHead {
    /// Whose units follow.
    pub origin: Origin,
    /// As in the [`Message::Follow`] it answers: the first unit begins right after it.
    pub after: Seq,
    /// The first frame is not a whole unit, but what follows on so many bytes of it; 0 if it is whole.
    /// Else it is as many as the [`Begun`] of the message says.
    pub at: usize,
}

impl UnitStreamHead {
    /// The frame's content.
    pub fn encode(&self) -> Vec<u8> {
        v1::encode_head(*self)
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// Fails at the first rule the bytes break.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        v1::decode_head(bytes)
    }
}

/// Why a frame is not an acceptable message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nothing in it.
    #[error("frame is empty")]
    Empty,
    /// Longer than any message may be.
    #[error("frame of {found} bytes is over the limit of {limit}")]
    TooLong {
        /// Its length.
        found: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The first byte names no message of this version.
    #[error("unknown message tag {0}")]
    UnknownTag(u8),
    /// A hello of a sender that speaks none of our versions; the rest of it was not read.
    #[error(
        "hello speaks protocol {min} to {max}, this version speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}"
    )]
    ProtocolVersion {
        /// Oldest protocol of the sender.
        min: u16,
        /// Newest protocol of the sender.
        max: u16,
    },
    /// The message does not decode.
    #[error("{message} does not decode: {error}")]
    Malformed {
        /// Which message.
        message: &'static str,
        /// What is wrong.
        error: DecodeError,
    },
}
