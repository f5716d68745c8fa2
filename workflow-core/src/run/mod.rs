//! The state machine of a run. Pure: no I/O, no clock, no randomness, no tokio.
//!
//! [`Run::apply`] folds one event. Live execution and recovery use the very same fold, so that recovery cannot drift
//! from execution. What a run wants done is asked of it afterwards, and only once the events are durable:
//! [`take_ready`](Run::take_ready) for steps to start, [`take_stops`](Run::take_stops) for steps to stop,
//! [`settle`](Run::settle) for how it ends.
//!
//! A run is a set of *segments*: the plan it was created with, and one for each expansion that is still needed.
//! Edges never leave a segment; a segment's root hands its result to the step that it stands in for, its parent. A
//! node's value is dropped when its last consumer is done, and a segment when its last node is. A step that expands as the
//! root of its own segment (a tail call) is replaced: its segment's parent becomes the new segment's, so that a loop of a
//! million rounds is never more than two segments.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod audit;
mod complete;
mod decide;
mod event;
mod expand;
mod fail;
mod inspect;
mod interruptions;
pub(crate) mod retry;
mod segment;
mod snapshot;
#[cfg(test)]
mod tests;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keepstep_storage::{StepCounts, Timestamp};
use smallvec::SmallVec;

pub use event::StepId;
pub(crate) use event::{Event, Failure};
use inspect::History;
pub(crate) use inspect::{Standing, ViewState};
use interruptions::Interruptions;
use segment::{Node, Segment, State};
use waits::Waits;
pub(crate) use waits::{ChildToBegin, Due};

use crate::error::{StepError, SuspendReason};
use crate::plan::{NodeKind, Plan};
use crate::status::Progress;
use crate::value::Value;

/// A run's state.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// By the number of their first step. Boxed, since a map has room for eleven from the first on, and most runs have one.
    segments: BTreeMap<u64, Box<Segment>>,
    /// The number the next step gets.
    next: u64,
    phase: Phase,
    output: Option<Value>,
    /// Steps that may start, the last one first: depth first keeps few values alive.
    ready: Vec<StepId>,
    /// Steps that wait for their next attempt.
    timers: BTreeSet<(Timestamp, StepId)>,
    waits: Waits,
    /// Steps that are running and should not be.
    stops: Vec<StepId>,
    /// Results of steps that the user named, since they were last taken.
    named: Vec<(Arc<str>, Value)>,
    counts: StepCounts,
    n_running: u64,
    /// About how many bytes a snapshot would have.
    live_bytes: u64,
    /// Boxed, since hardly any run has some.
    interruptions: Option<Box<Interruptions>>,
    /// Kept only to answer questions about the past.
    history: Option<History>,
}

/// Nodes that something lets go of. Most let go of a few.
type Released = SmallVec<[StepId; 8]>;

/// What a run is up to.
#[derive(Debug, Clone, Default, PartialEq)]
enum Phase {
    #[default]
    Active,
    /// A failure reached the root: what is running is being stopped.
    Failing(Box<StepError>),
    Canceling,
    Suspending(SuspendReason),
    Failed(Box<StepError>),
    Canceled,
    Suspended(SuspendReason),
}

/// What a run needs next, once nothing of it is running any more.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Settled {
    /// This event ends or stops it.
    By(Event),
    /// It is successful.
    Successful,
    /// It waits, until then at the latest; without a timer only for [others](Run::waits_for_others).
    Waiting(Option<Timestamp>),
    /// It has ended or is suspended.
    Stopped,
}

/// A step that is to be started.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) plan: Arc<Plan>,
    pub(crate) index: u32,
    /// 1 for the first.
    pub(crate) attempt: u32,
    /// The results of the node's inputs, in the order in which its arguments name them.
    pub(crate) inputs: Vec<Value>,
}

/// An event that cannot have happened to the run in its state: the journal is not one that this code wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Impossible(pub(crate) &'static str);

impl Run {
    /// Folds one event. An event about a step that is no longer needed changes nothing, nor does any after a cancellation.
    pub(crate) fn apply(&mut self, event: Event) -> Result<(), Impossible> {
        match event {
            Event::Created { plan } => {
                if self.next != 0 {
                    return Err(Impossible("the run is created twice"));
                }
                self.load(plan, None, None, Vec::new(), 0);
            }
            Event::Snapshot(snapshot) => *self = self.restore(*snapshot)?,
            _ if self.next == 0 => {
                return Err(Impossible("the journal does not begin with a plan"));
            }
            _ if self.phase == Phase::Canceled => {}
            Event::StepSucceeded { step, value } => self.succeed(step, value, true),
            Event::StepRan {
                step,
                value: Some(value),
            } => self.succeed(step, value, false),
            // The value went with the process that had it: the step is as if it had not run.
            Event::StepRan { value: None, .. } => {}
            Event::StepExpanded { step, plan } => self.expand(step, plan),
            Event::AttemptFailed {
                step,
                failure,
                retry_at,
            } => self.attempt_failed(step, failure, retry_at),
            Event::RunFailed => match &self.phase {
                Phase::Failing(error) => self.phase = Phase::Failed(error.clone()),
                _ => return Err(Impossible("the run fails without a failed step")),
            },
            Event::RunCanceled => self.phase = Phase::Canceled,
            Event::RunSuspended { reason } => self.phase = Phase::Suspended(reason),
            Event::RunResumed => self.resume(),
            Event::ClockStarted { at, steps } => self.start_clocks(at, &steps),
            Event::ChildBegan { step } => self.child_began(step),
            Event::Interrupted { at, steps } => self.interrupted(at, &steps),
        }
        Ok(())
    }

    /// Steps that have become ready since the last call; the last one should start first.
    pub(crate) fn take_ready(&mut self) -> Vec<StepId> {
        if self.phase != Phase::Active {
            return Vec::new();
        }
        std::mem::take(&mut self.ready)
    }

    /// The steps that [`take_ready`](Self::take_ready) would give.
    pub(crate) fn ready(&self) -> impl Iterator<Item = StepId> {
        let is_active = self.phase == Phase::Active;
        self.ready.iter().copied().filter(move |_| is_active)
    }

    /// Forgets of the steps that became ready those that have not stayed so: after a journal was folded.
    pub(crate) fn tidy_ready(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|step| {
            self.locate(*step).is_some_and(|(_, segment, index)| {
                matches!(segment.nodes[index as usize].state, State::Ready)
            })
        });
        self.ready = ready;
    }

    /// Marks a step as running, if it still should. Not an event: a step that was running is ready after a crash.
    pub(crate) fn start(&mut self, step: StepId) -> Option<Start> {
        if self.phase != Phase::Active {
            return None;
        }
        let (base, segment, index) = self.locate(step)?;
        if !matches!(segment.nodes[index as usize].state, State::Ready) {
            return None;
        }
        let plan = Arc::clone(&segment.plan);
        let mut inputs = Vec::new();
        if let NodeKind::Step { args, .. } = &plan.node(index).kind {
            let mut complete = true;
            let mut push = |input: u32| match &segment.nodes[input as usize].state {
                State::Done(value) | State::Ran(value) => inputs.push(value.clone()),
                _ => complete = false,
            };
            args.iter().for_each(|arg| arg.for_each_input(&mut push));
            if !complete {
                return None;
            }
        }
        let node = &mut self.segments.get_mut(&base)?.nodes[index as usize];
        node.state = State::Running;
        self.n_running += 1;
        Some(Start {
            plan,
            index,
            attempt: node.attempts.saturating_add(1),
            inputs,
        })
    }

    /// Says that a running step was stopped without a result.
    pub(crate) fn stopped(&mut self, step: StepId) {
        if let Some(node) = self.node_mut(step)
            && matches!(node.state, State::Running)
        {
            node.state = State::Ready;
            self.n_running -= 1;
            self.ready.push(step);
        }
    }

    /// Running steps that should be stopped, since the last call.
    pub(crate) fn take_stops(&mut self) -> Vec<StepId> {
        std::mem::take(&mut self.stops)
    }

    /// Results of steps that the user named, since the last call.
    pub(crate) fn take_named(&mut self) -> Vec<(Arc<str>, Value)> {
        std::mem::take(&mut self.named)
    }

    /// Begins to cancel. Everything that is running should stop.
    pub(crate) fn cancel(&mut self) {
        if !self.is_stopped() {
            self.phase = Phase::Canceling;
            self.stop_all();
        }
    }

    /// Begins to suspend. A run that fails or is being canceled goes on with that.
    pub(crate) fn suspend(&mut self, reason: SuspendReason) {
        if self.phase == Phase::Active && self.output.is_none() {
            self.phase = Phase::Suspending(reason);
            self.stop_all();
        }
    }

    /// What comes next; `is_idle` says that no body of the run is executing any more.
    pub(crate) fn settle(&self, is_idle: bool) -> Settled {
        match &self.phase {
            Phase::Failed(_) | Phase::Canceled | Phase::Suspended(_) => Settled::Stopped,
            _ if !is_idle => Settled::Waiting(self.next_timer()),
            Phase::Failing(_) => Settled::By(Event::RunFailed),
            Phase::Canceling => Settled::By(Event::RunCanceled),
            Phase::Suspending(reason) => Settled::By(Event::RunSuspended {
                reason: reason.clone(),
            }),
            Phase::Active if self.output.is_some() => Settled::Successful,
            Phase::Active => Settled::Waiting(self.next_timer()),
        }
    }

    /// Whether the run still starts steps.
    pub(crate) fn is_active(&self) -> bool {
        self.phase == Phase::Active && self.output.is_none()
    }

    /// Whether a failure has reached the root, and is not the run's end yet.
    pub(crate) fn is_failing(&self) -> bool {
        matches!(self.phase, Phase::Failing(_))
    }

    fn is_stopped(&self) -> bool {
        matches!(
            self.phase,
            Phase::Failed(_) | Phase::Canceled | Phase::Suspended(_)
        )
    }

    pub(crate) fn is_canceled(&self) -> bool {
        self.phase == Phase::Canceled
    }

    /// The run's result, once its root is done.
    pub(crate) fn output(&self) -> Option<&Value> {
        self.output.as_ref()
    }

    /// Why the run failed.
    pub(crate) fn failure(&self) -> Option<&StepError> {
        match &self.phase {
            Phase::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Why the run is suspended.
    pub(crate) fn suspended(&self) -> Option<&SuspendReason> {
        match &self.phase {
            Phase::Suspended(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether a step's result is stored whatever the step says: it is a run's or an expansion's, a race's, a list's, or the
    /// catch that is hands it on.
    pub(crate) fn must_store(&self, step: StepId) -> bool {
        self.locate(step).is_some_and(|(_, segment, index)| {
            let mut users = vec![index];
            while let Some(index) = users.pop() {
                if index == segment.plan.root() {
                    return true;
                }
                for &consumer in segment.consumers(index) {
                    match &segment.plan.node(consumer).kind {
                        // Every reader of those sees the same.
                        NodeKind::All(_) | NodeKind::First(..) => return true,
                        NodeKind::Catch(inner) if *inner == index => users.push(consumer),
                        _ => {}
                    }
                }
            }
            false
        })
    }

    /// Whether a step's body is executing for the run.
    pub(crate) fn is_running(&self, step: StepId) -> bool {
        self.locate(step)
            .is_some_and(|(_, s, index)| matches!(s.nodes[index as usize].state, State::Running))
    }

    /// The step that a node runs, if it runs one.
    pub(crate) fn step_ref(&self, step: StepId) -> Option<&crate::plan::StepRef> {
        let (_, segment, index) = self.locate(step)?;
        segment.plan.step_of(index)
    }

    /// How many retries the user gave a step in this run, if any, and how many of its executions have failed.
    pub(crate) fn attempts(&self, step: StepId) -> (Option<u32>, u32) {
        self.locate(step).map_or((None, 0), |(_, segment, index)| {
            let extra = segment.plan.node(index).extra.as_ref();
            (
                extra.and_then(|extra| extra.retries),
                segment.nodes[index as usize].attempts,
            )
        })
    }

    pub(crate) fn counts(&self) -> StepCounts {
        self.counts
    }

    pub(crate) fn progress(&self) -> Progress {
        let StepCounts {
            total,
            done,
            failed,
        } = self.counts;
        let running = self.n_running;
        Progress {
            total,
            done,
            running,
            waiting: total.saturating_sub(done + failed + running),
            failed,
        }
    }

    /// About how many bytes a snapshot would have.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The segment of a step, and the step's index in it.
    fn locate(&self, step: StepId) -> Option<(u64, &Segment, u32)> {
        // Most is asked of the newest.
        let newest = self.segments.last_key_value();
        let (base, segment) = newest
            .filter(|(base, _)| **base <= step.0)
            .or_else(|| self.segments.range(..=step.0).next_back())?;
        let index = step.0 - base;
        (index < segment.nodes.len() as u64).then_some((*base, segment, index as u32))
    }

    fn locate_mut(&mut self, step: StepId) -> Option<(u64, &mut Segment, u32)> {
        let (base, segment) = self.segments.range_mut(..=step.0).next_back()?;
        let index = step.0 - base;
        (index < segment.nodes.len() as u64).then_some((*base, segment, index as u32))
    }

    fn node_mut(&mut self, step: StepId) -> Option<&mut Node> {
        let (_, segment, index) = self.locate_mut(step)?;
        segment.nodes.get_mut(index as usize)
    }

    fn stop_all(&mut self) {
        for (base, segment) in &self.segments {
            let running = segment
                .nodes
                .iter()
                .zip(*base..)
                .filter(|(node, _)| matches!(node.state, State::Running));
            self.stops.extend(running.map(|(_, id)| StepId(id)));
        }
    }

    /// Goes on after a failure or a suspension: what failed may try again from its first attempt.
    fn resume(&mut self) {
        self.phase = Phase::Active;
        self.interruptions = None;
        let mut again = Vec::new();
        for (base, segment) in &mut self.segments {
            for (node, id) in segment.nodes.iter_mut().zip(*base..) {
                if matches!(node.state, State::Failed(_)) {
                    node.state = State::Waiting;
                    node.attempts = 0;
                    again.push(StepId(id));
                }
            }
        }
        for step in again {
            let is_counted = self
                .locate(step)
                .is_some_and(|(_, segment, index)| segment.is_counted(index));
            self.counts.failed -= u64::from(is_counted);
            if !is_counted {
                self.renew_limit(step);
            }
            self.activate(step);
        }
    }
}
