//! A member in the middle keeps everybody's changes and passes them on, also when their origin is
//! gone for good.

use std::time::Duration;

use landfall_tests::fleet::{Builder, Fleet};

use crate::support::{assert_quiet, value, wait};

const SCHEMA: &str = "CREATE TABLE bed (id int PRIMARY KEY, patient text, ward text)";

/// `ship-a`, `ship-b` and, later, `ship-c`, who all call only the relay in the middle.
fn around(relay: impl FnOnce(Builder, &str) -> Builder) -> Fleet {
    relay(Fleet::new(SCHEMA, &["public.bed"]), "relay")
        .site("ship-a")
        .site("ship-b")
        .site("ship-c")
        .link("ship-a", "relay")
        .link("ship-b", "relay")
        .link("ship-c", "relay")
        .later("ship-c")
        .unsynced()
        .start()
}

#[test]
fn two_sites_that_never_meet_converge_through_a_hub() {
    let mut fleet = around(Builder::hub);
    never_meets_the_origin(&mut fleet);
}

#[test]
fn a_hub_with_a_database_relays_and_is_a_member_like_any_other() {
    let mut fleet = around(Builder::hub_with_database);
    fleet.sql("relay", "INSERT INTO bed SELECT n, 'of the hub' FROM generate_series(900, 909) n");
    never_meets_the_origin(&mut fleet);
    assert_eq!(value(&fleet, "ship-c", "SELECT count(*) FROM bed WHERE id >= 900"), "10");

    fleet.link("ship-c", "relay").cut();
    fleet.sql("relay", "UPDATE bed SET patient = 'changed ashore' WHERE id >= 900");
    fleet.sql("ship-c", "UPDATE bed SET ward = 'changed at sea' WHERE id >= 900");
    fleet.link("ship-c", "relay").heal();
    fleet.converge();
    let both = "SELECT count(*) FROM bed WHERE id >= 900 AND (patient, ward) = \
                ('changed ashore', 'changed at sea')";
    assert_eq!(value(&fleet, "ship-b", both), "10");
    assert_quiet(&fleet, &["relay", "ship-b", "ship-c"], &[]);
}

#[test]
fn any_site_relays() {
    let mut fleet = around(Builder::site);
    never_meets_the_origin(&mut fleet);
}

/// `ship-a` writes, delivers to the relay, and is never heard of again. `ship-b`, which was away
/// then, and `ship-c`, which did not exist yet, get everything from the relay, which is killed and
/// started again between the two.
fn never_meets_the_origin(fleet: &mut Fleet) {
    fleet.sql("ship-a", "INSERT INTO bed VALUES (0, 'seen by b', '1')");
    fleet.converge();
    fleet.link("ship-b", "relay").cut();
    for id in 1..=50 {
        fleet.sql("ship-a", &format!("INSERT INTO bed VALUES ({id}, 'a', '1')"));
    }
    fleet.sql(
        "ship-a",
        "INSERT INTO bed SELECT n, repeat('long ', 20), '2' FROM generate_series(51, 800) n; \
         UPDATE bed SET ward = '3' WHERE id = 0; DELETE FROM bed WHERE id = 1",
    );
    fleet.sql("ship-b", "UPDATE bed SET patient = 'changed at b' WHERE id = 0");
    wait(fleet, "ship-a", "delivered");
    fleet.link("ship-a", "relay").cut();
    fleet.member("ship-a").daemon().kill9();

    fleet.link("ship-b", "relay").heal();
    fleet.converge();
    let first = "SELECT patient || '/' || ward FROM bed WHERE id = 0";
    assert_eq!(value(fleet, "ship-b", first), "changed at b/3");
    assert_eq!(value(fleet, "ship-b", "SELECT count(*) FROM bed WHERE id < 900"), "800");

    fleet.sql("ship-b", "UPDATE bed SET patient = 'by b' WHERE ward = '2' AND id % 2 = 0");
    wait(fleet, "ship-b", "delivered");
    fleet.member("relay").daemon().kill9();
    fleet.launch("relay").expect("the relay starts again");
    fleet.join("ship-c");
    fleet.converge_within(Duration::from_secs(60));
    assert_eq!(value(fleet, "ship-c", "SELECT count(*) FROM bed WHERE id < 900"), "800");
    assert_eq!(value(fleet, "ship-c", "SELECT count(*) FROM bed WHERE patient = 'by b'"), "375");
    assert_quiet(fleet, &["relay", "ship-b", "ship-c"], &[]);
}
