//! Units: what travels and what is kept.
//!
//! A unit is a sealed, signed, immutable run `[first..last]` of one origin's transactions. Its
//! header carries the hash of the unit before it, so a log is a chain that nobody but its origin
//! can lengthen or change; relays pass the bytes on as they are. The signature covers the header,
//! the header covers the uncompressed content of every part.
//!
//! ```text
//! format:u8  header:len+bytes  signature:64  parts: (packing:u8  len+bytes)*
//! ```
//! A run of which nobody had been given anything yet may be compacted ([`crate::compact`]): then its numbers
//! have gaps, and its transactions become visible together.
//!
//! The byte-level description is in `docs/wire.md`.

mod body;
mod packing;
#[cfg(test)]
mod tests;

use std::fmt;

use ed25519_dalek::{Signature, VerifyingKey};

use crate::change::{Fragment, Transaction};
use crate::clock::Hlc;
use crate::codec::{DecodeError, Reader, Writer};
use crate::compress::CompressError;
use crate::id::{Origin, PublicKey, Seq};
use crate::schema::{SetId, TableId};
use crate::version::VersionVector;
use packing::StoredPart;

/// First byte of every unit of this layout.
pub const UNIT_FORMAT: u8 = 1;
/// Longest unit in its travelling form; one transaction never exceeds it.
pub const UNIT_BYTES_MAX: usize = 72 << 20;
/// Most uncompressed content of all parts together.
pub const UNIT_PLAIN_BYTES_MAX: usize = 64 << 20;
/// Longest header.
pub const HEADER_BYTES_MAX: usize = 4 << 20;
/// Where the sealer cuts, in uncompressed bytes, when a transaction boundary allows it.
pub const UNIT_PLAIN_BYTES_TARGET: usize = 1 << 20;
/// Parts one unit may have: one per replication set and the spine.
pub const PARTS_MAX: usize = 1024;
/// Transactions one unit may hold. A transaction takes at least two bytes, so a sealer that cuts at
/// [`UNIT_PLAIN_BYTES_TARGET`] never comes near; a reader is spared the 4 GiB that 64 MiB of empty
/// transactions would take in memory.
pub const UNIT_TRANSACTIONS_MAX: usize = 1 << 20;
/// The shortest transaction: a clock step, no descriptions, nobody named.
const TRANSACTION_BYTES_MIN: u64 = 2;
/// The shortest change: table, operation, an empty key, no cells.
const CHANGE_BYTES_MIN: u64 = 4;

/// The place of a unit in its origin's hash chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitHash(pub [u8; 32]);

impl UnitHash {
    /// What the first unit of an origin names as its predecessor.
    pub const GENESIS: Self = Self([0; 32]);
}

impl fmt::Debug for UnitHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for UnitHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartId {
    /// Clock readings and table descriptions; always travels.
    Spine,
    /// The changes of one replication set.
    Set(SetId),
}

/// What the header says of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// Which part.
    pub id: PartId,
    /// Row changes in it; for the spine, transactions that are left.
    pub count: u64,
    /// Length of the uncompressed content in bytes.
    pub plain_bytes: u64,
    /// BLAKE3 of the uncompressed content.
    pub root: [u8; 32],
}

/// The signed part of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitHeader {
    /// The fleet file's version when the unit was sealed.
    pub fleet_version: u64,
    /// Whose transactions these are.
    pub origin: Origin,
    /// The first transaction.
    pub first: Seq,
    /// The last transaction.
    pub last: Seq,
    /// Whether it holds whole transactions, or one fragment of a large one.
    pub fragment: Fragment,
    /// Hash of the unit before, or [`UnitHash::GENESIS`].
    pub previous: UnitHash,
    /// Lowest clock reading inside.
    pub hlc_first: Hlc,
    /// Highest clock reading inside.
    pub hlc_last: Hlc,
    /// What the origin had applied since its previous unit: these transactions must be applied
    /// before any of this unit is.
    pub vector: VersionVector,
    /// The spine, then sets in number order.
    pub parts: Vec<PartHeader>,
}

impl UnitHeader {
    /// Row changes in all parts, as the origin counts them: nobody else has looked.
    pub fn changes(&self) -> u64 {
        let sets = self.parts.iter().filter(|part| part.id != PartId::Spine);
        sets.fold(0, |sum, part| sum.saturating_add(part.count))
    }

    /// Whether what the header counts can be in what it says of the content. Whoever adds up what
    /// headers say must ask first: an origin may sign anything.
    pub fn is_plausible(&self) -> bool {
        let transactions = (self.last.0 - self.first.0).checked_add(1);
        self.parts.iter().all(|part| match part.id {
            PartId::Spine => {
                let fits = match self.fragment {
                    Fragment::Compacted => transactions >= Some(part.count),
                    _ => transactions == Some(part.count),
                };
                fits && part.count <= part.plain_bytes / TRANSACTION_BYTES_MIN
            }
            PartId::Set(_) => part.count <= part.plain_bytes / CHANGE_BYTES_MIN,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.varint(self.fleet_version);
        out.origin(self.origin);
        out.varint(self.first.0);
        out.varint(self.last.0 - self.first.0);
        out.u8(self.fragment.number());
        out.raw(&self.previous.0);
        out.varint(self.hlc_first.0);
        out.varint(self.hlc_last.0 - self.hlc_first.0);
        self.vector.encode(&mut out);
        out.varint(self.parts.len() as u64);
        for part in &self.parts {
            out.varint(match part.id {
                PartId::Spine => 0,
                PartId::Set(set) => u64::from(set.0),
            });
            out.varint(part.count);
            out.varint(part.plain_bytes);
            out.raw(&part.root);
        }
        out.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let fleet_version = from.varint()?;
        let origin = from.origin()?;
        let first = Seq(from.varint()?);
        let last = Seq(first.0.checked_add(from.varint()?).ok_or(DecodeError::BadNumber)?);
        let fragment = Fragment::from_number(from.u8()?)?;
        let previous = UnitHash(from.array()?);
        let hlc_first = Hlc(from.varint()?);
        let hlc_last =
            Hlc(hlc_first.0.checked_add(from.varint()?).ok_or(DecodeError::BadNumber)?);
        let vector = VersionVector::decode(&mut from)?;
        let mut parts: Vec<PartHeader> = Vec::new();
        for index in 0..from.count(PARTS_MAX)? {
            let id = match from.u16()? {
                0 => PartId::Spine,
                number => PartId::Set(SetId(number)),
            };
            if (index == 0) != (id == PartId::Spine) || parts.last().is_some_and(|p| p.id >= id) {
                return Err(DecodeError::NotCanonical("parts"));
            }
            let (count, plain_bytes, root) = (from.varint()?, from.varint()?, from.array()?);
            parts.push(PartHeader { id, count, plain_bytes, root });
        }
        from.finish()?;
        let fits = match fragment {
            Fragment::Whole => true,
            Fragment::More | Fragment::Last => first == last,
            Fragment::Compacted => first < last,
        };
        if first == Seq::ZERO || parts.is_empty() || !fits {
            return Err(DecodeError::NotCanonical("unit header"));
        }
        Ok(Self {
            fleet_version,
            origin,
            first,
            last,
            fragment,
            previous,
            hlc_first,
            hlc_last,
            vector,
            parts,
        })
    }
}

/// Why bytes are not an acceptable unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// A format this version does not know.
    #[error("unit format {0} is not known to this version")]
    UnknownFormat(u8),
    /// The bytes do not decode.
    #[error("unit does not decode: {0}")]
    Malformed(#[from] DecodeError),
    /// A declared size is over its limit.
    #[error("unit declares {found} bytes of content, limit is {limit}")]
    TooLarge {
        /// What it declares.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The origin's key did not sign this header.
    #[error("signature of unit {first} of origin {origin} is not by the origin's key")]
    BadSignature {
        /// The claimed origin.
        origin: Origin,
        /// The claimed first transaction.
        first: Seq,
    },
    /// A part is damaged.
    #[error("part does not unpack: {0}")]
    BadPart(#[from] CompressError),
    /// A part is not the one the header names.
    #[error("content of part {0:?} is not what the header names")]
    WrongContent(PartId),
}

/// What the sealer knows beside the transactions.
#[derive(Debug, Clone, Copy)]
pub struct SealContext<'a> {
    /// Whose unit this is.
    pub origin: Origin,
    /// The fleet file's version.
    pub fleet_version: u64,
    /// Whether these are whole transactions, or one fragment of a large one.
    pub fragment: Fragment,
    /// Hash of the origin's unit before this one.
    pub previous: UnitHash,
    /// What the origin applied since then.
    pub vector: &'a VersionVector,
    /// zstd level, 1 to 19.
    pub level: i32,
}

/// A unit whose signature and content were checked, or that was sealed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    header: UnitHeader,
    hash: UnitHash,
    bytes: Vec<u8>,
}

impl Unit {
    /// Seals consecutive transactions. `set_of` names the replication set of a table; `sign` signs
    /// with the origin's key.
    ///
    /// # Panics
    /// When `transactions` is empty, has gaps where nothing was left out, clock readings that do not grow,
    /// company for a fragment, or more content than a reader accepts: the log never does, and a unit
    /// nobody can open must not be sealed.
    pub fn seal(
        context: SealContext<'_>,
        transactions: &[Transaction],
        set_of: impl Fn(TableId) -> SetId,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Self {
        let (Some(first), Some(last)) = (transactions.first(), transactions.last()) else {
            panic!("a unit holds at least one transaction");
        };
        let is_compacted = context.fragment == Fragment::Compacted;
        let follows = |one: Seq, next: Seq| one.next() == next || is_compacted && one < next;
        assert!(
            transactions
                .windows(2)
                .all(|pair| follows(pair[0].seq, pair[1].seq) && pair[0].hlc < pair[1].hlc),
            "a unit holds consecutive transactions of growing clock readings"
        );
        assert!(transactions.len() <= UNIT_TRANSACTIONS_MAX, "a unit is cut in time");
        assert!(
            !context.fragment.is_part() || first.seq == last.seq,
            "a fragment is a unit by itself"
        );
        assert!(!is_compacted || first.seq < last.seq, "what is compacted are several");
        assert!(
            transactions.iter().all(|transaction| {
                let alone = transaction.changes.is_empty() && context.fragment == Fragment::More;
                transaction.piece.is_none() || alone
            }),
            "a piece stands alone in a fragment that others follow"
        );
        let parts = body::encode(context.fragment, transactions, set_of);
        let plain_bytes: usize = parts.iter().map(|part| part.plain.len()).sum();
        assert!(
            plain_bytes <= UNIT_PLAIN_BYTES_MAX && parts.len() <= PARTS_MAX,
            "a unit's content is within its limits"
        );
        let header = UnitHeader {
            fleet_version: context.fleet_version,
            origin: context.origin,
            first: first.seq,
            last: last.seq,
            fragment: context.fragment,
            previous: context.previous,
            hlc_first: first.hlc,
            hlc_last: last.hlc,
            vector: context.vector.clone(),
            parts: parts.iter().map(body::PlainPart::header).collect(),
        };
        let header_bytes = header.encode();
        let mut out = Writer::new();
        out.u8(UNIT_FORMAT);
        out.bytes(&header_bytes);
        out.raw(&sign(&signed_message(&header_bytes)));
        for part in &parts {
            packing::put(&mut out, part, &header, context.level);
        }
        Self { hash: chain_hash(&header_bytes), header, bytes: out.into_bytes() }
    }

    /// Reads only the header of a unit, without believing it.
    ///
    /// # Errors
    /// Fails when the format is unknown or the header does not decode.
    pub fn peek(bytes: &[u8]) -> Result<UnitHeader, UnitError> {
        Ok(Layout::read(bytes)?.header)
    }

    /// Accepts a unit from outside: layout and limits, then the signature by `key`, and only then
    /// the content against the header.
    ///
    /// # Errors
    /// Fails at the first rule the bytes break.
    pub fn open(bytes: Vec<u8>, key: &PublicKey) -> Result<Self, UnitError> {
        let layout = Layout::read(&bytes)?;
        let (origin, first) = (layout.header.origin, layout.header.first);
        if !is_signed(&signed_message(layout.header_bytes), key, &layout.signature) {
            return Err(UnitError::BadSignature { origin, first });
        }
        for (part, stored) in layout.header.parts.iter().zip(&layout.parts) {
            let plain = stored.unpack(part, &layout.header)?;
            if *blake3::hash(&plain).as_bytes() != part.root {
                return Err(UnitError::WrongContent(part.id));
            }
        }
        let hash = chain_hash(layout.header_bytes);
        Ok(Self { header: layout.header, hash, bytes })
    }

    /// A unit from this site's own store, which checked it before and guards it with a checksum.
    ///
    /// # Errors
    /// Fails when the bytes do not decode.
    pub fn from_store(bytes: Vec<u8>) -> Result<Self, UnitError> {
        let layout = Layout::read(&bytes)?;
        let hash = chain_hash(layout.header_bytes);
        Ok(Self { header: layout.header, hash, bytes })
    }

    /// The same unit with its parts packed at a zstd `level`, 1 to 19, where that is shorter. Neither its
    /// signature nor its place in the chain depends on how it is packed.
    ///
    /// # Errors
    /// Fails when a part does not unpack.
    pub fn packed_at(self, level: i32) -> Result<Self, UnitError> {
        let layout = Layout::read(&self.bytes)?;
        let mut out = Writer::new();
        out.u8(UNIT_FORMAT);
        out.bytes(layout.header_bytes);
        out.raw(&layout.signature);
        for (part, stored) in layout.header.parts.iter().zip(&layout.parts) {
            let plain = body::PlainPart::of(part, stored.unpack(part, &layout.header)?);
            packing::put(&mut out, &plain, &layout.header, level);
        }
        let bytes = out.into_bytes();
        Ok(if bytes.len() < self.bytes.len() { Self { bytes, ..self } } else { self })
    }

    /// The same in other bytes: what is packed is not, and the other way round.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn packed_anew(&self) -> Self {
        let layout = Layout::read(&self.bytes).expect("it was read before");
        let mut out = Writer::new();
        out.u8(UNIT_FORMAT);
        out.bytes(layout.header_bytes);
        out.raw(&layout.signature);
        for (part, stored) in layout.header.parts.iter().zip(&layout.parts) {
            let plain = stored.unpack(part, &layout.header).expect("it was unpacked before");
            if stored.packing == packing::Packing::Plain {
                packing::put(&mut out, &body::PlainPart::of(part, plain), &layout.header, 1);
            } else {
                out.u8(packing::Packing::Plain as u8);
                out.bytes(&plain);
            }
        }
        Self { header: layout.header.clone(), hash: self.hash, bytes: out.into_bytes() }
    }

    /// The signed header.
    pub fn header(&self) -> &UnitHeader {
        &self.header
    }

    /// Its place in the chain.
    pub fn hash(&self) -> UnitHash {
        self.hash
    }

    /// The travelling form.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The travelling form, given away.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The transactions inside.
    ///
    /// # Errors
    /// Fails when the content does not decode: the origin sealed something this version does not
    /// understand.
    pub fn transactions(&self) -> Result<Vec<Transaction>, UnitError> {
        let layout = Layout::read(&self.bytes)?;
        let plain = layout
            .header
            .parts
            .iter()
            .zip(&layout.parts)
            .map(|(part, stored)| stored.unpack(part, &layout.header))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(body::decode(&layout.header, &plain)?)
    }
}

fn is_signed(message: &[u8], key: &PublicKey, signature: &[u8; 64]) -> bool {
    #[cfg(feature = "simulation")]
    if simulated::is_key(key) {
        return simulated::sign(key, message) == *signature;
    }
    VerifyingKey::from_bytes(&key.0)
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

/// Keys and signatures of a simulated world: a signature costs as much as everything else in it.
#[cfg(feature = "simulation")]
pub mod simulated {
    use crate::id::{PublicKey, SiteId};

    const PREFIX: &[u8; 30] = b"landfall simulation, site key ";

    /// The key of a site.
    pub fn key(site: SiteId) -> PublicKey {
        let [high, low] = site.number().to_be_bytes();
        let mut key = [0; 32];
        key[..30].copy_from_slice(PREFIX);
        (key[30], key[31]) = (high, low);
        PublicKey(key)
    }

    pub(super) fn is_key(key: &PublicKey) -> bool {
        key.0.starts_with(PREFIX)
    }

    /// Stands for the signature of `message` by that key.
    pub fn sign(key: &PublicKey, message: &[u8]) -> [u8; 64] {
        let hash = *blake3::keyed_hash(&key.0, message).as_bytes();
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&hash);
        signature
    }
}

fn signed_message(header: &[u8]) -> Vec<u8> {
    [b"landfall unit v1\0".as_slice(), header].concat()
}

fn chain_hash(header: &[u8]) -> UnitHash {
    let mut hasher = blake3::Hasher::new_derive_key("landfall unit chain v1");
    hasher.update(header);
    UnitHash(*hasher.finalize().as_bytes())
}

struct Layout<'a> {
    header: UnitHeader,
    header_bytes: &'a [u8],
    signature: [u8; 64],
    parts: Vec<StoredPart<'a>>,
}

impl<'a> Layout<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, UnitError> {
        if bytes.len() > UNIT_BYTES_MAX {
            return Err(UnitError::TooLarge {
                found: bytes.len() as u64,
                limit: UNIT_BYTES_MAX as u64,
            });
        }
        let mut from = Reader::new(bytes);
        let format = from.u8()?;
        if format != UNIT_FORMAT {
            return Err(UnitError::UnknownFormat(format));
        }
        let header_bytes = from.bytes(HEADER_BYTES_MAX)?;
        let header = UnitHeader::decode(header_bytes)?;
        let declared =
            header.parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.plain_bytes));
        if declared > UNIT_PLAIN_BYTES_MAX as u64 {
            return Err(UnitError::TooLarge {
                found: declared,
                limit: UNIT_PLAIN_BYTES_MAX as u64,
            });
        }
        let signature = from.array()?;
        let mut parts = Vec::with_capacity(header.parts.len());
        for _ in &header.parts {
            parts.push(StoredPart::read(&mut from)?);
        }
        from.finish()?;
        Ok(Self { header, header_bytes, signature, parts })
    }
}
