//! What the applications do.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use landfall_tests::dice::Dice;
use landfall_tests::fleet::{DB, Fleet};
use landfall_tests::session::Session;

use crate::book::Book;
use crate::{HUB, SITES};

/// What the accounts of each site hold together, always.
pub(crate) const BALANCE: u64 = 1000;

const SCHEMA: &str = "\
CREATE TABLE entry (id text PRIMARY KEY, pair text NOT NULL, note text);
CREATE TABLE hot (id int PRIMARY KEY, a int, b int, c text);
CREATE TABLE account (site text, id int, balance int NOT NULL, PRIMARY KEY (site, id));
CREATE TABLE stay (id int PRIMARY KEY, ward text, doctor text);
CREATE TABLE bulk (site text, n int, data text, PRIMARY KEY (site, n));
CREATE TABLE scan (id text PRIMARY KEY, title text, data text);
ALTER TABLE scan ALTER data SET STORAGE EXTERNAL;";
const TABLES: [&str; 6] =
    ["public.entry", "public.hot", "public.account", "public.stay", "public.bulk", "public.scan"];
const APPLICATIONS_PER_SITE: usize = 2;
/// Rows that everybody writes to.
const HOT_ROWS: u64 = 16;
const ACCOUNTS: u64 = 10;
const STAYS: u64 = 60;
/// More than a transaction may take in the daemons' memory.
const BULK_ROWS: u64 = 12_000;
/// Longest pause between two transactions of one application.
const PAUSE_MS_MAX: u64 = 100;
/// Pause between two looks at a site, and before a server that is away is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Lines for what a snapshot shows and must not.
const TORN: &str = "\
SELECT 'accounts of ' || site FROM account GROUP BY site HAVING sum(balance) <> 1000
UNION ALL SELECT 'one entry of pair ' || pair FROM entry GROUP BY pair HAVING count(*) <> 2";

/// Five sites that dial a hub, two of which know each other as well.
pub(crate) fn fleet() -> anyhow::Result<Fleet> {
    let fleet = Fleet::new(SCHEMA, &TABLES).star(HUB, &SITES).link(SITES[0], SITES[1]);
    let fleet = fleet.try_start()?;
    for site in SITES {
        let share = BALANCE / ACCOUNTS;
        let accounts = format!(
            "INSERT INTO account SELECT '{site}', n, {share} FROM generate_series(1, {ACCOUNTS}) n"
        );
        fleet.member(site).cluster().try_sql(DB, &accounts)?;
    }
    let hot = format!("INSERT INTO hot SELECT n, 0, 0, '' FROM generate_series(1, {HOT_ROWS}) n");
    fleet.member(SITES[0]).cluster().try_sql(DB, &hot)?;
    fleet.try_converge(crate::CONVERGE)?;
    Ok(fleet)
}

/// Running applications; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Applications {
    /// Dropped first, which tells the threads.
    stop: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Applications {
    fn drop(&mut self) {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !thread::panicking() {
                panic!("an application panicked");
            }
        }
    }
}

/// Starts applications and an onlooker at each site.
pub(crate) fn start(fleet: &Fleet, book: &Arc<Book>, dice: &mut Dice) -> Applications {
    let mut running = Applications { stop: Vec::new(), threads: Vec::new() };
    for site in SITES {
        let conninfo = fleet.member(site).cluster().socket_conninfo(DB);
        for _ in 0..APPLICATIONS_PER_SITE {
            let (conninfo, book, mut dice) = (conninfo.clone(), Arc::clone(book), dice.split());
            // Entries of one run never have the name of another's.
            let life = dice.below(u64::MAX);
            running.add(move |stop| {
                let mut application = Application { site, life, number: 0, dice, book };
                visit(&conninfo, &stop, |session| application.transact(session));
            });
        }
        let book = Arc::clone(book);
        running.add(move |stop| visit(&conninfo, &stop, |session| look(session, site, &book)));
    }
    running
}

impl Applications {
    fn add(&mut self, work: impl FnOnce(Receiver<()>) + Send + 'static) {
        let (stop, stopped) = mpsc::channel();
        self.stop.push(stop);
        self.threads.push(thread::spawn(move || work(stopped)));
    }
}

/// Acts in a session, over and over, with the pause each act asks for; when it fails, in another.
fn visit(
    conninfo: &str,
    stop: &Receiver<()>,
    mut act: impl FnMut(&Session) -> anyhow::Result<Duration>,
) {
    let mut session = None;
    loop {
        session = session.or_else(|| Session::open(conninfo).ok());
        let pause = match session.as_ref().map(&mut act) {
            Some(Ok(pause)) => pause,
            Some(Err(_)) => {
                session = None;
                Duration::ZERO
            }
            None => LOOK_EVERY,
        };
        if stop.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

fn look(session: &Session, site: &str, book: &Book) -> anyhow::Result<Duration> {
    let torn: Vec<String> = session.rows(TORN)?.into_iter().flatten().flatten().collect();
    book.look(site, &torn);
    Ok(LOOK_EVERY)
}

struct Application {
    site: &'static str,
    life: u64,
    number: u64,
    dice: Dice,
    book: Arc<Book>,
}

impl Application {
    /// Runs a transaction of a random kind.
    fn transact(&mut self, session: &Session) -> anyhow::Result<Duration> {
        self.number += 1;
        let (kind, sql, entries) = match self.dice.below(1000) {
            0..300 => self.insert(),
            300..550 => self.update(),
            550..750 => self.transfer(),
            750..980 => self.stay(),
            980..997 => self.scan(),
            _ => self.bulk(),
        };
        match session.batch(&format!("BEGIN; {sql}; COMMIT")) {
            Ok(()) => self.book.acknowledge(kind, entries),
            Err(error) => {
                self.book.fail();
                return Err(error);
            }
        }
        Ok(Duration::from_millis(self.dice.below(PAUSE_MS_MAX)))
    }

    fn insert(&mut self) -> (&'static str, String, Vec<String>) {
        let pair = format!("{} {} {}", self.site, self.life, self.number);
        let ids = vec![format!("{pair} a"), format!("{pair} b")];
        let note = self.dice.below(400);
        let sql = format!(
            "INSERT INTO entry VALUES ('{}', '{pair}', repeat('n', {note})); \
             INSERT INTO entry VALUES ('{}', '{pair}', NULL)",
            ids[0], ids[1]
        );
        ("inserts", sql, ids)
    }

    fn update(&mut self) -> (&'static str, String, Vec<String>) {
        let (row, value) = (self.dice.below(HOT_ROWS) + 1, self.dice.below(1000));
        let cell = self.dice.pick(&["a = ", "b = ", "c = 'text ' || ", "a = a + "]);
        (
            "updates of hot rows",
            format!("UPDATE hot SET {cell}{value} WHERE id = {row}"),
            Vec::new(),
        )
    }

    /// Between accounts of this site, which no other site writes to.
    fn transfer(&mut self) -> (&'static str, String, Vec<String>) {
        let accounts = self.dice.distinct(2, ACCOUNTS);
        let amount = self.dice.below(50) as i64 - 25;
        let change = |account: u64, amount: i64| {
            let id = account + 1;
            let site = self.site;
            format!(
                "UPDATE account SET balance = balance + {amount} WHERE site = '{site}' AND id = {id}"
            )
        };
        let both = [change(accounts[0], amount), change(accounts[1], -amount)];
        ("transfers", both.join("; "), Vec::new())
    }

    /// Rows that come, change, get another key, and go.
    fn stay(&mut self) -> (&'static str, String, Vec<String>) {
        let (id, other, n) = (self.dice.below(STAYS), self.dice.below(STAYS), self.number);
        let site = self.site;
        let sql = match self.dice.below(5) {
            0 | 1 => {
                format!("INSERT INTO stay VALUES ({id}, '{site}', NULL) ON CONFLICT DO NOTHING")
            }
            2 => format!("UPDATE stay SET doctor = '{site} {n}' WHERE id = {id}"),
            3 => format!(
                "UPDATE stay SET id = {other} WHERE id = {id} \
                 AND NOT EXISTS (SELECT FROM stay WHERE id = {other})"
            ),
            _ => format!("DELETE FROM stay WHERE id = {id}"),
        };
        ("rows that come and go", sql, Vec::new())
    }

    /// A value that travels in pieces, or a change beside it.
    fn scan(&mut self) -> (&'static str, String, Vec<String>) {
        let (id, n) = (self.dice.below(8), self.number);
        let sql = if self.dice.below(3) == 0 {
            let times = 10_000 + self.dice.below(20_000);
            format!(
                "INSERT INTO scan VALUES ('{id}', '{n}', repeat(md5('{n}'), {times})) \
                 ON CONFLICT (id) DO UPDATE SET data = excluded.data"
            )
        } else {
            format!("UPDATE scan SET title = '{n}' WHERE id = '{id}'")
        };
        ("long values", sql, Vec::new())
    }

    /// More rows than are kept in memory; the next time they change or go.
    fn bulk(&mut self) -> (&'static str, String, Vec<String>) {
        let (site, n) = (self.site, self.number);
        let sql = match self.dice.below(3) {
            0 => format!("DELETE FROM bulk WHERE site = '{site}'"),
            1 => format!("UPDATE bulk SET data = data || ' {n}' WHERE site = '{site}'"),
            _ => format!(
                "INSERT INTO bulk SELECT '{site}', n, 'row ' || n || repeat('.', 200) \
                 FROM generate_series(1, {BULK_ROWS}) n ON CONFLICT DO NOTHING"
            ),
        };
        ("large transactions", sql, Vec::new())
    }
}
