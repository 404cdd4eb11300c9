//! Version vectors: how far somebody's knowledge of every origin reaches.

use std::collections::BTreeMap;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Origin, Seq, TxnId};

/// Origins one vector may name; a fleet has at most 65535 sites with a few lives each.
pub const VECTOR_ENTRIES_MAX: usize = 1 << 17;

/// For each origin the highest transaction known with all before it. Origins of which nothing is
/// known are absent.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VersionVector(BTreeMap<Origin, Seq>);

impl VersionVector {
    /// Knows nothing.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// How far `origin` is known; [`Seq::ZERO`] when not at all.
    pub fn get(&self, origin: Origin) -> Seq {
        self.0.get(&origin).copied().unwrap_or(Seq::ZERO)
    }

    /// Moves `origin` up to `seq`; never down. Says whether anything changed.
    pub fn advance(&mut self, origin: Origin, seq: Seq) -> bool {
        if self.get(origin) >= seq {
            return false;
        }
        self.0.insert(origin, seq);
        true
    }

    /// Takes over everything `other` knows.
    pub fn join(&mut self, other: &Self) {
        for (origin, seq) in other.iter() {
            self.advance(origin, seq);
        }
    }

    /// Whether this transaction is known.
    pub fn covers(&self, txn: TxnId) -> bool {
        self.get(txn.origin) >= txn.seq
    }

    /// Whether everything `other` knows is known here.
    pub fn contains(&self, other: &Self) -> bool {
        other.iter().all(|(origin, seq)| self.get(origin) >= seq)
    }

    /// The entries in origin order.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, Seq)> + '_ {
        self.0.iter().map(|(origin, seq)| (*origin, *seq))
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many origins are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Writes the canonical form: count, then (origin, seq) in origin order.
    pub fn encode(&self, out: &mut Writer) {
        out.varint(self.0.len() as u64);
        for (origin, seq) in self.iter() {
            out.origin(origin);
            out.varint(seq.0);
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when the bytes are cut short, name too many origins, or are not in order.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = from.count(VECTOR_ENTRIES_MAX)?;
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let (origin, seq) = (from.origin()?, Seq(from.varint()?));
            if seq == Seq::ZERO || entries.last_key_value().is_some_and(|(last, _)| *last >= origin)
            {
                return Err(DecodeError::NotCanonical("version vector"));
            }
            entries.insert(origin, seq);
        }
        Ok(Self(entries))
    }
}

impl FromIterator<(Origin, Seq)> for VersionVector {
    fn from_iter<T: IntoIterator<Item = (Origin, Seq)>>(entries: T) -> Self {
        let mut vector = Self::new();
        for (origin, seq) in entries {
            vector.advance(origin, seq);
        }
        vector
    }
}
