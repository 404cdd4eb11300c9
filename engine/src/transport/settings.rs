//! What can be set per link, and the limits that hold for all of them.

use std::sync::Arc;
use std::time::Duration;

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::transport::steady::SteadyConfig;

/// Streams a peer may have open towards us: parts being sent, each on its own stream.
pub(super) const UNI_STREAMS_MAX: u32 = 64;
/// Streams in both directions: the control stream and its successor.
pub(super) const BIDI_STREAMS_MAX: u32 = 2;
/// Unread bytes we hold for one peer, over all its streams.
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
/// Unread bytes we hold for one stream. 20 Mbit/s over a satellite (600 ms) need 1.5 MB.
const STREAM_WINDOW_BYTES: u32 = 3 << 19;
/// TLS messages held while they are out of order. A raw-key handshake is below 1 kB.
const CRYPTO_BUFFER_BYTES: usize = 8 << 10;

/// Four datagrams: what a loss can be told from.
const INITIAL_WINDOW_MIN_BYTES: u64 = 4_800;
/// Enough to fill any line of up to 88 kbit/s, and a frame or two of somebody in a hurry.
pub(super) const SEND_WINDOW_MIN_BYTES: u64 = 32 << 10;
/// The send window, of what may be in flight: enough to go on with while the next units are read from
/// the store.
pub(super) const SEND_WINDOW_IN_FLIGHT: u64 = 4;
/// As much as the peer takes unread.
pub(super) const SEND_WINDOW_MAX_BYTES: u64 = CONNECTION_WINDOW_BYTES as u64;
/// 256 kbit/s. On a thinner line a datagram of 1,452 bytes that is only tried takes too long.
const THIN_BYTES_PER_S: u64 = 32_000;

/// Datagrams a peer may leave unacknowledged for the moment.
const ACK_AFTER_DATAGRAMS: u32 = 8;

/// How an endpoint behaves on its links. The defaults suit a wired or mobile link whose owner does
/// not want to pay for silence.
#[derive(Debug, Clone)]
pub struct TransportSettings {
    /// Send a sign of life after this long without traffic. `None` (the default): an idle link
    /// carries nothing at all.
    pub keep_alive: Option<Duration>,
    /// Give a connection up after this long without hearing from the peer; the smaller of both
    /// sides' values counts. 600 s by default, with and without keep-alive: measured on satellite
    /// and mobile profiles, a connection that outlives the outage resumes sooner than a fresh dial,
    /// and a restarted peer says so at once (stateless reset), so a short time-out buys nothing.
    pub idle_timeout: Duration,
    /// Give a handshake up after this long, on both sides. 30 s by default: two lost rounds on a
    /// satellite link of 1.5 s.
    pub handshake_timeout: Duration,
    /// Round-trip time assumed before the first measurement, 333 ms by default (RFC 9002). Too
    /// small repeats the handshake needlessly, too large makes a lost packet cost seconds.
    pub initial_rtt: Duration,
    /// Bytes that may be in flight before anything is known of the line, 14,720 by default: ten datagrams
    /// (RFC 9002). Thin links want less, or the first ones queue for seconds.
    pub initial_window_bytes: u64,
    /// Try once whether datagrams of 1,452 bytes pass, or keep to 1,200. Off for links of a few kB/s, where a lost probe of
    /// 1,450 bytes costs seconds. On by default.
    pub mtu_discovery: bool,
    /// Bytes handed to QUIC but not yet acknowledged, per connection, 64 KiB at first by default. Once
    /// something is being sent, [`Connection::nudge`](super::Connection::nudge) makes it four times of
    /// what may be in flight.
    pub send_window_bytes: u64,
    /// Connections held at once, both directions together, 256 by default; more are refused.
    pub connections_max: usize,
    /// Handshakes of others in progress at once, 64 by default; more are refused.
    pub handshakes_max: usize,
    /// From this many handshakes in progress on, 8 by default, strangers must first prove their
    /// address by returning a retry token, which costs them a round trip and us no memory.
    pub retry_from_handshakes: usize,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            keep_alive: None,
            idle_timeout: Duration::from_secs(600),
            handshake_timeout: Duration::from_secs(30),
            initial_rtt: Duration::from_millis(333),
            initial_window_bytes: 14_720,
            mtu_discovery: true,
            send_window_bytes: 64 << 10,
            connections_max: 256,
            handshakes_max: 64,
            retry_from_handshakes: 8,
        }
    }
}

impl TransportSettings {
    /// For a line of this rate, in bytes per second, and round trip, as far as they are known.
    pub fn for_line(rate: Option<u64>, round_trip: Option<Duration>) -> Self {
        let mut settings = Self::default();
        if let Some(round_trip) = round_trip {
            settings.initial_rtt = round_trip;
            settings.handshake_timeout = settings.handshake_timeout.max(round_trip * 20);
        }
        if let Some(rate) = rate {
            let product = (rate as f64 * settings.initial_rtt.as_secs_f64()) as u64;
            let window = settings.initial_window_bytes;
            settings.initial_window_bytes = product.clamp(INITIAL_WINDOW_MIN_BYTES, window);
            settings.send_window_bytes = (product * SEND_WINDOW_IN_FLIGHT)
                .clamp(SEND_WINDOW_MIN_BYTES, SEND_WINDOW_MAX_BYTES);
            settings.mtu_discovery = rate > THIN_BYTES_PER_S;
        }
        settings
    }

    pub(super) fn quic(&self) -> Arc<TransportConfig> {
        let mut quic = TransportConfig::default();
        quic.max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
            .max_concurrent_bidi_streams(BIDI_STREAMS_MAX.into())
            .stream_receive_window(STREAM_WINDOW_BYTES.into())
            .receive_window(CONNECTION_WINDOW_BYTES.into())
            .send_window(self.send_window_bytes)
            // Without fairness a stream that was begun goes before all others, whatever their priority:
            // a backlog before the control stream.
            .send_fairness(true)
            .crypto_buffer_size(CRYPTO_BUFFER_BYTES)
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(self.keep_alive)
            .max_idle_timeout(Some(idle_timeout(self.idle_timeout)))
            .initial_rtt(self.initial_rtt)
            .ack_frequency_config(Some(ack_frequency()))
            .congestion_controller_factory(Arc::new(SteadyConfig {
                initial_window: self.initial_window_bytes,
            }))
            .mtu_discovery_config(self.mtu_discovery.then(mtu_discovery));
        Arc::new(quic)
    }
}

/// Looks once whether the usual Ethernet is all the way. quinn would come near to the largest that
/// passes, in five steps each way: 13 kB with every call, more than most calls have to say.
fn mtu_discovery() -> MtuDiscoveryConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    // More than half of what lies between 1,200 and 1,452: no step is small enough but the last.
    discovery.minimum_change(130);
    discovery
}

/// Not with every other datagram: on a line that carries many of them, acknowledgements come to 2 % of
/// all bytes. None is held back for longer than usual, 25 ms.
fn ack_frequency() -> AckFrequencyConfig {
    let mut frequency = AckFrequencyConfig::default();
    frequency.ack_eliciting_threshold(ACK_AFTER_DATAGRAMS.into());
    frequency
}

/// QUIC's own unit has 62 bits of milliseconds; what does not fit means "never" to anybody.
fn idle_timeout(wanted: Duration) -> IdleTimeout {
    wanted.try_into().unwrap_or_else(|_| VarInt::MAX.into())
}
