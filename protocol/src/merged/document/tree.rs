//! A document with the ids of all its values.

use std::collections::{BTreeMap, BTreeSet};

use super::super::id::Id;
use super::super::json::{DEPTH_MAX, Json, Key};
use super::super::sequence::Sequence;
use super::Document;

/// A document as it stands, grown from what it was born with.
pub(super) struct Tree<'d> {
    nodes: BTreeMap<Id, Node>,
    document: &'d Document,
}

/// A value of a document.
pub(super) enum Node {
    /// What has nothing in it.
    Leaf(Json),
    /// By key, the ids of the values.
    Object(BTreeMap<Key, Id>),
    /// Deleted items hold the places of those that follow them.
    List(Sequence),
}

/// The id of the document itself.
pub(super) const ROOT: Id = Id::FIRST;

/// What was put at one place.
enum Put<'d> {
    Key(Id, &'d Key, &'d Json),
    Item(Id, Option<Id>, Option<&'d Json>),
}

impl<'d> Tree<'d> {
    /// Does all that was done to the document that was born as `base`, in the order of the ids.
    pub(super) fn grow(document: &'d Document, base: &Json) -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), document };
        tree.plant(base, &mut { ROOT });
        let keys = document.keys.iter().filter_map(|((object, key), entry)| {
            let (id, value) = entry.put.as_ref()?;
            Some((*id, Put::Key(*object, key, value)))
        });
        let items = document.items.iter();
        let items =
            items.map(|(id, item)| (*id, Put::Item(item.list, item.after, item.value.as_ref())));
        let mut puts: Vec<(Id, Put<'_>)> = keys.chain(items).collect();
        puts.sort_unstable_by_key(|(id, _)| *id);
        puts.into_iter().for_each(|(id, put)| tree.put(id, put));
        for ((object, key), entry) in &document.keys {
            if let Some(Node::Object(entries)) = tree.nodes.get_mut(object)
                && entries.get(key).is_some_and(|id| Some(*id) <= entry.removed)
            {
                entries.remove(key);
            }
        }
        tree
    }

    /// Numbers a value, and all that is nested in it, from `next` on.
    fn plant(&mut self, value: &Json, next: &mut Id) -> Id {
        let id = *next;
        *next = next.further(1);
        let node = match value {
            Json::Object(entries) => Node::Object(
                entries.iter().map(|(key, value)| (key.clone(), self.plant(value, next))).collect(),
            ),
            Json::List(items) => {
                let mut sequence = Sequence::default();
                let mut last = None;
                for item in items {
                    let id = self.plant(item, next);
                    sequence.put(id, 1, last);
                    last = Some(id);
                }
                Node::List(sequence)
            }
            leaf => Node::Leaf(leaf.clone()),
        };
        self.nodes.insert(id, node);
        id
    }

    /// Where the value goes is not there when it went with what it was nested in.
    fn put(&mut self, id: Id, put: Put<'_>) {
        match put {
            Put::Key(object, key, value) => {
                if let Some(Node::Object(entries)) = self.nodes.get_mut(&object) {
                    entries.insert(key.clone(), id);
                    self.plant(value, &mut { id });
                }
            }
            Put::Item(list, after, value) => {
                let Some(Node::List(items)) = self.nodes.get_mut(&list) else { return };
                if items.put(id, 1, after)
                    && let Some(value) = value
                {
                    self.plant(value, &mut { id });
                }
            }
        }
    }

    /// The ids of everything that shows.
    pub(super) fn reached(&self) -> BTreeSet<Id> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![ROOT]);
        while let Some(id) = open.pop() {
            reached.insert(id);
            match self.nodes.get(&id) {
                Some(Node::Object(entries)) => open.extend(entries.values()),
                Some(Node::List(items)) => open.extend(self.standing(items)),
                Some(Node::Leaf(_)) | None => {}
            }
        }
        reached
    }

    /// The value of this id.
    pub(super) fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The items of a list that are not deleted.
    pub(super) fn standing<'t>(&'t self, items: &'t Sequence) -> impl Iterator<Item = Id> + 't {
        items.iter().map(|(id, _)| id).filter(|id| !self.document.gone.contains(*id))
    }

    /// The document without its ids.
    pub(super) fn shown(&self) -> Json {
        self.value(ROOT, 0)
    }

    /// The value of an id; what is nested deeper than anybody could have written it is left out.
    pub(super) fn value(&self, id: Id, depth: usize) -> Json {
        match self.nodes.get(&id) {
            None => Json::Null,
            Some(Node::Leaf(leaf)) => leaf.clone(),
            Some(_) if depth >= DEPTH_MAX => Json::Null,
            Some(Node::Object(entries)) => {
                let value = |(key, id): (&Key, &Id)| (key.clone(), self.value(*id, depth + 1));
                Json::Object(entries.iter().map(value).collect())
            }
            Some(Node::List(items)) => {
                Json::List(self.standing(items).map(|id| self.value(id, depth + 1)).collect())
            }
        }
    }
}
