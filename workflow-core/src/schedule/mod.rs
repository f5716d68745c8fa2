//! Schedules: stored plans of which a run is started at each time that a cron expression means.
//!
//! A schedule is a record of its own kind. Its plan is stored once; how far it is, in a small value beside it, in the commit
//! that creates the runs. A run's id is made of the time it is for, so no time has two.

mod cron;
mod keep;
mod ticks;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_core::future::BoxFuture;
use keepstep_storage::{
    DeleteOutcome, Epoch, Expect, RunId, RunKind, RunWrite, Timestamp, ValueKey, WriteOutcome,
};
use serde::{Deserialize, Serialize};

use crate::actor::{creation, decode, encode};
use crate::engine::{Engine, Shared};
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
    /// Times of expressions that were replaced, which had come by then and have not had their runs. Oldest first.
    earlier: Vec<Earlier>,
}

/// Times of an expression that another one has replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Earlier {
    cron: String,
    next_at: Timestamp,
    /// When it was replaced.
    until: Timestamp,
}

impl Progress {
    /// When there is something to do.
    fn wake_at(&self) -> Option<Timestamp> {
        let first = self.earlier.first().map(|earlier| earlier.next_at);
        first.or(self.next_at).filter(|_| !self.is_paused)
    }

    /// What becomes of it where `cron` takes the place of the expression `old`. What is due by now stays so.
    fn replaced(mut self, old: &str, cron: (&str, &Cron), now: Timestamp) -> Self {
        if self.is_paused {
            return self;
        }
        let due = self.next_at.filter(|next_at| *next_at <= now);
        if let Some(next_at) = due
            && old == cron.0
        {
            self.next_at = Some(next_at);
            return self;
        }
        self.earlier.extend(due.map(|next_at| Earlier {
            cron: old.to_owned(),
            next_at,
            until: now,
        }));
        self.next_at = cron.1.next(now);
        self
    }
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
    /// A time of day in a zone comes once on each of its days: where the clocks skip it, at the first moment after that, and where they
    /// show it twice, at the first. Minutes and hours that are counted, with a `*` in one of the first two fields, come as time passes.
    /// `@hourly`, `@daily` (or `@midnight`), `@weekly`, `@monthly` and `@yearly` (or `@annually`) stand for the five fields.
    ///
    /// The same name again, with the same schedule and workflow, changes nothing; with others, these take the place of the
    /// old ones, from now on. Times of the old schedule that have come by then, and have no run yet, have one of the new workflow, if
    /// [`Missed`] has it so. Several processes may say it at once: the last one counts. After a restart, this call, [`resume_all`](Self::resume_all), or the first use of an actor sets all
    /// schedules of the store going again.
    ///
    /// # Errors
    /// [`Error::InvalidSchedule`], also for times that never come, such as the 30th of February; [`Error::InvalidRunId`]; and what
    /// [`start`](Self::start) returns.
    ///
    /// ```
    /// # use keepstep_core::{Engine, Missed, Workflow};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// let engine = Engine::open("memory:").await?;
    /// engine.schedule("nightly", "0 3 * * *", Workflow::value(1)).missed(Missed::Skip).await?;
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
                    next_at: progress.wake_at().map(Into::into),
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
        let mut tries = Tries::default();
        loop {
            let _lock = shared.locks().lock(&id).await;
            let record = shared.storage.record(&id).await?;
            let record = record.ok_or_else(|| not_found(&id))?;
            match shared.delete(&id, &record).await? {
                DeleteOutcome::Deleted => return Ok(()),
                DeleteOutcome::NotFound => return Err(not_found(&id)),
                // Another engine has just started a run of it.
                DeleteOutcome::Fenced | DeleteOutcome::Owned | DeleteOutcome::Skipped => {}
            }
            if !tries.again(shared).await {
                return Err(Error::Fenced { run: id });
            }
        }
    }

    async fn change_schedule(&self, name: &str, is_paused: bool) -> Result<()> {
        let (shared, id) = (self.shared(), schedule_id(name)?);
        shared.awaken();
        let mut tries = Tries::default();
        loop {
            let _lock = shared.locks().lock(&id).await;
            let stored = self.read_schedule(&id).await?;
            let (spec, mut progress) = stored.ok_or_else(|| not_found(&id))?;
            if progress.is_paused == is_paused {
                return Ok(());
            }
            progress.is_paused = is_paused;
            progress.earlier.clear();
            progress.next_at = match is_paused {
                true => None,
                false => Cron::parse(&spec.cron)?.next(shared.clock.timestamp()),
            };
            match self.commit_schedule(&id, None, &progress, Vec::new()).await {
                Err(Error::Fenced { .. }) if tries.again(shared).await => {}
                changed => return changed.map(drop),
            }
        }
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
        record.wake_at = progress.wake_at();
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
        shared.pauses.succeeded(id);
        if let Some(wake_at) = progress.wake_at() {
            shared.set_timer(wake_at, id.clone());
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
        let hash = plan::hash(&flattened.plan);
        let (mut plan, mut kept) = (Some(flattened.plan), None);
        let mut tries = Tries::default();
        loop {
            let lock = shared.locks().lock(&id).await;
            // What is due waits for the lock, and gets the new workflow.
            shared.awaken();
            let stored = engine.read_schedule(&id).await?;
            if let Some((spec, progress)) = &stored
                && (&spec.cron, spec.missed, spec.hash) == (&cron, missed, hash)
            {
                match engine.correct(&id, &parsed, progress, Duration::ZERO).await {
                    // Another engine has it.
                    Ok(_) | Err(Error::Fenced { .. }) => {}
                    Err(error) => return Err(error),
                }
                // It may have been made elsewhere after this engine had looked for schedules.
                shared.look_after_schedules();
                return Ok(());
            }
            let now = shared.clock.timestamp();
            let next_at = parsed.next(now);
            if next_at.is_none() {
                return Err(Error::InvalidSchedule {
                    cron,
                    message: "such a time never comes".to_owned(),
                });
            }
            if let Some(plan) = plan.take() {
                kept = Some(shared.objects.keep_plan(plan).await?);
            }
            let Some(plan) = &kept else { return Ok(()) };
            let spec = Spec {
                cron: cron.clone(),
                missed,
                hash,
                plan: plan.clone(),
            };
            let written = match stored {
                Some((old, progress)) => {
                    let progress = progress.replaced(&old.cron, (&cron, &parsed), now);
                    let written = engine.commit_schedule(&id, Some(&spec), &progress, Vec::new());
                    written.await.map(drop)
                }
                None => engine.create_schedule(&id, &spec, next_at).await,
            };
            drop(lock);
            match written {
                // Another process was faster, or has removed it since it was read.
                Err(Error::Fenced { .. } | Error::ScheduleNotFound { .. })
                    if tries.again(shared).await => {}
                Ok(()) => {
                    shared.look_after_schedules();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Engine {
    /// Stores a schedule that is new. [`Error::Fenced`]: there is one.
    async fn create_schedule(
        &self,
        id: &RunId,
        spec: &Spec,
        next_at: Option<Timestamp>,
    ) -> Result<()> {
        let shared = self.shared();
        let progress = Progress {
            is_paused: false,
            next_at,
            last_at: None,
            earlier: Vec::new(),
        };
        let values = vec![
            (ValueKey::State, Some(encode(spec)?)),
            (ValueKey::Agenda, Some(encode(&progress)?)),
        ];
        let mut write = creation(shared, id, RunKind::Schedule, name_of(id), values);
        write.record.wake_at = next_at;
        write.record.plan_hash = spec.hash;
        write.blobs.extend(spec.plan.blobs());
        let outcomes = shared
            .commit_all(Some(write), Vec::new(), Vec::new())
            .await?;
        match outcomes.writes.first() {
            Some(WriteOutcome::Written) => {}
            Some(&WriteOutcome::BlobMissing { blob: object }) => {
                return Err(Error::ObjectNotFound { object });
            }
            _ => return Err(Error::Fenced { run: id.clone() }),
        }
        if let Some(next_at) = next_at {
            shared.set_timer(next_at, id.clone());
        }
        Ok(())
    }
}

/// How often something was tried that another engine was faster with.
#[derive(Debug, Default)]
struct Tries(u32);

impl Tries {
    /// With so many, somebody else was faster each time.
    const MOST: u32 = 30;

    /// Waits a little, ever longer and by chance, before the next try; `false` if there is none.
    async fn again(&mut self, shared: &Arc<Shared>) -> bool {
        self.0 += 1;
        if self.0 >= Self::MOST || shared.is_closing() {
            return false;
        }
        let longest = Duration::from_millis(5 << self.0.min(6));
        shared.pause(longest.mul_f64(shared.random())).await;
        true
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
