//! A commit is in the stream a moment before other sessions see it: its record is on disk first, and
//! only then does the server take the transaction from the list of those in progress. A catalog
//! read in that moment does not know what the transaction did to it.

use std::time::Duration;

use tokio_postgres::Client;

use crate::capture::slot::SlotError;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Looks before we go on without. The moment lasts for microseconds, but as long as a standby
/// takes where commits wait for one, and that standby may be us.
const LOOKS_MAX: u32 = 200;

// The stream has the lower half of the number; the upper half is that of the newest, or a neighbour.
const IS_VISIBLE: &str = "
SELECT pg_visible_in_snapshot(
    (CASE WHEN c - m > 2147483648 THEN c - 4294967296
          WHEN m - c > 2147483648 THEN c + 4294967296 ELSE c END)::text::xid8, s)
FROM (SELECT s, m, (m & -4294967296) | $1::int8 AS c
      FROM (SELECT s, pg_snapshot_xmax(s)::text::int8 AS m FROM pg_current_snapshot() AS s) AS a) AS b";

/// Waits until a new snapshot sees the committed transaction `xid`, for a second at most.
///
/// # Errors
/// The connection failed.
pub(super) async fn wait(client: &Client, xid: u32) -> Result<(), SlotError> {
    let is_visible = client.prepare(IS_VISIBLE).await?;
    for _ in 0..LOOKS_MAX {
        if client.query_one(&is_visible, &[&i64::from(xid)]).await?.get(0) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
