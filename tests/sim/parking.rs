//! Rows that one site's constraint keeps out, and what lets them in again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_engine::postgres::apply::ParkedLine;
use landfall_protocol::schema::ColumnId;
use landfall_protocol::value::Value;
use tokio::time::Instant;

use super::oracle;
use super::postgres::{self, Cluster, TableSpec};
use super::workload::ITEM;
use super::world::World;

/// Column `b` of the items, in which clients write numbers below a thousand.
const COLUMN: u16 = 2;

/// The items of a site, by their key.
type Items = BTreeMap<i64, Arc<[Value]>>;

/// Lets a site refuse large numbers.
pub(crate) fn refuse(tables: &mut [TableSpec], above: i64) {
    tables[ITEM].refused_above.push((ColumnId(COLUMN), above));
}

/// Everything is tried again after an hour at the latest, and then takes a few minutes.
const FREED: Duration = Duration::from_secs(3_600 + 600);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Takes the constraint away for good, which must let every row in that it kept out. What the site
/// does not show must be told of in `landfall.parked`.
pub(crate) async fn free(world: &World) -> Result<(), String> {
    let Some(number) = world.options.refusing_site() else { return Ok(()) };
    let (mut refusing, mut other) = (None, None);
    for site in &world.sites {
        match &site.cluster {
            Some(cluster) if u64::from(site.id.number()) == number => refusing = Some(cluster),
            Some(cluster) => other = Some(cluster),
            None => {}
        }
    }
    let (Some(refusing), Some(other)) = (refusing, other) else { return Ok(()) };
    check_counts(world)?;
    refusing.refuse_nothing();
    let (here, there) = (items(refusing), items(other));
    let parked = parked(refusing);
    for id in here.keys().chain(there.keys()).copied().collect::<BTreeSet<_>>() {
        if here.get(&id) == there.get(&id) {
            continue;
        }
        world.trace(|| format!("item {id} was kept out"));
        if !parked.contains(&oracle::texts(&[Value::Int(id)])) {
            return Err(format!("item {id} is kept out of site {number} and not parked there"));
        }
    }
    let limit = Instant::now() + FREED;
    loop {
        let (here, there) = (items(refusing), items(other));
        let parked = still_parked(world);
        if here == there && parked == 0 {
            return check_counts(world);
        }
        if Instant::now() >= limit {
            let kept = |id: &&i64| here.get(*id) != there.get(*id);
            let ids: BTreeSet<&i64> = here.keys().chain(there.keys()).filter(kept).collect();
            return Err(format!("{parked} changes are parked for nothing; items {ids:?} differ"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether in `landfall.parked` of each site stands no more than its store counts. What is shown
/// leaves the lines a moment before it leaves the count.
fn check_counts(world: &World) -> Result<(), String> {
    for site in &world.sites {
        let (Some(cluster), Some(process)) = (&site.cluster, &*site.process.borrow()) else {
            continue;
        };
        let log = process.store.watch().borrow().clone();
        let lines = cluster.view(|view| postgres::parked(view.lines()).len() as u64);
        // New lines count when the fold has read them.
        if log.seen_lsn >= cluster.last_commit().0 && lines > log.fates.parked {
            let (site, counted) = (site.id, log.fates.parked);
            return Err(format!("{site} has {lines} parked lines and counts {counted}"));
        }
    }
    Ok(())
}

/// Changes that sites count as parked.
pub(crate) fn still_parked(world: &World) -> u64 {
    let parked = world.sites.iter().map(|site| match &*site.process.borrow() {
        Some(process) => process.store.watch().borrow().fates.parked,
        None => 1,
    });
    parked.sum()
}

fn items(cluster: &Cluster) -> Items {
    cluster.view(|view| {
        let item = view.tables().nth(ITEM).map(|(number, _)| number);
        let rows = item.into_iter().flat_map(|item| view.rows(item));
        let row = |(_, row): (_, &Arc<[Value]>)| match row[0] {
            Value::Int(id) => Some((id, Arc::clone(row))),
            _ => None,
        };
        rows.filter_map(row).collect()
    })
}

/// Keys of items that are parked now.
pub(crate) fn parked(cluster: &Cluster) -> BTreeSet<Vec<String>> {
    let key = |line: &ParkedLine| Some(oracle::texts(&[Value::Int(line.row_key.parse().ok()?)]));
    let parked = cluster.view(|view| postgres::parked(view.lines()));
    parked.iter().filter_map(key).collect()
}
