//! The same backlog over the same line: ours, and PostgreSQL's logical replication over TCP.
//!
//! TCP is the kernel's own, between two network namespaces; every packet passes the same model of the
//! line as our datagrams do. It is told to use cubic, which Linux does unless told.

use std::time::Instant;

use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::{DB, Fleet};
use landfall_tests::relay::{PacketLine, Profile, may_join};

use super::mix::{self, Mix};
use super::{Compaction, LIMIT, drain, fleet};
use crate::figure::{Aim, Better, Figure, Samples};
use crate::native::wait_for_sentinel;
use crate::workload::CONF;
use crate::{Plan, Scale};

/// Seconds up and seconds down.
type Outages = (f64, f64);

/// Links with their own outages, or one that is up and down for so many seconds, and row changes.
const LINKS: &[(&str, Option<Outages>, f64)] =
    &[("vsat-geo", Some((40.0, 20.0)), 20_000.0), ("lte-edge", None, 150_000.0)];

/// Publisher and subscriber at the two ends of a line.
struct Native {
    line: PacketLine,
    publisher: Cluster,
    subscriber: Cluster,
}

impl Native {
    fn start(mix: Mix) -> anyhow::Result<Self> {
        let line = PacketLine::start()?;
        line.set_tcp("cubic")?;
        let cluster = |name: &str, end| {
            let options = Cluster::options(name).inside(end);
            let options =
                CONF.iter().fold(options, |options, (key, value)| options.conf(key, value));
            let cluster = options.start()?;
            cluster.try_create_db(DB)?;
            cluster.try_sql(DB, &mix.schema())?;
            anyhow::Ok(cluster)
        };
        let publisher = cluster("publisher", line.a())?;
        let subscriber = cluster("subscriber", line.b())?;
        publisher.try_sql(DB, "CREATE PUBLICATION bench FOR ALL TABLES")?;
        let source = publisher.conninfo(DB);
        let sql = format!(
            "CREATE SUBSCRIPTION bench CONNECTION '{source}' PUBLICATION bench \
             WITH (copy_data = false)"
        );
        subscriber.try_sql(DB, &sql)?;
        Ok(Self { line, publisher, subscriber })
    }

    /// Seconds until the last row is visible, and bytes on the line.
    fn drain(
        &self,
        mix: Mix,
        profile: &Profile,
        changes: f64,
        round: u64,
    ) -> anyhow::Result<(f64, f64)> {
        self.line.set_profile(&Profile::default());
        self.subscriber.try_sql(DB, "ALTER SUBSCRIPTION bench DISABLE")?;
        mix.work(&self.publisher, changes, round)?;
        mix::sentinel(&self.publisher, round)?;
        self.line.set_profile(profile);
        let before = self.line.metered();
        let began = Instant::now();
        self.subscriber.try_sql(DB, "ALTER SUBSCRIPTION bench ENABLE")?;
        wait_for_sentinel(&self.subscriber, round, LIMIT)?;
        let took = began.elapsed().as_secs_f64();
        let after = self.line.metered();
        Ok((took, (after.0 + after.1 - before.0 - before.1) as f64))
    }
}

/// Runs the benchmark.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    if !may_join() {
        return Ok(Vec::new());
    }
    let native = Native::start(Mix::Hospital)?;
    let mut fleet = fleet(Mix::Hospital, "", Compaction::On)?;
    let mut figures = Vec::new();
    let mut number = 0;
    for (name, outages, changes) in LINKS {
        if !plan.profiles.is_empty() && !plan.profiles.iter().any(|asked| asked == name) {
            continue;
        }
        let mut profile = Profile::named(name)?;
        if let Some((up_s, down_s)) = outages {
            profile = profile.with_outages(*up_s, *down_s);
        }
        let changes = if plan.scale == Scale::Quick { changes / 10.0 } else { *changes };
        let mut pairs = Pairs::default();
        for _ in 0..plan.rounds {
            number += 1;
            pairs.round(&native, &mut fleet, &profile, changes, number)?;
            println!("{name}: {pairs:.1?}");
        }
        figures.extend(pairs.figures(name, changes));
    }
    Ok(figures)
}

#[derive(Debug, Default)]
struct Pairs {
    ours_s: Samples,
    native_s: Samples,
    ours_bytes: Samples,
    native_bytes: Samples,
}

impl Pairs {
    fn round(
        &mut self,
        native: &Native,
        fleet: &mut Fleet,
        profile: &Profile,
        changes: f64,
        number: u64,
    ) -> anyhow::Result<()> {
        let ours = drain(fleet, profile, number, |fleet| {
            Mix::Hospital.work(fleet.member("a").cluster(), changes, number)
        })?;
        self.ours_s.push(ours.seen_s);
        self.ours_bytes.push(ours.line_bytes());
        let (seconds, bytes) = native.drain(Mix::Hospital, profile, changes, number)?;
        self.native_s.push(seconds);
        self.native_bytes.push(bytes);
        Ok(())
    }

    fn figures(self, name: &str, changes: f64) -> Vec<Figure> {
        let figure = |what: &str, unit, ours, native: &Samples| {
            let name = format!("links, {name} with outages, {changes:.0} hospital changes: {what}");
            let figure = Figure::new(&name, unit, Better::Lower, ours);
            figure.against("native", native).aim(Aim::Ratio(10.0))
        };
        vec![
            figure("to converge", "s", self.ours_s, &self.native_s),
            figure("on the line, both ways", "bytes", self.ours_bytes, &self.native_bytes),
        ]
    }
}
