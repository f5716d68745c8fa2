//! The ordered map on redb: one copy-on-write B-tree file with a checksum on every page, so that damage is always
//! said. Every commit saves the allocator's state too ("quick repair"), so that opening after a crash does not read
//! the whole file; that costs a second sync a commit.

use std::fs;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, TableDefinition, TableError};

use crate::directory::sync_directory;
use crate::memory::is_empty;
use crate::poison::{self, Poison};
use crate::{Op, OrderedMap, Result, StorageError};

const BACKEND: &str = "redb";
const FILE: &str = "data.redb";
const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("keepstep");

/// Pages that are kept in memory, in all. redb's own choice is 1 GiB; the system keeps those of the file, too.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Larger values take whole runs of pages, which a copy-on-write tree has to find and free in one piece.
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Opens the map in a directory of its own, which exists and is locked.
pub(crate) fn open(dir: &Path) -> Result<Redb> {
    let path = dir.join(FILE);
    let is_new = !path.exists();
    let db = guarded(&path, || {
        let opening = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&path);
        let db = opening.map_err(|error| failure(&path, "open", error))?;
        create_table(&path, &db)?;
        Ok(db)
    })?;
    if is_new {
        // The file's own syncs do not make its name durable.
        sync_directory(dir)?;
    }
    Ok(Redb {
        path,
        db: RwLock::new(Some(db)),
        poison: Poison::default(),
    })
}

/// An open map.
#[derive(Debug)]
pub(crate) struct Redb {
    path: PathBuf,
    /// `None` once closed. Calls hold the lock shared; compacting and closing need the database alone.
    db: RwLock<Option<Database>>,
    /// Why nothing more is written.
    poison: Poison,
}

impl OrderedMap for Redb {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn max_value_bytes(&self) -> usize {
        MAX_VALUE_BYTES
    }

    fn blocks(&self) -> bool {
        true
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.with(|db| {
            let read = db.begin_read().map_err(|e| self.failure("read", e))?;
            let table = read
                .open_table(TABLE)
                .map_err(|e| self.failure("read", e))?;
            let value = table.get(key).map_err(|e| self.failure("read", e))?;
            Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
        })
    }

    fn range(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        if is_empty(range) {
            return Ok(());
        }
        self.with(|db| {
            let read = db.begin_read().map_err(|e| self.failure("read", e))?;
            let table = read
                .open_table(TABLE)
                .map_err(|e| self.failure("read", e))?;
            let mut pairs = table
                .range::<&[u8]>(range)
                .map_err(|e| self.failure("read", e))?;
            loop {
                let pair = if reverse {
                    pairs.next_back()
                } else {
                    pairs.next()
                };
                let Some(pair) = pair else { return Ok(()) };
                let (key, value) = pair.map_err(|e| self.failure("read", e))?;
                if visit(key.value(), value.value()).is_break() {
                    return Ok(());
                }
            }
        })
    }

    fn apply(&self, ops: Vec<Op>) -> Result<()> {
        self.poison.check(&self.path)?;
        let written = self.with(|db| {
            let mut write = db.begin_write().map_err(|e| self.failure("write", e))?;
            write
                .set_durability(Durability::Immediate)
                .map_err(|e| self.failure("write", redb::Error::from(e)))?;
            write.set_quick_repair(true);
            {
                let mut table = write
                    .open_table(TABLE)
                    .map_err(|e| self.failure("write", e))?;
                for op in &ops {
                    match op {
                        Op::Put(key, value) => table.insert(key.as_slice(), value.as_ref()),
                        Op::Remove(key) => table.remove(key.as_slice()),
                    }
                    .map_err(|e| self.failure("write", e))?;
                }
            }
            write.commit().map_err(|e| self.failure("commit", e))
        });
        written.map_err(|error| self.poison.note(error))
    }

    fn compact(&self) -> Result<u64> {
        self.poison.check(&self.path)?;
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_mut().ok_or_else(|| self.closed())?;
        let before = self.file_bytes()?;
        let compacted = guarded(&self.path, || {
            db.compact().map_err(|e| self.failure("compact", e))
        });
        compacted.map_err(|error| self.poison.note(error))?;
        Ok(before.saturating_sub(self.file_bytes()?))
    }

    fn close(&self) -> Result<()> {
        let db = self
            .db
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match db {
            Some(db) => guarded(&self.path, || {
                db.close().map_err(|e| self.failure("close", e))
            })
            .map_err(|error| self.poison.explain(&self.path, error)),
            None => Ok(()),
        }
    }
}

impl Redb {
    fn with<T>(&self, call: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or_else(|| self.closed())?;
        guarded(&self.path, || call(db))
    }

    fn failure(&self, operation: &'static str, error: impl Into<redb::Error>) -> StorageError {
        failure(&self.path, operation, error)
    }

    fn closed(&self) -> StorageError {
        StorageError::Closed {
            location: self.path.display().to_string(),
        }
    }

    fn file_bytes(&self) -> Result<u64> {
        fs::metadata(&self.path)
            .map(|file| file.len())
            .map_err(|error| StorageError::io("read the size of", &self.path, error))
    }
}

/// Makes sure that the table exists, without a commit where it does.
fn create_table(path: &Path, db: &Database) -> Result<()> {
    let read = db.begin_read().map_err(|e| failure(path, "open", e))?;
    match read.open_table(TABLE) {
        Ok(_) => return Ok(()),
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(failure(path, "open", error)),
    }
    let mut write = db.begin_write().map_err(|e| failure(path, "open", e))?;
    write.set_quick_repair(true);
    write
        .open_table(TABLE)
        .map(drop)
        .map_err(|e| failure(path, "open", e))?;
    write.commit().map_err(|e| failure(path, "open", e))
}

/// redb trusts a file that was closed in order, and may panic on one that was damaged since.
fn guarded<T>(path: &Path, call: impl FnOnce() -> Result<T>) -> Result<T> {
    poison::guarded(BACKEND, path, call)
}

fn failure(path: &Path, operation: &'static str, error: impl Into<redb::Error>) -> StorageError {
    let location = || path.display().to_string();
    match error.into() {
        redb::Error::Corrupted(what) => StorageError::Corrupt {
            location: location(),
            what,
        },
        // What is not a redb file, and one that was cut short.
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            StorageError::Corrupt {
                location: location(),
                what: error.to_string(),
            }
        }
        redb::Error::Io(error) => StorageError::io(operation, path, error),
        redb::Error::DatabaseAlreadyOpen => StorageError::InUse {
            path: path.to_owned(),
            holder: "somebody else".to_owned(),
        },
        redb::Error::UpgradeRequired(found) => StorageError::UnknownFormat {
            location: location(),
            found: format!("redb {found}"),
            supported: "redb 3".to_owned(),
        },
        redb::Error::DatabaseClosed => StorageError::Closed {
            location: location(),
        },
        error => StorageError::Backend {
            backend: BACKEND,
            operation,
            source: Arc::new(error),
        },
    }
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::*;
    use crate::conformance::ordered::ordered_map;

    #[test]
    fn it_is_an_ordered_map() {
        let dir = tempfile::tempdir().unwrap();
        ordered_map(&open(dir.path()).unwrap());
        // What the suite left, it left on disk.
        let again = open(dir.path()).unwrap();
        assert_eq!(again.get(b"last").unwrap(), Some("1".into()));
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, StorageError::InUse { .. }), "{error:?}");
    }

    #[test]
    fn compaction_gives_space_back() {
        let dir = tempfile::tempdir().unwrap();
        let map = open(dir.path()).unwrap();
        let key = |n: u32| n.to_be_bytes().to_vec();
        let values = (0..200).map(|n| Op::Put(key(n), vec![n as u8; 50_000].into()));
        map.apply(values.collect()).unwrap();
        map.compact().unwrap();
        map.apply((0..200).map(|n| Op::Remove(key(n))).collect())
            .unwrap();
        assert!(map.compact().unwrap() > 0);
    }

    #[test]
    fn nothing_is_written_after_a_failed_write() {
        let dir = tempfile::tempdir().unwrap();
        let map = open(dir.path()).unwrap();
        map.apply(vec![Op::Put(b"a".to_vec(), "1".into())]).unwrap();
        map.poison
            .note(map.failure("write", redb::Error::PreviousIo));
        let refused = map.apply(vec![Op::Put(b"a".to_vec(), "2".into())]);
        assert!(matches!(refused, Err(StorageError::Poisoned { .. })));
        assert!(matches!(map.compact(), Err(StorageError::Poisoned { .. })));
        assert_eq!(map.get(b"a").unwrap(), Some("1".into()));
    }

    #[test]
    fn damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let map = open(dir.path()).unwrap();
        let values = (0..100_u32).map(|n| {
            let key = n.to_be_bytes().to_vec();
            Op::Put(key, vec![n as u8; 1_000].into())
        });
        map.apply(values.collect()).unwrap();
        map.close().unwrap();

        let file = dir.path().join(FILE);
        let whole = fs::read(&file).unwrap();
        let read_all = || {
            let map = open(dir.path())?;
            map.range((Bound::Unbounded, Bound::Unbounded), false, &mut |_, _| {
                ControlFlow::Continue(())
            })
        };
        for damaged in [&whole[..whole.len() / 2], &whole[..100], &[7; 5_000]] {
            fs::write(&file, damaged).unwrap();
            let error = read_all().unwrap_err();
            assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
        }
    }
}
