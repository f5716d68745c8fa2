//! Runs that are started for something else than a caller: they are written with what started them, and driven after.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use keepstep_storage::{
    Epoch, Expect, Parent, Position, RunId, RunKind, RunRecord, RunWrite, StoredStatus, ValueKey,
};

use super::cluster::LOOK_EVERY;
use super::handle::Attached;
use super::shared::{Ended, Seat, Shared};
#[cfg(feature = "schedules")]
use super::slots::{Admission, Line};
use super::{Engine, shortened, unexpected};
use crate::error::{Error, Result};
use crate::journal::{EntryWriter, MAX_PLAN_BYTES};
use crate::plan::Plan;
use crate::run::{Event, Run};
use crate::value::Value;

/// A run that is to be made durable, and then driven.
pub(crate) struct NewRun {
    pub(crate) write: RunWrite,
    pub(crate) run: Run,
}

/// What a run begins with, put aside while its first write is under way: thousands may wait for theirs, each in a task of its own.
pub(super) struct Begun {
    pub(super) run: Run,
    pub(super) record: RunRecord,
}

/// How a run that somebody waited for came to rest.
pub(crate) enum ChildEnd {
    /// It has ended, however.
    Final,
    /// It is suspended, and goes on when somebody resumes it.
    Suspended(Error),
    /// It was suspended, and is so no more.
    Resumed,
    /// It goes on when somebody waits for it again.
    Stopped(Error),
}

impl Shared {
    /// The write that creates a run, and the run as it begins.
    pub(crate) async fn new_run(
        &self,
        id: &RunId,
        plan: Plan,
        hash: [u8; 32],
        is_admitted: bool,
        parent: Option<Parent>,
    ) -> Result<NewRun> {
        let root = plan.root();
        let workflow = shortened(plan.label(root));
        let metadata = plan
            .node(root)
            .extra
            .as_ref()
            .and_then(|extra| extra.metadata.clone());
        let plan = Arc::new(self.objects.keep_plan(plan).await?);
        let event = Event::Created { plan };
        let mut run = Run::default();
        let mut entry = EntryWriter::default();
        let mut blobs = event.blobs();
        blobs.extend(self.build.executable);
        entry.push(&event).map_err(|_| Error::PlanTooLarge)?;
        if entry.len() as u64 > MAX_PLAN_BYTES {
            return Err(Error::PlanTooLarge);
        }
        // Folding a plan that was just made cannot fail.
        run.apply(event).map_err(|error| unexpected(id, error.0))?;
        let now = self.clock.timestamp();
        // What waits from the very beginning does so in the first commit already, and needs no second one.
        let steps = if is_admitted {
            run.take_clocks()
        } else {
            Vec::new()
        };
        if !steps.is_empty() {
            let event = Event::ClockStarted { at: now, steps };
            entry.push(&event).map_err(|_| Error::PlanTooLarge)?;
            run.apply(event).map_err(|error| unexpected(id, error.0))?;
        }
        let entry = entry.finish(Position(0));
        let record = RunRecord {
            kind: RunKind::Workflow,
            status: if is_admitted {
                StoredStatus::Running
            } else {
                StoredStatus::Pending
            },
            owner: Some(self.node),
            // Not the first one there is: an engine that still drives a deleted run of this id must not meet its own epoch again.
            epoch: Epoch(1 + (self.random_u64() >> 16)),
            incarnation: self.random_u64(),
            workflow,
            plan_hash: hash,
            created_at: now,
            started_at: is_admitted.then_some(now),
            ended_at: None,
            wake_at: run.next_timer(),
            first_entry: Position(0),
            next_entry: Position(1),
            journal_bytes: entry.len() as u64,
            steps: run.counts(),
            parent,
            build: self.build.clone(),
            n_orphaned: 0,
        };
        let metadata =
            metadata.map(|json| (ValueKey::Metadata, Some(Bytes::from(String::from(json)))));
        let write = RunWrite {
            run: id.clone(),
            expect: Expect::New,
            record,
            entry: Some(entry),
            truncate: false,
            values: metadata.into_iter().collect(),
            blobs,
            consumed: Vec::new(),
            only_with: None,
        };
        Ok(NewRun { write, run })
    }

    /// Drives a run that is durable. It takes a slot also if there is none: what started it may have one, and wait for it.
    pub(crate) fn drive_new(self: &Arc<Self>, new: NewRun) {
        let NewRun { write, run } = new;
        let slot = self.take_slot_anyway();
        let seat = Seat::new(write.record.plan_hash);
        self.drive_created(write.run, seat, run, write.record, slot);
    }

    /// Drives a run that is durable, or queues it.
    #[cfg(feature = "schedules")]
    pub(crate) fn begin_new(self: &Arc<Self>, new: NewRun, admission: Admission) -> Result<()> {
        let NewRun { write, run } = new;
        let seat = Seat::new(write.record.plan_hash);
        match admission {
            Admission::Run(slot) => {
                self.drive_created(write.run, seat, run, write.record, slot);
                Ok(())
            }
            Admission::Queue(_place) => {
                self.enqueue(&write.run, seat, write.record.epoch, Line::Pending)
            }
            Admission::Offer => Ok(()),
        }
    }

    /// Takes one run or actor over.
    pub(crate) async fn claim_one(self: &Arc<Self>, id: &RunId) -> Result<Option<RunRecord>> {
        let ids = std::slice::from_ref(id);
        let claimed = self.claim(ids).await?;
        let mut claimed = claimed.into_iter().next().flatten();
        if let Some(record) = claimed
            .as_mut()
            .filter(|record| record.kind == RunKind::Workflow)
        {
            self.roster().note_orphan(id, record);
        }
        Ok(claimed)
    }

    /// Notes that runs may be stored as this engine's, and that nothing drives them.
    pub(crate) fn lose<'a>(&self, runs: impl IntoIterator<Item = &'a RunId>) {
        self.roster().lost.extend(runs.into_iter().cloned());
    }

    /// Gives something up once the engine has shut down.
    pub(crate) fn release_at_shutdown(&self, id: &RunId, epoch: Epoch) {
        self.roster().to_release.push((id.clone(), epoch));
    }
}

impl Engine {
    /// An engine that does not keep itself going: for what runs inside of it.
    pub(crate) fn detached(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            _halts_when_dropped: None,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The output of a run, which is waited for, and resumed if it was interrupted. Waiting does not resume a run that is
    /// suspended: somebody stopped it, and that is [`Error::Suspended`].
    pub(crate) async fn output_of_child(&self, id: &RunId) -> Result<Value> {
        match self.attach_child(id).await?.ended().await {
            Ended::Successful(value) => Ok(self.shared.load_value(value).await?),
            ended => Err(self.no_output(id, ended)),
        }
    }

    /// Waits until a run has come to rest; it is resumed if it was interrupted.
    pub(crate) async fn end_of_child(&self, id: &RunId) -> Result<ChildEnd> {
        Ok(match self.attach_child(id).await?.ended().await {
            Ended::Successful(_) | Ended::Failed(_) | Ended::Canceled => ChildEnd::Final,
            ended @ Ended::Suspended(_) => ChildEnd::Suspended(self.no_output(id, ended)),
            ended => ChildEnd::Stopped(self.no_output(id, ended)),
        })
    }

    /// Waits until a run is suspended no more: somebody has resumed, canceled or deleted it.
    pub(crate) async fn until_resumed(&self, id: &RunId) -> Result<()> {
        let shared = &self.shared;
        loop {
            let mut resumed = pin!(shared.resumed.notified());
            // From here on nothing is missed.
            resumed.as_mut().enable();
            let record = shared.storage.record(id).await?;
            let is_suspended = |record: &RunRecord| {
                record.status == StoredStatus::Suspended && self.seat(id).is_none()
            };
            if !record.as_ref().is_some_and(is_suspended) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => return Err(Error::ShutDown),
                () = resumed => {}
                // Another engine may resume it.
                () = shared.clock.sleep(LOOK_EVERY), if shared.is_shared() => {}
            }
        }
    }

    /// Goes on with a run that was interrupted.
    #[cfg(feature = "schedules")]
    pub(crate) async fn take_up(&self, id: &RunId) -> Result<()> {
        self.attach_child(id).await.map(drop)
    }

    async fn attach_child(&self, id: &RunId) -> Result<Attached> {
        let (engine, id) = (self.clone(), id.clone());
        let attaching = async move {
            let _lock = engine.shared.locks.lock(&id).await;
            if let Some(seat) = engine.seat(&id) {
                return Ok(Attached::to(&seat));
            }
            let record = engine.record(&id).await?;
            if record.status == StoredStatus::Suspended {
                let progress = super::read::progress_of(&record);
                let ended = engine.stored_end(&id, &record).await?;
                return Ok(Attached::Ended(ended, progress));
            }
            engine.attach_to_stored(&id, None, record).await
        };
        self.to_its_end(attaching).await
    }
}
