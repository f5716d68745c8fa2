//! What a task knows of its actor, and what changes it: calls that were made, and messages. `commit` makes it durable.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use keepstep_storage::{
    Committed as Outcomes, DeleteOutcome, Epoch, MessageId, RunId, RunKind, RunRecord,
    StorageError, Timestamp, ValueKey,
};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use tracing::warn;

use super::agenda::Agenda;
use super::decline::Undoable;
use super::def::StoredState;
use super::execute::{Called, Stage};
use super::interruptions::{Trial, Verdict};
use super::job::{Done, From, Item, Job, reply_of};
use super::stored::{self, Call, CallResult, Message, State};
use super::waits::ExclusiveWait;
use crate::engine::{ChildEnd, Engine, Shared};
use crate::error::{Error, Result};
use crate::source::Source;

/// How many messages are read at a time.
pub(super) const PAGE: usize = 256;

/// What a piece of work came to.
pub(super) enum Worked {
    Called(Job, Result<Called>),
    Read(Result<Vec<keepstep_storage::Message>>),
    Deleted(oneshot::Sender<Result<()>>, Result<bool>),
}

/// A commit under way.
pub(super) struct Committing {
    pub(super) outcome: oneshot::Receiver<Result<Outcomes, StorageError>>,
    pub(super) done: Vec<Done>,
    pub(super) state: StoredState,
    pub(super) record: RunRecord,
}

/// How a task ends that nothing went wrong with.
pub(super) enum Exit {
    /// It has nothing to do, until a time perhaps.
    Idle(Option<Timestamp>),
    /// It is left to other workers, and tried again at this time.
    Declined(Timestamp),
    /// It was deleted, and this is who asked for it.
    Deleted(oneshot::Sender<Result<()>>),
    /// Another engine is to have it.
    HandedOver,
}

/// What a task knows of its actor.
pub(super) struct Actor {
    pub(super) record: RunRecord,
    /// As the last call left it.
    pub(super) state: StoredState,
    /// Whether that is not what the last commit wrote.
    pub(super) is_changed: bool,
    pub(super) agenda: Agenda,
    /// Whether the call under way is noted in the store.
    pub(super) forgets_note_after: bool,
    /// Calls that were sent or planned, and that this program cannot make.
    pub(super) undoable: Undoable,
    /// Whether calls are noted, because the last owner died.
    pub(super) trial: Option<Trial>,
    /// Whether the call is over that is noted in the store.
    pub(super) forgets_note: bool,
    /// The last message that was read.
    pub(super) read_to: Option<MessageId>,
    /// Changes that came with messages, and the messages.
    pub(super) consumed: Vec<MessageId>,
    /// Results that are not committed yet.
    pub(super) results: FxHashMap<String, CallResult>,
    pub(super) work: Option<BoxFuture<'static, Worked>>,
    pub(super) done: Vec<Done>,
    pub(super) committing: Option<Committing>,
    /// The end of the workflow that other calls wait for.
    pub(super) child: Option<BoxFuture<'static, Result<ChildEnd>>>,
    /// Calls that steps of it make.
    pub(super) own: VecDeque<Job>,
    /// Why that does not go on, if it is suspended.
    pub(super) suspended: Option<Error>,
    /// Says that they wait for it.
    pub(super) exclusive: Option<ExclusiveWait>,
}

/// The outcome of a future, if there is one to wait for.
pub(super) async fn step<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

pub(super) fn not_found(stage: &Stage) -> Error {
    Error::ActorNotFound {
        actor: stage.id.clone(),
    }
}

impl Actor {
    /// Reads an actor, after taking it over if another engine had it; `epoch` is the one under which it is this engine's.
    pub(super) async fn load(stage: &Stage, epoch: &mut Option<Epoch>) -> Result<Self> {
        let (shared, id) = (&stage.shared, &stage.id);
        let record = shared.storage.record(id).await?;
        let record = record.filter(|record| record.kind == RunKind::Actor);
        let mut record = record.ok_or_else(|| not_found(stage))?;
        if shared.is_shared() {
            record = stage.take_over().await?;
        } else if record.owner != Some(shared.node) {
            record = shared
                .claim_one(id)
                .await?
                .ok_or_else(|| not_found(stage))?;
        }
        *epoch = Some(record.epoch);
        let trial = Trial::of(stage, std::mem::take(&mut record.n_orphaned)).await?;
        let state = shared.storage.value(id, &ValueKey::State).await?;
        let damage = crate::error::Damage::Missing { what: "state" };
        let state = state.ok_or_else(|| Error::Damaged {
            run: id.clone(),
            damage,
        })?;
        let State { version, value } = stored::decode(id, "state", &state)?;
        let agenda = Agenda::read(&*shared.storage, id).await?;
        let exclusive = agenda.exclusive();
        let child = exclusive.map(|run| wait_for(shared, run.clone()));
        let exclusive = exclusive.map(|run| shared.wait_exclusively(id, run));
        Ok(Self {
            record,
            state: StoredState { version, value },
            is_changed: false,
            agenda,
            forgets_note_after: false,
            undoable: Undoable::default(),
            trial,
            forgets_note: false,
            read_to: None,
            consumed: Vec::new(),
            results: FxHashMap::default(),
            work: None,
            done: Vec::new(),
            committing: None,
            child,
            own: VecDeque::new(),
            suspended: None,
            exclusive,
        })
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.work.is_none()
            && self.committing.is_none()
            && self.child.is_none()
            && self.done.is_empty()
            && !self.agenda.is_changed()
    }

    /// Whether what was done so far is committed, and nothing is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.work.is_none()
            && self.committing.is_none()
            && self.done.is_empty()
            && !self.agenda.is_changed()
    }

    /// Puts what is due into the queue.
    pub(super) fn take_due(&mut self, stage: &Stage, queue: &mut VecDeque<Item>) {
        let now = stage.shared.clock.timestamp();
        while let Some((key, call)) = self.agenda.take_call(now) {
            let job = job(stage, call, From::Agenda(key));
            self.undoable.note(job.is_none());
            queue.extend(job.map(Item::Call));
        }
        while let Some((name, due_at, call)) = self.agenda.take_reminder(now) {
            let job = job(stage, call, From::Reminder(name, due_at));
            self.undoable.note(job.is_none());
            queue.extend(job.map(Item::Call));
        }
    }

    /// Puts something into the queue, unless whoever asks for it is told at once that it cannot be done.
    pub(super) fn put(&mut self, stage: &Stage, queue: &mut VecDeque<Item>, item: Item) {
        let Some(error) = self.refusal(stage, &item) else {
            return match item {
                Item::Call(job)
                    if job.by.is_some() && job.by.as_ref() == self.agenda.exclusive() =>
                {
                    self.own.push_back(job);
                }
                item => queue.push_back(item),
            };
        };
        // Whoever asked may have gone.
        match item {
            Item::Call(job) => drop(reply_of(job).map(|reply| reply.send(Err(error)))),
            Item::Delete(reply) => drop(reply.send(Err(error))),
            Item::Inbox => {}
        }
    }

    /// Puts calls of the workflow that others wait for before those others.
    pub(super) fn give_back_own(&mut self, queue: &mut VecDeque<Item>) {
        while let Some(job) = self.own.pop_back() {
            queue.push_front(Item::Call(job));
        }
    }

    /// Why something is not to wait for the workflow that calls wait for: that waits for it, or is suspended.
    fn refusal(&self, stage: &Stage, item: &Item) -> Option<Error> {
        self.exclusive.as_ref()?;
        let job = match item {
            Item::Inbox => return None,
            Item::Delete(_) => return self.suspended.clone(),
            Item::Call(job) if matches!(job.from, From::Caller(_)) => job,
            Item::Call(_) => return None,
        };
        let waits = &stage.shared.actors.waits;
        if let Some(circle) = waits.circle_behind(&stage.id, &job.waiters, job.by.as_ref()) {
            return Some(Error::ActorDeadlock {
                actor: stage.id.clone(),
                method: job.method.step.name.to_owned(),
                circle,
            });
        }
        // Steps wait: their runs do not fail because somebody has stopped another for a while.
        self.suspended.clone().filter(|_| job.by.is_none())
    }

    /// The next thing in the queue that may begin.
    fn next_item(&mut self, queue: &mut VecDeque<Item>) -> Option<Item> {
        if self.child.is_some() {
            // Other calls wait for a workflow, which would wait for its own.
            return self.own.pop_front().map(Item::Call);
        }
        self.give_back_own(queue);
        // Only what is committed can be deleted.
        let is_settled = self.committing.is_none() && self.done.is_empty();
        if matches!(queue.front(), Some(Item::Delete(_))) && !is_settled {
            return None;
        }
        let is_stored = |item: &Item| matches!(item, Item::Call(job) if job.from.at().is_some());
        if self.trial.is_some() && queue.front().is_some_and(is_stored) && !self.is_settled() {
            // It is noted alone.
            return None;
        }
        queue.pop_front()
    }

    /// Begins the next piece of work, if there is one and it may begin.
    pub(super) fn begin(&mut self, stage: &Arc<Stage>, queue: &mut VecDeque<Item>) {
        if self.work.is_some() {
            return;
        }
        let item = loop {
            match self.next_item(queue) {
                None => return,
                Some(Item::Call(job)) if !job.begin() => {}
                Some(item) => break item,
            }
        };
        let stage = Arc::clone(stage);
        self.work = Some(match item {
            Item::Call(job) => {
                let (state, epoch) = (self.state.clone(), self.record.epoch);
                let earlier = job
                    .key
                    .as_ref()
                    .and_then(|key| self.results.get(key))
                    .cloned();
                let trial = self.trial.as_mut();
                let Some(verdict) = trial.and_then(|trial| trial.judge(&job.from)) else {
                    self.work = Some(Box::pin(async move {
                        let called = stage.call(&job, &state, epoch, earlier).await;
                        Worked::Called(job, called)
                    }));
                    return;
                };
                if self
                    .trial
                    .as_ref()
                    .is_some_and(|trial| trial.is_over(false))
                {
                    self.trial = None;
                }
                self.forgets_note_after = true;
                let record = self.record.clone();
                Box::pin(async move {
                    let called = match verdict {
                        Verdict::SetAside(times) => Ok(stage.set_aside(&job, times)),
                        Verdict::Make(note) => match stage.note(&note, record).await {
                            Ok(_until_it_is_over) => stage.call(&job, &state, epoch, earlier).await,
                            Err(error) => Err(error),
                        },
                    };
                    Worked::Called(job, called)
                })
            }
            Item::Inbox => {
                let after = self.read_to;
                Box::pin(async move {
                    let messages = stage.shared.storage.inbox(&stage.id, after, PAGE).await;
                    Worked::Read(messages.map_err(Error::Storage))
                })
            }
            Item::Delete(reply) => {
                let record = self.record.clone();
                Box::pin(async move {
                    let deleted = stage.shared.delete(&stage.id, &record).await;
                    let is_deleted = |outcome| outcome == DeleteOutcome::Deleted;
                    Worked::Deleted(reply, deleted.map(is_deleted))
                })
            }
        });
    }

    /// Takes in what a piece of work came to.
    pub(super) fn worked(
        &mut self,
        stage: &Stage,
        queue: &mut VecDeque<Item>,
        worked: Worked,
    ) -> Result<Option<Exit>> {
        match worked {
            Worked::Called(job, Ok(called)) => self.called(stage, job, called),
            Worked::Called(job, Err(error)) => {
                if let Some(reply) = reply_of(job) {
                    drop(reply.send(Err(error.clone())));
                }
                return Err(error);
            }
            Worked::Read(messages) => self.read(stage, queue, messages?)?,
            Worked::Deleted(reply, Ok(true)) => return Ok(Some(Exit::Deleted(reply))),
            Worked::Deleted(reply, deleted) => {
                let error = match deleted {
                    Err(error) => error,
                    Ok(_) => Error::Fenced {
                        run: stage.id.clone(),
                    },
                };
                drop(reply.send(Err(error.clone())));
                return Err(error);
            }
        }
        Ok(None)
    }

    fn called(&mut self, stage: &Stage, job: Job, called: Called) {
        let Called {
            answer,
            state,
            child,
            is_new,
            is_set_aside,
        } = called;
        self.forgets_note |= std::mem::take(&mut self.forgets_note_after);
        if let Some(value) = state
            && answer.is_ok()
        {
            let version = stage.def.version;
            if version != self.state.version || value != self.state.value {
                self.state = StoredState { version, value };
                self.is_changed = true;
            }
        }
        let method = job.method.name;
        let mut done = Done {
            reply: None,
            result: None,
            consumed: None,
            child,
            answer,
        };
        if let (Some(key), Ok(answer), true) = (&job.key, &done.answer, is_new) {
            let result = CallResult {
                method: method.to_owned(),
                answer: answer.clone(),
            };
            self.results.insert(key.clone(), result.clone());
            done.result = Some((key.clone(), result));
        }
        if job.method.exclusive
            && let Some(child) = &done.child
        {
            let run = child.write.run.clone();
            // Nobody who waits already can wait for a run that is new.
            self.exclusive = Some(stage.shared.wait_exclusively(&stage.id, &run));
            self.agenda.set_exclusive(Some(run));
            // Calls behind it wait from now on; the run itself is there after the commit.
            self.child = Some(Box::pin(pending()));
        }
        if !matches!(job.from, From::Caller(_))
            && let Err(error) = &done.answer
        {
            if is_for_other_code(error) {
                warn!(actor = %stage.id, method, %error, "a call that was sent cannot be made by this program; it waits for another");
                self.undoable.note(true);
                return;
            }
            if !is_set_aside {
                warn!(actor = %stage.id, method, %error, "a call that was sent failed");
            }
        }
        match job.from {
            From::Caller(reply) => done.reply = Some(reply),
            From::Inbox(message, _) => done.consumed = Some(message),
            From::Agenda(key) => {
                self.agenda.call_made(&key);
            }
            From::Reminder(name, _) if is_set_aside => {
                tracing::error!(actor = %stage.id, reminder = name, method, "the reminder is removed");
                self.agenda.forget(&name);
            }
            From::Reminder(name, due_at) => {
                let now = stage.shared.clock.timestamp();
                self.agenda.reminder_made(&name, due_at, now);
            }
        }
        self.done.push(done);
    }

    /// Takes in messages.
    fn read(
        &mut self,
        stage: &Stage,
        queue: &mut VecDeque<Item>,
        messages: Vec<keepstep_storage::Message>,
    ) -> Result<()> {
        let now = stage.shared.clock.timestamp();
        let is_all = messages.len() < PAGE;
        // What is due is in the queue: of it, what was due before a message was sent comes before that.
        let mut jobs = Vec::new();
        let mut sent_by = Timestamp(0);
        let mut forgotten = FxHashMap::default();
        for message in messages {
            self.read_to = Some(message.id);
            // The order of arrival stays, whatever the clocks of the senders say.
            sent_by = sent_by.max(message.sent_at).min(now);
            match stored::decode(&stage.id, "message", &message.body)? {
                Message::Call { call, due_at } if due_at.is_none_or(|due_at| due_at <= now) => {
                    let at = due_at.map_or(sent_by, |due_at| due_at.max(sent_by));
                    let job = job(stage, &call, From::Inbox(message.id, sent_by));
                    self.undoable.note(job.is_none());
                    jobs.extend(job.map(|job| (at, job)));
                    continue;
                }
                Message::Call { call, due_at } => {
                    self.agenda.plan(due_at.unwrap_or(now), call);
                }
                Message::Remind { name, reminder } => {
                    self.forget_due(&mut forgotten, &name, sent_by);
                    self.agenda.remind(name, reminder);
                }
                Message::Forget { name } => {
                    self.forget_due(&mut forgotten, &name, sent_by);
                    self.agenda.forget(&name);
                }
            }
            self.consumed.push(message.id);
        }
        if !forgotten.is_empty() {
            let is_forgotten = |from: &From| match from {
                From::Reminder(name, due_at) => forgotten.get(name).is_some_and(|at| due_at > at),
                From::Caller(_) | From::Inbox(..) | From::Agenda(_) => false,
            };
            queue.retain(|item| !matches!(item, Item::Call(job) if is_forgotten(&job.from)));
        }
        jobs.sort_by_key(|(at, _)| *at);
        let mut first = Vec::with_capacity(jobs.len());
        for (at, job) in jobs {
            while let Some(Item::Call(due)) = queue.front()
                && due.from.due_at().is_some_and(|due_at| due_at <= at)
            {
                first.extend(queue.pop_front());
            }
            first.push(Item::Call(job));
        }
        if !is_all {
            queue.push_front(Item::Inbox);
        }
        for item in first.into_iter().rev() {
            queue.push_front(item);
        }
        Ok(())
    }

    /// A reminder was removed or replaced then: what was due of it later does not happen. Later messages find it out of the queue.
    fn forget_due(&self, forgotten: &mut FxHashMap<String, Timestamp>, name: &str, at: Timestamp) {
        if self.agenda.is_reminder_taken(name) {
            forgotten.entry(name.to_owned()).or_insert(at);
        }
    }

    /// The workflow that other calls waited for is over.
    pub(super) fn child_ended(
        &mut self,
        stage: &Stage,
        queue: &mut VecDeque<Item>,
        ended: Result<ChildEnd>,
    ) -> Result<()> {
        self.suspended = None;
        match (ended, self.agenda.exclusive().cloned()) {
            (Ok(ChildEnd::Suspended(error)), Some(run)) => {
                self.child = Some(until_resumed(&stage.shared, run));
                self.suspended = Some(error);
                for item in std::mem::take(queue) {
                    self.put(stage, queue, item);
                }
                Ok(())
            }
            (Ok(ChildEnd::Resumed), Some(run)) => {
                self.child = Some(wait_for(&stage.shared, run));
                Ok(())
            }
            // It goes on when it is waited for again: the next call does.
            (Ok(ChildEnd::Stopped(error)) | Err(error), _)
                if !matches!(error, Error::NotFound { .. }) =>
            {
                Err(error)
            }
            _ => {
                self.exclusive = None;
                self.agenda.set_exclusive(None);
                Ok(())
            }
        }
    }
}

/// Waits until a run that is suspended is so no more.
fn until_resumed(shared: &Arc<Shared>, run: RunId) -> BoxFuture<'static, Result<ChildEnd>> {
    let engine = Engine::detached(Arc::clone(shared));
    Box::pin(async move { engine.until_resumed(&run).await.map(|()| ChildEnd::Resumed) })
}

pub(super) fn wait_for(shared: &Arc<Shared>, run: RunId) -> BoxFuture<'static, Result<ChildEnd>> {
    let engine = Engine::detached(Arc::clone(shared));
    Box::pin(async move { engine.end_of_child(&run).await })
}

/// The call as this program can make it.
fn job(stage: &Stage, call: &Call, from: From) -> Option<Job> {
    let Some(method) = stage.def.method(&call.method) else {
        let method = &call.method;
        warn!(actor = %stage.id, method, "this program's actor has no such method; the call waits for one that has");
        return None;
    };
    Some(Job {
        method,
        args: call.args.iter().cloned().map(Source::Value).collect(),
        key: call.key.clone(),
        waiters: Arc::from([]),
        by: None,
        claim: None,
        from,
    })
}

/// Whether a call could not be made because of the code, which may change.
fn is_for_other_code(error: &Error) -> bool {
    matches!(
        error,
        Error::Undecodable { .. } | Error::MissingResource { .. }
    )
}
