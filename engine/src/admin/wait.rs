//! Waiting until the fleet has got somewhere, for scripts.

use std::path::Path;
use std::time::Duration;

use super::AdminError;
use super::client;
use super::status::{DaemonState, PeerState, PeerStatus, Status};
use crate::postgres::lsn::Lsn;

/// How often the daemon is asked. It answers from memory.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Everything committed here before the command began is durable at every peer that we dial or
    /// have a link to.
    Delivered,
    /// Delivered, nothing waits to be applied, and every peer with a link knows what we know.
    Converged,
}

/// Why the goal is not reached.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The daemon cannot be asked.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Not in time.
    #[error("not reached within {seconds} s: {reason}")]
    TimedOut {
        /// How long we waited.
        seconds: u64,
        /// What was missing at the end.
        reason: String,
    },
    /// Not ever, without help.
    #[error("daemon stands still until somebody acts: {0}")]
    Stopped(String),
}

/// Asks the daemon again and again until the goal is reached. One that does not run may be about to
/// start.
///
/// # Errors
/// Time is up, and it may be that nobody answered; or the daemon stands still.
pub async fn wait(socket: &Path, goal: Goal, limit: Duration) -> Result<(), WaitError> {
    let mut last = Ok("the daemon was not asked yet".to_owned());
    match tokio::time::timeout(limit, reach(socket, goal, &mut last)).await {
        Ok(reached) => reached,
        Err(_elapsed) => Err(WaitError::TimedOut { seconds: limit.as_secs(), reason: last? }),
    }
}

/// `last` is what was missing, or that nobody answered, when the daemon was asked last.
async fn reach(
    socket: &Path,
    goal: Goal,
    last: &mut Result<String, AdminError>,
) -> Result<(), WaitError> {
    // Positions move on under load; only what was committed before we came is waited for.
    let mut committed = None;
    let mut ask = tokio::time::interval(ASK_EVERY);
    loop {
        ask.tick().await;
        let status = match client::status(socket).await {
            Ok(status) => status,
            Err(AdminError::NotRunning(path)) => {
                *last = Err(AdminError::NotRunning(path));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if status.state != DaemonState::Running {
            let why = status.why.unwrap_or_else(|| "see its log".to_owned());
            return Err(WaitError::Stopped(why));
        }
        let committed = *committed.get_or_insert(status.wal_lsn);
        match missing(&status, goal, committed) {
            None => return Ok(()),
            Some(missing) => *last = Ok(missing),
        }
    }
}

/// What is missing to the goal, as a clause; `None` once it is reached. `committed` is the position
/// of PostgreSQL up to which changes count.
pub fn missing(status: &Status, goal: Goal, committed: Option<Lsn>) -> Option<String> {
    let captured = status.fold_lsn.unwrap_or(Lsn::ZERO);
    if let Some(committed) = committed.filter(|committed| captured < *committed) {
        let cause = status.capture.as_ref().and_then(|capture| capture.cause.as_deref());
        let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
        return Some(format!(
            "changes are captured up to {captured}, not yet to {committed}{cause}"
        ));
    }
    let counts = |peer: &&PeerStatus| peer.dialled || peer.state == PeerState::Connected;
    let behind = |peer: &&PeerStatus| peer.unacknowledged_changes > 0;
    if let Some(peer) = status.peers.iter().filter(counts).find(behind) {
        let (name, changes) = (&peer.name, peer.unacknowledged_changes);
        let cause = peer.cause.as_deref().map(|cause| format!(" ({cause})")).unwrap_or_default();
        return Some(format!("{name} has not acknowledged {changes} changes{cause}"));
    }
    if goal == Goal::Delivered {
        return None;
    }
    if status.inbox_pending_changes > 0 {
        return Some(format!("{} changes wait to be applied", status.inbox_pending_changes));
    }
    if status.rows_to_repair > 0 {
        return Some(format!("{} rows wait to be put right", status.rows_to_repair));
    }
    let mut connected = status.peers.iter().filter(|peer| peer.state == PeerState::Connected);
    if connected.clone().next().is_none() && status.peers.iter().any(|peer| peer.dialled) {
        return Some("there is no link to anybody".to_owned());
    }
    let differs = |peer: &&PeerStatus| peer.lacks_changes > 0 || peer.offers_changes > 0;
    connected.find(differs).map(|peer| {
        let (name, lacks, offers) = (&peer.name, peer.lacks_changes, peer.offers_changes);
        format!("{name} lacks {lacks} changes of ours and has {offers} that we lack")
    })
}
