//! Answers about what is parked.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use landfall_protocol::fold::Parked;
use landfall_protocol::schema::TableName;

use crate::admin::parked::{ParkedEntry, ParkedList, ParkedStatus, RetryAnswer};
use crate::daemon::report::Reporter;
use crate::replica::key_text;
use crate::store::{ParkedPlace, StoreError};
use crate::time;

/// Entries read at a time.
const PAGE: usize = 1_000;
/// Most entries in one answer.
const ANSWER_ENTRIES_MAX: usize = 10_000;
/// `wait` asks ten times a second; the list may be long.
const COUNTED_FOR: Duration = Duration::from_secs(1);

/// What was counted last, and of how many.
#[derive(Debug)]
pub(super) struct Counted {
    at: Instant,
    status: ParkedStatus,
}

impl Reporter {
    /// Visits all that is parked until told to stop; says whether it was.
    async fn each_parked(&self, mut visit: impl FnMut(Parked) -> bool) -> Result<bool, StoreError> {
        let mut from = Some(ParkedPlace::default());
        while let Some(place) = from {
            let page = self.store.parked(place, PAGE).await?;
            for entry in page.entries {
                if !visit(entry) {
                    return Ok(true);
                }
            }
            from = page.next;
        }
        Ok(false)
    }

    /// How much is parked, of which the fates count `changes`.
    pub(super) async fn parked_status(&self, changes: u64) -> Result<ParkedStatus, StoreError> {
        if changes == 0 {
            return Ok(ParkedStatus::default());
        }
        let now = time::monotonic();
        let known = self.counted().take();
        if let Some(counted) = known
            && counted.status.changes == changes
            && now.duration_since(counted.at) < COUNTED_FOR
        {
            let status = counted.status.clone();
            *self.counted() = Some(counted);
            return Ok(status);
        }
        let (mut status, mut rows) =
            (ParkedStatus { changes, ..Default::default() }, BTreeSet::new());
        let mut oldest = u64::MAX;
        self.each_parked(|entry| {
            oldest = oldest.min(entry.since_ms);
            *status.reasons.entry(entry.obstacle.name().to_owned()).or_default() += 1;
            rows.extend(entry.row);
            true
        })
        .await?;
        status.rows = rows.len() as u64;
        status.oldest_ms_ago = Some(time::wall_ms().saturating_sub(oldest.min(time::wall_ms())));
        *self.counted() = Some(Counted { at: now, status: status.clone() });
        Ok(status)
    }

    /// What is parked, of one table or of all.
    pub(in crate::daemon) async fn parked_list(
        &self,
        table: Option<String>,
    ) -> Result<serde_json::Value, String> {
        let mut entries = Vec::new();
        let now = time::wall_ms();
        let listed = self.each_parked(|entry| {
            let Parked { id, table: named, row, obstacle, columns, since_ms } = entry;
            let named = named.map(|table| table.to_string());
            if table.is_some() && table != named {
                return true;
            }
            if entries.len() == ANSWER_ENTRIES_MAX {
                return false;
            }
            entries.push(ParkedEntry {
                name: self.fleet.name_of(id.txn.origin.site),
                origin: id.txn.origin.to_string(),
                seq: id.txn.seq.0,
                place: id.index,
                table: named,
                row_key: row.as_ref().map(key_text),
                obstacle: obstacle.name().to_owned(),
                columns,
                parked_ms_ago: now.saturating_sub(since_ms),
            });
            true
        });
        let mut truncated = listed.await.map_err(|error| error.to_string())?;
        let mut aside = self.aside_list(table.as_deref(), ANSWER_ENTRIES_MAX + 1).await?;
        truncated |= aside.len() > ANSWER_ENTRIES_MAX;
        aside.truncate(ANSWER_ENTRIES_MAX);
        let list = ParkedList { entries, aside, truncated };
        serde_json::to_value(list).map_err(|error| error.to_string())
    }

    /// Has what is parked tried again, of one table or of all.
    pub(in crate::daemon) async fn retry_parked(
        &self,
        table: Option<String>,
    ) -> Result<serde_json::Value, String> {
        let Some(parts) = &self.parts else {
            return Err("this member has no database, and nothing is parked here".to_owned());
        };
        let (mut changes, mut found): (u64, Option<TableName>) = (0, None);
        let counted = self.each_parked(|entry| {
            let named = entry.table.as_ref().map(TableName::to_string);
            if table.is_none() || table == named {
                changes += 1;
                found = entry.table;
            }
            true
        });
        counted.await.map_err(|error| error.to_string())?;
        match (&table, found) {
            (Some(table), None) => return Err(format!("nothing of table {table} is parked")),
            (Some(_), found) => parts.retry.ask(found),
            (None, _) => parts.retry.ask(None),
        }
        serde_json::to_value(RetryAnswer { changes }).map_err(|error| error.to_string())
    }
}
