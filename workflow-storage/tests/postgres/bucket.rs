//! Blobs in a bucket beside the database.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keepstep_storage::{
    Batch, Blobs, Epoch, ObjectStoreBlobs, Result, Storage, StorageError, open_with_blobs,
};
use object_store::local::LocalFileSystem;
use tokio::io::AsyncReadExt;

use crate::kit::{creation, delete};
use crate::server;

pub(crate) async fn open(url: &str, bucket: &Path, prefix: &str) -> Result<Arc<dyn Storage>> {
    let bucket = LocalFileSystem::new_with_prefix(bucket).unwrap();
    let blobs = ObjectStoreBlobs::new(Arc::new(bucket), prefix);
    open_with_blobs(url, blobs.into()).await
}

/// The files of a folder and those below.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

#[tokio::test]
async fn a_blob_is_one_object_whoever_stores_it_and_however_often() {
    let (url, dir) = (server::url(), tempfile::tempdir().unwrap());
    let a = open(&url, dir.path(), "blobs").await.unwrap();
    let b = open(&url, dir.path(), "blobs").await.unwrap();
    // Longer than what is uploaded at once.
    let bytes = bytes::Bytes::from(vec![7; 20 << 20]);
    let (mut first, mut second) = (&bytes[..], &bytes[..]);
    let (one, two, three) = tokio::join!(
        a.put_blob(bytes.clone()),
        b.put_blob_from(&mut first),
        a.put_blob_from(&mut second),
    );
    let id = one.unwrap();
    let len = bytes.len() as u64;
    assert_eq!((two.unwrap(), three.unwrap()), ((id, len), (id, len)));
    b.put_blob(bytes.clone()).await.unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    assert_eq!(b.blob(&id).await.unwrap(), bytes);
    assert_eq!(a.blob_len(&id).await.unwrap(), Some(len));
    let mut read = Vec::new();
    let mut reader = b.blob_reader(&id).await.unwrap();
    reader.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, bytes);
}

#[tokio::test]
async fn what_nobody_names_leaves_the_bucket_and_comes_back_as_another_object() {
    let (url, dir) = (server::url(), tempfile::tempdir().unwrap());
    let a = open(&url, dir.path(), "").await.unwrap();
    let b = open(&url, dir.path(), "").await.unwrap();
    let blob = a.put_blob("a blob".into()).await.unwrap();
    let mut write = creation("run");
    write.blobs = vec![blob];
    let batch = Batch {
        writes: vec![write],
        ..Batch::default()
    };
    a.commit(batch).await.unwrap();
    a.unpin_blob(&blob);
    b.maintain().await.unwrap();
    assert_eq!(b.blob(&blob).await.unwrap(), "a blob");

    let before = files(dir.path());
    let node = keepstep_storage::NodeId(1);
    delete(&*a, "run", Epoch::FIRST, node).await;
    let done = a.maintain().await.unwrap();
    assert_eq!((done.blobs_removed, done.bytes_freed), (1, 6));
    assert!(files(dir.path()).is_empty());
    assert!(b.blob(&blob).await.is_err());
    assert_eq!(b.put_blob("a blob".into()).await.unwrap(), blob);
    let after = files(dir.path());
    assert_eq!(after.len(), 1);
    assert_ne!(after, before);
    assert_eq!(a.blob(&blob).await.unwrap(), "a blob");
}

#[tokio::test]
async fn an_upload_that_was_cut_off_from_its_row_is_removed_after_a_day() {
    let (url, dir) = (server::url(), tempfile::tempdir().unwrap());
    let store = open(&url, dir.path(), "blobs").await.unwrap();
    let blob = store.put_blob("kept".into()).await.unwrap();
    let kept = files(dir.path());
    for (name, age) in [("old", 2), ("new", 0)] {
        let path = kept[0].with_file_name(name);
        let file = std::fs::File::create(path).unwrap();
        let days = Duration::from_secs(24 * 3600 * age);
        file.set_modified(SystemTime::now() - days).unwrap();
    }
    let old = SystemTime::now() - Duration::from_secs(48 * 3600);
    let file = std::fs::File::options()
        .append(true)
        .open(&kept[0])
        .unwrap();
    file.set_modified(old).unwrap();
    store.maintain().await.unwrap();
    let mut left = files(dir.path());
    left.sort();
    let mut expected = vec![kept[0].clone(), kept[0].with_file_name("new")];
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(store.blob(&blob).await.unwrap(), "kept");
}

#[tokio::test]
async fn a_damaged_object_is_an_error() {
    let (url, dir) = (server::url(), tempfile::tempdir().unwrap());
    let store = open(&url, dir.path(), "blobs").await.unwrap();
    let blob = store.put_blob("a blob".into()).await.unwrap();
    std::fs::write(&files(dir.path())[0], "a blot").unwrap();
    let error = store.blob(&blob).await.unwrap_err();
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
    let mut reader = store.blob_reader(&blob).await.unwrap();
    assert!(reader.read_to_end(&mut Vec::new()).await.is_err());
}

#[tokio::test]
async fn all_who_open_a_store_name_the_same_place() {
    let (url, dir) = (server::url(), tempfile::tempdir().unwrap());
    drop(open(&url, dir.path(), "blobs").await.unwrap());
    drop(open(&url, dir.path(), "blobs").await.unwrap());
    for other in [
        open(&url, dir.path(), "others").await,
        keepstep_storage::open(&url).await,
    ] {
        let error = other.unwrap_err().to_string();
        assert!(error.contains("a bucket under \"blobs\""), "{error}");
    }
    let url = server::url();
    for own in [
        Blobs::in_memory(),
        Blobs::in_directory(dir.path().join("own")).unwrap(),
    ] {
        let error = open_with_blobs(&url, own).await.unwrap_err().to_string();
        assert!(error.contains("or in a bucket"), "{error}");
    }
    drop(keepstep_storage::open(&url).await.unwrap());
    let error = open(&url, dir.path(), "").await.unwrap_err().to_string();
    assert!(error.contains("in the database"), "{error}");
}
