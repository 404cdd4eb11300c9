//! What must always be true, and what must be true in the end.

mod bonds;
mod conflicts;
mod counters;
mod parked;
mod remedies;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use landfall_engine::links::LinksHandle;
use landfall_engine::postgres::lsn::Lsn;
use landfall_engine::store::{Log, Store};
use landfall_protocol::change::{Fragment, RowChange, Transaction};
use landfall_protocol::clock::Hlc;
use landfall_protocol::fold::{MARKER_PREFIX, Marker, MarkerKey};
use landfall_protocol::id::{Origin, Seq, TxnId};
use landfall_protocol::unit::{Unit, UnitHash};
use landfall_protocol::value::{RowKey, Value};
use landfall_protocol::version::VersionVector;

pub(crate) use self::remedies::{Named, named};
use super::ambush;
use super::options::Options;
use super::oracle::{self, Births, Event, Merging, Moment, Oracle, Table, Write, Writer};
use super::postgres::{Change, CommitRecord, OWN_TABLES, TableNo, View};
use super::workload::{ACCOUNTS, DEPOSIT, MERGING, account};

use super::site::{Site, Written};
use super::world::World;

/// Looks at every state that a store tells.
pub(crate) async fn watch(world: Rc<World>, site: Rc<Site>, store: Store) {
    let mut news = store.watch();
    drop(store);
    loop {
        let log = news.borrow_and_update().clone();
        if let Err(broken) = follows(&site.told.borrow(), &log) {
            return world.fail(format!("{}: {broken}", site.id));
        }
        let before = site.told.replace(log);
        ambush::strike(&world, &site, &before);
        if news.changed().await.is_err() {
            return;
        }
    }
}

/// Whether a store may tell `now` after it told `before`.
pub(crate) fn follows(before: &Log, now: &Log) -> Result<(), String> {
    let vectors =
        [("received", &before.received, &now.received), ("applied", &before.applied, &now.applied)];
    for (what, before, now) in vectors {
        if !now.contains(before) {
            return Err(format!("what is {what} went back from {before:?} to {now:?}"));
        }
    }
    if now.fold_lsn < before.fold_lsn || now.own < before.own {
        return Err(format!("the fold went back: {before:?} to {now:?}"));
    }
    let fates = now.fates.total();
    if fates > now.received_changes {
        return Err(format!("{fates} fates of {} received changes", now.received_changes));
    }
    Ok(())
}

/// What a store holds of an origin.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Held {
    pub(crate) transactions: Vec<Transaction>,
    /// So many come before a large one of which the end is not there.
    pub(crate) whole: usize,
}

impl Held {
    /// Without a large one of which the end is not there.
    pub(crate) fn whole(&self) -> &[Transaction] {
        &self.transactions[..self.whole]
    }

    /// Changes that wait for the end of their transaction.
    pub(crate) fn waiting(&self) -> u64 {
        let waiting = self.transactions[self.whole..].iter();
        waiting.map(|transaction| transaction.changes.len() as u64).sum()
    }
}

/// All that a store holds.
pub(crate) type Contents = BTreeMap<Origin, Held>;

/// What is in units, by their hashes: all stores hold the same ones, and are read more than once.
pub(crate) type Opened = RefCell<BTreeMap<UnitHash, Rc<[Transaction]>>>;

/// What was done by a unit, with what is left out of it; fails when what is there is something else.
fn with_left_out(unit: &Unit, written: &Written) -> Result<Vec<Transaction>, String> {
    let (header, left) = (unit.header(), unit.transactions().map_err(|error| error.to_string())?);
    if header.fragment != Fragment::Compacted {
        return Ok(left);
    }
    let (origin, written) = (header.origin, written.borrow());
    let whole = (header.first.0..=header.last.0).map(|seq| {
        let txn = TxnId { origin, seq: Seq(seq) };
        written.get(&txn).cloned().ok_or_else(|| format!("{txn} was never written"))
    });
    let whole: Vec<Transaction> = whole.collect::<Result<_, _>>()?;
    for left in left {
        let of = &whole[(left.seq.0 - header.first.0) as usize];
        let is_part = left.changes.iter().all(|change| {
            let is_it = |of: &&RowChange| (of.table, &of.key) == (change.table, &change.key);
            let of = of.changes.iter().find(is_it);
            let has = |of: &RowChange| change.cells.iter().all(|cell| of.cells.contains(cell));
            of.is_some_and(|of| of.op == change.op && has(of))
        });
        if left.hlc != of.hlc || left.describes != of.describes || !is_part {
            return Err(format!("{origin}/{} is not what was written", left.seq));
        }
    }
    Ok(whole)
}

/// Reads all that a store holds.
pub(crate) async fn contents(
    store: &Store,
    opened: &Opened,
    logged: &Written,
) -> Result<Contents, String> {
    let received = store.watch().borrow().received.clone();
    let mut found = Contents::new();
    for (origin, last) in received.iter() {
        let (mut transactions, mut whole) = (Vec::new(), 0);
        let (mut after, mut hash) = (Seq::ZERO, UnitHash::GENESIS);
        while after < last {
            let units = store.units_after(origin, after, 1 << 20).await;
            let units = units.map_err(|error| format!("read {origin}: {error}"))?;
            for unit in units {
                let (header, previous) = (unit.header(), hash);
                if header.previous != std::mem::replace(&mut hash, unit.hash()) {
                    let txn = TxnId { origin, seq: header.first };
                    return Err(format!("{txn} does not follow on {previous:?}"));
                }
                let known = opened.borrow().get(&hash).cloned();
                let inside = match known {
                    Some(known) => known,
                    None => with_left_out(&unit, logged)?.into(),
                };
                transactions.extend(inside.iter().cloned());
                opened.borrow_mut().insert(hash, inside);
                after = header.last;
                if header.fragment != Fragment::More {
                    whole = transactions.len();
                }
            }
        }
        for (place, transaction) in transactions.iter().enumerate() {
            if transaction.seq.0 != place as u64 + 1 {
                let txn = TxnId { origin, seq: transaction.seq };
                return Err(format!("{txn} stands at place {}", place + 1));
            }
        }
        found.insert(origin, Held { transactions, whole });
    }
    Ok(found)
}

/// Looks at what everybody sees at a site, again and again: accounts of one site, wherever they are
/// shown, always hold the same together.
pub(crate) async fn watch_accounts(world: Rc<World>, site: Rc<Site>) {
    let mut dice = world.split();
    let Some(cluster) = &site.cluster else { return };
    loop {
        // What comes to rest takes longer than what happened, and changes less.
        let pause = if world.healing.get() { 2_000 } else { world.options.phase_ms / 8 };
        tokio::time::sleep(Duration::from_millis(1 + dice.below(pause + 1))).await;
        if let Some(broken) = cluster.broken() {
            return world.fail(format!("{} shows {broken}", site.id));
        }
        for owner in world.sites.iter().filter(|owner| owner.cluster.is_some()) {
            if let Err(wrong) = cluster.view(|view| check_accounts(&view, owner)) {
                return world.fail(format!("{} shows {wrong}", site.id));
            }
        }
    }
}

/// Looks at what a process was told by its peers, whenever it is.
pub(crate) async fn watch_peers(world: Rc<World>, site: Rc<Site>, links: LinksHandle) {
    let mut changes = links.changes();
    loop {
        if let Err(wrong) = check_acknowledged(&world, &site, &links) {
            return world.fail(wrong);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// What a site takes for held by a peer is durable there.
fn check_acknowledged(world: &World, site: &Site, links: &LinksHandle) -> Result<(), String> {
    for peer in links.peers() {
        let Some(there) = world.sites.iter().find(|other| other.id == peer.site) else { continue };
        // It may have held it.
        if there.was_set_back.get() || there.told.borrow().received.contains(&peer.received) {
            continue;
        }
        // The disk may know more than was told yet.
        let durable = there.disk.borrow().log().map_err(|error| error.to_string())?.received;
        if !durable.contains(&peer.received) {
            let (site, peer, acked) = (site.id, peer.site, peer.received);
            return Err(format!("{site} takes {peer} for holding {acked:?}, it holds {durable:?}"));
        }
    }
    Ok(())
}

fn check_accounts(view: &View<'_>, owner: &Site) -> Result<(), String> {
    let Some((table, _)) = view.tables().find(|(_, name)| name.name == "account") else {
        return Err("no accounts".into());
    };
    let ids: Vec<RowKey> =
        (0..ACCOUNTS).map(|number| RowKey::new(&[Value::Int(account(owner, number))])).collect();
    let shown = view.rows(table).filter(|(key, _)| ids.contains(key));
    let balances: Vec<i64> = shown
        .filter_map(|(_, row)| match row[1] {
            Value::Int(balance) => Some(balance),
            _ => None,
        })
        .collect();
    let total: i64 = balances.iter().sum();
    let whole = balances.len() as i64 == ACCOUNTS && total == ACCOUNTS * DEPOSIT;
    if balances.is_empty() || whole { Ok(()) } else { Err(format!("{balances:?}")) }
}

/// What a site's log says, with what its store says of it.
pub(crate) struct SiteLog<'a> {
    pub(crate) origin: Origin,
    pub(crate) marker_key: &'a MarkerKey,
    pub(crate) records: Vec<Arc<CommitRecord>>,
    /// Its own transactions, as its store holds them.
    pub(crate) own: &'a [Transaction],
    /// Whether that life is over: what nobody else has all of is gone.
    pub(crate) is_over: bool,
}

/// A step in the life of a site's database.
enum Entry {
    /// A large one has several numbers.
    Own { first: Seq, last: Seq },
    /// With what the site had to say of its own, if it had.
    Applied { origin: Origin, first: Seq, last: Seq, said: Option<Seq> },
    /// Rows rewritten to what their clocks say, with what the site had to say, or what changed nothing.
    Other { said: Option<Seq> },
}

/// A transaction of an application, as its origin committed it, or what a site did by itself.
struct Committed {
    /// With what its origin showed before.
    by: Writer,
    hlc: Hlc,
    writes: Vec<Write>,
    /// The last of its numbers, of which the first is its name.
    last: Seq,
    /// Where its origin's log ended when others first saw it, if that is known.
    visible: Option<Lsn>,
    /// Of the merged columns that it edits.
    births: Births,
    /// Whether no application made it.
    is_remedy: bool,
}

type History = BTreeMap<TxnId, Committed>;

fn events(record: &CommitRecord, first_table: usize) -> Vec<Event> {
    let row = |change: &Change| match change {
        Change::Row(row) if row.table.0 >= first_table => Some(Event {
            table: row.table.0 - first_table,
            old: row.old.clone(),
            new: row.new.clone(),
        }),
        Change::Row(_) | Change::Message { .. } => None,
    };
    record.changes.iter().filter_map(row).collect()
}

/// The steps of a log, one for each record.
fn entries(log: &SiteLog<'_>, first_table: usize, named: &Named) -> Result<Vec<Entry>, String> {
    // The fragments of a large one have one clock reading.
    let held = log.own.chunk_by(|one, next| one.hlc == next.hlc).count();
    let mut own = log.own.chunk_by(|one, next| one.hlc == next.hlc);
    let (mut committed, mut found) = (0, Vec::new());
    for record in &log.records {
        let writes = oracle::writes(&events(record, first_table), &MERGING);
        let applied = apply_marker(log, record);
        let speaks = match &applied {
            Some(applied) => remedies::speaks(log, record, *applied, &writes, named),
            None => !writes.is_empty(),
        };
        let said = if speaks { own.next() } else { None };
        committed += usize::from(speaks);
        found.push(match applied {
            Some(Some((origin, first, last))) => {
                Entry::Applied { origin, first, last, said: said.map(|said| said[0].seq) }
            }
            Some(None) => Entry::Other { said: said.map(|said| said[0].seq) },
            None => match said {
                Some(held) => Entry::Own { first: held[0].seq, last: held[held.len() - 1].seq },
                None => Entry::Other { said: None },
            },
        });
        // Of what nobody has all, nothing was ever shown elsewhere.
        if log.is_over && committed > held {
            found.pop();
            return Ok(found);
        }
    }
    if committed != held {
        let origin = log.origin;
        return Err(format!("{origin} committed {committed} transactions, its store holds {held}"));
    }
    Ok(found)
}

/// What the markers of a transaction of ours say that it applied: nothing when it repairs. A large
/// one has a marker for each fragment.
fn apply_marker(log: &SiteLog<'_>, record: &CommitRecord) -> Option<Option<(Origin, Seq, Seq)>> {
    markers(log, record).fold(None, |found, marker| match (found, marker) {
        (Some(Some((origin, first, _))), Marker::Apply { last, .. }) => {
            Some(Some((origin, first, last)))
        }
        (_, Marker::Apply { origin, first, last, .. }) => Some(Some((origin, first, last))),
        (found, _) => Some(found.flatten()),
    })
}

fn markers<'l>(
    log: &'l SiteLog<'_>,
    record: &'l CommitRecord,
) -> impl Iterator<Item = Marker> + 'l {
    record.changes.iter().filter_map(|change| match change {
        Change::Message { prefix, content, .. } if *prefix == MARKER_PREFIX => {
            log.marker_key.open(content).ok().flatten()
        }
        _ => None,
    })
}

/// Whether a log has all that is held of it.
pub(crate) fn reaches(log: &SiteLog<'_>, first_table: usize, named: &Named) -> bool {
    entries(log, first_table, named).is_ok()
}

/// What all must show in the end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Due {
    pub(crate) tables: Vec<Table>,
    /// The rows that are put aside: table and key.
    pub(crate) aside: BTreeSet<(String, Vec<String>)>,
}

/// Checks everything that became visible anywhere, and says what all must show.
pub(crate) fn judge(logs: &[SiteLog<'_>], options: &Options, named: &Named) -> Result<Due, String> {
    let first_table = OWN_TABLES;
    let mut oracle = Oracle::new(&MERGING);
    let mut history = History::new();
    let mut lives = Vec::new();
    for log in logs {
        let life = entries(log, first_table, named)?;
        gather(log, &life, first_table, &mut history)?;
        lives.push(life);
    }
    for (txn, births) in counters::births(&history) {
        history.entry(txn).and_modify(|committed| committed.births = births);
    }
    for (log, life) in logs.iter().zip(&lives) {
        follow(log, life, first_table, &history)?;
    }
    conflicts::check(logs, &history, options.compaction.is_some())?;
    for committed in history.values() {
        oracle.commit(&committed.by, &committed.writes, &committed.births);
    }
    if let Some(realm) = &options.realm {
        bonds::check(logs, &history, realm, &oracle)?;
    }
    let aside = bonds::aside(&oracle, &history);
    let tables = (0..options.tables()).map(|table| oracle.table(table)).collect();
    Ok(Due { tables, aside })
}

/// Collects what a site's applications committed.
fn gather(
    log: &SiteLog<'_>,
    life: &[Entry],
    first_table: usize,
    history: &mut History,
) -> Result<(), String> {
    let mut applied = VersionVector::new();
    let described = remedies::described(log.own);
    for (place, (entry, record)) in life.iter().zip(&log.records).enumerate() {
        if let Entry::Applied { origin, first, last, .. } = entry {
            if applied.get(*origin).next() != *first {
                let (at, reached) = (log.origin.site, applied.get(*origin));
                return Err(format!("{at} applied {origin} from {first} after {reached}"));
            }
            applied.advance(*origin, *last);
        }
        let (first, last, is_remedy) = match entry {
            Entry::Own { first, last } => (*first, *last, false),
            Entry::Applied { said: Some(said), .. } | Entry::Other { said: Some(said) } => {
                (*said, *said, true)
            }
            Entry::Applied { said: None, .. } | Entry::Other { said: None } => continue,
        };
        let txn = TxnId { origin: log.origin, seq: first };
        let own = &log.own[first.0 as usize - 1];
        let hlc = own.hlc;
        if hlc.ms() < (record.time / 1_000).max(0) as u64 {
            return Err(format!("{txn} is stamped {hlc:?}, before its commit"));
        }
        let (site, incarnation) = (log.origin.site, log.origin.incarnation);
        let (site, incarnation) = (site.number(), incarnation.number());
        let at = Moment { hlc: hlc.0, site, incarnation };
        let by = Writer { at, txn, seen: Rc::new(applied.clone()) };
        let writes = match is_remedy {
            true => remedies::writes(own, &described),
            false => {
                let later = &log.records[place + 1..];
                let mut writes = oracle::writes(&events(record, first_table), &MERGING);
                let held = &log.own[first.0 as usize - 1..last.0 as usize];
                remedies::note_wholes(log, &mut writes, held, &described, later, first_table);
                writes
            }
        };
        let (visible, births) = (record.visible.get().copied(), Births::new());
        history.insert(txn, Committed { by, hlc, writes, last, visible, births, is_remedy });
    }
    Ok(())
}

/// What a site has applied and written by some place in its log.
struct Sofar<'h> {
    site: Origin,
    history: &'h History,
    applied: VersionVector,
    newest: Hlc,
    due: Oracle,
}

impl Sofar<'_> {
    /// It commits what it says itself, stamped after all it could see.
    fn says(&mut self, first: Seq, last: Seq) -> Result<(), String> {
        let txn = TxnId { origin: self.site, seq: first };
        let own = &self.history[&txn];
        if own.hlc <= self.newest {
            return Err(format!("{txn} is not stamped after what it could see"));
        }
        self.newest = own.hlc;
        self.applied.advance(self.site, last);
        self.due.commit(&own.by, &own.writes, &own.births);
        Ok(())
    }
}

/// Follows a site's log: nothing may show before what it came after, own transactions are stamped
/// after all they could see, and a row that is there shows what was newest by then.
fn follow(
    log: &SiteLog<'_>,
    life: &[Entry],
    first_table: usize,
    history: &History,
) -> Result<(), String> {
    let (applied, newest, due) = (VersionVector::new(), Hlc::ZERO, Oracle::new(&MERGING));
    let mut sofar = Sofar { site: log.origin, history, applied, newest, due };
    let mut shown: Vec<Table> = vec![Table::new(); MERGING.len()];
    let parked = parked::rows(log);
    let mut inserted = BTreeMap::new();
    for (entry, record) in life.iter().zip(&log.records) {
        for event in events(record, first_table) {
            if let (Entry::Own { .. }, None, Some(new)) = (entry, &event.old, &event.new) {
                let seen = record.visible.get().copied().unwrap_or(record.lsn);
                let key = oracle::texts(&new[..MERGING[event.table].key]);
                inserted.insert((event.table, key), seen);
            }
            replay(&mut shown[event.table], &event);
        }
        let (origin, first, last, said) = match entry {
            Entry::Other { said } => {
                said.iter().try_for_each(|said| sofar.says(*said, *said))?;
                continue;
            }
            Entry::Own { first, last } => {
                sofar.says(*first, *last)?;
                continue;
            }
            Entry::Applied { origin, first, last, said } => (*origin, *first, *last, said),
        };
        let (touched, counted) = take_foreign(&mut sofar, origin, first, last)?;
        said.iter().try_for_each(|said| sofar.says(*said, *said))?;
        for (table, key, key_text) in touched {
            // Whether it is there may be wrong for a moment: an insert or delete may have come
            // between. A row that is not visible cannot be locked either, so one that appeared since
            // may not show what is newest before it is repaired.
            let is_new = inserted.get(&(table, key.clone())).is_some_and(|at| *at > begins(record));
            if is_new || parked.contains(&(table, key_text)) {
                continue;
            }
            let (shows, due) = (shown[table].get(&key), sofar.due.row(table, &key));
            if let (Some(shows), Some(due)) = (shows, due)
                && !counters::agree(table, shows, &due, &key, &counted)
            {
                let site = log.origin.site;
                return Err(format!(
                    "{site} shows {shows:?} in {key:?} with {origin}/{last}, due is {due:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Rows by table and key, the key also as people read it.
type Touched = BTreeSet<(usize, Vec<String>, String)>;

/// Takes in what a site applies at once; gives the rows, and the merged columns in them.
fn take_foreign(
    sofar: &mut Sofar<'_>,
    origin: Origin,
    first: Seq,
    last: Seq,
) -> Result<(Touched, counters::Counted), String> {
    let (mut touched, mut counted) = (Touched::new(), counters::Counted::new());
    for (txn, foreign) in applied_at_once(sofar.history, origin, first, last)? {
        if !sofar.applied.contains(&foreign.by.seen) {
            let site = sofar.site.site;
            return Err(format!("{site} applied {txn} before what it had seen"));
        }
        sofar.newest = sofar.newest.max(foreign.hlc);
        sofar.due.commit(&foreign.by, &foreign.writes, &foreign.births);
        let rows = foreign.writes.iter();
        touched.extend(rows.map(|row| (row.table, row.key.clone(), row.key_text.clone())));
        counted.extend(counters::counted(&foreign.writes));
    }
    sofar.applied.advance(origin, last);
    Ok((touched, counted))
}

/// Where the first thing that a transaction did stands in the log.
fn begins(record: &CommitRecord) -> Lsn {
    let lsn = |change: &Change| match change {
        Change::Row(row) => row.lsn,
        Change::Message { lsn, .. } => *lsn,
    };
    record.changes.iter().map(lsn).min().unwrap_or(record.lsn)
}

/// The transactions of these numbers, all of them and each of them whole.
fn applied_at_once(
    history: &History,
    origin: Origin,
    first: Seq,
    last: Seq,
) -> Result<Vec<(TxnId, &Committed)>, String> {
    let [from, to] = [first, last].map(|seq| TxnId { origin, seq });
    let found: Vec<_> = history.range(from..=to).map(|(txn, found)| (*txn, found)).collect();
    let mut reached = first;
    for (txn, committed) in &found {
        if txn.seq != reached {
            return Err(format!("{origin} {first} to {last} was applied, {reached} was never"));
        }
        reached = committed.last.next();
    }
    if reached == last.next() {
        return Ok(found);
    }
    Err(format!("{origin} {first} to {last} was applied at once, which is not whole transactions"))
}

fn replay(table: &mut Table, event: &Event) {
    let merging = &MERGING[event.table];
    if let Some(old) = &event.old {
        table.remove(&merging.texts(old).0);
    }
    table.extend(event.new.iter().map(|new| merging.texts(new)));
}

/// What a site shows.
pub(crate) fn shown(view: &View<'_>) -> Vec<Table> {
    let table = |((number, _), merging): ((TableNo, _), &Merging)| {
        view.rows(number).map(|(_, row)| merging.texts(row)).collect()
    };
    view.tables().zip(&MERGING).map(table).collect()
}

/// What a site lists as put aside.
pub(crate) fn aside(view: &View<'_>) -> BTreeSet<(String, Vec<String>)> {
    let texts = |key: RowKey| key.values().map(|values| oracle::texts(&values));
    let listed = view.aside().into_iter();
    listed.map(|(table, key)| (table, texts(key).unwrap_or_default())).collect()
}

/// The same, letter by letter.
pub(crate) fn written(view: &View<'_>) -> Vec<Table> {
    let table = |(number, _)| {
        let rows = view.rows(number).map(|(_, row)| {
            let texts = oracle::texts(row);
            (texts[..1].to_vec(), texts[1..].to_vec())
        });
        rows.collect()
    };
    view.tables().map(table).collect()
}
