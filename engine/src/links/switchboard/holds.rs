//! Holds links back, and ends them, as the operator wants.

use landfall_protocol::id::SiteId;

use super::{Hold, LOOK_MS_BUSY, LOOK_MS_MAX, LOOK_MS_QUIET, PeerState, Switchboard};
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
            let begins_ms = Hold::begins_ms(policy, time::wall_ms()).unwrap_or(LOOK_MS_MAX);
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
}
