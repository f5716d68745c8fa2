//! The whole state of a run as one journal entry, so that the entries before it can go.
//!
//! Only what cannot be worked out again is stored: counts of pending inputs and of uses follow from the states.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepstep_storage::{StepCounts, Timestamp};
use serde::{Deserialize, Serialize};

use super::segment::{Ending, Segment, State};
use super::{Impossible, Run, StepId};
use crate::error::StepError;
use crate::plan::{NodeKind, Plan};
use crate::value::Value;

/// A run's state. Stored: see [`Event`](super::Event) for what may change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    next: u64,
    counts: StepCounts,
    output: Option<Value>,
    segments: Vec<StoredSegment>,
    /// When nodes fail that are not done by then.
    limits: Vec<(StepId, Timestamp)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredSegment {
    base: u64,
    plan: Arc<Plan>,
    parent: Option<StepId>,
    origin: Option<StepId>,
    tail_calls: u64,
    aliases: Vec<Arc<str>>,
    nodes: Vec<StoredNode>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredNode {
    attempts: u32,
    state: StoredState,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum StoredState {
    Waiting,
    Backoff(Timestamp),
    Done(Value),
    Expanded(u64),
    Failed(Box<StepError>),
    Caught(Value),
    GoneDone,
    GoneFailed,
    GoneSkipped,
    Sleeping(Timestamp),
    Away,
    Decided(u32),
}

impl Snapshot {
    pub(super) fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.segments.iter().map(|segment| &*segment.plan)
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn counts(&self) -> StepCounts {
        self.counts
    }

    /// Refuses what no run comes to: all else in the state machine relies on the parts fitting together. The plans
    /// themselves must be sound.
    fn check(&self) -> Result<(), Impossible> {
        if self.next == 0 || self.next > u64::MAX / 2 {
            return Err(Impossible("a snapshot has no step, or too many"));
        }
        let mut end = 0;
        // Which step each segment that is still to come stands in for.
        let mut children = BTreeMap::new();
        let mut n_unfinished = 0;
        for segment in &self.segments {
            if segment.nodes.len() != segment.plan.nodes.len() {
                return Err(Impossible(
                    "a snapshot has a plan of another size than its states",
                ));
            }
            let n_nodes = segment.nodes.len() as u64;
            if segment.base < end || segment.base > self.next.saturating_sub(n_nodes) {
                return Err(Impossible("the plans of a snapshot overlap"));
            }
            end = segment.base + n_nodes;
            if children.remove(&segment.base) != segment.parent
                || (segment.parent.is_none() && segment.base != 0)
            {
                return Err(Impossible(
                    "a snapshot has an expansion that is not its step's",
                ));
            }
            if segment.nodes.iter().all(|node| node.state.is_gone()) {
                return Err(Impossible(
                    "a snapshot has a plan that nothing needs any more",
                ));
            }
            for ((id, node), planned) in (segment.base..)
                .zip(&segment.nodes)
                .zip(&segment.plan.nodes)
            {
                let is_step = matches!(planned.kind, NodeKind::Step { .. });
                let is_counted = planned.kind.is_counted();
                let fits = match &node.state {
                    StoredState::Sleeping(_) => matches!(planned.kind, NodeKind::Sleep(_)),
                    StoredState::Away => matches!(planned.kind, NodeKind::Child(_)),
                    StoredState::Backoff(_) | StoredState::Expanded(_) => is_step,
                    StoredState::Decided(place) => match &planned.kind {
                        NodeKind::First(_, branches) => (*place as usize) < branches.len(),
                        kind => matches!(kind, NodeKind::Catch(_)),
                    },
                    StoredState::Caught(_) => matches!(planned.kind, NodeKind::Catch(_)),
                    // A run with a step that failed for good does not go on, and takes no snapshot.
                    StoredState::Failed(_) => false,
                    _ => true,
                };
                if !fits {
                    return Err(Impossible(
                        "a snapshot has a node in a state that it cannot be in",
                    ));
                }
                if let StoredState::Expanded(child) = node.state {
                    children.insert(child, StepId(id));
                }
                n_unfinished += u64::from(
                    is_counted
                        && matches!(
                            node.state,
                            StoredState::Waiting
                                | StoredState::Backoff(_)
                                | StoredState::Expanded(_)
                                | StoredState::Sleeping(_)
                                | StoredState::Away
                        ),
                );
            }
        }
        if !children.is_empty() {
            return Err(Impossible("a snapshot lacks an expansion"));
        }
        if self.output.is_none() && self.segments.is_empty() {
            return Err(Impossible("a snapshot has neither a plan nor an output"));
        }
        let StepCounts {
            total,
            done,
            failed,
        } = self.counts;
        let counted = [done, failed, n_unfinished]
            .into_iter()
            .try_fold(0u64, u64::checked_add);
        if counted != Some(total) || total > self.next {
            return Err(Impossible("a snapshot counts wrong"));
        }
        Ok(())
    }
}

impl StoredState {
    fn is_gone(&self) -> bool {
        matches!(self, Self::GoneDone | Self::GoneFailed | Self::GoneSkipped)
    }
}

impl Run {
    /// The state as it would be after a crash now: what is running is ready, what is not stored has not run.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut counts = self.counts;
        let segments = self.segments.iter().map(|(base, segment)| {
            let nodes = (0u32..)
                .zip(&segment.nodes)
                .map(|(index, node)| StoredNode {
                    attempts: node.attempts,
                    state: match &node.state {
                        State::Waiting
                        | State::Ready
                        | State::Running
                        | State::Reached
                        | State::Listening
                        | State::Away { has_begun: false } => StoredState::Waiting,
                        State::Sleeping(due_at) => StoredState::Sleeping(*due_at),
                        State::Away { has_begun: true } => StoredState::Away,
                        State::Ran(_) => {
                            counts.done -= u64::from(segment.is_counted(index));
                            StoredState::Waiting
                        }
                        State::Backoff(due_at) => StoredState::Backoff(*due_at),
                        State::Done(value) => StoredState::Done(value.clone()),
                        State::Expanded(child) => StoredState::Expanded(*child),
                        State::Failed(error) => StoredState::Failed(error.clone()),
                        State::Caught(value) => StoredState::Caught(value.clone()),
                        State::Decided(place) => StoredState::Decided(*place),
                        State::Gone(Ending::Done) => StoredState::GoneDone,
                        State::Gone(Ending::Failed) => StoredState::GoneFailed,
                        State::Gone(Ending::Skipped) => StoredState::GoneSkipped,
                    },
                });
            StoredSegment {
                base: *base,
                plan: Arc::clone(&segment.plan),
                parent: segment.parent,
                origin: segment.origin,
                tail_calls: segment.tail_calls,
                aliases: segment.aliases.clone(),
                nodes: nodes.collect(),
            }
        });
        let segments = segments.collect();
        Snapshot {
            next: self.next,
            counts,
            output: self.output.clone(),
            segments,
            limits: self.limits(),
        }
    }

    /// The run of a snapshot. Of the run it is folded into, only the wish for a history stays.
    pub(super) fn restore(&mut self, snapshot: Snapshot) -> Result<Self, Impossible> {
        snapshot.check()?;
        let mut run = Self {
            next: snapshot.next,
            counts: snapshot.counts,
            output: snapshot.output,
            history: self.history.take(),
            ..Self::default()
        };
        let mut segments = BTreeMap::new();
        let mut waiting = Vec::new();
        for stored in snapshot.segments {
            let mut segment = Segment::new(stored.plan, stored.parent, stored.origin);
            segment.tail_calls = stored.tail_calls;
            segment.aliases = stored.aliases;
            for (index, (stored_node, node)) in
                stored.nodes.into_iter().zip(&mut segment.nodes).enumerate()
            {
                let id = StepId(stored.base + index as u64);
                node.attempts = stored_node.attempts;
                node.state = match stored_node.state {
                    StoredState::Waiting => State::Waiting,
                    StoredState::Backoff(due_at) => State::Backoff(due_at),
                    StoredState::Sleeping(due_at) => State::Sleeping(due_at),
                    StoredState::Away => State::Away { has_begun: true },
                    StoredState::Done(value) => {
                        run.live_bytes += value.len() as u64;
                        State::Done(value)
                    }
                    StoredState::Expanded(child) => State::Expanded(child),
                    StoredState::Failed(error) => State::Failed(error),
                    StoredState::Caught(value) => State::Caught(value),
                    StoredState::Decided(place) => State::Decided(place),
                    StoredState::GoneDone => State::Gone(Ending::Done),
                    StoredState::GoneFailed => State::Gone(Ending::Failed),
                    StoredState::GoneSkipped => State::Gone(Ending::Skipped),
                };
                let kind = &segment.plan.node(index as u32).kind;
                run.restore_wait(id, kind, &node.state);
                if matches!(node.state, State::Gone(_)) {
                    segment.n_live -= 1;
                }
            }
            recount(&mut segment);
            run.live_bytes += segment.plan_bytes;
            for (index, node) in segment.nodes.iter().enumerate() {
                if matches!(node.state, State::Waiting) && node.n_pending == 0 {
                    waiting.push(StepId(stored.base + index as u64));
                }
            }
            segments.insert(stored.base, Box::new(segment));
        }
        run.segments = segments;
        run.restore_limits(snapshot.limits);
        let bases: Vec<u64> = run.segments.keys().copied().collect();
        bases.into_iter().for_each(|base| run.note_limits(base));
        waiting
            .into_iter()
            .rev()
            .for_each(|step| run.activate(step));
        Ok(run)
    }
}

/// Works out the counts of a segment's nodes from their states.
fn recount(segment: &mut Segment) {
    let plan = Arc::clone(&segment.plan);
    let settled: Vec<bool> = segment
        .nodes
        .iter()
        .map(|node| matches!(node.state, State::Done(_) | State::Gone(_)))
        .collect();
    let mut n_uses = vec![0u32; segment.nodes.len()];
    for (index, node) in plan.nodes.iter().enumerate() {
        let mut n_pending = 0;
        node.for_each_input(&mut |input| {
            n_pending += u32::from(!settled[input as usize]);
        });
        segment.nodes[index].n_pending = n_pending;
        // A node holds its inputs until it is done, has expanded, or is not needed.
        let state = &segment.nodes[index].state;
        if !matches!(state, State::Done(_) | State::Gone(_) | State::Expanded(_)) {
            let visit = &mut |input: u32| n_uses[input as usize] += 1;
            segment.for_each_held(index as u32, state, visit);
        }
    }
    for (node, n_uses) in segment.nodes.iter_mut().zip(n_uses) {
        node.n_uses = n_uses;
    }
    segment.nodes[plan.root() as usize].n_uses += 1;
    debug_assert!(plan.nodes.iter().all(
        |node| !matches!(node.kind, NodeKind::Catch(inner) if inner as usize >= settled.len())
    ));
}
