//! Foreign keys between replicated tables: who references whom, and the statements that find out.
//! Replication writes without checking them, so it looks for itself.

use std::collections::BTreeMap;

use landfall_protocol::references::Action;
use landfall_protocol::schema::{ColumnId, TableDef, TableId};

use crate::postgres::access::TableAccess;
use crate::postgres::catalog::{Catalog, ForeignKey, LocalTable, OnDelete};
use crate::postgres::sql::{quote_identifier, quote_table};

/// A foreign key of one replicated table to another, or to itself.
#[derive(Debug, Clone)]
pub struct ForeignKeyAccess {
    /// Who references.
    pub child: TableId,
    /// Who is referenced.
    pub parent: TableId,
    /// The child's columns.
    pub columns: Vec<ColumnId>,
    /// What its `ON DELETE` asks for. Columns that must not be NULL cannot be set to it: then it is as
    /// if it asked for nothing, which makes the delete fail at a site by itself.
    pub action: Action,
    /// The columns that are written when the parent goes, each with its new value as an expression.
    pub set: Vec<(ColumnId, String)>,
    /// Whether they get their defaults rather than NULL.
    pub sets_defaults: bool,
    /// Finds the row that the defaults reference: whether there is any to look for, and its key. Where
    /// columns get their defaults.
    pub default_sql: Option<String>,
    /// Whether the parent is named by its primary key, so that it can be told which row is missing.
    pub names_key: bool,
    pub(super) children_sql: String,
    pub(super) found_sql: String,
    pub(super) sought_sql: String,
}

impl ForeignKeyAccess {
    /// The column by which the history tells what became of a child: undo wants a value that gave way.
    pub fn told_column(&self, child: &TableDef) -> Option<ColumnId> {
        let named = |column: &ColumnId| self.columns.contains(column);
        child.cell_columns().find(named).or(child.cell_columns().next())
    }
}

/// The foreign keys between these tables, which have these numbers and accesses.
pub fn between<'t>(
    tables: impl Iterator<Item = (TableId, &'t TableDef)>,
    accesses: &BTreeMap<TableId, TableAccess>,
    catalog: &Catalog,
) -> Vec<ForeignKeyAccess> {
    let defs: BTreeMap<TableId, &TableDef> =
        tables.filter(|(id, _)| accesses.contains_key(id)).collect();
    let known = |id: TableId, def: &TableDef| {
        let local = catalog.table(&def.name)?;
        Some((id, local, accesses.get(&id)?))
    };
    // A table whose key changed has a second number, under which it is not reached.
    let by_name: BTreeMap<_, _> =
        defs.iter().filter_map(|(id, def)| Some((&def.name, known(*id, def)?))).collect();
    let mut keys = Vec::new();
    for (name, (id, local, access)) in &by_name {
        for key in &local.foreign_keys {
            let Some((parent, parent_local, parent_access)) = by_name.get(&key.parent) else {
                continue;
            };
            debug_assert_eq!(**name, local.def.name);
            let child = Side { id: *id, local, access };
            let parent = Side { id: *parent, local: parent_local, access: parent_access };
            keys.extend(Ends { child, parent, key }.access(defs[id]));
        }
    }
    keys
}

/// One end of a foreign key.
struct Side<'a> {
    id: TableId,
    local: &'a LocalTable,
    access: &'a TableAccess,
}

impl Side<'_> {
    /// The type of a column as a cast names it.
    fn cast(&self, column: &str) -> Option<&str> {
        let id = self.local.def.column(column)?;
        Some(&self.local.columns.get(usize::from(id.0))?.cast)
    }

    fn table(&self) -> String {
        quote_table(&self.local.def.name)
    }
}

/// A foreign key with both its tables.
struct Ends<'a> {
    child: Side<'a>,
    parent: Side<'a>,
    key: &'a ForeignKey,
}

impl Ends<'_> {
    fn access(&self, def: &TableDef) -> Option<ForeignKeyAccess> {
        let Self { child, parent, key } = self;
        let columns = key.columns.iter().map(|name| def.column(name));
        let set = key.set_columns.iter().map(|name| self.set_column(def, name));
        let set = set.collect::<Option<Vec<_>>>();
        let sets_defaults = key.on_delete == OnDelete::SetDefault;
        let action = match key.on_delete {
            OnDelete::Cascade => Action::Cascade,
            OnDelete::SetNull if set.is_some() => Action::Rewrite,
            // What a part of the columns would lead to depends on the others.
            OnDelete::SetDefault if set.is_some() && key.set_columns == key.columns => {
                Action::Rewrite
            }
            _ => Action::Keep,
        };
        let set = set.unwrap_or_default();
        let asks_default = sets_defaults && action == Action::Rewrite;
        Some(ForeignKeyAccess {
            child: child.id,
            parent: parent.id,
            columns: columns.collect::<Option<_>>()?,
            action,
            default_sql: asks_default.then(|| self.default_sql(&set)),
            set,
            sets_defaults,
            names_key: key.names_primary_key,
            children_sql: self.children_sql(action)?,
            found_sql: self.found_sql(),
            sought_sql: self.sought_sql()?,
        })
    }

    /// That `child` references `parent`.
    fn join(&self, parent: &str, child: &str) -> String {
        let pairs = self.key.parent_columns.iter().zip(&self.key.columns).zip(&self.key.equals);
        let equal = pairs.map(|((theirs, ours), equals)| {
            let (theirs, ours) = (quote_identifier(theirs), quote_identifier(ours));
            format!("{parent}.{theirs} {equals} {child}.{ours}")
        });
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// The children of parents by their keys: those that are to be written are locked.
    fn children_sql(&self, action: Action) -> Option<String> {
        let Self { child, parent, key } = self;
        let lock = match action {
            Action::Keep => "",
            Action::Cascade => " FOR UPDATE OF c",
            Action::Rewrite => " FOR NO KEY UPDATE OF c",
        };
        // By the key alone, parents may be gone already.
        let (parents, on) = match key.names_primary_key {
            true => (parent.access.keys_sql(), self.names_key()?),
            false => (parent.access.rows_sql(), self.join("t", "c")),
        };
        let (texts, table) = (child.access.key_texts("c"), child.table());
        Some(format!(
            "SELECT k.n, ARRAY[{texts}]::text[] FROM {parents} JOIN {table} c ON {on} ORDER BY k.n{lock}"
        ))
    }

    /// Which of some children have their parents; those are locked.
    fn found_sql(&self) -> String {
        let (children, parents) = (self.child.access.rows_sql(), self.parent.table());
        let on = self.join("p", "t");
        format!(
            "SELECT k.n FROM {children} JOIN {parents} p ON {on} ORDER BY k.n FOR KEY SHARE OF p"
        )
    }

    /// Which of some children reference anybody, and whom, where the primary key tells.
    fn sought_sql(&self) -> Option<String> {
        let set = self.key.columns.iter();
        let set = set.map(|name| format!("t.{} IS NOT NULL", quote_identifier(name)));
        let named = if self.key.names_primary_key { self.named_key()? } else { String::new() };
        let (children, is_set) = (self.child.access.rows_sql(), set.collect::<Vec<_>>());
        let is_set = is_set.join(" AND ");
        Some(format!(
            "SELECT k.n, ARRAY[{named}]::text[] FROM {children} WHERE {is_set} ORDER BY k.n"
        ))
    }

    /// The columns of the parent's key, each with its type and its place in the foreign key.
    fn key_columns(&self) -> Option<Vec<(&str, usize)>> {
        let columns = self.parent.local.key_columns.iter().map(|column| {
            let place = self.key.parent_columns.iter().position(|name| *name == column.name)?;
            Some((self.parent.cast(&column.name)?, place))
        });
        columns.collect()
    }

    /// That the child `c` names the key `k`.
    fn names_key(&self) -> Option<String> {
        let columns = self.key_columns()?.into_iter().enumerate();
        let equal = columns.map(|(at, (cast, place))| {
            let (equals, ours) = (&self.key.equals[place], &self.key.columns[place]);
            format!("k.k{at}::{cast} {equals} c.{}", quote_identifier(ours))
        });
        Some(equal.collect::<Vec<_>>().join(" AND "))
    }

    /// The parent's key as the child `t` names it, in the key's order and in the key's types.
    fn named_key(&self) -> Option<String> {
        let texts = self.key_columns()?.into_iter().map(|(cast, place)| {
            format!("t.{}::{cast}::text", quote_identifier(&self.key.columns[place]))
        });
        Some(texts.collect::<Vec<_>>().join(", "))
    }

    /// Looks for the row that the defaults of all columns reference, and keeps it there.
    fn default_sql(&self, set: &[(ColumnId, String)]) -> String {
        let Self { child, parent, key } = self;
        let values =
            key.columns.iter().zip(set).map(|(name, (_, value))| {
                format!("({value})::{}", child.cast(name).unwrap_or("text"))
            });
        let values: Vec<String> = values.collect();
        let equal = key.parent_columns.iter().zip(&key.equals).zip(&values);
        let equal = equal.map(|((theirs, equals), value)| {
            format!("p.{} {equals} {value}", quote_identifier(theirs))
        });
        let is_null: Vec<String> = values.iter().map(|value| format!("{value} IS NULL")).collect();
        format!(
            "SELECT d.nobody, f.key FROM (SELECT {} AS nobody) d LEFT JOIN LATERAL \
             (SELECT ARRAY[{}]::text[] AS key FROM {} p WHERE {} FOR KEY SHARE OF p) f ON true",
            is_null.join(" OR "),
            parent.access.key_texts("p"),
            parent.table(),
            equal.collect::<Vec<_>>().join(" AND "),
        )
    }

    /// A column that is written when the parent goes; `None` if it cannot be.
    fn set_column(&self, def: &TableDef, name: &str) -> Option<(ColumnId, String)> {
        let column = def.column(name)?;
        let local = self.child.local;
        let facts = local.columns.get(usize::from(local.def.column(name)?.0))?;
        let sets_default = self.key.on_delete == OnDelete::SetDefault;
        let default = facts.default.as_ref().filter(|_| sets_default);
        let may_be_set = !def.is_key(column) && (default.is_some() || !facts.is_not_null);
        let value = default.map_or("NULL".to_owned(), |default| format!("({default})"));
        may_be_set.then_some((column, value))
    }
}
