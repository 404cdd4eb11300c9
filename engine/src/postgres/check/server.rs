//! The server: version, settings, capacity, clock and slot.

use std::time::Duration;

use tokio_postgres::Client;

use super::{Finding, Severity};
use crate::postgres::setup::{Plan, SetupError, Slot, SlotState, read_slot};
use crate::time;

/// The oldest major version with everything we need: `GRANT SET ON PARAMETER` came with it.
const VERSION_MIN: i32 = 15;
/// The newest major version we have tested.
const VERSION_TESTED: i32 = 18;
/// Replication takes its locks within 300 ms and waits for one as long; who waits for it is to be
/// served before PostgreSQL looks for deadlocks. This leaves it room on a slow machine.
const DEADLOCK_TIMEOUT_MIN_MS: i64 = 1_000;
/// Clocks this far apart are worth a word.
const CLOCK_NOTICEABLE: Duration = Duration::from_secs(1);

/// What was asked of the server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    version: i32,
    version_text: String,
    is_in_recovery: bool,
    wal_level: String,
    slots_max: i32,
    slots_used: i64,
    senders_max: i32,
    senders_used: i64,
    encoding: String,
    standby_names: String,
    synchronous_commit: String,
    slot_wal_keep: String,
    idle_slot_timeout: String,
    fsync: String,
    read_only: String,
    replication_role: String,
    statement_timeout: String,
    deadlock_timeout_ms: i64,
    pub(super) bypasses_row_security: bool,
    clock: ClockDifference,
    slot: Option<Slot>,
    has_publication: bool,
}

impl Server {
    pub(super) fn is_too_old(&self) -> bool {
        self.version / 10_000 < VERSION_MIN
    }
}

/// PostgreSQL's clock minus ours.
#[derive(Clone, Copy, Debug)]
struct ClockDifference {
    ms: i64,
    /// Half the time the question took.
    uncertainty_ms: i64,
}

// Settings that older or newer versions lack read as empty.
const SERVER: &str = "
SELECT current_setting('server_version_num')::int4, current_setting('server_version'),
       pg_is_in_recovery(), current_setting('wal_level'),
       current_setting('max_replication_slots')::int4,
       (SELECT count(*) FROM pg_replication_slots),
       current_setting('max_wal_senders')::int4,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
       current_setting('server_encoding'), current_setting('synchronous_standby_names'),
       current_setting('synchronous_commit'), current_setting('max_slot_wal_keep_size'),
       coalesce(current_setting('idle_replication_slot_timeout', true), ''),
       current_setting('fsync'), current_setting('default_transaction_read_only'),
       current_setting('session_replication_role'), current_setting('statement_timeout'),
       coalesce((SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user), false),
       EXISTS (SELECT FROM pg_publication WHERE pubname = $1),
       (SELECT setting::int8 FROM pg_settings WHERE name = 'deadlock_timeout')";

const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";

pub(super) async fn gather(client: &Client, plan: &Plan<'_>) -> Result<Server, SetupError> {
    let query = |what: &'static str| {
        move |source| SetupError::Query { what: format!("read {what}"), source }
    };
    let row = client.query_one(SERVER, &[&plan.publication]).await;
    let row = row.map_err(query("the server's settings"))?;
    // Prepared before the clock is read, so that one round trip is all that is measured.
    let clock = client.prepare(CLOCK).await.map_err(query("the server's clock"))?;
    let before = time::wall_ms();
    let there = client.query_one(&clock, &[]).await.map_err(query("the server's clock"))?;
    let clock = clock_difference(before, there.get(0), time::wall_ms());
    Ok(Server {
        version: row.get(0),
        version_text: row.get(1),
        is_in_recovery: row.get(2),
        wal_level: row.get(3),
        slots_max: row.get(4),
        slots_used: row.get(5),
        senders_max: row.get(6),
        senders_used: row.get(7),
        encoding: row.get(8),
        standby_names: row.get(9),
        synchronous_commit: row.get(10),
        slot_wal_keep: row.get(11),
        idle_slot_timeout: row.get(12),
        fsync: row.get(13),
        read_only: row.get(14),
        replication_role: row.get(15),
        statement_timeout: row.get(16),
        bypasses_row_security: row.get(17),
        clock,
        slot: read_slot(client, plan.slot).await?,
        has_publication: row.get(18),
        deadlock_timeout_ms: row.get(19),
    })
}

fn clock_difference(before: u64, there: i64, after: u64) -> ClockDifference {
    let half = after.saturating_sub(before) / 2;
    let here = i64::try_from(before + half).unwrap_or(i64::MAX);
    ClockDifference { ms: there - here, uncertainty_ms: i64::try_from(half).unwrap_or(i64::MAX) }
}

pub(super) fn judge(server: &Server, plan: &Plan<'_>) -> Vec<Finding> {
    let mut findings = vec![version(server), wal_level(server)];
    if server.is_in_recovery {
        findings.push(Finding::error(
            "PostgreSQL is a standby and takes no writes",
            "point conninfo at the primary",
        ));
    }
    findings.push(slot(server, plan));
    findings.extend(capacity(server));
    findings.push(encoding(server));
    findings.push(clock(server.clock, plan.drift_max));
    findings.extend(waiting_commits(server));
    findings.extend(slot_limits(server));
    findings.extend(defaults(server));
    findings
}

fn version(server: &Server) -> Finding {
    let (major, text) = (server.version / 10_000, &server.version_text);
    if server.is_too_old() {
        Finding::error(
            format!("PostgreSQL is version {text}, and {VERSION_MIN} is the oldest we can use"),
            format!("upgrade to PostgreSQL {VERSION_MIN} or newer"),
        )
    } else if major > VERSION_TESTED {
        Finding::warning(
            format!("PostgreSQL is version {text}, newer than any we have tested"),
            "look for a newer Landfall",
        )
    } else {
        Finding::ok(format!("PostgreSQL is version {text}"))
    }
}

fn wal_level(server: &Server) -> Finding {
    if server.wal_level == "logical" {
        return Finding::ok("wal_level is logical");
    }
    Finding::error(
        format!("wal_level is {}, so changes cannot be decoded", server.wal_level),
        "run ALTER SYSTEM SET wal_level = 'logical' and restart PostgreSQL",
    )
}

fn slot(server: &Server, plan: &Plan<'_>) -> Finding {
    let name = plan.slot;
    let Some(slot) = &server.slot else {
        return Finding::cured_by_init(format!("slot {name:?} is missing"));
    };
    if let Some((what, advice)) = slot.state.problem(name) {
        return Finding::error(what, advice);
    }
    if !server.has_publication {
        // Decoding looks the publication up as of each change, so a new one does not help.
        return Finding::error(
            format!("publication {:?} is missing, but slot {name:?} exists", plan.publication),
            "if nothing was captured yet, drop the slot and run init; else changes since the \
             publication was dropped cannot be read, and this site must be rebuilt from another",
        );
    }
    let retained = slot.retained_bytes.unwrap_or(0).max(0);
    if slot.state == SlotState::AtRisk {
        return Finding::warning(
            format!("slot {name:?} holds back {retained} bytes of WAL and is about to be lost"),
            "start the daemon, and raise max_slot_wal_keep_size",
        );
    }
    let used = if slot.is_active { "in use" } else { "not in use" };
    Finding::ok(format!("slot {name:?} is {used} and holds back {retained} bytes of WAL"))
}

fn capacity(server: &Server) -> Vec<Finding> {
    let has_slot = server.slot.is_some();
    let is_streaming = server.slot.as_ref().is_some_and(|slot| slot.is_active);
    let room = |setting, max, used, needs_one: bool| {
        let what = format!("{used} of {max} {setting} are taken");
        if needs_one && used >= i64::from(max) {
            Finding::error(
                format!("{what} and we need one more"),
                format!("raise {setting} in postgresql.conf and restart PostgreSQL"),
            )
        } else {
            Finding::ok(what)
        }
    };
    vec![
        room("max_replication_slots", server.slots_max, server.slots_used, !has_slot),
        room("max_wal_senders", server.senders_max, server.senders_used, !is_streaming),
    ]
}

fn encoding(server: &Server) -> Finding {
    if server.encoding == "UTF8" {
        return Finding::ok("the database is encoded in UTF8");
    }
    Finding::error(
        format!("the database is encoded in {}, so not every text fits it", server.encoding),
        "dump it and restore it into a database made with ENCODING 'UTF8'",
    )
}

fn clock(difference: ClockDifference, drift_max: Duration) -> Finding {
    let certain =
        difference.ms.unsigned_abs().saturating_sub(difference.uncertainty_ms.unsigned_abs());
    let direction = if difference.ms < 0 { "behind" } else { "ahead of" };
    let what =
        format!("PostgreSQL's clock is {} ms {direction} ours", difference.ms.unsigned_abs());
    let advice = "set the clocks of both machines by NTP";
    match Duration::from_millis(certain) {
        apart if apart > drift_max => Finding::error(what, advice),
        apart if apart > CLOCK_NOTICEABLE => Finding::warning(what, advice),
        _ => {
            let apart = difference.ms.unsigned_abs().max(1);
            Finding::ok(format!("PostgreSQL's clock is within {apart} ms of ours"))
        }
    }
}

/// Our walsender must not be a synchronous standby by accident: then every commit of the
/// application would wait for us.
fn waiting_commits(server: &Server) -> Option<Finding> {
    let names = &server.standby_names;
    if names.is_empty() || matches!(server.synchronous_commit.as_str(), "local" | "off") {
        return None;
    }
    let counts_us = names.contains('*') || names.contains("landfall");
    let what = format!(
        "synchronous_standby_names is {names:?} and synchronous_commit is {:?}",
        server.synchronous_commit
    );
    let advice = "run ALTER DATABASE ... SET synchronous_commit = 'local', and let transactions \
                  that want to wait say so";
    Some(if counts_us {
        Finding::error(format!("{what}, so every commit waits for Landfall"), advice)
    } else {
        Finding::warning(format!("{what}, so commits wait for those standbys"), advice)
    })
}

fn slot_limits(server: &Server) -> Vec<Finding> {
    let keep = &server.slot_wal_keep;
    let mut findings = vec![if keep == "-1" {
        Finding::hint(
            "max_slot_wal_keep_size is unlimited",
            "if the daemon is down for long, WAL fills the disk; a limit keeps PostgreSQL up, but \
             past it this site must be rebuilt",
        )
    } else {
        Finding::hint(
            format!("max_slot_wal_keep_size is {keep}"),
            "if the daemon is down for more WAL than that, this site must be rebuilt",
        )
    }];
    if !matches!(server.idle_slot_timeout.as_str(), "" | "0") {
        findings.push(Finding::warning(
            format!("idle_replication_slot_timeout is {}", server.idle_slot_timeout),
            "set it to 0: past it a daemon that was down finds its slot lost",
        ));
    }
    findings
}

fn defaults(server: &Server) -> Vec<Finding> {
    let rules = [
        (
            server.read_only == "on",
            Severity::Error,
            "default_transaction_read_only is on for our role here",
            "reset it for the role or the database",
        ),
        (
            server.replication_role != "origin",
            Severity::Error,
            "session_replication_role is not origin by default, so the application's triggers and \
             foreign keys do not work",
            "reset it for the role and the database",
        ),
        (
            server.statement_timeout != "0",
            Severity::Warning,
            "statement_timeout is set for our role here",
            "reset it for the role; the daemon sets timeouts of its own",
        ),
        (
            server.deadlock_timeout_ms < DEADLOCK_TIMEOUT_MIN_MS,
            Severity::Warning,
            "deadlock_timeout is shorter than a second, so a transaction of the application may be \
             ended for one of replication",
            "set deadlock_timeout = '1s' or longer in postgresql.conf",
        ),
        (
            server.fsync != "on",
            Severity::Warning,
            "fsync is off, so a crash may lose changes that other sites already have",
            "set fsync = on in postgresql.conf",
        ),
    ];
    let broken = rules.into_iter().filter(|(applies, ..)| *applies);
    broken
        .map(|(_, severity, what, advice)| Finding::new(severity, what.into(), advice.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use landfall_protocol::fleet::{Fleet, Member, Role, Set, parse_table_name};
    use landfall_protocol::id::{PublicKey, SiteId};
    use landfall_protocol::schema::SetId;

    use super::*;

    fn healthy() -> Server {
        let slot = Slot {
            state: SlotState::Good,
            is_active: true,
            retained_bytes: Some(56),
            confirmed: None,
        };
        Server {
            version: 150_018,
            version_text: "15.18".into(),
            is_in_recovery: false,
            wal_level: "logical".into(),
            slots_max: 10,
            slots_used: 1,
            senders_max: 10,
            senders_used: 1,
            encoding: "UTF8".into(),
            standby_names: String::new(),
            synchronous_commit: "on".into(),
            slot_wal_keep: "10GB".into(),
            idle_slot_timeout: String::new(),
            fsync: "on".into(),
            read_only: "off".into(),
            replication_role: "origin".into(),
            statement_timeout: "0".into(),
            deadlock_timeout_ms: 1_000,
            bypasses_row_security: true,
            clock: ClockDifference { ms: 3, uncertainty_ms: 1 },
            slot: Some(slot),
            has_publication: true,
        }
    }

    /// The worst that is said about a server that is healthy but for `change`.
    fn check(change: impl FnOnce(&mut Server), expected: Severity, words: &str) {
        let table = parse_table_name("public.bed").unwrap();
        let set =
            Set { id: SetId(1), name: "ward".into(), tables: vec![table], full_history: false };
        let member = Member {
            site: SiteId::new(1).unwrap(),
            name: "ship".into(),
            key: PublicKey([1; 32]),
            addresses: vec![],
            role: Role::Site,
        };
        let fleet = Fleet::new(1, vec![set], vec![member]).unwrap();
        let plan = Plan {
            fleet: &fleet,
            member: "ship",
            role: "landfall",
            slot: "landfall_ship",
            publication: "landfall",
            drift_max: Duration::from_secs(300),
        };
        let mut server = healthy();
        change(&mut server);
        let findings = judge(&server, &plan);
        let worst = findings.iter().max_by_key(|finding| finding.severity).unwrap();
        assert_eq!(worst.severity, expected, "{findings:?}");
        assert!(
            findings.iter().any(|f| f.severity == expected && f.what.contains(words)),
            "{worst:?}"
        );
        let advised = |f: &Finding| f.severity == Severity::Ok || !f.advice.is_empty();
        assert!(findings.iter().all(advised), "{findings:?}");
    }

    #[test]
    fn every_trap_of_a_server_is_found() {
        use Severity::{Error, Ok, Warning};
        check(|_| {}, Ok, "slot \"landfall_ship\" is in use and holds back 56 bytes");
        check(|s| s.version = 140_011, Error, "15 is the oldest");
        check(|s| s.version = 190_000, Warning, "newer than any");
        check(|s| s.wal_level = "replica".into(), Error, "wal_level is replica");
        check(|s| s.is_in_recovery = true, Error, "standby");
        check(|s| s.slot = None, Error, "is missing");
        check(|s| s.has_publication = false, Error, "\"landfall\" is missing, but slot");
        let state = |state: SlotState| move |s: &mut Server| s.slot.as_mut().unwrap().state = state;
        check(state(SlotState::Lost), Error, "is lost");
        check(state(SlotState::AtRisk), Warning, "about to be lost");
        check(state(SlotState::OtherDatabase("x".into())), Error, "belongs to database \"x\"");
        check(state(SlotState::OtherPlugin(String::new())), Error, "physical replication");
        let full = |s: &mut Server| {
            s.slot = None;
            s.slots_used = 10;
        };
        check(full, Error, "10 of 10 max_replication_slots are taken and we need");
        check(|s| s.slots_used = 10, Ok, "10 of 10 max_replication_slots");
        let busy = |s: &mut Server| {
            s.senders_used = 10;
            s.slot.as_mut().unwrap().is_active = false;
        };
        check(busy, Error, "10 of 10 max_wal_senders are taken and we need");
        check(|s| s.encoding = "LATIN1".into(), Error, "LATIN1");
        check(|s| s.clock.ms = -400_000, Error, "400000 ms behind ours");
        check(|s| s.clock.ms = 2_000, Warning, "2000 ms ahead of ours");
        check(|s| s.standby_names = "*".into(), Error, "every commit waits for Landfall");
        check(|s| s.standby_names = "mirror".into(), Warning, "wait for those standbys");
        let local = |s: &mut Server| {
            s.standby_names = "*".into();
            s.synchronous_commit = "local".into();
        };
        check(local, Ok, "");
        check(|s| s.idle_slot_timeout = "1d".into(), Warning, "idle_replication_slot_timeout");
        check(|s| s.slot_wal_keep = "-1".into(), Ok, "max_slot_wal_keep_size is unlimited");
        check(|s| s.read_only = "on".into(), Error, "read_only");
        check(|s| s.replication_role = "replica".into(), Error, "session_replication_role");
        check(|s| s.statement_timeout = "1s".into(), Warning, "statement_timeout");
        check(|s| s.deadlock_timeout_ms = 999, Warning, "deadlock_timeout is shorter");
        check(|s| s.fsync = "off".into(), Warning, "fsync");
    }

    #[test]
    fn a_slow_answer_is_not_taken_for_a_wrong_clock() {
        let difference = clock_difference(1_000_000, 1_002_500, 1_004_000);
        assert_eq!((difference.ms, difference.uncertainty_ms), (500, 2_000));
        let finding = clock(ClockDifference { ms: 1_900, uncertainty_ms: 1_000 }, CLOCK_NOTICEABLE);
        assert_eq!(finding.severity, Severity::Ok);
    }
}
