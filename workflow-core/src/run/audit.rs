//! What holds of a run at every moment: all that it counts can be counted again from the states of its nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::segment::{Segment, State};
use super::{Phase, Run, StepId};
use crate::plan::NodeKind;

/// Checks all that holds of a run whose journal a driver wrote. `ready` is what the run and its driver know to be ready.
#[cfg(test)]
pub(crate) fn audit(run: &Run, ready: &[StepId]) {
    audit_counts(run);
    for (base, segment) in &run.segments {
        audit_segment(*base, segment, run.history.is_some());
        if run.phase == Phase::Active {
            for (id, node) in (*base..).map(StepId).zip(&segment.nodes) {
                let is_ready = matches!(node.state, State::Ready);
                assert!(!is_ready || ready.contains(&id), "{id} is forgotten");
            }
        }
    }
}

/// Checks what holds whatever the journal says.
pub(crate) fn audit_counts(run: &Run) {
    let mut n_running = 0;
    let mut n_unfinished = 0;
    let mut n_failed = 0;
    let mut bytes = 0;
    let mut timers = BTreeSet::new();
    let mut sleeps = BTreeSet::new();
    let mut waits = Expected::default();
    let mut children = BTreeMap::new();
    for (base, segment) in &run.segments {
        bytes += segment.plan_bytes;
        for (index, node) in (0u32..).zip(&segment.nodes) {
            let id = StepId(base + u64::from(index));
            let is_counted = segment.is_counted(index);
            waits.add(id, segment, index);
            let is_unfinished = match &node.state {
                State::Waiting
                | State::Ready
                | State::Decided(_)
                | State::Reached
                | State::Listening
                | State::Away { .. } => true,
                State::Running => {
                    n_running += 1;
                    true
                }
                State::Backoff(due_at) => {
                    timers.insert((*due_at, id));
                    true
                }
                State::Sleeping(due_at) => {
                    sleeps.insert((*due_at, id));
                    true
                }
                State::Expanded(child) => {
                    children.insert(*child, id);
                    true
                }
                State::Ran(value) | State::Done(value) => {
                    bytes += value.len() as u64;
                    false
                }
                State::Failed(_) => {
                    n_failed += u64::from(is_counted);
                    assert_ne!(run.phase, Phase::Active);
                    false
                }
                State::Caught(_) | State::Gone(_) => false,
            };
            n_unfinished += u64::from(is_counted && is_unfinished);
        }
    }
    assert_eq!(run.n_running, n_running);
    assert_eq!(run.timers, timers);
    assert_eq!(run.sleeps_for_audit(), sleeps);
    waits.check(run);
    if run.history.is_none() {
        assert_eq!(run.live_bytes, bytes);
    }
    assert!(n_failed <= run.counts.failed);
    let counts = run.counts;
    assert_eq!(
        counts.done + counts.failed + n_unfinished,
        counts.total,
        "{counts:?}"
    );
    let progress = run.progress();
    assert_eq!(
        progress.done + progress.failed + progress.running + progress.waiting,
        progress.total
    );
    for (base, segment) in &run.segments {
        if segment.n_live > 0 {
            assert_eq!(children.remove(base), segment.parent, "segment {base}");
        }
    }
    assert!(children.is_empty(), "{children:?} are not there");
}

/// What a run must know of its waits.
#[derive(Default)]
struct Expected {
    listening: BTreeMap<Arc<str>, BTreeSet<StepId>>,
    away: BTreeSet<StepId>,
    /// Nodes that may have a limit.
    limited: BTreeSet<StepId>,
}

impl Expected {
    fn add(&mut self, id: StepId, segment: &Segment, index: u32) {
        let node = segment.plan.node(index);
        match (&segment.nodes[index as usize].state, &node.kind) {
            (State::Listening, NodeKind::Event(name)) => {
                let listening = self.listening.entry(Arc::clone(name)).or_default();
                listening.insert(id);
            }
            (State::Away { .. }, NodeKind::Child(_)) => drop(self.away.insert(id)),
            (State::Listening | State::Away { .. }, _) => panic!("{id} is no such node"),
            _ => {}
        }
        let is_settled = matches!(
            segment.nodes[index as usize].state,
            State::Done(_) | State::Ran(_) | State::Failed(_) | State::Gone(_) | State::Decided(_)
        );
        if node.time_limit().is_some() && !is_settled {
            self.limited.insert(id);
        }
    }

    fn check(&self, run: &Run) {
        let (listening, away, limits) = run.waits_for_audit();
        assert_eq!(listening, &self.listening);
        assert_eq!(away, &self.away);
        let limits: BTreeSet<StepId> = limits.keys().copied().collect();
        assert!(limits.is_subset(&self.limited), "{limits:?}");
    }
}

#[cfg(test)]
fn audit_segment(base: u64, segment: &Segment, has_history: bool) {
    let live = |state: &State| !matches!(state, State::Gone(_));
    let n_live = segment
        .nodes
        .iter()
        .filter(|node| live(&node.state))
        .count();
    assert_eq!(segment.n_live as usize, n_live);
    assert!(n_live > 0 || has_history, "segment {base} is dead");

    let mut n_uses = vec![0u32; segment.nodes.len()];
    n_uses[segment.plan.root() as usize] += 1;
    for (index, node) in (0u32..).zip(&segment.nodes) {
        let holds = !matches!(
            node.state,
            State::Done(_) | State::Gone(_) | State::Expanded(_)
        );
        let mut n_pending = 0;
        segment.plan.node(index).for_each_input(&mut |input| {
            let input = input as usize;
            let is_there = matches!(
                segment.nodes[input].state,
                State::Done(_) | State::Ran(_) | State::Gone(_)
            );
            n_pending += u32::from(!is_there);
        });
        if holds {
            let visit = &mut |input: u32| n_uses[input as usize] += 1;
            segment.for_each_held(index, &node.state, visit);
        }
        let at = base + u64::from(index);
        match node.state {
            State::Done(_) | State::Gone(_) | State::Expanded(_) => continue,
            State::Ready | State::Running | State::Ran(_) => assert_eq!(n_pending, 0, "at {at}"),
            State::Waiting | State::Caught(_) => assert!(n_pending > 0, "{at} waits for nothing"),
            State::Reached | State::Sleeping(_) | State::Listening | State::Away { .. } => {
                assert_eq!(n_pending, 0, "at {at}");
            }
            State::Backoff(_) | State::Failed(_) => {}
            // What it waits for is its branch, whatever else it had.
            State::Decided(place) => match &segment.plan.node(index).kind {
                NodeKind::First(_, branches) => {
                    let branch = &segment.nodes[branches[place as usize] as usize];
                    assert!(live(&branch.state), "{at} waits for what is gone");
                    continue;
                }
                kind => assert!(matches!(kind, NodeKind::Catch(_)), "at {at}"),
            },
        }
        assert_eq!(node.n_pending, n_pending, "at {at}");
        if let NodeKind::Catch(inner) = segment.plan.node(index).kind
            && matches!(node.state, State::Waiting)
        {
            assert!(
                live(&segment.nodes[inner as usize].state),
                "{at} has nothing to catch"
            );
        }
    }
    for (index, node) in segment.nodes.iter().enumerate() {
        if live(&node.state) {
            assert_eq!(node.n_uses, n_uses[index], "at {}", base + index as u64);
            assert!(node.n_uses > 0, "{} is not needed", base + index as u64);
        }
    }
}
