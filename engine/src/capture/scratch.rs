//! A scratch file: it has no name, so it is gone when nobody holds it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use landfall_protocol::codec::DecodeError;

/// Why something cannot be put aside, or not read back.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// The file failed.
    #[error("scratch file in {}: {source}", dir.display())]
    File {
        /// Where it is.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// What was read back is not what was written.
    #[error("scratch file in {}: {source}", dir.display())]
    Damaged {
        /// Where it is.
        dir: PathBuf,
        /// What does not read.
        source: DecodeError,
    },
}

impl ScratchError {
    /// Whether there was no room on the disk.
    pub fn is_full(&self) -> bool {
        let Self::File { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct ScratchFile {
    dir: PathBuf,
    file: File,
}

impl ScratchFile {
    /// Makes a file in `dir`, under `name` for a moment.
    pub(super) fn create(dir: &Path, name: &str) -> Result<Self, ScratchError> {
        let open = || {
            let path = dir.join(name);
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        };
        let file = open().map_err(|source| ScratchError::File { dir: dir.to_owned(), source })?;
        Ok(Self { dir: dir.to_owned(), file })
    }

    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<(), ScratchError> {
        self.file.write_all_at(bytes, at).map_err(|source| self.failed(source))
    }

    pub(super) fn read(&self, bytes: &mut [u8], at: u64) -> Result<(), ScratchError> {
        self.file.read_exact_at(bytes, at).map_err(|source| self.failed(source))
    }

    /// Gives the room back to the disk.
    pub(super) fn clear(&self) -> Result<(), ScratchError> {
        self.file.set_len(0).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> ScratchError {
        ScratchError::File { dir: self.dir.clone(), source }
    }

    pub(super) fn damaged(&self, source: DecodeError) -> ScratchError {
        ScratchError::Damaged { dir: self.dir.clone(), source }
    }
}

/// A directory for the scratch files of checks, one per thread: the files lose their names at once.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn thread_dir() -> PathBuf {
    thread_local! {
        static DIR: tempfile::TempDir = tempfile::tempdir().expect("a directory for scratch files");
    }
    DIR.with(|dir| dir.path().to_owned())
}
