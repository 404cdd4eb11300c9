//! One site: its disk, its clock and, while it runs, its process.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use landfall_engine::capture::assemble::Scratch;
use landfall_engine::capture::horizon::Horizon;
use landfall_engine::capture::stream::{self, CaptureContext, CaptureStatus};
use landfall_engine::config::LinkConfig;
use landfall_engine::links::{self, Links};
use landfall_engine::postgres::connect::PgSettings;
use landfall_engine::replica::{self, ReplicaContext, ReplicaStatus, RetryOrders};
use landfall_engine::simulation::{self, Surroundings};
use landfall_engine::store::{
    DatabaseIdentity, Log, MemoryDisk, Moment, Opened, Pace, Settings, Store, StoreError,
};
use landfall_engine::tasks::Tasks;
use landfall_engine::transport::Endpoint;
use landfall_protocol::change::Transaction;
use landfall_protocol::fleet::Fleet;
use landfall_protocol::fold::MarkerKey;
use landfall_protocol::id::{Origin, SiteId, TxnId};
use landfall_protocol::unit::simulated;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

use super::executor::Life;
use super::extras::Extras;
use super::postgres::{Backup, Cluster, CommitRecord};
use super::restores::PastLife;
use super::world::World;
use crate::dice::Dice;

/// The true time when every run begins: 2026-01-01.
const BEGIN_MS: u64 = 1_767_225_600_000;

/// A site's clock, which need not be right.
#[derive(Debug)]
pub(crate) struct SiteClock {
    start: Instant,
    offset_ms: AtomicI64,
    /// Of a million milliseconds it counts so many too many.
    drift: i64,
}

impl SiteClock {
    pub(crate) fn new(offset_ms: i64, drift: i64) -> Self {
        Self { start: Instant::now(), offset_ms: AtomicI64::new(offset_ms), drift }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        (self.now_us() / 1_000) as u64
    }

    /// Microseconds since 1970; never before that.
    pub(crate) fn now_us(&self) -> i64 {
        let passed = self.start.elapsed().as_micros() as i64;
        let shown = BEGIN_MS as i64 * 1_000 + passed + passed * self.drift / 1_000_000;
        (shown + self.offset_ms.load(Ordering::Relaxed) * 1_000).max(0)
    }

    /// Sets it wrong, or right, by so much.
    pub(crate) fn jump(&self, by_ms: i64) {
        self.offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Sets it right, as far as it is not its own rate that is wrong.
    pub(crate) fn set_right(&self) {
        self.offset_ms.store(0, Ordering::Relaxed);
    }
}

/// What a process of the site sees of the world.
pub(crate) struct Around {
    clock: Arc<SiteClock>,
    dice: RefCell<Dice>,
    planted: Rc<BTreeSet<String>>,
    written: Written,
    units: Units,
    packs_anew: bool,
}

/// What sites say of units that come in parts.
#[derive(Clone, Default)]
pub(crate) struct Units {
    /// More of one is to come somewhere.
    pub(crate) arriving: Rc<Cell<bool>>,
    /// Whose it was of which two parts were put together that do not fit.
    pub(crate) misfit: Rc<Cell<Option<Origin>>>,
}

/// All transactions that sites logged, with what is left out of them later.
pub(crate) type Written = Rc<RefCell<BTreeMap<TxnId, Transaction>>>;

impl Around {
    pub(crate) fn new(
        clock: &Arc<SiteClock>,
        dice: Dice,
        planted: &Rc<BTreeSet<String>>,
        (written, units): (&Written, &Units),
        packs_anew: bool,
    ) -> Rc<Self> {
        let (clock, planted) = (Arc::clone(clock), Rc::clone(planted));
        let (written, units) = (Rc::clone(written), units.clone());
        let dice = RefCell::new(dice);
        Rc::new(Self { clock, dice, planted, written, units, packs_anew })
    }
}

impl Surroundings for Around {
    fn wall_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    fn fill(&self, bytes: &mut [u8]) {
        let mut dice = self.dice.borrow_mut();
        bytes.iter_mut().for_each(|byte| *byte = dice.below(256) as u8);
    }

    fn planted(&self, rule: &str) -> bool {
        self.planted.contains(rule) || self.packs_anew && rule == "packs-anew"
    }

    fn arriving(&self) {
        self.units.arriving.set(true);
    }

    fn misfitted(&self, origin: Origin) {
        self.units.misfit.set(Some(origin));
    }

    fn logged(&self, origin: Origin, transaction: &Transaction) {
        let txn = TxnId { origin, seq: transaction.seq };
        self.written.borrow_mut().insert(txn, transaction.clone());
    }
}

/// The state of a site's disk beside its content.
struct Disk {
    dice: RefCell<Dice>,
    ms_max: u64,
    has_room: Rc<Cell<bool>>,
    /// Where what is said is not synced: what a crash leaves of it.
    kept: Option<Kept>,
    /// Of three commits so many are synced then.
    synced: u64,
}

pub(crate) type Kept = Rc<RefCell<Option<Rc<MemoryDisk>>>>;

impl Pace for Disk {
    fn pause(&self, moment: Moment) -> LocalBoxFuture<'static, ()> {
        let mut dice = self.dice.borrow_mut();
        let ms = match moment {
            // The telling takes no time, but anything may happen before.
            Moment::AfterCommit | Moment::BeforeRead if dice.below(2) == 0 => 0,
            _ => dice.below(self.ms_max + 1),
        };
        if ms == 0 {
            return tokio::task::yield_now().boxed_local();
        }
        tokio::time::sleep(Duration::from_millis(ms)).boxed_local()
    }

    fn has_room(&self) -> bool {
        self.has_room.get()
    }

    fn committed(&self, disk: &MemoryDisk) {
        if let Some(kept) = &self.kept
            && self.dice.borrow_mut().below(3) < self.synced
            && let Ok(copy) = disk.copy()
        {
            kept.replace(Some(Rc::new(copy)));
        }
    }
}

/// A running process.
pub(crate) struct Process {
    pub(crate) life: Life,
    pub(crate) store: Store,
    /// How capture and apply are; nothing at a relay.
    health: Option<(watch::Receiver<CaptureStatus>, watch::Receiver<ReplicaStatus>)>,
}

impl Process {
    /// Why it does not go on before somebody acts.
    pub(crate) fn standstill(&self) -> Option<String> {
        if let Some(reason) = &self.store.watch().borrow().fenced {
            return Some(format!("is fenced: {reason}"));
        }
        let (capture, apply) = self.health.as_ref()?;
        let cause = |needs: bool, part: &str, cause: &Option<String>| {
            needs.then(|| format!("{part} until somebody acts: {}", cause.as_deref().unwrap_or("")))
        };
        let (capture, apply) = (capture.borrow(), apply.borrow());
        cause(capture.needs_operator, "captures nothing", &capture.cause)
            .or_else(|| cause(apply.needs_operator, "applies nothing", &apply.cause))
    }

    /// The same, or why it captures nothing for the moment.
    pub(crate) fn unwell(&self) -> Option<String> {
        self.standstill().or_else(|| {
            let capture = self.health.as_ref()?.0.borrow();
            let cause = capture.cause.as_deref().unwrap_or("nobody knows why");
            (!capture.streaming).then(|| format!("captures nothing: {cause}"))
        })
    }
}

/// One site.
pub(crate) struct Site {
    pub(crate) id: SiteId,
    pub(crate) address: SocketAddr,
    /// In its present life.
    pub(crate) origin: Cell<Origin>,
    pub(crate) database: Option<DatabaseIdentity>,
    pub(crate) clock: Arc<SiteClock>,
    pub(crate) disk: RefCell<Rc<MemoryDisk>>,
    pub(crate) has_room: Rc<Cell<bool>>,
    pub(crate) kept: Kept,
    pub(crate) process: RefCell<Option<Process>>,
    /// The most that was ever told to be durable.
    pub(crate) told: RefCell<Log>,
    /// Its database; nothing at a relay.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) marker_key: MarkerKey,
    /// Its database before anything was in it.
    pub(crate) genesis: Option<Backup>,
    /// Whether something of it came back from an old image.
    pub(crate) was_set_back: Cell<bool>,
    /// A bit of its store has flipped.
    pub(crate) is_damaged: Cell<bool>,
    /// Switched off for good.
    pub(crate) is_gone: Cell<bool>,
    /// What its database had when it was set back.
    pub(crate) lost: RefCell<Vec<Vec<Arc<CommitRecord>>>>,
    pub(crate) past: RefCell<Vec<PastLife>>,
}

impl Site {
    /// Starts the process, as the daemon does.
    pub(crate) fn start(self: &Rc<Self>, world: &Rc<World>) -> Result<(), StoreError> {
        let notes = (&world.written, &world.units);
        let packs_anew = world.options.extras.packs_anew && self.id.number().is_multiple_of(2);
        let around = Around::new(&self.clock, world.split(), &world.planted, notes, packs_anew);
        let life = world.lives.begin(Rc::clone(&around) as Rc<dyn Surroundings>);
        world.trace(|| format!("{} starts, {life:?}", self.id));
        simulation::within(around, || self.compose(world, life))
    }

    fn compose(self: &Rc<Self>, world: &Rc<World>, life: Life) -> Result<(), StoreError> {
        let options = &world.options;
        let settings = Settings {
            recent_clocks_bytes: options.clock_bytes,
            unit_bytes_max: options.unit_bytes_max,
            compaction: options.compaction,
            ..Settings::default()
        };
        let key = simulated::key(self.id);
        let disk = Rc::clone(&self.disk.borrow());
        let sends_early = world.planted.contains("send-before-sync");
        if sends_early {
            self.kept.replace(Some(Rc::new(disk.copy()?)));
        }
        let is_unsynced = sends_early || world.planted.contains("unsynced");
        let pace = Disk {
            dice: RefCell::new(world.split()),
            ms_max: options.store_ms_max,
            has_room: Rc::clone(&self.has_room),
            kept: is_unsynced.then(|| Rc::clone(&self.kept)),
            synced: if sends_early { 3 } else { 2 },
        };
        let signer = Arc::new(move |message: &[u8]| simulated::sign(&key, message));
        let version = world.fleet.version();
        let (store, opened, work) =
            Store::simulated(disk, &settings, signer, version, Rc::new(pace))?;
        world.check_start(self, &opened.log);
        world.lives.spawn(life, work);
        let tasks = Tasks::simulated(Arc::new(world.lives.spawner(life)));
        let pins = links::pinned_keys(&world.fleet, self.id);
        let endpoint = Endpoint::simulated(&world.network, self.address, key, pins);
        let (looked, may_speak) = watch::channel(self.cluster.is_none());
        let config = LinkConfig {
            keep_alive: None,
            rate: None,
            round_trip: None,
            reconnect_min: Duration::from_secs(1),
            reconnect_max: Duration::from_secs(30),
            dial: world.calls(self),
            peers: BTreeMap::new(),
        };
        let links = Links {
            store: store.clone(),
            endpoint,
            fleet: Arc::clone(&world.fleet),
            config,
            origin: self.origin.get(),
            software: "simulated".into(),
            may_speak,
        };
        let links = links.start(&tasks);
        let cluster = self.cluster.as_ref();
        let health =
            cluster.map(|cluster| replicate(world, cluster, &opened, &store, &tasks, looked));
        world
            .lives
            .spawn(life, super::checks::watch(Rc::clone(world), Rc::clone(self), store.clone()));
        let peers = super::checks::watch_peers(Rc::clone(world), Rc::clone(self), links);
        world.lives.spawn(life, peers);
        let (mine, me, supervised) = (Rc::clone(world), Rc::clone(self), tasks.clone());
        world.lives.spawn(life, async move {
            let ended = supervised.wait().await;
            mine.handle_ended(&me, life, ended);
        });
        *self.process.borrow_mut() = Some(Process { life, store, health });
        Ok(())
    }

    /// What a crash would leave of the disk.
    pub(crate) fn durable(&self) -> Rc<MemoryDisk> {
        self.kept.borrow().clone().unwrap_or_else(|| Rc::clone(&self.disk.borrow()))
    }

    /// `kill -9`, or the power.
    pub(crate) fn crash(&self, world: &World) {
        let Some(process) = self.process.borrow_mut().take() else { return };
        world.trace(|| format!("{} crashes", self.id));
        // Whoever watches the store may not have had its turn.
        if self.kept.borrow().is_none() {
            self.told.replace(process.store.watch().borrow().clone());
        }
        if let Some(kept) = self.kept.take() {
            self.disk.replace(kept);
        }
        world.network.unplug(self.address);
        world.lives.end(process.life);
    }
}

/// Starts capture and apply, as the daemon does.
fn replicate(
    world: &World,
    cluster: &Cluster,
    opened: &Opened,
    store: &Store,
    tasks: &Tasks,
    looked: watch::Sender<bool>,
) -> (watch::Receiver<CaptureStatus>, watch::Receiver<ReplicaStatus>) {
    let horizon = Horizon::default();
    let (schema_epoch, epochs) = watch::channel(0);
    let (capture_status, captures) = watch::channel(CaptureStatus::starting());
    let (replica_status, applies) = watch::channel(ReplicaStatus::starting());
    let database = opened.identity.database.clone().expect("it was made for a database");
    let capturing = CaptureContext {
        postgres: nowhere(),
        database,
        marker_key: opened.marker_key.clone(),
        publication: "landfall".into(),
        fleet: Fleet::clone(&world.fleet),
        scratch: scratch(&world.options.extras),
        store: store.clone(),
        horizon: horizon.clone(),
        schema_epoch,
        tasks: tasks.clone(),
        status: capture_status,
        looked,
        model: Some(Arc::new(cluster.clone())),
    };
    tasks.spawn("capture", stream::run(capturing, tasks.stop()));
    let applying = ReplicaContext {
        postgres: nowhere(),
        fleet: Fleet::clone(&world.fleet),
        own: opened.identity.origin,
        marker_key: opened.marker_key.clone(),
        store: store.clone(),
        horizon,
        schema_epoch: epochs,
        retry: RetryOrders::default(),
        group_changes_max: world.options.group_changes_max,
        drift_ms_max: 300_000,
        tasks: tasks.clone(),
        status: replica_status,
        model: Some(Arc::new(cluster.clone())),
    };
    tasks.spawn("apply", replica::run(applying, tasks.stop()));
    (captures, applies)
}

/// Where large transactions are put aside: in files without names, because nothing of them outlives
/// a process.
fn scratch(extras: &Extras) -> Scratch {
    thread_local! {
        static DIR: TempDir = tempfile::tempdir().expect("there is a place for temporary files");
    }
    let needs_files = extras.transaction_bytes_max.is_some() || extras.long_above.is_some();
    let dir = match needs_files {
        true => DIR.with(|dir| dir.path().to_owned()),
        false => "simulated".into(),
    };
    Scratch { dir, memory_bytes_max: extras.transaction_bytes_max.unwrap_or(16 << 20) }
}

/// Settings that lead to no server.
fn nowhere() -> PgSettings {
    static NOWHERE: OnceLock<PgSettings> = OnceLock::new();
    let parse = || PgSettings::parse("host=127.0.0.1 user=nobody dbname=none", None);
    NOWHERE.get_or_init(|| parse().expect("they are well-formed")).clone()
}
