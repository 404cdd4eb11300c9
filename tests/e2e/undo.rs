//! What gave way to a unique value or to a foreign key comes back, or the operator is told what to do.

use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::wait::wait_until;

use crate::sites::{A, B, all_say, heal, two};
use crate::support::{UNMET, refused, value};

/// The line of this rule about this row, and the site that has it.
#[track_caller]
fn line(fleet: &Fleet, rule: &str, row: &str) -> (&'static str, String) {
    let sql = format!(
        "SELECT min(id) FROM landfall.conflict WHERE rule = '{rule}' AND row_key = '{row}' \
         AND undone_at IS NULL"
    );
    let mut found = None;
    wait_until(&format!("a line of {rule} about row {row}"), SOON, || {
        let lines = [A, B].map(|site| (site, value(fleet, site, &sql)));
        found = lines.into_iter().find(|(_, id)| id != "NULL");
        if found.is_some() { Ok(()) } else { Err("there is none") }
    });
    found.expect("it was found")
}

#[track_caller]
fn undo(fleet: &Fleet, (site, id): &(&'static str, String), words: &[&str]) {
    let words: Vec<&str> = ["conflicts", "undo", id].iter().chain(words).copied().collect();
    let done = fleet.member(site).command(&words).run(SOON).expect("run").success();
    assert!(done.contains("is undone; the change replicates"), "{done}");
    fleet.converge();
}

#[track_caller]
fn not_undone(fleet: &Fleet, (site, id): &(&'static str, String), parts: &[&str]) {
    refused(fleet, site, &["conflicts", "undo", id], UNMET, parts);
}

#[test]
fn a_value_that_got_an_ending_or_was_emptied_comes_back_once_it_is_free() {
    let schema =
        "CREATE TABLE login (id int PRIMARY KEY, name varchar(12) NOT NULL UNIQUE, badge int);
        CREATE UNIQUE INDEX ON login (badge);";
    let unique = "[[table]]\nname = \"public.login\"\nunique = [\n\
        { columns = [\"name\"], loser = \"suffix\" }, { columns = [\"badge\"], loser = \"null\" }]\n";
    let fleet = two(schema, &["public.login"]).rules(unique).start();
    fleet.link(A, B).cut();
    fleet.sql(A, "INSERT INTO login VALUES (1, 'annabella', 7), (10, 'cleo', 70)");
    fleet.sql(B, "INSERT INTO login VALUES (2, 'annabella', 8), (3, 'bob', 7)");
    fleet.sql(B, "INSERT INTO login VALUES (11, 'cleo', 70)");
    heal(&fleet);
    let ended = line(&fleet, "unique_suffix", "2");
    let emptied = line(&fleet, "unique_null", "3");
    not_undone(
        &fleet,
        &ended,
        &["PostgreSQL refuses", "login_name_key", "the row that has the value"],
    );
    not_undone(&fleet, &emptied, &["PostgreSQL refuses", "login_badge_idx", "(7) already exists"]);
    assert_eq!(value(&fleet, ended.0, "SELECT count(*) FROM login WHERE name ~ '^ann~'"), "1");
    fleet.sql(A, "UPDATE login SET name = 'anna', badge = 1 WHERE id = 1");
    fleet.converge();
    undo(&fleet, &ended, &[]);
    undo(&fleet, &emptied, &[]);
    let all = "SELECT string_agg(concat_ws(' ', id, name, badge), ', ' ORDER BY id) FROM login \
               WHERE id < 10";
    all_say(&fleet, all, "1 anna 1, 2 annabella 8, 3 bob 7");
    not_undone(&fleet, &ended, &["was undone at"]);

    // What was written since is not overwritten.
    let (ended, emptied) = (line(&fleet, "unique_suffix", "11"), line(&fleet, "unique_null", "11"));
    fleet.sql(A, "DELETE FROM login WHERE id = 10; UPDATE login SET (name, badge) = ('kate', 5) WHERE id = 11");
    fleet.converge();
    not_undone(&fleet, &ended, &["column name of row 11 shows \"kate\" now", "--force"]);
    not_undone(&fleet, &emptied, &["column badge of row 11 shows \"5\" now", "--force"]);
    undo(&fleet, &ended, &["--force"]);
    fleet.sql(A, "UPDATE login SET badge = 70 WHERE id = 11");
    fleet.converge();
    not_undone(&fleet, &emptied, &["shows what gave way already"]);
    all_say(&fleet, "SELECT concat_ws(' ', name, badge) FROM login WHERE id = 11", "cleo 70");
    fleet.assert_quiet(&[]);
}

#[test]
fn a_row_that_is_put_aside_is_not_undone_and_undo_says_what_frees_it() {
    let schema = "CREATE TABLE person (id int PRIMARY KEY, email text UNIQUE);
        CREATE TABLE pet (id int PRIMARY KEY, person int REFERENCES person ON DELETE CASCADE);
        CREATE TABLE booking (id int PRIMARY KEY, at int4range NOT NULL, EXCLUDE USING gist (at WITH &&));";
    let fleet = two(schema, &["public.person", "public.pet", "public.booking"]).start();
    fleet.link(A, B).cut();
    fleet.sql(A, "INSERT INTO person VALUES (10, 'x'); INSERT INTO booking VALUES (20, '[1,9)')");
    fleet.sql(B, "INSERT INTO person VALUES (11, 'x'); INSERT INTO pet VALUES (5, 11)");
    fleet.sql(B, "INSERT INTO booking VALUES (21, '[2,3)')");
    heal(&fleet);
    all_say(&fleet, "SELECT count(*) FROM landfall.aside", "3");
    let aside = line(&fleet, "unique_quarantine", "11");
    let comes_back = "it comes back by itself when that row is changed, deleted or shown again";
    not_undone(
        &fleet,
        &aside,
        &["row 11 of public.person is put aside", "row 10 has what", comes_back],
    );
    let booking = line(&fleet, "exclude_quarantine", "21");
    not_undone(&fleet, &booking, &["row 21 of public.booking is put aside", "row 20", comes_back]);
    let pet = line(&fleet, "fk_quarantine", "5");
    not_undone(&fleet, &pet, &["row 5 of public.pet", "row 11 of table public.person", comes_back]);
    fleet.sql(B, "DELETE FROM person WHERE id = 10; DELETE FROM booking WHERE id = 20");
    all_say(&fleet, "SELECT count(*) FROM landfall.aside", "0");
    all_say(&fleet, "SELECT person FROM pet", "11");
    fleet.converge();
    not_undone(&fleet, &aside, &["row 11 of public.person is there again"]);
    fleet.sql(A, "DELETE FROM booking");
    fleet.converge();
    not_undone(&fleet, &booking, &["row 21 of public.booking is gone", "insert it again"]);
    fleet.assert_quiet(&[]);
}

#[test]
fn what_gave_way_to_a_foreign_key_comes_back_with_its_parent() {
    let schema = "CREATE TABLE ward (id int PRIMARY KEY, name text);
        CREATE TABLE keep (id int PRIMARY KEY, ward int REFERENCES ward);
        CREATE TABLE cascade (id int PRIMARY KEY, ward int REFERENCES ward ON DELETE CASCADE, said text);
        CREATE TABLE empty (id int PRIMARY KEY, ward int REFERENCES ward ON DELETE SET NULL);
        CREATE TABLE usual (id int PRIMARY KEY, ward int DEFAULT 0 REFERENCES ward ON DELETE SET DEFAULT);
        INSERT INTO ward SELECT n, 'old' FROM generate_series(0, 4) n;";
    let tables = ["ward", "keep", "cascade", "empty", "usual"].map(|name| format!("public.{name}"));
    let fleet = two(schema, &tables.each_ref().map(String::as_str)).start();
    fleet.link(A, B).cut();
    fleet.sql(A, "DELETE FROM ward WHERE id > 0");
    fleet.sql(B, "INSERT INTO keep VALUES (10, 1); INSERT INTO cascade VALUES (20, 2, 'gone')");
    fleet.sql(B, "INSERT INTO empty VALUES (30, 3); INSERT INTO usual VALUES (40, 4)");
    heal(&fleet);
    all_say(&fleet, "SELECT coalesce(ward, -1) FROM empty", "-1");
    all_say(&fleet, "SELECT ward FROM usual", "0");
    let kept = line(&fleet, "fk_restrict", "1");
    not_undone(
        &fleet,
        &kept,
        &["no value", "delete row 1 of public.ward", "after what references it"],
    );
    let [gone, emptied, usual] =
        [("fk_cascade", "20"), ("fk_set_null", "30"), ("fk_set_default", "40")]
            .map(|(rule, row)| line(&fleet, rule, row));
    for line in [&gone, &emptied] {
        not_undone(&fleet, line, &["PostgreSQL refuses", "bring back the row that it references"]);
    }
    not_undone(&fleet, &usual, &["is not kept", "--force"]);
    fleet.sql(A, "INSERT INTO ward SELECT n, 'anew' FROM generate_series(2, 4) n");
    fleet.converge();
    undo(&fleet, &gone, &[]);
    undo(&fleet, &emptied, &[]);
    undo(&fleet, &usual, &["--force"]);
    all_say(&fleet, "SELECT concat_ws(' ', id, ward, said) FROM cascade", "20 2 gone");
    all_say(&fleet, "SELECT concat_ws(' ', id, ward) FROM empty", "30 3");
    all_say(&fleet, "SELECT concat_ws(' ', id, ward) FROM usual", "40 4");
    fleet.assert_quiet(&[]);
}
