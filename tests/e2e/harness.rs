//! The harness keeps its own promises; every other test rests on them.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use landfall_tests::cluster::{Auth, Cluster, Disk};
use landfall_tests::compare;
use landfall_tests::process::Program;
use landfall_tests::wait::wait_for;

const WAIT: Duration = Duration::from_secs(30);

fn count(cluster: &Cluster) -> Option<String> {
    cluster.query_value("ward", "SELECT count(*) FROM bed")
}

fn with_beds(cluster: &Cluster, rows: &str) {
    cluster.create_db("ward");
    cluster.sql(
        "ward",
        &format!(
            "CREATE TABLE bed (id int PRIMARY KEY, patient text); INSERT INTO bed VALUES {rows}"
        ),
    );
}

#[test]
fn committed_rows_survive_a_kill_and_a_restart() {
    let cluster = Cluster::start("kill", &[]);
    with_beds(&cluster, "(1, 'a')");
    let session = cluster.session("ward").expect("connect");
    session.batch("BEGIN; INSERT INTO bed VALUES (2, 'never committed')").expect("insert");
    cluster.kill9();
    assert!(!cluster.is_running());
    assert!(session.rows("SELECT 1").is_err(), "the backend survived its postmaster");
    assert!(cluster.try_sql("ward", "SELECT 1").is_err(), "the server answers after its death");
    let port = cluster.port();
    cluster.restart();
    assert_eq!(cluster.port(), port);
    assert_eq!(count(&cluster).as_deref(), Some("1"));
    assert!(cluster.log().contains("was not properly shut down"), "that was no crash");

    cluster.configure(&[("work_mem", "5MB")]);
    cluster.restart();
    assert_eq!(cluster.query_value("ward", "SHOW work_mem").as_deref(), Some("5MB"));
    assert_eq!(count(&cluster).as_deref(), Some("1"));
}

#[test]
fn clusters_are_told_apart_and_have_the_settings_asked_for() {
    let a = Cluster::start("a", &[("max_wal_size", "64MB")]);
    let b = Cluster::options("b").disk(Disk::Unsynced).start().expect("start");
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    assert_ne!(a.query_value("postgres", identifier), b.query_value("postgres", identifier));
    let show = |cluster: &Cluster, name: &str| cluster.query_value("postgres", name);
    assert_eq!(show(&a, "SHOW max_wal_size").as_deref(), Some("64MB"));
    assert_eq!(show(&a, "SHOW fsync").as_deref(), Some("on"));
    assert_eq!(show(&b, "SHOW fsync").as_deref(), Some("off"));
    assert_eq!(show(&b, "SHOW wal_level").as_deref(), Some("logical"));
    // Decoding must start from the WAL that the new identifier was written into.
    b.sql("postgres", "SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
}

#[test]
fn password_clusters_refuse_a_wrong_password() {
    let cluster = Cluster::options("scram").auth(Auth::Scram).start().expect("start");
    assert_eq!(cluster.query_value("postgres", "SELECT 1").as_deref(), Some("1"));
    let wrong = format!("{}x", cluster.conninfo("postgres"));
    let error = landfall_tests::session::Session::open(&wrong).expect_err("a wrong password");
    assert!(format!("{error:#}").contains("password"), "{error:#}");
    let socket = landfall_tests::session::Session::open(&cluster.socket_conninfo("postgres"));
    assert_eq!(socket.expect("socket").rows("SELECT 2").expect("row"), [[Some("2".to_owned())]]);
}

#[test]
fn dropping_a_cluster_ends_its_server_and_removes_its_files() {
    let cluster = Cluster::start("gone", &[]);
    let (dir, port) = (cluster.dir().to_owned(), cluster.port());
    let pid = fs::read_to_string(cluster.data_dir().join("postmaster.pid")).expect("pid file");
    let pid: u32 = pid.lines().next().and_then(|line| line.parse().ok()).expect("a number");
    drop(cluster);
    assert!(!dir.exists());
    assert!(landfall_tests::processes::running(&[pid]).expect("table").is_empty());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_bad_setting_is_reported_with_the_words_of_the_server() {
    let error = Cluster::options("bad").conf("wal_level", "loud").start().expect_err("a bad value");
    let text = format!("{error:#}");
    assert!(text.contains("cluster bad") && text.contains("\"wal_level\": \"loud\""), "{text}");
    let error = Cluster::options("old").version(9).start().expect_err("no such version");
    let text = format!("{error:#}");
    assert!(text.contains("cluster old") && text.contains("PostgreSQL 9"), "{text}");
}

#[test]
fn comparison_pairs_rows_by_key_and_shows_what_differs() {
    let (a, b) = (Cluster::start("ship", &[]), Cluster::start("shore", &[]));
    with_beds(&a, "(1, 'x'), (2, NULL), (10, 'z')");
    with_beds(&b, "(10, 'z'), (2, NULL), (1, 'x')");
    // The same table with its columns in another order is the same table.
    let wide = "CREATE TABLE \"Odd name\" (\"Key\" int PRIMARY KEY, w numeric, at timestamptz)";
    a.sql("ward", &format!("{wide}; INSERT INTO \"Odd name\" VALUES (1, 1.50, '2026-01-01Z')"));
    b.sql("ward", "CREATE TABLE \"Odd name\" (w numeric, at timestamptz, \"Key\" int PRIMARY KEY)");
    b.sql("ward", "INSERT INTO \"Odd name\" VALUES (1.50, '2026-01-01 02:00+02', 1)");
    let (sites, tables) = ([(&a, "ward"), (&b, "ward")], ["public.bed", "public.\"Odd name\""]);
    assert_eq!(compare::assert_equal(&sites, &tables), 4);

    b.sql("ward", "UPDATE bed SET patient = '' WHERE id = 2; DELETE FROM bed WHERE id = 10");
    let found = compare::compare(&sites, &tables).expect("compare").differences;
    assert_eq!(
        found,
        "public.bed: 2 rows differ\n  key ('10')\n    ship/ward: id='10' patient='z'\n    \
         shore/ward: (no such row)\n  key ('2')\n    ship/ward: id='2' patient=NULL\n    \
         shore/ward: id='2' patient=''\n"
    );
    let panic = catch_unwind(AssertUnwindSafe(|| compare::assert_equal(&sites, &tables)));
    assert!(panic.is_err(), "unequal tables passed for equal");

    let shown = compare::rows(&a, "ward", "bed").expect("rows");
    assert!(shown.contains("│ id │ patient │") && shown.contains("│ 2  │ ·       │"), "{shown}");
}

#[test]
fn a_daemon_is_logged_killed_and_started_again() {
    let script = "echo started on $PLACE; echo careful >&2; exec cat /dev/zero > /dev/null";
    let daemon = Program::system("sh").args(["-c", script]).env("PLACE", "deck").start();
    let said = |times: usize| {
        wait_for("the daemon to speak", WAIT, || {
            (daemon.log().matches("started on deck\ncareful\n").count() == times).then_some(())
        });
    };
    said(1);
    assert_eq!(daemon.exited().expect("look"), None);
    daemon.kill9();
    assert_eq!(daemon.pid(), None);
    daemon.start_again();
    said(2);
    daemon.terminate();
    assert!(!daemon.wait_exit(WAIT).success());
}

#[test]
fn a_command_returns_both_outputs_and_its_code() {
    let script = "echo fact; echo 12:00 WARN why >&2; exit 3";
    let finished = Program::system("sh").args(["-c", script]).run(WAIT).expect("run");
    assert_eq!(finished.status.code(), Some(3));
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("fact\n", "12:00 WARN why\n")
    );
    let late = Program::system("cat").arg("/dev/zero").run(Duration::from_millis(50));
    assert!(late.is_err(), "a program that never ends has ended");
}

#[test]
fn unexpected_alarms_are_found_in_a_log() {
    let script = "echo '12:00 WARN link: cut'; echo '12:01 ERROR store: full'; echo '12:02 INFO x'";
    let daemon = Program::system("sh").args(["-c", script]).start();
    assert!(daemon.wait_exit(WAIT).success());
    assert_eq!(daemon.alarms(&["link: cut"]), ["12:01 ERROR store: full"]);
}
