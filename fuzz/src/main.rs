//! The fuzzer that runs everywhere: changes seeds by a seeded dice, round after round, until the
//! time is over. `cargo xtask fuzz` starts it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, panic};

use landfall_engine::fuzz::dice::Dice;
use landfall_engine::fuzz::{TARGETS, Target, find, seeds};
use landfall_fuzz::{Ran, now, try_run};

/// How long a target is tried before the next one has its turn.
const TURN: Duration = Duration::from_secs(5);
/// Inputs that took another way than those before, and are changed further.
const KEPT_MAX: usize = 5_000;

const USAGE: &str =
    "usage: landfall-fuzz [TARGET] [--minutes N] [--seed N] [--input FILE] [--write-seeds]";

struct Options {
    targets: Vec<&'static Target>,
    time: Duration,
    seed: u64,
    input: Option<PathBuf>,
    write_seeds: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        targets: TARGETS.iter().collect(),
        time: Duration::from_secs(60),
        // Another run tries other inputs.
        seed: u64::from(std::process::id()) << 32,
        input: None,
        write_seeds: false,
    };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        match word.as_str() {
            "--minutes" => options.time = Duration::from_secs(number().ok_or(USAGE)? * 60),
            "--seconds" => options.time = Duration::from_secs(number().ok_or(USAGE)?),
            "--seed" => options.seed = number().ok_or(USAGE)?,
            "--input" => options.input = Some(words.next().ok_or(USAGE)?.into()),
            "--write-seeds" => options.write_seeds = true,
            name => {
                let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
                let unknown = || format!("{USAGE}\ntargets: {}", names.join(", "));
                options.targets = vec![find(name).ok_or_else(unknown)?];
            }
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let done = if options.write_seeds {
        write_seeds(&options)
    } else if let Some(file) = &options.input {
        read(file).and_then(|input| replay(options.targets[0], &input))
    } else {
        // A panic is told with its input, once.
        panic::set_hook(Box::new(|_| {}));
        fuzz(&options)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("read {}: {error}", file.display()))
}

fn replay(target: &Target, input: &[u8]) -> Result<(), String> {
    try_run(target, input).map(drop).map_err(|what| format!("{}: {what}", target.name))
}

/// Writes the seeds that are made by code; those found by fuzzing have other names and stay.
fn write_seeds(options: &Options) -> Result<(), String> {
    for target in &options.targets {
        let dir = here().join("seeds").join(target.name);
        fs::create_dir_all(&dir).map_err(|error| format!("create {}: {error}", dir.display()))?;
        for (number, seed) in seeds::of(target.name).iter().enumerate() {
            let file = dir.join(format!("made-{number:02}"));
            fs::write(&file, seed).map_err(|error| format!("write {}: {error}", file.display()))?;
        }
    }
    Ok(())
}

/// What one target was given.
struct Tried {
    target: &'static Target,
    seeds: Vec<Vec<u8>>,
    next: u64,
    runs: u64,
    slowest: Duration,
    /// Stand in for coverage, which stable Rust does not tell at run time.
    shapes: BTreeSet<(u64, u64)>,
}

fn fuzz(options: &Options) -> Result<(), String> {
    let mut all = Vec::new();
    for target in &options.targets {
        let seeds = seeds_of(target)?;
        eprintln!("{}: {} seeds, dice from {}", target.name, seeds.len(), options.seed);
        for seed in &seeds {
            report(target, seed)?;
        }
        let (next, runs, slowest, shapes) = (options.seed, 0, Duration::ZERO, BTreeSet::new());
        all.push(Tried { target, seeds, next, runs, slowest, shapes });
    }
    let began = now();
    while began.elapsed() < options.time {
        for tried in &mut all {
            let left = options.time.saturating_sub(began.elapsed());
            tried.turn(left.min(TURN))?;
        }
    }
    for Tried { target, runs, slowest, shapes, .. } in &all {
        println!(
            "{:<17} {runs:>9} inputs, {:>5} ways, slowest {slowest:?}",
            target.name,
            shapes.len()
        );
    }
    println!("{} inputs in {:?}", all.iter().map(|tried| tried.runs).sum::<u64>(), began.elapsed());
    Ok(())
}

impl Tried {
    fn turn(&mut self, time: Duration) -> Result<(), String> {
        let began = now();
        while began.elapsed() < time {
            let input = Dice::new(self.next).input(self.target, &self.seeds);
            self.next += 1;
            self.runs += 1;
            let ran = report(self.target, &input)?;
            self.slowest = self.slowest.max(ran.took);
            let (count, bytes) = ran.shape;
            // Of bytes the magnitude; the length of a text is no other way.
            let shape = (count, bytes.checked_ilog2().unwrap_or(0).into());
            if self.seeds.len() < KEPT_MAX && self.shapes.insert(shape) {
                self.seeds.push(input);
            }
        }
        Ok(())
    }
}

/// All seeds in a fixed order: those made by code, those kept, and what libFuzzer left here.
fn seeds_of(target: &Target) -> Result<Vec<Vec<u8>>, String> {
    let mut inputs = seeds::of(target.name);
    for dir in ["seeds", "corpus"] {
        let Ok(listed) = fs::read_dir(here().join(dir).join(target.name)) else { continue };
        let mut files: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            inputs.push(read(&file)?);
        }
    }
    Ok(inputs)
}

/// Runs an input; one that fails is made shorter, written to a file and told about.
fn report(target: &Target, input: &[u8]) -> Result<Ran, String> {
    let what = match try_run(target, input) {
        Ok(ran) => return Ok(ran),
        Err(what) => what,
    };
    let shorter = shorten(target, input.to_vec());
    let dir = here().join("artifacts");
    let file = dir.join(format!("{}-{:016x}", target.name, name_of(&shorter)));
    let written = fs::create_dir_all(&dir).and_then(|()| fs::write(&file, &shorter));
    written.map_err(|error| format!("write {}: {error}", file.display()))?;
    let file = file.display();
    Err(format!("{}: {what}\nthe input is in {file} ({} bytes)", target.name, shorter.len()))
}

/// Cuts pieces out of a failing input as long as it fails.
fn shorten(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..input.len().min(at + piece));
            if try_run(target, &shorter).is_err() {
                input = shorter;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    input
}

/// FNV-1a.
fn name_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
