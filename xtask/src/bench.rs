//! `cargo xtask bench`: builds daemons and benchmarks as they are released, then runs them.

use crate::{cargo, postgres};

/// Runs the named benchmarks, or all, with these further options.
pub(crate) fn run(names: &[String], rounds: u32, options: &[&str]) -> anyhow::Result<()> {
    postgres::ensure()?;
    let mut command = cargo::released("landfall-bench")?;
    command.args(["--rounds", &rounds.to_string()]);
    command.args(options).args(names);
    cargo::run("benchmarks", command)
}
