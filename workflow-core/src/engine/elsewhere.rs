//! Waiting for runs that other engines own, on a store that they share.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use keepstep_storage::{RunId, RunRecord, StoredStatus};
use tokio::sync::mpsc;

use super::Engine;
use super::cluster::{AGAIN_AFTER, LOOK_EVERY};
use super::shared::{Ended, Seat, SeatState, Shared};
use crate::error::{Error, Result};

/// How many runs that have stopped are read at a time.
const LOOKS_AT_ONCE: usize = 16;

impl Shared {
    /// A seat for those who wait for a run that another engine owns, or will. The caller holds the lock of the id.
    pub(super) fn wait_elsewhere(&self, id: &RunId, record: &RunRecord) -> Result<Arc<Seat>> {
        let seat = {
            let mut roster = self.roster();
            if roster.is_closed {
                return Err(Error::ShutDown);
            }
            let new = || (SeatState::Remote, Seat::new(record.plan_hash));
            let (_, seat) = roster.seats.entry(id.clone()).or_insert_with(new);
            Arc::clone(seat)
        };
        seat.report(super::read::progress_of(record));
        self.look_at(id);
        Ok(seat)
    }

    /// The seat of those who wait for a run that this engine now goes on with; a new one if there are none.
    pub(super) fn seat_for(&self, id: &RunId, plan_hash: [u8; 32]) -> Arc<Seat> {
        match self.roster().seats.get(id) {
            Some((SeatState::Remote | SeatState::Parked, seat)) if seat.plan_hash == plan_hash => {
                Arc::clone(seat)
            }
            _ => Seat::new(plan_hash),
        }
    }

    /// Hands those who wait for a run on: another engine owns it now. `false` if they are to be told of an end instead.
    pub(super) fn goes_on_elsewhere(&self, id: &RunId, seat: &Arc<Seat>) -> bool {
        if !self.is_shared() {
            return false;
        }
        let mut roster = self.roster();
        if roster.is_closed {
            return false;
        }
        if seat.is_watched() {
            let remote = (SeatState::Remote, Arc::clone(seat));
            roster.seats.insert(id.clone(), remote);
            drop(roster);
            self.look_at(id);
        } else {
            roster.seats.remove(id);
        }
        true
    }

    /// Whether a run is executed here, or will be.
    pub(crate) fn is_driven_here(&self, id: &RunId) -> bool {
        let roster = self.roster();
        let seat = roster.seats.get(id);
        seat.is_some_and(|(state, _)| {
            matches!(state, SeatState::Active(..) | SeatState::Queued(..))
        })
    }

    pub(super) fn look_at_all(&self) {
        let roster = self.roster();
        let remote = roster.seats.iter();
        for (id, _) in remote.filter(|(_, (state, _))| matches!(state, SeatState::Remote)) {
            self.look_at(id);
        }
    }
}

/// Looks at runs that others own and somebody here waits for, whenever they may have stopped.
pub(super) async fn look(shared: Arc<Shared>, mut looks: mpsc::UnboundedReceiver<RunId>) {
    let engine = Engine::detached(Arc::clone(&shared));
    let mut runs = Vec::new();
    let mut look_at_all_at = shared.clock.after(LOOK_EVERY);
    loop {
        tokio::select! {
            biased;
            () = shared.halted.cancelled() => return,
            n = looks.recv_many(&mut runs, 1_000) => if n == 0 { return },
            () = shared.clock.sleep_until(look_at_all_at) => {
                shared.look_at_all();
                look_at_all_at = shared.clock.after(LOOK_EVERY);
                continue;
            }
        }
        runs.sort_unstable();
        runs.dedup();
        {
            // Some have ended since they were to be looked at, and nobody waits for them any more.
            let roster = shared.roster();
            let is_remote =
                |run: &RunId| matches!(roster.seats.get(run), Some((SeatState::Remote, _)));
            runs.retain(is_remote);
        }
        if let Err(error) = engine.look_at_some(&runs).await {
            tracing::warn!(%error, "could not look at runs that others own; trying again");
            shared.pause(AGAIN_AFTER).await;
            runs.iter().for_each(|run| shared.look_at(run));
        }
        runs.clear();
    }
}

impl Engine {
    async fn look_at_some(&self, runs: &[RunId]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        let records = self.shared.storage.watch(runs).await?;
        let looks = runs.iter().cloned().zip(records);
        let looks = looks.map(|(run, record)| self.look_at_one(run, record));
        let looks = futures_util::stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
        looks.try_collect().await
    }

    /// Tells those who wait for a run of another engine if it has stopped.
    async fn look_at_one(&self, run: RunId, mut record: Option<RunRecord>) -> Result<()> {
        let _lock = self.shared.locks.lock(&run).await;
        // It may be this engine's since.
        let seat = match self.shared.roster().seats.get(&run) {
            Some((SeatState::Remote, seat)) => Arc::clone(seat),
            _ => return Ok(()),
        };
        let status = record.as_ref().map(|record| record.status);
        if matches!(
            status,
            None | Some(StoredStatus::Failed | StoredStatus::Suspended)
        ) {
            // It may have been resumed here before it was locked.
            record = self.shared.storage.record(&run).await?;
        }
        if let Some(ended) = self.end_elsewhere(&run, record, &seat).await? {
            self.shared.roster().seats.remove(&run);
            seat.ended.send_replace(ended);
        }
        Ok(())
    }

    /// How a run ended that another engine owned; `Some(None)` if nobody wants to know any more.
    async fn end_elsewhere(
        &self,
        id: &RunId,
        record: Option<RunRecord>,
        seat: &Seat,
    ) -> Result<Option<Option<Ended>>> {
        if !seat.is_watched() {
            return Ok(Some(None));
        }
        let Some(record) = record else {
            let error = Error::NotFound { run: id.clone() };
            return Ok(Some(Some(Ended::Unreadable(error))));
        };
        seat.report(super::read::progress_of(&record));
        if record.status.is_active() {
            return Ok(None);
        }
        match self.stored_end(id, &record).await {
            // It goes on since.
            Ok(Ended::Fenced) => Ok(None),
            Ok(ended) => Ok(Some(Some(ended))),
            Err(error @ Error::Storage(_)) => Err(error),
            Err(error) => Ok(Some(Some(Ended::Unreadable(error)))),
        }
    }

    /// Waits until a run that another engine owns may have stopped.
    pub(super) async fn until_changed(&self, id: &RunId) -> Result<()> {
        let (seat, _lock) = {
            let lock = self.shared.locks.lock(id).await;
            let record = self.record(id).await?;
            if !matches!(record.status, StoredStatus::Pending | StoredStatus::Running) {
                return Ok(());
            }
            (self.shared.wait_elsewhere(id, &record)?, drop(lock))
        };
        let mut ended = seat.ended.subscribe();
        tokio::select! {
            _ = ended.wait_for(Option::is_some) => {}
            () = self.shared.clock.sleep(LOOK_EVERY) => {}
        }
        Ok(())
    }
}
