//! Why a connection ends: one variant per rule that was broken.

use crate::id::{Origin, Seq, SiteId};
use crate::wire::{PROTOCOL_MAX, PROTOCOL_MIN, WireError};

/// Why we do not go on with a peer. The text is for operators on both sides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No protocol in common.
    #[error(
        "no protocol in common: the peer speaks {min} to {max}, we speak {PROTOCOL_MIN} to \
         {PROTOCOL_MAX}; upgrade the older one"
    )]
    ProtocolVersion {
        /// Oldest protocol of the peer.
        min: u16,
        /// Newest protocol of the peer.
        max: u16,
    },
    /// The hello names another site than the one whose key the transport saw.
    #[error("the peer's key is that of site {expected}, but its hello says site {found}")]
    WrongSite {
        /// Whose key it is.
        expected: SiteId,
        /// What the hello says.
        found: SiteId,
    },
    /// The peer is our own site.
    #[error(
        "the peer is site {site} and so are we: either this node called itself, or two boxes run \
         with one key"
    )]
    OwnSite {
        /// Our site.
        site: SiteId,
    },
    /// Our fleet file does not name the peer.
    #[error("site {site} is not a member in our fleet file")]
    UnknownMember {
        /// The peer.
        site: SiteId,
    },
    /// The fleet files would compute different rows.
    #[error(
        "fleet files differ in sets or tables: ours is version {ours}, the peer's is version \
         {theirs}; they sync again when both have the same"
    )]
    SetsDiffer {
        /// The version of our fleet file.
        ours: u64,
        /// The version of the peer's.
        theirs: u64,
    },
    /// The peer holds more of our present log than we do.
    #[error(
        "the peer holds our log {origin} up to {peer_seq}, we have it up to {own_seq} only: this \
         node was restored from an old state or runs twice"
    )]
    OwnLogBehind {
        /// Our site in its present life.
        origin: Origin,
        /// How far the peer holds it.
        peer_seq: Seq,
        /// How far we hold it.
        own_seq: Seq,
    },
    /// The peer holds another history of our present log than we do.
    #[error(
        "the peer holds another history of our log {origin} at {seq}: two boxes wrote under one \
         identity"
    )]
    OwnLogForked {
        /// Our site in its present life.
        origin: Origin,
        /// Where the peer's history is known to differ.
        seq: Seq,
    },
    /// The peer did not say hello in time.
    #[error("the peer did not say hello within {} s", super::HELLO_TIMEOUT_MS / 1000)]
    NoHello,
    /// The peer does not keep to the protocol.
    #[error("the peer broke the protocol: {0}")]
    ProtocolViolation(#[from] Violation),
}

impl Refusal {
    /// Whether this node must stop sending units under its present identity, to anybody, until it
    /// has begun a new life: what it would write next carries numbers that are taken.
    pub fn fences_us(&self) -> bool {
        matches!(self, Self::OwnLogBehind { .. } | Self::OwnLogForked { .. })
    }
}

/// What a peer may not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Something was said before the hello.
    #[error("{message} before the hello")]
    BeforeHello {
        /// Which message.
        message: &'static str,
    },
    /// A hello in the middle.
    #[error("hello out of place")]
    SecondHello,
    /// The list of our logs it holds and its vector do not agree.
    #[error("its list of our logs and its vector say different things")]
    HeldUnclear,
    /// More than [`super::FOLLOWS_MAX`].
    #[error("more than {} origins followed", super::FOLLOWS_MAX)]
    TooManyFollows,
    /// A frame that is no message.
    #[error(transparent)]
    BadFrame(WireError),
}
