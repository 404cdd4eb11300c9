//! Processor time and memory of single processes, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Context as _;
use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::DB;

/// Processes by what they are to us.
pub(crate) type Processes = Vec<(String, u32)>;

/// The backends of a cluster that belong to replication, each named with `prefix`.
pub(crate) fn backends(prefix: &str, cluster: &Cluster) -> anyhow::Result<Processes> {
    let sql = "SELECT pid, CASE WHEN backend_type = 'client backend' THEN application_name \
               ELSE backend_type END FROM pg_stat_activity \
               WHERE backend_type IN ('walsender', 'logical replication worker') \
               OR application_name IN ('landfall apply', 'landfall barrier')";
    let rows = cluster.try_query_rows(DB, sql)?;
    let entry = |row: Vec<Option<String>>| {
        let [pid, what] = <[Option<String>; 2]>::try_from(row).ok()?;
        Some((format!("{prefix} {}", what?), pid?.parse().ok()?))
    };
    Ok(rows.into_iter().filter_map(entry).collect())
}

/// Seconds of processor time each process has used so far.
pub(crate) fn seconds(processes: &Processes) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut used = BTreeMap::new();
    for (name, pid) in processes {
        *used.entry(name.clone()).or_insert(0.0) += seconds_of(*pid)?;
    }
    Ok(used)
}

fn seconds_of(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("read the times of process {pid}"))?;
    // The name in brackets may hold anything; utime and stime are the 12th and 13th after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / ticks_per_second())
}

fn ticks_per_second() -> f64 {
    static TICKS: OnceLock<f64> = OnceLock::new();
    *TICKS.get_or_init(|| {
        let output = Command::new("getconf").arg("CLK_TCK").output().ok();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        // What Linux has told programs on every machine for twenty years.
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(100.0)
    })
}

/// The most memory a process ever held, in MiB.
pub(crate) fn peak_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("read the memory of process {pid}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("no VmHWM in /proc")? / 1024.0)
}
