//! What happens to sticks, and to those that write and read them.

use std::fs;
use std::path::Path;

use landfall_tests::disk::{Kind, SmallDisk, may_mount};
use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::process::{Finished, Program};
use landfall_tests::scratch;
use landfall_tests::wait::wait_until;

use super::{A, B, Stick, apart, captured, fill, list, read, run, try_read, write, write_with};
use crate::support::{UNMET, UNREACHABLE, USAGE, assert_quiet, refused, value, wait_value};

const COUNT: &str = "SELECT count(*) FROM bed";

/// Site B shows as many rows as site A.
#[track_caller]
fn all_arrived(fleet: &Fleet) {
    wait_value(fleet, B, COUNT, &value(fleet, A, COUNT));
}

#[test]
fn bad_files_are_told_and_the_others_are_read() {
    let fleet = apart(&[A, B]).start();
    fill(&fleet, A, 16);
    let (stick, whole) = (Stick::new(), Stick::new());
    let wrote = write_with(&fleet, A, B, &stick, &["--max-size", "128k"]);
    let files = stick.files();
    assert!(files.len() >= 5, "{wrote:#}");
    for file in &files {
        fs::copy(file, whole.path().join(file.file_name().expect("a name"))).expect("copy");
    }
    // The second is cut, the third has a scratch, the fourth is lost.
    let bytes = fs::read(&files[1]).expect("read");
    fs::write(&files[1], &bytes[..bytes.len() / 2]).expect("write");
    let mut bytes = fs::read(&files[2]).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&files[2], bytes).expect("write");
    fs::remove_file(&files[3]).expect("remove");
    fs::write(stick.path().join("holiday.bundle"), "GIF89a").expect("write");
    let mut newer = fs::read(&files[0]).expect("read");
    newer[16] = 9;
    fs::write(stick.path().join("newer.bundle"), newer).expect("write");
    let (code, json) = try_read(&fleet, B, &[stick.path()]);
    assert_eq!(code, UNMET, "{json:#}");
    assert_eq!(json["read"], 1, "{json:#}");
    assert_eq!(json["failed"], 4, "{json:#}");
    assert_eq!(json["waiting"], wrote["parts"].as_u64().expect("a number") - 4, "{json:#}");
    let told = json.to_string();
    for part in ["cut short", "damaged at", "no part of a bundle", "format 9 is not known"] {
        assert!(told.contains(part), "{part}: {json:#}");
    }
    let status = run(&fleet, B, &["status"]).success();
    assert!(status.contains("parts of bundles wait for what comes before them: trans"), "{status}");
    let listed = &list(&fleet, B)[0];
    assert_eq!(listed["missing"], serde_json::json!([2, 3, 4]), "{listed:#}");
    // The same in good order.
    let rest = read(&fleet, B, &whole);
    assert_eq!((rest["failed"].as_u64(), rest["waiting"].as_u64()), (Some(0), Some(0)), "{rest:#}");
    all_arrived(&fleet);
    let status = fleet.member(B).status().expect("status");
    assert_eq!(status["bundles"]["parts_waiting"], 0, "{status:#}");
    assert_eq!(list(&fleet, B)[0]["is_whole"], true);
    fleet.converge();
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn a_part_that_waits_survives_a_restart_and_is_freed_by_another_bundle() {
    let mut fleet = apart(&[A, B]).start();
    fill(&fleet, A, 4);
    let lost = Stick::new();
    let first = write(&fleet, A, B, &lost);
    fleet.sql(A, "INSERT INTO bed VALUES (-1, 'later')");
    let stick = Stick::new();
    let id = first["bundle"].as_str().expect("an id").to_owned();
    write_with(&fleet, A, B, &stick, &["--since", &id]);
    let (code, json) = try_read(&fleet, B, &[stick.path()]);
    assert_eq!((code, json["waiting"].as_u64()), (UNMET, Some(1)), "{json:#}");
    fleet.member(B).daemon().kill9();
    fleet.launch(B).expect("starts");
    wait_until("the part to wait again", SOON, || {
        let status = fleet.member(B).status().map_err(|error| format!("{error:#}"))?;
        let waiting = &status["bundles"]["parts_waiting"];
        if *waiting == 1 { Ok(()) } else { Err(format!("{waiting}")) }
    });
    // The first one is lost for ever. What it brought is written anew.
    let again = Stick::new();
    write(&fleet, A, B, &again);
    read(&fleet, B, &again);
    all_arrived(&fleet);
    wait_until("the part to be read", SOON, || {
        let entry =
            list(&fleet, B).into_iter().find(|entry| entry["waiting"] != serde_json::json!([]));
        entry.map_or(Ok(()), |entry| Err(format!("{entry:#}")))
    });
    fleet.converge();
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn without_room_in_the_spool_nothing_is_kept_and_that_is_told() {
    let fleet = apart(&[A, B]).config("bundle_spool_bytes_max = 1000\n").start();
    fill(&fleet, A, 4);
    let stick = Stick::new();
    write_with(&fleet, A, B, &stick, &["--max-size", "128k"]);
    let files = stick.files();
    let (code, json) = try_read(&fleet, B, &[&files[1]]);
    assert_eq!((code, json["failed"].as_u64()), (UNMET, Some(1)), "{json:#}");
    assert!(json.to_string().contains("limits.bundle_spool_bytes_max is 1000"), "{json:#}");
    read(&fleet, B, &stick);
    all_arrived(&fleet);
    fleet.converge();
    assert_quiet(&fleet, &[A, B], &[]);
}

/// The command fails for want of room, tells how to go on, and leaves no half file.
#[track_caller]
fn ends_half_way(done: &Finished, dir: &Path, parts: &[&str]) {
    assert_eq!(done.status.code(), Some(UNMET), "{}{}", done.stdout, done.stderr);
    for part in ["run the same command again to go on here", "--resume "].iter().chain(parts) {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    let names = fs::read_dir(dir).expect("list").map(|entry| entry.expect("entry").file_name());
    let left: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    assert!(!left.iter().any(|name| name.ends_with("unfinished")), "{left:?}");
}

#[test]
fn a_full_stick_is_told_and_the_next_one_goes_on() {
    if !may_mount() {
        return;
    }
    let fleet = apart(&[A, B]).start();
    fill(&fleet, A, 10);
    captured(&fleet, A);
    let at = scratch::fresh_dir("full").expect("a folder").join("stick");
    let disk = SmallDisk::mount(&at, Kind::Memory(300 << 10)).expect("mount");
    let dir = at.to_str().expect("a plain path");
    let words = ["bundle", "write", "--for", B, "--to", dir, "--max-size", "128k"];
    let done = run(&fleet, A, &words);
    assert_eq!(done.status.code(), Some(UNMET));
    assert!(done.stderr.contains("are needed,"), "{}", done.stderr);
    let with_fill = [words.as_slice(), &["--fill"]].concat();
    let done = run(&fleet, A, &with_fill);
    ends_half_way(&done, &at, &["there is no room in", "2 parts with "]);
    // Two parts are on the first stick, the rest goes to another.
    let id = list(&fleet, A)[0]["bundle"].as_str().expect("an id").to_owned();
    let other = Stick::new();
    let wrote = write_with(&fleet, A, B, &other, &["--max-size", "128k", "--resume", &id]);
    assert_eq!((wrote["parts_before"].as_u64(), &wrote["bundle"]), (Some(2), &id.into()));
    let (code, json) = try_read(&fleet, B, &[other.path(), &at]);
    assert_eq!((code, json["failed"].as_u64()), (0, Some(0)), "{json:#}");
    assert_eq!(list(&fleet, B)[0]["is_whole"], true);
    all_arrived(&fleet);
    drop(disk);
    fleet.converge();
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn a_file_system_of_small_files_is_told_and_the_same_command_goes_on() {
    let fleet = apart(&[A, B]).start();
    fill(&fleet, A, 10);
    captured(&fleet, A);
    let stick = Stick::new();
    // What a file may take at most is set for the command; with the signal ignored it is an error.
    let script = "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"";
    let config = fleet.member(A).config_file().to_str().expect("a plain path");
    let binary = landfall_tests::process::bin_dir().expect("built").join("landfall-node");
    let binary = binary.to_str().expect("a plain path");
    let write = |limit: &str, max: &str| {
        let args = ["-c", script, "sh", limit, binary, "bundle", "write", "--for", B, "--to"];
        let rest = [stick.text(), "--max-size", max, "--config", config];
        Program::system("sh").args(args).args(rest).run(SOON).expect("run")
    };
    // Blocks of 512 bytes.
    let done = write("300", "1m");
    ends_half_way(&done, stick.path(), &["choose a smaller --max-size", "0 parts with"]);
    write("300", "128k").success();
    read(&fleet, B, &stick);
    all_arrived(&fleet);
    fleet.converge();
    assert_quiet(&fleet, &[A, B], &[]);
}

/// Waits until a daemon hangs where that is planted.
#[track_caller]
pub(super) fn wait_hanging(fleet: &Fleet, member: &str) {
    wait_until(&format!("{member} to hang"), SOON, || {
        let log = fleet.member(member).daemon().log();
        if log.contains("planted hang") { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_write_that_was_killed_goes_on_behind_what_is_there() {
    let mut fleet = apart(&[A, B]).start();
    fill(&fleet, A, 10);
    captured(&fleet, A);
    fleet.replace_daemon(A, "unnoted-part").expect("start");
    captured(&fleet, A);
    let stick = Stick::new();
    let words = ["bundle", "write", "--for", B, "--to", stick.text(), "--max-size", "128k"];
    let command = fleet.member(A).command(&words).start();
    wait_hanging(&fleet, A);
    // The second part has its name, and the register does not know it.
    assert_eq!(stick.files().len(), 2, "{:?}", stick.files());
    fleet.member(A).daemon().kill9();
    let exit = command.wait_exit(SOON);
    assert_eq!(exit.code(), Some(UNREACHABLE), "{}", command.log());
    fleet.replace_daemon(A, "").expect("start");
    let wrote = write_with(&fleet, A, B, &stick, &["--max-size", "128k"]);
    assert_eq!(wrote["parts_before"], 1, "{wrote:#}");
    read(&fleet, B, &stick);
    assert_eq!(list(&fleet, A)[0]["is_whole"], true);
    assert_eq!(list(&fleet, B)[0]["is_whole"], true);
    all_arrived(&fleet);
    // The other one lost all that it had, and what is there begins too late for it.
    fleet.sql(A, "INSERT INTO bed VALUES (-2, 'x')");
    captured(&fleet, A);
    fleet.replace_daemon(A, "unnoted-part").expect("start");
    captured(&fleet, A);
    let id = wrote["bundle"].as_str().expect("an id");
    fill_more(&fleet);
    let late = Stick::new();
    let since = ["--since", id, "--max-size", "128k"];
    let words = ["bundle", "write", "--for", B, "--to", late.text()];
    let command = fleet.member(A).command(&[&words[..], &since].concat()).start();
    wait_hanging(&fleet, A);
    fleet.member(A).daemon().kill9();
    command.wait_exit(SOON);
    fleet.replace_daemon(A, "").expect("start");
    let all = write_with(&fleet, A, B, &late, &["--max-size", "128k", "--all"]);
    assert_eq!(all["parts_before"], 0, "{all:#}");
    read(&fleet, B, &late);
    // The command itself is killed, in whose folder nothing was whole yet.
    fleet.sql(A, "INSERT INTO bed VALUES (-1, 'more')");
    let stick = Stick::new();
    fs::write(stick.path().join("landfall-ship-a-0-0001.bundle.unfinished"), "half")
        .expect("write");
    write(&fleet, A, B, &stick);
    assert_eq!(stick.files().len(), 1, "{:?}", stick.files());
    read(&fleet, B, &stick);
    fleet.converge();
    assert_quiet(&fleet, &[A, B], &[]);
}

/// Enough for two parts, with other keys than `fill`.
fn fill_more(fleet: &Fleet) {
    for number in 20..28 {
        let row = "encode(sha512((n * 7 + n)::text::bytea), 'base64')";
        let rows = format!("SELECT {number} * 1000 + n, {row} FROM generate_series(1, 500) n");
        fleet.sql(A, &format!("INSERT INTO bed {rows}"));
    }
    captured(fleet, A);
}

#[test]
fn a_read_that_was_killed_is_done_again() {
    let mut fleet = apart(&[A, B]).start();
    fill(&fleet, A, 4);
    let stick = Stick::new();
    write(&fleet, A, B, &stick);
    fleet.replace_daemon(B, "unstored-part").expect("start");
    captured(&fleet, B);
    let command = fleet.member(B).command(&["bundle", "read", stick.text()]).start();
    wait_hanging(&fleet, B);
    fleet.member(B).daemon().kill9();
    assert_eq!(command.wait_exit(SOON).code(), Some(UNREACHABLE), "{}", command.log());
    fleet.replace_daemon(B, "").expect("start");
    captured(&fleet, B);
    // Nothing was promised to anybody: no receipt is on record.
    assert!(list(&fleet, B).is_empty());
    read(&fleet, B, &stick);
    all_arrived(&fleet);
    fleet.converge();
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn commands_say_what_is_wrong_with_them() {
    let fleet = apart(&[A, B]).start();
    let stick = Stick::new();
    let to = stick.text();
    let says = |words: &[&str], code: i32, parts: &[&str]| {
        refused(&fleet, A, words, code, parts);
    };
    says(&["bundle", "write", "--for", B, "--to", "/nowhere"], USAGE, &["look at /nowhere"]);
    says(&["bundle", "read", to], USAGE, &["there are no files *.bundle"]);
    let begin = |more: &[&'static str]| {
        [&["bundle", "write", "--to", to], more].concat().iter().map(|w| w.to_string()).collect()
    };
    let says_begun = |more: &[&'static str], parts: &[&str]| {
        let words: Vec<String> = begin(more);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        says(&words, crate::support::OPERATOR, parts);
    };
    says_begun(&["--for", "nobody"], &["no member \"nobody\" is in our fleet file"]);
    says_begun(&["--for", A], &["is this member; a bundle is for others"]);
    says_begun(&["--for", B, "--max-size", "1k"], &["--max-size must be at least 65536"]);
    let id = "00".repeat(16);
    let done = run(&fleet, A, &["bundle", "write", "--to", to, "--for", B, "--since", &id]);
    assert!(done.stderr.contains("was not written here"), "{}", done.stderr);
    assert!(stick.files().is_empty());
    fleet.member(A).daemon().kill9();
    says(&["bundle", "list"], UNREACHABLE, &["no daemon is running"]);
}
