//! Whether rows that were written can stand: with their parents, and beside rows that have what only one
//! may have.
//!
//! First the rows that are known to belong to others which are put aside go aside, too. Then
//! references are kept (`references`), then values that clash are settled (`clashes`); what is put
//! aside by that takes its children along, and what found its place late is looked at once more.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::clock::{Hlc, Stamp};
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::Remedy;
use landfall_protocol::id::Seq;
use landfall_protocol::lattice::RowClock;
use landfall_protocol::plan::{Conflict, RowWork};
use landfall_protocol::schema::ColumnId;

use crate::postgres::apply::{FoundBy, RowWrite};
use crate::replica::aside::Moves;
use crate::replica::clashes::{Clashing, Settled};
use crate::replica::group::Write;
use crate::replica::orphans::{Follows, Orphan};
use crate::replica::references::{Again, Changed, Kept, Tells};
use crate::replica::{Replica, ReplicaError};

/// Rows that are written, as far as PostgreSQL takes them.
pub(super) struct Beside<'g> {
    /// Those that others' changes name; none where rows are written as their clocks say.
    pub(super) rows: &'g BTreeMap<RowId, RowWork>,
    /// Which remedies the marker must tell.
    pub(super) tells: Tells,
    /// The first transaction of the group.
    pub(super) first: Seq,
    /// What its rows were to become, where they are written one by one.
    pub(super) wanted: Vec<Write<'g>>,
    /// Rows that reference others by what was written into them.
    pub(super) referencing: BTreeSet<&'g RowId>,
    /// Rows whose deletes are held back.
    pub(super) held: Vec<&'g RowId>,
    /// The clocks of the rows once the group is joined.
    pub(super) clocks: &'g BTreeMap<RowId, RowClock>,
    /// Rows that stand because this site takes a delete back, and whether they were there before.
    pub(super) revives: Vec<(&'g RowId, bool)>,
    /// Rows that the group puts aside.
    pub(super) aside: &'g Moves<'g>,
}

/// Rows that are put aside, and who has what they wanted.
pub(super) type Sent = BTreeMap<RowId, Stamp>;

impl Replica {
    /// Lets every row that is written stand, or says what must be known first. `writes` is what was
    /// written.
    pub(super) async fn let_stand(
        &mut self,
        beside: &Beside<'_>,
        writes: &[Write<'_>],
        refused: &mut BTreeMap<RowId, String>,
    ) -> Result<Result<Kept, Again>, ReplicaError> {
        let settled = self.follow_parents(beside, refused).await?;
        let seeks = self.seeking(beside, refused);
        let refs = (&*refused, &seeks);
        let mut kept = match self.keep_parents(beside, writes, &settled, refs).await? {
            Ok(kept) => kept,
            Err(again) => return Ok(Err(again)),
        };
        if kept.orphans.is_empty()
            && let Err(again) = self.make_room(beside, settled, &mut kept, (refused, seeks)).await?
        {
            return Ok(Err(again));
        }
        Ok(Ok(kept))
    }

    /// Refused rows that may find their place beside others.
    fn seeking(&self, beside: &Beside<'_>, refused: &BTreeMap<RowId, String>) -> BTreeSet<RowId> {
        let seeks = |row: &RowId| refused.contains_key(row) && !self.waits_for_parent(row);
        let wanted = beside.wanted.iter().filter(|(_, write)| *write != RowWrite::Delete);
        wanted.filter(|(row, _)| seeks(row)).map(|(row, _)| (*row).clone()).collect()
    }

    /// Keeps the references of what was written, or leaves that to the last fragment.
    async fn keep_parents(
        &mut self,
        beside: &Beside<'_>,
        writes: &[Write<'_>],
        settled: &Settled,
        (refused, seeks): (&BTreeMap<RowId, String>, &BTreeSet<RowId>),
    ) -> Result<Result<Kept, Again>, ReplicaError> {
        let stands = |row: &RowId| !refused.contains_key(row) && !settled.has(row);
        let sent = settled.sent();
        let earlier = std::mem::take(&mut self.earlier);
        let changed = Changed {
            rows: beside.rows,
            tells: beside.tells,
            written: beside.referencing.iter().copied().filter(|row| stands(row)).collect(),
            deletes: beside.held.iter().copied().filter(|row| stands(row)).collect(),
            revives: beside.revives.iter().copied().filter(|(row, _)| stands(row)).collect(),
            clocks: beside.clocks,
            refused,
            seeks,
            aside: &sent,
            earlier: &earlier,
            ..Changed::without_group()
        };
        let kept = match self.more_follows {
            false => self.keep_references(&changed).await,
            true => self.look_later(beside.first, &changed, writes).await,
        };
        // The fragment may be tried again.
        self.earlier.extend(earlier);
        kept
    }

    /// Puts rows aside whose parents are aside.
    async fn follow_parents(
        &mut self,
        beside: &Beside<'_>,
        refused: &mut BTreeMap<RowId, String>,
    ) -> Result<Settled, ReplicaError> {
        let mut settled = Settled::default();
        let mut sent = Sent::new();
        for (child, orphan) in self.orphaned.clone() {
            let Orphan { reason, follows: Some(follows) } = orphan else { continue };
            let wanted = beside.wanted.iter().find(|(row, _)| **row == child);
            // PostgreSQL need not take what is not to be shown.
            let wanted = wanted.filter(|_| refused.contains_key(&child)).map(|(_, write)| write);
            if wanted.is_none() && refused.contains_key(&child) {
                continue;
            }
            let gone = Gone { follows: &follows, reason, wanted };
            if self.put_aside(&child, gone, beside.clocks, &mut settled).await? {
                refused.remove(&child);
                sent.insert(child, follows.winner);
            }
        }
        self.follow_aside(sent, beside.clocks, &mut settled).await?;
        Ok(settled)
    }

    /// Lets rows that cannot stand beside others give way, with what belongs to them, and shows refused
    /// rows that can stand then. What is refused for another reason stays refused.
    async fn make_room(
        &mut self,
        beside: &Beside<'_>,
        mut settled: Settled,
        kept: &mut Kept,
        (refused, mut seeks): (&mut BTreeMap<RowId, String>, BTreeSet<RowId>),
    ) -> Result<Result<(), Again>, ReplicaError> {
        let Beside { rows, clocks, .. } = *beside;
        let wanted = beside.wanted.iter().filter(|(row, _)| seeks.contains(*row));
        let wanted: Vec<_> = wanted.cloned().collect();
        let sent = beside.aside.iter().filter(|(row, _)| self.is_referenced(row.table));
        let sent = sent.filter_map(|(row, clock)| {
            Some(((*row).clone(), clock.as_ref()?.decided().unwrap_or(self.unlogged())))
        });
        let mut goes: Sent = sent.collect();
        if wanted.is_empty() && goes.is_empty() && settled.is_empty() {
            return Ok(Ok(()));
        }
        let told = kept.emitted.iter().filter(|emission| emission.remedy == Remedy::Revive);
        let told = told.map(|emission| emission.row.clone());
        let revived = beside.revives.iter().map(|(row, _)| (*row).clone()).chain(told).collect();
        let is_wanted = |row: &RowId| wanted.iter().any(|(wanted, _)| *wanted == row);
        settled.stuck.extend(refused.keys().filter(|row| !is_wanted(row)).cloned());
        let clashing = Clashing { writes: wanted, clocks, revived };
        let mut settled = match self.settle_clashes(&clashing, settled).await? {
            Ok(settled) => settled,
            Err(again) => return Ok(Err(again)),
        };
        goes.extend(settled.sent());
        self.follow_aside(goes, clocks, &mut settled).await?;
        refused.retain(|row, _| !settled.has(row));
        let conflicts: Vec<(&RowId, Conflict)> =
            settled.conflicts.iter().map(|(row, conflict)| (row, conflict.clone())).collect();
        kept.lines.extend(self.conflict_lines(rows, &conflicts, &[]).await?);
        self.list(&settled.aside, FoundBy::Us).await?;
        // Who found no place shows what it did, and needs the parents that it had.
        seeks.retain(|row| refused.contains_key(row));
        seeks.extend(settled.placed.iter().cloned());
        seeks.append(&mut kept.late);
        match self.keep_late(beside, &settled, (refused, &seeks)).await? {
            Ok(more) => kept.extend(more),
            Err(again) => return Ok(Err(again)),
        }
        // Who puts a row aside whose delete does not stand must say both.
        let remedies = settled.remedies.into_iter().map(|(row, remedy)| match remedy {
            Remedy::Quarantine if clashing.revived.contains(&row) => (row, Remedy::ReviveAside),
            remedy => (row, remedy),
        });
        kept.say(remedies.collect(), |row| beside.tells == Tells::All || rows.contains_key(row));
        Ok(Ok(()))
    }

    /// Looks whether rows that found their place late have their parents.
    async fn keep_late(
        &mut self,
        beside: &Beside<'_>,
        settled: &Settled,
        (refused, looked_at): (&BTreeMap<RowId, String>, &BTreeSet<RowId>),
    ) -> Result<Result<Kept, Again>, ReplicaError> {
        let (placed, sent) = (&settled.placed, settled.sent());
        let revives = beside.revives.iter().filter(|(row, _)| placed.contains(*row));
        let mut changed = Changed {
            rows: beside.rows,
            tells: beside.tells,
            written: looked_at.iter().collect(),
            revives: revives.copied().collect(),
            clocks: beside.clocks,
            refused,
            aside: &sent,
            ..Changed::without_group()
        };
        if self.more_follows {
            self.look_later_at(beside.first, looked_at, &sent);
            changed.written.clear();
        }
        self.keep_references(&changed).await
    }

    /// Rows that reference what is put aside are put aside with it.
    async fn follow_aside(
        &mut self,
        sent: Sent,
        clocks: &BTreeMap<RowId, RowClock>,
        settled: &mut Settled,
    ) -> Result<(), ReplicaError> {
        let mut frontier = sent;
        while !frontier.is_empty() {
            frontier = self.children_aside(&frontier, clocks, settled).await?;
        }
        Ok(())
    }

    /// Puts the children of rows that are not there any more aside.
    async fn children_aside(
        &mut self,
        sent: &Sent,
        clocks: &BTreeMap<RowId, RowClock>,
        settled: &mut Settled,
    ) -> Result<Sent, ReplicaError> {
        let mut next = Sent::new();
        for (index, key) in self.apply.foreign_keys().iter().enumerate() {
            let parents: Vec<&RowId> = sent.keys().filter(|row| row.table == key.parent).collect();
            if parents.is_empty() || !key.names_key {
                continue;
            }
            for (child, parent) in self.apply.children(key, &parents).await? {
                let winner = sent.get(&parent).copied().unwrap_or(self.unlogged());
                let reason = self.why_orphaned(&parent);
                let follows = &Follows { key: index, winner };
                let gone = Gone { follows, reason, wanted: None };
                if self.put_aside(&child, gone, clocks, settled).await? {
                    next.insert(child, winner);
                }
            }
        }
        Ok(next)
    }

    /// Puts a row aside with its parent; `false` if it is not there.
    async fn put_aside(
        &mut self,
        child: &RowId,
        gone: Gone<'_>,
        clocks: &BTreeMap<RowId, RowClock>,
        settled: &mut Settled,
    ) -> Result<bool, ReplicaError> {
        let Gone { follows, reason, wanted } = gone;
        let shown = self.apply.shown(&[child]).await?.remove(child).unwrap_or_default();
        let was_there = self.write_rows(&[(child, RowWrite::Delete)]).await?;
        if !was_there && wanted.is_none() {
            return Ok(false);
        }
        let text = |column: ColumnId| {
            let mut cells = wanted.into_iter().flat_map(RowWrite::cells);
            match cells.find(|(id, _)| *id == column) {
                Some((_, value)) => value.text().map(Cow::into_owned),
                None => shown.get(&column).cloned().flatten(),
            }
        };
        let loser = self.newest(child, clocks).await?;
        let def = self.dictionary.table(child.table);
        let column = def.and_then(|def| self.apply.foreign_keys()[follows.key].told_column(def));
        settled.tell_child(child, column, text, (follows.winner, loser));
        settled.aside.extend(self.aside_line(child, reason, text));
        settled.remedies.insert(child.clone(), Remedy::Quarantine);
        settled.placed.remove(child);
        Ok(true)
    }

    /// Who wrote a row last; what nobody wrote since there is a log was there before.
    pub(super) async fn newest(
        &self,
        row: &RowId,
        clocks: &BTreeMap<RowId, RowClock>,
    ) -> Result<Stamp, ReplicaError> {
        let clock = match clocks.get(row) {
            Some(clock) => Some(clock.clone()),
            None => self.store.clocks(vec![row.clone()]).await?.pop().flatten(),
        };
        Ok(self.newest_in(clock.as_ref()))
    }

    /// Who wrote last by a clock.
    pub(super) fn newest_in(&self, clock: Option<&RowClock>) -> Stamp {
        clock.and_then(RowClock::newest).unwrap_or(self.unlogged())
    }

    /// The stamp of what was there before there was a log.
    pub(super) fn unlogged(&self) -> Stamp {
        Stamp::new(Hlc::ZERO, self.own, Seq::ZERO)
    }
}

/// How a row comes to be put aside with its parent.
struct Gone<'a> {
    follows: &'a Follows,
    reason: String,
    /// What it was to become, where PostgreSQL refused that.
    wanted: Option<&'a RowWrite<'a>>,
}
