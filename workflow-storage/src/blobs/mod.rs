//! Blobs: large bytes under the address of their content, written once.
//!
//! A blob is stored before any run refers to it. One that was put and is not referred to yet is fresh, and is not
//! swept: its writer may be about to commit. Freshness is this process's memory: what nobody came to refer to is swept
//! after the next opening.

mod files;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod mmap;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

use self::files::Files;
use crate::{BlobId, Result, StorageError};

/// Where a store keeps its blobs: memory, or files of a directory.
#[derive(Debug)]
pub struct Blobs {
    place: Place,
    /// How many puts of each blob have not been followed by a reference yet.
    fresh: Mutex<HashMap<BlobId, u32>>,
}

enum Place {
    Memory(RwLock<HashMap<BlobId, Bytes>>),
    Files(Files),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(_) => f.write_str("memory"),
            Self::Files(files) => files.root().fmt(f),
        }
    }
}

impl Blobs {
    /// Blobs in memory: gone with the store.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(Place::Memory(RwLock::default()))
    }

    /// Blobs in files of a directory, which is created if it does not exist.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the directory cannot be made or read.
    pub fn in_directory(path: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self::new(Place::Files(Files::open(path.into())?)))
    }

    fn new(place: Place) -> Self {
        Self {
            place,
            fresh: Mutex::default(),
        }
    }

    /// Stores bytes, durably where there are files.
    pub(crate) fn put(&self, bytes: Bytes) -> Result<BlobId> {
        let id = BlobId(*blake3::hash(&bytes).as_bytes());
        // Before the look whether it is there, so that it cannot be swept in between.
        *self.fresh().entry(id).or_default() += 1;
        let stored = match &self.place {
            Place::Memory(blobs) => {
                let mut blobs = blobs.write().unwrap_or_else(PoisonError::into_inner);
                blobs.entry(id).or_insert(bytes);
                Ok(())
            }
            Place::Files(files) => files.put(&id, &bytes),
        };
        if let Err(error) = stored {
            self.referred(&[id]);
            return Err(error);
        }
        Ok(id)
    }

    /// A blob's bytes, checked against its address.
    pub(crate) fn get(&self, id: &BlobId) -> Result<Bytes> {
        match &self.place {
            Place::Memory(blobs) => {
                let blobs = blobs.read().unwrap_or_else(PoisonError::into_inner);
                blobs.get(id).cloned().ok_or_else(|| StorageError::Corrupt {
                    location: "memory".to_owned(),
                    what: format!("blob {id} is missing"),
                })
            }
            Place::Files(files) => files.get(id),
        }
    }

    pub(crate) fn contains(&self, id: &BlobId) -> Result<bool> {
        match &self.place {
            Place::Memory(blobs) => {
                let blobs = blobs.read().unwrap_or_else(PoisonError::into_inner);
                Ok(blobs.contains_key(id))
            }
            Place::Files(files) => files.contains(id),
        }
    }

    /// Notes that a run has come to refer to blobs: one put of each is fresh no more.
    pub(crate) fn referred(&self, ids: &[BlobId]) {
        if ids.is_empty() {
            return;
        }
        let mut fresh = self.fresh();
        for id in ids {
            if let Some(puts) = fresh.get_mut(id) {
                *puts -= 1;
                if *puts == 0 {
                    fresh.remove(id);
                }
            }
        }
    }

    /// Every blob there is.
    pub(crate) fn list(&self) -> Result<Vec<BlobId>> {
        match &self.place {
            Place::Memory(blobs) => {
                let blobs = blobs.read().unwrap_or_else(PoisonError::into_inner);
                Ok(blobs.keys().copied().collect())
            }
            Place::Files(files) => files.list(),
        }
    }

    /// Removes a blob that no run refers to, and says how many bytes it had; `None` if it is fresh.
    pub(crate) fn remove_unless_fresh(&self, id: &BlobId) -> Result<Option<u64>> {
        // Held over the removal: a put of the same bytes waits, finds nothing and writes them again.
        let fresh = self.fresh();
        if fresh.contains_key(id) {
            return Ok(None);
        }
        match &self.place {
            Place::Memory(blobs) => {
                let mut blobs = blobs.write().unwrap_or_else(PoisonError::into_inner);
                Ok(blobs.remove(id).map(|bytes| bytes.len() as u64))
            }
            Place::Files(files) => files.remove(id).map(Some),
        }
    }

    fn fresh(&self) -> MutexGuard<'_, HashMap<BlobId, u32>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_blob_stays_until_every_put_of_it_was_followed_by_a_reference() {
        let dir = tempfile::tempdir().unwrap();
        for blobs in [
            Blobs::in_memory(),
            Blobs::in_directory(dir.path().join("blobs")).unwrap(),
        ] {
            let id = blobs.put(Bytes::from_static(b"abc")).unwrap();
            assert_eq!(blobs.put(Bytes::from_static(b"abc")).unwrap(), id);
            assert_eq!(blobs.list().unwrap(), [id]);
            blobs.referred(&[id]);
            assert_eq!(blobs.remove_unless_fresh(&id).unwrap(), None);
            blobs.referred(&[id]);
            assert_eq!(blobs.get(&id).unwrap(), "abc");
            assert_eq!(blobs.remove_unless_fresh(&id).unwrap(), Some(3));
            assert!(!blobs.contains(&id).unwrap());
            assert!(matches!(blobs.get(&id), Err(StorageError::Corrupt { .. })));
            assert_eq!(blobs.put(Bytes::from_static(b"abc")).unwrap(), id);
            assert_eq!(blobs.get(&id).unwrap(), "abc");
        }
    }
}
