//! Texts too long to be kept in memory: they go into a scratch file while they are received, and
//! the message that held them goes on with a note in their place.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use landfall_protocol::codec::DecodeError;
use landfall_protocol::limits::{inline_bytes_max, piece_bytes_max};
use landfall_protocol::value::LongValue;

use super::scratch::{ScratchError, ScratchFile};

mod condense;

#[cfg(feature = "simulation")]
pub(super) use condense::Condensed;
pub(super) use condense::Condenser;

/// The kind of a column whose text is elsewhere; the server has no such kind.
pub(super) const LONG_COLUMN: u8 = b'L';
/// Bytes of a [`LongText`] in a message.
pub(super) const LONG_TEXT_BYTES: usize = 48;

/// A text in the scratch file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongText {
    /// What it is.
    pub value: LongValue,
    /// Where it begins.
    pub offset: u64,
}

impl LongText {
    fn encode(&self) -> [u8; LONG_TEXT_BYTES] {
        let mut bytes = [0; LONG_TEXT_BYTES];
        bytes[..32].copy_from_slice(&self.value.hash);
        bytes[32..40].copy_from_slice(&self.value.bytes.to_be_bytes());
        bytes[40..].copy_from_slice(&self.offset.to_be_bytes());
        bytes
    }

    /// Reads the note in a message.
    pub(super) fn decode(bytes: [u8; LONG_TEXT_BYTES]) -> Self {
        let (hash, rest) = bytes.split_first_chunk::<32>().expect("48 bytes");
        let (length, offset) = rest.split_first_chunk::<8>().expect("16 bytes");
        let offset: [u8; 8] = offset.try_into().expect("8 bytes");
        Self {
            value: LongValue { hash: *hash, bytes: u64::from_be_bytes(*length) },
            offset: u64::from_be_bytes(offset),
        }
    }
}

/// The scratch file of long texts, shared by who receives and who passes on.
#[derive(Debug)]
pub struct LongTexts {
    dir: PathBuf,
    file: Mutex<Option<(Arc<ScratchFile>, u64)>>,
}

impl LongTexts {
    /// The file is made in `dir` when it is needed.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, file: Mutex::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Arc<ScratchFile>, u64)>> {
        // The state is whole after every statement under this lock.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends; returns where the bytes begin.
    fn append(&self, bytes: &[u8]) -> Result<u64, ScratchError> {
        let mut file = self.lock();
        if file.is_none() {
            *file = Some((Arc::new(ScratchFile::create(&self.dir, "long-texts")?), 0));
        }
        let (file, end) = file.as_mut().expect("made above");
        let at = *end;
        file.write(bytes, at)?;
        *end += bytes.len() as u64;
        Ok(at)
    }

    /// Forgets everything: no transaction under way refers to it.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub fn clear(&self) -> Result<(), ScratchError> {
        match self.lock().as_mut() {
            Some((file, end)) if *end > 0 => {
                *end = 0;
                file.clear()
            }
            _ => Ok(()),
        }
    }

    /// The next piece of a text of which `read` bytes are read: at most [`piece_bytes_max`], cut
    /// between characters.
    ///
    /// # Errors
    /// The file cannot be read, or the text is not UTF-8.
    pub(super) fn piece(&self, text: &LongText, read: u64) -> Result<Box<str>, ScratchError> {
        let Some((file, _)) = self.lock().clone() else {
            return Ok(Box::default());
        };
        let left = usize::try_from(text.value.bytes - read).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(piece_bytes_max())];
        file.read(&mut bytes, text.offset + read)?;
        let whole = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            // A character that the cut divided; the next piece begins with it.
            Err(error) if error.error_len().is_none() && bytes.len() < left => error.valid_up_to(),
            Err(_) => return Err(file.damaged(DecodeError::NotUtf8)),
        };
        bytes.truncate(whole);
        String::from_utf8(bytes)
            .map(String::into_boxed_str)
            .map_err(|_| file.damaged(DecodeError::NotUtf8))
    }
}

/// Whether a text of this length is kept elsewhere.
pub(super) fn is_long(bytes: usize) -> bool {
    bytes > inline_bytes_max()
}
