//! The side of those who own runs: offers what the runs of this engine ask for, hands them the results, and takes away what nobody
//! needs any more.
//!
//! One task does it, in rounds: whatever has gathered while the last round was under way goes to the store together.

#![expect(
    clippy::disallowed_methods,
    reason = "its task is no run's, and ends when the engine halts"
)]

use std::sync::Arc;
use std::time::Duration;

use keepstep_storage::{Epoch, Offer, Offered, Removal, StorageError, TaskId};
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::stored::read_result;
use super::unserved::Unserved;
use crate::engine::Shared;
use crate::error::SuspendReason;
use crate::executor::{Outcome, RunMessage, RunSender};
use crate::run::StepId;

/// How often it is looked for results that no notice told of.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long after a failure of the store it is tried again.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What goes to the store in one call.
const MAX_OFFERS: usize = 1_000;
const MAX_OFFER_BYTES: usize = 16 << 20;
const MAX_LOOKS: usize = 256;
const MAX_REMOVALS: usize = 4_000;

/// What the desk is told.
#[derive(Debug)]
pub(super) enum Message {
    Offer(Box<Request>),
    /// Nobody needs the result.
    Withdraw {
        ticket: u64,
        keeps_done: bool,
    },
    /// The run is not driven here any more.
    Leave(u64),
    /// It ended at this engine's own worker, and the store has the result.
    Ended(TaskId, Outcome),
    /// These may have results.
    Done(Vec<TaskId>),
    /// Any may.
    LookAtAll,
    /// The results are in the journal.
    Forget(Vec<Removal>),
}

/// An execution that is to be offered.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ticket: u64,
    pub(super) offer: Offer,
    pub(super) to: RunSender,
    pub(super) step: StepId,
    pub(super) execution: u64,
}

/// Who waits for a task.
#[derive(Debug)]
struct Waiting {
    task: TaskId,
    pool: String,
    epoch: Epoch,
    to: RunSender,
    step: StepId,
    execution: u64,
}

impl Waiting {
    fn removal(&self, also_done: bool) -> Removal {
        Removal {
            task: self.task,
            epoch: self.epoch,
            also_done,
        }
    }

    fn tell(self, outcome: Outcome) {
        // The run may be gone: then nobody needs the outcome here.
        drop(self.to.send(RunMessage::EndedElsewhere {
            step: self.step,
            execution: self.execution,
            outcome,
            task: self.task,
        }));
    }
}

#[derive(Debug)]
struct Desk {
    shared: Arc<Shared>,
    waiting: FxHashMap<u64, Waiting>,
    by_task: FxHashMap<TaskId, u64>,
    unserved: Unserved,
}

/// What is to be done in one round.
#[derive(Debug, Default)]
struct Round {
    offers: Vec<Request>,
    withdrawals: Vec<(u64, bool)>,
    left: Vec<u64>,
    ended: Vec<(TaskId, Outcome)>,
    looks: Vec<TaskId>,
    looks_at_all: bool,
    removals: Vec<Removal>,
}

impl Round {
    fn take_in(&mut self, message: Message) {
        match message {
            Message::Offer(request) => self.offers.push(*request),
            Message::Withdraw { ticket, keeps_done } => self.withdrawals.push((ticket, keeps_done)),
            Message::Leave(ticket) => self.left.push(ticket),
            Message::Ended(task, outcome) => self.ended.push((task, outcome)),
            Message::Done(tasks) => self.looks.extend(tasks),
            Message::LookAtAll => self.looks_at_all = true,
            Message::Forget(removals) => self.removals.extend(removals),
        }
    }
}

pub(super) fn start(shared: &Arc<Shared>, messages: mpsc::UnboundedReceiver<Message>) {
    let desk = Desk {
        shared: Arc::clone(shared),
        waiting: FxHashMap::default(),
        by_task: FxHashMap::default(),
        unserved: Unserved::default(),
    };
    tokio::spawn(desk.serve(messages));
}

impl Desk {
    async fn serve(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let shared = Arc::clone(&self.shared);
        let mut gathered = Vec::new();
        let mut look_at_all_at = None;
        loop {
            if self.waiting.is_empty() || shared.remote.is_local() {
                look_at_all_at = None;
            } else if look_at_all_at.is_none() {
                look_at_all_at = Some(shared.clock.after(LOOK_EVERY));
            }
            let mut round = Round::default();
            tokio::select! {
                biased;
                () = shared.halted.cancelled() => return,
                n = messages.recv_many(&mut gathered, 8 * MAX_OFFERS) => if n == 0 { return },
                () = async { match look_at_all_at {
                    Some(look_at_all_at) => shared.clock.sleep_until(look_at_all_at).await,
                    None => std::future::pending().await,
                } } => {
                    round.looks_at_all = true;
                    look_at_all_at = None;
                }
            }
            gathered
                .drain(..)
                .for_each(|message| round.take_in(message));
            // The engine may halt while the store does not answer.
            tokio::select! {
                () = self.go_round(round) => {}
                () = shared.halted.cancelled() => return,
            }
        }
    }

    async fn go_round(&mut self, round: Round) {
        let shared = Arc::clone(&self.shared);
        // First what makes room in the store; a task that is forgotten is not among those that are offered.
        for removals in round.removals.chunks(MAX_REMOVALS) {
            if let Err(error) = shared.remote.queue().remove(removals).await {
                // They go when their run ends.
                tracing::debug!(%error, "could not remove results that are in the journal");
            }
        }
        self.offer(round.offers).await;
        for (task, outcome) in round.ended {
            self.end(task, outcome).await;
        }
        self.withdraw(round.withdrawals).await;
        self.leave(round.left).await;
        let mut looks = round.looks;
        if round.looks_at_all {
            looks = self.by_task.keys().copied().collect();
        } else {
            looks.retain(|task| self.by_task.contains_key(task));
        }
        self.look(looks).await;
        if round.looks_at_all && !shared.remote.is_local() {
            let now = shared.clock.instant();
            self.unserved.look(shared.remote.queue(), now).await;
        }
    }

    async fn offer(&mut self, mut requests: Vec<Request>) {
        let shared = Arc::clone(&self.shared);
        while !requests.is_empty() {
            let mut bytes = 0;
            let fits = requests.iter().take(MAX_OFFERS).take_while(|request| {
                bytes += request.offer.payload.len();
                bytes <= MAX_OFFER_BYTES
            });
            let rest = requests.split_off(fits.count().max(1));
            let batch = std::mem::replace(&mut requests, rest);
            let (mut offers, mut who) = (Vec::new(), Vec::new());
            for request in batch {
                let epoch = request.offer.epoch;
                let pool = request.offer.pool.clone();
                offers.push(request.offer);
                who.push((
                    request.ticket,
                    Waiting {
                        task: TaskId(0),
                        pool,
                        epoch,
                        to: request.to,
                        step: request.step,
                        execution: request.execution,
                    },
                ));
            }
            match shared.remote.queue().offer(&offers).await {
                Ok(offered) => {
                    let mut offered = offered.into_iter();
                    for (ticket, waiting) in who {
                        self.offered(ticket, waiting, offered.next().flatten());
                    }
                    if shared.remote.is_local() {
                        shared.remote.worker.wake();
                    }
                }
                Err(error) => {
                    for (_, waiting) in who {
                        waiting.tell(Outcome::Storage(Box::new(error.clone())));
                    }
                }
            }
        }
    }

    fn offered(&mut self, ticket: u64, mut waiting: Waiting, offered: Option<Offered>) {
        let Some(Offered { task, result }) = offered else {
            // Another has the run by now, or it was stopped by another.
            drop(waiting.to.send(RunMessage::LeaseLost));
            return;
        };
        waiting.task = task;
        match result {
            Some(result) => waiting.tell(outcome_of(&result)),
            None => {
                let now = self.shared.clock.instant();
                self.unserved.offered(&waiting.pool, now);
                self.by_task.insert(task, ticket);
                self.waiting.insert(ticket, waiting);
            }
        }
    }

    fn take(&mut self, task: TaskId) -> Option<Waiting> {
        let ticket = self.by_task.remove(&task)?;
        self.waiting.remove(&ticket)
    }

    async fn end(&mut self, task: TaskId, outcome: Outcome) {
        let Some(waiting) = self.take(task) else {
            return;
        };
        let now = self.shared.clock.instant();
        self.unserved.ended(&waiting.pool, now);
        if self.shared.remote.is_local() {
            // Nothing but what is in the journal outlives this. Memory does not fail.
            let removal = waiting.removal(true);
            drop(self.shared.remote.queue().remove(&[removal]).await);
        }
        waiting.tell(outcome);
    }

    async fn withdraw(&mut self, withdrawals: Vec<(u64, bool)>) {
        let mut removals = Vec::new();
        let mut who = Vec::new();
        for (ticket, keeps_done) in withdrawals {
            let Some(waiting) = self.waiting.remove(&ticket) else {
                continue;
            };
            self.by_task.remove(&waiting.task);
            self.unserved.gone(&waiting.pool);
            removals.push(waiting.removal(!keeps_done));
            who.push(waiting);
        }
        let removed = self.remove(&removals).await;
        for waiting in who {
            waiting.tell(match &removed {
                Ok(()) => Outcome::Stopped,
                Err(error) => Outcome::Storage(Box::new(error.clone())),
            });
        }
    }

    /// What nobody here waits for any more is left to the next owner of its run. Where only this process can be that, it goes.
    async fn leave(&mut self, tickets: Vec<u64>) {
        let mut removals = Vec::new();
        for ticket in tickets {
            if let Some(waiting) = self.waiting.remove(&ticket) {
                self.by_task.remove(&waiting.task);
                self.unserved.gone(&waiting.pool);
                removals.push(waiting.removal(true));
            }
        }
        if self.shared.remote.is_local() {
            // Memory does not fail.
            drop(self.remove(&removals).await);
        }
    }

    async fn remove(&self, removals: &[Removal]) -> Result<(), StorageError> {
        for removals in removals.chunks(MAX_REMOVALS) {
            self.shared.remote.queue().remove(removals).await?;
            let tasks: Vec<_> = removals.iter().map(|removal| removal.task).collect();
            self.shared.remote.withdrawn(&tasks);
        }
        Ok(())
    }

    async fn look(&mut self, mut tasks: Vec<TaskId>) {
        let shared = Arc::clone(&self.shared);
        // In one order, whatever the map's is.
        tasks.sort_unstable();
        for tasks in tasks.chunks(MAX_LOOKS) {
            let looked = match shared.remote.queue().look(tasks).await {
                Ok(looked) => looked,
                Err(error) => {
                    tracing::warn!(%error, "could not look for results of remote steps; trying again");
                    shared.pause(AGAIN_AFTER).await;
                    return shared.remote.look_at_all();
                }
            };
            let there: FxHashMap<_, _> = looked
                .into_iter()
                .map(|offered| (offered.task, offered.result))
                .collect();
            for task in tasks {
                match there.get(task) {
                    Some(Some(result)) => self.end(*task, outcome_of(result)).await,
                    Some(None) => {}
                    // Somebody has removed it. It is offered anew.
                    None => self.end(*task, Outcome::Stopped).await,
                }
            }
        }
    }
}

fn outcome_of(result: &[u8]) -> Outcome {
    match read_result(result) {
        Ok(outcome) => outcome.into(),
        // It is not computed again because of that.
        Err(what) => Outcome::Unrunnable(Box::new(SuspendReason::Invariant {
            what: format!("the result of a remote step cannot be read: {what}"),
        })),
    }
}
