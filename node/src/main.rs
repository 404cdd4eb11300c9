//! `landfall-node`: the daemon beside a site's PostgreSQL, and the commands around it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser as _;
use landfall_engine::commands::exit::Exit;

mod cli;
mod commands;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reads what we print: nothing left to say.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    match catch_unwind(AssertUnwindSafe(|| commands::execute(cli.command))) {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(failure)) => {
            eprintln!("landfall-node: {failure}");
            failure.exit.into()
        }
        // The panic itself has been printed.
        Err(_panic) => Exit::Internal.into(),
    }
}
