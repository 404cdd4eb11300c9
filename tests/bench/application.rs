//! What replication leaves of the application's own speed, and what an absent peer costs the
//! server in kept log.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::{DB, Fleet, SOON};
use landfall_tests::process::{Daemon, Program};
use landfall_tests::wait;

use crate::capture::{end_of_log, position};
use crate::cpu;
use crate::figure::{Aim, Better, Figure, Samples};
use crate::native::{self, Native};
use crate::workload;
use crate::{Plan, Scale};

/// The application: one row updated, one inserted, per transaction, by four clients.
const SCRIPT: &str = "\
\\set id random(1, 5000)
BEGIN;
UPDATE item SET quantity = quantity + 1, seen = now() WHERE id = :id;
INSERT INTO event SELECT nextval('event_id'), :id, 'sale', 1, now(), 'over the counter';
END;
";

/// How long a slot may take to move on after a load; the checkpoint alone can take seconds.
const SETTLED: Duration = Duration::from_secs(15);

/// Runs the benchmark.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let seconds = match plan.scale {
        Scale::Full => 30,
        Scale::Quick => 3,
    };
    let alone = native::cluster("alone", plan.scale)?;
    let decoded = native::cluster("decoded", plan.scale)?;
    let native = Native::start(plan.scale)?;
    let near = workload::fleet(plan.scale).try_start()?;
    let far = workload::fleet(plan.scale).later("b").try_start()?;
    let clusters = [
        &alone,
        &native.publisher,
        near.member("a").cluster(),
        far.member("a").cluster(),
        &decoded,
    ];
    for cluster in clusters {
        cluster.try_sql(DB, "CREATE SEQUENCE event_id")?;
    }
    let _drain = drain(&decoded)?;
    let mut tps = [const { Vec::new() }; 6];
    let (mut held, mut held_native) = (Samples::default(), Samples::default());
    let (mut near_cpu, mut far_cpu) = (Samples::default(), Samples::default());
    for round in 1..=plan.rounds {
        for (place, cluster) in clusters.into_iter().enumerate() {
            let before = [node_seconds(&near)?, node_seconds(&far)?];
            tps[place].push(pgbench(cluster, seconds)?);
            let transactions = tps[place][tps[place].len() - 1] * f64::from(seconds);
            match place {
                2 => near_cpu.push((node_seconds(&near)? - before[0]) * 1e6 / transactions),
                3 => far_cpu.push((node_seconds(&far)? - before[1]) * 1e6 / transactions),
                _ => {}
            }
        }
        held.push(held_log(clusters[3])?);
        native.disable()?;
        tps[5].push(pgbench(&native.publisher, seconds)?);
        held_native.push(held_log(&native.publisher)?);
        native.enable()?;
        near.converge_within(SOON * 4);
        println!(
            "round {round}: none, native, near, far, decoded only, native with its peer away: {tps:.0?}"
        );
    }
    let [none, native, near, far, decoded, native_away] = tps.map(Samples::from_iter);
    let speed = |name: &str, samples: &Samples| {
        Figure::new(name, "transactions/s", Better::Higher, samples.clone())
    };
    let cpu = |name: &str, samples| Figure::new(name, "µs/transaction", Better::Lower, samples);
    let least = Aim::Ratio(0.95);
    Ok(vec![
        speed("application, peer reachable", &near).against("native", &native).aim(least),
        speed("application, peer away", &far).against("native, peer away", &native_away).aim(least),
        speed("application, peer reachable", &near).against("no replication", &none),
        speed("application, peer away", &far).against("no replication", &none),
        speed("application, native", &native).against("no replication", &none),
        speed("application, log drained by pg_recvlogical", &decoded)
            .against("no replication", &none),
        speed("application, peer away", &far).against("log drained by pg_recvlogical", &decoded),
        cpu("application, peer reachable: CPU of the node", near_cpu),
        cpu("application, peer away: CPU of the node", far_cpu),
        Figure::new("log held for an absent peer", "bytes", Better::Lower, held)
            .against("native", &held_native)
            .aim(Aim::AtMost(0.0)),
    ])
}

/// Lets `pg_recvlogical` throw away what the server decodes: the least that keeping no log for an
/// absent peer can cost.
fn drain(cluster: &Cluster) -> anyhow::Result<Daemon> {
    let tables = workload::TABLES.join(", ");
    cluster.try_sql(DB, &format!("CREATE PUBLICATION bench FOR TABLE {tables}"))?;
    cluster.try_sql(DB, "SELECT pg_create_logical_replication_slot('bench', 'pgoutput')")?;
    let program = cluster.bin().program("pg_recvlogical");
    Program::system(&program.display().to_string())
        .named("recvlogical")
        .args(["--start", "--slot", "bench", "-f", "/dev/null"])
        .args(["-o", "proto_version=1", "-o", "publication_names=bench", "-o", "messages=true"])
        .args(["-d", &cluster.socket_conninfo(DB)])
        .try_start()
}

/// Processor time that the node beside the application has used.
fn node_seconds(fleet: &Fleet) -> anyhow::Result<f64> {
    let pid = fleet.member("a").daemon().pid().context("the node runs")?;
    Ok(cpu::seconds(&vec![("node".to_owned(), pid)])?.values().sum())
}

/// Transactions per second of four clients.
fn pgbench(cluster: &Cluster, seconds: u32) -> anyhow::Result<f64> {
    let script = cluster.dir().join("application.sql");
    fs::write(&script, SCRIPT).context("write the script of pgbench")?;
    let program = cluster.bin().program("pgbench");
    anyhow::ensure!(
        program.is_file(),
        "pgbench is not beside the server; install PostgreSQL's contrib package"
    );
    let port = cluster.port().to_string();
    let done = Program::system(&program.display().to_string())
        .named("pgbench")
        .args(["-n", "-c", "4", "-j", "2", "-M", "prepared", "-T", &seconds.to_string(), "-f"])
        .arg(&script)
        .args(["-h", &cluster.dir().display().to_string(), "-p", &port, "-U", "postgres", DB])
        .run(Duration::from_secs(u64::from(seconds)) + SOON)?;
    anyhow::ensure!(done.status.success(), "pgbench: {}", done.stderr);
    let line = done.stdout.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("pgbench tells its tps: {}", done.stdout))
}

/// How far before the end of the load the slot of a cluster keeps the log, in bytes. A slot may
/// only move on past a checkpoint's record of running transactions, so there are some.
fn held_log(cluster: &Cluster) -> anyhow::Result<f64> {
    let end = position(&end_of_log(cluster)?);
    // The first one writes what the load left, which takes its time.
    cluster.try_sql(DB, "CHECKPOINT")?;
    let mut least = u64::MAX;
    // An absent peer's slot never moves: then the last look counts.
    let looked = wait::try_wait_until("the slot to move", SETTLED, || {
        let look = || {
            cluster.try_sql(DB, "CHECKPOINT")?;
            cluster.try_query_rows(DB, "SELECT restart_lsn FROM pg_replication_slots")
        };
        let rows = look().map_err(|error| format!("{error:#}"))?;
        let slot = rows.first().and_then(|row| row.first()?.as_deref()).map_or(0, position);
        least = least.min(end.saturating_sub(slot));
        if least == 0 { Ok(()) } else { Err(format!("{least} bytes are held")) }
    });
    drop(looked);
    Ok(least as f64)
}
