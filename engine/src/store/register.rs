//! The register of bundles: which parts were written here or read here, when, by whom, for whom.

use landfall_protocol::bundle::{BundleId, RECIPIENTS_MAX, USER_BYTES_MAX};
use landfall_protocol::codec::{DecodeError, Reader as From, Writer as Bytes};
use landfall_protocol::id::{Origin, SiteId};
use landfall_protocol::version::VersionVector;
use rusqlite::params;

use super::error::StoreError;
use super::sql::{Database, blob, number};
use super::state;

/// What became of a part here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartFate {
    /// Written, and durable where it was written to.
    Written,
    /// Read; everything in it is held.
    Read,
    /// Kept as it came, until what it needs is held.
    Waits,
}

impl PartFate {
    const ALL: [Self; 3] = [Self::Written, Self::Read, Self::Waits];

    fn number(self) -> u8 {
        match self {
            Self::Written => 1,
            Self::Read => 2,
            Self::Waits => 3,
        }
    }

    /// What is written here and what is read here may be the same part, when we are among those it
    /// is for.
    fn way(self) -> u8 {
        u8::from(self != Self::Written)
    }
}

/// A line of the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRecord {
    /// Which bundle.
    pub bundle: BundleId,
    /// Which part of it, from 1.
    pub part: u32,
    /// What became of it.
    pub fate: PartFate,
    /// Whether the bundle ends with it; not known while it waits.
    pub is_last: bool,
    /// Who wrote it, in which life.
    pub writer: Origin,
    /// For whom it is.
    pub recipients: Vec<SiteId>,
    /// When it was made by the writer's clock, milliseconds since 1970.
    pub made_ms: u64,
    /// Who had it written, as the writer says.
    pub made_by: String,
    /// When it was written or read here, milliseconds since 1970.
    pub at_ms: u64,
    /// Who had that done here; of what is read from the spool, nobody.
    pub done_by: String,
    /// Length of the file.
    pub bytes: u64,
    /// Units in it.
    pub units: u64,
    /// What must be held before it.
    pub needs: VersionVector,
    /// What is held after it.
    pub reaches: VersionVector,
}

impl PartRecord {
    fn encode(&self) -> Vec<u8> {
        let mut out = Bytes::new();
        out.u8(self.fate.number());
        out.u8(u8::from(self.is_last));
        out.origin(self.writer);
        out.varint(self.recipients.len() as u64);
        self.recipients.iter().for_each(|site| out.varint(u64::from(site.number())));
        out.varint(self.made_ms);
        out.text(&self.made_by);
        out.varint(self.at_ms);
        out.text(&self.done_by);
        out.varint(self.bytes);
        out.varint(self.units);
        self.needs.encode(&mut out);
        self.reaches.encode(&mut out);
        out.into_bytes()
    }

    fn decode(bundle: BundleId, part: u32, from: &mut From<'_>) -> Result<Self, DecodeError> {
        let tag = from.u8()?;
        let fate = PartFate::ALL.into_iter().find(|fate| fate.number() == tag);
        let fate = fate.ok_or(DecodeError::UnknownTag { what: "fate of a part", tag })?;
        let (is_last, writer) = (from.u8()? == 1, from.origin()?);
        let recipients = (0..from.count(RECIPIENTS_MAX)?)
            .map(|_| SiteId::new(from.u16()?).ok_or(DecodeError::BadNumber));
        let recipients = recipients.collect::<Result<_, DecodeError>>()?;
        Ok(Self {
            bundle,
            part,
            fate,
            is_last,
            writer,
            recipients,
            made_ms: from.varint()?,
            made_by: from.text(USER_BYTES_MAX)?.to_owned(),
            at_ms: from.varint()?,
            done_by: from.text(USER_BYTES_MAX)?.to_owned(),
            bytes: from.varint()?,
            units: from.varint()?,
            needs: VersionVector::decode(from)?,
            reaches: VersionVector::decode(from)?,
        })
    }
}

fn row_name(way: u8, bundle: BundleId, part: u32) -> String {
    format!("{way}/{bundle}/{part}")
}

/// Writes a line, in place of the one before.
pub(super) fn put(db: &Database<'_>, record: &PartRecord) -> Result<(), StoreError> {
    let way = record.fate.way();
    let name = row_name(way, record.bundle, record.part);
    db.execute(
        "INSERT OR REPLACE INTO bundle(way, id, part, state) VALUES (?1, ?2, ?3, ?4)",
        params![way, record.bundle.0, record.part, state::encode("bundle", &name, record.encode())],
    )?;
    Ok(())
}

/// All lines, older bundles first.
pub(super) fn load(db: &Database<'_>) -> Result<Vec<PartRecord>, StoreError> {
    db.rows("SELECT way, id, part, state FROM bundle ORDER BY id, part, way", [], |row| {
        let corrupt = || StoreError::corrupt("bundle", "key");
        let way = u8::try_from(number(row, 0)?).map_err(|_| corrupt())?;
        let bundle = BundleId(blob(row, 1)?.try_into().map_err(|_| corrupt())?);
        let part = u32::try_from(number(row, 2)?).map_err(|_| corrupt())?;
        let name = row_name(way, bundle, part);
        state::decode("bundle", &name, blob(row, 3)?, |from| PartRecord::decode(bundle, part, from))
    })
}
