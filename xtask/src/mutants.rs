//! `cargo xtask mutants`: the simulator must find every mistake that is planted.

use std::process::Command;

use anyhow::bail;

use crate::cargo::{cargo, run};

/// Rules that the simulator must miss, each within [`SEEDS_MAX`] runs.
const RULES: [&str; 37] = [
    "no-barrier",
    "no-causal-order",
    "no-chain-check",
    "compaction-across-vectors",
    "split-compacted",
    "no-repair",
    "torn-fold",
    "progress-outside",
    "volatile-clock",
    "confirm-before-sync",
    "send-before-sync",
    "ack-before-sync",
    "early-horizon",
    "stale-clocks",
    "tombstone-forgets",
    "arrival-order",
    "tie-break",
    "unsynced",
    "naked-deltas",
    "loose-groups",
    "lost-conflict",
    "no-checksum",
    "equal-lengths",
    "remove-wins",
    "whole-texts",
    "last-extreme",
    "unseen-removal",
    "no-update-wins",
    "no-restrict",
    "no-cascade",
    "no-set-null",
    "unlocked-parents",
    "youngest-claim",
    "no-return",
    "unlisted-aside",
    "rest-alone",
    "resume-unchecked",
];

/// More seeds must not be needed: their short runs, and if those show nothing, their full ones.
const SEEDS_MAX: u64 = 2_000;

/// With nothing planted, so many short runs are made for each full one, which takes as long as they.
const SHORT_FOR_EACH_FULL: u64 = 10;

/// Our own crates are worth optimising for thousands of runs; dependencies are already.
const OPTIMISED: [&str; 4] = [
    "--config",
    "profile.dev.package.landfall-engine.opt-level=2",
    "--config",
    "profile.dev.package.landfall-tests.opt-level=2",
];

/// The simulator, to be told what to run.
fn simulator() -> Command {
    let package = ["run", "--locked", "--quiet", "-p", "landfall-tests"];
    let binary = ["--features", "simulation", "--bin", "landfall-sim", "--"];
    cargo(package.into_iter().chain(OPTIMISED).chain(binary))
}

/// Plants each mistake in turn.
pub(crate) fn plant(first_seed: u64) -> anyhow::Result<()> {
    let (runs, first) = (SEEDS_MAX.to_string(), first_seed.to_string());
    let mut missed = Vec::new();
    for rule in RULES {
        let mut command = simulator();
        command.args(["--runs", &runs, "--first-seed", &first, "--length", "mixed"]);
        command.args(["--plant", rule, "--must-fail", "yes"]);
        if run(rule, command).is_err() {
            missed.push(rule);
        }
    }
    if !missed.is_empty() {
        bail!("not noticed within {SEEDS_MAX} seeds: {}", missed.join(", "));
    }
    Ok(())
}

/// Runs the short runs of many seeds with nothing planted, and the full ones of some.
pub(crate) fn clean(runs: u64, first_seed: u64) -> anyhow::Result<()> {
    let first = first_seed.to_string();
    for (length, runs) in [("short", runs), ("full", runs.div_ceil(SHORT_FOR_EACH_FULL))] {
        let mut command = simulator();
        command.args(["--runs", &runs.to_string(), "--first-seed", &first, "--length", length]);
        run(&format!("{length} runs"), command)?;
    }
    Ok(())
}
