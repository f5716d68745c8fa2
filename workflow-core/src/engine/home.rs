//! The runtime that an engine was opened in. All of the engine's tasks are there, and end with it.
//!
//! A runtime that ends drops its tasks one after another, and some bodies are polled once more meanwhile: they find that their
//! timers panic and that the tasks they wait for are gone. What they then return or panic with says nothing about the step.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, TryLockError, Weak, mpsc};
use std::time::Duration;

use keepstep_storage::Storage;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;

use super::{Ended, Shared};
use crate::error::{Error, Result};

/// How long the end of a runtime waits for the store to close.
const CLOSES_WITHIN: Duration = Duration::from_secs(10);

/// An engine's runtime, and whether it still runs.
#[derive(Debug)]
pub(crate) struct Home {
    runtime: Handle,
    has_ended: AtomicBool,
    /// Whether the end of the runtime has been dealt with.
    is_left: AtomicBool,
    /// Whether the engine opened the store itself, so that nobody else uses it.
    owns_store: bool,
}

/// Sets a flag when it is dropped.
struct Flag(Option<Arc<AtomicBool>>);

impl Flag {
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        if let Some(flag) = &self.0 {
            flag.store(true, Ordering::SeqCst);
        }
    }
}

impl Home {
    /// The runtime that this is called in.
    pub(super) fn here(owns_store: bool) -> Self {
        Self {
            runtime: Handle::current(),
            has_ended: AtomicBool::new(false),
            is_left: AtomicBool::new(false),
            owns_store,
        }
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Whether the runtime is known to have ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    /// Whether the runtime still takes tasks.
    ///
    /// A runtime that ends refuses tasks before it drops the first one, and calls that block before it drops the first of these. So if
    /// it takes both now, nothing that happened before this call came of its end.
    pub(super) fn takes_tasks(&self) -> bool {
        if self.has_ended() {
            return false;
        }
        // What is refused is dropped, without having been polled or called, before `spawn` returns.
        let is_refused = Arc::new(AtomicBool::new(false));
        let flag = || Flag(Some(Arc::clone(&is_refused)));
        let mut task = flag();
        drop(self.runtime.spawn(async move { task.disarm() }));
        // One with a single thread drops its tasks first.
        if self.runtime.runtime_flavor() == RuntimeFlavor::MultiThread {
            let mut call = flag();
            drop(self.runtime.spawn_blocking(move || call.disarm()));
        }
        !is_refused.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Spawns a task in the engine's runtime, whichever one the caller is in: it ends with the engine, and the engine's shutdown
    /// waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn_on(task, self.home.runtime())
    }

    /// Whether something that went wrong may have gone wrong because the engine's runtime has ended. Then it is no outcome, and
    /// the engine starts nothing any more.
    pub(crate) fn is_runtime_gone(&self) -> bool {
        if self.home.takes_tasks() {
            return false;
        }
        self.home.has_ended.store(true, Ordering::SeqCst);
        self.halted.cancel();
        true
    }

    /// Why the engine does nothing any more.
    pub(crate) fn over(&self) -> Error {
        match self.is_runtime_gone() {
            true => Error::RuntimeEnded,
            false => Error::ShutDown,
        }
    }

    /// As [`over`](Self::over), for those who wait for a run.
    pub(crate) fn ended_over(&self) -> Ended {
        match self.is_runtime_gone() {
            true => Ended::NoRuntime,
            false => Ended::ShutDown,
        }
    }

    /// # Errors
    /// [`Error::RuntimeEnded`] if nothing is left that could do what is asked for.
    pub(crate) fn check_runtime(&self) -> Result<()> {
        match self.home.has_ended() {
            true => Err(Error::RuntimeEnded),
            false => Ok(()),
        }
    }

    /// What a call came to: an error that the end of the runtime may have caused says so.
    pub(crate) fn explained<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(Error::ShutDown | Error::Storage(_) | Error::Interrupted { .. })
                if self.is_runtime_gone() =>
            {
                Err(Error::RuntimeEnded)
            }
            result => result,
        }
    }

    /// Does something that locks the roster: at once, or on a thread of its own if it is locked, maybe by this thread.
    pub(crate) fn once_roster_is_free(&self, then: impl FnOnce() + Send + 'static) {
        if !matches!(self.roster.try_lock(), Err(TryLockError::WouldBlock)) {
            return then();
        }
        let thread = std::thread::Builder::new().name("keepstep-leave".to_owned());
        // Without a thread, those who wait are told by what watches the runtime.
        drop(thread.spawn(then));
    }

    /// The runtime has ended: tells everybody who waits, and lets go of the store.
    pub(crate) fn runtime_ended(&self) {
        self.home.has_ended.store(true, Ordering::SeqCst);
        if self.home.is_left.swap(true, Ordering::SeqCst) {
            return;
        }
        let (seats, was_closed) = {
            let mut roster = self.roster();
            roster.slots.clear();
            let was_closed = std::mem::replace(&mut roster.is_closed, true);
            (std::mem::take(&mut roster.seats), was_closed)
        };
        if !was_closed && !self.halted.is_cancelled() {
            tracing::warn!(
                runs_in_memory = seats.len(),
                "the tokio runtime of an engine ended before the engine was shut down; runs that were not done are resumable"
            );
        }
        for (_, seat) in seats.into_values() {
            seat.ended.send_replace(Some(Ended::NoRuntime));
        }
        self.actors.runtime_ended();
        self.halted.cancel();
        self.objects.close();
        if self.home.owns_store && !self.is_shared() {
            close(&self.storage);
        }
    }
}

/// Waits in the engine's runtime for the engine's end or the runtime's, whichever comes first.
pub(super) fn watch(shared: &Arc<Shared>) {
    struct Watch(Weak<Shared>);
    impl Drop for Watch {
        fn drop(&mut self) {
            if let Some(shared) = self.0.upgrade() {
                shared.runtime_ended();
            }
        }
    }
    let watch = Watch(Arc::downgrade(shared));
    let halted = shared.halted.clone();
    drop(shared.home.runtime().spawn(async move {
        let mut watch = watch;
        halted.cancelled().await;
        // It may have halted because somebody noticed the end of the runtime before this task was dropped.
        if let Some(shared) = watch.0.upgrade()
            && !shared.home.has_ended()
        {
            watch.0 = Weak::new();
        }
    }));
}

/// Closes a store on a thread of its own: the runtime that this is called in takes no calls any more. Nobody else has the store, so
/// its directory can be opened again from here on.
fn close(storage: &Arc<dyn Storage>) {
    let storage = Arc::clone(storage);
    let (closed, is_closed) = mpsc::channel::<()>();
    let close = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime.map(|runtime| runtime.block_on(storage.close())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a store could not be closed"),
            Err(error) => tracing::warn!(%error, "a store could not be closed"),
        }
        drop(closed);
    };
    let thread = std::thread::Builder::new().name("keepstep-close".to_owned());
    if thread.spawn(close).is_ok() {
        // An error is that it is done.
        let _is_closed = is_closed.recv_timeout(CLOSES_WITHIN);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keepstep_storage::RunId;

    use super::super::{NewRun, Seat};
    use super::*;
    use crate::engine::Engine;
    use crate::executor::{RunTask, run_channel};
    use crate::plan::{flatten, hash};

    #[test]
    fn a_task_that_is_dropped_by_whoever_has_locked_the_roster_waits_for_nobody() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let id = RunId::new("run").unwrap();
        let (shared, task) = runtime.block_on(async {
            let engine = Engine::open("memory:").await.unwrap();
            let shared = Arc::clone(engine.shared());
            let plan = flatten(crate::event::<()>("go").node()).unwrap().plan;
            let hash = hash(&plan);
            let new = shared.new_run(&id, plan, hash, true, None).await.unwrap();
            let NewRun { write, run } = new;
            let seat = Seat::new(hash);
            let mut task = RunTask::new(
                Arc::clone(&shared),
                seat,
                id,
                run,
                write.record,
                None,
                run_channel(),
            );
            task.begin_with(Some(shared.take_slot_anyway()));
            std::mem::forget(engine);
            (shared, task)
        });
        drop(runtime);
        let (dropped, is_dropped) = mpsc::channel();
        let drop_it = move || {
            let roster = shared.roster();
            drop(task);
            drop(roster);
            dropped.send(())
        };
        drop(std::thread::Builder::new().spawn(drop_it).unwrap());
        let is_dropped = is_dropped.recv_timeout(Duration::from_secs(60));
        assert!(is_dropped.is_ok(), "it waits for the lock that it has");
    }
}
