//! `cargo xtask demo`: two ships and the region ashore write through a partition and reconcile.

use std::time::{Duration, Instant};

use landfall_tests::compare;
use landfall_tests::fleet::{DB, Fleet};

use crate::{cargo, postgres};

const SCHEMA: &str = "\
CREATE TABLE patient (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    bed text,
    diagnosis text,
    allergies text,
    updated_at timestamptz
);
CREATE TABLE stock (item text PRIMARY KEY, location text, quantity integer);";
const SHIPS: [&str; 2] = ["ship-a", "ship-b"];
const SITES: [&str; 3] = ["ship-a", "ship-b", "shore"];

/// Runs the whole demonstration; fails when the sites differ at its end.
pub(crate) fn run() -> anyhow::Result<()> {
    let began = cargo::now();
    let bin = postgres::ensure()?;
    println!("PostgreSQL {} in {}", bin.version, bin.dir.display());
    cargo::build_daemons()?;

    let mut fleet = start()?;
    let rows = fleet.converge();
    println!("The ships sync through the hub; everybody starts from the same {rows} rows:");
    show(&fleet, &["shore"])?;

    heading("The links go down, and everybody goes on writing");
    for ship in SHIPS {
        fleet.link(ship, "shore").cut();
    }
    let bytes_before = bytes(&fleet);
    write_apart(&fleet);
    println!(
        "ship-a and ship-b wrote different columns of patient 1, the same column of patient 2;"
    );
    println!("ship-a deleted patient 3 while ship-b updated it; both inserted new rows.\n");
    show(&fleet, &SITES)?;

    heading("landfall-node on ship-a is killed with kill -9; ship-a writes; it starts again");
    fleet.member("ship-a").daemon().kill9();
    fleet.sql("ship-a", "UPDATE stock SET quantity = 11 WHERE item = 'saline'");
    fleet.launch("ship-a")?;
    println!(
        "{}",
        fleet.member("ship-a").command(&["status"]).run(Duration::from_secs(30))?.stdout
    );

    heading("The links come back");
    let healed = now();
    for ship in SHIPS {
        fleet.link(ship, "shore").heal();
    }
    let rows = fleet.converge();
    let took = healed.elapsed();
    show(&fleet, &["ship-a"])?;
    show_conflicts(&fleet);

    heading("Result");
    println!("All three databases are equal by SQL: {rows} rows compared at each site.");
    println!("Healing took {:.1} s, most of it until the next dial.", took.as_secs_f64());
    let travelled = bytes(&fleet) - bytes_before;
    println!("{travelled} bytes were sent since the cut, on both links, dialling included.");
    println!("The whole demonstration took {}.", cargo::seconds(began));
    Ok(())
}

fn start() -> anyhow::Result<Fleet> {
    heading("Three throw-away clusters: two landfall-node, one landfall-hub with its own database");
    let fleet = Fleet::new(SCHEMA, &["public.patient", "public.stock"])
        .hub_with_database("shore")
        .site("ship-a")
        .site("ship-b")
        .link("ship-a", "shore")
        .link("ship-b", "shore")
        .try_start()?;
    fleet.sql(
        "ship-a",
        "INSERT INTO patient VALUES \
         (1, 'Ada Byron', '3A', 'fracture', NULL, '2026-01-01 08:00Z'), \
         (2, 'Grace Hopper', '3B', 'asthma', 'latex', '2026-01-01 08:00Z'), \
         (3, 'Mary Seacole', '4A', 'fever', NULL, '2026-01-01 08:00Z')",
    );
    fleet.sql(
        "ship-b",
        "INSERT INTO stock VALUES ('bandage', 'bay 1', 40), ('saline', 'bay 2', 12)",
    );
    Ok(fleet)
}

fn show_conflicts(fleet: &Fleet) {
    println!("What had to give way is kept in landfall.conflict (here: on the shore):");
    let columns = ["table", "row", "column", "rule", "loser", "value"].map(str::to_owned);
    let conflicts = fleet.rows(
        "shore",
        "SELECT table_name, row_key, column_name, rule, loser_origin, loser_value \
         FROM landfall.conflict ORDER BY 1, 2, 3",
    );
    println!("{}", compare::boxed(&columns, conflicts.iter()));
}

fn write_apart(fleet: &Fleet) {
    let a = [
        "UPDATE patient SET bed = '5C', updated_at = '2026-01-02 09:00Z' WHERE id = 1",
        "UPDATE patient SET diagnosis = 'asthma, stable' WHERE id = 2",
        "DELETE FROM patient WHERE id = 3",
        "INSERT INTO patient VALUES (4, 'Elizabeth Blackwell', '4B', 'sprain', NULL, NULL)",
        "UPDATE stock SET location = 'bay 7' WHERE item = 'bandage'",
    ];
    let b = [
        "UPDATE patient SET allergies = 'penicillin' WHERE id = 1",
        "UPDATE patient SET diagnosis = 'asthma, acute' WHERE id = 2",
        "UPDATE patient SET bed = '6A' WHERE id = 3",
        "INSERT INTO patient VALUES (5, 'Rosalind Franklin', '5A', 'burn', NULL, NULL)",
        "UPDATE stock SET quantity = 35 WHERE item = 'bandage'",
    ];
    for (for_a, for_b) in a.into_iter().zip(b) {
        fleet.sql("ship-a", for_a);
        fleet.sql("ship-b", for_b);
    }
    fleet.sql("shore", "INSERT INTO stock VALUES ('plaster', 'depot', 500)");
}

fn show(fleet: &Fleet, sites: &[&str]) -> anyhow::Result<()> {
    for site in sites {
        for table in ["public.patient", "public.stock"] {
            println!("{site}: {table}");
            println!("{}", compare::rows(fleet.member(site).cluster(), DB, table)?);
        }
    }
    Ok(())
}

fn bytes(fleet: &Fleet) -> u64 {
    fleet.links().map(|link| link.bytes()).map(|(up, down)| up + down).sum()
}

fn heading(text: &str) {
    println!("\n== {text} ==\n");
}

#[expect(clippy::disallowed_methods, reason = "a developer's command may look at the clock")]
fn now() -> Instant {
    Instant::now()
}
