//! Receiving the units of one origin.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use landfall_protocol::id::{Origin, PublicKey, Seq};
use landfall_protocol::unit::{UNIT_BYTES_MAX, Unit, UnitError};
use landfall_protocol::wire::{Begun, UnitStreamHead, WireError};
use tokio::sync::mpsc;

use super::begun::Underway;
use super::status::Heard;
use crate::store::{Appended, Severity, Store, StoreError};
use crate::transport::{FrameError, FrameReader, Step};
use crate::{plant, time};

/// Units that have arrived are stored together up to this many bytes: one sync of the disk for
/// many small ones.
const GROUP_BYTES: usize = 1 << 20;
/// How long to wait before another try when the store is full.
const FULL_PAUSE_MIN: Duration = Duration::from_secs(1);
const FULL_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Reads what a unit stream is about. `None`: the peer gave it up.
pub(super) async fn read_head(
    mut reader: FrameReader,
) -> Result<Option<(UnitStreamHead, FrameReader)>, Fault> {
    match reader.next().await {
        Ok(Some(frame)) => {
            let head = UnitStreamHead::decode(&frame)?;
            reader.set_frame_bytes_max(UNIT_BYTES_MAX);
            Ok(Some((head, reader)))
        }
        Ok(None) => Err(Fault::Broke("a unit stream without a head".into())),
        Err(FrameError::Reset(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Takes the units of one stream, checks them and stores them.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) store: Store,
    pub(super) reader: FrameReader,
    pub(super) origin: Origin,
    pub(super) underway: Underway,
    /// What we told that we have of the first unit, if the stream goes on behind that.
    pub(super) begun: Option<Begun>,
    /// The pinned key of the origin's site.
    pub(super) key: PublicKey,
    pub(super) heard: Arc<Heard>,
    /// Where to tell what is stored.
    pub(super) arrived: mpsc::Sender<Arrived>,
}

/// Units up to here came in and are durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub(super) origin: Origin,
    pub(super) last: Seq,
}

/// Why a stream is not read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The origin itself signed what cannot be, mostly because two boxes write in its name: it must
    /// be set aside.
    #[error("{0}")]
    BadOrigin(String),
    /// What came is not what the origin signed. That speaks against whoever carried it, and proves
    /// nothing about the origin.
    #[error("{0}")]
    BadCarrier(String),
    /// A unit that this version cannot read; a newer one may.
    #[error("{0}")]
    NotUnderstood(String),
    /// What came does not fit to what we have of the unit, or we have that no longer: nobody's fault.
    #[error("{0}")]
    Unfit(&'static str),
    /// The peer broke the protocol.
    #[error("{0}")]
    Broke(String),
    #[error(transparent)]
    Frame(FrameError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Self {
        Self::Broke(error.to_string())
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLong { .. } | FrameError::BadLength | FrameError::Truncated { .. } => {
                Self::Broke(error.to_string())
            }
            error => Self::Frame(error),
        }
    }
}

impl From<UnitError> for Fault {
    fn from(error: UnitError) -> Self {
        match error {
            UnitError::UnknownFormat(_) => Self::NotUnderstood(error.to_string()),
            error => Self::BadCarrier(error.to_string()),
        }
    }
}

impl Intake {
    /// Runs to the end of the stream.
    pub(super) async fn run(mut self) -> Result<(), Fault> {
        if let Some(begun) = self.begun
            && !self.underway.go_on(begun).await?
        {
            return Err(Fault::Unfit("what it follows on is not kept any more"));
        }
        loop {
            let (frames, end) = self.next_group().await;
            self.heard.note();
            let (units, fault) = self.open(frames);
            self.append(units).await?;
            match (fault, end) {
                (Some(fault), _) => return Err(fault),
                (None, Some(Ok(()))) => return Ok(()),
                (None, Some(Err(error))) => return self.end(error).await,
                (None, None) => {}
            }
        }
    }

    /// The stream is lost, and perhaps the connection: what has come of a unit is not.
    async fn end(mut self, error: FrameError) -> Result<(), Fault> {
        match error {
            FrameError::Reset(_) => {
                self.underway.keep(&self.reader).await;
                Ok(())
            }
            FrameError::Connection(_) => {
                self.underway.keep(&self.reader).await;
                Err(error.into())
            }
            error => Err(error.into()),
        }
    }

    /// Waits for one unit and takes what has arrived with it; says when the stream ended.
    async fn next_group(&mut self) -> (Vec<Bytes>, Option<Result<(), FrameError>>) {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        let mut next = Some(self.next().await);
        while let Some(frame) = next {
            match frame {
                Ok(Some(frame)) => {
                    bytes += frame.len();
                    frames.push(frame);
                }
                Ok(None) => return (frames, Some(Ok(()))),
                Err(error) => return (frames, Some(Err(error))),
            }
            let more = bytes < GROUP_BYTES;
            next = if more { self.reader.next().now_or_never() } else { None };
        }
        (frames, None)
    }

    /// The next unit, of which meanwhile is kept what has come.
    async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            match self.reader.step().await? {
                Step::Frame(frame) => return Ok(Some(frame)),
                Step::More => self.underway.note(&self.reader).await,
                Step::End => return Ok(None),
            }
        }
    }

    /// Checks units up to the first bad one.
    fn open(&mut self, frames: Vec<Bytes>) -> (Vec<Unit>, Option<Fault>) {
        let mut units = Vec::with_capacity(frames.len());
        for frame in frames {
            let (whole, before) = self.underway.put_together(frame);
            if self.begun.take().is_some_and(|begun| begun.length != whole.len()) {
                #[cfg(feature = "simulation")]
                crate::simulation::misfitted(self.origin);
                return (units, Some(Fault::Unfit("it has another length")));
            }
            match Unit::open(whole, &self.key) {
                Err(_) if before > 0 => {
                    #[cfg(feature = "simulation")]
                    crate::simulation::misfitted(self.origin);
                    return (units, Some(Fault::Unfit("both together are no unit")));
                }
                Ok(unit) if unit.header().origin == self.origin => {
                    self.heard.note_resumed(before);
                    units.push(unit);
                }
                Ok(unit) => {
                    let (found, origin) = (unit.header().origin, self.origin);
                    let why = format!("a unit of origin {found} on the stream of {origin}");
                    return (units, Some(Fault::Broke(why)));
                }
                Err(error) => return (units, Some(error.into())),
            }
        }
        (units, None)
    }

    async fn append(&mut self, units: Vec<Unit>) -> Result<(), Fault> {
        if units.is_empty() {
            return Ok(());
        }
        let lasts: Vec<Seq> = units.iter().map(|unit| unit.header().last).collect();
        if let (Some(last), true) = (lasts.last(), plant::active("ack-before-sync")) {
            let _ = self.arrived.send(Arrived { origin: self.origin, last: *last }).await;
        }
        let mut stored = None;
        let mut fault = None;
        for (appended, last) in self.store_units(units).await?.into_iter().zip(lasts) {
            match self.judge(appended, last) {
                Ok(()) => stored = Some(last),
                Err(found) => {
                    fault = Some(found);
                    break;
                }
            }
        }
        if let Some(last) = stored {
            self.underway.moved(last);
            // The link is gone if nobody listens, and this task with it.
            let _ = self.arrived.send(Arrived { origin: self.origin, last }).await;
        }
        fault.map_or(Ok(()), Err)
    }

    fn judge(&self, appended: Appended, last: Seq) -> Result<(), Fault> {
        let origin = self.origin;
        match appended {
            Appended::Stored | Appended::Duplicate => Ok(()),
            Appended::Gap { held } => Err(Fault::Broke(format!(
                "the unit of origin {origin} up to {last} does not follow on {held}"
            ))),
            Appended::Forked { seq } => Err(Fault::BadOrigin(format!(
                "origin {origin} has two histories: they differ at {seq}"
            ))),
            Appended::Malformed => Err(Fault::BadOrigin(format!(
                "the unit of origin {origin} up to {last} contradicts itself"
            ))),
        }
    }

    /// Stores units, however long it takes until there is room. Meanwhile the peer waits, because
    /// nothing more is read.
    async fn store_units(&self, units: Vec<Unit>) -> Result<Vec<Appended>, StoreError> {
        let mut pause = FULL_PAUSE_MIN;
        loop {
            match self.store.append_units(units.clone(), time::wall_ms()).await {
                Err(error) if error.severity() == Severity::Retry => {
                    tracing::warn!(origin = %self.origin, %error, advice = error.advice(), "units wait");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(FULL_PAUSE_MAX);
                }
                done => return done,
            }
        }
    }
}
