//! Executions of steps that wait for a worker: the trait of a queue of them, and the words of it.

mod local;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{BlobId, Epoch, NodeId, Result, RunId};

pub use local::LocalTasks;

/// A queue of *tasks*: executions of steps that owners of runs offer, that workers take, and whose results stay with them until
/// the owner has them in its journal. See [`Storage::tasks`](crate::Storage::tasks).
///
/// A task is the durable future of one attempt of one step. Whoever owns the run offers it; whoever takes it holds it as long as its
/// lease lasts, and puts the result in; the run's owner reads that, journals it, and [removes](Self::remove) the task. A new
/// owner that offers the same attempt finds what is there, a result included, so what was computed is never computed again.
///
/// To be correct:
/// - a call that returned is seen by every call that starts after it;
/// - what a run has in the queue goes with the run: when it ends or is deleted, in the same transaction. When it is suspended,
///   results that [stand](TaskResult::stands) stay, and nothing else does;
/// - offers and results are durable when the call returns, as far as anything of the store is. What was taken, given back or removed
///   may be as before after a crash of the store.
#[async_trait]
pub trait TaskQueue: Debug + Send + Sync {
    /// Offers tasks. For each, what is in the queue now, which may have been there before; `None` if the run is not the
    /// offerer's any more, or goes on no more.
    async fn offer(&self, offers: &[Offer]) -> Result<Vec<Option<Offered>>>;

    /// Takes tasks for a node, those of the highest priority first, the oldest first among equals, and none beyond the limits of its
    /// pool. Tasks of nodes whose lease has ended are to be had again.
    ///
    /// To be correct: no two calls get one task, unless it was given back or lost in between; each time it is taken its claim is another.
    async fn take(&self, wanted: &Wanted<'_>) -> Result<Vec<Task>>;

    /// Says that the execution of a task begins that the node held until now. Only of tasks with [`n_lost`](Task::n_lost) of 2 or more
    /// is this said: if the node is lost before, that does not count.
    async fn begin(&self, node: NodeId, held: Held) -> Result<()> {
        let _ = (node, held);
        Ok(())
    }

    /// Puts results in, where the node still holds the task under the claim: one outcome each, in their order. The same again is accepted
    /// again. A result that [declines](TaskResult::declines) is put in only if no other node that may take the task, and whose lease
    /// lasts, has not declined it; else the task is to be had again, by those.
    ///
    /// To be correct: blobs that a result names belong to its run from then on.
    async fn finish(&self, node: NodeId, results: &[TaskResult]) -> Result<Vec<FinishOutcome>>;

    /// Gives tasks back, where the node still holds them: somebody else takes them.
    async fn give_back(&self, node: NodeId, held: &[Held]) -> Result<()>;

    /// What a node holds.
    async fn held(&self, node: NodeId) -> Result<Vec<Held>>;

    /// Those of the tasks that are in the queue, with their results if they have one.
    async fn look(&self, tasks: &[TaskId]) -> Result<Vec<Offered>>;

    /// Removes tasks, unless their run has another epoch. Whoever holds one is told, where that is another process.
    async fn remove(&self, removals: &[Removal]) -> Result<()>;

    /// Those of the pools of which tasks wait and nobody holds one whose lease lasts: for people, who are told that nobody serves them.
    /// A queue that does not know says none.
    async fn unserved(&self, pools: &[String]) -> Result<Vec<String>> {
        let _ = pools;
        Ok(Vec::new())
    }

    /// Sets a limit of a pool, for all; `None` takes it away. What is executing already goes on.
    async fn set_limit(&self, pool: &str, limit: Limit, at_once: Option<u32>) -> Result<()>;

    /// A limit of a pool.
    async fn limit(&self, pool: &str, limit: Limit) -> Result<Option<u32>>;
}

/// The number of a task in its store, in the order of offers. Never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u64);

/// A task that is offered.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The run.
    pub run: RunId,
    /// The run's epoch: the offer of a former owner is refused.
    pub epoch: Epoch,
    /// Which of the runs of this id it is.
    pub incarnation: u64,
    /// The step's number in the run. With `attempt` it says which task of the run this is.
    pub step: u64,
    /// Which execution of the step it is, 1 for the first.
    pub attempt: u32,
    /// The name under which workers have the step.
    pub step_name: String,
    /// The version under which they have it.
    pub step_version: u32,
    /// The pool whose workers may take it; at most [`MAX_POOL_BYTES`].
    pub pool: String,
    /// The higher, the earlier it is taken.
    pub priority: i32,
    /// What its pool's limit for each key counts it under; without one that limit does not concern it.
    pub key: Option<String>,
    /// What the worker needs to know; opaque to the store.
    pub payload: Bytes,
}

/// The longest name of a pool.
pub const MAX_POOL_BYTES: usize = 200;

/// A task in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Its number.
    pub task: TaskId,
    /// Its result, if it has one.
    pub result: Option<Bytes>,
}

/// What a worker takes.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Who takes it.
    pub node: NodeId,
    /// How long the node's leases last at least.
    pub lease: Duration,
    /// Of these pools; `None`: of all.
    pub pools: Option<&'a [String]>,
    /// Of these steps: name and version.
    pub steps: &'a [(String, u32)],
    /// At most so many.
    pub limit: usize,
}

/// A task that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The task, and the claim under which it is held.
    pub held: Held,
    /// The run.
    pub run: RunId,
    /// Which of the runs of this id it is.
    pub incarnation: u64,
    /// The step's number in the run.
    pub step: u64,
    /// Which execution of the step it is.
    pub attempt: u32,
    /// What was offered.
    pub payload: Bytes,
    /// How often it was taken again because the lease of a node had ended that executed it. Where no node can be lost without its
    /// queue, this is 0.
    pub n_lost: u32,
}

/// A task in the hands of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Held {
    /// The task.
    pub task: TaskId,
    /// Counts how often it was taken.
    pub claim: u64,
}

/// What a task came to.
#[derive(Debug, Clone)]
pub struct TaskResult {
    /// The task, and the claim under which it was executed.
    pub held: Held,
    /// The result; opaque to the store.
    pub bytes: Bytes,
    /// Whether it is one of the step: it stays when the run is suspended. One that says that the step could not be executed does not
    /// stand.
    pub stands: bool,
    /// Whether another worker may be able to execute the step: of a result that does not stand.
    pub declines: bool,
    /// Blobs that it names. They must be stored, and pinned or named by a run.
    pub blobs: Vec<BlobId>,
}

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum FinishOutcome {
    /// It is in the queue.
    Accepted,
    /// The node does not hold the task any more: it was withdrawn, or somebody else has taken it.
    Stale,
    /// The task is left to other workers.
    Declined,
    /// A [blob](TaskResult::blobs) that it names is not there.
    BlobMissing {
        /// The blob.
        blob: BlobId,
    },
}

/// A task that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// The task.
    pub task: TaskId,
    /// The epoch of its run.
    pub epoch: Epoch,
    /// Whether it goes also if it has a result.
    pub also_done: bool,
}

/// Of what a pool has a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// Tasks that are executing at once.
    AtOnce,
    /// Tasks of one [key](Offer::key) that are executing at once.
    AtOncePerKey,
}
