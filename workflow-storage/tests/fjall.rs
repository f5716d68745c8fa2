//! fjall is a store: the whole suite, each case in a directory of its own.

#![cfg(all(feature = "conformance", feature = "fjall"))]

keepstep_storage::conformance!(fjall, {
    let dir = tempfile::tempdir().unwrap();
    move || {
        let url = format!("fjall:{}", dir.path().display());
        async move { keepstep_storage::open(&url).await.unwrap() }
    }
});
