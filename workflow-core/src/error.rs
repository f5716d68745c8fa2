//! What can go wrong, told apart by what a caller does about it.

use std::fmt;

use keepstep_storage::{BlobId, InvalidRunId, Position, RunId, StorageError};
use serde::{Deserialize, Serialize};

use crate::status::Status;

/// The result of a call to keepstep.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, to which run or step, and what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The workflow id is not one. Nothing was stored.
    #[error(transparent)]
    InvalidRunId(#[from] InvalidRunId),
    /// There is no run of this id.
    #[error("no run has the id {run:?}")]
    NotFound {
        /// The id asked for.
        run: RunId,
    },
    /// There is a run of this id, of another workflow.
    #[error(
        "run {run:?} exists and was made of another workflow, by other code perhaps; `resume` goes on with it as it was made, and \
         this workflow needs another id"
    )]
    IdConflict {
        /// The id.
        run: RunId,
    },
    /// The run failed.
    #[error("run {run:?} failed")]
    Failed {
        /// The run.
        run: RunId,
        /// The step that failed, and why.
        #[source]
        error: Box<StepError>,
    },
    /// The run was canceled.
    #[error("run {run:?} was canceled")]
    Canceled {
        /// The run.
        run: RunId,
    },
    /// The run is suspended; `resume` goes on with it.
    #[error("run {run:?} is suspended ({reason}); resume it to go on")]
    Suspended {
        /// The run.
        run: RunId,
        /// Why.
        reason: SuspendReason,
    },
    /// The run stopped in the middle and belongs to nobody; `resume` goes on with it.
    #[error("run {run:?} was interrupted; resume it to go on")]
    Resumable {
        /// The run.
        run: RunId,
    },
    /// A write of the run failed, or a read it needed, so it stopped before anything depended on that. It is `Resumable`.
    #[error("run {run:?} stopped because its store failed; mend the store and resume it")]
    Interrupted {
        /// The run.
        run: RunId,
        /// What the store said.
        #[source]
        source: StorageError,
    },
    /// Another owner has taken the run over.
    #[error(
        "run {run:?} was taken over by another owner; ask that one, or resume the run to take it back"
    )]
    Fenced {
        /// The run.
        run: RunId,
    },
    /// The call needs a run that has ended, and this one has not.
    #[error("run {run:?} is still {status}; cancel it first")]
    StillActive {
        /// The run.
        run: RunId,
        /// Its status.
        status: Status,
    },
    /// A run is to be deleted, and a child of it, or of a child, has not ended. Nothing was deleted.
    #[error(
        "run {run:?} cannot be deleted, since its child {child:?} is still {status}; cancel the child first, or cancel {run:?} \
         if it has not ended"
    )]
    ChildStillActive {
        /// The run.
        run: RunId,
        /// The child.
        child: RunId,
        /// The child's status.
        status: Status,
    },
    /// The call needs a run that has not ended, and this one has.
    #[error("run {run:?} has ended: it is {status}")]
    AlreadyEnded {
        /// The run.
        run: RunId,
        /// Its status.
        status: Status,
    },
    /// As many runs wait as `max_pending_runs` allows. Nothing was stored.
    #[error("the queue is full: {limit} runs are pending; try again when one has begun")]
    QueueFull {
        /// The limit.
        limit: usize,
    },
    /// The name of a pool is none. Nothing was opened.
    #[error("no pool can be named {pool:?}; a name has 1 to 200 bytes, and no control characters")]
    InvalidPool {
        /// The name.
        pool: String,
    },
    /// No step of this name has finished in the run, or its output is no longer kept.
    #[error(
        "run {run:?} has no output of a step {step:?}; steps named with `.name()` keep theirs as long as the run"
    )]
    StepNotFound {
        /// The run.
        run: RunId,
        /// The step's name.
        step: String,
    },
    /// An engine was called inside a step to run a workflow.
    #[error(
        "`{call}` was called inside the step {step:?}; return the workflow instead, and it runs in the step's place"
    )]
    InsideStep {
        /// The call.
        call: &'static str,
        /// The step.
        step: String,
    },
    /// A step of the workflow needs a resource that the engine does not have. Nothing was stored.
    #[error(
        "step {step:?} needs the resource `{param}: {type_name}`; give it to the engine with `Engine::builder().resource(…)`"
    )]
    MissingResource {
        /// The step.
        step: String,
        /// The parameter.
        param: String,
        /// Its type.
        type_name: String,
    },
    /// Two steps of the program have one name and version.
    #[error(
        "two steps are named {name:?} (version {version}): {first} and {second}; give one of them another `name` or `version`"
    )]
    DuplicateStep {
        /// The name.
        name: String,
        /// The version.
        version: u32,
        /// Where one is.
        first: String,
        /// Where the other is.
        second: String,
    },
    /// Two steps of the program accept the stored calls of one version of a step.
    #[error(
        "two steps accept the stored calls of {name:?} (version {version}): {first} and {second}; take `accepts` away from one of them"
    )]
    AcceptedTwice {
        /// The name.
        name: String,
        /// The version.
        version: u32,
        /// Where one is.
        first: String,
        /// Where the other is.
        second: String,
    },
    /// There is no such actor.
    #[error("there is no {actor}; `get_or_create` makes one")]
    ActorNotFound {
        /// The actor.
        actor: RunId,
    },
    /// A method of an actor failed. The actor's state is as it was before the call, which may be made again.
    #[error("a call of {actor} failed")]
    CallFailed {
        /// The actor.
        actor: RunId,
        /// The method, and why.
        #[source]
        error: Box<StepError>,
    },
    /// A call was awaited by somebody for whom its actor waits, by way of others perhaps: it would wait for itself. This is the call
    /// that would have closed the circle. Nothing was called; the other calls of the circle go on.
    #[error("{}", deadlock(actor, method, circle))]
    ActorDeadlock {
        /// The actor.
        actor: RunId,
        /// The method.
        method: String,
        /// The circle: actors and runs, each of which waits for the next, and the last for the first. It begins with the actor.
        circle: Vec<RunId>,
    },
    /// An id of a call was used before, for a call of another method of the actor. Nothing was called.
    #[error("call {call:?} of {actor} was one of `{method}`; choose another id")]
    CallConflict {
        /// The actor.
        actor: RunId,
        /// The id of the call.
        call: String,
        /// The method that it was of.
        method: String,
    },
    /// Two actors of the program have one name.
    #[error("two actors are named {name:?}: {first} and {second}; give one of them another `name`")]
    DuplicateActor {
        /// The name.
        name: String,
        /// Where one is.
        first: String,
        /// Where the other is.
        second: String,
    },
    /// The schedule is not one. Nothing was stored.
    #[error(
        "{cron:?} is not a schedule: {message}; write minute, hour, day of month, month and day of week, as in \"0 3 * * *\", and a time \
         zone behind them if it is not UTC"
    )]
    InvalidSchedule {
        /// What was given.
        cron: String,
        /// What is wrong with it.
        message: String,
    },
    /// There is no schedule of this name.
    #[error("there is no schedule {name:?}")]
    ScheduleNotFound {
        /// The name.
        name: String,
    },
    /// An argument could not be encoded, or could not have been read again. Nothing was stored.
    #[error("argument `{param}` of step {step:?} cannot be stored: {message}")]
    Unencodable {
        /// The step.
        step: String,
        /// The parameter.
        param: String,
        /// What the codec said, and the field.
        message: String,
    },
    /// Something stored is not of the type asked for.
    #[error("{what} does not decode as `{type_name}`{}: {message}", at_field(.field))]
    Undecodable {
        /// What it is, such as the output of a run.
        what: String,
        /// The type asked for.
        type_name: &'static str,
        /// The field; empty for the value itself.
        field: String,
        /// What the codec said.
        message: String,
    },
    /// A reference is to an object that the engine's store does not have: it was removed, or is another engine's.
    #[error(
        "object {object} is not in the engine's store; put it there, and keep the reference that this gives, or a run that names it"
    )]
    ObjectNotFound {
        /// The object's address.
        object: BlobId,
    },
    /// The work failed that was to make an object.
    #[error("the work that was to make an object failed: {message}{}", because(.causes))]
    SpawnFailed {
        /// The error's own message, or the panic's.
        message: String,
        /// The messages of the errors behind it, nearest first.
        causes: Vec<String>,
    },
    /// The workflow has more than 4 billion nodes, or more than 1 GiB of arguments that are not kept apart as large values.
    #[error(
        "the workflow is too large to store as one plan; split it by returning a part of it from a step"
    )]
    PlanTooLarge,
    /// A workflow waits for the first of no workflows, which never comes. Nothing was stored.
    #[error("`select` was given no workflow to wait for; give it at least one")]
    EmptySelect,
    /// What is stored of the run is damaged. No step ran because of it.
    #[error("journal of run {run:?} {damage}; restore the store from a backup, or delete the run")]
    Damaged {
        /// The run.
        run: RunId,
        /// Where and how.
        damage: Damage,
    },
    /// The run names no executable.
    #[error(
        "run {run:?} was started by {build}, whose executable was not kept; open engines with \
         `Engine::builder().keep_executable(true)` to keep it for the runs that they start"
    )]
    NoExecutable {
        /// The run.
        run: RunId,
        /// The program that started it.
        build: crate::BuildInfo,
    },
    /// An executable could not be read, to keep it, or written out. Nothing of a run has changed.
    #[error("the executable {path} could not be {operation}", path = .path.display())]
    Executable {
        /// The file.
        path: std::path::PathBuf,
        /// What was to be done with it: read or written.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: std::sync::Arc<std::io::Error>,
    },
    /// The engine is shutting down, or was shut down.
    #[error("the engine was shut down; open it again and resume the run")]
    ShutDown,
    /// The tokio runtime that the engine was opened in has ended, and all that the engine did with it. What is stored is as it was.
    #[error(
        "the tokio runtime in which the engine was opened has ended, so nothing drives its runs; they are stored and resumable. Open \
         the engine again in a runtime that lives as long as the engine is used; in tests, open one engine in each `#[tokio::test]`"
    )]
    RuntimeEnded,
    /// The default engine was set or opened before.
    #[error("the default engine is already set; call `init` once, before anything uses it")]
    AlreadyInitialized,
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn because(causes: &[String]) -> String {
    causes.iter().map(|cause| format!(": {cause}")).collect()
}

fn deadlock(actor: &RunId, method: &str, circle: &[RunId]) -> String {
    let mut said = match circle {
        [] | [_] => format!(
            "`{method}` of {actor} was awaited inside of a call that this actor is busy with, and would wait for itself for ever"
        ),
        [first, rest @ ..] => {
            let waits = rest.iter().chain([first]);
            let waits: String = waits
                .map(|next| format!(" waits for {next}, which"))
                .collect();
            let waits = waits.trim_end_matches(", which");
            format!("`{method}` of {actor} would wait for itself for ever: {first}{waits}")
        }
    };
    said += "; send it with `.send()`, or return it as a step with `.step()`";
    said
}

fn at_field(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!(" at field `{field}`")
    }
}

/// What is wrong with a journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// An entry is missing.
    #[error("has a hole at entry {at}")]
    Hole {
        /// The entry.
        at: Position,
    },
    /// An entry is not what was written.
    #[error("is damaged at entry {at}: {what}")]
    Entry {
        /// The entry.
        at: Position,
        /// How it shows.
        what: String,
    },
    /// An entry was written by a later version of keepstep.
    #[error("has format {version} at entry {at}, which this version of keepstep does not read")]
    Format {
        /// The entry.
        at: Position,
        /// Its format.
        version: u8,
    },
    /// A message is not what was sent.
    #[error("has a message {id} in its inbox that cannot be read: {what}")]
    Message {
        /// Its number.
        id: u64,
        /// How it shows.
        what: String,
    },
    /// A record kept beside the journal is missing.
    #[error("lacks its {what}")]
    Missing {
        /// Which.
        what: &'static str,
    },
}

/// Why a step gave no result: what `.catch()` yields, and what a failed run reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepError {
    /// The name of the step.
    pub step: String,
    /// What happened.
    pub kind: StepErrorKind,
    /// The error's own message, or the panic's. Of it and the causes, 64 KiB are kept; a text that was cut says so at its end.
    pub message: String,
    /// The messages of the errors behind it, nearest first.
    pub causes: Vec<String>,
    /// How often it was executed.
    pub attempts: u32,
    /// The steps whose expansions led to it, outermost first, itself last.
    pub path: Vec<String>,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            StepErrorKind::Error => "failed",
            StepErrorKind::Panic => "panicked",
            StepErrorKind::Timeout => "timed out",
            StepErrorKind::Unencodable => "gave a result that cannot be stored",
        };
        write!(f, "step {:?} {what}", self.step)?;
        if self.attempts > 1 {
            write!(f, " {} times", self.attempts)?;
        }
        write!(f, ": {}", self.message)?;
        self.causes
            .iter()
            .try_for_each(|cause| write!(f, ": {cause}"))?;
        if self.path.len() > 1 {
            write!(f, " (in {})", self.path.join(" > "))?;
        }
        Ok(())
    }
}

impl std::error::Error for StepError {}

/// The ways a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StepErrorKind {
    /// It returned an error.
    Error,
    /// It panicked.
    Panic,
    /// It took longer than its time-out.
    Timeout,
    /// Its result could not be encoded, or could not have been read again.
    Unencodable,
}

/// Why a run is suspended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum SuspendReason {
    /// Somebody asked for it.
    #[error("on request")]
    Requested,
    /// The program has no such step.
    #[error(
        "this program has no step {step:?} of version {version}: bring it back, or let a later version accept its calls with \
         `accepts = {version}`"
    )]
    UnknownStep {
        /// The step.
        step: String,
        /// Its version.
        version: u32,
    },
    /// A stored argument does not decode as what the parameter is in this program.
    #[error(
        "argument `{param}` of step {step:?} (version {version}) does not decode{}: {message}; give new fields \
         `#[serde(default)]`, or raise the version of the step and take the old calls with `accepts = {version}, migrate = …`",
        at_field(.field)
    )]
    Undecodable {
        /// The step.
        step: String,
        /// Its version.
        version: u32,
        /// The parameter.
        param: String,
        /// The field; empty for the value itself.
        field: String,
        /// What the codec said.
        message: String,
    },
    /// The engine lacks a resource that a step needs.
    #[error(
        "step {step:?} needs the resource `{param}: {type_name}`, which this engine was not given"
    )]
    MissingResource {
        /// The step.
        step: String,
        /// The parameter.
        param: String,
        /// Its type.
        type_name: String,
    },
    /// The state machine met something that cannot be.
    #[error("an invariant of keepstep does not hold, please report this: {what}")]
    Invariant {
        /// What.
        what: String,
    },
    /// The arguments of a call of an older version could not be made those of the step that accepts it.
    #[error(
        "the arguments of step {step:?} (version {version}) could not be migrated to version {to}: {message}; mend the function \
         that `migrate` names"
    )]
    Unmigratable {
        /// The step.
        step: String,
        /// The version that the call was made for.
        version: u32,
        /// The version that accepts it.
        to: u32,
        /// What the migration said.
        message: String,
    },
    /// The process died, time and again, while a step executed.
    #[error(
        "step {step:?} was executing when its process died, {times} times in a row; find out whether the step ends the process (memory, \
         stack, abort), or whether the process is killed before the step can end"
    )]
    Interrupted {
        /// The step.
        step: String,
        /// How often.
        times: u32,
    },
}
