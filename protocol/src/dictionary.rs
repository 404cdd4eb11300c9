//! How tables and columns get their numbers, and how foreign numbers become local ones.

use std::collections::{BTreeMap, BTreeSet};

use crate::change::{Cell, Describe, RowChange, RowOp};
use crate::schema::rules::{ColumnRule, Rules};
use crate::schema::{ColumnDef, ColumnId, TableDef, TableId, TableName};
use crate::value::{RowKey, Value};

/// The tables of one site under the numbers its own stream and its row clocks use. Numbers keep
/// their meaning for ever: columns are appended, and a table whose key changes gets a new number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dictionary {
    tables: BTreeMap<TableId, TableDef>,
    by_name: BTreeMap<TableName, TableId>,
    described: BTreeSet<TableId>,
    /// Columns that have a number but are not in the database any more.
    gone: BTreeMap<TableId, BTreeSet<ColumnId>>,
}

/// One table as a dictionary is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub table: TableId,
    /// What it stands for.
    pub def: TableDef,
    /// Whether the own stream has described it as it is now.
    pub described: bool,
    /// Columns that the database does not have any more.
    pub gone: BTreeSet<ColumnId>,
}

/// Why a foreign change cannot be shown here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unshowable {
    /// The origin never described the table; its stream is broken.
    #[error("table number {0:?} was never described by its origin")]
    Undescribed(TableId),
    /// This site has no such replicated table.
    #[error("table {0} does not exist here or is not replicated here")]
    UnknownTable(TableName),
    /// The table's primary key has other columns here.
    #[error("primary key of table {0} has other columns here")]
    OtherKey(TableName),
    /// The origin merges the table by other rules.
    #[error("table {table} is merged by other rules at its origin ({theirs}) than here ({ours})")]
    OtherRules {
        /// The table.
        table: TableName,
        /// The origin's rules.
        theirs: String,
        /// This site's rules.
        ours: String,
    },
    /// The change does not fit its table's description.
    #[error("change does not fit the description of table {0}")]
    Malformed(TableName),
}

/// A foreign change under this site's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalChange {
    /// Which row.
    pub row: RowId,
    /// What happened.
    pub op: RowOp,
    /// New values in column order, of columns this site has.
    pub cells: Vec<Cell>,
    /// An insert that names every column this site has; the others take their defaults.
    pub whole: bool,
    /// Columns this site does not have.
    pub unknown_columns: Vec<String>,
}

/// A row under this site's numbers. The order is the order in which rows are locked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowId {
    /// Which table.
    pub table: TableId,
    /// Which row.
    pub key: RowKey,
}

impl Dictionary {
    /// A dictionary as it was stored.
    pub fn restore(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut dictionary = Self::default();
        for Entry { table, def, described, gone } in entries {
            dictionary.by_name.insert(def.name.clone(), table);
            dictionary.tables.insert(table, def);
            if described {
                dictionary.described.insert(table);
            }
            if !gone.is_empty() {
                dictionary.gone.insert(table, gone);
            }
        }
        dictionary
    }

    /// What there is to store of a table.
    pub fn entry(&self, id: TableId) -> Option<Entry> {
        let gone = self.gone.get(&id).cloned().unwrap_or_default();
        let described = self.described.contains(&id);
        self.table(id).map(|def| Entry { table: id, def: def.clone(), described, gone })
    }

    /// Every table under its number.
    pub fn tables(&self) -> impl Iterator<Item = (TableId, &TableDef)> + Clone {
        self.tables.iter().map(|(id, def)| (*id, def))
    }

    /// Takes a table that the database does not have any more out of sight: foreign changes of it
    /// cannot be shown. It keeps its number.
    pub fn hide(&mut self, id: TableId) {
        if let Some(def) = self.tables.get(&id)
            && self.by_name.get(&def.name) == Some(&id)
        {
            self.by_name.remove(&def.name);
        }
    }

    fn is_gone(&self, table: TableId, column: ColumnId) -> bool {
        self.gone.get(&table).is_some_and(|gone| gone.contains(&column))
    }

    /// The table of this number.
    pub fn table(&self, id: TableId) -> Option<&TableDef> {
        self.tables.get(&id)
    }

    /// The number a table of this name has now.
    pub fn id_of(&self, name: &TableName) -> Option<TableId> {
        self.by_name.get(name).copied()
    }

    /// Learns a table as the database describes it now and returns its number and, for each of
    /// its columns in the given order, the column's number.
    pub fn learn(&mut self, seen: &TableDef) -> (TableId, Vec<ColumnId>) {
        let id = match self.id_of(&seen.name) {
            Some(id) if same_key(&self.tables[&id], seen) => id,
            _ => return self.learn_new(seen),
        };
        let known = self.tables.get_mut(&id).expect("ids in by_name are in tables");
        let mut changed = known.set != seen.set;
        known.set = seen.set;
        let numbers = seen.columns.iter().map(|column| {
            if let Some(number) = known.column(&column.name) {
                let def = &mut known.columns[usize::from(number.0)];
                changed |= def.type_name != column.type_name;
                def.type_name.clone_from(&column.type_name);
                number
            } else {
                changed = true;
                known.columns.push(column.clone());
                ColumnId((known.columns.len() - 1) as u16)
            }
        });
        let numbers: Vec<ColumnId> = numbers.collect();
        let rules = seen.rules.renamed(|place| numbers.get(usize::from(place.0)).copied());
        changed |= known.rules != rules;
        known.rules = rules;
        let all = (0..known.columns.len() as u16).map(ColumnId);
        let gone: BTreeSet<ColumnId> = all.filter(|number| !numbers.contains(number)).collect();
        if gone.is_empty() {
            self.gone.remove(&id);
        } else {
            self.gone.insert(id, gone);
        }
        if changed {
            self.described.remove(&id);
        }
        (id, numbers)
    }

    fn learn_new(&mut self, seen: &TableDef) -> (TableId, Vec<ColumnId>) {
        let id = TableId(self.tables.last_key_value().map_or(1, |(last, _)| last.0 + 1));
        self.tables.insert(id, seen.clone());
        self.by_name.insert(seen.name.clone(), id);
        (id, (0..seen.columns.len() as u16).map(ColumnId).collect())
    }

    /// The description the own stream still owes its readers before it may use this table.
    pub fn describe(&mut self, id: TableId) -> Option<Describe> {
        if !self.described.insert(id) {
            return None;
        }
        self.tables.get(&id).map(|def| Describe { table: id, def: def.clone() })
    }

    /// Puts a foreign change under local numbers, matching tables and columns by name.
    ///
    /// # Errors
    /// Says why the change cannot be shown here.
    pub fn localize(
        &self,
        foreign: &TableDef,
        change: &RowChange,
    ) -> Result<LocalChange, Unshowable> {
        let unknown = || Unshowable::UnknownTable(foreign.name.clone());
        let malformed = || Unshowable::Malformed(foreign.name.clone());
        let table = self.id_of(&foreign.name).ok_or_else(unknown)?;
        let def = self.table(table).ok_or_else(unknown)?;
        same_rules(def, foreign)?;
        let key = localize_key(def, foreign, &change.key)?;
        let mut cells = Vec::with_capacity(change.cells.len());
        let mut unknown_columns = Vec::new();
        for cell in &change.cells {
            let column = foreign.column_def(cell.column).ok_or_else(malformed)?;
            match def.column(&column.name) {
                Some(number) if def.is_key(number) => return Err(malformed()),
                Some(number) if !self.is_gone(table, number) => {
                    let here = def.column_def(number).ok_or_else(malformed)?;
                    cells.push(Cell {
                        column: number,
                        value: local_form(here, column, &cell.value),
                    });
                }
                // The row goes with all that it had.
                _ if change.op == RowOp::Delete => {}
                _ => unknown_columns.push(column.name.clone()),
            }
        }
        cells.sort_by_key(|cell| cell.column);
        let here = def.cell_columns().filter(|column| !self.is_gone(table, *column));
        let whole = change.op == RowOp::Insert && cells.iter().map(|cell| cell.column).eq(here);
        Ok(LocalChange { row: RowId { table, key }, op: change.op, cells, whole, unknown_columns })
    }
}

/// Sites that express the same column differently would overwrite each other's sums, and those to which
/// different texts are equal would put different rows aside; what only one of them has is no matter. Which columns are written together is the writer's affair, as
/// what came together has one stamp, and what a column can hold is everybody's own.
fn same_rules(local: &TableDef, foreign: &TableDef) -> Result<(), Unshowable> {
    let (ours, theirs) = (&local.rules.columns, &foreign.rules.columns);
    let here = |column: &ColumnId| local.column(&foreign.column_def(*column)?.name);
    let mut rules = theirs.iter().map(|(column, rule)| (here(column), *rule));
    let is_ours = |(column, rule): (Option<ColumnId>, ColumnRule)| {
        column.is_some_and(|column| local.rules.column(&column) == rule)
    };
    let is_same_order = local.rules.collations == foreign.rules.collations;
    if is_same_order && ours.len() == theirs.len() && rules.all(is_ours) {
        return Ok(());
    }
    let declared = |def: &TableDef, other: &TableDef| {
        let Rules { mut columns, mut collations, .. } = def.named_rules();
        columns.retain(|name, _| other.column(name).is_some());
        collations.retain(|name, _| other.rules.collations.contains_key(name));
        Rules { columns, collations, ..Rules::default() }
    };
    let (ours, theirs) = (declared(local, foreign), declared(foreign, local));
    if ours == theirs {
        return Ok(());
    }
    let table = foreign.name.clone();
    Err(Unshowable::OtherRules { table, theirs: theirs.to_string(), ours: ours.to_string() })
}

fn key_columns(def: &TableDef) -> impl Iterator<Item = &ColumnDef> {
    def.key.iter().filter_map(|id| def.column_def(*id))
}

fn same_key(known: &TableDef, seen: &TableDef) -> bool {
    key_columns(known).map(|column| &column.name).eq(key_columns(seen).map(|column| &column.name))
}

/// The key as this site's own changes of the row have it: columns in the local order, and each
/// value in the form its local type gives it, since `integer` 5 here may be `text` 5 there.
fn localize_key(local: &TableDef, foreign: &TableDef, key: &RowKey) -> Result<RowKey, Unshowable> {
    let same_kinds =
        || key_columns(local).map(ColumnDef::kind).eq(key_columns(foreign).map(ColumnDef::kind));
    if same_key(local, foreign) && same_kinds() {
        return Ok(key.clone());
    }
    let other = || Unshowable::OtherKey(foreign.name.clone());
    let values = key.values().map_err(|_| Unshowable::Malformed(foreign.name.clone()))?;
    if local.key.len() != foreign.key.len() || values.len() != foreign.key.len() {
        return Err(other());
    }
    let reordered = local.key.iter().map(|id| {
        let column = local.column_def(*id).ok_or_else(other)?;
        let place = foreign
            .key
            .iter()
            .position(|id| foreign.column_def(*id).is_some_and(|c| c.name == column.name))
            .ok_or_else(other)?;
        let theirs = foreign.column_def(foreign.key[place]).ok_or_else(other)?;
        Ok(local_form(column, theirs, &values[place]))
    });
    Ok(RowKey::new(&reordered.collect::<Result<Vec<_>, _>>()?))
}

/// A foreign value in the form that the column's type gives it here: what capture will see of it
/// once it is written must compare equal.
fn local_form(local: &ColumnDef, foreign: &ColumnDef, value: &Value) -> Value {
    if local.kind() == foreign.kind()
        || matches!(value, Value::Long(_) | Value::Share(_) | Value::Base(_))
    {
        return value.clone();
    }
    value.text().map_or(Value::Null, |text| Value::from_text(local.kind(), &text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::SetId;
    use crate::schema::rules::TableRules;

    fn table(columns: &[&str], key: &[u16]) -> TableDef {
        TableDef {
            name: TableName::new("public", "t"),
            set: SetId(1),
            columns: columns
                .iter()
                .map(|name| ColumnDef { name: (*name).into(), type_name: "integer".into() })
                .collect(),
            key: key.iter().copied().map(ColumnId).collect(),
            rules: TableRules::default(),
        }
    }

    #[test]
    fn numbers_keep_their_meaning() {
        let mut dictionary = Dictionary::default();
        let (id, _) = dictionary.learn(&table(&["id", "a"], &[0]));
        assert!(dictionary.describe(id).is_some() && dictionary.describe(id).is_none());
        let (same, numbers) = dictionary.learn(&table(&["b", "id", "a"], &[1]));
        assert_eq!((same, numbers), (id, vec![ColumnId(2), ColumnId(0), ColumnId(1)]));
        assert!(dictionary.describe(id).is_some(), "a grown table is described anew");
        let (other, _) = dictionary.learn(&table(&["id", "a"], &[0, 1]));
        assert_ne!(other, id, "another key is another table");
    }

    #[test]
    fn foreign_changes_are_matched_by_name() {
        let mut dictionary = Dictionary::default();
        dictionary.learn(&table(&["x", "k2", "k1", "y"], &[2, 1]));
        let foreign = table(&["k1", "k2", "y", "z"], &[1, 0]);
        let change = RowChange {
            table: TableId(9),
            key: RowKey::new(&[Value::Int(2), Value::Int(1)]),
            op: RowOp::Insert,
            cells: [(2, 30), (3, 40)]
                .map(|(column, value)| Cell { column: ColumnId(column), value: Value::Int(value) })
                .to_vec(),
        };
        let local = dictionary.localize(&foreign, &change).unwrap();
        assert_eq!(local.row.key, RowKey::new(&[Value::Int(1), Value::Int(2)]));
        assert_eq!(local.cells, vec![Cell { column: ColumnId(3), value: Value::Int(30) }]);
        assert_eq!((local.whole, local.unknown_columns), (false, vec!["z".to_owned()]));
    }
    fn insert(key: Value, cells: &[(u16, i64)]) -> RowChange {
        let cell = |(column, value): &(u16, i64)| Cell {
            column: ColumnId(*column),
            value: Value::Int(*value),
        };
        RowChange {
            table: TableId(9),
            key: RowKey::new(&[key]),
            op: RowOp::Insert,
            cells: cells.iter().map(cell).collect(),
        }
    }

    #[test]
    fn a_dropped_column_takes_no_foreign_values() {
        let mut dictionary = Dictionary::default();
        let (id, _) = dictionary.learn(&table(&["id", "a", "b"], &[0]));
        dictionary.learn(&table(&["id", "b"], &[0]));
        let foreign = table(&["id", "a", "b"], &[0]);
        let change = insert(Value::Int(1), &[(1, 10), (2, 20)]);
        for dictionary in [dictionary.clone(), Dictionary::restore(dictionary.entry(id))] {
            let local = dictionary.localize(&foreign, &change).unwrap();
            assert_eq!(local.cells, vec![Cell { column: ColumnId(2), value: Value::Int(20) }]);
            assert_eq!((local.whole, local.unknown_columns), (true, vec!["a".to_owned()]));
        }
        dictionary.learn(&table(&["id", "a", "b"], &[0]));
        assert_eq!(dictionary.localize(&foreign, &change).unwrap().cells.len(), 2);
    }

    #[test]
    fn a_key_of_another_type_names_the_same_row() {
        let mut foreign = table(&["id", "a"], &[0]);
        foreign.columns[0].type_name = "numeric".into();
        let mut dictionary = Dictionary::default();
        dictionary.learn(&table(&["id", "a"], &[0]));
        let local = dictionary.localize(&foreign, &insert(Value::Text("5".into()), &[(1, 1)]));
        assert_eq!(local.unwrap().row.key, RowKey::new(&[Value::Int(5)]));
    }

    #[test]
    fn a_value_of_another_type_takes_the_form_it_has_here() {
        let mut foreign = table(&["id", "a", "b"], &[0]);
        let mut dictionary = Dictionary::default();
        dictionary.learn(&foreign);
        foreign.columns[1].type_name = "ward.bed_number".into();
        let mut change = insert(Value::Int(1), &[(2, 2)]);
        change.cells.insert(0, Cell { column: ColumnId(1), value: Value::Text("7".into()) });
        let local = dictionary.localize(&foreign, &change).unwrap();
        let values: Vec<Value> = local.cells.into_iter().map(|cell| cell.value).collect();
        assert_eq!(values, [Value::Int(7), Value::Int(2)]);
    }

    #[test]
    fn a_hidden_table_shows_nothing_until_it_is_back() {
        let mut dictionary = Dictionary::default();
        let def = table(&["id", "a"], &[0]);
        let (id, _) = dictionary.learn(&def);
        dictionary.hide(id);
        let change = insert(Value::Int(1), &[(1, 10)]);
        let unknown = Unshowable::UnknownTable(def.name.clone());
        assert_eq!(dictionary.localize(&def, &change), Err(unknown));
        assert!(dictionary.table(id).is_some());
    }
}
