//! The event of a listener is stored: whatever it makes the end of is decided then, before the listener's source is told.
//!
//! Telling may take long, or have to be tried again. Meanwhile nothing else may win the race that the event has won, and no time
//! limit may pass: the source would forget an event that the run goes on without.

use super::segment::{Segment, State};
use super::{Released, Run, StepId};
use crate::plan::{First, NodeKind, PlanNode};

impl Segment {
    /// Whether a step tells a listener that its event is stored.
    pub(super) fn tells(&self, index: u32) -> bool {
        let mut consumers = self.consumers(index).iter();
        self.has_listeners
            && consumers.any(|consumer| {
                matches!(
                    self.plan.node(*consumer).kind,
                    NodeKind::First(First::Alone, _)
                )
            })
    }

    /// Shows the inputs that a node in this state still holds to `visit`.
    pub(super) fn for_each_held(&self, index: u32, state: &State, visit: &mut impl FnMut(u32)) {
        let node = self.plan.node(index);
        match (state, &node.kind) {
            (State::Decided(place), NodeKind::First(_, branches)) => {
                branches
                    .get(*place as usize)
                    .into_iter()
                    .for_each(|branch| visit(*branch));
                after(node).for_each(visit);
            }
            _ => node.for_each_input(visit),
        }
    }

    /// The place of the branch that decides a node, if this input does.
    fn decided_by(&self, index: u32, input: u32) -> Option<u32> {
        let node = self.plan.node(index);
        let is_done = |input: u32| {
            let state = &self.nodes[input as usize].state;
            matches!(state, State::Done(_) | State::Ran(_))
        };
        if !matches!(self.nodes[index as usize].state, State::Waiting) || !after(node).all(is_done)
        {
            return None;
        }
        match &node.kind {
            NodeKind::First(_, branches) => {
                let place = branches.iter().position(|branch| *branch == input)?;
                u32::try_from(place).ok()
            }
            NodeKind::Catch(inner) if *inner == input => Some(0),
            _ => None,
        }
    }
}

fn after(node: &PlanNode) -> impl Iterator<Item = u32> {
    node.extra
        .iter()
        .flat_map(|extra| extra.after.iter().copied())
}

impl Run {
    /// What a node is the end of can only end with it from now on: time limits are taken back, and other branches are let go.
    pub(super) fn decide(&mut self, by: StepId) {
        let mut decided = vec![by];
        let mut released = Released::new();
        while let Some(id) = decided.pop() {
            let Some((base, segment, index)) = self.locate(id) else {
                continue;
            };
            let id_of = |index: u32| StepId(base + u64::from(index));
            if index == segment.plan.root() {
                decided.extend(segment.parent);
            }
            let mut consumers = Vec::new();
            for &consumer in segment.consumers(index) {
                let Some(place) = segment.decided_by(consumer, index) else {
                    continue;
                };
                if let NodeKind::First(_, branches) = &segment.plan.node(consumer).kind {
                    let others = (0u32..).zip(branches).filter(|(other, _)| *other != place);
                    released.extend(others.map(|(_, branch)| id_of(*branch)));
                }
                consumers.push((consumer, place));
            }
            for (consumer, place) in consumers {
                let consumer_id = id_of(consumer);
                let Some(node) = self.node_mut(consumer_id) else {
                    continue;
                };
                if !matches!(node.state, State::Waiting) {
                    continue;
                }
                node.state = State::Decided(place);
                self.end_wait(consumer_id, &State::Waiting);
                decided.push(consumer_id);
            }
        }
        self.release(&mut released);
    }

    /// What a node comes after is done: one of its inputs may have decided it before.
    pub(super) fn decide_late(&mut self, id: StepId) {
        let Some((base, segment, index)) = self.locate(id) else {
            return;
        };
        if !segment.has_listeners {
            return;
        }
        let mut deciding = None;
        segment.plan.node(index).for_each_input(&mut |input| {
            if matches!(segment.nodes[input as usize].state, State::Decided(_)) {
                deciding.get_or_insert(StepId(base + u64::from(input)));
            }
        });
        if let Some(deciding) = deciding {
            self.decide(deciding);
        }
    }
}
