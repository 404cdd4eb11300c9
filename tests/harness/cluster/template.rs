//! One `initdb` per process and kind of cluster; every cluster is a copy of its result, where the
//! binaries allow.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};

use super::{Auth, PASSWORD, SUPERUSER, server_command, tail};
use crate::account::Account;
use crate::postgres_bin::PgBin;
use crate::scratch;

/// Makes `dir/data` a fresh data directory, with a system identifier of its own.
pub(super) fn instantiate(
    bin: &PgBin,
    account: Option<Account>,
    auth: Auth,
    dir: &Path,
) -> anyhow::Result<()> {
    if !bin.program("pg_resetwal").is_file() {
        // A copy would need it to become a cluster of its own.
        return init(bin, account, auth, dir);
    }
    let template = template(bin, account, auth)?;
    let mut copy = Command::new("cp");
    copy.arg("-Rp").arg(template.join("data")).arg(dir).current_dir(dir);
    if let Some(account) = account {
        account.apply(&mut copy);
    }
    run(copy, "cp")?;
    renew_system_identifier(bin, account, dir)
}

fn template(bin: &PgBin, account: Option<Account>, auth: Auth) -> anyhow::Result<PathBuf> {
    type Key = (PathBuf, Auth);
    static TEMPLATES: Mutex<BTreeMap<Key, PathBuf>> = Mutex::new(BTreeMap::new());
    // Held during initdb: two of them at a time would both be slower than one after the other.
    let mut templates = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (bin.dir.clone(), auth);
    if let Some(dir) = templates.get(&key) {
        return Ok(dir.clone());
    }
    let dir = scratch::fresh_dir("template")?;
    if let Some(account) = account {
        account.own(&dir).with_context(|| format!("give away {}", dir.display()))?;
    }
    init(bin, account, auth, &dir)?;
    templates.insert(key, dir.clone());
    Ok(dir)
}

fn init(bin: &PgBin, account: Option<Account>, auth: Auth, dir: &Path) -> anyhow::Result<()> {
    let password = dir.join("password");
    fs::write(&password, PASSWORD).with_context(|| format!("write {}", password.display()))?;
    let method = match auth {
        Auth::Trust => "trust",
        Auth::Scram => "scram-sha-256",
    };
    let mut command = server_command(bin, "initdb", account, dir);
    command.arg("-D").arg(dir.join("data")).arg("--pwfile").arg(&password);
    command.args(["-U", SUPERUSER, "-A", method, "--no-locale", "-E", "UTF8", "--no-sync"]);
    run(command, "initdb")
}

/// Copies of one template would share the identifier by which PostgreSQL, and Landfall, tell two
/// clusters apart. It is the first field of `pg_control`; a control file with a wrong checksum is
/// what `pg_resetwal -f` mends, and then it writes the identifier into the new WAL as well.
fn renew_system_identifier(
    bin: &PgBin,
    account: Option<Account>,
    dir: &Path,
) -> anyhow::Result<()> {
    let mut identifier = [0_u8; 8];
    getrandom::fill(&mut identifier).context("draw a system identifier")?;
    // Some programs read it as a signed number.
    let identifier = u64::from_ne_bytes(identifier) >> 1;
    let control = dir.join("data/global/pg_control");
    OpenOptions::new()
        .write(true)
        .open(&control)
        .and_then(|mut file| file.write_all(&identifier.to_ne_bytes()))
        .with_context(|| format!("write {}", control.display()))?;
    let mut command = server_command(bin, "pg_resetwal", account, dir);
    command.arg("-f").arg("-D").arg(dir.join("data"));
    run(command, "pg_resetwal")
}

fn run(mut command: Command, name: &str) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("start {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} ended with {}:\n{}", output.status, tail(&said, 15));
    Ok(())
}
