//! The writing thread's state: what it keeps in memory and how that stands in the tables.

use std::collections::BTreeMap;

use landfall_protocol::clock::{Clock, Hlc};
use landfall_protocol::codec::{DecodeError, Reader, Writer};
use landfall_protocol::dictionary::{Dictionary, Entry};
use landfall_protocol::fold::{Fates, Fold, MarkerKey};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::schema::{COLUMNS_MAX, ColumnId, TableDef, TableId};
use landfall_protocol::unit::UnitHash;
use landfall_protocol::version::VersionVector;
use rusqlite::params;

use super::begun::{self, BegunSize};
use super::bond::{self, Bond};
use super::crc::{guard, unguard};
use super::error::StoreError;
use super::record::{DatabaseIdentity, Identity, Log, Resume};
use super::sql::{Database, blob, number, stored};
use crate::plant;

const NAME_BYTES_MAX: usize = 4096;
/// A row's key and a table's name.
const RESUME_BYTES_MAX: usize = 1 << 30;

/// Counters that are written with every fold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) fold_lsn: u64,
    /// Set while the transaction behind `fold_lsn` is folded in part.
    pub(super) resume: Option<Resume>,
    pub(super) fates: Fates,
    pub(super) received_changes: u64,
    pub(super) repaired: u64,
}

/// One origin's log as far as it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OriginLog {
    pub(super) no: u64,
    pub(super) received: Seq,
    pub(super) hash: UnitHash,
    pub(super) units: u64,
    pub(super) changes: u64,
    pub(super) bytes: u64,
    pub(super) quarantined: Option<String>,
}

/// An origin's row: its log, and what the fold knows of it.
#[derive(Clone, Debug)]
pub(super) struct OriginRow {
    pub(super) origin: Origin,
    pub(super) log: OriginLog,
    pub(super) applied: Seq,
    vector: VersionVector,
}

/// Own transactions not sealed yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TailSize {
    pub(super) changes: u64,
    pub(super) bytes: u64,
    /// So many of the bytes were left when it was last compacted.
    pub(super) settled: u64,
}

/// All of it. After a failure it is loaded again, so it never says more than the tables.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) identity: Identity,
    pub(super) marker_key: MarkerKey,
    pub(super) fold: Fold,
    pub(super) progress: Progress,
    /// At least `progress.fold_lsn`; not stored.
    pub(super) seen_lsn: u64,
    pub(super) origins: BTreeMap<Origin, OriginLog>,
    pub(super) tail: TailSize,
    pub(super) dirty: u64,
    pub(super) fenced: Option<String>,
    /// As a fence, until the database proves that it is ours.
    pub(super) suspended: Option<String>,
    pub(super) bond: Bond,
    /// Of which units the beginning is kept.
    pub(super) begun: BTreeMap<Origin, BegunSize>,
}

impl State {
    /// The state of a new store.
    pub(super) fn new(identity: Identity, marker_key: MarkerKey, start_lsn: u64) -> Self {
        Self {
            marker_key,
            fold: Fold::new(identity.origin),
            identity,
            progress: Progress { fold_lsn: start_lsn, ..Progress::default() },
            seen_lsn: start_lsn,
            origins: BTreeMap::new(),
            tail: TailSize::default(),
            dirty: 0,
            fenced: None,
            suspended: None,
            bond: Bond::default(),
            begun: BTreeMap::new(),
        }
    }

    /// Why nothing may be folded.
    pub(super) fn standstill(&self) -> Option<&String> {
        self.fenced.as_ref().or(self.suspended.as_ref())
    }

    /// Writes the first rows of a new store.
    pub(super) fn create(&mut self, db: &Database<'_>) -> Result<(), StoreError> {
        put_meta(db, "identity", encode_identity(&self.identity))?;
        put_meta(db, "marker_key", self.marker_key.secret().to_vec())?;
        self.put_progress(db)?;
        self.origin_log(self.identity.origin);
        self.put_origin(db, self.identity.origin)
    }

    /// Reads everything; within a transaction, as that left it.
    pub(super) fn load(db: &Database<'_>) -> Result<Self, StoreError> {
        let identity = read_meta(db, "identity", decode_identity)?
            .ok_or_else(|| StoreError::corrupt("meta", "identity"))?;
        let marker_key = read_meta(db, "marker_key", |from| Ok(MarkerKey::new(from.array()?)))?
            .ok_or_else(|| StoreError::corrupt("meta", "marker_key"))?;
        let mut state = Self::new(identity, marker_key, 0);
        state.load_progress(db)?;
        state.load_origins(db)?;
        state.fold.dictionary = load_dictionary(db)?;
        state.load_foreign_tables(db)?;
        state.fenced = read_meta(db, "fenced", |from| Ok(from.text(NAME_BYTES_MAX)?.to_owned()))?;
        state.suspended = bond::load_suspended(db)?;
        state.bond = Bond::load(db)?;
        state.begun = begun::sizes(db)?.into_iter().collect();
        state.tail = load_tail(db, &state)?;
        state.dirty =
            db.row("SELECT count(*) FROM dirty", [], |row| number(row, 0))?.unwrap_or_default();
        Ok(state)
    }

    /// What everybody may know; only what is committed.
    pub(super) fn log(&self) -> Log {
        let own = self.identity.origin;
        let mut applied = self.fold.applied.clone();
        applied.advance(own, self.fold.last_seq);
        Log {
            received: self.origins.iter().map(|(origin, log)| (*origin, log.received)).collect(),
            applied,
            own: self.fold.last_seq,
            fold_lsn: self.progress.fold_lsn,
            seen_lsn: self.seen_lsn,
            fates: self.progress.fates,
            received_changes: self.progress.received_changes,
            repaired: self.progress.repaired,
            dirty: self.dirty,
            fenced: self.standstill().cloned(),
            quarantined: self
                .origins
                .iter()
                .filter_map(|(origin, log)| Some((*origin, log.quarantined.clone()?)))
                .collect(),
        }
    }

    /// The log of an origin, begun if it is new.
    pub(super) fn origin_log(&mut self, origin: Origin) -> &mut OriginLog {
        let no = self.origins.len() as u64 + 1;
        self.origins.entry(origin).or_insert_with(|| OriginLog {
            no,
            received: Seq::ZERO,
            hash: UnitHash::GENESIS,
            units: 0,
            changes: 0,
            bytes: 0,
            quarantined: None,
        })
    }

    /// The number of an origin whose log is begun.
    pub(super) fn origin_log_no(&self, origin: Origin) -> u64 {
        self.origins[&origin].no
    }

    pub(super) fn own_log(&self) -> &OriginLog {
        &self.origins[&self.identity.origin]
    }

    /// Writes an origin's row.
    pub(super) fn put_origin(&self, db: &Database<'_>, origin: Origin) -> Result<(), StoreError> {
        let Some(log) = self.origins.get(&origin) else {
            return Ok(());
        };
        let mut out = Writer::new();
        out.varint(log.received.0);
        out.raw(&log.hash.0);
        for number in [log.units, log.changes, log.bytes, self.fold.applied.get(origin).0] {
            out.varint(number);
        }
        match self.fold.origin_vectors.get(&origin) {
            Some(vector) => vector.encode(&mut out),
            None => VersionVector::new().encode(&mut out),
        }
        out.varint(u64::from(log.quarantined.is_some()));
        out.text(log.quarantined.as_deref().unwrap_or_default());
        let incarnation = origin.incarnation.number();
        db.execute(
            "INSERT INTO origin(no, site, incarnation, state) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT(no) DO UPDATE SET state = excluded.state",
            params![
                stored(log.no),
                origin.site.number(),
                stored(incarnation),
                guard(&origin_key(origin), out.into_bytes())
            ],
        )?;
        Ok(())
    }

    /// Writes clock, positions and counters.
    pub(super) fn put_progress(&self, db: &Database<'_>) -> Result<(), StoreError> {
        let mut out = Writer::new();
        let Progress { fold_lsn, resume, fates, received_changes, repaired } = &self.progress;
        for number in [
            self.fold.clock.last().0,
            self.fold.last_seq.0,
            *fold_lsn,
            fates.applied,
            fates.merged,
            fates.superseded,
            fates.parked,
            *received_changes,
            *repaired,
        ] {
            out.varint(number);
        }
        self.fold.unsent.encode(&mut out);
        out.u8(u8::from(self.fold.unfinished));
        out.u8(u8::from(resume.is_some()));
        if let Some(resume) = resume {
            out.varint(resume.commit_lsn);
            out.bytes(&resume.token);
        }
        put_meta(db, "progress", out.into_bytes())
    }

    fn load_progress(&mut self, db: &Database<'_>) -> Result<(), StoreError> {
        read_meta(db, "progress", |from| {
            let last = Hlc(from.varint()?);
            let is_forgotten = plant::active("volatile-clock");
            self.fold.clock = Clock::resume(if is_forgotten { Hlc::ZERO } else { last });
            self.fold.last_seq = Seq(from.varint()?);
            self.progress.fold_lsn = from.varint()?;
            self.progress.fates = Fates {
                applied: from.varint()?,
                merged: from.varint()?,
                superseded: from.varint()?,
                parked: from.varint()?,
            };
            self.progress.received_changes = from.varint()?;
            self.progress.repaired = from.varint()?;
            self.fold.unsent = VersionVector::decode(from)?;
            self.fold.unfinished = from.u8()? == 1;
            if from.u8()? == 1 {
                let commit_lsn = from.varint()?;
                let token = from.bytes(RESUME_BYTES_MAX)?.to_vec();
                self.progress.resume = Some(Resume { commit_lsn, token });
            }
            self.seen_lsn = self.progress.fold_lsn;
            Ok(())
        })?
        .ok_or_else(|| StoreError::corrupt("meta", "progress"))
    }

    fn load_origins(&mut self, db: &Database<'_>) -> Result<(), StoreError> {
        for row in load_origins(db)? {
            if row.applied > Seq::ZERO {
                self.fold.applied.advance(row.origin, row.applied);
                self.fold.origin_vectors.insert(row.origin, row.vector);
                self.fold.foreign_tables.insert(row.origin, BTreeMap::new());
            }
            self.origins.insert(row.origin, row.log);
        }
        if self.origins.contains_key(&self.identity.origin) {
            Ok(())
        } else {
            Err(StoreError::corrupt("origin", self.identity.origin))
        }
    }

    fn load_foreign_tables(&mut self, db: &Database<'_>) -> Result<(), StoreError> {
        for (origin, log) in &self.origins {
            let tables = db.rows(
                "SELECT table_no, def FROM foreign_table WHERE origin_no = ?1",
                [stored(log.no)],
                |row| {
                    let id = table_id("foreign_table", number(row, 0)?)?;
                    let name = format!("{}/{}", log.no, id.0);
                    let def = decode("foreign_table", &name, blob(row, 1)?, TableDef::decode)?;
                    Ok((id, def))
                },
            )?;
            if !tables.is_empty() {
                self.fold.foreign_tables.entry(*origin).or_default().extend(tables);
            }
        }
        Ok(())
    }
}

/// Every origin's row.
pub(super) fn load_origins(db: &Database<'_>) -> Result<Vec<OriginRow>, StoreError> {
    db.rows("SELECT no, site, incarnation, state FROM origin ORDER BY no", [], |row| {
        let no = number(row, 0)?;
        let origin = || {
            let site = SiteId::new(u16::try_from(number(row, 1).ok()?).ok()?)?;
            let incarnation = Incarnation::new(number(row, 2).ok()?)?;
            Some(Origin { site, incarnation })
        };
        let origin = origin().ok_or_else(|| StoreError::corrupt("origin", no))?;
        let decoded = unguard(&origin_key(origin), blob(row, 3)?)
            .and_then(|content| decode_origin(origin, no, content).ok());
        decoded.ok_or_else(|| StoreError::corrupt("origin", no))
    })
}

/// One origin's row, if anything of it is held.
pub(super) fn find_origin(
    db: &Database<'_>,
    origin: Origin,
) -> Result<Option<OriginRow>, StoreError> {
    db.row(
        "SELECT no, state FROM origin WHERE site = ?1 AND incarnation = ?2",
        params![origin.site.number(), stored(origin.incarnation.number())],
        |row| {
            let no = number(row, 0)?;
            unguard(&origin_key(origin), blob(row, 1)?)
                .and_then(|content| decode_origin(origin, no, content).ok())
                .ok_or_else(|| StoreError::corrupt("origin", no))
        },
    )
}

pub(super) fn origin_key(origin: Origin) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(b"origin");
    out.origin(origin);
    out.into_bytes()
}

fn decode_origin(origin: Origin, no: u64, content: &[u8]) -> Result<OriginRow, DecodeError> {
    let mut from = Reader::new(content);
    let received = Seq(from.varint()?);
    let hash = UnitHash(from.array()?);
    let (units, changes, bytes) = (from.varint()?, from.varint()?, from.varint()?);
    let applied = Seq(from.varint()?);
    let vector = VersionVector::decode(&mut from)?;
    let set_aside = from.varint()? == 1;
    let reason = from.text(NAME_BYTES_MAX)?.to_owned();
    from.finish()?;
    let quarantined = set_aside.then_some(reason);
    let log = OriginLog { no, received, hash, units, changes, bytes, quarantined };
    Ok(OriginRow { origin, log, applied, vector })
}

fn load_dictionary(db: &Database<'_>) -> Result<Dictionary, StoreError> {
    let tables = db.rows("SELECT table_no, def FROM own_table ORDER BY table_no", [], |row| {
        let id = table_id("own_table", number(row, 0)?)?;
        decode("own_table", &id.0.to_string(), blob(row, 1)?, |from| {
            let (described, def) = (from.u8()? == 1, TableDef::decode(from)?);
            let gone = (0..from.count(COLUMNS_MAX)?).map(|_| Ok(ColumnId(from.u16()?)));
            let gone = gone.collect::<Result<_, DecodeError>>()?;
            Ok(Entry { table: id, def, described, gone })
        })
    })?;
    Ok(Dictionary::restore(tables))
}

fn load_tail(db: &Database<'_>, state: &State) -> Result<TailSize, StoreError> {
    let (first, last, changes, bytes, settled) = db
        .row(
            "SELECT min(first_seq), max(last_seq), sum(changes), sum(length(data)),
                 sum(length(data) * compacted)
             FROM tail",
            [],
            |row| {
                let number = |index| -> Result<u64, StoreError> {
                    Ok(row.get::<_, Option<i64>>(index)?.unwrap_or_default().cast_unsigned())
                };
                Ok((number(0)?, number(1)?, number(2)?, number(3)?, number(4)?))
            },
        )?
        .unwrap_or_default();
    let sealed = state.own_log().received;
    let dense = if first == 0 {
        sealed == state.fold.last_seq
    } else {
        Some(first) == sealed.0.checked_add(1) && last == state.fold.last_seq.0
    };
    if dense {
        Ok(TailSize { changes, bytes, settled })
    } else {
        Err(StoreError::corrupt("tail", first))
    }
}

/// Writes one of the site's own tables.
pub(super) fn put_own_table(db: &Database<'_>, entry: &Entry) -> Result<(), StoreError> {
    let number = entry.table.0;
    let mut out = Writer::new();
    out.u8(u8::from(entry.described));
    entry.def.encode(&mut out);
    out.varint(entry.gone.len() as u64);
    for column in &entry.gone {
        out.varint(u64::from(column.0));
    }
    db.execute(
        "INSERT OR REPLACE INTO own_table(table_no, def) VALUES (?1, ?2)",
        params![number, guard(key("own_table", &number.to_string()).as_bytes(), out.into_bytes())],
    )?;
    Ok(())
}

/// Writes one of another origin's tables.
pub(super) fn put_foreign_table(
    db: &Database<'_>,
    origin_no: u64,
    id: TableId,
    def: &TableDef,
) -> Result<(), StoreError> {
    let mut out = Writer::new();
    def.encode(&mut out);
    let key = key("foreign_table", &format!("{origin_no}/{}", id.0));
    db.execute(
        "INSERT OR REPLACE INTO foreign_table(origin_no, table_no, def) VALUES (?1, ?2, ?3)",
        params![stored(origin_no), id.0, guard(key.as_bytes(), out.into_bytes())],
    )?;
    Ok(())
}

pub(super) fn put_meta(
    db: &Database<'_>,
    name: &'static str,
    content: Vec<u8>,
) -> Result<(), StoreError> {
    db.execute(
        "INSERT OR REPLACE INTO meta(name, value) VALUES (?1, ?2)",
        params![name, guard(key("meta", name).as_bytes(), content)],
    )?;
    Ok(())
}

pub(super) fn read_meta<T>(
    db: &Database<'_>,
    name: &'static str,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, StoreError> {
    db.row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
        decode("meta", name, blob(row, 0)?, read)
    })
}

fn key(table: &str, row: &str) -> String {
    format!("{table}/{row}")
}

/// Checks a guarded blob and reads all of it.
pub(super) fn decode<T>(
    table: &'static str,
    row: &str,
    guarded: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<T, StoreError> {
    let all = || {
        let mut from = Reader::new(unguard(key(table, row).as_bytes(), guarded)?);
        let value = read(&mut from).ok()?;
        from.finish().ok()?;
        Some(value)
    };
    all().ok_or_else(|| StoreError::corrupt(table, row))
}

/// Puts the checksum behind a blob that [`decode`] will read.
pub(super) fn encode(table: &'static str, row: &str, content: Vec<u8>) -> Vec<u8> {
    guard(key(table, row).as_bytes(), content)
}

fn table_id(table: &'static str, number: u64) -> Result<TableId, StoreError> {
    u32::try_from(number).map(TableId).map_err(|_| StoreError::corrupt(table, number))
}

fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut out = Writer::new();
    out.origin(identity.origin);
    out.u8(u8::from(identity.database.is_some()));
    if let Some(database) = &identity.database {
        out.text(&database.system_identifier);
        out.text(&database.database);
        out.text(&database.slot);
    }
    out.into_bytes()
}

fn decode_identity(from: &mut Reader<'_>) -> Result<Identity, DecodeError> {
    let origin = from.origin()?;
    let database = match from.u8()? {
        0 => None,
        _ => Some(DatabaseIdentity {
            system_identifier: from.text(NAME_BYTES_MAX)?.to_owned(),
            database: from.text(NAME_BYTES_MAX)?.to_owned(),
            slot: from.text(NAME_BYTES_MAX)?.to_owned(),
        }),
    };
    Ok(Identity { origin, database })
}
