//! What it costs in bytes: a backlog, one small change, a call, silence.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use landfall_engine::identity::MemberKey;
use landfall_engine::transport::{Endpoint, TransportSettings};
use landfall_tests::fleet::{DB, Fleet};
use landfall_tests::relay::{Profile, UdpRelay};
use landfall_tests::wait;
use std::net::{Ipv4Addr, SocketAddr};

use super::mix::Mix;
use super::{Compaction, drain, fleet, received_changes, rest, stop};
use crate::figure::{Aim, Better, Figure, Samples};
use crate::{Plan, Scale};

/// The changes of one backlog.
const CHANGES: f64 = 10_000.0;

/// Runs the benchmark.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let line = Profile::named("lan")?;
    let mut figures = Vec::new();
    for (mix, aim) in [(Mix::Hospital, 22.0), (Mix::Store, 7.0), (Mix::Bank, 5.0)] {
        let mut fleet = fleet(mix, "", Compaction::Off)?;
        let (mut each, mut sealed) = (Samples::default(), Samples::default());
        for round in 1..=plan.rounds as u64 {
            let drained = drain(&mut fleet, &line, round, |fleet| {
                mix.work(fleet.member("a").cluster(), CHANGES, round)
            })?;
            rest(&fleet)?;
            println!("{}: {drained:?}", mix.name());
            each.push(drained.line_bytes() / drained.changes);
            sealed.push(drained.payload / drained.changes);
        }
        let name = format!("links, {}, 10,000 changes: on the line, both ways", mix.name());
        figures.push(lower(&name, "bytes/change", each).aim(Aim::AtMost(aim)));
        let name = format!("links, {}, 10,000 changes: sealed", mix.name());
        figures.push(lower(&name, "bytes/change", sealed));
        if mix == Mix::Hospital {
            figures.extend(small(plan, &mut fleet)?);
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handshakes = (0..plan.rounds).map(|_| runtime.block_on(handshake()));
    let handshakes = handshakes.collect::<anyhow::Result<Samples>>()?;
    let figure = lower("links, handshake, both ways", "bytes", handshakes);
    figures.push(figure.aim(Aim::AtMost(3000.0)));
    Ok(figures)
}

fn lower(name: &str, unit: &'static str, samples: Samples) -> Figure {
    Figure::new(name, unit, Better::Lower, samples)
}

/// What there is beside backlogs.
fn small(plan: &Plan, fleet: &mut Fleet) -> anyhow::Result<Vec<Figure>> {
    let [mut live, mut up, mut call, mut silence] = [const { Vec::new() }; 4];
    for round in 0..plan.rounds as u64 {
        let (all, sent) = live_change(fleet, round)?;
        live.push(all);
        up.push(sent);
        silence.push(idle(fleet, plan.scale)?);
        call.push(empty_call(fleet)?);
        println!("live {all} of which up {sent}, idle {silence:?}, empty call {call:?}");
    }
    let figure =
        |name: &str, unit, values: Vec<f64>| lower(name, unit, values.into_iter().collect());
    Ok(vec![
        figure("links, one small live change, both ways", "bytes", live).aim(Aim::AtMost(60.0)),
        figure("links, one small live change, up", "bytes", up),
        figure("links, an idle minute", "bytes", silence).aim(Aim::AtMost(0.0)),
        figure("links, a call with nothing to say, handshake included", "bytes", call)
            .aim(Aim::AtMost(4000.0)),
    ])
}

/// One cell changes while the session is open and at rest; until it is at rest again.
fn live_change(fleet: &Fleet, round: u64) -> anyhow::Result<(f64, f64)> {
    rest(fleet)?;
    let before = fleet.link("a", "b").metered();
    let relayed = fleet.link("a", "b").relayed();
    let received = received_changes(fleet, "b")?;
    let sql = format!("UPDATE bed_monitor SET heart_rate = {} WHERE id = 7", 1000 + round);
    fleet.member("a").cluster().try_sql(DB, &sql)?;
    wait::try_wait_until("the change", super::LIMIT, || match received_changes(fleet, "b") {
        Ok(now) if now > received => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    rest(fleet)?;
    let after = fleet.link("a", "b").metered();
    let (up, down) = ((after.0 - before.0) as f64, (after.1 - before.1) as f64);
    let now = fleet.link("a", "b").relayed();
    println!(
        "a live change: {up} up in {}, {down} down in {} datagrams",
        now.datagrams_up - relayed.datagrams_up,
        now.datagrams_down - relayed.datagrams_down
    );
    Ok((up + down, up))
}

/// Bytes per minute of a link at rest.
fn idle(fleet: &Fleet, scale: Scale) -> anyhow::Result<f64> {
    rest(fleet)?;
    let minute = match scale {
        Scale::Full => Duration::from_secs(60),
        Scale::Quick => Duration::from_secs(3),
    };
    let (began, before) = (Instant::now(), fleet.link("a", "b").metered());
    wait::try_wait_until("a minute to pass", super::LIMIT, || {
        if began.elapsed() < minute { Err("not yet") } else { Ok(()) }
    })?;
    let after = fleet.link("a", "b").metered();
    Ok((after.0 + after.1 - before.0 - before.1) as f64)
}

/// The caller starts anew; both know everything already.
fn empty_call(fleet: &mut Fleet) -> anyhow::Result<f64> {
    stop(fleet, "a")?;
    rest(fleet)?;
    let before = fleet.link("a", "b").metered();
    fleet.launch("a")?;
    super::first_packet(fleet, before)?;
    rest(fleet)?;
    let after = fleet.link("a", "b").metered();
    Ok((after.0 + after.1 - before.0 - before.1) as f64)
}

/// A connection by itself, with a frame of a byte each way, until nothing more is said.
async fn handshake() -> anyhow::Result<f64> {
    let (ship_key, port_key) = (MemberKey::generate()?, MemberKey::generate()?);
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bind = |own: &MemberKey, other: &MemberKey| {
        let pins = [(other.public(), "peer")].into_iter().collect();
        Endpoint::bind(anywhere, own, pins, TransportSettings::default())
    };
    let (ship, port) = (bind(&ship_key, &port_key)?, bind(&port_key, &ship_key)?);
    let relay = UdpRelay::start(port.local_addr()?);
    let (dialled, accepted) = tokio::join!(ship.dial(relay.addr(), port_key.public()), async {
        let arriving = port.accept().await.context("the endpoint is open")?;
        anyhow::Ok(arriving.establish().await?)
    });
    let (dialled, accepted) = (dialled?, accepted?);
    let mut last = relay.metered();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        tick.tick().await;
        let now = relay.metered();
        if now == last {
            break;
        }
        last = now;
    }
    drop((dialled, accepted));
    Ok((last.0 + last.1) as f64)
}
