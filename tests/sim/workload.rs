//! What applications do.

mod nodes;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::merged::Kind;
use landfall_protocol::schema::rules::{ColumnRule, Rules, TableRules};
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableName};
use landfall_protocol::value::{RowKey, Value};

use super::ledger::Promises;
use super::oracle::{Counter, Merging};
use super::postgres::{
    Check, Cluster, OnConflict, PgError, Session, Settings, SyncCommit, TableNo, TableSpec,
};
use super::realm::{self, CHART_MERGING, NODES_MAX, NODES_MERGING, Realm};
use super::site::Site;
use super::world::World;
use crate::dice::Dice;

/// What an account holds at first.
pub(crate) const DEPOSIT: i64 = 100;
/// Accounts of one site, which only that site's clients touch.
pub(crate) const ACCOUNTS: i64 = 3;
/// The place of the table that everybody changes.
pub(crate) const ITEM: usize = 0;
/// Keys that large transactions write begin here.
const MANY: i64 = 500;
/// The place of the table that has a counter and a column group.
const STOCK: usize = 2;
/// The place of the table that merges in all ways.
pub(crate) const CHART: usize = 3;
/// The place of the first table whose rows hang together.
pub(crate) const NODE: usize = 4;
/// The most that there may be of anything in stock.
const STOCK_MAX: i64 = 40;
/// Keys of a site's own begin at this times its number.
const OWN_KEYS: i64 = 1_000_000;

/// How the tables' columns merge, told apart from what the product is told.
pub(crate) static MERGING: [Merging; NODE + NODES_MAX] = {
    let [one, two, three, four, five] = NODES_MERGING;
    let stock = Merging {
        counter: Some(Counter { place: 1, least: 0, most: STOCK_MAX }),
        group: &[2, 3],
        ..Merging::PLAIN
    };
    [Merging::PLAIN, Merging::PLAIN, stock, CHART_MERGING, one, two, three, four, five]
};

/// The tables of all workloads: what everybody changes, accounts, and what is counted, and those that
/// only some seeds have.
pub(crate) fn tables() -> Vec<TableDef> {
    let table = |name: &str, columns: &[(&str, &str)]| TableDef {
        name: TableName::new("public", name),
        set: SetId(1),
        columns: columns
            .iter()
            .map(|(name, kind)| ColumnDef { name: (*name).into(), type_name: (*kind).into() })
            .collect(),
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    };
    let mut tables = vec![
        table("item", &[("id", "bigint"), ("a", "text"), ("b", "bigint"), ("c", "text")]),
        table("account", &[("id", "bigint"), ("balance", "bigint")]),
        table(
            "stock",
            &[("id", "bigint"), ("count", "bigint"), ("low", "bigint"), ("high", "bigint")],
        ),
    ];
    tables.extend(realm::tables());
    tables
}

/// What the fleet file says of the tables.
pub(crate) fn rules(realm: Option<&Realm>) -> Vec<(TableName, Rules<String>)> {
    let columns = [("count".to_owned(), ColumnRule::Merged(Kind::Counter))].into();
    let stock = (TableName::new("public", "stock"), Rules { columns, ..Rules::default() });
    [stock].into_iter().chain(realm.map(realm::rules).into_iter().flatten()).collect()
}

/// Gives tables the constraints that all sites have.
pub(crate) fn constrain(tables: &mut [TableSpec], realm: Option<&Realm>) {
    realm.into_iter().for_each(|realm| realm::constrain(realm, tables, NODE));
    let [count, low, high] = [1, 2, 3].map(ColumnId);
    let checks = [Check::Within(count, 0, STOCK_MAX), Check::Ordered(low, high)];
    tables[STOCK].checks.extend(checks);
}

pub(crate) fn account(site: &Site, number: i64) -> i64 {
    i64::from(site.id.number()) * OWN_KEYS + number
}

/// One client of a site.
pub(crate) struct Client {
    world: Rc<World>,
    site: Rc<Site>,
    cluster: Cluster,
    dice: Dice,
    number: u64,
    item: TableNo,
    account: TableNo,
    stock: TableNo,
    /// Those that only some seeds have: the one that merges in all ways, and those whose rows hang
    /// together.
    realm: Vec<TableNo>,
    /// What the open transaction did to rows that the ledger watches.
    promises: Promises,
    sync: SyncCommit,
}

impl Client {
    /// The client of this number at a site with a database.
    pub(crate) fn new(world: &Rc<World>, site: &Rc<Site>, number: u64) -> Option<Self> {
        let cluster = site.cluster.clone()?;
        // Some never do.
        let waits =
            world.options.extras.sync_standby && !(world.options.seed + number).is_multiple_of(3);
        let table = |name: &str| cluster.table(&TableName::new("public", name));
        Some(Self {
            item: table("item")?,
            account: table("account")?,
            stock: table("stock")?,
            realm: realm::tables().iter().filter_map(|def| cluster.table(&def.name)).collect(),
            world: Rc::clone(world),
            site: Rc::clone(site),
            cluster,
            dice: world.split(),
            number,
            promises: Promises::default(),
            sync: if waits { SyncCommit::RemoteApply } else { SyncCommit::Local },
        })
    }

    /// Runs its transactions one after the other, whatever becomes of them.
    pub(crate) async fn run(mut self) {
        let mut session = None;
        if self.number == 0 {
            self.open_accounts().await;
        }
        let count = self.world.options.transactions;
        let pause = self.world.options.phase_ms / count.max(1);
        for number in 0..count {
            let most = if self.dice.below(3) == 0 { 1 } else { 2 * pause + 1 };
            tokio::time::sleep(Duration::from_millis(self.dice.below(most))).await;
            let outcome = self.try_one(&mut session, number).await;
            self.world.trace(|| {
                let (site, client) = (self.site.id, self.number);
                format!("{site} client {client} transaction {number}: {outcome:?}")
            });
            if outcome.is_err() {
                session = None;
            }
        }
        self.world.client_done();
    }

    async fn open_accounts(&mut self) {
        loop {
            let rows: Vec<Arc<[Value]>> = (0..ACCOUNTS)
                .map(|number| {
                    let id = account(&self.site, number);
                    [Value::Int(id), Value::Int(DEPOSIT)].into()
                })
                .collect();
            let open = async {
                let mut session = self.connect().await?;
                session.begin().await?;
                session.insert(self.account, &rows, OnConflict::DoNothing).await?;
                session.commit().await
            };
            let life = self.site.origin.get();
            if open.await.is_ok() {
                let opened = (0..ACCOUNTS).map(|number| (1, account(&self.site, number)));
                let promises = Promises { inserted: opened.collect(), ..Promises::default() };
                self.world.ledger.borrow_mut().acknowledge(life, promises);
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn connect(&self) -> Result<Session, PgError> {
        let settings = Settings { sync: self.sync, ..Settings::APPLICATION };
        let mut session = self.cluster.connect(settings).await?;
        session.set_tag(Some(self.number));
        Ok(session)
    }

    async fn try_one(
        &mut self,
        kept: &mut Option<Session>,
        number: u64,
    ) -> Result<&'static str, PgError> {
        let mut session = match kept.take() {
            Some(session) => session,
            None => self.connect().await?,
        };
        session.begin().await?;
        self.promises = Promises::default();
        // It cannot be committed in another life than it begins in.
        let life = self.site.origin.get();
        let what = match !self.realm.is_empty() && self.dice.below(5) > 0 {
            true => self.change_realm(&mut session).await,
            false => self.change_something(&mut session, number).await,
        };
        match what {
            Ok(what) if self.dice.below(12) > 0 => {
                session.commit().await?;
                let done = std::mem::take(&mut self.promises);
                self.world.ledger.borrow_mut().acknowledge(life, done);
                *kept = Some(session);
                Ok(what)
            }
            Ok(_) | Err(PgError::Refused { .. }) => {
                session.rollback().await?;
                *kept = Some(session);
                Ok("rolled back")
            }
            Err(error) => Err(error),
        }
    }

    async fn change_something(
        &mut self,
        session: &mut Session,
        number: u64,
    ) -> Result<&'static str, PgError> {
        // Two lives with one reading show something only where both write one cell.
        if self.world.options.has_dead_clocks && self.dice.below(8) > 0 {
            return self.change_items(session).await;
        }
        match self.dice.below(8) {
            0 | 1 => self.transfer(session).await,
            2 => self.insert_own(session, number).await,
            3 if self.world.options.extras.others_rows => self.change_others_row(session).await,
            4 if self.world.options.extras.transaction_bytes_max.is_some() => {
                self.change_many(session).await
            }
            5..=7 if self.world.options.extras.counts => self.change_stock(session).await,
            _ => self.change_items(session).await,
        }
    }

    /// Moves money between two of the site's own accounts.
    async fn transfer(&mut self, session: &mut Session) -> Result<&'static str, PgError> {
        // A new life that does not know yet what the old one did would not keep the total.
        if self.site.was_set_back.get() {
            return Err(PgError::Refused { sqlstate: "00000", message: "no account".into() });
        }
        let picked = self.dice.distinct(2, ACCOUNTS as u64);
        let [from, to] = [picked[0], picked[1]].map(|n| account(&self.site, n as i64));
        let amount = 1 + self.dice.below(20) as i64;
        // In one order, so that two never wait for each other.
        for (id, by) in [(from, -amount), (to, amount)] {
            let key = [RowKey::new(&[Value::Int(id)])];
            let change = |_: usize, old: &[Value]| {
                let Value::Int(balance) = old[1] else { return None };
                Some(vec![old[0].clone(), Value::Int(balance + by)])
            };
            if session.update(self.account, &key, change).await? == 0 {
                // They are not open yet, or lost in a crash.
                return Err(PgError::Refused { sqlstate: "00000", message: "no account".into() });
            }
        }
        Ok("transfer")
    }

    /// Inserts a row that nobody else ever inserts.
    async fn insert_own(
        &mut self,
        session: &mut Session,
        number: u64,
    ) -> Result<&'static str, PgError> {
        let id = account(&self.site, 1_000 * (self.number as i64 + 1) + number as i64);
        let row = self.row(id);
        session.insert(self.item, &[row], OnConflict::Fail).await?;
        self.promises.inserted.push((0, id));
        Ok("own row")
    }

    /// Changes or deletes a row that somebody was told is inserted.
    async fn change_others_row(&mut self, session: &mut Session) -> Result<&'static str, PgError> {
        let known = self.world.ledger.borrow().known(|count| self.dice.below(count));
        let Some(row) = known else { return Ok("nobody's row") };
        let key = [RowKey::new(&[Value::Int(row.1)])];
        if self.dice.below(3) == 0 {
            // What becomes of the transaction may never be told.
            if session.delete(self.item, &key).await? > 0 {
                self.world.ledger.borrow_mut().doom(row);
                self.promises.deleted.push(row);
            }
            return Ok("deletes somebody's row");
        }
        self.update(session, row.1).await?;
        Ok("changes somebody's row")
    }

    fn row(&mut self, id: i64) -> Arc<[Value]> {
        [Value::Int(id), self.text(), Value::Int(self.dice.below(1_000) as i64), self.text()].into()
    }

    fn text(&mut self) -> Value {
        match self.dice.below(6) {
            0 => Value::Null,
            // Often of one length, so that the length does not tell them apart.
            1 | 2 if self.world.options.extras.long_above.is_some() => {
                let digits = (0..self.dice.pick(&[4, 30, 30, 70])).map(|_| self.dice.below(10));
                Value::Text(digits.map(|digit| digit.to_string()).collect())
            }
            n => Value::Text(format!("{}{n}{}", self.site.id, self.dice.below(100)).into()),
        }
    }

    /// Inserts, updates and deletes rows that everybody changes.
    async fn change_items(&mut self, session: &mut Session) -> Result<&'static str, PgError> {
        let statements = 1 + self.dice.below(3);
        for _ in 0..statements {
            let id = 1 + self.dice.below(self.world.options.hot_keys) as i64;
            let key = [RowKey::new(&[Value::Int(id)])];
            let kinds = if self.world.options.is_contested { 5 } else { 9 };
            match self.dice.below(kinds) {
                0..=2 => {
                    let row = self.row(id);
                    let fails = self.dice.below(4) == 0;
                    let taken = if fails { OnConflict::Fail } else { OnConflict::DoNothing };
                    session.insert(self.item, &[row], taken).await?;
                }
                3 | 4 => drop(session.delete(self.item, &key).await?),
                5 => {
                    // As an update of the key does it.
                    let other = 1 + self.dice.below(self.world.options.hot_keys) as i64;
                    let row = self.row(other);
                    if session.delete(self.item, &key).await? > 0 {
                        session.insert(self.item, &[row], OnConflict::DoNothing).await?;
                    }
                }
                _ => self.update(session, id).await?,
            }
        }
        Ok("items")
    }

    /// Counts up and down, and moves two numbers of which the one is never above the other.
    async fn change_stock(&mut self, session: &mut Session) -> Result<&'static str, PgError> {
        for _ in 0..1 + self.dice.below(3) {
            let id = 1 + self.dice.below(self.world.options.hot_keys.min(2)) as i64;
            let key = [RowKey::new(&[Value::Int(id)])];
            let (kind, by) = (self.dice.below(12), self.dice.below(31) as i64 - 15);
            let (low, high) = (self.dice.below(50) as i64, 50 + self.dice.below(50) as i64);
            match kind {
                0 | 1 => {
                    let row = [id, by.abs(), low, high].map(Value::Int).into();
                    session.insert(self.stock, &[row], OnConflict::DoNothing).await?;
                }
                2 => drop(session.delete(self.stock, &key).await?),
                _ => {
                    let change = |_: usize, old: &[Value]| Some(restocked(old, kind, by));
                    session.update(self.stock, &key, change).await?;
                }
            }
        }
        Ok("stock")
    }

    /// Inserts, updates and deletes so many rows that they are put aside on their way.
    async fn change_many(&mut self, session: &mut Session) -> Result<&'static str, PgError> {
        for _ in 0..1 + self.dice.below(3) {
            let first = MANY + self.dice.below(20) as i64;
            let ids: Vec<i64> = (first..first + 5 + self.dice.below(40) as i64).collect();
            let keys: Vec<RowKey> = ids.iter().map(|id| RowKey::new(&[Value::Int(*id)])).collect();
            match self.dice.below(4) {
                0 | 1 => {
                    let rows: Vec<Arc<[Value]>> = ids.iter().map(|id| self.row(*id)).collect();
                    session.insert(self.item, &rows, OnConflict::DoNothing).await?;
                }
                2 => drop(session.delete(self.item, &keys).await?),
                _ => {
                    let new = self.row(first);
                    let change = |_: usize, old: &[Value]| {
                        Some(vec![old[0].clone(), new[1].clone(), new[2].clone(), old[3].clone()])
                    };
                    session.update(self.item, &keys, change).await?;
                }
            }
        }
        Ok("many items")
    }

    /// Sets one column, or all of them.
    async fn update(&mut self, session: &mut Session, id: i64) -> Result<(), PgError> {
        let place = 1 + self.dice.below(3) as usize;
        let new = self.row(id);
        let whole = self.dice.below(4) == 0;
        let change = |_: usize, old: &[Value]| {
            let mut row = if whole { new.to_vec() } else { old.to_vec() };
            row[place] = new[place].clone();
            Some(row)
        };
        let key = [RowKey::new(&[Value::Int(id)])];
        session.update(self.item, &key, change).await?;
        Ok(())
    }
}

/// What an update makes of a row in stock.
fn restocked(old: &[Value], kind: u64, by: i64) -> Vec<Value> {
    let mut row = old.to_vec();
    match (kind, &old[1..]) {
        // It counts anew from there.
        (3, [Value::Int(_), ..]) => row[1] = Value::Null,
        (_, [Value::Null, ..]) => row[1] = Value::Int(by.abs()),
        (4..=8, [Value::Int(count), ..]) => row[1] = Value::Int((count + by).clamp(0, STOCK_MAX)),
        (9, [_, Value::Int(low), Value::Int(high)]) => row[2] = Value::Int((low + by).min(*high)),
        (_, [_, Value::Int(low), Value::Int(high)]) => row[3] = Value::Int((high + by).max(*low)),
        _ => {}
    }
    row
}
