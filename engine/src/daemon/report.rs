//! The answer to `status`, put together from what every part tells.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfall_protocol::fleet::Fleet;
use landfall_protocol::id::Origin;
use landfall_protocol::version::VersionVector;
use tokio_postgres::Client;

use crate::admin::aside::{AsideEntry, AsideStatus};
use crate::admin::status::{
    ApplyCounters, Cost, DaemonState, Fates, HistoryStatus, MonthStatus, OriginStatus, Part,
    PartState, PeerState, PeerStatus, SlotStatus, Status, StoreStatus,
};
use crate::capture::slot::{self, SlotError};
use crate::capture::stream::CaptureStatus;
use crate::config::DaemonConfig;
use crate::daemon::DatabaseParts;
use crate::daemon::bundles::Bundles;
use crate::daemon::parked::Counted;
use crate::links::{self, LinksHandle};
use crate::postgres::aside;
use crate::postgres::connect::ConnectError;
use crate::postgres::lsn::Lsn;
use crate::postgres::sql;
use crate::replica::{self, ReplicaStatus};
use crate::store::{Log, Severity, Sizes, Store, StoreError};
use crate::tasks::Child;

/// How long the server may take to tell its position.
const ASK_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Reporter {
    config: DaemonConfig,
    pub(super) fleet: Fleet,
    own: Origin,
    pub(super) store: Store,
    links: LinksHandle,
    bundles: Bundles,
    pub(super) parts: Option<DatabaseParts>,
    /// Kept between two questions; whoever asks has it, so a second asker makes another.
    session: Mutex<Option<Session>>,
    /// Counting what is parked takes a while when it is much.
    counted: Mutex<Option<Counted>>,
}

/// What the server tells.
struct Told {
    /// The end of its log.
    end: Lsn,
    /// What our slot holds back, if there is one.
    slot: Option<SlotStatus>,
    /// `None` when that cannot be told.
    aside: Option<AsideStatus>,
}

/// A session with the task that drives it.
#[derive(Debug)]
struct Session {
    client: Client,
    _driver: Child<Result<(), tokio_postgres::Error>>,
}

impl Session {
    async fn open(parts: &DatabaseParts) -> Result<Self, ConnectError> {
        let (client, driver) = parts.settings.connect("landfall status", &[]).await?;
        let driver = parts.tasks.spawn_child("status connection", driver);
        Ok(Self { client, _driver: driver })
    }
}

impl Reporter {
    pub(super) fn new(
        config: DaemonConfig,
        fleet: Fleet,
        own: Origin,
        store: Store,
        (links, bundles, parts): (LinksHandle, Bundles, Option<DatabaseParts>),
    ) -> Self {
        Self {
            config,
            fleet,
            own,
            store,
            links,
            bundles,
            parts,
            session: Mutex::new(None),
            counted: Mutex::new(None),
        }
    }

    /// The status as JSON.
    pub(super) async fn status(&self) -> Result<serde_json::Value, String> {
        serde_json::to_value(self.snapshot().await?).map_err(|error| error.to_string())
    }

    /// How the daemon does now; else why that cannot be told.
    pub(super) async fn snapshot(&self) -> Result<Status, String> {
        self.gather().await.map_err(|error| {
            // Whoever asked may be a machine that asks again.
            if error != StoreError::Closed {
                tracing::error!(%error, advice = error.advice(), "the store cannot be read");
            }
            error.to_string()
        })
    }

    async fn gather(&self) -> Result<Status, StoreError> {
        let log = self.store.watch().borrow().clone();
        let sizes = known(self.store.sizes().await)?;
        let capture = self.parts.as_ref().map(|parts| parts.capture.borrow().clone());
        let replica = self.parts.as_ref().map(|parts| parts.replica.borrow().clone());
        let pending: u64 = if self.parts.is_some() { sizes.pending.values().sum() } else { 0 };
        let mut peers = Vec::new();
        for peer in self.links.peers() {
            peers.push(self.peer(&log, peer).await?);
        }
        let told = self.server().await;
        let asked = self.parts.as_ref().map(|parts| parts.capture.borrow().server_lsn);
        let wal_lsn = told.as_ref().map(|told| told.end).or(asked);
        let (slot, aside) = told.map(|told| (told.slot, told.aside)).unzip();
        let (slot, aside) = (slot.flatten(), aside.flatten());
        let store = self.store_status(&sizes);
        let (state, why) = state(&log, &store, capture.as_ref(), replica.as_ref());
        let parked = known(self.parked_status(log.fates.parked).await)?;
        let held = slot.iter().filter_map(SlotStatus::warning);
        let put_aside = aside.iter().filter_map(AsideStatus::warning);
        let bundles = self.bundles.status();
        let waiting = bundles.warning();
        let warnings = held.chain(parked.warning()).chain(put_aside).chain(waiting).collect();
        Ok(Status {
            site: self.own.site.number(),
            name: self.config.name.clone(),
            incarnation: Some(self.own.incarnation.to_string()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fleet_version: self.fleet.version(),
            state,
            why,
            capture: capture.as_ref().map(capture_part),
            apply: replica.as_ref().map(apply_part),
            apply_counters: replica.as_ref().map(|replica| counters(replica.counters)),
            fold_lsn: capture.as_ref().map(|_| Lsn(log.seen_lsn)),
            wal_lsn,
            slot_lag_bytes: wal_lsn
                .zip(capture.as_ref())
                .map(|(wal, capture)| wal.0.saturating_sub(capture.confirmed.0)),
            slot,
            store,
            warnings,
            own_seq: log.own.0,
            vector: self.vector(&log),
            inbox_pending_changes: pending,
            held_units: replica.as_ref().map_or(0, |replica| replica.held.len() as u64),
            fates: Fates {
                received: log.received_changes,
                applied: log.fates.applied,
                merged: log.fates.merged,
                superseded: log.fates.superseded,
                parked: log.fates.parked,
                pending: log.received_changes.saturating_sub(log.fates.total()),
            },
            parked,
            aside,
            repaired_rows: log.repaired,
            rows_to_repair: log.dirty,
            history: self.parts.as_ref().map(|parts| self.history(parts)),
            bundles,
            peers,
        })
    }

    /// What the server says now; `None` when it cannot be asked.
    async fn server(&self) -> Option<Told> {
        let parts = self.parts.as_ref()?;
        tokio::time::timeout(ASK_WITHIN, self.ask_server(parts)).await.ok().flatten()
    }

    /// Asks over the session of the last time, or over a new one: `wait` asks ten times a second.
    async fn ask_server(&self, parts: &DatabaseParts) -> Option<Told> {
        if let Some(session) = self.take_session()
            && let Ok(answer) = self.ask(&session.client).await
        {
            self.keep_session(session);
            return Some(answer);
        }
        let session = Session::open(parts).await.ok()?;
        let answer = self.ask(&session.client).await.ok()?;
        self.keep_session(session);
        Some(answer)
    }

    async fn ask(&self, client: &Client) -> Result<Told, SlotError> {
        let slot = self.config.postgres.as_ref().map_or("", |postgres| &postgres.slot);
        let retained = slot::retained(client, slot).await?;
        let status = retained.map(|retained| SlotStatus {
            retained_bytes: retained.bytes,
            retained_bytes_max: retained.bytes_max,
            left_bytes: retained.left_bytes,
        });
        // That it cannot be read must not hide all else.
        let listed = aside::count(client).await.ok();
        let aside =
            listed.map(|aside::Listed { rows, oldest_ms_ago }| AsideStatus { rows, oldest_ms_ago });
        Ok(Told { end: slot::end_of_log(client).await?, slot: status, aside })
    }

    /// Rows that are put aside, of one table or of all; `most` at most.
    pub(super) async fn aside_list(
        &self,
        table: Option<&str>,
        most: usize,
    ) -> Result<Vec<AsideEntry>, String> {
        let Some(parts) = &self.parts else { return Ok(Vec::new()) };
        let cannot = |error: String| format!("cannot read landfall.aside: {error}");
        let session = Session::open(parts).await.map_err(|error| cannot(error.to_string()))?;
        let lines = aside::list(&session.client, table, most).await;
        let lines = lines.map_err(|error| cannot(sql::describe(&error)))?;
        let entry = |aside::Line { table, row_key, reason, aside_ms_ago }| AsideEntry {
            table,
            row_key,
            reason,
            aside_ms_ago,
        };
        Ok(lines.into_iter().map(entry).collect())
    }

    fn store_status(&self, sizes: &Sizes) -> StoreStatus {
        let full = self.store.is_full().then_some(StoreError::Full);
        let wrong = self.store.damage().or(full);
        let state = match wrong.as_ref().map(StoreError::severity) {
            None => PartState::Working,
            Some(Severity::Retry) => PartState::Retrying,
            Some(_) => PartState::Operator,
        };
        let free = rustix::fs::statvfs(&self.config.data_dir);
        StoreStatus {
            state,
            cause: wrong.map(|error| format!("{error}; {}", error.advice())),
            bytes: sizes.database_bytes + sizes.wal_bytes,
            bytes_max: self.config.limits.store_bytes_max,
            disk_free_bytes: free.ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        }
    }

    fn history(&self, parts: &DatabaseParts) -> HistoryStatus {
        let thinned = parts.thinned.borrow().clone();
        let days = self.config.history.keep.map_or(0, |keep| keep.as_secs() / (24 * 3600));
        HistoryStatus { keep_days: days, removed: thinned.removed, cause: thinned.cause }
    }

    pub(super) fn counted(&self) -> MutexGuard<'_, Option<Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_session(&self) -> Option<Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep_session(&self, session: Session) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    fn vector(&self, log: &Log) -> Vec<OriginStatus> {
        let mut known = log.received.clone();
        known.join(&log.applied);
        let entry = |(origin, _): (Origin, _)| OriginStatus {
            name: self.fleet.name_of(origin.site),
            site: origin.site.number(),
            incarnation: origin.incarnation.to_string(),
            received: known.get(origin).0,
            applied: log.applied.get(origin).0,
        };
        known.iter().map(entry).collect()
    }

    async fn peer(&self, log: &Log, peer: links::PeerStatus) -> Result<PeerStatus, StoreError> {
        let lacks = known(self.store.backlog(peer.received.clone()).await)?;
        let mut all_but_own = log.received.clone();
        all_but_own.join(&peer.received);
        let all_but_own: VersionVector = all_but_own
            .iter()
            .filter(|(origin, _)| *origin != self.own)
            .chain([(self.own, peer.received.get(self.own))])
            .filter(|(_, seq)| seq.0 > 0)
            .collect();
        let unacknowledged = known(self.store.backlog(all_but_own).await)?;
        let offers = peer.received.iter().map(|(origin, seq)| {
            seq.0.saturating_sub(log.received.get(origin).max(log.applied.get(origin)).0)
        });
        let link = &self.config.link;
        let policy = link.peers.get(&peer.site);
        let cost = policy.and_then(|policy| policy.price.as_ref()).map(|price| Cost {
            millionths: price.of(peer.month_bytes),
            currency: price.currency.clone(),
        });
        let rate = link.rate.or(peer.rate).filter(|rate| *rate > 0);
        Ok(PeerStatus {
            name: self.fleet.name_of(peer.site),
            state: match peer.state {
                links::PeerState::Ready => PeerState::Connected,
                links::PeerState::Refused | links::PeerState::Fenced => PeerState::Refused,
                links::PeerState::Down | links::PeerState::Calling | links::PeerState::Greeting => {
                    PeerState::Waiting
                }
            },
            dialled: self.config.link.dial.contains(&peer.site),
            last_contact_ms_ago: peer.last_contact_ms_ago,
            next_attempt_in_ms: peer.next_attempt_in_ms,
            cause: peer.cause,
            bytes_sent: peer.bytes_sent,
            bytes_received: peer.bytes_received,
            bytes_resumed: peer.bytes_resumed,
            unacknowledged_changes: unacknowledged.changes,
            unacknowledged_bytes: unacknowledged.bytes,
            lacks_changes: lacks.changes,
            offers_changes: offers.sum(),
            month: MonthStatus {
                bytes: peer.month_bytes,
                budget_bytes: policy.and_then(|policy| policy.budget),
                cost,
            },
            lacks_bytes: lacks.bytes,
            drain_ms: rate.map(|rate| lacks.bytes.saturating_mul(1_000) / rate),
        })
    }
}

fn capture_part(capture: &CaptureStatus) -> Part {
    part([capture.streaming, capture.needs_operator], &capture.cause)
}

fn apply_part(replica: &ReplicaStatus) -> Part {
    part([replica.running, replica.needs_operator], &replica.cause)
}

fn part([works, needs_operator]: [bool; 2], cause: &Option<String>) -> Part {
    let state = match (works, needs_operator) {
        (true, _) => PartState::Working,
        (false, true) => PartState::Operator,
        (false, false) => PartState::Retrying,
    };
    Part { state, cause: cause.clone() }
}

fn counters(counted: replica::Counters) -> ApplyCounters {
    ApplyCounters {
        groups: counted.groups,
        transactions: counted.transactions,
        changes: counted.changes,
        barriers: counted.barriers,
        retries: counted.retries,
        conflicts: counted.conflicts,
        parked: counted.parked,
        freed: counted.freed,
    }
}

/// A damaged store tells no numbers, but that it is damaged must be told.
fn known<T: Default>(answer: Result<T, StoreError>) -> Result<T, StoreError> {
    match answer {
        Err(StoreError::Corrupt { .. }) => Ok(T::default()),
        answer => answer,
    }
}

fn state(
    log: &Log,
    store: &StoreStatus,
    capture: Option<&CaptureStatus>,
    replica: Option<&ReplicaStatus>,
) -> (DaemonState, Option<String>) {
    if let Some(reason) = &log.fenced {
        return (DaemonState::Fenced, Some(reason.clone()));
    }
    if store.state == PartState::Operator {
        return (DaemonState::Operator, store.cause.clone());
    }
    let stuck = capture
        .filter(|capture| capture.needs_operator)
        .and_then(|capture| capture.cause.clone())
        .or_else(|| replica.filter(|r| r.needs_operator).and_then(|r| r.cause.clone()));
    if stuck.is_some() {
        return (DaemonState::Operator, stuck);
    }
    let quarantined = log.quarantined.iter().next();
    match quarantined {
        Some((origin, reason)) => {
            (DaemonState::Operator, Some(format!("changes of {origin} are set aside: {reason}")))
        }
        None => (DaemonState::Running, None),
    }
}
