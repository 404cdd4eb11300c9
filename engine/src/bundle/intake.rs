//! What is read out of parts, on its way into the store: as careful as with what comes over links.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::bundle::Manifest;
use landfall_protocol::fleet::Fleet;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::sync::{
    Event, LocalFacts, Opening as SessionOpening, Output, Session, SessionConfig,
};
use landfall_protocol::unit::{Unit, UnitError};
use landfall_protocol::version::VersionVector;
use landfall_protocol::wire;

use super::PartError;
use crate::store::{Appended, Store, StoreError};
use crate::time;

/// Units are stored together up to this many bytes: one sync of the disk for many small ones.
const GROUP_BYTES: usize = 1 << 20;

/// What the writer of a part holds, checked against what we do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Who says so, in which life.
    pub writer: Origin,
    /// Durably.
    pub received: VersionVector,
    /// Showing in its PostgreSQL.
    pub applied: VersionVector,
    /// When, by its clock, in Unix milliseconds.
    pub said_ms: u64,
}

/// What became of the units of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Stored now.
    pub stored: u64,
    /// Held before.
    pub known: u64,
    /// Origins of which units do not follow on what is held, which is up to here.
    pub gaps: BTreeMap<Origin, Seq>,
    /// Origins of which nothing is taken, and why.
    pub refused: BTreeMap<Origin, String>,
}

/// Takes the units of one part.
#[derive(Debug)]
pub struct Intake {
    store: Store,
    fleet: Arc<Fleet>,
    own: Origin,
    group: Vec<Unit>,
    group_bytes: usize,
    taken: Taken,
}

impl Intake {
    /// For the member `own`.
    pub fn new(store: Store, fleet: Arc<Fleet>, own: Origin) -> Self {
        Self { store, fleet, own, group: Vec::new(), group_bytes: 0, taken: Taken::default() }
    }

    /// Judges what the writer of a part says of itself, as if it said so over a link: whoever holds
    /// more of our log than we do has met us before we were set back.
    ///
    /// # Errors
    /// [`PartError::Refused`] when a link would be refused; the store may be fenced then.
    pub async fn greet(&self, manifest: &Manifest) -> Result<Receipt, PartError> {
        let hello = manifest.to_hello(self.own.site);
        let ends = hello.received.iter().collect();
        let hashes = self.store.unit_hashes(ends).await?;
        let held = self.store.held().await?.into_iter();
        let held =
            held.map(|held| wire::Held { origin: held.origin, seq: held.seq, hash: held.hash });
        let log = self.store.watch().borrow().clone();
        let facts = LocalFacts {
            origin: self.own,
            fleet_version: self.fleet.version(),
            sets_digest: self.fleet.sets_digest(),
            members: self.fleet.members().map(|member| member.site).collect(),
            software: String::new(),
        };
        let opening = SessionOpening {
            peer: manifest.writer.site,
            received: log.received,
            applied: log.applied,
            held: held.collect(),
            wall_ms: time::wall_ms(),
        };
        let mut session = Session::new(facts, opening, SessionConfig::default(), 0);
        session.handle_hello(hello, &hashes, 0);
        self.receipt(session, manifest.made_ms).await
    }

    async fn receipt(&self, mut session: Session, said_ms: u64) -> Result<Receipt, PartError> {
        loop {
            let event = match session.poll_output(0) {
                Output::Event(event) => event,
                Output::Idle | Output::Timeout { .. } => {
                    unreachable!("a session that got a hello is ready or refuses")
                }
                // To whom it would be said is not there.
                _ => continue,
            };
            match event {
                Event::Ready { peer, peer_received, peer_applied, .. } => {
                    let (received, applied) = (peer_received, peer_applied);
                    return Ok(Receipt { writer: peer, received, applied, said_ms });
                }
                Event::Refused(refusal) => {
                    if refusal.fences_us() {
                        self.store.fence(refusal.to_string()).await?;
                    }
                    return Err(PartError::Refused(refusal));
                }
                Event::LogForked { origin, seq } => {
                    tracing::warn!(%origin, %seq, "the writer of a bundle holds another history");
                }
                _ => {}
            }
        }
    }

    /// Takes a unit. It is durable after [`Intake::flush`].
    ///
    /// # Errors
    /// The store failed; a unit that is not in order is no error, see [`Taken::refused`].
    pub async fn unit(&mut self, bytes: Vec<u8>) -> Result<(), StoreError> {
        let origin = match Unit::peek(&bytes) {
            Ok(header) => header.origin,
            Err(error) => {
                // It names nobody, so there is nobody to blame but the writer.
                tracing::warn!(%error, "a bundle holds what is no unit");
                return Ok(());
            }
        };
        if self.taken.refused.contains_key(&origin) || self.taken.gaps.contains_key(&origin) {
            return Ok(());
        }
        if origin == self.own {
            // Nobody has more of it than we do: see `greet`.
            self.taken.known += 1;
            return Ok(());
        }
        match self.open(bytes, origin) {
            Ok(unit) => {
                self.group_bytes += unit.bytes().len();
                self.group.push(unit);
            }
            Err(why) => drop(self.taken.refused.insert(origin, why)),
        }
        if self.group_bytes >= GROUP_BYTES { self.flush().await } else { Ok(()) }
    }

    fn open(&self, bytes: Vec<u8>, origin: Origin) -> Result<Unit, String> {
        if let Some(reason) = self.store.watch().borrow().quarantined.get(&origin) {
            return Err(format!("it is set aside: {reason}"));
        }
        let Some(member) = self.fleet.member(origin.site) else {
            return Err("its site is not in our fleet file".to_owned());
        };
        Unit::open(bytes, &member.key).map_err(|error| match error {
            UnitError::UnknownFormat(_) => format!("{error}; a newer version may read it"),
            error => format!("what was carried is not what the origin signed: {error}"),
        })
    }

    /// Makes all units taken durable.
    ///
    /// # Errors
    /// The store failed.
    pub async fn flush(&mut self) -> Result<(), StoreError> {
        let units = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        if units.is_empty() {
            return Ok(());
        }
        let ends: Vec<(Origin, Seq)> =
            units.iter().map(|unit| (unit.header().origin, unit.header().last)).collect();
        let appended = self.store.append_units(units, time::wall_ms()).await?;
        for ((origin, last), appended) in ends.into_iter().zip(appended) {
            self.judge(origin, last, appended).await?;
        }
        Ok(())
    }

    async fn judge(
        &mut self,
        origin: Origin,
        last: Seq,
        appended: Appended,
    ) -> Result<(), StoreError> {
        let why = match appended {
            Appended::Stored => {
                self.taken.stored += 1;
                return Ok(());
            }
            Appended::Duplicate => {
                self.taken.known += 1;
                return Ok(());
            }
            Appended::Gap { held } => {
                self.taken.gaps.entry(origin).or_insert(held);
                return Ok(());
            }
            Appended::Forked { seq } => {
                format!("origin {origin} has two histories: they differ at {seq}")
            }
            Appended::Malformed => {
                format!("the unit of origin {origin} up to {last} contradicts itself")
            }
        };
        if self.taken.refused.contains_key(&origin) {
            return Ok(());
        }
        tracing::error!(%origin, why, "origin is set aside until an operator decides");
        self.store.quarantine(origin, format!("{why} (from a bundle)")).await?;
        self.taken.refused.insert(origin, why);
        Ok(())
    }

    /// What became of everything so far. What was not flushed is not in it.
    pub fn taken(&self) -> &Taken {
        &self.taken
    }
}
