//! Who waits for whom, and for how long.

use super::*;

#[test]
fn a_writer_waits_and_goes_on_with_the_newest_row() {
    check(options(), async |cluster| {
        let mut one = connect(&cluster).await;
        insert(&mut one, 1, 10).await.unwrap();
        one.begin().await.unwrap();
        add(&mut one, 1, 5).await.unwrap();
        let mut other = begun(&cluster).await;
        let later = async {
            sleep_ms(700).await;
            assert_eq!(cluster.open_transactions().len(), 2);
            one.commit().await.unwrap();
        };
        let (added, ()) = tokio::join!(add(&mut other, 1, 100), later);
        assert_eq!(added, Ok(1));
        other.commit().await.unwrap();
        assert_eq!(shown(&cluster, 1), Some(115));
    });
}

#[test]
fn a_lock_gives_the_newest_writer_and_nothing_of_a_row_that_went() {
    check(options(), async |cluster| {
        let mut one = connect(&cluster).await;
        insert(&mut one, 1, 10).await.unwrap();
        insert(&mut one, 2, 10).await.unwrap();
        one.begin().await.unwrap();
        add(&mut one, 1, 5).await.unwrap();
        one.delete(ACCOUNTS, &[key(2)]).await.unwrap();
        // Under the same key, but another row.
        insert(&mut one, 2, 11).await.unwrap();
        let mut other = begun(&cluster).await;
        let later = async {
            sleep_ms(50).await;
            one.commit().await.unwrap();
        };
        let keys = [key(1), key(2)];
        let (locked, ()) = tokio::join!(other.lock(ACCOUNTS, &keys, Strength::Update), later);
        assert_eq!(locked, Ok(vec![(0, 702)]));
    });
}

#[test]
fn strengths_exclude_each_other_as_they_should() {
    use Strength::{KeyShare, NoKeyUpdate, Update};
    let pairs = [
        (KeyShare, KeyShare, true),
        (KeyShare, NoKeyUpdate, true),
        (NoKeyUpdate, KeyShare, true),
        (KeyShare, Update, false),
        (NoKeyUpdate, NoKeyUpdate, false),
        (NoKeyUpdate, Update, false),
        (Update, KeyShare, false),
        (Update, Update, false),
    ];
    check(options(), async |cluster| {
        insert(&mut connect(&cluster).await, 1, 10).await.unwrap();
        for (first, second, may) in pairs {
            let mut one = begun(&cluster).await;
            one.lock(ACCOUNTS, &[key(1)], first).await.unwrap();
            let mut other = begun(&cluster).await;
            other.set_local(Duration::from_millis(100), Duration::ZERO);
            let locked = other.lock(ACCOUNTS, &[key(1)], second).await;
            assert_eq!(locked.is_ok(), may, "{first:?} {second:?}");
            one.rollback().await.unwrap();
            other.rollback().await.unwrap();
        }
    });
}

#[test]
fn waits_end_by_their_limits() {
    check(options(), async |cluster| {
        let mut one = connect(&cluster).await;
        insert(&mut one, 1, 10).await.unwrap();
        one.begin().await.unwrap();
        add(&mut one, 1, 5).await.unwrap();
        for (lock_ms, statement_ms, sqlstate) in [(250, 300, "55P03"), (0, 300, "57014")] {
            let mut other = begun(&cluster).await;
            let ms = Duration::from_millis;
            other.set_local(ms(lock_ms), ms(statement_ms));
            let started = Instant::now();
            assert_eq!(refused(add(&mut other, 1, 1).await), sqlstate);
            assert!(started.elapsed() < ms(320));
            other.rollback().await.unwrap();
        }
    });
}

#[test]
fn a_deadlock_ends_after_a_second() {
    check(options(), async |cluster| {
        let mut one = connect(&cluster).await;
        insert(&mut one, 1, 10).await.unwrap();
        insert(&mut one, 2, 20).await.unwrap();
        let mut other = begun(&cluster).await;
        one.begin().await.unwrap();
        add(&mut one, 1, 5).await.unwrap();
        add(&mut other, 2, 5).await.unwrap();
        let started = Instant::now();
        let (first, second) = tokio::join!(add(&mut one, 2, 1), add(&mut other, 1, 1));
        let victims = [&first, &second].into_iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(victims, 1);
        assert!(started.elapsed() >= Duration::from_secs(1));
        let refusal = if first.is_err() { first } else { second };
        assert_eq!(refused(refusal), "40P01");
    });
}

#[test]
fn an_insert_waits_for_whoever_writes_its_key() {
    check(options(), async |cluster| {
        for (on_conflict, commits, count) in [
            (OnConflict::Fail, false, Ok(1)),
            (OnConflict::DoNothing, false, Ok(1)),
            (OnConflict::DoNothing, true, Ok(0)),
            (OnConflict::Fail, true, Err("23505")),
        ] {
            let mut one = begun(&cluster).await;
            insert(&mut one, 1, 10).await.unwrap();
            let mut other = begun(&cluster).await;
            let later = async {
                sleep_ms(200).await;
                match commits {
                    true => drop(one.commit().await.unwrap()),
                    false => one.rollback().await.unwrap(),
                }
            };
            let started = Instant::now();
            let rows = [account(1, 11)];
            let (inserted, ()) = tokio::join!(other.insert(ACCOUNTS, &rows, on_conflict), later);
            assert!(started.elapsed() >= Duration::from_millis(200));
            assert_eq!(inserted.map_err(|error| error.sqlstate().unwrap()), count);
            other.rollback().await.unwrap();
            connect(&cluster).await.delete(ACCOUNTS, &[key(1)]).await.unwrap();
        }
    });
}

#[test]
fn what_a_savepoint_locked_is_free_once_it_is_undone() {
    check(options(), async |cluster| {
        let mut one = connect(&cluster).await;
        insert(&mut one, 1, 10).await.unwrap();
        one.begin().await.unwrap();
        one.set_savepoint().await.unwrap();
        add(&mut one, 1, 5).await.unwrap();
        let mut other = begun(&cluster).await;
        let later = async {
            sleep_ms(100).await;
            one.undo().await.unwrap();
        };
        let (added, ()) = tokio::join!(add(&mut other, 1, 1), later);
        assert_eq!(added, Ok(1));
    });
}

#[test]
fn a_change_of_key_is_a_row_that_went_and_one_that_came() {
    check(options(), async |cluster| {
        let mut one = connect(&cluster).await;
        insert(&mut one, 1, 10).await.unwrap();
        insert(&mut one, 3, 30).await.unwrap();
        let move_to = |id: i64| {
            move |_: usize, old: &[Value]| {
                let mut new = old.to_vec();
                new[0] = Value::Int(id);
                Some(new)
            }
        };
        assert_eq!(refused(one.update(ACCOUNTS, &[key(1)], move_to(3)).await), "23505");
        one.begin().await.unwrap();
        one.update(ACCOUNTS, &[key(1)], move_to(2)).await.unwrap();
        let mut other = begun(&cluster).await;
        let later = async {
            sleep_ms(50).await;
            one.commit().await.unwrap();
        };
        let (added, ()) = tokio::join!(add(&mut other, 1, 1), later);
        assert_eq!(added, Ok(0));
        assert_eq!((shown(&cluster, 1), shown(&cluster, 2)), (None, Some(10)));
    });
}

#[test]
fn an_insert_that_does_nothing_waits_for_writers_only() {
    check(options(), async |cluster| {
        let mut one = connect(&cluster).await;
        insert(&mut one, 1, 10).await.unwrap();
        for (writes, at_least) in [(true, 200), (false, 0)] {
            one.begin().await.unwrap();
            match writes {
                true => drop(add(&mut one, 1, 1).await.unwrap()),
                false => drop(one.lock(ACCOUNTS, &[key(1)], Strength::Update).await.unwrap()),
            }
            let mut other = connect(&cluster).await;
            let later = async {
                sleep_ms(200).await;
                one.commit().await.unwrap();
            };
            let rows = [account(1, 11)];
            let started = Instant::now();
            let inserting = async {
                let inserted = other.insert(ACCOUNTS, &rows, OnConflict::DoNothing).await;
                (inserted, started.elapsed())
            };
            let ((inserted, took), ()) = tokio::join!(inserting, later);
            assert_eq!(inserted, Ok(0));
            assert!(took >= Duration::from_millis(at_least));
            assert_eq!(took < Duration::from_millis(100), !writes);
        }
    });
}

#[test]
fn a_condition_is_looked_at_before_and_after_the_wait() {
    check(options(), async |cluster| {
        let mut one = connect(&cluster).await;
        insert(&mut one, 1, 10).await.unwrap();
        one.begin().await.unwrap();
        add(&mut one, 1, 5).await.unwrap();
        let from = |balance| {
            move |_: usize, old: &[Value]| {
                (balance_of(old) == balance).then(|| with_balance(old, balance + 1))
            }
        };
        let mut other = connect(&cluster).await;
        // What it looks for is not there yet, so there is nothing to wait for.
        assert_eq!(other.update(ACCOUNTS, &[key(1)], from(15)).await, Ok(0));
        let later = async {
            sleep_ms(200).await;
            one.commit().await.unwrap();
        };
        // What it looks for is there, and is not any more.
        let one_key = [key(1)];
        let update = other.update(ACCOUNTS, &one_key, from(10));
        assert_eq!(tokio::join!(update, later).0, Ok(0));
        assert_eq!(other.update(ACCOUNTS, &[key(1)], from(15)).await, Ok(1));
    });
}
