//! A row whose parent is parked waits with it: replication writes without checking foreign keys, and
//! would show a child that points nowhere.

use std::collections::BTreeSet;

use landfall_protocol::clock::Stamp;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::id::{Seq, TxnId};
use landfall_protocol::schema::TableId;

use crate::replica::{Replica, ReplicaError, key_text};
use crate::store::ParkedPlace;

/// Entries read at a time.
const PAGE: usize = 1_000;

/// A row whose parent is not there.
#[derive(Clone, Debug)]
pub(super) struct Orphan {
    /// What to tell of it.
    pub(super) reason: String,
    /// How it goes aside, where its parent is; otherwise it waits, parked.
    pub(super) follows: Option<Follows>,
}

/// How a row belongs to one that is put aside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Follows {
    /// Which foreign key says so.
    pub(super) key: usize,
    /// Who is the cause.
    pub(super) winner: Stamp,
}

/// Rows that are parked and may not be here, as of a count of the store.
#[derive(Debug, Default)]
pub(super) struct HiddenRows {
    as_of: Option<u64>,
    rows: BTreeSet<RowId>,
}

impl HiddenRows {
    /// Whether this one is parked and may not be here.
    pub(super) fn contains(&self, row: &RowId) -> bool {
        self.rows.contains(row)
    }
}

impl Replica {
    /// Forgets rows without parents that were found for other transactions than from this one to that, or
    /// for any other work.
    pub(super) fn begin_orphans(&mut self, of: Option<(TxnId, Seq)>) {
        if of.is_none() || self.orphaned_of != of {
            self.orphaned.clear();
        }
        self.orphaned_of = of;
    }

    /// Whether the row is known to wait for its parent.
    pub(super) fn waits_for_parent(&self, row: &RowId) -> bool {
        self.orphaned.get(row).is_some_and(|orphan| orphan.follows.is_none())
    }

    /// Why a row waits whose parent is not there.
    pub(super) fn orphan_reason(&self, table: TableId, parent: Option<&RowId>) -> String {
        let name = self.dictionary.table(table).map(|def| def.name.to_string());
        let (name, key) = (name.unwrap_or_default(), parent.map(key_text).unwrap_or_default());
        match parent {
            Some(parent) if self.hidden.contains(parent) => {
                format!("its parent {key} of table {name} is parked")
            }
            Some(_) => format!("its parent {key} of table {name} is not here"),
            None => format!("its parent of table {name} is not here"),
        }
    }

    /// Whether there is any parked row that may not be here.
    pub(super) async fn find_hidden(&mut self) -> Result<bool, ReplicaError> {
        // Counted before it is read: what moves meanwhile is read again.
        let now = self.store.parked_moves();
        if self.hidden.as_of == Some(now) {
            return Ok(!self.hidden.rows.is_empty());
        }
        let mut rows = BTreeSet::new();
        let parked = self.store.watch().borrow().fates.parked;
        let mut from = (parked > 0).then(ParkedPlace::default);
        while let Some(place) = from {
            let page = self.store.parked(place, PAGE).await?;
            let hides = page.entries.into_iter().filter(|entry| entry.obstacle.hides_row());
            rows.extend(hides.filter_map(|entry| entry.row));
            from = page.next;
        }
        self.hidden = HiddenRows { as_of: Some(now), rows };
        Ok(!self.hidden.rows.is_empty())
    }
}
