//! Looking at a run: its graph with each step's state, and the past results of its steps.

use super::segment::{Ending, Node, State};
use super::{Run, StepId};
use crate::error::StepError;
use crate::plan::Plan;
use crate::value::Value;

/// What is kept for questions about the past. A run with a history forgets no segment.
#[derive(Debug, Default)]
pub(crate) struct History {
    watched_step: Option<String>,
    pub(super) watched_result: Option<Value>,
}

impl History {
    /// Whether results of this step are asked for: by its whole name, or the last part of its path.
    pub(super) fn is_watched(&self, name: &str) -> bool {
        self.watched_step.as_deref().is_some_and(|watched| {
            name.strip_suffix(watched)
                .is_some_and(|path| path.is_empty() || path.ends_with("::"))
        })
    }
}

/// A node, for people.
#[derive(Debug)]
pub(crate) struct NodeView<'a> {
    pub(crate) id: StepId,
    pub(crate) label: &'a str,
    pub(crate) is_step: bool,
    pub(crate) state: ViewState<'a>,
    pub(crate) inputs: Vec<StepId>,
    /// The step whose expansion it belongs to.
    pub(crate) origin: Option<StepId>,
    pub(crate) metadata: Option<&'a str>,
    pub(crate) attempts: u32,
}

/// A node's state, for people.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ViewState<'a> {
    Waiting,
    Running,
    Retrying,
    Expanded,
    Done,
    Failed(Option<&'a StepError>),
    Skipped,
}

/// How far a node is, for who wants to know what is left to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Standing<'a> {
    /// Its result is here.
    Done(&'a Value),
    /// It is still to be run, if it is a step, or to be tried again.
    Pending,
    /// Its result will come from elsewhere: an expansion, or a run of its own.
    Away,
    /// Nothing needs it any more.
    Gone,
}

impl<'a> Standing<'a> {
    fn of(node: &'a Node) -> Self {
        match &node.state {
            State::Done(value) | State::Ran(value) | State::Caught(value) => Self::Done(value),
            State::Expanded(_) | State::Away { has_begun: true } => Self::Away,
            State::Gone(_) => Self::Gone,
            State::Waiting
            | State::Ready
            | State::Running
            | State::Backoff(_)
            | State::Decided(_)
            | State::Reached
            | State::Sleeping(_)
            | State::Listening
            | State::Away { has_begun: false }
            | State::Failed(_) => Self::Pending,
        }
    }
}

impl Run {
    /// The plans of which something is left to do, and how far each of their nodes is.
    pub(crate) fn unfinished(&self) -> impl Iterator<Item = (&Plan, Vec<Standing<'_>>)> {
        self.segments.values().map(|segment| {
            (
                &*segment.plan,
                segment.nodes.iter().map(Standing::of).collect(),
            )
        })
    }

    /// A run that keeps everything it folds, and the last result of one step.
    pub(crate) fn with_history(watched_step: Option<String>) -> Self {
        Self {
            history: Some(History {
                watched_step,
                watched_result: None,
            }),
            ..Self::default()
        }
    }

    /// The last result of the step that was watched.
    pub(crate) fn watched_result(&self) -> Option<&Value> {
        self.history.as_ref()?.watched_result.as_ref()
    }

    /// The nodes that count as steps.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> Vec<StepId> {
        let counted = self.segments.iter().flat_map(|(base, segment)| {
            let indices = 0..segment.nodes.len() as u32;
            let counted = indices.filter(|index| segment.is_counted(*index));
            counted.map(move |index| StepId(base + u64::from(index)))
        });
        counted.collect()
    }

    /// Every node that is known, in order of their numbers.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.segments.iter().flat_map(|(base, segment)| {
            (0u32..).zip(&segment.nodes).map(move |(index, node)| {
                let mut inputs = Vec::new();
                segment
                    .plan
                    .node(index)
                    .for_each_input(&mut |input| inputs.push(StepId(base + u64::from(input))));
                inputs.sort_unstable();
                inputs.dedup();
                NodeView {
                    id: StepId(base + u64::from(index)),
                    label: segment.plan.label(index),
                    is_step: segment.is_step(index),
                    state: match &node.state {
                        State::Waiting
                        | State::Ready
                        | State::Caught(_)
                        | State::Decided(_)
                        | State::Reached
                        | State::Sleeping(_)
                        | State::Listening
                        | State::Away { .. } => ViewState::Waiting,
                        State::Running => ViewState::Running,
                        State::Backoff(_) => ViewState::Retrying,
                        State::Ran(_) | State::Done(_) | State::Gone(Ending::Done) => {
                            ViewState::Done
                        }
                        State::Expanded(_) => ViewState::Expanded,
                        State::Failed(error) => ViewState::Failed(Some(error)),
                        State::Gone(Ending::Failed) => ViewState::Failed(None),
                        State::Gone(Ending::Skipped) => ViewState::Skipped,
                    },
                    inputs,
                    origin: segment.origin,
                    metadata: segment
                        .plan
                        .node(index)
                        .extra
                        .as_ref()
                        .and_then(|extra| extra.metadata.as_deref()),
                    attempts: node.attempts,
                }
            })
        })
    }
}
