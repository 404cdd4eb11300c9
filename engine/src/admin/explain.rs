//! A status in sentences.

use std::fmt;

use super::status::{
    Cost, DaemonState, HistoryStatus, MonthStatus, Part, PartState, PeerState, PeerStatus,
    SlotStatus, Status, StoreStatus,
};

/// Prints a status for people.
#[derive(Debug)]
pub struct Explained<'a>(pub &'a Status);

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.0;
        headline(status, f)?;
        for warning in &status.warnings {
            writeln!(f, "Warning: {warning}.")?;
        }
        store(&status.store, f)?;
        local(status, f)?;
        received(status, f)?;
        if status.peers.is_empty() {
            writeln!(f, "No other member was met, and none is to be dialled.")?;
        }
        for peer in &status.peers {
            link(peer, f)?;
        }
        for origin in &status.vector {
            writeln!(
                f,
                "Known of {} ({}): {} transactions received, {} applied.",
                origin.name, origin.incarnation, origin.received, origin.applied
            )?;
        }
        Ok(())
    }
}

fn headline(status: &Status, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let state = match status.state {
        DaemonState::Running => "is running",
        DaemonState::Fenced => "is fenced and writes nothing any more",
        DaemonState::Operator => "stands still until somebody acts",
    };
    let why = status.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    writeln!(f, "{} (site {}) {state}{why}.", status.name, status.site)?;
    let incarnation = status.incarnation.as_deref().unwrap_or("not drawn yet");
    writeln!(
        f,
        "Version {}, fleet file {}, incarnation {incarnation}.",
        status.version, status.fleet_version
    )
}

fn store(store: &StoreStatus, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let state = Part { state: store.state, cause: store.cause.clone() };
    write!(f, "The store {}; it takes {}", part(&state), Bytes(store.bytes))?;
    if let Some(max) = store.bytes_max {
        write!(f, " and may take {}", Bytes(max))?;
    }
    match store.disk_free_bytes {
        Some(free) => writeln!(f, "; {} are free on its disk.", Bytes(free)),
        None => writeln!(f, "."),
    }
}

fn slot(slot: &SlotStatus, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "PostgreSQL keeps {} of WAL for our slot", Bytes(slot.retained_bytes))?;
    match (slot.retained_bytes_max, slot.left_bytes) {
        (Some(max), Some(left)) => {
            writeln!(f, ", {} are allowed; {} more and the slot is lost.", Bytes(max), Bytes(left))
        }
        (Some(max), None) => writeln!(f, ", {} are allowed.", Bytes(max)),
        (None, _) => writeln!(f, "; there is no limit but its disk."),
    }
}

fn local(status: &Status, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (Some(capture), Some(apply)) = (&status.capture, &status.apply) else {
        return writeln!(f, "It has no PostgreSQL and only relays.");
    };
    writeln!(f, "Capture {}.", part(capture))?;
    if let Some(lsn) = status.fold_lsn {
        write!(f, "Changes are captured up to {lsn}")?;
        if let Some(wal) = status.wal_lsn {
            let behind = wal.get().saturating_sub(lsn.get());
            write!(f, ", {} behind PostgreSQL", Bytes(behind))?;
        }
        if let Some(lag) = status.slot_lag_bytes {
            write!(f, "; {} are not confirmed to the slot", Bytes(lag))?;
        }
        writeln!(f, ".")?;
    }
    if let Some(held) = &status.slot {
        slot(held, f)?;
    }
    writeln!(f, "{} transactions were written here.", status.own_seq)?;
    writeln!(f, "Apply {}.", part(apply))
}

fn part(part: &Part) -> String {
    let cause = part.cause.as_deref().unwrap_or("see the log");
    match part.state {
        PartState::Working => "works".to_owned(),
        PartState::Retrying => format!("is interrupted and tries again: {cause}"),
        PartState::Operator => format!("stands still until somebody acts: {cause}"),
    }
}

fn received(status: &Status, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let fates = &status.fates;
    writeln!(
        f,
        "{} changes came from others: {} applied, {} merged, {} superseded, {} parked, {} waiting.",
        fates.received, fates.applied, fates.merged, fates.superseded, fates.parked, fates.pending
    )?;
    if !fates.are_balanced() {
        writeln!(f, "These numbers do not add up, which is a bug: please report it.")?;
    }
    if status.held_units > 0 {
        let units = status.held_units;
        writeln!(f, "{units} units come from the future and are held: check the clocks.")?;
    }
    if status.rows_to_repair > 0 {
        writeln!(
            f,
            "{} rows were found different and wait to be put right.",
            status.rows_to_repair
        )?;
    }
    if status.repaired_rows > 0 {
        writeln!(f, "{} rows were found different and put right.", status.repaired_rows)?;
    }
    if let Some(HistoryStatus { removed, cause, .. }) = &status.history {
        if *removed > 0 {
            writeln!(f, "{removed} old lines of the history of conflicts were removed.")?;
        }
        if let Some(cause) = cause {
            writeln!(f, "Old lines of the history of conflicts are not removed: {cause}.")?;
        }
    }
    Ok(())
}

fn link(peer: &PeerStatus, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let name = &peer.name;
    let cause = peer.cause.as_deref().map(|cause| format!(": {cause}")).unwrap_or_default();
    let heard = match peer.last_contact_ms_ago {
        Some(ms) => format!("last heard from {} ago", Span(ms)),
        None => "never heard from".to_owned(),
    };
    let state = match peer.state {
        PeerState::Connected => "connected".to_owned(),
        PeerState::Waiting => format!("no link{cause}"),
        PeerState::Refused => format!("refused{cause}"),
    };
    write!(f, "{name}: {state}; {heard}")?;
    match (peer.state, peer.next_attempt_in_ms) {
        (PeerState::Connected, _) => {}
        (_, Some(ms)) => write!(f, "; next attempt in {}", Span(ms))?,
        (_, None) if peer.dialled => write!(f, "; trying now")?,
        (_, None) => write!(f, "; it has to call us")?,
    }
    writeln!(f, "; {} sent, {} received.", Bytes(peer.bytes_sent), Bytes(peer.bytes_received))?;
    let (changes, bytes) = (peer.unacknowledged_changes, Bytes(peer.unacknowledged_bytes));
    if changes > 0 {
        writeln!(f, "  {changes} of our own changes ({bytes}) are not acknowledged by it.")?;
    }
    if peer.lacks_changes > 0 || peer.offers_changes > 0 {
        let (lacks, offers) = (peer.lacks_changes, peer.offers_changes);
        writeln!(f, "  It lacks {lacks} changes that we have, and has {offers} that we lack.")?;
    }
    if let (1.., Some(ms)) = (peer.lacks_bytes, peer.drain_ms) {
        let bytes = Bytes(peer.lacks_bytes);
        writeln!(f, "  To send it what it lacks ({bytes}) takes about {}.", Span(ms))?;
    }
    month(&peer.month, f)
}

/// Said of links that somebody pays for.
fn month(month: &MonthStatus, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if month.budget_bytes.is_none() && month.cost.is_none() {
        return Ok(());
    }
    write!(f, "  This month {}", Bytes(month.bytes))?;
    if let Some(Cost { millionths, currency }) = &month.cost {
        let cents = millionths / 10_000;
        write!(f, " for {}.{:02} {currency}", cents / 100, cents % 100)?;
    }
    match month.budget_bytes {
        Some(budget) => {
            let left = Bytes(budget.saturating_sub(month.bytes));
            writeln!(f, "; {left} of {} are left.", Bytes(budget))
        }
        None => writeln!(f, "."),
    }
}

/// A size, in the unit people would use.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        match steps.into_iter().find(|(step, _)| self.0 >= *step) {
            Some((step, unit)) => {
                write!(f, "{}.{} {unit}", self.0 / step, self.0 % step * 10 / step)
            }
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Milliseconds, in the unit people would use.
pub(crate) struct Span(pub(crate) u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms @ ..1_000 => write!(f, "{ms} ms"),
            ms @ ..120_000 => write!(f, "{} s", ms / 1_000),
            ms @ ..7_200_000 => write!(f, "{} min", ms / 60_000),
            ms @ ..172_800_000 => write!(f, "{} h", ms / 3_600_000),
            ms => write!(f, "{} days", ms / 86_400_000),
        }
    }
}
