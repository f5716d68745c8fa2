//! One execution of a step's body: from stored arguments to a stored result.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use keepstep_storage::StorageError;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::threads::Job;
use super::{AbandonReason, RunMessage, Watched, arguments};
use crate::context::Context;
use crate::engine::Shared;
use crate::error::{Error, StepErrorKind, SuspendReason};
use crate::journal::is_storable;
use crate::object::{Objects, Unkept};
use crate::plan::{Flattened, NodeKind, Plan};
use crate::registry::Found;
use crate::run::{Failure, Start};
use crate::source::Source;
use crate::step::{
    Fault, Output, Settled, StepBody, StepDef, StepFault, StepInput, StepOutput, StepResult,
};
use crate::texts;
use crate::value::Value;

/// How an execution ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Value(Value),
    Plan(Arc<Plan>),
    // What is rare is boxed: a run's mailbox has room for 32 outcomes from the beginning.
    Failed(Box<Failure>),
    /// The program cannot run the step as it was stored.
    Unrunnable(Box<SuspendReason>),
    /// The store failed before the result could be kept.
    Storage(Box<StorageError>),
    /// It was stopped.
    Stopped,
}

/// What one execution needs.
pub(crate) struct Execution {
    pub(crate) found: Found,
    pub(crate) start: Start,
    pub(crate) timeout: Option<Duration>,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Tells the run how an execution ended, whatever became of it: also when it is dropped in the middle.
pub(super) struct Report {
    pub(super) context: Context,
    pub(super) execution: u64,
    pub(super) outcome: Outcome,
}

impl Drop for Report {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Stopped);
        // The run may be gone: then nobody needs the outcome.
        drop(self.context.link().messages.send(RunMessage::Ended {
            step: self.context.step_id(),
            execution: self.execution,
            outcome,
        }));
    }
}

impl Execution {
    pub(super) fn is_async(&self) -> bool {
        matches!(self.found.def.body, StepBody::Async(_))
    }

    pub(super) async fn run(self, mut report: Report) {
        report.outcome = self.ended(&report.context).await;
    }

    pub(crate) async fn ended(self, context: &Context) -> Outcome {
        // Also what surrounds the body runs code of the user: decoding, encoding, dropping.
        let outcome = AssertUnwindSafe(self.outcome(context)).catch_unwind().await;
        let outcome = match outcome {
            Ok(Ok(outcome) | Err(outcome)) => outcome,
            Err(panic) => panicked(&*panic),
        };
        match outcome {
            Outcome::Failed(_) | Outcome::Unrunnable(_)
                if context.link().shared.is_runtime_gone() =>
            {
                // Timers panic then, and the tasks that a body waits for are gone: it was interrupted, and did not fail.
                Outcome::Stopped
            }
            outcome => outcome,
        }
    }

    async fn outcome(self, context: &Context) -> Result<Outcome, Outcome> {
        let Self {
            found,
            start,
            timeout,
            permit,
        } = self;
        let shared = &context.link().shared;
        let def = found.def;
        // What few executions need is boxed: every execution pays for the size of this future.
        let args = if arguments::are_at_hand(&start) {
            arguments::fill(start, &[])
        } else {
            Box::pin(arguments::load(start, &*shared.storage))
                .await
                .map_err(lost)?
        };
        let input = StepInput {
            def,
            args,
            shared: Some(Arc::clone(shared)),
        };
        let input = fit(input, found).map_err(|StepFault(fault)| faulted(found, fault))?;
        let result = match (def.body, timeout) {
            (StepBody::Async(body), None) => {
                let place = (!def.options.waits).then(|| context.hold(permit));
                let body = Watched::new(body(input), def.name, shared);
                let result = settled_at_once(context.clone().scope(body).await);
                drop(place);
                Ok(match result {
                    Ok(settled) => settled,
                    Err(output) => Box::pin(output.settle(&shared.objects)).await,
                })
            }
            _ => Box::pin(execute(def, input, context, permit, timeout)).await?,
        };
        let output = match result {
            Ok(Ok(output)) => output,
            Ok(Err(StepFault(Fault::Storage(error)))) => return Err(lost(error)),
            Ok(Err(StepFault(Fault::Stopped))) => return Err(Outcome::Stopped),
            Ok(Err(StepFault(fault))) => return Err(faulted(found, fault)),
            Err(panic) => return Err(panicked(&*panic)),
        };
        match output {
            Settled::Value(value) if Objects::is_kept(&value) => Ok(Outcome::Value(value)),
            Settled::Value(value) => Box::pin(shared.objects.offload(value))
                .await
                .map(Outcome::Value)
                .map_err(lost),
            Settled::Workflow(flattened) => {
                Box::pin(expansion(Arc::clone(shared), *flattened)).await
            }
        }
    }
}

/// What a body gave back, unless it refers to work that is to be awaited.
fn settled_at_once(result: StepResult) -> Result<Result<Settled, StepFault>, Output> {
    match result {
        Ok(StepOutput(Output::Value(value))) if value.is_settled() => Ok(Ok(Settled::Value(value))),
        Ok(StepOutput(output)) => Err(output),
        Err(fault) => Ok(Err(fault)),
    }
}

/// What a body that returned a workflow comes to.
pub(crate) async fn expansion(
    shared: Arc<Shared>,
    flattened: Flattened,
) -> Result<Outcome, Outcome> {
    shared
        .check_resources(&flattened.defs)
        .map_err(|error| match error {
            Error::MissingResource {
                step,
                param,
                type_name,
            } => Outcome::Unrunnable(Box::new(SuspendReason::MissingResource {
                step,
                param,
                type_name,
            })),
            other => not_storable(other),
        })?;
    let kept = shared.objects.keep_plan(flattened.plan).await;
    let plan = kept.map_err(|unkept| match unkept {
        Unkept::Storage(error) => lost(error),
        // It is settled, so this does not come.
        unkept => not_storable(unkept.into()),
    })?;
    if !is_storable(&plan) {
        return Err(not_storable(Error::PlanTooLarge));
    }
    Ok(match &*plan.nodes {
        // A finished workflow is a value.
        [only] if only.extra.is_none() => match &only.kind {
            NodeKind::Value(value) => Outcome::Value(value.clone()),
            _ => Outcome::Plan(Arc::new(plan)),
        },
        _ => Outcome::Plan(Arc::new(plan)),
    })
}

/// Makes stored arguments those that the step takes: they may be of an older version of it. By value: what was borrowed would
/// take up room in every execution for as long as its body waits.
///
/// # Errors
/// If they cannot be. The body has not begun, and the call waits for other code.
pub(crate) fn fit(mut input: StepInput, found: Found) -> Result<StepInput, StepFault> {
    let migration = found.accepted.and_then(|older| older.migration.as_ref());
    let n_params = match migration {
        Some(migration) => migration.n_args(),
        None => found.def.params.len(),
    };
    if input.args.len() > n_params {
        // Arguments have no names: what is there may be for other parameters than those that are left.
        return Err(too_many(input.args.len(), n_params));
    }
    if let Some(migration) = migration {
        // A panic is the migration's, and no failed attempt of the step.
        let migrated = catch_unwind(AssertUnwindSafe(|| migration.run(&input)));
        let migrated = migrated.unwrap_or_else(|panic| {
            let message = format!("it panicked: {}", panic_message(&*panic));
            Err(StepFault(Fault::Unmigratable { message }))
        })?;
        input.args = migrated.into_iter().map(Source::Value).collect();
    }
    Ok(input)
}

/// The fault of a call with more arguments than there are parameters.
#[cold]
pub(crate) fn too_many(n_args: usize, n_params: usize) -> StepFault {
    let message = format_args!("the stored call has {n_args} arguments, and {n_params} are taken");
    StepFault(Fault::Undecodable {
        param: TOO_MANY,
        error: serde::de::Error::custom(message),
    })
}

/// What stands in the place of a parameter's name for arguments that no parameter takes.
const TOO_MANY: &str = "…";

type Panic = Box<dyn Any + Send>;

/// Runs a body that blocks or has little time.
async fn execute(
    def: &'static StepDef,
    input: StepInput,
    context: &Context,
    permit: OwnedSemaphorePermit,
    timeout: Option<Duration>,
) -> Result<Result<Result<Settled, StepFault>, Panic>, Outcome> {
    let shared = &context.link().shared;
    let mut thread_permit = None;
    if matches!(def.body, StepBody::Blocking(_)) {
        // The time until there is a thread is not the body's.
        let thread = Arc::clone(&shared.blocking_permits).acquire_owned();
        thread_permit = Some(thread.await.map_err(|_| Outcome::Stopped)?);
    }
    let is_plain = thread_permit.is_some();
    let body = async {
        let result = execute_in(def, input, context, permit, thread_permit).await?;
        Ok(match settled_at_once(result) {
            Ok(settled) => settled,
            Err(output) => output.settle(&shared.objects).await,
        })
    };
    let Some(limit) = timeout else {
        return Ok(body.await);
    };
    // It is not dropped before it is known why.
    let mut body = std::pin::pin!(body);
    tokio::time::timeout(limit, &mut body).await.map_err(|_| {
        // A plain function goes on in its thread; it can notice.
        context.cancel();
        if is_plain {
            context.abandon(AbandonReason::TimedOut);
        }
        Outcome::Failed(Box::new(Failure {
            kind: StepErrorKind::Timeout,
            message: format!("it took longer than {limit:?}"),
            causes: vec![],
        }))
    })
}

/// Runs the body, on the runtime or where it may block.
async fn execute_in(
    def: &'static StepDef,
    input: StepInput,
    context: &Context,
    permit: OwnedSemaphorePermit,
    thread_permit: Option<OwnedSemaphorePermit>,
) -> Result<StepResult, Panic> {
    match (def.body, thread_permit) {
        (StepBody::Blocking(body), Some(thread_permit)) => {
            context.place_on_thread(permit, thread_permit);
            execute_on_thread(move || body(input), context).await
        }
        (StepBody::Async(body), _) => {
            let place = context.hold(permit);
            let body = Watched::new(body(input), def.name, &context.link().shared);
            let result = context.clone().scope(body).await;
            drop(place);
            Ok(result)
        }
        (StepBody::Blocking(_), None) => Err(Box::new("a plain function has no thread")),
    }
}

/// How long after the system had no thread it is asked again for one.
const NO_THREAD: Duration = Duration::from_secs(1);

/// Executes a plain function on a thread of its own. If this is dropped before it has returned, it is abandoned.
async fn execute_on_thread(
    body: impl FnOnce() -> StepResult + Send + 'static,
    context: &Context,
) -> Result<StepResult, Panic> {
    struct Waiting<'a>(&'a Context);
    impl Drop for Waiting<'_> {
        fn drop(&mut self) {
            self.0.abandon(AbandonReason::Stopped);
        }
    }
    /// What the body holds, given back when its job is dropped, also one that no thread has begun.
    struct HeldByJob(Context);
    impl Drop for HeldByJob {
        fn drop(&mut self) {
            drop(self.0.held());
        }
    }
    let waiting = Waiting(context);
    let (reply, done) = oneshot::channel();
    let span = tracing::Span::current();
    let of_body = context.clone();
    let held = HeldByJob(context.clone());
    let call = move || {
        let held = held;
        if reply.is_closed() {
            // It was to stop before it had begun.
            return;
        }
        let body = || span.in_scope(|| of_body.clone().sync_scope(body));
        let result = catch_unwind(AssertUnwindSafe(body));
        // First its place, then the news: what follows may need the place.
        drop(held);
        // Nobody may be waiting any more.
        drop(reply.send(result));
    };
    let shared = &context.link().shared;
    let mut job: Job = Box::new(call);
    while let Err((back, error)) = shared.threads.execute(job) {
        tracing::warn!(%error, "the system starts no thread for a plain function; trying again");
        shared.pause(NO_THREAD).await;
        job = back;
    }
    let result = done.await;
    drop(waiting);
    result.unwrap_or_else(|_| Err(Box::new("its thread ended")))
}

fn faulted(found: Found, fault: Fault) -> Outcome {
    let (step, version) = (found.def.name.to_owned(), found.version());
    match fault {
        Fault::Error { message, causes } => Outcome::Failed(Box::new(Failure {
            kind: StepErrorKind::Error,
            message,
            causes,
        })),
        Fault::Failed(failure) => Outcome::Failed(failure.into()),
        Fault::Storage(error) => lost(error),
        Fault::Stopped => Outcome::Stopped,
        Fault::Unencodable { message } => Outcome::Failed(Box::new(Failure {
            kind: StepErrorKind::Unencodable,
            message,
            causes: vec![],
        })),
        Fault::Undecodable { param, error } => {
            Outcome::Unrunnable(Box::new(SuspendReason::Undecodable {
                step,
                version,
                param: param.to_owned(),
                field: error.field,
                message: error.message,
            }))
        }
        Fault::Unmigratable { message } => {
            Outcome::Unrunnable(Box::new(SuspendReason::Unmigratable {
                step,
                version,
                to: found.def.version,
                message: texts::cut(message),
            }))
        }
        Fault::MissingResource { param, type_name } => {
            Outcome::Unrunnable(Box::new(SuspendReason::MissingResource {
                step,
                param: param.to_owned(),
                type_name: type_name.to_owned(),
            }))
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    Outcome::Failed(Box::new(Failure {
        kind: StepErrorKind::Panic,
        message: panic_message(panic),
        causes: vec![],
    }))
}

/// What a panic says.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    texts::kept(text.unwrap_or("a panic without a message"))
}

fn lost(error: StorageError) -> Outcome {
    Outcome::Storage(Box::new(error))
}

fn not_storable(error: Error) -> Outcome {
    Outcome::Failed(Box::new(Failure {
        kind: StepErrorKind::Unencodable,
        message: texts::kept(error),
        causes: vec![],
    }))
}
