//! One call of a method: from arguments and a stored state to a result and a new state.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::FutureExt;
use keepstep_storage::{Epoch, RunId, RunRecord, ValueKey};

use super::check::too_many;
use super::current::Current;
use super::def::{ActorDef, ActorState, MethodBody, MethodDef, StateBytes, StoredState};
use super::job::Job;
use super::stored::{self, Answer, CallResult};
use super::waits::Waiters;
use crate::check::guarded;
use crate::engine::{NewRun, Shared};
use crate::error::{Error, Result, StepError, StepErrorKind};
use crate::executor::Outcome;
use crate::executor::Watched;
use crate::executor::expansion;
use crate::object::{Objects, decoding, reading_again};
use crate::plan::{self, Plan};
use crate::run::{Failure, retry};
use crate::source::{Source, noting_ignored};
use crate::step::{Fault, Settled, StepFault, StepInput, StepOutput, StepResult};
use crate::texts;
use crate::value::{EncodeError, Value};

/// Where a call happens.
pub(super) struct Stage {
    pub(super) shared: Arc<Shared>,
    pub(super) def: &'static ActorDef,
    pub(super) id: RunId,
}

/// What a call came to.
pub(super) struct Called {
    pub(super) answer: Result<Answer>,
    /// What the method made of the state.
    pub(super) state: Option<Value>,
    /// The run of the workflow that it returned.
    pub(super) child: Option<Box<NewRun>>,
    /// Whether the method ran; if not, a call of the same id had.
    pub(super) is_new: bool,
    /// Whether it is not made again, because its process died each time.
    pub(super) is_set_aside: bool,
}

impl Called {
    pub(super) fn failed(error: Error) -> Self {
        Self {
            answer: Err(error),
            state: None,
            child: None,
            is_new: true,
            is_set_aside: false,
        }
    }
}

impl ActorDef {
    /// The state of this version. A fault is that this program cannot read what is stored: another may.
    pub(super) fn read(
        &self,
        stored: &StoredState,
        objects: &Arc<Objects>,
    ) -> Result<ActorState, StepFault> {
        let mut names = Vec::new();
        stored.value.for_each_name(&mut |id| names.push(id));
        // The code of users may panic.
        decoding(objects, names, || {
            guarded("self", || self.read_here(stored))
        })
    }

    /// Encodes a state, and reads it again where something in it may not be readable.
    pub(super) fn write(&self, state: &ActorState) -> Result<Value, StepFault> {
        let StateBytes(value, doubts) = (self.encode)(state)?;
        let known = self.types.known();
        if !known.must_read(value.len(), doubts) {
            return Ok(value);
        }
        let stored = StoredState {
            version: self.version,
            value,
        };
        guarded("self", || reading_again(|| self.read_again(&stored))).map_err(
            |StepFault(fault)| {
                StepFault(match fault {
                    Fault::Undecodable { error, .. } => Fault::Unencodable {
                        message: EncodeError::unreadable(error).to_string(),
                    },
                    other => other,
                })
            },
        )?;
        known.was_read(doubts);
        Ok(stored.value)
    }

    /// Checks that a state is read as what was written.
    #[cold]
    fn read_again(&self, stored: &StoredState) -> Result<(), StepFault> {
        let StateBytes(again, _) = (self.encode)(&(self.decode)(stored)?)?;
        let same = stored.value.must_be_same(&again, &|value| {
            let stored = StoredState {
                version: self.version,
                value: value.clone(),
            };
            noting_ignored(|| drop((self.decode)(&stored)))
        });
        same.map_err(|EncodeError(message)| StepFault(Fault::Unencodable { message }))
    }

    fn read_here(&self, stored: &StoredState) -> Result<ActorState, StepFault> {
        match self.migrate {
            Some(migrate) if stored.version < self.version => {
                migrate(stored.clone()).map_err(|fault| unmigrated(stored.version, fault))
            }
            _ if stored.version <= self.version => (self.decode)(stored),
            _ => Err(StepFault(Fault::Undecodable {
                param: "self",
                error: serde::de::Error::custom(format_args!(
                    "it was stored by version {} of the actor, and this program has version {}",
                    stored.version, self.version
                )),
            })),
        }
    }
}

/// What became of the state of an older version that its migration refused.
fn unmigrated(version: u32, StepFault(fault): StepFault) -> StepFault {
    let (message, causes) = match fault {
        Fault::Error { message, causes } => (message, causes),
        other => return StepFault(other),
    };
    let why = std::iter::once(message).chain(causes);
    let why = why.collect::<Vec<_>>().join(": ");
    StepFault(Fault::Undecodable {
        param: "self",
        error: serde::de::Error::custom(format_args!(
            "it could not be migrated from version {version}: {why}"
        )),
    })
}

/// The pauses before asking again for an actor that another engine has: they double.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl Stage {
    /// Takes an actor over on a store that others share. Another engine that has it is asked for it, until it gives it up or its
    /// lease ends.
    pub(super) async fn take_over(&self) -> Result<RunRecord> {
        let (shared, id) = (&self.shared, &self.id);
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(record) = shared.claim_one(id).await? {
                return Ok(record);
            }
            if shared.storage.record(id).await?.is_none() {
                return Err(Error::ActorNotFound { actor: id.clone() });
            }
            if shared.is_closing() {
                return Err(Error::ShutDown);
            }
            shared.storage.want(id).await?;
            shared.until_freed(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Makes a call that may change the state. `Err` if the store failed.
    pub(super) async fn call(
        &self,
        job: &Job,
        state: &StoredState,
        epoch: Epoch,
        earlier: Option<CallResult>,
    ) -> Result<Called> {
        if let Some(key) = &job.key {
            let earlier = match earlier {
                Some(earlier) => Some(earlier),
                None => self.stored_result(key).await?,
            };
            if let Some(earlier) = earlier {
                return Ok(Called {
                    answer: if earlier.method == job.method.name {
                        Ok(earlier.answer)
                    } else {
                        Err(Error::CallConflict {
                            actor: self.id.clone(),
                            call: key.clone(),
                            method: earlier.method,
                        })
                    },
                    state: None,
                    child: None,
                    is_new: false,
                    is_set_aside: false,
                });
            }
        }
        let options = &job.method.step.options;
        let mut attempt = 1;
        loop {
            // Also what surrounds the method runs code of the user: decoding, migrating, dropping.
            let called = AssertUnwindSafe(self.attempt(job, state, epoch)).catch_unwind();
            let called = called
                .await
                .unwrap_or_else(|panic| Err(self.fault(job.method, panicked(&*panic))));
            let error = match called {
                Ok(called) => return Ok(called),
                Err(error @ Error::Storage(_)) => return Err(error),
                // A method whose runtime ends was interrupted, and did not fail.
                Err(_) if self.shared.is_runtime_gone() => return Err(Error::RuntimeEnded),
                Err(error) => error,
            };
            let random = self.shared.random();
            let pause = match &error {
                Error::CallFailed { error, .. } if error.kind != StepErrorKind::Unencodable => {
                    retry::pause(attempt, options.retries, options.backoff, random)
                }
                _ => None,
            };
            let Some(pause) = pause else {
                return Ok(Called::failed(with_attempts(error, attempt)));
            };
            self.shared.clock.sleep(pause).await;
            attempt += 1;
        }
    }

    async fn stored_result(&self, key: &str) -> Result<Option<CallResult>> {
        let key = ValueKey::Result(key.to_owned());
        let stored = self.shared.storage.value(&self.id, &key).await?;
        let decode = |bytes: bytes::Bytes| stored::decode(&self.id, "result of a call", &bytes);
        stored.map(decode).transpose()
    }

    async fn attempt(&self, job: &Job, stored: &StoredState, epoch: Epoch) -> Result<Called> {
        let method = job.method;
        let input = self.input(method, &job.args);
        if let Some(fault) = too_many(&input) {
            return Err(self.fault(method, fault));
        }
        let mut state = self
            .def
            .read(stored, &self.shared.objects)
            .map_err(|fault| self.fault(method, fault))?;
        let waiters = Waiters::from([self.id.clone()]);
        let body: BoxFuture<'_, StepResult> = match method.body {
            MethodBody::Write(body) => body(&mut state, input),
            MethodBody::Read(body) => body(&state, input),
        };
        let output = self.run(method, waiters, body).await?;
        let state = match method.body {
            MethodBody::Read(_) => None,
            MethodBody::Write(_) => {
                let encoded = self.def.write(&state);
                let value = encoded.map_err(|fault| self.fault(method, fault))?;
                Some(self.settle(method, value).await?)
            }
        };
        let (answer, child) = match output {
            Settled::Value(value) => (Answer::Value(value), None),
            Settled::Workflow(flattened) => {
                match expansion(Arc::clone(&self.shared), *flattened).await {
                    Ok(Outcome::Value(value)) => (Answer::Value(value), None),
                    Ok(Outcome::Plan(plan)) => {
                        let child = self.child(method, plan, epoch).await?;
                        (Answer::Run(child.write.run.clone()), Some(Box::new(child)))
                    }
                    Ok(other) | Err(other) => return Err(self.not_run(method, other)),
                }
            }
        };
        Ok(Called {
            answer: Ok(answer),
            state,
            child,
            is_new: true,
            is_set_aside: false,
        })
    }

    /// Looks at a state.
    pub(super) async fn look(
        &self,
        method: &'static MethodDef,
        args: &[Source],
        waiters: Waiters,
        state: &ActorState,
    ) -> Result<Value> {
        let MethodBody::Read(body) = method.body else {
            unreachable!("the macro makes a query of a method that takes `&self`")
        };
        let body = body(state, self.input(method, args));
        match self.run(method, waiters, body).await? {
            Settled::Value(value) => Ok(value),
            Settled::Workflow(_) => unreachable!("the macro refuses queries that return workflows"),
        }
    }

    /// Runs a method within its time-out, and catches its panic.
    async fn run(
        &self,
        method: &'static MethodDef,
        waiters: Waiters,
        body: BoxFuture<'_, StepResult>,
    ) -> Result<Settled> {
        let current = Current {
            shared: Arc::clone(&self.shared),
            method: method.step.name,
            waiters,
        };
        let body = Watched::new(body, method.step.name, &self.shared);
        let body = AssertUnwindSafe(async {
            let StepOutput(output) = current.scope(body).await?;
            output.settle(&self.shared.objects).await
        });
        let body = body.catch_unwind();
        let result = match method.step.options.timeout {
            None => body.await,
            Some(limit) => match tokio::time::timeout(limit, body).await {
                Ok(result) => result,
                Err(_) => {
                    let message = format!("it took longer than {limit:?}");
                    return Err(self.failure(method, StepErrorKind::Timeout, message, vec![]));
                }
            },
        };
        match result {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(fault)) => Err(self.fault(method, fault)),
            Err(panic) => Err(self.fault(method, panicked(&*panic))),
        }
    }

    /// Makes what a method left of the state ready to be stored.
    async fn settle(&self, method: &'static MethodDef, value: Value) -> Result<Value> {
        let settled = self.shared.objects.settle(value).await;
        settled.map_err(|unkept| self.fault(method, StepFault(unkept.into())))
    }

    fn input(&self, method: &'static MethodDef, args: &[Source]) -> StepInput {
        StepInput {
            def: method.step,
            // The first parameter of the method's step is the actor's id, which the method does not take.
            args: std::iter::once(Source::Seq(Vec::new()))
                .chain(args.iter().cloned())
                .collect(),
            shared: Some(Arc::clone(&self.shared)),
        }
    }

    /// The run of a workflow that a method returned.
    async fn child(
        &self,
        method: &'static MethodDef,
        plan: Arc<Plan>,
        epoch: Epoch,
    ) -> Result<NewRun> {
        let plan = Arc::try_unwrap(plan).unwrap_or_else(|plan| (*plan).clone());
        let hash = plan::hash(&plan);
        // Engines of one seed draw the same numbers, and have other epochs.
        let number = self.shared.random_u64() ^ epoch.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let name = format!("{}/{}/{number:016x}", self.id, method.name);
        let id = RunId::new(&name).or_else(|_| {
            // Too long: what people can read of it is the method.
            let hash = blake3::hash(self.id.as_str().as_bytes()).to_hex();
            RunId::new(format!("{}/{}/{number:016x}", &hash[..32], method.name))
        })?;
        self.shared.new_run(&id, plan, hash, true, None).await
    }

    fn not_run(&self, method: &'static MethodDef, outcome: Outcome) -> Error {
        match outcome {
            Outcome::Storage(error) => Error::Storage(*error),
            Outcome::Failed(failure) => {
                let Failure {
                    kind,
                    message,
                    causes,
                } = *failure;
                self.failure(method, kind, message, causes)
            }
            Outcome::Unrunnable(reason) => {
                self.failure(method, StepErrorKind::Error, reason.to_string(), vec![])
            }
            Outcome::Value(_) | Outcome::Plan(_) | Outcome::Stopped => Error::ShutDown,
        }
    }

    pub(super) fn fault(&self, method: &'static MethodDef, StepFault(fault): StepFault) -> Error {
        match fault {
            Fault::Error { message, causes } => {
                self.failure(method, StepErrorKind::Error, message, causes)
            }
            Fault::Failed(Failure {
                kind,
                message,
                causes,
            }) => self.failure(method, kind, message, causes),
            Fault::Unencodable { message } => {
                self.failure(method, StepErrorKind::Unencodable, message, vec![])
            }
            Fault::Undecodable { param, error } => Error::Undecodable {
                what: match param {
                    "self" => format!("the state of actor {:?}", self.id),
                    param => format!("argument `{param}` of {:?}", method.step.name),
                },
                type_name: match param {
                    "self" => self.def.name,
                    _ => "the type of the parameter",
                },
                field: error.field,
                message: error.message,
            },
            Fault::Unmigratable { message } => {
                self.failure(method, StepErrorKind::Error, message, vec![])
            }
            Fault::MissingResource { param, type_name } => Error::MissingResource {
                step: method.step.name.to_owned(),
                param: param.to_owned(),
                type_name: type_name.to_owned(),
            },
            Fault::Storage(error) => Error::Storage(error),
            Fault::Stopped => Error::ShutDown,
        }
    }

    /// What is wrong with a new actor.
    pub(super) fn constructor_fault(&self, fault: StepFault) -> Error {
        let step = || format!("{}::new", self.def.name);
        match fault.0 {
            Fault::MissingResource { param, type_name } => Error::MissingResource {
                step: step(),
                param: param.to_owned(),
                type_name: type_name.to_owned(),
            },
            Fault::Failed(Failure {
                kind,
                message,
                causes,
            }) => self.failure_of(step(), kind, message, causes),
            Fault::Error { message, causes } => {
                self.failure_of(step(), StepErrorKind::Error, message, causes)
            }
            Fault::Unencodable { message } => {
                self.failure_of(step(), StepErrorKind::Unencodable, message, vec![])
            }
            Fault::Storage(error) => Error::Storage(error),
            Fault::Undecodable { .. } | Fault::Unmigratable { .. } | Fault::Stopped => {
                Error::ShutDown
            }
        }
    }

    pub(super) fn failure(
        &self,
        method: &'static MethodDef,
        kind: StepErrorKind,
        message: String,
        causes: Vec<String>,
    ) -> Error {
        self.failure_of(method.step.name.to_owned(), kind, message, causes)
    }

    fn failure_of(
        &self,
        step: String,
        kind: StepErrorKind,
        message: String,
        causes: Vec<String>,
    ) -> Error {
        let (message, causes) = texts::cut_all(message, causes);
        Error::CallFailed {
            actor: self.id.clone(),
            error: Box::new(StepError {
                path: vec![step.clone()],
                step,
                kind,
                message,
                causes,
                attempts: 1,
            }),
        }
    }
}

fn with_attempts(mut error: Error, attempts: u32) -> Error {
    if let Error::CallFailed { error, .. } = &mut error {
        error.attempts = attempts;
    }
    error
}

pub(super) fn panicked(panic: &(dyn Any + Send)) -> StepFault {
    let message = crate::executor::panic_message(panic);
    StepFault(Fault::Failed(Failure {
        kind: StepErrorKind::Panic,
        message,
        causes: vec![],
    }))
}
