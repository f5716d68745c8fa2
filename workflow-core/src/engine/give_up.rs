//! Giving runs up: what the store says is this engine's, and nothing here goes on with, is handed back to whoever can.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{Epoch, RunId, RunRecord, StorageError};

use super::cluster::AGAIN_AFTER;
use super::shared::{Seat, SeatState, Shared};

/// The longest pause between two tries to give runs up.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After how many tries it is told that runs cannot be given up.
const TOLD_AFTER: u32 = 4;

/// A run that this engine has claimed.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) record: RunRecord,
    pub(super) guard: ClaimGuard,
}

/// Held from the claim of a run until something here goes on with it. A run with which nothing does when this is dropped, because of an
/// error, say, is given up. Whoever holds this holds the lock of the id, too.
#[derive(Debug)]
pub(super) struct ClaimGuard {
    shared: Arc<Shared>,
    run: RunId,
}

impl ClaimGuard {
    pub(super) fn new(shared: &Arc<Shared>, run: &RunId) -> Self {
        Self {
            shared: Arc::clone(shared),
            run: run.clone(),
        }
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        // What drives the run, or has written that it stopped, has taken it from those that are lost.
        if self.shared.roster().lost.contains(&self.run) {
            self.shared.give_up(self.run.clone());
        }
    }
}

impl Shared {
    /// Gives up a run that was this engine's and is lost here, as soon as the store takes that: somebody goes on with it.
    pub(super) fn give_up(self: &Arc<Self>, id: RunId) {
        self.give_all_up(vec![id], true);
    }

    /// Gives up a run that was in execution when the leases ended, and is lost here, as soon as there are leases again. Until then others
    /// take it from an owner that was lost, and count that.
    pub(super) fn give_up_lost_run(self: &Arc<Self>, id: &RunId, seat: &Seat) {
        let progress = *seat.progress.borrow();
        let rest = {
            let mut roster = self.roster();
            let rest = match progress.running {
                0 => Duration::ZERO,
                _ => {
                    let with = progress.done + progress.failed;
                    let (lease, now) = (self.lease(), self.clock.instant());
                    roster.rests.lost(id, with, lease, now)
                }
            };
            // Under the lock: whoever has the leases again looks for what is lost after that.
            if self.has_lost_leases() && rest.is_zero() {
                return;
            }
            rest
        };
        if rest.is_zero() {
            return self.give_up(id.clone());
        }
        tracing::warn!(run = %id, ?rest, "the leases of this engine ended while the run executed, time and again; the run rests");
        let (shared, id) = (Arc::clone(self), id.clone());
        self.spawn(async move {
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => {}
                // If there are no leases then, whoever has some again gives it up.
                () = shared.clock.sleep(rest) => shared.give_up_if_mine(vec![id]),
            }
        });
    }

    /// Gives up what this engine lost while it had no lease, and what is its own again since it has one: nobody here drives it, and
    /// nobody else may.
    pub(super) fn give_up_lost(self: &Arc<Self>) {
        let mut lost: Vec<RunId> = {
            let (roster, now) = (self.roster(), self.clock.instant());
            let lost = roster.lost.iter();
            let lost = lost.filter(|id| !roster.rests.is_resting(id, now));
            lost.cloned().collect()
        };
        // In an order that a simulation repeats.
        lost.sort_unstable();
        self.give_up_if_mine(lost);
    }

    /// Gives runs up of which nobody knows whether they came to be this engine's: the store failed when they were to.
    pub(super) fn give_up_if_mine(self: &Arc<Self>, ids: Vec<RunId>) {
        self.give_all_up(ids, false);
    }

    fn give_all_up(self: &Arc<Self>, mut ids: Vec<RunId>, were_mine: bool) {
        if !self.is_shared() {
            return;
        }
        let shared = Arc::clone(self);
        self.spawn(async move {
            let mut pause = AGAIN_AFTER;
            let mut n_tries = 0;
            loop {
                n_tries += 1;
                let mut failed = Vec::new();
                let mut ids_left = ids.into_iter();
                while let Some(id) = ids_left.next() {
                    let Err(error) = shared.hand_back(&id, were_mine).await else {
                        continue;
                    };
                    let is_over = matches!(
                        error,
                        StorageError::Poisoned { .. } | StorageError::Closed { .. }
                    );
                    if is_over || shared.is_closing() {
                        return;
                    }
                    // Also after an error that lasts: as long as this engine has a lease, nobody else may go on with the run.
                    if n_tries == TOLD_AFTER {
                        tracing::warn!(run = %id, %error, "a run cannot be handed back to the store, so that nobody goes on with it; trying again");
                    }
                    failed.push(id);
                    if error.is_retryable() {
                        // So would the others.
                        failed.extend(ids_left.by_ref());
                    }
                }
                if failed.is_empty() {
                    return;
                }
                ids = failed;
                tokio::select! {
                    () = shared.clock.sleep(pause) => {}
                    // The end of the lease gives them up.
                    () = shared.closing.cancelled() => return,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Hands a run back to the store that is lost here, and stays lost until the store has it. The lock keeps everybody here from going
    /// on with the run meanwhile: it would be driven twice once another engine has it.
    async fn hand_back(self: &Arc<Self>, id: &RunId, was_mine: bool) -> Result<(), StorageError> {
        let _lock = self.locks.lock(id).await;
        if !self.is_lost(id) {
            // Somebody has gone on with it meanwhile.
            return Ok(());
        }
        // Its epoch may be another one since it was lost.
        let record = self.storage.record(id).await?;
        let owner = record.as_ref().and_then(|record| record.owner);
        let released = record.filter(|_| owner == Some(self.node));
        match &released {
            Some(record) => {
                let released = [(id.clone(), record.epoch)];
                self.storage.release(&released).await?;
            }
            // What was asked of the store may still be done.
            None if owner.is_none() && !was_mine => return Ok(()),
            // Another engine has it.
            None => {}
        }
        {
            let mut roster = self.roster();
            roster.lost.remove(id);
            // The next claim counts anew.
            let is_of_it = |(_, claimed): &(u32, Epoch)| {
                released.is_some_and(|record| record.epoch == *claimed)
            };
            if roster.orphans.get(id).is_some_and(is_of_it) {
                roster.orphans.remove(id);
            }
        }
        self.may_work();
        Ok(())
    }

    /// Whether a run is stored as this engine's, or may be, and nothing here goes on with it.
    fn is_lost(&self, id: &RunId) -> bool {
        let roster = self.roster();
        let is_driven = matches!(
            roster.seats.get(id),
            Some((SeatState::Active(..) | SeatState::Queued(..), _))
        );
        roster.lost.contains(id) && !is_driven
    }
}
