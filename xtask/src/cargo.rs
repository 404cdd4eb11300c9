//! Running cargo, step by step, with progress and times.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use serde_json::Value;

/// Test builds of the daemons let tests switch off single rules of the core, to see that a test
/// notices. The flag goes with every build and test, so that nothing is built twice.
pub(crate) const TEST_FEATURES: [&str; 2] = ["--features", "landfall-node/planted-bugs"];

/// The folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A cargo command in the workspace; the same cargo that started us.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace());
    // What `cargo run` told us about this crate. Build scripts look at it (ring's does), so handing
    // it on would build half of the dependencies anew at every change between cargo and xtask.
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_") {
            command.env_remove(key);
        }
    }
    command
}

/// Builds the daemons as the tests and the demo want them.
pub(crate) fn build_daemons() -> anyhow::Result<()> {
    let packages = ["build", "--locked", "-p", "landfall-node", "-p", "landfall-hub"];
    run("build the daemons", cargo(packages.into_iter().chain(TEST_FEATURES)))
}

/// Builds the daemons, and a program of the tests, as they are released; gives the command that runs
/// the program.
pub(crate) fn released(program: &str) -> anyhow::Result<Command> {
    let release = ["--locked", "--release", "-p", "landfall-tests"];
    let daemons = ["--bins", "-p", "landfall-node", "-p", "landfall-hub"];
    run("build for release", cargo(["build"].into_iter().chain(release).chain(daemons)))?;
    let mut command = cargo(["run", "--quiet"].into_iter().chain(release));
    command.args(["--bin", program, "--"]);
    Ok(command)
}

/// Runs one step with its output visible.
pub(crate) fn run(what: &str, mut command: Command) -> anyhow::Result<()> {
    eprintln!("\n=== {what}");
    let began = now();
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("start {:?}", command.get_program()))?;
    ensure!(status.success(), "{what}: failed after {}", seconds(began));
    eprintln!("=== {what}: done in {}", seconds(began));
    Ok(())
}

/// Names of the test targets of the workspace that are files of their own.
pub(crate) fn test_targets() -> anyhow::Result<Vec<String>> {
    let mut command = cargo(["metadata", "--no-deps", "--format-version", "1", "--locked"]);
    let output = command.stderr(Stdio::inherit()).output().context("run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata ended with {}", output.status);
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let packages = list(&metadata, "packages")?;
    let mut names = Vec::new();
    for package in packages {
        for target in list(package, "targets")? {
            if list(target, "kind")?.iter().any(|kind| kind == "test")
                && let Some(name) = target["name"].as_str()
            {
                names.push(name.to_owned());
            }
        }
    }
    Ok(names)
}

fn list<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a Vec<Value>> {
    value[key].as_array().ok_or_else(|| anyhow!("cargo metadata has no list {key}"))
}

/// Whether `program` is on the PATH.
pub(crate) fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[expect(clippy::disallowed_methods, reason = "only to tell a developer how long a step took")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time since `began`, for people.
pub(crate) fn seconds(began: Instant) -> String {
    let elapsed: Duration = now().duration_since(began);
    format!("{:.1} s", elapsed.as_secs_f64())
}
