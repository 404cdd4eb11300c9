//! What a cluster is like: its tables, its pauses and its faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_engine::postgres::catalog::OnDelete;
use landfall_protocol::schema::{ColumnId, TableDef};
use landfall_protocol::unique::Loser;
use landfall_protocol::value::Value;

/// A CHECK that all sites have. One that meets a NULL passes.
#[derive(Debug, Clone)]
pub(crate) enum Check {
    /// A number is neither less nor greater than these.
    Within(ColumnId, i64, i64),
    /// The first is not greater than the second.
    Ordered(ColumnId, ColumnId),
}

impl Check {
    /// Whether the row may stand.
    pub(super) fn allows(&self, row: &[Value]) -> bool {
        let number = |column: &ColumnId| match row[usize::from(column.0)] {
            Value::Int(number) => Some(number),
            _ => None,
        };
        match self {
            Self::Within(column, least, most) => {
                number(column).is_none_or(|number| (*least..=*most).contains(&number))
            }
            Self::Ordered(low, high) => {
                number(low).zip(number(high)).is_none_or(|(low, high)| low <= high)
            }
        }
    }
}

/// A table of the application.
#[derive(Debug, Clone)]
pub(crate) struct TableSpec {
    /// Name, columns and key.
    pub(crate) def: Arc<TableDef>,
    /// Whether the publication has it. Old rows are in the log as a whole.
    pub(crate) is_published: bool,
    /// Columns in which a number above this is refused (SQLSTATE 23514), without a word of it in the
    /// catalog.
    pub(crate) refused_above: Vec<(ColumnId, i64)>,
    /// What the catalog tells of.
    pub(crate) checks: Vec<Check>,
    /// Foreign keys.
    pub(crate) parents: Vec<Reference>,
    /// Columns of which only one row may have a value, with what the fleet file says of the others.
    pub(crate) unique: Vec<(ColumnId, Loser)>,
    /// Columns that must not be NULL, beside the key's.
    pub(crate) not_null: BTreeSet<ColumnId>,
    /// What columns get without saying; others get NULL.
    pub(crate) defaults: BTreeMap<ColumnId, Value>,
}

/// A foreign key.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    /// Columns that hold the key of a row of another table.
    pub(crate) columns: Vec<ColumnId>,
    /// That table's place in [`Options::tables`].
    pub(crate) parent: usize,
    /// What becomes of the row when the other is deleted.
    pub(crate) on_delete: OnDelete,
}

impl TableSpec {
    /// A published table without constraints.
    pub(crate) fn new(def: TableDef) -> Self {
        let def = Arc::new(def);
        let (refused_above, checks, parents, unique) = Default::default();
        let (not_null, defaults) = Default::default();
        let is_published = true;
        Self { def, is_published, refused_above, checks, parents, unique, not_null, defaults }
    }
}

impl TableSpec {
    /// Whether NULL is refused in a column.
    pub(super) fn is_not_null(&self, column: ColumnId) -> bool {
        self.def.is_key(column) || self.not_null.contains(&column)
    }
}

/// How long things take. Chances are in percent.
#[derive(Debug, Clone)]
pub(crate) struct Pauses {
    /// How often others may go first at once.
    pub(crate) yields: u64,
    /// How often time passes.
    pub(crate) sleeps: u64,
    /// At most so much.
    pub(crate) sleep_ms_max: u64,
}

/// What a cluster is like.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The application's tables.
    pub(crate) tables: Vec<TableSpec>,
    /// `pg_control`'s identifier.
    pub(crate) system_identifier: u64,
    /// The first transaction id, with its epoch.
    pub(crate) first_xid: u64,
    /// Pauses between steps.
    pub(crate) pauses: Pauses,
    /// Of a million statements so many lose their connection.
    pub(crate) lost_per_million: u64,
    /// Whether `synchronous_standby_names` names the walsender.
    pub(crate) has_sync_standby: bool,
    /// How long the log writer lets an asynchronous commit wait, at most.
    pub(crate) writer_delay: Duration,
    /// Time between checkpoints, at most; only they keep what slots have confirmed.
    pub(crate) checkpoint_every: Duration,
    /// How often a table is described again though nothing changed, in percent of transactions.
    pub(crate) described_again: u64,
    /// How long a walsender waits for a word of its client.
    pub(crate) walsender_timeout: Duration,
    /// Whether an apply writes its progress row in a transaction of its own, which is a mistake.
    pub(crate) progress_outside: bool,
}

impl Options {
    /// A quick and faultless cluster with these tables.
    pub(crate) fn new(tables: Vec<TableSpec>) -> Self {
        Self {
            tables,
            system_identifier: 7_000_000_000_000_000_001,
            first_xid: 700,
            pauses: Pauses { yields: 40, sleeps: 20, sleep_ms_max: 2 },
            lost_per_million: 0,
            has_sync_standby: false,
            writer_delay: Duration::from_millis(200),
            checkpoint_every: Duration::from_secs(10),
            described_again: 0,
            walsender_timeout: Duration::from_secs(60),
            progress_outside: false,
        }
    }
}
