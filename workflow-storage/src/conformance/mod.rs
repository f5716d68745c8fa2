//! The suite that every backend must pass, exported for whoever writes one.
//!
//! [`conformance!`](crate::conformance!) turns it into tests of a store, one a case. Each gets a store of its own, opened by an
//! [`Opener`], of which an async closure is the shortest:
//!
//! ```
//! # use std::sync::Arc;
//! # use keepstep_storage::memory;
//! keepstep_storage::conformance!(memory, volatile, || async {
//!     memory()
//! });
//!
//! # fn main() {}
//! ```
//!
//! For a store that outlives its closing the word `volatile` is left out, and the closure, called again after the
//! store was closed or dropped, must open the same store: give it a directory of its own.
//!
//! The cases are also plain functions, by theme, for test harnesses of another kind. They panic where the store is
//! wrong. [`ordered::ordered_map`] checks the smaller thing, an [`OrderedMap`](crate::OrderedMap).

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these are tests: a panic is how they fail"
)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::Storage;

pub mod blobs;
pub mod claims;
pub mod commit;
pub mod concurrency;
pub mod delete;
pub mod epochs;
pub mod inbox;
pub mod journal;
pub mod kinds;
mod kit;
pub mod list;
mod macros;
pub mod maintain;
pub mod ordered;
pub mod reopen;
pub mod tasks;
pub mod timers;
pub mod values;

/// Opens the store of one case.
#[async_trait]
pub trait Opener: Send + Sync {
    /// The first time: an empty store that no other case has. Later, after the store was closed or dropped: the same
    /// store again.
    async fn open(&self) -> Arc<dyn Storage>;
}

#[async_trait]
impl<F, O> Opener for F
where
    F: Fn() -> O + Send + Sync,
    O: Future<Output = Arc<dyn Storage>> + Send,
{
    async fn open(&self) -> Arc<dyn Storage> {
        self().await
    }
}

/// Runs a case; one that does not end is one that fails.
#[doc(hidden)]
pub async fn run(case: impl Future<Output = ()>) {
    let patience = Duration::from_secs(120);
    let ended = tokio::time::timeout(patience, case).await;
    assert!(ended.is_ok(), "the case did not end within {patience:?}");
}
