//! What merged columns of a row come to.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::{Conflict, LostValue, Rule, ShownCells, Values};
use crate::lattice::RowClock;
use crate::merged::State;
use crate::schema::{ColumnDef, ColumnId, TableDef};
use crate::value::{Value, ValueKind};

/// Merged columns of a row that a group does something to, or writes.
pub(super) struct Merges<'a> {
    pub(super) def: &'a TableDef,
    pub(super) before: &'a RowClock,
    pub(super) joined: &'a RowClock,
    pub(super) shown: Option<&'a ShownCells>,
    /// Whether every cell is to be written, whatever is shown.
    pub(super) appears: bool,
}

/// What was done to columns of which only the log knows with what they were born.
pub(super) type Rests = BTreeMap<ColumnId, Rest>;

/// What was done to a merged column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// In all since its birth.
    pub state: State,
    /// What the column comes to by what is shown, for the case that it was born with a default,
    /// which no log has.
    pub unlogged: Option<String>,
}

impl Merges<'_> {
    /// Puts what the columns must show among the values; gives what was done to the others.
    pub(super) fn decide(
        &self,
        columns: BTreeSet<ColumnId>,
        values: &mut Values<'_>,
        conflicts: &mut Vec<Conflict>,
    ) -> Rests {
        let mut rests = Rests::new();
        for column in columns {
            // Written as a whole, or nothing of it is left.
            let Some(life) = self.joined.life(column) else {
                self.put_unlogged(column, values);
                continue;
            };
            let shown = self.shown.and_then(|shown| shown.get(&column)?.as_deref());
            let Some(value) = self.value(life, column, values, shown) else {
                let is_old = !self.appears && self.before.cell(column) == self.joined.cell(column);
                let base = shown.filter(|_| is_old).and_then(|s| self.before.base(column, s));
                let unlogged = base.and_then(|base| life.shown(&base));
                rests.insert(column, Rest { state: life.clone(), unlogged });
                continue;
            };
            let due = self.def.rules.shown(&column, value.clone());
            if !self.def.rules.is_same(&column, &due, &value)
                && let Some(stamp) = life.stamps().max()
            {
                let (winner, loser) = (stamp, stamp);
                let lost = LostValue::Value(Value::Text(value.into()));
                let (column, rule) = (Some(column), Rule::CounterClamped);
                conflicts.push(Conflict { column, rule, winner, loser, lost });
            }
            let is_shown = shown.is_some_and(|shown| self.def.rules.is_same(&column, shown, &due));
            if is_shown && !self.appears {
                values.drop(column);
            } else if let Some(birth) = self.joined.cell(column).or(self.joined.newest()) {
                values.put(column, birth, Cow::Owned(typed(self.def, column, &due)));
            }
        }
        rests
    }

    /// A column to which nobody did anything and that appears again, born before there was a log.
    fn put_unlogged(&self, column: ColumnId, values: &mut Values<'_>) {
        let is_unlogged = self.appears && self.joined.cell(column).is_none();
        let value = self.joined.value(column).filter(|_| is_unlogged);
        if let (Some(value), Some(newest)) = (value, self.joined.newest()) {
            let due = self.def.rules.shown(&column, value);
            values.put(column, newest, Cow::Owned(typed(self.def, column, &due)));
        }
    }

    /// The true value of a column; `None` when the log must be asked what it was born with.
    fn value(
        &self,
        life: &State,
        column: ColumnId,
        values: &Values<'_>,
        shown: Option<&str>,
    ) -> Option<String> {
        if let Some(value) = self.joined.value(column) {
            return Some(value);
        }
        let birth = self.joined.cell(column);
        let base = match birth {
            Some(_) if self.before.cell(column) != birth => {
                values.get(column)?.whole_text()?.into_owned()
            }
            Some(_) => return None,
            // Nobody logged what stood there before there was a log.
            None => self.before.base(column, shown?)?,
        };
        life.shown(&base)
    }
}

/// What a column shows that was born with `base` and to which this was done since; the base as it is
/// where it is no value of the kind.
pub fn merged_value(def: &TableDef, column: ColumnId, base: Value, state: &State) -> Value {
    match base.whole_text().and_then(|text| state.shown(&text)) {
        Some(value) => shown_value(def, column, value),
        None => base,
    }
}

/// What a merged column of this true value shows.
pub fn shown_value(def: &TableDef, column: ColumnId, value: String) -> Value {
    typed(def, column, &def.rules.shown(&column, value))
}

fn typed(def: &TableDef, column: ColumnId, text: &str) -> Value {
    let kind = def.column_def(column).map_or(ValueKind::Text, ColumnDef::kind);
    Value::from_text(kind, text)
}
