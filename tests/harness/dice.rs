//! Seeded chance: the same seed gives the same throws.

/// A generator of numbers by splitmix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Starts with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed from `LANDFALL_SEED`, or a fresh one; printed, so that a failure can be tried again.
    ///
    /// # Panics
    /// When the variable is no number, or the system gives no randomness.
    pub fn from_env() -> Self {
        let told = std::env::var("LANDFALL_SEED").ok().map(|seed| seed.parse());
        let seed = match told {
            Some(seed) => seed.expect("LANDFALL_SEED is a number"),
            None => u64::from(getrandom::u32().expect("randomness from the system")),
        };
        println!("LANDFALL_SEED={seed}");
        Self(seed)
    }

    /// Another generator that goes its own way.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self(self.next())
    }

    /// A number below `limit`, 0 when that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }

    /// One of these.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// `count` different numbers below `limit`, ascending; fewer when there are not as many.
    pub fn distinct(&mut self, count: u64, limit: u64) -> Vec<u64> {
        let mut all: Vec<u64> = (0..limit).collect();
        while all.len() as u64 > count {
            let out = self.below(all.len() as u64) as usize;
            all.remove(out);
        }
        all
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_throws() {
        let throws = |seed| {
            let mut dice = Dice::new(seed);
            let mut split = dice.split();
            (dice.below(1000), split.below(1000), dice.distinct(3, 10))
        };
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
        let (.., distinct) = throws(7);
        assert!(distinct.len() == 3 && distinct.is_sorted() && distinct[2] < 10);
    }
}
