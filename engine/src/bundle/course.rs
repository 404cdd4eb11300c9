//! The way through the store: units of all origins, each once, in an order in which they can be
//! applied.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use landfall_protocol::clock::Hlc;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::unit::Unit;
use landfall_protocol::version::VersionVector;

use crate::store::{Severity, Store, StoreError};

/// What is read from the store and held in memory at once, in bytes; a larger unit comes alone.
const PORTION_BYTES: usize = 256 << 10;

/// Gives units by their first clock reading. Whatever a unit must be applied after has a lower one:
/// so does the unit that holds it. So each beginning of the course can be applied without the rest.
#[derive(Debug)]
pub struct Course {
    store: Store,
    /// Where it ends.
    until: VersionVector,
    /// What was read, whether it is given yet or not.
    read: BTreeMap<Origin, Seq>,
    /// Where to go on with each origin, but for the one that is being given.
    heads: BTreeSet<(Hlc, Origin)>,
    /// Units of one origin, which is `current`.
    portion: VecDeque<Unit>,
    current: Option<Origin>,
    damaged: BTreeMap<Origin, StoreError>,
}

impl Course {
    /// From behind `after` to `until`, which ends where units end.
    ///
    /// # Errors
    /// The store failed; what is damaged is left out.
    pub async fn begin(
        store: Store,
        after: &VersionVector,
        until: VersionVector,
    ) -> Result<Self, StoreError> {
        let mut course = Self {
            store,
            read: after.iter().collect(),
            heads: BTreeSet::new(),
            portion: VecDeque::new(),
            current: None,
            damaged: BTreeMap::new(),
            until,
        };
        let origins: Vec<Origin> = course.until.iter().map(|(origin, _)| origin).collect();
        for origin in origins {
            course.find_head(origin).await?;
        }
        Ok(course)
    }

    /// The next unit.
    ///
    /// # Errors
    /// As [`Course::begin`].
    pub async fn next(&mut self) -> Result<Option<Unit>, StoreError> {
        loop {
            if self.is_due() {
                return Ok(self.portion.pop_front());
            }
            match (self.portion.front(), self.current.take()) {
                // Others come first. What was read too early is read again.
                (Some(unit), _) => {
                    let header = unit.header();
                    let (origin, hlc) = (header.origin, header.hlc_first);
                    let before = Seq(header.first.0 - 1);
                    self.read.insert(origin, before);
                    self.portion.clear();
                    self.heads.insert((hlc, origin));
                }
                (None, Some(origin)) => self.find_head(origin).await?,
                (None, None) => {}
            }
            let Some((_, origin)) = self.heads.pop_first() else { return Ok(None) };
            self.read_portion(origin).await?;
        }
    }

    /// Whether what was read goes on with a unit that comes before those of all other origins.
    fn is_due(&self) -> bool {
        let Some(unit) = self.portion.front() else { return false };
        let begins = (unit.header().hlc_first, unit.header().origin);
        self.heads.first().is_none_or(|head| begins < *head)
    }

    /// Origins of which a unit could not be read, with the reason; what is behind it is left out.
    pub fn damaged(&self) -> &BTreeMap<Origin, StoreError> {
        &self.damaged
    }

    /// Notes where to go on with an origin, if there is more of it.
    async fn find_head(&mut self, origin: Origin) -> Result<(), StoreError> {
        let after = self.after(origin);
        if after >= self.until.get(origin) {
            return Ok(());
        }
        match self.store.unit_begins_at(origin, after).await {
            Ok(Some(hlc)) => drop(self.heads.insert((hlc, origin))),
            Ok(None) => {}
            Err(error) => self.leave_out(origin, error)?,
        }
        Ok(())
    }

    async fn read_portion(&mut self, origin: Origin) -> Result<(), StoreError> {
        let end = self.until.get(origin);
        match self.store.units_after(origin, self.after(origin), PORTION_BYTES).await {
            Ok(units) => {
                self.portion = units.into_iter().filter(|unit| unit.header().last <= end).collect();
            }
            Err(error) => self.leave_out(origin, error)?,
        }
        if let Some(last) = self.portion.back() {
            self.read.insert(origin, last.header().last);
            self.current = Some(origin);
        }
        Ok(())
    }

    fn after(&self, origin: Origin) -> Seq {
        self.read.get(&origin).copied().unwrap_or(Seq::ZERO)
    }

    fn leave_out(&mut self, origin: Origin, error: StoreError) -> Result<(), StoreError> {
        if error.severity() == Severity::Fatal {
            return Err(error);
        }
        tracing::error!(%origin, %error, advice = error.advice(), "an origin is left out of a bundle");
        self.damaged.insert(origin, error);
        Ok(())
    }
}
