//! Landfall on bad links: bytes, speed, outages, urgency; beside PostgreSQL's own replication over the
//! same model of the line.
//!
//! Site a dials site b, so a sends "up". The link is the harness's relay with one of its profiles. Bytes
//! are those of whole IP packets put on the line, in both directions, lost ones included: what a metered
//! link charges for.

pub(crate) mod bytes;
pub(crate) mod compaction;
pub(crate) mod drain;
mod mix;
pub(crate) mod native;
pub(crate) mod outage;
pub(crate) mod urgent;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use landfall_tests::fleet::{Builder, DB, Fleet, SOON};
use landfall_tests::relay::Profile;
use landfall_tests::wait;

use crate::capture::{end_of_log, folded};
use mix::Mix;

/// How long anything on a bad link may take.
const LIMIT: Duration = Duration::from_secs(1800);
/// A link over which nothing went for so long is at rest.
const REST: Duration = Duration::from_secs(3);

/// A member that never comes. What is kept for it tells how large a backlog was.
const ABSENT: &str = "absent";

/// What it took to bring a backlog to the other side.
#[derive(Debug, Clone, Copy)]
struct Drained {
    /// Row changes that arrived.
    changes: f64,
    /// Sealed units of the backlog: what had to be sent.
    payload: f64,
    /// From the first packet until the other side held everything, in seconds.
    held_s: f64,
    /// The last nine tenths of it, by what the sender had put on the line, in bytes per second.
    rate_under_way: f64,
    /// From the first packet until the last row was visible there, in seconds.
    seen_s: f64,
    /// Put on the line until then, (up, down).
    line: (f64, f64),
}

impl Drained {
    fn line_bytes(&self) -> f64 {
        self.line.0 + self.line.1
    }
}

/// Two sites at rest; the second is stopped, so that what the first does is a backlog.
fn part(fleet: &Fleet) -> anyhow::Result<()> {
    rest(fleet)?;
    stop(fleet, "b")
}

fn stop(fleet: &Fleet, name: &str) -> anyhow::Result<()> {
    fleet.member(name).daemon().terminate();
    fleet.member(name).daemon().try_wait_exit(SOON)?;
    Ok(())
}

/// Waits until nothing goes over the link any more.
fn rest(fleet: &Fleet) -> anyhow::Result<()> {
    let mut seen = ((0, 0), Instant::now());
    wait::try_wait_until("the link to come to rest", LIMIT, || {
        let now = fleet.link("a", "b").metered();
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        let since = seen.1.elapsed();
        if since < REST { Err(format!("something {since:?} ago")) } else { Ok(()) }
    })
}

/// Brings a backlog, made by `make` while the other side is away, over a link of this kind.
///
/// Both daemons start afresh, so that how long an earlier attempt to call still has to wait is no part
/// of it. Time and outages begin with the first packet.
fn drain(
    fleet: &mut Fleet,
    profile: &Profile,
    round: u64,
    make: impl FnOnce(&Fleet) -> anyhow::Result<()>,
) -> anyhow::Result<Drained> {
    part(fleet)?;
    let sealed = sealed_bytes(fleet)?;
    make(fleet)?;
    mix::sentinel(fleet.member("a").cluster(), round)?;
    let end = end_of_log(fleet.member("a").cluster())?;
    wait::try_wait_until("capture of the backlog", LIMIT, || folded(fleet, &end))?;
    stop(fleet, "a")?;
    fleet.launch("b")?;
    let received = received_changes(fleet, "b")?;
    let relay_before = fleet.link("a", "b").metered();
    fleet.link("a", "b").set_profile(profile);
    fleet.launch("a")?;
    let target = own_seq(fleet, "a")?;
    let began = first_packet(fleet, relay_before)?;
    let mut held_at = None;
    let mut sent = Vec::new();
    let session = fleet.member("b").cluster().session(DB)?;
    let sentinel = format!("SELECT 1 FROM sentinel WHERE id = {round}");
    wait::try_wait_until("the backlog to arrive", LIMIT, || {
        if held_at.is_none() && seq_at(fleet, "b", "a").is_ok_and(|seq| seq >= target) {
            held_at = Some(Instant::now());
        }
        sent.push((Instant::now(), fleet.link("a", "b").metered().0 - relay_before.0));
        match session.rows(&sentinel) {
            Ok(rows) if rows.is_empty() => Err(format!("held: {}", held_at.is_some())),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    let seen_at = Instant::now();
    let line = fleet.link("a", "b").metered();
    let line = ((line.0 - relay_before.0) as f64, (line.1 - relay_before.1) as f64);
    let held_at = held_at.unwrap_or(seen_at);
    let tenth = sent.iter().find(|(_, sent)| *sent as f64 >= line.0 / 10.0);
    let under_way = held_at - tenth.map_or(began, |(at, _)| *at);
    let payload = sealed_bytes(fleet)? - sealed;
    Ok(Drained {
        changes: (received_changes(fleet, "b")? - received) as f64,
        payload,
        held_s: (held_at - began).as_secs_f64(),
        rate_under_way: payload * 0.9 / under_way.as_secs_f64(),
        seen_s: (seen_at - began).as_secs_f64(),
        line,
    })
}

/// Waits for the first packet after `before` and says when it was seen.
fn first_packet(fleet: &Fleet, before: (u64, u64)) -> anyhow::Result<Instant> {
    wait::try_wait_until("a call", SOON, || {
        if fleet.link("a", "b").metered() == before { Err("silence") } else { Ok(Instant::now()) }
    })
}

fn received_changes(fleet: &Fleet, name: &str) -> anyhow::Result<u64> {
    let status = fleet.member(name).status()?;
    status["fates"]["received"].as_u64().context("a member tells the fates")
}

/// What a keeps for the member that never comes, in sealed bytes, once b has called.
fn sealed_bytes(fleet: &Fleet) -> anyhow::Result<f64> {
    let status = fleet.member("a").status()?;
    let mut peers = status["peers"].as_array().into_iter().flatten();
    let absent = peers.find(|peer| peer["name"] == ABSENT);
    absent.and_then(|peer| peer["unacknowledged_bytes"].as_f64()).context("a tells its backlog")
}

fn own_seq(fleet: &Fleet, name: &str) -> anyhow::Result<u64> {
    seq_at(fleet, name, name)
}

/// The last transaction of `origin` that `at` holds.
fn seq_at(fleet: &Fleet, at: &str, origin: &str) -> anyhow::Result<u64> {
    let status = fleet.member(at).status()?;
    let entries = status["vector"].as_array().into_iter().flatten();
    let seqs = entries.filter(|entry| entry["name"] == origin);
    Ok(seqs.filter_map(|entry| entry["received"].as_u64()).max().unwrap_or(0))
}

/// Whether what is overwritten travels. Where it does not, a figure tells of more than bytes and lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compaction {
    Off,
    /// As members do unless told.
    On,
}

/// Two sites with the tables of a mix, on settings as they are in the field, silence when idle, and with
/// what is `told` of the link.
fn fleet(mix: Mix, told: &str, compaction: Compaction) -> anyhow::Result<Fleet> {
    let sites = builder(mix, told, compaction).site("a").site("b").link("a", "b");
    sites.hub(ABSENT).later(ABSENT).try_start()
}

fn builder(mix: Mix, told: &str, compaction: Compaction) -> Builder {
    let fleet = Fleet::new(&mix.schema(), mix.tables());
    let fleet = match compaction {
        Compaction::Off => fleet.config("[limits]\ncompacted_bytes_max = 0\n"),
        Compaction::On => fleet,
    };
    let settings = format!("reconnect_min_ms = 500\nreconnect_max_ms = 5000\n{told}");
    let fleet = fleet.link_settings(&settings);
    crate::workload::CONF.iter().fold(fleet, |fleet, (key, value)| fleet.conf(key, value))
}
