//! `cargo xtask bench`: what Landfall costs, beside what PostgreSQL's own tools cost in the same
//! minutes on the same machine.
//!
//! A program, not a test: it asserts nothing about speed. Every figure is taken in pairs, reference
//! and ours in turn, and told as the median of the ratios, because an absolute time says more about
//! the neighbours of a virtual machine than about us.

mod application;
mod capture;
mod catchup;
mod cpu;
mod figure;
mod lag;
mod links;
mod merge;
mod native;
mod report;
mod workload;

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use figure::Figure;

/// What was asked for on the command line.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    names: Vec<String>,
    rounds: usize,
    scale: Scale,
    write: bool,
    /// Links to look at; all unless told.
    profiles: Vec<String>,
}

/// How large the workloads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Full,
    /// A twentieth, to see that everything runs.
    Quick,
}

impl Scale {
    /// A number of rows or transactions at this scale.
    pub(crate) fn count(self, full: u64) -> u64 {
        match self {
            Self::Full => full,
            Self::Quick => full / 20,
        }
    }
}

/// One benchmark by name.
type Bench = (&'static str, fn(&Plan) -> anyhow::Result<Vec<Figure>>);

const BENCHES: &[Bench] = &[
    ("capture", capture::run),
    ("updates", catchup::updates),
    ("inserts", catchup::inserts),
    ("lag", lag::run),
    ("application", application::run),
    ("merge", merge::run),
    ("links-bytes", links::bytes::run),
    ("links-compaction", links::compaction::run),
    ("links-drain", links::drain::run),
    ("links-native", links::native::run),
    ("links-outage", links::outage::run),
    ("links-urgent", links::urgent::run),
];

fn main() -> ExitCode {
    let outcome = parse(std::env::args().skip(1)).and_then(|plan| run(&plan));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landfall-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: impl Iterator<Item = String>) -> anyhow::Result<Plan> {
    let mut plan = Plan {
        names: Vec::new(),
        rounds: 3,
        scale: Scale::Full,
        write: false,
        profiles: Vec::new(),
    };
    let mut args = args;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => plan.scale = Scale::Quick,
            "--write" => plan.write = true,
            "--rounds" => {
                let number = args.next().context("--rounds needs a number")?;
                plan.rounds = number.parse().with_context(|| format!("--rounds {number}"))?;
            }
            "--profile" => plan.profiles.push(args.next().context("--profile needs a name")?),
            name if BENCHES.iter().any(|(known, _)| is_meant(known, name)) => {
                plan.names.push(name.to_owned());
            }
            other => bail!("unknown benchmark or option {other}; there are {}", names().join(", ")),
        }
    }
    anyhow::ensure!(plan.rounds > 0, "--rounds must be at least 1");
    Ok(plan)
}

fn names() -> Vec<&'static str> {
    BENCHES.iter().map(|(name, _)| *name).collect()
}

/// Whether a benchmark was asked for by its name or by the first word of it.
fn is_meant(known: &str, asked: &str) -> bool {
    known == asked || known.split_once('-').is_some_and(|(group, _)| group == asked)
}

fn run(plan: &Plan) -> anyhow::Result<()> {
    let mut figures = Vec::new();
    for (name, bench) in BENCHES {
        if plan.names.is_empty() || plan.names.iter().any(|asked| is_meant(name, asked)) {
            println!("== {name}");
            let found = bench(plan).with_context(|| format!("benchmark {name}"))?;
            print!("{}", figure::table(&found));
            figures.extend(found);
        }
    }
    if plan.write {
        report::write(plan, &figures)?;
    }
    Ok(())
}
