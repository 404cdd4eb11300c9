//! Whatever is killed, whenever: all that was acknowledged is everywhere, once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use landfall_tests::dice::Dice;
use landfall_tests::fleet::{DB, Fleet, SOON};
use landfall_tests::session::Session;
use landfall_tests::wait::{wait_for, wait_until};

const SCHEMA: &str = "\
CREATE TABLE entry (id text PRIMARY KEY, n int NOT NULL, note text);
CREATE TABLE hot (id int PRIMARY KEY, a int, b int);";
const TABLES: [&str; 2] = ["public.entry", "public.hot"];
const SITES: [&str; 3] = ["ship-a", "ship-b", "shore"];
const ROUNDS: u64 = 10;
const HOT_ROWS: u64 = 8;

/// What is killed in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon(&'static str),
    Server(&'static str),
}

const VICTIMS: [Victim; 6] = [
    Victim::Daemon("ship-a"),
    Victim::Daemon("ship-b"),
    Victim::Daemon("shore"),
    Victim::Server("ship-a"),
    Victim::Server("ship-b"),
    Victim::Server("shore"),
];

/// What the applications have been told is committed.
#[derive(Debug, Default)]
struct Book {
    stop: AtomicBool,
    commits: AtomicU64,
    acknowledged: Mutex<BTreeSet<String>>,
}

impl Book {
    fn acknowledge(&self, id: String) {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        self.commits.fetch_add(1, Ordering::Release);
    }

    /// Waits for more commits, so that the next kill comes under load.
    fn wait_for_more(&self, commits: u64) {
        let goal = self.commits.load(Ordering::Acquire) + commits;
        wait_for("the applications to go on", SOON, || {
            (self.commits.load(Ordering::Acquire) >= goal).then_some(())
        });
    }
}

/// Inserts and updates until told to stop; over a killed server it connects anew and goes on with
/// a new id, for nobody knows what became of the old one.
fn application(conninfo: &str, site: &str, mut dice: Dice, book: &Book) {
    let mut number = 0;
    while !book.stop.load(Ordering::Acquire) {
        let Ok(session) = Session::open(conninfo) else {
            thread::yield_now();
            continue;
        };
        loop {
            if book.stop.load(Ordering::Acquire) {
                return;
            }
            number += 1;
            let id = format!("{site} {number}");
            let (hot, value) = (dice.below(HOT_ROWS), dice.below(1000));
            let column = dice.pick(&["a", "b"]);
            let sql = format!(
                "BEGIN; INSERT INTO entry VALUES ('{id}', {number}, repeat('x', {value})); \
                 UPDATE hot SET {column} = {value} WHERE id = {hot}; COMMIT"
            );
            if session.batch(&sql).is_err() {
                break;
            }
            book.acknowledge(id);
        }
    }
}

fn kill_and_start_again(fleet: &mut Fleet, victim: Victim) {
    match victim {
        Victim::Daemon(name) => {
            fleet.member(name).daemon().kill9();
            fleet.launch(name).unwrap_or_else(|error| panic!("{error:#}"));
        }
        Victim::Server(name) => {
            fleet.member(name).cluster().kill9();
            fleet.member(name).cluster().restart();
        }
    }
}

fn start() -> Fleet {
    let fleet = Fleet::new(SCHEMA, &TABLES)
        .hub_with_database("shore")
        .site("ship-a")
        .site("ship-b")
        .link("ship-a", "shore")
        .link("ship-b", "shore")
        .start();
    let last = HOT_ROWS - 1;
    fleet
        .sql("shore", &format!("INSERT INTO hot SELECT n, 0, 0 FROM generate_series(0, {last}) n"));
    fleet.converge();
    fleet
}

#[test]
fn ten_kills_under_load_lose_nothing_that_was_acknowledged() {
    let mut dice = Dice::from_env();
    let mut fleet = start();
    let book = Book::default();
    let addresses: Vec<(&str, String)> = SITES
        .iter()
        .map(|site| (*site, fleet.member(site).cluster().socket_conninfo(DB)))
        .collect();
    thread::scope(|scope| {
        for (site, conninfo) in &addresses {
            let (dice, book) = (dice.split(), &book);
            scope.spawn(move || application(conninfo, site, dice, book));
        }
        // Stopped on a panic, too, or the scope would wait for ever.
        let stop = StopOnDrop(&book);
        let mut left = Vec::new();
        for round in 0..ROUNDS {
            if left.is_empty() {
                left = VICTIMS.to_vec();
            }
            book.wait_for_more(dice.below(60));
            let victim = left.remove(dice.below(left.len() as u64) as usize);
            println!("round {round}: kill -9 of {victim:?}");
            kill_and_start_again(&mut fleet, victim);
        }
        book.wait_for_more(30);
        drop(stop);
    });
    fleet.converge();
    let acknowledged = book.acknowledged.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{} inserts were acknowledged", acknowledged.len());
    for site in SITES {
        let rows = fleet.rows(site, "SELECT id FROM entry");
        let ids: BTreeSet<String> = rows.iter().flatten().flatten().cloned().collect();
        assert_eq!(ids.len(), rows.len(), "{site} shows a row twice");
        let lost: Vec<_> = acknowledged.difference(&ids).collect();
        assert!(lost.is_empty(), "{site} has lost {lost:?}");
    }
    fleet.assert_quiet(&[]);
}

struct StopOnDrop<'a>(&'a Book);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
    }
}

/// A server that is killed while its node is away, and a node that is killed while its server is
/// away: each finds the other again.
#[test]
fn node_and_server_find_each_other_again_in_either_order() {
    let mut fleet = start();
    fleet.member("ship-a").daemon().kill9();
    fleet.sql("ship-a", "INSERT INTO entry VALUES ('while the node was dead', 1, NULL)");
    fleet.member("ship-a").cluster().kill9();
    fleet.member("ship-a").cluster().restart();
    fleet.launch("ship-a").unwrap_or_else(|error| panic!("{error:#}"));
    fleet.converge();

    fleet.member("ship-a").cluster().kill9();
    fleet.member("ship-a").daemon().kill9();
    fleet.launch("ship-a").unwrap_or_else(|error| panic!("{error:#}"));
    wait_until("the node to say that its server is away", SOON, || {
        let status = fleet.member("ship-a").status().map_err(|error| format!("{error:#}"))?;
        match status["capture"]["state"].as_str() {
            Some("retrying") => Ok(()),
            state => Err(format!("capture is {state:?}")),
        }
    });
    fleet.sql("ship-b", "INSERT INTO entry VALUES ('while the server was away', 2, NULL)");
    fleet.member("ship-a").cluster().restart();
    fleet.sql("ship-a", "INSERT INTO entry VALUES ('after the server came back', 3, NULL)");
    fleet.converge();
    assert_eq!(fleet.rows("shore", "SELECT id FROM entry").len(), 3);
    fleet.assert_quiet(&[]);
}
