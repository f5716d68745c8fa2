//! Storage that goes wrong on demand, for tests of everything that stands on a [`Storage`](crate::Storage).
//!
//! [`Faulty`] wraps a store, counts the calls and, at the ones a test names, fails them, does them halfway, holds them
//! up or never answers. There is no clock and no chance in it: the same calls meet the same faults.
//!
//! [`Recorded`] wraps a store and remembers what was written, so that a test can build the store that a crash after
//! the n-th write would have left, for every n.
//!
//! ```
//! # use std::sync::Arc;
//! # use keepstep_storage::fault::{Call, Effect, Fault, Faulty};
//! # use keepstep_storage::{Batch, Storage, memory};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let store = Faulty::new(memory());
//! store.inject(Fault::at(Call::Commit, 2, Effect::Fail));
//!
//! assert!(store.commit(Batch::default()).await.is_ok());
//! assert!(store.commit(Batch::default()).await.is_err());
//! assert!(store.commit(Batch::default()).await.is_ok());
//! assert_eq!(store.calls(Call::Commit), 3);
//! # }
//! ```

mod faulty;
mod plan;
mod recorded;
mod tasks;

pub use faulty::Faulty;
pub use plan::{Call, Effect, Fault, On};
pub use recorded::{Mutation, Recorded, replay};
