//! Foreign keys, as PostgreSQL looks after them where an application writes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use landfall_engine::postgres::catalog::OnDelete;
use landfall_protocol::schema::ColumnId;
use landfall_protocol::value::{RowKey, Value};

use super::super::error::PgError;
use super::super::heap::{Strength, TableNo, TxnNo, Version};
use super::super::instance::{Instance, OWN_TABLES, Step};
use super::super::options::Reference;
use super::done;

/// A row that goes or is rewritten with another: what it was, and what it becomes.
pub(super) type Fallen = (TableNo, Version, Option<Arc<[Value]>>);

/// What deleting a row does to those that point to it.
#[derive(Default)]
struct Fallout {
    goes: BTreeMap<(TableNo, RowKey), Version>,
    rewritten: BTreeMap<(TableNo, RowKey), (Version, Vec<Value>)>,
    /// Rows that keep the one they point to.
    keep: Vec<(TableNo, RowKey, Reference, RowKey)>,
}

impl Fallout {
    fn goes(&self, table: TableNo, key: &RowKey) -> bool {
        self.goes.contains_key(&(table, key.clone()))
    }
}

impl Instance {
    /// Locks the rows that one points to by columns that it did not have before.
    pub(super) fn lock_parents(
        &mut self,
        txn: TxnNo,
        table: TableNo,
        row: &[Value],
        before: Option<&[Value]>,
    ) -> Result<Step<()>, PgError> {
        let own = self.table(table).key_of(row);
        for place in 0..self.table(table).spec.parents.len() {
            let Reference { columns, parent, .. } = &self.table(table).spec.parents[place];
            let parent = TableNo(parent + OWN_TABLES);
            let Some(key) = pointer(columns, row) else { continue };
            let is_old =
                before.is_some_and(|before| pointer(columns, before).as_ref() == Some(&key));
            if is_old || parent == table && key == own {
                continue;
            }
            let locked = match self.chain_seen(txn, parent, &key) {
                Some(chain) => done!(self.lock_row(txn, (parent, &key), chain, Strength::KeyShare)),
                None => None,
            };
            if locked.is_none() {
                return Err(PgError::refused("23503", "the row it points to is not there"));
            }
        }
        Ok(Step::Done(()))
    }

    /// Fails when rows point to one.
    pub(super) fn find_children(
        &self,
        txn: TxnNo,
        table: TableNo,
        row: &[Value],
    ) -> Result<Step<()>, PgError> {
        let key = self.table(table).key_of(row);
        for (child, reference) in self.references_to(table) {
            let Some(found) = self.pointing(txn, child, &reference, &key).into_iter().next() else {
                continue;
            };
            return match self.table(child).cells[&found].in_the_way(txn, Strength::KeyShare) {
                Some(by) => Ok(Step::Wait(by)),
                None => Err(still_pointed_to()),
            };
        }
        Ok(Step::Done(()))
    }

    /// What becomes of those that point to a locked row which is about to be deleted. All of them are
    /// locked.
    pub(super) fn find_fallout(
        &mut self,
        txn: TxnNo,
        table: TableNo,
        row: &Version,
    ) -> Result<Step<Vec<Fallen>>, PgError> {
        let first = (table, self.table(table).key_of(&row.values));
        let mut fallout = Fallout::default();
        fallout.goes.insert(first.clone(), row.clone());
        let mut next = VecDeque::from([first.clone()]);
        while let Some((parent, key)) = next.pop_front() {
            for (child, reference) in self.references_to(parent) {
                for found in self.pointing(txn, child, &reference, &key) {
                    let place = (child, &found, &key);
                    if done!(self.fall(txn, place, &reference, &mut fallout)?) {
                        next.push_back((child, found));
                    }
                }
            }
        }
        done!(self.check_fallout(txn, &mut fallout)?);
        fallout.goes.remove(&first);
        let gone = fallout.goes.into_iter().map(|((table, _), old)| (table, old, None));
        let rewritten = fallout.rewritten.into_iter();
        let rewritten = rewritten.map(|((table, _), (old, new))| (table, old, Some(new.into())));
        Ok(Step::Done(gone.chain(rewritten).collect()))
    }

    /// What becomes of a row that points to one that goes; says whether it goes too.
    fn fall(
        &mut self,
        txn: TxnNo,
        (child, key, parent): (TableNo, &RowKey, &RowKey),
        reference: &Reference,
        fallout: &mut Fallout,
    ) -> Result<Step<bool>, PgError> {
        if fallout.goes(child, key) {
            return Ok(Step::Done(false));
        }
        let strength = match reference.on_delete {
            OnDelete::NoAction | OnDelete::Restrict => Strength::KeyShare,
            OnDelete::Cascade => Strength::Update,
            OnDelete::SetNull | OnDelete::SetDefault => Strength::NoKeyUpdate,
        };
        let Some(chain) = self.chain_seen(txn, child, key) else { return Ok(Step::Done(false)) };
        let locked = done!(self.lock_row(txn, (child, key), chain, strength));
        let points = |version: &Version| {
            pointer(&reference.columns, &version.values).as_ref() == Some(parent)
        };
        let Some(version) = locked.filter(points) else { return Ok(Step::Done(false)) };
        match reference.on_delete {
            OnDelete::Restrict => return Err(still_pointed_to()),
            OnDelete::NoAction => {
                fallout.keep.push((child, key.clone(), reference.clone(), parent.clone()));
            }
            OnDelete::Cascade => {
                fallout.goes.insert((child, key.clone()), version);
                return Ok(Step::Done(true));
            }
            OnDelete::SetNull | OnDelete::SetDefault => {
                let sets_default = reference.on_delete == OnDelete::SetDefault;
                let defaults = &self.table(child).spec.defaults;
                let place = (child, key.clone());
                let new = || (version.clone(), version.values.to_vec());
                let (_, row) = fallout.rewritten.entry(place).or_insert_with(new);
                for column in &reference.columns {
                    let default = defaults.get(column).filter(|_| sets_default);
                    row[usize::from(column.0)] = default.cloned().unwrap_or(Value::Null);
                }
            }
        }
        Ok(Step::Done(false))
    }

    /// Looks in the end whether all rows that stay may stay as they are then.
    fn check_fallout(&mut self, txn: TxnNo, fallout: &mut Fallout) -> Result<Step<()>, PgError> {
        let Fallout { goes, rewritten, keep } = fallout;
        rewritten.retain(|row, _| !goes.contains_key(row));
        for (child, key, reference, parent) in keep {
            let row = (*child, key.clone());
            let lets_go = |(_, new): &(Version, Vec<Value>)| {
                pointer(&reference.columns, new).as_ref() != Some(parent)
            };
            if !goes.contains_key(&row) && !rewritten.get(&row).is_some_and(lets_go) {
                return Err(still_pointed_to());
            }
        }
        for ((table, _), (old, new)) in rewritten.iter() {
            self.check(*table, new)?;
            for Reference { columns, parent, .. } in &self.table(*table).spec.parents {
                let parent = pointer(columns, new).map(|key| (TableNo(parent + OWN_TABLES), key));
                if parent.is_some_and(|parent| goes.contains_key(&parent)) {
                    return Err(still_pointed_to());
                }
            }
            done!(self.lock_parents(txn, *table, new, Some(&old.values))?);
        }
        Ok(Step::Done(()))
    }

    /// The foreign keys that lead to a table, with whose they are.
    fn references_to(&self, parent: TableNo) -> Vec<(TableNo, Reference)> {
        let numbered = self.tables.iter().enumerate();
        let all = numbered.flat_map(|(child, table)| {
            table.spec.parents.iter().map(move |reference| (TableNo(child), reference))
        });
        let to = all.filter(|(_, reference)| reference.parent + OWN_TABLES == parent.0);
        to.map(|(child, reference)| (child, reference.clone())).collect()
    }

    /// The rows that `txn` sees point to a key.
    fn pointing(
        &self,
        txn: TxnNo,
        child: TableNo,
        reference: &Reference,
        parent: &RowKey,
    ) -> Vec<RowKey> {
        let cells = self.table(child).cells.iter().filter(|(_, cell)| {
            let row = cell.seen_by(txn);
            row.and_then(|row| pointer(&reference.columns, &row.values)).as_ref() == Some(parent)
        });
        cells.map(|(key, _)| key.clone()).collect()
    }

    /// Looks at what everybody sees for rows whose parents are not there.
    pub(in super::super) fn look_for_orphans(&mut self) {
        let rows = self.tables.iter().flat_map(|table| {
            let references = table.spec.parents.iter();
            references.flat_map(move |reference| {
                table.cells.values().filter_map(move |cell| {
                    let key = pointer(&reference.columns, &cell.committed()?.values)?;
                    Some((table, reference.parent + OWN_TABLES, key))
                })
            })
        });
        let is_there = |parent: usize, key: &RowKey| {
            let cell = self.tables[parent].cells.get(key);
            cell.is_some_and(|cell| cell.committed().is_some())
        };
        let orphan = rows.into_iter().find(|(_, parent, key)| !is_there(*parent, key));
        let broken = orphan.map(|(child, parent, key)| {
            let (child, parent) = (&child.spec.def.name, &self.tables[parent].spec.def.name);
            format!("a row of {child} whose parent {:?} of {parent} is not there", key.values())
        });
        if self.broken.is_none() {
            self.broken = broken;
        }
    }
}

/// The key that these columns hold; none when one of them is NULL.
fn pointer(columns: &[ColumnId], row: &[Value]) -> Option<RowKey> {
    let values = || columns.iter().map(|column| &row[usize::from(column.0)]);
    (!values().any(|value| *value == Value::Null)).then(|| RowKey::of(values()))
}

fn still_pointed_to() -> PgError {
    PgError::refused("23503", "the row is still pointed to")
}
