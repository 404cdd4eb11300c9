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
    /// As [`BarrierError::Connection`], of a model.
    #[cfg(feature = "simulation")]
    #[error(transparent)]
    Model(#[from] crate::postgres::model::Fault),
    /// The server answered with something else than a position.
    #[error("server answered the barrier with {0:?}")]
    Answer(String),
}

/// Where barriers are written.
#[derive(Debug)]
enum Line {
    Server(Client),
    #[cfg(feature = "simulation")]
    Model(Box<dyn crate::postgres::model::Session>),
}

impl Line {
    /// Up to which transaction all are over in a snapshot before the barrier, and where that ends.
    async fn write(&mut self) -> Result<(u64, Lsn), BarrierError> {
        let client = match self {
            Self::Server(client) => client,
            #[cfg(feature = "simulation")]
            Self::Model(session) => return Ok(session.barrier().await?),
        };
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, \
                   pg_logical_emit_message(true, 'landfall.barrier', '')::text";
        let row = client.query_one(sql, &[]).await?;
        let (horizon, position): (String, String) = (row.get(0), row.get(1));
        let position = Lsn::from_str(&position).map_err(|_| BarrierError::Answer(position))?;
        let horizon: u64 = horizon.parse().map_err(|_| BarrierError::Answer(horizon))?;
        Ok((horizon, position))
    }
}

/// The second connection, by which barriers are written.
#[derive(Debug)]
pub(super) struct Barrier {
    line: Line,
    horizon: Horizon,
    log: watch::Receiver<Log>,
}

impl Barrier {
    /// Takes a session opened with [`BARRIER_SETTINGS`].
    pub(super) fn new(client: Client, horizon: Horizon, log: watch::Receiver<Log>) -> Self {
        Self { line: Line::Server(client), horizon, log }
    }

    /// Takes a model's session.
    #[cfg(feature = "simulation")]
    pub(super) fn modelled(
        session: Box<dyn crate::postgres::model::Session>,
        horizon: Horizon,
        log: watch::Receiver<Log>,
    ) -> Self {
        Self { line: Line::Model(session), horizon, log }
    }

    /// Returns when everything that had committed when it was called is durably folded.
    ///
    /// # Errors
    /// [`BarrierError::Late`] when that takes longer than 5 s.
    pub(super) async fn pass(&mut self) -> Result<(), BarrierError> {
        let (horizon, position) = self.line.write().await?;
        let passed = self.log.wait_for(|log| log.seen_lsn >= position.0);
        match tokio::time::timeout(PASS_WITHIN, passed).await {
            Err(_elapsed) => return Err(BarrierError::Late),
            Ok(Err(_closed)) => return Err(BarrierError::Closed),
            Ok(Ok(_)) => {}
        }
        self.horizon.raise(horizon);
        Ok(())
    }

    /// As [`Barrier::pass`]; `false` when that takes too long.
    pub(super) async fn passes(&mut self) -> Result<bool, BarrierError> {
        match self.pass().await {
            Err(BarrierError::Late) => Ok(false),
            passed => passed.map(|()| true),
        }
    }
}
