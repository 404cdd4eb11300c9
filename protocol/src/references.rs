//! Foreign keys: which rows go when the rows that they reference are to go, and which must stay.
//!
//! Whoever applies a delete finds out who references the row, as far as that reaches, and asks
//! here. A row that nothing keeps goes; so one row that must stay keeps all on whose going its own
//! would follow. The rows that stay are the least set of which that is true, so it does not matter in
//! which order the references were found, and rows that only keep each other all go.

use std::collections::{BTreeMap, BTreeSet};

use crate::dictionary::RowId;

/// What a foreign key asks of the child when the parent goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Nothing: the parent stays while there is a child.
    Keep,
    /// The child goes too.
    Cascade,
    /// The child's columns are written, so that it references the parent no more.
    Rewrite,
}

/// A row that references another by a foreign key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Who references.
    pub child: RowId,
    /// Which of the foreign keys of the child's table.
    pub key: usize,
    /// Who is referenced.
    pub parent: RowId,
    /// What happens to the child.
    pub action: Action,
}

/// Rows that are to go, and who references them.
#[derive(Clone, Debug, Default)]
pub struct Doomed {
    /// Whether somebody deleted it, or else it only follows its parents.
    rows: BTreeMap<RowId, bool>,
    /// By the parent.
    references: BTreeMap<RowId, BTreeSet<Reference>>,
    /// Rows that only stand because a delete is taken back.
    returning: BTreeSet<RowId>,
}

impl Doomed {
    /// Somebody deleted the row.
    pub fn delete(&mut self, row: RowId) {
        self.rows.insert(row, true);
    }

    /// A delete of the row is taken back whatever references it.
    pub fn bring_back(&mut self, row: RowId) {
        self.returning.insert(row);
    }

    /// A row references one that is to go. Says whether the child is to go too and was not before.
    pub fn refer(&mut self, reference: Reference) -> bool {
        let follows = reference.action == Action::Cascade;
        let child = reference.child.clone();
        self.references.entry(reference.parent.clone()).or_default().insert(reference);
        let is_news = follows && !self.rows.contains_key(&child);
        if is_news {
            self.rows.insert(child, false);
        }
        is_news
    }

    /// Whether the row is to go, unless something keeps it.
    pub fn contains(&self, row: &RowId) -> bool {
        self.rows.contains_key(row)
    }

    /// The rows that are to go, unless something keeps them.
    pub fn rows(&self) -> impl Iterator<Item = &RowId> {
        self.rows.keys()
    }

    /// The rows that are to go and those that reference them.
    pub fn named(&self) -> BTreeSet<&RowId> {
        let children = self.references.values().flatten().map(|found| &found.child);
        self.rows.keys().chain(children).collect()
    }

    /// Whether any row references one of these by this foreign key.
    pub fn has_key(&self, key: usize) -> bool {
        self.references.values().flatten().any(|found| found.key == key)
    }

    /// Children by this foreign key cannot be rewritten, so they keep their parents.
    pub fn keep_parents(&mut self, key: usize) {
        for references in self.references.values_mut() {
            let all = std::mem::take(references).into_iter();
            references.extend(all.map(|found| match found.key == key {
                true => Reference { action: Action::Keep, ..found },
                false => found,
            }));
        }
    }

    /// Decides.
    pub fn settle(&self) -> Settled<'_> {
        let mut stays: BTreeSet<&RowId> = BTreeSet::new();
        loop {
            let settled = Settled { doomed: self, stays };
            let reached = settled.reached();
            let going = self.rows.keys().filter(|row| !settled.stays.contains(*row));
            let kept = going.filter(|row| !reached.contains(*row) || settled.keeper(row).is_some());
            let kept: Vec<&RowId> = kept.collect();
            if kept.is_empty() {
                return settled;
            }
            stays = settled.stays;
            stays.extend(kept);
        }
    }
}

/// What becomes of rows that were to go, and of those that reference them.
#[derive(Clone, Debug)]
pub struct Settled<'d> {
    doomed: &'d Doomed,
    stays: BTreeSet<&'d RowId>,
}

impl<'d> Settled<'d> {
    /// Whether the row goes.
    pub fn goes(&self, row: &RowId) -> bool {
        self.doomed.rows.contains_key(row) && !self.stays.contains(row)
    }

    /// The rows that go, each with whether somebody deleted it.
    pub fn going(&self) -> impl Iterator<Item = (&'d RowId, bool)> + '_ {
        let rows = self.doomed.rows.iter();
        rows.filter(|(row, _)| !self.stays.contains(row)).map(|(row, deleted)| (row, *deleted))
    }

    /// The rows that somebody deleted and that stay.
    pub fn revived(&self) -> impl Iterator<Item = &'d RowId> + '_ {
        let rows = self.doomed.rows.iter();
        rows.filter(|(row, deleted)| **deleted && self.stays.contains(row)).map(|(row, _)| row)
    }

    /// The references of rows that stay to rows that go. They must be rewritten.
    pub fn rewritten(&self) -> impl Iterator<Item = &'d Reference> + '_ {
        let references = self.doomed.references.values().flatten();
        references.filter(|found| self.goes(&found.parent) && !self.goes(&found.child))
    }

    /// The rows that follow a parent, with why; each once.
    pub fn following(&self) -> impl Iterator<Item = &'d Reference> + '_ {
        let mut told = BTreeSet::new();
        let references = self.doomed.references.values().flatten();
        references.filter(move |found| {
            let follows = found.action == Action::Cascade && self.goes(&found.parent);
            let deleted = self.doomed.rows.get(&found.child).copied();
            follows
                && deleted == Some(false)
                && self.goes(&found.child)
                && told.insert(&found.child)
        })
    }

    /// A reference that keeps the row, if one does.
    pub fn keeper(&self, row: &RowId) -> Option<&'d Reference> {
        self.to(row).find(|found| self.keeps(found))
    }

    fn to(&self, row: &RowId) -> impl Iterator<Item = &'d Reference> {
        self.doomed.references.get(row).into_iter().flatten()
    }

    /// A child that stays keeps its parent, unless it can be rewritten. What comes back does so as it
    /// was.
    fn keeps(&self, reference: &Reference) -> bool {
        let comes_back = || {
            let deleted = self.doomed.rows.get(&reference.child).copied();
            deleted == Some(true) || self.doomed.returning.contains(&reference.child)
        };
        #[cfg(feature = "simulation")]
        if reference.action == Action::Keep && crate::planted::active("no-restrict") {
            return false;
        }
        let holds = reference.action != Action::Rewrite || comes_back();
        holds && !self.goes(&reference.child)
    }

    /// The rows that go because somebody deleted them, or a row above them.
    fn reached(&self) -> BTreeSet<&'d RowId> {
        let deleted = self.going().filter(|(_, deleted)| *deleted).map(|(row, _)| row);
        let mut reached: BTreeSet<&RowId> = deleted.collect();
        let mut next: Vec<&RowId> = reached.iter().copied().collect();
        while let Some(parent) = next.pop() {
            for found in self.to(parent).filter(|found| found.action == Action::Cascade) {
                if self.goes(&found.child) && reached.insert(&found.child) {
                    next.push(&found.child);
                }
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema::TableId;
    use crate::value::{RowKey, Value};

    fn row(number: i64) -> RowId {
        RowId { table: TableId(1), key: RowKey::new(&[Value::Int(number)]) }
    }

    /// Rows 0 to 9; who is deleted, and child, parent, action.
    fn settle(deleted: &[i64], references: &[(i64, i64, Action)]) -> (Vec<i64>, Doomed) {
        let mut doomed = Doomed::default();
        deleted.iter().for_each(|number| doomed.delete(row(*number)));
        let mut found = true;
        while std::mem::take(&mut found) {
            for (key, (child, parent, action)) in references.iter().enumerate() {
                if doomed.contains(&row(*parent)) {
                    let (child, parent, action) = (row(*child), row(*parent), *action);
                    found |= doomed.refer(Reference { child, key, parent, action });
                }
            }
        }
        let settled = doomed.settle();
        let going = (0..10).filter(|number| settled.goes(&row(*number))).collect();
        (going, doomed)
    }

    use Action::{Cascade, Keep, Rewrite};

    #[test]
    fn a_child_keeps_its_parent_or_goes_with_it_or_lets_go() {
        assert_eq!(settle(&[0], &[(1, 0, Keep)]).0, []);
        assert_eq!(settle(&[0], &[(1, 0, Cascade)]).0, [0, 1]);
        assert_eq!(settle(&[0], &[(1, 0, Rewrite)]).0, [0]);
        assert_eq!(settle(&[0, 1], &[(1, 0, Keep)]).0, [0, 1]);
    }

    #[test]
    fn who_stays_keeps_the_whole_chain_above() {
        assert_eq!(settle(&[0], &[(1, 0, Cascade), (2, 1, Cascade), (3, 2, Keep)]).0, []);
        // The other branch would have gone with the root only.
        assert_eq!(settle(&[0], &[(1, 0, Cascade), (2, 1, Keep), (3, 0, Cascade)]).0, []);
        // One of two parents goes, and the child goes with it, but not the other parent's child.
        assert_eq!(settle(&[0, 5], &[(1, 0, Cascade), (1, 5, Keep), (2, 0, Keep)]).0, []);
    }

    #[test]
    fn nothing_goes_but_with_what_somebody_deleted() {
        let references = [(1, 0, Cascade), (1, 1, Cascade), (2, 0, Keep)];
        assert_eq!(settle(&[0], &references).0, []);
    }

    #[test]
    fn rows_that_only_keep_each_other_go() {
        assert_eq!(settle(&[0], &[(0, 0, Keep)]).0, [0]);
        assert_eq!(settle(&[0, 1], &[(0, 1, Keep), (1, 0, Keep)]).0, [0, 1]);
        assert_eq!(settle(&[0], &[(1, 0, Cascade), (0, 1, Keep)]).0, [0, 1]);
    }

    #[test]
    fn what_comes_back_is_not_rewritten() {
        let (going, doomed) = settle(&[0, 1], &[(1, 0, Rewrite), (2, 1, Keep)]);
        assert_eq!(going, []);
        assert_eq!(doomed.settle().revived().count(), 2);
    }

    proptest! {
        /// No row is left whose parent goes, and nothing stays without a reason.
        #[test]
        fn the_rows_that_go_are_all_that_may(
            deleted in proptest::collection::vec(0i64..6, 1..4),
            references in proptest::collection::vec((0i64..8, 0i64..6, 0usize..3), 0..12),
        ) {
            let references: Vec<_> = references
                .into_iter()
                .map(|(child, parent, action)| (child, parent, [Keep, Cascade, Rewrite][action]))
                .collect();
            let (going, doomed) = settle(&deleted, &references);
            let settled = doomed.settle();
            for (child, parent, action) in &references {
                let orphan = going.contains(parent) && !going.contains(child);
                prop_assert!(!orphan || *action == Rewrite);
            }
            for (row, deleted) in settled.going() {
                let followed = settled.following().any(|found| found.child == *row);
                prop_assert!(deleted || followed);
            }
            // Whatever set leaves no orphan, and has who follows go only with a parent, goes too.
            for mask in 0u32..256 {
                let goes = |number: &i64| mask & 1 << number != 0;
                let sound = |(child, parent, action): &(i64, i64, Action)| {
                    let returns = deleted.contains(child);
                    !goes(parent) || goes(child) || *action == Rewrite && !returns
                };
                let mut reached: BTreeSet<i64> = deleted.iter().copied().filter(&goes).collect();
                for _ in 0..8 {
                    let follows = |(child, parent, action): &&(i64, i64, Action)| {
                        *action == Cascade && goes(child) && reached.contains(parent)
                    };
                    let more: Vec<i64> = references.iter().filter(follows).map(|r| r.0).collect();
                    reached.extend(more);
                }
                let has_reasons = (0..8).filter(&goes).all(|number| reached.contains(&number));
                let possible = references.iter().all(sound) && has_reasons;
                if possible {
                    prop_assert!((0..8).filter(&goes).all(|number| going.contains(&number)));
                }
            }
        }
    }
}
