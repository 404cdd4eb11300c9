//! Rules that test builds can switch off, to prove that the tests notice.

/// Whether the rule of this name is switched off. Always `false` unless the `planted-bugs` feature
/// was compiled in and `LANDFALL_PLANT` names it.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) fn active(_rule: &str) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn active(rule: &str) -> bool {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<String> = OnceLock::new();
    PLANTED
        .get_or_init(|| std::env::var("LANDFALL_PLANT").unwrap_or_default())
        .split(',')
        .any(|r| r == rule)
}
