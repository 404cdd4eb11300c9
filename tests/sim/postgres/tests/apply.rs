//! The apply connection's steps, through the engine's seam.

use std::borrow::Cow;

use landfall_engine::postgres::access::LockStrength;
use landfall_engine::postgres::apply::{
    ApplyError, LockPhase, LockRequest, Opening, ParentRequest, RowWrite,
};
use landfall_engine::postgres::model::{ApplySession, Fault, Model};
use landfall_protocol::dictionary::RowId;
use landfall_protocol::id::{Origin, Seq};
use landfall_protocol::schema::TableId;
use landfall_protocol::value::LongValue;

use super::*;

const PHASE: LockPhase = LockPhase::Within(Duration::from_millis(300));

fn origin() -> Origin {
    "2.7".parse().unwrap()
}

fn opening(last: u64) -> Opening {
    let (first, last) = (Seq(1), Seq(last));
    Opening { origin: origin(), first, last, marker: b"marker".to_vec(), phase: PHASE }
}

fn row(id: i64) -> RowId {
    RowId { table: TableId(5), key: key(id) }
}

fn cells(balance: i64) -> Vec<(ColumnId, Cow<'static, Value>)> {
    vec![
        (ColumnId(1), Cow::Owned(Value::Int(balance))),
        (ColumnId(2), Cow::Owned(Value::Text("note".into()))),
    ]
}

/// An apply connection that knows `accounts` under number 5 and `entries` under 6.
async fn connected(cluster: &Cluster) -> Box<dyn ApplySession> {
    let mut apply = cluster.connect_apply().await.unwrap();
    let catalog = Model::catalog(cluster).await.unwrap();
    let defs = catalog.replicable().enumerate();
    let defs: Vec<_> = defs.map(|(number, def)| (TableId(number as u32 + 5), def)).collect();
    apply.learn(&defs, &catalog);
    apply.start_origin(origin()).await.unwrap();
    apply
}

fn request(row: &RowId) -> LockRequest<'_> {
    LockRequest { row, strength: LockStrength::Update }
}

#[test]
fn a_group_goes_the_way_the_engine_goes() {
    check(options(), async |cluster| {
        insert(&mut connect(&cluster).await, 1, 10).await.unwrap();
        let mut apply = connected(&cluster).await;
        let (one, two) = (row(1), row(2));
        assert!(apply.begin(&opening(3)).await.unwrap());
        let parents = [ParentRequest { table: TableId(6), key: 0, values: vec![Value::Int(1)] }];
        let locked = apply.lock(&[request(&two), request(&one)], &parents).await.unwrap();
        assert_eq!(locked, [None, Some(700)]);
        let speculative = [(&two, RowWrite::Insert(cells(20)))];
        assert!(apply.write(&speculative).await.unwrap());
        assert!(!apply.write(&speculative).await.unwrap());
        apply.end_lock_phase().unwrap();
        let shown = apply.shown(&[&one]).await.unwrap();
        assert_eq!(shown[&one][&ColumnId(1)].as_deref(), Some("10"));
        let writes = [(&one, RowWrite::Delete), (&two, RowWrite::Update(cells(21)))];
        assert!(apply.write(&writes).await.unwrap());
        apply.write_conflicts(&[]).await.unwrap();
        apply.write_parked(&[]).await.unwrap();
        apply.commit().await.unwrap();
        assert_eq!((shown_now(&cluster), apply.progress().await.unwrap()[0].1), (vec![(2, 21)], 3));
        assert!(!apply.begin(&opening(3)).await.unwrap());
    });
}

fn shown_now(cluster: &Cluster) -> Vec<(i64, i64)> {
    let pair = |row: &Arc<[Value]>| match row[0] {
        Value::Int(id) => (id, balance_of(row)),
        _ => panic!("an id is a number"),
    };
    cluster.view(|view| view.rows(ACCOUNTS).map(|(_, row)| pair(row)).collect())
}

#[test]
fn locking_ends_in_time_and_refused_values_say_why() {
    check(options(), async |cluster| {
        let mut application = connect(&cluster).await;
        insert(&mut application, 1, 10).await.unwrap();
        let mut apply = connected(&cluster).await;
        application.begin().await.unwrap();
        add(&mut application, 1, 1).await.unwrap();
        assert!(apply.begin(&opening(1)).await.unwrap());
        let one = row(1);
        let busy = apply.lock(&[request(&one)], &[]).await;
        assert!(matches!(busy, Err(ApplyError::Busy)), "{busy:?}");
        apply.rollback().await.unwrap();
        application.rollback().await.unwrap();
        assert!(apply.begin(&opening(1)).await.unwrap());
        sleep_ms(310).await;
        assert!(matches!(apply.end_lock_phase(), Err(ApplyError::Late)));
        apply.rollback().await.unwrap();
        apply.begin_repair(b"marker", LockPhase::RowByRow).await.unwrap();
        apply.set_savepoint().await.unwrap();
        let refusal = apply.write(&[(&one, RowWrite::Update(cells(1001)))]).await;
        assert!(matches!(refusal, Err(ApplyError::Data { .. })), "{refusal:?}");
        apply.undo().await.unwrap();
        apply.mark(b"marker").await.unwrap();
        apply.commit().await.unwrap();
        cluster.crash();
        assert_eq!(apply.progress().await, Err(Fault::Lost));
    });
}

#[test]
fn a_long_value_is_written_out_of_its_pieces() {
    check(options(), async |cluster| {
        let mut apply = connected(&cluster).await;
        let long = LongValue { hash: [1; 32], bytes: 6 };
        let one = row(1);
        let cells = vec![(ColumnId(2), Cow::Owned(Value::Long(Box::new(long))))];
        apply.begin_repair(b"marker", LockPhase::Patient).await.unwrap();
        for (index, piece) in [(1, "def"), (0, "abc")] {
            apply.stage(&long, index, piece).await.unwrap();
        }
        apply.set_savepoint().await.unwrap();
        assert!(apply.write(&[(&one, RowWrite::Insert(cells))]).await.unwrap());
        apply.keep().await.unwrap();
        apply.unstage(&long).await.unwrap();
        apply.commit().await.unwrap();
        let note = cluster.view(|view| view.rows(ACCOUNTS).next().unwrap().1[2].clone());
        assert_eq!(note, Value::Text("abcdef".into()));
    });
}

#[test]
fn the_token_is_read_locked_and_written() {
    check(options(), async |cluster| {
        let mut session = Model::connect(&cluster).await.unwrap();
        assert_eq!(session.token().await, Ok(None));
        assert_eq!(session.lock_token().await, Ok(Some(String::new())));
        session.write_token("1.a").await.unwrap();
        assert_eq!(session.token().await, Ok(Some("1.a".to_owned())));
        let (xmin, lsn) = session.barrier().await.unwrap();
        assert!(lsn <= cluster.log_ends().1 && xmin > 700);
        session.wait_visible(700).await.unwrap();
        assert!(!session.is_closed());
    });
}

#[test]
fn capture_asks_and_reads_through_the_seam() {
    check(options(), async |cluster| {
        let start = cluster.create_slot();
        let server: &dyn landfall_engine::capture::model::Model = &cluster;
        assert_eq!(server.identify().await.unwrap().flushed, start);
        assert!(server.history().await.unwrap().is_empty());
        assert_eq!(server.slot().await, Ok(Some((start, false))));
        let mut stream = server.start(start).await.unwrap();
        assert_eq!(server.slot().await, Ok(Some((start, true))));
        insert(&mut connect(&cluster).await, 1, 10).await.unwrap();
        stream.next().await.unwrap();
        stream.next().await.unwrap();
        stream.flush_writes().unwrap();
    });
}
