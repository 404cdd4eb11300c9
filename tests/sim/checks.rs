//! What must always be true, and what must be true in the end.

use std::collections::BTreeMap;
use std::rc::Rc;

use landfall_engine::store::{Log, Store};
use landfall_protocol::change::Transaction;
use landfall_protocol::id::{Origin, Seq, TxnId};

use super::site::Site;
use super::world::World;

/// Looks at every state that a store tells.
pub(crate) async fn watch(world: Rc<World>, site: Rc<Site>, store: Store) {
    let mut news = store.watch();
    drop(store);
    loop {
        let log = news.borrow_and_update().clone();
        if let Err(broken) = follows(&site.told.borrow(), &log) {
            return world.fail(format!("{}: {broken}", site.id));
        }
        *site.told.borrow_mut() = log;
        if news.changed().await.is_err() {
            return;
        }
    }
}

/// Whether a store may tell `now` after it told `before`.
pub(crate) fn follows(before: &Log, now: &Log) -> Result<(), String> {
    let vectors =
        [("received", &before.received, &now.received), ("applied", &before.applied, &now.applied)];
    for (what, before, now) in vectors {
        if !now.contains(before) {
            return Err(format!("what is {what} went back from {before:?} to {now:?}"));
        }
    }
    if now.fold_lsn < before.fold_lsn || now.own < before.own {
        return Err(format!("the fold went back: {before:?} to {now:?}"));
    }
    let fates = now.fates.total();
    if fates > now.received_changes {
        return Err(format!("{fates} fates of {} received changes", now.received_changes));
    }
    Ok(())
}

/// All that a store holds, by origin.
pub(crate) async fn contents(store: &Store) -> Result<BTreeMap<Origin, Vec<Transaction>>, String> {
    let received = store.watch().borrow().received.clone();
    let mut found = BTreeMap::new();
    for (origin, last) in received.iter() {
        let mut transactions = Vec::new();
        let mut after = Seq::ZERO;
        while after < last {
            let units = store.units_after(origin, after, 1 << 20).await;
            let units = units.map_err(|error| format!("read {origin}: {error}"))?;
            for unit in units {
                transactions.extend(unit.transactions().map_err(|error| error.to_string())?);
                after = unit.header().last;
            }
        }
        for (place, transaction) in transactions.iter().enumerate() {
            if transaction.seq.0 != place as u64 + 1 {
                let txn = TxnId { origin, seq: transaction.seq };
                return Err(format!("{txn} stands at place {}", place + 1));
            }
        }
        found.insert(origin, transactions);
    }
    Ok(found)
}
