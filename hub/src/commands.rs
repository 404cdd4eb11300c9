//! What each command does; the work is in `landfall_engine::commands`, which both binaries share.

use landfall_engine::commands::exit::{Exit, Failure};
use landfall_engine::commands::keygen;
use landfall_engine::commands::{self, finish};
use landfall_engine::config::Program::Hub;

use crate::cli::Command;

/// Executes one command to its end.
pub(crate) fn execute(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Keygen { config, out, output } => {
            let report = match out {
                Some(file) => keygen::to_file(&file, Hub),
                None => keygen::for_config(&config.file, Hub),
            };
            report?.print(output.format())
        }
        Command::Init { config, print_sql: true, output } => {
            commands::print_sql(&config.file, Hub)?.print(output.format())
        }
        Command::Init { config, print_sql: false, output } => {
            finish(commands::init(&config.file, Hub), output.format())
        }
        Command::Run { config } => commands::run(&config.file, Hub),
        Command::Status { config, output } => {
            finish(commands::status(&config.file, Hub), output.format())
        }
    }
}
