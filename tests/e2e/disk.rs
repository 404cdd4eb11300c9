//! Disks that are full, only read, refuse to keep what they were given, or give back something
//! else: the application goes on, nothing acknowledged is lost, nothing wrong is passed on.

mod damaged;
mod failing;
mod full;

use landfall_tests::fleet::{Builder, Fleet, SOON};
use landfall_tests::wait::wait_until;
use serde_json::Value as Json;

const SCHEMA: &str = "CREATE TABLE entry (id int PRIMARY KEY, body text);";
const TABLES: [&str; 1] = ["public.entry"];
const SHIP: &str = "ship";
const SHORE: &str = "shore";

fn pair() -> Builder {
    Fleet::new(SCHEMA, &TABLES).hub_with_database(SHORE).site(SHIP).link(SHIP, SHORE)
}

/// Rows whose 2 kB do not compress.
fn rows(first: u64, count: u64) -> String {
    let last = first + count - 1;
    format!(
        "INSERT INTO entry SELECT n, (SELECT string_agg(gen_random_uuid()::text, '') \
         FROM generate_series(1, 60) WHERE n >= 0) FROM generate_series({first}, {last}) n"
    )
}

fn status(fleet: &Fleet, member: &str) -> Json {
    fleet.member(member).status().expect("status")
}

fn text(status: &Json, pointer: &str) -> String {
    let value = status.pointer(pointer).and_then(Json::as_str);
    value.unwrap_or_default().to_owned()
}

fn number(status: &Json, pointer: &str) -> u64 {
    let value = status.pointer(pointer).and_then(Json::as_u64);
    value.unwrap_or_else(|| panic!("no {pointer} in {status:#}"))
}

/// Waits until the text at `pointer` has all of `parts`.
#[track_caller]
fn wait_for_text(fleet: &Fleet, member: &str, pointer: &str, parts: &[&str]) -> Json {
    wait_until(&format!("{pointer} of {member} to say {parts:?}"), SOON * 2, || {
        let status = fleet.member(member).status().map_err(|error| format!("{error:#}"))?;
        let found = text(&status, pointer);
        match parts.iter().all(|part| found.contains(part)) {
            true => Ok(status),
            false => Err(format!("{found:?} in {status:#}")),
        }
    })
}
