//! A step failed: it waits for its next attempt, becomes a value at the nearest catch, or fails the run.

use rustc_hash::FxHashSet;

use keepstep_storage::Timestamp;

use super::segment::{Ending, State};
use super::{Failure, Phase, Released, Run, StepId};
use crate::error::{StepError, StepErrorKind};
use crate::plan::NodeKind;
use crate::value::{Codec, Value};

/// A path of failures longer than this is shortened in its middle.
const MAX_PATH: usize = 32;

impl Run {
    pub(super) fn attempt_failed(
        &mut self,
        step: StepId,
        failure: Failure,
        retry_at: Option<Timestamp>,
    ) {
        let Some((_, segment, index)) = self.locate(step) else {
            return;
        };
        let (is_step, node) = (segment.is_step(index), segment.plan.node(index));
        let can_fail = node.kind.is_counted() || node.time_limit().is_some();
        let retry_at = retry_at.filter(|_| is_step);
        // A child that took too long goes on meanwhile.
        let child = match (&segment.nodes[index as usize].state, &node.kind) {
            (State::Away { .. }, NodeKind::Child(child)) => Some(child.id.clone()),
            _ => None,
        };
        if !can_fail || !self.leave_body(step) {
            return;
        }
        let Some(node) = self.node_mut(step) else {
            return;
        };
        node.attempts = node.attempts.saturating_add(1);
        let attempts = node.attempts;
        match retry_at {
            Some(due_at) => {
                node.state = State::Backoff(due_at);
                self.timers.insert((due_at, step));
            }
            None => {
                node.state = State::Waiting;
                let path = self.path_to(step);
                let step_name = self.label(step);
                let Failure {
                    kind,
                    message,
                    causes,
                } = failure;
                let is_late = kind == StepErrorKind::Timeout;
                let is_caught = self.fail(
                    step,
                    StepError {
                        step: step_name,
                        kind,
                        message,
                        causes,
                        attempts,
                        path,
                    },
                );
                if let Some(child) = child.filter(|_| is_late && is_caught) {
                    self.waits.orphans.push(child);
                }
            }
        }
    }

    /// Follows a final failure to where it is caught, or to the end of the run; whether it is caught.
    fn fail(&mut self, step: StepId, error: StepError) -> bool {
        let Some(reach) = self.reach_of_failure(step) else {
            let is_counted = self
                .locate(step)
                .is_some_and(|(_, segment, index)| segment.is_counted(index));
            if let Some(node) = self.node_mut(step) {
                node.state = State::Failed(Box::new(error.clone()));
            }
            self.counts.failed += u64::from(is_counted);
            // The first failure is the one reported; a cancel or a suspension under way goes first.
            if self.phase == Phase::Active {
                self.phase = Phase::Failing(Box::new(error));
                self.stop_all();
            }
            return false;
        };

        let mut released = Released::new();
        for &id in &reach.failed {
            let Some((base, segment, index)) = self.locate(id) else {
                continue;
            };
            let is_counted = segment.is_counted(index);
            let Some(node) = self.node_mut(id) else {
                continue;
            };
            if matches!(node.state, State::Gone(_)) {
                continue;
            }
            let state = std::mem::replace(&mut node.state, State::Gone(Ending::Failed));
            if id == step {
                self.counts.failed += u64::from(is_counted);
            } else {
                self.counts.done += u64::from(is_counted);
            }
            match state {
                // Its inputs were let go when it expanded.
                State::Expanded(child) => self.drop_segment(child),
                state => {
                    self.call_off(id, &state);
                    self.held_by(base, index, &state, &mut |input| released.push(input));
                }
            }
            if let Some(segment) = self.segments.get_mut(&base) {
                segment.n_live -= 1;
            }
            self.remove_if_dead(base);
        }
        self.release(&mut released);

        let value = caught_value(&error);
        for catch in reach.caught {
            let Some(node) = self.node_mut(catch) else {
                continue;
            };
            if !matches!(node.state, State::Waiting | State::Decided(_)) {
                continue;
            }
            node.n_pending = node.n_pending.saturating_sub(1);
            if node.n_pending == 0 {
                self.finish(catch, value.clone(), true);
            } else {
                node.state = State::Caught(value.clone());
            }
        }
        true
    }

    /// Which nodes fail with a step, and which catches stop the failure; `None` if it reaches the run's root.
    fn reach_of_failure(&self, step: StepId) -> Option<Reach> {
        let mut reach = Reach {
            failed: vec![step],
            caught: Vec::new(),
        };
        let mut seen = FxHashSet::from_iter([step]);
        let mut next = 0;
        while let Some(&id) = reach.failed.get(next) {
            next += 1;
            let Some((base, segment, index)) = self.locate(id) else {
                continue;
            };
            for &consumer in segment.consumers(index) {
                let id = StepId(base + u64::from(consumer));
                let node = segment.plan.node(consumer);
                // A step that runs again, since its value was not stored, may fail what still waits for the value, not
                // what has used it.
                if matches!(
                    segment.nodes[consumer as usize].state,
                    State::Done(_) | State::Ran(_) | State::Expanded(_) | State::Gone(_)
                ) {
                    continue;
                }
                // Another branch has decided it.
                if let (State::Decided(place), NodeKind::First(_, branches)) =
                    (&segment.nodes[consumer as usize].state, &node.kind)
                    && branches.get(*place as usize) != Some(&index)
                {
                    continue;
                }
                let comes_after = || {
                    node.extra
                        .as_ref()
                        .is_some_and(|extra| extra.after.contains(&index))
                };
                match node.kind {
                    NodeKind::Catch(inner) if inner == index && !comes_after() => {
                        reach.caught.push(id)
                    }
                    _ if seen.insert(id) => reach.failed.push(id),
                    _ => {}
                }
            }
            if index == segment.plan.root() {
                let parent = segment.parent?;
                if seen.insert(parent) {
                    reach.failed.push(parent);
                }
            }
        }
        Some(reach)
    }

    fn label(&self, step: StepId) -> String {
        self.locate(step)
            .map_or_else(String::new, |(_, segment, index)| {
                segment.plan.label(index).to_owned()
            })
    }

    /// The steps whose expansions led to a step, outermost first, itself last.
    pub(super) fn path_to(&self, step: StepId) -> Vec<String> {
        let mut path = Vec::new();
        let mut next = Some(step);
        while let Some(id) = next {
            let Some((_, segment, index)) = self.locate(id) else {
                break;
            };
            path.push(match segment.tail_calls {
                0 => segment.plan.label(index).to_owned(),
                n => format!("{} (tail call {n})", segment.plan.label(index)),
            });
            next = segment.parent;
        }
        path.reverse();
        if path.len() > MAX_PATH {
            let left_out = path.len() - MAX_PATH;
            path.splice(
                MAX_PATH / 2..MAX_PATH / 2 + left_out,
                [format!("… {left_out} more …")],
            );
        }
        path
    }
}

struct Reach {
    /// The step first, then outwards.
    failed: Vec<StepId>,
    caught: Vec<StepId>,
}

/// What a catch yields for an error.
fn caught_value(error: &StepError) -> Value {
    // Strings and numbers always encode.
    Value::encode(&Err::<(), _>(error), Codec::MessagePack)
        .unwrap_or_else(|_| Value::from_bytes(&[]))
}
