//! The commands around the daemon keep their word to operators, scripts and database administrators.

use std::fs;

use landfall_tests::fleet::{DB, Fleet, SOON};
use landfall_tests::wait::wait_until;

use crate::support::{assert_quiet, conflicts, value, wait};

const A: &str = "ship-a";
const B: &str = "ship-b";
const SCHEMA: &str = "CREATE TABLE bed (id int PRIMARY KEY, patient text, ward text)";

#[test]
fn a_role_that_owns_nothing_runs_after_an_administrator_ran_the_printed_sql() {
    let schema = "CREATE ROLE clinic LOGIN; CREATE ROLE landfall LOGIN; \
        GRANT ALL ON SCHEMA public TO clinic; SET ROLE clinic; \
        CREATE TABLE ward (name text PRIMARY KEY); \
        CREATE TABLE bed (id int PRIMARY KEY, ward text REFERENCES ward, nurse text, \
            at timestamptz DEFAULT now(), UNIQUE (ward, nurse) DEFERRABLE)";
    let mut fleet = Fleet::new(schema, &["public.ward", "public.bed"])
        .site(A)
        .site(B)
        .link(A, B)
        .all_later()
        .unsynced()
        .start();
    for site in [A, B] {
        let file = fleet.member(site).config_file();
        let text = fs::read_to_string(file).expect("read");
        fs::write(file, text.replace("user=postgres", "user=landfall")).expect("write");
        let member = fleet.member(site);
        let done = member.command(&["init"]).run(SOON).expect("run");
        assert_eq!(done.status.code(), Some(3), "{}", done.stderr);
        assert!(done.stderr.contains("init --print-sql"), "{}", done.stderr);
        let script = member.command(&["init", "--print-sql"]).run(SOON).expect("run").success();
        fleet.sql(site, &script);
        // Running it again changes nothing.
        fleet.sql(site, &script);
        fleet.join(site);
        let done = fleet.member(site).command(&["check"]).run(SOON).expect("run").success();
        assert!(done.contains("\n0 errors"), "{done}");
    }
    let as_clinic = |site: &str, sql: &str| fleet.sql(site, &format!("SET ROLE clinic; {sql}"));
    as_clinic(A, "INSERT INTO ward VALUES ('north'), ('south')");
    as_clinic(A, "INSERT INTO bed SELECT n, 'north', 'nurse ' || n FROM generate_series(1, 20) n");
    assert_eq!(fleet.converge(), 22);
    fleet.link(A, B).cut();
    as_clinic(A, "UPDATE bed SET nurse = 'Ann' WHERE id = 1; DELETE FROM bed WHERE id = 2");
    as_clinic(
        B,
        "UPDATE bed SET ward = 'south' WHERE id = 1; UPDATE bed SET nurse = 'Bob' WHERE id = 2",
    );
    as_clinic(B, "UPDATE bed SET nurse = 'Bea' WHERE id = 1");
    fleet.link(A, B).heal();
    assert_eq!(fleet.converge(), 21);
    assert_eq!(value(&fleet, A, "SELECT ward || nurse FROM bed WHERE id = 1"), "southBea");
    // Ward and nurse are unique together, so whoever writes one of them writes both.
    let lost = [
        "1/nurse last_writer_wins loser=1 Ann",
        "1/ward last_writer_wins loser=1 north",
        "2/nurse delete_wins loser=2 Bob",
        "2/ward delete_wins loser=2 north",
    ];
    assert_eq!(conflicts(&fleet, A), lost);
    assert_eq!(conflicts(&fleet, B), lost);
    let owned = "SELECT count(*) FROM pg_class WHERE relowner = 'landfall'::regrole";
    assert_eq!(value(&fleet, A, owned), "0");
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn init_can_be_repeated_also_while_the_daemon_runs_and_with_more_tables() {
    let schema = "CREATE TABLE bed (id int PRIMARY KEY, patient text, ward text); \
        CREATE TABLE late (id int PRIMARY KEY)";
    let mut fleet =
        Fleet::new(schema, &["public.bed"]).site(A).site(B).link(A, B).unsynced().start();
    let init = |words: &[&str]| fleet.member(A).command(words).run(SOON).expect("run").success();
    let text = init(&["init"]);
    assert!(text.lines().all(|line| line.starts_with("found ")), "{text}");
    let json: serde_json::Value = serde_json::from_str(&init(&["init", "--json"])).expect("JSON");
    let steps = json["steps"].as_array().expect("steps");
    assert!(steps.len() > 10 && steps.iter().all(|step| step["change"] == "found"), "{json:#}");

    fleet.sql(A, "INSERT INTO bed VALUES (1, 'Ada', '3A')");
    fleet.converge();
    for site in [A, B] {
        let daemon = fleet.member(site).daemon();
        daemon.terminate();
        assert!(daemon.wait_exit(SOON).success());
        let file = fleet.member(site).config_file().with_file_name("fleet.toml");
        let text = fs::read_to_string(&file).expect("read");
        let more = text.replace("\"public.bed\"", "\"public.bed\", \"public.late\"");
        fs::write(&file, more.replace("version = 1", "version = 2")).expect("write");
        let text = fleet.member(site).command(&["init"]).run(SOON).expect("run").success();
        assert!(text.contains("made  table public.late cannot be truncated"), "{text}");
    }
    for site in [A, B] {
        fleet.launch(site).expect("starts");
    }
    fleet.sql(A, "INSERT INTO late VALUES (1)");
    fleet.sql(B, "INSERT INTO late VALUES (2); UPDATE bed SET ward = '4A'");
    fleet.converge();
    assert_eq!(value(&fleet, A, "SELECT string_agg(id::text, ',' ORDER BY id) FROM late"), "1,2");
    assert_eq!(value(&fleet, B, "SELECT string_agg(id::text, ',' ORDER BY id) FROM late"), "1,2");
    let refused = fleet.member(A).cluster().try_sql(DB, "TRUNCATE late").expect_err("TRUNCATE");
    assert!(format!("{refused:#}").contains("cannot be truncated"), "{refused:#}");
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn check_finds_what_stands_in_the_way_and_says_what_to_do() {
    let schema = "CREATE TABLE bed (id int PRIMARY KEY, patient text); \
        CREATE TABLE log (at timestamptz NOT NULL, line text); \
        CREATE TABLE code (a text NOT NULL UNIQUE, b text); \
        CREATE TABLE auto (id serial PRIMARY KEY)";
    let tables = ["public.bed", "public.log", "public.code", "public.auto", "public.missing"];
    let fleet = Fleet::new(schema, &tables).site(A).later(A).unsynced().start();
    let done = fleet.member(A).command(&["check"]).run(SOON).expect("run");
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    let parts = [
        "error    table public.missing of the fleet file is not in this database\n         -> create it",
        "error    table public.log has no primary key",
        "ALTER TABLE \"public\".\"log\" ADD COLUMN landfall_id uuid PRIMARY KEY",
        "ALTER TABLE \"public\".\"code\" ADD PRIMARY KEY (\"a\")",
        "warning  keys of table public.auto come from sequence public.auto_id_seq",
        "slot \"landfall_ship_a\" is missing\n         -> run init",
        "ok       wal_level is logical",
    ];
    for part in parts {
        assert!(done.stdout.contains(part), "{part:?} is missing in\n{}", done.stdout);
    }
    let done = fleet.member(A).command(&["check", "--json"]).run(SOON).expect("run");
    assert_eq!(done.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    let findings = json["findings"].as_array().expect("findings");
    let errors = findings.iter().filter(|finding| finding["severity"] == "error").count();
    assert_eq!(json["errors"], errors, "{json:#}");
    let advised = findings.iter().filter(|finding| finding["severity"] != "ok");
    assert!(advised.clone().count() > 5);
    advised.for_each(|finding| assert_ne!(finding["advice"], "", "{finding}"));
    // Looking changes nothing.
    assert_eq!(value(&fleet, A, "SELECT count(*) FROM pg_publication"), "0");
    assert_eq!(value(&fleet, A, "SELECT to_regnamespace('landfall')"), "NULL");
}

#[test]
fn status_names_backlog_and_cause_and_wait_ends_when_both_are_gone() {
    let mut fleet =
        Fleet::new(SCHEMA, &["public.bed"]).site(A).site(B).link(A, B).unsynced().start();
    fleet.sql(A, "INSERT INTO bed VALUES (0, 'both', '0')");
    fleet.converge();
    wait(&fleet, A, "delivered");
    wait(&fleet, A, "converged");
    wait(&fleet, B, "converged");
    let text =
        |fleet: &Fleet| fleet.member(A).command(&["status"]).run(SOON).expect("run").success();
    let calm = text(&fleet);
    for part in [
        "ship-a (site 1) is running.",
        "Capture works.",
        "Apply works.",
        "ship-b: connected; last heard from",
    ] {
        assert!(calm.contains(part), "{part:?} is missing in\n{calm}");
    }
    assert!(!calm.contains("not acknowledged"), "{calm}");

    let daemon = fleet.member(B).daemon();
    daemon.terminate();
    assert!(daemon.wait_exit(SOON).success());
    fleet.sql(A, "INSERT INTO bed SELECT n, 'a', '1' FROM generate_series(1, 5) n");
    fleet.sql(A, "UPDATE bed SET ward = '2' WHERE id < 2");
    let told = wait_until("the status to tell it all", SOON, || {
        let text = text(&fleet);
        let parts = [
            "ship-b: no link: ",
            "last heard from",
            "7 of our own changes (",
            "It lacks 7 changes",
        ];
        if parts.iter().all(|part| text.contains(part)) { Ok(text) } else { Err(text) }
    });
    assert!(told.contains("; next attempt in ") || told.contains("; trying now"), "{told}");
    for goal in ["delivered", "converged"] {
        let words = ["wait", "--for", goal, "--timeout", "1"];
        let done = fleet.member(A).command(&words).run(SOON).expect("run");
        assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
        let sentence = "not reached within 1 s: ship-b has not acknowledged 7 changes (";
        assert!(done.stderr.contains(sentence), "{}", done.stderr);
    }
    fleet.sql(B, "UPDATE bed SET ward = 'b' WHERE id = 0");
    fleet.launch(B).expect("starts");
    wait(&fleet, A, "delivered");
    wait(&fleet, B, "converged");
    wait(&fleet, A, "converged");
    assert_eq!(fleet.converge(), 6);
    let calm = text(&fleet);
    assert!(!calm.contains("not acknowledged") && !calm.contains("It lacks"), "{calm}");
    assert_quiet(&fleet, &[A, B], &[]);
}

/// Nothing may lie between the commit and the wait; also not a daemon that has only just started.
#[test]
fn wait_counts_everything_committed_before_it_began() {
    let mut fleet =
        Fleet::new(SCHEMA, &["public.bed"]).site(A).site(B).link(A, B).unsynced().start();
    let known = |member: &str| {
        let status = fleet_status(&fleet, member);
        let vector = status["vector"].as_array().cloned().unwrap_or_default();
        let of_a = vector.into_iter().find(|entry| entry["name"] == A);
        of_a.map_or(0, |entry| entry["received"].as_u64().unwrap_or(0))
    };
    for count in 1..=20 {
        fleet.sql(A, &format!("INSERT INTO bed VALUES ({count}, 'a', '1')"));
        wait(&fleet, A, "delivered");
        assert_eq!(known(B), count);
    }
    fleet.member(A).daemon().kill9();
    fleet.sql(A, "DELETE FROM bed WHERE id = 1");
    fleet.launch(A).expect("starts");
    wait(&fleet, A, "delivered");
    assert_eq!(fleet_status(&fleet, B)["vector"][0]["received"], 21);
    assert_eq!(fleet.converge(), 19);
}

fn fleet_status(fleet: &Fleet, member: &str) -> serde_json::Value {
    fleet.member(member).status().expect("status")
}
