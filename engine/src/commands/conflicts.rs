//! The history of conflicts on the command line. It prints values of rows, which are the
//! operator's; nothing of it is logged.

use std::fmt::Write as _;
use std::path::Path;

use landfall_protocol::fleet::Fleet;
use landfall_protocol::id::SiteId;
use serde_json::json;
use tokio_postgres::error::SqlState;

use super::{Report, Session, open, settings};
use crate::commands::exit::{Exit, Failure};
use crate::config::{self, Program};
use crate::postgres::catalog;
use crate::postgres::history::{
    self, Entry, EntrySide, Filter, HistoryError, Now, UndoError, UndoRequest, Written,
};

/// Longest value that a list shows, in characters.
const LISTED_CHARS_MAX: usize = 60;

/// Which lines somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Of this table.
    pub table: Option<String>,
    /// Since this time.
    pub since: Option<String>,
    /// With this site, by name or number.
    pub site: Option<String>,
    /// How many.
    pub limit: u32,
    /// Undone or not.
    pub undone: Option<bool>,
}

/// The newest conflicts.
///
/// # Errors
/// A file is wrong, the database cannot be reached, or nobody knows such a site or time.
pub async fn list(file: &Path, program: Program, asked: Asked) -> Result<Report, Failure> {
    let (session, fleet) = enter(file, program).await?;
    let site = asked.site.as_deref().map(|name| site_of(&fleet, name)).transpose()?;
    let Asked { table, since, limit, undone, .. } = asked;
    // A time without a zone is UTC, as everything that is printed.
    let utc = session.client.batch_execute("SET TimeZone = 'UTC'").await;
    utc.map_err(HistoryError::of("set the time zone"))?;
    let filter = Filter { table, since, site: site.map(SiteId::number), undone, limit };
    let found = history::list(&session.client, &filter).await;
    let entries = found.map_err(|error| since_is_wrong(&filter, error))?;
    let mut text = String::new();
    for entry in &entries {
        text += &listed(entry);
    }
    match (entries.len(), limit as usize) {
        (0, _) => text += "no conflicts\n",
        (count, limit) if count == limit => {
            text += &format!("the newest {limit}; there may be more (--limit)\n");
        }
        _ => {}
    }
    Ok(Report::ok(text, json!({ "conflicts": entries })))
}

/// All of one conflict.
///
/// # Errors
/// As [`list`], or there is no such conflict.
pub async fn show(file: &Path, program: Program, id: i64) -> Result<Report, Failure> {
    let (mut session, fleet) = enter(file, program).await?;
    let found = history::find(&session.client, id).await?;
    let entry = found.ok_or(UndoError::NoSuchLine(id))?;
    let catalog = catalog::read(&mut session.client, &fleet).await?;
    let now = history::now(&mut session.client, &catalog, &entry).await?;
    let (word, value) = match &now {
        Now::Cell(value) => ("value", value.as_deref()),
        Now::Row => ("row", None),
        Now::Gone => ("gone", None),
        Now::Unknown => ("unknown", None),
    };
    let json = json!({ "conflict": entry, "now": { "is": word, "value": value } });
    Ok(Report::ok(shown(&entry, &now), json))
}

/// Brings back what gave way.
///
/// # Errors
/// As [`show`], or why it is not undone.
pub async fn undo(file: &Path, program: Program, request: UndoRequest) -> Result<Report, Failure> {
    let (mut session, fleet) = enter(file, program).await?;
    let catalog = catalog::read(&mut session.client, &fleet).await?;
    let written = history::undo(&mut session.client, &catalog, &request).await?;
    let Written { lines, before, cells } = &written;
    let mut text = String::new();
    for (name, value) in cells {
        let value = quoted(value.as_deref());
        text += &match before {
            Some(before) => format!("{name}: {} -> {value}\n", quoted(before.as_deref())),
            None => format!("{name}: {value}\n"),
        };
    }
    let numbers: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let (which, is) = match &numbers[..] {
        [one] => (format!("conflict {one}"), "is"),
        all => (format!("conflicts {}", all.join(", ")), "are"),
    };
    text += &match request.dry_run {
        true => format!("nothing was written; {which} can be undone like this\n"),
        false => format!("{which} {is} undone; the change replicates like any other\n"),
    };
    let json = json!({
        "dry_run": request.dry_run,
        "conflicts": lines,
        "before": before,
        "written": cells,
    });
    Ok(Report::ok(text, json))
}

async fn enter(file: &Path, program: Program) -> Result<(Session, Fleet), Failure> {
    let (config, fleet) = config::load(file, program)?;
    let Some(postgres) = &config.postgres else {
        let message = format!("{} has no [postgres] section, so it has no conflicts", config.name);
        return Err(Failure::new(Exit::Usage, message));
    };
    let session = open(&settings(&config, postgres)?, "landfall conflicts").await?;
    Ok((session, fleet))
}

fn site_of(fleet: &Fleet, name: &str) -> Result<SiteId, Failure> {
    let number = || name.parse().ok().and_then(SiteId::new);
    // A former member may still be in the history, under its number.
    let site = fleet.member_named(name).map(|member| member.site).or_else(number);
    let unknown = || {
        let message = format!("--site: {name:?} is neither a member's name nor a number");
        Failure::new(Exit::Usage, message)
    };
    site.ok_or_else(unknown)
}

fn since_is_wrong(filter: &Filter, error: HistoryError) -> Failure {
    const NO_TIME: [SqlState; 3] = [
        SqlState::INVALID_DATETIME_FORMAT,
        SqlState::DATETIME_FIELD_OVERFLOW,
        SqlState::INVALID_TIME_ZONE_DISPLACEMENT_VALUE,
    ];
    if let (Some(since), HistoryError::Query { source, .. }) = (&filter.since, &error)
        && source.code().is_some_and(|code| NO_TIME.contains(code))
    {
        let example = "write it like \"2026-05-01\" or \"2026-05-01 14:30+02\"";
        return Failure::new(Exit::Usage, format!("--since: {since:?} is no time; {example}"));
    }
    error.into()
}

/// A conflict in three lines.
fn listed(entry: &Entry) -> String {
    let state = match &entry.undone {
        Some(undone) => format!("undone {} by {}", undone.at, undone.by),
        None => "open".to_owned(),
    };
    let mut text = format!("{}  {}  {}, {state}\n", entry.id, entry.recorded_at, what(entry));
    for (word, side) in [("stays", &entry.winner), ("lost ", &entry.loser)] {
        let wrote = cut(wrote(side));
        text += &format!("    {word}  {wrote}  {}  {}\n", who(side), side.at);
    }
    text
}

fn shown(entry: &Entry, now: &Now) -> String {
    let mut text = format!("conflict {}: {}\n", entry.id, what(entry));
    let mut put = |name: &str, value: &str| {
        writeln!(text, "  {name:<12} {value}").expect("a String takes all");
    };
    put("recorded", &entry.recorded_at);
    for (role, side) in [("winner", &entry.winner), ("loser", &entry.loser)] {
        put(role, &wrote(side));
        put("", &who(side));
        let hlc = side.hlc.as_deref().unwrap_or("unknown");
        put("", &format!("at {} (clock {hlc})", side.at));
        put("", &format!("transaction {} of {}", side.seq, side.origin));
    }
    for (name, value) in entry.loser_row.iter().flatten() {
        put("row had", &format!("{name}: {}", quoted(value.as_deref())));
    }
    match &entry.undone {
        Some(undone) => {
            put("undone", &format!("{} by {}, transaction {}", undone.at, undone.by, undone.xid));
        }
        None => put("undone", "no"),
    }
    match now {
        Now::Cell(value) => put("shows now", &quoted(value.as_deref())),
        Now::Row => put("shows now", "the row is there"),
        Now::Gone => put("shows now", "the row is gone"),
        Now::Unknown => put("shows now", "unknown, the table is not as it was"),
    }
    text
}

fn what(entry: &Entry) -> String {
    let column = entry.column.as_ref().map(|name| format!(", column {name}")).unwrap_or_default();
    format!("{} row {}{column}: {}", entry.table, entry.row_key, entry.rule)
}

fn who(side: &EntrySide) -> String {
    let actor = side.actor.as_ref().map(|actor| format!("{actor} at ")).unwrap_or_default();
    format!("{actor}{} (site {})", side.name, side.site)
}

fn wrote(side: &EntrySide) -> String {
    match side.is.as_deref() {
        Some("value") => quoted(side.value.as_deref()),
        Some("long") => side.value.clone().unwrap_or_default(),
        Some("insert") => "inserted the row".to_owned(),
        Some("delete") => "deleted the row".to_owned(),
        // A line of an older version has the loser's value only.
        None if side.value.is_some() => quoted(side.value.as_deref()),
        _ => "(not known)".to_owned(),
    }
}

fn quoted(text: Option<&str>) -> String {
    text.map_or("NULL".to_owned(), |text| format!("{text:?}"))
}

fn cut(text: String) -> String {
    match text.char_indices().nth(LISTED_CHARS_MAX) {
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_the_beginning_of_a_long_value() {
        assert_eq!(cut("short".to_owned()), "short");
        let long = "ä".repeat(LISTED_CHARS_MAX + 1);
        assert_eq!(cut(long), format!("{}… (61 characters)", "ä".repeat(LISTED_CHARS_MAX)));
    }
}
