//! What carries connections and streams: QUIC, or a simulator's network. Both behave as quinn does.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, ReadError, StoppedError, VarInt, WriteError};

use super::settings::{SEND_WINDOW_IN_FLIGHT, SEND_WINDOW_MAX_BYTES, SEND_WINDOW_MIN_BYTES};
#[cfg(feature = "simulation")]
use super::simulated;
use crate::plant::{self, Place};

/// How much is taken from QUIC at once, in bytes: bounds what a reader holds beyond one frame.
const READ_BYTES: usize = 64 << 10;

/// The stream was finished or given up before.
#[derive(Debug)]
pub(super) struct ClosedStream;

impl From<quinn::ClosedStream> for ClosedStream {
    fn from(_: quinn::ClosedStream) -> Self {
        Self
    }
}

#[derive(Debug, Clone)]
pub(super) enum Carrier {
    Quic(quinn::Connection),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Connection),
}

#[derive(Debug)]
pub(super) enum SendStream {
    Quic(quinn::SendStream),
    #[cfg(feature = "simulation")]
    Simulated(simulated::SendStream),
}

#[derive(Debug)]
pub(super) enum RecvStream {
    Quic(quinn::RecvStream),
    #[cfg(feature = "simulation")]
    Simulated(simulated::RecvStream),
}

impl Carrier {
    pub(super) fn remote_address(&self) -> SocketAddr {
        match self {
            Self::Quic(quic) => quic.remote_address(),
            #[cfg(feature = "simulation")]
            Self::Simulated(connection) => connection.remote_address(),
        }
    }

    pub(super) fn rtt(&self) -> Duration {
        match self {
            Self::Quic(quic) => quic.rtt(),
            #[cfg(feature = "simulation")]
            Self::Simulated(connection) => connection.rtt(),
        }
    }

    /// Bytes in datagrams so far, (sent, received).
    pub(super) fn udp_bytes(&self) -> (u64, u64) {
        match self {
            Self::Quic(quic) => {
                let stats = quic.stats();
                (stats.udp_tx.bytes, stats.udp_rx.bytes)
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(connection) => connection.bytes(),
        }
    }

    /// Lets QUIC look again whether it may send, and fits the send window, so far `window`, to what the
    /// line takes. What it is now; `None` where none of this makes a difference.
    pub(super) fn nudge(&self, window: u64) -> Option<u64> {
        match self {
            Self::Quic(quic) => {
                let wanted = quic.stats().path.cwnd.saturating_mul(SEND_WINDOW_IN_FLIGHT);
                let wanted = wanted.clamp(SEND_WINDOW_MIN_BYTES, SEND_WINDOW_MAX_BYTES);
                // While it shrinks nobody is let in, not even who is in a hurry.
                let fits = (wanted..=wanted * 4).contains(&window);
                let window = if fits { window } else { wanted };
                // Wakes it, too.
                quic.set_send_window(window);
                Some(window)
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => None,
        }
    }

    pub(super) async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        match self {
            Self::Quic(quic) => quic.open_bi().await.map(both),
            #[cfg(feature = "simulation")]
            Self::Simulated(connection) => connection.open_bi().map(simulated_both),
        }
    }

    pub(super) async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        match self {
            Self::Quic(quic) => quic.accept_bi().await.map(both),
            #[cfg(feature = "simulation")]
            Self::Simulated(connection) => connection.accept_bi().await.map(simulated_both),
        }
    }

    pub(super) async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        match self {
            Self::Quic(quic) => quic.open_uni().await.map(SendStream::Quic),
            #[cfg(feature = "simulation")]
            Self::Simulated(connection) => connection.open_uni().map(SendStream::Simulated),
        }
    }

    pub(super) async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        match self {
            Self::Quic(quic) => quic.accept_uni().await.map(RecvStream::Quic),
            #[cfg(feature = "simulation")]
            Self::Simulated(connection) => connection.accept_uni().await.map(RecvStream::Simulated),
        }
    }

    pub(super) fn close(&self, code: VarInt, reason: &[u8]) {
        match self {
            Self::Quic(quic) => quic.close(code, reason),
            #[cfg(feature = "simulation")]
            Self::Simulated(connection) => connection.close(code, reason),
        }
    }

    pub(super) async fn closed(&self) -> ConnectionError {
        match self {
            Self::Quic(quic) => quic.closed().await,
            #[cfg(feature = "simulation")]
            Self::Simulated(connection) => connection.closed().await,
        }
    }
}

fn both((send, recv): (quinn::SendStream, quinn::RecvStream)) -> (SendStream, RecvStream) {
    (SendStream::Quic(send), RecvStream::Quic(recv))
}

#[cfg(feature = "simulation")]
fn simulated_both(
    (send, recv): (simulated::SendStream, simulated::RecvStream),
) -> (SendStream, RecvStream) {
    (SendStream::Simulated(send), RecvStream::Simulated(recv))
}

impl SendStream {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        if plant::step(Place::Stream).is_some() {
            return Err(WriteError::ConnectionLost(ConnectionError::Reset));
        }
        match self {
            Self::Quic(quic) => quic.write(bytes).await,
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => stream.write(bytes).await,
        }
    }

    pub(super) fn finish(&mut self) -> Result<(), ClosedStream> {
        match self {
            Self::Quic(quic) => Ok(quic.finish()?),
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => stream.finish(),
        }
    }

    pub(super) async fn stopped(&mut self) -> Result<Option<VarInt>, StoppedError> {
        match self {
            Self::Quic(quic) => quic.stopped().await,
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => stream.stopped().await,
        }
    }

    pub(super) fn reset(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        match self {
            Self::Quic(quic) => Ok(quic.reset(code)?),
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => stream.reset(code),
        }
    }

    pub(super) fn set_priority(&self, priority: i32) -> Result<(), ClosedStream> {
        match self {
            Self::Quic(quic) => Ok(quic.set_priority(priority)?),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Ok(()),
        }
    }
}

impl RecvStream {
    /// The next bytes; `None` at the end.
    pub(super) async fn read_chunk(&mut self) -> Result<Option<Bytes>, ReadError> {
        match self {
            Self::Quic(quic) => {
                let chunk = quic.read_chunk(READ_BYTES, true).await?;
                Ok(chunk.map(|chunk| chunk.bytes))
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => stream.read_chunk(READ_BYTES).await,
        }
    }

    pub(super) fn stop(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        match self {
            Self::Quic(quic) => Ok(quic.stop(code)?),
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => stream.stop(code),
        }
    }
}
