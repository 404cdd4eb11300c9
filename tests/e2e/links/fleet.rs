//! Members to test with: each has a store in a directory of its own and, while it runs, a runtime
//! of its own, so that it can end like a process.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfall_engine::config::{LinkConfig, PeerPolicy};
use landfall_engine::identity::MemberKey;
use landfall_engine::links::{Links, LinksHandle, PeerState, PeerStatus, pinned_keys};
use landfall_engine::store::{Appended, Identity, Log, Settings, Store, StoreError};
use landfall_engine::tasks::Tasks;
use landfall_engine::transport::{Endpoint, TransportSettings};
use landfall_protocol::change::{Fragment, Transaction};
use landfall_protocol::clock::Hlc;
use landfall_protocol::fleet::{Fleet, Member, Role, Set};
use landfall_protocol::fold::{CapturedTransaction, Row, RowEvent};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableName};
use landfall_protocol::unit::{SealContext, Unit, UnitHash};
use landfall_protocol::value::Value;
use landfall_protocol::version::VersionVector;
use landfall_tests::wait::wait_until;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// Ends a test that would otherwise hang; no test waits for it when all is well.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
pub(super) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Where every store's WAL begins.
const START_LSN: u64 = 1000;

pub(super) fn site(number: u16) -> SiteId {
    SiteId::new(number).unwrap()
}

/// All members there are, running or not.
pub(super) struct World {
    sites: BTreeMap<u16, Site>,
    table: String,
    pub(super) settings: TransportSettings,
    policies: BTreeMap<u16, BTreeMap<SiteId, PeerPolicy>>,
}

struct Site {
    key: Arc<MemberKey>,
    dir: TempDir,
}

impl World {
    /// Members 1 to `members`, whose stores are made when they first start, and one replicated table.
    pub(super) fn new(members: u16) -> Self {
        let sites = (1..=members).map(|number| {
            let key = Arc::new(MemberKey::generate().unwrap());
            (number, Site { key, dir: tempfile::tempdir().unwrap() })
        });
        let (table, settings) = ("bed".into(), TransportSettings::default());
        Self { sites: sites.collect(), table, settings, policies: BTreeMap::new() }
    }

    /// What the operator of `number` wants of its link with `peer`, from its next start on.
    pub(super) fn set_policy(&mut self, number: u16, peer: u16, policy: PeerPolicy) {
        self.policies.entry(number).or_default().insert(site(peer), policy);
    }

    /// From now on members read in their fleet file that another table is replicated.
    pub(super) fn set_table(&mut self, table: &str) {
        self.table = table.into();
    }

    /// Gives a member another key; returns the one it had.
    pub(super) fn set_key(&mut self, number: u16, key: Arc<MemberKey>) -> Arc<MemberKey> {
        std::mem::replace(&mut self.sites.get_mut(&number).unwrap().key, key)
    }

    pub(super) fn key(&self, number: u16) -> Arc<MemberKey> {
        self.sites[&number].key.clone()
    }

    /// The fleet file of somebody who knows these addresses.
    pub(super) fn fleet(&self, addresses: &[(u16, SocketAddr)]) -> Fleet {
        let members = self.sites.iter().map(|(number, member)| Member {
            site: site(*number),
            name: format!("site-{number}"),
            key: member.key.public(),
            addresses: addresses
                .iter()
                .filter(|(of, _)| of == number)
                .map(|(_, addr)| addr.to_string().parse().unwrap())
                .collect(),
            role: Role::Site,
        });
        let tables = vec![TableName::new("public", &self.table)];
        let set = Set { id: SetId(1), name: "all".into(), tables, full_history: false };
        Fleet::new(1, vec![set], members.collect()).unwrap()
    }

    /// Starts a member that calls those at these addresses.
    pub(super) fn start(&self, number: u16, calls: &[(u16, SocketAddr)]) -> Node {
        self.run(self.bind(number), self.sites[&number].dir.path(), calls)
    }

    /// The same with a store that lies elsewhere.
    pub(super) fn start_in(&self, dir: &Path, number: u16, calls: &[(u16, SocketAddr)]) -> Node {
        self.run(self.bind(number), dir, calls)
    }

    /// Starts two members that call each other.
    pub(super) fn start_crosswise(&self, first: u16, second: u16) -> [Node; 2] {
        let bound = [first, second].map(|number| self.bind(number));
        let addrs = [1, 0].map(|other: usize| (bound[other].number, bound[other].addr));
        let mut calls = addrs.into_iter();
        bound.map(|bound| {
            let dir = self.sites[&bound.number].dir.path();
            self.run(bound, dir, &[calls.next().unwrap()])
        })
    }

    /// A member with an address that does not take calls yet.
    pub(super) fn bind(&self, number: u16) -> Bound {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let pins = pinned_keys(&self.fleet(&[]), site(number));
        let guard = runtime.enter();
        let endpoint =
            Endpoint::bind(LOOPBACK, &self.key(number), pins, self.settings.clone()).unwrap();
        drop(guard);
        let addr = endpoint.local_addr().unwrap();
        Bound { number, addr, endpoint, runtime }
    }

    fn run(&self, bound: Bound, dir: &Path, calls: &[(u16, SocketAddr)]) -> Node {
        let Bound { number, addr, endpoint, runtime } = bound;
        let identity = Identity { origin: origin(number), database: None };
        match Store::create(dir, &identity, START_LSN) {
            Ok(()) | Err(StoreError::Exists(_)) => {}
            Err(error) => panic!("{error}"),
        }
        let key = self.key(number);
        let signer = Arc::new(move |message: &[u8]| key.sign(message));
        let store = Store::open(dir, &settings(), signer, 1).unwrap().0;
        let config = LinkConfig {
            keep_alive: None,
            rate: None,
            round_trip: None,
            reconnect_min: Duration::from_millis(20),
            reconnect_max: Duration::from_millis(200),
            dial: calls.iter().map(|(number, _)| site(*number)).collect(),
            peers: self.policies.get(&number).cloned().unwrap_or_default(),
        };
        let tasks = Tasks::new();
        let links = Links {
            store: store.clone(),
            endpoint,
            fleet: Arc::new(self.fleet(calls)),
            config,
            origin: origin(number),
            software: "landfall-tests".into(),
            may_speak: watch::channel(true).1,
        };
        let guard = runtime.enter();
        let links = links.start(&tasks);
        drop(guard);
        let log = store.watch();
        Node { number, addr, store, log, links, tasks, runtime }
    }

    /// The next unit of a member of which `previous` is the last: transactions without content.
    pub(super) fn seal(&self, number: u16, first: u64, last: u64, previous: UnitHash) -> Unit {
        let transaction = |seq| Transaction {
            seq: Seq(seq),
            hlc: Hlc(seq << 16),
            actor: None,
            describes: Vec::new(),
            changes: Vec::new(),
            piece: None,
        };
        let transactions: Vec<Transaction> = (first..=last).map(transaction).collect();
        let vector = VersionVector::new();
        let origin = origin(number);
        let context = SealContext {
            origin,
            fleet_version: 1,
            fragment: Fragment::Whole,
            previous,
            vector: &vector,
            level: 1,
        };
        let key = self.key(number);
        Unit::seal(context, &transactions, |_| SetId(1), |message| key.sign(message))
    }

    /// Lets `node` hold one more unit of a member that does not run.
    pub(super) fn seal_into(&self, node: &Node, number: u16, transactions: u64) {
        let held = node.block_on(node.store.held()).unwrap();
        let held = held.iter().find(|held| held.origin == origin(number));
        let (seq, previous) = held.map_or((0, UnitHash::GENESIS), |h| (h.seq.0, h.hash));
        let unit = self.seal(number, seq + 1, seq + transactions, previous);
        let appended = node.block_on(node.store.append_units(vec![unit], 1)).unwrap();
        assert_eq!(appended, [Appended::Stored]);
    }

    /// A copy of what a member's store is now. The member must not run.
    pub(super) fn copy_store(&self, number: u16) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(self.sites[&number].dir.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        copy
    }

    /// Checks that `node` holds exactly this much of a member's log, as the member sealed it.
    pub(super) fn check_log(&self, node: &Node, of: u16, seq: u64) -> Vec<Vec<u8>> {
        let (mut previous, mut next) = (UnitHash::GENESIS, Seq(1));
        let mut all = Vec::new();
        loop {
            let after = Seq(next.0 - 1);
            let found = node.block_on(node.store.units_after(origin(of), after, 1 << 20)).unwrap();
            if found.is_empty() {
                break;
            }
            for unit in found {
                let unit = Unit::open(unit.into_bytes(), &self.key(of).public()).unwrap();
                let header = unit.header();
                assert_eq!((header.first, header.previous), (next, previous), "units follow");
                (previous, next) = (unit.hash(), header.last.next());
                all.push(unit.into_bytes());
            }
        }
        assert_eq!(next, Seq(seq + 1), "how far the log of {of} is held");
        all
    }
}

/// The life that every member is in.
pub(super) fn origin(number: u16) -> Origin {
    Origin { site: site(number), incarnation: Incarnation::new(0xa1).unwrap() }
}

fn settings() -> Settings {
    Settings { ballast_bytes: 0, ..Settings::default() }
}

/// A member that has an address.
pub(super) struct Bound {
    pub(super) number: u16,
    pub(super) addr: SocketAddr,
    pub(super) endpoint: Endpoint,
    pub(super) runtime: Runtime,
}

/// A running member.
pub(super) struct Node {
    pub(super) number: u16,
    pub(super) addr: SocketAddr,
    pub(super) store: Store,
    log: watch::Receiver<Log>,
    pub(super) links: LinksHandle,
    tasks: Tasks,
    runtime: Runtime,
}

impl Node {
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// How to call it.
    pub(super) fn at(&self) -> (u16, SocketAddr) {
        (self.number, self.addr)
    }

    /// Commits this many transactions, each of one row with `bytes` that do not compress.
    pub(super) fn write(&self, transactions: u64, bytes: usize) {
        let table = table();
        let lsn = self.block_on(self.store.position()).unwrap().0;
        for n in 1..=transactions {
            let key = i64::try_from(lsn + n).unwrap();
            let new = Some(Row::whole([Value::Int(key), Value::Text(noise(bytes).into())]));
            let row = RowEvent { relation: table.clone(), old: None, new };
            let batch = vec![CapturedTransaction {
                commit_ms: n,
                actor: None,
                rows: vec![row],
                marker: None,
                fragment: Fragment::Whole,
                piece: None,
            }];
            self.block_on(self.store.fold(batch, lsn + n, Vec::new())).unwrap();
        }
    }

    pub(super) fn log(&self) -> Log {
        self.log.borrow().clone()
    }

    pub(super) fn held(&self, number: u16) -> u64 {
        self.log.borrow().received.get(origin(number)).0
    }

    pub(super) fn peer(&self, number: u16) -> PeerStatus {
        self.links.peers().into_iter().find(|peer| peer.site == site(number)).unwrap()
    }

    #[track_caller]
    pub(super) fn wait_held(&self, number: u16, seq: u64) {
        wait_until("units", LIMIT, || match self.held(number) {
            held if held == seq => Ok(()),
            held => Err(format!("{held} of {seq}; {:?}", self.links.peers())),
        });
    }

    #[track_caller]
    pub(super) fn wait_state(&self, number: u16, state: PeerState) -> PeerStatus {
        wait_until("a state", LIMIT, || match self.peer(number) {
            peer if peer.state == state => Ok(peer),
            peer => Err(format!("{peer:?} instead of {state:?}")),
        })
    }

    /// Waits until there is no link for this reason.
    #[track_caller]
    pub(super) fn wait_cause(&self, number: u16, cause: &str) -> PeerStatus {
        wait_until("a cause", LIMIT, || match self.peer(number) {
            peer if peer.cause.as_ref().is_some_and(|found| found.contains(cause)) => Ok(peer),
            peer => Err(format!("{peer:?} instead of {cause:?}")),
        })
    }

    /// Waits until a peer has acknowledged so much of a member's log.
    #[track_caller]
    pub(super) fn wait_acked(&self, by: u16, number: u16, seq: u64) {
        wait_until("an acknowledgement", LIMIT, || {
            let acked = self.peer(by).received.get(origin(number)).0;
            if acked == seq { Ok(()) } else { Err(format!("{acked} of {seq}")) }
        });
    }

    /// Ends as after the stop signal.
    pub(super) fn stop(self) {
        self.tasks.stop().cancel();
        self.runtime.block_on(self.tasks.wait()).unwrap();
        self.runtime.block_on(self.store.close());
    }

    /// Ends without a word to anybody.
    pub(super) fn crash(self) {
        let Self { mut log, store, links, tasks, runtime, .. } = self;
        runtime.shutdown_timeout(LIMIT);
        drop((store, links, tasks));
        // The store's own threads end once nobody has a handle.
        let waiting = Builder::new_current_thread().build().unwrap();
        waiting.block_on(async { while log.changed().await.is_ok() {} });
    }
}

fn table() -> Arc<TableDef> {
    let column = |name: &str, kind: &str| ColumnDef { name: name.into(), type_name: kind.into() };
    Arc::new(TableDef {
        name: TableName::new("public", "bed"),
        set: SetId(1),
        columns: vec![column("id", "bigint"), column("note", "text")],
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    })
}

fn noise(bytes: usize) -> String {
    let mut noise = vec![0; bytes / 2];
    getrandom::fill(&mut noise).unwrap();
    noise.iter().map(|byte| format!("{byte:02x}")).collect()
}
