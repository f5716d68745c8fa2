//! What a journal says of the steps of a program, kept apart from the state machine to check it against.

use std::collections::{BTreeMap, BTreeSet};

use super::interpreter::Interpreter;
use super::programs::{Kind, Then, Uid};
use crate::value::Value;

/// What one event says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fact {
    /// The step gave a value or a workflow.
    Result(Uid),
    /// The step gave a value that is not stored.
    Ran(Uid),
    /// The step failed, and is tried again.
    Failed(Uid),
    /// The step failed for good.
    FailedForGood(Uid),
    /// These steps may try again from the start.
    Resumed(BTreeSet<Uid>),
    /// A snapshot was taken: what a value that is not stored became may be in it.
    Snapshot,
    /// Nothing: the event came too late, or is not about a step.
    Nothing,
}

/// What has become durable, and what the memory of this process knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) results: BTreeSet<Uid>,
    /// Values that are not stored and that this process has.
    pub(super) ran: BTreeSet<Uid>,
    /// Values that were not stored, when a snapshot was taken.
    kept: BTreeSet<Uid>,
    pub(super) failed: BTreeSet<Uid>,
    pub(super) attempts: BTreeMap<Uid, u32>,
    /// Results of named nodes.
    pub(super) named: BTreeMap<String, Value>,
}

impl Known {
    pub(super) fn learn(&mut self, fact: &Fact) {
        match fact {
            Fact::Result(uid) => drop(self.results.insert(*uid)),
            Fact::Ran(uid) => drop(self.ran.insert(*uid)),
            Fact::Failed(uid) => *self.attempts.entry(*uid).or_default() += 1,
            Fact::FailedForGood(uid) => {
                *self.attempts.entry(*uid).or_default() += 1;
                self.failed.insert(*uid);
            }
            Fact::Resumed(steps) => {
                self.failed.retain(|uid| !steps.contains(uid));
                self.attempts.retain(|uid, _| !steps.contains(uid));
            }
            Fact::Snapshot => self.kept.extend(&self.ran),
            Fact::Nothing => {}
        }
    }

    /// The process ends.
    pub(super) fn forget(&mut self) {
        self.ran.clear();
    }

    pub(super) fn attempts(&self, uid: Uid) -> u32 {
        self.attempts.get(&uid).copied().unwrap_or(0)
    }

    /// Whether a step gave something that no crash can take away.
    pub(super) fn is_finished(&self, uid: Uid) -> bool {
        self.results.contains(&uid) || self.failed.contains(&uid)
    }

    /// Whether a node's result is durable, or at least in memory where the user wanted no more.
    pub(super) fn has(&self, interpreter: &Interpreter<'_>, uid: Uid) -> bool {
        let place = interpreter.index.place(uid);
        let of = |place_of: usize| place.program.nodes[place_of].uid;
        match &place.node.kind {
            Kind::Value => place
                .node
                .needs()
                .all(|after| self.has(interpreter, of(after))),
            Kind::Catch(inner) => {
                let possible = interpreter.caught_by(uid);
                place
                    .node
                    .needs()
                    .all(|after| self.has(interpreter, of(after)))
                    && if possible.is_empty() {
                        self.has(interpreter, of(*inner))
                    } else {
                        possible.iter().any(|step| self.failed.contains(step))
                    }
            }
            Kind::Step(step) => match &step.then {
                Then::Value => [&self.results, &self.ran, &self.kept]
                    .iter()
                    .any(|steps| steps.contains(&uid)),
                Then::Program(inner) => {
                    self.results.contains(&uid) && self.has(interpreter, inner.root().uid)
                        || inner.finished().is_some() && self.ran.contains(&uid)
                        || inner.finished().is_some() && self.kept.contains(&uid)
                }
            },
        }
    }
}
