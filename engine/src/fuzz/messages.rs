//! Small things in forms of our own: messages, markers, values, clocks.

use std::collections::BTreeSet;

use landfall_protocol::clock::{Hlc, Stamp};
use landfall_protocol::codec::{Reader, Writer};
use landfall_protocol::fold::{Marker, MarkerKey};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::merged::{Kind, Share, State};
use landfall_protocol::schema::TableDef;
use landfall_protocol::sync::{LocalFacts, Opening, Output, Session, SessionConfig};
use landfall_protocol::unit::UnitHash;
use landfall_protocol::value::{RowKey, Value, ValueKind};
use landfall_protocol::version::VersionVector;
use landfall_protocol::wire::{Held, Message, UnitStreamHead};

use super::seeds;

/// The origin of this site.
pub(super) fn origin(site: u16) -> Origin {
    let site = SiteId::new(site).expect("sites here have numbers");
    Origin { site, incarnation: Incarnation::new(0xa1).expect("not zero") }
}

/// A frame of the control stream.
pub(super) fn check_control(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes) else { return };
    let written = message.encode();
    // A later version may append to its hello.
    let appended = matches!(message, Message::Hello(_)) && bytes.starts_with(&written);
    assert!(bytes == written || appended, "{} has two forms", message.name());
    assert_eq!(Message::decode(&written), Ok(message));
}

/// The first frame of a unit stream.
pub(super) fn check_head(bytes: &[u8]) {
    if let Ok(head) = UnitStreamHead::decode(bytes) {
        assert_eq!(head.encode(), bytes, "a head has two forms");
    }
}

/// A control stream: frames of up to 255 bytes, each behind its length.
pub(super) fn check_session(bytes: &[u8]) {
    let own = origin(2);
    let held = Held { origin: origin(1), seq: Seq(5), hash: UnitHash([3; 32]) };
    let local = LocalFacts {
        origin: own,
        fleet_version: 1,
        sets_digest: [0x33; 32],
        members: (1..6).filter_map(SiteId::new).collect(),
        software: "landfall".to_owned(),
    };
    let opening = Opening {
        peer: held.origin.site,
        received: [(own, Seq(9)), (held.origin, held.seq), (origin(3), Seq(u64::MAX))]
            .into_iter()
            .collect(),
        applied: VersionVector::new(),
        held: vec![held],
        wall_ms: 1_700_000_000_000,
    };
    let mut session = Session::new(local, opening, SessionConfig { ack_delay_ms: 10 }, 0);
    let mut now_ms = 0;
    for frame in frames(bytes) {
        now_ms += 1;
        match Message::decode(frame) {
            Ok(Message::Hello(hello)) => {
                let known = |held: &Held| (held.origin, held.hash);
                let known = hello.holds_of_you.iter().filter(|held| held.seq.0 & 1 == 0).map(known);
                let hashes = known.collect();
                session.handle_hello(*hello, &hashes, now_ms);
            }
            Ok(message) => session.handle_message(message, now_ms),
            Err(error) => session.handle_bad_frame(error, now_ms),
        }
        let received = session.peer_received().clone();
        session.handle_log_advanced(&received, &received, now_ms);
        let origins: BTreeSet<Origin> = received.iter().map(|(origin, _)| origin).collect();
        session.handle_supply(&origins, now_ms);
        // One output for each log in each direction, and a few for the session itself.
        let most = 16 + 8 * received.len();
        let polled = (0..most).take_while(|_| !is_quiet(&session.poll_output(now_ms))).count();
        assert!(polled < most, "the session never comes to rest");
    }
}

fn is_quiet(output: &Output) -> bool {
    matches!(output, Output::Idle | Output::Timeout { .. })
}

/// Pieces of up to 255 bytes, each behind its length.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first()?;
        let (frame, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        bytes = rest;
        Some(frame)
    })
}

/// A logical message in the WAL, and what stands behind its seal.
pub(super) fn check_marker(bytes: &[u8]) {
    let key = MarkerKey::new([7; 32]);
    assert_eq!(key.open(bytes), Ok(None), "a seal was guessed");
    let Ok(marker) = Marker::decode(bytes) else { return };
    assert_eq!(marker.encode(), bytes, "a marker has two forms");
    assert_eq!(key.open(&key.seal(&marker)), Ok(Some(marker)));
}

/// A value, then as many as make a key; and the bytes as texts of every kind.
pub(super) fn check_value(bytes: &[u8]) {
    let mut from = Reader::new(bytes);
    if let Ok(value) = Value::decode(&mut from) {
        let mut out = Writer::new();
        value.encode(&mut out);
        let read = &bytes[..bytes.len() - from.rest().len()];
        assert_eq!(out.into_bytes(), read, "a value has two forms");
        let _ = (value.text(), value.heap_bytes());
    }
    let key = RowKey::from_bytes(bytes);
    assert_eq!(key.as_bytes(), bytes);
    if let Ok(values) = key.values() {
        assert_eq!(RowKey::new(&values), key, "a key has two forms");
    }
    let mut from = Reader::new(bytes);
    if let Ok(table) = TableDef::decode(&mut from) {
        let mut out = Writer::new();
        table.encode(&mut out);
        let read = &bytes[..bytes.len() - from.rest().len()];
        assert_eq!(out.into_bytes(), read, "a table has two forms");
    }
    let text = String::from_utf8_lossy(bytes);
    for kind in ValueKind::ALL {
        let value = Value::from_text(kind, &text);
        assert_eq!(value.text().as_deref(), Some(&*text), "a text was changed as {kind:?}");
    }
}

/// What was done to a merged column: shares one after another, joined and shown. The first byte says
/// of which kind.
pub(super) fn check_merged(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let place = usize::from(*first) % Kind::ALL.len();
    let (kind, base) = (Kind::ALL[place], seeds::BASES[place]);
    let (mut state, mut from) = (State::new(kind), Reader::new(rest));
    for time in 1..=SHARES_MAX {
        let before = from.rest();
        let Ok(share) = Share::decode(kind, &mut from) else { break };
        let mut out = Writer::new();
        share.encode(&mut out);
        let read = &before[..before.len() - from.rest().len()];
        assert_eq!(out.into_bytes(), read, "a share has two forms");
        let by = Stamp::new(Hlc::from_ms(time), origin(time as u16 % 3 + 1), Seq(time));
        let _ = (share.part.told(), state.lost(base, by, &share.part));
        let _ = state.join(by, &share.part);
    }
    let shown = state.shown(base).expect("the base is of the kind");
    // A sum of numbers from outside may have more digits than a counter has.
    let is_value = kind == Kind::Counter || state.shown(&shown).is_some();
    assert!(is_value, "what shows is of another kind");
    if !state.is_empty() {
        let mut out = Writer::new();
        state.encode(&mut out);
        let written = out.into_bytes();
        let mut again = Reader::new(&written);
        assert_eq!(State::decode(&mut again), Ok(state), "a state does not read back");
        assert_eq!(again.finish(), Ok(()));
    }
}

/// Shares that are joined at most; as many as a short input has.
const SHARES_MAX: u64 = 64;

/// A row's clock as it is stored.
pub(super) fn check_row_clock(bytes: &[u8]) {
    let mut from = Reader::new(bytes);
    let Ok(clock) = RowClock::decode(&mut from) else { return };
    let values = clock.merged_columns().map(|merged| clock.value(merged.column));
    let _ = (clock.newest(), clock.is_live(true), values.count());
    let mut out = Writer::new();
    clock.encode(&mut out);
    let written = out.into_bytes();
    let mut again = Reader::new(&written);
    assert_eq!(RowClock::decode(&mut again), Ok(clock), "a clock does not read back");
    assert_eq!(again.finish(), Ok(()));
}
