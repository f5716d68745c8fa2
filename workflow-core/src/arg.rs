//! What may be passed to a step: a value, a workflow that will yield it, or a container of workflows.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::object::ObjectRef;
use crate::step::StepValue;
use crate::value::{Codec, Doubts, EncodeError, Value};
use crate::workflow::{BuildNode, Workflow};

/// An argument of a step that takes a `T`.
///
/// A `T` itself, a `Workflow<T>`, or a container of workflows (`Vec`, array, `Option`, tuple, values of a `HashMap` or
/// `BTreeMap`) where the step takes the container of values. A workflow's result is awaited durably before the step starts.
///
/// ```
/// use keepstep_core::{IntoArg, Workflow};
///
/// fn takes_numbers(numbers: impl IntoArg<Vec<i64>>) {}
///
/// takes_numbers(vec![1, 2]);
/// takes_numbers(Workflow::value(vec![1, 2]));
/// takes_numbers(vec![Workflow::value(1), Workflow::value(2)]);
/// ```
#[diagnostic::on_unimplemented(
    message = "this step takes a `{T}`, and `{Self}` is not one",
    label = "expected a `{T}`, a `Workflow<{T}>`, or a container of workflows that makes a `{T}`",
    note = "an argument is a value of the parameter's type, or a workflow that yields it"
)]
pub trait IntoArg<T> {
    /// What the plan stores of it.
    #[doc(hidden)]
    fn into_arg(self) -> BuildArg;
}

/// An argument in a workflow that is being built.
#[derive(Debug, Clone)]
#[doc(hidden)]
pub struct BuildArg(pub(crate) ArgShape);

#[derive(Debug, Clone)]
pub(crate) enum ArgShape {
    /// A value, and what in it may not be readable: the type that reads it is known to the step only.
    Value(Value, Doubts),
    /// A value that could not be encoded; the error is reported when the workflow is run.
    Invalid(EncodeError),
    Node(Arc<BuildNode>),
    Seq(Vec<ArgShape>),
    Map(Vec<(ArgShape, ArgShape)>),
    Some(Box<ArgShape>),
}

impl ArgShape {
    pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Self {
        match Value::encode_with(value, Codec::MessagePack) {
            Ok((value, doubts)) => Self::Value(value, doubts),
            Err(error) => Self::Invalid(error),
        }
    }

    /// The key of a map whose values are not known: it is read again here, if at all.
    fn key<K: StepValue>(key: &K) -> Self {
        match Value::encode_typed(key) {
            Ok(key) => Self::Value(key, Doubts::default()),
            Err(error) => Self::Invalid(error),
        }
    }

    fn of<T>(workflow: Workflow<T>) -> Self {
        Self::Node(workflow.into_node())
    }
}

impl<T: Serialize> IntoArg<T> for T {
    fn into_arg(self) -> BuildArg {
        BuildArg(ArgShape::encode(&self))
    }
}

impl<T> IntoArg<T> for Workflow<T> {
    fn into_arg(self) -> BuildArg {
        BuildArg(ArgShape::of(self))
    }
}

impl<T> IntoArg<T> for &Workflow<T> {
    fn into_arg(self) -> BuildArg {
        BuildArg(ArgShape::of(self.clone()))
    }
}

impl<T> IntoArg<Vec<T>> for Vec<Workflow<T>> {
    fn into_arg(self) -> BuildArg {
        BuildArg(ArgShape::Seq(self.into_iter().map(ArgShape::of).collect()))
    }
}

impl<T, const N: usize> IntoArg<Vec<T>> for [Workflow<T>; N] {
    fn into_arg(self) -> BuildArg {
        BuildArg(ArgShape::Seq(self.into_iter().map(ArgShape::of).collect()))
    }
}

impl<T, const N: usize> IntoArg<[T; N]> for [Workflow<T>; N] {
    fn into_arg(self) -> BuildArg {
        BuildArg(ArgShape::Seq(self.into_iter().map(ArgShape::of).collect()))
    }
}

impl<T> IntoArg<Option<T>> for Option<Workflow<T>> {
    fn into_arg(self) -> BuildArg {
        BuildArg(match self {
            Some(workflow) => ArgShape::Some(Box::new(ArgShape::of(workflow))),
            None => ArgShape::encode(&()),
        })
    }
}

impl<K: StepValue, T, S: BuildHasher> IntoArg<HashMap<K, T, S>> for HashMap<K, Workflow<T>, S> {
    fn into_arg(self) -> BuildArg {
        let mut entries: Vec<_> = self
            .into_iter()
            .map(|(key, w)| (ArgShape::key(&key), ArgShape::of(w)))
            .collect();
        // The order of a hash map differs from process to process; the plan of the same workflow must not.
        entries.sort_by(|(a, _), (b, _)| match (a, b) {
            (ArgShape::Value(a, _), ArgShape::Value(b, _)) => a.as_bytes().cmp(b.as_bytes()),
            _ => std::cmp::Ordering::Equal,
        });
        BuildArg(ArgShape::Map(entries))
    }
}

impl<K: StepValue, T> IntoArg<BTreeMap<K, T>> for BTreeMap<K, Workflow<T>> {
    fn into_arg(self) -> BuildArg {
        BuildArg(ArgShape::Map(
            self.into_iter()
                .map(|(key, w)| (ArgShape::key(&key), ArgShape::of(w)))
                .collect(),
        ))
    }
}

macro_rules! tuple_of_workflows {
    ($($name:ident)+) => {
        impl<$($name),+> IntoArg<($($name,)+)> for ($(Workflow<$name>,)+) {
            fn into_arg(self) -> BuildArg {
                #[expect(non_snake_case, reason = "one name serves as type and as variable")]
                let ($($name,)+) = self;
                BuildArg(ArgShape::Seq(vec![$(ArgShape::of($name)),+]))
            }
        }
    };
}

tuple_of_workflows!(A);
tuple_of_workflows!(A B);
tuple_of_workflows!(A B C);
tuple_of_workflows!(A B C D);
tuple_of_workflows!(A B C D E);
tuple_of_workflows!(A B C D E F);
tuple_of_workflows!(A B C D E F G);
tuple_of_workflows!(A B C D E F G H);

/// Borrowed forms of owned parameters: they are encoded at once, so nothing is copied for them.
macro_rules! borrowed {
    ($($from:ty => $to:ty;)+) => {
        $(
            impl IntoArg<$to> for $from {
                fn into_arg(self) -> BuildArg {
                    BuildArg(ArgShape::encode(&self))
                }
            }
        )+
    };
}

borrowed! {
    &str => String;
    &String => String;
    Cow<'_, str> => String;
    &Path => PathBuf;
    &PathBuf => PathBuf;
    &str => PathBuf;
    String => PathBuf;
    &String => PathBuf;
    Cow<'_, str> => PathBuf;
}

impl<T> IntoArg<ObjectRef<T>> for &ObjectRef<T> {
    fn into_arg(self) -> BuildArg {
        BuildArg(ArgShape::encode(self))
    }
}

impl<T: Serialize> IntoArg<Vec<T>> for &[T] {
    fn into_arg(self) -> BuildArg {
        BuildArg(ArgShape::encode(self))
    }
}

impl<T: Serialize> IntoArg<Vec<T>> for &Vec<T> {
    fn into_arg(self) -> BuildArg {
        BuildArg(ArgShape::encode(self))
    }
}
