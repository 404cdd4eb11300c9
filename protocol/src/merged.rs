//! Columns whose concurrent writes are merged instead of one of them staying.
//!
//! All kinds work alike. A column has a **birth**: the write that last set it as a whole, an insert
//! or a change from or to NULL. What sites did to it since travels as [`Part`]s, in [`Share`]s that
//! name the birth; the parts of one life join into a [`State`] by a rule that asks neither for order
//! nor for number of times. What shows is a pure function of what the column was born with and of
//! that state:
//!
//! | kind | state | shows |
//! |---|---|---|
//! | counter | the sum of each origin | base + all sums |
//! | set | additions, and which of them were seen by who removed them | base and additions that nobody removed |
//! | max, min | the furthest | the furthest of it and the base |
//! | text | characters with what each follows, and which are gone | all of it, done in the order of ids |
//! | document | newest value and removal of each key, items with what each follows, and which are gone | likewise |
//!
//! Values are canonical texts here. Nothing in this module knows tables.
//!
//! Texts and documents are our own and not a library's (Automerge was measured). Two sites with
//! different versions of the code must show the same for as long as the fleet lives, so how bytes
//! merge is part of the wire format and belongs into recorded bytes of ours; bytes from outside may
//! not panic; and nothing here may ask for randomness. Replay makes it small.

mod array;
mod diff;
mod document;
mod extreme;
mod id;
mod json;
mod rank;
mod sequence;
mod set;
mod sum;
mod text;

pub use document::{Document, DocumentEdit};
pub use extreme::{End, Extreme};
pub use json::{Json, Key};
pub use set::{Set, SetEdit};
pub use sum::Sum;
pub use text::{Text, TextEdit};

use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, Writer};
use crate::decimal::Decimal;
use crate::id::Origin;

/// Most things of one kind in one encoded value. A site writes a fraction of it; many sites that write at
/// once may come to more than each of them would write, and what is kept must always be read again.
/// Nothing is allocated for a count before what it counts is there.
pub(crate) const COUNT_MAX: usize = 1 << 22;

/// Longest state, in bytes, of which nobody asks how long its value is.
const STATE_BYTES_FREE: usize = 32 << 10;
/// How many times as long as its value a state may be beyond that.
const STATE_BYTES_RATIO: usize = 4;

/// How writes of a column are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// All differences add up.
    Counter,
    /// An array without order; who adds wins.
    Set,
    /// The greatest or the least stays.
    Extreme(End),
    /// Words and letters.
    Text,
    /// Keys and items of a JSON document.
    Document,
}

impl Kind {
    /// All of them, in the order of their tags.
    pub const ALL: [Self; 6] = [
        Self::Counter,
        Self::Set,
        Self::Extreme(End::Max),
        Self::Extreme(End::Min),
        Self::Text,
        Self::Document,
    ];

    /// As in the fleet file and in the history.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Set => "set",
            Self::Extreme(End::Max) => "max",
            Self::Extreme(End::Min) => "min",
            Self::Text => "text",
            Self::Document => "document",
        }
    }

    /// The number that it is written as, from 0.
    pub fn tag(self) -> u8 {
        Self::ALL.iter().position(|kind| *kind == self).unwrap_or_default() as u8
    }

    /// The kind of this number.
    pub fn tagged(tag: u8) -> Option<Self> {
        Self::ALL.get(usize::from(tag)).copied()
    }

    /// Whether two canonical texts are one value.
    pub fn is_same(self, one: &str, two: &str) -> bool {
        if one == two {
            return true;
        }
        match self {
            Self::Counter => match (Decimal::parse(one), Decimal::parse(two)) {
                (Some(one), Some(two)) => one.is_same(&two),
                _ => false,
            },
            Self::Document => Json::parse(one).is_some_and(|one| Json::parse(two) == Some(one)),
            Self::Set | Self::Extreme(_) | Self::Text => false,
        }
    }
}

/// What a site did to a merged column, as it travels in place of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    /// The write that set the column before; `None` when that was before the site joined the fleet.
    pub birth: Option<Stamp>,
    /// What it did.
    pub part: Part,
}

/// What one transaction did to a merged column; of a counter, what its origin did in all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All that the origin has added.
    Sum(Decimal),
    /// What was added and removed.
    Set(SetEdit),
    /// What was written.
    Extreme(End, Box<str>),
    /// What was put and deleted.
    Text(TextEdit),
    /// Likewise.
    Document(DocumentEdit),
}

impl Share {
    /// Its length as it travels, which is about what it takes in memory.
    pub fn bytes(&self) -> usize {
        let mut out = Writer::new();
        self.encode(&mut out);
        out.len()
    }

    /// Writes the canonical form, without the tag of the kind.
    pub fn encode(&self, out: &mut Writer) {
        put_birth(self.birth, out);
        match &self.part {
            Part::Sum(sum) => sum.encode(out),
            Part::Set(edit) => edit.encode(out),
            Part::Extreme(_, text) => extreme::put_text(text, out),
            Part::Text(edit) => edit.encode(out),
            Part::Document(edit) => edit.encode(out),
        }
    }

    /// Reads the canonical form of a share of this kind.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or in another form.
    pub fn decode(kind: Kind, from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let birth = birth(from)?;
        let part = match kind {
            Kind::Counter => Part::Sum(sum::share(from)?),
            Kind::Set => Part::Set(SetEdit::decode(from)?),
            Kind::Extreme(end) => Part::Extreme(end, extreme::text(from)?),
            Kind::Text => Part::Text(TextEdit::decode(from)?),
            Kind::Document => Part::Document(DocumentEdit::decode(from)?),
        };
        Ok(Self { birth, part })
    }
}

/// Writes the stamp of a birth.
pub fn put_birth(birth: Option<Stamp>, out: &mut Writer) {
    out.u8(u8::from(birth.is_some()));
    birth.into_iter().for_each(|birth| out.stamp(birth));
}

/// Reads the stamp of a birth.
///
/// # Errors
/// Fails when cut short or of an unknown tag.
pub fn birth(from: &mut Reader<'_>) -> Result<Option<Stamp>, DecodeError> {
    match from.u8()? {
        0 => Ok(None),
        1 => from.stamp().map(Some),
        tag => Err(DecodeError::UnknownTag { what: "birth of a merged column", tag }),
    }
}

impl Part {
    /// The kind of column that it belongs to.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sum(_) => Kind::Counter,
            Self::Set(_) => Kind::Set,
            Self::Extreme(end, _) => Kind::Extreme(*end),
            Self::Text(_) => Kind::Text,
            Self::Document(_) => Kind::Document,
        }
    }

    /// What it did, for humans.
    pub fn told(&self) -> String {
        match self {
            Self::Sum(sum) => format!("({sum} in all)"),
            Self::Set(edit) => format!("({})", edit.told()),
            Self::Extreme(_, text) => text.to_string(),
            Self::Text(edit) => format!("(put {:?})", edit.told()),
            Self::Document(edit) => format!("({})", edit.told()),
        }
    }

    /// How an own change of a column of this `kind` travels: as a part that joins to `state`, which
    /// knows of the column's life so far. `base` is what it was born with, if that is known. `None`
    /// when it must travel as a whole value, with which a new life begins: when one of the two is no
    /// value of the kind, when it is not known how `before` came about, or when the state would
    /// become too long for the value that it describes. Sizes decide that and no clock.
    pub fn of_change(
        kind: Kind,
        (state, base): (Option<&State>, Option<&str>),
        stamp: Stamp,
        (before, after): (&str, &str),
    ) -> Option<Self> {
        #[cfg(feature = "simulation")]
        if kind == Kind::Text && crate::planted::active("whole-texts") {
            return None;
        }
        let new = State::new(kind);
        let state = state.filter(|state| state.kind() == kind).unwrap_or(&new);
        let part = state.part(base, stamp.txn.origin, before, after)?;
        let mut joined = state.clone();
        joined.join(stamp, &part).ok()?;
        let is_short = || joined.bytes() <= STATE_BYTES_FREE.max(STATE_BYTES_RATIO * after.len());
        let shown = || base.and_then(|base| joined.shown(base));
        let is_exact = || shown().is_some_and(|shown| kind.is_same(&shown, after));
        match kind {
            Kind::Counter | Kind::Extreme(_) => Some(part),
            Kind::Set => is_short().then_some(part),
            Kind::Text | Kind::Document => (is_short() && is_exact()).then_some(part),
        }
    }
}

/// What is known of one life of a merged column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Of a counter.
    Sum(Sum),
    /// Of a set.
    Set(Set),
    /// Of a maximum or minimum.
    Extreme(End, Extreme),
    /// Of a text.
    Text(Text),
    /// Of a document.
    Document(Document),
}

impl State {
    /// Nothing was done yet.
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Sum(Sum::default()),
            Kind::Set => Self::Set(Set::default()),
            Kind::Extreme(end) => Self::Extreme(end, Extreme::default()),
            Kind::Text => Self::Text(Text::default()),
            Kind::Document => Self::Document(Document::default()),
        }
    }

    /// The kind of its column.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sum(_) => Kind::Counter,
            Self::Set(_) => Kind::Set,
            Self::Extreme(end, _) => Kind::Extreme(*end),
            Self::Text(_) => Kind::Text,
            Self::Document(_) => Kind::Document,
        }
    }

    /// Takes what the transaction of this stamp did; gives the stamp of what says more, if there is
    /// that. Within one life a column has one kind: of two, which only sites of different rules can
    /// write, the one of the greater tag counts.
    ///
    /// # Errors
    /// What says more.
    pub fn join(&mut self, stamp: Stamp, part: &Part) -> Result<(), Stamp> {
        if self.kind() < part.kind() {
            *self = Self::new(part.kind());
        }
        match (&mut *self, part) {
            (Self::Sum(sum), Part::Sum(share)) => return sum.join(stamp, share),
            (Self::Set(set), Part::Set(edit)) => set.join(stamp, edit),
            (Self::Extreme(end, known), Part::Extreme(other, text)) if end == other => {
                known.join(*end, stamp, text);
            }
            (Self::Text(text), Part::Text(edit)) => text.join(stamp, edit),
            (Self::Document(document), Part::Document(edit)) => document.join(stamp, edit),
            _ => return self.stamps().max().map_or(Ok(()), Err),
        }
        Ok(())
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Sum(sum) => sum.is_empty(),
            Self::Set(set) => set.is_empty(),
            Self::Extreme(_, known) => known.is_empty(),
            Self::Text(text) => text.is_empty(),
            Self::Document(document) => document.is_empty(),
        }
    }

    /// What the column comes to that was born with `base`; `None` when that is no value of the kind.
    pub fn shown(&self, base: &str) -> Option<String> {
        Some(match self {
            Self::Sum(sum) => Decimal::parse(base)?.plus(&sum.total()).to_string(),
            Self::Set(set) => set.shown(base)?,
            Self::Extreme(end, known) => known.shown(*end, base).to_owned(),
            Self::Text(text) => text.shown(base),
            Self::Document(document) => document.shown(&Json::parse(base)?).to_string(),
        })
    }

    /// With what the column was born that shows this, where that can be told.
    pub fn base(&self, shown: &str) -> Option<String> {
        match self {
            Self::Sum(sum) => Some(Decimal::parse(shown)?.minus(&sum.total()).to_string()),
            // Born with what is furthest now, it would show the same now and ever after.
            Self::Extreme(..) => Some(shown.to_owned()),
            Self::Set(_) | Self::Text(_) | Self::Document(_) => {
                self.is_empty().then(|| shown.to_owned())
            }
        }
    }

    fn part(&self, base: Option<&str>, own: Origin, before: &str, after: &str) -> Option<Part> {
        Some(match self {
            Self::Sum(sum) => Part::Sum(sum.share(own, before, after)?),
            Self::Set(set) => Part::Set(SetEdit::between(set, before, after)?),
            Self::Extreme(end, _) => Part::Extreme(*end, after.into()),
            Self::Text(text) => Part::Text(TextEdit::between(text, base?, before, after)?),
            Self::Document(document) => {
                let [base, before, after] = [base?, before, after].map(Json::parse);
                Part::Document(document.edit(&base?, &before?, &after?)?)
            }
        })
    }

    /// What of a column born with `base` no longer shows once this is joined, or never will, though it was
    /// put there: who put it, and what, for humans. Only documents have places that one can take from
    /// another.
    pub fn lost(&self, base: &str, stamp: Stamp, part: &Part) -> Vec<(Stamp, String)> {
        match (self, part, Json::parse(base)) {
            (Self::Document(document), Part::Document(edit), Some(base)) => {
                document.lost(&base, stamp, edit)
            }
            _ => Vec::new(),
        }
    }

    /// The stamps of those who did something.
    pub fn stamps(&self) -> Box<dyn Iterator<Item = Stamp> + '_> {
        match self {
            Self::Sum(sum) => Box::new(sum.stamps()),
            Self::Set(set) => Box::new(set.stamps()),
            Self::Extreme(_, known) => Box::new(known.stamps()),
            Self::Text(text) => Box::new(text.stamps()),
            Self::Document(document) => Box::new(document.stamps()),
        }
    }

    /// Its length as it is stored.
    fn bytes(&self) -> usize {
        let mut out = Writer::new();
        self.encode(&mut out);
        out.len()
    }

    /// Writes the canonical form of a state that is not empty.
    pub fn encode(&self, out: &mut Writer) {
        out.u8(self.kind().tag());
        match self {
            Self::Sum(sum) => sum.encode(out),
            Self::Set(set) => set.encode(out),
            Self::Extreme(_, known) => known.encode(out),
            Self::Text(text) => text.encode(out),
            Self::Document(document) => document.encode(out),
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, in another form, or empty.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = from.u8()?;
        let kind =
            Kind::tagged(tag).ok_or(DecodeError::UnknownTag { what: "merged column", tag })?;
        let state = match kind {
            Kind::Counter => Self::Sum(Sum::decode(from)?),
            Kind::Set => Self::Set(Set::decode(from)?),
            Kind::Extreme(end) => Self::Extreme(end, Extreme::decode(from)?),
            Kind::Text => Self::Text(Text::decode(from)?),
            Kind::Document => Self::Document(Document::decode(from)?),
        };
        match state.is_empty() {
            true => Err(DecodeError::NotCanonical("state of a merged column")),
            false => Ok(state),
        }
    }
}

#[cfg(test)]
mod tests;
