//! Rows that cannot stand beside each other.

use std::borrow::Cow;
use std::sync::Arc;

use landfall_engine::postgres::apply::{ApplyError, Target};
use landfall_engine::postgres::claims::ClaimAccess;
use landfall_engine::postgres::model::Fault;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::schema::ColumnId;
use landfall_protocol::value::{RowKey, Value};

use super::super::heap::Strength;
use super::super::session::OnConflict;
use super::aside::{from_hex, hex};
use super::{Apply, does_not_read};

/// A whole row as one text.
fn row_text(row: &[Value]) -> String {
    hex(&RowKey::new(row))
}

fn row_of_text(text: &str) -> Result<Vec<Value>, ApplyError> {
    let values = from_hex(text).and_then(|key| key.values().ok());
    values.ok_or_else(does_not_read)
}

impl Apply {
    pub(in super::super) async fn holders(
        &mut self,
        claim: &ClaimAccess,
        row: &RowId,
        target: &Target<'_>,
    ) -> Result<Vec<RowId>, ApplyError> {
        let known = self.known(row.table)?;
        let (number, places) = (known.number, known.places(&claim.columns)?);
        let mut wanted = match &target.base {
            Some(base) => row_of_text(base)?,
            None => vec![Value::Null; known.width],
        };
        for (place, value) in self.cells(known, &target.cells)? {
            wanted[place] = value;
        }
        let has_null = places.iter().any(|place| wanted[*place] == Value::Null);
        let clashes = |other: &[Value]| {
            !has_null && places.iter().all(|place| other[*place] == wanted[*place])
        };
        let found = self.session.search(number, clashes, Some(Strength::Update)).await;
        let known = self.known(row.table)?;
        let found = found.map_err(Fault::from)?;
        let found = found.iter().map(|values| known.row_of(row.table, values));
        Ok(found.filter(|holder| holder != row).collect())
    }

    pub(in super::super) async fn row_text(
        &mut self,
        row: &RowId,
    ) -> Result<Option<String>, ApplyError> {
        let number = self.known(row.table)?.number;
        let found = self.session.select(number, std::slice::from_ref(&row.key)).await;
        Ok(found.map_err(Fault::from)?[0].as_ref().map(|row| row_text(row)))
    }

    pub(in super::super) async fn place(
        &mut self,
        row: &RowId,
        base: &str,
        cells: &[(ColumnId, Cow<'_, Value>)],
    ) -> Result<bool, ApplyError> {
        let known = self.known(row.table)?;
        let number = known.number;
        let mut values = row_of_text(base)?;
        for (place, value) in self.cells(known, cells)? {
            values[place] = value;
        }
        let rows: [Arc<[Value]>; 1] = [values.into()];
        let placed = self.session.insert(number, &rows, OnConflict::DoNothing).await;
        Ok(placed.map_err(Fault::from)? == 1)
    }
}
