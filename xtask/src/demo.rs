//! `cargo xtask demo`: two ships and the region ashore.

use landfall_tests::cluster::Cluster;

use crate::{cargo, postgres};

/// Builds the daemons, starts three clusters, and stops them.
pub(crate) fn run() -> anyhow::Result<()> {
    let began = cargo::now();
    let bin = postgres::ensure()?;
    println!("PostgreSQL {} in {}", bin.version, bin.dir.display());
    cargo::build_daemons()?;
    for name in ["ship a", "ship b", "shore"] {
        let cluster = Cluster::options(name).version(bin.major).start()?;
        println!("{name}: a PostgreSQL {} of its own on port {}", bin.version, cluster.port());
        cluster.try_stop_fast(std::time::Duration::from_secs(60))?;
    }
    println!("done in {}", cargo::seconds(began));
    Ok(())
}
