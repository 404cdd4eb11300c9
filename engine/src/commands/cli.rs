//! The command line of both binaries. They have the same commands and differ in name, purpose and
//! the configuration file they look for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use landfall_protocol::change::{ACTOR_BYTES_MAX, Actor};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use super::conflicts::{self, Asked};
use super::exit::{EXIT_HELP, Exit, Failure};
use super::{Format, bundle, finish, keygen, parked};
use crate::admin::bundle::{Basis, Resume};
use crate::admin::wait::Goal;
use crate::config::Program;
use crate::postgres::history::UndoRequest;

/// Parses the command line, executes the command and says how it ended. `about` is what the
/// program is for, in one sentence.
pub fn main(program: Program, about: &'static str) -> ExitCode {
    let parsed = command(program, about).try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reads what we print: nothing left to say.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    match catch_unwind(AssertUnwindSafe(|| execute(cli.command, program))) {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(failure)) => {
            eprintln!("{}: {failure}", program.binary());
            failure.exit.into()
        }
        // The panic itself has been printed.
        Err(_panic) => Exit::Internal.into(),
    }
}

fn command(program: Program, about: &'static str) -> clap::Command {
    let looks_for = |command: clap::Command| {
        if command.has_subcommands() {
            return command.mut_subcommands(|command| looks_in(command, program));
        }
        looks_in(command, program)
    };
    let each = |command: clap::Command| match command.has_subcommands() {
        true => command.mut_subcommands(looks_for),
        false => looks_for(command),
    };
    Cli::command().name(program.binary()).about(about).mut_subcommands(each)
}

fn looks_in(command: clap::Command, program: Program) -> clap::Command {
    command.mut_arg("file", |file| file.default_value(program.config_file()))
}

/// Executes one command to its end.
fn execute(command: Command, program: Program) -> Result<Exit, Failure> {
    match command {
        Command::Keygen { config, out, output } => {
            let report = match out {
                Some(file) => keygen::to_file(&file, program),
                None => keygen::for_config(&config.file, program),
            };
            report?.print(output.format())
        }
        Command::Init { config, print_sql: true, output } => {
            super::print_sql(&config.file, program)?.print(output.format())
        }
        Command::Init { config, print_sql: false, output } => {
            finish(super::init(&config.file, program), output.format())
        }
        Command::Check { config, output } => {
            finish(super::check(&config.file, program), output.format())
        }
        Command::Run { config } => super::run(&config.file, program),
        Command::Status { config, output } => {
            finish(super::status(&config.file, program), output.format())
        }
        Command::Parked { what: ParkedCommand::List(args) } => {
            finish(parked::list(&args.config.file, program, args.table), args.output.format())
        }
        Command::Parked { what: ParkedCommand::Retry(args) } => {
            finish(parked::retry(&args.config.file, program, args.table), args.output.format())
        }
        Command::Wait { config, goal, timeout, output } => {
            let limit = Duration::from_secs(timeout);
            finish(super::wait(&config.file, program, goal.into(), limit), output.format())
        }
        Command::Conflicts { command } => execute_conflicts(command, program),
        Command::Bundle { command } => execute_bundle(command, program),
    }
}

fn execute_bundle(command: BundleCommand, program: Program) -> Result<Exit, Failure> {
    match command {
        BundleCommand::Write {
            config,
            recipients,
            to,
            max_size,
            since,
            all,
            new,
            resume,
            fill,
            output,
        } => {
            let format = output.format();
            let basis = match since {
                Some(bundle) => Basis::Bundle(bundle),
                None if all => Basis::Nothing,
                None => Basis::Known,
            };
            let resume = match resume {
                Some(bundle) => Resume::Bundle(bundle),
                None if new => Resume::Never,
                None => Resume::IfPresent,
            };
            let told = bundle::Writing {
                recipients,
                dir: to,
                part_bytes_max: max_size,
                basis,
                resume,
                fill,
                format,
            };
            finish(bundle::write(&config.file, program, told), format)
        }
        BundleCommand::Read { config, paths, again, output } => {
            let format = output.format();
            let told = bundle::Reading { paths, again, format };
            finish(bundle::read(&config.file, program, told), format)
        }
        BundleCommand::List { config, limit, output } => {
            finish(bundle::list(&config.file, program, limit), output.format())
        }
    }
}

fn execute_conflicts(command: ConflictsCommand, program: Program) -> Result<Exit, Failure> {
    match command {
        ConflictsCommand::List { config, table, since, site, limit, undone, open, output } => {
            let state = if undone { Some(true) } else { open.then_some(false) };
            let asked = Asked { table, since, site, limit, undone: state };
            finish(conflicts::list(&config.file, program, asked), output.format())
        }
        ConflictsCommand::Show { config, id, output } => {
            finish(conflicts::show(&config.file, program, id), output.format())
        }
        ConflictsCommand::Undo { config, id, dry_run, force, actor, output } => {
            let request = UndoRequest { id, dry_run, force, actor };
            finish(conflicts::undo(&config.file, program, request), output.format())
        }
    }
}

fn actor(name: &str) -> Result<Actor, String> {
    let rule = format!("must have 1 to {ACTOR_BYTES_MAX} bytes and no control characters");
    Actor::new(name).ok_or(rule)
}

#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_HELP, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
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
    /// Makes the store as well. A hub without a [postgres] section has nothing else to prepare.
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
    /// Changes from others that this site cannot show: list them, or try them again
    #[command(after_help = EXIT_HELP)]
    Parked {
        #[command(subcommand)]
        what: ParkedCommand,
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
    /// The history of concurrent writes of which one gave way: list it, show one, undo one
    ///
    /// Reads and writes this member's database; the daemon need not run. Prints values of rows.
    Conflicts {
        #[command(subcommand)]
        command: ConflictsCommand,
    },
    /// Changes as files, for members without a link: write them, read them, list what was
    ///
    /// The files are encrypted for those they are for and signed. They may be carried by anybody, get
    /// lost, be read twice and in any order. The daemon must run; run the command as its user.
    #[command(after_help = EXIT_HELP)]
    Bundle {
        #[command(subcommand)]
        command: BundleCommand,
    },
}

#[derive(Debug, Subcommand)]
enum BundleCommand {
    /// Write what members lack into files
    ///
    /// Begins behind what all of them are known to hold, by links and by bundles of theirs that were
    /// read here; so every bundle is also a receipt. Run again after an interruption, it goes on behind
    /// the parts that are in the folder.
    #[command(after_help = EXIT_HELP)]
    Write {
        #[command(flatten)]
        config: ConfigFile,
        /// A member that shall read it, by name or number; may be repeated; "all" for all others
        #[arg(long = "for", value_name = "SITE", required = true)]
        recipients: Vec<String>,
        /// The folder for the files, such as that of a USB stick
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Longest file; k, m or g may stand behind the number
        #[arg(long, value_name = "SIZE", default_value_t = bundle::PART_BYTES_DEFAULT, value_parser = bundle::parse_size)]
        max_size: u64,
        /// Begin behind this bundle, as if it had arrived
        #[arg(long, value_name = "BUNDLE", conflicts_with = "all")]
        since: Option<String>,
        /// Begin at the beginning, for a member that lost everything
        #[arg(long)]
        all: bool,
        /// Begin another bundle also when one in the folder is not finished
        #[arg(long, conflicts_with = "resume")]
        new: bool,
        /// Go on with this bundle, whose parts so far are elsewhere
        #[arg(long, value_name = "BUNDLE", conflicts_with_all = ["since", "all"])]
        resume: Option<String>,
        /// Write as many parts as fit, also when there is no room for all
        #[arg(long)]
        fill: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Read files that others wrote for this member
    ///
    /// What was read before is skipped. A part that builds on another one that is not here is kept, and
    /// read by itself once that has come. One bad file does not keep the others from being read.
    #[command(after_help = EXIT_HELP)]
    Read {
        #[command(flatten)]
        config: ConfigFile,
        /// Files, or folders with files *.bundle
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
        /// Read also what was read before
        #[arg(long)]
        again: bool,
        #[command(flatten)]
        output: Output,
    },
    /// List the bundles that were written and read here: when, by whom, for whom, and who has them
    List {
        #[command(flatten)]
        config: ConfigFile,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
enum ConflictsCommand {
    /// List the newest conflicts: who wrote what, when, and what stays
    List {
        #[command(flatten)]
        config: ConfigFile,
        /// Of this table only, with its schema or without
        #[arg(long, value_name = "TABLE")]
        table: Option<String>,
        /// Recorded since then: a time as PostgreSQL reads it, UTC unless it says otherwise
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// With this site on either side, by name or number
        #[arg(long, value_name = "SITE")]
        site: Option<String>,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
        /// Only those that were undone
        #[arg(long, conflicts_with = "open")]
        undone: bool,
        /// Only those that were not undone
        #[arg(long)]
        open: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show all of one conflict, and what its row shows now
    Show {
        #[command(flatten)]
        config: ConfigFile,
        /// Its number in the list
        #[arg(value_name = "ID")]
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Bring back what gave way
    ///
    /// Writes an ordinary change in an ordinary session: triggers and constraints hold, and it
    /// replicates like any other. What gave way to a delete comes back as a whole row, together with
    /// all that gave way to the same delete. Refused when the row was written again since.
    #[command(after_help = EXIT_HELP)]
    Undo {
        #[command(flatten)]
        config: ConfigFile,
        /// Its number in the list
        #[arg(value_name = "ID")]
        id: i64,
        /// Say what would be written, write nothing
        #[arg(long)]
        dry_run: bool,
        /// Also overwrite a value that was written since
        #[arg(long)]
        force: bool,
        /// On whose behalf; told with the change at every site
        #[arg(long = "as", value_name = "NAME", value_parser = actor)]
        actor: Option<Actor>,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
enum ParkedCommand {
    /// Say what is parked, why, and what would free it
    ///
    /// Row keys are shown. The reasons that PostgreSQL gave are in the table landfall.parked.
    List(ParkedArgs),
    /// Try again at once what is parked
    ///
    /// It is tried by itself after a start, when the catalog changed, when a table that has to do
    /// with it was written, and now and then.
    Retry(ParkedArgs),
}

#[derive(Debug, Args)]
struct ParkedArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Only of this table, as schema.table
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The member's configuration
    #[arg(long = "config", value_name = "FILE", required = false)]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Output {
    /// Print JSON instead of sentences
    #[arg(long)]
    json: bool,
}

impl Output {
    fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GoalArg {
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
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        for program in [Program::Node, Program::Hub] {
            let command = command(program, "Does something");
            command.clone().debug_assert();
            let words = [program.binary(), "status"];
            let matches = command.try_get_matches_from(words).expect("a command");
            let cli = Cli::from_arg_matches(&matches).expect("a command");
            let Command::Status { config, .. } = cli.command else { panic!("{cli:?}") };
            assert_eq!(config.file, PathBuf::from(program.config_file()));
        }
    }
}
