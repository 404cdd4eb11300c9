//! What docs/operations.md says under "Rebuilding a site", step by step.

use std::fs;

use super::{DB, Fleet, SOON};
use crate::cluster::Cluster;

impl Fleet {
    /// Gives a site a new life: its daemon ends, its store goes, its tables are emptied, and it
    /// joins with everything to be sent to it.
    ///
    /// # Panics
    /// When a step fails.
    pub fn rebuild(&mut self, name: &str) {
        let cluster = self.member(name).cluster();
        self.take_apart(name, cluster);
        self.join(name);
    }

    /// The steps of [`Fleet::rebuild`] before the site joins, at the database that it shall have.
    ///
    /// # Panics
    /// When a step fails.
    pub fn take_apart(&self, name: &str, cluster: &Cluster) {
        let member = self.member(name);
        member.daemon().terminate();
        assert!(member.daemon().wait_exit(SOON).success(), "{name} did not end well");
        fs::remove_dir_all(member.data_dir()).expect("remove the store");
        let slot = format!("landfall_{}", name.replace('-', "_"));
        let drop_slot = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
             WHERE slot_name = '{slot}'"
        );
        cluster.sql(DB, &drop_slot);
        cluster.sql(DB, "DROP PUBLICATION IF EXISTS landfall");
        for table in &self.tables {
            cluster.sql(
                DB,
                &format!(
                    "ALTER TABLE {table} REPLICA IDENTITY DEFAULT; \
                     DROP TRIGGER landfall_refuse_truncate ON {table}; TRUNCATE {table}"
                ),
            );
        }
        cluster.sql(DB, "DROP SCHEMA landfall CASCADE");
    }
}
