//! Whether a row shows what its clock says, as far as the apply transaction tells.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Stamp;
use crate::fold::Image;
use crate::lattice::RowClock;
use crate::schema::ColumnId;
use crate::value::Value;

/// What an apply transaction must have made visible in one row.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) before: RowClock,
    pub(super) values: BTreeMap<ColumnId, (Stamp, Value)>,
    /// Merged columns to which something was done.
    pub(super) merged: BTreeSet<ColumnId>,
    pub(super) stamps: BTreeSet<Stamp>,
    /// Those of revivals.
    pub(super) revivals: BTreeSet<Stamp>,
    pub(super) parked: bool,
}

impl Shown {
    /// Whether the row's image in the apply transaction is what the joined clock says.
    pub(super) fn agrees(&self, clock: &RowClock, image: Option<&Image>) -> bool {
        let live = clock.shows();
        let Some(image) = image else {
            return !self.owed_a_write(clock, live);
        };
        let Some(after) = &image.after else {
            return live != Some(true);
        };
        if live == Some(false) {
            return false;
        }
        let won_right = self.values.iter().all(|(column, (stamp, value))| {
            clock.cell(*column) != Some(*stamp)
                || self.merged_to(clock, *column)
                || after.get(*column) == Some(value)
        });
        let kept_right = image.before.as_ref().is_none_or(|before| {
            after.iter().all(|(column, value)| {
                before.get(column) == Some(value)
                    || self.merged.contains(&column)
                    || clock.cell(column).is_some_and(|stamp| self.stamps.contains(&stamp))
            })
        });
        won_right && kept_right
    }

    /// Whether something was done to a merged column in the life that it has now: then it shows more
    /// than what it was set to last.
    fn merged_to(&self, clock: &RowClock, column: ColumnId) -> bool {
        self.merged.contains(&column) && clock.value(column).is_some()
    }

    /// Whether the row should have been written though it was not.
    fn owed_a_write(&self, clock: &RowClock, live: Option<bool>) -> bool {
        let decided = clock.decided();
        let won_existence = decided.is_some_and(|stamp| self.stamps.contains(&stamp));
        // What was there before the log was there unless somebody said otherwise, and what comes back
        // was there once.
        let is_revived = decided.is_some_and(|stamp| self.revivals.contains(&stamp));
        let before = self.before.shows();
        let was_live = before.unwrap_or(is_revived);
        match live {
            Some(true) => {
                let values =
                    self.values.iter().filter(|(column, _)| !self.merged_to(clock, **column));
                let mut written = values.map(|(column, (stamp, _))| (column, stamp));
                won_existence && !was_live
                    || written.any(|(column, stamp)| clock.cell(*column) == Some(*stamp))
            }
            Some(false) => won_existence && before == Some(true),
            None => false,
        }
    }
}
