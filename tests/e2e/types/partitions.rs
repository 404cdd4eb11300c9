//! Partitioned tables: replicated as one table, cut into partitions as each site likes.

use landfall_tests::fleet::Fleet;

use super::shapes::settled;
use crate::support::value;

const A: &str = "a";
const B: &str = "b";

const BY_YEAR: &str = "
    CREATE TABLE stay (bed int, since date, patient text, n int DEFAULT 0, PRIMARY KEY (bed, since))
        PARTITION BY RANGE (since);
    CREATE TABLE stay_2024 PARTITION OF stay FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE stay_2025 (since date NOT NULL, n int DEFAULT 0, dropped int, patient text, bed int NOT NULL);
    ALTER TABLE stay_2025 DROP COLUMN dropped;
    ALTER TABLE stay ATTACH PARTITION stay_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');";
const BY_BED: &str = "
    CREATE TABLE stay (bed int, since date, patient text, n int DEFAULT 0, PRIMARY KEY (bed, since))
        PARTITION BY HASH (bed);
    CREATE TABLE stay_0 PARTITION OF stay FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE stay_1 PARTITION OF stay FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY RANGE (since);
    CREATE TABLE stay_1_all PARTITION OF stay_1 DEFAULT;";
const WHOLE: &str = "
    CREATE TABLE stay (bed int, since date, patient text, n int DEFAULT 0, PRIMARY KEY (bed, since))";

fn check(there: &str) {
    let fleet = Fleet::new(BY_YEAR, &["public.stay"]).site(A).site(B).link(A, B);
    let fleet = fleet.schema_of(B, there).unsynced().start();
    fleet.sql(A, "INSERT INTO stay SELECT bed, since, 'a' FROM generate_series(1, 9) bed, unnest(ARRAY['2024-05-01', '2025-05-01']::date[]) since");
    settled(&fleet, 18);
    fleet.sql(B, "UPDATE stay SET patient = 'b' WHERE bed % 2 = 0");
    settled(&fleet, 18);
    // From one partition to another, at either site.
    fleet.sql(A, "UPDATE stay SET since = since + 366 WHERE bed = 1 AND since = '2024-05-01'");
    fleet.sql(B, "UPDATE stay SET bed = bed + 13, since = '2024-12-31' WHERE bed = 2 AND since = '2025-05-01'");
    settled(&fleet, 18);
    fleet.link(A, B).cut();
    fleet.sql(A, "UPDATE stay SET patient = 'at a' WHERE bed = 4");
    fleet.sql(B, "UPDATE stay SET n = 7 WHERE bed = 4; DELETE FROM stay WHERE bed = 5");
    fleet.link(A, B).heal();
    settled(&fleet, 16);
    assert_eq!(
        value(&fleet, B, "SELECT string_agg(patient || n, ' ') FROM stay WHERE bed = 4"),
        "at a7 at a7"
    );

    // A partition made while all runs, both ways of making one, and rows in it at once.
    fleet.sql(
        A,
        "BEGIN;
         CREATE TABLE stay_2026 PARTITION OF stay FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
         INSERT INTO stay VALUES (1, '2026-01-01', 'new'); UPDATE stay SET patient = 'newer' WHERE since = '2026-01-01';
         COMMIT;
         CREATE TABLE stay_2027 (LIKE stay INCLUDING ALL);
         ALTER TABLE stay ATTACH PARTITION stay_2027 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
         INSERT INTO stay VALUES (1, '2027-01-01', 'new')",
    );
    // By somebody who knows nothing of replication and may do nothing else.
    fleet.sql(
        A,
        "CREATE ROLE clerk; ALTER TABLE stay OWNER TO clerk; GRANT CREATE ON SCHEMA public TO clerk;
         SET ROLE clerk;
         CREATE TABLE stay_2028 PARTITION OF stay FOR VALUES FROM ('2028-01-01') TO ('2029-01-01');
         INSERT INTO stay VALUES (1, '2028-01-01', 'new')",
    );
    fleet.sql(A, "UPDATE stay SET n = 1 WHERE since >= '2026-01-01'");
    fleet.sql(B, "UPDATE stay SET patient = 'seen' WHERE since >= '2026-01-01'");
    settled(&fleet, 19);
    for partition in ["stay", "stay_2024", "stay_2027"] {
        let refused = fleet.member(A).cluster().try_sql("ward", &format!("TRUNCATE {partition}"));
        let error = format!("{:#}", refused.expect_err("a truncated table"));
        assert!(error.contains("cannot be truncated"), "{error}");
    }
    let check = fleet.member(A).command(&["check"]).run(landfall_tests::fleet::SOON).expect("run");
    assert!(check.status.success(), "{}", check.stdout);
}

#[test]
fn a_table_cut_by_year_here_and_by_number_there_is_one_table() {
    check(BY_BED);
}

#[test]
fn a_table_that_is_partitioned_at_one_site_only_is_one_table() {
    check(WHOLE);
}
