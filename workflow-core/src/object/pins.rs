//! A guard that keeps objects from being swept.

use std::fmt;
use std::sync::{Arc, Weak};

use keepstep_storage::{BlobId, Storage};

/// Keeps objects of a store until it is dropped.
pub(crate) struct Pins {
    /// Pins are no reason for a store to stay open.
    storage: Weak<dyn Storage>,
    /// In order.
    ids: Vec<BlobId>,
}

impl Pins {
    /// Pins objects.
    pub(super) fn new(storage: &Arc<dyn Storage>, ids: Vec<BlobId>) -> Arc<Self> {
        ids.iter().for_each(|id| storage.pin_blob(id));
        Self::of_pinned(storage, ids)
    }

    /// Takes over pins that there are.
    pub(super) fn of_pinned(storage: &Arc<dyn Storage>, mut ids: Vec<BlobId>) -> Arc<Self> {
        ids.sort_unstable();
        Arc::new(Self {
            storage: Arc::downgrade(storage),
            ids,
        })
    }

    /// Whether it keeps an object of this store.
    pub(super) fn keeps(&self, storage: &Arc<dyn Storage>, id: &BlobId) -> bool {
        std::ptr::addr_eq(self.storage.as_ptr(), Arc::as_ptr(storage))
            && self.ids.binary_search(id).is_ok()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Some(storage) = self.storage.upgrade() {
            self.ids.iter().for_each(|id| storage.unpin_blob(id));
        }
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pins").field(&self.ids).finish()
    }
}
