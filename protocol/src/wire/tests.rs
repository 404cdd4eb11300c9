use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::golden;
use crate::id::{Incarnation, SiteId};
use crate::version::VECTOR_ENTRIES_MAX;

fn origin(site: u16, incarnation: u64) -> Origin {
    Origin { site: SiteId::new(site).unwrap(), incarnation: Incarnation::new(incarnation).unwrap() }
}

fn hello() -> Hello {
    let held = |incarnation, seq, byte| Held {
        origin: origin(2, incarnation),
        seq: Seq(seq),
        hash: UnitHash([byte; 32]),
    };
    Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        holds_of_you: vec![held(0xabcd, 300, 0x11), held(0xef01_2345_6789, 7, 0x22)],
        origin: origin(1, 0x0102_0304_0506_0708),
        fleet_version: 12,
        sets_digest: [0x33; 32],
        received: [(origin(1, 0x0102_0304_0506_0708), Seq(70_000)), (origin(2, 0xabcd), Seq(300))]
            .into_iter()
            .collect(),
        marks: vec![UnitMark([0x44; 8]), UnitMark([0x11; 8])],
        applied: [(origin(2, 0xabcd), Seq(299))].into_iter().collect(),
        wall_ms: 1_700_000_000_123,
        software: "landfall-node 0.1.0".to_owned(),
    }
}

fn begun() -> Begun {
    Begun { bytes: 40_000, length: 123_456, mark: BegunMark([0x66; 16]) }
}

fn messages() -> [(&'static str, Message); 5] {
    let Hello { received, applied, origin, .. } = hello();
    [
        ("hello-v1", Message::Hello(Box::new(hello()))),
        ("have-v1", Message::Have(Have { received, applied })),
        ("follow-v1", Message::Follow { origin, after: Seq(128), begun: None }),
        ("follow-begun-v1", Message::Follow { origin, after: Seq(128), begun: Some(begun()) }),
        ("unfollow-v1", Message::Unfollow { origin }),
    ]
}

fn head() -> UnitStreamHead {
    UnitStreamHead { origin: hello().origin, after: Seq(128), at: 40_000 }
}

#[test]
fn messages_are_written_as_recorded_and_read_back() {
    for (name, message) in messages() {
        golden::check(name, &message.encode());
        assert_eq!(Message::decode(&golden::recorded(name, &message.encode())), Ok(message));
    }
    golden::check("unit-stream-head-v1", &head().encode());
    assert_eq!(UnitStreamHead::decode(&head().encode()), Ok(head()));
}

#[test]
fn every_truncation_is_refused_by_name() {
    for (_, message) in messages() {
        let bytes = message.encode();
        for cut in 1..bytes.len() {
            match Message::decode(&bytes[..cut]) {
                Err(WireError::Malformed { message: name, .. }) => assert_eq!(name, message.name()),
                other => panic!("{} cut at {cut}: {other:?}", message.name()),
            }
        }
    }
    let bytes = head().encode();
    assert!((0..bytes.len()).all(|cut| UnitStreamHead::decode(&bytes[..cut]).is_err()));
    assert_eq!(Message::decode(&[]), Err(WireError::Empty));
}

#[test]
fn bytes_left_over_are_refused() {
    for (_, message) in messages() {
        let longer = [message.encode(), vec![0]].concat();
        let error = DecodeError::TrailingBytes(1);
        let refused = WireError::Malformed { message: message.name(), error };
        assert_eq!(Message::decode(&longer), Err(refused));
    }
    assert!(UnitStreamHead::decode(&[head().encode(), vec![0]].concat()).is_err());
}

#[test]
fn a_newer_sender_may_append_to_its_hello() {
    let newer = Hello { protocol_max: PROTOCOL_MAX + 1, ..hello() };
    let message = Message::Hello(Box::new(newer));
    assert_eq!(Message::decode(&[message.encode(), vec![9; 40]].concat()), Ok(message));
}

#[test]
fn a_hello_of_another_protocol_is_named_whatever_follows_the_range() {
    let found = Message::decode(&[1, 7, 9, 0xff, 0xff]);
    assert_eq!(found, Err(WireError::ProtocolVersion { min: 7, max: 9 }));
    let found = Message::decode(&[1, 0, 0]);
    assert_eq!(found, Err(WireError::ProtocolVersion { min: 0, max: 0 }));
    assert!(matches!(Message::decode(&[1, 9, 7]), Err(WireError::Malformed { .. })));
}

#[test]
fn unknown_tags_are_named() {
    for tag in [0, 5, 16, 255] {
        assert_eq!(Message::decode(&[tag, 1, 2]), Err(WireError::UnknownTag(tag)));
    }
    assert_eq!(UnitStreamHead::decode(&[3, 1]), Err(WireError::UnknownTag(3)));
}

fn check_hello_refused(change: impl FnOnce(&mut Hello)) {
    let mut hello = hello();
    change(&mut hello);
    let found = Message::decode(&Message::Hello(Box::new(hello)).encode());
    assert!(matches!(found, Err(WireError::Malformed { message: "hello", .. })), "{found:?}");
}

#[test]
fn a_hello_keeps_its_limits_and_its_order() {
    check_hello_refused(|hello| hello.software = "x".repeat(SOFTWARE_BYTES_MAX + 1));
    check_hello_refused(|hello| hello.holds_of_you.swap(0, 1));
    check_hello_refused(|hello| hello.holds_of_you[1].origin = hello.holds_of_you[0].origin);
    check_hello_refused(|hello| hello.holds_of_you[0].seq = Seq::ZERO);
    check_hello_refused(|hello| {
        let held = hello.holds_of_you[0];
        hello.holds_of_you = (1..=HELD_MAX as u64 + 1)
            .map(|incarnation| Held { origin: origin(2, incarnation), ..held })
            .collect();
    });
}

#[test]
fn the_fullest_messages_fit_a_frame() {
    let full: VersionVector = (0..VECTOR_ENTRIES_MAX as u64)
        .map(|n| (origin((n % 65_535 + 1) as u16, n + 1), Seq(u64::MAX)))
        .collect();
    assert_eq!(full.len(), VECTOR_ENTRIES_MAX);
    let held = Held { origin: origin(2, 1), seq: Seq(u64::MAX), hash: UnitHash([1; 32]) };
    let holds_of_you = (1..=HELD_MAX as u64)
        .map(|incarnation| Held { origin: origin(65_535, incarnation), ..held })
        .collect();
    let hello = Hello {
        holds_of_you,
        marks: vec![UnitMark([7; 8]); full.len()],
        received: full.clone(),
        applied: full,
        software: "x".repeat(SOFTWARE_BYTES_MAX),
        ..hello()
    };
    let message = Message::Hello(Box::new(hello));
    assert_eq!(Message::decode(&message.encode()), Ok(message));
    let found = FRAME_BYTES_MAX + 1;
    let refused = WireError::TooLong { found, limit: FRAME_BYTES_MAX };
    assert_eq!(Message::decode(&vec![2; found]), Err(refused));
}

#[test]
fn what_has_come_of_a_unit_is_a_part_of_one() {
    let Hello { origin, .. } = hello();
    let follow = |bytes: u64, left: u64| {
        let mut out = Writer::new();
        out.u8(3);
        out.origin(origin);
        [128, bytes, left].into_iter().for_each(|number| out.varint(number));
        out.raw(&[9; 16]);
        Message::decode(&out.into_bytes())
    };
    let most = UNIT_BYTES_MAX as u64;
    assert!(follow(1, 1).is_ok() && follow(1, most - 1).is_ok() && follow(most - 1, 1).is_ok());
    for (bytes, left) in [(1, 0), (1, most), (most, 1), (u64::MAX, 1), (1, u64::MAX), (0, 1)] {
        let refused = follow(bytes, left);
        assert!(matches!(refused, Err(WireError::Malformed { message: "follow", .. })));
    }
    let mut head = head();
    head.at = UNIT_BYTES_MAX;
    assert_eq!(UnitStreamHead::decode(&head.encode()), Ok(head));
    head.at += 1;
    assert!(UnitStreamHead::decode(&head.encode()).is_err());
}

#[test]
fn a_beginning_is_that_of_the_same_bytes_only() {
    let unit: Vec<u8> = (0..200).collect();
    let begun = Begun::of(&unit[..70], unit.len()).unwrap();
    assert!(begun.begins(&unit));
    assert!(!begun.begins(&unit[..199]) && !begun.begins(&unit[1..]));
    assert!(!begun.begins(&unit[..50]) && !begun.begins(&[]));
    let mut other = unit.clone();
    other[100] ^= 1;
    assert!(begun.begins(&other), "only what is there is compared");
    other[69] ^= 1;
    assert!(!begun.begins(&other));
    assert_eq!((Begun::of(&[], 200), Begun::of(&unit, 200)), (None, None));
}

#[test]
fn a_hostile_count_is_refused_before_anything_is_allocated() {
    for tag in [1, 2] {
        let mut out = Writer::new();
        out.u8(tag);
        if tag == 1 {
            out.raw(&[1, 1]);
        }
        out.varint(u64::MAX >> 1);
        assert!(matches!(
            Message::decode(&out.into_bytes()),
            Err(WireError::Malformed { error: DecodeError::TooLong { .. }, .. })
        ));
    }
}

fn any_vector() -> impl Strategy<Value = VersionVector> {
    btree_map((1u16.., 1u64..), 1u64.., 0..6).prop_map(|entries| {
        entries.into_iter().map(|((site, life), seq)| (origin(site, life), Seq(seq))).collect()
    })
}

fn marks(received: &VersionVector) -> Vec<UnitMark> {
    received.iter().map(|(_, seq)| UnitMark(seq.0.to_le_bytes())).collect()
}

fn any_begun() -> impl Strategy<Value = Option<Begun>> {
    let lengths = (1..UNIT_BYTES_MAX, 1..UNIT_BYTES_MAX, any::<[u8; 16]>());
    proptest::option::of(lengths.prop_map(|(one, other, mark)| {
        let (bytes, length) = (one.min(other), one.max(other) + 1);
        Begun { bytes, length, mark: BegunMark(mark) }
    }))
}

fn any_message() -> impl Strategy<Value = Message> {
    let any_origin = || (1u16.., 1u64..).prop_map(|(site, life)| origin(site, life));
    let held = btree_map(1u64.., (1u64.., any::<[u8; 32]>()), 0..4).prop_map(|all| {
        all.into_iter()
            .map(|(life, (seq, hash))| Held {
                origin: origin(9, life),
                seq: Seq(seq),
                hash: UnitHash(hash),
            })
            .collect()
    });
    let hello = (held, any_origin(), any::<(u64, [u8; 32], u64)>(), any_vector(), any_vector());
    prop_oneof![
        (hello, "[a-z ü]{0,30}").prop_map(
            |((holds_of_you, origin, numbers, received, applied), software)| {
                Message::Hello(Box::new(Hello {
                    protocol_min: PROTOCOL_MIN,
                    protocol_max: PROTOCOL_MAX,
                    holds_of_you,
                    origin,
                    fleet_version: numbers.0,
                    sets_digest: numbers.1,
                    marks: marks(&received),
                    received,
                    applied,
                    wall_ms: numbers.2,
                    software,
                }))
            }
        ),
        (any_vector(), any_vector())
            .prop_map(|(received, applied)| Message::Have(Have { received, applied })),
        (any_origin(), any::<u64>(), any_begun()).prop_map(|(origin, after, begun)| {
            Message::Follow { origin, after: Seq(after), begun }
        }),
        any_origin().prop_map(|origin| Message::Unfollow { origin }),
    ]
}

proptest! {
    #[test]
    fn messages_read_back(message in any_message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    /// Whatever decodes is in its one form.
    #[test]
    fn mutations_never_panic_and_what_reads_has_one_form(
        message in any_message(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = message.encode();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(read) = Message::decode(&bytes) {
            let written = read.encode();
            prop_assert!(bytes == written || bytes.starts_with(&written) && matches!(read, Message::Hello(_)));
        }
        let _ = UnitStreamHead::decode(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), tag in 0u8..5) {
        let _ = Message::decode(&bytes);
        let _ = Message::decode(&[&[tag], bytes.as_slice()].concat());
        let _ = UnitStreamHead::decode(&[&[16], bytes.as_slice()].concat());
    }
}
