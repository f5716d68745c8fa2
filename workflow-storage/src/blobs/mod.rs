//! Blobs: large bytes under the address of their content, written once.
//!
//! A blob is stored before any run names it, and is pinned from then on until whoever stored it unpins it, so that no
//! sweep takes it in between. Pins are this process's memory: what nobody came to name is swept after the next opening at the
//! latest.

#[cfg(feature = "object_store")]
pub(crate) mod bucket;
mod files;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod mmap;
mod pins;
mod read;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tracing::warn;

#[cfg(feature = "object_store")]
pub use self::bucket::ObjectStoreBlobs;
use self::files::{Files, NewFile};
use self::pins::Pins;
pub(crate) use self::pins::Removal;
pub(crate) use self::read::Verified;
use crate::{BlobId, BlobReader, Result, StorageError};

/// Where a store keeps its blobs: memory, files of a directory, or a bucket.
#[derive(Debug)]
pub struct Blobs {
    place: Place,
    pins: Arc<Pins>,
    /// Held by whoever removes blobs whose removal nobody waits for.
    removing: RwLock<()>,
}

enum Place {
    Memory(RwLock<HashMap<BlobId, Bytes>>),
    Files(Arc<Files>),
    #[cfg(feature = "object_store")]
    Bucket(bucket::Bucket),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(_) => f.write_str("memory"),
            Self::Files(files) => files.root().fmt(f),
            #[cfg(feature = "object_store")]
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

/// A blob that is being written a piece at a time. Dropped before it is [finished](Blobs::finish), nothing is left of it.
pub(crate) struct NewBlob {
    hasher: blake3::Hasher,
    len: u64,
    to: NewPlace,
}

enum NewPlace {
    Memory(Vec<u8>),
    File(NewFile),
    #[cfg(feature = "object_store")]
    Bucket(bucket::Upload),
}

impl NewBlob {
    /// Adds a piece.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        match &mut self.to {
            NewPlace::Memory(written) => written.extend_from_slice(bytes),
            NewPlace::File(file) => file.write(bytes)?,
            #[cfg(feature = "object_store")]
            NewPlace::Bucket(upload) => upload.write(bytes)?,
        }
        Ok(())
    }
}

impl Blobs {
    /// Blobs in memory: gone with the store.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(Place::Memory(RwLock::default()))
    }

    /// Blobs in files of a directory, which is created if it does not exist. A relative path is resolved here, once.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the directory cannot be made or read.
    pub fn in_directory(path: impl Into<PathBuf>) -> Result<Self> {
        let files = Files::open(path.into())?;
        Ok(Self::new(Place::Files(files.into())))
    }

    /// The bucket that they are in, if they are in one.
    #[cfg(all(feature = "object_store", feature = "postgres"))]
    pub(crate) fn into_bucket(
        self,
    ) -> Option<(Arc<dyn object_store::ObjectStore>, object_store::path::Path)> {
        match self.place {
            Place::Bucket(bucket) => Some(bucket.into_parts()),
            _ => None,
        }
    }

    fn new(place: Place) -> Self {
        Self {
            place,
            pins: Arc::default(),
            removing: RwLock::default(),
        }
    }

    /// Whether calls wait for something, a disk or a network.
    pub(crate) fn block(&self) -> bool {
        !matches!(self.place, Place::Memory(_))
    }

    /// Whether reading a long blob takes no memory of its own.
    pub(crate) fn are_mapped(&self) -> bool {
        matches!(self.place, Place::Files(_))
    }

    /// Stores bytes, durably where there are files, and pins them.
    pub(crate) fn put(&self, bytes: Bytes) -> Result<BlobId> {
        let id = BlobId(*blake3::hash(&bytes).as_bytes());
        // Before the look whether it is there, so that it cannot be swept in between.
        self.pins.pin_to_store(&id);
        let stored = match &self.place {
            Place::Memory(blobs) => {
                let mut blobs = blobs.write().unwrap_or_else(PoisonError::into_inner);
                blobs.entry(id).or_insert(bytes);
                Ok(())
            }
            Place::Files(files) => files.put(&id, &bytes),
            #[cfg(feature = "object_store")]
            Place::Bucket(bucket) => bucket.put(&id, bytes),
        };
        stored.inspect_err(|_| self.unpin(&id)).map(|()| id)
    }

    /// Begins to store bytes that come a piece at a time.
    pub(crate) fn begin(&self) -> Result<NewBlob> {
        Ok(NewBlob {
            hasher: blake3::Hasher::new(),
            len: 0,
            to: match &self.place {
                Place::Memory(_) => NewPlace::Memory(Vec::new()),
                Place::Files(files) => NewPlace::File(files.begin()?),
                #[cfg(feature = "object_store")]
                Place::Bucket(bucket) => NewPlace::Bucket(bucket.begin()?),
            },
        })
    }

    /// Stores what was written, as [`put`](Self::put) does. Returns its address and how many bytes it has.
    pub(crate) fn finish(&self, new: NewBlob) -> Result<(BlobId, u64)> {
        let id = BlobId(*new.hasher.finalize().as_bytes());
        self.pins.pin_to_store(&id);
        let stored = match (&self.place, new.to) {
            (Place::Memory(blobs), NewPlace::Memory(bytes)) => {
                let mut blobs = blobs.write().unwrap_or_else(PoisonError::into_inner);
                blobs.entry(id).or_insert_with(|| bytes.into());
                Ok(())
            }
            (Place::Files(files), NewPlace::File(file)) => files.finish(&id, file),
            #[cfg(feature = "object_store")]
            (Place::Bucket(bucket), NewPlace::Bucket(upload)) => bucket.finish(&id, upload),
            // It was begun in another place.
            _ => Err(missing(format!("{:?}", self.place), &id)),
        };
        let stored = stored.inspect_err(|_| self.unpin(&id));
        stored.map(|()| (id, new.len))
    }

    /// A blob's bytes, checked against its address.
    pub(crate) fn get(&self, id: &BlobId) -> Result<Bytes> {
        match &self.place {
            Place::Memory(blobs) => {
                let blobs = blobs.read().unwrap_or_else(PoisonError::into_inner);
                let bytes = blobs.get(id).cloned();
                bytes.ok_or_else(|| missing("memory".to_owned(), id))
            }
            Place::Files(files) => files.get(id),
            #[cfg(feature = "object_store")]
            Place::Bucket(bucket) => match self.pins.is_being_removed(id) {
                true => Err(missing(format!("{bucket:?}"), id)),
                false => bucket.get(id),
            },
        }
    }

    /// A blob's bytes as a stream, which ends with an error if they are not what the address says.
    pub(crate) fn reader(&self, id: &BlobId) -> Result<BlobReader> {
        match &self.place {
            Place::Memory(_) => Ok(Box::new(std::io::Cursor::new(self.get(id)?))),
            Place::Files(files) => Files::reader(files, id),
            #[cfg(feature = "object_store")]
            Place::Bucket(bucket) => match self.pins.is_being_removed(id) {
                true => Err(missing(format!("{bucket:?}"), id)),
                false => bucket.reader(id),
            },
        }
    }

    /// How many bytes a blob has; `None` if it is not there.
    pub(crate) fn len(&self, id: &BlobId) -> Result<Option<u64>> {
        if self.pins.is_being_removed(id) {
            return Ok(None);
        }
        match &self.place {
            Place::Memory(blobs) => {
                let blobs = blobs.read().unwrap_or_else(PoisonError::into_inner);
                Ok(blobs.get(id).map(|bytes| bytes.len() as u64))
            }
            Place::Files(files) => files.len(id),
            #[cfg(feature = "object_store")]
            Place::Bucket(bucket) => bucket.len(id),
        }
    }

    /// Whether a commit may come to name a blob: it is there, and not about to go. `None` if only who asks can know, by whether a
    /// run names it: what a run names is not swept.
    pub(crate) fn may_be_named(&self, id: &BlobId) -> Result<Option<bool>> {
        if self.pins.is_being_removed(id) {
            return Ok(Some(false));
        }
        match &self.place {
            #[cfg(feature = "object_store")]
            Place::Bucket(bucket) => Ok(bucket.is_known(id).then_some(true)),
            Place::Files(files) => files.contains(id).map(Some),
            Place::Memory(_) => Ok(Some(self.len(id)?.is_some())),
        }
    }

    /// Keeps a blob from being swept, once more.
    pub(crate) fn pin(&self, id: &BlobId) {
        self.pins.pin(id);
    }

    /// Takes one pin away.
    pub(crate) fn unpin(&self, id: &BlobId) {
        self.pins.unpin(id);
    }

    /// Every blob there is.
    pub(crate) fn list(&self) -> Result<Vec<BlobId>> {
        match &self.place {
            Place::Memory(blobs) => {
                let blobs = blobs.read().unwrap_or_else(PoisonError::into_inner);
                Ok(blobs.keys().copied().collect())
            }
            Place::Files(files) => files.list(),
            #[cfg(feature = "object_store")]
            Place::Bucket(bucket) => bucket.list(),
        }
    }

    /// Whether a removal asks somebody far away.
    pub(crate) fn are_far(&self) -> bool {
        match self.place {
            Place::Memory(_) | Place::Files(_) => false,
            #[cfg(feature = "object_store")]
            Place::Bucket(_) => true,
        }
    }

    /// Whoever has this removes blobs that nobody waits for.
    pub(crate) fn removing(&self) -> std::sync::RwLockReadGuard<'_, ()> {
        self.removing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody is removing blobs.
    pub(crate) fn await_removals(&self) {
        drop(
            self.removing
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Removes blobs of deleted runs. What cannot be removed now is for the next sweep.
    pub(crate) fn remove_all(&self, removals: Vec<Removal>) {
        for removal in removals {
            let blob = removal.id;
            if let Err(error) = self.remove(removal) {
                warn!(%blob, %error, "a blob of a deleted run stays until the next sweep");
            }
        }
    }

    /// Begins to remove a blob that no run names; `None` if it is pinned. From now on no commit can come to name it.
    pub(crate) fn begin_removal(&self, id: &BlobId) -> Option<Removal> {
        self.pins.begin_removal(id)
    }

    /// Removes a blob, and says how many bytes it had.
    pub(crate) fn remove(&self, removal: Removal) -> Result<u64> {
        match &self.place {
            Place::Memory(blobs) => {
                let mut blobs = blobs.write().unwrap_or_else(PoisonError::into_inner);
                let removed = blobs.remove(&removal.id);
                Ok(removed.map_or(0, |bytes| bytes.len() as u64))
            }
            Place::Files(files) => files.remove(&removal.id),
            #[cfg(feature = "object_store")]
            Place::Bucket(bucket) => bucket.remove(&removal.id),
        }
    }
}

fn missing(location: String, id: &BlobId) -> StorageError {
    StorageError::Corrupt {
        location,
        what: format!("blob {id} is missing"),
    }
}

pub(crate) fn damaged(location: String, id: &BlobId) -> StorageError {
    StorageError::Corrupt {
        location,
        what: format!("blob {id} is not what its address says"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(blobs: &Blobs, id: &BlobId) -> Option<u64> {
        let removal = blobs.begin_removal(id)?;
        Some(blobs.remove(removal).unwrap())
    }

    #[test]
    fn a_blob_stays_until_every_put_of_it_was_unpinned() {
        let dir = tempfile::tempdir().unwrap();
        for blobs in [
            Blobs::in_memory(),
            Blobs::in_directory(dir.path().join("blobs")).unwrap(),
        ] {
            let id = blobs.put(Bytes::from_static(b"abc")).unwrap();
            let mut new = blobs.begin().unwrap();
            new.write(b"a").unwrap();
            new.write(b"bc").unwrap();
            assert_eq!(blobs.finish(new).unwrap(), (id, 3));
            assert_eq!(blobs.list().unwrap(), [id]);
            blobs.unpin(&id);
            assert_eq!(removed(&blobs, &id), None);
            blobs.unpin(&id);
            assert_eq!(blobs.get(&id).unwrap(), "abc");
            assert_eq!(blobs.len(&id).unwrap(), Some(3));
            assert_eq!(removed(&blobs, &id), Some(3));
            assert_eq!(blobs.may_be_named(&id).unwrap(), Some(false));
            assert_eq!(blobs.len(&id).unwrap(), None);
            assert!(matches!(blobs.get(&id), Err(StorageError::Corrupt { .. })));
            assert!(blobs.reader(&id).is_err());
            assert_eq!(blobs.put(Bytes::from_static(b"abc")).unwrap(), id);
            assert_eq!(blobs.get(&id).unwrap(), "abc");
        }
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::in_directory(dir.path().join("blobs")).unwrap();
        let mut new = blobs.begin().unwrap();
        new.write(&[1; 100_000]).unwrap();
        drop(new);
        assert_eq!(blobs.list().unwrap(), []);
        let tmp = std::fs::read_dir(dir.path().join("blobs/tmp")).unwrap();
        assert_eq!(tmp.count(), 0);
    }
}
