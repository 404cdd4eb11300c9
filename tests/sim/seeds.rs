//! A few hundred runs of the simulator, and those that once found something.
//! `cargo xtask mutants` runs very many more, and sees that planted mistakes are found.

use landfall_tests::sim::{self, Length, Options, Trace};

/// Seeds that failed when the product was wrong.
///
/// - 689, 6382: the database crashed after an asynchronous apply, and an idle apply never noticed.
///
/// They are runs without extras; see [`EXTRAS`].
const REGRESSIONS: &[u64] = &[689, 6382];

/// The same for runs with extras, but without what only some seeds have.
///
/// - 746: a capture that began anew met a large transaction before what its forerunner had passed
///   over, and the store refused it; apply ran in circles without capture until the process ended.
const EXTRAS: &[u64] = &[746];

/// The same for runs with everything but [realms](sim::Realm), which there were none of then.
///
/// - 457, short: of two long values of one length the one that gave way was not told of.
/// - 44, short: a capture that began anew was asked for a position that its forerunner had passed
///   without a record, and the store refused what was no news to it.
/// - 25541, short: a bit of the hash of an own unit flipped, and the site took itself for a copy.
/// - 311: a conflict line had the loser's value for the winner's, which a row inserted on approval
///   showed.
const LATEST: &[(Length, u64)] =
    &[(Length::Short, 457), (Length::Short, 44), (Length::Short, 25541), (Length::Full, 311)];

/// The same for runs with realms, too.
///
/// - 173 and 1224, short: a row came back in the group that first described its table, and its values
///   were not found; it was shown without them until it was repaired.
/// - 848, short: a row's parent clashed only until another row of the group gave its value up; so the row
///   was parked, kept its own value, and the parent's got an ending for nothing.
/// - 37: a row that was put aside came back while its parent went, and two changes of one row
///   were logged, which no other site could read.
/// - 1: a text in a row of which a maximum was just overruled travelled as a whole, and took with it what
///   others did.
/// - 6502, short: a row that others put aside while its change was parked was not on the list of those.
/// - 6443, short: the server crashed before what was repaired was on its disk, and nobody repaired it
///   again.
/// - 9870, short: a row was put aside in the transaction that had to bring its child back, and apply waited
///   for a delete that nobody had written.
/// - 8394, short: a row came after its parent was put aside, and was parked for ever, at another site with
///   what it had been before.
/// - 13240, short: a row was put aside for what another showed only because its change was parked.
/// - 13968, short: what a group of two transactions found without a parent went aside with the first of them.
/// - 14607, short: two histories of a life of a site that is over stood at two sites, and neither was set
///   aside: the site itself would not show what it held of it.
/// - 39173, short: a row that was to leave its parent, and had to find its place first, went with it; and
///   apply looked for it for ever.
/// - 53106, short: a row that was not there was taken for deleted, because what had inserted it and put it
///   aside was not folded; it came back as it was in its life before.
/// - 58857, short: for the same reason a row that came back while it was aside was not listed.
/// - 53679, short: a row whose new parent found its place late was parked, and went with its old parent
///   for good.
/// - 3826: a delete stood in spite of an update, because the row that was to come back had to go aside.
/// - 1202: a set that was edited before it was put back in order had another order at its site for good.
const REALMS: &[(Length, u64)] = &[
    (Length::Short, 173),
    (Length::Short, 1224),
    (Length::Short, 848),
    (Length::Short, 6502),
    (Length::Short, 6443),
    (Length::Short, 9870),
    (Length::Short, 8394),
    (Length::Short, 13240),
    (Length::Short, 13968),
    (Length::Short, 14607),
    (Length::Short, 39173),
    (Length::Short, 53106),
    (Length::Short, 53679),
    (Length::Short, 58857),
    (Length::Full, 3826),
    (Length::Full, 37),
    (Length::Full, 1),
    (Length::Full, 1202),
];

/// Each kind takes a few seconds.
const RUNS: [(Length, u64); 2] = [(Length::Short, 1_000), (Length::Full, 100)];

fn check(options: Options) {
    let failure = sim::run(options.clone(), Trace::Off).failure.unwrap_or_default();
    assert!(failure.is_empty(), "{failure} in {options:#?}");
}

#[test]
fn seeds_run_to_a_good_end() {
    for (length, runs) in RUNS {
        (1..=runs).for_each(|seed| check(Options::of(length, seed, &[])));
    }
}

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    REGRESSIONS.iter().for_each(|seed| check(Options::plain(*seed, &[])));
    EXTRAS.iter().for_each(|seed| check(Options::with_extras(*seed, &[])));
    LATEST.iter().for_each(|(length, seed)| check(Options::before_realms(*length, *seed, &[])));
    REALMS.iter().for_each(|(length, seed)| check(Options::of(*length, *seed, &[])));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for (length, runs) in [(Length::Short, 50), (Length::Full, 10)] {
        for seed in 1..=runs {
            let run = || sim::run(Options::of(length, seed, &[]), Trace::On);
            let (one, other) = (run(), run());
            assert_eq!((one.steps, &one.trace), (other.steps, &other.trace), "{length:?} {seed}");
        }
    }
}

/// Mistakes that only a crash or a lost connection shows are not shown by anything else.
#[test]
fn without_faults_nothing_shows_them() {
    let rules = [
        "torn-fold",
        "volatile-clock",
        "confirm-before-sync",
        "send-before-sync",
        "progress-outside",
        "unsynced",
    ];
    for rule in rules {
        (1..=50).for_each(|seed| check(Options::short(seed, &[rule.to_owned()]).calm()));
    }
}

#[test]
fn planted_mistakes_are_found() {
    let rules = [
        ("no-causal-order", 100),
        ("volatile-clock", 100),
        ("no-barrier", 100),
        ("progress-outside", 50),
        ("ack-before-sync", 50),
        ("lost-conflict", 50),
        ("no-checksum", 200),
        ("no-cascade", 450),
        ("no-update-wins", 50),
        ("youngest-claim", 150),
        ("unlisted-aside", 150),
        ("unlocked-parents", 300),
        ("split-compacted", 150),
    ];
    for (rule, runs) in rules {
        let planted = [rule.to_owned()];
        let fails = |seed| sim::run(Options::short(seed, &planted), Trace::Off).failure.is_some();
        assert!((1..=runs).any(fails), "{rule} is not noticed in {runs} runs");
    }
}
