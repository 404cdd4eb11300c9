//! Keeps what peers acknowledged over a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::id::SiteId;
use landfall_protocol::version::VersionVector;
use tokio_util::sync::CancellationToken;

use super::status::Board;
use crate::store::{PeerRecord, Severity, Store, StoreError};

/// The least time between two writes: each costs a sync of the disk, and every hello says it all
/// again.
const PAUSE: Duration = Duration::from_secs(1);

/// The task that writes peer records. What moved lately is lost in a crash.
#[derive(Debug)]
pub(super) struct Records {
    store: Store,
    board: Arc<Board>,
    stop: CancellationToken,
    written: BTreeMap<SiteId, (VersionVector, VersionVector)>,
}

impl Records {
    pub(super) fn new(store: Store, board: Arc<Board>, stop: CancellationToken) -> Self {
        Self { store, board, stop, written: BTreeMap::new() }
    }

    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        let (stop, mut changes) = (self.stop.clone(), self.board.changes());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Cannot fail: the sender is in the board.
                _ = changes.changed() => {}
            }
            self.write(Moved::Vectors).await?;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        self.write(Moved::Anything).await
    }

    async fn write(&mut self, moved: Moved) -> Result<(), StoreError> {
        for record in self.board.records() {
            let vectors = (record.received.clone(), record.applied.clone());
            if moved == Moved::Vectors && self.written.get(&record.site) == Some(&vectors) {
                continue;
            }
            let site = record.site;
            if self.write_one(record).await? {
                self.written.insert(site, vectors);
            }
        }
        Ok(())
    }

    /// Whether it was written; if not, it will be with the next change.
    async fn write_one(&self, record: PeerRecord) -> Result<bool, StoreError> {
        match self.store.record_peer(record).await {
            Ok(()) => Ok(true),
            // Whoever closed the store first is stopping anyway.
            Err(StoreError::Closed) if self.stop.is_cancelled() => Ok(false),
            Err(error) if error.severity() == Severity::Fatal => Err(error),
            Err(error) => {
                tracing::warn!(%error, "what peers acknowledged is not noted");
                Ok(false)
            }
        }
    }
}

/// What must have moved for a record to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    /// What the peer acknowledged.
    Vectors,
    /// Also byte counts and the time of contact, which move all the time.
    Anything,
}
