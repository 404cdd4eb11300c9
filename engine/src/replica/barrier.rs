//! The barrier: proof that the fold has seen everything that committed before a moment.
//!
//! A transactional logical message written after row locks are held has its commit record behind
//! those of all earlier writers of the rows, and decoding delivers in commit order. Once the fold
//! has passed the message, it knows all of them. (A non-transactional message is not flushed on
//! PostgreSQL 15 and 16 and takes a hundred times as long.)

use std::str::FromStr;
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::Client;

use crate::capture::horizon::Horizon;
use crate::postgres::lsn::Lsn;
use crate::postgres::sql;
use crate::store::Log;

/// Session settings of the barrier connection: its commit must be flushed at once, and must never
/// wait for a standby.
pub const BARRIER_SETTINGS: &[(&str, &str)] =
    &[("synchronous_commit", "local"), ("search_path", "pg_catalog"), ("statement_timeout", "10s")];

/// How long the fold may take to come by before the locks are given up.
const PASS_WITHIN: Duration = Duration::from_secs(5);

/// Why a barrier was not passed.
#[derive(Debug, thiserror::Error)]
pub enum BarrierError {
    /// Capture is behind; nothing may be decided now.
    #[error("capture did not come by within {} s", PASS_WITHIN.as_secs())]
    Late,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The connection failed.
    #[error("barrier connection: {}", sql::describe(.0))]
    Connection(#[from] tokio_postgres::Error),
    /// The server answered with something else than a position.
    #[error("server answered the barrier with {0:?}")]
    Answer(String),
}

/// The second connection, by which barriers are written.
#[derive(Debug)]
pub(super) struct Barrier {
    client: Client,
    horizon: Horizon,
    log: watch::Receiver<Log>,
}

impl Barrier {
    /// Takes a session opened with [`BARRIER_SETTINGS`].
    pub(super) fn new(client: Client, horizon: Horizon, log: watch::Receiver<Log>) -> Self {
        Self { client, horizon, log }
    }

    /// Returns when everything that had committed when it was called is durably folded.
    ///
    /// # Errors
    /// [`BarrierError::Late`] when that takes longer than 5 s.
    pub(super) async fn pass(&mut self) -> Result<(), BarrierError> {
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, \
                   pg_logical_emit_message(true, 'landfall.barrier', '')::text";
        let row = self.client.query_one(sql, &[]).await?;
        let (horizon, position): (String, String) = (row.get(0), row.get(1));
        let position = Lsn::from_str(&position).map_err(|_| BarrierError::Answer(position))?;
        let horizon: u64 = horizon.parse().map_err(|_| BarrierError::Answer(horizon))?;
        let passed = self.log.wait_for(|log| log.seen_lsn >= position.0);
        match tokio::time::timeout(PASS_WITHIN, passed).await {
            Err(_elapsed) => return Err(BarrierError::Late),
            Ok(Err(_closed)) => return Err(BarrierError::Closed),
            Ok(Ok(_)) => {}
        }
        self.horizon.raise(horizon);
        Ok(())
    }
}
