//! What developers run: `cargo xtask demo | test | bench | fuzz | mutants | soak | ci | pg`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod cargo;
mod checks;
mod demo;
mod fuzz;
mod mutants;
mod postgres;
mod soak;

/// Developer commands of Landfall.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Shows Landfall at work: two ships and the region ashore, on throw-away databases.
    Demo,
    /// Runs every test: unit, property, doc and tidy tests, then end-to-end tests on PostgreSQL.
    ///
    /// Builds the daemons first. Looks for PostgreSQL 15 or newer (LANDFALL_PG_BIN, PATH, the usual
    /// folders) and installs it with the system's package manager if there is none.
    Test {
        /// A part of a test's name, and options for the test programs such as --nocapture.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FILTER")]
        extra: Vec<String>,
    },
    /// Measures speed, processor time, memory and bytes beside PostgreSQL's own replication.
    Bench {
        /// Which benchmarks; all of them unless told: capture, updates, inserts, lag, application,
        /// merge, links-bytes, links-compaction, links-drain, links-native, links-outage,
        /// links-urgent, or links for the last six.
        names: Vec<String>,
        /// Which links to look at, by profile; all of them unless told.
        #[arg(long, value_name = "NAME")]
        profile: Vec<String>,
        /// How often each is repeated; medians are told.
        #[arg(long, default_value_t = 3, value_name = "N")]
        rounds: u32,
        /// A twentieth of the work, to see that everything runs.
        #[arg(long)]
        quick: bool,
        /// Writes docs/benchmarks.md.
        #[arg(long)]
        write: bool,
    },
    /// Looks for bytes from outside that break a promise; docs/testing.md says which.
    Fuzz(fuzz::Options),
    /// Runs the simulator with each of the rules switched off that it must miss, until it does.
    Mutants {
        /// Instead, makes so many short runs with all rules on, and a tenth as many full ones, none
        /// of which may fail.
        #[arg(long, value_name = "N")]
        clean: Option<u64>,
        /// The first seed.
        #[arg(long, default_value_t = 1, value_name = "SEED")]
        first_seed: u64,
    },
    /// Lets five sites and a hub write for a while, over links as people have them, while daemons and
    /// servers are killed or frozen, links are cut, and databases are restored; compares all sites
    /// again and again, and tells what it saw.
    Soak {
        /// How long, at least one epoch of about a minute and a half.
        #[arg(long, default_value_t = 10.0, value_name = "N")]
        minutes: f64,
        /// Draws the same mishaps again, though not with the same timing.
        #[arg(long, value_name = "SEED")]
        seed: Option<u64>,
        /// Only these links; all of tests/harness/relay/profiles.toml unless told.
        #[arg(long = "profile", value_name = "NAME")]
        profiles: Vec<String>,
        /// Instead of all that, strikes at every single step of a round of synchronisation, of which
        /// there are some thousand; with a number, at every so many steps.
        #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "1",
              conflicts_with_all = ["minutes", "profiles"])]
        crashes: Option<u64>,
    },
    /// Runs what must pass before a push: formatting, lints, documentation, tests, dependencies.
    Ci,
    /// Says which PostgreSQL the tests and the demo would use.
    Pg {
        /// Installs one, if there is none, with the system's package manager. With a major version,
        /// installs that one: with the package manager if it has it, else as npm has it, into the
        /// build folder.
        #[arg(long, value_name = "MAJOR", num_args = 0..=1)]
        install: Option<Option<u32>>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Demo => demo::run(),
        Task::Test { extra } => checks::test(&extra),
        Task::Bench { names, profile, rounds, quick, write } => {
            let options = [("--quick", quick), ("--write", write)];
            let chosen = options.iter().filter(|(_, chosen)| *chosen);
            let mut options: Vec<&str> = chosen.map(|(option, _)| *option).collect();
            options.extend(profile.iter().flat_map(|name| ["--profile", name]));
            bench::run(&names, rounds, &options)
        }
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Soak { seed, crashes: Some(every), .. } => soak::crashes(every, seed),
        Task::Soak { minutes, seed, profiles, .. } => soak::run(minutes, seed, &profiles),
        Task::Mutants { clean: Some(runs), first_seed } => mutants::clean(runs, first_seed),
        Task::Mutants { clean: None, first_seed } => mutants::plant(first_seed),
        Task::Ci => checks::ci(),
        Task::Pg { install } => postgres::report(install),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
