//! Objects: large values that are stored once and passed by reference.
//!
//! An object is a blob under the address of its content. A reference is a small value; where one stands in a value that is
//! stored, the object's address is listed before that value, so that the store knows which runs name which objects without
//! knowing the value's type.

mod address;
mod cache;
mod keep;
mod objects;
mod pending;
mod pins;
mod scope;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

use keepstep_storage::BlobId;
use serde::de::{self, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::AsyncRead;

use self::address::{Address, Kind};
use self::objects::Object;
use self::pending::Pending;
use crate::actor::current_engine;
use crate::engine::{Engine, default_engine};
use crate::error::Result;
use crate::step::{Failure, Fault, StepFault, StepValue};

pub(crate) use keep::{MAX_INLINE_BYTES, Unkept};
pub(crate) use objects::Objects;
pub(crate) use pins::Pins;
pub(crate) use scope::{decoding, noting, reading_again};

/// A large value that is stored once, and passed by reference: in arguments and results of steps, in events, in the state of
/// actors, nested in any way in other values.
///
/// [`put`] makes one, [`get`](Self::get) gives the value, which all readers of a process share. Of the type
/// [`Bytes`](bytes::Bytes) it is not even copied: in a directory its file is mapped into memory. A run names the objects that
/// its values refer to, and they stay as long as one run does, or as a reference is in memory; [`Engine::maintain`] removes the
/// others.
///
/// ```
/// # mod keepstep { pub use keepstep_core::*; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> keepstep::Result<()> {
/// use keepstep::{Engine, ObjectRef, Workflow};
///
/// let engine = Engine::open("memory:").await?;
/// let numbers: ObjectRef<Vec<f64>> = engine.put(&vec![0.5; 100_000]).await?;
/// let same = engine.run("numbers", Workflow::value(numbers.clone())).await?;
/// assert_eq!(same, numbers);
/// assert_eq!(same.get().await?.len(), 100_000);
/// # engine.shutdown().await
/// # }
/// ```
///
/// References compare by what they are to. One to work that was [begun](Self::spawn) is equal to its clones only.
///
/// Where serde writes one, it is a text with the address of the object. Outside of an engine, such as in JSON that your program
/// writes, that text keeps nothing from being removed.
pub struct ObjectRef<T> {
    target: Arc<Target>,
    of: PhantomData<fn() -> T>,
}

/// What a reference is to.
#[derive(Debug)]
enum Target {
    Stored(Object),
    Pending(Pending),
}

/// A reference in a value that is being encoded.
#[derive(Debug, Clone)]
pub(crate) struct Reference(Arc<Target>);

impl Target {
    async fn object(&self) -> Result<Object, Fault> {
        match self {
            Self::Stored(object) => Ok(object.clone()),
            Self::Pending(pending) => pending.object().await,
        }
    }
}

/// The objects of the engine whose step or method this code runs in, else of the default one.
async fn default_objects() -> Result<Arc<Objects>> {
    Ok(match current_engine() {
        Some(shared) => Arc::clone(&shared.objects),
        None => Arc::clone(&default_engine().await?.shared().objects),
    })
}

/// Stores a value as an object: in the store of the engine whose step or actor this code runs in, outside of one in that of the
/// default engine. It is durable when this returns.
///
/// The same value again is the same object, and is not written again. An object that no run comes to name is removed by
/// [`Engine::maintain`] once no reference to it is in memory: so what a failed attempt of a step had put is garbage, not a leak.
///
/// ```
/// # mod keepstep { pub use keepstep_core::*; }
/// use keepstep::{ObjectRef, Result, put};
///
/// async fn load(path: &str) -> Result<ObjectRef<Vec<String>>> {
///     let lines = std::fs::read_to_string(path).unwrap_or_default();
///     put(&lines.lines().map(str::to_owned).collect()).await
/// }
/// ```
///
/// # Errors
/// [`Error::Unencodable`](crate::Error::Unencodable), [`Error::Storage`](crate::Error::Storage), and those of opening the default engine.
pub async fn put<T: StepValue + Sync>(value: &T) -> Result<ObjectRef<T>> {
    let objects = default_objects().await?;
    Ok(ObjectRef::stored(objects.put(value).await?))
}

/// Stores what a reader gives as an object of bytes, without having it in memory as a whole: as [`put`] does of `Bytes`.
///
/// # Errors
/// As [`put`]; a failure of the reader is an [`Error::Storage`](crate::Error::Storage) of reading.
pub async fn put_reader(
    mut reader: impl AsyncRead + Send + Unpin,
) -> Result<ObjectRef<bytes::Bytes>> {
    let objects = default_objects().await?;
    Ok(ObjectRef::stored(objects.put_reader(&mut reader).await?))
}

impl Engine {
    /// Stores a value as an object in this engine's store: see [`put`].
    ///
    /// # Errors
    /// [`Error::Unencodable`](crate::Error::Unencodable), [`Error::Storage`](crate::Error::Storage).
    pub async fn put<T: StepValue + Sync>(&self, value: &T) -> Result<ObjectRef<T>> {
        self.shared().check_runtime()?;
        Ok(ObjectRef::stored(self.shared().objects.put(value).await?))
    }

    /// Stores what a reader gives as an object in this engine's store: see [`put_reader`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep_core::Result<()> {
    /// use tokio::io::AsyncReadExt;
    ///
    /// let engine = keepstep_core::Engine::open("memory:").await?;
    /// let object = engine.put_reader(&b"any reader"[..]).await?;
    /// assert_eq!(&object.get().await?[..], b"any reader");
    ///
    /// let mut text = String::new();
    /// object.reader().await?.read_to_string(&mut text).await.unwrap();
    /// assert_eq!(text, "any reader");
    /// # engine.shutdown().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Storage`](crate::Error::Storage), also if the reader fails.
    pub async fn put_reader(
        &self,
        mut reader: impl AsyncRead + Send + Unpin,
    ) -> Result<ObjectRef<bytes::Bytes>> {
        self.shared().check_runtime()?;
        let objects = &self.shared().objects;
        Ok(ObjectRef::stored(objects.put_reader(&mut reader).await?))
    }
}

impl<T: StepValue + Sync> ObjectRef<T> {
    /// The value. It is read and decoded once for all who have it, and for a while after that (see
    /// [`EngineBuilder::object_cache`](crate::EngineBuilder::object_cache)); what is read is checked against its address. Of work
    /// under way, this waits for it.
    ///
    /// # Errors
    /// [`Error::Storage`](crate::Error::Storage) if the object is missing or damaged, or cannot be read. [`Error::Undecodable`](crate::Error::Undecodable) if it is not a `T`.
    /// [`Error::SpawnFailed`](crate::Error::SpawnFailed) if the work that was to make it failed. [`Error::ShutDown`](crate::Error::ShutDown) if its engine is gone.
    pub async fn get(&self) -> Result<Arc<T>> {
        let object = self.target.object().await.map_err(pending::error_of)?;
        let objects = object.objects().await?;
        objects.get(object.address).await
    }

    /// Begins work whose result is to be an object, as a task of its own, and returns a reference to what it will be. The work runs in
    /// the context of the step it was begun in: [`put`] and [`context`](crate::context) work inside.
    ///
    /// The reference can be returned at once, alone or among others. A step's result that has references to work under way is
    /// stored when all of it is done: within the step's time-out. The work is stopped when the step is canceled, and when
    /// nothing refers to it any more. A panic of the work is a failure of the step that returns the reference, which is tried
    /// again as a whole. Of work that may fail, [`try_spawn`](Self::try_spawn) tells.
    ///
    /// ```
    /// # mod keepstep { pub use keepstep_core::*; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> keepstep::Result<()> {
    /// use keepstep::{Engine, ObjectRef, Workflow};
    ///
    /// let engine = Engine::open("memory:").await?;
    /// # let put = engine.put(&0).await?;
    /// # let _in_this_engine = keepstep::try_init(engine.clone());
    /// let hello = ObjectRef::spawn(async { "hello".to_string() });
    /// let hello = engine.run("hello", Workflow::value(hello)).await?;
    /// assert_eq!(*hello.get().await?, "hello");
    /// # engine.shutdown().await
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self::pending(async move { Ok(work.await) })
    }

    /// As [`spawn`](Self::spawn), of work that may fail: its error is a failure of the step that returns the reference, as if the
    /// step had returned the error.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn try_spawn<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Self {
        Self::pending(async move { work.await.map_err(|error| fault(error.into())) })
    }

    fn pending(work: impl Future<Output = Result<T, StepFault>> + Send + 'static) -> Self {
        Self::of(Target::Pending(Pending::begin(work)))
    }
}

fn fault(error: Box<dyn std::error::Error + Send + Sync>) -> StepFault {
    crate::step::fault(Failure::into_error(error))
}

impl ObjectRef<bytes::Bytes> {
    /// The bytes as a stream, for an object that is larger than memory. They are checked against the object's address while they are
    /// read: if they are something else, there is an error of the kind
    /// [`InvalidData`](std::io::ErrorKind::InvalidData) in the place of the last of them, and what came before must not be used. The
    /// reader keeps the object from being removed.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn reader(&self) -> Result<impl AsyncRead + Send + Unpin + 'static> {
        let object = self.target.object().await.map_err(pending::error_of)?;
        if object.address.kind != Kind::Bytes {
            let message = "it is a value of another type, which has no plain bytes";
            return Err(objects::undecodable::<bytes::Bytes>(
                object.address,
                message,
            ));
        }
        object.objects().await?.reader(object.address).await
    }
}

impl<T> ObjectRef<T> {
    fn stored(object: Object) -> Self {
        Self::of(Target::Stored(object))
    }

    fn of(target: Target) -> Self {
        Self {
            target: Arc::new(target),
            of: PhantomData,
        }
    }

    /// The address of the object: the BLAKE3 hash of its bytes. `None` for work under way.
    #[must_use]
    pub fn address(&self) -> Option<BlobId> {
        self.ready().map(|address| address.blob)
    }

    /// How many bytes the object has as it is stored. `None` for work under way.
    #[must_use]
    pub fn stored_len(&self) -> Option<u64> {
        self.ready().map(|address| address.len)
    }

    fn ready(&self) -> Option<Address> {
        match &*self.target {
            Target::Stored(object) => Some(object.address),
            Target::Pending(pending) => pending.ready().map(|object| object.address),
        }
    }

    /// What it is compared by, which never changes.
    fn identity(&self) -> Address {
        match &*self.target {
            Target::Stored(object) => object.address,
            Target::Pending(pending) => pending.stand_in(),
        }
    }
}

impl<T> Clone for ObjectRef<T> {
    fn clone(&self) -> Self {
        Self {
            target: Arc::clone(&self.target),
            of: PhantomData,
        }
    }
}

impl<T> PartialEq for ObjectRef<T> {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl<T> Eq for ObjectRef<T> {}

impl<T> Hash for ObjectRef<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl<T> fmt::Debug for ObjectRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let type_name = std::any::type_name::<T>();
        match self.ready() {
            Some(Address { blob, len, .. }) => {
                write!(f, "ObjectRef<{type_name}>({blob}, {len} bytes)")
            }
            None => write!(f, "ObjectRef<{type_name}>(under way)"),
        }
    }
}

impl<T> Serialize for ObjectRef<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_noted = scope::note(&self.target);
        match (&*self.target, self.ready()) {
            (Target::Pending(_), _) if is_noted => serializer.collect_str(&self.identity()),
            (_, Some(address)) => serializer.collect_str(&address),
            (_, None) => Err(S::Error::custom(
                "a reference to work under way can be stored by an engine only; await its `get` first",
            )),
        }
    }
}

impl<'de, T> Deserialize<'de> for ObjectRef<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Address;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a reference to an object")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Address, E> {
                Address::parse(text)
                    .or_else(|| Address::parse_pending(text).filter(|_| scope::is_reading_again()))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        let address = deserializer.deserialize_str(Text)?;
        Ok(Self::stored(Object::decoded(address)))
    }
}
