//! redb is a store: the whole suite, each case in a directory of its own.

#![cfg(all(feature = "conformance", feature = "redb"))]

keepstep_storage::conformance!(redb, {
    let dir = tempfile::tempdir().unwrap();
    move || {
        let url = format!("redb:{}", dir.path().display());
        async move { keepstep_storage::open(&url).await.unwrap() }
    }
});
