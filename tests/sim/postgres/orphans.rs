//! Transactions whose client is gone.

use super::heap::TxnNo;
use super::instance::{Instance, Stage};
use super::session::SyncCommit;

/// What the background does with a transaction whose client is gone.
pub(super) fn finish_orphan(server: &mut Instance, txn: TxnNo, clock: i64) -> OrphanStep {
    let Some(orphan) = server.txns.get(&txn) else { return OrphanStep::Over };
    let sync = orphan.sync;
    match orphan.stage {
        Stage::Open if orphan.commit_sent && !orphan.failed && server.dice.below(2) == 0 => {
            match server.log_commit(txn, clock) {
                Some(_) => OrphanStep::Again,
                None => {
                    server.abort(txn);
                    OrphanStep::Over
                }
            }
        }
        Stage::Open => {
            server.abort(txn);
            OrphanStep::Over
        }
        Stage::Logged(end) => {
            if sync != SyncCommit::Off {
                server.flush(end);
            }
            if !server.is_released(sync, end) {
                return OrphanStep::WaitsForStandby;
            }
            server.make_visible(txn).notify_waiters();
            OrphanStep::Over
        }
    }
}

/// How far an orphan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrphanStep {
    Over,
    Again,
    WaitsForStandby,
}
