//! One apply transaction on its own connection, step by step. What each step means is decided by
//! [`crate::replica`]; here is the SQL, its order and its errors.

mod aside;
mod claims;
mod error;
mod references;
mod request;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::ChangeId;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::schema::{ColumnId, TableDef, TableId};
use landfall_protocol::value::{LongValue, Value};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use crate::postgres::access::{TableAccess, ValueSource, Written};
use crate::postgres::catalog::Catalog;
use crate::postgres::claims::{self as claim_access, ClaimAccess};
use crate::postgres::foreign_keys::{self, ForeignKeyAccess};
use crate::postgres::history::{self, ConflictLine};
use crate::postgres::sql::TEXT_SETTINGS;
use crate::postgres::text_array::TextArray;
use crate::time;

pub use aside::{AsideLine, FoundBy};
pub use claims::Target;
pub use error::ApplyError;
pub use references::{DefaultParent, Missing};
pub use request::{
    LockPhase, LockRequest, Opening, ParentRequest, ParkedLine, ParkedNote, RowWrite,
};

/// Session settings of the apply connection, besides [`TEXT_SETTINGS`].
///
/// Replica role switches the application's triggers and foreign keys off; the short lock time-out
/// makes apply give way long before PostgreSQL's own deadlock check (1 s) would pick the
/// application as its victim; statements touch few rows by key, so the planner must not scan. Plans
/// are made once and outlive the statistics: with plain index scans switched off too, an index can
/// only be used to look keys up, never to read a table that was empty when the plan was made.
/// The commit need not be on disk before it is visible: until the fold has met it in the log, which
/// holds nothing that is not, the inbox keeps what it showed, and the progress row goes with it.
const APPLY_SETTINGS: &[(&str, &str)] = &[
    ("session_replication_role", "replica"),
    ("lock_timeout", "300ms"),
    ("synchronous_commit", "off"),
    ("idle_in_transaction_session_timeout", "60s"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_indexscan", "off"),
    ("enable_indexonlyscan", "off"),
    ("enable_memoize", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("client_encoding", "UTF8"),
];

/// What the session of an [`ApplyConnection`] must be opened with.
#[must_use]
pub fn session_settings() -> Vec<(&'static str, &'static str)> {
    APPLY_SETTINGS.iter().chain(&TEXT_SETTINGS).copied().collect()
}

/// Prepared statements kept per connection; a table has a handful per set of columns it is
/// written by.
const STATEMENTS_MAX: usize = 2_000;
/// Lines of the history that one statement writes.
const CONFLICTS_PER_STATEMENT: usize = 200;

/// Rows of one shape for one statement: key arrays, then one array per column.
#[derive(Debug, Default)]
struct Arrays(Vec<TextArray>);

impl Arrays {
    fn push<'v>(&mut self, values: impl Iterator<Item = &'v Value>) {
        for (place, value) in values.enumerate() {
            if self.0.len() <= place {
                self.0.push(TextArray::default());
            }
            self.0[place].push(match value {
                Value::Long(long) => Some(Cow::Owned(hash_text(long))),
                value => value.text(),
            });
        }
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.0.iter().map(|array| array as &(dyn ToSql + Sync)).collect()
    }
}

/// The apply connection: one PostgreSQL session in replica role.
#[derive(Debug)]
pub struct ApplyConnection {
    client: Client,
    tables: BTreeMap<TableId, TableAccess>,
    foreign_keys: Arc<[ForeignKeyAccess]>,
    claims: BTreeMap<TableId, Arc<[ClaimAccess]>>,
    statements: BTreeMap<String, Statement>,
    /// When the transaction must have all its locks.
    locked_by: Option<Instant>,
}

impl ApplyConnection {
    /// Takes a session opened with [`session_settings`].
    pub fn new(client: Client) -> Self {
        let (tables, claims, statements) = Default::default();
        Self { client, tables, foreign_keys: Arc::default(), claims, statements, locked_by: None }
    }

    /// Takes over what a catalog says of these tables; those it does not have are forgotten.
    pub fn learn<'t>(
        &mut self,
        tables: impl Iterator<Item = (TableId, &'t TableDef)> + Clone,
        catalog: &Catalog,
    ) {
        let access = |def: &TableDef| TableAccess::build(def, catalog.table(&def.name)?);
        let built = tables.clone().filter_map(|(id, def)| Some((id, access(def)?)));
        self.tables = built.collect();
        let claims = tables.clone().filter_map(|(id, def)| {
            let access = self.tables.get(&id)?;
            Some((id, claim_access::of_table(def, catalog.table(&def.name)?, access).into()))
        });
        self.claims = claims.collect();
        self.foreign_keys = foreign_keys::between(tables, &self.tables, catalog).into();
        self.statements.clear();
    }

    /// How the table is reached.
    ///
    /// # Errors
    /// Fails when the database does not have it.
    pub fn table(&self, id: TableId) -> Result<&TableAccess, ApplyError> {
        self.tables.get(&id).ok_or(ApplyError::TableGone(id))
    }

    /// How far every origin is applied, by the database's own word.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn progress(&self) -> Result<Vec<(String, i64)>, ApplyError> {
        let rows = self.client.query("SELECT origin, seq FROM landfall.progress", &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Makes the progress row of an origin that was never applied here.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn start_origin(&self, origin: Origin) -> Result<(), ApplyError> {
        let sql =
            "INSERT INTO landfall.progress (origin, seq) VALUES ($1, 0) ON CONFLICT DO NOTHING";
        self.client.execute(sql, &[&origin.to_string()]).await?;
        Ok(())
    }

    /// Starts the transaction: moves the progress row from just before `first` to `last` and
    /// writes the marker, both before anything else.
    ///
    /// # Errors
    /// [`ApplyError::Progress`] when the row is elsewhere.
    pub async fn begin(&mut self, opening: &Opening) -> Result<(), ApplyError> {
        let statements = self.prepare_opening().await?;
        self.limit_locking(opening.phase);
        self.open(opening, &statements).await
    }

    async fn prepare_opening(&mut self) -> Result<[Statement; 2], ApplyError> {
        let moved = "UPDATE landfall.progress SET seq = $3, updated_at = now() WHERE origin = $1 AND seq = $2";
        Ok([self.prepare(moved).await?, self.prepare(EMIT_MARKER).await?])
    }

    fn limit_locking(&mut self, phase: LockPhase) {
        self.locked_by = match phase {
            LockPhase::Within(limit) => Some(time::monotonic() + limit),
            LockPhase::Patient | LockPhase::RowByRow => None,
        };
    }

    /// Sends all of it before the first answer.
    async fn open(
        &self,
        opening: &Opening,
        [moved, emit]: &[Statement; 2],
    ) -> Result<(), ApplyError> {
        let sql = opening.phase.begin_sql();
        let name = opening.origin.to_string();
        let (before, after) = (opening.first.0 as i64 - 1, opening.last.0 as i64);
        let params: [&(dyn ToSql + Sync); 3] = [&name, &before, &after];
        let message: [&(dyn ToSql + Sync); 1] = [&opening.marker];
        let (begun, moved, emitted) = tokio::join!(
            biased;
            self.client.batch_execute(&sql),
            self.client.execute(moved, &params),
            self.client.query_one(emit, &message),
        );
        begun.and(emitted.map(drop)).map_err(ApplyError::classify)?;
        match moved.map_err(ApplyError::classify)? {
            1 => Ok(()),
            _ => {
                let (origin, expected) = (opening.origin, Seq(opening.first.0 - 1));
                Err(ApplyError::Progress { origin, expected })
            }
        }
    }

    /// Starts a transaction that only rewrites rows to what their clocks say.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn begin_repair(
        &mut self,
        marker: &[u8],
        phase: LockPhase,
    ) -> Result<(), ApplyError> {
        let emit = self.prepare(EMIT_MARKER).await?;
        self.locked_by = None;
        self.client.batch_execute(&phase.begin_sql()).await.map_err(ApplyError::classify)?;
        self.client.query_one(&emit, &[&marker]).await.map_err(ApplyError::classify)?;
        Ok(())
    }

    /// Writes a marker: what follows belongs to it. A second one about the same transactions
    /// replaces the one before, with what was parked on the way.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn mark(&mut self, marker: &[u8]) -> Result<(), ApplyError> {
        let emit = self.prepare(EMIT_MARKER).await?;
        self.client.query_one(&emit, &[&marker]).await.map_err(ApplyError::classify)?;
        Ok(())
    }

    /// The locks are taken: from here on statements may take their time, but not wait for others.
    ///
    /// # Errors
    /// [`ApplyError::Late`] when it took too long.
    pub fn end_lock_phase(&mut self) -> Result<(), ApplyError> {
        self.in_time()?;
        if self.locked_by.take().is_some() {
            // Only a unique value that somebody else writes can still make us wait, at a time when
            // others may have waited for us for long.
            let sql = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 10";
            // It is sent when it is first polled, and stands before all that follows. Nobody waits
            // for the answer: should it fail, so does every later statement of the transaction.
            drop(self.client.batch_execute(sql).now_or_never());
        }
        Ok(())
    }

    fn in_time(&self) -> Result<(), ApplyError> {
        match self.locked_by {
            Some(limit) if time::monotonic() > limit => Err(ApplyError::Late),
            _ => Ok(()),
        }
    }

    /// Locks one row and its parents by themselves; when PostgreSQL cannot even read the key or a
    /// reference here, everything before stays.
    ///
    /// # Errors
    /// Everything but [`ApplyError::Data`], which is the inner result.
    pub async fn lock_alone(
        &mut self,
        row: LockRequest<'_>,
        parents: &[ParentRequest],
    ) -> Result<Result<Option<u32>, String>, ApplyError> {
        self.set_savepoint().await?;
        match self.lock(None, &[row], parents).await {
            Ok(found) => {
                self.keep().await?;
                Ok(Ok(found.into_iter().next().flatten()))
            }
            Err(ApplyError::Data { message, .. }) => {
                self.undo().await?;
                Ok(Err(message))
            }
            Err(error) => Err(error),
        }
    }

    /// Locks the rows that exist, in the given order, and the parents they point to. Returns for
    /// each row the transaction that last wrote it (`xmin`), `None` where there is no such row.
    ///
    /// With an `opening` it begins the transaction too, and does not wait for that in between.
    ///
    /// # Errors
    /// As [`ApplyConnection::begin`], and
    /// [`ApplyError::Busy`] when somebody holds one of them for too long, [`ApplyError::Late`] when
    /// all together take too long.
    pub async fn lock(
        &mut self,
        opening: Option<&Opening>,
        rows: &[LockRequest<'_>],
        parents: &[ParentRequest],
    ) -> Result<Vec<Option<u32>>, ApplyError> {
        let mut batches = Vec::new();
        let mut begins = 0;
        for run in runs(rows, |request| (request.row.table, request.strength)) {
            let (table, strength) = (run[0].row.table, run[0].strength);
            let sql = self.table(table)?.lock_sql(strength);
            let mut arrays = Arrays::default();
            for request in run {
                arrays.push(key_values(request.row)?.iter());
            }
            batches.push((self.prepare(&sql).await?, arrays, begins));
            begins += run.len();
        }
        let begin = match opening {
            Some(opening) => {
                let statements = self.prepare_opening().await?;
                self.limit_locking(opening.phase);
                Some((opening, statements))
            }
            None => None,
        };
        let begun = async {
            match &begin {
                Some((opening, statements)) => self.open(opening, statements).await,
                None => Ok(()),
            }
        };
        let locked = self.lock_batches(&batches, rows.len());
        let (begun, locked) = tokio::join!(biased; begun, locked);
        // Whatever failed at the beginning made the rest fail.
        begun?;
        let locked = locked?;
        self.lock_parents(parents).await?;
        Ok(locked)
    }

    async fn lock_batches(
        &self,
        batches: &[(Statement, Arrays, usize)],
        rows: usize,
    ) -> Result<Vec<Option<u32>>, ApplyError> {
        // One after the other: each may wait, and all of them together only for so long.
        let mut locked = vec![None; rows];
        for (statement, arrays, begins) in batches {
            self.in_time()?;
            let found = self.client.query(statement, &arrays.params()).await;
            for row in found.map_err(ApplyError::classify)? {
                let (place, xmin) = (row.get::<_, i64>(0), row.get::<_, i64>(1));
                locked[begins + place as usize - 1] = Some(xmin as u32);
            }
        }
        Ok(locked)
    }

    async fn lock_parents(&mut self, parents: &[ParentRequest]) -> Result<(), ApplyError> {
        for run in runs(parents, |request| (request.table, request.key)) {
            let sql = self.table(run[0].table)?.parents()[run[0].key].sql.clone();
            let mut arrays = Arrays::default();
            for request in run {
                arrays.push(request.values.iter());
            }
            let statement = self.prepare(&sql).await?;
            self.in_time()?;
            self.client.query(&statement, &arrays.params()).await.map_err(ApplyError::classify)?;
        }
        Ok(())
    }

    /// Writes rows, set-based: one statement per table and shape. Returns whether every statement
    /// met all its rows; an insert misses one when the key appeared meanwhile.
    ///
    /// # Errors
    /// [`ApplyError::Data`] when PostgreSQL refuses a value.
    pub async fn write(&mut self, writes: &[(&RowId, RowWrite<'_>)]) -> Result<bool, ApplyError> {
        let mut shapes: BTreeMap<(TableId, Shape), (Arrays, usize)> = BTreeMap::new();
        for (row, write) in writes {
            // A statement names only the columns that are there, and so must its values.
            let table = self.table(row.table)?;
            let here = || write.cells().iter().filter(|(column, _)| table.has(*column));
            let written: Vec<Written> = here().map(written).collect();
            let shape = match write {
                RowWrite::Delete => Shape::Delete,
                RowWrite::Update(_) if written.is_empty() => continue,
                RowWrite::Update(_) => Shape::Update(written),
                RowWrite::Insert(_) | RowWrite::Replace(_) => Shape::Insert(written),
            };
            let key = key_values(row)?;
            if matches!(write, RowWrite::Replace(_)) {
                let (arrays, count) = shapes.entry((row.table, Shape::Delete)).or_default();
                arrays.push(key.iter());
                *count += 1;
            }
            let (arrays, count) = shapes.entry((row.table, shape)).or_default();
            arrays.push(key.iter().chain(here().map(|(_, value)| value.as_ref())));
            *count += 1;
        }
        let mut statements = Vec::with_capacity(shapes.len());
        for ((table, shape), (arrays, count)) in shapes {
            let table = self.table(table)?;
            let sql = match &shape {
                Shape::Delete => table.delete_sql(),
                Shape::Update(columns) => table.update_sql(columns),
                Shape::Insert(columns) => table.insert_sql(columns),
            };
            statements.push((self.prepare(&sql).await?, arrays, count));
        }
        if self.locked_by.is_some() {
            let mut met = true;
            for (statement, arrays, count) in &statements {
                self.in_time()?;
                let written = self.client.execute(statement, &arrays.params()).await;
                met &= written.map_err(ApplyError::classify)? == *count as u64;
            }
            return Ok(met);
        }
        let client = &self.client;
        let met = try_join_all(statements.iter().map(|(statement, arrays, count)| async move {
            let written = client.execute(statement, &arrays.params()).await?;
            Ok(written == *count as u64)
        }))
        .await
        .map_err(ApplyError::classify)?;
        Ok(met.into_iter().all(|met| met))
    }

    /// The cells of locked rows as text.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn shown(
        &mut self,
        rows: &[&RowId],
    ) -> Result<BTreeMap<RowId, BTreeMap<ColumnId, Option<String>>>, ApplyError> {
        let mut shown = BTreeMap::new();
        for run in runs(rows, |row| row.table) {
            let table = self.table(run[0].table)?;
            let columns: Vec<ColumnId> = table.cell_ids().collect();
            let sql = table.show_sql();
            let mut arrays = Arrays::default();
            for row in run {
                arrays.push(key_values(row)?.iter());
            }
            let statement = self.prepare(&sql).await?;
            let found = self
                .client
                .query(&statement, &arrays.params())
                .await
                .map_err(ApplyError::classify)?;
            for row in &found {
                let cells: Vec<Option<String>> = row.get(1);
                let place = row.get::<_, i64>(0) as usize - 1;
                shown.insert(run[place].clone(), columns.iter().copied().zip(cells).collect());
            }
        }
        Ok(shown)
    }

    /// Writes lines into `landfall.conflict`.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn write_conflicts(&mut self, lines: &[ConflictLine]) -> Result<(), ApplyError> {
        if lines.is_empty() {
            return Ok(());
        }
        let statement = self.prepare(history::INSERT).await.map_err(ApplyError::of_history)?;
        for lines in lines.chunks(CONFLICTS_PER_STATEMENT) {
            let rows = history::rows_json(lines);
            self.client.execute(&statement, &[&rows]).await.map_err(ApplyError::classify)?;
        }
        Ok(())
    }

    /// Writes lines into `landfall.parked`.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn write_parked(&mut self, lines: &[ParkedLine]) -> Result<(), ApplyError> {
        let sql = "INSERT INTO landfall.parked (origin, seq, place, table_name, row_key, op, change, reason, advice) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let statement = self.prepare(sql).await?;
        for line in lines {
            let (origin, seq) = (line.origin.to_string(), line.seq.0 as i64);
            let place = i64::from(line.index);
            let params: [&(dyn ToSql + Sync); 9] = [
                &origin,
                &seq,
                &place,
                &line.table,
                &line.row_key,
                &line.op,
                &line.change,
                &line.reason,
                &line.advice,
            ];
            self.client.execute(&statement, &params).await.map_err(ApplyError::classify)?;
        }
        Ok(())
    }

    /// Takes the lines of changes that are shown now out of `landfall.parked`.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn free_parked(&mut self, ids: &[ChangeId]) -> Result<(), ApplyError> {
        let columns = places(ids.iter());
        let params: Vec<_> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        if !ids.is_empty() {
            let statement = self.prepare(FREE_PARKED).await?;
            self.client.execute(&statement, &params).await.map_err(ApplyError::classify)?;
        }
        Ok(())
    }

    /// Says in `landfall.parked` why changes still cannot be shown, where it says something else.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn explain_parked(&mut self, notes: &[ParkedNote]) -> Result<(), ApplyError> {
        if notes.is_empty() {
            return Ok(());
        }
        let reasons: Vec<String> = notes.iter().map(|note| note.reason.clone()).collect();
        let advice: Vec<String> = notes.iter().map(|note| note.advice.clone()).collect();
        let mut columns = places(notes.iter().map(|note| &note.id)).to_vec();
        columns.extend([reasons, advice]);
        let params: Vec<_> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        let statement = self.prepare(EXPLAIN_PARKED).await?;
        self.client.execute(&statement, &params).await.map_err(ApplyError::classify)?;
        Ok(())
    }

    /// Puts a piece of a long value where the rows that are written next find it.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn stage(
        &mut self,
        long: &LongValue,
        index: u32,
        piece: &str,
    ) -> Result<(), ApplyError> {
        let sql = "INSERT INTO landfall.piece (hash, place, piece) VALUES ($1, $2, $3) \
                   ON CONFLICT DO NOTHING";
        let statement = self.prepare(sql).await?;
        let (hash, place) = (hash_text(long), i32::try_from(index).unwrap_or(i32::MAX));
        let params: [&(dyn ToSql + Sync); 3] = [&hash, &place, &piece];
        self.client.execute(&statement, &params).await.map_err(ApplyError::classify)?;
        Ok(())
    }

    /// Removes the pieces of a long value again.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn unstage(&mut self, long: &LongValue) -> Result<(), ApplyError> {
        let statement = self.prepare("DELETE FROM landfall.piece WHERE hash = $1").await?;
        self.client.execute(&statement, &[&hash_text(long)]).await.map_err(ApplyError::classify)?;
        Ok(())
    }

    /// From here on everything can be undone by itself. Savepoints stand in each other.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn set_savepoint(&mut self) -> Result<(), ApplyError> {
        Ok(self.client.batch_execute("SAVEPOINT landfall").await?)
    }

    /// Keeps what was done since the innermost savepoint, and forgets it.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn keep(&mut self) -> Result<(), ApplyError> {
        Ok(self.client.batch_execute("RELEASE SAVEPOINT landfall").await?)
    }

    /// Undoes what was done since the innermost savepoint, locks included, and forgets it.
    ///
    /// # Errors
    /// Passes the server's error on.
    pub async fn undo(&mut self) -> Result<(), ApplyError> {
        let sql = "ROLLBACK TO SAVEPOINT landfall; RELEASE SAVEPOINT landfall";
        Ok(self.client.batch_execute(sql).await?)
    }

    /// Ends the transaction; what it wrote is visible.
    ///
    /// # Errors
    /// Passes the server's error on; a lost connection leaves the outcome to the progress row.
    pub async fn commit(&mut self) -> Result<(), ApplyError> {
        self.client.batch_execute("COMMIT").await.map_err(ApplyError::classify)
    }

    /// Ends the transaction without a trace.
    ///
    /// # Errors
    /// Fails when the connection is lost.
    pub async fn rollback(&mut self) -> Result<(), ApplyError> {
        Ok(self.client.batch_execute("ROLLBACK").await?)
    }

    async fn prepare(&mut self, sql: &str) -> Result<Statement, ApplyError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        let statement = self.client.prepare(sql).await.map_err(ApplyError::classify)?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

const EMIT_MARKER: &str = "SELECT pg_logical_emit_message(true, 'landfall.apply', $1::bytea)";

const FREE_PARKED: &str = "\
DELETE FROM landfall.parked p USING unnest($1::text[], $2::text[], $3::text[]) AS x(o, s, i) \
WHERE p.origin = x.o AND p.seq = x.s::int8 AND p.place = x.i::int8";

const EXPLAIN_PARKED: &str = "\
UPDATE landfall.parked p SET reason = x.r, advice = x.a \
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS x(o, s, i, r, a) \
WHERE p.origin = x.o AND p.seq = x.s::int8 AND p.place = x.i::int8 AND p.reason <> x.r";

/// Origins, numbers and places of changes, as text.
fn places<'c>(ids: impl Iterator<Item = &'c ChangeId>) -> [Vec<String>; 3] {
    let mut columns: [Vec<String>; 3] = Default::default();
    for ChangeId { txn, index } in ids {
        columns[0].push(txn.origin.to_string());
        columns[1].push(txn.seq.0.to_string());
        columns[2].push(index.to_string());
    }
    columns
}

/// Deletes first: a row that takes over a unique value comes after the one that gives it up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    Delete,
    Update(Vec<Written>),
    Insert(Vec<Written>),
}

fn written((column, value): &(ColumnId, Cow<'_, Value>)) -> Written {
    let source = match value.as_ref() {
        Value::Long(_) => ValueSource::Pieces,
        _ => ValueSource::Parameter,
    };
    Written { column: *column, source }
}

/// The name of a long value in `landfall.piece`.
fn hash_text(long: &LongValue) -> String {
    long.hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

fn key_values(row: &RowId) -> Result<Vec<Value>, ApplyError> {
    row.key.values().map_err(|error| ApplyError::Data {
        sqlstate: "XX001".to_owned(),
        message: format!("row key does not decode: {error}"),
    })
}

/// Splits into runs of equal `key`, keeping the order.
fn runs<T, K: PartialEq>(items: &[T], key: impl Fn(&T) -> K + Copy) -> impl Iterator<Item = &[T]> {
    items.chunk_by(move |a, b| key(a) == key(b))
}
