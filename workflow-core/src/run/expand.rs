//! A step gave a workflow: its plan is spliced in, in the step's place.

use std::sync::Arc;

use super::segment::{Ending, State};
use super::{Released, Run, StepId};
use crate::plan::Plan;

/// A loop whose rounds all have different names remembers so many of them: memory stays bounded.
const MAX_ALIASES: usize = 256;

impl Run {
    pub(super) fn expand(&mut self, step: StepId, plan: Arc<Plan>) {
        let is_step =
            |(_, segment, index): (_, &super::segment::Segment, _)| segment.is_step(index);
        if !self.locate(step).is_some_and(is_step) || !self.leave_body(step) {
            return;
        }
        let Some((base, segment, index)) = self.locate(step) else {
            return;
        };
        let child = self.next;
        let mut released = Released::new();
        self.inputs_of(base, index, &mut |input| released.push(input));
        let parent = segment.parent.filter(|_| index == segment.plan.root());
        match parent {
            None => {
                if let Some(node) = self.node_mut(step) {
                    node.state = State::Expanded(child);
                }
                self.release(&mut released);
                self.load(plan, Some(step), Some(step), Vec::new(), 0);
            }
            Some(parent) => {
                // A tail call: the step's result was its parent's, and now the new plan's is.
                let tail_calls = segment.tail_calls.saturating_add(1);
                let mut aliases = segment.aliases.clone();
                if let Some(name) = segment.plan.name_of(index)
                    && !aliases.contains(name)
                {
                    if aliases.len() == MAX_ALIASES {
                        aliases.remove(0);
                    }
                    aliases.push(Arc::clone(name));
                }
                if let Some(node) = self.node_mut(parent) {
                    node.state = State::Expanded(child);
                }
                if let Some(segment) = self.segments.get_mut(&base) {
                    segment.nodes[index as usize].state = State::Gone(Ending::Done);
                    segment.n_live -= 1;
                }
                self.counts.done += 1;
                self.release(&mut released);
                self.remove_if_dead(base);
                self.load(plan, Some(parent), Some(step), aliases, tail_calls);
            }
        }
    }
}
