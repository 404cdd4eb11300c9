//! Any bytes as a row of the store, with a checksum that fits: what a defect of ours, or of a disk
//! that is believed, could leave there. See `crate::fuzz`.

use landfall_protocol::change::{Actor, Cell, Fragment, RowChange, RowOp, Transaction};
use landfall_protocol::clock::Hlc;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{ChangeId, MarkerKey, Obstacle, OwnTransaction, Parked};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId, TxnId};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableId, TableName};
use landfall_protocol::value::{RowKey, Value};
use landfall_protocol::version::VersionVector;
use rusqlite::{Connection, params};

use super::clocks::{self, RecentClocks};
use super::error::StoreError;
use super::parked::{self, ParkedPlace};
use super::record::{Identity, PeerRecord};
use super::sql::{Database, blob, number};
use super::state::{self, State};
use super::{begun, layout, reader, tail};
use crate::time::calendar::Month;

/// Named rows that are one blob each.
const META: [&str; 6] = ["identity", "marker_key", "progress", "fenced", "bond", "suspended"];
/// Places where bytes may go.
const PLACES: u8 = 15;

/// Puts the bytes in the place that the first one names, and loads everything. What could be loaded
/// is written and loaded again.
pub(crate) fn check(bytes: &[u8]) {
    let Some((place, content)) = bytes.split_first() else { return };
    let connection = Connection::open_in_memory().expect("memory for a database");
    layout::make_tables(&connection).expect("the tables are right");
    let db = Database::new(&connection);
    fill(&db).expect("a store is made");
    put(&db, place % PLACES, content).expect("a row is put in place");
    let _ = (tail::load(&db, Seq::ZERO), tail::find(&db, Seq(u64::MAX)));
    let _ = begun::load(&db, origin(1), Seq(4));
    let Ok(loaded) = State::load(&db) else { return };
    let _ = (loaded.log(), loaded.bond.newest());
    if let Ok(peers) = reader::load_peers(&db) {
        peers.iter().for_each(|peer| reader::put_peer(&db, peer).expect("a peer is put"));
        assert_eq!(reader::load_peers(&db).ok(), Some(peers), "a peer does not read back");
    }
    if let Ok(page) = parked::load(&db, ParkedPlace::default(), 10) {
        page.entries.iter().for_each(|entry| parked::put(&db, 2, entry).expect("an entry is put"));
        let again = parked::load(&db, ParkedPlace::default(), 10);
        assert_eq!(again.ok(), Some(page), "an entry does not read back");
    }
    if RecentClocks::load(&db).is_ok() {
        let _ = clocks::load(&db, &row());
    }
    write(&db, &loaded).expect("what was loaded is written");
    let again = State::load(&db).expect("what was written reads");
    assert_eq!(again.identity, loaded.identity);
    assert_eq!(again.progress, loaded.progress);
    assert_eq!(again.origins, loaded.origins);
    assert_eq!(again.bond, loaded.bond);
    assert_eq!(again.fold.dictionary, loaded.fold.dictionary);
    assert_eq!(again.fold.clock, loaded.fold.clock);
    assert_eq!(again.fold.unsent, loaded.fold.unsent);
    assert_eq!(again.fold.origin_vectors, loaded.fold.origin_vectors);
}

fn origin(site: u16) -> Origin {
    let site = SiteId::new(site).expect("sites here have numbers");
    Origin { site, incarnation: Incarnation::new(0xa1).expect("not zero") }
}

fn row() -> RowId {
    RowId { table: TableId(1), key: RowKey::new(&[Value::Int(1)]) }
}

/// A store with something of everything.
fn fill(db: &Database<'_>) -> Result<(), StoreError> {
    let identity = Identity { origin: origin(2), database: None };
    let mut state = State::new(identity, MarkerKey::new([7; 32]), 1000);
    state.create(db)?;
    state.origin_log(origin(1)).received = Seq(4);
    state.fold.applied.advance(origin(1), Seq(3));
    state.put_origin(db, origin(1))?;
    let column = |name: &str| ColumnDef { name: name.into(), type_name: "bigint".into() };
    let (table, _) = state.fold.dictionary.learn(&TableDef {
        name: TableName::new("public", "a"),
        set: SetId(1),
        columns: ["id", "n"].map(column).to_vec(),
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    });
    if let Some(entry) = state.fold.dictionary.entry(table) {
        state::put_foreign_table(db, 2, table, &entry.def)?;
        state::put_own_table(db, &entry)?;
    }
    let vector: VersionVector = [(origin(1), Seq(4))].into_iter().collect();
    reader::put_peer(
        db,
        &PeerRecord {
            site: origin(1).site,
            received: vector.clone(),
            applied: vector,
            contact_ms: 1_700_000_000_000,
            bytes_in: 1 << 20,
            bytes_out: 7,
            life: Some(origin(1).incarnation),
            months: [(Month::new(682), 1 << 20)].into(),
        },
    )?;
    let entry = Parked {
        id: ChangeId { txn: TxnId { origin: origin(1), seq: Seq(3) }, index: 1 },
        table: Some(TableName::new("public", "a")),
        row: Some(row()),
        obstacle: Obstacle::NoColumn,
        columns: vec!["late".into()],
        since_ms: 1_700_000_000_000,
    };
    parked::put(db, 2, &entry)?;
    clocks::put_raw(db, row(), &RowClock::default())
}

/// An own transaction that is not sealed yet.
fn put_tail(db: &Database<'_>) -> Result<(), StoreError> {
    let change = RowChange {
        table: TableId(1),
        key: row().key,
        op: RowOp::Update,
        cells: vec![Cell { column: ColumnId(1), value: Value::Int(2) }],
    };
    let transaction = Transaction {
        seq: Seq(1),
        hlc: Hlc::from_ms(1_700_000_000_000),
        actor: Actor::new("dr. jones"),
        describes: Vec::new(),
        changes: vec![change],
        piece: None,
    };
    let own = OwnTransaction {
        transaction,
        fragment: Fragment::Whole,
        vector: [(origin(1), Seq(4))].into_iter().collect(),
    };
    let sets = [(TableId(1), SetId(1))].into();
    let (flush, data) = tail::Flush::encode(1, sets, vec![own]);
    tail::insert(db, &flush, &data).map(drop)
}

fn put(db: &Database<'_>, place: u8, content: &[u8]) -> Result<(), StoreError> {
    let row = |table, name: &str| state::encode(table, name, content.to_vec());
    match usize::from(place) {
        named @ 0..=5 => state::put_meta(db, META[named], content.to_vec())?,
        site @ 6..=7 => {
            let origin = origin(if site == 6 { 2 } else { 1 });
            let state = super::crc::guard(&state::origin_key(origin), content.to_vec());
            db.execute(
                "UPDATE origin SET state = ?1 WHERE site = ?2",
                params![state, origin.site.number()],
            )?;
        }
        8 => drop(db.execute("UPDATE own_table SET def = ?1", [row("own_table", "1")])?),
        9 => drop(db.execute("UPDATE foreign_table SET def = ?1", [row("foreign_table", "2/1")])?),
        10 => drop(db.execute("UPDATE clock_log SET data = ?1", [row("clock_log", "1")])?),
        11 => drop(db.execute("UPDATE peer SET state = ?1", [row("peer", "1")])?),
        12 => drop(db.execute("UPDATE parked SET state = ?1", [row("parked", "2/3/1")])?),
        13 => tail::put_raw(db, content)?,
        _ => begun::put_raw(db, origin(1), content)?,
    }
    Ok(())
}

fn write(db: &Database<'_>, state: &State) -> Result<(), StoreError> {
    state.put_progress(db)?;
    for origin in state.origins.keys() {
        state.put_origin(db, *origin)?;
    }
    for (table, _) in state.fold.dictionary.tables() {
        if let Some(entry) = state.fold.dictionary.entry(table) {
            state::put_own_table(db, &entry)?;
        }
    }
    Ok(())
}

/// The rows of such a store.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let connection = Connection::open_in_memory().expect("memory for a database");
    layout::make_tables(&connection).expect("the tables are right");
    let db = Database::new(&connection);
    fill(&db).and_then(|()| put_tail(&db)).expect("a store is made");
    let mut seeds = Vec::new();
    // All of these have a checksum of four bytes behind them.
    for (place, sql) in [
        (0, "SELECT value FROM meta WHERE name = 'identity'"),
        (1, "SELECT value FROM meta WHERE name = 'marker_key'"),
        (2, "SELECT value FROM meta WHERE name = 'progress'"),
        (6, "SELECT state FROM origin WHERE site = 2"),
        (7, "SELECT state FROM origin WHERE site = 1"),
        (8, "SELECT def FROM own_table"),
        (9, "SELECT def FROM foreign_table"),
        (10, "SELECT data FROM clock_log"),
        (11, "SELECT state FROM peer"),
        (12, "SELECT state FROM parked"),
    ] {
        let guarded = db.row(sql, [], |row| Ok(blob(row, 0)?.to_vec())).expect("the rows read");
        let content = guarded.and_then(|row| Some(row.split_last_chunk::<4>()?.0.to_vec()));
        seeds.extend(content.map(|content| [&[place][..], &content].concat()));
    }
    let texts = [(3, b"\x06fenced".to_vec()), (5, b"\x04wait".to_vec())];
    let bond = (4, vec![1, 7, 0x80, 1, 8, 0x80, 2]);
    seeds.extend(texts.into_iter().chain([bond]).map(|(place, row)| [&[place][..], &row].concat()));
    let tail = db
        .row("SELECT first_seq, last_seq, data FROM tail", [], |row| {
            let (first, last) = (number(row, 0)?.to_be_bytes(), number(row, 1)?.to_be_bytes());
            Ok([&[13][..], &first, &last, blob(row, 2)?].concat())
        })
        .expect("the rows read");
    seeds.extend(tail);
    // Of a unit after 4, of 70,000 bytes, the first three.
    let begun = [&[14, 4, 0xf0, 0xa2, 4][..], &[0x55; 16], &[3, 1, 2, 3]].concat();
    seeds.push(begun);
    seeds
}
