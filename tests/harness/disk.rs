//! A small file system of its own for a data directory, that can be filled and made to fail.
//!
//! Mounting needs root; [`may_mount`] says whether tests that need it can run.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, bail, ensure};

use crate::scratch;

/// The bytes of a file system and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In memory, of this many bytes.
    Memory(u64),
    /// ext4 in a file, of this many bytes; after an error it only reads.
    Ext4(u64),
}

/// Whether this process may mount; said once, loudly, when not.
pub fn may_mount() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let tried = scratch::fresh_dir("maymount")
            .and_then(|dir| SmallDisk::mount(&dir.join("disk"), Kind::Memory(1 << 20)));
        if let Err(error) = &tried {
            // Not by a macro: what those print is only shown for tests that fail.
            let _ = writeln!(
                std::io::stderr(),
                "NOT RUN: whatever needs a small disk of its own, because mounting is not \
                 permitted here ({error:#}); run these tests as root"
            );
        }
        tried.is_ok()
    })
}

/// A mounted file system; gone when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
    kind: Kind,
}

impl SmallDisk {
    /// Makes an empty file system at the new directory `at`.
    ///
    /// # Errors
    /// It cannot be made or mounted.
    pub fn mount(at: &Path, kind: Kind) -> anyhow::Result<Self> {
        fs::create_dir(at).with_context(|| format!("create {}", at.display()))?;
        let disk = Self { at: at.to_owned(), kind };
        if let Kind::Ext4(bytes) = kind {
            fs::File::create(disk.image())?.set_len(bytes).context("make an image")?;
            run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(disk.image()))?;
        }
        disk.attach()?;
        Ok(disk)
    }

    /// Takes all the room that is left, by a file [`SmallDisk::make_room`] removes.
    pub fn fill(&self) -> anyhow::Result<()> {
        for bytes in [1 << 20, 4096, 1] {
            let chunk = vec![1; bytes];
            let mut filler = self.filler()?;
            while filler.write_all(&chunk).is_ok() {}
        }
        Ok(())
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub fn make_room(&self) -> anyhow::Result<()> {
        fs::remove_file(self.at.join("filler")).context("remove the filler")
    }

    /// Changes the size of a file system in memory.
    pub fn resize(&self, bytes: u64) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(&self.at))
    }

    /// Makes ext4 find an error, upon which it only reads, whoever has files open.
    pub fn break_down(&self) -> anyhow::Result<()> {
        let device = self.device()?;
        let name = device.strip_prefix("/dev/loop").context("only an image of ours may break")?;
        fs::write(format!("/sys/fs/ext4/loop{name}/trigger_fs_error"), "landfall test")
            .context("trigger an error")
    }

    /// Repairs ext4 after [`SmallDisk::break_down`] and mounts it again; nobody may have it open.
    pub fn repair(&self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(&self.at))?;
        // 1: it had errors, and they are put right.
        let checked = Command::new("fsck.ext4").args(["-f", "-y"]).arg(self.image()).output()?;
        ensure!(matches!(checked.status.code(), Some(0 | 1)), "fsck.ext4: {checked:?}");
        self.attach()
    }

    fn attach(&self) -> anyhow::Result<()> {
        let mut mount = Command::new("mount");
        match self.kind {
            Kind::Memory(bytes) => {
                let options = format!("size={bytes},mode=0700");
                mount.args(["-t", "tmpfs", "-o", &options, "landfall-test"])
            }
            Kind::Ext4(_) => mount.args(["-o", "loop,errors=remount-ro"]).arg(self.image()),
        };
        run(mount.arg(&self.at))
    }

    fn image(&self) -> PathBuf {
        self.at.with_extension("image")
    }

    fn filler(&self) -> anyhow::Result<fs::File> {
        let path = self.at.join("filler");
        let file = fs::File::options().create(true).append(true).open(path);
        file.context("open the filler")
    }

    fn device(&self) -> anyhow::Result<String> {
        let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
        let at = self.at.to_string_lossy();
        let device = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let device = words.next()?;
            (words.next()? == at).then(|| device.to_owned())
        });
        device.with_context(|| format!("{at} is not mounted"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.device().is_err() {
            return;
        }
        // Lazily: a daemon that is being killed may still have files open.
        if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.at)) {
            eprintln!("a file system is left behind: {error:#}");
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
