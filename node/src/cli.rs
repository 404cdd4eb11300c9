//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use landfall_engine::admin::wait::Goal;
use landfall_engine::commands::Format;
use landfall_engine::commands::exit::EXIT_HELP;

/// Keeps this site's PostgreSQL in step with the other members of the fleet, over links that may be
/// slow, lossy or absent for weeks.
#[derive(Debug, Parser)]
#[command(name = "landfall-node", version, after_help = EXIT_HELP, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw this member's key and print what to add to the fleet file
    ///
    /// The secret key goes to the file that `key` in the configuration names, or to --out. An
    /// existing file is never overwritten. The fleet file need not know the member yet.
    Keygen {
        #[command(flatten)]
        config: ConfigFile,
        /// Write the secret key here, without looking at a configuration
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Prepare the database: schema landfall, publication, triggers, replication slot
    ///
    /// May be run again at any time: it does what is missing and leaves the rest alone. Run it after
    /// adding tables to the fleet file. A slot that was in use and is gone is not made anew, because
    /// the changes since would be lost.
    ///
    /// Where the role in conninfo may not do all that, let a DBA run what --print-sql prints, then
    /// run init again: it then checks, creates the slot, and needs no rights but REPLICATION.
    #[command(after_help = EXIT_HELP)]
    Init {
        #[command(flatten)]
        config: ConfigFile,
        /// Print the SQL for a DBA instead of running it; connects to nothing
        #[arg(long)]
        print_sql: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Say what stands in the way of replication, and what to do about it
    ///
    /// Looks at files, server, settings, privileges, tables, slot and clock; changes nothing. Exits
    /// with 1 when there are errors; warnings do not count.
    #[command(after_help = EXIT_HELP)]
    Check {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Run the daemon in the foreground, until SIGTERM or SIGINT
    ///
    /// All files are checked before anything starts. Logs go to standard error; RUST_LOG overrides
    /// the configured level. Killing it at any moment loses nothing.
    #[command(after_help = EXIT_HELP)]
    Run {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Say how the running daemon does: lag, backlog, links, and the causes of trouble
    Status {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Wait until changes have got somewhere; for scripts
    ///
    /// Counts what was committed here before the command began (with synchronous_commit off, up to
    /// a second before). On timeout says what is missing and exits with 1.
    #[command(after_help = EXIT_HELP)]
    Wait {
        #[command(flatten)]
        config: ConfigFile,
        /// What to wait for
        #[arg(long = "for", value_name = "GOAL")]
        goal: GoalArg,
        /// Give up after this many seconds
        #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
        timeout: u64,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The member's configuration
    #[arg(long = "config", value_name = "FILE", default_value = "node.toml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Print JSON instead of sentences
    #[arg(long)]
    json: bool,
}

impl Output {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum GoalArg {
    /// Every member we dial or have a link to holds our changes durably
    Delivered,
    /// Delivered, nothing waits to be applied here, and every linked member knows what we know
    Converged,
}

impl From<GoalArg> for Goal {
    fn from(goal: GoalArg) -> Self {
        match goal {
            GoalArg::Delivered => Self::Delivered,
            GoalArg::Converged => Self::Converged,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
