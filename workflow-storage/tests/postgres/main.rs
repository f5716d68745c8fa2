//! PostgreSQL is a store: the whole suite, each case in a schema of its own, and what a shared store does besides.

#![cfg(all(unix, feature = "conformance", feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;
mod lost;
#[path = "../server/mod.rs"]
mod server;
mod shared;
mod tasks;

keepstep_storage::conformance!(postgres, {
    let url = server::url();
    move || {
        let url = url.clone();
        async move { keepstep_storage::open(&url).await.unwrap() }
    }
});
