//! How an engine is put together.

#![expect(
    clippy::disallowed_methods,
    reason = "an engine is where tasks and randomness come in"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use keepstep_storage::{Blobs, Build, Durability, Limit, NodeId, Storage, StorageError};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::claims::{Claims, run_claims};
use super::cluster::Cluster;
use super::home::{self, Home};
use super::pauses::Pauses;
use super::probation::Probation;
use super::shared::{Roster, Shared};
use super::slots::Slots;
use super::{Engine, build, executable, lock};
use crate::actor::{Residents, actors};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::executor::{
    Abandoned, COMPACT_ABOVE, Committer, MAX_WAKING, Overdue, Threads, run_committer, run_timers,
};
use crate::object::Objects;
use crate::registry::Registry;
use crate::remote::{Remote, RemoteSettings};
use crate::resource::Resources;

/// How many bodies execute at a time where nothing says otherwise.
const DEFAULT_CONCURRENT_STEPS: usize = 1024;
/// How many bytes of decoded objects are kept where nothing says otherwise.
const DEFAULT_OBJECT_CACHE: u64 = 256 << 20;
/// How many bodies of plain functions execute at a time: each has a thread of its own.
const BLOCKING_STEPS: usize = 384;

/// How often an execution may be cut short in a row where nothing says otherwise.
const MAX_INTERRUPTIONS: u32 = 10;

/// Where an engine keeps its runs: see [`EngineBuilder::storage`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StorageSource {
    /// A directory or a storage URL.
    Url(String),
    /// An open store.
    Store(Arc<dyn Storage>),
}

impl From<&str> for StorageSource {
    fn from(url: &str) -> Self {
        Self::Url(url.to_owned())
    }
}

impl From<String> for StorageSource {
    fn from(url: String) -> Self {
        Self::Url(url)
    }
}

impl From<Arc<dyn Storage>> for StorageSource {
    fn from(storage: Arc<dyn Storage>) -> Self {
        Self::Store(storage)
    }
}

impl<S: Storage> From<Arc<S>> for StorageSource {
    fn from(storage: Arc<S>) -> Self {
        Self::Store(storage)
    }
}

/// An engine that is being put together: see [`Engine::builder`].
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until `open`"]
pub struct EngineBuilder {
    storage: Option<StorageSource>,
    resources: Resources,
    max_running_runs: Option<usize>,
    max_pending_runs: Option<usize>,
    max_concurrent_steps: Option<usize>,
    resume_on_open: bool,
    max_interruptions: Option<u32>,
    clock: Option<Clock>,
    seed: Option<u64>,
    compact_above: Option<u64>,
    object_cache: Option<u64>,
    blobs: Option<Blobs>,
    keeps_store_for_references: bool,
    build_id: String,
    keep_executable: bool,
    is_submitter: bool,
    lease: Option<Duration>,
    lacking: Vec<String>,
    remote: RemoteSettings,
}

impl EngineBuilder {
    /// Where runs are kept: a directory, a storage URL (see [`Engine::open`]), a store that was opened elsewhere, or one of
    /// your own.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// use keepstep_core::{Engine, storage};
    ///
    /// let engine = Engine::builder().storage("memory:").build().await?;
    /// # engine.shutdown().await?;
    /// let engine = Engine::builder().storage(storage::memory()).build().await?;
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub fn storage(mut self, storage: impl Into<StorageSource>) -> Self {
        self.storage = Some(storage.into());
        self
    }

    /// Where large values and [objects](crate::ObjectRef) are kept, if not beside the runs: another directory, or a bucket. The same
    /// place must be given whenever the store is opened. A store in PostgreSQL keeps them in the database, or in a bucket. Not for a
    /// store that was opened elsewhere: that has its place.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (runs, large) = (dir.path().join("runs"), dir.path().join("large"));
    /// use keepstep_core::Engine;
    /// use keepstep_core::storage::Blobs;
    ///
    /// let builder = Engine::builder().blobs(Blobs::in_directory(large)?);
    /// let engine = builder.open(runs.to_string_lossy()).await?;
    /// engine.put(&"on the other disk".to_owned()).await?;
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub fn blobs(mut self, blobs: impl Into<Blobs>) -> Self {
        self.blobs = Some(blobs.into());
        self
    }

    /// Gives the steps something to use that is not stored: a step takes it as `#[resource] name: &T`. One a type; the last
    /// counts.
    pub fn resource<T: Send + Sync + 'static>(mut self, resource: T) -> Self {
        self.resources.insert(resource);
        self
    }

    /// How many runs execute at a time; at least 1. Others are pending, first come, first served. Unlimited by default.
    ///
    /// A run that only waits, for a timer, an event, a child run or its next attempt, does not count. When what it waited
    /// for has come, it gets the next slot that is free, before any run that has not begun. If none is free within a second,
    /// it goes on as one more than this.
    pub fn max_running_runs(mut self, n: usize) -> Self {
        self.max_running_runs = Some(n.max(1));
        self
    }

    /// How many runs may be pending; one more new run is refused with [`Error::QueueFull`](crate::Error::QueueFull). Runs that
    /// exist are never refused: child runs, and runs that are resumed, wait for a slot however many others do. Unlimited
    /// by default.
    pub fn max_pending_runs(mut self, n: usize) -> Self {
        self.max_pending_runs = Some(n);
        self
    }

    /// How many bodies of steps execute at a time, over all runs; at least 1. 1,024 by default. Of plain functions, which
    /// take a thread each, never more than 384. A body that goes on although nobody waits for it does not count: see
    /// [`Engine::abandoned_steps`].
    pub fn max_concurrent_steps(mut self, n: usize) -> Self {
        self.max_concurrent_steps = Some(n.clamp(1, Semaphore::MAX_PERMITS));
        self
    }

    /// How many bytes of decoded [objects](crate::ObjectRef) are kept in memory for the next reader, counted as they are stored:
    /// 256 MiB by default; 0 keeps none. Objects that somebody has in use are shared whatever this says. Bytes that are mapped from
    /// a file do not count, and are not kept.
    pub fn object_cache(mut self, bytes: u64) -> Self {
        self.object_cache = Some(bytes);
        self
    }

    /// References to objects keep what they need, also when the engine is gone: for [`Workflow::eval`](crate::Workflow::eval).
    pub(crate) fn keep_store_for_references(mut self) -> Self {
        self.keeps_store_for_references = true;
        self
    }

    /// Whether this engine executes runs, where several share a store (`postgres://…`); otherwise it means nothing. Yes by
    /// default: then it goes on with runs that nobody owns, also with those of engines that are gone. With `false` it starts
    /// runs, sends events, waits and asks, and leaves execution to the others.
    ///
    /// Calls of actors are made where the caller is, in any case.
    pub fn worker(mut self, executes: bool) -> Self {
        self.is_submitter = !executes;
        self
    }

    /// Whether every step of this engine's runs may be run by any worker of the store, as if its attribute said
    /// `#[step(remote)]`. Off by default. Steps with `remote = false` or `checkpoint = false`, calls of actors and
    /// [listeners](crate::EventListener) stay with the run's owner.
    pub fn remote_steps(mut self, remote: bool) -> Self {
        self.remote.all_steps = remote;
        self
    }

    /// The pools whose remote steps this engine runs, as far as it has places ([`max_concurrent_steps`](Self::max_concurrent_steps)):
    /// these and no others. By default it is `"default"`, the pool of remote steps that name none; name it here too if it is to be
    /// served beside others. No pools at all are fine: then the engine runs only what is not remote.
    ///
    /// On a store that no other process shares, an engine serves every pool, whatever this says.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// # use keepstep_core::Engine;
    /// let engine = Engine::builder().pools(["default", "gpu"]).open("memory:").await?;
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub fn pools<P: Into<String>>(mut self, pools: impl IntoIterator<Item = P>) -> Self {
        self.remote.pools = Some(pools.into_iter().map(Into::into).collect());
        self
    }

    /// How many steps of a pool execute at once, at all workers of the store together. The limit is kept in the store, where all obey
    /// it; the engine that was opened last and names it sets it. `None` takes it away, and 0 lets nothing begin.
    ///
    /// A worker that was lost counts until its lease ends.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// # use keepstep_core::Engine;
    /// let builder = Engine::builder().pool_limit("gpu", 4).pool_key_limit("api", 1);
    /// let engine = builder.pool_limit("mail", None).open("memory:").await?;
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub fn pool_limit(self, pool: impl Into<String>, at_once: impl Into<Option<usize>>) -> Self {
        self.limit(pool.into(), Limit::AtOnce, at_once.into())
    }

    /// How many steps of a pool with the same [`concurrency_key`](crate::Workflow::concurrency_key) execute at once, as
    /// [`pool_limit`](Self::pool_limit) limits all of them.
    pub fn pool_key_limit(
        self,
        pool: impl Into<String>,
        at_once: impl Into<Option<usize>>,
    ) -> Self {
        self.limit(pool.into(), Limit::AtOncePerKey, at_once.into())
    }

    fn limit(mut self, pool: String, limit: Limit, at_once: Option<usize>) -> Self {
        let at_once = at_once.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        self.remote.limits.push((pool, limit, at_once));
        self
    }

    /// No step is remote: for [`Workflow::eval`](crate::Workflow::eval).
    pub(crate) fn without_remote_steps(mut self) -> Self {
        self.remote.none = true;
        self
    }

    /// How long this engine may be silent, where several share a store, before others take its runs over; at least 1 second. 30
    /// seconds by default.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease.max(Duration::from_secs(1)));
        self
    }

    /// Whether opening also resumes every run that was interrupted. Off by default.
    pub fn resume_on_open(mut self, resume: bool) -> Self {
        self.resume_on_open = resume;
        self
    }

    /// After how many interruptions of a step, one time after another, the engine suspends the run
    /// ([`SuspendReason::Interrupted`](crate::SuspendReason::Interrupted)); at least 1. 10 by default; `u32::MAX` never suspends it.
    ///
    /// With n, a body begins n times at most: if the process dies each time, the run is suspended when it is resumed after the nth
    /// death, and the body does not begin again. With 1, no step whose process died executes again until somebody resumes its run.
    ///
    /// A step that ends its process, such as by running out of memory or of stack, would otherwise do so for ever. The engine counts an
    /// execution that was under way, or about to begin, when the process died without [`shutdown`](Engine::shutdown). Whatever comes of
    /// the step, also a failure, ends the count. Executions that only waited do not count: those of
    /// [listeners](crate::EventListener), timers, events and child runs.
    ///
    /// Runs that were cut short more than once begin one after another, first the one that had begun last when the process died. Each
    /// executes alone among them for some seconds, and more begin together after that; one that would be suspended next begins alone.
    /// So runs that were only executing beside such a step are not taken for it, if n is at least 3. With 1 or 2, they are suspended
    /// with it.
    ///
    /// The same holds for remote steps: they count workers that were lost while they executed, by the number of the worker that takes
    /// them. And for calls that were sent to an actor, are due, or are repeated: a call that was interrupted n
    /// times is over, as one that failed, and a reminder is removed; the log has an error. Calls that a program awaits do not count.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// # use keepstep_core::Engine;
    /// let builder = Engine::builder().resume_on_open(true).max_interruptions(3);
    /// let engine = builder.open("memory:").await?;
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub fn max_interruptions(mut self, times: u32) -> Self {
        self.max_interruptions = Some(times);
        self
    }

    /// What people call this program: a release, a commit. Every run records what it was started by, with a hash of the program's
    /// steps: see [`Metadata::build`](crate::Metadata::build). At most 64 bytes are kept.
    ///
    /// ```
    /// # use keepstep_core::{Engine, Workflow};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// let engine = Engine::builder().build_id("v1.4.2").open("memory:").await?;
    /// engine.run("answer", Workflow::value(42)).await?;
    /// assert_eq!(engine.metadata("answer").await?.build.id, "v1.4.2");
    /// # engine.shutdown().await
    /// # }
    /// ```
    pub fn build_id(mut self, id: impl Into<String>) -> Self {
        self.build_id = id.into();
        self
    }

    /// Whether the executable that is running is kept in the store, once, as long as a run needs it that was started by it:
    /// [`Engine::executable_of`] writes it out again. Off by default.
    ///
    /// Opening then reads the whole executable, and fails if that cannot be read.
    pub fn keep_executable(mut self, keep: bool) -> Self {
        self.keep_executable = keep;
        self
    }

    /// Where time comes from: [`Clock::tokio`] for tests with paused time.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Makes the jitter of pauses repeatable: for tests.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Journals with fewer bytes than this are not compacted: for tests, in which runs are short.
    #[doc(hidden)]
    pub fn compact_above(mut self, bytes: u64) -> Self {
        self.compact_above = Some(bytes);
        self
    }

    /// Does without a step, as a program of another version does: for tests.
    #[doc(hidden)]
    pub fn without_step(mut self, name: impl Into<String>) -> Self {
        self.lacking.push(name.into());
        self
    }

    /// Opens the engine on a directory or a storage URL: see [`Engine::open`].
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open(mut self, path_or_url: impl AsRef<str>) -> Result<Engine> {
        self.storage = Some(path_or_url.as_ref().into());
        self.build().await
    }

    /// Builds the engine on the store given with [`storage`](Self::storage), or on one in memory.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn build(self) -> Result<Engine> {
        // Found out before a store is touched.
        let registry = Registry::global()?;
        actors()?;
        self.remote.check()?;
        let source = self.storage.unwrap_or_else(|| "memory:".into());
        let owns_store = matches!(source, StorageSource::Url(_));
        let storage = match (source, self.blobs) {
            (StorageSource::Store(storage), None) => storage,
            (StorageSource::Store(storage), Some(_)) => {
                let hint = "it is open and has a place for large values; open it with `storage::open_with_blobs`";
                return Err(Error::Storage(StorageError::Unsupported {
                    url: storage.describe().location,
                    hint: hint.to_owned(),
                }));
            }
            (StorageSource::Url(url), None) => keepstep_storage::open(&url).await?,
            (StorageSource::Url(url), Some(blobs)) => {
                keepstep_storage::open_with_blobs(&url, blobs).await?
            }
        };
        let description = storage.describe();
        let kept = match description.durability {
            Durability::Process => "runs are gone when this process ends",
            Durability::Crash => {
                "runs survive the end of any process, and not a power cut or a crash of the machine that stores them"
            }
            Durability::PowerLoss => "runs survive crashes and power cuts",
        };
        tracing::info!(
            backend = description.backend,
            location = description.location,
            "store opened: {kept}"
        );
        let executable = match self.keep_executable {
            true => Some(executable::keep(&*storage).await?),
            false => None,
        };
        let build = Build {
            label: build::label(&self.build_id),
            steps: registry.build(),
            executable,
        };
        let (committer, requests) = Committer::new(storage.clone());
        let (claims, claim_requests) = Claims::new();
        let (timers, timer_requests) = mpsc::unbounded_channel();
        let halted = CancellationToken::new();
        let turn = committer.turn();
        let objects = Objects::new(
            Arc::clone(&storage),
            self.object_cache.unwrap_or(DEFAULT_OBJECT_CACHE),
            self.keeps_store_for_references,
        );
        let lease = self.lease.unwrap_or(super::resume::LEASE);
        let (cluster, looks) = match storage.is_shared() {
            true => {
                let (cluster, looks) = Cluster::new(!self.is_submitter, lease);
                (Some(cluster), Some(looks))
            }
            false => (None, None),
        };
        let clock = self.clock.unwrap_or_else(Clock::system);
        let threads = Threads::new(Handle::current(), clock.is_tokios());
        let shared = Arc::new(Shared {
            storage: Arc::clone(&storage),
            objects: Arc::new(objects),
            registry,
            opened_at: clock.timestamp(),
            build,
            resources: Arc::new(self.resources),
            clock,
            // Not seeded: every opening of a store is another owner.
            node: NodeId(fastrand::Rng::new().u64(1..)),
            step_permits: Arc::new(Semaphore::new(
                self.max_concurrent_steps
                    .unwrap_or(DEFAULT_CONCURRENT_STEPS),
            )),
            blocking_permits: Arc::new(Semaphore::new(BLOCKING_STEPS)),
            threads,
            abandoned: Abandoned::default(),
            max_pending_runs: self.max_pending_runs.unwrap_or(usize::MAX),
            compact_above: self.compact_above.unwrap_or(COMPACT_ABOVE),
            lacking: self.lacking,
            committer,
            claims,
            timers,
            wake_permits: Arc::new(Semaphore::new(MAX_WAKING)),
            random: Mutex::new(
                self.seed
                    .map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed),
            ),
            roster: Mutex::new(Roster {
                slots: Slots::new(self.max_running_runs.unwrap_or(usize::MAX)),
                ..Roster::default()
            }),
            cluster,
            locks: lock::KeyedLocks::default(),
            actors: Residents::default(),
            remote: Remote::new(self.remote, &storage, registry),
            tasks: TaskTracker::new(),
            resumed: tokio::sync::Notify::new(),
            pauses: Pauses::default(),
            overdue: Overdue::default(),
            #[cfg(feature = "schedules")]
            looks_after_schedules: Default::default(),
            closing: halted.child_token(),
            home: Arc::new(Home::here(owns_store)),
            max_interruptions: self.max_interruptions.unwrap_or(MAX_INTERRUPTIONS).max(1),
            probation: Probation::default(),
            halted: halted.clone(),
        });
        home::watch(&shared);
        let wakes = shared.timers.clone();
        let claimer = (shared.node, shared.lease());
        tokio::spawn(run_claims(storage.clone(), claimer, claim_requests));
        tokio::spawn(run_committer(storage, turn, requests, wakes));
        tokio::spawn(run_timers(Arc::clone(&shared), timer_requests));
        let engine = Engine {
            shared,
            _halts_when_dropped: Some(Arc::new(halted.drop_guard())),
        };
        if let Some(looks) = looks {
            super::cluster::start(&engine.shared, looks).await?;
        }
        engine.shared.open_pools().await?;
        engine.pin_executable().await?;
        if self.resume_on_open {
            for (id, resumed) in engine.resume_all().await? {
                if let Err(error) = resumed {
                    tracing::warn!(run = id, %error, "run could not be resumed");
                }
            }
        }
        Ok(engine)
    }
}
