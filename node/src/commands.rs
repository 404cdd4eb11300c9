//! What each command does; the work is in `landfall_engine::commands`, which both binaries share.

use std::time::Duration;

use landfall_engine::commands::exit::{Exit, Failure};
use landfall_engine::commands::keygen;
use landfall_engine::commands::{self, finish};
use landfall_engine::config::Program::Node;

use crate::cli::Command;

/// Executes one command to its end.
pub(crate) fn execute(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Keygen { config, out, output } => {
            let report = match out {
                Some(file) => keygen::to_file(&file, Node),
                None => keygen::for_config(&config.file, Node),
            };
            report?.print(output.format())
        }
        Command::Init { config, print_sql: true, output } => {
            commands::print_sql(&config.file, Node)?.print(output.format())
        }
        Command::Init { config, print_sql: false, output } => {
            finish(commands::init(&config.file, Node), output.format())
        }
        Command::Check { config, output } => {
            finish(commands::check(&config.file, Node), output.format())
        }
        Command::Run { config } => commands::run(&config.file, Node),
        Command::Status { config, output } => {
            finish(commands::status(&config.file, Node), output.format())
        }
        Command::Wait { config, goal, timeout, output } => {
            let wait =
                commands::wait(&config.file, Node, goal.into(), Duration::from_secs(timeout));
            finish(wait, output.format())
        }
    }
}
