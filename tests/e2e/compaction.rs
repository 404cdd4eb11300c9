//! What is overwritten while nobody is linked does not travel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use landfall_tests::fleet::{CONVERGE, DB, Fleet, SOON};
use landfall_tests::session::Row;
use landfall_tests::wait::wait_until;

use crate::support::{assert_quiet, value};

const A: &str = "ship-a";
const B: &str = "ship-b";

const SCHEMA: &str = "
CREATE TABLE bed (id int PRIMARY KEY, note text, pulse int, used int, code text UNIQUE);
INSERT INTO bed SELECT n, 'note ' || n, 0, 0, 'code ' || n FROM generate_series(1, 20) n;";

/// A transaction for each turn of a loop.
fn each(turns: usize, statement: &str) -> String {
    format!("DO $$ BEGIN FOR i IN 1..{turns} LOOP {statement}; COMMIT; END LOOP; END $$")
}

#[test]
fn a_row_that_was_updated_ten_thousand_times_crosses_once() {
    let rules = "[[table]]\nname = \"public.bed\"\ncolumns = { used = \"counter\" }\n";
    let mut fleet = Fleet::new(SCHEMA, &["public.bed"])
        .site(A)
        .site(B)
        .link(A, B)
        .rules(rules)
        .later(B)
        .unsynced()
        .start();
    fleet.sql(A, &each(10_000, "UPDATE bed SET pulse = i, used = used + 1 WHERE id = 7"));
    fleet.sql(A, "UPDATE bed SET note = 'last' WHERE id = 7");
    fleet.join(B);
    fleet.converge();
    let row = "SELECT note || ' ' || pulse || ' ' || used FROM bed WHERE id = 7";
    assert_eq!(value(&fleet, B, row), "last 10000 10000");
    let (there, back) = fleet.link(A, B).bytes();
    assert!(there + back < 40_000, "{there} and {back} bytes crossed");
    let fates = fleet.member(B).status().expect("status")["fates"].clone();
    let received = fates["received"].as_u64().expect("a number");
    assert!(received < 100, "{received} changes were received");
    // While there is a link, everything travels as it is written.
    fleet.sql(A, &each(50, "UPDATE bed SET pulse = -i WHERE id = 7"));
    fleet.converge();
    assert_eq!(value(&fleet, B, row), "last -50 10000");
    assert_quiet(&fleet, &[A, B], &[]);
}

/// What is left of two thousand transactions cannot be shown as it is at the other site, and is not shown in
/// parts either.
#[test]
fn what_is_compacted_becomes_visible_together_also_where_rows_clash() {
    let mut fleet =
        Fleet::new(SCHEMA, &["public.bed"]).site(A).site(B).link(A, B).unsynced().start();
    fleet.member(B).daemon().terminate();
    fleet.member(B).daemon().wait_exit(SOON);
    wait_until("the link to be gone", SOON, || {
        let status = fleet.member(A).status().map_err(|error| format!("{error:#}"))?;
        let state = status["peers"][0]["state"].clone();
        if state == "waiting" { Ok(()) } else { Err(state.to_string()) }
    });
    fleet.sql(B, "UPDATE bed SET code = 'taken' WHERE id = 19");
    fleet.sql(A, &each(2_000, "UPDATE bed SET pulse = i WHERE id % 2 = i % 2"));
    fleet.sql(A, "UPDATE bed SET code = 'taken', note = 'clash' WHERE id = 4");
    wait_until("everything to be captured", SOON, || {
        let status = fleet.member(A).status().map_err(|error| format!("{error:#}"))?;
        let own = status["vector"].as_array().into_iter().flatten().find(|own| own["name"] == A);
        let folded = own.map(|own| own["applied"].clone());
        if folded == Some(2_001.into()) { Ok(()) } else { Err(format!("{folded:?}")) }
    });
    let session = fleet.member(B).cluster().session(DB).expect("connect");
    let over = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen: Vec<Vec<Row>> = Vec::new();
            loop {
                let is_last = over.load(Ordering::Relaxed);
                let pulses = "SELECT min(pulse), max(pulse) FROM bed WHERE id <> 4";
                let found = session.rows(pulses).expect("read");
                if seen.last() != Some(&found) {
                    seen.push(found);
                }
                if is_last {
                    return seen;
                }
            }
        });
        let up = fleet.launch(B);
        let converged = up.and_then(|()| fleet.try_converge(CONVERGE));
        over.store(true, Ordering::Relaxed);
        converged.expect("equal rows");
        reader.join().expect("the reader")
    });
    let pulses =
        |least: &str, most: &str| vec![vec![Some(least.to_owned()), Some(most.to_owned())]];
    assert_eq!(seen, [pulses("0", "0"), pulses("1999", "2000")]);
    for site in [A, B] {
        assert_eq!(value(&fleet, site, "SELECT row_key FROM landfall.aside"), "4", "at {site}");
    }
}
