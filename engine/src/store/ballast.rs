//! The ballast: a file that is given up when the disk is full.
//!
//! On a full disk SQLite cannot even delete, so there must be something to remove from outside.
//! The file comes back in small steps as commits succeed again; filling it at once would take the
//! last room of the disk from PostgreSQL.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use super::error::StoreError;
use super::layout::remove;

const STEP_BYTES: u64 = 1 << 20;
/// Commits between the disk being full and the first step back.
const CALM_COMMITS: u32 = 256;

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    target_bytes: u64,
    have_bytes: u64,
    calm_commits: u32,
}

impl Ballast {
    /// Takes what is there and fills up the rest. A disk with no room for it is no reason not to
    /// start.
    pub(super) fn open(path: PathBuf, target_bytes: u64) -> Result<Self, StoreError> {
        let have_bytes = fs::metadata(&path).map_or(0, |found| found.len());
        let mut ballast = Self { path, target_bytes, have_bytes, calm_commits: 0 };
        while ballast.have_bytes < ballast.target_bytes && ballast.calm_commits == 0 {
            ballast.grow()?;
        }
        Ok(ballast)
    }

    /// Gives the room back to the disk.
    pub(super) fn release(&mut self) -> Result<(), StoreError> {
        self.calm_commits = CALM_COMMITS;
        self.have_bytes = 0;
        remove(&self.path)
    }

    /// Notes a commit that wrote.
    pub(super) fn committed(&mut self) -> Result<(), StoreError> {
        if self.have_bytes >= self.target_bytes {
            return Ok(());
        }
        if self.calm_commits > 0 {
            self.calm_commits -= 1;
            return Ok(());
        }
        self.grow()
    }

    fn grow(&mut self) -> Result<(), StoreError> {
        let bytes = STEP_BYTES.min(self.target_bytes - self.have_bytes);
        let write = || {
            let mut file =
                File::options().create(true).truncate(false).write(true).open(&self.path)?;
            file.seek(SeekFrom::Start(self.have_bytes))?;
            file.write_all(&vec![0; bytes as usize])?;
            file.sync_data()
        };
        match write() {
            Ok(()) => {
                self.have_bytes += bytes;
                Ok(())
            }
            Err(error) => match StoreError::file("grow", &self.path, &error) {
                StoreError::Full => self.release(),
                error => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_is_released_and_comes_back_in_steps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballast");
        let length = || fs::metadata(&path).map_or(0, |found| found.len());
        let mut ballast = Ballast::open(path.clone(), 3 * STEP_BYTES / 2).unwrap();
        assert_eq!(length(), 3 * STEP_BYTES / 2);
        ballast.release().unwrap();
        assert!(!path.exists());
        for _ in 0..CALM_COMMITS {
            ballast.committed().unwrap();
            assert!(!path.exists());
        }
        ballast.committed().unwrap();
        assert_eq!(length(), STEP_BYTES);
        ballast.committed().unwrap();
        ballast.committed().unwrap();
        assert_eq!(length(), 3 * STEP_BYTES / 2);
    }
}
