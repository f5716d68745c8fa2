//! A step is done: its result goes to its consumers, and what it alone needed is let go.

use super::segment::{Ending, State};
use super::{Released, Run, StepId};
use crate::plan::NodeKind;
use crate::value::Value;

impl Run {
    /// A step's body gave a value, which is stored or not.
    pub(super) fn succeed(&mut self, step: StepId, value: Value, is_stored: bool) {
        let is_counted =
            |(_, segment, index): (_, &super::segment::Segment, _)| segment.is_counted(index);
        if self.locate(step).is_some_and(is_counted) && self.leave_body(step) {
            self.finish(step, value, is_stored);
        }
    }

    /// Takes a step out of whatever led to the execution of its body, and another node out of its wait; `false` if nothing
    /// waits for an outcome of it.
    pub(super) fn leave_body(&mut self, step: StepId) -> bool {
        let Some(node) = self.node_mut(step) else {
            return false;
        };
        if matches!(
            node.state,
            State::Done(_)
                | State::Ran(_)
                | State::Expanded(_)
                | State::Failed(_)
                | State::Gone(_)
                | State::Decided(_)
        ) {
            return false;
        }
        self.not_interrupted(step);
        let Some(node) = self.node_mut(step) else {
            return false;
        };
        // After a crash, an input that was not stored may be missing to a step that has run all the same.
        let state = std::mem::replace(&mut node.state, State::Waiting);
        if matches!(state, State::Running) {
            self.n_running -= 1;
        }
        self.end_wait(step, &state);
        true
    }

    /// Makes a node's result known, and everything that follows from it without any step running.
    pub(super) fn finish(&mut self, step: StepId, value: Value, is_stored: bool) {
        let mut first = Some((step, value, is_stored));
        // What follows from it, the next one last.
        let mut work = Vec::new();
        let mut released = Released::new();
        // Consumers that are no steps, and whether they wait for the world.
        let mut outer = Vec::new();
        // Steps that tell a listener of its event.
        let mut telling = Vec::new();
        while let Some((id, value, is_stored)) = first.take().or_else(|| work.pop()) {
            let Some((base, segment, index)) = self.locate(id) else {
                continue;
            };
            if matches!(
                segment.nodes[index as usize].state,
                State::Gone(_) | State::Done(_) | State::Ran(_)
            ) {
                continue;
            }
            let node = segment.plan.node(index);
            let is_root = index == segment.plan.root();
            let parent = segment.parent;
            // A step that expanded let its inputs go then.
            if is_stored && !matches!(segment.nodes[index as usize].state, State::Expanded(_)) {
                let id_of = |input: u32| StepId(base + u64::from(input));
                let state = &segment.nodes[index as usize].state;
                segment.for_each_held(index, state, &mut |input| released.push(id_of(input)));
            }
            if node.extra.is_some() || is_root || self.history.is_some() {
                self.note_result(id, &value);
            }
            self.end_wait(id, &State::Waiting);
            let Some(segment) = self.segments.get_mut(&base) else {
                continue;
            };
            self.counts.done += u64::from(segment.is_counted(index));
            self.live_bytes += value.len() as u64;
            segment.nodes[index as usize].state = if is_stored {
                State::Done(value.clone())
            } else {
                State::Ran(value.clone())
            };

            // Consumers are met last first, so that the first of them ends up on top of the stack of ready steps.
            for i in (0..segment.consumers(index).len()).rev() {
                let consumer = segment.consumers(index)[i];
                let node = &mut segment.nodes[consumer as usize];
                node.n_pending = node.n_pending.saturating_sub(1);
                let kind = &segment.plan.node(consumer).kind;
                if node.n_pending > 0 && !matches!(kind, NodeKind::First(..)) {
                    continue;
                }
                let consumer_id = StepId(base + u64::from(consumer));
                match (&node.state, kind) {
                    (State::Waiting, NodeKind::Step { .. }) => {
                        node.state = State::Ready;
                        self.ready.push(consumer_id);
                        if segment.tells(consumer) {
                            telling.push(consumer_id);
                        }
                    }
                    (State::Decided(place), NodeKind::First(_, branches))
                        if branches.get(*place as usize) != Some(&index) => {}
                    (State::Decided(_), _) => outer.push((consumer_id, false)),
                    (State::Waiting, kind) => outer.push((consumer_id, kind.is_counted())),
                    (State::Caught(error), _) => work.push((consumer_id, error.clone(), true)),
                    _ => {}
                }
            }
            let is_unused = segment.nodes[index as usize].n_uses == 0;
            for (id, is_wait) in outer.drain(..) {
                if is_wait {
                    self.begin_wait(id);
                } else if let Some(value) = self.combined(id) {
                    work.push((id, value, true));
                } else {
                    self.decide_late(id);
                }
            }
            telling.drain(..).for_each(|id| self.decide(id));
            if is_root {
                match parent {
                    Some(parent) => work.push((parent, value, true)),
                    None => self.output = Some(value),
                }
                released.push(id);
            } else if is_unused {
                self.drop_node(id, &mut released);
            }
            self.release(&mut released);
        }
    }

    /// Starts a node whose inputs are all there.
    pub(super) fn activate(&mut self, step: StepId) {
        let Some((base, segment, index)) = self.locate(step) else {
            return;
        };
        let node = &segment.nodes[index as usize];
        if !matches!(node.state, State::Waiting | State::Backoff(_)) {
            return;
        }
        let is_ready = node.n_pending == 0;
        let is_step = segment.is_step(index);
        if !is_step {
            if let Some(value) = self.combined(step) {
                return self.finish(step, value, true);
            }
            if is_ready {
                self.begin_wait(step);
            }
            return;
        }
        if let Some(segment) = self.segments.get_mut(&base) {
            segment.nodes[index as usize].state = if is_ready {
                State::Ready
            } else {
                State::Waiting
            };
        }
        if is_ready {
            self.ready.push(step);
        }
    }

    /// Takes back one use of each of these nodes; those that nothing uses any more are dropped, and what they used in turn.
    pub(super) fn release(&mut self, released: &mut Released) {
        while let Some(id) = released.pop() {
            let Some(node) = self.node_mut(id) else {
                continue;
            };
            node.n_uses = node.n_uses.saturating_sub(1);
            if node.n_uses == 0 {
                self.drop_node(id, released);
            }
        }
    }

    /// Forgets a node that nothing needs: its value, or that it was to be run.
    fn drop_node(&mut self, id: StepId, released: &mut Released) {
        let Some((base, segment, index)) = self.locate_mut(id) else {
            return;
        };
        let is_counted = segment.is_counted(index);
        let node = &mut segment.nodes[index as usize];
        let state = std::mem::replace(&mut node.state, State::Gone(Ending::Skipped));
        if let State::Gone(before) = state {
            node.state = State::Gone(before);
            return;
        }
        segment.n_live -= 1;
        let is_dead = segment.n_live == 0;
        let mut ending = Ending::Skipped;
        match state {
            State::Done(value) => {
                node.state = State::Gone(Ending::Done);
                self.live_bytes = self.live_bytes.saturating_sub(value.len() as u64);
                ending = Ending::Done;
            }
            State::Ran(value) => {
                node.state = State::Gone(Ending::Done);
                self.live_bytes = self.live_bytes.saturating_sub(value.len() as u64);
                self.inputs_of(base, index, &mut |input| released.push(input));
                ending = Ending::Done;
            }
            State::Expanded(child) => {
                self.drop_segment(child);
                self.end_wait(id, &State::Waiting);
            }
            state => {
                if matches!(state, State::Failed(_)) {
                    node.state = State::Gone(Ending::Failed);
                    ending = Ending::Failed;
                }
                self.call_off(id, &state);
                self.held_by(base, index, &state, &mut |input| released.push(input));
            }
        }
        if ending == Ending::Skipped && is_counted {
            self.counts.done += 1;
        }
        if is_dead {
            self.remove_if_dead(base);
        }
    }

    /// Stops what leads, or would lead, to an execution of a step that was in this state and is no longer needed.
    pub(super) fn call_off(&mut self, step: StepId, state: &State) {
        match state {
            State::Running => {
                self.not_interrupted(step);
                self.stops.push(step);
                self.n_running -= 1;
            }
            State::Ready => self.not_interrupted(step),
            state if state.has_child() => self.abandon_child(step),
            _ => {}
        }
        self.end_wait(step, state);
    }

    /// Keeps the result of a node that the user named, and of one that somebody asks the past for.
    fn note_result(&mut self, id: StepId, value: &Value) {
        let Some((_, segment, index)) = self.locate(id) else {
            return;
        };
        let mut names: Vec<_> = segment.plan.name_of(index).cloned().into_iter().collect();
        if index == segment.plan.root() {
            names.extend_from_slice(&segment.aliases);
        }
        let is_watched = match (&self.history, segment.plan.step_of(index)) {
            (Some(history), Some(step)) => history.is_watched(&step.name),
            _ => false,
        };
        self.named
            .extend(names.into_iter().map(|name| (name, value.clone())));
        if let Some(history) = self.history.as_mut().filter(|_| is_watched) {
            history.watched_result = Some(value.clone());
        }
    }
}
