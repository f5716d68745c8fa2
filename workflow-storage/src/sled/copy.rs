//! Winning space back: sled reuses the space of what was removed only in part and never gives any of it back, so the
//! live pairs are copied into a fresh store, which then takes the place of the old one.
//!
//! The marker of the directory decides which of the two counts. The fresh one is complete and synced before the marker
//! names it, and the old one is removed after that; what a crash leaves over is removed at the next opening.

use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::PoisonError;

use bytes::Bytes;

use super::Sled;
use super::generation::Generation;
use crate::{Op, Result, StorageError};

/// Below this size the space is not worth the copy.
const SMALL: u64 = 64 * 1024 * 1024;
/// A store is bloated when its file is so many times as large as what is in it.
const BLOAT: u64 = 4;
/// What [`compact`](crate::OrderedMap::compact) finds worth its while.
const WORTHWHILE: u64 = 2;
/// A file of a fresh store is about that large.
const FRESH: u64 = 2 * 1024 * 1024;
/// How many bytes are copied in one batch.
const PORTION: usize = 1024 * 1024;
/// How many pairs are: while a batch goes on, sled keeps a copy of a page for each of them.
const PORTION_PAIRS: usize = 512;

/// What is known of the space that the map takes.
#[derive(Debug)]
pub(super) struct Space {
    /// Bytes in keys and values. `None` until somebody had to know.
    live: Option<u64>,
    /// How large the file was after the last compaction of this opening.
    fresh: u64,
    /// A smaller file is left alone by commits.
    pub(super) small: u64,
}

impl Default for Space {
    fn default() -> Self {
        Self {
            live: None,
            fresh: 0,
            small: SMALL,
        }
    }
}

impl Space {
    /// Counts what a batch, not yet applied, will change.
    pub(super) fn count(&mut self, generation: &Generation, ops: &[Op]) -> Result<()> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        for op in ops {
            let (key, new) = match op {
                Op::Put(key, value) => (key, (key.len() + value.len()) as u64),
                Op::Remove(key) => (key, 0),
            };
            let old = generation.pair_bytes(key)?.unwrap_or(0);
            *live = (*live + new).saturating_sub(old);
        }
        Ok(())
    }

    /// Whether a file of that size is much larger than what is in it, or may be.
    pub(super) fn may_be_bloated(&self, disk: u64) -> bool {
        // Many short pairs take more than their bytes also in a fresh file, so that it must have grown since.
        disk >= self.small
            && disk >= self.fresh.saturating_mul(2)
            && self
                .live
                .is_none_or(|live| disk >= live.saturating_mul(BLOAT))
    }

    /// Lets the file double before it is compacted again.
    pub(super) fn postpone(&mut self, disk: u64) {
        self.fresh = disk;
    }

    fn live(&mut self, generation: &Generation) -> Result<u64> {
        if let Some(live) = self.live {
            return Ok(live);
        }
        let mut live = 0;
        let all = (Bound::Unbounded, Bound::Unbounded);
        generation.range(all, false, &mut |key, value| {
            live += (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        })?;
        self.live = Some(live);
        Ok(live)
    }
}

impl Sled {
    /// Compacts if the file is much larger than what is in it.
    pub(super) fn compact_if_bloated(&self, space: &mut Space, disk: u64) -> Result<()> {
        self.with(|generation| space.live(generation))?;
        if space.may_be_bloated(disk) {
            self.copy(space)?;
        }
        Ok(())
    }

    /// Compacts if that can be expected to win something; says how many bytes it did.
    pub(super) fn compact_if_worthwhile(&self, space: &mut Space) -> Result<u64> {
        let (live, disk) =
            self.with(|generation| Ok((space.live(generation)?, generation.disk_bytes()?)))?;
        if disk <= FRESH.max(live.saturating_mul(WORTHWHILE)) {
            return Ok(0);
        }
        self.copy(space)
    }

    /// Lets a fresh copy take the map's place. Readers may go on; writers wait.
    fn copy(&self, space: &mut Space) -> Result<u64> {
        let (next, path) = self.directory.prepare_next()?;
        let (fresh, live) = match self.with(|old| copy_of(old, &path)) {
            Ok(copied) => copied,
            Err(error) => {
                // Half a copy must not take what may be the last of the disk.
                let _ = std::fs::remove_dir_all(&path);
                return Err(error);
            }
        };
        let disk = fresh.disk_bytes()?;

        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Once the marker may name the fresh store, nothing must be written to the old one.
        self.directory
            .advance(next)
            .map_err(|error| self.poison.note(error))?;
        let old = current.replace(fresh);
        drop(current);

        space.live = Some(live);
        space.fresh = disk;
        let Some(old) = old else { return Ok(0) };
        let before = old.disk_bytes()?;
        let path = old.path().to_owned();
        old.close()?;
        std::fs::remove_dir_all(&path).map_err(|error| StorageError::io("remove", path, error))?;
        tracing::debug!(
            store = %self.directory.root().display(),
            before,
            after = disk,
            "compacted"
        );
        Ok(before.saturating_sub(disk))
    }
}

/// A synced copy in a folder of its own, and how many bytes its pairs have.
fn copy_of(old: &Generation, path: &Path) -> Result<(Generation, u64)> {
    let fresh = Generation::open(path.to_owned(), false)?;
    let live = copy_pairs(old, &fresh)?;
    fresh.sync()?;
    fresh.sync_files()?;
    Ok((fresh, live))
}

/// Copies every pair, and says how many bytes they have.
fn copy_pairs(old: &Generation, fresh: &Generation) -> Result<u64> {
    let mut live = 0;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut ops = Vec::new();
        let mut bytes = 0;
        old.range((from, Bound::Unbounded), false, &mut |key, value| {
            bytes += key.len() + value.len();
            ops.push(Op::Put(key.to_vec(), Bytes::copy_from_slice(value)));
            if bytes < PORTION && ops.len() < PORTION_PAIRS {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        let Some(Op::Put(last, _)) = ops.last() else {
            return Ok(live);
        };
        after = Some(last.clone());
        live += bytes as u64;
        fresh.apply_unsynced(ops)?;
    }
}
