//! Removes old lines of the history of conflicts, now and then.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::postgres::connect::{ConnectError, PgSettings};
use crate::postgres::history::{self, EXPIRED_AT_ONCE, HistoryError};
use crate::tasks::Tasks;

/// Pause between two rounds.
const EVERY: Duration = Duration::from_secs(3600);
/// Pause after a round that failed.
const RETRY: Duration = Duration::from_secs(60);
/// Pause between two batches of a round.
const BETWEEN: Duration = Duration::from_millis(100);

/// How it goes, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Thinned {
    /// Lines removed since the start.
    pub(super) removed: u64,
    /// Why the last round failed, if it did.
    pub(super) cause: Option<String>,
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
enum ThinningError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// Works until told to stop. What fails is tried again; nothing depends on it.
pub(super) async fn run(
    settings: PgSettings,
    keep: Duration,
    tasks: Tasks,
    status: watch::Sender<Thinned>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            outcome = round(&settings, keep, &tasks, &status) => outcome,
        };
        let pause = if outcome.is_ok() { EVERY } else { RETRY };
        if let Err(error) = &outcome {
            tracing::info!(%error, "old lines of the history of conflicts are not removed");
        }
        status.send_modify(|status| status.cause = outcome.err().map(|error| error.to_string()));
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Removes everything that is due, a batch at a time.
async fn round(
    settings: &PgSettings,
    keep: Duration,
    tasks: &Tasks,
    status: &watch::Sender<Thinned>,
) -> Result<(), ThinningError> {
    let (client, driver) = settings.connect("landfall history", &[("lock_timeout", "1s")]).await?;
    let _driver = tasks.spawn_child("history connection", driver);
    let mut sum = 0;
    loop {
        let removed = history::expire(&client, keep).await?;
        status.send_modify(|status| status.removed += removed);
        sum += removed;
        if removed < EXPIRED_AT_ONCE {
            break;
        }
        tokio::time::sleep(BETWEEN).await;
    }
    if sum > 0 {
        tracing::info!(lines = sum, "removed old lines of the history of conflicts");
    }
    Ok(())
}
