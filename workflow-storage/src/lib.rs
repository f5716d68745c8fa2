//! Storage for [keepstep](https://docs.rs/keepstep): one trait, [`Storage`], and the stores that implement it.

#![allow(
    clippy::type_complexity,
    reason = "it counts a closure over the bytes of a pair as complex"
)]

mod adapter;
mod batch;
mod blobs;
#[cfg(feature = "conformance")]
pub mod conformance;
mod directory;
mod error;
pub mod fault;
#[cfg(feature = "fjall")]
mod fjall;
mod id;
mod memory;
mod open;
mod ordered;
mod record;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "sled")]
mod sled;
mod storage;

pub use adapter::Adapter;
pub use batch::{
    Batch, Committed, Expect, JournalEntry, Message, MessageId, RunWrite, Send, SendOutcome,
    ValueKey, WriteOutcome,
};
pub use blobs::Blobs;
pub use error::{Result, StorageError};
pub use id::{Epoch, InvalidRunId, MAX_RUN_ID_BYTES, NodeId, Position, RunId, Timestamp};
pub use memory::memory;
pub use open::open;
pub use ordered::{Op, OrderedMap};
pub use record::{ListedRun, RunCursor, RunPage, RunQuery, RunRecord, StepCounts, StoredStatus};
pub use storage::{Description, Durability, Maintained, Storage};

/// The address of a blob: the BLAKE3 hash of its bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct BlobId(pub [u8; 32]);

impl std::fmt::Display for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
