//! What `#[step]` produces, and what a step's body is given and gives back.

use std::any::TypeId;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::Shared;
use crate::error::Error;
use crate::migrate::Accepts;
use crate::object::Objects;
use crate::plan::{Flattened, flatten};
use crate::signature::StepTypes;
use crate::source::{DecodeError, Source, Sources};
use crate::texts;
use crate::value::{Codec, EncodeError, Value};
use crate::workflow::{BuildNode, Workflow};

/// How often a step is tried again where nothing says otherwise.
const DEFAULT_RETRIES: u32 = 3;

/// A step as it was written: the static that `#[step]` leaves in the program.
#[derive(Debug)]
#[doc(hidden)]
pub struct StepDef {
    /// The name it is found by.
    pub name: &'static str,
    /// The version it is found by.
    pub version: u32,
    /// Names of the parameters that are values, in order.
    pub params: &'static [&'static str],
    /// Its `#[resource]` parameters.
    pub resources: &'static [ResourceNeed],
    /// What its attributes say.
    pub options: StepOptions,
    /// Its body.
    pub body: StepBody,
    /// What its parameters and its result are.
    pub types: StepTypes,
    /// Older versions whose stored calls it runs, where no step of that version is there.
    pub accepts: &'static [Accepts],
    /// Where it was written.
    pub file: &'static str,
    /// Where it was written.
    pub line: u32,
}

/// What the attributes of a step say.
#[derive(Debug, Clone, Copy)]
#[doc(hidden)]
pub struct StepOptions {
    /// How often it is tried again after a failure.
    pub retries: u32,
    /// The pauses between attempts.
    pub backoff: Backoff,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// Whether its result is stored.
    pub checkpoint: bool,
    /// How its result is encoded.
    pub codec: Codec,
    /// Whether it mostly waits: it then takes up no place of `max_concurrent_steps`.
    pub waits: bool,
    /// Whether any worker may run it, if that is said.
    pub remote: Option<bool>,
    /// The pool whose workers run it. It is remote then.
    pub pool: Option<&'static str>,
    /// Of those that are remote, which is taken first.
    pub priority: i32,
}

impl StepOptions {
    /// What holds where a step has no attributes.
    pub const DEFAULT: Self = Self {
        retries: DEFAULT_RETRIES,
        backoff: Backoff::DEFAULT,
        timeout: None,
        checkpoint: true,
        codec: Codec::MessagePack,
        waits: false,
        remote: None,
        pool: None,
        priority: 0,
    };
}

/// The pauses between the attempts of a step: the first is about `min`, each further one twice as long, up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub struct Backoff {
    /// The first pause.
    pub min: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Backoff {
    /// From 100 ms to 30 s.
    pub const DEFAULT: Self = Self {
        min: Duration::from_millis(100),
        max: Duration::from_secs(30),
    };
}

/// A `#[resource]` parameter.
#[doc(hidden)]
pub struct ResourceNeed {
    /// The parameter's name.
    pub param: &'static str,
    /// Its type's name, for people.
    pub type_name: fn() -> &'static str,
    /// Its type.
    pub type_id: fn() -> TypeId,
}

impl fmt::Debug for ResourceNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.param, (self.type_name)())
    }
}

/// The code of a step.
#[derive(Clone, Copy)]
#[doc(hidden)]
pub enum StepBody {
    /// An `async fn`.
    Async(fn(StepInput) -> StepFuture),
    /// A plain `fn`, which runs where it may block.
    Blocking(fn(StepInput) -> StepResult),
}

impl fmt::Debug for StepBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Async(_) => "Async",
            Self::Blocking(_) => "Blocking",
        })
    }
}

/// What an async body returns.
#[doc(hidden)]
pub type StepFuture = Pin<Box<dyn Future<Output = StepResult> + Send>>;

/// What a body ends in.
#[doc(hidden)]
pub type StepResult = Result<StepOutput, StepFault>;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a body that did not fail gave back.
#[derive(Debug)]
#[doc(hidden)]
pub struct StepOutput(pub(crate) Output);

#[derive(Debug)]
pub(crate) enum Output {
    /// A value.
    Value(Value),
    /// A workflow to go on with.
    Workflow(Arc<BuildNode>),
}

/// What a body gave back, once nothing that it refers to is under way any more.
#[derive(Debug)]
pub(crate) enum Settled {
    Value(Value),
    Workflow(Box<Flattened>),
}

impl Output {
    /// Awaits the work that the output refers to.
    pub(crate) async fn settle(self, objects: &Arc<Objects>) -> Result<Settled, StepFault> {
        match self {
            Self::Value(value) => {
                let settled = objects.settle(value).await;
                let settled = settled.map_err(|unkept| StepFault(unkept.into()))?;
                Ok(Settled::Value(settled))
            }
            Self::Workflow(node) => {
                let unencodable = |error: Error| {
                    let message = error.to_string();
                    StepFault(Fault::Unencodable { message })
                };
                let mut flattened = flatten(&node).map_err(unencodable)?;
                drop(node);
                let settled = objects.settle_plan(&mut flattened.plan).await;
                settled.map_err(|unkept| StepFault(unkept.into()))?;
                Ok(Settled::Workflow(Box::new(flattened)))
            }
        }
    }
}

/// Why a body gave nothing back.
#[derive(Debug, Clone)]
#[doc(hidden)]
pub struct StepFault(pub(crate) Fault);

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The body returned an error.
    Error {
        message: String,
        causes: Vec<String>,
    },
    /// The result cannot be encoded.
    Unencodable { message: String },
    /// A stored argument does not decode to what the parameter is now.
    Undecodable {
        param: &'static str,
        error: DecodeError,
    },
    /// The arguments of an older version could not be made new ones.
    Unmigratable { message: String },
    /// A resource is missing.
    MissingResource {
        param: &'static str,
        type_name: &'static str,
    },
    /// The body failed in a way that is known already.
    Failed(crate::run::Failure),
    /// The store failed under the body.
    Storage(keepstep_storage::StorageError),
    /// The engine stops.
    Stopped,
}

/// What a body is given.
#[derive(Debug)]
#[doc(hidden)]
pub struct StepInput {
    pub(crate) def: &'static StepDef,
    pub(crate) args: Sources,
    /// The engine that executes the step; none where it is only tried whether the arguments are read as they were written.
    pub(crate) shared: Option<Arc<Shared>>,
}

impl StepInput {
    /// Decodes the value of a parameter.
    pub fn arg<T: Storable<M>, M>(&self, index: usize) -> Result<T, StepFault> {
        T::decode(self, index)
    }

    fn decode<T: DeserializeOwned>(&self, index: usize) -> Result<T, StepFault> {
        let param = self.def.params.get(index).copied().unwrap_or("?");
        self.decode_as(index, param)
    }

    /// Decodes an argument for a parameter that is called so.
    pub(crate) fn decode_as<T: DeserializeOwned>(
        &self,
        index: usize,
        param: &'static str,
    ) -> Result<T, StepFault> {
        let decoded = match (self.args.get(index), &self.shared) {
            (Some(source), Some(shared)) => source.decode_in(&shared.objects),
            (Some(source), None) => source.decode(),
            (None, _) => Err(serde::de::Error::custom(
                "the stored call has no such argument",
            )),
        };
        decoded.map_err(|error| StepFault(Fault::Undecodable { param, error }))
    }

    /// Checks that an argument was read as what was written.
    #[cold]
    fn must_match<T: StepValue>(&self, index: usize, read: &T) -> Result<(), StepFault> {
        let Some(Source::Value(stored)) = self.args.get(index) else {
            return Ok(());
        };
        let same = stored.must_be(read, Codec::MessagePack);
        same.map_err(|EncodeError(message)| {
            let param = self.def.params.get(index).copied().unwrap_or("?");
            let error = serde::de::Error::custom(message);
            StepFault(Fault::Undecodable { param, error })
        })
    }

    /// The resource of a type.
    pub fn resource<T: Send + Sync + 'static>(
        &self,
        param: &'static str,
    ) -> Result<Arc<T>, StepFault> {
        let shared = self.shared.as_ref();
        let resource = shared.and_then(|shared| shared.resources.get::<T>());
        resource.ok_or_else(|| {
            StepFault(Fault::MissingResource {
                param,
                type_name: std::any::type_name::<T>(),
            })
        })
    }
}

/// Ends a body that returns `T`.
#[doc(hidden)]
pub fn end_with_value<T: Storable<M>, M>(def: &'static StepDef, value: &T) -> StepResult {
    value.end(def)
}

/// Ends a body that returns `Result<T, E>`.
#[doc(hidden)]
pub fn end_with_result<T: Storable<M>, E: Failure<N>, M, N>(
    def: &'static StepDef,
    result: Result<T, E>,
) -> StepResult {
    match result {
        Ok(value) => end_with_value(def, &value),
        Err(error) => Err(fault(error)),
    }
}

/// Ends a body that returns `Workflow<T>`.
#[doc(hidden)]
pub fn end_with_workflow<T>(workflow: Workflow<T>) -> StepResult {
    Ok(StepOutput(Output::Workflow(workflow.into_node())))
}

/// Ends a body that returns `Result<Workflow<T>, E>`.
#[doc(hidden)]
pub fn end_with_workflow_result<T, E: Failure<N>, N>(result: Result<Workflow<T>, E>) -> StepResult {
    result.map_err(fault).and_then(end_with_workflow)
}

pub(crate) fn fault<E: Failure<N>, N>(error: E) -> StepFault {
    let error = error.into_error();
    let (message, causes) = texts::of_error(&*error);
    StepFault(Fault::Error { message, causes })
}

/// Ends a body that returns a `Result` whose type arguments an alias hides.
#[doc(hidden)]
pub fn end_with_unknown_result<T: Yields, E: Failure<N>, N>(
    def: &'static StepDef,
    result: Result<T, E>,
) -> StepResult {
    result.map_err(fault).and_then(|value| value.end(def))
}

/// Ends a query that returns a `Result` whose type arguments an alias hides: it must not be one of a workflow.
#[doc(hidden)]
pub fn end_with_unknown_value<T: Storable<M>, E: Failure<N>, M, N>(
    def: &'static StepDef,
    result: Result<T, E>,
) -> StepResult {
    end_with_result(def, result)
}

/// A `Result` whose type arguments an alias hides: what it yields is known to the compiler only.
#[doc(hidden)]
pub trait Fallible {
    /// What a workflow of the step yields.
    type Value;
}

impl<T: Yields, E> Fallible for Result<T, E> {
    type Value = T::Value;
}

/// A value, or a workflow that yields one.
#[doc(hidden)]
pub trait Yields {
    /// The value's type.
    type Value;
    /// Ends a body that returns this.
    fn end(self, def: &'static StepDef) -> StepResult;
}

impl<T: StepValue> Yields for T {
    type Value = T;

    fn end(self, def: &'static StepDef) -> StepResult {
        end_with_value(def, &self)
    }
}

impl<T> Yields for Workflow<T> {
    type Value = T;

    fn end(self, _def: &'static StepDef) -> StepResult {
        end_with_workflow(self)
    }
}

/// What a borrowed parameter is borrowed from.
#[doc(hidden)]
pub trait Borrowed {
    /// The owned type.
    type Owner;
}

impl<T> Borrowed for T {
    type Owner = T;
}

impl Borrowed for Path {
    type Owner = PathBuf;
}

/// What can be passed between steps: owned types that serde can write and read.
///
/// Implemented for every type that is `Serialize`, `DeserializeOwned` and `Send`.
pub trait StepValue: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> StepValue for T {}

/// [`StepValue`] as generated code asks for it, so that the compiler says what is wrong in our words.
///
/// The compiler shows a trait's own message only if it had more than one implementation to try and none fits. For the
/// single one of `StepValue` it would report the bounds behind it, once for each of serde's traits, and list a hundred
/// types that have it. So there is a second one, which never fits; the parameter `M` keeps the two apart.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be passed to or returned from a step",
    label = "not a value that keepstep can store",
    note = "values between steps are stored: they are owned, `Send`, and implement `serde::Serialize` and `serde::Deserialize`",
    note = "derive both for your own types; for types of other crates, look for a feature named `serde`",
    note = "for what cannot be stored, such as a connection, take a parameter `#[resource] name: &Type`"
)]
pub trait Storable<M>: Send + Sized + 'static {
    /// Ends a body with this as its result.
    fn end(&self, def: &'static StepDef) -> StepResult;
    /// Decodes an argument.
    fn decode(input: &StepInput, index: usize) -> Result<Self, StepFault>;
}

impl<T: StepValue> Storable<Fits> for T {
    fn end(&self, def: &'static StepDef) -> StepResult {
        match Value::encode_readable(self, def.options.codec, def.types.result()) {
            Ok(value) => Ok(StepOutput(Output::Value(value))),
            Err(error) => Err(StepFault(Fault::Unencodable {
                message: error.to_string(),
            })),
        }
    }

    fn decode(input: &StepInput, index: usize) -> Result<Self, StepFault> {
        let value = input.decode(index)?;
        if input.shared.is_none() {
            input.must_match(index, &value)?;
        }
        Ok(value)
    }
}

impl<T: FitsNever> Storable<FitsNot> for T {
    fn end(&self, _def: &'static StepDef) -> StepResult {
        self.never()
    }

    fn decode(_input: &StepInput, _index: usize) -> Result<Self, StepFault> {
        T::never_made()
    }
}

/// What a step may fail with, asked for in the way of [`Storable`].
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a step cannot fail with `{Self}`",
    label = "`{Self}` is not an error that keepstep can report",
    note = "the error of a step must convert into `Box<dyn std::error::Error + Send + Sync>`",
    note = "implement `std::error::Error` for it (`thiserror` derives it), or return `anyhow::Result<T>`"
)]
pub trait Failure<M> {
    /// The error as every error can be seen.
    fn into_error(self) -> BoxError;
}

impl<E: Into<BoxError>> Failure<Fits> for E {
    fn into_error(self) -> BoxError {
        self.into()
    }
}

impl<E: FitsNever> Failure<FitsNot> for E {
    fn into_error(self) -> BoxError {
        self.never()
    }
}

/// Marks the implementation that is used.
#[derive(Debug)]
#[doc(hidden)]
pub struct Fits;

/// Marks the implementation that is there to be tried.
#[derive(Debug)]
#[doc(hidden)]
pub struct FitsNot;

/// Implemented by nothing.
#[doc(hidden)]
pub trait FitsNever: Send + Sized + 'static {
    /// Never called.
    fn never<T>(&self) -> T;
    /// Never called.
    fn never_made<T>() -> T;
}
