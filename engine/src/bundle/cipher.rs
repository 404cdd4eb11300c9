//! The encryption of a part. Nothing of it is our own: HPKE (RFC 9180, base mode, X25519 with
//! HKDF-SHA256 and ChaCha20-Poly1305) wraps a file key for each recipient, and STREAM (Hoang,
//! Reyhanitabar, Rogaway, Vizár, 2015) over ChaCha20-Poly1305 encrypts the body in chunks, the last of
//! which is marked, so that a cut is noticed wherever it falls.
//!
//! Every part has a file key of its own, drawn for it, so the nonce of its stream may be the same in
//! all of them. Each slot is bound to the header before the slots, each chunk to the whole header.

use aead_stream::{NewStream as _, StreamBE32, StreamPrimitive as _};
use chacha20poly1305::ChaCha20Poly1305;
use hpke::aead::ChaCha20Poly1305 as SlotAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _};
use landfall_protocol::bundle::{Header, SLOT_BYTES};
use landfall_protocol::id::PublicKey;

use crate::identity::{self, MemberKey};

/// Plain bytes of a chunk; only the last one may have fewer, and it has at least one.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// What encryption adds to a chunk.
pub(super) const TAG_BYTES: usize = 16;

/// HPKE's `info`: what the key is for.
const SLOT_INFO: &[u8] = b"landfall bundle 1 file key";
const KEY_BYTES: usize = 32;
const ENCAPSULATED_BYTES: usize = 32;

/// A file key as one recipient can open it; `None` when that key is of no use.
pub(super) fn seal_slot(
    file_key: &[u8; KEY_BYTES],
    recipient: &PublicKey,
    head: &[u8],
) -> Option<[u8; SLOT_BYTES]> {
    let public = identity::agreement_key(recipient)?;
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&public).ok()?;
    let (encapsulated, sealed) = hpke::single_shot_seal::<SlotAead, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        SLOT_INFO,
        file_key,
        head,
    )
    .ok()?;
    let mut slot = [0; SLOT_BYTES];
    let (first, second) = slot.split_at_mut(ENCAPSULATED_BYTES);
    first.copy_from_slice(&encapsulated.to_bytes());
    (second.len() == sealed.len()).then(|| second.copy_from_slice(&sealed))?;
    Some(slot)
}

/// The file key in the slot that is for us, if one is. They do not say whom they are for, so each is
/// tried.
pub(super) fn open_slots(header: &Header, key: &MemberKey) -> Option<[u8; KEY_BYTES]> {
    let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&key.agreement_secret()).ok()?;
    let head = header.head();
    header.slots.iter().find_map(|slot| {
        let (encapsulated, sealed) = slot.split_at(ENCAPSULATED_BYTES);
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
        let opened = hpke::single_shot_open::<SlotAead, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &secret,
            &encapsulated,
            SLOT_INFO,
            sealed,
            &head,
        );
        opened.ok()?.try_into().ok()
    })
}

/// Where a chunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Others follow.
    Inside,
    /// It is the last.
    End,
}

/// Encrypts or decrypts the chunks of one body, one after the other.
pub(super) struct Chunks {
    stream: StreamBE32<ChaCha20Poly1305>,
    header: [u8; 32],
    position: u32,
}

impl std::fmt::Debug for Chunks {
    // Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks").field("position", &self.position).finish_non_exhaustive()
    }
}

impl Chunks {
    /// Of the part with this key and this hash of its header.
    pub(super) fn new(file_key: &[u8; KEY_BYTES], header: [u8; 32]) -> Self {
        let stream = StreamBE32::new(file_key.into(), &Default::default());
        Self { stream, header, position: 0 }
    }

    /// Encrypts the next chunk. A body never has 2^32 of them: that would be 256 TiB.
    pub(super) fn seal(&mut self, mut chunk: Vec<u8>, place: Place) -> Vec<u8> {
        let is_last = place == Place::End;
        self.stream
            .encrypt_in_place(self.position, is_last, &self.header, &mut chunk)
            .expect("a chunk is shorter than what ChaCha20 can encrypt");
        self.position = self.position.checked_add(1).expect("a body is shorter than 256 TiB");
        chunk
    }

    /// Decrypts the next chunk, if it is what stood in this place.
    pub(super) fn open(&mut self, chunk: &[u8], place: Place) -> Option<Vec<u8>> {
        let mut buffer = chunk.to_vec();
        let is_last = place == Place::End;
        self.stream.decrypt_in_place(self.position, is_last, &self.header, &mut buffer).ok()?;
        self.position = self.position.checked_add(1)?;
        Some(buffer)
    }
}
