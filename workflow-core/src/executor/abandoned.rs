//! Bodies that still execute although nobody waits for them any more: plain functions that were to stop, and async bodies that do not
//! yield. They have no slot, so that others go on; here they are counted and shown.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustc_hash::FxHashMap;

use crate::engine::Engine;
use crate::run::StepId;

/// How many threads abandoned plain functions may have beside the threads of those that are waited for. One more keeps its permit: a
/// process has only so many threads.
const MOST_THREADS: usize = 1_024;

/// A body that still executes although nobody waits for it: see [`Engine::abandoned_steps`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AbandonedStep {
    /// The workflow id of its run.
    pub run: String,
    /// The step's name: the one given with `.name()`, or that of its function.
    pub step: String,
    /// The number of the step in its run.
    pub step_id: StepId,
    /// Which execution of the step it is, 1 for the first.
    pub attempt: u32,
    /// When it was abandoned.
    pub since: SystemTime,
    /// Why.
    pub reason: AbandonReason,
}

/// Why nobody waits for a body any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AbandonReason {
    /// Its time-out passed: the attempt has failed.
    TimedOut,
    /// It was to stop: its run was canceled or suspended, the engine shut down, or nothing needed its result any more.
    Stopped,
}

impl std::fmt::Display for AbandonReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "its time-out passed",
            Self::Stopped => "it was to stop",
        })
    }
}

/// The abandoned bodies of an engine, by the address of their contexts.
#[derive(Debug, Default)]
pub(crate) struct Abandoned(Mutex<Bodies>);

#[derive(Debug, Default)]
struct Bodies {
    by_context: FxHashMap<usize, AbandonedStep>,
    /// Threads whose permits were given to others.
    n_threads: usize,
}

impl Abandoned {
    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        // Nothing that holds the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a body; whether its thread's permit may go to others, if it has one.
    pub(crate) fn add(&self, context: usize, body: AbandonedStep, has_thread: bool) -> bool {
        let AbandonedStep {
            run,
            step,
            step_id,
            attempt,
            reason,
            ..
        } = &body;
        tracing::warn!(
            run,
            step = %step_id,
            name = step,
            attempt,
            "a step's body goes on although {reason}; its slot is given to others"
        );
        let mut bodies = self.bodies();
        bodies.by_context.insert(context, body);
        let gives_thread = has_thread && bodies.n_threads < MOST_THREADS;
        bodies.n_threads += usize::from(gives_thread);
        if has_thread && !gives_thread {
            drop(bodies);
            tracing::error!(
                most = MOST_THREADS,
                "too many plain functions go on that were to stop; others wait for their threads. Restart the process, and let these \
                 functions look at their cancellation tokens"
            );
        }
        gives_thread
    }

    /// A body has ended that was abandoned; `gave_thread` is what [`add`](Self::add) said.
    pub(crate) fn ended(&self, context: usize, gave_thread: bool) {
        let mut bodies = self.bodies();
        bodies.n_threads -= usize::from(gave_thread);
        let ended = bodies.by_context.remove(&context);
        if bodies.by_context.is_empty() {
            bodies.by_context.shrink_to_fit();
        }
        drop(bodies);
        if let Some(body) = ended {
            tracing::info!(run = body.run, step = %body.step_id, name = body.step, "an abandoned body has ended");
        }
    }
}

impl Engine {
    /// The bodies of steps that still execute in this engine although nobody waits for them any more, those abandoned first come first.
    ///
    /// An engine cannot stop a plain function, nor an async body that does not yield. When its time-out has passed, or its run was
    /// canceled, the run goes on without it, and its slot of [`max_concurrent_steps`](crate::EngineBuilder::max_concurrent_steps) goes to
    /// another step. The body keeps its thread until it returns. What it returns is ignored. The engine logs each of them as a warning.
    ///
    /// Such a body can notice: its [cancellation token](crate::Context::cancellation_token) is canceled.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// let engine = keepstep_core::Engine::open("memory:").await?;
    /// for body in engine.abandoned_steps() {
    ///     println!("{} of run {} goes on although {}", body.step, body.run, body.reason);
    /// }
    /// # engine.shutdown().await
    /// # }
    /// ```
    #[must_use]
    pub fn abandoned_steps(&self) -> Vec<AbandonedStep> {
        let bodies = self.shared().abandoned.bodies();
        let mut bodies: Vec<_> = bodies.by_context.values().cloned().collect();
        bodies.sort_by(|a, b| {
            let key = |body: &AbandonedStep| (body.since, body.step_id);
            key(a).cmp(&key(b)).then_with(|| a.run.cmp(&b.run))
        });
        bodies
    }
}
