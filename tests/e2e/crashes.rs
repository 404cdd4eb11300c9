//! The world strikes at each single step of a round of synchronisation: a write to PostgreSQL, a
//! call of SQLite, a datagram. Whatever it is, all that was acknowledged is everywhere, once.
//!
//! A few steps are drawn at each run; `cargo xtask soak --crashes` goes through all of them.

mod round;

use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use landfall_tests::dice::Dice;
use landfall_tests::fleet::{CONVERGE, Fleet};
use landfall_tests::processes::{self, Signal};
use landfall_tests::wait::wait_for;

use crate::support::OPERATOR;
use round::Round;

const SHIP: &str = "ship";
const CLINIC: &str = "clinic";
const HUB: &str = "hub";

/// Set by `cargo xtask soak --crashes`: every so many steps one is struck.
const EVERY: &str = "LANDFALL_CRASHES";
/// Strikes per test when it is not set.
const SAMPLES: usize = 8;

/// How a daemon takes a strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Dies,
    /// Ends, and says that somebody must look at the disk.
    GivesUp,
    GoesOn,
    /// As it finds things.
    GivesUpOrGoesOn,
}

/// A way to be struck.
#[derive(Debug)]
struct Kind {
    member: &'static str,
    rule: &'static str,
    outcome: Outcome,
    /// What its log may say at WARN or ERROR.
    alarms: &'static [&'static str],
    /// About how many steps a round has.
    steps: u64,
}

const fn kind(member: &'static str, rule: &'static str, outcome: Outcome, steps: u64) -> Kind {
    Kind { member, rule, outcome, alarms: &[], steps }
}

const DISK: &[&str] = &["disk I/O error", "store is closed"];
const FULL: &[&str] =
    &["store is full", "sealing stays", "units wait", "is not noted", "last position"];

const POSTGRES: [Kind; 3] = [
    kind(SHIP, "die:postgres", Outcome::Dies, 800),
    kind(SHIP, "fail:postgres", Outcome::GoesOn, 800),
    kind(SHIP, "stop:postgres", Outcome::GoesOn, 800),
];

const STORE: [Kind; 6] = [
    kind(SHIP, "die:sqlite", Outcome::Dies, 1000),
    Kind { alarms: DISK, ..kind(SHIP, "fail:sqlite", Outcome::GivesUp, 1000) },
    Kind { alarms: FULL, ..kind(SHIP, "full:sqlite-write", Outcome::GivesUpOrGoesOn, 200) },
    kind(HUB, "die:sqlite", Outcome::Dies, 300),
    Kind { alarms: DISK, ..kind(HUB, "fail:sqlite", Outcome::GivesUp, 300) },
    Kind { alarms: FULL, ..kind(HUB, "full:sqlite-write", Outcome::GivesUpOrGoesOn, 100) },
];

const LINKS: [Kind; 6] = [
    kind(SHIP, "die:quic", Outcome::Dies, 32),
    kind(SHIP, "fail:quic", Outcome::GoesOn, 32),
    kind(SHIP, "fail:stream", Outcome::GoesOn, 64),
    kind(HUB, "die:quic", Outcome::Dies, 32),
    kind(HUB, "fail:quic", Outcome::GoesOn, 32),
    kind(HUB, "fail:stream", Outcome::GoesOn, 90),
];

/// What came of the strikes of a kind.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    rounds: u64,
    strikes: u64,
}

struct World {
    fleet: Fleet,
    round: u64,
}

fn start() -> World {
    let fleet = Fleet::new(round::SCHEMA, &round::TABLES)
        .unsynced()
        .config("[limits]\ntransaction_bytes_max = 65536\n")
        .hub(HUB)
        .site(SHIP)
        .site(CLINIC)
        .link(SHIP, HUB)
        .link(CLINIC, HUB)
        .start();
    let mut world = World { fleet, round: 0 };
    let first = world.next_round();
    first.begin(&world.fleet);
    first.go_on(&world.fleet);
    world.fleet.converge();
    first.check(&world.fleet);
    world
}

impl World {
    fn next_round(&mut self) -> Round {
        self.round += 1;
        Round::new(self.round)
    }

    /// A round in which the world strikes at the `n`th step. Says whether the round had as many.
    fn strike(&mut self, kind: &Kind, n: u64) -> bool {
        let round = self.next_round();
        let rule = format!("{}:{n}", kind.rule);
        self.fleet.member(kind.member).daemon().kill9();
        round.begin(&self.fleet);
        let struck = if kind.rule.starts_with("stop:") {
            round.go_on(&self.fleet);
            self.fleet.replace_daemon(kind.member, &rule).expect("start");
            self.kill_server_when_stopped(kind, &round)
        } else {
            self.fleet.replace_daemon(kind.member, &rule).expect("start");
            round.go_on(&self.fleet);
            self.settle_or_end(kind, &round)
        };
        if !struck {
            // It may come yet, when nobody looks any more.
            self.fleet.replace_daemon(kind.member, "").expect("start");
        }
        self.fleet.converge();
        round.check(&self.fleet);
        self.fleet.assert_quiet(kind.alarms);
        if !kind.alarms.is_empty() {
            // What it said is none of the next round's business.
            self.fleet.replace_daemon(kind.member, "").expect("start");
        }
        struck
    }

    /// Waits until everybody knows the same, or `early` says something.
    fn settle_unless<T>(&self, round: &Round, early: impl Fn() -> Option<T>) -> Option<T> {
        // Daemons are asked last: each question is some steps.
        let found = wait_for("the rows to be shown", CONVERGE, || match early() {
            Some(found) => Some(Some(found)),
            None => round.is_shown(&self.fleet).then_some(None),
        });
        if found.is_some() {
            return found;
        }
        self.fleet.settle_unless(CONVERGE, early).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn settle_or_end(&mut self, kind: &Kind, round: &Round) -> bool {
        let daemon = self.fleet.member(kind.member).daemon();
        let ended = self.settle_unless(round, || daemon.exited().expect("look"));
        let struck = is_struck(&daemon.log());
        let Some(status) = ended else {
            let goes_on = matches!(kind.outcome, Outcome::GoesOn | Outcome::GivesUpOrGoesOn);
            // Nothing but the status needed what it could not read.
            let told = daemon.log().contains("the store cannot be read");
            assert!(!struck || goes_on || told, "it took {} and went on", kind.rule);
            return struck;
        };
        assert!(struck, "it ended by itself with {status}");
        let log = daemon.log();
        assert!(is_right(kind.outcome, status), "{} ended with {status}\n{log}", kind.rule);
        let alarms = daemon.alarms(kind.alarms);
        assert!(alarms.is_empty(), "{}", alarms.join("\n"));
        self.fleet.replace_daemon(kind.member, "").expect("start");
        true
    }

    /// The daemon stops itself before a write; then its server is killed.
    fn kill_server_when_stopped(&self, kind: &Kind, round: &Round) -> bool {
        let member = self.fleet.member(kind.member);
        let pid = member.daemon().pid().expect("it runs");
        let over = AtomicBool::new(false);
        let stopped = || processes::is_stopped(pid).expect("look");
        thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let struck = wait_for("a strike, or the end of the round", CONVERGE * 2, || {
                    if stopped() {
                        Some(true)
                    } else {
                        over.load(Ordering::Acquire).then_some(false)
                    }
                });
                if struck {
                    member.cluster().kill9();
                    processes::signal(&[pid], Signal::Continue).expect("signal");
                    member.cluster().restart();
                }
                struck
            });
            self.settle_unless(round, || None::<()>);
            over.store(true, Ordering::Release);
            killer.join().expect("the killer")
        })
    }
}

fn is_struck(log: &str) -> bool {
    log.contains("planted strike")
}

fn is_right(outcome: Outcome, status: ExitStatus) -> bool {
    match outcome {
        // By a signal.
        Outcome::Dies => status.code().is_none(),
        Outcome::GivesUp | Outcome::GivesUpOrGoesOn => status.code() == Some(OPERATOR),
        Outcome::GoesOn => false,
    }
}

fn strike(world: &mut World, tally: &mut Tally, kind: &Kind, n: u64) -> bool {
    let began = Instant::now();
    println!("round {}: {}:{n} at {}", world.round + 1, kind.rule, kind.member);
    let struck = world.strike(kind, n);
    let took = began.elapsed();
    println!("    {} after {took:.1?}", if struck { "struck" } else { "not so many steps" });
    tally.rounds += 1;
    tally.strikes += u64::from(struck);
    struck
}

/// Each kind at least once, at steps of any order of magnitude.
fn sample(world: &mut World, kinds: &[Kind], tallies: &mut [Tally], dice: &mut Dice) {
    for at in (0..kinds.len()).cycle().take(SAMPLES) {
        let magnitude = dice.below(u64::from(kinds[at].steps.ilog2()));
        let n = (1 << magnitude) + dice.below(1 << magnitude);
        strike(world, &mut tallies[at], &kinds[at], n);
    }
}

fn run(kinds: &[Kind]) {
    let mut world = start();
    let mut tallies = vec![Tally::default(); kinds.len()];
    let mut dice = Dice::from_env();
    match std::env::var(EVERY) {
        Ok(every) => {
            let every: u64 = every.parse().expect("a number of steps");
            for (tally, kind) in tallies.iter_mut().zip(kinds) {
                let mut n = 1 + dice.below(every);
                while strike(&mut world, tally, kind, n) {
                    n += every;
                }
            }
        }
        Err(_) => sample(&mut world, kinds, &mut tallies, &mut dice),
    }
    println!("{:6} {:20} {:>7} {:>7}", "member", "strike", "rounds", "struck");
    for (kind, tally) in kinds.iter().zip(&tallies) {
        println!("{:6} {:20} {:>7} {:>7}", kind.member, kind.rule, tally.rounds, tally.strikes);
    }
    let (rounds, strikes) = tallies
        .iter()
        .fold((0, 0), |(rounds, strikes), tally| (rounds + tally.rounds, strikes + tally.strikes));
    assert!(strikes * 2 > rounds, "a round has fewer steps than this test believes");
}

#[test]
fn a_strike_at_postgresql_loses_nothing_and_repeats_nothing() {
    run(&POSTGRES);
}

#[test]
fn a_strike_at_the_store_loses_nothing_and_repeats_nothing() {
    run(&STORE);
}

#[test]
fn a_strike_at_a_link_loses_nothing_and_repeats_nothing() {
    run(&LINKS);
}
