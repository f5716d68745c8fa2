//! Bodies that are cut short, that block or that hang, and the runtimes that end under them.

#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/mod.rs"]
mod common;

mod ends;
mod gone;
mod interruptions;
mod poisoned;
mod threads;

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// A runtime as `#[tokio::main]` makes it, with few threads.
fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// What is to happen soon, and would not at all if it hung.
async fn soon<F: IntoFuture>(what: F) -> F::Output {
    let soon = tokio::time::timeout(Duration::from_secs(60), what.into_future());
    soon.await.expect("it does not happen")
}
