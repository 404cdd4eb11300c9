//! From own transactions to units, and the way of units into the store.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use landfall_protocol::change::Fragment;
use landfall_protocol::fold::OwnTransaction;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::schema::{SetId, TableId};
use landfall_protocol::unit::{SealContext, UNIT_BYTES_MAX, UNIT_PLAIN_BYTES_MAX, Unit};

use rusqlite::params;

use super::error::StoreError;
use super::record::{Appended, Sealing};
use super::sql::stored;
use super::state::TailSize;
use super::tail::{self, Flush};
use super::units::{self, Entry};
use super::writer::Writer;
use crate::plant;

/// zstd level of units at rest.
const SEAL_LEVEL: i32 = 3;
/// What one transaction may add to its own encoding inside a unit: a few bytes per part.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// Consecutive transactions that may be one unit.
#[derive(Default)]
pub(super) struct Run {
    fleet_version: u64,
    pub(super) sets: BTreeMap<TableId, SetId>,
    /// Each with about the bytes it takes; a compacted run is not divided, and does not say.
    pub(super) own: Vec<(OwnTransaction, usize)>,
    pub(super) bytes: usize,
    /// Whether something was left out of it: then it must be one unit.
    pub(super) is_compacted: bool,
}

impl Run {
    /// Whether the next transaction must not join: units are cut where the vector changes, before and
    /// after fragments, and where the fleet's rules change.
    fn ends_before(&self, flush: &Flush, next: &OwnTransaction) -> bool {
        let Some((last, _)) = self.own.last() else { return false };
        let mut sets = flush.sets.iter();
        let crosses = !next.vector.is_empty() && !plant::active("compaction-across-vectors");
        last.fragment != Fragment::Whole
            || next.fragment != Fragment::Whole
            || crosses
            || self.fleet_version != flush.fleet_version
            || sets.any(|(table, set)| self.sets.get(table).is_some_and(|known| known != set))
    }

    /// The form in which it waits in the tail.
    pub(super) fn into_flush(self) -> (Flush, Vec<u8>) {
        let Self { fleet_version, sets, own, is_compacted, .. } = self;
        let own = own.into_iter().map(|(own, _)| own).collect();
        match is_compacted {
            true => Flush::encode_compacted(fleet_version, sets, own),
            false => Flush::encode(fleet_version, sets, own),
        }
    }
}

/// Divides flushes that follow on each other where units must be cut.
pub(super) fn runs(flushes: Vec<Flush>) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut run = Run::default();
    for mut flush in flushes {
        for (own, bytes) in std::mem::take(&mut flush.own) {
            if run.ends_before(&flush, &own) {
                runs.push(std::mem::take(&mut run));
            }
            run.fleet_version = flush.fleet_version;
            run.sets.extend(&flush.sets);
            run.bytes += bytes;
            run.own.push((own, bytes));
            run.is_compacted |= flush.is_compacted;
        }
    }
    runs.extend((!run.own.is_empty()).then_some(run));
    runs
}

impl Writer<'_> {
    /// Makes a flush durable: sealed at once, or in the tail in the form of `data`.
    pub(super) fn take_flush(&mut self, flush: Flush, data: &[u8]) -> Result<(), StoreError> {
        let mut bytes = 0;
        for (own, length) in &flush.own {
            #[cfg(feature = "simulation")]
            crate::simulation::logged(self.state.identity.origin, &own.transaction);
            if *length > UNIT_PLAIN_BYTES_MAX - FRAME_BYTES_MAX {
                return Err(too_large(own.transaction.seq, *length));
            }
            bytes += length;
        }
        let target = self.tools.unit_bytes_max as u64;
        let in_fragments = flush.own.iter().any(|(own, _)| own.fragment != Fragment::Whole);
        let eager = self.tools.sealing == Sealing::Eager || in_fragments;
        let since = self.state.tail.bytes - self.state.tail.settled;
        if eager || bytes as u64 >= target {
            self.seal_tail()?;
        } else if since + bytes as u64 > target {
            self.make_room()?;
        }
        if eager || bytes as u64 >= target {
            return self.seal(runs(vec![flush]));
        }
        let (changes, bytes) = tail::insert(&self.db, &flush, data)?;
        self.state.tail.changes += changes;
        self.state.tail.bytes += bytes;
        Ok(())
    }

    /// Changes when own transactions are sealed; whatever waits is sealed now when it is
    /// [`Sealing::Eager`].
    pub(super) fn set_sealing(&mut self, sealing: Sealing) -> Result<(), StoreError> {
        if sealing == Sealing::Eager {
            self.seal_tail()?;
        }
        self.tools.sealing = sealing;
        Ok(())
    }

    /// Makes units of what waits to be sealed.
    pub(super) fn seal_tail(&mut self) -> Result<(), StoreError> {
        if self.state.tail.bytes == 0 {
            return Ok(());
        }
        let runs = self.compacted_tail()?;
        self.seal(runs)?;
        tail::clear(&self.db)?;
        self.state.tail = TailSize::default();
        Ok(())
    }

    pub(super) fn seal(&mut self, runs: Vec<Run>) -> Result<(), StoreError> {
        for run in runs {
            self.seal_run(run)?;
        }
        self.state.put_origin(&self.db, self.state.identity.origin)
    }

    /// Makes a unit of a run, or several where it is too long.
    fn seal_run(&mut self, run: Run) -> Result<(), StoreError> {
        let bytes_max = self.tools.unit_bytes_max;
        let Run { own, sets, fleet_version, is_compacted, .. } = run;
        let (mut unit, mut length) = (Vec::new(), 0);
        for (own, bytes) in own {
            if !is_compacted && !unit.is_empty() && length + bytes > bytes_max {
                self.seal_unit(std::mem::take(&mut unit), fleet_version, &sets, false)?;
                length = 0;
            }
            length += bytes;
            unit.push(own);
        }
        self.seal_unit(unit, fleet_version, &sets, is_compacted)
    }

    fn seal_unit(
        &mut self,
        own: Vec<OwnTransaction>,
        fleet_version: u64,
        sets: &BTreeMap<TableId, SetId>,
        is_compacted: bool,
    ) -> Result<(), StoreError> {
        let Some(first) = own.first() else { return Ok(()) };
        let fragment = if is_compacted { Fragment::Compacted } else { first.fragment };
        let vector = first.vector.clone();
        let transactions: Vec<_> = own.into_iter().map(|own| own.transaction).collect();
        let context = SealContext {
            origin: self.state.identity.origin,
            fleet_version,
            fragment,
            previous: self.state.own_log().hash,
            vector: &vector,
            level: SEAL_LEVEL,
        };
        // Every table of a change had its set noted when it was folded.
        let set_of = |table| sets.get(&table).copied().unwrap_or(SetId(1));
        let unit =
            Unit::seal(context, &transactions, set_of, |message| (self.tools.signer)(message));
        let plain: u64 = unit.header().parts.iter().map(|part| part.plain_bytes).sum();
        if plain > UNIT_PLAIN_BYTES_MAX as u64 || unit.bytes().len() > UNIT_BYTES_MAX {
            return Err(too_large(unit.header().first, unit.bytes().len().max(plain as usize)));
        }
        self.tools.counters.sealed.fetch_add(1, Ordering::Relaxed);
        let received_at_ms = unit.header().hlc_last.ms();
        self.insert_unit(&unit, received_at_ms)
    }

    fn insert_unit(&mut self, unit: &Unit, received_at_ms: u64) -> Result<(), StoreError> {
        let header = unit.header();
        let log = self.state.origin_log(header.origin);
        log.units += 1;
        log.changes += header.changes();
        log.bytes += unit.bytes().len() as u64;
        log.received = header.last;
        log.hash = unit.hash();
        let entry = Entry {
            origin_no: log.no,
            unit,
            changes_to: log.changes,
            bytes_to: log.bytes,
            received_at_ms,
        };
        units::insert(&self.db, &entry)?;
        self.note_piece(unit)
    }

    /// Notes where a piece of a long value is. A unit that does not decode blocks its origin when
    /// it is applied; to pass it on it need not be understood.
    fn note_piece(&self, unit: &Unit) -> Result<(), StoreError> {
        let header = unit.header();
        if header.fragment != Fragment::More || header.changes() > 0 {
            return Ok(());
        }
        let piece = unit.transactions().ok().and_then(|found| found.into_iter().next()?.piece);
        let Some(piece) = piece else { return Ok(()) };
        self.db.execute(
            "INSERT OR IGNORE INTO piece(hash, place, origin_no, seq) VALUES (?1, ?2, ?3, ?4)",
            params![
                piece.hash,
                piece.index,
                stored(self.state.origin_log_no(header.origin)),
                stored(header.first.0)
            ],
        )?;
        Ok(())
    }

    /// Stores checked units of others.
    pub(super) fn append(
        &mut self,
        units: &[Unit],
        now_ms: u64,
    ) -> Result<Vec<Appended>, StoreError> {
        let mut origins: Vec<Origin> = Vec::new();
        let mut results = Vec::with_capacity(units.len());
        for unit in units {
            let result = self.judge(unit)?;
            if result == Appended::Stored {
                self.insert_unit(unit, now_ms)?;
                self.state.progress.received_changes += unit.header().changes();
                origins.push(unit.header().origin);
            }
            results.push(result);
        }
        origins.sort_unstable();
        origins.dedup();
        if origins.is_empty() {
            return Ok(results);
        }
        for origin in origins {
            self.forget_begun(origin)?;
            self.state.put_origin(&self.db, origin)?;
        }
        self.state.put_progress(&self.db)?;
        Ok(results)
    }

    /// What is to become of a unit.
    fn judge(&self, unit: &Unit) -> Result<Appended, StoreError> {
        let header = unit.header();
        if !header.is_plausible() {
            return Ok(Appended::Malformed);
        }
        let log = self.state.origins.get(&header.origin);
        let held = log.map_or(Seq::ZERO, |log| log.received);
        if let Some(log) = log
            && header.first <= held
        {
            let known = units::containing(&self.db, log.no, header.first)?.ok_or_else(|| {
                StoreError::corrupt("unit", format!("{}/{}", log.no, header.first))
            })?;
            if (known.first, known.hash) == (header.first, unit.hash()) {
                return Ok(Appended::Duplicate);
            }
            // What is damaged here speaks against nobody.
            units::load(&self.db, header.origin, log.no, &known)?;
            return Ok(Appended::Forked { seq: header.first });
        }
        if header.origin == self.state.identity.origin {
            // Only this store seals under this origin: somebody else went on with its log.
            return Ok(Appended::Forked { seq: header.first });
        }
        if header.first != held.next() {
            return Ok(Appended::Gap { held });
        }
        let previous = log.map_or(landfall_protocol::unit::UnitHash::GENESIS, |log| log.hash);
        Ok(if header.previous == previous || plant::active("no-chain-check") {
            Appended::Stored
        } else {
            Appended::Forked { seq: header.first }
        })
    }
}

fn too_large(seq: Seq, bytes: usize) -> StoreError {
    let limit = (UNIT_PLAIN_BYTES_MAX - FRAME_BYTES_MAX) as u64;
    StoreError::TransactionTooLarge { seq, bytes: bytes as u64, limit }
}
