//! The greatest, or the least, of all that was ever written.

use super::rank;
use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, Writer};

/// Longest text that is compared: PostgreSQL's longest `numeric` has 147,457 characters.
const TEXT_BYTES_MAX: usize = 1 << 18;

/// Which end counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The greatest.
    Max,
    /// The least.
    Min,
}

impl End {
    /// Whether `new` is further out than `known`.
    fn prefers(self, new: &str, known: &str) -> bool {
        match self {
            Self::Max => rank::compare(new, known).is_gt(),
            Self::Min => rank::compare(new, known).is_lt(),
        }
    }

    /// The one that is further out.
    pub fn of<'t>(self, one: &'t str, two: &'t str) -> &'t str {
        if self.prefers(two, one) { two } else { one }
    }
}

/// The furthest that was written since the column's birth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extreme(Option<(Box<str>, Stamp)>);

impl Extreme {
    /// Takes what the transaction of this stamp wrote.
    pub fn join(&mut self, end: End, stamp: Stamp, text: &str) {
        #[cfg(feature = "simulation")]
        if crate::planted::active("last-extreme") {
            if self.0.as_ref().is_none_or(|(_, by)| stamp > *by) {
                self.0 = Some((text.into(), stamp));
            }
            return;
        }
        let is_further = self
            .0
            .as_ref()
            .is_none_or(|(known, by)| end.prefers(text, known) || text == &**known && stamp > *by);
        if is_further {
            self.0 = Some((text.into(), stamp));
        }
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What shows, if the column was born as `base`.
    pub fn shown<'t>(&'t self, end: End, base: &'t str) -> &'t str {
        self.0.as_ref().map_or(base, |(text, _)| end.of(base, text))
    }

    /// Who wrote what is kept.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.0.iter().map(|(_, by)| *by)
    }

    /// Writes the canonical form of one that is not empty.
    pub fn encode(&self, out: &mut Writer) {
        if let Some((text, by)) = &self.0 {
            put_text(text, out);
            out.stamp(*by);
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short or over a limit.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(Some((text(from)?, from.stamp()?))))
    }
}

/// Writes what a transaction wrote.
pub(super) fn put_text(text: &str, out: &mut Writer) {
    out.text(text);
}

/// Reads what a transaction wrote.
pub(super) fn text(from: &mut Reader<'_>) -> Result<Box<str>, DecodeError> {
    from.text(TEXT_BYTES_MAX).map(Into::into)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::merged::tests::{deliveries, stamp};

    proptest! {
        #[test]
        fn the_furthest_stays(
            written in proptest::collection::vec((0u16..3, -20i64..20), 1..12),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 24),
            base in -5i64..5,
        ) {
            let written: Vec<(Stamp, String)> = written.into_iter().enumerate()
                .map(|(time, (site, number))| (stamp(site, time as u64), number.to_string())).collect();
            let numbers = || written.iter().map(|(_, text)| text.parse::<i64>().unwrap()).chain([base]);
            for (end, due) in [(End::Max, numbers().max()), (End::Min, numbers().min())] {
                let join = |kept: &mut Extreme, by, text: &String| kept.join(end, by, text);
                let [one, two] = deliveries(&written, &order, join);
                prop_assert_eq!(&one, &two);
                let base = base.to_string();
                prop_assert_eq!(one.shown(end, &base).parse().ok(), due);
            }
        }
    }
}
