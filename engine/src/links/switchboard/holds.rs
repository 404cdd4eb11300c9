//! Holds links back, and ends them, as the operator wants.

use landfall_protocol::id::SiteId;
use landfall_protocol::version::VersionVector;

use super::{
    Hold, LOOK_MS_BUSY, LOOK_MS_DRAIN, LOOK_MS_MAX, LOOK_MS_QUIET, Left, PeerState, Quiet,
    Switchboard,
};
use crate::config::News;
use crate::time;
use crate::transport::{CloseCode, Connection};

impl Switchboard {
    /// Ends links that are not wanted any more, and lets those be called that are wanted again.
    pub(super) fn look_at_policies(&mut self) {
        let now_ms = self.now_ms();
        if self.fenced.is_some() || self.look_at_ms.is_none_or(|at_ms| at_ms > now_ms) {
            return;
        }
        let sites: Vec<SiteId> = self.policies.keys().copied().collect();
        let mut next_ms = LOOK_MS_MAX;
        for site in sites {
            next_ms = next_ms.min(self.look_at_policy(site));
        }
        self.look_at_ms = Some(now_ms.saturating_add(next_ms));
    }

    /// Says after how many milliseconds to look again.
    fn look_at_policy(&mut self, site: SiteId) -> u64 {
        let spent = self.shared.board.spent(site);
        let before = self.spent.insert(site, spent);
        let Some(hold) = self.hold(site) else {
            if self.held.remove(&site).is_some() {
                tracing::info!(%site, "links with this peer are wanted again");
                self.dialer.handle_released(site, self.now_ms());
                self.show(site, |peer| peer.cause = None);
            }
            let Some(policy) = self.policies.get(&site) else { return LOOK_MS_MAX };
            let counts = policy.budget.is_some() && self.connected.contains_key(&site);
            let next_ms = match (counts, before == Some(spent)) {
                (false, _) => LOOK_MS_MAX,
                (true, true) => LOOK_MS_QUIET,
                (true, false) => LOOK_MS_BUSY,
            };
            let next_ms = match policy.hang_up {
                Some(_) if self.connected.contains_key(&site) => next_ms.min(LOOK_MS_DRAIN),
                _ => next_ms,
            };
            let begins_ms = Hold::begins_ms(policy, time::wall_ms()).unwrap_or(LOOK_MS_MAX);
            self.hang_up_if_drained(site);
            return next_ms.min(begins_ms);
        };
        if self.held.get(&site) != Some(&hold) || self.connected.contains_key(&site) {
            tracing::info!(%site, cause = %hold, "no link with this peer for now");
            self.hang_up(site, hold);
        }
        hold.until_ms().saturating_sub(time::wall_ms()).clamp(1, LOOK_MS_MAX)
    }

    /// Why there is to be no link with this peer now.
    pub(super) fn hold(&self, site: SiteId) -> Option<Hold> {
        let policy = self.policies.get(&site)?;
        Hold::of(policy, self.shared.board.spent(site), time::wall_ms())
    }

    /// Ends the links with a peer, and calls it no more until the hold is over.
    fn hang_up(&mut self, site: SiteId, hold: Hold) {
        if let Some(connected) = self.connected.remove(&site) {
            connected.connection.close(CloseCode::NOT_NOW, hold.word());
            if let Some(rival) = connected.rival {
                rival.connection.close(CloseCode::NOT_NOW, hold.word());
            }
            self.choose_soon();
        }
        self.held.insert(site, hold);
        self.show_held(site);
    }

    /// Closes a connection that was made although there is to be none. Its bytes count.
    pub(super) fn turn_away(&mut self, site: SiteId, connection: Connection, hold: Hold) {
        self.hang_up(site, hold);
        connection.close(CloseCode::NOT_NOW, hold.word());
        self.show(site, |peer| {
            peer.set_connection(Some(connection));
            peer.set_connection(None);
        });
    }

    /// Plans the next call for the end of the hold, and shows why.
    pub(super) fn show_held(&mut self, site: SiteId) {
        let Some(hold) = self.held.get(&site).copied() else { return };
        let wait_ms = hold.until_ms().saturating_sub(time::wall_ms()).max(1);
        self.dialer.handle_held(site, self.now_ms().saturating_add(wait_ms));
        self.show(site, |peer| {
            peer.state = PeerState::Down;
            peer.cause = Some(hold.to_string());
            peer.set_connection(None);
        });
    }

    // --- links billed by time ---

    /// Ends a link on which nothing is left to say, where the operator wants that.
    fn hang_up_if_drained(&mut self, site: SiteId) {
        if self.policies.get(&site).is_none_or(|policy| policy.hang_up.is_none()) {
            return;
        }
        let (now_ms, known) = (self.now_ms(), self.known());
        let Some(connected) = self.connected.get(&site).filter(|connected| connected.view.ready)
        else {
            return;
        };
        let theirs = &connected.view.received;
        let level = theirs.contains(&known) && known.contains(theirs);
        let left = if level { Left::Nothing } else { Left::Something };
        let (sent, received) = connected.connection.udp_bytes();
        let rtt_ms = u64::try_from(connected.connection.rtt().as_millis()).unwrap_or(u64::MAX);
        let bytes = sent.saturating_add(received);
        let quiet = self.quiet.entry(site).or_insert_with(|| Quiet::new(bytes, now_ms));
        if !quiet.note(bytes, now_ms, rtt_ms, left) || connected.rival.is_some() {
            return;
        }
        if let Some(connected) = self.connected.remove(&site) {
            tracing::info!(%site, "link hung up: nothing is left to say");
            connected.connection.close(CloseCode::NOT_NOW, "nothing is left to say");
            self.choose_soon();
        }
        self.wait_for_news(site);
    }

    /// Plans the next call of a peer to which nothing is left to say.
    pub(super) fn wait_for_news(&mut self, site: SiteId) {
        let Some(hang_up) = self.policies.get(&site).and_then(|policy| policy.hang_up) else {
            return;
        };
        let every_ms = u64::try_from(hang_up.call_every.as_millis()).unwrap_or(u64::MAX);
        self.dialer.handle_held(site, self.now_ms().saturating_add(every_ms));
        let cause = match hang_up.news {
            News::Calls => {
                self.drained.insert(site, self.known());
                "hung up, nothing was left to say; it is called in time or when there is news"
            }
            News::Waits => "hung up, nothing was left to say; it is called in time",
        };
        self.show(site, |peer| {
            peer.state = PeerState::Down;
            peer.cause = Some(cause.to_owned());
            peer.set_connection(None);
        });
    }

    /// Calls those at once for whom there is something new.
    pub(super) fn call_for_news(&mut self) {
        if self.drained.is_empty() {
            return;
        }
        let (now_ms, known) = (self.now_ms(), self.known());
        let told = self.drained.extract_if(.., |_, then| !then.contains(&known));
        for site in told.map(|(site, _)| site).collect::<Vec<_>>() {
            if !self.held.contains_key(&site) {
                self.dialer.handle_released(site, now_ms);
            }
        }
    }

    /// All that we have, also what is not sealed yet because nobody is there to take it.
    fn known(&self) -> VersionVector {
        let log = self.log.borrow();
        let mut known = log.received.clone();
        known.advance(self.shared.facts.origin, log.own);
        known
    }
}
