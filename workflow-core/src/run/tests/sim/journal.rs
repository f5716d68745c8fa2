//! What the driver writes, and what it finds again.

use std::collections::BTreeSet;

use keepstep_storage::Position;

use super::{Entry, Sim};
use crate::journal::{EntryWriter, read_entry};
use crate::run::audit::audit;
use crate::run::inspect::ViewState;
use crate::run::tests::interpreter::Interpreter;
use crate::run::tests::known::Fact;
use crate::run::tests::programs::{Uid, uid_of};
use crate::run::{Event, Run, Settled, StepId};

impl Sim<'_> {
    pub(super) fn fold_and_commit(&mut self) {
        let mut entry = Entry::default();
        if let Some(event) = self.opening.take() {
            self.fold(event, &mut entry);
        } else if !self.happened.is_empty() && self.run.is_active() {
            let snapshot = self.checked_snapshot();
            if self.restores && self.rng.u8(0..4) == 0 {
                entry.events.push(snapshot);
                entry.facts.push(Fact::Snapshot);
            }
        }
        // An entry is not made longer than some limit.
        let full = entry.events.len() + self.rng.usize(1..6);
        while entry.events.len() < full
            && let Some((step, outcome)) = self.happened.pop_front()
        {
            if self.run.is_running(step) {
                let event = self.event_of(step, outcome);
                self.fold(event, &mut entry);
            }
        }
        for step in self.run.take_stops() {
            // Or else it has just ended.
            if let Some(body) = self.bodies.iter_mut().find(|body| body.step == step) {
                body.is_stopping = true;
            }
        }
        let is_idle = self.bodies.is_empty() && self.happened.is_empty();
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
    pub(super) fn committed(&mut self) {
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

    /// The run as another process finds it that reads the first so many events of the journal.
    pub(in super::super) fn recover(&self, n_events: usize, seed: u64) -> Self {
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
    pub(in super::super) fn resume(&self, seed: u64) -> Self {
        let mut sim = self.recover(self.n_events(), seed);
        let mut mended = self.interpreter.mended().clone();
        mended.extend(failed_steps(&sim.run));
        sim.interpreter = Interpreter::new(self.interpreter.index, mended);
        sim.opening = Some(Event::RunResumed);
        sim
    }
}

/// Steps that failed for good and were not caught.
fn failed_steps(run: &Run) -> BTreeSet<Uid> {
    run.nodes()
        .filter(|node| matches!(node.state, ViewState::Failed(Some(_))))
        .map(|node| uid_of(node.label))
        .collect()
}
