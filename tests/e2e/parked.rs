//! What a site cannot show is set aside, row by row, and comes into sight by itself when what kept it
//! is gone. Everything else flows.

use landfall_tests::fleet::{Builder, Fleet};
use landfall_tests::wait::wait_until;
use serde_json::Value as Json;

use crate::support::{FREED, assert_quiet, launch, stop, value, wait_value};

const A: &str = "ship-a";
const B: &str = "ship-b";

fn pair(schema: &str, tables: &[&str]) -> Builder {
    Fleet::new(schema, tables).site(A).site(B).link(A, B).unsynced()
}

/// Waits until this many changes are parked at a site, and gives what status says of them.
#[track_caller]
fn wait_parked(fleet: &Fleet, site: &str, count: u64) -> Json {
    let mut parked = Json::Null;
    wait_until(&format!("{count} parked changes at {site}"), FREED, || {
        let status = fleet.member(site).status().map_err(|error| format!("{error:#}"))?;
        parked = status["parked"].clone();
        let same = status["fates"]["parked"] == count && parked["changes"] == count;
        if same { Ok(()) } else { Err(format!("{parked:#} {:#}", status["fates"])) }
    });
    parked
}

/// Nothing is parked any more, everybody shows the same, every change has one fate, and no line of
/// what was parked is left.
#[track_caller]
fn all_is_shown(fleet: &Fleet, quiet: &[&str]) {
    for site in [A, B] {
        wait_parked(fleet, site, 0);
        wait_value(fleet, site, "SELECT count(*) FROM landfall.parked", "0");
    }
    fleet.converge();
    assert_quiet(fleet, &[A, B], quiet);
}

#[test]
fn an_unknown_column_arrives_once_it_is_there() {
    let schema = "CREATE TABLE bed (id int PRIMARY KEY, patient text, note text)";
    let fleet = pair(schema, &["public.bed"]).start();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'Ada', 'a'), (2, 'Bob', 'b'), (3, 'Cy', 'c')");
    fleet.converge();
    fleet.link(A, B).cut();
    fleet.sql(A, "ALTER TABLE bed ADD COLUMN ward text");
    fleet.sql(A, "UPDATE bed SET ward = 'north' WHERE id = 1");
    fleet.sql(A, "INSERT INTO bed VALUES (4, 'Dan', 'd', 'south'), (5, 'Eve', 'e', 'east')");
    fleet.sql(A, "UPDATE bed SET ward = 'west', patient = 'Bo' WHERE id = 2");
    // What happens to the rows at the other site meanwhile, which does not know the column.
    fleet.sql(B, "UPDATE bed SET note = 'from b' WHERE id = 1");
    fleet.sql(B, "DELETE FROM bed WHERE id = 3");
    fleet.sql(B, "INSERT INTO bed VALUES (3, 'Cyr', 'again')");
    fleet.sql(B, "INSERT INTO bed VALUES (5, 'Eva', 'the same key')");
    fleet.link(A, B).heal();
    let parked = wait_parked(&fleet, B, 4);
    assert_eq!(parked["reasons"]["no_column"], 4, "{parked:#}");
    // All but the column is there.
    wait_value(
        &fleet,
        B,
        "SELECT string_agg(patient, ',' ORDER BY id) FROM bed",
        "Ada,Bo,Cyr,Dan,Eva",
    );
    wait_value(
        &fleet,
        A,
        "SELECT patient || coalesce(ward, 'NULL') FROM bed WHERE id = 5",
        "EvaNULL",
    );
    let lines = "SELECT string_agg(DISTINCT reason, ';') FROM landfall.parked";
    assert_eq!(value(&fleet, B, lines), "this site has no column ward");
    fleet.sql(B, "ALTER TABLE bed ADD COLUMN ward text");
    let wards = "SELECT string_agg(id || coalesce(ward, '-'), ',' ORDER BY id) FROM bed";
    wait_value(&fleet, B, wards, "1north,2west,3-,4south,5-");
    all_is_shown(&fleet, &[]);
    assert_eq!(value(&fleet, A, wards), "1north,2west,3-,4south,5-");
}

#[test]
fn an_unknown_table_arrives_once_it_is_made_and_prepared() {
    let schema = "CREATE TABLE bed (id int PRIMARY KEY, patient text); \
        CREATE TABLE visit (id int PRIMARY KEY, bed int, at text)";
    let mut fleet = pair(schema, &["public.bed", "public.visit"]).start();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'Ada')");
    fleet.converge();
    fleet.sql(B, "DROP TABLE visit");
    fleet.sql(A, "INSERT INTO visit SELECT n, 1, 'x' FROM generate_series(1, 500) n");
    fleet.sql(A, "UPDATE visit SET at = 'y' WHERE id <= 10; DELETE FROM visit WHERE id = 500");
    fleet.sql(A, "UPDATE bed SET patient = 'flows'");
    wait_value(&fleet, B, "SELECT patient FROM bed", "flows");
    let parked = wait_parked(&fleet, B, 511);
    assert_eq!(parked["reasons"]["no_table"], 511, "{parked:#}");
    let text = fleet.member(B).command(&["status"]).run(FREED).expect("run").success();
    assert!(text.contains("Warning: 511 changes from others are parked"), "{text}");
    fleet.sql(B, "CREATE TABLE visit (id int PRIMARY KEY, bed int, at text)");
    // It is killed wherever it is by now, and once more a little later.
    fleet.member(B).init().expect("init");
    fleet.member(B).daemon().kill9();
    launch(&mut fleet, B);
    fleet.sql(A, "INSERT INTO visit VALUES (501, 1, 'later')");
    wait_value(&fleet, B, "SELECT count(*) FROM visit", "500");
    all_is_shown(&fleet, &["PostgreSQL refuses a transaction"]);
}

#[test]
fn a_refused_row_arrives_when_the_constraint_is_gone() {
    let schema = "CREATE TABLE bed (id int PRIMARY KEY, patient text, floor int)";
    let stricter = "ALTER TABLE bed ADD CONSTRAINT low CHECK (floor < 10); \
        ALTER TABLE bed ALTER patient SET NOT NULL; ALTER TABLE bed ALTER patient TYPE varchar(8)";
    let fleet = pair(schema, &["public.bed"]).prepare(B, stricter).start();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'Ada', 1)");
    fleet.converge();
    fleet.sql(A, "UPDATE bed SET floor = 11 WHERE id = 1");
    fleet.sql(A, "INSERT INTO bed VALUES (2, NULL, 2), (3, 'Cy', 3), (4, 'Nebuchadnezzar', 4)");
    fleet.sql(A, "INSERT INTO bed VALUES (5, 'flows', 5)");
    wait_value(&fleet, B, "SELECT string_agg(id::text, ',' ORDER BY id) FROM bed", "1,3,5");
    let parked = wait_parked(&fleet, B, 3);
    assert_eq!((&parked["reasons"]["refused"], &parked["rows"]), (&3.into(), &3.into()));
    let list = |words: &[&str]| {
        let words = [&["parked", "list", "--json"], words].concat();
        let text = fleet.member(B).command(&words).run(FREED).expect("run").success();
        serde_json::from_str::<Json>(&text).expect("JSON")
    };
    let all = list(&[]);
    let keys: Vec<&str> = all["entries"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|entry| entry["row_key"].as_str())
        .collect();
    assert_eq!(keys, ["1", "2", "4"], "{all:#}");
    assert_eq!(list(&["--table", "public.other"])["entries"], Json::Array(Vec::new()));
    // A row that stays refused keeps none of the others.
    fleet
        .sql(B, "ALTER TABLE bed DROP CONSTRAINT low; ALTER TABLE bed ALTER patient DROP NOT NULL");
    wait_value(
        &fleet,
        B,
        "SELECT string_agg(id::text || floor, ',' ORDER BY id) FROM bed",
        "111,22,33,55",
    );
    wait_parked(&fleet, B, 1);
    fleet.sql(B, "ALTER TABLE bed ALTER patient TYPE text");
    wait_value(&fleet, B, "SELECT (SELECT patient FROM bed WHERE id = 4)", "Nebuchadnezzar");
    all_is_shown(&fleet, &["PostgreSQL refuses a transaction"]);
}

#[test]
fn a_row_whose_unique_value_is_taken_arrives_when_that_is_free() {
    // Which row has a value that a trigger compares, is not looked for.
    let schema = "CREATE TABLE bed (id int PRIMARY KEY, patient text);
        CREATE FUNCTION alone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT FROM public.bed b WHERE b.patient = NEW.patient AND b.id <> NEW.id) THEN
                RAISE 'taken' USING ERRCODE = 'unique_violation';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER alone BEFORE INSERT OR UPDATE ON bed FOR EACH ROW EXECUTE FUNCTION alone();
        ALTER TABLE bed ENABLE ALWAYS TRIGGER alone";
    let fleet = pair(schema, &["public.bed"]).start();
    fleet.link(A, B).cut();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'Ada')");
    fleet.sql(B, "INSERT INTO bed VALUES (2, 'Ada')");
    fleet.link(A, B).heal();
    wait_parked(&fleet, A, 1);
    wait_parked(&fleet, B, 1);
    let retry = fleet.member(A).command(&["parked", "retry"]).run(FREED).expect("run").success();
    assert!(retry.contains("1 parked changes"), "{retry}");
    let words = ["parked", "retry", "--table", "public.other"];
    let none = fleet.member(A).command(&words).run(FREED).expect("run");
    assert!(!none.status.success() && none.stderr.contains("public.other"), "{}", none.stderr);
    fleet.sql(A, "UPDATE bed SET patient = 'Ida' WHERE id = 1");
    for site in [A, B] {
        wait_value(
            &fleet,
            site,
            "SELECT string_agg(id || patient, ',' ORDER BY id) FROM bed",
            "1Ida,2Ada",
        );
    }
    all_is_shown(&fleet, &["PostgreSQL refuses a transaction"]);
}

/// Between the steps from the list to the row and back stands nothing that a crash could not fall
/// into.
#[test]
fn a_crash_while_parked_changes_are_shown_loses_none() {
    let schema = "CREATE TABLE bed (id int PRIMARY KEY, patient text)";
    let mut fleet = pair(schema, &["public.bed"]).start();
    fleet.sql(A, "ALTER TABLE bed ADD COLUMN ward text");
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'Ada', 'north'), (2, 'Bob', 'south')");
    wait_parked(&fleet, B, 2);
    let ward = "SELECT string_agg(ward, ',' ORDER BY id) FROM bed";
    let hang = |fleet: &Fleet, plant: &str| {
        let run = fleet.member(B).command(&["run"]).named(plant).env("LANDFALL_PLANT", plant);
        let hanging = run.start();
        wait_until(&format!("the hang of {plant}"), FREED, || {
            let log = hanging.log();
            if log.contains("planted hang") { Ok(()) } else { Err(log) }
        });
        wait_parked(fleet, B, 2);
        hanging.kill9();
    };
    stop(&fleet, B);
    fleet.sql(B, "ALTER TABLE bed ADD COLUMN ward text");
    hang(&fleet, "unshown-parked");
    assert_eq!(value(&fleet, B, ward), "NULL");
    hang(&fleet, "unfreed-parked");
    assert_eq!(value(&fleet, B, ward), "north,south");
    assert_eq!(value(&fleet, B, "SELECT count(*) FROM landfall.parked"), "0");
    fleet.sql(B, "UPDATE bed SET ward = 'west' WHERE id = 2");
    launch(&mut fleet, B);
    all_is_shown(&fleet, &[]);
    assert_eq!(value(&fleet, A, ward), "north,west");
}

#[test]
fn a_child_waits_for_its_parked_parent() {
    let schema = "CREATE TABLE visit (id int PRIMARY KEY, bed int, next int REFERENCES visit);
        CREATE TABLE bed (id int PRIMARY KEY, floor int);
        ALTER TABLE visit ADD FOREIGN KEY (bed) REFERENCES bed";
    let stricter = "ALTER TABLE bed ADD CONSTRAINT low CHECK (floor < 10)";
    let tables = ["public.visit", "public.bed"];
    let fleet = pair(schema, &tables).prepare(B, stricter).start();
    // In one transaction, and in a later one.
    fleet.sql(
        A,
        "BEGIN; INSERT INTO bed VALUES (1, 11), (2, 2); \
        INSERT INTO visit VALUES (1, 1, NULL), (2, 2, NULL); COMMIT",
    );
    fleet.sql(A, "INSERT INTO visit VALUES (3, 1, NULL), (4, 2, NULL), (5, 2, 3)");
    fleet.sql(A, "INSERT INTO bed VALUES (3, 3)");
    let visits = "SELECT string_agg(id::text, ',' ORDER BY id) FROM visit";
    wait_value(&fleet, B, "SELECT string_agg(id::text, ',' ORDER BY id) FROM bed", "2,3");
    wait_value(&fleet, B, visits, "2,4");
    let parked = wait_parked(&fleet, B, 4);
    assert_eq!(
        (&parked["reasons"]["refused"], &parked["reasons"]["no_parent"]),
        (&1.into(), &3.into())
    );
    fleet.sql(B, "ALTER TABLE bed DROP CONSTRAINT low");
    wait_value(&fleet, B, visits, "1,2,3,4,5");
    all_is_shown(&fleet, &["PostgreSQL refuses a transaction"]);
}
