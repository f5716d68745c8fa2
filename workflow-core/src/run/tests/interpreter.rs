//! The oracle: what a program comes to, by direct recursion.
//!
//! Whether a node succeeds is certain. Which of several failures it is that a catch reports, or a run, depends on which was
//! first: the oracle knows all that it may be.

use std::collections::{BTreeMap, BTreeSet};

use super::programs::{Index, Kind, Program, Then, Uid, uid_of, value_of};
use crate::error::StepError;
use crate::value::Value;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    Succeeds,
    /// By the failure of one of these.
    Fails(BTreeSet<Uid>),
}

/// What comes of each node that can be reached.
#[derive(Debug)]
pub(super) struct Interpreter<'p> {
    pub(super) index: &'p Index<'p>,
    verdicts: BTreeMap<Uid, Verdict>,
    /// Steps that no longer fail.
    mended: BTreeSet<Uid>,
}

impl<'p> Interpreter<'p> {
    pub(super) fn new(index: &'p Index<'p>, mended: BTreeSet<Uid>) -> Self {
        let mut interpreter = Self {
            index,
            verdicts: BTreeMap::new(),
            mended,
        };
        interpreter.interpret(index.program);
        interpreter
    }

    fn interpret(&mut self, program: &Program) -> Verdict {
        for node in &program.nodes {
            let mut failures = BTreeSet::new();
            for place in node.needs() {
                if let Verdict::Fails(steps) = &self.verdicts[&program.nodes[place].uid] {
                    failures.extend(steps);
                }
            }
            let verdict = match &node.kind {
                _ if !failures.is_empty() => Verdict::Fails(failures),
                Kind::Value | Kind::Catch(_) => Verdict::Succeeds,
                Kind::Step(_) if self.fails(node.uid) > node.retries() => {
                    Verdict::Fails([node.uid].into())
                }
                Kind::Step(step) => match &step.then {
                    Then::Value => Verdict::Succeeds,
                    Then::Program(inner) => self.interpret(inner),
                },
            };
            self.verdicts.insert(node.uid, verdict);
        }
        self.verdicts[&program.root().uid].clone()
    }

    /// How many of a step's executions fail.
    pub(super) fn fails(&self, uid: Uid) -> u32 {
        match self.index.node(uid).step() {
            Some(step) if !self.mended.contains(&uid) => step.fails,
            _ => 0,
        }
    }

    pub(super) fn mended(&self) -> &BTreeSet<Uid> {
        &self.mended
    }

    pub(super) fn verdict(&self) -> &Verdict {
        &self.verdicts[&self.index.program.root().uid]
    }

    /// The steps whose failure a catch may report; none if it has nothing to catch.
    pub(super) fn caught_by(&self, catch: Uid) -> BTreeSet<Uid> {
        match self.inner(catch).map(|inner| &self.verdicts[&inner]) {
            Some(Verdict::Fails(steps)) => steps.clone(),
            _ => BTreeSet::new(),
        }
    }

    fn inner(&self, catch: Uid) -> Option<Uid> {
        let place = self.index.place(catch);
        match place.node.kind {
            Kind::Catch(inner) => Some(place.program.nodes[inner].uid),
            _ => None,
        }
    }

    /// Checks that `value` is what a node gives. A catch that has a choice of failures must not change its mind: `choices`.
    pub(super) fn check(&self, uid: Uid, value: &Value, choices: &mut BTreeMap<Uid, Uid>) {
        match &self.index.node(uid).kind {
            Kind::Value => assert_eq!(*value, value_of(uid)),
            Kind::Step(step) => match &step.then {
                Then::Value => assert_eq!(*value, value_of(uid)),
                Then::Program(inner) => self.check(inner.root().uid, value, choices),
            },
            Kind::Catch(_) => {
                let possible = self.caught_by(uid);
                if possible.is_empty() {
                    let (tag, inner) = value.as_bytes().split_first().unwrap();
                    assert_eq!(*tag, crate::value::tag::OK);
                    return self.check(
                        self.inner(uid).unwrap(),
                        &Value::from_bytes(inner),
                        choices,
                    );
                }
                let error = value.decode::<Result<(), StepError>>().unwrap();
                let failed = self.check_error(&error.unwrap_err(), &possible);
                assert_eq!(
                    *choices.entry(uid).or_insert(failed),
                    failed,
                    "catch {uid} changed its mind"
                );
            }
        }
    }

    /// Checks an error, and says which step it is of.
    pub(super) fn check_error(&self, error: &StepError, possible: &BTreeSet<Uid>) -> Uid {
        let failed = uid_of(&error.step);
        assert!(
            possible.contains(&failed),
            "{failed} is not in {possible:?}"
        );
        assert_eq!(error.path, self.index.path(failed));
        assert_eq!(error.attempts, self.index.node(failed).retries() + 1);
        failed
    }

    /// Shows every node whose result is needed for the run's result to `visit`.
    pub(super) fn for_each_needed(&self, visit: &mut impl FnMut(Uid)) {
        let mut seen = BTreeSet::new();
        let mut pending = vec![self.index.program.root().uid];
        while let Some(uid) = pending.pop() {
            if !seen.insert(uid) {
                continue;
            }
            visit(uid);
            let place = self.index.place(uid);
            pending.extend(
                place
                    .node
                    .needs()
                    .map(|place_of| place.program.nodes[place_of].uid),
            );
            match &place.node.kind {
                Kind::Catch(_) if self.caught_by(uid).is_empty() => {
                    pending.extend(self.inner(uid));
                }
                Kind::Step(step) => {
                    if let Then::Program(inner) = &step.then {
                        pending.push(inner.root().uid);
                    }
                }
                _ => {}
            }
        }
    }
}
