//! Watches over what a running stream would not show: a publication changed by hand, and a
//! database or store that is set back later.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::fleet::Fleet;
use tokio::sync::Notify;
use tokio_postgres::Client;

use crate::capture::bond::{self, BondError};
use crate::capture::publication;
use crate::capture::slot::SlotError;
use crate::postgres::connect::{ConnectError, PgSettings};
use crate::store::{Log, Store};
use crate::tasks::{Child, Tasks};

/// How often it looks. A database or store restored from a moment less than this before it stopped
/// may carry the same token as the other.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A session for looking.
#[derive(Debug)]
#[cfg_attr(
    feature = "simulation",
    expect(clippy::large_enum_variant, reason = "there is one per capture")
)]
pub(super) enum Eye {
    Server {
        client: Client,
        /// The task that drives it.
        _driver: Child<Result<(), tokio_postgres::Error>>,
    },
    #[cfg(feature = "simulation")]
    Model(Box<dyn crate::postgres::model::Session>),
}

impl Eye {
    pub(super) async fn open(postgres: &PgSettings, tasks: &Tasks) -> Result<Self, ConnectError> {
        let (client, driver) = postgres.connect("landfall guard", bond::BOND_SETTINGS).await?;
        Ok(Self::Server { client, _driver: tasks.spawn_child("guard connection", driver) })
    }

    pub(super) fn client(&self) -> &Client {
        match self {
            Self::Server { client, .. } => client,
            #[cfg(feature = "simulation")]
            Self::Model(_) => unreachable!("a model is verified by itself"),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Server { client, .. } => client.is_closed(),
            #[cfg(feature = "simulation")]
            Self::Model(session) => session.is_closed(),
        }
    }

    /// Gives database and store a new token.
    pub(super) async fn renew(&mut self, store: &Store, timeline: u32) -> Result<(), BondError> {
        match self {
            Self::Server { client, .. } => bond::renew(client, store, timeline).await,
            #[cfg(feature = "simulation")]
            Self::Model(session) => bond::renew_modelled(&mut **session, store, timeline).await,
        }
    }

    async fn verify_publication(&self, publication: &str, fleet: &Fleet) -> Result<(), SlotError> {
        match self {
            Self::Server { client, .. } => {
                Ok(publication::verify(client, publication, fleet).await?)
            }
            // A model publishes what it is told to.
            #[cfg(feature = "simulation")]
            Self::Model(_) => Ok(()),
        }
    }
}

/// What it watches with.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) eye: Eye,
    pub(super) postgres: PgSettings,
    pub(super) tasks: Tasks,
    pub(super) store: Store,
    pub(super) publication: String,
    pub(super) fleet: Fleet,
    pub(super) timeline: u32,
    /// Somebody saw a reason to look now.
    pub(super) alert: Arc<Notify>,
    #[cfg(feature = "simulation")]
    pub(super) model: Option<Arc<dyn crate::capture::model::Model>>,
}

impl Guard {
    /// Looks until something is wrong. A lost session alone is nothing: a server that shuts down
    /// ends it first, and the stream is to go on to its end.
    pub(super) async fn watch(mut self) -> Result<Infallible, SlotError> {
        let mut seen = self.progress();
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                biased;
                _ = every.tick() => {}
                () = self.alert.notified() => {}
            }
            if self.eye.is_closed() {
                let Some(eye) = self.open_again().await else { continue };
                self.eye = eye;
            }
            match self.look(&mut seen).await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "the guard looks again later");
                }
                looked => looked?,
            }
        }
    }

    async fn open_again(&self) -> Option<Eye> {
        #[cfg(feature = "simulation")]
        if let Some(model) = &self.model {
            return model.connect().await.ok().map(Eye::Model);
        }
        Eye::open(&self.postgres, &self.tasks).await.ok()
    }

    async fn look(&mut self, seen: &mut Log) -> Result<(), SlotError> {
        self.eye.verify_publication(&self.publication, &self.fleet).await?;
        // What was folded since the last token is what a restore could take back unseen.
        let now = self.progress();
        if now != *seen {
            self.eye.renew(&self.store, self.timeline).await?;
            *seen = now;
        }
        Ok(())
    }

    /// Changes with each fold of content, and not with a mere position.
    fn progress(&self) -> Log {
        let log = self.store.watch().borrow().clone();
        Log { applied: log.applied, own: log.own, ..Log::default() }
    }
}
