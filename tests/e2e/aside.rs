//! Operators see which rows are put aside, why, and how long.

use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::wait::wait_until;
use serde_json::Value as Json;

use crate::sites::{A, B, C};
use crate::support::{value, wait_value};

const SCHEMA: &str = "\
CREATE TABLE person (id int PRIMARY KEY, email text UNIQUE);
CREATE TABLE visit (id int PRIMARY KEY, person int NOT NULL REFERENCES person, note text);";

fn list(fleet: &Fleet, site: &str, words: &[&str]) -> String {
    let words: Vec<&str> = ["parked", "list"].iter().chain(words).copied().collect();
    fleet.member(site).command(&words).run(SOON).expect("run").success()
}

fn status(fleet: &Fleet, site: &str) -> Json {
    fleet.member(site).status().expect("status")
}

#[test]
fn rows_that_are_put_aside_are_told_by_status_and_named_by_the_list() {
    let fleet = Fleet::new(SCHEMA, &["public.person", "public.visit"]);
    let fleet = fleet.site(A).site(B).site(C).link(A, B).link(B, C).unsynced().start();
    assert_eq!(status(&fleet, A)["aside"]["rows"], 0);
    assert_eq!(list(&fleet, A, &[]), "Nothing is parked, and no row is put aside.\n");
    fleet.link(A, B).cut();
    fleet.sql(A, "INSERT INTO person VALUES (10, 'x')");
    fleet.sql(B, "INSERT INTO person VALUES (11, 'x'); INSERT INTO visit VALUES (7, 11, 'v')");
    wait_value(&fleet, C, "SELECT count(*) FROM visit", "1");
    fleet.link(A, B).heal();
    for site in [A, B, C] {
        wait_until(&format!("{site} to tell of both rows"), SOON, || {
            let aside = status(&fleet, site)["aside"].clone();
            if aside["rows"] == 2 { Ok(()) } else { Err(format!("{aside}")) }
        });
        let told = status(&fleet, site);
        assert!(told["aside"]["oldest_ms_ago"].is_u64(), "{told:#}");
        let warnings = told["warnings"].as_array().expect("a list");
        let warns = |text: &Json| {
            text.as_str().is_some_and(|text| text.starts_with("2 rows are put aside"))
        };
        assert!(warnings.iter().any(warns), "{site}: {told:#}");
        let text = list(&fleet, site, &[]);
        for part in ["public.person row 11: put aside for", "public.visit row 7: put aside for"] {
            assert!(text.contains(part), "{site}: {part:?} is not in {text}");
        }
        assert!(text.contains("it comes back when that row is changed"), "{text}");
    }
    // Whoever found it out knows the row that is in the way; others know the index.
    assert!(list(&fleet, B, &[]).contains("row 10 has what person_email_key lets only one"));
    assert!(list(&fleet, C, &[]).contains("person_email_key"), "{}", list(&fleet, C, &[]));
    let only = list(&fleet, B, &["--table", "public.visit", "--json"]);
    let only: Json = serde_json::from_str(&only).expect("JSON");
    let aside = only["aside"].as_array().expect("a list");
    assert_eq!((aside.len(), &aside[0]["row_key"]), (1, &"7".into()), "{only:#}");
    let reason = aside[0]["reason"].as_str().unwrap_or_default();
    assert_eq!(reason, "row 11 of table public.person, to which it belongs, is put aside");

    // The child goes with its parent, and the history of whoever sent it away says so.
    let told = "SELECT string_agg(DISTINCT concat_ws(' ', table_name, row_key, rule), ', ') \
                FROM landfall.conflict WHERE table_name = 'public.visit'";
    assert_eq!(value(&fleet, B, told), "public.visit 7 fk_quarantine");

    fleet.sql(C, "DELETE FROM person WHERE id = 10");
    for site in [A, B, C] {
        wait_value(&fleet, site, "SELECT count(*) FROM landfall.aside", "0");
        wait_value(&fleet, site, "SELECT note FROM visit WHERE person = 11", "v");
        assert_eq!(status(&fleet, site)["aside"]["rows"], 0);
    }
    fleet.converge();
    fleet.assert_quiet(&[]);
}
