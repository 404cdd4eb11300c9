//! With a rule switched off, what the other tests rely on is not so: they would notice.

use std::fs;

use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::process::Program;
use landfall_tests::wait::wait_until;

use super::faults::wait_hanging;
use super::{A, B, Stick, apart, captured, fill, lacks, list, try_read, write, write_with};
use crate::support::{Edited, fleet_file, value};

const COUNT: &str = "SELECT count(*) FROM bed";

/// Both sites with some rows at A, and B under a rule of `LANDFALL_PLANT`.
fn world(plant: &str) -> Fleet {
    let mut fleet = apart(&[A, B]).start();
    fill(&fleet, A, 10);
    fleet.replace_daemon(B, plant).expect("start");
    captured(&fleet, B);
    fleet
}

/// Waits until B has applied all that it has received; says whether it shows what A does.
#[track_caller]
fn has_all(fleet: &Fleet) -> bool {
    wait_until("all that was received to be applied", SOON, || {
        let status = fleet.member(B).status().map_err(|error| format!("{error:#}"))?;
        let pending = status["inbox_pending_changes"].as_u64();
        if pending == Some(0) { Ok(()) } else { Err(format!("{pending:?}")) }
    });
    value(fleet, A, COUNT) == value(fleet, B, COUNT)
}

/// Somebody else's key signs in the name of A. Whether B takes its word for what A holds.
fn forged_word_counts(plant: &str) -> bool {
    let mut fleet = apart(&[A, B]).start();
    fleet.sql(B, "INSERT INTO bed VALUES (1, 'Ada')");
    let (there, back) = (Stick::new(), Stick::new());
    write(&fleet, B, A, &there);
    super::read(&fleet, A, &there);
    write(&fleet, A, B, &back);
    // To B, A has another key.
    let out = back.path().join("other.key");
    let words = ["keygen", "--json", "--out", out.to_str().expect("a plain path")];
    let made = Program::landfall("landfall-node").args(words).run(SOON).expect("run").success();
    let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
    let file = fleet_file(&fleet, B);
    let text = fs::read_to_string(&file).expect("read");
    let key = text.lines().find_map(|line| line.strip_prefix("key = ")).expect("the key of A");
    let other = format!("\"{}\"", made["public_key"].as_str().expect("a key"));
    let _edited = Edited::new(&file, key, &other);
    fleet.replace_daemon(B, plant).expect("start");
    captured(&fleet, B);
    let (code, json) = try_read(&fleet, B, &[back.path()]);
    assert!(code != 0 || !plant.is_empty(), "{json:#}");
    if plant.is_empty() {
        assert!(json.to_string().contains("the key of that site did not sign it"), "{json:#}");
    }
    lacks(&fleet, B, A) == 0
}

#[test]
fn nobody_speaks_for_another() {
    assert!(!forged_word_counts(""));
    assert!(forged_word_counts("bundle-signature"), "the test does not notice");
}

/// A part is cut short, and brought again whole. Whether B got everything.
fn cut_is_made_good(plant: &str) -> bool {
    let fleet = world(plant);
    let stick = Stick::new();
    write(&fleet, A, B, &stick);
    let file = &stick.files()[0];
    let bytes = fs::read(file).expect("read");
    fs::write(file, &bytes[..bytes.len() / 2]).expect("write");
    try_read(&fleet, B, &[stick.path()]);
    fs::write(file, bytes).expect("write");
    try_read(&fleet, B, &[stick.path()]);
    has_all(&fleet)
}

#[test]
fn a_cut_is_never_taken_for_the_end() {
    assert!(cut_is_made_good(""));
    assert!(!cut_is_made_good("bundle-truncation"), "the test does not notice");
}

/// Parts are brought in the wrong order, each once. Whether B got everything.
fn order_does_not_matter(plant: &str) -> bool {
    let fleet = world(plant);
    let stick = Stick::new();
    write_with(&fleet, A, B, &stick, &["--max-size", "128k"]);
    let files = stick.files();
    assert!(files.len() > 2, "{files:?}");
    for file in files.iter().rev() {
        try_read(&fleet, B, &[file]);
    }
    has_all(&fleet)
}

#[test]
fn what_came_too_early_is_kept() {
    assert!(order_does_not_matter(""));
    assert!(!order_does_not_matter("bundle-gap"), "the test does not notice");
}

/// B is killed while it reads, and reads again. Whether it got everything.
fn kill_is_made_good(plant: &str) -> bool {
    let mut fleet = world(&format!("unstored-part,{plant}"));
    let stick = Stick::new();
    write(&fleet, A, B, &stick);
    let words = ["bundle", "read", stick.text()];
    let command = fleet.member(B).command(&words).start();
    wait_hanging(&fleet, B);
    fleet.member(B).daemon().kill9();
    command.wait_exit(SOON);
    fleet.replace_daemon(B, "").expect("start");
    captured(&fleet, B);
    assert_eq!(list(&fleet, B).is_empty(), plant.is_empty());
    try_read(&fleet, B, &[stick.path()]);
    has_all(&fleet)
}

#[test]
fn nothing_counts_as_read_before_it_is_durable() {
    assert!(kill_is_made_good(""));
    assert!(!kill_is_made_good("bundle-early-note"), "the test does not notice");
}
