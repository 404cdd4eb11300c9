//! Changes travel as files: encrypted, signed, in any order, as often as one likes, by whomever, and
//! receipts come back the same way.

mod faults;
mod planted;

use std::fs;
use std::path::{Path, PathBuf};

use landfall_tests::fleet::{Builder, Fleet, SOON};
use landfall_tests::process::Finished;
use landfall_tests::scratch;
use serde_json::Value as Json;

use crate::support::{UNMET, assert_quiet, value, wait_value};

const A: &str = "ship-a";
const B: &str = "ship-b";
const C: &str = "shore";

const SCHEMA: &str = "CREATE TABLE bed (id int PRIMARY KEY, patient text, note text)";

/// Members that never have a link.
fn apart(members: &[&str]) -> Builder {
    // Small units, so that small parts hold some.
    let limits = "[limits]\nunit_bytes_max = 65536\n";
    let fleet = Fleet::new(SCHEMA, &["public.bed"]).unsynced().config(limits);
    members.iter().fold(fleet, |fleet, name| fleet.site(name))
}

/// A folder as of a stick.
struct Stick(PathBuf);

impl Stick {
    fn new() -> Self {
        Self(scratch::fresh_dir("stick").expect("a folder"))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }

    /// The files on it, in the order of their names.
    fn files(&self) -> Vec<PathBuf> {
        let entries =
            fs::read_dir(&self.0).expect("list").map(|entry| entry.expect("entry").path());
        let mut files: Vec<PathBuf> = entries.collect();
        files.sort();
        files
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        // Removed with everything else at the latest.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(fleet: &Fleet, member: &str, words: &[&str]) -> Finished {
    fleet.member(member).command(words).run(SOON * 2).expect("run")
}

/// Writes a bundle with more words, once what was committed is captured.
#[track_caller]
fn write_with(fleet: &Fleet, from: &str, to: &str, stick: &Stick, more: &[&str]) -> Json {
    captured(fleet, from);
    let mut words = vec!["bundle", "write", "--json", "--for", to, "--to", stick.text()];
    words.extend(more);
    serde_json::from_str(&run(fleet, from, &words).success()).expect("JSON")
}

#[track_caller]
fn write(fleet: &Fleet, from: &str, to: &str, stick: &Stick) -> Json {
    write_with(fleet, from, to, stick, &[])
}

/// Waits until all that is committed at a site is in its store.
#[track_caller]
fn captured(fleet: &Fleet, site: &str) {
    run(fleet, site, &["wait", "--for", "delivered", "--timeout", "30"]).success();
}

/// Reads files and folders; says how the command ended and what it printed.
#[track_caller]
fn try_read(fleet: &Fleet, at: &str, paths: &[&Path]) -> (i32, Json) {
    let mut words = vec!["bundle", "read", "--json"];
    words.extend(paths.iter().map(|path| path.to_str().expect("a plain path")));
    let done = run(fleet, at, &words);
    let code = done.status.code().expect("it ended by itself");
    let json = serde_json::from_str(&done.stdout);
    (code, json.unwrap_or_else(|_| panic!("{code}: {}{}", done.stdout, done.stderr)))
}

#[track_caller]
fn read(fleet: &Fleet, at: &str, stick: &Stick) -> Json {
    let (code, json) = try_read(fleet, at, &[stick.path()]);
    assert_eq!(code, 0, "{json:#}");
    json
}

/// The register, newest first.
#[track_caller]
fn list(fleet: &Fleet, at: &str) -> Vec<Json> {
    let told = run(fleet, at, &["bundle", "list", "--json"]).success();
    let list: Json = serde_json::from_str(&told).expect("JSON");
    list["bundles"].as_array().expect("a list").clone()
}

/// What one member believes that another one lacks.
#[track_caller]
fn lacks(fleet: &Fleet, at: &str, other: &str) -> u64 {
    let status = fleet.member(at).status().expect("status");
    let peers = status["peers"].as_array().expect("peers");
    let peer = peers.iter().find(|peer| peer["name"] == other).expect("the other");
    peer["unacknowledged_changes"].as_u64().expect("a number")
}

#[test]
fn two_sites_without_a_link_come_to_equal_rows() {
    let fleet = apart(&[A, B]).start();
    fleet.sql(A, "INSERT INTO bed SELECT n, 'a' || n FROM generate_series(1, 300) n");
    fleet.sql(B, "INSERT INTO bed SELECT n, 'b' || n FROM generate_series(200, 500) n");
    let (there, back) = (Stick::new(), Stick::new());
    let wrote = write(&fleet, A, B, &there);
    assert_eq!(wrote["parts"], 1, "{wrote:#}");
    assert!(lacks(&fleet, A, B) > 0, "nobody has told of a receipt");
    let got = read(&fleet, B, &there);
    assert_eq!((got["read"].as_u64(), got["failed"].as_u64()), (Some(1), Some(0)), "{got:#}");
    // What came with the first is not written again: B knows that A holds it.
    wait_value(&fleet, B, "SELECT count(*) FROM bed WHERE patient LIKE 'a%' AND id < 200", "199");
    fleet.sql(B, "UPDATE bed SET note = 'seen' WHERE id = 1");
    write(&fleet, B, A, &back);
    assert_eq!(list(&fleet, A)[0]["receipts"][0]["is_whole"], false);
    read(&fleet, A, &back);
    // The receipt came back with it.
    let listed = list(&fleet, A);
    assert_eq!(listed.len(), 2, "{listed:#?}");
    assert_eq!(listed[0]["way"], "read");
    assert_eq!(listed[1]["receipts"][0]["is_whole"], true, "{listed:#?}");
    assert_eq!(listed[1]["receipts"][0]["member"], B);
    assert_eq!(lacks(&fleet, A, B), 0);
    wait_value(&fleet, A, "SELECT note FROM bed WHERE id = 1", "seen");
    // Once more in each direction, for what each of them wrote while it merged.
    for (from, to) in [(A, B), (B, A), (A, B)] {
        let stick = Stick::new();
        write(&fleet, from, to, &stick);
        read(&fleet, to, &stick);
    }
    fleet.converge();
    assert_eq!(value(&fleet, A, "SELECT count(*) FROM bed"), "500");
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn parts_are_read_in_any_order_and_any_number_of_times() {
    let fleet = apart(&[A, B]).start();
    let stick = Stick::new();
    fill(&fleet, A, 10);
    let wrote = write_with(&fleet, A, B, &stick, &["--max-size", "128k"]);
    let parts = wrote["parts"].as_u64().expect("a number");
    assert!(parts >= 4, "{wrote:#}");
    let files = stick.files();
    assert!(files.iter().all(|file| fs::metadata(file).expect("look").len() <= 128 << 10));
    assert!(files[files.len() - 1].to_str().expect("plain").ends_with("-last.bundle"));
    // The last first; each one twice.
    for (index, file) in files.iter().enumerate().rev() {
        for _ in 0..2 {
            let (code, json) = try_read(&fleet, B, &[file]);
            assert_eq!(code, if index > 0 { UNMET } else { 0 }, "{json:#}");
            assert_eq!(json["waiting"], u64::from(index > 0), "{json:#}");
        }
        let waiting = fleet.member(B).status().expect("status")["bundles"]["parts_waiting"].clone();
        assert_eq!(waiting, if index > 0 { files.len() - index } else { 0 });
    }
    wait_value(
        &fleet,
        B,
        "SELECT count(*) FROM bed",
        &value(&fleet, A, "SELECT count(*) FROM bed"),
    );
    let entry = &list(&fleet, B)[0];
    assert_eq!((&entry["is_whole"], entry["parts"].as_u64()), (&Json::Bool(true), Some(parts)));
    // Read again from the beginning, it brings nothing.
    let again = read(&fleet, B, &stick);
    assert_eq!(again["units"], 0, "{again:#}");
    let words = ["bundle", "read", "--again", "--json", stick.text()];
    let again: Json = serde_json::from_str(&run(&fleet, B, &words).success()).expect("JSON");
    assert_eq!(again["units"], 0, "{again:#}");
    fleet.converge();
    assert_quiet(&fleet, &[A, B], &[]);
}

/// Some transactions of about 50 kB each that do not compress.
fn fill(fleet: &Fleet, site: &str, transactions: u32) {
    for number in 0..transactions {
        let sql = format!(
            "INSERT INTO bed SELECT {number} * 1000 + n, encode(sha512((n * {number} + n)::text::bytea), 'base64') \
             FROM generate_series(1, 500) n"
        );
        fleet.sql(site, &sql);
    }
}

#[test]
fn a_third_member_carries_what_is_not_its_own() {
    // The shore meets both ships, which never meet each other.
    let fleet = Fleet::new(SCHEMA, &["public.bed"]).unsynced().site(A).site(B).hub(C).start();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'Ada')");
    fleet.sql(B, "INSERT INTO bed VALUES (2, 'Bob')");
    let stick = Stick::new();
    write(&fleet, A, C, &stick);
    read(&fleet, C, &stick);
    let stick = Stick::new();
    let wrote = write(&fleet, C, "all", &stick);
    assert_eq!(wrote["recipients"], serde_json::json!([A, B]), "{wrote:#}");
    read(&fleet, B, &stick);
    wait_value(&fleet, B, "SELECT max(patient) FROM bed WHERE id = 1", "Ada");
    // For both: nothing of it is new to the other one.
    let known = read(&fleet, A, &stick);
    assert_eq!(known["units"], 0, "{known:#}");
    let stick = Stick::new();
    write(&fleet, B, C, &stick);
    read(&fleet, C, &stick);
    let stick = Stick::new();
    write(&fleet, C, A, &stick);
    read(&fleet, A, &stick);
    fleet.sql(A, "UPDATE bed SET note = 'last' WHERE id = 1");
    wait_value(&fleet, A, "SELECT max(patient) FROM bed WHERE id = 2", "Bob");
    for (from, to) in [(A, C), (C, B), (B, C), (C, A), (A, C), (C, B)] {
        let stick = Stick::new();
        write(&fleet, from, to, &stick);
        read(&fleet, to, &stick);
    }
    fleet.converge();
    assert_quiet(&fleet, &[A, B, C], &[]);
}

#[test]
fn nobody_but_the_recipient_reads_it() {
    let fleet = apart(&[A, B, C]).start();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'Ada Lovelace')");
    let stick = Stick::new();
    write(&fleet, A, B, &stick);
    let bytes = fs::read(&stick.files()[0]).expect("read");
    assert!(!bytes.windows(5).any(|window| window == b"Ada L"), "it is not encrypted");
    let (code, json) = try_read(&fleet, C, &[stick.path()]);
    assert_eq!(code, UNMET);
    assert!(json.to_string().contains("it is not for this member"), "{json:#}");
    assert_eq!(value(&fleet, C, "SELECT count(*) FROM bed"), "0");
    read(&fleet, B, &stick);
    wait_value(&fleet, B, "SELECT max(patient) FROM bed", "Ada Lovelace");
    assert_quiet(&fleet, &[A, B, C], &[]);
}

#[test]
fn a_receipt_by_a_link_counts_for_a_bundle_and_the_other_way_round() {
    let fleet = Fleet::new(SCHEMA, &["public.bed"]).site(A).site(B).link(A, B).unsynced().start();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'by link')");
    fleet.converge();
    fleet.link(A, B).cut();
    let stick = Stick::new();
    let wrote = write_with(&fleet, A, B, &stick, &[]);
    assert_eq!(wrote["units"], 0, "{wrote:#}");
    fleet.sql(A, "INSERT INTO bed VALUES (2, 'by stick')");
    captured_alone(&fleet, A, B, 1);
    let wrote: Json = serde_json::from_str(
        &run(&fleet, A, &["bundle", "write", "--json", "--for", B, "--to", stick.text()]).success(),
    )
    .expect("JSON");
    assert_eq!(wrote["units"], 1, "{wrote:#}");
    read(&fleet, B, &stick);
    wait_value(&fleet, B, "SELECT max(patient) FROM bed WHERE id = 2", "by stick");
    fleet.link(A, B).heal();
    fleet.converge();
    let receipts = list(&fleet, A)[0]["receipts"].clone();
    assert_eq!(receipts[0]["is_whole"], true, "{receipts:#}");
}

/// Waits until so many changes wait for a peer whose link is cut.
#[track_caller]
fn captured_alone(fleet: &Fleet, at: &str, other: &str, changes: u64) {
    landfall_tests::wait::wait_until("the change to be captured", SOON, || {
        let found = lacks(fleet, at, other);
        if found == changes { Ok(()) } else { Err(format!("{found}")) }
    });
}

#[test]
fn a_large_bundle_takes_little_memory() {
    let fleet = apart(&[A, B]).start();
    // About 100 MB that hardly compress, in rows of 100 kB.
    let hashes = "SELECT string_agg(encode(sha512((n * 2000 + m)::text::bytea), 'base64'), '') \
                  FROM generate_series(1, 1100) m";
    for from in (0..1200).step_by(100) {
        let rows = format!("SELECT n, ({hashes}) FROM generate_series({from} + 1, {from} + 100) n");
        fleet.sql(A, &format!("INSERT INTO bed {rows}"));
    }
    let stick = Stick::new();
    let wrote = write_with(&fleet, A, B, &stick, &["--max-size", "2g"]);
    assert!(wrote["bytes"].as_u64() > Some(60_000_000), "{wrote:#}");
    read(&fleet, B, &stick);
    let peaks = [A, B].map(|site| fleet.member(site).daemon().peak_memory_bytes() >> 20);
    assert!(peaks.iter().all(|peak| *peak < 128), "{peaks:?} MiB");
    wait_value(&fleet, B, "SELECT count(*) FROM bed", "1200");
    assert_quiet(&fleet, &[A, B], &[]);
}
