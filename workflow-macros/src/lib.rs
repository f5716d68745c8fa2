//! The macros of keepstep: `#[step]`, `#[event_listener]` and `#[virtual_actor]`. Use them through the crate `keepstep`, which the
//! code they write refers to.

mod actor;
mod diag;
mod duration;
mod fallback;
mod listener;
mod options;
mod paths;
mod step;
mod types;

use proc_macro::TokenStream;

/// Makes a function a step: its name becomes a constructor of workflows, and an engine runs its body.
///
/// ```
/// use keepstep::{Workflow, step};
///
/// #[step]
/// async fn one() -> i64 {
///     1
/// }
///
/// #[step(retries = 3, timeout = "30s")]
/// async fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// // Nothing runs yet. An argument is a value, or a workflow that will yield one.
/// let sum: Workflow<i64> = add(100, one());
/// ```
///
/// An `async fn` runs on tokio, a plain `fn` where it may block. Both may fail and be tried again, and be started again
/// after a crash, as long as their result is not stored: what a body does to the world outside should bear repetition.
///
/// # What it takes
///
/// Owned values that serde can write and read (`Serialize`, `DeserializeOwned`, and `Send`), or references to them: `&T`,
/// `&str`, `&[T]`, `&Path`. The constructor then takes the owned form, or a workflow of it, or a container of workflows
/// where the parameter is the container of values: see `IntoArg`.
///
/// A parameter `#[resource] db: &Db`, or `#[resource] db: Arc<Db>`, is no argument of the constructor: the engine that
/// runs the step has it. It is for what cannot be stored.
///
/// ```
/// use keepstep::{Workflow, step};
///
/// struct Db;
///
/// #[step]
/// async fn save(#[resource] db: &Db, customer: &str, orders: &[u64]) -> std::io::Result<usize> {
///     let _ = (db, customer);
///     Ok(orders.len())
/// }
///
/// # #[step] async fn order() -> u64 { 1 }
/// let saved: Workflow<usize> = save("c-1", [order(), order()]);
/// ```
///
/// # What it gives
///
/// - a value that serde can write and read, or nothing;
/// - `Result<T, E>`, where `E` converts into `Box<dyn Error + Send + Sync>`: an `Err` is a failed attempt. Any alias whose
///   last segment is `Result` counts, such as `anyhow::Result<T>`;
/// - `Workflow<T>`, or a `Result` of one: the step goes on as that workflow, which takes its place. `Workflow` has to be
///   written out; an alias for it is taken for a value.
///
/// In the body, the step's own name is the constructor:
///
/// ```
/// use keepstep::{Workflow, step};
///
/// #[step]
/// async fn fib(n: u64) -> Workflow<u64> {
///     if n <= 1 {
///         return Workflow::value(n);
///     }
///     sum(fib(n - 1), fib(n - 2))
/// }
///
/// #[step]
/// async fn sum(a: u64, b: u64) -> u64 {
///     a + b
/// }
/// ```
///
/// # Options
///
/// | option | means | default |
/// | --- | --- | --- |
/// | `name = "billing/charge"` | the name that stored runs find it by: keep it when you move or rename the function | module path and function |
/// | `version = 2` | stored runs find it by name and version: keep the old function, with the old version, as long as there are runs of it | 1 |
/// | `accepts = 1` | it runs the stored calls of this older version, where no step of that version is left; `accepts(1), accepts(2)` for several | none |
/// | `migrate = f` | with `accepts`, makes arguments of older ones: `fn f(old parameters) -> (new parameters)`, a single one as it is, or a `Result` of that; `accepts(1, migrate = f)` for each of several versions | older arguments are decoded as the parameters are now, as values are |
/// | `retries = 5` | how often it is tried again after a failure | 3 |
/// | `backoff = "100ms..30s"` | the first and the longest pause between attempts, each about twice the one before; a single duration for pauses that stay the same | `"100ms..30s"` |
/// | `timeout = "30s"` | how long one attempt may take | no limit |
/// | `checkpoint = false` | its result is not stored: it may run again after a crash, though it was finished | `true` |
/// | `codec = "bincode"` | how its result is stored, `"msgpack"` or `"bincode"` | `"msgpack"` |
/// | `remote` | any worker that shares the store may run it, wherever there is a place; `remote = false`: the run's owner does, also if its engine was opened with `remote_steps(true)` | the run's owner runs it |
/// | `pool = "gpu"` | it is remote, and only workers that serve this pool run it: `Engine::builder().pools(["gpu"])` | `"default"`, if it is remote |
/// | `priority = 5` | which of the remote steps that wait for a place is taken first: the highest | 0 |
/// | `crate = path` | where the crate `keepstep` is, if it has another name | `::keepstep` |
///
/// Durations are a number and a unit: `ns`, `us`, `ms`, `s`, `m`, `h` or `d`. `"1.5s"` is exact.
///
/// # What cannot be a step
///
/// A stored run knows a step by its name, and has nothing but the stored arguments to call it with. So generics, `self`,
/// `impl Trait`, `&mut T` and lifetimes are errors, which say what to write instead.
///
/// # Steps that nothing calls
///
/// A step that nothing in the program calls is not reported as dead code: the runs of an earlier version may be waiting
/// for it. The same holds for what it uses.
///
/// # What it becomes
///
/// With the environment variable `KEEPSTEP_DEBUG_MACRO` set to the name of a function, the compiler prints what that step
/// becomes: `touch src/main.rs; KEEPSTEP_DEBUG_MACRO=fib cargo check`.
///
/// Docs and lint levels stay on the constructor, where lint levels hold for the body, too; other attributes, such as
/// `#[tracing::instrument]`, go to the function that runs.
#[proc_macro_attribute]
pub fn step(options: TokenStream, item: TokenStream) -> TokenStream {
    step::step(options.into(), item.into()).into()
}

/// Registers an implementation of `EventListener`, so that stored runs find it by the name of its type.
///
/// ```
/// use keepstep::{BoxError, EventListener, Workflow, event_listener, wait_for};
/// use serde::{Deserialize, Serialize};
///
/// /// Waits for the next message of a queue.
/// #[derive(Serialize, Deserialize)]
/// struct Queue {
///     name: String,
/// }
///
/// #[event_listener]
/// impl EventListener for Queue {
///     type Event = String;
///
///     async fn poll(&mut self) -> Result<String, BoxError> {
///         // Wait for a message, and leave it in the queue.
///         Ok(format!("a message of {}", self.name))
///     }
///
///     async fn checkpointed(&mut self, message: &String) -> Result<(), BoxError> {
///         // The message is stored: take it out of the queue.
///         let _ = message;
///         Ok(())
///     }
/// }
///
/// let message: Workflow<String> = wait_for(Queue { name: "orders".into() });
/// ```
///
/// # Options
///
/// | option | means | default |
/// | --- | --- | --- |
/// | `name = "orders/queue"` | the name that stored runs find it by: keep it when you move or rename the type | module path and type |
/// | `version = 2` | stored runs find it by name and version | 1 |
/// | `retries = 5` | how often `poll` and `checkpointed` are each tried again after an error | for ever |
/// | `backoff = "1s..60s"` | the first and the longest pause between attempts | `"1s..60s"` |
/// | `crate = path` | where the crate `keepstep` is, if it has another name | `::keepstep` |
#[proc_macro_attribute]
pub fn event_listener(options: TokenStream, item: TokenStream) -> TokenStream {
    listener::event_listener(options.into(), item.into()).into()
}

/// Makes a type a virtual actor: a named state whose every change is durable.
///
/// ```
/// use keepstep::virtual_actor;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Counter {
///     count: u64,
/// }
///
/// #[virtual_actor]
/// impl Counter {
///     pub fn new() -> Self {
///         Counter { count: 0 }
///     }
///
///     pub async fn incr(&mut self) -> u64 {
///         self.count += 1;
///         self.count
///     }
///
///     pub async fn get(&self) -> u64 {
///         self.count
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep::Result<()> {
/// # let engine = keepstep::Engine::open("memory:").await?;
/// let c1 = Counter::on(&engine).get_or_create("counter_1").await?;
/// assert_eq!(c1.incr().await?, 1);
/// assert_eq!(c1.incr().await?, 2);
/// assert_eq!(c1.get().await?, 2);
/// # engine.shutdown().await
/// # }
/// ```
///
/// The block stays as it is: on a plain `Counter`, methods are methods, which unit tests can call. Beside it there are
/// `CounterRef`, a handle whose methods prepare calls of the actor; `CounterActors`, the actors on an engine, which
/// `Counter::on(&engine)` gives; and `Counter::get_or_create`, `get_actor`, `list_actors` and `delete_actor`, which use the engine
/// of the step or method they are called in, else the default one.
///
/// # What it takes
///
/// - `new`, which makes the first state, once. It may be `async`, take arguments and resources, and return a `Result` of `Self`.
///   How visible it is, so are the handles.
/// - methods with `pub` and `&mut self`: they are called in order, one at a time. What they return and the new state are durable
///   together before the caller gets it. They may return `T`, `Result<T, E>`, `Workflow<T>`, or a `Result` of one, as steps do. An
///   error or a panic leaves the state as it was.
/// - methods with `pub` and `&self`: they look at the state that was committed last, and wait for nothing.
/// - methods without `pub`, and other functions: they are not called from outside.
///
/// Parameters are those of steps: owned values, or references to them, and `#[resource] db: &Db`. The state is a type that serde
/// can write and read. Methods run on tokio, plain ones too: what blocks belongs into a step.
///
/// # On methods
///
/// | attribute | means |
/// | --- | --- |
/// | `#[method(retries = 5, backoff = "100ms..30s", timeout = "30s")]` | as in `#[step]`; calls that arrive meanwhile wait. Without `retries`, a failure goes to the caller at once |
/// | `#[method(name = "deposit")]` | what stored calls of the method find it by, instead of the name of the function: a method that is renamed keeps its calls |
/// | `#[exclusive]` | calls behind this one wait for the workflow that it returns |
///
/// # Options
///
/// | option | means | default |
/// | --- | --- | --- |
/// | `name = "billing/account"` | the name that stored actors are found by: keep it when you move or rename the type | module path and type |
/// | `version = 2` | the version of the state | 1 |
/// | `migrate = f` | makes a state of an older one: `fn f(old: StoredState) -> Result<Self, E>` | older states are decoded as the type is now, as values are |
/// | `crate = path` | where the crate `keepstep` is, if it has another name | `::keepstep` |
#[proc_macro_attribute]
pub fn virtual_actor(options: TokenStream, item: TokenStream) -> TokenStream {
    actor::actor(options.into(), item.into()).into()
}
