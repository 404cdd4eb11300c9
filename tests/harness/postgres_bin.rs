//! Finding the PostgreSQL server binaries of this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

use anyhow::{Context, bail, ensure};

use crate::account::Account;
use crate::scratch;

/// The oldest major version we support.
pub const OLDEST: u32 = 15;

/// Tests use this version when it is installed: the oldest supported one has the fewest features,
/// so what works there works on the newer ones too.
const PREFERRED: u32 = 15;

/// Folders that packages use, as (folder, prefix of an entry, folder inside the entry).
const PLACES: &[(&str, &str, &str)] = &[
    ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                   // PostgreSQL's own RPMs
    ("/usr/libexec", "postgresql", ""),          // Alpine
    ("/opt/homebrew/opt", "postgresql@", "bin"), // Homebrew on ARM
    ("/usr/local/opt", "postgresql@", "bin"),    // Homebrew on Intel
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A folder with PostgreSQL server binaries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgBin {
    /// The folder that holds `postgres`, `initdb` and the rest.
    pub dir: PathBuf,
    /// Major version, such as 15.
    pub major: u32,
    /// What `postgres --version` says, such as `15.18`.
    pub version: String,
}

impl PgBin {
    /// Finds server binaries of major version `version`, or of any supported one.
    ///
    /// `LANDFALL_PG_BIN` decides when set, unless another version is wished for; otherwise `PATH`
    /// and the folders that packages use are searched, then what `cargo xtask pg --install` put
    /// into [`fetched_dir`]. Without a wish for a version, 15 is taken if it is there, else the
    /// newest.
    pub fn find(version: Option<u32>) -> anyhow::Result<Self> {
        if let Some(dir) = env::var_os("LANDFALL_PG_BIN").filter(|dir| !dir.is_empty()) {
            let named = Self::probe(Path::new(&dir)).context("LANDFALL_PG_BIN is not usable")?;
            if version.is_none_or(|version| version == named.major) {
                ensure!(
                    named.major >= OLDEST,
                    "LANDFALL_PG_BIN names PostgreSQL {}, but needed is PostgreSQL {}",
                    named.version,
                    describe(None),
                );
                return Ok(named);
            }
        }
        match choose(Self::installed(), version).or_else(|| choose(Self::fetched(), version)) {
            Some(found) => Ok(found),
            None => bail!("{}", missing(version)),
        }
    }

    /// Every supported installation of this machine, in the order of the search.
    pub fn installed() -> Vec<Self> {
        // A folder that only links to some of the programs is not where they are installed.
        let mut found = Self::supported(candidates());
        found.retain(|bin| bin.program("pg_resetwal").is_file());
        found
    }

    /// What was fetched for tests across versions.
    pub fn fetched() -> Vec<Self> {
        let Ok(entries) = fetched_dir().and_then(|dir| Ok(fs::read_dir(dir)?)) else {
            return Vec::new();
        };
        Self::supported(entries.flatten().map(|entry| entry.path().join("bin")).collect())
    }

    fn supported(dirs: Vec<PathBuf>) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for dir in dirs {
            if let Ok(bin) = Self::probe(&dir)
                && bin.major >= OLDEST
                && !found.iter().any(|other| other.dir == bin.dir)
            {
                found.push(bin);
            }
        }
        found
    }

    /// These binaries where `account` can run them: fetched ones lie in the workspace, which may be
    /// closed to others, and are then copied into the scratch directory.
    pub(crate) fn within_reach_of(self, account: Option<Account>) -> anyhow::Result<Self> {
        static COPIES: Mutex<BTreeMap<PathBuf, PgBin>> = Mutex::new(BTreeMap::new());
        let Some(account) = account else { return Ok(self) };
        let mut command = Command::new(self.program("postgres"));
        command.arg("--version").current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
        account.apply(&mut command);
        if command.status().is_ok_and(|status| status.success()) {
            return Ok(self);
        }
        let mut copies = COPIES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copies.get(&self.dir) {
            return Ok(copy.clone());
        }
        let whole = self.dir.parent().context("binaries lie in a folder of an installation")?;
        let dir = scratch::fresh_dir("postgresql")?;
        let copied = Command::new("cp").arg("-R").arg(whole.join(".")).arg(&dir).status();
        let copied = copied.context("start cp")?;
        ensure!(copied.success(), "cp of {} ended with {copied}", whole.display());
        let copy = Self { dir: dir.join("bin"), ..self.clone() };
        copies.insert(self.dir, copy.clone());
        Ok(copy)
    }

    /// The path of one of the programs, such as `initdb`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn probe(dir: &Path) -> anyhow::Result<Self> {
        for name in ["postgres", "initdb"] {
            let path = dir.join(name);
            ensure!(path.is_file(), "{} is missing", path.display());
        }
        let output = Command::new(dir.join("postgres")).arg("--version").output();
        let output = output.with_context(|| format!("run postgres in {}", dir.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (major, version) = parse_version(&text)
            .with_context(|| format!("no version in the answer of postgres: {text:?}"))?;
        // PATH often leads to the same binaries by links, and not to all of them: what counts is
        // where they are.
        let server = dir.join("postgres");
        let server = server.canonicalize().with_context(|| format!("resolve {}", dir.display()))?;
        let dir = server.parent().context("a program lies in a folder")?.to_owned();
        ensure!(dir.join("initdb").is_file(), "initdb is not beside {}", server.display());
        Ok(Self { dir, major, version })
    }
}

/// Where `cargo xtask pg --install` puts server binaries that no package manager has, each version
/// in a folder of its own: beside the folder of our own binaries.
pub fn fetched_dir() -> anyhow::Result<PathBuf> {
    let exe = env::current_exe().context("find our own program")?;
    // Programs lie in target/PROFILE, test programs in target/PROFILE/deps.
    let profile = exe.ancestors().skip(1).find(|dir| !dir.ends_with("deps"));
    let target = profile.and_then(Path::parent);
    Ok(target.context("our own program lies in a build folder")?.join("postgresql"))
}

/// What a person should do to get server binaries, one sentence.
pub fn install_hint() -> String {
    format!(
        "install the PostgreSQL server, version {OLDEST} or newer (Debian, Ubuntu: apt-get install \
         postgresql; Fedora: dnf install postgresql-server; Alpine: apk add postgresql; macOS: \
         brew install postgresql@17), or set LANDFALL_PG_BIN to the folder that holds postgres \
         and initdb"
    )
}

fn missing(version: Option<u32>) -> String {
    let fetch = version.map_or(String::new(), |v| format!(", or run cargo xtask pg --install {v}"));
    format!(
        "found no server binaries of PostgreSQL {}: {}{fetch}",
        describe(version),
        install_hint()
    )
}

fn describe(version: Option<u32>) -> String {
    version.map_or_else(|| format!("{OLDEST} or newer"), |version| version.to_string())
}

fn choose(found: Vec<PgBin>, version: Option<u32>) -> Option<PgBin> {
    let wanted = version.unwrap_or(PREFERRED);
    let exact = found.iter().find(|bin| bin.major == wanted).cloned();
    match version {
        Some(_) => exact,
        None => exact.or_else(|| found.into_iter().max_by_key(|bin| bin.major)),
    }
}

fn candidates() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    for (parent, prefix, inside) in PLACES {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        let mut here: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path().join(inside))
            .collect();
        here.sort();
        dirs.append(&mut here);
    }
    dirs.retain(|dir| dir.join("postgres").is_file());
    dirs
}

/// `postgres (PostgreSQL) 15.18 (Debian …)`; beta versions read `19beta1`.
fn parse_version(text: &str) -> Option<(u32, String)> {
    let version = text.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((digits.parse().ok()?, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(major: u32) -> PgBin {
        PgBin { dir: PathBuf::from(major.to_string()), major, version: major.to_string() }
    }

    #[test]
    fn version_line_is_read() {
        let line = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(parse_version(line), Some((15, "15.18".to_owned())));
        assert_eq!(parse_version("postgres (PostgreSQL) 19beta1"), Some((19, "19beta1".into())));
        assert_eq!(parse_version("mysqld 8"), None);
    }

    #[test]
    fn fifteen_is_preferred_and_the_newest_comes_next() {
        assert_eq!(choose(vec![bin(18), bin(15), bin(17)], None), Some(bin(15)));
        assert_eq!(choose(vec![bin(16), bin(18), bin(17)], None), Some(bin(18)));
        assert_eq!(choose(vec![bin(16)], Some(17)), None);
        assert_eq!(choose(vec![bin(16), bin(17)], Some(17)), Some(bin(17)));
    }
}
