//! Schedules: stored plans of which a run is started at each time that a cron expression means.
//!
//! A schedule is a record of its own kind. Its plan is stored once; how far it is, in a small value beside it, in the commit
//! that creates the runs. A run's id is made of the time it is for, so no time has two.

mod cron;
mod ticks;

use std::fmt;
use std::time::SystemTime;

use futures_core::future::BoxFuture;
use keepstep_storage::{
    DeleteOutcome, Epoch, Expect, RunId, RunKind, RunWrite, Timestamp, ValueKey, WriteOutcome,
};
use serde::{Deserialize, Serialize};

use crate::actor::{creation, decode, encode};
use crate::engine::Engine;
use crate::error::{Damage, Error, Result};
use crate::plan::{self, Plan, flatten};
use crate::workflow::Workflow;
use cron::Cron;

pub(crate) use crate::actor::SCHEDULES as NAMESPACE;

/// How many schedules are read at a time.
const PAGE: usize = 256;

/// What becomes of times that passed while no engine was there to start their runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Missed {
    /// Nothing, if they are more than a minute past.
    Skip,
    /// One run, for the last of them.
    #[default]
    One,
    /// A run for each.
    All,
}

/// What does not change from one time to the next, under `ValueKey::State`.
#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    cron: String,
    missed: Missed,
    hash: [u8; 32],
    plan: Plan,
}

/// How far a schedule is, under `ValueKey::Agenda`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    is_paused: bool,
    /// The time of the next run.
    next_at: Option<Timestamp>,
    /// The time of the last run.
    last_at: Option<Timestamp>,
}

/// A schedule that is about to be stored: see [`Engine::schedule`]. Await it.
#[must_use = "a schedule is not stored before it is awaited"]
pub struct NewSchedule {
    engine: Engine,
    name: String,
    cron: String,
    missed: Missed,
    flattened: Result<plan::Flattened>,
}

impl fmt::Debug for NewSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewSchedule({:?}, {:?})", self.name, self.cron)
    }
}

impl NewSchedule {
    /// What becomes of times that pass while no engine is there. [`Missed::One`] by default.
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }
}

impl IntoFuture for NewSchedule {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'static, Result<()>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.store())
    }
}

/// A schedule in a listing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ScheduleSummary {
    /// Its name.
    pub name: String,
    /// When it starts runs.
    pub cron: String,
    /// The name of the step that its workflow ends in.
    pub workflow: String,
    /// What becomes of times that pass while no engine is there.
    pub missed: Missed,
    /// Whether it is paused.
    pub is_paused: bool,
    /// When it starts its next run; `None` while it is paused, or if there is no such time any more.
    pub next_at: Option<SystemTime>,
    /// The id of the last run that it started.
    pub last_run: Option<String>,
}

impl Engine {
    /// Has a run of a workflow started at each time that `cron` means: minute, hour, day of month, month, day of week, and a
    /// time zone perhaps, as in `"0 3 * * * Europe/Warsaw"`; without one it is UTC. The plan is stored; what `workflow` was
    /// given is what every run is given.
    ///
    /// The run of 3 o'clock on the 1st of May has the id `nightly@2026-05-01T03:00:00Z`: no time has two runs, whatever
    /// crashes and however many processes share the store.
    ///
    /// The same name again, with the same schedule and workflow, changes nothing; with others, these take the place of the
    /// old ones, from now on. After a restart, this call, [`resume_all`](Self::resume_all), or the first use of an actor sets all
    /// schedules of the store going again.
    ///
    /// # Errors
    /// [`Error::InvalidSchedule`], [`Error::InvalidRunId`], and what [`start`](Self::start) returns.
    ///
    /// ```
    /// # use keepstep_core::{Engine, Missed, Workflow};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// let engine = Engine::open("memory:").await?;
    /// engine.schedule("nightly", "0 3 * * *", Workflow::value("done")).missed(Missed::Skip).await?;
    /// assert_eq!(engine.schedules().await?[0].name, "nightly");
    /// engine.pause_schedule("nightly").await?;
    /// engine.remove_schedule("nightly").await?;
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub fn schedule<T>(
        &self,
        name: impl Into<String>,
        cron: impl Into<String>,
        workflow: impl std::borrow::Borrow<Workflow<T>>,
    ) -> NewSchedule {
        NewSchedule {
            engine: self.clone(),
            name: name.into(),
            cron: cron.into(),
            missed: Missed::default(),
            flattened: flatten(workflow.borrow().node()),
        }
    }

    /// Every schedule, in the order of their names.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Storage`].
    pub async fn schedules(&self) -> Result<Vec<ScheduleSummary>> {
        self.shared().check_runtime()?;
        let storage = &self.shared().storage;
        let prefix = RunId::prefix_of_parts(&[NAMESPACE]);
        let mut schedules = Vec::new();
        let mut after = None;
        loop {
            let page = storage
                .list_by_id(RunKind::Schedule, &prefix, after.as_ref(), PAGE)
                .await?;
            for listed in &page {
                let Some((spec, progress)) = self.read_schedule(&listed.run).await? else {
                    // Removed since it was listed.
                    continue;
                };
                let name = name_of(&listed.run);
                let last_run = progress.last_at.map(|at| ticks::run_id(name, at));
                schedules.push(ScheduleSummary {
                    name: name.to_owned(),
                    workflow: spec.plan.label(spec.plan.root()).to_owned(),
                    cron: spec.cron,
                    missed: spec.missed,
                    is_paused: progress.is_paused,
                    next_at: progress.next_at.map(Into::into),
                    last_run: last_run.transpose()?.map(|id| id.to_string()),
                });
            }
            match page.into_iter().next_back() {
                Some(last) => after = Some(last.run),
                None => return Ok(schedules),
            }
        }
    }

    /// Starts no runs of a schedule until it is resumed.
    ///
    /// # Errors
    /// [`Error::ScheduleNotFound`], [`Error::Damaged`], [`Error::Storage`].
    pub async fn pause_schedule(&self, name: impl AsRef<str>) -> Result<()> {
        self.shared().check_runtime()?;
        self.change_schedule(name.as_ref(), true).await
    }

    /// Goes on with a schedule that was paused. Times that passed meanwhile have no runs.
    ///
    /// # Errors
    /// As [`pause_schedule`](Self::pause_schedule).
    pub async fn resume_schedule(&self, name: impl AsRef<str>) -> Result<()> {
        self.shared().check_runtime()?;
        self.change_schedule(name.as_ref(), false).await
    }

    /// Removes a schedule. Runs that it started go on.
    ///
    /// # Errors
    /// [`Error::ScheduleNotFound`], [`Error::Storage`].
    pub async fn remove_schedule(&self, name: impl AsRef<str>) -> Result<()> {
        self.shared().check_runtime()?;
        let (shared, id) = (self.shared(), schedule_id(name.as_ref())?);
        let _lock = shared.locks().lock(&id).await;
        loop {
            let record = shared.storage.record(&id).await?;
            let record = record.ok_or_else(|| not_found(&id))?;
            match shared.delete(&id, &record).await? {
                DeleteOutcome::Deleted => return Ok(()),
                DeleteOutcome::NotFound => return Err(not_found(&id)),
                // Another engine has just started a run of it.
                DeleteOutcome::Fenced | DeleteOutcome::Owned => {}
            }
        }
    }

    async fn change_schedule(&self, name: &str, is_paused: bool) -> Result<()> {
        let (shared, id) = (self.shared(), schedule_id(name)?);
        shared.awaken();
        let _lock = shared.locks().lock(&id).await;
        let stored = self.read_schedule(&id).await?;
        let (spec, mut progress) = stored.ok_or_else(|| not_found(&id))?;
        if progress.is_paused == is_paused {
            return Ok(());
        }
        progress.is_paused = is_paused;
        progress.next_at = match is_paused {
            true => None,
            false => Cron::parse(&spec.cron)?.next(shared.clock.timestamp()),
        };
        self.write_schedule(&id, None, &progress, Vec::new()).await
    }

    async fn read_schedule(&self, id: &RunId) -> Result<Option<(Spec, Progress)>> {
        let storage = &self.shared().storage;
        let spec = storage.value(id, &ValueKey::State).await?;
        let progress = storage.value(id, &ValueKey::Agenda).await?;
        let (Some(spec), Some(progress)) = (spec, progress) else {
            return Ok(None);
        };
        let spec: Spec = decode(id, "plan", &spec)?;
        if !spec.plan.is_sound() {
            let damage = Damage::Missing { what: "plan" };
            return Err(Error::Damaged {
                run: id.clone(),
                damage,
            });
        }
        Ok(Some((spec, decode(id, "progress", &progress)?)))
    }

    /// The plan of the runs of a schedule; `None` if there is no such schedule.
    pub(crate) async fn plan_of_schedule(&self, id: &RunId) -> Result<Option<Plan>> {
        Ok(self.read_schedule(id).await?.map(|(spec, _)| spec.plan))
    }

    /// Writes what changed of a schedule that exists, and has the timers know.
    async fn write_schedule(
        &self,
        id: &RunId,
        spec: Option<&Spec>,
        progress: &Progress,
        with: Vec<RunWrite>,
    ) -> Result<()> {
        self.commit_schedule(id, spec, progress, with)
            .await
            .map(drop)
    }

    async fn commit_schedule(
        &self,
        id: &RunId,
        spec: Option<&Spec>,
        progress: &Progress,
        with: Vec<RunWrite>,
    ) -> Result<Vec<WriteOutcome>> {
        let shared = self.shared();
        let record = shared.storage.record(id).await?;
        let mut record = record.ok_or_else(|| not_found(id))?;
        if record.owner != Some(shared.node) {
            record = shared.claim_one(id).await?.ok_or_else(|| not_found(id))?;
        }
        record.wake_at = progress.next_at;
        let mut values = vec![(ValueKey::Agenda, Some(encode(progress)?))];
        let mut blobs = Vec::new();
        if let Some(spec) = spec {
            values.push((ValueKey::State, Some(encode(spec)?)));
            record.plan_hash = spec.hash;
            blobs = spec.plan.blobs();
        }
        let epoch: Epoch = record.epoch;
        let write = RunWrite {
            run: id.clone(),
            expect: Expect::Epoch(epoch),
            record,
            entry: None,
            truncate: false,
            values,
            blobs,
            consumed: Vec::new(),
            only_with: None,
        };
        let mut outcomes = shared
            .commit_all(Some(write), with, Vec::new())
            .await?
            .writes;
        match outcomes.first() {
            Some(WriteOutcome::Written) => {}
            Some(WriteOutcome::NotFound) | None => return Err(not_found(id)),
            Some(&WriteOutcome::BlobMissing { blob: object }) => {
                return Err(Error::ObjectNotFound { object });
            }
            Some(_) => return Err(Error::Fenced { run: id.clone() }),
        }
        if let Some(next_at) = progress.next_at {
            shared.set_timer(next_at, id.clone());
        }
        Ok(outcomes.split_off(1))
    }
}

impl NewSchedule {
    async fn store(self) -> Result<()> {
        let Self {
            engine,
            name,
            cron,
            missed,
            flattened,
        } = self;
        let shared = engine.shared();
        shared.check_runtime()?;
        let mut flattened = flattened?;
        shared.check_resources(&flattened.defs)?;
        let parsed = Cron::parse(&cron)?;
        let id = schedule_id(&name)?;
        // The ids of its runs are ids.
        ticks::run_id(&name, Timestamp::default())?;
        shared.objects.settle_plan(&mut flattened.plan).await?;
        shared.awaken();
        let _lock = shared.locks().lock(&id).await;
        let hash = plan::hash(&flattened.plan);
        let stored = engine.read_schedule(&id).await?;
        if let Some((spec, _)) = &stored
            && (&spec.cron, spec.missed, spec.hash) == (&cron, missed, hash)
        {
            return Ok(());
        }
        let plan = shared.objects.keep_plan(flattened.plan).await?;
        let next_at = parsed.next(shared.clock.timestamp());
        let spec = Spec {
            cron,
            missed,
            hash,
            plan,
        };
        if let Some((_, mut progress)) = stored {
            progress.next_at = next_at.filter(|_| !progress.is_paused);
            return engine
                .write_schedule(&id, Some(&spec), &progress, Vec::new())
                .await;
        }
        let progress = Progress {
            is_paused: false,
            next_at,
            last_at: None,
        };
        let values = vec![
            (ValueKey::State, Some(encode(&spec)?)),
            (ValueKey::Agenda, Some(encode(&progress)?)),
        ];
        let mut write = creation(shared, &id, RunKind::Schedule, &name, values);
        write.record.wake_at = next_at;
        write.record.plan_hash = hash;
        write.blobs.extend(spec.plan.blobs());
        let outcomes = shared
            .commit_all(Some(write), Vec::new(), Vec::new())
            .await?;
        match outcomes.writes.first() {
            Some(WriteOutcome::Written) => {}
            Some(&WriteOutcome::BlobMissing { blob: object }) => {
                return Err(Error::ObjectNotFound { object });
            }
            // Another process was faster; its word counts until somebody says another.
            _ => return Ok(()),
        }
        if let Some(next_at) = next_at {
            shared.set_timer(next_at, id.clone());
        }
        Ok(())
    }
}

fn schedule_id(name: &str) -> Result<RunId> {
    Ok(RunId::of_parts(&[NAMESPACE, name])?)
}

fn name_of(id: &RunId) -> &str {
    id.parts().nth(1).unwrap_or_default()
}

fn not_found(id: &RunId) -> Error {
    Error::ScheduleNotFound {
        name: name_of(id).to_owned(),
    }
}
