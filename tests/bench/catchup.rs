//! How fast a backlog reaches the other side, against native logical replication one way.
//!
//! Two kinds of backlog: in the log, with both nodes stopped, which is what native replication
//! has; and in the outbox, captured while the link was cut, which is what our users have. Both end
//! when a row committed after the backlog is visible at the other side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use landfall_tests::fleet::{Fleet, SOON};
use landfall_tests::wait;

use crate::capture::{end_of_log, folded};
use crate::figure::{Aim, Better, Figure, Samples};
use crate::native::{Native, wait_for_sentinel};
use crate::workload::{self, Load};
use crate::{Plan, Scale, cpu};

/// How long one catch-up may take.
const LIMIT: Duration = Duration::from_secs(900);

/// 500,000 updates.
pub(crate) fn updates(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    run(plan, Load::Updates, "updates")
}

/// 300,000 inserts.
pub(crate) fn inserts(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    run(plan, Load::Inserts, "inserts")
}

/// What one contender did over the rounds.
#[derive(Debug, Default)]
struct Measured {
    changes_per_s: Samples,
    cpu_us: BTreeMap<String, Samples>,
}

impl Measured {
    fn take(&mut self, changes: f64, took: Duration, cpu: BTreeMap<String, f64>) {
        self.changes_per_s.push(changes / took.as_secs_f64());
        for (process, seconds) in cpu {
            self.cpu_us.entry(process).or_default().push(seconds * 1e6 / changes);
        }
    }

    fn last(&self) -> String {
        let cpu = self.cpu_us.iter().map(|(name, s)| format!("{name} {:.1}", s.median()));
        let cpu = cpu.collect::<Vec<_>>().join(", ");
        format!("{:.0}/s; µs per change: {cpu}", self.changes_per_s.median())
    }
}

#[derive(Debug, Default)]
struct Ours {
    from_log: Measured,
    from_outbox: Measured,
    wire_bytes: Samples,
    outbox_bytes: Samples,
    peak_a: Samples,
    peak_b: Samples,
}

fn run(plan: &Plan, load: Load, name: &str) -> anyhow::Result<Vec<Figure>> {
    let native = Native::start(plan.scale)?;
    let mut fleet = workload::fleet(plan.scale).try_start()?;
    let (mut reference, mut ours) = (Measured::default(), Ours::default());
    for round in 1..=plan.rounds as u64 {
        native_round(&native, &mut reference, load, plan.scale, round)?;
        println!("up to round {round}: native {}", reference.last());
        ours.outbox_round(&mut fleet, load, plan.scale, round * 2)?;
        println!("up to round {round}: from the outbox {}", ours.from_outbox.last());
        ours.log_round(&mut fleet, load, plan.scale, round * 2 + 1)?;
        println!("up to round {round}: from the log {}", ours.from_log.last());
    }
    fleet.converge();
    Ok(figures(name, &reference, ours))
}

fn figures(name: &str, reference: &Measured, ours: Ours) -> Vec<Figure> {
    let native = &reference.changes_per_s;
    let speed = |what: &str, samples: Samples| {
        Figure::new(&format!("catch-up, {name}, {what}"), "changes/s", Better::Higher, samples)
            .against("native", native)
    };
    let mut figures = vec![
        speed("from the outbox", ours.from_outbox.changes_per_s).aim(Aim::Ratio(0.7)),
        speed("from the log", ours.from_log.changes_per_s),
    ];
    let lower = |what: &str, unit, samples| {
        Figure::new(&format!("{name}: {what}"), unit, Better::Lower, samples)
    };
    figures.push(lower("on the wire, both ways", "bytes/change", ours.wire_bytes));
    figures.push(lower("in the outbox", "bytes/change", ours.outbox_bytes));
    for (process, samples) in ours.from_log.cpu_us {
        figures.push(lower(&format!("CPU, whole way: {process}"), "µs/change", samples));
    }
    for (process, samples) in &reference.cpu_us {
        figures.push(lower(&format!("CPU, native: {process}"), "µs/change", samples.clone()));
    }
    figures.push(lower("peak memory of node a", "MiB", ours.peak_a).aim(Aim::AtMost(64.0)));
    figures.push(lower("peak memory of node b", "MiB", ours.peak_b).aim(Aim::AtMost(64.0)));
    figures
}

fn native_round(
    native: &Native,
    measured: &mut Measured,
    load: Load,
    scale: Scale,
    round: u64,
) -> anyhow::Result<()> {
    native.disable()?;
    load.make(&native.publisher, scale, round)?;
    let began = Instant::now();
    native.enable()?;
    wait_for_sentinel(&native.subscriber, round, LIMIT)?;
    let took = began.elapsed();
    let mut processes = cpu::backends("publisher", &native.publisher)?;
    processes.extend(cpu::backends("subscriber", &native.subscriber)?);
    measured.take(load.changes(scale) as f64, took, cpu::seconds(&processes)?);
    Ok(())
}

impl Ours {
    /// The backlog is captured while the link is cut; time runs from the healing.
    fn outbox_round(
        &mut self,
        fleet: &mut Fleet,
        load: Load,
        scale: Scale,
        round: u64,
    ) -> anyhow::Result<()> {
        let changes = load.changes(scale) as f64;
        fleet.link("a", "b").cut();
        load.make(fleet.member("a").cluster(), scale, round)?;
        let end = end_of_log(fleet.member("a").cluster())?;
        wait::try_wait_until("capture of the backlog", LIMIT, || folded(fleet, &end))?;
        self.outbox_bytes.push(outbox_bytes(fleet)? / changes);
        let before = (fleet.link("a", "b").bytes(), cpu::seconds(&processes(fleet)?)?);
        let began = Instant::now();
        fleet.link("a", "b").heal();
        wait_for_sentinel(fleet.member("b").cluster(), round, LIMIT)?;
        let took = began.elapsed();
        let mut used = cpu::seconds(&processes(fleet)?)?;
        for (process, seconds) in &mut used {
            *seconds -= before.1.get(process).copied().unwrap_or_default();
        }
        self.from_outbox.take(changes, took, used);
        let (up, down) = fleet.link("a", "b").bytes();
        self.wire_bytes.push((up + down - before.0.0 - before.0.1) as f64 / changes);
        settle(fleet)?;
        self.note_memory(fleet)
    }

    /// Both nodes are stopped while the backlog is made; time runs from their start.
    fn log_round(
        &mut self,
        fleet: &mut Fleet,
        load: Load,
        scale: Scale,
        round: u64,
    ) -> anyhow::Result<()> {
        for name in ["a", "b"] {
            fleet.member(name).daemon().terminate();
            fleet.member(name).daemon().try_wait_exit(SOON)?;
        }
        load.make(fleet.member("a").cluster(), scale, round)?;
        let began = Instant::now();
        fleet.launch("b")?;
        fleet.launch("a")?;
        wait_for_sentinel(fleet.member("b").cluster(), round, LIMIT)?;
        let took = began.elapsed();
        let used = cpu::seconds(&processes(fleet)?)?;
        self.from_log.take(load.changes(scale) as f64, took, used);
        settle(fleet)?;
        self.note_memory(fleet)
    }

    fn note_memory(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
        for (name, samples) in [("a", &mut self.peak_a), ("b", &mut self.peak_b)] {
            let pid = fleet.member(name).daemon().pid().context("the node runs")?;
            samples.push(cpu::peak_mib(pid)?);
        }
        Ok(())
    }
}

/// Both nodes and what works for them in the servers.
fn processes(fleet: &Fleet) -> anyhow::Result<cpu::Processes> {
    let mut processes = Vec::new();
    for name in ["a", "b"] {
        let member = fleet.member(name);
        let pid = member.daemon().pid().context("the node runs")?;
        processes.push((format!("{name} node"), pid));
        processes.extend(cpu::backends(name, member.cluster())?);
    }
    Ok(processes)
}

/// What node a keeps for b, in sealed bytes.
fn outbox_bytes(fleet: &Fleet) -> anyhow::Result<f64> {
    let status = fleet.member("a").status()?;
    let peer = status["peers"].as_array().and_then(|peers| peers.first());
    peer.and_then(|peer| peer["unacknowledged_bytes"].as_f64()).context("a tells its backlog")
}

/// Waits until b's own capture has seen what b applied: the next round starts from rest.
pub(crate) fn settle(fleet: &Fleet) -> anyhow::Result<()> {
    wait::try_wait_until("b to come to rest", LIMIT, || {
        let status = fleet.member("b").status().map_err(|error| format!("{error:#}"))?;
        let pending = status["inbox_pending_changes"].as_u64();
        if pending == Some(0) { Ok(()) } else { Err(format!("pending: {pending:?}")) }
    })
}
