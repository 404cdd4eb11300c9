//! Rows that are put aside: the list of them, and how they come back.
//!
//! Who puts a row aside lists it in the same transaction, and so does whoever hears of it. When
//! a table was written in which rows are aside, they are tried again, as their clocks have them: where
//! PostgreSQL takes a row, nobody has its value any more, and this site says that it is back. Several
//! sites may say so; that does no harm. Whoever has the value by then keeps it, however new its claim:
//! nobody is sent away for a row that nobody missed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{Emission, Marker, Remedy};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::schema::{ColumnId, TableDef, TableId, TableName};
use landfall_protocol::value::{RowKey, Value};

use crate::plant;
use crate::postgres::access::LockStrength;
use crate::postgres::apply::{ApplyError, AsideLine, FoundBy, LockPhase, LockRequest};
use crate::postgres::catalog::Catalog;
use crate::replica::barrier::BarrierError;
use crate::replica::references::Changed;
use crate::replica::rest::rest_after;
use crate::replica::{Replica, ReplicaError, key_text};
use crate::time;

/// Rows tried before the other work has its turn.
const PAGE: usize = 50;

/// Which rows that are aside are tried next.
#[derive(Debug, Default)]
pub(super) struct Returning {
    /// Whether there is none, for certain.
    nothing: bool,
    /// Tables that were written since the last pass began; all of them at a start.
    written: Option<BTreeSet<TableName>>,
    /// The pass under way: its tables, and the row it tried last.
    pass: Option<(Option<BTreeSet<TableName>>, Place)>,
    /// No pass begins before this.
    not_before: Option<Instant>,
}

/// Rows that others put aside, with their clocks since, and `None` for those that are aside no more.
pub(super) type Moves<'w> = BTreeMap<&'w RowId, Option<RowClock>>;

/// A row as the list names it.
type Place = (TableName, RowKey);

impl Returning {
    /// Rows of these tables, and of those that reference them, however far, are tried soon.
    pub(super) fn touched<'t>(
        &mut self,
        tables: impl Iterator<Item = &'t TableDef>,
        catalog: Option<&Catalog>,
    ) {
        let Some(written) = self.written.as_mut().filter(|_| !self.nothing) else { return };
        let mut next: Vec<TableName> = tables.map(|def| def.name.clone()).collect();
        while let Some(name) = next.pop() {
            let local = catalog.and_then(|catalog| catalog.table(&name));
            if written.insert(name) {
                next.extend(
                    local.into_iter().flat_map(|local| local.referenced_by.iter().cloned()),
                );
            }
        }
    }

    /// There may be rows that nobody has looked at.
    pub(super) fn listed(&mut self) {
        self.nothing = false;
    }

    /// All of them are tried soon.
    pub(super) fn begin_anew(&mut self) {
        (self.nothing, self.written, self.pass) = (false, None, None);
    }

    fn is_due(&self) -> bool {
        self.written.as_ref().is_none_or(|written| !written.is_empty())
    }

    fn wake_at(&self) -> Option<Instant> {
        match &self.pass {
            _ if self.nothing => None,
            Some(_) => Some(time::monotonic()),
            None => self.is_due().then_some(self.not_before.unwrap_or_else(time::monotonic)),
        }
    }
}

/// What trying a row came to.
enum Tried {
    /// It is shown, or was by somebody else, or is gone: it is off the list.
    Off,
    /// It stays aside.
    Stays,
}

impl Replica {
    /// Tries some of the rows that are aside, if it is time; says when to look again.
    pub(super) async fn tend_aside(&mut self) -> Result<Option<Instant>, ReplicaError> {
        if plant::active("no-return") {
            return Ok(None);
        }
        let now = time::monotonic();
        let rests = self.returning.not_before.is_some_and(|at| at > now);
        if self.returning.wake_at().is_none() || rests {
            return Ok(self.returning.wake_at());
        }
        let (tables, from) = self.returning.pass.take().unwrap_or_else(|| {
            let tables = self.returning.written.replace(BTreeSet::new());
            (tables, (TableName::new("", ""), RowKey::from_bytes(&[])))
        });
        let page = self.apply.list_aside(&from, PAGE).await?;
        let is_first = from.0.name.is_empty();
        self.returning.nothing = is_first && page.is_empty();
        let last = page.last().filter(|_| page.len() == PAGE).cloned();
        let is_tried = |(table, _): &Place| tables.as_ref().is_none_or(|t| t.contains(table));
        for place in page.iter().filter(|place| is_tried(place)) {
            if let Some(table) = self.dictionary.id_of(&place.0) {
                let row = RowId { table, key: place.1.clone() };
                self.try_to_return(&row, place).await?;
            }
        }
        let ended = time::monotonic();
        let took = ended.duration_since(now);
        self.returning.pass = last.map(|last| (tables, last));
        self.returning.not_before = Some(ended + rest_after(took));
        Ok(self.returning.wake_at())
    }

    /// Shows a row again if nobody has its value any more; whatever happens, no transaction is left
    /// open.
    async fn try_to_return(&mut self, row: &RowId, place: &Place) -> Result<(), ReplicaError> {
        if self.apply.table(row.table).is_err() {
            return Ok(());
        }
        match self.show_again(row, place).await {
            Ok(Tried::Off) => {
                self.apply.commit().await?;
                Ok(())
            }
            Ok(Tried::Stays)
            | Err(
                ReplicaError::Apply(ApplyError::Busy | ApplyError::Late | ApplyError::Data { .. })
                | ReplicaError::Barrier(BarrierError::Late),
            ) => Ok(self.apply.rollback().await?),
            Err(error) => Err(error),
        }
    }

    async fn show_again(&mut self, row: &RowId, place: &Place) -> Result<Tried, ReplicaError> {
        let repair = self.marker_key.seal(&Marker::Repair);
        self.apply.begin_repair(&repair, LockPhase::RowByRow).await?;
        let request = LockRequest { row, strength: LockStrength::Update };
        let Ok(locked) = self.apply.lock_alone(request, &[]).await? else {
            return Ok(Tried::Stays);
        };
        self.barrier.pass().await?;
        let clock = self.store.clocks(vec![row.clone()]).await?.pop().flatten().unwrap_or_default();
        if !clock.is_aside() {
            self.apply.free_aside(std::slice::from_ref(place)).await?;
            return Ok(Tried::Off);
        }
        let due: BTreeMap<&RowId, RowClock> = [(row, clock.returned())].into();
        let write = self.due_writes(&due, &BTreeSet::new()).await?.pop();
        let Some(write) = write.filter(|_| locked.is_none() && !self.tables_changed()) else {
            return Ok(Tried::Stays);
        };
        if self.write_alone(&write).await? != Ok(true) {
            return Ok(Tried::Stays);
        }
        self.say_it_is_back(row, place).await
    }

    /// Writes what else must be so that the row can be there, and says that it is.
    async fn say_it_is_back(&mut self, row: &RowId, place: &Place) -> Result<Tried, ReplicaError> {
        let written = BTreeSet::from([row]);
        let changed = Changed { written, returns: Some(row), ..Changed::without_group() };
        let mut kept = match self.keep_references(&changed).await? {
            Ok(kept) if kept.orphans.is_empty() => kept,
            _ => return Ok(Tried::Stays),
        };
        // It may have to go with its parent at once. Nothing else is said of it: it comes back as it was.
        if !kept.emitted.iter().any(|emission| emission.row == *row) {
            kept.emitted.push(Emission { row: row.clone(), remedy: Remedy::Return });
        }
        let marker = Marker::Remedy { emitted: kept.emitted };
        self.apply.mark(&self.marker_key.seal(&marker)).await?;
        self.apply.write_conflicts(&kept.lines).await?;
        self.apply.free_aside(std::slice::from_ref(place)).await?;
        Ok(Tried::Off)
    }

    /// Lists rows that others put aside, before they are taken away, and takes those off that are
    /// aside no more.
    pub(super) async fn list_moves(&mut self, moves: &Moves<'_>) -> Result<(), ReplicaError> {
        if moves.is_empty() {
            return Ok(());
        }
        let goes = moves.iter().filter_map(|(row, clock)| Some((*row, clock.clone()?.returned())));
        let goes: BTreeMap<&RowId, RowClock> = goes.collect();
        let rows: Vec<&RowId> = goes.keys().copied().collect();
        let mut cells = self.apply.shown(&rows).await?;
        // What the row does not show yet, or never will, is in the log.
        for (row, write) in self.due_writes(&goes, &BTreeSet::new()).await? {
            let text = |value: &Value| value.text().map(Cow::into_owned);
            let due = write.cells().iter().map(|(column, value)| (*column, text(value)));
            cells.entry(row.clone()).or_default().extend(due);
        }
        let line = |row: &RowId| {
            let text = |column: ColumnId| cells.get(row)?.get(&column).cloned().flatten();
            self.aside_line(row, self.why_elsewhere(row.table), text)
        };
        let lines: Vec<AsideLine> = rows.into_iter().filter_map(line).collect();
        self.list(&lines, FoundBy::Another).await?;
        let back = moves.iter().filter(|(_, clock)| clock.is_none());
        let back = back.filter_map(|(row, _)| {
            Some((self.dictionary.table(row.table)?.name.clone(), row.key.clone()))
        });
        let back: Vec<Place> = back.collect();
        Ok(self.apply.free_aside(&back).await?)
    }

    /// As [`Replica::list_moves`], for rows that are about to be written as their clocks say: what became
    /// of them while they were parked was not listed. Returns which are put aside, or may have been.
    pub(super) async fn list_due<'w>(
        &mut self,
        due: &BTreeMap<&'w RowId, RowClock>,
    ) -> Result<Moves<'w>, ReplicaError> {
        let may_be_listed = !self.returning.nothing;
        let moves = due.iter().filter_map(|(row, clock)| match clock.is_aside() {
            true => Some((*row, Some(clock.clone()))),
            false => may_be_listed.then_some((*row, None)),
        });
        let moves = moves.collect();
        self.list_moves(&moves).await?;
        Ok(moves)
    }

    /// Writes lines of rows that are put aside.
    pub(super) async fn list(
        &mut self,
        lines: &[AsideLine],
        found_by: FoundBy,
    ) -> Result<(), ReplicaError> {
        if !lines.is_empty() {
            self.returning.listed();
        }
        if plant::active("unlisted-aside") {
            return Ok(());
        }
        Ok(self.apply.write_aside(lines, found_by).await?)
    }

    /// The line of a row that is put aside.
    pub(super) fn aside_line(
        &self,
        row: &RowId,
        reason: String,
        text: impl Fn(ColumnId) -> Option<String>,
    ) -> Option<AsideLine> {
        let def = self.dictionary.table(row.table)?;
        let cells = def
            .cell_columns()
            .filter_map(|column| Some((def.column_def(column)?.name.clone(), text(column))));
        let (table, key, row_key) = (def.name.clone(), row.key.clone(), key_text(row));
        Some(AsideLine { table, key, row_key, reason, cells: Some(cells.collect()) })
    }

    /// The line's reason for a row of this table of which another site says that it is aside.
    fn why_elsewhere(&self, table: TableId) -> String {
        let claims = self.apply.claims(table);
        let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
        match &names[..] {
            [] => "another site found that the row to which it belongs is put aside".to_owned(),
            [name] => {
                format!("another site found an older row with what {name} lets only one row have")
            }
            names => format!(
                "another site found an older row with what one of {} lets only one row have",
                names.join(", ")
            ),
        }
    }

    /// The line's reason for a row whose parent is put aside.
    pub(super) fn why_orphaned(&self, parent: &RowId) -> String {
        let name = self.dictionary.table(parent.table).map(|def| def.name.to_string());
        format!(
            "row {} of table {}, to which it belongs, is put aside",
            key_text(parent),
            name.unwrap_or_default()
        )
    }
}
