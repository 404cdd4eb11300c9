//! The state machine itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Event, FOLLOWS_MAX, HELLO_TIMEOUT_MS, LocalFacts, Opening, Output, Refusal, SessionConfig,
    Violation,
};
use crate::id::{Origin, Seq, SiteId};
use crate::unit::UnitHash;
use crate::version::VersionVector;
use crate::wire::{
    Begun, Have, Held, Hello, Message, PROTOCOL_MAX, PROTOCOL_MIN, UnitMark, WireError,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Ready,
    Ended,
}

/// One peer over one connection.
#[derive(Clone, Debug)]
pub struct Session {
    local: LocalFacts,
    peer: SiteId,
    config: SessionConfig,
    stage: Stage,
    opened_ms: u64,
    opened_wall_ms: u64,
    queue: VecDeque<Output>,
    received: VersionVector,
    applied: VersionVector,
    /// What moved here and the peer has not been told.
    untold: Have,
    /// Before this no further [`Have`] is sent.
    have_after_ms: u64,
    peer_received: VersionVector,
    peer_applied: VersionVector,
    /// Logs of which the peer holds another history.
    forked: BTreeSet<Origin>,
    /// What the peer shall supply us with.
    supply: BTreeSet<Origin>,
    /// What the peer follows here.
    serving: BTreeMap<Origin, Seq>,
}

impl Session {
    /// A session on a fresh connection. Its first output is our hello.
    pub fn new(local: LocalFacts, opening: Opening, config: SessionConfig, now_ms: u64) -> Self {
        let Opening { peer, received, applied, mut held, wall_ms } = opening;
        held.sort_by_key(|held| held.origin);
        let told: VersionVector = held.iter().map(|held| (held.origin, held.seq)).collect();
        let untold = received.iter().filter(|(origin, seq)| *seq > told.get(*origin)).collect();
        let hello = Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            origin: local.origin,
            fleet_version: local.fleet_version,
            sets_digest: local.sets_digest,
            received: told,
            marks: held.iter().map(|held| UnitMark::of(held.hash)).collect(),
            holds_of_you: held.into_iter().filter(|held| held.origin.site == peer).collect(),
            applied: applied.clone(),
            wall_ms,
            software: local.software.clone(),
        };
        Self {
            local,
            peer,
            config,
            stage: Stage::Greeting,
            opened_ms: now_ms,
            opened_wall_ms: wall_ms,
            queue: VecDeque::from([Output::Send(Message::Hello(Box::new(hello)))]),
            received,
            applied,
            untold: Have { received: untold, applied: VersionVector::new() },
            have_after_ms: now_ms,
            peer_received: VersionVector::new(),
            peer_applied: VersionVector::new(),
            forked: BTreeSet::new(),
            supply: BTreeSet::new(),
            serving: BTreeMap::new(),
        }
    }

    /// The site on the other side.
    pub fn peer(&self) -> SiteId {
        self.peer
    }

    /// Whether hellos were exchanged and accepted.
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// What the peer is known to hold durably; of our own earlier lives only what is our history.
    pub fn peer_received(&self) -> &VersionVector {
        &self.peer_received
    }

    /// The peer's hello. `hashes` has for each log that it names in `received` the hash of the unit
    /// that ends there in what we hold of it, if one does. They are looked up after the hello came
    /// in, so that what we sealed meanwhile is among them. Hashes are kept as long as a peer may name
    /// them, which is longer than the units.
    pub fn handle_hello(&mut self, hello: Hello, hashes: &BTreeMap<Origin, UnitHash>, now_ms: u64) {
        match self.stage {
            Stage::Ended => return,
            Stage::Ready => return self.refuse(Violation::SecondHello.into()),
            Stage::Greeting => {}
        }
        if let Err(refusal) = self.check_hello(&hello, hashes) {
            return self.refuse(refusal);
        }
        self.compare_logs(&hello, hashes);
        self.stage = Stage::Ready;
        self.peer_received = self.believed(&hello.received);
        self.peer_applied = self.believed(&hello.applied);
        let our_wall_ms = self.opened_wall_ms + now_ms.saturating_sub(self.opened_ms);
        self.event(Event::Ready {
            peer: hello.origin,
            peer_received: self.peer_received.clone(),
            peer_applied: self.peer_applied.clone(),
            fleet_version: hello.fleet_version,
            clock_offset_ms: difference(hello.wall_ms, our_wall_ms),
        });
        // Logs found forked since the supply was set.
        let forked = &self.forked;
        self.supply.retain(|origin| !forked.contains(origin));
        for origin in self.supply.clone() {
            self.follow(origin);
        }
    }

    /// Any message but the hello, which has [`Session::handle_hello`] and is out of place here.
    pub fn handle_message(&mut self, message: Message, _now_ms: u64) {
        match (self.stage, message) {
            (Stage::Ended, _) => {}
            (_, Message::Hello(_)) => self.refuse(Violation::SecondHello.into()),
            (Stage::Greeting, message) => {
                self.refuse(Violation::BeforeHello { message: message.name() }.into());
            }
            (Stage::Ready, Message::Have(have)) => self.handle_have(&have),
            (Stage::Ready, Message::Follow { origin, after, begun }) => {
                self.handle_follow(origin, after, begun);
            }
            (Stage::Ready, Message::Unfollow { origin }) => {
                if self.serving.remove(&origin).is_some() {
                    self.queue.push_back(Output::StopUnits { origin });
                }
            }
        }
    }

    /// A frame on the control stream that is no message.
    pub fn handle_bad_frame(&mut self, error: WireError, _now_ms: u64) {
        if self.stage != Stage::Ended {
            self.refuse(match error {
                WireError::ProtocolVersion { min, max } => Refusal::ProtocolVersion { min, max },
                error => Violation::BadFrame(error).into(),
            });
        }
    }

    /// Our log or our tables moved. The vectors are the newest durable ones at the time of the
    /// call, our own log included; one that went backwards is ignored.
    pub fn handle_log_advanced(
        &mut self,
        received: &VersionVector,
        applied: &VersionVector,
        _now_ms: u64,
    ) {
        if self.stage == Stage::Ended {
            return;
        }
        let nothing = BTreeSet::new();
        self.untold.received.join(&grown(&mut self.received, received, &nothing));
        self.untold.applied.join(&grown(&mut self.applied, applied, &nothing));
        self.check_own_log();
    }

    /// The origins this peer shall supply us with, as the choice of suppliers decided. Our own present
    /// log, members we do not know and forked logs are left out.
    pub fn handle_supply(&mut self, origins: &BTreeSet<Origin>, _now_ms: u64) {
        let wanted: BTreeSet<Origin> =
            origins.iter().copied().filter(|origin| self.may_follow(*origin)).collect();
        let before = std::mem::replace(&mut self.supply, wanted);
        if self.stage != Stage::Ready {
            return;
        }
        for origin in before.difference(&self.supply) {
            self.queue.push_back(Output::Send(Message::Unfollow { origin: *origin }));
        }
        for origin in self.supply.difference(&before).copied().collect::<Vec<_>>() {
            self.follow(origin);
        }
    }

    /// A unit that ends at `last` came in from this peer. It need not be durable yet: the
    /// acknowledgement waits for [`Session::handle_log_advanced`].
    pub fn handle_unit_received(&mut self, origin: Origin, last: Seq, _now_ms: u64) {
        if self.stage == Stage::Ready && !self.forked.contains(&origin) {
            self.peer_received.advance(origin, last);
        }
    }

    /// What this peer sends of an origin cannot be put to what we have of it: it is asked to begin anew,
    /// if it is to send that still. Says whether it was asked.
    pub fn handle_unfit_begun(&mut self, origin: Origin, _now_ms: u64) -> bool {
        let is_wanted = self.stage == Stage::Ready && self.supply.contains(&origin);
        if is_wanted {
            self.follow(origin);
        }
        is_wanted
    }

    /// The time of an [`Output::Timeout`] has come, or not yet.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        if self.stage == Stage::Greeting && now_ms >= self.hello_due_ms() {
            self.refuse(Refusal::NoHello);
        }
    }

    /// What to do next; see the rule in the module's text.
    pub fn poll_output(&mut self, now_ms: u64) -> Output {
        if let Some(output) = self.queue.pop_front() {
            return output;
        }
        match self.stage {
            Stage::Ended => Output::Idle,
            Stage::Greeting => {
                Output::Timeout { at_ms: self.hello_due_ms(), why: "the peer's hello is due" }
            }
            Stage::Ready => self.poll_have(now_ms),
        }
    }

    fn poll_have(&mut self, now_ms: u64) -> Output {
        if self.untold == Have::default() {
            return Output::Idle;
        }
        if now_ms < self.have_after_ms {
            return Output::Timeout { at_ms: self.have_after_ms, why: "an acknowledgement is due" };
        }
        self.have_after_ms = now_ms.saturating_add(self.config.ack_delay_ms);
        Output::Send(Message::Have(std::mem::take(&mut self.untold)))
    }

    fn check_hello(
        &mut self,
        hello: &Hello,
        hashes: &BTreeMap<Origin, UnitHash>,
    ) -> Result<(), Refusal> {
        if hello.protocol_min > PROTOCOL_MAX || hello.protocol_max < PROTOCOL_MIN {
            let (min, max) = (hello.protocol_min, hello.protocol_max);
            return Err(Refusal::ProtocolVersion { min, max });
        }
        if hello.origin.site != self.peer {
            return Err(Refusal::WrongSite { expected: self.peer, found: hello.origin.site });
        }
        if self.peer == self.local.origin.site {
            return Err(Refusal::OwnSite { site: self.peer });
        }
        // A stranger's word must not fence us: this comes before what it holds of us.
        if !self.local.members.contains(&self.peer) {
            return Err(Refusal::UnknownMember { site: self.peer });
        }
        self.check_held(hello, hashes)?;
        if hello.sets_digest != self.local.sets_digest {
            let (ours, theirs) = (self.local.fleet_version, hello.fleet_version);
            return Err(Refusal::SetsDiffer { ours, theirs });
        }
        Ok(())
    }

    /// Compares what the peer holds of our site with our own logs. That we hold more is normal.
    /// In the present life everything else means that this is not the only box, or not the newest
    /// state of it. Earlier lives are logs like everybody else's: a restored site gets its lost tail back
    /// from who holds more, and a fork there was not made by the life that is writing now.
    fn check_held(
        &mut self,
        hello: &Hello,
        hashes: &BTreeMap<Origin, UnitHash>,
    ) -> Result<(), Refusal> {
        let site = self.local.origin.site;
        let claimed = hello.received.iter().filter(|(origin, _)| origin.site == site);
        if !claimed.eq(hello.holds_of_you.iter().map(|held| (held.origin, held.seq))) {
            return Err(Violation::HeldUnclear.into());
        }
        for Held { origin, seq, hash } in hello.holds_of_you.iter().copied() {
            if origin != self.local.origin {
                continue;
            }
            let own = hashes.get(&origin);
            let own_seq = self.received.get(origin);
            if own.is_none() && seq > own_seq {
                return Err(Refusal::OwnLogBehind { origin, peer_seq: seq, own_seq });
            }
            // Units never change, so what somebody holds of us ends where a unit of ours ends.
            if own != Some(&hash) {
                return Err(Refusal::OwnLogForked { origin, seq });
            }
        }
        Ok(())
    }

    /// Compares what the peer holds of all other logs with what we do, as far as ours reaches. Where
    /// that differs, the peer must show its last unit: only what the origin signed speaks against
    /// the origin.
    fn compare_logs(&mut self, hello: &Hello, hashes: &BTreeMap<Origin, UnitHash>) {
        for ((origin, seq), mark) in hello.received.iter().zip(&hello.marks) {
            let differs = match hashes.get(&origin) {
                Some(ours) => UnitMark::of(*ours) != *mark,
                // Units never change, so what somebody holds ends where a unit ends.
                None => seq <= self.received.get(origin),
            };
            if differs && origin != self.local.origin && self.local.members.contains(&origin.site) {
                self.forked.insert(origin);
                self.event(Event::LogForked { origin, seq });
                let after = Seq(seq.0 - 1);
                self.ask(origin, after);
            }
        }
    }

    /// Whether the peer holds more of our present log than we do by what we told it. Then
    /// [`Session::handle_log_advanced`] is due: the peer may have heard of a unit of ours before.
    pub fn doubts_own_log(&self) -> bool {
        let origin = self.local.origin;
        self.stage == Stage::Ready && self.peer_received.get(origin) > self.received.get(origin)
    }

    /// A peer may be told of a unit of ours before we are told that it was sealed. So what it holds
    /// of our present life is compared only when our own vector is fresh.
    fn check_own_log(&mut self) {
        let origin = self.local.origin;
        let (peer_seq, own_seq) = (self.peer_received.get(origin), self.received.get(origin));
        if peer_seq > own_seq {
            self.refuse(Refusal::OwnLogBehind { origin, peer_seq, own_seq });
        }
    }

    fn handle_have(&mut self, have: &Have) {
        let received = grown(&mut self.peer_received, &have.received, &self.forked);
        let applied = grown(&mut self.peer_applied, &have.applied, &self.forked);
        let news = received.iter().any(|(origin, seq)| self.is_news(origin, seq));
        if !received.is_empty() {
            self.event(Event::Acked { received });
        }
        if !applied.is_empty() {
            self.event(Event::PeerApplied { applied });
        }
        if news {
            self.event(Event::NewKnowledge);
        }
    }

    fn handle_follow(&mut self, origin: Origin, after: Seq, begun: Option<Begun>) {
        // Also of forked logs: the peer shall see what speaks against their origin.
        if self.serving.insert(origin, after).is_some() {
            self.queue.push_back(Output::StopUnits { origin });
        }
        if self.serving.len() > FOLLOWS_MAX {
            return self.refuse(Violation::TooManyFollows.into());
        }
        self.queue.push_back(Output::StartUnits { origin, after, begun });
    }

    fn follow(&mut self, origin: Origin) {
        let after = self.received.get(origin);
        self.ask(origin, after);
    }

    fn ask(&mut self, origin: Origin, after: Seq) {
        let begun = None;
        self.queue.push_back(Output::Send(Message::Follow { origin, after, begun }));
    }

    fn may_follow(&self, origin: Origin) -> bool {
        origin != self.local.origin
            && self.local.members.contains(&origin.site)
            && !self.forked.contains(&origin)
    }

    fn is_news(&self, origin: Origin, seq: Seq) -> bool {
        self.may_follow(origin) && seq > self.received.get(origin)
    }

    fn believed(&self, vector: &VersionVector) -> VersionVector {
        vector.iter().filter(|(origin, _)| !self.forked.contains(origin)).collect()
    }

    fn hello_due_ms(&self) -> u64 {
        self.opened_ms.saturating_add(HELLO_TIMEOUT_MS)
    }

    fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    /// Ends the session. Our hello still goes out, for the peer must make its own checks with it.
    fn refuse(&mut self, refusal: Refusal) {
        self.stage = Stage::Ended;
        self.queue.retain(|output| matches!(output, Output::Send(Message::Hello(_))));
        self.event(Event::Refused(refusal));
    }
}

/// Moves `known` up to `news`, but for `ignored`, and says what moved.
fn grown(
    known: &mut VersionVector,
    news: &VersionVector,
    ignored: &BTreeSet<Origin>,
) -> VersionVector {
    news.iter()
        .filter(|(origin, seq)| !ignored.contains(origin) && known.advance(*origin, *seq))
        .collect()
}

fn difference(theirs: u64, ours: u64) -> i64 {
    let difference = i128::from(theirs) - i128::from(ours);
    difference.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}
