//! Looking at and signalling processes that are not direct children of ours, such as the backends
//! of a PostgreSQL server.

use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, io};

use anyhow::{Context, ensure};

/// What we need to know of a running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    pid: u32,
    parent: u32,
    zombie: bool,
    stopped: bool,
}

/// A signal, by the name `kill` knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Die at once; cannot be caught.
    Kill,
    /// Please end; PostgreSQL calls this a smart shutdown.
    Terminate,
    /// Ctrl-C; PostgreSQL's fast shutdown.
    Interrupt,
    /// PostgreSQL's immediate shutdown.
    Quit,
    /// Freeze until [`Signal::Continue`]; cannot be caught.
    Stop,
    /// Thaw after [`Signal::Stop`].
    Continue,
}

impl Signal {
    /// The name without `SIG`, as POSIX `kill -s` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::Quit => "QUIT",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// Sends one signal to many processes as nearly at once as the system allows. A process that is
/// already gone is no error.
pub fn signal(pids: &[u32], signal: Signal) -> anyhow::Result<()> {
    if pids.is_empty() {
        return Ok(());
    }
    // The shell's own kill: the program /bin/kill is missing from small images.
    let status = Command::new("sh")
        .args(["-c", r#"kill -s "$0" "$@" 2>/dev/null || true"#, signal.name()])
        .args(pids.iter().map(u32::to_string))
        .stdin(Stdio::null())
        .status()
        .context("run sh to send a signal")?;
    ensure!(status.success(), "sending {} to {pids:?} ended with {status}", signal.name());
    Ok(())
}

/// The processes whose parent is `parent`.
pub fn children_of(parent: u32) -> anyhow::Result<Vec<u32>> {
    Ok(table()?.into_iter().filter(|e| e.parent == parent).map(|e| e.pid).collect())
}

/// Those of `pids` that still run. A zombie does not: its memory, files and sockets are gone.
pub fn running(pids: &[u32]) -> anyhow::Result<Vec<u32>> {
    let table = table()?;
    Ok(table.iter().filter(|e| !e.zombie && pids.contains(&e.pid)).map(|e| e.pid).collect())
}

/// Whether a process stands still after [`Signal::Stop`].
pub fn is_stopped(pid: u32) -> anyhow::Result<bool> {
    Ok(table()?.iter().any(|e| e.pid == pid && e.stopped))
}

fn table() -> anyhow::Result<Vec<Entry>> {
    if Path::new("/proc/self/stat").exists() {
        return from_proc().context("read the process table from /proc");
    }
    let output = Command::new("ps").args(["-A", "-o", "pid=,ppid=,stat="]).output();
    let output = output.context("run ps, as there is no /proc")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(parse_ps).collect())
}

fn from_proc() -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // The process may end between the listing and the reading.
        if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
            entries.extend(parse_stat(pid, &stat));
        }
    }
    Ok(entries)
}

/// `pid (name) state ppid …`, where the name may itself hold spaces and parentheses.
fn parse_stat(pid: u32, stat: &str) -> Option<Entry> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    Some(entry(pid, fields.next()?.parse().ok()?, state))
}

fn parse_ps(line: &str) -> Option<Entry> {
    let mut fields = line.split_whitespace();
    let pid = fields.next()?.parse().ok()?;
    let parent = fields.next()?.parse().ok()?;
    Some(entry(pid, parent, fields.next()?))
}

fn entry(pid: u32, parent: u32, state: &str) -> Entry {
    Entry { pid, parent, zombie: state.starts_with(['Z', 'X']), stopped: state.starts_with('T') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_line_with_a_hostile_name_is_read() {
        let entry = parse_stat(7, "7 (post) (gres: w) Z 42 7 7 0").expect("a stat line");
        assert_eq!(entry, Entry { pid: 7, parent: 42, zombie: true, stopped: false });
        let asleep = Entry { pid: 7, parent: 42, zombie: false, stopped: false };
        assert_eq!(parse_ps("  7  42 Ss"), Some(asleep));
        assert_eq!(parse_ps("  7  42 T"), Some(Entry { stopped: true, ..asleep }));
    }

    #[test]
    fn we_find_our_own_child_and_see_it_end() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("start cat");
        assert!(children_of(std::process::id()).expect("table").contains(&child.id()));
        assert_eq!(running(&[child.id()]).expect("table"), vec![child.id()]);
        signal(&[child.id()], Signal::Kill).expect("kill");
        child.wait().expect("wait");
        assert!(running(&[child.id()]).expect("table").is_empty());
    }
}
