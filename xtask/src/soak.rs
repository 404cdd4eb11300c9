//! `cargo xtask soak`: builds daemons as they are released, then lets a fleet of them go through
//! whatever can happen to one; or goes through all steps at which one can be struck.

use crate::{cargo, checks, postgres};

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

/// Strikes at every so many steps of a round; with daemons of the test build, for only those can be
/// struck.
pub(crate) fn crashes(every: u64, seed: Option<u64>) -> anyhow::Result<()> {
    postgres::ensure()?;
    cargo::build_daemons()?;
    let mut command = checks::workspace_tests(["--test", checks::END_TO_END]);
    command.args(["--", "crashes::", "--nocapture"]);
    command.env("LANDFALL_CRASHES", every.to_string());
    if let Some(seed) = seed {
        command.env("LANDFALL_SEED", seed.to_string());
    }
    cargo::run("crashes", command)
}
