//! A line as the apply transaction writes it.

use landfall_protocol::clock::Stamp;
use landfall_protocol::limits::inline_bytes_max;
use landfall_protocol::value::Value;
use serde_json::{Map, json};

/// One concurrent write that gave way to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictLine {
    /// `schema.table`.
    pub table: String,
    /// Key values for humans.
    pub row_key: String,
    /// The key, column by column.
    pub key: Vec<(String, String)>,
    /// The column, if one cell was at stake.
    pub column: Option<String>,
    /// The rule that decided.
    pub rule: &'static str,
    /// Who stays.
    pub winner: Side,
    /// Who gives way.
    pub loser: Side,
    /// All columns of the row but its key, as it stood before it gave way to a delete.
    pub row: Option<Vec<(String, Option<String>)>>,
}

/// One side of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// When, where, and in which transaction it wrote.
    pub stamp: Stamp,
    /// The site's name in the fleet file.
    pub name: String,
    /// On whose behalf, if the application said so.
    pub actor: Option<String>,
    /// What it did.
    pub wrote: Wrote,
}

/// What one side of a conflict did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrote {
    /// It wrote this value, as PostgreSQL shows it; `None` is NULL.
    Value(Option<String>),
    /// It wrote a value too long to be kept here; the text is a note of its length.
    Long(String),
    /// It inserted the row.
    Insert,
    /// It deleted the row.
    Delete,
    /// Its value is not at hand.
    Unknown,
}

impl Wrote {
    /// What a value that travelled is here.
    pub fn value(value: &Value) -> Self {
        match value {
            Value::Bool(yes) => Self::Value(Some(yes.to_string())),
            Value::Long(_) => Self::Long(value.text().unwrap_or_default().into_owned()),
            value => Self::Value(value.text().map(|text| text.into_owned())),
        }
    }

    /// What a text is that our statement shows, with a note in place of a long one.
    pub fn shown(text: Option<&str>) -> Self {
        match text {
            Some(text) if is_note(text) => Self::Long(text.to_owned()),
            text => Self::Value(text.map(str::to_owned)),
        }
    }

    /// The word in `winner_is` and `loser_is`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Value(_) => "value",
            Self::Long(_) => "long",
            Self::Insert => "insert",
            Self::Delete => "delete",
            Self::Unknown => "unknown",
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Value(text) => text.as_deref(),
            Self::Long(note) => Some(note),
            Self::Insert | Self::Delete | Self::Unknown => None,
        }
    }
}

/// Whether a text stands for a value too long to be shown, as [`Value::Long`] prints it.
pub(super) fn is_note(text: &str) -> bool {
    let bytes = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(" bytes, not shown)"));
    let bytes = bytes.and_then(|digits| digits.parse::<u64>().ok());
    bytes.is_some_and(|bytes| bytes > inline_bytes_max() as u64)
}

/// Inserts the lines of one JSON document, made by [`rows_json`].
pub(in crate::postgres) const INSERT: &str = "\
INSERT INTO landfall.conflict (table_name, row_key, key_columns, key_values, column_name, rule, \
winner_origin, winner_seq, winner_hlc, winner_at, winner_site, winner_name, winner_actor, winner_is, \
winner_value, loser_origin, loser_seq, loser_hlc, loser_at, loser_site, loser_name, loser_actor, \
loser_is, loser_value, loser_row) \
SELECT table_name, row_key, key_columns, key_values, column_name, rule, \
winner_origin, winner_seq, winner_hlc, to_timestamp(winner_ms / 1000.0), winner_site, winner_name, \
winner_actor, winner_is, winner_value, loser_origin, loser_seq, loser_hlc, \
to_timestamp(loser_ms / 1000.0), loser_site, loser_name, loser_actor, loser_is, loser_value, \
loser_row::jsonb FROM json_to_recordset($1::text::json) AS x(table_name text, row_key text, \
key_columns text[], key_values text[], column_name text, rule text, \
winner_origin text, winner_seq int8, winner_hlc int8, winner_ms int8, winner_site int4, \
winner_name text, winner_actor text, winner_is text, winner_value text, \
loser_origin text, loser_seq int8, loser_hlc int8, loser_ms int8, loser_site int4, \
loser_name text, loser_actor text, loser_is text, loser_value text, loser_row json)";

/// The lines as [`INSERT`] reads them.
pub(in crate::postgres) fn rows_json(lines: &[ConflictLine]) -> String {
    let rows: Vec<serde_json::Value> = lines.iter().map(row_json).collect();
    serde_json::Value::Array(rows).to_string()
}

fn row_json(line: &ConflictLine) -> serde_json::Value {
    let (names, values): (Vec<&str>, Vec<&str>) =
        line.key.iter().map(|(name, value)| (name.as_str(), value.as_str())).unzip();
    let mut fields = Map::new();
    let mut put = |name: String, value: serde_json::Value| drop(fields.insert(name, value));
    put("table_name".into(), json!(line.table));
    put("row_key".into(), json!(line.row_key));
    put("key_columns".into(), json!(names));
    put("key_values".into(), json!(values));
    put("column_name".into(), json!(line.column));
    put("rule".into(), json!(line.rule));
    for (role, side) in [("winner", &line.winner), ("loser", &line.loser)] {
        let Stamp { hlc, txn } = side.stamp;
        put(format!("{role}_origin"), json!(txn.origin.to_string()));
        put(format!("{role}_seq"), json!(txn.seq.0.cast_signed()));
        put(format!("{role}_hlc"), json!(hlc.0.cast_signed()));
        put(format!("{role}_ms"), json!(hlc.ms()));
        put(format!("{role}_site"), json!(txn.origin.site.number()));
        put(format!("{role}_name"), json!(side.name));
        put(format!("{role}_actor"), json!(side.actor));
        put(format!("{role}_is"), json!(side.wrote.word()));
        put(format!("{role}_value"), json!(side.wrote.text()));
    }
    let row = line.row.as_ref().map(|row| {
        let cells = row.iter().map(|(name, text)| (name.clone(), json!(text)));
        serde_json::Value::Object(cells.collect())
    });
    put("loser_row".into(), json!(row));
    serde_json::Value::Object(fields)
}
