use proptest::prelude::*;

use super::*;
use crate::merged::json::tests::json;
use crate::merged::tests::{deliveries, stamp};

fn parse(text: &str) -> Json {
    Json::parse(text).unwrap_or_else(|| panic!("{text} is JSON"))
}

/// Lets a document become another; `None` when it must be written as a whole.
fn edit(document: &mut Document, base: &Json, after: &Json, by: Stamp) -> Option<DocumentEdit> {
    let made = document.edit(base, &document.shown(base), after)?;
    document.join(by, &made);
    assert_eq!(document.shown(base), *after, "what is written is what shows");
    Some(made)
}

fn check(base: &str, one: &str, two: &str, due: &str) {
    let base = parse(base);
    let (mut first, mut second) = (Document::default(), Document::default());
    let by_one = edit(&mut first, &base, &parse(one), stamp(1, 1)).unwrap();
    let by_two = edit(&mut second, &base, &parse(two), stamp(2, 2)).unwrap();
    first.join(stamp(2, 2), &by_two);
    second.join(stamp(1, 1), &by_one);
    assert_eq!(first, second);
    assert_eq!(first.shown(&base).to_string(), due);
}

#[test]
fn what_two_sites_change_in_different_places_is_all_there() {
    check("{}", r#"{"a":1}"#, r#"{"b":2}"#, r#"{"a": 1, "b": 2}"#);
    check(
        r#"{"a":{"x":1,"y":{"z":1}}}"#,
        r#"{"a":{"x":2,"y":{"z":1}}}"#,
        r#"{"a":{"x":1,"y":{"z":1.10,"n":null}}}"#,
        r#"{"a": {"x": 2, "y": {"n": null, "z": 1.10}}}"#,
    );
    check(r#"{"a":1,"b":1}"#, r#"{"a":1}"#, r#"{"a":2,"b":1}"#, r#"{"a": 2}"#);
    check("[1,2,3]", "[0,1,2,3]", "[1,2,3,4]", "[0, 1, 2, 3, 4]");
    check("[1,2,3]", "[0,1,2,3]", "[-1,1,2,3]", "[-1, 0, 1, 2, 3]");
    check("[1,2,3,4]", "[1,2]", "[1,2,3,4,5]", "[1, 2, 5]");
}

#[test]
fn of_two_writes_of_one_key_the_later_stays_and_no_removal_takes_what_it_did_not_see() {
    check(r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#, r#"{"a": 3}"#);
    check(r#"{"a":1}"#, r#"{"a":2}"#, "{}", r#"{"a": 2}"#);
    check(r#"{"a":1}"#, "{}", r#"{"a":2}"#, r#"{"a": 2}"#);
    check(r#"{"a":1}"#, "{}", "{}", "{}");
}

#[test]
fn items_are_known_by_their_ids_or_by_their_place() {
    check(
        r#"[{"id":1,"n":1},{"id":2,"n":1}]"#,
        r#"[{"id":0},{"id":1,"n":1},{"id":2,"n":5}]"#,
        r#"[{"id":2,"n":1,"m":7}]"#,
        r#"[{"id": 0}, {"m": 7, "n": 5, "id": 2}]"#,
    );
    check(
        r#"[{"n":1},{"n":2}]"#,
        r#"[{"n":1,"a":true},{"n":2}]"#,
        r#"[{"n":0},{"n":1},{"n":2}]"#,
        r#"[{"n": 0}, {"a": true, "n": 1}, {"n": 2}]"#,
    );
}

#[test]
fn a_document_that_is_no_more_of_its_kind_is_written_as_a_whole() {
    for (base, after) in [("{}", "[]"), ("1", "2"), ("[]", "null"), ("\"a\"", "{}")] {
        assert_eq!(edit(&mut Document::default(), &parse(base), &parse(after), stamp(1, 1)), None);
    }
    let other = Document::default().edit(&parse("{}"), &parse(r#"{"a":1}"#), &parse("{}"));
    assert_eq!(other, None, "nobody knows how what is shown came about");
}

#[test]
fn what_gives_way_in_a_document_is_told() {
    let base = parse(r#"{"a":1,"in":{"x":1}}"#);
    let lost = |one: &str, two: &str| {
        let (mut first, mut second) = (Document::default(), Document::default());
        edit(&mut first, &base, &parse(one), stamp(1, 1)).unwrap();
        let later = edit(&mut second, &base, &parse(two), stamp(2, 2)).unwrap();
        let lost = first.lost(&base, stamp(2, 2), &later);
        lost.into_iter().map(|(by, told)| (by == stamp(2, 2), told)).collect::<Vec<_>>()
    };
    let same = r#"{"a":2,"in":{"x":1}}"#;
    assert_eq!(lost(same, r#"{"a":3,"in":{"x":1}}"#), [(false, "a: 2".to_owned())]);
    assert_eq!(lost(same, same), []);
    assert_eq!(lost(r#"{"a":1,"in":{"x":5}}"#, r#"{"a":1}"#), [(false, "x: 5".to_owned())]);
    assert_eq!(lost(r#"{"a":1}"#, r#"{"a":1,"in":{"x":5}}"#), [(true, "x: 5".to_owned())]);
    assert_eq!(lost(r#"{"a":1,"in":{"x":1},"b":1}"#, same), []);
}

fn reads_back(document: &Document) -> bool {
    let mut out = Writer::new();
    document.encode(&mut out);
    let bytes = out.into_bytes();
    Document::decode(&mut Reader::new(&bytes)).as_ref() == Ok(document)
}

proptest! {
    #[test]
    fn any_document_becomes_any_other(documents in proptest::collection::vec(json(), 2..6)) {
        let base = &documents[0];
        let mut document = Document::default();
        for (time, after) in documents.iter().enumerate().skip(1) {
            let Some(made) = edit(&mut document, base, after, stamp(1, time as u64)) else { continue };
            let mut out = Writer::new();
            made.encode(&mut out);
            let bytes = out.into_bytes();
            prop_assert_eq!(DocumentEdit::decode(&mut Reader::new(&bytes)), Ok(made));
            prop_assert!(reads_back(&document));
        }
    }

    /// Three sites put keys and items of their own, and remove some: all who know the same show the
    /// same, and nothing is lost that nobody removed.
    #[test]
    fn documents_agree_and_lose_nothing(
        steps in proptest::collection::vec((0usize..3, 0u8..4, 0usize..6, 0usize..3), 1..24),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 24),
    ) {
        let base = parse(r#"{"list":[1,{"id":7}],"in":{"a":{}}}"#);
        let mut sites = [Document::default(), Document::default(), Document::default()];
        let mut edits: Vec<(Stamp, DocumentEdit)> = Vec::new();
        let (mut heard, mut removed) = ([0; 3], Vec::new());
        for (time, (site, kind, at, hear)) in steps.into_iter().enumerate() {
            let news = edits.iter().skip(heard[site]).take(hear * 3);
            heard[site] += news.map(|(by, edit)| sites[site].join(*by, edit)).count();
            let mut after = sites[site].shown(&base);
            change(&mut after, time, kind, at, &mut removed);
            let by = stamp(site as u16, time as u64 + 1);
            edits.push((by, edit(&mut sites[site], &base, &after, by).unwrap()));
        }
        let join = |document: &mut Document, by, edit: &DocumentEdit| document.join(by, edit);
        let [one, two] = deliveries(&edits, &order, join);
        prop_assert_eq!(&one, &two);
        prop_assert!(reads_back(&one));
        let shown = one.shown(&base).to_string();
        for time in 0..edits.len() {
            let name = format!("\"w{time}x\"");
            prop_assert_eq!(shown.contains(&name), !removed.contains(&name), "{} in {}", name, shown);
        }
    }
}

fn inner<'j>(json: &'j mut Json, path: &[&str]) -> &'j mut Json {
    let Some((first, rest)) = path.split_first() else { return json };
    let Json::Object(entries) = json else { panic!("an object") };
    let place = entries.iter().position(|(key, _)| &*key.0 == *first).expect("the key");
    inner(&mut entries[place].1, rest)
}

/// Puts something of a name of its own, and removes something that was put before.
fn change(document: &mut Json, time: usize, kind: u8, at: usize, removed: &mut Vec<String>) {
    let name = format!("w{time}x");
    let path: &[&str] = [&["list"][..], &["in"], &["in", "a"], &[]][usize::from(kind)];
    match inner(document, path) {
        Json::List(items) => {
            let at = at.min(items.len());
            if at % 2 == 1 && matches!(items.get(at), Some(Json::Text(_))) {
                removed.push(items.remove(at).to_string());
            }
            items.insert(at, Json::Text(name.into()));
        }
        Json::Object(entries) => {
            let is_put = |key: &Key| key.0.starts_with('w');
            if let Some(at) = entries.iter().position(|(key, _)| is_put(key)).filter(|_| at > 3) {
                removed.push(format!("\"{}\"", entries.remove(at).0.0));
            }
            entries.push((Key(name.into()), Json::Null));
            entries.sort_by(|(one, _), (two, _)| one.cmp(two));
        }
        _ => panic!("{path:?} is nested"),
    }
}
