//! What an embedded store has to offer: an ordered key-value map with atomic, synced batches. an adapter makes a
//! [`Storage`](crate::Storage) of it.

use std::fmt::Debug;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::Result;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Vec<u8>, Bytes),
    /// Removes a key, which need not exist.
    Remove(Vec<u8>),
}

/// An ordered map of bytes. All calls block, and may come from several threads at once; `apply` from one at a time.
///
/// To be correct:
/// - `apply` is atomic, and durable when it returns;
/// - a read that starts after an `apply` returned sees it;
/// - keys are ordered as bytes are;
/// - damage and failures are errors, never panics.
pub trait OrderedMap: Debug + Send + Sync + 'static {
    /// The backend's name, as in a storage URL.
    fn backend(&self) -> &'static str;

    /// The longest value `apply` takes; the adapter cuts longer ones.
    fn max_value_bytes(&self) -> usize;

    /// Whether calls may wait for a disk, so that async callers go through a thread that may block.
    fn blocks(&self) -> bool;

    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// Shows the pairs of a range to `visit`, in order of keys or in reverse, until it breaks.
    fn range(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()>;

    /// Does all of the changes, in order, or none.
    fn apply(&self, ops: Vec<Op>) -> Result<()>;

    /// Wins back space; returns how many bytes.
    fn compact(&self) -> Result<u64>;

    /// Lets go of files. Later calls fail.
    fn close(&self) -> Result<()>;
}
