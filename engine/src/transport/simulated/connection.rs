//! A connection: two ends, and what is between them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use quinn::{ApplicationClose, ConnectionError, VarInt};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Weather;
use super::stream::{Pipe, RecvStream, SendStream};

/// Silence after which an end gives up, as in the settings of QUIC.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Both ends.
pub(super) struct Wire {
    weather: Arc<dyn Weather>,
    addrs: [SocketAddr; 2],
    state: Mutex<State>,
    changed: Notify,
}

pub(super) struct State {
    ends: [End; 2],
    pub(super) streams: Vec<Stream>,
}

#[derive(Default)]
struct End {
    /// Why it is over, and from when on.
    over: Option<(Instant, ConnectionError)>,
    /// The box is gone: nothing it does any more has an effect.
    unplugged: bool,
    /// Streams the other end opened, not accepted yet.
    two_way: VecDeque<usize>,
    one_way: VecDeque<usize>,
    sent: u64,
    received: u64,
}

/// What each end sends on it; nothing comes from the accepting end of a stream in one direction.
pub(super) struct Stream {
    pub(super) pipes: [Pipe; 2],
}

/// Which streams are meant.
#[derive(Clone, Copy)]
enum Ways {
    One,
    Two,
}

impl End {
    fn waiting(&mut self, ways: Ways) -> &mut VecDeque<usize> {
        match ways {
            Ways::One => &mut self.one_way,
            Ways::Two => &mut self.two_way,
        }
    }
}

impl Wire {
    /// A connection, as both ends hold it.
    pub(super) fn make(
        weather: &Arc<dyn Weather>,
        dialler: SocketAddr,
        listener: SocketAddr,
    ) -> (Connection, Connection) {
        let wire = Arc::new(Self {
            weather: Arc::clone(weather),
            addrs: [dialler, listener],
            state: Mutex::new(State { ends: Default::default(), streams: Vec::new() }),
            changed: Notify::new(),
        });
        let end = |side| Connection { end: Arc::new(EndHandle { wire: Arc::clone(&wire), side }) };
        (end(0), end(1))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }

    pub(super) fn is_between(&self, one: SocketAddr, other: SocketAddr) -> bool {
        self.addrs == [one, other] || self.addrs == [other, one]
    }

    pub(super) fn is_of(&self, addr: SocketAddr) -> bool {
        self.addrs.contains(&addr)
    }

    pub(super) fn unplug(&self, addr: SocketAddr, notice: Duration) {
        let Some(side) = self.addrs.iter().position(|known| *known == addr) else { return };
        let mut state = self.lock();
        state.ends[side].unplugged = true;
        let when = Instant::now() + notice;
        state.ends[1 - side].over.get_or_insert((when, ConnectionError::Reset));
        drop(state);
        self.wake();
    }

    pub(super) fn lose(&self, one: Duration, other: Duration) {
        let mut state = self.lock();
        for (end, after) in state.ends.iter_mut().zip([one, other]) {
            end.over.get_or_insert((Instant::now() + after, ConnectionError::TimedOut));
        }
        drop(state);
        self.wake();
    }

    pub(super) fn close_at(&self, addr: SocketAddr, code: VarInt, reason: &[u8]) {
        if let Some(side) = self.addrs.iter().position(|known| *known == addr) {
            self.close(side, code, reason);
        }
    }

    fn close(&self, side: usize, code: VarInt, reason: &[u8]) {
        let mut state = self.lock();
        if state.ends[side].unplugged || state.is_over(side).is_some() {
            return;
        }
        let now = Instant::now();
        state.ends[side].over = Some((now, ConnectionError::LocallyClosed));
        let word = ApplicationClose { error_code: code, reason: reason.to_vec().into() };
        // The word is said once: when the link is down, the peer finds out by the silence.
        let heard = if self.is_up(side) {
            let (from, to) = (self.addrs[side], self.addrs[1 - side]);
            let after = self.weather.transit(from, to, reason.len() + 100);
            (now + after, ConnectionError::ApplicationClosed(word))
        } else {
            (now + IDLE_TIMEOUT, ConnectionError::TimedOut)
        };
        let other = &mut state.ends[1 - side].over;
        if other.as_ref().is_none_or(|(when, _)| *when > heard.0) {
            *other = Some(heard);
        }
        drop(state);
        self.wake();
    }

    /// Whether what this end sends arrives.
    pub(super) fn is_up(&self, side: usize) -> bool {
        self.weather.is_up(self.addrs[side], self.addrs[1 - side])
    }

    pub(super) fn transit(&self, side: usize, bytes: usize) -> Duration {
        self.weather.transit(self.addrs[side], self.addrs[1 - side], bytes)
    }

    pub(super) fn portion(&self, bytes: usize) -> usize {
        self.weather.portion(bytes).clamp(1, bytes.max(1))
    }

    /// Waits until `look` finds something, or until the connection is over at this end. `look`
    /// says otherwise when to look again at the latest.
    pub(super) async fn until<T>(
        &self,
        side: usize,
        mut look: impl FnMut(&mut State) -> Result<T, Option<Instant>>,
    ) -> Result<T, ConnectionError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let again = {
                let mut state = self.lock();
                if let Some(error) = state.is_over(side) {
                    return Err(error);
                }
                let over_at = state.ends[side].over.as_ref().map(|(when, _)| *when);
                match look(&mut state) {
                    Ok(found) => return Ok(found),
                    Err(at) => at.into_iter().chain(over_at).min(),
                }
            };
            match again {
                None => changed.await,
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }
}

impl State {
    /// Why this end is over, if it is by now.
    pub(super) fn is_over(&self, side: usize) -> Option<ConnectionError> {
        let (when, error) = self.ends[side].over.as_ref()?;
        (*when <= Instant::now()).then(|| error.clone())
    }

    pub(super) fn note_sent(&mut self, side: usize, bytes: usize) {
        self.ends[side].sent += bytes as u64;
    }

    pub(super) fn note_received(&mut self, side: usize, bytes: usize) {
        self.ends[side].received += bytes as u64;
    }
}

/// One end; when its last user is gone, the connection is closed.
pub(super) struct EndHandle {
    pub(super) wire: Arc<Wire>,
    pub(super) side: usize,
}

impl Drop for EndHandle {
    fn drop(&mut self) {
        self.wire.close(self.side, 0_u32.into(), b"");
    }
}

/// As quinn's.
#[derive(Clone)]
pub(in crate::transport) struct Connection {
    end: Arc<EndHandle>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("remote", &self.remote_address()).finish()
    }
}

impl Connection {
    pub(super) fn downgrade(&self) -> Weak<Wire> {
        Arc::downgrade(&self.end.wire)
    }

    pub(in crate::transport) fn remote_address(&self) -> SocketAddr {
        self.end.wire.addrs[1 - self.end.side]
    }

    pub(in crate::transport) fn rtt(&self) -> Duration {
        // What a probe may take, waiting in line included.
        self.end.wire.transit(0, 0) + self.end.wire.transit(1, 0)
    }

    pub(in crate::transport) fn bytes(&self) -> (u64, u64) {
        let state = self.end.wire.lock();
        let end = &state.ends[self.end.side];
        (end.sent, end.received)
    }

    pub(in crate::transport) fn open_bi(
        &self,
    ) -> Result<(SendStream, RecvStream), ConnectionError> {
        let stream = self.open(Ways::Two)?;
        Ok((SendStream::new(&self.end, stream), RecvStream::new(&self.end, stream)))
    }

    pub(in crate::transport) fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        Ok(SendStream::new(&self.end, self.open(Ways::One)?))
    }

    pub(in crate::transport) async fn accept_bi(
        &self,
    ) -> Result<(SendStream, RecvStream), ConnectionError> {
        let stream = self.accept(Ways::Two).await?;
        Ok((SendStream::new(&self.end, stream), RecvStream::new(&self.end, stream)))
    }

    pub(in crate::transport) async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        Ok(RecvStream::new(&self.end, self.accept(Ways::One).await?))
    }

    fn open(&self, ways: Ways) -> Result<usize, ConnectionError> {
        let (wire, side) = (&self.end.wire, self.end.side);
        let mut state = wire.lock();
        if let Some(error) = state.is_over(side) {
            return Err(error);
        }
        let stream = state.streams.len();
        state.streams.push(Stream { pipes: Default::default() });
        state.ends[1 - side].waiting(ways).push_back(stream);
        Ok(stream)
    }

    /// The next stream in the order they were opened, once something of it or of a later one is
    /// here.
    async fn accept(&self, ways: Ways) -> Result<usize, ConnectionError> {
        let (wire, side) = (&self.end.wire, self.end.side);
        wire.until(side, |state| {
            let State { ends, streams } = state;
            let waiting = ends[side].waiting(ways);
            let arrivals = waiting.iter().filter_map(|id| streams[*id].pipes[1 - side].first());
            match arrivals.min() {
                Some(at) if at <= Instant::now() && wire.is_up(1 - side) => {
                    waiting.pop_front().ok_or(None)
                }
                Some(at) if at > Instant::now() => Err(Some(at)),
                _ => Err(None),
            }
        })
        .await
    }

    pub(in crate::transport) fn close(&self, code: VarInt, reason: &[u8]) {
        self.end.wire.close(self.end.side, code, reason);
    }

    pub(in crate::transport) async fn closed(&self) -> ConnectionError {
        let never = self.end.wire.until(self.end.side, |_| Err::<(), _>(None)).await;
        never.expect_err("it only returns when the connection is over")
    }
}
