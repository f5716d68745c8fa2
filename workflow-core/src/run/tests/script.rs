//! A run told step by step what happens, with nodes called by their names.

use std::collections::BTreeMap;

use keepstep_storage::Timestamp;

use crate::error::{StepError, StepErrorKind};
use crate::plan::{Arg, Child, Extra, First, NodeKind, Plan, PlanNode, StepRef, Until};
use crate::run::audit::audit;
use crate::run::{Event, Failure, Run, StepId};
use crate::value::{Codec, Value};

/// A node of a plan that is being written down.
#[derive(Debug, Clone)]
pub(super) struct Part {
    name: &'static str,
    kind: fn(usize, Vec<u32>) -> NodeKind,
    inputs: Vec<&'static str>,
    after: Vec<&'static str>,
    given_name: Option<&'static str>,
    limit: Option<u64>,
}

/// A step with these inputs, each an argument.
pub(super) fn step(name: &'static str, inputs: &[&'static str]) -> Part {
    let kind = |index, inputs: Vec<u32>| NodeKind::Step {
        step: index as u32,
        args: inputs.into_iter().map(Arg::Node).collect(),
    };
    part(name, kind, inputs)
}

pub(super) fn catch(name: &'static str, inner: &'static str) -> Part {
    part(name, |_, inputs| NodeKind::Catch(inputs[0]), &[inner])
}

pub(super) fn sleep(name: &'static str) -> Part {
    part(name, |_, _| NodeKind::Sleep(Until::After(100)), &[])
}

pub(super) fn sleep_until_500(name: &'static str) -> Part {
    let kind = |_, _| NodeKind::Sleep(Until::At(Timestamp(500)));
    part(name, kind, &[])
}

/// Waits for a message called `paid`.
pub(super) fn event(name: &'static str) -> Part {
    part(name, |_, _| NodeKind::Event("paid".into()), &[])
}

pub(super) fn all(name: &'static str, inputs: &[&'static str]) -> Part {
    part(name, |_, inputs| NodeKind::All(inputs.into()), inputs)
}

pub(super) fn select(name: &'static str, inputs: &[&'static str]) -> Part {
    let kind = |_, inputs: Vec<u32>| NodeKind::First(First::Placed, inputs.into());
    part(name, kind, inputs)
}

pub(super) fn race(name: &'static str, left: &'static str, right: &'static str) -> Part {
    let kind = |_, inputs: Vec<u32>| NodeKind::First(First::Either, inputs.into());
    part(name, kind, &[left, right])
}

/// What a listener's event is told of by.
pub(super) fn listen(name: &'static str, tell: &'static str) -> Part {
    let kind = |_, inputs: Vec<u32>| NodeKind::First(First::Alone, inputs.into());
    part(name, kind, &[tell])
}

/// Waits for a run called `child`.
pub(super) fn child(name: &'static str) -> Part {
    let kind = |_, _| {
        let id = keepstep_storage::RunId::new("child").unwrap();
        let child = Child::new(id, &plan(&[value("inner")])).unwrap();
        assert_eq!(child.plan(), Some(plan(&[value("inner")])));
        NodeKind::Child(child.into())
    };
    part(name, kind, &[])
}

pub(super) fn value(name: &'static str) -> Part {
    part(name, |_, _| NodeKind::Value(text("plain")), &[])
}

fn part(
    name: &'static str,
    kind: fn(usize, Vec<u32>) -> NodeKind,
    inputs: &[&'static str],
) -> Part {
    Part {
        name,
        kind,
        inputs: inputs.to_vec(),
        after: vec![],
        given_name: None,
        limit: None,
    }
}

impl Part {
    pub(super) fn after(mut self, others: &[&'static str]) -> Self {
        self.after = others.to_vec();
        self
    }

    /// With so many microseconds to be done.
    pub(super) fn within(mut self, micros: u64) -> Self {
        self.limit = Some(micros);
        self
    }

    /// With a name that the user gave it.
    pub(super) fn named(mut self, name: &'static str) -> Self {
        self.given_name = Some(name);
        self
    }
}

/// A plan of these nodes, the last of them its root.
pub(super) fn plan(parts: &[Part]) -> Plan {
    let place = |name: &&str| parts.iter().position(|part| part.name == *name).unwrap() as u32;
    let nodes = parts.iter().enumerate().map(|(index, part)| {
        let extra = Extra {
            name: part.given_name.map(Into::into),
            after: part.after.iter().map(place).collect(),
            timeout: part.limit,
            ..Extra::default()
        };
        PlanNode {
            kind: (part.kind)(index, part.inputs.iter().map(place).collect()),
            extra: (extra != Extra::default()).then(|| Box::new(extra)),
        }
    });
    let steps = parts.iter().map(|part| StepRef {
        name: part.name.into(),
        version: 1,
        fingerprints: [].into(),
    });
    let plan = Plan {
        nodes: nodes.collect(),
        steps: steps.collect(),
    };
    assert!(plan.is_sound());
    plan
}

pub(super) fn text(text: &str) -> Value {
    Value::encode(text, Codec::MessagePack).unwrap()
}

/// A run and what it was told.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) run: Run,
    journal: Vec<Event>,
    ids: BTreeMap<String, StepId>,
}

impl Script {
    pub(super) fn new(parts: &[Part]) -> Self {
        let mut script = Self::empty();
        script.apply(Event::Created {
            plan: plan(parts).into(),
        });
        script
    }

    fn empty() -> Self {
        Self {
            run: Run::default(),
            journal: vec![],
            ids: BTreeMap::new(),
        }
    }

    pub(super) fn apply(&mut self, event: Event) {
        self.run.apply(event.clone()).unwrap();
        self.journal.push(event);
        // What is no step has no name but the user's.
        let ids = self.run.nodes();
        self.ids
            .extend(ids.map(|node| (node.label.to_owned(), node.id)));
        let every: Vec<StepId> = self.ids.values().copied().collect();
        audit(&self.run, &every);
    }

    /// The number of the step that had the name last.
    pub(super) fn id(&self, name: &str) -> StepId {
        self.ids[name]
    }

    fn name(&self, step: StepId) -> String {
        let named = self.ids.iter().find(|(_, id)| **id == step);
        named.map_or_else(|| format!("step {step}"), |(name, _)| name.clone())
    }

    /// Starts all that may start, and says what that was.
    pub(super) fn start(&mut self) -> Vec<String> {
        let ready = self.run.take_ready();
        let started: Vec<StepId> = ready
            .into_iter()
            .rev()
            .filter(|step| self.run.start(*step).is_some())
            .collect();
        started.into_iter().map(|step| self.name(step)).collect()
    }

    /// What is told to stop.
    pub(super) fn stops(&mut self) -> Vec<String> {
        let mut stops = self.run.take_stops();
        stops.sort();
        stops.into_iter().map(|step| self.name(step)).collect()
    }

    /// The step gives its name.
    pub(super) fn succeeds(&mut self, name: &str) {
        let (step, value) = (self.id(name), text(name));
        self.apply(Event::StepSucceeded { step, value });
    }

    /// The step gives its name, which is not stored.
    pub(super) fn runs(&mut self, name: &str) {
        let (step, value) = (self.id(name), Some(text(name)));
        self.apply(Event::StepRan { step, value });
    }

    pub(super) fn expands(&mut self, name: &str, parts: &[Part]) {
        let (step, plan) = (self.id(name), plan(parts).into());
        self.apply(Event::StepExpanded { step, plan });
    }

    /// The step fails for good.
    pub(super) fn fails(&mut self, name: &str) {
        self.attempt_fails(name, None);
    }

    pub(super) fn attempt_fails(&mut self, name: &str, retry_at: Option<u64>) {
        let step = self.id(name);
        let failure = Failure {
            kind: StepErrorKind::Panic,
            message: format!("no {name}"),
            causes: vec![],
        };
        self.apply(Event::AttemptFailed {
            step,
            failure,
            retry_at: retry_at.map(Timestamp),
        });
    }

    /// Another process reads the journal, from which values that are not stored are missing.
    pub(super) fn crash(&mut self) {
        let journal = std::mem::take(&mut self.journal);
        *self = Self::empty();
        for mut event in journal {
            if let Event::StepRan { value, .. } = &mut event {
                *value = None;
            }
            self.apply(event);
        }
        self.run.take_stops();
        self.run.take_named();
    }

    /// Goes on from a snapshot.
    pub(super) fn restore(&mut self) {
        let snapshot = Event::Snapshot(Box::new(self.run.snapshot()));
        self.run = Run::default();
        self.journal.clear();
        self.apply(snapshot);
    }

    /// What the run gave, as text.
    pub(super) fn output(&self) -> Option<String> {
        self.run.output().map(|output| output.decode().unwrap())
    }

    /// What the root, a catch, reports.
    pub(super) fn caught(&self) -> StepError {
        let output = self.run.output().expect("the run has not ended");
        output
            .decode::<Result<String, StepError>>()
            .unwrap()
            .unwrap_err()
    }

    pub(super) fn progress(&self) -> [u64; 5] {
        let progress = self.run.progress();
        [
            progress.total,
            progress.done,
            progress.running,
            progress.waiting,
            progress.failed,
        ]
    }
}
