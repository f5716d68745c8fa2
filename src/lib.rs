//! Durable workflows as a library.

pub use keepstep_core::*;
pub use keepstep_macros::step;

#[doc(hidden)]
pub use keepstep_core::__private;

/// What most programs need.
pub mod prelude {
    pub use crate::{Engine, Error, Handle, IntoArg, Status, StepError, Workflow, context, step};
}
