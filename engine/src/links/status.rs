//! What operators see of the peers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfall_protocol::fleet::Fleet;
use landfall_protocol::id::{Incarnation, Origin, SiteId};
use landfall_protocol::version::VersionVector;
use tokio::sync::watch;

use super::clock::Clock;
use super::ledger::{Ledger, Pace};
use crate::store::PeerRecord;
use crate::time;
use crate::time::calendar::Month;
use crate::transport::Connection;

/// How we stand with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// No connection. The normal state; nobody need act.
    Down,
    /// It is being called.
    Calling,
    /// Connected, but the hellos are not exchanged yet.
    Greeting,
    /// Connected; whatever there is flows.
    Ready,
    /// One of both does not accept the other until an operator acts; the cause says why.
    Refused,
    /// We may talk to nobody under our present identity; the cause says why.
    Fenced,
}

impl PeerState {
    /// As in the output of `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Calling => "calling",
            Self::Greeting => "greeting",
            Self::Ready => "ready",
            Self::Refused => "refused",
            Self::Fenced => "fenced",
        }
    }
}

/// One peer at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerStatus {
    /// Which member.
    pub site: SiteId,
    /// Its name in the fleet file.
    pub name: String,
    /// How we stand with it.
    pub state: PeerState,
    /// Milliseconds since it was last heard, also before a restart; `None` when never.
    pub last_contact_ms_ago: Option<u64>,
    /// Milliseconds until it is called again; `None` when that is not planned.
    pub next_attempt_in_ms: Option<u64>,
    /// Why the last connection or call ended; `None` while ready.
    pub cause: Option<String>,
    /// Bytes sent to it in UDP datagrams, also before a restart.
    pub bytes_sent: u64,
    /// Bytes received from it in UDP datagrams, also before a restart.
    pub bytes_received: u64,
    /// Bytes of units that it went on with where another stream was cut, instead of sending them
    /// again, since the start.
    pub bytes_resumed: u64,
    /// Both together in the present calendar month (UTC), also before a restart.
    pub month_bytes: u64,
    /// The rate at which it took bytes lately, in bytes per second; `None` when not measured.
    pub rate: Option<u64>,
    /// What it acknowledged to hold durably, as last heard.
    pub received: VersionVector,
    /// What shows in its PostgreSQL, as last heard.
    pub applied: VersionVector,
    /// The present round-trip time; `None` while not connected.
    pub rtt: Option<Duration>,
    /// Its clock minus ours in milliseconds when it last said hello; `None` before.
    pub clock_offset_ms: Option<i64>,
}

/// What a member says that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Durably.
    pub received: VersionVector,
    /// Showing in its PostgreSQL.
    pub applied: VersionVector,
}

/// What those who read from a peer note.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When it was last heard, in Unix milliseconds.
    wall_ms: AtomicU64,
    /// Bytes that it did not have to send again.
    resumed: AtomicU64,
}

impl Heard {
    pub(super) fn note(&self) {
        self.wall_ms.store(time::wall_ms(), Ordering::Relaxed);
    }

    /// So many bytes of a unit had come before, over another stream.
    pub(super) fn note_resumed(&self, bytes: usize) {
        self.resumed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn wall_ms(&self) -> Option<u64> {
        Some(self.wall_ms.load(Ordering::Relaxed)).filter(|ms| *ms != 0)
    }
}

/// The state of all peers, written by the switchboard.
#[derive(Debug)]
pub(super) struct Board {
    clock: Clock,
    peers: Mutex<BTreeMap<SiteId, Peer>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct Peer {
    name: String,
    pub(super) state: PeerState,
    pub(super) cause: Option<String>,
    pub(super) next_attempt_ms: Option<u64>,
    pub(super) received: VersionVector,
    pub(super) applied: VersionVector,
    /// The life in which it said that it holds that.
    pub(super) life: Option<Incarnation>,
    pub(super) clock_offset_ms: Option<i64>,
    pub(super) heard: Arc<Heard>,
    connection: Option<Connection>,
    /// Of connections that are over.
    bytes_sent: u64,
    bytes_received: u64,
    ledger: Ledger,
    pace: Pace,
}

impl Peer {
    fn new(name: String) -> Self {
        Self {
            name,
            state: PeerState::Down,
            cause: None,
            next_attempt_ms: None,
            received: VersionVector::new(),
            applied: VersionVector::new(),
            life: None,
            clock_offset_ms: None,
            heard: Arc::default(),
            connection: None,
            bytes_sent: 0,
            bytes_received: 0,
            ledger: Ledger::default(),
            pace: Pace::default(),
        }
    }

    /// Makes this the connection whose bytes are counted.
    pub(super) fn set_connection(&mut self, connection: Option<Connection>) {
        self.count();
        (self.bytes_sent, self.bytes_received) = self.bytes();
        self.connection = connection;
    }

    /// Takes note of the bytes that moved, in the ledger of months.
    fn count(&mut self) {
        let (sent, received) = self.bytes();
        self.ledger.count(sent.saturating_add(received), time::wall_ms());
    }

    fn bytes(&self) -> (u64, u64) {
        let (sent, received) = self.connection.as_ref().map_or((0, 0), Connection::udp_bytes);
        (self.bytes_sent + sent, self.bytes_received + received)
    }
}

impl Board {
    pub(super) fn new(fleet: &Fleet, own: SiteId, clock: Clock) -> Self {
        let others = fleet.members().filter(|member| member.site != own);
        let peers = others.map(|member| (member.site, Peer::new(member.name.clone())));
        let (peers, changes) = (Mutex::new(peers.collect()), watch::Sender::new(0));
        Self { clock, peers, changes }
    }

    /// Changes one peer and tells whoever waits. A site that is no member is ignored.
    pub(super) fn change(&self, site: SiteId, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.lock().get_mut(&site) {
            change(peer);
        }
        self.changes.send_modify(|version| *version += 1);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        let (now_ms, wall_ms) = (self.clock.now_ms(), time::wall_ms());
        let status = |(site, peer): (&SiteId, &mut Peer)| {
            peer.count();
            let (bytes_sent, bytes_received) = peer.bytes();
            PeerStatus {
                site: *site,
                name: peer.name.clone(),
                state: peer.state,
                last_contact_ms_ago: peer.heard.wall_ms().map(|ms| wall_ms.saturating_sub(ms)),
                next_attempt_in_ms: peer.next_attempt_ms.map(|ms| ms.saturating_sub(now_ms)),
                cause: peer.cause.clone(),
                bytes_sent,
                bytes_received,
                bytes_resumed: peer.heard.resumed.load(Ordering::Relaxed),
                month_bytes: peer.ledger.spent(Month::of(wall_ms)),
                rate: peer.pace.rate(),
                received: peer.received.clone(),
                applied: peer.applied.clone(),
                rtt: peer.connection.as_ref().map(Connection::rtt),
                clock_offset_ms: peer.clock_offset_ms,
            }
        };
        self.lock().iter_mut().map(status).collect()
    }

    /// Bytes to and from a peer in the present month.
    pub(super) fn spent(&self, site: SiteId) -> u64 {
        let mut peers = self.lock();
        let Some(peer) = peers.get_mut(&site) else { return 0 };
        peer.count();
        peer.ledger.spent(Month::of(time::wall_ms()))
    }

    /// What is worth keeping over a restart, of every peer with which anything was exchanged.
    pub(super) fn records(&self) -> Vec<PeerRecord> {
        let now_ms = self.clock.now_ms();
        let record = |(site, peer): (&SiteId, &mut Peer)| {
            peer.count();
            let (bytes_out, bytes_in) = peer.bytes();
            peer.pace.note(bytes_out, now_ms);
            let contact_ms = match peer.heard.wall_ms() {
                None if bytes_out + bytes_in == 0 => return None,
                heard => heard.unwrap_or(0),
            };
            Some(PeerRecord {
                site: *site,
                received: peer.received.clone(),
                applied: peer.applied.clone(),
                contact_ms,
                bytes_in,
                bytes_out,
                life: peer.life,
                months: peer.ledger.months().clone(),
            })
        };
        self.lock().iter_mut().filter_map(record).collect()
    }

    /// Whether there is a connection with a peer.
    pub(super) fn is_connected(&self, site: SiteId) -> bool {
        self.lock().get(&site).is_some_and(|peer| peer.connection.is_some())
    }

    /// Takes over what a member said it holds, `said_ms` by its clock, by another way than a link. What
    /// it says is all that it held then, so of two lives of its log the word of the newer one counts,
    /// and within one life both do.
    pub(super) fn note_word(&self, origin: Origin, word: Word, said_ms: u64) {
        // A clock that is ahead must not outdo what is said tomorrow.
        let said_ms = said_ms.min(time::wall_ms());
        self.change(origin.site, |peer| {
            let known_ms = peer.heard.wall_ms().unwrap_or(0);
            let Word { received, applied } = word;
            if peer.life == Some(origin.incarnation) {
                peer.received.join(&received);
                peer.applied.join(&applied);
            } else if said_ms > known_ms {
                (peer.received, peer.applied) = (received, applied);
                peer.life = Some(origin.incarnation);
            }
            peer.heard.wall_ms.fetch_max(said_ms, Ordering::Relaxed);
        });
    }

    /// Takes over what was kept; called before the first connection.
    pub(super) fn restore(&self, records: Vec<PeerRecord>) {
        for record in records {
            self.change(record.site, |peer| {
                peer.received = record.received;
                peer.applied = record.applied;
                peer.life = record.life;
                peer.heard.wall_ms.store(record.contact_ms, Ordering::Relaxed);
                (peer.bytes_sent, peer.bytes_received) = (record.bytes_out, record.bytes_in);
                let total = record.bytes_out.saturating_add(record.bytes_in);
                peer.ledger = Ledger::restored(record.months, total);
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SiteId, Peer>> {
        // Only assignments are made under this lock.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use landfall_protocol::id::Seq;

    use super::*;

    fn life(number: u64) -> Origin {
        let site = SiteId::new(2).unwrap();
        Origin { site, incarnation: Incarnation::new(number).unwrap() }
    }

    fn word(seq: u64) -> Word {
        Word { received: [(life(9), Seq(seq))].into_iter().collect(), ..Word::default() }
    }

    #[test]
    fn the_word_of_an_earlier_life_does_not_come_back() {
        let peers = [(life(1).site, Peer::new("b".into()))].into_iter().collect();
        let (peers, changes) = (Mutex::new(peers), watch::Sender::new(0));
        let board = Board { clock: Clock::start(), peers, changes };
        let known = || board.peers()[0].received.get(life(9));
        board.note_word(life(1), word(7), 100);
        assert_eq!(known(), Seq(7));
        // Read in the wrong order, within one life.
        board.note_word(life(1), word(5), 90);
        assert_eq!(known(), Seq(7));
        // It lost everything and began anew: it holds less.
        board.note_word(life(2), word(3), 200);
        assert_eq!(known(), Seq(3));
        board.note_word(life(1), word(8), 150);
        assert_eq!(known(), Seq(3));
    }
}
