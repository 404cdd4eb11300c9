//! Sending the units of one origin.

use bytes::Bytes;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::unit::{UNIT_BYTES_MAX, Unit};
use landfall_protocol::wire::{Begun, UnitStreamHead};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::plant;
use crate::store::{Log, Store, StoreError};
use crate::transport::{Connection, FrameError, FrameWriter};

/// What is read from the store and held in memory at once, in bytes; a larger unit comes alone.
const PORTION_BYTES: usize = 256 << 10;

/// More than this of one origin is bulk, which lets all others go first. Or a small change of one
/// origin would wait for hours behind the backlog of another.
const BULK_BYTES: usize = 64 << 10;

/// Sends what there is of one origin, then ends. It is started anew when there is more.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) store: Store,
    pub(super) log: watch::Receiver<Log>,
    pub(super) connection: Connection,
    pub(super) origin: Origin,
    /// The last transaction the peer holds or was sent.
    pub(super) sent: Seq,
    /// What the peer has of the unit that comes next.
    pub(super) begun: Option<Begun>,
    /// Above 0. Of several origins with bulk, the one with the lowest rank goes first: what is complete
    /// can be used.
    pub(super) rank: u64,
    /// The zstd level at which units are packed anew; `None` sends them as they are kept.
    pub(super) level: Option<i32>,
    /// The stream that was left open when the pump last ended.
    pub(super) stream: Option<FrameWriter>,
    /// Asks to finish the unit under way and the stream.
    pub(super) stop: CancellationToken,
}

/// How far a pump came.
#[derive(Debug)]
pub(super) struct Pumped {
    pub(super) sent: Seq,
    /// Open at the end of a unit, unless the pump was stopped.
    pub(super) stream: Option<FrameWriter>,
}

/// Why a pump could not go on.
#[derive(Debug)]
pub(super) enum PumpError {
    /// The peer wants no more of this stream.
    NotWanted,
    Frame(FrameError),
    Store(StoreError),
    /// The store says that it holds more, and gives nothing.
    NothingThere,
}

impl From<FrameError> for PumpError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Stopped(_) => Self::NotWanted,
            error => Self::Frame(error),
        }
    }
}

impl From<StoreError> for PumpError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Pump {
    pub(super) async fn run(mut self) -> Result<Pumped, PumpError> {
        let sent = self.send_all().await;
        // What was sent is whole; to give the stream up would take back what is under way of it.
        let is_over = match &sent {
            Ok(()) => self.stop.is_cancelled(),
            Err(error) => matches!(error, PumpError::Store(_) | PumpError::NothingThere),
        };
        let finished = match self.stream.take_if(|_| is_over) {
            Some(mut stream) => stream.finish().await,
            None => Ok(()),
        };
        sent?;
        finished?;
        Ok(Pumped { sent: self.sent, stream: self.stream })
    }

    async fn send_all(&mut self) -> Result<(), PumpError> {
        while !self.stop.is_cancelled() && self.known() > self.sent {
            // Before anything is read: streams are few, and what waits for one should be small.
            self.open_stream().await?;
            if self.stop.is_cancelled() {
                break;
            }
            self.send_portion().await?;
        }
        Ok(())
    }

    fn known(&self) -> Seq {
        self.log.borrow().received.get(self.origin)
    }

    async fn open_stream(&mut self) -> Result<(), PumpError> {
        if self.stream.is_some() {
            return Ok(());
        }
        let mut writer = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            writer = self.connection.open_uni(UNIT_BYTES_MAX) => writer.map_err(FrameError::from)?,
        };
        let at = self.resume().await?;
        let head = UnitStreamHead { origin: self.origin, after: self.sent, at };
        writer.send(Bytes::from(head.encode())).await?;
        self.stream = Some(writer);
        Ok(())
    }

    /// Where to go on in the next unit. It is read for that alone, which is rare.
    async fn resume(&mut self) -> Result<usize, PumpError> {
        let Some(begun) = &self.begun else { return Ok(0) };
        let next = self.store.units_after(self.origin, self.sent, 1).await?.into_iter().next();
        let next = next.filter(|unit| unit.header().first == self.sent.next());
        let fits = match next {
            Some(unit) => begun.begins(self.as_sent(unit).await?.bytes()),
            None => false,
        };
        let fits = fits || plant::active("resume-unchecked");
        self.begun = self.begun.filter(|_| fits);
        Ok(self.begun.map_or(0, |begun| begun.bytes))
    }

    async fn send_portion(&mut self) -> Result<(), PumpError> {
        let units = self.store.units_after(self.origin, self.sent, PORTION_BYTES).await?;
        if units.is_empty() {
            return Err(PumpError::NothingThere);
        }
        self.set_priority(&units);
        for unit in units {
            if self.stop.is_cancelled() {
                break;
            }
            self.send_unit(unit).await?;
        }
        Ok(())
    }

    fn set_priority(&mut self, units: &[Unit]) {
        let bytes: usize = units.iter().map(|unit| unit.bytes().len()).sum();
        let is_all = units.last().is_some_and(|unit| unit.header().last >= self.known());
        let is_bulk = bytes > BULK_BYTES || !is_all;
        let stream = self.stream.as_mut().expect("opened before the portion was read");
        let rank = i32::try_from(self.rank).unwrap_or(i32::MAX);
        stream.set_priority(if is_bulk { -rank } else { 0 });
    }

    async fn send_unit(&mut self, unit: Unit) -> Result<(), PumpError> {
        let last = unit.header().last;
        // The store's reader may be ahead of its news. The session must know that a unit of ours
        // is sealed before a peer can acknowledge it, or it takes us for restored.
        let published = self.log.wait_for(|log| log.received.get(self.origin) >= last).await;
        published.map_err(|_| StoreError::Closed)?;
        let unit = self.as_sent(unit).await?;
        let stream = self.stream.as_mut().expect("opened before the portion was read");
        // Only the first unit of a stream is gone on with, behind what its head says.
        let at = self.begun.take().map_or(0, |begun| begun.bytes);
        let mut bytes = Bytes::from(unit.into_bytes());
        stream.send(bytes.split_off(at.min(bytes.len()))).await?;
        self.sent = last;
        Ok(())
    }

    /// A unit as it goes over this link.
    async fn as_sent(&self, unit: Unit) -> Result<Unit, StoreError> {
        match self.level {
            Some(level) => self.store.packed(unit, level).await,
            None => Ok(packed(unit)),
        }
    }
}

/// As it is sent: as it came, but in a simulator that wants carriers to differ.
#[cfg(not(feature = "simulation"))]
fn packed(unit: Unit) -> Unit {
    unit
}

#[cfg(feature = "simulation")]
fn packed(unit: Unit) -> Unit {
    if plant::active("packs-anew") { unit.packed_anew() } else { unit }
}
