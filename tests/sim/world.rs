//! The world of one run: its sites, what happens to them, and how it ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use landfall_engine::store::{DatabaseIdentity, Identity, Log, MemoryDisk, StoreError};
use landfall_engine::tasks::TaskError;
use landfall_engine::transport::Network;
use landfall_protocol::fleet::{Fleet, Member, Role, Set};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::schema::SetId;
use landfall_protocol::unit::simulated;
use landfall_protocol::version::VersionVector;
use tokio::time::Instant;

use super::checks;
use super::executor::{Executor, Life, Lives, Steps};
use super::faults;
use super::network::{Sky, address};
use super::options::Options;
use super::site::{Around, Site, SiteClock};
use super::workload::{self, Wal};
use crate::dice::Dice;

/// More steps than any run needs.
const STEPS_MAX: u64 = 2_000_000;
/// Within this much time after the last fault everything must be everywhere.
const LIVENESS: Duration = Duration::from_secs(1_800);
/// How often the world looks whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// Why it failed.
    pub failure: Option<String>,
    /// What it cost.
    pub steps: Steps,
    /// How long it lasted by the simulated clock.
    pub simulated: Duration,
    /// What happened, if that was asked for.
    pub trace: Vec<String>,
}

/// Whether to write down what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Costs time.
    On,
    /// For many runs.
    Off,
}

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) lives: Lives,
    pub(crate) life: Life,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) network: Network,
    pub(crate) sky: Sky,
    pub(crate) sites: Vec<Rc<Site>>,
    pub(crate) planted: Rc<BTreeSet<String>>,
    dice: RefCell<Dice>,
    clients: Cell<u64>,
    /// Faults come no more; what is broken is being mended.
    pub(crate) healing: Cell<bool>,
    failure: RefCell<Option<String>>,
    finished: Cell<bool>,
    trace: RefCell<Option<Vec<String>>>,
    start: Instant,
}

/// Runs a world to its end.
pub fn run(options: Options, trace: Trace) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without threads needs nothing");
    runtime.block_on(async {
        let mut dice = Dice::new(options.seed);
        let executor = Executor::new(dice.split());
        let world = Rc::new(World::new(options, executor.lives(), dice, trace));
        world.lives.spawn(world.life, live(Rc::clone(&world)));
        let over = Rc::clone(&world);
        let (finished, steps) = executor.run(STEPS_MAX, move || over.is_over()).await;
        if !finished {
            world.fail(format!("no end after {STEPS_MAX} steps"));
        }
        Report {
            failure: world.failure.take(),
            steps,
            simulated: world.start.elapsed(),
            trace: world.trace.take().unwrap_or_default(),
        }
    })
}

/// The world's own task.
async fn live(world: Rc<World>) {
    for site in &world.sites {
        if let Err(error) = site.start(&world) {
            return world.fail(format!("{} does not start: {error}", site.id));
        }
        if site.wal.is_some() {
            world.lives.spawn(world.life, workload::client(Rc::clone(&world), Rc::clone(site)));
        }
    }
    faults::direct(&world).await;
    world.heal();
    if let Err(why) = world.converge().await {
        return world.fail(why);
    }
    match world.inspect().await {
        Ok(()) => world.finished.set(true),
        Err(why) => world.fail(why),
    }
}

impl World {
    fn new(options: Options, lives: Lives, mut dice: Dice, trace: Trace) -> Self {
        let table = Arc::new(workload::table());
        let members = options.sites + options.relays;
        let site = |number| SiteId::new(number as u16).expect("numbers begin with 1");
        let member = |number| Member {
            site: site(number),
            name: format!("site-{number}"),
            key: simulated::key(site(number)),
            addresses: vec![
                address(site(number)).to_string().parse().expect("an address is an address"),
            ],
            role: if number <= options.sites { Role::Site } else { Role::Hub },
        };
        let set = Set { id: SetId(1), name: "all".into(), tables: vec![table.name.clone()] };
        let fleet = Fleet::new(1, vec![set], (1..=members).map(member).collect());
        let sky = Sky::new(options.line, options.portion_max, dice.split());
        let sites = (1..=members).map(|number| {
            let has_database = number <= options.sites;
            let incarnation = Incarnation::new(1 + dice.below(1 << 40)).expect("it is not zero");
            let origin = Origin { site: site(number), incarnation };
            let database = has_database.then(|| DatabaseIdentity {
                system_identifier: number.to_string(),
                database: "simulated".into(),
                slot: "landfall".into(),
            });
            let disk = MemoryDisk::new(Identity { origin, database }, [number as u8; 32], 0);
            Rc::new(Site {
                id: origin.site,
                origin,
                clock: Rc::new(clock(&mut dice)),
                disk: RefCell::new(Rc::new(disk.expect("there is memory"))),
                has_room: Rc::new(Cell::new(true)),
                process: RefCell::new(None),
                told: RefCell::new(Log::default()),
                wal: has_database.then(|| Wal::new(&table)),
            })
        });
        let sites: Vec<Rc<Site>> = sites.collect();
        let planted = Rc::new(options.planted.iter().cloned().collect());
        let true_clock = Rc::new(SiteClock::new(0, 0));
        let life = lives.begin(Around::new(&true_clock, dice.split(), &planted));
        Self {
            planted,
            network: Network::new(Arc::new(sky.clone())),
            fleet: Arc::new(fleet.expect("the fleet is sound")),
            clients: Cell::new(options.sites),
            lives,
            life,
            sky,
            sites,
            dice: RefCell::new(dice),
            healing: Cell::new(false),
            failure: RefCell::new(None),
            finished: Cell::new(false),
            trace: RefCell::new((trace == Trace::On).then(Vec::new)),
            start: Instant::now(),
            options,
        }
    }

    /// Chance of its own for somebody.
    pub(crate) fn split(&self) -> Dice {
        self.dice.borrow_mut().split()
    }

    /// Whom a site calls: everybody of a higher number, and relays everybody.
    pub(crate) fn calls(&self, site: SiteId) -> Vec<SiteId> {
        self.sites.iter().map(|other| other.id).filter(|other| *other > site).collect()
    }

    pub(crate) fn client_done(&self) {
        self.clients.set(self.clients.get() - 1);
    }

    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut *self.trace.borrow_mut() {
            let at = self.start.elapsed().as_millis();
            trace.push(format!("{at:>8} ms  {}", line()));
        }
    }

    pub(crate) fn fail(&self, why: String) {
        self.trace(|| format!("FAILED: {why}"));
        self.failure.borrow_mut().get_or_insert(why);
    }

    fn is_over(&self) -> bool {
        self.finished.get() || self.failure.borrow().is_some()
    }

    /// What a store holds when it is opened must not be less than what it told.
    pub(crate) fn check_start(&self, site: &Site, log: &Log) {
        if let Err(broken) = checks::follows(&site.told.borrow(), log) {
            self.fail(format!("{} after a start: {broken}", site.id));
        }
    }

    /// A process ended by itself.
    pub(crate) fn handle_ended(
        self: &Rc<Self>,
        site: &Rc<Site>,
        life: Life,
        ended: Result<(), TaskError>,
    ) {
        let current = site.process.borrow().as_ref().is_some_and(|process| process.life == life);
        if !current {
            return;
        }
        match ended {
            Err(error @ TaskError::Panicked { .. }) => self.fail(format!("{}: {error}", site.id)),
            ended => {
                self.trace(|| format!("{} ended: {ended:?}", site.id));
                site.crash(self);
                self.start_later(site, 1_000);
            }
        }
    }

    /// Starts a site again after a while, unless somebody else did.
    pub(crate) fn start_later(self: &Rc<Self>, site: &Rc<Site>, after_ms: u64) {
        let (world, site) = (Rc::clone(self), Rc::clone(site));
        self.lives.spawn(self.life, async move {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            if site.process.borrow().is_some() {
                return;
            }
            match site.start(&world) {
                Ok(()) => {}
                Err(StoreError::Full) => world.start_later(&site, 1_000),
                Err(error) => world.fail(format!("{} does not start: {error}", site.id)),
            }
        });
    }

    fn heal(self: &Rc<Self>) {
        self.trace(|| "everything heals".into());
        self.healing.set(true);
        self.sky.clear();
        for site in &self.sites {
            site.has_room.set(true);
            if site.process.borrow().is_none() {
                self.start_later(site, 0);
            }
        }
        self.network.changed();
    }

    /// Waits until every site holds everything.
    async fn converge(&self) -> Result<(), String> {
        let limit = Instant::now() + LIVENESS;
        loop {
            let waits = self.waits();
            if waits.is_empty() {
                return Ok(());
            }
            if Instant::now() >= limit {
                return Err(format!("no convergence: {}", waits.join("; ")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What is not there yet.
    fn waits(&self) -> Vec<String> {
        let mut waits = Vec::new();
        if self.clients.get() > 0 {
            waits.push(format!("{} clients are at work", self.clients.get()));
        }
        let mut logs = Vec::new();
        for site in &self.sites {
            let process = site.process.borrow();
            let Some(process) = &*process else {
                waits.push(format!("{} does not run", site.id));
                continue;
            };
            let log = process.store.watch().borrow().clone();
            if let Some(wal) = &site.wal
                && log.own.0 != wal.records.borrow().len() as u64
            {
                waits.push(format!("{} has folded {} transactions", site.id, log.own));
            }
            logs.push((site, log.received));
        }
        let all = self.sites.iter().filter_map(|site| {
            let wal = site.wal.as_ref()?;
            Some((site.origin, Seq(wal.records.borrow().len() as u64)))
        });
        let all: VersionVector = all.collect();
        let behind = logs.iter().filter(|(_, received)| *received != all);
        waits.extend(behind.map(|(site, received)| format!("{} has {received:?}", site.id)));
        waits
    }

    /// The last checks.
    async fn inspect(&self) -> Result<(), String> {
        let mut first = None;
        for site in &self.sites {
            let store = site.process.borrow().as_ref().map(|process| process.store.clone());
            let Some(store) = store else { return Err(format!("{} does not run", site.id)) };
            let contents = checks::contents(&store).await;
            let contents = contents.map_err(|error| format!("{}: {error}", site.id))?;
            if let Some(wal) = &site.wal {
                let own = contents.get(&site.origin).map_or(0, Vec::len);
                if own != wal.records.borrow().len() {
                    return Err(format!("{} has {own} own transactions", site.id));
                }
            }
            match &first {
                None => first = Some(contents),
                Some(first) if *first == contents => {}
                Some(_) => return Err(format!("{} holds something else", site.id)),
            }
        }
        Ok(())
    }
}

/// Most clocks are a little wrong, some very.
fn clock(dice: &mut Dice) -> SiteClock {
    let hour = 3_600_000;
    let year = 24 * 365 * hour;
    let most = dice.pick(&[0, 100, 100, hour, 10 * year]);
    let offset = dice.below(2 * most as u64 + 1) as i64 - most;
    SiteClock::new(offset, dice.below(401) as i64 - 200)
}
