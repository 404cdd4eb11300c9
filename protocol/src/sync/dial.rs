//! When to call whom, and which of two connections to keep.
//!
//! A link that is down is the normal state, so a [`Dialer`] never gives up and never hurries: it
//! waits longer after each failure, with a random share so that a harbour full of ships does not
//! call all at once. Random numbers are arguments, any `u64` will do.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::SiteId;

/// How long to wait between calls, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure, and after a connection that worked.
    pub min_ms: u64,
    /// At most.
    pub max_ms: u64,
}

impl Backoff {
    /// The wait after this many failures in a row: doubled each time, and of that between a half
    /// and the whole, as `random` says.
    pub fn delay_ms(self, failures: u32, random: u64) -> u64 {
        let doublings = failures.saturating_sub(1).min(63);
        let whole = self.min_ms.saturating_mul(1 << doublings).min(self.max_ms);
        let half = whole / 2;
        half + random % (whole - half + 1)
    }
}

/// Whether a new connection with `peer` takes the place of the one there is. Both sides come to the
/// same answer without speaking: of two calls that crossed, the one of the lower site id stays; a
/// caller that calls again has lost its former connection, even if we have not noticed yet.
pub fn keep_new(
    own: SiteId,
    peer: SiteId,
    existing_dialled_by: SiteId,
    new_dialled_by: SiteId,
) -> bool {
    existing_dialled_by == new_dialled_by || new_dialled_by == own.min(peer)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting { until_ms: u64 },
    Calling,
    Connected { was_ready: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Callee {
    failures: u32,
    state: State,
}

/// Decides when each of the peers that we are to call is called.
#[derive(Clone, Debug)]
pub struct Dialer {
    backoff: Backoff,
    callees: BTreeMap<SiteId, Callee>,
}

impl Dialer {
    /// A dialer that calls nobody yet.
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, callees: BTreeMap::new() }
    }

    /// Whom to call from now on. New ones are called at once; those left out are forgotten, which
    /// cuts no connection.
    pub fn handle_peers(&mut self, peers: &BTreeSet<SiteId>, now_ms: u64) {
        self.callees.retain(|site, _| peers.contains(site));
        for site in peers {
            let state = State::Waiting { until_ms: now_ms };
            self.callees.entry(*site).or_insert(Callee { failures: 0, state });
        }
    }

    /// Whom to call now, each once: it counts as being called until [`Dialer::handle_connected`] or
    /// [`Dialer::handle_down`].
    pub fn due(&mut self, now_ms: u64) -> Vec<SiteId> {
        let mut due = Vec::new();
        for (site, callee) in &mut self.callees {
            if matches!(callee.state, State::Waiting { until_ms } if until_ms <= now_ms) {
                callee.state = State::Calling;
                due.push(*site);
            }
        }
        due
    }

    /// When [`Dialer::due`] next has something to say; `None` while nobody is waited for.
    pub fn next_ms(&self) -> Option<u64> {
        let waits = self.callees.values().filter_map(|callee| match callee.state {
            State::Waiting { until_ms } => Some(until_ms),
            State::Calling | State::Connected { .. } => None,
        });
        waits.min()
    }

    /// When this peer is called next; `None` while it is being called or connected, or is none of
    /// those to call.
    pub fn next_of(&self, peer: SiteId) -> Option<u64> {
        match self.callees.get(&peer)?.state {
            State::Waiting { until_ms } => Some(until_ms),
            State::Calling | State::Connected { .. } => None,
        }
    }

    /// A connection with this peer is up, whoever made it. It is not called while it lasts.
    pub fn handle_connected(&mut self, peer: SiteId) {
        self.change(peer, |callee| callee.state = State::Connected { was_ready: false });
    }

    /// The connection with this peer got past the hellos.
    pub fn handle_ready(&mut self, peer: SiteId) {
        self.change(peer, |callee| {
            if let State::Connected { was_ready } = &mut callee.state {
                *was_ready = true;
            }
        });
    }

    /// A call to this peer failed while no connection with it is up, or its last connection ended.
    pub fn handle_down(&mut self, peer: SiteId, now_ms: u64, random: u64) {
        let backoff = self.backoff;
        self.change(peer, |callee| {
            let worked = callee.state == State::Connected { was_ready: true };
            callee.failures = if worked { 1 } else { callee.failures.saturating_add(1) };
            let until_ms = now_ms.saturating_add(backoff.delay_ms(callee.failures, random));
            callee.state = State::Waiting { until_ms };
        });
    }

    /// As [`Dialer::handle_down`], where calling again soon would change nothing because somebody
    /// must act first: the longest wait at once.
    pub fn handle_refused(&mut self, peer: SiteId, now_ms: u64, random: u64) {
        let backoff = self.backoff;
        self.change(peer, |callee| {
            callee.failures = u32::MAX;
            let until_ms = now_ms.saturating_add(backoff.delay_ms(callee.failures, random));
            callee.state = State::Waiting { until_ms };
        });
    }

    /// This peer is not to be called before that time, for no fault of the link.
    pub fn handle_held(&mut self, peer: SiteId, until_ms: u64) {
        self.change(peer, |callee| {
            *callee = Callee { failures: 0, state: State::Waiting { until_ms } }
        });
    }

    /// What kept this peer from being called is over: no more waiting.
    pub fn handle_released(&mut self, peer: SiteId, now_ms: u64) {
        self.change(peer, |callee| {
            if let State::Waiting { until_ms } = &mut callee.state {
                *until_ms = now_ms.min(*until_ms);
            }
        });
    }

    fn change(&mut self, peer: SiteId, change: impl FnOnce(&mut Callee)) {
        if let Some(callee) = self.callees.get_mut(&peer) {
            change(callee);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { min_ms: 1_000, max_ms: 60_000 };

    fn site(number: u16) -> SiteId {
        SiteId::new(number).unwrap()
    }

    fn dialer() -> Dialer {
        let mut dialer = Dialer::new(BACKOFF);
        dialer.handle_peers(&BTreeSet::from([site(2), site(3)]), 0);
        dialer
    }

    #[test]
    fn waits_double_up_to_the_limit_and_are_spread() {
        for (failures, whole) in
            [(0, 1_000), (1, 1_000), (2, 2_000), (7, 60_000), (u32::MAX, 60_000)]
        {
            assert_eq!(BACKOFF.delay_ms(failures, 0), whole / 2);
            assert_eq!(BACKOFF.delay_ms(failures, whole / 2), whole);
            for random in [1, 77, u64::MAX] {
                assert!((whole / 2..=whole).contains(&BACKOFF.delay_ms(failures, random)));
            }
        }
        let (none, endless) =
            (Backoff { min_ms: 0, max_ms: 0 }, Backoff { min_ms: 1, max_ms: u64::MAX });
        assert_eq!(none.delay_ms(9, 5), 0);
        assert!(endless.delay_ms(99, u64::MAX) >= 1 << 62);
    }

    #[test]
    fn new_peers_are_called_at_once_and_once() {
        let mut dialer = dialer();
        assert_eq!(dialer.next_ms(), Some(0));
        assert_eq!(dialer.due(0), [site(2), site(3)]);
        assert_eq!((dialer.due(1_000_000), dialer.next_ms()), (vec![], None));
    }

    #[test]
    fn a_connected_peer_is_not_called() {
        let mut dialer = dialer();
        dialer.handle_connected(site(2));
        assert_eq!(dialer.due(0), [site(3)]);
        dialer.handle_peers(&BTreeSet::from([site(2), site(3)]), 5);
        assert_eq!((dialer.due(1_000_000), dialer.next_ms()), (vec![], None));
    }

    #[test]
    fn failures_add_up_until_a_connection_was_ready() {
        let mut dialer = dialer();
        let mut now = 0;
        for wait in [500, 1_000, 2_000] {
            dialer.handle_down(site(2), now, 0);
            dialer.handle_connected(site(3));
            now += wait;
            assert_eq!(dialer.next_ms(), Some(now));
            assert_eq!((dialer.due(now - 1), dialer.due(now)), (vec![], vec![site(2)]));
        }
        // A connection that is refused in the hello is one more failure.
        dialer.handle_connected(site(2));
        dialer.handle_down(site(2), now, 0);
        assert_eq!(dialer.next_ms(), Some(now + 4_000));
        dialer.handle_connected(site(2));
        dialer.handle_ready(site(2));
        dialer.handle_down(site(2), now, 0);
        assert_eq!(dialer.next_ms(), Some(now + 500));
    }

    #[test]
    fn a_refused_peer_waits_longest_until_a_connection_was_ready() {
        let mut dialer = dialer();
        assert_eq!(dialer.next_of(site(2)), Some(0));
        dialer.handle_refused(site(2), 0, 0);
        assert_eq!(dialer.next_of(site(2)), Some(30_000));
        dialer.handle_down(site(2), 40_000, 0);
        assert_eq!(dialer.next_of(site(2)), Some(70_000));
        dialer.handle_connected(site(2));
        assert_eq!((dialer.next_of(site(2)), dialer.next_of(site(9))), (None, None));
        dialer.handle_ready(site(2));
        dialer.handle_down(site(2), 80_000, 0);
        assert_eq!(dialer.next_of(site(2)), Some(80_500));
    }

    #[test]
    fn a_held_peer_waits_until_its_time_or_its_release() {
        let mut dialer = dialer();
        dialer.handle_down(site(2), 0, 0);
        dialer.handle_held(site(2), 90_000);
        assert_eq!(dialer.due(89_999), [site(3)]);
        dialer.handle_released(site(2), 40_000);
        dialer.handle_released(site(2), 50_000);
        assert_eq!(dialer.next_of(site(2)), Some(40_000));
        assert_eq!(dialer.due(40_000), [site(2)]);
        // A call that is under way goes on.
        dialer.handle_released(site(2), 60_000);
        assert_eq!(dialer.due(60_000), []);
        // What was before does not make the next wait longer.
        dialer.handle_down(site(2), 60_000, 0);
        assert_eq!(dialer.next_of(site(2)), Some(60_500));
    }

    #[test]
    fn a_peer_left_out_is_forgotten() {
        let mut dialer = dialer();
        dialer.handle_peers(&BTreeSet::from([site(3)]), 0);
        dialer.handle_down(site(2), 0, 0);
        assert_eq!(dialer.due(u64::MAX), [site(3)]);
    }

    #[test]
    fn both_sides_keep_the_same_of_two_crossing_calls() {
        let (low, high) = (site(1), site(2));
        for (own, peer) in [(low, high), (high, low)] {
            assert!(keep_new(own, peer, high, low));
            assert!(!keep_new(own, peer, low, high));
            assert!(keep_new(own, peer, low, low) && keep_new(own, peer, high, high));
        }
    }
}
