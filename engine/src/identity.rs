//! The ed25519 key a member is known by: it signs units and authenticates the QUIC link.
//!
//! ```
//! use landfall_engine::identity::{self, MemberKey};
//! use landfall_protocol::id::PublicKey;
//! let key = MemberKey::generate()?;
//! let written: PublicKey = key.public().to_string().parse()?;
//! identity::check(&written)?;
//! assert!(identity::verify(&written, b"unit", &key.sign(b"unit")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use landfall_protocol::id::PublicKey;

/// What a key file starts with; 64 hex digits and a line feed follow.
const FILE_PREFIX: &str = "landfall-secret-key:";
/// Longest key file read, in bytes. A real one has 85.
const FILE_BYTES_MAX: u64 = 256;
/// PKCS #8 (RFC 8410) wrapping of an ed25519 seed: everything before the 32 seed bytes.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// SubjectPublicKeyInfo (RFC 8410) of an ed25519 key: everything before the 32 key bytes.
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What can go wrong with keys and their files.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system gave no randomness.
    #[error("draw a member key: {0}")]
    Randomness(getrandom::Error),
    /// The file is there already; a key is never overwritten, because what it signed would become
    /// unverifiable.
    #[error("key file {} exists already; move it away if it is really to be replaced", .0.display())]
    Exists(PathBuf),
    /// The file cannot be written.
    #[error("write key file {}: {source}", path.display())]
    Write {
        /// The key file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("read key file {}: {source}", path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody other than the owner may read or write the file.
    #[error(
        "key file {} is open to other users (mode {mode:04o}); run: chmod 600 {}",
        path.display(), path.display()
    )]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key file.
    #[error("key file {} is not one line of \"landfall-secret-key:\" and 64 hex digits", .0.display())]
    Malformed(PathBuf),
    /// The bytes are not a usable ed25519 public key. Keys of small order are refused too: anyone
    /// can forge signatures of those.
    #[error("{0} is not a usable ed25519 public key")]
    PublicKey(PublicKey),
}

/// A member's secret key.
pub struct MemberKey {
    signing: SigningKey,
}

impl MemberKey {
    /// Draws a new key from the operating system.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(IdentityError::Randomness)?;
        Ok(Self { signing: SigningKey::from_bytes(&seed) })
    }

    /// Writes the key to a new file of mode 0600 and makes it durable before it returns, because a
    /// key that others already know must not vanish in a power cut.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::Write { path: path.to_owned(), source };
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(IdentityError::Exists(path.to_owned()));
            }
            Err(error) => return Err(failed(error)),
        };
        let line = format!("{FILE_PREFIX}{}\n", Hex(self.signing.as_bytes()));
        file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        sync_directory_of(path).map_err(failed)
    }

    /// Reads a key file that only its owner may read.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // Asked of the open file, so that nobody can swap it between the check and the read.
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        Self::parse(&text).ok_or_else(|| IdentityError::Malformed(path.to_owned()))
    }

    /// The key in the content of a key file.
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let text = str::from_utf8(content).ok()?;
        let seed = parse_hex(text.trim_end().strip_prefix(FILE_PREFIX)?)?;
        Some(Self { signing: SigningKey::from_bytes(&seed) })
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.signing.verifying_key().to_bytes())
    }

    /// The ed25519 signature of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    /// The key as PKCS #8 DER, which is what rustls takes.
    pub fn pkcs8_der(&self) -> Vec<u8> {
        [PKCS8_PREFIX.as_slice(), self.signing.as_bytes()].concat()
    }

    /// The X25519 secret of the key that [`agreement_key`] gives others: by it only this member opens
    /// what was encrypted for it. That one key may serve for ed25519 signatures and for a key
    /// encapsulation over X25519 with a hash of what was agreed, as HPKE is, is proven in
    /// <https://eprint.iacr.org/2021/509>; it is what `age` does with SSH keys.
    pub(crate) fn agreement_secret(&self) -> [u8; 32] {
        self.signing.to_scalar_bytes()
    }

    /// A key for one purpose, derived from this one: the same after every restart, and of no use
    /// for learning this key. `purpose` must be used for nothing else that is signed.
    pub(crate) fn derive(&self, purpose: &str) -> Self {
        let signature = self.sign(purpose.as_bytes());
        let mut seed = [0; 32];
        // The second half of the signature is the scalar: unpredictable without the secret key.
        seed.copy_from_slice(&signature[32..]);
        Self { signing: SigningKey::from_bytes(&seed) }
    }
}

impl fmt::Debug for MemberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberKey").field("public", &self.public()).finish_non_exhaustive()
    }
}

/// Refuses what nobody can sign for, and points of small order, for which anybody can. To be asked
/// of every key that is written down somewhere before it is pinned.
pub fn check(key: &PublicKey) -> Result<(), IdentityError> {
    match VerifyingKey::from_bytes(&key.0) {
        Ok(point) if !point.is_weak() => Ok(()),
        _ => Err(IdentityError::PublicKey(*key)),
    }
}

/// Whether `signature` is that of `key` over `message` (strict: one valid signature per key and
/// message, see RFC 8032 §5.1.7 and `verify_strict`).
pub fn verify(key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(point) = VerifyingKey::from_bytes(&key.0) else { return false };
    point.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
}

/// The X25519 public key that belongs to a member's key, so that things can be encrypted for a member
/// of whom only the fleet file is known; `None` for keys that [`check`] refuses.
pub(crate) fn agreement_key(key: &PublicKey) -> Option<[u8; 32]> {
    check(key).ok()?;
    Some(VerifyingKey::from_bytes(&key.0).ok()?.to_montgomery().to_bytes())
}

/// The key as SubjectPublicKeyInfo DER: what goes over the wire instead of a certificate.
pub fn spki_der(key: &PublicKey) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), &key.0].concat()
}

/// The inverse of [`spki_der`]; exactly that encoding and no other, and only keys that pass
/// [`check`].
pub fn from_spki_der(der: &[u8]) -> Option<PublicKey> {
    let key = PublicKey(der.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?);
    check(&key).ok().map(|()| key)
}

/// The first eight hex digits, for logs and where no name is known.
pub fn short(key: &PublicKey) -> String {
    Hex(&key.0[..4]).to_string()
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            f.write_char(char::from(HEX_DIGITS[usize::from(byte >> 4)]))?;
            f.write_char(char::from(HEX_DIGITS[usize::from(byte & 15)]))?;
        }
        Ok(())
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Reads exactly 64 lower-case hex digits: one spelling per key, so that texts can be compared.
fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: &u8| HEX_DIGITS.iter().position(|d| d == byte);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != 32 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = u8::try_from(digit(high)? << 4 | digit(low)?).ok()?;
    }
    Some(bytes)
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn saved_key_comes_back_and_signs_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("member.key");
        let key = MemberKey::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let loaded = MemberKey::load(&path).unwrap();
        assert_eq!(loaded.public(), key.public());
        assert_eq!(loaded.sign(b"unit"), key.sign(b"unit"));
        assert!(verify(&key.public(), b"unit", &loaded.sign(b"unit")));
        assert!(!verify(&key.public(), b"other", &loaded.sign(b"unit")));
    }

    #[test]
    fn save_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("member.key");
        let first = MemberKey::generate().unwrap();
        first.save(&path).unwrap();
        let error = MemberKey::generate().unwrap().save(&path).unwrap_err();
        assert!(matches!(error, IdentityError::Exists(_)), "{error}");
        assert_eq!(MemberKey::load(&path).unwrap().public(), first.public());
    }

    #[test]
    fn load_refuses_what_others_can_read_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("member.key");
        MemberKey::generate().unwrap().save(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = MemberKey::load(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Exposed { .. }), "{error}");
            assert!(
                error.to_string().contains(&format!("chmod 600 {}", path.display())),
                "{error}"
            );
        }
    }

    #[test]
    fn load_refuses_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("member.key");
        let good = format!("{FILE_PREFIX}{}\n", "ab".repeat(32));
        let bad = ["", "x", &good[..80], &good.to_uppercase(), &format!("{}0", good.trim_end())];
        for text in bad {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = MemberKey::load(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Malformed(_)), "{text:?}: {error}");
        }
        fs::write(&path, good).unwrap();
        MemberKey::load(&path).unwrap();
    }

    #[test]
    fn keys_that_anybody_can_sign_for_are_refused() {
        let key = MemberKey::generate().unwrap().public();
        check(&key).unwrap();
        assert!(key.to_string().starts_with(&short(&key)));
        // The neutral element, and bytes that are no point of the curve.
        let neutral = format!("01{}", "00".repeat(31)).parse().unwrap();
        let nowhere = format!("02{}", "00".repeat(31)).parse().unwrap();
        for unusable in [neutral, nowhere] {
            let error = check(&unusable).unwrap_err();
            assert!(error.to_string().starts_with(&unusable.to_string()), "{error}");
            assert_eq!(from_spki_der(&spki_der(&unusable)), None);
        }
    }

    #[test]
    fn spki_round_trips_and_takes_nothing_else() {
        let key = MemberKey::generate().unwrap().public();
        let der = spki_der(&key);
        assert_eq!(from_spki_der(&der), Some(key));
        assert_eq!(from_spki_der(&der[..43]), None);
        assert_eq!(from_spki_der(&[der.as_slice(), &[0]].concat()), None);
        assert_eq!(from_spki_der(&key.0), None);
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = MemberKey::generate().unwrap();
        let shown = format!("{key:?}");
        assert!(!shown.contains(&Hex(key.signing.as_bytes()).to_string()));
        assert!(shown.contains(&short(&key.public())));
    }

    #[test]
    fn derived_keys_are_stable_and_differ_by_purpose() {
        let key = MemberKey::generate().unwrap();
        assert_eq!(key.derive("a").public(), key.derive("a").public());
        assert_ne!(key.derive("a").public(), key.derive("b").public());
        assert_ne!(key.derive("a").public(), key.public());
    }
}
