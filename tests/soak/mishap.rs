//! What goes wrong, and how it is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use landfall_tests::cluster::Backup;
use landfall_tests::dice::Dice;
use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::processes::{Signal, signal};
use landfall_tests::relay::Profile;
use landfall_tests::wait;

use crate::{HUB, SITES};

/// Longest time between two mishaps.
const EVERY_MS_MAX: u64 = 3_000;
/// Longest time until one is mended.
const LASTS_MS_MAX: u64 = 12_000;
/// One epoch in so many ends with a restored database.
const RESTORE_ONE_IN: u64 = 4;
/// How long PostgreSQL may take to shut down in an orderly way.
const SHUTDOWN: Duration = Duration::from_secs(60);

/// A link by who dials whom.
type Link = (&'static str, &'static str);

/// What will put something right again.
#[derive(Debug, Clone, Copy)]
enum Mend {
    Launch(&'static str),
    Thaw(&'static str),
    StartServer(&'static str),
    Heal(Link),
}

/// All that goes wrong in a run.
#[derive(Debug)]
pub(crate) struct Mishaps {
    profiles: Vec<(String, Profile)>,
    counts: BTreeMap<&'static str, u64>,
    /// What is to be mended, and when.
    due: Vec<(Instant, Mend)>,
    /// Daemons and servers that are down or frozen, links that are cut.
    down: BTreeSet<(&'static str, &'static str)>,
}

/// A database as it was, and whose it is.
#[derive(Debug)]
pub(crate) struct Restorable {
    site: &'static str,
    backup: Backup,
}

fn links() -> Vec<Link> {
    let mut links: Vec<Link> = SITES.iter().map(|site| (*site, HUB)).collect();
    links.push((SITES[0], SITES[1]));
    links
}

impl Mishaps {
    pub(crate) fn new(profiles: Vec<(String, Profile)>) -> Self {
        Self { profiles, counts: BTreeMap::new(), due: Vec::new(), down: BTreeSet::new() }
    }

    /// How many there were of each kind.
    pub(crate) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// Lets things go wrong, one after the other, for so long.
    pub(crate) fn rage(
        &mut self,
        fleet: &mut Fleet,
        dice: &mut Dice,
        time: Duration,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let next = Instant::now() + Duration::from_millis(dice.below(EVERY_MS_MAX));
            while Instant::now() < next {
                self.mend_due(fleet, Instant::now())?;
                thread::park_timeout(Duration::from_millis(20));
            }
            self.strike(fleet, dice)?;
        }
        Ok(())
    }

    /// Puts everything right.
    pub(crate) fn heal(&mut self, fleet: &mut Fleet) -> anyhow::Result<()> {
        let last = self.due.iter().map(|(at, _)| *at).max();
        self.mend_due(fleet, last.unwrap_or_else(Instant::now))?;
        for (from, to) in links() {
            fleet.link(from, to).set_profile(&Profile::default());
            fleet.link(from, to).heal();
        }
        Ok(())
    }

    /// Now and then, a copy of a database that will take the place of what is to come.
    pub(crate) fn back_up(&self, fleet: &Fleet, dice: &mut Dice) -> Option<Restorable> {
        let site = dice.pick(&SITES);
        (dice.below(RESTORE_ONE_IN) == 0).then(|| {
            println!("   copy of the database of {site}");
            let name = format!("copy-{}", dice.below(u64::MAX));
            Restorable { site, backup: fleet.member(site).cluster().back_up(&name) }
        })
    }

    /// Puts the copy in the place of the database. The site must stand still until it is rebuilt.
    pub(crate) fn restore(
        &mut self,
        fleet: &mut Fleet,
        restorable: &Restorable,
    ) -> anyhow::Result<()> {
        let Restorable { site, backup } = restorable;
        self.count("database restored, site rebuilt", site);
        fleet.member(site).cluster().restore(backup);
        wait::try_wait_until(&format!("{site} to notice"), SOON, || {
            let status = fleet.member(site).status().map_err(|error| format!("{error:#}"))?;
            let why = status["why"].as_str().unwrap_or_default();
            if why.contains("restored from a backup") { Ok(()) } else { Err(why.to_owned()) }
        })?;
        fleet.rebuild(site);
        Ok(())
    }

    fn count(&mut self, kind: &'static str, whom: &str) {
        println!("   {kind}: {whom}");
        *self.counts.entry(kind).or_default() += 1;
    }

    /// Notes that something is down and how it comes back; `false` when it is down already.
    fn take_down(&mut self, what: Link, mend: Mend, dice: &mut Dice) -> bool {
        let fresh = self.down.insert(what);
        if fresh {
            let lasts = Duration::from_millis(dice.below(LASTS_MS_MAX));
            self.due.push((Instant::now() + lasts, mend));
        }
        fresh
    }

    fn strike(&mut self, fleet: &mut Fleet, dice: &mut Dice) -> anyhow::Result<()> {
        let members: Vec<&'static str> = SITES.into_iter().chain([HUB]).collect();
        let (member, site) = (dice.pick(&members), dice.pick(&SITES));
        match dice.below(16) {
            0..4 if self.take_down(("daemon", member), Mend::Launch(member), dice) => {
                self.count("daemon killed", member);
                fleet.member(member).daemon().kill9();
            }
            4..6 if self.take_down(("daemon", member), Mend::Thaw(member), dice) => {
                self.count("daemon frozen", member);
                let pid = fleet.member(member).daemon().pid().context("the daemon runs")?;
                signal(&[pid], Signal::Stop)?;
            }
            6..8 if self.take_down(("server", site), Mend::StartServer(site), dice) => {
                self.count("PostgreSQL killed", site);
                fleet.member(site).cluster().kill9();
            }
            8 if self.down.insert(("server", site)) => {
                self.count("PostgreSQL restarted", site);
                fleet.member(site).cluster().try_stop_fast(SHUTDOWN)?;
                self.mend(fleet, Mend::StartServer(site))?;
            }
            9..12 => self.cut(dice.pick(&links()), fleet, dice),
            12 => self.clog(fleet, dice),
            13.. => {
                let (from, to) = dice.pick(&links());
                let (name, profile) =
                    &self.profiles[dice.below(self.profiles.len() as u64) as usize];
                fleet.link(from, to).set_profile(profile);
                let told = format!("{from} to {to}: {name}");
                self.count("link made another", &told);
            }
            _ => {}
        }
        Ok(())
    }

    fn cut(&mut self, link: Link, fleet: &Fleet, dice: &mut Dice) {
        let (from, to) = link;
        if self.take_down(link, Mend::Heal(link), dice) {
            self.count("link cut", &format!("{from} to {to}"));
            fleet.link(from, to).cut();
        }
    }

    /// All links, one by one; they heal in another order.
    fn clog(&mut self, fleet: &Fleet, dice: &mut Dice) {
        self.count("all links cut", "one by one");
        let mut left = links();
        while !left.is_empty() {
            let link = left.remove(dice.below(left.len() as u64) as usize);
            self.cut(link, fleet, dice);
        }
    }

    fn mend_due(&mut self, fleet: &mut Fleet, now: Instant) -> anyhow::Result<()> {
        let due: Vec<_> = self.due.extract_if(.., |(at, _)| *at <= now).collect();
        due.into_iter().try_for_each(|(_, mend)| self.mend(fleet, mend))
    }

    fn mend(&mut self, fleet: &mut Fleet, mend: Mend) -> anyhow::Result<()> {
        match mend {
            Mend::Launch(name) => {
                self.down.remove(&("daemon", name));
                fleet.launch(name)
            }
            Mend::Thaw(name) => {
                self.down.remove(&("daemon", name));
                let daemon = fleet.member(name).daemon();
                ensure!(daemon.exited()?.is_none(), "{name} ended while it was frozen");
                signal(&[daemon.pid().context("the daemon runs")?], Signal::Continue)
            }
            Mend::StartServer(site) => {
                self.down.remove(&("server", site));
                fleet.member(site).cluster().try_restart()
            }
            Mend::Heal((from, to)) => {
                self.down.remove(&(from, to));
                fleet.link(from, to).heal();
                Ok(())
            }
        }
    }
}
