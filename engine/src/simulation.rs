//! What a simulator puts in the place of the clock, of chance, of the runtime's tasks and of planted
//! mistakes. Only compiled with the feature of that name, and without effect where no simulator
//! runs: everything is per thread and set around each poll of a task.

use std::cell::RefCell;
use std::rc::Rc;

use futures_util::future::BoxFuture;
use landfall_protocol::change::Transaction;
use landfall_protocol::id::Origin;

/// What the code of one site sees of the world.
pub trait Surroundings {
    /// What the site's clock shows, milliseconds since 1970.
    fn wall_ms(&self) -> u64;
    /// Draws for [`random`](crate::random).
    fn fill(&self, bytes: &mut [u8]);
    /// Whether a rule is switched off (see `plant`).
    fn planted(&self, rule: &str) -> bool;
    /// A transaction of an origin is about to be logged, with all that it did.
    fn logged(&self, _origin: Origin, _transaction: &Transaction) {}
    /// Something of a unit has come, and more of it is to come.
    fn arriving(&self) {}
    /// Two parts of a unit of this origin do not fit together.
    fn misfitted(&self, _origin: Origin) {}
}

/// Runs the tasks that [`Tasks`](crate::tasks::Tasks) starts.
pub trait Executor: Send + Sync {
    /// Takes a task; the number names it in [`Executor::abort`].
    fn spawn(&self, name: &str, task: BoxFuture<'static, ()>) -> u64;
    /// Drops a task soon, unless it has ended.
    fn abort(&self, task: u64);
}

thread_local! {
    static AROUND: RefCell<Option<Rc<dyn Surroundings>>> = const { RefCell::new(None) };
}

/// Runs something in these surroundings, and restores the ones before.
pub fn within<T>(surroundings: Rc<dyn Surroundings>, run: impl FnOnce() -> T) -> T {
    struct Restore(Option<Rc<dyn Surroundings>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let before = self.0.take();
            AROUND.with(|around| around.replace(before));
        }
    }
    let before = AROUND.with(|around| around.replace(Some(surroundings)));
    let _restore = Restore(before);
    run()
}

fn look<T>(at: impl FnOnce(&dyn Surroundings) -> T) -> Option<T> {
    let around = AROUND.with(|around| around.borrow().clone());
    around.map(|around| at(&*around))
}

pub(crate) fn wall_ms() -> Option<u64> {
    look(|around| around.wall_ms())
}

pub(crate) fn arriving() {
    look(|around| around.arriving());
}

pub(crate) fn misfitted(origin: Origin) {
    look(|around| around.misfitted(origin));
}

pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    look(|around| around.fill(bytes)).is_some()
}

pub(crate) fn planted(rule: &str) -> bool {
    look(|around| around.planted(rule)).unwrap_or(false)
}

pub(crate) fn logged(origin: Origin, transaction: &Transaction) {
    look(|around| around.logged(origin, transaction));
}
