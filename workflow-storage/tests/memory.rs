//! The store in memory is a store, and so are the wrappers of a store as long as they have nothing to do.

#![cfg(feature = "conformance")]

use std::sync::Arc;

use keepstep_storage::fault::{Faulty, Recorded};
use keepstep_storage::{Storage, conformance, memory};

conformance!(memory_store, volatile, || async { memory() });

conformance!(faulty, volatile, || async {
    Arc::new(Faulty::new(memory())) as Arc<dyn Storage>
});

conformance!(recorded, volatile, || async {
    Arc::new(Recorded::new(memory())) as Arc<dyn Storage>
});
