//! The engine: opened on a store, executes runs. This file has opening, starting and shutting down.

mod build;
mod builder;
mod child;
mod claims;
mod cluster;
mod elsewhere;
mod executable;
mod family;
mod give_up;
mod global;
mod handle;
mod home;
mod leases;
mod list;
mod lock;
mod pauses;
mod probation;
mod queue;
mod read;
mod rests;
mod resume;
mod send;
mod shared;
mod slots;
mod stop;
mod wake;

use std::fmt;
use std::sync::Arc;

use keepstep_storage::{Epoch, Parent, Position, RunId, RunRecord, RunWrite, WriteOutcome};
use serde::de::DeserializeOwned;
use tokio_util::sync::DropGuard;

pub use build::BuildInfo;
pub use builder::{EngineBuilder, StorageSource};
use child::Begun;
pub(crate) use child::{ChildEnd, NewRun};
pub use global::{
    cancel, check, default_engine, delete, init, list, metadata, output, resume, resume_all, run,
    send_event, start, status, step_output, suspend, try_init,
};
pub use handle::{Handle, ProgressStream};
pub use list::{Cursor, Filter, Page, RunSummary};
pub(crate) use pauses::Growth;
pub(crate) use probation::OnProbation;
pub use read::Metadata;
pub use send::SendEvent;
pub(crate) use shared::{Ended, Seat, Shared, WakePermit, load_value};
#[cfg(feature = "schedules")]
pub(crate) use slots::Admission;
pub(crate) use slots::Slot;

use crate::actor::current_call;
use crate::context::try_context;
use crate::error::{Error, Result};
use crate::executor::{RunMessage, RunTask, run_channel};
use crate::plan::{self, Plan, flatten};
use crate::run::{Event, Run};
use crate::source::Source;
use crate::value::Value;
use crate::workflow::Workflow;
use handle::Attached;
use shared::SeatState;
#[cfg(not(feature = "schedules"))]
use slots::Admission;
use slots::{Line, Permits};

/// Executes durable runs on a store.
///
/// Cloning is cheap and gives another handle on the same engine. When the last one is dropped, everything stops where it
/// is, as in a crash; [`shutdown`](Self::shutdown) stops in good order.
///
/// An engine does all its work in the tokio runtime in which it was opened. It may be used from other runtimes and threads. When its own
/// runtime ends, so does the engine: every call returns [`Error::RuntimeEnded`], and a directory can be opened again.
///
/// Opening an engine runs nothing: runs that a crash left behind are [`Resumable`](crate::Status::Resumable) until
/// [`resume`](Self::resume), [`resume_all`](Self::resume_all), or `run` with the same id and workflow goes on with them;
/// [`EngineBuilder::resume_on_open`] does so at once.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    /// `None` for what the engine itself does: it does not keep the engine going.
    _halts_when_dropped: Option<Arc<DropGuard>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl Engine {
    /// Opens an engine on a directory, which is made if there is none, or a storage URL: `"memory:"` for the whole engine
    /// without a disk, `"sled:path"`, `"redb:path"`, `"fjall:path"` (the last two behind features of their names).
    ///
    /// # Errors
    /// [`Error::Storage`] says why the store cannot be opened: it is in use, damaged, of an unknown format, or not a
    /// store. [`Error::DuplicateStep`] if two steps of the program have one name and version.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// let engine = keepstep_core::Engine::open("memory:").await?;
    /// engine.shutdown().await
    /// # }
    /// ```
    pub async fn open(path_or_url: impl AsRef<str>) -> Result<Self> {
        Self::builder().open(path_or_url).await
    }

    /// An engine with resources and limits.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// let engine = keepstep_core::Engine::builder().max_running_runs(100).open("memory:").await?;
    /// engine.shutdown().await
    /// # }
    /// ```
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// What the engine's store is, and what it survives.
    #[must_use]
    pub fn storage(&self) -> keepstep_storage::Description {
        self.shared.storage.describe()
    }

    /// Wins back space in the store: removes large values and [objects](crate::ObjectRef) that no run names any more and no
    /// reference in memory is to, and compacts. It may take long;
    /// runs go on meanwhile, some of their commits more slowly.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn maintain(&self) -> Result<keepstep_storage::Maintained> {
        self.shared.check_runtime()?;
        self.shared.objects.let_go();
        Ok(self.shared.storage.maintain().await?)
    }

    /// Runs a workflow to its end and returns its output, both durable.
    ///
    /// The same id again, with the same workflow: attaches while it runs, goes on with it if it was interrupted or suspended,
    /// and returns the stored output or failure once it has ended; nothing is run twice.
    ///
    /// # Errors
    /// [`Error::IdConflict`] if a run of this id is of another workflow; [`Error::Failed`], [`Error::Canceled`] and
    /// [`Error::Suspended`] as the run ends; [`Error::InsideStep`] inside a step; and what [`start`](Self::start) returns.
    pub async fn run<T: DeserializeOwned + 'static>(
        &self,
        id: impl AsRef<str>,
        workflow: impl std::borrow::Borrow<Workflow<T>>,
    ) -> Result<T> {
        forbid_in_step("run")?;
        self.start(id, workflow).await?.await
    }

    /// Starts a run. When this returns, the run is durable: it will end whatever happens to this process, as long as somebody
    /// resumes it.
    ///
    /// # Errors
    /// [`Error::InvalidRunId`], [`Error::IdConflict`], [`Error::MissingResource`], [`Error::Unencodable`],
    /// [`Error::QueueFull`], [`Error::InsideStep`], [`Error::ObjectNotFound`], [`Error::SpawnFailed`], [`Error::ShutDown`],
    /// [`Error::Storage`]. Nothing is stored then.
    pub async fn start<T>(
        &self,
        id: impl AsRef<str>,
        workflow: impl std::borrow::Borrow<Workflow<T>>,
    ) -> Result<Handle<T>> {
        self.shared.check_runtime()?;
        forbid_in_step("start")?;
        let id = RunId::new(id)?;
        let mut flattened = flatten(workflow.borrow().node())?;
        self.shared.check_resources(&flattened.defs)?;
        // What it refers to is a part of what makes it this workflow.
        let objects = &self.shared.objects;
        objects.settle_plan(&mut flattened.plan).await?;
        let (engine, to) = (self.clone(), id.clone());
        let submit = async move { engine.submit(&to, flattened.plan).await };
        let attached = self.to_its_end(submit).await?;
        Ok(Handle::new(self.clone(), id, attached))
    }

    /// Does something in a task of its own: a caller that stops waiting must not leave it half done, such as a run that is
    /// stored and that nothing drives.
    fn to_its_end<T: Send + 'static, W: Future<Output = Result<T>> + Send + 'static>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T>> + Send + use<T, W> {
        // Not an async function: who waits would have room for the work, too, which is done elsewhere.
        let working = self.shared.spawn(work);
        let shared = Arc::clone(&self.shared);
        async move {
            match working.await {
                Ok(done) => shared.explained(done),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Err(shared.over()),
                },
            }
        }
    }

    async fn submit(&self, id: &RunId, plan: Plan) -> Result<Attached> {
        let hash = plan::hash(&plan);
        let _lock = self.shared.locks.lock(id).await;
        if let Some(seat) = self.seat(id) {
            return if seat.plan_hash == hash {
                Ok(Attached::to(&seat))
            } else {
                Err(Error::IdConflict { run: id.clone() })
            };
        }
        let admission = match self.shared.take_place() {
            Ok(admission) => admission,
            // A run that is there needs no place in the queue.
            Err(full @ Error::QueueFull { .. }) => {
                return Box::pin(self.attach_if_stored(id, hash)).await?.ok_or(full);
            }
            Err(error) => return Err(error),
        };
        if let Some(attached) = self.create(id, plan, hash, admission, None, None).await? {
            return Ok(attached);
        }
        Box::pin(self.attach_if_stored(id, hash))
            .await?
            .ok_or_else(|| Error::NotFound { run: id.clone() })
    }

    /// Makes a new run durable, and starts or queues it; `None` if there is one of this id.
    async fn create(
        &self,
        id: &RunId,
        plan: Plan,
        hash: [u8; 32],
        admission: Admission,
        parent: Option<Parent>,
        by: Option<Box<RunWrite>>,
    ) -> Result<Option<Attached>> {
        let parent_run = parent.as_ref().map(|parent| parent.run.clone());
        let is_admitted = matches!(admission, Admission::Run(_));
        let new = self.shared.new_run(id, plan, hash, is_admitted, parent);
        let (begun, written) = self.write_new(new.await?, by, &admission);
        let written = written.await.inspect_err(|_| {
            // It may be there all the same; then it is nobody's.
            self.shared.roster().lost.insert(id.clone());
            self.shared.give_up_if_mine(vec![id.clone()]);
        });
        match written? {
            WriteOutcome::Written => {}
            WriteOutcome::Exists => return Ok(None),
            WriteOutcome::BlobMissing { blob: object } => {
                return Err(Error::ObjectNotFound { object });
            }
            WriteOutcome::Fenced { .. } | WriteOutcome::NotFound | WriteOutcome::Skipped => {
                let run = parent_run.unwrap_or_else(|| id.clone());
                return Err(Error::Fenced { run });
            }
        }
        let seat = Seat::new(hash);
        let attached = Attached::to(&seat);
        let Begun { run, record } = *begun;
        match admission {
            Admission::Run(slot) => {
                self.shared
                    .drive_created(id.clone(), seat, run, record, slot);
            }
            Admission::Queue(_place) => {
                self.shared.enqueue(id, seat, record.epoch, Line::Pending)?;
            }
            // A child says by mail how it ended; nobody waits here.
            Admission::Offer if parent_run.is_some() => {}
            Admission::Offer => {
                let seat = self.shared.wait_elsewhere(id, &record)?;
                return Ok(Some(Attached::to(&seat)));
            }
        }
        Ok(Some(attached))
    }

    /// Commits the write that creates a run. One that is created by a run is so only while its creator owns that: `by` is a
    /// write that leaves the creator as it is.
    fn write_new(
        &self,
        new: NewRun,
        by: Option<Box<RunWrite>>,
        admission: &Admission,
    ) -> (
        Box<Begun>,
        impl Future<Output = Result<WriteOutcome>> + Send + use<>,
    ) {
        let NewRun { mut write, run } = new;
        if matches!(admission, Admission::Offer) {
            write.record.owner = None;
        }
        let record = write.record.clone();
        let begun = Box::new(Begun { run, record });
        let (place, first, with) = match by {
            None => (0, write, Vec::new()),
            Some(by) => (1, *by, vec![write]),
        };
        let committed = self.shared.commit_all(Some(first), with, Vec::new());
        let written = async move {
            let outcome = committed.await?.writes.get(place).copied();
            Ok(outcome.unwrap_or(WriteOutcome::NotFound))
        };
        (begun, written)
    }

    /// Commits a write that no run's task makes.
    fn write(
        &self,
        write: RunWrite,
        letters: Vec<keepstep_storage::Send>,
    ) -> impl Future<Output = Result<WriteOutcome>> + Send + use<> {
        let committed = self.shared.commit_all(Some(write), Vec::new(), letters);
        async move {
            let first = committed.await?.writes.first().copied();
            Ok(first.unwrap_or(WriteOutcome::NotFound))
        }
    }

    /// The seat of a run that is in memory or waited for.
    fn seat(&self, id: &RunId) -> Option<Arc<Seat>> {
        self.shared
            .roster()
            .seats
            .get(id)
            .map(|(_, seat)| Arc::clone(seat))
    }

    /// Stops in good order: takes nothing new, stops the bodies that are executing (they run again when their runs are
    /// resumed), finishes the commit under way, gives the runs up and closes the store, so that it can be opened again.
    ///
    /// Waiting handles get [`Error::ShutDown`]. Calling it again does nothing.
    ///
    /// # Errors
    /// [`Error::Storage`] if the store could not be closed; it is closed as far as it goes. [`Error::RuntimeEnded`] if the runtime
    /// that the engine was opened in has ended: the engine stopped with it, and not in good order. The store is closed then, too.
    pub async fn shutdown(&self) -> Result<()> {
        if self.shared.home.has_ended() {
            // That may have been done already.
            drop(self.shared.storage.close().await);
            return Err(Error::RuntimeEnded);
        }
        let stopped = match self.halt().await {
            Ok(false) => Ok(()),
            stopped => {
                let closed = self.shared.storage.close().await;
                stopped.map(drop).and(closed.map_err(Error::from))
            }
        };
        self.shared.explained(stopped)
    }

    /// Stops, and leaves the store open. `false` if that was done before.
    pub(crate) async fn halt(&self) -> Result<bool> {
        let shared = &self.shared;
        let was_closed = std::mem::replace(&mut shared.roster().is_closed, true);
        shared.closing.cancel();
        if was_closed {
            shared.tasks.wait().await;
            return Ok(false);
        }
        {
            let mut roster = shared.roster();
            roster.slots.clear();
            let mut queued = Vec::new();
            for (id, (state, seat)) in &roster.seats {
                match state {
                    SeatState::Active(messages, _) => drop(messages.send(RunMessage::ShutDown)),
                    SeatState::Queued(epoch, _) => {
                        queued.push((id.clone(), *epoch));
                        seat.ended.send_replace(Some(Ended::ShutDown));
                    }
                    SeatState::Parked | SeatState::Remote => {
                        drop(seat.ended.send_replace(Some(Ended::ShutDown)));
                    }
                }
            }
            roster.to_release.extend(queued);
        }
        shared.actors.shut_down();
        shared.remote.shut_down();
        shared.tasks.close();
        shared.tasks.wait().await;
        let to_release = std::mem::take(&mut shared.roster().to_release);
        let released = if to_release.is_empty() {
            Ok(())
        } else {
            shared.storage.release(&to_release).await
        };
        let released = match &shared.cluster {
            // Runs that wait outside memory, too, are anybody's at once.
            Some(cluster) => {
                let ended = cluster.leases.end(&*shared.storage, shared.node);
                released.and(ended.await)
            }
            None => released,
        };
        shared.halted.cancel();
        shared.objects.close();
        released.map(|()| true).map_err(Error::from)
    }
}

impl Shared {
    /// Starts the task of a run. Without a slot, the run asks for one before it executes anything.
    fn drive(
        self: &Arc<Self>,
        id: RunId,
        seat: Arc<Seat>,
        run: Run,
        record: RunRecord,
        opening: Option<Event>,
        permits: Permits,
    ) {
        let channel = run_channel();
        let mut run = run;
        // Whoever set it going before its pause was over: its timers count again.
        self.pauses.is_over(&id, self.clock.instant());
        // A run that has the id of one that was claimed and not driven is another.
        let is_orphan = { self.roster().orphans.remove(&id) }
            .filter(|(_, epoch)| *epoch == record.epoch)
            .map(|(times, _)| times);
        let (opening, probation) = match opening {
            None if is_orphan.is_some() => self.after_interruption(&id, is_orphan, &mut run),
            opening => (opening, None),
        };
        {
            let mut roster = self.roster();
            roster.lost.remove(&id);
            if roster.is_closed {
                // The messages of a shutdown have been sent.
                drop(channel.0.send(RunMessage::ShutDown));
            }
            roster.seats.insert(
                id.clone(),
                (
                    SeatState::Active(channel.0.clone(), record.epoch),
                    Arc::clone(&seat),
                ),
            );
        }
        let span = tracing::info_span!("run", run = %id, workflow = record.workflow);
        let mut task = Box::new(RunTask::new(
            Arc::clone(self),
            seat,
            id,
            run,
            record,
            opening,
            channel,
        ));
        task.waking = permits.waking;
        task.probation = probation;
        task.begin_with(permits.slot);
        self.spawn(tracing::Instrument::instrument(task.drive(), span));
    }

    /// Starts the task of a run that was created just now. The leases may have ended while that was written, and no claim has
    /// taken new ones since: others take the run.
    fn drive_created(
        self: &Arc<Self>,
        id: RunId,
        seat: Arc<Seat>,
        run: Run,
        record: RunRecord,
        slot: Slot,
    ) {
        self.drive(id.clone(), seat, run, record, None, slot.into());
        if self.has_lost_leases()
            && let Some((SeatState::Active(messages, _), _)) = self.roster().seats.get(&id)
        {
            drop(messages.send(RunMessage::LeaseLost));
        }
    }

    /// Makes a run outside memory wait for a slot.
    fn enqueue(
        self: &Arc<Self>,
        id: &RunId,
        seat: Arc<Seat>,
        epoch: Epoch,
        line: Line,
    ) -> Result<()> {
        {
            let mut roster = self.roster();
            roster.lost.remove(id);
            if roster.is_closed {
                roster.to_release.push((id.clone(), epoch));
                drop(roster);
                return Err(self.over());
            }
            roster
                .seats
                .insert(id.clone(), (SeatState::Queued(epoch, line), seat));
            roster.slots.queue(id.clone(), line);
        }
        // A slot may have become free since this run did not get one.
        self.fill_slots();
        Ok(())
    }
}

/// The catalog's record of a run is small, whatever its last step is named.
fn shortened(label: &str) -> String {
    const MAX_BYTES: usize = 256;
    let mut end = label.len().min(MAX_BYTES);
    while !label.is_char_boundary(end) {
        end -= 1;
    }
    label[..end].to_owned()
}

/// Running a workflow from inside a step would hide it from the run, and wait for it while holding a place.
fn forbid_in_step(call: &'static str) -> Result<()> {
    let of_step = try_context().map(|context| context.step_name().to_owned());
    match current_call()
        .map(|call| call.method.to_owned())
        .or(of_step)
    {
        None => Ok(()),
        Some(step) => Err(Error::InsideStep { call, step }),
    }
}

fn unexpected(run: &RunId, what: &'static str) -> Error {
    let damage = crate::error::Damage::Entry {
        at: Position(0),
        what: what.to_owned(),
    };
    Error::Damaged {
        run: run.clone(),
        damage,
    }
}

/// Decodes what a caller asked for.
fn decode<T: DeserializeOwned>(
    shared: &Shared,
    value: Value,
    what: impl FnOnce() -> String,
) -> Result<T> {
    let decoded = Source::Value(value).decode_in(&shared.objects);
    decoded.map_err(|error| Error::Undecodable {
        what: what(),
        type_name: std::any::type_name::<T>(),
        field: error.field,
        message: error.message,
    })
}

impl<T> Workflow<T> {
    /// Runs this workflow on the default engine: see [`Engine::run`] and [`init`].
    ///
    /// # Errors
    /// As [`Engine::run`], and what opening the default engine returns.
    pub async fn run(&self, id: impl AsRef<str>) -> Result<T>
    where
        T: DeserializeOwned + 'static,
    {
        global::run(id, self).await
    }

    /// Starts this workflow on the default engine: see [`Engine::start`] and [`init`].
    ///
    /// # Errors
    /// As [`Engine::start`], and what opening the default engine returns.
    pub async fn start(&self, id: impl AsRef<str>) -> Result<Handle<T>> {
        global::start(id, self).await
    }
}
