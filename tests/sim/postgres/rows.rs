//! What a statement does to one row: look, wait, check, write.

mod references;

use std::sync::Arc;

use landfall_protocol::schema::ColumnId;
use landfall_protocol::value::{RowKey, Value};

use super::error::PgError;
use super::heap::{Strength, TableNo, TxnNo};
use super::instance::{Instance, Step};
use super::session::OnConflict;

/// A row by table, key and chain.
type Row<'a> = (TableNo, &'a RowKey, u64);

/// Gives up the step when somebody is in the way.
macro_rules! done {
    ($step:expr) => {
        match $step {
            Step::Done(done) => done,
            Step::Wait(by) => return Ok(Step::Wait(by)),
        }
    };
}
use done;

impl Instance {
    /// The rows of a table that `txn` sees.
    pub(super) fn rows_seen(&self, txn: TxnNo, table: TableNo) -> Vec<Arc<[Value]>> {
        let cells = self.table(table).cells.values();
        cells.filter_map(|cell| Some(Arc::clone(&cell.seen_by(txn)?.values))).collect()
    }

    /// Inserts a row without a look at foreign keys; says whether it did.
    pub(super) fn insert_row(
        &mut self,
        txn: TxnNo,
        table: TableNo,
        row: &Arc<[Value]>,
        on_conflict: OnConflict,
    ) -> Result<Step<bool>, PgError> {
        self.check(table, row)?;
        let key = self.table(table).key_of(row);
        if done!(self.find_unique(txn, table, &key)) {
            return match on_conflict {
                OnConflict::Fail => Err(key_is_taken()),
                OnConflict::DoNothing => Ok(Step::Done(false)),
            };
        }
        done!(self.find_clash(txn, table, &key, row)?);
        self.write(txn, table, None, Some(Arc::clone(row)));
        Ok(Step::Done(true))
    }

    /// As [`Instance::insert_row`], once the rows it points to are locked.
    pub(super) fn insert_checked(
        &mut self,
        txn: TxnNo,
        table: TableNo,
        row: &Arc<[Value]>,
        on_conflict: OnConflict,
    ) -> Result<Step<bool>, PgError> {
        done!(self.lock_parents(txn, table, row, None)?);
        self.insert_row(txn, table, row, on_conflict)
    }

    /// Updates a row, if it is still there.
    pub(super) fn update_row(
        &mut self,
        txn: TxnNo,
        (table, key, chain): Row<'_>,
        change: &mut dyn FnMut(&[Value]) -> Option<Vec<Value>>,
        checks_keys: bool,
    ) -> Result<Step<bool>, PgError> {
        // Which lock it takes depends on what it writes, and that on the newest version.
        let cell = self.table(table).cells.get(key);
        let Some(seen) = cell.and_then(|cell| cell.seen_by(txn)) else {
            return Ok(Step::Done(false));
        };
        let Some(new) = change(&seen.values).map(Arc::<[Value]>::from) else {
            return Ok(Step::Done(false));
        };
        let new_key = self.table(table).key_of(&new);
        let spec = &self.table(table).spec;
        let claims = |(column, _): &(ColumnId, _)| {
            let place = usize::from(column.0);
            seen.values[place] != new[place]
        };
        let names_it = new_key != *key || spec.unique.iter().any(claims);
        let strength = if names_it { Strength::Update } else { Strength::NoKeyUpdate };
        let Some(old) = done!(self.lock_row(txn, (table, key), chain, strength)) else {
            return Ok(Step::Done(false));
        };
        self.check(table, &new)?;
        if new_key != *key {
            if checks_keys {
                done!(self.find_children(txn, table, &old.values)?);
            }
            if done!(self.find_unique(txn, table, &new_key)) {
                return Err(key_is_taken());
            }
        }
        done!(self.find_clash(txn, table, key, &new)?);
        if checks_keys {
            done!(self.lock_parents(txn, table, &new, Some(&old.values))?);
        }
        self.write(txn, table, Some(&old), Some(new));
        Ok(Step::Done(true))
    }

    /// Deletes a row, if it is still there.
    pub(super) fn delete_row(
        &mut self,
        txn: TxnNo,
        (table, key, chain): Row<'_>,
        checks_keys: bool,
    ) -> Result<Step<bool>, PgError> {
        let locked = self.lock_row(txn, (table, key), chain, Strength::Update);
        let Some(old) = done!(locked) else { return Ok(Step::Done(false)) };
        let fallout = match checks_keys {
            true => done!(self.find_fallout(txn, table, &old)?),
            false => Vec::new(),
        };
        self.write(txn, table, Some(&old), None);
        for (table, old, new) in fallout {
            self.write(txn, table, Some(&old), new);
        }
        Ok(Step::Done(true))
    }

    /// Whether the constraints allow these values.
    pub(super) fn check(&self, table: TableNo, row: &[Value]) -> Result<(), PgError> {
        let spec = &self.table(table).spec;
        let is_above = |(column, limit): &(ColumnId, i64)| matches!(row[usize::from(column.0)], Value::Int(number) if number > *limit);
        let is_broken = !spec.checks.iter().all(|check| check.allows(row));
        if is_broken || spec.refused_above.iter().any(is_above) {
            let name = &spec.def.name.name;
            return Err(PgError::refused("23514", format!("row of {name} violates a check")));
        }
        let is_null = |id: &&ColumnId| row[usize::from(id.0)] == Value::Null;
        if let Some(column) = spec.def.key.iter().chain(&spec.not_null).find(is_null) {
            let message = format!("null value in column {}", column.0);
            return Err(PgError::refused("23502", message));
        }
        Ok(())
    }

    /// Fails when another row has what only one may have, once nobody is about to write it.
    fn find_clash(
        &self,
        txn: TxnNo,
        table: TableNo,
        key: &RowKey,
        row: &[Value],
    ) -> Result<Step<()>, PgError> {
        let table = self.table(table);
        for (column, _) in &table.spec.unique {
            let wanted = &row[usize::from(column.0)];
            if *wanted == Value::Null {
                continue;
            }
            let has = |values: &[Value]| values[usize::from(column.0)] == *wanted;
            for (other, cell) in table.cells.iter().filter(|(other, _)| *other != key) {
                let is_seen = cell.seen_by(txn).is_some_and(|version| has(&version.values));
                match cell.writer().filter(|by| *by != txn) {
                    Some(by) if is_seen || cell.written().any(|version| has(&version.values)) => {
                        return Ok(Step::Wait(by));
                    }
                    None if is_seen => {
                        let message = format!("key {other:?} has the value already");
                        return Err(PgError::refused("23505", message));
                    }
                    _ => {}
                }
            }
        }
        Ok(Step::Done(()))
    }
}

fn key_is_taken() -> PgError {
    PgError::refused("23505", "duplicate key value violates unique constraint")
}
