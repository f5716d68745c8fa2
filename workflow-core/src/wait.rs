//! Workflows that wait: for a time, a message, another run, or each other.

use std::time::{Duration, SystemTime};

use either::Either;
use keepstep_storage::RunId;

use crate::error::Error;
use crate::plan::{Child, First, Until, flatten};
use crate::workflow::{BuildKind, BuildNode, ChildBuild, Workflow};

/// Is done when `duration` has passed since the run reached it: since the run began, or the step ended that returned it, or
/// what it comes [`after`](Workflow::after).
///
/// When it is due is stored once it is reached. A run that only waits takes no memory, and crashes, restarts and a clock that is
/// set back lose no time: the sleep is over as soon as the clock says so, which may be at once when the engine is opened.
///
/// ```
/// use std::time::Duration;
/// # use keepstep_core::{Clock, Engine, sleep};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> keepstep_core::Result<()> {
/// let engine = Engine::builder().clock(Clock::tokio()).open("memory:").await?;
/// // In a test with paused time, a month passes at once.
/// engine.run("month", sleep(Duration::from_secs(30 * 24 * 3600))).await?;
/// # engine.shutdown().await
/// # }
/// ```
pub fn sleep(duration: Duration) -> Workflow<()> {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    of(BuildKind::Sleep(Until::After(micros)))
}

/// Is done at `time`, or at once if that is past when the run reaches it.
///
/// The time is a part of the workflow: the same run id with another time is another workflow.
///
/// ```
/// # use keepstep_core::{Engine, sleep_until};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep_core::Result<()> {
/// # let engine = Engine::open("memory:").await?;
/// engine.run("past", sleep_until(std::time::UNIX_EPOCH)).await?;
/// # engine.shutdown().await
/// # }
/// ```
pub fn sleep_until(time: SystemTime) -> Workflow<()> {
    of(BuildKind::Sleep(Until::At(time.into())))
}

/// Waits for a message of this name to its run, and yields what it says: see [`Engine::send_event`](crate::Engine::send_event).
///
/// Messages may arrive before the run waits for them. Each satisfies one wait, in order of arrival; of several waits for one name
/// the one that comes first in the workflow is satisfied first.
///
/// ```
/// # use keepstep_core::{Engine, event};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep_core::Result<()> {
/// # let engine = Engine::open("memory:").await?;
/// let run = engine.start("order", event::<String>("approved")).await?;
/// engine.send_event("order", "approved", &"by Ann").await?;
/// assert_eq!(run.await?, "by Ann");
/// # engine.shutdown().await
/// # }
/// ```
pub fn event<T>(name: impl Into<String>) -> Workflow<T> {
    of(BuildKind::Event(name.into().into()))
}

/// Ends as the first of two workflows that ends, and stops the other. A failure ends one, too: [`catch`](Workflow::catch) it
/// where the other should go on.
///
/// Which was first is stored: everything that uses the result sees the same, also after a crash. If both are done when the run
/// reaches this, the left one counts.
///
/// ```
/// use std::time::Duration;
/// use keepstep_core::{Either, Engine, event, race, sleep};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> keepstep_core::Result<()> {
/// # let engine = Engine::builder().clock(keepstep_core::Clock::tokio()).open("memory:").await?;
///
/// let approved = event::<bool>("approved");
/// let decision = race(approved, sleep(Duration::from_secs(24 * 3600)));
/// assert_eq!(engine.run("order", decision).await?, Either::Right(()));
/// # engine.shutdown().await
/// # }
/// ```
pub fn race<A, B>(left: Workflow<A>, right: Workflow<B>) -> Workflow<Either<A, B>> {
    let branches = vec![left.into_node(), right.into_node()];
    of(BuildKind::First(First::Either, branches))
}

/// Ends as the first of these workflows that ends, with its place among them, and stops the others: as [`race`], of any number
/// of workflows of one type. Of none, the run is refused with [`Error::EmptySelect`](crate::Error::EmptySelect).
///
/// ```
/// # use keepstep_core::{Engine, Workflow, event, select};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep_core::Result<()> {
/// # let engine = Engine::open("memory:").await?;
/// let first = select([event::<u32>("a"), Workflow::value(7), event::<u32>("b")]);
/// assert_eq!(engine.run("first", first).await?, (1, 7));
/// # engine.shutdown().await
/// # }
/// ```
pub fn select<T>(workflows: impl IntoIterator<Item = Workflow<T>>) -> Workflow<(usize, T)> {
    of(BuildKind::First(First::Placed, nodes(workflows)))
}

/// Is done when all of these workflows are, and yields what they do, in their order. The failure of one is its failure.
///
/// A step that takes a `Vec` can be given a `Vec` of workflows itself; this is for where there is no such step, and for a
/// [`timeout`](Workflow::timeout) of all together.
///
/// ```
/// # use keepstep_core::{Engine, Workflow, all};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep_core::Result<()> {
/// # let engine = Engine::open("memory:").await?;
/// let both = all([Workflow::value(1), Workflow::value(2)]);
/// assert_eq!(engine.run("both", both).await?, [1, 2]);
/// # engine.shutdown().await
/// # }
/// ```
pub fn all<T>(workflows: impl IntoIterator<Item = Workflow<T>>) -> Workflow<Vec<T>> {
    of(BuildKind::All(nodes(workflows)))
}

/// Runs a workflow as a run of its own, with an id of its own, and yields its output: a part of a large run that can be looked at,
/// suspended and resumed apart from it, and has a journal of its own.
///
/// It begins when the run reaches it, belongs to that run, and its failure is this workflow's failure. If the run is canceled, or no
/// longer needs it, it is canceled. If the run fails for another reason, it goes on, and its output is there when the run is
/// resumed. A run of this id that is there and is not this child makes this workflow fail.
///
/// ```
/// # use keepstep_core::{Engine, Status, Workflow, child};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep_core::Result<()> {
/// # let engine = Engine::open("memory:").await?;
/// let parent = child("order/7/invoice", Workflow::value(42));
/// assert_eq!(engine.run("order/7", parent).await?, 42);
/// assert_eq!(engine.status("order/7/invoice").await?, Status::Successful);
/// # engine.shutdown().await
/// # }
/// ```
pub fn child<T>(id: impl AsRef<str>, workflow: Workflow<T>) -> Workflow<T> {
    of(BuildKind::Child(child_of(id.as_ref(), &workflow).into()))
}

fn child_of<T>(id: &str, workflow: &Workflow<T>) -> Result<ChildBuild, Error> {
    let id = RunId::new(id)?;
    let flattened = flatten(workflow.node())?;
    Ok(ChildBuild {
        child: Child::new(id, &flattened.plan).ok_or(Error::PlanTooLarge)?,
        defs: flattened.defs,
    })
}

fn of<T>(kind: BuildKind) -> Workflow<T> {
    Workflow::of(BuildNode::new(kind))
}

fn nodes<T>(workflows: impl IntoIterator<Item = Workflow<T>>) -> Vec<std::sync::Arc<BuildNode>> {
    workflows.into_iter().map(Workflow::into_node).collect()
}
