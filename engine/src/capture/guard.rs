//! Watches over what a running stream would not show: a publication changed by hand, and a
//! database or store that is set back later.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::fleet::Fleet;
use tokio::sync::Notify;
use tokio_postgres::Client;

use crate::capture::bond;
use crate::capture::publication;
use crate::capture::slot::SlotError;
use crate::postgres::connect::{ConnectError, PgSettings};
use crate::store::{Log, Store};
use crate::tasks::{Child, Tasks};

/// How often it looks. A database or store restored from a moment less than this before it stopped
/// may carry the same token as the other.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A session for looking, with the task that drives it.
#[derive(Debug)]
pub(super) struct Eye {
    pub(super) client: Client,
    _driver: Child<Result<(), tokio_postgres::Error>>,
}

impl Eye {
    pub(super) async fn open(postgres: &PgSettings, tasks: &Tasks) -> Result<Self, ConnectError> {
        let (client, driver) = postgres.connect("landfall guard", bond::BOND_SETTINGS).await?;
        Ok(Self { client, _driver: tasks.spawn_child("guard connection", driver) })
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
}

impl Guard {
    /// Looks until something is wrong. A lost session alone is nothing: a server that shuts down
    /// ends it first, and the stream is to go on to its end.
    pub(super) async fn watch(mut self) -> Result<Infallible, SlotError> {
        let mut seen = self.progress();
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = self.alert.notified() => {}
            }
            if self.eye.client.is_closed() {
                let Ok(eye) = Eye::open(&self.postgres, &self.tasks).await else { continue };
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

    async fn look(&mut self, seen: &mut Log) -> Result<(), SlotError> {
        publication::verify(&self.eye.client, &self.publication, &self.fleet).await?;
        // What was folded since the last token is what a restore could take back unseen.
        let now = self.progress();
        if now != *seen {
            bond::renew(&mut self.eye.client, &self.store, self.timeline).await?;
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
