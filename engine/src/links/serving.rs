//! What a peer follows here: which origins are being sent, and how far.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use landfall_protocol::id::{Origin, Seq, SiteId};
use landfall_protocol::version::VersionVector;
use landfall_protocol::wire::Begun;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::link::LinkEnd;
use super::outgoing::{Pump, PumpError, Pumped};
use crate::store::{Log, Severity};
use crate::transport::{Connection, FrameError, FrameWriter};

/// Streams left open while there is nothing to send, which saves a few bytes with every unit. A
/// peer allows 64 of them; the rest is for origins that have something to send.
const STREAMS_KEPT_MAX: usize = 32;

/// zstd level of what goes over links that cost by the byte.
const METERED_LEVEL: i32 = 19;

/// One origin that the peer follows.
#[derive(Debug)]
struct Followed {
    /// Tells this follow from an earlier one of the same origin.
    generation: u64,
    sent: Seq,
    /// What the peer has of the unit that comes next.
    begun: Option<Begun>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing to send; perhaps with an open stream.
    Idle(Option<FrameWriter>),
    Sending(CancellationToken),
    /// It cannot be sent over this connection any more.
    GivenUp,
}

/// A task that ended.
#[derive(Debug)]
pub(super) struct Ended {
    origin: Origin,
    generation: u64,
    result: Result<Pumped, PumpError>,
}

/// Starts a task for an origin whenever there is something to send, so that what is idle costs an
/// entry and nothing more.
pub(super) struct Serving {
    shared: Arc<Shared>,
    peer: SiteId,
    connection: Connection,
    followed: BTreeMap<Origin, Followed>,
    generation: u64,
    kept: usize,
    pumps: FuturesUnordered<BoxFuture<'static, Ended>>,
}

impl Serving {
    pub(super) fn new(shared: Arc<Shared>, peer: SiteId, connection: Connection) -> Self {
        let followed = BTreeMap::new();
        let pumps = FuturesUnordered::new();
        Self { shared, peer, connection, followed, generation: 0, kept: 0, pumps }
    }

    /// Begins to send an origin.
    pub(super) fn start(&mut self, origin: Origin, after: Seq, begun: Option<Begun>) {
        self.generation += 1;
        let (generation, state) = (self.generation, State::Idle(None));
        let followed = Followed { generation, sent: after, begun, state };
        // The session stops what it starts anew first.
        self.followed.insert(origin, followed);
        let log = self.shared.store.watch_for_links();
        let known = log.borrow().received.get(origin);
        if known > after {
            self.pump(origin);
        }
    }

    /// Stops sending an origin, after the unit under way.
    pub(super) async fn stop(&mut self, origin: Origin) {
        match self.followed.remove(&origin).map(|followed| followed.state) {
            Some(State::Sending(stop)) => stop.cancel(),
            Some(State::Idle(Some(mut stream))) => {
                self.kept -= 1;
                // Does not wait: nothing is queued. An error means that nobody reads.
                let _ = stream.finish().await;
            }
            Some(State::Idle(None) | State::GivenUp) | None => {}
        }
    }

    /// The store has more: starts to send what is followed.
    pub(super) fn handle_log(&mut self, log: &Log) {
        let behind = self.followed.iter().filter(|(origin, followed)| {
            matches!(followed.state, State::Idle(_)) && log.received.get(**origin) > followed.sent
        });
        for origin in behind.map(|(origin, _)| *origin).collect::<Vec<_>>() {
            self.pump(origin);
        }
    }

    /// Whether something is being sent that the peer does not hold yet.
    pub(super) fn is_owed(&self, held: &VersionVector) -> bool {
        self.followed.iter().any(|(origin, followed)| match followed.state {
            State::Sending(_) => true,
            State::Idle(_) => followed.sent > held.get(*origin),
            State::GivenUp => false,
        })
    }

    /// Waits until one task ended; for ever when there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Ended {
        match self.pumps.next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    /// Takes what [`Serving::next`] said.
    pub(super) async fn handle_ended(&mut self, ended: Ended) -> Result<(), LinkEnd> {
        let Ended { origin, generation, result } = ended;
        let current = self.followed.get_mut(&origin).filter(|now| now.generation == generation);
        match result {
            Ok(pumped) => {
                if let Some(current) = current {
                    current.sent = pumped.sent;
                    self.settle(origin, pumped.stream).await;
                }
                Ok(())
            }
            Err(PumpError::Frame(FrameError::Connection(error))) => Err(error.into()),
            Err(PumpError::Store(error)) if error.severity() == Severity::Fatal => {
                Err(error.into())
            }
            Err(error) => {
                if let Some(current) = current {
                    current.state = State::GivenUp;
                }
                self.report(origin, error);
                Ok(())
            }
        }
    }

    /// Keeps the stream of an origin that has caught up, or finishes it; goes on at once if there
    /// is more by now.
    async fn settle(&mut self, origin: Origin, stream: Option<FrameWriter>) {
        let mut stream = stream;
        if self.kept >= STREAMS_KEPT_MAX
            && let Some(mut finished) = stream.take()
        {
            // Does not wait: nothing is queued. An error means that nobody reads.
            let _ = finished.finish().await;
        }
        let Some(followed) = self.followed.get_mut(&origin) else { return };
        self.kept += usize::from(stream.is_some());
        followed.state = State::Idle(stream);
        let known = self.shared.store.watch_for_links().borrow().received.get(origin);
        if known > followed.sent {
            self.pump(origin);
        }
    }

    fn pump(&mut self, origin: Origin) {
        let Some(followed) = self.followed.get_mut(&origin) else { return };
        let stop = CancellationToken::new();
        let state = std::mem::replace(&mut followed.state, State::Sending(stop.clone()));
        let State::Idle(stream) = state else { return followed.state = state };
        self.kept -= usize::from(stream.is_some());
        let pump = Pump {
            store: self.shared.store.clone(),
            log: self.shared.store.watch_for_links(),
            connection: self.connection.clone(),
            origin,
            sent: followed.sent,
            begun: followed.begun.take(),
            rank: followed.generation,
            level: self.shared.metered.contains(&self.peer).then_some(METERED_LEVEL),
            stream,
            stop,
        };
        let generation = followed.generation;
        let name = format!("units of {origin} to {}", self.connection.peer_name());
        let child = self.shared.tasks.spawn_child(name, pump.run());
        self.pumps.push(Box::pin(async move {
            match child.await {
                Ok(result) => Ended { origin, generation, result },
                // It panicked, which ends the process.
                Err(_) => std::future::pending().await,
            }
        }));
    }

    fn report(&self, origin: Origin, error: PumpError) {
        let peer = self.connection.peer_name();
        match error {
            PumpError::NotWanted => {
                tracing::debug!(%origin, peer, "the peer stopped a unit stream")
            }
            PumpError::Frame(error) => {
                tracing::warn!(%origin, peer, %error, "units of this origin are not sent on");
            }
            PumpError::NothingThere => {
                tracing::error!(%origin, peer, "the store does not hold what it says it holds");
            }
            PumpError::Store(error) => {
                let advice = error.advice();
                tracing::error!(%origin, peer, %error, advice, "units of this origin are not sent");
            }
        }
    }
}
