//! Finding the PostgreSQL server, or installing it with the system's package manager.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use landfall_tests::account;
use landfall_tests::postgres_bin::{OLDEST, PgBin, install_hint};

use crate::cargo::{on_path, run};

mod fetch;

pub(crate) use fetch::fetch;

/// Debian starts a cluster of its own, under port 5432, whenever a server is installed for the
/// first time. Nobody asked for one, so this file is there during the installation.
const NO_MAIN_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/landfall.conf";

/// A way to install the server.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    needs_root: bool,
    commands: &'static [&'static [&'static str]],
}

/// Package managers by the program that drives them, in the order in which we look.
const PLANS: &[(&str, Plan)] = &[
    (
        "apt-get",
        Plan {
            needs_root: true,
            commands: &[
                &["apt-get", "update"],
                &["apt-get", "install", "-y", "--no-install-recommends", "postgresql"],
            ],
        },
    ),
    ("dnf", Plan { needs_root: true, commands: &[&["dnf", "install", "-y", "postgresql-server"]] }),
    ("apk", Plan { needs_root: true, commands: &[&["apk", "add", "postgresql"]] }),
    ("brew", Plan { needs_root: false, commands: &[&["brew", "install", "postgresql@17"]] }),
];

/// The PostgreSQL to use; installs one if there is none and we may.
pub(crate) fn ensure() -> anyhow::Result<PgBin> {
    let missing = match PgBin::find(None) {
        Ok(bin) => return Ok(bin),
        // Somebody named binaries that do not work: installing others is not what they want.
        Err(error) if std::env::var_os("LANDFALL_PG_BIN").is_some() => return Err(error),
        Err(error) => error,
    };
    eprintln!("=== {missing:#}");
    let root = account::is_root()?;
    let Some(plan) = choose(on_path) else {
        bail!("found no package manager we know: {}", install_hint());
    };
    let lines: Vec<String> = plan.commands.iter().map(|words| words.join(" ")).collect();
    if plan.needs_root && !root {
        let lines: Vec<String> = lines.iter().map(|line| format!("  sudo {line}")).collect();
        bail!(
            "PostgreSQL must be installed by root; run this, then try again:\n{}",
            lines.join("\n")
        );
    }
    if !plan.needs_root && root {
        bail!("run this as an ordinary user, then try again:\n  {}", lines.join("\n  "));
    }
    install(plan)?;
    PgBin::find(None).with_context(|| {
        format!(
            "the system's packages do not hold PostgreSQL {OLDEST} or newer; see \
             https://www.postgresql.org/download/ for packages that do"
        )
    })
}

/// `cargo xtask pg`.
pub(crate) fn report(install: Option<Option<u32>>) -> anyhow::Result<()> {
    let bin = match install {
        Some(Some(major)) => fetch(major)?,
        Some(None) => ensure()?,
        None => PgBin::find(None)?,
    };
    println!("PostgreSQL {} in {}", bin.version, bin.dir.display());
    let others = PgBin::installed().into_iter().chain(PgBin::fetched());
    for other in others.filter(|other| other.dir != bin.dir) {
        println!("also there: PostgreSQL {} in {}", other.version, other.dir.display());
    }
    if account::is_root()? {
        let account = account::for_servers()?;
        println!("we are root, servers run under {account:?}");
    }
    Ok(())
}

fn choose(has: impl Fn(&str) -> bool) -> Option<&'static Plan> {
    PLANS.iter().find(|(program, _)| has(program)).map(|(_, plan)| plan)
}

fn install(plan: &Plan) -> anyhow::Result<()> {
    without_main_cluster(plan.commands[0][0], || {
        // Only the last one must succeed: a stale list of packages is often good enough.
        let mut done = Ok(());
        for words in plan.commands {
            done = run_installer(words);
            if let Err(error) = &done {
                eprintln!("=== {error:#}");
            }
        }
        done
    })
}

fn run_installer(words: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
    run(&words.join(" "), command)
}

/// Runs an installation; under Debian's package manager, with [`NO_MAIN_CLUSTER`] in place.
fn without_main_cluster(
    manager: &str,
    install: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let guard = Path::new(NO_MAIN_CLUSTER);
    let debian = manager == "apt-get";
    if debian {
        let folder = guard.parent().context("the guard file has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(guard, "create_main_cluster = false\n")
            .with_context(|| format!("write {}", guard.display()))?;
    }
    let done = install();
    if debian {
        fs::remove_file(guard).with_context(|| format!("remove {}", guard.display()))?;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_package_manager_there_is_gets_chosen() {
        let plan = choose(|program| program == "apk" || program == "brew").expect("a plan");
        assert_eq!(plan.commands, [["apk", "add", "postgresql"].as_slice()]);
        assert_eq!(choose(|_| false), None);
    }
}
