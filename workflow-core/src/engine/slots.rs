//! The slots of `max_running_runs`: how many are taken, and who waits for one.
//!
//! A slot is for executing. A run that only waits has none, whether it is in memory or not. Who waits for a slot stands in one
//! of three lines: first runs in memory whose time, event, child or next attempt has come; then runs that had begun before
//! they were interrupted; then runs that have not begun. Each line is first come, first served.

use std::sync::{Arc, MutexGuard};

use keepstep_storage::RunId;

use super::queue::Queue;
use super::shared::{Roster, Shared, WakePermit};
use crate::error::{Error, Result};
use crate::executor::{RunMessage, RunSender, Wake};

/// Who has a slot, and who waits for one.
#[derive(Debug)]
pub(super) struct Slots {
    max: usize,
    /// More than `max` where runs went on without waiting for a free one.
    n_taken: usize,
    /// Runs in memory that wait for a slot before they go on.
    woken: Queue<RunSender>,
    /// Runs outside memory that had begun, and have something to execute.
    interrupted: Queue,
    /// Runs that have not begun, and those that were resumed and have something to execute.
    pending: Queue,
    /// Runs that are being made pending.
    n_queueing: usize,
}

/// Which line a run outside memory waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// It had begun when it was interrupted.
    Interrupted,
    /// It is stored as pending.
    Pending,
}

/// Who gets a slot next.
#[derive(Debug)]
pub(super) enum Next {
    /// A run in memory, which is told.
    Woken(RunSender),
    /// A run that is to be taken into memory.
    Queued(RunId),
}

impl Default for Slots {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Slots {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            n_taken: 0,
            woken: Queue::default(),
            interrupted: Queue::default(),
            pending: Queue::default(),
            n_queueing: 0,
        }
    }

    /// How many runs could begin at once.
    pub(super) fn n_free(&self) -> usize {
        let waiting = self.woken.len() + self.interrupted.len() + self.pending.len();
        self.max.saturating_sub(self.n_taken + waiting)
    }

    /// Whether runs outside memory wait for a slot.
    pub(super) fn has_queue(&self) -> bool {
        !self.interrupted.is_empty() || !self.pending.is_empty()
    }

    /// Takes a slot, unless somebody waits for it or there is none.
    pub(super) fn take(&mut self) -> bool {
        let is_free = self.n_free() > 0;
        self.n_taken += usize::from(is_free);
        is_free
    }

    /// Takes a slot for a run in memory, which goes before all that are not.
    fn take_for_woken(&mut self) -> bool {
        let is_free = self.n_taken < self.max && self.woken.is_empty();
        self.n_taken += usize::from(is_free);
        is_free
    }

    /// Takes a slot even if there is none.
    fn take_anyway(&mut self) {
        self.n_taken += 1;
    }

    /// Gives a slot back; whether there was none before.
    fn give_back(&mut self) -> bool {
        let was_full = self.n_taken >= self.max;
        debug_assert!(self.n_taken > 0, "a slot was given back twice");
        self.n_taken = self.n_taken.saturating_sub(1);
        was_full
    }

    fn ask(&mut self, id: RunId, sender: RunSender) {
        self.woken.push(id, sender);
    }

    /// A run in memory needs no slot any more, or has taken one.
    fn stop_asking(&mut self, id: &RunId) {
        self.woken.remove(id);
    }

    /// Makes a run outside memory wait for a slot.
    pub(super) fn queue(&mut self, id: RunId, line: Line) {
        match line {
            Line::Interrupted => self.interrupted.push(id, ()),
            Line::Pending => self.pending.push(id, ()),
        }
    }

    /// A run outside memory needs no slot any more.
    pub(super) fn unqueue(&mut self, id: &RunId) {
        self.interrupted.remove(id);
        self.pending.remove(id);
    }

    /// Nobody gets a slot any more.
    pub(super) fn clear(&mut self) {
        self.woken.clear();
        self.interrupted.clear();
        self.pending.clear();
    }

    /// Takes a free slot for whoever has waited longest in the first line.
    fn next(&mut self) -> Option<Next> {
        if self.n_taken >= self.max {
            return None;
        }
        let next = match self.woken.pop() {
            Some((_, sender)) => Next::Woken(sender),
            None => {
                let first = self.interrupted.pop().or_else(|| self.pending.pop());
                Next::Queued(first?.0)
            }
        };
        self.n_taken += 1;
        Some(next)
    }

    /// Whether somebody could get a slot now.
    fn has_next(&self) -> bool {
        self.n_taken < self.max && (!self.woken.is_empty() || self.has_queue())
    }

    /// Takes room in the line of pending runs, of which there may be so many; `false` if there is none.
    fn reserve(&mut self, max_pending: usize) -> bool {
        let has_room = self.pending.len() + self.n_queueing < max_pending;
        self.n_queueing += usize::from(has_room);
        has_room
    }
}

/// A slot, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(Option<Arc<Shared>>);

impl Slot {
    /// One that was counted already.
    fn taken(shared: &Arc<Shared>) -> Self {
        Self(Some(Arc::clone(shared)))
    }

    /// Gives the slot to whoever waits for it.
    pub(crate) fn give_back(mut self) {
        let Some(shared) = self.0.take() else {
            return;
        };
        let mut roster = shared.roster();
        let was_full = roster.slots.give_back();
        shared.hand_slots_on(roster);
        if was_full {
            shared.may_work();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else {
            return;
        };
        if shared.home.has_ended() {
            // Nobody gets it, and whoever drops a run's task with it may have locked the roster.
            return;
        }
        let (was_full, is_wanted) = {
            let slots = &mut shared.roster().slots;
            (slots.give_back(), slots.has_next())
        };
        if is_wanted {
            // Not from here: a runtime that ends drops its tasks, and each run that was set going then would be dropped
            // inside this call, with its slot.
            drop(shared.timers.send(Wake::Slots));
        }
        if was_full {
            shared.may_work();
        }
    }
}

/// What a run's task is started with. Without a slot it asks for one before it executes anything.
#[derive(Debug, Default)]
pub(super) struct Permits {
    pub(super) slot: Option<Slot>,
    /// Held by a run that was woken.
    pub(super) waking: Option<WakePermit>,
}

impl From<Slot> for Permits {
    fn from(slot: Slot) -> Self {
        Self {
            slot: Some(slot),
            waking: None,
        }
    }
}

/// A place in the line of pending runs, until the run is in it or is not to be.
#[derive(Debug)]
pub(crate) struct QueuePlace(Arc<Shared>);

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.0.roster().slots.n_queueing -= 1;
    }
}

/// Whether a run may begin.
#[derive(Debug)]
pub(crate) enum Admission {
    Run(Slot),
    Queue(QueuePlace),
    /// There is no slot here; whoever shares the store may have one.
    Offer,
}

impl Shared {
    /// Takes a slot for a new run, or a place in the queue.
    ///
    /// # Errors
    /// [`Error::QueueFull`] if there is no room in the queue either, [`Error::ShutDown`].
    pub(crate) fn take_place(self: &Arc<Self>) -> Result<Admission> {
        let mut roster = self.roster();
        if roster.is_closed {
            return Err(Error::ShutDown);
        }
        // While no renewal is answered, others would take the run at once, and execute it beside this engine.
        if !self.is_worker() || self.has_lost_leases() {
            return Ok(Admission::Offer);
        }
        if roster.slots.take() {
            return Ok(Admission::Run(Slot::taken(self)));
        }
        if self.is_shared() {
            return Ok(Admission::Offer);
        }
        match roster.slots.reserve(self.max_pending_runs) {
            true => Ok(Admission::Queue(QueuePlace(Arc::clone(self)))),
            false => Err(Error::QueueFull {
                limit: self.max_pending_runs,
            }),
        }
    }

    /// Takes a slot for a run that another one waits for: it cannot be refused, so the queue takes it however full it is.
    /// Where other workers share the store, it does not wait here: one of them may be idle.
    pub(super) fn take_place_for_child(self: &Arc<Self>) -> Result<Admission> {
        let mut roster = self.roster();
        if roster.is_closed {
            return Err(Error::ShutDown);
        }
        if self.takes_up_runs() && self.has_lost_leases() {
            return Ok(Admission::Offer);
        }
        if roster.slots.take() {
            return Ok(Admission::Run(Slot::taken(self)));
        }
        if self.takes_up_runs() {
            return Ok(Admission::Offer);
        }
        roster.slots.n_queueing += 1;
        Ok(Admission::Queue(QueuePlace(Arc::clone(self))))
    }

    /// Takes a slot for a run that exists, if runs are executed here and there is one that nobody waits for.
    pub(super) fn take_slot_here(self: &Arc<Self>) -> Option<Slot> {
        let is_taken = self.is_worker() && self.roster().slots.take();
        is_taken.then(|| Slot::taken(self))
    }

    /// Takes a slot even if there is none.
    pub(crate) fn take_slot_anyway(self: &Arc<Self>) -> Slot {
        self.roster().slots.take_anyway();
        Slot::taken(self)
    }

    /// Takes a slot for a run in memory; if there is none, the run is told as soon as it has one.
    pub(crate) fn ask_for_slot(self: &Arc<Self>, id: &RunId, sender: &RunSender) -> Option<Slot> {
        let mut roster = self.roster();
        if roster.slots.take_for_woken() {
            return Some(Slot::taken(self));
        }
        roster.slots.ask(id.clone(), sender.clone());
        None
    }

    /// A run in memory does not wait for a slot any more.
    pub(crate) fn stop_asking_for_slot(&self, id: &RunId) {
        self.roster().slots.stop_asking(id);
    }

    /// Whether runs wait outside memory for a slot.
    pub(crate) fn has_queue(&self) -> bool {
        self.roster().slots.has_queue()
    }

    /// Gives free slots to those who wait for them.
    pub(crate) fn fill_slots(self: &Arc<Self>) {
        self.hand_slots_on(self.roster());
    }

    fn hand_slots_on<'a>(self: &'a Arc<Self>, mut roster: MutexGuard<'a, Roster>) {
        // An engine that was dropped begins nothing more.
        while !roster.is_closed
            && !self.halted.is_cancelled()
            && let Some(next) = roster.slots.next()
        {
            // A run that is gone gives its slot back, which takes the roster.
            drop(roster);
            let slot = Slot::taken(self);
            match next {
                Next::Woken(sender) => drop(sender.send(RunMessage::Slot(slot))),
                Next::Queued(id) => {
                    let shared = Arc::clone(self);
                    self.spawn(async move { shared.promote(id, slot).await });
                }
            }
            roster = self.roster();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::run_channel;

    fn id(id: &str) -> RunId {
        RunId::new(id).unwrap()
    }

    /// Who gets the next slot: its id, or "woken".
    fn next(slots: &mut Slots) -> Option<String> {
        slots.next().map(|next| match next {
            Next::Woken(_) => "woken".to_owned(),
            Next::Queued(id) => id.to_string(),
        })
    }

    #[test]
    fn woken_runs_come_first_then_interrupted_ones_then_pending_ones() {
        let mut slots = Slots::new(1);
        assert!(slots.take());
        slots.queue(id("pending 1"), Line::Pending);
        slots.queue(id("pending 2"), Line::Pending);
        slots.queue(id("interrupted"), Line::Interrupted);
        slots.ask(id("a"), run_channel().0);
        let mut order = Vec::new();
        assert_eq!(next(&mut slots), None);
        for _ in 0..4 {
            assert!(slots.give_back(), "it was full");
            assert!(slots.has_next());
            order.extend(next(&mut slots));
        }
        assert_eq!(order, ["woken", "interrupted", "pending 1", "pending 2"]);
        assert!(slots.give_back());
        assert!(!slots.has_next());
        assert_eq!((slots.n_taken, slots.n_free()), (0, 1));
    }

    #[test]
    fn a_new_run_takes_no_slot_that_somebody_waits_for() {
        let mut slots = Slots::new(2);
        assert!(slots.take());
        slots.ask(id("a"), run_channel().0);
        assert_eq!(slots.n_free(), 0);
        assert!(!slots.take());
        assert!(!slots.take_for_woken(), "one was there before");
        slots.stop_asking(&id("a"));
        slots.queue(id("b"), Line::Interrupted);
        assert!(!slots.take());
        assert!(slots.take_for_woken(), "what is outside memory waits");
        slots.unqueue(&id("b"));
        assert!(!slots.has_queue());
        assert!(!slots.take(), "both are taken");
    }

    #[test]
    fn one_more_than_there_are_delays_those_who_wait_and_is_given_back() {
        let mut slots = Slots::new(1);
        assert!(slots.take());
        slots.take_anyway();
        slots.queue(id("a"), Line::Pending);
        assert!(slots.give_back());
        assert_eq!(next(&mut slots), None, "the other has the slot");
        assert!(slots.give_back());
        assert_eq!(next(&mut slots).as_deref(), Some("a"));
        assert!(slots.give_back());
        assert_eq!(slots.n_taken, 0);
    }

    #[test]
    fn without_a_limit_it_is_never_full() {
        let mut slots = Slots::default();
        for _ in 0..1_000 {
            assert!(slots.take());
        }
        assert!(slots.take_for_woken());
        assert!(!slots.give_back());
        assert!(slots.n_free() > 1_000_000);
    }

    #[test]
    fn room_for_pending_runs_is_counted_with_those_that_are_being_made_so() {
        let mut slots = Slots::new(0);
        slots.queue(id("interrupted"), Line::Interrupted);
        assert!(slots.reserve(2), "what has begun takes no room");
        assert!(slots.reserve(2));
        assert!(!slots.reserve(2));
        slots.n_queueing -= 1;
        slots.queue(id("a"), Line::Pending);
        assert!(!slots.reserve(2));
    }
}
