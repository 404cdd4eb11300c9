//! `bundle list`: the register, bundle by bundle.

use std::collections::BTreeMap;

use landfall_protocol::bundle::BundleId;
use landfall_protocol::id::SiteId;
use landfall_protocol::version::VersionVector;

use super::Shared;
use crate::admin::bundle::{BundleEntry, BundleList, BundleReceipt, Way};
use crate::store::{PartFate, PartRecord, StoreError};

/// The newest bundles.
pub(super) async fn list(shared: &Shared, limit: u32) -> Result<BundleList, StoreError> {
    let mut bundles: BTreeMap<(BundleId, bool), Vec<PartRecord>> = BTreeMap::new();
    for part in shared.parts.store.parts().await? {
        let is_read = part.fate != PartFate::Written;
        bundles.entry((part.bundle, is_read)).or_default().push(part);
    }
    let known = shared.known();
    let limit = limit as usize;
    let truncated = bundles.len() > limit;
    let newest = bundles.into_iter().rev().take(limit);
    let bundles =
        newest.map(|((bundle, _), parts)| entry(shared, &known, bundle, &parts)).collect();
    Ok(BundleList { bundles, truncated })
}

fn entry(
    shared: &Shared,
    known: &BTreeMap<SiteId, VersionVector>,
    bundle: BundleId,
    parts: &[PartRecord],
) -> BundleEntry {
    let (first, last) = (&parts[0], &parts[parts.len() - 1]);
    let is_done = |part: &&PartRecord| part.fate != PartFate::Waits;
    let numbers: Vec<u32> = parts.iter().map(|part| part.part).collect();
    let missing: Vec<u32> = (1..last.part).filter(|part| !numbers.contains(part)).collect();
    let waiting: Vec<u32> =
        parts.iter().filter(|part| !is_done(part)).map(|part| part.part).collect();
    let is_whole = last.is_last && missing.is_empty() && waiting.is_empty();
    let way = if first.fate == PartFate::Written { Way::Written } else { Way::Read };
    let latest = parts.iter().max_by_key(|part| part.at_ms).unwrap_or(last);
    let nothing = VersionVector::new();
    let receipt = |site: &SiteId| {
        let held = known.get(site).unwrap_or(&nothing);
        let held = parts.iter().filter(|part| held.contains(&part.reaches)).count();
        BundleReceipt {
            member: shared.parts.fleet.name_of(*site),
            parts: held as u32,
            is_whole: is_whole && held == parts.len(),
        }
    };
    let receipts = match way {
        Way::Written => first.recipients.iter().map(receipt).collect(),
        Way::Read => Vec::new(),
    };
    BundleEntry {
        bundle: bundle.to_string(),
        way,
        writer: shared.parts.fleet.name_of(first.writer.site),
        recipients: shared.names(first.recipients.iter().copied()),
        made_ms: first.made_ms,
        made_by: first.made_by.clone(),
        at_ms: latest.at_ms,
        done_by: latest.done_by.clone(),
        parts: parts.iter().filter(is_done).count() as u32,
        is_whole,
        waiting,
        missing,
        units: parts.iter().map(|part| part.units).sum(),
        bytes: parts.iter().map(|part| part.bytes).sum(),
        receipts,
    }
}
