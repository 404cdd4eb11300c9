//! The beginnings of units that did not arrive whole, so that the next carrier need not send them again.
//! At most one of each origin: what follows on the last unit held. Nothing depends on them: what is
//! damaged, or gone, comes again.

use landfall_protocol::codec::{DecodeError, Reader as From, Writer as Bytes};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::unit::UNIT_BYTES_MAX;
use landfall_protocol::wire::{Begun, BegunMark};
use rusqlite::params;

use super::error::StoreError;
use super::reader::Reader;
use super::sql::{Database, blob, number, stored};
use super::state;
use super::writer::Writer;

/// Kept of one unit at most, in bytes; what comes after that is not.
pub const BEGUN_UNIT_BYTES_MAX: usize = 8 << 20;
/// Kept of all units together, in bytes; beyond that the oldest goes.
const BEGUN_BYTES_MAX: u64 = 16 << 20;

/// More of a unit that is arriving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoreBegun {
    /// The last transaction before the unit.
    pub after: Seq,
    /// Bytes of the whole unit.
    pub length: usize,
    /// Where `bytes` begin in it, and the mark of all before them; `None` at its beginning.
    pub behind: Option<(usize, BegunMark)>,
    /// What came, not empty.
    pub bytes: Vec<u8>,
    /// The mark of everything up to the end of it.
    pub mark: BegunMark,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BegunFate {
    /// As much is kept, or nobody needs it.
    Settled,
    /// What must stand before it is not kept: all of it is wanted, from the beginning.
    Detached,
}

/// How much is kept of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BegunSize {
    /// Of the rows, in bytes.
    bytes: u64,
    /// The number of the newest row.
    newest: u64,
}

/// A row: some bytes of a unit, and what is known of all up to their end.
struct Stretch {
    at: usize,
    after: Seq,
    length: usize,
    mark: BegunMark,
    bytes: Vec<u8>,
}

impl Stretch {
    fn end(&self) -> usize {
        self.at + self.bytes.len()
    }

    /// All that stretches up to the end of this one.
    fn begun(&self) -> Begun {
        Begun { bytes: self.end(), length: self.length, mark: self.mark }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Bytes::new();
        out.varint(self.after.0);
        out.varint(self.length as u64);
        out.raw(&self.mark.0);
        out.bytes(&self.bytes);
        out.into_bytes()
    }

    fn decode(at: u64, from: &mut From<'_>) -> Result<Self, DecodeError> {
        let limited = |number: u64| {
            let length = usize::try_from(number).ok().filter(|length| *length <= UNIT_BYTES_MAX);
            length.ok_or(DecodeError::BadNumber)
        };
        Ok(Self {
            at: limited(at)?,
            after: Seq(from.varint()?),
            length: limited(from.varint()?)?,
            mark: BegunMark(from.array()?),
            bytes: from.bytes(BEGUN_UNIT_BYTES_MAX)?.to_vec(),
        })
    }
}

fn row_name(origin: Origin, at: u64) -> String {
    format!("{origin}/{at}")
}

/// How much is kept of which units.
pub(super) fn sizes(db: &Database<'_>) -> Result<Vec<(Origin, BegunSize)>, StoreError> {
    let rows = db.rows(
        "SELECT site, incarnation, sum(length(data)), max(no) FROM begun GROUP BY site, incarnation",
        [],
        |row| {
            let origin = || {
                let site = SiteId::new(u16::try_from(number(row, 0).ok()?).ok()?)?;
                let incarnation = Incarnation::new(number(row, 1).ok()?)?;
                Some(Origin { site, incarnation })
            };
            let size = BegunSize { bytes: number(row, 2)?, newest: number(row, 3)? };
            Ok(origin().map(|origin| (origin, size)))
        },
    )?;
    Ok(rows.into_iter().flatten().collect())
}

/// The last stretch; `None` also when it is damaged, which harms nobody.
fn last(db: &Database<'_>, origin: Origin) -> Result<Option<Stretch>, StoreError> {
    let found = db.row(
        "SELECT at, data FROM begun WHERE site = ?1 AND incarnation = ?2 ORDER BY at DESC LIMIT 1",
        params![origin.site.number(), stored(origin.incarnation.number())],
        |row| Ok(read(origin, number(row, 0)?, blob(row, 1)?)),
    )?;
    Ok(found.flatten())
}

fn read(origin: Origin, at: u64, data: &[u8]) -> Option<Stretch> {
    let name = row_name(origin, at);
    let read = state::decode("begun", &name, data, |from| Stretch::decode(at, from));
    read.inspect_err(|error| tracing::warn!(%error, "what came of a unit is asked for again")).ok()
}

/// What is kept of the unit that follows on `after`.
pub(super) fn load(
    db: &Database<'_>,
    origin: Origin,
    after: Seq,
) -> Result<Option<Begun>, StoreError> {
    let last = last(db, origin)?.filter(|last| last.after == after);
    Ok(last.map(|last| last.begun()))
}

/// The bytes of it: as many as are told, if they are those.
fn load_bytes(
    db: &Database<'_>,
    origin: Origin,
    after: Seq,
    told: &Begun,
) -> Result<Option<Vec<u8>>, StoreError> {
    let stretches = db.rows(
        "SELECT at, data FROM begun WHERE site = ?1 AND incarnation = ?2 ORDER BY at",
        params![origin.site.number(), stored(origin.incarnation.number())],
        |row| Ok(read(origin, number(row, 0)?, blob(row, 1)?)),
    )?;
    let mut bytes = Vec::new();
    for stretch in stretches.into_iter().map_while(|stretch| stretch) {
        if (stretch.at, stretch.after) != (bytes.len(), after) {
            break;
        }
        bytes.extend_from_slice(&stretch.bytes);
    }
    bytes.truncate(told.bytes);
    let is_told = bytes.len() == told.bytes && BegunMark::of(&bytes) == told.mark;
    Ok(is_told.then_some(bytes))
}

/// Any bytes as what came first of a unit, with a checksum that fits; read as whoever goes on there does.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn put_raw(db: &Database<'_>, origin: Origin, content: &[u8]) -> Result<(), StoreError> {
    let data = state::encode("begun", &row_name(origin, 0), content.to_vec());
    db.execute(
        "INSERT INTO begun(site, incarnation, at, data) VALUES (?1, ?2, 0, ?3)",
        params![origin.site.number(), stored(origin.incarnation.number()), data],
    )?;
    if let Some(told) = last(db, origin)?.map(|last| last.begun()) {
        let bytes = load_bytes(db, origin, Seq(4), &told)?;
        assert!(bytes.is_none_or(|bytes| BegunMark::of(&bytes) == told.mark));
    }
    Ok(())
}

impl Reader<'_> {
    pub(super) fn begun(&self, origin: Origin, after: Seq) -> Result<Option<Begun>, StoreError> {
        load(&self.db, origin, after)
    }

    pub(super) fn begun_bytes(
        &self,
        origin: Origin,
        after: Seq,
        told: &Begun,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        load_bytes(&self.db, origin, after, told)
    }
}

impl Writer<'_> {
    /// Keeps more of a unit that is arriving.
    pub(super) fn keep_begun(
        &mut self,
        origin: Origin,
        more: MoreBegun,
    ) -> Result<BegunFate, StoreError> {
        let log = self.state.origins.get(&origin);
        let held = log.map_or(Seq::ZERO, |log| log.received);
        let is_aside = log.is_some_and(|log| log.quarantined.is_some());
        if more.after != held || is_aside || origin == self.state.identity.origin {
            return Ok(BegunFate::Settled);
        }
        let MoreBegun { after, length, behind, bytes, mark } = more;
        let known = last(&self.db, origin)?.filter(|last| last.after == after);
        let at = match (behind, known) {
            (Some((at, mark)), Some(last))
                if last.begun() == (Begun { bytes: at, length, mark }) =>
            {
                at
            }
            (Some(_), _) => return Ok(BegunFate::Detached),
            // Two carriers bring the same unit: who is further stays.
            (None, Some(last)) if last.end() >= bytes.len() => return Ok(BegunFate::Settled),
            (None, _) => {
                self.forget_begun(origin)?;
                0
            }
        };
        self.put_begun(origin, &Stretch { at, after, length, mark, bytes })?;
        self.limit_begun(origin)?;
        Ok(BegunFate::Settled)
    }

    fn put_begun(&mut self, origin: Origin, stretch: &Stretch) -> Result<(), StoreError> {
        let at = stretch.at as u64;
        let data = state::encode("begun", &row_name(origin, at), stretch.encode());
        let bytes = data.len() as u64;
        let (site, incarnation) = (origin.site.number(), stored(origin.incarnation.number()));
        self.db.execute(
            "INSERT INTO begun(site, incarnation, at, data) VALUES (?1, ?2, ?3, ?4)",
            params![site, incarnation, stored(at), data],
        )?;
        let newest = self.db.connection().last_insert_rowid().cast_unsigned();
        let nothing = BegunSize { bytes: 0, newest };
        let size = self.state.begun.entry(origin).or_insert(nothing);
        *size = BegunSize { bytes: size.bytes + bytes, newest };
        Ok(())
    }

    /// Forgets the oldest but `newest` until the others fit.
    fn limit_begun(&mut self, newest: Origin) -> Result<(), StoreError> {
        while self.state.begun.values().map(|size| size.bytes).sum::<u64>() > BEGUN_BYTES_MAX {
            let others = self.state.begun.iter().filter(|(origin, _)| **origin != newest);
            let oldest = others.min_by_key(|(_, size)| size.newest).map(|(origin, _)| *origin);
            let Some(oldest) = oldest else { break };
            self.forget_begun(oldest)?;
        }
        Ok(())
    }

    /// Forgets what came of a unit: it is here, or will never be.
    pub(super) fn forget_begun(&mut self, origin: Origin) -> Result<(), StoreError> {
        if self.state.begun.remove(&origin).is_none() {
            return Ok(());
        }
        self.db.execute(
            "DELETE FROM begun WHERE site = ?1 AND incarnation = ?2",
            params![origin.site.number(), stored(origin.incarnation.number())],
        )?;
        Ok(())
    }
}
