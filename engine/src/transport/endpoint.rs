//! The UDP socket of this process: dials members and takes their calls.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use landfall_protocol::id::PublicKey;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ClientConfig, ConnectError, ConnectionId, ConnectionIdGenerator, EndpointConfig, Incoming,
    ServerConfig, TokioRuntime,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::identity::MemberKey;
use crate::transport::carrier::Carrier;
use crate::transport::connection::Connection;
use crate::transport::error::{CloseCode, KeyFault, PeerLabel, TransportError};
use crate::transport::frame::Hurry;
use crate::transport::settings::TransportSettings;
#[cfg(feature = "simulation")]
use crate::transport::simulated;
use crate::transport::tls::{self, ALPN, PinnedKeys, Presented, Tls};

#[cfg(feature = "planted-bugs")]
mod socket;

/// Datagrams held for one call that is not taken yet, and for all of them, in bytes.
const INCOMING_BYTES: u64 = 64 << 10;
const INCOMING_BYTES_TOTAL: u64 = 4 << 20;
/// How long [`Endpoint::shut_down`] waits for peers to learn of it.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// Purpose of the key that makes stateless resets survive a restart; part of no message.
const RESET_PURPOSE: &str = "landfall: key of stateless resets, version 1";
/// quinn wants a host name; it is never sent.
const HOST_NAME: &str = "landfall.invalid";

/// Our end of all links. Clones are the same endpoint.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub(super) line: Line,
    pub(super) pins: watch::Sender<Arc<PinnedKeys>>,
}

/// What an endpoint listens on.
#[derive(Debug, Clone)]
pub(super) enum Line {
    Quic(Arc<Quic>),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Listener),
}

#[derive(Debug)]
pub(super) struct Quic {
    endpoint: quinn::Endpoint,
    tls: Tls,
    server: ServerConfig,
    transport: Arc<quinn::TransportConfig>,
    settings: TransportSettings,
    handshakes: Arc<Semaphore>,
}

impl Endpoint {
    /// Binds a UDP socket. Must be called within a tokio runtime.
    pub fn bind(
        addr: SocketAddr,
        key: &MemberKey,
        pins: PinnedKeys,
        settings: TransportSettings,
    ) -> Result<Self, TransportError> {
        Self::bind_with_alpn(addr, key, pins, settings, ALPN)
    }

    pub(super) fn bind_with_alpn(
        addr: SocketAddr,
        key: &MemberKey,
        pins: PinnedKeys,
        settings: TransportSettings,
        alpn: &[u8],
    ) -> Result<Self, TransportError> {
        let tls = Tls::new(key, alpn)?;
        let pins = Arc::new(pins);
        let transport = settings.quic();
        // Replaced for each call by one with the pins of the moment.
        let mut server = ServerConfig::with_crypto(Arc::new(tls.accepting(pins.clone()).0));
        server
            .transport_config(transport.clone())
            .max_incoming(settings.handshakes_max)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
        let failed = |error: io::Error| TransportError::Bind { addr, why: error.to_string() };
        let socket = UdpSocket::bind(addr).map_err(failed)?;
        let config = (endpoint_config(key), Some(server.clone()));
        let quic = over(socket, config);
        let line = Line::Quic(Arc::new(Quic {
            endpoint: quic.map_err(failed)?,
            tls,
            server,
            transport,
            handshakes: Arc::new(Semaphore::new(settings.handshakes_max)),
            settings,
        }));
        Ok(Self { line, pins: watch::Sender::new(pins) })
    }

    /// The address the socket is bound to.
    pub fn local_addr(&self) -> Result<SocketAddr, TransportError> {
        match &self.line {
            Line::Quic(quic) => quic.endpoint.local_addr().map_err(|_| TransportError::ShutDown),
            #[cfg(feature = "simulation")]
            Line::Simulated(listener) => Ok(listener.local_addr()),
        }
    }

    /// Replaces the accepted keys: for calls from now on, and for [`Connection::revoked`].
    pub fn set_pins(&self, pins: PinnedKeys) {
        self.pins.send_replace(Arc::new(pins));
    }

    /// The next call that is let in; `None` once the endpoint is shut down. Cancel-safe. Run
    /// [`Arriving::establish`] in a task of its own, so that a slow caller delays nobody.
    pub async fn accept(&self) -> Option<Arriving> {
        let call = match &self.line {
            Line::Quic(quic) => {
                let (incoming, permit) = quic.accept().await?;
                Call::Quic { incoming: Box::new(incoming), quic: Arc::clone(quic), _permit: permit }
            }
            #[cfg(feature = "simulation")]
            Line::Simulated(listener) => Call::Simulated(listener.accept().await?),
        };
        Some(Arriving { call, endpoint: self.clone() })
    }

    /// Calls the member with key `expected` at `addr`; anybody else who answers is refused.
    ///
    /// The peer's own check of our key comes after the end of our handshake: if it refuses, the
    /// first operation on the connection fails with [`TransportError::WrongKey`].
    pub async fn dial(
        &self,
        addr: SocketAddr,
        expected: PublicKey,
    ) -> Result<Connection, TransportError> {
        let label = PeerLabel { name: self.pins.borrow().label(&expected), addr };
        let carrier = match &self.line {
            Line::Quic(quic) => Carrier::Quic(quic.dial(&label, expected).await?),
            #[cfg(feature = "simulation")]
            Line::Simulated(listener) => Carrier::Simulated(listener.dial(addr, expected).await?),
        };
        Ok(self.connection(carrier, expected, label))
    }

    fn connection(&self, carrier: Carrier, key: PublicKey, label: PeerLabel) -> Connection {
        let (label, hurry, pins) = (Arc::new(label), Hurry::default(), self.pins.subscribe());
        Connection { carrier, key, label, hurry, pins }
    }

    /// Closes all connections with [`CloseCode::SHUTDOWN`] and gives the peers a moment to hear it.
    pub async fn shut_down(&self, reason: &str) {
        match &self.line {
            Line::Quic(quic) => {
                quic.endpoint.close(CloseCode::SHUTDOWN.var_int(), reason.as_bytes());
                // Whoever did not hear it within the limit finds out by itself.
                let _ = tokio::time::timeout(DRAIN_MAX, quic.endpoint.wait_idle()).await;
            }
            #[cfg(feature = "simulation")]
            Line::Simulated(listener) => listener.shut_down(reason.as_bytes()),
        }
    }
}

impl Quic {
    async fn accept(&self) -> Option<(Incoming, OwnedSemaphorePermit)> {
        loop {
            let incoming = self.endpoint.accept().await?;
            if let Some(admitted) = self.admit(incoming) {
                return Some(admitted);
            }
        }
    }

    fn admit(&self, incoming: Incoming) -> Option<(Incoming, OwnedSemaphorePermit)> {
        let in_progress = self.settings.handshakes_max - self.handshakes.available_permits();
        let addr = incoming.remote_address();
        if self.endpoint.open_connections() >= self.settings.connections_max {
            tracing::debug!(%addr, "refused a call: too many connections");
            incoming.refuse();
            return None;
        }
        if in_progress >= self.settings.retry_from_handshakes && incoming.may_retry() {
            // Fails only where `may_retry` is false.
            let _ = incoming.retry();
            return None;
        }
        let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
            tracing::debug!(%addr, "refused a call: too many handshakes");
            incoming.refuse();
            return None;
        };
        Some((incoming, permit))
    }

    async fn dial(
        &self,
        label: &PeerLabel,
        expected: PublicKey,
    ) -> Result<quinn::Connection, TransportError> {
        let addr = label.addr;
        let (crypto, presented) = self.tls.dialling(expected);
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        let connecting =
            self.endpoint.connect_with(config, addr, HOST_NAME).map_err(|error| match error {
                ConnectError::EndpointStopping => TransportError::ShutDown,
                error => TransportError::Unreachable { addr, why: error.to_string() },
            })?;
        let fault = |presented: PublicKey| {
            let name = label.name.clone();
            (presented != expected).then_some(KeyFault::NotTheExpected { name, presented })
        };
        self.handshake(connecting, label, &presented, fault).await
    }

    async fn handshake(
        &self,
        connecting: quinn::Connecting,
        label: &PeerLabel,
        presented: &Presented,
        fault: impl FnOnce(PublicKey) -> Option<KeyFault>,
    ) -> Result<quinn::Connection, TransportError> {
        let limit = self.settings.handshake_timeout;
        match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(quic)) => Ok(quic),
            Ok(Err(error)) => {
                let fault = presented.get().copied().and_then(fault);
                Err(label.not_established(&error, fault))
            }
            Err(_) => {
                let why = format!("no handshake within {} s", limit.as_secs_f32());
                Err(TransportError::Unreachable { addr: label.addr, why })
            }
        }
    }
}

/// A call that was let in and is to be authenticated. Dropping it refuses the call.
pub struct Arriving {
    call: Call,
    endpoint: Endpoint,
}

enum Call {
    Quic {
        incoming: Box<Incoming>,
        quic: Arc<Quic>,
        _permit: OwnedSemaphorePermit,
    },
    #[cfg(feature = "simulation")]
    Simulated(simulated::Call),
}

impl Arriving {
    /// Where the call comes from. Not proven yet.
    pub fn peer_addr(&self) -> SocketAddr {
        match &self.call {
            Call::Quic { incoming, .. } => incoming.remote_address(),
            #[cfg(feature = "simulation")]
            Call::Simulated(call) => call.remote_address(),
        }
    }

    /// Completes the handshake: the caller has proven to have a pinned key.
    pub async fn establish(self) -> Result<Connection, TransportError> {
        let Self { call, endpoint } = self;
        let (incoming, quic, _permit) = match call {
            Call::Quic { incoming, quic, _permit } => (incoming, quic, _permit),
            #[cfg(feature = "simulation")]
            Call::Simulated(call) => {
                let (key, addr) = (call.key(), call.remote_address());
                let name = endpoint.pins.borrow().label(&key);
                let carrier = Carrier::Simulated(call.take());
                return Ok(endpoint.connection(carrier, key, PeerLabel { name, addr }));
            }
        };
        let addr = incoming.remote_address();
        let caller = PeerLabel { name: "caller".into(), addr };
        let pins = endpoint.pins.borrow().clone();
        let (crypto, presented) = quic.tls.accepting(pins.clone());
        let mut config = quic.server.clone();
        config.crypto = Arc::new(crypto);
        let connecting = incoming
            .accept_with(Arc::new(config))
            .map_err(|error| caller.not_established(&error, None))?;
        let fault = |presented: PublicKey| {
            (!pins.contains(&presented)).then_some(KeyFault::NotAMember { presented })
        };
        let established = quic.handshake(connecting, &caller, &presented, fault).await?;
        let key = tls::peer_key(&established).expect("the handshake ends only with a pinned key");
        // The pins may have been replaced in between.
        let Some(name) = endpoint.pins.borrow().name(&key).map(str::to_owned) else {
            established.close(CloseCode::REVOKED.var_int(), b"");
            let fault = KeyFault::NotAMember { presented: key };
            return Err(TransportError::WrongKey { addr, fault });
        };
        Ok(endpoint.connection(Carrier::Quic(established), key, PeerLabel { name, addr }))
    }
}

#[cfg(test)]
impl Endpoint {
    /// From now on presents `public`, whose secret key it does not have.
    pub(super) fn claim(&mut self, public: PublicKey) {
        match &mut self.line {
            Line::Quic(quic) => Arc::get_mut(quic).unwrap().tls.claim(public),
            #[cfg(feature = "simulation")]
            Line::Simulated(_) => unreachable!("only QUIC has tests of keys"),
        }
    }
}

#[cfg(test)]
impl Arriving {
    pub(super) fn address_is_proven(&self) -> bool {
        matches!(&self.call, Call::Quic { incoming, .. } if incoming.remote_address_validated())
    }
}

impl fmt::Debug for Arriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arriving").field("peer_addr", &self.peer_addr()).finish_non_exhaustive()
    }
}

fn over(
    socket: UdpSocket,
    (config, server): (EndpointConfig, Option<ServerConfig>),
) -> io::Result<quinn::Endpoint> {
    #[cfg(feature = "planted-bugs")]
    if crate::plant::is_planned(crate::plant::Place::Quic) {
        let socket = Arc::new(socket::Struck::new(socket)?);
        let runtime = Arc::new(TokioRuntime);
        return quinn::Endpoint::new_with_abstract_socket(config, server, socket, runtime);
    }
    quinn::Endpoint::new(config, server, socket, Arc::new(TokioRuntime))
}

/// The reset key is derived from the member key, so that after a restart we can tell the peers of
/// our former connections at once that they are over.
fn endpoint_config(key: &MemberKey) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ResetKey(key.derive(RESET_PURPOSE))));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Random connection ids. quinn's own carry a hash under a key that is lost in a restart, and
/// packets that fail it are dropped in silence instead of answered with a reset.
struct RandomIds;

const CONNECTION_ID_BYTES: usize = 8;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_BYTES];
        getrandom::fill(&mut id).expect("the system gave randomness for the keys before");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// ed25519 signatures are deterministic and unpredictable, so they serve as a keyed hash without
/// another dependency.
struct ResetKey(MemberKey);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&self.0.sign(data));
    }

    fn signature_len(&self) -> usize {
        64
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if self.0.sign(data) == signature { Ok(()) } else { Err(CryptoError) }
    }
}
