//! Merged columns on their way through the fold: what own changes did to them, and what apply
//! transactions must have made of them.

use super::image::{Image, MergedChange, OwnChange};
use super::shown::Shown;
use crate::change::Cell;
use crate::clock::Stamp;
use crate::decimal::Decimal;
use crate::lattice::RowClock;
use crate::merged::{Kind, Part, Share};
use crate::schema::rules::TableRules;
use crate::schema::{ColumnId, TableDef};
use crate::value::Value;

impl OwnChange {
    /// Puts what an insert adds in the place of its values, where inserts add up; `birth` is the delete
    /// that they come after. Without one the insert sets them.
    pub(super) fn take_births(&mut self, rules: Option<&TableRules>, birth: Option<Stamp>) {
        #[cfg(feature = "simulation")]
        let birth = birth.filter(|_| !crate::planted::active("inserts-set"));
        let (Some(rules), Some(birth)) = (rules, birth) else { return };
        for Cell { column, value } in &mut self.change.cells {
            let added = value.whole_text().and_then(|text| Decimal::parse(&text));
            if let (true, Some(added)) = (rules.is_tally(*column), added) {
                let part = Part::Sum(added);
                *value = Value::Share(Box::new(Share { birth: Some(birth), part }));
            }
        }
    }

    /// Puts what this site did to merged columns in the place of their new values. Where that cannot
    /// be told the value stays, and a new life begins with it.
    pub(super) fn take_shares(&mut self, stamp: Stamp, clock: &mut RowClock, is_doubtful: bool) {
        for MergedChange { column, kind, before, after } in &self.merged {
            // What a row shows that may not show what it must says nothing of what it was born with.
            let told = || clock.base(*column, before).filter(|_| !is_doubtful);
            let known = clock.merged(*column).and_then(|merged| merged.base.as_deref());
            let base = known.map(str::to_owned).or_else(told);
            let since = (clock.life(*column), base.as_deref());
            let part = Part::of_change(*kind, since, stamp, (before, after));
            let cell = self.change.cells.iter_mut().find(|cell| cell.column == *column);
            if let (Some(part), Some(cell)) = (part, cell) {
                let birth = clock.cell(*column);
                cell.value = Value::Share(Box::new(Share { birth, part }));
                base.iter().for_each(|base| clock.begin(*column, base));
            }
        }
    }

    /// A set that was only written in another order does not show what it was born with before it is
    /// put back, and whoever edits it meanwhile must not take that for its birth.
    pub(super) fn keep_order(&self, clock: &mut RowClock) {
        for MergedChange { column, kind, before, .. } in &self.merged {
            let is_idle = *kind == Kind::Set && clock.merged(*column).is_none();
            if is_idle && self.shares(*column) {
                clock.begin(*column, before);
            }
        }
    }

    /// Whether merged columns show what they must, now that this is joined.
    pub(super) fn shows(&self, rules: &TableRules, clock: &RowClock) -> bool {
        self.merged.iter().all(|MergedChange { column, before, after, .. }| {
            let due = match clock.merged(*column) {
                Some(merged) => merged.value(clock.cell(*column)),
                // Written anew, or not changed at all: a set has no order to change.
                None => self.shares(*column).then(|| before.to_string()),
            };
            let due = due.map(|value| rules.shown(column, value));
            due.is_none_or(|due| rules.is_same(column, &due, after))
        })
    }

    /// Of all that the row had only what is in no log goes into this one, and of a merged column only
    /// with what it was born.
    pub(super) fn keep_unlogged(
        &mut self,
        rules: Option<&TableRules>,
        clock: &RowClock,
        is_doubtful: bool,
    ) {
        let merges = |column| rules.is_some_and(|rules| rules.column(&column).kind().is_some());
        self.change.cells.retain_mut(|Cell { column, value }| {
            // The pieces of a long value do not travel once more.
            let travels = !is_doubtful && !matches!(value, Value::Long(_));
            if !travels || clock.cell(*column).is_some() {
                return false;
            }
            if let Some(shown) = value.whole_text().filter(|_| merges(*column)) {
                let known = clock.merged(*column).and_then(|merged| merged.base.clone());
                let told = || clock.base(*column, &shown).map(Into::into);
                let Some(base) = known.or_else(told) else { return false };
                *value = Value::Base(base);
            }
            true
        });
    }

    fn shares(&self, column: ColumnId) -> bool {
        let cell = self.change.cells.iter().find(|cell| cell.column == column);
        cell.is_some_and(|cell| matches!(cell.value, Value::Share(_)))
    }
}

impl Shown {
    /// Learns from what the row showed before with which value its merged columns were born.
    pub(super) fn find_bases(&self, clock: &mut RowClock, image: Option<&Image>) {
        for column in &self.merged {
            if let Some(base) = self.base(clock, *column, image) {
                clock.found(*column, &base);
            }
        }
    }

    fn base(&self, clock: &RowClock, column: ColumnId, image: Option<&Image>) -> Option<String> {
        let birth = clock.cell(column);
        let text = |value: &Value| value.whole_text().map(String::from);
        if self.before.cell(column) == birth {
            let before = image?.before.as_ref()?.get(column)?;
            return self.before.base(column, &text(before)?);
        }
        match self.values.get(&column).filter(|(stamp, _)| Some(*stamp) == birth) {
            Some((_, value)) => text(value),
            // It came with an insert that did not name it, and has its default.
            None if birth.is_some_and(|birth| self.stamps.contains(&birth)) => {
                text(image?.after.as_ref()?.get(column)?)
            }
            None => None,
        }
    }

    /// Whether merged columns show what they must.
    pub(super) fn merges(&self, def: &TableDef, clock: &RowClock, image: Option<&Image>) -> bool {
        let due = |clock: &RowClock, column: &ColumnId| {
            clock.value(*column).map(|value| def.rules.shown(column, value))
        };
        // A row that is gone shows nothing, whatever would be due.
        let is_gone = clock.shows() == Some(false);
        let shows = |column: &ColumnId| match (due(clock, column), image) {
            (None, _) => true,
            (Some(_), None) => due(clock, column) == due(&self.before, column),
            (Some(due), Some(Image { after: Some(after), .. })) => {
                let shown = after.get(*column).and_then(Value::whole_text);
                shown.is_some_and(|shown| def.rules.is_same(column, &shown, &due))
            }
            (Some(_), Some(Image { after: None, .. })) => true,
        };
        is_gone || self.merged.iter().all(shows)
    }
}
