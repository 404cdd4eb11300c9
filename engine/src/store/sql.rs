//! A connection with its prepared statements.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rusqlite::{Connection, MAIN_DB, Params, Row, Statement};

use super::error::StoreError;
use crate::plant::{self, Blow, Place};

/// Keeps every statement prepared that ran once; there are a few dozen, all written in this crate.
pub(super) struct Database<'c> {
    connection: &'c Connection,
    statements: RefCell<BTreeMap<&'static str, Statement<'c>>>,
}

impl<'c> Database<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection, statements: RefCell::default() }
    }

    pub(super) fn connection(&self) -> &'c Connection {
        self.connection
    }

    fn with<T>(
        &self,
        sql: &'static str,
        run: impl FnOnce(&mut Statement<'c>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let kept = self.statements.borrow_mut().remove(sql);
        let mut statement = match kept {
            Some(statement) => statement,
            None => self.connection.prepare(sql)?,
        };
        // The end of a read touches no disk.
        let commits = sql == "COMMIT" && !self.connection.is_readonly(MAIN_DB)?;
        if commits || sql != "COMMIT" {
            self.step(Place::Sqlite)?;
        }
        if commits || !statement.readonly() {
            self.step(Place::SqliteWrite)?;
        }
        let result = run(&mut statement);
        self.statements.borrow_mut().insert(sql, statement);
        if commits {
            self.step(Place::Sqlite)?;
        }
        result
    }

    /// Fails where a test says so.
    fn step(&self, place: Place) -> Result<(), StoreError> {
        match plant::step(place) {
            None => Ok(()),
            Some(Blow::Full) => Err(StoreError::Full),
            Some(Blow::Fail) => {
                // As SQLite does when the disk is to blame.
                if !self.connection.is_autocommit() {
                    self.connection.execute_batch("ROLLBACK")?;
                }
                Err(StoreError::Sqlite {
                    code: rusqlite::ffi::SQLITE_IOERR,
                    message: "disk I/O error".to_owned(),
                })
            }
        }
    }

    /// Runs a statement that returns no rows; says how many it changed.
    pub(super) fn execute(
        &self,
        sql: &'static str,
        params: impl Params,
    ) -> Result<usize, StoreError> {
        self.with(sql, |statement| Ok(statement.execute(params)?))
    }

    /// The first row, if there is one.
    pub(super) fn row<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.with(sql, |statement| {
            let mut rows = statement.query(params)?;
            rows.next()?.map(read).transpose()
        })
    }

    /// All rows.
    pub(super) fn rows<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.with(sql, |statement| {
            let mut rows = statement.query(params)?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(read(row)?);
            }
            Ok(found)
        })
    }
}

/// An unsigned number as SQLite keeps it, bit for bit.
pub(super) fn stored(number: u64) -> i64 {
    number.cast_signed()
}

/// A stored number of column `index`.
pub(super) fn number(row: &Row<'_>, index: usize) -> Result<u64, StoreError> {
    Ok(row.get::<_, i64>(index)?.cast_unsigned())
}

/// The bytes of column `index`, without a copy.
pub(super) fn blob<'a>(row: &'a Row<'_>, index: usize) -> Result<&'a [u8], StoreError> {
    Ok(row.get_ref(index)?.as_blob().map_err(rusqlite::Error::from)?)
}
