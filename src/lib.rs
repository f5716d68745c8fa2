//! Durable workflows as a library: async functions become steps, steps compose into a typed graph, and a run of that graph
//! survives crashes, because every step's result is stored before anything depends on it.
//!
//! There is no server. Add the crate, open a directory, run.
//!
//! # The first program
//!
//! ```
//! use keepstep::prelude::*;
//!
//! #[step]
//! async fn one() -> i64 { 1 }
//!
//! #[step(retries = 3, timeout = "30s")]
//! async fn add(a: i64, b: i64) -> i64 { a + b }
//!
//! #[tokio::main]
//! async fn main() -> keepstep::Result<()> {
//! #   let temporary = tempfile::tempdir().unwrap();
//! #   std::env::set_current_dir(&temporary).unwrap();
//!     let engine = Engine::open("data").await?;              // a directory: embedded sled
//!     let output: Workflow<i64> = add(100, one());            // arguments are values or workflows
//!
//!     assert_eq!(engine.run("run_1", output.clone()).await?, 101);
//!     assert_eq!(engine.status("run_1").await?, Status::Successful);
//!     assert_eq!(engine.output::<i64>("run_1").await?, 101);
//!
//!     keepstep::init(engine);                                 // the process's default engine
//!     assert_eq!(output.run("run_1").await?, 101);            // same id, same plan: the stored result
//!     Ok(())
//! }
//! ```
//!
//! Kill that program wherever you like and start it again: a step whose result was stored does not run a second time.
//!
//! # Steps
//!
//! [`#[step]`](macro@step) makes a step of an `async fn`, or of a plain `fn`, which then runs where it may block. Calling it
//! runs nothing: it builds a [`Workflow<T>`](Workflow), a node of a graph. Values between steps are stored, so parameters and
//! results are owned types with serde's `Serialize` and `Deserialize`; a parameter may also borrow (`&str`, `&[T]`, `&T`).
//! A step returns `T`, `Result<T, E>`, `Workflow<T>`, or a `Result` of one.
//!
//! ```
//! use keepstep::prelude::*;
//! use std::time::Duration;
//!
//! #[step]
//! fn words(text: &str) -> Vec<String> {
//!     text.split_whitespace().map(str::to_owned).collect()
//! }
//!
//! #[step(name = "text/longest", version = 2, retries = 5, backoff = "100ms..30s", timeout = "10s")]
//! async fn longest(words: &[String]) -> anyhow::Result<String> {
//!     let longest = words.iter().max_by_key(|word| word.len());
//!     Ok(longest.ok_or_else(|| anyhow::anyhow!("no words"))?.clone())
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> keepstep::Result<()> {
//!
//! let answer = longest(words("a durable workflow")).name("answer").timeout(Duration::from_secs(1));
//! assert_eq!(answer.eval().await?, "workflow");
//! # Ok(())
//! # }
//! ```
//!
//! # Arguments
//!
//! For a parameter of type `T` you pass a `T`, a `Workflow<T>`, or a container of workflows where the step takes the
//! container of values: see [`IntoArg`]. The compiler checks that types fit. A workflow that is used twice runs once.
//!
//! ```
//! use keepstep::prelude::*;
//!
//! #[step]
//! async fn square(n: u64) -> u64 { n * n }
//!
//! #[step]
//! async fn sum(numbers: Vec<u64>) -> u64 { numbers.iter().sum() }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> keepstep::Result<()> {
//!
//! let four = square(2);
//! let squares = vec![square(&four), square(&four), square(5)];     // `four` runs once
//! assert_eq!(sum(squares).eval().await?, 57);
//! # Ok(())
//! # }
//! ```
//!
//! # When a step fails
//!
//! An error, a panic or a time-out is a failed attempt. The step is tried again, by default three times, with growing pauses;
//! counts and due times are stored, so a restart changes neither. After that its run fails, unless
//! [`catch`](Workflow::catch) makes the failure a value:
//!
//! ```
//! use keepstep::prelude::*;
//!
//! #[step(retries = 1, backoff = "1ms")]
//! async fn divide(a: u64, b: u64) -> u64 { a / b }
//!
//! #[step]
//! async fn or_zero(result: Result<u64, StepError>) -> u64 { result.unwrap_or(0) }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> keepstep::Result<()> {
//!
//! assert_eq!(or_zero(divide(6, 2).catch()).eval().await?, 3);
//! assert_eq!(or_zero(divide(6, 0).catch()).eval().await?, 0);
//! let Err(Error::Failed { error, .. }) = divide(6, 0).eval().await else { panic!() };
//! assert_eq!((error.attempts, &*error.message), (2, "attempt to divide by zero"));
//! # Ok(())
//! # }
//! ```
//!
//! A step can learn which attempt it is, whether it should stop, and a key for outside services that is the same on every
//! attempt, from its [`context()`].
//!
//! # Workflows that grow
//!
//! A step may return a workflow, which then runs in its place: recursion, loops, one step for each thing found.
//!
//! ```
//! use keepstep::prelude::*;
//!
//! #[step]
//! async fn fib(n: u64) -> Workflow<u64> {
//!     if n <= 1 {
//!         return Workflow::value(n);
//!     }
//!     add(fib(n - 1), fib(n - 2))
//! }
//!
//! #[step]
//! async fn add(a: u64, b: u64) -> u64 { a + b }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> keepstep::Result<()> {
//!
//! assert_eq!(fib(10).eval().await?, 55);
//! # Ok(())
//! # }
//! ```
//!
//! # Actors and schedules
//!
//! [`#[virtual_actor]`](macro@virtual_actor) makes a type a named state whose every change is durable, and which is in memory only
//! while it is called. [`Engine::schedule`] starts a run of a workflow at set times.
#![cfg_attr(any(doc, doctest), doc = "[`chapters::actors`] has both.")]
//!
//! # Large values
//!
//! [`put`] stores a large value once, and its [`ObjectRef`] is passed instead: all readers share one decoded value, bytes are mapped from
//! their file without a copy, and what is larger than memory streams in and out.
#![cfg_attr(any(doc, doctest), doc = "[`chapters::objects`] shows how.")]
//!
//! # Engines and runs
//!
//! An [`Engine`] is opened on a store and executes runs. [`run`](Engine::run) waits for the result; [`start`](Engine::start)
//! returns a [`Handle`] to await, watch or cancel. The id you give a run names it for good: the same id with the same workflow
//! attaches to it, goes on with it, or gives the stored result; with another workflow it is an error.
//! [`status`](Engine::status), [`output`](Engine::output), [`step_output`](Engine::step_output),
//! [`metadata`](Engine::metadata), [`list`](Engine::list) and [`graph`](Engine::graph) look at runs;
//! [`suspend`](Engine::suspend), [`resume`](Engine::resume), [`cancel`](Engine::cancel) and [`delete`](Engine::delete) change
//! them. Functions of the same names in this crate use the process's default engine.
//!
//! ```
//! # use keepstep::prelude::*;
//! # struct Db;
//! # impl Db { async fn name_of(&self, _: u64) -> String { "Ada".into() } }
//! #[step]
//! async fn name_of(user: u64, #[resource] db: &Db) -> String {     // from the engine, never stored
//!     db.name_of(user).await
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> keepstep::Result<()> {
//!
//! let engine = Engine::builder().resource(Db).max_running_runs(100).open("memory:").await?;
//! let run = engine.start("user/7", name_of(7)).await?;             // durable from here on
//! let mut progress = run.progress();
//! while let Some(now) = progress.next().await {
//!     println!("{} of {} steps", now.done, now.total);
//! }
//! assert_eq!(run.await?, "Ada");
//! assert_eq!(engine.list(Status::Successful).await?.runs[0].id, "user/7");
//! engine.shutdown().await
//! # }
//! ```
//!
//! # After a crash
//!
//! Runs that were being executed are [`Status::Resumable`]. Running the same id with the same workflow goes on with one,
//! [`resume`](Engine::resume) does by id alone, [`resume_all`](Engine::resume_all) with all of them, and
//! [`resume_on_open`](EngineBuilder::resume_on_open) at once. Finished steps do not run again; those that were executing do.
#![cfg_attr(
    any(doc, doctest),
    doc = "[`chapters::promises`] says exactly what is kept, and what is not."
)]
//!
//! # When the code changes
//!
//! A run finds its steps by name and version, and decodes its values by the names of their fields, in whatever program resumes it. What does not
//! fit suspends the run with an error that says what to do; [`Engine::check`] finds it before anything runs, and
//! `#[step(version = 2, accepts = 1, migrate = f)]` takes the calls of an older version.
#![cfg_attr(any(doc, doctest), doc = "[`chapters::code_changes`] has it all.")]
//!
//! # Stores
//!
//! | URL | store | cargo feature |
//! | --- | --- | --- |
//! | `data`, `sled:data` | a directory, sled | `sled`, on by default |
//! | `redb:data` | a directory, redb: reports all damage | `redb` |
//! | `fjall:data` | a directory, fjall: the fastest writes | `fjall` |
//! | `postgres://user@host/database` | PostgreSQL, which several processes share | `postgres` |
//! | `memory:` | memory: the whole engine without a disk | |
//!
//! A store on disk survives power cuts, and belongs to one engine at a time.
#![cfg_attr(
    any(doc, doctest),
    doc = "[`chapters::storage`] helps to choose; [`storage`] is the trait behind them."
)]
//!
//! # Testing
//!
//! [`Workflow::eval`] runs a workflow in memory, without an engine; `Engine::open("memory:")` is an engine with all there is
//! but a disk. Both in tokio's paused time, if the test pauses it and the engine gets [`Clock::tokio`], so pauses between
//! attempts take no time:
//!
//! ```
//! use keepstep::prelude::*;
//!
//! #[step(retries = 3, backoff = "1h..1h")]
//! async fn third_time() -> anyhow::Result<u32> {
//!     anyhow::ensure!(context().attempt() == 3, "not yet");
//!     Ok(context().attempt())
//! }
//!
//! # /*
//! #[tokio::test(start_paused = true)]
//! # */
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() { it_gets_there().await }
//! async fn it_gets_there() {
//!     assert_eq!(third_time().eval().await.unwrap(), 3); // at once
//! }
//! ```

// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// More to read, a subject at a time.
#[cfg(any(doc, doctest))]
pub mod chapters {
    #[doc = include_str!("docs/guide.md")]
    pub mod guide {}

    #[doc = include_str!("docs/promises.md")]
    pub mod promises {}

    #[doc = include_str!("docs/proof.md")]
    pub mod proof {}

    #[doc = include_str!("docs/dynamic.md")]
    pub mod dynamic {}

    #[doc = include_str!("docs/waits.md")]
    pub mod waits {}

    #[doc = include_str!("docs/actors.md")]
    pub mod actors {}

    #[doc = include_str!("docs/code_changes.md")]
    pub mod code_changes {}
    #[doc = include_str!("docs/objects.md")]
    pub mod objects {}

    #[doc = include_str!("docs/errors.md")]
    pub mod errors {}

    #[doc = include_str!("docs/storage.md")]
    pub mod storage {}

    #[doc = include_str!("docs/postgres.md")]
    pub mod postgres {}

    #[doc = include_str!("docs/limits.md")]
    pub mod limits {}
}

// What programs are written with.
pub use keepstep_core::{Context, IntoArg, StepValue, Workflow, context, try_context};
pub use keepstep_macros::{step, virtual_actor};

// Actors.
pub use keepstep_core::{
    ActorCall, ActorFilter, ActorHandle, ActorPage, ActorQuery, ActorReminder, ActorSummary,
    PlannedCall, StoredState,
};

// Workflows that wait.
pub use keepstep_core::{
    BoxError, Either, EventListener, all, child, event, race, select, sleep, sleep_until, wait_for,
};
pub use keepstep_macros::event_listener;

// Large values by reference.
pub use keepstep_core::{BlobId, Bytes, ObjectRef, put, put_reader};

// Schedules.
#[cfg(feature = "schedules")]
pub use keepstep_core::{Missed, NewSchedule, ScheduleSummary};

// The engine, and what it tells of runs.
pub use keepstep_core::{
    AbandonReason, AbandonedStep, BuildInfo, Clock, Codec, Cursor, Engine, EngineBuilder, Filter,
    Graph, GraphNode, Handle, Metadata, NodeState, Page, Progress, ProgressStream, RunSummary,
    SendEvent, Status, StepId, StorageSource,
};

// The process's default engine.
pub use keepstep_core::{
    cancel, check, default_engine, delete, init, list, metadata, output, resume, resume_all, run,
    send_event, start, status, step_output, suspend, try_init,
};

// Whether code and store fit.
pub use keepstep_core::{Cause, Certainty, Holder, Problem, Report, testing};

// What can go wrong.
pub use keepstep_core::{
    Damage, Error, InvalidRunId, Result, StepError, StepErrorKind, SuspendReason,
};

pub use keepstep_core::storage;

#[doc(hidden)]
pub use keepstep_core::__private;

/// What most programs need: `use keepstep::prelude::*`.
pub mod prelude {
    pub use crate::{
        Either, Engine, Error, EventListener, Handle, IntoArg, ObjectRef, Status, StepError,
        Workflow, all, child, context, event, event_listener, put, race, select, sleep,
        sleep_until, step, virtual_actor, wait_for,
    };
}
