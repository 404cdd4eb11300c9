//! What all kinds have in common.

use proptest::prelude::*;

use super::*;
use crate::clock::Hlc;
use crate::id::{Incarnation, Seq, SiteId};

/// A transaction of a site at a time.
pub(super) fn stamp(site: u16, time: u64) -> Stamp {
    let site = SiteId::new(site + 1).expect("not zero");
    let origin = Origin { site, incarnation: Incarnation::new(7).expect("not zero") };
    Stamp::new(Hlc::from_ms(time), origin, Seq(time))
}

/// Joins all of them twice: as they were made, and in any order with repetitions.
pub(super) fn deliveries<S: Default, E>(
    edits: &[(Stamp, E)],
    order: &[prop::sample::Index],
    join: impl Fn(&mut S, Stamp, &E),
) -> [S; 2] {
    let (mut one, mut two) = (S::default(), S::default());
    edits.iter().for_each(|(by, edit)| join(&mut one, *by, edit));
    for index in order {
        let (by, edit) = index.get(edits);
        join(&mut two, *by, edit);
    }
    edits.iter().rev().for_each(|(by, edit)| join(&mut two, *by, edit));
    [one, two]
}

/// A part of each kind, what the column was born with, and what it comes to.
fn examples() -> Vec<(Kind, &'static str, &'static str)> {
    vec![
        (Kind::Counter, "1.50", "-1.00"),
        (Kind::Set, "{a,b}", "{b,NULL,\"c d\"}"),
        (Kind::Extreme(End::Max), "1.5", "12"),
        (Kind::Extreme(End::Min), "2024-02-29", "0044-03-15 BC"),
        (Kind::Text, "the old text", "a text, the new 💧"),
        (
            Kind::Document,
            r#"{"in": {"a": 1.50}, "old": 1, "list": [1, {"id": 2}, 3]}"#,
            r#"{"in": {"a": 2, "b": [null]}, "list": [0, 1, {"b": "é", "id": 2}]}"#,
        ),
    ]
}

/// Two sites that edit one after the other, as bytes that travel, bytes that are kept, and what shows.
#[test]
fn how_bytes_merge_is_as_it_was_recorded() {
    let mut out = Writer::new();
    for (kind, base, after) in examples() {
        let mut state = State::new(kind);
        for (place, (from, to)) in [(base, after), (after, base)].into_iter().enumerate() {
            let by = stamp(place as u16, place as u64 + 5);
            let part = Part::of_change(kind, (Some(&state), Some(base)), by, (from, to));
            let part = part.expect("it merges");
            state.join(by, &part).expect("it is the newest");
            Share { birth: (place == 0).then_some(stamp(3, 1)), part }.encode(&mut out);
        }
        state.encode(&mut out);
        out.text(&state.shown(base).expect("it shows"));
    }
    crate::golden::check("merged-v1", &out.into_bytes());
}

#[test]
fn a_value_that_nothing_can_be_merged_in_travels_as_a_whole() {
    let whole = |kind, before: &str, after: &str| {
        Part::of_change(kind, (None, Some(before)), stamp(1, 1), (before, after)).is_none()
    };
    assert!(whole(Kind::Counter, "1", "NaN") && !whole(Kind::Counter, "1", "2"));
    assert!(whole(Kind::Set, "{1}", "{{1}}") && whole(Kind::Set, "[0:0]={1}", "{1}"));
    assert!(whole(Kind::Document, "{}", "[]") && !whole(Kind::Document, "{}", "{\"a\": 1}"));
    let unknown = Part::of_change(Kind::Text, (None, None), stamp(1, 1), ("a", "b"));
    assert_eq!(unknown, None, "nobody knows what it was born with");
}

#[test]
fn what_is_kept_of_a_value_does_not_grow_without_end() {
    let (base, mut shown) = ("begin", String::from("begin"));
    let mut state = State::new(Kind::Text);
    let grown = (1..20_000).find(|time| {
        let (by, after) = (stamp(1, *time), format!("begin {time}"));
        let part = Part::of_change(Kind::Text, (Some(&state), Some(base)), by, (&shown, &after));
        shown = after;
        part.is_none_or(|part| state.join(by, &part).is_err())
    });
    assert!(grown.is_some_and(|edits| edits > 1000), "{grown:?}");
    assert!(state.bytes() < STATE_BYTES_FREE);
}

#[test]
fn the_longest_values_are_merged_and_read_again() {
    let numbers =
        |separator: &str| (0..40_000).map(|n| n.to_string()).collect::<Vec<_>>().join(separator);
    let ones = vec!["1"; 80_000].join(", ");
    let values = [
        (Kind::Set, "{}".to_owned(), format!("{{{}}}", numbers(","))),
        (Kind::Text, String::new(), numbers(" ")),
        (Kind::Text, numbers(" "), numbers(", ")),
        (Kind::Document, "[]".to_owned(), format!("[{ones}]")),
        (Kind::Document, format!("[{ones}]"), "[]".to_owned()),
    ];
    for (kind, before, after) in values {
        let by = stamp(1, 1);
        let part = Part::of_change(kind, (None, Some(&before)), by, (&before, &after));
        let part = part.unwrap_or_else(|| panic!("{kind:?} merges"));
        let mut state = State::new(kind);
        state.join(by, &part).expect("it is the newest");
        let share = Share { birth: None, part };
        let (mut travels, mut kept) = (Writer::new(), Writer::new());
        share.encode(&mut travels);
        state.encode(&mut kept);
        let (travels, kept) = (travels.into_bytes(), kept.into_bytes());
        assert!(Share::decode(kind, &mut Reader::new(&travels)) == Ok(share), "{kind:?}");
        assert!(State::decode(&mut Reader::new(&kept)) == Ok(state), "{kind:?}");
    }
}
