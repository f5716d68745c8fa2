//! The side of those who execute: takes tasks for which there are places, runs them, and puts their results in.
//!
//! Two tasks do it. One takes, as long as there are places, and stops what is to stop; the other puts results in (`results.rs`).
//! A task is among those in hand from when it was taken until the store has its result, or has it back.

#![expect(
    clippy::disallowed_methods,
    reason = "its tasks are no run's, and how long a body may take to stop is not durable time"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::future::BoxFuture;
use keepstep_storage::{Held, Task, TaskId, Wanted};
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::desk::{AGAIN_AFTER, LOOK_EVERY};
use super::read_payload;
use super::results::put_results_in;
use crate::clock::later;
use crate::context::{Context, RunLink};
use crate::engine::{OnProbation, Shared};
use crate::error::SuspendReason;
use crate::executor::{self, ABANDON_AFTER, AbandonReason, Execution, GRACE, Outcome, RunMessage};
use crate::run::{Start, StepId};

/// How many tasks are taken at a time.
const TAKEN_AT_ONCE: usize = 256;

/// What this engine executes for the owners of runs.
#[derive(Debug)]
pub(super) struct Worker {
    /// `None`: all.
    pools: Option<Vec<String>>,
    in_hand: Mutex<FxHashMap<TaskId, Body>>,
    /// There may be something to take, or to stop.
    wakes: Notify,
    /// The store is to be asked what it knows to be in hand.
    looks: AtomicBool,
    /// The store failed under a body.
    pub(super) is_tired: AtomicBool,
    pub(super) stops: CancellationToken,
    /// In the place of the way to a run, which is another engine's.
    nowhere: mpsc::UnboundedSender<RunMessage>,
}

/// A task in hand.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) claim: u64,
    context: Context,
    /// Whether the task is gone from the store, so that nothing is to be given back.
    pub(super) is_withdrawn: bool,
    /// When a body that was told to stop is dropped, and whether it has been.
    stopping: Option<(Instant, bool)>,
}

impl Body {
    fn stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.context.cancel();
        if self.context.is_token_taken() {
            self.stopping = Some((Instant::now() + GRACE, false));
        } else {
            self.context.abort();
            self.stopping = Some((Instant::now() + ABANDON_AFTER, true));
        }
    }
}

/// An execution that ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) held: Held,
    pub(super) outcome: Outcome,
}

/// Says how an execution ended, whatever became of it: also when it is dropped in the middle.
struct Report {
    to: mpsc::UnboundedSender<Ended>,
    held: Held,
    outcome: Outcome,
}

impl Drop for Report {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Stopped);
        // Nobody hears it once the engine has halted.
        drop(self.to.send(Ended {
            held: self.held,
            outcome,
        }));
    }
}

impl Worker {
    pub(super) fn new(pools: Option<Vec<String>>) -> Self {
        Self {
            pools,
            in_hand: Mutex::default(),
            wakes: Notify::new(),
            looks: AtomicBool::new(false),
            is_tired: AtomicBool::new(false),
            stops: CancellationToken::new(),
            nowhere: mpsc::unbounded_channel().0,
        }
    }

    pub(super) fn in_hand(&self) -> MutexGuard<'_, FxHashMap<TaskId, Body>> {
        // Nothing that holds the lock can panic half-way through a change.
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn serves(&self, pool: &str) -> bool {
        let pools = self.pools.as_ref();
        pools.is_none_or(|pools| pools.iter().any(|own| own == pool))
    }

    pub(super) fn wake(&self) {
        self.wakes.notify_one();
    }

    /// Has the store asked what it knows to be in hand.
    pub(super) fn look(&self) {
        self.looks.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn withdrawn(&self, tasks: &[TaskId]) {
        let mut is_any = false;
        {
            let mut in_hand = self.in_hand();
            for task in tasks {
                if let Some(body) = in_hand.get_mut(task) {
                    body.is_withdrawn = true;
                    body.stop();
                    is_any = true;
                }
            }
        }
        if is_any {
            self.wake();
        }
    }

    pub(super) fn drop_all(&self) {
        let dropped = std::mem::take(&mut *self.in_hand());
        for body in dropped.into_values() {
            body.context.cancel();
            body.context.abort();
        }
    }

    pub(super) fn shut_down(&self) {
        self.stops.cancel();
    }

    /// Drops bodies that did not end by themselves in time, and gives up on those that cannot be dropped; when to do so again.
    fn drop_overdue(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut in_hand = self.in_hand();
        in_hand.retain(|_, body| match body.stopping {
            Some((until, false)) if until <= now => {
                body.context.abort();
                body.stopping = Some((now + ABANDON_AFTER, true));
                true
            }
            Some((until, true)) if until <= now => {
                body.context.abandon(AbandonReason::Stopped);
                false
            }
            _ => true,
        });
        let overdue = in_hand.values().filter_map(|body| body.stopping);
        overdue.map(|(until, _)| until).min()
    }
}

/// Starts the tasks of the worker.
pub(super) fn start(shared: &Arc<Shared>) {
    let (ended, results) = mpsc::unbounded_channel();
    tokio::spawn(put_results_in(Arc::clone(shared), results));
    // Waited for when the engine shuts down.
    shared.tasks.spawn(work(Arc::clone(shared), ended));
}

/// Takes tasks until the engine shuts down or halts, and then gives back what it has.
async fn work(shared: Arc<Shared>, ended: mpsc::UnboundedSender<Ended>) {
    let worker = &shared.remote.worker;
    let calls = shared.executable_calls();
    let mut look_at = shared.clock.after(LOOK_EVERY);
    // Whether something may be there to take.
    let mut may_take = true;
    while !worker.stops.is_cancelled() && !shared.halted.is_cancelled() {
        if worker.is_tired.swap(false, Ordering::SeqCst) {
            shared.pause(AGAIN_AFTER).await;
        }
        let now = shared.clock.instant();
        if worker.looks.swap(false, Ordering::SeqCst) || look_at <= now {
            look_at = later(now, LOOK_EVERY);
            may_take = true;
            if !shared.remote.is_local() {
                shared.compare_with_store().await;
            }
        }
        let overdue = worker.drop_overdue();
        let place = async {
            let places = Arc::clone(&shared.step_permits);
            match may_take {
                true => places.acquire_owned().await.ok(),
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = worker.stops.cancelled() => break,
            () = shared.halted.cancelled() => break,
            () = worker.wakes.notified() => may_take = true,
            () = until(overdue) => {}
            () = shared.clock.sleep_until(look_at), if !shared.remote.is_local() => {}
            Some(place) = place => may_take = shared.take_some(place, &calls, &ended).await,
        }
    }
    if shared.halted.is_cancelled() {
        return worker.drop_all();
    }
    shared.hand_tasks_over().await;
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

impl Shared {
    /// Takes as many tasks as there are places, at least the one that was waited for; whether there may be more.
    async fn take_some(
        self: &Arc<Self>,
        place: OwnedSemaphorePermit,
        calls: &[(String, u32)],
        ended: &mpsc::UnboundedSender<Ended>,
    ) -> bool {
        let mut places = vec![place];
        while places.len() < TAKEN_AT_ONCE
            && let Ok(place) = Arc::clone(&self.step_permits).try_acquire_owned()
        {
            places.push(place);
        }
        let limit = places.len();
        let wanted = Wanted {
            node: self.node,
            lease: self.lease(),
            pools: self.remote.worker.pools.as_deref(),
            steps: calls,
            limit,
        };
        let taken = match self.remote.queue().take(&wanted).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "could not take remote steps; trying again");
                self.remote.worker.is_tired.store(true, Ordering::SeqCst);
                // It may have been done.
                self.remote.worker.look();
                return true;
            }
        };
        let may_be_more = taken.len() == limit;
        for (task, place) in taken.into_iter().zip(places) {
            if let Some(body) = self.execute(task, place, ended) {
                body.spawn();
            }
        }
        may_be_more
    }

    /// Makes the body of a task; `None` if there is none, which is reported.
    fn execute(
        self: &Arc<Self>,
        task: Task,
        permit: OwnedSemaphorePermit,
        ended: &mpsc::UnboundedSender<Ended>,
    ) -> Option<executor::Body> {
        let Task { held, run, .. } = task;
        let step = StepId(task.step);
        let call = read_payload(&task.payload);
        let given_name = call.as_ref().ok().and_then(|call| call.name_of(0)).cloned();
        let found = call.map_err(|what| SuspendReason::Invariant {
            what: format!("the call of remote step {step} cannot be read: {what}"),
        });
        let found = found.and_then(|call| {
            let step_ref = &call.steps[0];
            let found = self.find_step(&step_ref.name, step_ref.version);
            let unknown = || SuspendReason::UnknownStep {
                step: step_ref.name.to_string(),
                version: step_ref.version,
            };
            Ok((found.ok_or_else(unknown)?, call))
        });
        let messages = self.remote.worker.nowhere.clone();
        let link = RunLink::new(Arc::clone(self), run, task.incarnation, messages, true);
        let def_name = found.as_ref().map_or("step", |(found, _)| found.def.name);
        let context = Context::new(link.into(), step, def_name, given_name, task.attempt);
        let span = tracing::info_span!("step", run = %context.run_id(), step = %step, name = context.step_name(), attempt = task.attempt);
        self.remote.worker.in_hand().insert(
            held.task,
            Body {
                claim: held.claim,
                context: context.clone(),
                is_withdrawn: false,
                stopping: None,
            },
        );
        let mut report = Report {
            to: ended.clone(),
            held,
            outcome: Outcome::Stopped,
        };
        let (found, call) = match found {
            Ok(found) => found,
            Err(reason) => {
                report.outcome = Outcome::Unrunnable(reason.into());
                return None;
            }
        };
        if task.n_lost >= self.max_interruptions {
            let (step, times) = (context.step_name().to_owned(), task.n_lost);
            tracing::warn!(run = %context.run_id(), step, times, "workers were lost while the remote step executed, time and again; its run is suspended");
            let reason = SuspendReason::Interrupted { step, times };
            report.outcome = Outcome::Unrunnable(reason.into());
            return None;
        }
        let probation = (task.n_lost >= 2).then(|| self.put_on_probation(task.n_lost, None));
        let timeout = call.node(0).extra.as_ref().and_then(|extra| extra.timeout);
        let timeout = timeout.map(Duration::from_micros);
        let timeout = timeout.or(found.def.options.timeout);
        let execution = Execution {
            found,
            start: Start {
                plan: Arc::new(call),
                index: 0,
                attempt: task.attempt,
                inputs: Vec::new(),
            },
            timeout,
            permit,
        };
        let body = run_body(execution, context.clone(), report, probation);
        let future: BoxFuture<'static, ()> = match span.is_disabled() {
            true => Box::pin(body),
            false => Box::pin(body.instrument(span)),
        };
        Some(executor::Body { future, context })
    }

    /// Asks the store what it knows to be in hand: what was withdrawn unheard is stopped, and what was taken unheard is given back.
    async fn compare_with_store(&self) {
        let queue = self.remote.queue();
        let held = match queue.held(self.node).await {
            Ok(held) => held,
            Err(error) => {
                return tracing::warn!(%error, "could not look at the remote steps in hand");
            }
        };
        let stored: FxHashMap<_, _> = held.iter().map(|held| (held.task, held.claim)).collect();
        let (gone, unknown) = {
            let in_hand = self.remote.worker.in_hand();
            let is_gone = |(task, body): &(&TaskId, &Body)| stored.get(task) != Some(&body.claim);
            let gone: Vec<_> = in_hand
                .iter()
                .filter(is_gone)
                .map(|(task, _)| *task)
                .collect();
            let mut unknown = held;
            unknown.retain(|held| !in_hand.contains_key(&held.task));
            (gone, unknown)
        };
        self.remote.withdrawn(&gone);
        if !unknown.is_empty()
            && let Err(error) = queue.give_back(self.node, &unknown).await
        {
            tracing::warn!(%error, "could not give remote steps back");
        }
    }

    /// Stops what is executing, and gives it back.
    async fn hand_tasks_over(&self) {
        let worker = &self.remote.worker;
        worker.in_hand().values_mut().for_each(Body::stop);
        loop {
            let overdue = worker.drop_overdue();
            if worker.in_hand().is_empty() {
                break;
            }
            tokio::select! {
                () = worker.wakes.notified() => {}
                () = until(overdue) => {}
                () = self.halted.cancelled() => return,
            }
        }
        if !self.remote.is_local() {
            // Of bodies that could not be stopped.
            self.compare_with_store().await;
        }
    }
}

async fn run_body(
    execution: Execution,
    context: Context,
    mut report: Report,
    mut probation: Option<OnProbation>,
) {
    if probation.is_some() {
        OnProbation::admission(&mut probation).await;
        let shared = &context.link().shared;
        let queue = shared.remote.queue();
        if let Err(error) = queue.begin(shared.node, report.held).await {
            report.outcome = Outcome::Storage(error.into());
            return;
        }
    }
    report.outcome = execution.ended(&context).await;
}
