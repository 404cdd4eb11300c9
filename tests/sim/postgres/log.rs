//! The write-ahead log: what is in it, what of it is on disk, what a slot holds back.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use landfall_engine::postgres::apply::{ParkedLine, ParkedNote};
use landfall_engine::postgres::history::ConflictLine;
use landfall_engine::postgres::lsn::Lsn;
use landfall_protocol::fold::ChangeId;
use landfall_protocol::value::Value;

use super::heap::TableNo;

/// What happened to a row.
#[derive(Debug, Clone)]
pub(crate) struct RowChange {
    /// The table.
    pub(crate) table: TableNo,
    /// Where it stands in the log.
    pub(crate) lsn: Lsn,
    /// The transaction, or subtransaction.
    pub(crate) xid: u64,
    /// The row before; nothing for an insert.
    pub(crate) old: Option<Arc<[Value]>>,
    /// The row after; nothing for a delete.
    pub(crate) new: Option<Arc<[Value]>>,
}

/// One thing a transaction did.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// A row.
    Row(RowChange),
    /// A transactional logical message.
    Message {
        /// Where it ends in the log.
        lsn: Lsn,
        /// For whom.
        prefix: &'static str,
        /// Its bytes.
        content: Arc<[u8]>,
    },
}

/// A line for humans.
#[derive(Debug, Clone)]
pub(crate) enum Line {
    /// Of `landfall.conflict`.
    Conflict(ConflictLine),
    /// Of `landfall.parked`.
    Parked(ParkedLine),
    /// That change has no line in it any more.
    Freed(ChangeId),
    /// Its line says something else now.
    Explained(ParkedNote),
}

/// A committed transaction.
#[derive(Debug, Clone)]
pub(crate) struct CommitRecord {
    /// Its id, with epoch.
    pub(crate) xid: u64,
    /// Where its commit record begins.
    pub(crate) lsn: Lsn,
    /// Where it ends.
    pub(crate) end: Lsn,
    /// By the site's clock, in microseconds since 1970.
    pub(crate) time: i64,
    /// What it did, in order.
    pub(crate) changes: Vec<Change>,
    /// Lines it wrote for humans.
    pub(crate) lines: Vec<Line>,
    /// What the workload calls it.
    pub(crate) tag: Option<u64>,
    /// Where the log ended when others first saw it, if it was not a crash that let them.
    pub(crate) visible: OnceLock<Lsn>,
}

/// What `landfall.parked` has after these lines.
pub(crate) fn parked<'l>(lines: impl IntoIterator<Item = &'l Line>) -> Vec<ParkedLine> {
    let mut parked: Vec<ParkedLine> = Vec::new();
    let is_about = |line: &ParkedLine, id: ChangeId| {
        (line.origin, line.seq, line.index) == (id.txn.origin, id.txn.seq, id.index)
    };
    for line in lines {
        match line {
            Line::Conflict(_) => {}
            Line::Parked(line) => parked.push(line.clone()),
            Line::Freed(id) => parked.retain(|line| !is_about(line, *id)),
            Line::Explained(note) => {
                for line in parked.iter_mut().filter(|line| is_about(line, note.id)) {
                    (line.reason, line.advice) = (note.reason.clone(), note.advice.clone());
                }
            }
        }
    }
    parked
}

/// The log.
#[derive(Debug, Clone)]
pub(super) struct Log {
    /// Commit records in their order.
    pub(super) records: Vec<Arc<CommitRecord>>,
    /// Where the next record begins.
    pub(super) end: Lsn,
    /// How much of it is on disk.
    pub(super) flushed: Lsn,
    /// The next transaction id by what is on disk.
    pub(super) durable_next_xid: u64,
    /// Which ids were given out up to which position, of what is not on disk.
    xids: VecDeque<(Lsn, u64)>,
}

impl Log {
    pub(super) fn new(start: Lsn, next_xid: u64) -> Self {
        Self {
            records: Vec::new(),
            end: start,
            flushed: start,
            durable_next_xid: next_xid,
            xids: VecDeque::new(),
        }
    }

    /// Appends so many bytes; says where they end.
    pub(super) fn append(&mut self, bytes: u64, next_xid: u64) -> Lsn {
        self.end = Lsn((self.end.0 + bytes).next_multiple_of(8));
        self.xids.push_back((self.end, next_xid));
        self.end
    }

    /// Everything up to `position` is on disk; says whether that is news.
    pub(super) fn flush(&mut self, position: Lsn) -> bool {
        let position = position.min(self.end);
        while let Some((at, next_xid)) = self.xids.front().copied()
            && at <= position
        {
            self.durable_next_xid = self.durable_next_xid.max(next_xid);
            self.xids.pop_front();
        }
        let news = position > self.flushed;
        self.flushed = self.flushed.max(position);
        news
    }

    /// The place of the first commit record at or behind `position`.
    pub(super) fn place_of(&self, position: Lsn) -> usize {
        self.records.partition_point(|record| record.lsn < position)
    }

    /// Ends of records that are not on disk.
    pub(super) fn unflushed_ends(&self) -> impl ExactSizeIterator<Item = Lsn> + '_ {
        self.xids.iter().map(|(end, _)| *end)
    }

    /// What is not on disk is gone.
    pub(super) fn lose_unflushed(&mut self) {
        let flushed = self.flushed;
        self.records.truncate(self.records.partition_point(|record| record.end <= flushed));
        self.end = flushed;
        self.xids.clear();
    }
}

/// A logical replication slot.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// What its client has confirmed.
    pub(super) confirmed: Lsn,
    /// What of that survives a crash.
    pub(super) saved: Lsn,
    /// The walsender that holds it.
    pub(super) held_by: Option<u64>,
}
