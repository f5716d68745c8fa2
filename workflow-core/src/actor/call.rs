//! Calls of actors: what a method of a handle gives, and what can be made of it.

use std::fmt;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_core::future::BoxFuture;
use futures_util::FutureExt;
use keepstep_storage::{SendOutcome, Timestamp, ValueKey};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::def::{ActorDef, MethodBody, MethodDef, StoredState};
use super::execute::{Stage, panicked};
use super::handle::ActorHandle;
use super::job::{From, Job};
use super::residents::{Committed, Mail};
use super::stored::{self, Answer, Call, Message, Reminder, State};
use super::waits::{Wait, circle_of, waiters_here};
use crate::arg::{ArgShape, BuildArg};
use crate::context::try_context;
use crate::engine::Engine;
use crate::error::{Damage, Error, Result};
use crate::plan::check_args;
use crate::source::{DecodeError, Source};
use crate::step::{Fault, Output, StepFault, StepFuture, StepInput, StepOutput};
use crate::value::Value;
use crate::workflow::{Workflow, build_step};

/// How long after another engine took an actor a call is made again.
const AGAIN: Duration = Duration::from_millis(20);
/// Reminders do not come more often.
const SHORTEST: Duration = Duration::from_millis(1);

/// A call of a method that takes `&mut self`.
///
/// Awaiting it makes the call, and returns what the method returned when that and the new state are durable together. Or it is
/// sent, to be made by itself; or becomes a step of a workflow.
///
/// A method that fails leaves the state as it was.
#[must_use = "a call does nothing until it is awaited, sent, or made a step"]
pub struct ActorCall<T>(Prepared, PhantomData<fn() -> T>);

/// A call of a method that takes `&self`: it sees the state that was committed last, and waits for no other call.
#[must_use = "a query does nothing until it is awaited or made a step"]
pub struct ActorQuery<T>(Prepared, PhantomData<fn() -> T>);

/// A call that is made at a time: see [`ActorCall::delay`].
#[must_use = "a call does nothing until it is sent"]
pub struct PlannedCall<T> {
    call: ActorCall<T>,
    when: When,
}

#[derive(Clone, Copy)]
enum When {
    After(Duration),
    At(SystemTime),
}

/// A call that is not made yet.
#[derive(Clone)]
struct Prepared {
    actor: ActorHandle,
    method: &'static MethodDef,
    args: Vec<ArgShape>,
    key: Option<String>,
}

/// Prepares a call: what a method of a handle does.
#[doc(hidden)]
pub fn build_call<T>(
    actor: &ActorHandle,
    def: &'static ActorDef,
    method: usize,
    args: Vec<BuildArg>,
) -> ActorCall<T> {
    ActorCall(
        Prepared::new(actor, &def.methods[method], args),
        PhantomData,
    )
}

/// Prepares a query: what a method of a handle does.
#[doc(hidden)]
pub fn build_query<T>(
    actor: &ActorHandle,
    def: &'static ActorDef,
    method: usize,
    args: Vec<BuildArg>,
) -> ActorQuery<T> {
    ActorQuery(
        Prepared::new(actor, &def.methods[method], args),
        PhantomData,
    )
}

impl<T> ActorCall<T> {
    /// Names the call: the same id again, for the same actor, makes nothing but returns the stored result. A call that failed
    /// has none, and can be made again under its id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.0.key = Some(id.into());
        self
    }

    /// The call is made so long after it is sent.
    pub fn delay(self, delay: Duration) -> PlannedCall<T> {
        let when = When::After(delay);
        PlannedCall { call: self, when }
    }

    /// The call is made at a time.
    pub fn at(self, time: SystemTime) -> PlannedCall<T> {
        let when = When::At(time);
        PlannedCall { call: self, when }
    }

    /// Puts the call into the actor's inbox. When this returns, the call is durable: it will be made, after those that were
    /// sent or made before it. What it returns is kept only if it has an [`id`](Self::id).
    ///
    /// # Errors
    /// [`Error::ActorNotFound`], [`Error::Unencodable`], [`Error::MissingResource`], [`Error::ShutDown`], [`Error::Storage`].
    pub async fn send(self) -> Result<()> {
        self.0.send(None).await
    }

    /// Repeats the call: first so long from now, then again and again. When this returns, the reminder is durable. One of the
    /// same name is replaced; [`ActorHandle::forget`] removes it. Times that pass while nothing runs are made up for by one
    /// call. At most once a millisecond.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn every(self, name: impl Into<String>, period: Duration) -> Result<()> {
        let shared = Arc::clone(&self.0.actor.shared);
        let call = self.0.stored().await?;
        let every = Timestamp(0).after(period.max(SHORTEST));
        let reminder = Reminder {
            call,
            every_micros: every.0,
            next_at: shared.clock.timestamp().after(period),
        };
        let name = name.into();
        let message = Message::Remind { name, reminder };
        self.0.actor.post(&message, None).await
    }

    /// The call as a step of a workflow. It happens once: the call's id is the step's idempotency key, whatever crashes.
    ///
    /// The step is not tried again when the call fails; the method's own `retries` are for that.
    pub fn step(self) -> Workflow<T> {
        self.0.step()
    }
}

impl<T> ActorQuery<T> {
    /// The query as a step of a workflow.
    pub fn step(self) -> Workflow<T> {
        self.0.step()
    }
}

impl<T> PlannedCall<T> {
    /// Names the call: see [`ActorCall::id`]. Sent again under its id, it is not planned a second time.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.call = self.call.id(id);
        self
    }

    /// Puts the call into the actor's inbox, to be made when its time comes. When this returns, it is durable.
    ///
    /// # Errors
    /// As [`ActorCall::send`].
    pub async fn send(self) -> Result<()> {
        let prepared = self.call.0;
        let due_at = match self.when {
            When::After(delay) => prepared.actor.shared.clock.timestamp().after(delay),
            When::At(time) => time.into(),
        };
        prepared.send(Some(due_at)).await
    }
}

impl<T: DeserializeOwned + 'static> IntoFuture for ActorCall<T> {
    type Output = Result<T>;
    type IntoFuture = BoxFuture<'static, Result<T>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let value = self.0.make().await?;
            self.0.decode(value)
        })
    }
}

impl<T: DeserializeOwned + 'static> IntoFuture for ActorQuery<T> {
    type Output = Result<T>;
    type IntoFuture = BoxFuture<'static, Result<T>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let value = self.0.look().await?;
            self.0.decode(value)
        })
    }
}

impl Prepared {
    fn new(actor: &ActorHandle, method: &'static MethodDef, args: Vec<BuildArg>) -> Self {
        Self {
            actor: actor.clone(),
            method,
            args: args.into_iter().map(|arg| arg.0).collect(),
            key: None,
        }
    }

    fn step<T>(self) -> Workflow<T> {
        let id = ArgShape::encode(self.actor.id());
        let args = std::iter::once(id).chain(self.args).map(BuildArg).collect();
        build_step(self.method.step, args)
    }

    /// The arguments, each of which must be a value.
    fn values(&self) -> Result<Vec<Value>> {
        let refused = |n: usize, message: String| Error::Unencodable {
            step: self.method.step.name.to_owned(),
            // The actor's id is the first.
            param: self
                .method
                .step
                .params
                .get(n + 1)
                .copied()
                .unwrap_or("?")
                .to_owned(),
            message,
        };
        let value = |(n, arg): (usize, &ArgShape)| match arg {
            ArgShape::Value(value, _) => Ok(value.clone()),
            ArgShape::Invalid(error) => Err(refused(n, error.to_string())),
            _ => Err(refused(
                n,
                "it is a workflow: make the call a step with `.step()`".to_owned(),
            )),
        };
        let values: Vec<Value> = self
            .args
            .iter()
            .enumerate()
            .map(value)
            .collect::<Result<_>>()?;
        // The actor's id is the first.
        check_args(self.method.step, &self.args, 1)?;
        Ok(values)
    }

    /// The arguments, ready to be stored.
    async fn settled(&self) -> Result<Vec<Value>> {
        self.actor.shared.check_runtime()?;
        let mut values = self.values()?;
        for value in values.iter_mut().filter(|value| !value.is_settled()) {
            *value = self.actor.shared.objects.settle(value.clone()).await?;
        }
        Ok(values)
    }

    async fn stored(&self) -> Result<Call> {
        self.actor.shared.check_resources(&[self.method.step])?;
        Ok(Call {
            method: self.method.name.to_owned(),
            args: self.settled().await?,
            key: self.key.clone(),
        })
    }

    async fn send(self, due_at: Option<Timestamp>) -> Result<()> {
        let call = self.stored().await?;
        let message = Message::Call { call, due_at };
        self.actor.post(&message, self.key).await
    }

    async fn sources(&self) -> Result<Vec<Source>> {
        let values = self.settled().await?;
        Ok(values.into_iter().map(Source::Value).collect())
    }

    async fn make(&self) -> Result<Value> {
        let args = self.sources().await?;
        self.actor.call(self.method, args, self.key.clone()).await
    }

    async fn look(&self) -> Result<Value> {
        let args = self.sources().await?;
        self.actor.look(self.method, args).await
    }

    fn decode<T: DeserializeOwned>(&self, value: Value) -> Result<T> {
        let decoded = Source::Value(value).decode_in(&self.actor.shared.objects);
        decoded.map_err(|error| Error::Undecodable {
            what: format!("a call of {:?}", self.method.step.name),
            type_name: std::any::type_name::<T>(),
            field: error.field,
            message: error.message,
        })
    }
}

impl ActorHandle {
    /// Makes a call, and returns what it gave when that is durable. A call with an id is made again where this engine lost the
    /// actor to another: it may have been made, and then gives the same.
    async fn call(
        &self,
        method: &'static MethodDef,
        args: Vec<Source>,
        key: Option<String>,
    ) -> Result<Value> {
        if key.is_none() || !self.shared.is_shared() {
            return self.call_once(method, args, key).await;
        }
        loop {
            match self.call_once(method, args.clone(), key.clone()).await {
                Err(Error::Fenced { run }) if run == self.id && !self.shared.is_closing() => {
                    self.shared.until_freed(AGAIN).await;
                }
                made => return made,
            }
        }
    }

    async fn call_once(
        &self,
        method: &'static MethodDef,
        args: Vec<Source>,
        key: Option<String>,
    ) -> Result<Value> {
        let shared = &self.shared;
        shared.check_resources(&[method.step])?;
        let waiters = waiters_here().await?;
        let context = try_context();
        let by = context.as_ref().map(|context| context.link().run.clone());
        let deadlock = |circle| self.deadlock(method.step.name, circle);
        let wait = shared.wait_for_call(&waiters, &self.id, by.as_ref());
        let mut wait = wait.map_err(deadlock)?;
        let is_step = context.is_some();
        let (reply, answer) = oneshot::channel();
        let job = Job {
            method,
            args,
            key,
            waiters: Arc::clone(&waiters),
            by,
            claim: wait.as_ref().and_then(Wait::claim),
            from: From::Caller(reply),
        };
        shared.actor(self.def, &self.id, Some(Mail::Call(job)))?;
        let waiting = async {
            let answer = tokio::select! {
                biased;
                answer = answer => answer.map_err(|_| shared.over())?,
                circle = circle_of(&mut wait) => return Err(deadlock(circle)),
            };
            match shared.explained(answer)? {
                Answer::Value(value) => Ok(value),
                Answer::Run(run) => {
                    drop(wait);
                    let wait = shared.wait_for_run(&waiters, &run);
                    let mut wait = wait.map_err(deadlock)?;
                    let engine = Engine::detached(Arc::clone(shared));
                    loop {
                        let output = tokio::select! {
                            biased;
                            output = engine.output_of_child(&run) => output,
                            circle = circle_of(&mut wait) => return Err(deadlock(circle)),
                        };
                        match output {
                            // The step does not fail because somebody stopped that run for a while.
                            Err(Error::Suspended { .. }) if is_step => {
                                engine.until_resumed(&run).await?;
                            }
                            output => return output,
                        }
                    }
                }
            }
        };
        match context {
            // The call may be waiting for steps, which must find a place.
            Some(context) => context.without_place(&shared.step_permits, waiting).await,
            None => waiting.await,
        }
    }

    /// Makes a query.
    async fn look(&self, method: &'static MethodDef, args: Vec<Source>) -> Result<Value> {
        self.shared.check_resources(&[method.step])?;
        let committed = if self.shared.is_shared() && !self.shared.actors.is_loaded(&self.id) {
            // Another engine may have it, which keeps nobody from looking at what is committed.
            self.stored().await?
        } else {
            let seat = self.shared.actor(self.def, &self.id, None)?;
            let mut committed = seat.committed.subscribe();
            let committed = committed.wait_for(Option::is_some).await;
            let committed = committed.map_err(|_| self.shared.over())?.clone();
            self.shared.explained(committed.ok_or(Error::ShutDown)?)?
        };
        let stage = Stage {
            shared: Arc::clone(&self.shared),
            def: self.def,
            id: self.id.clone(),
        };
        let waiters = waiters_here().await?;
        // Decoding the state runs code of the user, too.
        let looking = AssertUnwindSafe(async {
            let state = committed
                .decoded(self.def, &self.shared.objects)
                .map_err(|fault| stage.fault(method, fault.clone()))?;
            stage.look(method, &args, waiters, state).await
        });
        let looked = looking.catch_unwind().await;
        looked.unwrap_or_else(|panic| Err(stage.fault(method, panicked(&*panic))))
    }

    /// The state as it is stored.
    async fn stored(&self) -> Result<Arc<Committed>> {
        let storage = &self.shared.storage;
        if let Some(state) = storage.value(&self.id, &ValueKey::State).await? {
            let State { version, value } = stored::decode(&self.id, "state", &state)?;
            return Ok(Committed::new(StoredState { version, value }));
        }
        match storage.record(&self.id).await? {
            Some(_) => Err(Error::Damaged {
                run: self.id.clone(),
                damage: Damage::Missing { what: "state" },
            }),
            None => Err(self.not_found()),
        }
    }

    /// Puts a message into the inbox.
    pub(super) async fn post(&self, message: &Message, key: Option<String>) -> Result<()> {
        let message = keepstep_storage::Send {
            to: self.id.clone(),
            key,
            sent_at: self.shared.clock.timestamp(),
            body: stored::encode(message)?,
            blobs: message.blobs(),
            only_with: None,
        };
        match self.shared.send(message).await? {
            SendOutcome::BlobMissing { blob: object } => Err(Error::ObjectNotFound { object }),
            SendOutcome::Accepted(_) if self.shared.is_shared() => {
                // Whoever has it elsewhere is told by the store.
                self.shared.post_to(&self.id);
                Ok(())
            }
            SendOutcome::Accepted(_) => {
                self.shared.actor(self.def, &self.id, Some(Mail::Inbox))?;
                Ok(())
            }
            SendOutcome::Duplicate => Ok(()),
            SendOutcome::NotFound | SendOutcome::Ended | SendOutcome::Skipped => {
                Err(self.not_found())
            }
        }
    }
}

/// The body of a step that makes a call.
#[doc(hidden)]
pub fn call_in_step(actor: &'static ActorDef, method: usize, input: StepInput) -> StepFuture {
    Box::pin(async move {
        let method = &actor.methods[method];
        let id: String = input.arg(0)?;
        let args = input.args.iter().skip(1).cloned().collect();
        let context = try_context().ok_or(StepFault(Fault::Stopped))?;
        let shared = &context.link().shared;
        let handle = ActorHandle::new(shared, actor, &id).map_err(fault)?;
        let value = match method.body {
            MethodBody::Read(_) => handle.look(method, args).await,
            MethodBody::Write(_) => {
                let key = context.idempotency_key();
                handle.call(method, args, Some(key)).await
            }
        };
        let value = value.map_err(|error| match &error {
            // Of the step, it is known which argument that is; of the state it is not one.
            Error::Undecodable { .. } => {
                let mut params = 1..method.step.params.len();
                let argument = params.find_map(|at| method.step.types.probe(&input, at).err());
                argument.unwrap_or_else(|| fault(error))
            }
            _ => fault(error),
        })?;
        Ok(StepOutput(Output::Value(value)))
    })
}

/// What a failed call is to the step that made it.
fn fault(error: Error) -> StepFault {
    StepFault(match error {
        Error::CallFailed { error, .. } => Fault::Failed(crate::run::Failure {
            kind: error.kind,
            message: error.message,
            causes: error.causes,
        }),
        Error::Storage(error) => Fault::Storage(error),
        Error::ShutDown | Error::RuntimeEnded => Fault::Stopped,
        Error::Undecodable {
            field,
            message,
            what,
            ..
        } => Fault::Undecodable {
            param: "self",
            error: DecodeError {
                field,
                message: format!("{what}: {message}"),
            },
        },
        error => {
            let error: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
            return crate::step::fault(error);
        }
    })
}

impl<T> fmt::Debug for ActorCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ActorCall({:?} of {:?})",
            self.0.method.name, self.0.actor.id
        )
    }
}

impl<T> fmt::Debug for ActorQuery<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ActorQuery({:?} of {:?})",
            self.0.method.name, self.0.actor.id
        )
    }
}

impl<T> fmt::Debug for PlannedCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlannedCall({:?})", self.call)
    }
}
