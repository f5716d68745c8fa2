//! Decoded objects: shared by all who read one at a time, and kept for those who read it next.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use keepstep_storage::BlobId;
use quick_cache::sync::{Cache as Kept, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use rustc_hash::FxHashMap;

/// Slots of objects that nobody has any more are looked for when there are this many.
const MANY_SLOTS: usize = 256;

type Shared = Arc<dyn Any + Send + Sync>;
/// One may be read as different types.
type Key = (BlobId, TypeId);
/// Locked while its object is decoded: who comes meanwhile waits, and shares it.
type Slot = Arc<tokio::sync::Mutex<Option<Weak<dyn Any + Send + Sync>>>>;

#[derive(Clone)]
struct Entry {
    object: Shared,
    bytes: u64,
    /// Whether it has references to other objects in it.
    is_nest: bool,
}

#[derive(Clone)]
struct ByLength;

impl Weighter<Key, Entry> for ByLength {
    fn weight(&self, _key: &Key, entry: &Entry) -> u64 {
        // What a small object takes beside its bytes.
        entry.bytes.max(64)
    }
}

/// How an object is kept once it is decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// How much it counts; `None` if it is not worth keeping.
    pub(super) bytes: Option<u64>,
    pub(super) is_nest: bool,
}

/// Decoded objects.
pub(super) struct Cache {
    slots: Mutex<(FxHashMap<Key, Slot>, usize)>,
    /// Those that stay although nobody has them.
    kept: Option<Kept<Key, Entry, ByLength>>,
    is_closed: AtomicBool,
}

impl Cache {
    /// Keeps so many bytes, counted as they are stored.
    pub(super) fn new(bytes: u64) -> Self {
        // One shard: a part of the cache holds no object that is larger than the part.
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(1024)
            .weight_capacity(bytes)
            .build();
        let kept = options.ok().filter(|_| bytes > 0).map(|options| {
            let hasher = DefaultHashBuilder::default();
            Kept::with_options(options, ByLength, hasher, DefaultLifecycle::default())
        });
        Self {
            slots: Mutex::new((FxHashMap::default(), MANY_SLOTS)),
            kept,
            is_closed: AtomicBool::new(false),
        }
    }

    /// An object, which `decode` gives if nobody has it. Of many who ask at once, one decodes.
    pub(super) async fn get<T: Send + Sync + 'static, E>(
        &self,
        blob: BlobId,
        keep: Keep,
        decode: impl Future<Output = Result<Arc<T>, E>>,
    ) -> Result<Arc<T>, E> {
        let key = (blob, TypeId::of::<T>());
        let slot = self.slot(key);
        let mut slot = slot.lock().await;
        let kept = self.kept.as_ref().and_then(|kept| kept.get(&key));
        let at_hand = kept.map(|entry| entry.object);
        let at_hand = at_hand.or_else(|| slot.as_ref().and_then(Weak::upgrade));
        if let Some(object) = at_hand.and_then(|object| object.downcast::<T>().ok()) {
            return Ok(object);
        }
        let object = decode.await?;
        let shared: Shared = object.clone();
        *slot = Some(Arc::downgrade(&shared));
        if let (Some(kept), Some(bytes)) = (&self.kept, keep.bytes)
            && !self.is_closed.load(Ordering::Relaxed)
        {
            let is_nest = keep.is_nest;
            let entry = Entry {
                object: shared,
                bytes,
                is_nest,
            };
            kept.insert(key, entry);
        }
        Ok(object)
    }

    /// Lets go of the objects that keep others from being swept.
    pub(super) fn forget_nests(&self) {
        if let Some(kept) = &self.kept {
            kept.retain(|_, entry| !entry.is_nest);
        }
    }

    /// Keeps nothing any more.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        if let Some(kept) = &self.kept {
            kept.clear();
        }
    }

    fn slot(&self, key: Key) -> Slot {
        let mut slots = self.slots();
        let (slots, many) = &mut *slots;
        if slots.len() >= *many {
            let is_dead = |slot: &Slot| match slot.try_lock() {
                Ok(object) => object
                    .as_ref()
                    .is_none_or(|object| object.strong_count() == 0),
                Err(_) => false,
            };
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || !is_dead(slot));
            *many = MANY_SLOTS.max(2 * slots.len());
        }
        Arc::clone(slots.entry(key).or_default())
    }

    fn slots(&self) -> MutexGuard<'_, (FxHashMap<Key, Slot>, usize)> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cache")
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn id(n: u64) -> BlobId {
        BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    async fn get(cache: &Cache, n: u64, bytes: u64, n_decoded: &Mutex<u32>) -> Arc<u64> {
        let keep = Keep {
            bytes: Some(bytes),
            is_nest: false,
        };
        let decode = async {
            tokio::task::yield_now().await;
            *n_decoded.lock().unwrap() += 1;
            Ok::<_, Infallible>(Arc::new(n))
        };
        cache.get(id(n), keep, decode).await.unwrap()
    }

    #[tokio::test]
    async fn readers_at_once_decode_once_also_what_is_too_large_to_be_kept() {
        for bytes in [10, 1_000_000] {
            let cache = Cache::new(1000);
            let n_decoded = Mutex::default();
            let one = || get(&cache, 1, bytes, &n_decoded);
            let (a, b, c) = tokio::join!(one(), one(), one());
            assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&b, &c));
            assert!(Arc::ptr_eq(&a, &one().await), "somebody has it");
            assert_eq!(*n_decoded.lock().unwrap(), 1);
            drop((a, b, c));
            one().await;
            let expected = if bytes == 10 { 1 } else { 2 };
            assert_eq!(*n_decoded.lock().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_and_what_was_let_go_leaves_nothing() {
        let cache = Cache::new(10_000);
        let n_decoded = Mutex::default();
        for n in 0..5000 {
            get(&cache, n, 1000, &n_decoded).await;
        }
        let kept = cache.kept.as_ref().unwrap();
        assert!(kept.weight() <= 10_000);
        assert!(cache.slots().0.len() <= 2 * MANY_SLOTS);
        cache.close();
        assert_eq!(kept.len(), 0);
        get(&cache, 1, 1000, &n_decoded).await;
        assert_eq!(kept.len(), 0);
    }
}
