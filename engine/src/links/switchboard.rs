//! Calls, takes calls, keeps one connection with each peer, and decides who supplies what.

mod holds;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use landfall_protocol::id::{Origin, SiteId};
use landfall_protocol::sync::Event;
use landfall_protocol::sync::dial::{Backoff, Dialer, keep_new};
use landfall_protocol::sync::select::{PeerView, Suppliers, choose};
use landfall_protocol::version::VersionVector;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::call::{CallError, Verdict, call};
use super::clock::random;
use super::link::{Dialled, KEEP_WITHIN, Link, LinkEnd, LinkId, Orders, Report, Tidings};
use super::policy::{Hold, LOOK_MS_BUSY, LOOK_MS_DRAIN, LOOK_MS_MAX, LOOK_MS_QUIET, Left, Quiet};
use super::status::PeerState;
use crate::config::{LinkConfig, PeerPolicy};
use crate::store::{Log, Sealing, Severity, StoreError};
use crate::tasks::Child;
use crate::transport::{Arriving, CloseCode, Connection, Endpoint, TransportError};

/// Reports of links that wait to be looked at; more wait in the links.
const REPORTS_MAX: usize = 256;
/// The least time between two choices of suppliers, in milliseconds: with every unit that arrives
/// there would be something to look at.
const CHOOSE_EVERY_MS: u64 = 20;
/// How long a connection is given to show that it lives when the peer makes another one; four
/// round trips where that is longer.
const PROBE_MS: u64 = 3_000;

/// How long we stay silent when nobody says that we may speak: a database that cannot be asked must
/// not keep us from passing on.
const SPEAK_WITHIN: Duration = Duration::from_secs(15);

/// One connection with a peer.
struct Connected {
    id: LinkId,
    dialled: Dialled,
    connection: Connection,
    orders: watch::Sender<Orders>,
    view: PeerView,
    /// Origins it must not supply while this connection lasts: what it sent of them was damaged.
    unfit: BTreeSet<Origin>,
    rival: Option<Rival>,
}

/// A second connection that waits until it is known whether the first one lives.
struct Rival {
    connection: Connection,
    dialled: Dialled,
    decide_at_ms: u64,
    /// Bytes received over the first one when it was probed.
    bytes_received: u64,
}

type Ended = (SiteId, LinkId, LinkEnd);
type Called = (SiteId, Result<Connection, CallError>);

/// The task behind [`Links`](super::Links).
pub(super) struct Switchboard {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    log: watch::Receiver<Log>,
    dialer: Dialer,
    connected: BTreeMap<SiteId, Connected>,
    calls: FuturesUnordered<BoxFuture<'static, Called>>,
    arriving: FuturesUnordered<BoxFuture<'static, Result<Connection, TransportError>>>,
    links: FuturesUnordered<BoxFuture<'static, Ended>>,
    links_made: u64,
    /// Of each peer, whether the last link with it is over.
    over: BTreeMap<SiteId, CancellationToken>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    suppliers: Suppliers,
    /// When suppliers are chosen anew because something moved.
    choose_at_ms: Option<u64>,
    chosen_at_ms: u64,
    sealing: Sealing,
    fenced: Option<String>,
    may_speak: watch::Receiver<bool>,
    policies: BTreeMap<SiteId, PeerPolicy>,
    /// With whom there is to be no link just now.
    held: BTreeMap<SiteId, Hold>,
    /// Since when links that are to be hung up are quiet.
    quiet: BTreeMap<SiteId, Quiet>,
    /// Peers hung up because nothing was left to say, with what we had then.
    drained: BTreeMap<SiteId, VersionVector>,
    /// When that is looked at again.
    look_at_ms: Option<u64>,
    /// Bytes of the month when it was last looked at.
    spent: BTreeMap<SiteId, u64>,
}

impl Switchboard {
    pub(super) fn new(
        shared: Arc<Shared>,
        endpoint: Endpoint,
        config: &LinkConfig,
        may_speak: watch::Receiver<bool>,
    ) -> Self {
        let ms = |duration: Duration| duration.as_millis().try_into().unwrap_or(u64::MAX);
        let backoff =
            Backoff { min_ms: ms(config.reconnect_min), max_ms: ms(config.reconnect_max) };
        let mut dialer = Dialer::new(backoff);
        let peers = config.dial.iter().copied().filter(|site| *site != shared.own()).collect();
        dialer.handle_peers(&peers, shared.clock.now_ms());
        let log = shared.store.watch_for_links();
        Self {
            endpoint,
            log,
            dialer,
            connected: BTreeMap::new(),
            calls: FuturesUnordered::new(),
            arriving: FuturesUnordered::new(),
            links: FuturesUnordered::new(),
            links_made: 0,
            over: BTreeMap::new(),
            reports: mpsc::channel(REPORTS_MAX),
            suppliers: Suppliers::default(),
            choose_at_ms: None,
            chosen_at_ms: 0,
            sealing: Sealing::Lazy,
            fenced: None,
            may_speak,
            look_at_ms: (!config.peers.is_empty()).then_some(0),
            policies: config.peers.clone(),
            held: BTreeMap::new(),
            quiet: BTreeMap::new(),
            drained: BTreeMap::new(),
            spent: BTreeMap::new(),
            shared,
        }
    }

    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        let stop = self.shared.tasks.stop();
        self.shared.board.restore(self.shared.store.peers().await?);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            // A sender that is gone will not forbid it any more.
            _ = tokio::time::timeout(SPEAK_WITHIN, self.may_speak.wait_for(|may| *may)) => {}
        }
        self.look_at_log();
        loop {
            self.look_at_policies();
            self.make_calls();
            self.choose_when_due();
            let wake_ms = self.wake_ms();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = self.next(wake_ms) => match next? {
                    Next::Happened(happened) => self.handle(happened).await?,
                    Next::EndpointShutDown => break,
                },
            }
        }
        self.endpoint.shut_down("stopping").await;
        self.reports.1.close();
        let links = async { while self.links.next().await.is_some() {} };
        // What they keep is not worth more time.
        let _ = tokio::time::timeout(KEEP_WITHIN, links).await;
        for site in self.connected.keys() {
            self.shared.board.change(*site, |peer| {
                peer.state = PeerState::Down;
                peer.set_connection(None);
            });
        }
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    fn wake_ms(&self) -> Option<u64> {
        let dial_ms = self.dialer.next_ms().filter(|_| self.fenced.is_none());
        let rivals = self.connected.values().filter_map(|connected| connected.rival.as_ref());
        let decide_at_ms = rivals.map(|rival| rival.decide_at_ms).min();
        [dial_ms, self.choose_at_ms, self.suppliers.check_ms(), decide_at_ms, self.look_at_ms]
            .into_iter()
            .flatten()
            .min()
    }

    /// Waits for one thing. Cancel-safe. What comes in bulk stands last.
    async fn next(&mut self, wake_ms: Option<u64>) -> Result<Next, StoreError> {
        let happened = tokio::select! {
            biased;
            () = self.shared.clock.until(wake_ms) => Happened::Time,
            Some((site, called)) = self.calls.next() => Happened::Called(site, called),
            arriving = self.endpoint.accept() => match arriving {
                Some(arriving) => Happened::Arriving(Box::new(arriving)),
                None => return Ok(Next::EndpointShutDown),
            },
            Some(arrived) = self.arriving.next() => Happened::Arrived(arrived),
            Some(ended) = self.links.next() => Happened::Ended(ended),
            changed = self.log.changed() => {
                changed.map_err(|_| StoreError::Closed)?;
                Happened::LogAdvanced
            }
            Some(report) = self.reports.1.recv() => Happened::Reported(report),
        };
        Ok(Next::Happened(happened))
    }

    async fn handle(&mut self, happened: Happened) -> Result<(), StoreError> {
        match happened {
            Happened::Called(site, Ok(connection)) => self.connect(site, connection, Dialled::ByUs),
            Happened::Called(site, Err(error)) => self.handle_no_answer(site, &error),
            Happened::Arriving(arriving) => {
                let name = format!("call from {}", arriving.peer_addr());
                let child = self.shared.tasks.spawn_child(name, arriving.establish());
                self.arriving.push(Box::pin(outcome(child)));
            }
            Happened::Arrived(Ok(connection)) => {
                match self.shared.fleet.member_with_key(&connection.peer_key()) {
                    Some(member) => self.connect(member.site, connection, Dialled::ByPeer),
                    None => connection.close(CloseCode::REVOKED, "not in our fleet file"),
                }
            }
            Happened::Arrived(Err(error)) => handle_bad_call(&error),
            Happened::Reported(report) => self.handle_report(report),
            Happened::Ended(ended) => self.handle_ended(ended).await?,
            Happened::LogAdvanced => self.look_at_log(),
            Happened::Time => self.decide_between_rivals(),
        }
        self.seal_as_needed().await
    }

    // --- calls ---

    fn make_calls(&mut self) {
        if self.fenced.is_some() {
            return;
        }
        for site in self.dialer.due(self.now_ms()) {
            if self.held.contains_key(&site) {
                self.show_held(site);
                continue;
            }
            // A member that was taken out of the fleet file is not called.
            let Some(member) = self.shared.fleet.member(site).cloned() else { continue };
            self.show(site, |peer| peer.state = PeerState::Calling);
            let name = format!("call to {}", member.name);
            let child = self.shared.tasks.spawn_child(name, call(self.endpoint.clone(), member));
            self.calls.push(Box::pin(async move { (site, outcome(child).await) }));
        }
    }

    fn handle_no_answer(&mut self, site: SiteId, error: &CallError) {
        if !self.connected.contains_key(&site) {
            self.go_down(site, Verdict::from(error), error.to_string());
        }
    }

    /// Notes that there is no connection with a peer any more, and why.
    fn go_down(&mut self, site: SiteId, verdict: Verdict, cause: String) {
        if self.fenced.is_some() {
            return;
        }
        let now_ms = self.now_ms();
        let state = match verdict {
            Verdict::Down => {
                self.dialer.handle_down(site, now_ms, random());
                PeerState::Down
            }
            Verdict::NotNow => {
                self.dialer.handle_refused(site, now_ms, random());
                PeerState::Down
            }
            Verdict::Refused | Verdict::FencesUs => {
                self.dialer.handle_refused(site, now_ms, random());
                PeerState::Refused
            }
        };
        self.show(site, |peer| {
            // Every attempt ends like the last while the link stays down: once is enough.
            if peer.cause.as_ref() != Some(&cause) {
                match state {
                    PeerState::Refused => tracing::warn!(%site, cause, "link refused"),
                    _ => tracing::info!(%site, cause, "link down"),
                }
            }
            peer.state = state;
            peer.cause = Some(cause);
            peer.set_connection(None);
        });
    }

    // --- connections ---

    fn connect(&mut self, site: SiteId, connection: Connection, dialled: Dialled) {
        if let Some(reason) = &self.fenced {
            return connection.close(CloseCode::FENCED, reason);
        }
        if let Some(hold) = self.hold(site) {
            return self.turn_away(site, connection, hold);
        }
        let Some(existing) = self.connected.get_mut(&site) else {
            return self.install(site, connection, dialled);
        };
        let own = self.shared.own();
        let by = |dialled| if dialled == Dialled::ByUs { own } else { site };
        if keep_new(own, site, by(existing.dialled), by(dialled)) {
            existing.connection.close(CloseCode::SUPERSEDED, "");
            return self.install(site, connection, dialled);
        }
        // The peer may have forgotten the first one in a restart, of which we hear nothing while
        // both are silent. So that one must show that it lives.
        if let Some(rival) = existing.rival.take() {
            rival.connection.close(CloseCode::SUPERSEDED, "");
        }
        let bytes_received = existing.connection.udp_bytes().1;
        let rtt_ms = u64::try_from(existing.connection.rtt().as_millis()).unwrap_or(u64::MAX);
        let patience_ms = PROBE_MS.max(rtt_ms.saturating_mul(4));
        let decide_at_ms = self.shared.clock.now_ms().saturating_add(patience_ms);
        existing.rival = Some(Rival { connection, dialled, decide_at_ms, bytes_received });
        existing.orders.send_modify(|orders| orders.probes += 1);
    }

    fn install(&mut self, site: SiteId, connection: Connection, dialled: Dialled) {
        self.links_made += 1;
        let id = LinkId(self.links_made);
        let (orders, ordered) = watch::channel(Orders::default());
        self.dialer.handle_connected(site);
        let mut heard = None;
        self.show(site, |peer| {
            peer.state = PeerState::Greeting;
            peer.set_connection(Some(connection.clone()));
            heard = Some(peer.heard.clone());
        });
        let over = CancellationToken::new();
        let before = self.over.insert(site, over.clone()).unwrap_or_else(|| {
            let none = CancellationToken::new();
            none.cancel();
            none
        });
        let link = Link {
            shared: self.shared.clone(),
            connection: connection.clone(),
            peer: site,
            id,
            dialled,
            orders: ordered,
            reports: self.reports.0.clone(),
            heard: heard.unwrap_or_default(),
            before,
        };
        let name = format!("link with {}", connection.peer_name());
        let over = over.drop_guard();
        let run = async move {
            let _over = over;
            link.run().await
        };
        let child = self.shared.tasks.spawn_child(name, run);
        self.links.push(Box::pin(async move { (site, id, outcome(child).await) }));
        let view = PeerView::default();
        let connected = Connected {
            id,
            dialled,
            connection,
            orders,
            view,
            unfit: BTreeSet::new(),
            rival: None,
        };
        self.connected.insert(site, connected);
        if self.policies.contains_key(&site) {
            self.look_at_ms = Some(0);
            self.quiet.remove(&site);
            self.drained.remove(&site);
        }
        self.choose_soon();
    }

    /// Rivals whose time has come: the first connection stays if it was heard since.
    fn decide_between_rivals(&mut self) {
        let now_ms = self.now_ms();
        let mut replace = Vec::new();
        for (site, connected) in &mut self.connected {
            let due = connected.rival.take_if(|rival| rival.decide_at_ms <= now_ms);
            let Some(rival) = due else { continue };
            if connected.connection.udp_bytes().1 > rival.bytes_received {
                rival.connection.close(CloseCode::SUPERSEDED, "");
            } else {
                replace.push((*site, rival));
            }
        }
        for (site, rival) in replace {
            self.connected[&site].connection.close(CloseCode::SUPERSEDED, "");
            self.install(site, rival.connection, rival.dialled);
        }
    }

    async fn handle_ended(&mut self, (site, id, end): Ended) -> Result<(), StoreError> {
        if let LinkEnd::Store(error) = &end
            && error.severity() == Severity::Fatal
        {
            return Err(error.clone());
        }
        let verdict = Verdict::from(&end);
        let current = self.connected.get(&site).is_some_and(|connected| connected.id == id);
        if current && let Some(connected) = self.connected.remove(&site) {
            match connected.rival {
                Some(rival) => self.install(site, rival.connection, rival.dialled),
                None => {
                    self.go_down(site, verdict, end.to_string());
                    if verdict == Verdict::NotNow && connected.view.ready {
                        self.wait_for_news(site);
                    }
                }
            }
            self.choose_soon();
        }
        if verdict == Verdict::FencesUs {
            self.fence(end.to_string()).await?;
        }
        Ok(())
    }

    /// Falls silent first: that must not wait for the store.
    async fn fence(&mut self, reason: String) -> Result<(), StoreError> {
        if self.fenced.is_none() {
            self.fall_silent(reason.clone());
        }
        match self.shared.store.fence(reason).await {
            Err(error) if error.severity() == Severity::Fatal => Err(error),
            // After a restart the peer will say the same again.
            Err(error) => {
                tracing::error!(%error, advice = error.advice(), "the fence is not noted");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn handle_report(&mut self, Report { peer: site, link, tidings }: Report) {
        let Some(connected) = self.connected.get_mut(&site) else { return };
        if connected.id != link {
            return;
        }
        let event = match tidings {
            Tidings::Event(event) => event,
            Tidings::Unfit(origin) => {
                connected.unfit.insert(origin);
                return self.choose_soon();
            }
        };
        match event {
            Event::Ready { peer: origin, peer_received, peer_applied, clock_offset_ms, .. } => {
                let name = connected.connection.peer_name().to_owned();
                tracing::info!(%site, name, %origin, clock_offset_ms, "link up");
                connected.view = PeerView { received: peer_received.clone(), ready: true };
                self.dialer.handle_ready(site);
                self.show(site, |peer| {
                    peer.state = PeerState::Ready;
                    peer.cause = None;
                    peer.received = peer_received;
                    peer.applied = peer_applied;
                    peer.life = Some(origin.incarnation);
                    peer.clock_offset_ms = Some(clock_offset_ms);
                });
                self.choose_soon();
            }
            Event::Acked { received } => {
                connected.view.received.join(&received);
                self.show(site, |peer| peer.received.join(&received));
            }
            Event::PeerApplied { applied } => self.show(site, |peer| peer.applied.join(&applied)),
            Event::NewKnowledge => self.choose_soon(),
            Event::LogForked { origin, seq } => {
                tracing::warn!(%site, %origin, %seq, "the peer says that it holds another history, and is asked to show it");
            }
            // Ends the link, which tells by itself.
            Event::Refused(_) => {}
        }
    }

    /// Changes what is shown of a peer, its next attempt included.
    fn show(&self, site: SiteId, change: impl FnOnce(&mut super::status::Peer)) {
        let next_ms = self.dialer.next_of(site).filter(|_| self.fenced.is_none());
        self.shared.board.change(site, |peer| {
            peer.next_attempt_ms = next_ms;
            change(peer);
        });
    }

    // --- the log ---

    fn look_at_log(&mut self) {
        let fenced = self.log.borrow_and_update().fenced.clone();
        self.choose_soon();
        self.call_for_news();
        if self.fenced.is_none()
            && let Some(reason) = fenced
        {
            self.fall_silent(reason);
        }
    }

    /// Closes everything: what we would say carries numbers that are taken.
    fn fall_silent(&mut self, reason: String) {
        tracing::error!(reason, "this node is fenced: all links are closed");
        self.fenced = Some(reason.clone());
        for connected in std::mem::take(&mut self.connected).into_values() {
            connected.connection.close(CloseCode::FENCED, &reason);
            if let Some(rival) = connected.rival {
                rival.connection.close(CloseCode::FENCED, &reason);
            }
        }
        let others: Vec<SiteId> = self.shared.members().iter().copied().collect();
        for site in others {
            self.show(site, |peer| {
                peer.state = PeerState::Fenced;
                peer.cause = Some(reason.clone());
                peer.set_connection(None);
            });
        }
    }

    fn choose_soon(&mut self) {
        let soonest_ms = self.chosen_at_ms.saturating_add(CHOOSE_EVERY_MS);
        self.choose_at_ms.get_or_insert(soonest_ms.max(self.shared.clock.now_ms()));
    }

    fn choose_when_due(&mut self) {
        let now_ms = self.now_ms();
        let due = self.choose_at_ms.into_iter().chain(self.suppliers.check_ms()).min();
        if due.is_none_or(|due| due > now_ms) {
            return;
        }
        self.choose_at_ms = None;
        self.chosen_at_ms = now_ms;
        let log = self.log.borrow();
        let wanted = |connected: &Connected, origin: Origin| {
            !log.quarantined.contains_key(&origin) && !connected.unfit.contains(&origin)
        };
        let views = self.connected.iter().map(|(site, connected)| {
            let PeerView { received, ready } = &connected.view;
            let known = received.iter().filter(|(origin, _)| wanted(connected, *origin));
            (*site, PeerView { received: known.collect(), ready: *ready })
        });
        let views: BTreeMap<SiteId, PeerView> = views.collect();
        let (own, members) = (self.shared.facts.origin, self.shared.members());
        let mut chosen = choose(&views, &log.received, own, members, &self.suppliers, now_ms);
        std::mem::swap(&mut self.suppliers, &mut chosen);
        for (site, connected) in &self.connected {
            let mut supply = self.suppliers.by(*site);
            // One that supplies already goes on, unless the origin was set aside meanwhile.
            supply.retain(|origin| wanted(connected, *origin));
            connected.orders.send_if_modified(|orders| {
                let moved = orders.supply != supply;
                orders.supply = supply;
                moved
            });
        }
    }

    /// Seals at once while somebody is there to take it.
    async fn seal_as_needed(&mut self) -> Result<(), StoreError> {
        let anybody = self.connected.values().any(|connected| connected.view.ready);
        let sealing = if anybody { Sealing::Eager } else { Sealing::Lazy };
        if sealing == self.sealing {
            return Ok(());
        }
        match self.shared.store.set_sealing(sealing).await {
            Ok(()) => self.sealing = sealing,
            Err(error) if error.severity() == Severity::Fatal => return Err(error),
            // Tried again with the next thing that happens.
            Err(error) => tracing::warn!(%error, advice = error.advice(), "sealing stays as it is"),
        }
        Ok(())
    }
}

enum Next {
    Happened(Happened),
    EndpointShutDown,
}

/// What the switchboard waits for.
enum Happened {
    Called(SiteId, Result<Connection, CallError>),
    Arriving(Box<Arriving>),
    Arrived(Result<Connection, TransportError>),
    Reported(Report),
    Ended(Ended),
    LogAdvanced,
    Time,
}

/// What a child came to. One that panicked never does: it ends the process.
async fn outcome<T>(child: Child<T>) -> T {
    match child.await {
        Ok(output) => output,
        Err(_) => std::future::pending().await,
    }
}

fn handle_bad_call(error: &TransportError) {
    match error {
        TransportError::WrongKey { .. } => tracing::warn!(%error, "refused a call"),
        error => tracing::debug!(%error, "a call came to nothing"),
    }
}
