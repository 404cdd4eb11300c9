//! Old lines go, a few at a time.

use std::time::Duration;

use tokio_postgres::Client;

use super::HistoryError;

/// Lines looked at, and removed at most, by one statement.
pub const EXPIRED_AT_ONCE: u64 = 500;

/// Removes the oldest lines as far as they are older than `keep`; says how many. Only the oldest
/// are looked at, in the order in which they were written, so it costs nothing where none is due.
///
/// # Errors
/// The statement failed.
pub async fn expire(client: &Client, keep: Duration) -> Result<u64, HistoryError> {
    let sql = "DELETE FROM landfall.conflict WHERE id IN (SELECT id FROM \
               (SELECT id, recorded_at FROM landfall.conflict ORDER BY id LIMIT $1) AS oldest \
               WHERE recorded_at < now() - $2::float8 * interval '1 second')";
    let (at_once, seconds) = (EXPIRED_AT_ONCE.cast_signed(), keep.as_secs_f64());
    let removed = client.execute(sql, &[&at_once, &seconds]).await;
    removed.map_err(HistoryError::of("remove old lines of landfall.conflict"))
}
