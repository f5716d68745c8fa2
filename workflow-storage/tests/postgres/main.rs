//! PostgreSQL is a store: the whole suite, each case in a schema of its own, and what a shared store does besides.

#![cfg(all(unix, feature = "conformance", feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "these are tests")]

#[cfg(feature = "object_store")]
mod bucket;
mod deadlocks;
mod failover;
mod kit;
#[path = "../server/line.rs"]
mod line;
mod lost;
mod pins;
#[path = "../server/mod.rs"]
mod server;
mod shared;
mod silent;
mod tasks;
mod tls;
mod wire;

keepstep_storage::conformance!(postgres, {
    let url = server::url();
    move || {
        let url = url.clone();
        async move { keepstep_storage::open(&url).await.unwrap() }
    }
});

#[cfg(feature = "object_store")]
keepstep_storage::conformance!(postgres_and_bucket, {
    let (url, dir) = (server::url(), tempfile::tempdir().unwrap());
    move || {
        let (url, bucket) = (url.clone(), dir.path().to_owned());
        async move { bucket::open(&url, &bucket, "some/prefix").await.unwrap() }
    }
});
