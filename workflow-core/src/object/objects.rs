//! The objects of an engine: putting, getting, and what a reference knows of them.

use std::any::Any;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use keepstep_storage::{BlobId, BlobReader, Storage, StorageError};
use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::StepValue;
use super::address::{Address, Kind};
use super::cache::{Cache, Keep};
use super::pins::Pins;
use crate::error::{Error, Result};
use crate::source::{DecodeError, Source};
use crate::value::{Value, names_at};

/// A longer object is decoded where it keeps no other task waiting.
const LONG: u64 = 1 << 20;
/// Of how many objects it is remembered which ones they name.
const REMEMBERED: usize = 4096;

/// The objects of an engine.
pub(crate) struct Objects {
    storage: Arc<dyn Storage>,
    cache: Cache,
    /// Which objects an object has references to.
    nests: Mutex<FxHashMap<BlobId, Arc<[BlobId]>>>,
    /// Whether references keep it: it is gone with its engine otherwise.
    is_kept_by_references: bool,
}

/// An object that is stored, as a reference knows it.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) address: Address,
    home: Option<Home>,
    /// Keep it, and what it has references to, from being swept.
    pub(super) pins: Vec<Arc<Pins>>,
}

/// Where an object is.
#[derive(Debug, Clone)]
struct Home {
    objects: Weak<Objects>,
    _keeps: Option<Arc<Objects>>,
}

impl Home {
    fn of(objects: &Arc<Objects>) -> Self {
        Self {
            objects: Arc::downgrade(objects),
            _keeps: objects.is_kept_by_references.then(|| Arc::clone(objects)),
        }
    }
}

impl Object {
    /// An object that a decoded reference is to; of unknown home outside of an engine.
    pub(super) fn decoded(address: Address) -> Self {
        let (home, pins) = match super::scope::current() {
            Some(scope) => (Some(Home::of(&scope.objects)), scope.pins),
            None => (None, None),
        };
        Self {
            address,
            home,
            pins: pins.into_iter().collect(),
        }
    }

    pub(super) async fn objects(&self) -> Result<Arc<Objects>> {
        match &self.home {
            Some(home) => home.objects.upgrade().ok_or(Error::ShutDown),
            None => super::default_objects().await,
        }
    }
}

impl Objects {
    /// The objects of a store; decoded ones of so many bytes are kept in memory.
    pub(crate) fn new(storage: Arc<dyn Storage>, cache: u64, is_kept_by_references: bool) -> Self {
        Self {
            storage,
            cache: Cache::new(cache),
            nests: Mutex::default(),
            is_kept_by_references,
        }
    }

    /// What a store says whose commit was refused because of an object.
    pub(crate) fn missing(&self, object: BlobId) -> StorageError {
        StorageError::Corrupt {
            location: self.storage.describe().location,
            what: format!("object {object}, which a run is to name, is not there"),
        }
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Keeps nothing in memory any more: what is kept may have references, which lead back here.
    pub(crate) fn close(&self) {
        self.cache.close();
    }

    /// Lets go of what would keep objects from being swept.
    pub(crate) fn let_go(&self) {
        self.cache.forget_nests();
    }

    /// Stores a value as an object.
    pub(super) async fn put<T: StepValue + Sync>(self: &Arc<Self>, value: &T) -> Result<Object> {
        if let Some(bytes) = (value as &dyn Any).downcast_ref::<Bytes>() {
            return self.put_bytes(bytes.clone(), Kind::Bytes, Vec::new()).await;
        }
        let encoded = Value::encode_typed(value);
        let encoded = encoded.map_err(|error| Error::Unencodable {
            step: "put".to_owned(),
            param: "value".to_owned(),
            message: error.to_string(),
        })?;
        let value = self.settle(encoded).await?;
        let kind = match names_at(value.as_bytes()).is_empty() {
            true => Kind::Value,
            false => Kind::Nest,
        };
        self.put_bytes(value.to_bytes(), kind, value.pins().to_vec())
            .await
    }

    async fn put_bytes(
        self: &Arc<Self>,
        bytes: Bytes,
        kind: Kind,
        mut pins: Vec<Arc<Pins>>,
    ) -> Result<Object> {
        let len = bytes.len() as u64;
        let blob = self.storage.put_blob(bytes).await?;
        pins.push(Pins::of_pinned(&self.storage, vec![blob]));
        Ok(self.object(Address { kind, blob, len }, pins))
    }

    /// Stores what a reader gives as an object of bytes.
    pub(super) async fn put_reader(
        self: &Arc<Self>,
        reader: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<Object> {
        let (blob, len) = self.storage.put_blob_from(reader).await?;
        let pins = vec![Pins::of_pinned(&self.storage, vec![blob])];
        let kind = Kind::Bytes;
        Ok(self.object(Address { kind, blob, len }, pins))
    }

    fn object(self: &Arc<Self>, address: Address, pins: Vec<Arc<Pins>>) -> Object {
        Object {
            address,
            home: Some(Home::of(self)),
            pins,
        }
    }

    /// An object, decoded.
    pub(super) async fn get<T: StepValue + Sync>(
        self: &Arc<Self>,
        address: Address,
    ) -> Result<Arc<T>> {
        let is_bytes = address.kind == Kind::Bytes;
        let is_free = is_bytes && self.storage.maps_blobs();
        let keep = Keep {
            // What is mapped takes no memory, and would keep a removed file on the disk.
            bytes: (!is_free).then_some(address.len),
            is_nest: address.kind == Kind::Nest,
        };
        let getting = self.cache.get(address.blob, keep, async {
            let bytes = self.storage.blob(&address.blob).await?;
            if !is_bytes {
                return self.decode::<T>(address, bytes).await;
            }
            let bytes: Arc<dyn Any + Send + Sync> = Arc::new(bytes);
            let wrong = || undecodable::<T>(address, "it is one of bytes: `ObjectRef<Bytes>`");
            bytes.downcast::<T>().map_err(|_| wrong())
        });
        // Every reader's future would have the size of this one.
        Box::pin(getting).await
    }

    async fn decode<T: StepValue + Sync>(
        self: &Arc<Self>,
        address: Address,
        bytes: Bytes,
    ) -> Result<Arc<T>> {
        let objects = Arc::clone(self);
        let decode = move || {
            let source = Source::Value(Value::of_bytes(bytes));
            source.decode_in::<T>(&objects).map(Arc::new)
        };
        let decoded = if address.len > LONG {
            match tokio::task::spawn_blocking(decode).await {
                Ok(decoded) => decoded,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Err(Error::ShutDown),
                },
            }
        } else {
            decode()
        };
        decoded.map_err(|DecodeError { field, message }| Error::Undecodable {
            what: format!("object {}", address.blob),
            type_name: std::any::type_name::<T>(),
            field,
            message,
        })
    }

    /// The bytes of an object of bytes, as a stream, which keeps the object.
    pub(super) async fn reader(&self, address: Address) -> Result<ObjectReader> {
        let pins = Pins::new(&self.storage, vec![address.blob]);
        let bytes = self.storage.blob_reader(&address.blob).await?;
        Ok(ObjectReader { bytes, _pins: pins })
    }

    /// The objects that an object has references to, in whatever depth.
    pub(super) async fn nested_in(&self, blob: BlobId) -> Result<Arc<[BlobId]>, StorageError> {
        let known = self.nests().get(&blob).cloned();
        if let Some(nested) = known {
            return Ok(nested);
        }
        let mut reader = self.storage.blob_reader(&blob).await?;
        let broken = |error| StorageError::Io {
            operation: "read",
            path: format!("blob {blob}").into(),
            source: Arc::new(error),
        };
        let mut header = vec![0; 5];
        reader.read_exact(&mut header).await.map_err(broken)?;
        let len = crate::value::header_len(&header);
        let mut rest = reader.take((len.saturating_sub(header.len())) as u64);
        rest.read_to_end(&mut header).await.map_err(broken)?;
        let nested: Arc<[BlobId]> = names_at(&header).into();
        let mut nests = self.nests();
        if nests.len() >= REMEMBERED {
            nests.clear();
        }
        nests.insert(blob, Arc::clone(&nested));
        Ok(nested)
    }

    fn nests(&self) -> std::sync::MutexGuard<'_, FxHashMap<BlobId, Arc<[BlobId]>>> {
        self.nests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream of an object, which stays until this is dropped.
pub(super) struct ObjectReader {
    bytes: BlobReader,
    _pins: Arc<Pins>,
}

impl AsyncRead for ObjectReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(cx, buf)
    }
}

pub(super) fn undecodable<T>(address: Address, message: &str) -> Error {
    Error::Undecodable {
        what: format!("object {}", address.blob),
        type_name: std::any::type_name::<T>(),
        field: String::new(),
        message: message.to_owned(),
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("storage", &self.storage.describe())
            .finish_non_exhaustive()
    }
}
