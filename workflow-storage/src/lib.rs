//! Storage for [keepstep](https://docs.rs/keepstep): one trait, [`Storage`], and the stores that implement it.
//!
//! Who only runs workflows needs nothing of this crate: an engine opens its store from a URL. Read on to look into a
//! store, to test against one, or to write a backend.
//!
//! # Opening
//!
//! [`open`] takes a path or a URL: `data`, `sled:data`, `redb:data`, `fjall:data`, `memory:`, or
//! `postgres://user@host/database`. A directory is locked while it is open. [`memory()`] is the store without a disk: it needs no threads, so tests and simulations can drive it.
//!
//! # What a store holds
//!
//! A store knows runs, not steps. Of each run it has
//!
//! - a [`RunRecord`]: status, owner, epoch, times and counts. Listings, statuses and claims read nothing else;
//! - a journal: numbered entries of bytes, appended at the end and truncated at the beginning;
//! - values beside the journal, by [`ValueKey`]: the output, the error, outputs of named steps;
//! - an inbox: [messages](Send) by anybody, in order of arrival, each key once;
//! - references to blobs, which are large bytes under the address of their content.
//!
//! # Writing
//!
//! Everything is written by one call, [`Storage::commit`], which makes a [`Batch`] durable: atomically, for many runs at
//! once. A write to a run names the [`Epoch`] its owner got from [`Storage::claim`]; when the run has another owner since,
//! that write is refused, and the others are not.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use keepstep_storage::{
//!     Batch, Build, Epoch, Expect, NodeId, Position, RunId, RunKind, RunRecord, RunWrite, StepCounts, StoredStatus,
//!     Timestamp, WriteOutcome, memory,
//! };
//!
//! let store = memory();
//! let run = RunId::new("order/17").unwrap();
//! let record = RunRecord {
//!     kind: RunKind::Workflow,
//!     status: StoredStatus::Running,
//!     owner: Some(NodeId(1)),
//!     epoch: Epoch::FIRST,
//!     incarnation: 1,
//!     workflow: "ship".to_owned(),
//!     plan_hash: [0; 32],
//!     created_at: Timestamp(1_700_000_000_000_000),
//!     started_at: None,
//!     ended_at: None,
//!     wake_at: None,
//!     first_entry: Position(0),
//!     next_entry: Position(1),
//!     journal_bytes: 7,
//!     steps: StepCounts::default(),
//!     parent: None,
//!     build: Build::default(),
//!     n_orphaned: 0,
//! };
//! let write = RunWrite {
//!     run: run.clone(),
//!     expect: Expect::New,
//!     record,
//!     entry: Some("created".into()),
//!     truncate: false,
//!     values: vec![],
//!     blobs: vec![],
//!     consumed: vec![],
//!     only_with: None,
//! };
//! let done = store.commit(Batch { writes: vec![write], ..Batch::default() }).await?;
//! assert_eq!(done.writes, [WriteOutcome::Written]);
//!
//! let journal = store.journal(&run, Position(0), 1 << 20).await?;
//! assert_eq!(journal[0].bytes, "created");
//! # Ok::<(), keepstep_storage::StorageError>(())
//! # }).unwrap();
//! ```
//!
//! # Backends
//!
//! | backend | feature | choose it |
//! | --- | --- | --- |
//! | sled | `sled`, on by default | for the least latency of single commits without another thought |
//! | redb | `redb` | when damage to the disk must be noticed above all |
//! | fjall | `fjall` | for many writes |
//! | PostgreSQL | `postgres` | for several processes, on several machines |
//! | memory | | for tests |
//!
//! A backend of your own implements [`OrderedMap`], an ordered map with atomic and durable batches, and an [`Adapter`]
//! makes a store of it; or it implements [`Storage`] itself, when it can do more than that. Either way the suite in
//! `conformance` (a feature) says whether it is right, and [`fault`] breaks any store on purpose.
//!
//! The file `FORMAT.md` of this crate has every byte of an embedded store.

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
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod id;
mod memory;
mod open;
mod ordered;
#[cfg(any(feature = "sled", feature = "redb", feature = "fjall"))]
mod poison;
#[cfg(feature = "postgres")]
mod postgres;
mod record;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "sled")]
mod sled;
mod storage;
mod task;

pub use adapter::Adapter;
pub use batch::{
    Batch, Committed, DeleteOutcome, Expect, JournalEntry, Message, MessageId, ReadRun, RunDelete,
    RunWrite, Send, SendOutcome, ValueKey, WriteOutcome,
};
pub use blobs::Blobs;
#[cfg(feature = "object_store")]
pub use blobs::ObjectStoreBlobs;
pub use error::{Result, StorageError};
pub use id::{Epoch, InvalidRunId, MAX_RUN_ID_BYTES, NodeId, Position, RunId, Timestamp};
pub use memory::memory;
/// The crate whose stores [`ObjectStoreBlobs`] takes, in the version that it takes.
#[cfg(feature = "object_store")]
pub use object_store;
pub use open::{open, open_with_blobs};
pub use ordered::{Op, OrderedMap};
pub use record::{
    Build, ListedRun, Parent, RunCursor, RunKind, RunPage, RunQuery, RunRecord, StepCounts,
    StoredStatus,
};
pub use storage::{BlobReader, Description, Durability, Maintained, Notice, Storage};
pub use task::{
    FinishOutcome, Held, Limit, LocalTasks, MAX_POOL_BYTES, Offer, Offered, Removal, Task, TaskId,
    TaskQueue, TaskResult, Wanted,
};

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
