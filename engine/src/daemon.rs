//! The composition root both daemons share: open the store, start every part, wait, stop.
//!
//! A node and a hub differ in what they are told, not in what they do: a member with a database
//! captures and applies, every member keeps links and relays.

mod bundles;
mod parked;
mod report;
mod thinning;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use landfall_protocol::fleet::Fleet;
use landfall_protocol::id::{Incarnation, Origin};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::scrape::MetricsServer;
use crate::admin::server::AdminServer;
use crate::admin::talk::Talk;
use crate::admin::{AdminError, Request};
use crate::capture::assemble::Scratch;
use crate::capture::horizon::Horizon;
use crate::capture::stream::{self, CaptureContext, CaptureStatus};
use crate::config::DaemonConfig;
use crate::daemon::bundles::Bundles;
use crate::daemon::report::Reporter;
use crate::daemon::thinning::Thinned;
use crate::identity::MemberKey;
use crate::links::{self, Links};
use crate::postgres::connect::PgSettings;
use crate::random;
use crate::replica::{self, ReplicaContext, ReplicaStatus, RetryOrders};
use crate::store::{
    Compaction, DatabaseIdentity, Identity, Opened, Settings, Signer, Store, StoreError,
};
use crate::tasks::{TaskError, Tasks};
use crate::transport::{Endpoint, TransportError};

/// Where a member that only dials out binds.
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

/// Why a daemon ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store belongs to somebody else.
    #[error(
        "{store} was made for member {found}, this file is for member {expected}; correct data_dir or name"
    )]
    OtherMember {
        /// The data directory.
        store: String,
        /// Who it was made for.
        found: u16,
        /// Who we are told to be.
        expected: u16,
    },
    /// The store was made with a database, or without, or for another slot.
    #[error(
        "{store} was made for {found}, this file names {expected}; correct [postgres], or start over with an empty data_dir"
    )]
    OtherDatabase {
        /// The data directory.
        store: String,
        /// What it was made for.
        found: String,
        /// What the file says.
        expected: String,
    },
    /// The links cannot be opened.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The admin socket cannot be opened.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A part failed.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Signals cannot be caught.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    /// The operating system gives no random numbers.
    #[error("no random numbers from the operating system: {0}")]
    Random(getrandom::Error),
}

/// Everything a daemon needs to start; all files were read and checked against each other.
#[derive(Debug)]
pub struct Prepared {
    /// What it was told.
    pub config: DaemonConfig,
    /// The fleet.
    pub fleet: Fleet,
    /// Our secret key; its public half is the one in the fleet file.
    pub key: MemberKey,
    /// Our database; there whenever `config.postgres` is.
    pub postgres: Option<PgSettings>,
}

/// Makes the store of a member: a new life of its log that begins at `start_lsn`.
///
/// # Errors
/// There is one already, or the files cannot be written.
pub fn create_store(
    config: &DaemonConfig,
    database: Option<DatabaseIdentity>,
    start_lsn: u64,
) -> Result<Origin, DaemonError> {
    let incarnation = loop {
        let drawn = random::u64().map_err(DaemonError::Random)?;
        if let Some(incarnation) = Incarnation::new(drawn) {
            break incarnation;
        }
    };
    let origin = Origin { site: config.site, incarnation };
    Store::create(&config.data_dir, &Identity { origin, database }, start_lsn)?;
    Ok(origin)
}

/// How a member's store is opened.
fn store_settings(config: &DaemonConfig, fleet: &Fleet) -> Settings {
    let limits = &config.limits;
    let compaction =
        limits.compacted_bytes_max.map(|bytes_max| Compaction { bytes_max, ..Default::default() });
    Settings {
        budget_bytes: limits.store_bytes_max,
        unit_bytes_max: limits.unit_bytes_max,
        compaction,
        full_history: fleet.sets().filter(|set| set.full_history).map(|set| set.id).collect(),
        ..Settings::default()
    }
}

/// Runs a member until it is told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// Why it cannot start, or which part failed.
pub async fn run(prepared: Prepared) -> Result<(), DaemonError> {
    let Prepared { config, fleet, key, postgres } = prepared;
    let key = Arc::new(key);
    let signer: Signer = {
        let key = Arc::clone(&key);
        Arc::new(move |message: &[u8]| key.sign(message))
    };
    let settings = store_settings(&config, &fleet);
    let (store, opened) = Store::open(&config.data_dir, &settings, signer, fleet.version())?;
    verify_identity(&config, &opened)?;
    let own = opened.identity.origin;
    tracing::info!(member = %config.name, %own, "starting");
    let tasks = Tasks::new();
    stop_on_signals(&tasks)?;
    let admin = AdminServer::bind(&config.admin_socket())?;
    let metrics = match config.metrics_listen {
        Some(address) => Some(MetricsServer::bind(address).await?),
        None => None,
    };
    let endpoint = Endpoint::bind(
        config.listen.unwrap_or(ANY_PORT),
        &key,
        links::pinned_keys(&fleet, config.site),
        links::transport_settings(&config.link),
    )?;
    // A store that was set back must not speak, and only its database can tell.
    let (looked, may_speak) = watch::channel(false);
    let parts = start_database_parts(&config, postgres, &fleet, &opened, &store, &tasks, looked);
    let software = concat!("landfall ", env!("CARGO_PKG_VERSION")).to_owned();
    let members = Arc::new(fleet.clone());
    let links = Links {
        store: store.clone(),
        endpoint,
        fleet: Arc::clone(&members),
        config: config.link.clone(),
        origin: own,
        software: software.clone(),
        may_speak: may_speak.clone(),
    }
    .start(&tasks);
    let bundles = bundles::Parts {
        store: store.clone(),
        fleet: members,
        key,
        own,
        software,
        links: links.clone(),
        may_speak,
        spool_dir: config.data_dir.join("bundles"),
        spool_bytes_max: config.limits.bundle_spool_bytes_max,
    };
    let bundles = Bundles::start(bundles, &tasks);
    let shown = (links, bundles.clone(), parts);
    let reporter = Arc::new(Reporter::new(config, fleet, own, store.clone(), shown));
    if let Some(metrics) = metrics {
        let (reporter, stop) = (Arc::clone(&reporter), tasks.stop());
        let serving = async move { metrics.serve(stop, || reporter.snapshot()).await };
        tasks.spawn("metrics", serving);
    }
    serve_admin(admin, reporter, bundles, &tasks);
    let outcome = tasks.wait().await;
    store.close().await;
    tracing::info!("stopped");
    Ok(outcome?)
}

/// Answers at the admin socket.
fn serve_admin(admin: AdminServer, reporter: Arc<Reporter>, bundles: Bundles, tasks: &Tasks) {
    let stop = tasks.stop();
    tasks.spawn("admin", async move {
        let handle = |request: Request| {
            let (reporter, bundles) = (Arc::clone(&reporter), bundles.clone());
            async move {
                match request {
                    Request::Status {} => reporter.status().await,
                    Request::ParkedList { table } => reporter.parked_list(table).await,
                    Request::ParkedRetry { table } => reporter.retry_parked(table).await,
                    Request::BundleList { limit } => bundles.list(limit).await,
                    Request::BundleWrite { .. } | Request::BundleRead { .. } => {
                        Err("files travel in a conversation".to_owned())
                    }
                }
            }
        };
        let converse = |request: Request, talk: Talk| {
            let bundles = bundles.clone();
            async move { bundles.converse(request, talk).await }
        };
        admin.serve(stop, handle, converse).await
    });
}

/// Where capture and apply tell how they do.
#[derive(Debug)]
pub(crate) struct DatabaseParts {
    settings: PgSettings,
    tasks: Tasks,
    capture: watch::Receiver<CaptureStatus>,
    replica: watch::Receiver<ReplicaStatus>,
    thinned: watch::Receiver<Thinned>,
    retry: RetryOrders,
}

/// Starts capture and apply where there is a database. `looked` becomes true, or ends, when nothing
/// that capture may find out stands in the way of speaking to others.
fn start_database_parts(
    config: &DaemonConfig,
    settings: Option<PgSettings>,
    fleet: &Fleet,
    opened: &Opened,
    store: &Store,
    tasks: &Tasks,
    looked: watch::Sender<bool>,
) -> Option<DatabaseParts> {
    let (postgres, settings) = (config.postgres.as_ref()?, settings?);
    let Some(database) = opened.identity.database.clone() else {
        unreachable!("verify_identity has seen that the store was made for a database");
    };
    let (horizon, retry) = (Horizon::default(), RetryOrders::default());
    let (schema_epoch, epochs) = watch::channel(0);
    let (capture_status, capture) = watch::channel(CaptureStatus::starting());
    let (replica_status, replica) = watch::channel(ReplicaStatus::starting());
    let capturing = CaptureContext {
        postgres: settings.clone(),
        database,
        marker_key: opened.marker_key.clone(),
        publication: postgres.publication.clone(),
        fleet: fleet.clone(),
        scratch: Scratch {
            dir: config.data_dir.clone(),
            memory_bytes_max: config.limits.transaction_bytes_max,
        },
        store: store.clone(),
        horizon: horizon.clone(),
        schema_epoch,
        tasks: tasks.clone(),
        status: capture_status,
        looked,
        #[cfg(feature = "simulation")]
        model: None,
    };
    tasks.spawn("capture", stream::run(capturing, tasks.stop()));
    let applying = ReplicaContext {
        postgres: settings.clone(),
        fleet: fleet.clone(),
        own: opened.identity.origin,
        marker_key: opened.marker_key.clone(),
        store: store.clone(),
        horizon,
        schema_epoch: epochs,
        retry: retry.clone(),
        group_changes_max: config.limits.group_changes_max,
        drift_ms_max: u64::try_from(config.limits.drift_max.as_millis()).unwrap_or(u64::MAX),
        tasks: tasks.clone(),
        status: replica_status,
        #[cfg(feature = "simulation")]
        model: None,
    };
    tasks.spawn("apply", replica::run(applying, tasks.stop()));
    let (thinning, thinned) = watch::channel(Thinned::default());
    if let Some(keep) = config.history.keep {
        let work = thinning::run(settings.clone(), keep, tasks.clone(), thinning, tasks.stop());
        tasks.spawn("history", work);
    }
    Some(DatabaseParts { settings, tasks: tasks.clone(), capture, replica, thinned, retry })
}

fn verify_identity(config: &DaemonConfig, opened: &Opened) -> Result<(), DaemonError> {
    let store = config.data_dir.display().to_string();
    let found = opened.identity.origin.site;
    if found != config.site {
        let (found, expected) = (found.number(), config.site.number());
        return Err(DaemonError::OtherMember { store, found, expected });
    }
    let made_for = opened.identity.database.as_ref().map(|database| database.slot.as_str());
    let told = config.postgres.as_ref().map(|postgres| postgres.slot.as_str());
    if made_for != told {
        let name = |slot: Option<&str>| match slot {
            Some(slot) => format!("a database with slot \"{slot}\""),
            None => "no database".to_owned(),
        };
        let (found, expected) = (name(made_for), name(told));
        return Err(DaemonError::OtherDatabase { store, found, expected });
    }
    Ok(())
}

fn stop_on_signals(tasks: &Tasks) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let stop = tasks.stop();
    tasks.spawn("signals", async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stop.cancelled() => {}
        }
        stop.cancel();
        Ok::<(), std::convert::Infallible>(())
    });
    Ok(())
}
