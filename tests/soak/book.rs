//! What the applications were told, and what must be so because of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use landfall_tests::fleet::Fleet;

use crate::SITES;
use crate::mishap::Mishaps;
use crate::workload::BALANCE;

/// Counts and acknowledgements of the whole run.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    /// Transactions acknowledged, by kind.
    commits: BTreeMap<&'static str, u64>,
    /// Transactions that ended with an error: the server was gone, or another writer in the way.
    failures: u64,
    /// Ids of entries whose insertion was acknowledged.
    entries: BTreeSet<String>,
    snapshots: u64,
    /// Snapshots that showed half a transaction.
    torn: Vec<String>,
    /// How long all sites took to show the same, each time it was demanded.
    calms: Vec<Duration>,
    rows: usize,
}

impl Book {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction of this kind was acknowledged; it inserted these entries.
    pub(crate) fn acknowledge(&self, kind: &'static str, entries: Vec<String>) {
        let mut notes = self.notes();
        *notes.commits.entry(kind).or_default() += 1;
        notes.entries.extend(entries);
    }

    /// A transaction ended with an error, and nobody knows more.
    pub(crate) fn fail(&self) {
        self.notes().failures += 1;
    }

    /// Looks at one snapshot: the pairs of entries that are not whole, and the sites whose
    /// accounts do not add up.
    pub(crate) fn look(&self, site: &str, torn: &[String]) {
        let mut notes = self.notes();
        notes.snapshots += 1;
        notes.torn.extend(torn.iter().map(|what| format!("{site} showed {what}")));
    }

    /// All sites showed the same.
    pub(crate) fn note_calm(&self, took: Duration, rows: usize) {
        let mut notes = self.notes();
        notes.calms.push(took);
        notes.rows = rows;
    }

    /// What must be so whenever everybody knows the same.
    pub(crate) fn check(&self, fleet: &Fleet) -> anyhow::Result<()> {
        let notes = self.notes();
        ensure!(notes.torn.is_empty(), "half a transaction: {}", notes.torn.join("; "));
        for site in SITES {
            let found = fleet.rows(site, "SELECT id FROM entry");
            let found: BTreeSet<String> = found.into_iter().flatten().flatten().collect();
            let lost: Vec<&String> = notes.entries.difference(&found).take(10).collect();
            ensure!(lost.is_empty(), "{site} lacks acknowledged entries, {lost:?} among them");
            let sums = "SELECT site FROM account GROUP BY site HAVING sum(balance) <> ";
            let wrong = fleet.rows(site, &format!("{sums}{BALANCE}"));
            ensure!(wrong.is_empty(), "accounts do not add up at {site}: {wrong:?}");
        }
        Ok(())
    }

    /// What there is to tell at the end.
    pub(crate) fn report(&self, took: Duration, mishaps: &Mishaps) -> String {
        let notes = self.notes();
        let mut out = format!("\n{:.1} minutes\n", took.as_secs_f64() / 60.0);
        let mut line = |what: &str, number: String| {
            writeln!(out, "  {what:<48} {number:>10}").expect("a String takes all");
        };
        for (kind, count) in &notes.commits {
            line(&format!("transactions: {kind}"), count.to_string());
        }
        line("transactions that met an error", notes.failures.to_string());
        for (kind, count) in mishaps.counts() {
            line(&format!("mishaps: {kind}"), count.to_string());
        }
        line("snapshots looked at", notes.snapshots.to_string());
        line("snapshots with half a transaction", notes.torn.len().to_string());
        line("comparisons of all sites without a difference", notes.calms.len().to_string());
        line("rows per site at the end", notes.rows.to_string());
        line("acknowledged entries, present at all sites", notes.entries.len().to_string());
        let worst = notes.calms.iter().max().copied().unwrap_or_default();
        line("worst time to converge", format!("{worst:.1?}"));
        out
    }
}
