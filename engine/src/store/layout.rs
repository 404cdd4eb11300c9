//! The files of a store: the database, the lock, and how connections are set up.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::error::StoreError;
use super::record::Settings;

/// SQLite's `application_id`: "LAND".
const APPLICATION_ID: i64 = 0x4c41_4e44;
/// SQLite's `user_version`: the layout of the tables.
const FORMAT_VERSION: i64 = 8;
/// The oldest layout that is brought up to date when a store is opened.
const FORMAT_VERSION_MIN: i64 = 5;
const PAGE_BYTES: u64 = 4096;
/// SQLite's write-ahead log is cut back to this after a burst.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
const READER_CACHE_BYTES: u64 = 4 << 20;

/// One row per fold flush of own transactions not sealed yet in `tail`; everything sealed in
/// `unit`, where `changes_to` and `bytes_to` are running sums over the origin's log; clocks in
/// `clock`, the newest ones in `clock_log`; in `piece`, which log entry holds which piece of a long
/// value; in `parked`, which changes are set aside. Small things are blobs with a checksum behind them.
const TABLES: &str = "
CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tail(
    first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL, fleet_version INTEGER NOT NULL,
    changes INTEGER NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE TABLE unit(
    origin_no INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    fragment INTEGER NOT NULL, hash BLOB NOT NULL, hlc_first INTEGER NOT NULL, hlc_last INTEGER NOT NULL,
    changes INTEGER NOT NULL, changes_to INTEGER NOT NULL, bytes_to INTEGER NOT NULL,
    received_at_ms INTEGER NOT NULL, crc INTEGER NOT NULL, bytes BLOB NOT NULL,
    PRIMARY KEY(origin_no, first)) STRICT;
CREATE INDEX unit_ends ON unit(origin_no, first) WHERE fragment = 2;
CREATE TABLE piece(
    hash BLOB NOT NULL, place INTEGER NOT NULL, origin_no INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY(hash, place)) STRICT, WITHOUT ROWID;
CREATE TABLE origin(
    no INTEGER PRIMARY KEY, site INTEGER NOT NULL, incarnation INTEGER NOT NULL,
    state BLOB NOT NULL, UNIQUE(site, incarnation)) STRICT;
CREATE TABLE own_table(table_no INTEGER PRIMARY KEY, def BLOB NOT NULL) STRICT;
CREATE TABLE foreign_table(
    origin_no INTEGER NOT NULL, table_no INTEGER NOT NULL, def BLOB NOT NULL,
    PRIMARY KEY(origin_no, table_no)) STRICT, WITHOUT ROWID;
CREATE TABLE clock(
    table_no INTEGER NOT NULL, key BLOB NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY(table_no, key)) STRICT, WITHOUT ROWID;
CREATE TABLE clock_log(id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE dirty(
    mark INTEGER PRIMARY KEY AUTOINCREMENT, table_no INTEGER NOT NULL, key BLOB NOT NULL,
    reason TEXT NOT NULL, UNIQUE(table_no, key)) STRICT;
CREATE TABLE parked(
    origin_no INTEGER NOT NULL, seq INTEGER NOT NULL, place INTEGER NOT NULL, table_no INTEGER,
    key BLOB, state BLOB NOT NULL, PRIMARY KEY(origin_no, seq, place)) STRICT, WITHOUT ROWID;
CREATE INDEX parked_row ON parked(table_no, key) WHERE table_no IS NOT NULL;
CREATE TABLE peer(site INTEGER PRIMARY KEY, state BLOB NOT NULL) STRICT;
";

/// New in format 6: the register of bundles, a line for each part.
const BUNDLES: &str = "
CREATE TABLE bundle(
    way INTEGER NOT NULL, id BLOB NOT NULL, part INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY(way, id, part)) STRICT, WITHOUT ROWID;
";

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) dir: PathBuf,
    pub(super) database: PathBuf,
    pub(super) wal: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) ballast: PathBuf,
    unfinished: PathBuf,
}

/// The directory is this process's until this is dropped.
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would not do: a process that is just being started shares the open file.
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "store lock is not released before this process ends");
        }
    }
}

impl Paths {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            database: dir.join("landfall.db"),
            wal: dir.join("landfall.db-wal"),
            lock: dir.join("landfall.lock"),
            ballast: dir.join("ballast"),
            unfinished: dir.join("landfall.db.new"),
        }
    }

    /// Takes the directory for this process.
    pub(super) fn lock(&self) -> Result<Lock, StoreError> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .map_err(|error| StoreError::file("open", &self.lock, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked(self.database.clone())),
            Err(TryLockError::Error(error)) => Err(StoreError::file("lock", &self.lock, &error)),
        }
    }

    /// Makes a database whole or not at all: `fill` writes the first rows, and only a finished
    /// file gets its name.
    pub(super) fn create(
        &self,
        fill: impl FnOnce(&Connection) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if self.database.exists() {
            return Err(StoreError::Exists(self.database.clone()));
        }
        remove(&self.unfinished)?;
        let connection = Connection::open(&self.unfinished)?;
        // Both only work before the first table and before the write-ahead log.
        connection.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update(None, "user_version", FORMAT_VERSION)?;
        connection.execute_batch("BEGIN")?;
        make_tables(&connection)?;
        fill(&connection)?;
        connection.execute_batch("COMMIT")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.close().map_err(|(_, error)| StoreError::from(error))?;
        sync(&self.unfinished)?;
        fs::rename(&self.unfinished, &self.database)
            .map_err(|error| StoreError::file("rename", &self.unfinished, &error))?;
        sync(&self.dir)
    }

    /// The writing connection.
    pub(super) fn open_writer(&self, settings: &Settings) -> Result<Connection, StoreError> {
        if !self.database.exists() {
            return Err(StoreError::Missing(self.database.clone()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.database, flags)?;
        self.expect(&connection, "application_id", APPLICATION_ID)?;
        upgrade(&connection)?;
        self.expect(&connection, "user_version", FORMAT_VERSION)?;
        set_up(&connection, settings.cache_bytes)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", JOURNAL_BYTES_MAX as i64)?;
        let pages = settings.checkpoint_bytes / PAGE_BYTES;
        connection.pragma_update(None, "wal_autocheckpoint", pages as i64)?;
        if let Some(bytes) = settings.budget_bytes {
            connection.pragma_update(None, "max_page_count", (bytes / PAGE_BYTES).max(1) as i64)?;
        }
        Ok(connection)
    }

    /// A connection that cannot write. The writing one must be open.
    pub(super) fn open_reader(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.database, flags)?;
        set_up(&connection, READER_CACHE_BYTES)?;
        Ok(connection)
    }

    fn expect(
        &self,
        connection: &Connection,
        what: &'static str,
        expected: i64,
    ) -> Result<(), StoreError> {
        let found: i64 = connection.pragma_query_value(None, what, |row| row.get(0))?;
        if found == expected {
            return Ok(());
        }
        Err(StoreError::WrongStore {
            path: self.database.clone(),
            what,
            found: found.to_string(),
            expected: expected.to_string(),
        })
    }
}

/// New in format 7: whether something was left out of a row of the tail.
const COMPACTED: &str = "ALTER TABLE tail ADD COLUMN compacted INTEGER NOT NULL DEFAULT 0;";

/// New in format 8: what came of units that did not arrive whole, in stretches that follow on each other.
const BEGUN: &str = "
CREATE TABLE begun(
    no INTEGER PRIMARY KEY, site INTEGER NOT NULL, incarnation INTEGER NOT NULL, at INTEGER NOT NULL,
    data BLOB NOT NULL, UNIQUE(site, incarnation, at)) STRICT;
";

/// What came with which format, after the oldest that is brought up to date.
const STEPS: [(i64, &str); 3] = [(6, BUNDLES), (7, COMPACTED), (8, BEGUN)];

/// Makes the tables of an empty database.
pub(super) fn make_tables(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch(TABLES)?;
    Ok(connection.execute_batch(&steps_after(FORMAT_VERSION_MIN))?)
}

fn steps_after(format: i64) -> String {
    STEPS.iter().filter(|(since, _)| *since > format).map(|(_, step)| *step).collect()
}

/// Brings a store of an earlier version up to date, whole or not at all.
fn upgrade(connection: &Connection) -> Result<(), StoreError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if (FORMAT_VERSION_MIN..FORMAT_VERSION).contains(&found) {
        let steps = steps_after(found);
        let steps = format!("BEGIN; {steps} PRAGMA user_version = {FORMAT_VERSION}; COMMIT");
        connection.execute_batch(&steps)?;
    }
    Ok(())
}

fn set_up(connection: &Connection, cache_bytes: u64) -> Result<(), StoreError> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    // libsqlite3-sys compiles with foreign keys on; there are none here.
    connection.pragma_update(None, "foreign_keys", false)?;
    keep_plans(connection)?;
    // Negative: in KiB.
    connection.pragma_update(None, "cache_size", -((cache_bytes >> 10) as i64))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

/// Lets statements stay as they are prepared. Else SQLite prepares some of them anew at each use,
/// because the values bound might make another plan the better one; ours have but one.
pub(super) fn keep_plans(connection: &Connection) -> Result<(), StoreError> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Moves SQLite's log into the database. After a sync that failed, the system takes what it could
/// not write for written, and shows it: so what was recovered is durable only once it is written
/// again.
pub(super) fn write_back(connection: &Connection) -> Result<(), StoreError> {
    let done = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    match done.map_err(StoreError::from) {
        // Then it stays where it is until there is room.
        Err(StoreError::Full) => Ok(()),
        other => other,
    }
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::file("remove", path, &error))
        }
        _ => Ok(()),
    }
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| StoreError::file("sync", path, &error))
}
