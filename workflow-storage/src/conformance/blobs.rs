//! Blobs are found by their content, and stay as long as a run refers to them.

use super::kit::*;
use crate::{BlobId, Storage, StorageError};

async fn put(store: &dyn Storage, size: usize, seed: u64) -> BlobId {
    store.put_blob(noise(size, seed)).await.unwrap()
}

async fn is_there(store: &dyn Storage, id: &BlobId) -> bool {
    match store.blob(id).await {
        Ok(bytes) => {
            assert_eq!(blake3::hash(&bytes), id.0, "the blob is not its address's");
            true
        }
        Err(StorageError::Corrupt { .. }) => false,
        Err(other) => panic!("a missing blob is Corrupt, not {other:?}"),
    }
}

/// From nothing to a megabyte.
pub async fn blobs_of_all_sizes_come_back(stores: Stores<'_>) {
    let store = stores.open().await;
    let mut ids = Vec::new();
    for size in SIZES {
        ids.push(put(&*store, size, 5).await);
    }
    for (id, size) in ids.iter().zip(SIZES) {
        let read = store.blob(id).await.unwrap();
        assert!(read == noise(size, 5), "blob of {size} bytes");
    }
}

/// The address is the BLAKE3 hash; the same bytes are the same blob.
pub async fn a_blob_is_addressed_by_its_content(stores: Stores<'_>) {
    let store = stores.open().await;
    let one = put(&*store, 5_000, 1).await;
    assert_eq!(one, BlobId(*blake3::hash(&noise(5_000, 1)).as_bytes()));
    assert_eq!(put(&*store, 5_000, 1).await, one);
    assert_ne!(put(&*store, 5_000, 2).await, one);
    assert!(store.blob(&one).await.unwrap() == noise(5_000, 1));
}

/// Somebody who reads a blob was told that it is there: if it is not, something was lost.
pub async fn a_missing_blob_is_an_error(stores: Stores<'_>) {
    let store = stores.open().await;
    put(&*store, 10, 1).await;
    assert!(!is_there(&*store, &BlobId([9; 32])).await);
}

/// Maintenance leaves what any run refers to, also if the reference came long after the blob or twice.
pub async fn a_blob_stays_while_a_run_refers_to_it(stores: Stores<'_>) {
    let store = stores.open().await;
    let (shared, second) = (put(&*store, 100_000, 1).await, put(&*store, 0, 2).await);
    let a = Owned::new("a").create(&*store).await;
    let ab = Owned::new("ab").create(&*store).await;
    write(&*store, a.refer(&[shared])).await;
    write(&*store, a.refer(&[shared, second, shared])).await;
    write(&*store, ab.refer(&[shared])).await;
    store.maintain().await.unwrap();
    assert!(is_there(&*store, &shared).await && is_there(&*store, &second).await);

    assert!(store.delete(&a.run, a.record.epoch).await.unwrap());
    store.maintain().await.unwrap();
    assert!(is_there(&*store, &shared).await);
}

/// When the last run that refers to a blob is deleted, maintenance removes it, and says so.
pub async fn a_blob_goes_with_its_last_run(stores: Stores<'_>) {
    let store = stores.open().await;
    let gone = put(&*store, 100_000, 1).await;
    let kept = put(&*store, 100_000, 2).await;
    let [a, b, c] = ["a", "b", "c"].map(Owned::new);
    for (run, blobs) in [(&a, vec![gone]), (&b, vec![gone]), (&c, vec![kept])] {
        run.clone().create(&*store).await;
        write(&*store, run.refer(&blobs)).await;
    }
    for run in [&a, &b] {
        assert!(store.delete(&run.run, run.record.epoch).await.unwrap());
    }
    let maintained = store.maintain().await.unwrap();
    assert_eq!(maintained.blobs_removed, 1);
    assert!(!is_there(&*store, &gone).await);
    assert!(is_there(&*store, &kept).await);
    assert_eq!(store.maintain().await.unwrap().blobs_removed, 0);
}

/// A blob that was removed can be stored again, and stays then.
pub async fn a_blob_may_come_back(stores: Stores<'_>) {
    let store = stores.open().await;
    for _ in 0..2 {
        let blob = put(&*store, 10_000, 1).await;
        let run = Owned::new("a").create(&*store).await;
        write(&*store, run.refer(&[blob])).await;
        store.maintain().await.unwrap();
        assert!(is_there(&*store, &blob).await);
        assert!(store.delete(&run.run, run.record.epoch).await.unwrap());
        store.maintain().await.unwrap();
        assert!(!is_there(&*store, &blob).await);
    }
}

/// Maintenance between storing a blob and the commit that refers to it does not take it away: neither a new one nor one
/// that was waiting to be removed when it was stored again.
pub async fn a_fresh_blob_survives_maintenance(stores: Stores<'_>) {
    let store = stores.open().await;
    let old = put(&*store, 10_000, 1).await;
    let former = Owned::new("former").create(&*store).await;
    write(&*store, former.refer(&[old])).await;
    let deleted = store.delete(&former.run, former.record.epoch).await;
    assert!(deleted.unwrap());

    let fresh = put(&*store, 10_000, 2).await;
    assert_eq!(put(&*store, 10_000, 1).await, old);
    store.maintain().await.unwrap();
    let run = Owned::new("a").create(&*store).await;
    write(&*store, run.refer(&[fresh, old])).await;
    store.maintain().await.unwrap();
    assert!(is_there(&*store, &fresh).await, "the new blob is gone");
    assert!(
        is_there(&*store, &old).await,
        "the stored-again blob is gone"
    );
}
