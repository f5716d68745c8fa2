//! Events from elsewhere: a listener waits for one, and is told once it is stored.

use std::error::Error;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::plan::First;
use crate::shape::Shape;
use crate::signature::StepTypes;
use crate::step::{StepDef, StepFuture, StepInput, StepValue, end_with_result};
use crate::workflow::{BuildKind, BuildNode, Workflow, build_step};

/// Any error of a listener.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Waits for an event of the world outside: a message of a queue, a line of a file, a change in a database.
///
/// The listener itself is stored with the workflow, and so is what [`poll`](Self::poll) changes in it. Mark the implementation with
/// `#[event_listener]`, so that a stored run finds it; see [`wait_for`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event listener",
    label = "cannot be waited for",
    note = "implement `EventListener` for it, and put `#[event_listener]` on the implementation"
)]
pub trait EventListener:
    ListenerSteps + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// What it waits for.
    type Event: StepValue + Sync;

    /// Waits for the next event. It takes as long as it takes, and may be dropped at any time, and called again after a crash or an
    /// error, until its event is stored; then never again.
    ///
    /// # Errors
    /// Whatever keeps it from waiting. It is called again after a pause, from a second up to a minute, as often as the attribute says
    /// (`retries = n`), else for ever.
    fn poll(&mut self) -> impl Future<Output = Result<Self::Event, BoxError>> + Send;

    /// Called at least once after the event was stored, before the workflow goes on: here a queue is told that its message was
    /// received.
    ///
    /// The stored event has decided a race or a time limit by then: while this is called, however long that takes, no other branch
    /// can win and no limit passes.
    ///
    /// # Errors
    /// Whatever keeps it from that; it is called again after a pause, until it succeeds, whatever `retries` of the attribute says.
    fn checkpointed(
        &mut self,
        event: &Self::Event,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = event;
        async { Ok(()) }
    }
}

/// How a stored run finds a listener. Implemented by `#[event_listener]`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "the implementation of `EventListener` for `{Self}` is not registered",
    label = "a stored run would not find it",
    note = "put `#[event_listener]` on the implementation"
)]
pub trait ListenerSteps {
    /// The step that polls, and the one that says that the event is stored.
    fn steps() -> [&'static StepDef; 2];
}

/// Waits for an event that a listener brings, and yields it.
///
/// The event is stored before [`checkpointed`](EventListener::checkpointed) is called, and that has returned before anything that uses
/// the event begins. A [`timeout`](Workflow::timeout) is counted from when the run reaches the workflow that this is a part of, and
/// ends when the event is stored. So does a [`race`](crate::race): it is won by the event that is stored first.
///
/// While it waits, a listener is code that runs: the run stays in memory. For what can be sent here, [`event`](crate::event) costs
/// nothing.
///
/// ```
/// # mod keepstep { pub use keepstep_core::*; }
/// use std::path::PathBuf;
/// use keepstep::{BoxError, EventListener, wait_for};
/// use serde::{Deserialize, Serialize};
///
/// /// Waits until there is a file.
/// #[derive(Serialize, Deserialize)]
/// struct Arrival(PathBuf);
///
/// // #[event_listener]
/// impl EventListener for Arrival {
///     type Event = u64;
///
///     async fn poll(&mut self) -> Result<u64, BoxError> {
///         loop {
///             match std::fs::metadata(&self.0) {
///                 Ok(file) => return Ok(file.len()),
///                 Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
///                 Err(error) => return Err(error.into()),
///             }
///             tokio::time::sleep(std::time::Duration::from_secs(1)).await;
///         }
///     }
/// }
/// # impl keepstep::__private::ListenerSteps for Arrival {
/// #     fn steps() -> [&'static keepstep::__private::StepDef; 2] { unreachable!() }
/// # }
/// # fn _of(path: PathBuf) -> keepstep::Workflow<u64> {
///
/// wait_for(Arrival(path))
/// # }
/// ```
pub fn wait_for<L: EventListener>(listener: L) -> Workflow<L::Event> {
    let [poll, checkpointed] = L::steps();
    let arg = crate::IntoArg::<L>::into_arg(listener);
    let polled: Workflow<(L, L::Event)> = build_step(poll, vec![arg]);
    let arg = crate::IntoArg::<(L, L::Event)>::into_arg(polled);
    let event: Workflow<L::Event> = build_step(checkpointed, vec![arg]);
    // So that a time limit is one of the whole wait, and not of an attempt.
    let branches = vec![event.into_node()];
    Workflow::of(BuildNode::new(BuildKind::First(First::Alone, branches)))
}

/// The body of the step that polls.
#[doc(hidden)]
pub fn poll_listener<L: EventListener>(input: StepInput) -> StepFuture {
    Box::pin(async move {
        let [def, _] = L::steps();
        let mut listener: L = input.arg(0)?;
        drop(input);
        let event = listener.poll().await;
        end_with_result(def, event.map(|event| (listener, event)))
    })
}

/// The body of the step that says that the event is stored.
#[doc(hidden)]
pub fn tell_listener<L: EventListener>(input: StepInput) -> StepFuture {
    Box::pin(async move {
        let [_, def] = L::steps();
        let (mut listener, event): (L, L::Event) = input.arg(0)?;
        drop(input);
        let told = listener.checkpointed(&event).await;
        end_with_result(def, told.map(|()| event))
    })
}

/// The types of the step that polls.
#[doc(hidden)]
#[must_use]
pub const fn poll_types<L: EventListener>() -> StepTypes {
    let probe = |input: &StepInput, index| match index {
        0 => input.arg::<L, _>(0).map(drop),
        _ => Ok(()),
    };
    StepTypes::new(probe, &[Shape::of::<L>], Shape::of::<(L, L::Event)>)
}

/// The types of the step that says that the event is stored.
#[doc(hidden)]
#[must_use]
pub const fn tell_types<L: EventListener>() -> StepTypes {
    let probe = |input: &StepInput, index| match index {
        0 => input.arg::<(L, L::Event), _>(0).map(drop),
        _ => Ok(()),
    };
    StepTypes::new(probe, &[Shape::of::<(L, L::Event)>], Shape::of::<L::Event>)
}
