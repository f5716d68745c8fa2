//! PostgreSQL is a store: the whole suite, each case in a schema of its own.

#![cfg(all(unix, feature = "conformance", feature = "postgres"))]

#[path = "../server/mod.rs"]
mod server;

keepstep_storage::conformance!(postgres, {
    let url = server::url();
    move || {
        let url = url.clone();
        async move { keepstep_storage::open(&url).await.unwrap() }
    }
});
