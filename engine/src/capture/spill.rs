//! A transaction too large for memory, on its way through a scratch file.
//!
//! Rows are collected in memory, netted by key, and written out as a sorted run whenever there are
//! too many. At the commit the runs are merged, so that every row comes once, with its net effect,
//! and in an order that the same transaction always gives. Rows that go come first: another row may
//! take over what was unique in them. (External merge sort: Knuth, TAOCP vol. 3, 5.4.)

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use landfall_protocol::codec::{DecodeError, Reader, Writer};
use landfall_protocol::fold::{Relation, RowEvent};
use landfall_protocol::schema::TableName;
use landfall_protocol::value::RowKey;

use super::scratch::{ScratchError, ScratchFile};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod net;
mod run;
#[cfg(test)]
mod tests;

pub(crate) use net::event_bytes;

use net::Net;
use run::{Merge, Run};

/// Runs that are merged at once; when there are more of one level, they become one of the next.
const FAN_IN: usize = 32;
/// Longest name or key in a place.
const PLACE_BYTES_MAX: usize = 1 << 30;

/// What to emit: rows that go, then all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Gone,
    There,
}

/// A row's place in the order in which a large transaction is folded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    phase: Phase,
    table: TableName,
    key: RowKey,
}

impl Place {
    /// Its stored form.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(u8::from(self.phase == Phase::There));
        out.text(&self.table.schema);
        out.text(&self.table.name);
        out.bytes(self.key.as_bytes());
        out.into_bytes()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// Fails when the bytes are not a place.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let phase = if from.u8()? == 0 { Phase::Gone } else { Phase::There };
        let schema = from.text(PLACE_BYTES_MAX)?.to_owned();
        let table = TableName::new(schema, from.text(PLACE_BYTES_MAX)?);
        let key = RowKey::from_bytes(from.bytes(PLACE_BYTES_MAX)?);
        from.finish()?;
        Ok(Self { phase, table, key })
    }
}

/// The descriptions rows refer to by number while they are in the file.
#[derive(Debug, Default)]
struct Relations(Vec<Arc<Relation>>);

impl Relations {
    fn number(&mut self, relation: &Arc<Relation>) -> usize {
        // Rows of one description mostly stand together, so the newest is the likeliest.
        match self.0.iter().rposition(|known| Arc::ptr_eq(known, relation)) {
            Some(number) => number,
            None => {
                self.0.push(Arc::clone(relation));
                self.0.len() - 1
            }
        }
    }
}

/// Rows of one transaction, netted; in memory until [`Spill::write_out`].
#[derive(Debug, Default)]
pub(super) struct Spill {
    rows: BTreeMap<TableName, BTreeMap<RowKey, Net>>,
    relations: Relations,
    scratch: Option<Arc<ScratchFile>>,
    /// Older runs first, and within a level as well; a higher level is older.
    levels: Vec<Vec<Run>>,
    /// Where the file ends.
    end: u64,
}

impl Spill {
    /// Takes the next row.
    pub(super) fn push(&mut self, event: RowEvent) {
        for event in net::split(event) {
            let relation = &event.relation;
            let key = net::key_of(&event);
            if let Some(rows) = self.rows.get_mut(&relation.name) {
                rows.entry(key).or_default().push(event);
            } else {
                let name = relation.name.clone();
                self.rows.entry(name).or_default().entry(key).or_default().push(event);
            }
        }
    }

    /// Writes what is in memory into the file, made in `dir` when it is the first time.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub(super) fn write_out(&mut self, dir: &Path) -> Result<(), ScratchError> {
        let rows = std::mem::take(&mut self.rows);
        let scratch = match &self.scratch {
            Some(scratch) => Arc::clone(scratch),
            None => Arc::clone(self.scratch.insert(Arc::new(ScratchFile::create(dir, "spill")?))),
        };
        let mut writer = run::RunWriter::new(&scratch, self.end);
        for (_, rows) in rows {
            for (key, net) in rows {
                writer.push(&key, &net, &mut self.relations)?;
            }
        }
        let run = writer.finish()?;
        self.end = run.end;
        self.add(run, 0)
    }

    fn add(&mut self, run: Run, level: usize) -> Result<(), ScratchError> {
        if self.levels.len() <= level {
            self.levels.push(Vec::new());
        }
        self.levels[level].push(run);
        if self.levels[level].len() < FAN_IN {
            return Ok(());
        }
        let Some(scratch) = self.scratch.clone() else { return Ok(()) };
        let runs = std::mem::take(&mut self.levels[level]);
        let mut merge = Merge::new(&scratch, &runs, &self.relations)?;
        let mut writer = run::RunWriter::new(&scratch, self.end);
        while let Some((_, key, net)) = merge.next(&self.relations)? {
            writer.push(&key, &net, &mut self.relations)?;
        }
        let run = writer.finish()?;
        self.end = run.end;
        self.add(run, level + 1)
    }

    /// All rows are there: begins to give them back, from behind `after`.
    ///
    /// # Errors
    /// The file cannot be written or read.
    pub(super) fn finish(
        mut self,
        dir: &Path,
        after: Option<Place>,
    ) -> Result<Spilled, ScratchError> {
        self.write_out(dir)?;
        let scratch = self.scratch.clone().unwrap_or(Arc::new(ScratchFile::create(dir, "spill")?));
        let runs: Vec<Run> = self.levels.into_iter().rev().flatten().collect();
        let merge = Merge::new(&scratch, &runs, &self.relations)?;
        let phase = Phase::Gone;
        let mut spilled =
            Spilled { relations: self.relations, scratch, runs, phase, merge, next: None };
        spilled.next = spilled.read_next()?;
        while let Some(after) = &after
            && spilled.next.as_ref().is_some_and(|(place, _)| place <= after)
        {
            spilled.next = spilled.read_next()?;
        }
        Ok(spilled)
    }
}

/// The rows of a large transaction on their way back.
#[derive(Debug)]
pub(super) struct Spilled {
    relations: Relations,
    scratch: Arc<ScratchFile>,
    runs: Vec<Run>,
    phase: Phase,
    merge: Merge,
    next: Option<(Place, Net)>,
}

/// A bounded share of a large transaction.
#[derive(Debug)]
pub(super) struct Share {
    /// The rows' net events.
    pub(super) rows: Vec<RowEvent>,
    /// Where to go on; `None` after the last share.
    pub(super) after: Option<Place>,
    /// Roughly the memory its rows take.
    pub(super) bytes: usize,
}

impl Spilled {
    /// The next share: about `bytes_max`, but at least one row if any is left. After the last one
    /// it must not be called again.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next_share(&mut self, bytes_max: usize) -> Result<Share, ScratchError> {
        let mut share = Share { rows: Vec::new(), after: None, bytes: 0 };
        while let Some((place, net)) = self.next.take() {
            share.bytes += net.bytes();
            share.rows.extend(net.into_events());
            self.next = self.read_next()?;
            if share.bytes >= bytes_max && self.next.is_some() {
                share.after = Some(place);
                return Ok(share);
            }
        }
        Ok(share)
    }

    fn read_next(&mut self) -> Result<Option<(Place, Net)>, ScratchError> {
        loop {
            match self.merge.next(&self.relations)? {
                Some((table, key, net)) => {
                    let phase = if net.is_gone() { Phase::Gone } else { Phase::There };
                    if phase == self.phase {
                        return Ok(Some((Place { phase, table, key }, net)));
                    }
                }
                None if self.phase == Phase::Gone => {
                    self.phase = Phase::There;
                    self.merge = Merge::new(&self.scratch, &self.runs, &self.relations)?;
                }
                None => return Ok(None),
            }
        }
    }
}
