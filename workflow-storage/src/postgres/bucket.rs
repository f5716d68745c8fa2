//! Blobs in a bucket beside the database: the row of each says which object it is.
//!
//! Every upload is an object of its own, `prefix/ab/cdef…-random`. So a blob that is removed by one process and stored again by
//! another is another object, and neither disturbs the other; and no two processes have to agree on who uploads.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::commit::random_id;
use crate::blobs::bucket::{ABANDONED_AFTER, PART, Streamed, failed, now};
use crate::blobs::{Verified, damaged};
use crate::{BlobId, BlobReader, Blobs, Result, StorageError};

/// Of how many objects the database is asked at a time.
const STRAYS_AT_ONCE: usize = 1_000;

#[derive(Debug)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Bucket {
    /// The bucket of these blobs, if they are in one.
    pub(super) fn of(blobs: Blobs) -> Option<Self> {
        let (store, prefix) = blobs.into_bucket()?;
        Some(Self { store, prefix })
    }

    /// What the store notes of where its blobs are. The bucket itself has other names and keys in other processes.
    pub(super) fn describe(&self) -> String {
        format!("a bucket under {:?}", self.prefix.as_ref())
    }

    fn path(&self, place: &str) -> Path {
        self.prefix
            .parts()
            .chain(Path::from(place).parts())
            .collect()
    }

    /// The name of a new object of a blob.
    fn place(name: &str) -> String {
        format!("{}/{}-{:016x}", &name[..2], &name[2..], random_id())
    }

    /// Uploads bytes; the name of the object.
    pub(super) async fn put(&self, id: &BlobId, bytes: Bytes) -> Result<String> {
        let place = Self::place(&id.to_string());
        let path = self.path(&place);
        let put = async {
            if bytes.len() <= PART {
                return self.store.put(&path, bytes.into()).await.map(drop);
            }
            let mut upload = Upload::begin(&*self.store, &path).await?;
            for at in (0..bytes.len()).step_by(PART) {
                let end = bytes.len().min(at + PART);
                upload.part(bytes.slice(at..end)).await?;
            }
            upload.complete().await
        };
        put.await.map_err(|error| failed("write a blob", error))?;
        Ok(place)
    }

    /// Uploads what a reader gives; what it is, how many bytes, and the name of the object.
    pub(super) async fn put_stream(
        &self,
        reader: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(BlobId, u64, String)> {
        // What it is is known at the end.
        let place = Self::place("streamed");
        let path = self.path(&place);
        let error = |error| failed("write a blob", error);
        let mut upload = Upload::begin(&*self.store, &path).await.map_err(error)?;
        let mut hasher = blake3::Hasher::new();
        let mut size = 0;
        loop {
            let mut part = BytesMut::with_capacity(PART);
            while part.len() < PART {
                let mut rest = (&mut *reader).take((PART - part.len()) as u64);
                let read = rest.read_buf(&mut part).await;
                let error = |error| StorageError::io("read", "what is to be stored", error);
                if read.map_err(error)? == 0 {
                    break;
                }
            }
            if part.is_empty() {
                break;
            }
            hasher.update(&part);
            size += part.len() as u64;
            upload.part(part.freeze()).await.map_err(error)?;
        }
        upload.complete().await.map_err(error)?;
        Ok((BlobId(*hasher.finalize().as_bytes()), size, place))
    }

    pub(super) async fn get(&self, id: &BlobId, place: &str) -> Result<Bytes> {
        let got = async { self.store.get(&self.path(place)).await?.bytes().await };
        got.await.map_err(|error| self.not_read(id, error))
    }

    pub(super) async fn reader(&self, id: &BlobId, place: &str) -> Result<BlobReader> {
        let got = self.store.get(&self.path(place)).await;
        let got = got.map_err(|error| self.not_read(id, error))?;
        let len = got.meta.size;
        let reader = Streamed::new(got.into_stream());
        let location = self.describe();
        Ok(Box::new(Verified::new(reader, *id, len, location, || ())))
    }

    pub(super) fn damaged(&self, id: &BlobId) -> StorageError {
        damaged(self.describe(), id)
    }

    fn not_read(&self, id: &BlobId, error: object_store::Error) -> StorageError {
        match error {
            object_store::Error::NotFound { .. } => StorageError::Corrupt {
                location: self.describe(),
                what: format!("blob {id} is missing"),
            },
            error => failed("read a blob", error),
        }
    }

    /// Removes objects. One that is not there is as good as removed.
    pub(super) async fn remove(&self, places: &[String]) -> Result<()> {
        for place in places {
            match self.store.delete(&self.path(place)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed("remove a blob", error)),
            }
        }
        Ok(())
    }

    /// Names of objects that have been there for a while, some at a time, for the caller to say which of them no row names, and
    /// which are removed then: uploads that a crash cut off from their row.
    pub(super) async fn remove_strays<F: Future<Output = Result<Vec<String>>>>(
        &self,
        mut strays_of: impl FnMut(Vec<String>) -> F,
    ) -> Result<()> {
        let before = now().saturating_sub(ABANDONED_AFTER).as_secs();
        let old = self.store.list(Some(&self.prefix)).filter_map(|listed| {
            let place = match listed {
                Ok(meta) if meta.last_modified.timestamp() < before.cast_signed() => {
                    let rest = meta.location.prefix_match(&self.prefix);
                    rest.map(|parts| Ok(parts.collect::<Path>().to_string()))
                }
                Ok(_) => None,
                Err(error) => Some(Err(failed("list blobs", error))),
            };
            std::future::ready(place)
        });
        let mut old = std::pin::pin!(old.chunks(STRAYS_AT_ONCE));
        while let Some(places) = old.next().await {
            let strays = strays_of(places.into_iter().collect::<Result<_>>()?).await?;
            self.remove(&strays).await?;
        }
        Ok(())
    }
}

/// An upload under way; given up when dropped.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Upload {
    async fn begin(store: &dyn ObjectStore, path: &Path) -> object_store::Result<Self> {
        Ok(Self(Some(store.put_multipart(path).await?)))
    }

    async fn part(&mut self, bytes: Bytes) -> object_store::Result<()> {
        match &mut self.0 {
            Some(upload) => upload.put_part(bytes.into()).await,
            None => Ok(()),
        }
    }

    async fn complete(mut self) -> object_store::Result<()> {
        if let Some(upload) = &mut self.0 {
            upload.complete().await?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) =
            (self.0.take(), tokio::runtime::Handle::try_current())
        {
            // Where it cannot be given up, the bucket's own rules for such uploads end it.
            drop(runtime.spawn(async move { upload.abort().await }));
        }
    }
}
