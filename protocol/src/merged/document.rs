//! JSON documents that several people write at once.
//!
//! Every value in a document has an [`Id`]. Of a key of an object the newest value that somebody
//! put there counts, unless it was removed by somebody who had seen it: removing a key takes what
//! one saw, not what somebody else puts there meanwhile. Items of a list stand as the characters of
//! a [text](super::text): each behind the one that it was put after. Whatever is nested in a value
//! goes with it.
//!
//! What is kept is, for every key, the newest put and the newest removal, and of lists all that was
//! put and deleted: maxima and sets, which join in any order and as often as one likes. The document
//! is what one gets by doing all of it in the order of the ids.

mod compare;
mod edit;
mod tree;

use std::collections::BTreeMap;

pub use edit::DocumentEdit;
use tree::Tree;

use super::COUNT_MAX;
use super::id::{Id, Stamps, Stretches};
use super::json::{Json, Key};
use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, Writer};

/// Longest value that is put into a document, as text.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// What was done to a document since its birth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// By object and key.
    keys: BTreeMap<(Id, Key), Entry>,
    items: BTreeMap<Id, Item>,
    /// Items that were deleted.
    gone: Stretches,
}

/// What was done to a key of an object; one of them at least.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// The newest put, unless its value is removed.
    put: Option<(Id, Json)>,
    /// The newest value that somebody removed.
    removed: Option<Id>,
}

/// What was put into a list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    list: Id,
    /// None begins the list.
    after: Option<Id>,
    /// `None` once it is deleted: it only holds the place for what follows it.
    value: Option<Json>,
}

/// A value that was put under a key of an object or into a list.
struct Put<'d> {
    id: Id,
    within: Id,
    key: Option<&'d Key>,
    value: &'d Json,
}

impl Put<'_> {
    fn told(&self) -> String {
        match self.key {
            Some(key) => format!("{}: {}", key.0, self.value),
            None => self.value.to_string(),
        }
    }
}

impl Entry {
    fn put(&mut self, id: Id, value: &Json) {
        if self.put.as_ref().is_none_or(|(known, _)| *known < id) {
            self.put = Some((id, value.clone()));
        }
        self.forget();
    }

    fn remove(&mut self, seen: Id) {
        self.removed = self.removed.max(Some(seen));
        #[cfg(feature = "simulation")]
        if crate::planted::active("unseen-removal") {
            self.removed = self.removed.max(self.put.as_ref().map(|(id, _)| *id));
        }
        self.forget();
    }

    fn forget(&mut self) {
        let removed = self.removed;
        self.put.take_if(|(id, _)| Some(*id) <= removed);
    }
}

impl Document {
    /// Takes what the transaction of this stamp did.
    pub fn join(&mut self, stamp: Stamp, edit: &DocumentEdit) {
        let mut next = Id { by: Some(stamp), number: 0 };
        for (object, key, value) in &edit.puts {
            self.keys.entry((*object, key.clone())).or_default().put(next, value);
            next = next.further(value.count());
        }
        for (object, key, seen) in &edit.removed {
            self.keys.entry((*object, key.clone())).or_default().remove(*seen);
        }
        for (list, after, values) in &edit.items {
            let mut after = *after;
            for value in values {
                let item = || Item { list: *list, after, value: Some(value.clone()) };
                self.items.entry(next).or_insert_with(item);
                after = Some(next);
                next = next.further(value.count());
            }
        }
        self.gone.join(&edit.gone());
        self.forget();
    }

    fn forget(&mut self) {
        for (id, item) in &mut self.items {
            item.value.take_if(|_| self.gone.contains(*id));
        }
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.items.is_empty() && self.gone.is_empty()
    }

    /// The document that was born as `base`.
    pub fn shown(&self, base: &Json) -> Json {
        Tree::grow(self, base).shown()
    }

    /// What of the text `before`, which must be what is shown of `base`, became `after`; `None` when
    /// it is not, or when there is nothing to merge in either: no object or list.
    pub fn edit(&self, base: &Json, before: &Json, after: &Json) -> Option<DocumentEdit> {
        let tree = Tree::grow(self, base);
        (tree.shown() == *before).then(|| compare::edit(&tree, after))?
    }

    /// What was put and shows no more once this edit is joined, or is put by it and does not show:
    /// who put it, and what. A value that another takes the place of is not lost to an equal one.
    pub fn lost(&self, base: &Json, stamp: Stamp, edit: &DocumentEdit) -> Vec<(Stamp, String)> {
        let mut after = self.clone();
        after.join(stamp, edit);
        let mut alone = Self::default();
        alone.join(stamp, edit);
        let (showed, shows) =
            (Tree::grow(self, base).reached(), Tree::grow(&after, base).reached());
        let before = self.puts().filter(|put| showed.contains(&put.id));
        let lost = before.chain(alone.puts()).filter(|put| !shows.contains(&put.id));
        let is_equal = |put: &Put<'_>| {
            let (object, key) = (put.within, put.key?.clone());
            let winner = after.keys.get(&(object, key))?.put.as_ref()?;
            (winner.0 != put.id && winner.1 == *put.value).then_some(())
        };
        let lost = lost.filter(|put| is_equal(put).is_none());
        let mut lost: Vec<_> = lost.filter_map(|put| Some((put.id.by?, put.told()))).collect();
        lost.sort_unstable();
        lost.dedup();
        lost
    }

    /// All values that were put and are kept.
    fn puts(&self) -> impl Iterator<Item = Put<'_>> {
        let keys = self.keys.iter().filter_map(|((object, key), entry)| {
            let (id, value) = entry.put.as_ref()?;
            Some(Put { id: *id, within: *object, key: Some(key), value })
        });
        let items = self.items.iter().filter_map(|(id, item)| {
            Some(Put { id: *id, within: item.list, key: None, value: item.value.as_ref()? })
        });
        keys.chain(items)
    }

    /// Every id that is named.
    fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        let keys = self.keys.iter().flat_map(|((object, _), entry)| {
            let put = entry.put.as_ref().map(|(id, _)| *id);
            [Some(*object), put, entry.removed].into_iter().flatten()
        });
        let items = self.items.iter();
        let items = items.flat_map(|(id, item)| [Some(*id), Some(item.list), item.after]);
        keys.chain(items.flatten()).chain(self.gone.iter().map(|(first, _)| first))
    }

    /// The stamps of the transactions that are named.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.ids().filter_map(|id| id.by)
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        let stamps = Stamps::of(self.ids());
        stamps.encode(out);
        out.varint(self.keys.len() as u64);
        for ((object, key), entry) in &self.keys {
            stamps.put(*object, out);
            out.text(&key.0);
            stamps.put_option(entry.removed, out);
            stamps.put_option(entry.put.as_ref().map(|(id, _)| *id), out);
            entry.put.iter().for_each(|(_, value)| put_value(value, out));
        }
        // Before the items: those that are deleted have no value.
        self.gone.encode(&stamps, out);
        out.varint(self.items.len() as u64);
        let mut last = None;
        for (id, item) in &self.items {
            stamps.put(*id, out);
            // Most were put in a row.
            let follows = last == Some((item.list, item.after));
            out.u8(u8::from(!follows));
            if !follows {
                stamps.put(item.list, out);
                stamps.put_option(item.after, out);
            }
            item.value.iter().for_each(|value| put_value(value, out));
            last = Some((item.list, Some(*id)));
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or in another form.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let stamps = Stamps::decode(from)?;
        let mut document = Self::default();
        for _ in 0..from.count(COUNT_MAX)? {
            let place = (stamps.get(from)?, key(from)?);
            let removed = stamps.get_option(from)?;
            let put = match stamps.get_option(from)? {
                Some(id) if Some(id) > removed => Some((id, value(from)?)),
                None if removed.is_some() => None,
                _ => return Err(DecodeError::NotCanonical("key of a document")),
            };
            if document.keys.last_key_value().is_some_and(|(last, _)| *last >= place) {
                return Err(DecodeError::NotCanonical("keys of a document"));
            }
            document.keys.insert(place, Entry { put, removed });
        }
        document.gone = Stretches::decode(&stamps, from)?;
        let mut last = None;
        for _ in 0..from.count(COUNT_MAX)? {
            let id = stamps.get(from)?;
            let told = from.u8()?;
            let place = match (told, last) {
                (0, Some(follows)) => follows,
                (1, _) => (stamps.get(from)?, stamps.get_option(from)?),
                (tag, _) => return Err(DecodeError::UnknownTag { what: "item", tag }),
            };
            let is_shortest = told == 0 || last != Some(place);
            let (list, after) = place;
            let value = (!document.gone.contains(id)).then(|| value(from)).transpose()?;
            let follows = document.items.last_key_value().is_none_or(|(last, _)| *last < id);
            if !is_shortest || !follows {
                return Err(DecodeError::NotCanonical("items of a document"));
            }
            document.items.insert(id, Item { list, after, value });
            last = Some((list, Some(id)));
        }
        stamps.all_named(document.ids())?;
        Ok(document)
    }
}

fn put_value(value: &Json, out: &mut Writer) {
    out.text(&value.to_string());
}

fn value(from: &mut Reader<'_>) -> Result<Json, DecodeError> {
    let text = from.text(VALUE_BYTES_MAX)?;
    let json = Json::parse(text).filter(|json| json.to_string() == text);
    json.ok_or(DecodeError::NotCanonical("value in a document"))
}

fn key(from: &mut Reader<'_>) -> Result<Key, DecodeError> {
    from.text(VALUE_BYTES_MAX).map(|text| Key(text.into()))
}

#[cfg(test)]
mod tests;
