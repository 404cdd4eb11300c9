//! The fold: WAL in, durable state out.
//!
//! Own transactions are stamped and enter the outbox; own apply transactions, known by their
//! marker, join the foreign transactions they showed into the row clocks. What an apply transaction
//! did besides is an own transaction that follows on those it showed. The shell calls
//! [`Fold::localize`], loads the clocks of [`Localized::touched`] rows, calls [`Fold::fold`], and
//! writes everything that comes back, with the WAL position, in one transaction.
//!
//! The clock moves only here, so folding the same WAL again gives the same stamps.

mod emission;
mod image;
mod marker;
mod merged;
mod parked;
mod shown;

pub use emission::{Emission, Remedy};
use image::OwnChange;
pub use image::{Columns, Image, Relation, Row, RowEvent};
pub use marker::{ACTOR_PREFIX, MARKER_PREFIX, Marker, MarkerKey, ParkedChange};
pub use parked::{ChangeId, Obstacle, Parked};
use shown::Shown;

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;

use crate::change::{Actor, Describe, Fragment, Piece, RowChange, RowOp, Transaction};
use crate::clock::{Clock, Stamp};
use crate::dictionary::{Dictionary, LocalChange, RowId, Unshowable};
use crate::id::{Origin, Seq, TxnId};
use crate::lattice::{Fate, RowClock};
use crate::schema::{TableDef, TableId, TableName};
use crate::value::Value;
use crate::version::VersionVector;

/// A transaction of the local database as capture saw it commit.
#[derive(Clone, Debug)]
pub struct CapturedTransaction {
    /// Commit timestamp of the WAL record, milliseconds since 1970.
    pub commit_ms: u64,
    /// On whose behalf, if the application said so.
    pub actor: Option<Actor>,
    /// Row events of replicated tables in WAL order.
    pub rows: Vec<RowEvent>,
    /// What the transaction says it is, when it is ours.
    pub marker: Option<Marker>,
    /// Whether this is all of it. Fragments come one after the other, with nothing between.
    pub fragment: Fragment,
    /// Content of a long value that rows of a later fragment need, instead of rows.
    pub piece: Option<LongPiece>,
}

/// Part of the content of a long value, before its table has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongPiece {
    /// The table of the row.
    pub relation: Arc<Relation>,
    /// The hash of the whole value.
    pub hash: [u8; 32],
    /// Its place among the value's pieces, from 0.
    pub index: u32,
    /// The text, cut between characters.
    pub text: Box<str>,
}

/// Counts of what became of received row changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Became the newest word in all they said.
    pub applied: u64,
    /// Became it in part.
    pub merged: u64,
    /// Were older than what was known.
    pub superseded: u64,
    /// Could not be shown here and were set aside.
    pub parked: u64,
}

impl Fates {
    /// All of them.
    pub fn total(self) -> u64 {
        self.applied + self.merged + self.superseded + self.parked
    }

    /// Adds other counts.
    pub fn add(&mut self, other: Self) {
        self.applied += other.applied;
        self.merged += other.merged;
        self.superseded += other.superseded;
        self.parked += other.parked;
    }
}

/// An own transaction on its way into the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTransaction {
    /// The stamped transaction.
    pub transaction: Transaction,
    /// Whether this is all of it.
    pub fragment: Fragment,
    /// What this site applied since its previous own transaction; a unit is cut before it when
    /// this is not empty.
    pub vector: VersionVector,
}

/// What the shell must make durable together.
#[derive(Clone, Debug, Default)]
pub struct FoldOutput {
    /// Own transactions in order.
    pub own: Vec<OwnTransaction>,
    /// Row clocks that changed.
    pub clocks: BTreeMap<RowId, RowClock>,
    /// What became of foreign row changes.
    pub fates: Fates,
    /// Changes that were set aside; as many as `fates` counts.
    pub parked: Vec<Parked>,
    /// Rows that PostgreSQL does not show as the clocks say.
    pub dirty: BTreeSet<RowId>,
    /// Others of which that is so because an own write does not stay as it was made: a maximum that is
    /// none, a set in another order, a counter beyond its range.
    pub overruled: BTreeSet<RowId>,
    /// Foreign table descriptions that are in force from here on.
    pub described: Vec<(Origin, Describe)>,
}

/// Why the fold cannot go on: its inputs contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// A marker names transactions the inbox does not hold.
    #[error("apply marker names transaction {0}, which the inbox does not hold")]
    MissingTransaction(TxnId),
    /// A marker does not go on where the one before ended.
    #[error("apply marker of origin {origin} starts at {first}, {expected} was expected")]
    MarkerGap {
        /// Whose transactions were applied.
        origin: Origin,
        /// The first one the marker names.
        first: Seq,
        /// The first one not applied before.
        expected: Seq,
    },
}

/// The fold's own state: small, kept in memory, stored with every step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// This site in this life.
    pub origin: Origin,
    /// The site's clock.
    pub clock: Clock,
    /// The last own transaction.
    pub last_seq: Seq,
    /// Whether the last own transaction is a fragment that more must follow.
    pub unfinished: bool,
    /// How far every origin is applied, as seen in the WAL.
    pub applied: VersionVector,
    /// The part of `applied` that no own transaction has carried yet.
    pub unsent: VersionVector,
    /// What each origin had applied by the last of its transactions applied here.
    pub origin_vectors: BTreeMap<Origin, VersionVector>,
    /// Own table and column numbers.
    pub dictionary: Dictionary,
    /// Every origin's tables as described up to what is applied.
    pub foreign_tables: BTreeMap<Origin, BTreeMap<TableId, TableDef>>,
}

/// Foreign transactions by name, with the vector record of the unit each begins, as the shell
/// gathered them for the markers of a batch.
pub type ForeignTransactions = BTreeMap<TxnId, ForeignTransaction>;

/// One foreign transaction from the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignTransaction {
    /// The transaction; shared, because it is queued, applied, and then folded.
    pub transaction: Arc<Transaction>,
    /// The vector record that stands before it; empty inside a unit.
    pub vector: VersionVector,
}

/// A batch under local numbers, between the two halves of a fold.
#[derive(Clone, Debug, Default)]
pub struct Localized(Vec<LocalizedTransaction>);

#[derive(Clone, Debug)]
enum LocalizedTransaction {
    Own(LocalizedOwn),
    Apply(LocalizedApply),
    Repair,
}

/// An apply transaction.
#[derive(Clone, Debug)]
struct LocalizedApply {
    origin: Origin,
    transactions: Vec<ForeignChanges>,
    /// The rows that those name.
    images: BTreeMap<RowId, Image>,
    /// What this site did by the way.
    own: LocalizedOwn,
}

#[derive(Clone, Debug)]
struct LocalizedOwn {
    commit_ms: u64,
    actor: Option<Actor>,
    fragment: Fragment,
    changes: Vec<OwnChange>,
    piece: Option<Box<Piece>>,
}

#[derive(Clone, Debug)]
struct ForeignChanges {
    stamp: Stamp,
    vector: VersionVector,
    describes: Vec<Describe>,
    changes: Vec<ForeignChange>,
}

#[derive(Clone, Debug)]
struct ForeignChange {
    table: Option<TableName>,
    local: Result<LocalChange, Unshowable>,
    /// What the apply transaction said that keeps it.
    parked: Option<Obstacle>,
}

impl ForeignChange {
    /// What keeps it from being shown, if anything does.
    fn obstacle(&self) -> Option<Obstacle> {
        self.parked.or_else(|| match &self.local {
            Ok(local) => (!local.unknown_columns.is_empty()).then_some(Obstacle::NoColumn),
            Err(why) => Some(Obstacle::from(why)),
        })
    }

    fn set_aside(&self, id: ChangeId, since_ms: u64) -> Option<Parked> {
        let obstacle = self.obstacle()?;
        let local = self.local.as_ref().ok();
        let row = local.map(|local| local.row.clone());
        let columns = local.map(|local| local.unknown_columns.clone()).unwrap_or_default();
        Some(Parked { id, table: self.table.clone(), row, obstacle, columns, since_ms })
    }
}

impl Localized {
    /// The rows whose clocks the second half needs.
    pub fn touched(&self) -> BTreeSet<RowId> {
        let mut rows = BTreeSet::new();
        for transaction in &self.0 {
            match transaction {
                LocalizedTransaction::Own(own) => rows.extend(own.touched()),
                LocalizedTransaction::Apply(LocalizedApply { transactions, own, .. }) => {
                    rows.extend(named_rows(transactions).cloned());
                    rows.extend(own.touched());
                }
                LocalizedTransaction::Repair => {}
            }
        }
        rows
    }
}

impl LocalizedOwn {
    /// The rows whose clocks must be known. What an insert says is newer than all that was folded, but
    /// one that adds up with others must know which delete it comes after.
    fn touched(&self) -> impl Iterator<Item = RowId> + '_ {
        let asks = |own: &&OwnChange| own.change.op != RowOp::Insert || own.adds_up;
        self.changes.iter().filter(asks).map(|own| row_of(&own.change))
    }
}

fn own_changes(
    dictionary: &Dictionary,
    images: BTreeMap<RowId, Image>,
) -> impl Iterator<Item = OwnChange> {
    images.into_iter().filter_map(|(row, image)| {
        let rules = dictionary.table(row.table).map(|def| &def.rules);
        image.into_change(row, rules)
    })
}

/// The rows that foreign transactions name.
fn named_rows(transactions: &[ForeignChanges]) -> impl Iterator<Item = &RowId> {
    let changes = transactions.iter().flat_map(|transaction| &transaction.changes);
    changes.filter_map(|change| change.local.as_ref().ok()).map(|local| &local.row)
}

/// Divides what an apply transaction did: rows its foreign transactions name, and rows written by
/// the way, as remedies or by a trigger that also fires for replication. The latter are this site's
/// own changes.
fn split_images(
    images: BTreeMap<RowId, Image>,
    transactions: &[ForeignChanges],
) -> (BTreeMap<RowId, Image>, BTreeMap<RowId, Image>) {
    let named: BTreeSet<&RowId> = named_rows(transactions).collect();
    if images.keys().all(|row| named.contains(row)) {
        return (images, BTreeMap::new());
    }
    images.into_iter().partition(|(row, _)| named.contains(row))
}

fn row_of(change: &RowChange) -> RowId {
    RowId { table: change.table, key: change.key.clone() }
}

impl Fold {
    /// The state of a site that has seen nothing yet.
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            clock: Clock::default(),
            last_seq: Seq::ZERO,
            unfinished: false,
            applied: VersionVector::new(),
            unsent: VersionVector::new(),
            origin_vectors: BTreeMap::new(),
            dictionary: Dictionary::default(),
            foreign_tables: BTreeMap::new(),
        }
    }

    /// First half: nets the rows of own transactions and puts everything under local numbers.
    ///
    /// # Errors
    /// Fails when a marker names transactions that are not in `foreign` or leaves a gap.
    pub fn localize(
        &mut self,
        batch: Vec<CapturedTransaction>,
        foreign: &ForeignTransactions,
    ) -> Result<Localized, FoldError> {
        let mut reached = self.applied.clone();
        let mut localized = Vec::with_capacity(batch.len());
        let mut numbering = image::Numbering::default();
        for captured in batch {
            if let Some(LongPiece { relation, hash, index, text }) = captured.piece {
                let (table, _) = self.dictionary.learn(&relation);
                let piece = Some(Box::new(Piece { table, hash, index, text }));
                let CapturedTransaction { commit_ms, actor, fragment, .. } = captured;
                let changes = Vec::new();
                let own = LocalizedOwn { commit_ms, actor, fragment, changes, piece };
                localized.push(LocalizedTransaction::Own(own));
                continue;
            }
            let images = image::net(&mut self.dictionary, &mut numbering, captured.rows);
            match captured.marker {
                None => {
                    let CapturedTransaction { commit_ms, actor, fragment, .. } = captured;
                    let changes = own_changes(&self.dictionary, images).collect();
                    let own = LocalizedOwn { commit_ms, actor, fragment, changes, piece: None };
                    localized.push(LocalizedTransaction::Own(own));
                }
                Some(Marker::Repair) => localized.push(LocalizedTransaction::Repair),
                Some(Marker::Remedy { emitted }) => {
                    let own = self.emit(captured.commit_ms, emitted, &images, BTreeMap::new());
                    localized.push(LocalizedTransaction::Own(own));
                }
                Some(Marker::Apply { origin, first, last, parked, emitted }) => {
                    let expected = reached.get(origin).next();
                    if first != expected || last < first {
                        return Err(FoldError::MarkerGap { origin, first, expected });
                    }
                    reached.advance(origin, last);
                    let parked: BTreeMap<ParkedChange, Obstacle> = parked.into_iter().collect();
                    let named = named(origin, (first, last), foreign)?;
                    let transactions: Vec<ForeignChanges> = named
                        .map(|(txn, found)| self.localize_foreign(*txn, found, &parked))
                        .collect();
                    let (images, by_the_way) = split_images(images, &transactions);
                    let own = self.emit(captured.commit_ms, emitted, &images, by_the_way);
                    let apply = LocalizedApply { origin, transactions, images, own };
                    localized.push(LocalizedTransaction::Apply(apply));
                }
            }
        }
        Ok(Localized(localized))
    }

    /// What an apply transaction says in this site's own name.
    fn emit(
        &self,
        commit_ms: u64,
        emitted: Vec<Emission>,
        named: &BTreeMap<RowId, Image>,
        mut by_the_way: BTreeMap<RowId, Image>,
    ) -> LocalizedOwn {
        let remedies = emitted.into_iter().map(|emission| {
            let image = by_the_way.remove(&emission.row).or(named.get(&emission.row).cloned());
            let rules = self.dictionary.table(emission.row.table).map(|def| &def.rules);
            image.unwrap_or_default().into_remedy(emission, rules)
        });
        let mut changes: Vec<OwnChange> = remedies.collect();
        changes.extend(own_changes(&self.dictionary, by_the_way));
        changes.sort_by_key(|own| row_of(&own.change));
        let fragment = Fragment::Whole;
        LocalizedOwn { commit_ms, actor: None, fragment, changes, piece: None }
    }

    fn localize_foreign(
        &mut self,
        TxnId { origin, seq }: TxnId,
        found: &ForeignTransaction,
        parked: &BTreeMap<ParkedChange, Obstacle>,
    ) -> ForeignChanges {
        let tables = self.foreign_tables.entry(origin).or_default();
        for describe in &found.transaction.describes {
            tables.insert(describe.table, describe.def.clone());
        }
        let changes = found.transaction.changes.iter().enumerate().map(|(index, change)| {
            let def = tables.get(&change.table);
            let local = match def {
                Some(def) => self.dictionary.localize(def, change),
                None => Err(Unshowable::Undescribed(change.table)),
            };
            let parked = parked.get(&ParkedChange { seq, index: index as u32 }).copied();
            // Few are parked, and names are long.
            let is_shown = parked.is_none()
                && local.as_ref().is_ok_and(|local| local.unknown_columns.is_empty());
            let table = def.filter(|_| !is_shown).map(|def| def.name.clone());
            ForeignChange { table, local, parked }
        });
        ForeignChanges {
            stamp: found.transaction.stamp(origin),
            vector: found.vector.clone(),
            changes: changes.collect(),
            describes: found.transaction.describes.clone(),
        }
    }

    /// Second half: stamps, joins and checks. `clocks` holds the stored clocks of the touched
    /// rows; a row without one is absent from it. `doubtful` rows may not show what their clocks say.
    pub fn fold(
        &mut self,
        batch: Localized,
        clocks: BTreeMap<RowId, RowClock>,
        doubtful: BTreeSet<RowId>,
    ) -> FoldOutput {
        let mut rows = Rows { stored: clocks, changed: BTreeMap::new(), doubtful };
        let mut output = FoldOutput::default();
        for transaction in batch.0 {
            match transaction {
                LocalizedTransaction::Own(own) => {
                    output.own.extend(self.fold_own(own, &mut rows, &mut output.overruled));
                }
                LocalizedTransaction::Apply(apply) => {
                    self.fold_apply(apply, &mut rows, &mut output);
                }
                LocalizedTransaction::Repair => {}
            }
        }
        output.clocks = rows.changed;
        output.overruled.retain(|row| !output.dirty.contains(row));
        output
    }

    fn fold_own(
        &mut self,
        own: LocalizedOwn,
        rows: &mut Rows,
        overruled: &mut BTreeSet<RowId>,
    ) -> Option<OwnTransaction> {
        let LocalizedOwn { commit_ms, actor, fragment, mut changes, piece } = own;
        let ends = self.unfinished && fragment == Fragment::Last;
        if changes.is_empty() && piece.is_none() && !ends {
            return None;
        }
        // Other transactions must win or lose against all of it, so all of it has one reading.
        let hlc = if self.unfinished { self.clock.last() } else { self.clock.tick(commit_ms) };
        let fragment = match fragment {
            Fragment::Last if !self.unfinished => Fragment::Whole,
            fragment => fragment,
        };
        self.unfinished = fragment == Fragment::More;
        self.last_seq = self.last_seq.next();
        let stamp = Stamp::new(hlc, self.origin, self.last_seq);
        let mut tables = BTreeSet::new();
        for own in &mut changes {
            tables.insert(own.change.table);
            let row = row_of(&own.change);
            let is_doubtful = rows.doubtful.contains(&row);
            let clock = rows.entry(row.clone());
            let rules = self.dictionary.table(row.table).map(|def| &def.rules);
            match own.change.op {
                RowOp::Insert => {
                    let birth = std::mem::take(clock).birthplace();
                    own.take_births(rules, birth);
                }
                RowOp::Update => own.take_shares(stamp, clock, is_doubtful),
                RowOp::Delete
                | RowOp::Revive
                | RowOp::Quarantine
                | RowOp::Return
                | RowOp::ReviveAside => {
                    own.keep_unlogged(rules, clock, is_doubtful);
                }
            }
            clock.join(own.change.op, stamp, &own.change.cells);
            if !is_doubtful {
                own.keep_order(clock);
            }
            if !rules.is_none_or(|rules| own.shows(rules, clock)) {
                overruled.insert(row);
            }
        }
        let changes = changes.into_iter().map(|own| own.change).collect();
        let describes = tables.into_iter().filter_map(|id| self.dictionary.describe(id)).collect();
        Some(OwnTransaction {
            transaction: Transaction { seq: self.last_seq, hlc, actor, describes, changes, piece },
            fragment,
            vector: std::mem::take(&mut self.unsent),
        })
    }

    fn fold_apply(&mut self, apply: LocalizedApply, rows: &mut Rows, output: &mut FoldOutput) {
        let LocalizedApply { origin, transactions, images, own } = apply;
        let commit_ms = own.commit_ms;
        let mut shown: BTreeMap<RowId, Shown> = BTreeMap::new();
        for transaction in &transactions {
            self.clock.observe(transaction.stamp.hlc);
            self.origin_vectors.entry(origin).or_default().join(&transaction.vector);
            output.described.extend(transaction.describes.iter().map(|d| (origin, d.clone())));
            for (index, change) in transaction.changes.iter().enumerate() {
                let id = ChangeId { txn: transaction.stamp.txn, index: index as u32 };
                let parked = change.set_aside(id, commit_ms);
                if let Ok(local) = &change.local {
                    let hides = parked.as_ref().is_some_and(|parked| parked.obstacle.hides_row());
                    let fate = join_foreign(transaction.stamp, local, hides, rows, &mut shown);
                    if parked.is_none() {
                        output.fates.count(fate);
                    }
                }
                output.fates.parked += u64::from(parked.is_some());
                output.parked.extend(parked);
            }
            self.applied.advance(origin, transaction.stamp.txn.seq);
            self.unsent.advance(origin, transaction.stamp.txn.seq);
        }
        for (row, shown) in &shown {
            if shown.parked {
                rows.doubtful.insert(row.clone());
            }
            if !rows.doubtful.contains(row) {
                shown.find_bases(rows.entry(row.clone()), images.get(row));
            }
        }
        // What the rows show is what others said and this site besides.
        if let Some(own) = self.fold_own(own, rows, &mut output.overruled) {
            let stamp = own.transaction.stamp(self.origin);
            for change in &own.transaction.changes {
                if let Some(shown) = shown.get_mut(&row_of(change)) {
                    shown.stamps.insert(stamp);
                }
            }
            output.own.push(own);
        }
        self.compare(shown, &images, rows, &mut output.dirty);
    }

    /// Finds the rows that do not show what their clocks say.
    fn compare(
        &self,
        shown: BTreeMap<RowId, Shown>,
        images: &BTreeMap<RowId, Image>,
        rows: &mut Rows,
        dirty: &mut BTreeSet<RowId>,
    ) {
        for (row, shown) in shown {
            let (image, clock) = (images.get(&row), rows.entry(row.clone()));
            let def = self.dictionary.table(row.table);
            let merges = def.is_none_or(|def| shown.merges(def, clock, image));
            if !(shown.parked || shown.agrees(clock, image) && merges) {
                rows.doubtful.insert(row.clone());
                dirty.insert(row);
            }
        }
    }
}

impl Fates {
    /// Counts one more.
    pub fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Applied => self.applied += 1,
            Fate::Merged => self.merged += 1,
            Fate::Superseded => self.superseded += 1,
        }
    }
}

struct Rows {
    stored: BTreeMap<RowId, RowClock>,
    changed: BTreeMap<RowId, RowClock>,
    /// What these show says nothing about their merged columns.
    doubtful: BTreeSet<RowId>,
}

impl Rows {
    /// The clock of a row that is about to change, or has changed.
    fn entry(&mut self, row: RowId) -> &mut RowClock {
        match self.changed.entry(row) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let stored = self.stored.remove(entry.key());
                entry.insert(stored.unwrap_or_default())
            }
        }
    }
}

fn join_foreign(
    stamp: Stamp,
    local: &LocalChange,
    parked: bool,
    rows: &mut Rows,
    shown: &mut BTreeMap<RowId, Shown>,
) -> Fate {
    let clock = rows.entry(local.row.clone());
    let shown = shown
        .entry(local.row.clone())
        .or_insert_with(|| Shown { before: clock.clone(), ..Shown::default() });
    let outcome = clock.join(local.op, stamp, &local.cells);
    let cells_at = local.op.cells_at(stamp);
    for cell in &local.cells {
        match &cell.value {
            Value::Share(_) => drop(shown.merged.insert(cell.column)),
            // With what a column was born is nothing new.
            Value::Base(_) => {}
            value => drop(shown.values.insert(cell.column, (cells_at, value.clone()))),
        }
    }
    shown.stamps.extend([stamp, cells_at]);
    if matches!(local.op, RowOp::Revive | RowOp::ReviveAside) {
        shown.revivals.insert(stamp);
    }
    shown.parked |= parked;
    outcome.fate()
}

/// The transactions that a marker names: all that are left of them, with the first and the last.
fn named(
    origin: Origin,
    (first, last): (Seq, Seq),
    foreign: &ForeignTransactions,
) -> Result<impl Iterator<Item = (&TxnId, &ForeignTransaction)>, FoldError> {
    let [first, last] = [first, last].map(|seq| TxnId { origin, seq });
    match [first, last].into_iter().find(|end| !foreign.contains_key(end)) {
        Some(missing) => Err(FoldError::MissingTransaction(missing)),
        None => Ok(foreign.range(first..=last)),
    }
}
