//! What keeps a blob from being swept: pins, which are this process's memory.
//!
//! A blob that was put, and that no run names yet, is wanted by whoever put it. Each of them holds a pin until a commit that names
//! the blob is durable, or until it gives up. After a crash nobody holds any: what no run names is swept.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::BlobId;

#[derive(Debug, Default)]
pub(super) struct Pins {
    state: Mutex<State>,
    removed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many want a blob to stay.
    pins: HashMap<BlobId, u32>,
    /// Blobs that are being removed.
    removing: HashSet<BlobId>,
}

impl Pins {
    /// Pins a blob. Does not wait, and says nothing of whether it is there.
    pub(super) fn pin(&self, id: &BlobId) {
        *self.state().pins.entry(*id).or_default() += 1;
    }

    /// Pins a blob that is to be stored. One that is being removed is gone when this returns, and is not removed again.
    pub(super) fn pin_to_store(&self, id: &BlobId) {
        let mut state = self.state();
        *state.pins.entry(*id).or_default() += 1;
        while state.removing.contains(id) {
            let waited = self.removed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn unpin(&self, id: &BlobId) {
        let mut state = self.state();
        if let Some(pins) = state.pins.get_mut(id) {
            *pins -= 1;
            if *pins == 0 {
                state.pins.remove(id);
            }
        }
    }

    /// Begins to remove a blob; `None` if it is pinned. Whoever stores it waits until the answer is dropped.
    pub(super) fn begin_removal(self: &Arc<Self>, id: &BlobId) -> Option<Removal> {
        let mut state = self.state();
        if state.pins.contains_key(id) || !state.removing.insert(*id) {
            return None;
        }
        Some(Removal {
            pins: Arc::clone(self),
            id: *id,
        })
    }

    pub(super) fn is_being_removed(&self, id: &BlobId) -> bool {
        self.state().removing.contains(id)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blob is being removed until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Removal {
    pins: Arc<Pins>,
    pub(crate) id: BlobId,
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.pins.state().removing.remove(&self.id);
        self.pins.removed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: BlobId = BlobId([1; 32]);

    #[test]
    fn a_pinned_blob_is_not_removed() {
        let pins = Arc::new(Pins::default());
        pins.pin(&ID);
        pins.pin_to_store(&ID);
        pins.unpin(&ID);
        assert!(pins.begin_removal(&ID).is_none());
        pins.unpin(&ID);
        // One too many does no harm.
        pins.unpin(&ID);
        assert!(pins.begin_removal(&ID).is_some());
    }

    #[test]
    fn who_stores_a_blob_waits_for_its_removal() {
        let pins = Arc::new(Pins::default());
        let removal = pins.begin_removal(&ID).unwrap();
        assert!(pins.begin_removal(&ID).is_none());
        let (pinned, is_pinned) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pins.pin_to_store(&ID);
                pinned.send(()).unwrap();
            });
            while !pins.state().pins.contains_key(&ID) {
                std::thread::yield_now();
            }
            assert!(is_pinned.try_recv().is_err());
            drop(removal);
            is_pinned.recv().unwrap();
        });
        assert!(pins.begin_removal(&ID).is_none());
    }
}
