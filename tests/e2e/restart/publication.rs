//! The publication is changed by hand.

use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::wait::wait_until;

use super::{A, B, SCHEMA, TABLES, insert, pair, wait_for_why};
use crate::support::{assert_quiet, launch, stop};

/// What somebody may do to it, and what the status says then.
const CHANGES: [(&str, &str); 7] = [
    ("SET (publish = 'insert')", "does not publish updates"),
    ("SET (publish = 'update, delete')", "does not publish inserts"),
    ("SET (publish_via_partition_root = false)", "publishes partitions instead of their tables"),
    ("DROP TABLE sofa", "does not have table public.sofa"),
    ("SET TABLE bed, sofa WHERE (id > 10)", "has only some rows of table public.sofa"),
    ("SET TABLE bed, sofa (id)", "has only some columns of table public.sofa"),
    ("SET TABLE private", "does not have table public.bed"),
];

#[test]
fn a_publication_that_was_changed_is_told_at_the_start() {
    let mut fleet = pair();
    stop(&fleet, A);
    for (change, told) in CHANGES {
        fleet.sql(A, &format!("ALTER PUBLICATION landfall {change}"));
        launch(&mut fleet, A);
        wait_for_why(&fleet, A, "operator", told);
        stop(&fleet, A);
        fleet.member(A).init().expect("init puts it right");
    }
    // More than the fleet replicates is no loss.
    fleet.sql(A, "ALTER PUBLICATION landfall ADD TABLE private");
    launch(&mut fleet, A);
    insert(&fleet, A, 1);
    assert_eq!(fleet.converge(), 1);
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn a_publication_that_is_changed_is_told_while_the_daemon_runs() {
    // One site for each change: each may take as long as the guard looks away.
    let sites = ["s0", "s1", "s2", "s3"];
    let empty = Fleet::new(SCHEMA, &TABLES).hub(B).unsynced();
    let fleet = sites.iter().fold(empty, |fleet, site| fleet.site(site).link(site, B)).start();
    let changes = [CHANGES[0], CHANGES[3], CHANGES[4], CHANGES[6]];
    for (id, (site, (change, _))) in (1..).zip(sites.iter().zip(changes)) {
        insert(&fleet, site, id);
        fleet.sql(site, &format!("ALTER PUBLICATION landfall {change}"));
    }
    for (site, (_, told)) in sites.iter().zip(changes) {
        wait_for_why(&fleet, site, "operator", told);
    }
    fleet.member(sites[1]).init().expect("init puts it right");
    fleet.sql(sites[1], "INSERT INTO sofa VALUES (1, 'captured again')");
    wait_until("capture to go on", SOON, || {
        let status = fleet.member(sites[1]).status().map_err(|error| format!("{error:#}"))?;
        if status["own_seq"] == 2 { Ok(()) } else { Err(format!("{status:#}")) }
    });
    // What is applied to a table that is not published does not come back through the WAL.
    fleet.assert_quiet(&["rewrote rows that did not show what their clocks say"]);
}
