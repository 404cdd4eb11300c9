//! Brings back what gave way: an ordinary change in an ordinary session, which is captured and
//! replicates like any other, and the mark on its line, in one transaction.

mod raw;
mod target;

use std::collections::BTreeMap;

use landfall_protocol::change::Actor;
use landfall_protocol::unique::is_suffixed;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use super::line::is_note;
use super::read::lock_together;
use super::{Entry, HistoryError, Undone, sql};
use crate::postgres::catalog::Catalog;
use target::{ShownCell, Target};

/// What is to be undone, and how.
#[derive(Clone, Debug)]
pub struct UndoRequest {
    /// The line.
    pub id: i64,
    /// Look only.
    pub dry_run: bool,
    /// Also if the row does not show the winner's value any more.
    pub force: bool,
    /// On whose behalf; travels with the change.
    pub actor: Option<Actor>,
}

/// What was written, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The lines that are undone by it.
    pub lines: Vec<i64>,
    /// What the cell showed before, if it was one cell.
    pub before: Option<Option<String>>,
    /// The cells written, by name. Columns that are not named take their default.
    pub cells: BTreeMap<String, Option<String>>,
}

/// What a conflict's row shows now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Now {
    /// The cell's value.
    Cell(Option<String>),
    /// The row is there; no single cell was at stake.
    Row,
    /// There is no such row.
    Gone,
    /// It cannot be looked at: table, column or key are not known any more.
    Unknown,
}

/// Why a conflict is not undone. Texts may hold values: they are for the operator who asked.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// The history cannot be used.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// No such line.
    #[error(
        "there is no conflict {0} in this site's history; conflicts list shows which there are"
    )]
    NoSuchLine(i64),
    /// It was undone before.
    #[error("conflict {id} was undone at {} by {}", .undone.at, .undone.by)]
    AlreadyUndone {
        /// The line.
        id: i64,
        /// By whom and when.
        undone: Undone,
    },
    /// A line of an older version says too little.
    #[error(
        "conflict {0} was recorded by an older version, which kept too little to undo it; write the value again with an ordinary UPDATE"
    )]
    TooOld(i64),
    /// Only writes that gave way to another value or to a delete can be brought back.
    #[error(
        "conflict {id} ({rule}) cannot be undone by itself, because what gave way is no value; {advice}"
    )]
    NoValue {
        /// The line.
        id: i64,
        /// Its rule.
        rule: String,
        /// What to do instead.
        advice: String,
    },
    /// What gave way is a row, and it is still kept.
    #[error(
        "row {row} of {table} is put aside, because {reason}; it comes back by itself when that row is changed, deleted or shown again, at any site"
    )]
    PutAside {
        /// The table.
        table: String,
        /// The row.
        row: String,
        /// What stands in its way.
        reason: String,
    },
    /// The table, the column or the key is not what it was.
    #[error(
        "{0} is not in this database as the conflict knew it; write the value with ordinary SQL"
    )]
    NotHere(String),
    /// The value is too long to be kept in the history.
    #[error(
        "the value that gave way is not kept, it was too long {0}; take it from the site that wrote it, or from a backup"
    )]
    NotKept(String),
    /// The row is not there any more.
    #[error("row {row} of {table} is gone; insert it again with ordinary SQL if it is wanted")]
    RowGone {
        /// The table.
        table: String,
        /// The row.
        row: String,
    },
    /// Nobody can tell whether the winner's value still shows.
    #[error(
        "what won conflict {0} is not kept, so nobody can tell whether it still shows; compare by hand (conflicts show {0}), then use --force"
    )]
    WinnerUnknown(i64),
    /// It was written again since.
    #[error(
        "column {column} of row {row} shows {} now, which is not what won; --force overwrites it", quoted(.shows)
    )]
    WrittenSince {
        /// The column.
        column: String,
        /// The row.
        row: String,
        /// What it shows.
        shows: Option<String>,
    },
    /// What gave way shows again already.
    #[error(
        "column {column} of row {row} shows what gave way already: somebody brought it back, here or at another site; --force writes it once more and marks the conflict as undone"
    )]
    ShowsAlready {
        /// The column.
        column: String,
        /// The row.
        row: String,
    },
    /// The deleted row was made again since.
    #[error("row {row} of {table} is there again; change it with ordinary SQL")]
    RowIsBack {
        /// The table.
        table: String,
        /// The row.
        row: String,
    },
    /// The history does not know the whole row.
    #[error(
        "this site's history does not know what the deleted row had in {}; undo the conflict at the site whose write gave way, which kept the whole row, or insert the row with ordinary SQL", .0.join(", ")
    )]
    NotEnough(Vec<String>),
    /// PostgreSQL does not take it.
    #[error("PostgreSQL refuses the change, nothing was written: {0}")]
    Refused(String),
}

/// A value as messages show it.
fn quoted(text: &Option<String>) -> String {
    text.as_ref().map_or("NULL".to_owned(), |text| format!("{text:?}"))
}

impl UndoError {
    /// What it means that a statement on the application's table failed.
    fn of(error: tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else {
            return HistoryError::Query { what: "undo the conflict", source: error }.into();
        };
        let detail = refusal.detail().map(|detail| format!("; {detail}")).unwrap_or_default();
        let advice = match refusal.code() {
            &SqlState::UNIQUE_VIOLATION | &SqlState::EXCLUSION_VIOLATION => {
                "; change or delete the row that has the value now, then undo this"
            }
            &SqlState::FOREIGN_KEY_VIOLATION => "; bring back the row that it references first",
            _ => "",
        };
        Self::Refused(sql::describe(&error) + &detail + advice)
    }
}

/// Undoes a conflict; nothing is written by a dry run, or when it fails.
///
/// # Errors
/// Why not, and what to do instead.
pub async fn undo(
    client: &mut Client,
    catalog: &Catalog,
    request: &UndoRequest,
) -> Result<Written, UndoError> {
    let transaction = client.transaction().await.map_err(UndoError::of)?;
    transaction.batch_execute("SET LOCAL lock_timeout = '5s'").await.map_err(UndoError::of)?;
    let lines = lock_together(&transaction, request.id).await?;
    let line = lines.iter().find(|line| line.id == request.id);
    let line = line.ok_or(UndoError::NoSuchLine(request.id))?;
    if let Some(undone) = line.undone.clone() {
        return Err(UndoError::AlreadyUndone { id: line.id, undone });
    }
    if line.key.is_empty() {
        return Err(UndoError::TooOld(line.id));
    }
    let target = Target::find(&transaction, catalog, line).await?;
    let written = match (line.winner.is.as_deref(), line.loser.is.as_deref(), &line.column) {
        (_, Some("long"), Some(column)) => return Err(UndoError::NotKept(format!("({column})"))),
        _ if PUTS_ASIDE.contains(&&*line.rule) => {
            return Err(not_from_aside(&transaction, &target, line).await?);
        }
        (Some("value" | "long" | "unknown"), Some("value"), Some(column))
            if WRITES_A_CELL.contains(&&*line.rule) =>
        {
            undo_cell(&transaction, &target, line, column, request).await?
        }
        (Some("delete"), Some("value"), _) => {
            undo_delete(&transaction, &target, &lines, request).await?
        }
        _ => return Err(no_value(line)),
    };
    if request.dry_run {
        transaction.rollback().await.map_err(UndoError::of)?;
        return Ok(written);
    }
    mark(&transaction, &written.lines, request.actor.as_ref()).await?;
    transaction.commit().await.map_err(UndoError::of)?;
    Ok(written)
}

/// Rules by which one cell shows another value than the one that gave way.
const WRITES_A_CELL: [&str; 5] =
    ["last_writer_wins", "unique_suffix", "unique_null", "fk_set_null", "fk_set_default"];
/// Rules by which a row is put aside.
const PUTS_ASIDE: [&str; 4] =
    ["unique_quarantine", "exclude_quarantine", "fk_quarantine", "quarantined"];

/// Why nothing is to be written for a row that was put aside: it is kept, and comes back.
async fn not_from_aside(
    transaction: &Transaction<'_>,
    target: &Target<'_>,
    line: &Entry,
) -> Result<UndoError, UndoError> {
    let (table, row) = (line.table.clone(), line.row_key.clone());
    if target.is_there(transaction).await? {
        return Ok(UndoError::RowIsBack { table, row });
    }
    Ok(match target.why_aside(transaction, &row).await? {
        Some(reason) => UndoError::PutAside { table, row, reason },
        None => UndoError::RowGone { table, row },
    })
}

fn no_value(line: &Entry) -> UndoError {
    let Entry { id, rule, table, row_key, .. } = line;
    let advice = match (line.loser.is.as_deref(), rule.as_str()) {
        (Some("delete"), "fk_restrict") => format!(
            "delete row {row_key} of {table} with ordinary SQL if that is wanted, after what references it"
        ),
        (Some("delete"), _) => {
            format!("delete row {row_key} of {table} with ordinary SQL if that is wanted")
        }
        _ => format!("change row {row_key} of {table} with ordinary SQL instead"),
    };
    UndoError::NoValue { id: *id, rule: rule.clone(), advice }
}

/// Whether a cell shows what it got when the other value gave way; `None` when nobody kept that.
fn still_shows(line: &Entry, shown: &ShownCell) -> Option<bool> {
    match line.rule.as_str() {
        "unique_suffix" => {
            let sides = shown.text.as_deref().zip(line.loser.value.as_deref());
            Some(sides.is_some_and(|(text, value)| is_suffixed(text, value)))
        }
        "unique_null" => Some(shown.text.is_none()),
        _ => (line.winner.is.as_deref() == Some("value")).then_some(shown.is_winner),
    }
}

/// What the row of a conflict shows now.
///
/// # Errors
/// The connection failed.
pub async fn now(client: &mut Client, catalog: &Catalog, line: &Entry) -> Result<Now, UndoError> {
    let transaction = client.transaction().await.map_err(UndoError::of)?;
    let target = match Target::find(&transaction, catalog, line).await {
        Ok(target) => target,
        Err(UndoError::History(error)) => return Err(error.into()),
        Err(_) => return Ok(Now::Unknown),
    };
    if !target.is_there(&transaction).await? {
        return Ok(Now::Gone);
    }
    match &line.column {
        None => Ok(Now::Row),
        Some(column) => match target.shows(&transaction, column, [None, None]).await {
            Ok(Some(shown)) => Ok(Now::Cell(shown.text)),
            Ok(None) => Ok(Now::Gone),
            Err(UndoError::History(error)) => Err(error.into()),
            Err(_) => Ok(Now::Unknown),
        },
    }
}

async fn undo_cell(
    transaction: &Transaction<'_>,
    target: &Target<'_>,
    line: &Entry,
    column: &str,
    request: &UndoRequest,
) -> Result<Written, UndoError> {
    let (table, row) = (line.table.clone(), line.row_key.clone());
    if !target.lock(transaction).await? {
        return Err(UndoError::RowGone { table, row });
    }
    let sides = [line.winner.value.as_deref(), line.loser.value.as_deref()];
    let Some(shown) = target.shows(transaction, column, sides).await? else {
        return Err(UndoError::RowGone { table, row });
    };
    let still_shows = still_shows(line, &shown);
    if !request.force && still_shows != Some(true) {
        let column = column.to_owned();
        return Err(match (shown.is_loser, still_shows) {
            (true, _) => UndoError::ShowsAlready { column, row },
            (false, Some(_)) => UndoError::WrittenSince { column, row, shows: shown.text },
            (false, None) => UndoError::WinnerUnknown(line.id),
        });
    }
    if !request.dry_run {
        target.update(transaction, column, line.loser.value.as_deref()).await?;
    }
    let cells = [(column.to_owned(), line.loser.value.clone())].into();
    Ok(Written { lines: vec![line.id], before: Some(shown.text), cells })
}

/// All lines of one row and one delete: the row is made again of what they know.
async fn undo_delete(
    transaction: &Transaction<'_>,
    target: &Target<'_>,
    lines: &[Entry],
    request: &UndoRequest,
) -> Result<Written, UndoError> {
    if target.is_there(transaction).await? {
        let (table, row) = (lines[0].table.clone(), lines[0].row_key.clone());
        return Err(UndoError::RowIsBack { table, row });
    }
    let cells = row_of(lines);
    let knows_all = lines.iter().any(|line| line.loser_row.is_some());
    let mut unknown: Vec<String> = cells
        .iter()
        .filter(|(_, text)| text.as_deref().is_some_and(is_note))
        .map(|(name, _)| name.clone())
        .collect();
    let long = lines.iter().filter(|line| line.loser.is.as_deref() != Some("value"));
    unknown.extend(long.filter_map(|line| line.column.clone()));
    if !knows_all {
        unknown.extend(target.columns().filter(|name| !cells.contains_key(*name)).map(Into::into));
    }
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        return Err(UndoError::NotEnough(unknown));
    }
    if !request.dry_run {
        target.insert(transaction, &cells).await?;
    }
    Ok(Written { lines: lines.iter().map(|line| line.id).collect(), before: None, cells })
}

/// The row before the delete, and over it what gave way, the newest last.
fn row_of(lines: &[Entry]) -> BTreeMap<String, Option<String>> {
    let mut cells: BTreeMap<_, _> =
        lines.iter().rev().find_map(|line| line.loser_row.clone()).unwrap_or_default();
    let mut losers: Vec<&Entry> = lines.iter().collect();
    let time = |line: &Entry| {
        let hlc = line.loser.hlc.as_deref().unwrap_or_default();
        let (ms, counter) = hlc.split_once('.').unwrap_or_default();
        (ms.parse::<u64>().unwrap_or(0), counter.parse::<u16>().unwrap_or(0), line.loser.site)
    };
    losers.sort_by_key(|line| time(line));
    for line in losers {
        if let Some(column) = &line.column {
            cells.insert(column.clone(), line.loser.value.clone());
        }
    }
    cells
}

async fn mark(
    transaction: &Transaction<'_>,
    lines: &[i64],
    actor: Option<&Actor>,
) -> Result<(), UndoError> {
    let actor = actor.map(Actor::as_str);
    let failed = HistoryError::of("mark the conflict as undone");
    let sql = "UPDATE landfall.conflict SET undone_at = clock_timestamp(), \
               undone_by = coalesce($2::text, session_user::text), undone_xid = pg_current_xact_id() \
               WHERE id = ANY($1)";
    transaction.execute(sql, &[&lines, &actor]).await.map_err(failed)?;
    if actor.is_some() {
        let named = transaction.execute("SELECT landfall.act_as($1)", &[&actor]).await;
        named.map_err(HistoryError::of("name the actor"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::history::EntrySide;

    fn line(id: i64, hlc: &str, column: &str, value: &str) -> Entry {
        let side = |is: &str, hlc: &str, value: Option<&str>| EntrySide {
            site: 1,
            name: "ship".to_owned(),
            origin: "1.0000000000000001".to_owned(),
            seq: 1,
            hlc: Some(hlc.to_owned()),
            at: String::new(),
            actor: None,
            is: Some(is.to_owned()),
            value: value.map(str::to_owned),
        };
        Entry {
            id,
            recorded_at: String::new(),
            table: "public.bed".to_owned(),
            row_key: "1".to_owned(),
            key: [("id".to_owned(), "1".to_owned())].into(),
            column: Some(column.to_owned()),
            rule: "delete_wins".to_owned(),
            winner: side("delete", "9.0", None),
            loser: side("value", hlc, Some(value)),
            loser_row: None,
            undone: None,
        }
    }

    #[test]
    fn of_a_deleted_row_the_newest_writes_come_back_over_what_it_showed() {
        let mut lines = [
            line(1, "10.0", "a", "old"),
            line(2, "9.7", "a", "older"),
            line(3, "10.1", "a", "new"),
        ];
        let shown = [("a", Some("shown")), ("b", None)];
        let shown = shown.map(|(name, text)| (name.to_owned(), text.map(str::to_owned)));
        lines[1].loser_row = Some(shown.into());
        let cells = row_of(&lines);
        assert_eq!(cells["a"].as_deref(), Some("new"));
        assert_eq!((cells["b"].as_deref(), cells.len()), (None, 2));
    }

    #[test]
    fn a_note_of_a_long_value_is_no_value() {
        assert!(is_note("(262145 bytes, not shown)"));
        for text in ["(3 bytes, not shown)", "(262145 bytes)", "", "( bytes, not shown)"] {
            assert!(!is_note(text), "{text}");
        }
    }
}
