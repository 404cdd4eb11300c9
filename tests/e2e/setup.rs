//! A database is prepared by `init` or by a DBA, `check` says what is wrong with it, and every
//! mistake of an operator gets one clear sentence and its exit code.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use landfall_engine::config::load_fleet;
use landfall_engine::postgres::catalog::{
    self, Catalog, Identity, OnDelete, RelationKind, ReplicaIdentity,
};
use landfall_engine::postgres::connect::PgSettings;
use landfall_protocol::schema::{ColumnId, TableName};
use landfall_tests::cluster::Cluster;
use landfall_tests::process::{Finished, Program};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

const TABLES: &str = "
    CREATE TABLE patient (id uuid PRIMARY KEY, name text, bed int,
        CONSTRAINT one_per_bed UNIQUE (bed) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE \"Odd name\" (\"Key\" int PRIMARY KEY, w numeric(10,2))";

/// A member's files, and the database they speak of.
struct Member<'a> {
    cluster: &'a Cluster,
    db: &'a str,
    name: &'a str,
    dir: tempfile::TempDir,
    key: String,
}

impl<'a> Member<'a> {
    /// Makes the database, and a member of this name with a key and a fleet of its own.
    fn new(cluster: &'a Cluster, db: &'a str, name: &'a str, tables: &[&str]) -> Self {
        cluster.create_db(db);
        let member = Self::beside(cluster, db, name);
        member.write_fleet(tables);
        member
    }

    fn beside(cluster: &'a Cluster, db: &'a str, name: &'a str) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let mut member = Self { cluster, db, name, dir, key: String::new() };
        member.write_config(&cluster.socket_conninfo(db), "");
        member.key = member.keygen();
        member
    }

    fn keygen(&self) -> String {
        let said = self.command("keygen", &["--json"]).success();
        let drawn: Value = serde_json::from_str(&said).expect("JSON");
        drawn["public_key"].as_str().expect("a public key").to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_config(&self, conninfo: &str, more: &str) {
        let name = self.name;
        let text = format!(
            "name = \"{name}\"\ndata_dir = \"data\"\nfleet = \"fleet.toml\"\nkey = \"node.key\"\n\
             listen = \"127.0.0.1:0\"\n[postgres]\nconninfo = \"{conninfo}\"\n{more}"
        );
        fs::write(self.file("node.toml"), text).expect("write node.toml");
    }

    fn write_fleet(&self, tables: &[&str]) {
        self.write_fleet_with_key(tables, &self.key);
    }

    fn write_fleet_with_key(&self, tables: &[&str], key: &str) {
        let name = self.name;
        let text = format!(
            "version = 1\n[[set]]\nid = 1\nname = \"ward\"\ntables = {tables:?}\n[[member]]\nid = 1\n\
             name = \"{name}\"\nkey = \"{key}\"\naddresses = [\"127.0.0.1:7400\"]\n"
        );
        fs::write(self.file("fleet.toml"), text).expect("write fleet.toml");
    }

    fn command(&self, command: &str, args: &[&str]) -> Finished {
        let program = Program::landfall("landfall-node").arg(command).args(args);
        let program = program.arg("--config").arg(self.file("node.toml"));
        program.run(LIMIT).expect("run landfall-node")
    }

    /// Runs a command that must end with this code and say this in its only sentence.
    #[track_caller]
    fn fails(&self, command: &str, args: &[&str], code: i32, words: &str) {
        let finished = self.command(command, args);
        let said = &finished.stderr;
        assert_eq!(finished.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{words:?} is not in {said:?}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }

    /// What `check` found, as (severity, finding and advice).
    #[track_caller]
    fn findings(&self, code: i32) -> Vec<(String, String)> {
        let finished = self.command("check", &["--json"]);
        let shown = format!("{}{}", finished.stdout, finished.stderr);
        assert_eq!(finished.status.code(), Some(code), "{shown}");
        let report: Value = serde_json::from_str(&finished.stdout).expect("JSON");
        let findings = report["findings"].as_array().expect("findings");
        let text = |finding: &Value, key: &str| finding[key].as_str().expect("text").to_owned();
        let both = |f: &Value| {
            (text(f, "severity"), format!("{}: {}", text(f, "what"), text(f, "advice")))
        };
        findings.iter().map(both).collect()
    }

    /// Steps of `init` by what it did to them.
    #[track_caller]
    fn init(&self) -> (Vec<String>, Vec<String>) {
        let said = self.command("init", &["--json"]).success();
        let report: Value = serde_json::from_str(&said).expect("JSON");
        let steps = report["steps"].as_array().expect("steps");
        let of = |change: &str| {
            let steps = steps.iter().filter(|step| step["change"] == change);
            steps.map(|step| step["what"].as_str().expect("text").to_owned()).collect()
        };
        (of("made"), of("found"))
    }

    fn value(&self, sql: &str) -> Option<String> {
        self.cluster.query_value(self.db, sql)
    }

    #[track_caller]
    fn holds(&self, sql: &str) {
        assert_eq!(self.value(sql).as_deref(), Some("t"), "{sql}");
    }

    /// What `init` promises, asked of PostgreSQL itself.
    #[track_caller]
    fn is_prepared(&self, tables: usize) {
        let published = "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'landfall'";
        assert_eq!(self.value(published), Some(tables.to_string()));
        self.holds(
            "SELECT pubinsert AND pubupdate AND pubdelete AND NOT pubtruncate FROM pg_publication",
        );
        self.holds(&format!(
            "SELECT plugin = 'pgoutput' AND NOT temporary AND database = current_database()
             FROM pg_replication_slots WHERE slot_name = 'landfall_{}'",
            self.name
        ));
        self.holds(
            "SELECT bool_and(c.relreplident = 'f') FROM pg_class c
             JOIN pg_publication_tables t ON c.oid = format('%I.%I', schemaname, tablename)::regclass",
        );
        self.holds(
            "SELECT bool_and(tgenabled = 'A') FROM pg_trigger
             WHERE tgfoid = 'unique_key_recheck'::regproc",
        );
        for truncate in ["", "SET session_replication_role = replica; "] {
            let refused = self.cluster.try_sql(self.db, &format!("{truncate}TRUNCATE patient"));
            let error = format!("{:#}", refused.expect_err("a truncated table"));
            assert!(error.contains("cannot be truncated"), "{error}");
        }
    }
}

#[track_caller]
fn has(findings: &[(String, String)], severity: &str, words: &str) {
    let found = findings.iter().any(|(s, text)| s == severity && text.contains(words));
    assert!(found, "no {severity} says {words:?}: {findings:#?}");
}

#[track_caller]
fn has_none(findings: &[(String, String)], severity: &str) {
    let found: Vec<_> = findings.iter().filter(|(s, _)| s == severity).collect();
    assert!(found.is_empty(), "{found:#?}");
}

const BOTH: [&str; 2] = ["public.patient", "public.\"Odd name\""];

#[test]
fn init_prepares_a_database_once_and_takes_in_new_tables() {
    let cluster = Cluster::start("init", &[]);
    let ship = Member::new(&cluster, "ward", "ship", &BOTH);
    cluster.sql("ward", TABLES);
    let findings = ship.findings(1);
    has(&findings, "error", "slot \"landfall_ship\" is missing: run init");
    has(&findings, "error", "this database is not prepared for Landfall: 1");

    let (made, _) = ship.init();
    assert!(made.iter().any(|step| step == "table public.patient cannot be truncated"), "{made:?}");
    let [.., slot, store] = made.as_slice() else { panic!("{made:?}") };
    assert!(slot.starts_with("slot ") && store.starts_with("store "), "{made:?}");
    ship.is_prepared(2);
    has_none(&ship.findings(0), "error");
    let (made, found) = ship.init();
    assert_eq!(made, [""; 0], "the second init found something to do");
    assert!(found.len() > 10);

    cluster.sql("ward", "CREATE TABLE bed (id int PRIMARY KEY)");
    let slot = "SELECT restart_lsn FROM pg_replication_slots";
    let before = ship.value(slot);
    ship.write_fleet(&["public.patient", "public.bed"]);
    has(&ship.findings(1), "error", "publication \"landfall\" has exactly the tables of the fleet");
    let (made, _) = ship.init();
    assert!(made.iter().any(|step| step.contains("public.bed")), "{made:?}");
    ship.is_prepared(2);
    assert_eq!(ship.value(slot), before, "the slot is not the one it was");

    // Whatever somebody undid is found and done again.
    for undo in [
        "ALTER TABLE patient REPLICA IDENTITY DEFAULT",
        "ALTER TABLE patient DISABLE TRIGGER landfall_refuse_truncate",
        "DROP TRIGGER landfall_refuse_truncate ON patient",
        "ALTER PUBLICATION landfall SET (publish = 'insert')",
        "ALTER PUBLICATION landfall SET TABLE patient WHERE (bed > 1), bed",
        "ALTER PUBLICATION landfall SET TABLE patient (id), bed",
        "ALTER PUBLICATION landfall ADD TABLES IN SCHEMA landfall",
        "DROP TABLE landfall.parked",
    ] {
        cluster.sql("ward", undo);
        has(&ship.findings(1), "error", "init has not yet seen to it that");
        let (made, _) = ship.init();
        assert_eq!(made.len(), 1, "after {undo}: {made:?}");
        has_none(&ship.findings(0), "error");
    }
}

#[test]
fn a_role_without_rights_needs_the_sql_of_init_once() {
    let cluster = Cluster::start("dba", &[]);
    let ship = Member::new(&cluster, "ward", "ship", &BOTH);
    cluster.sql("ward", TABLES);
    cluster.sql("ward", "CREATE ROLE \"land fall\" LOGIN");
    let conninfo = cluster.socket_conninfo("ward").replace("user=postgres", "user='land fall'");
    ship.write_config(&conninfo, "");

    ship.fails("init", &[], 3, "init --print-sql");
    ship.holds("SELECT to_regnamespace('landfall') IS NULL");
    let sql = ship.command("init", &["--print-sql"]).success();
    cluster.sql("ward", &sql);
    cluster.sql("ward", &sql);
    let (made, found) = ship.init();
    let [slot, store] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!(slot, "slot \"landfall_ship\" keeps changes until they are captured");
    assert!(store.starts_with("store "), "{store}");
    assert!(found.len() > 10);
    ship.is_prepared(2);
    has_none(&ship.findings(0), "error");

    let session = landfall_tests::session::Session::open(&conninfo).expect("connect");
    let work = "SET session_replication_role = replica;
        INSERT INTO landfall.progress (origin, seq) VALUES ('1.1', 1);
        INSERT INTO landfall.parked (origin, seq, table_name, row_key, op, change, reason, advice)
            VALUES ('1.1', 1, 't', 'k', 'insert', '{}', 'r', 'a');
        INSERT INTO patient VALUES (gen_random_uuid(), 'a', 1);
        UPDATE patient SET name = 'b'; SELECT FROM patient FOR UPDATE; DELETE FROM patient";
    session.batch(work).expect("work as the daemon will");

    cluster.sql("ward", "REVOKE UPDATE ON patient FROM \"land fall\"");
    has(&ship.findings(1), "error", "role \"land fall\" may write to table public.patient");
    cluster.sql("ward", "GRANT UPDATE ON patient TO \"land fall\"");
    cluster.sql("ward", "ALTER TABLE patient ENABLE ROW LEVEL SECURITY");
    has(&ship.findings(1), "error", "row security of table public.patient");
}

#[test]
fn a_slot_is_never_made_anew_and_a_database_has_one_member() {
    let cluster = Cluster::start("slot", &[("max_slot_wal_keep_size", "1MB")]);
    let ship = Member::new(&cluster, "ward", "ship", &BOTH);
    cluster.sql("ward", TABLES);
    ship.init();

    fs::rename(ship.file("data"), ship.file("gone")).expect("move data_dir away");
    ship.fails("init", &[], 3, "captured from this database before and is not in data_dir");
    fs::rename(ship.file("gone"), ship.file("data")).expect("move data_dir back");
    assert_eq!(ship.init().0, [""; 0]);

    let other = Member::beside(&cluster, "ward", "barge");
    other.write_fleet(&BOTH);
    other.fails("init", &[], 3, "was prepared for member \"ship\", not for \"barge\"");
    other.holds("SELECT count(*) = 1 FROM pg_replication_slots");
    cluster.create_db("elsewhere");
    cluster.sql("elsewhere", TABLES);
    let conninfo = cluster.socket_conninfo("elsewhere");
    ship.write_config(&conninfo, "");
    ship.fails("init", &[], 3, "slot \"landfall_ship\" belongs to database \"ward\"");
    has(&ship.findings(1), "error", "slot \"landfall_ship\" belongs to database \"ward\"");

    let conninfo = cluster.socket_conninfo("ward");
    ship.write_config(&conninfo, "slot = \"new\"\n");
    ship.fails("init", &[], 3, "prepared with slot \"landfall_ship\", not \"new\"");
    ship.write_config(&conninfo, "");

    // More WAL than the slot may hold back, then a checkpoint that removes it.
    for _ in 0..4 {
        cluster.sql("ward", "INSERT INTO \"Odd name\" VALUES ((random() * 1e9)::int, 1)");
        cluster.sql("ward", "SELECT pg_switch_wal()");
    }
    cluster.sql("ward", "CHECKPOINT");
    has(&ship.findings(1), "error", "slot \"landfall_ship\" is lost");
    ship.fails("init", &[], 3, "slot \"landfall_ship\" is lost");

    cluster.sql("ward", "SELECT pg_drop_replication_slot('landfall_ship')");
    cluster.sql("ward", "SELECT pg_create_logical_replication_slot('landfall_ship', 'pgoutput')");
    cluster.sql("ward", "DROP PUBLICATION landfall");
    ship.fails("init", &[], 3, "publication \"landfall\" is missing, but slot");
    cluster.sql("ward", "SELECT pg_drop_replication_slot('landfall_ship')");
    ship.fails("init", &[], 3, "slot \"landfall_ship\" was in use and is gone");
    // Also when the database forgot: the store remembers.
    cluster.sql("ward", "DELETE FROM landfall.meta");
    ship.fails("init", &[], 3, "slot \"landfall_ship\" was in use and is gone");
    ship.holds("SELECT count(*) = 0 FROM pg_replication_slots");
}

#[test]
fn tables_that_cannot_be_replicated_are_told_with_what_to_do() {
    let cluster = Cluster::start("tables", &[]);
    let tables = [
        "public.absent",
        "public.keyless",
        "public.nearly",
        "public.fast",
        "public.seen",
        "public.parted",
        "public.part",
        "public.parent",
        "public.heir",
        "public.late",
        "public.counted",
        "public.child",
        "public.base",
        "public.fine",
    ];
    let ship = Member::new(&cluster, "ward", "ship", &tables);
    cluster.sql(
        "ward",
        "CREATE TABLE keyless (a int);
         CREATE TABLE nearly (a int NOT NULL UNIQUE, b int);
         CREATE UNLOGGED TABLE fast (a int PRIMARY KEY);
         CREATE VIEW seen AS SELECT 1 AS a;
         CREATE TABLE parted (a int PRIMARY KEY) PARTITION BY RANGE (a);
         CREATE UNLOGGED TABLE part PARTITION OF parted DEFAULT;
         CREATE TABLE parent (a int PRIMARY KEY);
         CREATE TABLE heir (PRIMARY KEY (a)) INHERITS (parent);
         CREATE TABLE late (a int PRIMARY KEY DEFERRABLE);
         CREATE TABLE counted (a bigserial PRIMARY KEY);
         CREATE TABLE outside (a int PRIMARY KEY);
         CREATE TABLE child (a int PRIMARY KEY REFERENCES outside);
         CREATE TABLE base (a int PRIMARY KEY);
         CREATE TABLE stranger (a int REFERENCES base);
         CREATE TABLE fine (a int PRIMARY KEY, code int UNIQUE);
         ALTER TABLE child ADD code int REFERENCES fine (code);
         CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER audit AFTER INSERT ON fine FOR EACH ROW EXECUTE FUNCTION audit();
         ALTER TABLE fine ENABLE ALWAYS TRIGGER audit",
    );
    let findings = ship.findings(1);
    for (severity, words) in [
        ("error", "table public.absent of the fleet file is not in this database"),
        ("error", "run ALTER TABLE \"public\".\"keyless\" ADD COLUMN landfall_id uuid PRIMARY KEY"),
        ("error", "run ALTER TABLE \"public\".\"nearly\" ADD PRIMARY KEY (\"a\")"),
        ("error", "run ALTER TABLE \"public\".\"fast\" SET LOGGED"),
        ("error", "public.seen is not a table"),
        ("error", "partition public.part of table public.parted is unlogged"),
        ("error", "table public.part is a partition: put the partitioned table"),
        ("error", "other tables inherit from table public.parent: use partitions"),
        (
            "error",
            "table public.heir inherits from another table: run ALTER TABLE \"public\".\"heir\"",
        ),
        ("error", "primary key of table public.late is deferrable"),
        ("warning", "keys of table public.counted come from sequence public.counted_a_seq"),
        ("warning", "leads to table public.outside, which is not replicated"),
        ("warning", "names rows of table public.fine by something else than the primary key"),
        ("warning", "table public.stranger, which is not replicated, has a foreign key"),
        ("warning", "trigger \"audit\" of table public.fine also fires"),
    ] {
        has(&findings, severity, words);
    }
    assert!(!findings.iter().any(|(_, text)| text.contains("write to table public.absent")));
    ship.fails("init", &[], 3, "database is not ready for replication: table public.absent");
    ship.holds("SELECT to_regnamespace('landfall') IS NULL");
    ship.holds("SELECT count(*) = 0 FROM pg_publication");
}

#[test]
fn keys_and_columns_that_cannot_travel_are_told_with_what_to_do() {
    let cluster = Cluster::start("columns", &[]);
    let tables = ["folded", "amount", "fixed", "nested", "derived", "always", "odd_types"];
    let tables = tables.map(|name| format!("public.{name}"));
    let ship = Member::new(&cluster, "ward", "ship", &tables.each_ref().map(String::as_str));
    cluster.sql(
        "ward",
        "CREATE EXTENSION citext;
         CREATE DOMAIN name_of_bed AS citext;
         CREATE DOMAIN price AS numeric(10,2);
         CREATE TYPE span AS (a int, b numrange);
         CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE folded (a text COLLATE any_case PRIMARY KEY);
         CREATE TABLE amount (a name_of_bed PRIMARY KEY);
         CREATE TABLE fixed (a price, b varchar(9), c char(3), d inet, PRIMARY KEY (a, b, c, d));
         CREATE TABLE nested (a span[] PRIMARY KEY);
         CREATE TABLE derived (a int GENERATED ALWAYS AS (1) STORED PRIMARY KEY);
         CREATE TABLE always (a int PRIMARY KEY, b int GENERATED ALWAYS AS IDENTITY);
         CREATE TABLE odd_types (a int PRIMARY KEY, b regclass, c \"char\"[], d aclitem)",
    );
    let findings = ship.findings(1);
    for words in [
        "key column a of table public.folded has the nondeterministic collation \"any_case\"",
        "key column a of table public.amount is of type public.citext",
        "key column a of table public.nested is of type numeric, in which equal values",
        "primary key column a of table public.derived is generated",
        "run ALTER TABLE \"public\".\"always\" ALTER COLUMN \"b\" SET GENERATED BY DEFAULT",
        "column b of table public.odd_types is of type regclass",
        "column c of table public.odd_types is of type \"char\"",
        "column d of table public.odd_types is of type aclitem",
    ] {
        has(&findings, "error", words);
    }
    assert!(!findings.iter().any(|(_, text)| text.contains("public.fixed")), "{findings:#?}");
    ship.fails("init", &[], 3, "database is not ready for replication: ");
}

#[test]
fn what_else_is_in_the_database_is_named_with_what_to_do() {
    let cluster = Cluster::start("objects", &[("deadlock_timeout", "500ms")]);
    let ship = Member::new(&cluster, "ward", "ship", &["public.bed"]);
    cluster.sql(
        "ward",
        "CREATE TABLE bed (id int PRIMARY KEY);
         CREATE TABLE outside (a bigserial);
         CREATE TABLE cut (a int) PARTITION BY RANGE (a);
         CREATE TABLE cut_1 PARTITION OF cut DEFAULT;
         CREATE SEQUENCE numbers;
         CREATE TEMP TABLE passing (a int);
         CREATE UNLOGGED TABLE scratch (a int);
         CREATE MATERIALIZED VIEW summary AS SELECT 1 AS a;
         SELECT lo_create(0)",
    );
    let findings = ship.findings(1);
    for (severity, words) in [
        (
            "ok",
            "tables are not in the fleet file and not replicated (2): public.cut, public.outside",
        ),
        ("ok", "unlogged tables are not replicated (1): public.scratch"),
        ("ok", "each site counts by itself (2): public.numbers, public.outside_a_seq"),
        ("ok", "materialized views are not replicated (1): public.summary"),
        ("warning", "large objects are not replicated (1)"),
        ("warning", "deadlock_timeout is shorter than a second"),
    ] {
        has(&findings, severity, words);
    }
    assert!(!findings.iter().any(|(_, text)| text.contains("passing")), "{findings:#?}");
}

#[test]
fn servers_that_cannot_replicate_are_told_with_what_to_do() {
    let cluster = Cluster::start(
        "server",
        &[
            ("wal_level", "replica"),
            ("synchronous_standby_names", "*"),
            ("synchronous_commit", "local"),
        ],
    );
    let ship = Member::new(&cluster, "ward", "ship", &["public.bed"]);
    cluster.sql("ward", "CREATE TABLE bed (id int PRIMARY KEY)");
    let findings = ship.findings(1);
    has(&findings, "error", "wal_level is replica");
    has(&findings, "ok", "the database is encoded in UTF8");
    ship.fails("init", &[], 3, "wal_level is replica");
    cluster.sql("ward", "ALTER DATABASE ward SET synchronous_commit = 'on'");
    has(&ship.findings(1), "error", "every commit waits for Landfall");

    let latin = "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0";
    cluster.sql("postgres", latin);
    cluster.sql("latin", "CREATE TABLE bed (id int PRIMARY KEY)");
    ship.write_config(&cluster.socket_conninfo("latin"), "");
    has(&ship.findings(1), "error", "the database is encoded in LATIN1");
}

#[test]
fn every_mistake_gets_one_sentence_and_its_exit_code() {
    let cluster = Cluster::start("mistakes", &[]);
    let ship = Member::new(&cluster, "ward", "ship", &["public.bed"]);
    cluster.sql("ward", "CREATE TABLE bed (id int PRIMARY KEY)");
    for (command, args) in
        [("status", &[][..]), ("wait", &["--for", "delivered", "--timeout", "1"])]
    {
        ship.fails(command, args, 4, "no daemon is running: nobody answers at ");
    }
    ship.fails("keygen", &[], 2, "exists already");

    let conninfo = cluster.socket_conninfo("ward");
    ship.write_config(&conninfo, "sslrootcert = \"x\"\n");
    for command in ["run", "init", "check", "status"] {
        ship.fails(command, &[], 2, "node.toml:8: postgres.sslrootcert: unknown field");
    }
    ship.write_config("host=", "");
    ship.fails("run", &[], 2, "node.toml: postgres: connection string");
    ship.write_config(&cluster.socket_conninfo("nowhere"), "");
    ship.fails("init", &[], 4, "has no database \"nowhere\"");
    ship.write_config(&conninfo, "");

    let other = "4cb5abf6ad79fbf5abbccafcc269d85cd2651ed4b885b5869f241aedf0a5ba29";
    let fleet = fs::read_to_string(ship.file("fleet.toml")).expect("read");
    ship.write_fleet_with_key(&["public.bed"], other);
    ship.fails("run", &[], 2, "fleet.toml: member \"ship\" has another public key than ");
    fs::write(ship.file("fleet.toml"), fleet.replace("[[set]]", "[[sets]]")).expect("write");
    ship.fails("run", &[], 2, "fleet.toml:2: sets: unknown field");
    fs::write(ship.file("fleet.toml"), &fleet).expect("write");
    fs::remove_file(ship.file("node.key")).expect("remove");
    ship.fails("run", &[], 2, "run landfall-node keygen to make one");
    let key = ship.keygen();

    cluster.stop_fast();
    ship.write_fleet_with_key(&["public.bed"], &key);
    ship.fails("init", &[], 4, "cannot reach PostgreSQL at ");
    ship.fails("check", &[], 4, "cannot reach PostgreSQL at ");

    let usage = Program::landfall("landfall-node").arg("wait").run(LIMIT).expect("run");
    assert_eq!(usage.status.code(), Some(2), "{}", usage.stderr);
    let help = Program::landfall("landfall-hub").arg("--help").run(LIMIT).expect("run").success();
    assert!(help.contains("Exit codes:"), "{help}");
}

#[test]
fn a_hub_without_postgres_has_only_its_store_to_prepare() {
    let dir = tempfile::tempdir().expect("make a directory");
    let file = |name: &str| dir.path().join(name);
    let text = "name = \"shore\"\ndata_dir = \"data\"\nfleet = \"fleet.toml\"\nkey = \"hub.key\"\n";
    fs::write(file("hub.toml"), text).expect("write hub.toml");
    let hub = |command: &str, args: &[&str]| {
        let program = Program::landfall("landfall-hub").arg(command).args(args);
        program.arg("--config").arg(file("hub.toml")).run(LIMIT).expect("run landfall-hub")
    };
    let drawn: Value = serde_json::from_str(&hub("keygen", &["--json"]).success()).expect("JSON");
    let key = drawn["public_key"].as_str().expect("a public key");
    let fleet = format!(
        "version = 1\n[[set]]\nid = 1\nname = \"ward\"\ntables = [\"public.bed\"]\n[[member]]\n\
         id = 1\nname = \"shore\"\nkey = \"{key}\"\nrole = \"hub\"\n"
    );
    fs::write(file("fleet.toml"), fleet).expect("write fleet.toml");
    assert!(hub("init", &["--print-sql"]).success().contains("nothing to prepare"));
    assert!(hub("init", &[]).success().contains("made  store "));
    assert!(hub("init", &[]).success().contains("found store "));
    let status = hub("status", &[]);
    assert_eq!(status.status.code(), Some(4), "{}", status.stderr);
}

fn read_catalog(cluster: &Cluster, db: &str, tables: &[&str]) -> Catalog {
    let dir = tempfile::tempdir().expect("make a directory");
    let file = dir.path().join("fleet.toml");
    let key = "4cb5abf6ad79fbf5abbccafcc269d85cd2651ed4b885b5869f241aedf0a5ba29";
    let text = format!(
        "version = 1\n[[set]]\nid = 9\nname = \"ward\"\ntables = {tables:?}\n\
         [[member]]\nid = 1\nname = \"ship\"\nkey = \"{key}\"\n"
    );
    fs::write(&file, text).expect("write fleet.toml");
    let fleet = load_fleet(&file).expect("a fleet");
    let settings = PgSettings::parse(&cluster.socket_conninfo(db), None).expect("settings");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("rt");
    runtime.block_on(async {
        let (mut client, driver) = settings.connect("catalog", &[]).await.expect("connect");
        let driver = tokio::spawn(driver);
        let catalog = catalog::read(&mut client, &fleet).await.expect("read");
        drop(client);
        driver.await.expect("join").expect("end of session");
        catalog
    })
}

#[test]
fn the_catalog_describes_tables_as_they_travel_and_as_they_are_here() {
    let cluster = Cluster::start("catalog", &[]);
    cluster.create_db("ward");
    cluster.sql(
        "ward",
        "CREATE SCHEMA \"Ward 7\"; CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TABLE \"Ward 7\".patient (
             gone int, name varchar(40) NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY,
             site smallint, feels mood, bed int, price numeric(10,2), seen timestamptz,
             label text GENERATED ALWAYS AS (name || '!') STORED, mother bigint, msite smallint,
             PRIMARY KEY (site, id), UNIQUE NULLS NOT DISTINCT (bed) DEFERRABLE,
             CONSTRAINT sane CHECK (price > 0 AND bed > 0),
             CONSTRAINT kin FOREIGN KEY (msite, mother) REFERENCES \"Ward 7\".patient (site, id)
                 ON DELETE SET NULL,
             EXCLUDE USING btree (name WITH =));
         ALTER TABLE \"Ward 7\".patient DROP COLUMN gone;
         CREATE UNIQUE INDEX by_lower ON \"Ward 7\".patient (bed, lower(name)) WHERE bed > 3;
         CREATE TABLE note (id uuid PRIMARY KEY, n int DEFAULT 1)",
    );
    let catalog =
        read_catalog(&cluster, "ward", &["\"Ward 7\".patient", "public.note", "public.absent"]);
    assert_eq!(catalog.missing, [TableName::new("public", "absent")]);
    assert_eq!(catalog.tables.len(), 2);
    let name = TableName::new("Ward 7", "patient");
    let table = catalog.table(&name).expect("the table");
    assert_eq!(catalog.table_by_oid(table.oid), Some(table));

    let columns: Vec<_> =
        table.def.columns.iter().map(|c| (c.name.as_str(), c.type_name.as_str())).collect();
    let expected = [
        ("name", "character varying(40)"),
        ("id", "bigint"),
        ("site", "smallint"),
        ("feels", "public.mood"),
        ("bed", "integer"),
        ("price", "numeric(10,2)"),
        ("seen", "timestamp with time zone"),
        ("mother", "bigint"),
        ("msite", "smallint"),
    ];
    assert_eq!(columns, expected);
    assert_eq!(table.def.key, [ColumnId(2), ColumnId(1)]);
    assert_eq!(table.def.set.0, 9);
    let generated: Vec<_> =
        table.generated.iter().map(|g| (g.name.as_str(), g.is_stored)).collect();
    assert_eq!(generated, [("label", true)]);
    assert_eq!(table.kind, RelationKind::Table);
    assert_eq!(table.replica_identity, ReplicaIdentity::Default);
    assert!(table.is_heap && !table.is_unlogged && !table.is_child && !table.has_children);
    assert!(!table.key_is_deferrable && !table.has_row_security);
    let id = &table.columns[1];
    assert_eq!((id.number, id.identity, id.is_not_null), (3, Some(Identity::Always), true));
    assert_eq!(id.sequence.as_ref().map(|s| s.increment), Some(1));
    let [kin] = table.foreign_keys.as_slice() else { panic!("{:?}", table.foreign_keys) };
    assert_eq!((kin.name.as_str(), &kin.parent, kin.on_delete), ("kin", &name, OnDelete::SetNull));
    assert_eq!(
        (&kin.columns[..], &kin.parent_columns[..]),
        (&["msite".to_owned(), "mother".to_owned()][..], &["site".to_owned(), "id".to_owned()][..])
    );
    assert!(kin.set_columns == kin.columns && kin.names_primary_key && table.def.rules.is_parent);
    assert_eq!(table.referenced_by, std::slice::from_ref(&name));
    let [lower, bed] = table.unique.as_slice() else { panic!("{:?}", table.unique) };
    assert_eq!((lower.name.as_str(), &lower.columns[..]), ("by_lower", &["bed".to_owned()][..]));
    assert!(lower.has_expressions && lower.is_partial && !lower.is_deferrable);
    assert!(bed.is_deferrable && bed.nulls_are_equal && !bed.is_partial && !bed.has_expressions);
    assert_eq!(table.checks.len(), 1);
    assert_eq!(table.checks[0].columns, ["bed", "price"]);
    assert_eq!(table.exclusions[0].columns, ["name"]);
    assert!(table.triggers.iter().any(|t| t.is_recheck && t.is_internal && !t.fires_in_replica));
}
