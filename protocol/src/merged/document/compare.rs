//! What a transaction did to a document, told from the document before and after.
//!
//! Objects are compared key by key. Items of a list are the same when they are equal, or are objects
//! of one identity: with the same `id`, `_id`, `uuid` or `key`. Between items that are the same,
//! objects and lists without an identity are compared in the order in which they stand; anything
//! else was deleted or put.

use super::super::diff::{between, common};
use super::super::id::{Id, Stretches};
use super::super::json::{Json, Key};
use super::edit::DocumentEdit;
use super::tree::{Node, ROOT, Tree};

/// What made `after` of the document; `None` when it was replaced as a whole.
pub(super) fn edit(tree: &Tree<'_>, after: &Json) -> Option<DocumentEdit> {
    let mut comparison =
        Comparison { tree, edit: DocumentEdit::default(), gone: Stretches::default() };
    let is_same_kind = is_same_kind(tree.node(ROOT)?, after);
    is_same_kind.then(|| comparison.nested(ROOT, after, 0));
    let Comparison { mut edit, gone, .. } = comparison;
    edit.gone = gone.iter().collect();
    is_same_kind.then_some(edit)
}

struct Comparison<'t, 'd> {
    tree: &'t Tree<'d>,
    edit: DocumentEdit,
    gone: Stretches,
}

/// How an item is known again.
#[derive(PartialEq, Eq)]
enum Token<'j> {
    Identity(&'static str, &'j Json),
    Value(&'j Json),
}

const IDENTITIES: [&str; 4] = ["id", "_id", "uuid", "key"];

impl<'j> Token<'j> {
    fn of(item: &'j Json) -> Self {
        let identity = IDENTITIES.iter().find_map(|name| Some((*name, item.get(name)?)));
        match identity.filter(|(_, value)| matches!(value, Json::Text(_) | Json::Number(_))) {
            Some((name, value)) => Self::Identity(name, value),
            None => Self::Value(item),
        }
    }

    fn has_identity(&self) -> bool {
        matches!(self, Self::Identity(..))
    }
}

/// Whether a value can become this one without being replaced.
fn is_same_kind(node: &Node, after: &Json) -> bool {
    match node {
        Node::Object(_) => matches!(after, Json::Object(_)),
        Node::List(_) => matches!(after, Json::List(_)),
        Node::Leaf(_) => false,
    }
}

impl Comparison<'_, '_> {
    /// Compares what has values in it with a value of the same kind.
    fn nested(&mut self, id: Id, after: &Json, depth: usize) {
        match (self.tree.node(id), after) {
            (Some(Node::Object(before)), Json::Object(after)) => {
                let before: Vec<(&Key, Id)> = before.iter().map(|(key, id)| (key, *id)).collect();
                self.object(id, &before, after, depth);
            }
            (Some(Node::List(before)), Json::List(after)) => {
                let before: Vec<Id> = self.tree.standing(before).collect();
                self.list(id, &before, after, depth);
            }
            _ => {}
        }
    }

    fn object(&mut self, id: Id, before: &[(&Key, Id)], after: &[(Key, Json)], depth: usize) {
        for (key, value) in before {
            if after.binary_search_by(|(other, _)| other.cmp(key)).is_err() {
                self.edit.removed.push((id, (*key).clone(), *value));
            }
        }
        for (key, value) in after {
            let known = before.binary_search_by(|(other, _)| (*other).cmp(key));
            let known = known.ok().map(|place| before[place].1);
            let is_kept = known.is_some_and(|known| self.becomes(known, value, depth + 1));
            if !is_kept {
                self.edit.puts.push((id, key.clone(), value.clone()));
            }
        }
    }

    /// Lets a value become another; says whether that can be done without replacing it.
    fn becomes(&mut self, id: Id, after: &Json, depth: usize) -> bool {
        if self.tree.node(id).is_some_and(|node| is_same_kind(node, after)) {
            self.nested(id, after, depth);
            return true;
        }
        self.tree.value(id, depth) == *after
    }

    fn list(&mut self, list: Id, before: &[Id], after: &[Json], depth: usize) {
        let values: Vec<Json> = before.iter().map(|id| self.tree.value(*id, depth + 1)).collect();
        let old: Vec<Token<'_>> = values.iter().map(Token::of).collect();
        let new: Vec<Token<'_>> = after.iter().map(Token::of).collect();
        let kept = common(&old, &new);
        for same in &kept {
            for place in 0..same.count {
                self.nested(before[same.before + place], &after[same.after + place], depth + 1);
            }
        }
        for gap in between(&kept, before.len(), after.len()) {
            let mut follows = gap.before.start.checked_sub(1).map(|place| before[place]);
            let (mut one, mut two) = (gap.before.clone(), gap.after.clone());
            let mut put = Vec::new();
            loop {
                match (one.next(), two.next()) {
                    (Some(from), Some(to)) => {
                        let may_become = !old[from].has_identity() && !new[to].has_identity();
                        if may_become && self.becomes(before[from], &after[to], depth + 1) {
                            self.put_items(list, follows, &mut put);
                            follows = Some(before[from]);
                        } else {
                            self.gone.add(before[from], 1);
                            put.push(after[to].clone());
                        }
                    }
                    (Some(from), None) => self.gone.add(before[from], 1),
                    (None, Some(to)) => put.push(after[to].clone()),
                    (None, None) => break,
                }
            }
            self.put_items(list, follows, &mut put);
        }
    }

    fn put_items(&mut self, list: Id, after: Option<Id>, values: &mut Vec<Json>) {
        if !values.is_empty() {
            self.edit.items.push((list, after, std::mem::take(values)));
        }
    }
}
