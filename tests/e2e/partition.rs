//! Two sites write through a partition, and reconcile by rule: nothing is lost in silence.

use std::sync::atomic::{AtomicBool, Ordering};

use landfall_tests::fleet::{Builder, DB, Fleet};
use landfall_tests::session::Row;

use crate::support::{assert_quiet, conflicts, value};

const A: &str = "ship-a";
const B: &str = "ship-b";
const SITES: [&str; 2] = [A, B];

/// Two sites with a link of their own and no hub.
fn pair(schema: &str, tables: &[&str]) -> Builder {
    Fleet::new(schema, tables).site(A).site(B).link(A, B).unsynced()
}

/// One row per case: what the sites do to row `{}` during the partition, in this order, and what
/// both show and what each remembers afterwards.
struct Case {
    promise: &'static str,
    writes: &'static [(&'static str, &'static str)],
    shown: &'static str,
    /// `column rule loser value` at ship-a and at ship-b; loser 1 is ship-a, 2 is ship-b. A site
    /// tells each write it sees give way, so the lists may differ in what was overwritten twice.
    history: [Lines; 2],
}

type Lines = &'static [&'static str];

const fn both(lines: Lines) -> [Lines; 2] {
    [lines, lines]
}

/// Of rows that both sites have when the link is cut.
const KNOWN_ROWS: &[Case] = &[
    Case {
        promise: "different columns of one row both survive",
        writes: &[
            (A, "UPDATE bed SET a = 'A' WHERE id = {}"),
            (B, "UPDATE bed SET b = 'B' WHERE id = {}"),
        ],
        shown: "A B c0",
        history: both(&[]),
    },
    Case {
        promise: "the later of two writes of one column stays, the earlier is remembered",
        writes: &[
            (A, "UPDATE bed SET a = 'A' WHERE id = {}"),
            (B, "UPDATE bed SET a = 'B' WHERE id = {}"),
        ],
        shown: "B b0 c0",
        history: both(&["a last_writer_wins loser=1 A"]),
    },
    Case {
        promise: "it is the time that decides, not the site",
        writes: &[
            (B, "UPDATE bed SET a = 'B' WHERE id = {}"),
            (A, "UPDATE bed SET a = 'A', c = 'C' WHERE id = {}"),
        ],
        shown: "A b0 C",
        history: both(&["a last_writer_wins loser=2 B"]),
    },
    Case {
        promise: "of several writes of one site, each gives way to a later one of the other",
        writes: &[
            (A, "UPDATE bed SET a = 'A1' WHERE id = {}"),
            (A, "UPDATE bed SET a = 'A2', b = 'A2' WHERE id = {}"),
            (B, "UPDATE bed SET a = 'B1' WHERE id = {}"),
            (B, "UPDATE bed SET a = 'B2' WHERE id = {}"),
        ],
        shown: "B2 A2 c0",
        history: [
            &["a last_writer_wins loser=1 A2"],
            &["a last_writer_wins loser=1 A1", "a last_writer_wins loser=1 A2"],
        ],
    },
    Case {
        promise: "the same value twice is no conflict",
        writes: &[
            (A, "UPDATE bed SET a = 'same' WHERE id = {}"),
            (B, "UPDATE bed SET a = 'same' WHERE id = {}"),
        ],
        shown: "same b0 c0",
        history: both(&[]),
    },
    Case {
        promise: "NULL is a value like any other: it wins when it is later",
        writes: &[
            (A, "UPDATE bed SET a = 'A' WHERE id = {}"),
            (B, "UPDATE bed SET a = NULL WHERE id = {}"),
        ],
        shown: "NULL b0 c0",
        history: both(&["a last_writer_wins loser=1 A"]),
    },
    Case {
        promise: "NULL is a value like any other: it gives way when it is earlier",
        writes: &[
            (A, "UPDATE bed SET a = NULL WHERE id = {}"),
            (B, "UPDATE bed SET a = 'B' WHERE id = {}"),
        ],
        shown: "B b0 c0",
        history: both(&["a last_writer_wins loser=1 NULL"]),
    },
    Case {
        promise: "a delete wins over a later update, whose value is remembered",
        writes: &[
            (A, "DELETE FROM bed WHERE id = {}"),
            (B, "UPDATE bed SET b = 'B' WHERE id = {}"),
        ],
        shown: "gone",
        history: both(&["b delete_wins loser=2 B"]),
    },
    Case {
        promise: "a delete wins over an earlier update, whose value is remembered",
        writes: &[
            (B, "UPDATE bed SET b = 'B' WHERE id = {}"),
            (A, "DELETE FROM bed WHERE id = {}"),
        ],
        shown: "gone",
        history: both(&["b delete_wins loser=2 B"]),
    },
    Case {
        promise: "what both deleted is gone, and nobody lost anything",
        writes: &[(A, "DELETE FROM bed WHERE id = {}"), (B, "DELETE FROM bed WHERE id = {}")],
        shown: "gone",
        history: both(&[]),
    },
    Case {
        promise: "a row made anew after a delete elsewhere stays",
        writes: &[
            (A, "DELETE FROM bed WHERE id = {}"),
            (B, "DELETE FROM bed WHERE id = {}"),
            (B, "INSERT INTO bed VALUES ({}, 'B', 'B', 'B')"),
        ],
        shown: "B B B",
        history: [&[], &["* insert_after_delete loser=1 NULL"]],
    },
    Case {
        promise: "a write newer than the insert that makes the row anew stays with it",
        writes: &[
            (A, "DELETE FROM bed WHERE id = {}"),
            (A, "INSERT INTO bed VALUES ({}, 'A', 'A', 'A')"),
            (B, "DELETE FROM bed WHERE id = {}; INSERT INTO bed VALUES ({}, 'B', 'B', 'B')"),
            (A, "UPDATE bed SET a = 'A2' WHERE id = {}"),
        ],
        shown: "A2 B B",
        history: [
            &[
                "a last_writer_wins loser=2 B",
                "b last_writer_wins loser=1 A",
                "c last_writer_wins loser=1 A",
            ],
            &[
                "* insert_after_delete loser=1 NULL",
                "a last_writer_wins loser=1 A",
                "a last_writer_wins loser=2 B",
                "b last_writer_wins loser=1 A",
                "c last_writer_wins loser=1 A",
            ],
        ],
    },
    Case {
        promise: "a changed key is a delete and an insert, so the old row takes updates with it",
        writes: &[
            (A, "UPDATE bed SET id = -id WHERE id = {}"),
            (B, "UPDATE bed SET b = 'B' WHERE id = {}"),
        ],
        shown: "gone",
        history: both(&["b delete_wins loser=2 B"]),
    },
];

/// Of rows that neither site has when the link is cut.
const NEW_ROWS: &[Case] = &[
    Case {
        promise: "one key inserted twice is one row, the later insert's",
        writes: &[
            (A, "INSERT INTO bed VALUES ({}, 'A', 'same', NULL)"),
            (B, "INSERT INTO bed VALUES ({}, 'B', 'same', NULL)"),
        ],
        shown: "B same NULL",
        history: both(&["a last_writer_wins loser=1 A"]),
    },
    Case {
        promise: "one key inserted twice is merged column by column",
        writes: &[
            (A, "INSERT INTO bed VALUES ({}, 'A', 'A', 'A')"),
            (B, "INSERT INTO bed VALUES ({}, 'B', 'B', 'B')"),
            (A, "UPDATE bed SET c = 'A2' WHERE id = {}"),
        ],
        shown: "B B A2",
        history: [
            &[
                "a last_writer_wins loser=1 A",
                "b last_writer_wins loser=1 A",
                "c last_writer_wins loser=2 B",
            ],
            &[
                "a last_writer_wins loser=1 A",
                "b last_writer_wins loser=1 A",
                "c last_writer_wins loser=1 A",
                "c last_writer_wins loser=2 B",
            ],
        ],
    },
    Case {
        promise: "a row that was inserted and deleted again leaves the other's insert alone",
        writes: &[
            (A, "INSERT INTO bed VALUES ({}, 'A', 'A', 'A')"),
            (A, "DELETE FROM bed WHERE id = {}"),
            (B, "INSERT INTO bed VALUES ({}, 'B', 'B', 'B')"),
        ],
        shown: "B B B",
        history: [
            &[],
            &[
                "* insert_after_delete loser=1 NULL",
                "a last_writer_wins loser=1 A",
                "b last_writer_wins loser=1 A",
                "c last_writer_wins loser=1 A",
            ],
        ],
    },
];

#[test]
fn concurrent_writes_of_one_row_merge_by_rule_and_losers_are_remembered() {
    let schema = "CREATE TABLE bed (id int PRIMARY KEY, a text, b text, c text)";
    let fleet = pair(schema, &["public.bed"]).start();
    let known = KNOWN_ROWS.len();
    let rows = format!("SELECT n, 'a0', 'b0', 'c0' FROM generate_series(1, {known}) n");
    fleet.sql(A, &format!("INSERT INTO bed {rows}"));
    fleet.converge();
    fleet.link(A, B).cut();
    let cases = || (1..).zip(KNOWN_ROWS.iter().chain(NEW_ROWS));
    for (id, case) in cases() {
        for (site, sql) in case.writes {
            fleet.sql(site, &sql.replace("{}", &id.to_string()));
        }
    }
    fleet.link(A, B).heal();
    fleet.converge();
    let history = SITES.map(|site| (site, conflicts(&fleet, site)));
    for (id, case) in cases() {
        check(&fleet, id, case, &history);
    }
    assert_eq!(
        value(&fleet, A, "SELECT concat_ws(' ', a, b, c) FROM bed WHERE id < 0"),
        "a0 b0 c0"
    );
    assert_quiet(&fleet, &SITES, &[]);
}

fn check(fleet: &Fleet, id: u32, case: &Case, history: &[(&str, Vec<String>)]) {
    let promise = case.promise;
    let cells = ["a", "b", "c"].map(|column| format!("coalesce({column}, 'NULL')")).join(", ");
    let sql = format!("SELECT concat_ws(' ', {cells}) FROM bed WHERE id = {id}");
    let shown: String = fleet.rows(A, &sql).into_iter().flatten().flatten().collect();
    assert_eq!(if shown.is_empty() { "gone" } else { &shown }, case.shown, "{promise}");
    for ((site, lines), expected) in history.iter().zip(case.history) {
        let row = format!("{id}/");
        let found: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix(&row)).collect();
        assert_eq!(found, expected, "{promise}: what {site} remembers");
    }
}

/// The same table with its columns in another order at each site, and every kind of key.
const KEYS: &str = r#"
CREATE SCHEMA "Größe & Maß";
CREATE TYPE mood AS ENUM ('calm', 'it''s "rough"');
DO $$ BEGIN
    IF current_setting('cluster_name') = 'ship-a' THEN
        CREATE TABLE "Größe & Maß"."Bett ""7""" (
            "Haus" text, "Zimmer Nr" int, "select" text, "Größe" numeric(6, 2), état mood,
            PRIMARY KEY ("Haus", "Zimmer Nr"));
    ELSE
        CREATE TABLE "Größe & Maß"."Bett ""7""" (
            état mood, "Größe" numeric(6, 2), "Zimmer Nr" int, "select" text, "Haus" text,
            PRIMARY KEY ("Haus", "Zimmer Nr"));
    END IF;
END $$;
CREATE TABLE note (title text PRIMARY KEY, body text, "at" timestamptz);
CREATE TABLE sample (id uuid, day date, amount numeric, raw bytea, tags text[], doc jsonb,
    ok boolean, ratio float8, PRIMARY KEY (day, id));
CREATE TABLE seat (row_no int, seat_no int, PRIMARY KEY (row_no, seat_no));
"#;

const BED: &str = r#""Größe & Maß"."Bett ""7""""#;

#[test]
fn keys_names_and_values_of_every_kind_arrive_as_they_were_written() {
    let tables = [BED, "public.note", "public.sample", "public.seat"];
    let fleet = pair(KEYS, &tables).start();
    let uuid = |n: u32| format!("'00000000-0000-0000-0000-{n:012}'");
    fleet.sql(
        A,
        &format!(
            r#"INSERT INTO {BED} ("Haus", "Zimmer Nr", "select", "Größe", état) VALUES
                ('Süd', 1, 'eins', 1.50, 'calm'), ('Süd', 2, NULL, NULL, NULL),
                ('', 1, '', -0.01, 'it''s "rough"'), ('a,b', 1, E'tab\t\nline \\ {{}} 🛏', 9999.99, NULL);
            INSERT INTO note VALUES ('', 'empty key', NULL), (' ', 'blank key', '2026-01-01 00:00+02'),
                ('ß''"\', repeat('long ', 50000), '-infinity'), ('NULL', NULL, 'infinity');
            INSERT INTO sample VALUES
                ({}, '2026-02-28', 1.10, '\x00ff', '{{a,NULL,"b c"}}', '{{"k": [1, 2.50]}}', true, 0.1),
                ({}, '0044-03-15 BC', 'NaN', '', '{{}}', 'null', false, '-Infinity'),
                ({}, 'infinity', 1e40, NULL, NULL, NULL, NULL, '-0');
            INSERT INTO seat SELECT r, s FROM generate_series(1, 3) r, generate_series(1, 3) s"#,
            uuid(1),
            uuid(2),
            uuid(3)
        ),
    );
    assert_eq!(fleet.converge(), 4 + 4 + 3 + 9);

    fleet.link(A, B).cut();
    fleet.sql(
        A,
        &format!(
            r#"UPDATE {BED} SET "Größe" = 2 WHERE "Zimmer Nr" = 1;
            UPDATE note SET title = title || '!' WHERE title <> 'NULL';
            DELETE FROM sample WHERE amount = 'NaN';
            UPDATE seat SET seat_no = seat_no + 10 WHERE row_no = 1;
            DELETE FROM seat WHERE row_no = 2"#
        ),
    );
    fleet.sql(
        B,
        &format!(
            r#"UPDATE {BED} SET état = 'calm', "select" = 'B' WHERE "Haus" IN ('Süd', '');
            UPDATE note SET body = 'B' WHERE title = 'NULL';
            UPDATE note SET "at" = NULL WHERE title LIKE 'ß%';
            UPDATE sample SET doc = '{{"B": 1}}', ratio = 2 WHERE ok;
            INSERT INTO seat VALUES (1, 11), (4, 1)"#
        ),
    );
    fleet.link(A, B).heal();
    assert_eq!(fleet.converge(), 4 + 4 + 2 + 3 + 3 + 1);
    let merged =
        format!(r#"SELECT concat_ws(' ', "select", "Größe", état) FROM {BED} WHERE "Haus" = ''"#);
    assert_eq!(value(&fleet, A, &merged), "B 2.00 calm");
    let renamed = "SELECT length(body) FROM note WHERE title LIKE 'ß%!'";
    assert_eq!(value(&fleet, B, renamed), "250000");
    assert_quiet(&fleet, &SITES, &[]);
}

const GROUPS: u64 = 4;
const ROUNDS: u64 = 6;

/// Every transaction writes one token into all rows of a group. Stamps belong to transactions, so
/// whichever wins, wins the whole group: after healing, and in every snapshot on the way there.
#[test]
fn transactions_stay_whole_through_partition_after_partition() {
    let schema = "CREATE TABLE cell (grp int, n int, token text, pad text, PRIMARY KEY (grp, n))";
    let fleet = pair(schema, &["public.cell"]).start();
    let rows = format!(
        "SELECT g, n, 'start' FROM generate_series(1, {GROUPS}) g, generate_series(1, 8) n"
    );
    fleet.sql(A, &format!("INSERT INTO cell {rows}"));
    fleet.converge();
    let mut tokens = Vec::new();
    for round in 0..ROUNDS {
        fleet.link(A, B).cut();
        for step in 0..GROUPS * 2 {
            // Both orders of writing, and different groups last, from round to round.
            let (group, site) =
                ((step + round) % GROUPS + 1, SITES[usize::from((step ^ round) % 3 == 0)]);
            let other = if site == A { B } else { A };
            for site in [site, other] {
                let token = format!("{site}/{round}/{step}");
                fleet.sql(site, &format!("UPDATE cell SET token = '{token}' WHERE grp = {group}"));
                tokens.push(token);
            }
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers = SITES.map(|site| {
                let (fleet, over) = (&fleet, &over);
                scope.spawn(move || watch_groups(fleet, site, over))
            });
            {
                let _over = SetWhenDropped(&over);
                fleet.link(A, B).heal();
                fleet.converge();
            }
            for reader in readers {
                assert!(reader.join().expect("reader") > 0, "nothing was read meanwhile");
            }
        });
    }
    let kept = "SELECT count(*) FROM (SELECT token FROM cell UNION SELECT loser_value FROM landfall.conflict) k WHERE token = ";
    let last = tokens.len() - usize::try_from(GROUPS * 2).expect("few");
    for token in &tokens[last..] {
        for site in SITES {
            assert_eq!(value(&fleet, site, &format!("{kept}'{token}'")), "1", "{token} at {site}");
        }
    }
    assert_quiet(&fleet, &SITES, &[]);
}

/// Lets readers end also when something else panics; a scope waits for all of its threads.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads until told that all is over; says how often.
fn watch_groups(fleet: &Fleet, site: &str, over: &AtomicBool) -> u32 {
    let session = fleet.member(site).cluster().session(DB).expect("connect");
    let mut looks = 0;
    while looks == 0 || !over.load(Ordering::Relaxed) {
        let torn =
            session.rows("SELECT grp FROM cell GROUP BY grp HAVING count(DISTINCT token) <> 1");
        assert_eq!(torn.expect("read"), Vec::<Row>::new(), "torn groups at {site}");
        looks += 1;
    }
    looks
}
