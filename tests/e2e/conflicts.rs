//! The history of conflicts: who wrote what gave way, and how it comes back.

use landfall_tests::fleet::{Builder, DB, Fleet, SOON};
use landfall_tests::process::Finished;
use landfall_tests::wait::wait_until;
use serde_json::Value as Json;

use crate::support::{
    OPERATOR, UNMET, USAGE, assert_quiet, launch, refused, stop, value, wait_for_status,
};

const A: &str = "ship-a";
const B: &str = "ship-b";
const SITES: [&str; 2] = [A, B];

/// The trigger needs the application's search path, and its session's settings.
const SCHEMA: &str = "
CREATE TABLE bed (id int PRIMARY KEY, patient text, since timestamptz, stay interval, ok boolean,
    price numeric(8, 2));
CREATE TABLE audit (seen text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit VALUES (current_setting('TimeZone') || ' ' || tg_op || ' ' || NEW.id);
    RETURN NEW;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON bed FOR EACH ROW EXECUTE FUNCTION note();
CREATE ROLE app; GRANT SELECT, INSERT, UPDATE, DELETE ON bed, audit TO app;";

const ROW: &str = "(patient, since, stay, ok, price) = \
    ('nobody', '2026-03-01 10:00+02', '1 day -02:00', true, 1.50)";

fn pair() -> Builder {
    Fleet::new(SCHEMA, &["public.bed"]).site(A).site(B).link(A, B).unsynced()
}

/// Two sites with beds 1 to `beds`, which then cannot reach each other.
fn parted(beds: u32) -> Fleet {
    let fleet = pair().conf("timezone", "Asia/Tokyo").start();
    let rows = format!("INSERT INTO bed (id) SELECT generate_series(1, {beds})");
    fleet.sql(A, &format!("{rows}; UPDATE bed SET {ROW}"));
    fleet.converge();
    fleet.link(A, B).cut();
    fleet
}

fn meet(fleet: &Fleet) {
    fleet.link(A, B).heal();
    fleet.converge();
}

/// Runs SQL as the application does, on behalf of somebody.
fn act(fleet: &Fleet, site: &str, actor: &str, sql: &str) {
    let acting = format!("BEGIN; SET ROLE app; SELECT landfall.act_as('{actor}'); {sql}; COMMIT");
    fleet.sql(site, &acting);
}

fn run(fleet: &Fleet, site: &str, words: &[&str]) -> Finished {
    let words: Vec<&str> = std::iter::once("conflicts").chain(words.iter().copied()).collect();
    fleet.member(site).command(&words).run(SOON).expect("run conflicts")
}

/// The conflicts a site lists, the newest first.
#[track_caller]
fn list(fleet: &Fleet, site: &str, words: &[&str]) -> Vec<Json> {
    let words: Vec<&str> = ["list", "--json"].into_iter().chain(words.iter().copied()).collect();
    let text = run(fleet, site, &words).success();
    let json: Json = serde_json::from_str(&text).expect("JSON");
    json["conflicts"].as_array().expect("a list").clone()
}

fn id_of(line: &Json) -> String {
    line["id"].as_i64().expect("an id").to_string()
}

#[track_caller]
fn not_undone(fleet: &Fleet, site: &str, words: &[&str], parts: &[&str]) {
    let words: Vec<&str> = ["conflicts", "undo"].into_iter().chain(words.iter().copied()).collect();
    refused(fleet, site, &words, UNMET, parts);
}

fn patient(fleet: &Fleet, site: &str, bed: u32) -> String {
    value(fleet, site, &format!("SELECT patient FROM bed WHERE id = {bed}"))
}

#[test]
fn an_overwritten_value_is_listed_with_both_writers_and_can_be_brought_back() {
    let fleet = parted(1);
    act(&fleet, A, "dr. jones", "UPDATE bed SET patient = 'Ann' WHERE id = 1");
    act(&fleet, B, "dr. smith", "UPDATE bed SET patient = 'Bob' WHERE id = 1");
    meet(&fleet);
    for site in SITES {
        let lines = list(&fleet, site, &["--open"]);
        let [line] = &lines[..] else { panic!("{site} lists {lines:?}") };
        let told = |role: &str, key: &str| line[role][key].as_str().unwrap_or("?").to_owned();
        let side =
            |role: &str| ["name", "actor", "is", "value"].map(|key| told(role, key)).join(" ");
        assert_eq!(side("winner"), "ship-b dr. smith value Bob", "{site}");
        assert_eq!(side("loser"), "ship-a dr. jones value Ann", "{site}");
        assert!(told("winner", "hlc") > told("loser", "hlc"), "{line}");
        assert_eq!((&line["key"]["id"], line["winner"]["site"].as_i64()), (&"1".into(), Some(2)));
        let shown = run(&fleet, site, &["show", &id_of(line)]).success();
        for part in ["dr. jones at ship-a (site 1)", "column patient", "shows now    \"Bob\""] {
            assert!(shown.contains(part), "{part:?} is missing: {shown}");
        }
    }
    let id = id_of(&list(&fleet, A, &[])[0]);
    let dry = run(&fleet, A, &["undo", &id, "--dry-run"]).success();
    assert!(dry.contains("patient: \"Bob\" -> \"Ann\"\nnothing was written"), "{dry}");
    assert_eq!(patient(&fleet, A, 1), "Bob");
    fleet.sql(A, "TRUNCATE audit");
    let done = run(&fleet, A, &["undo", &id, "--as", "dr. house"]).success();
    assert!(done.contains(&format!("conflict {id} is undone")), "{done}");
    fleet.converge();
    assert_eq!(SITES.map(|site| patient(&fleet, site, 1)), ["Ann", "Ann"]);
    assert_eq!(value(&fleet, A, "SELECT string_agg(seen, ', ') FROM audit"), "Asia/Tokyo UPDATE 1");
    assert!(list(&fleet, A, &["--open"]).is_empty());
    assert_eq!(list(&fleet, A, &["--undone"])[0]["undone"]["by"], "dr. house");
    not_undone(&fleet, A, &[&id], &["was undone at", "by dr. house"]);
    let other = id_of(&list(&fleet, B, &["--open"])[0]);
    not_undone(&fleet, B, &[&other], &["shows what gave way already", "--force"]);
    assert_quiet(&fleet, &SITES, &[]);
}

#[test]
fn what_was_written_since_is_not_overwritten_unless_forced() {
    let fleet = parted(6);
    // By the columns whose text depends on settings.
    let set = |n: u32| {
        format!(
            "(since, stay, ok) = ('2026-0{n}-01 00:00+00', '-{n} days +0{n}:00', {})",
            if n == 2 { "false" } else { "NULL" }
        )
    };
    for bed in 1..=4 {
        fleet.sql(A, &format!("UPDATE bed SET {} WHERE id = {bed}", set(2)));
        fleet.sql(B, &format!("UPDATE bed SET {} WHERE id = {bed}", set(4)));
    }
    write_oddly(&fleet);
    meet(&fleet);
    let line = |bed: &str, column: &str| {
        let lines = list(&fleet, A, &[]);
        let of = |line: &&Json| line["row_key"] == bed && line["column"] == column;
        id_of(lines.iter().find(of).unwrap_or_else(|| panic!("bed {bed}: {lines:#?}")))
    };
    for column in ["since", "stay", "ok"] {
        run(&fleet, A, &["undo", &line("1", column)]).success();
    }
    let same = "SELECT (since, stay, ok) = (SELECT since, stay, ok FROM bed WHERE id = 9) \
                        FROM bed WHERE id = 1";
    fleet.sql(
        A,
        &format!("INSERT INTO bed (id) VALUES (9); UPDATE bed SET {} WHERE id = 9", set(2)),
    );
    assert_eq!(value(&fleet, A, same), "t");

    fleet.sql(B, "UPDATE bed SET ok = true WHERE id = 2; DELETE FROM bed WHERE id = 3");
    fleet.converge();
    not_undone(&fleet, A, &[&line("2", "ok")], &["shows \"true\" now", "--force"]);
    run(&fleet, A, &["undo", &line("2", "ok"), "--force"]).success();
    not_undone(&fleet, A, &[&line("3", "ok"), "--force"], &["row 3", "is gone"]);
    not_undone(&fleet, A, &[&line("6", "patient")], &["is not kept", "too long"]);
    let at_b = list(&fleet, B, &[]);
    let back = at_b.iter().find(|line| line["rule"] == "insert_after_delete").expect("at ship-b");
    not_undone(&fleet, B, &[&id_of(back)], &["no value", "ordinary SQL"]);
    let long = at_b.iter().find(|line| line["loser"]["is"] == "long").expect("the long value");
    assert_eq!(
        (&long["loser"]["actor"], &long["winner"]["actor"]),
        (&"\u{fffd}".into(), &Json::Null)
    );
    fleet.sql(A, "ALTER TABLE bed ADD CHECK (price < 5 AND ok IS NOT FALSE) NOT VALID");
    not_undone(&fleet, A, &[&line("4", "ok")], &["PostgreSQL refuses", "bed_check"]);
    fleet.sql(A, "ALTER TABLE bed RENAME ok TO fine");
    let shown = run(&fleet, A, &["show", &line("4", "ok")]).success();
    assert!(shown.contains("shows now    unknown"), "{shown}");
    not_undone(&fleet, A, &[&line("4", "ok")], &["column ok", "not in this database"]);
    fleet.sql(A, "ALTER TABLE bed RENAME fine TO ok; ALTER TABLE bed DROP CONSTRAINT bed_check");
    fleet.converge();
    assert_filters(&fleet);
    assert_quiet(&fleet, &SITES, &[]);
}

/// What cannot be brought back, and actors whom nobody may be.
fn write_oddly(fleet: &Fleet) {
    // Of bed 5 the delete is what gives way.
    fleet.sql(A, "DELETE FROM bed WHERE id = 5");
    fleet.sql(B, "DELETE FROM bed WHERE id = 5");
    fleet.sql(B, "INSERT INTO bed (id, patient) VALUES (5, 'Eve')");
    fleet.sql(
        A,
        "BEGIN; SELECT pg_logical_emit_message(true, 'landfall.actor', E'\\\\x00ff0a'::bytea);
         UPDATE bed SET patient = repeat('x', 300000) WHERE id = 6; COMMIT",
    );
    fleet.sql(
        B,
        "BEGIN; SELECT landfall.act_as('nobody'), landfall.act_as(NULL);
         UPDATE bed SET patient = 'short' WHERE id = 6; COMMIT",
    );
    for name in ["repeat('x', 201)", "E'a\\nb'"] {
        let told =
            fleet.member(A).cluster().try_sql(DB, &format!("SELECT landfall.act_as({name})"));
        assert!(format!("{:#}", told.expect_err(name)).contains("at most 200 bytes"), "{name}");
    }
}

fn assert_filters(fleet: &Fleet) {
    let all = list(fleet, A, &[]).len();
    let count = |words: &[&str]| list(fleet, A, words).len();
    assert_eq!(count(&["--undone"]) + count(&["--open"]), all);
    assert_eq!(count(&["--table", "bed"]), all);
    assert_eq!(count(&["--table", "public.bed", "--site", B, "--limit", "2"]), 2);
    assert_eq!((count(&["--site", "2"]), count(&["--table", "be"])), (all, 0));
    assert_eq!((count(&["--site", "7"]), count(&["--since", "2020-01-01"])), (0, all));
    assert_eq!(count(&["--since", "tomorrow"]), 0);
    let wrong = |words: &[&str], parts: &[&str]| {
        let words: Vec<&str> = std::iter::once("conflicts").chain(words.iter().copied()).collect();
        refused(fleet, A, &words, USAGE, parts);
    };
    wrong(&["list", "--since", "soonish"], &["--since", "no time"]);
    wrong(&["list", "--site", "ship-x"], &["--site", "ship-x"]);
    wrong(&["show", "999999"], &["no conflict 999999"]);
    wrong(&["undo", "999999"], &["no conflict 999999"]);
}

#[test]
fn a_row_that_was_deleted_while_somebody_changed_it_can_be_made_again() {
    let fleet = parted(2);
    for bed in [1, 2] {
        act(&fleet, A, "dr. jones", &format!("DELETE FROM bed WHERE id = {bed}"));
        let changed = "patient = 'Bob', price = 7";
        act(&fleet, B, "dr. smith", &format!("UPDATE bed SET {changed} WHERE id = {bed}"));
    }
    meet(&fleet);
    let first = |site| {
        let lines = list(&fleet, site, &["--table", "bed"]);
        let of = |line: &&Json| line["row_key"] == "1" && line["column"] == "price";
        lines.iter().find(of).cloned().unwrap_or_else(|| panic!("{site}: {lines:#?}"))
    };
    let line = first(A);
    assert_eq!(
        (&line["winner"]["is"], &line["winner"]["actor"]),
        (&"delete".into(), &"dr. jones".into())
    );
    // Where the row was deleted, nobody knows any more what else it had.
    not_undone(&fleet, A, &[&id_of(&line)], &["ok, since, stay;", "insert the row"]);
    let id = id_of(&first(B));
    let dry = run(&fleet, B, &["undo", &id, "--dry-run"]).success();
    assert!(dry.contains("stay: \"1 day -02:00:00\"") && dry.contains("can be undone"), "{dry}");
    fleet.sql(B, "ALTER TABLE bed ADD COLUMN later text DEFAULT 'since then'");
    fleet.sql(A, "ALTER TABLE bed ADD COLUMN later text DEFAULT 'since then'");
    run(&fleet, B, &["undo", &id, "--as", "dr. house"]).success();
    fleet.converge();
    let whole =
        "SELECT concat_ws('|', patient, since AT TIME ZONE 'UTC', stay, ok, price, later) FROM bed";
    for site in SITES {
        let row = "Bob|2026-03-01 08:00:00|1 day -02:00:00|t|7.00|since then";
        assert_eq!(value(&fleet, site, whole), row, "{site}");
    }
    let undone = list(&fleet, B, &["--undone"]);
    assert_eq!(undone.iter().filter(|line| line["row_key"] == "1").count(), 2);
    assert_eq!((undone.len(), list(&fleet, B, &["--open"]).len()), (2, 2));
    not_undone(&fleet, A, &[&id_of(&first(A))], &["row 1 of public.bed is there again"]);
    assert_quiet(&fleet, &SITES, &[]);
}

#[test]
fn the_actor_named_at_the_end_of_a_large_transaction_made_all_of_it() {
    let beds = 4_000;
    let fleet = pair().config("\n[limits]\ntransaction_bytes_max = 65536\n").start();
    fleet.sql(A, &format!("INSERT INTO bed (id) SELECT generate_series(1, {beds})"));
    fleet.converge();
    fleet.link(A, B).cut();
    let named = "SELECT landfall.act_as('night shift')";
    fleet.sql(A, &format!("BEGIN; UPDATE bed SET patient = repeat('A', 50); {named}; COMMIT"));
    let some = format!("id IN (1, 77, {beds})");
    act(&fleet, B, "dr. smith", &format!("UPDATE bed SET patient = 'B' WHERE {some}"));
    meet(&fleet);
    for site in SITES {
        let sides = "SELECT string_agg(DISTINCT loser_actor || '/' || winner_actor, ', ') || count(*) \
                     FROM landfall.conflict";
        assert_eq!(value(&fleet, site, sides), "night shift/dr. smith3", "{site}");
    }
    assert_quiet(&fleet, &SITES, &[]);
}

#[test]
fn old_lines_are_removed_and_the_young_stay() {
    let mut fleet = pair().config("\n[history]\nkeep_days = 30\n").start();
    stop(&fleet, A);
    let line =
        "INSERT INTO landfall.conflict (recorded_at, table_name, row_key, rule, winner_origin,
        winner_seq, winner_at, loser_origin, loser_seq, loser_at, loser_value)
        SELECT now() - age, 'public.bed', '1', 'last_writer_wins', '1.0000000000000001', 1, now(),
        '2.0000000000000001', 1, now(), 'Ann' FROM (VALUES ";
    fleet.sql(A, &format!("{line} (interval '31 days')) a(age), generate_series(1, 1200)"));
    fleet.sql(A, &format!("{line} (interval '29 days'), (interval '1 hour')) a(age)"));
    launch(&mut fleet, A);
    wait_until("old lines to go", SOON, || {
        let left = value(&fleet, A, "SELECT count(*) FROM landfall.conflict");
        if left == "2" { Ok(()) } else { Err(format!("{left} lines are left")) }
    });
    wait_until("status to tell it", SOON, || {
        let status = fleet.member(A).status().map_err(|error| format!("{error:#}"))?;
        let history = &status["history"];
        let told = history["removed"] == 1200 && history["keep_days"] == 30;
        if told { Ok(()) } else { Err(format!("{history}")) }
    });
    // Lines of an older version say less, and are listed all the same.
    let lines = list(&fleet, A, &["--site", B]);
    assert_eq!((lines.len(), &lines[0]["loser"]["name"]), (2, &"site 2".into()));
    not_undone(&fleet, A, &[&id_of(&lines[0])], &["older version"]);
    assert_quiet(&fleet, &SITES, &[]);
}

#[test]
fn a_history_that_an_older_version_made_is_brought_up_to_date_by_init() {
    let mut fleet = parted(1);
    stop(&fleet, A);
    let columns = ["key_columns", "winner_site", "loser_row", "undone_at"];
    let drops = columns.map(|name| format!("DROP COLUMN {name}")).join(", ");
    fleet.sql(A, &format!("ALTER TABLE landfall.conflict {drops}; DROP FUNCTION landfall.act_as"));
    refused(&fleet, A, &["conflicts", "list"], OPERATOR, &["landfall.conflict", "run init"]);
    fleet.sql(A, "UPDATE bed SET patient = 'Ann' WHERE id = 1");
    fleet.sql(B, "UPDATE bed SET patient = 'Bob' WHERE id = 1");
    launch(&mut fleet, A);
    fleet.link(A, B).heal();
    wait_for_status(&fleet, A, "/apply/cause", "run landfall-node init");
    let made = fleet.member(A).command(&["init"]).run(SOON).expect("run init").success();
    assert!(made.contains("made  the history of conflicts has all its columns"), "{made}");
    assert!(made.contains("made  everybody may name"), "{made}");
    fleet.converge();
    assert_eq!(list(&fleet, A, &[])[0]["loser"]["value"], "Ann");
    assert_eq!(value(&fleet, A, "SELECT count(*) FROM landfall.parked"), "0");
    assert_quiet(&fleet, &SITES, &[]);
}
