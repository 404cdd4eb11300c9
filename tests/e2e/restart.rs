//! A database or a store that is not what it was is noticed before anything is captured, sent or
//! applied, and crashes are not taken for that.

mod database;
mod publication;
mod slots;
mod store;

use landfall_tests::fleet::Fleet;

use crate::support::{value, wait_for_status};

const A: &str = "ship-a";
const B: &str = "ship-b";
const SCHEMA: &str = "\
CREATE TABLE bed (id int PRIMARY KEY, patient text);
CREATE TABLE sofa (id int PRIMARY KEY, guest text);
CREATE TABLE private (note text);";
const TABLES: [&str; 2] = ["public.bed", "public.sofa"];

fn pair() -> Fleet {
    Fleet::new(SCHEMA, &TABLES).site(A).site(B).link(A, B).unsynced().start()
}

fn insert(fleet: &Fleet, site: &str, id: u32) {
    fleet.sql(site, &format!("INSERT INTO bed VALUES ({id}, '{site}')"));
}

fn beds(fleet: &Fleet, site: &str) -> String {
    value(fleet, site, "SELECT coalesce(string_agg(id::text, ',' ORDER BY id), '') FROM bed")
}

fn token(fleet: &Fleet, site: &str) -> String {
    value(fleet, site, "SELECT coalesce((SELECT value FROM landfall.meta WHERE key = 'token'), '')")
}

fn own_seq(fleet: &Fleet, site: &str) -> u64 {
    fleet.member(site).status().expect("status")["own_seq"].as_u64().expect("a number")
}

/// Writes more log than any test takes back, so that positions alone show nothing.
fn overtake(fleet: &Fleet, site: &str) {
    fleet.sql(site, "INSERT INTO private SELECT repeat('x', 1000) FROM generate_series(1, 3000)");
}

/// Waits until the member stands still for this reason.
#[track_caller]
fn wait_for_why(fleet: &Fleet, site: &str, state: &str, why: &str) {
    wait_for_status(fleet, site, "/why", why);
    wait_for_status(fleet, site, "/state", state);
}
