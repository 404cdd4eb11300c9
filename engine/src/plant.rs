//! Rules that test builds can switch off, to prove that the tests notice.
//!
//! | name | what is wrong then |
//! |---|---|
//! | `no-barrier` | apply decides by clocks that may not know the newest local writes |
//! | `no-repair` | rows that do not show what their clocks say stay as they are |
//! | `no-remedies` | apply does not look for rows that lose their parents |
//! | `no-cascade` | what goes with its parent by the way stays |
//! | `no-set-null` | what is to let go of a parent that goes keeps it |
//! | `unlocked-parents` | parents are not locked while their children are written; only in a simulator |
//! | `youngest-claim` | of two rows with one value the younger one keeps it |
//! | `claims-of-parked` | a row gives way to what another shows only because its change is parked |
//! | `parked-followers` | a row that comes after its parent was put aside is parked |
//! | `no-return` | rows that are put aside never come back |
//! | `unlisted-aside` | rows are put aside without a word of it |
//! | `no-causal-order` | a transaction does not wait for what its origin had seen |
//! | `compaction-across-vectors` | what is compacted forgets what its site heard between |
//! | `split-compacted` | transactions of a compacted unit become visible one after the other |
//! | `torn-fold` | the position in the log becomes durable after what was folded up to it |
//! | `volatile-clock` | a start forgets the last clock reading |
//! | `confirm-before-sync` | the slot is confirmed up to what is about to become durable |
//! | `send-before-sync` | own units are sent before they are durable; only in a simulator |
//! | `ack-before-sync` | a peer is told of units before they are durable |
//! | `early-horizon` | transactions count as folded before their clocks are stored |
//! | `stale-clocks` | apply uses the clocks it looked up early although the fold has moved clocks |
//! | `lost-conflict` | of the lines about what gave way in an apply transaction the last is not written |
//! | `equal-lengths` | of long values those of one length are taken for the same |
//! | `no-checksum` | rows of the store are believed whatever their checksums say |
//! | `no-chain-check` | a unit need not follow on the one before |
//! | `resume-unchecked` | whoever is to go on in a unit believes that the peer has its beginning |
//! | `rest-alone` | where the rest of a unit comes, it is taken for the unit |
//! | `packs-anew` | nothing; units are not sent in the bytes in which they are stored; only in a simulator |
//! | `bundle-signature` | whoever says that they wrote a bundle is believed |
//! | `bundle-truncation` | of a part of a bundle that is cut short what is there is taken for all |
//! | `bundle-gap` | a part of a bundle that came too early is not kept |
//! | `bundle-early-note` | a part of a bundle counts as read before anything of it is durable |
//! | `stalled-store` | nothing; what capture sends to the store never gets done |
//! | `unwritten-token` | nothing; it hangs when the store knows the next token and the database does not |
//! | `unconfirmed-token` | nothing; it hangs when the database has the next token and the store does not know |
//! | `unshown-parked` | nothing; it hangs when parked changes are joined and not shown |
//! | `unfreed-parked` | nothing; it hangs when parked changes are shown and still on the list |
//! | `unnoted-part` | nothing; it hangs when the second part of a bundle is written and not in the register |
//! | `unstored-part` | nothing; it hangs when a part of a bundle has come and its last units are not stored |
//! | `failed-sync` | nothing; the disk refuses to keep the first own transactions, which are not kept |
//! | `doubtful-sync` | nothing; the disk refuses to keep the first own transactions, which are kept |
//! | `slow-capture` | nothing; each message of the WAL stream takes a millisecond longer |
//! | `impatient-link` | nothing; a link is given up after two seconds of silence |
//! | `BLOW:PLACE:N` | nothing; the world strikes at the Nth [step](step) at this place since the start |
//!
//! | BLOW | what happens there |
//! |---|---|
//! | `die` | SIGKILL |
//! | `stop` | SIGSTOP, until somebody lets the process go on |
//! | `fail` | what was to be done fails as it does when the disk, the server or the network is to blame |
//! | `full` | it fails as on a full disk |
//!
//! | PLACE | steps |
//! |---|---|
//! | `postgres` | before and after each write to a socket of PostgreSQL, but for status |
//! | `sqlite` | before each call of SQLite, and after each COMMIT |
//! | `sqlite-write` | before each call of SQLite that writes |
//! | `quic` | before each datagram; one that fails is lost |
//! | `stream` | before each write to a stream of a link; one that fails takes the link along |

#[cfg(feature = "planted-bugs")]
mod strike;

#[cfg(feature = "planted-bugs")]
pub(crate) use strike::{is_planned, step};

/// Where the world can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted-bugs"),
    expect(dead_code, reason = "some are in test builds only")
)]
pub(crate) enum Place {
    Postgres,
    Sqlite,
    SqliteWrite,
    Quic,
    Stream,
}

/// How a step that was struck, and survived it, fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), expect(dead_code, reason = "only test builds strike"))]
pub(crate) enum Blow {
    /// By the device.
    Fail,
    /// By lack of room.
    Full,
}

/// Counts a step and says whether it is to fail. Only in builds with planted bugs it ever is.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) fn step(_place: Place) -> Option<Blow> {
    None
}

/// As [`step`], for connections.
pub(crate) fn step_on_line(place: Place) -> std::io::Result<()> {
    match step(place) {
        None => Ok(()),
        Some(_) => Err(std::io::ErrorKind::ConnectionReset.into()),
    }
}

/// Whether the rule of this name is switched off. Always `false` unless the `planted-bugs` feature
/// was compiled in and `LANDFALL_PLANT` names it, or a simulator says so.
pub(crate) fn active(rule: &str) -> bool {
    #[cfg(feature = "simulation")]
    if crate::simulation::planted(rule) {
        return true;
    }
    by_environment(rule)
}

#[cfg(not(feature = "planted-bugs"))]
fn by_environment(_rule: &str) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
fn by_environment(rule: &str) -> bool {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<String> = OnceLock::new();
    PLANTED
        .get_or_init(|| std::env::var("LANDFALL_PLANT").unwrap_or_default())
        .split(',')
        .any(|r| r == rule)
}

/// Never returns where the rule of this name is switched off.
pub(crate) async fn hang(rule: &str) {
    if active(rule) {
        // Tests look for this line.
        tracing::info!(rule, "planted hang");
        std::future::pending().await
    }
}
