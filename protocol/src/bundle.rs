//! Bundles: units that travel as files, on a USB stick or by any other way files go.
//!
//! A bundle is made of parts, each a file that stands for itself. A part begins with a [`Header`] in
//! the clear; everything else is encrypted. What is inside is a run of records: a [`Manifest`] in
//! which the writer says who it is, what it holds and what must be held before; units as they travel
//! over links; a [`Trailer`]. Manifest and trailer are signed by the writer, units by their origins.
//!
//! ```text
//! header  body: (tag:u8  len+bytes)*     tag 1 manifest, 2 unit, 3 trailer
//! ```
//! How the body is encrypted is no matter of this module. The byte-level description is in
//! `docs/bundles.md`.

use std::fmt;
use std::str::FromStr;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Origin, SiteId};
use crate::unit::UNIT_BYTES_MAX;
use crate::version::{VECTOR_ENTRIES_MAX, VersionVector};
use crate::wire::{HELD_MAX, Held, Hello, PROTOCOL_MAX, PROTOCOL_MIN, UnitMark};

#[cfg(test)]
mod tests;

/// What every part begins with.
pub const MAGIC: &[u8; 16] = b"landfall bundle\n";
/// The layout this version writes, and the only one it reads.
pub const FORMAT: u8 = 1;
/// Members one bundle can be for.
pub const RECIPIENTS_MAX: usize = 1024;
/// Parts one bundle can have.
pub const PARTS_MAX: u32 = 99_999;
/// A file key as one recipient can open it: what was encapsulated, then the key and its tag.
pub const SLOT_BYTES: usize = 32 + 32 + 16;
/// Longest manifest: everybody's logs with their hashes, and three vectors.
pub const MANIFEST_BYTES_MAX: usize = 16 << 20;
/// Longest name of who made a bundle.
pub const USER_BYTES_MAX: usize = 256;
/// Longest name of a piece of software.
pub const SOFTWARE_BYTES_MAX: usize = 64;

/// The header without its slots.
const HEAD_BYTES: usize = MAGIC.len() + 1 + 16 + 4 + 2;
/// What is signed says first what it is, so that no signature can stand for something else.
const MANIFEST_DOMAIN: &[u8] = b"landfall bundle manifest 1\0";
const TRAILER_DOMAIN: &[u8] = b"landfall bundle trailer 1\0";

const MANIFEST: u8 = 1;
const UNIT: u8 = 2;
const TRAILER: u8 = 3;
/// A tag and the longest number before the content.
const RECORD_HEAD_BYTES_MAX: usize = 11;

/// Names a bundle: six bytes of its time in milliseconds, so that ids sort by age, and ten by chance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleId(pub [u8; 16]);

impl BundleId {
    /// Of a bundle made now; the rest of `chance` is overwritten.
    pub fn new(now_ms: u64, mut chance: [u8; 16]) -> Self {
        chance[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
        Self(chance)
    }

    /// What tells bundles of one member apart, for names of files.
    pub fn short(self) -> String {
        self.to_string().chars().skip(20).collect()
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A bundle's id was not written as 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bundle id must be 32 hexadecimal digits, found {0:?}")]
pub struct ParseBundleIdError(String);

impl FromStr for BundleId {
    type Err = ParseBundleIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseBundleIdError(text.to_owned());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 16 || !rest.is_empty() {
            return Err(wrong());
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let mut id = [0; 16];
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            let number = digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low);
            *byte = number.and_then(|number| u8::try_from(number).ok()).ok_or_else(wrong)?;
        }
        Ok(Self(id))
    }
}

/// Why bytes are not a part of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It begins with something else.
    #[error("this is no part of a bundle")]
    NoBundle,
    /// A layout of another version.
    #[error("bundle format {0} is not known to this version, which reads format {FORMAT}")]
    UnknownFormat(u8),
    /// The bytes do not decode.
    #[error("{what} of the bundle does not decode: {error}")]
    Malformed {
        /// Which piece.
        what: &'static str,
        /// What is wrong.
        error: DecodeError,
    },
    /// Records in an order that no writer makes.
    #[error("bundle has {0} where it must not be")]
    Misplaced(&'static str),
}

fn malformed(what: &'static str) -> impl Fn(DecodeError) -> BundleError {
    move |error| BundleError::Malformed { what, error }
}

/// The beginning of a part, which anybody can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which bundle.
    pub bundle: BundleId,
    /// Which of its parts, from 1.
    pub part: u32,
    /// The file key, once for each recipient, in an order that tells nothing.
    pub slots: Vec<[u8; SLOT_BYTES]>,
}

impl Header {
    /// The bytes in front of the slots, to which each slot is bound.
    pub fn head(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(MAGIC);
        out.u8(FORMAT);
        out.raw(&self.bundle.0);
        out.raw(&self.part.to_be_bytes());
        out.raw(&(self.slots.len() as u16).to_be_bytes());
        out.into_bytes()
    }

    /// All of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.head();
        self.slots.iter().for_each(|slot| bytes.extend_from_slice(slot));
        bytes
    }

    /// Reads a header at the beginning of `bytes`, and says how long it is; `None` when there are not
    /// enough of them yet.
    ///
    /// # Errors
    /// It is no header, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, BundleError> {
        let magic = bytes.len().min(MAGIC.len());
        if bytes[..magic] != MAGIC[..magic] {
            return Err(BundleError::NoBundle);
        }
        if let Some(format) = bytes.get(MAGIC.len())
            && *format != FORMAT
        {
            return Err(BundleError::UnknownFormat(*format));
        }
        let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else { return Ok(None) };
        let name = malformed("header");
        let mut from = Reader::new(&head[MAGIC.len() + 1..]);
        let bundle = BundleId(from.array().map_err(&name)?);
        let part = u32::from_be_bytes(from.array().map_err(&name)?);
        let count = usize::from(u16::from_be_bytes(from.array().map_err(&name)?));
        if count == 0 || count > RECIPIENTS_MAX || part == 0 || part > PARTS_MAX {
            return Err(name(DecodeError::BadNumber));
        }
        let Some(slots) = rest.get(..count * SLOT_BYTES) else { return Ok(None) };
        let (slots, _) = slots.as_chunks();
        let header = Self { bundle, part, slots: slots.to_vec() };
        Ok(Some((header, HEAD_BYTES + count * SLOT_BYTES)))
    }
}

/// What the writer of a part says of itself and of the part, before any unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Who wrote it, in which life.
    pub writer: Origin,
    /// The writer's fleet file.
    pub fleet_version: u64,
    /// What that says of sets, tables and rules, as a hash.
    pub sets_digest: [u8; 32],
    /// The writer's clock when it began this part, milliseconds since 1970.
    pub made_ms: u64,
    /// For whom it is, in site order.
    pub recipients: Vec<SiteId>,
    /// Who told the writer to, as the system calls them.
    pub user: String,
    /// The writer's software, for operators.
    pub software: String,
    /// What the writer holds durably, log by log, in origin order: a receipt for all of it.
    pub held: Vec<Held>,
    /// What shows in the writer's PostgreSQL.
    pub applied: VersionVector,
    /// What must be held before the first unit of this part can be kept.
    pub needs: VersionVector,
}

impl Manifest {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.origin(self.writer);
        out.varint(self.fleet_version);
        out.raw(&self.sets_digest);
        out.varint(self.made_ms);
        out.varint(self.recipients.len() as u64);
        self.recipients.iter().for_each(|site| out.varint(u64::from(site.number())));
        out.text(&self.user);
        out.text(&self.software);
        Held::encode_all(&self.held, &mut out);
        self.applied.encode(&mut out);
        self.needs.encode(&mut out);
        out.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let (writer, fleet_version) = (from.origin()?, from.varint()?);
        let (sets_digest, made_ms) = (from.array()?, from.varint()?);
        let recipients = decode_sites(&mut from)?;
        let user = from.text(USER_BYTES_MAX)?.to_owned();
        let software = from.text(SOFTWARE_BYTES_MAX)?.to_owned();
        let held = decode_held(&mut from)?;
        let applied = VersionVector::decode(&mut from)?;
        let needs = VersionVector::decode(&mut from)?;
        from.finish()?;
        let manifest = Self {
            writer,
            fleet_version,
            sets_digest,
            made_ms,
            recipients,
            user,
            software,
            held,
            applied,
            needs,
        };
        Ok(manifest)
    }

    /// What is signed of a manifest in a part whose header has this hash.
    fn signed_message(header: &[u8; 32], manifest: &[u8]) -> Vec<u8> {
        [MANIFEST_DOMAIN, header, manifest].concat()
    }

    /// The record, with the writer's signature.
    pub fn to_record(&self, header: &[u8; 32], sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Vec<u8> {
        let mut content = self.encode();
        let signature = sign(&Self::signed_message(header, &content));
        content.extend_from_slice(&signature);
        record(MANIFEST, &content)
    }

    /// What the writer would say first over a link, as far as it holds for the member `reader`.
    pub fn to_hello(&self, reader: SiteId) -> Hello {
        let of_reader = |held: &&Held| held.origin.site == reader;
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            holds_of_you: self.held.iter().filter(of_reader).copied().collect(),
            origin: self.writer,
            fleet_version: self.fleet_version,
            sets_digest: self.sets_digest,
            received: self.held.iter().map(|held| (held.origin, held.seq)).collect(),
            marks: self.held.iter().map(|held| UnitMark::of(held.hash)).collect(),
            applied: self.applied.clone(),
            wall_ms: self.made_ms,
            software: self.software.clone(),
        }
    }
}

fn decode_sites(from: &mut Reader<'_>) -> Result<Vec<SiteId>, DecodeError> {
    let mut sites: Vec<SiteId> = Vec::new();
    for _ in 0..from.count(RECIPIENTS_MAX)? {
        let site = SiteId::new(from.u16()?).ok_or(DecodeError::BadNumber)?;
        if sites.last().is_some_and(|last| *last >= site) {
            return Err(DecodeError::NotCanonical("list of recipients"));
        }
        sites.push(site);
    }
    Ok(sites)
}

/// Of one site no more lives than a hello may name.
fn decode_held(from: &mut Reader<'_>) -> Result<Vec<Held>, DecodeError> {
    let all = Held::decode_all(from, VECTOR_ENTRIES_MAX)?;
    let of_sites = all.chunk_by(|one, other| one.origin.site == other.origin.site);
    match of_sites.map(<[Held]>::len).max() {
        Some(lives) if lives > HELD_MAX => {
            Err(DecodeError::TooLong { found: lives as u64, limit: HELD_MAX as u64 })
        }
        _ => Ok(all),
    }
}

/// The last record of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Whether the bundle ends with this part.
    pub is_last: bool,
    /// Units in this part.
    pub units: u64,
    /// What whoever held what the manifest needs holds after this part.
    pub reaches: VersionVector,
}

impl Trailer {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(u8::from(self.is_last));
        out.varint(self.units);
        self.reaches.encode(&mut out);
        out.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let is_last = match from.u8()? {
            0 => false,
            1 => true,
            tag => return Err(DecodeError::UnknownTag { what: "end of part", tag }),
        };
        let trailer =
            Self { is_last, units: from.varint()?, reaches: VersionVector::decode(&mut from)? };
        from.finish()?;
        Ok(trailer)
    }

    /// What is signed of a trailer: it stands for all units of the part, by the hash of their bytes
    /// one after the other.
    fn signed_message(header: &[u8; 32], units: &[u8; 32], trailer: &[u8]) -> Vec<u8> {
        [TRAILER_DOMAIN, header, units, trailer].concat()
    }

    /// The record, with the writer's signature.
    pub fn to_record(
        &self,
        header: &[u8; 32],
        units: &[u8; 32],
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Vec<u8> {
        let mut content = self.encode();
        let signature = sign(&Self::signed_message(header, units, &content));
        content.extend_from_slice(&signature);
        record(TRAILER, &content)
    }

    /// Longest record of a trailer that names this many origins.
    pub fn record_bytes_max(origins: usize) -> usize {
        RECORD_HEAD_BYTES_MAX + 1 + 10 + 10 + origins.saturating_mul(3 + 8 + 10) + 64
    }
}

/// A record as it stands in the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// What the writer says first, and what of it is signed.
    Manifest {
        /// What it says.
        manifest: Manifest,
        /// What the signature must be over.
        message: Vec<u8>,
        /// The signature.
        signature: [u8; 64],
    },
    /// A unit in its travelling form.
    Unit(&'a [u8]),
    /// The end, and what of it is signed.
    Trailer {
        /// What it says.
        trailer: Trailer,
        /// What the signature must be over.
        message: Vec<u8>,
        /// The signature.
        signature: [u8; 64],
    },
}

/// A unit as a record: what stands before its bytes.
pub fn unit_record_head(bytes: usize) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(UNIT);
    out.varint(bytes as u64);
    out.into_bytes()
}

fn record(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(tag);
    out.bytes(content);
    out.into_bytes()
}

/// Reads the records of a body in their order, from bytes that come in pieces.
#[derive(Clone, Debug)]
pub struct Records {
    header: [u8; 32],
    units: blake3::Hasher,
    count: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Manifest,
    Units,
    Ended,
}

impl Records {
    /// Of a part whose header has this hash.
    pub fn new(header: [u8; 32]) -> Self {
        Self { header, units: blake3::Hasher::new(), count: 0, stage: Stage::Manifest }
    }

    /// Whether the trailer was read.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// The record at the beginning of `bytes`, and how long it is; `None` when it is not all there.
    ///
    /// # Errors
    /// It does not decode, or must not stand here.
    pub fn next<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<Option<(Record<'a>, usize)>, BundleError> {
        let Some((tag, rest)) = bytes.split_first() else { return Ok(None) };
        let (what, limit) = match (tag, self.stage) {
            (_, Stage::Ended) => return Err(BundleError::Misplaced("something behind its end")),
            (&MANIFEST, Stage::Manifest) => ("manifest", MANIFEST_BYTES_MAX),
            (&UNIT, Stage::Units) => ("unit", UNIT_BYTES_MAX),
            (&TRAILER, Stage::Units) => ("trailer", MANIFEST_BYTES_MAX),
            (&(MANIFEST | UNIT | TRAILER), _) => return Err(BundleError::Misplaced("a record")),
            (tag, _) => {
                let error = DecodeError::UnknownTag { what: "record", tag: *tag };
                return Err(BundleError::Malformed { what: "body", error });
            }
        };
        let mut from = Reader::new(rest);
        let length = match from.varint() {
            Ok(length) => length,
            Err(DecodeError::Truncated) => return Ok(None),
            Err(error) => return Err(malformed(what)(error)),
        };
        if length > limit as u64 {
            let error = DecodeError::TooLong { found: length, limit: limit as u64 };
            return Err(malformed(what)(error));
        }
        let Some(content) = from.rest().get(..length as usize) else { return Ok(None) };
        let taken = bytes.len() - from.rest().len() + content.len();
        Ok(Some((self.read(*tag, content).map_err(malformed(what))?, taken)))
    }

    fn read<'a>(&mut self, tag: u8, content: &'a [u8]) -> Result<Record<'a>, DecodeError> {
        if tag == UNIT {
            self.units.update(content);
            self.count += 1;
            return Ok(Record::Unit(content));
        }
        let (content, signature) = content.split_last_chunk().ok_or(DecodeError::Truncated)?;
        if tag == MANIFEST {
            let message = Manifest::signed_message(&self.header, content);
            let manifest = Manifest::decode(content)?;
            self.stage = Stage::Units;
            return Ok(Record::Manifest { manifest, message, signature: *signature });
        }
        let units = *self.units.finalize().as_bytes();
        let message = Trailer::signed_message(&self.header, &units, content);
        let trailer = Trailer::decode(content)?;
        if trailer.units != self.count {
            return Err(DecodeError::NotCanonical("count of units"));
        }
        self.stage = Stage::Ended;
        Ok(Record::Trailer { trailer, message, signature: *signature })
    }
}
