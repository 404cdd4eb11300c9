//! 50 MB that do not compress over a mobile link that is up for 40 s and down for 20 s.

use landfall_tests::relay::Profile;

use super::mix::Mix;
use super::{Compaction, drain, fleet};
use crate::figure::{Aim, Better, Figure, Samples};
use crate::{Plan, Scale};

/// Bytes to be brought over.
const BYTES: f64 = 50e6;

/// Runs the benchmark.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut fleet = fleet(Mix::Blob, "", Compaction::Off)?;
    let profile = Profile::named("lte-edge")?.with_outages(40.0, 20.0);
    let capacity = profile.capacity_up().unwrap_or(f64::INFINITY);
    let bytes = if plan.scale == Scale::Quick { BYTES / 20.0 } else { BYTES };
    let [mut useful, mut share, mut seconds] = [const { Vec::new() }; 3];
    for round in 1..=plan.rounds as u64 {
        let drained = drain(&mut fleet, &profile, round, |fleet| {
            let blobs = bytes / Mix::Blob.change_bytes();
            Mix::Blob.work(fleet.member("a").cluster(), blobs, round)
        })?;
        useful.push(drained.payload / drained.line_bytes());
        share.push(drained.payload / drained.held_s / capacity);
        seconds.push(drained.held_s);
        println!("useful {useful:.3?}, share {share:.2?}, {drained:?}");
    }
    let figure = |what: &str, unit, better, values: Vec<f64>| {
        let samples: Samples = values.into_iter().collect();
        Figure::new(&format!("links, {what}"), unit, better, samples)
    };
    let what = "50 MB, 40 s up and 20 s down at 5 Mbit/s";
    Ok(vec![
        figure(&format!("{what}: payload of all bytes"), "", Better::Higher, useful)
            .aim(Aim::AtLeast(0.95)),
        figure(&format!("{what}: share of the capacity"), "", Better::Higher, share),
        figure(&format!("{what}: until held"), "s", Better::Lower, seconds),
    ])
}
