//! `cargo xtask bench`: builds daemons and benchmarks as they are released, then runs them.

use crate::{cargo, postgres};

/// Runs the named benchmarks, or all, with these further options.
pub(crate) fn run(names: &[String], rounds: u32, options: &[&str]) -> anyhow::Result<()> {
    postgres::ensure()?;
    let daemons = ["-p", "landfall-node", "-p", "landfall-hub"];
    let release = ["build", "--locked", "--release", "-p", "landfall-tests", "--bins"];
    cargo::run("build for release", cargo::cargo(release.into_iter().chain(daemons)))?;
    let program = ["run", "--quiet", "--locked", "--release", "-p", "landfall-tests"];
    let mut command = cargo::cargo(program);
    command.args(["--bin", "landfall-bench", "--", "--rounds", &rounds.to_string()]);
    command.args(options).args(names);
    cargo::run("benchmarks", command)
}
