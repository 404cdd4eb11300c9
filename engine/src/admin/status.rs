//! What a daemon says about itself. Field names are an interface: scripts read `status --json`.

use serde::{Deserialize, Serialize};

use super::aside::AsideStatus;
use super::bundle::BundleStatus;
use super::parked::ParkedStatus;
use crate::postgres::lsn::Lsn;

/// Everything about one member, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its number in the fleet file.
    pub site: u16,
    /// Its name in the fleet file.
    pub name: String,
    /// Which life of its log; `None` before the store is open.
    pub incarnation: Option<String>,
    /// The program's version.
    pub version: String,
    /// The version of its fleet file.
    pub fleet_version: u64,
    /// Whether it works.
    pub state: DaemonState,
    /// Why not; `None` while running.
    pub why: Option<String>,
    /// How capture does; `None` without a PostgreSQL.
    pub capture: Option<Part>,
    /// How apply does; `None` without a PostgreSQL.
    pub apply: Option<Part>,
    /// What apply did since the daemon started; `None` without a PostgreSQL.
    pub apply_counters: Option<ApplyCounters>,
    /// Everything up to here was captured durably.
    #[serde(with = "lsn_text")]
    pub fold_lsn: Option<Lsn>,
    /// PostgreSQL's own position (`pg_current_wal_flush_lsn`) when the status was made.
    #[serde(with = "lsn_text")]
    pub wal_lsn: Option<Lsn>,
    /// WAL that is not confirmed to our slot, in bytes.
    pub slot_lag_bytes: Option<u64>,
    /// What our slot keeps PostgreSQL from throwing away; `None` without a PostgreSQL, or when it
    /// cannot be asked.
    pub slot: Option<SlotStatus>,
    /// How the store does, and its disk.
    pub store: StoreStatus,
    /// What will stand still if nobody acts.
    pub warnings: Vec<String>,
    /// The last transaction written here.
    pub own_seq: u64,
    /// How far everybody's transactions are known here, ourselves included.
    pub vector: Vec<OriginStatus>,
    /// Received changes that wait to be applied; 0 without a PostgreSQL.
    pub inbox_pending_changes: u64,
    /// Units held back because they come from the future.
    pub held_units: u64,
    /// What became of the changes received.
    pub fates: Fates,
    /// What could not be shown here.
    pub parked: ParkedStatus,
    /// Rows that no site shows; `None` without a PostgreSQL, or when it cannot be asked.
    #[serde(default)]
    pub aside: Option<AsideStatus>,
    /// Rows whose image was not what the lattice says, and were put right.
    pub repaired_rows: u64,
    /// Rows whose image is not what the lattice says, and which are about to be put right.
    pub rows_to_repair: u64,
    /// How the history of conflicts is thinned out; `None` without a PostgreSQL.
    #[serde(default)]
    pub history: Option<HistoryStatus>,
    /// How it stands with bundles.
    #[serde(default)]
    pub bundles: BundleStatus,
    /// Members with a link, to be dialled, or met before.
    pub peers: Vec<PeerStatus>,
}

/// Whether the daemon works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DaemonState {
    /// It does.
    Running,
    /// It found that its database or store is not the one it was, and writes nothing any more.
    Fenced,
    /// A part stands still until somebody acts.
    Operator,
}

/// One part of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Whether it works.
    pub state: PartState,
    /// Why not; `None` while working.
    pub cause: Option<String>,
}

/// Whether a part works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    /// It does.
    Working,
    /// It will try again by itself.
    Retrying,
    /// It stands still until somebody acts.
    Operator,
}

/// What our slot keeps PostgreSQL from throwing away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// WAL on PostgreSQL's disk for our sake, in bytes.
    pub retained_bytes: u64,
    /// `max_slot_wal_keep_size`, in bytes; `None` = no limit.
    pub retained_bytes_max: Option<u64>,
    /// Bytes of WAL that may still be written before PostgreSQL gives the slot up; `None` = no limit.
    pub left_bytes: Option<u64>,
}

/// Without a limit, WAL held back beyond this is worth a warning.
const RETAINED_BYTES_CALM: u64 = 1 << 30;

impl SlotStatus {
    /// What to say when the slot holds back too much.
    pub fn warning(&self) -> Option<String> {
        let retained = self.retained_bytes;
        let outlook = match (self.retained_bytes_max, self.left_bytes.unwrap_or(0)) {
            (Some(max), left) if retained > max / 2 => {
                format!("after {left} more the slot is lost and this site must be rebuilt")
            }
            (None, _) if retained > RETAINED_BYTES_CALM => {
                "there is no limit, and when PostgreSQL's disk is full it stops".to_owned()
            }
            _ => return None,
        };
        Some(format!("PostgreSQL keeps {retained} bytes of WAL for our slot; {outlook}"))
    }
}

/// The store and its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// `Retrying` while it is full.
    pub state: PartState,
    /// Why it takes nothing, and what to do; `None` while working.
    pub cause: Option<String>,
    /// What it takes on the disk, in bytes, without the ballast.
    pub bytes: u64,
    /// How large it may grow (`limits.store_bytes_max`); `None` = as the disk allows.
    pub bytes_max: Option<u64>,
    /// What is free in the file system of `data_dir`; `None` when that cannot be told.
    pub disk_free_bytes: Option<u64>,
}

/// How the history of conflicts is thinned out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryStatus {
    /// Days for which its lines are kept (`history.keep_days`); 0 = for ever.
    pub keep_days: u64,
    /// Lines removed since the daemon started.
    pub removed: u64,
    /// Why the last round failed, if it did.
    pub cause: Option<String>,
}

/// What apply did since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyCounters {
    /// PostgreSQL transactions committed.
    pub groups: u64,
    /// Transactions of others in them.
    pub transactions: u64,
    /// Row changes in them.
    pub changes: u64,
    /// Times it waited for capture while it held locks.
    pub barriers: u64,
    /// Attempts that were rolled back.
    pub retries: u64,
    /// Lines written to `landfall.conflict`.
    pub conflicts: u64,
    /// Lines written to `landfall.parked`.
    pub parked: u64,
    /// Parked changes that are shown by now.
    pub freed: u64,
}

/// How far one origin is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginStatus {
    /// The member's name, or `site N` when the fleet file does not know it.
    pub name: String,
    /// The member's number.
    pub site: u16,
    /// Which life of its log.
    pub incarnation: String,
    /// Its last transaction that is durable here.
    pub received: u64,
    /// Its last transaction that is visible in our PostgreSQL.
    pub applied: u64,
}

/// What became of received changes; every change is counted under exactly one fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fates {
    /// All of them.
    pub received: u64,
    /// Written as they came.
    pub applied: u64,
    /// Written in part, because something here was newer.
    pub merged: u64,
    /// Not written, because everything here was newer.
    pub superseded: u64,
    /// Set aside in `landfall.parked`.
    pub parked: u64,
    /// Not decided yet.
    pub pending: u64,
}

impl Fates {
    /// Whether every change received has exactly one fate.
    pub fn are_balanced(&self) -> bool {
        self.received == self.applied + self.merged + self.superseded + self.parked + self.pending
    }
}

/// How it stands with one other member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name in the fleet file.
    pub name: String,
    /// Whether there is a link.
    pub state: PeerState,
    /// Whether we are to keep a link to it.
    pub dialled: bool,
    /// When we last heard from it, in milliseconds; `None` = never.
    pub last_contact_ms_ago: Option<u64>,
    /// When we try again, in milliseconds.
    pub next_attempt_in_ms: Option<u64>,
    /// Why there is no link.
    pub cause: Option<String>,
    /// Bytes sent to it since our start.
    pub bytes_sent: u64,
    /// Bytes received from it since our start.
    pub bytes_received: u64,
    /// Bytes that it did not have to send again since our start, because a unit went on where it was
    /// cut.
    #[serde(default)]
    pub bytes_resumed: u64,
    /// Changes written here that it has not acknowledged as durable.
    pub unacknowledged_changes: u64,
    /// The same, in bytes of sealed units.
    pub unacknowledged_bytes: u64,
    /// Changes of any origin that we hold and it lacks, as far as we know.
    pub lacks_changes: u64,
    /// Changes of any origin that it holds and we lack, as far as we know.
    pub offers_changes: u64,
    /// What the link used of the present calendar month, and what that costs.
    #[serde(default)]
    pub month: MonthStatus,
    /// Bytes of sealed units that we hold and it lacks, as far as we know.
    #[serde(default)]
    pub lacks_bytes: u64,
    /// How long it would take to send them, in milliseconds; `None` when the rate is not known.
    #[serde(default)]
    pub drain_ms: Option<u64>,
}

/// What a link used of the present calendar month (UTC).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthStatus {
    /// Bytes in UDP datagrams, sent and received.
    pub bytes: u64,
    /// How many it may be (`budget_bytes_per_month`); `None` = as many as there are.
    pub budget_bytes: Option<u64>,
    /// What they cost; `None` without `price_per_mb`.
    pub cost: Option<Cost>,
}

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// In millionths of the currency.
    pub millionths: u64,
    /// What the operator calls it; may be empty.
    pub currency: String,
}

/// Whether there is a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// There is.
    Connected,
    /// There is none; the next attempt will come, or it will dial us.
    Waiting,
    /// It or we refused the other: wrong key, version or sets.
    Refused,
}

/// Positions in their usual form, `16/B374D848`.
mod lsn_text {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de};

    use super::Lsn;

    pub(super) fn serialize<S: Serializer>(lsn: &Option<Lsn>, to: S) -> Result<S::Ok, S::Error> {
        lsn.map(|lsn| lsn.to_string()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Lsn>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}
