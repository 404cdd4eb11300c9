//! `landfall-hub`: stores and forwards the units of many sites, and the commands around it.

use std::process::ExitCode;

use landfall_engine::commands::cli;
use landfall_engine::config::Program;

const ABOUT: &str = "\
    Stores and forwards the changes of a fleet's sites, so that sites that never meet converge; may \
    keep a PostgreSQL of its own in step as well";

fn main() -> ExitCode {
    cli::main(Program::Hub, ABOUT)
}
