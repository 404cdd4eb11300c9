//! What is parked is tried again when what kept it may be gone: after a start, when the catalog
//! says something else, when a table that has to do with it was written, when somebody asks, and
//! now and then. Showing a row is a repair: f(clock), under lock and barrier. An entry leaves the
//! list when its row is shown, durably, and not before; so a kill at any moment only means that it
//! is tried once more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{ChangeId, Obstacle, Parked};
use landfall_protocol::schema::{TableDef, TableName};
use tokio::sync::Notify;

use crate::plant;
use crate::postgres::apply::{ApplyError, ParkedNote};
use crate::postgres::catalog::Catalog;
use crate::replica::barrier::BarrierError;
use crate::replica::lines;
use crate::replica::repair::AsDue;
use crate::replica::rest::rest_after;
use crate::replica::{Replica, ReplicaContext, ReplicaError};
use crate::store::{Log, ParkedPlace, Rejoined};
use crate::time;

/// Entries looked at before the other work has its turn.
const PAGE: usize = 200;
/// While something is parked the catalog is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Shortest and longest time until everything is tried again though nothing was heard.
const AGAIN_MIN: Duration = Duration::from_secs(60);
const AGAIN_MAX: Duration = Duration::from_secs(3_600);

/// What is to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    Everything,
    Tables(BTreeSet<TableName>),
}

impl Scope {
    fn has(&self, table: Option<&TableName>) -> bool {
        match self {
            Self::Everything => true,
            Self::Tables(tables) => table.is_some_and(|table| tables.contains(table)),
        }
    }

    fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Tables(tables), Self::Tables(more)) => tables.extend(more),
            (whole, Self::Everything) => *whole = Self::Everything,
            (Self::Everything, _) => {}
        }
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::Tables(BTreeSet::new())
    }
}

/// What operators ask to be tried again.
#[derive(Clone, Debug, Default)]
pub struct RetryOrders(Arc<Orders>);

#[derive(Debug, Default)]
struct Orders {
    asked: Mutex<Scope>,
    bell: Notify,
}

impl RetryOrders {
    /// Has what is parked of a table tried again, or of all.
    pub fn ask(&self, table: Option<TableName>) {
        let scope = match table {
            Some(table) => Scope::Tables([table].into()),
            None => Scope::Everything,
        };
        self.asked().add(scope);
        self.0.bell.notify_one();
    }

    /// Waits until something is asked.
    pub(super) async fn rung(&self) {
        self.0.bell.notified().await;
    }

    fn take(&self) -> Option<Scope> {
        Some(std::mem::take(&mut *self.asked())).filter(|scope| *scope != Scope::default())
    }

    fn asked(&self) -> MutexGuard<'_, Scope> {
        // A scope is whole after every statement under this lock.
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When what is parked is tried next.
#[derive(Debug, Default)]
pub(super) struct Parking {
    /// The pass under way, and where it goes on.
    pass: Option<(Scope, ParkedPlace)>,
    /// What the next pass looks at.
    due: Scope,
    /// No pass begins before this.
    not_before: Option<Instant>,
    look_at: Option<Instant>,
    again_at: Option<Instant>,
    again_after: Duration,
    /// Set while rows are being tried. A session that ends meanwhile may have ended by them.
    trying: bool,
    /// Sessions that ended so, one after the other.
    failures: u32,
    /// The catalog as it was learned last.
    catalog: Option<Catalog>,
}

impl Parking {
    /// The same for the next session, which tries everything; but not at once what may have ended
    /// this one.
    pub(super) fn next_session(self) -> Self {
        let failures = if self.trying { self.failures + 1 } else { 0 };
        let wait = (AGAIN_MIN * failures.min(60)).min(AGAIN_MAX);
        let not_before = (failures > 0).then(|| time::monotonic() + wait);
        Self { not_before, failures, ..Self::default() }
    }

    /// What the catalog says now may have freed something; whether it says anything new.
    pub(super) fn learned(&mut self, catalog: Catalog) -> bool {
        let is_new = self.catalog.as_ref() != Some(&catalog);
        if is_new {
            self.due = Scope::Everything;
            self.again_after = AGAIN_MIN;
        }
        self.catalog = Some(catalog);
        is_new
    }

    /// The catalog as it was learned last.
    pub(super) fn catalog(&self) -> Option<&Catalog> {
        self.catalog.as_ref()
    }

    /// Rows of these tables, and of those that reference them, are tried soon.
    fn freed<'t>(&mut self, tables: impl Iterator<Item = &'t TableDef>) {
        let Some(catalog) = &self.catalog else { return };
        let mut names = BTreeSet::new();
        for table in tables.filter_map(|def| catalog.table(&def.name)) {
            names.insert(table.def.name.clone());
            names.extend(table.referenced_by.iter().cloned());
        }
        self.due.add(Scope::Tables(names));
    }

    /// Rows of these tables, and of those that reference them or are referenced, are tried soon.
    pub(super) fn touched<'t>(&mut self, tables: impl Iterator<Item = &'t TableDef>) {
        let Some(catalog) = &self.catalog else { return };
        let mut names: BTreeSet<TableName> = tables.map(|def| def.name.clone()).collect();
        for table in names.clone().iter().filter_map(|name| catalog.table(name)) {
            names.extend(table.foreign_keys.iter().map(|key| key.parent.clone()));
            names.extend(table.referenced_by.iter().cloned());
        }
        self.due.add(Scope::Tables(names));
    }

    /// The next page, if it is time for one.
    fn begin(&mut self, now: Instant) -> Option<(Scope, ParkedPlace)> {
        if let Some(pass) = self.pass.take() {
            return Some(pass);
        }
        if self.again_at.is_some_and(|at| at <= now) {
            self.due = Scope::Everything;
        }
        let may = self.not_before.is_none_or(|at| at <= now) && self.due != Scope::default();
        if !may {
            return None;
        }
        let scope = std::mem::take(&mut self.due);
        if scope == Scope::Everything {
            let after = self.again_after.clamp(AGAIN_MIN, AGAIN_MAX);
            self.again_at = Some(now + after);
            self.again_after = after * 2;
        }
        Some((scope, ParkedPlace::default()))
    }

    fn wake_at(&self) -> Option<Instant> {
        let now = time::monotonic();
        if self.pass.is_some() {
            return Some(now);
        }
        let due = (self.due != Scope::default()).then_some(now).or(self.again_at);
        // What is due while a pass still rests is due when it has rested.
        let due = due.map(|at| self.not_before.map_or(at, |rested| rested.max(at)));
        [due, self.look_at].into_iter().flatten().min()
    }
}

/// Rows with the entries that are about them.
type Rows = BTreeMap<RowId, Vec<Parked>>;

/// What trying some rows came to.
struct Tried {
    shown: BTreeSet<RowId>,
    refused: BTreeMap<RowId, String>,
}

impl Replica {
    /// Tries some of what is parked, if it is time; says when to look again.
    pub(super) async fn tend_parked(
        &mut self,
        context: &ReplicaContext,
        log: &Log,
    ) -> Result<Option<Instant>, ReplicaError> {
        let asked = context.retry.take();
        if log.fates.parked == 0 {
            self.parking.pass = None;
            self.parking.look_at = None;
            return Ok(None);
        }
        if let Some(asked) = asked {
            self.parking.due.add(asked);
            self.parking.not_before = None;
        }
        let now = time::monotonic();
        if self.parking.look_at.is_none_or(|at| at <= now) {
            let first = self.parking.look_at.is_none();
            self.parking.look_at = Some(now + LOOK_EVERY);
            let changed =
                !first && self.parking.catalog.as_ref() != Some(&context.read_catalog().await?);
            if changed {
                self.learn_schema(context).await?;
            }
        }
        if let Some((scope, from)) = self.parking.begin(now) {
            self.parking.trying = true;
            let next = self.try_page(context, &scope, from).await?;
            self.parking.trying = false;
            self.parking.failures = 0;
            self.parking.pass = next.map(|next| (scope, next));
            let ended = time::monotonic();
            let took = ended.duration_since(now);
            self.parking.not_before = Some(ended + rest_after(took));
        }
        Ok(self.parking.wake_at())
    }

    async fn try_page(
        &mut self,
        context: &ReplicaContext,
        scope: &Scope,
        from: ParkedPlace,
    ) -> Result<Option<ParkedPlace>, ReplicaError> {
        let page = self.store.parked(from, PAGE).await?;
        let mut entries = page.entries;
        entries.retain(|entry| scope.has(entry.table.as_ref()));
        if entries.is_empty() {
            return Ok(page.next);
        }
        let ids = entries.iter().map(|entry| entry.id).collect();
        let Rejoined { entries, moved } = self.store.rejoin_parked(ids).await?;
        // The fold may have learned of a column before we did; then its values would be left out.
        if self.tables_changed() {
            self.learn_schema(context).await?;
        }
        let mut rows = Rows::new();
        for entry in entries {
            let Some(row) = entry.row.clone() else { continue };
            let lacks_as_before =
                !entry.columns.is_empty() && !entry.obstacle.hides_row() && !moved.contains(&row);
            let is_here = self.apply.table(row.table).is_ok()
                && entry.table.as_ref().and_then(|name| self.dictionary.id_of(name))
                    == Some(row.table);
            if is_here && !lacks_as_before {
                rows.entry(row).or_default().push(entry);
            }
        }
        if !rows.is_empty() {
            plant::hang("unshown-parked").await;
            self.try_rows(&rows).await?;
        }
        Ok(page.next)
    }

    /// All at once, or one by one when somebody is in the way.
    async fn try_rows(&mut self, rows: &Rows) -> Result<(), ReplicaError> {
        if self.try_together(rows).await? {
            return Ok(());
        }
        for (row, entries) in rows {
            let alone = Rows::from([(row.clone(), entries.clone())]);
            if !self.try_together(&alone).await? {
                // It is tried again with the next pass.
                let table = entries.iter().find_map(|entry| entry.table.clone());
                self.parking.due.add(Scope::Tables(table.into_iter().collect()));
            }
        }
        Ok(())
    }

    /// `false` when somebody is in the way, and nothing was done.
    async fn try_together(&mut self, rows: &Rows) -> Result<bool, ReplicaError> {
        let tried = self.show_parked(rows).await;
        let tried = match tried {
            Ok(Some(tried)) => tried,
            Ok(None)
            | Err(
                ReplicaError::Apply(ApplyError::Busy | ApplyError::Late | ApplyError::Data { .. })
                | ReplicaError::Barrier(BarrierError::Late),
            ) => {
                self.apply.rollback().await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let ids = |wanted: &dyn Fn(&RowId, &Parked) -> bool| -> Vec<ChangeId> {
            let all = rows.iter().flat_map(|(row, entries)| entries.iter().map(move |e| (row, e)));
            all.filter(|(row, entry)| wanted(row, entry)).map(|(_, entry)| entry.id).collect()
        };
        let waits = |row: &RowId| self.waits_for_parent(row);
        let waiting = ids(&|row, _| tried.refused.contains_key(row) && waits(row));
        let refused = ids(&|row, _| tried.refused.contains_key(row) && !waits(row));
        let lacking = ids(&|row, entry| tried.shown.contains(row) && !entry.columns.is_empty());
        let free = ids(&|row, entry| tried.shown.contains(row) && entry.columns.is_empty());
        for (ids, obstacle) in [
            (refused, Obstacle::Refused),
            (waiting, Obstacle::NoParent),
            (lacking, Obstacle::NoColumn),
        ] {
            if !ids.is_empty() {
                self.store.keep_parked(ids, obstacle).await?;
            }
        }
        if free.is_empty() {
            return Ok(true);
        }
        // Commits are not on the disk when they return. What a barrier behind them has passed is.
        if !self.barrier.passes().await? {
            return Ok(true);
        }
        plant::hang("unfreed-parked").await;
        let freed = self.store.free_parked(free).await?;
        let tables: BTreeSet<_> = tried.shown.iter().map(|row| row.table).collect();
        let tables = tables.iter().filter_map(|id| self.dictionary.table(*id));
        // Their children may be waiting, and rows that have what they showed.
        self.parking.freed(tables);
        self.counters.freed += freed;
        tracing::info!(changes = freed, "parked changes are shown now");
        Ok(true)
    }

    /// Shows what can be shown in one transaction, and takes the lines of that out of
    /// `landfall.parked`. `None`: a row came or went meanwhile.
    async fn show_parked(&mut self, rows: &Rows) -> Result<Option<Tried>, ReplicaError> {
        let Some(AsDue { refused, .. }) = self.rewrite_alone(&rows.keys().collect()).await? else {
            return Ok(None);
        };
        let shown = rows.keys().filter(|row| !refused.contains_key(*row)).cloned().collect();
        let tried = Tried { shown, refused };
        self.tell_tried(rows, &tried).await?;
        self.apply.commit().await?;
        Ok(Some(tried))
    }

    /// Takes the lines of what is shown out of `landfall.parked`, and says of the others why they stay.
    async fn tell_tried(&mut self, rows: &Rows, tried: &Tried) -> Result<(), ReplicaError> {
        let mut free = Vec::new();
        let mut notes = Vec::new();
        for (row, entries) in rows {
            let reason = tried.refused.get(row);
            for entry in entries {
                match reason {
                    None if entry.columns.is_empty() => free.push(entry.id),
                    None => {}
                    Some(reason) => {
                        let advice = match self.waits_for_parent(row) {
                            true => lines::ORPHAN_ADVICE,
                            false => lines::REFUSED_ADVICE,
                        };
                        let (reason, advice) = (reason.clone(), advice.to_owned());
                        notes.push(ParkedNote { id: entry.id, reason, advice });
                    }
                }
            }
        }
        self.apply.free_parked(&free).await?;
        self.apply.explain_parked(&notes).await?;
        Ok(())
    }
}
