//! What need not travel: a million updates of a hundred thousand rows, some of which change far more often
//! than others, with compaction and without.

use landfall_tests::relay::Profile;

use super::mix::Mix;
use super::{Compaction, drain, fleet};
use crate::figure::{Aim, Better, Figure, Samples};
use crate::{Plan, Scale};

/// Runs the benchmark.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let updates = match plan.scale {
        Scale::Full => 1_000_000.0,
        Scale::Quick => 100_000.0,
    };
    let line = Profile::named("lan")?;
    let [mut share, mut bytes, mut seen] = [const { Vec::new() }; 3];
    for round in 1..=plan.rounds as u64 {
        let take = |compaction| {
            let mut fleet = fleet(Mix::Zipf, "", compaction)?;
            drain(&mut fleet, &line, round, |fleet| {
                Mix::Zipf.work(fleet.member("a").cluster(), updates, round)
            })
        };
        let (whole, left) = (take(Compaction::Off)?, take(Compaction::On)?);
        println!("all: {whole:?}\nleft: {left:?}");
        share.push(left.line_bytes() / whole.line_bytes());
        bytes.push(left.line_bytes() / updates);
        seen.push(left.seen_s / whole.seen_s);
    }
    let figure = |what: &str, unit, values: Vec<f64>| {
        let samples: Samples = values.into_iter().collect();
        let name = format!("links, {updates:.0} updates of 100,000 rows: {what}");
        Figure::new(&name, unit, Better::Lower, samples)
    };
    Ok(vec![
        figure("compacted, of the bytes otherwise", "", share).aim(Aim::AtMost(0.2)),
        figure("compacted, on the line, both ways", "bytes/update", bytes),
        figure("compacted, of the time until the last row is visible", "", seen),
    ])
}
