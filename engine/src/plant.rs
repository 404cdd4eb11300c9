//! Rules that test builds can switch off, to prove that the tests notice.
//!
//! | name | what is wrong then |
//! |---|---|
//! | `no-barrier` | apply decides by clocks that may not know the newest local writes |
//! | `no-repair` | rows that do not show what their clocks say stay as they are |
//! | `no-causal-order` | a transaction does not wait for what its origin had seen |
//! | `stalled-store` | nothing; what capture sends to the store never gets done |
//! | `unwritten-token` | nothing; it hangs when the store knows the next token and the database does not |
//! | `unconfirmed-token` | nothing; it hangs when the database has the next token and the store does not know |
//! | `failed-sync` | nothing; the disk refuses to keep the first own transactions, which are not kept |
//! | `doubtful-sync` | nothing; the disk refuses to keep the first own transactions, which are kept |
//! | `slow-capture` | nothing; each message of the WAL stream takes a millisecond longer |

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
        std::future::pending().await
    }
}
