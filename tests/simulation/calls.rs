//! The calls that users make, each in a task of its own that waits for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use keepstep::storage::StoredStatus;
use keepstep::{Error, Result};

use crate::invariants::outcome_is_true;
use crate::programs::{Message, Out};
use crate::sim::{Name, Sim, Waiting};

impl Sim {
    /// A free name: one that nobody deletes.
    fn name(&mut self) -> Option<usize> {
        let at = self.rng.usize(..self.names.len());
        (!self.names[at].is_being_deleted).then_some(at)
    }

    /// A name, and its run or one that it started.
    fn run_of_name(&mut self) -> Option<(usize, String)> {
        let at = self.name()?;
        let Name { id, children, .. } = &self.names[at];
        if children.is_empty() || self.rng.u8(..3) > 0 {
            return Some((at, id.clone()));
        }
        Some((at, children[self.rng.usize(..children.len())].0.clone()))
    }

    /// Has a user make a call about a run that belongs to a name, and wait for it.
    fn call(
        &mut self,
        engine: usize,
        (name, id): (usize, String),
        what: &str,
        stops: bool,
        call: impl Future<Output = Result<Option<Out>>> + Send + 'static,
    ) {
        self.n_calls += 1;
        let opened = &self.engines[engine];
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
        let ledger = Arc::clone(&self.world.ledger);
        let n_starts = Arc::clone(&self.names[at].n_starts);
        let nth = n_starts.fetch_add(1, Ordering::Relaxed) + 1;
        let is_alone = self.waiting.iter().all(|waiting| waiting.name != at);
        let is_there = ledger.stored(&id, |_| ()).is_some();
        let waits = self.rng.u8(..3) > 0;
        self.call(engine, (at, id.clone()), "run", false, async move {
            let outcome = if waits {
                engine_.run(&id, workflow).await.map(Some)
            } else {
                engine_.start(&id, workflow).await.map(|_| None)
            };
            if matches!(outcome, Err(Error::QueueFull { .. }))
                && is_alone
                && nth == n_starts.load(Ordering::Relaxed)
                && is_there != ledger.stored(&id, |_| ()).is_some()
            {
                ledger.violated(format!("{id} was refused and left a trace"));
            }
            outcome
        });
    }

    pub(crate) fn call_resume(&mut self, engine: usize) {
        let Some((at, id)) = self.run_of_name() else {
            return;
        };
        let engine_ = self.engines[engine].engine.clone();
        let kind = self.rng.u8(..4);
        self.call(engine, (at, id.clone()), "resume", false, async move {
            match kind {
                0 => engine_.output(id).await.map(Some),
                1 => engine_.resume_all().await.map(|_| None),
                _ => engine_.resume(id).await?.await.map(Some),
            }
        });
    }

    pub(crate) fn call_stop(&mut self, engine: usize, cancels: bool) {
        let Some((at, mut id)) = self.run_of_name() else {
            return;
        };
        if self.waiting.iter().any(|w| w.name == at && w.stops) {
            return;
        }
        let name = &mut self.names[at];
        if cancels || name.may_be_canceled || name.prog.may_abandon() {
            // Somebody's call and the engine's own would wake up in no certain order.
            id.clone_from(&name.id);
        }
        name.may_be_canceled |= cancels;
        let engine_ = self.engines[engine].engine.clone();
        let ledger = Arc::clone(&self.world.ledger);
        let what = if cancels { "cancel" } else { "suspend" };
        self.call(engine, (at, id.clone()), what, true, async move {
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

    /// A message, which may be of use or not, early or late, new or a second one.
    pub(crate) fn call_send(&mut self, engine: usize) {
        let Some((at, id)) = self.run_of_name() else {
            return;
        };
        let prog = self.runs().find(|(of, _)| *of == id).map(|(_, prog)| prog);
        let names: Vec<String> =
            prog.map_or_else(Vec::new, |prog| prog.waits_for().into_keys().collect());
        let name = match names.len() {
            0 => "e0".to_owned(),
            n => names[self.rng.usize(..n)].clone(),
        };
        let rng = &mut self.rng;
        let key = rng.bool().then(|| format!("{name}-{}", rng.u8(..3)));
        let ledger = Arc::clone(&self.world.ledger);
        let text = ledger.post(|post| post.write(&id, &name, key.as_deref()));
        let was_there = ledger.stored(&id, |_| ()).is_some();
        let ends = [StoredStatus::Successful, StoredStatus::Canceled];
        let had_ended = ledger.stored(&id, |stored| ends.contains(&stored.record.status));
        let had_arrived = ledger.post(|post| post.has_arrived(&text));
        let engine_ = self.engines[engine].engine.clone();
        let what = format!("send {name} {key:?} {text} to");
        self.call(engine, (at, id.clone()), &what, false, async move {
            let message = Message { text: text.clone() };
            let mut send = engine_.send_event(&id, &name, &message);
            if let Some(key) = key {
                send = send.id(key);
            }
            let sent = send.await;
            let has_arrived = ledger.post(|post| post.has_arrived(&text));
            let is_true = match &sent {
                Ok(()) => has_arrived && (had_arrived || had_ended != Some(true)),
                Err(Error::NotFound { .. }) => !was_there,
                Err(Error::AlreadyEnded { status, .. }) => status.is_final(),
                Err(_) => true,
            };
            if !is_true {
                ledger.violated(format!("sending {text} to {id} came to {sent:?}"));
            }
            sent.map(|()| None)
        });
    }

    pub(crate) fn call_maintain(&mut self, engine: usize) {
        let Some(at) = self.name() else { return };
        let id = self.names[at].id.clone();
        let engine_ = self.engines[engine].engine.clone();
        self.call(engine, (at, id), "maintain beside", false, async move {
            engine_.maintain().await.map(|_| None)
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
        self.call(engine, (at, id.clone()), "delete", true, async move {
            engine_.delete(&id).await?;
            if ledger.stored(&id, |_| ()).is_some() {
                ledger.violated(format!("{id} was deleted and is there"));
            }
            Ok(None)
        });
    }
}
