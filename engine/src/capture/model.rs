//! Capture from a model in the place of PostgreSQL: the same loop over another stream, after the
//! same questions.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use landfall_protocol::limits::inline_bytes_max;

use super::assemble::AssembleError;
use super::bond;
use super::long::{Condensed, Condenser, LongTexts};
use super::scratch::ScratchError;
use super::slot::{self, SlotError};
use super::stream::{CaptureContext, CaptureError};
use super::walsender::{Frame, StandbyStatus, SystemIdentity, TimelineSwitch};
use crate::postgres::lsn::Lsn;
use crate::postgres::model::{Fault, Session, Step};

/// A server with a log.
pub trait Model: crate::postgres::model::Model {
    /// `IDENTIFY_SYSTEM`.
    fn identify(&self) -> Step<'_, SystemIdentity>;
    /// `TIMELINE_HISTORY` of the present timeline.
    fn history(&self) -> Step<'_, Vec<TimelineSwitch>>;
    /// What the slot has confirmed, and whether somebody holds it; `None` when it is missing.
    fn slot(&self) -> Step<'_, Option<(Lsn, bool)>>;
    /// `START_REPLICATION`.
    fn start(&self, from: Lsn) -> Step<'_, Box<dyn Stream>>;
}

/// A running stream.
pub trait Stream: std::fmt::Debug + Send {
    /// The next frame. Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, Fault>>;
    /// Queues a report in place of one that is still queued.
    fn queue_status(&mut self, status: StandbyStatus);
    /// Sends what is queued.
    fn flush_writes(&mut self) -> Result<(), Fault>;
}

/// The stream of a walsender, or of a model.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per capture")]
pub(super) enum WalStream {
    Server(super::walsender::WalStream),
    /// With where long texts are put.
    Model(Box<dyn Stream>, Option<Arc<LongTexts>>),
}

impl WalStream {
    pub(super) fn put_aside(&mut self, texts: Arc<LongTexts>) {
        match self {
            Self::Server(stream) => stream.put_aside(texts),
            Self::Model(_, place) => *place = Some(texts),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Frame, CaptureError> {
        match self {
            Self::Server(stream) => Ok(stream.next().await?),
            Self::Model(stream, texts) => {
                let condensed = condense(stream.next().await?, texts.as_deref());
                Ok(condensed.map_err(AssembleError::from)?)
            }
        }
    }

    pub(super) fn queue_status(&mut self, status: StandbyStatus, now: SystemTime) {
        match self {
            Self::Server(stream) => stream.queue_status(status, now),
            Self::Model(stream, _) => stream.queue_status(status),
        }
    }

    pub(super) async fn flush_writes(&mut self) -> Result<(), CaptureError> {
        match self {
            Self::Server(stream) => Ok(stream.flush_writes().await?),
            Self::Model(stream, _) => Ok(stream.flush_writes()?),
        }
    }
}

/// Puts long texts aside, as it is done with what a server sends.
fn condense(frame: Frame, place: Option<&LongTexts>) -> Result<Frame, ScratchError> {
    match (frame, place) {
        (Frame::XLogData { start, wal_end, sent_at, data, .. }, Some(place))
            if data.len() > inline_bytes_max() =>
        {
            let Condensed { body: data, texts } = Condenser::condense(&data, place)?;
            Ok(Frame::XLogData { start, wal_end, sent_at, data, texts })
        }
        (frame, _) => Ok(frame),
    }
}

/// Opens the stream of a model as the one of a server is opened; says on which timeline that is.
pub(super) async fn open(
    context: &CaptureContext,
    model: &dyn Model,
    start: Lsn,
) -> Result<(Box<dyn Session>, u32), CaptureError> {
    let mut session = model.connect().await?;
    let identity = model.identify().await?;
    let (now, known) = (identity.timeline, context.store.bond().await?.timeline);
    let is_other = known.is_some_and(|known| known != now);
    let history = if is_other { model.history().await? } else { Vec::new() };
    let end = identity.flushed;
    let server = slot::Server { identity, history };
    slot::verify_timeline(known, start, &server)?;
    if start > end {
        return Err(SlotError::DatabaseBehind { server: end, store: start }.into());
    }
    bond::verify_modelled(&mut *session, &context.store).await?;
    let slot = context.database.slot.clone();
    match model.slot().await? {
        None => Err(SlotError::Missing(slot).into()),
        Some((_, true)) => {
            Err(SlotError::Busy { slot, pid: 0, application: "a model".into() }.into())
        }
        Some((confirmed, false)) if confirmed > start => {
            Err(SlotError::StoreBehind { slot: confirmed, store: start }.into())
        }
        Some(_) => Ok((session, now)),
    }
}
