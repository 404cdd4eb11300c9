//! What applications do.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use landfall_engine::store::{Store, StoreError};
use landfall_protocol::change::Fragment;
use landfall_protocol::fold::{CapturedTransaction, Row, RowEvent};
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableName};
use landfall_protocol::value::Value;
use tokio::sync::watch;

use super::site::Site;
use super::world::World;

/// A log of committed transactions in place of a database.
pub(crate) struct Wal {
    pub(crate) records: RefCell<Vec<CapturedTransaction>>,
    length: watch::Sender<u64>,
    table: Arc<TableDef>,
}

impl Wal {
    pub(crate) fn new(table: &Arc<TableDef>) -> Self {
        let (length, _) = watch::channel(0);
        Self { records: RefCell::default(), length, table: Arc::clone(table) }
    }
}

/// The table of all workloads.
pub(crate) fn table() -> TableDef {
    let column =
        |name: &str, type_name: &str| ColumnDef { name: name.into(), type_name: type_name.into() };
    TableDef {
        name: TableName::new("public", "note"),
        set: SetId(1),
        columns: vec![column("id", "bigint"), column("a", "text"), column("b", "bigint")],
        key: vec![ColumnId(0)],
    }
}

/// Commits the site's transactions one after the other.
pub(crate) async fn client(world: Rc<World>, site: Rc<Site>) {
    let mut dice = world.split();
    let Some(wal) = &site.wal else { return };
    for number in 0..world.options.transactions {
        let pause = world.options.phase_ms / world.options.transactions.max(1);
        tokio::time::sleep(Duration::from_millis(dice.below(2 * pause + 1))).await;
        let rows = 1 + dice.below(3);
        let rows = (0..rows).map(|row| {
            let id = i64::from(site.id.number()) * 1_000_000 + (number * 10 + row) as i64;
            let text = format!("{} {number}", site.id);
            RowEvent {
                relation: Arc::clone(&wal.table),
                old: None,
                new: Some(Row::whole([
                    Value::Int(id),
                    Value::Text(text.into()),
                    Value::Int(dice.below(100) as i64),
                ])),
            }
        });
        let rows = rows.collect();
        let commit_ms = site.clock.now_ms();
        let fragment = Fragment::Whole;
        let captured = CapturedTransaction { commit_ms, rows, marker: None, fragment, piece: None };
        wal.records.borrow_mut().push(captured);
        wal.length.send_modify(|length| *length += 1);
        world.trace(|| format!("{} commits {number}", site.id));
    }
    world.client_done();
}

/// Folds the log into the store, from where the store is.
pub(crate) async fn capture(site: Rc<Site>, store: Store) {
    let Some(wal) = &site.wal else { return };
    let mut length = wal.length.subscribe();
    loop {
        let Ok((position, _)) = store.position().await else { return };
        match capture_from(wal, &store, &mut length, position).await {
            Err(StoreError::Full) => tokio::time::sleep(Duration::from_millis(500)).await,
            Err(StoreError::FoldStopped) => {}
            _ => return,
        }
    }
}

async fn capture_from(
    wal: &Wal,
    store: &Store,
    length: &mut watch::Receiver<u64>,
    mut position: u64,
) -> Result<(), StoreError> {
    loop {
        let end = *length.borrow_and_update();
        if position < end {
            let batch = wal.records.borrow()[position as usize..end as usize].to_vec();
            let folded = store.fold(batch, end, Vec::new()).await?;
            position = folded.fold_lsn;
        } else if length.changed().await.is_err() {
            return Ok(());
        }
    }
}
