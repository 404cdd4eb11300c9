//! A database or a store that is not what it was is noticed before anything is captured, sent or
//! applied, and crashes are not taken for that.

mod database;
mod publication;
mod slots;
mod store;

use std::fs;

use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::{DB, Fleet};

use crate::support::{stop, value, wait_for_status};

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

/// What docs/operations.md says under "Rebuilding a site", step by step.
fn rebuild(fleet: &mut Fleet, site: &str) {
    rebuild_with(fleet, site, |fleet| uninstall(fleet.member(site).cluster(), site));
}

fn rebuild_with(fleet: &mut Fleet, site: &str, uninstall: impl Fn(&Fleet)) {
    stop(fleet, site);
    let data = fleet.member(site).data_dir();
    let old = data.with_file_name("data.old");
    fs::rename(&data, &old).expect("move the store away");
    uninstall(fleet);
    fleet.join(site);
    fs::remove_dir_all(old).expect("remove the old store");
}

fn uninstall(cluster: &Cluster, site: &str) {
    let slot = format!("landfall_{}", site.replace('-', "_"));
    let drop_slot = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
         WHERE slot_name = '{slot}'"
    );
    cluster.sql(DB, &drop_slot);
    cluster.sql(DB, "DROP PUBLICATION IF EXISTS landfall");
    for table in TABLES {
        cluster.sql(
            DB,
            &format!(
                "ALTER TABLE {table} REPLICA IDENTITY DEFAULT; \
                 DROP TRIGGER landfall_refuse_truncate ON {table}; TRUNCATE {table}"
            ),
        );
    }
    cluster.sql(DB, "DROP SCHEMA landfall CASCADE");
}

/// Waits until the member stands still for this reason.
#[track_caller]
fn wait_for_why(fleet: &Fleet, site: &str, state: &str, why: &str) {
    wait_for_status(fleet, site, "/why", why);
    wait_for_status(fleet, site, "/state", state);
}
