//! The model does what PostgreSQL does.

mod apply;
mod commits;
mod crashes;
mod engine;
mod locks;
mod own;
mod stream;
mod stress;

use std::sync::Arc;
use std::time::Duration;

use crate::dice::Dice;
use landfall_engine::postgres::catalog::OnDelete;
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableName};
use landfall_protocol::value::{RowKey, Value};
use tokio::time::Instant;

use super::heap::TableNo;
use super::instance::OWN_TABLES;
use super::*;

/// Accounts: `id`, `balance`, which is at most 1000, and `note`.
const ACCOUNTS: TableNo = TableNo(OWN_TABLES);
/// Entries: `id` and the `account` they are about.
const ENTRIES: TableNo = TableNo(OWN_TABLES + 1);

/// Microseconds since 1970 at the start of each test.
const START: i64 = 1_700_000_000_000_000;

fn table(name: &str, columns: &[(&str, &str)]) -> TableSpec {
    let column = |(name, type_name): &(&str, &str)| ColumnDef {
        name: (*name).to_owned(),
        type_name: (*type_name).to_owned(),
    };
    TableSpec::new(TableDef {
        name: TableName::new("public", name),
        set: SetId(1),
        columns: columns.iter().map(column).collect(),
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    })
}

fn options() -> Options {
    let accounts = [("id", "bigint"), ("balance", "bigint"), ("note", "text")];
    let mut accounts = table("accounts", &accounts);
    accounts.refused_above.push((ColumnId(1), 1000));
    let mut entries = table("entries", &[("id", "bigint"), ("account", "bigint")]);
    let columns = vec![ColumnId(1)];
    entries.parents.push(Reference { columns, parent: 0, on_delete: OnDelete::NoAction });
    Options::new(vec![accounts, entries])
}

/// Runs a test under several seeds.
fn check(options: Options, test: impl AsyncFn(Cluster)) {
    check_seeds(options, 0..20, test);
}

fn check_seeds(options: Options, seeds: std::ops::Range<u64>, test: impl AsyncFn(Cluster)) {
    for seed in seeds {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let start = Instant::now();
            let clock = move || START + start.elapsed().as_micros() as i64;
            let cluster = Cluster::new(options.clone(), Dice::new(seed), clock);
            tokio::select! {
                biased;
                never = cluster.run() => match never {},
                () = test(cluster.clone()) => {}
            }
        });
    }
}

async fn connect(cluster: &Cluster) -> Session {
    cluster.connect(Settings::APPLICATION).await.unwrap()
}

/// A session of the application that is in a transaction.
async fn begun(cluster: &Cluster) -> Session {
    let mut session = connect(cluster).await;
    session.begin().await.unwrap();
    session
}

fn key(id: i64) -> RowKey {
    RowKey::new(&[Value::Int(id)])
}

fn account(id: i64, balance: i64) -> Arc<[Value]> {
    [Value::Int(id), Value::Int(balance), Value::Text("note".into())].into()
}

async fn insert(session: &mut Session, id: i64, balance: i64) -> Result<u64, PgError> {
    session.insert(ACCOUNTS, &[account(id, balance)], OnConflict::Fail).await
}

/// `UPDATE accounts SET balance = balance + add WHERE id = id`.
async fn add(session: &mut Session, id: i64, add: i64) -> Result<u64, PgError> {
    session
        .update(ACCOUNTS, &[key(id)], |_, old| Some(with_balance(old, balance_of(old) + add)))
        .await
}

fn with_balance(old: &[Value], balance: i64) -> Vec<Value> {
    let mut new = old.to_vec();
    new[1] = Value::Int(balance);
    new
}

fn balance_of(row: &[Value]) -> i64 {
    match row[1] {
        Value::Int(balance) => balance,
        _ => panic!("a balance is a number"),
    }
}

async fn balance(session: &mut Session, id: i64) -> Option<i64> {
    let rows = session.select(ACCOUNTS, &[key(id)]).await.unwrap();
    rows[0].as_ref().map(|row| balance_of(row))
}

/// What everybody sees of an account.
fn shown(cluster: &Cluster, id: i64) -> Option<i64> {
    cluster.view(|view| {
        let mut rows = view.rows(ACCOUNTS);
        rows.find(|(found, _)| **found == key(id)).map(|(_, row)| balance_of(row))
    })
}

async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, PgError>) -> &'static str {
    outcome.unwrap_err().sqlstate().unwrap()
}
