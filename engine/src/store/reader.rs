//! The thread that reads: one short transaction per command, on a connection that cannot write.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use landfall_protocol::change::Transaction;
use landfall_protocol::clock::Hlc;
use landfall_protocol::codec::{DecodeError, Reader as From, Writer as Bytes};
use landfall_protocol::dictionary::RowId;
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId, TxnId};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::schema::TableId;
use landfall_protocol::unit::{Unit, UnitHash};
use landfall_protocol::value::RowKey;
use landfall_protocol::version::VersionVector;
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use super::clocks::{self, RecentClocks};
use super::error::{Severity, StoreError};
use super::layout::Paths;
use super::record::{Backlog, Dirt, DirtyRow, Held, OpenUnit, PeerRecord, Sizes};
use super::sql::{Database, blob, number, stored};
use super::state::{self, OriginLog, OriginRow, find_origin, load_origins};
use super::tail;
use super::units::{self, UnitCache};
use crate::time::calendar::Month;

/// A command to the reading thread.
pub(super) enum ReadCommand {
    Read(Read),
    Stop,
}

/// A closure over the reader, or over why there is none.
pub(super) struct Read(Box<dyn Question>);

trait Question: for<'r, 'c> FnOnce(Result<&'r Reader<'c>, StoreError>) + Send {}
impl<F: for<'r, 'c> FnOnce(Result<&'r Reader<'c>, StoreError>) + Send> Question for F {}

impl Read {
    /// A question with its reply.
    pub(super) fn new<T: Send + 'static>(
        reply: oneshot::Sender<Result<T, StoreError>>,
        run: impl FnOnce(&Reader<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Self {
        Self(Box::new(move |reader| {
            // Nobody listening any more is no reason to stop.
            drop(reply.send(reader.and_then(run)));
        }))
    }
}

/// The owner of the reading connection.
pub(super) struct Reader<'c> {
    pub(super) db: Database<'c>,
    paths: Paths,
    own: Origin,
    cache: Arc<UnitCache>,
    recent: Arc<RecentClocks>,
}

/// The thread's whole life.
pub(super) fn run(
    connection: &Connection,
    paths: Paths,
    own: Origin,
    (cache, recent): (Arc<UnitCache>, Arc<RecentClocks>),
    mut commands: mpsc::Receiver<ReadCommand>,
) {
    let reader = Reader::new(connection, paths, own, (cache, recent));
    while let Some(ReadCommand::Read(read)) = commands.blocking_recv() {
        reader.answer(read);
    }
}

impl<'c> Reader<'c> {
    pub(super) fn new(
        connection: &'c Connection,
        paths: Paths,
        own: Origin,
        (cache, recent): (Arc<UnitCache>, Arc<RecentClocks>),
    ) -> Self {
        Self { db: Database::new(connection), paths, own, cache, recent }
    }

    /// Answers one question from one snapshot.
    pub(super) fn answer(&self, read: Read) {
        let begun = self.db.execute("BEGIN", []).map(|_| self);
        (read.0)(begun);
        // An open snapshot would keep the write-ahead log from being emptied.
        if !self.db.connection().is_autocommit()
            && let Err(error) = self.db.execute("COMMIT", [])
        {
            tracing::warn!(%error, "store read did not end cleanly");
        }
    }
}

impl Reader<'_> {
    pub(super) fn clocks(&self, rows: &[RowId]) -> Result<Vec<Option<RowClock>>, StoreError> {
        // Memory first: the snapshot of the table begins with the first statement after it.
        let found = self.recent.find(rows).into_iter().zip(rows);
        found
            .map(|(recent, row)| match recent {
                Some(clock) => Ok(Some(clock)),
                None => clocks::load(&self.db, row),
            })
            .collect()
    }

    /// What is damaged ends the answer, and is told to whoever asks for what begins with it.
    pub(super) fn units_after(
        &self,
        origin: Origin,
        after: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Unit>, StoreError> {
        let mut found = Vec::new();
        let Some(row) = find_origin(&self.db, origin)? else { return Ok(found) };
        let mut bytes = 0;
        let mut next = after.next();
        while next <= row.log.received && (found.is_empty() || bytes < bytes_max) {
            let unit = units::containing(&self.db, row.log.no, next)
                .and_then(|place| place.ok_or_else(|| missing(&row, next)))
                .and_then(|place| units::load(&self.db, origin, row.log.no, &place));
            if is_damaged(&unit) && !found.is_empty() {
                break;
            }
            let unit = unit?;
            bytes += unit.bytes().len();
            if !found.is_empty() && bytes > bytes_max {
                break;
            }
            next = unit.header().last.next();
            found.push(unit);
        }
        Ok(found)
    }

    pub(super) fn unit_begins_at(
        &self,
        origin: Origin,
        after: Seq,
    ) -> Result<Option<Hlc>, StoreError> {
        let Some(row) = find_origin(&self.db, origin)? else { return Ok(None) };
        if after >= row.log.received {
            return Ok(None);
        }
        let begins = units::begins_at(&self.db, row.log.no, after.next())?;
        begins.ok_or_else(|| missing(&row, after.next())).map(Some)
    }

    /// As [`Self::units_after`].
    pub(super) fn inbox(
        &self,
        origin: Origin,
        after: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Arc<OpenUnit>>, StoreError> {
        let mut found = Vec::new();
        let Some(row) = find_origin(&self.db, origin)? else { return Ok(found) };
        let mut bytes = 0;
        let mut next = after.next();
        while next <= row.log.received && (found.is_empty() || bytes < bytes_max as u64) {
            let unit = units::open(&self.db, &self.cache, origin, row.log.no, next)
                .and_then(|unit| unit.ok_or_else(|| missing(&row, next)));
            if is_damaged(&unit) && !found.is_empty() {
                break;
            }
            let unit = unit?;
            bytes += unit.header.parts.iter().map(|part| part.plain_bytes).sum::<u64>();
            if !found.is_empty() && bytes > bytes_max as u64 {
                break;
            }
            next = unit.header.last.next();
            found.push(unit);
        }
        Ok(found)
    }

    pub(super) fn fragments_end(
        &self,
        origin: Origin,
        first: Seq,
    ) -> Result<Option<Seq>, StoreError> {
        match find_origin(&self.db, origin)? {
            Some(row) => units::fragments_end(&self.db, row.log.no, first),
            None => Ok(None),
        }
    }

    pub(super) fn transactions(
        &self,
        wanted: Vec<TxnId>,
    ) -> Result<BTreeMap<TxnId, Arc<Transaction>>, StoreError> {
        let mut found = BTreeMap::new();
        let mut rows: BTreeMap<Origin, Option<OriginRow>> = BTreeMap::new();
        for txn in wanted {
            if let std::collections::btree_map::Entry::Vacant(vacant) = rows.entry(txn.origin) {
                vacant.insert(find_origin(&self.db, txn.origin)?);
            }
            let row = rows.get(&txn.origin).and_then(Option::as_ref);
            let held = row.filter(|row| txn.seq <= row.log.received);
            let transaction = match held {
                Some(row) if txn.seq > Seq::ZERO => {
                    let unit = units::open(&self.db, &self.cache, txn.origin, row.log.no, txn.seq)?
                        .ok_or_else(|| missing(row, txn.seq))?;
                    unit.transactions.iter().find(|found| found.seq == txn.seq).map(Arc::clone)
                }
                None if txn.origin == self.own => tail::find(&self.db, txn.seq)?.map(Arc::new),
                _ => None,
            };
            if let Some(transaction) = transaction {
                found.insert(txn, transaction);
            }
        }
        Ok(found)
    }

    pub(super) fn piece(&self, hash: [u8; 32], index: u32) -> Result<Option<String>, StoreError> {
        let place = self.db.row(
            "SELECT origin_no, seq FROM piece WHERE hash = ?1 AND place = ?2",
            params![hash, index],
            |row| Ok((number(row, 0)?, Seq(number(row, 1)?))),
        )?;
        let Some((no, seq)) = place else { return Ok(None) };
        let origins = load_origins(&self.db)?;
        let Some(row) = origins.iter().find(|row| row.log.no == no) else { return Ok(None) };
        let place = units::containing(&self.db, no, seq)?.ok_or_else(|| missing(row, seq))?;
        let unit = units::load(&self.db, row.origin, no, &place)?;
        let transactions = unit.transactions().map_err(|error| StoreError::BadUnit {
            origin: row.origin,
            first: place.first,
            error,
        })?;
        let piece = transactions.into_iter().next().and_then(|found| found.piece);
        Ok(piece.map(|piece| piece.text.into_string()))
    }

    pub(super) fn held(&self) -> Result<Vec<Held>, StoreError> {
        Ok(load_origins(&self.db)?
            .into_iter()
            .filter(|row| row.log.received > Seq::ZERO)
            .map(|row| Held { origin: row.origin, seq: row.log.received, hash: row.log.hash })
            .collect())
    }

    pub(super) fn unit_hashes(
        &self,
        ends: &[(Origin, Seq)],
    ) -> Result<BTreeMap<Origin, UnitHash>, StoreError> {
        let logs = load_origins(&self.db)?.into_iter().map(|row| (row.origin, row.log));
        let logs: BTreeMap<Origin, OriginLog> = logs.collect();
        let mut hashes = BTreeMap::new();
        for (origin, last) in ends {
            let Some(log) = logs.get(origin).filter(|log| *last <= log.received) else { continue };
            if *last == log.received {
                hashes.insert(*origin, log.hash);
            } else if let Some(place) = units::containing(&self.db, log.no, *last)?
                && place.last == *last
            {
                // By this a node is fenced for good: damage must not speak against it.
                if origin.site == self.own.site {
                    units::load(&self.db, *origin, log.no, &place)?;
                }
                hashes.insert(*origin, place.hash);
            }
        }
        Ok(hashes)
    }

    pub(super) fn peers(&self) -> Result<Vec<PeerRecord>, StoreError> {
        load_peers(&self.db)
    }

    pub(super) fn dirty_rows(&self, limit: usize) -> Result<Vec<DirtyRow>, StoreError> {
        self.db.rows(
            "SELECT mark, table_no, key, reason FROM dirty ORDER BY mark LIMIT ?1",
            [stored(limit as u64)],
            |row| {
                let mark = number(row, 0)?;
                let table = u32::try_from(number(row, 1)?)
                    .map_err(|_| StoreError::corrupt("dirty", mark))?;
                let key = RowKey::from_bytes(blob(row, 2)?);
                let row_id = RowId { table: TableId(table), key };
                let why = Dirt::of_reason(&row.get::<_, String>(3)?);
                Ok(DirtyRow { row: row_id, mark, why })
            },
        )
    }

    pub(super) fn sizes(&self) -> Result<Sizes, StoreError> {
        let length = |path| fs::metadata(path).map_or(0, |found| found.len());
        let mut sizes = Sizes {
            database_bytes: length(&self.paths.database),
            wal_bytes: length(&self.paths.wal),
            ..Sizes::default()
        };
        for row in load_origins(&self.db)? {
            sizes.units += row.log.units;
            sizes.unit_bytes += row.log.bytes;
            if row.origin != self.own {
                let (applied, _) = self.sums_to(&row, row.applied)?;
                sizes.pending.insert(row.origin, row.log.changes - applied);
            }
        }
        (sizes.tail_changes, sizes.tail_bytes) = self.tail_size()?;
        Ok(sizes)
    }

    pub(super) fn backlog(&self, peer: &VersionVector) -> Result<Backlog, StoreError> {
        let (changes, bytes) = self.tail_size()?;
        let mut backlog = Backlog { changes, bytes };
        for row in load_origins(&self.db)? {
            let (changes, bytes) = self.sums_to(&row, peer.get(row.origin))?;
            backlog.changes += row.log.changes - changes;
            backlog.bytes += row.log.bytes - bytes;
        }
        Ok(backlog)
    }

    fn tail_size(&self) -> Result<(u64, u64), StoreError> {
        let found = self.db.row(
            "SELECT coalesce(sum(changes), 0), coalesce(sum(length(data)), 0) FROM tail",
            [],
            |row| Ok((number(row, 0)?, number(row, 1)?)),
        )?;
        Ok(found.unwrap_or_default())
    }

    /// Changes and bytes of the whole units of an origin up to `seq`.
    fn sums_to(&self, row: &OriginRow, seq: Seq) -> Result<(u64, u64), StoreError> {
        if seq >= row.log.received {
            return Ok((row.log.changes, row.log.bytes));
        }
        let Some(place) = units::at_or_before(&self.db, row.log.no, seq)? else {
            return Ok((0, 0));
        };
        if place.last <= seq {
            return Ok((place.changes_to, place.bytes_to));
        }
        let before = units::at_or_before(&self.db, row.log.no, Seq(place.first.0 - 1))?;
        Ok(before.map_or((0, 0), |before| (before.changes_to, before.bytes_to)))
    }
}

/// Other errors are never put off: the disk may have failed, and must not be asked again.
fn is_damaged<T>(found: &Result<T, StoreError>) -> bool {
    found.as_ref().is_err_and(|error| error.severity() < Severity::Fatal)
}

fn missing(row: &OriginRow, seq: Seq) -> StoreError {
    StoreError::corrupt("unit", format!("{}/{seq}", row.log.no))
}

/// All peers of which something is known.
pub(super) fn load_peers(db: &Database<'_>) -> Result<Vec<PeerRecord>, StoreError> {
    db.rows("SELECT site, state FROM peer ORDER BY site", [], |row| {
        let no = number(row, 0)?;
        let site = u16::try_from(no)
            .ok()
            .and_then(SiteId::new)
            .ok_or_else(|| StoreError::corrupt("peer", no))?;
        state::decode("peer", &no.to_string(), blob(row, 1)?, |from| {
            Ok(PeerRecord {
                site,
                received: VersionVector::decode(from)?,
                applied: VersionVector::decode(from)?,
                contact_ms: from.varint()?,
                bytes_in: from.varint()?,
                bytes_out: from.varint()?,
                life: decode_life(from)?,
                months: decode_months(from)?,
            })
        })
    })
}

/// Stores before format 6 do not have it.
fn decode_life(from: &mut From<'_>) -> Result<Option<Incarnation>, DecodeError> {
    if from.rest().is_empty() { Ok(None) } else { Ok(Incarnation::new(from.varint()?)) }
}

/// Stores of earlier builds do not have them.
fn decode_months(from: &mut From<'_>) -> Result<BTreeMap<Month, u64>, DecodeError> {
    let mut months = BTreeMap::new();
    while !from.rest().is_empty() {
        let month = Month::new(u32::try_from(from.varint()?).unwrap_or(u32::MAX));
        months.insert(month, from.varint()?);
    }
    Ok(months)
}

/// Writes what is known of a peer.
pub(super) fn put_peer(db: &Database<'_>, peer: &PeerRecord) -> Result<(), StoreError> {
    let mut out = Bytes::new();
    peer.received.encode(&mut out);
    peer.applied.encode(&mut out);
    for number in [peer.contact_ms, peer.bytes_in, peer.bytes_out] {
        out.varint(number);
    }
    out.varint(peer.life.map_or(0, Incarnation::number));
    for (month, bytes) in &peer.months {
        out.varint(month.number().into());
        out.varint(*bytes);
    }
    let site = peer.site.number();
    db.execute(
        "INSERT OR REPLACE INTO peer(site, state) VALUES (?1, ?2)",
        params![site, state::encode("peer", &site.to_string(), out.into_bytes())],
    )?;
    Ok(())
}
