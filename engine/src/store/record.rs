//! The plain records that go in and out of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_protocol::change::Transaction;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{Fates, MarkerKey};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::schema::SetId;
use landfall_protocol::unit::{UNIT_PLAIN_BYTES_TARGET, UnitHash, UnitHeader};
use landfall_protocol::version::VersionVector;

use super::compaction::Compaction;
use crate::time::calendar::Month;

/// Which PostgreSQL database a store belongs to. A store beside another database is a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseIdentity {
    /// From `IDENTIFY_SYSTEM`.
    pub system_identifier: String,
    /// The database's name.
    pub database: String,
    /// The replication slot's name.
    pub slot: String,
}

/// Whose store this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The site in this life.
    pub origin: Origin,
    /// The database it captures; a relay has none.
    pub database: Option<DatabaseIdentity>,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most bytes the database file may take; `None` leaves it to the disk.
    pub budget_bytes: Option<u64>,
    /// SQLite's page cache of the writing thread.
    pub cache_bytes: u64,
    /// Length of the file that is given up when the disk is full, so that there is room to go on.
    pub ballast_bytes: u64,
    /// Decoded units kept in memory.
    pub unit_cache_bytes: usize,
    /// Clocks kept in memory before they are written to their place.
    pub recent_clocks_bytes: usize,
    /// Plain bytes after which a unit is sealed; a larger transaction is a unit by itself.
    pub unit_bytes_max: usize,
    /// Whether what is overwritten is left out of what nobody was given yet.
    pub compaction: Option<Compaction>,
    /// Sets of which nothing is ever left out.
    pub full_history: BTreeSet<SetId>,
    /// Length at which SQLite's write-ahead log is written back: a page that changes often is
    /// written back once for many times that it changed.
    pub checkpoint_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            budget_bytes: None,
            cache_bytes: 7 << 20,
            ballast_bytes: 16 << 20,
            unit_cache_bytes: 6 << 20,
            recent_clocks_bytes: 5 << 20,
            unit_bytes_max: UNIT_PLAIN_BYTES_TARGET,
            compaction: Some(Compaction::default()),
            full_history: BTreeSet::new(),
            checkpoint_bytes: 16 << 20,
        }
    }
}

/// What a store held when it was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Whose it is.
    pub identity: Identity,
    /// Seals the markers of its apply transactions.
    pub marker_key: MarkerKey,
    /// How far it is.
    pub log: Log,
}

/// How far the store is. Everything in it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Log {
    /// What can be handed to a peer: own sealed transactions and others' units.
    pub received: VersionVector,
    /// What is folded: own transactions, sealed or not, and others' as seen in the WAL.
    pub applied: VersionVector,
    /// The last own transaction folded.
    pub own: Seq,
    /// The WAL position recorded; it may be confirmed to PostgreSQL.
    pub fold_lsn: u64,
    /// The WAL position folded. Between `fold_lsn` and here stands nothing to fold, so nothing is
    /// lost when it is not recorded; whoever waits for the fold waits for this one.
    pub seen_lsn: u64,
    /// What became of foreign row changes.
    pub fates: Fates,
    /// Foreign row changes in all units ever stored.
    pub received_changes: u64,
    /// Rows rewritten after PostgreSQL did not show them right.
    pub repaired: u64,
    /// Rows that PostgreSQL does not show right now.
    pub dirty: u64,
    /// Why the site must not write any more.
    pub fenced: Option<String>,
    /// Origins set aside, with the reason.
    pub quarantined: BTreeMap<Origin, String>,
}

/// What a fold reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// The WAL position recorded.
    pub fold_lsn: u64,
    /// The last own transaction.
    pub own_last: Seq,
}

/// Whether a WAL position without content must be recorded at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// When it costs nothing or is far behind.
    WhenCheap,
    /// Before the reply.
    Now,
}

/// When own transactions become units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sealing {
    /// With every fold: somebody is there to take them.
    Eager,
    /// When there is enough for a full unit, which packs better.
    #[default]
    Lazy,
}

/// How much of a transaction is folded, when it is folded in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Where the transaction commits.
    pub commit_lsn: u64,
    /// What capture needs to go on behind the last part; only capture reads it.
    pub token: Vec<u8>,
}

/// What became of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in the store.
    Stored,
    /// It was there before.
    Duplicate,
    /// Units before it are missing.
    Gap {
        /// The last transaction of its origin held.
        held: Seq,
    },
    /// It contradicts what the store holds of its origin; not stored.
    Forked {
        /// The first transaction in doubt.
        seq: Seq,
    },
    /// Its header contradicts itself; not stored.
    Malformed,
}

/// A unit with its transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUnit {
    /// The signed header.
    pub header: UnitHeader,
    /// Its place in the chain.
    pub hash: UnitHash,
    /// What is inside, in order.
    pub transactions: Vec<Arc<Transaction>>,
}

/// What is held of one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose.
    pub origin: Origin,
    /// The last transaction held.
    pub seq: Seq,
    /// Hash of the unit that ends with it.
    pub hash: UnitHash,
}

/// What is known of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// Which site.
    pub site: SiteId,
    /// What it said it holds durably.
    pub received: VersionVector,
    /// What it said it applied.
    pub applied: VersionVector,
    /// When it was last heard, milliseconds since 1970.
    pub contact_ms: u64,
    /// Bytes got from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// The life of its log in which it said so; `None` when that was not noted.
    pub life: Option<Incarnation>,
    /// Bytes to it and from it by calendar month.
    pub months: BTreeMap<Month, u64>,
}

/// A row that PostgreSQL does not show as its clock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyRow {
    /// Which row.
    pub row: RowId,
    /// When it was marked, in the store's own count. A row marked again while it is repaired
    /// stays marked.
    pub mark: u64,
    /// Why.
    pub why: Dirt,
}

/// Why a row does not show what its clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dirt {
    /// An apply did not come out as it must, which should be rare.
    Different,
    /// What was written here does not stay as it was made, by the rule of its column.
    Overruled,
}

impl Dirt {
    const ALL: [Self; 2] = [Self::Different, Self::Overruled];

    /// As it is stored.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Different => "row image differs from its clock",
            Self::Overruled => "the rule of a column overrules a write",
        }
    }

    pub(super) fn of_reason(reason: &str) -> Self {
        let known = Self::ALL.into_iter().find(|why| why.reason() == reason);
        known.unwrap_or(Self::Different)
    }
}

/// What a peer has not got yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Row changes.
    pub changes: u64,
    /// Bytes of units and of what is not sealed yet.
    pub bytes: u64,
}

/// How much there is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Sizes {
    /// The database file.
    pub database_bytes: u64,
    /// SQLite's write-ahead log.
    pub wal_bytes: u64,
    /// Units of all origins.
    pub units: u64,
    /// Their bytes.
    pub unit_bytes: u64,
    /// Row changes not sealed yet.
    pub tail_changes: u64,
    /// Their bytes.
    pub tail_bytes: u64,
    /// Row changes received and not applied, of each foreign origin. A unit applied in part
    /// counts whole.
    pub pending: BTreeMap<Origin, u64>,
}

/// Counts since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Commands run by the writing thread.
    pub commands: u64,
    /// Transactions that wrote something, each one sync of the disk.
    pub commits: u64,
    /// Own units sealed.
    pub sealed: u64,
}
