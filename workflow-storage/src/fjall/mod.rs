//! The ordered map on fjall: a log-structured tree, the fastest here at writing much. One keyspace holds everything,
//! because idle keyspaces keep their journals for ever.
//!
//! It says less of damage than redb does: some kinds of damage in its newest journal make it drop all that follows
//! without a word, which a run's own numbers then report as a hole.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod manifest;
mod torn;

use std::collections::HashMap;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode, Readable};

use crate::directory::sync_all;
use crate::memory::is_empty;
use crate::poison::{self, Poison};
use crate::{Op, OrderedMap, Result, StorageError};

const BACKEND: &str = "fjall";
const KEYSPACE: &str = "keepstep";
/// There is such a file from when fjall has created its own.
const VERSION: &str = "version";
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// How much is gathered in memory before it is written down as a table. A crash leaves up to that much in fjall's own
/// journal, which the next opening replays: a sixteenth of fjall's own choice, so that opening takes a fraction of a second. Of
/// small pairs it takes three times as much memory, and up to five may be there at a time when writing down does not keep up.
const MEMTABLE_BYTES: u64 = 4 << 20;

/// How large the tables on disk are: a quarter of fjall's own choice. A compaction keeps a hash of each key of a table in memory until
/// it has written that, and a table's filter is read as a whole.
const TABLE_BYTES: u64 = 16 << 20;

/// Threads that write memory down and compact. Of several, fjall keeps the first free for writing down what is in memory, and
/// while another compacts that one takes a whole processor to find out again and again that there is nothing to write down.
const WORKERS: usize = 1;

/// How long a compaction waits for memory to be written down before it compacts only what is on disk.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);

/// Opens the map in a directory of its own, which exists and is locked.
pub(crate) fn open(dir: &Path) -> Result<Fjall> {
    let is_new = !dir.join(VERSION).exists();
    manifest::check(dir)?;
    let tree = guarded(dir, || {
        let builder = || Database::builder(dir).worker_threads(WORKERS);
        let mut opened = builder().open();
        if let Err(fjall::Error::JournalRecovery(damage)) = &opened
            && torn::cut_torn_batch(dir).map_err(|error| StorageError::io("mend", dir, error))?
        {
            tracing::warn!(?dir, ?damage, "cut off a batch that was never committed");
            opened = builder().open();
        }
        let db = opened.map_err(|error| failure(dir, "open", error))?;
        let keyspace = db
            .keyspace(KEYSPACE, options)
            .map_err(|error| failure(dir, "open", error))?;
        Ok(Tree { db, keyspace })
    })?;
    if is_new {
        // fjall syncs neither its lock file, without which it does not open, nor the names of its trees' folders.
        sync_all(dir)?;
    }
    Ok(Fjall {
        path: dir.to_owned(),
        tree: RwLock::new(Some(tree)),
        poison: Poison::default(),
    })
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES)
        .compaction_strategy(Arc::new(
            Leveled::default().with_table_target_size(TABLE_BYTES),
        ))
}

/// An open map.
pub(crate) struct Fjall {
    path: PathBuf,
    /// `None` once closed.
    tree: RwLock<Option<Tree>>,
    /// Why nothing more is written.
    poison: Poison,
}

struct Tree {
    // Fields are dropped in order: a keyspace must not outlive its database's threads.
    keyspace: Keyspace,
    db: Database,
}

impl std::fmt::Debug for Fjall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fjall")
            .field("path", &self.path)
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}

impl OrderedMap for Fjall {
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
        self.with(|tree| {
            // Reads past a snapshot see batches that are only half applied.
            let value = tree.db.snapshot().get(&tree.keyspace, key);
            let value = value.map_err(|e| self.failure("read", e))?;
            Ok(value.map(|value| Bytes::copy_from_slice(&value)))
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
        self.with(|tree| {
            let mut pairs = tree.db.snapshot().range::<&[u8], _>(&tree.keyspace, range);
            loop {
                let pair = if reverse {
                    pairs.next_back()
                } else {
                    pairs.next()
                };
                let Some(pair) = pair else { return Ok(()) };
                let (key, value) = pair.into_inner().map_err(|e| self.failure("read", e))?;
                if visit(&key, &value).is_break() {
                    return Ok(());
                }
            }
        })
    }

    fn apply(&self, ops: Vec<Op>) -> Result<()> {
        self.poison.check(&self.path)?;
        let written = self.with(|tree| {
            // All of a batch has one sequence number, so of two changes of a key either might win.
            let mut last = HashMap::with_capacity(ops.len());
            for op in ops {
                match op {
                    Op::Put(key, value) => last.insert(key, Some(value)),
                    Op::Remove(key) => last.insert(key, None),
                };
            }
            let mut batch = tree.db.batch().durability(Some(PersistMode::SyncData));
            for (key, value) in last {
                match value {
                    Some(value) => batch.insert(&tree.keyspace, key, value.as_ref()),
                    None => batch.remove(&tree.keyspace, key),
                }
            }
            batch.commit().map_err(|e| self.failure("commit", e))
        });
        written.map_err(|error| self.poison.note(error))
    }

    fn compact(&self) -> Result<u64> {
        self.poison.check(&self.path)?;
        self.with(|tree| {
            let size = || tree.db.disk_space().map_err(|e| self.failure("measure", e));
            let before = size()?;
            // Removals that are still in memory free nothing on disk. Some may be on their way there already.
            let rotated = tree.keyspace.rotate_memtable();
            rotated.map_err(|e| self.failure("compact", e))?;
            let until = Instant::now() + FLUSH_PATIENCE;
            while tree.keyspace.sealed_memtable_count() > 0 && Instant::now() < until {
                thread::sleep(Duration::from_millis(2));
            }
            let compacted = tree.keyspace.major_compact();
            compacted.map_err(|e| self.failure("compact", e))?;
            Ok(before.saturating_sub(size()?))
        })
    }

    fn close(&self) -> Result<()> {
        let tree = self
            .tree
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match tree {
            Some(tree) => guarded(&self.path, || {
                let persisted = tree.db.persist(PersistMode::SyncAll);
                drop(tree);
                persisted.map_err(|e| self.failure("close", e))
            })
            .map_err(|error| self.poison.explain(&self.path, error)),
            None => Ok(()),
        }
    }
}

impl Fjall {
    fn with<T>(&self, call: impl FnOnce(&Tree) -> Result<T>) -> Result<T> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        let tree = tree.as_ref().ok_or_else(|| StorageError::Closed {
            location: self.path.display().to_string(),
        })?;
        guarded(&self.path, || call(tree))
    }

    fn failure(&self, operation: &'static str, error: fjall::Error) -> StorageError {
        failure(&self.path, operation, error)
    }
}

/// fjall expects what it finds on disk to be what it wrote, and may panic where it is not.
fn guarded<T>(path: &Path, call: impl FnOnce() -> Result<T>) -> Result<T> {
    poison::guarded(BACKEND, path, call)
}

fn failure(path: &Path, operation: &'static str, error: fjall::Error) -> StorageError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error))
            if error.kind() != io::ErrorKind::UnexpectedEof =>
        {
            StorageError::io(operation, path, error)
        }
        fjall::Error::Locked => StorageError::InUse {
            path: path.to_owned(),
            holder: "somebody else".to_owned(),
        },
        fjall::Error::InvalidVersion(Some(found)) => StorageError::UnknownFormat {
            location: path.display().to_string(),
            found: format!("fjall {found:?}"),
            supported: "fjall 3".to_owned(),
        },
        fjall::Error::Poisoned | fjall::Error::KeyspaceDeleted => StorageError::Backend {
            backend: BACKEND,
            operation,
            source: Arc::new(error),
        },
        // Everything else that fjall knows is bytes which are not what they should be.
        error => StorageError::Corrupt {
            location: path.display().to_string(),
            what: error.to_string(),
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
            .note(map.failure("write", fjall::Error::Poisoned));
        let refused = map.apply(vec![Op::Put(b"a".to_vec(), "2".into())]);
        assert!(matches!(refused, Err(StorageError::Poisoned { .. })));
        assert!(matches!(map.compact(), Err(StorageError::Poisoned { .. })));
        assert_eq!(map.get(b"a").unwrap(), Some("1".into()));
    }

    #[test]
    fn damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let map = open(dir.path()).unwrap();
        map.close().unwrap();
        let version = dir.path().join("version");
        assert!(version.exists());
        std::fs::write(&version, "something else").unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
    }
}
