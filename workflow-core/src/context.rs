//! What a step can know of itself while it runs.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use keepstep_storage::RunId;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::engine::Shared;
use crate::error::Result;
use crate::executor::{AbandonReason, AbandonedStep, RunMessage};
use crate::run::StepId;

tokio::task_local! {
    static CURRENT: Context;
}

/// The context of the step this code runs in.
///
/// # Panics
/// Outside a step. [`try_context`] is for code that runs in both places.
///
/// ```
/// # mod keepstep { pub use keepstep_core::*; }
/// assert!(keepstep::try_context().is_none());
/// ```
#[must_use]
pub fn context() -> Context {
    match try_context() {
        Some(context) => context,
        None => panic!(
            "`keepstep::context()` was called outside a step; use `try_context()` in code that runs in both places"
        ),
    }
}

/// The context of the step this code runs in; `None` outside a step, and in tasks that a step spawned.
#[must_use]
pub fn try_context() -> Option<Context> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Which execution of which step this is. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Context(Arc<Inner>);

/// What the executions of a run share. They are begun on one thread and end on others: each count of references that they do
/// not touch saves a step the way of a cache line between the two.
#[derive(Debug)]
pub(crate) struct RunLink {
    /// The engine that runs the steps.
    pub(crate) shared: Arc<Shared>,
    pub(crate) run: RunId,
    pub(crate) incarnation: u64,
    /// Where the run hears of them.
    pub(crate) messages: mpsc::UnboundedSender<RunMessage>,
    /// Whether another run may have started it.
    pub(crate) may_have_parent: bool,
    /// The run and those above it, once somebody has asked.
    pub(crate) lineage: OnceCell<Arc<[RunId]>>,
}

/// A line of runs is not followed further than this.
const LONGEST_LINEAGE: usize = 10_000;

impl RunLink {
    pub(crate) fn new(
        shared: Arc<Shared>,
        run: RunId,
        incarnation: u64,
        messages: mpsc::UnboundedSender<RunMessage>,
        may_have_parent: bool,
    ) -> Self {
        Self {
            shared,
            run,
            incarnation,
            messages,
            may_have_parent,
            lineage: OnceCell::new(),
        }
    }

    /// The run, the one that waits for it as its child, the one that waits for that, and so on.
    pub(crate) async fn lineage(&self) -> Result<Arc<[RunId]>> {
        if !self.may_have_parent {
            return Ok(Arc::from([self.run.clone()]));
        }
        let lineage = self.lineage.get_or_try_init(|| self.read_lineage()).await?;
        Ok(Arc::clone(lineage))
    }

    async fn read_lineage(&self) -> Result<Arc<[RunId]>> {
        let mut lineage = vec![self.run.clone()];
        let mut next = (self.run.clone(), self.incarnation);
        while lineage.len() < LONGEST_LINEAGE {
            let (run, incarnation) = &next;
            let record = self.shared.storage.record(run).await?;
            // Another run may have got the id since.
            let record = record.filter(|record| record.incarnation == *incarnation);
            let Some(parent) = record.and_then(|record| record.parent) else {
                break;
            };
            lineage.push(parent.run.clone());
            next = (parent.run, parent.incarnation);
        }
        Ok(lineage.into())
    }
}

#[derive(Debug)]
struct Inner {
    link: Arc<RunLink>,
    step: StepId,
    /// Of its function.
    def_name: &'static str,
    given_name: Option<Arc<str>>,
    attempt: u32,
    is_canceled: AtomicBool,
    /// Made when the body asks for it: then it can notice a cancellation, and gets time to do so.
    token: OnceLock<CancellationToken>,
    /// Drops the body, once it has a task of its own.
    abort: OnceLock<AbortHandle>,
    /// Its place among the steps that execute.
    place: Mutex<Place>,
}

#[derive(Debug, Default)]
struct Place {
    permit: Option<OwnedSemaphorePermit>,
    /// Whether it has a permit of `blocking_permits`.
    has_thread: bool,
    is_executing: bool,
    is_abandoned: bool,
    /// Whether its thread's permit was given to others when it was abandoned.
    gave_thread: bool,
}

/// Keeps the place of a body until it is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Context);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let Place {
            permit,
            has_thread,
            is_abandoned,
            gave_thread,
            ..
        } = std::mem::take(&mut *self.0.place());
        drop(permit);
        let shared = &self.0.link().shared;
        if has_thread {
            shared.blocking_permits.add_permits(1);
        }
        if is_abandoned {
            shared.abandoned.ended(self.0.address(), gave_thread);
        }
    }
}

impl Context {
    pub(crate) fn new(
        link: Arc<RunLink>,
        step: StepId,
        def_name: &'static str,
        given_name: Option<Arc<str>>,
        attempt: u32,
    ) -> Self {
        Self(Arc::new(Inner {
            link,
            step,
            def_name,
            given_name,
            attempt,
            is_canceled: AtomicBool::new(false),
            token: OnceLock::new(),
            abort: OnceLock::new(),
            place: Mutex::default(),
        }))
    }

    /// The run that the step is of.
    pub(crate) fn link(&self) -> &RunLink {
        &self.0.link
    }

    /// Gives the body its place.
    pub(crate) fn hold(&self, permit: OwnedSemaphorePermit) -> Held<'_> {
        let mut place = self.place();
        place.permit = Some(permit);
        place.is_executing = true;
        drop(place);
        Held(self)
    }

    /// Gives the body its place, and a thread's permit with it. It has both until what [`held`](Self::held) returns is dropped.
    pub(crate) fn place_on_thread(
        &self,
        permit: OwnedSemaphorePermit,
        thread: OwnedSemaphorePermit,
    ) {
        thread.forget();
        *self.place() = Place {
            permit: Some(permit),
            has_thread: true,
            is_executing: true,
            ..Place::default()
        };
    }

    /// Keeps the place that the body was given.
    pub(crate) fn held(&self) -> Held<'_> {
        Held(self)
    }

    /// Nobody waits for the body any more. If it still executes, its slot goes to others, and the engine shows it.
    pub(crate) fn abandon(&self, reason: AbandonReason) {
        let shared = &self.link().shared;
        let mut place = self.place();
        if !place.is_executing || place.is_abandoned {
            return;
        }
        let body = AbandonedStep {
            run: self.run_id().to_owned(),
            step: self.step_name().to_owned(),
            step_id: self.step_id(),
            attempt: self.attempt(),
            since: shared.clock.now(),
            reason,
        };
        place.is_abandoned = true;
        // With the place locked: the body cannot end before it is known to be abandoned.
        let gives_thread = shared.abandoned.add(self.address(), body, place.has_thread);
        if gives_thread {
            place.has_thread = false;
            place.gave_thread = true;
            shared.blocking_permits.add_permits(1);
        }
        let permit = place.permit.take();
        drop(place);
        drop(permit);
    }

    /// What tells it from others as long as its body executes.
    fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something without keeping other steps from their places meanwhile.
    pub(crate) async fn without_place<T>(
        &self,
        places: &Arc<Semaphore>,
        waiting: impl Future<Output = T>,
    ) -> T {
        let had_place = self.place().permit.take().is_some();
        let done = waiting.await;
        if had_place && let Ok(permit) = Arc::clone(places).acquire_owned().await {
            self.place().permit = Some(permit);
        }
        done
    }

    /// The workflow id of the run.
    #[must_use]
    pub fn run_id(&self) -> &str {
        self.0.link.run.as_str()
    }

    /// The number of the step in its run.
    #[must_use]
    pub fn step_id(&self) -> StepId {
        self.0.step
    }

    /// The step's name: the one given with `.name()`, or that of its function.
    #[must_use]
    pub fn step_name(&self) -> &str {
        self.0.given_name.as_deref().unwrap_or(self.0.def_name)
    }

    /// Which execution of the step this is, 1 for the first. Executions that a crash cut short are not counted.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// A key that is the same for every attempt of this step and for no other step: give it to services that drop
    /// repeated requests, and an effect that happens at least once counts once.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        let RunLink {
            run, incarnation, ..
        } = self.link();
        format!("{run}/{incarnation:016x}/{}", self.0.step)
    }

    /// Canceled when the step should stop: its run was canceled or suspended, or nothing needs its result any more. A
    /// step that asked for the token gets a while to end by itself before it is dropped.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        let token = self.0.token.get_or_init(CancellationToken::new);
        if self.is_canceled() {
            token.cancel();
        }
        token.clone()
    }

    /// Tells the body to stop.
    pub(crate) fn cancel(&self) {
        self.0.is_canceled.store(true, Ordering::SeqCst);
        // With the fence in `is_canceled`: either this sees what the other side has set, or that sees the cancellation.
        fence(Ordering::SeqCst);
        if let Some(token) = self.0.token.get() {
            token.cancel();
        }
    }

    fn is_canceled(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.is_canceled.load(Ordering::SeqCst)
    }

    pub(crate) fn is_token_taken(&self) -> bool {
        self.0.token.get().is_some()
    }

    /// Whether the body was told to stop and cannot know: it is not to be polled again.
    pub(crate) fn is_to_be_dropped(&self) -> bool {
        self.is_canceled() && !self.is_token_taken()
    }

    /// Drops the body. One that has no task yet is dropped by whoever would give it one.
    pub(crate) fn abort(&self) {
        if let Some(abort) = self.0.abort.get() {
            abort.abort();
        }
    }

    /// Says how to drop the body.
    pub(crate) fn set_abort(&self, abort: AbortHandle) {
        // It is set once, when the body gets its task.
        drop(self.0.abort.set(abort));
        // Who told it to stop before this could not drop it.
        if self.is_to_be_dropped() {
            self.abort();
        }
    }

    /// Runs a future in this context.
    pub(crate) fn scope<F: Future>(self, body: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, body)
    }

    /// Runs a function in this context.
    pub(crate) fn sync_scope<R>(self, body: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self, body)
    }
}
