//! From messages to whole transactions of replicated tables. Pure: bytes in, values out.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::fold::{
    CapturedTransaction, MARKER_PREFIX, Marker, MarkerKey, Relation, RowEvent,
};
use landfall_protocol::schema::{ColumnDef, ColumnId, TableDef, TableName};
use landfall_protocol::unit::UNIT_PLAIN_BYTES_MAX;
use landfall_protocol::value::{Value, ValueKind};

use crate::capture::pgoutput::{self, Column, DecodeError, Message, OldRow, RelationId, Tuple};
use crate::postgres::lsn::Lsn;

/// Why a transaction cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The server sent what we cannot read.
    #[error("stream from the server does not decode: {0}")]
    Decode(#[from] DecodeError),
    /// A message came out of order.
    #[error("stream from the server is out of order: {0}")]
    OutOfOrder(&'static str),
    /// The old row is not there, so nobody can tell what changed.
    #[error(
        "table {0} does not have REPLICA IDENTITY FULL; run: ALTER TABLE {0} REPLICA IDENTITY FULL, then landfall-node init"
    )]
    NotFull(TableName),
    /// A value is not UTF-8.
    #[error("a value of table {0} is not UTF-8; the database must have encoding UTF8")]
    NotUtf8(TableName),
    /// The primary key is gone or not part of the stream.
    #[error("table {0} has no primary key any more; add one, then run landfall-node init")]
    NoKey(TableName),
    /// One of our own messages does not decode.
    #[error("a landfall.apply message in the WAL does not decode: {0}")]
    Marker(landfall_protocol::codec::DecodeError),
    /// A transaction is larger than this version can carry.
    #[error(
        "a transaction that ends at {at} holds more than {limit} bytes of changes, which this version cannot carry"
    )]
    TooLarge {
        /// Where it commits.
        at: Lsn,
        /// The limit.
        limit: usize,
    },
}

/// A committed transaction, or only a position that moved.
#[derive(Debug)]
pub struct Assembled {
    /// What it did, if it touched replicated tables or is ours.
    pub transaction: Option<CapturedTransaction>,
    /// The position after it.
    pub end: Lsn,
    /// Its transaction id.
    pub xid: u32,
    /// Roughly the memory its rows take.
    pub bytes: usize,
}

/// Collects the messages of one connection.
#[derive(Debug)]
pub struct Assembler {
    /// Tells our markers from messages somebody else wrote.
    marker_key: MarkerKey,
    /// Messages that look like markers and are not ours.
    foreign_markers: u64,
    /// Replicated tables as the catalog describes them.
    catalog: BTreeMap<TableName, TableDef>,
    /// Transactions that commit from here on may have changed what the catalog said.
    catalog_as_of: Lsn,
    relations: BTreeMap<RelationId, Option<Arc<Relation>>>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    commit_ms: u64,
    final_lsn: Lsn,
    xid: u32,
    rows: Vec<RowEvent>,
    marker: Option<Marker>,
    bytes: usize,
}

impl Assembler {
    /// Starts with the replicated tables as the catalog described them at a position.
    pub fn new(
        marker_key: MarkerKey,
        tables: impl IntoIterator<Item = TableDef>,
        as_of: Lsn,
    ) -> Self {
        let mut assembler = Self {
            marker_key,
            foreign_markers: 0,
            catalog: BTreeMap::new(),
            catalog_as_of: as_of,
            relations: BTreeMap::new(),
            open: None,
        };
        assembler.set_catalog(tables, as_of);
        assembler
    }

    /// Replaces the catalog by one read at a position; says whether it tells anything new.
    pub fn set_catalog(&mut self, tables: impl IntoIterator<Item = TableDef>, as_of: Lsn) -> bool {
        let catalog = tables.into_iter().map(|def| (def.name.clone(), def)).collect();
        let differs = self.catalog != catalog;
        self.catalog = catalog;
        self.catalog_as_of = as_of;
        differs
    }

    /// Whether no transaction is half received.
    pub fn is_idle(&self) -> bool {
        self.open.is_none()
    }

    /// Whether the catalog must be read again before this message: it describes a table that is
    /// not as the catalog says, or may describe a change the catalog did not know, of which the
    /// message shows nothing: another primary key, or another type.
    pub fn needs_catalog(&self, message: &Message<'_>) -> bool {
        let Message::Relation(relation) = message else { return false };
        if self.open.as_ref().is_some_and(|open| open.final_lsn >= self.catalog_as_of) {
            return true;
        }
        let name = TableName::new(relation.schema, relation.name);
        match self.catalog.get(&name) {
            Some(def) => relation.columns().any(|column| def.column(column.name).is_none()),
            None => true,
        }
    }

    /// Takes the next message; at a commit, gives the transaction.
    ///
    /// # Errors
    /// Fails when capture cannot go on without an operator.
    pub fn push(&mut self, message: &Message<'_>) -> Result<Option<Assembled>, AssembleError> {
        match message {
            Message::Begin(begin) => self.begin(begin)?,
            Message::Commit(commit) => return self.commit(commit).map(Some),
            Message::Relation(relation) => self.describe(relation)?,
            Message::Insert(insert) => self.row(insert.relation, None, Some(insert.new))?,
            Message::Update(update) => {
                let old = self.full(update.relation, update.old)?;
                self.row(update.relation, old, Some(update.new))?;
            }
            Message::Delete(delete) => {
                let old = self.full(delete.relation, Some(delete.old))?;
                self.row(delete.relation, old, None)?;
            }
            Message::Logical(logical)
                if logical.transactional && logical.prefix == MARKER_PREFIX =>
            {
                match self.marker_key.open(logical.content).map_err(AssembleError::Marker)? {
                    Some(marker) => self.open()?.marker = Some(marker),
                    // Its transaction is the application's like any other.
                    None => self.note_foreign_marker(),
                }
            }
            // TRUNCATE is not published: a trigger refuses it.
            Message::Logical(_) | Message::Origin(_) | Message::Type(_) | Message::Truncate(_) => {}
        }
        Ok(None)
    }

    fn note_foreign_marker(&mut self) {
        self.foreign_markers += 1;
        if self.foreign_markers == 1 {
            tracing::warn!("somebody writes logical messages with our prefix; they are ignored");
        }
    }

    fn begin(&mut self, begin: &pgoutput::Begin) -> Result<(), AssembleError> {
        if self.open.is_some() {
            return Err(AssembleError::OutOfOrder("a transaction begins inside another"));
        }
        self.open = Some(Open {
            commit_ms: u64::try_from(begin.commit_time.unix_micros() / 1000).unwrap_or(0),
            final_lsn: begin.final_lsn,
            xid: begin.xid.0,
            rows: Vec::new(),
            marker: None,
            bytes: 0,
        });
        Ok(())
    }

    fn commit(&mut self, commit: &pgoutput::Commit) -> Result<Assembled, AssembleError> {
        let open = self.open.take().ok_or(AssembleError::OutOfOrder("a commit without a begin"))?;
        let content = !open.rows.is_empty() || open.marker.is_some();
        let transaction = content.then_some(CapturedTransaction {
            commit_ms: open.commit_ms,
            rows: open.rows,
            marker: open.marker,
        });
        Ok(Assembled { transaction, end: commit.end_lsn, xid: open.xid, bytes: open.bytes })
    }

    fn open(&mut self) -> Result<&mut Open, AssembleError> {
        self.open.as_mut().ok_or(AssembleError::OutOfOrder("a change outside a transaction"))
    }

    fn describe(&mut self, seen: &pgoutput::Relation<'_>) -> Result<(), AssembleError> {
        let name = TableName::new(seen.schema, seen.name);
        let Some(def) = self.catalog.get(&name) else {
            if self.relations.insert(seen.id, None).is_none() {
                tracing::error!(
                    table = %name,
                    "a published table is not in the fleet file, its changes are not replicated; \
                     if it was renamed, rename it back, else run landfall-node init"
                );
            }
            return Ok(());
        };
        let columns: Vec<ColumnDef> = seen
            .columns()
            .map(|column| {
                let known = def.column(column.name).and_then(|id| def.column_def(id));
                let type_name = known.map_or_else(|| "text".to_owned(), |c| c.type_name.clone());
                ColumnDef { name: column.name.to_owned(), type_name }
            })
            .collect();
        let key: Option<Vec<ColumnId>> = def
            .key
            .iter()
            .map(|id| {
                let name = &def.column_def(*id)?.name;
                let place = columns.iter().position(|column| column.name == *name)?;
                Some(ColumnId(place as u16))
            })
            .collect();
        let key = key.filter(|key| !key.is_empty()).ok_or(AssembleError::NoKey(name.clone()))?;
        let relation = Relation { name, set: def.set, columns, key };
        self.relations.insert(seen.id, Some(Arc::new(relation)));
        Ok(())
    }

    fn full<'a>(
        &self,
        relation: RelationId,
        old: Option<OldRow<'a>>,
    ) -> Result<Option<Tuple<'a>>, AssembleError> {
        match (self.relations.get(&relation), old) {
            (_, Some(OldRow::Full(tuple))) => Ok(Some(tuple)),
            (Some(Some(relation)), _) => Err(AssembleError::NotFull(relation.name.clone())),
            _ => Ok(None),
        }
    }

    fn row(
        &mut self,
        relation: RelationId,
        old: Option<Tuple<'_>>,
        new: Option<Tuple<'_>>,
    ) -> Result<(), AssembleError> {
        let relation = match self.relations.get(&relation) {
            None => return Err(AssembleError::OutOfOrder("a row of a table not described")),
            Some(None) => return Ok(()),
            Some(Some(relation)) => Arc::clone(relation),
        };
        let old = old.map(|tuple| values(&relation, tuple, None)).transpose()?;
        let new = new.map(|tuple| values(&relation, tuple, old.as_deref())).transpose()?;
        let size = |row: &Option<Vec<Value>>| -> usize {
            row.iter().flatten().map(|value| 8 + value.heap_bytes()).sum()
        };
        let bytes = size(&old) + size(&new);
        let open = self.open()?;
        open.bytes += bytes;
        // Old and new images together are at most twice what a unit will carry of them.
        if open.bytes > 2 * UNIT_PLAIN_BYTES_MAX {
            return Err(AssembleError::TooLarge {
                at: open.final_lsn,
                limit: UNIT_PLAIN_BYTES_MAX,
            });
        }
        open.rows.push(RowEvent { relation, old, new });
        Ok(())
    }
}

/// The tuple's values; an unchanged TOAST value is taken from the old row, which has it.
fn values(
    relation: &Relation,
    tuple: Tuple<'_>,
    old: Option<&[Value]>,
) -> Result<Vec<Value>, AssembleError> {
    let text = |kind: ValueKind, bytes: &[u8]| {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| AssembleError::NotUtf8(relation.name.clone()))?;
        Ok(Value::from_text(kind, text))
    };
    tuple
        .columns()
        .enumerate()
        .map(|(place, column)| match column {
            Column::Null => Ok(Value::Null),
            Column::Text(bytes) => {
                text(relation.columns.get(place).map_or(ValueKind::Text, ColumnDef::kind), bytes)
            }
            Column::Unchanged => old
                .and_then(|old| old.get(place))
                .cloned()
                .ok_or_else(|| AssembleError::NotFull(relation.name.clone())),
            Column::Binary(_) => {
                Err(AssembleError::OutOfOrder("a binary value that was not asked for"))
            }
        })
        .collect()
}
