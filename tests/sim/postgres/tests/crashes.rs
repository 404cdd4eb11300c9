//! What is left when a process or a connection is gone, and what a backup brings back.

use super::*;

fn asynchronous() -> Settings {
    Settings { sync: SyncCommit::Off, is_replica: true, ..Settings::APPLICATION }
}

#[test]
fn a_crash_takes_what_is_not_on_disk_and_nothing_else() {
    let lost = std::cell::Cell::new(0);
    check(options(), async |cluster| {
        let mut application = connect(&cluster).await;
        insert(&mut application, 1, 10).await.unwrap();
        let mut apply = cluster.connect(asynchronous()).await.unwrap();
        insert(&mut apply, 2, 20).await.unwrap();
        insert(&mut apply, 3, 30).await.unwrap();
        assert_eq!(shown(&cluster, 3), Some(30));
        let mut open = begun(&cluster).await;
        add(&mut open, 1, 1).await.unwrap();
        cluster.crash();
        assert!(matches!(cluster.connect(Settings::APPLICATION).await, Err(PgError::Down)));
        cluster.start();
        assert_eq!(insert(&mut application, 4, 1).await, Err(PgError::Lost));
        assert_eq!(shown(&cluster, 1), Some(10));
        // One of the log's first two transactions is never there without the other.
        assert!(shown(&cluster, 3).is_none() || shown(&cluster, 2).is_some());
        lost.set(lost.get() + usize::from(shown(&cluster, 3).is_none()));
        insert(&mut connect(&cluster).await, 4, 40).await.unwrap();
    });
    assert!((1..20).contains(&lost.get()), "{} of 20", lost.get());
}

#[test]
fn an_asynchronous_commit_is_on_disk_some_time_later() {
    check(options(), async |cluster| {
        let mut apply = cluster.connect(asynchronous()).await.unwrap();
        insert(&mut apply, 2, 20).await.unwrap();
        sleep_ms(300).await;
        cluster.crash();
        cluster.start();
        assert_eq!(shown(&cluster, 2), Some(20));
    });
}

#[test]
fn a_dropped_session_leaves_no_lock_behind() {
    check(options(), async |cluster| {
        let mut session = begun(&cluster).await;
        insert(&mut session, 1, 10).await.unwrap();
        drop(session);
        assert_eq!(insert(&mut connect(&cluster).await, 1, 11).await, Ok(1));
    });
}

#[test]
fn a_commit_whose_client_is_gone_is_done_or_not() {
    let mut options = options();
    options.pauses = Pauses { yields: 0, sleeps: 100, sleep_ms_max: 3 };
    let done = std::cell::Cell::new(0);
    check(options, async |cluster| {
        let mut session = begun(&cluster).await;
        insert(&mut session, 1, 10).await.unwrap();
        drop(tokio::time::timeout(Duration::from_millis(1), session.commit()).await);
        drop(session);
        sleep_ms(100).await;
        assert!(cluster.open_transactions().is_empty());
        assert_eq!(cluster.history(0).len(), usize::from(shown(&cluster, 1).is_some()));
        done.set(done.get() + cluster.history(0).len());
    });
    assert!((1..20).contains(&done.get()), "{} of 20", done.get());
}

#[test]
fn lost_connections_leave_the_outcome_open() {
    let mut options = options();
    options.lost_per_million = 200_000;
    let (lost, kept) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    check(options, async |cluster| {
        for id in 0..20 {
            let mut session = connect(&cluster).await;
            let inserted = insert(&mut session, id, 1).await;
            sleep_ms(50).await;
            match inserted {
                Ok(_) => assert!(shown(&cluster, id).is_some()),
                Err(error) => {
                    assert_eq!(error, PgError::Lost);
                    lost.set(lost.get() + 1);
                    kept.set(kept.get() + usize::from(shown(&cluster, id).is_some()));
                }
            }
        }
    });
    assert!(kept.get() > 0 && kept.get() < lost.get());
}

#[test]
fn a_backup_brings_back_what_was() {
    check(options(), async |cluster| {
        cluster.create_slot();
        let mut session = connect(&cluster).await;
        insert(&mut session, 1, 10).await.unwrap();
        let backup: Backup = cluster.backup();
        let (end, _) = cluster.log_ends();
        add(&mut session, 1, 5).await.unwrap();
        for (how, has_slot, timeline) in [
            (Restore::Disk, true, 1),
            (Restore::WithoutSlots, false, 1),
            (Restore::Promoted, false, 2),
        ] {
            cluster.restore(&backup, how);
            assert_eq!((shown(&cluster, 1), cluster.log_ends()), (Some(10), (end, end)));
            assert_eq!(cluster.slot().await.unwrap().is_some(), has_slot);
            assert_eq!(cluster.identify_system().await.unwrap().timeline, timeline);
            assert_eq!(cluster.timeline_history().await.unwrap().len(), timeline as usize - 1);
            add(&mut connect(&cluster).await, 1, 7).await.unwrap();
            assert_eq!((shown(&cluster, 1), cluster.history(0).len()), (Some(17), 2));
        }
    });
}

#[test]
fn cut_connections_are_lost_and_what_they_held_is_free() {
    check(options(), async |cluster| {
        let start = cluster.create_slot();
        let mut stream = cluster.start_replication(start).await.unwrap();
        let mut session = begun(&cluster).await;
        insert(&mut session, 1, 10).await.unwrap();
        cluster.cut_connections();
        assert_eq!(insert(&mut connect(&cluster).await, 1, 11).await, Ok(1));
        assert_eq!(session.commit().await, Err(PgError::Lost));
        assert_eq!(stream.next().await.unwrap_err(), PgError::Lost);
        drop(stream);
        sleep_ms(30).await;
        assert!(cluster.start_replication(start).await.is_ok());
    });
}

#[test]
fn a_session_hears_that_it_is_cut_off() {
    check(options(), async |cluster| {
        for crashes in [true, false] {
            let session = connect(&cluster).await;
            let later = async {
                sleep_ms(100).await;
                match crashes {
                    true => cluster.crash(),
                    false => cluster.cut_connections(),
                }
            };
            let started = Instant::now();
            tokio::join!(session.closed(), later);
            assert_eq!(started.elapsed(), Duration::from_millis(100));
            cluster.start();
        }
    });
}
