//! Units on disk, and the ones decoded lately in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use landfall_protocol::clock::Hlc;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::unit::{Unit, UnitHash};
use rusqlite::params;

use super::crc::{Crc, is_sum};
use super::error::StoreError;
use super::record::OpenUnit;
use super::sql::{Database, blob, number, stored};

/// Memory a decoded change takes beside its values.
const CHANGE_BYTES: usize = 160;

/// Where a unit stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    rowid: i64,
    pub(super) first: Seq,
    pub(super) last: Seq,
    pub(super) hash: UnitHash,
    /// Row changes from the origin's first unit to the end of this one.
    pub(super) changes_to: u64,
    /// Bytes likewise.
    pub(super) bytes_to: u64,
}

/// A unit to be written, with the origin's running sums.
pub(super) struct Entry<'a> {
    pub(super) origin_no: u64,
    pub(super) unit: &'a Unit,
    pub(super) changes_to: u64,
    pub(super) bytes_to: u64,
    pub(super) received_at_ms: u64,
}

fn row_name(origin_no: u64, first: Seq) -> String {
    format!("{origin_no}/{first}")
}

pub(super) fn insert(db: &Database<'_>, entry: &Entry<'_>) -> Result<(), StoreError> {
    let header = entry.unit.header();
    let numbers = [
        entry.origin_no,
        header.first.0,
        header.last.0,
        u64::from(header.fragment.number()),
        header.hlc_first.0,
        header.hlc_last.0,
        header.changes(),
        entry.changes_to,
        entry.bytes_to,
        entry.received_at_ms,
    ];
    let hash = entry.unit.hash().0;
    let crc = checksum(&numbers, &hash, entry.unit.bytes());
    let [no, first, last, fragment, hlc_first, hlc_last, changes, changes_to, bytes_to, at] =
        numbers.map(stored);
    db.execute(
        "INSERT INTO unit(origin_no, first, last, fragment, hlc_first, hlc_last, changes,
             changes_to, bytes_to, received_at_ms, hash, crc, bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        params![
            no,
            first,
            last,
            fragment,
            hlc_first,
            hlc_last,
            changes,
            changes_to,
            bytes_to,
            at,
            hash,
            crc,
            entry.unit.bytes()
        ],
    )?;
    Ok(())
}

fn checksum(numbers: &[u64; 10], hash: &[u8], bytes: &[u8]) -> u32 {
    numbers
        .iter()
        .fold(Crc::new(), |crc, number| crc.number(*number))
        .bytes(hash)
        .bytes(bytes)
        .finish()
}

/// The unit that holds `seq`, or the last one before it.
pub(super) fn at_or_before(
    db: &Database<'_>,
    origin_no: u64,
    seq: Seq,
) -> Result<Option<Place>, StoreError> {
    db.row(
        "SELECT rowid, first, last, hash, changes_to, bytes_to FROM unit
         WHERE origin_no = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1",
        params![stored(origin_no), stored(seq.0)],
        |row| {
            let first = Seq(number(row, 1)?);
            let hash = UnitHash(
                blob(row, 3)?
                    .try_into()
                    .map_err(|_| StoreError::corrupt("unit", row_name(origin_no, first)))?,
            );
            Ok(Place {
                rowid: row.get(0)?,
                first,
                last: Seq(number(row, 2)?),
                hash,
                changes_to: number(row, 4)?,
                bytes_to: number(row, 5)?,
            })
        },
    )
}

/// The lowest clock reading in the unit that holds `seq`, or in the last one before it. It stands
/// beside the unit and is good for putting units in order.
pub(super) fn begins_at(
    db: &Database<'_>,
    origin_no: u64,
    seq: Seq,
) -> Result<Option<Hlc>, StoreError> {
    db.row(
        "SELECT hlc_first FROM unit WHERE origin_no = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1",
        params![stored(origin_no), stored(seq.0)],
        |row| Ok(Hlc(number(row, 0)?)),
    )
}

/// The unit that holds `seq`.
pub(super) fn containing(
    db: &Database<'_>,
    origin_no: u64,
    seq: Seq,
) -> Result<Option<Place>, StoreError> {
    Ok(at_or_before(db, origin_no, seq)?.filter(|place| place.last >= seq))
}

/// The last entry of the large transaction that the fragment `first` is part of, if it is held.
pub(super) fn fragments_end(
    db: &Database<'_>,
    origin_no: u64,
    first: Seq,
) -> Result<Option<Seq>, StoreError> {
    db.row(
        "SELECT last FROM unit WHERE origin_no = ?1 AND first >= ?2 AND fragment = 2
         ORDER BY first LIMIT 1",
        params![stored(origin_no), stored(first.0)],
        |row| Ok(Seq(number(row, 0)?)),
    )
}

/// Reads a unit and checks that it is what was written.
pub(super) fn load(
    db: &Database<'_>,
    origin: Origin,
    origin_no: u64,
    place: &Place,
) -> Result<Unit, StoreError> {
    let corrupt = || StoreError::corrupt("unit", row_name(origin_no, place.first));
    let bytes = db
        .row(
            "SELECT origin_no, first, last, fragment, hlc_first, hlc_last, changes, changes_to,
                 bytes_to, received_at_ms, hash, crc, bytes
             FROM unit WHERE rowid = ?1",
            [place.rowid],
            |row| {
                let mut numbers = [0; 10];
                for (index, value) in numbers.iter_mut().enumerate() {
                    *value = number(row, index)?;
                }
                let bytes = blob(row, 12)?;
                if !is_sum(checksum(&numbers, blob(row, 10)?, bytes), number(row, 11)?) {
                    return Err(corrupt());
                }
                Ok(bytes.to_vec())
            },
        )?
        .ok_or_else(corrupt)?;
    let unit = Unit::from_store(bytes).map_err(|_| corrupt())?;
    let header = unit.header();
    if (header.origin, header.first, unit.hash()) != (origin, place.first, place.hash) {
        return Err(corrupt());
    }
    Ok(unit)
}

/// The unit that holds `seq`, decoded.
pub(super) fn open(
    db: &Database<'_>,
    cache: &UnitCache,
    origin: Origin,
    origin_no: u64,
    seq: Seq,
) -> Result<Option<Arc<OpenUnit>>, StoreError> {
    let Some(place) = containing(db, origin_no, seq)? else {
        return Ok(None);
    };
    if let Some(open) = cache.get(place.hash) {
        return Ok(Some(open));
    }
    let unit = load(db, origin, origin_no, &place)?;
    let transactions = unit.transactions().map_err(|error| StoreError::BadUnit {
        origin,
        first: place.first,
        error,
    })?;
    let transactions = transactions.into_iter().map(Arc::new).collect();
    let open =
        Arc::new(OpenUnit { header: unit.header().clone(), hash: unit.hash(), transactions });
    // A piece is read once, and large.
    if open.transactions.iter().all(|transaction| transaction.piece.is_none()) {
        cache.put(&open);
    }
    Ok(Some(open))
}

/// Decoded units by hash, the ones used last; shared, because what is applied now is folded soon.
#[derive(Debug)]
pub(super) struct UnitCache {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    uses: u64,
    units: BTreeMap<UnitHash, CachedUnit>,
    by_use: BTreeMap<u64, UnitHash>,
}

#[derive(Debug)]
struct CachedUnit {
    unit: Arc<OpenUnit>,
    bytes: usize,
    used: u64,
}

impl UnitCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, kept: Mutex::default() }
    }

    fn get(&self, hash: UnitHash) -> Option<Arc<OpenUnit>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *kept;
        let found = kept.units.get_mut(&hash)?;
        kept.by_use.remove(&found.used);
        kept.uses += 1;
        found.used = kept.uses;
        kept.by_use.insert(kept.uses, hash);
        Some(Arc::clone(&found.unit))
    }

    fn put(&self, unit: &Arc<OpenUnit>) {
        let bytes = unit
            .transactions
            .iter()
            .map(|transaction| transaction.size_bytes() + transaction.changes.len() * CHANGE_BYTES)
            .sum();
        if bytes > self.bytes_max {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *kept;
        if kept.units.contains_key(&unit.hash) {
            return;
        }
        kept.uses += 1;
        let used = kept.uses;
        kept.units.insert(unit.hash, CachedUnit { unit: Arc::clone(unit), bytes, used });
        kept.by_use.insert(used, unit.hash);
        kept.bytes += bytes;
        while kept.bytes > self.bytes_max
            && let Some((_, oldest)) = kept.by_use.pop_first()
            && let Some(dropped) = kept.units.remove(&oldest)
        {
            kept.bytes -= dropped.bytes;
        }
    }
}
