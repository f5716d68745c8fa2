//! The engine of keepstep.

mod actor;
mod arg;
mod check;
mod clock;
mod context;
mod engine;
mod error;
mod eval;
mod executor;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod graph;
mod journal;
mod listener;
mod migrate;
mod object;
mod plan;
mod registry;
mod remote;
mod resource;
mod run;
#[cfg(feature = "schedules")]
mod schedule;
mod shape;
mod signature;
mod source;
mod status;
mod step;
pub mod testing;
mod texts;
mod value;
mod wait;
mod workflow;

pub use actor::{
    ActorCall, ActorFilter, ActorHandle, ActorPage, ActorQuery, ActorReminder, ActorSummary,
    PlannedCall, StoredState,
};
pub use arg::IntoArg;
pub use bytes::Bytes;
pub use check::{Cause, Certainty, Holder, Problem, Report};
pub use clock::Clock;
pub use context::{Context, context, try_context};
pub use either::Either;
pub use engine::{
    BuildInfo, Cursor, Engine, EngineBuilder, Filter, Handle, Metadata, Page, ProgressStream,
    RunSummary, SendEvent, StorageSource, cancel, check, default_engine, delete, init, list,
    metadata, output, resume, resume_all, run, send_event, start, status, step_output, suspend,
    try_init,
};
pub use error::{Damage, Error, Result, StepError, StepErrorKind, SuspendReason};
pub use executor::{AbandonReason, AbandonedStep};
pub use graph::{Graph, GraphNode, NodeState};
pub use keepstep_storage::{BlobId, InvalidRunId};
pub use listener::{BoxError, EventListener, wait_for};
pub use object::{ObjectRef, put, put_reader};
pub use run::StepId;
#[cfg(feature = "schedules")]
pub use schedule::{Missed, NewSchedule, ScheduleSummary};
pub use status::{Progress, Status};
pub use step::StepValue;
pub use value::Codec;
pub use wait::{all, child, event, race, select, sleep, sleep_until};
pub use workflow::Workflow;

/// The storage crate: the trait, the stores, and the wrappers that tests use.
pub use keepstep_storage as storage;

/// What the code that `#[step]` writes uses. Not for people: it may change in any version.
#[doc(hidden)]
pub mod __private {
    pub use futures_core::future::BoxFuture;
    pub use inventory;

    pub use crate::actor::{
        ActorDef, ActorEngine, ActorState, ConstructorInput, MethodBody, MethodDef,
        RegisteredActor, StateBytes, StateTypes, actor_engine, build_call, build_query,
        call_in_step, constructed, decode_state, encode_state, migrate_state,
    };
    pub use crate::arg::BuildArg;
    pub use crate::listener::{
        ListenerSteps, poll_listener, poll_types, tell_listener, tell_types,
    };
    pub use crate::migrate::{Accepts, Migration, migrate_args};
    pub use crate::registry::Registered;
    pub use crate::shape::{ShapeByTrace, ShapeOf, ShapeOfAny};
    pub use crate::signature::StepTypes;
    pub use crate::step::{
        Backoff, Borrowed, Fallible, ResourceNeed, StepBody, StepDef, StepFault, StepFuture,
        StepInput, StepOptions, StepOutput, StepResult, end_with_result, end_with_unknown_result,
        end_with_unknown_value, end_with_value, end_with_workflow, end_with_workflow_result,
    };
    pub use crate::value::Codec;
    pub use crate::workflow::build_step;
}
