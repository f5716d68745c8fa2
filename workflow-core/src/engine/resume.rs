//! Going on with runs: resume, attach, and taking runs into memory.

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{
    JournalEntry, Parent, ReadRun, RunId, RunQuery, RunRecord, RunWrite, StorageError,
    StoredStatus, Timestamp,
};

use super::give_up::{ClaimGuard, Claimed};
use super::handle::{Attached, Handle};
use super::pauses::Growth;
use super::shared::{Ended, Seat, SeatState, Shared};
use super::slots::{Line, Permits, Slot};
use super::{Engine, forbid_in_step};
use crate::error::{Damage, Error, Result};
use crate::executor::{RunMessage, finish_load, load_run};
use crate::run::{ChildToBegin, Event, Run};
use crate::status::Status;

/// How long a claim lasts on stores that several processes share.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// How many runs are claimed at a time when all are resumed.
const RESUME_CHUNK: usize = 512;

impl Engine {
    /// Goes on with a run that was interrupted, suspended, or that failed; a failed run tries again what failed, with a
    /// fresh count of retries. What it failed by is resumed with it: its failed [children](crate::child), and theirs. A run in
    /// execution is attached to, one that was successful gives its stored output.
    ///
    /// A run that has something to execute waits for a slot of
    /// [`max_running_runs`](super::EngineBuilder::max_running_runs), but is never refused; one that waits for a time, an event
    /// or a child run needs none.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Canceled`], [`Error::Damaged`], [`Error::ShutDown`], [`Error::InsideStep`],
    /// [`Error::Storage`].
    pub async fn resume<T>(&self, id: impl AsRef<str>) -> Result<Handle<T>> {
        self.shared.check_runtime()?;
        forbid_in_step("resume")?;
        let id = RunId::new(id)?;
        let (engine, to) = (self.clone(), id.clone());
        let resume = async move { engine.resume_to_its_end(&to).await };
        let attached = self.to_its_end(resume).await?;
        Ok(Handle::new(self.clone(), id, attached))
    }

    async fn resume_to_its_end(&self, id: &RunId) -> Result<Attached> {
        if self.seat(id).is_none() {
            self.resume_failed_children(id).await?;
        }
        let _lock = self.shared.locks.lock(id).await;
        if let Some(seat) = self.seat(id) {
            return Ok(Attached::to(&seat));
        }
        let record = self.record(id).await?;
        match self.shared.status_of(id, &record) {
            Status::Canceled => Err(Error::Canceled { run: id.clone() }),
            Status::Failed => self.take_over(id).await,
            _ => self.attach_to_stored(id, None, record).await,
        }
    }

    /// Resumes every run that is [`Resumable`](Status::Resumable): those that were running first, oldest first. One that
    /// cannot be resumed does not keep the others from it; its error stands beside its id.
    ///
    /// # Errors
    /// [`Error::Storage`] if the runs cannot be listed, [`Error::InsideStep`], [`Error::ShutDown`].
    pub async fn resume_all(&self) -> Result<Vec<(String, Result<Handle<serde_json::Value>>)>> {
        self.shared.check_runtime()?;
        forbid_in_step("resume_all")?;
        let engine = self.clone();
        self.to_its_end(async move { engine.resume_all_to_its_end().await })
            .await
    }

    async fn resume_all_to_its_end(
        &self,
    ) -> Result<Vec<(String, Result<Handle<serde_json::Value>>)>> {
        self.shared.awaken_if_needed().await?;
        let mut resumed = Vec::new();
        for status in [StoredStatus::Running, StoredStatus::Pending] {
            let mut ids = Vec::new();
            let mut query = RunQuery {
                statuses: vec![status],
                limit: 1000,
                ..RunQuery::default()
            };
            loop {
                let page = self.shared.storage.list(&query).await?;
                let resumable = |listed: &keepstep_storage::ListedRun| {
                    self.shared.status_of(&listed.run, &listed.record) == Status::Resumable
                };
                ids.extend(
                    page.runs
                        .into_iter()
                        .filter(resumable)
                        .map(|listed| listed.run),
                );
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
            for chunk in ids.chunks(RESUME_CHUNK) {
                self.resume_chunk(chunk, &mut resumed).await;
            }
        }
        Ok(resumed)
    }

    /// Resumes runs that were resumable when they were listed, with one claim for all of them.
    async fn resume_chunk(
        &self,
        ids: &[RunId],
        resumed: &mut Vec<(String, Result<Handle<serde_json::Value>>)>,
    ) {
        // Locks are always taken in the order of the ids, so that two calls cannot wait for each other.
        let mut sorted: Vec<&RunId> = ids.iter().collect();
        sorted.sort_unstable();
        let mut locks = Vec::with_capacity(sorted.len());
        for id in sorted {
            locks.push(self.shared.locks.lock(id).await);
        }
        let mut to_claim = Vec::with_capacity(ids.len());
        let mut outcomes: Vec<Option<Result<Attached>>> = Vec::with_capacity(ids.len());
        for id in ids {
            let seat = self.seat(id);
            if seat.is_none() {
                to_claim.push(id.clone());
            }
            outcomes.push(seat.map(|seat| Ok(Attached::to(&seat))));
        }
        let mut claimed = self.claim_all(&to_claim).await.map(Vec::into_iter);
        for (id, outcome) in ids.iter().zip(&mut outcomes) {
            if outcome.is_none() {
                *outcome = Some(match &mut claimed {
                    Ok(records) => self.go_on(id, records.next().flatten()).await,
                    Err(error) => Err(error.clone()),
                });
            }
        }
        for (id, outcome) in ids.iter().zip(outcomes) {
            let outcome = outcome.unwrap_or_else(|| Err(Error::NotFound { run: id.clone() }));
            let handle = outcome.map(|attached| Handle::new(self.clone(), id.clone(), attached));
            resumed.push((id.to_string(), handle));
        }
    }

    /// Begins a run that another one waits for, or goes on with it; how it ended and when, if it has.
    ///
    /// # Errors
    /// [`Error::IdConflict`] if a run of this id is there that is not this child; [`Error::NotFound`] if it was there and is no
    /// more.
    pub(crate) async fn begin_child(
        &self,
        parent: Parent,
        to_begin: ChildToBegin,
        by: RunWrite,
    ) -> Result<Option<(Ended, Timestamp)>> {
        let child = to_begin.child;
        let (id, hash) = (child.id.clone(), child.hash);
        let _lock = self.shared.locks.lock(&id).await;
        let mut record = self.shared.storage.record(&id).await?;
        // The child of an earlier run of the parent's id, which was deleted, is nobody's.
        let is_left_over = |record: &RunRecord| {
            let of = record.parent.as_ref();
            record.status.is_final()
                && of.is_some_and(|of| of.run == parent.run && of.incarnation != parent.incarnation)
        };
        if record.take_if(|record| is_left_over(record)).is_some() {
            match self.delete_locked(&id).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if record.is_none() {
            if to_begin.has_begun {
                return Err(Error::NotFound { run: id });
            }
            let plan = child.plan().ok_or_else(|| Error::Damaged {
                run: parent.run.clone(),
                damage: Damage::Missing {
                    what: "plan of a child run",
                },
            })?;
            let admission = self.shared.take_place_for_child()?;
            let parent = Some(parent.clone());
            let created = self.create(&id, plan, hash, admission, parent, Some(Box::new(by)));
            match created.await? {
                Some(_) => return Ok(None),
                None => record = Some(self.record(&id).await?),
            }
        }
        let record = record.ok_or_else(|| Error::NotFound { run: id.clone() })?;
        if record.parent.as_ref() != Some(&parent) || record.plan_hash != hash {
            return Err(Error::IdConflict { run: id });
        }
        if record.status.is_final() {
            let ended_at = record.ended_at;
            let ended_at = ended_at.unwrap_or_else(|| self.shared.clock.timestamp());
            return Ok(Some((self.stored_end(&id, &record).await?, ended_at)));
        }
        if self.seat(&id).is_none() && self.shared.status_of(&id, &record) == Status::Resumable {
            let slot = match self.shared.is_worker() {
                true => self.shared.take_slot_here(),
                // Its parent is here because a call was made here.
                false => Some(self.shared.take_slot_anyway()),
            };
            // Nobody owns it: without a slot here, it is left to whichever worker has one. Where another engine was faster,
            // that one goes on with it.
            if (slot.is_some() || !self.shared.takes_up_runs())
                && let Some(claimed) = self.claim(&id).await?
            {
                let (record, _guard) = (claimed.record, claimed.guard);
                self.begin(&id, record, slot).await?;
            }
        }
        Ok(None)
    }

    /// Takes a run over; `None` if another engine has it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such run.
    pub(super) async fn claim(&self, id: &RunId) -> Result<Option<Claimed>> {
        let mut claimed = self.claim_all(std::slice::from_ref(id)).await?;
        match claimed.pop().flatten() {
            Some(claimed) => Ok(Some(claimed)),
            None if self.shared.is_shared() => self.record(id).await.map(|_| None),
            None => Err(Error::NotFound { run: id.clone() }),
        }
    }

    async fn claim_all(&self, ids: &[RunId]) -> Result<Vec<Option<Claimed>>> {
        {
            let mut roster = self.shared.roster();
            if roster.is_closed {
                return Err(Error::ShutDown);
            }
            // Until a task drives them, they are this engine's by the store alone.
            roster.lost.extend(ids.iter().cloned());
        }
        let mut claimed = self.shared.claim(ids).await.inspect_err(|error| {
            self.shared.give_up_waiting(ids, error);
            self.shared.give_up_if_mine(ids.to_vec());
        })?;
        let mut roster = self.shared.roster();
        for (id, record) in ids.iter().zip(&mut claimed) {
            match record {
                Some(record) => roster.note_orphan(id, record),
                None => {
                    roster.lost.remove(id);
                }
            }
        }
        drop(roster);
        let claimed = ids.iter().zip(claimed).map(|(id, record)| {
            record.map(|record| Claimed {
                record,
                guard: ClaimGuard::new(&self.shared, id),
            })
        });
        Ok(claimed.collect())
    }

    /// Attaches to the run of this id, which has no seat, if it is stored and of this workflow.
    pub(super) async fn attach_if_stored(
        &self,
        id: &RunId,
        hash: [u8; 32],
    ) -> Result<Option<Attached>> {
        let Some(record) = self.shared.storage.record(id).await? else {
            return Ok(None);
        };
        let attached = self.attach_to_stored(id, Some(hash), record).await?;
        Ok(Some(attached))
    }

    /// Attaches to a run that has no seat: gives its end, goes on with it, or waits for it.
    pub(super) async fn attach_to_stored(
        &self,
        id: &RunId,
        hash: Option<[u8; 32]>,
        record: RunRecord,
    ) -> Result<Attached> {
        if hash.is_some_and(|hash| hash != record.plan_hash) {
            return Err(Error::IdConflict { run: id.clone() });
        }
        match self.shared.status_of(id, &record) {
            Status::Resumable if !self.shared.is_worker() => {
                let seat = self.shared.wait_elsewhere(id, &record)?;
                Ok(Attached::to(&seat))
            }
            Status::Suspended | Status::Resumable => self.take_over(id).await,
            Status::Pending | Status::Running if record.owner != Some(self.shared.node) => {
                let seat = self.shared.wait_elsewhere(id, &record)?;
                Ok(Attached::to(&seat))
            }
            Status::Pending | Status::Running => {
                // It waits outside memory: since the caller holds the lock of its id, it stays there until it has a seat.
                let seat = Seat::new(record.plan_hash);
                seat.report(super::read::progress_of(&record));
                let attached = Attached::to(&seat);
                let mut roster = self.shared.roster();
                if roster.is_closed {
                    // Those who wait were told of the shutdown; nobody would tell this one.
                    return Err(Error::ShutDown);
                }
                roster
                    .seats
                    .entry(id.clone())
                    .or_insert((SeatState::Parked, seat));
                Ok(attached)
            }
            Status::Successful | Status::Failed | Status::Canceled => {
                let progress = super::read::progress_of(&record);
                Ok(Attached::Ended(
                    self.stored_end(id, &record).await?,
                    progress,
                ))
            }
        }
    }

    /// Claims a run and goes on with it, or queues it.
    pub(super) async fn take_over(&self, id: &RunId) -> Result<Attached> {
        let claimed = self.claim(id).await?;
        self.go_on(id, claimed).await
    }

    /// Goes on with a run that was claimed, or queues it, or leaves it to whichever worker has a slot; waits for it if it was
    /// not, since another engine has it.
    async fn go_on(&self, id: &RunId, claimed: Option<Claimed>) -> Result<Attached> {
        let Some(claimed) = claimed else {
            let record = self.record(id).await?;
            let seat = self.shared.wait_elsewhere(id, &record)?;
            return Ok(Attached::to(&seat));
        };
        // After an error, it is given up.
        let (record, _guard) = (claimed.record, claimed.guard);
        let slot = self.shared.take_slot_here();
        match self.begin(id, record, slot).await? {
            Begun::Here(attached) => Ok(attached),
            Begun::NoSlot(record) => {
                let released = [(id.clone(), record.epoch)];
                // If that fails, it is tried again: the run goes on, if later.
                if self.shared.storage.release(&released).await.is_ok() {
                    self.shared.roster().lost.remove(id);
                }
                let seat = self.shared.wait_elsewhere(id, &record)?;
                self.shared.resumed.notify_waiters();
                Ok(Attached::to(&seat))
            }
        }
    }

    /// Goes on with a run that was claimed. Without a slot, it only goes on if it has nothing to execute; otherwise it waits
    /// for one, or is to be left to others if there are any.
    pub(super) async fn begin(
        &self,
        id: &RunId,
        record: RunRecord,
        slot: Option<Slot>,
    ) -> Result<Begun> {
        if matches!(
            record.status,
            StoredStatus::Successful | StoredStatus::Canceled
        ) {
            // It ended since it was looked at.
            let progress = super::read::progress_of(&record);
            let ended = self.stored_end(id, &record).await?;
            return Ok(Begun::Here(Attached::Ended(ended, progress)));
        }
        let shared = &self.shared;
        let seat = shared.seat_for(id, record.plan_hash);
        let attached = Attached::to(&seat);
        let mut opening = (!record.status.is_active()).then_some(Event::RunResumed);
        let is_resumed = opening.is_some();
        let needs = match slot {
            Some(_) => Needs::NoSlot,
            None if shared.is_worker() => shared.needs(id, &record).await?,
            None => Needs::Slot { has_mail: false },
        };
        if matches!(needs, Needs::NoSlot) {
            shared
                .load_and_drive(id, seat, record, opening, slot)
                .await?;
            if is_resumed {
                shared.resumed.notify_waiters();
            }
            return Ok(Begun::Here(attached));
        }
        let line = match record.status {
            StoredStatus::Running => Line::Interrupted,
            _ => Line::Pending,
        };
        let record = match opening.take() {
            Some(event) => {
                self.append(id, &record, event, StoredStatus::Pending)
                    .await?
            }
            None => record,
        };
        if shared.is_shared() {
            return Ok(Begun::NoSlot(record));
        }
        shared.enqueue(id, seat, record.epoch, line)?;
        if line == Line::Interrupted {
            // Its times and messages do not wait until it has a slot.
            if let Some(due_at) = record.wake_at {
                shared.set_timer(due_at, id.clone());
            }
            if matches!(needs, Needs::Slot { has_mail: true }) {
                shared.mail_arrived(id.clone());
            }
        }
        if is_resumed {
            shared.resumed.notify_waiters();
        }
        Ok(Begun::Here(attached))
    }
}

/// What a run needs that is to go on.
#[derive(Debug, Clone, Copy)]
enum Needs {
    /// It only waits.
    NoSlot,
    /// It has something to execute. `has_mail`: it waits for messages beside that, and there are some.
    Slot { has_mail: bool },
}

/// What became of a run that was to go on.
pub(super) enum Begun {
    /// It goes on, or waits for a slot, at this engine; or it has ended.
    Here(Attached),
    /// It has something to execute, and no slot. Another worker may have one.
    NoSlot(RunRecord),
}

impl Shared {
    async fn load_and_drive(
        self: &Arc<Self>,
        id: &RunId,
        seat: Arc<Seat>,
        record: RunRecord,
        opening: Option<Event>,
        slot: Option<Slot>,
    ) -> Result<()> {
        let run = self.load(id, &record).await?;
        seat.report(run.progress());
        let permits = Permits { slot, waking: None };
        self.drive(id.clone(), seat, run, record, opening, permits);
        self.look_at_mail(id);
        Ok(())
    }

    async fn load(&self, id: &RunId, record: &RunRecord) -> Result<Run> {
        let loaded = load_run(&*self.storage, id, record).await;
        // Nobody waits for one that cannot be read.
        loaded.inspect_err(|_| {
            self.roster().orphans.remove(id);
        })
    }

    /// Has a run that came into memory read its inbox: another engine may have asked it to stop.
    fn look_at_mail(&self, id: &RunId) {
        if !self.is_shared() {
            return;
        }
        if let Some((SeatState::Active(messages, _), _)) = self.roster().seats.get(id) {
            drop(messages.send(RunMessage::Mail));
        }
    }

    /// Tells those who wait for runs outside memory that these could not be claimed: nothing here will wake them.
    fn give_up_waiting(&self, ids: &[RunId], error: &StorageError) {
        let mut roster = self.roster();
        for id in ids {
            if let Some((SeatState::Parked | SeatState::Queued(..), seat)) = roster.seats.get(id) {
                let ended = Ended::Interrupted(error.clone());
                seat.ended.send_replace(Some(ended));
                roster.seats.remove(id);
                roster.slots.unqueue(id);
            }
        }
    }

    /// Whether a run that is to go on has something to execute before its time, event, child or next attempt comes.
    async fn needs(&self, id: &RunId, record: &RunRecord) -> Result<Needs> {
        if record.status == StoredStatus::Pending {
            // It has not begun, or was resumed with something to execute.
            return Ok(Needs::Slot { has_mail: false });
        }
        let mut run = self.load(id, record).await?;
        if !record.status.is_active() {
            let resumed = run.apply(Event::RunResumed);
            resumed.map_err(|error| super::unexpected(id, error.0))?;
        }
        if self.waits(&run) {
            return Ok(Needs::NoSlot);
        }
        let has_mail = !self.is_shared()
            && run.waits_for_others()
            && !self.storage.inbox(id, None, 1).await?.is_empty();
        Ok(Needs::Slot { has_mail })
    }

    /// Whether a run that was woken without a slot is to wait for one in the queue: it has something to execute that it had before
    /// it was interrupted, and nothing has come for it that it waits for beside that.
    fn is_to_queue(&self, record: &RunRecord, run: &Run) -> bool {
        if self.is_shared() {
            // A run that has something to execute is not kept without a slot.
            return false;
        }
        let now = self.clock.timestamp();
        let is_due = run.next_timer().is_some_and(|due_at| due_at <= now);
        record.status == StoredStatus::Pending
            || !(self.waits(run) || is_due || run.waits_for_others())
    }

    /// Whether a run has nothing to execute. A listener only waits.
    pub(super) fn waits(&self, run: &Run) -> bool {
        run.ready().all(|step| {
            let found = run
                .step_ref(step)
                .and_then(|step| self.find_step(&step.name, step.version));
            found.is_some_and(|found| found.def.options.waits)
        })
    }

    /// Takes a pending run into memory.
    pub(super) async fn promote(self: Arc<Self>, id: RunId, slot: Slot) {
        let _lock = self.locks.lock(&id).await;
        let seat = match self.roster().seats.get(&id) {
            Some((SeatState::Queued(..), seat)) => Arc::clone(seat),
            // It was canceled or suspended while it waited.
            _ => return,
        };
        let _promoted = self.promotes(&id);
        self.go_on_with(&id, seat, slot.into(), None).await;
    }

    /// Loads a run that this engine owns, if it was not `read` already, and drives it. Those who wait for it are told if that
    /// fails.
    pub(super) async fn go_on_with(
        self: &Arc<Self>,
        id: &RunId,
        seat: Arc<Seat>,
        permits: Permits,
        read: Option<ReadRun>,
    ) {
        let mut is_mine = false;
        let loaded = async {
            let (record, begun) = match read {
                Some(ReadRun { record, journal }) => (Some(record), journal),
                None => (self.storage.record(id).await?, Vec::new()),
            };
            let record = record.ok_or_else(|| Error::NotFound { run: id.clone() })?;
            if record.owner == Some(self.node) && record.status.is_active() {
                is_mine = true;
                let run = finish_load(&*self.storage, id, &record, begun).await?;
                return Ok::<_, Error>(Some((record, run)));
            }
            let record = self.claim_if_it_waits(id, record, begun).await?;
            let Some(record) = record else {
                return Ok(None);
            };
            is_mine = true;
            let run = load_run(&*self.storage, id, &record).await?;
            Ok(Some((record, run)))
        };
        let loaded = loaded.await;
        if loaded.is_err() {
            self.roster().orphans.remove(id);
        }
        let ended = match loaded {
            Ok(Some((record, run))) => {
                self.pauses.succeeded(id);
                let seat = if seat.plan_hash == record.plan_hash {
                    seat
                } else {
                    Seat::new(record.plan_hash)
                };
                if permits.slot.is_none() {
                    if self.is_to_queue(&record, &run) {
                        return self.queue_again(id, seat, &record);
                    }
                    self.roster().slots.unqueue(id);
                }
                self.drive(id.clone(), seat, run, record, None, permits);
                return self.look_at_mail(id);
            }
            Ok(None) => {
                self.pauses.succeeded(id);
                if self.goes_on_elsewhere(id, &seat) {
                    return;
                }
                Ended::Fenced
            }
            Err(Error::Storage(error)) if self.forget_unless_watched(id, &seat) => {
                let again_in = self.wake_again(id, Growth::OF_READS);
                return tracing::warn!(run = %id, %error, ?again_in, "run could not be read; trying again");
            }
            Err(error) => {
                tracing::warn!(run = %id, %error, "run could not be read; it is resumable");
                self.roster().lost.insert(id.clone());
                if is_mine && self.is_shared() {
                    self.leave_to_others(id);
                    self.give_up(id.clone());
                }
                Ended::Unreadable(error)
            }
        };
        let mut roster = self.roster();
        if roster
            .seats
            .get(id)
            .is_some_and(|(_, current)| Arc::ptr_eq(current, &seat))
        {
            roster.seats.remove(id);
            roster.slots.unqueue(id);
        }
        drop(roster);
        seat.ended.send_replace(Some(ended));
    }

    /// Takes over a run that was to be woken and that nobody owns, such as one whose owner is gone, if it has nothing to execute
    /// but what it waited for. No slot has to be free for that. A run that has is left to whoever has a slot.
    async fn claim_if_it_waits(
        self: &Arc<Self>,
        id: &RunId,
        record: RunRecord,
        begun: Vec<JournalEntry>,
    ) -> Result<Option<RunRecord>> {
        let is_free = record.owner.is_none() && record.status == StoredStatus::Running;
        if !is_free || !self.takes_up_runs() {
            return Ok(None);
        }
        match finish_load(&*self.storage, id, &record, begun).await {
            Ok(run) if self.waits(&run) => self.claim_one(id).await,
            Err(error @ Error::Storage(_)) => Err(error),
            // Whoever takes it up says what is wrong with it.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// Makes a run wait for a slot that was woken too early, unless it does so already.
    fn queue_again(self: &Arc<Self>, id: &RunId, seat: Arc<Seat>, record: &RunRecord) {
        let is_queued = matches!(
            self.roster().seats.get(id),
            Some((SeatState::Queued(..), _))
        );
        if !is_queued {
            let line = match record.status {
                StoredStatus::Running => Line::Interrupted,
                _ => Line::Pending,
            };
            // After a shutdown, those who wait have been told of it.
            drop(self.enqueue(id, seat, record.epoch, line));
        }
    }

    /// Takes away the seat of a run that could not be read, if nobody would be told of that; `false` if somebody is.
    fn forget_unless_watched(&self, id: &RunId, seat: &Arc<Seat>) -> bool {
        let mut roster = self.roster();
        if seat.is_watched() || roster.is_closed {
            return false;
        }
        let is_seat = |(_, current): &(SeatState, Arc<Seat>)| Arc::ptr_eq(current, seat);
        if roster.seats.get(id).is_some_and(is_seat) {
            roster.seats.remove(id);
            roster.slots.unqueue(id);
        }
        true
    }
}
