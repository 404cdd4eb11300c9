//! Parts that came before what they need, kept as they came: encrypted.
//!
//! What is kept stands in the register; a file of which the register knows nothing was never promised
//! to anybody.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use landfall_protocol::bundle::BundleId;
use landfall_protocol::version::VersionVector;

use crate::store::{PartFate, PartRecord};

/// Which part.
pub(super) type PartKey = (BundleId, u32);

/// A part that is kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) bytes: u64,
    /// What it waits for.
    pub(super) needs: VersionVector,
}

/// The folder of parts that wait.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    bytes_max: u64,
    kept: BTreeMap<PartKey, Kept>,
}

impl Spool {
    /// A folder of which nothing is known yet.
    pub(super) fn new(dir: &Path, bytes_max: u64) -> Self {
        Self { dir: dir.to_owned(), bytes_max, kept: BTreeMap::new() }
    }

    /// What the register says is kept, as far as it is there; removes everything else.
    pub(super) fn open(dir: &Path, bytes_max: u64, register: &[PartRecord]) -> Self {
        let mut spool = Self::new(dir, bytes_max);
        for part in register.iter().filter(|part| part.fate == PartFate::Waits) {
            let (key, path) = ((part.bundle, part.part), spool.path((part.bundle, part.part)));
            match fs::metadata(&path) {
                Ok(found) => {
                    let kept = Kept { bytes: found.len(), needs: part.needs.clone() };
                    spool.kept.insert(key, kept);
                }
                Err(error) => {
                    let (bundle, part) = key;
                    tracing::warn!(%bundle, part, %error, "a part that was kept is gone; read it again");
                }
            }
        }
        spool.remove_strangers();
        spool
    }

    fn remove_strangers(&self) {
        // Without a folder nothing was ever kept.
        let Ok(found) = fs::read_dir(&self.dir) else { return };
        let ours: Vec<PathBuf> = self.kept.keys().map(|key| self.path(*key)).collect();
        for path in found.filter_map(|entry| Some(entry.ok()?.path())) {
            if !ours.contains(&path) {
                // Left by a crash; it is looked at again at the next start.
                let _ = fs::remove_file(path);
            }
        }
    }

    fn path(&self, (bundle, part): PartKey) -> PathBuf {
        self.dir.join(format!("{bundle}-{part:05}"))
    }

    /// All that is kept, older bundles first.
    pub(super) fn kept(&self) -> &BTreeMap<PartKey, Kept> {
        &self.kept
    }

    /// Bytes of all that is kept.
    pub(super) fn bytes(&self) -> u64 {
        self.kept.values().map(|kept| kept.bytes).sum()
    }

    /// Begins to keep a part of so many bytes.
    ///
    /// # Errors
    /// There is no room, as a sentence.
    pub(super) fn begin(&self, key: PartKey, bytes: u64) -> Result<Keeping, String> {
        let others = self.kept.iter().filter(|(other, _)| **other != key);
        let taken: u64 = others.map(|(_, kept)| kept.bytes).sum();
        if taken.saturating_add(bytes) > self.bytes_max {
            return Err(format!(
                "{taken} bytes are kept already, and limits.bundle_spool_bytes_max is {}",
                self.bytes_max
            ));
        }
        let path = self.path(key);
        let unfinished = path.with_extension("new");
        let mut private = fs::DirBuilder::new();
        let made = private.recursive(true).mode(0o700).create(&self.dir).and_then(|()| {
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)
        });
        let file = made.map_err(|error| format!("make {}: {error}", unfinished.display()))?;
        Ok(Keeping { path, unfinished, file: Some(file), bytes: 0, bytes_max: bytes })
    }

    /// Takes up a part that is durable and in the register.
    pub(super) fn insert(&mut self, key: PartKey, kept: Kept) {
        self.kept.insert(key, kept);
    }

    /// Opens a part that is kept.
    pub(super) fn read(&self, key: PartKey) -> io::Result<File> {
        File::open(self.path(key))
    }

    /// Forgets a part, which the register says was read, or which is of no use.
    pub(super) fn remove(&mut self, key: PartKey) {
        if self.kept.remove(&key).is_some()
            && let Err(error) = fs::remove_file(self.path(key))
        {
            tracing::warn!(%error, "a part of a bundle that was read is still kept");
        }
    }
}

/// A part on its way into the spool. Unless it is finished, nothing of it stays.
#[derive(Debug)]
pub(super) struct Keeping {
    path: PathBuf,
    unfinished: PathBuf,
    file: Option<File>,
    pub(super) bytes: u64,
    bytes_max: u64,
}

impl Keeping {
    /// Adds what came.
    ///
    /// # Errors
    /// The disk does not take it, or more comes than was said.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(format!("it is longer than the {} bytes that were told", self.bytes_max));
        }
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        written.map_err(|error| format!("write {}: {error}", self.unfinished.display()))
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// The disk does not take it.
    pub(super) fn finish(mut self) -> Result<(), String> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let done = file.sync_all().and_then(|()| {
            fs::rename(&self.unfinished, &self.path)?;
            self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        });
        done.map_err(|error| {
            self.file = Some(file);
            format!("keep {}: {error}", self.path.display())
        })
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if self.file.is_some() {
            // The next start removes what is left.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}
