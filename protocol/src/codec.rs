//! The byte-level rules everything durable or travelling is written by: little LEB128 varints,
//! length-prefixed bytes, every length checked before anything is allocated.

use crate::clock::{Hlc, Stamp};
use crate::id::{Incarnation, Origin, Seq, SiteId};

/// The first byte of the signed number 0; that of others is at most 9 below or 8 above.
pub const SIGNED_ZERO: u8 = 0x20;

/// Whether a signed number may begin with this byte.
pub fn is_signed(head: u8) -> bool {
    (SIGNED_ZERO - 9..=SIGNED_ZERO + 8).contains(&head)
}

/// Why bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("bytes end in the middle of a value")]
    Truncated,
    /// A number does not fit its type or is not written in its shortest form.
    #[error("number is out of range or not in its shortest form")]
    BadNumber,
    /// A count or length is over its limit.
    #[error("a length of {found} is over the limit of {limit}")]
    TooLong {
        /// What the bytes claim.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Text is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// A tag byte has no meaning in this version.
    #[error("unknown {what} tag {tag}")]
    UnknownTag {
        /// What was being read.
        what: &'static str,
        /// The byte found.
        tag: u8,
    },
    /// The value has another, canonical form.
    #[error("{0} is not in its canonical form")]
    NotCanonical(&'static str),
    /// Bytes are left after the value.
    #[error("{0} bytes are left over")]
    TrailingBytes(usize),
}

/// Appends values to a growing buffer.
#[derive(Debug, Default, Clone)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// The bytes written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Forgets what was written; the room for it stays.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The bytes written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// Bytes as they are, without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// An unsigned number, LEB128, 1 to 10 bytes.
    pub fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// A signed number, 1 to 9 bytes that compare as the numbers do: [`SIGNED_ZERO`] plus the count
    /// of bytes that follow, big endian; of a negative number, all bits inverted.
    pub fn signed(&mut self, number: i64) {
        let is_negative = number < 0;
        let magnitude = if is_negative { !number } else { number }.cast_unsigned();
        let count = 8 - magnitude.leading_zeros() as u8 / 8;
        let bytes = magnitude.to_be_bytes();
        let (_, bytes) = bytes.split_at(8 - usize::from(count));
        if is_negative {
            self.u8(SIGNED_ZERO - 1 - count);
            bytes.iter().for_each(|byte| self.u8(!byte));
        } else {
            self.u8(SIGNED_ZERO + count);
            self.raw(bytes);
        }
    }

    /// Length, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Length, then UTF-8.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Site as varint, incarnation as 8 bytes little-endian.
    pub fn origin(&mut self, origin: Origin) {
        self.varint(u64::from(origin.site.number()));
        self.raw(&origin.incarnation.number().to_le_bytes());
    }

    /// Clock reading, origin, seq.
    pub fn stamp(&mut self, stamp: Stamp) {
        self.varint(stamp.hlc.0);
        self.origin(stamp.txn.origin);
        self.varint(stamp.txn.seq.0);
    }
}

/// Reads values from a slice, checking every length.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Ends reading.
    ///
    /// # Errors
    /// Fails when bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes(self.0.len())) }
    }

    /// One byte.
    ///
    /// # Errors
    /// Fails at the end of the bytes.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    /// `length` bytes as they are.
    ///
    /// # Errors
    /// Fails when fewer are left.
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// `N` bytes as an array.
    ///
    /// # Errors
    /// Fails when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// An unsigned number in its shortest form.
    ///
    /// # Errors
    /// Fails when the bytes end, the number is over 64 bits, or a shorter form exists.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 || byte == 0 && shift > 0 {
                return Err(DecodeError::BadNumber);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(DecodeError::BadNumber)
    }

    /// A signed number in its shortest form.
    ///
    /// # Errors
    /// Fails when cut short, or when the bytes are not the shortest for their number.
    pub fn signed(&mut self) -> Result<i64, DecodeError> {
        let head = self.u8()?;
        self.signed_after(head)
    }

    /// A signed number whose first byte was read as a tag.
    ///
    /// # Errors
    /// As [`Reader::signed`].
    pub fn signed_after(&mut self, head: u8) -> Result<i64, DecodeError> {
        if !is_signed(head) {
            return Err(DecodeError::BadNumber);
        }
        let is_negative = head < SIGNED_ZERO;
        let count = if is_negative { SIGNED_ZERO - 1 - head } else { head - SIGNED_ZERO };
        let mut magnitude = 0u64;
        for (place, byte) in self.raw(usize::from(count))?.iter().enumerate() {
            let byte = if is_negative { !byte } else { *byte };
            if place == 0 && byte == 0 {
                return Err(DecodeError::BadNumber);
            }
            magnitude = magnitude << 8 | u64::from(byte);
        }
        let number = i64::try_from(magnitude).map_err(|_| DecodeError::BadNumber)?;
        Ok(if is_negative { !number } else { number })
    }

    /// An unsigned number of 16 bits.
    ///
    /// # Errors
    /// As [`Reader::varint`], or when it is larger.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        u16::try_from(self.varint()?).map_err(|_| DecodeError::BadNumber)
    }

    /// An unsigned number of 32 bits.
    ///
    /// # Errors
    /// As [`Reader::varint`], or when it is larger.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| DecodeError::BadNumber)
    }

    /// How many elements follow. Each takes at least one byte, so a count over what is left is
    /// refused before anything is allocated for it.
    ///
    /// # Errors
    /// Fails when the count is over `limit` or over the bytes left.
    pub fn count(&mut self, limit: usize) -> Result<usize, DecodeError> {
        let found = self.varint()?;
        if found > limit as u64 {
            return Err(DecodeError::TooLong { found, limit: limit as u64 });
        }
        if found > self.0.len() as u64 {
            return Err(DecodeError::Truncated);
        }
        Ok(found as usize)
    }

    /// Length-prefixed bytes of at most `limit`.
    ///
    /// # Errors
    /// Fails when they are longer or cut short.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let length = self.count(limit)?;
        self.raw(length)
    }

    /// Length-prefixed UTF-8 of at most `limit` bytes.
    ///
    /// # Errors
    /// Fails when it is longer, cut short or not UTF-8.
    pub fn text(&mut self, limit: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(limit)?).map_err(|_| DecodeError::NotUtf8)
    }

    /// An origin.
    ///
    /// # Errors
    /// Fails when cut short or zero.
    pub fn origin(&mut self) -> Result<Origin, DecodeError> {
        let site = SiteId::new(self.u16()?).ok_or(DecodeError::BadNumber)?;
        let incarnation =
            Incarnation::new(u64::from_le_bytes(self.array()?)).ok_or(DecodeError::BadNumber)?;
        Ok(Origin { site, incarnation })
    }

    /// A stamp.
    ///
    /// # Errors
    /// Fails when cut short or out of range.
    pub fn stamp(&mut self) -> Result<Stamp, DecodeError> {
        Ok(Stamp::new(Hlc(self.varint()?), self.origin()?, Seq(self.varint()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_forms_and_overflows_are_refused() {
        for bad in [&[0x80u8, 0x00][..], &[0xff; 10], &[0x80], &[]] {
            assert!(Reader::new(bad).varint().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_claimed_length_never_allocates_past_the_bytes() {
        let mut out = Writer::new();
        out.varint(u64::MAX >> 1);
        let bytes = out.into_bytes();
        assert_eq!(Reader::new(&bytes).bytes(usize::MAX), Err(DecodeError::Truncated));
        assert!(matches!(Reader::new(&bytes).bytes(10), Err(DecodeError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn numbers_read_back(unsigned: u64, signed: i64) {
            let mut out = Writer::new();
            out.varint(unsigned);
            out.signed(signed);
            let bytes = out.into_bytes();
            let mut from = Reader::new(&bytes);
            prop_assert_eq!(from.varint(), Ok(unsigned));
            prop_assert_eq!(from.signed(), Ok(signed));
            prop_assert_eq!(from.finish(), Ok(()));
        }
    }
}
