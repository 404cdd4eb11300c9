//! Copies of a cluster: to be set back to, or to stand by.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, ensure};

use super::{Cluster, SUPERUSER, Server, or_panic, server_command, tail};
use crate::account;
use crate::scratch;

/// The files of a cluster at a moment when it was down.
#[derive(Debug)]
pub struct Backup {
    dir: PathBuf,
}

impl Cluster {
    /// Stops the server, copies its files, and starts it again.
    ///
    /// # Panics
    /// When any of that fails.
    #[track_caller]
    pub fn back_up(&self, name: &str) -> Backup {
        let backup = Backup { dir: self.dir.join(name) };
        self.stop_fast();
        or_panic(self.copy(self.data_dir(), &backup.dir));
        self.restart();
        backup
    }

    /// Replaces the files by those of a backup and starts the server, after a kill if it is up.
    ///
    /// # Panics
    /// When any of that fails.
    #[track_caller]
    pub fn restore(&self, backup: &Backup) {
        self.kill9();
        or_panic(fs::remove_dir_all(self.data_dir()).context("remove the data directory"));
        or_panic(self.copy(backup.dir.clone(), &self.data_dir()));
        // The backup has the settings, and with them the port, of its time, which are the same.
        self.restart();
    }

    /// Makes a standby that streams from this server.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn standby(&self, name: &str) -> Self {
        or_panic(self.try_standby(name).with_context(|| format!("make standby {name}")))
    }

    fn try_standby(&self, name: &str) -> anyhow::Result<Self> {
        let account = account::for_servers()?;
        let dir = scratch::fresh_dir(name)?;
        if let Some(account) = account {
            account.own(&dir).with_context(|| format!("give away {}", dir.display()))?;
        }
        let mut command = server_command(&self.bin, "pg_basebackup", account, &dir);
        command.args(["-h", "127.0.0.1", "-U", SUPERUSER, "-R", "-c", "fast", "-X", "stream"]);
        command.arg("-p").arg(self.port.to_string()).arg("-D").arg(dir.join("data"));
        let output = command.output().context("start pg_basebackup")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pg_basebackup failed:\n{}", tail(&said, 15));
        let mut standby = Self {
            name: name.to_owned(),
            dir,
            bin: self.bin.clone(),
            account,
            auth: self.auth,
            port: 0,
            inside: None,
            server: Mutex::new(Server { postmaster: None }),
        };
        let sockets = standby.dir.display().to_string();
        standby.try_configure(&[("unix_socket_directories", &sockets), ("cluster_name", name)])?;
        standby.start_on_a_free_port()?;
        Ok(standby)
    }

    /// Makes a standby a primary, on a new timeline.
    ///
    /// # Panics
    /// When it does not become one.
    #[track_caller]
    pub fn promote(&self) {
        let promoted = self.query_value("postgres", "SELECT pg_promote(true, 60)");
        assert_eq!(promoted.as_deref(), Some("t"), "{} was not promoted", self.name);
    }

    /// Loads what `pg_dump` says of the same database of another cluster.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn load_dump_of(&self, other: &Self, db: &str) {
        let dump = self.dir.join("dump.sql");
        let run = |program: &str, from: &Self, flag: &str| -> anyhow::Result<()> {
            let mut command = server_command(&self.bin, program, self.account, &self.dir);
            command.args(["-d", &from.conninfo(db), flag]).arg(&dump);
            let output = command.output().with_context(|| format!("start {program}"))?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{program} failed:\n{}", tail(&said, 15));
            Ok(())
        };
        or_panic(run("pg_dump", other, "-f").and_then(|()| run("psql", self, "-f")));
    }

    fn copy(&self, from: PathBuf, to: &PathBuf) -> anyhow::Result<()> {
        let mut command = std::process::Command::new("cp");
        command.arg("-Rp").arg(from).arg(to).current_dir(&self.dir);
        if let Some(account) = self.account {
            account.apply(&mut command);
        }
        ensure!(command.status().context("start cp")?.success(), "cp failed");
        Ok(())
    }
}
