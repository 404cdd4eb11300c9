//! Values that only one row may have: whatever happens at the same time, no snapshot of any site shows
//! one twice, nothing halts, nothing is lost, and all sites show the same in the end.

use landfall_tests::dice::Dice;
use landfall_tests::fleet::Fleet;

use crate::sites::{
    A, B, C, Writer, all_say, cut, heal, is_sound, is_sound_but_for, race, rules, three,
};
use crate::support::{value, wait_value};

const PERSON: &str = "\
CREATE TABLE person (id int PRIMARY KEY, email text UNIQUE, name text, visits int DEFAULT 0);
INSERT INTO person VALUES (1, 'one', 'old', 1), (2, 'two', 'old', 2), (3, 'three', 'old', 3);";
const PEOPLE: &str = "SELECT string_agg(concat_ws(' ', id, coalesce(email, '-'), name), ', ' ORDER BY id) FROM person";
const ASIDE: &str = "SELECT coalesce(string_agg(row_key || ' ' || (cells ->> 'email'), ', ' \
                     ORDER BY row_key), '') FROM landfall.aside";

#[test]
fn the_older_row_keeps_its_value_and_the_other_comes_back_when_it_is_free() {
    let fleet = three(PERSON, &["public.person"]).start();
    cut(&fleet);
    fleet.sql(A, "INSERT INTO person VALUES (10, 'x', 'older')");
    fleet.sql(B, "INSERT INTO person VALUES (11, 'x', 'newer')");
    // Of a row that is older than the log.
    fleet.sql(C, "UPDATE person SET email = 'x', visits = 7 WHERE id = 3");
    heal(&fleet);
    all_say(&fleet, PEOPLE, "1 one old, 2 two old, 10 x older");
    all_say(&fleet, ASIDE, "11 x, 3 x");
    assert!(rules(&fleet).contains("unique_quarantine"), "{}", rules(&fleet));
    // Written while it is aside, by a site that cannot know.
    fleet.sql(A, "UPDATE person SET email = 'y' WHERE id = 10");
    let back = "SELECT count(*) FROM person WHERE id IN (3, 11)";
    all_say(&fleet, back, "1");
    fleet.sql(B, "DELETE FROM person WHERE email = 'x'");
    all_say(&fleet, "SELECT count(*) FROM landfall.aside", "0");
    all_say(&fleet, back, "1");
    is_sound(&fleet);
}

#[test]
fn the_younger_value_gets_an_ending_or_is_emptied_where_the_fleet_file_says_so() {
    let schema =
        "CREATE TABLE login (id int PRIMARY KEY, name varchar(12) NOT NULL UNIQUE, badge int);
        CREATE UNIQUE INDEX ON login (badge);";
    let unique = "[[table]]\nname = \"public.login\"\nunique = [\n\
        { columns = [\"name\"], loser = \"suffix\" }, { columns = [\"badge\"], loser = \"null\" }]\n";
    let fleet = three(schema, &["public.login"]).rules(unique).start();
    cut(&fleet);
    fleet.sql(A, "INSERT INTO login VALUES (1, 'annabella', 7), (10, 'cleo', 70)");
    fleet.sql(B, "INSERT INTO login VALUES (2, 'annabella', 8)");
    // In the way by both indexes.
    fleet.sql(B, "INSERT INTO login VALUES (11, 'cleo', 70)");
    fleet.sql(C, "INSERT INTO login VALUES (3, 'bob', 7)");
    heal(&fleet);
    let names = "SELECT string_agg(left(name, 4) || length(name) || coalesce(badge, 0), ' ' \
                 ORDER BY id) FROM login";
    all_say(&fleet, names, "anna97 ann~128 bob30 cleo470 cle~120");
    assert_eq!(value(&fleet, A, "SELECT count(*) FROM login WHERE name ~ '~[0-9a-f]{8}$'"), "2");
    let told = rules(&fleet);
    assert!(told.contains("unique_suffix") && told.contains("unique_null"), "{told}");
    assert!(!told.contains("unique_quarantine"), "{told}");
    all_say(&fleet, "SELECT count(*) FROM landfall.aside", "0");
    is_sound(&fleet);
}

/// PostgreSQL checks row by row what holds only once all of them are written.
#[test]
fn rows_that_exchange_their_values_do_not_clash() {
    let schema =
        "CREATE TABLE seat (id int PRIMARY KEY, place int NOT NULL UNIQUE DEFERRABLE, who text);
        CREATE TABLE rank (id int PRIMARY KEY, place int NOT NULL UNIQUE, who text);
        INSERT INTO seat SELECT n, n, 'guest ' || n FROM generate_series(1, 6) n;
        INSERT INTO rank SELECT * FROM seat;";
    let fleet = three(schema, &["public.seat", "public.rank"]).start();
    fleet.sql(A, "BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE seat SET place = 7 - place; COMMIT");
    fleet.sql(
        A,
        "BEGIN; UPDATE rank SET place = -1 WHERE id = 1; UPDATE rank SET place = 1 WHERE id = 2; \
         UPDATE rank SET place = 2 WHERE id = 3; UPDATE rank SET place = 3 WHERE id = 1; COMMIT",
    );
    fleet.converge();
    fleet.sql(
        B,
        "BEGIN; UPDATE rank SET place = place + 100; \
         UPDATE rank SET place = 1 + (place - 100) % 6 WHERE place > 1; COMMIT",
    );
    // A changed key keeps what only one row may have.
    fleet.sql(C, "UPDATE seat SET id = 60 WHERE id = 6");
    is_sound(&fleet);
    all_say(&fleet, "SELECT string_agg(place::text, ' ' ORDER BY id) FROM seat", "6 5 4 3 2 1");
    all_say(&fleet, "SELECT count(*) FROM landfall.aside", "0");
    assert_eq!(rules(&fleet), "; ; ");
}

#[test]
fn what_clashes_is_found_by_whatever_the_index_compares() {
    let schema = "\
        CREATE TABLE partly (id int PRIMARY KEY, code text, live bool NOT NULL);
        CREATE UNIQUE INDEX ON partly (code) WHERE live;
        CREATE TABLE lowered (id int PRIMARY KEY, code text);
        CREATE UNIQUE INDEX ON lowered (lower(code));
        CREATE TABLE emptied (id int PRIMARY KEY, a int, b int, UNIQUE NULLS NOT DISTINCT (a, b));
        CREATE TABLE \"Odd one\" (\"t\" int PRIMARY KEY, \"k0\" text, \"Ünique\" text UNIQUE, made text
            GENERATED ALWAYS AS (\"k0\" || '!') STORED);
        CREATE TABLE ward (id int PRIMARY KEY, no int UNIQUE DEFERRABLE INITIALLY DEFERRED);
        CREATE TABLE split (id int, part int, code text, PRIMARY KEY (id, part), UNIQUE (part, code))
            PARTITION BY LIST (part);
        CREATE TABLE split_1 PARTITION OF split FOR VALUES IN (1);
        CREATE TABLE split_2 PARTITION OF split FOR VALUES IN (2);";
    let tables = ["partly", "lowered", "emptied", "\"Odd one\"", "ward", "split"];
    let names = tables.map(|table| format!("public.{table}"));
    let fleet = three(schema, &names.each_ref().map(String::as_str)).start();
    cut(&fleet);
    fleet.sql(A, "INSERT INTO partly VALUES (1, 'x', true), (2, 'y', false)");
    fleet.sql(A, "INSERT INTO lowered VALUES (1, 'Ab')");
    fleet.sql(A, "INSERT INTO emptied VALUES (1, NULL, 3)");
    fleet.sql(A, "INSERT INTO \"Odd one\" VALUES (1, 'k', 'ü')");
    fleet.sql(A, "INSERT INTO ward VALUES (1, 5)");
    fleet.sql(A, "INSERT INTO split VALUES (1, 1, 'c'), (2, 2, 'c')");
    fleet.sql(B, "INSERT INTO partly VALUES (3, 'x', false), (4, 'y', true), (5, 'x', true)");
    fleet.sql(B, "INSERT INTO lowered VALUES (2, 'aB')");
    fleet.sql(B, "INSERT INTO emptied VALUES (2, NULL, 3)");
    fleet.sql(B, "INSERT INTO \"Odd one\" VALUES (2, 'k', 'ü')");
    fleet.sql(B, "INSERT INTO ward VALUES (2, 5)");
    fleet.sql(B, "INSERT INTO split VALUES (3, 1, 'c'), (4, 2, 'd')");
    heal(&fleet);
    all_say(&fleet, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM partly", "1 2 3 4");
    all_say(&fleet, "SELECT string_agg(id::text, ' ') FROM lowered", "1");
    all_say(&fleet, "SELECT string_agg(id::text, ' ') FROM emptied", "1");
    all_say(&fleet, "SELECT string_agg(t::text, ' ') FROM \"Odd one\"", "1");
    all_say(&fleet, "SELECT string_agg(id::text, ' ') FROM ward", "1");
    all_say(&fleet, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM split", "1 2 4");
    let aside = "SELECT string_agg(table_name || ' ' || row_key, ', ' ORDER BY table_name) \
                 FROM landfall.aside";
    all_say(&fleet, aside, "Odd one 2, emptied 2, lowered 2, partly 5, split 3,1, ward 2");
    fleet.sql(
        C,
        "DELETE FROM lowered; DELETE FROM emptied; DELETE FROM \"Odd one\"; DELETE FROM ward",
    );
    fleet.sql(C, "DELETE FROM split WHERE id = 1; UPDATE partly SET live = false WHERE id = 1");
    all_say(&fleet, "SELECT count(*) FROM landfall.aside", "0");
    all_say(&fleet, "SELECT string_agg(made || \"Ünique\", ' ') FROM \"Odd one\"", "k!ü");
    all_say(&fleet, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM split", "2 3 4");
    is_sound(&fleet);
}

#[test]
fn the_older_booking_stays_and_sends_all_away_that_it_overlaps() {
    let schema = "CREATE TABLE booking (id int PRIMARY KEY, at int4range NOT NULL, who text,
        EXCLUDE USING gist (at WITH &&));";
    let fleet = three(schema, &["public.booking"]).start();
    cut(&fleet);
    fleet.sql(A, "INSERT INTO booking VALUES (1, '[1,10)', 'a')");
    fleet.sql(
        B,
        "INSERT INTO booking VALUES (2, '[2,4)', 'b'), (3, '[6,8)', 'b'), (4, '[20,22)', 'b')",
    );
    fleet.sql(C, "INSERT INTO booking VALUES (5, '[21,30)', 'c')");
    heal(&fleet);
    let shown = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM booking";
    all_say(&fleet, shown, "1 4");
    assert!(rules(&fleet).contains("exclude_quarantine"), "{}", rules(&fleet));
    fleet.sql(C, "UPDATE booking SET at = '[1,3)' WHERE id = 1");
    all_say(&fleet, shown, "1 3 4");
    is_sound(&fleet);
}

/// What belongs to a row goes aside and comes back with it; a delete that did not know stands.
#[test]
fn children_follow_their_parent_and_deletes_stand() {
    let schema = format!(
        "{PERSON} CREATE TABLE visit (id int PRIMARY KEY, person int NOT NULL REFERENCES person, note text);
         CREATE TABLE pet (id int PRIMARY KEY, person int REFERENCES person ON DELETE CASCADE);"
    );
    let tables = ["public.person", "public.visit", "public.pet"];
    let fleet = three(&schema, &tables).start();
    let on = |site, sql, expected| wait_value(&fleet, site, sql, expected);
    let both = "SELECT count(*) FROM person WHERE id IN (11, 13)";
    cut(&fleet);
    fleet.sql(A, "INSERT INTO person VALUES (10, 'x', 'a'), (12, 'z', 'a')");
    fleet.sql(B, "INSERT INTO person VALUES (11, 'x', 'b'), (13, 'z', 'b')");
    fleet.sql(B, "INSERT INTO visit VALUES (1, 11, 'v'); INSERT INTO pet VALUES (1, 11)");
    fleet.link(B, C).heal();
    on(C, both, "2");
    fleet.link(B, C).cut();
    // Before the row is put aside, by a site that cannot know.
    fleet.sql(C, "DELETE FROM person WHERE id = 13; UPDATE visit SET note = 'w'");
    fleet.link(A, B).heal();
    for site in [A, B] {
        on(site, both, "0");
        on(site, "SELECT (SELECT count(*) FROM visit) + (SELECT count(*) FROM pet)", "0");
    }
    heal(&fleet);
    all_say(
        &fleet,
        "SELECT string_agg(row_key, ' ' ORDER BY table_name) FROM landfall.aside",
        "11 1 1",
    );
    fleet.sql(A, "DELETE FROM person WHERE id IN (10, 12)");
    all_say(&fleet, "SELECT count(*) FROM landfall.aside", "0");
    all_say(&fleet, PEOPLE, "1 one old, 2 two old, 3 three old, 11 x b");
    all_say(&fleet, "SELECT string_agg(note, ' ') || (SELECT count(*) FROM pet) FROM visit", "w1");
    // A child that comes after its parent went aside is parked.
    is_sound_but_for(&fleet, &["PostgreSQL refuses a transaction"]);
}

/// Applications write clashing values at all sites, and a reader at each looks for one that is there twice.
#[test]
fn nobody_ever_sees_a_value_twice_while_applications_race() {
    let schema =
        "CREATE TABLE slot (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED,
        tag text, UNIQUE (tag));";
    let unique = "[[table]]\nname = \"public.slot\"\n\
        unique = [{ columns = [\"tag\"], loser = \"suffix\" }]\n";
    let fleet = three(schema, &["public.slot"]).rules(unique).start();
    let twins =
        "SELECT count(place) - count(DISTINCT place) + count(tag) - count(DISTINCT tag) FROM slot";
    race(&fleet, 11, twins, &["23505"], write);
    let told = rules(&fleet);
    assert!(told.contains("unique_quarantine") && told.contains("unique_suffix"), "{told}");
    fleet.assert_quiet(&["rewrote rows"]);
}

fn write(writer: &Writer<'_>, mut dice: Dice) {
    let first = writer.place * 100_000;
    for number in 0..150 {
        let (place, id) = (dice.below(40), first + number);
        let sql = match dice.below(5) {
            0 => format!("DELETE FROM slot WHERE place = {place}"),
            1 => format!(
                "UPDATE slot SET place = {place} WHERE id % 11 = {} AND id / 100000 = {}",
                dice.below(11),
                first / 100_000
            ),
            2 => format!("UPDATE slot SET tag = 't{place}' WHERE place = {}", dice.below(40)),
            _ => format!("INSERT INTO slot VALUES ({id}, {place}, 't{}')", dice.below(60)),
        };
        writer.try_write(&sql);
    }
}

#[test]
fn rules_that_an_index_cannot_have_are_refused_with_the_reason() {
    let refused = |columns: &str, rule: &str, words: &str| {
        let schema = format!("CREATE TABLE t (id int PRIMARY KEY, other int, {columns})");
        let rules = format!("[[table]]\nname = \"public.t\"\nunique = [{rule}]\n");
        let fleet = Fleet::new(&schema, &["public.t"]).rules(&rules).unsynced().site(A);
        let error = format!("{:#}", fleet.try_start().expect_err("it is refused"));
        assert!(error.contains(words), "{columns}: {error}");
    };
    let of_n = |loser: &str| format!("{{ columns = [\"n\"], loser = \"{loser}\" }}");
    refused("n int UNIQUE", &of_n("suffix"), "none of its columns is text or varchar");
    refused("n varchar(9) UNIQUE", &of_n("suffix"), "no room for an ending");
    refused("n int NOT NULL UNIQUE", &of_n("null"), "none of its columns may be NULL");
    refused("n int, UNIQUE NULLS NOT DISTINCT (n)", &of_n("null"), "takes NULLs for equal");
    refused("n int, UNIQUE (n, other)", &of_n("quarantine"), "has no unique index of n");
    refused("n int UNIQUE", &of_n("first"), "must be one of \"quarantine\"");
}
