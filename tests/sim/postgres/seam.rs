//! The model in the place of PostgreSQL: the engine's seams, filled.

use std::borrow::Cow;
use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use landfall_engine::capture;
use landfall_engine::capture::walsender::{Frame, StandbyStatus, SystemIdentity, TimelineSwitch};
use landfall_engine::postgres::apply::{
    ApplyError, AsideLine, DefaultParent, LockPhase, LockRequest, Missing, Opening, ParentRequest,
    ParkedLine, ParkedNote, RowWrite, Target,
};
use landfall_engine::postgres::catalog::Catalog;
use landfall_engine::postgres::claims::ClaimAccess;
use landfall_engine::postgres::foreign_keys::ForeignKeyAccess;
use landfall_engine::postgres::history::ConflictLine;
use landfall_engine::postgres::lsn::Lsn;
use landfall_engine::postgres::model::{self, Fault, Step};
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::ChangeId;
use landfall_protocol::id::Origin;
use landfall_protocol::schema::{ColumnId, TableDef, TableId, TableName};
use landfall_protocol::value::{LongValue, RowKey, Value};

use super::apply::Apply;
use super::cluster::Cluster;
use super::error::PgError;
use super::heap::Strength;
use super::instance::META;
use super::log::Line;
use super::session::{OnConflict, Session, Settings};
use super::walsender::WalStream;

/// Time between two looks whether a transaction is visible, and how many there are.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(5);
const LOOKS_MAX: u32 = 200;

impl From<PgError> for Fault {
    fn from(error: PgError) -> Self {
        match error {
            PgError::Down | PgError::Lost => Self::Lost,
            PgError::Refused { sqlstate, message } => {
                Self::Refused { sqlstate: sqlstate.to_owned(), message }
            }
        }
    }
}

impl model::Model for Cluster {
    fn connect_apply(&self) -> Step<'_, Box<dyn model::ApplySession>> {
        async {
            let apply: Box<dyn model::ApplySession> = Box::new(Apply::connect(self).await?);
            Ok(apply)
        }
        .boxed()
    }

    fn connect(&self) -> Step<'_, Box<dyn model::Session>> {
        async {
            // What the engine asks for here differs from the application in nothing.
            let session = Self::connect(self, Settings::APPLICATION).await?;
            let session: Box<dyn model::Session> = Box::new(session);
            Ok(session)
        }
        .boxed()
    }

    fn catalog(&self) -> Step<'_, Catalog> {
        async { Ok(Self::catalog(self).await?) }.boxed()
    }
}

impl capture::model::Model for Cluster {
    fn identify(&self) -> Step<'_, SystemIdentity> {
        async { Ok(self.identify_system().await?) }.boxed()
    }

    fn history(&self) -> Step<'_, Vec<TimelineSwitch>> {
        async { Ok(self.timeline_history().await?) }.boxed()
    }

    fn slot(&self) -> Step<'_, Option<(Lsn, bool)>> {
        async {
            let slot = Self::slot(self).await?;
            Ok(slot.map(|slot| (slot.confirmed, slot.held_by.is_some())))
        }
        .boxed()
    }

    fn start(&self, from: Lsn) -> Step<'_, Box<dyn capture::model::Stream>> {
        async move {
            let stream = self.start_replication(from).await?;
            let stream: Box<dyn capture::model::Stream> = Box::new(stream);
            Ok(stream)
        }
        .boxed()
    }
}

impl capture::model::Stream for WalStream {
    fn next(&mut self) -> BoxFuture<'_, Result<Frame, Fault>> {
        async { Ok(Self::next(self).await?) }.boxed()
    }

    fn queue_status(&mut self, status: StandbyStatus) {
        Self::queue_status(self, status);
    }

    fn flush_writes(&mut self) -> Result<(), Fault> {
        Ok(Self::flush_writes(self)?)
    }
}

fn token_row(token: &str) -> [Value; 2] {
    [Value::Text("token".into()), Value::Text(token.into())]
}

async fn read_token(session: &mut Session) -> Result<Option<String>, PgError> {
    let rows = session.select(META, &[RowKey::new(&token_row("")[..1])]).await?;
    Ok(rows[0].as_ref().and_then(|row| row[1].text().map(|text| text.into_owned())))
}

impl model::Session for Session {
    fn is_closed(&self) -> bool {
        self.is_lost()
    }

    fn barrier(&mut self) -> Step<'_, (u64, Lsn)> {
        async { Ok(self.emit("landfall.barrier", b"").await?) }.boxed()
    }

    fn token(&mut self) -> Step<'_, Option<String>> {
        async { Ok(read_token(self).await?) }.boxed()
    }

    fn lock_token(&mut self) -> Step<'_, Option<String>> {
        async {
            self.begin().await?;
            let row = [token_row("").to_vec().into()];
            self.insert(META, &row, OnConflict::DoNothing).await?;
            let key = [RowKey::new(&token_row("")[..1])];
            self.lock(META, &key, Strength::Update).await?;
            Ok(read_token(self).await?)
        }
        .boxed()
    }

    fn write_token<'a>(&'a mut self, token: &'a str) -> Step<'a, ()> {
        async {
            let key = [RowKey::new(&token_row("")[..1])];
            self.update(META, &key, |_, _| Some(token_row(token).to_vec())).await?;
            self.commit().await?;
            Ok(())
        }
        .boxed()
    }

    fn wait_visible(&mut self, xid: u32) -> Step<'_, ()> {
        async move {
            for _ in 0..LOOKS_MAX {
                if self.is_visible(xid).await? {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        }
        .boxed()
    }
}

/// In one statement, if there are any.
fn write_lines(session: &mut Session, lines: Vec<Line>) -> Step<'_, ()> {
    async {
        if !lines.is_empty() {
            session.write_lines(lines).await?;
        }
        Ok(())
    }
    .boxed()
}

impl model::ApplySession for Apply {
    fn closed(&self) -> BoxFuture<'static, ()> {
        self.session.closed().boxed()
    }

    fn learn(&mut self, tables: &[(TableId, &TableDef)], catalog: &Catalog) {
        Self::learn(self, tables, catalog);
    }

    fn progress(&mut self) -> Step<'_, Vec<(String, i64)>> {
        async { Ok(self.session.progress().await?) }.boxed()
    }

    fn start_origin(&mut self, origin: Origin) -> Step<'_, ()> {
        async move { Ok(Self::start_origin(self, origin).await?) }.boxed()
    }

    fn begin<'a>(&'a mut self, opening: &'a Opening) -> Step<'a, bool> {
        async { Ok(Self::begin(self, opening).await?) }.boxed()
    }

    fn begin_repair<'a>(&'a mut self, marker: &'a [u8], phase: LockPhase) -> Step<'a, ()> {
        async move { Ok(Self::begin_repair(self, marker, phase).await?) }.boxed()
    }

    fn mark<'a>(&'a mut self, marker: &'a [u8]) -> Step<'a, ()> {
        async { Ok(Self::mark(self, marker).await?) }.boxed()
    }

    fn end_lock_phase(&mut self) -> Result<(), ApplyError> {
        Self::end_lock_phase(self)
    }

    fn lock<'a>(
        &'a mut self,
        rows: &'a [LockRequest<'a>],
        parents: &'a [ParentRequest],
    ) -> BoxFuture<'a, Result<Vec<Option<u32>>, ApplyError>> {
        Self::lock(self, rows, parents).boxed()
    }

    fn write<'a>(
        &'a mut self,
        writes: &'a [(&'a RowId, RowWrite<'a>)],
    ) -> BoxFuture<'a, Result<bool, ApplyError>> {
        Self::write(self, writes).boxed()
    }

    fn children<'a>(
        &'a mut self,
        key: &'a ForeignKeyAccess,
        parents: &'a [&'a RowId],
    ) -> BoxFuture<'a, Result<Vec<(RowId, RowId)>, ApplyError>> {
        Self::children(self, key, parents).boxed()
    }

    fn without_parents<'a>(
        &'a mut self,
        key: &'a ForeignKeyAccess,
        children: &'a [&'a RowId],
        locks: bool,
    ) -> BoxFuture<'a, Result<Vec<Missing>, ApplyError>> {
        Self::without_parents(self, key, children, locks).boxed()
    }

    fn replacement<'a>(
        &'a mut self,
        key: &'a ForeignKeyAccess,
    ) -> BoxFuture<'a, Result<Vec<(ColumnId, Value)>, ApplyError>> {
        async { Self::replacement(self, key) }.boxed()
    }

    fn default_parent<'a>(
        &'a mut self,
        key: &'a ForeignKeyAccess,
    ) -> BoxFuture<'a, Result<DefaultParent, ApplyError>> {
        Self::default_parent(self, key).boxed()
    }

    fn touch<'a>(&'a mut self, rows: &'a [&'a RowId]) -> BoxFuture<'a, Result<bool, ApplyError>> {
        Self::touch(self, rows).boxed()
    }

    fn holders<'a>(
        &'a mut self,
        claim: &'a ClaimAccess,
        row: &'a RowId,
        target: &'a Target<'a>,
    ) -> BoxFuture<'a, Result<Vec<RowId>, ApplyError>> {
        Self::holders(self, claim, row, target).boxed()
    }

    fn row_text<'a>(
        &'a mut self,
        row: &'a RowId,
    ) -> BoxFuture<'a, Result<Option<String>, ApplyError>> {
        Self::row_text(self, row).boxed()
    }

    fn place<'a>(
        &'a mut self,
        row: &'a RowId,
        base: &'a str,
        cells: &'a [(ColumnId, Cow<'a, Value>)],
    ) -> BoxFuture<'a, Result<bool, ApplyError>> {
        Self::place(self, row, base, cells).boxed()
    }

    fn write_aside<'a>(&'a mut self, lines: &'a [AsideLine]) -> Step<'a, ()> {
        async { Ok(Self::write_aside(self, lines).await?) }.boxed()
    }

    fn free_aside<'a>(&'a mut self, rows: &'a [(TableName, RowKey)]) -> Step<'a, ()> {
        async { Ok(Self::free_aside(self, rows).await?) }.boxed()
    }

    fn list_aside<'a>(
        &'a mut self,
        behind: &'a (TableName, RowKey),
        most: usize,
    ) -> Step<'a, Vec<(TableName, RowKey)>> {
        async move { Ok(Self::list_aside(self, behind, most).await?) }.boxed()
    }

    fn shown<'a>(
        &'a mut self,
        rows: &'a [&'a RowId],
    ) -> Step<'a, BTreeMap<RowId, BTreeMap<ColumnId, Option<String>>>> {
        async { Ok(Self::shown(self, rows).await?) }.boxed()
    }

    fn write_conflicts<'a>(&'a mut self, lines: &'a [ConflictLine]) -> Step<'a, ()> {
        write_lines(&mut self.session, lines.iter().cloned().map(Line::Conflict).collect())
    }

    fn write_parked<'a>(&'a mut self, lines: &'a [ParkedLine]) -> Step<'a, ()> {
        async move {
            // One statement each.
            for line in lines {
                self.session.write_lines(vec![Line::Parked(line.clone())]).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn free_parked<'a>(&'a mut self, ids: &'a [ChangeId]) -> Step<'a, ()> {
        let freed = ids.iter().copied().map(Line::Freed);
        write_lines(&mut self.session, freed.collect())
    }

    fn explain_parked<'a>(&'a mut self, notes: &'a [ParkedNote]) -> Step<'a, ()> {
        let explained = notes.iter().cloned().map(Line::Explained);
        write_lines(&mut self.session, explained.collect())
    }

    fn stage<'a>(&'a mut self, long: &'a LongValue, index: u32, piece: &'a str) -> Step<'a, ()> {
        Self::stage(self, long, index, piece);
        async { Ok(()) }.boxed()
    }

    fn unstage<'a>(&'a mut self, long: &'a LongValue) -> Step<'a, ()> {
        Self::unstage(self, long);
        async { Ok(()) }.boxed()
    }

    fn set_savepoint(&mut self) -> Step<'_, ()> {
        async { Ok(self.session.set_savepoint().await?) }.boxed()
    }

    fn keep(&mut self) -> Step<'_, ()> {
        async { Ok(self.session.release().await?) }.boxed()
    }

    fn undo(&mut self) -> Step<'_, ()> {
        async { Ok(self.session.undo().await?) }.boxed()
    }

    fn commit(&mut self) -> Step<'_, ()> {
        async { Ok(Self::commit(self).await?) }.boxed()
    }

    fn rollback(&mut self) -> Step<'_, ()> {
        async { Ok(self.session.rollback().await?) }.boxed()
    }
}
