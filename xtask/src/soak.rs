//! `cargo xtask soak`: builds daemons as they are released, then lets a fleet of them go through
//! whatever can happen to one.

use crate::{cargo, postgres};

/// Runs for about so many minutes.
pub(crate) fn run(minutes: f64, seed: Option<u64>, profiles: &[String]) -> anyhow::Result<()> {
    postgres::ensure()?;
    let mut command = cargo::released("landfall-soak")?;
    command.args(["--minutes", &minutes.to_string()]);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    for profile in profiles {
        command.args(["--profile", profile]);
    }
    cargo::run("soak", command)
}
