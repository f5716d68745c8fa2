//! Drives a run as the executor does, with a clock, a store and bodies that are only pretended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{Position, Timestamp};

use super::audit::audit;
use super::interpreter::{Interpreter, Verdict};
use super::known::{Fact, Known};
use super::programs::{Index, Then, Uid, uid_of, value_of};
use crate::error::{StepError, StepErrorKind, SuspendReason};
use crate::journal::{EntryWriter, read_entry};
use crate::plan::Plan;
use crate::run::inspect::ViewState;
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
        self.run.wake(self.now);
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

    fn fold_and_commit(&mut self) {
        let mut events: Vec<Event> = self.opening.take().into_iter().collect();
        while let Some((step, outcome)) = self.happened.pop_front() {
            if self.run.is_running(step) {
                events.push(self.event_of(step, outcome));
            }
        }
        let mut entry = Entry::default();
        if !events.is_empty() && self.run.is_active() && self.run.next != 0 {
            let snapshot = self.checked_snapshot();
            if self.restores && self.rng.u8(0..4) == 0 {
                entry.events.push(snapshot);
                entry.facts.push(Fact::Snapshot);
            }
        }
        for event in events {
            self.fold(event, &mut entry);
        }
        for step in self.run.take_stops() {
            // Or else it has just ended.
            if let Some(body) = self.bodies.iter_mut().find(|body| body.step == step) {
                body.is_stopping = true;
            }
        }
        let is_idle = self.bodies.is_empty();
        if let Settled::By(event) = self.run.settle(is_idle) {
            self.fold(event, &mut entry);
        }
        entry.is_last = match self.run.settle(is_idle) {
            Settled::Successful => true,
            Settled::Stopped => self.run.suspended().is_none(),
            _ => false,
        };
        if !entry.events.is_empty() || entry.is_last != self.is_ended {
            entry.named = self.run.take_named();
            self.commit(entry);
        }
    }

    fn fold(&mut self, event: Event, entry: &mut Entry) {
        entry.facts.push(self.fact_of(&event));
        self.run.apply(event.clone()).unwrap();
        entry.events.push(event);
        self.audit();
    }

    fn fact_of(&self, event: &Event) -> Fact {
        let uid = |step: &StepId| {
            let is_running = self.run.is_running(*step);
            is_running.then(|| uid_of(&self.run.step_ref(*step).unwrap().name))
        };
        let fact = match event {
            Event::StepSucceeded { step, .. } | Event::StepExpanded { step, .. } => {
                uid(step).map(Fact::Result)
            }
            Event::StepRan { step, .. } => uid(step).map(Fact::Ran),
            Event::AttemptFailed { step, retry_at, .. } => uid(step).map(match retry_at {
                Some(_) => Fact::Failed,
                None => Fact::FailedForGood,
            }),
            Event::RunResumed => Some(Fact::Resumed(failed_steps(&self.run))),
            _ => None,
        };
        fact.unwrap_or(Fact::Nothing)
    }

    /// Encodes an entry; what is read back is what was written.
    fn commit(&mut self, mut entry: Entry) {
        let position = Position(self.journal.len() as u64);
        let mut writer = EntryWriter::default();
        entry
            .events
            .iter()
            .for_each(|event| writer.push(event).unwrap());
        let read = read_entry(position, &writer.finish(position)).unwrap();
        for event in &mut entry.events {
            assert!(event.plans_are_sound());
            if let Event::StepRan { value, .. } = event {
                *value = None;
            }
        }
        assert_eq!(read, entry.events);
        self.committing = Some(entry);
    }

    /// The commit under way is durable.
    fn committed(&mut self) {
        if let Some(entry) = self.committing.take() {
            self.learn(&entry);
            self.is_ended = entry.is_last;
            if !entry.events.is_empty() {
                self.journal.push(entry);
            }
            self.allowed.extend(self.run.take_ready());
            self.audit();
            let running = self.run.progress().running;
            assert!(running <= (self.bodies.len() + self.happened.len()) as u64);
        }
    }

    fn learn(&mut self, entry: &Entry) {
        entry.facts.iter().for_each(|fact| self.known.learn(fact));
        let named = entry
            .named
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()));
        self.known.named.extend(named);
    }

    /// A snapshot, after seeing that a run restored from it is in the same state.
    fn checked_snapshot(&self) -> Event {
        let event = Event::Snapshot(Box::new(self.run.snapshot()));
        let mut writer = EntryWriter::default();
        writer.push(&event).unwrap();
        let read = read_entry(Position(0), &writer.finish(Position(0))).unwrap();
        let mut restored = Run::default();
        restored.apply(read.into_iter().next().unwrap()).unwrap();
        let ready = restored.ready.clone();
        audit(&restored, &ready);
        assert_eq!(Event::Snapshot(Box::new(restored.snapshot())), event);
        event
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

    /// The run as another process finds it that reads the first so many events of the journal.
    pub(super) fn recover(&self, n_events: usize, seed: u64) -> Self {
        let mut sim = Self::empty(
            self.interpreter.index,
            self.interpreter.mended().clone(),
            seed,
        );
        sim.now = self.now;
        sim.restores = self.restores;
        sim.is_chaotic = self.is_chaotic;
        let mut left = n_events;
        for entry in &self.journal {
            let mut entry = entry.clone();
            let is_whole = entry.events.len() <= left;
            entry.events.truncate(left);
            entry.facts.truncate(left);
            if left == 0 {
                break;
            }
            left -= entry.events.len();
            // Entries before a snapshot are gone.
            if matches!(entry.events[0], Event::Snapshot(_)) {
                sim.run = Run::default();
            }
            for event in &entry.events {
                sim.run.apply(event.clone()).unwrap();
                audit(&sim.run, &sim.run.ready);
            }
            let named = sim.run.take_named();
            if is_whole {
                sim.is_ended = entry.is_last;
                for result in &named {
                    assert!(entry.named.contains(result), "{result:?} was not kept");
                }
            } else {
                entry.named = named;
            }
            sim.learn(&entry);
            sim.journal.push(entry);
        }
        sim.known.forget();
        sim.choices = self.choices.clone();
        sim.choices
            .retain(|_, failed| sim.known.failed.contains(failed));
        assert!(sim.run.take_stops().is_empty());
        sim.allowed = sim.run.take_ready();
        sim
    }

    /// The run as it goes on after it was suspended, or failed and was mended.
    pub(super) fn resume(&self, seed: u64) -> Self {
        let mut sim = self.recover(self.n_events(), seed);
        let mut mended = self.interpreter.mended().clone();
        mended.extend(failed_steps(&sim.run));
        sim.interpreter = Interpreter::new(self.interpreter.index, mended);
        sim.opening = Some(Event::RunResumed);
        sim
    }

    fn audit(&self) {
        let mut ready = self.run.ready.clone();
        ready.extend(&self.allowed);
        audit(&self.run, &ready);
    }

    /// Checks that the run ended as the program says, with what that means for what ran and what is kept.
    pub(super) fn check_end(&mut self, end: &End) {
        let interpreter = &self.interpreter;
        let counts = self.run.counts();
        match (interpreter.verdict(), end) {
            (Verdict::Succeeds, End::Successful(output)) => {
                let root = interpreter.index.program.root().uid;
                interpreter.check(root, output, &mut self.choices);
                assert_eq!(counts.done + counts.failed, counts.total);
                assert_eq!(self.run.progress().waiting, 0);
                assert_eq!(self.run.progress().running, 0);
                self.check_needed();
                self.check_memory();
            }
            (Verdict::Fails(possible), End::Failed(error)) => {
                let failed = interpreter.check_error(error, possible);
                assert!(self.known.failed.contains(&failed));
                assert!(counts.failed > 0);
            }
            other => panic!("{other:?}"),
        }
        for (name, value) in &self.known.named {
            self.interpreter
                .check(uid_of(name), value, &mut self.choices);
        }
    }

    /// Every step whose result is needed has one, after exactly as many failures as the program says.
    fn check_needed(&self) {
        let index = self.interpreter.index;
        self.interpreter.for_each_needed(&mut |uid| {
            let node = index.node(uid);
            if let Some(step) = node.step().filter(|step| !step.is_volatile) {
                assert!(self.known.results.contains(&uid), "{uid} has no result");
                let fails = self.interpreter.fails(uid);
                assert_eq!(self.known.attempts(uid), fails, "{step:?}");
            }
            if node.is_named && node.step().is_none_or(|step| !step.is_volatile) {
                assert!(self.known.named.contains_key(&node.label()), "of {uid}");
            }
        });
    }

    /// A run that is successful needs nothing but its output.
    fn check_memory(&mut self) {
        assert!(self.run.segments.is_empty());
        assert_eq!(self.run.live_bytes(), 0);
        assert_eq!(self.run.next_timer(), None);
        assert!(self.run.take_stops().is_empty());
        assert!(self.run.take_named().is_empty());
        for step in self.run.take_ready() {
            assert!(self.run.start(step).is_none());
        }
    }
}

/// Steps that failed for good and were not caught.
fn failed_steps(run: &Run) -> BTreeSet<Uid> {
    run.nodes()
        .filter(|node| matches!(node.state, ViewState::Failed(Some(_))))
        .map(|node| uid_of(node.label))
        .collect()
}
