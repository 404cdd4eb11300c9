//! A fleet in memory: virtual time, links that delay and break, members whose logs are durable.
//!
//! Control messages travel as the bytes the wire carries. Units are their ranges and hashes only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::sync::dial::{Backoff, Dialer, keep_new};
use landfall_protocol::sync::select::{PeerView, Suppliers, choose};
use landfall_protocol::sync::{
    Event, LocalFacts, Opening, Output, Refusal, Session, SessionConfig,
};
use landfall_protocol::unit::UnitHash;
use landfall_protocol::version::VersionVector;
use landfall_protocol::wire::{Held, Message, UnitStreamHead};

/// splitmix64: the same seed, the same run.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to `end - 1`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

pub(crate) fn site(number: u16) -> SiteId {
    SiteId::new(number).expect("sites are numbered from 1")
}

pub(crate) fn origin(number: u16, life: u64) -> Origin {
    Origin { site: site(number), incarnation: Incarnation::new(life).expect("lives are not 0") }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SimUnit {
    first: Seq,
    last: Seq,
    previous: UnitHash,
    hash: UnitHash,
}

/// What survives everything but a restore.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) origin: Origin,
    pub(crate) received: VersionVector,
    pub(crate) log: BTreeMap<Origin, Vec<SimUnit>>,
}

impl Disk {
    fn hash_at(&self, origin: Origin, seq: Seq) -> Option<UnitHash> {
        let unit = self.log.get(&origin)?.iter().find(|unit| unit.last == seq)?;
        Some(unit.hash)
    }

    fn held(&self) -> Vec<Held> {
        let held = self.log.iter().filter_map(|(origin, units)| {
            let last = units.last()?;
            Some(Held { origin: *origin, seq: last.last, hash: last.hash })
        });
        held.collect()
    }

    fn append(&mut self, origin: Origin, unit: SimUnit) {
        self.log.entry(origin).or_default().push(unit);
        self.received.advance(origin, unit.last);
    }
}

struct Member {
    disk: Disk,
    suppliers: Suppliers,
    dialer: Dialer,
}

struct Stream {
    origin: Origin,
    after: Option<Seq>,
    frames: VecDeque<(u64, Frame)>,
}

#[derive(Clone)]
enum Frame {
    Head(Vec<u8>),
    Unit(SimUnit),
}

/// One side of a connection, with what is under way towards it.
struct End {
    session: Session,
    timeout_ms: Option<u64>,
    control: VecDeque<(u64, Vec<u8>)>,
    streams: BTreeMap<u64, Stream>,
    /// What it sends: the stream at the other side, and how far it has sent.
    serving: BTreeMap<Origin, (u64, Seq)>,
}

struct Link {
    sites: [SiteId; 2],
    dialled_by: SiteId,
    ends: [End; 2],
}

#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) frames: u64,
    pub(crate) units: u64,
    pub(crate) duplicates: u64,
    pub(crate) connections: u64,
    pub(crate) crossed_calls: u64,
    pub(crate) cuts: u64,
}

pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) rng: Rng,
    pub(crate) counts: Counts,
    pub(crate) refusals: Vec<(SiteId, Refusal)>,
    /// Pairs that can reach each other, lower site first.
    pub(crate) reachable: BTreeSet<(SiteId, SiteId)>,
    /// Who says everything but sends no unit to whom.
    pub(crate) mute: BTreeSet<(SiteId, SiteId)>,
    /// One unit in so many comes twice; 0: none.
    pub(crate) repeat_one_in: u64,
    pub(crate) ack_delay_ms: u64,
    fleet: BTreeSet<SiteId>,
    members: BTreeMap<SiteId, Member>,
    links: BTreeMap<u64, Link>,
    calls: Vec<(u64, SiteId, SiteId)>,
    next_id: u64,
    undrained: BTreeSet<(u64, usize)>,
    unchosen: BTreeSet<SiteId>,
}

impl World {
    /// A fleet file that names sites 1 to `sites`; nobody runs yet.
    pub(crate) fn new(seed: u64, sites: u16) -> Self {
        Self {
            now_ms: 0,
            rng: Rng(seed),
            counts: Counts::default(),
            refusals: Vec::new(),
            reachable: BTreeSet::new(),
            mute: BTreeSet::new(),
            repeat_one_in: 0,
            ack_delay_ms: 0,
            fleet: (1..=sites).map(site).collect(),
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            calls: Vec::new(),
            next_id: 0,
            undrained: BTreeSet::new(),
            unchosen: BTreeSet::new(),
        }
    }

    pub(crate) fn start(&mut self, number: u16) {
        let origin = origin(number, 1);
        let disk = Disk { origin, received: VersionVector::new(), log: BTreeMap::new() };
        self.start_from(disk);
    }

    pub(crate) fn start_from(&mut self, disk: Disk) {
        let mut dialer = Dialer::new(Backoff { min_ms: 100, max_ms: 5_000 });
        let others = self.fleet.iter().copied().filter(|site| *site != disk.origin.site);
        dialer.handle_peers(&others.collect(), self.now_ms);
        let member = Member { disk, suppliers: Suppliers::default(), dialer };
        self.members.insert(member.disk.origin.site, member);
    }

    /// The member is gone; its disk is what is left.
    pub(crate) fn stop(&mut self, number: u16) -> Disk {
        let site = site(number);
        let links = self.links.iter().filter(|(_, link)| link.sites.contains(&site));
        for id in links.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut(id);
        }
        self.members.remove(&site).expect("the member runs").disk
    }

    pub(crate) fn disk(&self, number: u16) -> &Disk {
        &self.members[&site(number)].disk
    }

    pub(crate) fn connect_all(&mut self) {
        let pairs = self.fleet.iter().flat_map(|a| self.fleet.iter().map(move |b| (*a, *b)));
        self.reachable = pairs.filter(|(a, b)| a < b).collect();
    }

    pub(crate) fn reach(&mut self, a: u16, b: u16) {
        self.reachable.insert((site(a.min(b)), site(a.max(b))));
    }

    /// Cuts what is not reachable any more.
    pub(crate) fn apply_reach(&mut self) {
        let lost = |link: &&Link| !self.reachable.contains(&(link.sites[0], link.sites[1]));
        let lost = self.links.iter().filter(|(_, link)| lost(link)).map(|(id, _)| *id);
        for id in lost.collect::<Vec<_>>() {
            self.cut(id);
        }
    }

    /// Breaks one connection, whichever `choice` falls on.
    pub(crate) fn cut_any(&mut self, choice: u64) {
        if !self.links.is_empty() {
            let index = (choice % self.links.len() as u64) as usize;
            let id = *self.links.keys().nth(index).expect("the index is below the length");
            self.cut(id);
        }
    }

    /// A member writes a unit of one to three transactions.
    pub(crate) fn write(&mut self, number: u16) {
        let site = site(number);
        let Some(member) = self.members.get_mut(&site) else { return };
        let origin = member.disk.origin;
        let last = member.disk.log.get(&origin).and_then(|units| units.last().copied());
        let (held, previous) =
            last.map_or((Seq::ZERO, UnitHash::GENESIS), |unit| (unit.last, unit.hash));
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&self.rng.next().to_le_bytes());
        let last = Seq(held.0 + 1 + self.rng.below(3));
        let unit = SimUnit { first: held.next(), last, previous, hash: UnitHash(hash) };
        member.disk.append(origin, unit);
        self.log_advanced(site);
        self.settle();
        self.pump();
    }

    /// Runs until `until_ms`.
    pub(crate) fn run(&mut self, until_ms: u64) {
        while let Some(at_ms) = self.next_ms().filter(|at_ms| *at_ms <= until_ms) {
            self.now_ms = self.now_ms.max(at_ms);
            self.step();
        }
        self.now_ms = until_ms;
    }

    fn next_ms(&self) -> Option<u64> {
        let calls = self.calls.iter().map(|(at_ms, ..)| *at_ms);
        let members = self.members.values();
        let members =
            members.flat_map(|member| [member.dialer.next_ms(), member.suppliers.check_ms()]);
        let ends = self.links.values().flat_map(|link| &link.ends);
        let ends = ends.flat_map(|end| {
            let streams = end.streams.values().filter_map(|stream| stream.frames.front());
            let control = end.control.front().map(|(at_ms, _)| *at_ms);
            streams.map(|(at_ms, _)| *at_ms).chain(control).chain(end.timeout_ms)
        });
        calls.chain(members.flatten()).chain(ends).min()
    }

    fn step(&mut self) {
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            for side in 0..2 {
                self.arrivals(id, side);
            }
        }
        let due = |at_ms: Option<u64>, now_ms| at_ms.is_some_and(|at_ms| at_ms <= now_ms);
        for site in self.members.keys().copied().collect::<Vec<_>>() {
            let member = self.members.get_mut(&site).expect("the key was just read");
            for peer in member.dialer.due(self.now_ms) {
                let at_ms = self.now_ms + 20 + self.rng.below(200);
                self.calls.push((at_ms, site, peer));
            }
            if due(member.suppliers.check_ms(), self.now_ms) {
                self.unchosen.insert(site);
            }
        }
        let now_ms = self.now_ms;
        let (now, later) = self.calls.drain(..).partition(|(at_ms, ..)| *at_ms <= now_ms);
        self.calls = later;
        let now: Vec<_> = now;
        for (_, caller, callee) in now {
            self.call(caller, callee);
        }
        self.settle();
        self.pump();
    }

    fn call(&mut self, caller: SiteId, callee: SiteId) {
        let pair = (caller.min(callee), caller.max(callee));
        let answered = self.reachable.contains(&pair)
            && self.members.contains_key(&caller)
            && self.members.contains_key(&callee)
            && self.rng.below(5) > 0;
        let existing = self.links.iter().find(|(_, link)| link.sites == [pair.0, pair.1]);
        let existing = existing.map(|(id, link)| (*id, link.dialled_by));
        match (answered, existing) {
            (false, None) => self.down(caller, callee),
            (false, Some(_)) => {}
            (true, None) => self.connect(pair, caller),
            (true, Some((id, dialled_by))) => {
                self.counts.crossed_calls += 1;
                let keep = keep_new(caller, callee, dialled_by, caller);
                assert_eq!(keep, keep_new(callee, caller, dialled_by, caller));
                if keep {
                    self.cut(id);
                    self.connect(pair, caller);
                }
            }
        }
    }

    fn down(&mut self, site: SiteId, peer: SiteId) {
        let random = self.rng.next();
        if let Some(member) = self.members.get_mut(&site) {
            member.dialer.handle_down(peer, self.now_ms, random);
        }
    }

    fn connect(&mut self, pair: (SiteId, SiteId), dialled_by: SiteId) {
        self.counts.connections += 1;
        let ends = [self.end(pair.0, pair.1), self.end(pair.1, pair.0)];
        let id = self.new_id();
        self.links.insert(id, Link { sites: [pair.0, pair.1], dialled_by, ends });
        for (site, peer) in [pair, (pair.1, pair.0)] {
            let member = self.members.get_mut(&site).expect("both run");
            member.dialer.handle_connected(peer);
        }
        self.undrained.extend([(id, 0), (id, 1)]);
    }

    fn end(&self, site: SiteId, peer: SiteId) -> End {
        let disk = &self.members[&site].disk;
        let local = LocalFacts {
            origin: disk.origin,
            fleet_version: 1,
            sets_digest: [1; 32],
            members: self.fleet.clone(),
            software: "simulated".to_owned(),
        };
        let opening = Opening {
            peer,
            received: disk.received.clone(),
            applied: disk.received.clone(),
            held: disk.held(),
            wall_ms: self.now_ms,
        };
        let config = SessionConfig { ack_delay_ms: self.ack_delay_ms };
        End {
            session: Session::new(local, opening, config, self.now_ms),
            timeout_ms: None,
            control: VecDeque::new(),
            streams: BTreeMap::new(),
            serving: BTreeMap::new(),
        }
    }

    fn cut(&mut self, id: u64) {
        let link = self.links.remove(&id).expect("the link is up");
        self.counts.cuts += 1;
        self.undrained.retain(|(link, _)| *link != id);
        let [a, b] = link.sites;
        self.down(a, b);
        self.down(b, a);
        self.unchosen.extend(link.sites.iter().filter(|site| self.members.contains_key(site)));
        self.settle();
    }

    fn arrivals(&mut self, id: u64, side: usize) {
        let now_ms = self.now_ms;
        while let Some(end) = self.links.get_mut(&id).map(|link| &mut link.ends[side]) {
            if end.timeout_ms.is_some_and(|at_ms| at_ms <= now_ms) {
                end.timeout_ms = None;
                end.session.handle_timeout(now_ms);
            } else if let Some((_, bytes)) = end.control.pop_front_if(|(at_ms, _)| *at_ms <= now_ms)
            {
                self.control_frame(id, side, &bytes);
            } else if let Some((stream, frame)) = due_frame(&mut end.streams, now_ms) {
                self.unit_frame(id, side, stream, frame);
            } else {
                return;
            }
            self.undrained.insert((id, side));
            self.settle();
        }
    }

    fn control_frame(&mut self, id: u64, side: usize, bytes: &[u8]) {
        let link = self.links.get_mut(&id).expect("the frame arrived on it");
        let disk = &self.members[&link.sites[side]].disk;
        let session = &mut link.ends[side].session;
        match Message::decode(bytes).expect("members speak the protocol") {
            Message::Hello(hello) => {
                let ends = hello.received.iter();
                let hash = |(origin, seq)| Some((origin, disk.hash_at(origin, seq)?));
                let hashes = ends.filter_map(hash).collect();
                session.handle_hello(*hello, &hashes, self.now_ms);
            }
            message => session.handle_message(message, self.now_ms),
        }
    }

    fn unit_frame(&mut self, id: u64, side: usize, stream: u64, frame: Frame) {
        let link = self.links.get_mut(&id).expect("the frame arrived on it");
        let site = link.sites[side];
        let end = &mut link.ends[side];
        let stream = end.streams.get_mut(&stream).expect("the frame arrived on it");
        let unit = match frame {
            Frame::Head(bytes) => {
                let head = UnitStreamHead::decode(&bytes).expect("members speak the protocol");
                assert_eq!(head.origin, stream.origin);
                stream.after = Some(head.after);
                return;
            }
            Frame::Unit(unit) => unit,
        };
        let (origin, after) = (stream.origin, stream.after.expect("the head comes first"));
        // A repeated frame comes with the range of the one before.
        assert!(unit.first <= after.next(), "a gap on the stream: {unit:?} after {after}");
        stream.after = Some(after.max(unit.last));
        let member = self.members.get_mut(&site).expect("links of stopped members are cut");
        let held = member.disk.received.get(origin);
        if unit.last <= held {
            let known = member.disk.hash_at(origin, unit.last);
            assert_eq!(known, Some(unit.hash), "another unit under a number that is taken");
            self.counts.duplicates += 1;
        } else {
            assert_eq!(unit.first, held.next(), "{site} holds {origin} up to {held}");
            let last = member.disk.log.get(&origin).and_then(|units| units.last());
            assert_eq!(unit.previous, last.map_or(UnitHash::GENESIS, |unit| unit.hash));
            member.disk.append(origin, unit);
        }
        end.session.handle_unit_received(origin, unit.last, self.now_ms);
        self.log_advanced(site);
    }

    fn log_advanced(&mut self, site: SiteId) {
        let received = &self.members[&site].disk.received;
        for (id, link) in &mut self.links {
            for side in 0..2 {
                if link.sites[side] == site {
                    let session = &mut link.ends[side].session;
                    session.handle_log_advanced(received, received, self.now_ms);
                    self.undrained.insert((*id, side));
                }
            }
        }
        self.unchosen.insert(site);
    }

    fn settle(&mut self) {
        loop {
            if let Some((id, side)) = self.undrained.pop_first() {
                self.drain(id, side);
            } else if let Some(site) = self.unchosen.pop_first() {
                self.choose(site);
            } else {
                return;
            }
        }
    }

    fn choose(&mut self, site: SiteId) {
        let Some(member) = self.members.get_mut(&site) else { return };
        let mut peers = BTreeMap::new();
        for link in self.links.values() {
            for side in 0..2 {
                if link.sites[side] == site {
                    let session = &link.ends[side].session;
                    let received = session.peer_received().clone();
                    let view = PeerView { received, ready: session.is_ready() };
                    peers.insert(session.peer(), view);
                }
            }
        }
        let Disk { received, origin, .. } = &member.disk;
        member.suppliers =
            choose(&peers, received, *origin, &self.fleet, &member.suppliers, self.now_ms);
        for (id, link) in &mut self.links {
            for side in 0..2 {
                if link.sites[side] == site {
                    let supply = member.suppliers.by(link.sites[1 - side]);
                    link.ends[side].session.handle_supply(&supply, self.now_ms);
                    self.undrained.insert((*id, side));
                }
            }
        }
    }

    fn drain(&mut self, id: u64, side: usize) {
        loop {
            let Some(link) = self.links.get_mut(&id) else { return };
            let output = link.ends[side].session.poll_output(self.now_ms);
            let (site, peer) = (link.sites[side], link.sites[1 - side]);
            match output {
                Output::Send(message) => {
                    self.counts.frames += 1;
                    let control = &mut link.ends[1 - side].control;
                    let sent_ms = self.now_ms + 5 + self.rng.below(100);
                    let at_ms = control.back().map_or(sent_ms, |(last, _)| sent_ms.max(*last));
                    control.push_back((at_ms, message.encode()));
                }
                Output::StartUnits { origin, after, .. } => {
                    self.start_units(id, side, origin, after)
                }
                Output::StopUnits { origin } => {
                    link.ends[side].serving.remove(&origin);
                }
                Output::Event(event) => self.event(id, site, peer, event),
                Output::Timeout { at_ms, .. } => {
                    link.ends[side].timeout_ms = Some(at_ms);
                    return;
                }
                Output::Idle => {
                    link.ends[side].timeout_ms = None;
                    return;
                }
            }
        }
    }

    fn event(&mut self, id: u64, site: SiteId, peer: SiteId, event: Event) {
        match event {
            Event::Ready { .. } => {
                let member = self.members.get_mut(&site).expect("it has a link");
                member.dialer.handle_ready(peer);
                self.unchosen.insert(site);
            }
            Event::Acked { received } => {
                let truth = &self.members[&peer].disk.received;
                assert!(truth.contains(&received), "acknowledged what is not held");
            }
            Event::NewKnowledge => {
                self.unchosen.insert(site);
            }
            Event::PeerApplied { .. } | Event::LogForked { .. } => {}
            Event::Refused(refusal) => {
                self.refusals.push((site, refusal));
                self.cut(id);
            }
        }
    }

    fn start_units(&mut self, id: u64, side: usize, origin: Origin, after: Seq) {
        let stream = self.new_id();
        let at_ms = self.now_ms + 5 + self.rng.below(100);
        let head = Frame::Head(UnitStreamHead { origin, after, at: 0 }.encode());
        let link = self.links.get_mut(&id).expect("the session is on it");
        link.ends[side].serving.insert(origin, (stream, after));
        let frames = VecDeque::from([(at_ms, head)]);
        link.ends[1 - side].streams.insert(stream, Stream { origin, after: None, frames });
        self.counts.frames += 1;
    }

    /// Puts units on their way, a few per stream at a time.
    fn pump(&mut self) {
        for link in self.links.values_mut() {
            for side in 0..2 {
                let (site, peer) = (link.sites[side], link.sites[1 - side]);
                if self.mute.contains(&(site, peer)) {
                    continue;
                }
                let log = &self.members[&site].disk.log;
                let [low, high] = &mut link.ends;
                let (from, to) = if side == 0 { (low, high) } else { (high, low) };
                for (origin, (stream, sent)) in &mut from.serving {
                    let stream = to.streams.get_mut(stream).expect("streams last");
                    let Some(units) = log.get(origin) else { continue };
                    let start = units.partition_point(|unit| unit.first <= *sent);
                    for unit in &units[start..] {
                        if stream.frames.len() >= 3 {
                            break;
                        }
                        let repeated =
                            self.repeat_one_in > 0 && self.rng.below(self.repeat_one_in) == 0;
                        for _ in 0..1 + u64::from(repeated) {
                            let sent_ms = self.now_ms + 5 + self.rng.below(100);
                            let last = stream.frames.back().map_or(0, |(last, _)| *last);
                            stream.frames.push_back((sent_ms.max(last), Frame::Unit(*unit)));
                            self.counts.units += 1;
                        }
                        *sent = unit.last;
                    }
                }
            }
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn due_frame(streams: &mut BTreeMap<u64, Stream>, now_ms: u64) -> Option<(u64, Frame)> {
    streams.iter_mut().find_map(|(id, stream)| {
        let (_, frame) = stream.frames.pop_front_if(|(at_ms, _)| *at_ms <= now_ms)?;
        Some((*id, frame))
    })
}
