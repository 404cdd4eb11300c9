//! Rows, their newest versions and their locks.
//!
//! Statements see what is committed when they begin (read committed), and at most one transaction
//! at a time writes a row, so two versions are enough: the one everybody sees, and its.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::value::{RowKey, Value};

use super::options::TableSpec;

/// Number of a transaction, from its begin on; nothing a client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TxnNo(pub(super) u64);

/// A table's place in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableNo(pub(crate) usize);

/// How strongly a row is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strength {
    /// `FOR KEY SHARE`: the row must not go, nor its key change.
    KeyShare,
    /// `FOR NO KEY UPDATE`: nobody else may write it.
    NoKeyUpdate,
    /// `FOR UPDATE`: nobody else may even point to it.
    Update,
}

impl Strength {
    fn excludes(self, other: Self) -> bool {
        self == Self::Update || other == Self::Update || self.min(other) == Self::NoKeyUpdate
    }
}

/// One version of a row.
#[derive(Debug, Clone)]
pub(super) struct Version {
    /// The same for all versions from one insert on.
    pub(super) chain: u64,
    /// The transaction, or subtransaction, that wrote it.
    pub(super) xmin: u64,
    pub(super) values: Arc<[Value]>,
}

#[derive(Debug)]
struct Lock {
    by: TxnNo,
    /// How many savepoints stood when it was taken.
    depth: usize,
    strength: Strength,
}

/// What its writer has made of a row, newest last; nothing when it is deleted.
#[derive(Debug)]
struct Pending {
    by: TxnNo,
    versions: Vec<(usize, Option<Version>)>,
}

/// What stands under a key.
#[derive(Debug, Default)]
pub(super) struct Cell {
    committed: Option<Version>,
    pending: Option<Pending>,
    locks: Vec<Lock>,
}

impl Cell {
    /// A row that everybody sees.
    pub(super) fn of(version: Version) -> Self {
        Self { committed: Some(version), ..Self::default() }
    }

    /// What everybody sees.
    pub(super) fn committed(&self) -> Option<&Version> {
        self.committed.as_ref()
    }

    /// What this transaction sees.
    pub(super) fn seen_by(&self, txn: TxnNo) -> Option<&Version> {
        match &self.pending {
            Some(pending) if pending.by == txn => pending.versions.last()?.1.as_ref(),
            _ => self.committed.as_ref(),
        }
    }

    /// Whose write of the row is not over.
    pub(super) fn writer(&self) -> Option<TxnNo> {
        self.pending.as_ref().map(|pending| pending.by)
    }

    /// What its writer has made of it on the way.
    pub(super) fn written(&self) -> impl Iterator<Item = &Version> {
        let versions = self.pending.iter().flat_map(|pending| &pending.versions);
        versions.filter_map(|(_, version)| version.as_ref())
    }

    /// Who keeps `txn` from locking it.
    pub(super) fn in_the_way(&self, txn: TxnNo, strength: Strength) -> Option<TxnNo> {
        let excludes = |lock: &&Lock| lock.by != txn && lock.strength.excludes(strength);
        self.locks.iter().find(excludes).map(|lock| lock.by)
    }

    /// Takes a lock that nobody is in the way of; `false` when it is held already.
    pub(super) fn lock(&mut self, by: TxnNo, depth: usize, strength: Strength) -> bool {
        let held = self.locks.iter().any(|lock| lock.by == by && lock.strength >= strength);
        if !held {
            self.locks.push(Lock { by, depth, strength });
        }
        !held
    }

    /// Writes a new version, under lock.
    pub(super) fn write(&mut self, by: TxnNo, depth: usize, version: Option<Version>) {
        let pending = self.pending.get_or_insert_with(|| Pending { by, versions: Vec::new() });
        assert!(pending.by == by, "two transactions write one row at a time");
        pending.versions.push((depth, version));
    }

    /// What `by` did at this depth and below it is undone, its locks are gone.
    pub(super) fn undo(&mut self, by: TxnNo, depth: usize) {
        self.locks.retain(|lock| lock.by != by || lock.depth < depth);
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.by == by) {
            pending.versions.retain(|(at, _)| *at < depth);
            if pending.versions.is_empty() {
                self.pending = None;
            }
        }
    }

    /// What `by` did at this depth belongs to the one above.
    pub(super) fn keep(&mut self, by: TxnNo, depth: usize) {
        for lock in self.locks.iter_mut().filter(|lock| lock.by == by) {
            lock.depth = lock.depth.min(depth - 1);
        }
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.by == by) {
            pending.versions.iter_mut().for_each(|(at, _)| *at = (*at).min(depth - 1));
        }
    }

    /// What `by` did is committed: everybody sees it, and whoever comes now finds no lock.
    pub(super) fn settle(&mut self, by: TxnNo) {
        self.locks.retain(|lock| lock.by != by);
        if let Some(mut pending) = self.pending.take_if(|pending| pending.by == by)
            && let Some((_, newest)) = pending.versions.pop()
        {
            self.committed = newest;
        }
    }

    /// Whether nothing stands here any more.
    pub(super) fn is_empty(&self) -> bool {
        self.committed.is_none() && self.pending.is_none() && self.locks.is_empty()
    }
}

/// A table with its rows.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) spec: TableSpec,
    pub(super) cells: BTreeMap<RowKey, Cell>,
}

impl Table {
    pub(super) fn new(spec: TableSpec) -> Self {
        Self { spec, cells: BTreeMap::new() }
    }

    /// The key of a row of these values.
    pub(super) fn key_of(&self, values: &[Value]) -> RowKey {
        RowKey::of(self.spec.def.key.iter().map(|column| &values[usize::from(column.0)]))
    }

    /// Changes a cell and forgets it when nothing is left.
    pub(super) fn edit(&mut self, key: &RowKey, edit: impl FnOnce(&mut Cell)) {
        if let Some(cell) = self.cells.get_mut(key) {
            edit(cell);
            if cell.is_empty() {
                self.cells.remove(key);
            }
        }
    }
}
