//! The order of what was put one behind the other.

use std::collections::BTreeMap;

use super::id::Id;

/// Things in the order in which they stand. They are put in the order of their ids, each right behind
/// the one that it follows; so it does not matter in which order they became known.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    runs: Vec<Run>,
    /// Where the first run is.
    head: Option<usize>,
    /// Where runs are, by the first of their ids.
    places: BTreeMap<Id, usize>,
}

/// Ids that were put together and still stand together.
#[derive(Debug)]
struct Run {
    first: Id,
    count: u32,
    /// Where the run behind it is.
    next: Option<usize>,
}

impl Sequence {
    /// Puts `count` ids behind another; none begins the sequence. Says whether that is here.
    pub(super) fn put(&mut self, first: Id, count: u32, after: Option<Id>) -> bool {
        let Some(before) = after.map(|after| self.end_at(after)) else {
            let head = self.add(Run { first, count, next: self.head });
            self.head = Some(head);
            return true;
        };
        let Some(before) = before else { return false };
        let next = self.runs[before].next;
        let added = self.add(Run { first, count, next });
        self.runs[before].next = Some(added);
        true
    }

    fn add(&mut self, run: Run) -> usize {
        let place = self.runs.len();
        self.places.insert(run.first, place);
        self.runs.push(run);
        place
    }

    /// Where the run is that ends with this id, if need be because it was taken apart here.
    fn end_at(&mut self, id: Id) -> Option<usize> {
        let (first, place) = self.places.range(Id { number: 0, ..id }..=id).next_back()?;
        let (place, kept) = (*place, id.number - first.number + 1);
        let Run { first, count, next } = self.runs[place];
        if kept > count {
            return None;
        }
        if kept < count {
            let rest = Run { first: first.further(kept), count: count - kept, next };
            let rest = self.add(rest);
            self.runs[place].count = kept;
            self.runs[place].next = Some(rest);
        }
        Some(place)
    }

    /// First ids and counts, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, u32)> + '_ {
        let run = |place: usize| self.runs.get(place);
        let runs =
            std::iter::successors(self.head.and_then(run), move |last| last.next.and_then(run));
        runs.map(|run| (run.first, run.count))
    }
}
