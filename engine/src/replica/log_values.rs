//! Values that only the log has, under this site's numbers.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_protocol::change::{Actor, Transaction};
use landfall_protocol::dictionary::{Dictionary, RowId};
use landfall_protocol::fold::ForeignTransaction;
use landfall_protocol::id::{Origin, TxnId};
use landfall_protocol::merged::State;
use landfall_protocol::plan::{Due, Rest, Source, merged_value, shown_value};
use landfall_protocol::schema::{ColumnId, TableDef, TableId};
use landfall_protocol::value::Value;

use crate::replica::{Replica, ReplicaError};

/// Transactions of the log, ready to be asked for cells.
pub(super) struct LogValues<'a> {
    own: Origin,
    dictionary: &'a Dictionary,
    tables: BTreeMap<Origin, Cow<'a, BTreeMap<TableId, TableDef>>>,
    transactions: BTreeMap<TxnId, Arc<Transaction>>,
}

/// Tables that a group under way describes: what it writes may be asked for before it is applied.
#[derive(Default)]
pub(super) struct Described(BTreeMap<Origin, BTreeMap<TableId, TableDef>>);

impl Described {
    /// These transactions of an origin are in the group.
    pub(super) fn add(&mut self, origin: Origin, transactions: &[ForeignTransaction]) {
        let describes = transactions.iter().flat_map(|foreign| &foreign.transaction.describes);
        for describe in describes {
            let tables = self.0.entry(origin).or_default();
            tables.insert(describe.table, describe.def.clone());
        }
    }
}

impl Replica {
    pub(super) async fn logged(
        &self,
        txns: BTreeSet<TxnId>,
    ) -> Result<LogValues<'_>, ReplicaError> {
        let transactions = if txns.is_empty() {
            BTreeMap::new()
        } else {
            self.store.transactions(txns.into_iter().collect()).await?
        };
        let mut tables: BTreeMap<Origin, Cow<'_, BTreeMap<TableId, TableDef>>> =
            self.pending.iter().map(|(origin, p)| (*origin, Cow::Borrowed(&p.tables))).collect();
        for (origin, described) in &self.described.0 {
            let known = tables.entry(*origin).or_default().to_mut();
            known.extend(described.iter().map(|(table, def)| (*table, def.clone())));
        }
        // What is applied beside us may be folded before we hear of it, and describe tables.
        let is_news = |txn: &TxnId| txn.origin != self.own && !self.applied.covers(*txn);
        let news: BTreeSet<Origin> =
            transactions.keys().filter(|txn| is_news(txn)).map(|txn| txn.origin).collect();
        if !news.is_empty() {
            let mut fold = self.store.fold_state().await?;
            let is_ahead = |origin: &Origin| fold.applied.get(*origin) > self.applied.get(*origin);
            for origin in news.into_iter().filter(is_ahead) {
                let described = fold.foreign_tables.remove(&origin).unwrap_or_default();
                tables.insert(origin, Cow::Owned(described));
            }
        }
        Ok(LogValues { own: self.own, dictionary: &self.dictionary, tables, transactions })
    }
}

impl LogValues<'_> {
    /// The values of cells, wherever they stand; those that nobody wrote are left out.
    pub(super) fn found<'w>(
        &self,
        row: &RowId,
        cells: Vec<(ColumnId, Source<'w>)>,
    ) -> Vec<(ColumnId, Cow<'w, Value>)> {
        let value = |column, source| match source {
            Source::Value(value) => Some(value),
            Source::Logged(txn) => self.value(txn, row, column).map(Cow::Owned),
            Source::Merged(txn, Rest { state, unlogged }) => {
                let logged = self.merged(txn, row, column, &state);
                logged.or_else(|| self.shown(row, column, unlogged?)).map(Cow::Owned)
            }
        };
        let found = |(column, source)| Some((column, value(column, source)?));
        cells.into_iter().filter_map(found).collect()
    }

    /// The value of a cell that was written by `due`, or merged since.
    pub(super) fn due(&self, row: &RowId, column: ColumnId, due: Due) -> Option<Value> {
        match due {
            Due::Logged(txn) => self.value(txn, row, column),
            Due::Merged(txn, state) => self.merged(txn, row, column, &state),
            Due::Value(value) => self.shown(row, column, value),
        }
    }

    fn shown(&self, row: &RowId, column: ColumnId, value: String) -> Option<Value> {
        Some(shown_value(self.dictionary.table(row.table)?, column, value))
    }

    fn merged(&self, birth: TxnId, row: &RowId, column: ColumnId, state: &State) -> Option<Value> {
        let def = self.dictionary.table(row.table)?;
        Some(merged_value(def, column, self.value(birth, row, column)?, state))
    }

    /// On whose behalf the transaction was made, if that is known.
    pub(super) fn actor(&self, txn: TxnId) -> Option<&Actor> {
        self.transactions.get(&txn)?.actor.as_ref()
    }

    /// What the transaction wrote into the cell, if it did.
    pub(super) fn value(&self, txn: TxnId, row: &RowId, column: ColumnId) -> Option<Value> {
        let transaction = self.transactions.get(&txn)?;
        let find = |cells: &[landfall_protocol::change::Cell]| {
            cells.iter().find(|cell| cell.column == column).map(|cell| cell.value.clone())
        };
        if txn.origin == self.own {
            let change = transaction
                .changes
                .iter()
                .find(|change| change.table == row.table && change.key == row.key)?;
            return find(&change.cells);
        }
        let tables = self.tables.get(&txn.origin)?;
        transaction.changes.iter().find_map(|change| {
            let local = self.dictionary.localize(tables.get(&change.table)?, change).ok()?;
            (local.row == *row).then(|| find(&local.cells))?
        })
    }
}
