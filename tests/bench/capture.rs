//! How fast changes leave the log: our capture, durable in the store, against `pg_recvlogical`,
//! which throws them away. Both drain the same log of the same server, in turn.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::{DB, Fleet};
use landfall_tests::process::Program;
use landfall_tests::wait;

use crate::figure::{Aim, Better, Figure, Samples};
use crate::workload::{self, Load};
use crate::{Plan, Scale, cpu};

/// How long one drain may take.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
struct Measured {
    ours: Samples,
    reference: Samples,
    our_cpu: Samples,
    walsender_cpu: Samples,
    peak: Samples,
    wire_bytes: Samples,
}

/// Runs the benchmark with both loads.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for load in [Load::Updates, Load::Inserts] {
        let measured = drain(plan, load)?;
        let name = match load {
            Load::Updates => "updates, 10 per transaction",
            Load::Inserts => "single-row inserts",
        };
        let Measured { ours, reference, our_cpu, walsender_cpu, peak, wire_bytes } = measured;
        figures.push(
            Figure::new(&format!("capture, {name}"), "changes/s", Better::Higher, ours)
                .against("pg_recvlogical", &reference)
                .aim(Aim::Ratio(1.0)),
        );
        figures.push(
            Figure::new(
                &format!("capture, {name}: CPU of the node"),
                "µs/change",
                Better::Lower,
                our_cpu,
            )
            .against("the walsender", &walsender_cpu),
        );
        figures.push(Figure::new(
            &format!("capture, {name}: pgoutput from the walsender"),
            "bytes/change",
            Better::Lower,
            wire_bytes,
        ));
        figures.push(
            Figure::new(
                &format!("capture, {name}: peak memory of the node"),
                "MiB",
                Better::Lower,
                peak,
            )
            .aim(Aim::AtMost(64.0)),
        );
    }
    Ok(figures)
}

fn drain(plan: &Plan, load: Load) -> anyhow::Result<Measured> {
    let fleet = Fleet::new(&workload::schema(plan.scale), workload::TABLES).site("a");
    let fleet = workload::CONF.iter().fold(fleet, |fleet, (key, value)| fleet.conf(key, value));
    let mut fleet = fleet.try_start()?;
    let sql = "SELECT pg_create_logical_replication_slot('reference', 'pgoutput')";
    fleet.member("a").cluster().try_sql(DB, sql)?;
    let mut measured = Measured::default();
    for round in 1..=plan.rounds as u64 {
        stop(&fleet)?;
        load.make(fleet.member("a").cluster(), plan.scale, round)?;
        let end = end_of_log(fleet.member("a").cluster())?;
        let changes = load.changes(plan.scale) as f64;
        if round == 1 {
            measured.wire_bytes.push(recorded_bytes(fleet.member("a").cluster(), &end)? / changes);
        }
        // In turn, so that neither always finds the log warm.
        let reference_first = round % 2 == 1;
        if reference_first {
            measured.reference.push(changes / reference(fleet.member("a").cluster(), &end)?);
        }
        measured.take_ours(&mut fleet, &end, plan.scale, load)?;
        if !reference_first {
            measured.reference.push(changes / reference(fleet.member("a").cluster(), &end)?);
        }
        println!("round {round}: {measured:?}");
    }
    Ok(measured)
}

impl Measured {
    fn take_ours(
        &mut self,
        fleet: &mut Fleet,
        end: &str,
        scale: Scale,
        load: Load,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        fleet.launch("a")?;
        wait::try_wait_until("capture to reach the end", LIMIT, || folded(fleet, end))?;
        let took = began.elapsed().as_secs_f64();
        let changes = load.changes(scale) as f64;
        self.ours.push(changes / took);
        let pid = fleet.member("a").daemon().pid().context("the node runs")?;
        let node = vec![("node".to_owned(), pid)];
        self.our_cpu.push(cpu::seconds(&node)?.values().sum::<f64>() * 1e6 / changes);
        let backends = cpu::backends("a", fleet.member("a").cluster())?;
        let used = cpu::seconds(&backends)?;
        let walsender = used.get("a walsender").context("the node has a walsender")?;
        self.walsender_cpu.push(walsender * 1e6 / changes);
        self.peak.push(cpu::peak_mib(pid)?);
        Ok(())
    }
}

/// Whether the node has made everything up to `end` durable.
pub(crate) fn folded(fleet: &Fleet, end: &str) -> Result<(), String> {
    let status = fleet.member("a").status().map_err(|error| format!("{error:#}"))?;
    let fold = status["fold_lsn"].as_str().unwrap_or("0/0").to_owned();
    if position(&fold) >= position(end) { Ok(()) } else { Err(format!("folded up to {fold}")) }
}

/// A position as a number; `16/B374D848` is what the server prints.
pub(crate) fn position(text: &str) -> u64 {
    let part = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
    text.split_once('/').map_or(0, |(high, low)| part(high) << 32 | part(low))
}

/// Ends a member's daemon in an orderly way.
pub(crate) fn stop(fleet: &Fleet) -> anyhow::Result<()> {
    let daemon = fleet.member("a").daemon();
    daemon.terminate();
    daemon.try_wait_exit(LIMIT)?;
    Ok(())
}

/// The end of the flushed log, which the record of the last commit reaches.
pub(crate) fn end_of_log(cluster: &Cluster) -> anyhow::Result<String> {
    let rows = cluster.try_query_rows(DB, "SELECT pg_current_wal_flush_lsn()")?;
    let value = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
    value.context("the server tells its position")
}

/// Seconds in which `pg_recvlogical` drains its slot up to `end` into nothing.
fn reference(cluster: &Cluster, end: &str) -> anyhow::Result<f64> {
    let began = Instant::now();
    receive(cluster, "reference", end, "/dev/null")?;
    Ok(began.elapsed().as_secs_f64())
}

/// What the server sends for the same log, as `pg_recvlogical` writes it down.
fn recorded_bytes(cluster: &Cluster, end: &str) -> anyhow::Result<f64> {
    let copy = "SELECT pg_copy_logical_replication_slot('reference', 'recorded')";
    cluster.try_sql(DB, copy)?;
    let file = cluster.dir().join("recorded");
    receive(cluster, "recorded", end, &file.display().to_string())?;
    cluster.try_sql(DB, "SELECT pg_drop_replication_slot('recorded')")?;
    let bytes = fs::metadata(&file).context("look at what was recorded")?.len();
    fs::remove_file(&file).context("remove what was recorded")?;
    Ok(bytes as f64)
}

fn receive(cluster: &Cluster, slot: &str, end: &str, file: &str) -> anyhow::Result<()> {
    let program = cluster.bin().program("pg_recvlogical");
    let done = Program::system(&program.display().to_string())
        .named("recvlogical")
        .args(["--start", "--slot", slot, "--endpos", end, "-f", file])
        .args(["-o", "proto_version=1", "-o", "publication_names=landfall", "-o", "messages=true"])
        .args(["-d", &cluster.socket_conninfo(DB)])
        .run(LIMIT)?;
    anyhow::ensure!(done.status.success(), "pg_recvlogical: {}", done.stderr);
    Ok(())
}
