//! An established connection with a member whose key is known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::id::PublicKey;
use tokio::sync::watch;

use crate::transport::carrier::{Carrier, RecvStream, SendStream};
use crate::transport::error::{CloseCode, PeerLabel, TransportError};
use crate::transport::frame::{FrameReader, FrameWriter, Hurry};
use crate::transport::tls::PinnedKeys;

/// A connection with an authenticated peer. Clones are the same connection; when the last one and
/// all its streams are dropped, it is closed with [`CloseCode::DONE`].
///
/// All `open_*` and `accept_*` methods are cancel-safe.
#[derive(Debug, Clone)]
pub struct Connection {
    pub(super) carrier: Carrier,
    pub(super) key: PublicKey,
    pub(super) label: Arc<PeerLabel>,
    pub(super) hurry: Hurry,
    pub(super) pins: watch::Receiver<Arc<PinnedKeys>>,
}

impl Connection {
    /// The key the peer proved to have.
    pub fn peer_key(&self) -> PublicKey {
        self.key
    }

    /// The peer's name as it was pinned when the connection was made.
    pub fn peer_name(&self) -> &str {
        &self.label.name
    }

    /// Where the peer is now; changes when a peer moves to another network.
    pub fn peer_addr(&self) -> SocketAddr {
        self.carrier.remote_address()
    }

    /// The current estimate of the round-trip time.
    pub fn rtt(&self) -> Duration {
        self.carrier.rtt()
    }

    /// Bytes in UDP datagrams on this connection so far, (sent, received).
    pub fn udp_bytes(&self) -> (u64, u64) {
        self.carrier.udp_bytes()
    }

    /// Lets QUIC look again whether it may send. In a silence it would do so only with its own probes,
    /// which come at twice the distance each time; an outage of half a minute would be noticed to be over
    /// up to half a minute late. To be called some times in a second while an answer is owed. On the same
    /// occasion the send window, so far `window` bytes, is fitted to what the line takes; returns what it
    /// is now, `None` where there is no need for any of this.
    pub fn nudge(&self, window: u64) -> Option<u64> {
        self.carrier.nudge(window)
    }

    /// Opens a stream in both directions. Waits while the peer allows no more. The peer notices it
    /// with the first frame.
    pub async fn open_bidi(
        &self,
        frame_bytes_max: usize,
    ) -> Result<(FrameWriter, FrameReader), TransportError> {
        let (send, recv) = self.carrier.open_bi().await.map_err(|e| self.label.ended(&e))?;
        Ok((self.writer(send, frame_bytes_max), self.reader(recv, frame_bytes_max)))
    }

    /// Takes the next stream in both directions that the peer opened.
    pub async fn accept_bidi(
        &self,
        frame_bytes_max: usize,
    ) -> Result<(FrameWriter, FrameReader), TransportError> {
        let (send, recv) = self.carrier.accept_bi().await.map_err(|e| self.label.ended(&e))?;
        Ok((self.writer(send, frame_bytes_max), self.reader(recv, frame_bytes_max)))
    }

    /// Opens a stream towards the peer. Waits while the peer allows no more.
    pub async fn open_uni(&self, frame_bytes_max: usize) -> Result<FrameWriter, TransportError> {
        let send = self.carrier.open_uni().await.map_err(|e| self.label.ended(&e))?;
        Ok(self.writer(send, frame_bytes_max))
    }

    /// Takes the next stream from the peer.
    pub async fn accept_uni(&self, frame_bytes_max: usize) -> Result<FrameReader, TransportError> {
        let recv = self.carrier.accept_uni().await.map_err(|e| self.label.ended(&e))?;
        Ok(self.reader(recv, frame_bytes_max))
    }

    /// Closes at once: what is not acknowledged yet may be lost. `reason` is shown to the peer's
    /// operator, so it must hold no secrets; a few words.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.carrier.close(code.var_int(), reason.as_bytes());
    }

    /// Waits for the end of the connection and tells how it came. Cancel-safe.
    pub async fn closed(&self) -> TransportError {
        self.label.ended(&self.carrier.closed().await)
    }

    /// Waits until the peer's key is pinned no more; the caller then closes with
    /// [`CloseCode::REVOKED`]. Cancel-safe. Fires at once for a peer that was dialled by a key
    /// outside the pinned set.
    pub async fn revoked(&self) {
        let mut pins = self.pins.clone();
        let gone = pins.wait_for(|pins| !pins.contains(&self.key)).await.is_ok();
        if !gone {
            // The endpoint is gone, and with it all who could revoke.
            std::future::pending::<()>().await;
        }
    }

    fn writer(&self, stream: SendStream, frame_bytes_max: usize) -> FrameWriter {
        FrameWriter::new(stream, self.label.clone(), frame_bytes_max, self.hurry.clone())
    }

    fn reader(&self, stream: RecvStream, frame_bytes_max: usize) -> FrameReader {
        FrameReader::new(stream, self.label.clone(), frame_bytes_max)
    }
}
