//! How the links between sites are.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfall_engine::transport::Weather;
use landfall_protocol::id::SiteId;
use tokio::time::Instant;

use crate::dice::Dice;

/// Where a site is.
pub(crate) fn address(site: SiteId) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), site.number())
}

/// What one direction of a link is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// The way without waiting.
    pub(crate) delay_ms: u64,
    /// Added at random, at most.
    pub(crate) jitter_ms: u64,
    /// As thin as this.
    pub(crate) bytes_per_ms: u64,
}

/// The weather between all sites.
#[derive(Clone)]
pub(crate) struct Sky(Arc<Mutex<State>>);

struct State {
    dice: Dice,
    line: Line,
    /// Directions that carry nothing.
    cut: BTreeMap<(SocketAddr, SocketAddr), u32>,
    /// Until when a direction is busy.
    busy: BTreeMap<(SocketAddr, SocketAddr), Instant>,
    /// Bytes taken at once, at most.
    portion_max: u64,
}

impl Sky {
    pub(crate) fn new(line: Line, portion_max: u64, dice: Dice) -> Self {
        let (cut, busy) = (BTreeMap::new(), BTreeMap::new());
        Self(Arc::new(Mutex::new(State { dice, line, cut, busy, portion_max })))
    }

    /// Cuts one direction; cuts add up.
    pub(crate) fn cut(&self, from: SiteId, to: SiteId) {
        *self.lock().cut.entry((address(from), address(to))).or_default() += 1;
    }

    /// Undoes one cut.
    pub(crate) fn mend(&self, from: SiteId, to: SiteId) {
        let mut state = self.lock();
        let way = (address(from), address(to));
        match state.cut.get_mut(&way) {
            Some(cuts) if *cuts > 1 => *cuts -= 1,
            _ => drop(state.cut.remove(&way)),
        }
    }

    /// Undoes all cuts.
    pub(crate) fn clear(&self) {
        self.lock().cut.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Weather for Sky {
    fn is_up(&self, from: SocketAddr, to: SocketAddr) -> bool {
        !self.lock().cut.contains_key(&(from, to))
    }

    fn transit(&self, from: SocketAddr, to: SocketAddr, bytes: usize) -> Duration {
        let mut state = self.lock();
        let now = Instant::now();
        let line = state.line;
        let free = state.busy.get(&(from, to)).map_or(now, |busy| now.max(*busy));
        let sent = free + Duration::from_micros(bytes as u64 * 1000 / line.bytes_per_ms.max(1));
        state.busy.insert((from, to), sent);
        let way = line.delay_ms + state.dice.below(line.jitter_ms + 1);
        sent.saturating_duration_since(now) + Duration::from_millis(way)
    }

    fn portion(&self, bytes: usize) -> usize {
        let mut state = self.lock();
        let most = state.portion_max;
        if most == 0 { bytes } else { 1 + state.dice.below(most) as usize }
    }

    fn notice(&self) -> Duration {
        // Mostly the next packet tells; where none is sent, silence does after a long while.
        let mut state = self.lock();
        let quickly = state.dice.below(4) > 0;
        let ms = if quickly { state.dice.below(2_000) } else { 20_000 + state.dice.below(60_000) };
        Duration::from_millis(ms)
    }
}
