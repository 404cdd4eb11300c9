//! `landfall-node`: the daemon beside a site's PostgreSQL, and the commands around it.

use std::process::ExitCode;

use landfall_engine::commands::cli;
use landfall_engine::config::Program;

const ABOUT: &str = "\
    Keeps this site's PostgreSQL in step with the other members of the fleet, over links that may be \
    slow, lossy or absent for weeks";

fn main() -> ExitCode {
    cli::main(Program::Node, ABOUT)
}
