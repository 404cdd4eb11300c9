//! The reference: PostgreSQL's own logical replication, one way.

use std::time::Duration;

use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::{DB, SOON};
use landfall_tests::wait;

use crate::Scale;
use crate::workload;

/// A publisher and a subscriber.
#[derive(Debug)]
pub(crate) struct Native {
    pub(crate) publisher: Cluster,
    pub(crate) subscriber: Cluster,
}

impl Native {
    /// Two clusters with the same rows and a subscription that is running.
    pub(crate) fn start(scale: Scale) -> anyhow::Result<Self> {
        let native = Self {
            publisher: cluster("publisher", scale)?,
            subscriber: cluster("subscriber", scale)?,
        };
        let tables = workload::TABLES.join(", ");
        native.publisher.try_sql(DB, &format!("CREATE PUBLICATION bench FOR TABLE {tables}"))?;
        let source = native.publisher.socket_conninfo(DB).replace('\'', "''");
        native.subscriber.try_sql(
            DB,
            &format!(
                "CREATE SUBSCRIPTION bench CONNECTION '{source}' PUBLICATION bench \
                 WITH (copy_data = false)"
            ),
        )?;
        native.wait_for_worker(true)?;
        Ok(native)
    }

    /// Starts the apply worker.
    pub(crate) fn enable(&self) -> anyhow::Result<()> {
        self.subscriber.try_sql(DB, "ALTER SUBSCRIPTION bench ENABLE")
    }

    /// Stops the apply worker; the slot keeps the log.
    pub(crate) fn disable(&self) -> anyhow::Result<()> {
        self.subscriber.try_sql(DB, "ALTER SUBSCRIPTION bench DISABLE")?;
        self.wait_for_worker(false)
    }

    fn wait_for_worker(&self, there: bool) -> anyhow::Result<()> {
        wait::try_wait_until("the slot to change hands", SOON, || {
            let sql = "SELECT active FROM pg_replication_slots WHERE slot_name = 'bench'";
            let rows = self.publisher.try_query_rows(DB, sql).map_err(|e| format!("{e:#}"))?;
            let active = rows.first().and_then(|row| row.first()?.as_deref()) == Some("t");
            if active == there { Ok(()) } else { Err(format!("active is {active}")) }
        })
    }
}

/// A cluster with schema and first rows and nothing else.
pub(crate) fn cluster(name: &str, scale: Scale) -> anyhow::Result<Cluster> {
    let options = Cluster::options(name);
    let options =
        workload::CONF.iter().fold(options, |options, (key, value)| options.conf(key, value));
    let cluster = options.start()?;
    cluster.try_create_db(DB)?;
    cluster.try_sql(DB, &workload::schema(scale))?;
    Ok(cluster)
}

/// Waits until the sentinel of a round is visible.
pub(crate) fn wait_for_sentinel(on: &Cluster, round: u64, limit: Duration) -> anyhow::Result<()> {
    let session = on.session(DB)?;
    let sql = format!("SELECT 1 FROM sentinel WHERE id = {round}");
    wait::try_wait_until("the sentinel", limit, || match session.rows(&sql) {
        Ok(rows) if rows.is_empty() => Err("not there yet".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error:#}")),
    })
}
