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
}

impl Extras {
    /// Whether something goes wrong that goes wrong nowhere else.
    pub(crate) fn has_mishaps(&self) -> bool {
        self.sync_standby
    }

    /// Those of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x6578_7472_6173);
        let others_rows = dice.below(2) == 0;
        let shape = dice.pick(&[Shape::Mesh, Shape::Mesh, Shape::Relays, Shape::Row, Shape::Tree]);
        let relays = if shape == Shape::Relays { 1 + dice.below(2) } else { 0 };
        Self { others_rows, shape, relays, sync_standby: dice.below(4) == 0 }
    }
}
