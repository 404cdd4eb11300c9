//! The fold as a command: gather, decide, write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_protocol::change::Transaction;
use landfall_protocol::codec::Writer as Bytes;
use landfall_protocol::dictionary::{Entry, RowId};
use landfall_protocol::fold::{
    CapturedTransaction, FoldError, FoldOutput, ForeignTransaction, ForeignTransactions, Marker,
};
use landfall_protocol::id::{Origin, TxnId};
use landfall_protocol::schema::{SetId, TableDef, TableId, TableName};
use landfall_protocol::version::VersionVector;
use rusqlite::params;

use super::error::StoreError;
use super::record::{Advance, Dirt, Folded, Resume};
use super::state::{put_foreign_table, put_meta, put_own_table};
use super::tail::Flush;
use super::units;
use super::writer::Writer;
use crate::plant;

/// A position without content is recorded by itself only when it moved this far.
const ADVANCE_BYTES: u64 = 1 << 20;

/// Own tables as they were before a fold, by name.
type TablesBefore = BTreeMap<TableName, Option<Entry>>;

/// The fold has no use for the content of long values.
fn without_piece(transaction: &Arc<Transaction>) -> Arc<Transaction> {
    if transaction.piece.is_none() {
        return Arc::clone(transaction);
    }
    let Transaction { seq, hlc, ref actor, ref describes, .. } = **transaction;
    let (actor, describes) = (actor.clone(), describes.clone());
    Arc::new(Transaction { seq, hlc, actor, describes, changes: Vec::new(), piece: None })
}

impl Writer<'_> {
    /// Folds a batch that ends at `end_lsn`, or in the middle of the transaction behind it.
    ///
    /// A session that begins anew reads once more what the one before it passed over, and may meet
    /// a transaction that is folded in part before it is where that one was. The position stays
    /// there, before the transaction's commit.
    pub(super) fn fold(
        &mut self,
        batch: Vec<CapturedTransaction>,
        end_lsn: u64,
        learn: &[TableDef],
        resume: Option<Resume>,
    ) -> Result<Folded, StoreError> {
        let end_lsn = match &resume {
            None => end_lsn,
            Some(part) if part.commit_lsn >= self.state.seen_lsn => {
                end_lsn.max(self.state.seen_lsn)
            }
            Some(part) => part.commit_lsn,
        };
        self.check_position(end_lsn)?;
        let foreign = self.gather(&batch)?;
        let origins: BTreeSet<Origin> = foreign.keys().map(|txn| txn.origin).collect();
        let before = self.tables_before(&batch, learn);
        for def in learn {
            self.state.fold.dictionary.learn(def);
        }
        let localized = self.state.fold.localize(batch, &foreign)?;
        let touched = localized.touched();
        let doubtful = self.doubtful(&touched)?;
        let clocks = self.clocks.load(&self.db, touched)?;
        let mut output = self.state.fold.fold(localized, clocks, doubtful);
        self.write_tables(before, &output)?;
        self.touched.extend(output.clocks.keys().map(|row| row.table));
        if self.state.progress.fates.parked > 0 {
            // An origin may have taken this site's rules.
            let described = output.described.iter().map(|(_, describe)| &describe.def.name);
            let dictionary = &self.state.fold.dictionary;
            self.touched.extend(described.filter_map(|name| dictionary.id_of(name)));
        }
        self.clocks.put(&self.db, std::mem::take(&mut output.clocks))?;
        self.write_rows(&output)?;
        self.write_own(output)?;
        for origin in origins {
            self.state.put_origin(&self.db, origin)?;
        }
        self.state.progress.resume = resume;
        // The position belongs into the transaction of its effect.
        if plant::active("torn-fold") {
            self.state.put_progress(&self.db)?;
            self.state.progress.fold_lsn = end_lsn;
        } else {
            self.state.progress.fold_lsn = end_lsn;
            self.state.put_progress(&self.db)?;
        }
        self.state.seen_lsn = end_lsn;
        Ok(Folded { fold_lsn: end_lsn, own_last: self.state.fold.last_seq })
    }

    /// Which of these rows may not show what their clocks say.
    fn doubtful(&self, rows: &BTreeSet<RowId>) -> Result<BTreeSet<RowId>, StoreError> {
        // A write that its rule overrules is known with all that it did.
        let dirty = "SELECT 1 FROM dirty WHERE table_no = ?1 AND key = ?2 \
                     AND reason <> 'the rule of a column overrules a write'";
        let parked = "SELECT 1 FROM parked WHERE table_no = ?1 AND key = ?2";
        let lists = [(dirty, self.state.dirty), (parked, self.state.progress.fates.parked)];
        let mut doubtful = BTreeSet::new();
        for (sql, _) in lists.into_iter().filter(|(_, count)| *count > 0) {
            for row in rows {
                let key = params![row.table.0, row.key.as_bytes()];
                if self.db.row(sql, key, |_| Ok(()))?.is_some() {
                    doubtful.insert(row.clone());
                }
            }
        }
        Ok(doubtful)
    }

    /// Moves the position over WAL without content; says which position is recorded. A new session of
    /// capture passes once more what the last one passed without a record.
    pub(super) fn advance(&mut self, end_lsn: u64, advance: Advance) -> Result<u64, StoreError> {
        let end_lsn = end_lsn.max(self.state.seen_lsn);
        self.check_position(end_lsn)?;
        self.state.seen_lsn = end_lsn;
        let recorded = &mut self.state.progress.fold_lsn;
        if end_lsn > *recorded && (advance == Advance::Now || end_lsn - *recorded >= ADVANCE_BYTES)
        {
            *recorded = end_lsn;
            self.state.put_progress(&self.db)?;
        }
        Ok(self.state.progress.fold_lsn)
    }

    /// Learns tables as the database describes them now.
    pub(super) fn learn(&mut self, defs: &[TableDef]) -> Result<(), StoreError> {
        let before = self.tables_before(&[], defs);
        for def in defs {
            self.state.fold.dictionary.learn(def);
        }
        self.write_tables(before, &FoldOutput::default())
    }

    fn check_position(&self, end_lsn: u64) -> Result<(), StoreError> {
        if let Some(reason) = self.state.standstill() {
            return Err(StoreError::Fenced(reason.clone()));
        }
        let position = self.state.seen_lsn;
        if end_lsn < position {
            return Err(StoreError::FoldBehind { end_lsn, position });
        }
        Ok(())
    }

    /// The foreign transactions that the batch's markers name.
    fn gather(&self, batch: &[CapturedTransaction]) -> Result<ForeignTransactions, StoreError> {
        let mut found = ForeignTransactions::new();
        for captured in batch {
            let Some(Marker::Apply { origin, first, last, .. }) = captured.marker else { continue };
            let log = self.state.origins.get(&origin);
            if log.is_none_or(|log| log.received < last) {
                return Err(FoldError::MissingTransaction(TxnId { origin, seq: last }).into());
            }
            let mut next = first;
            while next <= last {
                let missing = FoldError::MissingTransaction(TxnId { origin, seq: next });
                let no = log.map_or(0, |log| log.no);
                let unit =
                    units::open(&self.db, &self.tools.units, origin, no, next)?.ok_or(missing)?;
                let begins = unit.header.first;
                for transaction in &unit.transactions {
                    if transaction.seq < next || transaction.seq > last {
                        continue;
                    }
                    let vector = if transaction.seq == begins {
                        unit.header.vector.clone()
                    } else {
                        VersionVector::new()
                    };
                    let transaction = without_piece(transaction);
                    let txn = TxnId { origin, seq: transaction.seq };
                    found.insert(txn, ForeignTransaction { transaction, vector });
                }
                next = unit.header.last.next();
            }
        }
        Ok(found)
    }

    /// The tables that a batch may change the description of.
    fn tables_before(&self, batch: &[CapturedTransaction], learn: &[TableDef]) -> TablesBefore {
        let dictionary = &self.state.fold.dictionary;
        let mut before = TablesBefore::new();
        let mut note = |seen: &TableDef| {
            if !before.contains_key(&seen.name) {
                let known = dictionary.id_of(&seen.name).and_then(|id| dictionary.entry(id));
                before.insert(seen.name.clone(), known);
            }
        };
        learn.iter().for_each(&mut note);
        let mut last = None;
        for event in batch.iter().flat_map(|captured| &captured.rows) {
            // Events of one table mostly stand together.
            if last.is_none_or(|last| !Arc::ptr_eq(last, &event.relation)) {
                note(&event.relation);
                last = Some(&event.relation);
            }
        }
        before
    }

    fn write_tables(
        &mut self,
        before: TablesBefore,
        output: &FoldOutput,
    ) -> Result<(), StoreError> {
        let dictionary = &self.state.fold.dictionary;
        let mut changed: BTreeSet<TableId> = output
            .own
            .iter()
            .flat_map(|own| &own.transaction.describes)
            .map(|describe| describe.table)
            .collect();
        for (name, known) in before {
            let now = dictionary.id_of(&name).and_then(|id| dictionary.entry(id));
            if now != known {
                let shape = |entry: &Option<Entry>| {
                    let entry = entry.as_ref();
                    entry.map(|entry| (entry.table, entry.def.clone(), entry.gone.clone()))
                };
                self.moves_tables |= shape(&now) != shape(&known);
                changed.extend(now.map(|entry| entry.table));
            }
        }
        for entry in changed.into_iter().filter_map(|id| dictionary.entry(id)) {
            put_own_table(&self.db, &entry)?;
        }
        for (origin, describe) in &output.described {
            if let Some(log) = self.state.origins.get(origin) {
                put_foreign_table(&self.db, log.no, describe.table, &describe.def)?;
            }
        }
        Ok(())
    }

    fn write_rows(&mut self, output: &FoldOutput) -> Result<(), StoreError> {
        let dirty = output.dirty.iter().map(|row| (row, Dirt::Different));
        let overruled = output.overruled.iter().map(|row| (row, Dirt::Overruled));
        for (row, why) in dirty.chain(overruled) {
            let key = params![row.table.0, row.key.as_bytes()];
            let known =
                self.db.execute("DELETE FROM dirty WHERE table_no = ?1 AND key = ?2", key)?;
            self.db.execute(
                "INSERT INTO dirty(table_no, key, reason) VALUES (?1, ?2, ?3)",
                params![row.table.0, row.key.as_bytes(), why.reason()],
            )?;
            self.state.dirty += 1 - known as u64;
        }
        self.park(&output.parked)?;
        self.state.progress.fates.add(output.fates);
        Ok(())
    }

    fn write_own(&mut self, output: FoldOutput) -> Result<(), StoreError> {
        if output.own.is_empty() {
            return Ok(());
        }
        let dictionary = &self.state.fold.dictionary;
        let sets: BTreeMap<TableId, SetId> = output
            .own
            .iter()
            .flat_map(|own| {
                let piece = own.transaction.piece.as_ref().map(|piece| piece.table);
                own.transaction.changes.iter().map(|change| change.table).chain(piece)
            })
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(|table| Some((table, dictionary.table(table)?.set)))
            .collect();
        let fleet_version = self.tools.fleet_version;
        let (flush, data) = Flush::encode(fleet_version, sets, output.own);
        self.take_flush(flush, &data)
    }

    /// Sets rows right again in the books.
    pub(super) fn clear_dirty(&mut self, marks: &[u64], repaired: u64) -> Result<(), StoreError> {
        for mark in marks {
            let gone =
                self.db.execute("DELETE FROM dirty WHERE mark = ?1", [mark.cast_signed()])?;
            self.state.dirty -= gone as u64;
        }
        self.state.progress.repaired += repaired;
        self.state.put_progress(&self.db)
    }

    /// Sets the reason for refusing folds, once.
    pub(super) fn fence(&mut self, reason: String) -> Result<(), StoreError> {
        if self.state.fenced.is_none() {
            let mut out = Bytes::new();
            out.text(&reason);
            put_meta(&self.db, "fenced", out.into_bytes())?;
            self.state.fenced = Some(reason);
        }
        Ok(())
    }

    /// Sets the reason for leaving an origin aside.
    pub(super) fn quarantine(&mut self, origin: Origin, reason: String) -> Result<(), StoreError> {
        self.forget_begun(origin)?;
        self.state.origin_log(origin).quarantined = Some(reason);
        self.state.put_origin(&self.db, origin)
    }
}
