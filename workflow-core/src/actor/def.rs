//! What `#[virtual_actor]` produces, and finding it again by name.

use std::any::Any;
use std::fmt;
use std::sync::OnceLock;

use futures_core::future::BoxFuture;
use rustc_hash::FxHashMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::source::DecodeError;
use crate::step::{Failure, Fault, StepDef, StepFault, StepInput, StepResult};
use crate::value::{Codec, Doubts, EncodeError, Readable, Value};

/// An actor as it was written: the static that `#[virtual_actor]` leaves in the program.
#[derive(Debug)]
#[doc(hidden)]
pub struct ActorDef {
    /// The name it is found by.
    pub name: &'static str,
    /// The version of its state.
    pub version: u32,
    /// Its methods.
    pub methods: &'static [MethodDef],
    /// Reads its state.
    pub decode: fn(&StoredState) -> Result<ActorState, StepFault>,
    /// What its state looks like.
    pub types: StateTypes,
    /// Writes its state.
    pub encode: fn(&ActorState) -> Result<StateBytes, StepFault>,
    /// Makes a state of this version of an older one.
    pub migrate: Option<fn(StoredState) -> Result<ActorState, StepFault>>,
    /// Where it was written.
    pub file: &'static str,
    /// Where it was written.
    pub line: u32,
}

impl ActorDef {
    pub(super) fn method(&self, name: &str) -> Option<&'static MethodDef> {
        // The methods of a static are static.
        self.methods.iter().find(|method| method.name == name)
    }
}

/// What the state of an actor is, as generated code knows it.
#[derive(Debug)]
#[doc(hidden)]
pub struct StateTypes {
    shape: fn() -> Shape,
    /// Found out once, when the first state is written.
    known: OnceLock<Readable>,
}

impl StateTypes {
    /// What generated code says.
    #[must_use]
    pub const fn new(shape: fn() -> Shape) -> Self {
        Self {
            shape,
            known: OnceLock::new(),
        }
    }

    pub(super) fn known(&self) -> &Readable {
        self.known.get_or_init(|| Readable::new((self.shape)()))
    }
}

/// A method of an actor.
#[derive(Debug)]
#[doc(hidden)]
pub struct MethodDef {
    /// The name that stored calls find it by.
    pub name: &'static str,
    /// Whether the actor takes no other call before the workflow that it returns has ended.
    pub exclusive: bool,
    /// Its code.
    pub body: MethodBody,
    /// A step that makes the call. Its parameters are the actor's id, then those of the method; its options are the method's.
    pub step: &'static StepDef,
}

/// The code of a method.
#[derive(Clone, Copy)]
#[doc(hidden)]
pub enum MethodBody {
    /// It takes `&mut self`.
    Write(for<'a> fn(&'a mut ActorState, StepInput) -> BoxFuture<'a, StepResult>),
    /// It takes `&self`.
    Read(for<'a> fn(&'a ActorState, StepInput) -> BoxFuture<'a, StepResult>),
}

impl fmt::Debug for MethodBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write(_) => "Write",
            Self::Read(_) => "Read",
        })
    }
}

/// The state of an actor in memory.
#[doc(hidden)]
pub struct ActorState(Box<dyn Any + Send + Sync>);

impl ActorState {
    /// Takes a state.
    pub fn new<A: Send + Sync + 'static>(state: A) -> Self {
        Self(Box::new(state))
    }

    /// The state.
    ///
    /// # Panics
    /// If it is of another type, which generated code does not ask for.
    #[must_use]
    pub fn get<A: 'static>(&self) -> &A {
        match self.0.downcast_ref() {
            Some(state) => state,
            None => unreachable!("the state of an actor is of its type"),
        }
    }

    /// The state, to change it.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub fn get_mut<A: 'static>(&mut self) -> &mut A {
        match self.0.downcast_mut() {
            Some(state) => state,
            None => unreachable!("the state of an actor is of its type"),
        }
    }
}

impl fmt::Debug for ActorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActorState")
    }
}

/// The state of an actor as an earlier version of the program stored it: what a `migrate` function is given.
///
/// ```
/// use keepstep_core::{Result, StoredState};
///
/// # #[derive(serde::Deserialize)]
/// struct Old { cents: u64 }
/// struct Account { micros: u64 }
///
/// fn migrate(old: StoredState) -> Result<Account> {
///     let old: Old = old.decode()?;
///     Ok(Account { micros: old.cents * 10_000 })
/// }
/// ```
#[derive(Debug, Clone)]
pub struct StoredState {
    pub(super) version: u32,
    pub(super) value: Value,
}

impl StoredState {
    /// The version that stored it.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The state, as a type that it decodes as.
    ///
    /// # Errors
    /// [`Error::Undecodable`] if it is not such a value.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        self.value.decode().map_err(|error| Error::Undecodable {
            what: format!("the state of an actor (version {})", self.version),
            type_name: std::any::type_name::<T>(),
            field: error.field,
            message: error.message,
        })
    }
}

/// An encoded state, and what in it may not be readable.
#[derive(Debug)]
#[doc(hidden)]
pub struct StateBytes(pub(super) Value, pub(super) Doubts);

/// Reads a state of the type that the program has now.
#[doc(hidden)]
pub fn decode_state<A: DeserializeOwned + Send + Sync + 'static>(
    stored: &StoredState,
) -> Result<ActorState, StepFault> {
    let undecodable = |error: DecodeError| {
        let param = "self";
        StepFault(Fault::Undecodable { param, error })
    };
    let state: A = stored.value.decode().map_err(undecodable)?;
    Ok(ActorState::new(state))
}

/// Writes a state.
#[doc(hidden)]
pub fn encode_state<A: Serialize + 'static>(state: &ActorState) -> Result<StateBytes, StepFault> {
    let encoded = Value::encode_with(state.get::<A>(), Codec::MessagePack);
    encoded
        .map(|(value, doubts)| StateBytes(value, doubts))
        .map_err(|EncodeError(message)| StepFault(Fault::Unencodable { message }))
}

/// Makes a state of an older one with the user's function.
#[doc(hidden)]
pub fn migrate_state<A: Send + Sync + 'static, E: Failure<M>, M>(
    migrate: impl FnOnce(StoredState) -> Result<A, E>,
    stored: StoredState,
) -> Result<ActorState, StepFault> {
    migrate(stored)
        .map(ActorState::new)
        .map_err(crate::step::fault)
}

/// An actor that the linker collects.
#[derive(Debug)]
#[doc(hidden)]
pub struct RegisteredActor(pub &'static ActorDef);

inventory::collect!(RegisteredActor);

/// Every actor of the program, by name.
pub(crate) fn actors() -> Result<&'static FxHashMap<&'static str, &'static ActorDef>> {
    static ACTORS: OnceLock<Result<FxHashMap<&'static str, &'static ActorDef>>> = OnceLock::new();
    ACTORS.get_or_init(collect).as_ref().map_err(Clone::clone)
}

fn collect() -> Result<FxHashMap<&'static str, &'static ActorDef>> {
    let mut by_name = FxHashMap::default();
    for RegisteredActor(actor) in inventory::iter::<RegisteredActor>() {
        if let Some(other) = by_name.insert(actor.name, *actor)
            && !std::ptr::eq::<ActorDef>(other, *actor)
        {
            let mut places = [other, *actor].map(|actor| format!("{}:{}", actor.file, actor.line));
            places.sort();
            let [first, second] = places;
            return Err(Error::DuplicateActor {
                name: actor.name.into(),
                first,
                second,
            });
        }
    }
    Ok(by_name)
}
