//! The columns of a part: another order of the same bytes, in which zstd finds more.
//!
//! A part's canonical content is row after row. Here it is taken apart into sequences of numbers and
//! texts, one for each column of each table, and put together again to exactly the same bytes. The
//! hash in a unit's header stays that of the canonical content, so nobody who passes a unit on, stores
//! it or applies it need know which order it travelled in.
//!
//! [`split`] is only asked for what was sealed here, and gives `None` for content it does not
//! understand. [`join`] reads bytes from outside: everything it allocates and every step it takes is
//! bounded by the length of the content, which the origin signed. The byte-level description is in
//! `docs/wire.md`.

mod join;
mod numbers;
mod predict;
mod shapes;
mod spine;
mod split;
#[cfg(test)]
mod tests;
mod texts;

use crate::codec::{DecodeError, Reader};

/// Most bytes of a part that is taken apart: what is in memory meanwhile is a multiple of it.
pub const SPLIT_BYTES_MAX: usize = 8 << 20;
/// Columns that a part may have.
const COLUMNS_MAX: usize = 4096;
/// Shapes that the changes of a part may have.
const SHAPES_MAX: usize = 8192;
/// A sequence of so many bytes is better compressed by itself.
const CUT_BYTES: usize = 512;

/// What is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Clock readings, table descriptions and actors.
    Spine,
    /// The same of a compacted unit, with steps of numbers.
    CompactedSpine,
    /// Row changes.
    Set,
}

/// A part that was taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The columns, one after the other.
    pub bytes: Vec<u8>,
    /// Where bytes of another kind begin, growing: a hint for whoever compresses them.
    pub cuts: Vec<usize>,
}

/// The longest form that a content of `plain_bytes` may have when it is taken apart.
pub const fn columns_bytes_max(plain_bytes: usize) -> usize {
    plain_bytes.saturating_mul(2).saturating_add(64)
}

/// Takes the canonical content of a part apart. `None` for what is no such content, is larger than
/// [`SPLIT_BYTES_MAX`], or would not be put together to the same bytes again.
///
/// `clock` is the reading that the unit begins at; it only makes the result shorter.
pub fn split(content: Content, plain: &[u8], clock: u64) -> Option<Columns> {
    if plain.len() > SPLIT_BYTES_MAX {
        return None;
    }
    let columns = match content {
        Content::Spine => spine::split(plain, clock, false),
        Content::CompactedSpine => spine::split(plain, clock, true),
        Content::Set => split::split(plain),
    }?;
    // A unit is never sealed anew: what nobody could put together would be lost.
    let fits = columns.bytes.len() <= columns_bytes_max(plain.len());
    let same = fits && join(content, &columns.bytes, plain.len()).is_ok_and(|back| back == plain);
    same.then_some(columns)
}

/// Puts the content of a part together, which must come to exactly `plain_bytes`.
///
/// # Errors
/// Fails when the columns are damaged, cut short, longer than they may be, or of another length.
pub fn join(content: Content, columns: &[u8], plain_bytes: usize) -> Result<Vec<u8>, DecodeError> {
    let limit = SPLIT_BYTES_MAX;
    if plain_bytes > limit {
        return Err(DecodeError::TooLong { found: plain_bytes as u64, limit: limit as u64 });
    }
    let from = Reader::new(columns);
    let plain = match content {
        Content::Spine => spine::join(from, plain_bytes, false),
        Content::CompactedSpine => spine::join(from, plain_bytes, true),
        Content::Set => join::join(from, plain_bytes),
    }?;
    if plain.len() == plain_bytes { Ok(plain) } else { Err(BAD) }
}

/// What is said of columns that do not fit each other.
const BAD: DecodeError = DecodeError::NotCanonical("columns");
