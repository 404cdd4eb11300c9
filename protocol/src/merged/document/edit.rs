//! What one transaction did to a document, as it travels.

use super::super::COUNT_MAX;
use super::super::id::{Id, Stamps, Stretches};
use super::super::json::{Json, Key};
use super::{key, put_value, value};
use crate::codec::{DecodeError, Reader, Writer};

/// What one transaction did to a document. The values that it put are numbered through, with all
/// that is nested in them: those of keys first, then those of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentEdit {
    /// Keys of objects that took another value.
    pub(super) puts: Vec<(Id, Key, Json)>,
    /// Keys that were removed, with the value they had.
    pub(super) removed: Vec<(Id, Key, Id)>,
    /// What was put into lists, with the item that it follows; none begins the list.
    pub(super) items: Vec<(Id, Option<Id>, Vec<Json>)>,
    /// Items that were deleted: first ids and lengths.
    pub(super) gone: Vec<(Id, u32)>,
}

impl DocumentEdit {
    /// What it put, for humans.
    pub fn told(&self) -> String {
        let puts = self.puts.iter().map(|(_, key, value)| format!("{}: {value}", key.0));
        let removed = self.removed.iter().map(|(_, key, _)| format!("{} removed", key.0));
        let items = self.items.iter().flat_map(|(.., values)| values).map(Json::to_string);
        puts.chain(removed).chain(items).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn gone(&self) -> Stretches {
        let mut stretches = Stretches::default();
        self.gone.iter().for_each(|(first, count)| stretches.add(*first, *count));
        stretches
    }

    fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        let puts = self.puts.iter().map(|(object, ..)| *object);
        let removed = self.removed.iter().flat_map(|(object, _, seen)| [*object, *seen]);
        let items = self.items.iter().flat_map(|(list, after, _)| [Some(*list), *after]).flatten();
        let gone = self.gone.iter().map(|(first, _)| *first);
        puts.chain(removed).chain(items).chain(gone)
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        let stamps = Stamps::of(self.ids());
        stamps.encode(out);
        out.varint(self.puts.len() as u64);
        for (object, key, value) in &self.puts {
            stamps.put(*object, out);
            out.text(&key.0);
            put_value(value, out);
        }
        out.varint(self.removed.len() as u64);
        for (object, key, seen) in &self.removed {
            stamps.put(*object, out);
            out.text(&key.0);
            stamps.put(*seen, out);
        }
        out.varint(self.items.len() as u64);
        for (list, after, values) in &self.items {
            stamps.put(*list, out);
            stamps.put_option(*after, out);
            out.varint(values.len() as u64);
            values.iter().for_each(|value| put_value(value, out));
        }
        self.gone().encode(&stamps, out);
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or in another form.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let stamps = Stamps::decode(from)?;
        let mut edit = Self::default();
        for _ in 0..from.count(COUNT_MAX)? {
            edit.puts.push((stamps.get(from)?, key(from)?, value(from)?));
        }
        for _ in 0..from.count(COUNT_MAX)? {
            edit.removed.push((stamps.get(from)?, key(from)?, stamps.get(from)?));
        }
        for _ in 0..from.count(COUNT_MAX)? {
            let (list, after) = (stamps.get(from)?, stamps.get_option(from)?);
            let count = from.count(COUNT_MAX)?;
            let values = (0..count).map(|_| value(from)).collect::<Result<Vec<_>, _>>()?;
            edit.items.push((list, after, values));
        }
        edit.gone = Stretches::decode(&stamps, from)?.iter().collect();
        stamps.all_named(edit.ids())?;
        Ok(edit)
    }
}
