//! Looking at runs: status, outputs, metadata, graph.

use std::sync::Arc;
use std::time::SystemTime;

use keepstep_storage::{RunId, RunRecord, StoredStatus, ValueKey};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::handle::Attached;
use super::shared::{Ended, SeatState};
use super::{BuildInfo, Engine, decode};
use crate::error::{Damage, Error, Result, StepError, SuspendReason};
use crate::executor::{RunMessage, fold_journal};
use crate::graph::Graph;
use crate::run::Run;
use crate::status::{Progress, Status};
use crate::value::Value;

/// What is known of a run without reading its history.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Metadata {
    /// The workflow id.
    pub id: String,
    /// The status.
    pub status: Status,
    /// The name of the step the workflow ends in.
    pub workflow: String,
    /// When the run was created.
    pub created_at: SystemTime,
    /// When it was begun.
    pub started_at: Option<SystemTime>,
    /// When it ended; `None` again while a failed run is resumed.
    pub ended_at: Option<SystemTime>,
    /// When it is woken next, if it waits for a time.
    pub wake_at: Option<SystemTime>,
    /// How far it is. Of a run in execution, as of its last commit; bodies that are executing count as waiting.
    pub progress: Progress,
    /// What was attached to the workflow with `.metadata(…)`.
    pub user: Option<serde_json::Value>,
    /// Why it failed.
    pub error: Option<StepError>,
    /// Why it is suspended.
    pub suspended: Option<SuspendReason>,
    /// How many bytes its journal has.
    pub journal_bytes: u64,
    /// The program that started it.
    pub build: BuildInfo,
}

pub(super) fn progress_of(record: &RunRecord) -> Progress {
    let steps = record.steps;
    let waiting = steps.total.saturating_sub(steps.done + steps.failed);
    Progress {
        total: steps.total,
        done: steps.done,
        running: 0,
        waiting,
        failed: steps.failed,
    }
}

impl Engine {
    /// A run's status.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidRunId`], [`Error::Storage`].
    ///
    /// ```
    /// # use keepstep_core::{Engine, Error, Status, Workflow};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// let engine = Engine::open("memory:").await?;
    /// engine.run("answer", Workflow::value(42)).await?;
    /// assert_eq!(engine.status("answer").await?, Status::Successful);
    /// assert!(matches!(engine.status("question").await, Err(Error::NotFound { .. })));
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub async fn status(&self, id: impl AsRef<str>) -> Result<Status> {
        self.shared.check_runtime()?;
        let id = RunId::new(id)?;
        let record = self.record(&id).await?;
        Ok(self.shared.status_of(&id, &record))
    }

    /// A run's output. Waits for a run that is pending or running.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Failed`], [`Error::Canceled`], [`Error::Suspended`] or [`Error::Resumable`] as the run
    /// stands; [`Error::Undecodable`] if the output is not a `T`.
    pub async fn output<T: DeserializeOwned>(&self, id: impl AsRef<str>) -> Result<T> {
        self.shared.check_runtime()?;
        let id = RunId::new(id)?;
        let attached = {
            let _lock = self.shared.locks.lock(&id).await;
            match self.seat(&id) {
                Some(seat) => Attached::to(&seat),
                None => {
                    let record = self.record(&id).await?;
                    match self.shared.status_of(&id, &record) {
                        Status::Resumable => return Err(Error::Resumable { run: id }),
                        Status::Suspended => Attached::Ended(
                            self.stored_end(&id, &record).await?,
                            Progress::default(),
                        ),
                        _ => self.attach_to_stored(&id, None, record).await?,
                    }
                }
            }
        };
        let ended = attached.ended().await;
        self.outcome(&id, ended).await
    }

    /// The output of a step of a run, by the step's name: the one given with `.name()`, or its function's, with or without
    /// the path of its module. Of several steps of one name, that of the one that finished last; of one that expanded, what
    /// its expansion yielded. Does not wait.
    ///
    /// Outputs of steps named with `.name()` are kept as long as the run. Others are read from the run's journal, until they are
    /// compacted out of that.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::StepNotFound`], [`Error::Undecodable`], [`Error::Damaged`], [`Error::Storage`].
    pub async fn step_output<T: DeserializeOwned>(
        &self,
        id: impl AsRef<str>,
        step: &str,
    ) -> Result<T> {
        self.shared.check_runtime()?;
        let id = RunId::new(id)?;
        let what = || format!("the output of step {step:?} of run {id:?}");
        if let Some(bytes) = self
            .shared
            .storage
            .value(&id, &ValueKey::Step(step.to_owned()))
            .await?
        {
            let value = self.shared.load_value(Value::from_bytes(&bytes)).await?;
            return decode(&self.shared, value, what);
        }
        let run = self.history(&id, Some(step.to_owned())).await?;
        let not_found = || Error::StepNotFound {
            run: id.clone(),
            step: step.to_owned(),
        };
        let value = run.watched_result().cloned().ok_or_else(not_found)?;
        let value = self.shared.load_value(value).await?;
        decode(&self.shared, value, what)
    }

    /// What is known of a run: times, progress, errors, and what the user attached to it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidRunId`], [`Error::Damaged`], [`Error::Storage`].
    pub async fn metadata(&self, id: impl AsRef<str>) -> Result<Metadata> {
        self.shared.check_runtime()?;
        let id = RunId::new(id)?;
        let record = self.record(&id).await?;
        let status = self.shared.status_of(&id, &record);
        let user = match self.shared.storage.value(&id, &ValueKey::Metadata).await? {
            Some(json) => {
                Some(serde_json::from_slice(&json).map_err(|_| missing(&id, "metadata"))?)
            }
            None => None,
        };
        let (mut error, mut suspended) = (None, None);
        match record.status {
            StoredStatus::Failed => error = Some(self.stored_error::<StepError>(&id).await?),
            StoredStatus::Suspended => {
                suspended = Some(self.stored_error::<SuspendReason>(&id).await?)
            }
            _ => {}
        }
        Ok(Metadata {
            id: id.to_string(),
            status,
            workflow: record.workflow.clone(),
            created_at: record.created_at.into(),
            started_at: record.started_at.map(Into::into),
            ended_at: record.ended_at.map(Into::into),
            wake_at: record.wake_at.map(Into::into),
            progress: progress_of(&record),
            user,
            error,
            suspended,
            journal_bytes: record.journal_bytes,
            build: BuildInfo::of(&record.build),
        })
    }

    /// The graph of a run: every step its journal still knows, with its state.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidRunId`], [`Error::Damaged`], [`Error::Storage`].
    pub async fn graph(&self, id: impl AsRef<str>) -> Result<Graph> {
        self.shared.check_runtime()?;
        let id = RunId::new(id)?;
        let run = self.history(&id, None).await?;
        let (reply, running) = oneshot::channel();
        match self.shared.roster().seats.get(&id) {
            Some((SeatState::Active(messages, _), _)) => {
                drop(messages.send(RunMessage::Running(reply)));
            }
            _ => drop(reply),
        }
        // Where no task answers, or it ends in between, nothing is running.
        let running = running.await.unwrap_or_default();
        Ok(Graph::of_run(&run, &running))
    }

    /// The whole past of a run, as far as its journal has it.
    async fn history(&self, id: &RunId, watched_step: Option<String>) -> Result<Run> {
        loop {
            let record = self.record(id).await?;
            let mut run = Run::with_history(watched_step.clone());
            match fold_journal(&*self.shared.storage, id, &record, &mut run).await {
                Ok(()) => return Ok(run),
                // The journal was compacted while it was read.
                Err(Error::Damaged { .. })
                    if self.record(id).await?.first_entry != record.first_entry => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn record(&self, id: &RunId) -> Result<RunRecord> {
        self.shared
            .storage
            .record(id)
            .await?
            .ok_or_else(|| Error::NotFound { run: id.clone() })
    }

    /// How a run that is not in execution stands, as it is stored.
    pub(super) async fn stored_end(&self, id: &RunId, record: &RunRecord) -> Result<Ended> {
        let mut record = record.clone();
        loop {
            let error = match self.end_of(id, &record).await {
                Ok(ended) => return Ok(ended),
                Err(error) => error,
            };
            // Another engine may have changed the run between the record and what belongs to it.
            let now = self.record(id).await?;
            if now == record {
                return Err(error);
            }
            record = now;
        }
    }

    async fn end_of(&self, id: &RunId, record: &RunRecord) -> Result<Ended> {
        Ok(match record.status {
            StoredStatus::Successful => {
                let output = self.shared.storage.value(id, &ValueKey::Output).await?;
                Ended::Successful(Value::from_bytes(
                    &output.ok_or_else(|| missing(id, "output"))?,
                ))
            }
            StoredStatus::Failed => Ended::Failed(Arc::new(self.stored_error(id).await?)),
            StoredStatus::Suspended => Ended::Suspended(self.stored_error(id).await?),
            StoredStatus::Canceled => Ended::Canceled,
            StoredStatus::Pending | StoredStatus::Running => Ended::Fenced,
        })
    }

    async fn stored_error<E: DeserializeOwned>(&self, id: &RunId) -> Result<E> {
        let bytes = self
            .shared
            .storage
            .value(id, &ValueKey::Error)
            .await?
            .ok_or_else(|| missing(id, "error"))?;
        Value::from_bytes(&bytes)
            .decode()
            .map_err(|_| missing(id, "error"))
    }
}

fn missing(id: &RunId, what: &'static str) -> Error {
    Error::Damaged {
        run: id.clone(),
        damage: Damage::Missing { what },
    }
}
