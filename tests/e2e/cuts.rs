//! Links that fail at any byte, lose, and delay: everything arrives exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use landfall_tests::dice::Dice;
use landfall_tests::fleet::{CONVERGE, DB, Fleet, SOON};
use landfall_tests::relay::Profile;
use landfall_tests::session::Session;
use landfall_tests::wait::{wait_for, wait_until};

use crate::support::{assert_quiet, value};

/// `landed` counts what is written to `entry` at this site, by the application and by replication
/// alike; it is not replicated itself.
const SCHEMA: &str = "
CREATE TABLE entry (site text, n int, body text, PRIMARY KEY (site, n));
CREATE TABLE hot (id int PRIMARY KEY, last text, ward text);
CREATE TABLE landed (site text, n int);
CREATE FUNCTION land() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.landed VALUES (new.site, new.n); RETURN NULL; END $$;
CREATE TRIGGER land AFTER INSERT ON entry FOR EACH ROW EXECUTE FUNCTION land();
ALTER TABLE entry ENABLE ALWAYS TRIGGER land;";

const SITES: [&str; 2] = ["ship-a", "ship-b"];
const FOUR: [&str; 4] = ["ship-a", "ship-b", "ship-c", "ship-d"];
const CUTS: usize = 26;
const SEED: u64 = 0x1a2b_3c4d_5e6f_7081;

#[test]
fn links_cut_at_random_bytes_lose_and_repeat_nothing() {
    let mut fleet = Fleet::new(SCHEMA, &["public.entry", "public.hot"])
        .star("shore", &["ship-a", "ship-b"])
        .unsynced()
        .start();
    fleet.sql("ship-a", "INSERT INTO hot SELECT n FROM generate_series(1, 8) n");
    fleet.converge();
    let writers = Writers::start(&fleet, &SITES);
    let mut luck = Luck(SEED);
    for cut in 0..CUTS {
        let site = SITES[cut % 2];
        let link = fleet.link(site, "shore");
        // From within one datagram to some units later.
        link.cut_after_bytes(luck.below(if cut % 4 < 2 { 2_000 } else { 30_000 }));
        wait_for("the link to be cut", SOON, || {
            writers.turn();
            link.relayed().is_cut.then_some(())
        });
        writers.turns(5);
        // A broken link is mostly taken up where it was; now and then somebody starts anew.
        let restarted = match cut % 8 {
            3 => Some(site),
            6 => Some("shore"),
            _ => None,
        };
        if let Some(name) = restarted {
            fleet.member(name).daemon().kill9();
            fleet.link(site, "shore").heal();
            fleet.launch(name).expect("starts again");
        } else {
            link.heal();
        }
    }
    for link in fleet.links() {
        link.set_profile(&Profile::default().with_loss(0.1).with_delay(20.0));
    }
    writers.turns(50);
    let written = writers.stop();
    fleet.converge();
    assert_once(&fleet, &SITES, &written);
    assert_quiet(&fleet, &["ship-a", "ship-b", "shore"], &[]);
}

/// What was written at each site is at all of them, and came to each row once.
#[track_caller]
fn assert_once(fleet: &Fleet, sites: &[&str], written: &[u64]) {
    for (site, written) in sites.iter().zip(written) {
        let sql = format!("SELECT count(*) FROM entry WHERE site = '{site}'");
        assert_eq!(value(fleet, sites[0], &sql), written.to_string(), "entries of {site}");
    }
    let twice = "SELECT count(*) - count(DISTINCT (site, n)) FROM landed";
    let missed = "SELECT count(*) FROM (SELECT site, n FROM entry EXCEPT TABLE landed) missed";
    for site in sites {
        assert_eq!(value(fleet, site, twice), "0", "written twice at {site}");
        assert_eq!(value(fleet, site, missed), "0", "never written at {site}");
    }
}

/// One link after the other is stopped and, in another order, healed, while everybody writes. Those
/// who can reach each other know the same, whoever else is away.
#[test]
fn links_stopped_one_by_one_heal_in_any_order() {
    let fleet =
        Fleet::new(SCHEMA, &["public.entry", "public.hot"]).star("shore", &FOUR).unsynced().start();
    fleet.sql(FOUR[0], "INSERT INTO hot SELECT n FROM generate_series(1, 8) n");
    fleet.converge();
    let writers = Writers::start(&fleet, &FOUR);
    let mut dice = Dice::from_env();
    for _ in 0..4 {
        for site in shuffled(&mut dice) {
            writers.turns(3);
            fleet.link(site, "shore").cut();
        }
        let mut reachable = Vec::new();
        for site in shuffled(&mut dice) {
            writers.turns(3);
            fleet.link(site, "shore").heal();
            reachable.push(site);
            let written = writers.written();
            wait_until(&format!("{reachable:?} to know the same"), CONVERGE, || {
                reachable.iter().try_for_each(|site| shows(&fleet, site, &reachable, &written))
            });
        }
    }
    let written = writers.stop();
    fleet.converge();
    assert_once(&fleet, &FOUR, &written);
    fleet.assert_quiet(&[]);
}

fn shuffled(dice: &mut Dice) -> Vec<&'static str> {
    let mut left = FOUR.to_vec();
    (0..FOUR.len()).map(|_| left.remove(dice.below(left.len() as u64) as usize)).collect()
}

/// Whether a site shows as many entries of each of `others` as were written there.
fn shows(fleet: &Fleet, site: &str, others: &[&str], written: &[u64]) -> Result<(), String> {
    for (other, written) in FOUR.iter().zip(written).filter(|(site, _)| others.contains(site)) {
        let sql = format!("SELECT count(*) FROM entry WHERE site = '{other}'");
        let shown: u64 = value(fleet, site, &sql).parse().expect("a number");
        if shown < *written {
            return Err(format!("{site} shows {shown} entries of {other}, not {written}"));
        }
    }
    Ok(())
}

/// One writing thread per site. They write when told, so that they do not run away from replication
/// while a link is down.
struct Writers {
    turns: Vec<SyncSender<()>>,
    written: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<u64>>,
}

impl Writers {
    fn start(fleet: &Fleet, sites: &[&'static str]) -> Self {
        let mut writers = Self { turns: Vec::new(), written: Vec::new(), threads: Vec::new() };
        for site in sites.iter().copied() {
            let session = fleet.member(site).cluster().session(DB).expect("connect");
            let (give, take) = sync_channel(1);
            let written = Arc::new(AtomicU64::new(0));
            writers.turns.push(give);
            writers.written.push(Arc::clone(&written));
            writers.threads.push(thread::spawn(move || write(site, &session, &take, &written)));
        }
        writers
    }

    /// How much each has written so far.
    fn written(&self) -> Vec<u64> {
        self.written.iter().map(|written| written.load(Ordering::Acquire)).collect()
    }

    /// One transaction at each site; returns when the ones before are written.
    fn turn(&self) {
        for turn in &self.turns {
            turn.send(()).expect("the writer lives");
        }
    }

    fn turns(&self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    /// Ends them; says how much each has written.
    fn stop(self) -> Vec<u64> {
        drop(self.turns);
        self.threads.into_iter().map(|thread| thread.join().expect("writer")).collect()
    }
}

fn write(site: &str, session: &Session, turns: &Receiver<()>, told: &AtomicU64) -> u64 {
    let mut written = 0;
    while let Ok(()) = turns.recv() {
        written += 1;
        let (n, row, copies) = (written, written % 8 + 1, written % 10);
        let batch = format!(
            "INSERT INTO entry VALUES ('{site}', {n}, repeat(md5('{site}{n}'), {copies})); \
             UPDATE hot SET last = '{site} {n}' WHERE id = {row}"
        );
        session.batch(&batch).expect("write");
        told.store(written, Ordering::Release);
    }
    written
}

/// The same numbers in every run (xorshift64).
struct Luck(u64);

impl Luck {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
