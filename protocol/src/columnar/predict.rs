//! What a number is expected to be: only by how much it is something else is written.

use crate::codec::DecodeError;
use crate::columnar::BAD;

/// Numbers that are compared with each other across columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Time,
    Decimal,
    Clock,
    Count,
}

/// What a number is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// Nothing.
    Zero,
    /// The number before it in its column.
    Column,
    /// The last number of its kind in any column: in the same row if there is one, else before it.
    Kind,
    /// What the column had in the same row when it was last seen, or else the number before it.
    Row,
}

impl Expect {
    pub(super) const ALL: [Self; 4] = [Self::Zero, Self::Column, Self::Kind, Self::Row];

    pub(super) fn tagged(tag: u8) -> Result<Self, DecodeError> {
        Self::ALL.get(usize::from(tag)).copied().ok_or(BAD)
    }
}

/// The last numbers of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Last([i64; 5]);

impl Last {
    pub(super) fn of(&self, kind: Kind) -> i64 {
        self.0[kind as usize]
    }

    pub(super) fn set(&mut self, kind: Kind, number: i64) {
        self.0[kind as usize] = number;
    }
}

/// A positive or negative difference as a number that is small when the difference is.
pub(super) fn folded(difference: i64) -> u64 {
    (difference << 1 ^ difference >> 63).cast_unsigned()
}

/// What [`folded`] was given.
pub(super) fn unfolded(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

const PRIME: u64 = 0x0100_0000_01b3;
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// FNV-1a, going on from `seed`.
pub(super) fn hashed(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(BASIS ^ seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// What columns had in rows. A place may be taken by another row: then it is not known any more, on
/// both sides alike.
#[derive(Debug)]
pub(super) struct Rows {
    places: Vec<(u64, i64)>,
    shift: u32,
}

impl Rows {
    /// Room for what so many changes say.
    pub(super) fn new(changes: usize) -> Self {
        let bits = (changes.saturating_mul(4).max(2) - 1).ilog2() + 1;
        let bits = bits.clamp(6, 16);
        Self { places: vec![(0, 0); 1 << bits], shift: 64 - bits }
    }

    fn place(&mut self, row: u64, column: usize) -> (u64, &mut (u64, i64)) {
        // Never 0, which is what nobody has taken.
        let key = (row ^ column as u64).wrapping_mul(MIX) | 1;
        (key, &mut self.places[(key >> self.shift) as usize])
    }

    /// Notes what a column of a row has, and gives what it had when it was last seen.
    pub(super) fn replace(&mut self, row: u64, column: usize, number: i64) -> Option<i64> {
        let (key, place) = self.place(row, column);
        let (known, before) = std::mem::replace(place, (key, number));
        (known == key).then_some(before)
    }

    /// What a column of a row has if that is by so much more than what it had, or than `instead` if
    /// it was not seen.
    pub(super) fn add(&mut self, row: u64, column: usize, by: i64, instead: i64) -> i64 {
        let (key, place) = self.place(row, column);
        let before = if place.0 == key { place.1 } else { instead };
        *place = (key, before.wrapping_add(by));
        place.1
    }
}
