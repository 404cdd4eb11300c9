//! The seam at which a simulator puts a model in the place of PostgreSQL. The traits have the steps
//! that the statements of [`super::apply`] take, and no SQL.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::ChangeId;
use landfall_protocol::id::Origin;
use landfall_protocol::schema::{ColumnId, TableDef, TableId, TableName};
use landfall_protocol::value::{LongValue, RowKey, Value};

use super::access::TableAccess;
use super::apply::{
    ApplyError, AsideLine, DefaultParent, FoundBy, LockPhase, LockRequest, Missing, Opening,
    ParentRequest, ParkedLine, ParkedNote, RowWrite, Target,
};
use super::catalog::Catalog;
use super::claims::{self, ClaimAccess};
use super::foreign_keys::{self, ForeignKeyAccess};
use super::history::ConflictLine;
use super::lsn::Lsn;
use crate::plant;

/// What a model's server says instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no connection, or none any more; what was under way may have happened.
    #[error("connection to the model is lost")]
    Lost,
    /// It refuses.
    #[error("{message} (SQLSTATE {sqlstate})")]
    Refused {
        /// Its SQLSTATE.
        sqlstate: String,
        /// Its words.
        message: String,
    },
}

/// What a step comes to.
pub type Step<'a, T> = BoxFuture<'a, Result<T, Fault>>;

/// A database server.
pub trait Model: fmt::Debug + Send + Sync {
    /// Opens an apply connection.
    fn connect_apply(&self) -> Step<'_, Box<dyn ApplySession>>;
    /// Opens a connection whose commits are on disk when they return, and wait for no standby.
    fn connect(&self) -> Step<'_, Box<dyn Session>>;
    /// Reads the catalog.
    fn catalog(&self) -> Step<'_, Catalog>;
}

/// A connection beside the one that applies.
pub trait Session: fmt::Debug + Send + Sync {
    /// Whether it is gone.
    fn is_closed(&self) -> bool;
    /// Writes a barrier: what the snapshot before it says of running transactions, and where its
    /// message ends.
    fn barrier(&mut self) -> Step<'_, (u64, Lsn)>;
    /// Reads the token.
    fn token(&mut self) -> Step<'_, Option<String>>;
    /// Begins a transaction, and locks the token's row.
    fn lock_token(&mut self) -> Step<'_, Option<String>>;
    /// Writes the locked token and commits.
    fn write_token<'a>(&'a mut self, token: &'a str) -> Step<'a, ()>;
    /// Waits until a new snapshot sees this transaction, within bounds.
    fn wait_visible(&mut self, xid: u32) -> Step<'_, ()>;
}

/// As `ApplyConnection`, without what that knows by itself.
pub trait ApplySession: fmt::Debug + Send + Sync {
    /// Ends when the connection is gone.
    fn closed(&self) -> BoxFuture<'static, ()>;
    /// Takes over what a catalog says of these tables.
    fn learn(&mut self, tables: &[(TableId, &TableDef)], catalog: &Catalog);
    /// The rows of `landfall.progress`.
    fn progress(&mut self) -> Step<'_, Vec<(String, i64)>>;
    /// Makes the progress row of an origin, if there is none.
    fn start_origin(&mut self, origin: Origin) -> Step<'_, ()>;
    /// Starts a transaction; `false` when the progress row is elsewhere.
    fn begin<'a>(&'a mut self, opening: &'a Opening) -> Step<'a, bool>;
    /// Starts one that repairs.
    fn begin_repair<'a>(&'a mut self, marker: &'a [u8], phase: LockPhase) -> Step<'a, ()>;
    /// Writes a marker.
    fn mark<'a>(&'a mut self, marker: &'a [u8]) -> Step<'a, ()>;
    /// No more waiting for others.
    fn end_lock_phase(&mut self) -> Result<(), ApplyError>;
    /// Locks rows and parents; says who wrote each last.
    fn lock<'a>(
        &'a mut self,
        rows: &'a [LockRequest<'a>],
        parents: &'a [ParentRequest],
    ) -> BoxFuture<'a, Result<Vec<Option<u32>>, ApplyError>>;
    /// Writes rows; says whether all were met.
    fn write<'a>(
        &'a mut self,
        writes: &'a [(&'a RowId, RowWrite<'a>)],
    ) -> BoxFuture<'a, Result<bool, ApplyError>>;
    /// The rows that reference these parents, each with its parent; locked as the key's action asks.
    fn children<'a>(
        &'a mut self,
        key: &'a ForeignKeyAccess,
        parents: &'a [&'a RowId],
    ) -> BoxFuture<'a, Result<Vec<(RowId, RowId)>, ApplyError>>;
    /// Those of the children whose parents are not there; the others' are locked, if that is asked.
    fn without_parents<'a>(
        &'a mut self,
        key: &'a ForeignKeyAccess,
        children: &'a [&'a RowId],
        locks: bool,
    ) -> BoxFuture<'a, Result<Vec<Missing>, ApplyError>>;
    /// What the columns of a foreign key are set to when its parent goes.
    fn replacement<'a>(
        &'a mut self,
        key: &'a ForeignKeyAccess,
    ) -> BoxFuture<'a, Result<Vec<(ColumnId, Value)>, ApplyError>>;
    /// Where the defaults of a foreign key's columns lead; a row that is there is locked.
    fn default_parent<'a>(
        &'a mut self,
        key: &'a ForeignKeyAccess,
    ) -> BoxFuture<'a, Result<DefaultParent, ApplyError>>;
    /// Writes rows as they are; says whether all were met.
    fn touch<'a>(&'a mut self, rows: &'a [&'a RowId]) -> BoxFuture<'a, Result<bool, ApplyError>>;
    /// The other rows that hold what a row is to have by this index; they are locked.
    fn holders<'a>(
        &'a mut self,
        claim: &'a ClaimAccess,
        row: &'a RowId,
        target: &'a Target<'a>,
    ) -> BoxFuture<'a, Result<Vec<RowId>, ApplyError>>;
    /// A row as one text.
    fn row_text<'a>(
        &'a mut self,
        row: &'a RowId,
    ) -> BoxFuture<'a, Result<Option<String>, ApplyError>>;
    /// Inserts a row that was there before, with new cells; says whether its key was free.
    fn place<'a>(
        &'a mut self,
        row: &'a RowId,
        base: &'a str,
        cells: &'a [(ColumnId, Cow<'a, Value>)],
    ) -> BoxFuture<'a, Result<bool, ApplyError>>;
    /// Lists rows that are put aside.
    fn write_aside<'a>(&'a mut self, lines: &'a [AsideLine]) -> Step<'a, ()>;
    /// Takes rows off the list.
    fn free_aside<'a>(&'a mut self, rows: &'a [(TableName, RowKey)]) -> Step<'a, ()>;
    /// The list from behind a place on, in its order.
    fn list_aside<'a>(
        &'a mut self,
        behind: &'a (TableName, RowKey),
        most: usize,
    ) -> Step<'a, Vec<(TableName, RowKey)>>;
    /// Cells of rows as text.
    fn shown<'a>(
        &'a mut self,
        rows: &'a [&'a RowId],
    ) -> Step<'a, BTreeMap<RowId, BTreeMap<ColumnId, Option<String>>>>;
    /// Lines for humans.
    fn write_conflicts<'a>(&'a mut self, lines: &'a [ConflictLine]) -> Step<'a, ()>;
    /// Lines for humans.
    fn write_parked<'a>(&'a mut self, lines: &'a [ParkedLine]) -> Step<'a, ()>;
    /// Lines that are no longer true.
    fn free_parked<'a>(&'a mut self, ids: &'a [ChangeId]) -> Step<'a, ()>;
    /// Lines that say something else now.
    fn explain_parked<'a>(&'a mut self, notes: &'a [ParkedNote]) -> Step<'a, ()>;
    /// Puts a piece of a long value aside.
    fn stage<'a>(&'a mut self, long: &'a LongValue, index: u32, piece: &'a str) -> Step<'a, ()>;
    /// Removes them again.
    fn unstage<'a>(&'a mut self, long: &'a LongValue) -> Step<'a, ()>;
    /// A savepoint.
    fn set_savepoint(&mut self) -> Step<'_, ()>;
    /// Releases it.
    fn keep(&mut self) -> Step<'_, ()>;
    /// Goes back to it, and releases it.
    fn undo(&mut self) -> Step<'_, ()>;
    /// Commits.
    fn commit(&mut self) -> Step<'_, ()>;
    /// Rolls back.
    fn rollback(&mut self) -> Step<'_, ()>;
}

/// [`super::apply::ApplyConnection`], or what stands for it.
#[derive(Debug)]
pub(crate) enum ApplyConnection {
    Server(Box<super::apply::ApplyConnection>),
    Model(ModelApply),
}

#[derive(Debug)]
pub(crate) struct ModelApply {
    session: Box<dyn ApplySession>,
    tables: BTreeMap<TableId, TableAccess>,
    foreign_keys: Arc<[ForeignKeyAccess]>,
    claims: BTreeMap<TableId, Arc<[ClaimAccess]>>,
}

/// Passes a call on; what the model says is judged as the server's word is.
macro_rules! either {
    ($self:ident, $server:ident => $on_server:expr, $model:ident => $on_model:expr) => {
        match $self {
            Self::Server($server) => $on_server,
            Self::Model($model) => Ok($on_model.map_err(ApplyError::from)?),
        }
    };
}

impl ApplyConnection {
    pub(crate) fn new(client: tokio_postgres::Client) -> Self {
        Self::Server(Box::new(super::apply::ApplyConnection::new(client)))
    }

    pub(crate) fn modelled(session: Box<dyn ApplySession>) -> Self {
        let (tables, foreign_keys, claims) = Default::default();
        Self::Model(ModelApply { session, tables, foreign_keys, claims })
    }

    pub(crate) fn learn<'t>(
        &mut self,
        tables: impl Iterator<Item = (TableId, &'t TableDef)> + Clone,
        catalog: &Catalog,
    ) {
        match self {
            Self::Server(server) => server.learn(tables, catalog),
            Self::Model(model) => {
                let tables: Vec<_> = tables.collect();
                model.session.learn(&tables, catalog);
                let access = |def: &TableDef| TableAccess::build(def, catalog.table(&def.name)?);
                let known = tables.iter().filter_map(|(id, def)| Some((*id, access(def)?)));
                model.tables = known.collect();
                let claims = tables.iter().filter_map(|(id, def)| {
                    let access = model.tables.get(id)?;
                    let claims = claims::of_table(def, catalog.table(&def.name)?, access);
                    Some((*id, claims.into()))
                });
                model.claims = claims.collect();
                let keys = foreign_keys::between(tables.iter().copied(), &model.tables, catalog);
                model.foreign_keys = keys.into();
            }
        }
    }

    pub(crate) fn table(&self, id: TableId) -> Result<&TableAccess, ApplyError> {
        match self {
            Self::Server(server) => server.table(id),
            Self::Model(model) => model.tables.get(&id).ok_or(ApplyError::TableGone(id)),
        }
    }

    pub(crate) async fn progress(&mut self) -> Result<Vec<(String, i64)>, ApplyError> {
        either!(self, s => s.progress().await, m => m.session.progress().await)
    }

    pub(crate) async fn start_origin(&mut self, origin: Origin) -> Result<(), ApplyError> {
        either!(self, s => s.start_origin(origin).await, m => m.session.start_origin(origin).await)
    }

    pub(crate) async fn begin(&mut self, opening: &Opening) -> Result<(), ApplyError> {
        match self {
            Self::Server(server) => server.begin(opening).await,
            Self::Model(model) => model.begin(opening).await,
        }
    }

    pub(crate) async fn begin_repair(
        &mut self,
        marker: &[u8],
        phase: LockPhase,
    ) -> Result<(), ApplyError> {
        either!(self, s => s.begin_repair(marker, phase).await,
            m => m.session.begin_repair(marker, phase).await)
    }

    pub(crate) async fn mark(&mut self, marker: &[u8]) -> Result<(), ApplyError> {
        either!(self, s => s.mark(marker).await, m => m.session.mark(marker).await)
    }

    pub(crate) fn end_lock_phase(&mut self) -> Result<(), ApplyError> {
        match self {
            Self::Server(server) => server.end_lock_phase(),
            Self::Model(model) => model.session.end_lock_phase(),
        }
    }

    pub(crate) async fn lock_alone(
        &mut self,
        row: LockRequest<'_>,
        parents: &[ParentRequest],
    ) -> Result<Result<Option<u32>, String>, ApplyError> {
        let model = match self {
            Self::Server(server) => return server.lock_alone(row, parents).await,
            Self::Model(model) => model,
        };
        model.session.set_savepoint().await?;
        match model.session.lock(&[row], parents).await {
            Ok(found) => {
                model.session.keep().await?;
                Ok(Ok(found.into_iter().next().flatten()))
            }
            Err(ApplyError::Data { message, .. }) => {
                model.session.undo().await?;
                Ok(Err(message))
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn lock(
        &mut self,
        opening: Option<&Opening>,
        rows: &[LockRequest<'_>],
        parents: &[ParentRequest],
    ) -> Result<Vec<Option<u32>>, ApplyError> {
        match self {
            Self::Server(server) => server.lock(opening, rows, parents).await,
            Self::Model(model) => {
                if let Some(opening) = opening {
                    model.begin(opening).await?;
                }
                model.session.lock(rows, parents).await
            }
        }
    }

    pub(crate) async fn write(
        &mut self,
        writes: &[(&RowId, RowWrite<'_>)],
    ) -> Result<bool, ApplyError> {
        match self {
            Self::Server(server) => server.write(writes).await,
            Self::Model(model) => model.session.write(writes).await,
        }
    }

    pub(crate) fn foreign_keys(&self) -> Arc<[ForeignKeyAccess]> {
        match self {
            Self::Server(server) => server.foreign_keys(),
            Self::Model(model) => Arc::clone(&model.foreign_keys),
        }
    }

    pub(crate) async fn children(
        &mut self,
        key: &ForeignKeyAccess,
        parents: &[&RowId],
    ) -> Result<Vec<(RowId, RowId)>, ApplyError> {
        match self {
            Self::Server(server) => server.children(key, parents).await,
            Self::Model(model) => model.session.children(key, parents).await,
        }
    }

    pub(crate) async fn without_parents(
        &mut self,
        key: &ForeignKeyAccess,
        children: &[&RowId],
    ) -> Result<Vec<Missing>, ApplyError> {
        match self {
            Self::Server(server) => server.without_parents(key, children).await,
            Self::Model(model) => {
                let locks = !plant::active("unlocked-parents");
                model.session.without_parents(key, children, locks).await
            }
        }
    }

    pub(crate) async fn replacement(
        &mut self,
        key: &ForeignKeyAccess,
    ) -> Result<Vec<(ColumnId, Value)>, ApplyError> {
        match self {
            Self::Server(server) => server.replacement(key).await,
            Self::Model(model) => model.session.replacement(key).await,
        }
    }

    pub(crate) async fn default_parent(
        &mut self,
        key: &ForeignKeyAccess,
    ) -> Result<DefaultParent, ApplyError> {
        match self {
            Self::Server(server) => server.default_parent(key).await,
            Self::Model(model) => model.session.default_parent(key).await,
        }
    }

    pub(crate) async fn touch(&mut self, rows: &[&RowId]) -> Result<bool, ApplyError> {
        match self {
            Self::Server(server) => server.touch(rows).await,
            Self::Model(model) => model.session.touch(rows).await,
        }
    }

    pub(crate) fn claims(&self, table: TableId) -> Arc<[ClaimAccess]> {
        match self {
            Self::Server(server) => server.claims(table),
            Self::Model(model) => model.claims.get(&table).map(Arc::clone).unwrap_or_default(),
        }
    }

    pub(crate) async fn holders(
        &mut self,
        claim: &ClaimAccess,
        row: &RowId,
        target: &Target<'_>,
    ) -> Result<Vec<RowId>, ApplyError> {
        match self {
            Self::Server(server) => server.holders(claim, row, target).await,
            Self::Model(model) => model.session.holders(claim, row, target).await,
        }
    }

    pub(crate) async fn row_text(&mut self, row: &RowId) -> Result<Option<String>, ApplyError> {
        match self {
            Self::Server(server) => server.row_text(row).await,
            Self::Model(model) => model.session.row_text(row).await,
        }
    }

    pub(crate) async fn place(
        &mut self,
        row: &RowId,
        base: &str,
        cells: &[(ColumnId, Cow<'_, Value>)],
    ) -> Result<bool, ApplyError> {
        match self {
            Self::Server(server) => server.place(row, base, cells).await,
            Self::Model(model) => model.session.place(row, base, cells).await,
        }
    }

    pub(crate) async fn write_aside(
        &mut self,
        lines: &[AsideLine],
        found_by: FoundBy,
    ) -> Result<(), ApplyError> {
        match self {
            Self::Server(server) => server.write_aside(lines, found_by).await,
            // Whose reason stands makes no difference to a model.
            Self::Model(model) => Ok(model.session.write_aside(lines).await?),
        }
    }

    pub(crate) async fn free_aside(
        &mut self,
        rows: &[(TableName, RowKey)],
    ) -> Result<(), ApplyError> {
        either!(self, s => s.free_aside(rows).await, m => m.session.free_aside(rows).await)
    }

    pub(crate) async fn list_aside(
        &mut self,
        behind: &(TableName, RowKey),
        most: usize,
    ) -> Result<Vec<(TableName, RowKey)>, ApplyError> {
        either!(self, s => s.list_aside(behind, most).await,
            m => m.session.list_aside(behind, most).await)
    }

    pub(crate) async fn shown(
        &mut self,
        rows: &[&RowId],
    ) -> Result<BTreeMap<RowId, BTreeMap<ColumnId, Option<String>>>, ApplyError> {
        either!(self, s => s.shown(rows).await, m => m.session.shown(rows).await)
    }

    pub(crate) async fn write_conflicts(
        &mut self,
        lines: &[ConflictLine],
    ) -> Result<(), ApplyError> {
        either!(self, s => s.write_conflicts(lines).await,
            m => m.session.write_conflicts(lines).await)
    }

    pub(crate) async fn write_parked(&mut self, lines: &[ParkedLine]) -> Result<(), ApplyError> {
        either!(self, s => s.write_parked(lines).await, m => m.session.write_parked(lines).await)
    }

    pub(crate) async fn free_parked(&mut self, ids: &[ChangeId]) -> Result<(), ApplyError> {
        either!(self, s => s.free_parked(ids).await, m => m.session.free_parked(ids).await)
    }

    pub(crate) async fn explain_parked(&mut self, notes: &[ParkedNote]) -> Result<(), ApplyError> {
        either!(self, s => s.explain_parked(notes).await,
            m => m.session.explain_parked(notes).await)
    }

    pub(crate) async fn stage(
        &mut self,
        long: &LongValue,
        index: u32,
        piece: &str,
    ) -> Result<(), ApplyError> {
        either!(self, s => s.stage(long, index, piece).await,
            m => m.session.stage(long, index, piece).await)
    }

    pub(crate) async fn unstage(&mut self, long: &LongValue) -> Result<(), ApplyError> {
        either!(self, s => s.unstage(long).await, m => m.session.unstage(long).await)
    }

    pub(crate) async fn set_savepoint(&mut self) -> Result<(), ApplyError> {
        either!(self, s => s.set_savepoint().await, m => m.session.set_savepoint().await)
    }

    pub(crate) async fn keep(&mut self) -> Result<(), ApplyError> {
        either!(self, s => s.keep().await, m => m.session.keep().await)
    }

    pub(crate) async fn undo(&mut self) -> Result<(), ApplyError> {
        either!(self, s => s.undo().await, m => m.session.undo().await)
    }

    pub(crate) async fn commit(&mut self) -> Result<(), ApplyError> {
        either!(self, s => s.commit().await, m => m.session.commit().await)
    }

    pub(crate) async fn rollback(&mut self) -> Result<(), ApplyError> {
        either!(self, s => s.rollback().await, m => m.session.rollback().await)
    }
}

impl ModelApply {
    async fn begin(&mut self, opening: &Opening) -> Result<(), ApplyError> {
        if self.session.begin(opening).await? {
            return Ok(());
        }
        let expected = landfall_protocol::id::Seq(opening.first.0 - 1);
        Err(ApplyError::Progress { origin: opening.origin, expected })
    }
}
