//! What a reader at another site sees: each transaction whole or not at all, and never an answer
//! without its question.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use landfall_tests::dice::Dice;
use landfall_tests::fleet::{CONVERGE, DB, Fleet, SOON};
use landfall_tests::relay::Profile;
use landfall_tests::session::Session;
use landfall_tests::wait::{wait_for, wait_until};

/// Set when a scope ends, by a panic or not, so that readers end, too.
struct Flag(AtomicBool);

impl Flag {
    const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn raise_on_drop(&self) -> RaiseOnDrop<'_> {
        RaiseOnDrop(self)
    }
}

struct RaiseOnDrop<'a>(&'a Flag);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

fn session(fleet: &Fleet, site: &str) -> Session {
    let conninfo = fleet.member(site).cluster().socket_conninfo(DB);
    let session = Session::open(&conninfo).unwrap_or_else(|error| panic!("{error:#}"));
    // Of tables never analysed the planner expects the worst, and compiles each query for 0.2 s.
    session.batch("SET jit = off").unwrap_or_else(|error| panic!("{error:#}"));
    session
}

fn value(session: &Session, sql: &str) -> Option<String> {
    let rows = session.rows(sql).unwrap_or_else(|error| panic!("{error:#}"));
    rows.into_iter().flatten().next().flatten()
}

const BANK: &str = "\
CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL);
CREATE TABLE saving (id int PRIMARY KEY, balance int NOT NULL);
CREATE TABLE transfer (id int PRIMARY KEY, source int, target int, amount int NOT NULL);";
const BANK_TABLES: [&str; 3] = ["public.account", "public.saving", "public.transfer"];
const ACCOUNTS: u64 = 10;
const TRANSFERS: u64 = 1000;
/// How far the writer may be ahead of what the readers can see, or all would arrive in few groups.
const AHEAD_MAX: u64 = 20;
/// One statement, so one snapshot: the accounts there are, all the money, what each account should
/// hold by the transfers, and how many of those there are.
const AUDIT: &str = "\
SELECT (SELECT count(*) FROM account) || ' '
    || (SELECT coalesce(sum(balance), 0) FROM account) + (SELECT coalesce(sum(balance), 0) FROM saving)
    || ' ' || (SELECT count(*) FROM account a WHERE balance <> 1000
        - (SELECT coalesce(sum(amount), 0) FROM transfer WHERE source = a.id)
        + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE target = a.id))
    || ' ' || (SELECT count(*) FROM transfer)";

/// Audits the bank until told to stop; returns how many different states were seen.
fn audit(session: &Session, stop: &Flag) -> usize {
    let mut seen = BTreeSet::new();
    while !stop.is_up() {
        let state = value(session, AUDIT).unwrap_or_default();
        let numbers: Vec<u64> = state.split(' ').map(|n| n.parse().expect("a number")).collect();
        let [accounts, money, wrong, transfers] = numbers[..] else { panic!("{state}") };
        assert!(accounts == 0 || accounts == ACCOUNTS, "a reader saw {accounts} accounts");
        assert_eq!(money, accounts * 2000, "money was made or lost after {transfers} transfers");
        assert_eq!(wrong, 0, "accounts contradict the transfers");
        seen.insert(transfers);
    }
    seen.len()
}

/// A transfer from an account to the same or another number's saving or account.
fn transfer(session: &Session, dice: &mut Dice, number: u64) {
    let (source, target, amount) = (dice.below(ACCOUNTS), dice.below(ACCOUNTS), dice.below(50));
    let sql = if dice.below(3) == 0 {
        format!(
            "UPDATE account SET balance = balance - {amount} WHERE id = {source};
             UPDATE saving SET balance = balance + {amount} WHERE id = {target};
             INSERT INTO transfer VALUES ({number}, {source}, NULL, {amount});"
        )
    } else {
        format!(
            "INSERT INTO transfer VALUES ({number}, {source}, {target}, {amount});
             UPDATE account SET balance = balance - {amount} WHERE id = {source};
             UPDATE account SET balance = balance + {amount} WHERE id = {target};"
        )
    };
    session.batch(&format!("BEGIN; {sql} COMMIT")).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn every_snapshot_at_another_site_shows_whole_transactions() {
    let mut dice = Dice::from_env();
    let fleet =
        Fleet::new(BANK, &BANK_TABLES).unsynced().star("shore", &["bank", "branch"]).start();
    let (writer, watcher) = (session(&fleet, "bank"), session(&fleet, "branch"));
    let stop = Flag::new();
    let states = thread::scope(|scope| {
        let done = stop.raise_on_drop();
        let readers: Vec<_> = (0..2)
            .map(|_| session(&fleet, "branch"))
            .map(|session| {
                scope.spawn(|| {
                    let session = session;
                    audit(&session, &stop)
                })
            })
            .collect();
        let rows = format!("SELECT n, 1000 FROM generate_series(0, {}) n", ACCOUNTS - 1);
        let open = format!("BEGIN; INSERT INTO account {rows}; INSERT INTO saving {rows}; COMMIT");
        writer.batch(&open).unwrap_or_else(|error| panic!("{error:#}"));
        for number in 0..TRANSFERS {
            transfer(&writer, &mut dice, number);
            let near =
                format!("SELECT 1 WHERE {number} - (SELECT count(*) FROM transfer) < {AHEAD_MAX}");
            wait_for("the branch to come near", SOON, || value(&watcher, &near));
        }
        fleet.converge();
        drop(done);
        readers.into_iter().map(|reader| reader.join().expect("the audit holds")).min()
    });
    println!("each reader saw at least {states:?} different states");
    assert!(states > Some(20), "the readers saw {states:?} states only");
    fleet.assert_quiet(&[]);
}

const TALK: &str = "\
CREATE TABLE message (id int PRIMARY KEY, body text NOT NULL);
CREATE TABLE reply (id int PRIMARY KEY, message int NOT NULL);";
const TALK_TABLES: [&str; 2] = ["public.message", "public.reply"];
/// Counts the replies, and those whose message is missing, in one snapshot.
const ORPHANS: &str = "\
SELECT count(*) || ' ' || count(*) FILTER (WHERE m.id IS NULL)
FROM reply r LEFT JOIN message m ON m.id = r.message";
const ROUNDS: u64 = 6;
const TALKS: u64 = 25;
/// Bodies are long and replies short, so that replies would travel faster.
const BODY_BYTES: u64 = 3000;

/// Watches at the third site until told to stop; returns the number of snapshots with orphans.
fn watch(session: &Session, stop: &Flag) -> u64 {
    let mut broken = 0;
    while !stop.is_up() {
        let state = value(session, ORPHANS).unwrap_or_default();
        broken += u64::from(!state.ends_with(" 0"));
    }
    broken
}

/// Runs `asker` writing messages and `replier` answering what it sees, while `reader` now and then
/// loses its links, so that everything reaches it at once. Returns how many snapshots at the reader
/// had a reply without its message.
fn talk(plant: &str) -> u64 {
    // The replier comes first in the fleet file: without causal order it would be first here, too.
    let fleet = Fleet::new(TALK, &TALK_TABLES)
        .unsynced()
        .env("LANDFALL_PLANT", plant)
        .site("replier")
        .site("asker")
        .site("reader")
        .link("asker", "replier")
        .link("reader", "replier")
        .link("reader", "asker")
        .start();
    fleet.link("reader", "asker").set_profile(&Profile::default().with_delay(150.0));
    let (asker, replier) = (session(&fleet, "asker"), session(&fleet, "replier"));
    let stop = Flag::new();
    thread::scope(|scope| {
        let done = stop.raise_on_drop();
        let reader = session(&fleet, "reader");
        let watcher = scope.spawn(|| {
            let reader = reader;
            watch(&reader, &stop)
        });
        for round in 0..ROUNDS {
            // The first round is live, in the others the reader is away meanwhile.
            let away = round > 0;
            for link in ["replier", "asker"].iter().filter(|_| away) {
                fleet.link("reader", link).cut();
            }
            for id in round * TALKS..(round + 1) * TALKS {
                let body = format!("repeat('{id} ', {})", BODY_BYTES / 3);
                let message = format!("INSERT INTO message VALUES ({id}, {body})");
                asker.batch(&message).unwrap_or_else(|error| panic!("{error:#}"));
                let seen = format!("SELECT id FROM message WHERE id = {id}");
                wait_for("the message", SOON, || value(&replier, &seen));
                let reply = format!("INSERT INTO reply VALUES ({id}, {id})");
                replier.batch(&reply).unwrap_or_else(|error| panic!("{error:#}"));
            }
            for link in ["replier", "asker"].iter().filter(|_| away) {
                fleet.link("reader", link).heal();
            }
            let far =
                format!("SELECT count(*) FROM reply HAVING count(*) = {}", (round + 1) * TALKS);
            wait_until("the replies at the reader", CONVERGE, || {
                let rows = fleet.rows("reader", &far);
                if rows.is_empty() { Err("not all there") } else { Ok(()) }
            });
        }
        fleet.converge();
        drop(done);
        watcher.join().expect("the reader reads")
    })
}

#[test]
fn a_reply_is_never_seen_without_its_message() {
    assert_eq!(talk(""), 0, "snapshots with a reply whose message is missing");
}

#[test]
fn without_causal_order_replies_come_before_their_messages() {
    assert!(talk("no-causal-order") > 0, "no reply came early: the test above proves nothing");
}
