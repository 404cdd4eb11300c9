//! Links: peer sessions over QUIC, on top of the store.
//!
//! ```text
//! let links = Links { store, endpoint, fleet, config, origin, software, may_speak }.start(&tasks);
//! links.peers();                                          // for status
//! ```
//!
//! One task, the switchboard, takes calls, makes calls and knows all peers; it decides who supplies
//! which origin and which of two connections with one peer stays. Each connection has a task of its
//! own, which drives a [`Session`](landfall_protocol::sync::Session) over the control stream and
//! starts a task for each origin that is being sent and each that is arriving. Units go from the
//! store to the link and from the link to the store; the store's news is what all of them wait for.
//!
//! Nothing is sent while there is nothing to say. A link that is down is the normal state.

mod begun;
mod call;
mod clock;
mod incoming;
mod ledger;
mod link;
mod outgoing;
mod policy;
mod records;
mod serving;
mod status;
mod switchboard;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::fleet::Fleet;
use landfall_protocol::id::{Origin, SiteId};
use landfall_protocol::sync::LocalFacts;
use tokio::sync::watch;

use crate::config::LinkConfig;
use crate::plant;
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use crate::transport::{Endpoint, PinnedKeys, TransportSettings};

pub use status::{PeerState, PeerStatus, Word};

use clock::Clock;
use records::Records;
use status::Board;
use switchboard::Switchboard;

/// What links are made of.
#[derive(Debug)]
pub struct Links {
    /// Where units come from and go to.
    pub store: Store,
    /// Our end of all links; its pinned keys are those of [`pinned_keys`].
    pub endpoint: Endpoint,
    /// The members and their keys.
    pub fleet: Arc<Fleet>,
    /// Whom to call, and how often.
    pub config: LinkConfig,
    /// Our site in its present life.
    pub origin: Origin,
    /// Our software and its version, for the operators of the peers.
    pub software: String,
    /// Nothing is said to anybody before this is true, or its sender is gone.
    pub may_speak: watch::Receiver<bool>,
}

impl Links {
    /// Starts everything. It ends with the stop signal of `tasks`, closing all connections with
    /// [`CloseCode::SHUTDOWN`](crate::transport::CloseCode::SHUTDOWN), or with an error of the store
    /// that ends the process.
    pub fn start(self, tasks: &Tasks) -> LinksHandle {
        let clock = Clock::start();
        let board = Arc::new(Board::new(&self.fleet, self.origin.site, clock));
        let records = Records::new(self.store.clone(), board.clone(), clock, tasks.stop());
        let shared = Arc::new(Shared {
            facts: LocalFacts {
                origin: self.origin,
                fleet_version: self.fleet.version(),
                sets_digest: self.fleet.sets_digest(),
                members: self.fleet.members().map(|member| member.site).collect(),
                software: self.software,
            },
            store: self.store,
            fleet: self.fleet,
            tasks: tasks.clone(),
            clock,
            board: board.clone(),
            metered: self
                .config
                .peers
                .iter()
                .filter(|(_, policy)| policy.is_metered())
                .map(|(site, _)| *site)
                .collect(),
        });
        let store = shared.store.clone();
        let switchboard = Switchboard::new(shared, self.endpoint, &self.config, self.may_speak);
        tasks.spawn("peer records", records.run());
        tasks.spawn("links", switchboard.run());
        LinksHandle { board, store }
    }
}

/// The keys by which a member knows the others on a link. Our own is not among them: nobody else
/// may have it.
pub fn pinned_keys(fleet: &Fleet, own: SiteId) -> PinnedKeys {
    let others = fleet.members().filter(|member| member.site != own);
    others.map(|member| (member.key, member.name.clone())).collect()
}

/// Transport settings as configured.
pub fn transport_settings(config: &LinkConfig) -> TransportSettings {
    let mut settings = TransportSettings {
        keep_alive: config.keep_alive,
        ..TransportSettings::for_line(config.rate, config.round_trip)
    };
    if plant::active("impatient-link") {
        settings.idle_timeout = Duration::from_secs(2);
    }
    settings
}

/// Shows how the links are. Clones show the same.
#[derive(Debug, Clone)]
pub struct LinksHandle {
    board: Arc<Board>,
    store: Store,
}

impl LinksHandle {
    /// All other members, in site order.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.board.peers()
    }

    /// Takes over what a member said that it has, by another way than a link; durable once this
    /// returns. `said_ms` is when, by its clock, in Unix milliseconds.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn note_word(
        &self,
        origin: Origin,
        word: Word,
        said_ms: u64,
    ) -> Result<(), StoreError> {
        self.board.note_word(origin, word, said_ms);
        match self.board.records().into_iter().find(|record| record.site == origin.site) {
            Some(record) => self.store.record_peer(record).await,
            None => Ok(()),
        }
    }

    /// Tells when [`LinksHandle::peers`] shows another state, or more acknowledged, of any peer.
    /// Bytes and times move without notice.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.board.changes()
    }
}

/// What all tasks of the links need.
#[derive(Debug)]
struct Shared {
    store: Store,
    fleet: Arc<Fleet>,
    facts: LocalFacts,
    tasks: Tasks,
    clock: Clock,
    board: Arc<Board>,
    /// To these each byte counts.
    metered: BTreeSet<SiteId>,
}

impl Shared {
    fn own(&self) -> SiteId {
        self.facts.origin.site
    }

    fn members(&self) -> &BTreeSet<SiteId> {
        &self.facts.members
    }
}
