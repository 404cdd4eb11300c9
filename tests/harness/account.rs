//! The operating-system account under which servers run: PostgreSQL refuses to run as root.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::{fs, io};

use anyhow::{Context, bail};

/// An account of this machine, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// Makes `command` run as this account, without root's supplementary groups.
    pub fn apply(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// The numbers, (user, group), as other programs take them.
    pub fn numbers(self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Gives `path` to this account.
    pub fn own(self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }
}

/// The account to drop to: `postgres` if it exists, else `nobody`; `None` when we are not root and
/// servers can simply run as ourselves.
pub fn for_servers() -> anyhow::Result<Option<Account>> {
    if !is_root()? {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    for name in ["postgres", "nobody"] {
        if let Some(account) = find(&passwd, name) {
            return Ok(Some(account));
        }
    }
    bail!("we run as root, and there is neither an account postgres nor nobody to drop to");
}

/// Whether this process runs as root.
pub fn is_root() -> anyhow::Result<bool> {
    static ROOT: OnceLock<bool> = OnceLock::new();
    if let Some(root) = ROOT.get() {
        return Ok(*root);
    }
    let output = Command::new("id").arg("-u").output().context("run id -u")?;
    let root = String::from_utf8_lossy(&output.stdout).trim() == "0";
    Ok(*ROOT.get_or_init(|| root))
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_read_by_whole_name() {
        let passwd = "postgres2:x:7:8::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(find(passwd, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(find(passwd, "nobody"), None);
    }
}
