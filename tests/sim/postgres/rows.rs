//! What a statement does to one row: look, wait, check, write.

use std::sync::Arc;

use landfall_protocol::schema::ColumnId;
use landfall_protocol::value::{RowKey, Value};

use super::error::PgError;
use super::heap::{Strength, TableNo, TxnNo};
use super::instance::{Instance, OWN_TABLES, Step};
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
        done!(self.lock_parents(txn, table, row)?);
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
        let strength = if new_key == *key { Strength::NoKeyUpdate } else { Strength::Update };
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
        if checks_keys {
            done!(self.lock_parents(txn, table, &new)?);
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
        if checks_keys {
            done!(self.find_children(txn, table, &old.values)?);
        }
        self.write(txn, table, Some(&old), None);
        Ok(Step::Done(true))
    }

    /// Whether the constraints allow these values.
    fn check(&self, table: TableNo, row: &[Value]) -> Result<(), PgError> {
        let spec = &self.table(table).spec;
        let is_above = |(column, limit): &(ColumnId, i64)| matches!(row[usize::from(column.0)], Value::Int(number) if number > *limit);
        let is_broken = !spec.checks.iter().all(|check| check.allows(row));
        if is_broken || spec.refused_above.iter().any(is_above) {
            let name = &spec.def.name.name;
            return Err(PgError::refused("23514", format!("row of {name} violates a check")));
        }
        let is_null = |id: &&ColumnId| row[usize::from(id.0)] == Value::Null;
        if let Some(column) = spec.def.key.iter().find(is_null) {
            let message = format!("null value in key column {}", column.0);
            return Err(PgError::refused("23502", message));
        }
        Ok(())
    }

    /// Locks the rows that one points to.
    fn lock_parents(
        &mut self,
        txn: TxnNo,
        table: TableNo,
        row: &[Value],
    ) -> Result<Step<()>, PgError> {
        for place in 0..self.table(table).spec.parents.len() {
            let (columns, parent) = &self.table(table).spec.parents[place];
            let parent = TableNo(parent + OWN_TABLES);
            let Some(key) = pointer(columns, row) else { continue };
            let chain = self.chain_seen(txn, parent, &key);
            let locked = match chain {
                Some(chain) => {
                    done!(self.lock_row(txn, (parent, &key), chain, Strength::KeyShare))
                }
                None => None,
            };
            if locked.is_none() {
                return Err(PgError::refused("23503", "the row it points to is not there"));
            }
        }
        Ok(Step::Done(()))
    }

    /// Fails when rows point to one.
    fn find_children(
        &self,
        txn: TxnNo,
        table: TableNo,
        row: &[Value],
    ) -> Result<Step<()>, PgError> {
        let key = self.table(table).key_of(row);
        for child in &self.tables {
            for (columns, parent) in &child.spec.parents {
                if parent + OWN_TABLES != table.0 {
                    continue;
                }
                for cell in child.cells.values() {
                    let points = |row: &[Value]| pointer(columns, row).as_ref() == Some(&key);
                    if cell.seen_by(txn).is_none_or(|row| !points(&row.values)) {
                        continue;
                    }
                    if let Some(by) = cell.in_the_way(txn, Strength::KeyShare) {
                        return Ok(Step::Wait(by));
                    }
                    return Err(PgError::refused("23503", "the row is still pointed to"));
                }
            }
        }
        Ok(Step::Done(()))
    }
}

/// The key that these columns hold; none when one of them is NULL.
pub(super) fn pointer(columns: &[ColumnId], row: &[Value]) -> Option<RowKey> {
    let values = || columns.iter().map(|column| &row[usize::from(column.0)]);
    (!values().any(|value| *value == Value::Null)).then(|| RowKey::of(values()))
}

fn key_is_taken() -> PgError {
    PgError::refused("23505", "duplicate key value violates unique constraint")
}
