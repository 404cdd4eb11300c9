//! What applications were told: inserts and deletes whose commit was acknowledged. Nothing in it
//! comes from a log.

use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::id::Origin;
use landfall_protocol::value::Value;

use super::oracle::{Table, text};

/// A row of a key that is inserted once, whatever happens: table, key.
pub(crate) type Row = (usize, i64);

/// What became of such rows.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// With the life of a site that acknowledged it.
    inserted: BTreeMap<Row, Origin>,
    /// A delete met the row; whether it was committed need not be known.
    doomed: BTreeSet<Row>,
    deleted: BTreeMap<Row, Origin>,
}

/// What a transaction did to such rows, before its outcome is known.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    pub(crate) inserted: Vec<Row>,
    pub(crate) deleted: Vec<Row>,
}

impl Ledger {
    /// A row that is there by all that is known, if `pick` wants one of so many.
    pub(crate) fn known(&self, pick: impl FnOnce(u64) -> u64) -> Option<Row> {
        let known = || self.inserted.keys().filter(|row| row.0 == 0 && !self.doomed.contains(row));
        let count = known().count() as u64;
        if count == 0 { None } else { known().nth(pick(count) as usize).copied() }
    }

    /// A delete of it may be committed.
    pub(crate) fn doom(&mut self, row: Row) {
        self.doomed.insert(row);
    }

    /// The commit was acknowledged.
    pub(crate) fn acknowledge(&mut self, by: Origin, done: Promises) {
        self.inserted.extend(done.inserted.into_iter().map(|row| (row, by)));
        self.deleted.extend(done.deleted.into_iter().map(|row| (row, by)));
    }

    /// Whether these tables keep what was promised by lives of which nothing may be lost.
    pub(crate) fn check(
        &self,
        tables: &[Table],
        is_kept: impl Fn(Origin) -> bool,
    ) -> Result<(), String> {
        let shows = |(table, id): &Row| tables[*table].contains_key(&vec![text(&Value::Int(*id))]);
        for (row, by) in self.inserted.iter().filter(|(_, by)| is_kept(**by)) {
            if !self.doomed.contains(row) && !shows(row) {
                return Err(format!("row {row:?} is missing, which {by} acknowledged"));
            }
        }
        for (row, by) in self.deleted.iter().filter(|(_, by)| is_kept(**by)) {
            if shows(row) {
                return Err(format!("row {row:?} is there, whose delete {by} acknowledged"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use landfall_protocol::id::{Incarnation, SiteId};

    use super::*;

    #[test]
    fn what_was_acknowledged_is_missed() {
        let life = |number| Origin {
            site: SiteId::new(1).expect("it is not zero"),
            incarnation: Incarnation::new(number).expect("it is not zero"),
        };
        let now = life(2);
        let mut ledger = Ledger::default();
        let shows = |ids: &[i64]| {
            let row = |id: &i64| (vec![text(&Value::Int(*id))], Vec::new());
            [ids.iter().map(row).collect::<Table>()]
        };
        let check = |ledger: &Ledger, ids: &[i64]| ledger.check(&shows(ids), |by| by == now);
        let lost = Promises { inserted: vec![(0, 6)], deleted: vec![(0, 7)] };
        ledger.acknowledge(life(1), lost);
        ledger.acknowledge(now, Promises { inserted: vec![(0, 7), (0, 8)], deleted: vec![] });
        assert!(check(&ledger, &[7]).is_err());
        ledger.doom((0, 8));
        assert!(check(&ledger, &[7]).is_ok());
        assert!(check(&ledger, &[7, 8]).is_ok());
        ledger.acknowledge(now, Promises { inserted: vec![], deleted: vec![(0, 8)] });
        assert!(check(&ledger, &[7, 8]).is_err());
    }
}
