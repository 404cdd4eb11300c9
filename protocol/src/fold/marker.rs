//! The transactional logical message by which the fold knows our own transactions.

use crate::codec::{DecodeError, Reader, Writer};
use crate::fold::Obstacle;
use crate::fold::emission::{self, Emission};
use crate::id::{Origin, Seq};

/// Prefix of every logical message Landfall writes.
pub const MARKER_PREFIX: &str = "landfall.apply";
/// The prefix of the logical message by which the application names the
/// [`Actor`](crate::change::Actor) of its transaction.
pub const ACTOR_PREFIX: &str = "landfall.actor";

/// One apply transaction sets aside at most this many changes.
const PARKED_MAX: usize = 1 << 24;

/// Bytes of the seal before a marker's content.
const SEAL_BYTES: usize = 32;

/// A secret of one store. Anybody who may run SQL may write a logical message of any prefix, and
/// whoever could write our marker could make own transactions vanish from the log; so a marker
/// counts only with a seal that this key made.
#[derive(Clone, PartialEq, Eq)]
pub struct MarkerKey([u8; 32]);

impl std::fmt::Debug for MarkerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MarkerKey(secret)")
    }
}

impl MarkerKey {
    /// A key of random bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The bytes, to be stored where only the daemon reads.
    pub fn secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// The message that says `marker`.
    pub fn seal(&self, marker: &Marker) -> Vec<u8> {
        let content = marker.encode();
        let mut message = blake3::keyed_hash(&self.0, &content).as_bytes().to_vec();
        message.extend(content);
        message
    }

    /// The marker in a message; `None` when the message is not ours, whoever wrote it.
    ///
    /// # Errors
    /// Fails when it is ours and does not read.
    pub fn open(&self, message: &[u8]) -> Result<Option<Marker>, DecodeError> {
        let Some((seal, content)) = message.split_first_chunk::<SEAL_BYTES>() else {
            return Ok(None);
        };
        // Hashes compare in constant time.
        if blake3::keyed_hash(&self.0, content) != *seal {
            return Ok(None);
        }
        Marker::decode(content).map(Some)
    }
}

/// A change that the apply transaction set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParkedChange {
    /// The transaction it is part of.
    pub seq: Seq,
    /// Its place among that transaction's changes, from 0.
    pub index: u32,
}

/// What one of our own PostgreSQL transactions is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marker {
    /// It shows these consecutive transactions of an origin.
    Apply {
        /// Whose.
        origin: Origin,
        /// The first one.
        first: Seq,
        /// The last one.
        last: Seq,
        /// Changes of theirs that could not be shown, and what kept each.
        parked: Vec<(ParkedChange, Obstacle)>,
        /// What this site does to rows in the same transaction, in the order of the rows.
        emitted: Vec<Emission>,
    },
    /// It rewrites rows to what their clocks say; it is no news.
    Repair,
    /// As a repair, and this site does so much besides.
    Remedy {
        /// In the order of the rows.
        emitted: Vec<Emission>,
    },
}

impl Marker {
    /// Whether it says of the same transactions what became of them.
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        let named = |marker: &Self| match marker {
            Self::Apply { origin, first, last, .. } => Some((*origin, *first, *last)),
            Self::Repair | Self::Remedy { .. } => None,
        };
        named(self) == named(other)
    }

    /// The message's content.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Apply { origin, first, last, parked, emitted } => {
                // As versions wrote it that emitted nothing, which the WAL may still hold.
                out.u8(if emitted.is_empty() { 1 } else { 3 });
                out.origin(*origin);
                out.varint(first.0);
                out.varint(last.0);
                out.varint(parked.len() as u64);
                for (change, obstacle) in parked {
                    out.varint(change.seq.0);
                    out.varint(u64::from(change.index));
                    obstacle.encode(&mut out);
                }
                if !emitted.is_empty() {
                    emission::encode(emitted, &mut out);
                }
            }
            Self::Repair => out.u8(2),
            Self::Remedy { emitted } => {
                out.u8(4);
                emission::encode(emitted, &mut out);
            }
        }
        out.into_bytes()
    }

    /// Reads a message's content.
    ///
    /// # Errors
    /// Fails when the content is not one of ours.
    pub fn decode(content: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(content);
        let marker = match from.u8()? {
            tag @ (1 | 3) => {
                let (origin, first, last) =
                    (from.origin()?, Seq(from.varint()?), Seq(from.varint()?));
                let parked = (0..from.count(PARKED_MAX)?)
                    .map(|_| {
                        let change = ParkedChange { seq: Seq(from.varint()?), index: from.u32()? };
                        Ok((change, Obstacle::decode(&mut from)?))
                    })
                    .collect::<Result<_, DecodeError>>()?;
                let emitted = if tag == 3 { emission::decode(&mut from)? } else { Vec::new() };
                Self::Apply { origin, first, last, parked, emitted }
            }
            2 => Self::Repair,
            4 => Self::Remedy { emitted: emission::decode(&mut from)? },
            tag => return Err(DecodeError::UnknownTag { what: "marker", tag }),
        };
        from.finish()?;
        Ok(marker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dictionary::RowId;
    use crate::fold::Remedy;
    use crate::id::{Incarnation, SiteId};
    use crate::schema::{ColumnId, TableId};
    use crate::value::{RowKey, Value};

    #[test]
    fn what_is_emitted_reads_back_and_nothing_costs_nothing() {
        let row = |key| RowId { table: TableId(3), key: RowKey::new(&[Value::Int(key)]) };
        let remedies = [
            Remedy::Revive,
            Remedy::Delete,
            Remedy::Quarantine,
            Remedy::Return,
            Remedy::ReviveAside,
            Remedy::Update(vec![ColumnId(1), ColumnId(4)]),
        ];
        let emitted = remedies.into_iter().zip(1..);
        let emitted = emitted.map(|(remedy, key)| Emission { row: row(key), remedy }).collect();
        let site = SiteId::new(1).expect("not zero");
        let origin = Origin { site, incarnation: Incarnation::new(7).expect("not zero") };
        let apply = |emitted| {
            let parked = vec![(ParkedChange { seq: Seq(8), index: 3 }, Obstacle::Refused)];
            Marker::Apply { origin, first: Seq(7), last: Seq(9), parked, emitted }
        };
        let (silent, telling) = (apply(Vec::new()), apply(emitted));
        let Marker::Apply { emitted, .. } = telling.clone() else { unreachable!("it applies") };
        let remedy = Marker::Remedy { emitted };
        // As it was before anything was emitted.
        assert_eq!(silent.encode()[0], 1);
        for marker in [silent, telling, remedy, Marker::Repair] {
            let bytes = marker.encode();
            assert_eq!(Marker::decode(&bytes), Ok(marker));
            assert!((0..bytes.len()).all(|cut| Marker::decode(&bytes[..cut]).is_err()));
        }
    }

    #[test]
    fn only_the_own_key_makes_markers() {
        let (own, other) = (MarkerKey::new([1; 32]), MarkerKey::new([2; 32]));
        let message = own.seal(&Marker::Repair);
        assert_eq!(own.open(&message), Ok(Some(Marker::Repair)));
        for foreign in [other.seal(&Marker::Repair), Marker::Repair.encode(), Vec::new()] {
            assert_eq!(own.open(&foreign), Ok(None));
        }
        let mut altered = message;
        altered.push(0);
        assert_eq!(own.open(&altered), Ok(None));
    }
}
