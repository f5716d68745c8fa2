//! Stored calls of older versions of a step: who runs them, and how their arguments become those of now.

use std::fmt;

use crate::shape::Shape;
use crate::step::{BoxError, Fault, StepFault, StepInput, StepValue};
use crate::texts;
use crate::value::{EncodeError, Value};

/// An older version of a step whose stored calls the step runs: what `accepts = 1` becomes.
#[derive(Debug)]
#[doc(hidden)]
pub struct Accepts {
    /// The older version.
    pub version: u32,
    /// How its arguments become those of now; `None` if they are the same.
    pub migration: Option<Migration>,
}

/// A function that makes arguments of older ones.
#[doc(hidden)]
pub struct Migration {
    /// How many arguments the older version had.
    n_args: usize,
    /// The shape of an argument of the older version.
    shape: fn(usize) -> Option<Shape>,
    /// Decodes an argument of the older version, and drops it.
    probe: fn(&StepInput, usize) -> Result<(), StepFault>,
    /// The arguments of now, of those that are stored.
    run: fn(&StepInput) -> Result<NewArgs, StepFault>,
}

/// The arguments that a migration made.
#[derive(Debug)]
#[doc(hidden)]
pub struct NewArgs(pub(crate) Vec<Value>);

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Migration(of {} arguments)", self.n_args)
    }
}

impl Migration {
    /// A migration by a function of this type. The function itself is in `run`.
    pub const fn of<F: Migrate<Old>, Old>(
        _function: &F,
        run: fn(&StepInput) -> Result<NewArgs, StepFault>,
    ) -> Self {
        Self {
            n_args: F::N_ARGS,
            shape: F::shape,
            probe: F::probe,
            run,
        }
    }

    pub(crate) fn n_args(&self) -> usize {
        self.n_args
    }

    pub(crate) fn shape(&self, index: usize) -> Option<Shape> {
        (self.shape)(index)
    }

    pub(crate) fn probe(&self, input: &StepInput, index: usize) -> Result<(), StepFault> {
        (self.probe)(input, index)
    }

    /// The arguments of now. It is the code of users, and may panic.
    pub(crate) fn run(&self, input: &StepInput) -> Result<Vec<Value>, StepFault> {
        (self.run)(input).map(|args| args.0)
    }
}

/// A function that takes the parameters of an older version.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot migrate the arguments of a stored call",
    label = "not a plain function of the old version's parameters",
    note = "write a function that takes the parameters of the old version as owned values, and returns those of the step now: \
            `fn from_v1(cents: u64) -> (u64, Currency)`",
    note = "it is not `async`, has no `#[resource]`, and takes at most 8 parameters"
)]
pub trait Migrate<Old> {
    /// What it returns.
    type Output;
    /// How many parameters it has.
    const N_ARGS: usize;
    /// The shape of a parameter.
    fn shape(index: usize) -> Option<Shape>;
    /// Decodes an argument, and drops it.
    fn probe(input: &StepInput, index: usize) -> Result<(), StepFault>;
    /// Calls it with the stored arguments.
    fn call(self, input: &StepInput) -> Result<Self::Output, StepFault>;
}

/// What the parameters of an older version are called: their names are not stored.
const NAMES: [&str; 8] = ["1", "2", "3", "4", "5", "6", "7", "8"];

macro_rules! functions {
    ($(($n:literal: $($param:ident $at:literal)*))*) => {
        $(
            impl<Function, Output, $($param: StepValue),*> Migrate<($($param,)*)> for Function
            where
                Function: FnOnce($($param),*) -> Output,
            {
                type Output = Output;
                const N_ARGS: usize = $n;

                fn shape(index: usize) -> Option<Shape> {
                    match index {
                        $($at => Some(Shape::of::<$param>()),)*
                        _ => None,
                    }
                }

                #[allow(unused_variables, reason = "a function may have no parameters")]
                fn probe(input: &StepInput, index: usize) -> Result<(), StepFault> {
                    match index {
                        $($at => input.decode_as::<$param>($at, NAMES[$at]).map(drop),)*
                        _ => Ok(()),
                    }
                }

                #[allow(unused_variables, reason = "a function may have no parameters")]
                fn call(self, input: &StepInput) -> Result<Output, StepFault> {
                    Ok(self($(input.decode_as::<$param>($at, NAMES[$at])?),*))
                }
            }
        )*
    };
}

functions! {
    (0:)
    (1: A 0)
    (2: A 0 B 1)
    (3: A 0 B 1 C 2)
    (4: A 0 B 1 C 2 D 3)
    (5: A 0 B 1 C 2 D 3 E 4)
    (6: A 0 B 1 C 2 D 3 E 4 F 5)
    (7: A 0 B 1 C 2 D 3 E 4 F 5 G 6)
    (8: A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7)
}

/// What a migration returns, where the parameters of the step are `New`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a migration returned `{Self}`, which is not the parameters of the step now",
    label = "expected the types of `{New}`",
    note = "return the parameters of the step as a tuple, a single one as it is, or a `Result` of that"
)]
pub trait Migrated<New, M> {
    /// Encodes each argument.
    fn into_args(self) -> Result<NewArgs, StepFault>;
}

/// Marks a migration that returns several arguments.
#[derive(Debug)]
#[doc(hidden)]
pub struct Several;

/// Marks a migration that returns one argument.
#[derive(Debug)]
#[doc(hidden)]
pub struct Single;

/// Marks a migration that can fail.
#[derive(Debug)]
#[doc(hidden)]
pub struct Fallible<M>(std::marker::PhantomData<M>);

impl<A: StepValue> Migrated<(A,), Single> for A {
    fn into_args(self) -> Result<NewArgs, StepFault> {
        Ok(NewArgs(vec![encode(&self)?]))
    }
}

impl<New, M, R: Migrated<New, M>, E: Into<BoxError>> Migrated<New, Fallible<M>> for Result<R, E> {
    fn into_args(self) -> Result<NewArgs, StepFault> {
        match self {
            Ok(args) => args.into_args(),
            Err(error) => {
                let error: BoxError = error.into();
                let (message, causes) = texts::of_error(&*error);
                let causes = causes.iter().map(|cause| format!(": {cause}"));
                let message = texts::cut(std::iter::once(message).chain(causes).collect());
                Err(StepFault(Fault::Unmigratable { message }))
            }
        }
    }
}

macro_rules! tuples {
    ($(($($param:ident)*))*) => {
        $(
            impl<$($param: StepValue),*> Migrated<($($param,)*), Several> for ($($param,)*) {
                fn into_args(self) -> Result<NewArgs, StepFault> {
                    #[expect(non_snake_case, reason = "one name serves as type and as variable")]
                    let ($($param,)*) = self;
                    Ok(NewArgs(vec![$(encode(&$param)?),*]))
                }
            }
        )*
    };
}

tuples! {
    (A B)
    (A B C)
    (A B C D)
    (A B C D E)
    (A B C D E F)
    (A B C D E F G)
    (A B C D E F G H)
}

impl Migrated<(), Several> for () {
    fn into_args(self) -> Result<NewArgs, StepFault> {
        Ok(NewArgs(Vec::new()))
    }
}

fn encode<T: StepValue>(value: &T) -> Result<Value, StepFault> {
    Value::encode_typed(value).map_err(|EncodeError(message)| {
        StepFault(Fault::Unmigratable {
            message: format!("an argument that it made cannot be stored: {message}"),
        })
    })
}

/// Calls a migration with stored arguments, and encodes the arguments that it makes.
#[doc(hidden)]
pub fn migrate_args<New, F: Migrate<Old>, Old, M>(
    function: F,
    input: &StepInput,
) -> Result<NewArgs, StepFault>
where
    F::Output: Migrated<New, M>,
{
    function.call(input)?.into_args()
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Payment {
        Card { number: u8 },
        Wire { number: u8, iban: u8 },
    }

    #[test]
    fn an_argument_that_would_be_read_as_another_one_is_refused() {
        let (number, iban) = (1, 2);
        let card = Payment::Card { number };
        let made = Migrated::<(Payment,), Single>::into_args(card).unwrap();
        assert!(made.0[0].decode::<Payment>().is_ok());
        let wire = Payment::Wire { number, iban };
        let refused = Migrated::<(u8, Payment), Several>::into_args((1u8, wire));
        match refused.unwrap_err() {
            StepFault(Fault::Unmigratable { message }) => {
                assert!(message.contains("cannot be stored: iban: "), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}
