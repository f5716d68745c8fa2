//! Locks by workflow id.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keepstep_storage::RunId;
use tokio::sync::OwnedMutexGuard;

/// One lock for each id that is in use.
#[derive(Debug, Default)]
pub(crate) struct KeyedLocks(Arc<Mutex<Locks>>);

#[derive(Debug, Default)]
struct Locks {
    by_id: HashMap<RunId, Arc<tokio::sync::Mutex<()>>>,
    /// The ids whose locks were asked for since the watch began, if there is one.
    asked_for: Option<HashSet<RunId>>,
}

impl KeyedLocks {
    /// Waits until nobody else holds the lock of this id.
    pub(crate) async fn lock(&self, id: &RunId) -> KeyedGuard {
        let lock = {
            let mut locks = locks(&self.0);
            if let Some(asked_for) = &mut locks.asked_for {
                asked_for.insert(id.clone());
            }
            Arc::clone(locks.by_id.entry(id.clone()).or_default())
        };
        self.wait(id, lock).await
    }

    /// The lock of this id, if nobody else holds it or waits for it.
    pub(super) fn try_lock(&self, id: &RunId) -> Option<KeyedGuard> {
        let mut locks = locks(&self.0);
        if locks.by_id.contains_key(id) {
            return None;
        }
        if let Some(asked_for) = &mut locks.asked_for {
            asked_for.insert(id.clone());
        }
        let lock = Arc::clone(locks.by_id.entry(id.clone()).or_default());
        Some(KeyedGuard {
            id: id.clone(),
            guard: Some(lock.try_lock_owned().ok()?),
            locks: Arc::clone(&self.0),
        })
    }

    async fn wait(&self, id: &RunId, lock: Arc<tokio::sync::Mutex<()>>) -> KeyedGuard {
        KeyedGuard {
            id: id.clone(),
            guard: Some(lock.lock_owned().await),
            locks: Arc::clone(&self.0),
        }
    }

    /// Notes from here on whose locks are asked for; what is locked now counts. A watch that goes on goes on.
    pub(super) fn watch(&self) {
        let mut locks = locks(&self.0);
        if locks.asked_for.is_none() {
            locks.asked_for = Some(locks.by_id.keys().cloned().collect());
        }
    }

    /// Ends the watch.
    pub(super) fn unwatch(&self) {
        locks(&self.0).asked_for = None;
    }

    /// As [`lock`](Self::lock), and whether nobody else has asked for it since the watch began.
    pub(super) async fn lock_first(&self, id: &RunId) -> (KeyedGuard, bool) {
        let (lock, is_first) = {
            let mut locks = locks(&self.0);
            let asked_for = &locks.asked_for;
            let is_first = asked_for.as_ref().is_some_and(|ids| !ids.contains(id));
            let lock = Arc::clone(locks.by_id.entry(id.clone()).or_default());
            (lock, is_first)
        };
        (self.wait(id, lock).await, is_first)
    }
}

fn locks(locks: &Mutex<Locks>) -> MutexGuard<'_, Locks> {
    locks.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(crate) struct KeyedGuard {
    id: RunId,
    guard: Option<OwnedMutexGuard<()>>,
    locks: Arc<Mutex<Locks>>,
}

impl Drop for KeyedGuard {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = locks(&self.locks);
        // Whoever waits holds a reference of its own, taken under this lock.
        if locks
            .by_id
            .get(&self.id)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.by_id.remove(&self.id);
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
        assert_eq!(super::locks(&locks.0).by_id.len(), 1);
        assert!(locks.try_lock(&b).is_none());
        let third = locks.try_lock(&a).unwrap();
        assert!(locks.try_lock(&a).is_none());
        assert!(futures_util::poll!(std::pin::pin!(locks.lock(&a))).is_pending());
        drop(third);
        assert!(locks.try_lock(&a).is_some());
        assert_eq!(super::locks(&locks.0).by_id.len(), 1);
    }

    #[tokio::test]
    async fn a_watch_tells_who_is_first() {
        let locks = KeyedLocks::default();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|id| RunId::new(id).unwrap());
        drop(locks.lock(&a).await);
        let held = locks.lock(&b).await;
        locks.watch();
        drop(locks.lock(&c).await);
        locks.watch();
        drop(held);
        for (id, expected) in [(&a, true), (&b, false), (&c, false), (&d, true)] {
            let (_lock, is_first) = locks.lock_first(id).await;
            assert_eq!(is_first, expected, "{id}");
        }
        locks.unwatch();
        locks.watch();
        assert!(locks.lock_first(&c).await.1);
    }
}
