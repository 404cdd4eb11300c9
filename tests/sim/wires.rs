//! Who is connected with whom.

use std::collections::BTreeSet;

use crate::dice::Dice;

/// The shape of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Everybody with everybody.
    #[default]
    Mesh,
    /// Sites only with a relay, relays among each other in a row.
    Relays,
    /// All members in a row, in any order.
    Row,
    /// Each member with one before it, in any order.
    Tree,
}

/// Who calls whom, by number.
#[derive(Clone, Debug)]
pub(crate) struct Wires(BTreeSet<(u64, u64)>);

impl Wires {
    /// Wires between `sites` members with data and `relays` behind them. Whatever the shape, there
    /// is a way between any two.
    pub(crate) fn lay(shape: Shape, sites: u64, relays: u64, mut dice: Dice) -> Self {
        let all = sites + relays;
        let mut order: Vec<u64> = Vec::new();
        let mut left: Vec<u64> = (1..=all).collect();
        while !left.is_empty() {
            order.push(left.swap_remove(dice.below(left.len() as u64) as usize));
        }
        let mut wires = BTreeSet::new();
        match shape {
            Shape::Mesh => {
                // The lower number calls.
                wires.extend((1..=all).flat_map(|one| (one + 1..=all).map(move |to| (one, to))));
                return Self(wires);
            }
            Shape::Relays => {
                wires.extend((sites + 1..all).map(|relay| (relay, relay + 1)));
                wires.extend((1..=sites).map(|site| (site, sites + 1 + dice.below(relays))));
            }
            Shape::Row => wires.extend(order.windows(2).map(|pair| (pair[0], pair[1]))),
            Shape::Tree => {
                let earlier = |place: usize| order[dice.below(place as u64) as usize];
                let earlier: Vec<u64> = (1..order.len()).map(earlier).collect();
                wires.extend(order[1..].iter().copied().zip(earlier));
            }
        }
        // Either end may be the one that calls, or both.
        let turned = wires.into_iter().flat_map(|(one, other)| match dice.below(5) {
            0 => vec![(other, one)],
            1 => vec![(one, other), (other, one)],
            _ => vec![(one, other)],
        });
        Self(turned.collect())
    }

    /// Whom a member calls.
    pub(crate) fn called_by(&self, member: u64) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().filter(move |(caller, _)| *caller == member).map(|(_, called)| *called)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_way_between_any_two() {
        let shapes = [Shape::Mesh, Shape::Relays, Shape::Row, Shape::Tree];
        for (seed, shape) in (0..200).zip(shapes.into_iter().cycle()) {
            let mut dice = Dice::new(seed);
            let (sites, relays) = (2 + dice.below(4), 1 + dice.below(2));
            let wires = Wires::lay(shape, sites, relays, dice);
            let mut reached = BTreeSet::from([1]);
            for _ in 0..sites + relays {
                for (one, other) in &wires.0 {
                    if reached.contains(one) || reached.contains(other) {
                        reached.extend([*one, *other]);
                    }
                }
            }
            assert_eq!(reached.len() as u64, sites + relays, "{shape:?} {wires:?}");
            let direct = |(one, other): &(u64, u64)| *one <= sites && *other <= sites;
            assert!(shape != Shape::Relays || !wires.0.iter().any(direct), "{wires:?}");
        }
    }
}
