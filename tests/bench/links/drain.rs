//! A backlog over each kind of link: what share of the line it gets, and what is wasted.

use landfall_tests::relay::Profile;

use super::mix::Mix;
use super::{Compaction, drain, fleet};
use crate::figure::{Aim, Better, Figure, Samples};
use crate::{Plan, Scale};

/// Links, for how many seconds of the bare line there is something to send, and what is told of them in
/// the configuration. On the fast ones shorter, so that making the backlog and applying it do not take
/// longer than sending it.
const LINKS: &[(&str, f64, &str)] = &[
    ("vsat-geo", 40.0, ""),
    ("iridium", 60.0, "rate_kbit = 22\nround_trip_ms = 1500"),
    ("iridium-certus", 60.0, "rate_kbit = 88\nround_trip_ms = 1500"),
    ("flaky-dsl", 40.0, ""),
    ("lte-edge", 20.0, ""),
    ("starlink", 10.0, ""),
];

/// Runs the benchmark.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut number = 0;
    for (name, seconds, told) in LINKS {
        if !plan.profiles.is_empty() && !plan.profiles.iter().any(|asked| asked == name) {
            continue;
        }
        let mut fleet = fleet(Mix::Hospital, told, Compaction::Off)?;
        let profile = Profile::named(name)?.without_outages();
        let capacity = profile.capacity_up().unwrap_or(f64::INFINITY);
        let seconds = if plan.scale == Scale::Quick { seconds / 4.0 } else { *seconds };
        let changes = capacity * seconds / Mix::Hospital.change_bytes();
        let [mut share, mut under_way, mut useful, mut seen] = [const { Vec::new() }; 4];
        for _ in 0..plan.rounds {
            number += 1;
            let drained = drain(&mut fleet, &profile, number, |fleet| {
                Mix::Hospital.work(fleet.member("a").cluster(), changes, number)
            })?;
            share.push(drained.payload / drained.held_s / capacity);
            under_way.push(drained.rate_under_way / capacity);
            useful.push(drained.payload / drained.line_bytes());
            seen.push(drained.seen_s);
            println!(
                "{name}: share {:.2}, useful {:.2}, {drained:?}",
                share[share.len() - 1],
                useful[useful.len() - 1]
            );
        }
        let figure = |what: &str, unit, better, values: Vec<f64>| {
            let samples: Samples = values.into_iter().collect();
            Figure::new(
                &format!("links, {name}, hospital backlog up: {what}"),
                unit,
                better,
                samples,
            )
        };
        let share = figure("share of the capacity", "", Better::Higher, share);
        figures.push(share.aim(Aim::AtLeast(0.9)));
        let what = "share of the capacity, the last nine tenths";
        figures.push(figure(what, "", Better::Higher, under_way).aim(Aim::AtLeast(0.9)));
        figures.push(figure("payload of all bytes on the line", "", Better::Higher, useful));
        figures.push(figure("until the last row is visible", "s", Better::Lower, seen));
    }
    Ok(figures)
}
