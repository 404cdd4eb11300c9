//! What operators and scripts talk to: the admin socket of a running daemon.
//!
//! The socket is `admin.sock` in the data directory. One request per connection: a line of JSON
//! goes in, a line of JSON comes out; where files travel, frames follow (`talk`). The same numbers are served as metrics over HTTP where the
//! configuration says so.

pub mod aside;
pub mod bundle;
pub mod client;
pub mod explain;
pub mod metrics;
pub mod parked;
pub mod scrape;
pub mod server;
pub mod status;
pub mod talk;
pub mod wait;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Longest request line, in bytes: thousands of parts that are there already.
pub const REQUEST_BYTES_MAX: u64 = 4 << 20;
/// Longest answer line, in bytes: a fleet of thousands of members fits.
pub const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// What may be asked of a running daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// A [`status::Status`].
    Status {},
    /// A [`parked::ParkedList`].
    ParkedList {
        /// Only what is parked of this table.
        table: Option<String>,
    },
    /// A [`parked::RetryAnswer`].
    ParkedRetry {
        /// Only what is parked of this table.
        table: Option<String>,
    },
    /// A conversation that ends with a [`bundle::WriteAnswer`].
    BundleWrite {
        /// What is wanted.
        ask: bundle::WriteAsk,
    },
    /// A conversation that ends with a [`bundle::ReadAnswer`].
    BundleRead {
        /// What comes.
        ask: bundle::ReadAsk,
    },
    /// A [`bundle::BundleList`].
    BundleList {
        /// How many at most.
        limit: u32,
    },
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What was asked for.
    Ok(serde_json::Value),
    /// Why there is none, as a sentence.
    Error(String),
}

/// What can go wrong between a command and its daemon.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens.
    #[error("no daemon is running: nobody answers at {}", .0.display())]
    NotRunning(PathBuf),
    /// Another daemon listens there.
    #[error("a daemon is running already: somebody answers at {}", .0.display())]
    AlreadyRunning(PathBuf),
    /// The socket is another user's.
    #[error("not allowed to talk to the daemon at {}: run the command as the daemon's user", .0.display())]
    NotAllowed(PathBuf),
    /// The socket failed.
    #[error("talk over {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The metrics cannot be served.
    #[error("serve metrics at {address}: {source}; correct metrics.listen")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No answer in time.
    #[error("daemon at {} did not answer within {seconds} s", path.display())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
    /// An answer that this version does not understand.
    #[error("daemon at {} answered something unexpected: {problem}; is it of another version?", path.display())]
    Unexpected {
        /// The socket.
        path: PathBuf,
        /// What is odd.
        problem: String,
    },
    /// The daemon refused the request.
    #[error("{0}")]
    Refused(String),
}

#[cfg(test)]
mod tests;
