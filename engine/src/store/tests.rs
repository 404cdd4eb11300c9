//! Tests of the store on real files, against the pure fold as the model.

mod begun;
mod clocks;
mod compaction;
mod crash;
mod failure;
mod folding;
mod measure;
mod parked;
mod power;
mod register;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use landfall_protocol::change::Fragment;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{
    CapturedTransaction, Fold, ForeignTransaction, ForeignTransactions, Marker, OwnTransaction,
    Row, RowEvent,
};
use landfall_protocol::id::{Incarnation, Origin, PublicKey, Seq, SiteId, TxnId};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableName};
use landfall_protocol::unit::Unit;
use landfall_protocol::value::Value;
use landfall_protocol::version::VersionVector;

use super::{Identity, Opened, Settings, Signer, Store};

/// Where every test's WAL begins.
const START_LSN: u64 = 1000;

fn origin(site: u16) -> Origin {
    Origin { site: SiteId::new(site).unwrap(), incarnation: Incarnation::new(0xa1).unwrap() }
}

fn key(site: u16) -> SigningKey {
    SigningKey::from_bytes(&[site as u8; 32])
}

fn signer(site: u16) -> Signer {
    let key = key(site);
    Arc::new(move |message| key.sign(message).to_bytes())
}

fn settings() -> Settings {
    // Few enough clocks in memory that every test moves some to the table.
    Settings { ballast_bytes: 0, recent_clocks_bytes: 1 << 10, ..Settings::default() }
}

fn create(dir: &Path, site: u16) {
    Store::create(dir, &Identity { origin: origin(site), database: None }, START_LSN).unwrap();
}

fn open(dir: &Path, site: u16) -> (Store, Opened) {
    Store::open(dir, &settings(), signer(site), 1).unwrap()
}

/// A new store in a directory of its own.
fn fresh(site: u16) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), site);
    let store = open(dir.path(), site).0;
    (dir, store)
}

fn table(name: &str) -> Arc<TableDef> {
    let column = |name: &str, kind: &str| ColumnDef { name: name.into(), type_name: kind.into() };
    Arc::new(TableDef {
        name: TableName::new("public", name),
        set: SetId(1),
        columns: vec![column("id", "bigint"), column("note", "text"), column("n", "bigint")],
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    })
}

fn row(id: i64, note: &str, n: i64) -> Vec<Value> {
    vec![Value::Int(id), Value::Text(note.into()), Value::Int(n)]
}

fn insert(table: &Arc<TableDef>, new: Vec<Value>) -> RowEvent {
    RowEvent { relation: Arc::clone(table), old: None, new: Some(Row::whole(new)) }
}

fn update(table: &Arc<TableDef>, old: Vec<Value>, new: Vec<Value>) -> RowEvent {
    let (old, new) = (Some(Row::whole(old)), Some(Row::whole(new)));
    RowEvent { relation: Arc::clone(table), old, new }
}

fn own(commit_ms: u64, rows: Vec<RowEvent>) -> CapturedTransaction {
    CapturedTransaction {
        commit_ms,
        actor: None,
        rows,
        marker: None,
        fragment: Fragment::Whole,
        piece: None,
    }
}

fn apply(origin: Origin, first: u64, last: u64, rows: Vec<RowEvent>) -> CapturedTransaction {
    let (parked, emitted) = (Vec::new(), Vec::new());
    let marker = Marker::Apply { origin, first: Seq(first), last: Seq(last), parked, emitted };
    CapturedTransaction {
        commit_ms: 1,
        actor: None,
        rows,
        marker: Some(marker),
        fragment: Fragment::Whole,
        piece: None,
    }
}

/// Units of a site that inserted rows `first..=last` into `table`, one transaction and one unit
/// each, as another site accepts them.
async fn foreign_units(site: u16, table: &Arc<TableDef>, count: i64) -> Vec<Unit> {
    let (_dir, store) = fresh(site);
    store.set_sealing(super::Sealing::Eager).await.unwrap();
    for id in 1..=count {
        let batch = vec![own(50 + id as u64, vec![insert(table, row(-id, "foreign", id))])];
        store.fold(batch, START_LSN + id as u64, Vec::new()).await.unwrap();
    }
    let units = all_units(&store, origin(site)).await;
    store.close().await;
    units
}

/// Everything held of an origin, checked as a peer would.
async fn all_units(store: &Store, origin: Origin) -> Vec<Unit> {
    let key = PublicKey(key(origin.site.number()).verifying_key().to_bytes());
    let mut units = Vec::new();
    let mut after = Seq::ZERO;
    loop {
        let found = store.units_after(origin, after, 1 << 20).await.unwrap();
        let Some(last) = found.last() else { return units };
        after = last.header().last;
        units.extend(found.into_iter().map(|unit| Unit::open(unit.into_bytes(), &key).unwrap()));
    }
}

/// Checks that units form a dense chain from the first transaction on.
fn assert_chain(units: &[Unit]) {
    let mut previous = landfall_protocol::unit::UnitHash::GENESIS;
    let mut next = Seq(1);
    for unit in units {
        assert_eq!((unit.header().first, unit.header().previous), (next, previous));
        next = unit.header().last.next();
        previous = unit.hash();
    }
}

/// What a store must hold after the same commands.
#[derive(Clone)]
struct Model {
    fold: Fold,
    clocks: BTreeMap<RowId, RowClock>,
    foreign: ForeignTransactions,
    own: Vec<OwnTransaction>,
}

impl Model {
    fn new(site: u16) -> Self {
        Self {
            fold: Fold::new(origin(site)),
            clocks: BTreeMap::new(),
            foreign: ForeignTransactions::new(),
            own: Vec::new(),
        }
    }

    fn receive(&mut self, unit: &Unit) {
        let header = unit.header();
        for transaction in unit.transactions().unwrap() {
            let vector = if transaction.seq == header.first {
                header.vector.clone()
            } else {
                VersionVector::new()
            };
            let txn = TxnId { origin: header.origin, seq: transaction.seq };
            let transaction = Arc::new(transaction);
            self.foreign.insert(txn, ForeignTransaction { transaction, vector });
        }
    }

    fn fold(&mut self, batch: Vec<CapturedTransaction>) {
        let localized = self.fold.localize(batch, &self.foreign).unwrap();
        let touched = localized.touched();
        let clocks = touched
            .into_iter()
            .filter_map(|row| Some((row.clone(), self.clocks.get(&row)?.clone())))
            .collect();
        let output = self.fold.fold(localized, clocks, BTreeSet::new());
        self.clocks.extend(output.clocks);
        self.own.extend(output.own);
    }

    /// The store says the same as the model, through every way of asking.
    async fn check(&self, store: &Store) {
        assert_eq!(store.fold_state().await.unwrap(), self.fold);
        let rows: Vec<RowId> = self.clocks.keys().cloned().collect();
        let clocks = store.clocks(rows).await.unwrap();
        assert!(clocks.iter().map(Option::as_ref).eq(self.clocks.values().map(Some)));
        let wanted: Vec<TxnId> = self
            .own
            .iter()
            .map(|own| TxnId { origin: self.fold.origin, seq: own.transaction.seq })
            .collect();
        let found = store.transactions(wanted).await.unwrap();
        assert!(found.values().map(Arc::as_ref).eq(self.own.iter().map(|own| &own.transaction)));
        let units = all_units(store, self.fold.origin).await;
        assert_chain(&units);
        let mut sealed = self.own.iter();
        for unit in units {
            let mut vector = unit.header().vector.clone();
            for transaction in unit.transactions().unwrap() {
                let expected = sealed.next().unwrap();
                assert_eq!(transaction, expected.transaction);
                assert_eq!(std::mem::take(&mut vector), expected.vector);
            }
        }
    }
}
