//! The end of a simulation: the store is well from now on, every call returns, and every run ends as its program says.

use std::sync::Arc;
use std::time::Duration;

use keepstep::storage::StoredStatus;
use keepstep::{Error, Result, Status};

use crate::invariants::{outcome_is_true, views_agree};
use crate::oracle::Witness;
use crate::programs::{Message, Out, Prog};
use crate::sim::{Name, Sim};
use crate::tokens::tokens_in;

/// Longer than anything takes in virtual time.
const HANG: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often a run may be interrupted once the store is well: by what came late.
const MAX_TURNS: usize = 30;
/// How often users look for what still needs a message.
const POST: Duration = Duration::from_secs(60);

impl Sim {
    /// The store is well from now on.
    pub(crate) async fn come_to_rest(&mut self) {
        let ledger = Arc::clone(&self.world.ledger);
        if !ledger.violations().is_empty() {
            return;
        }
        ledger.trace("all is well");
        ledger.mend();
        self.world.faulty.heal();
        self.world.faulty.release_held();
        // What an engine committed while there was another one, that one was not told of: nor are those who wait there.
        let is_fresh = self.had_two || self.rng.bool();
        if self.had_two {
            while self.engines.len() > 1 {
                let at = self.rng.usize(..self.engines.len());
                self.crash(at).await;
            }
            self.crash(0).await;
        }
        for mut waiting in std::mem::take(&mut self.waiting) {
            let told = async {
                tokio::select! {
                    biased;
                    told = &mut waiting.task => drop(told),
                    () = self.be_good_users() => {}
                }
            };
            if tokio::time::timeout(HANG, told).await.is_err() {
                let id = &self.names[waiting.name].id;
                let what = format!("a call about {id} on {} hangs", waiting.engine);
                return ledger.violated(what);
            }
        }
        self.tidy();
        if is_fresh && !self.had_two {
            self.crash(0).await;
        }
        let doomed = if is_fresh { self.doomed() } else { Vec::new() };
        let n_tokens = ledger.n_tokens();
        for at in 0..self.names.len() {
            let ending = async {
                tokio::select! {
                    biased;
                    ended = self.end(at) => ended,
                    () = self.be_good_users() => Ok(()),
                }
            };
            match tokio::time::timeout(HANG, ending).await {
                Ok(Ok(())) => {}
                Ok(Err(what)) => return ledger.violated(what),
                Err(_) => {
                    let what = format!("{} does not end", self.names[at].id);
                    return ledger.violated(what);
                }
            }
        }
        if let Err(what) = self.end_children(&doomed, n_tokens).await {
            return ledger.violated(what);
        }
        views_agree(&self.world, &self.engines, &self.ids(), 0).await;
    }

    /// Children that have not ended, and that nothing needs: their parent was canceled, or a race was lost.
    fn doomed(&self) -> Vec<String> {
        let ledger = &self.world.ledger;
        let status = |id: &str| ledger.stored(id, |stored| stored.record.status);
        let mut doomed = Vec::new();
        for (id, prog) in self.runs() {
            if status(id) == Some(StoredStatus::Canceled) {
                prog.each(&mut |part| {
                    if let Prog::Child(_, id, ..) = part {
                        doomed.push(id.clone());
                    }
                });
            }
            doomed.extend(prog.abandoned(Witness { ledger, run: id }));
        }
        // One that had failed, and that a user goes on with, is the user's.
        doomed.retain(|id| {
            let is_doomed = ledger.stored(id, |stored| {
                let is_users = stored.had.contains(&StoredStatus::Failed);
                !is_users && !stored.record.status.is_final()
            });
            is_doomed == Some(true)
        });
        doomed
    }

    /// Sends the messages that runs wait for, and goes on with children that somebody suspended.
    async fn be_good_users(&self) {
        let ledger = &self.world.ledger;
        loop {
            tokio::time::sleep(POST).await;
            let engine = &self.engines[0].engine;
            for (id, prog) in self.runs() {
                let status = ledger.stored(id, |stored| stored.record.status);
                if status == Some(StoredStatus::Suspended)
                    && self.names.iter().all(|name| name.id != id)
                {
                    ledger.trace(&format!("somebody goes on with {id}"));
                    drop(engine.resume::<Out>(id).await);
                }
                if status.is_none_or(StoredStatus::is_final) {
                    continue;
                }
                for (name, n) in prog.waits_for() {
                    for _ in ledger.post(|post| post.n_arrived(id, &name))..n {
                        let text = ledger.post(|post| post.write(id, &name, None));
                        ledger.trace(&format!("somebody sends {id} {name} {text}"));
                        drop(engine.send_event(id, &name, &Message { text }).await);
                    }
                }
            }
        }
    }

    /// Goes on with a run until it has ended.
    async fn end(&self, at: usize) -> Result<(), String> {
        let Name {
            id,
            prog,
            may_be_canceled,
            ..
        } = &self.names[at];
        let engine = &self.engines[0].engine;
        let ledger = &self.world.ledger;
        let mut was_resumed = false;
        for turn in 0..MAX_TURNS {
            let what = format!("the last run of {id}, turn {turn}");
            ledger.trace(&what);
            let outcome: Result<Out> = if was_resumed {
                match engine.resume(id).await {
                    Ok(handle) => handle.await,
                    Err(error) => Err(error),
                }
            } else {
                engine.run(id, prog.build("")).await
            };
            outcome_is_true(ledger, id, &what, &outcome);
            match outcome {
                Ok(out) => {
                    let expected = prog.value(Witness { ledger, run: id });
                    if expected.is_none() && self.is_half_deleted(id) {
                        return Ok(());
                    }
                    if Some(out.value) != expected {
                        return Err(format!("{id} is {out:?}, not {expected:?}"));
                    }
                    return self.kept(id, prog, &out).await;
                }
                Err(Error::Canceled { .. }) if *may_be_canceled => return Ok(()),
                // It failed before what was broken was mended.
                Err(Error::Failed { .. }) if !was_resumed => {
                    self.resume_failed_children(at).await;
                    was_resumed = true;
                }
                Err(Error::Failed { .. }) if prog.may_fail() => return Ok(()),
                Err(Error::Failed { error, .. }) => {
                    return Err(format!("{id} failed: {error}; it should not"));
                }
                Err(Error::Suspended { .. } | Error::Fenced { .. } | Error::Interrupted { .. }) => {
                }
                // Other runs go on meanwhile.
                Err(Error::QueueFull { .. }) => tokio::time::sleep(POST).await,
                // What the engine drives was deleted by another, which it learns at its next write.
                Err(Error::IdConflict { .. }) if ledger.has_deleted() => {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                }
                Err(error) => return Err(format!("{what}: {error}")),
            }
        }
        Err(format!("{id} comes to no end"))
    }

    /// Goes on with children that failed before what was broken was mended, the innermost first.
    async fn resume_failed_children(&self, at: usize) {
        let ledger = &self.world.ledger;
        let engine = &self.engines[0].engine;
        for (id, _) in self.names[at].children.iter().rev() {
            let status = ledger.stored(id, |stored| stored.record.status);
            if status == Some(StoredStatus::Failed) {
                let what = format!("the last run of {id}");
                ledger.trace(&what);
                let outcome = match engine.resume::<Out>(id).await {
                    Ok(handle) => handle.await,
                    Err(error) => Err(error),
                };
                outcome_is_true(ledger, id, &what, &outcome);
            }
        }
    }

    /// What is kept of a run that was successful.
    async fn kept(&self, id: &str, prog: &Prog, out: &Out) -> Result<(), String> {
        let ledger = &self.world.ledger;
        let engine = &self.engines[0].engine;
        let says = |error: Error| format!("3: what is kept of {id}: {error}");
        let status = engine.status(id).await.map_err(says)?;
        let stored: Out = engine.output(id).await.map_err(says)?;
        if status != Status::Successful || stored != *out {
            return Err(format!("3: {id} is {status:?} and {stored:?}, not {out:?}"));
        }
        let mut named = Vec::new();
        prog.each(&mut |part| {
            let value = part.value(Witness { ledger, run: id });
            if part.spec().is_named && value.is_some() && !part.spec().is_volatile {
                named.push((part.spec().name(), value));
            }
        });
        for (name, value) in named {
            match engine.step_output::<Out>(id, &name).await {
                Ok(kept) if Some(kept.value) == value => {}
                // It is in a part that was caught, or lost a race, before it came to that.
                Err(Error::StepNotFound { .. }) if !prog.is_sure() => {}
                other => return Err(format!("{id}: {name} is {other:?}, not {value:?}")),
            }
        }
        Ok(())
    }

    /// Goes on with the runs that others started until all have ended as they should.
    /// One that is not needed may have come to its result before, if not yet to its end.
    async fn end_children(&self, doomed: &[String], n_tokens: usize) -> Result<(), String> {
        let children = self.names.iter().flat_map(|name| &name.children);
        for (id, prog) in children.chain(&self.orphans) {
            let ending = async {
                tokio::select! {
                    biased;
                    ended = self.end_child(id, prog) => ended,
                    () = self.be_good_users() => Ok(()),
                }
            };
            tokio::time::timeout(HANG, ending)
                .await
                .map_err(|_| format!("{id} does not end"))??;
            let status = self.world.ledger.stored(id, |stored| stored.record.status);
            let engine = &self.engines[0].engine;
            let had_result = status == Some(StoredStatus::Successful)
                && engine.output::<Out>(id).await.is_ok_and(|out| {
                    let mut tokens = tokens_in(out.token.as_bytes()).into_iter();
                    tokens.all(|token| (token as usize) < n_tokens)
                });
            if doomed.contains(id) && !had_result && status != Some(StoredStatus::Canceled) {
                return Err(format!("{id} was not needed any more, and is {status:?}"));
            }
        }
        Ok(())
    }

    /// Whether a delete that was cut short took children of this family along, and not yet the run. What the run came to is stored, and
    /// nobody can tell any more what its children saw.
    fn is_half_deleted(&self, id: &str) -> bool {
        let ledger = &self.world.ledger;
        let family = id.split('-').next().unwrap_or(id);
        ledger.has_deleted()
            && self.names.iter().any(|name| {
                let is_gone = |child: &str| ledger.stored(child, |_| ()).is_none();
                name.id == family && name.children.iter().any(|(child, _)| is_gone(child))
            })
    }

    async fn end_child(&self, id: &str, prog: &Prog) -> Result<(), String> {
        let engine = &self.engines[0].engine;
        let ledger = &self.world.ledger;
        loop {
            let status = match engine.status(id).await {
                Ok(status) => status,
                Err(Error::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(format!("{id}: {error}")),
            };
            match status {
                Status::Successful => {
                    let out: Out = engine.output(id).await.map_err(|e| format!("{id}: {e}"))?;
                    let expected = prog.value(Witness { ledger, run: id });
                    if expected.is_none() && self.is_half_deleted(id) {
                        return Ok(());
                    }
                    if Some(out.value) != expected {
                        return Err(format!("{id} is {out:?}, not {expected:?}"));
                    }
                    return self.kept(id, prog, &out).await;
                }
                Status::Failed if prog.may_fail() || prog.is_broken() => return Ok(()),
                Status::Failed => return Err(format!("{id} failed, and should not")),
                Status::Canceled => return Ok(()),
                Status::Suspended | Status::Resumable => {
                    ledger.trace(&format!("somebody goes on with {id}"));
                    drop(engine.resume::<Out>(id).await);
                }
                Status::Pending | Status::Running => {}
                other => return Err(format!("{id} is {other:?}")),
            }
            tokio::time::sleep(POST).await;
        }
    }
}
