//! Rows that one site's constraint keeps out, and what lets them in again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::schema::ColumnId;
use landfall_protocol::value::{RowKey, Value};

use super::oracle;
use super::postgres::{Cluster, Line, PgError, Settings, TableSpec};
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

/// Takes the constraint away for good, and changes each row that it kept out, which must let the row
/// in. What the site does not show must be told of in `landfall.parked`.
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
        if !there.contains_key(&id) {
            return Err(format!("item {id} is shown by site {number} alone"));
        }
        // What is not there at all comes with any change.
        let columns: &[usize] = if here.contains_key(&id) { &[1, 2, 3] } else { &[1] };
        while change(other, id, columns).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
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

/// Keys of parked items.
pub(crate) fn parked(cluster: &Cluster) -> BTreeSet<Vec<String>> {
    let key = |line: &Line| match line {
        Line::Parked(line) => Some(oracle::texts(&[Value::Int(line.row_key.parse().ok()?)])),
        Line::Conflict(_) => None,
    };
    cluster.view(|view| view.lines().iter().filter_map(key).collect())
}

/// Gives these columns of an item other values.
async fn change(cluster: &Cluster, id: i64, columns: &[usize]) -> Result<(), PgError> {
    let Some(item) = cluster.view(|view| view.tables().nth(ITEM).map(|(number, _)| number)) else {
        return Ok(());
    };
    let mut session = cluster.connect(Settings::APPLICATION).await?;
    session.begin().await?;
    let other = |value: &Value| match value {
        Value::Int(number) => Value::Int(number + 1),
        Value::Text(text) => Value::Text(format!("{text}, freed").into()),
        _ => Value::Text("freed".into()),
    };
    let freed = |_: usize, old: &[Value]| {
        let mut row = old.to_vec();
        columns.iter().for_each(|column| row[*column] = other(&old[*column]));
        Some(row)
    };
    session.update(item, &[RowKey::new(&[Value::Int(id)])], freed).await?;
    session.commit().await?;
    Ok(())
}
