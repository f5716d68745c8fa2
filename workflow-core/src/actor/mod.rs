//! Virtual actors: named states whose every change is durable, and which are in memory only while they have something to do.
//!
//! An actor is a record of its own kind with a state beside it, one value that is replaced. Its inbox holds the calls that were
//! sent to it. While it has something to do, one task makes its calls in order and commits what they came to.

mod active;
mod agenda;
mod call;
mod check;
mod circle;
mod commit;
mod current;
mod decline;
mod def;
mod execute;
mod handle;
mod interruptions;
mod job;
mod pages;
mod residents;
mod stored;
mod task;
mod waits;
mod watch;

pub use call::{ActorCall, ActorQuery, PlannedCall, build_call, build_query, call_in_step};
pub(crate) use check::findings;
pub(crate) use current::{current_call, current_engine};
pub(crate) use def::actors;
pub use def::{
    ActorDef, ActorState, MethodBody, MethodDef, RegisteredActor, StateBytes, StateTypes,
    StoredState, decode_state, encode_state, migrate_state,
};
pub(crate) use handle::creation;
pub use handle::{
    ActorEngine, ActorFilter, ActorHandle, ActorPage, ActorReminder, ActorSummary,
    ConstructorInput, actor_engine, constructed,
};
pub(crate) use residents::Residents;
pub(crate) use stored::{decode, encode};
pub(crate) use watch::watch;

/// The first part of the id of every actor.
pub(crate) const NAMESPACE: &str = "actor";
/// The first part of the id of every schedule.
pub(crate) const SCHEDULES: &str = "schedule";
