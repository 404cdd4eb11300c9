//! The apply connection's way into the model, step by step as the engine's statements go.

mod aside;
mod claims;
mod references;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfall_engine::postgres::access::{LockStrength, TableAccess};
use landfall_engine::postgres::apply::{
    ApplyError, LockPhase, LockRequest, Opening, ParentRequest, RowWrite,
};
use landfall_engine::postgres::catalog::Catalog;
use landfall_engine::postgres::model::Fault;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::MARKER_PREFIX;
use landfall_protocol::id::Origin;
use landfall_protocol::limits::inline_bytes_max;
use landfall_protocol::schema::{ColumnId, TableDef, TableId};
use landfall_protocol::value::{LongValue, RowKey, Value, ValueKind};
use tokio::time::Instant;

pub(super) use self::aside::aside_row;
use super::cluster::Cluster;
use super::error::PgError;
use super::heap::{Strength, TableNo};
use super::instance::{OWN_TABLES, PROGRESS};
use super::session::{OnConflict, Session, Settings, SyncCommit};

/// What the engine opens its apply connection with.
const APPLY: Settings = Settings {
    sync: SyncCommit::Off,
    is_replica: true,
    lock_timeout: Duration::from_millis(300),
    statement_timeout: Duration::ZERO,
};
/// `lock_timeout` where apply must hardly wait.
const HARDLY: Duration = Duration::from_millis(10);

/// Shapes of statements, in the order in which they are sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    Delete,
    Update(Vec<ColumnId>),
    Insert(Vec<ColumnId>),
}

/// A table of the fleet, as its number in the dictionary leads to it.
#[derive(Debug)]
struct Known {
    access: TableAccess,
    number: TableNo,
    /// The place and kind of each column of the dictionary's description.
    columns: BTreeMap<ColumnId, (usize, ValueKind)>,
    /// The places of the key's columns.
    key: Vec<usize>,
    width: usize,
    parents: Vec<TableNo>,
}

/// The apply connection: a session in replica role.
#[derive(Debug)]
pub(super) struct Apply {
    cluster: Cluster,
    /// Also for savepoints and the end of the transaction.
    pub(super) session: Session,
    tables: BTreeMap<TableId, Known>,
    /// Pieces of long values, for the rows that are written next.
    staged: BTreeMap<LongValue, BTreeMap<u32, String>>,
    locked_by: Option<Instant>,
    /// A progress row that is written after the commit, where that is planted.
    owed: Option<[Value; 2]>,
}

impl Apply {
    /// Opens the connection.
    pub(super) async fn connect(cluster: &Cluster) -> Result<Self, PgError> {
        Ok(Self {
            session: cluster.connect(APPLY).await?,
            cluster: cluster.clone(),
            tables: BTreeMap::new(),
            staged: BTreeMap::new(),
            locked_by: None,
            owed: None,
        })
    }

    /// Takes over what a catalog says of these tables; those it does not have are forgotten.
    pub(super) fn learn(&mut self, tables: &[(TableId, &TableDef)], catalog: &Catalog) {
        let server = self.cluster.lock();
        let known = |def: &TableDef| {
            let local = catalog.table(&def.name)?;
            let number = server.number_of(&def.name)?;
            let spec = &server.table(number).spec;
            let place = |id: ColumnId| {
                let place = spec.def.column(&def.column_def(id)?.name)?;
                Some((usize::from(place.0), spec.def.column_def(place)?.kind()))
            };
            let ids = (0..def.columns.len() as u16).map(ColumnId);
            Some(Known {
                access: TableAccess::build(def, local)?,
                number,
                columns: ids.filter_map(|id| Some((id, place(id)?))).collect(),
                key: spec.def.key.iter().map(|id| usize::from(id.0)).collect(),
                width: spec.def.columns.len(),
                parents: spec.parents.iter().map(|key| TableNo(key.parent + OWN_TABLES)).collect(),
            })
        };
        self.tables = tables.iter().filter_map(|(id, def)| Some((*id, known(def)?))).collect();
    }

    fn known(&self, id: TableId) -> Result<&Known, ApplyError> {
        self.tables.get(&id).ok_or(ApplyError::TableGone(id))
    }

    pub(super) async fn start_origin(&mut self, origin: Origin) -> Result<(), PgError> {
        let row = [progress_row(origin, 0)];
        self.session.insert(PROGRESS, &row, OnConflict::DoNothing).await?;
        Ok(())
    }

    /// Moves the progress row and writes the marker; `false` when the row is elsewhere.
    pub(super) async fn begin(&mut self, opening: &Opening) -> Result<bool, PgError> {
        self.open(opening.phase).await?;
        if let LockPhase::Within(limit) = opening.phase {
            self.locked_by = Some(Instant::now() + limit);
        }
        let before = Value::Int(opening.first.0 as i64 - 1);
        let row = progress_row(opening.origin, opening.last.0 as i64);
        let key = [RowKey::new(&row[..1])];
        if self.cluster.lock().options.progress_outside {
            let shown = self.session.select(PROGRESS, &key).await?;
            self.owed = Some([row[0].clone(), row[1].clone()]);
            self.mark(&opening.marker).await?;
            return Ok(shown[0].as_ref().is_some_and(|row| row[1] == before));
        }
        let step = |_: usize, old: &[Value]| (old[1] == before).then(|| row.to_vec());
        let moved = self.session.update(PROGRESS, &key, step).await;
        // Both are sent before the first answer, and what the engine looks at first is that of the
        // marker, which a failure before it fails, too.
        self.mark(&opening.marker).await?;
        Ok(moved? == 1)
    }

    pub(super) async fn begin_repair(
        &mut self,
        marker: &[u8],
        phase: LockPhase,
    ) -> Result<(), PgError> {
        self.open(phase).await?;
        self.mark(marker).await
    }

    /// Commits. That of a failed transaction is taken for a rollback without a word of complaint.
    pub(super) async fn commit(&mut self) -> Result<(), PgError> {
        self.session.commit().await?;
        let Some(row) = self.owed.take() else { return Ok(()) };
        self.session.begin().await?;
        let key = [RowKey::new(&row[..1])];
        self.session.update(PROGRESS, &key, |_, _| Some(row.to_vec())).await?;
        self.session.commit().await.map(drop)
    }

    async fn open(&mut self, phase: LockPhase) -> Result<(), PgError> {
        (self.locked_by, self.owed) = (None, None);
        self.session.begin().await?;
        match phase {
            LockPhase::Within(limit) => self.session.set_local(limit * 5 / 6, limit),
            LockPhase::Patient | LockPhase::RowByRow => {
                self.session.set_local(HARDLY, Duration::ZERO);
            }
        }
        Ok(())
    }

    pub(super) async fn mark(&mut self, marker: &[u8]) -> Result<(), PgError> {
        self.session.emit(MARKER_PREFIX, marker).await?;
        Ok(())
    }

    /// The locks are taken: statements may take their time, but not wait for others.
    pub(super) fn end_lock_phase(&mut self) -> Result<(), ApplyError> {
        self.in_time()?;
        if self.locked_by.take().is_some() {
            self.session.set_local(HARDLY, Duration::ZERO);
        }
        Ok(())
    }

    fn in_time(&self) -> Result<(), ApplyError> {
        let is_late = self.locked_by.is_some_and(|limit| Instant::now() > limit);
        if is_late { Err(ApplyError::Late) } else { Ok(()) }
    }

    /// Locks the rows that exist, in the given order, and the parents they point to.
    pub(super) async fn lock(
        &mut self,
        rows: &[LockRequest<'_>],
        parents: &[ParentRequest],
    ) -> Result<Vec<Option<u32>>, ApplyError> {
        let mut locked = Vec::with_capacity(rows.len());
        for run in rows.chunk_by(|a, b| (a.row.table, a.strength) == (b.row.table, b.strength)) {
            self.in_time()?;
            let number = self.known(run[0].row.table)?.number;
            let keys: Vec<RowKey> = run.iter().map(|request| request.row.key.clone()).collect();
            let strength = match run[0].strength {
                LockStrength::NoKeyUpdate => Strength::NoKeyUpdate,
                LockStrength::Update => Strength::Update,
            };
            let begins = locked.len();
            locked.resize(begins + run.len(), None);
            let found = self.session.lock(number, &keys, strength).await;
            for (place, xmin) in found.map_err(Fault::from)? {
                locked[begins + place] = Some(xmin);
            }
        }
        for run in parents.chunk_by(|a, b| (a.table, a.key) == (b.table, b.key)) {
            self.in_time()?;
            let parent = self.known(run[0].table)?.parents[run[0].key];
            let keys: Vec<RowKey> =
                run.iter().map(|request| RowKey::new(&request.values)).collect();
            let found = self.session.lock(parent, &keys, Strength::KeyShare).await;
            found.map_err(Fault::from)?;
        }
        Ok(locked)
    }

    /// Writes rows, one statement per table and shape; says whether every one met all its rows.
    pub(super) async fn write(
        &mut self,
        writes: &[(&RowId, RowWrite<'_>)],
    ) -> Result<bool, ApplyError> {
        type Statement<'w> = Vec<(&'w RowId, Vec<(usize, Value)>)>;
        let mut shapes: BTreeMap<(TableId, Shape), Statement<'_>> = BTreeMap::new();
        for (row, write) in writes {
            let known = self.known(row.table)?;
            let here = write.cells().iter().filter(|(column, _)| known.access.has(*column));
            let columns: Vec<ColumnId> = here.map(|(column, _)| *column).collect();
            let shape = match write {
                RowWrite::Delete => Shape::Delete,
                RowWrite::Insert(_) | RowWrite::Replace(_) => Shape::Insert(columns),
                RowWrite::Update(_) if columns.is_empty() => continue,
                RowWrite::Update(_) => Shape::Update(columns),
            };
            let cells = self.cells(known, write.cells())?;
            if matches!(write, RowWrite::Replace(_)) {
                shapes.entry((row.table, Shape::Delete)).or_default().push((row, Vec::new()));
            }
            shapes.entry((row.table, shape)).or_default().push((row, cells));
        }
        let mut met = true;
        for ((table, shape), rows) in shapes {
            self.in_time()?;
            met &= self.write_shape(table, &shape, &rows).await? == rows.len() as u64;
        }
        Ok(met)
    }

    async fn write_shape(
        &mut self,
        table: TableId,
        shape: &Shape,
        rows: &[(&RowId, Vec<(usize, Value)>)],
    ) -> Result<u64, ApplyError> {
        let known = self.known(table)?;
        let number = known.number;
        let keys: Vec<RowKey> = rows.iter().map(|(row, _)| row.key.clone()).collect();
        let count = match shape {
            Shape::Delete => self.session.delete(number, &keys).await,
            Shape::Update(_) => {
                let change = |place: usize, old: &[Value]| {
                    let mut new = old.to_vec();
                    rows[place].1.iter().for_each(|(at, value)| new[*at] = value.clone());
                    Some(new)
                };
                self.session.update(number, &keys, change).await
            }
            Shape::Insert(_) => {
                let mut inserted: Vec<Arc<[Value]>> = Vec::with_capacity(rows.len());
                for (row, cells) in rows {
                    let mut values = vec![Value::Null; known.width];
                    let key = row.key.values().map_err(|_| does_not_read())?;
                    known.key.iter().zip(key).for_each(|(place, value)| values[*place] = value);
                    cells.iter().for_each(|(place, value)| values[*place] = value.clone());
                    inserted.push(values.into());
                }
                self.session.insert(number, &inserted, OnConflict::DoNothing).await
            }
        };
        Ok(count.map_err(Fault::from)?)
    }

    /// The places and values of cells, as the columns' types read them.
    fn cells(
        &self,
        known: &Known,
        cells: &[(ColumnId, Cow<'_, Value>)],
    ) -> Result<Vec<(usize, Value)>, ApplyError> {
        let here = cells.iter().filter(|(column, _)| known.access.has(*column));
        here.map(|(column, value)| {
            let (place, kind) = known.columns[column];
            let value = match value.as_ref() {
                Value::Long(long) => {
                    let pieces = self.staged.get(&**long).ok_or_else(does_not_read)?;
                    let text: String = pieces.values().map(String::as_str).collect();
                    Value::from_text(kind, &text)
                }
                value => cast(kind, value)?,
            };
            Ok((place, value))
        })
        .collect()
    }

    /// The cells of locked rows as text.
    pub(super) async fn shown(
        &mut self,
        rows: &[&RowId],
    ) -> Result<BTreeMap<RowId, BTreeMap<ColumnId, Option<String>>>, PgError> {
        let mut shown = BTreeMap::new();
        for run in rows.chunk_by(|a, b| a.table == b.table) {
            let Some(number) = self.tables.get(&run[0].table).map(|known| known.number) else {
                continue;
            };
            let keys: Vec<RowKey> = run.iter().map(|row| row.key.clone()).collect();
            let found = self.session.select(number, &keys).await?;
            let known = &self.tables[&run[0].table];
            for (row, values) in run.iter().zip(found) {
                let Some(values) = values else { continue };
                let cell = |id: ColumnId| (id, as_shown(&values[known.columns[&id].0]));
                shown.insert(RowId::clone(row), known.access.cell_ids().map(cell).collect());
            }
        }
        Ok(shown)
    }

    pub(super) fn stage(&mut self, long: &LongValue, index: u32, piece: &str) {
        self.staged.entry(*long).or_default().insert(index, piece.to_owned());
    }

    pub(super) fn unstage(&mut self, long: &LongValue) {
        self.staged.remove(long);
    }
}

fn progress_row(origin: Origin, seq: i64) -> Arc<[Value]> {
    [Value::Text(origin.to_string().into()), Value::Int(seq)].into()
}

/// A value as a column of this kind takes it.
fn cast(kind: ValueKind, value: &Value) -> Result<Value, ApplyError> {
    if let (ValueKind::Int, Value::Int(_)) | (ValueKind::Text, Value::Text(_)) = (kind, value) {
        return Ok(value.clone());
    }
    let Some(text) = value.text() else { return Ok(Value::Null) };
    match Value::from_text(kind, &text) {
        Value::Text(text) if kind != ValueKind::Text => {
            let message = format!("a text of {} bytes is not of the column's type", text.len());
            Err(refusal("22P02", message))
        }
        value => Ok(value),
    }
}

/// `value::text`.
fn as_shown(value: &Value) -> Option<String> {
    match value {
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Text(text) if text.len() > inline_bytes_max() => Some(note(text)),
        value => value.text().map(|text| text.into_owned()),
    }
}

/// What stands for a long text wherever people read it.
pub(crate) fn note(text: &str) -> String {
    format!("({} bytes, not shown)", text.len())
}

fn does_not_read() -> ApplyError {
    refusal("XX001", "value does not read".to_owned())
}

fn refusal(sqlstate: &str, message: String) -> ApplyError {
    Fault::Refused { sqlstate: sqlstate.to_owned(), message }.into()
}
