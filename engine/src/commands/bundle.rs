//! `bundle write`, `bundle read` and `bundle list`: the files' end of bundles. The daemon has the store
//! and the key; the command has the operator's rights and sees the stick.

mod progress;
mod read;
mod write;

use std::env;
use std::path::Path;

use serde::Deserialize as _;

use super::Report;
use super::exit::{Exit, Failure};
use crate::admin::bundle::{BundleEntry, BundleList, Way};
use crate::admin::explain::Bytes;
use crate::admin::{Request, client};
use crate::config::{self, Program};
use crate::time::calendar::Utc;

pub use read::{Reading, read};
pub use write::{Writing, write};

/// What files of parts end with.
const EXTENSION: &str = "bundle";
/// What is behind that while a part is not whole.
const UNFINISHED: &str = "unfinished";

/// The longest file that fits on FAT32, which holds less than 4 GiB, with room to spare.
pub const PART_BYTES_DEFAULT: u64 = (2 << 30) - 1;

/// Shows the register.
///
/// # Errors
/// A file is wrong, or no daemon is running.
pub async fn list(file: &Path, program: Program, limit: u32) -> Result<Report, Failure> {
    let (config, _) = config::load(file, program)?;
    let json = client::ask(&config.admin_socket(), &Request::BundleList { limit }).await?;
    let list = BundleList::deserialize(&json).map_err(|error| {
        Failure::new(Exit::Internal, format!("read the daemon's answer: {error}"))
    })?;
    let mut text: String = list.bundles.iter().map(explained).collect();
    if list.bundles.is_empty() {
        text += "No bundle was written or read here.\n";
    }
    if list.truncated {
        text += "There are older ones; --limit shows more.\n";
    }
    Ok(Report::ok(text, json))
}

fn explained(entry: &BundleEntry) -> String {
    let BundleEntry { bundle, parts, units, .. } = entry;
    let recipients = entry.recipients.join(", ");
    let (made, at) = (Utc(entry.made_ms), Utc(entry.at_ms));
    let mut text = match entry.way {
        Way::Written => {
            let state = if entry.is_whole { "whole" } else { "not finished" };
            format!("{bundle}: written {at} by {} for {recipients}, {state}", entry.done_by)
        }
        Way::Read => {
            let by = if entry.done_by.is_empty() { "the daemon" } else { &entry.done_by };
            let (writer, made_by) = (&entry.writer, &entry.made_by);
            let state = if entry.is_whole { "whole" } else { "not whole" };
            format!(
                "{bundle}: read {at} by {by}, made {made} at {writer} by {made_by} for {recipients}, {state}"
            )
        }
    };
    text += &format!("; {parts} parts, {units} units, {}\n", Bytes(entry.bytes));
    let numbers = |parts: &[u32]| parts.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    if !entry.missing.is_empty() {
        text += &format!("  missing parts: {}\n", numbers(&entry.missing));
    }
    if !entry.waiting.is_empty() {
        text += &format!("  parts that wait for others: {}\n", numbers(&entry.waiting));
    }
    for receipt in &entry.receipts {
        let held = match (receipt.is_whole, receipt.parts) {
            (true, _) => "holds all of it".to_owned(),
            (false, 0) => "no receipt yet".to_owned(),
            (false, parts) => format!("holds {parts} parts of it"),
        };
        text += &format!("  {}: {held}\n", receipt.member);
    }
    text
}

/// Who runs the command: whoever became the daemon's user to do so, rather than that user.
fn user() -> String {
    let names = ["SUDO_USER", "LOGNAME", "USER"];
    let mut told = names.iter().filter_map(|name| env::var(name).ok());
    told.find(|name| !name.is_empty()).unwrap_or_default()
}

/// A size with a suffix, such as `4g`: k, m and g count in 1024s.
///
/// # Errors
/// It is something else.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number of bytes, or one with k, m or g behind it".to_owned();
    let lower = text.to_ascii_lowercase();
    let (digits, factor) = match lower.strip_suffix(['k', 'm', 'g']) {
        Some(digits) => {
            let shift = match lower.as_bytes().last() {
                Some(b'k') => 10,
                Some(b'm') => 20,
                _ => 30,
            };
            (digits, 1_u64 << shift)
        }
        None => (lower.as_str(), 1),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|size| *size > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(parse_size("4g"), Ok(4 << 30));
        assert_eq!(parse_size("20M"), Ok(20 << 20));
        assert_eq!(parse_size("65536"), Ok(65_536));
        for bad in ["", "g", "0", "-1", "4gb", "1.5g", "99999999999g"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
