//! An application that races with replication on the very same rows: nothing diverges, the
//! application is never the victim of a deadlock, and the barrier is what makes it so.

use std::fmt::Write as _;
use std::thread;

use landfall_tests::dice::Dice;
use landfall_tests::fleet::{CONVERGE, DB, Fleet, SOON};
use landfall_tests::session::{Session, sqlstate};
use landfall_tests::wait::wait_until;

const SCHEMA: &str = "\
CREATE TABLE hot (id int PRIMARY KEY, a int, b int, c text, d int);
CREATE TABLE warm (id int PRIMARY KEY, a int, b int, c text, d int);
CREATE TABLE pulse (who text PRIMARY KEY, n int NOT NULL);";
const TABLES: [&str; 3] = ["public.hot", "public.warm", "public.pulse"];
/// Rows everybody fights for, per table.
const ROWS: u64 = 16;
/// How far one thread of the application may be ahead of what other sites show, in transactions.
/// What is further ahead is applied in a few large groups, and races are rare.
const AHEAD_MAX: u64 = 40;
/// Self-healing says what it did.
const REPAIR: &str = "rewrote rows that did not show what their clocks say";

/// What the application does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mix {
    /// Only updates of rows that stay.
    Updates,
    /// Also deletes, inserts and inserts of keys that were deleted.
    Everything,
}

struct Race<'a> {
    sites: &'a [&'a str],
    /// Application threads per site.
    threads: u64,
    /// Transactions per thread.
    transactions: u64,
    mix: Mix,
    plant: &'a str,
}

impl Race<'_> {
    /// Starts the fleet with the hot rows in place everywhere.
    fn start(&self) -> Fleet {
        let mut builder = Fleet::new(SCHEMA, &TABLES).unsynced().env("LANDFALL_PLANT", self.plant);
        builder = builder.hub_with_database("shore");
        for ship in self.sites.iter().filter(|site| **site != "shore") {
            builder = builder.site(ship).link(ship, "shore");
        }
        let fleet = builder.start();
        let rows = format!("SELECT n, 0, 0, '', 0 FROM generate_series(0, {}) n", ROWS - 1);
        fleet.sql("shore", &format!("INSERT INTO hot {rows}; INSERT INTO warm {rows}"));
        fleet.converge_planted();
        fleet
    }

    /// Runs the applications of all sites to their end.
    fn run(&self, fleet: &Fleet, dice: &mut Dice) {
        thread::scope(|scope| {
            for site in self.sites {
                for thread in 0..self.threads {
                    let name = format!("{site} {thread}");
                    let application = Application { fleet, race: self, site, name };
                    let dice = dice.split();
                    scope.spawn(move || application.work(dice));
                }
            }
        });
    }

    /// Foreign transactions applied at all sites, by the word of their databases.
    fn applied(&self, fleet: &Fleet) -> u64 {
        let sum = "SELECT coalesce(sum(seq), 0)::bigint FROM landfall.progress";
        let at = |site: &&str| fleet.member(site).cluster().query_value(DB, sum);
        self.sites.iter().filter_map(at).filter_map(|sum| sum.parse::<u64>().ok()).sum()
    }
}

/// One thread of one site's application.
struct Application<'a> {
    fleet: &'a Fleet,
    race: &'a Race<'a>,
    site: &'a str,
    name: String,
}

impl Application<'_> {
    fn work(&self, mut dice: Dice) {
        let session = self.session(self.site);
        let others = self.race.sites.iter().filter(|other| **other != self.site);
        let others: Vec<Session> = others.map(|other| self.session(other)).collect();
        for number in 1..=self.race.transactions {
            if number > AHEAD_MAX && number.is_multiple_of(10) {
                self.stay_near(&others, number - AHEAD_MAX);
            }
            let statements = self.transaction(&mut dice, number);
            if let Err(error) = commit(&session, &statements, dice.below(2) == 0) {
                let state = sqlstate(&error).unwrap_or("none");
                panic!("{}: the application failed, SQLSTATE {state}: {error:#}", self.name);
            }
        }
    }

    fn session(&self, site: &str) -> Session {
        let cluster = self.fleet.member(site).cluster();
        Session::open(&cluster.socket_conninfo(DB)).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Waits until the others show this thread's transaction `number`.
    fn stay_near(&self, others: &[Session], number: u64) {
        let sql = format!("SELECT n FROM pulse WHERE who = '{}' AND n >= {number}", self.name);
        for other in others {
            wait_until("the others to come near", CONVERGE, || match other.rows(&sql) {
                Ok(rows) if !rows.is_empty() => Ok(()),
                Ok(_) => Err(format!("{} waits for its transaction {number}", self.name)),
                Err(error) => Err(format!("{error:#}")),
            });
        }
    }

    /// Rows ascending, tables in order, each row once: application transactions alone can never
    /// make a deadlock, so one that is found has replication in it.
    fn transaction(&self, dice: &mut Dice, number: u64) -> Vec<String> {
        let mut statements = vec![format!(
            "INSERT INTO pulse VALUES ('{}', {number}) ON CONFLICT (who) DO UPDATE SET n = {number}",
            self.name
        )];
        for table in ["hot", "warm"] {
            let count = dice.below(4);
            for id in dice.distinct(count, ROWS) {
                statements.push(self.statement(dice, table, id));
            }
        }
        statements
    }

    fn statement(&self, dice: &mut Dice, table: &str, id: u64) -> String {
        let (value, site) = (dice.below(1_000_000), self.site);
        let kind = if self.race.mix == Mix::Updates { 0 } else { dice.below(10) };
        match kind {
            8 => format!("DELETE FROM {table} WHERE id = {id}"),
            9 => format!(
                "INSERT INTO {table} VALUES ({id}, {value}, 0, '{site}', 0) \
                 ON CONFLICT (id) DO UPDATE SET a = excluded.a, c = excluded.c"
            ),
            _ => {
                let set = match dice.below(4) {
                    0 => format!("a = {value}"),
                    1 => format!("b = {value}, c = '{site}'"),
                    2 => format!("c = '{site} {value}'"),
                    _ => format!("a = {value}, d = coalesce(d, 0) + 1"),
                };
                format!("UPDATE {table} SET {set} WHERE id = {id}")
            }
        }
    }
}

/// In one message, or statement by statement, which holds locks longer.
fn commit(session: &Session, statements: &[String], at_once: bool) -> anyhow::Result<()> {
    if !at_once {
        session.batch("BEGIN")?;
        statements.iter().try_for_each(|statement| session.batch(statement))?;
        return session.batch("COMMIT");
    }
    let mut text = String::from("BEGIN;");
    for statement in statements {
        write!(text, "{statement};")?;
    }
    session.batch(&(text + "COMMIT"))
}

#[test]
fn nothing_diverges_over_ten_thousand_applies_on_hot_rows() {
    let mut dice = Dice::from_env();
    let sites = ["ship-a", "ship-b", "shore"];
    let race =
        Race { sites: &sites, threads: 3, transactions: 560, mix: Mix::Everything, plant: "" };
    let fleet = race.start();
    race.run(&fleet, &mut dice);
    fleet.converge();
    let applied = race.applied(&fleet);
    let repaired = fleet.repaired_rows();
    println!("{applied} transactions applied, {repaired} rows repaired");
    assert!(applied >= 10_000, "only {applied} transactions were applied");
    fleet.assert_quiet(&[REPAIR]);
}

/// Legs of a race that has to be lost before it is said that it cannot be.
const LEGS_MAX: u32 = 12;

/// The same small race on updates, with capture a millisecond per message late and `plant` on top,
/// leg after leg until it has come to what is `wanted`, at most so many. Returns how many rows differ
/// at the end, and how many were repaired on the way.
fn slow_race(plant: &str, legs: u32, wanted: impl Fn(usize, u64) -> bool) -> (usize, u64) {
    let mut dice = Dice::from_env();
    let plant = format!("slow-capture,{plant}");
    let sites = ["ship-a", "shore"];
    let race =
        Race { sites: &sites, threads: 3, transactions: 120, mix: Mix::Updates, plant: &plant };
    let fleet = race.start();
    let mut outcome = (0, 0);
    for leg in 1..=legs {
        race.run(&fleet, &mut dice);
        outcome = (fleet.converge_planted().differing, fleet.repaired_rows());
        println!("{plant}, leg {leg}: {} rows differ, {} were repaired", outcome.0, outcome.1);
        if wanted(outcome.0, outcome.1) {
            break;
        }
    }
    outcome
}

#[test]
fn the_barrier_leaves_nothing_to_repair() {
    assert_eq!(slow_race("", 1, |_, _| false), (0, 0));
}

#[test]
fn without_the_barrier_the_race_is_lost_and_noticed() {
    let (_, repaired) = slow_race("no-barrier", LEGS_MAX, |_, repaired| repaired > 0);
    assert!(repaired > 0, "no row went wrong without the barrier: this test proves nothing");
    let (differing, _) = slow_race("no-barrier,no-repair", LEGS_MAX, |differing, _| differing > 0);
    assert!(differing > 0, "no row differs without barrier and repair: this test proves nothing");
}

const CHAIN: &str = "CREATE TABLE chain (id int PRIMARY KEY, n int NOT NULL)";
/// Rows that somebody holds while apply comes along, one after the other.
const HELD: [u32; 4] = [1, 2, 3, 4];
/// How long each holder lets apply wait: nearly as long as apply waits for one lock, so that all of
/// them together outlast the second after which PostgreSQL looks for a deadlock.
const HOLD_MS: u32 = 220;

fn begin_with(fleet: &Fleet, id: u32) -> (Session, String) {
    let cluster = fleet.member("shore").cluster();
    let session = Session::open(&cluster.socket_conninfo(DB)).expect("connect");
    session.batch(&format!("BEGIN; UPDATE chain SET n = n + 1 WHERE id = {id}")).expect("update");
    let pid = session.rows("SELECT pg_backend_pid()").expect("a pid").remove(0).remove(0);
    (session, pid.expect("a pid"))
}

/// Waits until apply at the shore has waited for this backend that long.
fn wait_for_apply_behind(fleet: &Fleet, pid: &str, ms: u32) {
    let sql = format!(
        "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE a.application_name = 'landfall apply' AND NOT l.granted
           AND {pid} = ANY (pg_blocking_pids(pid))
           AND clock_timestamp() - l.waitstart >= '{ms} ms'"
    );
    let watcher = fleet.member("shore").cluster().session(DB).expect("connect");
    wait_until("apply to wait for a lock", SOON, || match watcher.rows(&sql) {
        Ok(rows) if rows.is_empty() => Err("it does not".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error:#}")),
    });
}

/// The application waits for a row that apply has locked, while apply meets one locked row after
/// the other and at last one that is locked by that same application transaction.
#[test]
fn apply_gives_way_before_postgresql_would_choose_the_application_as_victim() {
    let mut builder = Fleet::new(CHAIN, &["public.chain"]).unsynced();
    builder = builder.hub_with_database("shore").site("ship").link("ship", "shore");
    let fleet = builder.start();
    fleet.sql("ship", "INSERT INTO chain SELECT n, 0 FROM generate_series(0, 9) n");
    fleet.converge();
    let holders: Vec<(Session, String)> = HELD.iter().map(|id| begin_with(&fleet, *id)).collect();
    let (victim, _) = begin_with(&fleet, 9);
    fleet.sql("ship", "UPDATE chain SET n = 100");
    wait_for_apply_behind(&fleet, &holders[0].1, 0);
    thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let victim = victim;
            victim.batch("UPDATE chain SET n = n + 1 WHERE id = 0; COMMIT")
        });
        for (holder, pid) in holders {
            wait_for_apply_behind(&fleet, &pid, HOLD_MS);
            holder.batch("COMMIT").expect("commit");
        }
        let outcome = waits.join().expect("the application's thread");
        assert!(outcome.is_ok(), "the application was the victim: {outcome:?}");
    });
    fleet.converge();
    fleet.assert_quiet(&[]);
}
