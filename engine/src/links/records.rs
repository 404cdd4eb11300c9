//! Keeps what peers acknowledged over a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::id::SiteId;
use landfall_protocol::version::VersionVector;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::status::Board;
use crate::store::{PeerRecord, Severity, Store, StoreError};
use crate::time::calendar::Month;

/// The least time between two writes: each costs a sync of the disk, and every hello says it all
/// again.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest time for which bytes that moved are not noted while nothing else moves.
const BYTES_EVERY_MS: u64 = 30_000;

/// The task that writes peer records: soon after a peer acknowledged something, when a link ended, and
/// every half minute in which bytes moved. What moved lately is lost in a crash.
#[derive(Debug)]
pub(super) struct Records {
    store: Store,
    board: Arc<Board>,
    clock: Clock,
    stop: CancellationToken,
    written: BTreeMap<SiteId, Written>,
}

/// What was written last of a peer.
#[derive(Debug)]
struct Written {
    received: VersionVector,
    applied: VersionVector,
    months: BTreeMap<Month, u64>,
    at_ms: u64,
}

impl Records {
    pub(super) fn new(
        store: Store,
        board: Arc<Board>,
        clock: Clock,
        stop: CancellationToken,
    ) -> Self {
        Self { store, board, clock, stop, written: BTreeMap::new() }
    }

    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        let (stop, mut changes) = (self.stop.clone(), self.board.changes());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Cannot fail: the sender is in the board.
                _ = changes.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(BYTES_EVERY_MS)) => {}
            }
            self.write(Moved::Enough).await?;
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
            if moved == Moved::Enough && !self.is_due(&record) {
                continue;
            }
            let written = Written {
                received: record.received.clone(),
                applied: record.applied.clone(),
                months: record.months.clone(),
                at_ms: self.clock.now_ms(),
            };
            let site = record.site;
            if self.write_one(record).await? {
                self.written.insert(site, written);
            }
        }
        Ok(())
    }

    /// Whether what moved since the last time is worth a write.
    fn is_due(&self, record: &PeerRecord) -> bool {
        let Some(written) = self.written.get(&record.site) else { return true };
        if (&record.received, &record.applied) != (&written.received, &written.applied) {
            return true;
        }
        let late = self.clock.now_ms().saturating_sub(written.at_ms) >= BYTES_EVERY_MS;
        record.months != written.months && (late || !self.board.is_connected(record.site))
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
    /// What the peer acknowledged, or bytes of half a minute or of a link that ended.
    Enough,
    /// Also the time of contact, which moves all the time.
    Anything,
}
