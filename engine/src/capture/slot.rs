//! Is this the server, the slot and the publication the store was made for? Asked before every
//! start, because PostgreSQL itself would skip over a gap in silence.

use std::str::FromStr;

use landfall_protocol::fleet::Fleet;
use tokio_postgres::Client;

use crate::capture::bond::{self, BondError};
use crate::capture::publication::{self, PublicationError};
use crate::capture::walsender::{SystemIdentity, TimelineSwitch};
use crate::postgres::lsn::Lsn;
use crate::postgres::sql;
use crate::store::{DatabaseIdentity, Store};

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
        "replication slot \"{slot}\" was invalidated by the server ({reason}): changes since then are unknown; see docs/operations.md, \"a lost slot\""
    )]
    Lost {
        /// The slot.
        slot: String,
        /// The server's reason; before PostgreSQL 17 it tells none, and there was only one.
        reason: String,
    },
    /// A slot of that name is something else's.
    #[error(
        "replication slot \"{slot}\" {problem}: it is not the one this store was made with; see docs/operations.md, \"a lost slot\""
    )]
    Foreign {
        /// The slot.
        slot: String,
        /// What it is.
        problem: String,
    },
    /// Somebody else reads from it.
    #[error(
        "replication slot \"{slot}\" is in use by process {pid} ({application}); is another landfall-node running?"
    )]
    Busy {
        /// The slot.
        slot: String,
        /// The server's process.
        pid: i32,
        /// What that process calls itself.
        application: String,
    },
    /// The publication is not what it was.
    #[error(transparent)]
    Publication(#[from] PublicationError),
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
    /// The server's history parted from ours before our position.
    #[error(
        "the server is on timeline {timeline} now, which begins at {switch}, and this store already holds changes of timeline {known} up to {store}: a standby that lagged was promoted, or the database was restored from a backup; see docs/operations.md, \"a restored database\""
    )]
    TimelineParted {
        /// The server's timeline.
        timeline: u32,
        /// Where it begins.
        switch: Lsn,
        /// Ours.
        known: u32,
        /// What is folded.
        store: Lsn,
    },
    /// The server's history does not know ours.
    #[error(
        "the server is on timeline {timeline}, and its history does not contain timeline {known}, of which this store holds changes: the database was restored from a backup; see docs/operations.md, \"a restored database\""
    )]
    OtherTimeline {
        /// The server's timeline.
        timeline: u32,
        /// Ours.
        known: u32,
    },
    /// The server takes no writes.
    #[error("the server is a standby; point conninfo at the primary, or promote it")]
    Standby,
    /// The slot is ahead of the store.
    #[error(
        "the slot was confirmed up to {slot}, this store only holds changes up to {store}: the store was restored from a backup, or somebody else read from the slot; see docs/operations.md, \"a restored store\""
    )]
    StoreBehind {
        /// What the slot has confirmed.
        slot: Lsn,
        /// What is folded.
        store: Lsn,
    },
    /// Database and store carry different tokens.
    #[error(transparent)]
    Bond(#[from] BondError),
    /// A question was not answered.
    #[error("cannot verify the slot: {}", sql::describe(.0))]
    Query(#[from] tokio_postgres::Error),
    /// A position does not read.
    #[error("server told position {0:?}")]
    Answer(String),
}

impl SlotError {
    /// Whether waiting alone may help: a dead walsender keeps the slot until its time-out, and a
    /// server may be about to be promoted.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Standby | Self::Query(_) => true,
            Self::Bond(error) => error.is_transient(),
            Self::Publication(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether the store is not what it was, so that nothing may be said in its name.
    pub fn speaks_against_store(&self) -> bool {
        match self {
            Self::StoreBehind { .. } => true,
            Self::Bond(error) => error.speaks_against_store(),
            _ => false,
        }
    }
}

/// What is expected.
#[derive(Debug)]
pub struct Expected<'a> {
    /// The database the store was made for, and the slot.
    pub database: &'a DatabaseIdentity,
    /// The publication.
    pub publication: &'a str,
    /// What it must publish.
    pub fleet: &'a Fleet,
    /// Where the store is.
    pub start: Lsn,
    /// The timeline on which that lies.
    pub timeline: Option<u32>,
}

/// Who the server says it is.
#[derive(Debug)]
pub struct Server {
    /// Identifier and timeline.
    pub identity: SystemIdentity,
    /// Where the timelines before the present one ended; only needed when it is another than ours.
    pub history: Vec<TimelineSwitch>,
}

/// Verifies everything before streaming.
///
/// # Errors
/// The first thing that is wrong.
pub async fn verify(
    client: &Client,
    store: &Store,
    expected: &Expected<'_>,
    server: &Server,
) -> Result<(), SlotError> {
    let row = client.query_one("SELECT current_database(), pg_is_in_recovery()", &[]).await?;
    verify_database(expected, server, row.get(0))?;
    if row.get(1) {
        return Err(SlotError::Standby);
    }
    verify_timeline(expected.timeline, expected.start, server)?;
    let end = end_of_log(client).await?;
    if expected.start > end {
        return Err(SlotError::DatabaseBehind { server: end, store: expected.start });
    }
    // Before the slot, which may be missing for this very reason.
    bond::verify(client, store).await?;
    verify_slot(client, expected).await?;
    publication::verify(client, expected.publication, expected.fleet).await?;
    Ok(())
}

fn verify_database(
    expected: &Expected<'_>,
    server: &Server,
    database: String,
) -> Result<(), SlotError> {
    let known = (expected.database.system_identifier.clone(), expected.database.database.clone());
    let found = (server.identity.system_identifier.to_string(), database);
    if known == found {
        return Ok(());
    }
    let name = |(server, database): (String, String)| format!("{database} of server {server}");
    Err(SlotError::OtherDatabase { expected: name(known), found: name(found) })
}

/// A promoted server goes on from where its timeline begins. What we hold must lie before that, or
/// it is not in this server's past.
pub(super) fn verify_timeline(
    known: Option<u32>,
    store: Lsn,
    server: &Server,
) -> Result<(), SlotError> {
    let timeline = server.identity.timeline;
    let Some(known) = known.filter(|known| *known != timeline) else { return Ok(()) };
    match server.history.iter().find(|switch| switch.timeline == known) {
        Some(TimelineSwitch { end, .. }) if store <= *end => Ok(()),
        Some(TimelineSwitch { end, .. }) => {
            Err(SlotError::TimelineParted { timeline, switch: *end, known, store })
        }
        None => Err(SlotError::OtherTimeline { timeline, known }),
    }
}

const SLOT: &str = "
SELECT coalesce(s.plugin::text, ''), coalesce(s.database::text, ''),
       s.database IS NOT DISTINCT FROM current_database(), coalesce(s.wal_status, ''),
       coalesce(to_jsonb(s)->>'invalidation_reason', 'max_slot_wal_keep_size'),
       s.confirmed_flush_lsn::text, s.active_pid,
       coalesce((SELECT application_name FROM pg_stat_activity a WHERE a.pid = s.active_pid), '')
FROM pg_replication_slots s WHERE slot_name = $1";

async fn verify_slot(client: &Client, expected: &Expected<'_>) -> Result<(), SlotError> {
    let slot = expected.database.slot.clone();
    let Some(row) = client.query_opt(SLOT, &[&slot]).await? else {
        return Err(SlotError::Missing(slot));
    };
    let (plugin, database): (String, String) = (row.get(0), row.get(1));
    let foreign = match plugin.as_str() {
        "pgoutput" if row.get(2) => None,
        "pgoutput" => Some(format!("belongs to database \"{database}\"")),
        "" => Some("is one for physical replication".to_owned()),
        plugin => Some(format!("was made for plugin {plugin}")),
    };
    if let Some(problem) = foreign {
        return Err(SlotError::Foreign { slot, problem });
    }
    if row.get::<_, String>(3) == "lost" {
        return Err(SlotError::Lost { slot, reason: row.get(4) });
    }
    if let Some(pid) = row.get(6) {
        return Err(SlotError::Busy { slot, pid, application: row.get(7) });
    }
    // A slot in the middle of being made has none.
    let Some(confirmed) = row.get::<_, Option<String>>(5) else {
        let problem = "was never finished".to_owned();
        return Err(SlotError::Foreign { slot, problem });
    };
    let (confirmed, store) = (position(confirmed)?, expected.start);
    if confirmed > store {
        return Err(SlotError::StoreBehind { slot: confirmed, store });
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

/// What a slot keeps the server from throwing away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retained {
    /// Bytes of WAL from where the slot would restart.
    pub bytes: u64,
    /// How many there may be before the slot is lost (`max_slot_wal_keep_size`); `None` = no limit.
    pub bytes_max: Option<u64>,
    /// How many more may be written before the slot is lost (`safe_wal_size`).
    pub left_bytes: Option<u64>,
}

const RETAINED: &str = "
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8, safe_wal_size::int8,
       (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
FROM pg_replication_slots WHERE slot_name = $1 AND restart_lsn IS NOT NULL";

/// What the slot holds back now; `None` when it is gone, or lost.
///
/// # Errors
/// The connection failed.
pub async fn retained(client: &Client, slot: &str) -> Result<Option<Retained>, SlotError> {
    let row = client.query_opt(RETAINED, &[&slot]).await?;
    Ok(row.map(|row| {
        let keep_mib = row.get::<_, Option<i64>>(2).and_then(|mib| u64::try_from(mib).ok());
        Retained {
            bytes: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
            bytes_max: keep_mib.map(|mib| mib << 20),
            left_bytes: row.get::<_, Option<i64>>(1).map(|left| u64::try_from(left).unwrap_or(0)),
        }
    }))
}

fn position(text: String) -> Result<Lsn, SlotError> {
    Lsn::from_str(&text).map_err(|_| SlotError::Answer(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promoted_server_must_have_all_we_hold_in_its_past() {
        let judged = |known: Option<u32>, now: u32, start: u64| {
            let identity =
                SystemIdentity { system_identifier: 7, timeline: now, flushed: Lsn(1000) };
            let history = [(1, 100), (2, 200)]
                .map(|(timeline, end)| TimelineSwitch { timeline, end: Lsn(end) })
                .to_vec();
            verify_timeline(known, Lsn(start), &Server { identity, history })
        };
        for (known, now, start) in
            [(None, 3, 500), (Some(3), 3, 500), (Some(2), 3, 200), (Some(1), 3, 100)]
        {
            assert!(judged(known, now, start).is_ok(), "{known:?} {now} {start}");
        }
        assert!(matches!(judged(Some(2), 3, 201), Err(SlotError::TimelineParted { known: 2, .. })));
        assert!(matches!(judged(Some(4), 3, 1), Err(SlotError::OtherTimeline { known: 4, .. })));
    }
}
