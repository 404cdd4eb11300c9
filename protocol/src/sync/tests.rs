use std::collections::BTreeMap;

use super::*;
use crate::id::Incarnation;
use crate::unit::UnitHash;
use crate::wire::{Begun, Have, Hello, UnitMark, WireError};

fn site(number: u16) -> SiteId {
    SiteId::new(number).unwrap()
}

fn origin(number: u16, life: u64) -> Origin {
    Origin { site: site(number), incarnation: Incarnation::new(life).unwrap() }
}

fn vector(entries: &[(Origin, u64)]) -> VersionVector {
    entries.iter().map(|(origin, seq)| (*origin, Seq(*seq))).collect()
}

fn held(origin: Origin, seq: u64, byte: u8) -> Held {
    Held { origin, seq: Seq(seq), hash: UnitHash([byte; 32]) }
}

/// We are site 1 in its second life, which wrote 10; the peer is site 2.
fn own() -> Origin {
    origin(1, 2)
}

fn earlier() -> Origin {
    origin(1, 1)
}

fn peer() -> Origin {
    origin(2, 7)
}

fn third() -> Origin {
    origin(3, 1)
}

fn local() -> LocalFacts {
    LocalFacts {
        origin: own(),
        fleet_version: 3,
        sets_digest: [5; 32],
        members: [1, 2, 3].map(site).into(),
        software: "test".to_owned(),
    }
}

fn opening() -> Opening {
    Opening {
        peer: site(2),
        received: vector(&[(own(), 10), (earlier(), 5), (peer(), 4)]),
        applied: vector(&[(peer(), 3)]),
        held: vec![held(own(), 10, 0x11), held(earlier(), 5, 0x15), held(peer(), 4, 0x44)],
        wall_ms: 1_000_000,
    }
}

fn peer_hello() -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        holds_of_you: vec![],
        origin: peer(),
        fleet_version: 3,
        sets_digest: [5; 32],
        received: vector(&[(peer(), 6), (third(), 8)]),
        marks: vec![UnitMark([0x46; 8]), UnitMark([0x38; 8])],
        applied: vector(&[(peer(), 6)]),
        wall_ms: 1_000_100,
        software: "test".to_owned(),
    }
}

/// A hello that names what the peer holds of our logs.
fn holding(all: &[Held]) -> Hello {
    let mut hello = peer_hello();
    hello.holds_of_you = all.to_vec();
    let mut named: BTreeMap<Origin, (Seq, UnitMark)> = hello
        .received
        .iter()
        .zip(hello.marks)
        .map(|((origin, seq), mark)| (origin, (seq, mark)))
        .collect();
    named.extend(all.iter().map(|held| (held.origin, (held.seq, UnitMark::of(held.hash)))));
    hello.received = named.iter().map(|(origin, (seq, _))| (*origin, *seq)).collect();
    hello.marks = named.into_values().map(|(_, mark)| mark).collect();
    hello
}

/// What we have where the peer's logs end.
fn ours(hashes: &[(Origin, u8)]) -> BTreeMap<Origin, UnitHash> {
    hashes.iter().map(|(origin, byte)| (*origin, UnitHash([*byte; 32]))).collect()
}

struct Driven(Session);

impl Driven {
    fn new(config: SessionConfig) -> Self {
        let mut session = Session::new(local(), opening(), config, 100);
        assert!(matches!(session.poll_output(100), Output::Send(Message::Hello(_))));
        Self(session)
    }

    fn ready() -> Self {
        Self::ready_with(SessionConfig::default())
    }

    fn ready_with(config: SessionConfig) -> Self {
        let mut driven = Self::new(config);
        driven.0.handle_hello(peer_hello(), &ours(&[]), 100);
        assert!(matches!(driven.outputs(100)[..], [Output::Event(Event::Ready { .. })]));
        driven
    }

    /// Everything up to a timeout or idling.
    fn outputs(&mut self, now_ms: u64) -> Vec<Output> {
        let next = std::iter::repeat_with(|| self.0.poll_output(now_ms));
        next.take_while(|output| !matches!(output, Output::Timeout { .. } | Output::Idle)).collect()
    }

    #[track_caller]
    fn expect(&mut self, expected: &[Output]) {
        assert_eq!(self.outputs(100), expected);
    }

    #[track_caller]
    fn refused(&mut self, refusal: Refusal) {
        self.expect(&[Output::Event(Event::Refused(refusal))]);
        assert_eq!(self.0.poll_output(u64::MAX), Output::Idle);
    }

    fn message(&mut self, message: Message) {
        self.0.handle_message(message, 100);
    }

    fn supply(&mut self, origins: &[Origin]) {
        self.0.handle_supply(&origins.iter().copied().collect(), 100);
    }

    fn advanced(&mut self, received: &[(Origin, u64)], applied: &[(Origin, u64)], now_ms: u64) {
        self.0.handle_log_advanced(&vector(received), &vector(applied), now_ms);
    }
}

fn have(received: &[(Origin, u64)], applied: &[(Origin, u64)]) -> Message {
    Message::Have(Have { received: vector(received), applied: vector(applied) })
}

fn follow(origin: Origin, after: u64) -> Message {
    Message::Follow { origin, after: Seq(after), begun: None }
}

fn acked(received: &[(Origin, u64)]) -> Output {
    Output::Event(Event::Acked { received: vector(received) })
}

#[test]
fn our_hello_is_first_and_says_what_we_hold_of_the_peer() {
    let mut session = Session::new(local(), opening(), SessionConfig::default(), 100);
    let Output::Send(Message::Hello(hello)) = session.poll_output(100) else { panic!() };
    assert_eq!(hello.holds_of_you, [held(peer(), 4, 0x44)]);
    assert_eq!(hello.received, opening().received);
    assert_eq!((hello.origin, hello.wall_ms), (own(), 1_000_000));
    let due = Output::Timeout { at_ms: 60_100, why: "the peer's hello is due" };
    assert_eq!(session.poll_output(100), due);
}

#[test]
fn the_vector_and_the_list_of_held_logs_never_disagree_in_our_hello() {
    let mut opening = opening();
    opening.held = vec![held(peer(), 3, 1), held(own(), 1, 1), held(origin(2, 1), 9, 1)];
    let mut driven = Driven(Session::new(local(), opening, SessionConfig::default(), 100));
    let Output::Send(Message::Hello(hello)) = driven.0.poll_output(100) else { panic!() };
    assert_eq!(hello.holds_of_you, [held(origin(2, 1), 9, 1), held(peer(), 3, 1)]);
    assert_eq!((hello.received.get(peer()), hello.received.get(origin(2, 1))), (Seq(3), Seq(9)));
    driven.0.handle_hello(peer_hello(), &ours(&[]), 100);
    // What the hello left out follows.
    let left_out = have(&[(earlier(), 5), (own(), 10), (peer(), 4)], &[]);
    assert_eq!(driven.outputs(100)[1..], [Output::Send(left_out)]);
}

#[test]
fn a_good_hello_makes_the_session_ready() {
    let mut driven = Driven::new(SessionConfig::default());
    driven.0.handle_hello(peer_hello(), &ours(&[]), 160);
    driven.expect(&[Output::Event(Event::Ready {
        peer: peer(),
        peer_received: peer_hello().received,
        peer_applied: peer_hello().applied,
        fleet_version: 3,
        clock_offset_ms: 40,
    })]);
    assert!(driven.0.is_ready());
    assert_eq!(driven.0.poll_output(u64::MAX), Output::Idle);
}

#[test]
fn a_peer_that_says_nothing_is_given_up() {
    let mut driven = Driven::new(SessionConfig::default());
    driven.0.handle_timeout(60_099);
    driven.expect(&[]);
    driven.0.handle_timeout(60_100);
    driven.refused(Refusal::NoHello);
    let mut ready = Driven::ready();
    ready.0.handle_timeout(u64::MAX);
    ready.expect(&[]);
}

#[track_caller]
fn check_refused(hello: Hello, refusal: Refusal) {
    let mut driven = Driven::new(SessionConfig::default());
    driven.supply(&[third()]);
    driven.0.handle_hello(hello, &ours(&[]), 100);
    driven.refused(refusal.clone());
    // An ended session is deaf.
    driven.0.handle_hello(peer_hello(), &ours(&[]), 100);
    driven.message(have(&[(own(), 99)], &[]));
    driven.supply(&[third()]);
    driven.advanced(&[(own(), 11)], &[], 100);
    driven.0.handle_bad_frame(WireError::Empty, 100);
    driven.0.handle_timeout(u64::MAX);
    driven.expect(&[]);
    let text = refusal.to_string();
    assert!(text.len() > 20 && !text.ends_with('.'), "{text}");
}

#[test]
fn every_rule_of_the_hello_refuses_by_name() {
    let hello = Hello { protocol_min: 2, protocol_max: 3, ..peer_hello() };
    check_refused(hello, Refusal::ProtocolVersion { min: 2, max: 3 });
    let hello = Hello { origin: third(), ..peer_hello() };
    check_refused(hello, Refusal::WrongSite { expected: site(2), found: site(3) });
    let hello = Hello { sets_digest: [6; 32], fleet_version: 4, ..peer_hello() };
    check_refused(hello, Refusal::SetsDiffer { ours: 3, theirs: 4 });
    let hello = Hello { holds_of_you: vec![held(own(), 9, 1)], ..peer_hello() };
    check_refused(hello, Violation::HeldUnclear.into());
    let mut hello = peer_hello();
    hello.received.advance(own(), Seq(9));
    check_refused(hello, Violation::HeldUnclear.into());
    let hello = holding(&[held(third(), 9, 1)]);
    check_refused(hello, Violation::HeldUnclear.into());
}

#[test]
fn a_stranger_cannot_fence_us() {
    let facts = LocalFacts { members: [site(1)].into(), ..local() };
    let mut driven = Driven(Session::new(facts, opening(), SessionConfig::default(), 100));
    driven.0.poll_output(100);
    driven.0.handle_hello(holding(&[held(own(), 99, 1)]), &ours(&[]), 100);
    driven.refused(Refusal::UnknownMember { site: site(2) });
}

#[test]
fn a_call_to_ourselves_is_refused_without_fencing() {
    let opening = Opening { peer: site(1), ..opening() };
    let mut driven = Driven(Session::new(local(), opening, SessionConfig::default(), 100));
    driven.0.poll_output(100);
    let hello = Hello { origin: own(), ..holding(&[held(own(), 99, 1)]) };
    driven.0.handle_hello(hello, &ours(&[]), 100);
    driven.refused(Refusal::OwnSite { site: site(1) });
    assert!(!Refusal::OwnSite { site: site(1) }.fences_us());
}

#[test]
fn an_early_refusal_still_sends_our_hello() {
    let mut session = Session::new(local(), opening(), SessionConfig::default(), 100);
    session.handle_hello(Hello { sets_digest: [6; 32], ..peer_hello() }, &ours(&[]), 100);
    assert!(matches!(session.poll_output(100), Output::Send(Message::Hello(_))));
    assert!(matches!(session.poll_output(100), Output::Event(Event::Refused(_))));
}

/// The peer holds `seq` of our log with this hash byte; our log has this there.
fn meet(log: Origin, seq: u64, byte: u8, own_byte: Option<u8>) -> Driven {
    let mut driven = Driven::new(SessionConfig::default());
    let ours = ours(own_byte.map(|byte| (log, byte)).as_slice());
    driven.0.handle_hello(holding(&[held(log, seq, byte)]), &ours, 100);
    driven
}

#[test]
fn our_log_being_ahead_of_the_peer_is_normal() {
    for seq in [3, 10] {
        assert!(meet(own(), seq, 1, Some(1)).0.is_ready());
        assert!(meet(earlier(), seq.min(5), 1, Some(1)).0.is_ready());
    }
}

#[test]
fn a_peer_that_holds_more_of_us_than_we_do_fences_us() {
    let refusal = Refusal::OwnLogBehind { origin: own(), peer_seq: Seq(11), own_seq: Seq(10) };
    assert!(refusal.fences_us());
    meet(own(), 11, 1, None).refused(refusal);
}

#[test]
fn what_we_sealed_since_the_connection_was_made_does_not_fence_us() {
    // The vector is from before, the hash was looked up after the hello came.
    assert!(meet(own(), 11, 1, Some(1)).0.is_ready());
}

#[test]
fn another_history_of_our_present_log_fences_us() {
    // At a seq where another unit of ours ends, where none does, and beyond our older vector.
    for (seq, own_byte) in [(10, Some(2)), (7, None), (11, Some(2))] {
        let refusal = Refusal::OwnLogForked { origin: own(), seq: Seq(seq) };
        assert!(refusal.fences_us());
        meet(own(), seq, 1, own_byte).refused(refusal);
    }
}

#[test]
fn identity_is_checked_before_fleet_files() {
    let mut driven = Driven::new(SessionConfig::default());
    let hello = Hello { sets_digest: [6; 32], ..holding(&[held(own(), 11, 1)]) };
    driven.0.handle_hello(hello, &ours(&[]), 100);
    assert!(matches!(
        driven.outputs(100)[..],
        [Output::Event(Event::Refused(Refusal::OwnLogBehind { .. }))]
    ));
}

#[test]
fn a_lost_tail_of_an_earlier_life_is_fetched() {
    for log in [earlier(), origin(1, 9)] {
        let mut driven = meet(log, 8, 1, None);
        assert!(matches!(driven.outputs(100)[..], [Output::Event(Event::Ready { .. })]));
        driven.supply(&[log]);
        let after = if log == earlier() { 5 } else { 0 };
        driven.expect(&[Output::Send(follow(log, after))]);
    }
}

#[test]
fn a_forked_earlier_life_is_a_log_like_any_other_and_everything_else_goes_on() {
    for (seq, own_byte) in [(5, Some(2)), (4, None)] {
        let mut driven = Driven::new(SessionConfig::default());
        driven.supply(&[earlier(), third()]);
        let ours = ours(own_byte.map(|byte| (earlier(), byte)).as_slice());
        driven.0.handle_hello(holding(&[held(earlier(), seq, 1)]), &ours, 100);
        let outputs = driven.outputs(100);
        let forked = Event::LogForked { origin: earlier(), seq: Seq(seq) };
        assert_eq!(outputs[0], Output::Event(forked));
        // The peer must show what it has.
        assert_eq!(outputs[1], Output::Send(follow(earlier(), seq - 1)));
        let Output::Event(Event::Ready { peer_received, .. }) = &outputs[2] else { panic!() };
        assert_eq!(peer_received.get(earlier()), Seq::ZERO);
        assert_eq!(outputs[3..], [Output::Send(follow(third(), 0))]);
        // And so must we.
        driven.message(follow(earlier(), 0));
        driven.expect(&[Output::StartUnits { origin: earlier(), after: Seq::ZERO, begun: None }]);
        driven.message(have(&[(earlier(), 9)], &[(earlier(), 9)]));
        driven.0.handle_unit_received(earlier(), Seq(9), 100);
        driven.supply(&[earlier(), third()]);
        driven.expect(&[]);
        assert_eq!(driven.0.peer_received().get(earlier()), Seq::ZERO);
    }
}

#[test]
fn who_holds_another_history_of_somebody_must_show_it() {
    let hold = |seq, byte, our_byte: Option<u8>| {
        let opening = Opening {
            received: vector(&[(own(), 10), (peer(), 4), (third(), 8)]),
            held: vec![held(own(), 10, 1), held(peer(), 4, 4), held(third(), 8, 8)],
            ..opening()
        };
        let mut driven = Driven(Session::new(local(), opening, SessionConfig::default(), 100));
        driven.supply(&[peer(), third()]);
        driven.0.poll_output(100);
        let hello = Hello {
            received: vector(&[(peer(), 6), (third(), seq)]),
            marks: vec![UnitMark([6; 8]), UnitMark([byte; 8])],
            ..peer_hello()
        };
        let ours = ours(our_byte.map(|byte| (third(), byte)).as_slice());
        driven.0.handle_hello(hello, &ours, 100);
        driven
    };
    // Another unit ends there, or none does.
    for (seq, ours) in [(8, Some(8)), (5, Some(5)), (5, None)] {
        let mut driven = hold(seq, 1, ours);
        let outputs = driven.outputs(100);
        let forked = Event::LogForked { origin: third(), seq: Seq(seq) };
        assert_eq!(outputs[0], Output::Event(forked));
        assert_eq!(outputs[1], Output::Send(follow(third(), seq - 1)));
        let Output::Event(Event::Ready { peer_received, .. }) = &outputs[2] else { panic!() };
        assert_eq!(peer_received.get(third()), Seq::ZERO);
        assert_eq!(outputs[3..], [Output::Send(follow(peer(), 4))]);
        // The other side gets to see ours.
        driven.message(follow(third(), 4));
        driven.expect(&[Output::StartUnits { origin: third(), after: Seq(4), begun: None }]);
    }
    // The same history, and one of which we cannot say.
    for (seq, byte, ours) in [(8, 8, Some(8)), (5, 5, Some(5)), (9, 9, None)] {
        let outputs = hold(seq, byte, ours).outputs(100);
        assert!(matches!(outputs[0], Output::Event(Event::Ready { .. })), "{outputs:?}");
    }
}

#[test]
fn a_clone_shows_up_in_the_middle_once_our_vector_is_fresh() {
    let mut driven = Driven::ready();
    // The peer may know of a unit of ours before we are told that it was sealed.
    driven.message(have(&[(own(), 12)], &[]));
    driven.expect(&[acked(&[(own(), 12)])]);
    assert!(driven.0.doubts_own_log());
    let mut honest = Driven(driven.0.clone());
    honest.advanced(&[(own(), 12)], &[], 100);
    assert!(!honest.0.doubts_own_log());
    honest.expect(&[Output::Send(have(&[(own(), 12)], &[]))]);
    driven.advanced(&[(own(), 11)], &[], 100);
    driven.refused(Refusal::OwnLogBehind { origin: own(), peer_seq: Seq(12), own_seq: Seq(11) });
}

#[test]
fn messages_before_the_hello_and_a_second_hello_are_violations() {
    for message in [have(&[], &[]), follow(own(), 0), Message::Unfollow { origin: own() }] {
        let mut driven = Driven::new(SessionConfig::default());
        let name = message.name();
        driven.message(message);
        driven.refused(Violation::BeforeHello { message: name }.into());
    }
    let mut driven = Driven::ready();
    driven.0.handle_hello(peer_hello(), &ours(&[]), 100);
    driven.refused(Violation::SecondHello.into());
    let mut driven = Driven::ready();
    driven.message(Message::Hello(Box::new(peer_hello())));
    driven.refused(Violation::SecondHello.into());
}

#[test]
fn bad_frames_are_refused_and_other_protocols_named() {
    let mut driven = Driven::new(SessionConfig::default());
    driven.0.handle_bad_frame(WireError::ProtocolVersion { min: 4, max: 5 }, 100);
    driven.refused(Refusal::ProtocolVersion { min: 4, max: 5 });
    let mut driven = Driven::ready();
    driven.0.handle_bad_frame(WireError::UnknownTag(9), 100);
    driven.refused(Violation::BadFrame(WireError::UnknownTag(9)).into());
}

#[test]
fn what_moved_is_told_once() {
    let mut driven = Driven::ready();
    driven.advanced(&[(own(), 10), (peer(), 4)], &[(peer(), 3)], 100);
    driven.expect(&[]);
    driven.advanced(&[(own(), 11), (peer(), 6)], &[(peer(), 6)], 100);
    driven.expect(&[Output::Send(have(&[(own(), 11), (peer(), 6)], &[(peer(), 6)]))]);
    driven.advanced(&[(own(), 9), (peer(), 6)], &[(peer(), 2)], 100);
    driven.expect(&[]);
    assert_eq!(driven.0.poll_output(u64::MAX), Output::Idle);
}

#[test]
fn what_moves_before_the_peer_is_known_waits_for_its_hello() {
    let mut driven = Driven::new(SessionConfig::default());
    driven.advanced(&[(own(), 11)], &[], 100);
    driven.supply(&[peer()]);
    driven.expect(&[]);
    driven.0.handle_hello(peer_hello(), &ours(&[]), 100);
    let expected = [Output::Send(follow(peer(), 4)), Output::Send(have(&[(own(), 11)], &[]))];
    assert_eq!(driven.outputs(100)[1..], expected);
}

#[test]
fn acknowledgements_are_gathered_for_the_delay() {
    let mut driven = Driven::ready_with(SessionConfig { ack_delay_ms: 50 });
    driven.advanced(&[(own(), 11)], &[], 200);
    assert_eq!(driven.outputs(200), [Output::Send(have(&[(own(), 11)], &[]))]);
    for seq in [12, 13] {
        driven.advanced(&[(own(), seq)], &[], 210);
        let due = Output::Timeout { at_ms: 250, why: "an acknowledgement is due" };
        assert_eq!(driven.0.poll_output(249), due);
    }
    driven.0.handle_timeout(250);
    assert_eq!(driven.outputs(250), [Output::Send(have(&[(own(), 13)], &[]))]);
    assert_eq!(driven.0.poll_output(251), Output::Idle);
}

#[test]
fn the_peers_vectors_only_grow() {
    let mut driven = Driven::ready();
    driven.message(have(&[(peer(), 5), (own(), 10)], &[(peer(), 1)]));
    driven.expect(&[acked(&[(own(), 10)])]);
    driven.message(have(&[(third(), 9)], &[(third(), 2)]));
    driven.expect(&[
        acked(&[(third(), 9)]),
        Output::Event(Event::PeerApplied { applied: vector(&[(third(), 2)]) }),
        Output::Event(Event::NewKnowledge),
    ]);
    driven.message(have(&[(third(), 9)], &[(third(), 2)]));
    driven.expect(&[]);
}

#[test]
fn only_what_we_lack_and_may_follow_is_news() {
    let mut driven = Driven::ready();
    driven.advanced(&[(third(), 20)], &[], 100);
    driven.outputs(100);
    let stranger = origin(77, 1);
    driven.message(have(&[(third(), 20), (stranger, 4)], &[]));
    driven.expect(&[acked(&[(third(), 20), (stranger, 4)])]);
    assert_eq!(driven.0.peer_received().get(stranger), Seq(4));
    driven.supply(&[stranger, own()]);
    driven.expect(&[]);
    driven.message(have(&[(third(), 21)], &[]));
    driven.expect(&[acked(&[(third(), 21)]), Output::Event(Event::NewKnowledge)]);
}

#[test]
fn follows_go_out_as_differences_after_what_we_hold() {
    let mut driven = Driven::ready();
    driven.supply(&[peer()]);
    driven.expect(&[Output::Send(follow(peer(), 4))]);
    driven.supply(&[peer(), third()]);
    driven.expect(&[Output::Send(follow(third(), 0))]);
    driven.advanced(&[(peer(), 6), (third(), 8)], &[], 100);
    driven.outputs(100);
    driven.supply(&[third()]);
    driven.expect(&[Output::Send(Message::Unfollow { origin: peer() })]);
    driven.supply(&[peer()]);
    driven.expect(&[
        Output::Send(Message::Unfollow { origin: third() }),
        Output::Send(follow(peer(), 6)),
    ]);
}

#[test]
fn a_unit_shows_what_the_peer_holds_but_is_not_yet_acknowledged() {
    let mut driven = Driven::ready();
    driven.0.handle_unit_received(third(), Seq(30), 100);
    driven.expect(&[]);
    assert_eq!(driven.0.peer_received().get(third()), Seq(30));
    driven.message(have(&[(third(), 30)], &[]));
    driven.expect(&[]);
}

#[test]
fn followers_are_served_and_a_second_follow_starts_anew() {
    let mut driven = Driven::ready();
    let unheld = origin(3, 99);
    for origin in [own(), unheld] {
        driven.message(follow(origin, 2));
        driven.expect(&[Output::StartUnits { origin, after: Seq(2), begun: None }]);
    }
    driven.message(follow(own(), 1));
    driven.expect(&[
        Output::StopUnits { origin: own() },
        Output::StartUnits { origin: own(), after: Seq(1), begun: None },
    ]);
    driven.message(Message::Unfollow { origin: own() });
    driven.expect(&[Output::StopUnits { origin: own() }]);
    driven.message(Message::Unfollow { origin: own() });
    driven.expect(&[]);
}

#[test]
fn what_a_follower_has_of_a_unit_reaches_whoever_sends_it() {
    let mut driven = Driven::ready();
    let begun = Begun::of(&[1, 2, 3], 9);
    driven.message(Message::Follow { origin: own(), after: Seq(1), begun });
    driven.expect(&[Output::StartUnits { origin: own(), after: Seq(1), begun }]);
}

#[test]
fn a_supplier_whose_rest_does_not_fit_is_asked_to_begin_anew() {
    let mut driven = Driven::ready();
    assert!(!driven.0.handle_unfit_begun(third(), 100), "nobody wants it");
    driven.expect(&[]);
    driven.0.handle_supply(&[third()].into(), 100);
    driven.expect(&[Output::Send(follow(third(), 0))]);
    assert!(driven.0.handle_unfit_begun(third(), 100));
    driven.expect(&[Output::Send(follow(third(), 0))]);
}

#[test]
fn nobody_follows_without_end() {
    let mut driven = Driven::ready();
    for life in 1..=FOLLOWS_MAX as u64 {
        driven.message(follow(origin(3, life), 0));
    }
    assert_eq!(driven.outputs(100).len(), FOLLOWS_MAX);
    driven.message(follow(origin(4, 1), 0));
    driven.refused(Violation::TooManyFollows.into());
}
