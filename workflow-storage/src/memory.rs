//! The store without a disk: what tests and simulations open, and the shortest correct [`OrderedMap`].

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::{Adapter, Blobs, Op, OrderedMap, Result, Storage};

/// A new, empty store in memory. Everything in it is gone once the last reference to it is.
///
/// Its calls neither wait nor use threads, so a simulation on one thread can drive it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use keepstep_storage::{RunQuery, memory};
///
/// let store = memory();
/// assert!(store.list(&RunQuery::default()).await?.runs.is_empty());
/// # Ok::<(), keepstep_storage::StorageError>(())
/// # }).unwrap();
/// ```
#[must_use]
pub fn memory() -> Arc<dyn Storage> {
    let store = with_blobs(Blobs::in_memory());
    Arc::new(store.expect("a new map is an empty store"))
}

pub(crate) fn with_blobs(blobs: Blobs) -> Result<Adapter> {
    Adapter::open(Memory::default(), blobs, "memory")
}

/// A map in memory.
#[derive(Default)]
pub(crate) struct Memory {
    pairs: RwLock<BTreeMap<Vec<u8>, Bytes>>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl OrderedMap for Memory {
    fn backend(&self) -> &'static str {
        "memory"
    }

    fn max_value_bytes(&self) -> usize {
        usize::MAX
    }

    fn blocks(&self) -> bool {
        false
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let pairs = self.pairs.read().unwrap_or_else(PoisonError::into_inner);
        Ok(pairs.get(key).cloned())
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
        let pairs = self.pairs.read().unwrap_or_else(PoisonError::into_inner);
        let mut pairs = pairs.range::<[u8], _>(range);
        while let Some((key, value)) = if reverse {
            pairs.next_back()
        } else {
            pairs.next()
        } {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, ops: Vec<Op>) -> Result<()> {
        let mut pairs = self.pairs.write().unwrap_or_else(PoisonError::into_inner);
        for op in ops {
            match op {
                Op::Put(key, value) => pairs.insert(key, value),
                Op::Remove(key) => pairs.remove(&key),
            };
        }
        Ok(())
    }

    fn compact(&self) -> Result<u64> {
        Ok(0)
    }

    fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Whether no key can be in a range. `BTreeMap` and sled panic at some of these.
pub(crate) fn is_empty(range: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    match range {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to))
        | (Bound::Excluded(from), Bound::Included(to)) => from >= to,
    }
}
