//! zstd with the two guards it needs: a content checksum when writing (without it two of three
//! single flipped bits decode to something else), and a hard output size when reading (32 kB can
//! claim to be a gigabyte).

use std::cell::RefCell;
use std::io::Write as _;

use zstd::bulk::{Compressor, Decompressor};
use zstd::stream::write::Encoder;
use zstd::zstd_safe::{CParameter, DParameter};

/// Largest window a decoder here accepts: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Room that zstd wants beyond what it writes in the end.
const SPARE_BYTES: usize = 256;

/// Why bytes could not be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// Not a zstd frame, damaged, or larger than declared.
    #[error("compressed bytes are damaged or larger than declared: {0}")]
    Damaged(String),
    /// Smaller than declared.
    #[error("unpacked to {found} bytes where {declared} were declared")]
    WrongLength {
        /// What was declared.
        declared: usize,
        /// What came out.
        found: usize,
    },
}

/// Packs `plain` at a zstd `level` (1 to 19), with a content checksum.
pub fn compress(plain: &[u8], level: i32) -> Vec<u8> {
    let mut compressor = compressor(level);
    compressor.compress(plain).expect("the output buffer is sized by zstd's own bound")
}

/// As [`compress`], if that takes less than `bytes`. Stops where it sees that it does not.
pub fn compress_below(bytes: usize, plain: &[u8], level: i32) -> Option<Vec<u8>> {
    let mut packed = Vec::with_capacity(bytes + SPARE_BYTES);
    let fits = compressor(level).compress_to_buffer(plain, &mut packed).is_ok();
    (fits && packed.len() < bytes).then_some(packed)
}

fn compressor(level: i32) -> Compressor<'static> {
    let mut compressor = Compressor::new(level).expect("zstd allocates a context");
    compressor.set_parameter(CParameter::ChecksumFlag(true)).expect("every zstd has checksums");
    compressor
        .set_parameter(CParameter::WindowLog(WINDOW_LOG_MAX))
        .expect("the window is within zstd's range");
    compressor
}

/// As [`compress`], of bytes that are of another kind from each of `cuts` on, which grow: there what
/// zstd has learned of how often which byte comes is put aside.
pub fn compress_in_pieces(plain: &[u8], cuts: &[usize], level: i32) -> Vec<u8> {
    let pack = || {
        let mut encoder = Encoder::new(Vec::with_capacity(plain.len() / 4), level)?;
        encoder.set_pledged_src_size(Some(plain.len() as u64))?;
        encoder.include_checksum(true)?;
        encoder.include_contentsize(true)?;
        encoder.window_log(WINDOW_LOG_MAX)?;
        let mut begin = 0;
        for cut in cuts {
            let end = (*cut).clamp(begin, plain.len());
            encoder.write_all(&plain[begin..end])?;
            encoder.flush()?;
            begin = end;
        }
        encoder.write_all(&plain[begin..])?;
        encoder.finish()
    };
    pack().expect("zstd allocates a context, and memory takes what is written")
}

/// Unpacks bytes that must give exactly `declared` bytes. The caller has checked `declared`
/// against its limit.
///
/// # Errors
/// Fails when the bytes are damaged or give another length.
pub fn decompress(packed: &[u8], declared: usize) -> Result<Vec<u8>, CompressError> {
    thread_local! {
        // To make one takes longer than to unpack most of what there is. It keeps nothing of what it
        // unpacked, and has no window of its own.
        static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let unpacked = CONTEXT.with_borrow_mut(|context| {
        let decompressor = match context {
            Some(made) => made,
            None => context.insert(decompressor()?),
        };
        decompressor.decompress(packed, declared)
    });
    let plain = unpacked.map_err(|error| CompressError::Damaged(error.to_string()))?;
    if plain.len() == declared {
        Ok(plain)
    } else {
        Err(CompressError::WrongLength { declared, found: plain.len() })
    }
}

fn decompressor() -> std::io::Result<Decompressor<'static>> {
    let mut decompressor = Decompressor::new()?;
    decompressor.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
    Ok(decompressor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_always_noticed() {
        let plain: Vec<u8> = (0..2000u32).flat_map(|n| (n * n % 251).to_le_bytes()).collect();
        let packed = compress(&plain, 3);
        assert_eq!(decompress(&packed, plain.len()).unwrap(), plain);
        for bit in (0..packed.len() * 8).step_by(7) {
            let mut damaged = packed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(back) = decompress(&damaged, plain.len()) {
                assert_eq!(back, plain, "bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_packed_in_pieces_or_below_a_length_is_the_same() {
        let plain: Vec<u8> = (0..9000u32).map(|n| (n / 3000 * 90 + n * n % 7) as u8).collect();
        for cuts in [&[][..], &[3000, 6000], &[0, 9000], &[5, 5, 3, 12_000]] {
            let packed = compress_in_pieces(&plain, cuts, 3);
            assert_eq!(decompress(&packed, plain.len()).unwrap(), plain, "{cuts:?}");
            assert!(decompress(&packed, plain.len() - 1).is_err());
        }
        let packed = compress(&plain, 3);
        assert_eq!(compress_below(packed.len() + 1, &plain, 3), Some(packed.clone()));
        for bytes in [packed.len(), packed.len() / 2, 1, 0] {
            assert_eq!(compress_below(bytes, &plain, 3), None);
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let packed = compress(&vec![0; 64 << 20], 3);
        assert!(packed.len() < 10_000);
        assert!(decompress(&packed, 1 << 20).is_err());
    }
}
