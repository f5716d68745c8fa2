//! The run's slot of `max_running_runs`: it has one while it executes, and none while it only waits.

use std::time::Duration;

use tokio::time::Instant;

use super::RunTask;
use crate::engine::Slot;

/// A run that has begun waits no longer than this for a free slot; then it goes on as one more than there are. So what was due is
/// not late by as long as others execute, and nothing that others wait for is kept from going on by them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a run may execute.
#[derive(Debug, Default)]
pub(super) enum RunSlot {
    /// It only waits.
    #[default]
    None,
    /// It waits for a slot, until then.
    Asked(Instant),
    Held(Slot),
}

impl RunSlot {
    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::Held(_))
    }

    /// Waits until the run has waited for a slot for long enough.
    pub(super) async fn until_due(&self) {
        match self {
            Self::Asked(until) => tokio::time::sleep_until(*until).await,
            Self::None | Self::Held(_) => std::future::pending().await,
        }
    }
}

impl RunTask {
    /// The slot that the run begins with, if it has one.
    pub(crate) fn begin_with(&mut self, slot: Option<Slot>) {
        self.slot = slot.map_or(RunSlot::None, RunSlot::Held);
    }

    /// Whether bodies may start. Asks for a slot if the run has none.
    pub(super) fn may_execute(&mut self) -> bool {
        if matches!(self.slot, RunSlot::None) {
            let slot = self.shared.ask_for_slot(&self.id, &self.sender);
            let until = || RunSlot::Asked(self.shared.clock.instant() + PATIENCE);
            self.slot = slot.map_or_else(until, RunSlot::Held);
        }
        self.slot.is_held()
    }

    /// The run has got a slot.
    pub(super) fn take_slot(&mut self, slot: Slot) {
        match self.slot {
            RunSlot::Asked(_) => self.slot = RunSlot::Held(slot),
            // It did not wait any more.
            RunSlot::None | RunSlot::Held(_) => slot.give_back(),
        }
    }

    /// The run has waited for a slot for long enough.
    pub(super) fn take_slot_anyway(&mut self) {
        self.shared.stop_asking_for_slot(&self.id);
        self.slot = RunSlot::Held(self.shared.take_slot_anyway());
    }

    /// Gives the slot to others if the run only waits. Called while no commit of it is under way.
    pub(super) fn give_slot_back_if_waiting(&mut self) {
        let is_waiting = self.steps.n_executing() == 0
            && !self.steps.has_work()
            && self.happened.is_empty()
            && self.n_looking == 0;
        if is_waiting {
            self.give_slot_back();
        }
    }

    /// Gives the slot to others, or needs none any more.
    pub(super) fn give_slot_back(&mut self) {
        match std::mem::take(&mut self.slot) {
            RunSlot::None => {}
            RunSlot::Asked(_) => self.shared.stop_asking_for_slot(&self.id),
            RunSlot::Held(slot) => slot.give_back(),
        }
    }
}
