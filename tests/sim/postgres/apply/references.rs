//! Who references whom.

use std::collections::BTreeSet;

use landfall_engine::postgres::apply::{ApplyError, DefaultParent, Missing};
use landfall_engine::postgres::foreign_keys::ForeignKeyAccess;
use landfall_engine::postgres::model::Fault;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::references::Action;
use landfall_protocol::schema::{ColumnId, TableId};
use landfall_protocol::value::{RowKey, Value};

use super::super::heap::{Strength, TableNo};
use super::{Apply, Known, refusal};

impl Known {
    /// Columns as the model numbers them.
    pub(super) fn places(&self, columns: &[ColumnId]) -> Result<Vec<usize>, ApplyError> {
        let place = |column| self.columns.get(column).map(|(place, _)| *place);
        let places: Option<Vec<usize>> = columns.iter().map(place).collect();
        places.ok_or_else(|| refusal("42703", "no such column".to_owned()))
    }

    /// The row of these values.
    pub(super) fn row_of(&self, table: TableId, values: &[Value]) -> RowId {
        RowId { table, key: RowKey::of(self.key.iter().map(|place| &values[*place])) }
    }
}

/// The key that these columns hold.
fn named(places: &[usize], row: &[Value]) -> Option<RowKey> {
    let values = || places.iter().map(|place| &row[*place]);
    (!values().any(|value| *value == Value::Null)).then(|| RowKey::of(values()))
}

impl Apply {
    /// Who is referenced, and by which columns.
    fn ends(&self, key: &ForeignKeyAccess) -> Result<(TableNo, TableNo, Vec<usize>), ApplyError> {
        let child = self.known(key.child)?;
        Ok((child.number, self.known(key.parent)?.number, child.places(&key.columns)?))
    }

    pub(in super::super) async fn children(
        &mut self,
        key: &ForeignKeyAccess,
        parents: &[&RowId],
    ) -> Result<Vec<(RowId, RowId)>, ApplyError> {
        let (child, _, places) = self.ends(key)?;
        let keys: BTreeSet<RowKey> = parents.iter().map(|parent| parent.key.clone()).collect();
        let points = |row: &[Value]| named(&places, row).is_some_and(|key| keys.contains(&key));
        let strength = match key.action {
            Action::Keep => None,
            Action::Cascade => Some(Strength::Update),
            Action::Rewrite => Some(Strength::NoKeyUpdate),
        };
        let found = self.session.search(child, points, strength).await.map_err(Fault::from)?;
        let known = self.known(key.child)?;
        let pair = |row: &std::sync::Arc<[Value]>| {
            let parent = RowId { table: key.parent, key: named(&places, row)? };
            Some((known.row_of(key.child, row), parent))
        };
        Ok(found.iter().filter_map(pair).collect())
    }

    pub(in super::super) async fn without_parents(
        &mut self,
        key: &ForeignKeyAccess,
        children: &[&RowId],
        locks: bool,
    ) -> Result<Vec<Missing>, ApplyError> {
        let (child, parent, places) = self.ends(key)?;
        let keys: Vec<RowKey> = children.iter().map(|child| child.key.clone()).collect();
        let rows = self.session.select(child, &keys).await.map_err(Fault::from)?;
        let sought = children
            .iter()
            .zip(rows)
            .filter_map(|(child, row)| Some(((*child).clone(), named(&places, &row?)?)));
        let sought: Vec<(RowId, RowKey)> = sought.collect();
        let keys: BTreeSet<RowKey> = sought.iter().map(|(_, parent)| parent.clone()).collect();
        let keys: Vec<RowKey> = keys.into_iter().collect();
        let found: BTreeSet<RowKey> = if locks {
            let locked = self.session.lock(parent, &keys, Strength::KeyShare).await;
            locked.map_err(Fault::from)?.iter().map(|(place, _)| keys[*place].clone()).collect()
        } else {
            let seen = self.session.select(parent, &keys).await.map_err(Fault::from)?;
            let seen = keys.iter().zip(seen).filter(|(_, row)| row.is_some());
            seen.map(|(key, _)| key.clone()).collect()
        };
        self.cluster.tell_parents(parent, found.iter());
        let missing = sought.into_iter().filter(|(_, parent)| !found.contains(parent));
        let missing =
            missing.map(|(child, parent)| (child, Some(RowId { table: key.parent, key: parent })));
        Ok(missing.collect())
    }

    /// What the columns that are written when the parent goes get.
    pub(in super::super) fn replacement(
        &self,
        key: &ForeignKeyAccess,
    ) -> Result<Vec<(ColumnId, Value)>, ApplyError> {
        let known = self.known(key.child)?;
        let server = self.cluster.lock();
        let defaults = &server.table(known.number).spec.defaults;
        let value = |(column, _): &(ColumnId, String)| {
            let place = known.places(&[*column])?[0];
            let default = defaults.get(&ColumnId(place as u16)).filter(|_| key.sets_defaults);
            Ok((*column, default.cloned().unwrap_or(Value::Null)))
        };
        key.set.iter().map(value).collect()
    }

    pub(in super::super) async fn default_parent(
        &mut self,
        key: &ForeignKeyAccess,
    ) -> Result<DefaultParent, ApplyError> {
        let values: Vec<Value> =
            self.replacement(key)?.into_iter().map(|(_, value)| value).collect();
        if key.default_sql.is_none() || values.contains(&Value::Null) {
            return Ok(DefaultParent::Nobody);
        }
        let (_, parent, _) = self.ends(key)?;
        let row = RowKey::new(&values);
        let found = self.session.lock(parent, std::slice::from_ref(&row), Strength::KeyShare).await;
        Ok(match found.map_err(Fault::from)?.is_empty() {
            true => DefaultParent::Missing,
            false => DefaultParent::Row(RowId { table: key.parent, key: row }),
        })
    }

    pub(in super::super) async fn touch(&mut self, rows: &[&RowId]) -> Result<bool, ApplyError> {
        let mut met = true;
        for run in rows.chunk_by(|one, next| one.table == next.table) {
            let number = self.known(run[0].table)?.number;
            let keys: Vec<RowKey> = run.iter().map(|row| row.key.clone()).collect();
            let same = |_: usize, row: &[Value]| Some(row.to_vec());
            let count = self.session.update(number, &keys, same).await.map_err(Fault::from)?;
            met &= count == run.len() as u64;
        }
        Ok(met)
    }
}
