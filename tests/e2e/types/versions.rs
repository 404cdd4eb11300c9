//! The same across versions of PostgreSQL.

use landfall_tests::fleet::Builder;
use landfall_tests::postgres_bin::PgBin;

use super::matrix::there_and_back;

/// The oldest and the newest version we support.
const VERSIONS: [u32; 2] = [15, 18];

/// Site `a` on the oldest version and site `b` on the newest.
///
/// `None` when this machine does not have both; that is said loudly, as it is no success. On a
/// machine where `cargo xtask test` could fetch them, it does not happen.
pub(super) fn across() -> Option<impl FnOnce(Builder) -> Builder> {
    for version in VERSIONS {
        if let Err(error) = PgBin::find(Some(version)) {
            eprintln!("SKIPPED: nothing was tested across versions: {error:#}");
            return None;
        }
    }
    let [oldest, newest] = VERSIONS;
    Some(move |fleet: Builder| fleet.postgres("a", oldest).postgres("b", newest))
}

#[test]
fn every_type_arrives_across_versions() {
    if let Some(versions) = across() {
        there_and_back(versions);
    }
}
