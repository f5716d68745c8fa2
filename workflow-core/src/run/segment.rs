//! The parts a run is made of: a plan that came in, and the state of each of its nodes.

use std::sync::Arc;

use keepstep_storage::Timestamp;

use super::{Run, StepId};
use crate::error::{StepError, StepErrorKind};
use crate::plan::{First, NodeKind, Plan, PlanNode};
use crate::value::Value;

/// One plan in execution.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) plan: Arc<Plan>,
    consumers: Consumers,
    /// The step that the root's result is the result of; `None` for the run's own plan.
    pub(super) parent: Option<StepId>,
    /// The step that returned the plan. Another than the parent after a tail call.
    pub(super) origin: Option<StepId>,
    /// How many steps the parent was replaced by, one after the other, before this segment.
    pub(super) tail_calls: u64,
    /// User-given names of those steps: the result is theirs too.
    pub(super) aliases: Vec<Arc<str>>,
    pub(super) nodes: Box<[Node]>,
    /// Nodes that are not `Gone`.
    pub(super) n_live: u32,
    /// About how many bytes the plan has.
    pub(super) plan_bytes: u64,
    pub(super) has_listeners: bool,
}

/// The state of one node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) state: State,
    /// Edges from inputs that are not done.
    pub(super) n_pending: u32,
    /// Edges to consumers that may still need the result; for a root, one more for the parent.
    pub(super) n_uses: u32,
    /// Executions that failed.
    pub(super) attempts: u32,
}

#[derive(Debug)]
pub(super) enum State {
    /// For inputs.
    Waiting,
    Ready,
    Running,
    /// For the next attempt.
    Backoff(Timestamp),
    /// For its clock to start.
    Reached,
    /// For a time.
    Sleeping(Timestamp),
    /// For a message.
    Listening,
    /// For another run, which is known to have been there, or not.
    Away {
        has_begun: bool,
    },
    /// The result is here and is not stored. The inputs are kept: after a crash the step may have to run again.
    Ran(Value),
    Done(Value),
    /// Another segment, named by the number of its first step, works out the result.
    Expanded(u64),
    /// For good, and the run with it.
    Failed(Box<StepError>),
    /// A catch that has its error and waits for the steps it comes `after`.
    Caught(Value),
    /// For the branch in this place, whose event is stored: nothing else can end it. The other branches are let go.
    Decided(u32),
    /// Nothing needs the node any more.
    Gone(Ending),
}

impl State {
    /// Whether a child run of a node in this state may be going on.
    pub(super) fn has_child(&self) -> bool {
        match self {
            Self::Away { .. } => true,
            // The child has not ended: its parent did not wait any longer.
            Self::Failed(error) => error.kind == StepErrorKind::Timeout,
            _ => false,
        }
    }
}

/// How a node that is gone ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    Failed,
    /// It was not needed.
    Skipped,
}

/// The edges of a plan turned round: which nodes use a node's result.
#[derive(Debug)]
struct Consumers {
    /// The consumers of node `i` are `list[starts[i]..starts[i + 1]]`.
    starts: Box<[u32]>,
    list: Box<[u32]>,
}

impl Consumers {
    /// `starts` begins as how often each node is used, one place further on.
    fn of(plan: &Plan, mut starts: Vec<u32>) -> Self {
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut list = vec![0u32; starts.last().copied().unwrap_or(0) as usize];
        let mut next = starts.clone();
        for (consumer, node) in (0u32..).zip(&plan.nodes) {
            node.for_each_input(&mut |input| {
                let place = &mut next[input as usize];
                list[*place as usize] = consumer;
                *place += 1;
            });
        }
        Self {
            starts: starts.into(),
            list: list.into(),
        }
    }
}

impl Segment {
    pub(super) fn consumers(&self, index: u32) -> &[u32] {
        let range =
            self.consumers.starts[index as usize]..self.consumers.starts[index as usize + 1];
        &self.consumers.list[range.start as usize..range.end as usize]
    }

    pub(super) fn is_step(&self, index: u32) -> bool {
        matches!(self.plan.node(index).kind, NodeKind::Step { .. })
    }

    /// Whether something must happen for a node to be done, beyond its inputs.
    pub(super) fn is_counted(&self, index: u32) -> bool {
        self.plan.node(index).kind.is_counted()
    }

    /// A segment of which nothing has happened yet.
    pub(super) fn new(plan: Arc<Plan>, parent: Option<StepId>, origin: Option<StepId>) -> Self {
        let mut n_uses = vec![0u32; plan.nodes.len() + 1];
        let nodes = plan.nodes.iter().map(|node| {
            let mut n_pending = 0;
            node.for_each_input(&mut |input| {
                n_pending += 1;
                n_uses[input as usize + 1] += 1;
            });
            Node {
                state: State::Waiting,
                n_pending,
                n_uses: 0,
                attempts: 0,
            }
        });
        let mut nodes: Box<[Node]> = nodes.collect();
        for (node, n_uses) in nodes.iter_mut().zip(&n_uses[1..]) {
            node.n_uses = *n_uses;
        }
        nodes[plan.root() as usize].n_uses += 1;
        let consumers = Consumers::of(&plan, n_uses);
        let mut plan_bytes = 16 * plan.nodes.len() as u64;
        plan.for_each_value(&mut |value| plan_bytes += value.len() as u64);
        plan.steps
            .iter()
            .for_each(|step| plan_bytes += (step.name.len() + 5 * step.fingerprints.len()) as u64);
        let n_live = nodes.len() as u32;
        let is_listener = |node: &PlanNode| matches!(node.kind, NodeKind::First(First::Alone, _));
        let has_listeners = plan.nodes.iter().any(is_listener);
        Self {
            plan,
            consumers,
            parent,
            origin,
            tail_calls: 0,
            aliases: Vec::new(),
            nodes,
            n_live,
            plan_bytes,
            has_listeners,
        }
    }
}

impl Run {
    /// Takes a plan in, and starts what needs nothing.
    pub(super) fn load(
        &mut self,
        plan: Arc<Plan>,
        parent: Option<StepId>,
        origin: Option<StepId>,
        aliases: Vec<Arc<str>>,
        tail_calls: u64,
    ) {
        let base = self.next;
        self.next += plan.nodes.len() as u64;
        let mut segment = Segment::new(plan, parent, origin);
        segment.aliases = aliases;
        segment.tail_calls = tail_calls;
        self.counts.total += (0..segment.nodes.len() as u32)
            .filter(|index| segment.is_counted(*index))
            .count() as u64;
        self.live_bytes += segment.plan_bytes;
        // The first node ends up on top of the stack of ready steps.
        let mut next = segment.nodes.len() as u32;
        while let Some(index) = next.checked_sub(1) {
            let node = &mut segment.nodes[index as usize];
            if node.n_pending == 0 {
                if !matches!(segment.plan.node(index).kind, NodeKind::Step { .. }) {
                    break;
                }
                node.state = State::Ready;
                self.ready.push(StepId(base + u64::from(index)));
            }
            next = index;
        }
        // From the first on that is no step and may finish others: one by one. Of what is finished as it is built, the first
        // counts in a race.
        let free = (0..next).filter(|index| segment.nodes[*index as usize].n_pending == 0);
        let (waiting, finished): (Vec<u32>, Vec<u32>) =
            free.partition(|index| segment.is_counted(*index));
        self.segments.insert(base, Box::new(segment));
        self.note_limits(base);
        let free = finished.into_iter().chain(waiting.into_iter().rev());
        free.for_each(|index| self.activate(StepId(base + u64::from(index))));
    }

    /// Shows the inputs of a node to `visit`, as often as it has edges from them.
    pub(super) fn inputs_of(&self, base: u64, index: u32, visit: &mut impl FnMut(StepId)) {
        if let Some(segment) = self.segments.get(&base) {
            segment
                .plan
                .node(index)
                .for_each_input(&mut |input| visit(StepId(base + u64::from(input))));
        }
    }

    /// Shows the inputs that a node in this state still holds to `visit`, as often as it has edges from them.
    pub(super) fn held_by(
        &self,
        base: u64,
        index: u32,
        state: &State,
        visit: &mut impl FnMut(StepId),
    ) {
        if let Some(segment) = self.segments.get(&base) {
            let visit = &mut |input| visit(StepId(base + u64::from(input)));
            segment.for_each_held(index, state, visit);
        }
    }

    /// Forgets a segment of which nothing is needed, unless somebody wants to look at it later.
    pub(super) fn remove_if_dead(&mut self, base: u64) {
        if self.history.is_none()
            && self
                .segments
                .get(&base)
                .is_some_and(|segment| segment.n_live == 0)
            && let Some(segment) = self.segments.remove(&base)
        {
            self.live_bytes = self.live_bytes.saturating_sub(segment.plan_bytes);
        }
    }

    /// Drops a segment whose result is not needed, with everything it expanded into.
    pub(super) fn drop_segment(&mut self, base: u64) {
        let mut bases = vec![base];
        while let Some(base) = bases.pop() {
            let Some(segment) = self.segments.get_mut(&base) else {
                continue;
            };
            let mut dropped = Vec::new();
            for (index, node) in (0u32..).zip(&mut segment.nodes) {
                if matches!(node.state, State::Gone(_)) {
                    continue;
                }
                let ending = match node.state {
                    State::Done(_) | State::Ran(_) => Ending::Done,
                    State::Failed(_) => Ending::Failed,
                    _ => Ending::Skipped,
                };
                let state = std::mem::replace(&mut node.state, State::Gone(ending));
                dropped.push((index, state));
            }
            segment.n_live = 0;
            for (index, state) in dropped {
                let is_counted = self
                    .segments
                    .get(&base)
                    .is_some_and(|segment| segment.is_counted(index));
                match &state {
                    State::Done(value) | State::Ran(value) => {
                        self.live_bytes = self.live_bytes.saturating_sub(value.len() as u64);
                    }
                    state => {
                        if let State::Expanded(child) = state {
                            bases.push(*child);
                        }
                        self.call_off(StepId(base + u64::from(index)), state);
                        if !matches!(state, State::Failed(_)) {
                            self.counts.done += u64::from(is_counted);
                        }
                    }
                }
            }
            self.remove_if_dead(base);
        }
    }
}
