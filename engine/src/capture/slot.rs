//! Is this the server, the slot and the publication the store was made for? Asked before every
//! start, because PostgreSQL itself would skip over a gap in silence.

use std::str::FromStr;

use tokio_postgres::Client;

use crate::capture::walsender::SystemIdentity;
use crate::postgres::lsn::Lsn;
use crate::store::DatabaseIdentity;

/// What is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Another server or another database.
    #[error(
        "this store was made for database \"{expected}\", the connection leads to \"{found}\"; correct conninfo, or start over with an empty data_dir"
    )]
    OtherDatabase {
        /// What the store says.
        expected: String,
        /// What the connection leads to.
        found: String,
    },
    /// The slot is gone.
    #[error(
        "replication slot \"{0}\" is missing: changes since it was dropped are unknown; see docs/operations.md, \"a lost slot\""
    )]
    Missing(String),
    /// The server gave the slot up.
    #[error(
        "replication slot \"{0}\" was invalidated by the server (max_slot_wal_keep_size): changes since then are unknown; see docs/operations.md, \"a lost slot\""
    )]
    Lost(String),
    /// Somebody else reads from it.
    #[error(
        "replication slot \"{0}\" is in use by another process; is another landfall-node running?"
    )]
    Busy(String),
    /// The publication is gone.
    #[error("publication \"{0}\" is missing; run landfall-node check to see what to do")]
    NoPublication(String),
    /// The publication is there, or was, but not where the stream has got to.
    #[error(
        "publication \"{0}\" was missing while replicated tables were written: these changes cannot be decoded; see docs/operations.md, \"a lost slot\""
    )]
    PublicationGap(String),
    /// The server does not have what we folded.
    #[error(
        "the database ends at {server}, this store already holds changes up to {store}: the database was restored from a backup; see docs/operations.md, \"a restored database\""
    )]
    DatabaseBehind {
        /// The end of the server's WAL.
        server: Lsn,
        /// What is folded.
        store: Lsn,
    },
    /// The slot is ahead of the store.
    #[error(
        "the slot was confirmed up to {slot}, this store only holds changes up to {store}: the store was restored from a backup; see docs/operations.md, \"a restored store\""
    )]
    StoreBehind {
        /// What the slot has confirmed.
        slot: Lsn,
        /// What is folded.
        store: Lsn,
    },
    /// A question was not answered.
    #[error("cannot verify the slot: {0}")]
    Query(#[from] tokio_postgres::Error),
    /// A position does not read.
    #[error("server told position {0:?}")]
    Answer(String),
}

impl SlotError {
    /// Whether waiting alone may help: a dead walsender keeps the slot until its time-out.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Query(_))
    }
}

/// Verifies everything before streaming from `start`.
///
/// # Errors
/// The first thing that is wrong.
pub async fn verify(
    client: &Client,
    database: &DatabaseIdentity,
    publication: &str,
    identity: &SystemIdentity,
    start: Lsn,
) -> Result<(), SlotError> {
    let row = client
        .query_one("SELECT current_database(), pg_current_wal_flush_lsn()::text", &[])
        .await?;
    let expected = (database.system_identifier.clone(), database.database.clone());
    let found = (identity.system_identifier.to_string(), row.get::<_, String>(0));
    if expected != found {
        let name = |(server, database): (String, String)| format!("{database} of server {server}");
        return Err(SlotError::OtherDatabase { expected: name(expected), found: name(found) });
    }
    let server = position(row.get(1))?;
    let sql = "SELECT coalesce(wal_status, 'reserved'), confirmed_flush_lsn::text, active \
               FROM pg_replication_slots WHERE slot_name = $1";
    let slot = client.query_opt(sql, &[&database.slot]).await?;
    let slot = slot.ok_or_else(|| SlotError::Missing(database.slot.clone()))?;
    if slot.get::<_, String>(0) == "lost" {
        return Err(SlotError::Lost(database.slot.clone()));
    }
    if slot.get::<_, bool>(2) {
        return Err(SlotError::Busy(database.slot.clone()));
    }
    let confirmed = position(slot.get(1))?;
    let exists = "SELECT count(*) FROM pg_publication WHERE pubname = $1";
    if client.query_one(exists, &[&publication]).await?.get::<_, i64>(0) == 0 {
        return Err(SlotError::NoPublication(publication.to_owned()));
    }
    if start > server {
        return Err(SlotError::DatabaseBehind { server, store: start });
    }
    if confirmed > start {
        return Err(SlotError::StoreBehind { slot: confirmed, store: start });
    }
    Ok(())
}

/// The end of what is flushed of the server's log.
///
/// # Errors
/// The connection failed.
pub async fn end_of_log(client: &Client) -> Result<Lsn, SlotError> {
    let row = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
    position(row.get(0))
}

fn position(text: String) -> Result<Lsn, SlotError> {
    Lsn::from_str(&text).map_err(|_| SlotError::Answer(text))
}
