//! Two or three sites that reach each other, cut apart and joined, or written to by applications that
//! race.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use landfall_tests::dice::Dice;
use landfall_tests::fleet::{Builder, CONVERGE, DB, Fleet};
use landfall_tests::session::{Session, sqlstate};

use crate::support::{value, wait_value};

pub(crate) const A: &str = "ship-a";
pub(crate) const B: &str = "ship-b";
pub(crate) const C: &str = "ship-c";
pub(crate) const SITES: [&str; 3] = [A, B, C];

pub(crate) fn three(schema: &str, tables: &[&str]) -> Builder {
    let sites = Fleet::new(schema, tables).site(A).site(B).site(C);
    sites.link(A, B).link(B, C).link(A, C).unsynced()
}

pub(crate) fn two(schema: &str, tables: &[&str]) -> Builder {
    Fleet::new(schema, tables).site(A).site(B).link(A, B).unsynced()
}

pub(crate) fn cut(fleet: &Fleet) {
    fleet.links().for_each(|link| link.cut());
}

pub(crate) fn join(fleet: &Fleet) {
    fleet.links().for_each(|link| link.heal());
}

/// Joins all and waits until they show the same.
#[track_caller]
pub(crate) fn heal(fleet: &Fleet) {
    join(fleet);
    fleet.converge();
}

/// Every site comes to answer the same to a query.
#[track_caller]
pub(crate) fn all_say(fleet: &Fleet, sql: &str, expected: &str) {
    fleet.names().for_each(|site| wait_value(fleet, site, sql, expected));
}

/// How often each rule stands in each site's history.
#[track_caller]
pub(crate) fn rules(fleet: &Fleet) -> String {
    let sql = "SELECT coalesce(string_agg(rule || ' ' || n, ', ' ORDER BY rule), '') FROM \
               (SELECT rule, count(*) n FROM landfall.conflict GROUP BY 1) r";
    fleet.names().map(|site| value(fleet, site, sql)).collect::<Vec<_>>().join("; ")
}

/// All show the same, nothing was rewritten, and no alarm was raised.
#[track_caller]
pub(crate) fn is_sound(fleet: &Fleet) {
    is_sound_but_for(fleet, &[]);
}

#[track_caller]
pub(crate) fn is_sound_but_for(fleet: &Fleet, alarms: &[&str]) {
    fleet.converge();
    assert_eq!(fleet.repaired_rows(), 0);
    fleet.assert_quiet(alarms);
}

/// The applications of one site.
pub(crate) struct Writer<'a> {
    /// Of the site among the three.
    pub(crate) place: u64,
    pub(crate) site: &'static str,
    session: Session,
    refusals: &'a [&'static str],
}

impl Writer<'_> {
    /// What the site's own constraints refuse is the application's affair.
    #[track_caller]
    pub(crate) fn try_write(&self, sql: &str) {
        if let Err(error) = self.session.batch(sql) {
            let state = sqlstate(&error).unwrap_or("none");
            assert!(self.refusals.contains(&state), "{}: {error:#}", self.site);
        }
    }
}

/// Lets `write` run at all three sites at once until it ends, and then all converge. All the while each site
/// must answer 0 to `wrong`. Writers may be refused with the SQLSTATEs `refusals`.
#[track_caller]
pub(crate) fn race(
    fleet: &Fleet,
    seed: u64,
    wrong: &str,
    refusals: &[&'static str],
    write: impl Fn(&Writer<'_>, Dice) + Sync,
) {
    let done = AtomicBool::new(false);
    let mut dice = Dice::new(seed);
    thread::scope(|scope| {
        let end = OnDrop(&done);
        let readers = SITES.map(|site| scope.spawn(|| look(fleet, site, wrong, &done)));
        let writers = [0, 1, 2].map(|place: usize| {
            let (site, dice, write) = (SITES[place], dice.split(), &write);
            scope.spawn(move || {
                let cluster = fleet.member(site).cluster();
                let session = Session::open(&cluster.socket_conninfo(DB));
                let session = session.unwrap_or_else(|error| panic!("{error:#}"));
                write(&Writer { place: place as u64, site, session, refusals }, dice);
            })
        });
        for writer in writers {
            writer.join().expect("a writer");
        }
        let outcome = fleet.try_converge(CONVERGE);
        drop(end);
        for reader in readers {
            reader.join().expect("a reader");
        }
        outcome.expect("the fleet converges");
    });
}

/// Lets the readers end, also when a writer fails.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn look(fleet: &Fleet, site: &str, wrong: &str, done: &AtomicBool) {
    let mut looks = 0;
    while !done.load(Ordering::Relaxed) {
        assert_eq!(value(fleet, site, wrong), "0", "{site} after {looks} looks");
        looks += 1;
    }
}
