//! A small change while a backlog fills a line of 512 kbit/s over a satellite: how long it takes to be
//! seen at the other side.

use std::time::Instant;

use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::{DB, Fleet};
use landfall_tests::relay::Profile;
use landfall_tests::wait;

use super::mix::{self, Mix};
use super::{LIMIT, builder, rest, stop};
use crate::capture::{end_of_log, folded};
use crate::figure::{Aim, Better, Figure, Samples};
use crate::native::wait_for_sentinel;
use crate::{Plan, Scale};

/// Of the backlog; a minute of the line.
const BYTES: f64 = 3.6e6;
/// Two round trips of 600 ms and a second.
const AIM_S: f64 = 2.2;

/// Runs the benchmark. Site c is beside a and passes its changes through it.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let sites = builder(Mix::Blob).site("a").site("b").site("c").link("a", "b").link("c", "a");
    let mut fleet = sites.try_start()?;
    let profile = Profile::named("vsat-geo")?;
    let bytes = if plan.scale == Scale::Quick { BYTES / 4.0 } else { BYTES };
    let [mut own, mut relayed, mut against] = [const { Vec::new() }; 3];
    for round in 1..=plan.rounds as u64 {
        fill(&mut fleet, &profile, bytes, round * 10)?;
        for (from, to, offset, seconds) in
            [("c", "b", 1, &mut relayed), ("b", "a", 2, &mut against), ("a", "b", 3, &mut own)]
        {
            let number = round * 10 + offset;
            mix::sentinel(fleet.member(from).cluster(), number)?;
            let began = Instant::now();
            wait_for_sentinel(fleet.member(to).cluster(), number, LIMIT)?;
            seconds.push(began.elapsed().as_secs_f64());
            let done = is_visible(fleet.member("b").cluster(), round * 10)?;
            println!("{from} to {to}: {seconds:.2?}; the backlog was through: {done}");
        }
        wait_for_sentinel(fleet.member("b").cluster(), round * 10, LIMIT)?;
        rest(&fleet)?;
    }
    let figure = |what: &str, values: Vec<f64>| {
        let samples: Samples = values.into_iter().collect();
        let name = format!("links, vsat-geo, urgent change during a backlog: {what}");
        Figure::new(&name, "s", Better::Lower, samples).aim(Aim::AtMost(AIM_S))
    };
    Ok(vec![
        figure("of a third site, passed on", relayed),
        figure("against the stream", against),
        figure("of the same site, behind its own", own),
    ])
}

/// Lets a send a backlog to b, until the line is full.
fn fill(fleet: &mut Fleet, profile: &Profile, bytes: f64, round: u64) -> anyhow::Result<()> {
    stop(fleet, "b")?;
    let a = fleet.member("a").cluster();
    Mix::Blob.work(a, bytes / Mix::Blob.change_bytes(), round)?;
    mix::sentinel(a, round)?;
    let end = end_of_log(a)?;
    wait::try_wait_until("capture of the backlog", LIMIT, || folded(fleet, &end))?;
    stop(fleet, "a")?;
    fleet.launch("b")?;
    let before = fleet.link("a", "b").metered();
    fleet.link("a", "b").set_profile(profile);
    fleet.launch("a")?;
    // A tenth of it is under way: start-up is over, and c has called a again long since.
    wait::try_wait_until("the line to be full", LIMIT, || {
        let up = fleet.link("a", "b").metered().0 - before.0;
        if (up as f64) < bytes / 10.0 { Err(format!("{up} bytes sent")) } else { Ok(()) }
    })
}

fn is_visible(on: &Cluster, round: u64) -> anyhow::Result<bool> {
    Ok(!on.try_query_rows(DB, &format!("SELECT 1 FROM sentinel WHERE id = {round}"))?.is_empty())
}
