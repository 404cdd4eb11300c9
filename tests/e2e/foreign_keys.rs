//! Foreign keys across sites: whatever happens at the same time, no snapshot of any site shows a row
//! without its parent, and all sites show the same in the end.

use landfall_tests::dice::Dice;
use landfall_tests::fleet::SOON;
use landfall_tests::wait::wait_until;

use crate::sites::{
    A, B, C, SITES, Writer, all_say, cut, heal, is_sound, join, race, rules, three,
};
use crate::support::value;

/// Wards 1 to 9 and the desk, ward 0, are older than every log.
const WARDS: &str = "\
CREATE TABLE ward (id int PRIMARY KEY, name text, note text);
CREATE TABLE keep (id int PRIMARY KEY, ward int REFERENCES ward, said text);
CREATE TABLE cascade (id int PRIMARY KEY, ward int REFERENCES ward ON DELETE CASCADE, said text);
CREATE TABLE empty (id int PRIMARY KEY, ward int REFERENCES ward ON DELETE SET NULL, said text);
CREATE TABLE usual (id int PRIMARY KEY,
    ward int DEFAULT 0 REFERENCES ward ON DELETE SET DEFAULT, said text);
CREATE INDEX ON keep (ward); CREATE INDEX ON cascade (ward); CREATE INDEX ON empty (ward);
CREATE INDEX ON usual (ward);
INSERT INTO ward SELECT n, 'ward ' || n, 'old' FROM generate_series(0, 9) n;";
const WARD_TABLES: [&str; 5] =
    ["public.ward", "public.keep", "public.cascade", "public.empty", "public.usual"];

const ORPHANS: &str = "\
SELECT count(*) FROM (SELECT ward FROM keep UNION ALL SELECT ward FROM cascade
    UNION ALL SELECT ward FROM empty UNION ALL SELECT ward FROM usual) c
WHERE ward IS NOT NULL AND NOT EXISTS (SELECT FROM ward w WHERE w.id = c.ward)";

#[test]
fn a_child_of_a_deleted_parent_keeps_it_goes_too_or_lets_go() {
    let fleet = three(WARDS, &WARD_TABLES).start();
    fleet.sql(C, "UPDATE ward SET name = 'new' WHERE id = 2");
    fleet.converge();
    cut(&fleet);
    // The deletes are made at one site, the children at another.
    fleet.sql(A, "UPDATE ward SET name = 'last' WHERE id = 1");
    fleet.sql(A, "DELETE FROM ward WHERE id BETWEEN 1 AND 5");
    fleet.sql(B, "INSERT INTO keep VALUES (1, 1, 'x'), (2, 2, 'x')");
    fleet.sql(B, "INSERT INTO cascade VALUES (3, 3, 'gone')");
    fleet.sql(B, "INSERT INTO empty VALUES (4, 4, 'let go')");
    fleet.sql(B, "INSERT INTO usual VALUES (5, 5, 'as usual')");
    fleet.sql(C, "UPDATE ward SET note = 'from c' WHERE id = 1");
    heal(&fleet);
    let wards = "SELECT string_agg(concat_ws(' ', id, name, note), ', ' ORDER BY id) FROM ward \
                 WHERE id BETWEEN 1 AND 5";
    all_say(&fleet, wards, "1 last from c, 2 new old");
    all_say(&fleet, "SELECT count(*) FROM cascade", "0");
    all_say(
        &fleet,
        "SELECT concat_ws(' ', id, coalesce(ward, -1), said) FROM empty",
        "4 -1 let go",
    );
    all_say(&fleet, "SELECT concat_ws(' ', id, ward, said) FROM usual", "5 0 as usual");
    all_say(&fleet, ORPHANS, "0");
    // Who met both sides first says so; who hears of the remedy with the delete has nothing to say.
    let told = rules(&fleet);
    for rule in ["fk_restrict 2", "fk_cascade 1", "fk_set_null 1", "fk_set_default 1"] {
        assert!(told.contains(rule), "{rule} is missing: {told}");
    }
    is_sound(&fleet);
}

#[test]
fn what_is_beneath_keeps_the_whole_chain() {
    let schema = "\
        CREATE TABLE house (id int PRIMARY KEY, name text);
        CREATE TABLE room (house int REFERENCES house ON DELETE CASCADE, no int, name text,
            PRIMARY KEY (house, no));
        CREATE TABLE bed (id int PRIMARY KEY, house int, room int,
            FOREIGN KEY (house, room) REFERENCES room ON DELETE CASCADE);
        CREATE TABLE patient (id int PRIMARY KEY, bed int REFERENCES bed);
        CREATE TABLE part (id int PRIMARY KEY, of int REFERENCES part, name text);
        CREATE TABLE man (id int PRIMARY KEY, wife int);
        CREATE TABLE wife (id int PRIMARY KEY, man int REFERENCES man ON DELETE CASCADE);
        ALTER TABLE man ADD FOREIGN KEY (wife) REFERENCES wife ON DELETE CASCADE;";
    let tables = ["house", "room", "bed", "patient", "part", "man", "wife"];
    let tables = tables.map(|table| format!("public.{table}"));
    let fleet = three(schema, &tables.each_ref().map(String::as_str)).start();
    fleet.sql(A, "INSERT INTO house VALUES (1, 'one'), (2, 'two')");
    fleet.sql(A, "INSERT INTO room VALUES (1, 1, 'r'), (2, 1, 's')");
    fleet.sql(A, "INSERT INTO bed VALUES (1, 1, 1), (2, 2, 1), (3, 1, 1)");
    fleet.sql(A, "INSERT INTO part VALUES (1, NULL, 'root'), (2, 1, 'leaf')");
    fleet.sql(A, "INSERT INTO man VALUES (1, NULL), (2, NULL); INSERT INTO wife VALUES (1, 1), (2, 2); UPDATE man SET wife = id");
    fleet.converge();
    cut(&fleet);
    fleet.sql(A, "DELETE FROM house; DELETE FROM part WHERE id = 2; DELETE FROM part; DELETE FROM man WHERE id = 1");
    fleet.sql(B, "INSERT INTO patient VALUES (1, 1)");
    fleet.sql(C, "INSERT INTO part VALUES (3, 2, 'twig'); INSERT INTO bed VALUES (4, 2, 1)");
    heal(&fleet);
    all_say(&fleet, "SELECT string_agg(name, ' ') FROM house", "one");
    all_say(&fleet, "SELECT string_agg(name, ' ') FROM room", "r");
    all_say(
        &fleet,
        "SELECT string_agg(id::text, ' ' ORDER BY id) FROM bed WHERE house = 1 AND id = 1",
        "1",
    );
    all_say(&fleet, "SELECT count(*) FROM bed WHERE house = 2", "0");
    all_say(&fleet, "SELECT string_agg(name, ' ' ORDER BY id) FROM part", "root leaf twig");
    all_say(&fleet, "SELECT (SELECT count(*) FROM man) + (SELECT count(*) FROM wife)", "2");
    is_sound(&fleet);
}

#[test]
fn an_update_wins_over_a_delete_where_the_fleet_file_says_so() {
    let schema = "CREATE TABLE bed (id int PRIMARY KEY, patient text, note text, uses int); \
        INSERT INTO bed SELECT n, 'nobody', 'old', 5 FROM generate_series(1, 4) n;";
    let wins = "[[table]]\nname = \"public.bed\"\ndeletes = \"update_wins\"\n\
        columns = { uses = \"counter\" }\n";
    let fleet = three(schema, &["public.bed"]).rules(wins).start();
    fleet.sql(A, "UPDATE bed SET note = 'new', uses = uses + 1 WHERE id = 2");
    fleet.converge();
    cut(&fleet);
    fleet.sql(A, "DELETE FROM bed");
    fleet.sql(B, "UPDATE bed SET patient = 'Bob' WHERE id = 1");
    fleet.sql(C, "UPDATE bed SET uses = uses + 10 WHERE id = 2");
    fleet.sql(B, "DELETE FROM bed WHERE id = 3");
    heal(&fleet);
    let beds =
        "SELECT string_agg(concat_ws(' ', id, patient, note, uses), ', ' ORDER BY id) FROM bed";
    all_say(&fleet, beds, "1 Bob old 5, 2 nobody new 16");
    let told = rules(&fleet);
    assert!(told.contains("update_wins"), "{told}");
    fleet.sql(A, "DELETE FROM bed WHERE id = 1");
    fleet.converge();
    all_say(&fleet, "SELECT string_agg(id::text, ' ') FROM bed", "2");
    is_sound(&fleet);
}

#[test]
fn a_row_that_went_with_its_parent_can_be_brought_back() {
    let fleet = three(WARDS, &WARD_TABLES).start();
    cut(&fleet);
    fleet.sql(A, "DELETE FROM ward WHERE id = 3");
    fleet.sql(B, "INSERT INTO cascade VALUES (3, 3, 'gone')");
    fleet.link(A, B).heal();
    wait_until("the child to go", SOON, || {
        let left = value(&fleet, B, "SELECT count(*) FROM cascade");
        if left == "0" { Ok(()) } else { Err(left) }
    });
    heal(&fleet);
    let line =
        "SELECT id FROM landfall.conflict WHERE rule = 'fk_cascade' AND loser_row IS NOT NULL";
    let id = value(&fleet, B, line);
    let undo = |expected: Option<&str>| {
        let command = fleet.member(B).command(&["conflicts", "undo", &id]);
        let done = command.run(SOON).expect("run conflicts");
        match expected {
            Some(refusal) => assert!(done.stderr.contains(refusal), "{}", done.stderr),
            None => drop(done.success()),
        }
    };
    undo(Some("foreign key"));
    fleet.sql(B, "INSERT INTO ward VALUES (3, 'anew')");
    undo(None);
    fleet.converge();
    all_say(&fleet, "SELECT concat_ws(' ', id, ward, said) FROM cascade", "3 3 gone");
    fleet.assert_quiet(&[]);
}

/// Parents and their children are deleted in different fragments.
#[test]
fn a_large_transaction_is_looked_at_as_a_whole() {
    let schema = "CREATE TABLE item (id int PRIMARY KEY, name text); \
        CREATE TABLE line (id int PRIMARY KEY, item int NOT NULL REFERENCES item, note text); \
        CREATE TABLE tag (id int PRIMARY KEY, item int REFERENCES item ON DELETE CASCADE); \
        CREATE INDEX ON line (item); CREATE INDEX ON tag (item);";
    let fleet = three(schema, &["public.item", "public.line", "public.tag"])
        .config("[limits]\ntransaction_bytes_max = 65536\n")
        .start();
    let all = "FROM generate_series(1, 3000) n";
    fleet.sql(A, &format!("INSERT INTO item SELECT n, 'item ' || n {all}"));
    fleet.sql(A, &format!("INSERT INTO line SELECT n, n, 'x' {all}"));
    fleet.converge();
    cut(&fleet);
    fleet.sql(A, "BEGIN; DELETE FROM line; DELETE FROM item; COMMIT");
    fleet.sql(B, "INSERT INTO line VALUES (9001, 7, 'new')");
    fleet.sql(B, "INSERT INTO tag VALUES (9002, 8), (9003, 9), (9004, 7)");
    heal(&fleet);
    all_say(&fleet, "SELECT string_agg(name, ', ' ORDER BY id) FROM item", "item 7");
    all_say(&fleet, "SELECT string_agg(note, ', ') FROM line", "new");
    all_say(&fleet, "SELECT string_agg(item::text, ', ') FROM tag", "7");
    is_sound(&fleet);
}

/// Parents that are named by a UNIQUE constraint, cut into partitions, or only in part let go of.
#[test]
fn a_parent_may_have_another_name_partitions_and_a_key_of_several_columns() {
    let schema = "\
        CREATE TABLE kind (id int PRIMARY KEY, code text UNIQUE NOT NULL);
        CREATE TABLE thing (id int PRIMARY KEY, kind text REFERENCES kind (code), said text);
        CREATE TABLE floor (house int, no int, name text, PRIMARY KEY (house, no))
            PARTITION BY RANGE (house);
        CREATE TABLE low PARTITION OF floor FOR VALUES FROM (0) TO (10);
        CREATE TABLE high PARTITION OF floor DEFAULT;
        CREATE TABLE door (id bigint, house smallint, no bigint, said text, PRIMARY KEY (id),
            FOREIGN KEY (no, house) REFERENCES floor (no, house) ON DELETE SET NULL (no))
            PARTITION BY HASH (id);
        CREATE TABLE door_0 PARTITION OF door FOR VALUES WITH (MODULUS 1, REMAINDER 0);";
    let tables = ["public.kind", "public.thing", "public.floor", "public.door"];
    let fleet = three(schema, &tables).start();
    fleet.sql(A, "INSERT INTO kind SELECT n, 'k' || n FROM generate_series(1, 3) n");
    fleet.sql(A, "INSERT INTO floor SELECT h, 1, 'f' FROM unnest('{1, 11}'::int[]) h");
    fleet.converge();
    cut(&fleet);
    fleet.sql(A, "DELETE FROM kind; DELETE FROM floor");
    fleet.sql(B, "INSERT INTO thing VALUES (1, 'k2', 'x'), (2, NULL, 'y')");
    fleet.sql(
        B,
        "INSERT INTO door VALUES (1, 1, 1, 'one'), (2, 11, 1, 'two'), (3, 5, NULL, 'three')",
    );
    join(&fleet);
    // Nobody can tell which row is missing, so a child waits until another site has brought it back.
    wait_until("the child of a parent by another name", SOON * 2, || {
        let sql = "SELECT count(*) FROM thing, kind";
        let counts = SITES.map(|site| value(&fleet, site, sql));
        if counts == ["2"; 3] { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    fleet.converge();
    all_say(&fleet, "SELECT string_agg(code, ', ') FROM kind", "k2");
    all_say(&fleet, "SELECT string_agg(said, ', ' ORDER BY id) FROM thing", "x, y");
    all_say(&fleet, "SELECT count(*) FROM floor", "0");
    let doors = "SELECT string_agg(concat_ws(' ', said, house, coalesce(no, -1)), ', ' ORDER BY id) \
                 FROM door";
    all_say(&fleet, doors, "one 1 -1, two 11 -1, three 5 -1");
    all_say(&fleet, "SELECT count(*) FROM landfall.parked", "0");
    fleet.assert_quiet(&["PostgreSQL refuses a transaction"]);
}

/// Applications insert children and delete parents at all sites, and a reader at each looks for a child
/// without a parent.
#[test]
fn nobody_ever_sees_an_orphan_while_applications_race() {
    let fleet = three(WARDS, &WARD_TABLES).start();
    race(&fleet, 7, ORPHANS, &["23503"], write);
    all_say(&fleet, ORPHANS, "0");
    let remedies = "SELECT count(*) FROM landfall.conflict WHERE rule LIKE 'fk_%'";
    let remedies = SITES.map(|site| value(&fleet, site, remedies));
    assert!(remedies.iter().any(|count| count != "0"), "nobody met anybody");
    all_say(&fleet, "SELECT count(*) FROM landfall.parked", "0");
    fleet.assert_quiet(&["rewrote rows", "PostgreSQL refuses a transaction"]);
}

#[test]
fn without_remedies_orphans_are_seen() {
    let fleet = three(WARDS, &WARD_TABLES).env("LANDFALL_PLANT", "no-remedies").start();
    cut(&fleet);
    fleet.sql(A, "DELETE FROM ward WHERE id = 1");
    fleet.sql(B, "INSERT INTO keep VALUES (1, 1, 'x')");
    join(&fleet);
    fleet.converge_planted();
    all_say(&fleet, ORPHANS, "1");
}

fn write(writer: &Writer<'_>, mut dice: Dice) {
    let (site, first) = (writer.site, writer.place * 100_000);
    for number in 0..300 {
        let (ward, child) = (dice.below(10), first + number);
        let table = ["keep", "cascade", "empty", "usual"][dice.below(4) as usize];
        let sql = match dice.below(6) {
            0 => format!("DELETE FROM ward WHERE id = {ward} AND id > 0"),
            1 => format!(
                "DELETE FROM keep WHERE ward = {ward}; DELETE FROM ward WHERE id = {ward} AND id > 0"
            ),
            2 => format!(
                "INSERT INTO ward VALUES ({ward}, '{site}', 'again') ON CONFLICT DO NOTHING"
            ),
            3 => format!("UPDATE {table} SET ward = {ward} WHERE id % 7 = {}", dice.below(7)),
            _ => format!("INSERT INTO {table} VALUES ({child}, {ward}, '{site}')"),
        };
        writer.try_write(&sql);
    }
}
