//! Which peer supplies which origin.
//!
//! Every member holds every other's log sooner or later, so most origins could be had from several
//! peers. Each is taken from one at a time: the origin itself when it is there, else whoever
//! supplies it already, else who holds most. A supplier from which nothing comes while there would
//! be something loses the origin to another peer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Origin, Seq, SiteId};
use crate::version::VersionVector;

/// How long a supplier may deliver nothing though it holds more than we do, in milliseconds. Doubles
/// with every change of supplier until something arrives: a unit of 1 MiB takes two minutes on a
/// link of 64 kbit/s, and taking it from there too soon, time and again, would never get it here.
pub const STALL_MS: u64 = 30_000;
/// How often that doubles: to a bit over an hour.
const DOUBLINGS_MAX: u32 = 7;
/// How long a supplier that holds nothing we lack keeps its origin after another peer has said that
/// it holds more, in milliseconds. News reaches all peers at about the same time, and it would be a
/// waste to swap suppliers because one of them is a moment faster.
pub const LAG_MS: u64 = 2_000;
/// How long a peer that stalled on an origin is passed over, in milliseconds; longer while nothing
/// comes from the others either, so that each is tried before any is tried twice.
pub const AVOID_MS: u64 = 300_000;

/// What is known of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PeerView {
    /// What it holds durably.
    pub received: VersionVector,
    /// Whether there is a session with it that is ready.
    pub ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Supply {
    peer: SiteId,
    /// How far we held the origin when last looked.
    at: Seq,
    /// Since when some ready peer holds more and nothing has come; `None` while nobody does.
    waiting_since_ms: Option<u64>,
    /// Changes of supplier since something last came.
    changes: u32,
    /// Peers that are passed over because they stalled, and when they did.
    stalled: BTreeMap<SiteId, u64>,
}

/// Who supplies what: every origin at most once. Beside that it remembers what [`choose`] needs to
/// notice a stall.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Suppliers {
    by_origin: BTreeMap<Origin, Supply>,
    check_ms: Option<u64>,
}

impl Suppliers {
    /// Who supplies this origin.
    pub fn of(&self, origin: Origin) -> Option<SiteId> {
        self.by_origin.get(&origin).map(|supply| supply.peer)
    }

    /// What this peer supplies, for [`super::Session::handle_supply`].
    pub fn by(&self, peer: SiteId) -> BTreeSet<Origin> {
        let mine = self.by_origin.iter().filter(|(_, supply)| supply.peer == peer);
        mine.map(|(origin, _)| *origin).collect()
    }

    /// Every origin with its supplier.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, SiteId)> + '_ {
        self.by_origin.iter().map(|(origin, supply)| (*origin, supply.peer))
    }

    /// When time alone may change the choice: call [`choose`] again then, or earlier when a peer or
    /// our own log moved. `None`: not before something moves.
    pub fn check_ms(&self) -> Option<u64> {
        self.check_ms
    }
}

/// Chooses anew, keeping what is good. Never chosen: our own present log, and logs of sites that
/// are not members; an earlier life of our own site is an origin like any other, for a restored
/// site gets its lost tail that way.
pub fn choose(
    peers: &BTreeMap<SiteId, PeerView>,
    ours: &VersionVector,
    own: Origin,
    members: &BTreeSet<SiteId>,
    current: &Suppliers,
    now_ms: u64,
) -> Suppliers {
    let ready: BTreeMap<SiteId, &VersionVector> = peers
        .iter()
        .filter(|(_, view)| view.ready)
        .map(|(site, view)| (*site, &view.received))
        .collect();
    let mut holders: BTreeMap<Origin, BTreeMap<SiteId, Seq>> = BTreeMap::new();
    for (site, received) in &ready {
        for (origin, seq) in received.iter() {
            if seq > ours.get(origin) || *site == origin.site {
                holders.entry(origin).or_default().insert(*site, seq);
            }
        }
    }
    // Who supplies already goes on, even with nothing we lack: the next unit comes without asking.
    for (origin, supply) in &current.by_origin {
        if let Some(received) = ready.get(&supply.peer) {
            let holders = holders.entry(*origin).or_default();
            holders.insert(supply.peer, received.get(*origin));
        }
    }
    let mut chosen = Suppliers::default();
    for (origin, holders) in holders {
        if origin == own || !members.contains(&origin.site) {
            continue;
        }
        let question = Question { origin, holders, ready: &ready, ours: ours.get(origin), now_ms };
        let Some((supply, check_ms)) = question.answer(current.by_origin.get(&origin)) else {
            continue;
        };
        chosen.check_ms = chosen.check_ms.into_iter().chain(check_ms).min();
        chosen.by_origin.insert(origin, supply);
    }
    chosen
}

/// Who supplies this one origin?
struct Question<'a> {
    origin: Origin,
    /// The ready peers that hold more than we do, the origin itself and who supplies it now, and
    /// how far each holds it.
    holders: BTreeMap<SiteId, Seq>,
    ready: &'a BTreeMap<SiteId, &'a VersionVector>,
    ours: Seq,
    now_ms: u64,
}

impl Question<'_> {
    /// The supply, and when to ask again.
    fn answer(&self, current: Option<&Supply>) -> Option<(Supply, Option<u64>)> {
        let before = current.filter(|supply| self.holders.contains_key(&supply.peer));
        let mut supply = match before {
            Some(supply) => self.brought_up_to_date(supply),
            None => self.fresh(current)?,
        };
        if let Some(peer) = self.better_than(&mut supply) {
            supply.changes += 1;
            supply.peer = peer;
            supply.waiting_since_ms = self.anybody_has_more().then_some(self.now_ms);
        }
        let check_ms = self.check_ms(&supply);
        Some((supply, check_ms))
    }

    /// Without a supplier so far: nobody when nobody has more, but for the origin itself, whose
    /// next unit should come without having to be asked for.
    fn fresh(&self, lost: Option<&Supply>) -> Option<Supply> {
        // Losing a supplier is no reason to forget who stalled before.
        let stalled = lost.map_or_else(BTreeMap::new, |lost| self.still_stalled(lost, 0));
        let itself = self.origin.site;
        let peer = if self.anybody_has_more() {
            self.best(None, &stalled)?
        } else {
            self.holders.contains_key(&itself).then_some(itself)?
        };
        let waiting_since_ms = self.anybody_has_more().then_some(self.now_ms);
        Some(Supply { peer, at: self.ours, waiting_since_ms, changes: 0, stalled })
    }

    fn brought_up_to_date(&self, before: &Supply) -> Supply {
        let moved = self.ours > before.at;
        let since = before.waiting_since_ms.filter(|_| !moved).unwrap_or(self.now_ms);
        let changes = if moved { 0 } else { before.changes };
        Supply {
            peer: before.peer,
            at: self.ours,
            waiting_since_ms: self.anybody_has_more().then_some(since),
            changes,
            stalled: self.still_stalled(before, changes),
        }
    }

    /// Whom to change to, if at all; notes a stall.
    fn better_than(&self, supply: &mut Supply) -> Option<SiteId> {
        let itself = self.origin.site;
        let itself_free =
            self.holders.contains_key(&itself) && !supply.stalled.contains_key(&itself);
        let Some(since) = supply.waiting_since_ms else {
            return (itself_free && supply.peer != itself).then_some(itself);
        };
        if itself_free && supply.peer != itself && self.has_more(itself) {
            return Some(itself);
        }
        let waited_ms = self.now_ms.saturating_sub(since);
        if waited_ms < self.patience_ms(supply) {
            return None;
        }
        let other = self.best(Some(supply.peer), &supply.stalled)?;
        if self.has_more(supply.peer) {
            supply.stalled.insert(supply.peer, self.now_ms);
        }
        Some(other)
    }

    fn patience_ms(&self, supply: &Supply) -> u64 {
        if self.has_more(supply.peer) {
            STALL_MS << supply.changes.min(DOUBLINGS_MAX)
        } else {
            LAG_MS
        }
    }

    /// Of those that have more: who did not stall, or longest ago; the origin itself; who has most;
    /// the lowest site.
    fn best(&self, but: Option<SiteId>, stalled: &BTreeMap<SiteId, u64>) -> Option<SiteId> {
        self.holders
            .iter()
            .filter(|(site, seq)| **seq > self.ours && Some(**site) != but)
            .max_by_key(|(site, seq)| {
                let stalled_ms = Reverse(stalled.get(site).copied());
                (stalled_ms, **site == self.origin.site, **seq, Reverse(**site))
            })
            .map(|(site, _)| *site)
    }

    fn has_more(&self, site: SiteId) -> bool {
        self.holders.get(&site).is_some_and(|seq| *seq > self.ours)
    }

    fn anybody_has_more(&self) -> bool {
        self.holders.values().any(|seq| *seq > self.ours)
    }

    fn still_stalled(&self, before: &Supply, changes: u32) -> BTreeMap<SiteId, u64> {
        let still = |site: &SiteId, at_ms: u64| {
            let recent = at_ms.saturating_add(AVOID_MS) > self.now_ms;
            self.ready.contains_key(site) && (recent || changes > 0)
        };
        let stalled = before.stalled.iter().map(|(site, at_ms)| (*site, *at_ms));
        stalled.filter(|(site, at_ms)| still(site, *at_ms)).collect()
    }

    /// When the patience with the supplier ends, or the origin itself is no longer passed over.
    fn check_ms(&self, supply: &Supply) -> Option<u64> {
        let itself = supply.stalled.get(&self.origin.site).filter(|_| supply.changes == 0);
        let itself = itself.map(|at_ms| at_ms.saturating_add(AVOID_MS));
        let other = self.best(Some(supply.peer), &supply.stalled);
        let patience = supply.waiting_since_ms.filter(|_| other.is_some());
        let patience = patience.map(|since| since.saturating_add(self.patience_ms(supply)));
        itself.into_iter().chain(patience).min()
    }
}

#[cfg(test)]
mod tests;
