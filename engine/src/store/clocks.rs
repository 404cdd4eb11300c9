//! Row clocks on disk.

use landfall_protocol::codec::{Reader, Writer};
use landfall_protocol::dictionary::RowId;
use landfall_protocol::lattice::RowClock;
use rusqlite::params;

use super::crc::{guard, unguard};
use super::error::StoreError;
use super::sql::{Database, blob};

/// The clock of a row; `None` when nothing was ever stamped in it.
pub(super) fn load(db: &Database<'_>, row: &RowId) -> Result<Option<RowClock>, StoreError> {
    db.row(
        "SELECT state FROM clock WHERE table_no = ?1 AND key = ?2",
        params![row.table.0, row.key.as_bytes()],
        |found| {
            let decoded = || {
                let mut from = Reader::new(unguard(&guard_key(row), blob(found, 0).ok()?)?);
                let clock = RowClock::decode(&mut from).ok()?;
                from.finish().ok()?;
                Some(clock)
            };
            // The key is data of the application: only the table is named.
            decoded().ok_or_else(|| StoreError::corrupt("clock", row.table.0))
        },
    )
}

/// Writes the clock of a row.
pub(super) fn put(db: &Database<'_>, row: &RowId, clock: &RowClock) -> Result<(), StoreError> {
    let mut out = Writer::new();
    clock.encode(&mut out);
    db.execute(
        "INSERT OR REPLACE INTO clock(table_no, key, state) VALUES (?1, ?2, ?3)",
        params![row.table.0, row.key.as_bytes(), guard(&guard_key(row), out.into_bytes())],
    )?;
    Ok(())
}

fn guard_key(row: &RowId) -> Vec<u8> {
    [&row.table.0.to_le_bytes(), row.key.as_bytes()].concat()
}
