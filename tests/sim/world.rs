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
use landfall_protocol::fold::MarkerKey;
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::limits::simulated as limits;
use landfall_protocol::schema::{SetId, TableDef};
use landfall_protocol::unit::simulated;
use landfall_protocol::version::VersionVector;
use tokio::time::Instant;

use super::checks::{self, Contents, Held, Opened};
use super::executor::{Executor, Life, Lives, Steps};
use super::faults;
use super::ledger::Ledger;
use super::mishaps;
use super::network::{Sky, address};
use super::options::Options;
use super::oracle::Table;
use super::parking;
use super::postgres::{self, Cluster, Pauses, TableSpec};
use super::realm;
use super::restores;
use super::site::{Around, Site, SiteClock, Units, Written};
use super::wires::Wires;
use super::workload::{self, Client};
use crate::dice::Dice;

/// Where texts are long above a few bytes, so much of them travels at once.
const PIECE_BYTES_MAX: usize = 32;
/// More steps than any run needs.
const STEPS_MAX: u64 = 2_000_000;
/// Within this much time after the last fault everything must be everywhere.
const LIVENESS: Duration = Duration::from_secs(3_600);
/// The number of the client that waits for the worst moment.
const STALKER: u64 = 60;
/// Time to show what can be shown where a history is set aside.
const SETTLE: Duration = Duration::from_secs(600);
/// Time to notice that connections are lost, to call again, and to look at what then comes.
const GREETING: Duration = Duration::from_secs(300);
/// What is parked or aside is tried again within this time.
const REST: Duration = Duration::from_secs(30);
/// Everything that is parked is tried again after an hour at the latest.
const REST_MAX: Duration = Duration::from_secs(3_600 + 600);
const YEAR_MS: i64 = 365 * 24 * 3_600_000;
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
    pub(crate) ledger: RefCell<Ledger>,
    pub(crate) written: Written,
    pub(crate) units: Units,
    /// How often a connection may still be lost in the middle of a unit.
    breaks: Cell<u64>,
    opened: Opened,
    wires: Wires,
    /// How often a site may still crash when something of it has reached another.
    pub(crate) ambushes: Cell<u64>,
    dice: RefCell<Dice>,
    pub(crate) clients: Cell<u64>,
    /// Copies of machines that run beside them.
    pub(crate) copies: Cell<u64>,
    /// How many words clients have made up.
    pub(crate) tokens: Cell<u64>,
    /// Faults come no more; what is broken is being mended.
    pub(crate) healing: Cell<bool>,
    failure: RefCell<Option<String>>,
    finished: Cell<bool>,
    trace: RefCell<Option<Vec<String>>>,
    start: Instant,
}

/// Runs a world to its end.
pub fn run(options: Options, trace: Trace) -> Report {
    landfall_protocol::planted::plant(&options.planted);
    limits::set(options.extras.long_above.map(|inline_bytes_max| {
        let piece_bytes_max = PIECE_BYTES_MAX;
        limits::Limits { inline_bytes_max, piece_bytes_max }
    }));
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
        if let Some(cluster) = site.cluster.clone() {
            world.lives.spawn(world.life, async move { match cluster.run().await {} });
            let watch = checks::watch_accounts(Rc::clone(&world), Rc::clone(site));
            world.lives.spawn(world.life, watch);
        }
        if let Err(error) = site.start(&world) {
            return world.fail(format!("{} does not start: {error}", site.id));
        }
        for number in 0..world.options.clients {
            if let Some(client) = Client::new(&world, site, number) {
                world.lives.spawn(world.life, client.run());
            }
        }
        if world.options.stalks > 0
            && let Some(cluster) = &site.cluster
            && let Some(stalker) = Client::new(&world, site, STALKER)
        {
            world.clients.set(world.clients.get() + 1);
            world.lives.spawn(world.life, stalker.stalk(cluster.stalk()));
        }
    }
    if world.options.extras.has_mishaps() {
        world.lives.spawn(world.life, mishaps::direct(Rc::clone(&world)));
    }
    world.lives.spawn(world.life, restores::direct(Rc::clone(&world)));
    faults::direct(&world).await;
    world.heal();
    match world.end().await {
        Ok(()) => world.finished.set(true),
        Err(why) => world.fail(why),
    }
}

impl World {
    fn new(options: Options, lives: Lives, mut dice: Dice, trace: Trace) -> Self {
        let mut tables = workload::tables();
        tables.truncate(options.tables());
        let members = options.sites + options.relays;
        let member = |number| Member {
            site: site(number),
            name: format!("site-{number}"),
            key: simulated::key(site(number)),
            addresses: vec![
                address(site(number)).to_string().parse().expect("an address is an address"),
            ],
            role: if number <= options.sites { Role::Site } else { Role::Hub },
        };
        let names = tables.iter().map(|table| table.name.clone()).collect();
        let set = Set { id: SetId(1), name: "all".into(), tables: names, full_history: false };
        let fleet = Fleet::new(1, vec![set], (1..=members).map(member).collect());
        let fleet =
            fleet.and_then(|fleet| fleet.with_rules(workload::rules(options.realm.as_ref())));
        let unique = options.realm.as_ref().map(realm::unique).unwrap_or_default();
        let fleet = fleet.and_then(|fleet| fleet.with_unique(unique));
        let sky = Sky::new(options.line, options.portion_max, dice.split());
        let sites = sites(&options, &tables, &mut dice);
        let seed = Dice::new(options.seed ^ 0x77_6972_6573);
        let wires = Wires::lay(options.extras.shape, options.sites, options.relays, seed);
        let planted = Rc::new(options.planted.iter().cloned().collect());
        let true_clock = Arc::new(SiteClock::new(0, 0));
        let written = Written::default();
        let units = Units::default();
        let notes = (&written, &units);
        let life = lives.begin(Around::new(&true_clock, dice.split(), &planted, notes, false));
        Self {
            planted,
            units,
            breaks: Cell::new(options.extras.breaks),
            network: Network::new(Arc::new(sky.clone())),
            fleet: Arc::new(fleet.expect("the fleet is sound")),
            ambushes: Cell::new(options.ambushes),
            clients: Cell::new(options.sites * options.clients),
            copies: Cell::new(0),
            tokens: Cell::new(0),
            ledger: RefCell::default(),
            written,
            opened: Opened::default(),
            wires,
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

    /// Whom a site calls. Nobody knows where a copy of a site is, so that calls everybody.
    pub(crate) fn calls(&self, caller: &Site) -> Vec<SiteId> {
        if caller.address == address(caller.id) {
            return self.wires.called_by(u64::from(caller.id.number())).map(site).collect();
        }
        self.sites.iter().map(|other| other.id).filter(|other| *other != caller.id).collect()
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

    /// Called after each step, so that nothing more of a unit comes before its connection is lost.
    fn look_at_units(&self) {
        if let Some(origin) = self.units.misfit.take() {
            self.fail(format!("what was put together of a unit of {origin} is none"));
        }
        let (is_arriving, breaks) = (self.units.arriving.take(), self.breaks.get());
        if is_arriving && breaks > 0 && !self.healing.get() && self.split().below(4) == 0 {
            self.breaks.set(breaks - 1);
            self.trace(|| "all connections are lost in the middle of a unit".to_owned());
            self.sites.iter().for_each(|site| self.network.sever(address(site.id)));
        }
    }

    fn is_over(&self) -> bool {
        self.look_at_units();
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
        // Nothing that goes wrong here is beyond what a daemon waits out, but for a copy or an old
        // image of itself.
        let may_fail =
            |error: &TaskError| site.is_set_back() && !matches!(error, TaskError::Panicked { .. });
        match ended {
            Err(error) if !may_fail(&error) => self.fail(format!("{}: {error}", site.id)),
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
            if site.process.borrow().is_some() || site.is_gone.get() {
                return;
            }
            match site.start(&world) {
                Ok(()) => {}
                Err(StoreError::Full) => world.start_later(&site, 1_000),
                Err(error @ StoreError::Corrupt { .. }) if site.is_damaged.get() => {
                    world.trace(|| format!("{} does not start: {error}", site.id));
                }
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
            site.clock.set_right();
            if let Some(cluster) = &site.cluster {
                cluster.start();
                if self.options.extras.has_long_talks() {
                    cluster.lose_no_more();
                }
            }
            if site.process.borrow().is_none() {
                self.start_later(site, 0);
            }
        }
        self.network.changed();
    }

    /// All must come to rest, and be as it must.
    async fn end(&self) -> Result<(), String> {
        self.converge().await?;
        if restores::is_split(self, &self.held().await?) {
            self.greet_again().await;
            self.converge().await?;
        } else {
            // What waits for a history that is set aside is no fault of a constraint.
            parking::free(self).await?;
            self.converge().await?;
            self.come_to_rest().await?;
        }
        self.inspect().await
    }

    /// Everybody loses every connection, and greets the others anew: that shows histories that are
    /// as long as each other.
    async fn greet_again(&self) {
        self.trace(|| "everybody greets everybody again".into());
        for (place, one) in self.sites.iter().enumerate() {
            for other in &self.sites[place + 1..] {
                self.network.lose(address(one.id), address(other.id));
            }
        }
        tokio::time::sleep(GREETING).await;
    }

    /// Waits until what is parked or put aside for a while has come in.
    async fn come_to_rest(&self) -> Result<(), String> {
        if self.options.realm.as_ref().is_none_or(|realm| realm.nodes.is_empty()) {
            return Ok(());
        }
        let limit = Instant::now() + REST_MAX;
        let commits = || -> Vec<_> {
            let clusters = self.sites.iter().filter_map(|site| site.cluster.as_ref());
            clusters.map(Cluster::last_commit).collect()
        };
        let is_aside = || {
            let mut clusters = self.sites.iter().filter_map(|site| site.cluster.as_ref());
            clusters.any(|cluster| cluster.view(|view| !view.aside().is_empty()))
        };
        loop {
            let before = commits();
            tokio::time::sleep(REST).await;
            self.converge().await?;
            // A row whose parent is put aside may wait for ever.
            let is_parked = parking::still_parked(self) > 0 && !is_aside();
            if commits() == before && !is_parked {
                return Ok(());
            }
            if Instant::now() >= limit {
                let parked = parking::still_parked(self);
                return Err(format!("no rest: {parked} changes are parked"));
            }
        }
    }

    /// Waits until every site holds everything.
    async fn converge(&self) -> Result<(), String> {
        let limit = Instant::now() + LIVENESS;
        loop {
            let waits = self.waits().await;
            if waits.is_empty() {
                if !self.set_aside().is_empty() {
                    tokio::time::sleep(SETTLE).await;
                }
                return Ok(());
            }
            if Instant::now() >= limit {
                return Err(format!("no convergence: {}", waits.join("; ")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Origins of which some site takes nothing more.
    pub(crate) fn set_aside(&self) -> BTreeSet<Origin> {
        let mut found = BTreeSet::new();
        for site in &self.sites {
            if let Some(process) = &*site.process.borrow() {
                found.extend(process.store.watch().borrow().quarantined.keys().copied());
            }
        }
        found
    }

    /// What is not there yet.
    async fn waits(&self) -> Vec<String> {
        let mut waits = Vec::new();
        if self.clients.get() > 0 {
            let clusters = self.sites.iter().filter_map(|site| site.cluster.as_ref());
            let open: Vec<String> = clusters.flat_map(Cluster::open_transactions).collect();
            waits.push(format!("{} clients are at work: {open:?}", self.clients.get()));
        }
        if self.copies.get() > 0 {
            waits.push("a copy of a site runs beside it".to_owned());
        }
        let mut logs = Vec::new();
        for site in &self.sites {
            let process = site.process.borrow();
            let Some(process) = &*process else {
                waits.push(format!("{} does not run", site.id));
                continue;
            };
            let log = process.store.watch().borrow().clone();
            if site.is_damaged.get() {
                waits.push(format!("{} has a bad disk", site.id));
            }
            waits.extend(process.unwell().map(|why| format!("{} {why}", site.id)));
            if log.dirty > 0 {
                waits.push(format!("{} has {} rows to repair", site.id, log.dirty));
            }
            // Behind the last commit lies what nobody needs to read.
            if let Some(cluster) = &site.cluster
                && log.seen_lsn < cluster.last_commit().0
            {
                waits.push(format!("{} has read its log up to {}", site.id, log.seen_lsn));
            }
            logs.push((site, log));
        }
        if !waits.is_empty() {
            return waits;
        }
        // Of past lives there is what others hold.
        let mut all: VersionVector =
            logs.iter().map(|(site, log)| (site.origin.get(), log.own)).collect();
        logs.iter().for_each(|(_, log)| all.join(&log.received));
        let set_aside = self.set_aside();
        let due = |vector: &VersionVector| -> VersionVector {
            let due = vector.iter().filter(|(origin, _)| !set_aside.contains(origin));
            due.filter(|(_, seq)| *seq > Seq::ZERO).collect()
        };
        let all = due(&all);
        for (site, log) in logs {
            if due(&log.received) != all {
                waits.push(format!("{} has received {:?} of {all:?}", site.id, log.received));
            }
            // What came after a history that is set aside may wait for ever.
            let shows_all = site.cluster.is_some() && set_aside.is_empty();
            if shows_all && due(&log.applied) != all && !self.shows_whole(site, &log).await {
                waits.push(format!("{} has applied {:?} of {all:?}", site.id, log.applied));
            }
        }
        waits
    }

    /// Whether a site shows every transaction that it has all of. Of a life that is over nobody may
    /// have the end of a large one.
    async fn shows_whole(&self, site: &Site, log: &Log) -> bool {
        let store = site.process.borrow().as_ref().map(|process| process.store.clone());
        let Some(store) = store else { return false };
        let Ok(contents) = checks::contents(&store, &self.opened, &self.written).await else {
            return false;
        };
        let mut held = contents.iter();
        held.all(|(origin, held)| log.applied.get(*origin) == Seq(held.whole as u64))
    }

    /// What each site's store holds.
    async fn held(&self) -> Result<Vec<(&Rc<Site>, Contents)>, String> {
        let mut held = Vec::new();
        for site in &self.sites {
            let store = site.process.borrow().as_ref().map(|process| process.store.clone());
            let Some(store) = store else { return Err(format!("{} does not run", site.id)) };
            let contents = checks::contents(&store, &self.opened, &self.written).await;
            held.push((site, contents.map_err(|error| format!("{}: {error}", site.id))?));
        }
        Ok(held)
    }

    /// The last checks.
    async fn inspect(&self) -> Result<(), String> {
        let held = self.held().await?;
        for (site, contents) in &held {
            let process = site.process.borrow();
            let Some(process) = &*process else { return Err(format!("{} does not run", site.id)) };
            let log = process.store.watch().borrow().clone();
            let waiting: u64 = contents.values().map(Held::waiting).sum();
            // What is set aside is never shown, nor what came after it.
            let shows_all = site.cluster.is_some() && self.set_aside().is_empty();
            if let Some(broken) = site.cluster.as_ref().and_then(Cluster::broken) {
                return Err(format!("{} showed {broken}", site.id));
            }
            if shows_all && log.fates.total() + waiting != log.received_changes {
                let (fates, received) = (log.fates, log.received_changes);
                return Err(format!("{} received {received} changes: {fates:?}", site.id));
            }
        }
        restores::judge(self, &held)
    }
}

/// The sites, none of which runs yet.
fn sites(options: &Options, tables: &[TableDef], dice: &mut Dice) -> Vec<Rc<Site>> {
    // Clocks that show 1970 give many equal readings.
    let dead_batteries = dice.below(12) == 0 || options.has_dead_clocks;
    let sites = (1..=options.sites + options.relays).map(|number| {
        let has_database = number <= options.sites;
        let incarnation = Incarnation::new(1 + dice.below(1 << 40)).expect("it is not zero");
        let origin = Origin { site: site(number), incarnation };
        let database = has_database.then(|| DatabaseIdentity {
            system_identifier: number.to_string(),
            database: "simulated".into(),
            slot: "landfall".into(),
        });
        let clock = if dead_batteries { SiteClock::new(-60 * YEAR_MS, 0) } else { clock(dice) };
        let clock = Arc::new(clock);
        let cluster = has_database.then(|| cluster(options, number, tables, &clock, dice.split()));
        let genesis = cluster.as_ref().map(Cluster::backup);
        let start = cluster.as_ref().map_or(0, |cluster| cluster.create_slot().0);
        let secret = [number as u8; 32];
        let disk = MemoryDisk::new(Identity { origin, database: database.clone() }, secret, start);
        Rc::new(Site {
            id: origin.site,
            address: address(origin.site),
            origin: Cell::new(origin),
            database,
            clock,
            disk: RefCell::new(Rc::new(disk.expect("there is memory"))),
            has_room: Rc::new(Cell::new(true)),
            kept: Rc::default(),
            process: RefCell::new(None),
            told: RefCell::new(Log::default()),
            cluster,
            marker_key: MarkerKey::new(secret),
            genesis,
            was_set_back: Cell::new(false),
            is_gone: Cell::new(false),
            is_damaged: Cell::new(false),
            lost: RefCell::default(),
            past: RefCell::default(),
        })
    });
    sites.collect()
}

/// The site of this number.
fn site(number: u64) -> SiteId {
    SiteId::new(number as u16).expect("numbers begin with 1")
}

pub(crate) fn differ(shown: &[Table], due: &[Table]) -> String {
    let mut lines = Vec::new();
    for (shown, due) in shown.iter().zip(due) {
        let keys = shown.keys().chain(due.keys()).collect::<BTreeSet<_>>();
        for key in keys.into_iter().filter(|key| shown.get(*key) != due.get(*key)) {
            lines.push(format!("{key:?} shows {:?}, due is {:?}", shown.get(key), due.get(key)));
        }
    }
    lines.join("; ")
}

fn cluster(
    options: &Options,
    number: u64,
    tables: &[TableDef],
    clock: &Arc<SiteClock>,
    mut dice: Dice,
) -> Cluster {
    let clock = Arc::clone(clock);
    let mut tables: Vec<_> = tables.iter().cloned().map(TableSpec::new).collect();
    workload::constrain(&mut tables, options.realm.as_ref());
    if let (true, Some(above)) =
        (options.refusing_site() == Some(number), options.extras.refused_above)
    {
        parking::refuse(&mut tables, above);
    }
    let pauses = Pauses { yields: 30, sleeps: 15, sleep_ms_max: options.postgres_ms_max };
    let near_wrap = dice.below(4) == 0;
    let progress_outside = options.planted.iter().any(|rule| rule == "progress-outside");
    let options = postgres::Options {
        system_identifier: number,
        first_xid: if near_wrap { (1 << 32) - dice.below(40) } else { 700 + dice.below(100) },
        pauses,
        lost_per_million: options.lost_per_million,
        described_again: dice.pick(&[0, 10]),
        has_sync_standby: options.extras.sync_standby,
        progress_outside,
        ..postgres::Options::new(tables)
    };
    Cluster::new(options, dice, move || clock.now_us())
}

/// Most clocks are a little wrong, some very.
fn clock(dice: &mut Dice) -> SiteClock {
    let hour = 3_600_000;
    // Not far ahead: what is stamped then waits until everybody is there.
    let ahead = dice.pick(&[0, 100, 100, 240_000, 400_000]);
    let behind = dice.pick(&[0, 100, 100, hour, 10 * YEAR_MS as u64, 60 * YEAR_MS as u64]);
    let offset = if dice.below(2) == 0 {
        dice.below(ahead + 1) as i64
    } else {
        -(dice.below(behind + 1) as i64)
    };
    SiteClock::new(offset, dice.below(401) as i64 - 200)
}
