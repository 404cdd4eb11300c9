//! The unit under way on a stream, as far as it is to outlive the stream.

use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::unit::UNIT_BYTES_MAX;
use landfall_protocol::wire::{Begun, BegunMark};

use crate::store::{BEGUN_UNIT_BYTES_MAX, BegunFate, MoreBegun, Store, StoreError};
use crate::transport::FrameReader;
use crate::{plant, time};

/// While a unit arrives, what came of it is written at most this often: on a fast link never, and on a
/// thin one a crash costs what comes in this time.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Less is not worth a write, in bytes.
const KEEP_BYTES_MIN: usize = 4 << 10;

/// What came of the unit that is being read, and how much of it the store has.
#[derive(Debug)]
pub(super) struct Underway {
    store: Store,
    origin: Origin,
    /// The last transaction before it.
    after: Seq,
    /// What had come of it before this stream was opened.
    base: Vec<u8>,
    /// So much is in the store, as far as we know, with its mark.
    kept: Option<(usize, BegunMark)>,
    /// When it began to arrive, or was last written.
    since: Option<Instant>,
}

impl Underway {
    pub(super) fn new(store: Store, origin: Origin, after: Seq) -> Self {
        Self { store, origin, after, base: Vec::new(), kept: None, since: None }
    }

    /// Goes on behind what we told that we have; says whether we still do.
    pub(super) async fn go_on(&mut self, told: Begun) -> Result<bool, StoreError> {
        let Some(base) = self.store.begun_bytes(self.origin, self.after, told).await? else {
            return Ok(false);
        };
        self.base = base;
        self.kept = Some((told.bytes, told.mark));
        Ok(true)
    }

    /// The whole unit of which this frame came, and how much of it came before.
    pub(super) fn put_together(&mut self, frame: Bytes) -> (Vec<u8>, usize) {
        let mut whole = std::mem::take(&mut self.base);
        let before = whole.len();
        (self.kept, self.since) = (None, None);
        if before == 0 || plant::active("rest-alone") {
            return (Vec::from(frame), before);
        }
        whole.extend_from_slice(&frame);
        (whole, before)
    }

    /// A unit is stored; the next one follows on it.
    pub(super) fn moved(&mut self, last: Seq) {
        self.after = last;
    }

    /// Something came: writes it if that is due.
    pub(super) async fn note(&mut self, reader: &FrameReader) {
        let Some((_, arrived)) = reader.begun() else { return };
        #[cfg(feature = "simulation")]
        crate::simulation::arriving();
        let now = time::monotonic();
        let since = *self.since.get_or_insert(now);
        let kept = self.kept.map_or(0, |(bytes, _)| bytes);
        let is_worth = self.base.len() + arrived.len() >= kept + KEEP_BYTES_MIN;
        if is_worth && now.saturating_duration_since(since) >= KEEP_EVERY {
            self.keep(reader).await;
            self.since = Some(now);
        }
    }

    /// Writes what came, so that nobody need send it again. Does what it can: without it, all of the
    /// unit comes again.
    pub(super) async fn keep(&mut self, reader: &FrameReader) {
        let Some((left, arrived)) = reader.begun() else { return };
        let bytes = (self.base.len() + arrived.len()).min(BEGUN_UNIT_BYTES_MAX);
        let kept = self.kept.map_or(0, |(bytes, _)| bytes);
        let length = self.base.len() + left;
        if bytes <= kept || length > UNIT_BYTES_MAX || self.store.is_full() {
            return;
        }
        let arrived = &arrived[..bytes - self.base.len()];
        let mark = BegunMark::of_both(&self.base, arrived);
        let mut behind = self.kept;
        loop {
            let bytes = self.from(behind.map_or(0, |(bytes, _)| bytes), arrived);
            let more = MoreBegun { after: self.after, length, behind, bytes, mark };
            match self.store.keep_begun(self.origin, more).await {
                Ok(BegunFate::Settled) => break,
                // It was dropped for newer ones, or another carrier brings the same unit.
                Ok(BegunFate::Detached) if behind.is_some() => behind = None,
                Ok(BegunFate::Detached) => return,
                Err(error) => {
                    let origin = self.origin;
                    return tracing::debug!(%origin, %error, "what came of a unit is not kept");
                }
            }
        }
        self.kept = Some((bytes, mark));
    }

    /// What stands from this place on.
    fn from(&self, at: usize, arrived: &[u8]) -> Vec<u8> {
        match at.checked_sub(self.base.len()) {
            Some(at) => arrived[at..].to_vec(),
            None => [&self.base[at..], arrived].concat(),
        }
    }
}
