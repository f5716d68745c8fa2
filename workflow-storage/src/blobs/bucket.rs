//! Blobs in a bucket: objects `prefix/ab/cdef…`, named by the address in hexadecimal digits.
//!
//! Calls wait for the network, on threads that may. What a commit asks is answered from memory, so commits do not.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Handle;

use super::files::parse;
use super::{Place, Verified};
use crate::{BlobId, BlobReader, Blobs, Result, StorageError};

/// How much is uploaded at a time: the least that S3 takes is 5 MiB.
pub(crate) const PART: usize = 8 << 20;
/// An upload that has not become a blob for so long is one that a crash cut short.
pub(crate) const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Keeps blobs in a bucket: any store of the crate [`object_store`].
///
/// The journal and all else stay in the store that it is given to. A blob is as durable as the bucket makes it before a run
/// names it. One prefix of a bucket belongs to one store: [`Storage::maintain`](crate::Storage::maintain) removes what
/// that store does not know of. A store in PostgreSQL may be open in many processes, each of which names the bucket.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use keepstep_storage::{ObjectStoreBlobs, open_with_blobs};
/// use object_store::memory::InMemory;
///
/// let bucket = Arc::new(InMemory::new());      // or of `object_store::aws`, `gcp`, `azure`, …
/// let store = open_with_blobs("memory:", ObjectStoreBlobs::new(bucket, "runs").into()).await?;
/// let id = store.put_blob("large".into()).await?;
/// assert_eq!(store.blob(&id).await?, "large");
/// # Ok::<(), keepstep_storage::StorageError>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct ObjectStoreBlobs(Bucket);

impl ObjectStoreBlobs {
    /// Blobs under a prefix of a bucket.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, prefix: impl AsRef<str>) -> Self {
        Self(Bucket {
            store,
            prefix: Path::from(prefix.as_ref()),
            // Uploads of processes that ran before may still be there.
            next_upload: AtomicU64::new(
                u64::from(std::process::id()) << 32 | u64::from(now().subsec_nanos()),
            ),
            known: Mutex::default(),
        })
    }
}

impl From<ObjectStoreBlobs> for Blobs {
    fn from(ObjectStoreBlobs(bucket): ObjectStoreBlobs) -> Self {
        Self::new(Place::Bucket(bucket))
    }
}

pub(crate) fn now() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}

pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    next_upload: AtomicU64,
    /// Blobs that are there, because this process put them or looked.
    known: Mutex<HashSet<BlobId>>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} under {:?}", self.store, self.prefix.as_ref())
    }
}

/// An upload under way; given up when dropped.
pub(super) struct Upload {
    upload: Option<Box<dyn MultipartUpload>>,
    path: Path,
    part: Vec<u8>,
}

impl Upload {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let Some(upload) = &mut self.upload else {
            return Ok(());
        };
        let part = std::mem::take(&mut self.part);
        wait(upload.put_part(part.into())).map_err(|error| failed("write a blob", error))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.upload.take(), Handle::try_current()) {
            // Where it cannot be given up, it is removed as one that a crash cut short.
            drop(runtime.spawn(async move { upload.abort().await }));
        }
    }
}

/// Waits on a thread that may block, of a runtime.
fn wait<F: Future>(call: F) -> F::Output {
    Handle::current().block_on(call)
}

pub(crate) fn failed(operation: &'static str, source: object_store::Error) -> StorageError {
    StorageError::Backend {
        backend: "object_store",
        operation,
        source: Arc::new(source),
    }
}

impl Bucket {
    #[cfg(feature = "postgres")]
    pub(super) fn into_parts(self) -> (Arc<dyn ObjectStore>, Path) {
        (self.store, self.prefix)
    }

    pub(super) fn put(&self, id: &BlobId, bytes: Bytes) -> Result<()> {
        // One that is there and as long is not uploaded again; what it is, is checked when it is read.
        if self.is_known(id) || self.len(id)? == Some(bytes.len() as u64) {
            return Ok(());
        }
        let put = wait(self.store.put(&self.path(id), bytes.into()));
        put.map_err(|error| failed("write a blob", error))?;
        self.known().insert(*id);
        Ok(())
    }

    pub(super) fn begin(&self) -> Result<Upload> {
        let number = self.next_upload.fetch_add(1, Ordering::Relaxed);
        let path = self
            .prefix
            .clone()
            .join("tmp")
            .join(format!("{number:016x}"));
        let upload = wait(self.store.put_multipart(&path));
        Ok(Upload {
            upload: Some(upload.map_err(|error| failed("begin to write a blob", error))?),
            path,
            part: Vec::new(),
        })
    }

    /// An object gets the name of its content when that is known: it is copied within the bucket.
    pub(super) fn finish(&self, id: &BlobId, mut upload: Upload) -> Result<()> {
        if self.is_known(id) {
            return Ok(());
        }
        if !upload.part.is_empty() {
            upload.send()?;
        }
        let finishing = async {
            if let Some(mut parts) = upload.upload.take() {
                parts.complete().await?;
            }
            self.store.rename(&upload.path, &self.path(id)).await
        };
        wait(finishing).map_err(|error| failed("finish a blob", error))?;
        self.known().insert(*id);
        Ok(())
    }

    pub(super) fn get(&self, id: &BlobId) -> Result<Bytes> {
        let getting = async { self.store.get(&self.path(id)).await?.bytes().await };
        let bytes = wait(getting).map_err(|error| self.not_read(id, error))?;
        if blake3::hash(&bytes).as_bytes() != &id.0 {
            return Err(super::damaged(format!("{self:?}"), id));
        }
        Ok(bytes)
    }

    pub(super) fn reader(&self, id: &BlobId) -> Result<BlobReader> {
        let got = wait(self.store.get(&self.path(id)));
        let got = got.map_err(|error| self.not_read(id, error))?;
        let len = got.meta.size;
        let reader = Streamed::new(got.into_stream());
        let location = format!("{self:?}");
        Ok(Box::new(Verified::new(reader, *id, len, location, || ())))
    }

    fn not_read(&self, id: &BlobId, error: object_store::Error) -> StorageError {
        match error {
            object_store::Error::NotFound { .. } => super::missing(format!("{self:?}"), id),
            error => failed("read a blob", error),
        }
    }

    pub(super) fn len(&self, id: &BlobId) -> Result<Option<u64>> {
        match wait(self.store.head(&self.path(id))) {
            Ok(meta) => {
                self.known().insert(*id);
                Ok(Some(meta.size))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("look for a blob", error)),
        }
    }

    /// Whether this process knows that a blob is there. One that is being removed is not known any more.
    pub(super) fn is_known(&self, id: &BlobId) -> bool {
        self.known().contains(id)
    }

    pub(super) fn remove(&self, id: &BlobId) -> Result<u64> {
        self.known().remove(id);
        let path = self.path(id);
        let removing = async {
            let size = self.store.head(&path).await?.size;
            self.store.delete(&path).await.map(|()| size)
        };
        match wait(removing) {
            Ok(size) => Ok(size),
            Err(object_store::Error::NotFound { .. }) => Ok(0),
            Err(error) => Err(failed("remove a blob", error)),
        }
    }

    /// Every blob. Objects of other names are left alone, but for uploads that a crash cut short, which are removed.
    pub(super) fn list(&self) -> Result<Vec<BlobId>> {
        let listing = self.store.list(Some(&self.prefix));
        let listed: Vec<ObjectMeta> =
            wait(listing.try_collect()).map_err(|error| failed("list blobs", error))?;
        let mut ids = Vec::new();
        for meta in listed {
            let names: Vec<_> = meta.location.parts().collect();
            let [.., directory, name] = &names[..] else {
                continue;
            };
            let age = now().as_secs().cast_signed() - meta.last_modified.timestamp();
            if directory.as_ref() == "tmp" && age > ABANDONED_AFTER.as_secs().cast_signed() {
                let removed = wait(self.store.delete(&meta.location));
                removed.map_err(|error| failed("remove an upload", error))?;
            }
            ids.extend(parse(&format!("{}{}", directory.as_ref(), name.as_ref())));
        }
        Ok(ids)
    }

    fn path(&self, id: &BlobId) -> Path {
        let name = id.to_string();
        self.prefix.clone().join(&name[..2]).join(&name[2..])
    }

    fn known(&self) -> MutexGuard<'_, HashSet<BlobId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes in pieces, as a reader.
pub(crate) struct Streamed {
    bytes: BoxStream<'static, object_store::Result<Bytes>>,
    at_hand: Bytes,
}

impl Streamed {
    pub(crate) fn new(bytes: BoxStream<'static, object_store::Result<Bytes>>) -> Self {
        Self {
            bytes,
            at_hand: Bytes::new(),
        }
    }
}

impl AsyncRead for Streamed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.at_hand.is_empty() {
            match ready!(Pin::new(&mut self.bytes).poll_next(cx)) {
                Some(Ok(bytes)) => self.at_hand = bytes,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = buf.remaining().min(self.at_hand.len());
        buf.put_slice(&self.at_hand.split_to(len));
        Poll::Ready(Ok(()))
    }
}
