//! A member that does not play by the rules.

use std::net::SocketAddr;

use bytes::Bytes;
use landfall_engine::links::PeerState;
use landfall_engine::store::MoreBegun;
use landfall_engine::transport::{CloseCode, Connection, FrameReader, FrameWriter, TransportError};
use landfall_protocol::id::Seq;
use landfall_protocol::unit::{UNIT_BYTES_MAX, UnitHash};
use landfall_protocol::version::VersionVector;
use landfall_protocol::wire::{
    Begun, BegunMark, FRAME_BYTES_MAX, Hello, Message, PROTOCOL_MAX, PROTOCOL_MIN, UnitMark,
    UnitStreamHead,
};

use super::fleet::{Bound, LIMIT, World, origin};

/// A member whose every message is written by the test.
struct Stranger {
    bound: Bound,
    connection: Connection,
    writer: FrameWriter,
    reader: FrameReader,
}

impl Stranger {
    /// Calls `number` and says hello, claiming to hold `received`.
    fn call(world: &World, bound: Bound, to: (u16, SocketAddr), received: VersionVector) -> Self {
        let key = world.key(to.0).public();
        let fleet = world.fleet(&[]);
        let hello = Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            holds_of_you: Vec::new(),
            origin: origin(bound.number),
            fleet_version: fleet.version(),
            sets_digest: fleet.sets_digest(),
            marks: vec![UnitMark([0; 8]); received.len()],
            received,
            applied: VersionVector::new(),
            wall_ms: 1,
            software: "stranger".into(),
        };
        let (connection, writer, reader) = bound.runtime.block_on(async {
            let connection = bound.endpoint.dial(to.1, key).await.unwrap();
            let (mut writer, reader) = connection.open_bidi(FRAME_BYTES_MAX).await.unwrap();
            let hello = Message::Hello(Box::new(hello)).encode();
            writer.send(Bytes::from(hello)).await.unwrap();
            (connection, writer, reader)
        });
        Self { bound, connection, writer, reader }
    }

    /// The next message of the other side that is wanted.
    fn expect<T>(&mut self, mut wanted: impl FnMut(&Message) -> Option<T>) -> T {
        let reader = &mut self.reader;
        let found = async {
            loop {
                let frame = reader.next().await.unwrap().expect("the other side goes on");
                if let Some(found) = wanted(&Message::decode(&frame).unwrap()) {
                    return found;
                }
            }
        };
        let limited = async { tokio::time::timeout(LIMIT, found).await };
        self.bound.runtime.block_on(limited).expect("the message comes in time")
    }

    fn say(&mut self, message: &Message) {
        let frame = Bytes::from(message.encode());
        self.bound.runtime.block_on(self.writer.send(frame)).unwrap();
    }

    /// Sends frames on a new unit stream of that member, which ends only if it is finished.
    fn send_units(&self, number: u16, after: u64, frames: Vec<Vec<u8>>) -> FrameWriter {
        self.send_rest(number, after, 0, frames)
    }

    /// The same with a first frame that goes on in the unit at a place.
    fn send_rest(&self, number: u16, after: u64, at: usize, frames: Vec<Vec<u8>>) -> FrameWriter {
        let head = UnitStreamHead { origin: origin(number), after: Seq(after), at };
        self.bound.runtime.block_on(async {
            let mut stream = self.connection.open_uni(UNIT_BYTES_MAX).await.unwrap();
            stream.send(Bytes::from(head.encode())).await.unwrap();
            for frame in frames {
                stream.send(Bytes::from(frame)).await.unwrap();
            }
            stream
        })
    }

    fn closed(&self) -> (CloseCode, String) {
        let limited = async { tokio::time::timeout(LIMIT, self.connection.closed()).await };
        match self.bound.runtime.block_on(limited).expect("the end comes in time") {
            TransportError::Closed { code, reason, .. } => (code, reason),
            error => panic!("{error}"),
        }
    }
}

/// A relay that alters what it carries cannot make anybody believe that the origin misbehaves.
#[test]
fn a_tampered_unit_is_refused_and_another_carrier_is_found() {
    let world = World::new(5);
    let port = world.start(1, &[]);
    let received: VersionVector = [(origin(3), Seq(4)), (origin(4), Seq(2))].into_iter().collect();
    let mut relay = Stranger::call(&world, world.bind(2), port.at(), received.clone());
    for _ in 0..2 {
        relay.expect(|message| matches!(message, Message::Follow { .. }).then_some(()));
    }
    let good = world.seal(3, 1, 2, UnitHash::GENESIS);
    let next = world.seal(3, 3, 4, good.hash()).into_bytes();
    let honest = world.seal(4, 1, 2, UnitHash::GENESIS).into_bytes();
    let mut tampered = honest.clone();
    *tampered.last_mut().unwrap() ^= 1;
    let _of_4 = relay.send_units(4, 0, vec![tampered]);
    relay.expect(|message| match message {
        Message::Unfollow { origin: of } if *of == origin(4) => Some(()),
        _ => None,
    });
    let _of_3 = relay.send_units(3, 0, vec![good.into_bytes(), next]);
    port.wait_held(3, 4);
    assert_eq!((port.held(4), port.log().quarantined.len()), (0, 0));
    assert_eq!(port.peer(2).state, PeerState::Ready);
    let mut other = Stranger::call(&world, world.bind(5), port.at(), received);
    other.expect(|message| match message {
        Message::Follow { origin: of, .. } if *of == origin(4) => Some(()),
        _ => None,
    });
    let _again = other.send_units(4, 0, vec![honest]);
    port.wait_held(4, 2);
}

/// As when the packets of the first one are lost on the way.
#[test]
fn a_stream_that_overtakes_another_of_its_origin_waits_for_it() {
    let world = World::new(4);
    let port = world.start(1, &[]);
    let received = [(origin(3), Seq(4)), (origin(4), Seq(2))].into_iter().collect();
    let mut relay = Stranger::call(&world, world.bind(2), port.at(), received);
    for _ in 0..2 {
        relay.expect(|message| matches!(message, Message::Follow { .. }).then_some(()));
    }
    let first = world.seal(3, 1, 2, UnitHash::GENESIS);
    let second = world.seal(3, 3, 4, first.hash()).into_bytes();
    let mut slow = relay.send_units(3, 0, Vec::new());
    let _overtaking = relay.send_units(3, 2, vec![second]);
    // Another origin does not wait: when it is there, so is what overtook.
    let _other = relay.send_units(4, 0, vec![world.seal(4, 1, 2, UnitHash::GENESIS).into_bytes()]);
    port.wait_held(4, 2);
    relay.bound.runtime.block_on(async {
        slow.send(Bytes::from(first.into_bytes())).await.unwrap();
        slow.finish().await.unwrap();
    });
    port.wait_held(3, 4);
    assert_eq!(port.peer(2).state, PeerState::Ready);
}

/// What it is told with the next follow.
fn told(relay: &mut Stranger) -> Option<Begun> {
    relay.expect(|message| match message {
        Message::Follow { begun, .. } => Some(*begun),
        _ => None,
    })
}

/// Who sends the rest of another unit is asked for all of it, and not thought ill of; but only once.
#[test]
fn a_rest_that_does_not_fit_is_asked_for_anew_and_blamed_on_nobody() {
    let world = World::new(3);
    let port = world.start(1, &[]);
    let unit = world.seal(3, 1, 2, UnitHash::GENESIS).into_bytes();
    let (begun, rest) = unit.split_at(100);
    let damaged: Vec<u8> = rest.iter().map(|byte| byte ^ 1).collect();
    let longer = [rest, &[0]].concat();
    for (at, wrong) in [(100, damaged), (100, longer), (50, rest.to_vec()), (100, Vec::new())] {
        let more = MoreBegun {
            after: Seq::ZERO,
            length: unit.len(),
            behind: None,
            bytes: begun.to_vec(),
            mark: BegunMark::of(begun),
        };
        port.block_on(port.store.keep_begun(origin(3), more)).unwrap();
        let received = [(origin(3), Seq(2))].into_iter().collect();
        let mut relay = Stranger::call(&world, world.bind(2), port.at(), received);
        assert_eq!(told(&mut relay), Begun::of(begun, unit.len()));
        let _first = relay.send_rest(3, 0, at, vec![wrong]);
        assert_eq!(told(&mut relay), None, "once is enough");
        assert_eq!(port.peer(2).state, PeerState::Ready);
        // What was opened before does not count.
        let _late = relay.send_rest(3, 2, 0, Vec::new());
        let _too_late = relay.send_rest(3, 0, 100, vec![rest.to_vec()]);
        let _whole = relay.send_units(3, 0, vec![unit[..60].to_vec()]);
        relay.expect(|message| matches!(message, Message::Unfollow { .. }).then_some(()));
        relay.connection.close(CloseCode::DONE, "");
        port.wait_state(2, PeerState::Down);
        assert_eq!((port.held(3), port.log().quarantined.len()), (0, 0));
    }
    // What fits is stored, whoever sends it.
    assert_eq!(port.block_on(port.store.begun(origin(3), Seq::ZERO)), Ok(None));
    let received = [(origin(3), Seq(2))].into_iter().collect();
    let mut relay = Stranger::call(&world, world.bind(2), port.at(), received);
    assert_eq!(told(&mut relay), None);
    let _whole = relay.send_units(3, 0, vec![unit]);
    port.wait_held(3, 2);
}

#[test]
fn a_rest_that_nobody_has_the_beginning_of_ends_the_connection_at_last() {
    let world = World::new(3);
    let port = world.start(1, &[]);
    let received = [(origin(3), Seq(4))].into_iter().collect();
    let mut relay = Stranger::call(&world, world.bind(2), port.at(), received);
    assert_eq!(told(&mut relay), None);
    let first = world.seal(3, 1, 2, UnitHash::GENESIS);
    let _rest = relay.send_rest(3, 0, 10, vec![first.bytes()[10..].to_vec()]);
    assert_eq!(told(&mut relay), None);
    let mut whole = relay.send_units(3, 0, vec![first.into_bytes()]);
    relay.bound.runtime.block_on(whole.finish()).unwrap();
    port.wait_held(3, 2);
    let _again = relay.send_rest(3, 2, 10, Vec::new());
    let (code, reason) = relay.closed();
    assert_eq!(code, CloseCode::PROTOCOL);
    assert!(reason.contains("goes on that was to begin anew"), "{reason}");
}

#[test]
fn a_gap_ends_the_connection_with_a_reason() {
    let world = World::new(3);
    let port = world.start(1, &[]);
    let received = [(origin(3), Seq(4))].into_iter().collect();
    let mut relay = Stranger::call(&world, world.bind(2), port.at(), received);
    relay.expect(|message| matches!(message, Message::Follow { .. }).then_some(()));
    let second = world.seal(3, 3, 4, UnitHash([1; 32]));
    let _stream = relay.send_units(3, 0, vec![second.into_bytes()]);
    let (code, reason) = relay.closed();
    assert_eq!(code, CloseCode::PROTOCOL);
    assert!(reason.contains("does not follow on 0"), "{reason}");
    port.wait_state(2, PeerState::Refused);
    assert_eq!(port.log().quarantined.len(), 0);
}

#[test]
fn units_that_nobody_asked_for_end_the_connection() {
    let world = World::new(3);
    let port = world.start(1, &[]);
    let mut relay = Stranger::call(&world, world.bind(2), port.at(), VersionVector::new());
    relay.expect(|message| matches!(message, Message::Hello(_)).then_some(()));
    // The head alone says enough.
    let _stream = relay.send_units(3, 0, Vec::new());
    let (code, reason) = relay.closed();
    assert_eq!(code, CloseCode::PROTOCOL);
    assert!(reason.contains("which was not asked for"), "{reason}");
    assert_eq!(port.held(3), 0);
}

#[test]
fn a_second_hello_ends_the_connection() {
    let world = World::new(2);
    let port = world.start(1, &[]);
    let mut relay = Stranger::call(&world, world.bind(2), port.at(), VersionVector::new());
    let hello = relay.expect(|message| Some(message.clone()));
    relay.say(&hello);
    assert_eq!(relay.closed().0, CloseCode::PROTOCOL);
}
