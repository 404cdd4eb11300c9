//! What a daemon serves to a collector of metrics.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use landfall_tests::fleet::Fleet;
use landfall_tests::ports;

use crate::support::{Edited, USAGE, assert_quiet, config, launch, refused, stop, value, wait};

const SHIP: &str = "ship";
const SHORE: &str = "shore";
const SCHEMA: &str = "CREATE TABLE bed (id int PRIMARY KEY, patient text)";

/// The status line's code, and the body.
fn ask(port: u16, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.write_all(request.as_bytes()).expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.unwrap_or_else(|| panic!("no status in {head}")), body.to_owned())
}

/// The value of the sample with this name and these labels.
fn sample(body: &str, name: &str) -> Option<i64> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    body.lines().find_map(value)
}

#[test]
fn a_collector_reads_how_a_member_does() {
    let mut fleet = Fleet::new(SCHEMA, &["public.bed"])
        .site(SHIP)
        .hub_with_database(SHORE)
        .link(SHIP, SHORE)
        .unsynced()
        .start();
    stop(&fleet, SHIP);
    let port = ports::draw().expect("a port");
    let own = config(&fleet, SHIP);
    let section = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n[link]");
    let _edited = Edited::new(&own, "[link]", &section);
    launch(&mut fleet, SHIP);
    fleet.sql(SHIP, "INSERT INTO bed VALUES (1, 'a'), (2, 'b')");
    fleet.converge();
    fleet.sql(SHORE, "UPDATE bed SET patient = 'c' WHERE id = 1");
    fleet.converge();
    wait(&fleet, SHIP, "delivered");

    let (code, body) = ask(port, "GET /metrics HTTP/1.1\r\nHost: ship\r\n\r\n");
    assert_eq!(code, 200, "{body}");
    let expected = [
        ("landfall_state{state=\"running\"}", 1),
        ("landfall_state{state=\"fenced\"}", 0),
        ("landfall_part_working{part=\"capture\"}", 1),
        ("landfall_part_working{part=\"store\"}", 1),
        ("landfall_warnings", 0),
        ("landfall_own_transactions_total", 1),
        ("landfall_received_changes_total", 1),
        ("landfall_changes{fate=\"applied\"}", 1),
        ("landfall_changes{fate=\"parked\"}", 0),
        ("landfall_peer_connected{peer=\"shore\"}", 1),
        ("landfall_peer_unacknowledged_changes{peer=\"shore\"}", 0),
        ("landfall_apply_total{what=\"changes\"}", 1),
    ];
    for (name, value) in expected {
        assert_eq!(sample(&body, name), Some(value), "{name} in\n{body}");
    }
    for name in ["landfall_wal_retained_bytes", "landfall_store_size_bytes"] {
        assert!(sample(&body, name).is_some_and(|value| value > 0), "{name} in\n{body}");
    }
    assert_eq!(sample(&body, "landfall_wal_left_bytes"), None, "there is no limit\n{body}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    // What the rows hold is nobody's business here.
    assert_eq!(value(&fleet, SHIP, "SELECT patient FROM bed WHERE id = 2"), "b");
    assert!(!body.contains("bed") && !body.contains("patient"), "{body}");

    assert_eq!(ask(port, "GET / HTTP/1.1\r\nHost: ship\r\n\r\n").0, 404);
    assert_eq!(ask(port, "POST /metrics HTTP/1.1\r\nHost: ship\r\n\r\n").0, 405);
    assert_eq!(ask(port, "nonsense\r\n\r\n").0, 400);
    stop(&fleet, SHIP);
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("bind");
    refused(&fleet, SHIP, &["run"], USAGE, &["metrics", &port.to_string(), "in use"]);
    drop(taken);
    launch(&mut fleet, SHIP);
    assert_quiet(&fleet, &[SHIP, SHORE], &[]);
}
