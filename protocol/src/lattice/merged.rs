//! What a row's clock keeps of a merged column.

use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, Writer};
use crate::merged::{COUNT_MAX, Share, State, birth, put_birth};
use crate::schema::ColumnId;
use crate::value::VALUE_BYTES_MAX;

/// A merged column of a row, as far as others have done something to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The column.
    pub column: ColumnId,
    /// What it was born with in its present life, as text, once that is known.
    pub base: Option<Box<str>>,
    /// By birth: the present life, and later ones of which the birth is not joined yet.
    lives: Vec<(Option<Stamp>, State)>,
}

impl Merged {
    /// Nobody has done anything to it.
    pub fn new(column: ColumnId) -> Self {
        Self { column, base: None, lives: Vec::new() }
    }

    fn place(&self, birth: Option<Stamp>) -> Result<usize, usize> {
        self.lives.binary_search_by_key(&birth, |(birth, _)| *birth)
    }

    /// What was done in the life that began with `birth`.
    pub fn life(&self, birth: Option<Stamp>) -> Option<&State> {
        self.place(birth).ok().map(|place| &self.lives[place].1)
    }

    /// Takes what the transaction of this stamp did.
    ///
    /// # Errors
    /// The stamp of what says more.
    pub fn join(&mut self, stamp: Stamp, share: &Share) -> Result<(), Stamp> {
        let place = self.place(share.birth).unwrap_or_else(|place| {
            self.lives.insert(place, (share.birth, State::new(share.part.kind())));
            place
        });
        let joined = self.lives[place].1.join(stamp, &share.part);
        // What did nothing leaves no trace, or equal clocks would not look equal.
        self.lives.retain(|(_, state)| !state.is_empty());
        joined
    }

    /// Begins anew with the write of this stamp; what belongs to it, or to a later one, stays.
    pub fn rebirth(&mut self, birth: Option<Stamp>, base: Option<Box<str>>) {
        self.lives.retain(|(other, _)| *other >= birth);
        self.base = base;
    }

    /// Its value in the life that began with `birth`, if it is known what it was born with.
    pub fn value(&self, birth: Option<Stamp>) -> Option<String> {
        let base = self.base.as_deref()?;
        self.life(birth).map_or_else(|| Some(base.to_owned()), |state| state.shown(base))
    }

    /// Whether nobody has done anything to it.
    pub fn is_empty(&self) -> bool {
        self.lives.is_empty()
    }

    /// The stamps of those who did something.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.lives.iter().flat_map(|(_, state)| state.stamps())
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        out.varint(u64::from(self.column.0));
        out.u8(u8::from(self.base.is_some()));
        self.base.iter().for_each(|base| out.text(base));
        out.varint(self.lives.len() as u64);
        for (birth, state) in &self.lives {
            put_birth(*birth, out);
            state.encode(out);
        }
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or in another form.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut merged = Self::new(ColumnId(from.u16()?));
        merged.base = match from.u8()? {
            0 => None,
            1 => Some(from.text(VALUE_BYTES_MAX)?.into()),
            tag => return Err(DecodeError::UnknownTag { what: "base of a merged column", tag }),
        };
        for _ in 0..from.count(COUNT_MAX)? {
            let life = (birth(from)?, State::decode(from)?);
            if merged.lives.last().is_some_and(|(last, _)| *last >= life.0) {
                return Err(DecodeError::NotCanonical("lives of a merged column"));
            }
            merged.lives.push(life);
        }
        match merged.is_empty() && merged.base.is_none() {
            true => Err(DecodeError::NotCanonical("merged column without a life")),
            false => Ok(merged),
        }
    }
}
