//! Bundles, as the running daemon writes and reads them: it has the store and the key, the command at
//! the other end of the admin socket has the files.

mod list;
mod read;
mod spool;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use landfall_protocol::bundle::USER_BYTES_MAX;
use landfall_protocol::fleet::Fleet;
use landfall_protocol::id::{Origin, SiteId};
use landfall_protocol::version::VersionVector;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::admin::Request;
use crate::admin::bundle::BundleStatus;
use crate::admin::talk::Talk;
use crate::identity::MemberKey;
use crate::links::LinksHandle;
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use read::{Incoming, Reader};

/// Commands that wait to have a file read; more wait in the socket.
const INCOMING_MAX: usize = 4;

/// What bundles are made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) fleet: Arc<Fleet>,
    pub(super) key: Arc<MemberKey>,
    pub(super) own: Origin,
    pub(super) software: String,
    pub(super) links: LinksHandle,
    /// As for links: nothing is said to anybody before this is true, or its sender is gone.
    pub(super) may_speak: watch::Receiver<bool>,
    /// Where parts are kept that wait for others.
    pub(super) spool_dir: PathBuf,
    /// How much of them.
    pub(super) spool_bytes_max: u64,
}

/// A handle to all that has to do with bundles.
#[derive(Clone, Debug)]
pub(super) struct Bundles {
    shared: Arc<Shared>,
    incoming: mpsc::Sender<Incoming>,
}

#[derive(Debug)]
struct Shared {
    parts: Parts,
    /// One bundle is written at a time: two would say the same.
    writing: Semaphore,
    counted: Counted,
    waiting: Mutex<Waiting>,
}

/// Since the daemon started.
#[derive(Debug, Default)]
struct Counted {
    parts_written: AtomicU64,
    bytes_written: AtomicU64,
    parts_read: AtomicU64,
    bytes_read: AtomicU64,
    parts_refused: AtomicU64,
}

/// What is kept until what comes before it is held.
#[derive(Clone, Debug, Default)]
struct Waiting {
    parts: u64,
    bytes: u64,
    waits_for: Vec<String>,
}

impl Bundles {
    /// Starts the task that reads.
    pub(super) fn start(parts: Parts, tasks: &Tasks) -> Self {
        let (incoming, received) = mpsc::channel(INCOMING_MAX);
        let shared = Arc::new(Shared {
            parts,
            writing: Semaphore::new(1),
            counted: Counted::default(),
            waiting: Mutex::default(),
        });
        let reader = Reader::new(Arc::clone(&shared), received, tasks.stop());
        tasks.spawn("bundles", reader.run());
        Self { shared, incoming }
    }

    /// Has a conversation to its end.
    pub(super) async fn converse(&self, request: Request, mut talk: Talk) {
        let outcome = match request {
            Request::BundleWrite { ask } => write::write(&self.shared, ask, &mut talk).await,
            Request::BundleRead { ask } => {
                // The reader answers. It is gone only when everything stops.
                let _ = self.incoming.send(Incoming { ask, talk }).await;
                return;
            }
            _ => Err("this is no request for a conversation".to_owned()),
        };
        if let Err(error) = talk.saying.answer(outcome).await {
            tracing::debug!(%error, "a command about bundles did not take its answer");
        }
    }

    /// The answer to `bundle list`.
    pub(super) async fn list(&self, limit: u32) -> Result<serde_json::Value, String> {
        let list = list::list(&self.shared, limit).await.map_err(|error| sentence(&error))?;
        serde_json::to_value(list).map_err(|error| error.to_string())
    }

    /// How it stands, for `status`.
    pub(super) fn status(&self) -> BundleStatus {
        let Waiting { parts, bytes, waits_for } = self.shared.waiting().clone();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counted = &self.shared.counted;
        BundleStatus {
            parts_written: read(&counted.parts_written),
            bytes_written: read(&counted.bytes_written),
            parts_read: read(&counted.parts_read),
            bytes_read: read(&counted.bytes_read),
            parts_refused: read(&counted.parts_refused),
            parts_waiting: parts,
            bytes_waiting: bytes,
            waits_for,
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Only assignments are made under this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self, sites: impl IntoIterator<Item = SiteId>) -> Vec<String> {
        sites.into_iter().map(|site| self.parts.fleet.name_of(site)).collect()
    }

    /// What each member is known to hold.
    fn known(&self) -> BTreeMap<SiteId, VersionVector> {
        let peers = self.parts.links.peers().into_iter();
        peers.map(|peer| (peer.site, peer.received)).collect()
    }

    /// What a place in the logs of others means to people.
    fn places<'a>(&'a self, gaps: &'a VersionVector) -> impl Iterator<Item = String> + 'a {
        let lives: BTreeSet<SiteId> = gaps.iter().map(|(origin, _)| origin.site).collect();
        let several = lives.len() < gaps.len();
        let held = self.parts.store.watch().borrow().received.clone();
        gaps.iter().map(move |(origin, seq)| {
            let name = self.parts.fleet.name_of(origin.site);
            let life = if several { format!(" ({})", origin.incarnation) } else { String::new() };
            format!("transactions of {name}{life} up to {seq}, {} are held", held.get(origin))
        })
    }
}

/// Who runs the command: what it says, and what the system says.
fn user(claimed: &str, uid: Option<u32>) -> String {
    let sane = |c: &char| !c.is_control();
    let name: String = claimed.chars().filter(sane).take(USER_BYTES_MAX / 8).collect();
    match (name.is_empty(), uid) {
        (false, Some(uid)) => format!("{name} (uid {uid})"),
        (true, Some(uid)) => format!("uid {uid}"),
        (_, None) => name,
    }
}

/// An error of the store as an answer.
fn sentence(error: &StoreError) -> String {
    format!("{error}; {}", error.advice())
}
