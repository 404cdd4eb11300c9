//! Runs the tasks of all sites on one thread, in an order that the seed decides.
//!
//! Every task belongs to a [`Life`], the time of one process from its start to its end; a crash
//! drops all tasks of a life between two steps. The executor is itself one future, on a runtime
//! whose clock is paused: when no task is ready, that clock moves to the next timer.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::{BoxFuture, LocalBoxFuture};
use landfall_engine::simulation::{self, Surroundings};
use tokio::time::Instant;

use crate::dice::Dice;

/// One life of one process, or of the world itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Life(u64);

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What tasks and wakers reach, from wherever they are.
#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    next: u64,
    /// A set, because the runtime wakes those who wait for one thing in an order of its own.
    ready: BTreeSet<u64>,
    spawned: Vec<(u64, Life, BoxFuture<'static, ()>)>,
    aborted: Vec<u64>,
    waker: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct TaskWaker {
    task: u64,
    is_queued: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if self.is_queued.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut queue = self.shared.lock();
        queue.ready.insert(self.task);
        if let Some(waker) = queue.waker.take() {
            drop(queue);
            waker.wake();
        }
    }
}

/// Starts tasks in one life; what the engine's `Tasks` are made on.
#[derive(Clone)]
pub(super) struct Spawner {
    shared: Arc<Shared>,
    life: Life,
}

impl simulation::Executor for Spawner {
    fn spawn(&self, _name: &str, task: BoxFuture<'static, ()>) -> u64 {
        let mut queue = self.shared.lock();
        queue.next += 1;
        let id = queue.next;
        queue.spawned.push((id, self.life, task));
        id
    }

    fn abort(&self, task: u64) {
        self.shared.lock().aborted.push(task);
    }
}

struct Entry {
    life: Life,
    around: Rc<dyn Surroundings>,
    waker: Arc<TaskWaker>,
    task: Task,
}

/// Starts and ends lives from within tasks. Clones are the same.
#[derive(Clone)]
pub(super) struct Lives {
    shared: Arc<Shared>,
    local: Rc<std::cell::RefCell<Local>>,
}

#[derive(Default)]
struct Local {
    around: BTreeMap<Life, Rc<dyn Surroundings>>,
    spawned: Vec<(u64, Life, LocalBoxFuture<'static, ()>)>,
    ended: Vec<Life>,
    lives: u64,
}

impl Lives {
    /// A new life in these surroundings.
    pub(super) fn begin(&self, around: Rc<dyn Surroundings>) -> Life {
        let mut local = self.local.borrow_mut();
        local.lives += 1;
        let life = Life(local.lives);
        local.around.insert(life, around);
        life
    }

    /// Where that life's tasks are started.
    pub(super) fn spawner(&self, life: Life) -> Spawner {
        Spawner { shared: Arc::clone(&self.shared), life }
    }

    /// Starts a task that may stay on this thread.
    pub(super) fn spawn(&self, life: Life, task: impl Future<Output = ()> + 'static) {
        let mut queue = self.shared.lock();
        queue.next += 1;
        self.local.borrow_mut().spawned.push((queue.next, life, Box::pin(task)));
    }

    /// Ends a life: its tasks are never polled again. They are dropped before the next step.
    pub(super) fn end(&self, life: Life) {
        let mut local = self.local.borrow_mut();
        local.around.remove(&life);
        local.ended.push(life);
    }
}

/// What a run cost, and which run it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Polls of tasks.
    pub count: u64,
    /// Over all steps: which task, at what time.
    pub hash: u64,
}

/// The tasks.
pub(super) struct Executor {
    lives: Lives,
    tasks: BTreeMap<u64, Entry>,
    dice: Dice,
    steps: Steps,
    start: Instant,
}

impl Executor {
    /// No tasks yet. Must be called within the runtime.
    pub(super) fn new(dice: Dice) -> Self {
        let lives = Lives { shared: Arc::default(), local: Rc::default() };
        Self { lives, tasks: BTreeMap::new(), dice, steps: Steps::default(), start: Instant::now() }
    }

    /// Where tasks are started.
    pub(super) fn lives(&self) -> Lives {
        self.lives.clone()
    }

    /// Runs until `done` says so, asked after every step, or until so many steps were taken; says
    /// which, with the cost.
    pub(super) async fn run(
        mut self,
        steps_max: u64,
        mut done: impl FnMut() -> bool,
    ) -> (bool, Steps) {
        let ran = poll_fn(|cx| {
            loop {
                self.lives.shared.lock().waker = Some(cx.waker().clone());
                self.take_in();
                if done() {
                    return Poll::Ready(true);
                }
                if self.steps.count >= steps_max {
                    return Poll::Ready(false);
                }
                let Some(task) = self.next_ready() else { return Poll::Pending };
                self.step(task);
            }
        });
        // Otherwise the runtime's budget for one poll would make what is ready look as if it were
        // not.
        let finished = tokio::task::unconstrained(ran).await;
        (finished, self.steps)
    }

    fn take_in(&mut self) {
        loop {
            let (spawned, aborted) = {
                let mut queue = self.lives.shared.lock();
                (std::mem::take(&mut queue.spawned), std::mem::take(&mut queue.aborted))
            };
            let mut local = self.lives.local.borrow_mut();
            let (mine, ended) =
                (std::mem::take(&mut local.spawned), std::mem::take(&mut local.ended));
            drop(local);
            if spawned.is_empty() && aborted.is_empty() && mine.is_empty() && ended.is_empty() {
                return;
            }
            let spawned = spawned.into_iter().map(|(id, life, task)| (id, life, task as Task));
            for (id, life, task) in spawned.chain(mine) {
                self.add(id, life, task);
            }
            // Dropping a task may start or abort others.
            for id in aborted {
                self.remove(id);
            }
            for life in ended {
                let ids: Vec<u64> =
                    self.tasks.iter().filter(|(_, e)| e.life == life).map(|(id, _)| *id).collect();
                ids.into_iter().for_each(|id| self.remove(id));
            }
        }
    }

    fn add(&mut self, id: u64, life: Life, task: Task) {
        // Nothing begins in a life that is over.
        let around = self.lives.local.borrow().around.get(&life).cloned();
        let Some(around) = around else { return };
        let shared = Arc::clone(&self.lives.shared);
        let waker = Arc::new(TaskWaker { task: id, is_queued: AtomicBool::new(true), shared });
        self.tasks.insert(id, Entry { life, around, waker, task });
        self.lives.shared.lock().ready.insert(id);
    }

    fn remove(&mut self, id: u64) {
        if let Some(entry) = self.tasks.remove(&id) {
            simulation::within(Rc::clone(&entry.around), move || drop(entry.task));
        }
    }

    fn next_ready(&mut self) -> Option<u64> {
        let mut queue = self.lives.shared.lock();
        while !queue.ready.is_empty() {
            let place = self.dice.below(queue.ready.len() as u64) as usize;
            let task = *queue.ready.iter().nth(place)?;
            queue.ready.remove(&task);
            if self.tasks.contains_key(&task) {
                return Some(task);
            }
        }
        None
    }

    fn step(&mut self, id: u64) {
        let Some(entry) = self.tasks.get_mut(&id) else { return };
        self.steps.count += 1;
        let now_ms = self.start.elapsed().as_millis() as u64;
        let mixed = self.steps.hash ^ (id << 32) ^ now_ms;
        self.steps.hash = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        entry.waker.is_queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&entry.waker));
        let around = Rc::clone(&entry.around);
        let task = &mut entry.task;
        let poll =
            simulation::within(around, || task.as_mut().poll(&mut Context::from_waker(&waker)));
        if poll.is_ready() {
            self.remove(id);
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        for id in self.tasks.keys().copied().collect::<Vec<_>>() {
            self.remove(id);
        }
    }
}
