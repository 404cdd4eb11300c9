//! What several tests ask a fleet.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_tests::fleet::{DB, Fleet, SOON};
use landfall_tests::wait::wait_until;

/// Fails when a daemon of these members wrote a WARN or an ERROR that holds none of `expected`.
#[track_caller]
pub(crate) fn assert_quiet(fleet: &Fleet, members: &[&str], expected: &[&str]) {
    for member in members {
        let alarms = fleet.member(member).daemon().alarms(expected);
        assert!(alarms.is_empty(), "{member} raised alarms:\n{}", alarms.join("\n"));
    }
}

/// The one value a query returns at a site; NULL reads as `NULL`.
#[track_caller]
pub(crate) fn value(fleet: &Fleet, site: &str, sql: &str) -> String {
    fleet.member(site).cluster().query_value(DB, sql).unwrap_or_else(|| "NULL".to_owned())
}

/// In which what is parked or put aside comes back: the catalog is looked at every five seconds.
pub(crate) const FREED: Duration = Duration::from_secs(20);

/// Waits until a query returns this one value at a site.
#[track_caller]
pub(crate) fn wait_value(fleet: &Fleet, site: &str, sql: &str, expected: &str) {
    wait_until(&format!("{site} to answer {expected:?} to {sql}"), FREED, || {
        let found = value(fleet, site, sql);
        if found == expected { Ok(()) } else { Err(found) }
    });
}

/// Everything `landfall.conflict` holds at a site, sorted, without times and incarnations:
/// `row/column rule loser=<site number> value`.
pub(crate) fn conflicts(fleet: &Fleet, site: &str) -> Vec<String> {
    let sql = "SELECT format('%s/%s %s loser=%s %s', row_key, coalesce(column_name, '*'), rule, \
               split_part(loser_origin, '.', 1), coalesce(loser_value, 'NULL')) \
               FROM landfall.conflict ORDER BY 1";
    fleet.rows(site, sql).into_iter().flatten().flatten().collect()
}

/// Waits with `landfall-node wait` until what was committed at a site got somewhere.
#[track_caller]
pub(crate) fn wait(fleet: &Fleet, site: &str, goal: &str) {
    let words = ["wait", "--for", goal, "--timeout", "30"];
    fleet.member(site).command(&words).run(SOON * 2).expect("run wait").success();
}

// As in `landfall-node --help`.
pub(crate) const UNMET: i32 = 1;
pub(crate) const USAGE: i32 = 2;
pub(crate) const OPERATOR: i32 = 3;
pub(crate) const UNREACHABLE: i32 = 4;

/// A file that is changed for a while and then is again what it was.
pub(crate) struct Edited {
    path: PathBuf,
    before: String,
}

impl Edited {
    pub(crate) fn new(path: &Path, from: &str, to: &str) -> Self {
        let before = fs::read_to_string(path).expect("read");
        let after = before.replace(from, to);
        assert!(before != after || from == to, "{from:?} is not in {}", path.display());
        fs::write(path, after).expect("write");
        Self { path: path.to_owned(), before }
    }
}

impl Drop for Edited {
    fn drop(&mut self) {
        fs::write(&self.path, &self.before).expect("write");
    }
}

pub(crate) fn config(fleet: &Fleet, member: &str) -> PathBuf {
    fleet.member(member).config_file().to_owned()
}

pub(crate) fn fleet_file(fleet: &Fleet, member: &str) -> PathBuf {
    fleet.member(member).config_file().with_file_name("fleet.toml")
}

/// The command ends by itself with this code and one sentence that has all of `parts`.
#[track_caller]
pub(crate) fn refused(
    fleet: &Fleet,
    member: &str,
    words: &[&str],
    code: i32,
    parts: &[&str],
) -> String {
    let done = fleet.member(member).command(words).run(SOON).expect("run");
    // What the daemon logs has a level; what is left is the sentence.
    let logged = |line: &&str| line.contains(" INFO ") || line.contains(" WARN ");
    let lines: Vec<&str> = done.stderr.lines().filter(|line| !logged(line)).collect();
    let told = format!("{words:?} said {:?} and ended with {}", done.stderr, done.status);
    assert_eq!(done.status.code(), Some(code), "{told}");
    assert_eq!(lines.len(), 1, "not one sentence: {told}");
    assert!(lines[0].starts_with("landfall-"), "{told}");
    for part in parts {
        assert!(lines[0].contains(part), "{part:?} is missing: {told}");
    }
    lines[0].to_owned()
}

/// Ends a daemon in good order.
#[track_caller]
pub(crate) fn stop(fleet: &Fleet, member: &str) {
    let daemon = fleet.member(member).daemon();
    daemon.terminate();
    assert!(daemon.wait_exit(SOON).success(), "{member} did not end well");
}

pub(crate) fn launch(fleet: &mut Fleet, member: &str) {
    fleet.launch(member).expect("starts");
}

/// Waits until the status of `member` has `text` at this place.
#[track_caller]
pub(crate) fn wait_for_status(fleet: &Fleet, member: &str, pointer: &str, text: &str) {
    wait_until(&format!("{member} to tell {text:?}"), SOON, || {
        let status = fleet.member(member).status().map_err(|error| format!("{error:#}"))?;
        let found = status.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_default();
        if found.contains(text) { Ok(()) } else { Err(format!("{found:?} in {status:#}")) }
    });
}
