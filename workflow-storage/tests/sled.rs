//! sled is a store: the whole suite, each case in a directory of its own.

#![cfg(all(feature = "conformance", feature = "sled"))]

keepstep_storage::conformance!(sled, {
    let dir = tempfile::tempdir().unwrap();
    move || {
        let url = format!("sled:{}", dir.path().display());
        async move { keepstep_storage::open(&url).await.unwrap() }
    }
});
