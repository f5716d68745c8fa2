//! The ordered map on sled 0.34, hardened: what sled leaves open about durability, damage and space is closed here.
//!
//! - sled's `flush` does not sync on Linux, so every commit is followed by an own sync ([`generation`]).
//! - sled never syncs what it puts in files of its own because it is large, so values are kept small.
//! - sled panics at some damage, so every call is guarded.
//! - sled never gives space back, so the live pairs are copied into a fresh store now and then ([`copy`]).

mod copy;
mod generation;

use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

use self::copy::Space;
use self::generation::Generation;
use crate::directory::Directory;
use crate::memory::is_empty;
use crate::poison::Poison;
use crate::{Op, OrderedMap, Result, StorageError};

/// With room for the longest key, so that a pair stays under 4 KiB. A leaf of 16 larger ones would be written to a file of
/// its own, which sled does not sync.
const MAX_VALUE_BYTES: usize = 4096 - 512;

/// Opens the map of a directory.
pub(crate) fn open(directory: Arc<Directory>) -> Result<Sled> {
    let generation = Generation::open(directory.map_path(), directory.is_new())?;
    Ok(Sled {
        directory,
        current: RwLock::new(Some(generation)),
        writer: Mutex::default(),
        poison: Poison::default(),
    })
}

/// An open map.
#[derive(Debug)]
pub(crate) struct Sled {
    directory: Arc<Directory>,
    /// `None` once closed. Readers share it; a commit has it alone until it is durable, because sled shows what it has
    /// not synced yet.
    current: RwLock<Option<Generation>>,
    /// Held over a whole commit or compaction.
    writer: Mutex<Space>,
    /// Why nothing more is written.
    poison: Poison,
}

impl OrderedMap for Sled {
    fn backend(&self) -> &'static str {
        "sled"
    }

    fn max_value_bytes(&self) -> usize {
        MAX_VALUE_BYTES
    }

    fn blocks(&self) -> bool {
        true
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.with(|generation| generation.get(key))
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
        self.with(|generation| generation.range(range, reverse, visit))
    }

    fn apply(&self, ops: Vec<Op>) -> Result<()> {
        let mut space = self.writer()?;
        self.with(|generation| space.count(generation, &ops))?;
        let changes = space.copy.as_ref().map(|copy| copy.changes(&ops));
        let n_ops = ops.len();
        let current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let generation = current.as_ref().ok_or_else(|| self.closed())?;
        if let Err(error) = generation.apply(ops) {
            // It may have taken the last of the disk.
            space.give_up_copy();
            return Err(self.poison.note(error));
        }
        let disk = generation.disk_bytes();
        drop(current);
        // The commit is durable: whatever becomes of the compaction is no failure of it. A copy that lacks its changes, for whatever
        // reason, must not go on.
        let size = disk.as_ref().ok().copied();
        let copied = disk
            .and_then(|disk| self.copy_some(&mut space, changes.unwrap_or_default(), n_ops, disk));
        if let Err(error) = copied {
            space.give_up_copy();
            space.postpone(size.unwrap_or_default());
            tracing::warn!(
                store = %self.directory.root().display(),
                error = &error as &dyn std::error::Error,
                "could not compact"
            );
        }
        Ok(())
    }

    fn compact(&self) -> Result<u64> {
        let mut space = self.writer()?;
        let won = self.compact_if_worthwhile(&mut space);
        if won.is_err() {
            space.give_up_copy();
        }
        won
    }

    fn close(&self) -> Result<()> {
        // After a running commit or compaction.
        let mut space = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        space.give_up_copy();
        let current = self
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        current
            .map_or(Ok(()), Generation::close)
            .map_err(|error| self.poison.explain(self.directory.root(), error))
    }
}

impl Sled {
    fn with<T>(&self, call: impl FnOnce(&Generation) -> Result<T>) -> Result<T> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        // sled shows what a failed write left in its memory, and that may not be on the disk.
        self.poison.check(self.directory.root())?;
        call(current.as_ref().ok_or_else(|| self.closed())?)
    }

    fn writer(&self) -> Result<MutexGuard<'_, Space>> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.poison.check(self.directory.root())?;
        Ok(writer)
    }

    fn closed(&self) -> StorageError {
        StorageError::Closed {
            location: self.directory.root().display().to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
