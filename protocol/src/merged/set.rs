//! Sets: arrays to which several sites add and from which they take.
//!
//! An element is in the set while somebody added it and nobody who had seen that took it out. So of
//! two sites that add and remove one element at once, the one that adds wins. What is shown is what
//! the column was born with, in its order, then what was added, in the order of the ids.

use std::collections::{BTreeMap, BTreeSet};

use super::COUNT_MAX;
use super::array::{self, Element};
use super::id::{Id, Stamps};
use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, Writer};
use crate::id::Origin;

/// Longest element of a set.
const ELEMENT_BYTES_MAX: usize = 1 << 20;

/// What one transaction did to a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetEdit {
    /// What it added, numbered through.
    added: Vec<Element>,
    /// What it took out, with the additions that it saw.
    removed: BTreeMap<Element, BTreeSet<Id>>,
}

/// What was done to a set since its birth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<Element, Marks>);

/// What was done to one element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Marks {
    /// Whether it was taken out by somebody who saw that the set was born with it.
    base_gone: bool,
    /// The newest addition of each origin, and whether somebody who saw it took it out. Who saw that
    /// one saw all earlier ones of that origin.
    added: BTreeMap<Origin, (Id, bool)>,
}

impl Marks {
    fn join(&mut self, id: Id, gone: bool) {
        let Some(stamp) = id.by else {
            self.base_gone |= gone;
            return;
        };
        let known = self.added.entry(stamp.txn.origin).or_insert((id, gone));
        *known = (*known).max((id, gone));
    }

    /// The first addition that counts; `in_base` says whether the set was born with the element.
    fn first(&self, in_base: bool) -> Option<Id> {
        #[cfg(feature = "simulation")]
        if crate::planted::active("remove-wins") {
            let is_gone = self.base_gone || self.added.values().any(|(_, gone)| *gone);
            return self.ids().chain(in_base.then_some(Id::FIRST)).min().filter(|_| !is_gone);
        }
        let born = (in_base && !self.base_gone).then_some(Id::FIRST);
        let added = self.added.values().filter(|(_, gone)| !gone).map(|(id, _)| *id);
        born.into_iter().chain(added).min()
    }

    fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.added.values().map(|(id, _)| *id)
    }
}

impl SetEdit {
    /// What made the array `after` of the array `before`.
    pub fn between(set: &Set, before: &str, after: &str) -> Option<Self> {
        let (before, after) = (array::parse(before)?, array::parse(after)?);
        let (was, is): (BTreeSet<_>, BTreeSet<_>) =
            (before.iter().collect(), after.iter().collect());
        let mut edit = Self::default();
        let mut named = BTreeSet::new();
        // As they stand in the array, so that the site that wrote it shows what it wrote.
        for element in &after {
            if !was.contains(element) && named.insert(element) {
                edit.added.push(element.clone());
            }
        }
        for element in was.difference(&is).copied() {
            let marks = set.0.get(element);
            let live = |marks: &Marks| {
                let added = marks.added.values().filter(|(_, gone)| !gone);
                added.map(|(id, _)| *id).collect::<BTreeSet<Id>>()
            };
            let mut seen = marks.map(live).unwrap_or_default();
            if seen.is_empty() || marks.is_some_and(|marks| !marks.base_gone) {
                seen.insert(Id::FIRST);
            }
            edit.removed.insert(element.clone(), seen);
        }
        Some(edit)
    }

    /// What it did, for humans.
    pub fn told(&self) -> String {
        format!(
            "added {}, removed {}",
            array::print(self.added.iter()),
            array::print(self.removed.keys())
        )
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        let stamps = Stamps::of(self.removed.values().flatten().copied());
        stamps.encode(out);
        out.varint(self.added.len() as u64);
        self.added.iter().for_each(|element| put_element(element, out));
        out.varint(self.removed.len() as u64);
        for (element, seen) in &self.removed {
            put_element(element, out);
            out.varint(seen.len() as u64);
            seen.iter().for_each(|id| stamps.put(*id, out));
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or in another form.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let stamps = Stamps::decode(from)?;
        let mut edit = Self::default();
        for _ in 0..from.count(COUNT_MAX)? {
            edit.added.push(element(from)?);
        }
        for _ in 0..from.count(COUNT_MAX)? {
            let element = element(from)?;
            let mut seen = BTreeSet::new();
            for _ in 0..from.count(COUNT_MAX)? {
                let id = stamps.get(from)?;
                if seen.last().is_some_and(|last| *last >= id) {
                    return Err(DecodeError::NotCanonical("additions to a set"));
                }
                seen.insert(id);
            }
            let last = edit.removed.last_key_value();
            if seen.is_empty() || last.is_some_and(|(last, _)| *last >= element) {
                return Err(DecodeError::NotCanonical("elements of a set"));
            }
            edit.removed.insert(element, seen);
        }
        stamps.all_named(edit.removed.values().flatten().copied())?;
        Ok(edit)
    }
}

impl Set {
    /// Takes what the transaction of this stamp did.
    pub fn join(&mut self, stamp: Stamp, edit: &SetEdit) {
        let ids = (0..).map(|number| Id { by: Some(stamp), number });
        for (element, id) in edit.added.iter().zip(ids) {
            self.0.entry(element.clone()).or_default().join(id, false);
        }
        for (element, seen) in &edit.removed {
            let marks = self.0.entry(element.clone()).or_default();
            seen.iter().for_each(|id| marks.join(*id, true));
        }
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The set that was born as `base`; `None` when that is no array of one dimension.
    pub fn shown(&self, base: &str) -> Option<String> {
        let base = array::parse(base)?;
        let mut places: BTreeMap<&Element, usize> = BTreeMap::new();
        for (place, element) in base.iter().enumerate() {
            places.entry(element).or_insert(place);
        }
        let elements: BTreeSet<&Element> = places.keys().copied().chain(self.0.keys()).collect();
        let none = Marks::default();
        let placed = elements.into_iter().filter_map(|element| {
            let in_base = places.get(element);
            let first = self.0.get(element).unwrap_or(&none).first(in_base.is_some())?;
            let place = in_base.copied().filter(|_| first == Id::FIRST);
            Some((first, place, element))
        });
        let mut placed: Vec<_> = placed.collect();
        placed.sort_unstable();
        Some(array::print(placed.into_iter().map(|(.., element)| element)))
    }

    /// The stamps of the additions.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.0.values().flat_map(Marks::ids).filter_map(|id| id.by)
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        let stamps = Stamps::of(self.0.values().flat_map(Marks::ids));
        stamps.encode(out);
        out.varint(self.0.len() as u64);
        for (element, marks) in &self.0 {
            put_element(element, out);
            out.varint(marks.added.len() as u64 * 2 + u64::from(marks.base_gone));
            for (id, gone) in marks.added.values() {
                stamps.put(*id, out);
                out.u8(u8::from(*gone));
            }
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or in another form.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let stamps = Stamps::decode(from)?;
        let mut set = Self::default();
        for _ in 0..from.count(COUNT_MAX)? {
            let element = element(from)?;
            let count = from.varint()?;
            let mut marks = Marks { base_gone: count % 2 == 1, ..Marks::default() };
            for _ in 0..count / 2 {
                let id = stamps.get(from)?;
                let gone = match from.u8()? {
                    tag @ (0 | 1) => tag == 1,
                    tag => return Err(DecodeError::UnknownTag { what: "addition to a set", tag }),
                };
                let stamp = id.by.ok_or(DecodeError::BadNumber)?;
                if marks.added.last_key_value().is_some_and(|(last, _)| *last >= stamp.txn.origin) {
                    return Err(DecodeError::NotCanonical("additions to a set"));
                }
                marks.added.insert(stamp.txn.origin, (id, gone));
            }
            if count == 0 || set.0.last_key_value().is_some_and(|(last, _)| *last >= element) {
                return Err(DecodeError::NotCanonical("elements of a set"));
            }
            set.0.insert(element, marks);
        }
        stamps.all_named(set.0.values().flat_map(Marks::ids))?;
        Ok(set)
    }
}

fn put_element(element: &Element, out: &mut Writer) {
    out.u8(u8::from(element.is_some()));
    element.iter().for_each(|text| out.text(text));
}

fn element(from: &mut Reader<'_>) -> Result<Element, DecodeError> {
    match from.u8()? {
        0 => Ok(None),
        1 => Ok(Some(from.text(ELEMENT_BYTES_MAX)?.into())),
        tag => Err(DecodeError::UnknownTag { what: "element of a set", tag }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::merged::tests::{deliveries, stamp};

    const BASE: &str = "{b,a}";

    fn edit(set: &mut Set, after: &str, by: Stamp) -> SetEdit {
        let edit = SetEdit::between(set, &set.shown(BASE).unwrap(), after).unwrap();
        set.join(by, &edit);
        edit
    }

    #[test]
    fn who_adds_wins_over_who_removes() {
        let (mut one, mut two) = (Set::default(), Set::default());
        let removed = edit(&mut one, "{b}", stamp(1, 1));
        // Taken out and put in again: an addition that the other did not see.
        let first = edit(&mut two, "{b}", stamp(2, 1));
        let again = edit(&mut two, "{b,a,c}", stamp(2, 2));
        two.join(stamp(1, 1), &removed);
        one.join(stamp(2, 1), &first);
        one.join(stamp(2, 2), &again);
        assert_eq!(one, two);
        assert_eq!(one.shown(BASE).as_deref(), Some("{b,a,c}"));
        let last = edit(&mut one, "{}", stamp(1, 3));
        two.join(stamp(1, 3), &last);
        assert_eq!(two.shown(BASE).as_deref(), Some("{}"));
    }

    proptest! {
        /// An element is there exactly when some addition of it was seen by nobody who removed it.
        #[test]
        fn sets_agree_and_lose_nothing(
            steps in proptest::collection::vec((0usize..3, 0u8..6, 0usize..4), 1..24),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 24),
        ) {
            let mut sites = [Set::default(), Set::default(), Set::default()];
            let mut edits: Vec<(Stamp, SetEdit)> = Vec::new();
            let mut heard = [0; 3];
            for (time, (site, element, hear)) in steps.into_iter().enumerate() {
                let news = edits.iter().skip(heard[site]).take(hear);
                heard[site] += news.map(|(by, edit)| sites[site].join(*by, edit)).count();
                let mut elements = array::parse(&sites[site].shown(BASE).unwrap()).unwrap();
                let element: Element = Some(char::from(b'a' + element).to_string().into());
                match elements.iter().position(|other| *other == element) {
                    Some(place) => drop(elements.remove(place)),
                    None => elements.push(element),
                }
                let after = array::print(elements.iter());
                let by = stamp(site as u16, time as u64 + 1);
                let made = edit(&mut sites[site], &after, by);
                let shown = array::parse(&sites[site].shown(BASE).unwrap()).unwrap();
                prop_assert_eq!(
                    shown.into_iter().collect::<BTreeSet<_>>(),
                    elements.into_iter().collect::<BTreeSet<_>>()
                );
                edits.push((by, made));
            }
            let [one, two] = deliveries(&edits, &order, Set::join);
            prop_assert_eq!(&one, &two);
            let shown = array::parse(&one.shown(BASE).unwrap()).unwrap();
            for letter in ["a", "b", "c", "d", "e", "f"] {
                let element: Element = Some(letter.into());
                let added = edits.iter().filter(|(_, edit)| edit.added.contains(&element));
                let mut added: BTreeSet<Id> = added.map(|(by, _)| Id { by: Some(*by), number: 0 }).collect();
                added.extend(BASE.contains(letter).then_some(Id::FIRST));
                for (_, edit) in &edits {
                    let seen = edit.removed.get(&element).into_iter().flatten();
                    seen.for_each(|id| added.retain(|other| {
                        let origin = |id: &Id| id.by.map(|stamp| stamp.txn.origin);
                        origin(other) != origin(id) || other > id
                    }));
                }
                prop_assert_eq!(shown.contains(&element), !added.is_empty(), "{}", letter);
            }
            let mut out = Writer::new();
            one.encode(&mut out);
            let bytes = out.into_bytes();
            prop_assert_eq!(Set::decode(&mut Reader::new(&bytes)), Ok(one));
            for (_, edit) in edits {
                let mut out = Writer::new();
                edit.encode(&mut out);
                let bytes = out.into_bytes();
                prop_assert_eq!(SetEdit::decode(&mut Reader::new(&bytes)), Ok(edit));
            }
        }
    }
}
