//! The task of an actor in memory: it waits for what happens to its actor, and ends when there is nothing to wait for.
//!
//! Nobody is told of a call before the commit that has it is durable; after a failed write the task is over and writes nothing
//! more.

use std::collections::VecDeque;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use keepstep_storage::{Epoch, RunId, StorageError};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::active::{Actor, Exit, PAGE, not_found, step};
use super::commit::outcome_of;
use super::decline::is_unreadable;
use super::def::ActorDef;
use super::execute::Stage;
use super::interruptions::Trial;
use super::job::{From, Item, reply_of};
use super::residents::{Committed, Mail, Seat};
use crate::clock::later;
use crate::engine::{Growth, Shared};
use crate::error::{Error, Result};

/// How long an actor stays in memory with nothing to do.
const IDLE: Duration = Duration::from_secs(5);
/// How long an actor that another engine wants still makes calls that are waiting here.
const TURN: Duration = Duration::from_millis(100);

pub(super) struct Task {
    pub(super) stage: Arc<Stage>,
    seat: Arc<Seat>,
    pub(super) mailbox: mpsc::UnboundedReceiver<Mail>,
    pub(super) queue: VecDeque<Item>,
    /// What is not there before the actor was loaded.
    pub(super) actor: Option<Actor>,
    /// The epoch under which it is this engine's.
    epoch: Option<Epoch>,
    /// Since when another engine wants the actor.
    wanted_at: Option<Instant>,
}

impl Task {
    pub(super) fn new(
        shared: Arc<Shared>,
        def: &'static ActorDef,
        id: RunId,
        seat: Arc<Seat>,
        mailbox: mpsc::UnboundedReceiver<Mail>,
    ) -> Self {
        Self {
            stage: Arc::new(Stage { shared, def, id }),
            seat,
            mailbox,
            queue: VecDeque::new(),
            actor: None,
            epoch: None,
            wanted_at: None,
        }
    }

    /// Gives the actor to the engine that wants it; calls that were not made are made when it is back.
    async fn hand_over(mut self) {
        let (shared, id) = (Arc::clone(&self.stage.shared), self.stage.id.clone());
        shared.actors.remove(&id, &mut self.mailbox);
        while let Ok(mail) = self.mailbox.try_recv() {
            match mail {
                Mail::Call(job) => self.queue.push_back(Item::Call(job)),
                Mail::Delete(reply) => self.queue.push_back(Item::Delete(reply)),
                Mail::Inbox | Mail::HandOver | Mail::LeaseLost | Mail::ShutDown => {}
            }
        }
        if let Some(mut actor) = self.actor.take() {
            actor.give_back_own(&mut self.queue);
            debug!(actor = %id, "actor is handed over");
            let released = [(id.clone(), actor.record.epoch)];
            if let Err(error) = shared.storage.release(&released).await {
                tracing::warn!(actor = %id, %error, "could not hand the actor over; it stays until it is asked for again");
            }
        }
        for item in std::mem::take(&mut self.queue) {
            let mail = match item {
                // What is stored is found again by whoever has the actor.
                Item::Call(job) if matches!(job.from, From::Caller(_)) => Mail::Call(job),
                Item::Delete(reply) => Mail::Delete(reply),
                Item::Call(_) | Item::Inbox => continue,
            };
            // Those who wait are told of a shutdown by the end of their channel.
            drop(shared.actor(self.stage.def, &id, Some(mail)));
        }
    }

    /// Makes calls until there are none, or the store fails.
    pub(super) async fn drive(mut self) {
        let ended = AssertUnwindSafe(self.drive_to_exit()).catch_unwind().await;
        let (shared, id) = (Arc::clone(&self.stage.shared), self.stage.id.clone());
        let epoch = self.epoch;
        if let Ok(Ok(_)) = &ended {
            shared.pauses.succeeded(&id);
        }
        let error = match ended {
            Ok(Ok(Exit::Idle(due_at))) => {
                debug!(actor = %id, "actor left memory");
                if let (true, Some(epoch)) = (shared.is_shared(), epoch) {
                    // Nobody has to ask for it. If this fails they have to.
                    drop(shared.storage.release(&[(id.clone(), epoch)]).await);
                }
                if let Some(due_at) = due_at {
                    shared.set_timer(due_at, id);
                }
                return;
            }
            Ok(Ok(Exit::Declined(until))) => {
                if let Some(epoch) = epoch {
                    shared.decline_actor(&id, epoch).await;
                }
                shared.set_timer(until, id);
                return;
            }
            Ok(Ok(Exit::Deleted(reply))) => {
                // An actor of this id that is made from here on has a task of its own.
                shared.actors.remove(&id, &mut self.mailbox);
                let error = not_found(&self.stage);
                self.fail(&error);
                drop(reply.send(Ok(())));
                return;
            }
            Ok(Ok(Exit::HandedOver)) => return self.hand_over().await,
            Ok(Err(error)) => error,
            Err(_) => Error::Interrupted {
                run: id.clone(),
                source: StorageError::Backend {
                    backend: shared.storage.describe().backend,
                    operation: "serve an actor",
                    source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(
                        "its task panicked",
                    )),
                },
            },
        };
        shared.actors.remove(&id, &mut self.mailbox);
        self.pause_after(&error);
        if let (Error::ShutDown, Some(epoch)) = (&error, epoch) {
            shared.release_at_shutdown(&id, epoch);
        }
        if let Some(epoch) = epoch
            && is_unreadable(&error)
        {
            shared.leave_unreadable_actor(&id, epoch).await;
        }
        self.fail(&error);
    }

    /// Has the actor woken again where that may help: what it has to do may not have been asked for by anybody who waits.
    fn pause_after(&self, error: &Error) {
        let (shared, id) = (&self.stage.shared, &self.stage.id);
        match error {
            Error::Storage(error) if error.is_retryable() => {
                let again_in = shared.wake_again(id, Growth::OF_BODIES);
                tracing::warn!(actor = %id, %error, ?again_in, "the store failed under an actor; its calls are made again");
            }
            Error::Storage(
                error @ (StorageError::Poisoned { .. } | StorageError::Closed { .. }),
            ) => {
                shared.pauses.hold(id);
                if !shared.is_closing() {
                    tracing::warn!(actor = %id, %error, "the store takes no more writes; calls of the actor wait until it is opened again");
                }
            }
            // It is as it is stored, and whoever has it now looks after it.
            Error::ShutDown
            | Error::RuntimeEnded
            | Error::Fenced { .. }
            | Error::ActorNotFound { .. } => {
                shared.pauses.succeeded(id);
            }
            error => {
                let now = shared.clock.instant();
                let random = shared.random();
                shared.pauses.failed(id, Growth::OF_BODIES, now, random);
                tracing::warn!(actor = %id, %error, "an actor stopped; it is tried again when it is due or somebody calls it");
            }
        }
    }

    /// Tells everybody who waits.
    fn fail(mut self, error: &Error) {
        debug!(actor = %self.stage.id, %error, "actor stopped");
        self.seat.committed.send_if_modified(|committed| {
            let is_first = committed.is_none();
            if is_first {
                *committed = Some(Err(error.clone()));
            }
            is_first
        });
        let mut replies = Vec::new();
        if let Some(mut actor) = self.actor.take() {
            actor.give_back_own(&mut self.queue);
            let committing = actor.committing.into_iter();
            let done: Vec<_> = committing.flat_map(|committing| committing.done).collect();
            // They may be there all the same; then they are nobody's.
            let children = done.iter().filter_map(|done| done.child.as_ref());
            self.stage
                .shared
                .lose(children.map(|child| &child.write.run));
            let done = done.into_iter();
            replies.extend(done.chain(actor.done).filter_map(|done| done.reply));
        }
        while let Ok(mail) = self.mailbox.try_recv() {
            match mail {
                Mail::Call(job) => self.queue.push_back(Item::Call(job)),
                Mail::Delete(reply) => self.queue.push_back(Item::Delete(reply)),
                Mail::Inbox | Mail::HandOver | Mail::LeaseLost | Mail::ShutDown => {}
            }
        }
        for item in self.queue {
            match item {
                Item::Call(job) => replies.extend(reply_of(job)),
                Item::Delete(reply) => drop(reply.send(Err(error.clone()))),
                Item::Inbox => {}
            }
        }
        for reply in replies {
            drop(reply.send(Err(error.clone())));
        }
    }

    async fn drive_to_exit(&mut self) -> Result<Exit> {
        let loaded = Actor::load(&self.stage, &mut self.epoch).await?;
        self.seat
            .committed
            .send_replace(Some(Ok(Committed::new(loaded.state.clone()))));
        self.actor = Some(loaded);
        // What an earlier owner left over comes before everything that arrives now.
        self.queue.push_front(Item::Inbox);
        let shared = Arc::clone(&self.stage.shared);
        let mut mails = Vec::new();
        let mut idle_since = shared.clock.instant();
        loop {
            if let Some(exit) = self.decline().await? {
                return Ok(exit);
            }
            let Some(actor) = &mut self.actor else {
                return Err(Error::ShutDown);
            };
            actor.take_due(&self.stage, &mut self.queue);
            actor.commit(&self.stage)?;
            actor.begin(&self.stage, &mut self.queue);
            let is_at_rest = actor.is_at_rest() && self.queue.is_empty();
            let is_over = |trial: &mut Trial| trial.is_over(is_at_rest);
            drop(actor.trial.take_if(is_over));
            let now = shared.clock.instant();
            if let Some(wanted_at) = self.wanted_at
                && actor.is_settled()
                && (self.queue.is_empty() || actor.child.is_some() || now >= later(wanted_at, TURN))
            {
                return Ok(Exit::HandedOver);
            }
            let due_at = actor.agenda.next_due();
            // Once its turn is over, it looks when what is under way ends: a time that has passed would make this loop go round for ever.
            let turn_ends_at = self.wanted_at.map(|wanted_at| later(wanted_at, TURN));
            let mut looks_at = turn_ends_at.filter(|ends_at| *ends_at > now);
            if is_at_rest {
                let leaves_at = later(idle_since, IDLE);
                if (now >= leaves_at || shared.actors.are_many())
                    && shared.actors.leave(&self.stage.id, &mut self.mailbox)
                {
                    return Ok(Exit::Idle(due_at));
                }
                looks_at = Some(leaves_at.max(later(now, Duration::from_millis(1))));
            }
            tokio::select! {
                // What was begun is finished first, so that what gathers meanwhile goes together.
                biased;
                () = shared.halted.cancelled() => return Err(Error::ShutDown),
                worked = step(&mut actor.work) => {
                    actor.work = None;
                    if let Some(exit) = actor.worked(&self.stage, &mut self.queue, worked)? {
                        return Ok(exit);
                    }
                }
                committed = outcome_of(&mut actor.committing) => {
                    let committed = committed?;
                    actor.settle(&self.stage, &self.seat, committed)?;
                }
                ended = step(&mut actor.child) => {
                    actor.child = None;
                    actor.child_ended(&self.stage, &mut self.queue, ended)?;
                }
                n = self.mailbox.recv_many(&mut mails, PAGE) => {
                    if n == 0 {
                        return Err(Error::ShutDown);
                    }
                }
                () = async { match due_at {
                    Some(due_at) => shared.clock.sleep_towards(due_at).await,
                    None => pending().await,
                } } => {}
                () = async { match looks_at {
                    Some(looks_at) => shared.clock.sleep_until(looks_at).await,
                    None => pending().await,
                } } => {}
            }
            for mail in mails.drain(..) {
                match mail {
                    Mail::Call(job) => actor.put(&self.stage, &mut self.queue, Item::Call(job)),
                    // One look that is to come finds what has arrived by then.
                    Mail::Inbox if matches!(self.queue.back(), Some(Item::Inbox)) => {}
                    Mail::Inbox => self.queue.push_back(Item::Inbox),
                    Mail::Delete(reply) => {
                        actor.put(&self.stage, &mut self.queue, Item::Delete(reply));
                    }
                    Mail::HandOver => {
                        self.wanted_at.get_or_insert(shared.clock.instant());
                    }
                    Mail::LeaseLost => {
                        return Err(Error::Fenced {
                            run: self.stage.id.clone(),
                        });
                    }
                    Mail::ShutDown => {
                        // What is being written may be durable: who waits for it is told.
                        if let Some(actor) = &mut self.actor
                            && actor.committing.is_some()
                        {
                            actor.work = None;
                            let committed = outcome_of(&mut actor.committing).await?;
                            actor.settle(&self.stage, &self.seat, committed)?;
                        }
                        return Err(Error::ShutDown);
                    }
                }
            }
            if !is_at_rest {
                idle_since = shared.clock.instant();
            }
        }
    }
}
