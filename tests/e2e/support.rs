//! What several tests ask a fleet.

use landfall_tests::fleet::{DB, Fleet, SOON};

/// Fails when a daemon of these members wrote a WARN or an ERROR that holds none of `expected`.
#[track_caller]
pub(crate) fn assert_quiet(fleet: &Fleet, members: &[&str], expected: &[&str]) {
    for member in members {
        let alarms = fleet.member(member).daemon().alarms(expected);
        assert!(alarms.is_empty(), "{member} raised alarms:\n{}", alarms.join("\n"));
    }
}

/// The one value a query returns at a site; NULL reads as `NULL`.
#[track_caller]
pub(crate) fn value(fleet: &Fleet, site: &str, sql: &str) -> String {
    fleet.member(site).cluster().query_value(DB, sql).unwrap_or_else(|| "NULL".to_owned())
}

/// Everything `landfall.conflict` holds at a site, sorted, without times and incarnations:
/// `row/column rule loser=<site number> value`.
pub(crate) fn conflicts(fleet: &Fleet, site: &str) -> Vec<String> {
    let sql = "SELECT format('%s/%s %s loser=%s %s', row_key, coalesce(column_name, '*'), rule, \
               split_part(loser_origin, '.', 1), coalesce(loser_value, 'NULL')) \
               FROM landfall.conflict ORDER BY 1";
    fleet.rows(site, sql).into_iter().flatten().flatten().collect()
}

/// Waits with `landfall-node wait` until what was committed at a site got somewhere.
#[track_caller]
pub(crate) fn wait(fleet: &Fleet, site: &str, goal: &str) {
    let words = ["wait", "--for", goal, "--timeout", "30"];
    fleet.member(site).command(&words).run(SOON * 2).expect("run wait").success();
}
