//! The task of an actor in memory: it makes calls one after the other, and commits what has gathered in one write.
//!
//! While a commit is being flushed, further calls are made on the state as the last call left it. Nobody is told of a call
//! before the commit that has it is durable; after a failed write the task is over and writes nothing more.

use std::collections::{HashSet, VecDeque};
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::FutureExt;
use keepstep_storage::{
    Committed as Outcomes, Expect, MessageId, RunId, RunKind, RunRecord, RunWrite, StorageError,
    Timestamp, ValueKey, WriteOutcome,
};
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::def::{ActorDef, MethodDef, StoredState};
use super::execute::{Called, Stage};
use super::residents::{Committed, Mail, Seat};
use super::stored::{self, Agenda, Answer, Call, CallResult, Message, State};
use crate::engine::{ChildEnd, Engine, NewRun, Shared};
use crate::error::{Error, Result};
use crate::executor::{CommitRequest, Reply};
use crate::source::Source;

/// How long an actor stays in memory with nothing to do.
const IDLE: Duration = Duration::from_secs(5);
/// How long after a failure of the store an actor is looked at again.
const AGAIN: Duration = Duration::from_secs(10);
/// How many messages are read at a time.
const PAGE: usize = 256;

/// A call to be made.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) method: &'static MethodDef,
    pub(super) args: Vec<Source>,
    /// The id that the caller gave it.
    pub(super) key: Option<String>,
    /// Actors that wait for this call.
    pub(super) busy: Arc<[RunId]>,
    /// The run whose step makes it.
    pub(super) by: Option<RunId>,
    pub(super) from: From,
}

/// Where a call comes from.
#[derive(Debug)]
pub(super) enum From {
    Caller(oneshot::Sender<Result<Answer>>),
    Inbox(MessageId),
    Agenda((Timestamp, u64)),
    Reminder(String),
}

/// What stands in the queue.
enum Item {
    Call(Job),
    Inbox,
    Delete(oneshot::Sender<Result<()>>),
}

/// What a piece of work came to.
enum Worked {
    Called(Job, Result<Called>),
    Read(Result<Vec<keepstep_storage::Message>>),
    Deleted(oneshot::Sender<Result<()>>, Result<bool>),
}

/// A call that was made and is not committed yet.
struct Done {
    reply: Option<oneshot::Sender<Result<Answer>>>,
    answer: Result<Answer>,
    result: Option<(String, CallResult)>,
    consumed: Option<MessageId>,
    child: Option<Box<NewRun>>,
}

/// A commit under way.
struct Committing {
    outcome: oneshot::Receiver<Result<Outcomes, StorageError>>,
    done: Vec<Done>,
    state: StoredState,
    record: RunRecord,
}

/// How a task ends that nothing went wrong with.
enum Exit {
    /// It has nothing to do, until a time perhaps.
    Idle(Option<Timestamp>),
    Deleted,
}

pub(super) struct Task {
    stage: Arc<Stage>,
    seat: Arc<Seat>,
    mailbox: mpsc::UnboundedReceiver<Mail>,
    queue: VecDeque<Item>,
    /// What is not there before the actor was loaded.
    actor: Option<Actor>,
}

/// What a task knows of its actor.
struct Actor {
    record: RunRecord,
    /// As the last call left it.
    state: StoredState,
    /// Whether that is not what the last commit wrote.
    is_changed: bool,
    agenda: Agenda,
    is_agenda_changed: bool,
    /// What of the agenda is in the queue, or cannot be done by this program.
    taken_calls: HashSet<(Timestamp, u64)>,
    taken_reminders: HashSet<String>,
    /// The last message that was read.
    read_to: Option<MessageId>,
    /// Changes that came with messages, and the messages.
    consumed: Vec<MessageId>,
    /// Results that are not committed yet.
    results: FxHashMap<String, CallResult>,
    work: Option<BoxFuture<'static, Worked>>,
    done: Vec<Done>,
    committing: Option<Committing>,
    /// The end of the workflow that other calls wait for.
    child: Option<BoxFuture<'static, Result<ChildEnd>>>,
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
        }
    }

    /// Makes calls until there are none, or the store fails.
    pub(super) async fn drive(mut self) {
        let ended = AssertUnwindSafe(self.drive_to_exit()).catch_unwind().await;
        let (shared, id) = (Arc::clone(&self.stage.shared), self.stage.id.clone());
        let epoch = self.actor.as_ref().map(|actor| actor.record.epoch);
        let error = match ended {
            Ok(Ok(Exit::Idle(due_at))) => {
                debug!(actor = %id, "actor left memory");
                if let Some(due_at) = due_at {
                    shared.set_timer(due_at, id);
                }
                return;
            }
            Ok(Ok(Exit::Deleted)) => not_found(&self.stage),
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
        if let Error::Storage(error) = &error
            && error.is_retryable()
        {
            // What is to be done may not have been asked for by anybody who waits.
            let soon = shared.clock.timestamp().after(AGAIN);
            shared.set_timer(soon, id.clone());
        }
        if let (Error::ShutDown, Some(epoch)) = (&error, epoch) {
            shared.release_at_shutdown(&id, epoch);
        }
        self.fail(&error);
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
        if let Some(actor) = self.actor.take() {
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
                Mail::Inbox | Mail::ShutDown => {}
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
        let loaded = Actor::load(&self.stage).await?;
        self.seat
            .committed
            .send_replace(Some(Ok(Committed::new(loaded.state.clone()))));
        self.actor = Some(loaded);
        // What an earlier owner left over comes before everything that arrives now.
        self.queue.push_front(Item::Inbox);
        let shared = Arc::clone(&self.stage.shared);
        let mut mails = Vec::new();
        let mut idle_since = shared.clock.timestamp();
        loop {
            let Some(actor) = &mut self.actor else {
                return Ok(Exit::Deleted);
            };
            actor.take_due(&self.stage, &mut self.queue);
            actor.commit(&self.stage)?;
            actor.begin(&self.stage, &mut self.queue);
            let is_at_rest = actor.is_at_rest() && self.queue.is_empty();
            let now = shared.clock.timestamp();
            let due_at = actor.next_due();
            let mut wake_at = due_at;
            if is_at_rest {
                let leaves_at = idle_since.after(IDLE);
                if (now >= leaves_at || shared.actors.are_many())
                    && shared.actors.leave(&self.stage.id, &mut self.mailbox)
                {
                    return Ok(Exit::Idle(due_at));
                }
                wake_at = Some(due_at.unwrap_or(Timestamp::MAX).min(leaves_at));
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
                    actor.child_ended(ended)?;
                }
                n = self.mailbox.recv_many(&mut mails, PAGE) => {
                    if n == 0 {
                        return Err(Error::ShutDown);
                    }
                }
                () = async { match wake_at {
                    Some(wake_at) => shared.clock.sleep_towards(wake_at).await,
                    None => pending().await,
                } } => {}
            }
            for mail in mails.drain(..) {
                match mail {
                    Mail::Call(job) => self.queue.push_back(Item::Call(job)),
                    Mail::Inbox => self.queue.push_back(Item::Inbox),
                    Mail::Delete(reply) => self.queue.push_back(Item::Delete(reply)),
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
                idle_since = shared.clock.timestamp();
            }
        }
    }
}

/// What becomes of the commit under way.
async fn outcome_of(committing: &mut Option<Committing>) -> Result<Outcomes> {
    match committing {
        Some(committing) => {
            let outcome = (&mut committing.outcome).await;
            Ok(outcome.map_err(|_| Error::ShutDown)??)
        }
        None => pending().await,
    }
}

/// The outcome of a future, if there is one to wait for.
async fn step<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

fn reply_of(job: Job) -> Option<oneshot::Sender<Result<Answer>>> {
    match job.from {
        From::Caller(reply) => Some(reply),
        From::Inbox(_) | From::Agenda(_) | From::Reminder(_) => None,
    }
}

fn not_found(stage: &Stage) -> Error {
    Error::ActorNotFound {
        actor: stage.id.clone(),
    }
}

impl Actor {
    /// Reads an actor, after taking it over if another engine had it.
    async fn load(stage: &Stage) -> Result<Self> {
        let (shared, id) = (&stage.shared, &stage.id);
        let record = shared.storage.record(id).await?;
        let record = record.filter(|record| record.kind == RunKind::Actor);
        let mut record = record.ok_or_else(|| not_found(stage))?;
        if record.owner != Some(shared.node) {
            record = shared
                .claim_one(id)
                .await?
                .ok_or_else(|| not_found(stage))?;
        }
        let state = shared.storage.value(id, &ValueKey::State).await?;
        let damage = crate::error::Damage::Missing { what: "state" };
        let state = state.ok_or_else(|| Error::Damaged {
            run: id.clone(),
            damage,
        })?;
        let State { version, value } = stored::decode(id, "state", &state)?;
        let agenda = shared.storage.value(id, &ValueKey::Agenda).await?;
        let agenda = agenda.map(|bytes| stored::decode(id, "agenda", &bytes));
        let agenda: Agenda = agenda.transpose()?.unwrap_or_default();
        let child = agenda.exclusive.clone().map(|run| wait_for(shared, run));
        Ok(Self {
            record,
            state: StoredState { version, value },
            is_changed: false,
            agenda,
            is_agenda_changed: false,
            taken_calls: HashSet::new(),
            taken_reminders: HashSet::new(),
            read_to: None,
            consumed: Vec::new(),
            results: FxHashMap::default(),
            work: None,
            done: Vec::new(),
            committing: None,
            child,
        })
    }

    fn is_at_rest(&self) -> bool {
        self.work.is_none()
            && self.committing.is_none()
            && self.child.is_none()
            && self.done.is_empty()
            && !self.is_agenda_changed
    }

    /// When the agenda has something that is not in the queue.
    fn next_due(&self) -> Option<Timestamp> {
        let calls = self.agenda.calls.keys();
        let call = calls
            .filter(|key| !self.taken_calls.contains(*key))
            .map(|(at, _)| *at)
            .next();
        let reminders = self.agenda.reminders.iter();
        let reminder = reminders
            .filter(|(name, _)| !self.taken_reminders.contains(*name))
            .map(|(_, reminder)| reminder.next_at);
        reminder.chain(call).min()
    }

    /// Puts what is due into the queue.
    fn take_due(&mut self, stage: &Stage, queue: &mut VecDeque<Item>) {
        let now = stage.shared.clock.timestamp();
        if self.next_due().is_none_or(|due_at| due_at > now) {
            return;
        }
        let calls = self.agenda.calls.range(..=(now, u64::MAX));
        for (key, call) in calls {
            if self.taken_calls.insert(*key) {
                queue.extend(job(stage, call, From::Agenda(*key)).map(Item::Call));
            }
        }
        for (name, reminder) in &self.agenda.reminders {
            if reminder.next_at <= now && self.taken_reminders.insert(name.clone()) {
                let from = From::Reminder(name.clone());
                queue.extend(job(stage, &reminder.call, from).map(Item::Call));
            }
        }
    }

    /// Begins the next piece of work, if there is one and it may begin.
    fn begin(&mut self, stage: &Arc<Stage>, queue: &mut VecDeque<Item>) {
        if self.work.is_some() {
            return;
        }
        if self.child.is_some() {
            // Other calls wait for a workflow, which would wait for its own.
            let run = self.agenda.exclusive.as_ref();
            let is_its_own = |item: &Item| matches!(item, Item::Call(job) if job.by.is_some() && job.by.as_ref() == run);
            let Some(item) = queue
                .iter()
                .position(is_its_own)
                .and_then(|at| queue.remove(at))
            else {
                return;
            };
            queue.push_front(item);
        }
        // Only what is committed can be deleted.
        let is_settled = self.committing.is_none() && self.done.is_empty();
        if matches!(queue.front(), Some(Item::Delete(_))) && !is_settled {
            return;
        }
        let Some(item) = queue.pop_front() else {
            return;
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
                Box::pin(async move {
                    let called = stage.call(&job, &state, epoch, earlier).await;
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
                let epoch = self.record.epoch;
                Box::pin(async move {
                    let deleted = stage.shared.storage.delete(&stage.id, epoch).await;
                    Worked::Deleted(reply, deleted.map_err(Error::Storage))
                })
            }
        });
    }

    /// Takes in what a piece of work came to.
    fn worked(
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
            Worked::Deleted(reply, deleted) => {
                let is_deleted = deleted.inspect_err(|error| debug!(%error, "not deleted"));
                let answer = match &is_deleted {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Error::Fenced {
                        run: stage.id.clone(),
                    }),
                    Err(error) => Err(error.clone()),
                };
                drop(reply.send(answer));
                is_deleted?;
                return Ok(Some(Exit::Deleted));
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
        } = called;
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
            self.agenda.exclusive = Some(run);
            self.is_agenda_changed = true;
            // Calls behind it wait from now on; the run itself is there after the commit.
            self.child = Some(Box::pin(pending()));
        }
        if !matches!(job.from, From::Caller(_))
            && let Err(error) = &done.answer
        {
            if is_for_other_code(error) {
                warn!(actor = %stage.id, method, %error, "a call that was sent cannot be made by this program; it waits for another");
                return;
            }
            warn!(actor = %stage.id, method, %error, "a call that was sent failed");
        }
        match job.from {
            From::Caller(reply) => done.reply = Some(reply),
            From::Inbox(message) => done.consumed = Some(message),
            From::Agenda(key) => {
                self.agenda.calls.remove(&key);
                self.taken_calls.remove(&key);
                self.is_agenda_changed = true;
            }
            From::Reminder(name) => {
                if let Some(reminder) = self.agenda.reminders.get_mut(&name) {
                    reminder.move_on(stage.shared.clock.timestamp());
                    self.is_agenda_changed = true;
                }
                self.taken_reminders.remove(&name);
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
        let mut jobs = Vec::new();
        for message in messages {
            self.read_to = Some(message.id);
            match stored::decode(&stage.id, "message", &message.body)? {
                Message::Call { call, due_at } if due_at.is_none_or(|due_at| due_at <= now) => {
                    jobs.extend(job(stage, &call, From::Inbox(message.id)));
                    continue;
                }
                Message::Call { call, due_at } => {
                    let key = (due_at.unwrap_or(now), self.agenda.next);
                    self.agenda.next += 1;
                    self.agenda.calls.insert(key, call);
                }
                Message::Remind { name, reminder } => {
                    self.taken_reminders.remove(&name);
                    self.agenda.reminders.insert(name, reminder);
                }
                Message::Forget { name } => {
                    self.agenda.reminders.remove(&name);
                }
            }
            self.is_agenda_changed = true;
            self.consumed.push(message.id);
        }
        if !is_all {
            queue.push_front(Item::Inbox);
        }
        for job in jobs.into_iter().rev() {
            queue.push_front(Item::Call(job));
        }
        Ok(())
    }

    /// Hands what has gathered to the committer, if it is not busy with this actor.
    fn commit(&mut self, stage: &Stage) -> Result<()> {
        if self.committing.is_some() || (self.done.is_empty() && !self.is_agenda_changed) {
            return Ok(());
        }
        let mut done = std::mem::take(&mut self.done);
        let mut values = Vec::new();
        if std::mem::take(&mut self.is_changed) {
            let StoredState { version, value } = self.state.clone();
            let state = stored::encode(&State { version, value })?;
            values.push((ValueKey::State, Some(state)));
        }
        if std::mem::take(&mut self.is_agenda_changed) {
            let agenda = match self.agenda.is_empty() && self.agenda.next == 0 {
                true => None,
                false => Some(stored::encode(&self.agenda)?),
            };
            values.push((ValueKey::Agenda, agenda));
        }
        let mut with = Vec::new();
        let mut consumed = std::mem::take(&mut self.consumed);
        for done in &mut done {
            consumed.extend(done.consumed);
            if let Some((key, result)) = &done.result {
                values.push((ValueKey::Result(key.clone()), Some(stored::encode(result)?)));
            }
            with.extend(done.child.as_ref().map(|child| child.write.clone()));
        }
        if values.is_empty() && with.is_empty() && consumed.is_empty() {
            // Nothing changed: what these calls saw is durable.
            done.into_iter().for_each(Done::tell);
            return Ok(());
        }
        let mut record = self.record.clone();
        record.wake_at = self.agenda.due_at();
        let write = RunWrite {
            run: stage.id.clone(),
            expect: Expect::Epoch(record.epoch),
            record: record.clone(),
            entry: None,
            truncate: false,
            values,
            blobs: Vec::new(),
            consumed,
            only_with: None,
        };
        let (reply, outcome) = oneshot::channel();
        stage.shared.commit(CommitRequest {
            write: Some(write),
            with,
            messages: Vec::new(),
            reply: Reply::Once(reply),
        });
        self.committing = Some(Committing {
            outcome,
            done,
            state: self.state.clone(),
            record,
        });
        Ok(())
    }

    /// Does what a durable commit allows.
    fn settle(&mut self, stage: &Stage, seat: &Seat, outcomes: Outcomes) -> Result<()> {
        let mut outcomes = outcomes.writes.into_iter();
        match outcomes.next() {
            Some(WriteOutcome::Written) => {}
            Some(WriteOutcome::NotFound) => return Err(not_found(stage)),
            _ => {
                return Err(Error::Fenced {
                    run: stage.id.clone(),
                });
            }
        }
        let Some(Committing {
            done,
            state,
            record,
            ..
        }) = self.committing.take()
        else {
            return Ok(());
        };
        self.record = record;
        seat.committed.send_if_modified(|committed| {
            let is_same = matches!(committed, Some(Ok(committed)) if committed.stored.value == state.value
                && committed.stored.version == state.version);
            if !is_same {
                *committed = Some(Ok(Committed::new(state)));
            }
            !is_same
        });
        for mut done in done {
            if let Some((key, _)) = &done.result {
                self.results.remove(key);
            }
            if let Some(child) = done.child.take() {
                let run = child.write.run.clone();
                match outcomes.next() {
                    Some(WriteOutcome::Written) => stage.shared.drive_new(*child),
                    _ => done.answer = Err(Error::IdConflict { run: run.clone() }),
                }
                if self.agenda.exclusive.as_ref() == Some(&run) {
                    self.child = Some(wait_for(&stage.shared, run));
                }
            }
            done.tell();
        }
        Ok(())
    }

    /// The workflow that other calls waited for is over.
    fn child_ended(&mut self, ended: Result<ChildEnd>) -> Result<()> {
        match ended {
            Ok(ChildEnd::Final) | Err(Error::NotFound { .. }) => {
                self.agenda.exclusive = None;
                self.is_agenda_changed = true;
                Ok(())
            }
            // It goes on when it is resumed: the next call asks for that.
            Ok(ChildEnd::Stopped(error)) | Err(error) => Err(error),
        }
    }
}

fn wait_for(shared: &Arc<Shared>, run: RunId) -> BoxFuture<'static, Result<ChildEnd>> {
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
        busy: Arc::from([]),
        by: None,
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

impl Done {
    /// Whoever asked may have gone; the call is what it is.
    fn tell(self) {
        if let Some(reply) = self.reply {
            drop(reply.send(self.answer));
        }
    }
}
