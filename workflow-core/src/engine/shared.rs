//! What an engine's tasks share, and who sits in memory.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keepstep_storage::{
    Build, Committed, DeleteOutcome, Epoch, NodeId, Parent, RunDelete, RunId, RunRecord, RunWrite,
    SendOutcome, Storage, StorageError, Timestamp,
};
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::claims::Claims;
use super::cluster::Cluster;
use super::home::Home;
use super::lock::KeyedLocks;
use super::pauses::{Growth, Pauses};
use super::probation::Probation;
use super::rests::Rests;
use super::slots::{Line, Slots};
use crate::actor::Residents;
use crate::clock::Clock;
use crate::error::{Error, Result, StepError, SuspendReason};
use crate::executor::{
    Abandoned, CommitRequest, Committer, Overdue, Reply, RunMessage, RunSender, Threads, Wake,
    deleted_bytes,
};
use crate::object::Objects;
use crate::registry::{Found, Registry};
use crate::remote::Remote;
use crate::resource::Resources;
use crate::run::StepId;
use crate::status::{Progress, Status};
use crate::step::StepDef;
use crate::value::Value;

/// What the tasks of an engine share.
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) registry: &'static Registry,
    /// What the runs that it starts say of the program.
    pub(crate) build: Build,
    pub(crate) resources: Arc<Resources>,
    pub(crate) clock: Clock,
    pub(crate) node: NodeId,
    pub(crate) step_permits: Arc<Semaphore>,
    pub(crate) blocking_permits: Arc<Semaphore>,
    pub(crate) threads: Threads,
    pub(crate) abandoned: Abandoned,
    pub(super) max_pending_runs: usize,
    /// A journal with fewer bytes than this is not compacted.
    pub(crate) compact_above: u64,
    /// Steps that are as if this program had them not.
    pub(super) lacking: Vec<String>,
    pub(crate) committer: Committer,
    pub(super) claims: Claims,
    pub(super) timers: mpsc::UnboundedSender<Wake>,
    /// One for each run that is being woken.
    pub(crate) wake_permits: Arc<Semaphore>,
    pub(super) random: Mutex<fastrand::Rng>,
    pub(super) roster: Mutex<Roster>,
    /// What there is to do because others share the store; `None` if nobody can.
    pub(super) cluster: Option<Cluster>,
    /// One call at a time changes a run that is not in execution.
    pub(super) locks: KeyedLocks,
    pub(crate) actors: Residents,
    pub(crate) remote: Remote,
    pub(crate) tasks: TaskTracker,
    /// A run that was suspended is so no more.
    pub(super) resumed: Notify,
    /// What failed, and until when it is not tried again.
    pub(crate) pauses: Pauses,
    pub(crate) overdue: Overdue,
    #[cfg(feature = "schedules")]
    pub(crate) looks_after_schedules: std::sync::atomic::AtomicBool,
    /// Canceled when the engine is dropped or begins to shut down: nothing begins any more.
    pub(crate) closing: CancellationToken,
    /// How often executions may be cut short in a row.
    pub(crate) max_interruptions: u32,
    pub(crate) opened_at: Timestamp,
    pub(super) probation: Probation,
    /// Where all its tasks are.
    pub(crate) home: Arc<Home>,
    /// Canceled when the engine is dropped or has shut down: everything stops where it is.
    pub(crate) halted: CancellationToken,
}

/// The runs of this engine that are in memory or somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// A map without a random order: runs are told of a shutdown in the order of their seats, and a simulation repeats it.
    pub(super) seats: FxHashMap<RunId, (SeatState, Arc<Seat>)>,
    pub(super) slots: Slots,
    /// Runs that this engine owns by the store, and whose task is gone: a write failed.
    pub(super) lost: HashSet<RunId>,
    /// Runs that this program cannot go on with, and until when it does not try again.
    pub(super) left_to_others: FxHashMap<RunId, tokio::time::Instant>,
    /// Runs that this engine has claimed from one that died, how often that was so in a row, and the epoch of the claim, until they are
    /// driven or given up.
    pub(super) orphans: FxHashMap<RunId, (u32, Epoch)>,
    /// Runs that were executing whenever the leases ended.
    pub(super) rests: Rests,
    /// Runs to release when the engine has shut down.
    pub(super) to_release: Vec<(RunId, Epoch)>,
    pub(super) is_closed: bool,
}

#[derive(Debug)]
pub(super) enum SeatState {
    /// It waits for a slot; its plan is in the store only.
    Queued(Epoch, Line),
    /// A task drives it.
    Active(RunSender, Epoch),
    /// It waits for a timer outside memory, and somebody waits for it.
    Parked,
    /// Another engine owns it, or will, and somebody here waits for it.
    Remote,
}

/// Where those who wait for a run are told of it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(super) plan_hash: [u8; 32],
    pub(super) ended: watch::Sender<Option<Ended>>,
    pub(super) progress: watch::Sender<Progress>,
}

impl Seat {
    pub(super) fn new(plan_hash: [u8; 32]) -> Arc<Self> {
        Arc::new(Self {
            plan_hash,
            ended: watch::Sender::new(None),
            progress: watch::Sender::default(),
        })
    }

    /// Shows how far the run is to whoever watches.
    pub(crate) fn report(&self, progress: Progress) {
        self.progress
            .send_if_modified(|shown| std::mem::replace(shown, progress) != progress);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.ended.receiver_count() + self.progress.receiver_count() > 0
    }
}

/// How a run left the engine.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    Successful(Value),
    Failed(Arc<StepError>),
    Canceled,
    Suspended(SuspendReason),
    /// It could not be written.
    Interrupted(StorageError),
    /// It belongs to somebody else.
    Fenced,
    /// It may belong to somebody else.
    LeaseLost,
    /// It needs a step that this program has not.
    LeftToOthers,
    /// It could not be read.
    Unreadable(Error),
    ShutDown,
    /// The engine's runtime is no more.
    NoRuntime,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("storage", &self.storage.describe())
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.objects.close();
    }
}

/// The right to be one of the runs that are being woken.
pub(crate) type WakePermit = OwnedSemaphorePermit;

/// The value itself, from the blobs it is in.
pub(crate) async fn load_value(value: Value, storage: &dyn Storage) -> Result<Value, StorageError> {
    let mut ids = Vec::new();
    value.for_each_part(&mut |id| ids.push(id));
    if ids.is_empty() {
        return Ok(value);
    }
    ids.sort_unstable();
    ids.dedup();
    let mut blobs = FxHashMap::default();
    for id in ids {
        blobs.insert(id, storage.blob(&id).await?);
    }
    Ok(value.with_parts(&|id| blobs.get(&id).cloned()))
}

impl Shared {
    pub(super) fn roster(&self) -> MutexGuard<'_, Roster> {
        // Nothing that holds the lock can panic half-way through a change.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A random number from 0 up to 1.
    pub(crate) fn random(&self) -> f64 {
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .f64()
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .u64(..)
    }

    /// Hands a write to the committer.
    pub(crate) fn commit(&self, request: CommitRequest) {
        if let Err(request) = self.committer.send(request) {
            let location = self.storage.describe().location;
            request.reply.send(Err(StorageError::Closed { location }));
        }
    }

    /// Commits a write with those that are to be taken only with it, and its messages, and waits until all is durable. It is on its
    /// way when this returns: who waits has no room for it.
    pub(crate) fn commit_all(
        &self,
        write: Option<RunWrite>,
        with: Vec<RunWrite>,
        messages: Vec<keepstep_storage::Send>,
    ) -> impl Future<Output = Result<Committed>> + Send + use<> {
        let (reply, committed) = oneshot::channel();
        self.commit(CommitRequest {
            write,
            with,
            messages,
            deletes: Vec::new(),
            deleted_bytes: 0,
            reply: Reply::Once(reply),
        });
        let home = Arc::clone(&self.home);
        async move {
            match committed.await {
                Ok(Err(StorageError::Closed { .. })) | Err(_) if !home.takes_tasks() => {
                    Err(Error::RuntimeEnded)
                }
                Ok(committed) => Ok(committed?),
                Err(_) => Err(Error::ShutDown),
            }
        }
    }

    /// Removes a run or another record, if it is still as `record` says. That is durable when this returns.
    pub(crate) async fn delete(&self, run: &RunId, record: &RunRecord) -> Result<DeleteOutcome> {
        let delete = RunDelete {
            run: run.clone(),
            epoch: record.epoch,
            node: self.node,
            family: None,
        };
        let outcomes = self.delete_all(vec![delete], deleted_bytes(record)).await?;
        let outcome = outcomes.first().copied();
        Ok(outcome.unwrap_or(DeleteOutcome::NotFound))
    }

    /// Removes runs in one commit, to which that adds so many bytes. It is durable when this returns.
    pub(crate) async fn delete_all(
        &self,
        deletes: Vec<RunDelete>,
        bytes: usize,
    ) -> Result<Vec<DeleteOutcome>> {
        let (reply, committed) = oneshot::channel();
        let request = CommitRequest::deletes(deletes, bytes, Reply::Once(reply));
        self.commit(request);
        let committed = committed.await.map_err(|_| Error::ShutDown)??;
        Ok(committed.deletes)
    }

    /// Claims runs, together with whoever else does now: what they are from then on, `None` for one that another engine has.
    pub(super) async fn claim(
        &self,
        ids: &[RunId],
    ) -> Result<Vec<Option<RunRecord>>, StorageError> {
        let claimed = self.claims.claim(ids).await;
        claimed.unwrap_or_else(|| {
            let location = self.storage.describe().location;
            Err(StorageError::Closed { location })
        })
    }

    /// Sends a message, which is durable when this returns, if the outcome is that it was accepted.
    pub(crate) async fn send(&self, message: keepstep_storage::Send) -> Result<SendOutcome> {
        let committed = self.commit_all(None, Vec::new(), vec![message]).await?;
        Ok(committed
            .messages
            .first()
            .copied()
            .unwrap_or(SendOutcome::NotFound))
    }

    pub(crate) fn set_timer(&self, due_at: Timestamp, run: RunId) {
        drop(self.timers.send(Wake::At(due_at, run)));
    }

    /// Has a run woken whose pause ends at this time, and also at this moment if the clock is set back until then.
    pub(crate) fn set_pause(&self, ends_at: Timestamp, moment: tokio::time::Instant, run: RunId) {
        drop(self.timers.send(Wake::Paused(ends_at, moment, run.clone())));
        self.set_timer(ends_at, run);
    }

    /// Has due times looked up in the store that an earlier opening left there.
    pub(crate) fn look_up_timers(&self) {
        drop(self.timers.send(Wake::LookUp));
    }

    pub(crate) fn locks(&self) -> &KeyedLocks {
        &self.locks
    }

    /// The status that a record means.
    pub(super) fn status_of(&self, run: &RunId, record: &RunRecord) -> Status {
        let is_owned = match record.owner {
            Some(owner) if owner == self.node => !self.roster().lost.contains(run),
            // Its lease lasts, or the store would not name it.
            Some(_) => self.is_shared(),
            None => false,
        };
        Status::of(record.status, is_owned)
    }

    /// The step of a name and version, if this program has it.
    pub(crate) fn find_step(&self, name: &str, version: u32) -> Option<Found> {
        if self.lacking.iter().any(|lacking| lacking == name) {
            return None;
        }
        self.registry.find(name, version)
    }

    /// Checks that the engine has what these steps need.
    pub(crate) fn check_resources(&self, defs: &[&'static StepDef]) -> Result<()> {
        let missing = defs
            .iter()
            .flat_map(|def| def.resources.iter().map(move |need| (def, need)));
        match missing
            .into_iter()
            .find(|(_, need)| !self.resources.contains((need.type_id)()))
        {
            None => Ok(()),
            Some((def, need)) => Err(Error::MissingResource {
                step: def.name.to_owned(),
                param: need.param.to_owned(),
                type_name: (need.type_name)().to_owned(),
            }),
        }
    }

    /// The value itself, from the blobs it is in.
    pub(crate) async fn load_value(&self, value: Value) -> Result<Value, StorageError> {
        load_value(value, &*self.storage).await
    }

    /// Whether the engine shuts down, or has halted.
    pub(crate) fn is_closing(&self) -> bool {
        self.roster().is_closed || self.halted.is_cancelled()
    }

    /// Has a run with mail told of it, or woken.
    pub(super) fn mail_arrived(&self, id: RunId) {
        drop(self.timers.send(Wake::Mail(id)));
    }

    /// A run has mail: its task is told; `true` if it waits outside memory and is to be woken.
    pub(crate) fn is_to_be_woken(&self, id: &RunId) -> bool {
        if id.parts().next().is_some() {
            // Of an actor, whose caller has told it.
            return false;
        }
        match self.roster().seats.get(id) {
            Some((SeatState::Active(messages, _), _)) => {
                drop(messages.send(RunMessage::Mail));
                false
            }
            // It reads its mail when it begins.
            Some((SeatState::Queued(_, Line::Pending), _)) => false,
            // What it waits for beside its steps may have come.
            Some((SeatState::Queued(_, Line::Interrupted), _)) => true,
            Some((SeatState::Parked | SeatState::Remote, _)) | None => true,
        }
    }

    /// A child run is not driven any more, and has not ended: its parent, if it is this engine's, looks after it. Not at once, and
    /// ever later: what failed may fail again, and bodies would be executed again.
    fn child_was_lost(self: &Arc<Self>, child: &RunId, parent: &Parent) {
        let now = self.clock.instant();
        let growth = Growth::OF_CHILDREN;
        let until = self.pauses.failed(child, growth, now, self.random());
        let (shared, parent) = (Arc::clone(self), parent.clone());
        self.spawn(async move {
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => return,
                () = shared.clock.sleep_until(until) => {}
            }
            shared.look_after_child(&parent);
        });
    }

    fn look_after_child(self: &Arc<Self>, parent: &Parent) {
        if let Some((SeatState::Active(messages, _), _)) = self.roster().seats.get(&parent.run) {
            let step = StepId(parent.step);
            return drop(messages.send(RunMessage::ChildWasLost(step)));
        }
        self.unpark(parent.run.clone(), None);
    }

    /// A run's task is over. It gives its slot back itself.
    pub(crate) fn leave(
        self: &Arc<Self>,
        id: &RunId,
        parent: Option<&Parent>,
        seat: &Arc<Seat>,
        ended: Ended,
    ) {
        if matches!(
            ended,
            Ended::Fenced | Ended::LeaseLost | Ended::LeftToOthers
        ) {
            if matches!(ended, Ended::LeftToOthers) {
                self.leave_to_others(id);
            }
            let mut is_given_up = false;
            if matches!(ended, Ended::LeaseLost | Ended::LeftToOthers) {
                let mut roster = self.roster();
                let is_active = |(state, current): &(SeatState, Arc<Seat>)| {
                    matches!(state, SeatState::Active(..)) && Arc::ptr_eq(current, seat)
                };
                is_given_up = roster.seats.get(id).is_some_and(is_active);
                if is_given_up {
                    // Before its seat goes: until the store has it back, it is still this engine's by the store alone.
                    roster.lost.insert(id.clone());
                }
            }
            if self.goes_on_elsewhere(id, seat) {
                match ended {
                    Ended::LeaseLost if is_given_up => self.give_up_lost_run(id, seat),
                    Ended::LeftToOthers if is_given_up => self.give_up(id.clone()),
                    _ => {}
                }
                return;
            }
        }
        let mut is_given_up = false;
        {
            let mut roster = self.roster();
            if roster
                .seats
                .get(id)
                .is_some_and(|(_, current)| Arc::ptr_eq(current, seat))
                && let Some((SeatState::Active(_, epoch), _)) = roster.seats.remove(id)
            {
                match &ended {
                    Ended::ShutDown | Ended::NoRuntime => {
                        roster.to_release.push((id.clone(), epoch));
                    }
                    Ended::Interrupted(_)
                    | Ended::Unreadable(_)
                    | Ended::Suspended(SuspendReason::Invariant { .. })
                        if self.is_shared() =>
                    {
                        is_given_up = true;
                    }
                    _ => {}
                }
            }
            let is_lost = matches!(
                ended,
                Ended::Interrupted(_)
                    | Ended::Unreadable(_)
                    | Ended::ShutDown
                    | Ended::NoRuntime
                    | Ended::LeaseLost
                    | Ended::LeftToOthers
                    | Ended::Suspended(SuspendReason::Invariant { .. })
            );
            if is_lost {
                roster.lost.insert(id.clone());
            }
        }
        if is_given_up {
            // Others may succeed where this engine would fail again.
            if !matches!(&ended, Ended::Interrupted(error) if error.is_retryable()) {
                self.leave_to_others(id);
            }
            self.give_up(id.clone());
        }
        match (&ended, parent) {
            (Ended::Interrupted(_), Some(parent)) => self.child_was_lost(id, parent),
            _ => self.pauses.succeeded(id),
        }
        seat.ended.send_replace(Some(ended));
    }

    /// Lets a run leave memory until a timer; `false` if a message came for it.
    pub(crate) fn park(
        self: &Arc<Self>,
        id: &RunId,
        seat: &Arc<Seat>,
        messages: &mut mpsc::UnboundedReceiver<RunMessage>,
    ) -> bool {
        {
            let mut roster = self.roster();
            // Messages are sent under the same lock, so none can come after this look, but for a slot, which gives itself back.
            if !messages.is_empty() || roster.is_closed {
                return false;
            }
            messages.close();
            if seat.is_watched() {
                roster
                    .seats
                    .insert(id.clone(), (SeatState::Parked, Arc::clone(seat)));
            } else {
                roster.seats.remove(id);
            }
        }
        true
    }
}
