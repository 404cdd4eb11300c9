//! One connection: drives a session over it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use landfall_protocol::id::{Origin, Seq, SiteId};
use landfall_protocol::sync::{
    Event, HELLO_TIMEOUT_MS, Opening, Output, Refusal, Session, SessionConfig,
};
use landfall_protocol::wire::{
    Begun, FRAME_BYTES_MAX, HEAD_BYTES_MAX, Have, Held, Message, UnitStreamHead,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::begun::Underway;
use super::incoming::{Arrived, Fault, Intake, read_head};
use super::serving::Serving;
use super::status::Heard;
use crate::plant;
use crate::store::{self, Log, StoreError};
use crate::tasks::Child;
use crate::time;
use crate::transport::{
    CloseCode, Connection, FrameError, FrameReader, FrameWriter, StreamCode, TransportError,
};

/// The control stream goes before units.
const CONTROL_PRIORITY: i32 = 1;
/// The least time between two acknowledgements, in milliseconds.
const ACK_DELAY_MS: u64 = 50;
/// Stored units that the link has not taken note of; more wait in their readers.
const ARRIVED_MAX: usize = 64;
/// How often QUIC is nudged while the peer owes an answer.
const NUDGE_MS: u64 = 500;
/// How long a refused peer is given to take our hello, with which it makes checks of its own.
const REFUSAL_LINGER: Duration = Duration::from_secs(5);
/// How long a link that is over is given to keep what has come of a unit.
pub(super) const KEEP_WITHIN: Duration = Duration::from_secs(3);

/// Tells connections with one peer apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId(pub(super) u64);

/// Who made a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialled {
    ByUs,
    ByPeer,
}

/// What the switchboard wants of a link; only the newest counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// The origins this peer shall supply.
    pub(super) supply: BTreeSet<Origin>,
    /// Each time this moves, the peer is made to answer.
    pub(super) probes: u64,
}

/// What a link tells the switchboard.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) peer: SiteId,
    pub(super) link: LinkId,
    pub(super) tidings: Tidings,
}

/// What there is to tell.
#[derive(Debug)]
pub(super) enum Tidings {
    /// The session's word.
    Event(Event),
    /// What the peer sent of this origin was damaged: somebody else must supply it.
    Unfit(Origin),
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkEnd {
    /// The session found that the hellos do not fit, or a rule broken.
    #[error("{0}")]
    Refused(Refusal),
    /// The peer broke a rule about unit streams.
    #[error("the peer broke the protocol: {0}")]
    Broke(String),
    /// Its key is pinned no more.
    #[error("the peer's key is not pinned any more")]
    Revoked,
    /// The connection is over, or was closed by the switchboard.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Our store does not go on.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FrameError> for LinkEnd {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Connection(error) => Self::Transport(error),
            error => Self::Broke(error.to_string()),
        }
    }
}

/// What a link needs to run.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Connection,
    pub(super) peer: SiteId,
    pub(super) id: LinkId,
    pub(super) dialled: Dialled,
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) heard: Arc<Heard>,
    /// Tells that the link before with this peer has kept what came.
    pub(super) before: CancellationToken,
}

impl Link {
    /// Runs until the connection is over, and closes it if it is not.
    pub(super) async fn run(self) -> LinkEnd {
        let connection = self.connection.clone();
        let end = match self.drive().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        connection.close(end.code(), &end.to_string());
        end
    }

    /// Tells the peer why before any stream is dropped; see [`Driver::drop`].
    fn close(&self, end: LinkEnd) -> LinkEnd {
        self.connection.close(end.code(), &end.to_string());
        end
    }

    async fn drive(self) -> Result<std::convert::Infallible, LinkEnd> {
        // Or we would not know yet what we have of a unit.
        let _ = tokio::time::timeout(KEEP_WITHIN, self.before.cancelled()).await;
        let limit = Duration::from_millis(HELLO_TIMEOUT_MS);
        let mut control = match self.dialled {
            Dialled::ByUs => self.connection.open_bidi(FRAME_BYTES_MAX).await?,
            Dialled::ByPeer => {
                let accepted = self.connection.accept_bidi(FRAME_BYTES_MAX);
                match tokio::time::timeout(limit, accepted).await {
                    Ok(control) => control?,
                    Err(_) => return Err(LinkEnd::Refused(Refusal::NoHello)),
                }
            }
        };
        control.0.set_priority(CONTROL_PRIORITY);
        let held = self.shared.store.held().await;
        let held = held.map_err(|error| self.close(error.into()))?;
        Driver::open(self, held, control).run().await
    }
}

type Head = Result<Option<(UnitStreamHead, FrameReader)>, Fault>;

/// A link with its session and all its streams.
struct Driver {
    link: Link,
    session: Session,
    log: watch::Receiver<Log>,
    writer: FrameWriter,
    reader: FrameReader,
    /// A message is on its way into the control stream.
    is_flushing: bool,
    hello_due_ms: u64,
    serving: Serving,
    /// Unit streams whose head has not come, in the order they were opened.
    heads: FuturesOrdered<BoxFuture<'static, Head>>,
    taking: BTreeMap<Origin, Taking>,
    reading: FuturesUnordered<BoxFuture<'static, (Origin, Result<(), Fault>)>>,
    arrived: (mpsc::Sender<Arrived>, mpsc::Receiver<Arrived>),
    /// Everything we ever followed here.
    followed: BTreeSet<Origin>,
    /// What we told with the last follow that we have of the next unit.
    told: BTreeMap<Origin, (Seq, Begun)>,
    /// Origins of which we tell no more over this connection what we have of a unit: it did not fit.
    anew: BTreeSet<Origin>,
    probes: u64,
    /// When QUIC is nudged next, and the send window since the last time; `None` where it need not be.
    nudge: Option<(u64, u64)>,
}

/// What becomes of the unit streams of one origin. Nothing is noted of an origin of which none is
/// open.
enum Taking {
    /// One is being read; units of the others follow on its last.
    Reading(VecDeque<(UnitStreamHead, FrameReader)>),
    /// It was asked for anew; streams that were opened before the peer heard of that do not count.
    Anew,
    /// No more of it is taken over this connection.
    GivenUp,
}

impl Driver {
    fn open(
        link: Link,
        held: Vec<store::Held>,
        (writer, reader): (FrameWriter, FrameReader),
    ) -> Self {
        let (shared, peer) = (&link.shared, link.peer);
        let now_ms = shared.clock.now_ms();
        let held = held
            .into_iter()
            .map(|held| Held { origin: held.origin, seq: held.seq, hash: held.hash })
            .collect();
        let mut log = shared.store.watch_for_links();
        let opening = {
            let log = log.borrow_and_update();
            Opening {
                peer,
                received: log.received.clone(),
                applied: log.applied.clone(),
                held,
                wall_ms: time::wall_ms(),
            }
        };
        let config = SessionConfig { ack_delay_ms: ACK_DELAY_MS };
        Self {
            session: Session::new(shared.facts.clone(), opening, config, now_ms),
            serving: Serving::new(shared.clone(), peer, link.connection.clone()),
            log,
            writer,
            reader,
            is_flushing: false,
            hello_due_ms: now_ms.saturating_add(HELLO_TIMEOUT_MS),
            heads: FuturesOrdered::new(),
            taking: BTreeMap::new(),
            reading: FuturesUnordered::new(),
            arrived: mpsc::channel(ARRIVED_MAX),
            followed: BTreeSet::new(),
            told: BTreeMap::new(),
            anew: BTreeSet::new(),
            probes: 0,
            nudge: link.connection.nudge(0).map(|window| (now_ms, window)),
            link,
        }
    }

    async fn run(mut self) -> Result<std::convert::Infallible, LinkEnd> {
        let end = loop {
            if let Err(end) = self.step().await {
                break end;
            }
        };
        let end = self.link.close(end);
        self.leave().await;
        Err(end)
    }

    /// Lets those who read keep what has come of a unit. The connection is closed: they are about to
    /// end.
    async fn leave(&mut self) {
        self.arrived.1.close();
        let all = async { while self.reading.next().await.is_some() {} };
        // Who waits for room in the store is not waited for.
        let _ = tokio::time::timeout(KEEP_WITHIN, all).await;
    }

    async fn step(&mut self) -> Result<(), LinkEnd> {
        let wake_ms = self.drain().await?;
        self.next(wake_ms).await
    }

    fn now_ms(&self) -> u64 {
        self.link.shared.clock.now_ms()
    }

    /// Does what the session wants until it wants nothing or the control stream is full; says when
    /// to wake it.
    async fn drain(&mut self) -> Result<Option<u64>, LinkEnd> {
        while !self.is_flushing {
            match self.session.poll_output(self.now_ms()) {
                Output::Send(message) => {
                    let message = self.with_begun(message).await?;
                    self.send(&message)?;
                }
                Output::StartUnits { origin, after, begun } => {
                    self.serving.start(origin, after, begun);
                }
                Output::StopUnits { origin } => self.serving.stop(origin).await,
                Output::Event(event) => self.tell(event).await?,
                Output::Timeout { at_ms, .. } => return Ok(Some(at_ms)),
                Output::Idle => return Ok(None),
            }
        }
        // What the session wants next is unknown; a peer that never says hello is still found, also
        // one that does not take ours.
        if self.session.is_ready() {
            return Ok(None);
        }
        if self.now_ms() >= self.hello_due_ms {
            return Err(LinkEnd::Refused(Refusal::NoHello));
        }
        Ok(Some(self.hello_due_ms))
    }

    /// Adds to a follow what came of the next unit before a link was cut.
    async fn with_begun(&mut self, message: Message) -> Result<Message, LinkEnd> {
        let Message::Follow { origin, after, .. } = message else { return Ok(message) };
        let begun = match self.anew.contains(&origin) {
            true => None,
            false => self.link.shared.store.begun(origin, after).await?,
        };
        match begun {
            Some(begun) => drop(self.told.insert(origin, (after, begun))),
            None => drop(self.told.remove(&origin)),
        }
        Ok(Message::Follow { origin, after, begun })
    }

    fn send(&mut self, message: &Message) -> Result<(), LinkEnd> {
        if let Message::Follow { origin, .. } = message {
            self.followed.insert(*origin);
        }
        self.writer.queue(Bytes::from(message.encode()))?;
        self.is_flushing = true;
        Ok(())
    }

    async fn tell(&mut self, event: Event) -> Result<(), LinkEnd> {
        if let Event::Refused(refusal) = event {
            self.take_leave().await;
            return Err(LinkEnd::Refused(refusal));
        }
        self.report(Tidings::Event(event)).await;
        Ok(())
    }

    async fn report(&mut self, tidings: Tidings) {
        let (peer, link) = (self.link.peer, self.link.id);
        // Without a switchboard everything is stopping, and this task with it.
        let _ = self.link.reports.send(Report { peer, link, tidings }).await;
    }

    /// Lets our hello reach the peer before the connection is closed, for a while.
    async fn take_leave(&mut self) {
        let writer = &mut self.writer;
        let farewell = async {
            writer.finish().await?;
            writer.delivered().await
        };
        // A peer that does not take it has to do without.
        let _ = tokio::time::timeout(REFUSAL_LINGER, farewell).await;
    }

    /// Waits for one thing to happen and passes it on. Everything waited for is cancel-safe. What
    /// comes in bulk stands last, so that it delays nothing else; the rest is soon used up.
    async fn next(&mut self, wake_ms: Option<u64>) -> Result<(), LinkEnd> {
        let clock = self.link.shared.clock;
        let is_owed = self.serving.is_owed(self.session.peer_received());
        let nudge = self.nudge.filter(|_| is_owed);
        tokio::select! {
            biased;
            () = self.link.connection.revoked() => return Err(LinkEnd::Revoked),
            flushed = self.writer.flush(), if self.is_flushing => {
                flushed?;
                self.is_flushing = false;
            }
            () = clock.until(wake_ms) => self.session.handle_timeout(self.now_ms()),
            () = clock.until(nudge.map(|(at_ms, _)| at_ms)) => {
                let window = self.link.connection.nudge(nudge.map_or(0, |(_, window)| window));
                self.nudge = window.map(|window| (self.now_ms() + NUDGE_MS, window));
            }
            changed = self.link.orders.changed() => {
                // Dropped by the switchboard only together with the connection.
                if changed.is_err() {
                    return Err(self.link.connection.closed().await.into());
                }
                self.handle_orders()?;
            }
            stream = self.link.connection.accept_uni(HEAD_BYTES_MAX) => {
                self.heads.push_back(Box::pin(read_head(stream?)));
            }
            Some(head) = self.heads.next() => self.handle_head(head)?,
            Some((origin, result)) = self.reading.next() => {
                self.handle_read(origin, result).await?;
            }
            ended = self.serving.next() => self.serving.handle_ended(ended).await?,
            changed = self.log.changed() => {
                changed.map_err(|_| StoreError::Closed)?;
                self.handle_log();
            }
            Some(arrived) = self.arrived.1.recv() => {
                self.handle_arrived(arrived).await?;
            }
            frame = self.reader.next() => self.handle_frame(frame?).await?,
        }
        Ok(())
    }

    async fn handle_frame(&mut self, frame: Option<Bytes>) -> Result<(), LinkEnd> {
        let Some(frame) = frame else {
            // The peer has no more to say: it is about to close, and will give the reason.
            return Err(self.link.connection.closed().await.into());
        };
        self.link.heard.note();
        match Message::decode(&frame) {
            Ok(Message::Hello(hello)) => {
                let ends = hello.received.iter().collect();
                let hashes = self.link.shared.store.unit_hashes(ends).await?;
                self.session.handle_hello(*hello, &hashes, self.now_ms());
                self.handle_log();
            }
            Ok(message) => {
                self.session.handle_message(message, self.now_ms());
                if self.session.doubts_own_log() {
                    self.handle_log();
                }
            }
            Err(error) => self.session.handle_bad_frame(error, self.now_ms()),
        }
        Ok(())
    }

    async fn handle_arrived(&mut self, Arrived { origin, last }: Arrived) -> Result<(), LinkEnd> {
        self.session.handle_unit_received(origin, last, self.now_ms());
        if plant::active("ack-before-sync") {
            let mut log = self.log.borrow().clone();
            log.received.advance(origin, last);
            self.session.handle_log_advanced(&log.received, &log.applied, self.now_ms());
        }
        // The session takes it for said, but the switchboard does not know yet.
        self.tell(Event::Acked { received: [(origin, last)].into_iter().collect() }).await
    }

    fn handle_log(&mut self) {
        let now_ms = self.now_ms();
        let log = self.log.borrow_and_update();
        self.session.handle_log_advanced(&log.received, &log.applied, now_ms);
        self.serving.handle_log(&log);
    }

    fn handle_orders(&mut self) -> Result<(), LinkEnd> {
        let now_ms = self.now_ms();
        let orders = self.link.orders.borrow_and_update();
        self.session.handle_supply(&orders.supply, now_ms);
        let probe = orders.probes > self.probes && self.session.is_ready();
        self.probes = orders.probes;
        drop(orders);
        // While something is under way the peer has to answer anyway.
        if probe && !self.is_flushing {
            self.send(&Message::Have(Have::default()))?;
        }
        Ok(())
    }

    fn handle_head(&mut self, head: Head) -> Result<(), LinkEnd> {
        let (head, mut reader) = match head {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(fault) => return Err(link_end(fault)),
        };
        if !self.followed.contains(&head.origin) {
            reader.stop(StreamCode::NOT_WANTED);
            let why = format!("a unit stream of origin {}, which was not asked for", head.origin);
            return Err(LinkEnd::Broke(why));
        }
        let begins = head.at == 0 && head.after <= self.log.borrow().received.get(head.origin);
        match self.taking.get_mut(&head.origin) {
            Some(Taking::Reading(waiting)) => waiting.push_back((head, reader)),
            Some(Taking::Anew) if begins => self.read(head, reader)?,
            Some(Taking::Anew | Taking::GivenUp) => reader.stop(StreamCode::NOT_WANTED),
            None => self.read(head, reader)?,
        }
        Ok(())
    }

    fn read(&mut self, head: UnitStreamHead, reader: FrameReader) -> Result<(), LinkEnd> {
        let UnitStreamHead { origin, after, at } = head;
        let told = self.told.get(&origin).filter(|told| told.0 == after && told.1.bytes == at);
        let begun = told.map(|(_, begun)| *begun);
        if at > 0 && begun.is_none() {
            return self.begin_anew(origin, "it goes on behind what was told before");
        }
        match self.taking.entry(origin).or_insert(Taking::Anew) {
            Taking::Reading(_) => {}
            other => *other = Taking::Reading(VecDeque::new()),
        }
        let shared = &self.link.shared;
        let member = shared.fleet.member(origin.site);
        let intake = Intake {
            store: shared.store.clone(),
            reader,
            origin,
            underway: Underway::new(shared.store.clone(), origin, after),
            begun,
            key: member.expect("only origins of members are followed").key,
            heard: self.link.heard.clone(),
            arrived: self.arrived.0.clone(),
        };
        let name = format!("units of {origin} from site {}", self.link.peer);
        let child: Child<Result<(), Fault>> = shared.tasks.spawn_child(name, intake.run());
        self.reading.push(Box::pin(async move {
            match child.await {
                Ok(result) => (origin, result),
                // It panicked, which ends the process.
                Err(_) => std::future::pending().await,
            }
        }));
        Ok(())
    }

    /// Asks for an origin once more, without a word of what came of a unit before.
    fn begin_anew(&mut self, origin: Origin, why: &str) -> Result<(), LinkEnd> {
        let peer = self.link.connection.peer_name();
        tracing::debug!(%origin, peer, why, "a unit is asked for from its beginning");
        if !self.anew.insert(origin) {
            let why = format!("a unit of origin {origin} goes on that was to begin anew");
            return Err(LinkEnd::Broke(why));
        }
        let is_asked = self.session.handle_unfit_begun(origin, self.now_ms());
        self.taking.insert(origin, if is_asked { Taking::Anew } else { Taking::GivenUp });
        Ok(())
    }

    async fn handle_read(
        &mut self,
        origin: Origin,
        result: Result<(), Fault>,
    ) -> Result<(), LinkEnd> {
        let Err(fault) = result else {
            let next = match self.taking.get_mut(&origin) {
                Some(Taking::Reading(waiting)) => waiting.pop_front(),
                Some(Taking::Anew | Taking::GivenUp) | None => None,
            };
            match next {
                Some((head, reader)) => return self.read(head, reader),
                None => drop(self.taking.remove(&origin)),
            }
            return Ok(());
        };
        // Dropping the readers tells the peer that no more is wanted.
        self.taking.insert(origin, Taking::GivenUp);
        let peer = self.link.connection.peer_name();
        match fault {
            Fault::BadOrigin(why) => {
                tracing::error!(%origin, peer, why, "origin is set aside until an operator decides");
                self.link.shared.store.quarantine(origin, format!("{why} (from {peer})")).await?;
                Ok(())
            }
            Fault::BadCarrier(why) => {
                tracing::warn!(%origin, peer, why, "a unit was damaged on its way here");
                self.report(Tidings::Unfit(origin)).await;
                Ok(())
            }
            Fault::NotUnderstood(why) => {
                tracing::warn!(%origin, peer, why, "this version cannot read what comes");
                self.report(Tidings::Unfit(origin)).await;
                Ok(())
            }
            Fault::Unfit(why) => {
                self.link.shared.store.forget_begun(origin).await?;
                self.begin_anew(origin, why)
            }
            fault => Err(link_end(fault)),
        }
    }
}

impl Drop for Driver {
    /// Whoever drops an unfinished stream gives it up. A peer that hears of that before it hears
    /// that the connection is over must think that we broke the protocol.
    fn drop(&mut self) {
        self.link.connection.close(CloseCode::DONE, "");
    }
}

fn link_end(fault: Fault) -> LinkEnd {
    match fault {
        Fault::BadOrigin(why)
        | Fault::BadCarrier(why)
        | Fault::NotUnderstood(why)
        | Fault::Broke(why) => LinkEnd::Broke(why),
        Fault::Unfit(why) => LinkEnd::Broke(why.into()),
        Fault::Frame(error) => error.into(),
        Fault::Store(error) => error.into(),
    }
}
