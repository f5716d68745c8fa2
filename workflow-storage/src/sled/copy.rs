//! Winning space back: sled reuses the space of what was removed only in part and never gives any of it back, so the
//! live pairs are copied into a fresh store, which then takes the place of the old one.
//!
//! Commits do that a few pairs at a time, so that none waits for all of it: each copies some more, and what it changes of
//! what is copied already, it changes in the fresh store too. A copy that fails is given up, and the old store goes on.
//!
//! The marker of the directory decides which of the two counts. The fresh one is complete and synced before the marker
//! names it, and the old one is removed after that; what a crash leaves over is removed at the next opening.

use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
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

/// A commit copies one pair for so many that it changes, and as many as it changes behind those that are copied: so what is left to
/// copy becomes less with each commit, however many new pairs come.
const CHANGES_A_PAIR: usize = 4;
/// It copies so many pairs at least.
const FEWEST_PAIRS: usize = 16;

/// What is known of the space that the map takes.
#[derive(Debug)]
pub(super) struct Space {
    /// Bytes in keys and values. `None` until somebody had to know.
    live: Option<u64>,
    /// How large the file was after the last compaction of this opening.
    fresh: u64,
    /// A smaller file is left alone by commits.
    pub(super) small: u64,
    /// A copy under way.
    pub(super) copy: Option<Copying>,
}

impl Default for Space {
    fn default() -> Self {
        Self {
            live: None,
            fresh: 0,
            small: SMALL,
            copy: None,
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

/// A copy of the live pairs in the making: a store of its own that nobody reads and that counts for nothing.
#[derive(Debug)]
pub(super) struct Copying {
    next: u64,
    path: PathBuf,
    fresh: Generation,
    /// All pairs up to this key are copied, and no others.
    pub(super) copied: Option<Vec<u8>>,
}

impl Copying {
    /// The changes of a batch that are to be made in the copy as well: pairs behind are copied later, as they are then.
    pub(super) fn changes(&self, ops: &[Op]) -> Vec<Op> {
        let is_copied = |op: &&Op| {
            let (Op::Put(key, _) | Op::Remove(key)) = op;
            self.copied.as_ref().is_some_and(|copied| key <= copied)
        };
        ops.iter().filter(is_copied).cloned().collect()
    }

    /// Copies some more pairs. Whether that were the last.
    fn go_on(&mut self, old: &Generation, n_pairs: usize) -> Result<bool> {
        let from = self.copied.as_deref();
        let from = from.map_or(Bound::Unbounded, Bound::Excluded);
        let mut ops = Vec::new();
        let mut bytes = 0;
        let mut is_last = true;
        old.range((from, Bound::Unbounded), false, &mut |key, value| {
            if bytes >= PORTION || ops.len() >= n_pairs {
                is_last = false;
                return ControlFlow::Break(());
            }
            bytes += key.len() + value.len();
            ops.push(Op::Put(key.to_vec(), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        if let Some(Op::Put(last, _)) = ops.last() {
            self.copied = Some(last.clone());
            self.fresh.apply_unsynced(ops)?;
        }
        Ok(is_last)
    }

    /// Leaves nothing of it.
    fn give_up(self) {
        let Self { path, fresh, .. } = self;
        fresh.discard();
        // Half a copy must not take what may be the last of the disk. The next opening looks for it, too.
        let _ = std::fs::remove_dir_all(path);
    }
}

impl Sled {
    /// After a commit of `n_ops` changes: goes on with a copy under way, in which `changes` are to be made, or begins one if
    /// the file is much larger than what is in it.
    pub(super) fn copy_some(
        &self,
        space: &mut Space,
        changes: Vec<Op>,
        n_ops: usize,
        disk: u64,
    ) -> Result<()> {
        let n_behind = space.copy.as_ref().map_or(0, |_| n_ops - changes.len());
        match &space.copy {
            Some(_) if changes.is_empty() => {}
            Some(copy) => copy.fresh.apply_unsynced(changes)?,
            None => {
                if !space.may_be_bloated(disk) {
                    return Ok(());
                }
                self.with(|generation| space.live(generation))?;
                if !space.may_be_bloated(disk) {
                    return Ok(());
                }
                space.copy = Some(self.begin_copy()?);
            }
        }
        let mut n_left = n_behind + n_ops.div_ceil(CHANGES_A_PAIR).max(FEWEST_PAIRS);
        while n_left > 0 {
            let n_pairs = n_left.min(PORTION_PAIRS);
            n_left -= n_pairs;
            if self.go_on_with_copy(space, n_pairs)?.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Compacts if that can be expected to win something; says how many bytes it did.
    pub(super) fn compact_if_worthwhile(&self, space: &mut Space) -> Result<u64> {
        let (live, disk) =
            self.with(|generation| Ok((space.live(generation)?, generation.disk_bytes()?)))?;
        if space.copy.is_none() {
            if disk <= FRESH.max(live.saturating_mul(WORTHWHILE)) {
                return Ok(0);
            }
            space.copy = Some(self.begin_copy()?);
        }
        loop {
            if let Some(won) = self.go_on_with_copy(space, PORTION_PAIRS)? {
                return Ok(won);
            }
        }
    }

    fn begin_copy(&self) -> Result<Copying> {
        let (next, path) = self.directory.prepare_next()?;
        match Generation::open(path.clone(), false) {
            Ok(fresh) => Ok(Copying {
                next,
                path,
                fresh,
                copied: None,
            }),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&path);
                Err(error)
            }
        }
    }

    /// Copies some more pairs. After the last ones the copy takes the map's place: how many bytes that won.
    fn go_on_with_copy(&self, space: &mut Space, n_pairs: usize) -> Result<Option<u64>> {
        let Some(copy) = &mut space.copy else {
            return Ok(Some(0));
        };
        if !self.with(|old| copy.go_on(old, n_pairs))? {
            return Ok(None);
        }
        copy.fresh.sync()?;
        copy.fresh.sync_files()?;
        let disk = copy.fresh.disk_bytes()?;
        let Some(Copying { next, fresh, .. }) = space.copy.take() else {
            return Ok(Some(0));
        };

        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Once the marker may name the fresh store, nothing must be written to the old one.
        self.directory
            .advance(next)
            .map_err(|error| self.poison.note(error))?;
        let old = current.replace(fresh);
        drop(current);

        space.fresh = disk;
        let Some(old) = old else { return Ok(Some(0)) };
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
        Ok(Some(before.saturating_sub(disk)))
    }
}

impl Space {
    /// Gives up a copy under way, if there is one.
    pub(super) fn give_up_copy(&mut self) {
        if let Some(copy) = self.copy.take() {
            copy.give_up();
        }
    }
}
