//! How long a committed row takes to be visible at the other side, at 500 transactions per second.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::{CONVERGE, DB};
use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::{Client, NoTls};

use crate::figure::{Aim, Better, Figure, Samples};
use crate::native::Native;
use crate::workload;
use crate::{Plan, Scale};

/// One transaction every two milliseconds.
const EVERY: Duration = Duration::from_millis(2);
/// Connections that write in turn, so that one slow commit does not hold up the next.
const WRITERS: u64 = 4;
/// How often the other side is looked at; what is seen is late by half of it on average.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Runs the benchmark.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let count = match plan.scale {
        Scale::Full => 10_000,
        Scale::Quick => 1_000,
    };
    let native = Native::start(plan.scale)?;
    let fleet = workload::fleet(plan.scale).try_start()?;
    let mut reference = [Samples::default(), Samples::default()];
    let mut ours = reference.clone();
    for round in 0..plan.rounds as u64 {
        let first = round * count + 1;
        let pairs = [
            (&native.publisher, &native.subscriber, &mut reference),
            (fleet.member("a").cluster(), fleet.member("b").cluster(), &mut ours),
        ];
        for (from, to, samples) in pairs {
            let lags = measure(from, to, first, count)?;
            println!(
                "round {}: p50 {:.2} ms, p99 {:.2} ms",
                round + 1,
                at(&lags, 50),
                at(&lags, 99)
            );
            samples[0].push(at(&lags, 50));
            samples[1].push(at(&lags, 99));
        }
    }
    let [ours50, ours99] = ours;
    let figure = |name: &str, samples| Figure::new(name, "ms", Better::Lower, samples);
    Ok(vec![
        figure("live lag at 500 transactions/s, p50", ours50)
            .against("native", &reference[0])
            .aim(Aim::AtMost(5.0)),
        figure("live lag at 500 transactions/s, p99", ours99).against("native", &reference[1]),
    ])
}

/// The percentile of sorted values.
fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

/// Milliseconds from "committed here" to "visible there", sorted.
fn measure(from: &Cluster, to: &Cluster, first: u64, count: u64) -> anyhow::Result<Vec<f64>> {
    let (source, target) = (from.socket_conninfo(DB), to.socket_conninfo(DB));
    let looking = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(look(&target, first, count))
    });
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let committed = runtime.block_on(write(&source, first, count))?;
    let seen = looking.join().map_err(|_| anyhow::anyhow!("the looking thread panicked"))??;
    let lags = committed
        .iter()
        .zip(&seen)
        .map(|(committed, seen)| seen.saturating_duration_since(*committed).as_secs_f64() * 1000.0);
    let mut lags: Vec<f64> = lags.collect();
    lags.sort_by(f64::total_cmp);
    Ok(lags)
}

async fn connect(conninfo: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
    // How the connection ended is also told to whoever uses the client.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// Writes at the given pace; returns when each commit was acknowledged.
async fn write(conninfo: &str, first: u64, count: u64) -> anyhow::Result<Vec<Instant>> {
    let mut writers = Vec::new();
    let began = Instant::now() + EVERY;
    for writer in 0..WRITERS {
        let client = connect(conninfo).await?;
        writers.push(tokio::spawn(async move {
            let sql = "INSERT INTO event VALUES ($1, $1, 'live', 1, clock_timestamp(), 'lag')";
            let insert = client.prepare(sql).await?;
            let mut committed = Vec::new();
            for id in (writer..count).step_by(WRITERS as usize) {
                let due = began + EVERY * u32::try_from(id)?;
                tokio::time::sleep_until(due.into()).await;
                client.execute(&insert, &[&i64::try_from(first + id)?]).await?;
                committed.push((id, Instant::now()));
            }
            anyhow::Ok(committed)
        }));
    }
    let mut committed = Vec::new();
    for writer in writers {
        committed.extend(writer.await??);
    }
    committed.sort_by_key(|(id, _)| *id);
    Ok(committed.into_iter().map(|(_, at)| at).collect())
}

/// Looks until every row was seen; returns when each was seen first.
async fn look(conninfo: &str, first: u64, count: u64) -> anyhow::Result<Vec<Instant>> {
    let client = connect(conninfo).await?;
    let select = client.prepare("SELECT id FROM event WHERE id >= $1 AND id < $2").await?;
    let mut seen: Vec<Option<Instant>> = vec![None; usize::try_from(count)?];
    let (mut lowest, end) = (0, i64::try_from(first + count)?);
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = Instant::now() + CONVERGE;
    while lowest < seen.len() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "row {lowest} is not visible after {CONVERGE:?}"
        );
        tick.tick().await;
        let from = i64::try_from(first)? + i64::try_from(lowest)?;
        let rows = client.query(&select, &[&from, &end]).await?;
        let now = Instant::now();
        for row in rows {
            let place = usize::try_from(row.get::<_, i64>(0) - i64::try_from(first)?)?;
            seen[place].get_or_insert(now);
        }
        while seen.get(lowest).is_some_and(Option::is_some) {
            lowest += 1;
        }
    }
    seen.into_iter().collect::<Option<Vec<_>>>().context("every row was seen")
}
