//! Members that are set back as a whole, what an operator does about it, and what must hold then.
//!
//! One member of some runs is struck once: its store, its database or both come back from an old
//! image. What is not detected must do no harm. What is detected stands still, and the operator
//! rebuilds the site as `docs/operations.md` says: with a new incarnation, an empty database and an
//! empty store. Its past life ends with what others hold of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use landfall_engine::store::{Identity, Log, MemoryDisk};
use landfall_protocol::id::{Incarnation, Origin};

use super::checks::{self, Contents, Due, Held, SiteLog};
use super::damages;
use super::parking;
use super::postgres::{Backup, Cluster, CommitRecord, OWN_TABLES, Restore};
use super::site::Site;
use super::workload::{Client, ITEM};
use super::world::{World, differ};
use crate::dice::Dice;

/// What comes back from an old image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The data directory.
    Store,
    /// The database, with its slot, as a copy of the disk has it.
    Database,
    /// The database, as a base backup without slots has it.
    BaseBackup,
    /// The database as a standby that is promoted has it.
    Standby,
    /// Both, as they were at one moment.
    Machine,
    /// Nothing, but both go on in a copy of the machine beside the machine.
    Copied,
    /// Nothing: the operator rebuilds a site that is well.
    Rebuilt,
    /// Nothing, but a bit of what is stored flips.
    Flipped,
}

impl Mishap {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let all = [
            Self::Store,
            Self::Database,
            Self::BaseBackup,
            Self::Standby,
            Self::Machine,
            Self::Machine,
            Self::Copied,
            Self::Copied,
            Self::Rebuilt,
            Self::Rebuilt,
        ];
        dice.pick(&all)
    }
}

/// A life that an operator ended.
pub(crate) struct PastLife {
    origin: Origin,
    /// What its database committed, as far as that may be what others hold: where it was set back,
    /// with what it lost and with what came instead.
    branches: Vec<Vec<Arc<CommitRecord>>>,
}

impl Site {
    /// Whether it lives on with what came back from an old image.
    pub(crate) fn is_set_back(&self) -> bool {
        self.was_set_back.get() && self.past.borrow().is_empty()
    }

    /// All its lives.
    fn lives(&self) -> Vec<Origin> {
        let past = self.past.borrow();
        past.iter().map(|life| life.origin).chain([self.origin.get()]).collect()
    }
}

/// Strikes, and sees to what becomes of it.
pub(crate) async fn direct(world: Rc<World>) {
    let Some(mishap) = world.options.mishap else { return };
    let mut dice = Dice::new(world.options.seed ^ 0x7265_7374_6f72_6573);
    let with_databases: Vec<&Rc<Site>> =
        world.sites.iter().filter(|site| site.cluster.is_some()).collect();
    let site = Rc::clone(with_databases[dice.below(with_databases.len() as u64) as usize]);
    let Some(cluster) = site.cluster.clone() else { return };
    // Both lives are to write as much, so that some of their readings are equal.
    let length = world.options.phase_ms / if world.options.has_dead_clocks { 3 } else { 1 };
    let mut moments = [dice.below(length), dice.below(length)];
    moments.sort_unstable();
    tokio::time::sleep(Duration::from_millis(moments[0])).await;
    let disk = site.durable();
    let (Ok(image), backup) = (disk.copy(), cluster.backup()) else {
        return world.fail(format!("the disk of {} cannot be copied", site.id));
    };
    world.trace(|| format!("an image of {} is made", site.id));
    // What the next life writes before it hears of this one has the readings of a clock that began
    // anew, too.
    if mishap == Mishap::Rebuilt && world.options.has_dead_clocks {
        for other in world.sites.iter().filter(|other| other.id != site.id) {
            world.sky.cut(site.id, other.id);
            world.sky.cut(other.id, site.id);
        }
        world.network.changed();
    }
    tokio::time::sleep(Duration::from_millis(moments[1] - moments[0])).await;
    // A copy goes on from where the machine is.
    let image = match (mishap, site.durable().copy()) {
        (Mishap::Copied, Ok(copy)) => copy,
        _ => image,
    };
    world.trace(|| format!("mishap of {}: {mishap:?}", site.id));
    site.was_set_back.set(true);
    match mishap {
        Mishap::Store => set_back_store(&world, &site, image),
        Mishap::Machine => {
            set_back_store(&world, &site, image);
            set_back_database(&site, &cluster, &backup, Restore::Disk);
        }
        Mishap::Database | Mishap::BaseBackup | Mishap::Standby => {
            let how = match mishap {
                Mishap::Database => Restore::Disk,
                Mishap::BaseBackup => Restore::WithoutSlots,
                _ => Restore::Promoted,
            };
            if dice.below(2) == 0 {
                site.crash(&world);
            }
            cluster.crash();
            // With the same token and its slot it is not told from what it was, if it writes more
            // than it lost before anybody looks: `docs/operations.md` says so.
            if how == Restore::Disk && backup.token() == cluster.backup().token() {
                cluster.start();
            } else {
                set_back_database(&site, &cluster, &backup, how);
            }
        }
        Mishap::Rebuilt => rebuild(&world, &site, &mut dice),
        Mishap::Flipped => return damages::strike(&world, &site, &mut dice).await,
        Mishap::Copied => {
            let copy = copy(&world, &site, image);
            return attend_copy(&world, &site, &copy, &mut dice).await;
        }
    }
    world.start_later(&site, dice.below(length / 4 + 1));
    attend(&world, &site, &mut dice).await;
}

fn set_back_store(world: &World, site: &Site, image: MemoryDisk) {
    site.crash(world);
    site.kept.take();
    site.disk.replace(Rc::new(image));
    site.told.replace(Log::default());
}

fn set_back_database(site: &Site, cluster: &Cluster, backup: &Backup, how: Restore) {
    // What the crash leaves is what may have been captured.
    cluster.crash();
    site.lost.borrow_mut().push(cluster.history(0));
    cluster.restore(backup, how);
}

/// A machine with the same identity, at another address, with an application of its own.
fn copy(world: &Rc<World>, site: &Rc<Site>, image: MemoryDisk) -> Rc<Site> {
    let cluster = site.cluster.as_ref().map(|cluster| cluster.twin(world.split()));
    let copy = Rc::new(Site {
        id: site.id,
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), site.id.number()),
        origin: Cell::new(site.origin.get()),
        database: site.database.clone(),
        clock: Arc::clone(&site.clock),
        disk: RefCell::new(Rc::new(image)),
        has_room: Rc::new(Cell::new(true)),
        kept: Rc::default(),
        process: RefCell::new(None),
        told: RefCell::new(Log::default()),
        cluster: cluster.clone(),
        marker_key: site.marker_key.clone(),
        genesis: None,
        was_set_back: Cell::new(true),
        is_gone: Cell::new(false),
        is_damaged: Cell::new(false),
        lost: RefCell::default(),
        past: RefCell::default(),
    });
    if let Some(cluster) = cluster {
        world.lives.spawn(world.life, async move { match cluster.run().await {} });
    }
    // Its rows must not be those of the other.
    if let Some(client) = Client::new(world, &copy, 50) {
        world.clients.set(world.clients.get() + 1);
        world.lives.spawn(world.life, client.run());
    }
    world.copies.set(world.copies.get() + 1);
    world.start_later(&copy, 0);
    copy
}

/// When one of the two is fenced, or everything heals, the operator switches the copy off.
async fn attend_copy(world: &Rc<World>, site: &Rc<Site>, copy: &Rc<Site>, dice: &mut Dice) {
    loop {
        tokio::time::sleep(Duration::from_millis(500 + dice.below(5_000))).await;
        let stands_still = |site: &Site| {
            site.process.borrow().as_ref().is_some_and(|process| process.standstill().is_some())
        };
        if world.healing.get() || stands_still(site) || stands_still(copy) {
            break;
        }
    }
    world.trace(|| format!("the copy of {} is switched off", site.id));
    copy.crash(world);
    copy.is_gone.set(true);
    world.copies.set(world.copies.get() - 1);
    if let Some(cluster) = &copy.cluster {
        cluster.crash();
        site.lost.borrow_mut().push(cluster.history(0));
    }
    attend(world, site, dice).await;
}

/// The operator looks at the site now and then.
async fn attend(world: &Rc<World>, site: &Rc<Site>, dice: &mut Dice) {
    loop {
        tokio::time::sleep(Duration::from_millis(500 + dice.below(5_000))).await;
        let process = site.process.borrow();
        let Some(running) = &*process else { continue };
        let Some(why) = running.standstill() else { continue };
        let log = running.store.watch().borrow().clone();
        drop(process);
        // A fenced member says nothing; any other delivers first.
        if log.fenced.is_none() && !is_delivered(world, site, &log) {
            continue;
        }
        world.trace(|| format!("{} {why}", site.id));
        rebuild(world, site, dice);
        world.start_later(site, dice.below(1_000));
    }
}

fn is_delivered(world: &World, site: &Site, log: &Log) -> bool {
    let others = world.sites.iter().filter(|other| other.id != site.id);
    log.received.get(site.origin.get()) == log.own
        && others.fold(true, |so_far, other| {
            let process = other.process.borrow();
            let held = process.as_ref().map(|process| process.store.watch().borrow().clone());
            so_far && held.is_some_and(|held| held.received.contains(&log.received))
        })
}

/// A new life: empty tables, a new slot, a new store.
pub(crate) fn rebuild(world: &Rc<World>, site: &Rc<Site>, dice: &mut Dice) {
    let (Some(cluster), Some(genesis)) = (&site.cluster, &site.genesis) else { return };
    site.crash(world);
    site.kept.take();
    cluster.crash();
    let origin = site.origin.get();
    let mut branches = site.lost.take();
    branches.push(cluster.history(0));
    site.past.borrow_mut().push(PastLife { origin, branches });
    cluster.restore(genesis, Restore::WithoutSlots);
    let start = cluster.create_slot().0;
    let incarnation = Incarnation::new(1 + dice.below(1 << 40)).expect("it is not zero");
    let origin = Origin { incarnation, ..origin };
    let identity = Identity { origin, database: site.database.clone() };
    let Ok(disk) = MemoryDisk::new(identity, *site.marker_key.secret(), start) else {
        return world.fail(format!("{} gets no new store", site.id));
    };
    world.trace(|| format!("{} is rebuilt as {origin}", site.id));
    site.origin.set(origin);
    site.is_damaged.set(false);
    site.disk.replace(Rc::new(disk));
    site.told.replace(Log::default());
}

/// What must hold in the end, by what each site's store holds.
pub(crate) fn judge(world: &World, held: &[(&Rc<Site>, Contents)]) -> Result<(), String> {
    // What is set aside somewhere is held there as far as the histories are the same.
    let set_aside = world.set_aside();
    let forked: BTreeSet<Origin> = forked(held).union(&set_aside).copied().collect();
    let set_back: BTreeSet<Origin> = world
        .sites
        .iter()
        .filter(|site| site.was_set_back.get())
        .flat_map(|site| site.lives())
        .collect();
    if let Some(origin) = forked.difference(&set_back).next() {
        return Err(format!("{origin} has two histories, and was never set back"));
    }
    let but_forked = |contents: &Contents| -> Contents {
        let sound = contents.iter().filter(|(origin, _)| !forked.contains(origin));
        sound.map(|(origin, own)| (*origin, own.clone())).collect()
    };
    let mut sound = held.iter().map(|(site, contents)| (site.id, but_forked(contents)));
    let first = sound.next();
    if let (Some((_, first)), Some((other, _))) =
        (&first, sound.find(|(_, other)| first.as_ref().is_some_and(|(_, first)| first != other)))
    {
        let origins = first.keys().collect::<Vec<_>>();
        return Err(format!("{other} holds something else of {origins:?}"));
    }
    if !forked.is_empty() {
        return judge_forked(world, held, &forked);
    }
    let contents = held.first().map(|(_, contents)| contents.clone()).unwrap_or_default();
    let due = judge_branches(world, &contents)?;
    let mut first = None;
    for site in &world.sites {
        let Some(cluster) = &site.cluster else { continue };
        let shown = cluster.view(|view| checks::shown(&view));
        let id = site.id;
        if shown != due.tables {
            let found = differ(&shown, &due.tables);
            return Err(format!("{id} does not show what it must: {found}"));
        }
        let aside = cluster.view(|view| checks::aside(&view));
        if aside != due.aside {
            return Err(format!("{id} lists as put aside {aside:?}, due is {:?}", due.aside));
        }
        // What has no order in what is due has one all the same.
        let written = cluster.view(|view| checks::written(&view));
        let (other, first) = first.get_or_insert((site.id, written.clone()));
        if written != *first {
            let (id, found) = (site.id, differ(&written, first));
            return Err(format!("{id} and {other} do not show the same: {found}"));
        }
        let kept = world.ledger.borrow().check(&shown, |origin| is_kept(world, origin));
        kept.map_err(|broken| format!("{}: {broken}", site.id))?;
    }
    Ok(())
}

/// Whether nothing that was acknowledged by this life may be lost: it is not over, and began after
/// the mishap if its site had one.
fn is_kept(world: &World, origin: Origin) -> bool {
    let mut sites = world.sites.iter();
    sites.any(|site| site.origin.get() == origin && !site.is_set_back())
}

/// Whether two histories of one origin got around, and what everybody shows is not the same.
pub(crate) fn is_split(world: &World, held: &[(&Rc<Site>, Contents)]) -> bool {
    !world.set_aside().is_empty() || !forked(held).is_empty()
}

/// Origins of which two stores hold what does not fit together.
fn forked(held: &[(&Rc<Site>, Contents)]) -> BTreeSet<Origin> {
    let mut forked = BTreeSet::new();
    for (_, one) in held {
        for (_, other) in held {
            for (origin, own) in one {
                let theirs = other.get(origin).map_or(&[][..], |theirs| &theirs.transactions);
                if own.transactions.iter().zip(theirs).any(|(own, theirs)| own != theirs) {
                    forked.insert(*origin);
                }
            }
        }
    }
    forked
}

/// With two histories of one origin around, equal knowledge still shows equal rows, and somebody who
/// met another history than his own has set the origin aside.
fn judge_forked(
    world: &World,
    held: &[(&Rc<Site>, Contents)],
    forked: &BTreeSet<Origin>,
) -> Result<(), String> {
    if let Some(origin) = forked.difference(&world.set_aside()).next() {
        return Err(format!("{origin} has two histories, and nobody noticed"));
    }
    // Constraints still stand, and what they keep out is not missed.
    let clusters = held.iter().filter_map(|(site, _)| site.cluster.as_ref());
    let parked: BTreeSet<Vec<String>> = clusters.flat_map(parking::parked).collect();
    let shown = |site: &Site| {
        let mut shown = site.cluster.as_ref()?.view(|view| checks::shown(&view));
        shown[ITEM].retain(|key, _| !parked.contains(key));
        Some(shown)
    };
    for (one, known) in held {
        for (other, theirs) in held {
            if known != theirs {
                continue;
            }
            let (Some(one_shows), Some(other_shows)) = (shown(one), shown(other)) else { continue };
            if one_shows != other_shows {
                let (one, other, found) = (one.id, other.id, differ(&one_shows, &other_shows));
                return Err(format!("{one} and {other} know the same and show not: {found}"));
            }
        }
    }
    Ok(())
}

/// What all must show. Where a life was set back, others may hold of it what was lost or what came
/// instead; one of the two must explain everything.
fn judge_branches(world: &World, contents: &Contents) -> Result<Due, String> {
    let own = |origin| contents.get(&origin).map_or(&[][..], Held::whole);
    let named = checks::named(contents);
    let mut logs = Vec::new();
    let mut choices: Vec<(usize, &PastLife)> = Vec::new();
    let past: Vec<_> = world.sites.iter().map(|site| site.past.borrow()).collect();
    for (site, past) in world.sites.iter().zip(&past) {
        let Some(cluster) = &site.cluster else { continue };
        for life in past.iter() {
            choices.push((logs.len(), life));
            logs.push(SiteLog {
                origin: life.origin,
                marker_key: &site.marker_key,
                records: life.branches[0].clone(),
                own: own(life.origin),
                is_over: true,
            });
        }
        logs.push(SiteLog {
            origin: site.origin.get(),
            marker_key: &site.marker_key,
            records: cluster.history(0),
            own: own(site.origin.get()),
            is_over: false,
        });
    }
    // Only a branch with all that others hold can be the one.
    let mut branches = Vec::new();
    for (place, life) in choices {
        let all = life.branches.iter();
        let whole: Vec<_> = all
            .filter(|branch| {
                logs[place].records.clone_from(branch);
                checks::reaches(&logs[place], OWN_TABLES, &named)
            })
            .collect();
        if let Some(first) = whole.first() {
            logs[place].records.clone_from(first);
        }
        branches.extend(whole.into_iter().skip(1).map(|branch| (place, branch)));
    }
    let mut found = checks::judge(&logs, &world.options, &named);
    for (place, branch) in branches {
        if found.is_ok() {
            break;
        }
        logs[place].records.clone_from(branch);
        found = checks::judge(&logs, &world.options, &named).or(found);
    }
    found
}
