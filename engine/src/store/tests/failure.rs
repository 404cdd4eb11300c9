//! What happens when something is wrong: full, damaged, contradicting, in use.

use std::sync::mpsc;

use landfall_protocol::fold::FoldError;

use super::*;
use crate::store::{Bond, Sealing, Severity, StoreError, Token};

fn one_row(table: &Arc<TableDef>, id: i64, note: &str) -> Vec<CapturedTransaction> {
    vec![own(5, vec![insert(table, row(id, note, 0))])]
}

/// Holds the writing thread inside a command until the sender is dropped.
async fn hold(store: &Store, gate: mpsc::Receiver<()>) {
    store
        .write(0, move |_| {
            let _ = gate.recv();
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn commands_that_wait_share_one_commit() {
    let (_dir, store) = fresh(1);
    let (open_gate, gate) = mpsc::channel::<()>();
    let t = table("t");
    let quarantine = |site| store.quarantine(origin(site), "test".into());
    let results = tokio::join!(
        hold(&store, gate),
        store.fold(one_row(&t, 1, "a"), 2000, Vec::new()),
        store.fold(one_row(&t, 2, "b"), 2001, Vec::new()),
        quarantine(2),
        quarantine(3),
        quarantine(4),
        store.fold(one_row(&t, 3, "c"), 2002, Vec::new()),
        async { drop(open_gate) },
    );
    assert_eq!(results.6.unwrap().own_last, Seq(3));
    let statistics = store.statistics();
    assert_eq!(statistics.commands, 7);
    // The one that holds the thread may have taken some along.
    assert!(statistics.commits <= 2, "{statistics:?}");
}

#[tokio::test]
async fn a_marker_that_contradicts_the_inbox_undoes_only_its_own_fold() {
    let (dir, store) = fresh(1);
    let t = table("t");
    let (open_gate, gate) = mpsc::channel::<()>();
    let mut model = Model::new(1);
    let mut bad = one_row(&table("other"), 9, "lost");
    bad.push(apply(origin(2), 1, 1, Vec::new()));
    let (_, good, bad, late, set_aside, ()) = tokio::join!(
        hold(&store, gate),
        store.fold(one_row(&t, 1, "a"), 2000, Vec::new()),
        store.fold(bad, 2001, Vec::new()),
        store.fold(one_row(&t, 2, "b"), 2002, Vec::new()),
        store.quarantine(origin(3), "test".into()),
        async { drop(open_gate) },
    );
    good.unwrap();
    set_aside.unwrap();
    let missing = TxnId { origin: origin(2), seq: Seq(1) };
    assert_eq!(bad, Err(StoreError::Fold(FoldError::MissingTransaction(missing))));
    assert_eq!(late, Err(StoreError::FoldStopped), "it would leave a hole");
    assert_eq!(store.position().await, Ok((2000, None)));
    model.fold(one_row(&t, 1, "a"));
    model.check(&store).await;
    store.fold(one_row(&t, 2, "b"), 2002, Vec::new()).await.unwrap();
    model.fold(one_row(&t, 2, "b"));
    model.check(&store).await;
    let gap = store.fold(vec![apply(origin(3), 5, 5, Vec::new())], 2003, Vec::new()).await;
    assert_eq!(gap.unwrap_err().severity(), Severity::Operator);
    store.close().await;
    let (store, opened) = open(dir.path(), 1);
    assert_eq!(opened.log.quarantined.len(), 1);
    model.check(&store).await;
}

#[tokio::test]
async fn a_full_store_keeps_what_it_has_and_goes_on_when_there_is_room() {
    let (dir, store) = fresh(1);
    store.close().await;
    let budget = |bytes| Settings { budget_bytes: Some(bytes), ..settings() };
    let opened = Store::open(dir.path(), &budget(600_000), signer(1), 1).unwrap();
    let (store, t) = (opened.0, table("t"));
    let mut model = Model::new(1);
    let mut lsn = START_LSN;
    // Incompressible notes, so that sealing does not help.
    let note = |id: i64| {
        let mut x = id as u64;
        let mut text = String::new();
        while text.len() < 20_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(&format!("{:08x}", x >> 32));
        }
        text
    };
    let mut id = 0;
    let error = loop {
        id += 1;
        lsn += 1;
        match store.fold(one_row(&t, id, &note(id)), lsn, Vec::new()).await {
            Ok(_) => model.fold(one_row(&t, id, &note(id))),
            Err(error) => break error,
        }
        assert!(id < 100, "the budget is not kept");
    };
    assert_eq!((&error, error.severity()), (&StoreError::Full, Severity::Retry));
    assert_eq!(store.position().await, Ok((lsn - 1, None)));
    model.check(&store).await;
    let again = store.fold(one_row(&t, id, &note(id)), lsn, Vec::new()).await;
    assert_eq!(again, Err(StoreError::Full));
    store.quarantine(origin(2), "small things still fit".into()).await.unwrap();
    // The writing thread is kept busy until both folds are queued: a second one that is only sent
    // once the first has failed would be a new attempt.
    let (go, wait) = mpsc::channel::<()>();
    let (_, first, behind, ()) = tokio::join!(
        store.write(0, move |_| {
            wait.recv().expect("the test goes on");
            Ok(())
        }),
        store.fold(one_row(&t, id, &note(id)), lsn, Vec::new()),
        store.fold(one_row(&t, id + 1, "small"), lsn + 1, Vec::new()),
        async move { go.send(()).expect("the writer waits") },
    );
    assert_eq!(first, Err(StoreError::Full));
    assert!(behind.is_err(), "a fold behind a failed one never gets through: {behind:?}");
    store.close().await;
    let (store, opened) = Store::open(dir.path(), &budget(6_000_000), signer(1), 1).unwrap();
    assert_eq!(opened.log.fold_lsn, lsn - 1);
    store.fold(one_row(&t, id, &note(id)), lsn, Vec::new()).await.unwrap();
    model.fold(one_row(&t, id, &note(id)));
    model.check(&store).await;
}

#[tokio::test]
async fn a_transaction_over_the_limit_of_a_unit_is_refused_before_it_is_kept() {
    let (_dir, store) = fresh(1);
    let t = table("t");
    let huge = one_row(&t, 1, &"x".repeat(64 << 20));
    for sealing in [Sealing::Lazy, Sealing::Eager] {
        store.set_sealing(sealing).await.unwrap();
        let refused = store.fold(huge.clone(), 2000, Vec::new()).await.unwrap_err();
        assert!(matches!(refused, StoreError::TransactionTooLarge { seq: Seq(1), .. }));
    }
    assert_eq!(store.position().await, Ok((START_LSN, None)));
    Model::new(1).check(&store).await;
    let fits = one_row(&t, 1, &"x".repeat(60 << 20));
    store.fold(fits, 2000, Vec::new()).await.unwrap();
    assert_eq!(all_units(&store, origin(1)).await.len(), 1);
}

#[tokio::test]
async fn a_suspended_store_folds_again_when_that_is_lifted_and_keeps_its_bond() {
    let (dir, store) = fresh(1);
    assert_eq!(store.bond().await.unwrap(), Bond::default());
    let token = |generation| Some(Token { generation, random: u64::MAX });
    let bond = Bond { timeline: Some(7), confirmed: token(2), intended: token(3) };
    store.set_bond(bond).await.unwrap();
    store.suspend(Some("older than its database".into())).await.unwrap();
    let refused = store.fold(one_row(&table("t"), 1, "a"), 2000, Vec::new()).await;
    assert_eq!(refused, Err(StoreError::Fenced("older than its database".into())));
    store.close().await;

    let (store, opened) = open(dir.path(), 1);
    assert_eq!(opened.log.fenced.as_deref(), Some("older than its database"));
    assert_eq!(store.bond().await.unwrap(), bond);
    store.suspend(None).await.unwrap();
    assert_eq!(store.watch().borrow().fenced, None);
    store.fold(one_row(&table("t"), 1, "a"), 2000, Vec::new()).await.unwrap();
    store.suspend(Some("again".into())).await.unwrap();
    store.fence("for good".into()).await.unwrap();
    store.suspend(None).await.unwrap();
    assert_eq!(store.watch().borrow().fenced.as_deref(), Some("for good"));
}

#[tokio::test]
async fn a_fenced_store_folds_no_more_but_passes_on() {
    let (dir, store) = fresh(1);
    let t = table("t");
    store.fold(one_row(&t, 1, "a"), 2000, Vec::new()).await.unwrap();
    store.fence("restored".into()).await.unwrap();
    store.fence("second reason".into()).await.unwrap();
    let refused = store.fold(one_row(&t, 2, "b"), 2001, Vec::new()).await;
    assert_eq!(refused, Err(StoreError::Fenced("restored".into())));
    store.close().await;
    let (store, opened) = open(dir.path(), 1);
    assert_eq!(opened.log.fenced.as_deref(), Some("restored"));
    let refused = store.advance_lsn(3000, crate::store::Advance::Now).await;
    assert_eq!(refused, Err(StoreError::Fenced("restored".into())));
    let units = foreign_units(2, &t, 1).await;
    store.append_units(units, 7).await.unwrap();
    assert_eq!(all_units(&store, origin(2)).await.len(), 1);
}

/// Flips one bit of the file at `places` one after the other and says what `ask` answers.
async fn with_flipped_bits<T>(
    dir: &Path,
    places: impl IntoIterator<Item = usize>,
    ask: impl AsyncFn(&Store) -> Result<T, StoreError>,
) -> Vec<Result<T, StoreError>> {
    let path = dir.join("landfall.db");
    let sound = std::fs::read(&path).unwrap();
    let mut answers = Vec::new();
    for place in places {
        let mut damaged = sound.clone();
        damaged[place] ^= 1 << (place % 8);
        std::fs::write(&path, &damaged).unwrap();
        let (store, _) = open(dir, 1);
        answers.push(ask(&store).await);
        store.close().await;
    }
    std::fs::write(&path, &sound).unwrap();
    answers
}

fn find(dir: &Path, wanted: &[u8]) -> usize {
    let file = std::fs::read(dir.join("landfall.db")).unwrap();
    file.windows(wanted.len()).rposition(|window| window == wanted).unwrap()
}

#[tokio::test]
async fn flipped_bits_in_units_are_noticed() {
    let (dir, store) = fresh(1);
    let units = foreign_units(2, &table("t"), 3).await;
    store.append_units(units.clone(), 7).await.unwrap();
    store.close().await;
    let bytes = units[1].bytes();
    let at = find(dir.path(), bytes);
    let corrupt = Err(StoreError::corrupt("unit", "2/2"));
    let places: Vec<usize> = (at..at + bytes.len()).step_by(9).collect();
    let ask = async |store: &Store| {
        let good = store.units_after(origin(2), Seq(0), 1).await?;
        assert_eq!(good.len(), 1, "the others are fine");
        let good = store.units_after(origin(2), Seq(0), usize::MAX).await?;
        assert_eq!(good.len(), 1, "what is sound is not lost with what follows");
        assert_eq!(store.inbox(origin(2), Seq(0), usize::MAX).await?.len(), 1);
        let decoded = store.inbox(origin(2), Seq(1), 1).await.map(|open| open.len());
        assert_eq!(store.units_after(origin(2), Seq(1), 1).await.map(|found| found.len()), decoded);
        decoded
    };
    for answer in with_flipped_bits(dir.path(), places, ask).await {
        assert_eq!(answer, corrupt);
    }
    // The columns beside the bytes are covered as well: the record's header and numbers stand
    // right before the hash.
    let hash = find(dir.path(), &units[1].hash().0);
    for answer in with_flipped_bits(dir.path(), hash..hash + 32, ask).await {
        assert_eq!(answer, corrupt);
    }
    let (store, _) = open(dir.path(), 1);
    assert_eq!(all_units(&store, origin(2)).await, units);
}

#[tokio::test]
async fn flipped_bits_in_the_tail_are_noticed_and_never_sealed() {
    let (dir, store) = fresh(1);
    let note = "a note that stands in the file as it is";
    store.fold(one_row(&table("t"), 1, note), 2000, Vec::new()).await.unwrap();
    store.close().await;
    let at = find(dir.path(), note.as_bytes());
    let txn = TxnId { origin: origin(1), seq: Seq(1) };
    let ask = async |store: &Store| {
        let found = store.transactions(vec![txn]).await.map(|found| found.len());
        let sealed = store.set_sealing(Sealing::Eager).await;
        assert_eq!(found.as_ref().err(), sealed.as_ref().err());
        assert_eq!(store.sizes().await.unwrap().units, 0);
        found
    };
    for answer in with_flipped_bits(dir.path(), at..at + note.len(), ask).await {
        assert_eq!(answer, Err(StoreError::corrupt("tail", 1)));
    }
}

#[tokio::test]
async fn flipped_bits_in_clocks_and_state_are_noticed() {
    let (dir, store) = fresh(1);
    // So many that their clocks are moved from the log into the table.
    for id in 1..20 {
        store.fold(one_row(&table("t"), id, "a"), 2000, Vec::new()).await.unwrap();
    }
    let fold = store.fold_state().await.unwrap();
    let table_id = fold.dictionary.id_of(&table("t").name).unwrap();
    let id =
        RowId { table: table_id, key: landfall_protocol::value::RowKey::new(&[Value::Int(1)]) };
    let clock = store.clocks(vec![id.clone()]).await.unwrap()[0].clone().unwrap();
    store.close().await;
    let mut state = landfall_protocol::codec::Writer::new();
    clock.encode(&mut state);
    let state = state.into_bytes();
    let key = [&table_id.0.to_le_bytes(), id.key.as_bytes()].concat();
    let at = find(dir.path(), &crate::store::crc::guard(&key, state.clone()));
    let ask = async |store: &Store| store.clocks(vec![id.clone()]).await;
    for answer in with_flipped_bits(dir.path(), at..at + state.len(), ask).await {
        assert_eq!(answer, Err(StoreError::corrupt("clock", table_id.0)));
    }
    let name = find(dir.path(), b"public");
    let path = dir.path().join("landfall.db");
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[name] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let refused = Store::open(dir.path(), &settings(), signer(1), 1).unwrap_err();
    assert_eq!(refused, StoreError::corrupt("own_table", table_id.0));
}

#[tokio::test]
async fn the_database_is_set_up_to_survive_a_power_cut() {
    let (dir, store) = fresh(1);
    let pragma = async |name: &'static str| {
        let read = move |writer: &mut crate::store::Writer<'_>| {
            let connection = writer.db.connection();
            Ok(connection
                .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))?)
        };
        store.write(0, read).await.unwrap()
    };
    let full = rusqlite::types::Value::Integer(2);
    assert_eq!(pragma("synchronous").await, full);
    assert_eq!(pragma("auto_vacuum").await, full, "incremental");
    assert_eq!(pragma("journal_mode").await, rusqlite::types::Value::Text("wal".into()));
    assert_eq!(pragma("page_size").await, rusqlite::types::Value::Integer(4096));
    assert_eq!(pragma("foreign_keys").await, rusqlite::types::Value::Integer(0));
    store.close().await;
    let length = |dir: &Path| std::fs::metadata(dir.join("ballast")).unwrap().len();
    let opened = Store::open(dir.path(), &Settings::default(), signer(1), 1).unwrap();
    assert_eq!(length(dir.path()), 16 << 20);
    opened.0.close().await;
}

/// What is damaged may end an answer, for whoever asks on is told. A disk that fails is not asked
/// again: it may answer, and nobody would know.
#[tokio::test]
async fn what_is_read_before_the_disk_fails_does_not_hide_the_failure() {
    let (_dir, store) = fresh(1);
    store.set_sealing(Sealing::Eager).await.unwrap();
    let long: String = (0..99_u8).map(|n| blake3::hash(&[n]).to_hex().to_string()).collect();
    store.fold(one_row(&table("t"), 1, "short"), 2000, Vec::new()).await.unwrap();
    store.fold(one_row(&table("t"), 2, &long), 2001, Vec::new()).await.unwrap();
    let limit = rusqlite::limits::Limit::SQLITE_LIMIT_LENGTH;
    let refuse = move |reader: &crate::store::Reader<'_>| {
        Ok(reader.db.connection().set_limit(limit, 2000)?)
    };
    store.read(refuse).await.unwrap();
    assert_eq!(store.units_after(origin(1), Seq(0), 1).await.unwrap().len(), 1);
    let units = store.units_after(origin(1), Seq(0), usize::MAX).await.unwrap_err();
    let opened = store.inbox(origin(1), Seq(0), usize::MAX).await.unwrap_err();
    assert_eq!((units.severity(), opened.severity()), (Severity::Fatal, Severity::Fatal));
}

/// After a sync that failed, the system shows what the disk has not got, and does not write it any
/// more. A start believes what it sees, so it must write that again.
#[tokio::test]
async fn what_a_start_recovers_is_written_again() {
    let (dir, store) = fresh(1);
    store.fold(one_row(&table("t"), 1, "in doubt"), 2000, Vec::new()).await.unwrap();
    let log = store.watch().borrow().clone();
    let with = |files: &[&str], from: &Path| {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
        }
        let (store, opened) = open(dir.path(), 1);
        (dir, store, opened.log)
    };
    let (_lost, _, without) = with(&["landfall.db"], dir.path());
    assert_ne!(without, log, "only the write-ahead log has it");
    let (started, _store, recovered) = with(&["landfall.db", "landfall.db-wal"], dir.path());
    assert_eq!(recovered, log);
    let (_kept, _, written) = with(&["landfall.db"], started.path());
    assert_eq!(written, log, "the database has it");
}

#[tokio::test]
async fn only_the_right_file_is_opened_and_none_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(dir.path(), &settings(), signer(1), 1).map(|_| ());
    let identity = Identity { origin: origin(1), database: None };
    assert!(matches!(open(), Err(StoreError::Missing(_))));
    assert!(!dir.path().join("landfall.lock").exists());
    let path = dir.path().join("landfall.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    let wrong = open().unwrap_err();
    assert!(matches!(wrong, StoreError::WrongStore { what: "application_id", .. }));
    let refused = Store::create(dir.path(), &identity, START_LSN);
    assert_eq!(refused, Err(StoreError::Exists(path.clone())));
    std::fs::remove_file(&path).unwrap();
    Store::create(dir.path(), &identity, START_LSN).unwrap();
    assert!(matches!(Store::create(dir.path(), &identity, 1), Err(StoreError::Exists(_))));
    open().unwrap();
}

/// Run by hand in a file system of about 40 MB of its own, named by the variable.
#[tokio::test]
#[ignore = "needs a small file system of its own in LANDFALL_TEST_SMALL_DISK"]
async fn a_full_disk_gives_up_the_ballast_and_gets_it_back() {
    let Ok(disk) = std::env::var("LANDFALL_TEST_SMALL_DISK") else { return };
    let dir = Path::new(&disk).join("store");
    create(&dir, 1);
    let (store, _) = Store::open(&dir, &Settings::default(), signer(1), 1).unwrap();
    let (t, mut lsn) = (table("t"), START_LSN);
    let filler = dir.join("filler");
    let filled = std::fs::write(&filler, vec![1; 1 << 30]);
    assert!(filled.is_err(), "the file system is too large");
    let ballast = dir.join("ballast");
    let mut fold = async |store: &Store, length: usize| {
        lsn += 1;
        let batch = one_row(&t, lsn as i64, &"x".repeat(length));
        store.fold(batch, lsn, Vec::new()).await
    };
    // File systems keep a little back for a while.
    let mut folded = 0;
    while fold(&store, 100_000).await.is_ok() {
        folded += 1;
        assert!(folded < 100, "the disk never gets full");
    }
    assert!(!ballast.exists());
    for _ in 0..20 {
        fold(&store, 100_000).await.unwrap();
    }
    std::fs::remove_file(&filler).unwrap();
    for _ in 0..300 {
        fold(&store, 1).await.unwrap();
    }
    assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 16 << 20);
    assert_eq!(store.watch().borrow().own, Seq(320 + folded));
    store.close().await;
    std::fs::remove_dir_all(&dir).unwrap();
}
