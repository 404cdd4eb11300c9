//! A network for the simulator: connections and streams as QUIC has them, in memory, on the
//! runtime's clock. A stream keeps its order, streams overtake each other, a connection that is cut
//! goes on where it was when the link is back, and one that ends takes what is under way with it.

mod connection;
mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use landfall_protocol::id::PublicKey;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::transport::error::{CloseCode, KeyFault, TransportError};

pub(super) use connection::Connection;
use connection::Wire;
pub(super) use stream::{RecvStream, SendStream};

/// As the settings of QUIC have it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// How links are; asked at every step, so it may change whenever [`Network::changed`] is called
/// afterwards.
pub trait Weather: Send + Sync {
    /// Whether anything gets from one to the other.
    fn is_up(&self, from: SocketAddr, to: SocketAddr) -> bool;
    /// How long bytes that are sent now are under way, waiting in line included.
    fn transit(&self, from: SocketAddr, to: SocketAddr, bytes: usize) -> Duration;
    /// How many of `bytes` are written or read at once; at least one.
    fn portion(&self, bytes: usize) -> usize;
    /// After how long a peer hears of a restart.
    fn notice(&self) -> Duration;
}

/// All endpoints and connections of a world. Clones are the same network.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    weather: Arc<dyn Weather>,
    state: Mutex<State>,
    /// Moves when the weather did.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<SocketAddr, Weak<Port>>,
    wires: Vec<Weak<Wire>>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Network {
    /// Nobody is on it yet.
    pub fn new(weather: Arc<dyn Weather>) -> Self {
        let changes = watch::Sender::new(0);
        Self { inner: Arc::new(Inner { weather, state: Mutex::default(), changes }) }
    }

    /// Must be called when links came up or went down.
    pub fn changed(&self) {
        self.inner.changes.send_modify(|changes| *changes += 1);
        for wire in self.wires() {
            wire.wake();
        }
    }

    /// The box at this address stops at once: nothing is said to anybody. To be called before its
    /// tasks are dropped.
    pub fn unplug(&self, addr: SocketAddr) {
        self.lock().listeners.remove(&addr);
        for wire in self.wires() {
            wire.unplug(addr, self.inner.weather.notice());
        }
    }

    /// Connections between two addresses are lost, as each end finds out in time.
    pub fn lose(&self, one: SocketAddr, other: SocketAddr) {
        for wire in self.wires().into_iter().filter(|wire| wire.is_between(one, other)) {
            wire.lose(self.inner.weather.notice(), self.inner.weather.notice());
        }
    }

    /// All connections of this box are over, at both ends, and what is under way with them.
    pub fn sever(&self, addr: SocketAddr) {
        for wire in self.wires() {
            if wire.is_of(addr) {
                wire.lose(Duration::ZERO, Duration::ZERO);
            }
        }
    }

    fn wires(&self) -> Vec<Arc<Wire>> {
        let mut state = self.lock();
        state.wires.retain(|wire| wire.strong_count() > 0);
        state.wires.iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_up_between(&self, one: SocketAddr, other: SocketAddr) -> bool {
        let weather = &self.inner.weather;
        weather.is_up(one, other) && weather.is_up(other, one)
    }
}

impl super::Endpoint {
    /// An endpoint at `addr` of a simulated network.
    pub fn simulated(
        network: &Network,
        addr: SocketAddr,
        key: PublicKey,
        pins: super::PinnedKeys,
    ) -> Self {
        let port = Arc::new(Port { addr, key, calls: Mutex::default(), arrived: Notify::new() });
        network.lock().listeners.insert(addr, Arc::downgrade(&port));
        let line = super::endpoint::Line::Simulated(Listener { network: network.clone(), port });
        Self { line, pins: watch::Sender::new(Arc::new(pins)) }
    }
}

struct Port {
    addr: SocketAddr,
    key: PublicKey,
    /// `None` once shut down.
    calls: Mutex<Calls>,
    arrived: Notify,
}

#[derive(Default)]
struct Calls {
    waiting: VecDeque<Call>,
    over: bool,
}

impl Port {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One's end of the network.
#[derive(Clone)]
pub(super) struct Listener {
    network: Network,
    port: Arc<Port>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("addr", &self.port.addr).finish_non_exhaustive()
    }
}

impl Listener {
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.port.addr
    }

    pub(super) async fn accept(&self) -> Option<Call> {
        loop {
            {
                let mut calls = self.port.lock();
                if calls.over {
                    return None;
                }
                if let Some(call) = calls.waiting.pop_front() {
                    return Some(call);
                }
            }
            self.port.arrived.notified().await;
        }
    }

    /// Waits for the way there and back, and for the link if it is down.
    pub(super) async fn dial(
        &self,
        addr: SocketAddr,
        expected: PublicKey,
    ) -> Result<Connection, TransportError> {
        let unreachable = |why: &str| TransportError::Unreachable { addr, why: why.into() };
        let established = async {
            let mut changes = self.network.inner.changes.subscribe();
            loop {
                let there = self.transit(self.port.addr, addr) + self.transit(addr, self.port.addr);
                tokio::time::sleep(there).await;
                if self.network.is_up_between(self.port.addr, addr) {
                    let port = self.network.lock().listeners.get(&addr).and_then(Weak::upgrade);
                    if let Some(port) = port {
                        return port;
                    }
                }
                // The handshake is repeated, less and less often.
                let again = tokio::time::sleep(Duration::from_secs(1));
                tokio::select! {
                    biased;
                    _ = changes.changed() => {}
                    () = again => {}
                }
            }
        };
        let port = tokio::time::timeout(HANDSHAKE_TIMEOUT, established)
            .await
            .map_err(|_| unreachable("no answer"))?;
        if port.key != expected {
            let fault = KeyFault::NotTheExpected { name: addr.to_string(), presented: port.key };
            return Err(TransportError::WrongKey { addr, fault });
        }
        let (ours, theirs) = Wire::make(&self.network.inner.weather, self.port.addr, addr);
        self.network.lock().wires.push(ours.downgrade());
        let mut calls = port.lock();
        if calls.over {
            return Err(unreachable("it is stopping"));
        }
        calls.waiting.push_back(Call { connection: theirs, key: self.port.key });
        drop(calls);
        port.arrived.notify_one();
        Ok(ours)
    }

    fn transit(&self, from: SocketAddr, to: SocketAddr) -> Duration {
        self.network.inner.weather.transit(from, to, 1200)
    }

    pub(super) fn shut_down(&self, reason: &[u8]) {
        let mut calls = self.port.lock();
        calls.over = true;
        calls.waiting.clear();
        drop(calls);
        self.port.arrived.notify_one();
        for wire in self.network.wires() {
            wire.close_at(self.port.addr, CloseCode::SHUTDOWN.var_int(), reason);
        }
    }
}

/// A call that arrived.
pub(super) struct Call {
    connection: Connection,
    key: PublicKey,
}

impl Call {
    pub(super) fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    pub(super) fn key(&self) -> PublicKey {
        self.key
    }

    pub(super) fn take(self) -> Connection {
        self.connection
    }
}

/// When something that is sent now arrives, after what was sent before it.
fn arrival(last: Option<Instant>, transit: Duration) -> Instant {
    let at = Instant::now() + transit;
    last.map_or(at, |last| last.max(at))
}
