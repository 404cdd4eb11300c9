//! `cargo xtask test` and `cargo xtask ci`.

use std::process::Command;

use anyhow::bail;

use crate::cargo::{TEST_FEATURES, build_daemons, cargo, now, on_path, run, seconds, test_targets};
use crate::postgres;

/// The test target that needs PostgreSQL and the daemons, and takes longest.
pub(crate) const END_TO_END: &str = "e2e";

/// The test target that needs the engine built for simulation.
const SIMULATION: &str = "sim";

/// The version beside the usual one in tests across versions: the newest we support.
const ACROSS: u32 = 18;

/// Everything there is to test, end-to-end tests last. `extra` is handed to each test program.
pub(crate) fn test(extra: &[String]) -> anyhow::Result<()> {
    let began = now();
    let postgres = postgres::ensure()?;
    eprintln!("=== PostgreSQL {} in {}", postgres.version, postgres.dir.display());
    let across = postgres::fetch(ACROSS);
    match &across {
        Ok(bin) => eprintln!("=== PostgreSQL {} in {}", bin.version, bin.dir.display()),
        Err(error) => eprintln!("\n=== {error:#}"),
    }
    build_daemons()?;
    // A mistake that does not compile is reported once, here.
    run("build the tests", workspace_tests(["--no-run"]))?;

    let targets = test_targets()?;
    let others = targets.iter().filter(|name| ![END_TO_END, SIMULATION].contains(&name.as_str()));
    let others: Vec<&str> = others.flat_map(|name| ["--test", name.as_str()]).collect();
    let quick = ["--no-fail-fast", "--lib", "--bins", "--examples"].into_iter().chain(others);
    // All but the simulation select the whole workspace: then cargo builds the same thing for them.
    let steps = [
        ("unit, property and tidy tests", workspace_tests(quick)),
        ("doc tests", workspace_tests(["--no-fail-fast", "--doc"])),
        ("simulation", simulation()),
        ("end-to-end tests", workspace_tests(["--test", END_TO_END])),
    ];
    let mut failed = Vec::new();
    for (what, mut command) in steps {
        command.arg("--").args(extra);
        if let Err(error) = run(what, command) {
            eprintln!("=== {error:#}");
            failed.push(what);
        }
    }
    if !failed.is_empty() {
        bail!("failed after {}: {}", seconds(began), failed.join(", "));
    }
    eprintln!("\n=== all tests passed in {}", seconds(began));
    if let Err(error) = across {
        eprintln!("=== BUT TESTS ACROSS VERSIONS WERE SKIPPED: {error:#}");
    }
    Ok(())
}

/// What must pass before a push, cheapest first; what needs a network of its own comes last, so
/// that it hides nothing when there is none.
pub(crate) fn ci() -> anyhow::Result<()> {
    let began = now();
    run("formatting", cargo(["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--locked", "--workspace", "--all-targets"];
    let deny_warnings = ["--", "-D", "warnings"];
    run("lints", cargo(clippy.into_iter().chain(deny_warnings)))?;
    let planted = clippy.into_iter().chain(TEST_FEATURES).chain(deny_warnings);
    run("lints of the test build", cargo(planted))?;
    let fuzzers = ["--manifest-path", "fuzz/Cargo.toml"];
    run("formatting of the fuzzers", cargo(["fmt", "--check"].into_iter().chain(fuzzers)))?;
    let lints = ["clippy", "--locked", "--target-dir", "target", "--no-default-features"];
    let lints = lints.into_iter().chain(fuzzers).chain(deny_warnings);
    run("lints of the fuzzers", cargo(lints))?;
    let simulation = ["clippy", "--locked", "-p", "landfall-tests", "--features", "simulation"];
    let simulation = simulation.into_iter().chain(["--all-targets"]).chain(deny_warnings);
    run("lints of the simulation", cargo(simulation))?;
    let mut doc = cargo(["doc", "--locked", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run("documentation", doc)?;
    let deny = on_path("cargo-deny");
    if deny {
        let checks = ["deny", "check", "bans", "licenses", "sources"];
        run("licences, bans and sources", cargo(checks))?;
    }
    test(&[])?;
    if deny {
        run("advisories", cargo(["deny", "check", "advisories"]))?;
    } else {
        eprintln!(
            "\n=== dependencies: NOT CHECKED, as cargo-deny is not installed\n    install it with: \
             cargo install cargo-deny --locked"
        );
    }
    eprintln!("\n=== ci passed in {}", seconds(began));
    Ok(())
}

fn simulation() -> Command {
    let package = ["test", "--locked", "-p", "landfall-tests", "--features", "simulation"];
    cargo(package.into_iter().chain(["--no-fail-fast", "--lib", "--test", SIMULATION]))
}

/// Runs tests of the whole workspace, in the build that all tests share.
pub(crate) fn workspace_tests<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let all = ["test", "--locked", "--workspace"].into_iter().chain(TEST_FEATURES);
    cargo(all.chain(args))
}
