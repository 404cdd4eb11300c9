//! Units: as they arrive, and as an origin that signs nonsense would send them.

use ed25519_dalek::{Signer as _, SigningKey};
use landfall_protocol::change::Fragment;
use landfall_protocol::codec::{Reader, Writer};
use landfall_protocol::columnar::{self, Content};
use landfall_protocol::compress::{compress, decompress};
use landfall_protocol::dictionary::Dictionary;
use landfall_protocol::id::PublicKey;
use landfall_protocol::schema::SetId;
use landfall_protocol::unit::{HEADER_BYTES_MAX, PartId, UNIT_FORMAT, Unit, UnitHeader};

use super::messages::origin;

/// The most that the check of zstd declares.
pub(super) const DECLARED_BYTES_MAX: usize = 1 << 20;

/// What all seeds are signed with.
pub(super) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn public() -> PublicKey {
    PublicKey(key().verifying_key().to_bytes())
}

/// A unit as it arrives; then the same, signed again; then with hashes that fit its content, too.
pub(super) fn check_unit(bytes: &[u8]) {
    let peeked = Unit::peek(bytes).ok();
    check_opening(bytes);
    let Some(signed) = sign_again(bytes) else { return };
    check_opening(&signed);
    if let Some(fitted) = peeked.and_then(|header| fit(header, bytes)) {
        check_opening(&fitted);
    }
}

fn check_opening(bytes: &[u8]) {
    let (opened, stored) =
        (Unit::open(bytes.to_vec(), &public()), Unit::from_store(bytes.to_vec()));
    if let Ok(unit) = &opened {
        assert_eq!(Ok(unit), stored.as_ref(), "a unit reads otherwise from the store");
        assert_eq!(Unit::peek(bytes).as_ref(), Ok(unit.header()));
        assert_eq!(unit.bytes(), bytes);
    }
    if let Ok(unit) = stored {
        let _ = unit.header().changes();
        if let Ok(transactions) = unit.transactions() {
            let changes: usize = transactions.iter().map(|one| one.changes.len()).sum();
            assert_eq!(unit.header().changes(), changes as u64, "changes were miscounted");
            assert_eq!(transactions.last().map(|last| last.seq), Some(unit.header().last));
        }
        if opened.is_ok() {
            check_meaning(&unit);
        }
    }
}

/// What a receiver goes on to do with the changes, before it looks into its database.
fn check_meaning(unit: &Unit) {
    let Ok(transactions) = unit.transactions() else { return };
    let mut dictionary = Dictionary::default();
    for transaction in &transactions {
        for describe in &transaction.describes {
            let _ = dictionary.learn(&describe.def);
        }
    }
    for transaction in &transactions {
        for (describe, change) in transaction.describes.iter().zip(&transaction.changes) {
            let _ = dictionary.localize(&describe.def, change);
        }
    }
}

/// The unit with a signature that fits its header, whatever that says.
fn sign_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut from = Reader::new(bytes);
    from.u8().ok()?;
    let header = from.bytes(HEADER_BYTES_MAX).ok()?;
    from.raw(64).ok()?;
    Some(assemble(header, from.rest()))
}

fn assemble(header: &[u8], parts: &[u8]) -> Vec<u8> {
    let signed = [b"landfall unit v1\0", header].concat();
    let mut out = Writer::new();
    out.u8(UNIT_FORMAT);
    out.bytes(header);
    out.raw(&key().sign(&signed).to_bytes());
    out.raw(parts);
    out.into_bytes()
}

/// The unit with plain parts, and a header that names their lengths and hashes.
fn fit(mut header: UnitHeader, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut from = Reader::new(bytes);
    from.u8().ok()?;
    from.bytes(HEADER_BYTES_MAX).ok()?;
    from.raw(64).ok()?;
    let mut contents = Vec::new();
    for part in &header.parts {
        let (packing, stored) = (from.u8().ok()?, from.bytes(usize::MAX).ok()?);
        let declared = usize::try_from(part.plain_bytes).ok()?.min(DECLARED_BYTES_MAX);
        contents.push(match packing {
            1 => decompress(stored, declared).ok()?,
            2 => {
                let mut from = Reader::new(stored);
                let length = usize::try_from(from.varint().ok()?).ok()?.min(DECLARED_BYTES_MAX);
                let columns = decompress(from.rest(), length).ok()?;
                columnar::join(content_of(part.id, header.fragment), &columns, declared).ok()?
            }
            _ => stored.to_vec(),
        });
    }
    Some(forge(&mut header, &contents))
}

fn content_of(part: PartId, fragment: Fragment) -> Content {
    match (part, fragment) {
        (PartId::Spine, Fragment::Compacted) => Content::CompactedSpine,
        (PartId::Spine, _) => Content::Spine,
        (PartId::Set(_), _) => Content::Set,
    }
}

/// A signed unit of plain parts.
fn forge(header: &mut UnitHeader, contents: &[Vec<u8>]) -> Vec<u8> {
    let mut parts = Writer::new();
    for (part, content) in header.parts.iter_mut().zip(contents) {
        part.plain_bytes = content.len() as u64;
        part.root = *blake3::hash(content).as_bytes();
        parts.u8(0);
        parts.bytes(content);
    }
    assemble(&encode_header(header), &parts.into_bytes())
}

/// As `docs/wire.md` describes it.
fn encode_header(header: &UnitHeader) -> Vec<u8> {
    let mut out = Writer::new();
    out.varint(header.fleet_version);
    out.origin(header.origin);
    out.varint(header.first.0);
    out.varint(header.last.0.wrapping_sub(header.first.0));
    out.u8(header.fragment.number());
    out.raw(&header.previous.0);
    out.varint(header.hlc_first.0);
    out.varint(header.hlc_last.0.wrapping_sub(header.hlc_first.0));
    header.vector.encode(&mut out);
    out.varint(header.parts.len() as u64);
    for part in &header.parts {
        out.varint(match part.id {
            PartId::Spine => 0,
            PartId::Set(SetId(number)) => u64::from(number),
        });
        out.varint(part.count);
        out.varint(part.plain_bytes);
        out.raw(&part.root);
    }
    out.into_bytes()
}

/// Past every hash: bytes 0 to 7 say how many transactions and changes the header names and of
/// which kind the entry is; the spine, a byte of length before it, and one part follow.
pub(super) fn check_content(bytes: &[u8]) {
    let mut from = Reader::new(bytes);
    let Ok([fragment, count, spine_bytes, changes @ ..]) = from.array::<5>() else { return };
    let Ok(fragment) = Fragment::from_number(fragment % 4) else { return };
    let rest = from.rest();
    let (spine, set) = rest.split_at(rest.len().min(usize::from(spine_bytes)));
    let seed = super::seeds::small_unit(fragment);
    let mut header = seed.header().clone();
    header.last.0 = header.first.0 + u64::from(count.saturating_sub(1));
    header.parts.truncate(2);
    header.parts[0].count = u64::from(count);
    header.parts[1].count = u64::from(u16::from_be_bytes(changes));
    // The last reading and number are what the spine adds up to, or else they could never fit.
    header.hlc_last = header.hlc_first;
    if let Some((numbers, sum)) = readings(fragment, spine) {
        header.hlc_last.0 = header.hlc_first.0.saturating_add(sum);
        if fragment == Fragment::Compacted {
            header.last.0 = header.first.0.saturating_add(numbers);
        }
    }
    let bytes = forge(&mut header, &[spine.to_vec(), set.to_vec()]);
    assert_eq!(header.origin, origin(2));
    check_opening(&bytes);
}

/// The sum of the steps in a spine without descriptions.
fn readings(fragment: Fragment, spine: &[u8]) -> Option<(u64, u64)> {
    let mut from = Reader::new(spine);
    let (mut numbers, mut sum) = (0u64, 0u64);
    while let Ok(step) = from.varint() {
        let step = match fragment {
            Fragment::Compacted => {
                numbers = numbers.checked_add(step)?;
                from.varint().ok()?
            }
            _ => step,
        };
        sum = sum.checked_add(step)?;
        if from.u8() != Ok(0) {
            return None;
        }
    }
    Some((numbers, sum))
}

/// Two bytes say what is declared, in units of 16 bytes; the rest is unpacked, and packed.
pub(super) fn check_zstd(bytes: &[u8]) {
    let Some((declared, packed)) = bytes.split_first_chunk::<2>() else { return };
    let declared = usize::from(u16::from_be_bytes(*declared)) * 16;
    if let Ok(plain) = decompress(packed, declared) {
        assert_eq!(plain.len(), declared);
    }
    let again = compress(packed, 3);
    assert_eq!(decompress(&again, packed.len()).as_deref(), Ok(packed));
    assert!(packed.is_empty() || decompress(&again, packed.len() - 1).is_err());
}

/// A byte says what the columns are of, two bytes what is declared; the rest is put together, taken
/// apart and put together again. Then it is a content itself.
pub(super) fn check_columns(bytes: &[u8]) {
    let Some(([kind, declared @ ..], columns)) = bytes.split_first_chunk::<3>() else { return };
    let content = [Content::Spine, Content::Set, Content::CompactedSpine][usize::from(kind % 3)];
    let declared = usize::from(u16::from_be_bytes(*declared));
    if let Ok(plain) = columnar::join(content, columns, declared) {
        assert_eq!(plain.len(), declared, "as much as was declared");
        check_split(content, &plain);
    }
    check_split(content, columns);
}

fn check_split(content: Content, plain: &[u8]) {
    let Some(columns) = columnar::split(content, plain, 7) else { return };
    assert!(columns.bytes.len() <= columnar::columns_bytes_max(plain.len()));
    assert_eq!(columnar::join(content, &columns.bytes, plain.len()).as_deref(), Ok(plain));
}
