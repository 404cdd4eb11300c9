//! Tasks run by a simulator instead of the runtime.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::simulation::Executor;

/// As tokio's handle that aborts on drop.
pub(super) struct Handle<T> {
    executor: Arc<dyn Executor>,
    task: u64,
    ended: oneshot::Receiver<Option<T>>,
    detached: bool,
}

impl<T> std::fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("task", &self.task).finish_non_exhaustive()
    }
}

/// Hands a future over to the simulator.
pub(super) fn start<T: Send + 'static>(
    executor: &Arc<dyn Executor>,
    name: &str,
    work: impl Future<Output = Option<T>> + Send + 'static,
) -> super::Handle<T> {
    let (end, ended) = oneshot::channel();
    let work = async move {
        // Nobody waiting for the output is no reason to complain.
        let _ = end.send(work.await);
    };
    let task = executor.spawn(name, Box::pin(work));
    let executor = Arc::clone(executor);
    super::Handle::Simulated(Handle { executor, task, ended, detached: false })
}

impl<T> Handle<T> {
    pub(super) fn abort(&self) {
        self.executor.abort(self.task);
    }

    pub(super) fn is_finished(&self) -> bool {
        !self.ended.is_empty() || self.ended.is_terminated()
    }

    pub(super) fn detach(mut self) {
        self.detached = true;
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.executor.abort(self.task);
        }
    }
}

impl<T> Future for Handle<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.ended).poll(cx).map(|ended| ended.ok().flatten())
    }
}
