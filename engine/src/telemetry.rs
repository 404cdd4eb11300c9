//! Where log lines go: standard error, for people or for machines.

use std::env;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config::{LogConfig, LogFormat};

/// Overrides the configured level, in the syntax of `tracing_subscriber::EnvFilter`.
pub const FILTER_VARIABLE: &str = "RUST_LOG";

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The variable is set to something that is no filter.
    #[error("variable {FILTER_VARIABLE} is not a log filter: {0}")]
    Filter(String),
    /// Logging was set up before.
    #[error("set up logging: {0}")]
    Twice(#[from] TryInitError),
}

/// Sets logging up for the whole process. Call once, before anything is logged.
///
/// # Errors
/// `RUST_LOG` is malformed, or logging is set up already.
pub fn init(log: LogConfig) -> Result<(), TelemetryError> {
    let filter = match env::var(FILTER_VARIABLE) {
        Ok(text) if !text.trim().is_empty() => EnvFilter::try_new(text.trim())
            .map_err(|error| TelemetryError::Filter(error.to_string()))?,
        _ => EnvFilter::new(directives(log.level)),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(false).finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// Our own crates at the level asked for; what we build on only when it matters.
fn directives(level: Level) -> String {
    let ours = ["landfall_protocol", "landfall_engine", "landfall_node", "landfall_hub"];
    let theirs = level.min(Level::WARN);
    let ours = ours.map(|name| format!("{name}={level}")).join(",");
    format!("{theirs},{ours}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_stay_quiet_and_our_own_crates_obey() {
        let words = directives(Level::DEBUG);
        assert!(words.starts_with("WARN,") && words.contains("landfall_engine=DEBUG"), "{words}");
        assert!(directives(Level::ERROR).starts_with("ERROR,"));
        EnvFilter::try_new(words).unwrap();
    }
}
