//! Three sites in a row, whose ends never meet.

use landfall_tests::fleet::{DB, Fleet, SOON};
use landfall_tests::wait::wait_for;

use crate::support::{assert_quiet, value, wait};

const SITES: [&str; 3] = ["bow", "middle", "stern"];
const SCHEMA: &str = "CREATE TABLE bed (id int PRIMARY KEY, patient text, ward text)";

#[test]
fn the_ends_of_a_chain_converge_through_the_site_between_them() {
    let fleet = Fleet::new(SCHEMA, &["public.bed"])
        .site("bow")
        .site("middle")
        .site("stern")
        .link("bow", "middle")
        .link("stern", "middle")
        .unsynced()
        .start();
    for (place, site) in (0..).zip(SITES) {
        let rows = format!("SELECT n * 3 + {place}, '{site}', '0' FROM generate_series(0, 9) n");
        fleet.sql(site, &format!("INSERT INTO bed {rows}"));
    }
    assert_eq!(fleet.converge(), 30);

    // Never are both links up: what the ends tell each other rests in the middle.
    fleet.link("stern", "middle").cut();
    fleet.sql("bow", "UPDATE bed SET patient = 'from bow' WHERE id % 2 = 0");
    fleet.sql("middle", "UPDATE bed SET ward = 'from middle' WHERE id < 20");
    fleet.sql("stern", "UPDATE bed SET patient = 'from stern' WHERE id % 3 = 0");
    wait(&fleet, "bow", "delivered");
    fleet.link("bow", "middle").cut();
    fleet.link("stern", "middle").heal();
    wait(&fleet, "stern", "converged");
    let seen = "SELECT count(*) FROM bed WHERE patient = 'from bow'";
    assert_eq!(
        value(&fleet, "stern", seen),
        "10",
        "the stern has what the bow wrote, except 5 rows"
    );
    fleet.sql("stern", "DELETE FROM bed WHERE id >= 25");
    wait(&fleet, "stern", "delivered");
    fleet.link("stern", "middle").cut();
    // Also the bow has news to deliver: an end that has none cannot tell a link that was cut from
    // one on which nothing happens, and would have nothing to wait for.
    fleet.sql("bow", "UPDATE bed SET ward = 'last word' WHERE id = 0");
    fleet.link("bow", "middle").heal();
    wait(&fleet, "bow", "converged");
    assert_eq!(value(&fleet, "bow", "SELECT count(*) FROM bed"), "25");
    fleet.link("stern", "middle").heal();
    assert_eq!(fleet.converge(), 25);

    for end in ["bow", "stern"] {
        let status = fleet.member(end).status().expect("status");
        let peers = status["peers"].as_array().expect("peers");
        let other = peers.iter().find(|peer| peer["name"] != "middle").expect("the other end");
        assert_eq!(other["last_contact_ms_ago"], serde_json::Value::Null, "{end} met {other}");
        assert_eq!(other["bytes_received"], 0, "{end} met {other}");
    }
    assert_quiet(&fleet, &SITES, &[]);
}

/// What one end answers to the other must not be seen before what it answers to.
#[test]
fn an_answer_never_shows_before_the_question() {
    let fleet = Fleet::new(SCHEMA, &["public.bed"])
        .site("bow")
        .site("middle")
        .site("stern")
        .link("bow", "middle")
        .link("middle", "stern")
        .link("bow", "stern")
        .unsynced()
        .start();
    // The straight way from the question to the last reader is closed; its answer has a way.
    fleet.link("bow", "stern").cut();
    let session = fleet.member("stern").cluster().session(DB).expect("open");
    let count = |site: &str| value(&fleet, site, "SELECT count(*) FROM bed");
    for turn in 0..10 {
        let (question, answer) = (turn * 2, turn * 2 + 1);
        fleet.sql("bow", &format!("INSERT INTO bed VALUES ({question}, 'question')"));
        wait_for("the question", SOON, || (count("middle") == answer.to_string()).then_some(()));
        fleet.sql("middle", &format!("INSERT INTO bed VALUES ({answer}, 'answer')"));
        wait_for("the answer", SOON, || {
            let ids = session.rows("SELECT id FROM bed ORDER BY id").expect("read");
            let ids: Vec<String> = ids.into_iter().flatten().flatten().collect();
            let dense: Vec<String> = (0..ids.len()).map(|id| id.to_string()).collect();
            assert_eq!(ids, dense, "an answer shows without its question");
            (ids.len() == answer + 1).then_some(())
        });
    }
    assert_eq!(fleet.converge(), 20);
    assert_quiet(&fleet, &SITES, &[]);
}
