//! Threads for the bodies of plain functions.
//!
//! They are not those that tokio has for what blocks: the store needs these, and there may be few of them. A body that blocks one of
//! the engine's own threads keeps nobody but other plain functions waiting.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

/// How long a thread waits for the next body before it ends.
const KEPT_FOR: Duration = Duration::from_secs(10);

pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The threads of an engine. They end when this is dropped and their bodies are done.
#[derive(Debug)]
pub(crate) struct Threads {
    inner: Arc<Inner>,
    /// Whether bodies execute on tokio's threads: a paused clock stands still only while one of these is busy.
    are_tokios: bool,
}

struct Inner {
    /// Bodies find it as the current one.
    runtime: Handle,
    state: Mutex<State>,
    has_work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    n_threads: usize,
    /// Threads that wait for a job; those that were woken for one count until they have it.
    n_waiting: usize,
    is_closed: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

impl Threads {
    pub(crate) fn new(runtime: Handle, are_tokios: bool) -> Self {
        let inner = Arc::new(Inner {
            runtime,
            state: Mutex::default(),
            has_work: Condvar::new(),
        });
        Self { inner, are_tokios }
    }

    /// Executes a job on a thread that may block.
    ///
    /// # Errors
    /// The job, if the system gives no thread, and there is none that could execute it some time.
    pub(crate) fn execute(&self, job: Job) -> Result<(), (Job, io::Error)> {
        if self.are_tokios {
            drop(self.inner.runtime.spawn_blocking(job));
            return Ok(());
        }
        let mut state = self.inner.state();
        state.jobs.push_back(job);
        if state.jobs.len() <= state.n_waiting {
            drop(state);
            self.inner.has_work.notify_one();
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        let thread = std::thread::Builder::new().name("keepstep-body".to_owned());
        match thread.spawn(move || inner.work()) {
            Ok(_) => state.n_threads += 1,
            // One that is busy takes the job later.
            Err(_) if state.n_threads > 0 => {}
            Err(error) => {
                if let Some(job) = state.jobs.pop_back() {
                    return Err((job, error));
                }
            }
        }
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.inner.state().is_closed = true;
        self.inner.has_work.notify_all();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let _in_runtime = self.runtime.enter();
        while let Some(job) = self.next() {
            // A body's panic is caught in the job; what it had may panic when it is dropped.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    }

    /// The next job; `None` if the thread is to end.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        if state.jobs.is_empty() {
            state.n_waiting += 1;
            let is_idle = |state: &mut State| state.jobs.is_empty() && !state.is_closed;
            let waited = self.has_work.wait_timeout_while(state, KEPT_FOR, is_idle);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.n_waiting -= 1;
        }
        let job = state.jobs.pop_front();
        if job.is_none() {
            state.n_threads -= 1;
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn threads() -> (tokio::runtime::Runtime, Threads) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let threads = Threads::new(runtime.handle().clone(), false);
        (runtime, threads)
    }

    fn run(threads: &Threads, job: impl FnOnce() + Send + 'static) {
        assert!(threads.execute(Box::new(job)).is_ok());
    }

    #[test]
    fn as_many_jobs_execute_at_once_as_there_are() {
        let (_runtime, threads) = threads();
        let barrier = Arc::new(std::sync::Barrier::new(50));
        let (done, all) = mpsc::channel();
        for _ in 0..50 {
            let (barrier, done) = (Arc::clone(&barrier), done.clone());
            run(&threads, move || {
                barrier.wait();
                done.send(()).unwrap();
            });
        }
        drop(done);
        assert_eq!(all.iter().count(), 50);
    }

    #[test]
    fn a_thread_is_used_again_and_survives_a_panic() {
        let (_runtime, threads) = threads();
        for n in 0..100 {
            let (done, is_done) = mpsc::channel();
            run(&threads, move || {
                assert!(Handle::try_current().is_ok());
                done.send(()).unwrap();
                assert_ne!(n, 50, "a panic that nobody has caught");
            });
            is_done.recv().unwrap();
            // Until it waits again, a job takes another thread.
            while threads.inner.state().n_waiting == 0 {
                std::thread::yield_now();
            }
        }
        assert_eq!(threads.inner.state().n_threads, 1);
    }

    #[test]
    fn threads_end_with_the_engine() {
        let (_runtime, threads) = threads();
        run(&threads, || {});
        let inner = Arc::clone(&threads.inner);
        drop(threads);
        while inner.state().n_threads > 0 {
            std::thread::yield_now();
        }
    }
}
