//! The calls that users make, each in a task of its own that waits for it.

use std::sync::Arc;

use keepstep::Result;
use keepstep::storage::StoredStatus;

use crate::invariants::outcome_is_true;
use crate::programs::Out;
use crate::sim::{Sim, Waiting};

impl Sim {
    /// A free name: one that nobody deletes.
    fn name(&mut self) -> Option<usize> {
        let at = self.rng.usize(..self.names.len());
        (!self.names[at].is_being_deleted).then_some(at)
    }

    /// Has a user make a call, and wait for it.
    fn call(
        &mut self,
        engine: usize,
        name: usize,
        what: &str,
        stops: bool,
        call: impl Future<Output = Result<Option<Out>>> + Send + 'static,
    ) {
        self.n_calls += 1;
        let opened = &self.engines[engine];
        let id = self.names[name].id.clone();
        let what = format!("call {} {what} {id} on {}", self.n_calls, opened.number);
        let ledger = Arc::clone(&self.world.ledger);
        ledger.trace(&what);
        let began = tokio::time::Instant::now();
        let task = async move {
            let outcome = call.await;
            let told = match &outcome {
                Ok(out) => format!("{:?}", out.as_ref().map(|out| (out.value, &out.token))),
                Err(error) => error.to_string(),
            };
            ledger.trace_unordered(&format!("{what}: {told} after {:?}", began.elapsed()));
            match outcome {
                Ok(Some(out)) => outcome_is_true(&ledger, &id, &what, &Ok(out)),
                Ok(None) => {}
                Err(error) => outcome_is_true(&ledger, &id, &what, &Err(error)),
            }
        };
        self.waiting.push(Waiting {
            task: tokio::spawn(task),
            engine: opened.number,
            name,
            stops,
        });
    }

    pub(crate) fn call_run(&mut self, engine: usize) {
        let Some(at) = self.name() else { return };
        let (id, workflow) = (self.names[at].id.clone(), self.names[at].prog.build(""));
        let engine_ = self.engines[engine].engine.clone();
        let waits = self.rng.u8(..3) > 0;
        self.call(engine, at, "run", false, async move {
            if waits {
                engine_.run(id, workflow).await.map(Some)
            } else {
                engine_.start(id, workflow).await.map(|_| None)
            }
        });
    }

    pub(crate) fn call_resume(&mut self, engine: usize) {
        let Some(at) = self.name() else { return };
        let id = self.names[at].id.clone();
        let engine_ = self.engines[engine].engine.clone();
        let kind = self.rng.u8(..4);
        self.call(engine, at, "resume", false, async move {
            match kind {
                0 => engine_.output(id).await.map(Some),
                1 => engine_.resume_all().await.map(|_| None),
                _ => engine_.resume(id).await?.await.map(Some),
            }
        });
    }

    pub(crate) fn call_stop(&mut self, engine: usize, cancels: bool) {
        let Some(at) = self.name() else { return };
        if self.waiting.iter().any(|w| w.name == at && w.stops) {
            return;
        }
        self.names[at].may_be_canceled |= cancels;
        let id = self.names[at].id.clone();
        let engine_ = self.engines[engine].engine.clone();
        let ledger = Arc::clone(&self.world.ledger);
        let what = if cancels { "cancel" } else { "suspend" };
        self.call(engine, at, what, true, async move {
            if !cancels {
                return engine_.suspend(id).await.map(|()| None);
            }
            engine_.cancel(&id).await?;
            let status = ledger.stored(&id, |stored| stored.record.status);
            if status != Some(StoredStatus::Canceled) {
                ledger.violated(format!("6: {id} was canceled and is {status:?}"));
            }
            Ok(None)
        });
    }

    pub(crate) fn call_delete(&mut self, engine: usize) {
        let Some(at) = self.name() else { return };
        if self.waiting.iter().any(|waiting| waiting.name == at) {
            return;
        }
        self.names[at].is_being_deleted = true;
        let id = self.names[at].id.clone();
        let engine_ = self.engines[engine].engine.clone();
        let ledger = Arc::clone(&self.world.ledger);
        self.call(engine, at, "delete", true, async move {
            engine_.delete(&id).await?;
            if ledger.stored(&id, |_| ()).is_some() {
                ledger.violated(format!("{id} was deleted and is there"));
            }
            Ok(None)
        });
    }
}
