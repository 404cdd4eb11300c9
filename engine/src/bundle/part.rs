//! One part: from units to bytes of a file, and back.

use std::sync::Arc;

use landfall_protocol::bundle::{
    BundleId, Header, Manifest, RECIPIENTS_MAX, Record, Records, SLOT_BYTES, Trailer,
    unit_record_head,
};
use landfall_protocol::fleet::{Fleet, Member};
use landfall_protocol::version::VersionVector;

use super::PartError;
use super::cipher::{self, CHUNK_BYTES, Chunks, Place, TAG_BYTES};
use crate::identity::{self, MemberKey};
use crate::plant;

/// What a part is begun with.
#[derive(Debug)]
pub struct Opening<'a> {
    /// Which bundle.
    pub bundle: BundleId,
    /// Which part of it, from 1.
    pub part: u32,
    /// Who can read it, at most [`RECIPIENTS_MAX`].
    pub recipients: &'a [&'a Member],
    /// What the writer says.
    pub manifest: &'a Manifest,
}

/// What a part ends with.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Whether the bundle ends too.
    pub is_last: bool,
    /// What whoever held what was needed holds after this part.
    pub reaches: VersionVector,
}

/// A part being written.
#[derive(Debug)]
pub struct PartEncoder {
    key: Arc<MemberKey>,
    header: [u8; 32],
    chunks: Chunks,
    plain: Vec<u8>,
    units: blake3::Hasher,
    count: u64,
    head_bytes: u64,
    body_bytes: u64,
}

impl PartEncoder {
    /// Begins a part; returns what its file begins with.
    ///
    /// # Errors
    /// A recipient's key is not usable, or there is no randomness.
    ///
    /// # Panics
    /// When there are no recipients or too many.
    pub fn begin(
        opening: &Opening<'_>,
        key: &Arc<MemberKey>,
    ) -> Result<(Self, Vec<u8>), PartError> {
        let Opening { bundle, part, recipients, manifest } = opening;
        assert!((1..=RECIPIENTS_MAX).contains(&recipients.len()), "a bundle is for somebody");
        // A secret: straight from the operating system.
        let mut file_key = [0; 32];
        getrandom::fill(&mut file_key).map_err(PartError::Randomness)?;
        let slots = vec![[0; SLOT_BYTES]; recipients.len()];
        let mut header = Header { bundle: *bundle, part: *part, slots };
        let head = header.head();
        for (slot, member) in header.slots.iter_mut().zip(*recipients) {
            let sealed = cipher::seal_slot(&file_key, &member.key, &head);
            *slot = sealed.ok_or(PartError::Recipient(member.site))?;
        }
        // What is in front of a slot looks drawn by chance, so this order tells nothing.
        header.slots.sort_unstable();
        let mut bytes = header.encode();
        let header = *blake3::hash(&bytes).as_bytes();
        let mut encoder = Self {
            key: Arc::clone(key),
            header,
            chunks: Chunks::new(&file_key, header),
            plain: Vec::new(),
            units: blake3::Hasher::new(),
            count: 0,
            head_bytes: bytes.len() as u64,
            body_bytes: 0,
        };
        let record = manifest.to_record(&header, |message| key.sign(message));
        encoder.append(&record, &mut bytes);
        Ok((encoder, bytes))
    }

    /// Adds a unit in its travelling form; returns what is to be written now.
    pub fn unit(&mut self, unit: &[u8]) -> Vec<u8> {
        self.units.update(unit);
        self.count += 1;
        let mut bytes = Vec::with_capacity(unit.len() + CHUNK_BYTES);
        self.append(&unit_record_head(unit.len()), &mut bytes);
        self.append(unit, &mut bytes);
        bytes
    }

    /// Ends the part; returns the rest of its file.
    pub fn end(mut self, ending: Ending) -> Vec<u8> {
        let Ending { is_last, reaches } = ending;
        let trailer = Trailer { is_last, units: self.count, reaches };
        let units = *self.units.finalize().as_bytes();
        let record = trailer.to_record(&self.header, &units, |message| self.key.sign(message));
        let mut bytes = Vec::new();
        self.append(&record, &mut bytes);
        let last = std::mem::take(&mut self.plain);
        bytes.extend(self.chunks.seal(last, Place::End));
        bytes
    }

    /// Units in it.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How long the file will be with a unit of this length more, and a trailer for so many origins.
    pub fn bytes_with(&self, unit_bytes: usize, origins: usize) -> u64 {
        let unit = unit_record_head(unit_bytes).len() + unit_bytes;
        let plain = self.body_bytes + unit as u64 + Trailer::record_bytes_max(origins) as u64;
        self.head_bytes + plain + plain.div_ceil(CHUNK_BYTES as u64) * TAG_BYTES as u64
    }

    fn append(&mut self, mut record: &[u8], out: &mut Vec<u8>) {
        self.body_bytes += record.len() as u64;
        while !record.is_empty() {
            // A full chunk waits until there is more: it may be the last.
            if self.plain.len() == CHUNK_BYTES {
                let full = std::mem::take(&mut self.plain);
                out.extend(self.chunks.seal(full, Place::Inside));
            }
            let room = (CHUNK_BYTES - self.plain.len()).min(record.len());
            let (now, rest) = record.split_at(room);
            self.plain.extend_from_slice(now);
            record = rest;
        }
    }
}

/// What a part is made of, in this order. Everything but a unit is known to be by the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// What the writer says.
    Manifest(Box<Manifest>),
    /// A unit, as the writer passes it on: its origin's signature is yet to be checked.
    Unit(Vec<u8>),
    /// The end; the file ends here too.
    Trailer(Trailer),
}

/// A part being read, from bytes as they come.
#[derive(Debug)]
pub struct PartDecoder {
    key: Arc<MemberKey>,
    fleet: Arc<Fleet>,
    /// Encrypted, not read yet.
    bytes: Vec<u8>,
    read_bytes: u64,
    body: Option<Body>,
    has_ended: bool,
}

#[derive(Debug)]
struct Body {
    header: Header,
    chunks: Chunks,
    records: Records,
    plain: Vec<u8>,
    /// How much of `plain` was taken.
    taken: usize,
    writer: Option<Member>,
}

impl PartDecoder {
    /// A part of which nothing has come.
    pub fn new(key: Arc<MemberKey>, fleet: Arc<Fleet>) -> Self {
        let bytes = Vec::new();
        Self { key, fleet, bytes, read_bytes: 0, body: None, has_ended: false }
    }

    /// Takes what came. [`PartDecoder::take`] is to be asked until it has no more, so that what is
    /// held stays small.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// All bytes have come.
    pub fn push_end(&mut self) {
        self.has_ended = true;
    }

    /// Which bundle and part it is, once that has come.
    pub fn header(&self) -> Option<&Header> {
        self.body.as_ref().map(|body| &body.header)
    }

    /// The next piece; `None` when more bytes must come first, and after the last.
    ///
    /// # Errors
    /// The first rule that what came breaks. There is no way on then.
    pub fn take(&mut self) -> Result<Option<Piece>, PartError> {
        loop {
            if self.body.is_none() && !self.read_header()? {
                return Ok(None);
            }
            if let Some(piece) = self.take_record()? {
                return Ok(Some(piece));
            }
            if !self.read_chunk()? {
                return Ok(None);
            }
        }
    }

    fn read_header(&mut self) -> Result<bool, PartError> {
        let Some((header, length)) = Header::decode(&self.bytes)? else {
            return if self.has_ended { Err(self.truncated()) } else { Ok(false) };
        };
        let recipients = header.slots.len();
        let file_key = cipher::open_slots(&header, &self.key);
        let file_key = file_key.ok_or(PartError::NotForUs { recipients })?;
        let hash = *blake3::hash(&self.bytes[..length]).as_bytes();
        self.bytes.drain(..length);
        self.read_bytes = length as u64;
        self.open_body(header, &file_key, hash);
        Ok(true)
    }

    /// Goes on behind a header, whose hash this is.
    pub(super) fn open_body(&mut self, header: Header, file_key: &[u8; 32], hash: [u8; 32]) {
        self.body = Some(Body {
            header,
            chunks: Chunks::new(file_key, hash),
            records: Records::new(hash),
            plain: Vec::new(),
            taken: 0,
            writer: None,
        });
    }

    fn truncated(&self) -> PartError {
        PartError::Truncated { bytes: self.read_bytes + self.bytes.len() as u64 }
    }

    /// Decrypts one chunk; `false` when there is none, or only what may be the last.
    fn read_chunk(&mut self) -> Result<bool, PartError> {
        const FULL: usize = CHUNK_BYTES + TAG_BYTES;
        let (truncated, at) = (self.truncated(), self.read_bytes);
        let Some(body) = &mut self.body else { return Ok(false) };
        let (length, place) = match self.bytes.len() {
            length if length > FULL => (FULL, Place::Inside),
            0 if self.has_ended && !body.records.is_over() => {
                if plant::active("bundle-truncation") && body.writer.is_some() {
                    return Ok(false);
                }
                return Err(truncated);
            }
            0 => return Ok(false),
            length if self.has_ended => (length, Place::End),
            _ => return Ok(false),
        };
        let chunk = &self.bytes[..length];
        let Some(plain) = body.chunks.open(chunk, place) else {
            // One that others followed is whole, and what followed is gone.
            let whole = place == Place::End && body.chunks.open(chunk, Place::Inside).is_some();
            let cut = place == Place::End && (whole || length < FULL);
            if cut && plant::active("bundle-truncation") {
                self.bytes.clear();
                return Ok(false);
            }
            return Err(if cut { truncated } else { PartError::Damaged { at } });
        };
        self.bytes.drain(..length);
        self.read_bytes += length as u64;
        body.plain.drain(..body.taken);
        body.taken = 0;
        body.plain.extend_from_slice(&plain);
        Ok(true)
    }

    fn take_record(&mut self) -> Result<Option<Piece>, PartError> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let rest = &body.plain[body.taken..];
        let Some((record, length)) = body.records.next(rest)? else { return Ok(None) };
        let piece = match record {
            Record::Unit(bytes) => Piece::Unit(bytes.to_vec()),
            Record::Manifest { manifest, message, signature } => {
                let site = manifest.writer.site;
                let writer = self.fleet.member(site).ok_or(PartError::Stranger(site))?;
                verify(writer, &message, &signature)?;
                body.writer = Some(writer.clone());
                Piece::Manifest(Box::new(manifest))
            }
            Record::Trailer { trailer, message, signature } => {
                let writer = body.writer.as_ref().expect("a manifest comes before a trailer");
                verify(writer, &message, &signature)?;
                Piece::Trailer(trailer)
            }
        };
        body.taken += length;
        Ok(Some(piece))
    }
}

fn verify(writer: &Member, message: &[u8], signature: &[u8; 64]) -> Result<(), PartError> {
    if identity::verify(&writer.key, message, signature) || plant::active("bundle-signature") {
        return Ok(());
    }
    Err(PartError::Forged(writer.site))
}
