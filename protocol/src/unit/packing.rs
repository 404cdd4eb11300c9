//! How the content of a part travels: as it is, packed, or taken apart into columns and packed.

use crate::change::Fragment;
use crate::codec::{DecodeError, Reader, Writer};
use crate::columnar::{self, Content};
use crate::compress::{compress_below, compress_in_pieces, decompress};
use crate::unit::body::PlainPart;
use crate::unit::{PartHeader, PartId, UNIT_BYTES_MAX, UnitError, UnitHeader};

/// Below this many bytes compression is not tried.
const PACK_FROM_BYTES: usize = 64;
/// Below this many changes, or transactions, columns are not tried: they begin to be shorter at
/// twenty to thirty (`examples/packing`).
const COLUMNS_FROM: u64 = 32;

/// What was done to a part's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Nothing.
    Plain,
    /// zstd.
    Rows,
    /// Columns; their length, and zstd.
    Columns,
}

impl Packing {
    const ALL: [Self; 3] = [Self::Plain, Self::Rows, Self::Columns];

    fn of_number(number: u8) -> Result<Self, DecodeError> {
        let unknown = DecodeError::UnknownTag { what: "packing", tag: number };
        Self::ALL.get(usize::from(number)).copied().ok_or(unknown)
    }
}

fn content(part: PartId, fragment: Fragment) -> Content {
    match (part, fragment) {
        (PartId::Spine, Fragment::Compacted) => Content::CompactedSpine,
        (PartId::Spine, _) => Content::Spine,
        (PartId::Set(_), _) => Content::Set,
    }
}

/// Writes a part of a unit in its shortest form, packed at a zstd `level`.
pub(super) fn put(out: &mut Writer, part: &PlainPart, of: &UnitHeader, level: i32) {
    let plain = &part.plain;
    let columns = columns(part, of, level).filter(|packed| packed.len() < plain.len());
    let below = columns.as_ref().map_or(plain.len(), Vec::len);
    let tried = plain.len() >= PACK_FROM_BYTES;
    let rows = tried.then(|| compress_below(below, plain, level)).flatten();
    let (packing, bytes) = match (&rows, &columns) {
        (Some(rows), _) => (Packing::Rows, rows),
        (None, Some(columns)) => (Packing::Columns, columns),
        (None, None) => (Packing::Plain, plain),
    };
    out.u8(packing as u8);
    out.bytes(bytes);
}

fn columns(part: &PlainPart, of: &UnitHeader, level: i32) -> Option<Vec<u8>> {
    if part.count < COLUMNS_FROM {
        return None;
    }
    let content = content(part.id, of.fragment);
    let columns = columnar::split(content, &part.plain, of.hlc_first.0)?;
    let mut packed = Writer::new();
    packed.varint(columns.bytes.len() as u64);
    packed.raw(&compress_in_pieces(&columns.bytes, &columns.cuts, level));
    Some(packed.into_bytes())
}

/// A part as it travels.
pub(super) struct StoredPart<'a> {
    pub(super) packing: Packing,
    pub(super) bytes: &'a [u8],
}

impl<'a> StoredPart<'a> {
    /// Reads the next part.
    pub(super) fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let packing = Packing::of_number(from.u8()?)?;
        Ok(Self { packing, bytes: from.bytes(UNIT_BYTES_MAX)? })
    }

    /// The content of this part of a unit, of the length that the header declares, which whoever read it
    /// has held under its limit.
    pub(super) fn unpack(&self, part: &PartHeader, of: &UnitHeader) -> Result<Vec<u8>, UnitError> {
        let declared = part.plain_bytes as usize;
        if self.packing == Packing::Plain {
            let fits = self.bytes.len() == declared;
            return if fits {
                Ok(self.bytes.to_vec())
            } else {
                Err(UnitError::WrongContent(part.id))
            };
        }
        // The packing is not signed. Without this rule whoever passes a unit on could blow it up
        // with zstd frames that say nothing.
        if self.bytes.len() >= declared {
            return Err(DecodeError::NotCanonical("packed part").into());
        }
        if self.packing == Packing::Rows {
            return Ok(decompress(self.bytes, declared)?);
        }
        let mut from = Reader::new(self.bytes);
        let (found, limit) = (from.varint()?, columnar::columns_bytes_max(declared));
        let length = usize::try_from(found).ok().filter(|length| *length <= limit);
        let length = length.ok_or(DecodeError::TooLong { found, limit: limit as u64 })?;
        let columns = decompress(from.rest(), length)?;
        Ok(columnar::join(content(part.id, of.fragment), &columns, declared)?)
    }
}
