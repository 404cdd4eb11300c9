//! Bundles: what links carry, as encrypted files.
//!
//! ```text
//! let (mut part, begin) = PartEncoder::begin(opening, &key)?;    // bytes for the file
//! let more = part.unit(unit.bytes());
//! let end = part.end(Ending { is_last: true, reaches });
//!
//! let mut part = PartDecoder::new(key, fleet);
//! part.push(bytes)?;                                            // as they come
//! while let Some(piece) = part.take()? { … }                    // the manifest, units, the trailer
//! ```
//!
//! The layout is in [`landfall_protocol::bundle`], the encryption in `cipher`. [`Course`] takes units
//! out of the store in an order in which they can be applied, [`Intake`] puts them into another. Who
//! has which file open is the caller's business: nothing here opens one.

mod cipher;
mod course;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod intake;
mod part;
#[cfg(test)]
mod tests;

use landfall_protocol::bundle::BundleError;
use landfall_protocol::id::{Origin, Seq, SiteId};
use landfall_protocol::sync::Refusal;

use crate::store::StoreError;

pub use course::Course;
pub use intake::{Intake, Receipt, Taken};
pub use part::{Ending, Opening, PartDecoder, PartEncoder, Piece};

/// Why a part cannot be read, or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// It is no part, or of another version.
    #[error(transparent)]
    Format(#[from] BundleError),
    /// None of its keys is for us.
    #[error(
        "it is not for this member: none of its {recipients} recipients has our key; have it written again with --for this member"
    )]
    NotForUs {
        /// For how many it is.
        recipients: usize,
    },
    /// What came is not what was written.
    #[error("it is damaged at about byte {at}; copy it again, or have it written again")]
    Damaged {
        /// Where, in bytes from the beginning.
        at: u64,
    },
    /// It ends too early.
    #[error(
        "it is cut short, or damaged near its end, after {bytes} bytes; copy it again, or have it written again"
    )]
    Truncated {
        /// How much there is.
        bytes: u64,
    },
    /// Its writer is nobody we know.
    #[error("it was written by site {0}, which is not in our fleet file")]
    Stranger(SiteId),
    /// Its writer did not sign it.
    #[error("it says that site {0} wrote it, but the key of that site did not sign it")]
    Forged(SiteId),
    /// What the writer says of itself does not fit to us, as over a link.
    #[error("{0}")]
    Refused(Refusal),
    /// Its writer says that a unit does not follow on what it says is needed.
    #[error("it contradicts itself: origin {origin} has nothing between {held} and its next unit")]
    Gap {
        /// Whose unit.
        origin: Origin,
        /// The last transaction held.
        held: Seq,
    },
    /// A recipient's key is of no use.
    #[error("nothing can be encrypted for site {0}: its key in the fleet file is not usable")]
    Recipient(SiteId),
    /// A unit is too large for parts of this size.
    #[error(
        "a unit of origin {origin} makes a part of {needed} bytes, larger than {bytes_max}; choose a larger --max-size"
    )]
    TooSmall {
        /// Whose unit.
        origin: Origin,
        /// What the part would take.
        needed: u64,
        /// What it may take.
        bytes_max: u64,
    },
    /// The operating system gave no randomness.
    #[error("draw a key for a bundle: {0}")]
    Randomness(getrandom::Error),
    /// The store did not do its part.
    #[error("{0}; {advice}", advice = .0.advice())]
    Store(#[from] StoreError),
}
