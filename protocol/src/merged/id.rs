//! Names for what stands in a merged value: who brought it, and which of what they brought it is.

use std::collections::{BTreeMap, BTreeSet};

use super::COUNT_MAX;
use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, Writer};

/// A character, an item or a value within a merged column. Later ones are greater: what is written
/// in knowledge of another has the later stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    /// The transaction that brought it; `None` for what the column was born with.
    pub(super) by: Option<Stamp>,
    /// Its place among what that transaction brought to this cell.
    pub(super) number: u32,
}

impl Id {
    /// The first thing that the column was born with.
    pub(super) const FIRST: Self = Self { by: None, number: 0 };

    /// The name of what stands `count` places further on in what was brought together.
    pub(super) fn further(self, count: u32) -> Self {
        Self { number: self.number.saturating_add(count), ..self }
    }
}

/// The stamps that ids name, so that each is written once.
#[derive(Debug)]
pub(super) struct Stamps(Vec<Stamp>);

impl Stamps {
    /// Of all these ids.
    pub(super) fn of(ids: impl Iterator<Item = Id>) -> Self {
        let stamps: BTreeSet<Stamp> = ids.filter_map(|id| id.by).collect();
        Self(stamps.into_iter().collect())
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        out.varint(self.0.len() as u64);
        self.0.iter().for_each(|stamp| out.stamp(*stamp));
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut stamps: Vec<Stamp> = Vec::new();
        for _ in 0..from.count(COUNT_MAX)? {
            let stamp = from.stamp()?;
            if stamps.last().is_some_and(|last| *last >= stamp) {
                return Err(DecodeError::NotCanonical("stamps of a merged column"));
            }
            stamps.push(stamp);
        }
        Ok(Self(stamps))
    }

    pub(super) fn put(&self, id: Id, out: &mut Writer) {
        let place = id.by.map_or(0, |stamp| match self.0.binary_search(&stamp) {
            Ok(place) | Err(place) => place + 1,
        });
        out.varint(place as u64);
        out.varint(u64::from(id.number));
    }

    /// As [`Stamps::put`], of an id or of none.
    pub(super) fn put_option(&self, id: Option<Id>, out: &mut Writer) {
        out.u8(u8::from(id.is_some()));
        id.into_iter().for_each(|id| self.put(id, out));
    }

    pub(super) fn get(&self, from: &mut Reader<'_>) -> Result<Id, DecodeError> {
        let place = from.varint()?;
        let by = match usize::try_from(place).map_err(|_| DecodeError::BadNumber)?.checked_sub(1) {
            None => None,
            Some(place) => Some(*self.0.get(place).ok_or(DecodeError::BadNumber)?),
        };
        let number = u32::try_from(from.varint()?).map_err(|_| DecodeError::BadNumber)?;
        Ok(Id { by, number })
    }

    pub(super) fn get_option(&self, from: &mut Reader<'_>) -> Result<Option<Id>, DecodeError> {
        match from.u8()? {
            0 => Ok(None),
            1 => self.get(from).map(Some),
            tag => Err(DecodeError::UnknownTag { what: "place in a merged column", tag }),
        }
    }

    /// Fails when there are stamps that none of the ids read since names.
    pub(super) fn all_named(&self, ids: impl Iterator<Item = Id>) -> Result<(), DecodeError> {
        match Self::of(ids).0.len() == self.0.len() {
            true => Ok(()),
            false => Err(DecodeError::NotCanonical("stamps of a merged column")),
        }
    }
}

/// Ids that are gone: stretches that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stretches(BTreeMap<Id, u32>);

impl Stretches {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `count` ids from `first` on.
    pub(super) fn add(&mut self, first: Id, count: u32) {
        if count == 0 {
            return;
        }
        let (mut from, mut end) = (first.number, first.number.saturating_add(count));
        let at = |number| Id { number, ..first };
        while let Some((found, count)) = self.0.range(at(0)..=at(end)).next_back() {
            let (found, count) = (*found, *count);
            let found_end = found.number.saturating_add(count);
            if found_end < from {
                break;
            }
            (from, end) = (from.min(found.number), end.max(found_end));
            self.0.remove(&found);
        }
        self.0.insert(at(from), end - from);
    }

    /// Adds all of the others.
    pub(super) fn join(&mut self, others: &Self) {
        others.iter().for_each(|(first, count)| self.add(first, count));
    }

    /// Whether this id is among them.
    pub(super) fn contains(&self, id: Id) -> bool {
        self.rest(id) > 0
    }

    /// How many ids from this one on are among them, without a gap.
    pub(super) fn rest(&self, id: Id) -> u32 {
        let found = self.0.range(Id { number: 0, ..id }..=id).next_back();
        found.map_or(0, |(first, count)| (first.number + count).saturating_sub(id.number))
    }

    /// How many ids from this one on are not among them, at most `count`.
    pub(super) fn gap(&self, id: Id, count: u32) -> u32 {
        match self.contains(id) {
            true => 0,
            false => {
                let next = self.0.range(id..id.further(count)).next();
                next.map_or(count, |(first, _)| first.number - id.number)
            }
        }
    }

    /// All stretches in order, with their lengths.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, u32)> + '_ {
        self.0.iter().map(|(first, count)| (*first, *count))
    }

    pub(super) fn encode(&self, stamps: &Stamps, out: &mut Writer) {
        out.varint(self.0.len() as u64);
        for (first, count) in self.iter() {
            stamps.put(first, out);
            out.varint(u64::from(count));
        }
    }

    pub(super) fn decode(stamps: &Stamps, from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut stretches = Self::default();
        for _ in 0..from.count(COUNT_MAX)? {
            let first = stamps.get(from)?;
            let count = u32::try_from(from.varint()?).map_err(|_| DecodeError::BadNumber)?;
            let end = first.number.checked_add(count).filter(|_| count > 0);
            end.ok_or(DecodeError::BadNumber)?;
            let last = stretches.0.last_key_value();
            let is_apart = last.is_none_or(|(last, count)| {
                *last < first && (last.by != first.by || last.number + count < first.number)
            });
            if !is_apart {
                return Err(DecodeError::NotCanonical("stretches of a merged column"));
            }
            stretches.0.insert(first, count);
        }
        Ok(stretches)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::merged::tests::stamp;

    proptest! {
        #[test]
        fn stretches_are_the_ids_they_were_made_of(
            added in proptest::collection::vec((0u64..3, 0u32..30, 0u32..6), 0..30),
        ) {
            let by = |time: u64| (time > 0).then(|| stamp(0, time));
            let mut stretches = Stretches::default();
            let mut ids = BTreeSet::new();
            for (time, number, count) in added {
                let first = Id { by: by(time), number };
                stretches.add(first, count);
                ids.extend((0..count).map(|further| first.further(further)));
            }
            for time in 0..3 {
                for number in 0..40 {
                    let id = Id { by: by(time), number };
                    prop_assert_eq!(stretches.contains(id), ids.contains(&id));
                    let gap = (0..9).take_while(|n| !ids.contains(&id.further(*n))).count();
                    prop_assert_eq!(stretches.gap(id, 9), gap as u32);
                }
            }
            let stamps = Stamps::of(stretches.iter().map(|(first, _)| first));
            let mut out = Writer::new();
            stretches.encode(&stamps, &mut out);
            let bytes = out.into_bytes();
            prop_assert_eq!(Stretches::decode(&stamps, &mut Reader::new(&bytes)), Ok(stretches));
        }
    }
}
