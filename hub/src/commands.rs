//! What each command does; the work is in `landfall_engine::admin`, which both binaries share.

use landfall_engine::admin::command::{self, finish};
use landfall_engine::admin::exit::{Exit, Failure};
use landfall_engine::admin::keygen;
use landfall_engine::config::Program::Hub;

use crate::cli::Command;

mod run;

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
            command::print_sql(&config.file, Hub)?.print(output.format())
        }
        Command::Init { config, print_sql: false, output } => {
            finish(command::init(&config.file, Hub), output.format())
        }
        Command::Run { config } => run::run(&config.file),
        Command::Status { config, output } => {
            finish(command::status(&config.file, Hub), output.format())
        }
    }
}
