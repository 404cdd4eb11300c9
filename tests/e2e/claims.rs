//! Unique indexes that do not look at columns as they are: over generated ones, and under collations to
//! which different texts are equal.

use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::wait::wait_until;

use crate::sites::{A, B, all_say, two};
use crate::support::{value, wait_value};

#[test]
fn rows_that_clash_by_a_generated_column_give_way_by_what_it_is_made_of() {
    let schema = "\
        CREATE TABLE mail (id int PRIMARY KEY, name text, at text DEFAULT 'here', whole text
            GENERATED ALWAYS AS (lower(name) || '@' || at) STORED UNIQUE);
        CREATE TABLE tag (id int PRIMARY KEY, name text, \"Low one\" text
            GENERATED ALWAYS AS (lower(name)) STORED UNIQUE);";
    let rules = "[[table]]\nname = \"public.tag\"\n\
                 unique = [{ columns = [\"name\"], loser = \"suffix\" }]\n";
    let fleet = two(schema, &["public.mail", "public.tag"]).rules(rules).start();
    fleet.link(A, B).cut();
    fleet.sql(A, "INSERT INTO mail (id, name) VALUES (1, 'Ann'), (3, 'bob')");
    fleet.sql(A, "INSERT INTO tag (id, name) VALUES (1, 'Ann')");
    fleet.sql(B, "INSERT INTO mail (id, name, at) VALUES (2, 'ANN', 'here'), (4, 'bob', 'there')");
    fleet.sql(B, "INSERT INTO tag (id, name) VALUES (2, 'ANN')");
    fleet.link(A, B).heal();
    all_say(
        &fleet,
        "SELECT string_agg(whole, ' ' ORDER BY id) FROM mail",
        "ann@here bob@here bob@there",
    );
    all_say(&fleet, "SELECT string_agg(row_key, ' ') FROM landfall.aside", "2");
    let tags =
        "SELECT string_agg(regexp_replace(name, '~[0-9a-f]{8}$', '~'), ' ' ORDER BY id) FROM tag";
    all_say(&fleet, tags, "Ann ANN~");
    fleet.sql(B, "UPDATE mail SET at = 'away' WHERE id = 1");
    all_say(&fleet, "SELECT count(*) FROM landfall.aside", "0");
    all_say(
        &fleet,
        "SELECT string_agg(whole, ' ' ORDER BY id) FROM mail WHERE id < 3",
        "ann@away ann@here",
    );
    assert_eq!(value(&fleet, A, "SELECT count(*) FROM landfall.parked"), "0");
    fleet.converge();
    fleet.assert_quiet(&[]);
}

#[test]
fn check_warns_of_collations_that_versions_of_a_library_read_differently() {
    let schema = "\
        CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE COLLATION strict (provider = icu, locale = 'und');
        CREATE TABLE word (id int PRIMARY KEY, said text COLLATE loose UNIQUE, code text COLLATE strict,
            UNIQUE (code));";
    let fleet = Fleet::new(schema, &["public.word"]).site(A).unsynced().start();
    let check = || fleet.member(A).command(&["check"]).run(SOON).expect("run check").stdout;
    let told = check();
    assert!(told.contains("has the nondeterministic collation \"loose\" (icu "), "{told}");
    assert!(!told.contains("was built with version"), "{told}");
    fleet.sql(A, "UPDATE pg_collation SET collversion = '0.0' WHERE collname = 'strict'");
    let told = check();
    for part in [
        "word_code_key of table public.word was built with version 0.0",
        "ALTER COLLATION \"strict\" REFRESH",
    ] {
        assert!(told.contains(part), "{part:?} is missing: {told}");
    }
}

#[test]
fn sites_to_which_other_texts_are_equal_do_not_exchange_the_table() {
    let schema = |level: u8| {
        format!(
            "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level{level}',
                deterministic = false);
             CREATE TABLE word (id int PRIMARY KEY, said text COLLATE loose UNIQUE);
             CREATE TABLE bed (id int PRIMARY KEY);"
        )
    };
    let fleet = two(&schema(2), &["public.word", "public.bed"]).schema_of(B, &schema(1)).start();
    fleet.sql(A, "INSERT INTO word VALUES (1, 'é'), (2, 'e'); INSERT INTO bed VALUES (1)");
    wait_value(&fleet, B, "SELECT count(*) FROM bed", "1");
    let why = "SELECT string_agg(DISTINCT reason, ';') FROM landfall.parked";
    wait_value(&fleet, B, "SELECT count(*) FROM landfall.parked", "2");
    let told = value(&fleet, B, why);
    for part in ["public.word is merged by other rules", "said compared by icu", "level2", "level1"]
    {
        assert!(told.contains(part), "{part:?} is missing: {told}");
    }
    wait_until("status to tell", SOON, || {
        let reasons = fleet.member(B).status().expect("status")["parked"]["reasons"].clone();
        if reasons["other_rules"] == 2 { Ok(()) } else { Err(format!("{reasons}")) }
    });
    fleet.sql(
        B,
        "CREATE COLLATION same (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         ALTER TABLE word ALTER said TYPE text COLLATE same",
    );
    all_say(&fleet, "SELECT string_agg(said, '' ORDER BY id) FROM word", "ée");
    fleet.sql(B, "INSERT INTO word VALUES (4, 'f')");
    all_say(&fleet, "SELECT count(*) FROM word", "3");
    fleet.converge();
    fleet.assert_quiet(&[]);
}
