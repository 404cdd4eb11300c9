//! A model of one PostgreSQL cluster, with the properties replication depends on.
//!
//! All state stands behind one lock ([`instance`]); what a session does is a step under that lock,
//! and between two steps there are pauses of chance, so that the sessions' steps interleave and a
//! crash can fall between any two. A commit is four steps: its record in the log, the log on disk,
//! visible to others, its waiters woken.

mod apply;
mod catalog;
mod cluster;
mod error;
mod heap;
mod instance;
mod log;
mod options;
mod orphans;
mod pgoutput;
mod rows;
mod seam;
mod session;
mod walsender;

#[cfg(test)]
mod tests;

pub(crate) use self::apply::note;
pub(crate) use self::cluster::{Backup, Cluster, Restore, View};
pub(crate) use self::error::PgError;
#[cfg(test)]
pub(crate) use self::heap::Strength;
pub(crate) use self::heap::TableNo;
pub(crate) use self::instance::OWN_TABLES;
#[cfg(test)]
pub(crate) use self::log::RowChange;
pub(crate) use self::log::{Change, CommitRecord, Line, parked};
pub(crate) use self::options::{Check, Options, Pauses, Reference, TableSpec};
#[cfg(test)]
pub(crate) use self::session::Ended;
pub(crate) use self::session::{OnConflict, Session, Settings, SyncCommit};
#[cfg(test)]
pub(crate) use self::walsender::WalStream;
