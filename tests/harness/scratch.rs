//! The scratch directory of this process, and the reaper that clears up after it.
//!
//! Values clean up in `Drop`; but a test process can also be killed. So the first use starts one
//! small shell that waits for its standard input to close, which the kernel does however we end,
//! and then kills what is registered and removes the directory. It must be a process of its own:
//! nothing inside a killed process runs any more.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use anyhow::{Context, anyhow, bail};

use crate::account;
use crate::processes::Signal;

/// A Unix socket path holds 107 bytes; below the scratch directory we need about 45 of them.
const ROOT_BYTES_MAX: usize = 60;

const REAPER: &str = r#"
trap '' HUP INT TERM
read -r _
for file in "$0"/pids/*; do
    [ -e "$file" ] && kill -s "$(cat "$file")" "${file##*/}"
done
while read -r _ point _; do
    case "$point" in "$0"/*) umount -l "$point" ;; esac
done < /proc/mounts
[ -n "$LANDFALL_KEEP" ] && exit
tries=0
while [ $tries -lt 100 ] && ! rm -rf "$0"; do
    tries=$((tries + 1))
    sleep 0.1
done
"#;

#[derive(Debug)]
struct Scratch {
    root: PathBuf,
    /// Its standard input stays open as long as this process lives.
    _reaper: Child,
}

/// The scratch directory of this process; made on first use.
pub fn root() -> anyhow::Result<&'static Path> {
    static SCRATCH: OnceLock<Result<Scratch, String>> = OnceLock::new();
    match SCRATCH.get_or_init(|| open().map_err(|error| format!("{error:#}"))) {
        Ok(scratch) => Ok(&scratch.root),
        Err(error) => Err(anyhow!("{error}")),
    }
}

/// Whether directories and logs are to be left behind (`LANDFALL_KEEP`).
pub fn keep() -> bool {
    env::var_os("LANDFALL_KEEP").is_some_and(|value| !value.is_empty())
}

/// A new, empty directory for one cluster or daemon. At most twelve letters of `name` appear in it.
pub fn fresh_dir(name: &str) -> anyhow::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let short: String = name.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let dir = root()?.join(format!("{number}-{short}"));
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// Has the reaper send `signal` to `pid` if we end before [`release`] is called.
pub fn guard(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let file = root()?.join("pids").join(pid.to_string());
    fs::write(&file, signal.name()).with_context(|| format!("write {}", file.display()))
}

/// Takes `pid` off the reaper's list. Call it when the process has been waited for, so that the
/// number is never signalled after the system has given it to somebody else.
pub fn release(pid: u32) {
    if let Ok(root) = root() {
        // The file may be missing when guarding failed; there is nothing to take back then.
        let _ = fs::remove_file(root.join("pids").join(pid.to_string()));
    }
}

fn open() -> anyhow::Result<Scratch> {
    let base = base()?;
    let made = tempfile::Builder::new().prefix("landfall-").rand_bytes(8).tempdir_in(&base);
    let root = made.with_context(|| format!("create a directory in {}", base.display()))?.keep();
    // Servers run under another account and must be able to pass through, not to list.
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).context("open up scratch")?;
    fs::create_dir(root.join("pids")).context("create the list of processes")?;
    let reaper = Command::new("sh")
        .args([OsStr::new("-c"), OsStr::new(REAPER), root.as_os_str()])
        .current_dir("/")
        .stdin(Stdio::piped())
        // Holding our standard output open would make `cargo test | …` wait for the reaper.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C goes to our process group; the reaper has its work to do afterwards.
        .process_group(0)
        .spawn()
        .context("start sh as reaper")?;
    Ok(Scratch { root, _reaper: reaper })
}

/// Where to make the scratch directory: short enough for Unix sockets and, when servers run under
/// another account, passable for everybody.
fn base() -> anyhow::Result<PathBuf> {
    let other_account = account::for_servers()?.is_some();
    for candidate in [env::temp_dir(), PathBuf::from("/tmp")] {
        let Ok(candidate) = candidate.canonicalize() else { continue };
        let short = candidate.as_os_str().len() <= ROOT_BYTES_MAX;
        if short && (!other_account || passable(&candidate)) {
            return Ok(candidate);
        }
    }
    bail!("no usable temporary directory: set TMPDIR to a path of at most {ROOT_BYTES_MAX} bytes");
}

fn passable(dir: &Path) -> bool {
    dir.ancestors().all(|part| {
        fs::metadata(part).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
    })
}
