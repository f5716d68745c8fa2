//! Drives a run as the executor does, with a clock, a store and bodies that are only pretended.

mod check;
mod journal;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::Timestamp;

use crate::error::{StepError, StepErrorKind, SuspendReason};
use crate::plan::Plan;
use crate::run::audit::audit;
use crate::run::tests::interpreter::Interpreter;
use crate::run::tests::known::{Fact, Known};
use crate::run::tests::programs::{Index, Then, Uid, uid_of, value_of};
use crate::run::{Event, Failure, Run, Settled, StepId};
use crate::value::Value;

/// One run in execution.
#[derive(Debug)]
pub(super) struct Sim<'p> {
    pub(super) interpreter: Interpreter<'p>,
    pub(super) run: Run,
    pub(super) journal: Vec<Entry>,
    /// What is durable.
    pub(super) known: Known,
    /// What each catch was seen to report.
    pub(super) choices: BTreeMap<Uid, Uid>,
    /// Executions in this process: step and attempt.
    pub(super) executed: BTreeSet<(Uid, u32)>,
    rng: fastrand::Rng,
    now: Timestamp,
    /// How many bodies may execute at a time.
    places: usize,
    /// Whether journals are compacted, and runs that wait leave memory.
    restores: bool,
    /// Whether bodies do as they like, instead of what the program says.
    is_chaotic: bool,
    opening: Option<Event>,
    allowed: Vec<StepId>,
    bodies: Vec<Body>,
    happened: VecDeque<(StepId, Outcome)>,
    /// An entry that is not durable yet.
    committing: Option<Entry>,
    /// Whether the stored status is a final one.
    is_ended: bool,
}

/// A journal entry.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    /// As they are read back.
    pub(super) events: Vec<Event>,
    facts: Vec<Fact>,
    named: Vec<(Arc<str>, Value)>,
    /// Whether the status that is written with it is a final one.
    is_last: bool,
}

#[derive(Debug)]
struct Body {
    step: StepId,
    uid: Uid,
    attempt: u32,
    is_stopping: bool,
}

#[derive(Debug)]
enum Outcome {
    Value(Value),
    Plan(Plan),
    Failed,
}

/// How a run came to rest.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    Successful(Value),
    Failed(StepError),
    Canceled,
    Suspended,
}

impl<'p> Sim<'p> {
    pub(super) fn new(index: &'p Index<'p>, seed: u64) -> Self {
        let mut sim = Self::empty(index, BTreeSet::new(), seed);
        sim.opening = Some(Event::Created {
            plan: index.program.plan().into(),
        });
        sim
    }

    fn empty(index: &'p Index<'p>, mended: BTreeSet<Uid>, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            interpreter: Interpreter::new(index, mended),
            run: Run::default(),
            journal: Vec::new(),
            known: Known::default(),
            choices: BTreeMap::new(),
            executed: BTreeSet::new(),
            now: Timestamp(1_000_000),
            places: rng.usize(1..5),
            rng,
            restores: false,
            is_chaotic: false,
            opening: None,
            allowed: Vec::new(),
            bodies: Vec::new(),
            happened: VecDeque::new(),
            committing: None,
            is_ended: false,
        }
    }

    /// Also compacts the journal, and lets the run leave memory when it waits.
    pub(super) fn with_restores(mut self) -> Self {
        self.restores = true;
        self
    }

    /// Lets bodies fail and succeed at random, also those that run again because their value was not stored.
    pub(super) fn with_chaos(mut self) -> Self {
        self.is_chaotic = true;
        self
    }

    /// How many events are durable.
    pub(super) fn n_events(&self) -> usize {
        self.journal.iter().map(|entry| entry.events.len()).sum()
    }

    /// Drives the run until it comes to rest.
    pub(super) fn drive(&mut self) -> End {
        self.drive_for(1_000_000).expect("the run does not end")
    }

    /// Does so many things, or fewer if the run comes to rest before.
    pub(super) fn drive_for(&mut self, ticks: usize) -> Option<End> {
        (0..ticks).find_map(|_| self.tick())
    }

    fn tick(&mut self) -> Option<End> {
        if self.committing.is_none() {
            self.fold_and_commit();
            if self.committing.is_none()
                && let Some(end) = self.at_rest()
            {
                return Some(end);
            }
        }
        match self.rng.u8(0..4) {
            0 if self.committing.is_some() => self.committed(),
            1 if self.bodies.len() < self.places && !self.allowed.is_empty() => {
                let step = self
                    .allowed
                    .swap_remove(self.rng.usize(..self.allowed.len()));
                self.start(step);
            }
            2 if !self.bodies.is_empty() => {
                let body = self.bodies.swap_remove(self.rng.usize(..self.bodies.len()));
                self.end_body(body);
            }
            3 if self.run.is_active() && self.committing.is_none() => self.pass_time(),
            _ => {}
        }
        None
    }

    fn pass_time(&mut self) {
        let Some(due_at) = self.run.next_timer() else {
            return;
        };
        self.now = self.now.after(Duration::from_micros(self.rng.u64(0..200)));
        let was_due = due_at <= self.now;
        self.run.retry_due(self.now);
        let ready = self.run.take_ready();
        assert!(was_due || ready.is_empty(), "woken before it was due");
        self.allowed.extend(ready);
        self.audit();
    }

    fn start(&mut self, step: StepId) {
        let Some(start) = self.run.start(step) else {
            return;
        };
        let uid = uid_of(&start.plan.step_of(start.index).unwrap().name);
        let (known, interpreter) = (&self.known, &self.interpreter);
        assert!(!known.is_finished(uid), "step {uid} runs again");
        assert!(!known.ran.contains(&uid), "step {uid} runs again");
        assert_eq!(start.attempt, known.attempts(uid) + 1, "of step {uid}");
        assert!(start.attempt <= interpreter.index.node(uid).retries() + 1);
        assert!(
            self.executed.insert((uid, start.attempt)),
            "step {uid} runs twice"
        );

        let place = interpreter.index.place(uid);
        let args = &place.node.step().unwrap().args;
        assert_eq!(start.inputs.len(), args.len());
        if !self.is_chaotic {
            for input in place.node.needs() {
                let input = place.program.nodes[input].uid;
                assert!(
                    known.has(interpreter, input),
                    "{input} is not there for {uid}"
                );
            }
            for (input, value) in args.iter().zip(&start.inputs) {
                interpreter.check(place.program.nodes[*input].uid, value, &mut self.choices);
            }
        }
        self.bodies.push(Body {
            step,
            uid,
            attempt: start.attempt,
            is_stopping: false,
        });
    }

    fn end_body(&mut self, body: Body) {
        if body.is_stopping && self.rng.bool() {
            return self.run.stopped(body.step);
        }
        let fails = if self.is_chaotic {
            self.rng.u8(0..3) == 0
        } else {
            body.attempt <= self.interpreter.fails(body.uid)
        };
        let outcome = if fails {
            Outcome::Failed
        } else {
            match &self.interpreter.index.node(body.uid).step().unwrap().then {
                Then::Value => Outcome::Value(value_of(body.uid)),
                Then::Program(inner) => match inner.finished() {
                    Some(value) => Outcome::Value(value),
                    None => Outcome::Plan(inner.plan()),
                },
            }
        };
        self.happened.push_back((body.step, outcome));
    }

    fn event_of(&mut self, step: StepId, outcome: Outcome) -> Event {
        let uid = uid_of(&self.run.step_ref(step).unwrap().name);
        match outcome {
            Outcome::Value(value) => {
                let is_volatile = self.interpreter.index.node(uid).step().unwrap().is_volatile;
                if is_volatile && !self.run.must_store(step) {
                    Event::StepRan {
                        step,
                        value: Some(value),
                    }
                } else {
                    Event::StepSucceeded { step, value }
                }
            }
            Outcome::Plan(plan) => Event::StepExpanded {
                step,
                plan: plan.into(),
            },
            Outcome::Failed => {
                let (retries, attempts) = self.run.attempts(step);
                assert_eq!(retries, self.interpreter.index.node(uid).retries);
                let is_retried = attempts < self.interpreter.index.node(uid).retries();
                let pause = Duration::from_micros(self.rng.u64(1..500));
                Event::AttemptFailed {
                    step,
                    failure: Failure {
                        kind: StepErrorKind::Error,
                        message: format!("{uid} was told to"),
                        causes: vec!["a cause".to_owned()],
                    },
                    retry_at: is_retried.then(|| self.now.after(pause)),
                }
            }
        }
    }

    fn at_rest(&mut self) -> Option<End> {
        if !self.bodies.is_empty() || !self.happened.is_empty() {
            return None;
        }
        match self.run.settle(true) {
            Settled::Successful => Some(End::Successful(self.run.output().unwrap().clone())),
            Settled::Stopped => Some(match (self.run.failure(), self.run.suspended()) {
                (Some(error), None) => End::Failed(error.clone()),
                (None, Some(SuspendReason::Requested)) => End::Suspended,
                (None, None) if self.run.is_canceled() => End::Canceled,
                other => panic!("{other:?}"),
            }),
            Settled::Waiting(due_at) if self.allowed.is_empty() => {
                self.now = due_at.expect("the run waits for nothing").max(self.now);
                if self.restores && self.rng.bool() {
                    let seed = self.rng.u64(..);
                    *self = self.recover(self.n_events(), seed);
                }
                None
            }
            Settled::Waiting(_) => None,
            Settled::By(event) => panic!("{event:?} was not folded"),
        }
    }

    /// Cancels the run; `false` if that is too late.
    pub(super) fn cancel(&mut self) -> bool {
        let is_ending = self.is_ending();
        if !is_ending {
            self.run.cancel();
        }
        !is_ending
    }

    /// Suspends the run, unless that is too late.
    pub(super) fn suspend(&mut self) {
        if !self.is_ending() {
            self.run.suspend(SuspendReason::Requested);
        }
    }

    /// Whether the end of the run is written, or is being written.
    fn is_ending(&self) -> bool {
        self.committing
            .as_ref()
            .map_or(self.is_ended, |entry| entry.is_last)
    }

    fn audit(&self) {
        let mut ready = self.run.ready.clone();
        ready.extend(&self.allowed);
        audit(&self.run, &ready);
    }
}
