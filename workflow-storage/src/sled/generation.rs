//! One sled store: a map until it is compacted into the next one.

use std::fs::{self, File};
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::directory::sync_all;
use crate::poison;
use crate::{Op, Result, StorageError};

/// Counted in bytes on disk. A page takes several times that in memory: room for twice its pairs, a reference for each key and value.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// How long to wait for the threads of an earlier opening by this process, which may hold sled's lock a little longer
/// than the store was open.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Generation {
    path: PathBuf,
    db: sled::Db,
    /// sled's file, to sync it.
    file: File,
}

impl std::fmt::Debug for Generation {
    /// Not derived: sled would print every pair there is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Generation").field(&self.path).finish()
    }
}

impl Generation {
    pub(super) fn open(path: PathBuf, is_new: bool) -> Result<Self> {
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(CACHE_BYTES)
            // Every commit is flushed; a thread that does it every so often would only be in the way.
            .flush_every_ms(None);
        remove_unfinished_snapshots(&path)?;
        let given_up = Instant::now() + PATIENCE;
        let db = loop {
            match guarded(&path, || {
                config.open().map_err(|e| failure(&path, "open", e))
            }) {
                Err(error) if is_locked(&error) && Instant::now() < given_up => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                opened => break opened?,
            }
        };
        let file = path.join("db");
        let file = File::options()
            .read(true)
            .write(true)
            .open(&file)
            .map_err(|error| StorageError::io("open", file, error))?;
        if is_new {
            sync_all(&path)?;
        }
        Ok(Self { path, db, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.guarded("read", || {
            let value = self.db.get(key)?;
            Ok(value.map(|value| Bytes::copy_from_slice(&value)))
        })
    }

    /// How long a key and its value are together; `None` if there is no such key.
    pub(super) fn pair_bytes(&self, key: &[u8]) -> Result<Option<u64>> {
        self.guarded("read", || {
            let value = self.db.get(key)?;
            Ok(value.map(|value| (key.len() + value.len()) as u64))
        })
    }

    pub(super) fn range(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.guarded("read", || {
            let mut pairs = self.db.range::<&[u8], _>(range);
            while let Some(pair) = if reverse {
                pairs.next_back()
            } else {
                pairs.next()
            } {
                let (key, value) = pair?;
                if visit(&key, &value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Does all of the changes, durably.
    pub(super) fn apply(&self, ops: Vec<Op>) -> Result<()> {
        self.apply_unsynced(ops)?;
        self.sync()
    }

    /// Does all of the changes. A crash may undo them.
    pub(super) fn apply_unsynced(&self, ops: Vec<Op>) -> Result<()> {
        let n_ops = ops.len();
        let mut batch = sled::Batch::default();
        for op in ops {
            match op {
                Op::Put(key, value) => batch.insert(key, &value[..]),
                Op::Remove(key) => batch.remove(key),
            }
        }
        self.guarded("write", || {
            self.db.apply_batch(batch)?;
            free_replaced_pages(n_ops);
            Ok(())
        })
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.guarded("flush", || self.db.flush())?;
        // Elsewhere sled's flush syncs. On Linux it starts the writing of the file's pages and waits for that, which says
        // nothing of the file's length and of the disk's own cache.
        if cfg!(target_os = "linux") {
            self.file
                .sync_data()
                .map_err(|error| StorageError::io("sync", &self.path, error))?;
        }
        Ok(())
    }

    pub(super) fn disk_bytes(&self) -> Result<u64> {
        match self.file.metadata() {
            Ok(file) => Ok(file.len()),
            Err(error) => Err(StorageError::io("look at", &self.path, error)),
        }
    }

    pub(super) fn close(self) -> Result<()> {
        self.sync()?;
        let Self { path, db, file } = self;
        drop(file);
        guarded(&path, || {
            drop(db);
            Ok(())
        })
    }

    /// Closes it and leaves what is not synced to chance.
    pub(super) fn discard(self) {
        let Self { path, db, file } = self;
        drop(file);
        // It is to be removed: damage in it does not matter.
        let _ = guarded(&path, || {
            drop(db);
            Ok(())
        });
    }

    /// Makes everything in the folder durable, also what sled itself does not sync.
    pub(super) fn sync_files(&self) -> Result<()> {
        sync_all(&self.path)
    }

    fn guarded<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce() -> sled::Result<T>,
    ) -> Result<T> {
        guarded(&self.path, || {
            call().map_err(|error| failure(&self.path, operation, error))
        })
    }
}

/// sled writes a snapshot under this name, syncs and renames it; but it reads what a crash left under it as if it were
/// whole, and then does not open. Snapshots only save reading the log from its beginning.
fn remove_unfinished_snapshots(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).map_err(|error| StorageError::io("list", path, error))? {
        let entry = entry.map_err(|error| StorageError::io("list", path, error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            let path = entry.path();
            fs::remove_file(&path).map_err(|error| StorageError::io("remove", path, error))?;
        }
    }
    Ok(())
}

/// Frees the copies of pages that so many changes have replaced. sled replaces a whole page for each change, and frees about five
/// hundred replaced ones with every 128th call of a thread: many changes a call would fill the memory with them.
fn free_replaced_pages(n_changes: usize) {
    /// So many changes replace fewer pages, and leave less of what else sled defers, than one turn frees.
    const CHANGES_A_TURN: usize = 128;
    /// Pages are free when all threads have been seen twice since.
    const TURNS_UNTIL_FREE: usize = 2;
    for _ in 0..TURNS_UNTIL_FREE + n_changes / CHANGES_A_TURN {
        sled::pin().flush();
    }
}

/// sled panics where it does not understand its own files.
fn guarded<T>(path: &Path, call: impl FnOnce() -> Result<T>) -> Result<T> {
    poison::guarded("sled", path, call)
}

fn failure(path: &Path, operation: &'static str, error: sled::Error) -> StorageError {
    match error {
        sled::Error::Io(error) => StorageError::io(operation, path, error),
        // The directory's marker says that the files are ours: those of another version are damaged ones.
        error @ (sled::Error::Corruption { .. } | sled::Error::Unsupported(_)) => {
            StorageError::Corrupt {
                location: path.display().to_string(),
                what: format!("sled could not {operation}: {error}"),
            }
        }
        error => StorageError::Backend {
            backend: "sled",
            operation,
            source: Arc::new(error),
        },
    }
}

/// sled's own lock is taken. Ours is not, so it is by a thread of this process that is about to end.
fn is_locked(error: &StorageError) -> bool {
    // sled makes an error of its own text of the one of the system.
    matches!(error, StorageError::Io { source, .. } if source.to_string().contains("could not acquire lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_sled_is_damage() {
        let error = guarded::<()>(Path::new("data"), || panic!("page {}", 7)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "store data is damaged: sled panicked: page 7"
        );
    }
}
