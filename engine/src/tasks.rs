//! Supervision: the only place that starts tasks, so that every result is looked at.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use landfall_engine::tasks::Tasks;
//! let tasks = Tasks::new();
//! let stop = tasks.stop();
//! tasks.spawn("idler", async move {
//!     stop.cancelled().await;
//!     Ok::<(), std::convert::Infallible>(())
//! });
//! tasks.stop().cancel(); // what the signal handler of the daemon does
//! tasks.wait().await.unwrap();
//! # });
//! ```

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

#[cfg(feature = "simulation")]
use crate::simulation;

#[cfg(feature = "simulation")]
mod simulated;

/// How long tasks have to end after the stop signal before they are aborted. Ending by `kill -9` is
/// supported, so this only buys a shorter next start.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Why a task, and with it the process, ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// A task returned an error.
    #[error("task \"{task}\" failed: {error}")]
    Failed {
        /// The name it was started under.
        task: String,
        /// What it returned.
        error: String,
    },
    /// A task panicked.
    #[error("task \"{task}\" panicked: {message}")]
    Panicked {
        /// The name it was started under.
        task: String,
        /// The message of the panic.
        message: String,
    },
    /// Tasks did not end in time after the stop signal and were aborted.
    #[error("tasks did not stop in time: {}", .tasks.join(", "))]
    Stuck {
        /// Their names.
        tasks: Vec<String>,
    },
    /// The task was aborted before it ended.
    #[error("task \"{task}\" was aborted")]
    Aborted {
        /// The name it was started under.
        task: String,
    },
}

/// Starts tasks, tells them to stop, and says how they ended. Clones share the same tasks.
#[derive(Debug, Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    stop: CancellationToken,
    stop_grace: Duration,
    #[cfg(feature = "simulation")]
    executor: Option<Arc<dyn simulation::Executor>>,
    state: Mutex<State>,
    /// Bumped whenever `state` changes in a way `wait` looks at.
    changed: watch::Sender<()>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    running: BTreeMap<u64, Entry>,
    first_failure: Option<TaskError>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    /// Missing for the moment between registration and start.
    abort: Option<AbortHandle>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// No tasks yet; ten seconds of grace after the stop signal.
    pub fn new() -> Self {
        Self::with_stop_grace(STOP_GRACE)
    }

    /// Like [`Tasks::new`] with another time between the stop signal and abortion.
    pub fn with_stop_grace(stop_grace: Duration) -> Self {
        let inner = Inner {
            stop: CancellationToken::new(),
            stop_grace,
            #[cfg(feature = "simulation")]
            executor: None,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Like [`Tasks::new`], with tasks that a simulator runs.
    #[cfg(feature = "simulation")]
    pub fn simulated(executor: Arc<dyn simulation::Executor>) -> Self {
        let inner = Inner {
            stop: CancellationToken::new(),
            stop_grace: STOP_GRACE,
            executor: Some(executor),
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What the first failure was, if there was one.
    #[cfg(feature = "simulation")]
    pub fn failure(&self) -> Option<TaskError> {
        self.inner.lock().first_failure.clone()
    }

    /// The stop signal: tasks wait for it at the head of their loop; whoever cancels it stops all.
    pub fn stop(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    /// Starts a task that lives as long as the process. If it returns an error or panics,
    /// [`Tasks::wait`] reports it and everything else is told to stop. Returning `Ok` early is
    /// fine.
    pub fn spawn<F, E>(&self, name: impl Into<String>, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let running = self.register(name.into());
        let reporter = running.clone_reporter();
        let work = async move {
            if let Err(error) = future.await {
                reporter.fail(|task| TaskError::Failed { task, error: error.to_string() });
            }
        };
        // Not awaited by anyone: `running` reports how it ended.
        self.start(running, work).detach();
    }

    /// Starts a short-lived task on behalf of an owner, who gets its output and decides what an
    /// error in it means. It is aborted when the handle is dropped. A panic still ends everything,
    /// as in [`Tasks::spawn`].
    pub fn spawn_child<F>(&self, name: impl Into<String>, future: F) -> Child<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let name = name.into();
        let running = self.register(name.clone());
        Child { name, handle: self.start(running, future) }
    }

    /// Returns when every task has ended, when the first one failed or panicked (its error), or
    /// when the stop signal was given; in the last two cases the others are told to stop and
    /// awaited for the grace time, then aborted ([`TaskError::Stuck`]).
    ///
    /// With no task started yet it returns at once.
    pub async fn wait(&self) -> Result<(), TaskError> {
        let over = |state: &State| state.running.is_empty() || state.first_failure.is_some();
        tokio::select! {
            biased;
            () = self.inner.stop.cancelled() => {}
            () = self.inner.until(over) => {}
        }
        self.inner.stop.cancel();
        let all_ended = self.inner.until(|state| state.running.is_empty());
        if tokio::time::timeout(self.inner.stop_grace, all_ended).await.is_err() {
            self.inner.abort_all();
        }
        let first_failure = self.inner.lock().first_failure.clone();
        first_failure.map_or(Ok(()), Err)
    }

    fn register(&self, name: String) -> Running {
        let mut state = self.inner.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.running.insert(id, Entry { name: name.clone(), abort: None });
        drop(state);
        Running { reporter: Reporter { inner: self.inner.clone(), name }, id }
    }

    #[expect(clippy::disallowed_methods, reason = "this is where tasks are started")]
    fn start<F>(&self, running: Running, future: F) -> Handle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let id = running.id;
        #[cfg(feature = "simulation")]
        let name = running.reporter.name.clone();
        // ERROR level: a filter must never remove the name of the task from its messages.
        let span = tracing::error_span!("task", name = %running.reporter.name);
        let work = running.watch_over(future).instrument(span);
        #[cfg(feature = "simulation")]
        if let Some(executor) = &self.inner.executor {
            return simulated::start(executor, &name, work);
        }
        let handle = tokio::spawn(work);
        // If the task has ended already, there is nothing to abort any more.
        if let Some(entry) = self.inner.lock().running.get_mut(&id) {
            entry.abort = Some(handle.abort_handle());
        }
        Handle::Tokio(AbortOnDropHandle::new(handle))
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock; the state is whole even if something did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: TaskError) {
        self.lock().first_failure.get_or_insert(error);
        self.changed.send_replace(());
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        while !reached(&self.lock()) {
            // Cannot fail: the sender is in `self`.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn abort_all(&self) {
        let mut state = self.lock();
        let tasks = state.running.values().map(|entry| entry.name.clone()).collect();
        state.first_failure.get_or_insert(TaskError::Stuck { tasks });
        for abort in state.running.values().filter_map(|entry| entry.abort.as_ref()) {
            abort.abort();
        }
    }
}

#[derive(Debug)]
struct Reporter {
    inner: Arc<Inner>,
    name: String,
}

impl Reporter {
    fn fail(&self, error: impl FnOnce(String) -> TaskError) {
        self.inner.fail(error(self.name.clone()));
    }
}

/// Kept by a task while it runs; takes it off the list however it ends.
#[derive(Debug)]
struct Running {
    reporter: Reporter,
    id: u64,
}

impl Running {
    fn clone_reporter(&self) -> Reporter {
        Reporter { inner: self.reporter.inner.clone(), name: self.reporter.name.clone() }
    }

    /// The output of `future`, or `None` when it panicked, which is then reported.
    async fn watch_over<F: Future>(self, future: F) -> Option<F::Output> {
        let mut future = Box::pin(future);
        let outcome = poll_fn(|cx| {
            // A panicked future is never polled again, so no broken state is seen.
            match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
                Ok(poll) => poll.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            }
        })
        .await;
        match outcome {
            Ok(output) => Some(output),
            Err(panic) => {
                let message = panic_message(&*panic);
                self.reporter.fail(|task| TaskError::Panicked { task, message });
                None
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let inner = &self.reporter.inner;
        // The entry is dropped after the lock is released.
        let _entry = inner.lock().running.remove(&self.id);
        inner.changed.send_replace(());
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
        .to_owned()
}

/// A task started by [`Tasks::spawn_child`]: awaiting it gives its output, dropping it aborts it.
/// The error is [`TaskError::Aborted`] also after a panic, which [`Tasks::wait`] reports in full.
#[derive(Debug)]
#[must_use = "dropping a child aborts it"]
pub struct Child<T> {
    name: String,
    handle: Handle<T>,
}

/// A started task.
#[derive(Debug)]
enum Handle<T> {
    Tokio(AbortOnDropHandle<Option<T>>),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Handle<T>),
}

impl<T> Handle<T> {
    /// Lets it run by itself.
    fn detach(self) {
        match self {
            Self::Tokio(handle) => drop(handle.detach()),
            #[cfg(feature = "simulation")]
            Self::Simulated(handle) => handle.detach(),
        }
    }
}

impl<T> Child<T> {
    /// Aborts the task; awaiting it then gives [`TaskError::Aborted`] unless it had ended.
    pub fn abort(&self) {
        match &self.handle {
            Handle::Tokio(handle) => handle.abort(),
            #[cfg(feature = "simulation")]
            Handle::Simulated(handle) => handle.abort(),
        }
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        match &self.handle {
            Handle::Tokio(handle) => handle.is_finished(),
            #[cfg(feature = "simulation")]
            Handle::Simulated(handle) => handle.is_finished(),
        }
    }
}

impl<T> Future for Child<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = match &mut self.handle {
            Handle::Tokio(handle) => Pin::new(handle).poll(cx).map(|ended| ended.ok().flatten()),
            #[cfg(feature = "simulation")]
            Handle::Simulated(handle) => Pin::new(handle).poll(cx),
        };
        ended.map(|output| output.ok_or_else(|| TaskError::Aborted { task: self.name.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;

    /// `Tasks::wait`, with a limit that turns a hang into a failure.
    async fn wait(tasks: &Tasks) -> Result<(), TaskError> {
        tokio::time::timeout(Duration::from_secs(30), tasks.wait()).await.expect("the wait ends")
    }

    /// A task that ends when told to, and says so.
    fn spawn_obedient(tasks: &Tasks) -> oneshot::Receiver<()> {
        let (ended, has_ended) = oneshot::channel();
        let stop = tasks.stop();
        tasks.spawn("obedient", async move {
            stop.cancelled().await;
            ended.send(()).unwrap();
            Ok::<_, Infallible>(())
        });
        has_ended
    }

    #[tokio::test]
    async fn wait_returns_when_all_have_ended() {
        let tasks = Tasks::new();
        tasks.spawn("one", async { Ok::<_, Infallible>(()) });
        tasks.spawn(String::from("two"), async { Ok::<_, Infallible>(()) });
        assert_eq!(wait(&tasks).await, Ok(()));
    }

    #[tokio::test]
    async fn first_failure_stops_the_rest_and_is_reported_by_name() {
        let tasks = Tasks::new();
        let has_ended = spawn_obedient(&tasks);
        tasks.spawn("walsender", async { Err("slot is missing") });
        let error = wait(&tasks).await.unwrap_err();
        assert_eq!(error.to_string(), "task \"walsender\" failed: slot is missing");
        has_ended.await.unwrap();
    }

    #[tokio::test]
    async fn panic_ends_the_wait_with_its_message() {
        let tasks = Tasks::new();
        let has_ended = spawn_obedient(&tasks);
        tasks.spawn("sealer", async {
            tokio::task::yield_now().await;
            if true {
                panic!("offset {} is past the end", 7);
            }
            Ok::<_, Infallible>(())
        });
        let error = wait(&tasks).await.unwrap_err();
        assert_eq!(error.to_string(), "task \"sealer\" panicked: offset 7 is past the end");
        has_ended.await.unwrap();
    }

    #[tokio::test]
    async fn panic_of_a_child_ends_the_wait_too() {
        let tasks = Tasks::new();
        let has_ended = spawn_obedient(&tasks);
        let child = tasks.spawn_child("session", async { panic!("boom") });
        let outcome: Result<(), _> = child.await;
        assert_eq!(outcome, Err(TaskError::Aborted { task: "session".into() }));
        let error = wait(&tasks).await.unwrap_err();
        assert_eq!(error.to_string(), "task \"session\" panicked: boom");
        has_ended.await.unwrap();
    }

    #[tokio::test]
    async fn child_gives_its_output_and_its_error_is_the_owners_business() {
        let tasks = Tasks::new();
        let child = tasks.spawn_child("dial", async { Err::<(), _>("link is down") });
        assert_eq!(child.await, Ok(Err("link is down")));
        assert_eq!(wait(&tasks).await, Ok(()));
    }

    #[tokio::test]
    async fn dropped_child_is_aborted() {
        let tasks = Tasks::new();
        let (held, released) = oneshot::channel::<()>();
        let child = tasks.spawn_child("dial", async move {
            let _held = held;
            pending::<()>().await;
        });
        drop(child);
        assert!(released.await.is_err(), "the future was dropped, and with it the sender");
        assert_eq!(wait(&tasks).await, Ok(()));
    }

    #[tokio::test]
    async fn stop_from_outside_ends_the_wait() {
        let tasks = Tasks::new();
        let has_ended = spawn_obedient(&tasks);
        tasks.clone().stop().cancel();
        assert_eq!(wait(&tasks).await, Ok(()));
        has_ended.await.unwrap();
    }

    #[tokio::test]
    async fn tasks_that_do_not_stop_are_aborted_and_named() {
        let tasks = Tasks::with_stop_grace(Duration::from_millis(1));
        let (held, released) = oneshot::channel::<()>();
        tasks.spawn("stubborn", async move {
            let _held = held;
            pending::<Result<(), Infallible>>().await
        });
        tasks.stop().cancel();
        let error = wait(&tasks).await.unwrap_err();
        assert_eq!(error, TaskError::Stuck { tasks: vec!["stubborn".into()] });
        assert!(released.await.is_err());
    }
}
