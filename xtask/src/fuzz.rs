//! `cargo xtask fuzz`: looks for bytes from outside that break a promise.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use clap::Args;

use crate::cargo;

/// Memory that libFuzzer allows a target, its own included.
const RSS_MB_MAX: u32 = 2_048;
/// How long an input may take, in seconds; sanitizers make everything slower.
const INPUT_SECONDS_MAX: u32 = 20;
/// A folder in memory, on Linux. Some inputs become scratch files, and there those are fast.
const MEMORY_FOLDER: &str = "/dev/shm";

/// What to run, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One kind of input, such as unit; all of them by turns unless told.
    target: Option<String>,
    /// How long.
    #[arg(long, default_value_t = 1, value_name = "N")]
    minutes: u64,
    /// Begins with this dice, to try the same inputs again.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Runs one input, such as a file of fuzz/artifacts.
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<String>,
    /// Writes the seeds that are made by code to fuzz/seeds.
    #[arg(long)]
    write_seeds: bool,
    /// Uses libFuzzer, which sees which code an input reaches. Needs nightly Rust and cargo-fuzz.
    #[arg(long, requires = "target")]
    libfuzzer: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    match &options.target {
        Some(target) if options.libfuzzer => libfuzzer(target, options.minutes),
        _ => stable(options),
    }
}

/// The fuzzer that runs everywhere. It is no part of the workspace, but shares its build folder.
fn stable(options: &Options) -> anyhow::Result<()> {
    let program = ["--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target"];
    let program = ["run", "--locked"].into_iter().chain(program);
    let stable = ["--no-default-features", "--bin", "landfall-fuzz", "--"];
    let mut command = cargo::cargo(program.chain(stable));
    command.args(&options.target);
    command.args(["--minutes", &options.minutes.to_string()]);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(input) = &options.input {
        command.args(["--input", input]);
    }
    if options.write_seeds {
        command.arg("--write-seeds");
    }
    in_memory(&mut command);
    cargo::run("fuzz", command)
}

fn libfuzzer(target: &str, minutes: u64) -> anyhow::Result<()> {
    let nightly = Command::new("rustup").args(["run", "nightly", "rustc", "--version"]).output();
    let nightly = nightly.is_ok_and(|output| output.status.success());
    ensure!(
        nightly && cargo::on_path("cargo-fuzz"),
        "libFuzzer needs nightly Rust and cargo-fuzz; install them with: rustup toolchain install \
         nightly && cargo install cargo-fuzz --locked; without --libfuzzer nothing is needed"
    );
    let mut command = Command::new("rustup");
    command.current_dir(cargo::workspace());
    command.args(["run", "nightly", "cargo", "fuzz", "run", "--fuzz-dir", "fuzz", target]);
    // What is found goes to the first folder.
    command.arg(format!("fuzz/corpus/{target}")).arg(format!("fuzz/seeds/{target}"));
    command.arg("--").arg(format!("-max_total_time={}", minutes * 60));
    command.arg(format!("-rss_limit_mb={RSS_MB_MAX}"));
    command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    in_memory(&mut command);
    let corpus = cargo::workspace().join("fuzz/corpus").join(target);
    std::fs::create_dir_all(corpus)?;
    cargo::run("fuzz with libFuzzer", command)
}

fn in_memory(command: &mut Command) {
    if env::var_os("TMPDIR").is_none() && Path::new(MEMORY_FOLDER).is_dir() {
        command.env("TMPDIR", MEMORY_FOLDER);
    }
}
