//! `cargo xtask soak`: five sites and a hub as real processes, on links as people have them, under a
//! random workload and random mishaps.
//!
//! It works in epochs. In each, applications write everywhere while daemons and servers are killed
//! or frozen, links are cut or turned bad, and now and then a database is restored from a backup.
//! Then everything is healed, the applications stop, and all sites must come to show the same rows,
//! with everything that was acknowledged. What it is about to do it prints, so that a failure can be
//! told; the same seed draws the same mishaps, though not the same timing.

mod book;
mod mishap;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use landfall_tests::dice::Dice;
use landfall_tests::fleet::Fleet;
use landfall_tests::relay::Profile;

use book::Book;
use mishap::Mishaps;

/// The sites; each has two applications.
pub(crate) const SITES: [&str; 5] = ["ship-1", "ship-2", "ship-3", "clinic", "store"];
/// Relays for all of them.
pub(crate) const HUB: &str = "shore";
/// Writing and mishaps of an epoch, before everything is healed.
const STORM: Duration = Duration::from_secs(60);
/// How long converging may take once everything is healed. Backlogs of a minute cross loopback.
const CONVERGE: Duration = Duration::from_secs(240);

/// How much of each daemon's log is shown after a failure.
const LOG_LINES: usize = 30;

/// What was asked for on the command line.
#[derive(Debug)]
struct Plan {
    time: Duration,
    dice: Dice,
    profiles: Vec<(String, Profile)>,
}

fn main() -> ExitCode {
    let outcome = parse(std::env::args().skip(1)).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landfall-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Plan> {
    let mut time = Duration::from_secs(600);
    let (mut dice, mut profiles) = (None, Vec::new());
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--minutes" => {
                let minutes: f64 = value.parse().with_context(|| format!("--minutes {value}"))?;
                time = Duration::try_from_secs_f64(minutes * 60.0).context("--minutes")?;
            }
            "--seed" => {
                let seed = value.parse().with_context(|| format!("--seed {value}"))?;
                println!("seed {seed}");
                dice = Some(Dice::new(seed));
            }
            "--profile" => profiles.push((value.clone(), Profile::named(&value)?)),
            other => bail!("unknown option {other}; there are --minutes, --seed, --profile"),
        }
    }
    if profiles.is_empty() {
        profiles = Profile::all()?;
    }
    Ok(Plan { time, dice: dice.unwrap_or_else(Dice::from_env), profiles })
}

fn run(plan: Plan) -> anyhow::Result<()> {
    let Plan { time, mut dice, profiles } = plan;
    let began = Instant::now();
    let mut fleet = workload::fleet()?;
    let book = Arc::new(Book::default());
    let mut mishaps = Mishaps::new(profiles);
    let mut epochs = 0;
    let mut outcome = Ok(());
    while outcome.is_ok() && (epochs == 0 || began.elapsed() < time) {
        epochs += 1;
        println!("== epoch {epochs}, after {} s", began.elapsed().as_secs());
        outcome = epoch(&mut fleet, &book, &mut mishaps, &mut dice);
    }
    print!("{}", book.report(began.elapsed(), &mishaps));
    if outcome.is_err() {
        tell_logs(&fleet);
    }
    outcome
}

/// A storm, the calm after it, and what must be so then.
fn epoch(
    fleet: &mut Fleet,
    book: &Arc<Book>,
    mishaps: &mut Mishaps,
    dice: &mut Dice,
) -> anyhow::Result<()> {
    let backup = mishaps.back_up(fleet, dice);
    let applications = workload::start(fleet, book, dice);
    // Applications go on until everything stands again, so that they meet each daemon's return.
    let healed = mishaps.rage(fleet, dice, STORM).and_then(|()| mishaps.heal(fleet));
    drop(applications);
    healed?;
    converge(fleet, book)?;
    if let Some(backup) = backup {
        mishaps.restore(fleet, &backup)?;
        converge(fleet, book)?;
    }
    Ok(())
}

fn converge(fleet: &Fleet, book: &Book) -> anyhow::Result<()> {
    let calm = Instant::now();
    let rows = fleet.try_converge(CONVERGE)?;
    let took = calm.elapsed();
    book.check(fleet)?;
    println!("   {rows} rows equal everywhere after {took:.1?}");
    book.note_calm(took, rows);
    Ok(())
}

fn tell_logs(fleet: &Fleet) {
    for name in SITES.iter().chain([&HUB]) {
        let log = fleet.member(name).daemon().log();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("--- end of the log of {name}");
        let end = lines.len().saturating_sub(LOG_LINES);
        lines[end..].iter().for_each(|line| eprintln!("{line}"));
    }
}
