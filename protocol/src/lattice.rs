//! The row lattice: an existence register and one register per cell, joined by maximum stamp.
//!
//! A row's clock keeps stamps only. The values of a visible row stand in PostgreSQL; any other
//! value is found in the log by the transaction its stamp names.
//!
//! An insert counts as writing every cell at its stamp: a column that it does not name, because its
//! origin does not have it, takes its default. That makes `base` enough for most rows. A delete
//! writes no cell: a tombstone keeps the stamps of what the row had, so that a revival can show it
//! again. An insert newer than the tombstone wins over all that is older, and cells that are newer
//! win over the insert's own. The join is commutative, associative and idempotent, and it does not
//! ask which columns this site has: a change whose column comes later is joined later, to the same
//! clock.
//!
//! A revival says that the row is there, and writes no cell either. Whoever joins it has joined all
//! that its origin knew of the row. Only what was there before the log is in no log; deletes and
//! revivals bring it along, and it is joined at a stamp older than all others.
//!
//! Whether a row is put aside is a register of its own: it says nothing of whether the row exists, so
//! neither a delete nor an update is lost to it, and it ends where somebody says that the row is there.
//!
//! A [merged column](crate::merged) is a cell whose stamp is its birth, and beside it what was done
//! to it since. An insert may do something to it instead of writing it: then it begins with nothing at
//! the delete that the insert came after, and inserts that came after the same delete are of one life.

mod merged;
#[cfg(test)]
mod tests;

pub use merged::Merged;

use crate::change::{Cell, RowOp};
use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, Writer};
use crate::merged::{Share, State};
use crate::schema::{COLUMNS_MAX, ColumnId};
use crate::value::Value;

/// What a column begins with to which an insert does something.
const NOTHING: &str = "0";

/// Whether a row exists, and since when that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Existence {
    /// The insert, delete or revival that decided.
    pub stamp: Stamp,
    /// `true` after an insert or a revival.
    pub live: bool,
}

/// Whether a row is put aside, and since when that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aside {
    /// The quarantine or the return that decided.
    pub stamp: Stamp,
    /// `true` after a quarantine.
    pub is_aside: bool,
}

/// What is known of one row. The default is a row as it stood before the site joined the fleet:
/// older than every stamp, existing if PostgreSQL has it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RowClock {
    existence: Option<Existence>,
    /// Newer than the existence register; what is older than that says nothing any more.
    aside: Option<Aside>,
    base: Option<Stamp>,
    /// In column order; mostly a handful.
    cells: Vec<(ColumnId, Stamp)>,
    /// In column order: those that are merged and to which somebody has done something.
    merged: Vec<Merged>,
}

/// What one change did to a row's registers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct JoinOutcome {
    /// Whether the existence register took this change's side.
    pub existence_won: bool,
    /// Cells that took this change's value.
    pub won: Vec<ColumnId>,
    /// Cells that kept a newer value, with the stamp that won.
    pub lost: Vec<(ColumnId, Stamp)>,
    /// The existence register kept a newer insert or delete.
    pub existence_lost: Option<Stamp>,
}

/// The fate of a received change once it is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Everything it said became the newest word.
    Applied,
    /// Part of it did, part was older than what is known.
    Merged,
    /// All of it was older than what is known.
    Superseded,
}

impl JoinOutcome {
    /// The change's fate.
    pub fn fate(&self) -> Fate {
        let won = self.existence_won || !self.won.is_empty();
        let lost = self.existence_lost.is_some() || !self.lost.is_empty();
        match (won, lost) {
            (_, false) => Fate::Applied,
            (true, true) => Fate::Merged,
            (false, true) => Fate::Superseded,
        }
    }
}

impl RowClock {
    /// The existence register; `None` when no insert or delete was ever seen.
    pub fn existence(&self) -> Option<Existence> {
        self.existence
    }

    /// The stamp of a cell; `None` when it is older than everything.
    pub fn cell(&self, column: ColumnId) -> Option<Stamp> {
        self.place(column).map(|place| self.cells[place].1).ok().or(self.base)
    }

    /// Where the cell's own stamp stands, or would stand.
    fn place(&self, column: ColumnId) -> Result<usize, usize> {
        self.cells.binary_search_by_key(&column, |(column, _)| *column)
    }

    /// Whether the row shows, given whether it was there before anything was stamped.
    pub fn is_live(&self, present_at_genesis: bool) -> bool {
        self.shows().unwrap_or(present_at_genesis)
    }

    /// Whether the row shows; `None` while nobody has said anything of that since there is a log.
    pub fn shows(&self) -> Option<bool> {
        match (self.existence, self.aside) {
            (Some(existence), aside) => {
                Some(existence.live && !aside.is_some_and(|aside| aside.is_aside))
            }
            (None, Some(aside)) => Some(!aside.is_aside),
            (None, None) => None,
        }
    }

    /// Whether the row was put aside, and not deleted since.
    pub fn is_aside(&self) -> bool {
        !self.is_gone() && self.aside.is_some_and(|aside| aside.is_aside)
    }

    /// Whether the row was deleted.
    pub fn is_gone(&self) -> bool {
        self.existence.is_some_and(|existence| !existence.live)
    }

    /// The stamp of what decides whether the row shows.
    pub fn decided(&self) -> Option<Stamp> {
        let existence = self.existence.map(|existence| existence.stamp);
        existence.max(self.aside.map(|aside| aside.stamp))
    }

    /// The clock as it is once somebody has taken the delete of the row back.
    #[must_use]
    pub fn revived(mut self) -> Self {
        if let Some(existence) = &mut self.existence {
            existence.live = true;
            self.aside = None;
        }
        self
    }

    /// The clock as it is once the row is aside no more.
    #[must_use]
    pub fn returned(mut self) -> Self {
        if let Some(aside) = &mut self.aside {
            aside.is_aside = false;
        }
        self
    }

    /// What is kept of a merged column; `None` when nobody has done anything to it in its life.
    pub fn merged(&self, column: ColumnId) -> Option<&Merged> {
        self.merged_place(column).ok().map(|place| &self.merged[place])
    }

    /// Where what is kept of a merged column stands, or would stand.
    fn merged_place(&self, column: ColumnId) -> Result<usize, usize> {
        self.merged.binary_search_by_key(&column, |merged| merged.column)
    }

    /// What is kept of a merged column, whether anybody has done something to it or not.
    fn merged_mut(&mut self, column: ColumnId) -> &mut Merged {
        let place = self.merged_place(column).unwrap_or_else(|place| {
            self.merged.insert(place, Merged::new(column));
            place
        });
        &mut self.merged[place]
    }

    /// What was done to a merged column in its present life.
    pub fn life(&self, column: ColumnId) -> Option<&State> {
        self.merged(column)?.life(self.cell(column))
    }

    /// The true value of a merged column, if it is known what it was born with.
    pub fn value(&self, column: ColumnId) -> Option<String> {
        self.merged(column)?.value(self.cell(column))
    }

    /// With what a merged column was born, by what it shows; `None` when that does not tell.
    pub fn base(&self, column: ColumnId, shown: &str) -> Option<String> {
        match self.life(column) {
            Some(life) => life.base(shown),
            None => Some(shown.to_owned()),
        }
    }

    /// As [`RowClock::found`], of a column to which the next change will be the first to do
    /// something. That change must follow.
    pub fn begin(&mut self, column: ColumnId, base: &str) {
        self.merged_mut(column).base.get_or_insert_with(|| base.into());
    }

    /// Learns what a merged column was born with; of one to which nobody has done anything, or a
    /// second time, it does nothing.
    pub fn found(&mut self, column: ColumnId, base: &str) {
        if let Ok(place) = self.merged_place(column) {
            self.merged[place].base.get_or_insert_with(|| base.into());
        }
    }

    /// The merged columns to which somebody has done something.
    pub fn merged_columns(&self) -> impl Iterator<Item = &Merged> {
        self.merged.iter()
    }

    /// The newest stamp anywhere in the row.
    pub fn newest(&self) -> Option<Stamp> {
        self.stamps().max()
    }

    /// Every stamp in the row, in no particular order.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + '_ {
        let existence = self.existence.map(|existence| existence.stamp);
        let aside = self.aside.map(|aside| aside.stamp);
        let shares = self.merged.iter().flat_map(Merged::stamps);
        let cells = self.cells.iter().map(|(_, stamp)| *stamp);
        cells.chain(self.base).chain(existence).chain(aside).chain(shares)
    }

    /// The stamps of what was written into the row since there is a log, in no particular order.
    pub fn writes(&self) -> impl Iterator<Item = Stamp> + '_ {
        let shares = self.merged.iter().flat_map(Merged::stamps);
        let writes = self.cells.iter().map(|(_, stamp)| *stamp).chain(self.base).chain(shares);
        writes.filter(|stamp| *stamp != stamp.before_the_log())
    }

    /// Whether this write of a column counts, as its value or as a share of it.
    pub fn has(&self, column: ColumnId, write: Stamp) -> bool {
        let mut shares = self.merged(column).into_iter().flat_map(Merged::stamps);
        self.cell(column) == Some(write) || shares.any(|stamp| stamp == write)
    }

    /// Joins one change. `cells` are those it names.
    pub fn join(&mut self, op: RowOp, stamp: Stamp, cells: &[Cell]) -> JoinOutcome {
        let mut outcome = JoinOutcome::default();
        match op {
            RowOp::Insert => {
                self.join_existence(Existence { stamp, live: true }, &mut outcome);
                self.join_births(cells);
                self.join_cells(stamp, cells, &mut outcome);
                self.note_lost_to_tombstone(stamp, &mut outcome);
                self.raise_base(stamp, cells);
            }
            RowOp::Update => {
                self.join_cells(stamp, cells, &mut outcome);
                self.note_lost_to_tombstone(stamp, &mut outcome);
            }
            RowOp::Delete => {
                self.join_existence(Existence { stamp, live: false }, &mut outcome);
                self.join_old_cells(op.cells_at(stamp), cells, &mut outcome);
                #[cfg(feature = "simulation")]
                if crate::planted::active("tombstone-forgets") {
                    self.cells.clear();
                }
            }
            RowOp::Revive => {
                self.join_existence(Existence { stamp, live: true }, &mut outcome);
                self.join_old_cells(op.cells_at(stamp), cells, &mut outcome);
            }
            RowOp::ReviveAside => {
                self.join_existence(Existence { stamp, live: true }, &mut outcome);
                if outcome.existence_won && self.aside.is_none() {
                    self.aside = Some(Aside { stamp, is_aside: true });
                }
                self.join_old_cells(op.cells_at(stamp), cells, &mut outcome);
            }
            RowOp::Quarantine | RowOp::Return => {
                let is_aside = op == RowOp::Quarantine;
                self.join_aside(Aside { stamp, is_aside }, &mut outcome);
                self.join_old_cells(op.cells_at(stamp), cells, &mut outcome);
            }
        }
        outcome
    }

    /// Joins what the row had before there was a log. With what a merged column was born is no write:
    /// its life goes on.
    fn join_old_cells(&mut self, stamp: Stamp, cells: &[Cell], outcome: &mut JoinOutcome) {
        for Cell { column, value } in cells {
            let known = self.cell(*column);
            match value {
                Value::Base(base) if known.is_none() => self.begin(*column, base),
                Value::Base(_) => {}
                _ if known < Some(stamp) => {
                    self.set(*column, stamp);
                    self.rebirth(*column, Some(value));
                    outcome.won.push(*column);
                }
                _ => {}
            }
        }
    }

    /// What a change came to that is joined already: how much of what it said is the newest word.
    pub fn fate(&self, op: RowOp, stamp: Stamp, cells: &[Cell]) -> Fate {
        let mut again = self.clone();
        let mut outcome = again.join(op, stamp, cells);
        let columns = cells.iter().map(|cell| cell.column);
        let cells_at = Some(op.cells_at(stamp));
        outcome.won.extend(columns.filter(|column| self.cell(*column) == cells_at));
        let decided = match op {
            RowOp::Update => None,
            RowOp::Insert | RowOp::Delete | RowOp::Revive | RowOp::ReviveAside => {
                self.existence.map(|known| known.stamp)
            }
            RowOp::Quarantine | RowOp::Return => self.aside.map(|known| known.stamp),
        };
        outcome.existence_won |= decided == Some(stamp);
        if matches!(op, RowOp::Insert | RowOp::Update) {
            self.note_lost_to_tombstone(stamp, &mut outcome);
        }
        outcome.fate()
    }

    fn join_existence(&mut self, new: Existence, outcome: &mut JoinOutcome) {
        match self.existence {
            #[cfg(feature = "simulation")]
            Some(known) if is_tie(known.stamp, new.stamp) => {}
            Some(known) if known.stamp > new.stamp => outcome.existence_lost = Some(known.stamp),
            Some(known) if known.stamp == new.stamp => {}
            _ => {
                self.existence = Some(new);
                self.aside = self.aside.filter(|aside| aside.stamp > new.stamp);
                outcome.existence_won = true;
            }
        }
    }

    fn join_aside(&mut self, new: Aside, outcome: &mut JoinOutcome) {
        match self.decided() {
            Some(known) if known > new.stamp => outcome.existence_lost = Some(known),
            Some(known) if known == new.stamp => {}
            _ => {
                self.aside = Some(new);
                outcome.existence_won = true;
            }
        }
    }

    /// The delete after which the row can be inserted so that columns add up with other inserts after
    /// the same one; `None` when somebody has made it again already.
    pub fn birthplace(&self) -> Option<Stamp> {
        match self.existence {
            None => Some(Stamp::least()),
            Some(Existence { stamp, live: false }) => Some(stamp),
            Some(Existence { live: true, .. }) => None,
        }
    }

    /// Columns to which an insert does something begin anew with nothing, unless they did so later.
    fn join_births(&mut self, cells: &[Cell]) {
        for Cell { column, value } in cells {
            let Value::Share(share) = value else { continue };
            let Some(birth) = share.birth.filter(|birth| self.cell(*column) < Some(*birth)) else {
                continue;
            };
            self.set(*column, birth);
            let merged = self.merged_mut(*column);
            merged.rebirth(Some(birth), Some(NOTHING.into()));
        }
    }

    fn join_cells(&mut self, stamp: Stamp, cells: &[Cell], outcome: &mut JoinOutcome) {
        for Cell { column, value } in cells {
            let known = self.cell(*column);
            if let Value::Share(share) = value {
                match self.join_share(*column, stamp, share) {
                    Ok(()) => outcome.won.push(*column),
                    Err(newer) => outcome.lost.push((*column, newer)),
                }
                continue;
            }
            match known {
                #[cfg(feature = "simulation")]
                Some(known) if is_tie(known, stamp) => {}
                #[cfg(feature = "simulation")]
                Some(known)
                    if known.hlc == stamp.hlc && crate::planted::active("arrival-order") =>
                {
                    self.set(*column, stamp);
                    outcome.won.push(*column);
                }
                Some(known) if known > stamp => outcome.lost.push((*column, known)),
                Some(known) if known == stamp => {}
                _ => {
                    self.set(*column, stamp);
                    self.rebirth(*column, Some(value));
                    outcome.won.push(*column);
                }
            }
        }
    }

    /// Takes what an origin did to a merged column; fails with what is newer: a later life of it, or
    /// what says more.
    fn join_share(&mut self, column: ColumnId, stamp: Stamp, share: &Share) -> Result<(), Stamp> {
        if let Some(birth) = self.cell(column)
            && share.birth < Some(birth)
        {
            return Err(birth);
        }
        let joined = self.merged_mut(column).join(stamp, share);
        self.drop_empty(column);
        joined
    }

    /// Keeps nothing of a merged column to which nothing was done, but with what it was born, where
    /// that is in no log. Others may be about to begin.
    fn drop_empty(&mut self, column: ColumnId) {
        let is_logged = self.cell(column).is_some();
        let is_idle = |merged: &Merged| merged.is_empty() && (is_logged || merged.base.is_none());
        self.merged.retain(|merged| merged.column != column || !is_idle(merged));
    }

    /// Lets a merged column that was written as a whole begin anew, with that value.
    fn rebirth(&mut self, column: ColumnId, value: Option<&Value>) {
        if let Ok(place) = self.merged_place(column) {
            let birth = self.cell(column);
            self.merged[place].rebirth(birth, value.and_then(Value::whole_text).map(Into::into));
            self.drop_empty(column);
        }
    }

    fn set(&mut self, column: ColumnId, stamp: Stamp) {
        match self.place(column) {
            Ok(place) => self.cells[place].1 = stamp,
            Err(place) => self.cells.insert(place, (column, stamp)),
        }
    }

    /// An update of a deleted row shows nowhere, however new it is: the delete wins the row. What is
    /// older than the delete comes to nothing even if the row is inserted again.
    fn note_lost_to_tombstone(&self, stamp: Stamp, outcome: &mut JoinOutcome) {
        if let Some(Existence { stamp: deleted, live: false }) = self.existence
            && deleted != stamp
        {
            outcome.existence_lost = Some(deleted);
            if stamp < deleted {
                outcome.lost.extend(outcome.won.drain(..).map(|column| (column, deleted)));
            }
        }
    }

    /// Lets an insert have written every cell, but for those to which it did something: they keep what
    /// they had, even if that is older than the base by now.
    fn raise_base(&mut self, stamp: Stamp, cells: &[Cell]) {
        let births: Vec<(ColumnId, Option<Stamp>)> =
            self.merged.iter().map(|merged| (merged.column, self.cell(merged.column))).collect();
        let shared = |cell: &&Cell| matches!(cell.value, Value::Share(_));
        let shared: Vec<ColumnId> = cells.iter().filter(shared).map(|cell| cell.column).collect();
        for (column, cell) in &mut self.cells {
            if *cell < stamp && !shared.contains(column) {
                *cell = stamp;
            }
        }
        let before = self.base;
        if before.is_none_or(|base| base < stamp) {
            self.base = Some(stamp);
            for column in shared {
                if let (Err(_), Some(base)) = (self.place(column), before) {
                    self.set(column, base);
                }
            }
        }
        let base = self.base;
        self.cells.retain(|(_, cell)| Some(*cell) != base);
        for (column, birth) in births {
            if self.cell(column) != birth {
                self.rebirth(column, None);
            }
        }
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        let existence = match self.existence {
            None => 0,
            Some(Existence { live: false, .. }) => 1,
            Some(Existence { live: true, .. }) => 2,
        };
        let existence_stamp = self.existence.map(|existence| existence.stamp);
        let base = match self.base {
            None => 0,
            base if base == existence_stamp => 1,
            Some(_) => 2,
        };
        let merged = u8::from(!self.merged.is_empty());
        let aside = self.aside.map_or(0, |aside| 1 + u8::from(aside.is_aside));
        out.u8(existence | base << 2 | merged << 4 | aside << 5);
        if let Some(stamp) = existence_stamp {
            out.stamp(stamp);
        }
        if base == 2
            && let Some(stamp) = self.base
        {
            out.stamp(stamp);
        }
        if let Some(aside) = self.aside {
            out.stamp(aside.stamp);
        }
        out.varint(self.cells.len() as u64);
        for (column, stamp) in &self.cells {
            out.varint(u64::from(column.0));
            out.stamp(*stamp);
        }
        if merged == 1 {
            out.varint(self.merged.len() as u64);
            self.merged.iter().for_each(|merged| merged.encode(out));
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short or of an unknown tag.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = from.u8()?;
        let existence = match tag & 3 {
            0 => None,
            1 => Some(Existence { stamp: from.stamp()?, live: false }),
            2 => Some(Existence { stamp: from.stamp()?, live: true }),
            _ => return Err(DecodeError::UnknownTag { what: "existence", tag }),
        };
        let base = match (tag >> 2 & 3, existence) {
            (0, _) => None,
            (1, Some(existence)) => Some(existence.stamp),
            (2, _) => Some(from.stamp()?),
            _ => return Err(DecodeError::UnknownTag { what: "row base", tag }),
        };
        let aside = match tag >> 5 {
            0 => None,
            aside @ (1 | 2) => Some(Aside { stamp: from.stamp()?, is_aside: aside == 2 }),
            _ => return Err(DecodeError::UnknownTag { what: "row clock", tag }),
        };
        let count = from.count(COLUMNS_MAX)?;
        let mut cells: Vec<(ColumnId, Stamp)> = Vec::with_capacity(count);
        for _ in 0..count {
            let column = ColumnId(from.u16()?);
            if cells.last().is_some_and(|(last, _)| *last >= column) {
                return Err(DecodeError::NotCanonical("cells of a row clock"));
            }
            cells.push((column, from.stamp()?));
        }
        let mut clock = Self { existence, aside, base, cells, merged: Vec::new() };
        if tag >> 4 & 1 == 1 {
            clock.decode_merged(from)?;
        }
        Ok(clock)
    }

    fn decode_merged(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        for _ in 0..from.count(COLUMNS_MAX)? {
            let merged = Merged::decode(from)?;
            if self.merged.last().is_some_and(|last| last.column >= merged.column) {
                return Err(DecodeError::NotCanonical("merged columns of a row clock"));
            }
            self.merged.push(merged);
        }
        if self.merged.is_empty() {
            return Err(DecodeError::NotCanonical("row clock without merged columns"));
        }
        Ok(())
    }
}

/// Whether two stamps are the same but for the life of their site, where that shall not count.
#[cfg(feature = "simulation")]
fn is_tie(known: Stamp, new: Stamp) -> bool {
    let site = |stamp: Stamp| stamp.txn.origin.site;
    known.txn != new.txn
        && known.hlc == new.hlc
        && site(known) == site(new)
        && crate::planted::active("tie-break")
}
