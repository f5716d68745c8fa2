//! Checking a store against the code, before anything runs: what of it could not go on.
//!
//! Nothing is written, claimed or run but the code that decodes values and migrates them. One run at a time is in memory.

mod calls;
mod report;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use keepstep_storage::{RunId, RunKind, RunQuery, RunRecord, StorageError, StoredStatus};
use rustc_hash::FxHashMap;

pub use report::{Cause, Certainty, Holder, Problem, Report};

use crate::actor;
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::executor::{Mail, fold_journal, panic_message};
use crate::run::Run;
use crate::step::{Fault, StepFault};
use crate::value::Value;
#[cfg(feature = "schedules")]
use calls::Standing;
use calls::check_plan;

/// How many records are read at a time.
const PAGE: usize = 256;
/// How many messages are read at a time.
const MESSAGES: usize = 256;

impl Engine {
    /// Looks through the store for what this program could not go on with, before anything runs: steps and methods that are
    /// missing, stored arguments and states that do not decode or migrate, resources that the engine lacks. What is stored is really
    /// decoded; of results that are not there yet, types are compared, and what may not fit is
    /// [possible](Certainty::Possible). It covers every run that has not ended, failed ones, actors and schedules.
    ///
    /// Nothing is run, written or claimed. It reads every run once, a page at a time. Put it into your deploy, on a copy of the
    /// store, with the new program: [`testing::check_store`](crate::testing::check_store).
    ///
    /// # Errors
    /// [`Error::Storage`] if the store cannot be read. What is damaged is a problem of the report.
    ///
    /// ```
    /// # use keepstep_core::{Engine, Workflow};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// let engine = Engine::open("memory:").await?;
    /// let report = engine.check().await?;
    /// assert!(report.is_ok(), "{report}");
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub async fn check(&self) -> Result<Report> {
        self.shared().check_runtime()?;
        check_store(self, true).await
    }
}

/// Checks everything; resources only if they matter.
pub(crate) async fn check_store(engine: &Engine, with_resources: bool) -> Result<Report> {
    let mut checker = Checker {
        shared: Arc::clone(engine.shared()),
        with_resources,
        report: Report::default(),
        holder: Holder::Run,
        id: None,
    };
    checker.runs().await?;
    checker.actors().await?;
    #[cfg(feature = "schedules")]
    checker.schedules(engine).await?;
    Ok(checker.report.finish())
}

/// What is being checked.
struct Checker {
    shared: Arc<Shared>,
    with_resources: bool,
    report: Report,
    holder: Holder,
    id: Option<RunId>,
}

impl Checker {
    fn begin(&mut self, holder: Holder, id: &RunId) {
        self.holder = holder;
        self.id = Some(id.clone());
    }

    fn add(&mut self, certainty: Certainty, cause: Cause) {
        if let Some(id) = &self.id {
            self.report.add(certainty, self.holder, id, cause);
        }
    }

    fn certain(&mut self, cause: Cause) {
        self.add(Certainty::Certain, cause);
    }

    /// What is damaged is a problem of what it belongs to, and keeps nothing else from being checked.
    fn unless_damaged<T: Default>(&mut self, looked_at: Result<T>) -> Result<T> {
        match looked_at {
            Err(error @ (Error::Damaged { .. } | Error::Storage(StorageError::Corrupt { .. }))) => {
                let message = error.to_string();
                self.certain(Cause::Damaged { message });
                Ok(T::default())
            }
            other => other,
        }
    }

    async fn runs(&mut self) -> Result<()> {
        let mut query = RunQuery {
            statuses: vec![
                StoredStatus::Pending,
                StoredStatus::Running,
                StoredStatus::Suspended,
                StoredStatus::Failed,
            ],
            limit: PAGE,
            ..RunQuery::default()
        };
        loop {
            let page = self.shared.storage.list(&query).await?;
            for listed in page.runs {
                self.run(&listed.run, listed.record).await?;
                // Decoding is work, and other tasks may share the thread.
                tokio::task::yield_now().await;
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn run(&mut self, id: &RunId, record: RunRecord) -> Result<()> {
        self.report.runs += 1;
        let holder = match record.status {
            StoredStatus::Failed => Holder::FailedRun,
            _ => Holder::Run,
        };
        self.begin(holder, id);
        let run = read(&self.shared, id, record).await;
        let Some(run) = self.unless_damaged(run)? else {
            return Ok(());
        };
        let events = self.events(id, &run).await;
        let events = self.unless_damaged(events)?;
        for (plan, standings) in run.unfinished() {
            check_plan(self, plan, &standings, &events).await?;
        }
        Ok(())
    }

    /// What has arrived for a run that waits: the first message of each name.
    async fn events(&mut self, id: &RunId, run: &Run) -> Result<FxHashMap<Arc<str>, Value>> {
        let mut events = FxHashMap::default();
        if run.listened_names().next().is_none() {
            return Ok(events);
        }
        let mut after = None;
        loop {
            let page = self.shared.storage.inbox(id, after, MESSAGES).await?;
            let is_last = page.len() < MESSAGES;
            for message in page {
                after = Some(message.id);
                match Mail::decode(&message.body) {
                    Ok(Mail::Event { name, value }) => {
                        events.entry(name).or_insert(value);
                    }
                    Ok(_) => {}
                    Err(what) => self.certain(Cause::Damaged {
                        message: format!("message {} cannot be read: {what}", message.id.0),
                    }),
                }
            }
            if is_last {
                return Ok(events);
            }
        }
    }

    async fn actors(&mut self) -> Result<()> {
        let prefix = RunId::prefix_of_parts(&[actor::NAMESPACE]);
        let mut after = None;
        loop {
            let storage = Arc::clone(&self.shared.storage);
            let page = storage
                .list_by_id(RunKind::Actor, &prefix, after.as_ref(), PAGE)
                .await?;
            for listed in &page {
                self.report.actors += 1;
                self.begin(Holder::Actor, &listed.run);
                let shared = Arc::clone(&self.shared);
                let findings = actor::findings(&shared, &listed.run).await;
                for (certainty, cause) in self.unless_damaged(findings)? {
                    self.add(certainty, cause);
                }
            }
            match page.into_iter().next_back() {
                Some(last) => after = Some(last.run),
                None => return Ok(()),
            }
        }
    }

    #[cfg(feature = "schedules")]
    async fn schedules(&mut self, engine: &Engine) -> Result<()> {
        let prefix = RunId::prefix_of_parts(&[crate::schedule::NAMESPACE]);
        let mut after = None;
        loop {
            let storage = Arc::clone(&self.shared.storage);
            let page = storage
                .list_by_id(RunKind::Schedule, &prefix, after.as_ref(), PAGE)
                .await?;
            for listed in &page {
                self.report.schedules += 1;
                self.begin(Holder::Schedule, &listed.run);
                let plan = engine.plan_of_schedule(&listed.run).await;
                // It may have been removed since it was listed.
                if let Some(plan) = self.unless_damaged(plan)? {
                    let pending = vec![Standing::Pending; plan.nodes.len()];
                    check_plan(self, &plan, &pending, &FxHashMap::default()).await?;
                }
            }
            match page.into_iter().next_back() {
                Some(last) => after = Some(last.run),
                None => return Ok(()),
            }
        }
    }
}

/// A run as it is stored; `None` if it ended or was deleted since it was listed.
async fn read(shared: &Shared, id: &RunId, mut record: RunRecord) -> Result<Option<Run>> {
    loop {
        let mut run = Run::default();
        let Err(error) = fold_journal(&*shared.storage, id, &record, &mut run).await else {
            return Ok(Some(run));
        };
        // The run may go on meanwhile, and its journal be compacted while it is read.
        let Some(now) = shared.storage.record(id).await? else {
            return Ok(None);
        };
        if now.first_entry == record.first_entry && now.incarnation == record.incarnation {
            return Err(error);
        }
        if matches!(
            now.status,
            StoredStatus::Successful | StoredStatus::Canceled
        ) {
            return Ok(None);
        }
        record = now;
    }
}

/// Does something with the code of users, which may panic.
pub(crate) fn guarded<T>(
    param: &'static str,
    work: impl FnOnce() -> Result<T, StepFault>,
) -> Result<T, StepFault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = format_args!("decoding panicked: {}", panic_message(&*panic));
        Err(StepFault(Fault::Undecodable {
            param,
            error: serde::de::Error::custom(message),
        }))
    })
}
