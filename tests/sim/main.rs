//! `landfall-sim`: runs many seeds, or shows one.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, bail};
use landfall_engine::config::{LogConfig, LogFormat};
use landfall_engine::telemetry;
use landfall_tests::sim::{self, Length, Options, Trace};

/// What the command line says.
struct Orders {
    runs: u64,
    first_seed: u64,
    /// One seed, to be shown.
    seed: Option<u64>,
    planted: Vec<String>,
    threads: u64,
    /// Which runs of each seed, one kind after the other.
    lengths: Vec<Length>,
    /// A mistake is planted: no failure is the failure.
    must_fail: bool,
    /// Nothing goes wrong but what is planted.
    calm: bool,
    /// As seeds were before some of them had realms.
    before_realms: bool,
}

impl Orders {
    fn options(&self, length: Length, seed: u64) -> Options {
        let options = match self.before_realms {
            true => Options::before_realms(length, seed, &self.planted),
            false => Options::of(length, seed, &self.planted),
        };
        if self.calm { options.calm() } else { options }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let orders = read(std::env::args().skip(1))?;
    if let Some(seed) = orders.seed {
        return Ok(show(orders.options(orders.lengths[0], seed)));
    }
    let failed = orders.lengths.iter().any(|length| run_many(&orders, *length).is_some());
    Ok(if failed == orders.must_fail { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(mut args: impl Iterator<Item = String>) -> anyhow::Result<Orders> {
    let (runs, first_seed, threads) = (1_000, 1, 2);
    let (seed, planted, lengths) = (None, Vec::new(), vec![Length::Full]);
    let mut orders = Orders {
        runs,
        first_seed,
        seed,
        planted,
        threads,
        lengths,
        must_fail: false,
        calm: false,
        before_realms: false,
    };
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} wants a value"))?;
        let number = || value.parse::<u64>().with_context(|| format!("{arg} {value}"));
        match arg.as_str() {
            "--runs" => orders.runs = number()?,
            "--first-seed" => orders.first_seed = number()?,
            "--seed" => orders.seed = Some(number()?),
            "--threads" => orders.threads = number()?.max(1),
            "--plant" => orders.planted.push(value),
            "--length" => {
                orders.lengths = match value.as_str() {
                    "short" => vec![Length::Short],
                    "full" => vec![Length::Full],
                    "mixed" => vec![Length::Short, Length::Full],
                    _ => bail!("--length is short, full or mixed"),
                }
            }
            "--realms" => orders.before_realms = value == "no",
            "--calm" => orders.calm = value == "yes",
            "--must-fail" => orders.must_fail = value == "yes",
            _ => bail!("unknown argument {arg}"),
        }
    }
    Ok(orders)
}

fn show(options: Options) -> ExitCode {
    // With RUST_LOG, also what the engine has to tell.
    let quiet = LogConfig { level: tracing::Level::WARN, format: LogFormat::Text };
    if std::env::var_os("RUST_LOG").is_some()
        && let Err(error) = telemetry::init(quiet)
    {
        println!("no log: {error}");
    }
    println!("{options:#?}");
    let seed = options.seed;
    let report = sim::run(options, Trace::On);
    for line in &report.trace {
        println!("{line}");
    }
    println!("{:?} in {:?} of simulated time", report.steps, report.simulated);
    match report.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("seed {seed} failed: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all seeds, up to the first that fails, and says which that is.
fn run_many(orders: &Orders, length: Length) -> Option<u64> {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let (done, steps) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        for _ in 0..orders.threads {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= orders.runs || failed.load(Ordering::Relaxed) != u64::MAX {
                        return;
                    }
                    let seed = orders.first_seed + place;
                    let report = sim::run(orders.options(length, seed), Trace::Off);
                    done.fetch_add(1, Ordering::Relaxed);
                    steps.fetch_add(report.steps.count, Ordering::Relaxed);
                    if let Some(failure) = report.failure {
                        println!("seed {seed} failed: {failure}");
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let (done, steps) = (done.into_inner(), steps.into_inner());
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{done} {length:?} runs, {} steps each, in {seconds:.1} s: {:.0} runs/s",
        steps / done.max(1),
        done as f64 / seconds
    );
    let failed = Some(failed.into_inner()).filter(|seed| *seed != u64::MAX);
    if let Some(seed) = failed {
        let length = format!("{length:?}").to_lowercase();
        println!("first failing seed: {seed}; show it with --length {length} --seed {seed}");
    }
    failed
}
