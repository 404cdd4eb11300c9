use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::aside::{AsideEntry, AsideStatus};
use super::bundle::BundleStatus;
use super::explain::Explained;
use super::parked::{ParkedList, ParkedStatus};
use super::server::AdminServer;
use super::status::{
    ApplyCounters, Cost, DaemonState, Fates, HistoryStatus, MonthStatus, OriginStatus, Part,
    PartState, PeerState, PeerStatus, SlotStatus, Status, StoreStatus,
};
use super::wait::{Goal, WaitError, missing, wait};
use super::*;
use crate::postgres::lsn::Lsn;
use crate::store::StoreError;

fn peer(name: &str) -> PeerStatus {
    PeerStatus {
        name: name.into(),
        state: PeerState::Connected,
        dialled: true,
        last_contact_ms_ago: Some(1_500),
        next_attempt_in_ms: None,
        cause: None,
        bytes_sent: 12_345,
        bytes_received: 999,
        bytes_resumed: 40_000,
        unacknowledged_changes: 0,
        unacknowledged_bytes: 0,
        lacks_changes: 0,
        offers_changes: 0,
        month: MonthStatus::default(),
        lacks_bytes: 0,
        drain_ms: None,
    }
}

fn status() -> Status {
    let works = || Some(Part { state: PartState::Working, cause: None });
    let origin = OriginStatus {
        name: "ship-a".into(),
        site: 2,
        incarnation: "00000000000000ab".into(),
        received: 7,
        applied: 7,
    };
    Status {
        site: 2,
        name: "ship-a".into(),
        incarnation: Some("00000000000000ab".into()),
        version: "0.1.0".into(),
        fleet_version: 1,
        state: DaemonState::Running,
        why: None,
        capture: works(),
        apply: works(),
        apply_counters: Some(ApplyCounters { groups: 2, ..ApplyCounters::default() }),
        fold_lsn: Some(Lsn(0x16_B374_D848)),
        wal_lsn: Some(Lsn(0x16_B374_D848)),
        slot_lag_bytes: Some(56),
        slot: Some(SlotStatus { retained_bytes: 56, retained_bytes_max: None, left_bytes: None }),
        store: StoreStatus {
            state: PartState::Working,
            cause: None,
            bytes: 81_920,
            bytes_max: None,
            disk_free_bytes: Some(1_000_000_000),
        },
        warnings: Vec::new(),
        own_seq: 7,
        vector: vec![origin],
        inbox_pending_changes: 0,
        held_units: 0,
        fates: Fates { received: 5, applied: 3, merged: 1, superseded: 1, parked: 0, pending: 0 },
        parked: ParkedStatus::default(),
        aside: Some(AsideStatus::default()),
        repaired_rows: 0,
        rows_to_repair: 0,
        history: Some(HistoryStatus { keep_days: 365, removed: 7, cause: None }),
        bundles: BundleStatus::default(),
        peers: vec![peer("shore"), peer("ship-b")],
    }
}

/// What is said to be missing to the goals in a status that differs by `change`; `""` = nothing.
fn check(change: impl FnOnce(&mut Status), delivered: &str, converged: &str) {
    let mut status = status();
    let committed = status.wal_lsn;
    change(&mut status);
    for (goal, expected) in [(Goal::Delivered, delivered), (Goal::Converged, converged)] {
        let missing = missing(&status, goal, committed).unwrap_or_default();
        assert!(
            missing.contains(expected) && expected.is_empty() == missing.is_empty(),
            "{missing}"
        );
    }
}

#[test]
fn goals_say_what_is_missing() {
    check(|_| {}, "", "");
    let early = "changes are captured up to 0/1, not yet to 16/B374D848";
    check(|s| s.fold_lsn = Some(Lsn(1)), early, early);
    let owed = "ship-b has not acknowledged 3 changes (no route)";
    let unacknowledged = |s: &mut Status| {
        s.peers[1].state = PeerState::Waiting;
        s.peers[1].unacknowledged_changes = 3;
        s.peers[1].cause = Some("no route".into());
    };
    check(unacknowledged, owed, owed);
    let never_met = |s: &mut Status| {
        unacknowledged(s);
        s.peers[1].dialled = false;
    };
    check(never_met, "", "");
    check(|s| s.inbox_pending_changes = 2, "", "2 changes wait to be applied");
    check(|s| s.peers[0].lacks_changes = 4, "", "shore lacks 4 changes of ours and has 0");
    check(|s| s.peers[0].offers_changes = 4, "", "shore lacks 0 changes of ours and has 4");
    let alone = |s: &mut Status| s.peers.iter_mut().for_each(|p| p.state = PeerState::Waiting);
    check(alone, "", "there is no link to anybody");
    check(|s| s.peers.clear(), "", "");
}

#[test]
fn a_status_reads_back_and_positions_are_text() {
    let value = serde_json::to_value(status()).unwrap();
    assert_eq!(value["fold_lsn"], json!("16/B374D848"));
    assert_eq!(value["state"], json!("running"));
    assert_eq!(value["peers"][0]["state"], json!("connected"));
    assert_eq!(serde_json::from_value::<Status>(value).unwrap(), status());
}

#[test]
fn sentences_explain_lag_backlog_contact_and_cause() {
    let mut status = status();
    status.wal_lsn = Some(Lsn(0x16_B374_D848 + 2_500_000));
    status.state = DaemonState::Operator;
    status.why = Some("slot \"x\" is lost".into());
    status.apply = Some(Part { state: PartState::Retrying, cause: Some("lock timeout".into()) });
    let shore = &mut status.peers[0];
    shore.state = PeerState::Waiting;
    shore.cause = Some("timed out".into());
    shore.last_contact_ms_ago = Some(3 * 86_400_000);
    shore.next_attempt_in_ms = Some(12_000);
    shore.unacknowledged_changes = 12;
    shore.unacknowledged_bytes = 3_456;
    let text = Explained(&status).to_string();
    for part in [
        "ship-a (site 2) stands still until somebody acts: slot \"x\" is lost.",
        "Changes are captured up to 16/B374D848, 2.5 MB behind PostgreSQL; 56 bytes are not confirmed to the slot.",
        "Apply is interrupted and tries again: lock timeout.",
        "5 changes came from others: 3 applied, 1 merged, 1 superseded, 0 parked, 0 waiting.",
        "shore: no link: timed out; last heard from 3 days ago; next attempt in 12 s; 12.3 kB sent, 999 bytes received.",
        "  12 of our own changes (3.4 kB) are not acknowledged by it.",
        "ship-b: connected; last heard from 1 s ago;",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("do not add up"), "{text}");
    for part in [
        "The store works; it takes 81.9 kB; 1.0 GB are free on its disk.",
        "PostgreSQL keeps 56 bytes of WAL for our slot; there is no limit but its disk.",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    status.fates.received += 1;
    assert!(Explained(&status).to_string().contains("do not add up"));
}

#[test]
fn a_full_store_and_a_slot_that_is_soon_lost_are_explained() {
    let mut status = status();
    let (full, advice) = (StoreError::Full, StoreError::Full.advice());
    status.store.state = PartState::Retrying;
    status.store.cause = Some(format!("{full}; {advice}"));
    status.store.bytes_max = Some(100_000);
    let slot = |retained_bytes, retained_bytes_max, left_bytes| SlotStatus {
        retained_bytes,
        retained_bytes_max,
        left_bytes,
    };
    assert_eq!(slot(500, Some(1000), Some(500)).warning(), None);
    assert_eq!(slot(1 << 30, None, None).warning(), None);
    assert!(slot((1 << 30) + 1, None, None).warning().unwrap().contains("no limit"));
    status.slot = Some(slot(600, Some(1000), Some(400)));
    status.warnings = status.slot.iter().filter_map(SlotStatus::warning).collect();
    let text = Explained(&status).to_string();
    for part in [
        "Warning: PostgreSQL keeps 600 bytes of WAL for our slot; after 400 more the slot is lost",
        "The store is interrupted and tries again: store is full: no room on its disk or in its \
         budget; free space on the disk of data_dir, or raise limits.store_bytes_max and restart; \
         nothing is lost; it takes 81.9 kB and may take 100.0 kB; 1.0 GB are free on its disk.",
        "PostgreSQL keeps 600 bytes of WAL for our slot, 1.0 kB are allowed; 400 bytes more and",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn rows_that_are_put_aside_are_named_with_what_frees_them() {
    let mut status = status();
    let aside = AsideStatus { rows: 2, oldest_ms_ago: Some(7_500) };
    status.warnings = aside.warning().into_iter().collect();
    status.aside = Some(aside);
    let text = Explained(&status).to_string();
    assert!(text.contains("Warning: 2 rows are put aside because older ones have"), "{text}");
    assert!(text.contains("the oldest for 7 s; landfall-node parked list names them."), "{text}");
    let metrics = metrics::encode(status);
    for line in ["landfall_aside_rows 2\n", "landfall_aside_oldest_age_milliseconds 7500\n"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert_eq!(AsideStatus::default().warning(), None);
    let entry = AsideEntry {
        table: "public.person".into(),
        row_key: "11".into(),
        reason: "row 10 has what person_email_key lets only one row have, and had it first".into(),
        aside_ms_ago: 2_000,
    };
    let mut list = ParkedList { entries: Vec::new(), aside: vec![entry], truncated: false };
    let told = list.explained();
    assert!(told.starts_with("public.person row 11: put aside for 2 s, row 10 has what"), "{told}");
    assert!(told.contains("it comes back when that row is changed"), "{told}");
    list.aside.clear();
    assert_eq!(list.explained(), "Nothing is parked, and no row is put aside.\n");
}

/// Serves `answer` on a fresh socket while `work` runs.
async fn with_server<T>(
    answer: impl Fn(Request) -> Result<Value, String>,
    work: impl AsyncFnOnce(&Path) -> T,
) -> T {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let server = AdminServer::bind(&socket).unwrap();
    let stop = CancellationToken::new();
    let serve = server.serve(stop.clone(), async |request| answer(request), async |_, _| {});
    let (served, done) = tokio::join!(serve, async {
        let done = work(&socket).await;
        stop.cancel();
        done
    });
    served.unwrap();
    assert!(!socket.exists());
    done
}

#[tokio::test]
async fn status_travels_over_the_socket() {
    let answer = |request| {
        assert_eq!(request, Request::Status {});
        Ok(serde_json::to_value(status()).unwrap())
    };
    let got = with_server(answer, async |socket| client::status(socket).await).await.unwrap();
    assert_eq!(got, status());
}

#[tokio::test]
async fn refusals_and_nonsense_are_told() {
    let refused = with_server(
        |_| Err("store is not open".into()),
        async |socket| client::status(socket).await.unwrap_err().to_string(),
    );
    assert_eq!(refused.await, "store is not open");
    let odd = with_server(
        |_| Ok(json!({ "site": 1 })),
        async |socket| client::status(socket).await.unwrap_err(),
    );
    assert!(matches!(odd.await, AdminError::Unexpected { .. }));
}

#[tokio::test]
async fn silence_is_told_and_a_leftover_file_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let error = client::status(&socket).await.unwrap_err();
    assert!(matches!(error, AdminError::NotRunning(_)), "{error}");
    // What a killed daemon leaves: a file nobody listens at.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let error = client::status(&socket).await.unwrap_err();
    assert!(matches!(error, AdminError::NotRunning(_)), "{error}");
    let server = AdminServer::bind(&socket).unwrap();
    let second = AdminServer::bind(&socket).unwrap_err();
    assert!(matches!(second, AdminError::AlreadyRunning(_)), "{second}");
    drop(server);
    assert!(!socket.exists());
}

#[tokio::test]
async fn waiting_ends_with_the_goal_with_the_reason_or_at_once_when_fenced() {
    let long = Duration::from_secs(60);
    let ok = |_| Ok(serde_json::to_value(status()).unwrap());
    with_server(ok, async |socket| wait(socket, Goal::Converged, long).await).await.unwrap();

    let mut behind = status();
    behind.peers[0].unacknowledged_changes = 1;
    let answer = |_| Ok(serde_json::to_value(&behind).unwrap());
    let short = Duration::from_millis(300);
    let error =
        with_server(answer, async |socket| wait(socket, Goal::Delivered, short).await).await;
    let error = error.unwrap_err().to_string();
    assert!(error.ends_with("shore has not acknowledged 1 changes"), "{error}");

    let mut fenced = status();
    fenced.state = DaemonState::Fenced;
    fenced.why = Some("database was restored".into());
    let answer = |_| Ok(serde_json::to_value(&fenced).unwrap());
    let error = with_server(answer, async |socket| wait(socket, Goal::Delivered, long).await).await;
    assert!(matches!(error, Err(WaitError::Stopped(why)) if why == "database was restored"));
}

#[test]
fn a_link_that_costs_is_told_in_bytes_and_money() {
    let mut status = status();
    assert!(!Explained(&status).to_string().contains("This month"));
    let peer = &mut status.peers[0];
    let cost = Some(Cost { millionths: 55_555_555, currency: "USD".into() });
    peer.month = MonthStatus { bytes: 12_345_678, budget_bytes: Some(50_000_000), cost };
    (peer.lacks_bytes, peer.drain_ms) = (1_500_000, Some(8_000_000));
    let said = Explained(&status).to_string();
    assert!(
        said.contains("  This month 12.3 MB for 55.55 USD; 37.6 MB of 50.0 MB are left.\n"),
        "{said}"
    );
    assert!(said.contains("  To send it what it lacks (1.5 MB) takes about 2 h.\n"), "{said}");
    let page = metrics::encode(status);
    for line in [
        "landfall_peer_resumed_bytes_total{peer=\"shore\"} 40000",
        "landfall_peer_month_bytes{peer=\"shore\"} 12345678",
        "landfall_peer_month_budget_bytes{peer=\"shore\"} 50000000",
        "landfall_peer_month_cost_millionths{peer=\"shore\",currency=\"USD\"} 55555555",
        "landfall_peer_drain_milliseconds{peer=\"shore\"} 8000000",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}
