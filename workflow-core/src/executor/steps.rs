//! The steps of a run that are executing, and those that may: places, tokens, and stopping.

#![expect(
    clippy::disallowed_methods,
    reason = "bodies are tasks, and how long one may take to stop is not durable time"
)]

use std::collections::hash_map::Entry;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::body::{Execution, Report};
use super::crew::{Crew, Member};
use super::{AbandonReason, Happened, Outcome, RunTask};
use crate::context::Context;
use crate::error::{StepErrorKind, SuspendReason};
use crate::remote::Ticket;
use crate::run::{Event, Failure, StepId, retry};
use crate::step::StepDef;

/// How long after it was dropped a body may go on before the run no longer waits for it: it is one that blocks, or does
/// not yield.
pub(crate) const ABANDON_AFTER: Duration = Duration::from_secs(1);

/// A map of running steps with less room than this is not made smaller.
const KEPT: usize = 1024;

/// The executions of one run.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// What may start, the last one first. All that it needs is durable.
    allowed: Vec<StepId>,
    /// What is to be offered to all workers, the last one first.
    pub(super) to_offer: Vec<StepId>,
    pub(super) running: FxHashMap<StepId, Running>,
    crew: Crew,
    /// Counts executions, so that a late report of one is not taken for another's.
    pub(super) n_executions: u64,
    /// A place that was waited for.
    pub(super) spare: Option<OwnedSemaphorePermit>,
    /// Bodies that were told to stop.
    n_stopping: usize,
    /// Of those that are running, how many only wait: listeners.
    n_listening: usize,
    /// Executions that are offered, or under way at workers.
    pub(super) n_offered: usize,
    is_forbidden: bool,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) execution: u64,
    pub(super) def: &'static StepDef,
    pub(super) at: At,
    /// When a body that was told to stop is dropped, and when it is no longer waited for.
    pub(super) stopping: Option<(Instant, Stage)>,
}

/// Where a body executes.
#[derive(Debug)]
pub(super) enum At {
    Here(Context),
    /// At some worker, or it waits for one.
    Worker(Ticket),
}

impl At {
    /// Drops the body. One at a worker is left to the run's next owner.
    fn abort(&self) {
        if let Self::Here(context) = self {
            context.cancel();
            context.abort();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has its token, and time to end by itself.
    Asked,
    /// It is being dropped.
    Dropped,
}

impl Steps {
    /// Lets steps start; the last one first. `is_remote` says which are offered.
    pub(super) fn allow(&mut self, mut ready: Vec<StepId>, is_remote: impl Fn(StepId) -> bool) {
        if !self.is_forbidden {
            self.to_offer
                .extend(ready.extract_if(.., |step| is_remote(*step)));
            if self.allowed.is_empty() {
                self.allowed = ready;
            } else {
                self.allowed.extend(ready);
            }
        }
    }

    /// Starts nothing any more.
    pub(super) fn forbid(&mut self) {
        self.is_forbidden = true;
        self.allowed.clear();
        self.to_offer.clear();
        self.spare = None;
    }

    /// Whether one body is executing, and no other may start.
    pub(super) fn is_one(&self) -> bool {
        self.running.len() == 1 && !self.has_work() && self.n_stopping == 0
    }

    pub(super) fn has_work(&self) -> bool {
        !self.allowed.is_empty() || !self.to_offer.is_empty()
    }

    /// An execution begins, or is offered.
    pub(super) fn insert(&mut self, step: StepId, running: Running) {
        self.n_listening += usize::from(running.def.options.waits);
        self.running.insert(step, running);
    }

    /// How many bodies execute, those that only wait left out.
    pub(super) fn n_executing(&self) -> usize {
        self.running.len() - self.n_listening
    }

    /// Whether no body is executing.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    pub(super) fn running(&self) -> Vec<StepId> {
        self.running.keys().copied().collect()
    }

    /// Waits for a place, if a step needs one.
    pub(super) async fn permit(&self, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if self.allowed.is_empty() || self.spare.is_some() {
            return pending().await;
        }
        Arc::clone(permits).acquire_owned().await.ok()
    }

    /// An execution reported: what it was of; `None` if it is one that is no longer waited for.
    pub(super) fn ended(&mut self, step: StepId, execution: u64) -> Option<&'static StepDef> {
        let Entry::Occupied(entry) = self.running.entry(step) else {
            return None;
        };
        if entry.get().execution != execution {
            return None;
        }
        let ended = entry.remove();
        self.n_listening -= usize::from(ended.def.options.waits);
        if ended.stopping.is_some() {
            self.n_stopping -= 1;
        }
        if let At::Worker(ticket) = ended.at {
            ticket.done();
            self.n_offered -= 1;
        }
        // What many steps at once needed is not kept for the few that follow.
        if self.running.capacity() > KEPT && self.running.len() < self.running.capacity() / 8 {
            self.running.shrink_to(KEPT);
        }
        Some(ended.def)
    }

    fn stop(&mut self, step: StepId, grace: Duration, keeps_done: bool) {
        let Some(running) = self
            .running
            .get_mut(&step)
            .filter(|running| running.stopping.is_none())
        else {
            return;
        };
        self.n_stopping += 1;
        let now = Instant::now();
        running.stopping = Some(match &running.at {
            At::Here(context) => {
                context.cancel();
                if context.is_token_taken() && !grace.is_zero() {
                    (now + grace, Stage::Asked)
                } else {
                    context.abort();
                    (now + ABANDON_AFTER, Stage::Dropped)
                }
            }
            // The worker is told, and not waited for.
            At::Worker(ticket) => {
                ticket.withdraw(keeps_done);
                (now + grace, Stage::Dropped)
            }
        });
    }

    /// Tells every body here to stop. Those at workers are left to the run's next owner.
    pub(super) fn stop_all(&mut self) {
        let (n_stopping, n_listening) = (&mut self.n_stopping, &mut self.n_listening);
        self.running.retain(|_, running| {
            let is_here = matches!(running.at, At::Here(_));
            *n_stopping -= usize::from(!is_here && running.stopping.is_some());
            *n_listening -= usize::from(!is_here && running.def.options.waits);
            is_here
        });
        self.n_offered = 0;
        for step in self.running() {
            self.stop(step, GRACE, true);
        }
    }

    /// Drops every body at once.
    pub(super) fn abort_all(&mut self) {
        self.running
            .drain()
            .for_each(|(_, running)| running.at.abort());
        self.n_stopping = 0;
        self.n_listening = 0;
        self.n_offered = 0;
    }

    /// Waits until a body that was told to stop has not done so for too long.
    pub(super) async fn until_overdue(&self) {
        if self.n_stopping == 0 {
            return pending().await;
        }
        match self
            .running
            .values()
            .filter_map(|running| running.stopping)
            .map(|(until, _)| until)
            .min()
        {
            Some(until) => tokio::time::sleep_until(until).await,
            None => pending().await,
        }
    }

    /// Drops bodies that did not end by themselves in time, and gives up on those that cannot be dropped.
    pub(super) fn abort_overdue(&mut self) {
        let now = Instant::now();
        let (n_stopping, n_offered) = (&mut self.n_stopping, &mut self.n_offered);
        let n_listening = &mut self.n_listening;
        self.running.retain(|_, running| match running.stopping {
            Some((until, Stage::Asked)) if until <= now => {
                running.at.abort();
                running.stopping = Some((now + ABANDON_AFTER, Stage::Dropped));
                true
            }
            Some((until, Stage::Dropped)) if until <= now => {
                if let At::Here(context) = &running.at {
                    context.abandon(AbandonReason::Stopped);
                }
                *n_stopping -= 1;
                *n_listening -= usize::from(running.def.options.waits);
                *n_offered -= usize::from(matches!(running.at, At::Worker(_)));
                false
            }
            _ => true,
        });
    }
}

/// How long a body that asked for its token may take to end by itself.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

impl RunTask {
    /// Stops what the run no longer needs.
    pub(super) fn stop_steps(&mut self) {
        // A run that is being suspended keeps what workers have finished for it.
        let keeps_done = !self.run.is_active();
        for step in self.run.take_stops() {
            self.steps.stop(step, GRACE, keeps_done);
        }
    }

    /// Starts what may start, as far as there are places.
    pub(super) fn start_steps(&mut self) {
        if !self.steps.has_work() {
            self.steps.spare = None;
            return;
        }
        if !self.slot.is_held() {
            // What only waits needs no slot.
            self.start_listeners();
            if !self.steps.has_work() || !self.may_execute() {
                return;
            }
        }
        self.offer_steps();
        if self.steps.allowed.is_empty() {
            self.steps.spare = None;
            return;
        }
        if self.may_block
            && self.lone.is_none()
            && self.steps.is_idle()
            && let [step] = self.steps.allowed[..]
        {
            return self.start_alone(step);
        }
        let mut members = Vec::new();
        self.start_allowed(&mut members);
        let is_crowded = !self.steps.allowed.is_empty();
        self.steps.crew.set_going(members, is_crowded);
    }

    /// Starts the only step that may, while no other is executing: this task can poll its body itself.
    fn start_alone(&mut self, step: StepId) {
        let Some(permit) = self.take_permit() else {
            return;
        };
        self.steps.allowed = Vec::new();
        match self.start_step(step, permit) {
            Some(member) if member.may_share() => self.lone = Some(member.body()),
            Some(member) => member.body().spawn(),
            None => {}
        }
    }

    fn take_permit(&mut self) -> Option<OwnedSemaphorePermit> {
        let spare = self.steps.spare.take();
        spare.or_else(|| {
            Arc::clone(&self.shared.step_permits)
                .try_acquire_owned()
                .ok()
        })
    }

    fn start_allowed(&mut self, members: &mut Vec<Member>) {
        while let Some(step) = self.steps.allowed.last().copied() {
            let Some(permit) = self.take_permit() else {
                return;
            };
            self.steps.allowed.pop();
            if self.steps.allowed.is_empty() {
                self.steps.allowed = Vec::new();
            }
            members.extend(self.start_step(step, permit));
        }
        self.steps.spare = None;
    }

    /// Starts listeners while the run has no slot.
    fn start_listeners(&mut self) {
        let is_listener = |step: &mut StepId| {
            let step = self.run.step_ref(*step);
            let found = step.and_then(|step| self.shared.find_step(&step.name, step.version));
            found.is_some_and(|found| found.def.options.waits)
        };
        let mut listeners: Vec<StepId> = self.steps.allowed.extract_if(.., is_listener).collect();
        while let Some(step) = listeners.pop() {
            let Some(permit) = self.take_permit() else {
                listeners.push(step);
                break;
            };
            if let Some(member) = self.start_step(step, permit) {
                member.body().spawn();
            }
        }
        self.steps.spare = None;
        self.steps.allowed.extend(listeners);
    }

    fn start_step(&mut self, step: StepId, permit: OwnedSemaphorePermit) -> Option<Member> {
        let start = self.run.start(step)?;
        let step_ref = start.plan.step_of(start.index)?;
        let found = self.shared.find_step(&step_ref.name, step_ref.version);
        let Some(found) = found else {
            let (name, version) = (step_ref.name.to_string(), step_ref.version);
            self.lacks_step(step, name, version);
            return None;
        };
        let def = found.def;
        let given_name = start.plan.name_of(start.index).cloned();
        let timeout = start
            .plan
            .node(start.index)
            .extra
            .as_ref()
            .and_then(|extra| extra.timeout);
        let timeout = timeout.map(Duration::from_micros).or(def.options.timeout);
        let link = Arc::clone(&self.link);
        let context = Context::new(link, step, def.name, given_name, start.attempt);
        let span = tracing::info_span!("step", run = %self.id, step = %step, name = context.step_name(), attempt = start.attempt);
        self.steps.n_executions += 1;
        let n_execution = self.steps.n_executions;
        let report = Report {
            context: context.clone(),
            execution: n_execution,
            outcome: Outcome::Stopped,
        };
        let execution = Execution {
            found,
            start,
            timeout,
            permit,
        };
        let running = Running {
            execution: n_execution,
            def,
            at: At::Here(context),
            stopping: None,
        };
        self.steps.insert(step, running);
        Some(Member {
            execution,
            report,
            span,
        })
    }

    /// The program has no such step.
    pub(super) fn lacks_step(&mut self, step: StepId, name: String, version: u32) {
        self.run.stopped(step);
        if self.shared.is_shared() {
            // Another worker may have it, as while one version of a program replaces another.
            tracing::warn!(run = %self.id, step = name, version, "this program has no such step; the run is left to others");
            self.is_leaving = true;
            self.steps.forbid();
            return;
        }
        self.run.suspend(SuspendReason::UnknownStep {
            step: name,
            version,
        });
        self.stop_steps();
    }

    /// What the journal says of something that happened; `None` if nothing waits for it any more, `Err` if the run cannot go on with
    /// the code there is.
    pub(super) fn event_of(
        &mut self,
        happened: Happened,
    ) -> Option<Result<Event, (StepId, SuspendReason)>> {
        let event = match happened {
            Happened::Body {
                step, def, outcome, ..
            } => {
                if !self.run.is_running(step) {
                    return None;
                }
                let event = self.event_of_body(step, def, outcome);
                return Some(event.map_err(|reason| (step, reason)));
            }
            Happened::ChildBegan { step } => {
                self.run.child(step).filter(|child| !child.has_begun)?;
                Event::ChildBegan { step }
            }
            Happened::Ended { step, value, .. } => {
                self.run.child(step)?;
                Event::StepSucceeded { step, value }
            }
            Happened::Failed { step, failure, .. } => {
                self.run.child(step)?;
                Event::AttemptFailed {
                    step,
                    failure,
                    retry_at: None,
                }
            }
        };
        Some(Ok(event))
    }

    fn event_of_body(
        &mut self,
        step: StepId,
        def: &'static StepDef,
        outcome: Outcome,
    ) -> Result<Event, SuspendReason> {
        Ok(match outcome {
            Outcome::Value(value) => {
                if def.options.checkpoint || self.run.must_store(step) {
                    Event::StepSucceeded { step, value }
                } else {
                    Event::StepRan {
                        step,
                        value: Some(value),
                    }
                }
            }
            Outcome::Plan(plan) => Event::StepExpanded { step, plan },
            Outcome::Failed(failure) => self.failed(step, def, *failure),
            Outcome::Unrunnable(reason) => return Err(*reason),
            Outcome::Stopped | Outcome::Storage(_) => {
                let message = "the outcome was not one of a body".to_owned();
                return Err(SuspendReason::Invariant { what: message });
            }
        })
    }

    fn failed(&mut self, step: StepId, def: &StepDef, failure: Failure) -> Event {
        let failure = failure.cut();
        let (retries, attempts) = self.run.attempts(step);
        let retries = retries.unwrap_or(def.options.retries);
        // Encoding the same value again gives the same error.
        let retries = if failure.kind == StepErrorKind::Unencodable {
            0
        } else {
            retries
        };
        let random = self.shared.random();
        let pause = retry::pause(attempts + 1, retries, def.options.backoff, random);
        let retry_at = pause.map(|pause| self.times().passed.after(pause));
        tracing::debug!(run = %self.id, %step, attempt = attempts + 1, message = failure.message, ?retry_at, "attempt failed");
        Event::AttemptFailed {
            step,
            failure,
            retry_at,
        }
    }
}
