//! What this database knows about the fleet's tables.
//!
//! [`read`] gives each table's description as it travels ([`TableDef`]) together with the local
//! facts that decide how it is captured, merged and applied here. One snapshot, no locks.

use landfall_protocol::fleet::Fleet;
use landfall_protocol::schema::{TableDef, TableName};

use super::sql;

mod claims;
mod read;
mod rules;

pub use claims::{ClaimIndex, ClaimPart, IndexCollation};
pub use read::read;
pub(super) use rules::{bounds_of_check, bounds_of_type};

/// Why the catalog could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A query failed.
    #[error("read {what} from the catalog: {}", sql::describe(source))]
    Query {
        /// What was being read.
        what: &'static str,
        /// PostgreSQL's answer.
        source: tokio_postgres::Error,
    },
    /// The answer is not what the catalog's documentation promises.
    #[error("catalog entry of table {table} is odd: {problem}")]
    Odd {
        /// The table.
        table: TableName,
        /// What is unexpected.
        problem: String,
    },
}

/// The fleet's tables as this database has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Tables that exist, in the order of their names.
    pub tables: Vec<LocalTable>,
    /// Tables of the fleet that are not here.
    pub missing: Vec<TableName>,
}

impl Catalog {
    /// The same with the merge rules that fleet file and constraints make for each table.
    #[must_use]
    pub(crate) fn with_rules(mut self, fleet: &Fleet) -> Self {
        let is_replicated = |child: &TableName| fleet.set_of(child).is_some();
        for table in &mut self.tables {
            let mut rules = rules::of(table, fleet.rules(&table.def.name));
            rules.is_parent = table.referenced_by.iter().any(is_replicated);
            table.def.rules = rules;
        }
        self
    }

    /// The descriptions of the tables that can be replicated: those with a primary key.
    pub fn replicable(&self) -> impl Iterator<Item = &TableDef> {
        self.tables.iter().map(|table| &table.def).filter(|def| !def.key.is_empty())
    }

    /// The table of this name.
    pub fn table(&self, name: &TableName) -> Option<&LocalTable> {
        self.tables.iter().find(|table| table.def.name == *name)
    }

    /// The table with this `pg_class` oid, as pgoutput names it.
    pub fn table_by_oid(&self, oid: u32) -> Option<&LocalTable> {
        self.tables.iter().find(|table| table.oid == oid)
    }
}

/// One table of this database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTable {
    /// As it travels: columns that are not generated, in their order here. The key is empty when
    /// there is no primary key, and such a table cannot be replicated.
    pub def: TableDef,
    /// Its row in `pg_class`.
    pub oid: u32,
    /// What kind of relation it is.
    pub kind: RelationKind,
    /// Whether it is stored by the `heap` access method; only there `xmin` means what we need.
    pub is_heap: bool,
    /// Whether it is unlogged or temporary, and so never in the WAL.
    pub is_unlogged: bool,
    /// Whether it is a partition.
    pub is_partition: bool,
    /// Whether it is a partition, or a child by inheritance.
    pub is_child: bool,
    /// Whether others inherit from it or are its partitions.
    pub has_children: bool,
    /// What holds the rows of a partitioned table, at any depth.
    pub partitions: Vec<Partition>,
    /// What the WAL keeps of an old row.
    pub replica_identity: ReplicaIdentity,
    /// Whether row security is switched on.
    pub has_row_security: bool,
    /// Whether the primary key is deferrable; `ON CONFLICT` cannot use such a key.
    pub key_is_deferrable: bool,
    /// Facts about the primary key's columns, in key order.
    pub key_columns: Vec<KeyColumn>,
    /// Facts about each column of `def`, in the same order.
    pub columns: Vec<LocalColumn>,
    /// Generated columns; they do not travel, each site computes its own.
    pub generated: Vec<GeneratedColumn>,
    /// The generated column in the primary key, which is then taken for none.
    pub generated_key: Option<String>,
    /// Foreign keys of this table.
    pub foreign_keys: Vec<ForeignKey>,
    /// Tables with a foreign key to this one, itself included.
    pub referenced_by: Vec<TableName>,
    /// Unique indexes other than the primary key's.
    pub unique: Vec<UniqueIndex>,
    /// All indexes that let only one row have something, other than the primary key's, with what the
    /// fleet file says of them.
    pub claims: Vec<ClaimIndex>,
    /// CHECK constraints.
    pub checks: Vec<ColumnConstraint>,
    /// EXCLUDE constraints.
    pub exclusions: Vec<ColumnConstraint>,
    /// Triggers, those of constraints included.
    pub triggers: Vec<Trigger>,
}

/// A partition that holds rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: TableName,
    /// Whether it is an ordinary table, not a foreign one.
    pub is_table: bool,
    /// As [`LocalTable::is_heap`].
    pub is_heap: bool,
    /// As [`LocalTable::is_unlogged`].
    pub is_unlogged: bool,
}

/// `pg_class.relkind`, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// An ordinary table.
    Table,
    /// A partitioned table.
    Partitioned,
    /// A view, materialized view, foreign table or something else that cannot be published.
    Other,
}

/// `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row, which is what we need.
    Full,
    /// The columns of an index.
    Index,
}

/// Facts about a column that do not travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalColumn {
    /// `pg_attribute.attnum`.
    pub number: i16,
    /// Its type's row in `pg_type`.
    pub type_oid: u32,
    /// The type without its length, schema and name quoted, as a cast may name it: one with a
    /// length would cut a long value off where an assignment refuses it.
    pub cast: String,
    /// Its type, or one it is made of, whose values cannot travel.
    pub unfit_type: Option<String>,
    /// Whether NULL is refused.
    pub is_not_null: bool,
    /// Its default as an expression, if it has one.
    pub default: Option<String>,
    /// Whether it is an identity column.
    pub identity: Option<Identity>,
    /// The sequence that fills it, by `serial` or as identity.
    pub sequence: Option<ColumnSequence>,
}

/// A column of the primary key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its name.
    pub name: String,
    /// The operator by which the key's index takes two values for equal, as an expression names it
    /// whatever the search path: `OPERATOR(pg_catalog.=)`.
    pub equals: String,
    /// The type, or a type it is made of, in which equal values can be written differently.
    pub ambiguous: Option<String>,
    /// The collation under which different texts can be equal.
    pub nondeterministic: Option<String>,
}

/// A column that the database computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedColumn {
    /// Its name.
    pub name: String,
    /// Whether it is stored; else it is computed when read, as version 18 can.
    pub is_stored: bool,
    /// What it is, as an expression over the other columns.
    pub expression: String,
    /// The columns that the expression names.
    pub needs: Vec<String>,
}

/// How an identity column treats a given value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// `GENERATED ALWAYS`: needs `OVERRIDING SYSTEM VALUE`.
    Always,
    /// `GENERATED BY DEFAULT`.
    ByDefault,
}

/// A sequence that belongs to a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnSequence {
    /// Its name.
    pub name: TableName,
    /// Its step.
    pub increment: i64,
}

/// A foreign key, seen from the child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// The child's columns.
    pub columns: Vec<String>,
    /// The parent.
    pub parent: TableName,
    /// The parent's columns, in the order of `columns`.
    pub parent_columns: Vec<String>,
    /// By which operators they are compared, in the order of `columns`.
    pub equals: Vec<String>,
    /// What happens to the child when the parent goes.
    pub on_delete: OnDelete,
    /// The child's columns that [`OnDelete::SetNull`] and [`OnDelete::SetDefault`] write.
    pub set_columns: Vec<String>,
    /// Whether the parent's columns are its primary key, in whatever order.
    pub names_primary_key: bool,
}

/// The `ON DELETE` action of a foreign key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDelete {
    /// Refuse, at the end of the statement or transaction.
    NoAction,
    /// Refuse at once.
    Restrict,
    /// Delete the child.
    Cascade,
    /// Null the child's columns.
    SetNull,
    /// Give the child's columns their defaults.
    SetDefault,
}

/// A unique index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueIndex {
    /// The index's name.
    pub name: String,
    /// Its plain columns in order; expressions are left out.
    pub columns: Vec<String>,
    /// Whether there are expressions besides.
    pub has_expressions: bool,
    /// Whether it has a `WHERE`.
    pub is_partial: bool,
    /// Whether it belongs to a deferrable constraint.
    pub is_deferrable: bool,
    /// Whether two NULLs are one too many (`NULLS NOT DISTINCT`).
    pub nulls_are_equal: bool,
}

/// A constraint over some columns of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnConstraint {
    /// Its name.
    pub name: String,
    /// The columns it looks at.
    pub columns: Vec<String>,
    /// What a CHECK asks, as PostgreSQL prints it; empty otherwise.
    pub expression: String,
}

/// A trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// Whether it fires while replication writes: `ENABLE ALWAYS` or `ENABLE REPLICA`.
    pub fires_in_replica: bool,
    /// Whether a constraint made it.
    pub is_internal: bool,
    /// Whether it checks a deferrable UNIQUE or EXCLUDE constraint.
    pub is_recheck: bool,
}
