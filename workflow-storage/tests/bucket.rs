//! A store whose blobs are in a bucket is a store.

#![cfg(all(feature = "conformance", feature = "object_store"))]

use std::sync::Arc;

use keepstep_storage::{Blobs, ObjectStoreBlobs, Storage, conformance, open_with_blobs};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

#[expect(clippy::unwrap_used, reason = "these are tests")]
async fn open(url: &str, bucket: Arc<dyn ObjectStore>) -> Arc<dyn Storage> {
    let blobs: Blobs = ObjectStoreBlobs::new(bucket, "some/prefix").into();
    open_with_blobs(url, blobs).await.unwrap()
}

conformance!(bucket_in_memory, volatile, || async {
    open("memory:", Arc::new(InMemory::new())).await
});

conformance!(local_bucket, {
    let dir = tempfile::tempdir().unwrap();
    move || {
        let url = format!("sled:{}", dir.path().join("store").display());
        let bucket = dir.path().join("bucket");
        std::fs::create_dir_all(&bucket).unwrap();
        async move {
            let bucket = LocalFileSystem::new_with_prefix(bucket).unwrap();
            open(&url, Arc::new(bucket)).await
        }
    }
});
