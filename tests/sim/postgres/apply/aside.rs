//! `landfall.aside`.

use std::fmt::Write as _;
use std::sync::Arc;

use landfall_engine::postgres::apply::AsideLine;
use landfall_protocol::schema::TableName;
use landfall_protocol::value::{RowKey, Value};

use super::super::error::PgError;
use super::super::instance::ASIDE;
use super::super::session::OnConflict;
use super::Apply;

/// What stands between the parts of a place on the list, before all that names are made of.
const BETWEEN: char = '\u{1}';

/// A key in letters, which stand in the same order.
pub(super) fn hex(key: &RowKey) -> String {
    let mut text = String::new();
    for byte in key.as_bytes() {
        write!(text, "{byte:02x}").expect("a String takes all");
    }
    text
}

/// The key of these letters.
pub(super) fn from_hex(text: &str) -> Option<RowKey> {
    let pairs = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    let bytes: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
    Some(RowKey::from_bytes(&bytes?))
}

fn place((table, key): &(TableName, RowKey)) -> Value {
    let TableName { schema, name } = table;
    Value::Text(format!("{schema}{BETWEEN}{name}{BETWEEN}{}", hex(key)).into())
}

/// Table and key of a row on the list.
pub(in super::super) fn aside_row(place: &Value) -> Option<(TableName, RowKey)> {
    let text = place.text()?;
    let mut parts = text.split(BETWEEN);
    let table = TableName::new(parts.next()?, parts.next()?);
    Some((table, from_hex(parts.next()?)?))
}

impl Apply {
    pub(in super::super) async fn write_aside(
        &mut self,
        lines: &[AsideLine],
    ) -> Result<(), PgError> {
        for line in lines {
            let place = place(&(line.table.clone(), line.key.clone()));
            let told = Value::Text(format!("{}: {:?}", line.reason, line.cells).into());
            let row: Arc<[Value]> = [place, told].into();
            let key = [RowKey::new(&row[..1])];
            let change = |_: usize, _: &[Value]| Some(row.to_vec());
            if self.session.update(ASIDE, &key, change).await? == 0 {
                self.session.insert(ASIDE, &[Arc::clone(&row)], OnConflict::DoNothing).await?;
            }
        }
        Ok(())
    }

    pub(in super::super) async fn free_aside(
        &mut self,
        rows: &[(TableName, RowKey)],
    ) -> Result<(), PgError> {
        for row in rows {
            self.session.delete(ASIDE, &[RowKey::new(&[place(row)])]).await?;
        }
        Ok(())
    }

    pub(in super::super) async fn list_aside(
        &mut self,
        behind: &(TableName, RowKey),
        most: usize,
    ) -> Result<Vec<(TableName, RowKey)>, PgError> {
        let behind = place(behind);
        let found = self.session.search(ASIDE, |row| row[0].text() > behind.text(), None).await?;
        let mut places: Vec<&Value> = found.iter().map(|row| &row[0]).collect();
        places.sort_unstable_by_key(|place| place.text());
        Ok(places.into_iter().filter_map(aside_row).take(most).collect())
    }
}
