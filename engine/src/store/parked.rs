//! The list of what is parked: one row for each change that was set aside, until the row it is about
//! is shown. There are always as many as the fates count.

use std::collections::BTreeSet;

use landfall_protocol::clock::Stamp;
use landfall_protocol::codec::Writer as Bytes;
use landfall_protocol::dictionary::{LocalChange, RowId};
use landfall_protocol::fold::{ChangeId, Obstacle, Parked};
use landfall_protocol::id::{Seq, TxnId};
use rusqlite::params;

use super::error::StoreError;
use super::reader::Reader;
use super::sql::{Database, blob, number, stored};
use super::state::{self, load_origins};
use super::units;
use super::writer::Writer;

/// A part of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParkedPage {
    /// In the order of origins' first contact, then of their logs.
    pub entries: Vec<Parked>,
    /// Where the next part begins; `None` behind the last.
    pub next: Option<ParkedPlace>,
}

/// A place in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParkedPlace {
    origin_no: u64,
    seq: u64,
    index: u32,
}

/// What became of parked changes that were put under this site's numbers again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejoined {
    /// Those that have a place here, as they are parked now.
    pub entries: Vec<Parked>,
    /// Rows whose clocks moved.
    pub moved: BTreeSet<RowId>,
}

fn name(place: ParkedPlace) -> String {
    format!("{}/{}/{}", place.origin_no, place.seq, place.index)
}

/// Writes an entry.
pub(super) fn put(db: &Database<'_>, origin_no: u64, parked: &Parked) -> Result<(), StoreError> {
    let place = ParkedPlace { origin_no, seq: parked.id.txn.seq.0, index: parked.id.index };
    let mut out = Bytes::new();
    parked.encode(&mut out);
    let row = parked.row.as_ref();
    db.execute(
        "INSERT OR REPLACE INTO parked(origin_no, seq, place, table_no, key, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            stored(origin_no),
            stored(place.seq),
            place.index,
            row.map(|row| row.table.0),
            row.map(|row| row.key.as_bytes()),
            state::encode("parked", &name(place), out.into_bytes())
        ],
    )?;
    Ok(())
}

/// Part of the list from `from` on, and at most `limit` entries.
pub(super) fn load(
    db: &Database<'_>,
    from: ParkedPlace,
    limit: usize,
) -> Result<ParkedPage, StoreError> {
    let origins = load_origins(db)?;
    let found = db.rows(
        "SELECT origin_no, seq, place, state FROM parked
         WHERE (origin_no, seq, place) >= (?1, ?2, ?3) ORDER BY 1, 2, 3 LIMIT ?4",
        params![
            stored(from.origin_no),
            stored(from.seq),
            from.index,
            stored(limit as u64).saturating_add(1)
        ],
        |row| {
            let (origin_no, seq) = (number(row, 0)?, number(row, 1)?);
            let damaged = || StoreError::corrupt("parked", format!("{origin_no}/{seq}"));
            let index = u32::try_from(number(row, 2)?).map_err(|_| damaged())?;
            let place = ParkedPlace { origin_no, seq, index };
            let origin = origins.iter().find(|origin| origin.log.no == origin_no);
            let origin = origin.ok_or_else(damaged)?.origin;
            let id = ChangeId { txn: TxnId { origin, seq: Seq(seq) }, index };
            Ok((
                place,
                state::decode("parked", &name(place), blob(row, 3)?, |from| {
                    Parked::decode(id, from)
                })?,
            ))
        },
    )?;
    let next = found.get(limit).map(|(place, _)| *place);
    Ok(ParkedPage { entries: found.into_iter().take(limit).map(|(_, p)| p).collect(), next })
}

impl Reader<'_> {
    pub(super) fn parked(&self, from: ParkedPlace, limit: usize) -> Result<ParkedPage, StoreError> {
        load(&self.db, from, limit)
    }
}

impl Writer<'_> {
    /// Adds what a fold set aside.
    pub(super) fn park(&mut self, parked: &[Parked]) -> Result<(), StoreError> {
        self.moves_parked |= !parked.is_empty();
        for entry in parked {
            put(&self.db, self.state.origin_log_no(entry.id.txn.origin), entry)?;
        }
        Ok(())
    }

    /// Puts parked changes under the numbers that tables and columns have by now, and joins what has
    /// a place here into the clocks, under the stamps it always had.
    pub(super) fn rejoin_parked(&mut self, ids: &[ChangeId]) -> Result<Rejoined, StoreError> {
        let mut rejoined = Rejoined::default();
        self.moves_parked = true;
        for id in ids {
            let Some(before) = self.parked_entry(*id)? else { continue };
            let local = self.local_change(*id)?;
            let has_place = local.is_ok();
            let mut entry = before.clone();
            match local {
                Ok((stamp, local)) => {
                    let row = local.row.clone();
                    let known = self.clocks.load(&self.db, [row.clone()].into())?;
                    let known = known.into_values().next();
                    let mut clock = known.clone().unwrap_or_default();
                    clock.join(local.op, stamp, &local.cells);
                    if known.as_ref() != Some(&clock) {
                        self.clocks.put(&self.db, [(row.clone(), clock)].into())?;
                        rejoined.moved.insert(row.clone());
                    }
                    entry.row = Some(row);
                    entry.columns = local.unknown_columns;
                    if !entry.columns.is_empty() && !entry.obstacle.hides_row() {
                        entry.obstacle = Obstacle::NoColumn;
                    }
                }
                Err(obstacle) => entry.obstacle = obstacle,
            }
            if entry != before {
                put(&self.db, self.state.origin_log_no(id.txn.origin), &entry)?;
            }
            rejoined.entries.extend(has_place.then_some(entry));
        }
        Ok(rejoined)
    }

    /// Notes what keeps parked changes now.
    pub(super) fn keep_parked(
        &mut self,
        ids: &[ChangeId],
        obstacle: Obstacle,
    ) -> Result<(), StoreError> {
        self.moves_parked = true;
        for id in ids {
            if let Some(entry) = self.parked_entry(*id)?
                && entry.obstacle != obstacle
            {
                let entry = Parked { obstacle, ..entry };
                put(&self.db, self.state.origin_log_no(id.txn.origin), &entry)?;
            }
        }
        Ok(())
    }

    /// Takes changes whose rows are shown off the list, each with the fate it has come to; says how
    /// many there were.
    pub(super) fn free_parked(&mut self, ids: &[ChangeId]) -> Result<u64, StoreError> {
        let mut freed = 0;
        self.moves_parked = true;
        for id in ids {
            let Some(entry) = self.parked_entry(*id)? else { continue };
            let Ok((stamp, local)) = self.local_change(*id)? else { continue };
            let clocks = self.clocks.load(&self.db, [local.row.clone()].into())?;
            let clock = clocks.into_values().next().unwrap_or_default();
            let fate = clock.fate(local.op, stamp, &local.cells);
            let no = self.state.origin_log_no(entry.id.txn.origin);
            self.db.execute(
                "DELETE FROM parked WHERE origin_no = ?1 AND seq = ?2 AND place = ?3",
                params![stored(no), stored(id.txn.seq.0), id.index],
            )?;
            let fates = &mut self.state.progress.fates;
            fates.parked = fates.parked.saturating_sub(1);
            fates.count(fate);
            freed += 1;
        }
        self.state.put_progress(&self.db)?;
        Ok(freed)
    }

    fn parked_entry(&self, id: ChangeId) -> Result<Option<Parked>, StoreError> {
        let Some(log) = self.state.origins.get(&id.txn.origin) else { return Ok(None) };
        let place = ParkedPlace { origin_no: log.no, seq: id.txn.seq.0, index: id.index };
        let page = load(&self.db, place, 1)?;
        Ok(page.entries.into_iter().next().filter(|entry| entry.id == id))
    }

    /// A change of the log under this site's numbers, or why it has none.
    fn local_change(
        &self,
        id: ChangeId,
    ) -> Result<Result<(Stamp, LocalChange), Obstacle>, StoreError> {
        let TxnId { origin, seq } = id.txn;
        let missing = || StoreError::corrupt("unit", format!("{origin}/{seq}"));
        let no = self.state.origin_log_no(origin);
        let unit = units::open(&self.db, &self.tools.units, origin, no, seq)?;
        let unit = unit.ok_or_else(missing)?;
        let transaction = unit.transactions.iter().find(|found| found.seq == seq);
        let transaction = transaction.ok_or_else(missing)?;
        let local = self.state.fold.localize_again(origin, transaction, id.index);
        Ok(local
            .map(|local| (transaction.stamp(origin), local))
            .map_err(|why| Obstacle::from(&why)))
    }
}
