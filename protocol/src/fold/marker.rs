//! The transactional logical message by which the fold knows our own transactions.

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Origin, Seq};

/// Prefix of every logical message Landfall writes.
pub const MARKER_PREFIX: &str = "landfall.apply";

/// One apply transaction sets aside at most this many changes.
const PARKED_MAX: usize = 1 << 24;

/// A change that the apply transaction set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParkedChange {
    /// The transaction it is part of.
    pub seq: Seq,
    /// Its place among that transaction's changes, from 0.
    pub index: u32,
}

/// What one of our own PostgreSQL transactions is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marker {
    /// It shows these consecutive transactions of an origin.
    Apply {
        /// Whose.
        origin: Origin,
        /// The first one.
        first: Seq,
        /// The last one.
        last: Seq,
        /// Changes of theirs that could not be shown.
        parked: Vec<ParkedChange>,
    },
    /// It rewrites rows to what their clocks say; it is no news.
    Repair,
}

impl Marker {
    /// The message's content.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Apply { origin, first, last, parked } => {
                out.u8(1);
                out.origin(*origin);
                out.varint(first.0);
                out.varint(last.0);
                out.varint(parked.len() as u64);
                for change in parked {
                    out.varint(change.seq.0);
                    out.varint(u64::from(change.index));
                }
            }
            Self::Repair => out.u8(2),
        }
        out.into_bytes()
    }

    /// Reads a message's content.
    ///
    /// # Errors
    /// Fails when the content is not one of ours.
    pub fn decode(content: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(content);
        let marker = match from.u8()? {
            1 => {
                let (origin, first, last) =
                    (from.origin()?, Seq(from.varint()?), Seq(from.varint()?));
                let parked = (0..from.count(PARKED_MAX)?)
                    .map(|_| Ok(ParkedChange { seq: Seq(from.varint()?), index: from.u32()? }))
                    .collect::<Result<_, DecodeError>>()?;
                Self::Apply { origin, first, last, parked }
            }
            2 => Self::Repair,
            tag => return Err(DecodeError::UnknownTag { what: "marker", tag }),
        };
        from.finish()?;
        Ok(marker)
    }
}
