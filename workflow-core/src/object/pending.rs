//! Work that was begun to make an object: it goes on by itself, and whoever has a reference waits for it.

#![expect(
    clippy::disallowed_methods,
    reason = "the work is a task, and its number is random"
)]

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use keepstep_storage::BlobId;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::Instrument;

use super::address::{Address, Kind};
use super::objects::{Object, Objects};
use super::{StepValue, default_objects};
use crate::actor::current_call;
use crate::context::try_context;
use crate::error::{Error, StepErrorKind};
use crate::run::Failure;
use crate::step::{Fault, StepFault};

/// Work under way. Dropped with the last reference, it is stopped.
#[derive(Debug)]
pub(super) struct Pending {
    /// A number that nothing else has.
    token: BlobId,
    outcome: watch::Receiver<Option<Result<Object, Fault>>>,
    task: AbortHandle,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pending {
    /// Begins work, in the context of the step or the method that this code runs in.
    pub(super) fn begin<T: StepValue + Sync>(
        work: impl Future<Output = Result<T, StepFault>> + Send + 'static,
    ) -> Self {
        let (told, outcome) = watch::channel(None);
        let making = async move {
            let made = AssertUnwindSafe(make(work)).catch_unwind().await;
            let made = made.unwrap_or_else(|panic| {
                Err(Fault::Failed(Failure {
                    kind: StepErrorKind::Panic,
                    message: crate::executor::panic_message(&*panic),
                    causes: vec![],
                }))
            });
            told.send_replace(Some(made));
        };
        let making: futures_core::future::BoxFuture<'static, ()> =
            match (current_call(), try_context()) {
                (Some(call), _) => Box::pin(call.scope(making)),
                (None, Some(context)) => Box::pin(context.scope(making)),
                (None, None) => Box::pin(making),
            };
        Self {
            token: BlobId(std::array::from_fn(|_| fastrand::u8(..))),
            outcome,
            task: tokio::spawn(making.in_current_span()).abort_handle(),
        }
    }

    /// What stands in the place of the object's address until there is one.
    pub(super) fn stand_in(&self) -> Address {
        Address {
            kind: Kind::Pending,
            blob: self.token,
            len: 0,
        }
    }

    /// The object, once it is there.
    pub(super) async fn object(&self) -> Result<Object, Fault> {
        let mut outcome = self.outcome.clone();
        let told = outcome.wait_for(Option::is_some).await;
        match told.ok().and_then(|told| told.clone()) {
            Some(made) => made,
            // It was stopped.
            None => Err(Fault::Stopped),
        }
    }

    /// The object, if it is there.
    pub(super) fn ready(&self) -> Option<Object> {
        self.outcome.borrow().clone()?.ok()
    }
}

async fn make<T: StepValue + Sync>(
    work: impl Future<Output = Result<T, StepFault>>,
) -> Result<Object, Fault> {
    let value = work.await.map_err(|StepFault(fault)| fault)?;
    let objects = default_objects().await.map_err(fault_of)?;
    let put: Result<Object, Error> = Objects::put(&objects, &value).await;
    put.map_err(fault_of)
}

/// What an error of the engine is to the step that the work is a part of.
fn fault_of(error: Error) -> Fault {
    match error {
        Error::Storage(error) => Fault::Storage(error),
        Error::ShutDown | Error::RuntimeEnded => Fault::Stopped,
        Error::Unencodable { message, .. } => Fault::Unencodable { message },
        other => {
            let error: Box<dyn std::error::Error + Send + Sync> = Box::new(other);
            crate::step::fault(error).0
        }
    }
}

/// What failed work is to whoever asks for its object.
pub(super) fn error_of(fault: Fault) -> Error {
    match fault {
        Fault::Storage(error) => Error::Storage(error),
        Fault::Stopped => Error::ShutDown,
        Fault::Error { message, causes } => Error::SpawnFailed { message, causes },
        Fault::Failed(Failure {
            message, causes, ..
        }) => Error::SpawnFailed { message, causes },
        Fault::Unencodable { message } => Error::Unencodable {
            step: "ObjectRef::spawn".to_owned(),
            param: "value".to_owned(),
            message,
        },
        Fault::Undecodable { error, .. } => Error::SpawnFailed {
            message: error.to_string(),
            causes: vec![],
        },
        Fault::Unmigratable { message } => Error::SpawnFailed {
            message,
            causes: vec![],
        },
        Fault::MissingResource { type_name, .. } => Error::SpawnFailed {
            message: format!("the resource {type_name} is missing"),
            causes: vec![],
        },
    }
}
