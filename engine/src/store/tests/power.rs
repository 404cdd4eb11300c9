//! Power cuts: of what was not synced yet, the disk keeps what it likes.
//!
//! After a reply everything is synced: the files then are what a disk has for sure. A copy of them
//! in the middle of the next command, before its reply, shows what was written since. A power cut
//! leaves any of its sectors old, new or torn; but SQLite syncs in between, which is why not all
//! combinations are possible:
//!
//! 1. A log that begins anew gets its header, which is synced, then the rest.
//! 2. The log is synced before pages of the database are written.
//! 3. The database is synced before the log begins anew, which is not in the same command.

use std::fs;
use std::future::ready;
use std::pin::pin;

use super::crash::{APPLY_EVERY, LSN_STEP, captured};
use super::*;
use crate::store::{Log, Sealing};

const SECTOR: usize = 512;
/// Of SQLite's write-ahead log.
const WAL_HEADER: usize = 32;
const WAL_SALT: std::ops::Range<usize> = 16..24;

const LIVES: u64 = 6;
const COMMANDS: u64 = 50;
const FOREIGN: i64 = 40;
/// Copies in the middle of one command, and power cuts for each.
const COPIES_MAX: usize = 4;
const CUTS: u64 = 6;
/// Looking at everything takes longer than all the rest.
const FULL_CHECK_ONE_IN: u64 = 8;

/// Numbers by splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// What stands in a store's files.
#[derive(Clone, Default, PartialEq, Eq)]
struct Files {
    database: Vec<u8>,
    wal: Vec<u8>,
}

impl Files {
    /// The database first: once a page of it is new, the log does not change any more.
    fn read(dir: &Path) -> Self {
        let database = fs::read(dir.join("landfall.db")).unwrap();
        Self { database, wal: fs::read(dir.join("landfall.db-wal")).unwrap_or_default() }
    }

    fn write(&self, dir: &Path) {
        fs::write(dir.join("landfall.db"), &self.database).unwrap();
        fs::write(dir.join("landfall.db-wal"), &self.wal).unwrap();
    }

    fn log_began_anew(&self, later: &Self) -> bool {
        self.wal.get(WAL_SALT) != later.wal.get(WAL_SALT)
    }

    /// What a power cut may leave when `later` was being written over this.
    fn cut(&self, later: &Self, dice: &mut Dice) -> Self {
        if self.database != later.database {
            let database = torn(&self.database, &later.database, dice);
            return Self { database, wal: later.wal.clone() };
        }
        let mut wal = torn(&self.wal, &later.wal, dice);
        if self.log_began_anew(later) {
            if dice.below(4) == 0 {
                // In the middle of the header.
                let bytes = dice.below(WAL_HEADER as u64 + 1) as usize;
                wal = self.wal.clone();
                wal.resize(wal.len().max(bytes), 0);
                wal[..bytes].copy_from_slice(&later.wal[..bytes]);
            } else {
                wal.resize(wal.len().max(WAL_HEADER), 0);
                wal[..WAL_HEADER].copy_from_slice(&later.wal[..WAL_HEADER]);
            }
        }
        Self { database: self.database.clone(), wal }
    }
}

/// Some sectors of `old`, some of `new`, some of both; and a length in between.
fn torn(old: &[u8], new: &[u8], dice: &mut Dice) -> Vec<u8> {
    let (short, long) = (old.len().min(new.len()), old.len().max(new.len()));
    let mut left = vec![0; long];
    left[..old.len()].copy_from_slice(old);
    let new_in_20 = [1, 10, 19, 20][dice.below(4) as usize];
    for at in (0..new.len()).step_by(SECTOR) {
        let sector = at..(at + SECTOR).min(new.len());
        if left[sector.clone()] == new[sector.clone()] {
            continue;
        }
        let taken = match dice.below(20) {
            0 => dice.below(SECTOR as u64) as usize,
            chance if chance < new_in_20 => SECTOR,
            _ => 0,
        };
        let (from, to) = (sector.start, sector.end.min(at + taken));
        left[from..to].copy_from_slice(&new[from..to]);
    }
    let length = match dice.below(3) {
        0 => short as u64 + dice.below((long - short) as u64 + 1),
        _ => long as u64,
    };
    left.truncate(length as usize);
    left
}

/// One command, which is one commit.
#[derive(Clone, Copy, Debug)]
enum Step {
    Seal(Sealing),
    /// Units up to this one.
    Receive(usize),
    /// Captured transactions up to this one.
    Fold(u64),
}

/// What a store must hold, and what may come next.
#[derive(Clone)]
struct Known {
    units: Arc<[Unit]>,
    table: Arc<TableDef>,
    model: Model,
    received: usize,
    folded: u64,
}

impl Known {
    fn nothing(units: &Arc<[Unit]>) -> Self {
        let mut model = Model::new(1);
        units.iter().for_each(|unit| model.receive(unit));
        Self { units: Arc::clone(units), table: table("t"), model, received: 0, folded: 0 }
    }

    fn draw(&self, dice: &mut Dice) -> Step {
        match dice.below(8) {
            0 => Step::Seal(Sealing::Eager),
            1 => Step::Seal(Sealing::Lazy),
            2 | 3 if self.received < self.units.len() => {
                let to = self.received + 1 + dice.below(3) as usize;
                Step::Receive(to.min(self.units.len()))
            }
            _ => {
                // What is shown was received before.
                let shown_max = (self.received as u64 + 1) * APPLY_EVERY - 1;
                Step::Fold((self.folded + 1 + dice.below(6)).min(shown_max))
            }
        }
    }

    fn batch(&self, step: Step) -> Vec<CapturedTransaction> {
        match step {
            Step::Fold(to) => (self.folded..to).map(|n| captured(&self.table, n)).collect(),
            _ => Vec::new(),
        }
    }

    async fn run(&self, store: &Store, step: Step) {
        match step {
            Step::Seal(sealing) => store.set_sealing(sealing).await.unwrap(),
            Step::Receive(to) => {
                store.append_units(self.units[self.received..to].to_vec(), 7).await.unwrap();
            }
            Step::Fold(to) => {
                let end = START_LSN + to * LSN_STEP;
                store.fold(self.batch(step), end, Vec::new()).await.unwrap();
            }
        }
    }

    /// Runs a command and copies the files meanwhile.
    async fn run_and_copy(&self, store: &Store, dir: &Path, step: Step) -> Vec<Files> {
        let mut command = pin!(self.run(store, step));
        let (mut copies, mut copy) = (Vec::new(), None);
        loop {
            let replied = tokio::select! { biased;
                () = &mut command => true,
                () = ready(()) => false,
            };
            if replied {
                return copies;
            }
            // There was no reply before the copy was finished.
            copies.extend(copy.take().filter(|copy| copies.last() != Some(copy)));
            if copies.len() < COPIES_MAX {
                copy = Some(Files::read(dir));
            }
            tokio::task::yield_now().await;
        }
    }

    fn and(&self, step: Step) -> Self {
        let mut next = self.clone();
        next.model.fold(self.batch(step));
        match step {
            Step::Seal(_) => {}
            Step::Receive(to) => next.received = to,
            Step::Fold(to) => next.folded = to,
        }
        next
    }

    /// What is quick to ask.
    async fn check_state(&self, store: &Store) {
        assert_eq!(store.fold_state().await.unwrap(), self.model.fold);
        let held = store.held().await.unwrap();
        let held = held.iter().find(|held| held.origin == origin(2));
        let last = self.received.checked_sub(1).map(|last| self.units[last].hash());
        assert_eq!(held.map(|held| held.hash), last);
    }

    /// Everything.
    async fn check(&self, store: &Store) {
        let sound = store
            .write(0, |writer| {
                let connection = writer.db.connection();
                let check = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
                Ok(connection.pragma_query_value(None, "integrity_check", check)?)
            })
            .await;
        assert_eq!(sound.unwrap(), "ok");
        self.model.check(store).await;
        assert_eq!(all_units(store, origin(2)).await, self.units[..self.received]);
        let log = store.watch().borrow().clone();
        assert_eq!(log.fold_lsn, START_LSN + self.folded * LSN_STEP);
        assert_eq!(log.fates.applied, self.folded / APPLY_EVERY);
        assert_eq!(log.received.get(origin(2)), Seq(self.received as u64));
    }
}

fn open_store(dir: &Path) -> (Store, Log) {
    let settings = Settings { checkpoint_bytes: 48 << 10, ..settings() };
    let (store, opened) = Store::open(dir, &settings, signer(1), 1).unwrap();
    (store, opened.log)
}

/// What the power cuts of a run met.
#[derive(Debug, Default)]
struct Seen {
    /// The log being written, being begun anew, being written back.
    appending: u64,
    beginning: u64,
    writing_back: u64,
    /// Commands without a reply that were gone, and that were there.
    gone: u64,
    there: u64,
}

impl Seen {
    fn note(&mut self, safe: &Files, copy: &Files) {
        if safe.database != copy.database {
            self.writing_back += 1;
        } else if safe.log_began_anew(copy) {
            self.beginning += 1;
        } else {
            self.appending += 1;
        }
    }
}

fn dice() -> Dice {
    let told = std::env::var("LANDFALL_SEED").map(|seed| seed.parse().unwrap());
    let seed = told.unwrap_or_else(|_| u64::from(getrandom::u32().unwrap()));
    println!("LANDFALL_SEED={seed}");
    Dice(seed)
}

#[tokio::test]
async fn a_power_cut_keeps_what_was_acknowledged_and_no_half_of_the_rest() {
    let mut dice = dice();
    let units: Arc<[Unit]> = foreign_units(2, &table("t"), FOREIGN).await.into();
    // Opened again and again: in memory, if the system has such a place.
    let left = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut seen = Seen::default();
    for _ in 0..LIVES {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), 1);
        let (store, mut log) = open_store(dir.path());
        let mut known = Known::nothing(&units);
        for _ in 0..COMMANDS {
            let safe = Files::read(dir.path());
            let step = known.draw(&mut dice);
            let copies = known.run_and_copy(&store, dir.path(), step).await;
            let (next, next_log) = (known.and(step), store.watch().borrow().clone());
            for copy in copies.iter().filter(|copy| **copy != safe) {
                for _ in 0..CUTS {
                    seen.note(&safe, copy);
                    safe.cut(copy, &mut dice).write(left.path());
                    let (store, found) = open_store(left.path());
                    if found == next_log {
                        seen.there += 1;
                    } else {
                        assert_eq!(found, log, "a part of {step:?}");
                        seen.gone += 1;
                        known.check_state(&store).await;
                        // Whoever had no reply does it again.
                        known.run(&store, step).await;
                    }
                    next.check_state(&store).await;
                    if dice.below(FULL_CHECK_ONE_IN) == 0 {
                        next.check(&store).await;
                    }
                    store.close().await;
                }
            }
            (known, log) = (next, next_log);
        }
        known.check(&store).await;
        store.close().await;
    }
    println!("{seen:?}");
    let Seen { appending, beginning, writing_back, gone, there } = seen;
    assert!([appending, beginning, writing_back, gone, there].iter().all(|n| *n > 0), "{seen:?}");
}
