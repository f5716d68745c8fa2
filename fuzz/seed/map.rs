//! A store in memory whose pairs can be looked at.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use keepstep::storage::{Op, OrderedMap, Result};

/// The pairs of a store, as they are stored.
pub type Pairs = BTreeMap<Vec<u8>, Bytes>;

#[derive(Debug, Clone, Default)]
pub struct Map(pub Arc<Mutex<Pairs>>);

impl OrderedMap for Map {
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
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    fn range(
        &self,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let pairs = self.0.lock().unwrap();
        let mut found: Vec<_> = pairs
            .iter()
            .filter(|(key, _)| {
                let key = &key[..];
                let after = match from {
                    Bound::Included(from) => key >= from,
                    Bound::Excluded(from) => key > from,
                    Bound::Unbounded => true,
                };
                after
                    && match to {
                        Bound::Included(to) => key <= to,
                        Bound::Excluded(to) => key < to,
                        Bound::Unbounded => true,
                    }
            })
            .collect();
        if reverse {
            found.reverse();
        }
        for (key, value) in found {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, ops: Vec<Op>) -> Result<()> {
        let mut pairs = self.0.lock().unwrap();
        for op in ops {
            match op {
                Op::Put(key, value) => drop(pairs.insert(key, value)),
                Op::Remove(key) => drop(pairs.remove(&key)),
            }
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
