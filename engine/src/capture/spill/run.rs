//! Sorted runs in the scratch file, and their merge.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use landfall_protocol::codec::{DecodeError, Reader, Writer};
use landfall_protocol::fold::{Row, RowEvent};
use landfall_protocol::schema::{ColumnId, TableName};
use landfall_protocol::value::{RowKey, VALUE_BYTES_MAX, Value};

use super::Relations;
use super::net::Net;
use crate::capture::scratch::{ScratchError, ScratchFile};

/// Bytes by which a run is written and read.
const BLOCK_BYTES: usize = 32 << 10;
/// Before each record: its length in bytes, little endian.
const LENGTH_BYTES: usize = 4;

/// A sorted run: where it is in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    begin: u64,
    pub(super) end: u64,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Run {
    /// The run that is all of a file of this length.
    pub(super) fn of_file(bytes: u64) -> Self {
        Self { begin: 0, end: bytes }
    }
}

/// Writes one run at the end of the file.
pub(super) struct RunWriter<'a> {
    scratch: &'a ScratchFile,
    begin: u64,
    end: u64,
    block: Vec<u8>,
}

impl<'a> RunWriter<'a> {
    pub(super) fn new(scratch: &'a ScratchFile, begin: u64) -> Self {
        Self { scratch, begin, end: begin, block: Vec::new() }
    }

    pub(super) fn push(
        &mut self,
        key: &RowKey,
        net: &Net,
        relations: &mut Relations,
    ) -> Result<(), ScratchError> {
        if net.events().is_empty() {
            return Ok(());
        }
        let mut out = Writer::new();
        out.bytes(key.as_bytes());
        out.varint(net.events().len() as u64);
        for event in net.events() {
            out.varint(relations.number(&event.relation) as u64);
            for row in [&event.old, &event.new] {
                out.u8(u8::from(row.is_some()));
                if let Some(row) = row {
                    out.varint(row.iter().len() as u64);
                    for (place, value) in row.iter() {
                        out.varint(u64::from(place.0));
                        value.encode(&mut out);
                    }
                }
            }
        }
        let record = out.into_bytes();
        self.block.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&record);
        if self.block.len() >= BLOCK_BYTES { self.write_block() } else { Ok(()) }
    }

    fn write_block(&mut self) -> Result<(), ScratchError> {
        self.scratch.write(&self.block, self.end)?;
        self.end += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Run, ScratchError> {
        self.write_block()?;
        Ok(Run { begin: self.begin, end: self.end })
    }
}

/// Reads one run record by record.
#[derive(Debug)]
struct RunReader {
    scratch: Arc<ScratchFile>,
    /// What is not read yet.
    rest: Run,
    block: Vec<u8>,
    at: usize,
}

impl RunReader {
    fn next(&mut self, relations: &Relations) -> Result<Option<(RowKey, Net)>, ScratchError> {
        if !self.fill(LENGTH_BYTES)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes(self.take());
        if !self.fill(length as usize)? {
            return Err(self.scratch.damaged(DecodeError::Truncated));
        }
        let record = &self.block[self.at..self.at + length as usize];
        let decoded = decode(record, relations).map_err(|error| self.scratch.damaged(error))?;
        self.at += length as usize;
        Ok(Some(decoded))
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, _) = self.block[self.at..].split_first_chunk::<N>().expect("filled before");
        self.at += N;
        *bytes
    }

    /// Makes this many bytes stand in the block; `false` at the end of the run.
    fn fill(&mut self, bytes: usize) -> Result<bool, ScratchError> {
        let have = self.block.len() - self.at;
        if have >= bytes {
            return Ok(true);
        }
        self.block.drain(..self.at);
        self.at = 0;
        let left = self.rest.end - self.rest.begin;
        let more = (bytes - have).max(BLOCK_BYTES).min(usize::try_from(left).unwrap_or(usize::MAX));
        self.block.resize(have + more, 0);
        self.scratch.read(&mut self.block[have..], self.rest.begin)?;
        self.rest.begin += more as u64;
        Ok(self.block.len() >= bytes)
    }
}

fn decode(record: &[u8], relations: &Relations) -> Result<(RowKey, Net), DecodeError> {
    let mut from = Reader::new(record);
    let key = RowKey::from_bytes(from.bytes(VALUE_BYTES_MAX)?);
    let mut net = Net::default();
    for _ in 0..from.count(usize::MAX)? {
        let number = usize::try_from(from.varint()?).map_err(|_| DecodeError::BadNumber)?;
        let relation = Arc::clone(relations.0.get(number).ok_or(DecodeError::BadNumber)?);
        let (old, new) = (decode_row(&mut from)?, decode_row(&mut from)?);
        net.push(RowEvent { relation, old, new });
    }
    from.finish()?;
    Ok((key, net))
}

fn decode_row(from: &mut Reader<'_>) -> Result<Option<Row>, DecodeError> {
    if from.u8()? == 0 {
        return Ok(None);
    }
    let values =
        (0..from.count(usize::MAX)?).map(|_| Ok((ColumnId(from.u16()?), Value::decode(from)?)));
    Ok(Some(Row::of(values.collect::<Result<_, _>>()?)))
}

/// The next row of every run, the smallest first; of one row, the oldest run first.
type Heads = BinaryHeap<Reverse<(TableName, RowKey, usize)>>;

/// Several runs as one: every row once.
#[derive(Debug)]
pub(super) struct Merge {
    runs: Vec<RunReader>,
    /// What the head of each run says.
    nets: Vec<Net>,
    heads: Heads,
}

impl Merge {
    /// Begins to read; `runs` are in the order in which they were written.
    pub(super) fn new(
        scratch: &Arc<ScratchFile>,
        runs: &[Run],
        relations: &Relations,
    ) -> Result<Self, ScratchError> {
        let reader = |run: &Run| RunReader {
            scratch: Arc::clone(scratch),
            rest: *run,
            block: Vec::new(),
            at: 0,
        };
        let runs: Vec<RunReader> = runs.iter().map(reader).collect();
        let nets = vec![Net::default(); runs.len()];
        let mut merge = Self { runs, nets, heads: Heads::new() };
        for run in 0..merge.runs.len() {
            merge.advance(run, relations)?;
        }
        Ok(merge)
    }

    fn advance(&mut self, run: usize, relations: &Relations) -> Result<(), ScratchError> {
        if let Some((key, net)) = self.runs[run].next(relations)?
            && let Some(event) = net.events().first()
        {
            let table = event.relation.name.clone();
            self.heads.push(Reverse((table, key, run)));
            self.nets[run] = net;
        }
        Ok(())
    }

    /// The next row with everything that happened to it.
    pub(super) fn next(
        &mut self,
        relations: &Relations,
    ) -> Result<Option<(TableName, RowKey, Net)>, ScratchError> {
        loop {
            let Some(Reverse((table, key, run))) = self.heads.pop() else { return Ok(None) };
            let mut net = std::mem::take(&mut self.nets[run]);
            self.advance(run, relations)?;
            while let Some(Reverse((next_table, next_key, run))) = self.heads.peek()
                && (next_table, next_key) == (&table, &key)
            {
                let run = *run;
                self.heads.pop();
                for event in std::mem::take(&mut self.nets[run]).into_events() {
                    net.push(event);
                }
                self.advance(run, relations)?;
            }
            // A row that came and went in the same transaction is no news.
            if !net.events().is_empty() {
                return Ok(Some((table, key, net)));
            }
        }
    }
}
