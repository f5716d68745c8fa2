//! Locks by workflow id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use keepstep_storage::RunId;
use tokio::sync::OwnedMutexGuard;

/// One lock for each id that is in use.
#[derive(Debug, Default)]
pub(crate) struct KeyedLocks(Arc<Mutex<HashMap<RunId, Arc<tokio::sync::Mutex<()>>>>>);

impl KeyedLocks {
    /// Waits until nobody else holds the lock of this id.
    pub(crate) async fn lock(&self, id: &RunId) -> KeyedGuard {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(id.clone()).or_default())
        };
        let guard = lock.lock_owned().await;
        KeyedGuard {
            id: id.clone(),
            guard: Some(guard),
            locks: Arc::clone(&self.0),
        }
    }
}

#[derive(Debug)]
pub(crate) struct KeyedGuard {
    id: RunId,
    guard: Option<OwnedMutexGuard<()>>,
    locks: Arc<Mutex<HashMap<RunId, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Drop for KeyedGuard {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits holds a reference of its own, taken under this lock.
        if locks
            .get(&self.id)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_is_exclusive_by_id_and_leaves_nothing_behind() {
        let locks = KeyedLocks::default();
        let (a, b) = (RunId::new("a").unwrap(), RunId::new("b").unwrap());
        let first = locks.lock(&a).await;
        let _other = locks.lock(&b).await;
        let mut second = std::pin::pin!(locks.lock(&a));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }
}
