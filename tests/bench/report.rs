//! `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use landfall_tests::postgres_bin::PgBin;

use crate::figure::{self, Figure};
use crate::{Plan, Scale, names};

const CONDITIONS: &str = "\
## Conditions

Written by `cargo xtask bench --write`; do not edit it by hand. Each figure is the median over the
rounds, with the least and the most in brackets. Reference and ours run in turn on the same machine;
a ratio is taken within a round, and 1 means as good, more means better, whichever way the figure
itself is good. Absolute numbers say as much about the machine and its neighbours as about us.

- Every PostgreSQL is a throw-away cluster on the same disk with `fsync = on`, `wal_level = logical`,
  `synchronous_commit` as by default, 256 MB of shared buffers, and so much room for the log that no
  checkpoint falls into a measurement. `wal_retrieve_retry_interval` is 50 ms, or starting a native
  apply worker would take up to five seconds of its time. All sites share the machine's cores.
- `REPLICA IDENTITY FULL` on every table of every contender. Landfall needs it; native replication
  is given it too, so that both decode the same log, and its apply finds rows by the primary key all
  the same.
- *native* is `CREATE SUBSCRIPTION` between two clusters, one way, with its defaults. Landfall works
  both ways meanwhile: the receiving site also decodes and folds what it applied, and keeps clocks
  and conflict history, on the same cores.
- *capture*: both nodes' slots stand while the log is made. `pg_recvlogical` drains it into
  `/dev/null`; the node's time runs from the start of the process until everything is stamped and
  durable in its store.
- *catch-up*: 500,000 updates in transactions of ten rows, scattered over 100,000 rows, or 300,000
  transactions that insert one row. The backlog is made by a procedure in the server. Native: the
  subscription is disabled meanwhile, time runs from enabling it. *From the outbox*: the link is cut
  while the backlog is made and captured, time runs from the healing, redialling included. *From the
  log*: both nodes are stopped meanwhile, time runs from starting the first of them. Each ends when a
  row committed after the backlog is visible at the other side.
- *CPU* is user and system time of single processes, in the rounds *from the log*, up to that
  moment; \"a\" sends, \"b\" receives.
- *on the wire* counts UDP payload in both directions through the relay that stands in for the link.
  *In the outbox* counts sealed units.
- *live lag* runs from the moment the writer's commit is acknowledged to the moment a reader that
  looks every millisecond sees the row.
- *application* is pgbench with four clients for thirty seconds: one row updated, one inserted, per
  transaction. The reachable peer works on the same cores. \"Away\" means that the peer's node does
  not run; native's is a disabled subscription, for which nothing is decoded and the log is kept.
  *Drained by pg_recvlogical* has the log decoded and thrown away: the least that it costs to keep none
  of it for an absent peer.
- *merge*: the backlog of *from the outbox*, in transactions of ten rows, scattered over 10,000: 100,000 that
  add one to a counter, 40,000 that change one key of a document of twenty keys, 100,000 children of 10,000
  parents; beside it the same on a plain column, and on a table without the foreign key. Of the text, single
  words are changed, each in a transaction of its own; *until both show both* runs from the healing of the
  link, redialling included.
- *log held* is how far before the end of the load the slot keeps the log, after checkpoints.
- *links*: site a dials site b and sends; the relay's profiles (`tests/harness/relay/profiles.toml`) make the
  line. Bytes are those of whole IP packets put on the line, lost ones included, in both directions. The
  backlog is captured while the other side is away; both daemons start afresh, time runs from the first
  packet. *Share of the capacity* is sealed bytes by the time until the other side holds them, handshake and
  start included, of the line's rate less its mean loss and its outages. Native replication has TCP of the
  kernel (cubic) between two network namespaces, whose packets pass the same model of the line. The mixes are
  in `tests/bench/links`.
";

/// Writes the report of a run.
pub(crate) fn write(plan: &Plan, figures: &[Figure]) -> anyhow::Result<()> {
    let mut text = "# Benchmarks\n\n".to_owned();
    for (what, value) in facts(plan)? {
        writeln!(text, "- {what}: {value}")?;
    }
    write!(text, "\n{}\n{CONDITIONS}", figure::table(figures))?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn facts(plan: &Plan) -> anyhow::Result<Vec<(&'static str, String)>> {
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().context("run date")?;
    let cores = std::thread::available_parallelism().context("count the cores")?;
    let memory = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let memory = memory.context("/proc/meminfo begins with the memory")?;
    let quick = if plan.scale == Scale::Quick { " --quick" } else { "" };
    let names = if plan.names.is_empty() { names().join(" ") } else { plan.names.join(" ") };
    Ok(vec![
        ("date", String::from_utf8_lossy(&date.stdout).trim().to_owned()),
        ("machine", format!("{cores} cores, {} GiB of memory", (memory + (1 << 19)) >> 20)),
        ("PostgreSQL", PgBin::find(None)?.version),
        ("command", format!("`cargo xtask bench {names} --rounds {}{quick}`", plan.rounds)),
    ])
}
