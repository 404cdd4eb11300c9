//! What a run has beside the plain world. Drawn apart, so that without it a seed stays the run that
//! it was.

use crate::dice::Dice;

/// More of what can happen.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Clients also change and delete rows that somebody else inserted under a key of his own.
    pub others_rows: bool,
}

impl Extras {
    /// Those of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x6578_7472_6173);
        Self { others_rows: dice.below(2) == 0 }
    }
}
