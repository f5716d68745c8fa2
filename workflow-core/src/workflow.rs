//! `Workflow<T>`: a lazy, typed DAG of steps. Building one is pure; nothing runs until an engine is given it.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use smallvec::SmallVec;

use crate::arg::{ArgShape, BuildArg};
use crate::error::{Error, StepError};
use crate::plan::{Child, First, Until};
use crate::step::StepDef;
use crate::value::{EncodeError, Value};

/// A DAG of steps that will yield a `T`.
///
/// Calling a `#[step]` function builds one; passing it to another step makes an edge. Cloning is cheap and names the
/// same node: however often a workflow is used, it runs once in a run.
///
/// A workflow is not a future. It is run by an engine ([`run`](Self::run)), or returned from a step, which puts it in
/// that step's place.
///
/// ```
/// use keepstep_core::Workflow;
///
/// let w: Workflow<i64> = Workflow::value(7);
/// assert_eq!(w.to_mermaid(), "flowchart TD\n    s0[\"value\"]\n");
/// ```
#[must_use = "a workflow does nothing until it is run or returned from a step"]
pub struct Workflow<T> {
    node: Arc<BuildNode>,
    yields: PhantomData<fn() -> T>,
}

impl<T> Workflow<T> {
    pub(crate) fn of(node: Arc<BuildNode>) -> Self {
        Self {
            node,
            yields: PhantomData,
        }
    }

    pub(crate) fn node(&self) -> &Arc<BuildNode> {
        &self.node
    }

    pub(crate) fn into_node(self) -> Arc<BuildNode> {
        self.node
    }

    /// A workflow that is already finished, with `value` as its result.
    ///
    /// The value is owned, as what a step returns: a `String` and no `&str`. One that cannot be encoded, or could not be read again, is
    /// reported when the workflow is run.
    pub fn value(value: T) -> Self
    where
        T: Serialize + DeserializeOwned + 'static,
    {
        Self::of(BuildNode::new(BuildKind::Value(Value::encode_typed(
            &value,
        ))))
    }

    /// Names this step in the run: for `step_output`, graphs and errors. Without a name it has that of its function.
    ///
    /// The output of a step named so is kept as long as its run, under the name. Of several steps of one name, the
    /// output is that of the one that finished last. In a loop by tail call, the result of the loop is that of its last 256
    /// names.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.with(|node| node.name = Some(name.into().into()))
    }

    /// How often this step is tried again after a failure, in place of what its `#[step]` says: `retries(n)` means at
    /// most n + 1 executions.
    pub fn retries(self, retries: u32) -> Self {
        self.with(|node| node.retries = Some(retries))
    }

    /// How long this may take, after which it fails with [`StepErrorKind::Timeout`](crate::StepErrorKind::Timeout).
    ///
    /// Of a step, the time of one attempt, in place of what its `#[step]` says. Of anything else the time of all of it: of an
    /// [`event`](crate::event) or a [`child`](crate::child) from when the run reaches it, of a [`race`](crate::race), a
    /// [`select`](crate::select), an [`all`](crate::all) or a `catch` from when the run reaches the workflow it is a part of. That
    /// deadline is stored, and passes also while no process runs.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|node| node.timeout = Some(timeout))
    }

    /// Starts this step only after `other` is done, without using its result. If `other` fails, so does this.
    pub fn after<U>(self, other: &Workflow<U>) -> Self {
        let other = Arc::clone(&other.node);
        self.with(|node| node.after.push(other))
    }

    /// Which of the remote steps that wait for a place is taken first: the highest, and the one offered first among equals. In place
    /// of what its `#[step]` says; 0 by default. It means nothing for a step that is not remote.
    ///
    /// ```
    /// # use keepstep_core::Workflow;
    /// # fn resize(image: String) -> Workflow<String> { Workflow::value(image) }
    /// let urgent = resize("avatar.png".to_owned()).priority(10);
    /// # drop(urgent);
    /// ```
    pub fn priority(self, priority: i32) -> Self {
        self.with(|node| node.priority = Some(priority))
    }

    /// What this remote step counts under where its pool has a limit for each key: no more of one key are executing at a time
    /// than [`pool_key_limit`](crate::EngineBuilder::pool_key_limit) says. Without a key that limit does not concern the step.
    ///
    /// ```
    /// # use keepstep_core::Workflow;
    /// # fn call_api(customer: u32) -> Workflow<String> { Workflow::value(customer.to_string()) }
    /// let call = call_api(7).concurrency_key("customer-7");
    /// # drop(call);
    /// ```
    pub fn concurrency_key(self, key: impl Into<String>) -> Self {
        self.with(|node| node.key = Some(key.into().into()))
    }

    /// Attaches something for people and tools to see. On the workflow that is run, it is the run's metadata.
    pub fn metadata(self, metadata: serde_json::Value) -> Self {
        self.with(|node| node.metadata = Some(metadata))
    }

    /// Makes a failure a value: yields `Ok` with the result, or `Err` with why there is none, after all retries.
    ///
    /// It covers everything this workflow consists of, what its steps expand into included: errors, panics and
    /// time-outs. A canceled or suspended run is not a failure.
    pub fn catch(self) -> Workflow<Result<T, StepError>> {
        Workflow::of(BuildNode::new(BuildKind::Catch(self.node)))
    }

    /// Changes a node. Where it is already part of something, a copy of it: a node that has been used is not changed.
    fn with(mut self, change: impl FnOnce(&mut BuildNode)) -> Self {
        change(Arc::make_mut(&mut self.node));
        self
    }
}

impl<T> Clone for Workflow<T> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.node))
    }
}

impl<T> fmt::Debug for Workflow<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Workflow<{}>({})",
            std::any::type_name::<T>(),
            self.node.label()
        )
    }
}

/// Builds the node of a step: what a `#[step]` function's constructor does.
#[doc(hidden)]
pub fn build_step<T>(def: &'static StepDef, args: Vec<BuildArg>) -> Workflow<T> {
    Workflow::of(BuildNode::new(BuildKind::Step {
        def,
        args: args.into_iter().map(|arg| arg.0).collect(),
    }))
}

/// A node of a workflow that is being built.
#[derive(Clone)]
pub(crate) struct BuildNode {
    pub(crate) kind: BuildKind,
    pub(crate) after: Vec<Arc<BuildNode>>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) retries: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) metadata: Option<serde_json::Value>,
    pub(crate) priority: Option<i32>,
    pub(crate) key: Option<Arc<str>>,
}

#[derive(Clone)]
pub(crate) enum BuildKind {
    Step {
        def: &'static StepDef,
        /// Most steps have one.
        args: SmallVec<[ArgShape; 1]>,
    },
    Value(Result<Value, EncodeError>),
    Catch(Arc<BuildNode>),
    Sleep(Until),
    Event(Arc<str>),
    All(Vec<Arc<BuildNode>>),
    First(First, Vec<Arc<BuildNode>>),
    /// What is wrong with it is reported when the workflow is run.
    Child(Arc<Result<ChildBuild, Error>>),
}

/// A run of its own in a workflow that is being built, and the code it needs.
pub(crate) struct ChildBuild {
    pub(crate) child: Child,
    pub(crate) defs: Vec<&'static StepDef>,
}

impl BuildNode {
    pub(crate) fn new(kind: BuildKind) -> Arc<Self> {
        Arc::new(Self {
            kind,
            after: Vec::new(),
            name: None,
            retries: None,
            timeout: None,
            metadata: None,
            priority: None,
            key: None,
        })
    }

    /// Whether the user said nothing of it but what it is.
    pub(crate) fn is_bare(&self) -> bool {
        self.name.is_none()
            && self.after.is_empty()
            && self.retries.is_none()
            && self.timeout.is_none()
            && self.metadata.is_none()
            && self.priority.is_none()
            && self.key.is_none()
    }

    /// What people see it called.
    pub(crate) fn label(&self) -> &str {
        match (&self.name, &self.kind) {
            (Some(name), _) => name,
            (None, BuildKind::Step { def, .. }) => def.name,
            (None, BuildKind::Value(_)) => "value",
            (None, BuildKind::Catch(_)) => "catch",
            (None, BuildKind::Sleep(_)) => "sleep",
            (None, BuildKind::Event(name)) => name,
            (None, BuildKind::All(_)) => "all",
            (None, BuildKind::First(First::Either, _)) => "race",
            (None, BuildKind::First(First::Placed, _)) => "select",
            (None, BuildKind::First(First::Alone, _)) => "wait_for",
            (None, BuildKind::Child(child)) => match &**child {
                Ok(child) => child.child.id.as_str(),
                Err(_) => "child",
            },
        }
    }

    /// Shows each node this one depends on to `visit`.
    pub(crate) fn for_each_input<'a>(&'a self, visit: &mut impl FnMut(&'a Arc<BuildNode>)) {
        fn in_shape<'a>(shape: &'a ArgShape, visit: &mut impl FnMut(&'a Arc<BuildNode>)) {
            match shape {
                ArgShape::Node(node) => visit(node),
                ArgShape::Seq(items) => items.iter().for_each(|item| in_shape(item, visit)),
                ArgShape::Map(entries) => {
                    entries.iter().for_each(|(_, value)| in_shape(value, visit))
                }
                ArgShape::Some(inner) => in_shape(inner, visit),
                ArgShape::Value(..) | ArgShape::Invalid(_) => {}
            }
        }

        match &self.kind {
            BuildKind::Step { args, .. } => args.iter().for_each(|arg| in_shape(arg, visit)),
            BuildKind::Catch(inner) => visit(inner),
            BuildKind::All(inputs) | BuildKind::First(_, inputs) => {
                inputs.iter().for_each(&mut *visit);
            }
            BuildKind::Value(_)
            | BuildKind::Sleep(_)
            | BuildKind::Event(_)
            | BuildKind::Child(_) => {}
        }
        self.after.iter().for_each(visit);
    }

    /// Takes out the nodes this one depends on, so that dropping it drops nothing else.
    fn take_inputs(&mut self, into: &mut Vec<Arc<BuildNode>>) {
        fn from_shape(shape: &mut ArgShape, into: &mut Vec<Arc<BuildNode>>) {
            match shape {
                ArgShape::Value(..) | ArgShape::Invalid(_) => {}
                ArgShape::Seq(items) => items.iter_mut().for_each(|item| from_shape(item, into)),
                ArgShape::Map(entries) => entries
                    .iter_mut()
                    .for_each(|(_, value)| from_shape(value, into)),
                ArgShape::Some(inner) => from_shape(inner, into),
                node @ ArgShape::Node(_) => {
                    if let ArgShape::Node(node) = std::mem::replace(node, ArgShape::Seq(vec![])) {
                        into.push(node);
                    }
                }
            }
        }

        into.append(&mut self.after);
        match &mut self.kind {
            BuildKind::Step { args, .. } => args.iter_mut().for_each(|arg| from_shape(arg, into)),
            BuildKind::All(inputs) | BuildKind::First(_, inputs) => into.append(inputs),
            BuildKind::Value(_)
            | BuildKind::Sleep(_)
            | BuildKind::Event(_)
            | BuildKind::Child(_) => {}
            catch @ BuildKind::Catch(_) => {
                let empty = BuildKind::Value(Err(EncodeError(String::new())));
                if let BuildKind::Catch(inner) = std::mem::replace(catch, empty) {
                    into.push(inner);
                }
            }
        }
    }
}

/// A chain of a hundred thousand nodes must not be dropped by a hundred thousand nested calls.
impl Drop for BuildNode {
    fn drop(&mut self) {
        let mut pending = Vec::new();
        self.take_inputs(&mut pending);
        while let Some(node) = pending.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                node.take_inputs(&mut pending);
            }
        }
    }
}

impl fmt::Debug for BuildNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildNode({})", self.label())
    }
}

/// Implemented by nothing: it is here so that the compiler can say what to write in place of `workflow.await`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a workflow cannot be awaited",
    label = "this is a plan of steps, not a running future",
    note = "inside of a step: pass the workflow to another step, or return it",
    note = "outside: run it, as in `workflow.run(\"run_1\").await?`"
)]
pub trait CanBeAwaited {}

/// Implemented by nothing: it is here so that the compiler can say why a workflow is no part of a value.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a workflow cannot be part of a stored value",
    label = "this is a plan of steps, not their result",
    note = "store what the workflow yields: pass it to a step that takes the value, and let that step make the whole"
)]
pub trait CanBeStored {}

/// Stands for `Workflow<T>` in bounds that never hold. For `Workflow<T>` itself, the compiler would show the messages of
/// `Future` and `Serialize`.
#[doc(hidden)]
#[derive(Debug)]
pub struct Unfinished<T>(PhantomData<T>);

#[doc(hidden)]
impl<T> Future for Workflow<T>
where
    Unfinished<T>: CanBeAwaited,
{
    type Output = T;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<T> {
        Poll::Pending
    }
}

#[doc(hidden)]
impl<T> Serialize for Workflow<T>
where
    Unfinished<T>: CanBeStored,
{
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom(
            "a workflow cannot be part of a stored value",
        ))
    }
}

#[doc(hidden)]
impl<'de, T> Deserialize<'de> for Workflow<T>
where
    Unfinished<T>: CanBeStored,
{
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(
            "a workflow cannot be part of a stored value",
        ))
    }
}
