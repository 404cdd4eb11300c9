//! What a run has beside the plain world. Drawn apart, so that without it a seed stays the run that
//! it was.

use crate::dice::Dice;

use super::wires::Shape;

/// More of what can happen.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Clients also change and delete rows that somebody else inserted under a key of his own.
    pub others_rows: bool,
    /// The shape of the network.
    pub shape: Shape,
    /// Relays beside the plain ones.
    pub relays: u64,
    /// Many commits wait until capture has them.
    pub sync_standby: bool,
    /// One site refuses items with numbers above this.
    pub refused_above: Option<i64>,
    /// The constraint goes before the end.
    pub frees_early: bool,
    /// Clients also write rows with a counter and a column group.
    pub counts: bool,
    /// Texts of more bytes than this are long, and clients write some.
    pub long_above: Option<usize>,
    /// Memory for the rows of a transaction, if it is to be little. Clients write large ones then.
    pub transaction_bytes_max: Option<usize>,
    /// Some carriers pass units on in other bytes than those in which they came.
    pub packs_anew: bool,
    /// How often a site loses its connections in the middle of a unit.
    pub breaks: u64,
}

impl Extras {
    /// Whether so many statements belong together that they never get through where one of fifty
    /// loses its connection: a large transaction row by row, or capture that asks two hundred times
    /// whether a commit is visible that waits for it.
    pub(crate) fn has_long_talks(&self) -> bool {
        self.sync_standby
            || self.refused_above.is_some()
            || self.transaction_bytes_max.is_some()
            || self.long_above.is_some()
    }

    /// Whether something goes wrong that goes wrong nowhere else.
    pub(crate) fn has_mishaps(&self) -> bool {
        self.sync_standby || self.refused_above.is_some() && self.frees_early
    }

    /// The same with less of what takes long.
    pub(crate) fn shortened(self, dice: &mut Dice) -> Self {
        let refused_above = self.refused_above.filter(|_| dice.below(4) == 0);
        let transaction_bytes_max = self.transaction_bytes_max.filter(|_| dice.below(4) == 0);
        let long_above = self.long_above.filter(|_| dice.below(2) == 0);
        let shape = match self.shape {
            Shape::Relays if dice.below(3) > 0 => Shape::Row,
            shape => shape,
        };
        Self { refused_above, transaction_bytes_max, long_above, shape, ..self }
    }

    /// Those of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x6578_7472_6173);
        let others_rows = dice.below(2) == 0;
        let shape = dice.pick(&[Shape::Mesh, Shape::Mesh, Shape::Relays, Shape::Row, Shape::Tree]);
        let relays = if shape == Shape::Relays { 1 + dice.below(2) } else { 0 };
        let sync_standby = dice.below(4) == 0;
        let refused_above = dice.pick(&[None, None, None, Some(900), Some(500)]);
        let frees_early = dice.below(3) == 0;
        let transaction_bytes_max = dice.pick(&[None, None, None, None, Some(2_000), Some(8_000)]);
        let counts = dice.below(3) == 0;
        let long_above = dice.pick(&[None, None, None, None, Some(24)]);
        let packs_anew = dice.below(2) == 0;
        let breaks = dice.pick(&[0, 0, 1, 3, 10]);
        Self {
            others_rows,
            counts,
            long_above,
            shape,
            relays,
            sync_standby,
            refused_above,
            frees_early,
            transaction_bytes_max,
            packs_anew,
            breaks,
        }
    }
}
