//! The daemon.

use std::path::Path;

use landfall_engine::admin::exit::{Exit, Failure};
use landfall_engine::config::Program;
use landfall_engine::daemon;

/// Checks every file, then runs the daemon until it is told to stop.
pub(crate) fn run(config: &Path) -> Result<Exit, Failure> {
    daemon::execute(config, Program::Hub)
}
