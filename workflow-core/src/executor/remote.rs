//! Steps that the run's owner offers to all workers, instead of running them.

use keepstep_storage::{Offer, TaskId};

use super::steps::{At, Running};
use super::{Exit, Happened, Outcome, RunTask};
use crate::engine::Ended;
use crate::error::StepErrorKind;
use crate::remote::payload;
use crate::run::{Failure, StepId};

/// How many executions of one run are offered or under way at a time. The others stay in the run, which is smaller than what is
/// offered of it.
const MAX_OFFERED: usize = 10_000;

impl RunTask {
    /// Lets steps start; the last one first.
    pub(super) fn allow_steps(&mut self, ready: Vec<StepId>) {
        let (shared, run) = (&self.shared, &self.run);
        let is_remote = |step| {
            let Some(step) = run.step_ref(step) else {
                return false;
            };
            let found = shared.find_step(&step.name, step.version);
            found.is_some_and(|found| shared.remote.pool_of(found.def).is_some())
        };
        match shared.remote.has_steps() {
            true => self.steps.allow(ready, is_remote),
            false => self.steps.allow(ready, |_| false),
        }
    }

    /// Offers what is to be offered.
    pub(super) fn offer_steps(&mut self) {
        while self.steps.n_offered < MAX_OFFERED
            && let Some(step) = self.steps.to_offer.pop()
        {
            self.offer_step(step);
        }
        if self.steps.to_offer.is_empty() {
            self.steps.to_offer = Vec::new();
        }
    }

    fn offer_step(&mut self, step: StepId) -> Option<()> {
        let start = self.run.start(step)?;
        let step_ref = start.plan.step_of(start.index)?;
        let (name, version) = (step_ref.name.to_string(), step_ref.version);
        let Some(found) = self.shared.find_step(&name, version) else {
            self.lacks_step(step, name, version);
            return None;
        };
        let def = found.def;
        let extra = start.plan.node(start.index).extra.as_deref();
        let priority = extra.and_then(|extra| extra.priority);
        let key = extra.and_then(|extra| extra.key.as_deref());
        let key = key.map(ToOwned::to_owned);
        let call = start.plan.of_step(start.index, start.inputs);
        let Some(payload) = call.and_then(|call| payload(&call)) else {
            let failure = Failure {
                kind: StepErrorKind::Unencodable,
                message: "the arguments are together too large to be sent to a worker".to_owned(),
                causes: Vec::new(),
            };
            self.happened.push_back(Happened::Body {
                step,
                def,
                outcome: Outcome::Failed(failure.into()),
                task: None,
            });
            return None;
        };
        self.steps.n_executions += 1;
        let execution = self.steps.n_executions;
        let offer = Offer {
            run: self.id.clone(),
            epoch: self.record.epoch,
            incarnation: self.record.incarnation,
            step: step.0,
            attempt: start.attempt,
            step_name: name,
            step_version: version,
            pool: self.shared.remote.pool_of(def)?.to_owned(),
            priority: priority.unwrap_or(def.options.priority),
            key,
            payload,
        };
        let to = self.sender.clone();
        let ticket = self.shared.offer(offer, to, step, execution);
        let running = Running {
            execution,
            def,
            at: At::Worker(ticket),
            stopping: None,
        };
        self.steps.insert(step, running);
        self.steps.n_offered += 1;
        Some(())
    }

    /// An execution ended at a worker, or was withdrawn.
    pub(super) fn ended_elsewhere(
        &mut self,
        step: StepId,
        execution: u64,
        outcome: Outcome,
        task: TaskId,
    ) -> Option<Exit> {
        // What is no longer waited for goes with the run.
        let def = self.steps.ended(step, execution)?;
        match outcome {
            Outcome::Stopped => self.run.stopped(step),
            Outcome::Storage(error) => return Some(self.lost(Ended::Interrupted(*error))),
            outcome => self.happened.push_back(Happened::Body {
                step,
                def,
                outcome,
                task: Some(task),
            }),
        }
        None
    }

    /// Has results taken out of the queue that are in the journal now. What has ended has nothing there.
    pub(super) fn forget_folded(&mut self) {
        let folded = std::mem::take(&mut self.folded);
        if !self.record.status.is_final() {
            self.shared.remote.forget(folded, self.record.epoch);
        }
    }
}
