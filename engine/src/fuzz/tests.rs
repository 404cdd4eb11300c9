//! Every seed, every input kept because it once broke something, and changes to both, with memory
//! measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::dice::Dice;
use super::*;

/// Changed inputs per target; `cargo xtask fuzz` makes as many as there is time for.
const ROUNDS: usize = 1_500;
/// What the slow ones do in the same time.
const ROUNDS_SLOW: usize = 200;

/// The kept inputs of a target by file name.
fn kept(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target.name);
    let listed = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    listed
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
        })
        .collect()
}

/// Runs one input and measures it; says what the input was if it fails.
fn run(target: &Target, what: &str, input: &[u8]) {
    let told = Told { target: target.name, what, input };
    let used = allocation_counter::measure(|| (target.check)(input));
    let most = target.heap_bytes_max(input.len());
    let used = used.bytes_max as usize;
    assert!(used <= most, "{} bytes took {used} in memory, allowed are {most}", input.len());
    drop(told);
}

/// Tells of an input when its check panics.
struct Told<'a> {
    target: &'a str,
    what: &'a str,
    input: &'a [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{}, {}: {hex}", self.target, self.what);
        }
    }
}

fn check(name: &str) {
    let target = find(name).unwrap();
    let kept = kept(target);
    assert!(!kept.is_empty(), "{name} has no seeds: cargo xtask fuzz --write-seeds");
    for (file, input) in &kept {
        run(target, file, input);
    }
    let mut seeds = seeds::of(name);
    for (place, input) in seeds.iter().enumerate() {
        run(target, &format!("seed {place}"), input);
        for cut in (0..input.len()).step_by(input.len() / 40 + 1) {
            run(target, &format!("seed {place} cut at {cut}"), &input[..cut]);
        }
    }
    seeds.extend(kept.into_values());
    let slow = ["store", "spill", "capture", "walsender", "unit", "login", "unit-content"];
    let rounds = if slow.contains(&name) { ROUNDS_SLOW } else { ROUNDS };
    for seed in 0..rounds as u64 {
        let input = Dice::new(seed).input(target, &seeds);
        run(target, &format!("dice {seed}"), &input);
    }
    run(target, "noise", &Dice::new(1).input(target, &[]));
}

#[test]
fn every_target_has_a_name_of_its_own_and_a_test_here() {
    let mut names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TARGETS.len());
    let tests = include_str!("tests.rs");
    for name in names {
        assert!(tests.contains(&format!("check(\"{name}\")")), "{name} has no test");
    }
}

#[test]
fn messages_from_a_peer() {
    check("control");
    check("unit-stream-head");
    check("frames");
    check("session");
}

#[test]
fn units_from_a_peer() {
    check("unit");
    check("unit-content");
    check("columns");
    check("zstd");
}

/// What takes the most memory for its length: cells without a value, and changes without a cell.
/// All of one row, which is noticed in the end.
#[test]
fn content_takes_a_small_multiple_of_its_length_in_memory() {
    let target = find("unit-content").unwrap();
    let spine = [0, 0];
    let input = |changes: u16, change: &[u8]| {
        let mut count = landfall_protocol::codec::Writer::new();
        count.varint(changes.into());
        let head = [&[0, 1, 2][..], &changes.to_be_bytes(), &spine, &[0], &count.into_bytes()];
        [head.concat(), change.repeat(changes.into())].concat()
    };
    // Table 1, update; an empty key; then cells.
    let cells = [&[1, 1, 0, 0x80, 0x20][..], &[1, 0].repeat(4096)].concat();
    for (what, input) in [
        ("changes", input(u16::MAX, &[1, 1, 0, 0])),
        ("cells", input(100, &cells)),
        (
            "values of a key",
            input(1, &[&[1, 1, 0x80, 0x80, 0x10][..], &[0; 1 << 18], &[0]].concat()),
        ),
    ] {
        run(target, what, &input);
    }
}

#[test]
fn files_from_anywhere() {
    check("bundle");
    check("bundle-body");
}

#[test]
fn messages_from_postgresql() {
    check("pgoutput");
    check("capture");
    check("marker");
}

#[test]
fn packets_from_a_server() {
    check("walsender");
    check("login");
}

#[test]
fn values_and_clocks() {
    check("value");
    check("row-clock");
    check("merged");
}

#[test]
fn files_of_ours() {
    check("store");
    check("spill");
}

#[test]
fn files_of_an_operator() {
    check("config");
    check("texts");
}
