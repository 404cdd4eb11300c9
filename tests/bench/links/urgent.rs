//! A small change while a backlog fills a line of 512 kbit/s over a satellite: how long it takes to be
//! seen at the other side.

use std::time::Instant;

use landfall_tests::fleet::{DB, Fleet};
use landfall_tests::relay::Profile;
use landfall_tests::wait;

use super::mix::{self, Mix};
use super::{Compaction, LIMIT, builder, rest, seq_at, stop};
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
    let sites = builder(Mix::Blob, "", Compaction::Off)
        .site("a")
        .site("b")
        .site("c")
        .link("a", "b")
        .link("c", "a");
    let mut fleet = sites.try_start()?;
    let profile = Profile::named("vsat-geo")?;
    let bytes = if plan.scale == Scale::Quick { BYTES / 4.0 } else { BYTES };
    let [mut own, mut relayed, mut against] = [const { Vec::new() }; 3];
    for round in 1..=plan.rounds as u64 {
        fill(&mut fleet, &profile, bytes, round * 10)?;
        let [of_c, of_b, of_a] = hurry(&mut fleet, round * 10)?;
        println!("of c {of_c:.2} s, of b {of_b:.2} s, of a {of_a:.2} s");
        relayed.push(of_c);
        against.push(of_b);
        own.push(of_a);
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

/// Lets a send a backlog to b, until the line is full. Meanwhile c is away and changes something, or
/// that would depend on the backlog, which c gets sooner than b, and could not be shown before it.
fn fill(fleet: &mut Fleet, profile: &Profile, bytes: f64, round: u64) -> anyhow::Result<()> {
    stop(fleet, "b")?;
    stop(fleet, "c")?;
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
    // A tenth of it is under way: start-up is over.
    wait::try_wait_until("the line to be full", LIMIT, || {
        let up = fleet.link("a", "b").metered().0 - before.0;
        if (up as f64) < bytes / 10.0 { Err(format!("{up} bytes sent")) } else { Ok(()) }
    })
}

/// One change at each site: seconds until b sees that of c, a that of b, b that of a. That of c counts
/// from when a holds it.
fn hurry(fleet: &mut Fleet, round: u64) -> anyhow::Result<[f64; 3]> {
    let held = seq_at(fleet, "a", "c")?;
    mix::sentinel(fleet.member("c").cluster(), round + 1)?;
    fleet.launch("c")?;
    wait::try_wait_until("c to call", LIMIT, || match seq_at(fleet, "a", "c") {
        Ok(seq) if seq > held => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let from_c = Instant::now();
    mix::sentinel(fleet.member("b").cluster(), round + 2)?;
    let from_b = Instant::now();
    mix::sentinel(fleet.member("a").cluster(), round + 3)?;
    let from_a = Instant::now();
    let mut waiting = Vec::new();
    for (number, (to, since)) in (round + 1..).zip([("b", from_c), ("a", from_b), ("b", from_a)]) {
        let sql = format!("SELECT 1 FROM sentinel WHERE id = {number}");
        waiting.push((fleet.member(to).cluster().session(DB)?, sql, since));
    }
    let mut seconds = [None; 3];
    wait::try_wait_until("three small changes", LIMIT, || {
        for ((session, sql, since), seconds) in waiting.iter().zip(&mut seconds) {
            if seconds.is_none() && session.rows(sql).is_ok_and(|rows| !rows.is_empty()) {
                *seconds = Some(since.elapsed().as_secs_f64());
            }
        }
        match seconds {
            [Some(c), Some(b), Some(a)] => Ok([c, b, a]),
            waiting => Err(format!("{waiting:?}")),
        }
    })
}
