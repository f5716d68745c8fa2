//! Executions that were cut short, time and again: a step whose body ends its process would do so for ever.
//!
//! The first time costs nothing: the store tells whoever claims a run that its owner died. From the second time on, the run's new owner
//! writes it down before the step executes again. Anything that comes of the step ends the count.

use keepstep_storage::Timestamp;
use rustc_hash::FxHashMap;

use super::segment::State;
use super::{Run, StepId};

/// Steps that were cut short at least twice, one time after another.
#[derive(Debug, Default)]
pub(super) struct Interruptions {
    /// When that was written down last.
    last_at: Timestamp,
    times: FxHashMap<StepId, u32>,
}

impl Run {
    /// Steps that were executing, or may have been, if the run's owner died just now; at most `limit`, those that start first.
    pub(crate) fn executing(&self, now: Timestamp, limit: usize) -> Vec<StepId> {
        if !self.is_active() {
            return Vec::new();
        }
        let is = |step: StepId, is: fn(&State) -> bool| {
            let located = self.locate(step);
            located.is_some_and(|(_, segment, index)| is(&segment.nodes[index as usize].state))
        };
        // The last one starts first.
        let ready = self.ready.iter().rev().copied();
        let ready = ready.filter(|step| is(*step, |state| matches!(state, State::Ready)));
        let due = self.timers.range(..=(now, StepId(u64::MAX)));
        let due = due.map(|(_, step)| *step);
        let due = due.filter(|step| is(*step, |state| matches!(state, State::Backoff(_))));
        let mut steps: Vec<StepId> = ready.chain(due).take(limit).collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }

    /// How often a step was cut short, as far as that is written down: never, or at least twice.
    pub(crate) fn interruptions(&self, step: StepId) -> u32 {
        let known = self.interruptions.as_ref();
        let times = known.and_then(|known| known.times.get(&step));
        times.copied().unwrap_or_default()
    }

    /// When it was last written down that steps were cut short.
    pub(crate) fn interrupted_at(&self) -> Option<Timestamp> {
        self.interruptions.as_ref().map(|known| known.last_at)
    }

    /// Whether a step executes that was cut short more than once.
    pub(crate) fn is_suspect(&self) -> bool {
        self.interruptions.is_some()
    }

    /// Counts that steps were cut short.
    pub(super) fn interrupted(&mut self, at: Timestamp, steps: &[StepId]) {
        let mut known = self.interruptions.take().unwrap_or_default();
        known.last_at = at;
        // What came to an end since has no count any more, and needs none.
        let before = std::mem::take(&mut known.times);
        for step in steps {
            let may_execute = self.locate(*step).is_some_and(|(_, segment, index)| {
                let state = &segment.nodes[index as usize].state;
                matches!(state, State::Ready | State::Running | State::Backoff(_))
            });
            if may_execute {
                let times = before.get(step).copied().unwrap_or(1);
                known.times.insert(*step, times.saturating_add(1));
            }
        }
        self.interruptions = Some(known).filter(|known| !known.times.is_empty());
    }

    /// Something came of a step, or it is no longer needed.
    pub(super) fn not_interrupted(&mut self, step: StepId) {
        if let Some(known) = &mut self.interruptions {
            known.times.remove(&step);
            if known.times.is_empty() {
                self.interruptions = None;
            }
        }
    }

    /// Forgets the counts: a snapshot has none, and there is one only where the run gets on.
    pub(crate) fn forget_interruptions(&mut self) {
        self.interruptions = None;
    }
}
