//! Prepares a database for replication, or prints the SQL with which a DBA does.
//!
//! [`steps`] is the one list behind both: each step has SQL that may run any number of times and a
//! probe that says whether it is needed. So `init` can be repeated, finishes what an interrupted
//! one began, and needs no superuser where a DBA has run the printed SQL. The replication slot
//! comes last: changes made before the publication exists could not be decoded.

use std::time::Duration;

use landfall_protocol::fleet::Fleet;
use landfall_protocol::id::Incarnation;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::catalog::CatalogError;
use super::check::{self, Finding, Severity};
use super::lsn::Lsn;
use super::sql;

mod history;
mod ids;
mod slot;
mod steps;

pub use slot::{Slot, SlotState, read_slot};
pub use steps::{OWN_TABLES, SCHEMA_IS_THERE, Step, print_sql, steps};

/// What is to be prepared.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Which tables.
    pub fleet: &'a Fleet,
    /// The member's name in the fleet file.
    pub member: &'a str,
    /// The role the daemon logs in as.
    pub role: &'a str,
    /// The replication slot.
    pub slot: &'a str,
    /// The publication.
    pub publication: &'a str,
    /// How far PostgreSQL's clock may be from ours.
    pub drift_max: Duration,
}

/// Whether our own store has captured from this database before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// There is no store yet.
    Empty,
    /// There is one, so its slot must be there too.
    HasHistory,
}

/// One thing `init` looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Done {
    /// What it is, as a sentence about the finished state.
    pub what: String,
    /// Whether `init` changed something or found it so.
    pub change: Change,
}

/// Whether something was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was made now.
    Made,
    /// It was so already.
    Found,
}

/// Why the database is not prepared.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The connection failed, or PostgreSQL answered something unexpected.
    #[error("{what}: {}", sql::describe(source))]
    Query {
        /// What was being done.
        what: String,
        /// PostgreSQL's answer.
        source: tokio_postgres::Error,
    },
    /// The catalog could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Something is wrong that `init` must not decide about.
    #[error(
        "database is not ready for replication: {}",
        .0.iter().map(Finding::sentence).collect::<Vec<_>>().join("; ")
    )]
    NotReady(Vec<Finding>),
    /// The role may not do it.
    #[error(
        "role {role:?} may not make it so that {step}: {message}; let a database administrator run the SQL that init --print-sql prints, then run init again"
    )]
    NeedsAdministrator {
        /// The role.
        role: String,
        /// What the step is for.
        step: String,
        /// PostgreSQL's answer.
        message: String,
    },
    /// Somebody else holds a lock.
    #[error(
        "could not lock a table within {LOCK_TIMEOUT} to make it so that {0}; run init again when the table is less busy"
    )]
    Busy(String),
    /// The database is another member's.
    #[error(
        "this database was prepared for member {found:?}, not for {wanted:?}; check conninfo and name, each member needs a database of its own"
    )]
    OtherMember {
        /// As recorded in the database.
        found: String,
        /// As configured.
        wanted: String,
    },
    /// Our store is gone, and with it what tells old changes from new ones.
    #[error(
        "a store of this member (incarnation {0}) captured from this database before and is not in data_dir; check data_dir, or rebuild this site from another one"
    )]
    StoreGone(String),
    /// The slot cannot be used.
    #[error("{what}; {advice}")]
    Slot {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: String,
    },
}

/// How long `init` waits for a lock before it gives way to the application.
const LOCK_TIMEOUT: &str = "5s";

/// Does every step that is needed, then creates the slot. Uses the session's settings, so give it
/// a connection of its own.
///
/// # Errors
/// The first thing that stands in the way; what was done until then stays.
pub async fn init(
    client: &mut Client,
    plan: &Plan<'_>,
    store: StoreState,
) -> Result<Vec<Done>, SetupError> {
    let findings = check::findings(client, plan).await?;
    let stands_in_the_way =
        |finding: &Finding| finding.severity == Severity::Error && !finding.init_cures;
    let blockers: Vec<_> = findings.into_iter().filter(stands_in_the_way).collect();
    if !blockers.is_empty() {
        return Err(SetupError::NotReady(blockers));
    }
    let guard = format!("SET lock_timeout = '{LOCK_TIMEOUT}'; SET client_min_messages = 'warning'");
    client.batch_execute(&guard).await.map_err(query("set a lock timeout"))?;
    let mut done = Vec::new();
    for step in steps(plan) {
        let change = run(client, plan, &step).await?;
        done.push(Done { what: step.what, change });
    }
    claim(client, plan).await?;
    if store == StoreState::Empty
        && let Some(incarnation) = recall(client, "store").await?
    {
        return Err(SetupError::StoreGone(incarnation));
    }
    done.push(slot::create(client, plan, store).await?);
    Ok(done)
}

/// Writes down that a store captures from this database, so that losing it is noticed: a new one
/// would stamp old rows as if nobody had ever seen them.
///
/// # Errors
/// The connection failed.
pub async fn remember_store(client: &Client, incarnation: Incarnation) -> Result<(), SetupError> {
    remember(client, "store", &incarnation.to_string()).await
}

/// A database and a place in its WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The server, by the number `initdb` gave it.
    pub system_identifier: String,
    /// The database's name.
    pub database: String,
    /// From where the slot will deliver.
    pub start: Lsn,
}

/// Which database this is, and from where its slot will deliver.
///
/// # Errors
/// The connection failed, or the slot is gone again.
pub async fn identify(client: &Client, plan: &Plan<'_>) -> Result<Located, SetupError> {
    let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text, \
               confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let row = client.query_one(sql, &[&plan.slot]).await.map_err(query("identify the database"))?;
    let start: Lsn = row.get::<_, String>(2).parse().map_err(|_| SetupError::Slot {
        what: format!("slot {:?} has no position", plan.slot),
        advice: "report this as a bug".to_owned(),
    })?;
    Ok(Located { system_identifier: row.get(0), database: row.get(1), start })
}

/// The steps that are still needed.
///
/// # Errors
/// The connection failed.
pub async fn pending(client: &Client, plan: &Plan<'_>) -> Result<Vec<Step>, SetupError> {
    let mut pending = Vec::new();
    for step in steps(plan) {
        if !is_done(client, &step).await? {
            pending.push(step);
        }
    }
    Ok(pending)
}

async fn run(client: &Client, plan: &Plan<'_>, step: &Step) -> Result<Change, SetupError> {
    if is_done(client, step).await? {
        return Ok(Change::Found);
    }
    let Err(error) = client.batch_execute(&step.sql).await else { return Ok(Change::Made) };
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Err(SetupError::NeedsAdministrator {
            role: plan.role.to_owned(),
            step: step.what.clone(),
            message: sql::describe(&error),
        }),
        Some(&SqlState::LOCK_NOT_AVAILABLE) => Err(SetupError::Busy(step.what.clone())),
        _ => Err(query(&format!("make it so that {}", step.what))(error)),
    }
}

async fn is_done(client: &Client, step: &Step) -> Result<bool, SetupError> {
    let what = format!("see whether {}", step.what);
    let row = client.query_opt(&step.probe, &[]).await.map_err(query(&what))?;
    Ok(row.and_then(|row| row.get::<_, Option<bool>>(0)).unwrap_or(false))
}

/// Writes down whose database this is, so that no second member ever captures from it.
async fn claim(client: &Client, plan: &Plan<'_>) -> Result<(), SetupError> {
    let statement = "INSERT INTO landfall.meta (key, value) VALUES ('member', $1)
        ON CONFLICT (key) DO UPDATE SET value = meta.value RETURNING value";
    let row = client.query_one(statement, &[&plan.member]).await;
    let found: String = row.map_err(query("claim the database"))?.get(0);
    if found == plan.member {
        return Ok(());
    }
    Err(SetupError::OtherMember { found, wanted: plan.member.to_owned() })
}

async fn recall(client: &Client, key: &str) -> Result<Option<String>, SetupError> {
    let statement = "SELECT value FROM landfall.meta WHERE key = $1";
    let row = client.query_opt(statement, &[&key]).await;
    Ok(row.map_err(query(&format!("recall the {key}")))?.map(|row| row.get(0)))
}

async fn remember(client: &Client, key: &str, value: &str) -> Result<(), SetupError> {
    let statement = "INSERT INTO landfall.meta (key, value) VALUES ($1, $2)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE meta.value <> excluded.value";
    let written = client.execute(statement, &[&key, &value]).await;
    written.map(|_| ()).map_err(query(&format!("remember the {key}")))
}

fn query(what: &str) -> impl Fn(tokio_postgres::Error) -> SetupError {
    let what = what.to_owned();
    move |source| SetupError::Query { what: what.clone(), source }
}
