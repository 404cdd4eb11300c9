//! Own transactions that are durable but not sealed yet: one row per fold.

use std::collections::BTreeMap;

use landfall_protocol::change::{Fragment, RowChange, Transaction, decode_head, encode_head};
use landfall_protocol::clock::Hlc;
use landfall_protocol::codec::{DecodeError, Reader, Writer};
use landfall_protocol::fold::OwnTransaction;
use landfall_protocol::id::Seq;
use landfall_protocol::schema::{SetId, TableId};
use landfall_protocol::version::VersionVector;
use rusqlite::{Row, params};

use super::crc::{Crc, is_sum};
use super::error::StoreError;
use super::sql::{Database, blob, number, stored};

/// Own transactions of one fold with what the sealer must know: the fleet version and the
/// replication sets in force when they were folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flush {
    pub(super) fleet_version: u64,
    pub(super) sets: BTreeMap<TableId, SetId>,
    /// Each with the bytes it takes here, and within a few bytes in a unit.
    pub(super) own: Vec<(OwnTransaction, usize)>,
    /// Whether something was left out of several flushes: then numbers may be missing between the first and
    /// the last, and it must stay together.
    pub(super) is_compacted: bool,
}

impl Flush {
    /// A flush and the form the tail keeps it in, which also tells how long everything is.
    pub(super) fn encode(
        fleet_version: u64,
        sets: BTreeMap<TableId, SetId>,
        own: Vec<OwnTransaction>,
    ) -> (Self, Vec<u8>) {
        Self::write(fleet_version, sets, own, false)
    }

    /// As [`Flush::encode`], of what is left of several flushes.
    pub(super) fn encode_compacted(
        fleet_version: u64,
        sets: BTreeMap<TableId, SetId>,
        own: Vec<OwnTransaction>,
    ) -> (Self, Vec<u8>) {
        Self::write(fleet_version, sets, own, true)
    }

    fn write(
        fleet_version: u64,
        sets: BTreeMap<TableId, SetId>,
        own: Vec<OwnTransaction>,
        is_compacted: bool,
    ) -> (Self, Vec<u8>) {
        let mut out = Writer::new();
        out.varint(sets.len() as u64);
        for (table, set) in &sets {
            out.varint(u64::from(table.0));
            out.varint(u64::from(set.0));
        }
        let mut last = own.first().map_or(0, |own| own.transaction.seq.0);
        out.varint(last);
        out.varint(own.len() as u64);
        let measured = own.into_iter().map(|own| {
            let before = out.len();
            if is_compacted {
                out.varint(own.transaction.seq.0 - last);
                last = own.transaction.seq.0;
            }
            encode_transaction(&own, &mut out);
            (own, out.len() - before)
        });
        let own = measured.collect();
        (Self { fleet_version, sets, own, is_compacted }, out.into_bytes())
    }

    fn changes(&self) -> u64 {
        self.own.iter().map(|(own, _)| own.transaction.changes.len() as u64).sum()
    }

    fn decode(fleet_version: u64, is_compacted: bool, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let sets = (0..from.count(usize::MAX)?)
            .map(|_| Ok((TableId(from.u32()?), SetId(from.u16()?))))
            .collect::<Result<_, DecodeError>>()?;
        let mut seq = from.varint()?;
        let own = (0..from.count(usize::MAX)? as u64)
            .map(|index| {
                let before = from.rest().len();
                let step = match is_compacted {
                    true => from.varint()?,
                    false => u64::from(index > 0),
                };
                seq = seq.checked_add(step).ok_or(DecodeError::BadNumber)?;
                let own = decode_transaction(Seq(seq), &mut from)?;
                Ok((own, before - from.rest().len()))
            })
            .collect::<Result<_, DecodeError>>()?;
        from.finish()?;
        Ok(Self { fleet_version, sets, own, is_compacted })
    }
}

fn encode_transaction(own: &OwnTransaction, out: &mut Writer) {
    own.vector.encode(out);
    out.varint(own.transaction.hlc.0);
    encode_head(&own.transaction.describes, own.transaction.actor.as_ref(), out);
    out.varint(own.transaction.changes.len() as u64);
    for change in &own.transaction.changes {
        change.encode(out);
    }
}

fn decode_transaction(seq: Seq, from: &mut Reader<'_>) -> Result<OwnTransaction, DecodeError> {
    let vector = VersionVector::decode(from)?;
    let hlc = Hlc(from.varint()?);
    let (describes, actor) = decode_head(from)?;
    let changes =
        (0..from.count(usize::MAX)?).map(|_| RowChange::decode(from)).collect::<Result<_, _>>()?;
    let transaction = Transaction { seq, hlc, actor, describes, changes, piece: None };
    // Fragments are sealed at once and never stand here.
    Ok(OwnTransaction { transaction, fragment: Fragment::Whole, vector })
}

/// Writes a flush of at least one transaction, in its encoded form; says how many changes and bytes
/// it added.
pub(super) fn insert(
    db: &Database<'_>,
    flush: &Flush,
    data: &[u8],
) -> Result<(u64, u64), StoreError> {
    let (Some((first, _)), Some((last, _))) = (flush.own.first(), flush.own.last()) else {
        return Ok((0, 0));
    };
    let (first, last) = (first.transaction.seq, last.transaction.seq);
    let numbers = [first.0, last.0, flush.fleet_version, flush.changes()];
    insert_row(db, numbers, flush.is_compacted, data)?;
    Ok((flush.changes(), data.len() as u64))
}

/// Writes a row: first and last sequence number, fleet version, changes; content.
fn insert_row(
    db: &Database<'_>,
    numbers: [u64; 4],
    is_compacted: bool,
    data: &[u8],
) -> Result<(), StoreError> {
    let crc = checksum(&numbers, is_compacted, data);
    let [first, last, fleet_version, changes] = numbers.map(stored);
    db.execute(
        "INSERT INTO tail(first_seq, last_seq, fleet_version, changes, crc, data, compacted)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![first, last, fleet_version, changes, crc, data, is_compacted],
    )?;
    Ok(())
}

/// Any bytes as a row: 16 for the range it claims, then its content.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn put_raw(db: &Database<'_>, bytes: &[u8]) -> Result<(), StoreError> {
    let (range, data) = bytes.split_at(bytes.len().min(16));
    let mut numbers = [0; 4];
    for (number, bytes) in numbers.iter_mut().zip(range.chunks_exact(8)) {
        *number = bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    let is_compacted = numbers[0].is_multiple_of(2);
    insert_row(db, numbers, is_compacted, data)
}

/// All of it in order, without gaps, after `sealed`.
pub(super) fn load(db: &Database<'_>, sealed: Seq) -> Result<Vec<Flush>, StoreError> {
    let mut next = sealed.next();
    let flushes = db.rows(
        "SELECT first_seq, last_seq, fleet_version, changes, crc, data, compacted FROM tail
         ORDER BY first_seq",
        [],
        |row| {
            let flush = read(row)?;
            let ends = flush.own.first().zip(flush.own.last());
            let first = ends.map(|((first, _), _)| first.transaction.seq);
            if first != Some(next) {
                return Err(StoreError::corrupt("tail", next));
            }
            next = ends.map_or(next, |(_, (last, _))| last.transaction.seq.next());
            Ok(flush)
        },
    )?;
    Ok(flushes)
}

/// One transaction, if it is in the tail.
pub(super) fn find(db: &Database<'_>, seq: Seq) -> Result<Option<Transaction>, StoreError> {
    let found = db.row(
        "SELECT first_seq, last_seq, fleet_version, changes, crc, data, compacted FROM tail
         WHERE first_seq <= ?1 ORDER BY first_seq DESC LIMIT 1",
        [stored(seq.0)],
        read,
    )?;
    Ok(found.and_then(|flush| {
        let mut own = flush.own.into_iter().map(|(own, _)| own.transaction);
        own.find(|transaction| transaction.seq == seq)
    }))
}

/// Empties it.
pub(super) fn clear(db: &Database<'_>) -> Result<(), StoreError> {
    db.execute("DELETE FROM tail", [])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<Flush, StoreError> {
    let numbers = [number(row, 0)?, number(row, 1)?, number(row, 2)?, number(row, 3)?];
    let [first, last, fleet_version, _] = numbers;
    let (data, is_compacted) = (blob(row, 5)?, number(row, 6)? != 0);
    if !is_sum(checksum(&numbers, is_compacted, data), number(row, 4)?) {
        return Err(StoreError::corrupt("tail", first));
    }
    let is_whole = |flush: &Flush| {
        let seq =
            |found: Option<&(OwnTransaction, usize)>| found.map(|(own, _)| own.transaction.seq.0);
        let ends = [seq(flush.own.first()), seq(flush.own.last())];
        let grows = flush
            .own
            .is_sorted_by(|(one, _), (next, _)| one.transaction.seq < next.transaction.seq);
        ends == [Some(first), Some(last)] && grows
    };
    let flush = Flush::decode(fleet_version, is_compacted, data).ok().filter(is_whole);
    flush.ok_or_else(|| StoreError::corrupt("tail", first))
}

fn checksum(numbers: &[u64; 4], is_compacted: bool, data: &[u8]) -> u32 {
    let numbers = numbers.iter().copied().chain(is_compacted.then_some(1));
    numbers.fold(Crc::new(), |crc, number| crc.number(number)).bytes(data).finish()
}
