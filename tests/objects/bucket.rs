//! An engine whose large values are in a bucket.

use std::sync::Arc;

use keepstep::Bytes;
use keepstep::prelude::*;
use keepstep::storage::{ObjectStoreBlobs, StorageError, memory};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use tokio::io::AsyncReadExt;

#[step]
async fn load(n: usize) -> keepstep::Result<Vec<ObjectRef<Bytes>>> {
    let whole = put(&Bytes::from(vec![1; n])).await?;
    // More than one part of an upload.
    let streamed = keepstep::put_reader(tokio::io::repeat(2).take(20 << 20)).await?;
    Ok(vec![whole, streamed])
}

/// A result that is long, and goes to the bucket by itself.
#[step]
async fn joined(objects: Vec<ObjectRef<Bytes>>) -> anyhow::Result<Vec<u8>> {
    let mut joined = objects[0].get().await?.to_vec();
    let reader = objects[1].reader().await?;
    reader.take(10).read_to_end(&mut joined).await?;
    Ok(joined)
}

async fn blobs_in(bucket: &dyn ObjectStore) -> usize {
    let listed = bucket.list_with_delimiter(Some(&Path::from("runs"))).await;
    let mut n = 0;
    for directory in listed.unwrap().common_prefixes {
        let listed = bucket.list_with_delimiter(Some(&directory)).await.unwrap();
        n += listed.objects.len();
    }
    n
}

async fn goes_round(url: &str, bucket: Arc<dyn ObjectStore>) -> keepstep::Result<()> {
    let open = || {
        let blobs = ObjectStoreBlobs::new(Arc::clone(&bucket), "runs");
        Engine::builder().object_cache(0).blobs(blobs).open(url)
    };
    let other = Path::from("other/object");
    bucket.put(&other, "not ours".into()).await.unwrap();
    let engine = open().await?;
    let output = engine
        .run("run", joined(load(100_000).name("load")))
        .await?;
    assert_eq!((output.len(), blobs_in(&*bucket).await), (100_010, 3));
    engine.put(&"garbage".to_owned()).await?;
    engine.shutdown().await?;
    if url == "memory:" {
        return Ok(());
    }

    let engine = open().await?;
    assert_eq!(engine.maintain().await?.blobs_removed, 1);
    assert_eq!(engine.output::<Vec<u8>>("run").await?, output);
    let objects: Vec<ObjectRef<Bytes>> = engine.step_output("run", "load").await?;
    assert_eq!(objects[1].get().await?.len(), 20 << 20);
    assert_eq!(
        engine
            .run("again", joined(Workflow::value(objects)))
            .await?,
        output
    );
    engine.delete("run").await?;
    assert_eq!(engine.maintain().await?.blobs_removed, 0);
    // What is damaged, and what is gone, is an error that names it.
    let objects = engine.run("objects", load(100_000)).await?;
    let address = objects[0].address().unwrap().to_string();
    let path = Path::from(format!("runs/{}/{}", &address[..2], &address[2..]));
    bucket.put(&path, vec![3; 100_000].into()).await.unwrap();
    let damaged = objects[0].get().await.unwrap_err();
    assert!(matches!(
        &damaged,
        Error::Storage(StorageError::Corrupt { .. })
    ));
    assert!(damaged.to_string().contains(&address));
    bucket.delete(&path).await.unwrap();
    let gone = objects[0].get().await.unwrap_err().to_string();
    assert!(gone.contains("is missing"), "{gone}");
    for run in ["again", "objects"] {
        engine.delete(run).await?;
    }
    drop(objects);
    engine.maintain().await?;
    assert_eq!(blobs_in(&*bucket).await, 0);
    assert!(bucket.head(&other).await.is_ok());
    engine.shutdown().await
}

#[tokio::test]
async fn a_bucket_in_memory_has_the_objects() -> keepstep::Result<()> {
    goes_round("memory:", Arc::new(InMemory::new())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_has_the_objects_of_a_store_on_disk() -> keepstep::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().join("store");
    let bucket = dir.path().join("bucket");
    std::fs::create_dir(&bucket).unwrap();
    let bucket = LocalFileSystem::new_with_prefix(bucket).unwrap();
    goes_round(url.to_str().unwrap(), Arc::new(bucket)).await
}

#[tokio::test]
async fn a_store_that_is_open_takes_no_other_place() {
    let blobs = ObjectStoreBlobs::new(Arc::new(InMemory::new()), "");
    let refused = Engine::builder()
        .blobs(blobs)
        .storage(memory())
        .build()
        .await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("open_with_blobs"), "{error}");
}
