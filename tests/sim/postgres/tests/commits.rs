//! Commits, savepoints and what others see of them.

use super::*;

#[test]
fn nobody_sees_what_is_not_committed() {
    check(options(), async |cluster| {
        let (mut one, mut other) = (begun(&cluster).await, begun(&cluster).await);
        insert(&mut one, 1, 10).await.unwrap();
        assert_eq!(balance(&mut one, 1).await, Some(10));
        assert_eq!((balance(&mut other, 1).await, shown(&cluster, 1)), (None, None));
        one.commit().await.unwrap();
        assert_eq!((balance(&mut other, 1).await, shown(&cluster, 1)), (Some(10), Some(10)));
    });
}

#[test]
fn a_commit_is_in_the_log_before_it_is_visible() {
    let mut options = options();
    options.pauses = Pauses { yields: 0, sleeps: 100, sleep_ms_max: 3 };
    check(options, async |cluster| {
        let mut session = begun(&cluster).await;
        insert(&mut session, 1, 10).await.unwrap();
        let watch = async {
            let mut hidden = 0;
            while shown(&cluster, 1).is_none() {
                hidden += cluster.history(0).len();
                sleep_ms(1).await;
            }
            assert!(hidden > 0);
        };
        let (ended, ()) = tokio::join!(session.commit(), watch);
        assert_eq!(ended, Ok(Ended::Committed));
    });
}

#[test]
fn savepoints_stand_in_each_other() {
    check(options(), async |cluster| {
        let mut session = begun(&cluster).await;
        insert(&mut session, 1, 10).await.unwrap();
        session.set_savepoint().await.unwrap();
        add(&mut session, 1, 5).await.unwrap();
        session.set_savepoint().await.unwrap();
        insert(&mut session, 2, 20).await.unwrap();
        session.release().await.unwrap();
        assert_eq!(balance(&mut session, 2).await, Some(20));
        session.undo().await.unwrap();
        assert_eq!(
            (balance(&mut session, 1).await, balance(&mut session, 2).await),
            (Some(10), None)
        );
        assert_eq!(refused(session.release().await), "3B001");
        assert_eq!(refused(insert(&mut session, 3, 1).await), "25P02");
        assert_eq!(session.commit().await, Ok(Ended::RolledBack));
        assert_eq!(shown(&cluster, 1), None);
    });
}

#[test]
fn a_refused_row_fails_back_to_its_savepoint_only() {
    check(options(), async |cluster| {
        let mut session = begun(&cluster).await;
        insert(&mut session, 1, 10).await.unwrap();
        session.set_savepoint().await.unwrap();
        assert_eq!(refused(insert(&mut session, 2, 1001).await), "23514");
        assert_eq!(refused(insert(&mut session, 2, 1).await), "25P02");
        session.undo().await.unwrap();
        assert_eq!(session.commit().await, Ok(Ended::Committed));
        assert_eq!((shown(&cluster, 1), shown(&cluster, 2)), (Some(10), None));
        let record = cluster.history(0).pop().unwrap();
        assert_eq!(record.changes.len(), 1);
    });
}

#[test]
fn a_row_written_under_a_savepoint_has_another_xmin_than_its_transaction() {
    check(options(), async |cluster| {
        let mut session = begun(&cluster).await;
        insert(&mut session, 1, 10).await.unwrap();
        session.set_savepoint().await.unwrap();
        insert(&mut session, 2, 20).await.unwrap();
        session.release().await.unwrap();
        session.commit().await.unwrap();
        session.begin().await.unwrap();
        let keys = [key(1), key(2), key(3)];
        let locked = session.lock(ACCOUNTS, &keys, Strength::Update).await.unwrap();
        let xid = cluster.history(0)[0].xid as u32;
        assert_eq!(locked, [(0, xid), (1, xid + 1)]);
    });
}

#[test]
fn ids_go_on_behind_the_turn_of_the_lower_half() {
    let mut options = options();
    options.first_xid = (1 << 32) - 2;
    check(options, async |cluster| {
        let mut session = connect(&cluster).await;
        for id in 0..4 {
            insert(&mut session, id, 1).await.unwrap();
        }
        let xids: Vec<u64> = cluster.history(0).iter().map(|record| record.xid).collect();
        let turn = 1 << 32;
        assert_eq!(xids, [turn - 2, turn - 1, turn + 3, turn + 4]);
        assert_eq!(session.emit("test", b"").await.unwrap().0, turn + 5);
    });
}

#[test]
fn the_snapshot_of_a_barrier_is_held_back_by_open_writers() {
    check(options(), async |cluster| {
        let mut writer = begun(&cluster).await;
        insert(&mut writer, 1, 1).await.unwrap();
        let mut barrier = connect(&cluster).await;
        assert_eq!(barrier.emit("test", b"").await.unwrap().0, 700);
        assert!(!barrier.is_visible(700).await.unwrap());
        writer.commit().await.unwrap();
        assert_eq!(barrier.emit("test", b"").await.unwrap().0, 702);
        assert!(barrier.is_visible(700).await.unwrap());
    });
}

#[test]
fn foreign_keys_hold_and_replicas_do_not_look_at_them() {
    check(options(), async |cluster| {
        let mut session = connect(&cluster).await;
        let entry: Arc<[Value]> = [Value::Int(1), Value::Int(7)].into();
        let entries = [entry];
        let refusal = session.insert(ENTRIES, &entries, OnConflict::Fail).await;
        assert_eq!(refused(refusal), "23503");
        insert(&mut session, 7, 1).await.unwrap();
        assert_eq!(session.insert(ENTRIES, &entries, OnConflict::Fail).await, Ok(1));
        assert_eq!(refused(session.delete(ACCOUNTS, &[key(7)]).await), "23503");
        let settings = Settings { is_replica: true, ..Settings::APPLICATION };
        let mut replica = cluster.connect(settings).await.unwrap();
        assert_eq!(replica.delete(ACCOUNTS, &[key(7)]).await, Ok(1));
    });
}

#[test]
fn a_commit_waits_for_the_standby_it_asks_for() {
    let mut options = options();
    options.has_sync_standby = true;
    check(options, async |cluster| {
        let settings = Settings { sync: SyncCommit::RemoteApply, ..Settings::APPLICATION };
        let mut session = cluster.connect(settings).await.unwrap();
        let ask = async {
            while cluster.history(0).is_empty() {
                sleep_ms(1).await;
            }
            sleep_ms(5000).await;
            assert_eq!(shown(&cluster, 1), None);
            cluster.cancel_waits_for_standby();
        };
        let (inserted, ()) = tokio::join!(insert(&mut session, 1, 1), ask);
        assert_eq!((inserted, shown(&cluster, 1)), (Ok(1), Some(1)));
    });
}
